"""An explanation adds up to the score, and names the best matches and where they look."""

import pytest
import torch
from PIL import Image

from metaembed_lite import build, explain, load, load_task, maxsim
from metaembed_lite.baselines import token_vectors
from metaembed_lite.interpretability import image_attention


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu")


@pytest.fixture(scope="module")
def pair():
    task = load_task("stickers", n_queries=1, n_train=0)
    return task.queries[0], task.candidates[0]


@pytest.mark.parametrize("budget", [None, "1x1", (2, 4), (8, 16)])
def test_what_the_matches_add_is_the_maxsim_score(tiny, pair, budget):
    explanation = explain(tiny, *pair, budget)
    vectors = tiny.encode_query(pair[0]), tiny.encode_document(pair[1])
    score = maxsim(vectors[0][None], vectors[1][None], budget).item()
    assert explanation.score == pytest.approx(score, abs=1e-6)
    assert explanation.matches.adds.sum() == pytest.approx(score, abs=1e-5)


def test_each_query_vector_is_matched_with_its_most_similar_candidate_vector(tiny, pair):
    explanation = explain(tiny, *pair, (3, 5))
    query, candidate = tiny.encode_query(pair[0]), tiny.encode_document(pair[1])
    assert explanation.similarities.shape == (3, 5)
    for match in explanation.matches.itertuples():
        products = [float(query[match.query_vector] @ candidate[j]) for j in range(5)]
        assert match.candidate_vector == products.index(max(products))
        assert match.adds == pytest.approx(max(products), abs=1e-6)
    assert explanation.matches.query_vector.tolist() == [0, 1, 2]


def test_a_match_names_the_place_where_its_meta_token_looks_most(tiny, pair):
    explanation = explain(tiny, *pair, (4, 8))
    maps = image_attention(tiny, pair[1])
    assert torch.equal(explanation.attention, maps[:8])
    for match in explanation.matches.itertuples():
        weights = maps[match.candidate_vector]
        assert weights[match.row, match.column] == weights.max()


def test_the_figure_shows_one_image_per_query_vector(tiny, pair):
    explanation = explain(tiny, *pair, (2, 8))
    titles = [ax.get_title() for ax in explanation.plot().axes]
    assert titles == [
        f"q{m.query_vector + 1} → c{m.candidate_vector + 1}: {m.adds:.2f}"
        for m in explanation.matches.itertuples()
    ]


def test_a_text_is_explained_without_attention(tiny):
    explanation = explain(tiny, "violin", {"text": "violin, red apple"}, (2, 4))
    assert explanation.attention is None
    assert "row" not in explanation.matches
    ax = explanation.plot().axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["q1", "q2"]
    assert len(ax.patches) == 2  # the outlined maxima


def test_a_model_without_meta_tokens_is_explained_by_its_token_vectors():
    model = token_vectors("tiny-vlm", lora_rank=None, device="cpu")
    image = Image.new("RGB", (48, 48), "red")
    explanation = explain(model, "3 A1", image)
    assert explanation.attention is None
    assert len(explanation.matches) == len(model.encode_query("3 A1")) == explanation.budget.r_q
    assert explanation.matches.adds.sum() == pytest.approx(explanation.score, abs=1e-5)


def test_one_vector_is_explained():
    model = build(r_q=1, r_c=1, dim=8, lora_rank=None, device="cpu")
    explanation = explain(model, "a", "a b")
    assert explanation.matches[["query_vector", "candidate_vector"]].to_numpy().tolist() == [[0, 0]]


def test_a_list_and_a_budget_that_is_too_large_are_refused(tiny):
    with pytest.raises(ValueError, match="list is not an item"):
        explain(tiny, ["violin", "apple"], "violin")
    with pytest.raises(ValueError, match=r"\(9, 16\).*8"):
        explain(tiny, "violin", "violin", (9, 16))
