"""The estimate of a run's memory: exact where possible, and of the right size elsewhere."""

import pytest
import torch

from metaembed_lite import Budget, MatryoshkaMultiVectorLoss, build, memory
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
