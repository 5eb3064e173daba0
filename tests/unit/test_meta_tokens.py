"""Meta tokens on real classes with tiny configurations: shapes, layout, padding, budgets."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from metaembed_lite import build, load
from metaembed_lite.meta_tokens import MetaTokenTransformer, append_tokens

TEXTS = ["4 A1", "7 B2, 1 C2, 0 A3, 3 B1"]


@pytest.fixture(scope="module")
def model():
    return build("tiny-vlm", r_q=4, r_c=8, lora_rank=4, dim=16, device="cpu").eval()


@pytest.fixture(scope="module")
def boards():
    return [Image.effect_noise((48, 48), sigma).convert("RGB") for sigma in (20, 60, 120)]


def test_every_kind_of_input_gives_normalized_vectors_of_one_shape(model, boards):
    queries = model.encode_query([*TEXTS, {"text": TEXTS[0], "image": boards[0]}])
    candidates = model.encode_document([*boards, TEXTS[1]])
    assert {tuple(q.shape) for q in queries} == {(4, 16)}
    assert {tuple(c.shape) for c in candidates} == {(8, 16)}
    norms = torch.cat([*queries, *candidates]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_a_batch_gives_the_vectors_of_its_members_alone(model, boards):
    for encode, items in ((model.encode_query, TEXTS), (model.encode_document, [*boards, *TEXTS])):
        together = torch.stack(encode(items, batch_size=8))
        alone = torch.stack([encode(item) for item in items])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_left_and_right_padding_give_the_same_vectors(model):
    tokenizer, vectors = model[0].tokenizer, {}
    side = tokenizer.padding_side
    for padding in ("left", "right"):
        tokenizer.padding_side = padding
        vectors[padding] = torch.stack(model.encode_query(TEXTS))
    tokenizer.padding_side = side
    torch.testing.assert_close(vectors["left"], vectors["right"], atol=1e-5, rtol=0)


def test_in_the_joint_layout_candidates_also_read_the_query_tokens():
    features = {}
    for layout in ("joint", "separate"):
        transformer = MetaTokenTransformer("tiny-vlm", r_q=2, r_c=3, layout=layout)
        features[layout] = transformer.preprocess(TEXTS, task="document")["input_ids"][0]
        ids = transformer.meta_ids
    assert features["separate"].tolist()[-20:].count(ids["query"][0]) == 0
    content = features["separate"].tolist()[: -3 or None]
    first = features["joint"].tolist().index(ids["query"][0])
    assert features["joint"].tolist()[first : first + 5] == ids["query"] + ids["document"]
    assert features["joint"].tolist()[:first] == content[:first]


@pytest.mark.parametrize("r_q", [1, 2, np.int64(3), 4])
def test_in_a_causal_backbone_fewer_query_tokens_give_the_same_first_vectors(model, r_q):
    full = torch.stack(model.encode_query(TEXTS))
    short = torch.stack(model.encode_query(TEXTS, r_q=r_q))
    torch.testing.assert_close(short, full[:, :r_q], atol=1e-5, rtol=0)
    assert torch.equal(torch.stack(model.encode_query(TEXTS)), full)


def test_fewer_query_tokens_are_really_fewer_tokens(model):
    full = model.preprocess(TEXTS, task="query")["input_ids"]
    short = model.preprocess(TEXTS, task="query", r_q=1)["input_ids"]
    assert full.shape[1] - short.shape[1] == 3


def test_features_of_fewer_query_tokens_are_read_at_their_places_by_hand(model):
    """A caller of preprocess and forward does not have to repeat r_q."""
    features = model.preprocess(TEXTS, task="query", r_q=2)
    features = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in features.items()}
    with torch.no_grad():
        short = model(features, task="query")["token_embeddings"]
    full = torch.stack(model.encode_query(TEXTS))
    torch.testing.assert_close(short, full[:, :2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [0, -1, 5, 9, 1.0, "2", True])
def test_fewer_query_tokens_than_one_or_more_than_there_are_cannot_be_read(model, count):
    with pytest.raises(ValueError, match=rf"r_q={count!r}: use a whole number from 1 to 4"):
        model.encode_query(TEXTS[0], r_q=count)
    assert model.encode_query(TEXTS[0]).shape == (4, 16)


def test_a_candidate_is_never_read_with_fewer_tokens(model, boards):
    with pytest.raises(ValueError, match="only encode_query accepts it"):
        model.encode_document(boards[0], r_q=2)


def test_is_causal_does_not_change_dropout():
    model = build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, lora_dropout=0.5, device="cpu")
    model.train()
    model[0].model.visual.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert model[0].is_causal()
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_after_a_round_trip_reserved_entries_belong_to_the_same_sides(tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    entries = [
        "[PAD]",
        *(f"[unused{i}]" for i in range(9)),
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "a",
        "b",
    ]
    (tmp_path / "vocab.txt").write_text("\n".join(entries))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    small = BertConfig(
        vocab_size=len(entries), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(small).save_pretrained(tmp_path / "bert")
    model = build(str(tmp_path / "bert"), r_q=2, r_c=4, lora_rank=None, device="cpu").eval()
    assert model[0].meta_ids == {"query": [1, 2], "document": [3, 4, 5, 6]}
    assert model.encode_document("a b").isfinite().all()
    model.save_pretrained(str(tmp_path / "saved"))
    again = load(tmp_path / "saved", device="cpu").eval()
    assert again[0].meta_ids == model[0].meta_ids
    assert torch.equal(again.encode_document("a b"), model.encode_document("a b"))


def test_meta_tokens_take_spare_slots_and_do_not_grow_the_embedding(model):
    transformer = MetaTokenTransformer("tiny-vlm", r_q=16, r_c=64)
    rows = transformer.model.get_input_embeddings().weight.shape[0]
    assert rows == transformer.config.get_text_config().vocab_size
    ids = transformer.meta_ids["query"] + transformer.meta_ids["document"]
    assert len(set(ids)) == 80
    assert max(ids) < rows


def test_meta_tokens_beyond_the_spare_slots_grow_the_embedding():
    transformer = MetaTokenTransformer("tiny-vlm", r_q=64, r_c=128)
    ids = transformer.meta_ids["query"] + transformer.meta_ids["document"]
    assert len(set(ids)) == 192
    assert max(ids) == transformer.model.get_input_embeddings().weight.shape[0] - 1


def test_a_long_input_loses_content_but_no_meta_token(model, caplog):
    transformer = model[0]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            features = transformer.preprocess(["7 B2, " * 400], task="document")
    ids = features["input_ids"][0].tolist()
    assert len(ids) == transformer.max_seq_length
    assert ids[-12:] == transformer.appended_ids("document")
    assert caplog.text.count("content beyond that is cut") == 1


def test_the_error_on_no_room_for_content_names_the_numbers(model):
    transformer = model[0]
    before, transformer.max_seq_length = transformer.max_seq_length, 10
    try:
        with pytest.raises(ValueError, match=r"max_seq_length 10 leaves no room.*12 meta tokens"):
            transformer.preprocess(["7 B2"], task="document")
    finally:
        transformer.max_seq_length = before


def test_masks_with_more_axes_grow_by_what_the_last_content_token_sees():
    cross = torch.arange(2 * 3 * 1 * 2).view(2, 3, 1, 2)
    features = {
        "input_ids": torch.tensor([[0, 5, 6], [7, 8, 9]]),  # left-padded
        "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "token_type_ids": torch.tensor([[0, 1, 1], [1, 1, 1]]),
        "cross_attention_mask": cross,
    }
    grown = append_tokens(dict(features), [3, 4])
    assert grown["input_ids"].tolist() == [[5, 6, 3, 4, 0], [7, 8, 9, 3, 4]]
    assert grown["attention_mask"].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert grown["token_type_ids"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert grown["cross_attention_mask"][0, 2:4].tolist() == [cross[0, 2].tolist()] * 2
    assert grown["cross_attention_mask"][1, 3:5].tolist() == [cross[1, 2].tolist()] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "both"}, "layout 'both': choose 'joint'"),
        ({"r_q": 0}, "r_q=0, r_c=64: a model needs at least one"),
        ({"r_c": 2.0}, "r_q=16, r_c=2.0: a model needs at least one"),
        ({"model_kwargs": {"dtype": "int8"}}, "dtype='int8': choose from float32"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MetaTokenTransformer("tiny-vlm", **arguments)
