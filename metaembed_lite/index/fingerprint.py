"""A short text that tells one model's weights from another's."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

VALUES_PER_TENSOR = 4096  # evenly spaced, so that a model of 7 B parameters takes a second


def fingerprint(model: nn.Module) -> str:
    """Sixteen hex digits from the names, shapes and values of a model's weights.

    An index stores them, because vectors of two models cannot be compared. The values are rounded
    to bfloat16 first, so a model has the same fingerprint in float32 and in bfloat16.

    Args:
        model: any PyTorch module, for example from ``build`` or ``load``.

    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> before = fingerprint(layer)
        >>> before == fingerprint(layer.to(torch.bfloat16))
        True
        >>> torch.nn.init.zeros_(layer.weight).shape
        torch.Size([2, 4])
        >>> before == fingerprint(layer)
        False
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().flatten()
        step = max(1, len(values) // VALUES_PER_TENSOR)
        sample = values[::step].to("cpu", torch.bfloat16).view(torch.int16)
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
