"""What several chapters need: small models, rows, unit vectors, and children to kill."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metaembed_lite import build, load, save
from metaembed_lite.data.handwriting import training_rows

ROOT = Path(__file__).resolve().parents[2]
DIM = 16
BUDGETS = [(1, 1), (2, 3), (4, 6)]


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random vectors of length 1."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


@cache
def tiny() -> Any:
    """The bundled model."""
    return load("tiny", device="cpu")


def small(seed: int = 0) -> Any:
    """A new, small model with LoRA. Its weights depend on the seed."""
    torch.manual_seed(seed)
    return build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")


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


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by name. Links count by their target."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in [*names, *folders]:
            path = Path(parent, name)
            if path.is_symlink():
                found[str(path.relative_to(folder))] = os.readlink(path).encode()
            elif path.is_file():
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def environment() -> dict[str, str]:
    """The environment of a child: one thread, no hub, and this checkout."""
    folders = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "book")]
    return os.environ | {
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders),
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip


def start(program: str, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    """Start a Python program in a new session, so that it can be killed with all its children.

    Args:
        program: Python code.
        *arguments: of the program.
        **variables: of its environment.
    """
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], env=environment() | variables,
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def kill(child: subprocess.Popen[str]) -> None:
    """SIGKILL a child of ``start`` and its children."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def be_quiet() -> None:
    """No log lines and progress bars: what is tried logs thousands of them."""
    logging.disable(logging.CRITICAL)
