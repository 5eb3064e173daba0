"""The figures that the notebooks share: images, rankings, alignments, curves, and bars.

Every function returns a Figure with a transparent background. Its gray text is readable on white
and on black, and a color-blind reader can tell its lines apart. No function opens a window or
leaves a figure open. So a notebook shows the figure that its cell returns exactly once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metaembed_lite.arguments import is_finite_number, whole_number
from metaembed_lite.canvas import (
    COLORS,
    INK,
    RIGHT,
    draw_label,
    draw_query,
    mark_area,
    new_canvas,
    query_height,
    show_image,
    use_style,
)
from metaembed_lite.data.named_cells import find_named_cells
from metaembed_lite.extras import extra

with extra("plots"):
    import matplotlib.pyplot as plt
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FuncFormatter, NullLocator

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")


def show_boards(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    columns: int = 6,
    cells: int = 3,
    inches: float = 1.6,
) -> Figure:
    """Show images side by side. Small ones keep their sharp pixels.

    Args:
        images: n PIL images, or arrays (H, W) or (H, W, 3).
        titles: n captions above the images. Defaults to none.
        columns: images per row. Defaults to 6.
        cells: number of rows and of columns that thin lines divide each image into. 1 draws no
            lines. Defaults to 3.
        inches: width of an image. Defaults to 1.6.

    Raises:
        ValueError: if there is no image, or the numbers of titles and images differ.

    Example:
        >>> fig = show_boards([np.zeros((9, 9)), np.ones((9, 9))], titles=["a", "b"])
        >>> [ax.get_title() for ax in fig.axes]
        ['a', 'b']
    """
    if not images:
        raise ValueError("no images: give at least one")
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"{len(titles)} titles for {len(images)} images: give one per image, or None"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    with use_style():
        size = (inches * columns, (inches + 0.3) * rows)
        fig, axes = plt.subplots(rows, columns, squeeze=False, layout="constrained", figsize=size)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(images):
            pixels = np.asarray(images[i])
            ax.imshow(pixels, cmap="gray")
            for k in range(1, cells):
                ax.axhline(pixels.shape[0] * k / cells - 0.5, color=COLORS[0], lw=0.8)
                ax.axvline(pixels.shape[1] * k / cells - 0.5, color=COLORS[0], lw=0.8)
            if titles is not None:
                ax.set_title(titles[i], fontsize=9, color=INK)
    return _close(fig)


def show_rankings(
    images: Sequence[Any],
    relevance: ArrayLike,
    rankings: Mapping[str, ArrayLike],
    k: int = 5,
    query: str = "",
) -> Figure:
    """Show the best k images of one query, one row per ranking. Right images are outlined.

    Above each row stand its name and the rank of its first right image. Among equal scores, wrong
    images come first, as in ``p_at_1``. On sheets of stickers and boards of digits, thin frames
    mark the cells that show what the query names (``data.named_cells``).

    Args:
        images: N PIL images, or arrays (H, W) or (H, W, 3).
        relevance: (N,) grades. An image above 0 is right.
        rankings: name -> scores (N,), such as ``{"budget (1, 1)": scores}``.
        k: number of images per row. Defaults to 5.
        query: text above the rows. Defaults to none.

    Raises:
        ValueError: if k is below 1, there is nothing to show, the lengths differ, or a score is
            not a number.

    Example:
        >>> images, scores = [np.zeros((8, 8))] * 3, {"before": [3, 2, 1], "after": [1, 9, 1]}
        >>> figure = show_rankings(images, [0, 1, 0], scores, k=2)
        >>> [text.get_text() for text in figure.axes[0].texts if "first" in text.get_text()]
        ['first right: rank 2', 'first right: rank 1']
    """
    k = min(whole_number(k, "k"), max(len(images), 1))
    is_right = np.asarray(relevance) > 0
    if not len(images) or not rankings:
        raise ValueError("nothing to show: give at least one image and one ranking")
    scores = {name: np.asarray(row, dtype=float) for name, row in rankings.items()}
    for name, row in {"relevance": is_right, **scores}.items():
        if row.shape != (len(images),):
            raise ValueError(
                f"{name!r} has shape {row.shape} for {len(images)} images: give one value per image"
            )
        if np.isnan(row).any():
            raise ValueError(f"{name!r} has a score that is not a number: look for a NaN before")
    width, gap = 7.0, 0.1
    names = 0.1 + 0.2 * max(len(_wrap_name(name)) for name in scores)
    edge = min(1.6, (width - 0.1 + gap) / k - gap)
    row_height = names + edge + 0.1
    top = 0.25 + row_height * len(scores)
    head = query_height(query, width - 0.1) + 0.1 if query else 0.0
    figure, ax = new_canvas(width, top + head)
    if query:
        draw_query(ax, query, (0.05, top + 0.05), width - 0.1)
    for i, (name, row) in enumerate(scores.items()):
        order = np.lexsort((is_right, -row))  # by score, and wrong images first among equal ones
        y = top - row_height * (i + 1) + 0.08
        _label_ranking(ax, name, is_right[order], y + edge + names / 2)
        for rank, j in enumerate(order[:k]):
            corner = (0.05 + rank * (edge + gap), y)
            _show_found(ax, images[j], query, corner, edge, is_right=bool(is_right[j]))
    for rank in range(k):
        text = f"rank {rank + 1}" if edge > 0.6 else str(rank + 1)
        draw_label(ax, 0.05 + rank * (edge + gap) + edge / 2, 0.13, text)
    return figure


def _wrap_name(name: str) -> list[str]:
    return textwrap.wrap(name, 48) or [""]


def _label_ranking(ax: Axes, name: str, is_right: np.ndarray, y: float) -> None:
    """Write the name of a ranking, and the rank of its first right image."""
    ranks = np.flatnonzero(is_right) + 1
    text = f"first right: rank {ranks[0]:,}" if len(ranks) else "none is right"
    color, right_edge = RIGHT if is_right[0] else INK, ax.get_xlim()[1] - 0.05
    draw_label(ax, 0.05, y, "\n".join(_wrap_name(name)), INK, 11, ha="left", weight="bold")
    draw_label(ax, right_edge, y, text, color, 11, ha="right")


def _show_found(
    ax: Axes, image: Any, query: str, corner: tuple[float, float], edge: float, *, is_right: bool
) -> None:
    """Show an image of a ranking, with the cells that the query names, and outline a right one."""
    show_image(ax, image, corner, edge)
    columns, cells = find_named_cells(query, image)
    for cell, shows_it in cells.items():
        row, column = divmod(cell, columns)
        side = edge / columns
        place = (corner[0] + column * side, corner[1] + edge - (row + 1) * side)
        mark_area(ax, place, side, side, is_right=shows_it, badge=0, line=1.7)
    if is_right:
        mark_area(ax, corner, edge, edge, is_right=True)


def show_attention(
    image: Any, maps: ArrayLike, columns: int = 6, titles: Sequence[str] | None = None
) -> Figure:
    """Show one copy of the image per meta token, overlaid with that token's attention.

    Each map is scaled to its own maximum.

    Args:
        image: a PIL image, or an array (H, W) or (H, W, 3).
        maps: (R, height, width) weights on a grid over the image.
        columns: images per row. Defaults to 6.
        titles: R captions above the maps. Defaults to names such as "c1" and the maxima.

    Raises:
        ValueError: if the maps are not (R, height, width), or one of these is 0. Also if there are
            not R titles.

    Example:
        >>> fig = show_attention(np.zeros((6, 6)), np.full((2, 3, 3), 0.1))
        >>> [ax.get_title() for ax in fig.axes]
        ['c1: 0.10', 'c2: 0.10']
    """
    weights = np.asarray(maps, dtype=float)
    if weights.ndim != 3 or 0 in weights.shape:
        raise ValueError(
            f"maps have shape {weights.shape}: expected (R, height, width), none of them 0"
        )
    if titles is None:
        titles = [f"c{i + 1}: {w.max():.2f}" for i, w in enumerate(weights)]
    fig = show_boards([image] * len(weights), titles, columns, cells=1)
    height, width = np.asarray(image).shape[:2]
    for ax, weight in zip(fig.axes, weights, strict=False):
        tint = np.zeros((*weight.shape, 4))
        tint[..., :3] = [int(COLORS[1][k : k + 2], 16) / 255 for k in (1, 3, 5)]
        tint[..., 3] = 0.75 * weight / max(weight.max(), 1e-12)
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        ax.imshow(tint, extent=extent, interpolation="nearest")
    return fig


def plot_alignment(
    similarities: ArrayLike,
    query_labels: Sequence[str],
    candidate_labels: Sequence[str],
    marks: Sequence[int] | None = None,
    title: str = "",
    x_label: str = "candidate vector",
    y_label: str = "query vector",
    value_label: str = "similarity",
) -> Figure:
    """Plot a heat map of the similarities of a query's and a candidate's vectors, with values.

    Args:
        similarities: (R_q, R_c).
        query_labels: R_q names of the rows.
        candidate_labels: R_c names of the columns.
        marks: the column to outline in each row. [] outlines none. Defaults to each row's maximum,
            which is the one that MaxSim picks.
        title: the title above the map. Defaults to none.
        x_label, y_label, value_label: names of columns, rows and values.

    Raises:
        ValueError: if the number of labels does not match the shape.

    Example:
        >>> fig = plot_alignment([[0.9, 0.1]], ["q1"], ["c1", "c2"])
        >>> [text.get_text() for text in fig.axes[0].texts]
        ['0.90', '0.10']
    """
    values = np.asarray(similarities, dtype=float)
    if values.shape != (len(query_labels), len(candidate_labels)):
        raise ValueError(
            f"similarities have shape {values.shape}: expected "
            f"{(len(query_labels), len(candidate_labels))}, one row per query label and one "
            "column per candidate label"
        )
    rows, columns = values.shape
    marks = values.argmax(axis=1).tolist() if marks is None else marks
    wide = columns > 4 and max(map(len, candidate_labels)) > 5
    with use_style():
        size = (1.6 + 0.62 * columns, 1.2 + 0.42 * rows)
        fig, ax = plt.subplots(layout="constrained", figsize=size)
        ax.grid(False)
        low, high = min(values.min(), 0.0), max(values.max(), 1.0)
        shades = ax.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
        ax.set_xticks(range(columns), list(candidate_labels), rotation=30 if wide else 0)
        ax.set_yticks(range(rows), list(query_labels))
        ax.set(xlabel=x_label, ylabel=y_label, title=title)
        fig.colorbar(shades, ax=ax, label=value_label).outline.set_visible(False)
    for i, j in np.ndindex(values.shape):
        dark = np.mean(colormaps["cividis"]((values[i, j] - low) / (high - low))[:3]) < 0.5
        text = f"{values[i, j].round(2) + 0.0:.2f}"  # + 0.0 turns -0.0 into 0.0
        ink = "white" if dark else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color=ink)
    for i, j in enumerate(marks):
        ax.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, lw=2.5, ec=COLORS[1]))
    return _close(fig)


def plot_curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    *,
    guides: Mapping[str, float] | None = None,
    log_x: bool = False,
) -> Figure:
    """Plot one line per series. Up to 16 lines differ in color, marker or dash.

    Args:
        series: name -> (x, y), each (n,).
        x_label, y_label: names of the axes, with units.
        guides: name -> height of a dotted horizontal line, such as the best possible value.
            Defaults to none.
        log_x: whether the x axis is logarithmic, with ticks at the values of the first series.
            Defaults to False.

    Example:
        >>> fig = plot_curves({"loss": ([0, 100], [2.3, 0.4])}, "step", "InfoNCE (nats)")
        >>> len(fig.axes[0].lines)
        1
    """
    with use_style():
        fig, ax = plt.subplots(layout="constrained", figsize=(7.2, 3.8))
        _plot_lines(ax, series)
        _plot_guides(ax, guides)
        if log_x:
            _set_log_ticks(ax, np.asarray(next(iter(series.values()))[0]))
        ax.set(xlabel=x_label, ylabel=y_label)
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        fig.legend(loc="outside right upper")
    return _close(fig)


def plot_histograms(
    panels: Mapping[str, Mapping[str, ArrayLike]], x_label: str, bins: int = 50
) -> Figure:
    """Plot one panel per system, with one histogram of area 1 per group.

    Args:
        panels: panel title -> group name -> values (n,). The first group is filled.
        x_label: name of the x axis, with units.
        bins: number of bins per group. Defaults to 50.

    Example:
        >>> fig = plot_histograms({"MaxSim": {"relevant": [1, 2], "others": [0, 1]}}, "score")
        >>> fig.axes[0].get_title()
        'MaxSim'
    """
    with use_style():
        size = (3.7 * len(panels), 2.9)
        fig, axes = plt.subplots(1, len(panels), squeeze=False, layout="constrained", figsize=size)
        for ax, (title, groups) in zip(axes[0], panels.items(), strict=True):
            for i, (name, values) in enumerate(groups.items()):
                ax.hist(np.asarray(values), bins, density=True, label=name, lw=2, alpha=0.8,
                        color=COLORS[i % len(COLORS)],
                        histtype="step" if i else "stepfilled")  # fmt: skip
            ax.set(title=title, xlabel=x_label, ylabel="density (area 1)")
        handles, names = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper center", ncols=len(names))
    return _close(fig)


def plot_budget_curve(
    df: pd.DataFrame,
    *,
    y: str = "p_at_1",
    y_label: str = "P@1",
    guides: Mapping[str, float] | None = None,
) -> Figure:
    """Plot the quality-per-byte figure: one line per system, with the budget at each point.

    Args:
        df: the table of ``sweep``, with columns r_q, r_c, bytes_per_candidate and ``y``. For
            several systems, stack their tables and add a column ``system``. A column ``label``
            replaces the budget at each point. "" writes nothing.
        y: column of the quality, in [0, 1]. Defaults to "p_at_1".
        y_label: the name of the quality. Defaults to "P@1".
        guides: name -> height of a dotted horizontal line. Defaults to none.

    Raises:
        ValueError: if a column is missing.

    Example:
        >>> import pandas as pd
        >>> rows = {"r_q": [1, 2], "r_c": [1, 4], "bytes_per_candidate": [128, 512]}
        >>> fig = plot_budget_curve(pd.DataFrame({**rows, "p_at_1": [0.4, 0.7]}))
        >>> [text.get_text() for text in fig.axes[0].texts]
        ['(1, 1)', '(2, 4)']
    """
    missing = {"r_q", "r_c", "bytes_per_candidate", y} - set(df.columns)
    if missing:
        raise ValueError(f"the table has no columns {sorted(missing)}: pass the table of sweep")
    if "system" not in df:
        df = df.assign(system="")
    if "label" not in df:
        df = df.assign(label=[f"({r_q}, {r_c})" for r_q, r_c in zip(df.r_q, df.r_c, strict=True)])
    systems = {
        str(name): part.sort_values("bytes_per_candidate")
        for name, part in df.groupby("system", sort=False)
    }
    with use_style():
        fig, ax = plt.subplots(layout="constrained", figsize=(6.8, 4.6))
        _plot_lines(ax, {k: (p["bytes_per_candidate"], p[y]) for k, p in systems.items()})
        _plot_guides(ax, guides)
        exponents = np.log2(df["bytes_per_candidate"])
        _set_log_ticks(
            ax, 2.0 ** np.arange(np.floor(exponents.min()), np.ceil(exponents.max()) + 1)
        )
        ax.set(xlabel="index bytes per candidate", ylabel=y_label, yticks=np.linspace(0, 1, 6))
        ax.set_ylim(-0.06, 1.05)  # room for a marker at 1, and for labels below a point
        ax.margins(x=0.08)
        if len(systems) > 1 or guides:
            fig.legend(loc="outside upper center", ncols=2)
    for i, part in enumerate(systems.values()):
        offset, side = ((-5, 5), "right") if i % 2 == 0 else ((5, -11), "left")
        for x, height, label in zip(part.bytes_per_candidate, part[y], part.label, strict=True):
            ax.annotate(label, (x, height), offset, textcoords="offset points", ha=side,
                        fontsize=8, color=COLORS[i % len(COLORS)])  # fmt: skip
    return _close(fig)


def plot_stacked_bars(bars: Mapping[str, Mapping[str, float]], unit: str) -> Figure:
    """Plot one horizontal bar per entry, stacked from its parts, with the total at its end.

    Args:
        bars: name of the bar -> name of the part -> value from 0 up. A part has one color in all
            bars.
        unit: of the values, such as "GiB".

    Raises:
        ValueError: if there are no bars or no parts, or a value is negative or not finite.

    Example:
        >>> figure = plot_stacked_bars({"LoRA": {"weights": 6.0, "activations": 1.5}}, "GiB")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['6', '1.5', '7.5 GiB']
    """
    parts = list(dict.fromkeys(part for values in bars.values() for part in values))
    if not parts:
        raise ValueError("no parts: give at least one bar, such as {'LoRA': {'weights': 6.0}}")
    for name, values in bars.items():
        for part, value in values.items():
            if not is_finite_number(value) or value < 0:
                raise ValueError(f"{part!r} of {name!r} is {value!r}: use a number from 0 up")
    longest = max(sum(values.values()) for values in bars.values()) or 1.0
    with use_style():
        # As many columns as fit into 80 letters, each with a patch as wide as 7 letters.
        columns = max(1, min(len(parts), 80 // (max(map(len, parts)) + 7)))
        height = 0.4 + 0.5 * len(bars) + 0.25 * -(-len(parts) // columns)
        fig, ax = plt.subplots(layout="constrained", figsize=(6.8, height))
        ax.grid(False)
        ends = np.zeros(len(bars))
        for i, part in enumerate(parts):
            sizes = np.array([values.get(part, 0.0) for values in bars.values()], dtype=float)
            ax.barh(list(bars), sizes, 0.62, ends, label=part, color=(*COLORS, INK)[i % 5],
                    ec="white", lw=0.6, hatch=("", "//", "..")[i // 5 % 3])  # fmt: skip
            for y, (size, end) in enumerate(zip(sizes, ends, strict=True)):
                if size > 0.09 * longest:  # else its text is wider than it
                    ax.text(end + size / 2, y, f"{size:.3g}", color="white", fontsize=10,
                            ha="center", va="center_baseline")  # fmt: skip
            ends += sizes
        for y, end in enumerate(ends):
            ax.text(end + 0.015 * longest, y, f"{end:.3g} {unit}", color=INK, fontsize=11,
                    va="center_baseline")  # fmt: skip
        ax.set_xlim(0, longest * (1.1 + 0.022 * len(unit)))
        ax.invert_yaxis()
        ax.tick_params(axis="y", length=0, labelsize=11)
        ax.set_xticks([])
        ax.spines[["bottom", "left"]].set_visible(False)
        fig.legend(loc="outside upper center", ncols=columns, fontsize=10)
    return _close(fig)


def _close(fig: Figure) -> Figure:
    plt.close(fig)  # the notebook shows what a cell returns, so an open figure would appear twice
    return fig


def _plot_lines(ax: Axes, series: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    for i, (name, (x, y)) in enumerate(series.items()):
        # The dash moves on by one with each round of colors, so that two lines of one color
        # differ in both marker and dash.
        dash = DASHES[(i + i // len(COLORS)) % len(DASHES)]
        ax.plot(x, y, label=name or None, color=COLORS[i % len(COLORS)],
                marker=MARKERS[i % len(MARKERS)], linestyle=dash)  # fmt: skip


def _plot_guides(ax: Axes, guides: Mapping[str, float] | None) -> None:
    for name, height in (guides or {}).items():
        ax.axhline(height, color=INK, linestyle=(0, (1, 2)), label=name)


def _set_log_ticks(ax: Axes, ticks: np.ndarray) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
