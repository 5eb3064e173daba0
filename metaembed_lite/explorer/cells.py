"""What the cells of sheets and boards show, and which of them a query names.

A task has images and relevance, and no list of what its images show. Sheets and boards are painted
cell by cell from a known set of drawings, so their cells can be looked up again, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from metaembed_lite.data.boards import place_names
from metaembed_lite.data.scans import render_scans
from metaembed_lite.data.sticker_art import ARTISTS, SIZE, THINGS, draw_sticker, load_names
from metaembed_lite.data.task import Item, RetrievalTask


def cells_to_json(
    task: RetrievalTask, queries: Sequence[int], candidates: Sequence[int]
) -> dict[str, Any] | None:
    """What the queries name and what the candidates show, cell by cell.

    Args:
        task: of the suite stickers, with English queries, or of the suite handwriting. Other tasks
            have no known cells.
        queries, candidates: indices into the task.

    Returns:
        ``named``: for each query a list of ``name``, ``content`` and ``place`` (a cell in reading
        order, or None if any cell will do). ``contents``: for each candidate the content of each
        cell, or None if it is no such image. None if a query names anything else.

    Example:
        >>> from metaembed_lite import load_task
        >>> cells = cells_to_json(load_task("stickers", n_queries=2, n_train=0, side=2), [0], [0])
        >>> cells["named"][0][0]["name"], len(cells["contents"][0])
        ('bowling', 4)
    """
    if task.name not in _READERS:
        return None
    list_drawings, parse = _READERS[task.name]
    drawings = list_drawings()
    contents = [_read_cells(task.candidates[i], drawings) for i in candidates]
    sides = {round(len(cells) ** 0.5) for cells in contents if cells}
    if len(sides) != 1:
        return None
    side = sides.pop()
    named = [parse(task.queries[i], side) for i in queries]
    return {"named": named, "contents": contents} if all(named) else None


def _read_cells(item: Item, drawings: Mapping[bytes, int]) -> list[int] | None:
    """The content of each cell in reading order. None if one is no known drawing."""
    if not isinstance(item, Image.Image) or item.mode != "RGB":
        return None
    side, rest = divmod(item.width, SIZE)
    if rest or item.height != item.width:
        return None
    pixels = np.asarray(item).reshape(side, SIZE, side, SIZE, 3).swapaxes(1, 2)  # row, column, y, x
    cells = [drawings.get(cell.tobytes()) for cell in pixels.reshape(side * side, SIZE, SIZE, 3)]
    contents = [cell for cell in cells if cell is not None]
    return contents if len(contents) == len(cells) else None


@cache
def _list_stickers() -> dict[bytes, int]:
    """The pixels of every drawing -> its thing."""
    things = product(ARTISTS, range(len(THINGS)))
    return {draw_sticker(thing, artist).tobytes(): thing for artist, thing in things}


@cache
def _list_digits() -> dict[bytes, int]:
    """The pixels of every scan as a cell of a board -> its digit."""
    from sklearn.datasets import load_digits  # importing sklearn takes seconds

    digits = load_digits().target.tolist()
    return {np.asarray(render_scans([i])).tobytes(): digit for i, digit in enumerate(digits)}


def _parse_stickers(query: Item, side: int) -> list[dict[str, Any]] | None:
    """Read "violin, red apple". None if a part names no thing."""
    things = {name: thing for thing, name in enumerate(load_names())}
    parts = query.split(", ") if isinstance(query, str) else []
    if not all(part in things for part in parts):
        return None
    return [{"name": part, "content": things[part], "place": None} for part in parts]


def _parse_board(query: Item, side: int) -> list[dict[str, Any]] | None:
    """Read "4 C1, 7 A3". None if a part is no digit at a place."""
    places = {name: place for place, name in enumerate(place_names(side))}
    parts = query.split(", ") if isinstance(query, str) else []
    pairs = [part.split(" ") for part in parts]
    if not all(len(pair) == 2 and pair[0].isdigit() and pair[1] in places for pair in pairs):
        return None
    return [
        {"name": part, "content": int(digit), "place": places[place]}
        for part, (digit, place) in zip(parts, pairs, strict=True)
    ]


_Parser = Callable[[Item, int], list[dict[str, Any]] | None]
_READERS: dict[str, tuple[Callable[[], dict[bytes, int]], _Parser]] = {
    "stickers": (_list_stickers, _parse_stickers),
    "handwriting": (_list_digits, _parse_board),
}
