"""build() a retriever from a backbone, save() it, and load() one that was saved or is bundled."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from metaembed_lite import backbones, checkpoints, hub, saved_model
from metaembed_lite.adapter import AdapterTransformer, keep_trained_exact
from metaembed_lite.arguments import check_counts, is_finite_number
from metaembed_lite.budget import Budget
from metaembed_lite.encoder import MultiVectorEncoder
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.locking import lock
from metaembed_lite.meta_tokens import Layout, MetaTokenTransformer, check_dtype
from metaembed_lite.model_folder import check_output, interrupted, is_finished, replacing
from metaembed_lite.scoring import at_least_float32

if TYPE_CHECKING:
    from sentence_transformers.base.modules import Transformer

logger = logging.getLogger(__name__)

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
    lora_alpha: float | None = None,
    lora_dropout: float = 0.0,
    lora_targets: str | Sequence[str] | None = None,
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
        lora_targets: which linear layers of the language model LoRA adapts: the ends of their
            names, such as ["q_proj", "v_proj"], or a pattern for whole names, such as
            ".*self_attn.(q|k|v|o)_proj". None: all of them, as in the paper.
        device: "cpu", "cuda", ...; None takes the best there is.
        dtype: the backbone's type, "float32", "bfloat16", "float16" or "float64"; "auto" keeps the
            checkpoint's. What trains, and the embeddings, are float32 or float64.
        seed: of the meta tokens, the LoRA matrices and the projection.

    Raises:
        ValueError: on an argument of a wrong type or out of range, a limit beyond the backbone's
            positions or without room for content, or a backbone in which some layer's attention
            is not found (see ``lora_targets``).
        OSError: if the backbone is neither a local folder nor a bundled checkpoint and cannot be
            downloaded.
    """
    Budget(r_q, r_c)
    check_counts(lora_rank=lora_rank, dim=dim, max_seq_length=max_seq_length)
    check_lora(lora_rank, lora_alpha, lora_dropout, lora_targets)
    check_dtype(dtype)
    check_device(device)
    _check_start(backbone, init_text, seed)
    torch.manual_seed(int(seed))
    is_local = checkpoints.folder(str(backbone)) is not None or Path(backbone).is_dir()
    try:
        transformer = MetaTokenTransformer(
            backbone, r_q=r_q, r_c=r_c, layout=layout, model_kwargs={"dtype": dtype}
        )
    except OSError as error:
        if is_local:
            raise
        raise OSError(hub.unreachable(backbone, "backbone", checkpoints.BACKBONES)) from error
    _start_meta_tokens(transformer, init_text)
    model = assemble(
        transformer, dim=dim, device=device, max_seq_length=max_seq_length,
        lora_rank=lora_rank, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
        lora_targets=lora_targets,
    )  # fmt: skip
    transformer.content_limit("document")  # an error if the meta tokens fill it
    return model


def check_lora(rank: Any, alpha: Any, dropout: Any, targets: Any) -> None:
    """Check the settings of LoRA as ``build`` takes them.

    Raises:
        ValueError: naming the argument and its value.
    """
    if alpha is not None and not (is_finite_number(alpha) and alpha > 0):
        raise ValueError(f"lora_alpha={alpha!r}: use a number above 0, or None for lora_rank")
    if not (is_finite_number(dropout) and 0 <= dropout < 1):
        raise ValueError(f"lora_dropout={dropout!r}: use a number from 0 to below 1")
    if targets is not None:
        backbones.check_targets(targets)
        if rank is None:
            raise ValueError(
                f"lora_targets={targets!r} with lora_rank=None: without LoRA nothing is targeted; "
                "give a rank, or leave lora_targets out"
            )


def check_device(device: Any) -> None:
    """Check that a tensor can be made on a device; None passes.

    Raises:
        ValueError: if torch does not know the device or this machine does not have it.
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
    """A ``MultiVectorEncoder``: transformer, projection to ``dim``, pooling, L2 norm; LoRA.

    Args are those of ``build``; ``pooling`` holds modules on the token embeddings (B, T, D).
    """
    from sentence_transformers.base.modules import Dense, Normalize

    dim, max_seq_length = (None if n is None else int(n) for n in (dim, max_seq_length))
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
        alpha = lora_rank if lora_alpha is None else lora_alpha
        _add_lora(model, lora_rank, alpha, lora_dropout, lora_targets)
    backbone = transformer.model
    adapted = backbones.describe_adapter(backbone) or "no adapter, every weight trains"
    logger.info("%s: %s", type(backbone).__name__, adapted)
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


def _add_lora(
    model: MultiVectorEncoder,
    rank: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str] | None,
) -> None:
    from peft import LoraConfig

    backbone = model[0].model
    if targets is None:
        chosen: str | list[str] = backbones.lora_targets(backbone)
    else:
        chosen = backbones.chosen_targets(backbone, targets)
    tokens = None
    if isinstance(model[0], MetaTokenTransformer):
        rows = backbone.get_input_embeddings()
        name = next(n for n, module in backbone.named_modules() if module is rows)
        tokens = {name: model[0].meta_ids["query"] + model[0].meta_ids["document"]}
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


def load(
    name_or_path: str | Path,
    device: str | None = None,
    dtype: str | None = None,
    *,
    backbone: str | Path | None = None,
) -> MultiVectorEncoder:
    """A saved model, ready to encode or to train further.

    A checkpoint is data, never code: classes come from a fixed list, weights from safetensors
    files, and a file that asks for anything else, is damaged or is missing is refused by name.

    Args:
        name_or_path: a bundled name ("tiny", "tiny-scenes"), a folder, or a hub id.
        device: "cpu", "cuda", ... Defaults to the best one there is.
        dtype: the backbone's type, "bfloat16", ... Defaults to the checkpoint's.
        backbone: where the backbone of a LoRA model is now, if it has moved: a folder or a hub id.

    Raises:
        FileNotFoundError: if a folder holds no saved model, or a file or the backbone is missing.
        OSError: if the name is neither a folder nor bundled and cannot be fetched from the hub.
        ValueError: naming the file that is damaged or asks for what ``load`` does not do.
    """
    path = checkpoints.folder(str(name_or_path)) or Path(name_or_path)
    if not path.exists():
        if interrupted(path):
            raise FileNotFoundError(
                f"{path} was being saved when its process ended: save there again, or "
                "train(..., resume=True), to repair it"
            )
        path = hub.fetch(str(name_or_path), "model", tuple(checkpoints.MODELS))
    classes = _module_classes()
    entries = saved_model.check(path, classes)
    model_kwargs: dict[str, Any] = {"use_safetensors": True, "weights_only": True}
    if dtype is not None:
        model_kwargs["dtype"] = dtype
    modules = OrderedDict()
    for entry in entries:
        module_class = classes[entry["type"]]
        takes_backbone = backbone is not None and issubclass(module_class, AdapterTransformer)
        try:
            modules[entry["name"]] = module_class.load(
                str(path),
                subfolder=entry["path"],
                local_files_only=True,
                model_kwargs=dict(model_kwargs),
                init_defaults={"backbone": str(backbone)} if takes_backbone else None,
            )
        except (ValueError, OSError):
            raise
        except Exception as error:  # what transformers makes of odd configurations
            raise ValueError(
                f"{path / entry['path']}: {entry['type']} cannot be made from its files "
                f"({type(error).__name__}: {error}): they are damaged, or of another version"
            ) from error
    config = saved_model.read_json(path / saved_model.MODEL)
    later = list(modules.values())[1:]
    exact = [module.state_dict() for module in later]
    model = MultiVectorEncoder(
        modules=modules,
        device=device,
        prompts=config.get("prompts"),
        default_prompt_name=config.get("default_prompt_name"),
        similarity_fn_name=config.get("similarity_fn_name", "maxsim"),
    )
    _check_loaded(model, path)
    card = path / "README.md"
    model.loaded_card = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    _finish(model)
    for module, state in zip(later, exact, strict=True):  # not rounded to the backbone's type
        module.load_state_dict(state)
    return model


def _module_classes() -> dict[str, Any]:
    """The classes that a saved model may name, by the name that it uses."""
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    from metaembed_lite.baselines import SingleVector
    from metaembed_lite.budget import PrefixPooling

    classes = (
        MetaTokenTransformer, ItemTransformer, Dense, Normalize, MultiVectorMask, PrefixPooling,
        SingleVector,
    )  # fmt: skip
    named = {f"{c.__module__}.{c.__name__}": c for c in classes}
    return {**named, "sentence_transformers.base.modules.transformer.Transformer": ItemTransformer}


def _check_loaded(model: MultiVectorEncoder, path: Path) -> None:
    """Check that weights are finite and that the trained meta tokens match r_q and r_c."""
    whole = (path / "config.json").is_file()
    for name, parameter in model.named_parameters():
        read_here = whole or parameter.requires_grad
        if read_here and not torch.isfinite(parameter).all():
            raise ValueError(
                f"{path}: the weights {name} hold NaN or infinity; train the model again"
            )
    first = model[0]
    if not isinstance(first, MetaTokenTransformer):
        return
    full = f"r_q={first.r_q}, r_c={first.r_c}"
    vocabulary = first.tokenizer.get_vocab()
    if f"<|meta_q_{first.r_q}|>" in vocabulary or f"<|meta_c_{first.r_c}|>" in vocabulary:
        raise ValueError(
            f"{path / saved_model.TRANSFORMER} says {full}, and the tokenizer has more meta "
            "tokens: the model was trained with other numbers"
        )
    wanted = sorted(first.meta_ids["query"] + first.meta_ids["document"])
    for config in getattr(first.model, "peft_config", {}).values():
        trained = sorted(i for ids in (config.trainable_token_indices or {}).values() for i in ids)
        if trained != wanted:
            raise ValueError(
                f"{path / saved_model.TRANSFORMER} says {full}, and the adapter was trained with "
                f"{len(trained)} meta tokens, not {len(wanted)}"
            )


def save(model: MultiVectorEncoder, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a model to a folder, whole or not at all.

    Training checkpoints that lie in the folder stay.

    Args:
        model: from ``build``, ``load`` or ``train``.
        folder: a new or empty folder, or with ``overwrite`` one that holds a saved model.
        overwrite: replace a saved model. Anything else is never replaced.

    Raises:
        ValueError: if the folder holds a saved model and ``overwrite`` is False, or anything that
            this project did not write; if a weight is not finite.
        BlockingIOError: if another process writes to the folder.
    """
    folder = Path(os.path.abspath(folder))
    check_output(folder)
    check_not_backbone(model, folder)
    if is_finished(folder) and not overwrite:
        raise ValueError(f"{folder} holds a saved model: pass overwrite=True to replace it")
    with lock(folder, "saving a model"):
        write_model(model, folder)


def check_not_backbone(model: MultiVectorEncoder, folder: Path) -> None:
    """Raises ValueError if a model would replace its own backbone, or lie in its folder."""
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return  # it holds all its weights
    backbone = Path(getattr(model[0], "backbone_name", None) or "")
    if not backbone.is_absolute() or not backbone.is_dir():
        return
    here, base = folder.resolve(), backbone.resolve()
    if here == base or here in base.parents or base in here.parents:
        raise ValueError(
            f"output {str(folder)!r} overlaps {str(backbone)!r}, the backbone of this model, which "
            "it needs: name a new folder for the model"
        )


def write_model(
    model: MultiVectorEncoder, folder: Path, notes: Mapping[str, str] | None = None
) -> None:
    """``save`` for a caller that has the folder's lock and may replace the model in it.

    Args:
        notes: contents of further text files, by file name.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not torch.isfinite(parameter).all():
            raise ValueError(
                f"the weights {name} hold NaN or infinity, so the model is not saved; {folder} is "
                "as it was. Lower the learning rate, or go on from an earlier checkpoint"
            )
    with replacing(folder) as new:
        model.save_pretrained(str(new))
        card = getattr(model, "loaded_card", "")
        if (
            card and "generated_from_trainer" not in model.model_card_data.tags
        ):  # not trained since: its card still holds
            (new / "README.md").write_text(card, encoding="utf-8")
        for name, text in (notes or {}).items():
            (new / name).write_text(text, encoding="utf-8")


def _finish(model: MultiVectorEncoder) -> MultiVectorEncoder:
    """What holds for every model, built or loaded: its card, and float32 behind the backbone."""
    model.model_card_data.template_path = MODEL_CARD
    if isinstance(model[0], MetaTokenTransformer):  # it hands on the type of its ``precision``
        exact = at_least_float32(model[0].precision)
        model[0].precision = exact
        for module in list(model)[1:]:
            module.to(exact.dtype)
    return model


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
