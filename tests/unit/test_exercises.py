"""Checks of exercises: what they say about right, wrong, unfinished and broken answers."""

import numpy as np
import pytest
import torch

from metaembed_lite.exercises import (
    NOT_ANSWERED,
    Check,
    check_choice,
    check_function,
    check_rule,
    check_value,
    verify_checks,
)

PREFIX = check_function(
    lambda x, r: x[:r],
    [(torch.arange(4.0), 2), (torch.arange(3.0), 1)],
    "A prefix.",
    {lambda x, r: x[-r:]: "These are the last ones.", lambda x, r: x: "Nothing was cut."},
    hint="Keep the first r.",
)
BUDGET = check_value((4, 8), "It is enough.", {(8, 16): "That is the full budget."}, hint="Look.")


@pytest.mark.parametrize("answer", [None, ...])
@pytest.mark.parametrize("check", [PREFIX, BUDGET, check_choice("a", "", {"b": "No."})])
def test_an_exercise_that_nobody_touched_is_not_answered(check, answer):
    assert check.verdict(answer) == NOT_ANSWERED


def test_a_function_without_a_body_is_not_answered():
    assert PREFIX.verdict(lambda x, r: ...) == NOT_ANSWERED


@pytest.mark.parametrize("answer", [80, 80.0, np.int64(80), torch.tensor(80), np.array([80])])
def test_a_number_is_right_in_every_type(answer):
    assert check_value(80, "All.").verdict(answer) == "Right: All."


@pytest.mark.parametrize("answer", ["80", object(), {"a": 1}, [], [[1]], "not a number"])
def test_what_is_no_number_gets_a_sentence(answer):
    assert check_value(80, "All.").verdict(answer).startswith("Not yet: ")


def test_nan_is_not_right():
    assert check_value(80, "All.").verdict(float("nan")).startswith("Not yet: ")


def test_the_tolerance_counts_in_the_unit_of_the_answer():
    check = check_value(15.6, "64 of 1,000.", tolerance=0.1)
    assert check.verdict(15.69).startswith("Right")
    assert check.verdict(15.71).startswith("Not yet: 15.71 is too large")


@pytest.mark.parametrize("answer", [(4, 8), [4, 8], torch.tensor([4, 8])])
def test_a_budget_is_right_in_every_type(answer):
    assert BUDGET.verdict(answer) == "Right: It is enough."


def test_a_budget_with_three_numbers_is_counted():
    assert BUDGET.verdict((4, 8, 1)) == "Not yet: (4, 8, 1) has 3 numbers, expected 2."


def test_a_known_mistake_gets_its_own_explanation():
    assert BUDGET.verdict((8, 16)) == "Not yet: (8, 16). That is the full budget."
    assert BUDGET.verdict((1, 1)) == "Not yet: (1, 1) is not it. Look."


def test_a_function_with_a_known_mistake_is_told_which():
    assert PREFIX.verdict(lambda x, r: x.flip(0)[:r].flip(0)) == "Not yet: These are the last ones."


def test_a_function_is_right_only_if_every_case_is():
    first_two = PREFIX.verdict(lambda x, r: x[:2])
    assert first_two == "Not yet: the result has shape (2,), expected (1,) (case 2 of 2). " + (
        "Keep the first r."
    )


def test_a_difference_of_values_is_named():
    assert "differs by 1 " in PREFIX.verdict(lambda x, r: x[:r] + 1)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda x: x, "TypeError"),
        (lambda x, r: x[7], "IndexError"),
        (lambda x, r: x @ torch.ones(7), "RuntimeError"),
        (lambda x, r: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_in_an_answer_becomes_a_sentence(function, named):
    verdict = PREFIX.verdict(function)
    assert verdict.startswith(f"Not yet: {named}")
    assert "\n" not in verdict


def test_what_is_no_function_is_named():
    assert PREFIX.verdict(3) == "Not yet: 3 is of type int, expected a function."


def test_results_that_are_no_tensors_are_compared_too():
    check = check_function(lambda n: "x" * n, [(2,)], "Two.")
    assert check.verdict(lambda n: "xx") == "Right: Two."
    assert check.verdict(lambda n: "xy").startswith("Not yet: the result is 'xy', expected 'xx'")


def test_a_rule_explains_and_may_say_what_was_reached():
    check = check_rule(lambda k: "" if k > 2 else f"{k} is too few.", lambda k: f"{k} do.", [1, 2])
    assert check.verdict(3) == "Right: 3 do."
    assert [check.verdict(answer) for answer in check.wrong_answers] == [
        "Not yet: 1 is too few.",
        "Not yet: 2 is too few.",
    ]


def test_a_check_prints_its_verdict_and_returns_nothing(capsys):
    assert Check(lambda answer: (True, "So it is."), [])(1) is None
    assert capsys.readouterr().out == "Right: So it is.\n"


def test_checks_with_two_explained_mistakes_are_verified():
    verify_checks(PREFIX, check_value(80, "", {64: "M_q is appended too.", 16: "So is M_c."}))


@pytest.mark.parametrize(
    "check",
    [
        BUDGET,  # knows one mistake only
        check_choice("a", "", {"b": "No."}),
        Check(lambda answer: (False, "No."), [1, 2]),  # says the same of both
    ],
)
def test_a_check_that_explains_fewer_than_two_mistakes_is_refused(check):
    with pytest.raises(AssertionError, match="check 1 explains fewer than two wrong answers"):
        verify_checks(check)


def test_a_check_that_accepts_a_wrong_answer_is_refused():
    lenient = check_value(80, "", {79.5: "Too few.", 64: "M_q is appended too."}, tolerance=1)
    with pytest.raises(AssertionError, match=r"check 2 accepts 79\.5"):
        verify_checks(PREFIX, lenient)
