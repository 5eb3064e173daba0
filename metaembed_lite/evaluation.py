"""Quality and cost of a model at every budget: the numbers behind THE figure of the book."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, Budgets, choose_budgets
from metaembed_lite.data.task import RetrievalTask, as_grades, as_pool
from metaembed_lite.model import vectors
from metaembed_lite.scoring import as_embeddings, at_least_float32, maxsim

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder

RUNNING_VALUES = 1 << 24  # similarities held at a time by every_budget: 64 MB of float32


@dataclass(frozen=True)
class Encoded:
    """A task's embeddings at the full budget, and what encoding cost.

    Attributes:
        queries: (Q, R_q, D) float32 on the CPU.
        candidates: (N, R_c, D) likewise.
        query_ms: wall-clock milliseconds per query, in batches.
        candidate_ms: per candidate, likewise.
    """

    queries: Tensor
    candidates: Tensor
    query_ms: float
    candidate_ms: float


def encode(
    model: MultiVectorEncoder, task: RetrievalTask, batch_size: int = 64, progress: bool = False
) -> Encoded:
    """Encode a task once, at the full budget; every smaller budget is a prefix of it.

    Raises:
        ValueError: if ``batch_size`` is not a whole number from 1 up, or an embedding is not
            finite.
    """
    batch_size = whole_number(batch_size, "batch_size")
    model.eval()
    started = time.perf_counter()
    queries = model.encode_query(task.queries, batch_size=batch_size, show_progress_bar=progress)
    between = time.perf_counter()
    candidates = model.encode_document(
        task.candidates, batch_size=batch_size, show_progress_bar=progress
    )
    ended = time.perf_counter()
    return Encoded(
        as_embeddings(queries, "queries").float().cpu(),
        as_embeddings(candidates, "candidates").float().cpu(),
        1000 * (between - started) / len(task.queries),
        1000 * (ended - between) / len(task.candidates),
    )


def precision_at_1(scores: Any, relevance: Any, pool: Any = None) -> float:
    """Share of queries whose best candidate is relevant; a tie with an irrelevant one is a miss.

    Args:
        scores: (Q, N), finite.
        relevance: (Q, N) grades of any real type, above 0 where relevant.
        pool: (Q, N) bool or 0/1, which candidates are ranked at all; None: every one. A relevant
            candidate outside of the pool is not found.

    Raises:
        ValueError: on shapes that differ, scores that are not finite, or grades that are negative
            or not finite.
    """
    return _precision_at_1(*_judged(scores, relevance, pool))


def mrr_at_10(scores: Any, relevance: Any, pool: Any = None) -> float:
    """Mean over queries of 1 / rank of the best relevant candidate, 0 beyond rank 10.

    Irrelevant candidates of an equal score rank before. Arguments and errors are those of
    ``precision_at_1``. A query for which no relevant candidate is ranked counts as 0.
    """
    return _mrr_at_10(*_judged(scores, relevance, pool))


def ndcg_at_5(scores: Any, relevance: Any, pool: Any = None) -> float:
    """NDCG@5 with linear gain, tied candidates averaged (as scikit-learn's ``ndcg_score``).

    Arguments and errors are those of ``precision_at_1``. The ideal ranking is over all relevant
    candidates, in the pool or not; a query that has none counts as 0, as in scikit-learn.
    """
    return _ndcg_at_5(*_judged(scores, relevance, pool))


Judged = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # scores, grades and pool, checked


def _judged(scores: Any, relevance: Any, pool: Any) -> Judged:
    scores = _checked_scores(scores)
    grades = as_grades(relevance, scores.shape)
    return scores, grades, None if pool is None else as_pool(pool, scores.shape)


def _checked_scores(scores: Any) -> np.ndarray:
    """(Q, N) floats: whole numbers become float64, floats keep their type."""
    if isinstance(scores, np.ma.MaskedArray):
        raise ValueError("scores is a numpy masked array: pass its .data, and what counts as pool")
    try:
        array = np.asarray(scores)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"scores is not a (queries, candidates) array: {error}") from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"scores has shape {array.shape} and type {array.dtype}: expected real numbers, "
            "(queries, candidates), none of them 0"
        )
    if array.dtype.kind != "f":
        whole, array = array, array.astype(np.float64)
        if whole.dtype.itemsize == 8 and (array.astype(whole.dtype) != whole).any():
            raise ValueError(
                "scores hold whole numbers beyond 2**53: float64 would make ties of them"
            )
    if not np.isfinite(array).all():
        query, candidate = np.argwhere(~np.isfinite(array))[0].tolist()
        raise ValueError(
            f"scores[{query}, {candidate}] is {array[query, candidate]}: a ranking needs finite "
            "scores; look for embeddings that are not finite, or leave candidates out with pool="
        )
    return array


def _precision_at_1(scores: np.ndarray, grades: np.ndarray, pool: np.ndarray | None) -> float:
    relevant, other = _sides(grades, pool)
    best_relevant = np.where(relevant, scores, -np.inf).max(axis=1)
    best_other = np.where(other, scores, -np.inf).max(axis=1)
    return float((best_relevant > best_other).mean())


def _mrr_at_10(scores: np.ndarray, grades: np.ndarray, pool: np.ndarray | None) -> float:
    relevant, other = _sides(grades, pool)
    best_relevant = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    rank = 1 + (other & (scores >= best_relevant)).sum(axis=1)
    return float(np.where(relevant.any(axis=1) & (rank <= 10), 1 / rank, 0).mean())


def _ndcg_at_5(scores: np.ndarray, grades: np.ndarray, pool: np.ndarray | None) -> float:
    # Count the candidates ranked before each relevant one. Nothing is sorted, so a thousand
    # budgets can be evaluated.
    k = min(5, grades.shape[1])
    gains = 1 / np.log2(np.arange(k) + 2)
    total = np.concatenate([[0.0], np.cumsum(gains)])  # total[i]: of the first i places
    best = -np.sort(-grades, axis=1)[:, :k] @ gains
    relevant, _ = _sides(grades, pool)
    if pool is not None:
        scores = np.where(pool, scores, -np.inf)  # below every candidate that counts
    if relevant.sum() > k * len(scores):  # many: only those among a query's best k can count
        relevant = relevant & (scores >= -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k])
    query, candidate = np.nonzero(relevant)
    found = np.zeros(len(scores))
    for rows in np.array_split(np.arange(len(query)), len(query) // 1000 + 1):
        of, own = query[rows], scores[query[rows], candidate[rows]][:, None]
        before = (scores[of] > own).sum(axis=1)  # a tie shares the places that it fills
        ties = (scores[of] == own).sum(axis=1)
        share = (total[np.minimum(before + ties, k)] - total[np.minimum(before, k)]) / ties
        np.add.at(found, of, grades[of, candidate[rows]] * share)
    return float(np.divide(found, best, out=np.zeros(len(best)), where=best > 0).mean())


def _sides(grades: np.ndarray, pool: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates of the pool are relevant, and which are not: two (Q, N) bool."""
    relevant = grades > 0
    return (relevant, ~relevant) if pool is None else (relevant & pool, ~relevant & pool)


def every_budget(task: RetrievalTask, encoded: Encoded) -> pd.DataFrame:
    """Quality at each of the R_q x R_c budgets, from one cumulative pass over the embeddings.

    Adding a candidate vector updates a running maximum, adding a query vector a running sum, so all
    budgets together cost about what the full one costs, and judging the rankings.

    Args:
        task: queries, candidates and relevance.
        encoded: its embeddings, from ``encode``.

    Returns:
        A DataFrame with columns r_q, r_c, p_at_1, ndcg_at_5 and bytes_per_candidate (float32), as
        ``sweep`` has them; one row per budget, r_c running fastest.

    Raises:
        ValueError: on embeddings that are not finite or not the task's, or scores that overflow.
    """
    import pandas as pd

    queries, candidates = check_encoded(task, encoded)
    n_queries, r_q, dim = queries.shape
    n_candidates, r_c, _ = candidates.shape
    quality = np.zeros((2, r_q, r_c))
    step = max(1, RUNNING_VALUES // (r_q * n_candidates))
    for start in range(0, n_queries, step):
        part = slice(start, start + step)
        best = torch.full((len(queries[part]), r_q, n_candidates), -torch.inf)
        for c in range(r_c):
            best = torch.maximum(best, queries[part] @ candidates[:, c].T)
            sums = best.cumsum(dim=1).numpy()
            _checked_scores(sums[:, -1])  # a sum that overflows stays so as vectors are added
            for q in range(r_q):
                scores = sums[:, q]
                judged = (
                    scores,
                    task.relevance[part],
                    None if task.pool is None else task.pool[part],
                )
                of = _precision_at_1(*judged), _ndcg_at_5(*judged)
                quality[:, q, c] += np.array(of) * len(scores) / n_queries
    budgets = [Budget(q + 1, c + 1) for q in range(r_q) for c in range(r_c)]
    return pd.DataFrame(
        {
            "r_q": [b.r_q for b in budgets],
            "r_c": [b.r_c for b in budgets],
            "p_at_1": quality[0].ravel(),
            "ndcg_at_5": quality[1].ravel(),
            "bytes_per_candidate": [b.bytes_per_candidate(dim) for b in budgets],
        }
    )


def check_encoded(task: RetrievalTask, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """The task's query and candidate embeddings, at least float32.

    Raises:
        ValueError: if an embedding is not finite, or their number is not the task's.
    """
    sides = {"queries": task.queries, "candidates": task.candidates}
    checked = {
        name: at_least_float32(as_embeddings(getattr(encoded, name), name)) for name in sides
    }
    for name, items in sides.items():
        if len(checked[name]) != len(items):
            raise ValueError(
                f"encoded has {len(checked[name])} {name}, task {task.name!r} has {len(items)}: "
                "encode this task"
            )
    return checked["queries"], checked["candidates"]


def sweep(
    model: MultiVectorEncoder,
    task: RetrievalTask,
    budgets: Budgets | None = None,
    *,
    batch_size: int = 64,
    encoded: Encoded | None = None,
) -> pd.DataFrame:
    """Quality and cost of a model on a task, one row per budget.

    Args:
        model: built or loaded with meta tokens.
        task: queries, candidates and relevance.
        budgets: a list, or a single budget; None takes the paper's that the model can meet, and its
            own full one.
        batch_size: of encoding.
        encoded: the task's embeddings, if ``encode`` made them before.

    Returns:
        A DataFrame with columns r_q, r_c, p_at_1 (in [0, 1]; ties count against the model),
        ndcg_at_5 (in [0, 1], linear gain, tied candidates averaged), mrr_at_10 (in [0, 1], ties
        count against the model), bytes_per_candidate (float32),
        multiply_adds (per query and candidate), encode_query_ms, encode_candidate_ms (each) and
        score_ms (one query against all candidates, median of five runs over all queries).

    Raises:
        ValueError: on a budget beyond the model's meta tokens, embeddings that are not finite or
            not the task's, or scores that overflow.
    """
    import pandas as pd

    full = vectors(model)
    chosen = choose_budgets(budgets, full.r_q, full.r_c)
    encoded = encoded or encode(model, task, batch_size)
    queries, candidates = check_encoded(task, encoded)
    dim = queries.shape[2]
    rows = []
    for budget in chosen:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            with torch.inference_mode():
                scores = maxsim(queries, candidates, budget).numpy()
            seconds.append(time.perf_counter() - started)
        judged = scores, task.relevance, task.pool
        rows.append(
            {
                "r_q": budget.r_q,
                "r_c": budget.r_c,
                "p_at_1": _precision_at_1(*judged),
                "ndcg_at_5": _ndcg_at_5(*judged),
                "mrr_at_10": _mrr_at_10(*judged),
                "bytes_per_candidate": budget.bytes_per_candidate(dim),
                "multiply_adds": budget.multiply_adds(dim),
                "encode_query_ms": encoded.query_ms,
                "encode_candidate_ms": encoded.candidate_ms,
                "score_ms": 1000 * float(np.median(seconds)) / len(task.queries),
            }
        )
    return pd.DataFrame(rows)
