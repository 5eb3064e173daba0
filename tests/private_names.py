"""Finds private names of other libraries in this project's code.

A name that starts with one underscore belongs to the library that defines it, which may change it
in any release. Three kinds of use are found:

- a private name that is read, imported, or named in a string for ``getattr`` and similar functions
- a private member that is inherited and used
- a private member that is overridden, also by accident
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("metaembed_lite", "benchmarks", "book", "notebooks", "tests")
# Names with an underscore that their library documents for its users.
DOCUMENTED = {
    "_repr_mimebundle_": "Jupyter's hook for the display of an object",
    "_esm": "anywidget's front end of a widget",
    "_css": "anywidget's style of a widget",
    "_replace": "a method of every named tuple",
}
BY_STRING = {"getattr", "setattr", "hasattr", "delattr"}


def is_private(name: str) -> bool:
    """Whether a name starts with an underscore and is no special method such as ``__len__``.

    Example:
        >>> [is_private(name) for name in ("_load", "__len__", "_", "load")]
        [True, False, False, False]
    """
    special = name.startswith("__") and name.endswith("__")
    return name.startswith("_") and bool(name.strip("_")) and not special


@dataclass
class Class:
    """A class of this project: what it defines, and the expressions of its bases."""

    node: ast.ClassDef
    file: File
    names: set[str] = field(default_factory=set)  # in its body and on ``self``


@dataclass
class File:
    """A file of code: its tree, what it imports by full name, and what it defines."""

    path: Path
    tree: ast.Module
    imports: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    classes: list[Class] = field(default_factory=list)


@cache
def code_files() -> list[File]:
    """Every Python file and notebook of the project."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    return [
        read(path)
        for path in paths
        if path.suffix in (".py", ".ipynb") and "_build" not in path.parts
    ]


def read(path: Path) -> File:
    """A Python file, or the code cells of a notebook without its magic commands."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
        text = "\n".join("pass" if line.startswith(("%", "!")) else line for line in lines)
    file = File(path, ast.parse(text))
    file.names = set(_defined(file.tree))
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ClassDef):
            file.classes.append(Class(node, file, set(filter(is_private, _defined(node)))))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                file.imports[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                file.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return file


def private_uses(files: Iterable[File], context: Iterable[File] = ()) -> list[str]:
    """One line for each use of another library's private name: file, line number, code.

    Args:
        files: to search.
        context: more files of the project, whose names are the project's own.
    """
    files = list(files)
    project = Project([*files, *context])
    return [
        f"{file.path}:{node.lineno}: {problem}"
        for file in files
        for node, problem in project.problems(file)
    ]


class Project:
    """The modules, classes and private names that the project defines."""

    def __init__(self, files: list[File]) -> None:
        self.modules = {*FOLDERS, *(file.path.stem for file in files)}
        self.names = set().union(*(file.names for file in files))
        self.classes: dict[str, list[Class]] = {}
        for definition in itertools.chain.from_iterable(file.classes for file in files):
            self.classes.setdefault(definition.node.name, []).append(definition)

    def is_foreign(self, full_name: str) -> bool:
        """Whether a module, or what it defines, belongs to another library."""
        return full_name.partition(".")[0] not in self.modules

    def problems(self, file: File) -> Iterator[tuple[Any, str]]:
        """The nodes of a file that use a private name of another library, with a description."""
        for definition in file.classes:
            for name, base in self._overridden(definition):
                class_name = definition.node.name
                yield definition.node, f"class {class_name} overrides {base.__qualname__}.{name}"
        owners = {definition.node: definition for definition in file.classes}
        for node, class_node in _with_class(file.tree):
            for name in self._foreign_names(node, owners.get(class_node), file):
                if name not in DOCUMENTED:
                    yield node, f"{ast.unparse(node)[:80]} uses {name}"

    def _foreign_names(self, node: ast.AST, owner: Class | None, file: File) -> Iterator[str]:
        match node:
            case ast.Import():
                for alias in node.names:
                    yield from self._private_parts(alias.name)
            case ast.ImportFrom(level=0):
                for alias in node.names:
                    yield from self._private_parts(f"{node.module}.{alias.name}")
            case ast.Call() if _called(node) in BY_STRING:
                for argument in node.args[:2]:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        parts = filter(is_private, argument.value.split("."))
                        yield from (name for name in parts if name not in self.names)
            case ast.Attribute(attr=name) if is_private(name):
                root = node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                imported = file.imports.get(root.id) if isinstance(root, ast.Name) else None
                if imported is not None and self.is_foreign(imported):
                    yield name
                elif owner is not None and ast.unparse(node.value) in ("self", "cls", "super()"):
                    if name not in self._own_names(owner):
                        yield name
                elif name not in self.names:
                    yield name

    def _private_parts(self, full_name: str) -> Iterator[str]:
        if self.is_foreign(full_name):
            yield from filter(is_private, full_name.split("."))

    def _own_names(self, definition: Class) -> set[str]:
        """The private names that a class and its bases in the project define."""
        bases = [base for base in self._bases(definition) if isinstance(base, Class)]
        return definition.names.union(*map(self._own_names, bases))

    def _overridden(self, definition: Class) -> Iterator[tuple[str, type]]:
        """Private members of a class that a base class of another library has too."""
        for base in self._foreign_bases(definition) if definition.names else ():
            for name in sorted(definition.names & members(base) - DOCUMENTED.keys()):
                yield name, base

    def _foreign_bases(self, definition: Class) -> Iterator[type]:
        """The classes of other libraries that a class inherits from, directly or not."""
        for base in self._bases(definition):
            if isinstance(base, Class):
                yield from self._foreign_bases(base)
            else:
                yield from getattr(base, "__mro__", ())  # NamedTuple is a function

    def _bases(self, definition: Class) -> Iterator[Any]:
        """The direct bases of a class, each a ``Class`` of this project or another library's."""
        for expression in definition.node.bases:
            text = ast.unparse(expression).partition("[")[0]  # Generic[T]
            first, *rest = text.split(".")
            full_name = ".".join([definition.file.imports.get(first, first), *rest])
            if first in definition.file.imports and self.is_foreign(full_name):
                yield find(full_name)
            elif full_name.rpartition(".")[2] in self.classes:
                yield from self.classes[full_name.rpartition(".")[2]]
            elif hasattr(builtins, text):
                yield getattr(builtins, text)
            elif not isinstance(expression, ast.Call):
                raise NameError(f"{definition.file.path}: the base {text} was not found")


def find(full_name: str) -> Any:
    """A module, or what it defines, by its full name.

    Example:
        >>> find("collections.abc.Mapping").__name__
        'Mapping'
    """
    parts = full_name.split(".")
    value = importlib.import_module(parts[0])
    for index, part in enumerate(parts[1:], start=2):
        if not hasattr(value, part):
            importlib.import_module(".".join(parts[:index]))
        value = getattr(value, part)
    return value


@cache
def members(base: type) -> frozenset[str]:
    """Names in the body of a class, and those that its methods set on ``self``."""
    try:
        source = inspect.getsource(base)
    except (OSError, TypeError):  # a builtin, or a class written in C
        source = ""
    on_self = re.findall(r"\bself\.(\w+)\s*(?::[^=\n]+)?=(?!=)", source)
    return frozenset({*vars(base), *getattr(base, "__annotations__", {}), *on_self})


def _defined(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes and variables in a tree, and of attributes of ``self``."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name


def _with_class(
    node: ast.AST, owner: ast.ClassDef | None = None
) -> Iterator[tuple[Any, ast.ClassDef | None]]:
    """Every node of a tree, with the class around it."""
    for child in ast.iter_child_nodes(node):
        yield child, owner
        yield from _with_class(child, child if isinstance(child, ast.ClassDef) else owner)


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
