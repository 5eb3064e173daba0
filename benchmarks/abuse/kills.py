"""Kills: SIGKILL at random moments of training, saving, indexing and building the book."""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

import torch
import typer
from kill_index import kill_writers
from kill_training import Trainings

from abuse.tally import Effort, Row
from abuse.things import ROOT, answer, kill, small, start
from metaembed_lite import load, save

BUILD_CELLS = 3


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """100 kills in the long form, 25 of each."""
    return [
        training(effort, folder), saving(effort, folder), indexing(effort, folder),
        building(effort, folder),
    ]  # fmt: skip


def training(effort: Effort, folder: Path) -> Row:
    """A killed run resumes, and ends with the weights of a run that was never killed."""
    row = Row("SIGKILL of a training run, then resumed to the same weights, bit by bit", 25)
    kills = effort.count(row.planned, 4)
    trainings = Trainings(folder / "trainings", random.Random(0))
    trainings.folder.mkdir()
    trainings.measure_undisturbed()
    run = 0
    while row.tried < kills:
        try:
            n = trainings.run_with_kills(f"run-{run}", kills - row.tried)
        except typer.Exit:
            row.fail(f"run {run}", "it ended with other weights, or not at all")
            return row
        row.survived += n
        run += 1
    return row


SAVE = """
import sys
import torch
from abuse.things import be_quiet, small
from metaembed_lite import save
be_quiet()
torch.set_num_threads(1)
models = [small(seed) for seed in (0, 1)]
print("ready", flush=True)
while True:
    for model in models:
        save(model, sys.argv[1], overwrite=True)
        print("saved", flush=True)
"""  # two models, again and again


def saving(effort: Effort, folder: Path) -> Row:
    """After a kill the folder holds one of two models, completely, or the next save mends it."""
    row = Row("SIGKILL of save() over an older model: the old or the new one, whole", 25)
    target, rng = folder / "saves" / "model", random.Random(0)
    target.parent.mkdir()
    save(small(), target)
    rights = [answer(small(seed)) for seed in (0, 1)]
    for i in range(effort.count(row.planned, 3)):
        child = start(SAVE, target)
        assert child.stdout is not None
        for _ in range(2):
            child.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        kill(child)
        repaired = not target.exists()  # died between two renames: documented, the next save mends
        if repaired:
            row.attempt(f"kill {i}: load", lambda: load(target), names=[str(target)])
            row.survived -= 1  # the case is counted below
            save(small(), target)
        row.attempt(
            f"kill {i}", lambda: answer(load(target, device="cpu")),
            is_right=lambda got: any(torch.equal(got, right) for right in rights),
        )  # fmt: skip
    save(small(), target, overwrite=True)
    left = sorted(path.name for path in target.parent.iterdir())
    if left not in (["model"], [".model.metaembed.lock", "model"]):
        row.fail("after all kills", f"the folder holds {left}")
    return row


def indexing(effort: Effort, folder: Path) -> Row:
    """A killed writer leaves its finished writes, and at most the one that it was in."""
    row = Row("SIGKILL of a writer: the index holds its finished writes, and no other", 25)
    kills = effort.count(row.planned, 10)
    place = folder / "writers"
    place.mkdir()
    try:
        row.measured["writes"] = kill_writers(place, kills, random.Random(0))
        row.survived += kills
    except typer.Exit:
        row.fail("a kill", "the index holds something else")
    return row


def tiny_book(folder: Path) -> Path:
    """A clone of the book that has one small chapter and one page."""
    clone = folder / "clone"
    shutil.copytree(
        ROOT / "book", clone / "book", ignore=shutil.ignore_patterns("results*", "__pycache__")
    )
    for name in ("_config.yml", "requirements.lock"):
        shutil.copy(ROOT / name, clone / name)
    (clone / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n  - file: notebooks/01_one\n"
    )
    (clone / "book" / "intro.md").write_text("# A book\n\nOne chapter.\n")
    (clone / "notebooks").mkdir()
    (clone / "metaembed_lite").mkdir()
    (clone / "metaembed_lite" / "__init__.py").write_text("")
    cells = [
        {"cell_type": "markdown", "id": "t", "metadata": {}, "source": "# One\n\nA chapter."},
        *(
            {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [],
             "source": f"{i} + 1", "execution_count": None}
            for i in range(BUILD_CELLS)
        ),
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (clone / "notebooks" / "01_one.ipynb").write_text(json.dumps(notebook))
    return clone


MAKE = """
import sys
sys.path.insert(0, sys.argv[1] + "/book")
import make_book
sys.argv = ["make_book.py", "--profile", "smoke"]
sys.exit(make_book.main())
"""


def find_book_problem(clone: Path) -> str | None:
    """What is wrong with the built book, or None."""
    html = clone / "_build" / "html"
    chapter = html / "notebooks" / "01_one.html"
    for page in (html / "index.html", html / "book" / "intro.html", chapter):
        if not page.is_file():
            return f"{page.name} is missing"
    outputs = chapter.read_text(encoding="utf-8").count("cell_output")
    return None if outputs >= BUILD_CELLS else f"{outputs} of {BUILD_CELLS} outputs on the page"


def building(effort: Effort, folder: Path) -> Row:
    """A killed build of the book is finished by the next one."""
    row = Row("SIGKILL of make book: the next run finishes it", 25)
    rng = random.Random(0)
    clone = tiny_book(folder)
    started = time.monotonic()
    whole = start(MAKE, clone)
    _, errors = whole.communicate()
    seconds = time.monotonic() - started
    if whole.returncode:
        row.fail("a build that nobody kills", errors[-300:])
        return row
    for i in range(effort.count(row.planned, 1)):
        if i % 3 == 0 or effort.is_short:  # everything again, or only what the last kill left
            shutil.rmtree(clone / ".executed", ignore_errors=True)
        child = start(MAKE, clone)
        time.sleep(rng.uniform(0.1, 1.0) * seconds)
        kill(child)
        again = start(MAKE, clone)
        output, errors = again.communicate()
        problem = find_book_problem(clone) if again.returncode == 0 else (output + errors)[-300:]
        row.check(f"kill {i}", problem is None, str(problem))
    return row
