"""What a suite is: queries, candidates, who is relevant to whom, and what to train on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

Item = Any  # a str, a PIL image, or {"text": str, "image": PIL image}: what encode_query accepts


@dataclass(frozen=True)
class RetrievalTask:
    """A retrieval task: its evaluation split, and the training split that goes with it.

    Attributes:
        name: shown in tables and figures.
        queries: Q items (str, PIL image, or ``{"text", "image"}``).
        candidates: N items of the same kinds.
        relevance: (Q, N) float array of grades; 0 is not relevant, larger is better.
            A query may have several relevant candidates.
        train: rows ``query``, ``positive`` and, where the suite has one, ``negative``;
            None for a task that is only evaluated.
        pool: (Q, N) bool, which candidates count for a query, as in MMEB, where each query has a
            list of its own; None: all of them.
        about: one paragraph: what the data is, where it comes from, what it cannot show.
    """

    name: str
    queries: list[Item]
    candidates: list[Item]
    relevance: np.ndarray
    train: Dataset | None = field(default=None, repr=False)
    pool: np.ndarray | None = field(default=None, repr=False)
    about: str = ""

    def __post_init__(self) -> None:
        if not self.queries or not self.candidates:
            raise ValueError(
                f"task {self.name!r} has {len(self.queries)} queries and "
                f"{len(self.candidates)} candidates; it needs at least one of each"
            )
        shape = (len(self.queries), len(self.candidates))
        if self.relevance.shape != shape:
            raise ValueError(
                f"task {self.name!r}: relevance has shape {self.relevance.shape}, expected "
                f"(queries, candidates) = {shape}"
            )
        if self.pool is not None and self.pool.shape != shape:
            raise ValueError(f"task {self.name!r}: pool has shape {self.pool.shape}, not {shape}")
        if self.pool is not None and (self.relevance[~self.pool] > 0).any():
            raise ValueError(f"task {self.name!r}: a relevant candidate is not in its query's pool")
        orphans = np.flatnonzero(self.relevance.max(axis=1) <= 0)
        if len(orphans):
            raise ValueError(
                f"task {self.name!r}: {len(orphans)} queries have no relevant candidate, first "
                f"index {orphans[0]}; drop them or add their candidates"
            )

    def __repr__(self) -> str:
        rows = 0 if self.train is None else len(self.train)
        return (
            f"RetrievalTask({self.name!r}: {len(self.queries):,} queries, "
            f"{len(self.candidates):,} candidates, {rows:,} training rows)"
        )
