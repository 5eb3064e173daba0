"""Attention-guided clustering: learned tokens choose which token vectors of a candidate to merge.

After OmniColPress (Qin et al., 2026, arXiv 2602.21202). It is a small version of the method, with
its steps in its order.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn

from metaembed_lite import backbones
from metaembed_lite.arguments import whole_number
from metaembed_lite.clustering import salient_means
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.meta_tokens import append_tokens, claim_vocabulary


class AttentionClusterTransformer(ItemTransformer):
    """A backbone that clusters a candidate's token states around those that get most attention.

    A candidate is read as [content; R_c learned tokens]. The saliency of a content token is its
    attention from the learned tokens in the last layer, as a mean over heads and learned tokens.
    The R_c most salient tokens are the centers. Each content token joins the most similar center.
    A cluster's vector is the mean of its tokens, weighted by saliency. The learned tokens train
    through these weights. The choice of centers and clusters has no gradient. Queries have no
    learned tokens and keep all their states.

    OmniColPress uses a backbone with attention in both directions, and applies a second softmax to
    the attention weights. Here the backbone keeps its attention, and the weights are used directly.

    Args:
        model_name_or_path: a hub id, a folder, or a bundled backbone ("tiny-vlm").
        r_c: R_c, the number of learned tokens and of vectors per candidate. A candidate with fewer
            content tokens has one vector per token. Defaults to 16.
        **kwargs: those of ``AdapterTransformer`` and of sentence-transformers' ``Transformer``.

    Raises:
        ValueError: if ``r_c`` is not a whole number from 1 up, or the language model's layers
            cannot be found in the backbone.

    Example:
        >>> transformer = AttentionClusterTransformer("tiny-vlm", r_c=2)
        >>> features = transformer.preprocess(["3 A1"], task="document")
        >>> transformer(features, task="document")["token_embeddings"].shape  # (B, R_c, H)
        torch.Size([1, 2, 128])
    """

    config_keys: ClassVar[list[str]] = [
        *(key for key in Transformer.config_keys if key != "unpad_inputs"), "r_c",
    ]  # fmt: skip
    forward_kwargs: ClassVar[set[str]] = {"task"}

    def __init__(self, model_name_or_path: str, *, r_c: int = 16, **kwargs: Any) -> None:
        self.r_c = whole_number(r_c, "r_c")
        super().__init__(model_name_or_path, **{**kwargs, "unpad_inputs": False})
        ids = claim_vocabulary(self.tokenizer, self.model, 0, self.r_c)
        self.meta_ids: dict[str, list[int]] = {"query": [], "document": ids}
        find_last_attention(self.model)  # raises now and not in the first forward pass
        self.model.set_attn_implementation("eager")  # the others do not return weights

    def appended_ids(self, task: str | None) -> list[int]:
        """The learned tokens that follow the content: those of a candidate. None for a query."""
        return self.meta_ids["query" if task == "query" else "document"]

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Features of the inputs, with the learned tokens appended to each candidate.

        Args:
            inputs: items, each a text, an image or a dict of both.
            prompt: text before each item. Defaults to none.
            **kwargs: as in ``ItemTransformer``.
        """
        features = super().preprocess(inputs, prompt=prompt, **kwargs)
        appended = self.appended_ids(kwargs.get("task"))
        if not features or not appended:
            return features
        features = backbones.add_missing_features(features, self.config.model_type)
        return append_tokens(features, appended)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds ``token_embeddings`` (B, R, H) and a mask (B, R).

        R is R_c for candidates, and the number of tokens for queries.
        """
        if (kwargs.get("task") or features.get("task")) == "query":
            return super().forward(features)
        lengths = features["attention_mask"].sum(dim=1)  # (B,), with the learned tokens
        caught: list[Tensor] = []
        hook = find_last_attention(self.model).register_forward_hook(
            lambda module, inputs, output: caught.append(output[1])
        )
        try:
            features = super().forward(features)
        finally:
            hook.remove()
        hidden = features["token_embeddings"]  # (B, T, H)
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        is_content = positions < lengths[:, None] - self.r_c  # (B, T)
        is_learned = (positions < lengths[:, None]) & ~is_content
        attention = caught[-1].mean(dim=1)  # (B, heads, T, T) -> (B, T, T)
        saliency = attention.masked_fill(~is_learned[:, :, None], 0.0).sum(dim=1) / self.r_c
        vectors, mask = salient_means(hidden, saliency, is_content, self.r_c)
        features["token_embeddings"], features["attention_mask"] = vectors, mask
        return features


def find_last_attention(model: nn.Module) -> nn.Module:
    """The attention of the language model's last layer.

    Args:
        model: a backbone.

    Raises:
        ValueError: if it is not found.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> type(find_last_attention(BertModel(BertConfig(num_hidden_layers=2)))).__name__
        'BertAttention'
    """
    located = backbones.language_layers(model)
    modules = [] if located is None else list(located[1][-1].named_children())
    for name, module in modules:
        has_weights = any(isinstance(inner, nn.Linear) for inner in module.modules())
        if "att" in name.lower() and has_weights:  # not a norm "post_attention_layernorm"
            return module
    raise ValueError(
        f"{type(model).__name__}: the attention of the language model's last layer was not found, "
        "and attention-guided clustering reads it: choose another backbone"
    )
