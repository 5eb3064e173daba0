"""Which queries and candidates of a task an explorer shows."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from metaembed_lite.arguments import is_count
from metaembed_lite.budget import Budget
from metaembed_lite.evaluation import EncodedTask
from metaembed_lite.scoring import maxsim


def choose_indices(choice: int | Sequence[int], n_items: int, name: str) -> list[int]:
    """Indices into a list of the task: the first few, or the ones that are named.

    Args:
        choice: how many to take from the start, or the indices themselves.
        n_items: length of the list.
        name: name of the argument, for the error.

    Raises:
        ValueError: if the choice is neither, or an index is unknown or listed twice.

    Example:
        >>> choose_indices(3, 10, "queries"), choose_indices([7, 2], 10, "queries")
        ([0, 1, 2], [7, 2])
    """
    remedy = f"give different indices from 0 to {n_items - 1}"
    values: Any = choice
    if isinstance(values, Integral):
        if not is_count(values):
            raise ValueError(f"{name}={values}: use a whole number from 1 up, or a list of indices")
        return list(range(min(int(values), n_items)))
    if isinstance(values, str | bytes | set | dict) or not hasattr(values, "__len__"):
        raise ValueError(f"{name}={values!r}: {remedy}, or how many to take")
    if len(values) == 0:
        raise ValueError(f"{name}: the list is empty; {remedy}, or how many to take")
    indices: list[int] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"{name}: {value!r} is not an index; {remedy}")
        index = int(value)
        if not 0 <= index < n_items:
            raise ValueError(f"{name}: there is no index {index}; {remedy}")
        if index in indices:
            raise ValueError(f"{name}: index {index} is listed twice; {remedy}")
        indices.append(index)
    return indices


def choose_candidates(
    encoded: EncodedTask, queries: Sequence[int], budgets: Sequence[Budget], n: int
) -> tuple[list[int], int]:
    """Choose ``n`` candidates to display for these queries.

    Relevant candidates come first. Then each query's ranking at each budget is added place by
    place, so that the best of the whole task are included.

    Args:
        encoded: a task and its embeddings.
        queries: indices into the task.
        budgets: whose rankings are used.
        n: how many candidates.

    Returns:
        The indices in ascending order, and the depth to which rankings of the chosen candidates
        equal those of the full task.

    Example:
        >>> import torch
        >>> from metaembed_lite import RetrievalTask
        >>> task = RetrievalTask("letters", ["a"], ["a", "b", "c"], np.array([[1, 0, 0]]))
        >>> candidates = torch.tensor([[[0.1]], [[0.9]], [[0.5]]])  # (3, 1, 1)
        >>> encoded = EncodedTask(task, torch.ones(1, 1, 1), candidates)
        >>> choose_candidates(encoded, [0], [Budget(1, 1)], 2)
        ([0, 1], 1)
    """
    task = encoded.task
    relevant = np.flatnonzero((task.relevance[queries] > 0).any(axis=0))
    chosen = dict.fromkeys(relevant.tolist())  # a set that keeps its order
    rankings = []
    for budget in budgets:
        scores = maxsim(encoded.queries[queries], encoded.candidates, budget).numpy()
        if task.pool is not None:
            scores = np.where(task.pool[queries], scores, -np.inf)
        rankings.append(np.argsort(-scores, axis=1, kind="stable"))
    # (budgets, queries, places) -> (places, budgets * queries)
    by_place = np.stack(rankings).transpose(2, 0, 1).reshape(len(task.candidates), -1)
    depth = 0
    for candidates in by_place:
        if len(chosen) >= n:
            break
        chosen.update(dict.fromkeys(candidates.tolist()))
        depth += len(chosen) <= n
    return sorted(list(chosen)[:n]), depth
