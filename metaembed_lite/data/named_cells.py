"""What the cells of sheets and boards show, and which of them a query names.

A task has images and relevance, and no list of what its images show. Sheets and boards are painted
cell by cell from a known set of drawings, so their cells can be looked up again, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.data.boards import place_names
from metaembed_lite.data.scans import render_scans
from metaembed_lite.data.sticker_art import ARTISTS, SIZE, THINGS, draw_sticker, load_names
from metaembed_lite.data.task import Item

MOST_SIDE = 26  # of a board, whose columns are letters


class Fact(NamedTuple):
    """One thing that a query names.

    Attributes:
        name: as the query writes it.
        content: the thing or the digit, as ``read_cells`` returns it.
        place: a cell in reading order, or None if any cell will do.

    Example:
        >>> Fact("violin", 205, None).place is None
        True
    """

    name: str
    content: int
    place: int | None


def parse_query(suite: str, query: Item, side: int) -> list[Fact] | None:
    """Read what a query of a suite names.

    Args:
        suite: one of ``READERS``.
        query: "violin, red apple" for stickers, in English, or "4 C1, 7 A3" for handwriting.
        side: cells per row and column of the candidates.

    Returns:
        the facts in their order, or None if the query is anything else.

    Raises:
        KeyError: on a suite whose images have no known cells.

    Example:
        >>> parse_query("stickers", "violin, red apple", side=4)[0]
        Fact(name='violin', content=205, place=None)
        >>> parse_query("handwriting", "4 A2", side=4), parse_query("stickers", "an owl", side=4)
        ([Fact(name='4 A2', content=4, place=4)], None)
    """
    return READERS[suite][1](query, side) if isinstance(query, str) else None


def read_cells(suite: str, item: Item) -> list[int] | None:
    """Read the content of each cell in reading order.

    Args:
        suite: one of ``READERS``.
        item: a candidate.

    Returns:
        things for stickers, digits for handwriting. None if the item is no image of the suite.

    Raises:
        KeyError: on a suite whose images have no known cells.

    Example:
        >>> from metaembed_lite.data.sheets import Sheet, render_sheet
        >>> read_cells("stickers", render_sheet(Sheet("twemoji", np.array([205, 95, 4, 7]))))
        [205, 95, 4, 7]
    """
    if not isinstance(item, Image.Image) or item.mode != "RGB":
        return None
    side, rest = divmod(item.width, SIZE)
    if rest or item.height != item.width:
        return None
    drawings = READERS[suite][0]()
    pixels = np.asarray(item).reshape(side, SIZE, side, SIZE, 3).swapaxes(1, 2)  # row, column, y, x
    cells = [drawings.get(cell.tobytes()) for cell in pixels.reshape(side * side, SIZE, SIZE, 3)]
    contents = [cell for cell in cells if cell is not None]
    return contents if len(contents) == len(cells) else None


def find_named_cells(query: Item, image: Item) -> tuple[int, dict[int, bool]]:
    """Find the cells of an image that a query names.

    Args:
        query: of a sheet of stickers or a board of digits, as for ``parse_query``.
        image: a candidate.

    Returns:
        the cells per row, and cell -> whether it shows what the query names. A cell of a board can
        show something else. ``(0, {})`` if the query or the image is anything else.

    Example:
        >>> from metaembed_lite.data.sheets import Sheet, render_sheet
        >>> sheet = render_sheet(Sheet("twemoji", np.array([205, 95, 4, 7])))
        >>> find_named_cells("red apple, violin", sheet), find_named_cells("fruit", sheet)
        ((2, {1: True, 0: True}), (0, {}))
    """
    side = image.width // SIZE if isinstance(image, Image.Image) else 0
    for suite in READERS:
        facts = parse_query(suite, query, side)
        contents = read_cells(suite, image) if facts else None
        if facts and contents:
            return side, _match(facts, contents)
    return 0, {}


def _match(facts: list[Fact], contents: list[int]) -> dict[int, bool]:
    """Cell -> whether it shows the fact. A fact without a place is where it is shown, if at all."""
    cells: dict[int, bool] = {}
    for fact in facts:
        places = [fact.place] if fact.place is not None else np.flatnonzero(
            np.array(contents) == fact.content
        ).tolist()  # fmt: skip
        cells |= {place: contents[place] == fact.content for place in places}
    return cells


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


def _parse_stickers(query: str, side: int) -> list[Fact] | None:
    """Read "violin, red apple". None if a part names no thing."""
    things = {name: thing for thing, name in enumerate(load_names())}
    parts = query.split(", ")
    return [Fact(part, things[part], None) for part in parts] if set(parts) <= set(things) else None


def _parse_board(query: str, side: int) -> list[Fact] | None:
    """Read "4 C1, 7 A3". None if a part is no digit at a place."""
    names = place_names(side) if 1 <= side <= MOST_SIDE else []
    places = {name: place for place, name in enumerate(names)}
    pairs = [part.split(" ") for part in query.split(", ")]
    if not all(len(pair) == 2 and pair[0].isdigit() and pair[1] in places for pair in pairs):
        return None
    return [Fact(" ".join(pair), int(pair[0]), places[pair[1]]) for pair in pairs]


# Suite -> its drawings, as pixels -> content, and how its queries are read.
READERS: Mapping[
    str, tuple[Callable[[], dict[bytes, int]], Callable[[str, int], list[Fact] | None]]
] = {
    "stickers": (_list_stickers, _parse_stickers),
    "handwriting": (_list_digits, _parse_board),
}
