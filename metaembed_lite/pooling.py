"""Pooling of an item's vectors to fewer: a prefix, one vector, clusters, or a learned map.

Each class is a ``token_pooling`` of sentence-transformers' ``encode``, or a module of a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling
from torch import Tensor, nn

from metaembed_lite.arguments import whole_number
from metaembed_lite.clustering import cluster_means, ward_labels


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
        >>> model.encode_query("violin, red apple", token_pooling=PrefixPooling(4)).shape
        torch.Size([4, 128])
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


class WardPooling(BaseTokenPooling):
    """Clusters an item's vectors and keeps the L2-normalized mean of each cluster.

    The clusters are those of sentence-transformers' ``HierarchicalTokenPooling`` without protected
    tokens. That class keeps a fraction of the vectors. Here every item gets the same number. Means
    have a gradient, so a model can be trained through the pooling.

    Args:
        r: the number of vectors to keep, at least 1. An item with fewer vectors keeps them all.
        tasks: "query", "document" or both. Defaults to "document", because queries keep all their
            vectors.

    Raises:
        ValueError: if ``r`` is not a whole number from 1 up.

    Example:
        >>> from metaembed_lite.baselines import token_vectors
        >>> model = token_vectors("tiny-vlm", lora_rank=None, device="cpu")
        >>> model.encode_document("3 A1, 7 B2", token_pooling=WardPooling(4)).shape
        torch.Size([4, 128])
    """

    config_keys: ClassVar[list[str]] = ["r", "tasks"]

    def __init__(self, r: int, *, tasks: str | Iterable[str] | None = None) -> None:
        self.r = whole_number(r, "r")
        super().__init__(tasks=_task_list("document" if tasks is None else tasks))

    def pool_one(self, embedding: Tensor) -> Tensor:
        """The means of one item's clusters: (T, D) -> (at most r, D)."""
        items = embedding[None]  # (1, T, D)
        present = torch.ones(items.shape[:2], dtype=torch.bool, device=embedding.device)
        labels = ward_labels(items, present, [self.r])[0]
        means, mask = cluster_means(items, labels, self.r)
        return means[mask]


class LinearPooling(BaseTokenPooling):
    """r learned linear combinations of an item's token vectors: the pooling of ConstBERT.

    ``[d_1; ...; d_r] = W [t_1; ...; t_T]``, one weight per output vector and token position
    (MacAvaney et al., 2025, arXiv 2504.01818, section 2). The paper writes W as a matrix of
    (T D) x (r D) values. Its released model has 250 x 32, which mixes positions and not dimensions,
    as here. Rows beyond an item's tokens are zero, so padding does not count.

    Args:
        r: the number of vectors per item, at least 1.
        max_tokens: the most tokens that an item can have, at least 1. W is (r, max_tokens).
        tasks: "query", "document" or both. Defaults to "document", because queries keep all their
            vectors.

    Raises:
        ValueError: if a size is not a whole number from 1 up, or an item has more tokens than
            ``max_tokens``.

    Example:
        >>> pooling = LinearPooling(2, max_tokens=8)
        >>> pooling.pool_one(torch.ones(5, 3)).shape
        torch.Size([2, 3])
    """

    config_keys: ClassVar[list[str]] = ["r", "max_tokens", "tasks"]

    def __init__(
        self, r: int, max_tokens: int, *, tasks: str | Iterable[str] | None = None
    ) -> None:
        super().__init__(tasks=_task_list("document" if tasks is None else tasks))
        self.r = whole_number(r, "r")
        self.max_tokens = whole_number(max_tokens, "max_tokens")
        self.linear = nn.Linear(self.max_tokens, self.r, bias=False)

    def pool_one(self, embedding: Tensor) -> Tensor:
        """The combinations of one item's vectors: (T, D) -> (r, D)."""
        length = len(embedding)
        if length > self.max_tokens:
            raise ValueError(
                f"LinearPooling(r={self.r}, max_tokens={self.max_tokens}): the item has {length} "
                "tokens; shorten it, or build and train a model with a larger max_tokens"
            )
        return self.linear.weight[:, :length] @ embedding  # (r, T) @ (T, D)

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the sizes and the weights of the map into a folder."""
        super().save(output_path, *args, **kwargs)
        self.save_torch_weights(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> LinearPooling:
        """Read what ``save`` wrote.

        Args:
            model_name_or_path: a folder or a hub id.
            subfolder: the folder in it. Defaults to none.
            **kwargs: those of sentence-transformers' ``Module.load``.
        """
        pooling = super().load(model_name_or_path, subfolder, **kwargs)
        names = ("token", "cache_folder", "revision", "local_files_only")
        hub_settings = {name: kwargs[name] for name in names if name in kwargs}
        return cls.load_torch_weights(
            model_name_or_path, subfolder=subfolder, model=pooling, **hub_settings
        )


def _task_list(tasks: str | Iterable[str] | None) -> str | list[str]:
    if tasks is None:
        return ["query", "document"]
    return tasks if isinstance(tasks, str) else list(tasks)
