"""Ideas for training MetaEmbed: three losses, and two ways to set the meta tokens' start values.

Each loss is MMR with one change. Until nesting starts (``full_only``), only the largest budget
trains, as in MMR. ``start_from_rows`` and ``start_with_offsets`` change a model before training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import MultiVectorEncoder
from torch import Tensor

from metaembed_lite import Budget, MatryoshkaMultiVectorLoss
from metaembed_lite.arguments import is_finite_number, whole_number
from metaembed_lite.false_negatives import Keys
from metaembed_lite.losses import (
    _check_temperature,
    _prepare_batch,
    losses_by_budget,
    nested_scores,
)
from metaembed_lite.meta_tokens import full_budget
from metaembed_lite.scoring import at_least_float32


class OrthogonalVectors(MatryoshkaMultiVectorLoss):
    """MMR with a penalty on vectors of one item that point in the same direction.

        L = MMR + weight * (mean of cos(q_i, q_j)^2 + mean of cos(c_i, c_j)^2),  i != j

    The means are over the pairs of vectors of each item, and over the items of the batch. A side
    with one vector per item adds 0. The penalty is also there while ``full_only`` is True.

    Args:
        *args, **kwargs: those of ``MatryoshkaMultiVectorLoss``.
        weight: the weight of the penalty. A side adds between 0 and 1 before it is weighted.

    Raises:
        ValueError: as ``MatryoshkaMultiVectorLoss``, or on a weight that is not positive and
            finite.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> loss = OrthogonalVectors(model, "2x2", weight=0.5)
        >>> same = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])  # one item, a vector and its copy
        >>> loss.embedding_loss(same, same[None])  # without other candidates, MMR is 0
        tensor(1.)
    """

    def __init__(self, *args: Any, weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight = _check_weight(weight)

    def embedding_loss(
        self, queries: Tensor, candidates: Tensor, keys: Keys | None = None
    ) -> Tensor:
        """The loss of a batch of embeddings, as ``MatryoshkaMultiVectorLoss`` computes it."""
        mmr = super().embedding_loss(queries, candidates, keys)
        largest = self.budgets[-1]
        query_overlap = mean_squared_cosine(queries[:, : largest.r_q])
        candidate_overlap = mean_squared_cosine(candidates[:, :, : largest.r_c])
        return mmr + self.weight * (query_overlap + candidate_overlap)

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the model card shows."""
        return {**super().get_config_dict(), "weight": self.weight}


def mean_squared_cosine(vectors: Tensor) -> Tensor:
    """The mean squared cosine between different vectors of one item, from 0 to 1.

    Args:
        vectors: (..., R, D), L2-normalized. All axes but the last two count items.

    Returns:
        Scalar. It is 0 if R is 1.

    Example:
        >>> mean_squared_cosine(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
        tensor(0.3333)
    """
    r = vectors.shape[-2]
    vectors = at_least_float32(vectors)
    cosines = (vectors @ vectors.mT).triu(diagonal=1)  # (..., R, R), each pair once
    return cosines.square().sum(dim=(-2, -1)).mean() / max(r * (r - 1) / 2, 1)


class RandomBudgets(MatryoshkaMultiVectorLoss):
    """MMR that also trains n random budgets per step, which are not nested with each other.

        L = MMR + sum over n random budgets of  InfoNCE(S_g / tau_g)

    MMR trains a few budgets, such as (2, 4) and (4, 8). At other pairs, such as (4, 4), more
    vectors can rank worse than fewer. Random budgets train every pair of r_q and r_c. Their tau_g
    is interpolated in r_q. They are off while ``full_only`` is True.

    Args:
        *args, **kwargs: those of ``MatryoshkaMultiVectorLoss``.
        n: random budgets per step. r_q and r_c are uniform from 1 to those of the largest budget.
        seed: random seed of the budgets. A resumed run draws again from the start of the sequence.
            Defaults to 0.

    Attributes:
        random_budgets: those of the last batch. Empty while ``full_only`` is True.

    Raises:
        ValueError: as ``MatryoshkaMultiVectorLoss``, on n that is not a whole number from 1 up, or
            on a seed that is not a whole number from 0 up.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> loss = RandomBudgets(model, n=3)
        >>> vectors = torch.nn.functional.normalize(torch.ones(1, 1, 16, 32), dim=-1)
        >>> loss.embedding_loss(vectors[0, :, :8], vectors)  # without other candidates it is 0
        tensor(0.)
        >>> [str(budget) for budget in loss.random_budgets]
        ['(7, 11)', '(5, 5)', '(3, 1)']
    """

    def __init__(self, *args: Any, n: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.n, self.seed = whole_number(n, "n"), whole_number(seed, "seed", least=0)
        self.random_budgets: list[Budget] = []
        self.generator = np.random.default_rng(self.seed)

    def embedding_loss(
        self, queries: Tensor, candidates: Tensor, keys: Keys | None = None
    ) -> Tensor:
        """The loss of a batch of embeddings, as ``MatryoshkaMultiVectorLoss`` computes it."""
        mmr = super().embedding_loss(queries, candidates, keys)
        self.random_budgets = [] if self.full_only else self.draw_budgets()
        pool, positives, left_out = _prepare_batch(self, queries, candidates, keys)
        parts = [
            losses_by_budget(queries, pool, positives, budget, [self.choose_tau(budget)], left_out)
            for budget in self.random_budgets  # each (1,)
        ]
        return torch.cat([mmr[None], *parts]).sum()

    def choose_tau(self, budget: Budget) -> float:
        """Interpolate between the temperatures of the trained budgets."""
        return float(np.interp(budget.r_q, [b.r_q for b in self.budgets], self.temperatures))

    def draw_budgets(self) -> list[Budget]:
        """The next n random budgets of the sequence."""
        largest = self.budgets[-1]
        pairs = self.generator.integers(
            1, [largest.r_q, largest.r_c], size=(self.n, 2), endpoint=True
        )
        return [Budget(r_q, r_c) for r_q, r_c in pairs.tolist()]

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the model card shows."""
        return {**super().get_config_dict(), "n": self.n, "seed": self.seed}


class DistilledBudgets(MatryoshkaMultiVectorLoss):
    """MMR in which the smaller budgets also learn from the scores of the largest one.

        L = MMR + weight * sum over smaller g of  KL(softmax(S / tau_t) || softmax(S_g / tau_g))

    S are the scores of the largest budget, without gradient. The divergence is the mean over the
    queries. False negatives are left out, as in MMR. It is off while ``full_only`` is True.

    Args:
        *args, **kwargs: those of ``MatryoshkaMultiVectorLoss``.
        weight: the weight of the divergence.
        teacher_temperature: tau_t. Scores range to R_q, so with a small tau_t nearly all of the
            teacher's softmax is on one candidate. Defaults to tau of the largest budget.

    Raises:
        ValueError: as ``MatryoshkaMultiVectorLoss``, on a weight or a teacher's temperature that is
            not positive and finite, or on a single budget.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> loss = DistilledBudgets(model, ["1x1", "4x8"], weight=1.0)
        >>> queries = model.preprocess(["violin, red apple", "sushi"], task="query")
        >>> positives = model.preprocess(["a violin", "a sushi"], task="document")
        >>> loss([queries, positives]).shape
        torch.Size([])
    """

    def __init__(
        self, *args: Any, weight: float, teacher_temperature: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.weight = _check_weight(weight)
        if teacher_temperature is None:
            teacher_temperature = self.temperatures[-1]
        self.teacher_temperature = _check_temperature(teacher_temperature)
        if len(self.budgets) == 1:
            raise ValueError(
                f"the only budget is {self.budgets[0]}: no smaller budget can learn from it; give "
                "at least two budgets"
            )

    def embedding_loss(
        self, queries: Tensor, candidates: Tensor, keys: Keys | None = None
    ) -> Tensor:
        """The loss of a batch of embeddings, as ``MatryoshkaMultiVectorLoss`` computes it."""
        mmr = super().embedding_loss(queries, candidates, keys)
        if self.full_only:
            return mmr
        pool, _, left_out = _prepare_batch(self, queries, candidates, keys)
        *smaller, largest = nested_scores(queries, pool, self.budgets)  # each (B, N)
        pairs = zip(smaller, self.temperatures, strict=False)  # without that of the largest
        students = torch.stack([scores / tau for scores, tau in pairs])  # (G - 1, B, N)
        teacher = largest.detach() / self.teacher_temperature  # (B, N)
        if left_out is not None:
            students = students.masked_fill(left_out, -torch.inf)
            teacher = teacher.masked_fill(left_out, -torch.inf)
        gaps = F.log_softmax(teacher, dim=1) - F.log_softmax(students, dim=2)  # (G - 1, B, N)
        if left_out is not None:
            gaps = gaps.masked_fill(left_out, 0)  # where both are -inf
        divergences = (F.softmax(teacher, dim=1) * gaps).sum(dim=2).mean(dim=1)  # (G - 1,)
        return mmr + self.weight * divergences.sum()

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that the model card shows."""
        return {
            **super().get_config_dict(),
            "weight": self.weight,
            "teacher_temperature": self.teacher_temperature,
        }


def start_from_rows(model: MultiVectorEncoder, seed: int = 0) -> None:
    """Start each meta token at the embedding of another token, drawn at random from the vocabulary.

    No token is drawn twice. Special tokens and meta tokens are not drawn.

    Args:
        model: from ``build``, not yet trained. It is changed in place.
        seed: random seed of the tokens. Defaults to 0.

    Raises:
        ValueError: if the model has no meta tokens, if the vocabulary has fewer words than the
            model has meta tokens, or on a seed that is not a whole number from 0 up.

    Example:
        >>> from metaembed_lite import build
        >>> model = build(r_q=1, r_c=1, init_text=("violin", "violin"), device="cpu")
        >>> start_from_rows(model)
        >>> ids = [ids[0] for ids in model[0].meta_ids.values()]
        >>> q, c = model[0].model.get_input_embeddings().weight[ids]
        >>> torch.equal(q, c)
        False
    """
    generator = torch.Generator().manual_seed(whole_number(seed, "seed", least=0))
    words, n = _word_embeddings(model), len(_meta_ids(model))
    if len(words) < n:
        raise ValueError(
            f"the vocabulary has {len(words)} words, and each of the {n} meta tokens needs "
            "another one: use fewer meta tokens, or start_with_offsets"
        )
    _set_meta_embeddings(model, words[torch.randperm(len(words), generator=generator)[:n]])


def start_with_offsets(model: MultiVectorEncoder, scale: float, seed: int = 0) -> None:
    """Add another small random vector to the start value of each meta token.

    Args:
        model: from ``build``, not yet trained. It is changed in place.
        scale: standard deviation of the random values, in units of the vocabulary's standard
            deviation per dimension.
        seed: random seed of the vectors. Defaults to 0.

    Raises:
        ValueError: if the model has no meta tokens, on a scale that is not positive and finite, or
            on a seed that is not a whole number from 0 up.

    Example:
        >>> from metaembed_lite import build
        >>> model = build(r_q=1, r_c=1, init_text=("violin", "violin"), device="cpu")
        >>> start_with_offsets(model, scale=0.1)
        >>> ids = [ids[0] for ids in model[0].meta_ids.values()]
        >>> q, c = model[0].model.get_input_embeddings().weight[ids]
        >>> torch.equal(q, c), bool(torch.cosine_similarity(q, c, dim=0) > 0.9)
        (False, True)
    """
    if not is_finite_number(scale) or scale <= 0:
        raise ValueError(f"scale={scale!r}: use a positive, finite number such as 0.1")
    generator = torch.Generator().manual_seed(whole_number(seed, "seed", least=0))
    spread = _word_embeddings(model).std(dim=0)  # (H,)
    current = _embeddings(model)[_meta_ids(model)]  # (R_q + R_c, H)
    noise = torch.randn(current.shape, generator=generator).to(current)
    _set_meta_embeddings(model, current + scale * spread * noise)


def _check_weight(weight: Any) -> float:
    """The weight of an added term as a float, if it is positive and finite."""
    if not is_finite_number(weight) or weight <= 0:
        raise ValueError(
            f"weight={weight!r}: use a positive, finite number, or MatryoshkaMultiVectorLoss "
            "without an added term"
        )
    return float(weight)


def _meta_ids(model: MultiVectorEncoder) -> list[int]:
    """Ids of the R_q + R_c meta tokens: query first, then candidate."""
    full_budget(model)  # raises if the model has no meta tokens
    return [*model[0].meta_ids["query"], *model[0].meta_ids["document"]]


def _embeddings(model: MultiVectorEncoder) -> Tensor:
    """The embedding of every token, also of the trained ones: (V, H), without gradient."""
    return at_least_float32(model[0].model.get_input_embeddings().weight.detach())


def _word_embeddings(model: MultiVectorEncoder) -> Tensor:
    """The embeddings of all tokens but special tokens and meta tokens: (W, H)."""
    tokenizer = model[0].tokenizer
    others = {*_meta_ids(model), *tokenizer.all_special_ids}
    return _embeddings(model)[[i for i in range(len(tokenizer)) if i not in others]]


@torch.no_grad()
def _set_meta_embeddings(model: MultiVectorEncoder, rows: Tensor) -> None:
    """Set the meta tokens' embeddings to rows (R_q + R_c, H), in the order of ``_meta_ids``."""
    trained = [p for name, p in model.named_parameters() if "trainable_tokens" in name]
    if trained:  # peft keeps the rows that train outside the embedding, in the same order
        trained[0].copy_(rows)
    else:
        weight = model[0].model.get_input_embeddings().weight
        weight[_meta_ids(model)] = rows.to(weight.dtype)
