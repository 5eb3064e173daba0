"""A whole page: a strip with the title, the words, and a table or chart, in three layouts.

The content does not depend on the page's size: letters and gaps grow with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from metaembed_lite.data.pages.charts import (
    MIN_FONT_PX,
    THEMES,
    Box,
    Canvas,
    Color,
    Points,
    create_canvas,
    draw_bars,
    draw_line,
    draw_pie,
    draw_table,
    fit_font_size,
    line_height,
    load_font,
    measure_text,
)

MIN_PAGE_PX = 96  # a smaller page cannot hold the words
LAYOUTS = ("top", "bottom", "side")  # the place of the strip with the title
CHARTS = {"tables": draw_table, "bars": draw_bars, "lines": draw_line, "pies": draw_pie}


class Style(NamedTuple):
    """How a page looks, independent of its content.

    Attributes:
        layout: one of ``LAYOUTS``.
        theme: an index into ``THEMES``.
        variant: whether to draw the chart's variant: a table over bars, thin bars, a filled line,
            or a ring.

    Example:
        >>> Style("top", 0, variant=False).layout
        'top'
    """

    layout: str
    theme: int
    variant: bool


def wrap(text: str, font_px: int, width: float) -> list[str]:
    """Break a text into lines of at most ``width`` pixels. Wider words are hyphenated.

    Example:
        >>> wrap("mean malic acid", 10, width=60)
        ['mean malic', 'acid']
    """
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if measure_text(joined, font_px) <= width:
            lines[-1] = joined
            continue
        while measure_text(word, font_px) > width:
            end = len(word) - 4
            while end > 1 and measure_text(word[:end] + "-", font_px) > width:
                end -= 1
            lines.append(word[:end] + "-")
            word = word[end:]
        lines.append(word)
    return [line for line in lines if line]


def fit_text(text: str, font_px: int, width: float) -> tuple[list[str], int]:
    """Break a text into lines, with a font small enough to hyphenate no word, if possible.

    Returns:
        The lines, and their font size in pixels.

    Example:
        >>> fit_text("chromatography", 20, width=80)[0]
        ['chromatography']
    """
    font_px = fit_font_size(text.split(), font_px, width)
    return wrap(text, font_px, width), font_px


def write_text(canvas: Canvas, x: float, y: float, text: str, width: float, ink: Color) -> float:
    """Write a text in lines from (x, y) on.

    Returns:
        The y below the last line.

    Example:
        >>> write_text(create_canvas(96, THEMES[0]), 4, 10, "Wine", 88, (0, 0, 0))
        20
    """
    lines, font_px = fit_text(text, canvas.font_px, width)
    for line in lines:
        canvas.pen.text((x, y), line, font=load_font(font_px), fill=ink)
        y += line_height(font_px)
    return y


def measure_height(texts: Sequence[str], font_px: int, width: float) -> int:
    """Measure the pixels that ``write_text`` takes for texts below each other.

    Example:
        >>> measure_height(["Wine", "malic acid"], 9, width=88)
        20
    """
    fitted = (fit_text(text, font_px, width) for text in texts)
    return sum(len(lines) * line_height(line_px) for lines, line_px in fitted)


def compose_page(
    kind: str, words: Sequence[str], points: Points, style: Style, pixels: int
) -> Image.Image:
    """Compose a square page, RGB.

    Args:
        kind: "tables", "bars", "lines" or "pies".
        words: the title on the strip, the column's name, and what is shown of the column.
        points: (label, value), in drawing order.
        style: layout, theme and variant.
        pixels: edge of the page.

    Example:
        >>> words = ("Wine, alcohol 13 to 13.3", "malic acid", "mean by class")
        >>> points = [("class 0", 2.0), ("class 1", 1.9), ("class 2", 3.3)]
        >>> compose_page("bars", words, points, Style("top", 0, variant=False), 96).size
        (96, 96)
    """
    canvas = create_canvas(pixels, THEMES[style.theme])
    gap = max(2, pixels // 40)
    at_side = style.layout == "side"
    edge = pixels // 2 if at_side else pixels  # words get all of one half, or 0.6 of the page
    width, room = edge - 2 * gap, pixels - 4 * gap if at_side else 0.6 * pixels
    while canvas.font_px > MIN_FONT_PX and measure_height(words, canvas.font_px, width) > room:
        canvas = canvas._replace(font_px=canvas.font_px - 1)
    box = WORDS[style.layout](canvas, words, width, gap)
    CHARTS[kind](canvas, box, points, style.variant)
    return canvas.image


def _write_at_side(canvas: Canvas, words: Sequence[str], width: float, gap: int) -> Box:
    """Write all words on a strip of half the page. Returns the box that is left for the chart."""
    pixels = canvas.image.width
    edge = pixels // 2
    canvas.pen.rectangle((0, 0, edge, pixels), fill=canvas.theme.strip)
    y: float = gap // 2
    for text in words:
        y = write_text(canvas, gap, y, text, width, canvas.theme.title) + gap
    return (edge + 2 * gap, gap, pixels - gap, pixels - gap)


def _write_at_top(canvas: Canvas, words: Sequence[str], width: float, gap: int) -> Box:
    """Write the title on a strip at the top, and the caption below it."""
    pixels = canvas.image.width
    strip_height = _write_title(canvas, words[0], width, gap, at_bottom=False)
    y = _write_caption(canvas, words[1:], width, gap, strip_height)
    return (gap, y + gap, pixels - gap, pixels - gap)


def _write_at_bottom(canvas: Canvas, words: Sequence[str], width: float, gap: int) -> Box:
    """Write the title on a strip at the bottom, and the caption above it."""
    pixels = canvas.image.width
    strip_height = _write_title(canvas, words[0], width, gap, at_bottom=True)
    caption_height = measure_height(words[1:], canvas.font_px, width) + gap
    y = pixels - strip_height - caption_height
    _write_caption(canvas, words[1:], width, gap, y)
    return (gap, gap, pixels - gap, y)


def _write_title(canvas: Canvas, title: str, width: float, gap: int, at_bottom: bool) -> int:
    """Draw the strip and write the title on it. Returns the height of the strip."""
    pixels = canvas.image.width
    strip_height = measure_height([title], canvas.font_px, width) + gap + canvas.font_px // 5
    y = pixels - strip_height if at_bottom else 0
    canvas.pen.rectangle((0, y, pixels, y + strip_height), fill=canvas.theme.strip)
    write_text(canvas, gap, y + gap // 2, title, width, canvas.theme.title)
    return strip_height


def _write_caption(
    canvas: Canvas, caption: Sequence[str], width: float, gap: int, y: float
) -> float:
    for text in caption:
        y = write_text(canvas, gap, y, text, width, canvas.theme.ink)
    return y


WORDS = {"top": _write_at_top, "bottom": _write_at_bottom, "side": _write_at_side}
