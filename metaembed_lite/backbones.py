"""What differs from one family of backbones to the next: the one place that knows model types.

Everything else works on any model that sentence-transformers' ``Transformer`` loads. A new family:

1. Copy a builder in ``tests/unit/test_backbones.py`` and give it a tiny configuration of the
   family's own classes. The tests then say what is missing: ``pytest tests/unit -k yourfamily``.
2. No chat template in its processor: add one to ``CHAT_TEMPLATES``, so that text, image and both
   are laid out by the same rule.
3. Other names for the language model's linear layers: add a pattern to ``LORA_TARGETS``.
4. Vocabulary entries left untrained for users, under another name: extend ``RESERVED``.
5. A tensor of its own that runs along the sequence grows by ``append_tokens`` in meta_tokens.py,
   which is told nothing of families; what is missing from it goes into ``complete``.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

# For checkpoints whose processor brings none, by model type. PaliGemma is trained on
# "<image>...<bos>text\n"; its processor adds <bos> and the newline where there is an image.
CHAT_TEMPLATES = {
    "paligemma": (
        "{% set image = namespace(seen=false) %}"
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}"
        "{% set image.seen = true %}<image>{% endfor %}{% endfor %}"
        "{% if not image.seen %}{{ bos_token }}{% endif %}"
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}"
        "{% endfor %}{% endfor %}{% if not image.seen %}\n{% endif %}"
    ),
    "mllama": (  # a base checkpoint; the Instruct ones bring theirs
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'image' %}<|image|>"
        "{% endfor %}{% endfor %}{{ bos_token }}"
        "{% for m in messages %}{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}"
        "{% endfor %}{% endfor %}"
    ),
}

# Families whose processor does not take rows with and without an image in one batch. They are
# processed apart and joined.
APART = frozenset({"paligemma", "mllama"})

# Mllama's tensors of an image, which have a row per item. In a batch with images, its rows without
# one would attend to a blank image, so these rows also go through the model apart.
MLLAMA_IMAGES = (
    "pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask",
    "num_images_per_sample",
)  # fmt: skip

# What LoRA adapts, the first pattern that fits: the language model's attention and MLP, as in the
# paper's configuration. The vision tower and the projection out of it stay frozen.
LORA_TARGETS = (
    r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj",  # decoders beside a vision tower
    r".*layers\.\d+\..*\.(q|k|v|o|gate|up|down)_proj",  # decoders of text
    r".*encoder\.layer\..*\.(query|key|value|dense)",  # BERT and its kin
)

# Vocabulary entries that a backbone leaves untrained for its users: BERT, PaliGemma, Llama 3.
RESERVED = re.compile(r"\[unused\d+\]|<unused\d+>|<\|reserved_special_token_\d+\|>")


def complete(features: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Add what a family's forward pass needs and its processor leaves out, such as (B, T) types."""
    if model_type == "paligemma" and "token_type_ids" not in features:
        # 0 marks the prefix, in which all tokens see each other. Without an image PaliGemma's
        # tokenizer says nothing, and the model would fall back to causal attention.
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    return features


def lora_targets(model: nn.Module) -> str:
    """The pattern of layer names that LoRA adapts in a backbone.

    Raises:
        ValueError: if the backbone has none of the layers that are known.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for pattern in LORA_TARGETS:
        if any(re.fullmatch(pattern, name) for name in names):
            return pattern
    raise ValueError(
        f"{type(model).__name__}: none of its {len(names)} linear layers has a known name, such as "
        f"{names[:3]}; use lora_rank=None, or add a pattern to LORA_TARGETS in "
        "metaembed_lite/backbones.py"
    )
