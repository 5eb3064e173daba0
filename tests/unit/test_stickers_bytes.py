"""The figure of quality per byte, and its words, show each system's best point of each size."""

import pytest
from results_tables import MOST_COLUMNS, NOT_MEASURED, format_suite, held_out_points
from stickers_bytes import (
    DRAWN,
    plot_bytes,
    render_bytes,
    summarize_dimensions,
    tabulate_bytes,
)
from test_stickers_pages import BUDGETS, REAL, make_cell, make_findings, make_point

DIMS = [32, 128]


@pytest.fixture
def findings():
    """MMR with two seeds, one rival, and nested dimensions that cost less at each quality."""
    nested = make_cell("MRL", 0, BUDGETS, [0.0] * 4)
    qualities = [[0.1, 0.2, 0.5, 0.95], [0.15, 0.3, 0.6, 0.98]]
    nested["points"] = [
        make_point(budget, p, dim=dim)
        for dim, row in zip(DIMS, qualities, strict=True)
        for budget, p in zip(BUDGETS, row, strict=True)
    ]
    return make_findings(
        make_cell("MMR", 0, BUDGETS, [0.5, 0.6, 0.8, 0.9]),
        make_cell("MMR", 1, BUDGETS, [0.6, 0.7, 0.7, 1.0]),
        make_cell("constant", 0, BUDGETS, [0.4, 0.7, 0.6, 0.99]),
        nested,
    )


def test_a_line_is_the_highest_quality_within_the_bytes(findings):
    table = tabulate_bytes(findings)
    mmr, constant, nested = (table[table.system == s] for s in ("MMR", "constant", "MRL"))
    assert mmr.best.tolist() == pytest.approx([0.55, 0.65, 0.75, 0.95])
    assert constant.best.tolist() == [0.4, 0.7, 0.7, 0.99]  # at 4,096 bytes it fell to 0.6
    expected = {128: 0.1, 512: 0.2, 1024: 0.5, 2048: 0.95, 4096: 0.95, 8192: 0.98}
    assert dict(zip(nested.bytes_per_candidate, nested.best, strict=True)) == expected
    lines = {line.get_label(): line for line in plot_bytes(findings).axes[0].lines}
    assert lines["label of constant"].get_ydata().tolist() == [0.4, 0.7, 0.7, 0.99]
    widths = {name: line.get_linewidth() for name, line in lines.items()}
    assert widths["label of MMR"] > widths["label of MRL"]


def test_the_words_say_who_is_highest_with_and_without_nested_dimensions(findings):
    text = render_bytes(findings)
    mmr, mrl, constant = (f'"label of {name}"' for name in ("MMR", "MRL", "constant"))
    assert (
        f"The highest line is {mmr} (0.550 at 512 bytes), {mrl} (0.950 at 2,048 bytes and 0.950 at "
        f"4,096 bytes), and {constant} (0.990 at 8,192 bytes)."
    ) in text
    assert (
        f"Without nested dimensions, it is {mmr} (0.550 at 512 bytes and 0.750 at 4,096 bytes) and "
        f"{constant} (0.700 at 2,048 bytes and 0.990 at 8,192 bytes)."
    ) in text
    assert "label of MRL 0.10 at 128 to 0.98 at 8,192" in text  # the alternative text
    assert "Their points (1 seed), less those of MMR: -35.0 at 512 bytes" in text


def test_one_sentence_says_what_short_vectors_find_in_the_bytes_of_one_long_vector(findings):
    sentence = summarize_dimensions(findings)
    assert '"label of MRL" has 0.200 at 512 bytes' in sentence
    assert summarize_dimensions(make_findings(make_cell("MMR", 0, BUDGETS, [0.5] * 4))) == ""


def test_without_a_system_there_is_no_figure():
    assert render_bytes(make_findings()) == NOT_MEASURED
    assert plot_bytes(make_findings()) is None
    alone = make_findings(make_cell("mean", 0, [(1, 1)], [0.6]))
    assert "highest line" not in render_bytes(alone)
    assert len(plot_bytes(alone).axes[0].lines) == 1


def test_every_measured_system_is_drawn_or_is_one_of_the_ideas():
    lines = plot_bytes(REAL).axes[0].lines
    measured = {c["system"] for c in REAL["cells"].values() if c["suite"] == "stickers"}
    assert len(lines) == len(measured & set(DRAWN))
    looks = {(line.get_color(), line.get_marker(), str(line.get_linestyle())) for line in lines}
    assert len(looks) == len(lines)


def test_a_table_has_few_columns_and_names_every_system_once():
    text = format_suite(held_out_points(REAL), "stickers")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    names = [row[0].strip() for row in rows]
    labels = [c["label"] for c in REAL["cells"].values() if c["suite"] == "stickers"]
    assert sorted(n for n in names if n in labels) == sorted(set(labels))
    narrow = [row for row in rows if "nested" not in row[0] and "index bytes" not in row[0]]
    assert all(len(row) <= MOST_COLUMNS + 2 for row in narrow)
