"""The figures that the notebooks share."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from metaembed_lite.plots import plot_alignment, plot_budget_curve, plot_curves, show_boards


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
    assert plt.get_fignums() == []


def test_errors_name_the_shape_and_the_missing_column():
    with pytest.raises(ValueError, match=r"shape \(1, 2\): expected \(1, 1\), one row per query"):
        plot_alignment([[1.0, 2.0]], ["q1"], ["c1"])
    with pytest.raises(ValueError, match=r"no columns \['r_q'\]: pass the table of sweep"):
        plot_budget_curve(pd.DataFrame({"r_c": [1], "bytes_per_candidate": [4], "p_at_1": [1.0]}))
