"""A page drawn with PIL: a strip with the title, words, and a table or chart, in three layouts.

What is drawn does not depend on the page's size: letters and gaps grow with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from metaembed_lite.data.pages.charts import (
    LEAST,
    THEMES,
    Box,
    Color,
    Points,
    Sheet,
    draw_bars,
    draw_line,
    draw_pie,
    draw_table,
    font,
    pitch,
    size_for,
)  # fmt: skip

SMALLEST = 96  # pixels: fewer cannot hold the words
LAYOUTS = ("top", "bottom", "side")  # where the strip with the title is
CHARTS = {"tables": draw_table, "bars": draw_bars, "lines": draw_line, "pies": draw_pie}


class Look(NamedTuple):
    """How a page looks, whatever it says: a layout, an index into THEMES, and the chart's variant.

    The variant: a table with bars behind its values, thin bars, a filled line, a ring for a pie.
    """

    layout: str
    theme: int
    variant: bool


def wrap(text: str, size: int, width: float) -> list[str]:
    """A text in lines no wider than ``width`` pixels; a word that is wider is cut with a hyphen."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font(size).getlength(joined) <= width:
            lines[-1] = joined
            continue
        while font(size).getlength(word) > width:
            cut = len(word) - 4
            while cut > 1 and font(size).getlength(word[:cut] + "-") > width:
                cut -= 1
            lines.append(word[:cut] + "-")
            word = word[cut:]
        lines.append(word)
    return [line for line in lines if line]


def fitted(text: str, size: int, width: float) -> tuple[list[str], int]:
    """Lines of a text, in letters small enough to hyphenate no word, if there are such."""
    size = size_for(text.split(), size, width)
    return wrap(text, size, width), size


def write(sheet: Sheet, x: float, y: float, text: str, width: float, ink: Color) -> float:
    """Write a text in lines from (x, y) on; returns the y below it."""
    lines, size = fitted(text, sheet.size, width)
    for line in lines:
        sheet.pen.text((x, y), line, font=font(size), fill=ink)
        y += pitch(size)
    return y


def height(text: str, size: int, width: float) -> int:
    """Pixels that ``write`` takes for a text."""
    lines, size = fitted(text, size, width)
    return len(lines) * pitch(size)


def draw_page(
    kind: str, words: Sequence[str], points: Points, look: Look, pixels: int
) -> Image.Image:
    """A square page, RGB.

    Args:
        kind: "tables", "bars", "lines" or "pies".
        words: what stands on the strip, the column's name, and what is shown of it.
        points: (label, value), in drawing order.
        look: layout, theme, variant.
        pixels: of an edge.
    """
    theme = THEMES[look.theme]
    image = Image.new("RGB", (pixels, pixels), theme.paper)
    sheet = Sheet(image, ImageDraw.Draw(image), theme, max(9, pixels // 15))
    gap = max(2, pixels // 40)
    on_strip, column, form = words
    at_side = look.layout == "side"
    edge = pixels // 2 if at_side else pixels  # words get all of one half, or 0.6 of the page
    width, room = edge - 2 * gap, pixels - 4 * gap if at_side else 0.6 * pixels
    while sheet.size > LEAST and _total(words, sheet.size, width) > room:
        sheet = sheet._replace(size=sheet.size - 1)
    if at_side:
        sheet.pen.rectangle((0, 0, edge, pixels), fill=theme.strip)
        y: float = gap // 2
        for text in words:
            y = write(sheet, gap, y, text, width, theme.title) + gap
        box: Box = (edge + 2 * gap, gap, pixels - gap, pixels - gap)
    else:
        strip = height(on_strip, sheet.size, width) + gap + sheet.size // 5
        caption = _total((column, form), sheet.size, width) + gap
        top = look.layout == "top"
        y = 0 if top else pixels - strip
        sheet.pen.rectangle((0, y, pixels, y + strip), fill=theme.strip)
        write(sheet, gap, y + gap // 2, on_strip, width, theme.title)
        y = strip if top else pixels - strip - caption
        after = write(sheet, gap, y, column, width, theme.ink)
        after = write(sheet, gap, after, form, width, theme.ink)
        box = (gap, after + gap, pixels - gap, pixels - gap) if top else (gap, gap, pixels - gap, y)
    CHARTS[kind](sheet, box, points, look.variant)
    return image


def _total(texts: Sequence[str], size: int, width: float) -> int:
    return sum(height(text, size, width) for text in texts)
