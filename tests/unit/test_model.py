"""build, save and load: the same vectors after a round trip, and only known classes."""

import json
import logging
import re

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Transformer
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from metaembed_lite import build, checkpoints, load, save
from metaembed_lite.baselines import single_vector, token_vectors
from metaembed_lite.budget import Budget
from metaembed_lite.meta_tokens import full_budget
from metaembed_lite.pooling import PrefixPooling

NOISE = np.random.default_rng(0).normal(128, 80, (48, 48)).clip(0, 255)  # Pillow's has no seed
BOARD = Image.fromarray(NOISE.astype(np.uint8)).convert("RGB")


def embed(model):
    return torch.cat([model.encode_query("7 B2"), model.encode_document(BOARD)])


def perturb(model):
    """Replaces training: every trainable weight changes, so it differs from a new model's."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize(
    "reader", [load, lambda p: MultiVectorEncoder(str(p), trust_remote_code=True)]
)
@pytest.mark.parametrize("rank", [4, None])
def test_a_saved_model_gives_the_same_vectors_bit_for_bit(tmp_path, rank, reader):
    model = perturb(build(r_q=2, r_c=4, lora_rank=rank, dim=8, device="cpu"))
    save(model, tmp_path / "model")
    again = reader(tmp_path / "model").to("cpu").eval()
    assert torch.equal(embed(model), embed(again))
    assert full_budget(again) == Budget(2, 4)


def test_an_adapter_names_its_bundled_backbone_without_a_path_and_holds_no_full_embedding(tmp_path):
    model = perturb(build(r_q=2, r_c=4, lora_rank=4, dim=8, device="cpu"))
    save(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "metaembed_lite/tiny-vlm"
    adapter = (tmp_path / "model" / "adapter_model.safetensors").stat().st_size
    whole = model[0].model.get_input_embeddings().weight.numel() * 4
    lora = sum(p.numel() * 4 for n, p in model.named_parameters() if "lora" in n)
    assert adapter < lora + whole / 4


def test_an_adapter_on_a_grown_vocabulary_round_trips(tmp_path):
    model = perturb(build(r_q=64, r_c=128, lora_rank=2, device="cpu"))
    save(model, tmp_path / "model")
    assert torch.equal(embed(model), embed(load(tmp_path / "model", device="cpu").eval()))


def test_lora_adapts_the_language_model_but_not_the_vision_tower():
    model = build(r_q=2, r_c=4, lora_rank=4, device="cpu")
    adapted = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if ".lora_A" in n}
    layers = model[0].config.get_text_config().num_hidden_layers
    assert len(adapted) == 7 * layers
    assert all("language_model" in name and "visual" not in name for name in adapted)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert all("lora" in n or "trainable_tokens" in n for n in trainable)


def test_the_same_seed_builds_the_same_model_and_another_seed_does_not():
    same = [embed(build(r_q=2, r_c=4, dim=8, device="cpu", seed=s).eval()) for s in (0, 0, 1)]
    assert torch.equal(same[0], same[1])
    assert not torch.equal(same[0], same[2])


def test_meta_tokens_start_at_the_given_words():
    model = build(
        r_q=2, r_c=3, lora_rank=None, device="cpu", init_text=(" red apple", " video game")
    )
    rows = model[0].model.get_input_embeddings().weight
    words = model[0].tokenizer.convert_tokens_to_ids(["Ġred", "Ġapple", "Ġvideo", "Ġgame"])
    assert torch.equal(rows[model[0].meta_ids["query"]], rows[words[:2]])
    assert torch.equal(rows[model[0].meta_ids["document"]], rows[[words[2], words[3], words[2]]])


def test_prefix_pooling_cuts_only_the_chosen_side():
    model = build(r_q=2, r_c=4, dim=8, device="cpu").eval()
    full = model.encode_document([BOARD])[0]
    cut = model.encode_document([BOARD], token_pooling=PrefixPooling(3))[0]
    assert torch.equal(cut, full[:3])
    query = model.encode_query("7 B2")
    assert torch.equal(model.encode_query("7 B2", token_pooling=PrefixPooling(1)), query[:1])
    documents_only = PrefixPooling(1, tasks=("document",))
    assert torch.equal(model.encode_query("7 B2", token_pooling=documents_only), query)
    with pytest.raises(ValueError, match=r"PrefixPooling\(5\): the embedding has 4 vectors"):
        model.encode_document([BOARD], token_pooling=PrefixPooling(5))


def test_load_refuses_classes_that_a_checkpoint_contains(tmp_path):
    folder = tmp_path / "model"
    build(r_q=2, r_c=4, device="cpu").save_pretrained(str(folder))
    (folder / "evil.py").write_text("raise SystemExit('ran code from a checkpoint')")
    listing = json.loads((folder / "modules.json").read_text())
    listing[0]["type"] = "evil.Module"
    (folder / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match=r"requests the class 'evil.Module'"):
        load(folder)


def test_load_names_what_a_folder_lacks_and_the_bundled_names(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no modules\.json: not a saved model"):
        load(tmp_path)
    with pytest.raises(OSError, match=r"'nobody/nothing' is neither.*tiny.*hub"):
        load("nobody/nothing")
    with pytest.raises(OSError, match=r"'nobody/nothing' is neither.*tiny-vlm.*hub"):
        build("nobody/nothing")


@pytest.mark.parametrize("limit", [100_000, 80])
def test_build_names_a_limit_that_is_too_large_or_too_small(limit):
    with pytest.raises(ValueError, match=str(limit)):
        build(max_seq_length=limit)


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("r_q", [0, -1, "4", 2.0, True, None]),
        ("r_c", [0, "4", 2.0, True, None, [4]]),
        ("lora_rank", [0, "8", 8.0, True, NAN]),
        ("dim", [0, "8", 1.5, True]),
        ("max_seq_length", [0, "512", 512.0, True]),
        ("lora_alpha", [0, -1, NAN, float("inf"), "1", True]),
        ("lora_dropout", [-1, NAN, 1.5, 1.0, "0.1", None, True]),
        ("layout", ["no", 3, None, ["joint"]]),
        ("dtype", ["float33", "int8", "bool", torch.int64, 3, "Float32", ""]),
        ("device", ["gpu", 2.5, "cpu:x", ["cpu"]]),
        ("seed", ["x", 1.5, None, -1, 2**64, True]),
        ("init_text", ["a b", ("a",), ("a", "b", "c"), ("a", 3), ("a", ""), 3, {"a": "b"}]),
        ("backbone", [None, 3, "", ["tiny-vlm"]]),
    ],
)
def test_build_names_a_wrong_argument_before_it_loads_the_backbone(name, values, monkeypatch):
    def loads(*args, **kwargs):
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr(Transformer, "__init__", loads)
    for value in values:
        with pytest.raises(ValueError, match=rf"{name}(=| ).*{re.escape(repr(value))}"):
            build(**{name: value})


def test_targets_without_lora_are_refused():
    with pytest.raises(ValueError, match=r"lora_targets=\['q_proj'\] with lora_rank=None"):
        build(lora_targets=["q_proj"], lora_rank=None)


def test_numbers_from_numpy_build_the_same_model_and_can_be_saved(tmp_path):
    plain = {"r_q": 2, "r_c": 4, "lora_rank": 4, "dim": 8, "max_seq_length": 400, "seed": 3}
    arrays = {name: np.int64(value) for name, value in plain.items()}
    model = build(**arrays, lora_alpha=np.float32(6), lora_dropout=np.float64(0), device="cpu")
    other = build(**plain, lora_alpha=6, device="cpu")
    assert torch.equal(embed(model.eval()), embed(other.eval()))
    save(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 6)


def test_alpha_scales_the_update_and_is_independent_of_the_rank():
    scales = {None: 1.0, 2: 0.5, 0.5: 0.125}
    for alpha, expected in scales.items():
        model = build(r_q=1, r_c=1, lora_rank=4, lora_alpha=alpha, device="cpu")
        scalings = {m.scaling["default"] for m in model.modules() if isinstance(m, LoraLayer)}
        assert scalings == {expected}


def test_the_repr_the_log_and_the_card_of_a_model_say_what_is_adapted(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="metaembed_lite")
    model = build(r_q=2, r_c=4, lora_rank=2, lora_alpha=8, device="cpu")
    save(model, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    line = (
        "LoRA of rank 2 and alpha 8 on 28 linear layers in 4 of 4 layers of the language model: "
        "mlp.down_proj, mlp.gate_proj, mlp.up_proj, self_attn.k_proj, self_attn.o_proj, "
        "self_attn.q_proj, self_attn.v_proj"
    )
    for place in (repr(model[0]), caplog.text, card, repr(load(tmp_path / "model")[0])):
        assert line in place
    build(r_q=2, r_c=4, lora_rank=None, device="cpu")
    assert "no adapter, every weight trains" in caplog.text


def test_save_leaves_nothing_half_written(tmp_path):
    class Broken(torch.nn.Module):
        def save_pretrained(self, folder):
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save(Broken(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_card_of_a_saved_model_shows_how_to_load_it(tmp_path):
    save(build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu"), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "from metaembed_lite import load" in card
    assert "MetaTokenTransformer(Qwen2_5_VLModel, r_q=2, r_c=4" in card
    assert "{{" not in card
    assert "model_id" not in card


def test_on_a_half_precision_backbone_trainable_weights_are_float32(tmp_path):
    model = perturb(build(r_q=2, r_c=4, lora_rank=4, dim=8, dtype="bfloat16", device="cpu"))
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert trained == {torch.float32}
    assert torch.bfloat16 in frozen
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu", dtype="bfloat16").eval()
    torch.testing.assert_close(embed(again).float(), embed(model).float(), atol=0.02, rtol=0)
    weights, loaded = dict(model.named_parameters()), dict(again.named_parameters())
    for name in (n for n, p in weights.items() if p.requires_grad):
        assert torch.equal(weights[name], loaded[name]), f"{name} was rounded"


PRECISION = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 0.005, torch.bfloat16: 0.03}


def check_close(vectors, exact, dtype):
    """The same shape, finite, of length one and close to float32's, within the type's precision."""
    assert vectors.shape == exact.shape
    tolerance = PRECISION[dtype]
    torch.testing.assert_close(vectors.double(), exact.double(), atol=tolerance, rtol=0)
    lengths = vectors.double().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=tolerance, rtol=0)


CASTS = {
    "half": torch.float16, "bfloat16": torch.bfloat16, "double": torch.float64,
    "float": torch.float32,
}  # fmt: skip


@pytest.mark.parametrize("name", CASTS)
def test_a_model_that_is_cast_encodes_in_that_type_and_can_be_cast_back(name):
    dtype = CASTS[name]
    exact = embed(load("tiny", device="cpu"))
    for cast in (
        getattr(load("tiny", device="cpu"), name)(),
        load("tiny", device="cpu").to(dtype),
    ):
        vectors = embed(cast)
        assert vectors.dtype == dtype
        check_close(vectors, exact, dtype)
    assert embed(cast.float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
def test_every_type_that_load_and_plain_sentence_transformers_accept_encodes(dtype):
    path, name = str(checkpoints.folder("tiny")), str(dtype).removeprefix("torch.")
    exact = embed(load("tiny", device="cpu"))
    vectors = embed(load("tiny", device="cpu", dtype=name))
    assert vectors.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check_close(vectors, exact, dtype)
    for given in (name, dtype):
        plain = MultiVectorEncoder(
            path, trust_remote_code=True, device="cpu", model_kwargs={"dtype": given}
        )
        assert embed(plain).dtype == dtype
        check_close(embed(plain), exact, dtype)


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("dim", [8, None])
def test_every_type_that_build_accepts_encodes_and_trains(dim, rank):
    exact = embed(build(r_q=2, r_c=4, lora_rank=rank, dim=dim, device="cpu").eval())
    for dtype in PRECISION:
        name = str(dtype).removeprefix("torch.")
        model = build(r_q=2, r_c=4, lora_rank=rank, dim=dim, dtype=name, device="cpu").eval()
        check_close(embed(model), exact, dtype)
        features = model.preprocess(["7 B2"], task="query")
        model(features, task="query")["token_embeddings"].sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("baseline", [single_vector, token_vectors])
def test_baselines_on_a_half_precision_backbone_encode_and_train(baseline, tmp_path):
    shipped = checkpoints.folder("tiny-vlm")
    backbone = Qwen2_5_VLForConditionalGeneration.from_pretrained(shipped, dtype=torch.bfloat16)
    backbone.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(shipped).save_pretrained(tmp_path)
    model = baseline(str(tmp_path), dim=8, lora_rank=4, device="cpu")
    assert model.encode_query("7 B2").isfinite().all()
    features = model.preprocess(["7 B2"], task="query")
    model(features, task="query")["token_embeddings"].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", ["int8", "float33", "bool"])
def test_types_that_cannot_hold_weights_are_refused_at_once(dtype):
    path = str(checkpoints.folder("tiny"))
    with pytest.raises(ValueError, match=rf"dtype='{dtype}': choose from float32, bfloat16"):
        load("tiny", dtype=dtype)
    with pytest.raises(ValueError, match=rf"dtype='{dtype}': choose from float32, bfloat16"):
        MultiVectorEncoder(path, trust_remote_code=True, model_kwargs={"dtype": dtype})


def test_half_precision_applies_to_the_backbone_only():
    """The projection is float32 as it was saved, not rounded on the way."""
    name = "tiny-handwriting"  # it has a projection
    exact, half = load(name, device="cpu"), load(name, device="cpu", dtype="bfloat16")
    assert torch.equal(exact[1].linear.weight, half[1].linear.weight)


def test_a_folder_that_holds_no_backbone_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"backbone '{tmp_path}': .*"):
        build(str(tmp_path), lora_rank=None)
