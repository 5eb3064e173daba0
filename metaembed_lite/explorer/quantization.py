"""Vectors as the page stores them: int8 with one scale per vector. ``js/vectors.js`` reads them."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Int8Vectors:
    """Vectors in int8, each with its own scale. They take a quarter of float32's bytes.

    Attributes:
        values: (n, R, D) int8.
        scales: (n, R) float32. A vector is ``values * scale``, off by at most ``scale / 2``.

    Example:
        >>> vectors = Int8Vectors.quantize(torch.tensor([[[0.5, -1.0]]]))
        >>> vectors.values.tolist()
        [[[64, -127]]]
        >>> vectors.dequantize().round(decimals=2).tolist()
        [[[0.5, -1.0]]]
    """

    values: np.ndarray
    scales: np.ndarray

    @classmethod
    def quantize(cls, embeddings: Tensor) -> Int8Vectors:
        """Quantize (n, R, D). The largest absolute value of each vector becomes 127."""
        vectors = embeddings.float().numpy()
        scales = np.abs(vectors).max(axis=2) / 127  # (n, R, D) -> (n, R)
        divisors = np.where(scales > 0, scales, 1.0)[:, :, None]
        return cls(np.rint(vectors / divisors).astype(np.int8), scales.astype(np.float32))

    def dequantize(self) -> Tensor:
        """(n, R, D) float32, the values that the page computes with."""
        return torch.from_numpy(self.values * self.scales[:, :, None])


def to_base64(array: np.ndarray) -> str:
    """The bytes of an array, little-endian, as base64 text.

    Example:
        >>> to_base64(np.array([1, 2, 3], dtype=np.int8))
        'AQID'
    """
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()
