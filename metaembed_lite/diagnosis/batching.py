"""Checks of batches: padding sides, batch sizes and masks do not change an embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metaembed_lite.diagnosis.finding import SKIPPED, Finding, judge
from metaembed_lite.diagnosis.subject import TASKS, Subject, difference


def check_padding_side(subject: Subject) -> Finding:
    """Left and right padding give the same embeddings.

    Example:
        >>> from metaembed_lite import load
        >>> check_padding_side(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    tokenizer = subject.tokenizer
    side = getattr(tokenizer, "padding_side", None)
    if side not in ("left", "right"):
        return Finding(SKIPPED, "the tokenizer has no padding side")
    other = "right" if side == "left" else "left"
    largest = 0.0
    for task in TASKS:
        tokenizer.padding_side = other
        try:
            padded = subject.encode(subject.samples, task)
        finally:
            tokenizer.padding_side = side
        largest = max(largest, difference(subject.embeddings[task], padded))
    return judge(
        largest,
        subject.tolerance,
        f"padding on the {other} instead of the {side} changes vectors by {largest:.1e}",
        f"keep the tokenizer's padding_side={side!r}, as in training, or take positions and pooled "
        "tokens from the attention mask",
    )


def check_batch_size(subject: Subject) -> Finding:
    """An item has the same embedding alone and in a batch of mixed lengths and kinds.

    Example:
        >>> from metaembed_lite import load
        >>> check_batch_size(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    largest = 0.0
    for task in TASKS:
        alone = subject.encode(subject.samples, task, batch_size=1)
        largest = max(largest, difference(subject.embeddings[task], alone))
    n = len(subject.samples)
    return judge(
        largest,
        subject.tolerance,
        f"{n} items alone and in a batch of {n} differ by {largest:.1e}",
        "an item's vectors depend on its neighbors: look for masks, for positions that count "
        "padding, and for statistics over the batch",
    )


def check_masks(subject: Subject) -> Finding:
    """What stands in padded positions does not change an embedding.

    Example:
        >>> from metaembed_lite import load
        >>> check_masks(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    largest, n_padded = 0.0, 0
    for task in TASKS:
        features = subject.model.preprocess(subject.texts, task=task)
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if not (isinstance(ids, Tensor) and isinstance(mask, Tensor) and ids.shape == mask.shape):
            continue
        padded = mask == 0  # (B, T)
        n_padded += int(padded.sum())
        word = ids[0][mask[0].bool()].median()  # some token that is not padding
        changed = {**features, "input_ids": ids.masked_fill(padded, int(word))}
        outputs = [_run(subject, version, task) for version in (features, changed)]
        largest = max(largest, difference(*outputs))
    if not n_padded:
        return Finding(SKIPPED, "texts of different lengths are not padded")
    return judge(
        largest,
        subject.tolerance,
        f"other tokens in {n_padded} padded positions change vectors by {largest:.1e}",
        "padding is read as content: pass attention_mask to the backbone, and do not derive it "
        "from the padding token",
    )


@torch.inference_mode()
def _run(subject: Subject, features: dict[str, Any], task: str) -> list[Tensor]:
    """The embeddings of preprocessed inputs, without padding."""
    model = subject.model.eval()
    inputs = {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in features.items()}
    output = model(inputs, task=task)
    pairs = zip(output["token_embeddings"], output["attention_mask"].bool(), strict=True)
    return [vectors[mask].cpu() for vectors, mask in pairs]
