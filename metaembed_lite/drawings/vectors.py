"""How vectors are added, compared and stored: sums, score matrices, nested corners and rings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budgets, check_nested, rings
from metaembed_lite.canvas import (
    CANDIDATE,
    COLORS,
    INK,
    OTHER,
    QUERY,
    draw_arrow,
    draw_label,
    new_canvas,
    spread,
    use_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

MINUS = "\N{MINUS SIGN}"


def draw_sum(n_facts: int = 5, seed: int = 122) -> Figure:
    """Draw facts that are added into one vector, and the sum's projection on the first fact.

    The facts are vectors of length 1. The first one points right, and the others point anywhere.
    The projection of the sum on the first fact is 1, the signal, plus what the other facts happen
    to add, the noise.

    Args:
        n_facts: number of facts. Defaults to 5.
        seed: of the random directions. Defaults to 122, whose arrows do not overlap.

    Raises:
        ValueError: if there are fewer than 2 facts.

    Example:
        >>> figure = draw_sum(n_facts=3)
        >>> [text.get_text() for text in figure.axes[0].texts if text.get_text()][:2]
        ['the first fact', '2 other facts']
    """
    n_facts = whole_number(n_facts, "n_facts", least=2)
    angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, n_facts - 1)
    angles = np.concatenate([[0.0], angles])  # the first fact points right
    facts = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (n_facts, 2)
    tips = np.vstack([np.zeros(2), facts.cumsum(axis=0)])  # (n_facts + 1, 2)
    noise = float(tips[-1, 0]) - 1.0
    span = np.ptp(tips, axis=0)
    scale = min(3.5 / span[0], 2.4 / max(span[1], 1e-9), 1.2)  # inches per unit
    points = (tips - tips.min(axis=0)) * scale + (0.3, 1.2)
    top = max(points[:, 1].max(), 2.1)
    text_left = max(points[:, 0].max() + 0.4, 2.4)
    figure, ax = new_canvas(text_left + 2.1, top + 0.2)
    for point in points[[0, 1, -1]]:
        ax.plot([point[0]] * 2, [0.6, point[1]], color=INK, lw=1, ls=(0, (2, 3)), zorder=0)
    for i in range(n_facts):
        draw_arrow(ax, points[i], points[i + 1], INK if i else QUERY, 2 if i else 3.2)
    draw_arrow(ax, points[0], points[-1], CANDIDATE, 3.2)
    start, split, end = points[[0, 1, -1], 0]
    draw_arrow(ax, (start, 0.9), (split, 0.9), QUERY, 3.2)
    draw_arrow(ax, (split, 0.6), (end, 0.6), OTHER, 3.2)
    sign = "+" if noise >= 0 else MINUS
    score = f"{1 + noise:.2f}".replace("-", MINUS)
    others = f"{n_facts - 1} other fact" + "s" * (n_facts > 2)
    for y, text, color in (
        (top - 0.05, "the first fact", QUERY),
        (top - 0.37, others, INK),
        (top - 0.69, "their sum: one vector", CANDIDATE),
        (0.9, "signal: 1", QUERY),
        (0.6, f"noise: {sign}{abs(noise):.2f}", OTHER),
        (0.22, f"sum · first fact = {score}", INK),
    ):
        draw_label(ax, text_left, y, text, color, 12, ha="left")
    return figure


def draw_scores(scores: Mapping[str, ArrayLike]) -> Figure:
    """Draw the scores of a batch at several times of a training, as heat maps on one scale.

    The right pairs, on the diagonal, are outlined. Square maps stand next to each other, and wide
    ones below each other.

    Args:
        scores: title -> (B, B), or (B, 2B) if each query has a hard negative in the second half.

    Raises:
        ValueError: if there are no scores, a shape is neither of the two, or a score is not
            finite.

    Example:
        >>> figure = draw_scores({"step 0": np.zeros((3, 3)), "step 90": np.eye(3)})
        >>> [ax.get_title() for ax in figure.axes[:2]]
        ['step 0', 'step 90']
    """
    tables = _check_tables(scores)
    low = min(table.min() for table in tables.values())
    high = max(table.max() for table in tables.values())
    is_wide = any(table.shape[1] > table.shape[0] for table in tables.values())
    n = len(tables)
    width = 4.9 if is_wide else 5.6 / n  # inches of a panel
    heights = [width * table.shape[0] / table.shape[1] + 0.35 for table in tables.values()]
    size = (6.8, sum(heights) + 0.5 if is_wide else min(max(heights), 3.4) + 0.55)
    with use_style():
        figure, grid = plt.subplots(
            *((n, 1) if is_wide else (1, n)), squeeze=False, layout="constrained", figsize=size
        )
        plt.close(figure)
        for i, (ax, (title, table)) in enumerate(zip(grid.flat, tables.items(), strict=True)):
            shades = ax.imshow(table, cmap="cividis", vmin=low, vmax=high)
            _outline_right_pairs(ax, table, width)
            ax.set_title(title, fontsize=11)
            if i == 0 or is_wide:
                ax.set_ylabel("queries", fontsize=11)
            if is_wide and i < n - 1:
                ax.set_xticks([])  # the lowest panel names the columns
        bar = figure.colorbar(
            shades, ax=list(grid.flat), label="score", shrink=0.8 / len(grid), aspect=14
        )
        ends = sorted({low, high})
        bar.set_ticks(ends, labels=[f"{end:.1f}".replace("-", MINUS) for end in ends])
        bar.outline.set_visible(False)
    return figure


def _check_tables(scores: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The scores as (B, B) or (B, 2B) arrays of finite values."""
    tables = {title: np.asarray(table, dtype=float) for title, table in scores.items()}
    if not tables:
        raise ValueError("no scores: give at least one (B, B) table, such as {'step 0': scores}")
    for title, table in tables.items():
        if table.ndim != 2 or 0 in table.shape or table.shape[1] not in (
            table.shape[0], 2 * table.shape[0]
        ):  # fmt: skip
            raise ValueError(f"scores {title!r} have shape {table.shape}: expected (B, B) or "
                             "(B, 2B), one row per query")  # fmt: skip
        if not np.isfinite(table).all():
            raise ValueError(
                f"scores {title!r} have a value that is not finite: pass the scores before any mask"
            )
    return tables


def _outline_right_pairs(ax: Axes, table: np.ndarray, width: float) -> None:
    """Outline the diagonal, and name the columns."""
    n, columns = table.shape
    ax.grid(False)
    line = float(np.clip(9 * width / columns, 0.8, 2.5))
    for i in range(n):
        ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, ec=CANDIDATE, lw=line))
    names = {n / 2 - 0.5: "candidates"}
    if columns > n:
        ax.axvline(n - 0.5, color="white", lw=2)
        names[1.5 * n - 0.5] = "hard\nnegatives"
    ax.set_xticks(list(names), list(names.values()), fontsize=10)
    ax.set_yticks([])
    ax.tick_params(length=0)


def draw_corners(similarities: ArrayLike, budgets: Budgets) -> Figure:
    """Draw the similarities of a query and a candidate, with the corner that each budget uses.

    Dots mark the largest similarity of each row inside the largest corner, which MaxSim adds up.

    Args:
        similarities: (R_q, R_c).
        budgets: nested budgets, from small to large.

    Raises:
        ValueError: if the similarities are not a finite (R_q, R_c) table, a budget is larger than
            the table, or the budgets are not nested.

    Example:
        >>> figure = draw_corners(np.eye(2, 4), [(1, 1), (2, 4)])
        >>> [text.get_text() for text in figure.axes[0].texts][:2]
        ['(1, 1)', '(2, 4)']
    """
    values = np.asarray(similarities, dtype=float)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise ValueError(
            f"similarities have shape {values.shape}: expected finite values (R_q, R_c), one row "
            "per query vector and one column per candidate vector"
        )
    corners = [budget.check(*values.shape) for budget in check_nested(budgets)]
    (r_q, r_c), n = values.shape, len(corners)
    width = min(0.6, 4.5 / r_c)  # of a cell, in inches
    height = max(min(0.42, 3.0 / r_q), 1.1 / r_q)
    left, bottom = 1.3, 0.5
    top, right = bottom + height * r_q, left + width * r_c
    figure, ax = new_canvas(max(right + 0.75, 5.2), top + 0.45)
    shown = {"cmap": "cividis", "vmin": values.min(), "vmax": values.max(), "aspect": "auto"}
    ax.imshow(values, extent=(left, right, bottom, top), **shown)
    strip = np.linspace(values.max(), values.min(), 64)[:, None]
    ax.imshow(strip, extent=(right + 0.15, right + 0.28, bottom, top), **shown)
    heights = -spread([-(top - height * corner.r_q) for corner in corners], 0.21)
    for i, (corner, y) in enumerate(zip(corners, heights, strict=True)):
        color, edge = COLORS[i % len(COLORS)], top - height * corner.r_q
        halo = [withStroke(linewidth=4.2, foreground="white")]  # between a line and dark cells
        size = (width * corner.r_c, height * corner.r_q)
        ax.add_patch(Rectangle((left, edge), *size, fill=False, ec=color, lw=2.8,
                               zorder=3 + n - i, path_effects=halo))  # fmt: skip
        ax.plot([left - 0.3, left - 0.03], [y, edge], color=color, lw=1.6)
        draw_label(ax, left - 0.34, y, str(corner), color, 11, ha="right")
    used = values[: corners[-1].r_q, : corners[-1].r_c]
    rows, columns = np.arange(len(used)), used.argmax(axis=1)
    dots: dict[str, Any] = {
        "ls": "",
        "marker": "o",
        "mfc": "white",
        "mec": "black",
        "ms": 6,
        "zorder": 20,
    }
    ax.plot(left + width * (columns + 0.5), top - height * (rows + 0.5), **dots)
    ax.plot([0.2], [0.2], **dots)
    draw_label(ax, 0.35, 0.2, f"largest of each row inside {corners[-1]}: MaxSim adds these",
               size=10, ha="left")  # fmt: skip
    draw_label(ax, (left + right) / 2, top + 0.3, "candidate vectors", size=11)
    draw_label(ax, 0.22, (top + bottom) / 2, "query vectors", size=11, rotation=90, va="center")
    for y, value, va in ((bottom, values.min(), "bottom"), (top, values.max(), "top")):
        draw_label(ax, right + 0.34, y, f"{value.round(1) + 0.0:.1f}", size=10, ha="left", va=va)
    return figure


def draw_rings(budgets: Budgets, dim: int, dtype: str = "float32") -> Figure:
    """Draw an index whose columns are rings, and the bytes that each budget reads.

    A ring holds the candidate vectors that a budget adds to the budget before it.

    Args:
        budgets: nested budgets, from small to large.
        dim: D, values per vector.
        dtype: of the values. Defaults to "float32".

    Raises:
        ValueError: if the budgets are not nested, or as ``Budget.bytes_per_candidate``.

    Example:
        >>> figure = draw_rings([(1, 1), (2, 4)], dim=128)
        >>> [text.get_text() for text in figure.axes[0].texts if text.get_text()[:5] == "reads"]
        ['reads 512 bytes', 'reads 2,048 bytes']
    """
    nested, slices = check_nested(budgets), rings(budgets)
    costs = [budget.bytes_per_candidate(dim, dtype) for budget in nested]
    step = min(0.3, 3.3 / nested[-1].r_c)  # inches per vector
    left, rows_top = 1.5, 0.35 + 0.34 * len(nested)
    end = left + step * nested[-1].r_c
    figure, ax = new_canvas(max(end + 1.75, 5.0), rows_top + 1.72)
    ring_colors = [(*COLORS, INK)[i % 5] for i in range(len(slices))]
    filled = [(part, color) for part, color in zip(slices, ring_colors, strict=True)
              if part.start < part.stop]  # fmt: skip
    middles = spread([left + step * (part.start + part.stop) / 2 for part, _ in filled], 0.58)
    draw_label(ax, left - 0.15, rows_top + 1.5, "vectors", size=11, ha="right")
    for x, (part, color) in zip(middles, filled, strict=True):
        first, last = part.start + 1, part.stop
        text = f"{first}" if first == last else f"{first}\N{EN DASH}{last}"
        draw_label(ax, x, rows_top + 1.5, text, color, 12, weight="bold")
    for i in range(3):
        y = rows_top + 1.15 - 0.32 * i
        draw_label(ax, left - 0.15, y, f"candidate {i + 1}", size=11, ha="right")
        for part, color in filled:
            for k in range(part.start, part.stop):
                corner = (left + (k + 0.1) * step, y - 0.12)
                ax.add_patch(Rectangle(corner, 0.8 * step, 0.24, fc=color, lw=0))
    for i, (budget, cost) in enumerate(zip(nested, costs, strict=True)):
        y = rows_top - 0.1 - 0.34 * i
        draw_label(ax, left - 0.15, y, f"budget {budget}", size=11, ha="right")
        for part, color in filled:
            if part.stop <= budget.r_c:
                corner = (left + (part.start + 0.1) * step, y - 0.06)
                size = (part.stop - part.start - 0.2) * step
                ax.add_patch(Rectangle(corner, size, 0.12, fc=color, lw=0))
        draw_label(ax, end + 0.15, y, f"reads {cost:,} bytes", size=11, ha="left")
    draw_label(ax, 0.1, 0.18, "bytes per candidate: a larger budget reads one more ring",
               size=10, ha="left")  # fmt: skip
    return figure
