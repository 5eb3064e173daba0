"""A student copy has no solutions, has blanks, and is otherwise the notebook."""

import copy
import json

import make_student
import nbformat
import pytest
from make_student import student_copy

VERSION = "metaembed-lite 1.2, commit abc"


def code(cell_id, source, *tags, **metadata):
    metadata |= {"tags": list(tags)} if tags else {}
    return {
        "cell_type": "code", "id": cell_id, "source": source.splitlines(keepends=True),
        "metadata": metadata, "outputs": [], "execution_count": None,
    }  # fmt: skip


def text(cell_id, source):
    lines = source.splitlines(keepends=True)
    return {"cell_type": "markdown", "id": cell_id, "source": lines, "metadata": {}}


def notebook(*cells):
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def copied(*cells):
    """The cells of a student copy, without the note."""
    copy = student_copy(notebook(text("title", "# 1. Title"), *cells), "01_one.ipynb", VERSION)
    return [cell for cell in copy["cells"] if cell["id"] not in ("title", make_student.NOTE_ID)]


def sources(cells):
    return ["".join(cell["source"]) for cell in cells]


CHAPTER = notebook(
    text("title", "# 1. Title"),
    code("setup", "import math", "remove-cell"),
    code("idea", "best = s.amax(dim=3)\nscore = best.sum(dim=2)", blanks=["amax(dim=3)", "sum"]),
    text("task", "## Exercises\n\n**1.** How many?"),
    code("checks", "check_1 = print", "remove-cell"),
    code("exercise", "answer_1 = None\n\ncheck_1(answer_1)", "exercise", "remove-output"),
    text("solutions", "### Solutions\n\nEach cell unfolds."),
    code("solution", "# 1: because\ncheck_1(80)", "solution", "hide-cell"),
    text("quiz", "## Check yourself\n\nWhy?"),
)


def test_solutions_go_blanks_come_and_everything_else_stays():
    before = copy.deepcopy(CHAPTER)
    student = student_copy(CHAPTER, "01_one.ipynb", VERSION)
    assert before == CHAPTER, "the original is not changed"
    nbformat.validate(nbformat.from_dict(student))
    assert [cell["id"] for cell in student["cells"]] == [
        "title", "student-copy", "setup", "idea", "task", "checks", "exercise", "quiz",
    ]  # fmt: skip
    by_id = {cell["id"]: cell for cell in student["cells"]}
    idea = "".join(by_id["idea"]["source"])
    assert idea == "best = s.____\nscore = best.____(dim=2)"
    for name in ("title", "setup", "task", "checks", "exercise", "quiz"):
        assert by_id[name] in CHAPTER["cells"]


def test_the_answers_are_nowhere_in_the_copy():
    written = json.dumps(student_copy(CHAPTER, "01_one.ipynb", VERSION))
    assert "amax" not in written
    assert "blanks" not in written
    assert "because" not in written
    assert "Solutions" not in written


def test_the_note_names_the_version():
    note = student_copy(CHAPTER, "01_one.ipynb", VERSION)["cells"][1]
    assert note["cell_type"] == "markdown"
    assert VERSION in "".join(note["source"])
    assert "Student copy" in "".join(note["source"])


def test_a_copy_of_a_copy_is_the_same_copy():
    once = student_copy(CHAPTER, "01_one.ipynb", VERSION)
    assert student_copy(once, "01_one.ipynb", VERSION) == once


def test_a_newer_version_replaces_the_note():
    once = student_copy(CHAPTER, "01_one.ipynb", VERSION)
    twice = student_copy(once, "01_one.ipynb", "metaembed-lite 2")
    assert len(twice["cells"]) == len(once["cells"])
    assert "metaembed-lite 2" in "".join(twice["cells"][1]["source"])


def test_what_stands_before_and_after_the_solutions_in_the_same_cell_stays():
    cells = copied(
        text(
            "task", "**3.** Write it.\n\n### Solutions\n\nUnfold them.\n\n## Check yourself\n\nWhy?"
        )
    )
    assert sources(cells) == ["**3.** Write it.\n\n## Check yourself\n\nWhy?"]


def test_the_whole_section_goes_also_what_has_no_tag():
    cells = copied(
        text("solutions", "### Solutions"),
        text("reason", "**1.** Because."),
        code("untagged", "print(80)"),
        code("guard", "assert True", "remove-cell"),
        text("next", "## What you can now do"),
        code("after", "print(1)"),
    )
    assert [cell["id"] for cell in cells] == ["guard", "next", "after"]


def test_a_solution_goes_wherever_it_is():
    assert copied(code("early", "answer = 1", "solution"), code("late", "1")) == [code("late", "1")]


def test_a_heading_in_a_code_block_is_no_heading():
    fenced = "## A\n\n```markdown\n### Solutions\n```\n\nmore"
    assert sources(copied(text("a", fenced))) == [fenced]


def test_outputs_are_removed():
    cell = code("a", "1") | {"outputs": [{"output_type": "stream"}], "execution_count": 3}
    assert copied(cell) == [code("a", "1")]


def test_blanks_are_replaced_in_any_order_and_side_by_side():
    cells = copied(code("a", "f(x, y)", blanks=["y", "x, "]))
    assert sources(cells) == ["f(________)"]


@pytest.mark.parametrize(
    ("source", "blanks", "message"),
    [
        pytest.param("a + b", ["c"], r"01_one.*cell a.*'c' occurs 0 times", id="absent"),
        pytest.param("a + a", ["a"], r"01_one.*cell a.*'a' occurs 2 times", id="twice"),
        pytest.param("aaa", ["aa"], r"'aa' occurs 2 times", id="twice, overlapping itself"),
        pytest.param("a + b", ["a +", "+ b"], r"01_one.*cell a.*overlaps", id="overlapping"),
        pytest.param("a", "a", r"01_one.*cell a.*list of strings", id="no list"),
        pytest.param("a", [], r"01_one.*cell a.*list of strings", id="empty list"),
        pytest.param("a", [""], r"01_one.*cell a.*list of strings", id="empty string"),
        pytest.param("a", [1], r"01_one.*cell a.*list of strings", id="a number"),
        pytest.param("a = ____", ["a"], r"01_one.*cell a.*already contains", id="blank in source"),
    ],
)
def test_a_blank_that_cannot_be_replaced_is_an_error(source, blanks, message):
    with pytest.raises(ValueError, match=message):
        copied(code("a", source, blanks=blanks))


def test_a_text_has_no_blanks():
    with pytest.raises(ValueError, match=r"01_one.*cell a.*only a code cell"):
        copied(text("a", "x") | {"metadata": {"blanks": ["x"]}})


@pytest.fixture
def book(tmp_path):
    """A book with one chapter and a page for instructors."""
    root = tmp_path / "clone"
    (root / "notebooks").mkdir(parents=True)
    (root / "notebooks/01_one.ipynb").write_text(json.dumps(CHAPTER), encoding="utf-8")
    (root / "book/results").mkdir(parents=True)
    for name in ("intro.md", "teaching.md", "answers.md", "make.py", "results/a.json"):
        (root / "book" / name).write_text("{}", encoding="utf-8")
    (root / "_toc.yml").write_text(
        "root: book/intro\nparts:\n"
        "  - caption: Chapters\n    chapters: [{file: notebooks/01_one}]\n"
        "  - caption: For instructors\n"
        "    chapters: [{file: book/teaching}, {file: book/answers}]\n",
        encoding="utf-8",
    )
    return root


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_the_edition_has_notebooks_and_what_they_link_to_and_no_page_for_instructors(book):
    target = book / "_build/student"
    assert make_student.write_student_edition(book, target) == ["01_one.ipynb"]
    assert files(target) == ["book/intro.md", "book/results/a.json", "notebooks/01_one.ipynb"]
    written = json.loads((target / "notebooks/01_one.ipynb").read_text(encoding="utf-8"))
    assert "____" in json.dumps(written)


def test_writing_again_replaces_the_edition(book):
    target = book / "_build/student"
    make_student.write_student_edition(book, target)
    first = (target / "notebooks/01_one.ipynb").read_text(encoding="utf-8")
    (target / "notebooks/old.ipynb").write_text("{}", encoding="utf-8")
    make_student.write_student_edition(book, target)
    assert "notebooks/old.ipynb" not in files(target)
    assert (target / "notebooks/01_one.ipynb").read_text(encoding="utf-8") == first


def test_a_wrong_blank_leaves_the_last_edition_as_it_was(book):
    target = book / "_build/student"
    make_student.write_student_edition(book, target)
    wrong = notebook(text("title", "# T"), code("a", "1", blanks=["2"]))
    (book / "notebooks/02_two.ipynb").write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(ValueError, match=r"02_two\.ipynb, cell a"):
        make_student.write_student_edition(book, target)
    assert "notebooks/01_one.ipynb" in files(target)


def test_main_prints_an_error_and_no_traceback(book, monkeypatch, capsys):
    monkeypatch.setattr(make_student, "ROOT", book)
    monkeypatch.setattr(make_student, "STUDENT", book / "_build/student")
    assert make_student.main() == 0
    assert "1 notebooks without solutions" in capsys.readouterr().out
    wrong = notebook(text("title", "# T"), code("a", "1", blanks=["2"]))
    (book / "notebooks/02_two.ipynb").write_text(json.dumps(wrong), encoding="utf-8")
    assert make_student.main() == 1
    assert "02_two.ipynb" in capsys.readouterr().err


def test_the_version_has_the_commit_if_there_is_one(tmp_path):
    assert ", commit " in make_student.describe_version(make_student.ROOT)
    assert ", commit " not in make_student.describe_version(tmp_path)
