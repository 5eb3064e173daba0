"""largest_allocation sees what a function allocates, but not its inputs or views."""

from functools import partial

import pytest
import torch
from allocations import largest_allocation

FLOAT32 = 4  # bytes


def unit_vectors(*shape):
    return torch.nn.functional.normalize(torch.ones(shape), dim=-1)


@pytest.mark.parametrize("n_candidates", [10, 200])
def test_an_intermediate_tensor_is_seen_at_its_size(n_candidates):
    queries, candidates = unit_vectors(3, 4, 8), unit_vectors(n_candidates, 16, 8)

    def maxsim_by_definition():
        similarities = torch.einsum(
            "qid,njd->qnij", queries, candidates
        )  # freed before the function returns
        return similarities.amax(3).sum(2)

    expected = 3 * n_candidates * 4 * 16 * FLOAT32
    assert largest_allocation(maxsim_by_definition) == expected


def test_an_allocation_inside_one_operation_is_seen():
    logits, labels = torch.zeros(100, 50), torch.zeros(100, dtype=torch.int64)
    loss = partial(torch.nn.functional.cross_entropy, logits, labels)  # one number
    assert largest_allocation(loss) == 100 * 50 * FLOAT32  # the log-probabilities


def test_of_several_allocations_the_largest_is_returned():
    def allocate():
        for size in (10, 1000, 100):
            torch.empty(size)

    assert largest_allocation(allocate) == 1000 * FLOAT32


def test_inputs_and_views_are_not_counted():
    vectors = unit_vectors(1000, 8)
    assert largest_allocation(lambda: vectors.T[:4].unsqueeze(0)) == 0
