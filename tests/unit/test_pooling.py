"""Pooling: prefixes of an embedding, and one vector of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metaembed_lite.pooling import PrefixPooling, SingleVectorPooling


@given(st.integers(1, 8), st.integers(8, 12))
def test_prefix_pooling_keeps_the_first_vectors(r, vectors):
    embedding = torch.randn(vectors, 4)
    torch.testing.assert_close(PrefixPooling(r).pool_one(embedding), embedding[:r], rtol=0, atol=0)


def test_prefix_pooling_refuses_an_embedding_that_is_too_short():
    with pytest.raises(ValueError, match=r"PrefixPooling\(8\).*4 vectors"):
        PrefixPooling(8).pool_one(torch.randn(4, 4))


def test_prefix_pooling_refuses_an_empty_prefix():
    with pytest.raises(ValueError, match="whole number"):
        PrefixPooling(0)


@pytest.mark.parametrize("bad", [0, 2.0, "64", None, True])
def test_prefix_pooling_names_a_count_that_is_not_a_whole_number(bad):
    with pytest.raises(ValueError, match=r"^r="):
        PrefixPooling(bad)


def test_a_single_vector_is_the_last_one_or_the_mean():
    embedding = torch.randn(7, 4)
    assert torch.equal(SingleVectorPooling("last").pool_one(embedding), embedding[6:])
    mean = SingleVectorPooling("mean").pool_one(embedding)
    torch.testing.assert_close(mean, embedding.sum(dim=0, keepdim=True) / 7)
    with pytest.raises(ValueError, match="mode='max'"):
        SingleVectorPooling("max")
