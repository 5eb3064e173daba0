"""Concurrency: readers and a writer on an index, two builds, and loading while another saves."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from pathlib import Path

import torch

from abuse.kills import MAKE, SAVE, find_book_problem, tiny_book
from abuse.tally import Effort, Row
from abuse.things import BUDGETS, DIM, answer, kill, rows, small, start, unit
from metaembed_lite import MetaIndex, load, maxsim, save, train

READERS = 3


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Several processes at the same files."""
    return [
        readers(effort, folder), loading(effort, folder), writers(effort, folder),
        builds(effort, folder),
    ]  # fmt: skip


def vectors_of(name: str) -> torch.Tensor:
    """The vectors of a candidate follow from its id, so a reader can check what it finds."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return unit(6, DIM, seed=seed)


def write_for_ever(path: str) -> None:
    """Add, replace and delete candidates without end."""
    index = MetaIndex.open(path)
    for i in itertools.count():
        ids = [f"{i} {j}" for j in range(40)]
        index.add(ids, torch.stack([vectors_of(name) for name in ids]))
        index.upsert(ids[:20], torch.stack([vectors_of(name) for name in ids[:20]]))
        index.delete(ids[:35])
        if i % 10 == 9:
            index.optimize()


def read_for_a_while(path: str, seconds: float, seed: int) -> None:
    """Search, compare every score with MaxSim, and print a report."""
    index = MetaIndex.open(path)
    query, searches, problems = unit(4, DIM, seed=seed), 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            found = index.search(query, k=30)
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
            continue
        searches += 1
        expected = maxsim(query[None], [vectors_of(name).half().float() for name in found.id])[0]
        off = float((expected - torch.tensor(found.score.to_numpy())).abs().max())
        ordered = found.score.is_monotonic_decreasing and found.id.is_unique
        stored = set(index.search(query, k=100_000).id)
        if off > 1e-4 or not ordered or not {f"fixed {i}" for i in range(50)} <= stored:
            problems.append(f"scores off by {off}, ordered: {ordered}, stored: {len(stored)}")
    print(json.dumps({"searches": searches, "problems": problems}))


def readers(effort: Effort, folder: Path) -> Row:
    """Three readers and a writer on one index, for a minute."""
    row = Row("three readers and a writer on an index for a minute, each search against MaxSim", 0)
    seconds = effort.count(60, 4)
    path = folder / "shared-index"
    index = MetaIndex.create(path, DIM, BUDGETS)
    ids = [f"fixed {i}" for i in range(50)]
    index.add(ids, torch.stack([vectors_of(name) for name in ids]))
    writer = start(f"from abuse.concurrency import write_for_ever; write_for_ever({str(path)!r})")
    n_readers = 1 if effort.is_short else READERS
    read = "from abuse.concurrency import read_for_a_while as read; read"
    children = [start(f"{read}({str(path)!r}, {seconds}, {i})") for i in range(n_readers)]
    for child in children:
        output, errors = child.communicate()
        if child.returncode:
            row.fail("a reader", errors[-300:])
            continue
        report = json.loads(output.splitlines()[-1])
        row.survived += report["searches"]
        for problem in report["problems"]:
            row.fail("a search", problem)
    row.check("the writer", writer.poll() is None, "it has ended")
    kill(writer)
    row.attempt("a check of every vector", lambda: MetaIndex.open(path).check(),
                is_right=lambda done: done is None)  # fmt: skip
    row.planned = row.tried  # as many as fit into the time
    row.measured["seconds"] = seconds
    return row


def loading(effort: Effort, folder: Path) -> Row:
    """Loading a model that another process replaces all the time gives one of the two, whole."""
    row = Row("load() while another process saves: the old model or the new one", 60)
    target = folder / "saved-again" / "model"
    target.parent.mkdir()
    save(small(), target)
    rights = [answer(small(seed)) for seed in (0, 1)]
    saver = start(SAVE, target)
    assert saver.stdout is not None
    saver.stdout.readline()
    for i in range(effort.count(row.planned, 4)):
        row.attempt(
            f"load {i}", lambda: answer(load(target, device="cpu")), names=[str(target)],
            is_right=lambda got: any(torch.equal(got, right) for right in rights),
        )  # fmt: skip
    row.check("the saver", saver.poll() is None, "it has ended")
    kill(saver)
    return row


def writers(effort: Effort, folder: Path) -> Row:
    """The second of two writers of one model is refused by name, or waits its turn."""
    row = Row("a second save or training into a folder that is being written", 4)
    target, mine = folder / "busy" / "model", small()
    target.parent.mkdir()
    save(mine, target)
    holder = start(HOLDER, target)
    assert holder.stdout is not None
    holder.stdout.readline()
    before = answer(load(target, device="cpu"))
    calls = {
        "save": lambda: save(mine, target, overwrite=True),
        "train": lambda: train(mine, rows(), steps=1, batch_size=4, output=target, overwrite=True),
        "resume": lambda: train(mine, rows(), steps=1, batch_size=4, output=target, resume=True),
    }
    for name, call in calls.items():
        row.attempt(name, call, names=[str(target)])
    same = torch.equal(answer(load(target, device="cpu")), before)
    row.check("the model", same, "it has changed")
    kill(holder)
    return row


HOLDER = """
import sys, time
from metaembed_lite.locking import lock
with lock(sys.argv[1], "saving a model"):
    print("held", flush=True)
    time.sleep(600)
"""


def builds(effort: Effort, folder: Path) -> Row:
    """Of two builds of the book at once one is told that the other runs, and the site is whole."""
    row = Row("two make book at once: one builds, the other says who does", 5)
    for i in range(effort.count(row.planned, 1)):
        place = folder / f"builds-{i}"
        place.mkdir()
        clone = tiny_book(place)
        children = [start(MAKE, clone) for _ in range(2)]
        outputs = [child.communicate() for child in children]
        codes = sorted(child.returncode for child in children)
        told = any("in use by" in errors for _, errors in outputs)
        problem = find_book_problem(clone) if codes == [0, 1] and told else None
        fine = problem is None and (codes == [0, 0] or (codes == [0, 1] and told))
        row.check(f"build {i}", fine, f"{codes}: {problem} {outputs[1][1][-200:]}")
        shutil.rmtree(place)
    return row
