"""A budget: how many query and candidate vectors a score may use, and what that costs.

MetaEmbed trains nested prefixes (r_q, r_c) so that the choice can be made at test time: the first
r_q query vectors against the first r_c candidate vectors (Matryoshka Multi-Vector Retrieval).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from numbers import Number
from typing import TYPE_CHECKING, Any, ClassVar

from metaembed_lite.arguments import whole_number

if TYPE_CHECKING:
    from torch import Tensor

BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True, order=True)
class Budget:
    """How many vectors a score uses: a query's first ``r_q``, a candidate's first ``r_c``.

    Raises:
        ValueError: if either is not a whole number of at least 1.
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
        """
        pattern = r"\s*\(?\s*(\d+)\s*[x,×]\s*(\d+)\s*\)?\s*"
        match = re.fullmatch(pattern, text) if isinstance(text, str) else None
        if not match:
            raise ValueError(f"budget {text!r}: write it as r_q x r_c, for example '4x8'")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"({self.r_q}, {self.r_c})"

    def check(self, r_q: int, r_c: int) -> Budget:
        """This budget, if a model with ``r_q`` query and ``r_c`` candidate vectors can meet it.

        Raises:
            ValueError: naming the side that asks for too much.
        """
        for side, asked, has, name in (
            ("query", self.r_q, whole_number(r_q, "r_q"), "r_q"),
            ("candidate", self.r_c, whole_number(r_c, "r_c"), "r_c"),
        ):
            if asked > has:
                raise ValueError(
                    f"budget {self}: there are {has} {side} vectors; ask for {name} <= {has} or "
                    f"build(..., {name}={asked})"
                )
        return self

    def bytes_per_candidate(self, dim: int, dtype: str = "float32") -> int:
        """Index bytes of one candidate: ``r_c * dim`` values.

        Raises:
            ValueError: if ``dim`` is not a whole number from 1 up, or ``dtype`` is none of
                float32, float16, bfloat16, int8.
        """
        if not isinstance(dtype, str) or dtype not in BYTES_PER_VALUE:
            raise ValueError(f"dtype {dtype!r}: choose from {', '.join(BYTES_PER_VALUE)}")
        return self.r_c * whole_number(dim, "dim") * BYTES_PER_VALUE[dtype]

    def multiply_adds(self, dim: int, candidates: int = 1) -> int:
        """Multiply-adds to score one query against ``candidates``: ``r_q * r_c * dim`` each.

        Raises:
            ValueError: if ``dim`` is not a whole number from 1 up, or ``candidates`` from 0 up.
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
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, str):
        return Budget.parse(value)
    pair = _items(value)
    if pair is None or len(pair) != 2:
        raise ValueError(f"budget {value!r}: expected a pair (r_q, r_c) or a text such as '4x8'")
    return Budget(*pair)


def as_budgets(budgets: Budgets) -> tuple[Budget, ...]:
    """The budgets of a list, in its order; a single budget, in any form, is a list of one.

    So ``"4x8"``, ``(4, 8)`` and ``Budget(4, 8)`` mean the same as ``[(4, 8)]``.

    Raises:
        ValueError: if there is none, one is not a budget, or they come as a set, a dict or bytes.
    """
    several: Any = budgets
    if isinstance(several, Budget | str) or _are_numbers(_items(several)):
        return (as_budget(several),)
    unordered = isinstance(several, Mapping | Set | bytes | bytearray)
    if unordered or not isinstance(several, Iterable):
        raise ValueError(f"budgets {budgets!r}: give a list, for example [(1, 1), (4, 8)]")
    listed = tuple(as_budget(budget) for budget in several)
    if not listed:
        raise ValueError("no budgets: give at least one, for example [(1, 1), (4, 8)]")
    return listed


def _items(value: Any) -> list[Any] | None:
    """What a tuple, a list or a 1-D array holds; None for anything else."""
    if isinstance(value, tuple | list):
        return list(value)
    one_dimensional = getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist")
    return value.tolist() if one_dimensional else None


def _are_numbers(items: Any) -> bool:
    return bool(items) and all(isinstance(item, Number) for item in items)


def nested(budgets: Budgets) -> tuple[Budget, ...]:
    """The budgets as given, checked to be nested: both sides never shrink and one always grows.

    Raises:
        ValueError: as ``as_budgets``, or if one is not contained in the next.
    """
    checked = as_budgets(budgets)
    for small, large in pairwise(checked):
        if small == large or small.r_q > large.r_q or small.r_c > large.r_c:
            raise ValueError(
                f"budgets {small} then {large} are not nested: order them so that each contains "
                "the one before it"
            )
    return checked


def up_to(r_q: int, r_c: int) -> tuple[Budget, ...]:
    """The paper's budgets that ``(r_q, r_c)`` vectors can meet, and the full one."""
    full = Budget(r_q, r_c)
    fitting = [b for b in PAPER_BUDGETS if b.r_q <= full.r_q and b.r_c <= full.r_c]
    return tuple(fitting if full in fitting else [*fitting, full])


def choose_budgets(budgets: Budgets | None, r_q: int, r_c: int) -> tuple[Budget, ...]:
    """The budgets as given, or ``up_to(r_q, r_c)`` for None; each one fits ``(r_q, r_c)`` vectors.

    Raises:
        ValueError: as ``as_budgets``, or if a budget asks for more vectors.
    """
    chosen = up_to(r_q, r_c) if budgets is None else as_budgets(budgets)
    return tuple(budget.check(r_q, r_c) for budget in chosen)


def __getattr__(name: str) -> Any:
    if name != "PrefixPooling":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Made on demand: its base class pulls in torch, which a Budget does not need.
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    class PrefixPooling(BaseTokenPooling):
        """Keeps the first ``r`` vectors: a budget as sentence-transformers' ``token_pooling``.

        ``model.encode_document(x, token_pooling=PrefixPooling(8))`` gives (8, D) per candidate,
        and ``model.encode_query(x, token_pooling=PrefixPooling(4))`` (4, D) per query. Where it is
        a module of the model, ``tasks=("document",)`` leaves queries alone.

        Raises:
            ValueError: if ``r < 1``, or an embedding has fewer than ``r`` vectors.
        """

        config_keys: ClassVar[list[str]] = ["r", "tasks"]

        def __init__(self, r: int, *, tasks: str | Iterable[str] | None = None) -> None:
            self.r = whole_number(r, "r")
            both = ("query", "document") if tasks is None else tasks
            super().__init__(tasks=both if isinstance(both, str) else list(both))

        def pool_one(self, embedding: Tensor) -> Tensor:
            if len(embedding) < self.r:
                raise ValueError(
                    f"PrefixPooling({self.r}): the embedding has {len(embedding)} vectors; use "
                    f"r <= {len(embedding)}"
                )
            return embedding[: self.r]

    PrefixPooling.__module__, PrefixPooling.__qualname__ = __name__, "PrefixPooling"
    globals()["PrefixPooling"] = PrefixPooling
    return PrefixPooling
