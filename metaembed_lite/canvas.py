"""The look of the book's figures: colors, and a canvas in inches with boxes, arrows and labels.

Text is gray or in one of four colors, all readable on white and on black. Text inside a filled box
is white. In the drawings, queries are blue, candidates are orange, and what is right is green.
"""

from __future__ import annotations

import textwrap
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from metaembed_lite.extras import extra

with extra("plots"):
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#7a7a7a"  # contrast 4.3 on white, 4.4 on black pages (#121212): one gray for both
COLORS = ("#1b7fbd", "#c85800", "#008561", "#b0639b")  # hues of Okabe and Ito, contrast of INK
QUERY, CANDIDATE, RIGHT, OTHER = COLORS
STYLE: dict[str, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "figure.dpi": 130,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.prop_cycle": f"cycler(color={list(COLORS)})",
    "grid.alpha": 0.25,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor",
         "xtick.color", "ytick.color", "grid.color"), INK,
    ),
}  # fmt: skip

Point = tuple[float, float]


def use_style() -> AbstractContextManager[None]:
    """Give a figure the look of the book.

    Example:
        >>> with use_style():
        ...     fig, ax = plt.subplots()
        >>> ax.spines["top"].get_visible()
        False
        >>> plt.close(fig)
    """
    return plt.rc_context(STYLE)


def new_canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A transparent figure whose axes are measured in inches, from the lower left corner.

    It is closed in pyplot, so a notebook shows it once. It is made by pyplot, because a notebook
    shows no figure before pyplot has made one.

    Example:
        >>> figure, ax = new_canvas(6.5, 2.0)
        >>> ax.get_xlim()
        (np.float64(0.0), np.float64(6.5))
    """
    with use_style():
        figure = plt.figure(figsize=(width, height))
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set(xlim=(0, width), ylim=(0, height))
        ax.axis("off")
    plt.close(figure)
    return figure, ax


def draw_label(
    ax: Axes, x: float, y: float, text: str, color: str = INK, size: float = 10, **options: Any
) -> None:
    """Write a text, centered at a point unless ``ha`` or ``va`` say otherwise.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> draw_label(ax, 1.5, 0.5, "a query")
        >>> ax.texts[0].get_text()
        'a query'
    """
    look: dict[str, Any] = {"ha": "center", "va": "center_baseline", "linespacing": 1.25}
    ax.text(x, y, text, color=color, fontsize=size, **(look | options))


def draw_box(
    ax: Axes,
    corner: Point,
    width: float,
    height: float,
    text: str = "",
    color: str = INK,
    *,
    filled: bool = True,
    size: float = 10,
    **options: Any,
) -> None:
    """Draw a box with round corners and a text in it.

    Args:
        ax: axes of ``new_canvas``.
        corner: (x, y) of the lower left corner.
        width, height: in inches.
        text: white in a filled box, else in the color of the box. Defaults to none.
        color: of the box. Defaults to gray.
        filled: whether the box is filled. Defaults to True.
        size: of the text, in points. Defaults to 10.
        options: of the matplotlib patch, such as ``ls="--"``.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> draw_box(ax, (0.5, 0.2), 2.0, 0.6, "model")
        >>> ax.texts[0].get_color()
        'white'
    """
    radius = min(0.18 * min(width, height), 0.09)
    style = f"round,pad=0,rounding_size={radius:.3f}"
    look: dict[str, Any] = {"fc": color if filled else "none", "ec": color, "lw": 1.3}
    ax.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, **(look | options)))
    if text:
        middle = (corner[0] + width / 2, corner[1] + height / 2)
        draw_label(ax, *middle, text, "white" if filled else color, size)


def draw_query(ax: Axes, query: str, corner: Point, width: float) -> None:
    """Draw the text of a query in a blue box. A long text is wrapped.

    Args:
        ax: axes of ``new_canvas``.
        query: the text.
        corner: (x, y) of the lower left corner.
        width: in inches. The height is ``query_height``.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> draw_query(ax, "a red apple", (0.1, 0.1), 2.8)
        >>> ax.texts[0].get_text()
        'query: a red apple'
    """
    lines = _wrap_query(query, width)
    height = query_height(query, width)
    draw_box(ax, corner, width, height, color=QUERY, filled=False, lw=1.8)
    middle = (corner[0] + width / 2, corner[1] + height / 2)
    draw_label(ax, *middle, "\n".join(lines), QUERY, 12)


def query_height(query: str, width: float) -> float:
    """The height of the box of a query, in inches.

    Example:
        >>> query_height("a red apple", 6.0)
        0.46
    """
    return round(0.24 + 0.22 * len(_wrap_query(query, width)), 2)


def _wrap_query(query: str, width: float) -> list[str]:
    return textwrap.wrap(f"query: {query}", int(9 * width))


def draw_arrow(
    ax: Axes, start: Point, end: Point, color: str = INK, width: float = 1.3, **options: Any
) -> None:
    """Draw an arrow between two points.

    Args:
        ax: axes of ``new_canvas``.
        start, end: (x, y) in inches.
        color: Defaults to gray.
        width: of the line, in points. Defaults to 1.3.
        options: of the matplotlib arrow, such as ``arrowstyle="<->"``.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> draw_arrow(ax, (0.5, 0.5), (2.5, 0.5))
        >>> len(ax.texts)
        1
    """
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 8 + 2 * width}
    arrow |= {"color": color, "lw": width} | options
    ax.annotate("", end, start, arrowprops=arrow)


def draw_vectors(
    ax: Axes, corner: Point, n: int, color: str, width: float = 0.13, height: float = 0.42
) -> None:
    """Draw n vectors side by side, each as a column of four values.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> draw_vectors(ax, (0.5, 0.2), 2, COLORS[0])
        >>> len(ax.patches)
        8
    """
    for i, k in np.ndindex(n, 4):
        x, y = corner[0] + i * (width + 0.06), corner[1] + k * height / 4
        cell = Rectangle((x, y), width, height / 4, fc=color, ec=color, lw=0.8)
        cell.set_alpha((0.95, 0.55, 0.8, 0.35)[(k + i) % 4])
        ax.add_patch(cell)


def mark_area(
    ax: Axes,
    corner: Point,
    width: float,
    height: float,
    *,
    is_right: bool,
    badge: float = 0.1,
    line: float = 3,
) -> None:
    """Outline an area of an image: green with a check mark, or dashed orange with a cross.

    Args:
        ax: the axes, in any unit with equal steps in x and y.
        corner: (x, y) of the lower left corner.
        width, height: of the area.
        is_right: whether the area is what the query asks for.
        badge: radius of the mark in the upper right corner. 0 draws none. Defaults to 0.1.
        line: width of the outline, in points. Defaults to 3.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> mark_area(ax, (0.5, 0.2), 0.6, 0.6, is_right=True)
        >>> len(ax.patches)  # the outline, its white border and the mark
        3
    """
    color, dash = (RIGHT, "-") if is_right else (CANDIDATE, (0, (2.2, 1.2)))
    white = ("white", 1.8 * line, "-")  # below, so that the outline shows on any image
    for edge, points, style in ((color, line, dash), white):
        area = Rectangle(corner, width, height, fill=False, ec=edge, lw=points, ls=style)
        area.set_zorder(4 if edge == color else 3)
        ax.add_patch(area)
    if not badge:
        return
    x, y = corner[0] + width - 0.75 * badge, corner[1] + height - 0.75 * badge
    ax.add_patch(Circle((x, y), badge, fc=color, ec="white", lw=1.2, zorder=5))
    check = [[(-0.5, 0.0), (-0.12, -0.4), (0.5, 0.4)]]
    cross = [[(-0.4, -0.4), (0.4, 0.4)], [(-0.4, 0.4), (0.4, -0.4)]]
    for stroke in check if is_right else cross:
        path = np.array(stroke) * badge + (x, y)
        ax.plot(*path.T, color="white", lw=1.8, solid_capstyle="round", zorder=6)


def show_image(ax: Axes, image: Any, corner: Point, edge: float) -> None:
    """Show an image in a square. Its shape is kept, and few pixels stay sharp.

    Args:
        ax: axes of ``new_canvas``.
        image: a PIL image, or an array (H, W) or (H, W, 3).
        corner: (x, y) of the lower left corner.
        edge: of the square.

    Example:
        >>> figure, ax = new_canvas(3, 1)
        >>> show_image(ax, np.zeros((8, 8)), (0.1, 0.1), 0.8)
        >>> len(ax.images)
        1
    """
    pixels = np.asarray(image)
    scale = edge / max(pixels.shape[:2])
    height, width = (n * scale for n in pixels.shape[:2])
    x, y = corner[0] + (edge - width) / 2, corner[1] + (edge - height) / 2
    extent = (x, x + width, y, y + height)
    ax.imshow(pixels, cmap="gray", extent=extent, aspect="auto", interpolation="auto")
    ax.add_patch(Rectangle((x, y), width, height, fill=False, ec=INK, lw=1))


def spread(positions: Any, gap: float, end: float = np.inf) -> np.ndarray:
    """Move labels apart: at least ``gap`` between neighbors. The order stays.

    Args:
        positions: (n,) in ascending order.
        gap: the smallest distance.
        end: the largest position. Defaults to no limit.

    Example:
        >>> spread([0.0, 0.1, 2.0], 0.5).tolist()
        [0.0, 0.5, 2.0]
        >>> spread([0.0, 1.9, 2.0], 0.5, end=2.0).tolist()
        [0.0, 1.5, 2.0]
    """
    places = np.array(positions, dtype=float)
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    for i in reversed(range(len(places))):  # back from the end
        places[i] = min(places[i], end - gap * (len(places) - 1 - i))
    return places
