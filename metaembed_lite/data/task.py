"""A retrieval task: queries, candidates, relevance, training rows. And helpers for all suites."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset

from metaembed_lite.arguments import whole_number

MAX_GRADE = 1e300  # NDCG adds grades, and the sum must not overflow
SPLITS = ("train", "validation", "test")
# The numbers that keep the random streams apart. Other numbers would sample other tasks.
_SPLIT_STREAMS = {"test": 2, "train": 3, "validation": 4}
_TRAINING_STREAM = 1

Item = Any  # a str, an image (PIL image, Path, bytes, array) or {"text", "image"}: see items.py


@dataclass(frozen=True)
class RetrievalTask:
    """A retrieval task: its evaluation split, and the training split that goes with it.

    Attributes:
        name: shown in tables and figures.
        queries: Q items: a str, an image, or ``{"text", "image"}`` (see ``items.read``).
        candidates: N items of the same kinds.
        relevance: (Q, N) grades, finite and at least 0, of any real type. They are stored as
            float64. 0 is not relevant, and larger is better. A query may have several relevant
            candidates.
        train: rows ``query``, ``positive`` and, where the suite has one, ``negative``. Defaults to
            None, for a task that is only evaluated.
        pool: (Q, N) bool or 0/1, which candidates count for a query. In MMEB, for example, each
            query has its own list. It is stored as bool. Defaults to None, so all candidates
            count.
        about: what the data is, where it comes from and what it cannot show. Defaults to "".
        candidate_names: N different names by which a person finds a candidate, such as the paths of
            files. Defaults to None.

    Raises:
        ValueError: on shapes that do not match, or invalid grades, pool values or names. Also on a
            relevant candidate outside its query's pool, or a query without a relevant candidate.

    Example:
        >>> RetrievalTask("pets", ["meow", "woof"], ["cat", "dog"], np.eye(2))
        RetrievalTask('pets': 2 queries, 2 candidates, 0 training rows)
    """

    name: str
    queries: list[Item]
    candidates: list[Item]
    relevance: np.ndarray
    train: Dataset | None = field(default=None, repr=False)
    pool: np.ndarray | None = field(default=None, repr=False)
    about: str = ""
    candidate_names: list[str] | None = field(default=None, repr=False)

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
        try:
            object.__setattr__(self, "relevance", as_grades(self.relevance, shape))
            if self.pool is not None:
                object.__setattr__(self, "pool", as_pool(self.pool, shape))
        except ValueError as error:
            raise ValueError(f"task {self.name!r}: {error}") from None
        if self.pool is not None and (self.relevance[~self.pool] > 0).any():
            raise ValueError(f"task {self.name!r}: a relevant candidate is not in its query's pool")
        _check_names(self.name, self.candidate_names, shape[1])
        unanswered = np.flatnonzero(self.relevance.max(axis=1) <= 0)
        if len(unanswered):
            raise ValueError(
                f"task {self.name!r}: {len(unanswered)} queries have no relevant candidate, first "
                f"index {unanswered[0]}; drop them or add their candidates"
            )

    def __repr__(self) -> str:
        n_train = 0 if self.train is None else len(self.train)
        return (
            f"RetrievalTask({self.name!r}: {len(self.queries):,} queries, "
            f"{len(self.candidates):,} candidates, {n_train:,} training rows)"
        )


def _check_names(task: str, names: Any, n: int) -> None:
    if names is None:
        return
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"task {task!r}: candidate_names is not a list of texts: {names!r:.60}")
    if len(names) != n or len(set(names)) != n:
        raise ValueError(
            f"task {task!r}: {len(names)} candidate_names, {len(set(names))} of them different, "
            f"for {n} candidates; give each candidate a name that no other has"
        )


def as_grades(values: Any, shape: tuple[int, int]) -> np.ndarray:
    """Convert grades of relevance to float64, (Q, N) = ``shape``.

    Raises:
        ValueError: unless they are real numbers of that shape, from 0 to ``MAX_GRADE``.

    Example:
        >>> as_grades([[1, 0], [0, 2]], (2, 2)).tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    grades = _real(values, "relevance", shape).astype(np.float64)
    bad = ~((grades >= 0) & (grades <= MAX_GRADE))  # NaN fails both comparisons, so it is bad too
    if bad.any():
        position = tuple(np.argwhere(bad)[0].tolist())
        raise ValueError(
            f"relevance{list(position)} is {grades[position]}: grades must be finite, from 0 (not "
            f"relevant) to {MAX_GRADE:.0e}"
        )
    return grades


def as_pool(values: Any, shape: tuple[int, int]) -> np.ndarray:
    """Convert a pool to bool, (Q, N) = ``shape``: True where a candidate counts for a query.

    Raises:
        ValueError: unless it is bool, or 0 and 1, of that shape.

    Example:
        >>> as_pool([[1, 0]], (1, 2)).tolist()
        [[True, False]]
    """
    pool = _real(values, "pool", shape)
    bad = (pool != 0) & (pool != 1)
    if bad.any():
        raise ValueError(
            f"pool holds {pool[bad][0]}: expected bool, or 1 for a candidate that counts"
        )
    return pool == 1


def _real(values: Any, name: str, shape: tuple[int, int]) -> np.ndarray:
    """Convert values to an array of real numbers of a shape."""
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


def check_sizes(n_queries: int, n_train: int) -> None:
    """Check that there is at least one query and that ``n_train`` is not negative.

    Raises:
        ValueError: naming the argument, also if it is a bool or no whole number.

    Example:
        >>> check_sizes(n_queries=500, n_train=0)
    """
    whole_number(n_queries, "n_queries")
    whole_number(n_train, "n_train", least=0)


def check_split(split: str) -> None:
    """Check that a split is one of ``SPLITS``.

    Raises:
        ValueError: on an unknown split.

    Example:
        >>> check_split("test")
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")


def split_rng(seed: int, split: str, *stream: int) -> np.random.Generator:
    """Create the random generator that samples the queries and candidates of a split.

    Args:
        seed: random seed of the task.
        split: "train", "validation" or "test".
        *stream: numbers that keep the tasks of one suite apart.

    Raises:
        ValueError: on an unknown split.

    Example:
        >>> split_rng(0, "test").integers(10, size=3).tolist()
        [9, 0, 2]
    """
    check_split(split)
    return np.random.default_rng([seed, _SPLIT_STREAMS[split], *stream])


def training_rng(seed: int, *stream: int) -> np.random.Generator:
    """Create the random generator that samples training rows. No split's generator equals it.

    Args:
        seed: random seed of the task.
        *stream: numbers that keep the tasks of one suite apart.

    Example:
        >>> training_rng(0).integers(10, size=3).tolist()
        [5, 8, 9]
    """
    return np.random.default_rng([seed, _TRAINING_STREAM, *stream])
