"""Settings of a recipe or a suite, checked against the function that takes them.

Names, types and defaults come from the function's signature, so a mistake is found by name before
any data or model is loaded.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
import sys
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from metaembed_lite.budget import Budget, as_budget, as_budgets


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and a repeated key is an error.

    Example:
        >>> yaml.load("learning_rate: 1e-3", Loader=Loader)
        {'learning_rate': 0.001}
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The dict of a YAML mapping.

        Raises:
            yaml.constructor.ConstructorError: if a key appears twice.
        """
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} appears twice", key.start_mark
                    )
                keys.add(key.value)
        return dict(super().construct_mapping(node, deep))


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse(text: str, source: str) -> Any:
    """The value of a YAML text.

    Args:
        text: YAML.
        source: where the text comes from, for the error.

    Raises:
        ValueError: naming ``source``, if the text is not YAML.

    Example:
        >>> parse("[1x1, 2x4]", "the recipe")
        ['1x1', '2x4']
    """
    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as 2020-13-45
        raise ValueError(f"{source} is not YAML: {error}") from error


def check(
    function: Callable[..., Any],
    values: Mapping[Any, Any],
    owner: str,
    leave_out: Collection[str] = (),
) -> dict[str, Any]:
    """The values as ``function`` takes them. Whole numbers that were written as 1e3 become int.

    Args:
        function: takes the values as keyword arguments.
        values: the values by name, as read from YAML.
        owner: where the values come from, for errors, such as "recipe tiny: train".
        leave_out: parameters that a recipe may not set. Defaults to none.

    Raises:
        ValueError: on an unknown or a missing name, or a value of a wrong type.

    Example:
        >>> def repeat(text: str, times: int = 2) -> str: ...
        >>> check(repeat, {"text": "a", "times": 1e3}, "my recipe")
        {'text': 'a', 'times': 1000}
        >>> check(repeat, {"text": "a", "time": 3}, "my recipe")
        Traceback (most recent call last):
        ...
        ValueError: my recipe has no 'time'. Did you mean 'times'? It has text, times
    """
    hints = parameters(function)
    known = [name for name in hints if name not in leave_out]
    for name in values:
        if name not in known:
            matches = difflib.get_close_matches(str(name), known, n=1)
            suggestion = f" Did you mean {matches[0]!r}?" if matches else ""
            names = ", ".join(sorted(known))
            raise ValueError(f"{owner} has no {name!r}.{suggestion} It has {names}")
    for name in known:
        required = inspect.signature(function).parameters[name].default is inspect.Parameter.empty
        if required and name not in values:
            raise ValueError(f"{owner}: missing a required argument: {name!r}")
    return {name: _check_value(value, hints[name], owner, name) for name, value in values.items()}


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of a function and their types. A type that cannot be imported is ``Any``.

    Args:
        function: a function, also a decorated or a partial one.

    Example:
        >>> def repeat(text: str, times: int = 2) -> str: ...
        >>> parameters(repeat)
        {'text': <class 'str'>, 'times': <class 'int'>}
    """
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner)
    hints = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = parameter.annotation
        if isinstance(hint, str):
            hint = _evaluate(hint, getattr(inner, "__globals__", {}))
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            hints[name] = Any if hint is parameter.empty else hint
    return hints


def _evaluate(hint: str, names: dict[str, Any]) -> Any:
    def annotated() -> None: ...

    # One hint at a time, because others may name types that are not imported at run time.
    annotated.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(annotated, names)["hint"]
    except NameError:
        return Any


UNIONS = (Union, types.UnionType)
IN_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a text",
    None: "null",
    types.NoneType: "null",
}


MISFIT = object()  # returned for a value that does not fit its type


def _check_value(value: Any, hint: Any, owner: str, name: str) -> Any:
    converted = _convert(value, hint)
    if converted is MISFIT:
        expected, remedy = " or ".join(_describe(hint)), _remedy(value, hint)
        raise ValueError(f"{owner}: {name} is {_show(value)}; expected {expected}{remedy}")
    return converted


def _convert(value: Any, hint: Any) -> Any:
    """The value as a type has it, or ``MISFIT``."""
    origin, parts = get_origin(hint), get_args(hint)
    fits = False
    if hint is Any:
        return value
    if hint in (int, float):
        return _convert_number(value, hint)
    if origin in UNIONS:
        if Budget in parts and value is not None:  # pairs and texts, which only Budget can judge
            return _check_budgets(value, several=_has_lists_of_budgets(parts))
        converted = (_convert(value, part) for part in parts)
        return next((item for item in converted if item is not MISFIT), MISFIT)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        fits = isinstance(value, dict)
    elif inspect.isclass(origin) and issubclass(origin, Iterable):
        return _convert_list(value, origin, parts)
    elif origin is Literal:
        fits = any(value == part and type(value) is type(part) for part in parts)
    elif hint in (None, types.NoneType):
        fits = value is None
    elif hint is Budget:
        return _check_budgets(value)
    elif hint in (bool, str, Path):
        fits = isinstance(value, (str, Path) if hint is Path else hint)
    return value if fits else MISFIT


def _check_budgets(value: Any, several: bool = False) -> Any:
    try:
        (as_budgets if several else as_budget)(value)
    except ValueError:
        return MISFIT
    return value if isinstance(value, str | list) else MISFIT


def _has_lists_of_budgets(parts: tuple[Any, ...]) -> bool:
    """Whether a union takes several budgets, as ``budget.Budgets`` does."""
    return any(Budget in get_args(item) for part in parts for item in get_args(part))


def _convert_number(value: Any, hint: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are Real too
        return MISFIT
    number: Any = value
    if hint is float and abs(number) <= sys.float_info.max:
        return float(number)
    if hint is int and (isinstance(number, Integral) or float(number).is_integer()):
        return int(number)
    return MISFIT


def _convert_list(value: Any, origin: type, parts: tuple[Any, ...]) -> Any:
    if not isinstance(value, list):
        return MISFIT
    hints = [parts[0] if parts else Any] * len(value)
    if issubclass(origin, tuple) and Ellipsis not in parts:
        hints = list(parts)
        if len(value) != len(hints):
            return MISFIT
    items = [_convert(item, hint) for item, hint in zip(value, hints, strict=True)]
    return MISFIT if any(item is MISFIT for item in items) else items


def _describe(hint: Any) -> list[str]:
    """What a recipe can write for a type, in words. A union has several."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Budget:
        return ["a budget such as 4x8"]
    if origin in UNIONS and Budget in parts:
        null = ["null"] if types.NoneType in parts else []
        lists = ["a list of budgets"] if _has_lists_of_budgets(parts) else []
        return [*null, *lists, *_describe(Budget)]
    if origin in UNIONS:
        words = dict.fromkeys(words for part in parts for words in _describe(part))
        return sorted(words, key="null".__ne__)  # after "a list, each item", null would be an item
    if origin is Literal:
        return [" or ".join(map(repr, parts))]
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return ["a mapping"]
    if inspect.isclass(origin) and issubclass(origin, tuple) and Ellipsis not in parts:
        return [f"a list of {len(parts)}, each {' or '.join(_describe(parts[0]))}"]
    if inspect.isclass(origin) and issubclass(origin, Iterable):
        return [f"a list, each item {' or '.join(_describe(parts[0]))}" if parts else "a list"]
    return [IN_WORDS[hint]] if hint in IN_WORDS else []


def _remedy(value: Any, hint: Any) -> str:
    """What to write instead, if it is clear."""
    if isinstance(value, str):
        if _convert(_unquoted(value), hint) is not MISFIT:
            return ": remove the quotes"
    elif value is not None and _convert(str(value), hint) is not MISFIT:
        return ": put it in quotes"
    if not isinstance(value, list) and _convert([value], hint) is not MISFIT:
        return f": write it as a list, [{value}]"
    return ""


def _unquoted(text: str) -> Any:
    try:
        return parse(text, "a text")
    except ValueError:
        return MISFIT


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    if value is None:
        return "null"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{text}, which is not finite"
    kinds = {bool: "a boolean", int: "a whole number", float: "a number", str: "a text"}
    kinds |= {list: "a list", dict: "a mapping"}
    return f"{text}, {kinds.get(type(value), f'a {type(value).__name__}')}"
