"""The blocks on scoring and searching say what the JSON files hold."""

import copy
import re

from search_tables import MISSED, render_kills, render_scoring, render_search

ENVIRONMENT = {
    "date": "2026-01-02", "processor": "a CPU", "threads": 2, "accelerator": None, "python": "3.11",
    "torch": "1", "transformers": "2", "sentence-transformers": "3", "peft": "4",
}  # fmt: skip


def cell(budget, queries, ours, rival, *, storage="float32", dim=128, products=1.0):
    times = {"maxsim": ours, "maxsim, bfloat16 products": ours / 2, "one | einsum": rival}
    methods = {n: {"ms": ms, "least": ms, "most": ms, "error": 1e-3} for n, ms in times.items()}
    return {
        "budget": budget, "dim": dim, "candidates": 10_000, "queries": queries, "storage": storage,
        "methods": methods, "limits_ms": {"products, from cache": products, "reading": 0.1},
    }  # fmt: skip


SCORING = {
    "runs": 5,
    "rows": [
        cell("(1, 1)", 1, 0.2, 0.1),
        cell("(16, 64)", 1, 60.0, 90.0, products=30.0),
        cell("(16, 64)", 16, 600.0, 1200.0, products=480.0),
        cell("(1, 1)", 1, 0.3, 0.1, dim=64),
        cell("(4, 8)", 1, 5.0, 7.0, storage="float16"),
    ],
    "environment": ENVIRONMENT,
}


def tables(text):
    return [
        [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.strip().splitlines()]
        for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    ]


def columns_of(table):
    """The columns of a table, without the line below its header."""
    rows = [[cell.strip() for cell in row] for row in table]
    return [list(column) for column in zip(rows[0], *rows[2:], strict=True)]


def test_the_fastest_exact_method_is_bold_and_the_misses_are_listed():
    text = render_scoring(SCORING)
    one, many, misses, halves = tables(text)
    assert columns_of(one) == [
        ["ms at budget", "maxsim", "maxsim, bfloat16 products", r"one \| einsum", "*products*"],
        ["(1, 1)", "0.20", "0.10", "**0.10**", "1.00"],
        ["(16, 64)", "**60**", "30", "90", "30"],
    ]
    assert columns_of(many)[1] == ["(16, 64)", "**600**", "300", "1,200", "480"]
    assert "Over all 4 sizes in float32 (D from 64 to 128" in text
    assert "fastest exact method in 2. " in text
    assert "At (16, 64) it takes between 1.2 and 2.0 times the time of the products" in text
    assert [c.strip() for c in misses[2]][:3] == ["(1, 1)", "1", "2"]
    assert misses[2][3].startswith(" 3.00, one ")
    assert misses[2][4].strip() == "0.20"
    assert [c.strip() for c in halves[2]][:4] == ["float16", "1", "(4, 8)", "5.00 (0.0010)"]


def test_a_peer_with_wrong_scores_wins_nothing():
    scoring = copy.deepcopy(SCORING)
    scoring["rows"][0]["methods"]["one | einsum"]["error"] = 1.5
    text = render_scoring(scoring)
    assert columns_of(tables(text)[0])[1] == ["(1, 1)", "**0.20**", "0.10", "wrong", "1.00"]
    assert "fastest exact method in 3. " in text


def test_without_a_miss_no_list_is_shown():
    scoring = copy.deepcopy(SCORING)
    scoring["rows"] = scoring["rows"][1:3]
    assert "misses" not in render_scoring(scoring)


def row(search, ms, ndcg, dtype="float16", rescore=None, read=1_000_000):
    return {
        "search": search, "dtype": dtype, "rescore": rescore, "bytes_read": read, "ms": ms,
        "ms_quartiles": [ms, ms], "ms_cold": 10 * ms, "p_at_1": ndcg, "ndcg_at_5": ndcg,
    }  # fmt: skip


SEARCH = {
    "sheets": 1000, "queries": 500, "relevant_per_query": 30.2,
    "memory": {"candidates": 10**6, "mb_after_imports": 600.0, "mb_at_most": 950.0},
    "rows": [
        row("(8, 16)", 200.0, 0.8, read=400_000_000),
        row("(1, 1) keeps 300", 10.0, 0.75, read=20_000_000),
        row("(1, 1) keeps 1,000", 20.0, 0.796, read=25_000_000),
        row("(2, 4) keeps 200", 40.0, 0.8),
        row("(8, 16), then rescore", 5.0, 0.8, "binary", "float16"),
    ],
    "environment": ENVIRONMENT,
}  # fmt: skip


def test_the_fastest_cascade_that_keeps_the_quality_is_named():
    text = render_search(SEARCH)
    assert (
        '"(1, 1) keeps 1,000" is 10.0 times as fast as the exact search at the full budget, reads '
        "1 byte where that reads 16, and keeps 99.5% of its NDCG@5. The aim was 10 times as fast."
    ) in text
    assert MISSED not in text
    assert "takes 350 MB of memory, besides the 600 MB" in text
    (table,) = tables(text)
    assert [cell.strip() for cell in table[2][:3]] == ["(8, 16)", "float16", "400.0"]
    assert [c.strip() for c in table[-1]] == [
        "(8, 16), then rescore", "binary and float16", "1.0", "5.0", "50", "0.800", "0.800",
    ]  # fmt: skip


def test_a_cascade_below_the_aim_says_why():
    search = copy.deepcopy(SEARCH)
    search["rows"][0]["ms"] = 150.0
    text = render_search(search)
    assert "is 7.5 times as fast" in text
    assert f"The aim was 10 times as fast. {MISSED}" in text


def test_no_cascade_that_keeps_the_quality_is_said():
    search = copy.deepcopy(SEARCH)
    for entry in search["rows"][1:4]:
        entry["ndcg_at_5"] = 0.4
    assert "No cascade keeps 99% of the exact search's NDCG@5." in render_search(search)


def test_the_number_of_kills_and_writes_is_that_of_the_measurement():
    text = render_kills({"kills": 7, "writes": 21})
    assert "killed a writing process 7 times" in text
    assert "(21 in all)" in text
