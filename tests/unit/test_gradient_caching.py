"""Gradient caching changes memory, and nothing else."""

import pytest
import torch

from metaembed_lite import CachedMatryoshkaMultiVectorLoss, MatryoshkaMultiVectorLoss, build, train
from metaembed_lite.data.handwriting import training_rows

BUDGETS, WEIGHTS = [(1, 1), (2, 4), (4, 8)], [1.0, 0.5, 2.0]


@pytest.fixture(scope="module")
def rows():
    return training_rows(6, 0)


def tiny():
    return build(r_q=4, r_c=8, lora_rank=4, dim=16, device="cpu").train()


def loss_and_gradients(model, loss_function, rows):
    model.zero_grad()
    columns = [
        model.preprocess(rows[name], task="query" if name == "query" else "document")
        for name in ("query", "positive", "negative")
    ]
    loss = loss_function(columns)
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return loss.detach(), found


@pytest.mark.parametrize(("encoded", "scored"), [(1, 1), (2, 4), (4, None), (64, 5)])
def test_loss_and_gradients_are_those_of_the_whole_batch(rows, encoded, scored):
    model, settings = tiny(), {"budgets": BUDGETS, "weights": WEIGHTS, "temperature": 0.1}
    whole = MatryoshkaMultiVectorLoss(model, **settings)
    cached = CachedMatryoshkaMultiVectorLoss(
        model, **settings, mini_batch_size=encoded, score_mini_batch_size=scored
    )
    want, gradients = loss_and_gradients(model, whole, rows)
    have, cached_gradients = loss_and_gradients(model, cached, rows)
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cached.group_losses, whole.group_losses, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == cached_gradients.keys()
    scale = max(g.abs().max() for g in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(cached_gradients[name], gradient, atol=1e-5 * scale, rtol=1e-4)


def one_rank(rank, store, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    model = tiny()
    loss_function = CachedMatryoshkaMultiVectorLoss(
        model, BUDGETS, WEIGHTS, 0.1, gather_across_devices=True, mini_batch_size=2
    )
    found = loss_and_gradients(model, loss_function, training_rows(6, 0)[3 * rank : 3 * rank + 3])
    torch.save(found, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_that_gather_train_as_one_on_the_joint_batch(rows, tmp_path):
    torch.multiprocessing.spawn(one_rank, (tmp_path / "store", tmp_path), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    model = tiny()
    whole = MatryoshkaMultiVectorLoss(model, BUDGETS, WEIGHTS, 0.1)
    want, gradients = loss_and_gradients(model, whole, rows)
    torch.testing.assert_close((ranks[0][0] + ranks[1][0]) / 2, want, atol=1e-5, rtol=1e-5)
    scale = max(g.abs().max() for g in gradients.values())
    for name, gradient in gradients.items():
        mean = (ranks[0][1][name] + ranks[1][1][name]) / 2
        torch.testing.assert_close(mean, gradient, atol=1e-5 * scale, rtol=1e-4)


def test_a_trained_model_does_not_depend_on_the_mini_batch_size(rows):
    found = []
    for mini_batch_size in (None, 2):
        model = tiny()
        curve = train(
            model, rows, budgets=BUDGETS, steps=2, batch_size=6, warmup_steps=0, log_steps=1,
            mini_batch_size=mini_batch_size,
        )  # fmt: skip
        found.append((curve, torch.stack(model.encode_query(rows["query"]))))
    (curve, vectors), (cached_curve, cached_vectors) = found
    columns = ["loss", *map(str, map(tuple, BUDGETS))]
    assert (cached_curve[columns] - curve[columns]).abs().max().max() < 1e-3
    torch.testing.assert_close(cached_vectors, vectors, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sizes", [{"mini_batch_size": 0}, {"score_mini_batch_size": 0}])
def test_no_size_is_below_one(sizes):
    with pytest.raises(ValueError, match="at a time"):
        CachedMatryoshkaMultiVectorLoss(tiny(), BUDGETS, **sizes)


def test_a_budget_beyond_the_model_is_refused():
    with pytest.raises(ValueError, match="r_c <= 8"):
        CachedMatryoshkaMultiVectorLoss(tiny(), [(4, 16)])
