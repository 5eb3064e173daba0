"""What makes experiments faster on a CPU must not change what they compute."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from cpu_speed import MAX_WINDOWS, remember_windows, speed_up, windows_of
from peft.tuners.lora import Linear as LoraLinear

from metaembed_lite import build
from metaembed_lite.data.handwriting import load_handwriting
from metaembed_lite.data.stickers import load_stickers


@pytest.fixture
def build_model():
    def build_model():
        model = build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, device="cpu")
        generator = torch.Generator().manual_seed(1)
        for layer in lora_layers(model):  # B starts at zero, and then LoRA does nothing
            weight = layer.lora_B["default"].weight
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
        return model

    return build_model


def lora_layers(model):
    return [module for module in model.modules() if isinstance(module, LoraLinear)]


def gradients(model, candidates):
    """Of a sum of embeddings, by parameter."""
    features = model.preprocess(candidates, task="document")
    model(features, task="document")["token_embeddings"].square().cumsum(1).sum().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


NO_COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


@pytest.mark.parametrize(
    ("load_suite", "compile_layers"),
    [
        (load_stickers, False),
        (load_handwriting, False),
        pytest.param(load_stickers, True, marks=NO_COMPILER),
    ],
)
def test_embeddings_and_gradients_stay_the_same(build_model, load_suite, compile_layers):
    candidates = load_suite(n_queries=3, n_train=0).candidates[:6]
    plain, fast = build_model(), build_model()
    speed_up(fast, compile_layers)
    for _ in range(2):  # the second time, the tower remembers
        for ours, theirs in zip(
            fast.encode_document(candidates), plain.encode_document(candidates), strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    expected = gradients(plain, candidates)
    for name, gradient in gradients(fast, candidates).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-4, rtol=1e-3)


def test_layers_multiply_once_unless_they_drop_some_inputs(build_model):
    dropping = build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, lora_dropout=0.5, device="cpu")
    fast = build_model()
    for model in (dropping, fast):
        speed_up(model)
    assert lora_layers(fast)
    assert all("forward" in vars(layer) for layer in lora_layers(fast))
    assert not any("forward" in vars(layer) for layer in lora_layers(dropping))


def test_windows_follow_the_rows_of_each_image():
    grid = torch.tensor([[1, 2, 4], [1, 2, 2]])
    assert windows_of(grid, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 10, 11]]


class Tower(torch.nn.Module):
    """Counts the windows that it computes."""

    window_size, patch_size, spatial_merge_size = 32, 16, 1

    def __init__(self):
        super().__init__()
        self.computed = 0

    def forward(self, pixel_values, grid_thw):
        self.computed += len(pixel_values) // 4
        return SimpleNamespace(pooler_output=2 * pixel_values)


def test_each_window_is_computed_once_until_the_memory_is_full():
    tower = Tower()
    remember_windows(tower)
    pixels, grid = torch.randn(16, 5), torch.tensor([[1, 4, 4]])
    for _ in range(2):
        assert torch.equal(tower(pixels, grid_thw=grid).pooler_output, 2 * pixels)
    assert tower.computed == 4
    many, grid = torch.randn(4 * MAX_WINDOWS, 1), torch.tensor([[1, 2, 2 * MAX_WINDOWS]])
    assert torch.equal(tower(many, grid_thw=grid).pooler_output, 2 * many)
    assert tower.computed == 4 + MAX_WINDOWS


def test_other_backbones_are_left_alone():
    model = build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, device="cpu")
    model[0].model.visual.fullatt_block_indexes = [1]  # then a window depends on the others
    before = model[0].model.visual.forward
    speed_up(model)
    assert model[0].model.visual.forward == before
