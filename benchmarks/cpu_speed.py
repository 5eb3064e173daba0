"""The same model, faster on a CPU. Nothing here changes what is computed, except by rounding.

- Sheets and boards repeat a few hundred drawings. A tower without full-attention blocks sees every
  window of an image alone, so what it says about a drawing can be kept.
- PyTorch's fused attention has a slow backward pass in bfloat16 on CPUs, so the language model
  computes attention by matrices.
- A layer with LoRA multiplies its input by W + s B A, one product instead of three. The matrices
  are small, and a batch has thousands of tokens.
- Compiled layers run their many small steps as one.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

MAX_WINDOWS = 5000  # kept per model; a window of 32 x 32 pixels takes 12 KiB


def speed_up(model: Any, compile_layers: bool = False) -> None:
    """Make training and encoding on a CPU faster, in place, if the backbone allows it.

    Args:
        model: as ``build`` or ``baselines`` return it.
        compile_layers: whether to compile the language model's layers. That takes about a minute,
            saves a fifth of each step, and needs a C++ compiler. Defaults to False.
    """
    backbone = model[0].model
    tower = getattr(backbone, "visual", None)
    on_cpu = model.device.type == "cpu"
    if not on_cpu or tower is None or getattr(tower, "fullatt_block_indexes", None) != []:
        return
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return
    remember_windows(tower)
    backbone.set_attn_implementation({"text_config": "eager"})
    for module in backbone.modules():
        if isinstance(module, LoraLinear):
            multiply_once(module)
    if compile_layers:
        for layer in backbone.language_model.layers:
            layer.compile(dynamic=True)


def multiply_once(layer: LoraLinear) -> None:
    """Let a linear layer with LoRA multiply by W + s B A, in place, unless it has dropout."""
    if any(isinstance(dropout, nn.Dropout) for dropout in layer.lora_dropout.values()):
        return

    def forward(inputs: Tensor) -> Tensor:
        weight = layer.base_layer.weight
        for name in layer.active_adapters:
            low_rank = layer.lora_B[name].weight @ layer.lora_A[name].weight
            weight = weight + layer.scaling[name] * low_rank
        return F.linear(inputs, weight, layer.base_layer.bias)

    layer.forward = forward


def windows_of(grid: Tensor, side: int) -> Tensor:
    """Indices of the patches of each window of ``side`` x ``side`` patches: (W, side * side).

    Args:
        grid: (images, 3), the frames, rows and columns of patches of each image.
        side: of a window, in patches. It divides the rows and columns of every image.
    """
    parts, start = [], 0
    for _, height, width in grid.tolist():
        patches = torch.arange(start, start + height * width)
        parts.append(patches.view(height // side, side, width // side, side).transpose(1, 2))
        start += height * width
    return torch.cat([part.reshape(-1, side * side) for part in parts])


def remember_windows(tower: nn.Module) -> None:
    """Let a Qwen2.5-VL vision tower, frozen and without full attention, keep its outputs.

    Args:
        tower: changed in place. Its patches are not merged (``spatial_merge_size`` 1).
    """
    forward, side = tower.forward, tower.window_size // tower.patch_size
    seen: dict[bytes, Tensor] = {}

    def remembering(pixel_values: Tensor, grid_thw: Tensor, **kwargs: Any) -> Any:
        if tower.spatial_merge_size != 1 or (grid_thw[:, 1:] % side).any():
            return forward(pixel_values, grid_thw=grid_thw, **kwargs)
        order = windows_of(grid_thw, side)
        windows = pixel_values[order]  # (W, side * side, pixels)
        keys = [window.tobytes() for window in windows.numpy()]
        new = {key: i for i, key in enumerate(keys) if key not in seen}
        found = {key: seen[key] for key in keys if key in seen}
        if new:
            grid = torch.tensor([[1, side, side]]).expand(len(new), -1)
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                output = forward(windows[list(new.values())].flatten(0, 1), grid_thw=grid, **kwargs)
            states = output.pooler_output.unflatten(0, (len(new), -1))  # (new, side * side, D)
            found.update(zip(new, states, strict=True))
            if len(seen) + len(new) <= MAX_WINDOWS:
                seen.update(zip(new, states, strict=True))
        by_window = torch.stack([found[key] for key in keys])  # (W, side * side, D)
        states = torch.empty_like(by_window.flatten(0, 1))
        states[order] = by_window
        return BaseModelOutputWithPooling(pooler_output=states)

    tower.forward = remembering
