"""How an index stores embeddings: one Arrow column per ring."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, check_nested

STORED = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}
SCALE_BYTES = 4  # int8 keeps one float32 per vector, the value of one step


@dataclass(frozen=True)
class RingColumns:
    """The columns of an index, and what they hold.

    Ring g is the column ``ring{g}``: the candidate vectors that one nested budget adds to the
    budget before it, as one flat list per candidate. An int8 index also has ``scale{g}``. With
    ``rescore``, the same vectors are stored once more in ``exact{g}``, in that type.

    Attributes:
        dim: D, values per vector.
        budgets: nested. The last one is the full budget, (R_q, R_c).
        dtype: of the columns that a search scans: "float32", "float16", "int8" or "binary".
            "binary" keeps the sign of each value.
        rescore: "float32" or "float16", the type of a second copy that rescores the best
            candidates of an int8 or binary scan. Defaults to none.

    Raises:
        ValueError: if a value is none of these, the budgets are not nested, or ``dim`` is not a
            multiple of 8 for "binary".

    Example:
        >>> columns = RingColumns(dim=128, budgets=((1, 1), (2, 4), (4, 8)))
        >>> columns.schema.names
        ['ring0', 'ring1', 'ring2']
        >>> columns.bytes_per_candidate(4)
        1024
    """

    dim: int
    budgets: tuple[Budget, ...]
    dtype: str = "float16"
    rescore: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", whole_number(self.dim, "dim"))
        object.__setattr__(self, "budgets", check_nested(self.budgets))
        if not isinstance(self.dtype, str) or self.dtype not in STORED:
            raise ValueError(f"dtype {self.dtype!r:.80}: choose from {', '.join(STORED)}")
        if self.rescore is not None and str(self.rescore) not in ("float32", "float16"):
            raise ValueError(
                f"rescore {self.rescore!r:.80}: choose float16 or float32, or leave it out"
            )
        if self.rescore and self.dtype in ("float32", "float16"):
            raise ValueError(
                f"rescore={self.rescore!r}: an index of {self.dtype} is scanned exactly; leave "
                "rescore out, or choose dtype int8 or binary"
            )
        if self.dtype == "binary" and self.dim % 8:
            raise ValueError(f"dim={self.dim}: binary packs 8 values per byte; use a multiple of 8")

    @property
    def full_budget(self) -> Budget:
        """(R_q, R_c): how many vectors a query and a candidate have."""
        return self.budgets[-1]

    @property
    def rings(self) -> list[slice]:
        """The candidate vectors of each ring, none of them empty."""
        ends = sorted({budget.r_c for budget in self.budgets})
        return [slice(start, end) for start, end in pairwise([0, *ends])]

    @property
    def schema(self) -> pa.Schema:
        """Arrow fields of all columns."""
        return pa.schema([*self._fields("ring", self.dtype), *self._fields("exact", self.rescore)])

    def _fields(self, prefix: str, dtype: str | None) -> Iterator[pa.Field]:
        if dtype is None:
            return
        for g, ring in enumerate(self.rings):
            n = ring.stop - ring.start
            per_byte = 8 if dtype == "binary" else 1
            yield pa.field(f"{prefix}{g}", pa.list_(STORED[dtype], n * self.dim // per_byte))
            if dtype == "int8":
                yield pa.field(f"scale{g}", pa.list_(pa.float32(), n))

    def names(self, r_c: int, exact: bool = False) -> list[str]:
        """The columns that hold the first ``r_c`` vectors. ``exact``: those that rescore."""
        n_rings = sum(ring.start < r_c for ring in self.rings)
        if exact and self.rescore:
            return [f"exact{g}" for g in range(n_rings)]
        scales = [f"scale{g}" for g in range(n_rings)] if self.dtype == "int8" else []
        return [*(f"ring{g}" for g in range(n_rings)), *scales]

    def bytes_per_candidate(self, r_c: int, exact: bool = False) -> int:
        """Bytes that a search at ``r_c`` vectors reads per candidate: whole rings."""
        dtype = self.rescore if exact and self.rescore else self.dtype
        n = next(ring.stop for ring in self.rings if r_c <= ring.stop)
        if dtype == "binary":
            return n * self.dim // 8
        scales = n * SCALE_BYTES if dtype == "int8" else 0
        return n * self.dim * STORED[dtype].bit_width // 8 + scales

    def encode(self, embeddings: Tensor) -> dict[str, pa.Array]:
        """Arrow columns of the embeddings (N, R_c, D)."""
        columns: dict[str, pa.Array] = {}
        for prefix, dtype in (("ring", self.dtype), ("exact", self.rescore)):
            for g, ring in enumerate(self.rings if dtype else []):
                columns |= _encode(embeddings[:, ring].float(), prefix, g, str(dtype))
        return columns

    def decode(self, columns: Any, r_c: int, exact: bool = False) -> Iterator[Tensor]:
        """The vectors of a record batch, ring by ring, up to the first ``r_c``: (N, n, D) tensors.

        float16 and float32 are views of Arrow's memory, without a copy. int8 and binary come as
        float32.

        Args:
            columns: a record batch or table with the columns of ``names(r_c, exact)``.
            r_c: candidate vectors per item.
            exact: decode the columns that rescore.
        """
        dtype = self.rescore if exact and self.rescore else self.dtype
        prefix = "exact" if exact and self.rescore else "ring"
        for g, ring in enumerate(self.rings):
            if ring.start < r_c:
                n = ring.stop - ring.start
                numbers = _numbers(columns.column(f"{prefix}{g}"))
                scale = _numbers(columns.column(f"scale{g}")) if dtype == "int8" else None
                vectors = _decode(numbers, scale, n, self.dim, str(dtype))
                yield vectors[:, : r_c - ring.start]

    def checksums(self, columns: Any) -> np.ndarray:
        """One CRC-32 per candidate over the bytes of all its vectors: (N,) uint32.

        Args:
            columns: a record batch, table or dict with all columns of ``schema``.
        """
        parts = [_numbers(columns[name]).view(len(columns[name]), -1) for name in self.schema.names]
        sums = np.zeros(len(parts[0]), dtype=np.uint32)
        for part in parts:
            for i, row in enumerate(part.numpy()):
                sums[i] = zlib.crc32(row.data, int(sums[i]))
        return sums


def _numbers(array: pa.FixedSizeListArray | pa.ChunkedArray) -> Tensor:
    """The numbers of a column of lists, flat. A view of Arrow's memory if it is in one piece."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return torch.from_dlpack(array.flatten())


def _encode(vectors: Tensor, prefix: str, g: int, dtype: str) -> dict[str, pa.Array]:
    """The columns of one ring, of vectors (N, n, D) float32."""
    if dtype == "int8":
        scale = vectors.abs().amax(dim=2).clamp_min(torch.finfo(torch.float32).tiny) / 127
        whole = (vectors / scale[:, :, None]).round().to(torch.int8)
        return {f"{prefix}{g}": _lists(whole), f"scale{g}": _lists(scale)}
    if dtype == "binary":
        return {f"{prefix}{g}": _lists(torch.from_numpy(np.packbits(vectors.numpy() > 0, axis=2)))}
    return {f"{prefix}{g}": _lists(vectors.to(getattr(torch, dtype)))}


def _lists(values: Tensor) -> pa.FixedSizeListArray:
    """(N, ...) -> a column of N flat lists."""
    flat = pa.array(values.reshape(-1).numpy())
    return pa.FixedSizeListArray.from_arrays(flat, values[0].numel())


def _decode(numbers: Tensor, scale: Tensor | None, n: int, dim: int, dtype: str) -> Tensor:
    """(N, n, D): float16 and float32 as a view, int8 and binary as float32."""
    if dtype == "binary":
        packed = numbers.view(-1, n, dim // 8).numpy()
        signs = torch.from_numpy(np.unpackbits(packed, axis=2))
        return (signs.float() * 2 - 1) / math.sqrt(dim)
    vectors = numbers.view(-1, n, dim)
    return vectors if scale is None else vectors.float() * scale.view(-1, n, 1)
