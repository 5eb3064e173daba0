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


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in this hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Group the tests, if several processes run them."""
    if not hasattr(config, "workerinput"):
        return
    items.sort(
        key=lambda item: group_of(item.path) != "book"
    )  # stable: the others keep their order
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item.path)))
