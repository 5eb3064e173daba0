"""Checks a saved model's files before any of them is loaded.

A checkpoint is data, never code. Settings that would reach ``from_pretrained`` are refused, module
classes come from a list, and a chat template may not multiply, count or recur.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from metaembed_lite import adapter
from metaembed_lite.model_folder import MODULES, check_hashes, read_json

MODEL = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
TRANSFORMER_KEYS = {
    "transformer_task", "modality_config", "module_output_name", "query_length", "document_length",
    "max_seq_length", "unpad_inputs", "r_q", "r_c", "layout",
}  # fmt: skip
FORWARD = re.compile(r"forward|get_(text|image|audio|video|multimodal)_features")
LONGEST_TEMPLATE = 100_000  # characters; the longest known ones have 20,000
DEEPEST_LOOP = 3  # over messages, their parts, and the tools or calls of a part
GROWING = frozenset(
    {"range", "format", "center", "ljust", "rjust", "zfill", "expandtabs", "indent"}
)


def check(folder: Path, classes: Collection[str]) -> list[dict[str, str]]:
    """Check every file that ``load`` will read.

    Args:
        folder: of the saved model.
        classes: the names of the module classes that may be loaded.

    Returns:
        Its modules in order: ``name``, ``path`` below the folder, and ``type``.

    Raises:
        FileNotFoundError, ValueError: naming the file, what it says, and what is expected.
    """
    entries = read_modules(folder)
    for entry in entries:
        if entry["type"] not in classes:
            raise ValueError(
                f"{folder} asks for the class {entry['type']!r}: only classes of "
                "sentence-transformers and metaembed_lite are loaded, none that a checkpoint "
                f"brings along: {', '.join(sorted(classes))}"
            )
    check_hashes(folder)
    read_json(folder / MODEL)
    for entry in entries:
        name = TRANSFORMER if entry["path"] in ("", ".") else "config.json"
        config = read_json(folder / entry["path"] / name)
        weights = folder / entry["path"] / "model.safetensors"
        if (weights.parent / "pytorch_model.bin").exists() and not weights.exists():
            raise FileNotFoundError(f"{weights} is missing: pickled weights are not loaded")
        if name == TRANSFORMER:
            _check_transformer(config, folder / TRANSFORMER)
    if not any((folder / name).is_file() for name in (adapter.CONFIG, "config.json")):
        raise FileNotFoundError(
            f"{folder} has neither {adapter.CONFIG} nor config.json: the saved model is not whole"
        )
    for file in (folder / "config.json", folder / adapter.CONFIG):
        if file.is_file():
            _check_no_kernels(read_json(file), file)
    for file, template in _templates(folder):
        check_template(template, file)
    return entries


def read_modules(folder: Path) -> list[dict[str, str]]:
    """The modules of a saved model in order: ``name``, ``path`` below the folder, and ``type``.

    Raises:
        FileNotFoundError: if the folder holds no saved model.
        ValueError: if the file is damaged, or a path leaves the folder.
    """
    file = folder / MODULES
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MODULES}: not a saved model. Save one with "
            "metaembed_lite.save(model, folder); to start from a backbone use build()"
        )
    entries = read_json(file, list)
    keys = ("name", "path", "type")
    if not entries:
        raise ValueError(f"{file} lists no modules: it is damaged")
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
            raise ValueError(f"{file}: {entry!r} needs the texts {', '.join(keys)}: it is damaged")
        path = PurePosixPath(entry["path"])
        if path.is_absolute() or ".." in path.parts or not re.fullmatch(r"\w*", entry["path"]):
            raise ValueError(f"{file}: path {entry['path']!r} is not a folder of the saved model")
    return entries


def _check_transformer(config: dict[str, Any], file: Path) -> None:
    for key in config:
        if key not in TRANSFORMER_KEYS:
            raise ValueError(
                f"{file} sets {key!r}: a saved model may not, because such settings can run code, "
                f"write files or fetch others. It may set {', '.join(sorted(TRANSFORMER_KEYS))}"
            )
    modalities = config.get("modality_config", {})
    methods = (m.get("method") if isinstance(m, dict) else m for m in dict(modalities).values())
    for method in methods:
        if not isinstance(method, str) or not FORWARD.fullmatch(method):
            raise ValueError(
                f"{file}: modality_config calls {method!r}, which is not a forward pass"
            )


def _check_no_kernels(config: Any, file: Path) -> None:
    """Refuse an implementation of attention (or the like) that would be code from a hub."""
    nested = list(config.values()) if isinstance(config, dict) else config
    if isinstance(config, dict):
        for key, value in config.items():
            if key.endswith("_implementation") and "/" in str(value):
                raise ValueError(f"{file}: {key} is {value!r}, which is code from a hub: refused")
            if key in ("auto_map", "auto_mapping") and value:
                raise ValueError(f"{file}: {key} is {value!r}, which names code: refused")
    for value in nested:
        if isinstance(value, dict | list):
            _check_no_kernels(value, file)


def _templates(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every chat template of a saved model, and the file that it comes from."""
    for file in sorted(folder.glob("**/*.jinja")):
        yield file, file.read_text(encoding="utf-8", errors="replace")
    for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json"):
        if (folder / name).is_file():
            config = read_json(folder / name)
            templates = config.get("chat_template")
            if isinstance(templates, str):
                yield folder / name, templates
            elif templates:  # a list of {"name", "template"}, or a dict of them
                for template in re.findall(r'"(?:[^"\\]|\\.)*"', json.dumps(templates)):
                    yield folder / name, json.loads(template)


def check_template(template: str, file: Path) -> None:
    """Refuse a chat template that multiplies, counts or recurs.

    Templates run in a sandbox, which stops code but not arithmetic: a short one can fill memory.
    Those in use copy texts. The plain ways to grow a text are refused here; a template can still
    be written to take long on a long input.

    Raises:
        ValueError: naming the file and the line.
    """
    from jinja2 import Environment, TemplateSyntaxError, nodes

    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(f"{file}: a chat template of {len(template):,} characters is refused")
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)  # transformers' own tag
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise ValueError(f"{file}: the chat template does not parse ({error})") from error
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    for node in tree.find_all(nodes.Node):
        if _grows(node) or _recurs(node, macros) or _loops(node) > DEEPEST_LOOP:
            raise ValueError(
                f"{file}, line {node.lineno}: the chat template multiplies, counts or recurs, "
                "which can fill memory: refused. If you trust it, use MultiVectorEncoder(path, "
                "trust_remote_code=True)"
            )


def _grows(node: Any) -> bool:
    """Whether a node of a template makes a text longer than what it is given."""
    from jinja2 import nodes

    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name | nodes.Getattr):
        called = node.node.name if isinstance(node.node, nodes.Name) else node.node.attr
        return called in GROWING or (called == "replace" and _lengthens(node.args))
    if isinstance(node, nodes.Mod):  # of a text: "%9999999s" % x
        return not isinstance(node.left, nodes.Getattr | nodes.Name)
    if isinstance(node, nodes.Filter):
        return node.name in GROWING or (node.name == "replace" and _lengthens(node.args))
    return isinstance(node, nodes.Mul | nodes.Pow)


def _lengthens(arguments: list[Any]) -> bool:
    """Whether replacing the first text by the second may make the whole longer."""
    texts = [getattr(argument, "value", None) for argument in arguments[:2]]
    match texts:
        case [str(old), str(new)]:
            return len(new) > len(old)
    return True


def _recurs(node: Any, macros: set[str]) -> bool:
    """Whether a node is a macro that calls a macro, or a recursive loop."""
    from jinja2 import nodes

    if isinstance(node, nodes.Macro):
        return any(getattr(call.node, "name", None) in macros for call in node.find_all(nodes.Call))
    return isinstance(node, nodes.For) and (node.recursive or isinstance(node.iter, nodes.Const))


def _loops(node: Any) -> int:
    """How many loops lie in each other, from a loop on."""
    from jinja2 import nodes

    if not isinstance(node, nodes.For):
        return 0
    return 1 + max((_loops(inner) for inner in node.find_all(nodes.For)), default=0)
