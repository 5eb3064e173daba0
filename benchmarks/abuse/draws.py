"""What hypothesis draws for the inputs: odd values, the same examples in every run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings

# What a user may pass by accident, or on purpose.
ODD: list[Any] = [
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 1e300, 10**30, 1 + 2j, "", "4x8",
    "0x1", "nan", "\ud800", b"4x8", [], [[]], [1], (4, 8), (0, 1), (1.0, 2.0), [(2, 4), (1, 1)],
    {}, {4, 8}, {"r_q": 4}, object(), len, range(2), np.array([4, 8]), np.zeros((0, 3)),
    np.ma.masked_array([1.0, 2.0], [True, False]), np.array(["a", None], dtype=object),
    torch.tensor([1, 2]), torch.zeros(2, 2), torch.zeros(1, 2, 3), torch.full((2, 2), torch.nan),
    torch.zeros(2, 2).to_sparse(), torch.zeros(2, 2, device="meta"), torch.zeros(2, 2) > 0,
    torch.zeros(2, 2, dtype=torch.complex64), Path("4x8"), slice(1, 2), type("Odd", (), {}),
]  # fmt: skip


def draw(n: int, strategy: Any, body: Callable[[Any], None]) -> None:
    """Call ``body`` on ``n`` examples. The same ones in every run."""

    @settings(
        max_examples=n, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(example: Any) -> None:
        body(example)

    run()
