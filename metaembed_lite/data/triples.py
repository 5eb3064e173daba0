"""What handwriting and scenes share: a board, a query about some of its places, a hard negative."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data.task import Item
from metaembed_lite.items import read

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
    """Rows (query, positive, negative). A column is of one kind: text, image, or both.

    In a column of both, or of items of several kinds, a row has None for the part that it lacks.
    Images are compressed as they come, so that large ones need not all be in memory.
    """
    from datasets import Dataset, Features, Value

    from metaembed_lite.data.picture_feature import PictureFeature

    image = PictureFeature()
    columns: dict[str, list[dict[str, Any]]] = {"query": [], "positive": [], "negative": []}
    for example in examples:
        for name, item in zip(columns, example, strict=True):
            parts = read(item)
            if "image" in parts:
                parts["image"] = image.encode_example(parts["image"])
            columns[name].append(parts)
    kinds: dict[str, Any] = {}
    stored: dict[str, list[Any]] = {}
    for name, column in columns.items():
        names = {part for parts in column for part in parts}
        if len(names) == 1:
            (part,) = names
            kinds[name] = Value("string") if part == "text" else image
            stored[name] = [parts[part] for parts in column]
        else:
            kinds[name] = {"text": Value("string"), "image": image}
            stored[name] = [{k: parts.get(k) for k in ("text", "image")} for parts in column]
    return Dataset.from_dict(stored, features=Features(kinds))
