"""Quality and cost of a model at every budget: the numbers behind the quality-per-byte figure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, Budgets, budgets_within, rings
from metaembed_lite.data.task import RetrievalTask, as_grades, as_pool
from metaembed_lite.meta_tokens import choose_budgets
from metaembed_lite.scoring import as_embeddings, at_least_float32, maxsim
from metaembed_lite.timing import median_seconds

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

RUNNING_VALUES = 1 << 24  # similarities that evaluate_all holds at a time: 64 MB of float32


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """A task with its embeddings at the full budget, and what encoding cost.

    Attributes:
        task: queries, candidates and relevance.
        queries: embeddings (Q, R_q, D). ``encode`` gives float32 on the CPU.
        candidates: embeddings (N, R_c, D), likewise.
        query_ms: wall-clock milliseconds per query, encoded in batches. Defaults to 0.
        candidate_ms: likewise per candidate.

    Raises:
        ValueError: if an embedding is not finite, or their number is not the task's.

    Example:
        >>> from metaembed_lite import load_task
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> encoded = EncodedTask(task, torch.rand(4, 2, 8), torch.rand(len(task.candidates), 4, 8))
        >>> encoded.full_budget
        Budget(r_q=2, r_c=4)
    """

    task: RetrievalTask
    queries: Tensor
    candidates: Tensor
    query_ms: float = 0.0
    candidate_ms: float = 0.0

    def __post_init__(self) -> None:
        for name in ("queries", "candidates"):
            embeddings = at_least_float32(as_embeddings(getattr(self, name), name))
            expected = len(getattr(self.task, name))
            if len(embeddings) != expected:
                raise ValueError(
                    f"there are {len(embeddings)} embeddings of {name}, and task "
                    f"{self.task.name!r} has {expected} {name}: encode this task"
                )
            object.__setattr__(self, name, embeddings)

    @property
    def full_budget(self) -> Budget:
        """(R_q, R_c): how many vectors there are per query and candidate."""
        return Budget(self.queries.shape[1], self.candidates.shape[1])


def encode(
    model: MultiVectorEncoder, task: RetrievalTask, batch_size: int = 64, progress: bool = False
) -> EncodedTask:
    """Encode a task once, at the full budget. Every smaller budget is a prefix of it.

    Args:
        model: any ``MultiVectorEncoder`` that gives the same number of vectors for all queries, and
            for all candidates.
        task: queries, candidates and relevance.
        batch_size: inputs per batch. Defaults to 64.
        progress: show a progress bar. Defaults to False.

    Raises:
        ValueError: if ``batch_size`` is not a whole number from 1 up, or an embedding is not
            finite.

    Example:
        >>> from metaembed_lite import load, load_task
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> encode(load("tiny", device="cpu"), task).queries.shape  # (Q, R_q, D)
        torch.Size([4, 8, 128])
    """
    batch_size = whole_number(batch_size, "batch_size")
    model.eval()
    start = time.perf_counter()
    queries = model.encode_query(task.queries, batch_size=batch_size, show_progress_bar=progress)
    middle = time.perf_counter()
    candidates = model.encode_document(
        task.candidates, batch_size=batch_size, show_progress_bar=progress
    )
    end = time.perf_counter()
    return EncodedTask(
        task,
        as_embeddings(queries, "queries").float().cpu(),
        as_embeddings(candidates, "candidates").float().cpu(),
        query_ms=1000 * (middle - start) / len(task.queries),
        candidate_ms=1000 * (end - middle) / len(task.candidates),
    )


def precision_at_1(scores: Any, relevance: Any, pool: Any = None) -> float:
    """Share of queries whose best candidate is relevant. A tie with an irrelevant one is a miss.

    Args:
        scores: (Q, N), all finite.
        relevance: (Q, N) grades of any real type, above 0 where relevant.
        pool: (Q, N) bool or 0/1, which candidates are ranked at all. Defaults to all. A relevant
            candidate outside the pool is not found.

    Raises:
        ValueError: on shapes that differ, scores that are not finite, or grades that are negative
            or not finite.

    Example:
        >>> precision_at_1(scores=[[0.9, 0.1], [0.5, 0.5]], relevance=[[1, 0], [1, 0]])
        0.5
    """
    return _precision_at_1(*check_judged(scores, relevance, pool))


def mrr_at_10(scores: Any, relevance: Any, pool: Any = None) -> float:
    """Mean over queries of 1 / rank of the best relevant candidate, 0 beyond rank 10.

    Irrelevant candidates with an equal score rank first. Arguments and errors are those of
    ``precision_at_1``. A query for which no relevant candidate is ranked counts as 0.

    Example:
        >>> mrr_at_10(scores=[[0.9, 0.1]], relevance=[[0, 1]])
        0.5
    """
    return _mrr_at_10(*check_judged(scores, relevance, pool))


def ndcg_at_5(scores: Any, relevance: Any, pool: Any = None) -> float:
    """NDCG@5 with linear gain, tied candidates averaged (as scikit-learn's ``ndcg_score``).

    Arguments and errors are those of ``precision_at_1``. The ideal ranking is over all relevant
    candidates, in the pool or not. A query that has none counts as 0, as in scikit-learn.

    Example:
        >>> round(ndcg_at_5(scores=[[0.9, 0.1]], relevance=[[0, 1]]), 3)
        0.631
    """
    return _ndcg_at_5(*check_judged(scores, relevance, pool))


Judged = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # scores, grades and pool, checked


def check_judged(scores: Any, relevance: Any, pool: Any = None) -> Judged:
    """Scores, grades and pool as arrays (Q, N) of one shape. The pool stays None if it is None.

    Arguments and errors are those of ``precision_at_1``.

    Example:
        >>> scores, grades, pool = check_judged([[2, 1]], [[True, False]])
        >>> scores.tolist(), grades.tolist(), pool
        ([[2.0, 1.0]], [[1.0, 0.0]], None)
    """
    scores = _check_scores(scores)
    grades = as_grades(relevance, scores.shape)
    return scores, grades, None if pool is None else as_pool(pool, scores.shape)


def _check_scores(scores: Any) -> np.ndarray:
    """(Q, N) floats: whole numbers become float64, floats keep their type."""
    if isinstance(scores, np.ma.MaskedArray):
        raise ValueError(
            "scores is a numpy masked array: pass its .data, and the candidates that count as pool="
        )
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
        integers, array = array, array.astype(np.float64)
        if integers.dtype.itemsize == 8 and (array.astype(integers.dtype) != integers).any():
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
    # The candidates ranked above each relevant one are counted. Nothing is sorted, which makes it
    # fast enough for a thousand budgets.
    k = min(5, grades.shape[1])
    gains = 1 / np.log2(np.arange(k) + 2)
    total = np.concatenate([[0.0], np.cumsum(gains)])  # total[i]: of the first i places
    best = -np.sort(-grades, axis=1)[:, :k] @ gains
    relevant, _ = _sides(grades, pool)
    if pool is not None:
        scores = np.where(pool, scores, -np.inf)  # below every candidate in the pool
    if relevant.sum() > k * len(scores):  # many: only those among a query's best k can count
        relevant = relevant & (scores >= -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k])
    query, candidate = np.nonzero(relevant)
    gain = np.zeros(len(scores))
    for rows in np.array_split(np.arange(len(query)), len(query) // 1000 + 1):
        query_of = query[rows]
        score = scores[query_of, candidate[rows]][:, None]
        n_above = (scores[query_of] > score).sum(axis=1)
        n_tied = (scores[query_of] == score).sum(axis=1)  # tied candidates share their places
        share = (total[np.minimum(n_above + n_tied, k)] - total[np.minimum(n_above, k)]) / n_tied
        np.add.at(gain, query_of, grades[query_of, candidate[rows]] * share)
    return float(np.divide(gain, best, out=np.zeros(len(best)), where=best > 0).mean())


def _sides(grades: np.ndarray, pool: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates of the pool are relevant, and which are not: two (Q, N) bool."""
    relevant = grades > 0
    return (relevant, ~relevant) if pool is None else (relevant & pool, ~relevant & pool)


def evaluate(encoded: EncodedTask, budgets: Budgets | None = None) -> pd.DataFrame:
    """Quality and cost of embeddings at some budgets.

    Args:
        encoded: from ``encode``.
        budgets: a list, or a single budget. Defaults to those of the paper that fit, and the full
            one.

    Returns:
        The table that ``sweep`` describes, one row per budget.

    Raises:
        ValueError: on a budget that needs more vectors than there are, or scores that overflow.

    Example:
        >>> from metaembed_lite import load, load_task
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> encoded = encode(load("tiny", device="cpu"), task)
        >>> evaluate(encoded, ["1x1", "8x16"])[["r_q", "r_c", "bytes_per_candidate"]]
           r_q  r_c  bytes_per_candidate
        0    1    1                  512
        1    8   16                 8192
    """
    rows = [_evaluate_at(encoded, b) for b in budgets_within(encoded.full_budget, budgets)]
    return pd.DataFrame(rows)


def _evaluate_at(encoded: EncodedTask, budget: Budget) -> dict[str, Any]:
    def score() -> np.ndarray:
        with torch.inference_mode():
            return maxsim(encoded.queries, encoded.candidates, budget).numpy()

    task, dim = encoded.task, encoded.queries.shape[2]
    judged = score(), task.relevance, task.pool
    return {
        "r_q": budget.r_q,
        "r_c": budget.r_c,
        "p_at_1": _precision_at_1(*judged),
        "ndcg_at_5": _ndcg_at_5(*judged),
        "mrr_at_10": _mrr_at_10(*judged),
        "bytes_per_candidate": budget.bytes_per_candidate(dim),
        "multiply_adds": budget.multiply_adds(dim),
        "encode_query_ms": encoded.query_ms,
        "encode_candidate_ms": encoded.candidate_ms,
        "score_ms": 1000 * median_seconds(score) / len(task.queries),
    }


def find_misses(encoded: EncodedTask, budget: Budget | str | None = None) -> pd.DataFrame:
    """The queries whose best candidate is wrong, and what was found in place of the right one.

    Args:
        encoded: from ``encode``.
        budget: such as "4x8". Defaults to the full budget.

    Returns:
        DataFrame with one row per such query, the worst ranks first: query (its index), rank (that
        of the best right candidate, from 1), right and found (``candidate_names`` of the best right
        candidate and of the best wrong one, or their indices as text), and behind (the difference
        of their scores). As many rows as ``p_at_1`` counts misses.

    Raises:
        ValueError: on a budget that needs more vectors than there are, or scores that overflow.

    Example:
        >>> from metaembed_lite.data.task import RetrievalTask
        >>> names = ["cat.png", "dog.png"]
        >>> task = RetrievalTask("pets", ["dog"], names, [[0, 1]], candidate_names=names)
        >>> queries, candidates = torch.tensor([[[1.0, 0.0]]]), torch.eye(2)[:, None]
        >>> find_misses(EncodedTask(task, queries, candidates))
           query  rank    right    found  behind
        0      0     2  dog.png  cat.png     1.0
    """
    (chosen,) = budgets_within(encoded.full_budget, budget or encoded.full_budget)
    task = encoded.task
    names = task.candidate_names or list(map(str, range(len(task.candidates))))
    with torch.inference_mode():
        scores = _check_scores(maxsim(encoded.queries, encoded.candidates, chosen).numpy())
    relevant, other = _sides(task.relevance, task.pool)
    right = np.where(relevant, scores, -np.inf)
    wrong = np.where(other, scores, -np.inf)
    best_right, best_wrong = right.max(axis=1), wrong.max(axis=1)
    missed = np.flatnonzero(best_wrong >= best_right)
    table = pd.DataFrame(
        {
            "query": missed,
            "rank": 1 + (wrong >= best_right[:, None]).sum(axis=1)[missed],
            "right": [names[i] for i in right.argmax(axis=1)[missed]],
            "found": [names[i] for i in wrong.argmax(axis=1)[missed]],
            "behind": (best_wrong - best_right)[missed],
        }
    )
    return table.sort_values("rank", ascending=False, kind="stable", ignore_index=True)


def evaluate_all(encoded: EncodedTask) -> pd.DataFrame:
    """Quality at each of the R_q x R_c budgets, from one cumulative pass over the embeddings.

    A candidate vector updates a running maximum, and a query vector a running sum. So all budgets
    together cost about as much as the full one, plus the judging of the rankings.

    Args:
        encoded: from ``encode``.

    Returns:
        DataFrame with columns r_q, r_c, p_at_1, ndcg_at_5 and bytes_per_candidate (float32), as in
        ``sweep``. One row per budget, r_c running fastest.

    Raises:
        ValueError: on scores that overflow.

    Example:
        >>> from metaembed_lite import load, load_task
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> len(evaluate_all(encode(load("tiny", device="cpu"), task)))  # 8 x 16
        128
    """
    task, queries, candidates = encoded.task, encoded.queries, encoded.candidates
    n_queries, r_q, dim = queries.shape
    n_candidates, r_c, _ = candidates.shape
    rows = [Budget(r_q, c + 1) for c in range(r_c)]  # each adds one candidate vector
    quality = np.zeros((2, r_q, r_c))
    step = max(1, RUNNING_VALUES // (r_q * n_candidates))
    for start in range(0, n_queries, step):
        part = slice(start, start + step)
        grades, pool = task.relevance[part], None if task.pool is None else task.pool[part]
        best = torch.full((len(queries[part]), r_q, n_candidates), -torch.inf)
        for ring in rings(rows):
            c = ring.start
            best = torch.maximum(best, queries[part] @ candidates[:, c].T)  # (q, R_q, N)
            sums = best.cumsum(dim=1).numpy()
            _check_scores(sums[:, -1])  # a sum that overflows stays so as vectors are added
            for q in range(r_q):
                judged = sums[:, q], grades, pool
                means = np.array([_precision_at_1(*judged), _ndcg_at_5(*judged)])
                quality[:, q, c] += means * len(grades) / n_queries
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


def sweep(
    model: MultiVectorEncoder,
    task: RetrievalTask,
    budgets: Budgets | None = None,
    *,
    batch_size: int = 64,
) -> pd.DataFrame:
    """Quality and cost of a model on a task, one row per budget: ``encode``, then ``evaluate``.

    Args:
        model: built or loaded with meta tokens.
        task: queries, candidates and relevance.
        budgets: a list, or a single budget. Defaults to those of the paper that the model can
            meet, and its full budget.
        batch_size: inputs per batch when encoding. Defaults to 64.

    Returns:
        DataFrame with these columns:

        - r_q, r_c: the budget.
        - p_at_1, mrr_at_10: in [0, 1]. Ties count against the model.
        - ndcg_at_5: in [0, 1]. Linear gain, averaged over tied candidates.
        - bytes_per_candidate: in float32.
        - multiply_adds: per query and candidate.
        - encode_query_ms, encode_candidate_ms: milliseconds per query and per candidate.
        - score_ms: milliseconds to score one query against all candidates. The median of five runs
          over all queries, divided by their number.

    Raises:
        ValueError: on a budget beyond the model's meta tokens, embeddings that are not finite, or
            scores that overflow.

    Example:
        >>> from metaembed_lite import load, load_task
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> sweep(load("tiny", device="cpu"), task, "4x8").bytes_per_candidate.item()
        4096
    """
    chosen = choose_budgets(model, budgets)  # before the work of encoding
    return evaluate(encode(model, task, batch_size), chosen)
