"""Checks the files of a saved model before any of them is loaded.

A checkpoint is data, never code. Settings that would reach ``from_pretrained`` are refused. Module
classes come from a list. A chat template may not multiply, count or call itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
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
ACTIVATIONS = tuple(
    f"torch.nn.modules.{name}"
    for name in ("linear.Identity", "activation.Tanh", "activation.ReLU", "activation.GELU")
)
LONGEST_TEMPLATE = 100_000  # characters, where the longest known templates have 20,000
DEEPEST_LOOP = 3  # over messages, their parts, and the tools or calls of a part
# Jinja functions, filters and methods that return more text than they are given.
GROWING = frozenset(
    {
        "range", "lipsum", "format", "center", "ljust", "rjust", "zfill", "expandtabs", "indent",
        "batch", "slice", "map", "attr", "wordwrap", "xmlattr",
    }
)  # fmt: skip


def check(folder: Path, classes: Collection[str]) -> list[dict[str, str]]:
    """Check every file that ``load`` will read.

    Args:
        folder: the folder of the saved model.
        classes: the names of the module classes that ``load`` accepts.

    Returns:
        The modules in order, each with ``name``, ``path`` below the folder, and ``type``.

    Raises:
        FileNotFoundError: naming the file, if it is missing.
        ValueError: naming the file, what it says, and what is expected.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> folder = checkpoints.HERE / "tiny-handwriting"
        >>> classes = [module["type"] for module in read_modules(folder)]
        >>> [module["path"] for module in check(folder, classes)]
        ['', '1_Dense', '2_Normalize']
        >>> check(folder, classes[1:])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: ...tiny-handwriting requests the class 'metaembed_lite.meta_tokens.Meta...
    """
    entries = read_modules(folder)
    for entry in entries:
        if entry["type"] not in classes:
            raise ValueError(
                f"{folder} requests the class {entry['type']!r}, which is not loaded, because a "
                f"checkpoint may not contain code. Allowed: {', '.join(sorted(classes))}"
            )
    check_hashes(folder)
    _check_model(read_json(folder / MODEL), folder / MODEL)
    for entry in entries:
        name = "config.json" if entry["path"] else TRANSFORMER
        config = read_json(folder / entry["path"] / name)
        if config.get("activation_function", ACTIVATIONS[0]) not in ACTIVATIONS:
            raise ValueError(
                f"{folder / entry['path'] / name}: activation_function is "
                f"{config['activation_function']!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        weights = folder / entry["path"] / "model.safetensors"
        if (weights.parent / "pytorch_model.bin").exists() and not weights.exists():
            raise FileNotFoundError(f"{weights} is missing: pickled weights are not loaded")
        if name == TRANSFORMER:
            _check_transformer(config, folder / TRANSFORMER)
    if not any((folder / name).is_file() for name in (adapter.CONFIG, "config.json")):
        raise FileNotFoundError(
            f"{folder} has neither {adapter.CONFIG} nor config.json: the saved model is incomplete"
        )
    adapter.check_no_code(folder)
    for file, template in _templates(folder):
        check_template(template, file)
    return entries


def read_modules(folder: Path) -> list[dict[str, str]]:
    """The modules of a saved model in order, each with ``name``, ``path`` and ``type``.

    Args:
        folder: the folder of the saved model. A module's path is relative to it.

    Raises:
        FileNotFoundError: if the folder holds no saved model.
        ValueError: if the file is damaged, or a path leaves the folder.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> read_modules(checkpoints.HERE / "tiny-handwriting")[1]["type"]
        'sentence_transformers.base.modules.dense.Dense'
    """
    file = folder / MODULES
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MODULES}: not a saved model. Save one with "
            "metaembed_lite.save(model, folder). To start from a backbone, use build()"
        )
    entries = read_json(file, list)
    keys = ("name", "path", "type")
    if not entries:
        raise ValueError(f"{file} lists no modules: it is damaged")
    for entry in entries:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
            raise ValueError(f"{file}: {entry!r} needs the texts {', '.join(keys)}: it is damaged")
        if not re.fullmatch(r"\w*", entry["path"]):
            raise ValueError(f"{file}: path {entry['path']!r} is not a folder of the saved model")
    names, paths = [e["name"] for e in entries], [e["path"] for e in entries]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"\d+", name) for name in names):
        raise ValueError(f"{file}: the names {names} are not different numbers: it is damaged")
    if paths[0] or not all(paths[1:]):
        raise ValueError(
            f"{file}: the paths {paths} are not '' for the backbone and then a folder per module"
        )
    return entries


def _check_model(config: dict[str, Any], file: Path) -> None:
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise ValueError(f"{file}: prompts is {prompts!r:.80}; expected texts by name")


def _check_transformer(config: dict[str, Any], file: Path) -> None:
    others = {path.name for path in file.parent.glob("sentence_*_config.json")} - {file.name}
    # sentence-transformers tries several file names and reads the first file that is not empty.
    if others or not config:
        problem = f"stands next to {', '.join(sorted(others))}" if others else "is empty"
        raise ValueError(f"{file} {problem}, so other settings could be read: it is damaged")
    expected = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    for key, text in expected.items():
        if config.get(key, text) != text:
            raise ValueError(f"{file}: {key} is {config[key]!r}; expected {text!r}")
    for key in ("query_length", "document_length", "max_seq_length", "r_q", "r_c"):
        value = config.get(key)
        if value is not None and (type(value) is not int or not 0 < value < 10**6):
            raise ValueError(f"{file}: {key} is {value!r}; expected a whole number from 1 up")
    for key in config:
        if key not in TRANSFORMER_KEYS:
            raise ValueError(
                f"{file} sets {key!r}: a saved model may not, because such settings can run code, "
                f"write files or fetch others. It may set {', '.join(sorted(TRANSFORMER_KEYS))}"
            )
    modalities = config.get("modality_config", {})
    if not isinstance(modalities, dict):
        raise ValueError(f"{file}: modality_config is {modalities!r:.80}; expected an object")
    for modality in modalities.values():
        method = modality.get("method") if isinstance(modality, dict) else modality
        if not isinstance(method, str) or not FORWARD.fullmatch(method):
            raise ValueError(
                f"{file}: modality_config calls {method!r}, which is not a forward pass"
            )


def _templates(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every chat template of a saved model, with the file that it comes from."""
    for file in sorted(folder.glob("**/*.jinja")):
        if not file.is_file() or file.stat().st_size > LONGEST_TEMPLATE * 4:
            raise ValueError(
                f"{file} is not a file of at most {LONGEST_TEMPLATE * 4:,} bytes, so it is not "
                "read as a chat template"
            )
        yield file, file.read_text(encoding="utf-8", errors="replace")
    for file in sorted(folder.glob("*.json")):
        if file.name not in ("modules.json", "tokenizer.json", "vocab.json"):
            templates = read_json(file).get("chat_template")
            if isinstance(templates, str):
                yield file, templates
            elif templates:  # a list of {"name", "template"}, or a dict of them
                for template in re.findall(r'"(?:[^"\\]|\\.)*"', json.dumps(templates)):
                    yield file, json.loads(template)


def check_template(template: str, file: Path) -> None:
    """Refuse a chat template that multiplies, counts or calls itself.

    Templates run in a sandbox, which stops code but not arithmetic. So a short template can fill
    memory. Published templates only copy texts. The simple ways to make a text longer are refused
    here. A template can still take long on a long input.

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
    from jinja2 import Environment, TemplateSyntaxError, nodes

    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(
            f"{file}: the chat template has {len(template):,} characters; at most "
            f"{LONGEST_TEMPLATE:,} are read"
        )
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)  # transformers' own tag
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateSyntaxError as error:
        raise ValueError(f"{file}: the chat template does not parse ({error})") from error
    macros = {macro.name for macro in tree.find_all(nodes.Macro)}
    for node in tree.find_all(nodes.Node):
        if _grows(node) or _calls_itself(node, macros) or _loop_depth(node) > DEEPEST_LOOP:
            raise ValueError(
                f"{file}, line {node.lineno}: the chat template multiplies, counts or calls "
                "itself, which can fill memory, so it is refused. If you trust it, use "
                "MultiVectorEncoder(path, trust_remote_code=True)"
            )


def _grows(node: Any) -> bool:
    """Whether a node of a template can make a text longer than its input."""
    from jinja2 import nodes

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
        return node.value in GROWING or re.search(r"%[-0# +]*\d", node.value) is not None
    if isinstance(node, nodes.Mod):  # of a text: "%9999999s" % x
        return not isinstance(node.left, nodes.Getattr | nodes.Name)
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
    from jinja2 import nodes

    if isinstance(node, nodes.Macro):
        return any(getattr(call.node, "name", None) in macros for call in node.find_all(nodes.Call))
    return isinstance(node, nodes.For) and (node.recursive or isinstance(node.iter, nodes.Const))


def _loop_depth(node: Any) -> int:
    """The number of nested loops, counting this one. 0 for a node that is not a loop."""
    from jinja2 import nodes

    if not isinstance(node, nodes.For):
        return 0
    return 1 + max((_loop_depth(inner) for inner in node.find_all(nodes.For)), default=0)
