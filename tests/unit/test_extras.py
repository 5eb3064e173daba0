"""The core works without the packages of the extras, and a missing one is named with its extra."""

import ast
import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from metaembed_lite.extras import extra

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "metaembed_lite"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def packages(lines):
    return {canonicalize_name(Requirement(line).name) for line in lines}


CORE = packages(PROJECT["dependencies"])
OFFERED = {
    name: packages(PROJECT["optional-dependencies"][name])
    for name in ("index", "plots", "benchmarks", "qdrant")
}
BOOK = packages(PROJECT["optional-dependencies"]["book"]) - {PROJECT["name"]}
DISTRIBUTIONS = packages_distributions()
OPTIONAL = {  # every module that an extra brings, and the core does not
    module
    for module, names in DISTRIBUTIONS.items()
    if {canonicalize_name(name) for name in names} & (set().union(*OFFERED.values(), BOOK) - CORE)
}


def run_time_imports(node, extras=()):
    """Pairs of an imported module and the extras whose context surrounds the import."""
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
        return
    if isinstance(node, ast.With):
        calls = [
            item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)
        ]
        extras = (
            *extras,
            *(c.args[0].value for c in calls if getattr(c.func, "id", "") == "extra"),
        )
    if isinstance(node, ast.Import):
        yield from ((alias.name.split(".")[0], extras) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield (node.module.split(".")[0], extras)
    for child in ast.iter_child_nodes(node):
        yield from run_time_imports(child, extras)


def imports(file):
    return list(run_time_imports(ast.parse(file.read_text(encoding="utf-8"))))


def test_every_import_of_an_optional_package_names_the_extra_that_brings_it():
    found = 0
    for file in PACKAGE.rglob("*.py"):
        first = imports(file.with_name("__init__.py")) if file.parent != PACKAGE else []
        of_package = {module: extras for module, extras in first if extras}  # runs before the file
        for module, extras in imports(file):
            if module in OPTIONAL:
                found += 1
                extras = extras or of_package.get(module, ())
                assert extras, f"{file} imports {module} outside `with extra(...)`"
                brought = set().union(*(OFFERED[name] for name in extras))
                names = {canonicalize_name(name) for name in DISTRIBUTIONS[module]}
                assert names & brought, f"{file}: {module} does not come with {extras}"
    assert found >= 20


PROGRAM = """
import json, sys
from importlib.abc import MetaPathFinder

OPTIONAL = set(json.loads(sys.argv[1]))

class Blocker(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())

import tempfile
from typer.testing import CliRunner
import metaembed_lite
from metaembed_lite import build, load, load_task, sweep, train
from metaembed_lite.cli import app

task = load_task("stickers", n_queries=4, n_train=8, side=2)
model = build("tiny-vlm", r_q=2, r_c=4, dim=8, lora_rank=2, device="cpu")
folder = tempfile.mkdtemp() + "/model"
train(model, task.train, steps=1, batch_size=4, log_steps=1, output=folder)
table = sweep(load(folder, device="cpu"), task)
assert table.p_at_1.notna().all() and len(table) >= 2

messages = {}
def record(name, call):
    try:
        call()
    except ImportError as error:
        messages[name] = str(error)
    else:
        messages[name] = "no error"

import importlib
for module in ("index", "index.columns", "indexing", "search_app.app", "search_app.request",
               "plots", "canvas", "drawings", "drawings.game", "explorer.widget",
               "explorer.stepper"):
    record(module, lambda: importlib.import_module("metaembed_lite." + module))
record("MetaIndex", lambda: metaembed_lite.MetaIndex)
record("BudgetExplorer", lambda: metaembed_lite.BudgetExplorer)
from metaembed_lite import mteb_bridge
record("mteb", lambda: mteb_bridge.evaluate(model, "ViDoRe(v2)"))
for arguments in (["index", "tiny", "stickers"], ["search", "an-index", "violin"],
                  ["serve", "an-index"], ["evaluate", "tiny", "--benchmark", "ViDoRe(v2)"]):
    done = CliRunner().invoke(app, arguments)
    messages["metaembed-lite " + arguments[0]] = f"{done.exit_code} {done.stderr}"
print(json.dumps(messages))
"""


def test_the_core_trains_encodes_and_evaluates_without_the_extras(tmp_path):
    """One process that can import none of their packages."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(sorted(OPTIONAL))],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    messages = json.loads(run.stdout.splitlines()[-1])
    of_extra = {
        "index": ("index", "index.columns", "indexing", "search_app.app", "search_app.request",
                  "MetaIndex", "metaembed-lite index", "metaembed-lite search",
                  "metaembed-lite serve"),
        "plots": ("plots", "canvas", "drawings", "drawings.game", "explorer.widget",
                  "explorer.stepper", "BudgetExplorer"),
        "benchmarks": ("mteb", "metaembed-lite evaluate"),
    }  # fmt: skip
    assert set(messages) == {name for names in of_extra.values() for name in names}
    for name, places in of_extra.items():
        for place in places:
            assert f"is not installed: pip install 'metaembed-lite[{name}]'" in messages[place], (
                place
            )
    for command in ("index", "search", "serve", "evaluate"):
        message = messages[f"metaembed-lite {command}"]
        assert message.startswith("2 error: ")
        assert message.count("\n") == 1, "one line and no traceback"


def test_an_extra_names_the_package_that_is_missing_and_keeps_other_errors():
    with (
        pytest.raises(ModuleNotFoundError, match="a_database is not installed") as caught,
        extra("index"),
    ):
        import a_database.tables  # noqa: F401
    assert caught.value.name == "a_database"
    with pytest.raises(ImportError, match="cannot import name 'no_such_name'"), extra("index"):
        from pathlib import no_such_name  # noqa: F401
