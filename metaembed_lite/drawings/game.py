"""What is searched: a query, the image that it names, and the hard negative."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from metaembed_lite.arguments import whole_number
from metaembed_lite.canvas import (
    CANDIDATE,
    RIGHT,
    draw_label,
    draw_query,
    mark_area,
    new_canvas,
    query_height,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, EDGE, TOP, MARGIN = 6.5, 2.9, 0.34, 0.2  # inches: figure, image, caption, sides


def draw_game(
    query: str,
    right: Any,
    negative: Any,
    named: Sequence[int],
    replaced: int,
    columns: int,
) -> Figure:
    """Draw a query above the right image and the hard negative, with the named cells outlined.

    Green outlines are what the query names. The dashed orange cell with a cross shows something
    else in the hard negative.

    Args:
        query: the text.
        right, negative: PIL images, or arrays (H, W) or (H, W, 3).
        named: the cells that the query names, numbered row by row from 0.
        replaced: the one of them in which the negative differs.
        columns: cells per row of an image. The image has as many rows.

    Raises:
        ValueError: if a cell is not in the grid, or the query does not name ``replaced``.

    Example:
        >>> import numpy as np
        >>> board = np.zeros((24, 24))
        >>> figure = draw_game("4 A1, 7 C2", board, board, named=[0, 5], replaced=5, columns=3)
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['query: 4 A1, 7 C2', 'right: shows all 2', 'hard negative: one is replaced']
    """
    columns = whole_number(columns, "columns")
    cells = [whole_number(cell, "a named cell", least=0) for cell in named]
    outside = [cell for cell in cells if cell >= columns * columns]
    if not cells or outside:
        raise ValueError(
            f"named cells {list(named)}: give at least one, numbered from 0 to "
            f"{columns * columns - 1} on a grid of {columns} x {columns}"
        )
    if replaced not in cells:
        raise ValueError(
            f"replaced={replaced!r} is not one of the named cells {cells}: the hard negative "
            "differs in a cell that the query names"
        )
    width, y = WIDTH - 2 * MARGIN, 0.08 + EDGE + TOP + 0.1
    figure, ax = new_canvas(WIDTH, y + query_height(query, width) + 0.05)
    draw_query(ax, query, (MARGIN, y), width)
    _draw_image(ax, MARGIN, right, cells, columns)
    _draw_image(ax, WIDTH - MARGIN - EDGE, negative, cells, columns, replaced)
    return figure


def _draw_image(
    ax: Axes, x: float, image: Any, named: list[int], columns: int, replaced: int = -1
) -> None:
    """The image with its caption. Cells that the query names are outlined."""
    is_right, side = replaced < 0, EDGE / columns
    caption = f"right: shows all {len(named)}" if is_right else "hard negative: one is replaced"
    color = RIGHT if is_right else CANDIDATE
    draw_label(ax, x + EDGE / 2, 0.08 + EDGE + TOP / 2, caption, color, 11)
    show_image(ax, image, (x, 0.08), EDGE)
    for cell in named:
        row, column = divmod(cell, columns)
        corner = (x + column * side + 0.04, 0.08 + EDGE - (row + 1) * side + 0.04)
        mark_area(ax, corner, side - 0.08, side - 0.08, is_right=cell != replaced)
