"""Measure how long a newcomer waits: `make test` and `make book` in a clean clone, and the import.

    python benchmarks/timings.py          # clones HEAD to a temporary folder, takes an hour

The clone gets a new environment. The build records the seconds of each notebook in its stamps.
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
    """Return the median seconds of `import metaembed_lite`, without the start of Python."""

    def seconds_of(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([python, "-c", code], check=True)
        return time.perf_counter() - started

    # Pairs, so that slow moments of the machine cancel out.
    differences = [seconds_of("import metaembed_lite") - seconds_of("pass") for _ in range(repeats)]
    return statistics.median(differences)


def notebook_seconds(clone: Path, profile: str) -> dict[str, int]:
    """Read the seconds of each notebook, as the build recorded them."""
    stamps = sorted((clone / ".executed" / profile / "stamps").glob("[0-9A-Z]*"))  # not "site"
    return {stamp.name: int(stamp.read_text().split()[1]) for stamp in stamps}


def main(book: bool = True, keep: Path | None = None) -> None:
    """Measure in a clean clone. ``--no-book`` skips `make book`, ``--keep`` keeps the clone."""
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = keep or Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for target, profile in [("test", "smoke"), ("book", "cpu")][: 2 if book else 1]:
            started = time.perf_counter()
            process = subprocess.run(["make", target], cwd=clone)
            result[f"make_{target}_seconds"] = round(time.perf_counter() - started)
            result[f"notebooks_{profile}_seconds"] = notebook_seconds(clone, profile)
            if process.returncode:
                sys.exit(f"make {target} failed in a clean clone")
        result["import_seconds"] = round(import_seconds(str(clone / ".venv/bin/python")), 3)
    print(result)
    print("written:", write("timings", result))


if __name__ == "__main__":
    typer.run(main)
