"""The Python side of MaxSimStepper: what it shows, what it computes, and what it refuses."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from metaembed_lite import maxsim
from metaembed_lite.explorer import MaxSimStepper
from metaembed_lite.explorer.page import bundle_js

BOARD = Image.new("RGB", (96, 96), "white")
HOSTILE = "</script><img src=x onerror=alert(1)>"


def label(n, letter):
    return [f"{letter}{i + 1}" for i in range(n)]


@pytest.fixture
def stepper():
    similarities = np.random.default_rng(0).normal(size=(3, 9))
    return MaxSimStepper(similarities, label(3, "q"), label(9, "c"), BOARD, columns=3)


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_the_score_is_that_of_maxsim(r_q, r_c, seed):
    generator = torch.Generator().manual_seed(seed)
    query, candidate = (torch.randn(1, r, 4, generator=generator) for r in (r_q, r_c))
    stepper = MaxSimStepper(query[0] @ candidate[0].T, label(r_q, "q"), label(r_c, "c"))
    assert stepper.score == pytest.approx(maxsim(query, candidate).item(), abs=1e-4)


def test_the_page_has_the_similarities_the_labels_and_the_image(stepper):
    page = stepper.page
    assert np.shape(page["similarities"]) == (3, 9)
    assert page["query_labels"] == ["q1", "q2", "q3"]
    assert page["candidate_labels"][8] == "c9"
    assert page["image"].startswith("data:image/webp;base64,")
    assert page["columns"] == 3
    plain = MaxSimStepper([[1.0]], ["q"], ["c"]).page
    assert plain["image"] is None and plain["columns"] is None  # noqa: PT018


def test_the_step_is_a_number_of_query_vectors(stepper):
    assert stepper.step == 0
    stepper.step = np.int64(3)
    assert type(stepper.step) is int
    for step in (4, -1, 1.0, True, None, "2"):
        with pytest.raises(ValueError, match=r"use a whole number from 0 to 3"):
            stepper.step = step
    assert stepper.step == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"similarities": np.ones(3)}, r"shape \(3,\) .*expected numbers of shape \(R_q, R_c\)"),
        ({"similarities": np.ones((0, 2))}, r"shape \(0, 2\)"),
        ({"similarities": [["a", "b"]]}, r"type <U1: expected numbers"),
        ({"similarities": [[1, np.nan], [0, 0]]}, r"similarities\[0, 1\] is nan: .*padding"),
        ({"similarities": [[1, 0], [-np.inf, 0]]}, r"similarities\[1, 0\] is -inf"),
        ({"query_labels": ["a"]}, r"query_labels=\['a'\]: give a list of 2 names, one per row"),
        ({"query_labels": "ab"}, r"query_labels='ab': give a list of 2 names"),
        ({"candidate_labels": ["a"] * 3}, r"give a list of 2 names, one per column"),
        ({"image": "board.png"}, "image: expected a PIL image, got str"),
        ({"columns": 2}, "columns=2 without an image: pass the image too, or no columns"),
        ({"image": BOARD, "columns": 0}, "columns=0: use a whole number from 1 up"),
        ({"image": BOARD, "columns": 4}, r"2 candidate vectors do not fill .* use one of 1, 2, or"),
    ],
)
def test_an_error_names_the_value_and_the_remedy(changes, message):
    good = {"similarities": np.eye(2), "query_labels": ["a", "b"], "candidate_labels": ["c", "d"]}
    with pytest.raises(ValueError, match=message):
        MaxSimStepper(**{**good, **changes})


def test_a_hostile_label_never_becomes_markup():
    html = MaxSimStepper([[0.5]], [HOSTILE], [HOSTILE], BOARD).static_html()
    assert "<img" not in html
    assert html.lower().count("</script") == 2  # those of the state and of the module


def test_without_javascript_there_is_a_table_with_the_maxima(stepper):
    html = re.search(r"<noscript>(.*?)</noscript>", stepper.static_html(), re.DOTALL)[1]
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html)
    assert [name for name, _ in rows] == ["q1", "q2", "q3"]
    for (_, cells), expected in zip(rows, stepper.page["similarities"], strict=True):
        values = re.findall("<td>(.*?)</td>", cells)
        assert values == [f"{value:.2f}" for value in [*expected, max(expected)]]
    assert f"the MaxSim score, {stepper.score:.2f}" in html


def test_a_cell_shows_a_widget_and_html_that_run_the_same_module(stepper):
    data, _ = DisplayFormatter().format(stepper)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert stepper._esm == bundle_js("stepper")
    assert bundle_js("stepper") in data["text/html"]
