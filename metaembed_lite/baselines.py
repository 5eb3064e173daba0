"""What MetaEmbed is compared with: one vector per item, one per token, or a fixed number.

All are ordinary ``MultiVectorEncoder`` models on the same backbone with the same LoRA, without
meta tokens. So ``train`` accepts them with a loss of sentence-transformers, and ``encode`` accepts
them too. With one vector per item, late interaction compares one vector with one other, and MaxSim
is the cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

from metaembed_lite.arguments import check_counts, whole_number
from metaembed_lite.attention_clustering import AttentionClusterTransformer
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.model import assemble, init_meta_tokens
from metaembed_lite.pooling import LinearPooling, SingleVectorPooling

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def single_vector(
    backbone: str = "tiny-vlm",
    mode: Literal["last", "mean"] = "last",
    *,
    dim: int | None = None,
    lora_rank: int | None = 32,
    max_seq_length: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> MultiVectorEncoder:
    """A bi-encoder: one vector per item, (1, D).

    Args:
        backbone: as in ``build``.
        mode: "last" token or "mean" of all tokens. Defaults to "last".
        dim, lora_rank, max_seq_length, device, seed: as in ``build``.

    Raises:
        ValueError: on an unknown ``mode``, counts below one, or a limit beyond the backbone's
            positions.

    Example:
        >>> single_vector("tiny-vlm", lora_rank=None, device="cpu").encode_query("3 A1").shape
        torch.Size([1, 128])
    """
    check_counts(dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length)
    pooling = [SingleVectorPooling(mode)]
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
    """One vector per token, (T, D): the late interaction of ColBERT, and of ColPali on images.

    Args:
        backbone: as in ``build``.
        patches_only: keep only a candidate's vectors at image tokens. Defaults to False.
        dim, lora_rank, max_seq_length, device, seed: as in ``build``.

    Raises:
        ValueError: with ``patches_only`` on a backbone that has no image token, on counts below
            one, or a limit beyond the backbone's positions.

    Example:
        >>> model = token_vectors("tiny-vlm", lora_rank=None, device="cpu")
        >>> len(model.encode_query("3")) < len(model.encode_query("3 A1"))
        True
    """
    check_counts(dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length)
    transformer = _transformer(backbone, seed)
    image = getattr(transformer.config, "image_token_id", None)
    if patches_only and image is None:
        raise ValueError(f"patches_only=True: {backbone!r} has no image token; leave it out")
    mask = MultiVectorMask(keep_only_token_ids=[image] if patches_only else None)
    return assemble(
        transformer, dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length,
        pooling=[mask], device=device,
    )  # fmt: skip


def constant_vectors(
    backbone: str = "tiny-vlm",
    r_c: int = 16,
    max_tokens: int = 128,
    *,
    dim: int | None = None,
    lora_rank: int | None = 32,
    max_seq_length: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> MultiVectorEncoder:
    """ConstBERT: a learned linear map from a candidate's token vectors to R_c vectors, (R_c, D).

    Queries keep all their token vectors, (T, D). The map is ``LinearPooling``. It trains together
    with LoRA, at ``fresh_learning_rate``, and is saved with the model.

    Args:
        backbone: as in ``build``.
        r_c: vectors per candidate. Defaults to 16.
        max_tokens: the most tokens of a candidate. Longer texts are cut, as by ``max_seq_length``.
            An image that alone takes more raises an error. Defaults to 128.
        dim, lora_rank, max_seq_length, device, seed: as in ``build``.

    Raises:
        ValueError: on counts below one, or limits beyond the backbone's positions.

    Example:
        >>> model = constant_vectors("tiny-vlm", r_c=4, lora_rank=None, device="cpu")
        >>> model.encode_document(["a 3", "3 A1, 7 B2"])[1].shape
        torch.Size([4, 128])
    """
    check_counts(dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length)
    r_c = whole_number(r_c, "r_c")
    max_tokens = whole_number(max_tokens, "max_tokens")
    transformer = _transformer(backbone, seed)
    positions = transformer.max_seq_length
    if positions is not None and max_tokens > positions:
        raise ValueError(
            f"max_tokens={max_tokens}: the backbone reads {positions:,} tokens; use at most "
            f"{positions:,}"
        )
    transformer.document_length = max_tokens
    # The mask comes first, because it pads inputs that the backbone reads without padding.
    pooling = [MultiVectorMask(), LinearPooling(r_c, max_tokens)]
    return assemble(
        transformer, dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length,
        pooling=pooling, device=device,
    )  # fmt: skip


def attention_clusters(
    backbone: str = "tiny-vlm",
    r_c: int = 16,
    *,
    dim: int | None = None,
    lora_rank: int | None = 32,
    max_seq_length: int | None = None,
    device: str | None = None,
    seed: int = 0,
) -> MultiVectorEncoder:
    """A small version of OmniColPress' attention-guided clustering, (R_c, D) per candidate.

    Learned tokens choose R_c token states of a candidate, around which the others are averaged. See
    ``AttentionClusterTransformer``. Queries keep all their token vectors, (T, D).

    Args:
        backbone: as in ``build``.
        r_c: learned tokens, and vectors per candidate. Defaults to 16.
        dim, lora_rank, max_seq_length, device, seed: as in ``build``.

    Raises:
        ValueError: on counts below one, a limit beyond the backbone's positions, or a backbone
            whose attention cannot be read.

    Example:
        >>> model = attention_clusters("tiny-vlm", r_c=4, lora_rank=None, device="cpu")
        >>> model.encode_document("3 A1, 7 B2").shape
        torch.Size([4, 128])
    """
    check_counts(dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length)
    torch.manual_seed(seed)
    transformer = AttentionClusterTransformer(backbone, r_c=r_c)
    init_meta_tokens(transformer, None)
    return assemble(
        transformer, dim=dim, lora_rank=lora_rank, max_seq_length=max_seq_length, device=device
    )


def _transformer(backbone: str, seed: int) -> ItemTransformer:
    torch.manual_seed(seed)
    return ItemTransformer(backbone)
