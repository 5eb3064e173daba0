"""Runs of the rank benchmark differ only in what trains inside the adapted layers."""

import pytest
import torch
from lora_ranks import adapted_layers, count_trained, make_model, measure_run, share_of_rank

from metaembed_lite.data.stickers import load_stickers


def moved_by_a_step(model):
    """The names of the parameters whose gradient is not zero."""
    image = load_stickers(n_queries=1, n_train=0).candidates[0]
    features = model.preprocess([image], task="document")
    model(features, task="document")["token_embeddings"].square().cumsum(1).sum().backward()
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize(("rank", "inside"), [(0, set()), (2, {"lora_B"}), (None, {"base_layer"})])
def test_only_the_chosen_weights_move_and_meta_tokens_always_do(rank, inside):
    model = make_model(rank, seed=0)
    moved = moved_by_a_step(model)
    kinds = {kind for kind in ("lora_A", "lora_B", "base_layer") if any(kind in n for n in moved)}
    assert kinds == inside  # lora_A has a zero gradient in the first step, because B is zero
    assert any("trainable_tokens" in name for name in moved)


def test_weights_inside_the_layers_are_counted():
    model = make_model(2, seed=0)
    lora = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
    assert count_trained(model, 2) == lora
    assert count_trained(model, 0) == 0
    layers = adapted_layers(model).values()
    assert count_trained(model, None) == sum(x.in_features * x.out_features for x in layers)


def test_the_share_of_a_rank_is_that_of_its_best_approximation():
    left, right = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    change = left @ right.T  # rank 3
    shares = [share_of_rank([change], rank) for rank in (1, 2, 3, 8)]
    assert shares == sorted(shares)
    assert shares[1] < 1
    assert shares[2:] == [1, 1]


def test_a_run_with_every_weight_changes_the_layers_and_names_its_shares():
    run = measure_run(None, rate=1e-3, steps=1, seed=0, n_queries=5)
    assert set(run["p_at_1"]) == {"test", "validation"}
    assert 0 < run["shares"]["1"] <= run["shares"]["32"] <= 1
