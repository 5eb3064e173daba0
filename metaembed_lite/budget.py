"""A budget: how many query and candidate vectors a score may use, and what that costs. No torch.

MetaEmbed trains nested prefixes (Matryoshka Multi-Vector Retrieval), so the budget (r_q, r_c) can
be chosen at test time. A score then uses the first r_q query vectors and the first r_c candidate
vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from numbers import Number
from typing import Any

from metaembed_lite.arguments import whole_number

BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Budget:
    """How many vectors a score uses: a query's first ``r_q``, a candidate's first ``r_c``.

    Budgets have no order. Of two budgets, one may contain the other or neither.

    Raises:
        ValueError: if either is not a whole number from 1 up.

    Example:
        >>> budget = Budget(4, 8)
        >>> budget.bytes_per_candidate(dim=128)
        4096
        >>> budget.contains((2, 4)), budget.contains((1, 16))
        (True, False)
    """

    r_q: int
    r_c: int

    def __post_init__(self) -> None:
        for name in ("r_q", "r_c"):
            count = whole_number(getattr(self, name), name, reason="a budget counts vectors; ")
            object.__setattr__(self, name, count)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The budget written as ``"4x8"``, ``"4,8"`` or ``"(4, 8)"``.

        Raises:
            ValueError: if the text is none of these, or not a ``str``.

        Example:
            >>> Budget.parse("4x8")
            Budget(r_q=4, r_c=8)
        """
        pattern = r"\s*\(?\s*(\d{1,9})\s*[x,×]\s*(\d{1,9})\s*\)?\s*"
        match = re.fullmatch(pattern, text) if isinstance(text, str) else None
        if not match:
            raise ValueError(f"budget {text!r:.80}: write it as r_q x r_c, for example '4x8'")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"({self.r_q}, {self.r_c})"

    def contains(self, other: BudgetLike) -> bool:
        """Whether neither side of ``other`` is larger. A budget contains itself.

        Example:
            >>> Budget(8, 16).contains("4x8"), Budget(8, 16).contains("1x64")
            (True, False)
        """
        other = as_budget(other)
        return other.r_q <= self.r_q and other.r_c <= self.r_c

    def check(self, r_q: int, r_c: int) -> Budget:
        """This budget, if a model with ``r_q`` query and ``r_c`` candidate vectors can meet it.

        Raises:
            ValueError: naming the side on which there are too few vectors.

        Example:
            >>> Budget(4, 8).check(r_q=16, r_c=64)
            Budget(r_q=4, r_c=8)
        """
        for side, name, needed, available in (
            ("query", "r_q", self.r_q, whole_number(r_q, "r_q")),
            ("candidate", "r_c", self.r_c, whole_number(r_c, "r_c")),
        ):
            if needed > available:
                raise ValueError(
                    f"budget {self}: there are {available} {side} vectors; use "
                    f"{name} <= {available}, or build(..., {name}={needed})"
                )
        return self

    def bytes_per_candidate(self, dim: int, dtype: str = "float32") -> int:
        """Index bytes per candidate: ``r_c * dim`` values.

        Args:
            dim: D, values per vector.
            dtype: "float32", "float16", "bfloat16" or "int8". Defaults to "float32".

        Raises:
            ValueError: if ``dim`` is not a whole number from 1 up, or ``dtype`` is unknown.

        Example:
            >>> Budget(16, 64).bytes_per_candidate(dim=2048, dtype="bfloat16")
            262144
        """
        if not isinstance(dtype, str) or dtype not in BYTES_PER_VALUE:
            raise ValueError(f"dtype {dtype!r}: choose from {', '.join(BYTES_PER_VALUE)}")
        return self.r_c * whole_number(dim, "dim") * BYTES_PER_VALUE[dtype]

    def multiply_adds(self, dim: int, candidates: int = 1) -> int:
        """Multiply-adds to score one query: ``r_q * r_c * dim`` per candidate.

        Args:
            dim: D, values per vector.
            candidates: the number of candidates to score. Defaults to 1.

        Raises:
            ValueError: if ``dim`` is not a whole number from 1 up, or ``candidates`` from 0 up.

        Example:
            >>> Budget(4, 8).multiply_adds(dim=128, candidates=1000)
            4096000
        """
        dim, candidates = whole_number(dim, "dim"), whole_number(candidates, "candidates", least=0)
        return self.r_q * self.r_c * dim * candidates


BudgetLike = Budget | Sequence[int] | str  # a budget, a pair (r_q, r_c) or a text "4x8"
Budgets = BudgetLike | Iterable[BudgetLike]

PAPER_BUDGETS = (Budget(1, 1), Budget(2, 4), Budget(4, 8), Budget(8, 16), Budget(16, 64))


def as_budget(value: BudgetLike) -> Budget:
    """A ``Budget`` from a budget, a pair ``(r_q, r_c)`` or a text ``"4x8"``.

    A pair is a tuple, a list or a numpy array of two whole numbers.

    Raises:
        ValueError: if the value is none of these. A set or a dict has no order, so it is refused.

    Example:
        >>> as_budget((4, 8)) == as_budget("4x8") == Budget(4, 8)
        True
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, str):
        return Budget.parse(value)
    pair = _to_list(value)
    if pair is None or len(pair) != 2:
        raise ValueError(f"budget {value!r}: expected a pair (r_q, r_c) or a text such as '4x8'")
    return Budget(*pair)


def as_budgets(budgets: Budgets) -> tuple[Budget, ...]:
    """The budgets of a list, in its order. A single budget, in any form, is a list of one.

    So ``"4x8"``, ``(4, 8)`` and ``Budget(4, 8)`` mean the same as ``[(4, 8)]``.

    Raises:
        ValueError: if the list is empty, an element is not a budget, or the budgets come as a set,
            a dict or bytes.

    Example:
        >>> as_budgets([(1, 1), "4x8"])
        (Budget(r_q=1, r_c=1), Budget(r_q=4, r_c=8))
    """
    if isinstance(budgets, Budget | str) or _are_numbers(_to_list(budgets)):
        single: Any = budgets
        return (as_budget(single),)
    unordered = isinstance(budgets, Mapping | Set | bytes | bytearray)
    if unordered or not isinstance(budgets, Iterable):
        raise ValueError(f"budgets {budgets!r}: give a list, for example [(1, 1), (4, 8)]")
    elements: Iterable[Any] = budgets
    checked = tuple(as_budget(element) for element in elements)
    if not checked:
        raise ValueError("no budgets: give at least one, for example [(1, 1), (4, 8)]")
    return checked


def _to_list(value: Any) -> list[Any] | None:
    """The elements of a tuple, a list or a 1-D array. None for anything else."""
    if isinstance(value, tuple | list):
        return list(value)
    one_dimensional = getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist")
    return value.tolist() if one_dimensional else None


def _are_numbers(values: Any) -> bool:
    return bool(values) and all(isinstance(value, Number) for value in values)


def check_nested(budgets: Budgets) -> tuple[Budget, ...]:
    """The budgets as given, if each one is larger than the one before and contains it.

    Raises:
        ValueError: as ``as_budgets``, or if the budgets are not nested.

    Example:
        >>> check_nested([(1, 1), (2, 4)])
        (Budget(r_q=1, r_c=1), Budget(r_q=2, r_c=4))
    """
    checked = as_budgets(budgets)
    for small, large in pairwise(checked):
        if small == large or not large.contains(small):
            raise ValueError(
                f"budgets {small} then {large} are not nested: order them so that each contains "
                "the one before it"
            )
    return checked


def rings(budgets: Budgets) -> list[slice]:
    """The candidate vectors that each nested budget adds to the budget before it.

    The maximum over a budget's vectors is the maximum over its rings. An index that stores one
    column per ring reads only the columns of the requested budget.

    Returns:
        One slice per budget, which may be empty.

    Raises:
        ValueError: as ``check_nested``.

    Example:
        >>> rings([(1, 1), (2, 4), (4, 8)])
        [slice(0, 1, None), slice(1, 4, None), slice(4, 8, None)]
    """
    ends = [budget.r_c for budget in check_nested(budgets)]
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def budgets_within(full: BudgetLike, budgets: Budgets | None = None) -> tuple[Budget, ...]:
    """The budgets as given, if the full budget contains each of them.

    Args:
        full: how many vectors there are, (R_q, R_c).
        budgets: a list, or a single budget. Defaults to those of the paper that fit, and the full
            budget.

    Raises:
        ValueError: as ``as_budgets``, or if a budget needs more vectors.

    Example:
        >>> [str(budget) for budget in budgets_within((4, 16))]
        ['(1, 1)', '(2, 4)', '(4, 8)', '(4, 16)']
    """
    full = as_budget(full)
    if budgets is not None:
        return tuple(budget.check(full.r_q, full.r_c) for budget in as_budgets(budgets))
    fitting = [budget for budget in PAPER_BUDGETS if full.contains(budget)]
    return tuple(fitting if full in fitting else [*fitting, full])
