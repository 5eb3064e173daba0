"""MaxSim equals its definition at any budget, with masks, in half precision, in bounded memory."""

import numpy as np
import pytest
import torch
from allocations import largest_allocation
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.multi_vector_encoder.scoring import colbert_scores

from metaembed_lite import scoring
from metaembed_lite.scoring import as_embeddings, maxsim


def oracle(queries, candidates, query_mask=None, candidate_mask=None):
    """The definition: the sum of maxima, in float64, pair by pair."""
    q, c = (np.asarray(x, dtype=np.float64) for x in (queries, candidates))
    scores = np.zeros((len(q), len(c)))
    for u in range(len(q)):
        for v in range(len(c)):
            for i in range(q.shape[1]):
                if query_mask is None or query_mask[u, i]:
                    allowed = [
                        q[u, i] @ c[v, j]
                        for j in range(c.shape[1])
                        if candidate_mask is None or candidate_mask[v, j]
                    ]
                    scores[u, v] += max(allowed)
    return scores


def unit(*shape, seed=0, dtype=torch.float32):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1).to(dtype)


sizes = st.integers(1, 5)
seeds = st.integers(0, 10_000)


@given(sizes, sizes, sizes, sizes, sizes, seeds)
@settings(deadline=None)
def test_scores_equal_the_definition_for_any_shape(n_q, n_c, r_q, r_c, dim, seed):
    q, c = unit(n_q, r_q, dim, seed=seed), unit(n_c, r_c, dim, seed=seed + 1)
    scores = maxsim(q, c)
    assert scores.shape == (n_q, n_c)
    np.testing.assert_allclose(scores.numpy(), oracle(q, c), atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 7))
@settings(deadline=None)
def test_a_budget_uses_the_first_vectors_only(r_q, r_c):
    q, c = unit(3, 6, 4), unit(4, 7, 4, seed=1)
    expected = oracle(q[:, :r_q], c[:, :r_c])
    np.testing.assert_allclose(maxsim(q, c, (r_q, r_c)).numpy(), expected, atol=1e-5)


@given(seeds, st.integers(1, 4), st.integers(1, 5))
@settings(deadline=None)
def test_masked_vectors_do_not_count_at_any_budget(seed, r_q, r_c):
    q, c = unit(3, 4, 4), unit(5, 5, 4, seed=1)
    rng = np.random.default_rng(seed)
    query_mask, candidate_mask = rng.random((3, 4)) < 0.6, rng.random((5, 5)) < 0.6
    candidate_mask[:, 0] = True  # each candidate keeps a vector at every budget
    scores = maxsim(
        q, c, (r_q, r_c),
        query_mask=torch.from_numpy(query_mask), candidate_mask=torch.from_numpy(candidate_mask),
    )  # fmt: skip
    expected = oracle(q[:, :r_q], c[:, :r_c], query_mask, candidate_mask)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


def test_scores_equal_those_of_sentence_transformers():
    q, c = unit(3, 4, 8), unit(6, 5, 8, seed=1)
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[:, 0] = True
    theirs = colbert_scores(q, c[:, None], documents_mask=mask[:, None])
    torch.testing.assert_close(maxsim(q, c, candidate_mask=mask), theirs)


def test_padding_cannot_win_where_every_real_similarity_is_negative():
    q = torch.tensor([[[1.0, 0.0]]])
    c = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])  # the second vector is padding
    mask = torch.tensor([[True, False]])
    assert maxsim(q, c, candidate_mask=mask).item() == -1.0


def test_gradients_reach_the_winning_vectors_only():
    q = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    c = torch.tensor([[[0.5, 0.5], [0.9, 0.1]]], requires_grad=True)
    maxsim(q, c).sum().backward()
    torch.testing.assert_close(q.grad, torch.tensor([[[0.9, 0.1]]]))
    torch.testing.assert_close(c.grad, torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]))


@pytest.mark.parametrize("few", [1, 1000])
def test_both_ways_to_multiply_give_the_definition(monkeypatch, few):
    monkeypatch.setattr(scoring, "FEW_VECTORS", few)
    q, c = unit(5, 3, 8), unit(40, 6, 8, seed=1)
    random = torch.Generator().manual_seed(2)
    q_mask = torch.rand(5, 3, generator=random) < 0.7
    c_mask = torch.rand(40, 6, generator=random) < 0.7
    c_mask[:, 0] = True
    expected = oracle(q, c, q_mask, c_mask)
    scores = maxsim(q, c, query_mask=q_mask, candidate_mask=c_mask)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


def test_both_ways_to_multiply_give_the_same_gradients(monkeypatch):
    gradients = []
    for few in (1, 1000):
        monkeypatch.setattr(scoring, "FEW_VECTORS", few)
        q, c = unit(5, 3, 8).requires_grad_(), unit(40, 6, 8, seed=1).requires_grad_()
        maxsim(q, c).square().sum().backward()
        gradients.append((q.grad, c.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("few", [1, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bfloat16_products_are_near_the_exact_scores(monkeypatch, few, dtype):
    monkeypatch.setattr(scoring, "FEW_VECTORS", few)
    q, c = unit(3, 16, 64, dtype=dtype), unit(200, 32, 64, seed=1, dtype=dtype)
    rounded = maxsim(q, c, products="bfloat16")
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - maxsim(q, c)).abs().max() < 0.02


@pytest.mark.parametrize("whole", [torch.int8, torch.int64, torch.float64])
def test_bfloat16_products_never_round_whole_numbers_or_float64(whole):
    values = torch.ones(1, 1, 4)
    with pytest.raises(ValueError, match=f"would round candidates of {whole}: convert them"):
        maxsim(values, values.to(whole), products="bfloat16")
    with pytest.raises(ValueError, match="products 'float16': choose 'exact' or 'bfloat16'"):
        maxsim(values, values, products="float16")


@pytest.mark.parametrize("few", [1, 1000])
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
def test_an_infinite_value_that_no_maximum_shows_is_refused(monkeypatch, few, bad):
    monkeypatch.setattr(scoring, "FEW_VECTORS", few)
    candidates = torch.ones(2, 3, 4)
    candidates[1, 2, 0] = bad
    for first in (-bad, 0.0):  # a similarity of -inf, and one of NaN
        query = torch.ones(1, 2, 4)
        query[:, :, 0] = float(np.sign(first))
        with pytest.raises(ValueError, match=rf"candidates\[1, 2, 0\] is {bad}"):
            maxsim(query, candidates)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype):
    q, c = unit(2, 16, 32, dtype=dtype), unit(50, 64, 32, seed=1, dtype=dtype)
    scores = maxsim(q, c)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), oracle(q.float(), c.float()), rtol=1e-5)


def test_autocast_does_not_switch_scoring_to_half_precision():
    q, c = unit(2, 16, 32), unit(50, 64, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        scores = maxsim(q, c)
    torch.testing.assert_close(scores, maxsim(q, c), rtol=0, atol=0)


def test_int8_embeddings_do_not_overflow():
    q, c = (unit(2, 3, 16, seed=s).mul(127).round().to(torch.int8) for s in (0, 1))
    np.testing.assert_array_equal(maxsim(q, c).numpy(), oracle(q, c))


WHOLE_TYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def whole_numbers(dtype, *shape, seed=0):
    """Whole numbers over the whole range of a small type, up to 2**20 of a large one."""
    least, most = (
        (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    )
    least, most = max(least, -(1 << 20)), min(most, 1 << 20)
    draw = torch.Generator().manual_seed(seed)
    values = torch.randint(least, most + 1, shape, generator=draw, dtype=torch.int64)
    return values.to(dtype)


@pytest.mark.parametrize("q_dtype", WHOLE_TYPES)
@pytest.mark.parametrize("c_dtype", WHOLE_TYPES)
def test_whole_numbers_are_scored_exactly(q_dtype, c_dtype):
    """Against Python's integers, which do not round: 16 vectors of 128 dimensions."""
    q, c = whole_numbers(q_dtype, 2, 16, 128), whole_numbers(c_dtype, 3, 4, 128, seed=1)
    a, b = (x.to(torch.int64).numpy().astype(object) for x in (q, c))
    exact = [[sum(max(x @ y for y in vs) for x in xs) for vs in b] for xs in a]
    assert [[int(s) for s in row] for row in maxsim(q, c)] == exact


def test_int8_against_floats_is_scored_in_the_type_of_the_floats():
    q, c = unit(2, 3, 16), unit(5, 4, 16, seed=1).mul(127).round().to(torch.int8)
    for dtype in (torch.float16, torch.float32, torch.float64):
        scores = maxsim(q.to(dtype), c)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(scores.numpy(), oracle(q.to(dtype), c), rtol=1e-5)
        np.testing.assert_allclose(
            maxsim(c, q.to(dtype)).numpy(), oracle(c, q.to(dtype)), rtol=1e-5
        )


def test_a_whole_number_that_float32_would_round_is_refused():
    q, large = unit(2, 3, 4), torch.full((5, 6, 4), 2**24 + 1)
    with pytest.raises(ValueError, match=r"candidates torch.int64 .* up to 16,777,217"):
        maxsim(q, large)
    with pytest.raises(ValueError, match=r"queries torch.int64"):
        maxsim(large, q)
    np.testing.assert_allclose(maxsim(q.double(), large).numpy(), oracle(q, large), rtol=1e-12)
    assert (
        maxsim(torch.full((1, 1, 1), 2**24 + 1), torch.ones(1, 1, 1, dtype=torch.int64)) == 16777217
    )


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.uint32])
def test_a_type_without_real_numbers_is_refused_by_name(dtype):
    odd = torch.ones(5, 6, 4).to(dtype)
    with pytest.raises(ValueError, match=f"candidates has type {dtype}"):
        maxsim(unit(2, 3, 4), odd)
    with pytest.raises(ValueError, match=rf"queries\[0\] has type {dtype}"):
        maxsim(list(odd), unit(2, 3, 4))


@pytest.mark.parametrize(
    "odd",
    [
        None,
        3,
        "text",
        b"text",
        {"a": torch.ones(3, 4)},
        ["a", "b"],
        [None],
        np.array([["a"]]),
        np.ma.masked_array(np.ones((2, 3, 4)), mask=True),
        [np.ma.masked_array(np.ones((3, 4)), mask=True)],
        torch.ones(2, 3, 4).to_sparse(),
        torch.ones(2, 3, 4, device="meta"),
    ],
)
def test_anything_but_a_tensor_of_numbers_is_refused_by_name(odd):
    with pytest.raises(ValueError, match="queries"):
        maxsim(odd, unit(5, 6, 4))


def test_numpy_arrays_and_nested_lists_are_accepted():
    q, c = unit(2, 3, 4), unit(5, 6, 4, seed=1)
    torch.testing.assert_close(maxsim(q.numpy(), c.tolist()), maxsim(q, c))


def test_float64_stays_float64():
    q, c = unit(2, 3, 4, dtype=torch.float64), unit(5, 6, 4, seed=1, dtype=torch.float64)
    np.testing.assert_allclose(maxsim(q, c).numpy(), oracle(q, c), rtol=1e-14)


@pytest.mark.parametrize("chunk_values", [1, 100, 137, 1 << 20])
def test_the_size_of_a_chunk_does_not_change_a_score(monkeypatch, chunk_values):
    q, c = unit(3, 4, 8), unit(23, 5, 8, seed=1)
    mask = torch.ones(23, 5, dtype=torch.bool)
    mask[::3, 2:] = False
    expected = oracle(q, c, candidate_mask=mask)
    monkeypatch.setattr(scoring, "CHUNK_VALUES", chunk_values)
    np.testing.assert_allclose(maxsim(q, c, candidate_mask=mask).numpy(), expected, atol=1e-5)


FLOAT32 = 4  # bytes


def test_no_tensor_holds_all_similarities():
    q, c = unit(8, 16, 4), unit(2000, 64, 4, seed=1)
    largest = largest_allocation(lambda: maxsim(q, c))
    assert largest <= FLOAT32 * scoring.CHUNK_VALUES < FLOAT32 * 8 * 16 * 2000 * 64 / 10


def test_a_single_query_vector_does_not_copy_all_candidates(monkeypatch):
    q, c = unit(1, 1, 64), unit(500, 4, 64, seed=1)
    monkeypatch.setattr(scoring, "CHUNK_VALUES", 1 << 10)
    # prefixes are not contiguous in memory, so a chunk is a copy
    assert largest_allocation(lambda: maxsim(q, c, (1, 2))) <= FLOAT32 << 10


def test_gradients_do_not_keep_all_similarities():
    q, c = unit(4, 8, 8).requires_grad_(), unit(1000, 16, 8, seed=1)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        maxsim(q, c)
    assert max(sizes) < 4 * 8 * 1000 * 16 / 3


def test_vectors_beyond_the_budget_are_not_read():
    q, c = unit(2, 3, 4), unit(5, 6, 4, seed=1)
    expected = maxsim(q, c, (2, 4))
    c[:, 4:] = torch.nan
    torch.testing.assert_close(maxsim(q, c, (2, 4)), expected)


def test_lists_as_the_encoder_returns_them_are_accepted():
    q, c = unit(2, 3, 4), unit(5, 6, 4, seed=1)
    torch.testing.assert_close(maxsim(list(q), [e.numpy() for e in c]), maxsim(q, c))


@pytest.mark.parametrize(("queries", "candidates", "name"), [
    ([], [torch.ones(1, 2)], "no queries"),
    ([torch.ones(1, 2)], [], "no candidates"),
])  # fmt: skip
def test_an_empty_list_is_refused_by_name(queries, candidates, name):
    with pytest.raises(ValueError, match=name):
        maxsim(queries, candidates)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (0, 3, 4), (2, 0, 4), (2, 3, 0), (1, 2, 3, 4)])
def test_a_shape_that_is_not_items_vectors_dimensions_is_refused(shape):
    with pytest.raises(ValueError, match="queries have shape"):
        maxsim(torch.ones(shape), unit(5, 6, 4))


def test_items_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        as_embeddings([torch.ones(3, 4), torch.ones(2, 4)])


def test_the_error_on_different_dimensions_names_both():
    with pytest.raises(ValueError, match="queries have 4 dimensions, candidates 8"):
        maxsim(unit(2, 3, 4), unit(5, 6, 8))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_value_that_is_not_finite_is_refused_with_its_place(bad, dtype):
    q, c = unit(2, 3, 4, dtype=dtype), unit(5, 6, 4, seed=1, dtype=dtype)
    c[3, 2, 1] = bad
    with pytest.raises(ValueError, match=r"candidates\[3, 2, 1\] is .*finite"):
        maxsim(q, c)
    with pytest.raises(ValueError, match=r"queries\[3, 2, 1\]"):
        maxsim(c, q)


@pytest.mark.parametrize(
    ("query", "candidate", "q_dtype", "c_dtype"),
    [
        (1e30, 1e30, torch.float32, torch.float32),
        (1.0, 1e300, torch.float32, torch.float64),
        (1e200, 1e200, torch.float64, torch.float64),
    ],
)
def test_scores_that_overflow_are_refused_with_the_first_pair(query, candidate, q_dtype, c_dtype):
    q = torch.full((2, 3, 4), query, dtype=q_dtype)
    c = torch.full((5, 6, 4), candidate, dtype=c_dtype)
    c[:2] = 0
    with pytest.raises(ValueError, match=r"query 0 and candidate 2 is .* too large for"):
        maxsim(q, c)


def test_large_scores_within_the_type_raise_no_error():
    q, c = torch.full((2, 1, 1), 1e19), torch.full((300, 1, 1), 1e19)  # their sum overflows
    assert torch.equal(maxsim(q, c), torch.full((2, 300), 1e19) * 1e19)


def test_a_half_precision_sum_that_overflows_raises_no_error():
    c = torch.full((200, 8, 64), 1.0, dtype=torch.float16)  # sums to 102,400, above 65,504
    assert maxsim(c[:1, :1], c)[0, 0] == 64


@pytest.mark.parametrize(("budget", "name"), [((4, 1), "r_q <= 3"), ((1, 7), "r_c <= 6")])
def test_a_budget_beyond_the_vectors_is_refused(budget, name):
    with pytest.raises(ValueError, match=name):
        maxsim(unit(2, 3, 4), unit(5, 6, 4, seed=1), budget)


def test_a_candidate_without_an_unmasked_vector_is_refused_by_index():
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[3, :2] = False
    q, c = unit(2, 3, 4), unit(5, 6, 4, seed=1)
    maxsim(q, c, candidate_mask=mask)  # it has unmasked vectors beyond the budget
    with pytest.raises(ValueError, match="candidate 3 has no unmasked vector in its first 2"):
        maxsim(q, c, (1, 2), candidate_mask=mask)


@pytest.mark.parametrize("shape", [(5,), (5, 5), (5, 7), (4, 6), (5, 6, 1)])
def test_a_mask_that_does_not_fit_is_refused(shape):
    mask = torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"candidate_mask has shape.*expected \(5, 6\)"):
        maxsim(unit(2, 3, 4), unit(5, 6, 4, seed=1), candidate_mask=mask)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.uint8, torch.float32, torch.float64, torch.bfloat16]
)
def test_a_mask_of_zeros_and_ones_counts_in_any_type(dtype):
    q, c = unit(2, 3, 4), unit(5, 6, 4, seed=1)
    mask = torch.tensor([[1, 0, 1, 0, 0, 1]] * 5)
    expected = oracle(q, c, mask[:2, :3].bool(), mask.bool())
    forms = (mask.to(dtype), mask.to(dtype).float().numpy(), mask.to(dtype).tolist())
    for form in forms:
        scores = maxsim(q, c, query_mask=mask[:2, :3].to(dtype), candidate_mask=form)
        np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("drop", [-torch.inf, torch.finfo(torch.float32).min, -1e4])
@pytest.mark.parametrize("side", ["query_mask", "candidate_mask"])
def test_an_additive_mask_is_refused_with_the_remedy(side, drop):
    shape = {"query_mask": (2, 3), "candidate_mask": (5, 6)}[side]
    mask = torch.zeros(shape)
    mask[:, 1:] = drop
    with pytest.raises(ValueError, match=rf"{side} holds -.*additive mask.* pass mask == 0"):
        maxsim(unit(2, 3, 4), unit(5, 6, 4), **{side: mask})
    scores = maxsim(unit(2, 3, 4), unit(5, 6, 4), **{side: mask == 0})
    masks = {side: (mask == 0).numpy()}
    np.testing.assert_allclose(scores, oracle(unit(2, 3, 4), unit(5, 6, 4), **masks), atol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, 0.3, -1.0, 2, 255, torch.inf, 1j])
def test_a_mask_of_other_values_is_refused_with_the_value(bad):
    mask = torch.ones(5, 6, dtype=torch.tensor(bad).dtype)
    mask[3, 2] = bad
    with pytest.raises(ValueError, match=r"candidate_mask holds .*expected bool, or 1 to keep"):
        maxsim(unit(2, 3, 4), unit(5, 6, 4), candidate_mask=mask)


@pytest.mark.parametrize(
    "bad",
    [
        np.ma.masked_array(np.ones((5, 6)), mask=True),
        "all",
        [[True], []],
        torch.ones(5, 6).to_sparse(),
    ],
)
def test_anything_but_a_plain_mask_is_refused(bad):
    with pytest.raises(ValueError, match="candidate_mask"):
        maxsim(unit(2, 3, 4), unit(5, 6, 4), candidate_mask=bad)


@pytest.mark.parametrize("budget", [None, (2, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_is_the_sum_divided_by_the_query_vectors_that_count(budget, masked):
    queries, candidates = unit(3, 4, 8), unit(5, 6, 8, seed=1)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]) if masked else None
    total = maxsim(queries, candidates, budget, query_mask=mask)
    mean = maxsim(queries, candidates, budget, query_mask=mask, reduce="mean")
    r_q = 4 if budget is None else budget[0]
    for i in range(3):
        n = int(mask[i, :r_q].sum()) if masked else r_q
        torch.testing.assert_close(mean[i], total[i] / n if n else torch.zeros(5))


def test_normalized_vectors_have_means_of_at_most_1_at_every_budget():
    vectors = unit(4, 8, 16)
    for budget in ((1, 1), (4, 8), (8, 8)):
        scores = maxsim(vectors, vectors, budget, reduce="mean")
        torch.testing.assert_close(scores.diagonal(), torch.ones(4))
        assert scores.max() <= 1 + 1e-6


def test_an_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="reduce='max': choose 'sum' or 'mean'"):
        maxsim(torch.ones(1, 1, 2), torch.ones(1, 1, 2), reduce="max")
