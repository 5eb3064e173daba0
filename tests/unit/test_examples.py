"""Every public function and class shows an example, and the examples run."""

import doctest
import importlib
import inspect
import pkgutil
import typing

import pytest

import metaembed_lite

# The command line shows commands, which its help and the README hold.
WITHOUT_EXAMPLES = {
    "metaembed_lite.cli",
    "metaembed_lite.data_commands",
    "metaembed_lite.doctor_command",
    "metaembed_lite.search_commands",
}

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(metaembed_lite.__path__, "metaembed_lite.")
    if module.name not in WITHOUT_EXAMPLES
)


def public_objects(module):
    """The functions and classes that a module defines under a public name."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not typing.is_typeddict(value)  # only names the keys of a dict
    }


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_example(name):
    objects = public_objects(importlib.import_module(name))
    missing = [key for key, value in objects.items() if ">>>" not in (value.__doc__ or "")]
    assert not missing, f"{name}: without an example in the docstring: {missing}"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_give_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example that writes files writes them here
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(name), optionflags=flags)
    assert result.failed == 0, f"{name}: {result.failed} of {result.attempted} examples failed"
