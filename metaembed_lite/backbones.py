"""What differs between families of backbones. No other module knows model types.

Everything else works on any model that sentence-transformers' ``Transformer`` loads. To add a
family:

1. Copy a builder in ``tests/unit/test_backbones.py``, and give it a tiny configuration of the
   family's own classes. Run ``pytest tests/unit -k yourfamily``. The tests name what is missing.
2. If its processor has no chat template, add one to ``CHAT_TEMPLATES``. Then text, image and both
   are laid out by the same rule.
3. If the linear layers of its attention have other names, add them to ``ATTENTION``.
4. If it leaves vocabulary entries untrained for users under another name, extend ``RESERVED``.
5. ``append_tokens`` in meta_tokens.py extends every (B, T, ...) tensor, so extra inputs per token
   need no code. Inputs that the processor does not produce go into ``add_missing_features``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

# For checkpoints whose processor has no template, by model type. PaliGemma is trained on
# "<image>...<bos>text\n". Its processor adds <bos> and the newline if there is an image.
CHAT_TEMPLATES = {
    "paligemma": (
        "{% set image = namespace(seen=false) %}"
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}"
        "{% set image.seen = true %}<image>{% endfor %}{% endfor %}"
        "{% if not image.seen %}{{ bos_token }}{% endif %}"
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}"
        "{% endfor %}{% endfor %}{% if not image.seen %}\n{% endif %}"
    ),
    "mllama": (  # for base checkpoints, because the Instruct ones have a template
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}<|image|>"
        "{% endfor %}{% endfor %}{{ bos_token }}"
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}"
        "{% endfor %}{% endfor %}"
    ),
}

# Families whose processor does not take rows with and without an image in one batch. They are
# processed separately and joined.
APART = frozenset({"paligemma", "mllama"})

# Mllama's tensors of images, with one row per item. In a batch with images, rows without an image
# would attend to a blank image, so these rows also go through the model separately.
MLLAMA_IMAGES = (
    "pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask",
    "num_images_per_sample",
)  # fmt: skip

# The linear layers of an attention block, by the last part of their names. They count only inside
# a module with "att" in its name, such as self_attn, attention or linear_attn. LoRA adapts every
# linear layer of the language model. This table only proves that no layer's attention is missing.
FUSED = {"qkv", "Wqkv", "qkv_proj", "query_key_value", "in_proj_qkv", "in_proj_qkvz"}
ATTENTION = {
    "query": {"q", "q_proj", "q_lin", "query", "query_proj"} | FUSED,
    "key": {"k", "k_proj", "k_lin", "key", "key_proj"} | FUSED,
    "value": {"v", "v_proj", "v_lin", "value", "value_proj"} | FUSED,
    "output": {"o", "o_proj", "out_proj", "out_lin", "Wo", "dense"},
}

REMEDIES = (
    "Name the layers with build(lora_targets=...), train every weight with lora_rank=None, or add "
    "the names to ATTENTION in metaembed_lite/backbones.py"
)

# A pattern of layer names may contain names, ".", "\.", ".*", "\d+" and plain groups such as
# (q|k|v). Without repeated groups, matching is fast.
PLAIN_PATTERN = re.compile(r"(?:\.\*|\\d\+|\\\.|[\w.]|\((?:\w|\\\.|\|)+\))+")

# Vocabulary entries that a backbone leaves untrained for users: BERT, PaliGemma, Llama 3.
RESERVED = re.compile(r"\[unused\d+\]|<unused\d+>|<\|reserved_special_token_\d+\|>")


def add_missing_features(features: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Add inputs that a family's forward pass needs and its processor does not produce.

    Args:
        features: from the processor. They are changed in place.
        model_type: the model type in the backbone's configuration.

    Returns:
        The features.

    Example:
        >>> features = {"input_ids": torch.tensor([[5, 6]])}
        >>> add_missing_features(features, "paligemma")["token_type_ids"]  # (B, T)
        tensor([[0, 0]])
    """
    if model_type == "paligemma" and "token_type_ids" not in features:
        # 0 marks the prefix, in which all tokens see each other. Without an image, PaliGemma's
        # tokenizer gives no types, and the model would use causal attention.
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return features


def lora_targets(model: nn.Module) -> str:
    r"""The pattern of layer names that LoRA adapts: every linear layer of the language model.

    A vision tower, a projector, embeddings and a head are outside of the language model's layers.
    The pattern is plain, such as ``language_model\.layers\.\d+\.(mlp\.up_proj|self_attn\.q_proj)``.

    Args:
        model: a backbone.

    Raises:
        ValueError: if the language model's layers cannot be found, or if a layer has no query,
            key, value or output layer that ``ATTENTION`` knows.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> bert = BertModel(BertConfig(hidden_size=12, num_hidden_layers=2))
        >>> bool(re.fullmatch(lora_targets(bert), "encoder.layer.1.attention.self.query"))
        True
    """
    located = language_layers(model)
    if located is None:
        count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        lists = [f"{n} ({len(m)})" for n, m in model.named_modules() if _is_outer_list(n, m)]
        raise ValueError(
            f"{model.config.model_type}: LoRA adapts the language model's layers. The "
            f"configuration says that there are {count}, so exactly one list of that length is "
            f"expected. The lists are {', '.join(lists) or 'none'}. {REMEDIES}"
        )
    prefix, layers = located
    paths = [
        sorted(path for path, module in layer.named_modules() if isinstance(module, nn.Linear))
        for layer in layers
    ]
    problems: dict[str, list[int]] = {}  # missing parts -> numbers of layers
    for number, names in enumerate(paths):
        missing = [part for part in ATTENTION if not any(_plays(part, name) for name in names)]
        if missing:
            problem = f"no {', '.join(missing)} among {', '.join(names) or 'no linear layers'}"
            problems.setdefault(problem, []).append(number)
    if problems:
        details = "; ".join(f"{_layers(numbers)}: {text}" for text, numbers in problems.items())
        raise ValueError(
            f"{model.config.model_type}: LoRA must adapt the attention of all {len(layers)} layers "
            f"in {prefix}, but some names are not known. {details}. {REMEDIES}"
        )
    every_path = sorted({path for names in paths for path in names})
    return rf"{re.escape(prefix)}\.\d+\.({'|'.join(map(re.escape, every_path))})"


def chosen_targets(model: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """The full names of the language model's linear layers that a caller chose.

    Args:
        model: a backbone.
        targets: a pattern for full names, or the ends of names, such as ``["q_proj", "v_proj"]``.

    Raises:
        ValueError: if the pattern or a name matches no linear layer of the language model.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> bert = BertModel(BertConfig(hidden_size=12, num_hidden_layers=2))
        >>> chosen_targets(bert, ["query"])
        ['encoder.layer.0.attention.self.query', 'encoder.layer.1.attention.self.query']
    """
    check_targets(targets)
    decoder = model.get_decoder()
    names = [n for n, m in _named_modules_of(decoder, model) if isinstance(m, nn.Linear)]
    full_names: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        pattern = target if isinstance(targets, str) else rf"(.*\.)?{re.escape(target)}"
        matches = {name for name in names if re.fullmatch(pattern, name)}
        if not matches:
            raise ValueError(
                f"lora_targets={targets!r}: {target!r} matches none of the {len(names)} linear "
                f"layers in the language model of {model.config.model_type}, such as "
                f"{', '.join(names[:4]) or 'none'}"
            )
        full_names |= matches
    return sorted(full_names)


def check_targets(targets: Any) -> None:
    """Check that LoRA's targets are names, or a pattern that is fast to match.

    Raises:
        ValueError: on anything else, such as a pattern with a repeated group.

    Example:
        >>> check_targets(["q_proj", "v_proj"])
        >>> check_targets(".*self_attn.(q|k|v|o)_proj")
        >>> check_targets("(.*.*)*x")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: lora_targets='(.*.*)*x': give a list of layer names ...
    """
    if isinstance(targets, str):
        bounded = targets.count("*") <= 3 and targets.count("(") <= 3 and len(targets) <= 2000
        valid = bounded and PLAIN_PATTERN.fullmatch(targets) is not None
    else:
        valid = isinstance(targets, Sequence) and len(targets) > 0
        valid = valid and all(isinstance(t, str) and re.fullmatch(r"[\w.]+", t) for t in targets)
    if not valid:
        raise ValueError(
            f"lora_targets={targets!r}: give a list of layer names such as ['q_proj', 'v_proj'], "
            r"or a pattern of names, '\.', '\d+', at most three '.*' and at most three groups such "
            "as (q|k)"
        )


def language_layers(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The name and the list of the language model's layers. None unless there is exactly one.

    It is the list of ``num_hidden_layers`` modules in ``get_decoder()``. That is the language model
    of a vision-language model, or a text model itself.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> name, layers = language_layers(BertModel(BertConfig(num_hidden_layers=2)))
        >>> name, len(layers)
        ('encoder.layer', 2)
    """
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (name, module)
        for name, module in _named_modules_of(model.get_decoder(), model)
        if _is_outer_list(name, module) and len(module) == count
    ]
    return lists[0] if len(lists) == 1 else None


def describe_adapter(model: nn.Module) -> str | None:
    """What LoRA adapts in a backbone, in one line. None if it has no adapter.

    Example:
        >>> from metaembed_lite import load
        >>> print(describe_adapter(load("tiny", device="cpu")[0].model)[:65])
        LoRA of rank 32 and alpha 32 on 28 linear layers in 4 of 4 layers
    """
    adapted = _adapted(model)
    if not adapted:
        return None
    ranks = sorted({rank for module in adapted.values() for rank in module.r.values()})
    alphas = sorted({alpha for module in adapted.values() for alpha in module.lora_alpha.values()})
    located = language_layers(model)
    if located is None:
        layers, names = "", sorted(adapted)
    else:
        prefix, every_layer = located
        inside = [name.removeprefix(f"{prefix}.").partition(".") for name in adapted]
        layers = f" in {len({number for number, _, _ in inside})} of {len(every_layer)} layers"
        names = sorted({path for _, _, path in inside})
    return (
        f"LoRA of rank {', '.join(map(str, ranks))} and alpha {', '.join(map(str, alphas))} on "
        f"{len(adapted)} linear layers{layers} of the language model: {', '.join(names)}"
    )


class Reach(NamedTuple):
    """Which layers an adapter reaches, compared with the layers of the language model.

    Attributes:
        n_layers: layers of the language model.
        without_attention: numbers of the layers in which no linear layer of attention is adapted.
        outside: full names of adapted layers that are not in the language model's layers.

    Example:
        >>> Reach(n_layers=4, without_attention=[3], outside=[]).without_attention
        [3]
    """

    n_layers: int
    without_attention: list[int]
    outside: list[str]


def find_reach(model: nn.Module) -> Reach | None:
    """Which layers an adapter reaches. None if the language model's layers are not found.

    Args:
        model: a backbone, with or without an adapter.

    Example:
        >>> from metaembed_lite import load
        >>> find_reach(load("tiny", device="cpu")[0].model)
        Reach(n_layers=4, without_attention=[], outside=[])
    """
    located = language_layers(model)
    if located is None:
        return None
    prefix, layers = located
    outside, reached = [], set()
    for name in _adapted(model):
        if not name.startswith(f"{prefix}."):
            outside.append(name)
            continue
        number, _, path = name.removeprefix(f"{prefix}.").partition(".")
        if any(_plays(part, path) for part in ATTENTION):
            reached.add(int(number))
    missing = [number for number in range(len(layers)) if number not in reached]
    return Reach(len(layers), missing, sorted(outside))


def _adapted(model: nn.Module) -> dict[str, Any]:
    """The linear layers that LoRA adapts, by their full names."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _named_modules_of(part: nn.Module, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    prefix = next(name for name, module in model.named_modules() if module is part)
    return part.named_modules(prefix=prefix)


def _is_outer_list(name: str, module: nn.Module) -> bool:
    """Whether a module is a list that is not inside another list, as a layer's experts are."""
    return isinstance(module, nn.ModuleList) and not re.search(r"\.\d+\.", f".{name}.")


def _plays(part: str, path: str) -> bool:
    """Whether a linear layer is the query, key, value or output layer of attention."""
    *parents, name = path.split(".")
    return name in ATTENTION[part] and any("att" in parent.lower() for parent in parents)


def _layers(numbers: list[int]) -> str:
    more = f" and {len(numbers) - 4} more" if len(numbers) > 4 else ""
    return f"layers {', '.join(map(str, numbers[:4]))}{more}"
