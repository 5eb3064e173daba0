"""Which parameters of a model train, and which dropout stays while they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def freeze_dropout(model: MultiVectorEncoder) -> None:
    """Switch off the dropout of a frozen backbone. That of LoRA stays.

    Dropout regularizes weights, and those of a frozen backbone do not change. Dropout also prevents
    the fast kernels of attention.

    Example:
        >>> from metaembed_lite import build
        >>> model = build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, lora_dropout=0.1, device="cpu")
        >>> freeze_dropout(model)
    """
    if any("lora_" in name for name, _ in model.named_parameters()):
        for name, module in model.named_modules():
            if isinstance(module, nn.Dropout) and "lora_dropout" not in name:
                module.p = 0.0


def describe_trained(model: MultiVectorEncoder) -> str:
    """One line on which parameters train.

    Raises:
        ValueError: if the model's adapter is frozen, or nothing trains.

    Example:
        >>> from metaembed_lite import build
        >>> describe_trained(build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, device="cpu"))
        'training 40,192 of 1,808,896 parameters: LoRA 39,424, meta tokens 768'
    """
    kinds = dict.fromkeys(["LoRA", "meta tokens", "projection", "backbone", "rest"], 0)
    frozen_adapter = False
    for name, parameter in model.named_parameters():
        if "lora_" in name and not parameter.requires_grad:
            frozen_adapter = True
        if not parameter.requires_grad:
            continue
        if "lora_" in name:
            kinds["LoRA"] += parameter.numel()
        elif "trainable_tokens" in name:
            kinds["meta tokens"] += parameter.numel()
        elif name.startswith("1.linear"):
            kinds["projection"] += parameter.numel()
        else:
            kinds["backbone" if name.startswith("0.model") else "rest"] += parameter.numel()
    if frozen_adapter or not sum(kinds.values()):
        raise ValueError(
            f"the model's {'adapter is' if frozen_adapter else 'weights are all'} frozen, so "
            "training would not move it: load it with metaembed_lite.load, or set "
            "requires_grad_(True) on what should train"
        )
    parts = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items() if count)
    total = sum(p.numel() for p in model.parameters())
    return f"training {sum(kinds.values()):,} of {total:,} parameters: {parts}"
