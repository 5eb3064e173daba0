"""A page's table, bars, line or pie, drawn with PIL into a box.

Letters are never smaller than 8 pixels. Colors are Okabe and Ito's, which color-blind readers can
tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST = 8  # pixels: the smallest letters
SMOOTH = 4  # lines and pies are drawn this many times larger, then reduced
BLUE, ORANGE, GREEN, RED = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)
PINK, SKY, YELLOW, BLACK = (204, 121, 167), (86, 180, 233), (240, 228, 66), (20, 20, 24)

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Points = Sequence[tuple[str, float]]  # label, value


class Theme(NamedTuple):
    """Colors: of the paper, its letters, the title's strip, its letters, marks, what lies faint."""

    paper: Color
    ink: Color
    strip: Color
    title: Color
    marks: tuple[Color, ...]
    faint: Color


THEMES = (
    Theme((255, 255, 255), BLACK, BLUE, (255, 255, 255), (BLUE, ORANGE, SKY, BLACK), (205,) * 3),
    Theme((24, 26, 32), (245, 245, 245), (60, 64, 74), YELLOW, (SKY, ORANGE, YELLOW, PINK),
          (70, 74, 84)),
    Theme((250, 243, 224), (50, 30, 10), (222, 203, 160), (50, 30, 10), (RED, BLUE, SKY, BLACK),
          (222, 203, 160)),
    Theme((228, 240, 236), BLACK, (0, 90, 66), (255, 255, 255), (GREEN, BLACK, ORANGE, PINK),
          (176, 204, 194)),
)  # fmt: skip


class Sheet(NamedTuple):
    """What the functions below draw on: an image, its pen, its theme, and the letters' size."""

    image: Image.Image
    pen: ImageDraw.ImageDraw
    theme: Theme
    size: int


@cache
def font(size: int) -> Any:
    """PIL's own typeface; Latin letters, digits and ASCII signs."""
    return ImageFont.load_default(size)


def number(value: float) -> str:
    """Three significant digits or all before the point, and no exponent: 0.00379, 13.7, 1680."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return np.format_float_positional(value, 3, unique=False, fractional=False, trim="-")


def pitch(size: int) -> int:
    """Pixels from one line to the next."""
    return round(1.13 * size)


def size_for(texts: Sequence[str], size: int, width: float) -> int:
    """The largest size of letters up to ``size`` in which every text fits the width, or LEAST."""
    while size > LEAST and max(font(size).getlength(text) for text in texts) > width:
        size -= 1
    return size


def draw_table(sheet: Sheet, box: Box, points: Points, variant: bool) -> None:
    """Rows of a label and a value between rules, or over bars as long as the values."""
    left, top, right, bottom = box
    step = min((bottom - top) / len(points), 2.6 * sheet.size)
    full = max(value for _, value in points) or 1
    for row, (label, value) in enumerate(points):
        y = top + row * step
        if variant:
            end = left + (right - left) * value / full
            sheet.pen.rectangle((left, y, end, y + step - 2), fill=sheet.theme.faint)
        else:
            sheet.pen.line((left, y, right, y), fill=sheet.theme.ink)
        label_and_value(sheet, (left, y + step / 8, right, y + step), label, number(value))


def label_and_value(sheet: Sheet, box: Box, label: str, value: str) -> None:
    """A label at the left and a value at the right, in two lines if they do not fit into one."""
    left, top, right, _ = box
    size, lines = label_lines(sheet, box, label, value)
    ink = sheet.theme.ink
    sheet.pen.text((left + 1, top), label, font=font(size), fill=ink)
    below = top + (lines - 1) * pitch(size)
    sheet.pen.text((right - 1, below), value, font=font(size), fill=ink, anchor="ra")


def label_lines(sheet: Sheet, box: Box, label: str, value: str) -> tuple[int, int]:
    """The size of a label's and its value's letters, and how many lines they take."""
    both, width = f"{label} {value}", box[2] - box[0] - 2
    size = size_for([both], sheet.size, width)
    return size, 1 if font(size).getlength(both) <= width else 2


def draw_bars(sheet: Sheet, box: Box, points: Points, variant: bool) -> None:
    """Bars on a base line, values above and labels below; lying ones if the labels are long."""
    left, top, right, bottom = box
    width = (right - left) / len(points)
    texts = [text for label, value in points for text in (label, number(value))]
    size = size_for(texts, sheet.size, width - 2)
    full = max(value for _, value in points) or 1
    marks = sheet.theme.marks[:1] * 4 if variant else sheet.theme.marks
    if max(font(size).getlength(text) for text in texts) > width - 2:
        step = (bottom - top) / len(points)
        for i, (label, value) in enumerate(points):
            row = (left, top + i * step, right, top + (i + 1) * step)
            letters, lines = label_lines(sheet, row, label, number(value))
            y = row[1] + lines * pitch(letters) + 1
            thick = max(1, min(row[3] - y - 1, sheet.size * (0.3 if variant else 0.6)))
            end = left + (right - left) * value / full
            if value:
                sheet.pen.rectangle((left, y, end, y + thick), fill=marks[i])
            label_and_value(sheet, row, label, number(value))  # last: a g reaches into its bar
        return
    base, room = bottom - pitch(size) - 1, bottom - top - 2 * pitch(size) - 2
    for i, (label, value) in enumerate(points):
        middle, y = left + (i + 0.5) * width, base - room * value / full
        half = width * (0.2 if variant else 0.4)
        sheet.pen.rectangle((middle - half, y, middle + half, base), fill=marks[i])
        above, below = int(y) - max(2, size // 6), bottom - size // 4
        for text, baseline in ((number(value), above), (label, below)):
            where, ink = (middle, baseline), sheet.theme.ink
            sheet.pen.text(where, text, font=font(size), fill=ink, anchor="ms")
    sheet.pen.line((left, base, right, base), fill=sheet.theme.ink)


def draw_line(sheet: Sheet, box: Box, points: Points, variant: bool) -> None:
    """A line through the values from left to right; its lowest and highest value at the axis."""
    left, top, right, bottom = box
    values = np.array([value for _, value in points])
    low, high = float(values.min()), float(values.max())
    axis = left + max(font(sheet.size).getlength(number(end)) for end in (low, high)) + 4
    large = enlarged(sheet, (axis, top, right, bottom))
    inset = SMOOTH * 2
    xs = np.linspace(0, large.width, len(values))
    ys = (high - values) / ((high - low) or 1) * (large.height - 2 * inset) + inset
    line = list(zip(xs.tolist(), ys.tolist(), strict=True))
    pen = ImageDraw.Draw(large)
    if variant:
        pen.polygon([*line, (large.width, large.height), (0, large.height)], fill=sheet.theme.faint)
    pen.line(line, fill=sheet.theme.marks[0], width=SMOOTH * max(2, sheet.size // 6), joint="curve")
    reduce_into(sheet, large, axis, top)
    ink, size = sheet.theme.ink, sheet.size
    sheet.pen.line([(axis, top), (axis, bottom), (right, bottom)], fill=ink)
    sheet.pen.text((axis - 3, top), number(high), font=font(size), fill=ink, anchor="rt")
    sheet.pen.text((axis - 3, bottom), number(low), font=font(size), fill=ink, anchor="rb")


def draw_pie(sheet: Sheet, box: Box, points: Points, variant: bool) -> None:
    """A pie or a ring, and beside or below it a legend with the shares in percent."""
    left, top, right, bottom = box
    values = [value for _, value in points]
    legend = [(label, f"{100 * value / sum(values):.0f}%") for label, value in points]
    below = bottom - top > 1.3 * (right - left)
    key, gap = 0.6 * sheet.size, sheet.size / 3
    room = (right - left) * (1 if below else 0.75) - key - gap
    size = size_for([" ".join(entry) for entry in legend], sheet.size, room)
    lines: list[tuple[str, ...]] = [(" ".join(entry),) for entry in legend]
    if max(font(size).getlength(entry[0]) for entry in lines) > room:
        lines = list(legend)  # a label, and below it its share
    step = pitch(size) * len(lines[0])
    words = max(font(size).getlength(text) for entry in lines for text in entry) + key + gap
    if below:
        edge = min(bottom - top - step * len(legend) - sheet.size / 2, right - left)
        x, y = left, top + edge + sheet.size / 2
    else:
        edge = min(bottom - top, right - left - words - gap)
        x, y = right - words, max(top, (top + bottom - step * len(legend)) / 2)
    draw_disc(sheet, (left, top, left + edge, top + edge), values, variant)
    for i, entry in enumerate(lines):
        swatch = (x, y + i * step + key / 3, x + key, y + i * step + key / 3 + key)
        sheet.pen.rectangle(swatch, fill=sheet.theme.marks[i])
        for j, text in enumerate(entry):
            where = (x + key + gap, y + i * step + j * pitch(size))
            sheet.pen.text(where, text, font=font(size), fill=sheet.theme.ink)


def draw_disc(sheet: Sheet, area: Box, values: Sequence[float], ring: bool) -> None:
    """Slices in proportion to the values, clockwise from twelve."""
    large = enlarged(sheet, area)
    pen, side = ImageDraw.Draw(large), large.width
    start, total = -90.0, sum(values)
    for mark, value in zip(sheet.theme.marks, values, strict=False):
        end = start + 360 * value / total
        if value:
            border = sheet.theme.paper if value < total else None  # between slices
            pen.pieslice((0, 0, side - 1, side - 1), start, end, mark, border, width=SMOOTH)
        start = end
    if ring:
        pen.ellipse((0.3 * side, 0.3 * side, 0.7 * side, 0.7 * side), fill=sheet.theme.paper)
    reduce_into(sheet, large, area[0], area[1])


def enlarged(sheet: Sheet, area: Box) -> Image.Image:
    """Empty paper, SMOOTH times as large as an area of the page."""
    size = SMOOTH * round(area[2] - area[0]), SMOOTH * round(area[3] - area[1])
    return Image.new("RGB", size, sheet.theme.paper)


def reduce_into(sheet: Sheet, large: Image.Image, left: float, top: float) -> None:
    """Put what was drawn on enlarged paper into the page, with smooth edges."""
    sheet.image.paste(large.reduce(SMOOTH), (round(left), round(top)))
