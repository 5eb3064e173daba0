"""Checks of a model's weights: finite values, what trains, and which layers LoRA reaches."""

from __future__ import annotations

from itertools import chain

import torch

from metaembed_lite import backbones
from metaembed_lite.diagnosis.finding import FAILED, OK, SKIPPED, WARNING, Finding
from metaembed_lite.diagnosis.subject import Subject
from metaembed_lite.trainable import describe_trained

RELOAD = "load the model again with metaembed_lite.load, or build it with metaembed_lite.build"


def check_finite_weights(subject: Subject) -> Finding:
    """Every weight and every floating-point buffer is finite.

    Example:
        >>> from metaembed_lite import load
        >>> check_finite_weights(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    tensors, total, bad = 0, 0, []
    model = subject.model
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        tensors, total = tensors + 1, total + tensor.numel()
        if tensor.is_floating_point() and not torch.isfinite(tensor.detach()).all():
            bad.append(name)
    if not bad:
        return Finding(OK, f"{total:,} values in {tensors:,} tensors, all finite")
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return Finding(
        FAILED,
        f"{bad[0]}{more} of {tensors:,} tensors hold NaN or infinity",
        "the training run diverged: train again from an older checkpoint, with a lower rate",
    )


def check_trained_parameters(subject: Subject) -> Finding:
    """With an adapter: LoRA, the meta tokens' rows and the projection train, and nothing else.

    Example:
        >>> from metaembed_lite import load
        >>> check_trained_parameters(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    parameters = dict(subject.model.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if not trained:
        return Finding(
            WARNING,
            f"none of {sum(p.numel() for p in parameters.values()):,} parameters train",
            "this is fine for encoding; to train, load the model again with metaembed_lite.load",
        )
    if not any("lora_" in name for name in parameters):
        return Finding(OK, describe_trained(subject.model))
    fresh = {n for n in parameters if "lora_" in n or "trainable_tokens" in n}
    fresh |= {name for name in parameters if not name.startswith("0.")}
    frozen, strangers = sorted(fresh - trained), sorted(trained - fresh)
    if frozen:
        return Finding(
            FAILED, f"{_name_some(frozen)} is frozen, so training would not move it", RELOAD
        )
    if strangers:
        return Finding(
            FAILED,
            f"{_name_some(strangers)} of the backbone trains, and save() would lose it: with an "
            "adapter only the adapter is saved",
            RELOAD,
        )
    measured = describe_trained(subject.model)
    if not any(p.any() for name, p in parameters.items() if "lora_B" in name):
        return Finding(
            WARNING,
            f"{measured}; LoRA has not been trained, because all its B matrices are 0",
            "train the model, or load a trained one",
        )
    return Finding(OK, measured)


def check_adapted_layers(subject: Subject) -> Finding:
    """LoRA reaches the attention of every layer of the language model, and no layer outside it.

    Example:
        >>> from metaembed_lite import load
        >>> check_adapted_layers(Subject(load("tiny", device="cpu"), [])).measured[:65]
        'LoRA of rank 32 and alpha 32 on 28 linear layers in 4 of 4 layers'
    """
    backbone = getattr(subject.transformer, "model", None)
    described = None if backbone is None else backbones.describe_adapter(backbone)
    if backbone is None or described is None:
        return Finding(SKIPPED, "the model has no adapter")
    reach = backbones.find_reach(backbone)
    if reach is None:
        return Finding(
            WARNING,
            f"{described}; the language model's layers are not found, so nothing can be said",
            backbones.REMEDIES,
        )
    remedy = "build again: lora_targets=None adapts every linear layer of the language model"
    if reach.outside:
        return Finding(
            FAILED,
            f"{len(reach.outside)} of the adapted layers are outside the language model, such as "
            f"{_name_some(reach.outside)}",
            remedy,
        )
    if reach.without_attention:
        numbers = ", ".join(map(str, reach.without_attention))
        return Finding(
            FAILED,
            f"no attention is adapted in layers {numbers} of {reach.n_layers}; {described}",
            remedy,
        )
    return Finding(OK, f"{described}; none outside it")


def _name_some(names: list[str]) -> str:
    return names[0] + (f" (and {len(names) - 1:,} more)" if len(names) > 1 else "")
