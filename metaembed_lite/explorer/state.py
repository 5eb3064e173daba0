"""What a BudgetExplorer shows: items, int8 vectors, attention maps, quality and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
from torch import Tensor

from metaembed_lite.budget import Budgets
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.evaluation import EncodedTask, encode, evaluate_all
from metaembed_lite.explorer.cells import cells_to_json
from metaembed_lite.explorer.costs import Costs, measure_costs
from metaembed_lite.explorer.display import (
    attention_to_json,
    describe_content,
    explain_gaps,
    item_to_json,
)
from metaembed_lite.explorer.quantization import Int8Vectors, to_base64
from metaembed_lite.explorer.selection import choose_candidates, choose_indices
from metaembed_lite.meta_tokens import choose_budgets, full_budget

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder


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
        cells: from ``cells_to_json``, or None.
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
    cells: dict[str, Any] | None
    quality: dict[str, list[list[float]]]
    cost: Costs


@dataclass(frozen=True)
class ExplorerState:
    """The state of the page, and the same content as Python computes with it.

    Attributes:
        page: what the page gets, as JSON.
        quality: the table of ``evaluation.evaluate_all``.
        queries: Q indices into the task.
        candidates: N indices into the task.
        relevance: (Q, N) grades.
        pool: (Q, N) bool, or None without pools.
        query_vectors: (Q, R_q, D) float32, dequantized.
        candidate_vectors: (N, R_c, D) float32, dequantized.

    Example:
        >>> from metaembed_lite import build, load_task
        >>> model = build("tiny-vlm", r_q=1, r_c=2, dim=8, device="cpu")
        >>> task = load_task("stickers", n_queries=2, n_train=0, side=2)
        >>> build_state(model, task, queries=1, candidates=[3, 0]).relevance.shape
        (1, 2)
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
    encoded: EncodedTask | None = None,
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
        >>> task = load_task("stickers", n_queries=2, n_train=0, side=2)
        >>> state = build_state(model, task, queries=1, candidates=[3, 0])
        >>> state.page["trained"], state.candidates, state.query_vectors.shape
        ([[1, 1], [1, 2]], [3, 0], torch.Size([1, 1, 8]))
    """
    full = full_budget(model)
    trained = choose_budgets(model, budgets)
    query_ids = choose_indices(queries, len(task.queries), "queries")
    candidate_ids = choose_indices(candidates, len(task.candidates), "candidates")
    encoded = encoded or encode(model, task)
    if encoded.task is not task:
        raise ValueError(
            f"encoded holds task {encoded.task.name!r}, not the task that was passed "
            f"({task.name!r}): encode this task"
        )
    depth = 0
    if isinstance(candidates, Integral):
        candidate_ids, depth = choose_candidates(encoded, query_ids, trained, len(candidate_ids))
    quality = evaluate_all(encoded)
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
        "cells": cells_to_json(task, query_ids, candidate_ids),
        "quality": {name: to_grid(quality, name) for name in ("p_at_1", "ndcg_at_5")},
        "cost": measure_costs(model, encoded),
    }
    return ExplorerState(
        page, quality, query_ids, candidate_ids, relevance, pool,
        query_vectors.dequantize(), candidate_vectors.dequantize(),
    )  # fmt: skip


def to_grid(quality: pd.DataFrame, column: str) -> list[list[float]]:
    """A column of ``evaluation.evaluate_all`` as R_q rows of R_c values, rounded to four places.

    Example:
        >>> import pandas as pd
        >>> to_grid(pd.DataFrame({"r_q": [1, 1], "r_c": [1, 2], "p_at_1": [0.5, 0.75]}), "p_at_1")
        [[0.5, 0.75]]
    """
    table = quality.pivot(index="r_q", columns="r_c", values=column)
    return table.round(4).to_numpy().tolist()
