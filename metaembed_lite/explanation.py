"""Explains a score: which vectors matched, how much each added, and where its meta token looked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from metaembed_lite import items
from metaembed_lite.budget import Budget, BudgetLike, as_budget
from metaembed_lite.interpretability import image_attention
from metaembed_lite.meta_tokens import MetaTokenTransformer
from metaembed_lite.scoring import as_embeddings, at_least_float32, maxsim

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sentence_transformers import MultiVectorEncoder


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a candidate has its score for a query.

    Attributes:
        query, candidate: the items.
        budget: the budget of the score.
        score: the MaxSim score. The sum of ``matches.adds``.
        similarities: (r_q, r_c), each query vector with each candidate vector.
        matches: one row per query vector, from ``match_vectors``. With an image, ``row`` and
            ``column`` are the place on the grid of ``attention`` where the matched meta token looks
            most.
        attention: (r_c, height, width), where each candidate meta token looks in the image. None
            without an image, and for models whose attention ``image_attention`` cannot read.

    Example:
        >>> from metaembed_lite import load
        >>> explanation = explain(load("tiny", device="cpu"), "violin", "violin, red apple", "2x4")
        >>> explanation.matches.columns.tolist()
        ['query_vector', 'candidate_vector', 'adds']
    """

    query: Any
    candidate: Any
    budget: Budget
    score: float
    similarities: Tensor
    matches: pd.DataFrame
    attention: Tensor | None

    def plot(self) -> Figure:
        """The matches as a figure. Vectors are numbered from 1, as in the other figures.

        With an image, it shows one copy per query vector, overlaid with the attention of the
        candidate meta token that it matched. Otherwise it shows the similarities with the candidate
        vectors that were matched.
        """
        from metaembed_lite.plots import plot_alignment, show_attention  # takes a second

        matched = self.matches.candidate_vector
        if self.attention is not None:
            titles = [
                f"q{match.query_vector + 1} → c{match.candidate_vector + 1}: {match.adds:.2f}"
                for match in self.matches.itertuples()
            ]
            image = items.read(self.candidate)["image"]
            return show_attention(image, self.attention[matched.to_list()], titles=titles)
        columns = sorted(set(matched))
        return plot_alignment(
            self.similarities[:, columns],
            [f"q{i + 1}" for i in self.matches.query_vector],
            [f"c{j + 1}" for j in columns],
            [columns.index(j) for j in matched],
            title=f"MaxSim at {self.budget}: {self.score:.2f}",
        )


def explain(
    model: MultiVectorEncoder, query: Any, candidate: Any, budget: BudgetLike | None = None
) -> Explanation:
    """Explain the score of one query and one candidate.

    Args:
        model: from ``build`` or ``load``, with or without meta tokens.
        query: a text, an image, or a dict with both.
        candidate: likewise.
        budget: the first vectors to compare, such as "4x8". Defaults to all vectors.

    Raises:
        ValueError: if an item cannot be read, or the budget needs more vectors than there are.

    Example:
        >>> from metaembed_lite import load
        >>> explanation = explain(load("tiny", device="cpu"), "violin", "violin, red apple")
        >>> parts = explanation.matches.adds.tolist()
        >>> len(parts), round(sum(parts) / explanation.score, 4)
        (8, 1.0)
    """
    for item in (query, candidate):
        items.check(item)  # a list would be encoded as several items
    vectors = [
        as_embeddings([encode(item, show_progress_bar=False)]).cpu()
        for encode, item in ((model.encode_query, query), (model.encode_document, candidate))
    ]
    numbers = [side.shape[1] for side in vectors]
    chosen = Budget(*numbers) if budget is None else as_budget(budget).check(*numbers)
    query_vectors, candidate_vectors = vectors[0][0, : chosen.r_q], vectors[1][0, : chosen.r_c]
    similarities, matches = match_vectors(query_vectors, candidate_vectors)
    attention = _read_attention(model, candidate)
    if attention is not None:
        attention = attention[: chosen.r_c]
        matches = matches.assign(**_find_peaks(attention[matches.candidate_vector.to_list()]))
    score = maxsim(vectors[0], vectors[1], chosen).item()
    return Explanation(query, candidate, chosen, score, similarities, matches, attention)


def match_vectors(query: Tensor, candidate: Tensor) -> tuple[Tensor, pd.DataFrame]:
    """Match each vector of a query with the most similar vector of a candidate, as MaxSim does.

    Args:
        query: (r_q, D).
        candidate: (r_c, D).

    Returns:
        The similarities (r_q, r_c), and a DataFrame with one row per query vector: the indices
        ``query_vector`` and ``candidate_vector``, and what the pair ``adds`` to the score. Of equal
        similarities, the first is matched.

    Example:
        >>> import torch
        >>> query, candidate = torch.eye(2), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
        >>> similarities, matches = match_vectors(query, candidate)
        >>> matches.round(2)
           query_vector  candidate_vector  adds
        0             0                 1   0.6
        1             1                 0   1.0
    """
    similarities = at_least_float32(query) @ at_least_float32(candidate).T  # (r_q, r_c)
    best = similarities.max(dim=1)
    matches = pd.DataFrame(
        {
            "query_vector": range(len(query)),
            "candidate_vector": best.indices.tolist(),
            "adds": best.values.tolist(),
        }
    )
    return similarities, matches


def _read_attention(model: MultiVectorEncoder, candidate: Any) -> Tensor | None:
    parts = items.read(candidate)
    if "image" not in parts or not isinstance(model[0], MetaTokenTransformer):
        return None
    try:
        return image_attention(model, parts)
    except ValueError:  # a backbone that does not read images as tokens has no such maps
        return None


def _find_peaks(maps: Tensor) -> dict[str, list[int]]:
    """The place of the largest weight in each map (n, height, width)."""
    places = maps.flatten(1).argmax(dim=1)
    width = maps.shape[2]
    return {"row": (places // width).tolist(), "column": (places % width).tolist()}
