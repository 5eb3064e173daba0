"""What MetaEmbed is measured against: one vector an item, or one vector a token.

Both are ordinary ``MultiVectorEncoder`` models on the same backbone with the same LoRA, without
meta tokens, so that ``train`` and ``sweep``'s measures serve them as well. A model of one vector is
a late interaction of one with one: MaxSim is then the cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling, MultiVectorMask
from torch import Tensor

from metaembed_lite.arguments import check_counts
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.model import assemble

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class SingleVector(BaseTokenPooling):
    """Token embeddings (T, D) to one vector (1, D): the last token's, or the mean of all.

    Args:
        how: "last", as in decoder-based embedders, whose last token alone sees all; or "mean".
        tasks: on which sides; None: both.

    Raises:
        ValueError: on another ``how``.
    """

    config_keys: ClassVar[list[str]] = ["how", "tasks"]

    def __init__(
        self, how: Literal["last", "mean"] = "last", *, tasks: list[str] | None = None
    ) -> None:
        if how not in ("last", "mean"):
            raise ValueError(f"how={how!r}: choose 'last' or 'mean'")
        super().__init__(tasks=["query", "document"] if tasks is None else tasks)
        self.how = how

    def pool_one(self, embedding: Tensor) -> Tensor:
        return embedding[-1:] if self.how == "last" else embedding.mean(dim=0, keepdim=True)


def single_vector(
    backbone: str = "tiny-vlm",
    how: Literal["last", "mean"] = "last",
    *,
    dim: int | None = None,
    lora_rank: int | None = 32,
    max_seq_length: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> MultiVectorEncoder:
    """A model of one vector an item, (1, D): the bi-encoder.

    Args:
        backbone: as in ``build``.
        how: "last" token or "mean" of all tokens.
        dim, lora_rank, max_seq_length, device, seed: as in ``build``.

    Raises:
        ValueError: on another ``how``, counts below one, or a limit beyond the backbone's
            positions.
    """
    check_counts(dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length)
    pooling = [SingleVector(how)]
    transformer = _transformer(backbone, seed)
    return assemble(
        transformer, dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length,
        pooling=pooling, device=device,
    )  # fmt: skip


def token_vectors(
    backbone: str = "tiny-vlm",
    *,
    patches_only: bool = False,
    dim: int | None = None,
    lora_rank: int | None = 32,
    max_seq_length: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> MultiVectorEncoder:
    """A model of one vector a token, (T, D): ColBERT's late interaction, and ColPali's on images.

    Args:
        backbone: as in ``build``.
        patches_only: of a candidate keep only the vectors of its image's tokens.
        dim, lora_rank, max_seq_length, device, seed: as in ``build``.

    Raises:
        ValueError: with ``patches_only`` on a backbone that has no image token, on counts below
            one, or a limit beyond the backbone's positions.
    """
    check_counts(dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length)
    transformer = _transformer(backbone, seed)
    image = getattr(transformer.config, "image_token_id", None)
    if patches_only and image is None:
        raise ValueError(f"patches_only=True: {backbone!r} has no image token; use it without")
    mask = MultiVectorMask(keep_only_token_ids=[image] if patches_only else None)
    return assemble(
        transformer, dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length,
        pooling=[mask], device=device,
    )  # fmt: skip


def _transformer(backbone: str, seed: int) -> ItemTransformer:
    torch.manual_seed(seed)
    return ItemTransformer(backbone)
