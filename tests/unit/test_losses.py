"""The MMR loss and its gradient against a numpy oracle, another library and two processes."""

import functools

import numpy as np
import pytest
import torch
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from torch import nn

from metaembed_lite import build
from metaembed_lite.budget import PAPER_BUDGETS, Budget, budgets_within
from metaembed_lite.losses import MatryoshkaMultiVectorLoss, mmr_loss

BUDGETS = [(1, 1), (2, 3), (3, 5)]


def oracle(queries, candidates, budgets, weights, temperatures):
    """Loss and gradients in numpy float64, by hand.

    dL/dS_g = w_g / (B tau_g) (softmax(S_g / tau_g) - onehot). S_g[u, v] sums q_ui . c_vj over i
    with j = argmax, so its gradient is c_vj for q_ui and q_ui for c_vj.
    """
    q, c = (np.asarray(x, dtype=np.float64) for x in (queries, candidates))
    size, per_query = c.shape[:2]
    flat = c.reshape(size * per_query, *c.shape[2:])
    loss, q_grad, c_grad = 0.0, np.zeros_like(q), np.zeros_like(flat)
    temperatures = np.broadcast_to(temperatures, len(budgets))
    for (r_q, r_c), weight, tau in zip(budgets, weights, temperatures, strict=True):
        similarities = np.einsum("uid,vjd->uvij", q[:, :r_q], flat[:, :r_c])
        winner = similarities.argmax(axis=3)
        logits = similarities.max(axis=3).sum(axis=2) / tau
        logits -= logits.max(axis=1, keepdims=True)
        softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        target = np.zeros_like(softmax)
        target[np.arange(size), np.arange(size) * per_query] = 1
        loss += weight * -np.log((softmax * target).sum(axis=1)).mean()
        slope = weight * (softmax - target) / (size * tau)
        for u, v, i in np.ndindex(winner.shape):
            j = winner[u, v, i]
            q_grad[u, i] += slope[u, v] * flat[v, j]
            c_grad[v, j] += slope[u, v] * q[u, i]
    return loss, q_grad, c_grad.reshape(c.shape)


def batch(size=4, negatives=2, r_q=3, r_c=5, dim=6, dtype=torch.float64, seed=0):
    """Unit vectors (B, R_q, D) and (B, 1 + n_neg, R_c, D), with gradients."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((size, r_q, dim), (size, 1 + negatives, r_c, dim))
    tensors = [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in shapes]
    return [nn.functional.normalize(x, dim=-1).to(dtype).requires_grad_() for x in tensors]


@functools.cache
def small_model():
    return build("tiny-vlm", r_q=3, r_c=5, lora_rank=None, device="cpu")


def loss_class(*args, **kwargs):
    """The loss as the trainer uses it. ``embedding_loss`` does not call the model."""
    return MatryoshkaMultiVectorLoss(small_model(), *args, **kwargs)


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("temperature", [0.03, 1.0])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("weights", [(1, 1, 1), (0.5, 0, 2)])
def test_loss_and_gradients_equal_the_oracle(negatives, temperature, scale, weights):
    queries, candidates = batch(negatives=negatives)
    loss, _ = mmr_loss(queries, candidates, BUDGETS, weights, temperature, scale)
    loss.backward()
    temperatures = [temperature * r_q if scale else temperature for r_q, _ in BUDGETS]
    expected, q_grad, c_grad = oracle(
        queries.detach(), candidates.detach(), BUDGETS, weights, temperatures
    )
    assert loss.shape == ()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)
    np.testing.assert_allclose(queries.grad, q_grad, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(candidates.grad, c_grad, rtol=1e-6, atol=1e-12)


def test_the_papers_budgets_and_temperature_in_float32_are_close_to_the_oracle():
    queries, candidates = batch(size=8, negatives=1, r_q=16, r_c=64, dim=32, dtype=torch.float32)
    loss, _ = mmr_loss(queries, candidates)
    pairs = [(b.r_q, b.r_c) for b in PAPER_BUDGETS]
    expected, *_ = oracle(queries.detach(), candidates.detach(), pairs, [1] * 5, 0.03)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5)


def test_budgets_that_grow_on_one_side_only_equal_the_oracle():
    budgets = [(1, 2), (1, 5), (3, 5)]
    queries, candidates = batch()
    loss, _ = mmr_loss(queries, candidates, budgets, temperature=0.1)
    expected, *_ = oracle(queries.detach(), candidates.detach(), budgets, [1] * 3, 0.1)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)


def test_a_query_is_scored_against_the_hard_negatives_of_the_others_too():
    queries = torch.eye(4, dtype=torch.float64)[:, None]  # four queries of one vector
    candidates = torch.stack([queries, -queries], dim=1)
    candidates[3, 1] = queries[0]  # query 3's hard negative equals query 0's positive
    loss, _ = mmr_loss(queries, candidates, [(1, 1)], temperature=0.01)
    assert loss.item() == pytest.approx(np.log(2) / 4)  # query 0 cannot distinguish the two


def test_the_first_candidate_of_a_query_is_its_positive():
    queries = torch.eye(4, dtype=torch.float64)[:, None]
    right = torch.stack([queries, -queries], dim=1)
    wrong = right.flip(1)
    low, _ = mmr_loss(queries, right, [(1, 1)], temperature=0.1)
    high, _ = mmr_loss(queries, wrong, [(1, 1)], temperature=0.1)
    assert low < 0.01 < 9 < high


def test_the_losses_per_budget_are_those_of_each_budget_alone():
    queries, candidates = batch()
    alone = [mmr_loss(queries, candidates, b, temperature=0.1)[0].item() for b in BUDGETS]
    loss, per_budget = mmr_loss(queries, candidates, BUDGETS, (0.5, 0, 2), temperature=0.1)
    np.testing.assert_allclose(per_budget, alone, rtol=1e-9)
    assert not per_budget.requires_grad
    np.testing.assert_allclose(loss.item(), 0.5 * alone[0] + 2 * alone[2], rtol=1e-9)


def test_the_class_computes_the_function_and_keeps_the_losses_per_budget():
    queries, candidates = batch()
    loss_fn = loss_class(BUDGETS, (0.5, 0, 2), temperature=0.1)
    loss = loss_fn.embedding_loss(queries, candidates)
    expected, per_budget = mmr_loss(queries, candidates, BUDGETS, (0.5, 0, 2), temperature=0.1)
    assert torch.equal(loss, expected)
    assert torch.equal(loss_fn.losses_by_budget, per_budget)


@pytest.mark.parametrize("weights", [None, (0.5, 0, 2)])
def test_while_only_the_full_budget_trains_the_gradient_is_that_of_the_full_budget_alone(weights):
    queries, candidates = batch()
    loss_fn = loss_class(BUDGETS, weights, temperature=0.1)
    loss_fn.full_only = True
    loss = loss_fn.embedding_loss(queries, candidates)
    loss.backward()
    last_weight = (weights or [1])[-1]
    values = queries.detach(), candidates.detach()
    expected, q_grad, c_grad = oracle(*values, BUDGETS[-1:], [last_weight], 0.1)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-9)
    np.testing.assert_allclose(queries.grad, q_grad, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(candidates.grad, c_grad, rtol=1e-9, atol=1e-12)


def test_while_only_the_full_budget_trains_the_losses_of_all_budgets_are_known():
    queries, candidates = batch()
    loss_fn = loss_class(BUDGETS, temperature=0.1)
    _, per_budget = mmr_loss(queries, candidates, BUDGETS, temperature=0.1)
    for full_only in (True, False):
        loss_fn.full_only = full_only
        loss = loss_fn.embedding_loss(queries, candidates)
        assert torch.equal(loss_fn.losses_by_budget, per_budget)
        torch.testing.assert_close(loss, per_budget[-1] if full_only else per_budget.sum())
    assert loss_fn.get_config_dict()["weights"] == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scored_in_float32(dtype):
    queries, candidates = batch(r_q=16, r_c=16, dim=32, dtype=dtype)
    budgets = [(16, 16)]
    loss, _ = mmr_loss(queries, candidates, budgets)
    values = queries.detach().double(), candidates.detach().double()
    np.testing.assert_allclose(loss.item(), oracle(*values, budgets, [1], 0.03)[0], rtol=1e-5)


def test_mixed_precision_training_does_not_score_in_half_precision():
    queries, candidates = batch(r_q=16, r_c=16, dim=32, dtype=torch.float32)
    budgets = [(4, 4), (16, 16)]
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast, _ = mmr_loss(queries, candidates, budgets)
    torch.testing.assert_close(under_autocast, mmr_loss(queries, candidates, budgets)[0])


class ReadyEmbeddings(nn.Module):
    """Stands in for a model: its features are the embeddings."""

    def forward(self, features, task=None):
        ones = torch.ones(features["embeddings"].shape[:2], dtype=torch.long)
        return {"token_embeddings": features["embeddings"], "attention_mask": ones, "task": task}


def columns(queries, candidates):
    return [{"embeddings": x} for x in (queries, *candidates.unbind(1))]


def test_one_budget_is_the_contrastive_loss_of_sentence_transformers():
    queries, candidates = batch(dtype=torch.float32)
    features = columns(queries, candidates)
    theirs = MultiVectorMultipleNegativesRankingLoss(ReadyEmbeddings(), scale=1 / 0.1)(features)
    ours = loss_class([(3, 5)], temperature=0.1)
    ours.model = ReadyEmbeddings()
    torch.testing.assert_close(ours(features), theirs)


def test_the_columns_of_a_batch_are_query_positive_and_negatives():
    queries, candidates = batch()
    loss_fn = loss_class(BUDGETS, temperature=0.1)
    expected, _ = mmr_loss(queries, candidates, BUDGETS, temperature=0.1)
    loss_fn.model = ReadyEmbeddings()
    torch.testing.assert_close(loss_fn(columns(queries, candidates)), expected)


def one_rank(rank, store, out, budgets, full_only=False):
    """One of two processes, each with half of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    queries, candidates = batch(size=6)
    half = slice(3 * rank, 3 * rank + 3)
    q, c = queries.detach()[half].requires_grad_(), candidates.detach()[half].requires_grad_()
    loss_fn = loss_class(budgets, temperature=0.1, gather_across_devices=True)
    loss_fn.full_only = full_only
    loss = loss_fn.embedding_loss(q, c)
    loss.backward()
    torch.save((loss.detach(), q.grad, c.grad), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("full_only", [False, True])
def test_two_processes_that_gather_train_as_one_on_the_joint_batch(full_only, tmp_path):
    arguments = (tmp_path / "store", tmp_path, BUDGETS, full_only)
    torch.multiprocessing.spawn(one_rank, arguments, nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    losses, q_grads, c_grads = zip(*ranks, strict=True)
    queries, candidates = batch(size=6)
    trained = BUDGETS[-1:] if full_only else BUDGETS
    joint, _ = mmr_loss(queries, candidates, trained, temperature=0.1)
    joint.backward()
    # Data-parallel training averages the loss and the gradients over processes.
    torch.testing.assert_close(torch.stack(losses).mean(), joint.detach())
    torch.testing.assert_close(torch.cat(q_grads) / 2, queries.grad)
    torch.testing.assert_close(torch.cat(c_grads) / 2, candidates.grad)


@pytest.mark.parametrize("weights", [
    (1, 1), (1, 1, 1, 1), (), (1, -1, 1), (0, 0, 0), (1e-60,) * 3, (1, 1, np.nan),
    (np.nan,) * 3, (1, np.inf, 1), (1, 1, -np.inf), "111", {1, 2, 3}, {1: 1, 2: 1, 3: 1}, 5,
    (1, 1, "1"), (1, 1, None), (1, 1, 1j),
])  # fmt: skip
def test_weights_that_do_not_fit_the_budgets_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        loss_class(BUDGETS, weights)
    with pytest.raises(ValueError, match="weights"):
        mmr_loss(*batch(), BUDGETS, weights)


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_weights_may_be_a_list_an_array_or_a_tensor(form):
    assert loss_class(BUDGETS, form([0.5, 0.0, 2.0])).weights == [0.5, 0.0, 2.0]


@pytest.mark.parametrize(
    "temperature",
    [0, -0.1, float("nan"), float("inf"), -float("inf"), "0.03", None, True, 1j],
)
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature="):
        loss_class(BUDGETS, temperature=temperature)
    with pytest.raises(ValueError, match="temperature="):
        mmr_loss(*batch(), BUDGETS, temperature=temperature)


def test_a_scaled_temperature_is_in_proportion_to_the_query_vectors():
    loss = loss_class(BUDGETS, temperature=0.5, scale_temperature=True)
    assert loss.temperatures == loss.get_config_dict()["temperatures"] == [0.5, 1.0, 1.5]
    assert loss_class(BUDGETS, temperature=0.5).temperatures == [0.5] * 3


@pytest.mark.parametrize("scale", [None, 0, 1, "yes", 0.5])
def test_a_scale_that_is_not_a_bool_is_refused(scale):
    with pytest.raises(ValueError, match=r"scale_temperature=.*use True or False"):
        loss_class(BUDGETS, scale_temperature=scale)
    with pytest.raises(ValueError, match=r"scale_temperature=.*use True or False"):
        mmr_loss(*batch(), BUDGETS, scale_temperature=scale)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_embedding_that_is_not_finite_is_named_with_its_place(bad, dtype):
    """Also -inf in a negative. Softmax turns it into 0, so the loss would look ordinary."""
    for side, where in ((0, (3, 1, 2)), (1, (2, 1, 4, 5))):
        values = [x.detach().clone() for x in batch(dtype=dtype)]
        values[side][where] = bad
        place = ", ".join(map(str, where))
        name = ("queries", "candidates")[side]
        with pytest.raises(ValueError, match=rf"{name}\[{place}\] is {bad}.*must be finite"):
            mmr_loss(*values, BUDGETS)


def test_vectors_beyond_the_last_budget_are_not_read():
    queries, candidates = (x.detach() for x in batch())
    expected, _ = mmr_loss(queries, candidates, BUDGETS[:2])
    queries[:, 2:], candidates[:, :, 3:] = torch.nan, torch.nan
    assert mmr_loss(queries, candidates, BUDGETS[:2])[0] == expected


def test_an_empty_batch_says_that_it_is_empty():
    for q, c in (((0, 3, 6), (0, 2, 5, 6)), ((4, 3, 6), (4, 0, 5, 6))):
        with pytest.raises(ValueError, match="the batch is empty"):
            mmr_loss(torch.ones(q), torch.ones(c), BUDGETS)


def test_if_the_temperature_overflows_the_error_names_it_and_not_the_embeddings():
    with pytest.raises(
        ValueError, match=r"scores of up to .* over temperature=1e-40 overflow"
    ) as e:
        mmr_loss(*batch(dtype=torch.float32), BUDGETS, temperature=1e-40)
    assert "no embedding is NaN" in str(e.value)


def test_the_error_on_scores_that_overflow_differs_from_the_one_on_nan():
    queries, candidates = (1e30 * x for x in batch(dtype=torch.float32))
    with pytest.raises(ValueError, match=r"no embedding is NaN .*scores overflow torch.float32"):
        mmr_loss(queries, candidates, BUDGETS)


def test_weights_that_overflow_are_named():
    with pytest.raises(ValueError, match=r"weights \[1e\+300, 1.0, 1.0\] .* overflow"):
        mmr_loss(*batch(dtype=torch.float32), BUDGETS, (1e300, 1, 1))


@pytest.mark.parametrize("kind", [torch.complex64, torch.int64, torch.int8, torch.bool])
def test_embeddings_without_gradients_are_refused_by_type(kind):
    queries, candidates = (x.detach() for x in batch())
    with pytest.raises(ValueError, match=f"candidates: expected .* floating type, got {kind}"):
        mmr_loss(queries, candidates.to(kind), BUDGETS)
    with pytest.raises(ValueError, match="queries: expected a tensor of a floating type, got"):
        mmr_loss(queries.tolist(), candidates, BUDGETS)


def test_without_budgets_the_loss_takes_those_that_fit_the_model():
    model = build("tiny-vlm", r_q=4, r_c=8, dim=16, device="cpu")
    assert MatryoshkaMultiVectorLoss(model).budgets == budgets_within((4, 8))
    assert len(mmr_loss(*batch(r_q=4, r_c=8))[1]) == len(budgets_within((4, 8)))


@pytest.mark.parametrize("budgets", ["2x3", (2, 3), Budget(2, 3), np.array([2, 3]), ["2x3"]])
def test_a_single_budget_is_a_list_of_one(budgets):
    assert loss_class(budgets).budgets == (Budget(2, 3),)


def test_budgets_that_are_not_nested_are_refused():
    with pytest.raises(ValueError, match="not nested"):
        loss_class([(2, 3), (1, 5)])
    with pytest.raises(ValueError, match="not nested"):
        mmr_loss(*batch(), [(2, 3), (1, 5)])


@pytest.mark.parametrize(("r_q", "r_c", "name"), [(2, 5, "r_q <= 2"), (3, 4, "r_c <= 4")])
def test_a_budget_beyond_the_vectors_is_refused(r_q, r_c, name):
    with pytest.raises(ValueError, match=name):
        loss_class(BUDGETS).embedding_loss(*batch(r_q=r_q, r_c=r_c))
    with pytest.raises(ValueError, match=name):
        mmr_loss(*batch(r_q=r_q, r_c=r_c), BUDGETS)


def test_shapes_that_do_not_fit_are_refused():
    queries, candidates = batch()
    for bad in ((queries[0], candidates), (queries, candidates[:, 0]), (queries[:2], candidates)):
        with pytest.raises(ValueError, match="expected"):
            mmr_loss(*bad, BUDGETS)
    with pytest.raises(ValueError, match="queries have 5 dimensions, candidates 6"):
        mmr_loss(queries[..., :5], candidates, BUDGETS)


def test_a_model_without_meta_tokens_is_refused():
    with pytest.raises(ValueError, match="no meta tokens"):
        MatryoshkaMultiVectorLoss(nn.Sequential(nn.Linear(2, 2)))


def loop_with_keys(queries, candidates, query_keys, candidate_keys, budget, temperature):
    """InfoNCE in plain Python: a candidate is a negative unless it is right for an equal query."""
    total = 0.0
    rows = range(len(queries))
    for u in rows:
        right = {candidate_keys[w][0] for w in rows if query_keys[w] == query_keys[u]}
        logits = []
        for w in rows:
            for place, candidate in enumerate(candidates[w]):
                is_positive = w == u and place == 0
                if candidate_keys[w][place] in right and not is_positive:
                    continue
                score = sum(
                    max(float(q @ c) for c in candidate[: budget[1]])
                    for q in queries[u][: budget[0]]
                )
                logits.append((score / temperature, is_positive))
        peak = max(value for value, _ in logits)
        normalizer = peak + np.log(sum(np.exp(value - peak) for value, _ in logits))
        total += normalizer - next(value for value, is_positive in logits if is_positive)
    return total / len(queries)


EQUAL = {  # name -> keys of queries, keys of candidates (positive, negative)
    "all different": ([0, 1, 2, 3], [[10, 11], [20, 21], [30, 31], [40, 41]]),
    "two equal queries": ([0, 1, 0, 3], [[10, 11], [20, 21], [30, 31], [40, 41]]),
    "two equal positives": ([0, 1, 2, 3], [[10, 11], [20, 21], [10, 31], [40, 41]]),
    "a negative that is a positive elsewhere": (
        [0, 1, 2, 3],
        [[10, 20], [20, 21], [30, 31], [40, 41]],
    ),
    "a negative that is right for an equal query": (
        [0, 0, 2, 3],
        [[10, 20], [20, 21], [30, 31], [40, 41]],
    ),
    "one row, four times": ([0] * 4, [[10, 11]] * 4),
    "everything equal": ([0] * 4, [[10, 10]] * 4),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_equal_queries_and_candidates_are_not_each_others_negatives(name):
    query_keys, candidate_keys = EQUAL[name]
    queries, candidates = batch(size=4, negatives=1)
    keys = torch.tensor(query_keys), torch.tensor(candidate_keys)
    loss = loss_class(BUDGETS, temperature=0.1)
    result = loss.embedding_loss(queries, candidates, keys)
    values = queries.detach().numpy(), candidates.detach().numpy()
    expected = [loop_with_keys(*values, query_keys, candidate_keys, b, 0.1) for b in BUDGETS]
    np.testing.assert_allclose(loss.losses_by_budget, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.item(), sum(expected), rtol=1e-9, atol=1e-12)
    if name == "all different":
        assert torch.equal(result, loss.embedding_loss(queries, candidates))
    result.backward()
    assert queries.grad.isfinite().all()


def test_keys_that_do_not_fit_are_named():
    queries, candidates = batch(size=4, negatives=1)
    loss = loss_class(BUDGETS)
    for keys in (
        (torch.zeros(3), torch.zeros(4, 2)), (torch.zeros(4), torch.zeros(3, 2)),
        (torch.zeros(4), torch.zeros(4)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="keys of shapes"):
            loss.embedding_loss(queries, candidates, keys)


def one_rank_with_keys(rank, store, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2
    )
    query_keys, candidate_keys = EQUAL["a negative that is right for an equal query"]
    process_rows = slice(2 * rank, 2 * rank + 2)
    mixed = [0, 2, 1, 3]  # the equal queries are on different processes
    queries, candidates = (x.detach()[mixed][process_rows] for x in batch(size=4, negatives=1))
    keys = (
        torch.tensor(query_keys)[mixed][process_rows],
        torch.tensor(candidate_keys)[mixed][process_rows],
    )
    loss = loss_class(BUDGETS, temperature=0.1, gather_across_devices=True)
    torch.save(loss.embedding_loss(queries, candidates, keys), f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_equal_items_of_two_processes_are_not_each_others_negatives(tmp_path):
    torch.multiprocessing.spawn(one_rank_with_keys, (tmp_path / "store", tmp_path), nprocs=2)
    losses = torch.stack([torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)])
    query_keys, candidate_keys = EQUAL["a negative that is right for an equal query"]
    values = (x.detach().numpy() for x in batch(size=4, negatives=1))
    values = list(values)
    expected = sum(loop_with_keys(*values, query_keys, candidate_keys, b, 0.1) for b in BUDGETS)
    np.testing.assert_allclose(losses.mean().item(), expected, rtol=1e-9)


def test_the_trainer_leaves_equal_captions_out_of_the_negatives():
    """Through the collator: four rows with one caption have no negatives, so the loss is 0."""
    from datasets import Dataset
    from PIL import Image

    from metaembed_lite import build, train

    pictures = [Image.effect_noise((48, 48), 20 + 20 * i).convert("RGB") for i in range(4)]
    rows = Dataset.from_dict({"query": ["a cat"] * 4, "positive": pictures})
    for mini_batch_size in (None, 2):
        model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu")
        curve = train(
            model, rows, steps=1, batch_size=4, log_steps=1, mini_batch_size=mini_batch_size
        )
        assert curve.loss.tolist() == [0.0]
    other = rows.remove_columns("query").add_column("query", ["a cat", "a dog", "a cat", "a cow"])
    curve = train(build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu"), other, steps=1,
                  batch_size=4, log_steps=1)  # fmt: skip
    assert curve.loss.item() > 0.1
