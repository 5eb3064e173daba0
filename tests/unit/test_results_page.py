"""No number is typed: README and results page say what the measured JSON says."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from results_page import fill, sentences  # noqa: E402  (a script's folder, not a package)


@pytest.mark.parametrize("page", ["README.md", "book/results.md"])
def test_a_page_says_what_the_json_says(page):
    text = (ROOT / page).read_text()
    assert fill(text, sentences()) == text, "run: python benchmarks/results_page.py"


def test_fill_replaces_what_stands_between_markers_and_nothing_else():
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert fill(text, {"x": "new"}) == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
