"""Gradient caching changes memory, but not the loss, the gradients or the trained model."""

import pytest
import torch
from datasets import Dataset

from metaembed_lite import CachedMatryoshkaMultiVectorLoss, MatryoshkaMultiVectorLoss, build, train
from metaembed_lite.budget import budgets_within
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
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    return loss.detach(), gradients


def check_gradients(actual, expected):
    """Equal by name, within rounding at the size of the largest gradient."""
    assert actual.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("full_only", [False, True])
@pytest.mark.parametrize(("encoded", "scored"), [(1, 1), (2, 4), (4, None), (64, 5)])
def test_loss_and_gradients_are_those_of_the_whole_batch(rows, encoded, scored, full_only):
    settings = {"budgets": BUDGETS, "weights": WEIGHTS, "temperature": 0.1}
    settings["scale_temperature"] = True
    model = tiny()
    whole = MatryoshkaMultiVectorLoss(model, **settings)
    cached = CachedMatryoshkaMultiVectorLoss(
        model, **settings, mini_batch_size=encoded, score_mini_batch_size=scored
    )
    whole.full_only = cached.full_only = full_only
    want, gradients = loss_and_gradients(model, whole, rows)
    have, cached_gradients = loss_and_gradients(model, cached, rows)
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        cached.losses_by_budget, whole.losses_by_budget, atol=1e-5, rtol=1e-5
    )
    check_gradients(cached_gradients, gradients)


def rows_with_equal_items():
    """Six rows: rows 0 and 3 have the same query, 1 and 4 the same image, and 5 equals 2."""
    rows = training_rows(6, 0).to_list()
    rows[3]["query"] = rows[0]["query"]
    rows[4]["positive"] = rows[1]["positive"]
    rows[5] = rows[2]
    return Dataset.from_list(rows, features=training_rows(1, 0).features)


@pytest.mark.parametrize(("encoded", "scored"), [(2, 4), (4, None), (64, 5)])
def test_equal_items_are_masked_as_in_the_whole_batch(encoded, scored):
    rows, model = rows_with_equal_items(), tiny()
    settings = {"budgets": BUDGETS, "weights": WEIGHTS, "temperature": 0.1}
    whole = MatryoshkaMultiVectorLoss(model, **settings)
    cached = CachedMatryoshkaMultiVectorLoss(
        model, **settings, mini_batch_size=encoded, score_mini_batch_size=scored
    )
    want, gradients = loss_and_gradients(model, whole, rows)
    have, cached_gradients = loss_and_gradients(model, cached, rows)
    torch.testing.assert_close(have, want, atol=1e-5, rtol=1e-5)
    check_gradients(cached_gradients, gradients)
    columns = [
        torch.stack(encode(rows[name]))
        for name, encode in (
            ("query", model.encode_query), ("positive", model.encode_document),
            ("negative", model.encode_document),
        )
    ]  # fmt: skip
    unmasked = whole.embedding_loss(columns[0], torch.stack(columns[1:], dim=1))
    assert have < unmasked - 0.05, "the equal items were negatives"


def one_rank(rank, store, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    model = tiny()
    loss_function = CachedMatryoshkaMultiVectorLoss(
        model, BUDGETS, WEIGHTS, 0.1, gather_across_devices=True, mini_batch_size=2
    )
    result = loss_and_gradients(model, loss_function, training_rows(6, 0)[3 * rank : 3 * rank + 3])
    torch.save(result, f"{out}/{rank}.pt")
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
    results = []
    for mini_batch_size in (None, 2):
        model = tiny()
        curve = train(
            model, rows, budgets=BUDGETS, steps=2, batch_size=6, warmup_steps=0, log_steps=1,
            mini_batch_size=mini_batch_size,
        )  # fmt: skip
        results.append((curve, torch.stack(model.encode_query(rows["query"]))))
    (curve, vectors), (cached_curve, cached_vectors) = results
    columns = ["loss", *map(str, map(tuple, BUDGETS))]
    assert (cached_curve[columns] - curve[columns]).abs().max().max() < 1e-3
    torch.testing.assert_close(cached_vectors, vectors, atol=1e-3, rtol=0)


@pytest.mark.parametrize("size", [0, -1, 2.0, "4", True])
@pytest.mark.parametrize("name", ["mini_batch_size", "score_mini_batch_size"])
def test_a_size_that_is_not_a_whole_number_from_1_up_is_named(name, size):
    with pytest.raises(ValueError, match=f"^{name}={size!r}"):
        CachedMatryoshkaMultiVectorLoss(tiny(), BUDGETS, **{name: size})


def test_without_budgets_it_takes_those_that_fit_the_model():
    assert CachedMatryoshkaMultiVectorLoss(tiny()).budgets == budgets_within((4, 8))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"weights": [1, 1, float("nan")]}, "weights"),
        ({"temperature": float("inf")}, "temperature"),
    ],
)
def test_settings_that_are_not_finite_are_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        CachedMatryoshkaMultiVectorLoss(tiny(), BUDGETS, **settings)


def test_embeddings_that_are_not_finite_are_named(rows):
    model = tiny()
    loss_function = CachedMatryoshkaMultiVectorLoss(model, BUDGETS, mini_batch_size=2)
    queries, candidates = torch.ones(6, 4, 16), torch.ones(6, 8, 16)
    candidates[5, 2, 1] = torch.nan
    parts = [list(queries.split(2)), list(candidates.split(2))]
    with pytest.raises(ValueError, match=r"candidates\[5, 0, 2, 1\] is nan"):
        loss_function.calculate_loss(parts, [])


def test_a_budget_beyond_the_model_is_refused():
    with pytest.raises(ValueError, match="r_c <= 8"):
        CachedMatryoshkaMultiVectorLoss(tiny(), [(4, 16)])
