"""A page's table, bars, line or pie, drawn with PIL into a box of a canvas.

Letters are never smaller than 8 pixels. The colors are those of Okabe and Ito, which color-blind
readers can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

MIN_FONT_PX = 8
SUPERSAMPLE = 4  # lines and pies are drawn this many times larger, then reduced
BLUE, ORANGE, GREEN, RED = (0, 114, 178), (230, 159, 0), (0, 158, 115), (213, 94, 0)
PINK, SKY, YELLOW, BLACK = (204, 121, 167), (86, 180, 233), (240, 228, 66), (20, 20, 24)

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels
Points = Sequence[tuple[str, float]]  # (label, value)


class Theme(NamedTuple):
    """The colors of a page.

    Attributes:
        paper: the background.
        ink: letters and axes.
        strip: the background of the title.
        title: the letters on the strip.
        marks: bars, slices and lines, up to four.
        faint: areas behind letters, such as the bars of a table.

    Example:
        >>> THEMES[0].paper
        (255, 255, 255)
    """

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


class Canvas(NamedTuple):
    """What the functions below draw on: an image, its pen, its theme, and the font size in pixels.

    Example:
        >>> create_canvas(96, THEMES[0]).font_px
        9
    """

    image: Image.Image
    pen: ImageDraw.ImageDraw
    theme: Theme
    font_px: int


def create_canvas(pixels: int, theme: Theme) -> Canvas:
    """Create a square canvas of empty paper. The font size grows with the page.

    Example:
        >>> create_canvas(300, THEMES[0]).image.size
        (300, 300)
    """
    image = Image.new("RGB", (pixels, pixels), theme.paper)
    return Canvas(image, ImageDraw.Draw(image), theme, max(9, pixels // 15))


@cache
def load_font(font_px: int) -> Any:
    """Load PIL's own typeface: Latin letters, digits and ASCII signs.

    Example:
        >>> load_font(12).size
        12
    """
    return ImageFont.load_default(font_px)


def measure_text(text: str, font_px: int) -> float:
    """Measure the width of one line of text, in pixels.

    Example:
        >>> measure_text("wine", 20) > measure_text("wine", 10)
        True
    """
    return float(load_font(font_px).getlength(text))


def measure_widest(texts: Sequence[str], font_px: int) -> float:
    """Measure the width of the widest text, in pixels.

    Example:
        >>> measure_widest(["a", "wine"], 10) == measure_text("wine", 10)
        True
    """
    return max(measure_text(text, font_px) for text in texts)


def line_height(font_px: int) -> int:
    """Return the pixels from one line to the next.

    Example:
        >>> line_height(10)
        11
    """
    return round(1.13 * font_px)


def fit_font_size(texts: Sequence[str], font_px: int, width: float) -> int:
    """Find the largest font size up to ``font_px`` at which every text fits the width.

    Returns:
        The size in pixels, or ``MIN_FONT_PX`` if none is small enough.

    Example:
        >>> fit_font_size(["wine"], 20, width=1000), fit_font_size(["wine"], 20, width=1)
        (20, 8)
    """
    while font_px > MIN_FONT_PX and measure_widest(texts, font_px) > width:
        font_px -= 1
    return font_px


def format_number(value: float) -> str:
    """Format with three significant digits, or all digits before the point, and no exponent.

    Example:
        >>> format_number(0.003791), format_number(13.72), format_number(1680.4)
        ('0.00379', '13.7', '1680')
    """
    if abs(value) >= 100:
        return f"{value:.0f}"
    return np.format_float_positional(value, 3, unique=False, fractional=False, trim="-")


def draw_table(canvas: Canvas, box: Box, points: Points, variant: bool) -> None:
    """Draw rows of a label and a value, between rules or, as a variant, over bars.

    Example:
        >>> canvas = create_canvas(96, THEMES[0])
        >>> draw_table(canvas, (4, 4, 92, 92), [("mean", 2.5), ("lowest", 1.0)], variant=False)
    """
    left, top, right, bottom = box
    step = min((bottom - top) / len(points), 2.6 * canvas.font_px)
    largest = max(value for _, value in points) or 1
    for row, (label, value) in enumerate(points):
        y = top + row * step
        if variant:
            end = left + (right - left) * value / largest
            canvas.pen.rectangle((left, y, end, y + step - 2), fill=canvas.theme.faint)
        else:
            canvas.pen.line((left, y, right, y), fill=canvas.theme.ink)
        draw_entry(canvas, (left, y + step / 8, right, y + step), label, format_number(value))


def draw_entry(canvas: Canvas, box: Box, label: str, value: str) -> None:
    """Draw a label at the left and a value at the right, in two lines if one is too short.

    Example:
        >>> draw_entry(create_canvas(96, THEMES[0]), (4, 4, 92, 30), "mean", "2.5")
    """
    left, top, right, _ = box
    font_px, n_lines = fit_entry(canvas, box, label, value)
    font, ink = load_font(font_px), canvas.theme.ink
    canvas.pen.text((left + 1, top), label, font=font, fill=ink)
    value_top = top + (n_lines - 1) * line_height(font_px)
    canvas.pen.text((right - 1, value_top), value, font=font, fill=ink, anchor="ra")


def fit_entry(canvas: Canvas, box: Box, label: str, value: str) -> tuple[int, int]:
    """Find the font size for a label and its value, and the number of lines they take.

    Example:
        >>> fit_entry(create_canvas(96, THEMES[0]), (4, 4, 92, 30), "mean", "2.5")
        (9, 1)
    """
    both, width = f"{label} {value}", box[2] - box[0] - 2
    font_px = fit_font_size([both], canvas.font_px, width)
    return font_px, 1 if measure_text(both, font_px) <= width else 2


def draw_bars(canvas: Canvas, box: Box, points: Points, variant: bool) -> None:
    """Draw upright bars, or horizontal bars if the labels are too long. A variant has thin bars.

    Example:
        >>> canvas = create_canvas(96, THEMES[0])
        >>> draw_bars(canvas, (4, 4, 92, 92), [("1st", 7), ("2nd", 3)], variant=False)
    """
    width = (box[2] - box[0]) / len(points)
    texts = [text for label, value in points for text in (label, format_number(value))]
    font_px = fit_font_size(texts, canvas.font_px, width - 2)
    if measure_widest(texts, font_px) > width - 2:
        _draw_horizontal_bars(canvas, box, points, variant)
    else:
        _draw_upright_bars(canvas, box, points, variant, font_px)


def _draw_horizontal_bars(canvas: Canvas, box: Box, points: Points, variant: bool) -> None:
    """Draw a label and a value per bar, and the bar below them."""
    left, top, right, bottom = box
    step = (bottom - top) / len(points)
    largest = max(value for _, value in points) or 1
    colors = _choose_bar_colors(canvas, variant)
    for i, (label, value) in enumerate(points):
        row = (left, top + i * step, right, top + (i + 1) * step)
        font_px, n_lines = fit_entry(canvas, row, label, format_number(value))
        y = row[1] + n_lines * line_height(font_px) + 1
        thickness = max(1, min(row[3] - y - 1, canvas.font_px * (0.3 if variant else 0.6)))
        end = left + (right - left) * value / largest
        if value:
            canvas.pen.rectangle((left, y, end, y + thickness), fill=colors[i])
        draw_entry(canvas, row, label, format_number(value))  # last: a "g" reaches into its bar


def _draw_upright_bars(
    canvas: Canvas, box: Box, points: Points, variant: bool, font_px: int
) -> None:
    """Draw bars on a base line, with values above and labels below."""
    left, top, right, bottom = box
    width = (right - left) / len(points)
    largest = max(value for _, value in points) or 1
    colors = _choose_bar_colors(canvas, variant)
    base, room = bottom - line_height(font_px) - 1, bottom - top - 2 * line_height(font_px) - 2
    font, ink = load_font(font_px), canvas.theme.ink
    for i, (label, value) in enumerate(points):
        middle, y = left + (i + 0.5) * width, base - room * value / largest
        half = width * (0.2 if variant else 0.4)
        canvas.pen.rectangle((middle - half, y, middle + half, base), fill=colors[i])
        above, below = int(y) - max(2, font_px // 6), bottom - font_px // 4
        for text, baseline in ((format_number(value), above), (label, below)):
            canvas.pen.text((middle, baseline), text, font=font, fill=ink, anchor="ms")
    canvas.pen.line((left, base, right, base), fill=ink)


def _choose_bar_colors(canvas: Canvas, variant: bool) -> tuple[Color, ...]:
    return canvas.theme.marks[:1] * 4 if variant else canvas.theme.marks


def draw_line(canvas: Canvas, box: Box, points: Points, variant: bool) -> None:
    """Draw a line through the values, and the lowest and highest value at the axis.

    A variant fills the area below the line.

    Example:
        >>> canvas = create_canvas(96, THEMES[0])
        >>> draw_line(canvas, (4, 4, 92, 92), [("", 1.0), ("", 3.0), ("", 2.0)], variant=True)
    """
    left, top, right, bottom = box
    font_px, font, ink = canvas.font_px, load_font(canvas.font_px), canvas.theme.ink
    values = np.array([value for _, value in points])
    low, high = float(values.min()), float(values.max())
    axis = left + measure_widest([format_number(low), format_number(high)], font_px) + 4
    large = enlarge(canvas, (axis, top, right, bottom))
    inset = SUPERSAMPLE * 2
    xs = np.linspace(0, large.width, len(values))
    ys = (high - values) / ((high - low) or 1) * (large.height - 2 * inset) + inset
    line = list(zip(xs.tolist(), ys.tolist(), strict=True))
    pen = ImageDraw.Draw(large)
    if variant:
        area = [*line, (large.width, large.height), (0, large.height)]
        pen.polygon(area, fill=canvas.theme.faint)
    thickness = SUPERSAMPLE * max(2, font_px // 6)
    pen.line(line, fill=canvas.theme.marks[0], width=thickness, joint="curve")
    reduce_into(canvas, large, axis, top)
    canvas.pen.line([(axis, top), (axis, bottom), (right, bottom)], fill=ink)
    canvas.pen.text((axis - 3, top), format_number(high), font=font, fill=ink, anchor="rt")
    canvas.pen.text((axis - 3, bottom), format_number(low), font=font, fill=ink, anchor="rb")


def draw_pie(canvas: Canvas, box: Box, points: Points, variant: bool) -> None:
    """Draw a pie or, as a variant, a ring. A legend with percentages is at its side or below it.

    Example:
        >>> canvas = create_canvas(96, THEMES[0])
        >>> draw_pie(canvas, (4, 4, 92, 92), [("low", 3), ("high", 5)], variant=True)
    """
    left, top, right, bottom = box
    values = [value for _, value in points]
    legend = [(label, f"{100 * value / sum(values):.0f}%") for label, value in points]
    legend_below = bottom - top > 1.3 * (right - left)
    swatch, gap = 0.6 * canvas.font_px, canvas.font_px / 3
    room = (right - left) * (1 if legend_below else 0.75) - swatch - gap
    lines: list[tuple[str, ...]] = [(" ".join(entry),) for entry in legend]
    font_px = fit_font_size([entry[0] for entry in lines], canvas.font_px, room)
    if measure_widest([entry[0] for entry in lines], font_px) > room:
        lines = list(legend)  # two lines per entry: the label, then its percentage
    step = line_height(font_px) * len(lines[0])
    width = measure_widest([text for entry in lines for text in entry], font_px) + swatch + gap
    if legend_below:
        edge = min(bottom - top - step * len(legend) - canvas.font_px / 2, right - left)
        x, y = left, top + edge + canvas.font_px / 2
    else:
        edge = min(bottom - top, right - left - width - gap)
        x, y = right - width, max(top, (top + bottom - step * len(legend)) / 2)
    draw_disc(canvas, (left, top, left + edge, top + edge), values, variant)
    for i, entry in enumerate(lines):
        swatch_top = y + i * step + swatch / 3
        area = (x, swatch_top, x + swatch, swatch_top + swatch)
        canvas.pen.rectangle(area, fill=canvas.theme.marks[i])
        for j, text in enumerate(entry):
            position = (x + swatch + gap, y + i * step + j * line_height(font_px))
            canvas.pen.text(position, text, font=load_font(font_px), fill=canvas.theme.ink)


def draw_disc(canvas: Canvas, area: Box, values: Sequence[float], ring: bool) -> None:
    """Draw slices in proportion to the values, clockwise from twelve o'clock.

    Example:
        >>> draw_disc(create_canvas(96, THEMES[0]), (4, 4, 92, 92), [3, 5], ring=False)
    """
    large = enlarge(canvas, area)
    pen, edge = ImageDraw.Draw(large), large.width
    start, total = -90.0, sum(values)
    for color, value in zip(canvas.theme.marks, values, strict=False):
        end = start + 360 * value / total
        if value:
            border = canvas.theme.paper if value < total else None  # between slices
            pen.pieslice((0, 0, edge - 1, edge - 1), start, end, color, border, width=SUPERSAMPLE)
        start = end
    if ring:
        hole = (0.3 * edge, 0.3 * edge, 0.7 * edge, 0.7 * edge)
        pen.ellipse(hole, fill=canvas.theme.paper)
    reduce_into(canvas, large, area[0], area[1])


def enlarge(canvas: Canvas, area: Box) -> Image.Image:
    """Create empty paper, ``SUPERSAMPLE`` times as large as an area of the page.

    Example:
        >>> enlarge(create_canvas(96, THEMES[0]), (0, 0, 10, 20)).size
        (40, 80)
    """
    size = SUPERSAMPLE * round(area[2] - area[0]), SUPERSAMPLE * round(area[3] - area[1])
    return Image.new("RGB", size, canvas.theme.paper)


def reduce_into(canvas: Canvas, large: Image.Image, left: float, top: float) -> None:
    """Reduce what was drawn on enlarged paper and paste it into the page, with smooth edges.

    Example:
        >>> canvas = create_canvas(96, THEMES[0])
        >>> reduce_into(canvas, Image.new("RGB", (40, 40)), left=0, top=0)
        >>> canvas.image.getpixel((9, 9)), canvas.image.getpixel((10, 10))
        ((0, 0, 0), (255, 255, 255))
    """
    canvas.image.paste(large.reduce(SUPERSAMPLE), (round(left), round(top)))
