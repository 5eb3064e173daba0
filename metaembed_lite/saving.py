"""save() a model to a folder, completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch

from metaembed_lite.encoder import MultiVectorEncoder
from metaembed_lite.locking import lock
from metaembed_lite.model_card import describe_origin
from metaembed_lite.model_folder import check_output, is_finished, naming, replacing


def save(model: MultiVectorEncoder, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model to a folder, completely or not at all.

    Training checkpoints in the folder stay. If the model was trained by ``train``, or loaded,
    ``recipe.yaml`` says how it was trained, as far as it is known.

    Args:
        model: from ``build``, ``load`` or ``train``.
        folder: a new or empty folder, or with ``overwrite`` one that holds a saved model.
        overwrite: replace a saved model. Anything else is never replaced. Defaults to False.

    Raises:
        ValueError: if the folder holds a saved model and ``overwrite`` is False. Also if it holds
            anything that this project did not write, or if a weight is not finite.
        BlockingIOError: if another process writes to the folder.
        OSError: if the disk is full or cannot be written. What was in the folder has not changed.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import load
        >>> folder = tempfile.mkdtemp()
        >>> save(load("tiny", device="cpu"), folder)
        >>> load(folder, device="cpu").encode_query("violin, red apple").shape
        torch.Size([8, 128])
    """
    folder = Path(os.path.abspath(folder))
    check_output(folder)
    check_not_backbone(model, folder)
    if is_finished(folder) and not overwrite:
        raise ValueError(f"{folder} holds a saved model: pass overwrite=True to replace it")
    with lock(folder, "saving a model"):
        write_model(model, folder)


def check_not_backbone(model: MultiVectorEncoder, folder: Path) -> None:
    """Check that a model would neither replace its own backbone nor lie in its folder.

    Raises:
        ValueError: naming both folders.

    Example:
        >>> from metaembed_lite import load
        >>> check_not_backbone(load("tiny", device="cpu"), Path("my-model"))
    """
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return  # it holds all its weights
    backbone = Path(getattr(model[0], "backbone_name", None) or "")
    if not backbone.is_absolute() or not backbone.is_dir():
        return
    target, base = folder.resolve(), backbone.resolve()
    if target == base or target in base.parents or base in target.parents:
        raise ValueError(
            f"output {str(folder)!r} overlaps {str(backbone)!r}, the backbone of this model, which "
            "it needs: name a new folder for the model"
        )


def write_model(
    model: MultiVectorEncoder, folder: Path, notes: Mapping[str, str] | None = None
) -> None:
    """``save`` for a caller that holds the folder's lock and may replace the model in it.

    Args:
        model: from ``build``, ``load`` or ``train``.
        folder: the folder of the model.
        notes: contents of further text files, by file name. Defaults to none.

    Raises:
        ValueError: if a weight is not finite.
        OSError: naming the folder, if it cannot be written. It has not changed.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import load
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_model(load("tiny", device="cpu"), folder, {"recipe.yaml": "train: {}"})
        >>> (folder / "recipe.yaml").read_text()
        'train: {}'
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise ValueError(
                f"the weights {name} hold NaN or infinity, so the model is not saved and "
                f"{folder} has not changed. Lower the learning rate, or train again from an "
                "earlier checkpoint"
            )
    with naming(folder), replacing(folder) as new:
        model.save_pretrained(str(new))
        trained = "generated_from_trainer" in model.model_card_data.tags
        recipe = getattr(model, "trained_recipe", "")  # of train()
        if not recipe and not trained:
            recipe = getattr(model, "loaded_recipe", "")
        texts = {"recipe.yaml": recipe} if recipe else {}
        for name, text in {**texts, **(notes or {})}.items():
            (new / name).write_text(text, encoding="utf-8")
        card = getattr(model, "loaded_card", "")
        if card and not trained:  # the loaded card still describes the weights
            (new / "README.md").write_text(card, encoding="utf-8")
        else:
            describe_origin(new, getattr(model[0], "backbone_name", None))
