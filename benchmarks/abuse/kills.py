"""Kills: SIGKILL at random moments of training, saving, indexing and building the book."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from kill_index import kill_writers
from kill_training import Trainings

from abuse.models import answer, small
from abuse.tally import Effort, Row
from abuse.things import ROOT, Fork, kill, prepare_forks, start
from metaembed_lite import load, save
from metaembed_lite.model_folder import recover

BUILD_CELLS = 3


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """100 kills in the long form, 25 of each."""
    prepare_forks()  # the first server stays
    return [
        training(effort, folder), saving(effort, folder), indexing(effort, folder),
        building(effort, folder),
    ]  # fmt: skip


def training(effort: Effort, folder: Path) -> Row:
    """A killed run resumes, and ends with the weights of a run that was never killed."""
    row = Row("SIGKILL of a training run, then resumed to the same weights, bit by bit", 25)
    kills = effort.count(row.planned, 3)
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


def save_for_ever(send: Callable[[str], None], target: Path) -> None:
    """Save two models to one folder, again and again."""
    models = [small(seed) for seed in (0, 1)]
    while True:
        for model in models:
            save(model, target, overwrite=True)
            send("saved")


def saving(effort: Effort, folder: Path) -> Row:
    """After a kill the folder holds one of two models, whole, or the next save restores it."""
    row = Row("SIGKILL of save() over an older model: the old or the new one, whole", 25)
    target, rng = folder / "saves" / "model", random.Random(0)
    target.parent.mkdir()
    save(small(), target)
    rights = [answer(small(seed)) for seed in (0, 1)]
    for i in range(effort.count(row.planned, 3)):
        child = Fork(save_for_ever, target)
        child.receive()
        time.sleep(rng.uniform(0, 0.5))
        child.kill()
        if not target.exists():  # it died between two renames: load says what to do
            refused = Row("load", 1)
            refused.attempt("load", lambda: load(target), names=[str(target)])
            if refused.survived:
                recover(target)
        row.attempt(
            f"kill {i}", lambda: answer(load(target, device="cpu")),
            is_right=lambda got: any(torch.equal(got, right) for right in rights),
        )  # fmt: skip
    row.attempt("the next save", lambda: save(small(), target, overwrite=True),
                is_right=lambda done: done is None)  # fmt: skip
    left = [path.name for path in target.parent.iterdir() if not path.name.endswith(".lock")]
    row.check("what is left", left == ["model"], f"the folder holds {left}")
    return row


def indexing(effort: Effort, folder: Path) -> Row:
    """A killed writer leaves its finished writes, and at most the one that it was in."""
    row = Row("SIGKILL of a writer: the index holds its finished writes, and no other", 25)
    kills = effort.count(row.planned, 8)
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
if sys.argv[2:] == ["one notebook"]:
    try:
        make_book.execute("01_one", "smoke")
    except BlockingIOError as error:
        sys.exit(str(error))
else:
    sys.argv = ["make_book.py", "--profile", "smoke"]
    sys.exit(make_book.main())
"""


def make(clone: Path, effort: Effort) -> subprocess.Popen[str]:
    """Start to build the book. The short form only executes its notebook."""
    return start(MAKE, clone, *(["one notebook"] if effort.is_short else []))


def find_book_problem(clone: Path, effort: Effort) -> str | None:
    """What is wrong with the built book, or None."""
    executed = clone / ".executed" / "smoke" / "notebooks" / "01_one.ipynb"
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"] if executed.exists() else []
    outputs = sum(bool(cell.get("outputs")) for cell in cells)
    if outputs != BUILD_CELLS:
        return f"{outputs} of {BUILD_CELLS} cells have an output"
    pages = ("index.html", "book/intro.html", "notebooks/01_one.html")
    html = clone / "_build" / "html"
    missing = [page for page in pages if not (html / page).is_file()]
    return None if effort.is_short or not missing else f"{missing[0]} is missing"


def building(effort: Effort, folder: Path) -> Row:
    """A killed build of the book is finished by the next one."""
    row = Row("SIGKILL of make book: the next run finishes it", 25)
    rng, clone, started = random.Random(0), tiny_book(folder), time.monotonic()
    whole = make(clone, effort)
    _, errors = whole.communicate()
    seconds = time.monotonic() - started
    if whole.returncode:
        row.fail("a build that nobody kills", errors[-300:])
        return row
    for i in range(effort.count(row.planned, 1)):
        if i % 3 == 0:  # everything again, or only what the last kill left
            shutil.rmtree(clone / ".executed", ignore_errors=True)
        child = make(clone, effort)
        time.sleep(rng.uniform(0.1, 1.0) * seconds)
        kill(child)
        again = make(clone, effort)
        output, errors = again.communicate()
        problem = (output + errors)[-300:] or "it failed"
        if again.returncode == 0:
            problem = find_book_problem(clone, effort) or ""
        row.check(f"kill {i}", not problem, problem)
    return row
