"""The estimate of a run's memory: exact where possible, and of the right size elsewhere."""

import re

import pytest
import torch
from transformers import Idefics3Config, Idefics3Model, Qwen2_5_VLConfig, Qwen2_5_VLModel

from metaembed_lite import Budget, MatryoshkaMultiVectorLoss, build, memory
from metaembed_lite.backbones import lora_targets
from metaembed_lite.data.handwriting import training_rows

BUDGETS = [Budget(1, 1), Budget(4, 8)]


@pytest.fixture(scope="module")
def model():
    return build(r_q=4, r_c=8, lora_rank=4, dim=16, device="cpu")


@pytest.fixture(scope="module")
def rows():
    return training_rows(8, 0)


def test_weights_gradients_and_similarities_are_counted_exactly(model, rows):
    parts = memory.estimate(model, rows, BUDGETS, batch_size=32)
    assert parts["weights"] == 4 * sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert parts["gradients and optimizer"] == 3 * 4 * trained
    config = model[0].model.config.get_text_config()
    per_token = memory.activation_bytes(config.num_hidden_layers, config.hidden_size)
    assert per_token == 34 * 4 * 128
    assert parts["activations"] % (32 * per_token) == 0
    # 32 queries against 32 positives and 32 negatives, 4 x 8 similarities each, and their gradient
    assert parts["similarities"] == 2 * 4 * 32 * 64 * 4 * 8


def test_settings_that_save_memory_lower_the_estimate(model, rows):
    whole = memory.estimate(model, rows, BUDGETS, 32)
    parts = memory.estimate(model, rows, BUDGETS, 32, mini_batch_size=4)
    checkpointed = memory.estimate(model, rows, BUDGETS, 32, gradient_checkpointing=True)
    shared = memory.estimate(model, rows, BUDGETS, 32, devices=4)
    assert parts["activations"] < whole["activations"] / 8
    assert parts["similarities"] == whole["similarities"] / 8
    assert checkpointed["activations"] < whole["activations"] / 2
    assert shared["similarities"] == 4 * whole["similarities"]


def test_the_estimate_of_activations_is_close_to_what_a_step_keeps(model):
    """Against the tensors that autograd keeps for backward, within a factor of 3."""
    batch = training_rows(32, 0)
    columns = [
        model.preprocess(batch[name], task="query" if name == "query" else "document")
        for name in ("query", "positive", "negative")
    ]
    parameter_storage = {p.untyped_storage().data_ptr() for p in model.parameters()}
    activation_sizes = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameter_storage:
            activation_sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = MatryoshkaMultiVectorLoss(model, BUDGETS)(columns)
    measured = sum(activation_sizes.values())
    loss.backward()
    parts = memory.estimate(model, batch, BUDGETS, batch_size=32)
    guessed = parts["activations"] + parts["similarities"]
    assert guessed / 3 < measured < 3 * guessed


def test_the_line_names_every_part_and_the_free_memory():
    line = memory.check({"weights": 2**30, "activations": 2**20}, torch.device("cpu"))
    assert "weights 1.00 GiB, activations 1.0 MiB" in line
    assert "free on cpu" in line
    with pytest.raises(MemoryError, match="will not fit: lower batch_size"):
        memory.check({"weights": 0, "activations": 2**50}, torch.device("cpu"))


# Backbones that are not loaded


def smolvlm():
    """SmolVLM-256M without weights, as in its published configuration."""
    text = {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "head_dim": 64, "vocab_size": 49280,
    }  # fmt: skip
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 512, "patch_size": 16,
    }  # fmt: skip
    return Idefics3Model(Idefics3Config(text_config=text, vision_config=vision, scale_factor=4))


def qwen(hidden, intermediate, layers, heads, key_value_heads, vocabulary):
    """A size of Qwen2.5-VL without weights, as in its published configuration."""
    text = {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
        "rope_parameters": {
            "rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6,
        },
    }  # fmt: skip
    vision = {"hidden_size": 1280, "out_hidden_size": hidden}
    return Qwen2_5_VLModel(Qwen2_5_VLConfig(text_config=text, vision_config=vision))


BACKBONES = {
    "SmolVLM-256M": smolvlm,
    "Qwen2.5-VL-3B": lambda: qwen(2048, 11008, 36, 16, 2, 151936),
    "Qwen2.5-VL-7B": lambda: qwen(3584, 18944, 28, 28, 4, 152064),
}


@pytest.mark.parametrize("name", memory.SHAPES)
def test_a_published_shape_has_the_weights_of_the_model_that_it_describes(name):
    shape = memory.SHAPES[name]
    with torch.device("meta"):
        backbone = BACKBONES[name]()
    vision = backbone.visual if hasattr(backbone, "visual") else backbone.vision_model
    assert shape.parameters == sum(p.numel() for p in backbone.parameters())
    assert shape.vision == sum(p.numel() for p in vision.parameters())
    assert shape.vocabulary == backbone.get_input_embeddings().num_embeddings
    pattern = lora_targets(backbone)
    layers = [m for n, m in backbone.named_modules() if re.fullmatch(pattern, n)]
    assert len(layers) == shape.layers * len(shape.linear_maps)
    added = sum(32 * (layer.in_features + layer.out_features) for layer in layers)
    assert shape.lora_weights(rank=32) == added


def test_a_shape_is_estimated_as_the_model_built_from_it_would_be(rows):
    """On tiny-vlm's own sizes, against the estimate of the loaded model."""
    loaded = build(r_q=4, r_c=8, lora_rank=4, device="cpu")
    parts = memory.estimate(loaded, rows, BUDGETS, batch_size=32)
    backbone = loaded[0].model
    text = backbone.config.get_text_config()
    lora = sum(p.numel() for n, p in loaded.named_parameters() if "lora_" in n)
    shape = memory.Shape(
        parameters=parts["weights"] // 4 - lora, vision=0, vocabulary=text.vocab_size,
        layers=text.num_hidden_layers, hidden=text.hidden_size,
        intermediate=text.intermediate_size, key_value=text.hidden_size,
    )  # fmt: skip
    assert shape.lora_weights(rank=4) == lora
    guess = memory.estimate_shape(
        shape, 4, inputs=32, tokens=100, gradient_checkpointing=False, weight_bytes=4
    )
    assert guess["weights"] == parts["weights"]
    meta_tokens = 12 * text.hidden_size
    trained = guess["gradients"] + guess["Adam's moments"]
    assert trained == parts["gradients and optimizer"] - 3 * 4 * meta_tokens
    per_token = memory.activation_bytes(text.num_hidden_layers, text.hidden_size)
    assert guess["activations"] == 32 * 100 * per_token


def test_training_every_weight_of_a_shape_takes_sixteen_bytes_per_weight():
    shape = memory.SHAPES["Qwen2.5-VL-3B"]
    parts = memory.estimate_shape(shape, lora_rank=None)
    assert sum(parts.values()) == 16 * shape.parameters
    assert parts["activations"] == 0
