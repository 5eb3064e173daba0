"""Training for token pooling, against a slow loop, and the trained models after loading."""

import doctest
import itertools
import math

import numpy as np
import pytest
import rivals
import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from metaembed_lite import load, load_task, train
from metaembed_lite.baselines import constant_vectors, token_vectors
from metaembed_lite.clustering import cluster_means, ward_labels
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.pooling import WardPooling
from metaembed_lite.saving import save


def random_tokens(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return tokens / tokens.norm(dim=-1, keepdim=True)


def partition(labels):
    """The clusters as a set of sets of positions, whatever their order and names."""
    labels = np.asarray(labels)
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}


def slow_clusters(tokens, count):
    """Ward's clusters of one item, (t, D), by other functions of scipy and one pair at a time."""
    if len(tokens) <= count:
        return {frozenset([index]) for index in range(len(tokens))}
    pairs = [1 - float(a @ b) for i, a in enumerate(tokens) for b in tokens[i + 1 :]]
    return partition(cut_tree(linkage(pairs, "ward"), n_clusters=count)[:, 0])


def slow_loss(queries, candidates, count, temperature, n_per_query=1, left_out=()):
    """InfoNCE of items without padding, one score at a time, in float64."""
    pooled = []
    for tokens in candidates:
        means = [tokens[sorted(cluster)].mean(axis=0) for cluster in slow_clusters(tokens, count)]
        pooled.append([mean / math.sqrt(mean @ mean) for mean in means])
    losses = []
    for row, query in enumerate(queries):
        logits = {
            column: sum(max(float(vector @ mean) for mean in means) for vector in query)
            / temperature
            for column, means in enumerate(pooled)
            if (row, column) not in left_out
        }
        highest = max(logits.values())
        total = highest + math.log(sum(math.exp(value - highest) for value in logits.values()))
        losses.append(total - logits[row * n_per_query])
    return sum(losses) / len(losses)


def pad_left(items):
    longest = max(map(len, items))
    mask = torch.tensor([[i >= longest - len(item) for i in range(longest)] for item in items])
    padded = torch.stack([torch.cat([torch.ones(longest - len(i), 6), i]) for i in items])
    return padded, mask


@pytest.fixture(scope="module")
def model():
    return token_vectors(dim=32, lora_rank=4, device="cpu")


@pytest.mark.parametrize("count", [1, 2, 5, 16, 40])
def test_labels_are_the_clusters_of_wards_method(count):
    tokens = random_tokens(3, 20, 6)
    labels = ward_labels(tokens, torch.ones(3, 20, dtype=torch.bool), [count])[0]
    for item, item_labels in zip(tokens.numpy(), labels, strict=True):
        assert partition(item_labels) == slow_clusters(item, count)


def test_padding_has_no_label_and_does_not_change_the_clusters():
    long, short = random_tokens(12, 6), random_tokens(7, 6, seed=1)
    padded, mask = pad_left([long, short])
    together = ward_labels(padded, mask, [3])[0]
    alone = ward_labels(short[None], torch.ones(1, 7, dtype=torch.bool), [3])[0]
    assert together[1].tolist() == [-1] * 5 + alone[0].tolist()


def test_more_clusters_split_the_clusters_of_fewer():
    mask = torch.ones(1, 25, dtype=torch.bool)
    cuts = ward_labels(random_tokens(1, 25, 6), mask, [1, 4, 8, 16, 99])
    cuts = [partition(labels[0]) for labels in cuts]
    assert [len(cut) for cut in cuts] == [1, 4, 8, 16, 25]
    for coarse, fine in itertools.pairwise(cuts):
        assert all(any(part <= whole for whole in coarse) for part in fine)


def test_a_single_token_is_its_own_cluster():
    labels = ward_labels(random_tokens(1, 1, 6), torch.ones(1, 1, dtype=torch.bool), [1, 4])
    assert [each.tolist() for each in labels] == [[[0]], [[0]]]


@pytest.mark.parametrize("bad", [0, 2.0, True])
def test_a_number_of_clusters_below_one_or_not_whole_is_named(bad):
    with pytest.raises(ValueError, match=f"vectors={bad}"):
        ward_labels(random_tokens(1, 4, 6), torch.ones(1, 4, dtype=torch.bool), [bad])


def test_tokens_that_are_not_finite_are_named():
    tokens = torch.full((1, 4, 6), torch.nan)
    with pytest.raises(ValueError, match="is nan: embeddings must be finite"):
        ward_labels(tokens, torch.ones(1, 4, dtype=torch.bool), [2])


def test_means_have_the_gradient_of_a_mean_that_is_normalized():
    tokens = random_tokens(2, 6, 4).requires_grad_()
    labels = torch.tensor([[0, 0, 1, 1, 1, 2], [-1, -1, 0, 1, 1, 1]])

    def means_of(values):
        return cluster_means(values, labels, 3)[0]

    assert torch.autograd.gradcheck(means_of, (tokens,))
    means, mask = cluster_means(tokens, labels, 3)
    assert mask.tolist() == [[True, True, True], [True, True, False]]
    mean = tokens[1, 3:].mean(dim=0)
    torch.testing.assert_close(means[1, 1], mean / mean.norm())
    (gradient,) = torch.autograd.grad(means.square().sum() + means.sum(), tokens)
    assert (gradient[1, :2] == 0).all()  # padding


@pytest.mark.parametrize("length", [5, 17, 100])
@pytest.mark.parametrize("r", [1, 4, 7, 16])
def test_ward_pooling_is_the_pooling_of_sentence_transformers_at_a_fixed_number(length, r):
    tokens = random_tokens(length, 8).float()
    # The number of vectors is the floor of T / factor. A half keeps rounding from lowering it.
    factor = max(1.0, length / (r + 0.5))
    expected = HierarchicalTokenPooling(pool_factor=factor, num_protected_tokens=0)
    got = WardPooling(r).pool([tokens])[0]
    assert len(got) == min(r, length)
    torch.testing.assert_close(got, expected.pool([tokens])[0] if factor > 1 else tokens)


def test_ward_pooling_leaves_queries_alone_by_default(model):
    query = "3 A1, 7 B2"
    plain = model.encode_query(query)
    assert torch.equal(model.encode_query(query, token_pooling=WardPooling(2)), plain)
    assert len(model.encode_document(query, token_pooling=WardPooling(2))) == 2
    both = WardPooling(2, tasks=["query", "document"])
    assert len(model.encode_query(query, token_pooling=both)) == 2


@pytest.mark.parametrize("bad", [0, 2.0, "4", None])
def test_ward_pooling_names_a_number_that_is_not_whole(bad):
    with pytest.raises(ValueError, match=r"^r="):
        WardPooling(bad)


@pytest.mark.parametrize("counts", [[3], [1, 3, 5]])
def test_the_loss_is_that_of_a_slow_loop(model, counts):
    lengths = ((4, 9, 7), (2, 6, 3), (5, 4, 8))  # of a query, its positive and its negative
    items = [[random_tokens(n, 6, seed=i * 3 + j) for j, n in enumerate(row)]
             for i, row in enumerate(lengths)]  # fmt: skip
    queries = [row[0] for row in items]
    candidates = [item for row in items for item in row[1:]]
    padded, mask = pad_left(candidates)
    loss = rivals.PooledTokensLoss(model, counts, temperature=0.2)
    got = loss.embedding_loss(
        *pad_left(queries), padded.unflatten(0, (3, 2)), mask.unflatten(0, (3, 2))
    )
    arrays = [q.numpy() for q in queries], [c.numpy() for c in candidates]
    expected = [slow_loss(*arrays, count, 0.2, n_per_query=2) for count in counts]
    assert got.item() == pytest.approx(sum(expected), rel=1e-6)
    assert loss.losses_by_count.tolist() == pytest.approx(expected, rel=1e-6)


def test_another_answer_to_the_same_query_is_not_a_negative(model):
    queries = [random_tokens(3, 6, seed=i) for i in range(3)]
    candidates = [random_tokens(5, 6, seed=i + 3) for i in range(3)]
    padded, mask = pad_left(candidates)
    keys = torch.tensor([7, 7, 8]), torch.tensor([[1], [2], [3]])
    loss = rivals.PooledTokensLoss(model, 2, temperature=0.5)
    got = loss.embedding_loss(*pad_left(queries), padded[:, None], mask[:, None], keys)
    arrays = [q.numpy() for q in queries], [c.numpy() for c in candidates]
    expected = slow_loss(*arrays, 2, 0.5, left_out={(0, 1), (1, 0)})
    assert got.item() == pytest.approx(expected)


def test_the_loss_of_a_batch_scores_what_encode_and_ward_pooling_give(model):
    rows = training_rows(3)
    columns = [model.preprocess(rows["query"], task="query")]
    columns += [model.preprocess(rows[name], task="document") for name in ("positive", "negative")]
    loss = rivals.PooledTokensLoss(model, vectors=(2, 4), temperature=0.1)
    with torch.inference_mode():
        got = loss(columns).item()
    items = [item for row in rows for item in (row["positive"], row["negative"])]
    expected = 0.0
    queries = model.encode_query(rows["query"])
    for count in (2, 4):
        candidates = model.encode_document(items, token_pooling=WardPooling(count))
        scores = model.similarity(queries, candidates)
        expected += torch.nn.functional.cross_entropy(scores / 0.1, torch.tensor([0, 2, 4])).item()
    assert got == pytest.approx(expected, rel=1e-4)


def test_the_loss_has_gradients_for_lora_and_the_projection(model):
    rows = training_rows(4)
    columns = [model.preprocess(rows["query"], task="query"),
               model.preprocess(rows["positive"], task="document")]  # fmt: skip
    model.zero_grad()
    rivals.PooledTokensLoss(model, vectors=(1, 4)).forward(columns).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert gradients["1.linear.weight"].abs().max() > 0
    lora = [gradient for name, gradient in gradients.items() if "lora_B" in name]
    assert lora
    assert all(gradient.abs().max() > 0 for gradient in lora)


def test_training_for_pooling_lowers_the_loss_and_survives_loading(tmp_path):
    model = token_vectors(dim=32, lora_rank=4, device="cpu")
    loss = rivals.PooledTokensLoss(model, vectors=(1, 4), temperature=0.1)
    settings = {"steps": 12, "batch_size": 8, "log_steps": 1, "warmup_steps": 0}
    curve = train(model, training_rows(8), loss=loss, learning_rate=3e-3, **settings)
    assert curve.loss.iloc[-1] < 0.7 * curve.loss.iloc[0]
    model.append(WardPooling(4))
    candidates = load_task("handwriting", n_queries=2, n_train=0).candidates
    expected = model.encode_document(candidates)
    assert [len(vectors) for vectors in expected] == [4] * len(candidates)
    save(model, tmp_path / "saved")
    for got, same in zip(
        load(tmp_path / "saved", device="cpu").encode_document(candidates), expected, strict=True
    ):
        torch.testing.assert_close(got, same)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vectors": 0}, r"vectors=0: use a whole number"),
        ({"vectors": []}, r"vectors=\[\]: use a whole number"),
        ({"vectors": "16"}, r"vectors='16': use a whole number"),
        ({"vectors": [4, 2.0]}, r"vectors=\[4, 2\.0\]: use a whole number"),
        ({"vectors": [4, 4]}, r"vectors=\[4, 4\]: name every number of vectors once"),
        ({"temperature": 0}, r"temperature=0: use a positive, finite number"),
        ({"temperature": float("nan")}, r"temperature=nan"),
    ],
)
def test_a_bad_setting_of_the_loss_is_named(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        rivals.PooledTokensLoss(model, **arguments)


def test_a_model_that_already_pools_is_refused():
    with pytest.raises(ValueError, match="already pools candidates, by LinearPooling"):
        rivals.PooledTokensLoss(constant_vectors(lora_rank=None, device="cpu"))


def test_the_examples_of_the_losses_give_what_they_show():
    result = doctest.testmod(rivals)
    assert result.attempted > 0
    assert result.failed == 0
