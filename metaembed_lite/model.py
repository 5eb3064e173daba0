"""build() a retriever from a backbone; load() one that was saved or that ships with the package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from metaembed_lite import checkpoints
from metaembed_lite.backbones import lora_targets
from metaembed_lite.budget import Budget
from metaembed_lite.meta_tokens import Layout, MetaTokenTransformer

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Transformer

MODEL_CARD = Path(__file__).parent / "model_card.md"  # the README that a saved model gets


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
    lora_alpha: int | None = None,
    lora_dropout: float = 0.0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> MultiVectorEncoder:
    """A backbone with fresh meta tokens, ready to train: an ordinary ``MultiVectorEncoder``.

    Args:
        backbone: "tiny-vlm", a folder, or a hub id such as "Qwen/Qwen2.5-VL-3B-Instruct".
        r_q: query meta tokens R_q; ``encode_query`` gives (R_q, D).
        r_c: candidate meta tokens R_c; ``encode_document`` gives (R_c, D).
        lora_rank: rank of the LoRA matrices on the language model (paper: 32). Only they, the
            meta tokens' rows and the projection train. None: no adapter, every weight trains.
        dim: D, by a linear projection; None keeps the backbone's hidden size, as in the paper.
        layout: "joint", the paper's [content; M_q; M_c] for candidates, or "separate".
        max_seq_length: the most tokens of an input, meta tokens among them: longer content is cut.
            None keeps the backbone's own limit.
        init_text: a text for M_q and one for M_c, whose tokens' embeddings the meta tokens start
            at, over and over, as peft's ``prompt_tuning_init_text`` does for soft prompts. None:
            they start at draws around the vocabulary's mean.
        lora_alpha: scale of the update is lora_alpha / lora_rank; None: equal to the rank (paper).
        lora_dropout: dropout on the LoRA path (paper: 0.1).
        device: "cpu", "cuda", ...; None takes the best there is.
        dtype: weights' type, "float32", "bfloat16", ...; "auto" keeps the checkpoint's.
        seed: of the meta tokens, the LoRA matrices and the projection.

    Raises:
        ValueError: on counts below one, a limit beyond the backbone's positions or without room
            for content, or a backbone whose layers LoRA does not know.
        OSError: if the backbone is no folder, ships not, and the hub cannot be reached.
    """
    Budget(r_q, r_c)
    if isinstance(init_text, str):
        raise ValueError(f"init_text={init_text!r}: give two texts, (for queries, for candidates)")
    check_counts(lora_rank=lora_rank, dim=dim, max_seq_length=max_seq_length)
    torch.manual_seed(seed)
    try:
        transformer = MetaTokenTransformer(
            backbone, r_q=r_q, r_c=r_c, layout=layout, model_kwargs={"dtype": dtype}
        )
    except OSError as error:
        raise OSError(_unreachable(backbone, "backbone", checkpoints.BACKBONES)) from error
    _start_meta_tokens(transformer, init_text)
    model = assemble(
        transformer, dim=dim, device=device, max_seq_length=max_seq_length,
        lora_rank=lora_rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
    )  # fmt: skip
    transformer.content_limit("document")  # an error if the meta tokens fill it
    return model


def check_counts(**counts: int | None) -> None:
    """A count below one is a ValueError; None is the default of all of them."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: use a whole number from 1 up, or None")


def assemble(
    transformer: Transformer,
    *,
    dim: int | None,
    lora_rank: int | None,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.0,
    max_seq_length: int | None = None,
    pooling: Sequence[nn.Module] = (),
    device: str | None = None,
) -> MultiVectorEncoder:
    """A ``MultiVectorEncoder``: transformer, projection to ``dim``, pooling, L2 norm; LoRA.

    Args are those of ``build``; ``pooling`` holds modules on the token embeddings (B, T, D).
    """
    from sentence_transformers.base.modules import Dense, Normalize

    from metaembed_lite.encoder import MultiVectorEncoder

    if max_seq_length is not None:
        text = transformer.model.config.get_text_config()
        most = min(
            getattr(text, "max_position_embeddings", max_seq_length),
            transformer.tokenizer.model_max_length,  # RoBERTa's is two less than its positions
        )
        if max_seq_length > most:
            raise ValueError(
                f"max_seq_length={max_seq_length}: the backbone reads {most:,} tokens; use no more "
                "than that, or None"
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
    _finish(model)
    if lora_rank is not None:
        _add_lora(model, lora_rank, lora_alpha or lora_rank, lora_dropout)
    return model


def _start_meta_tokens(transformer: MetaTokenTransformer, texts: tuple[str, str] | None) -> None:
    """Write the meta tokens' rows: two texts' embeddings, or draws around the vocabulary's mean."""
    weight = transformer.model.get_input_embeddings().weight
    sides = list(transformer.meta_ids.values())
    with torch.no_grad():
        if texts is None:
            words = torch.ones(len(transformer.tokenizer), dtype=torch.bool)
            for ids in sides:
                words[[i for i in ids if i < len(words)]] = False
            others = weight[: len(words)][words].float()
            mean, spread = others.mean(0), others.std(0)
            starts = [mean + spread * torch.randn(len(ids), weight.shape[1]) for ids in sides]
        else:
            starts = []
            for ids, text in zip(sides, texts, strict=True):
                said = transformer.tokenizer(text, add_special_tokens=False)["input_ids"]
                if not said:
                    raise ValueError(f"init_text {text!r} has no tokens; use words, or None")
                starts.append(weight[[said[i % len(said)] for i in range(len(ids))]])
        for ids, start in zip(sides, starts, strict=True):
            weight[ids] = start.to(weight.dtype)


def _add_lora(model: MultiVectorEncoder, rank: int, alpha: int, dropout: float) -> None:
    from peft import LoraConfig

    backbone = model[0].model
    tokens = None
    if isinstance(model[0], MetaTokenTransformer):
        rows = backbone.get_input_embeddings()
        name = next(n for n, module in backbone.named_modules() if module is rows)
        tokens = {name: model[0].meta_ids["query"] + model[0].meta_ids["document"]}
    model.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=lora_targets(backbone),
            trainable_token_indices=tokens,
        )
    )
    for parameter in model.parameters():  # small steps round away in bfloat16
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def load(
    name_or_path: str | Path, device: str | None = None, dtype: str | None = None
) -> MultiVectorEncoder:
    """A saved model: a shipped name ("tiny", "tiny-scenes"), a folder, or a hub id.

    No code that a checkpoint carries is run: module classes come from sentence-transformers and
    from this package or the model is refused.

    Args:
        name_or_path: what to load.
        device: "cpu", "cuda", ...; None takes the best there is.
        dtype: the backbone's type, "bfloat16", ...; None keeps the checkpoint's.

    Raises:
        FileNotFoundError: if a folder holds no saved model.
        OSError: if the name is no folder, ships not, and the hub cannot be reached.
        ValueError: if the model asks for classes from anywhere else.
    """
    from metaembed_lite import baselines, budget
    from metaembed_lite.encoder import MultiVectorEncoder
    from metaembed_lite.item_transformer import ItemTransformer

    path = checkpoints.folder(str(name_or_path)) or Path(name_or_path)
    if not path.exists():
        path = _from_hub(str(name_or_path))
    listing = path / "modules.json"
    if not listing.is_file():
        raise FileNotFoundError(
            f"{path} has no modules.json: not a saved model. Save one with "
            "model.save_pretrained(folder); to start from a backbone use build()"
        )
    for module in json.loads(listing.read_text()):
        if not module["type"].startswith(("sentence_transformers.", "metaembed_lite.")):
            raise ValueError(
                f"{path} asks for the class {module['type']!r}: only classes of "
                "sentence-transformers and metaembed_lite are loaded, none that a checkpoint "
                "brings along"
            )
    own = {  # handed over, so that trust_remote_code stays False for all that is read
        "metaembed_lite.meta_tokens.MetaTokenTransformer": MetaTokenTransformer,
        "metaembed_lite.item_transformer.ItemTransformer": ItemTransformer,
        "sentence_transformers.base.modules.transformer.Transformer": ItemTransformer,
        "metaembed_lite.budget.PrefixPooling": budget.PrefixPooling,
        "metaembed_lite.baselines.SingleVector": baselines.SingleVector,
    }
    kwargs = {} if dtype is None else {"model_kwargs": {"dtype": dtype}}
    model = MultiVectorEncoder._load_with_module_classes(str(path), own, device=device, **kwargs)
    return _finish(model)


def _finish(model: MultiVectorEncoder) -> MultiVectorEncoder:
    """What holds for every model, built or loaded: its card, and float32 behind the backbone."""
    model.model_card_data.template_path = MODEL_CARD
    for module in list(model)[1:]:
        module.float()
    return model


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.py", "*.bin", "*.pt", "*.onnx"]))
    except Exception as error:
        raise OSError(_unreachable(name, "model", tuple(checkpoints.MODELS))) from error


def _unreachable(name: str, kind: str, shipped: tuple[str, ...]) -> str:
    return (
        f"{kind} {name!r}: there is no such folder, it does not ship with metaembed_lite "
        f"(these do: {', '.join(shipped)}), and it could not be fetched from the hub. "
        "Check the spelling and the connection, or give the path of a local copy"
    )


def vectors(model: MultiVectorEncoder) -> Budget:
    """A model's full budget: its numbers of query and candidate meta tokens.

    Raises:
        ValueError: if the model was not built with meta tokens.
    """
    if not isinstance(model[0], MetaTokenTransformer):
        raise ValueError(
            f"the model's first module is {type(model[0]).__name__}, not MetaTokenTransformer: it "
            "has no meta tokens and so no budget; make one with build() or load()"
        )
    return Budget(model[0].r_q, model[0].r_c)
