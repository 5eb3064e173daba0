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

    Args:
        scores: (Q, N), finite.
        relevance: (Q, N) grades.
    """
    from sklearn.metrics import ndcg_score

    if relevance.shape[1] == 1:  # one candidate, and relevant: there is no order to get wrong
        return 1.0
    return float(ndcg_score(relevance, scores, k=5))


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
        if task.pool is not None:  # below all that count
            scores = np.where(task.pool, scores, scores.min() - 1)
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
