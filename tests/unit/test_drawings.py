"""The drawings of the ideas: what they say, and that it can be read on a light and a dark page."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import assert_readable, contrast, lowest_contrast, outside, overlapping, words
from matplotlib.patches import Rectangle
from PIL import Image

from metaembed_lite.canvas import draw_label, new_canvas
from metaembed_lite.drawings import (
    draw_architectures,
    draw_cascade,
    draw_corners,
    draw_curriculum,
    draw_game,
    draw_lora,
    draw_rings,
    draw_scores,
    draw_sequence,
    draw_sum,
)

NESTED = [(1, 1), (2, 4), (4, 8), (8, 16)]
PAPER = [(1, 1), (2, 4), (4, 8), (8, 16), (16, 64)]
LONG_QUERY = "find: " + ", ".join(["a rather long name of a thing"] * 4)
BOARD, SHEET = np.zeros((24, 24)), Image.new("RGB", (128, 128), "white")
TABLE = np.random.default_rng(0).normal(size=(16, 64))

DRAWINGS = {
    "game of digits": lambda: draw_game("4 A1, 7 C2", BOARD, BOARD, [0, 5], 5, 3),
    "game of stickers": lambda: draw_game("owl, key, pen", SHEET, SHEET, [1, 4, 15], 4, 4),
    "game with a long query": lambda: draw_game(LONG_QUERY, SHEET, SHEET, [0], 0, 1),
    "sum": draw_sum,
    **{f"sum {seed}": lambda seed=seed: draw_sum(5, seed) for seed in range(4)},
    "sum of 2": lambda: draw_sum(2),
    "sum of 30": lambda: draw_sum(30, 1),
    "architectures": draw_architectures,
    **{
        f"sequence {counts} {kept}": lambda counts=counts, kept=kept: draw_sequence(*counts, kept)
        for counts in [(6, 2, 4), (1, 1, 1), (64, 16, 16), (64, 1, 1), (3, 16, 64)]
        for kept in ("query", "document")
    },
    "scores": lambda: draw_scores({"step 0": TABLE[:8, :8]}),
    "scores with negatives": lambda: draw_scores(
        {f"step {i}": TABLE[:8, :16] * i for i in (0, 30, 250)}
    ),
    "corners": lambda: draw_corners(TABLE[:8, :16], NESTED),
    "corners of the paper": lambda: draw_corners(TABLE, PAPER),
    "one corner": lambda: draw_corners([[0.5]], (1, 1)),
    "corners of equal rows": lambda: draw_corners(TABLE, [(4, 8), (4, 16), (4, 64)]),
    "curriculum": lambda: draw_curriculum([900, 3000, 500]),
    "curriculum of many steps": lambda: draw_curriculum([10**6, 10**7, 10**6]),
    "lora": draw_lora,
    **{f"lora of rank {rank}": lambda rank=rank: draw_lora(rank) for rank in (1, 32, 127)},
    "lora of a real size": lambda: draw_lora(32, 2048),
    "cascade": lambda: draw_cascade(2000, [((1, 1), 200), ((4, 8), 50)], (8, 16)),
    "cascade of two stages": lambda: draw_cascade(300, [((1, 1), 200)], (8, 16)),
    "cascade of four stages": lambda: draw_cascade(
        10**8, [((1, 1), 10**4), ((2, 4), 1000), ((4, 8), 100)], (16, 64)
    ),
    "rings": lambda: draw_rings(NESTED, 128),
    "rings of the paper": lambda: draw_rings(PAPER, 2048, "bfloat16"),
    "rings of equal r_c": lambda: draw_rings([(1, 4), (2, 4)], 128),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_readable_and_not_left_open(name):
    figure = DRAWINGS[name]()
    assert plt.get_fignums() == []
    assert hasattr(figure, "number"), "a notebook shows no figure before pyplot has made one"
    assert_readable(figure)


def test_the_measures_of_a_figure_find_what_is_wrong():
    figure, ax = new_canvas(2, 1)
    draw_label(ax, 1, 0.5, "left", "#999999")
    draw_label(ax, 1.1, 0.5, "right")
    draw_label(ax, 2, 0.9, "cut")
    assert overlapping(figure) == [("left", "right")]
    assert outside(figure) == ["cut"]
    assert lowest_contrast(figure) < 3
    assert contrast("black", "white") == pytest.approx(21)


def outlines(figure, dashed):
    """The colored outlines of cells: solid for right ones, dashed for replaced ones."""
    return [
        patch
        for patch in figure.axes[0].patches
        if isinstance(patch, Rectangle)
        and patch.get_linewidth() == 3
        and (patch.get_linestyle() not in ("-", "solid")) == dashed
    ]


def test_the_game_outlines_the_named_cells_and_the_replaced_one():
    figure = draw_game("owl, key, pen", SHEET, SHEET, named=[1, 4, 15], replaced=4, columns=4)
    assert len(outlines(figure, dashed=False)) == 3 + 2
    (replaced,) = outlines(figure, dashed=True)
    colors = {patch.get_edgecolor() for patch in outlines(figure, dashed=False)}
    assert replaced.get_edgecolor() not in colors
    # Cell 4 is the first one of the second row: three quarters up in the right image.
    images = figure.axes[0].images
    left, right, bottom, top = images[1].get_extent()
    x, y = replaced.get_xy()
    assert x + replaced.get_width() / 2 == pytest.approx(left + (right - left) / 8)
    assert y + replaced.get_height() / 2 == pytest.approx(bottom + (top - bottom) * 5 / 8)


def test_the_sum_is_reproducible_and_states_signal_and_noise():
    assert words(draw_sum(seed=1)) == words(draw_sum(seed=1)) != words(draw_sum(seed=2))
    angles = np.random.default_rng(1).uniform(0, 2 * np.pi, 4)
    score = sum([1.0, *np.cos(angles)])
    shown = [text.replace("\N{MINUS SIGN}", "-") for text in words(draw_sum(5, seed=1))]
    assert "signal: 1" in shown
    assert f"noise: {score - 1:+.2f}" in shown
    assert f"sum · first fact = {score:.2f}" in shown


@pytest.mark.parametrize(("kept", "n"), [("query", 2), ("document", 4)])
def test_the_sequence_keeps_the_meta_tokens_of_one_side(kept, n):
    figure = draw_sequence(6, 2, 4, kept)
    assert f"kept: {n} vectors" in words(figure)
    assert words(figure).count("thrown away") == (2 if kept == "query" else 1)
    mask = figure.axes[0].images[0].get_array()[..., 3] > 0
    assert np.array_equal(mask, np.tri(12, dtype=bool))


def test_a_sequence_without_its_mask_keeps_the_same_vectors():
    figure = draw_sequence(6, 2, 4, mask=False)
    assert_readable(figure)
    assert not figure.axes[0].images
    with_mask = [text for text in words(draw_sequence(6, 2, 4)) if "mask" not in text]
    assert sorted({*words(figure)}) == sorted({*with_mask})


def test_score_matrices_with_hard_negatives_stand_below_each_other():
    figure = draw_scores({f"step {i}": TABLE[:12, :24] for i in range(3)})
    figure.canvas.draw()
    boxes = [ax.get_position() for ax in figure.axes[:3]]
    assert boxes[0].y0 > boxes[1].y1 > boxes[2].y1
    width, _ = figure.get_size_inches()
    assert min(box.width for box in boxes) * width > 4


def test_all_score_matrices_share_one_color_scale():
    figure = draw_scores({"step 0": np.zeros((3, 6)), "step 9": np.eye(3, 6) * 7})
    limits = [ax.images[0].get_clim() for ax in figure.axes[:2]]
    assert limits == [(0, 7), (0, 7)]
    for ax in figure.axes[:2]:
        assert [patch.get_xy() for patch in ax.patches] == [(i - 0.5, i - 0.5) for i in range(3)]


def test_corners_are_nested_and_dots_mark_the_maxima_of_the_largest():
    figure = draw_corners(TABLE[:8, :16], [(2, 4), (4, 8)])
    ax = figure.axes[0]
    boxes = [patch.get_bbox() for patch in ax.patches]
    left, right, bottom, top = ax.images[0].get_extent()
    for box, (r_q, r_c) in zip(boxes, [(2, 4), (4, 8)], strict=True):
        assert (box.x0, box.y1) == pytest.approx((left, top))
        assert box.width == pytest.approx((right - left) * r_c / 16)
        assert box.height == pytest.approx((top - bottom) * r_q / 8)
    (dots,) = [line for line in ax.lines if len(line.get_xdata()) == 4]
    columns = (np.array(dots.get_xdata()) - left) / (right - left) * 16 - 0.5
    assert columns.round().tolist() == TABLE[:4, :8].argmax(axis=1).tolist()


def test_lora_is_drawn_to_scale_with_its_numbers():
    figure = draw_lora(rank=8, size=64)
    w, b, a = (patch.get_bbox() for patch in figure.axes[0].patches)
    assert b.width / w.width == pytest.approx(8 / 64)
    assert (b.height, a.width, a.height) == pytest.approx((w.height, w.width, b.width))
    shown = " ".join(words(figure)).replace("\n", " ")
    assert "frozen: 4,096 numbers" in shown
    assert "trained: 2 × 512 = 1,024 numbers, 25 % of W" in shown


def test_rings_state_the_vectors_and_the_bytes():
    shown = words(draw_rings(NESTED, 128))
    ranges = ["1", "2\N{EN DASH}4"]
    assert {*ranges, "5\N{EN DASH}8", "9\N{EN DASH}16"} <= set(shown)
    assert [text for text in shown if text.startswith("reads")] == [
        f"reads {r_c * 512:,} bytes" for _, r_c in NESTED
    ]


def test_the_areas_of_a_cascade_are_the_bytes_that_its_stages_read():
    figure = draw_cascade(2000, [((1, 1), 200), ((4, 8), 50)], (8, 16))
    whole, *stages = [patch.get_bbox() for patch in figure.axes[0].patches]
    areas = [box.width * box.height / (whole.width * whole.height) for box in stages]
    assert areas == pytest.approx(
        [n * r_c / (2000 * 16) for n, r_c in [(2000, 1), (200, 8), (50, 16)]]
    )
    assert {(box.x0, box.y1) for box in stages} == {(whole.x0, whole.y1)}


ERRORS = {
    r"named cells \[9\]: give at least one, numbered from 0 to 8": lambda: draw_game(
        "q", BOARD, BOARD, [9], 9, 3
    ),
    r"named cells \[\]: give at least one": lambda: draw_game("q", BOARD, BOARD, [], 0, 3),
    r"replaced=2 is not one of the named cells \[0, 1\]": lambda: draw_game(
        "q", BOARD, BOARD, [0, 1], 2, 3
    ),
    r"columns=0: use a whole number from 1 up": lambda: draw_game("q", BOARD, BOARD, [0], 0, 0),
    r"n_facts=1: use a whole number from 2 up": lambda: draw_sum(1),
    r"kept='both': choose from 'query' and 'document'": lambda: draw_sequence(kept="both"),
    r"r_q=0: use a whole number from 1 up": lambda: draw_sequence(r_q=0),
    r"no scores: give at least one": lambda: draw_scores({}),
    r"'step 0' have shape \(2, 3\): expected \(B, B\) or \(B, 2B\)": lambda: draw_scores(
        {"step 0": np.zeros((2, 3))}
    ),
    r"'step 0' have a value that is not finite": lambda: draw_scores(
        {"step 0": np.full((2, 2), np.nan)}
    ),
    r"budget \(4, 8\): there are 2 query vectors": lambda: draw_corners(TABLE[:2], [(4, 8)]),
    r"not nested: order them": lambda: draw_corners(TABLE, [(2, 4), (1, 1)]),
    r"similarities have shape \(3,\): expected finite": lambda: draw_corners([1, 2, 3], [(1, 1)]),
    r"rank=4 is not below size=4: use a lower rank": lambda: draw_lora(4, 4),
    r"prefetch has 0 stages": lambda: draw_cascade(9, [], (4, 8)),
    r"the stages score \[5, 9\] candidates: let each": lambda: draw_cascade(
        5, [((1, 1), 9)], (4, 8)
    ),
    r"the stages read \[8, 4\] vectors: let each": lambda: draw_cascade(9, [((1, 8), 5)], (2, 4)),
    r"2 numbers of steps: give 3": lambda: draw_curriculum([1, 2]),
    r"steps=0: use a whole number from 1 up": lambda: draw_curriculum([1, 0, 2]),
    r"no budgets: give at least one": lambda: draw_rings([], 128),
    r"dim=0: use a whole number from 1 up": lambda: draw_rings(NESTED, 0),
}


@pytest.mark.parametrize("message", ERRORS)
def test_errors_name_the_value_and_the_remedy(message):
    with pytest.raises(ValueError, match=message):
        ERRORS[message]()
