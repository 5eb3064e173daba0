"""Held-out rows as a retrieval task, to measure a model on rows that it does not train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from datasets import Dataset

from metaembed_lite import items
from metaembed_lite.data.rows import check_rows
from metaembed_lite.data.task import Item, RetrievalTask

Rows: TypeAlias = Dataset | Mapping[str, Any] | pd.DataFrame | Sequence[Mapping[str, Any]]


def task_from_rows(rows: Rows, name: str = "validation") -> RetrievalTask:
    """Make a task of rows: each different query searches all different positives and negatives.

    Equal items are one item. So a query with several positives has several relevant candidates.
    All images are opened and held in memory.

    Args:
        rows: as for ``train``, with the columns query, positive and any negatives. Of several sets
            by name, each query searches the candidates of its set.
        name: name of the task. Defaults to "validation".

    Raises:
        ValueError: naming the set, on no rows or wrong columns.

    Example:
        >>> pairs = {"query": ["a pet", "a pet"], "positive": ["a cat", "a dog"]}
        >>> task = task_from_rows({**pairs, "negative": ["a car", "a car"]})
        >>> task.queries, task.candidates, task.relevance.tolist()
        (['a pet'], ['a cat', 'a car', 'a dog'], [[1.0, 0.0, 1.0]])
    """
    queries: list[Item] = []
    candidates: list[Item] = []
    relevant: list[tuple[int, int]] = []
    pools: list[tuple[slice, slice]] = []
    for dataset in check_rows(rows, batch_size=1).values():
        starts = len(queries), len(candidates)
        relevant += _collect(dataset, queries, candidates)
        pools.append((slice(starts[0], len(queries)), slice(starts[1], len(candidates))))
    relevance = np.zeros((len(queries), len(candidates)))
    relevance[tuple(np.transpose(relevant))] = 1
    pool = np.zeros(relevance.shape, dtype=bool)
    for part in pools:
        pool[part] = True
    return RetrievalTask(name, queries, candidates, relevance, pool=None if pool.all() else pool)


def _collect(
    dataset: Dataset, queries: list[Item], candidates: list[Item]
) -> list[tuple[int, int]]:
    """Add a set's different items to both lists. Returns the pairs of query and positive."""
    query_places: dict[int, int] = {}
    candidate_places: dict[int, int] = {}
    pairs = []
    for row in dataset:
        query = _place(row.pop("query"), queries, query_places)
        places = {name: _place(row[name], candidates, candidate_places) for name in row}
        pairs.append((query, places["positive"]))
    return pairs


def _place(item: Item, found: list[Item], places: dict[int, int]) -> int:
    """Where an item is in a list, to which it is added if it is new."""
    parts = items.read(item)
    key = items.key(parts)
    if key not in places:
        places[key] = len(found)
        found.append(parts["text"] if parts.keys() == {"text"} else parts)
    return places[key]
