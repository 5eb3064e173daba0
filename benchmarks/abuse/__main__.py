"""Abuse the package and the book, and print how each kind of abuse ended.

    python -m abuse                      # the long form, in the folder benchmarks
    python -m abuse --seconds 300        # a part of it
    python -m abuse --chapter kills      # one chapter

Each chapter runs in its own process, so a crash counts as a failure. The table is printed and
written to ``book/results/abuse.json``. A chapter that is run alone replaces itself there. The exit
code is 1 if anything was unclear or failed.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from report import RESULTS, write

from abuse.tally import Effort, Row

CHAPTERS = (
    "inputs", "texts", "pictures", "model_folders", "damaged_files", "outputs", "kills", "disks",
    "concurrency", "captions_in_browser", "determinism", "load",
)  # fmt: skip
LONG_SECONDS = 3600  # of the long form, for --seconds
COUNTS = ("tried", "survived", "unclear", "failed")


@dataclass(frozen=True)
class Chapter:
    """What one chapter of abuse gave.

    Attributes:
        rows: as ``Row.to_json`` gives them.
        seconds: that it took.
        share: of the long form.
    """

    rows: list[dict[str, Any]]
    seconds: float
    share: float


def run_here(name: str, effort: Effort) -> list[Row]:
    """Run a chapter in this process."""
    chapter = importlib.import_module(f"abuse.{name}")
    with tempfile.TemporaryDirectory(prefix=f"abuse-{name}-") as folder:
        rows: list[Row] = chapter.abuse(effort, Path(folder))
    return rows


def run_apart(name: str, share: float) -> Chapter:
    """Run a chapter in a new process."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.json")
        command = [sys.executable, "-m", "abuse", "--chapter", name, "--share", str(share)]
        process = subprocess.run(
            [*command, "--rows", str(file)], capture_output=True, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        if file.is_file():
            rows = json.loads(file.read_text(encoding="utf-8"))
        else:
            row = Row("the chapter itself", planned=1)
            row.fail(f"exit code {process.returncode}", process.stderr[-400:])
            rows = [row.to_json()]
    return Chapter(rows, round(time.perf_counter() - started, 1), share)


def format_rows(name: str, chapter: Chapter) -> Iterator[str]:
    """Lines of the table, with the first problems."""
    for row in chapter.rows:
        counts = "".join(f"{row[count]:>9,}" for count in COUNTS)
        yield f"{name:20}{counts}  {row['what']}"
        yield from (f"{'':20}  {note}" for note in row["notes"])


def main(
    seconds: Annotated[
        float | None, typer.Option(min=1, help="About how long. Defaults to the long form.")
    ] = None,
    chapter: Annotated[
        list[str] | None, typer.Option(help="Only this chapter. It may be repeated.")
    ] = None,
    no_write: Annotated[bool, typer.Option("--no-write", help="Print only.")] = False,
    share: Annotated[float | None, typer.Option(hidden=True)] = None,
    rows: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Abuse the package, and print what survived."""
    part = share or min(1.0, (seconds or LONG_SECONDS) / LONG_SECONDS)
    names = tuple(chapter or CHAPTERS)
    unknown = set(names) - set(CHAPTERS)
    if unknown:
        raise typer.BadParameter(f"{sorted(unknown)[0]!r}: choose from {', '.join(CHAPTERS)}")
    if rows is not None:  # the child of run_apart
        tried = run_here(names[0], Effort(part))
        rows.write_text(json.dumps([row.to_json() for row in tried]), encoding="utf-8")
        return
    print(f"{'chapter':20}{''.join(f'{count:>9}' for count in COUNTS)}  what", flush=True)
    done = {}
    for name in names:
        done[name] = run_apart(name, part)
        print("\n".join(format_rows(name, done[name])), flush=True)
    if not no_write:
        write_result(done, keep=chapter is not None)
    bad = sum(row[key] for c in done.values() for row in c.rows for key in ("unclear", "failed"))
    print(f"{sum(c.seconds for c in done.values()):,.0f} s; unclear or failed: {bad}")
    if bad:
        raise typer.Exit(1)


def write_result(done: dict[str, Chapter], keep: bool) -> None:
    """Write the table. ``keep``: chapters that were not run keep what was measured before."""
    file = RESULTS / "abuse.json"
    chapters = json.loads(file.read_text("utf-8"))["chapters"] if keep and file.is_file() else {}
    chapters |= {
        name: {"seconds": c.seconds, "share": c.share, "rows": c.rows} for name, c in done.items()
    }
    ordered = {name: chapters[name] for name in CHAPTERS if name in chapters}
    not_run = [name for name in CHAPTERS if name not in ordered]
    write("abuse", {"chapters": ordered, "not_run": not_run})


if __name__ == "__main__":
    typer.run(main)
