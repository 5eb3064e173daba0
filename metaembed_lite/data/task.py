"""What a suite is: queries, candidates, who is relevant to whom, and what to train on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

LARGEST_GRADE = 1e300  # NDCG adds grades up, and the sum must not overflow

Item = Any  # a str, a picture (PIL image, Path, bytes, array) or {"text", "image"}: see items.py


@dataclass(frozen=True)
class RetrievalTask:
    """A retrieval task: its evaluation split, and the training split that goes with it.

    Attributes:
        name: shown in tables and figures.
        queries: Q items: a str, a picture, or ``{"text", "image"}`` (see ``items.read``).
        candidates: N items of the same kinds.
        relevance: (Q, N) grades, finite and at least 0, of any real type; kept as float64. 0 is
            not relevant, larger is better. A query may have several relevant candidates.
        train: rows ``query``, ``positive`` and, where the suite has one, ``negative``;
            None for a task that is only evaluated.
        pool: (Q, N) bool or 0/1, which candidates count for a query, as in MMEB, where each query
            has its own list; kept as bool. None: all of them.
        about: one paragraph: what the data is, where it comes from, what it cannot show.

    Raises:
        ValueError: on shapes that do not fit, grades or a pool of other values, a relevant
            candidate outside of its query's pool, or a query without a relevant candidate.
    """

    name: str
    queries: list[Item]
    candidates: list[Item]
    relevance: np.ndarray
    train: Dataset | None = field(default=None, repr=False)
    pool: np.ndarray | None = field(default=None, repr=False)
    about: str = ""

    def __post_init__(self) -> None:
        for name in ("queries", "candidates"):
            items = getattr(self, name)
            if isinstance(items, str | bytes) or not hasattr(items, "__len__"):
                raise ValueError(f"task {self.name!r}: {name} is not a list: {items!r:.60}")
        if len(self.queries) == 0 or len(self.candidates) == 0:
            raise ValueError(
                f"task {self.name!r} has {len(self.queries)} queries and "
                f"{len(self.candidates)} candidates; it needs at least one of each"
            )
        shape = (len(self.queries), len(self.candidates))
        for name, read in (("relevance", as_grades), ("pool", as_pool)):
            if name == "relevance" or self.pool is not None:
                try:
                    object.__setattr__(self, name, read(getattr(self, name), shape))
                except ValueError as error:
                    raise ValueError(f"task {self.name!r}: {error}") from None
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


def as_grades(values: Any, shape: tuple[int, int]) -> np.ndarray:
    """Grades of relevance as float64, (Q, N) = ``shape``.

    Raises:
        ValueError: unless they are real numbers of that shape, from 0 to ``LARGEST_GRADE``.
    """
    grades = _real(values, "relevance", shape).astype(np.float64)
    bad = ~((grades >= 0) & (grades <= LARGEST_GRADE))  # so written, NaN is bad too
    if bad.any():
        where = tuple(np.argwhere(bad)[0].tolist())
        raise ValueError(
            f"relevance{list(where)} is {grades[where]}: grades must be finite, from 0 (not "
            f"relevant) to {LARGEST_GRADE:.0e}"
        )
    return grades


def as_pool(values: Any, shape: tuple[int, int]) -> np.ndarray:
    """A pool as bool, (Q, N) = ``shape``: True where a candidate counts for a query.

    Raises:
        ValueError: unless it is bool, or 0 and 1, of that shape.
    """
    pool = _real(values, "pool", shape)
    bad = (pool != 0) & (pool != 1)
    if bad.any():
        raise ValueError(
            f"pool holds {pool[bad][0]}: expected bool, or 1 for a candidate that counts"
        )
    return pool == 1


def _real(values: Any, name: str, shape: tuple[int, int]) -> np.ndarray:
    """The values as an array of real numbers of that shape."""
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(f"{name} is a numpy masked array, whose mask would be lost: fill it first")
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is not a (queries, candidates) array: {error}") from error
    if array.shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, expected (queries, candidates) = {shape}"
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has type {array.dtype}: expected real numbers")
    return array


def by_meta_task(
    p_at_1: Mapping[str, float],
    meta_tasks: Mapping[str, Collection[str]],
    out_of_distribution: Collection[str],
) -> pd.DataFrame:
    """P@1 per task, and the averages that MMEB reports.

    Args:
        p_at_1: task -> P@1, for any of the tasks.
        meta_tasks: meta-task -> all of its tasks.
        out_of_distribution: the tasks that are not trained on.

    Returns:
        Rows of task, meta_task, p_at_1: the tasks, then the mean of each meta-task, of the
        in-distribution and out-of-distribution tasks, and of all. An average over fewer tasks than
        there are says so in the column ``tasks``, such as "3 of 12".

    Raises:
        ValueError: on a name that is not a task, or a value that is not finite.
    """
    import pandas as pd

    every = [name for names in meta_tasks.values() for name in names]
    unknown = sorted(set(p_at_1) - set(every))
    if unknown:
        raise ValueError(f"unknown tasks: {', '.join(unknown)}; there are {', '.join(every)}")
    for name, value in p_at_1.items():
        if not np.isfinite(value):
            raise ValueError(f"p_at_1 of {name} is {value}: an average needs finite values")
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
