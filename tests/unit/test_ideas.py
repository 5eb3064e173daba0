"""Ideas for training: each loss against plain loops, and start values that survive loading."""

import doctest
import functools
import math

import ideas
import numpy as np
import pytest
import torch

from metaembed_lite import MatryoshkaMultiVectorLoss, build, load, train
from metaembed_lite.baselines import token_vectors
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.saving import save

BUDGETS = [(1, 1), (2, 3), (3, 5)]
# Candidate 3 equals query 0's positive. Queries 1 and 2 are equal, so they share their positives.
KEYS = torch.tensor([7, 8, 8, 9]), torch.tensor([[1, 2], [3, 1], [4, 5], [6, 7]])
LEFT_OUT = {(0, 3), (1, 4), (2, 2)}  # pairs of query and candidate, by hand


def batch(seed=0):
    """Unit vectors (4, 3, 6) and (4, 2, 5, 6) in float64, with gradients."""
    generator = np.random.default_rng(seed)
    sides = [generator.normal(size=shape) for shape in ((4, 3, 6), (4, 2, 5, 6))]
    return [
        torch.tensor(x / np.linalg.norm(x, axis=-1, keepdims=True)).requires_grad_() for x in sides
    ]


@functools.cache
def small_model():
    return build("tiny-vlm", r_q=3, r_c=5, lora_rank=None, device="cpu")


def slow_scores(queries, candidates, budget):
    """MaxSim of each query with each candidate of the batch, one pair at a time."""
    r_q, r_c = budget
    queries, candidates = (np.asarray(x.detach()) for x in (queries, candidates))
    pool = [item for row in candidates for item in row]
    return [
        [sum(max(float(q @ c) for c in item[:r_c]) for q in query[:r_q]) for item in pool]
        for query in queries
    ]


def slow_log_shares(scores, temperature, row, left_out):
    """log softmax of one query's scores, by candidate, without those that are left out."""
    logits = {
        column: score / temperature
        for column, score in enumerate(scores)
        if (row, column) not in left_out
    }
    highest = max(logits.values())
    total = highest + math.log(sum(math.exp(value - highest) for value in logits.values()))
    return {column: value - total for column, value in logits.items()}


def slow_loss(queries, candidates, budget, temperature, left_out=()):
    """InfoNCE at one budget: each query's positive is the first of its two candidates."""
    parts = [
        -slow_log_shares(scores, temperature, row, left_out)[2 * row]
        for row, scores in enumerate(slow_scores(queries, candidates, budget))
    ]
    return sum(parts) / len(parts)


def slow_overlap(items):
    """The mean squared cosine over ordered pairs of different vectors, item by item."""
    means = []
    for vectors in items:
        squares = [
            float(a @ b) ** 2
            for i, a in enumerate(vectors)
            for j, b in enumerate(vectors)
            if i != j
        ]
        means.append(sum(squares) / len(squares))
    return sum(means) / len(means)


def slow_divergence(queries, candidates, budget, tau, teacher_tau, left_out, teacher_queries=None):
    """KL of a budget's softmax from that of the largest budget, the mean over the queries."""
    teacher_queries = queries if teacher_queries is None else teacher_queries
    teachers = slow_scores(teacher_queries, candidates, BUDGETS[-1])
    students = slow_scores(queries, candidates, budget)
    total = 0.0
    for row in range(len(students)):
        teacher = slow_log_shares(teachers[row], teacher_tau, row, left_out)
        student = slow_log_shares(students[row], tau, row, left_out)
        total += sum(math.exp(teacher[i]) * (teacher[i] - student[i]) for i in teacher)
    return total / len(students)


LOSSES = {
    "orthogonal vectors": functools.partial(ideas.OrthogonalVectors, temperature=0.3, weight=2.0),
    "random budgets": functools.partial(ideas.RandomBudgets, temperature=0.3, n=2),
    "distilled budgets": functools.partial(ideas.DistilledBudgets, temperature=0.3, weight=2.0),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
with_and_without_keys = pytest.mark.parametrize(
    ("keys", "left_out"), [(None, set()), (KEYS, LEFT_OUT)], ids=["no keys", "false negatives"]
)


@pytest.mark.parametrize("full_only", [False, True])
def test_vectors_of_an_item_that_repeat_each_other_cost(full_only):
    queries, candidates = batch()
    plain = MatryoshkaMultiVectorLoss(small_model(), BUDGETS, temperature=0.3)
    loss = ideas.OrthogonalVectors(small_model(), BUDGETS, temperature=0.3, weight=2.0)
    loss.full_only = plain.full_only = full_only
    added = loss.embedding_loss(queries, candidates) - plain.embedding_loss(queries, candidates)
    overlap = slow_overlap(queries.detach()) + slow_overlap(candidates.detach().flatten(0, 1))
    assert added.item() == pytest.approx(2 * overlap)
    (gradient,) = torch.autograd.grad(added, candidates)
    assert (gradient.abs().amax(dim=-1) > 0).all()  # of the negatives' vectors too


def test_vectors_beyond_the_largest_budget_cost_nothing():
    queries, candidates = (x.detach() for x in batch())
    loss = ideas.OrthogonalVectors(small_model(), (2, 3), weight=2.0)
    expected = loss.embedding_loss(queries, candidates)
    queries[:, 2:], candidates[:, :, 3:] = torch.nan, torch.nan
    assert loss.embedding_loss(queries, candidates) == expected


def test_orthogonal_vectors_and_single_vectors_have_no_overlap_and_copies_have_one():
    assert ideas.mean_squared_cosine(torch.eye(4)[None]) == 0
    assert ideas.mean_squared_cosine(torch.ones(3, 1, 1)) == 0
    assert ideas.mean_squared_cosine(torch.eye(4)[:1].expand(2, 5, 4)) == 1


@with_and_without_keys
def test_random_budgets_are_trained_besides_the_nested_ones(keys, left_out):
    queries, candidates = batch()
    loss = ideas.RandomBudgets(
        small_model(), BUDGETS, temperature=0.1, scale_temperature=True, n=4, seed=3
    )
    plain = sum(
        slow_loss(queries, candidates, budget, 0.1 * budget[0], left_out) for budget in BUDGETS
    )
    for _ in range(3):
        got = loss.embedding_loss(queries, candidates, keys)
        pairs = [(budget.r_q, budget.r_c) for budget in loss.random_budgets]
        assert len(pairs) == 4
        added = sum(slow_loss(queries, candidates, pair, 0.1 * pair[0], left_out) for pair in pairs)
        assert got.item() == pytest.approx(plain + added)
        assert len(loss.losses_by_budget) == len(BUDGETS)


def test_the_temperature_between_two_trained_budgets_is_interpolated():
    budgets, middle = [(1, 1), (3, 5)], ideas.Budget(2, 4)
    scaled, plain = (
        ideas.RandomBudgets(small_model(), budgets, temperature=0.1, scale_temperature=scale, n=1)
        for scale in (True, False)
    )
    assert scaled.choose_tau(middle) == pytest.approx(0.2)
    assert plain.choose_tau(middle) == pytest.approx(0.1)


def test_random_budgets_are_uniform_and_those_of_the_seed():
    first, same, other = (
        ideas.RandomBudgets(small_model(), (2, 3), n=600, seed=seed).draw_budgets()
        for seed in (0, 0, 1)
    )
    assert first == same
    assert first != other
    counts = {(r_q, r_c): 0 for r_q in (1, 2) for r_c in (1, 2, 3)}
    for budget in first:
        counts[budget.r_q, budget.r_c] += 1  # raises KeyError beyond the largest budget
    assert min(counts.values()) > 60  # of 100 on average, four standard deviations below
    assert max(counts.values()) < 140


def test_a_step_continues_the_sequence_of_random_budgets():
    loss = ideas.RandomBudgets(small_model(), BUDGETS, n=5)
    draws = []
    for _ in range(2):
        loss.embedding_loss(*batch())
        draws.append(loss.random_budgets)
    assert draws[0] != draws[1]
    same = ideas.RandomBudgets(small_model(), BUDGETS, n=5)
    assert draws == [same.draw_budgets(), same.draw_budgets()]


@with_and_without_keys
@pytest.mark.parametrize("teacher_temperature", [None, 0.9])
def test_smaller_budgets_learn_from_the_scores_of_the_largest(keys, left_out, teacher_temperature):
    queries, candidates = batch()
    tau = {"temperature": 0.1, "scale_temperature": True}  # so 0.3 at the full budget
    plain = MatryoshkaMultiVectorLoss(small_model(), BUDGETS, **tau)
    loss = ideas.DistilledBudgets(
        small_model(), BUDGETS, **tau, weight=2.0, teacher_temperature=teacher_temperature
    )
    got = loss.embedding_loss(queries, candidates, keys)
    added = got - plain.embedding_loss(queries, candidates, keys)
    expected = [
        slow_divergence(
            queries, candidates, budget, 0.1 * budget[0], teacher_temperature or 0.3, left_out
        )
        for budget in BUDGETS[:-1]
    ]
    assert added.item() == pytest.approx(2 * sum(expected))
    gradients = torch.autograd.grad(added, (queries, candidates))
    for gradient, r in zip(gradients, BUDGETS[-2], strict=True):
        assert gradient.isfinite().all()
        assert gradient[..., :r, :].abs().max() > 0
        assert (gradient[..., r:, :] == 0).all()  # only the largest budget reads these vectors


def test_the_teacher_gets_no_gradient_from_distillation():
    queries, candidates = batch()
    loss = ideas.DistilledBudgets(small_model(), BUDGETS, temperature=0.3, weight=2.0)
    gradient = torch.autograd.grad(loss.embedding_loss(queries, candidates, KEYS), queries)[0]

    def slow_total(moved):
        """The loss at moved queries, with the teacher's scores of the original ones."""
        settings = (0.3, 0.3, LEFT_OUT, queries)
        return sum(slow_loss(moved, candidates, budget, 0.3, LEFT_OUT) for budget in BUDGETS) + sum(
            2 * slow_divergence(moved, candidates, budget, *settings) for budget in BUDGETS[:-1]
        )

    step = torch.zeros_like(queries)
    for row, dimension in ((0, 1), (2, 4)):  # of the first vector, which every budget reads
        step.zero_()[row, 0, dimension] = 1e-6
        slope = (slow_total(queries + step) - slow_total(queries - step)) / 2e-6
        assert gradient[row, 0, dimension].item() == pytest.approx(slope, rel=1e-4)


@every_loss
def test_before_nesting_only_the_largest_budget_trains(name):
    queries, candidates = batch()
    loss = LOSSES[name](small_model(), BUDGETS)
    loss.full_only = True
    got = loss.embedding_loss(queries, candidates, KEYS)
    expected = slow_loss(queries, candidates, BUDGETS[-1], 0.3, LEFT_OUT)
    if name == "orthogonal vectors":  # the penalty stays on
        items = candidates.detach().flatten(0, 1)
        expected += 2 * (slow_overlap(queries.detach()) + slow_overlap(items))
    assert got.item() == pytest.approx(expected)
    assert not getattr(loss, "random_budgets", [])
    loss.full_only = False
    assert loss.embedding_loss(queries, candidates, KEYS) > got


@every_loss
def test_every_vector_gets_a_gradient(name):
    queries, candidates = batch()
    LOSSES[name](small_model(), BUDGETS).embedding_loss(queries, candidates, KEYS).backward()
    for side in (queries, candidates):
        assert side.grad.isfinite().all()
        assert (side.grad.abs().amax(dim=(-2, -1)) > 0).all()


@pytest.fixture(scope="module")
def rows():
    return training_rows(8)


@every_loss
def test_a_training_step_changes_meta_tokens_and_lora(name, rows):
    model = build("tiny-vlm", r_q=3, r_c=5, dim=16, lora_rank=4, device="cpu")
    loss = LOSSES[name](model, BUDGETS)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    curve = train(model, rows, loss=loss, steps=1, batch_size=4, warmup_steps=0)
    assert np.isfinite(curve.loss).all()
    moved = {
        n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])
    }
    for part in ("lora_B", "trainable_tokens", "linear"):
        assert any(part in parameter for parameter in moved), part


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ideas.OrthogonalVectors, {"weight": 0}, r"weight=0: use a positive, finite number"),
        (ideas.OrthogonalVectors, {"weight": math.nan}, r"weight=nan: use a positive"),
        (ideas.RandomBudgets, {"n": 0}, r"n=0: use a whole number from 1 up"),
        (ideas.RandomBudgets, {"n": 2.0}, r"n=2\.0: use a whole number"),
        (ideas.RandomBudgets, {"n": 2, "seed": -1}, r"seed=-1: use a whole number from 0 up"),
        (ideas.DistilledBudgets, {"weight": "1"}, r"weight='1': use a positive, finite number"),
        (
            ideas.DistilledBudgets,
            {"weight": 1, "teacher_temperature": 0},
            r"temperature=0: .*positive, finite",
        ),
        (
            ideas.DistilledBudgets,
            {"weight": 1, "budgets": (3, 5)},
            r"the only budget is \(3, 5\): .*at least two",
        ),
    ],
)
def test_a_bad_setting_of_a_loss_is_named(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(small_model(), **{"budgets": BUDGETS, **arguments})


def word_model(lora_rank):
    """A model whose query and candidate meta tokens start at one word per side."""
    return build(
        "tiny-vlm", r_q=3, r_c=5, dim=16, lora_rank=lora_rank, init_text=("apple", "violin"),
        device="cpu",
    )  # fmt: skip


def meta_ids(model):
    return model[0].meta_ids["query"] + model[0].meta_ids["document"]


def starts(model):
    """The embeddings that the meta tokens have in a forward pass, (8, H)."""
    return model[0].model.get_input_embeddings()(torch.tensor(meta_ids(model))).detach()


def vocabulary():
    """The embeddings of the words of tiny-vlm, without special tokens, (W, H)."""
    plain = token_vectors("tiny-vlm", lora_rank=None, device="cpu")[0]
    special = set(plain.tokenizer.all_special_tokens)
    words = {word: i for word, i in plain.tokenizer.get_vocab().items() if word not in special}
    return plain.model.get_input_embeddings().weight.detach()[list(words.values())]


START_VALUES = {
    "rows": ideas.start_from_rows,
    "offsets": functools.partial(ideas.start_with_offsets, scale=0.1),
}
with_and_without_lora = pytest.mark.parametrize("lora_rank", [4, None])


@with_and_without_lora
def test_meta_tokens_start_at_different_rows_of_the_vocabulary(lora_rank):
    model = word_model(lora_rank)
    ideas.start_from_rows(model, seed=1)
    words = vocabulary()
    rows = [
        torch.nonzero((words == start).all(dim=1)).flatten().tolist() for start in starts(model)
    ]
    assert all(len(row) == 1 for row in rows)
    assert len({row[0] for row in rows}) == 8


@with_and_without_lora
def test_offsets_have_the_scale_and_no_meta_token_repeats_another(lora_rank):
    model = word_model(lora_rank)
    before = starts(model)
    ideas.start_with_offsets(model, scale=0.1, seed=1)
    spread = torch.tensor(np.std(vocabulary().numpy(), axis=0, ddof=1))
    offsets = (starts(model) - before) / spread  # 1,024 draws of standard deviation 0.1
    assert offsets.std().item() == pytest.approx(0.1, rel=0.1)
    assert abs(offsets.mean().item()) < 0.02
    assert len(before.unique(dim=0)) < len(starts(model).unique(dim=0)) == 8


@pytest.mark.parametrize("name", START_VALUES)
@with_and_without_lora
def test_start_values_are_those_of_the_seed_and_change_nothing_else(name, lora_rank):
    models = [word_model(lora_rank) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        START_VALUES[name](model, seed=seed)
    first, same, other = map(starts, models)
    assert torch.equal(first, same)
    assert not (first == other).all(dim=1).any()
    plain = word_model(lora_rank)
    others = [i for i in range(len(plain[0].tokenizer)) if i not in meta_ids(plain)]
    for (key, values), expected in zip(
        models[0].state_dict().items(), plain.state_dict().values(), strict=True
    ):
        if "embed_tokens" in key and len(values) > 8:  # the whole vocabulary
            values, expected = values[others], expected[others]
        assert "trainable_tokens_delta" in key or torch.equal(values, expected), key


@pytest.mark.parametrize("name", START_VALUES)
@with_and_without_lora
def test_the_embeddings_after_loading_are_those_before(name, lora_rank, tmp_path):
    model = word_model(lora_rank)
    item = "violin, red apple"
    before = model.encode_query(item)
    START_VALUES[name](model)
    query, candidate = model.encode_query(item), model.encode_document(item)
    assert not torch.allclose(query, before, atol=1e-3)
    save(model, tmp_path / "saved")
    again = load(tmp_path / "saved", device="cpu")
    assert torch.equal(again.encode_query(item), query)
    assert torch.equal(again.encode_document(item), candidate)


@pytest.mark.parametrize("name", START_VALUES)
def test_start_values_train(name, rows):
    model = word_model(4)
    START_VALUES[name](model)
    before = starts(model)
    train(model, rows, steps=1, batch_size=4, warmup_steps=0)
    moved = (starts(model) != before).any(dim=1)
    assert moved[[0, 1, 2, 3]].all()  # M_q and the first of M_c: others may win no maximum yet


@pytest.mark.parametrize("scale", [0, -0.1, math.inf, "0.1"])
def test_a_bad_scale_is_named(scale):
    with pytest.raises(ValueError, match=f"scale={scale!r}: use a positive, finite number"):
        ideas.start_with_offsets(small_model(), scale=scale)


@pytest.mark.parametrize("name", START_VALUES)
def test_a_model_without_meta_tokens_and_a_bad_seed_are_named(name):
    with pytest.raises(ValueError, match="it has no meta tokens"):
        START_VALUES[name](token_vectors("tiny-vlm", lora_rank=None, device="cpu"))
    with pytest.raises(ValueError, match=r"seed=0\.5: use a whole number from 0 up"):
        START_VALUES[name](small_model(), seed=0.5)


def test_a_vocabulary_with_too_few_words_is_named(monkeypatch):
    model, words = small_model(), vocabulary()
    n = len(meta_ids(model))
    monkeypatch.setattr(ideas, "_word_embeddings", lambda model: words[: n - 1])
    with pytest.raises(ValueError, match=f"has {n - 1} words, and each of the {n} meta tokens"):
        ideas.start_from_rows(model)


def test_the_examples_of_the_ideas_give_what_they_show():
    result = doctest.testmod(ideas)
    assert result.attempted > 0
    assert result.failed == 0
