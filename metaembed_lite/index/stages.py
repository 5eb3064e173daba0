"""How an index is searched: scan every candidate at one budget, rescore the best at larger ones."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, BudgetLike, as_budget
from metaembed_lite.index.columns import RingColumns
from metaembed_lite.scoring import best_similarities

BATCH_BYTES = 4 << 20  # of vectors per Arrow batch
OVERSAMPLE = 4  # candidates of an int8 or binary scan that are rescored, per result
PAIRS = "pairs of a budget and how many candidates to keep, for example [((1, 1), 1000)]"


class Rows(Protocol):
    """What a search needs of a table: its rows in batches, and some rows by their number.

    Example:
        >>> from metaembed_lite.index.snapshot import Snapshot
        >>> rows: Rows = Snapshot("my-index", table=None)
    """

    def scan(self, columns: Sequence[str], batch_rows: int) -> Iterable[Any]:
        """Record batches with these columns and ``_rowid``."""

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> Any:
        """A table with these columns and ``_rowid``, in any order."""


@dataclass(frozen=True)
class Stage:
    """One step of a search: score with ``budget``, keep the best ``keep`` candidates.

    Example:
        >>> Stage(Budget(1, 1), keep=1000)
        Stage(budget=Budget(r_q=1, r_c=1), keep=1000)
    """

    budget: Budget
    keep: int


def plan(
    columns: RingColumns,
    k: int,
    budget: BudgetLike | None,
    prefetch: Sequence[tuple[BudgetLike, int]],
) -> list[Stage]:
    """The stages of a search, the last one with the budget that was asked for.

    An int8 or binary index that keeps exact vectors gets one more stage, which rescores.

    Raises:
        ValueError: if a budget needs more vectors than the index has, ``k`` is not a whole number
            from 1 up, or a stage keeps fewer candidates than the stage after it.

    Example:
        >>> columns = RingColumns(128, ((1, 1), (4, 8)))
        >>> [stage.keep for stage in plan(columns, 10, None, [((1, 1), 200)])]
        [200, 10]
    """
    full = columns.full_budget
    k = whole_number(k, "k", reason="it counts results; ")
    stages = []
    if not isinstance(prefetch, Sequence):
        raise ValueError(f"prefetch={prefetch!r:.80}: give a list of {PAIRS}")
    for entry in prefetch:
        if not isinstance(entry, Sequence) or len(entry) != 2 or isinstance(entry, str):
            raise ValueError(f"prefetch holds {entry!r}: give {PAIRS}")
        stages.append(Stage(as_budget(entry[0]), whole_number(entry[1], "prefetch: candidates")))
    last = full if budget is None else as_budget(budget)
    if columns.rescore and not stages:
        stages.append(Stage(last, OVERSAMPLE * k))
    stages.append(Stage(last, k))
    for i, stage in enumerate(stages):
        stage.budget.check(full.r_q, full.r_c)
        if i and stage.keep > stages[i - 1].keep:
            raise ValueError(
                f"stage {i} keeps {stage.keep} of the {stages[i - 1].keep} candidates that the "
                "stage before it keeps: let each stage keep fewer"
            )
    return stages


@dataclass
class Best:
    """The best candidates so far, for each of Q queries. Equal scores are ordered by row number.

    Example:
        >>> best = Best.none(n_queries=1, keep=2)
        >>> best.add(0, np.array([0.5, 0.9, 0.7]), np.array([10, 11, 12]))
        >>> best.rows[0].tolist()
        [11, 12]
    """

    keep: int
    scores: list[np.ndarray]
    rows: list[np.ndarray]

    @classmethod
    def none(cls, n_queries: int, keep: int) -> Best:
        """No candidates yet."""
        empty = [np.empty(0, np.float32)] * n_queries
        return cls(keep, empty, [np.empty(0, np.uint64)] * n_queries)

    def add(self, q: int, scores: np.ndarray, rows: np.ndarray) -> None:
        """Take in the scores (n,) of query ``q``."""
        if len(self.scores[q]) == self.keep:  # most candidates of a long scan end here
            better = scores >= self.scores[q][-1]
            scores, rows = scores[better], rows[better]
        if not len(scores):
            return
        all_scores = np.concatenate([self.scores[q], scores])
        all_rows = np.concatenate([self.rows[q], rows.astype(np.uint64)])
        order = np.lexsort((all_rows, -all_scores))[: self.keep]
        self.scores[q], self.rows[q] = all_scores[order], all_rows[order]


@dataclass(frozen=True)
class StageStats:
    """What one stage cost. ``bytes_read`` counts the vectors that reached the scoring.

    Example:
        >>> StageStats(Budget(1, 1), candidates=1000, bytes_read=256_000, seconds=0.01).candidates
        1000
    """

    budget: Budget
    candidates: int
    bytes_read: int
    seconds: float


def scan(
    rows: Rows, columns: RingColumns, queries: Tensor, stage: Stage
) -> tuple[Best, StageStats]:
    """Score every candidate, in batches whose memory does not grow with their number.

    Args:
        rows: the table.
        columns: how it stores vectors.
        queries: (Q, R_q, D) float32.
        stage: the budget, and how many candidates to keep.

    Example:
        >>> import pyarrow as pa
        >>> columns, vectors = RingColumns(4, ((1, 1), (2, 2))), torch.eye(4).view(2, 2, 4)
        >>> table = pa.table({**columns.encode(vectors), "_rowid": [0, 1]})
        >>> class Memory:
        ...     def scan(self, names, batch_rows):
        ...         return table.select([*names, "_rowid"]).to_batches(batch_rows)
        >>> best, stats = scan(Memory(), columns, vectors[1:], Stage(Budget(2, 2), keep=1))
        >>> best.rows[0].tolist(), best.scores[0].tolist()
        ([1], [2.0])
    """
    start = time.perf_counter()
    r_q, r_c = stage.budget.r_q, stage.budget.r_c
    row_bytes = max(columns.bytes_per_candidate(r_c), r_c * columns.dim)  # bits are unpacked
    batch_rows = max(1, BATCH_BYTES // row_bytes)
    best, n_rows, n_bytes = Best.none(len(queries), stage.keep), 0, 0
    for batch in rows.scan(columns.names(r_c), batch_rows):
        scores = _score(columns, queries[:, :r_q], batch, r_c)
        numbers = batch.column("_rowid").to_numpy()
        for q in range(len(queries)):
            best.add(q, scores[q], numbers)
        n_rows += batch.num_rows
        n_bytes += _bytes(batch)
    return best, StageStats(stage.budget, n_rows, n_bytes, time.perf_counter() - start)


def rescore(
    rows: Rows, columns: RingColumns, queries: Tensor, found: Best, stage: Stage
) -> tuple[Best, StageStats]:
    """Score the candidates that an earlier stage found, from exact vectors where there are some.

    Arguments are those of ``scan``, and what the earlier stage found.

    Example:
        >>> import pyarrow as pa
        >>> columns, vectors = RingColumns(4, ((1, 1), (2, 2))), torch.eye(4).view(2, 2, 4)
        >>> table = pa.table({**columns.encode(vectors), "_rowid": [0, 1]})
        >>> class Memory:
        ...     def take(self, numbers, names):
        ...         return table.take(numbers)
        >>> found = Best(2, [np.zeros(2)], [np.array([0, 1])])
        >>> best, _ = rescore(Memory(), columns, vectors[1:], found, Stage(Budget(2, 2), keep=1))
        >>> best.rows[0].tolist()
        [1]
    """
    start = time.perf_counter()
    r_q, r_c = stage.budget.r_q, stage.budget.r_c
    batch_rows = max(1, BATCH_BYTES // columns.bytes_per_candidate(r_c, exact=True))
    best, n_bytes = Best.none(len(queries), stage.keep), 0
    for q in range(len(queries)):
        for first in range(0, len(found.rows[q]), batch_rows):
            numbers = found.rows[q][first : first + batch_rows]
            table = rows.take(numbers, columns.names(r_c, exact=True))
            scores = _score(columns, queries[q : q + 1, :r_q], table, r_c, exact=True)
            best.add(q, scores[0], table.column("_rowid").to_numpy())
            n_bytes += _bytes(table)
    n_rows = sum(len(numbers) for numbers in found.rows)
    return best, StageStats(stage.budget, n_rows, n_bytes, time.perf_counter() - start)


def _score(
    columns: RingColumns, queries: Tensor, batch: Any, r_c: int, exact: bool = False
) -> np.ndarray:
    """MaxSim (Q, n) of queries (Q, r_q, D) with a batch of n rows. Rings are never joined."""
    with torch.inference_mode():
        best = None
        for vectors in columns.decode(batch, r_c, exact):  # (n, ring, D)
            ring = best_similarities(queries, vectors)  # (Q, r_q, n)
            best = ring if best is None else torch.maximum(best, ring)
        return best.sum(dim=1).numpy()  # type: ignore[union-attr]


def _bytes(batch: Any) -> int:
    return sum(batch.column(n).nbytes for n in batch.schema.names if n != "_rowid")
