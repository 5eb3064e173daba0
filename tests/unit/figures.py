"""What a reader sees in a figure: where its texts are, and how well they can be read."""

import itertools

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.text import Text

PAGES = ("#ffffff", "#121212")  # light and dark


def texts(figure):
    """The texts that are shown, with their boxes in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in shown]


def words(figure):
    return [text.get_text() for text, _ in texts(figure)]


def overlapping(figure):
    """Pairs of texts that overlap by more than a pixel."""
    pairs = itertools.combinations(texts(figure), 2)
    return [
        (a.get_text(), b.get_text())
        for (a, box), (b, other) in pairs
        if box.padded(-0.5).overlaps(other.padded(-0.5))
    ]


def outside(figure):
    width, height = figure.get_size_inches() * figure.dpi
    return [
        text.get_text()
        for text, box in texts(figure)
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]


def contrast(color, background):
    """The contrast ratio of WCAG 2."""
    luminances = []
    for rgb in (to_rgb(color), to_rgb(background)):
        channels = np.array(rgb)
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        luminances.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(luminances) + 0.05) / (min(luminances) + 0.05)


def lowest_contrast(figure):
    """Of all texts: on both pages, or on the filled box that a text is in."""
    lowest = np.inf
    patches = [p for p in figure.findobj(Patch) if p.get_facecolor()[3] == 1]
    for text, box in texts(figure):
        x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        below = [p.get_facecolor()[:3] for p in patches if p.get_window_extent().contains(x, y)]
        backgrounds = below[-1:] or PAGES
        lowest = min(lowest, *(contrast(text.get_color(), page) for page in backgrounds))
    return lowest


def assert_readable(figure):
    """Nothing overlaps or is cut off, on a transparent background, in letters of 8 pt and more."""
    assert figure.get_facecolor()[3] == 0
    assert all(ax.get_facecolor()[3] == 0 or not ax.axison for ax in figure.axes)
    assert not overlapping(figure)
    assert not outside(figure)
    assert lowest_contrast(figure) >= 4
    assert min(text.get_fontsize() for text, _ in texts(figure)) >= 8
    assert figure.get_size_inches()[0] <= 7.2
