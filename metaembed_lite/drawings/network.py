"""What happens in the model: three architectures, meta tokens in a causal sequence, and LoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metaembed_lite.arguments import check_counts, whole_number
from metaembed_lite.canvas import (
    CANDIDATE,
    INK,
    OTHER,
    QUERY,
    Point,
    draw_arrow,
    draw_box,
    draw_label,
    draw_vectors,
    new_canvas,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND_NAMES = ("content", "M$_q$", "M$_c$")  # of positions in a sequence
COLOR_OF_KIND = (OTHER, QUERY, CANDIDATE)
MASK_LEFT = 0.9  # inches left of the sequence and its mask
MOST_CELLS = 24  # per row of a mask that is drawn cell by cell


def draw_architectures() -> Figure:
    """Draw one vector per item, late interaction and a cross-encoder next to each other.

    Below each, it says what is stored and what is computed per query.

    Example:
        >>> figure = draw_architectures()
        >>> [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold"]
        ['one vector', 'late interaction', 'cross-encoder']
    """
    figure, ax = new_canvas(7.0, 4.55)
    _draw_column(ax, 1.15, "one vector", (1, 1), "dot product",
                 "1 vector\nper candidate", "1 dot product\nper candidate")  # fmt: skip
    _draw_column(ax, 3.5, "late interaction", (2, 4), "MaxSim",
                 "R$_c$ vectors\nper candidate",
                 "R$_q$ × R$_c$\ndot products per candidate")  # fmt: skip
    _draw_column(ax, 5.85, "cross-encoder", None, "model reads\nboth together",
                 "nothing\n", "1 model run\nper candidate")  # fmt: skip
    return figure


def _draw_column(
    ax: Axes,
    x: float,
    title: str,
    counts: tuple[int, int] | None,
    operation: str,
    stored: str,
    per_query: str,
) -> None:
    """One architecture, from the inputs down to the score. No counts: nothing can be stored."""
    draw_label(ax, x, 4.38, title, INK, 12, weight="bold")
    for side, name, color in ((-0.53, "query", QUERY), (0.53, "candidate", CANDIDATE)):
        draw_box(ax, (x + side - 0.47, 3.78), 0.94, 0.34, name, color, size=11)
        draw_arrow(ax, (x + side, 3.78), (x + side, 3.42))
    if counts is None:
        draw_box(ax, (x - 1.0, 1.85), 2.0, 1.57, operation, filled=False, size=11)
    else:
        draw_box(ax, (x - 1.0, 1.85), 2.0, 0.34, operation, filled=False, size=11)
        draw_box(ax, (x + 0.1, 2.32), 0.9, 0.56, color=OTHER, filled=False, ls="--", lw=1.6)
        for side, n, color in zip((-0.53, 0.53), counts, (QUERY, CANDIDATE), strict=True):
            draw_box(ax, (x + side - 0.47, 3.12), 0.94, 0.3, "model", filled=False, size=11)
            draw_arrow(ax, (x + side, 3.12), (x + side, 2.9))
            draw_vectors(ax, (x + side - (n * 0.19 - 0.06) / 2, 2.39), n, color)
            draw_arrow(ax, (x + side, 2.31), (x + side, 2.19))
    draw_arrow(ax, (x, 1.85), (x, 1.6))
    draw_label(ax, x, 1.46, "score", INK, 11)
    for y, heading, text, color in (
        (1.0, "stored", stored, OTHER),
        (0.38, "per query", per_query, INK),
    ):
        draw_label(ax, x, y, f"{heading}: {text}", color, 10)


def draw_sequence(
    n_content: int = 6, r_q: int = 2, r_c: int = 4, kept: str = "document", *, mask: bool = True
) -> Figure:
    """Draw the sequence [content | M_q | M_c], its causal mask, and the outputs that are kept.

    Args:
        n_content: number of tokens of the text or image. Defaults to 6.
        r_q, r_c: numbers of meta tokens. Default to 2 and 4.
        kept: "query" keeps the outputs of M_q, and "document" those of M_c. Defaults to
            "document".
        mask: whether to draw the causal mask below the sequence. Defaults to True.

    Raises:
        ValueError: if a number is not a whole number from 1 up, or ``kept`` is unknown.

    Example:
        >>> figure = draw_sequence(r_c=3)
        >>> [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold"]
        ['kept: 3 vectors']
    """
    check_counts(n_content=n_content, r_q=r_q, r_c=r_c)
    if kept not in ("query", "document"):
        raise ValueError(f"kept={kept!r}: choose from 'query' and 'document'")
    counts, keep = (n_content, r_q, r_c), 1 if kept == "query" else 2
    kinds = np.repeat(range(3), counts)  # per position: 0 content, 1 M_q, 2 M_c
    cell = (min(0.6, 5.2 / len(kinds)), min(0.21, 2.7 / len(kinds)))  # of the mask, in inches
    edges = MASK_LEFT + cell[0] * np.cumsum([0, *counts])
    top = 0.42 + cell[1] * len(kinds) if mask else 0.0  # of the mask
    figure, ax = new_canvas(max(edges[-1] + 0.3, 5.0), top + 2.15)
    middles = spread((edges[:-1] + edges[1:]) / 2, 0.5, edges[-1])
    for kind, middle in enumerate(middles):
        draw_label(ax, middle, top + 0.22, KIND_NAMES[kind], COLOR_OF_KIND[kind], 11)
        # Many positions are drawn as one box per kind, with their number.
        n = counts[kind] if len(kinds) <= MOST_CELLS else 1
        for x, width in zip(*_split(edges[kind], edges[kind + 1], n), strict=True):
            text = "" if n == counts[kind] else str(counts[kind])
            _draw_position(ax, (x, top + 0.42), width, COLOR_OF_KIND[kind], text, kind == keep)
    _label_outputs(ax, edges, top + 1.2, keep, counts)
    if mask:
        _draw_mask(ax, kinds, keep, cell, top)
    return figure


def _split(start: float, end: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The left edges and the widths of n boxes of one kind, with gaps between them."""
    step = (end - start) / n
    gap = min(0.1 * step, 0.06)
    return start + step * np.arange(n) + gap, np.full(n, step - 2 * gap)


def _draw_position(
    ax: Axes, corner: Point, width: float, color: str, text: str, is_kept: bool
) -> None:
    """One position: its token, an arrow through the model, and its output."""
    x, y = corner
    draw_box(ax, corner, width, 0.34, text, color)
    line_color, line_width = (color, 2.0) if is_kept else (INK, 0.8)
    draw_arrow(ax, (x + width / 2, y + 0.36), (x + width / 2, y + 0.74), line_color, line_width)
    if is_kept:
        draw_vectors(ax, (x, y + 0.78), 1, color, width, 0.4)
    else:
        draw_box(ax, (x, y + 0.78), width, 0.4, filled=False, ls=":")


def _label_outputs(
    ax: Axes, edges: np.ndarray, y: float, keep: int, counts: tuple[int, int, int]
) -> None:
    """Say what happens to the outputs of each kind of position."""
    text = f"kept: {counts[keep]} vector" + "s" * (counts[keep] > 1)
    x = min((edges[keep] + edges[keep + 1]) / 2, ax.get_xlim()[1] - 0.75)
    fits = edges[keep + 1] - edges[keep] > 1.4  # else it stands above the other labels
    draw_label(ax, x, y + (0.55 if fits else 0.78), text, COLOR_OF_KIND[keep], 11, weight="bold")
    for start, end in ((0, keep), (keep + 1, 3)):
        if start < end:
            x = min((edges[start] + edges[end]) / 2, ax.get_xlim()[1] - 0.55)
            draw_label(ax, x, y + 0.55, "thrown away", size=11)


def _draw_mask(
    ax: Axes, kinds: np.ndarray, keep: int, cell: tuple[float, float], top: float
) -> None:
    """The causal mask: one row per position, filled where it reads. Kept rows are colored."""
    text = "causal mask: each row reads itself and what stands before it"
    draw_label(ax, 0.1, 0.18, text, ha="left")
    n, (step, row) = len(kinds), cell
    end, bottom = MASK_LEFT + n * step, top - n * row
    pixels = np.zeros((n, n, 4))  # RGBA
    pixels[kinds == keep] = to_rgba(COLOR_OF_KIND[keep], 0.9)
    pixels[kinds != keep] = to_rgba(INK, 0.4)
    pixels *= np.tri(n)[:, :, None]  # a position reads itself and those before it
    ax.imshow(pixels, extent=(MASK_LEFT, end, bottom, top), aspect="auto", interpolation="nearest")
    inner = range(1, n) if n <= MOST_CELLS else ()
    for k in (0, *inner, n):
        ax.plot([MASK_LEFT, end], [top - k * row] * 2, color=INK, lw=0.6)
        ax.plot([MASK_LEFT + k * step] * 2, [bottom, top], color=INK, lw=0.6)
    rows = [np.flatnonzero(kinds == kind).mean() + 0.5 for kind in range(3)]
    for kind, depth in enumerate(spread(row * np.array(rows), 0.21, n * row - 0.1)):
        color = COLOR_OF_KIND[kind]
        draw_label(ax, MASK_LEFT - 0.12, top - depth, KIND_NAMES[kind], color, 11, ha="right")


def draw_lora(rank: int = 2, size: int = 128) -> Figure:
    """Draw a frozen matrix W and the two slivers B and A that LoRA trains, to scale.

    Args:
        rank: of LoRA. Defaults to 2.
        size: W is size x size. Defaults to 128, as in ``tiny-vlm``.

    Raises:
        ValueError: if a number is not a whole number from 1 up, or the rank is not below the size.

    Example:
        >>> figure = draw_lora(rank=2)
        >>> print(figure.axes[0].texts[-1].get_text())
        trained: 2 × 256 = 512 numbers,
        3.1 % of W
    """
    rank, size = whole_number(rank, "rank"), whole_number(size, "size")
    if rank >= size:
        raise ValueError(f"rank={rank} is not below size={size}: use a lower rank, such as 2")
    edge = min(2.2, 4.8 / (2 + rank / size))
    sliver = max(edge * rank / size, 0.025)
    figure, ax = new_canvas(6.5, edge + 1.15)
    w_left = (6.5 - 2 * edge - sliver - 1.3) / 2
    b_left = w_left + edge + 0.7
    a_left = b_left + sliver + 0.6
    bottom, middle = 0.7, 0.7 + edge / 2
    ax.add_patch(Rectangle((w_left, bottom), edge, edge, fc=INK, ec=INK, alpha=0.4))
    ax.add_patch(Rectangle((b_left, bottom), sliver, edge, fc=OTHER))
    ax.add_patch(Rectangle((a_left, middle - sliver / 2), edge, sliver, fc=OTHER))
    draw_label(ax, b_left - 0.4, middle, "+", size=18)
    draw_label(ax, a_left - 0.25, middle, "×", size=16)
    for x, y, name, shape, color in (
        (w_left + edge / 2, bottom + edge + 0.25, "W", f"{size} × {size}", INK),
        (b_left + sliver / 2, bottom + edge + 0.25, "B", f"{size} × {rank}", OTHER),
        (a_left + edge / 2, middle + sliver / 2 + 0.25, "A", f"{rank} × {size}", OTHER),
    ):
        draw_label(ax, x, y, f"{name}: {shape}", color, 12)
    frozen, trained = size * size, 2 * size * rank
    draw_label(ax, w_left + edge / 2, 0.54, f"frozen:\n{frozen:,} numbers", INK, 11, va="top")
    share = f"{100 * trained / frozen:.2g} %"
    text = f"trained: 2 × {size * rank:,} = {trained:,} numbers,\n{share} of W"
    draw_label(ax, (b_left + a_left + edge) / 2, 0.54, text, OTHER, 11, va="top")
    return figure
