"""The figures that the notebooks share."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figures import assert_readable, words
from PIL import Image

from metaembed_lite import load_task
from metaembed_lite.data.named_cells import find_named_cells
from metaembed_lite.data.sheets import render_sheet
from metaembed_lite.data.stickers import describe, sample_triple
from metaembed_lite.plots import (
    plot_alignment,
    plot_budget_curve,
    plot_curves,
    plot_stacked_bars,
    show_boards,
    show_rankings,
)

IMAGES = [np.full((4, 4 + i), i) for i in range(8)]
MEMORY = {
    "full training": {"weights": 6.0, "gradients": 6.0, "optimizer": 24.0, "activations": 3.0},
    "LoRA, rank 32": {"weights": 6.0, "gradients": 0.2, "activations": 3.0},
}


def line_styles(figure):
    lines = figure.axes[0].lines
    return [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines]


def assert_distinguishable(styles):
    assert len(set(styles)) == len(styles)
    for i, (color, marker, dash) in enumerate(styles):
        for other_color, other_marker, other_dash in styles[:i]:
            if color == other_color:
                assert marker != other_marker or dash != other_dash


@pytest.mark.parametrize("n", [6, 16])
def test_no_two_lines_share_color_marker_and_dash(n):
    series = {f"line {i}": ([0, 1], [i, i]) for i in range(n)}
    styles = line_styles(plot_curves(series, "step", "loss"))
    assert len(styles) == n
    assert_distinguishable(styles)


def test_two_of_six_lines_of_one_color_differ_in_marker_and_dash():
    series = {f"line {i}": ([0, 1], [i, i]) for i in range(6)}
    styles = line_styles(plot_curves(series, "step", "loss"))
    pairs = [(a, b) for i, a in enumerate(styles) for b in styles[:i] if a[0] == b[0]]
    assert len(pairs) == 2
    assert all(a[1] != b[1] and a[2] != b[2] for a, b in pairs)


def test_six_systems_in_the_budget_figure_are_distinguishable():
    table = pd.DataFrame(
        [
            {"system": f"s{i}", "r_q": 1, "r_c": r, "bytes_per_candidate": 64 * r, "p_at_1": 0.5}
            for i in range(6)
            for r in (1, 2)
        ]
    )
    styles = line_styles(plot_budget_curve(table))
    assert len(styles) == 6
    assert_distinguishable(styles)


def test_no_figure_stays_open():
    plot_curves({"a": ([0, 1], [0, 1])}, "x", "y", guides={"best": 1.0}, log_x=False)
    show_boards([[[0, 1], [1, 0]]], cells=1)
    plot_stacked_bars(MEMORY, "GiB")
    show_rankings(IMAGES, [1] * 8, {"a": range(8)})
    assert plt.get_fignums() == []


def test_errors_name_the_shape_and_the_missing_column():
    with pytest.raises(ValueError, match=r"shape \(1, 2\): expected \(1, 1\), one row per query"):
        plot_alignment([[1.0, 2.0]], ["q1"], ["c1"])
    with pytest.raises(ValueError, match=r"no columns \['r_q'\]: pass the table of sweep"):
        plot_budget_curve(pd.DataFrame({"r_c": [1], "bytes_per_candidate": [4], "p_at_1": [1.0]}))


def test_rankings_show_the_best_images_and_the_rank_of_the_first_right_one():
    scores = {"first": [9, 0, 0, 0, 0, 0, 0, 5], "fourth": [1, 7, 6, 5, 4, 0, 0, 0]}
    figure = show_rankings(IMAGES, [1, 0, 0, 0, 0, 0, 0, 1], scores, k=3, query="an owl")
    assert_readable(figure)
    shown = words(figure)
    assert "query: an owl" in shown
    assert [text for text in shown if "right" in text] == [
        "first right: rank 1",
        "first right: rank 5",
    ]
    images = [int(image.get_array()[0, 0]) for image in figure.axes[0].images]
    assert images == [0, 7, 1, 1, 2, 3]
    assert len([p for p in figure.axes[0].patches if p.get_linewidth() == 3]) == 2


def test_a_tie_with_a_wrong_image_counts_against_the_ranking():
    assert "first right: rank 8" in words(show_rankings(IMAGES, [1] + [0] * 7, {"a": [0.5] * 8}))
    assert "none is right" in words(show_rankings(IMAGES, [0] * 8, {"a": range(8)}))


@pytest.mark.parametrize("k", [1, 5, 8, 99])
def test_rankings_of_any_length_are_readable(k):
    names = ["budget (1, 1)", "a much longer name of a ranking, in words"]
    rows = {name: np.arange(8.0) for name in names}
    assert_readable(show_rankings(IMAGES, [0, 1] * 4, rows, k=k, query="an owl and a key, " * 8))


def framed_cells(figure, side):
    """The cells that thin colored frames mark, image by image, with the frame's color."""
    ax = figure.axes[0]
    frames = [p for p in ax.patches if p.get_linewidth() == 1.7]
    cells = []
    for image in ax.images:
        left, right, bottom, top = image.get_extent()
        size = (right - left) / side
        cells.append({})
        for frame in frames:
            box = frame.get_bbox()
            x, y = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
            if left < x < right and bottom < y < top:
                assert (box.width, box.height) == pytest.approx((size, size))
                cell = int((top - y) / size) * side + int((x - left) / size)
                cells[-1][cell] = frame.get_edgecolor()
    return cells


def test_rankings_of_sheets_frame_the_stickers_that_the_query_names():
    triple = sample_triple(np.random.default_rng(3))
    sheets = [triple.sheet, triple.negative]
    images = [render_sheet(sheet) for sheet in sheets]
    figure = show_rankings(images, [1, 0], {"a": [2, 1]}, query=describe(triple.named))
    assert_readable(figure)
    named = [np.flatnonzero(np.isin(sheet.things, triple.named)).tolist() for sheet in sheets]
    framed = framed_cells(figure, side=4)
    assert [sorted(cells) for cells in framed] == named
    assert len(named[0]) == len(named[1]) + 1  # the hard negative lacks one of the named things
    assert len({color for cells in framed for color in cells.values()}) == 1


def test_rankings_of_boards_frame_the_named_places_by_whether_they_match():
    task = load_task("handwriting", n_queries=1, n_train=0, side=3)
    figure = show_rankings(task.candidates, [1, 0], {"a": [2, 1]}, query=task.queries[0])
    right, negative = framed_cells(figure, side=3)
    columns, rows = "ABC", "123"
    places = [part.split(" ")[1] for part in task.queries[0].split(", ")]
    named = sorted(rows.index(place[1]) * 3 + columns.index(place[0]) for place in places)
    assert sorted(right) == sorted(negative) == named
    assert len(set(right.values())) == 1
    assert sum(negative[cell] != right[cell] for cell in named) == 1  # the replaced digit


@pytest.mark.parametrize("query", ["violin, red apple", "4 A1, 7 C2", "a violin", ""])
@pytest.mark.parametrize("edge", [128, 1024])
def test_a_photo_has_no_frames(query, edge):
    assert find_named_cells(query, Image.new("RGB", (edge, edge), "red")) == (0, {})
    assert find_named_cells(query, np.zeros((edge, edge))) == (0, {})


def test_stacked_bars_show_parts_and_totals():
    figure = plot_stacked_bars(MEMORY, "GiB")
    assert_readable(figure)
    shown = words(figure)
    assert {"39 GiB", "9.2 GiB", "24", *MEMORY, *MEMORY["full training"]} <= set(shown)
    assert "0.2" not in shown  # wider than its part
    bars = figure.axes[0].patches
    ends = sorted(round(bar.get_x() + bar.get_width(), 6) for bar in bars)
    assert ends[-1] == 39
    assert_readable(plot_stacked_bars({"a": {f"part {i}": i for i in range(12)}}, "MB"))


def test_errors_of_rankings_and_bars_name_value_and_remedy():
    with pytest.raises(ValueError, match=r"k=0: use a whole number from 1 up"):
        show_rankings(IMAGES, [1] * 8, {"a": range(8)}, k=0)
    with pytest.raises(ValueError, match=r"nothing to show: give at least one image and one rank"):
        show_rankings(IMAGES, [1] * 8, {})
    with pytest.raises(ValueError, match=r"'a' has shape \(2,\) for 8 images: give one value per"):
        show_rankings(IMAGES, [1] * 8, {"a": [1, 2]})
    with pytest.raises(ValueError, match=r"'relevance' has shape \(1,\) for 8 images"):
        show_rankings(IMAGES, [1], {"a": range(8)})
    with pytest.raises(ValueError, match=r"'a' has a score that is not a number"):
        show_rankings(IMAGES, [1] * 8, {"a": [np.nan] * 8})
    with pytest.raises(ValueError, match=r"no parts: give at least one bar"):
        plot_stacked_bars({}, "GiB")
    with pytest.raises(ValueError, match=r"'x' of 'a' is -1: use a number from 0 up"):
        plot_stacked_bars({"a": {"x": -1}}, "GiB")
