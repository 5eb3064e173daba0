"""Checks the files of a saved model before any of them is loaded.

A checkpoint is data, never code. Settings that would reach ``from_pretrained`` are refused. Module
classes come from a list. Chat templates are checked by ``chat_templates``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from metaembed_lite import adapter
from metaembed_lite.chat_templates import LONGEST_TEMPLATE, check_template
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
        >>> folder = checkpoints.HERE / "tiny"
        >>> classes = [module["type"] for module in read_modules(folder)]
        >>> [module["path"] for module in check(folder, classes)]
        ['', '1_Normalize']
        >>> check(folder, classes[1:])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: ...tiny requests the class 'metaembed_lite.meta_tokens.Meta...
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
        >>> read_modules(checkpoints.HERE / "tiny")[1]["type"]
        'sentence_transformers.base.modules.normalize.Normalize'
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
        try:
            yield file, file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise OSError(f"{file} cannot be read: {error.strerror or error}") from error
    for file in sorted(folder.glob("*.json")):
        if file.name not in ("modules.json", "tokenizer.json", "vocab.json"):
            templates = read_json(file).get("chat_template")
            if isinstance(templates, str):
                yield file, templates
            elif templates:  # a list of {"name", "template"}, or a dict of them
                for template in re.findall(r'"(?:[^"\\]|\\.)*"', json.dumps(templates)):
                    yield file, json.loads(template)
