"""Format, lint, types, and no private names of other libraries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from private_names import code_files, private_uses, read

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["ruff", "check", "."], id="lint"),
        pytest.param(["ruff", "format", "--check", "--diff", "."], id="format"),
        pytest.param(["mypy"], id="types"),
    ],
)
def test_format_lint_and_types_are_clean(command):
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_no_private_name_of_another_library_is_used():
    uses = private_uses(code_files())
    assert not uses, "\n".join(uses)


OVERRIDE = "from sentence_transformers.base.modules import Transformer\nclass Mine(Transformer):\n"


@pytest.mark.parametrize(
    ("code", "names"),
    [
        pytest.param("def f(model): return model.config._attn_implementation",
                     ["_attn_implementation"], id="an attribute"),
        pytest.param("def f(model): model._weights = 1", ["_weights"], id="an assignment"),
        pytest.param("import torch\ntorch._C", ["_C"], id="an attribute of a module"),
        pytest.param("import torch\n_C = 1\ntorch._C", ["_C"], id="a name that is ours as well"),
        pytest.param("import torch._dynamo", ["_dynamo"], id="an import of a module"),
        pytest.param("from torch._dynamo import config", ["_dynamo"], id="an import from a module"),
        pytest.param("from torch.nn.modules.module import _addindent", ["_addindent"],
                     id="an import of a name"),
        pytest.param("def f(c): return getattr(c, '_flag', None)", ["_flag"], id="a string"),
        pytest.param("def test(monkeypatch): monkeypatch.setattr('torch.nn._x', 1)", ["_x"],
                     id="a string with the module's name"),
        pytest.param(f"{OVERRIDE}    def _load_model(self): ...", ["Transformer._load_model"],
                     id="an overridden method"),
        pytest.param(f"{OVERRIDE}    _DEFAULT_CONFIG_VALUES = {{}}",
                     ["Transformer._DEFAULT_CONFIG_VALUES"], id="an overridden class attribute"),
        pytest.param(f"{OVERRIDE}    def f(self): self._unpad_inputs = True",
                     ["Transformer._unpad_inputs"], id="an overridden attribute of self"),
        pytest.param(f"{OVERRIDE}    def f(self): self._parameters = 1", ["Module._parameters"],
                     id="an overridden attribute of a base's base"),
        pytest.param("from metaembed_lite.meta_tokens import MetaTokenTransformer\n"
                     "class Mine(MetaTokenTransformer):\n    def _should_flatten_inputs(self): ...",
                     ["Transformer._should_flatten_inputs"],
                     id="a method overridden through a class of ours"),
        pytest.param("def f():\n    from torch import nn\n    class Mine(nn.Module):\n"
                     "        def _apply(self, fn): ...", ["Module._apply"],
                     id="a method overridden in a function"),
        pytest.param(f"{OVERRIDE}    def f(self): return self._get_prompt_length('')",
                     ["_get_prompt_length"], id="an inherited method"),
        pytest.param(f"{OVERRIDE}    def f(self): return super()._load_config()",
                     ["_load_config"], id="an inherited method of super"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".py", ".ipynb"])
def test_every_kind_of_use_of_a_private_name_is_found(code, names, suffix, tmp_path):
    file = tmp_path / f"planted{suffix}"
    cell = {"cell_type": "code", "source": ["%matplotlib inline\n", *code.splitlines(True)]}
    file.write_text(json.dumps({"cells": [cell]}) if suffix == ".ipynb" else code)
    uses = private_uses([read(file)], context=code_files())
    assert len(uses) == len(names), uses
    for use, name in zip(uses, names, strict=True):
        assert use.startswith(f"{file}:")
        assert use.endswith(f" {name}")


def test_private_names_of_this_project_and_documented_hooks_are_allowed(tmp_path):
    file = tmp_path / "fine.py"
    file.write_text(
        "import anywidget\n"
        "from metaembed_lite.mteb_bridge import _tasks\n"
        "class Widget(anywidget.AnyWidget):\n"
        "    _esm = ''\n"
        "    def __init__(self): self._size = 3\n"
        "    def _double(self): return 2 * self._size\n"
        "    def _repr_mimebundle_(self): return super()._repr_mimebundle_()\n"
        "class Wide(Widget):\n"
        "    def width(self): return self._double()\n"
        "def f(widget): return widget._size, widget.__len__()\n"
    )
    assert private_uses([read(file)], context=code_files()) == []
