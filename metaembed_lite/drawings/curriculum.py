"""How the tiny backbone is pretrained: what it sees in each step, what trains, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metaembed_lite.arguments import whole_number
from metaembed_lite.canvas import (
    CANDIDATE,
    INK,
    OTHER,
    draw_arrow,
    draw_box,
    draw_label,
    new_canvas,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.09  # inches of a sticker
PARTS = (  # title, sides of the images, whether the language model takes part, what is said
    ("names", (1,), False, "which of\n310 names?"),
    ("conversations", (1, 2, 3, 4, 5), True, "what is at B2?\nwhere? captions"),
    ("no captions", (4, 5), True, "what is at B2?\nwhere?"),
)


def draw_curriculum(steps: Sequence[int]) -> Figure:
    """Draw the three parts of the pretraining next to each other, from the images to the answers.

    A filled box trains, and a dashed one is frozen.

    Args:
        steps: optimizer steps of the vision tower, of the conversations, and of the last part
            without captions.

    Raises:
        ValueError: if there are not three numbers of steps, or one is no whole number from 1 up.

    Example:
        >>> figure = draw_curriculum([900, 3000, 500])
        >>> [text.get_text() for text in figure.axes[0].texts if "steps" in text.get_text()]
        ['900 steps', '3,000 steps', '500 steps']
    """
    if len(steps) != len(PARTS):
        raise ValueError(f"{len(steps)} numbers of steps: give {len(PARTS)}, one per part")
    counts = [whole_number(n, "steps") for n in steps]
    figure, ax = new_canvas(7.0, 3.75)
    for i, (part, count) in enumerate(zip(PARTS, counts, strict=True)):
        title, sides, reads, answer = part
        x = 1.2 + 2.3 * i
        draw_label(ax, x, 3.58, f"{i + 1}. {title}", INK, 12, weight="bold")
        draw_label(ax, x, 3.34, f"{count:,} steps")
        _draw_images(ax, x, 2.62, sides)
        draw_arrow(ax, (x, 2.57), (x, 2.34))
        dash = "--" if reads else "-"
        tower = (x - 0.8, 2.0)
        draw_box(ax, tower, 1.6, 0.34, "vision tower", OTHER, filled=not reads, size=11, ls=dash)
        draw_arrow(ax, (x, 1.98), (x, 1.72 if reads else 0.98))
        if reads:
            draw_box(ax, (x - 0.8, 1.38), 1.6, 0.34, "language model", CANDIDATE, size=11)
            draw_arrow(ax, (x, 1.36), (x, 0.98))
        draw_label(ax, x, 0.72, answer, size=11)
    draw_label(ax, 3.5, 0.2, "filled: it trains · dashed: it is frozen")
    return figure


def _draw_images(ax: Axes, x: float, y: float, sides: Sequence[int]) -> None:
    """Sheets of side x side stickers next to each other, on one line."""
    gap = 0.1
    left = x - (sum(sides) * CELL + gap * (len(sides) - 1)) / 2
    for side in sides:
        for row in range(side):
            for column in range(side):
                corner = (left + column * CELL, y + row * CELL)
                ax.add_patch(Rectangle(corner, CELL, CELL, fc="none", ec=INK, lw=0.9))
        left += side * CELL + gap
