"""Checks the chat template of a checkpoint: it may copy texts, and nothing that fills memory.

Templates run in a sandbox, which stops code but not arithmetic. A template of one line can make a
text of a gigabyte. So functions that make a text longer are refused by name. What is left can only
join texts, and how far that can grow is followed through the template.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

LONGEST_TEMPLATE = 100_000  # characters, where the longest known templates have 20,000
DEEPEST_LOOP = 3  # over messages, their parts, and the tools or calls of a part
# Jinja functions, filters and methods that return more text than they are given.
GROWING = frozenset(
    {
        "range", "lipsum", "format", "center", "ljust", "rjust", "zfill", "expandtabs", "indent",
        "batch", "slice", "map", "attr", "wordwrap", "xmlattr", "format_map", "translate",
    }
)  # fmt: skip
# The number of texts as long as the input that one text may consist of: in one pass, and if every
# loop runs LOOPS times. Known templates stay below 20 and 1,000.
MOST_COPIES = 1000.0
MOST_COPIES_IN_LOOPS = 1e7
LOOPS = 30
MOST_STEPS = 100_000  # of following a template, which takes about a second
LONG_LOOP = 1e4  # how often a loop may run that writes into a text
ESCAPES = {"tojson": 6.0, "e": 5.0, "escape": 5.0, "forceescape": 5.0, "urlencode": 3.0,
           "urlize": 4.0, "pprint": 2.0}  # fmt: skip


def check_template(template: str, file: Path) -> None:
    """Refuse a chat template that multiplies, counts, calls itself or doubles a text.

    Published templates only copy texts. A template can still take long on a long input.

    Args:
        template: Jinja.
        file: the file that it comes from, for the error.

    Raises:
        ValueError: naming the file and the line.

    Example:
        >>> check_template("{% for m in messages %}{{ m['content'] }}{% endfor %}", Path("chat"))
        >>> check_template("{{ 'A' * 10**9 }}", Path("chat"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: chat, line 1: the chat template multiplies, counts or calls itself, ...
    """
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(
            f"{file}: the chat template has {len(template):,} characters; at most "
            f"{LONGEST_TEMPLATE:,} are read"
        )
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)  # transformers' own tag
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except (TemplateSyntaxError, RecursionError) as error:
        raise ValueError(f"{file}: the chat template does not parse ({error})") from error
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    numbers = _numeric_names(tree)
    for node in tree.find_all(nodes.Node):
        if _grows(node, numbers) or _calls_itself(node, macros) or _loop_depth(node) > DEEPEST_LOOP:
            raise ValueError(_refusal(f"{file}, line {node.lineno}"))
    for loops, most in ((1, MOST_COPIES), (LOOPS, MOST_COPIES_IN_LOOPS)):
        try:
            line = Copies(tree, loops, most).find_excess()
        except RecursionError:
            line = 1
        if line is not None:
            raise ValueError(_refusal(f"{file}, line {line}"))


def _refusal(place: str) -> str:
    return (
        f"{place}: the chat template multiplies, counts or calls itself, or doubles a text, which "
        "can fill memory, so it is refused. If you trust it, use MultiVectorEncoder(path, "
        "trust_remote_code=True)"
    )


class Copies:
    """How many copies of its input each text of a template can consist of, at most.

    Each variable is followed through the template in order, and each loop's body is followed
    ``loops`` times. A text of the template counts as one copy, and so does anything given to it.

    Args:
        tree: the parsed template.
        loops: how often each loop runs.
        most: copies that are allowed.

    Example:
        >>> def copies(text):
        ...     return Copies(Environment().parse(text), loops=30, most=1e7).find_excess()
        >>> copies("{% set a = b ~ b %}{{ a }}") is None
        True
        >>> copies("{% for c in x %}{% set n.s = n.s ~ n.s %}{% endfor %}")
        1
    """

    def __init__(self, tree: nodes.Template, loops: int, most: float) -> None:
        self.tree, self.loops, self.most = tree, loops, most
        self.copies: dict[str, float] = {}
        self.steps = 0
        self.macros = {
            macro.name: self._loop_factor(macro)
            * (1.0 + sum(1 for _ in macro.find_all((nodes.Name, nodes.TemplateData))))
            for macro in tree.find_all(nodes.Macro)
        }

    def _loop_factor(self, node: Any) -> float:
        """How much longer loops below a node make a text that they write."""
        n_loops = sum(1 for _ in node.find_all(nodes.For))
        return 1.0 if self.loops == 1 else LONG_LOOP**n_loops

    def find_excess(self) -> int | None:
        """The line of the first text that can grow too far, or None."""
        return self._follow(self.tree.body)

    def _follow(self, body: list[Any]) -> int | None:
        for node in body:
            line = self._follow_one(node)
            if line is not None:
                return line
        return None

    def _follow_one(self, node: Any) -> int | None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            return int(node.lineno)
        if isinstance(node, nodes.For):
            return self._follow_loop(node)
        if isinstance(node, nodes.If):
            return self._follow([*node.body, *node.elif_, *node.else_])
        if isinstance(node, nodes.Assign):
            return self._assign(node.target, self._count(node.node))
        if isinstance(node, nodes.AssignBlock):
            inner = self._follow(node.body)
            total = self._count_output(node.body)
            total *= self._factor(node.filter) if node.filter is not None else 1.0
            return inner if inner is not None else self._assign(node.target, total)
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                if self._count(part) > self.most:
                    return int(node.lineno)
            return None
        if isinstance(
            node, nodes.Macro | nodes.With | nodes.FilterBlock | nodes.Scope | nodes.CallBlock
        ):
            if isinstance(node, nodes.With):
                for target, value in zip(node.targets, node.values, strict=True):
                    self._assign(target, self._count(value))
            return self._follow(node.body)
        return None

    def _follow_loop(self, node: nodes.For) -> int | None:
        length = self._count(node.iter)
        self._assign(node.target, length)
        before = dict(self.copies)
        for _ in range(self.loops):
            once = dict(self.copies)
            line = self._follow(node.body)
            if line is not None:
                return line
            if self.copies == once:  # nothing grows from one round to the next
                break
        for name, copies in self.copies.items():  # a longer text is a longer loop over it
            if copies > before.get(name, copies):
                self.copies[name] = copies * max(1.0, length)
                if self.copies[name] > self.most:
                    return int(node.lineno)
        return self._follow(node.else_)

    def _assign(self, target: Any, copies: float) -> int | None:
        for name in _targets(target):
            # A branch may not run, so what a name held before may still be there.
            self.copies[name] = max(copies, self.copies.get(name, 0.0))
        return int(target.lineno) if copies > self.most else None

    def _count_output(self, body: list[Any]) -> float:
        """Copies in what a block writes, at most."""
        own = [node for node in body if isinstance(node, nodes.Output)]
        inner = [output for node in body for output in node.find_all(nodes.Output)]
        looping = [node for node in body if isinstance(node, nodes.For)]
        factor = self._loop_factor(nodes.Scope(body)) * (
            LONG_LOOP if looping and self.loops > 1 else 1.0
        )
        return factor * sum(self._count(part) for output in own + inner for part in output.nodes)

    def _count(self, node: Any) -> float:
        """Copies in the value of an expression, at most."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            return math.inf
        if isinstance(node, nodes.Compare | nodes.Test | nodes.Not):
            return 0.0
        if isinstance(node, nodes.Name):
            return self.copies.get(node.name, 1.0)
        if isinstance(node, nodes.Getattr | nodes.Getitem):
            name = _dotted(node)
            if name in self.copies:
                return self.copies[name]
            return self._count(node.node)
        if isinstance(node, nodes.CondExpr):
            branches = [node.expr1, *([node.expr2] if node.expr2 is not None else [])]
            return max(self._count(branch) for branch in branches)
        if isinstance(node, nodes.And | nodes.Or):
            return max(self._count(node.left), self._count(node.right))
        if isinstance(node, nodes.Filter):
            return self._count_filter(node)
        if isinstance(node, nodes.Call):
            return self._count_call(node)
        if isinstance(node, nodes.Const | nodes.TemplateData):
            return 1.0
        return sum(self._count(child) for child in node.iter_child_nodes())

    def _count_filter(self, node: nodes.Filter) -> float:
        value = self._count(node.node) if node.node is not None else 1.0
        if node.name == "join":  # the separator stands between all parts
            separator = getattr(node.args[0], "value", None) if node.args else ""
            return value * (1.0 + (len(separator) if isinstance(separator, str) else
                                   self._count_arguments(node)))  # fmt: skip
        return (value + self._count_arguments(node)) * self._factor(node)

    def _count_call(self, node: nodes.Call) -> float:
        arguments = self._count_arguments(node)
        if not isinstance(node.node, nodes.Getattr):
            return (1.0 + arguments) * self.macros.get(getattr(node.node, "name", ""), 1.0)
        value = self._count(node.node.node)
        if node.node.attr == "join":
            constant = getattr(node.node.node, "value", None)
            value = len(constant) if isinstance(constant, str) else value
            return arguments * (1.0 + value)
        return value + arguments

    def _count_arguments(self, node: Any) -> float:
        """Copies in the arguments of a call or a filter. A constant in ``strip("a")`` adds none."""
        values = [*node.args, *(pair.value for pair in node.kwargs)]
        values += [extra for extra in (node.dyn_args, node.dyn_kwargs) if extra is not None]
        return sum(self._count(value) for value in values if not isinstance(value, nodes.Const))

    def _factor(self, node: Any) -> float:
        return ESCAPES.get(node.name, 1.0)


def _targets(target: Any) -> Iterator[str]:
    """The names that an assignment sets."""
    if isinstance(target, nodes.Name):
        yield target.name
    elif isinstance(target, nodes.NSRef):
        yield f"{target.name}.{target.attr}"
    else:
        for child in target.iter_child_nodes():
            yield from _targets(child)


def _dotted(node: Any) -> str | None:
    """The name of an attribute of a variable, such as ``ns.text`` or ``ns["text"]``, or None."""
    if not isinstance(node.node, nodes.Name):
        return None
    if isinstance(node, nodes.Getattr):
        return f"{node.node.name}.{node.attr}"
    constant = getattr(node.arg, "value", None)
    return f"{node.node.name}.{constant}" if isinstance(constant, str) else None


def _numeric_names(tree: nodes.Template) -> set[str]:
    """Variables that only ever hold whole numbers."""
    values: dict[str, list[Any]] = {}
    for assign in tree.find_all(nodes.Assign):
        for name in _targets(assign.target):
            values.setdefault(name, []).append(assign.node)
    for call in tree.find_all(nodes.Assign):
        if isinstance(call.node, nodes.Call) and isinstance(call.target, nodes.Name):
            for pair in call.node.kwargs:  # namespace(index=0)
                values.setdefault(f"{call.target.name}.{pair.key}", []).append(pair.value)
    numeric = set(values)
    while True:
        kept = {name for name in numeric if all(_is_number(v, numeric) for v in values[name])}
        if kept == numeric:
            return numeric
        numeric = kept


def _is_number(node: Any, numeric: set[str]) -> bool:
    if isinstance(node, nodes.Const):
        return isinstance(node.value, int)
    if isinstance(node, nodes.Name):
        return node.name in numeric
    if isinstance(node, nodes.Getattr):
        in_loop = isinstance(node.node, nodes.Name) and node.node.name == "loop"
        counts = node.attr in ("index", "index0", "revindex", "revindex0", "length")
        return (in_loop and counts) or _dotted(node) in numeric
    if isinstance(node, nodes.Filter):
        return node.name in ("length", "count", "int")
    if isinstance(node, nodes.Add | nodes.Sub | nodes.Mod):
        return _is_number(node.left, numeric) and _is_number(node.right, numeric)
    return False


def _grows(node: Any, numeric: set[str]) -> bool:
    """Whether a node of a template can make a text longer than its input."""
    if isinstance(node, nodes.Call):
        if not isinstance(node.node, nodes.Name | nodes.Getattr):
            return True
        function = node.node.name if isinstance(node.node, nodes.Name) else node.node.attr
        return function in GROWING or (function == "replace" and _lengthens(node.args))
    if isinstance(node, nodes.Filter):
        grows = node.name == "replace" and _lengthens(node.args)
        return node.name in GROWING or grows or (node.name == "tojson" and _indents(node))
    if isinstance(node, nodes.Name | nodes.Getattr):  # also under another name
        return getattr(node, "name", None) in GROWING or getattr(node, "attr", None) in GROWING
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        return node.value in GROWING
    if isinstance(node, nodes.Mod):  # of a text, it formats: "%9999999s" % x
        return not _is_number(node.left, numeric)
    return isinstance(node, nodes.Mul | nodes.Pow)


def _indents(node: Any) -> bool:
    """Whether ``tojson`` gets an argument that can indent by more than 16 characters."""
    values = [*node.args, *(pair.value for pair in node.kwargs)]
    return any(not isinstance(getattr(v, "value", v), bool | int) or v.value > 16 for v in values)


def _lengthens(arguments: list[Any]) -> bool:
    """Whether replacing the first text by the second can make the whole longer."""
    texts = [getattr(argument, "value", None) for argument in arguments[:2]]
    match texts:
        case [str(old), str(new)]:
            return len(new) > len(old)
    return True


def _calls_itself(node: Any, macros: set[str]) -> bool:
    """Whether a node is a macro that calls a macro, or a recursive loop."""
    if isinstance(node, nodes.Macro):
        return any(getattr(call.node, "name", None) in macros for call in node.find_all(nodes.Call))
    return isinstance(node, nodes.For) and (node.recursive or isinstance(node.iter, nodes.Const))


def _loop_depth(node: Any) -> int:
    """The number of nested loops, counting this one. 0 for a node that is not a loop."""
    if not isinstance(node, nodes.For):
        return 0
    return 1 + max((_loop_depth(inner) for inner in node.find_all(nodes.For)), default=0)
