"""The figures that the notebooks share: boards, alignments, curves, and quality against bytes.

Every function returns a Figure with a transparent background, gray text that reads on white and on
black, and colors and markers that a color-blind reader can tell apart. None of them opens a window
or leaves a figure open: a notebook shows what its cell returns, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

INK = "#7a7a7a"  # contrast 4.3 on white, 4.4 on black pages (#121212): one gray for both
COLORS = ("#1b7fbd", "#c85800", "#008561", "#b0639b")  # hues of Okabe and Ito, contrast of INK
MARKERS = ("o", "s", "^", "D")
DASHES = ("-", "--", "-.", ":")
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


def style() -> AbstractContextManager[None]:
    """The book's look for a figure of your own: ``with style(): plt.plot(...)``."""
    return plt.rc_context(STYLE)


def show_boards(
    images: Sequence[Any], titles: Sequence[str] | None = None, columns: int = 6, cells: int = 3
) -> Figure:
    """Images side by side, in rows of ``columns``, pixels left as pixels.

    Args:
        images: n PIL images, or arrays (H, W) or (H, W, 3).
        titles: n captions, drawn above the images.
        columns: images a row.
        cells: thin lines cut each image into so many rows and columns; 1 draws none.

    Raises:
        ValueError: if there is no image, or the number of titles is another one.
    """
    if not images:
        raise ValueError("no images: give at least one")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images: give one each, or None")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    with style():
        size = (1.6 * columns, 1.9 * rows)
        fig, axes = plt.subplots(rows, columns, squeeze=False, layout="constrained", figsize=size)
    for i, ax in enumerate(axes.flat):
        ax.axis("off")
        if i < len(images):
            pixels = np.asarray(images[i])
            ax.imshow(pixels, cmap="gray", interpolation="nearest")
            for k in range(1, cells):
                ax.axhline(pixels.shape[0] * k / cells - 0.5, color=COLORS[0], lw=0.8)
                ax.axvline(pixels.shape[1] * k / cells - 0.5, color=COLORS[0], lw=0.8)
            if titles is not None:
                ax.set_title(titles[i], fontsize=9, color=INK)
    return _done(fig)


def show_attention(image: Any, maps: ArrayLike, columns: int = 6) -> Figure:
    """One image, once a meta token, tinted where that token looks; deepest at its own maximum.

    Args:
        image: a PIL image, or an array (H, W) or (H, W, 3).
        maps: (R, height, width) weights on a grid over the image.
        columns: images a row.

    Raises:
        ValueError: if there is no map, or it is not (R, height, width).
    """
    weights = np.asarray(maps, dtype=float)
    if weights.ndim != 3 or 0 in weights.shape:
        raise ValueError(f"maps have shape {weights.shape}: expected (R, height, width), none of 0")
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


def alignment(
    similarities: ArrayLike,
    query_labels: Sequence[str],
    candidate_labels: Sequence[str],
    marks: Sequence[int] | None = None,
    title: str = "",
    x_label: str = "candidate vector",
    y_label: str = "query vector",
    value_label: str = "similarity",
) -> Figure:
    """Heat map of the similarities of a query's vectors and a candidate's, values written in.

    Args:
        similarities: (R_q, R_c).
        query_labels: R_q names of the rows.
        candidate_labels: R_c names of the columns.
        marks: the column to outline in each row, from the first row on; None outlines each row's
            maximum, which is what MaxSim picks, and [] nothing.
        title: drawn above the map.
        x_label, y_label, value_label: what columns, rows and values are.

    Raises:
        ValueError: if the labels do not fit the shape.
    """
    values = np.asarray(similarities, dtype=float)
    if values.shape != (len(query_labels), len(candidate_labels)):
        raise ValueError(
            f"similarities have shape {values.shape}: {len(query_labels)} query labels and "
            f"{len(candidate_labels)} candidate labels do not fit"
        )
    rows, columns = values.shape
    marks = values.argmax(axis=1).tolist() if marks is None else marks
    wide = columns > 4 and max(map(len, candidate_labels)) > 5
    with style():
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
    return _done(fig)


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str,
    y_label: str,
    *,
    guides: Mapping[str, float] | None = None,
    log_x: bool = False,
) -> Figure:
    """One line a series, each with its own color, marker and dash.

    Args:
        series: name -> (x, y), each (n,).
        x_label, y_label: with units.
        guides: name -> height of a dotted horizontal line, such as the best that is possible.
        log_x: a logarithmic x axis, with ticks at the values of the first series.
    """
    with style():
        fig, ax = plt.subplots(layout="constrained", figsize=(7.2, 3.8))
        _lines(ax, series)
        _guides(ax, guides)
        if log_x:
            _log_ticks(ax, np.asarray(next(iter(series.values()))[0]))
        ax.set(xlabel=x_label, ylabel=y_label)
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        fig.legend(loc="outside right upper")
    return _done(fig)


def histograms(
    panels: Mapping[str, Mapping[str, ArrayLike]], x_label: str, bins: int = 50
) -> Figure:
    """One panel a system, in it the distribution of each of its groups, each of area 1.

    Args:
        panels: panel title -> group name -> values (n,); the first group is drawn filled.
        x_label: with units.
        bins: a group.
    """
    with style():
        size = (3.7 * len(panels), 2.9)
        fig, axes = plt.subplots(1, len(panels), squeeze=False, layout="constrained", figsize=size)
        for ax, (title, groups) in zip(axes[0], panels.items(), strict=True):
            for i, (name, values) in enumerate(groups.items()):
                ax.hist(np.asarray(values), bins, density=True, label=name, lw=2, alpha=0.8,
                        color=COLORS[i % 4], histtype="step" if i else "stepfilled")  # fmt: skip
            ax.set(title=title, xlabel=x_label, ylabel="density (area 1)")
        axes[0, 0].legend()
    return _done(fig)


def budget_curve(
    df: pd.DataFrame,
    *,
    y: str = "p_at_1",
    y_label: str = "P@1",
    guides: Mapping[str, float] | None = None,
) -> Figure:
    """THE figure of the book: quality against index bytes, one line a system, budgets written in.

    Args:
        df: what ``sweep`` returns, columns r_q, r_c, bytes_per_candidate and ``y``; the sweeps of
            several systems stacked, with a column ``system``; a column ``label`` to write something
            other than the budget at each point, or "" for nothing.
        y: the column of the quality, in [0, 1].
        y_label: its name.
        guides: name -> height of a dotted horizontal line.

    Raises:
        ValueError: if a column is missing.
    """
    missing = {"r_q", "r_c", "bytes_per_candidate", y} - set(df.columns)
    if missing:
        raise ValueError(f"the table lacks {sorted(missing)}: give budget_curve what sweep returns")
    if "system" not in df:
        df = df.assign(system="")
    if "label" not in df:
        df = df.assign(label=[f"({r_q}, {r_c})" for r_q, r_c in zip(df.r_q, df.r_c, strict=True)])
    systems = {
        str(name): part.sort_values("bytes_per_candidate")
        for name, part in df.groupby("system", sort=False)
    }
    with style():
        fig, ax = plt.subplots(layout="constrained", figsize=(6.8, 4.6))
        _lines(ax, {k: (p["bytes_per_candidate"], p[y]) for k, p in systems.items()})
        _guides(ax, guides)
        exponents = np.log2(df["bytes_per_candidate"])
        _log_ticks(ax, 2.0 ** np.arange(np.floor(exponents.min()), np.ceil(exponents.max()) + 1))
        ax.set(xlabel="index bytes per candidate", ylabel=y_label, yticks=np.linspace(0, 1, 6))
        ax.set_ylim(-0.06, 1)  # room for what is written below a point
        ax.margins(x=0.08)
        if len(systems) > 1 or guides:
            fig.legend(loc="outside upper center", ncols=2)
    for i, part in enumerate(systems.values()):
        beside, side = ((-5, 5), "right") if i % 2 == 0 else ((5, -11), "left")
        for at, height, label in zip(part.bytes_per_candidate, part[y], part.label, strict=True):
            ax.annotate(label, (at, height), beside, textcoords="offset points", ha=side,
                        fontsize=8, color=COLORS[i % len(COLORS)])  # fmt: skip
    return _done(fig)


def _done(fig: Figure) -> Figure:
    plt.close(fig)  # the notebook shows what a cell returns; an open figure would show twice
    return fig


def _lines(ax: Axes, series: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> None:
    for i, (name, (x, y)) in enumerate(series.items()):
        ax.plot(x, y, label=name or None, color=COLORS[i % 4], marker=MARKERS[i % 4],
                linestyle=DASHES[i % 4])  # fmt: skip


def _guides(ax: Axes, guides: Mapping[str, float] | None) -> None:
    for name, height in (guides or {}).items():
        ax.axhline(height, color=INK, linestyle=(0, (1, 2)), label=name)


def _log_ticks(ax: Axes, ticks: np.ndarray) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
