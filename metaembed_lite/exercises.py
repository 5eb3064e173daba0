"""Checks for the exercises of the book, which say what is wrong with an answer.

    check = check_value(80, "16 + 64 tokens.", {64: "M_q is appended too."}, hint="Count all.")
    check(64)  # prints "Not yet: 64. M_q is appended too."

A check knows plausible wrong answers and what each of them gets wrong. Tests give every check of
the book its wrong answers and expect the explanation. A check prints one verdict and never raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

NOT_ANSWERED = "Not answered yet."
RIGHT = "Right"
NOT_YET = "Not yet"


class Check:
    """A check of one exercise. Call it with an answer, and it prints the verdict.

    Use :func:`check_value`, :func:`check_choice`, :func:`check_function` or :func:`check_rule` to
    make one.

    Args:
        judge: takes an answer and returns ``(is_right, explanation)``. An exception that it raises
            becomes a part of the verdict.
        wrong_answers: plausible wrong answers, for tests.

    Attributes:
        wrong_answers: list of plausible wrong answers.

    Example:
        >>> check = Check(lambda answer: (answer > 0, "It has to be positive."), [-1, 0])
        >>> check(-1)
        Not yet: It has to be positive.
    """

    def __init__(self, judge: Callable[[Any], tuple[bool, str]], wrong_answers: Iterable[Any]):
        self._judge = judge
        self.wrong_answers = list(wrong_answers)

    def __call__(self, answer: Any) -> None:
        print(self.verdict(answer))

    def verdict(self, answer: Any) -> str:
        """What the check says about an answer, in one or two sentences.

        Example:
            >>> check_value(80, "16 + 64 tokens.").verdict(None)
            'Not answered yet.'
        """
        if answer is None or answer is ...:
            return NOT_ANSWERED
        try:
            is_right, explanation = self._judge(answer)
        except NotAnsweredError:
            return NOT_ANSWERED
        except Exception as error:  # whatever a learner's code raises
            reason = str(error).strip().partition("\n")[0]
            return f"{NOT_YET}: {type(error).__name__}: {reason or 'no message'}"
        return f"{RIGHT if is_right else NOT_YET}: {explanation}"


class NotAnsweredError(Exception):
    """An answer that still has to be written, such as a function that returns None.

    A rule may raise it, and the check then says that the exercise is not answered yet.

    Example:
        >>> def rule(function):
        ...     if function() is None:
        ...         raise NotAnsweredError
        ...     return ""
        >>> check_rule(rule, "It returns something.", [])(lambda: None)
        Not answered yet.
    """


def check_value(
    expected: float | bool | Sequence[float],
    right: str,
    wrong: Mapping[Any, str] | None = None,
    *,
    hint: str = "",
    tolerance: float = 0.0,
) -> Check:
    """Check a number, or a tuple of numbers such as a budget.

    Args:
        expected: the right answer.
        right: why it is right.
        wrong: plausible wrong answers, and what each of them gets wrong.
        hint: what other wrong answers are told, after "too small" or "too large".
        tolerance: largest difference that still counts as right. Defaults to 0.

    Example:
        >>> check = check_value(80, "16 + 64 tokens.", {64: "M_q is appended too."}, hint="Count.")
        >>> check(80)
        Right: 16 + 64 tokens.
        >>> check(64)
        Not yet: 64. M_q is appended too.
        >>> check(100)
        Not yet: 100 is too large. Count.
        >>> check("80")
        Not yet: '80' is of type str, and the answer is a number.
    """
    wrong = dict(wrong or {})
    target = _numbers(expected)

    def judge(answer: Any) -> tuple[bool, str]:
        try:
            numbers = _numbers(answer)
        except (TypeError, ValueError):
            kind = "a number" if len(target) == 1 else f"a tuple of {len(target)} numbers"
            return (
                False,
                f"{_short(answer)} is of type {type(answer).__name__}, and the answer is {kind}.",
            )
        if len(numbers) != len(target):
            return False, f"{_short(answer)} has {len(numbers)} numbers, expected {len(target)}."
        if _near(numbers, target, tolerance):
            return True, right
        for mistake, why in wrong.items():
            if _near(numbers, _numbers(mistake), tolerance):
                return False, f"{_short(answer)}. {why}"
        if len(target) > 1:
            return False, f"{_short(answer)} is not it. {hint}".strip()
        size = "small" if numbers[0] < target[0] else "large"
        return False, f"{_short(answer)} is too {size}. {hint}".strip()

    return Check(judge, wrong)


def check_choice(expected: str, right: str, wrong: Mapping[str, str]) -> Check:
    """Check a choice between words, such as a prediction of what falls.

    Args:
        expected: the right choice. Upper and lower case are the same.
        right: why it is right.
        wrong: all other choices, and why each of them is wrong.

    Example:
        >>> check = check_choice("full", "It was trained.", {"first": "Nothing trained it alone."})
        >>> check("first")
        Not yet: 'first'. Nothing trained it alone.
        >>> check("second")
        Not yet: 'second' is not a choice. Choose from 'first', 'full'.
    """
    reasons = {name.casefold(): why for name, why in wrong.items()}

    def judge(answer: Any) -> tuple[bool, str]:
        word = str(answer).strip().casefold()
        if word == expected.casefold():
            return True, right
        if word in reasons:
            return False, f"{answer!r}. {reasons[word]}"
        choices = ", ".join(repr(choice) for choice in sorted([expected, *wrong]))
        return False, f"{_short(answer)} is not a choice. Choose from {choices}."

    return Check(judge, wrong)


def check_function(
    reference: Callable[..., Any],
    cases: Sequence[tuple[Any, ...]],
    right: str,
    wrong: Mapping[Callable[..., Any], str] | None = None,
    *,
    hint: str = "",
    tolerance: float = 1e-5,
) -> Check:
    """Check a function: it is called with each case and compared with a reference.

    Args:
        reference: a function that gives the expected results.
        cases: the arguments of each call.
        right: what the exercise shows.
        wrong: functions with a plausible mistake, and what the mistake is. An answer that gives
            the same results in every case is told the same.
        hint: what other wrong answers are told, after the first difference.
        tolerance: largest difference of a number that still counts as right. Defaults to 1e-5.

    Example:
        >>> check = check_function(
        ...     lambda x, r: x[:r], [(torch.arange(4), 2)], "A prefix.",
        ...     {lambda x, r: x[-r:]: "These are the last vectors."}, hint="Keep the first r.")
        >>> check(lambda x, r: x[:r])
        Right: A prefix.
        >>> check(lambda x, r: x[-r:])
        Not yet: These are the last vectors.
        >>> check(lambda x, r: x)
        Not yet: the result has shape (4,), expected (2,) (case 1 of 1). Keep the first r.
    """
    wrong = dict(wrong or {})

    def judge(answer: Any) -> tuple[bool, str]:
        if not callable(answer):
            return (
                False,
                f"{_short(answer)} is of type {type(answer).__name__}, expected a function.",
            )
        first_difference, results = "", []
        for number, arguments in enumerate(cases, start=1):
            result = answer(*arguments)
            if result is None or result is ...:
                raise NotAnsweredError
            results.append(result)
            difference = _difference(result, reference(*arguments), tolerance)
            if difference and not first_difference:
                first_difference = f"{difference} (case {number} of {len(cases)})."
        if not first_difference:
            return True, right
        for mistake, why in wrong.items():
            outcomes = (mistake(*arguments) for arguments in cases)
            pairs = zip(results, outcomes, strict=True)
            if all(not _difference(result, outcome, tolerance) for result, outcome in pairs):
                return False, why
        return False, f"{first_difference} {hint}".strip()

    return Check(judge, wrong)


def check_rule(
    rule: Callable[[Any], str], right: str | Callable[[Any], str], wrong_answers: Sequence[Any]
) -> Check:
    """Check an answer that is right if it meets a condition, for questions with many answers.

    Args:
        rule: takes an answer and says what is wrong with it. An empty text means it is right.
        right: what the exercise shows, or a function that says so of an answer.
        wrong_answers: plausible wrong answers, for tests.

    Example:
        >>> check = check_rule(
        ...     lambda k: "" if k % 2 == 0 else f"{k} is odd.", "An even number.", [1, 3])
        >>> check(4)
        Right: An even number.
        >>> check(3)
        Not yet: 3 is odd.
    """

    def judge(answer: Any) -> tuple[bool, str]:
        problem = rule(answer)
        if problem:
            return False, problem
        return True, right(answer) if callable(right) else right

    return Check(judge, wrong_answers)


def verify_checks(*checks: Check) -> None:
    """Verify that each check rejects at least two wrong answers, each with its own explanation.

    Every chapter calls this in a hidden cell, so whoever executes the chapter tests its checks.

    Raises:
        AssertionError: naming the check and the answer.

    Example:
        >>> verify_checks(check_value(80, "All.", {64: "M_q is appended too.", 16: "So is M_c."}))
    """
    for number, check in enumerate(checks, start=1):
        verdicts = [check.verdict(answer) for answer in check.wrong_answers]
        if len(set(verdicts)) < 2:
            raise AssertionError(
                f"check {number} explains fewer than two wrong answers: {verdicts}"
            )
        for answer, verdict in zip(check.wrong_answers, verdicts, strict=True):
            if not verdict.startswith(NOT_YET):
                raise AssertionError(f"check {number} accepts {_short(answer)}: {verdict}")


def _numbers(value: Any) -> tuple[float, ...]:
    """A number or a sequence of numbers as floats.

    Raises:
        TypeError, ValueError: if it is something else, such as a text.
    """
    if isinstance(value, str):
        raise TypeError("a text is no number")
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if hasattr(value, "tolist"):  # an array of NumPy
        value = value.tolist()
    return tuple(float(v) for v in value) if isinstance(value, list | tuple) else (float(value),)


def _near(a: Sequence[float], b: Sequence[float], tolerance: float) -> bool:
    """Whether sequences of numbers are equal up to a tolerance."""
    if len(a) != len(b):
        return False
    return all(
        math.isclose(x, y, rel_tol=1e-9, abs_tol=tolerance) for x, y in zip(a, b, strict=True)
    )


def _difference(result: Any, expected: Any, tolerance: float) -> str:
    """How a result differs from what is expected. Empty if it does not."""
    try:
        given, wanted = torch.as_tensor(result), torch.as_tensor(expected)
    except (TypeError, ValueError, RuntimeError):
        if type(result) is type(expected) and result == expected:
            return ""
        return f"the result is {_short(result)}, expected {_short(expected)}"
    if given.shape != wanted.shape:
        return f"the result has shape {tuple(given.shape)}, expected {tuple(wanted.shape)}"
    given, wanted = given.double(), wanted.double()
    if torch.allclose(given, wanted, atol=tolerance, rtol=0, equal_nan=True):
        return ""
    if given.ndim == 0:
        return f"the result is {given.item():.4g}, expected {wanted.item():.4g}"
    most = (given - wanted).abs().max().item()
    return f"the shape is right, but a number differs by {most:.3g}"


def _short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
