"""What several chapters need and takes no time to import: vectors, files, and children to kill."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DIM = 16
BUDGETS = [(1, 1), (2, 3), (4, 6)]
PRELOADED = ["abuse.models", "metaembed_lite.training", "metaembed_lite.index", "sklearn.datasets"]


def unit(*shape: int, seed: int = 0) -> Tensor:
    """Random vectors of length 1."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


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
    """Start a new Python in a new session, so that it can be killed with all its children.

    Args:
        program: Python code.
        *arguments: of the program.
        **variables: of its environment.
    """
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], env=environment() | variables,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def kill(child: subprocess.Popen[str]) -> None:
    """SIGKILL a child of ``start`` and its children."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


@cache
def prepare_forks() -> ForkServerContext:
    """A server that has imported the package, so that its children start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = dict(os.environ)
    os.environ.update(environment())  # which the server and its children get
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class Fork:
    """A child that runs a function, and sends what the function passes to its first argument.

    Args:
        function: of the module, called as ``function(send, *arguments)``.
        *arguments: that can be pickled.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = prepare_forks()
        self.messages, sender = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=run_quietly, args=(function, sender, *arguments)
        )
        self.process.start()
        sender.close()

    def receive(self) -> Any:
        """The next message. EOFError if the child has ended."""
        return self.messages.recv()

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.is_alive()

    def kill(self) -> None:
        """SIGKILL the child, if it still runs."""
        self.process.kill()
        self.process.join()
        self.messages.close()


def run_quietly(function: Callable[..., Any], sender: Any, *arguments: Any) -> None:
    """Run a function in this process, in one thread and without output."""
    be_quiet()
    torch.set_num_threads(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    function(sender.send, *arguments)


def be_quiet() -> None:
    """No log lines and progress bars: what is tried logs thousands of them."""
    logging.disable(logging.CRITICAL)
