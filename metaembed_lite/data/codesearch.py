"""Search your own Python environment: real text, and nothing to download.

A query is the first sentence of a function's docstring. Its candidate is the function's source
without the docstring and with the function's name hidden.
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

ABOUT = """\
Search your own Python environment: real text, and nothing to download.

A query is the first sentence of a function's docstring. Its candidate is the function's source
without the docstring and with the function's name hidden. The functions come from the standard
library and from the packages that metaembed-lite depends on.
"""
# Splits are by package. Exact duplicates across splits (the same sentence or the same code) are
# kept only in the first one.
PACKAGES = {
    "test": ("sklearn", "matplotlib"),
    "train": ("stdlib", "numpy", "pandas", "scipy"),
    "validation": ("accelerate", "datasets", "peft", "sentence_transformers"),
}
# Skipped: tests, and copies of other packages, which would bring one split's code into another.
SKIPPED_FOLDERS = {
    "test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages",
    "dist-packages", "externals", "extern", "vendor", "_vendor", "__pycache__",
}  # fmt: skip
QUERY_LENGTH = (20, 200)  # characters
CODE_LENGTH = (80, 1000)  # characters. Functions outside this range are left out, not cut
HIDDEN_NAME = "f"
NAMING_ATTRIBUTES = ("name", "id", "attr", "arg", "asname")  # where syntax nodes keep a name

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function: its package, the first sentence of its docstring, and its stripped source.

    Example:
        >>> Function("example", "Return twice the value.", "def f(x):\\n    return 2 * x").package
        'example'
    """

    package: str
    query: str
    code: str


def extract_summary(docstring: str) -> str | None:
    """Extract the first sentence of a docstring, on one line, or None if it cannot be a query.

    Example:
        >>> extract_summary("Visit every node\\n of a tree. Then stop.")
        'Visit every node of a tree.'
        >>> extract_summary("Too short.") is None
        True
    """
    sentence = re.split(r"\n\s*\n|(?<=[.])\s", docstring.strip())[0]
    sentence = " ".join(sentence.split())
    fits = QUERY_LENGTH[0] <= len(sentence) <= QUERY_LENGTH[1] and sentence.count(" ") >= 3
    is_section = "---" in sentence  # "Parameters ----------": there is no first sentence
    return sentence if fits and sentence[0].isalpha() and not is_section else None


def strip_source(function: Definition) -> str:
    """Return a function's source with its name hidden, without docstrings, comments, decorators.

    Decorators are removed because some carry the documentation. Changes the tree in place.

    Example:
        >>> (function,) = ast.parse("@cache\\ndef fib(n):\\n    return fib(n - 1)").body
        >>> strip_source(function)
        'def f(n):\\n    return f(n - 1)'
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


def find_functions(source: str, package: str) -> Iterator[Function]:
    """Find a module's usable functions, then its classes' methods, in the order of the source.

    Functions inside functions are left out, because the outer one would be a second right answer.

    Example:
        >>> source = '''
        ... def mean(values):
        ...     "Return the arithmetic mean of some values."
        ...     total = sum(values, start=0.0)
        ...     count = len(values) or 1
        ...     return total / count
        ... '''
        >>> [function.query for function in find_functions(source, "example")]
        ['Return the arithmetic mean of some values.']
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
            query = extract_summary(ast.get_docstring(node) or "")
            if query is None:
                continue
            code = strip_source(node)
            if CODE_LENGTH[0] <= len(code) <= CODE_LENGTH[1]:
                yield Function(package, query, code)


def list_python_files(package: str) -> Iterator[Path]:
    """List a package's source files, in the same order on every machine.

    Args:
        package: the name to import, or "stdlib".

    Raises:
        ValueError: if the package is not installed.

    Example:
        >>> next(list_python_files("peft")).name
        '__init__.py'
    """
    if package == "stdlib":
        root = sysconfig.get_path("stdlib")
    else:
        spec = util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(
                f"package {package!r} is not installed, and codesearch reads it: install what "
                "metaembed-lite depends on (pip install metaembed-lite)"
            )
        root = spec.submodule_search_locations[0]
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
        yield from (Path(folder, file) for file in sorted(files) if file.endswith(".py"))


@cache
def read_package(package: str) -> tuple[Function, ...]:
    """Read the usable functions of an installed package. Takes seconds, once per process.

    Raises:
        ValueError: if the package is not installed.

    Example:
        >>> read_package("peft")[0].package
        'peft'
    """
    functions: list[Function] = []
    for file in list_python_files(package):
        try:
            with tokenize.open(file) as stream:
                source = stream.read()
            functions.extend(find_functions(source, package))
        except (SyntaxError, UnicodeDecodeError):
            continue  # some packages ship templates that end in .py and are not Python
    return tuple(functions)


@cache
def load_functions(split: str) -> tuple[Function, ...]:
    """Load a split's functions, without duplicates of a query or code, also across earlier splits.

    Raises:
        ValueError: on an unknown split, or a package that is not installed.

    Example:
        >>> load_functions("exam")
        Traceback (most recent call last):
        ...
        ValueError: unknown split 'exam'; choose from train, validation, test
    """
    check_split(split)
    earlier = list(PACKAGES)[: list(PACKAGES).index(split)]
    used = {
        key for other in earlier for function in load_functions(other) for key in _keys(function)
    }
    functions = []
    for package in PACKAGES[split]:
        for function in read_package(package):
            if used.isdisjoint(_keys(function)):
                used.update(_keys(function))
                functions.append(function)
    return tuple(functions)


def _keys(function: Function) -> tuple[str, str]:
    return function.query.casefold(), function.code


def _sample_functions(split: str, n: int, rng: np.random.Generator) -> list[Function]:
    """Sample ``n`` different functions of a split, in random order."""
    functions = load_functions(split)
    if n > len(functions):
        raise ValueError(
            f"{n:,} functions requested of the {split} split, which has {len(functions):,} in "
            f"{', '.join(PACKAGES[split])}; request fewer (a query takes two, its function and a "
            "distractor)"
        )
    return [functions[i] for i in rng.permutation(len(functions))[:n]]


def training_rows(n: int, seed: int = 0) -> Dataset:
    """Sample ``n`` rows (query, positive): a docstring's first sentence, the stripped source.

    Raises:
        ValueError: if the installed packages have fewer functions, or a package is missing.

    Example:
        >>> training_rows(2).column_names  # doctest: +SKIP
        ['query', 'positive']
    """
    functions = _sample_functions("train", n, training_rng(seed))
    return Dataset.from_dict(
        {"query": [f.query for f in functions], "positive": [f.code for f in functions]}
    )


def load_codesearch(
    n_queries: int = 500, n_train: int = 4_000, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Load the task: docstring sentence to function source, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' functions, half are other functions of the same
    packages. One candidate is relevant per query. Training rows come from other packages.

    Args:
        n_queries: number of queries. Defaults to 500.
        n_train: number of training rows. Defaults to 4,000.
        seed: random seed of the sampling. Defaults to 0.
        split: "train", "validation" or "test". Each reads other packages. Defaults to "test".

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, more functions than are
            installed, or an unknown split.

    Example:
        >>> load_codesearch(n_queries=5, n_train=0)
        RetrievalTask('codesearch': 5 queries, 10 candidates, 0 training rows)
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    functions = _sample_functions(split, 2 * n_queries, rng)
    return RetrievalTask(
        name="codesearch",
        queries=[f.query for f in functions[:n_queries]],
        candidates=[f.code for f in functions],
        relevance=np.eye(n_queries, 2 * n_queries, dtype=np.float32),
        train=training_rows(n_train, seed) if n_train else None,
        about=_describe_split(split),
    )


def _describe_split(split: str) -> str:
    evaluated, trained = (", ".join(map(_describe_package, PACKAGES[s])) for s in (split, "train"))
    return (
        f"{ABOUT}\nQueries and candidates: {evaluated}.\nTraining rows: {trained}.\n"
        "The content depends on the installed versions: the same versions give the same task, "
        "other versions a slightly different one. One function counts as the answer, although "
        "another may do nearly the same, so no model can be right every time."
    )


def _describe_package(package: str) -> str:
    """Return a package's name as pip knows it, and its version."""
    if package == "stdlib":
        return f"Python {platform.python_version()}'s standard library"
    distribution = {"sklearn": "scikit-learn"}.get(package, package)
    return f"{distribution} {metadata.version(distribution)}"
