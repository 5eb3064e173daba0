"""The student copies of the book's own notebooks: they run up to their first blank."""

import json
import re

import make_student
import nbformat
import pytest
from make_student import BLANK, source, student_copy
from nbclient import NotebookClient

STORED = {
    path.name: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((make_student.ROOT / "notebooks").glob("*.ipynb"))
}
COPIES = {name: student_copy(stored, name, "the tests") for name, stored in STORED.items()}


def blanked_cells(notebook: dict) -> list[dict]:
    """List the code cells that list blanks in their metadata."""
    return [cell for cell in notebook["cells"] if cell["metadata"].get("blanks")]


WITH_BLANKS = [name for name, stored in STORED.items() if blanked_cells(stored)]


@pytest.mark.parametrize("name", STORED)
def test_a_copy_has_no_solution_and_no_list_of_blanks(name):
    for cell in COPIES[name]["cells"]:
        assert "solution" not in cell["metadata"].get("tags", [])
        assert "blanks" not in cell["metadata"]
        assert not re.search(r"^#+ Solutions", source(cell), re.M)
    nbformat.validate(nbformat.from_dict(COPIES[name]))


@pytest.mark.parametrize("name", WITH_BLANKS)
def test_filling_in_the_blanks_gives_the_original(name):
    copied = {cell["id"]: source(cell) for cell in COPIES[name]["cells"]}
    for cell in blanked_cells(STORED[name]):
        if cell["id"] not in copied:
            continue  # a solution
        original, filled = source(cell), copied[cell["id"]]
        assert filled.count(BLANK) == len(cell["metadata"]["blanks"])
        for blank in sorted(cell["metadata"]["blanks"], key=original.index):
            filled = filled.replace(BLANK, blank, 1)
        assert filled == original


@pytest.mark.parametrize("name", WITH_BLANKS)
@pytest.mark.timeout(600)
def test_a_copy_runs_up_to_its_first_blank(name, tmp_path, monkeypatch):
    make_student.write_student_edition(make_student.ROOT, tmp_path / "student")
    folder = tmp_path / "student" / "notebooks"
    notebook = nbformat.read(folder / name, as_version=4)
    codes = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    first = next(i for i in codes if BLANK in notebook.cells[i].source)
    notebook.cells = notebook.cells[:first]
    monkeypatch.setenv("METAEMBED_PROFILE", "smoke")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()


def test_every_chapter_from_1_on_has_two_cells_with_blanks():
    chapters = [name for name in STORED if re.match(r"(?!00)\d\d_", name)]
    assert len(chapters) >= 8
    assert [name for name in chapters if len(blanked_cells(STORED[name])) < 2] == []
