"""How long a newcomer waits: `make test` and `make book` from a clean clone, and the import.

    python benchmarks/timings.py          # clones HEAD into a temporary folder; takes up to an hour

The clone gets an environment of its own. Seconds of each notebook are read from the clone's stamps.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer
from report import write

ROOT = Path(__file__).parents[1]


def import_seconds(python: str, repeats: int = 5) -> float:
    """Median wall-clock seconds of `import metaembed_lite` beyond those of starting Python."""

    def run(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([python, "-c", code], check=True)
        return time.perf_counter() - started

    extra = [run("import metaembed_lite") - run("pass") for _ in range(repeats)]
    return statistics.median(extra)


def notebook_seconds(clone: Path, profile: str) -> dict[str, int]:
    """Seconds that each notebook took, as the build noted them."""
    stamps = clone / ".executed" / profile / "stamps"
    return {p.name: int(p.read_text().split()[1]) for p in sorted(stamps.glob("[0-9]*"))}


def main(book: bool = True, keep: Path | None = None) -> None:
    """Clone, run, note: ``--no-book`` leaves out `make book`, ``--keep`` names a lasting clone."""
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = keep or Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for target, profile in [("test", "smoke"), ("book", "cpu")][: 2 if book else 1]:
            started = time.perf_counter()
            done = subprocess.run(["make", target], cwd=clone)
            result[f"make_{target}_seconds"] = round(time.perf_counter() - started)
            result[f"notebooks_{profile}_seconds"] = notebook_seconds(clone, profile)
            if done.returncode:
                sys.exit(f"make {target} failed in a clean clone")
        result["import_seconds"] = round(import_seconds(str(clone / ".venv/bin/python")), 3)
    print(result)
    print("written:", write("timings", result))


if __name__ == "__main__":
    typer.run(main)
