"""No number is typed: README and results page say what the measured JSON says."""

import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from results_page import fill, sentences, systems_markdown  # noqa: E402  (a script's folder, not a package)


@pytest.mark.parametrize("page", ["README.md", "book/results.md"])
def test_a_page_says_what_the_json_says(page):
    text = (ROOT / page).read_text()
    assert fill(text, sentences()) == text, "run: python benchmarks/results_page.py"


def test_a_range_is_over_seeds_and_not_over_tasks():
    named = {"suite": "s", "says": "one", "r_q": 1, "r_c": 1, "dim": 8}
    size = {"a": 32, "b": 48}  # token vectors differ in number from task to task
    scores = {("a", 0): 0.1, ("b", 0): 0.3, ("a", 1): 0.5, ("b", 1): 0.9}
    points = [
        named
        | {"system": "MMR", "task": task, "seed": seed, "p_at_1": p}
        | {"bytes_per_candidate": size[task]}
        for (task, seed), p in scores.items()
    ]
    table = systems_markdown(pd.DataFrame(points), "s", ["MMR", "mean"])
    assert "| one | 0.450 (0.200 to 0.700) | 2 |" in table
    assert "| a | 0.300 |\n| b | 0.600 |\n| mean | 0.450 |" in table
    assert table.startswith("`s`:\n\n| P@1 at index bytes | 40 | seeds |")
    assert "Not measured: `mean`." in table
    assert "not measured" in systems_markdown(pd.DataFrame(points), "t", ["MMR"])


def test_fill_replaces_what_stands_between_markers_and_nothing_else():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert fill(text, {"x": "new"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
