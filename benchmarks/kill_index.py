"""Kill a process that writes to an index at random moments, and check what it left.

    python benchmarks/kill_index.py --kills 100

A child process adds, replaces and deletes candidates without end, and optimizes the index now and
then. It reports each write that is done, and is killed (SIGKILL) at a random moment. The index must
then hold exactly what the reported writes leave, or those and the next one. The next child goes on.
The counts are printed and written to ``book/results/kill_index.json``.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from report import write

ROWS = 200  # candidates per write
DIM = 16


def state_after(n_writes: int) -> dict[str, int]:
    """What an index holds after the first ``n_writes`` writes: the number of the write per id."""
    state: dict[str, int] = {}
    for i in range(n_writes):
        ids = ids_of_write(i)
        if i % 3 == 2:
            for name in ids:
                del state[name]
        else:
            state |= dict.fromkeys(ids, i)
    return state


def ids_of_write(i: int) -> list[str]:
    """Write 3 n adds candidates, the next one replaces half of them, the next deletes a quarter."""
    first = i // 3 * ROWS
    share = (ROWS, ROWS // 2, ROWS // 4)[i % 3]
    return [f"item {j}" for j in range(first, first + share)]


def write_without_end(path: str, first: int, log: Path) -> None:
    """Do write ``first`` and all after it. Append a dot to ``log`` after each."""
    import torch

    from metaembed_lite import MetaIndex

    torch.set_num_threads(1)
    index = MetaIndex.open(path)
    i = first
    while True:
        ids = ids_of_write(i)
        if i % 3 == 2:
            index.delete(ids)
        else:
            vectors = torch.nn.functional.normalize(torch.randn(len(ids), 6, DIM), dim=2)
            (index.add, index.upsert)[i % 3](ids, vectors, {"write": [i] * len(ids)})
        with log.open("ab") as file:
            file.write(b".")
        i += 1
        if i % 10 == 0:
            index.optimize()


def read_state(path: str) -> dict[str, int]:
    """What the index holds now, after a check of every vector."""
    import torch

    from metaembed_lite import MetaIndex

    index = MetaIndex.open(path)
    index.check()
    everything = index.search(torch.ones(4, DIM), k=max(1, len(index)), budget=(1, 1))
    return dict(zip(everything.id, everything.get("write", ()), strict=True))


def kill_writers(folder: Path, kills: int, rng: random.Random) -> int:
    """Kill ``kills`` writers, one after the other. Returns how many writes were done.

    Raises:
        typer.Exit: with code 1, if a write was lost, or a part of one is there.
    """
    from metaembed_lite import MetaIndex

    path, log = str(folder / "index"), folder / "log"
    MetaIndex.create(path, DIM, [(1, 1), (2, 3), (4, 6)])
    os.environ["PYTHONWARNINGS"] = "ignore:lancedb fork support"  # the server forks before any use
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["metaembed_lite.index"])
    done = 0
    for kill in range(kills):
        log.write_bytes(b"")
        child = context.Process(target=write_without_end, args=(path, done, log))
        child.start()
        while not log.read_bytes() and child.is_alive():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        reported = done + len(log.read_bytes())
        state = read_state(path)
        fitting = [n for n in (reported, reported + 1) if state_after(n) == state]
        if not fitting or reported == done:
            print(f"kill {kill}: after {reported} reported writes the index holds something else")
            raise typer.Exit(1)
        done = fitting[0]
    return done


def main(
    kills: Annotated[int, typer.Option(min=1, help="How often to kill.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed of the moments of the kills.")] = 0,
    no_write: Annotated[bool, typer.Option("--no-write", help="Print only.")] = False,
) -> None:
    """Kill writers, and compare the index with what their finished writes leave."""
    with tempfile.TemporaryDirectory() as folder:
        writes = kill_writers(Path(folder), kills, random.Random(seed))
    print(f"After each of {kills} kills the index held exactly its finished writes.")
    print(f"There were {writes:,} writes in all.")
    if not no_write:
        write("kill_index", {"kills": kills, "writes": writes, "seed": seed})


if __name__ == "__main__":
    typer.run(main)
