"""What a suite is: queries, candidates, who is relevant to whom, and what to train on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
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


def by_meta_task(
    p_at_1: Mapping[str, float],
    meta_tasks: Mapping[str, Collection[str]],
    out_of_distribution: Collection[str],
) -> pd.DataFrame:
    """P@1 a task, and the averages that MMEB reports.

    Args:
        p_at_1: task -> P@1, for any of the tasks.
        meta_tasks: meta-task -> all of its tasks.
        out_of_distribution: the tasks that are not trained on.

    Returns:
        Rows of task, meta_task, p_at_1: the tasks, then the mean of each meta-task, of the
        in-distribution and out-of-distribution tasks, and of all. An average over fewer tasks than
        there are says so in the column ``tasks``, such as "3 of 12".

    Raises:
        ValueError: on a name that is no task.
    """
    import pandas as pd

    every = [name for names in meta_tasks.values() for name in names]
    unknown = sorted(set(p_at_1) - set(every))
    if unknown:
        raise ValueError(f"unknown tasks: {', '.join(unknown)}; there are {', '.join(every)}")
    rows = [
        {"task": name, "meta_task": meta, "p_at_1": p_at_1[name], "tasks": "1"}
        for meta, names in meta_tasks.items()
        for name in names
        if name in p_at_1
    ]
    groups = dict(meta_tasks)
    groups["in-distribution"] = [name for name in every if name not in out_of_distribution]
    groups["out-of-distribution"] = [name for name in every if name in out_of_distribution]
    groups["overall"] = every
    for group, names in groups.items():
        found = [p_at_1[name] for name in names if name in p_at_1]
        if found:
            counted = f"{len(found)} of {len(names)}"
            mean = float(np.mean(found))
            rows.append({"task": "mean", "meta_task": group, "p_at_1": mean, "tasks": counted})
    return pd.DataFrame(rows)
