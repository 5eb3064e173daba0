"""The page on security says what was tried, and what was not."""

import pytest
from abuse_tables import render_abuse

ENVIRONMENT = {
    "date": "2026-01-02", "processor": "a CPU", "threads": 2, "accelerator": None, "python": "3.11",
    "torch": "1", "transformers": "2", "sentence-transformers": "3", "peft": "4",
}  # fmt: skip


@pytest.fixture
def abuse():
    def row(what, tried, failed=0):
        return {
            "what": what, "planned": 100, "tried": tried, "survived": tried - failed, "unclear": 0,
            "failed": failed, "measured": {},
        }  # fmt: skip

    chapters = {
        "texts": {"seconds": 90.0, "rows": [row("odd texts", 100)]},
        "kills": {"seconds": 30.0, "rows": [row("kills <b>", 40, failed=1)]},
    }
    return {"chapters": chapters, "not_run": ["damaged_files"], "environment": ENVIRONMENT}


def test_every_row_and_the_sum_are_in_the_table(abuse):
    text = render_abuse(abuse)
    assert "| odd texts | 100 | 100 | 0 | 0 |" in text
    assert "| kills &lt;b&gt; | 40 | 39 | 0 | 1 |" in text
    assert "| **all** | 140 | 139 | 0 | 1 |" in text


def test_the_page_says_what_was_not_run_and_what_was_shorter(abuse):
    text = render_abuse(abuse)
    assert "It took 2 minutes." in text
    assert "not run in the long form: damaged files." in text
    assert "- kills &lt;b&gt;: 40 of 100" in text
    assert "This is the long form" not in text


def test_a_complete_run_is_called_the_long_form(abuse):
    del abuse["chapters"]["kills"]
    text = render_abuse(abuse | {"not_run": []})
    assert "This is the long form. It took 2 minutes.\n" in text
    assert "not run" not in text
