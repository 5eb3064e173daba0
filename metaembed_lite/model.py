"""build() a retriever from a backbone: meta tokens, projection, normalization and LoRA.

``loading.py`` loads a saved or bundled one, and ``saving.py`` saves one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from torch import nn

from metaembed_lite import backbones, checkpoints, hub
from metaembed_lite.adapter import keep_trained_exact
from metaembed_lite.arguments import check_counts, is_finite_number
from metaembed_lite.budget import Budget
from metaembed_lite.encoder import MultiVectorEncoder, configure
from metaembed_lite.meta_tokens import Layout, MetaTokenTransformer, check_dtype

logger = logging.getLogger(__name__)


def build(
    backbone: str = "tiny-vlm",
    r_q: int = 16,
    r_c: int = 64,
    lora_rank: int | None = 32,
    *,
    dim: int | None = None,
    layout: Layout = "joint",
    max_seq_length: int | None = None,
    init_text: tuple[str, str] | None = None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    lora_targets: str | Sequence[str] | None = None,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> MultiVectorEncoder:
    """A backbone with new meta tokens, ready to train: an ordinary ``MultiVectorEncoder``.

    Args:
        backbone: "tiny-vlm", a folder, or a hub id such as "Qwen/Qwen2.5-VL-3B-Instruct".
        r_q: query meta tokens R_q. ``encode_query`` gives (R_q, D) per query. Defaults to 16.
        r_c: candidate meta tokens R_c. ``encode_document`` gives (R_c, D) per candidate. Defaults
            to 64.
        lora_rank: rank of the LoRA matrices on the language model. Only these matrices, the meta
            tokens' rows and the projection train. None adds no adapter, and every weight trains.
            Defaults to the paper's 32.
        dim: D, by a linear projection. Defaults to the backbone's hidden size, as in the paper.
        layout: "joint", the paper's [content; M_q; M_c] for candidates, or "separate". Defaults to
            "joint".
        max_seq_length: the most tokens of an input, including its meta tokens. Longer content is
            cut. Defaults to the backbone's limit.
        init_text: one text for M_q and one for M_c. The meta tokens start at the embeddings of the
            text's tokens, repeated, as with peft's ``prompt_tuning_init_text``. Defaults to random
            draws around the mean of the vocabulary.
        lora_alpha: the update is scaled by lora_alpha / lora_rank. Defaults to the rank (paper).
        lora_dropout: dropout on the LoRA path. Defaults to 0 (paper: 0.1).
        lora_targets: which linear layers of the language model LoRA adapts. Give the ends of their
            names, such as ["q_proj", "v_proj"]. Or give a pattern for full names, such as
            ".*self_attn.(q|k|v|o)_proj". Defaults to all of them, as in the paper.
        device: "cpu", "cuda", ... Defaults to the best available one.
        dtype: the backbone's type, "float32", "bfloat16", "float16" or "float64". "auto" keeps the
            checkpoint's. Trainable weights and embeddings are float32 or float64. Defaults to
            "auto".
        seed: the random seed of the meta tokens, the LoRA matrices and the projection. Defaults to
            0.

    Raises:
        ValueError: on an argument of a wrong type or out of range. Also on a limit that the
            backbone cannot read or that leaves no room for content. Also if the attention of some
            layer is not found in the backbone (see ``lora_targets``).
        OSError: if the backbone is neither a local folder nor a bundled checkpoint and cannot be
            downloaded.

    Example:
        >>> model = build("tiny-vlm", r_q=4, r_c=8, dim=32, lora_rank=4, device="cpu")
        >>> model.encode_query("3 A1").shape  # (R_q, D)
        torch.Size([4, 32])
    """
    full = Budget(r_q, r_c)
    check_counts(lora_rank=lora_rank, dim=dim, max_seq_length=max_seq_length)
    check_lora(lora_rank, lora_alpha, lora_dropout, lora_targets)
    check_dtype(dtype)
    check_device(device)
    _check_start(backbone, init_text, seed)
    torch.manual_seed(int(seed))
    is_local = checkpoints.folder(str(backbone)) is not None or Path(backbone).is_dir()
    try:
        transformer = MetaTokenTransformer(
            backbone, r_q=full.r_q, r_c=full.r_c, layout=layout, model_kwargs={"dtype": dtype}
        )
    except OSError as error:
        if is_local:
            raise
        raise OSError(hub.unreachable(backbone, "backbone", checkpoints.BACKBONES)) from error
    except ValueError as error:  # ours, or that of transformers on a strange configuration
        raise ValueError(f"backbone {str(backbone)!r}: {error}") from error
    init_meta_tokens(transformer, init_text)
    model = assemble(
        transformer, dim=dim, device=device, max_seq_length=max_seq_length,
        lora_rank=lora_rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
        lora_targets=lora_targets,
    )  # fmt: skip
    transformer.content_limit("document")  # raises if the meta tokens leave no room
    return model


def check_lora(rank: Any, alpha: Any, dropout: Any, targets: Any) -> None:
    """Check the settings of LoRA as ``build`` takes them.

    Raises:
        ValueError: naming the argument and its value.

    Example:
        >>> check_lora(rank=32, alpha=None, dropout=0.1, targets=["q_proj", "v_proj"])
    """
    if alpha is not None and not (is_finite_number(alpha) and alpha > 0):
        raise ValueError(f"lora_alpha={alpha!r}: use a number above 0, or None for lora_rank")
    if not (is_finite_number(dropout) and 0 <= dropout < 1):
        raise ValueError(f"lora_dropout={dropout!r}: use a number from 0 to below 1")
    if targets is not None:
        backbones.check_targets(targets)
        if rank is None:
            raise ValueError(
                f"lora_targets={targets!r} with lora_rank=None: LoRA is switched off; "
                "give a rank, or leave lora_targets out"
            )


def check_device(device: Any) -> None:
    """Check that a tensor can be made on a device. None passes.

    Raises:
        ValueError: if torch does not know the device or this machine does not have it.

    Example:
        >>> check_device("cpu")
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).partition(". ")[0]
        raise ValueError(
            f"device={device!r}: use 'cpu', 'cuda', 'mps' or None, whichever this machine has "
            f"({reason})"
        ) from error


def _check_start(backbone: Any, init_text: Any, seed: Any) -> None:
    if not isinstance(backbone, (str, PathLike)) or not str(backbone):
        raise ValueError(f"backbone={backbone!r}: give 'tiny-vlm', a folder or a hub id")
    if init_text is not None:
        pair = isinstance(init_text, (tuple, list)) and len(init_text) == 2
        if not pair or not all(isinstance(text, str) and text for text in init_text):
            raise ValueError(
                f"init_text={init_text!r}: give two texts, (for queries, for candidates), or None"
            )
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: use a whole number from 0 up")


def assemble(
    transformer: Transformer,
    *,
    dim: int | None,
    lora_rank: int | None,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    lora_targets: str | Sequence[str] | None = None,
    max_seq_length: int | None = None,
    pooling: Sequence[nn.Module] = (),
    device: str | None = None,
) -> MultiVectorEncoder:
    """A ``MultiVectorEncoder``: transformer, projection to ``dim``, pooling, L2 norm. With LoRA.

    Args:
        transformer: the backbone.
        pooling: modules on the token embeddings (B, T, D). Defaults to none.
        dim, lora_rank, lora_alpha, lora_dropout, lora_targets, max_seq_length, device: as in
            ``build``.

    Raises:
        ValueError: on a limit that the backbone cannot read.

    Example:
        >>> transformer = MetaTokenTransformer("tiny-vlm", r_q=2, r_c=4)
        >>> model = assemble(transformer, dim=32, lora_rank=None, device="cpu")
        >>> [type(module).__name__ for module in model]
        ['MetaTokenTransformer', 'Dense', 'Normalize']
    """
    dim, max_seq_length = (None if n is None else int(n) for n in (dim, max_seq_length))
    if max_seq_length is not None:
        text = transformer.model.config.get_text_config()
        limit = min(
            getattr(text, "max_position_embeddings", max_seq_length),
            transformer.tokenizer.model_max_length,  # RoBERTa's is two less than its positions
        )
        if max_seq_length > limit:
            raise ValueError(
                f"max_seq_length={max_seq_length}: the backbone reads {limit:,} tokens; use at "
                f"most {limit:,}, or None"
            )
        transformer.max_seq_length = max_seq_length
    hidden = transformer.get_embedding_dimension()
    modules: list[nn.Module] = [transformer]
    if dim is not None:
        projection = Dense(
            hidden, dim, bias=False, activation_function=None, module_input_name="token_embeddings"
        )
        nn.init.orthogonal_(projection.linear.weight)
        modules.append(projection)
    modules += [*pooling, Normalize(module_input_name="token_embeddings")]
    model = MultiVectorEncoder(modules=modules, device=device, similarity_fn_name="maxsim")
    configure(model)
    if lora_rank is not None:
        alpha = lora_rank if lora_alpha is None else lora_alpha
        _add_lora(model, lora_rank, alpha, lora_dropout, lora_targets)
    backbone = transformer.model
    adapted = backbones.describe_adapter(backbone) or "no adapter, every weight trains"
    logger.info("%s: %s", type(backbone).__name__, adapted)
    return model


def init_meta_tokens(transformer: Any, texts: tuple[str, str] | None) -> None:
    """Set the meta tokens' embeddings: from two texts, or random around the vocabulary's mean.

    Args:
        transformer: a backbone with ``meta_ids``. It is changed in place.
        texts: one for M_q and one for M_c, or None for random draws.

    Raises:
        ValueError: if a text has no tokens.

    Example:
        >>> transformer = MetaTokenTransformer("tiny-vlm", r_q=1, r_c=1)
        >>> init_meta_tokens(transformer, ("violin", "violin"))
        >>> rows = [transformer.meta_ids[side][0] for side in ("query", "document")]
        >>> q, c = transformer.model.get_input_embeddings().weight[rows]
        >>> torch.equal(q, c)
        True
    """
    weight = transformer.model.get_input_embeddings().weight
    sides = list(transformer.meta_ids.values())
    with torch.no_grad():
        if texts is None:
            is_word = torch.ones(len(transformer.tokenizer), dtype=torch.bool)
            for ids in sides:
                is_word[[i for i in ids if i < len(is_word)]] = False
            words = weight[: len(is_word)][is_word].float()
            mean, spread = words.mean(0), words.std(0)
            starts = [mean + spread * torch.randn(len(ids), weight.shape[1]) for ids in sides]
        else:
            starts = []
            for ids, text in zip(sides, texts, strict=True):
                tokens = transformer.tokenizer(text, add_special_tokens=False)["input_ids"]
                if not tokens:
                    raise ValueError(f"init_text {text!r} has no tokens; use words, or None")
                starts.append(weight[[tokens[i % len(tokens)] for i in range(len(ids))]])
        for ids, start in zip(sides, starts, strict=True):
            weight[ids] = start.to(weight.dtype)


def _add_lora(
    model: MultiVectorEncoder,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str] | None,
) -> None:
    backbone = model[0].model
    if targets is None:
        chosen: str | list[str] = backbones.lora_targets(backbone)
    else:
        chosen = backbones.chosen_targets(backbone, targets)
    tokens = None
    meta_ids = [i for ids in getattr(model[0], "meta_ids", {}).values() for i in ids]
    if meta_ids:
        rows = backbone.get_input_embeddings()
        name = next(n for n, module in backbone.named_modules() if module is rows)
        tokens = {name: meta_ids}
    model.add_adapter(
        LoraConfig(
            r=int(rank),
            lora_alpha=int(alpha) if alpha == int(alpha) else float(alpha),
            lora_dropout=float(dropout),
            target_modules=chosen,
            trainable_token_indices=tokens,
        )
    )
    keep_trained_exact(model[0])
