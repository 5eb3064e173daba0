"""Disks: full ones, read-only ones, and ones that fill while a file is written."""

from __future__ import annotations

import contextlib
import io
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from abuse.models import answer, rows, saved, small
from abuse.tally import Effort, Row, find_problem
from abuse.things import BUDGETS, DIM, Fork, contents, unit
from metaembed_lite import MetaIndex, load, save, train
from metaembed_lite.locking import write_whole

SETTINGS = {"steps": 2, "batch_size": 4, "save_steps": 1}
MORE = 3000  # candidates


def train_to(output: Path, **modes: bool) -> None:
    """Train a new model into a folder."""
    with contextlib.redirect_stdout(io.StringIO()):
        train(small(1), rows(), output=output, **SETTINGS, **modes)


WRITERS: dict[str, Callable[[Path, MetaIndex], Any]] = {
    "save to a new folder": lambda folder, index: save(small(1), folder / "new"),
    "save over a model": lambda folder, index: save(small(1), folder / "model", overwrite=True),
    "train": lambda folder, index: train_to(folder / "run"),
    "train over a model": lambda folder, index: train_to(folder / "model", overwrite=True),
    "add to an index": lambda folder, index: index.add(
        [f"new {i}" for i in range(MORE)], unit(MORE, 6, DIM)
    ),
    "upsert": lambda folder, index: index.upsert(list(map(str, range(MORE))), unit(MORE, 6, DIM)),
    "delete": lambda folder, index: index.delete(["0", "1"]),
    "optimize": lambda folder, index: index.optimize(),
    "a new index": lambda folder, index: MetaIndex.create(folder / "new-index", DIM, BUDGETS),
    "write_whole": lambda folder, index: write_whole(folder / "result.json", "x" * 200_000),
}
SHORT = "save over a model"  # the writer that the short form tries on a full disk


def run_writers(send: Callable[[str], None], folder: Path, limit: int, names: list[str]) -> None:
    """Run some of ``WRITERS`` in a folder, and send a verdict for each."""
    index = MetaIndex.open(folder / "index")
    rows(), small(1)  # what is read at first use
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for name in names:
        try:
            WRITERS[name](folder, index)
            verdict = "done"
        except Exception as error:
            problem = find_problem(error, [str(folder)])
            verdict = "clear" if problem is None else f"unclear {problem!r}"
        send(verdict)


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Nothing that was there before may be harmed, and the error names the path."""
    base = saved(folder)
    made = [limited(effort, folder, base)]
    if can_mount(folder):  # as root, on most machines
        made += [full(effort, folder, base), read_only(effort, folder, base)]
    return made


class Work:
    """A folder with a model, an index and a result, which writers then change or not."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder = folder
        folder.mkdir()
        shutil.copytree(base, folder / "model")
        index = MetaIndex.create(folder / "index", DIM, BUDGETS)
        index.add([str(i) for i in range(50)], unit(50, 6, DIM))
        (folder / "result.json").write_text("{}")
        self.ids, self.model = index.ids(), contents(folder / "model")

    def run(self, names: list[str], limit: int = 0) -> dict[str, str]:
        """The verdict of each writer: "done", "clear" or "unclear", and why. All in one process."""
        child = Fork(run_writers, self.folder, limit, names)
        verdicts = []
        for _ in names:
            try:
                verdicts.append(child.receive())
            except EOFError:
                verdicts.append("the process has ended")
        child.kill()
        return dict(zip(names, verdicts, strict=True))

    def find_harm(self, done: set[str]) -> str | None:
        """What is wrong with what was there before, given the writers that finished."""
        try:
            return self._find_harm(done)
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    def _find_harm(self, done: set[str]) -> str | None:
        index = MetaIndex.open(self.folder / "index")
        index.check()
        expected = set(self.ids)
        if "upsert" in done:
            expected |= {str(i) for i in range(MORE)}
        if "add to an index" in done:
            expected |= {f"new {i}" for i in range(MORE)}
        if "delete" in done:
            expected -= {"0", "1"}
        if index.ids() != expected:
            return f"the index holds {len(index)} candidates, not {len(expected)}"
        now = contents(self.folder / "model")
        now = {name: data for name, data in now.items() if not name.startswith("checkpoints")}
        if now != self.model and not {"save over a model", "train over a model"} & done:
            return "the model has changed"
        if not answer(load(self.folder / "model", device="cpu")).isfinite().all():
            return "the model is damaged"
        text = (self.folder / "result.json").read_text()
        return None if text in ("{}", "x" * 200_000) else "the result is cut"


def judge(row: Row, case: str, verdict: str) -> None:
    """Count what a writer said."""
    if verdict in ("done", "clear"):
        row.survive()
    elif verdict.startswith("unclear"):
        row.note_unclear(case, verdict)
    else:
        row.fail(case, verdict)


def limited(effort: Effort, folder: Path, base: Path) -> Row:
    """RLIMIT_FSIZE: a file that grows beyond it cannot be written."""
    sizes = (1, 500, 2000, 8000, 20_000, 60_000, 150_000, 400_000)
    row = Row(
        "a limit on the size of files: save, train, index, results", len(sizes) * len(WRITERS)
    )
    for size in sizes[4:5] if effort.is_short else sizes[: effort.count(len(sizes), 1)]:
        work = Work(folder / f"limited-{size}", base)
        verdicts = work.run(list(WRITERS), size)
        for name, verdict in verdicts.items():
            judge(row, f"{name}, limit {size}", verdict)
        harm = work.find_harm({name for name, verdict in verdicts.items() if verdict == "done"})
        if harm:
            row.fail(f"all writers, limit {size}", harm)
    return row


def can_mount(folder: Path) -> bool:
    """Whether small disks can be mounted, as root outside of most containers."""
    try:
        with small_disk(folder / "probe", "size=1m"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextmanager
def small_disk(at: Path, options: str) -> Iterator[Path]:
    """A disk in memory."""
    at.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True, capture_output=True)


def full(effort: Effort, folder: Path, base: Path) -> Row:
    """A disk with room for a part of what is written."""
    rooms = (0, 20, 100, 300, 700)  # KiB that are free
    row = Row("a full disk: save, train, index, results", len(rooms) * len(WRITERS))
    names = list(WRITERS)
    if effort.is_short:
        rooms, names = rooms[2:3], [SHORT]
    for room in rooms[: effort.count(len(rooms), 1)]:
        for name in names:
            with small_disk(folder / "full", "size=40m") as disk:
                work = Work(disk / "work", base)
                free = shutil.disk_usage(disk).free
                (disk / "filler").write_bytes(bytes(max(0, free - room * 1024)))
                verdict = work.run([name])[name]
                (disk / "filler").unlink()
                harm = work.find_harm({name} if verdict == "done" else set())
            if harm:
                row.fail(f"{name}, {room} KiB free", harm)
            else:
                judge(row, f"{name}, {room} KiB free", verdict)
    return row


def read_only(effort: Effort, folder: Path, base: Path) -> Row:
    """A disk that is mounted read-only: every write is refused, loading and searching work."""
    row = Row("a read-only disk: writes are refused by name, reads work", len(WRITERS) + 2)
    with small_disk(folder / "read-only", "size=40m") as disk:
        work = Work(disk / "work", base)
        before = contents(work.folder)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name, verdict in work.run(list(WRITERS)).items():
            judge(row, name, "claims to have written" if verdict == "done" else verdict)
        row.check("all files", contents(work.folder) == before, "files have changed")
        harm = work.find_harm(set())
        row.check("load and search", harm is None, str(harm))
    return row
