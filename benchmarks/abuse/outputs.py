"""Outputs: paths where a model, a run or an index may not go. What is there stays as it is."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from abuse.models import rows, saved, small
from abuse.tally import Effort, Row
from abuse.things import BUDGETS, DIM, contents
from metaembed_lite import MetaIndex, save, train
from metaembed_lite.indexing import build_index
from metaembed_lite.model_folder import check_output


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Files that are not ours are never changed."""
    return [others(effort, folder), paths(effort, folder), indexes(effort, folder)]


def project(at: Path) -> None:
    """A project of a user, with a folder that looks like a run's."""
    (at / ".git").mkdir(parents=True)
    (at / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (at / "thesis.tex").write_text("years of work")
    (at / "checkpoints").mkdir()
    (at / "checkpoints" / "their_best.pt").write_text("weeks of work")


def other_checkpoints(at: Path) -> None:
    """Checkpoints of another program."""
    (at / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    (at / "checkpoints" / "checkpoint-5" / "model.safetensors").write_text("weeks of work")


def other_model(at: Path) -> None:
    """A model of another program."""
    at.mkdir()
    (at / "modules.json").write_text("[]")


def model_and(name: str, content: str = "what I learned") -> Callable[[Path, Path], None]:
    """Our model, with one more file of the user."""

    def make(at: Path, model: Path) -> None:
        shutil.copytree(model, at)
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        (at / name).write_text(content)

    return make


def link_in_a_model(at: Path, model: Path) -> None:
    """Our model, whose card is a link to a file of the user."""
    shutil.copytree(model, at)
    (at.parent / "big.csv").write_text("data")
    (at / "README.md").unlink()
    (at / "README.md").symlink_to(at.parent / "big.csv")


def linked(at: Path) -> None:
    """A link to a folder."""
    (at.parent / "big disk").mkdir()
    (at.parent / "big disk" / "data").write_text("data")
    at.symlink_to(at.parent / "big disk")


def unix_socket(at: Path) -> None:
    """A socket. Its path is short only from within its folder."""
    here = os.getcwd()
    os.chdir(at.parent)
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(at.name)
    finally:
        os.chdir(here)


CASES: dict[str, Callable[..., Any]] = {
    "a project": project, "checkpoints of another program": other_checkpoints,
    "a model of another program": other_model, "notes in our model": model_and("notes.txt"),
    "notes deep in our model": model_and("1_Dense/notes.txt"),
    "a hidden file in our model": model_and(".env"), "a damaged marker":
    model_and("metaembed_lite.json", "{"), "a link in our model": link_in_a_model,
    "a file": lambda at: at.write_text("years of work"), "a link to a folder": linked,
    "a link to nothing": lambda at: at.symlink_to(at.parent / "unplugged"),
    "a pipe": lambda at: os.mkfifo(at), "a socket": unix_socket,
    "an index": lambda at: MetaIndex.create(at, DIM, BUDGETS),
}  # fmt: skip


def others(effort: Effort, folder: Path) -> Row:
    """save and train into what a user has."""
    row = Row("save and train onto files, links and folders that are not ours", 2 * len(CASES))
    model, mine, data = saved(folder), small(), rows()
    for i, (case, make) in enumerate(CASES.items()):
        place = folder / f"other-{i}"
        place.mkdir()
        at = place / "output"
        make(*[at, model][: 2 if make.__code__.co_argcount == 2 else 1])
        before = contents(place)
        calls: dict[str, Callable[[], Any]] = {
            "save": lambda at=at: save(mine, at, overwrite=True),
            "train": lambda at=at: train(
                mine, data, steps=1, batch_size=4, output=at, overwrite=True, restart=True
            ),
        }
        for name, call in calls.items():
            row.attempt(f"{name} onto {case}", call, names=[str(at)])
            if contents(place) != before:
                row.fail(f"{name} onto {case}", "files have changed")
    return row


def paths(effort: Effort, folder: Path) -> Row:
    """Paths that the system does not take, or that hold everything."""
    odd = [
        "/", "/dev/null", "/proc", "/sys/kernel", ".", "..", str(Path.cwd()), str(folder.parent),
        str(folder / ("a" * 300)), str(folder / "a\0b"), "/proc/self/model",
    ]  # fmt: skip
    row = Row("paths that no model may be written to", len(odd))
    for path in odd:
        # check_output first: an attempt that is not refused must not destroy the machine
        row.attempt(
            path,
            lambda path=path: _save_if_safe(Path(path), folder),
            names=[path, "output", "/proc"],
        )
    return row


def _save_if_safe(path: Path, folder: Path) -> None:
    check_output(path)
    if os.path.commonpath([os.path.abspath(path), folder]) == str(folder) or "proc" in path.parts:
        save(small(), path)


def indexes(effort: Effort, folder: Path) -> Row:
    """An index onto an index, a file, a model, and from a folder without pictures."""
    row = Row("an index onto an index, a file or a model; and from odd sources", 7)
    there = folder / "there"
    MetaIndex.create(there, DIM, BUDGETS)
    (folder / "a file").write_text("years of work")
    (folder / "empty").mkdir()
    before = {name: contents(folder / name) for name in ("there", "adapter")}
    row.attempt("over an index", lambda: MetaIndex.create(there, DIM, BUDGETS), names=[str(there)])
    for name, source in (("there", "stickers"), ("a file", "stickers")):
        row.attempt(
            f"build_index onto {name}", lambda n=name, s=source: build_index(
                "tiny", s, folder / n, ["n_queries=2"], progress=False), names=[name],
        )  # fmt: skip
    for source in ("empty", "missing", "a file"):
        at = str(folder / source)
        row.attempt(
            f"build_index of {source}", names=[source],
            call=lambda at=at: build_index("tiny", at, folder / "new", progress=False),
        )  # fmt: skip
    row.attempt("open where none is", lambda: MetaIndex.open(folder / "new"), names=["new"])
    same = {name: contents(folder / name) for name in before} == before
    row.check("what was there", same, "files have changed")
    return row
