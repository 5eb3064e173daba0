"""Concurrency: readers and a writer on an index, two builds, and loading while another saves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from abuse.index_users import vectors_of
from abuse.kills import find_book_problem, make, save_for_ever, tiny_book
from abuse.models import answer, rows, small
from abuse.tally import Effort, Row
from abuse.things import BUDGETS, DIM, Fork, kill, start
from metaembed_lite import MetaIndex, load, save, train

READERS = 3


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Several processes at the same files."""
    return [
        readers(effort, folder), loading(effort, folder), writers(effort, folder),
        builds(effort, folder),
    ]  # fmt: skip


def readers(effort: Effort, folder: Path) -> Row:
    """Three readers and a writer on one index, for a minute."""
    row = Row("three readers and a writer on an index for a minute, each search against MaxSim", 0)
    seconds = effort.count(60, 4)
    path = folder / "shared-index"
    index = MetaIndex.create(path, DIM, BUDGETS)
    ids = [f"fixed {i}" for i in range(50)]
    index.add(ids, torch.stack([vectors_of(name) for name in ids]))
    writer = start(f"from abuse.index_users import write_for_ever; write_for_ever({str(path)!r})")
    n_readers = 1 if effort.is_short else READERS
    read = "from abuse.index_users import read_for_a_while as read; read"
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
    saver = Fork(save_for_ever, target)
    saver.receive()
    for i in range(effort.count(row.planned, 4)):
        row.attempt(
            f"load {i}", lambda: answer(load(target, device="cpu")), names=[str(target)],
            is_right=lambda got: any(torch.equal(got, right) for right in rights),
        )  # fmt: skip
    row.check("the saver", saver.is_alive(), "it has ended")
    saver.kill()
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
        children = [make(clone, effort) for _ in range(2)]
        outputs = [child.communicate() for child in children]
        codes = sorted(child.returncode for child in children)
        told = any("in use by" in errors for _, errors in outputs)
        problem = find_book_problem(clone, effort) if codes == [0, 1] and told else None
        fine = problem is None and (codes == [0, 0] or (codes == [0, 1] and told))
        row.check(f"build {i}", fine, f"{codes}: {problem} {outputs[1][1][-200:]}")
        shutil.rmtree(place)
    return row
