"""Search your own Python environment: real text, and nothing to download.

A query is the first sentence of a function's docstring; its candidate is the function's source
without the docstring and with the function's own name hidden. The functions come from the standard
library and from packages that are installed beside the book.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from datasets import Dataset

from metaembed_lite.data.task import (
    RetrievalTask,
    check_sizes,
    check_split,
    split_rng,
    training_rng,
)

# Whole packages go to one split, so that no author's idiom is in two. What two splits have in
# common all the same (the same sentence, the same code) stays in the first of them.
SPLITS = {
    "test": ("sklearn", "matplotlib"),
    "train": ("stdlib", "numpy", "pandas", "scipy"),
    "validation": ("accelerate", "datasets", "peft", "sentence_transformers"),
}
# Not read: tests, and copies of other packages, which would bring one split's code into another.
SKIPPED_FOLDERS = {
    "test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages",
    "dist-packages", "externals", "extern", "vendor", "_vendor", "__pycache__",
}  # fmt: skip
QUERY_LENGTH = (20, 200)  # characters
CODE_LENGTH = (80, 1000)  # characters; a longer function is left out, not cut
HIDDEN_NAME = "f"
NAMING_ATTRIBUTES = ("name", "id", "attr", "arg", "asname")  # where syntax nodes keep a name

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function that was read: its package, its docstring's first sentence, its bare source."""

    package: str
    query: str
    code: str


def summary(docstring: str) -> str | None:
    """A docstring's first sentence, on one line; None if it has none that can be a query."""
    sentence = re.split(r"\n\s*\n|(?<=[.])\s", docstring.strip())[0]
    sentence = " ".join(sentence.split())
    fits = QUERY_LENGTH[0] <= len(sentence) <= QUERY_LENGTH[1] and sentence.count(" ") >= 3
    is_section = "---" in sentence  # "Parameters ----------": it opens with no sentence at all
    return sentence if fits and sentence[0].isalpha() and not is_section else None


def bare_source(function: Definition) -> str:
    """A function's source with its name hidden, without docstrings, comments and decorators.

    Decorators go because some carry the documentation. The tree that is passed in is changed.
    """
    name = function.name
    function.decorator_list = []
    for node in ast.walk(function):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            documented = ast.get_docstring(node, clean=False) is not None
            node.body = (node.body[1:] or [ast.Pass()]) if documented else node.body
        for attribute in NAMING_ATTRIBUTES:
            if getattr(node, attribute, None) == name:
                setattr(node, attribute, HIDDEN_NAME)
    return ast.unparse(function)


def functions_in(source: str, package: str) -> Iterator[Function]:
    """A module's usable functions, then its classes' methods, in the order of the source.

    Functions inside functions are left out: the outer one would be a second right answer.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        scopes: list[ast.Module | ast.ClassDef] = [ast.parse(source)]
    while scopes:
        for node in scopes.pop(0).body:
            if isinstance(node, ast.ClassDef):
                scopes.append(node)
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or len(node.body) < 3:
                continue  # a docstring and at least two statements
            query = summary(ast.get_docstring(node) or "")
            if query is None:
                continue
            code = bare_source(node)
            if CODE_LENGTH[0] <= len(code) <= CODE_LENGTH[1]:
                yield Function(package, query, code)


def python_files(package: str) -> Iterator[Path]:
    """A package's source files, in the same order on every machine.

    Raises:
        ValueError: if the package is not installed.
    """
    if package == "stdlib":
        root = sysconfig.get_path("stdlib")
    else:
        spec = util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(
                f"package {package!r} is not installed: codesearch reads it; install what "
                "metaembed-lite depends on (pip install metaembed-lite)"
            )
        root = spec.submodule_search_locations[0]
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


@cache
def functions(package: str) -> tuple[Function, ...]:
    """The usable functions of an installed package; read once a process, in a second or a few."""
    found: list[Function] = []
    for file in python_files(package):
        try:
            with tokenize.open(file) as stream:
                source = stream.read()
            found.extend(functions_in(source, package))
        except (SyntaxError, UnicodeDecodeError):
            continue  # packages carry templates that end in .py and are no Python
    return tuple(found)


@cache
def pool(split: str) -> tuple[Function, ...]:
    """A split's functions: no query twice, no code twice, nothing that an earlier split has.

    Raises:
        ValueError: on an unknown split, or a package that is not installed.
    """
    check_split(split)
    earlier = list(SPLITS)[: list(SPLITS).index(split)]
    taken = {key for other in earlier for function in pool(other) for key in _keys(function)}
    kept = []
    for package in SPLITS[split]:
        for function in functions(package):
            if taken.isdisjoint(_keys(function)):
                taken.update(_keys(function))
                kept.append(function)
    return tuple(kept)


def _keys(function: Function) -> tuple[str, str]:
    return function.query.casefold(), function.code


def _draw(split: str, n: int, rng: np.random.Generator) -> list[Function]:
    """``n`` different functions of a split, in random order."""
    functions = pool(split)
    if n > len(functions):
        raise ValueError(
            f"{n:,} functions asked of the {split} split, which has {len(functions):,} in "
            f"{', '.join(SPLITS[split])}: ask for fewer (a query takes two, one is a distractor)"
        )
    return [functions[i] for i in rng.permutation(len(functions))[:n]]


def training_rows(n: int, seed: int = 0) -> Dataset:
    """``n`` rows (query, positive): a docstring's first sentence, the function's bare source."""
    drawn = _draw("train", n, training_rng(seed))
    return Dataset.from_dict(
        {"query": [f.query for f in drawn], "positive": [f.code for f in drawn]}
    )


def codesearch(
    n_queries: int = 500, n_train: int = 4_000, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Docstring sentence to function source, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' own functions, half are other functions of the same
    packages. One candidate is relevant to a query. Training rows come from other packages.

    Raises:
        ValueError: on sizes below one or beyond what is installed, or an unknown split.
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    drawn = _draw(split, 2 * n_queries, rng)
    return RetrievalTask(
        name="codesearch",
        queries=[f.query for f in drawn[:n_queries]],
        candidates=[f.code for f in drawn],
        relevance=np.eye(n_queries, 2 * n_queries, dtype=np.float32),
        train=training_rows(n_train, seed) if n_train else None,
        about=_about(split),
    )


def _about(split: str) -> str:
    evaluated, trained = (", ".join(map(_version, SPLITS[s])) for s in (split, "train"))
    return (
        f"{(__doc__ or '').strip()}\n\n"
        f"Queries and candidates: {evaluated}.\nTraining rows: {trained}.\n"
        "The content depends on the installed versions: the same versions give the same task, "
        "others a slightly different one. One function counts as the answer, though another may do "
        "nearly the same, so no model can be right every time."
    )


def _version(package: str) -> str:
    """A package with its version, by the name that pip knows it under."""
    if package == "stdlib":
        return f"Python {platform.python_version()}'s standard library"
    distribution = {"sklearn": "scikit-learn"}.get(package, package)
    return f"{distribution} {metadata.version(distribution)}"
