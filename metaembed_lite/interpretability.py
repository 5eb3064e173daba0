"""Where meta tokens look: their attention over the tokens of an image."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from metaembed_lite.arguments import whole_number
from metaembed_lite.meta_tokens import full_budget

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

NOT_FOR_THE_BACKBONE = ("labels", "item_keys")  # added by sentence-transformers and this package


def image_attention(
    model: MultiVectorEncoder, item: Any, task: str = "document", layer: int | None = None
) -> Tensor:
    """How much each meta token attends to each part of an image, averaged over heads.

    Args:
        model: a model with meta tokens. Its backbone must read images as tokens in the same
            sequence as the text, as Qwen2.5-VL and PaliGemma do.
        item: one image, or ``{"text", "image"}``.
        task: "document" for candidate meta tokens, "query" for query meta tokens. Defaults to
            "document".
        layer: index of a layer of the language model. A negative number counts from the end.
            Defaults to the mean over all layers.

    Returns:
        (R, height, width) on the image's grid of tokens. These are raw attention weights: a map
        sums to less than 1, because attention to text and to meta tokens is left out.

    Raises:
        ValueError: if the item has no image tokens. This also happens if the backbone reads images
            by cross-attention (Llama-3.2-Vision). Also on an unknown task, or a layer that does not
            exist.

    Example:
        >>> from metaembed_lite import load
        >>> from PIL import Image
        >>> maps = image_attention(load("tiny", device="cpu"), Image.new("RGB", (160, 160)))
        >>> maps.shape  # 16 candidate meta tokens, 10 x 10 image tokens
        torch.Size([16, 10, 10])
    """
    if task not in ("document", "query"):
        raise ValueError(f"task {task!r}: choose 'document' or 'query'")
    transformer = model[0]
    config = transformer.config
    full = full_budget(model)
    features = transformer.preprocess([item], task=task)
    image = features["input_ids"][0] == getattr(config, "image_token_id", -1)  # (T,)
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
        and name not in NOT_FOR_THE_BACKBONE
    }
    model.eval()
    backbone = share_weights(transformer.model)
    backbone.set_attn_implementation("eager")  # sdpa and flash attention do not return weights
    with torch.inference_mode():
        layers = backbone(**inputs, output_attentions=True).attentions
    chosen = torch.stack(layers if layer is None else [layers[layer]])  # (L, 1, heads, T, T)
    r = full.r_q if task == "query" else full.r_c
    end = int(features["attention_mask"].sum())
    mean = chosen[:, 0].float().mean(dim=(0, 1))  # (T, T)
    weights = mean[end - r : end, image.to(model.device)].cpu()  # (R, image tokens)
    height, width = image_grid(features, config, weights.shape[1])
    return weights.view(r, height, width)


def share_weights(model: nn.Module) -> nn.Module:
    """A copy of a model that uses the same parameters and buffers.

    Its modules and its configuration are new, so a setting of the copy leaves the model as it is.

    Args:
        model: any model.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> twin = share_weights(layer)
        >>> twin is layer, twin.weight is layer.weight
        (False, True)
    """
    tensors = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, tensors)


def image_grid(features: dict[str, Any], config: Any, n_tokens: int) -> tuple[int, int]:
    """Rows and columns of an image's tokens.

    Args:
        features: those of one item with one image.
        config: the backbone's configuration.
        n_tokens: the number of image tokens. If the features have no grid, the grid is a square.

    Example:
        >>> image_grid({}, None, 9)
        (3, 3)
    """
    if "image_grid_thw" not in features:
        side = round(n_tokens**0.5)
        return side, side
    _, height, width = features["image_grid_thw"][0].tolist()  # patches
    merge = config.vision_config.spatial_merge_size  # patches per token, along each side
    return height // merge, width // merge
