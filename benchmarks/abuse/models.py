"""Small models and rows that several chapters need."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaembed_lite import build, load, save
from metaembed_lite.data.handwriting import training_rows


@cache
def tiny() -> Any:
    """The bundled model."""
    return load("tiny", device="cpu")


def small(seed: int = 0, lora_rank: int | None = 2) -> Any:
    """A new, small model. Its weights depend on the seed."""
    torch.manual_seed(seed)
    return build(r_q=2, r_c=4, lora_rank=lora_rank, dim=8, device="cpu")


@cache
def saved(folder: Path) -> Path:
    """A saved small model in a folder."""
    save(small(), folder / "adapter")
    return folder / "adapter"


@cache
def rows() -> Any:
    """A few training rows."""
    return training_rows(24)


def answer(model: Any) -> Tensor:
    """What a model says of two fixed items: all its vectors."""
    queries = model.encode_query(["7 center", "3 left"], show_progress_bar=False)
    return torch.stack([vectors.cpu() for vectors in queries])
