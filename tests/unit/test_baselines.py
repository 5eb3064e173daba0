"""The baselines, with the same trainer: one vector per item, one per token, or a fixed number."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from transformers import MambaConfig, MambaModel

from metaembed_lite import load, load_task, train
from metaembed_lite.attention_clustering import find_last_attention
from metaembed_lite.baselines import (
    attention_clusters,
    constant_vectors,
    single_vector,
    token_vectors,
)
from metaembed_lite.data.handwriting import training_rows
from metaembed_lite.model_folder import MARKER
from metaembed_lite.pooling import LinearPooling
from metaembed_lite.saving import save
from metaembed_lite.schedule import training_arguments

EVERY_BASELINE = [single_vector, token_vectors, constant_vectors, attention_clusters]


@pytest.fixture(scope="module")
def task():
    return load_task("handwriting", n_queries=4, n_train=0, side=2)


def hidden(model, items, side):
    """The backbone's last hidden states of each item's tokens, (T, H), without our code."""
    backbone = model[0]
    states = []
    for item in items:
        inputs = {
            name: value
            for name, value in backbone.preprocess([item], task=side).items()
            if isinstance(value, torch.Tensor) and not name.startswith("num_")
        }
        with torch.inference_mode():
            states.append(backbone.model(**inputs).last_hidden_state[0].double().numpy())
    return states, inputs


@pytest.mark.parametrize("mode", ["last", "mean"])
@pytest.mark.parametrize("side", ["query", "document"])
def test_one_vector_is_the_last_token_or_the_mean(mode, side, task):
    model = single_vector(mode=mode, lora_rank=None)
    items = task.queries if side == "query" else task.candidates[:4]
    got = torch.stack(model.encode(items, task=side))
    states, _ = hidden(model, items, side)
    want = np.stack([s[-1] if mode == "last" else s.mean(axis=0) for s in states])
    want /= np.linalg.norm(want, axis=1, keepdims=True)
    assert got.shape == (4, 1, 128)
    np.testing.assert_allclose(got[:, 0].numpy(), want, atol=1e-4)


def test_a_token_model_has_one_vector_per_token_and_patches_only_keeps_the_images(task):
    whole = token_vectors(dim=32, lora_rank=None).encode_document(task.candidates[:2])
    patches = token_vectors(dim=32, lora_rank=None, patches_only=True)
    cut = patches.encode_document(task.candidates[:2])
    _, inputs = hidden(patches, task.candidates[1:2], "document")
    image = (inputs["input_ids"][0] == patches[0].config.image_token_id).numpy()
    assert [len(v) for v in whole] == [len(image)] * 2
    assert [len(v) for v in cut] == [16, 16]  # four tokens for each place of a board
    np.testing.assert_allclose(cut[1].numpy(), whole[1].numpy()[image], atol=1e-5)


def test_patches_only_needs_a_backbone_that_reads_images(tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=6, intermediate_size=16, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"patches_only=True.*no image token"):
        token_vectors(str(tmp_path), patches_only=True, lora_rank=None)


def test_an_unknown_mode_is_named():
    with pytest.raises(ValueError, match=r"mode='max'.*'last' or 'mean'"):
        single_vector(mode="max")


@pytest.mark.parametrize("make", EVERY_BASELINE)
def test_a_baseline_trains_with_a_loss_of_sentence_transformers(make):
    torch.manual_seed(0)
    model = make(dim=32, lora_rank=4)
    loss = MultiVectorMultipleNegativesRankingLoss(model, scale=10)
    settings = {"steps": 12, "batch_size": 8, "log_steps": 1, "warmup_steps": 0}
    curve = train(model, training_rows(8), loss=loss, learning_rate=3e-3, **settings)
    assert list(curve.columns) == ["step", "loss", "grad_norm"]
    assert curve.loss.iloc[-1] < 0.7 * curve.loss.iloc[0]


@pytest.mark.parametrize("make", EVERY_BASELINE)
def test_a_saved_baseline_gives_the_same_vectors(make, task, tmp_path):
    model = make(dim=32, lora_rank=4)
    train(model, training_rows(8), loss=MultiVectorMultipleNegativesRankingLoss(model), steps=1,
          batch_size=8, output=tmp_path / "saved")  # fmt: skip
    again = load(tmp_path / "saved")
    for item, same in zip(
        model.encode_document(task.candidates[:2]),
        again.encode_document(task.candidates[:2]),
        strict=True,
    ):
        torch.testing.assert_close(item, same)


def test_settings_of_mmr_together_with_another_loss_are_refused():
    model = single_vector(dim=32)
    loss = MultiVectorMultipleNegativesRankingLoss(model)
    for setting in ({"temperature": 0.1}, {"budgets": [(1, 1)]}, {"mini_batch_size": 4}):
        with pytest.raises(ValueError, match="settings of MMR"):
            train(model, training_rows(8), loss=loss, steps=1, batch_size=8, **setting)


@pytest.mark.parametrize("make", EVERY_BASELINE)
@pytest.mark.parametrize(
    "bad", [{"dim": 0}, {"lora_rank": 0}, {"max_seq_length": 0}, {"max_seq_length": 100_000}]
)
def test_a_bad_size_is_named(make, bad):
    with pytest.raises(ValueError, match="{}={}".format(*next(iter(bad.items())))):
        make(**bad)


def test_max_seq_length_cuts_the_inputs_of_baselines_too():
    short = token_vectors(max_seq_length=6, lora_rank=None)
    assert [len(v) for v in short.encode_query(["one two three four five six seven"])] == [6]
    one = single_vector(mode="mean", max_seq_length=6, lora_rank=None)
    a, b = one.encode_query(["one two three four five six", "one two three four five six seven"])
    whole = single_vector(mode="mean", lora_rank=None)
    c, d = whole.encode_query(["one two three four five six", "one two three four five six seven"])
    assert torch.equal(a, b)
    assert not torch.allclose(c, d, atol=1e-3)


def test_a_baseline_reads_items_by_the_same_rules(task, tmp_path):
    model = token_vectors(dim=32, lora_rank=None)
    board = task.candidates[0]
    board.save(tmp_path / "board.png")
    path = str(tmp_path / "board.png")
    assert torch.equal(model.encode_query(path), model.encode_query({"text": path}))
    want = model.encode_document(board)
    for same in (tmp_path / "board.png", np.asarray(board), {"text": "", "image": path}):
        assert torch.equal(model.encode_document(same), want)
    special = set(model.tokenizer.all_special_ids)
    for text in ("<|image_pad|>", "a <|im_end|> b"):
        ids = model.preprocess([text], task="query")["input_ids"][0].tolist()
        plain = model.preprocess(["a"], task="query")["input_ids"][0].tolist()
        assert [i for i in ids if i in special] == [i for i in plain if i in special]
    with pytest.raises(ValueError, match=r"^item 1 \(None\)"):
        model.encode_query(["a", None])
    long = {"text": "one two " * 400, "image": board}
    assert len(model.encode_document(long)) == model.max_seq_length


def test_a_model_of_sentence_transformers_reads_items_after_load(tmp_path):
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer

    from metaembed_lite import checkpoints

    plain = Transformer(str(checkpoints.folder("tiny-vlm")))
    normalize = Normalize(module_input_name="token_embeddings")
    MultiVectorEncoder(modules=[plain, normalize], device="cpu").save(str(tmp_path / "saved"))
    model = load(tmp_path / "saved", device="cpu")
    with pytest.raises(ValueError, match=r"^item 1 \(None\)"):
        model.encode_query(["a", None])


def map_of(model):
    """The learned map of a model: a module of weights (R_c, max_tokens)."""
    return next(module for module in model if isinstance(module, LinearPooling)).linear


@pytest.mark.parametrize("dim", [None, 32])
def test_constant_vectors_are_linear_combinations_of_the_token_vectors(dim, task):
    model = constant_vectors(r_c=5, max_tokens=40, dim=dim, lora_rank=None)
    items = [*task.candidates[:2], "three words here", "a"]
    got = model.encode_document(items)
    states, _ = hidden(model, items, "document")
    weight = map_of(model).weight.detach().double().numpy()
    for vectors, tokens in zip(got, states, strict=True):
        want = sum(weight[:, [i]] * token[None] for i, token in enumerate(tokens))
        if dim is not None:
            want = want @ model[1].linear.weight.detach().double().numpy().T
        want /= np.linalg.norm(want, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors.numpy(), want, atol=1e-4)


def test_constant_vectors_keep_every_token_vector_of_a_query():
    model = constant_vectors(r_c=5, lora_rank=None)
    tokens = token_vectors(lora_rank=None)
    queries = ["3 A1", "3 A1, 7 B2 and more words"]
    for got, want in zip(model.encode_query(queries), tokens.encode_query(queries), strict=True):
        assert torch.equal(got, want)


def test_constant_vectors_are_the_same_alone_and_next_to_longer_items(task):
    model = constant_vectors(r_c=5, dim=32, lora_rank=None)
    items = [task.candidates[0], "a", "a text with many more words than all of the others have"]
    together = model.encode_document(items, batch_size=3)
    for item, vectors in zip(items, together, strict=True):
        torch.testing.assert_close(model.encode_document(item), vectors, atol=1e-5, rtol=0)


def test_the_map_trains_next_to_lora_at_the_learning_rate_of_fresh_weights(tmp_path):
    model = constant_vectors(r_c=5, max_tokens=40, dim=32, lora_rank=4)
    loss = MultiVectorMultipleNegativesRankingLoss(model)
    columns = training_rows(4, side=2)
    features = [model.preprocess(columns["query"], task="query"),
                model.preprocess(columns["positive"], task="document")]  # fmt: skip
    loss(features).backward()
    by_token = map_of(model).weight.grad.abs().sum(dim=0)  # a vector that nobody picks has none
    assert by_token[:23].min() > 0  # a board takes 23 tokens
    assert by_token[23:].max() == 0
    lora = [p.grad for name, p in model.named_parameters() if "lora_B" in name]
    assert lora
    assert all(gradient.abs().max() > 0 for gradient in lora)
    arguments = training_arguments(str(tmp_path), steps=1, fresh_learning_rate=0.5, use_cpu=True)
    (pattern,) = arguments.learning_rate_mapping
    fresh = {name for name, _ in loss.named_parameters() if re.search(pattern, name)}
    assert fresh == {"model.1.linear.weight", "model.3.linear.weight"}


def test_a_text_beyond_max_tokens_is_cut_and_an_image_is_named(task):
    model = constant_vectors(max_tokens=20, lora_rank=None)
    words = "one two three four five six seven eight nine ten"
    longer, shorter = model.encode_document([words + " eleven twelve", words + " eleven"])
    assert torch.equal(longer, shorter)
    small = constant_vectors(max_tokens=10, lora_rank=None)
    with pytest.raises(
        ValueError,
        match=r"item 1 .*takes 23 tokens, and there is room for 10: .*raise document_length",
    ):
        small.encode_document(["a", task.candidates[0]])
    small[0].document_length = None  # what reaches the map is then longer than its rows
    with pytest.raises(ValueError, match=r"max_tokens=10\): the item has 23 tokens"):
        small.encode_document(task.candidates[0])


@pytest.mark.parametrize(
    "bad", [{"r_c": 0}, {"r_c": 2.0}, {"max_tokens": 0}, {"max_tokens": None}, {"max_tokens": 513}]
)
def test_a_bad_size_of_the_map_is_named(bad):
    with pytest.raises(ValueError, match="^{}={}:".format(*next(iter(bad.items())))):
        constant_vectors(**bad)


def test_the_map_of_a_saved_model_is_checked(tmp_path):
    model = constant_vectors(r_c=4, max_tokens=20, lora_rank=4)
    save(model, tmp_path / "saved")
    folder = next((tmp_path / "saved").glob("*_LinearPooling"))
    weight = load_file(folder / "model.safetensors")["linear.weight"]
    assert torch.equal(weight, map_of(model).weight)
    (tmp_path / "saved" / MARKER).unlink()  # so that the hashes are not what is checked
    settings = json.loads((folder / "config.json").read_text())
    assert settings == {"r": 4, "max_tokens": 20, "tasks": ["document"]}
    (folder / "config.json").write_text(json.dumps(settings | {"max_tokens": 21}))
    with pytest.raises(ValueError, match="LinearPooling cannot be made from its files"):
        load(tmp_path / "saved")


def slow_attention_clusters(model, item, r_c):
    """Vectors of one item from the backbone's own outputs, one token at a time."""
    features = model.preprocess([item], task="document")
    inputs = {
        name: value
        for name, value in features.items()
        if isinstance(value, torch.Tensor) and name not in ("item_keys", "num_images_per_sample")
    }
    with torch.inference_mode():
        output = model[0].model(**inputs, output_attentions=True)
    attention = output.attentions[-1][0].double().mean(dim=0).numpy()  # (T, T)
    n_content = len(attention) - r_c
    states = output.last_hidden_state[0, :n_content].double().numpy()
    saliency = attention[n_content:, :n_content].mean(axis=0)
    centers = np.argsort(-saliency)[:r_c].tolist()
    clusters = {center: [] for center in centers}
    for index, state in enumerate(states):
        cosines = [state @ states[c] / np.linalg.norm(state) / np.linalg.norm(states[c])
                   for c in centers]  # fmt: skip
        clusters[centers[int(np.argmax(cosines))]].append(index)
    means = [
        sum(saliency[i] * states[i] for i in members) / sum(saliency[i] for i in members)
        for members in clusters.values()
    ]
    return np.stack([mean / np.linalg.norm(mean) for mean in means])


@pytest.mark.parametrize("r_c", [1, 4, 10])
def test_attention_clusters_are_those_of_a_slow_loop(r_c, task):
    model = attention_clusters(r_c=r_c, lora_rank=None, device="cpu")
    for item in (task.candidates[0], "some words here, and then a few more"):
        want = slow_attention_clusters(model, item, r_c)
        np.testing.assert_allclose(model.encode_document(item).numpy(), want, atol=1e-4)


def test_attention_clusters_are_the_same_alone_and_next_to_longer_items(task):
    model = attention_clusters(r_c=12, dim=32, lora_rank=None, device="cpu")
    items = [task.candidates[0], "a", "a text with many more words than all of the others have"]
    together = model.encode_document(items, batch_size=3)
    lengths = [len(model.preprocess([item], task="query")["input_ids"][0]) for item in items]
    assert [len(vectors) for vectors in together] == [min(12, length) for length in lengths]
    assert lengths[1] < 12  # an item with fewer tokens than centers
    for item, vectors in zip(items, together, strict=True):
        torch.testing.assert_close(model.encode_document(item), vectors, atol=1e-5, rtol=0)


def test_a_query_has_no_learned_tokens_and_keeps_all_its_vectors():
    clusters = attention_clusters(r_c=4, lora_rank=None, device="cpu")
    tokens = token_vectors(lora_rank=None, device="cpu")
    got, want = (model.encode_query("3 A1, 7 B2") for model in (clusters, tokens))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)  # eager attention rounds otherwise


def test_the_tokens_that_choose_clusters_train_next_to_lora():
    model = attention_clusters(r_c=4, dim=32, lora_rank=4, device="cpu")
    rows = training_rows(4)
    features = [model.preprocess(rows["query"], task="query"),
                model.preprocess(rows["positive"], task="document")]  # fmt: skip
    MultiVectorMultipleNegativesRankingLoss(model)(features).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    (learned,) = [g for name, g in gradients.items() if "trainable_tokens" in name]
    assert learned.shape == (4, 128)
    assert (learned.abs().amax(dim=1) > 0).all()
    assert all(g.abs().max() > 0 for name, g in gradients.items() if "lora_B" in name)


def test_a_backbone_without_attention_is_named():
    with pytest.raises(ValueError, match=r"Mamba\w+: the attention of the language model's last"):
        find_last_attention(MambaModel(MambaConfig(hidden_size=8, num_hidden_layers=1)))


def test_a_number_of_clusters_below_one_is_named():
    with pytest.raises(ValueError, match=r"^r_c=0:"):
        attention_clusters(r_c=0)
