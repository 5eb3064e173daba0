"""The layers of the package: imports go one way, from the command line down to the base."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "metaembed_lite"

# From bottom to top. A module may import from the layers below its own and from no other.
LAYERS = [
    "extras",
    "arguments timing locking results exercises canvas thumbnails progress chat_templates",
    "budget items backbones model_folder schedule trainable",
    "model_card",
    "scoring plain_text checkpoints settings hub",
    "data adapter clustering index",
    "saved_model",
    "item_transformer",
    "meta_tokens pooling",
    "false_negatives attention_clustering",
    "encoder",
    "losses model loading saving interpretability",
    "baselines evaluation training_run memory provenance",
    "callbacks validation mteb_bridge plots threshold",
    "best_checkpoint",
    "training explorer drawings explanation",
    "recipes diagnosis",
    "indexing search_app",
    "data_commands doctor_command search_commands",
    "cli",
]
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer.split()}


def module_files():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def dotted(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in module_files()}


def homes():
    """The module of each name of the package itself, as in ``from metaembed_lite import train``."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: node.module.removeprefix("metaembed_lite.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metaembed_lite.")
        for alias in node.names
    }


HOMES = homes()


def without_type_checking(tree):
    """The nodes that run: not those below ``if TYPE_CHECKING``."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            todo.extend(node.orelse)
            continue
        yield node
        todo.extend(ast.iter_child_nodes(node))


def imported(source):
    """The modules of this package that a source text imports, also inside functions."""
    modules = set()
    for node in without_type_checking(ast.parse(source)):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            module = node.module or ""
            candidates = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in candidates:
            if not name.startswith("metaembed_lite"):
                continue
            name = name.removeprefix("metaembed_lite").removeprefix(".")
            name = HOMES.get(name, name)
            while name and name not in NAMES:
                name = name.rpartition(".")[0]
            modules.add(name)
    return modules - {""}


GRAPH = {dotted(path): imported(path.read_text(encoding="utf-8")) for path in module_files()}


def test_imports_have_no_cycle():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the cycle


def test_every_module_is_in_a_layer():
    tops = {name.split(".")[0] for name in NAMES}
    assert tops == set(LEVEL), f"missing {tops - set(LEVEL)}, gone {set(LEVEL) - tops}"


def wrong_ways(graph):
    """Imports that do not go from a higher layer to a lower one."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if (mine := name.split(".")[0]) != (its := other.split(".")[0])
        and LEVEL[mine] <= LEVEL[its]
    ]


def test_imports_go_down_the_layers():
    assert not wrong_ways(GRAPH)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from metaembed_lite.budget import Budget", {"budget"}),
        ("from metaembed_lite import memory, training_run", {"memory", "training_run"}),
        ("def f():\n    import metaembed_lite.data.rows", {"data.rows"}),
        ("from metaembed_lite import train", {"training"}),
        ("if TYPE_CHECKING:\n    from metaembed_lite.training import train", set()),
    ],
)
def test_imports_of_every_form_are_found(source, expected):
    assert imported(source) == expected


def test_an_import_up_the_layers_is_found():
    assert wrong_ways({"budget": {"training"}}) == ["budget imports training"]
