"""The short form of ``make abuse``: nothing fails, and every error names what was wrong.

The long form is ``make abuse``. Its table is on the page book/security.md.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
from abuse import __main__ as runner
from abuse.tally import Effort, Row, find_problem

from metaembed_lite.budget import Budget

pytestmark = pytest.mark.timeout(900)  # a chapter takes half a minute on an idle core


@pytest.mark.parametrize("name", runner.CHAPTERS)
def test_nothing_fails_and_every_error_is_clear(name):
    rows = runner.run_here(name, Effort(is_short=True))
    assert rows
    for row in rows:
        assert row.tried, f"{row.what}: nothing was tried"
        assert (row.unclear, row.failed) == (0, 0), f"{row.what}:\n" + "\n".join(row.notes)


# A benchmark that cannot find anything would pass, too.


def test_a_wrong_answer_a_raw_error_and_a_hang_are_found():
    row = Row("planted", planned=6)
    row.attempt("right", lambda: 2, is_right=lambda got: got == 2)
    row.attempt("refused", lambda: Budget(0, 1), names=["r_q=0"])
    row.attempt("wrong", lambda: 3, is_right=lambda got: got == 2)
    row.attempt("not refused", lambda: 2)
    row.attempt("raw", lambda: {}["a"])
    row.attempt("without the name", lambda: Budget(0, 1), names=["captions.csv"])
    row.attempt("a hang", lambda: [None for _ in iter(int, 1)], seconds=0.05)
    assert (row.survived, row.unclear, row.failed) == (2, 2, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: int("a"), lambda: [][0], lambda: None.text, lambda: __import__("json").loads("{"),
        lambda: b"\xff".decode("utf-8"), lambda: len(3),
    ],
)  # fmt: skip
def test_an_error_that_this_project_does_not_raise_is_unclear(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    assert find_problem(caught.value) is not None
