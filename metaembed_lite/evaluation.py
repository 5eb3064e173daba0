"""Quality and cost of a model at every budget: the numbers behind THE figure of the book."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from metaembed_lite.budget import Budget, as_budget, up_to
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.model import vectors
from metaembed_lite.scoring import as_embeddings, maxsim

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
    """Encode a task once, at the full budget; every smaller budget is a prefix of it."""
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


def precision_at_1(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Share of queries whose best candidate is relevant; a tie with an irrelevant one is a miss.

    Args:
        scores: (Q, N).
        relevance: (Q, N), above 0 where relevant.
    """
    best_relevant = np.where(relevance > 0, scores, -np.inf).max(axis=1)
    best_other = np.where(relevance > 0, -np.inf, scores).max(axis=1)
    return float((best_relevant > best_other).mean())


def mrr_at_10(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Mean over queries of 1 / rank of the best relevant candidate, 0 beyond rank 10.

    Args:
        scores: (Q, N); irrelevant candidates of an equal score rank before.
        relevance: (Q, N), above 0 where relevant.
    """
    best_relevant = np.where(relevance > 0, scores, -np.inf).max(axis=1, keepdims=True)
    rank = 1 + ((relevance <= 0) & (scores >= best_relevant)).sum(axis=1)
    return float(np.where(rank <= 10, 1 / rank, 0).mean())


def ndcg_at_5(scores: np.ndarray, relevance: np.ndarray) -> float:
    """NDCG@5 with linear gain, tied candidates averaged (as scikit-learn's ``ndcg_score``).

    Counts, for each relevant candidate, who is before it: no ranking is sorted, so that a thousand
    budgets can be judged.

    Args:
        scores: (Q, N), finite.
        relevance: (Q, N) grades, 0 where not relevant.
    """
    k = min(5, relevance.shape[1])
    gains = 1 / np.log2(np.arange(k) + 2)
    total = np.concatenate([[0.0], np.cumsum(gains)])  # total[i]: of the first i places
    best = -np.sort(-relevance, axis=1)[:, :k] @ gains
    relevant = relevance > 0
    if relevant.sum() > k * len(scores):  # many: only those among a query's best k can count
        relevant &= scores >= -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    query, candidate = np.nonzero(relevant)
    found = np.zeros(len(scores))
    for rows in np.array_split(np.arange(len(query)), len(query) // 1000 + 1):
        of, own = query[rows], scores[query[rows], candidate[rows]][:, None]
        before = (scores[of] > own).sum(axis=1)  # a tie shares the places that it fills
        ties = (scores[of] == own).sum(axis=1)
        share = (total[np.minimum(before + ties, k)] - total[np.minimum(before, k)]) / ties
        np.add.at(found, of, relevance[of, candidate[rows]] * share)
    return float((found / best).mean())


def every_budget(task: RetrievalTask, encoded: Encoded) -> pd.DataFrame:
    """Quality at each of the R_q x R_c budgets, from one cumulative pass over the embeddings.

    Adding a candidate vector updates a running maximum, adding a query vector a running sum, so all
    budgets together cost about what the full one costs, and judging the rankings.

    Args:
        task: queries, candidates and relevance.
        encoded: its embeddings, from ``encode``.

    Returns:
        A DataFrame with columns r_q, r_c, p_at_1, ndcg_at_5 and bytes_per_candidate (float32), as
        ``sweep`` has them; one row a budget, r_c running fastest.
    """
    import pandas as pd

    queries, candidates = encoded.queries, encoded.candidates
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
            for q in range(r_q):
                scores, relevance = _counted(sums[:, q], task, part), task.relevance[part]
                of = precision_at_1(scores, relevance), ndcg_at_5(scores, relevance)
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


def _counted(scores: np.ndarray, task: RetrievalTask, part: slice = slice(None)) -> np.ndarray:
    """The scores, with candidates outside a query's pool below all that count."""
    if task.pool is None:
        return scores
    return np.where(task.pool[part], scores, scores.min() - 1)


def sweep(
    model: MultiVectorEncoder,
    task: RetrievalTask,
    budgets: Iterable[Budget | Sequence[int] | str] | None = None,
    *,
    batch_size: int = 64,
    encoded: Encoded | None = None,
) -> pd.DataFrame:
    """Quality and cost of a model on a task, one row a budget.

    Args:
        model: built or loaded with meta tokens.
        task: queries, candidates and relevance.
        budgets: None takes the paper's that the model can meet, and its own full one.
        batch_size: of encoding.
        encoded: the task's embeddings, if ``encode`` made them before.

    Returns:
        A DataFrame with columns r_q, r_c, p_at_1 (in [0, 1]; ties count against the model),
        ndcg_at_5 (in [0, 1], linear gain, tied candidates averaged), mrr_at_10 (in [0, 1], ties
        count against the model), bytes_per_candidate (float32),
        multiply_adds (per query and candidate), encode_query_ms, encode_candidate_ms (each) and
        score_ms (one query against all candidates, median of five runs over all queries).

    Raises:
        ValueError: on a budget beyond the model's meta tokens, or embeddings that are not finite.
    """
    import pandas as pd

    full = vectors(model)
    chosen = up_to(full.r_q, full.r_c) if budgets is None else [as_budget(b) for b in budgets]
    if not chosen:
        raise ValueError("no budgets: give at least one, for example [(1, 1)], or None")
    for budget in chosen:
        budget.check(full.r_q, full.r_c)
    encoded = encoded or encode(model, task, batch_size)
    dim = encoded.queries.shape[2]
    rows = []
    for budget in chosen:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            with torch.inference_mode():
                scores = maxsim(encoded.queries, encoded.candidates, budget).numpy()
            seconds.append(time.perf_counter() - started)
        scores = _counted(scores, task)
        rows.append(
            {
                "r_q": budget.r_q,
                "r_c": budget.r_c,
                "p_at_1": precision_at_1(scores, task.relevance),
                "ndcg_at_5": ndcg_at_5(scores, task.relevance),
                "mrr_at_10": mrr_at_10(scores, task.relevance),
                "bytes_per_candidate": budget.bytes_per_candidate(dim),
                "multiply_adds": budget.multiply_adds(dim),
                "encode_query_ms": encoded.query_ms,
                "encode_candidate_ms": encoded.candidate_ms,
                "score_ms": 1000 * float(np.median(seconds)) / len(task.queries),
            }
        )
    return pd.DataFrame(rows)
