"""What handwriting and scenes share: a board, a query about some of its places, a hard negative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data.rows import from_records
from metaembed_lite.data.task import Item

if TYPE_CHECKING:
    from datasets import Dataset


class Triple(NamedTuple):
    """One training example or one test query, as symbols, before anything is drawn.

    Attributes:
        board: (9,) or (9, attributes) int, what each place holds.
        places: (k,) int, the places that the query names, in the order it names them.
        negative: like ``board``, and different from it at one named place.
    """

    board: np.ndarray
    places: np.ndarray
    negative: np.ndarray


def check_sizes(n_queries: int, n_train: int) -> None:
    """Raises ValueError unless there is at least one query and no negative number of rows."""
    if n_queries < 1 or n_train < 0:
        raise ValueError(
            f"n_queries={n_queries}, n_train={n_train}: need n_queries >= 1 and n_train >= 0"
        )


def satisfied(triples: Sequence[Triple], boards: Sequence[np.ndarray]) -> np.ndarray:
    """(Q, N) float32: 1 where a board holds what a query names at all the places it names."""
    contents = np.stack(boards)  # (N, 9, ...)
    fits = [contents[:, t.places] == t.board[t.places] for t in triples]
    return np.stack([fit.reshape(len(contents), -1).all(axis=1) for fit in fits]).astype(np.float32)


def table(
    triples: Iterable[Triple],
    describe: Callable[[np.ndarray, np.ndarray], str],
    draw: Callable[[np.ndarray], Image.Image],
) -> Dataset:
    """Rows (query, positive, negative): text, image, image; triples and drawings in turn."""
    return rows((describe(t.board, t.places), draw(t.board), draw(t.negative)) for t in triples)


def rows(examples: Iterable[tuple[Item, Item, Item]]) -> Dataset:
    """Rows (query, positive, negative), as ``from_records`` makes them."""
    names = ("query", "positive", "negative")
    return from_records(dict(zip(names, example, strict=True)) for example in examples)
