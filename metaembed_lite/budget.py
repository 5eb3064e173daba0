"""A budget: how many query and candidate vectors a score may use, and what that costs.

MetaEmbed trains nested prefixes (r_q, r_c) so that the choice can be made at test time: the first
r_q query vectors against the first r_c candidate vectors (Matryoshka Multi-Vector Retrieval).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

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
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(
                    f"{name}={value!r}: a budget counts vectors; use a whole number from 1 up"
                )
            object.__setattr__(self, name, int(value))  # numpy's and pandas' integers too

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The budget written as ``"4x8"``, ``"4,8"`` or ``"(4, 8)"``.

        Raises:
            ValueError: if the text is none of these.
        """
        match = re.fullmatch(r"\(?\s*(\d+)\s*[x,×]\s*(\d+)\s*\)?", text.strip())
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
            ("query", self.r_q, r_q, "r_q"),
            ("candidate", self.r_c, r_c, "r_c"),
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
            ValueError: if ``dtype`` is none of float32, float16, bfloat16, int8.
        """
        if dtype not in BYTES_PER_VALUE:
            raise ValueError(f"dtype {dtype!r}: choose from {', '.join(BYTES_PER_VALUE)}")
        return self.r_c * dim * BYTES_PER_VALUE[dtype]

    def multiply_adds(self, dim: int, candidates: int = 1) -> int:
        """Multiply-adds to score one query against ``candidates``: ``r_q * r_c * dim`` each."""
        return self.r_q * self.r_c * dim * candidates


PAPER_BUDGETS = (Budget(1, 1), Budget(2, 4), Budget(4, 8), Budget(8, 16), Budget(16, 64))


def as_budget(value: Budget | Sequence[int] | str) -> Budget:
    """A ``Budget`` from a budget, a pair ``(r_q, r_c)`` or a text ``"4x8"``.

    Raises:
        ValueError: if the value is none of these.
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, str):
        return Budget.parse(value)
    pair = tuple(value)
    if len(pair) != 2:
        raise ValueError(f"budget {value!r}: expected a pair (r_q, r_c)")
    return Budget(*pair)


def nested(budgets: Iterable[Budget | Sequence[int] | str]) -> tuple[Budget, ...]:
    """The budgets as given, checked to be nested: both sides never shrink and one always grows.

    Raises:
        ValueError: if there is none, or one is not contained in the next.
    """
    checked = tuple(as_budget(b) for b in budgets)
    if not checked:
        raise ValueError("no budgets: give at least one, for example [(1, 1), (4, 8)]")
    for small, large in pairwise(checked):
        if small == large or small.r_q > large.r_q or small.r_c > large.r_c:
            raise ValueError(
                f"budgets {small} then {large} are not nested: order them so that each contains "
                "the one before it"
            )
    return checked


def up_to(r_q: int, r_c: int) -> tuple[Budget, ...]:
    """The paper's budgets that ``(r_q, r_c)`` vectors can meet, and the full one."""
    fitting = [b for b in PAPER_BUDGETS if b.r_q <= r_q and b.r_c <= r_c]
    full = Budget(r_q, r_c)
    return tuple(fitting if full in fitting else [*fitting, full])


def __getattr__(name: str) -> Any:
    if name != "PrefixPooling":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Made on demand: its base class pulls in torch, which a Budget does not need.
    from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling

    class PrefixPooling(BaseTokenPooling):
        """Keeps the first ``r`` vectors: a budget as sentence-transformers' ``token_pooling``.

        ``model.encode_document(x, token_pooling=PrefixPooling(8))`` gives (8, D) a candidate;
        ``tasks=("query",)`` cuts queries instead.

        Raises:
            ValueError: if ``r < 1``, or an embedding has fewer than ``r`` vectors.
        """

        config_keys: ClassVar[list[str]] = ["r", "tasks"]

        def __init__(self, r: int, *, tasks: str | Iterable[str] | None = None) -> None:
            Budget(r, r)  # the same check
            super().__init__(
                tasks=tasks if tasks is None or isinstance(tasks, str) else list(tasks)
            )
            self.r = r

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
