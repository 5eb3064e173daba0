"""How a search goes through an index: the stages of a cascade, and what they read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import BudgetLike, as_budget
from metaembed_lite.canvas import COLORS, INK, draw_label, new_canvas

WIDTH, HEIGHT = 4.2, 2.0  # inches of the whole index


def draw_cascade(
    n_candidates: int, prefetch: Sequence[tuple[BudgetLike, int]], budget: BudgetLike
) -> Figure:
    """Draw the stages of a cascade as areas of the index. An area is the bytes that a stage reads.

    Candidates are columns, with the best ones on the left. Their vectors are rows.

    Args:
        n_candidates: in the index.
        prefetch: one to three stages, as in ``MetaIndex.search``: pairs of a budget and the number
            of candidates to keep.
        budget: of the last stage, which has the largest r_c.

    Raises:
        ValueError: if there is no stage or more than three, or a stage keeps more candidates than
            it scores, or the stages do not grow.

    Example:
        >>> figure = draw_cascade(2000, [((1, 1), 200)], (8, 16))
        >>> [text.get_text() for text in figure.axes[0].texts if "scores" in text.get_text()]
        ['1. (1, 1) scores\\n2,000', '2. (8, 16) scores\\n200']
    """
    if not 1 <= len(prefetch) <= len(COLORS) - 1:
        raise ValueError(f"prefetch has {len(prefetch)} stages: the drawing has room for 1 to 3")
    budgets = [as_budget(stage) for stage, _ in prefetch] + [as_budget(budget)]
    counts = [whole_number(n, "candidates") for n in (n_candidates, *(k for _, k in prefetch))]
    if counts != sorted(counts, reverse=True):
        raise ValueError(f"the stages score {counts} candidates: let each stage keep fewer")
    heights = [stage.r_c for stage in budgets]
    if heights != sorted(heights):
        raise ValueError(f"the stages read {heights} vectors: let each stage read more")
    left, bottom = 0.75, 0.85
    top, right = bottom + HEIGHT, left + WIDTH
    figure, ax = new_canvas(right + 1.9, top + 0.5)
    outline: dict[str, Any] = {"fill": False, "ec": INK, "lw": 1.2, "ls": (0, (4, 3))}
    ax.add_patch(Rectangle((left, bottom), WIDTH, HEIGHT, **outline))
    for i, (stage, count) in enumerate(zip(budgets, counts, strict=True)):
        size = (WIDTH * count / counts[0], HEIGHT * stage.r_c / heights[-1])
        corner = (left, top - size[1])
        ax.add_patch(Rectangle(corner, *size, fc=COLORS[i], ec="white", lw=0.8, zorder=2 + i))
        text = f"{i + 1}. {stage} scores\n{count:,}"
        draw_label(ax, right + 0.2, top - 0.25 - 0.5 * i, text, COLORS[i], 11, ha="left")
    title = f"{n_candidates:,} candidates, those that a stage keeps at the left"
    draw_label(ax, left, top + 0.27, title, size=11, ha="left")
    for y, row in ((top - 0.08, 1), (bottom + 0.08, heights[-1])):
        draw_label(ax, left - 0.1, y, str(row), size=11, ha="right")
    draw_label(ax, 0.2, (top + bottom) / 2, "vectors", size=11, rotation=90, va="center")
    for y, text in ((0.55, "an area is the bytes that a stage reads"),
                    (0.27, "dashed: what a search at the full budget reads")):  # fmt: skip
        draw_label(ax, left, y, text, ha="left")
    return figure
