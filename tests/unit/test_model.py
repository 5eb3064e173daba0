"""build, save, load: the same vectors after a round trip, and nothing but known classes."""

import json

import pytest
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder

from metaembed_lite import build, load, save
from metaembed_lite.budget import Budget, PrefixPooling
from metaembed_lite.model import vectors

BOARD = Image.effect_noise((48, 48), 80).convert("RGB")


def embed(model):
    return torch.cat([model.encode_query("7 center"), model.encode_document(BOARD)])


def perturb(model):
    """Stand-in for training: every trainable weight moves, so that a fresh start cannot match."""
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
    assert vectors(again) == Budget(2, 4)


def test_an_adapter_names_its_shipped_backbone_not_a_path_and_holds_no_whole_embedding(tmp_path):
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


def test_lora_adapts_the_language_model_and_nothing_of_the_vision_tower():
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


def test_meta_tokens_start_at_the_words_that_are_given():
    model = build(
        r_q=2, r_c=3, lora_rank=None, device="cpu", init_text=(" first second", " top left")
    )
    rows = model[0].model.get_input_embeddings().weight
    words = model[0].tokenizer.convert_tokens_to_ids(["Ġfirst", "Ġsecond", "Ġtop", "Ġleft"])
    assert torch.equal(rows[model[0].meta_ids["query"]], rows[words[:2]])
    assert torch.equal(rows[model[0].meta_ids["document"]], rows[[words[2], words[3], words[2]]])


def test_prefix_pooling_cuts_a_candidate_to_the_budget():
    model = build(r_q=2, r_c=4, dim=8, device="cpu").eval()
    full = model.encode_document([BOARD])[0]
    cut = model.encode_document([BOARD], token_pooling=PrefixPooling(3))[0]
    assert torch.equal(cut, full[:3])
    with pytest.raises(ValueError, match=r"PrefixPooling\(5\): the embedding has 4 vectors"):
        model.encode_document([BOARD], token_pooling=PrefixPooling(5))


def test_load_refuses_classes_that_a_checkpoint_brings_along(tmp_path):
    folder = tmp_path / "model"
    build(r_q=2, r_c=4, device="cpu").save_pretrained(str(folder))
    (folder / "evil.py").write_text("raise SystemExit('ran code from a checkpoint')")
    listing = json.loads((folder / "modules.json").read_text())
    listing[0]["type"] = "evil.Module"
    (folder / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match=r"asks for the class 'evil.Module'"):
        load(folder)


def test_load_says_what_a_folder_lacks_and_what_a_name_could_be(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no modules\.json: not a saved model"):
        load(tmp_path)
    with pytest.raises(OSError, match=r"'nobody/nothing'.*does not ship.*tiny.*hub"):
        load("nobody/nothing")
    with pytest.raises(OSError, match=r"'nobody/nothing'.*does not ship.*tiny-vlm.*hub"):
        build("nobody/nothing")


@pytest.mark.parametrize(
    "arguments",
    [
        {"r_q": 0}, {"lora_rank": 0}, {"dim": 0}, {"layout": "no"},
        {"max_seq_length": 0}, {"max_seq_length": 100_000}, {"max_seq_length": 80},
    ],
)  # fmt: skip
def test_build_names_a_bad_argument(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        build(**arguments)


def test_save_leaves_nothing_half_written(tmp_path):
    class Broken(torch.nn.Module):
        def save_pretrained(self, folder):
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        save(Broken(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_card_of_a_saved_model_tells_how_to_load_it(tmp_path):
    save(build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu"), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "from metaembed_lite import load" in card
    assert "MetaTokenTransformer(Qwen2_5_VLModel, r_q=2, r_c=4" in card
    assert "{{" not in card
    assert "model_id" not in card


def test_on_a_half_precision_backbone_what_trains_is_in_float32(tmp_path):
    model = perturb(build(r_q=2, r_c=4, lora_rank=4, dim=8, dtype="bfloat16", device="cpu"))
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert trained == {torch.float32}
    assert torch.bfloat16 in frozen
    save(model, tmp_path / "model")
    again = load(tmp_path / "model", device="cpu", dtype="bfloat16").eval()
    torch.testing.assert_close(embed(again).float(), embed(model).float(), atol=0.02, rtol=0)
