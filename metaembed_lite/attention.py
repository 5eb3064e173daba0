"""Where meta tokens look: their attention over the tokens of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.meta_tokens import full_budget

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


def image_attention(
    model: MultiVectorEncoder, item: Any, task: str = "document", layer: int | None = None
) -> Tensor:
    """How much each meta token attends to each part of an image, mean over heads.

    Args:
        model: built or loaded with meta tokens, on a backbone that reads an image as tokens among
            the text's (Qwen2.5-VL, PaliGemma).
        item: one image, or ``{"text", "image"}``.
        task: "document" for candidate meta tokens, "query" for query ones.
        layer: of the language model, negative from the end; None: mean over all.

    Returns:
        (R, height, width) of the image's grid of tokens, each map's weights as they are: what is
        left to 1 went to text, to other meta tokens and to itself.

    Raises:
        ValueError: if the item has no image among its tokens, as on a backbone that sees images by
            cross-attention (Llama-3.2-Vision); on another task, or a layer that is not there.
    """
    if task not in ("document", "query"):
        raise ValueError(f"task {task!r}: choose 'document' or 'query'")
    transformer = model[0]
    backbone, config = transformer.model, transformer.config
    full = full_budget(model)
    features = transformer.preprocess([item], task=task)
    image = features["input_ids"][0] == getattr(config, "image_token_id", -1)
    if not image.any() or "cross_attention_mask" in features:
        raise ValueError(
            f"{config.model_type} has no image tokens for this item: give an image, and a backbone "
            "that reads images as tokens"
        )
    if layer is not None:
        depth = config.get_text_config().num_hidden_layers
        layer = whole_number(layer, "layer", least=-depth)
        if layer >= depth:
            raise ValueError(f"layer={layer}: use a number from {-depth} to {depth - 1}")
    inputs = {
        name: tensor.to(model.device)
        for name, tensor in features.items()
        if isinstance(tensor, torch.Tensor)
        and not name.startswith("num_")
        and name not in ("labels", "item_keys")
    }
    model.eval()
    before = config.get_text_config()._attn_implementation
    backbone.set_attn_implementation("eager")  # the others do not hand the weights out
    try:
        with torch.inference_mode():
            layers = backbone(**inputs, output_attentions=True).attentions
    finally:
        backbone.set_attn_implementation(before)
    chosen = torch.stack(layers if layer is None else [layers[layer]])  # (L, 1, heads, T, T)
    r = full.r_q if task == "query" else full.r_c
    end = int(features["attention_mask"].sum())
    weights = chosen[:, 0].float().mean(dim=(0, 1))[end - r : end, image.to(model.device)].cpu()
    if "image_grid_thw" in features:
        _, height, width = (features["image_grid_thw"][0]).tolist()
        merge = config.vision_config.spatial_merge_size
        height, width = height // merge, width // merge
    else:
        height = width = round(weights.shape[1] ** 0.5)
    return weights.view(r, height, width)
