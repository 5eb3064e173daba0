"""load() a model that was saved or is bundled. A checkpoint is read as data, never as code."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from metaembed_lite import checkpoints, hub, saved_model
from metaembed_lite.adapter import AdapterTransformer
from metaembed_lite.attention_clustering import AttentionClusterTransformer
from metaembed_lite.encoder import MultiVectorEncoder, configure
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.meta_tokens import MetaTokenTransformer
from metaembed_lite.model_folder import MODULES, interrupted, staging
from metaembed_lite.pooling import (
    LinearPooling,
    PrefixPooling,
    SingleVectorPooling,
    WardPooling,
)

ATTEMPTS = 10  # to read a model that other processes replace meanwhile
RENAME_SECONDS = 1.0  # how long a folder may be missing while a save renames it


def load(
    name_or_path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    *,
    backbone: str | Path | None = None,
) -> MultiVectorEncoder:
    """A saved model, ready to encode or to train further.

    A checkpoint is data, never code. Classes come from a fixed list, and weights from safetensors
    files. A file that requests anything else, is damaged or is missing raises an error with its
    name. While another process saves to the folder, the old model is read or the new one, never
    parts of both.

    Args:
        name_or_path: a bundled name such as "tiny", a folder, or a hub id.
        device: "cpu", "cuda", ... Defaults to the best available one.
        dtype: the backbone's type, "bfloat16", ... Defaults to the checkpoint's.
        backbone: a folder or a hub id: where the backbone of a LoRA model is now, if it has moved.
            Defaults to the one that the model names.

    Raises:
        FileNotFoundError: if a folder holds no saved model, or a file or the backbone is missing.
        BlockingIOError: if other processes replace the model again and again while it is read.
        OSError: if the name is neither a folder nor bundled and cannot be fetched from the hub.
        ValueError: naming the file that is damaged or requests what ``load`` does not do.

    Example:
        >>> model = load("tiny", device="cpu")
        >>> model.encode_query("violin, red apple").shape  # (R_q, D)
        torch.Size([8, 128])
    """
    path = _find_folder(name_or_path)
    for _ in range(ATTEMPTS):
        before = _identify(path)
        try:
            model = _load(path, device, dtype, backbone)
        except (ValueError, OSError):
            if _identify(path) == before:
                raise
        else:
            if _identify(path) == before:
                is_folder = path == Path(name_or_path)
                model.loaded_from = path.name if is_folder else str(name_or_path)
                return model
        _find_folder(path)  # another process saves there: some files may be of another model
    raise BlockingIOError(
        f"{path} was replaced {ATTEMPTS} times while it was read: wait until the process that "
        "saves there ends, then load again"
    )


def _find_folder(name_or_path: str | Path) -> Path:
    """The folder of a model, which may be missing for a moment while another process saves."""
    path = checkpoints.folder(str(name_or_path)) or Path(name_or_path)
    end = time.monotonic() + RENAME_SECONDS
    while not path.exists() and staging(path).exists() and time.monotonic() < end:
        time.sleep(0.01)
    if path.exists():
        return path
    if interrupted(path):
        raise FileNotFoundError(
            f"{path} was being saved when its process ended: save there again, or "
            "train(..., resume=True), to repair it"
        )
    return hub.fetch(str(name_or_path), "model", checkpoints.MODELS)


def _identify(path: Path) -> tuple[int, ...] | None:
    """Numbers that differ between two models saved at one path. None if there is none."""
    try:
        status = os.stat(path / MODULES)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _load(
    path: Path, device: str | None, dtype: str | None, backbone: str | Path | None
) -> MultiVectorEncoder:
    modules = _load_modules(path, dtype, backbone)
    config = saved_model.read_json(path / saved_model.MODEL)
    small = list(modules.values())[1:]
    states = [module.state_dict() for module in small]
    model = MultiVectorEncoder(
        modules=modules,
        device=device,
        prompts=config.get("prompts"),
        default_prompt_name=config.get("default_prompt_name"),
        similarity_fn_name=config.get("similarity_fn_name", "maxsim"),
    )
    _check_loaded(model, path)
    model.loaded_card = _read_note(path / "README.md")
    model.loaded_recipe = _read_note(path / "recipe.yaml")
    configure(model)
    for module, state in zip(small, states, strict=True):  # not rounded to the backbone's type
        module.load_state_dict(state)
    return model


def _read_note(file: Path) -> str:
    """The text of a file that describes the model, or "" if there is none."""
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _load_modules(
    path: Path, dtype: str | None, backbone: str | Path | None
) -> OrderedDict[str, Any]:
    """The modules of a saved model by name, each from its own files."""
    classes = module_classes()
    entries = saved_model.check(path, classes)
    model_kwargs: dict[str, Any] = {"use_safetensors": True, "weights_only": True}
    if dtype is not None:
        model_kwargs["dtype"] = dtype
    modules: OrderedDict[str, Any] = OrderedDict()
    for entry in entries:
        module_class = classes[entry["type"]]
        takes_backbone = backbone is not None and issubclass(module_class, AdapterTransformer)
        try:
            modules[entry["name"]] = module_class.load(
                str(path),
                subfolder=entry["path"],
                local_files_only=True,
                model_kwargs=dict(model_kwargs),
                init_defaults={"backbone": str(backbone)} if takes_backbone else None,
            )
        except Exception as error:  # transformers raises many classes on odd configurations
            place, kind = path / entry["path"], type(error).__name__
            if isinstance(error, ValueError | OSError):
                if str(error).startswith(str(path)):
                    raise
                known = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
                raised = known if isinstance(error, OSError) else ValueError
                raise raised(f"{place}: {error}") from error
            raise ValueError(
                f"{place}: {entry['type']} cannot be made from its files ({kind}: {error}): they "
                "are damaged, or of another version"
            ) from error
    return modules


def module_classes() -> dict[str, Any]:
    """The classes that a saved model may name, by the name in its ``modules.json``.

    Example:
        >>> "metaembed_lite.meta_tokens.MetaTokenTransformer" in module_classes()
        True
    """
    classes = (
        MetaTokenTransformer, ItemTransformer, Dense, Normalize, MultiVectorMask, PrefixPooling,
        SingleVectorPooling, WardPooling, LinearPooling, AttentionClusterTransformer,
    )  # fmt: skip
    named = {f"{c.__module__}.{c.__name__}": c for c in classes}
    return {**named, "sentence_transformers.base.modules.transformer.Transformer": ItemTransformer}


def _check_loaded(model: MultiVectorEncoder, path: Path) -> None:
    """Check that weights are finite and that the trained meta tokens match r_q and r_c."""
    whole = (path / "config.json").is_file()
    for name, parameter in model.named_parameters():
        read_here = whole or parameter.requires_grad
        if read_here and not torch.isfinite(parameter).all():
            raise ValueError(
                f"{path}: the weights {name} hold NaN or infinity; train the model again"
            )
    first = model[0]
    if not isinstance(first, MetaTokenTransformer):
        return
    full = f"r_q={first.r_q}, r_c={first.r_c}"
    vocabulary = first.tokenizer.get_vocab()
    if f"<|meta_q_{first.r_q}|>" in vocabulary or f"<|meta_c_{first.r_c}|>" in vocabulary:
        raise ValueError(
            f"{path / saved_model.TRANSFORMER} says {full}, but the tokenizer has more meta "
            "tokens: the model was trained with other numbers"
        )
    meta_ids = sorted(first.meta_ids["query"] + first.meta_ids["document"])
    for config in getattr(first.model, "peft_config", {}).values():
        trained = sorted(i for ids in (config.trainable_token_indices or {}).values() for i in ids)
        if trained != meta_ids:
            raise ValueError(
                f"{path / saved_model.TRANSFORMER} says {full}, but the adapter was trained with "
                f"{len(trained)} meta tokens, not {len(meta_ids)}"
            )
