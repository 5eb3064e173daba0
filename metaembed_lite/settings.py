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

from metaembed_lite.budget import Budget, as_budget


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2, and a key that is given twice an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} appears twice", key.start_mark
                    )
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse(text: str, source: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: naming ``source``, if the text is not YAML.
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
    """The values as ``function`` takes them; whole numbers that were written as 1e3 are int.

    Args:
        function: takes the values as keyword arguments.
        values: by name, as read from YAML.
        owner: what errors call the place of the values, such as "recipe tiny: train".
        leave_out: parameters that a recipe may not set.

    Raises:
        ValueError: on an unknown or a missing name, or a value of another type.
    """
    hints = parameters(function)
    known = [name for name in hints if name not in leave_out]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            ask = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{owner} has no {name!r}.{ask} It has {', '.join(sorted(known))}")
    for name in known:
        required = inspect.signature(function).parameters[name].default is inspect.Parameter.empty
        if required and name not in values:
            raise ValueError(f"{owner}: missing a required argument: {name!r}")
    return {name: _check_value(value, hints[name], owner, name) for name, value in values.items()}


def parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of a function and their types; ``Any`` for a type that cannot be imported."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    inner = inspect.unwrap(inner)
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = parameter.annotation
        if isinstance(hint, str):
            hint = _evaluate(hint, getattr(inner, "__globals__", {}))
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found[name] = Any if hint is parameter.empty else hint
    return found


def _evaluate(hint: str, names: dict[str, Any]) -> Any:
    def one() -> None: ...

    one.__annotations__ = {"hint": hint}  # one at a time: others may name types not imported here
    try:
        return get_type_hints(one, names)["hint"]
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


def _is_budget(hint: Any) -> bool:
    return hint is Budget or (get_origin(hint) in UNIONS and Budget in get_args(hint))


class _Misfit(Exception):
    """A value is not of a type."""


def _check_value(value: Any, hint: Any, owner: str, name: str) -> Any:
    try:
        return _as(value, hint)
    except _Misfit:
        wanted, remedy = " or ".join(_describe(hint)), _remedy(value, hint)
        raise ValueError(f"{owner}: {name} is {_show(value)}; expected {wanted}{remedy}") from None


def _as(value: Any, hint: Any) -> Any:
    """The value as a type has it, or a ``_Misfit``."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if _is_budget(hint):  # a pair or a text, which only Budget can judge
        return _as_budget(value)
    if origin in UNIONS:
        return _as_first(value, parts)
    if origin is Literal:
        if any(value == part and type(value) is type(part) for part in parts):
            return value
    elif hint in (None, types.NoneType):
        if value is None:
            return value
    elif hint in (int, float):
        return _as_number(value, hint)
    elif hint in (bool, str, Path):
        if isinstance(value, (str, Path) if hint is Path else hint):
            return value
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        if isinstance(value, dict):
            return value
    elif inspect.isclass(origin) and issubclass(origin, Iterable) and isinstance(value, list):
        return _as_list(value, origin, parts)
    raise _Misfit


def _as_first(value: Any, parts: tuple[Any, ...]) -> Any:
    for part in parts:
        try:
            return _as(value, part)
        except _Misfit:
            continue
    raise _Misfit


def _as_budget(value: Any) -> Any:
    try:
        if isinstance(value, str | list):
            as_budget(value)
            return value
    except ValueError:
        pass
    raise _Misfit


def _as_number(value: Any, hint: type) -> int | float:
    if isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are Real too
        raise _Misfit
    number: Any = value
    if hint is float and abs(number) <= sys.float_info.max:
        return float(number)
    if hint is int and (isinstance(number, Integral) or float(number).is_integer()):
        return int(number)
    raise _Misfit


def _as_list(value: list[Any], origin: type, parts: tuple[Any, ...]) -> list[Any]:
    if issubclass(origin, tuple) and Ellipsis not in parts:
        if len(value) != len(parts):
            raise _Misfit
        return [_as(item, part) for item, part in zip(value, parts, strict=True)]
    return [_as(item, parts[0]) if parts else item for item in value]


def _describe(hint: Any) -> list[str]:
    """What a recipe can write for a type, in words; several for a union."""
    origin, parts = get_origin(hint), get_args(hint)
    if _is_budget(hint):
        return ["a budget such as 4x8"]
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
    """What to write instead, if it is plain."""
    if isinstance(value, str):
        try:
            if _fits(parse(value, "it"), hint):
                return ": remove the quotes"
        except ValueError:
            pass
    elif value is not None and _fits(str(value), hint):
        return ": put it in quotes"
    if not isinstance(value, list) and _fits([value], hint):
        return f": write it as a list, [{value}]"
    return ""


def _fits(value: Any, hint: Any) -> bool:
    try:
        _as(value, hint)
    except _Misfit:
        return False
    return True


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
