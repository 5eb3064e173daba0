"""The notebooks are stored without outputs, are accessible, and run from top to bottom.

They run in the profile that METAEMBED_PROFILE names, `smoke` unless it is set.
"""

import ast
import json
import os
from pathlib import Path

import make_book
import pytest

ROOT = Path(__file__).resolve().parents[1]
PROFILE = os.environ.get("METAEMBED_PROFILE", "smoke")
LONGEST_CELL = 25  # lines

# Cells tagged skip-execution or raises-exception: (notebook, cell id) -> why.
NOT_EXECUTED: dict[tuple[str, str], str] = {}

DRAWING_MODULES = {"metaembed_lite.plots", "metaembed_lite.drawings"}
DRAWING_OBJECTS = {"plt", "plots", "ax", "axes", "fig"}
DRAWING_METHODS = {"plot", "imshow", "bar", "barh", "scatter", "hist", "boxplot", "matshow"}
PICTURES = {"image/png", "text/html", "application/vnd.jupyter.widget-view+json"}


def load(name: str) -> dict:
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def alt(cell: dict) -> str:
    return cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")


def parse(code: str) -> ast.Module:
    """The syntax tree of a cell, without its magic lines."""
    lines = [line for line in code.splitlines() if not line.lstrip().startswith(("%", "!"))]
    return ast.parse("\n".join(lines))


def draws(code: str, shared_figures: set[str]) -> bool:
    """Whether running the cell draws: a call outside of any function that it only defines."""
    todo: list[ast.AST] = [parse(code)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            call = node.func
            if isinstance(call, ast.Name) and call.id in shared_figures:
                return True
            if isinstance(call, ast.Attribute):
                owner = call.value.id if isinstance(call.value, ast.Name) else ""
                if owner in DRAWING_OBJECTS or call.attr in DRAWING_METHODS:
                    return True
        todo.extend(ast.iter_child_nodes(node))
    return False


def names_from_plots(notebook: dict) -> set[str]:
    """What the notebook imports from the modules that draw."""
    names = set()
    for cell in code_cells(notebook):
        for node in ast.walk(parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and node.module in DRAWING_MODULES:
                names |= {alias.asname or alias.name for alias in node.names}
    return names


every_notebook = pytest.mark.parametrize("name", make_book.notebooks())


def test_the_table_of_contents_lists_every_notebook():
    stored = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert stored == sorted(make_book.notebooks())


@every_notebook
def test_a_notebook_is_stored_without_outputs_and_machine_data(name):
    notebook = load(name)
    for cell in code_cells(notebook):
        assert cell["outputs"] == [], f"{name}: outputs stored below\n{source(cell)}"
        assert cell["execution_count"] is None, f"{name}: execution count stored"
        assert "execution" not in cell["metadata"], f"{name}: timing stored"
    metadata = notebook["metadata"]
    assert metadata.get("kernelspec", {}).get("name", "python3") == "python3"
    assert "version" not in metadata.get("language_info", {})
    assert "widgets" not in metadata


@every_notebook
def test_cells_fit_on_a_screen(name):
    lengths = [(len(source(cell).splitlines()), source(cell)) for cell in code_cells(load(name))]
    long = [text for length, text in lengths if length > LONGEST_CELL]
    assert not long, f"{name}: move code to the module from\n{long[0]}"


@every_notebook
def test_cells_that_draw_describe_their_picture(name):
    notebook = load(name)
    shared = names_from_plots(notebook)
    missing = [source(c) for c in code_cells(notebook) if draws(source(c), shared) and not alt(c)]
    assert not missing, (
        f'{name}: metadata {{"mystnb": {{"image": {{"alt": "..."}}}}}} on\n{missing[0]}'
    )


def test_every_cell_that_is_not_executed_has_a_reason():
    tagged = {
        (name, cell.get("id", ""))
        for name in make_book.notebooks()
        for cell in code_cells(load(name))
        if {"skip-execution", "raises-exception"} & set(cell["metadata"].get("tags", []))
    }
    assert tagged == set(NOT_EXECUTED)
    assert all(NOT_EXECUTED.values())


def printed(cell: dict) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def check_verdicts(name: str, cells: list[dict]) -> None:
    """Each solution is right, and an exercise that nobody touched is not."""
    for cell in cells:
        tags = set(cell["metadata"].get("tags", []))
        verdicts = [line.partition(":")[0] for line in printed(cell).splitlines()]
        if "solution" in tags:
            assert verdicts.count("Right") == 1, f"{name}: {printed(cell)}\nfor\n{source(cell)}"
            assert "Not yet" not in verdicts
        if "exercise" in tags:
            assert verdicts == ["Not answered yet."], (
                f"{name}: {printed(cell)}\nfor\n{source(cell)}"
            )


@every_notebook
@pytest.mark.timeout(0)
def test_runs_from_top_to_bottom(name, capfd):
    with capfd.disabled():  # show progress
        print()
        make_book.execute(name, PROFILE)
    executed = make_book.EXECUTED / PROFILE / "notebooks" / f"{name}.ipynb"
    cells = code_cells(json.loads(executed.read_text(encoding="utf-8")))
    check_verdicts(name, cells)
    for cell in cells:
        pictures = [o for o in cell["outputs"] if "image/png" in o.get("data", {})]
        assert not pictures or alt(cell), (
            f"{name}: an image without alt text, drawn by\n{source(cell)}"
        )
        shown = {kind for o in cell["outputs"] for kind in o.get("data", {})} & PICTURES
        assert shown or not alt(cell), f"{name}: alt text, but no image, of\n{source(cell)}"
