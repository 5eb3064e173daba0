"""Write the student edition: `python book/make_student.py` (`make student`).

`_build/student/` gets a copy of every notebook, without solutions and with blanks to fill in, and
of the pages and results that the notebooks link to or read. It is generated and never stored.

In a copy

- the section "### Solutions" is gone, and so is every cell with the tag `solution`. Hidden cells
  (`remove-cell`) of the section stay, because other cells may need them;
- each string that a code cell lists in its metadata as `blanks` is replaced by `____`;
- a note after the title says which version it was made from.

The pages of the part "For instructors" in `_toc.yml` are left out.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

import metaembed_lite
from metaembed_lite.locking import lock

ROOT = Path(__file__).resolve().parents[1]
STUDENT = ROOT / "_build" / "student"
BLANK = "____"
NOTE_ID = "student-copy"
NOTE = """\
> **Student copy** of {version}. Replace each `____` before you run its cell. Every exercise has a
> check that says what is wrong with an answer. The solutions are left out."""
INSTRUCTORS = "For instructors"  # the part of _toc.yml that students do not get


def source(cell: dict) -> str:
    return "".join(cell["source"])


def with_source(cell: dict, text: str) -> dict:
    return cell | {"source": text.splitlines(keepends=True)}


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def heading_levels(text: str) -> list[int]:
    """The level of the heading in each line of a Markdown text. 0 for any other line."""
    levels, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r" {0,3}(`{3,}|~{3,}|:{3,})", line)
        if mark and (not fence or mark[1].startswith(fence)):
            fence = "" if fence else mark[1]
        heading = None if fence else re.match(r"(#{1,6}) ", line)
        levels.append(len(heading[1]) if heading else 0)
    return levels


def without_solutions_section(cells: list[dict]) -> list[dict]:
    """Drop the section "### Solutions", up to the next heading of its level or above.

    The rest of a Markdown cell in which the section starts or ends stays, and so do hidden cells.
    """
    kept, inside = [], False
    for cell in cells:
        if cell["cell_type"] != "markdown":
            if not inside or "remove-cell" in tags(cell):
                kept.append(cell)
            continue
        text, lines = source(cell), []
        for line, level in zip(text.splitlines(keepends=True), heading_levels(text), strict=True):
            if 0 < level <= 3:
                inside = level == 3 and line.lstrip("# ").strip() == "Solutions"
            if not inside:
                lines.append(line)
        rest = "".join(lines)
        if rest.strip():
            kept.append(cell if rest == text else with_source(cell, rest.strip("\n")))
    return kept


def fill_in_blanks(cell: dict, name: str) -> dict:
    """Replace the strings in a cell's metadata `blanks`, and drop the metadata.

    Raises:
        ValueError: naming the notebook, the cell and the string, if a string does not occur exactly
            once, overlaps with another one, or is no string.
    """
    blanks = cell["metadata"].get("blanks")
    if blanks is None:
        return cell
    text, where = source(cell), f"{name}, cell {cell.get('id', '')}"
    if cell["cell_type"] != "code":
        raise ValueError(f"{where}: only a code cell may have blanks")
    if not (blanks and isinstance(blanks, list) and all(isinstance(b, str) and b for b in blanks)):
        raise ValueError(f"{where}: the metadata blanks is {blanks!r}, expected a list of strings")
    if BLANK in text:
        raise ValueError(f"{where}: the source already contains {BLANK}")
    spans = []
    for blank in blanks:
        starts = [match.start() for match in re.finditer(f"(?={re.escape(blank)})", text)]
        if len(starts) != 1:
            raise ValueError(
                f"{where}: the blank {blank!r} occurs {len(starts)} times, expected once"
            )
        spans.append((starts[0], starts[0] + len(blank), blank))
    parts, end = [], 0
    for start, stop, blank in sorted(spans):
        if start < end:
            raise ValueError(f"{where}: the blank {blank!r} overlaps with another one")
        parts += [text[end:start], BLANK]
        end = stop
    metadata = {key: value for key, value in cell["metadata"].items() if key != "blanks"}
    return with_source(cell, "".join(parts) + text[end:]) | {"metadata": metadata}


def student_copy(notebook: dict, name: str, version: str) -> dict:
    """A notebook as students get it. A copy of a copy is the same copy.

    Args:
        notebook: as stored.
        name: of the notebook, for errors.
        version: what it is made from, for the note.

    Raises:
        ValueError: if a blank cannot be replaced.
    """
    cells = [c for c in notebook["cells"] if "solution" not in tags(c) and c.get("id") != NOTE_ID]
    cells = [fill_in_blanks(cell, name) for cell in without_solutions_section(cells)]
    cells = [
        cell | {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else cell
        for cell in cells
    ]
    note = {"cell_type": "markdown", "id": NOTE_ID, "metadata": {}, "source": []}
    cells.insert(1, with_source(note, NOTE.format(version=version)))
    return notebook | {"cells": cells}


def instructor_pages(root: Path) -> list[str]:
    """List the pages of the part "For instructors" in `_toc.yml`, without suffix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    return [
        chapter["file"]
        for part in toc.get("parts", [])
        if part.get("caption") == INSTRUCTORS
        for chapter in part["chapters"]
    ]


def describe_version(root: Path) -> str:
    """The version of the package, and the commit if git knows it."""
    version = f"metaembed-lite {metaembed_lite.__version__}"
    git = ["git", "-c", "safe.directory=*", "-C", str(root)]
    try:
        run = subprocess.run(
            [*git, "describe", "--always", "--dirty=, with changes"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return version  # a download without history
    return f"{version}, commit {run.stdout.strip()}"


def write_student_edition(root: Path, target: Path) -> list[str]:
    """Write the student edition of the book in `root`, replacing `target`.

    Returns:
        the names of the notebooks.

    Raises:
        ValueError: if a notebook cannot be copied. Nothing has been written then.
    """
    version = describe_version(root)
    copies = {
        path.name: student_copy(json.loads(path.read_text(encoding="utf-8")), path.name, version)
        for path in sorted((root / "notebooks").glob("*.ipynb"))
    }
    left_out = [f"{Path(page).name}.md" for page in instructor_pages(root)]
    unneeded = ["__pycache__", "*.py", "slides.*", "llms.txt"]
    with lock(target, "writing the student edition"):
        shutil.rmtree(target, ignore_errors=True)
        (target / "notebooks").mkdir(parents=True)
        for name, copy in copies.items():
            text = json.dumps(copy, indent=1, ensure_ascii=False) + "\n"
            (target / "notebooks" / name).write_text(text, encoding="utf-8")
        shutil.copytree(
            root / "book", target / "book", ignore=shutil.ignore_patterns(*unneeded, *left_out)
        )
    return list(copies)


def main() -> int:
    try:
        names = write_student_edition(ROOT, STUDENT)
    except (ValueError, BlockingIOError) as error:
        print(f"== no student edition: {error}", file=sys.stderr)
        return 1
    print(f"== {len(names)} notebooks without solutions: {STUDENT / 'notebooks'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
