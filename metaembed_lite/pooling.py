"""Pooling of an item's vectors: a budget as sentence-transformers' ``token_pooling``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling
from torch import Tensor

from metaembed_lite.arguments import whole_number


class PrefixPooling(BaseTokenPooling):
    """Keeps the first ``r`` vectors of an embedding.

    Args:
        r: the number of vectors to keep, at least 1.
        tasks: "query", "document" or both. Defaults to both. This matters only if the pooling is a
            module of the model.

    Raises:
        ValueError: if ``r`` is not a whole number from 1 up, or an embedding has fewer vectors.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> model.encode_query("3 top-left", token_pooling=PrefixPooling(4)).shape
        torch.Size([4, 32])
    """

    config_keys: ClassVar[list[str]] = ["r", "tasks"]

    def __init__(self, r: int, *, tasks: str | Iterable[str] | None = None) -> None:
        self.r = whole_number(r, "r")
        super().__init__(tasks=_task_list(tasks))

    def pool_one(self, embedding: Tensor) -> Tensor:
        """The first vectors of one item: (R, D) -> (r, D)."""
        if len(embedding) < self.r:
            raise ValueError(
                f"PrefixPooling({self.r}): the embedding has {len(embedding)} vectors; use "
                f"r <= {len(embedding)}"
            )
        return embedding[: self.r]


class SingleVectorPooling(BaseTokenPooling):
    """Reduces token embeddings (T, D) to one vector (1, D).

    Args:
        mode: "last" takes the last token, as decoder-based embedders do, where only this token
            sees all others. "mean" averages over the tokens.
        tasks: "query", "document" or both. Defaults to both.

    Raises:
        ValueError: if ``mode`` is neither "last" nor "mean".

    Example:
        >>> import torch
        >>> SingleVectorPooling("mean").pool_one(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([[0.5000, 0.5000]])
    """

    config_keys: ClassVar[list[str]] = ["mode", "tasks"]

    def __init__(
        self, mode: Literal["last", "mean"] = "last", *, tasks: str | Iterable[str] | None = None
    ) -> None:
        if mode not in ("last", "mean"):
            raise ValueError(f"mode={mode!r}: choose 'last' or 'mean'")
        super().__init__(tasks=_task_list(tasks))
        self.mode = mode

    def pool_one(self, embedding: Tensor) -> Tensor:
        """One vector of one item: (T, D) -> (1, D)."""
        return embedding[-1:] if self.mode == "last" else embedding.mean(dim=0, keepdim=True)


def _task_list(tasks: str | Iterable[str] | None) -> str | list[str]:
    if tasks is None:
        return ["query", "document"]
    return tasks if isinstance(tasks, str) else list(tasks)
