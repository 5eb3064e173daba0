"""A sheet of stickers: what it shows, its image, which queries it fits, and a compact file format.

Training needs 100,000s of sheets, which would fill many gigabytes as PNG. So rows store a sheet as
the bytes of an image file of our own format, which lists the artist and the things. Pillow renders
it when it opens the file, so everything that reads images reads sheets, once this module is
imported. A program that does not import it gets Pillow's error "cannot identify image file".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.sticker_art import SIZE, THINGS, check_artist, check_thing, draw_sticker

_HEADER = b"metaembed_lite.data.sheets\n"  # the first line of a file; the second is the content


class Sheet(NamedTuple):
    """What a sheet shows, before it is rendered.

    Attributes:
        artist: one of ``ARTISTS``, who drew all its stickers.
        things: (K,) int, indices in ``THINGS``, in reading order. K is a square number.

    Example:
        >>> Sheet("twemoji", np.array([95, 3, 4, 5])).artist
        'twemoji'
    """

    artist: str
    things: np.ndarray


def check_sheet(sheet: Sheet) -> int:
    """Check what a sheet shows, and return its side, the number of stickers per row and column.

    Raises:
        ValueError: on an unknown artist, an unknown thing, or things that do not fill a square.

    Example:
        >>> check_sheet(Sheet("twemoji", np.array([95, 3, 4, 5])))
        2
    """
    check_artist(sheet.artist)
    things = np.asarray(sheet.things)
    unknown = (things < 0) | (things >= len(THINGS))
    if things.dtype.kind not in "iu" or unknown.any():
        for thing in things.ravel().tolist():
            check_thing(thing)
    n_things = things.size
    side = round(n_things**0.5)
    if side < 1 or side * side != n_things:
        raise ValueError(f"{n_things} things do not fill a square: give 1, 4, 9, 16, 25, ...")
    return side


def render_sheet(sheet: Sheet, size: int = SIZE) -> Image.Image:
    """Render a sheet, RGB.

    Args:
        sheet: the artist and the things.
        size: edge of one sticker in pixels. Models read 32. People like more. Defaults to 32.

    Raises:
        ValueError: on an unknown artist or thing, a size below 1, or things that do not fill a
            square.

    Example:
        >>> render_sheet(Sheet("twemoji", np.arange(25))).size
        (160, 160)
    """
    side, size = check_sheet(sheet), whole_number(size, "size")
    stickers = np.stack([draw_sticker(thing, sheet.artist, size) for thing in sheet.things])
    grid = stickers.reshape(side, side, size, size, 3).swapaxes(1, 2)  # row, y, column, x, RGB
    return Image.fromarray(grid.reshape(side * size, side * size, 3))


def grade_sheets(queries: Sequence[np.ndarray], sheets: Sequence[Sheet]) -> np.ndarray:
    """Grade every sheet for every query: 1 if it shows all the named things.

    Args:
        queries: Q arrays of named things.
        sheets: N candidates.

    Returns:
        (Q, N) float32 of 0 and 1.

    Example:
        >>> sheets = [Sheet("twemoji", np.array([7, 2, 3, 4])), Sheet("twemoji", np.arange(4))]
        >>> grade_sheets([np.array([2, 7])], sheets).tolist()
        [[1.0, 0.0]]
    """
    shows = np.zeros((len(sheets), len(THINGS)), dtype=bool)
    for row, sheet in enumerate(sheets):
        shows[row, sheet.things] = True
    return np.stack([shows[:, named].all(axis=1) for named in queries]).astype(np.float32)


def store_sheet(sheet: Sheet) -> bytes:
    """The bytes of a small image file, which Pillow opens as the rendered sheet.

    Example:
        >>> store_sheet(Sheet("twemoji", np.array([95])))
        b'metaembed_lite.data.sheets\\ntwemoji 95'
    """
    check_sheet(sheet)
    return _HEADER + " ".join([sheet.artist, *map(str, sheet.things)]).encode()


def _open_sheet(file: IO[bytes], name: str | bytes) -> Any:
    artist, *things = file.read().removeprefix(_HEADER).decode().split(" ")
    if len(things) > len(THINGS):  # a small file must not claim a huge image
        raise ValueError(f"a stored sheet has {len(things):,} things, more than there are")
    return render_sheet(Sheet(artist, np.array(things, dtype=np.int64)))


def _is_sheet(prefix: bytes) -> bool:
    return _HEADER[:16] == prefix  # Pillow shows a format the first 16 bytes of a file


Image.register_open("STICKERS", _open_sheet, _is_sheet)
