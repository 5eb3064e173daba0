"""What handwriting and scenes share: a board, a query about some of its places, a hard negative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from PIL import Image

from metaembed_lite.data.rows import rows

PLACES = (
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
)  # fmt: skip
CELL = 16  # pixels: the edge of a place in an image of 48 x 48


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
