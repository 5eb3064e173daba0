"""Tests run in several processes at once: `make test` passes `-n auto` to pytest-xdist.

A file of tests runs in one process, because its tests share fixtures. All tests that execute
notebooks or read the built site run in one process, because only one may build the book at a time.
They start first, because they take longest.
"""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BOOK = ("test_notebooks.py", "site/")  # below this folder: they execute notebooks or need the site


def group_of(file: Path) -> str:
    """The group of a file of tests. Tests of one group run in one process."""
    name = file.relative_to(TESTS).as_posix()
    return "book" if name.startswith(BOOK) else name


def pytest_itemcollected(item: pytest.Item) -> None:
    """Name the group of a test. xdist reads it when all tests are collected."""
    item.add_marker(pytest.mark.xdist_group(group_of(item.path)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the book first, if several processes run the tests. The others keep their order."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: group_of(item.path) != "book")
