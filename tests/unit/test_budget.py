"""Budgets: how they are written, checked and compared, and what they cost."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaembed_lite.budget import (
    PAPER_BUDGETS,
    Budget,
    as_budget,
    as_budgets,
    budgets_within,
    check_nested,
    rings,
)

counts = st.integers(1, 100)


def test_the_paper_has_five_budgets():
    pairs = [(b.r_q, b.r_c) for b in PAPER_BUDGETS]
    assert pairs == [(1, 1), (2, 4), (4, 8), (8, 16), (16, 64)]


@pytest.mark.parametrize("bad", [0, -1, 2.0, "4", None, True, np.int64(0)])
def test_a_count_that_is_not_a_whole_number_from_1_up_is_refused_by_name(bad):
    with pytest.raises(ValueError, match="r_q="):
        Budget(bad, 1)
    with pytest.raises(ValueError, match="r_c="):
        Budget(1, bad)


def test_whole_numbers_from_numpy_become_ordinary_ones():
    budget = Budget(np.int64(4), np.int32(8))
    assert budget == Budget(4, 8)
    assert type(budget.r_q) is type(budget.r_c) is int


def test_a_budget_cannot_be_changed_and_can_be_a_dict_key():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget(1, 1).r_q = 2
    assert {Budget(4, 8): "here"}[Budget(4, 8)] == "here"


@given(counts, counts, st.sampled_from(["{}x{}", "{},{}", "({}, {})", " {} x {} ", "{}×{}"]))
def test_every_way_of_writing_a_budget_is_read(r_q, r_c, form):
    assert Budget.parse(form.format(r_q, r_c)) == Budget(r_q, r_c)


@given(counts, counts)
def test_a_printed_budget_can_be_parsed(r_q, r_c):
    assert Budget.parse(str(Budget(r_q, r_c))) == Budget(r_q, r_c)


@pytest.mark.parametrize("text", ["", "4", "4x", "x8", "4x8x2", "-1x4", "0x4", "1.5x2", "four x 8"])
def test_a_text_that_is_not_a_budget_is_refused(text):
    with pytest.raises(ValueError, match=r"budget|whole number"):
        Budget.parse(text)


EVERY_FORM = [Budget(4, 8), (4, 8), [4, 8], "4x8", np.array([4, 8]), (np.int64(4), np.uint8(8))]


@pytest.mark.parametrize("value", EVERY_FORM)
def test_a_budget_may_be_given_as_a_pair_or_a_text(value):
    assert as_budget(value) == Budget(4, 8)


@pytest.mark.parametrize("value", [(4,), (4, 8, 16), ()])
def test_anything_but_a_pair_is_refused(value):
    with pytest.raises(ValueError, match="expected a pair"):
        as_budget(value)


@pytest.mark.parametrize(
    "value",
    [{4, 8}, {4: 1, 8: 2}, b"48", bytearray(b"48"), 5, 4.0, None, frozenset({4, 8}), 4 + 8j],
)
def test_a_value_that_is_not_an_ordered_pair_is_refused_with_the_value(value):
    with pytest.raises(ValueError, match="expected a pair") as error:
        as_budget(value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("value", [(4.0, 8), np.array([4.0, 8.0]), ("4", "8"), (True, True)])
def test_a_pair_of_anything_but_whole_numbers_is_refused_by_name(value):
    with pytest.raises(ValueError, match="r_q="):
        as_budget(value)


@pytest.mark.parametrize("text", [b"4x8", None, 4])
def test_only_a_text_can_be_parsed(text):
    with pytest.raises(ValueError, match="write it as r_q x r_c"):
        Budget.parse(text)


@pytest.mark.parametrize("value", EVERY_FORM)
def test_one_budget_in_any_form_is_a_list_of_one(value):
    for read in (as_budgets, check_nested, lambda budgets: budgets_within((4, 8), budgets)):
        assert read(value) == (Budget(4, 8),)
        assert read([value]) == (Budget(4, 8),)


def test_a_list_of_budgets_may_be_any_iterable():
    expected = (Budget(1, 1), Budget(4, 8))
    forms = (["1x1", "4x8"], ("1x1", (4, 8)), iter([(1, 1), [4, 8]]), np.array([[1, 1], [4, 8]]))
    for form in forms:
        assert as_budgets(form) == expected


@pytest.mark.parametrize(
    "budgets",
    [{(1, 1), (4, 8)}, {"1x1": 1}, b"4x8", 5, None, [1, 4, 8], [4], [5, (4, 8)], "1x1 4x8"],
)
def test_anything_but_a_list_of_budgets_is_refused(budgets):
    with pytest.raises(ValueError, match="budget"):
        as_budgets(budgets)


def test_the_budgets_of_a_model_are_those_given_or_those_that_fit():
    assert budgets_within((4, 8)) == (Budget(1, 1), Budget(2, 4), Budget(4, 8))
    assert budgets_within("4x8", [(1, 1), "4x8"]) == (Budget(1, 1), Budget(4, 8))
    with pytest.raises(ValueError, match="r_c <= 8"):
        budgets_within((4, 8), [(1, 1), (4, 9)])


@pytest.mark.parametrize("bad", [0, 2.0, "64", None, True])
def test_a_bad_argument_of_a_cost_is_named(bad):
    for call, name in (
        (lambda: Budget(1, 1).bytes_per_candidate(bad), "dim="),
        (lambda: Budget(1, 1).multiply_adds(bad), "dim="),
        (lambda: Budget(1, 1).check(bad, 1), "r_q="),
        (lambda: Budget(1, 1).check(1, bad), "r_c="),
        (lambda: budgets_within((1, bad)), "r_c="),
    ):
        with pytest.raises(ValueError, match=f"^{name}"):
            call()
    with pytest.raises(ValueError, match=r"^candidates="):
        Budget(1, 1).multiply_adds(8, candidates=-1)
    with pytest.raises(ValueError, match=r"dtype \['float32'\]"):
        Budget(1, 1).bytes_per_candidate(8, ["float32"])


@given(counts, counts, counts, counts)
def test_a_budget_can_be_met_exactly_if_both_sides_have_enough_vectors(r_q, r_c, has_q, has_c):
    budget = Budget(r_q, r_c)
    if r_q <= has_q and r_c <= has_c:
        assert budget.check(has_q, has_c) == budget
    else:
        with pytest.raises(ValueError, match="there are"):
            budget.check(has_q, has_c)


def test_the_error_on_a_large_budget_names_the_side_and_the_remedy():
    with pytest.raises(ValueError, match=r"budget \(4, 80\).*64 candidate.*r_c <= 64.*r_c=80"):
        Budget(4, 80).check(16, 64)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_candidate_takes_the_bytes_of_its_vectors(dtype, size):
    values = torch.zeros(16, 128, dtype=getattr(torch, dtype))
    assert Budget(8, 16).bytes_per_candidate(128, dtype) == values.numel() * size
    assert values.element_size() == size


def test_an_unknown_dtype_is_refused_with_the_choice():
    with pytest.raises(ValueError, match=r"float8.*float32"):
        Budget(1, 1).bytes_per_candidate(128, "float8")


def test_scoring_takes_one_multiply_add_per_pair_of_values():
    assert Budget(4, 8).multiply_adds(dim=128, candidates=1000) == 4 * 8 * 128 * 1000


def test_nested_budgets_come_back_in_order_as_budgets():
    assert check_nested([(1, 1), "2x4", Budget(2, 8)]) == (Budget(1, 1), Budget(2, 4), Budget(2, 8))


@pytest.mark.parametrize(
    "budgets", [[(2, 4), (1, 8)], [(2, 4), (4, 2)], [(2, 4), (2, 4)], [(4, 8), (1, 1)]]
)
def test_budgets_that_are_not_nested_are_refused(budgets):
    with pytest.raises(ValueError, match="not nested"):
        check_nested(budgets)


def test_an_empty_list_of_budgets_is_refused():
    with pytest.raises(ValueError, match="no budgets"):
        check_nested([])


@given(counts, counts)
def test_the_default_budgets_are_nested_and_end_with_the_full_budget(r_q, r_c):
    budgets = budgets_within((r_q, r_c))
    assert check_nested(budgets) == budgets
    assert budgets[-1] == Budget(r_q, r_c)
    assert set(budgets[:-1]) <= set(PAPER_BUDGETS)


@given(counts, counts, counts, counts)
def test_a_budget_contains_another_exactly_if_neither_side_is_larger(a, b, c, d):
    assert Budget(a, b).contains((c, d)) == (c <= a and d <= b)
    assert Budget(a, b).contains(Budget(a, b))


def test_budgets_have_no_order():
    """(1, 64) and (2, 1): neither contains the other, so neither comes first."""
    with pytest.raises(TypeError):
        sorted([Budget(1, 64), Budget(2, 1)])


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=5))
def test_rings_are_the_vectors_that_each_budget_adds(sides):
    r_q, r_c = (sorted(side) for side in zip(*sides, strict=True))
    budgets = list(dict.fromkeys(zip(r_q, r_c, strict=True)))
    vectors = list(range(budgets[-1][1]))
    for budget, _ in zip(budgets, rings(budgets), strict=True):
        inner = rings(budgets)[: budgets.index(budget) + 1]
        assert [v for ring in inner for v in vectors[ring]] == vectors[: budget[1]]


def test_rings_of_budgets_that_are_not_nested_are_refused():
    with pytest.raises(ValueError, match="not nested"):
        rings([(2, 4), (1, 8)])


@pytest.mark.parametrize("budget", [Budget(2, 4), (2, 4), [2, 4], "2x4", np.array([2, 4])])
def test_every_function_takes_a_budget_in_every_form(budget):
    from metaembed_lite import (
        BudgetExplorer,
        MatryoshkaMultiVectorLoss,
        build,
        load_task,
        maxsim,
        memory,
        mmr_loss,
        sweep,
        train,
    )
    from metaembed_lite.evaluation import encode, evaluate
    from metaembed_lite.meta_tokens import choose_budgets

    model = build("tiny-vlm", r_q=3, r_c=5, dim=8, lora_rank=2, device="cpu")
    task = load_task("handwriting", n_queries=4, n_train=8)
    encoded = encode(model, task)
    queries, candidates = encoded.queries, encoded.candidates
    expected = maxsim(queries, candidates, Budget(2, 4))
    assert torch.equal(maxsim(queries, candidates, budget), expected)
    assert choose_budgets(model, budget) == (Budget(2, 4),)
    assert evaluate(encoded, budget).r_c.tolist() == [4]
    assert sweep(model, task, budget).r_c.tolist() == [4]
    assert MatryoshkaMultiVectorLoss(model, budget).budgets == (Budget(2, 4),)
    assert len(mmr_loss(queries, candidates[:4, None], budget)[1]) == 1
    assert memory.similarity_bytes(1, 1, budget) == 8 * 2 * 4
    assert "similarities" in memory.estimate(model, task.train, budget, batch_size=4)
    curve = train(model, task.train, budgets=budget, steps=1, batch_size=4)
    assert list(curve.columns)[3:] == ["(2, 4)"]
    explorer = BudgetExplorer(model, task, encoded, budgets=budget, queries=1, candidates=2)
    explorer.budget = budget
    assert explorer.budget == Budget(2, 4)
