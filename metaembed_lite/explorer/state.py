"""What a BudgetExplorer shows: items, int8 vectors, attention maps, quality and costs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaembed_lite.arguments import is_count
from metaembed_lite.attention import image_attention
from metaembed_lite.budget import Budget, Budgets, choose_budgets
from metaembed_lite.data.task import Item, RetrievalTask
from metaembed_lite.evaluation import Encoded, check_encoded, encode, every_budget
from metaembed_lite.explorer.costs import Costs, measure_costs
from metaembed_lite.explorer.quantization import Int8Vectors, to_base64
from metaembed_lite.items import read
from metaembed_lite.model import vectors
from metaembed_lite.scoring import maxsim

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder

MAX_TEXT_CHARS = 300
THUMBNAIL_PX = 96  # of a picture's longer side
MAX_MAP_CELLS = 6  # of an attention map's longer side; a finer map is averaged down to it


class PageState(TypedDict):
    """What the page gets from Python, as JSON. Lists by query and candidate follow their order.

    Keys:
        task: name of the task.
        about: one line below the ranking.
        dim: D, values per vector.
        r_q, r_c: the full budget.
        trained: the trained budgets, as [r_q, r_c].
        queries, candidates: from ``item_to_json``.
        relevant: per query, positions of its relevant candidates in ``candidates``.
        excluded: per query, positions of the candidates outside its pool. None without pools.
        notes: per query, from ``explain_gaps``.
        vectors: base64 of int8 values and float32 scales, see ``Int8Vectors``.
        attention: from ``attention_to_json``.
        quality: ``p_at_1`` and ``ndcg_at_5`` as R_q rows of R_c values.
        cost: from ``measure_costs``.
    """

    task: str
    about: str
    dim: int
    r_q: int
    r_c: int
    trained: list[list[int]]
    queries: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    relevant: list[list[int]]
    excluded: list[list[int]] | None
    notes: list[str]
    vectors: dict[str, str]
    attention: dict[str, Any] | None
    quality: dict[str, list[list[float]]]
    cost: Costs


@dataclass(frozen=True)
class ExplorerState:
    """The state of the page, and the same content as Python computes with it.

    Attributes:
        page: what the page gets, as JSON.
        quality: the table of ``evaluation.every_budget``.
        queries: Q indices into the task.
        candidates: N indices into the task.
        relevance: (Q, N) grades.
        pool: (Q, N) bool, or None without pools.
        query_vectors: (Q, R_q, D) float32, dequantized.
        candidate_vectors: (N, R_c, D) float32, dequantized.
    """

    page: PageState
    quality: pd.DataFrame
    queries: list[int]
    candidates: list[int]
    relevance: np.ndarray
    pool: np.ndarray | None
    query_vectors: Tensor
    candidate_vectors: Tensor


def build_state(
    model: MultiVectorEncoder,
    task: RetrievalTask,
    encoded: Encoded | None = None,
    *,
    queries: int | Sequence[int] = 12,
    candidates: int | Sequence[int] = 160,
    budgets: Budgets | None = None,
) -> ExplorerState:
    """Collect everything that an explorer of a model and a task shows.

    The arguments and errors are those of ``BudgetExplorer``, except that the size is not checked.

    Example:
        >>> from metaembed_lite import build, load_task
        >>> model = build("tiny-vlm", r_q=1, r_c=2, dim=8, device="cpu")
        >>> task = load_task("handwriting", n_queries=2, n_train=0)
        >>> state = build_state(model, task, queries=1, candidates=[3, 0])
        >>> state.page["trained"], state.candidates, state.query_vectors.shape
        ([[1, 1], [1, 2]], [3, 0], torch.Size([1, 1, 8]))
    """
    full = vectors(model)
    trained = choose_budgets(budgets, full.r_q, full.r_c)
    query_ids = choose_indices(queries, len(task.queries), "queries")
    candidate_ids = choose_indices(candidates, len(task.candidates), "candidates")
    encoded = encoded or encode(model, task)
    check_encoded(task, encoded)
    depth = 0
    if isinstance(candidates, Integral):
        candidate_ids, depth = choose_candidates(
            task, encoded, query_ids, trained, len(candidate_ids)
        )
    quality = every_budget(task, encoded)
    relevance = task.relevance[np.ix_(query_ids, candidate_ids)]
    pool = None if task.pool is None else task.pool[np.ix_(query_ids, candidate_ids)]
    query_vectors = Int8Vectors.quantize(encoded.queries[query_ids])
    candidate_vectors = Int8Vectors.quantize(encoded.candidates[candidate_ids])
    items = [task.candidates[i] for i in candidate_ids]
    page: PageState = {
        "task": task.name,
        "about": describe_content(len(task.queries), len(task.candidates), len(items), depth),
        "dim": encoded.queries.shape[2],
        "r_q": full.r_q,
        "r_c": full.r_c,
        "trained": [[budget.r_q, budget.r_c] for budget in trained],
        "queries": [item_to_json(task.queries[i], i) for i in query_ids],
        "candidates": [item_to_json(item, i) for item, i in zip(items, candidate_ids, strict=True)],
        "relevant": [np.flatnonzero(grades > 0).tolist() for grades in relevance],
        "excluded": None if pool is None else [np.flatnonzero(~row).tolist() for row in pool],
        "notes": explain_gaps(relevance, pool),
        "vectors": {
            "queries": to_base64(query_vectors.values),
            "query_scales": to_base64(query_vectors.scales),
            "candidates": to_base64(candidate_vectors.values),
            "candidate_scales": to_base64(candidate_vectors.scales),
        },
        "attention": attention_to_json(model, items),
        "quality": {name: to_grid(quality, name) for name in ("p_at_1", "ndcg_at_5")},
        "cost": measure_costs(model, task, encoded),
    }
    return ExplorerState(
        page, quality, query_ids, candidate_ids, relevance, pool,
        query_vectors.dequantize(), candidate_vectors.dequantize(),
    )  # fmt: skip


def choose_indices(choice: int | Sequence[int], n_items: int, name: str) -> list[int]:
    """Indices into a list of the task: the first few, or the ones that are named.

    Args:
        choice: how many to take from the start, or the indices themselves.
        n_items: length of the list.
        name: of the argument, for the error.

    Raises:
        ValueError: if the choice is neither, or an index is unknown or listed twice.

    Example:
        >>> choose_indices(3, 10, "queries"), choose_indices([7, 2], 10, "queries")
        ([0, 1, 2], [7, 2])
    """
    remedy = f"give different indices from 0 to {n_items - 1}"
    values: Any = choice
    if isinstance(values, Integral):
        if not is_count(values):
            raise ValueError(f"{name}={values}: use a whole number from 1 up, or a list of indices")
        return list(range(min(int(values), n_items)))
    if isinstance(values, str | bytes | set | dict) or not hasattr(values, "__len__"):
        raise ValueError(f"{name}={values!r}: {remedy}, or how many to take")
    if len(values) == 0:
        raise ValueError(f"{name}: the list is empty; {remedy}, or how many to take")
    indices: list[int] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}: {value!r} is not an index; {remedy}")
        if not 0 <= value < n_items:
            raise ValueError(f"{name}: there is no index {value}; {remedy}")
        if value in indices:
            raise ValueError(f"{name}: index {value} is listed twice; {remedy}")
        indices.append(int(value))
    return indices


def choose_candidates(
    task: RetrievalTask, encoded: Encoded, queries: Sequence[int], budgets: Sequence[Budget], n: int
) -> tuple[list[int], int]:
    """Choose ``n`` candidates to display for these queries.

    Relevant candidates come first. Then each query's ranking at each budget is added place by
    place, so that the best of the whole task are included.

    Args:
        task: queries, candidates and relevance.
        encoded: the embeddings of the task.
        queries: indices into the task.
        budgets: whose rankings are used.
        n: how many candidates.

    Returns:
        The indices in ascending order, and the depth to which rankings of the chosen candidates
        equal those of the full task.

    Example:
        >>> task = RetrievalTask("letters", ["a"], ["a", "b", "c"], np.array([[1, 0, 0]]))
        >>> candidates = torch.tensor([[[0.1]], [[0.9]], [[0.5]]])  # (3, 1, 1)
        >>> encoded = Encoded(torch.ones(1, 1, 1), candidates, 1.0, 1.0)
        >>> choose_candidates(task, encoded, [0], [Budget(1, 1)], 2)
        ([0, 1], 1)
    """
    relevant = np.flatnonzero((task.relevance[queries] > 0).any(axis=0))
    chosen = dict.fromkeys(relevant.tolist())  # a set that keeps its order
    rankings = []
    for budget in budgets:
        scores = maxsim(encoded.queries[queries], encoded.candidates, budget).numpy()
        if task.pool is not None:
            scores = np.where(task.pool[queries], scores, -np.inf)
        rankings.append(np.argsort(-scores, axis=1, kind="stable"))
    # (budgets, queries, places) -> (places, budgets * queries)
    by_place = np.stack(rankings).transpose(2, 0, 1).reshape(len(task.candidates), -1)
    depth = 0
    for candidates in by_place:
        if len(chosen) >= n:
            break
        chosen.update(dict.fromkeys(candidates.tolist()))
        depth += len(chosen) <= n
    return sorted(list(chosen)[:n]), depth


def describe_content(n_queries: int, n_candidates: int, n_shown: int, depth: int) -> str:
    """One line below the ranking: what it covers, and on what the quality was measured.

    Args:
        n_queries, n_candidates: of the task.
        n_shown: candidates on the page.
        depth: how many of the task's best candidates are surely among them; 0 if unknown.

    Example:
        >>> describe_content(10, 20, 20, 0)[:59]
        'This page ranks all 20 candidates with vectors in int8. NDC'
    """
    if n_shown == n_candidates:
        content = f"all {n_candidates:,} candidates"
    else:
        content = f"{n_shown:,} of the task's {n_candidates:,} candidates"
        if depth:
            content += f", including the task's best {depth} at each trained budget,"
    return (
        f"This page ranks {content} with vectors in int8. NDCG@5 and P@1 were measured on all "
        f"{n_queries:,} queries and {n_candidates:,} candidates with vectors in float32."
    )


def explain_gaps(relevance: np.ndarray, pool: np.ndarray | None) -> list[str]:
    """For each query, a sentence on what its ranking lacks. It is empty if it lacks nothing.

    Args:
        relevance: (Q, N) grades of the candidates on the page.
        pool: (Q, N) bool, or None if every candidate is in every pool.

    Example:
        >>> explain_gaps(np.array([[1, 0], [0, 0]]), None)
        ['', 'None of the 2 candidates ranked here is relevant to this query.']
    """
    n = relevance.shape[1]
    notes = []
    for row, grades in enumerate(relevance):
        ranked = n if pool is None else int(pool[row].sum())
        if not ranked:
            none = "the only candidate" if n == 1 else f"none of the {n:,} candidates"
            notes.append(
                f"Nothing to rank: this query has a candidate pool, and {none} on this page is "
                f"{'not ' * (n == 1)}in it."
            )
        elif not (grades > 0).any():
            none = "The only candidate" if ranked == 1 else f"None of the {ranked:,} candidates"
            notes.append(f"{none} ranked here is {'not ' * (ranked == 1)}relevant to this query.")
        else:
            notes.append("")
    return notes


def item_to_json(item: Item, index: int) -> dict[str, Any]:
    """An item as the page shows it.

    Args:
        item: a text, a picture, or both.
        index: of the item in the task.

    Returns:
        ``id`` (the index), ``text`` (cut to ``MAX_TEXT_CHARS``, or empty) and ``image`` (a
        thumbnail as data URL, or None).

    Example:
        >>> item_to_json("violin", 4)
        {'id': 4, 'text': 'violin', 'image': None}
    """
    parts = read(item)
    text, picture = parts.get("text", ""), parts.get("image")
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS].rstrip() + " …"
    image = None if picture is None else _to_data_url(picture)
    return {"id": index, "text": text, "image": image}


def _to_data_url(picture: Image.Image) -> str:
    thumbnail = picture.copy()  # thumbnail() works in place
    thumbnail.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    file = io.BytesIO()
    thumbnail.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def attention_to_json(model: MultiVectorEncoder, items: Sequence[Item]) -> dict[str, Any] | None:
    """The attention of each candidate vector over its picture, for items that are only a picture.

    Args:
        model: built or loaded with meta tokens.
        items: candidates.

    Returns:
        ``maps``, base64 of uint8: the R_c maps of one item after another, each scaled to its own
        maximum. ``grids``: for each item [offset, height, width] or None. None if there is no map.

    Example:
        >>> from metaembed_lite import build
        >>> model = build("tiny-vlm", r_q=1, r_c=2, dim=8, device="cpu")
        >>> attention_to_json(model, [Image.new("RGB", (84, 84)), "a text"])["grids"]
        [[0, 5, 5], None]
    """
    parts: list[np.ndarray] = []
    grids: list[list[int] | None] = []
    offset = 0
    for item in items:
        if not isinstance(item, Image.Image):
            grids.append(None)
            continue
        try:
            maps = image_attention(model, item)
        except ValueError:  # a backbone that does not read pictures as tokens has no such maps
            return None
        shrink = min(1.0, MAX_MAP_CELLS / max(maps.shape[1:]))
        size = [max(1, round(side * shrink)) for side in maps.shape[1:]]
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, size)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        parts.append((255 * maps).round().to(torch.uint8).numpy().ravel())
        grids.append([offset, *size])
        offset += parts[-1].size
    return {"maps": to_base64(np.concatenate(parts)), "grids": grids} if parts else None


def to_grid(quality: pd.DataFrame, column: str) -> list[list[float]]:
    """A column of ``evaluation.every_budget`` as R_q rows of R_c values, rounded to four places.

    Example:
        >>> import pandas as pd
        >>> to_grid(pd.DataFrame({"r_q": [1, 1], "r_c": [1, 2], "p_at_1": [0.5, 0.75]}), "p_at_1")
        [[0.5, 0.75]]
    """
    table = quality.pivot(index="r_q", columns="r_c", values=column)
    return table.round(4).to_numpy().tolist()
