"""doctor finds what is broken on purpose, and nothing else. A whole model passes every check."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from test_backbones import bert
from typer.testing import CliRunner

from metaembed_lite import PrefixPooling, build, cli, doctor, load, loading
from metaembed_lite.baselines import single_vector, token_vectors
from metaembed_lite.diagnosis import subject
from metaembed_lite.doctor_command import choose_items

LONG = "seven " * 60


@pytest.fixture(autouse=True)
def few_texts(monkeypatch):
    monkeypatch.setattr(subject, "LENGTHS", (1, 4, 20))


def make(builder, *args, **settings):
    model = builder(*args, lora_rank=2, device="cpu", **settings)
    with torch.no_grad():  # LoRA's B starts at 0, which is a warning
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def whole():
    return make(build, "tiny-vlm", r_q=3, r_c=4, dim=16)


@pytest.fixture
def model(whole):
    return copy.deepcopy(whole)


def results(table, result):
    return set(table.check[table.result == result])


def on_output(module, change):
    """Let a function change the embeddings (B, R, D) that a module gives."""

    def hook(module, args, kwargs, output):
        vectors = output["token_embeddings"]
        output["token_embeddings"] = change(vectors, module, kwargs)

    module.register_forward_hook(hook, with_kwargs=True)


def on_items(model, change):
    """Let a function change each item before the backbone's processor reads it."""
    original = model[0].preprocess
    model[0].preprocess = lambda inputs, *args, **kwargs: original(
        [change(item) for item in inputs], *args, **kwargs
    )


# Each breaks a model, for the check of the same name


def finite_weights(model):
    model[1].linear.weight.data[0, 0] = float("nan")


def finite_weights_of_the_backbone(model):
    name = next(name for name, p in model.named_parameters() if not p.requires_grad)
    model.get_parameter(name).data.view(-1)[0] = float("inf")


def repeatable(model):
    on_output(model[1], lambda v, *_: v + torch.randn_like(v))


def norms(model):
    on_output(model[2], lambda v, *_: 1.5 * v)


def padding_side(model):
    original = model[0].preprocess
    default = model[0].tokenizer.padding_side

    def preprocess(*args, **kwargs):
        features = original(*args, **kwargs)
        if model[0].tokenizer.padding_side != default:  # the template loses its first token
            features["input_ids"][:, 0] = features["input_ids"][:, 1]
            features["input_ids"][:, 2] = features["input_ids"][:, 1]
        return features

    model[0].preprocess = preprocess


def batch_size(model):
    on_output(model[1], lambda v, *_: v - 0.3 * v.mean(dim=0, keepdim=True))


def masks(model):
    original, padding = model[0].forward, model[0].tokenizer.pad_token_id

    def forward(features, **kwargs):
        features["attention_mask"] = (features["input_ids"] != padding).long()
        return original(features, **kwargs)

    model[0].forward = forward


def score_sums(model):
    original = model.similarity
    model.similarity = lambda *sides: (16 * original(*sides)).round() / 16


def half_precision(model):
    model.bfloat16()

    def flip_half(vectors, module, kwargs):
        if vectors.dtype == torch.bfloat16 and kwargs.get("task") == "document":
            vectors = vectors * torch.tensor([1, -1], dtype=vectors.dtype).repeat(64)
        return vectors

    on_output(model[0], flip_half)


def as_picture(item):
    if isinstance(item, Image.Image):
        return item
    return Image.open(item) if hasattr(item, "suffix") else None


def pictures(model):
    def drop_alpha(item):
        picture = as_picture(item)
        return item if picture is None else picture.convert("RGB")

    on_items(model, drop_alpha)


def pictures_that_lie_on_their_side(model):
    def forget_exif(item):
        picture = as_picture(item)
        if picture is None or picture.mode != "RGB":
            return item
        return Image.fromarray(np.asarray(picture))

    on_items(model, forget_exif)


def budgets(model):
    model.append(PrefixPooling(2, tasks="document"))


def prefixes(model):
    def flip(vectors, module, kwargs):
        short = kwargs.get("task") == "query" and vectors.shape[1] < module.r_q
        return -vectors if short else vectors

    on_output(model[0], flip)


def special_tokens(model):
    marks = ("<|image_pad|>", "<|video_pad|>")  # without an image, the processor refuses them
    original = model[0].plain_text
    model[0].plain_text = lambda text: original(text) if any(m in text for m in marks) else text


def special_tokens_that_raise(model):
    model[0].plain_text = lambda text: text


def trained_parameters(model):
    name = next(name for name, _ in model.named_parameters() if "lora_A" in name)
    model.get_parameter(name).requires_grad_(False)


def trained_parameters_of_the_backbone(model):
    name = next(name for name, p in model.named_parameters() if not p.requires_grad)
    model.get_parameter(name).requires_grad_(True)


def collapse(model):
    def shrink(vectors, *_):
        return 0.05 * torch.nn.functional.normalize(vectors, dim=2) + 1

    on_output(model[1], shrink)


BREAKAGES = [
    finite_weights, finite_weights_of_the_backbone, repeatable, norms, padding_side, batch_size,
    masks, score_sums, half_precision, pictures, pictures_that_lie_on_their_side, budgets, prefixes,
    special_tokens, special_tokens_that_raise, trained_parameters,
    trained_parameters_of_the_backbone, collapse,
]  # fmt: skip
MEASURED = {  # words of what was measured
    finite_weights: "1.linear.weight of",
    finite_weights_of_the_backbone: "hold NaN or infinity",
    pictures: "transparent by path",
    pictures_that_lie_on_their_side: "turned by EXIF",
    budgets: "a document has 2 vectors, and the full budget is (3, 4)",
    special_tokens: "'<|im_end|>'",
    special_tokens_that_raise: "raises",
    trained_parameters: "lora_A",
    collapse: "mean cosine 1.000 between 8 generated items",
}


@pytest.mark.parametrize("break_model", BREAKAGES, ids=lambda function: function.__name__)
def test_exactly_the_check_of_what_is_broken_fails(break_model, model):
    break_model(model)
    table = doctor(model)
    name = break_model.__name__.split("_of_")[0].split("_that_")[0].replace("_", " ")
    assert results(table, "failed") == {name}, table.to_string()
    row = table[table.check == name].iloc[0]
    assert MEASURED.get(break_model, "") in row.measured
    assert row.remedy


def test_checks_of_vectors_are_skipped_with_the_reason_if_there_are_none(model):
    finite_weights(model)
    table = doctor(model).set_index("check")
    assert table.result["norms"] == table.result["batch size"] == "skipped"
    assert table.measured["norms"] == "it needs vectors, and 'finite weights' failed"
    assert table.result["adapted layers"] == "ok"


@pytest.mark.parametrize(
    ("targets", "measured"),
    [
        (r".*(q_proj|visual.*qkv)", "of the adapted layers are outside the language model"),
        (r".*layers\.[0-2]\..*q_proj", "no attention is adapted in layers 3 of 4"),
        (r".*language_model.*up_proj", "no attention is adapted in layers 0, 1, 2, 3 of 4"),
    ],
)
def test_an_adapter_on_the_wrong_layers_fails(targets, measured):
    model = build("tiny-vlm", r_q=3, r_c=4, lora_rank=None, device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=targets))
    table = doctor(model)
    assert results(table, "failed") == {"adapted layers"}, table.to_string()
    assert measured in table.set_index("check").measured["adapted layers"]


# Models as they are


def test_a_bundled_model_passes_with_its_items_and_through_a_folder():
    items = ["violin", {"text": "apple", "image": Image.new("RGB", (40, 20), "red")}]
    table = doctor(load("tiny", device="cpu"), items, round_trip=True)
    assert results(table, "skipped") == {"half precision"}
    assert set(table.result) == {"ok", "skipped"}, table.to_string()
    assert (table.remedy == "").all()
    assert table.columns.tolist() == ["check", "result", "measured", "remedy"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_and_its_similarity_is_a_warning(dtype, model):
    table = doctor(model.to(dtype))
    assert not results(table, "failed"), table.to_string()
    assert results(table, "warning") == {"score sums"}
    assert table.set_index("check").result["half precision"] == "ok"


NO_META_TOKENS = {"half precision", "budgets", "prefixes", "items", "lengths", "duplicates"}


@pytest.mark.parametrize(
    ("builder", "settings"), [(single_vector, {}), (token_vectors, {"patches_only": True})]
)
def test_a_model_without_meta_tokens_skips_what_does_not_apply(builder, settings):
    table = doctor(make(builder, **settings))
    assert results(table, "skipped") == NO_META_TOKENS | {"save and load"}
    assert not results(table, "failed") | results(table, "warning"), table.to_string()


def test_a_bidirectional_text_model_skips_images_and_prefixes(tmp_path):
    table = doctor(make(build, bert(tmp_path), r_q=2, r_c=4)).set_index("check")
    assert set(table.result) == {"ok", "skipped"}, table.to_string()
    assert table.measured["pictures"] == "the model reads no images"
    assert "every token sees all others" in table.measured["prefixes"]


def test_an_untrained_or_frozen_model_is_a_warning(model):
    fresh = build("tiny-vlm", r_q=3, r_c=4, lora_rank=2, device="cpu")
    frozen = model.requires_grad_(False)
    for each, words in ((fresh, "all its B matrices are 0"), (frozen, "none of")):
        table = doctor(each)
        assert results(table, "warning") == {"trained parameters"}
        assert not results(table, "failed")
        assert words in table.set_index("check").measured["trained parameters"]


def test_a_model_that_is_lost_by_saving_fails_the_round_trip(model):
    on_output(model[1], lambda v, *_: -v)  # a hook is not saved
    assert not results(doctor(model), "failed")
    assert results(doctor(model, round_trip=True), "failed") == {"save and load"}


def test_the_model_is_the_same_afterwards(model):
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    side = model[0].tokenizer.padding_side
    before = {name: p.clone() for name, p in model.state_dict().items()}
    doctor(model)
    assert [module.training for module in model.modules()] == modes
    assert model[0].tokenizer.padding_side == side
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_a_check_that_raises_fails_and_the_others_go_on(model):
    def similarity(*sides):
        raise RuntimeError("no kernel")

    model.similarity = similarity
    table = doctor(model).set_index("check")
    assert table.measured["score sums"] == "RuntimeError: no kernel"
    assert table.result["collapse"] == "ok"


# The user's items


def test_items_that_cannot_be_encoded_are_named_and_left_out(model, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    table = doctor(model, ["violin", broken, 7, "apple"]).set_index("check")
    assert table.index[table.result == "failed"].tolist() == ["items"]
    assert table.measured["items"].startswith("2 of 4 items cannot be encoded: item 1 (image /")
    assert "item 2 (int)" in table.measured["items"]
    assert table.measured["duplicates"] == "2 items encode to different vectors"


def test_long_and_equal_items_are_warnings(model):
    model[0].max_seq_length = 40
    items = ["violin", LONG, "apple", "violin", LONG + "eight"]
    table = doctor(model, items)
    assert not results(table, "failed"), table.to_string()
    assert results(table, "warning") == {"lengths", "duplicates"}
    measured = table.set_index("check").measured
    room = model[0].content_limit("document")
    tokens = len(model[0].tokenizer(LONG + "eight")["input_ids"])
    assert measured["lengths"].startswith("2 of 5 items are cut: the longest, item 4, has ")
    assert f"room for {room:,}" in measured["lengths"]
    assert max(model[0].count_tokens(items, "document")) >= tokens
    assert measured["duplicates"].startswith("2 of 5 items encode as an earlier one does")
    assert "items 0 and 3 (the same item)" in measured["duplicates"]
    assert "items 1 and 4 (different items)" in measured["duplicates"]


def test_what_is_no_model_or_no_list_is_refused(model):
    with pytest.raises(ValueError, match="Linear, which has no encode_query"):
        doctor(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="items is str: give a list"):
        doctor(model, "violin")


# The command


def test_the_command_prints_each_check_and_exits_with_1_if_one_failed(model, tmp_path, monkeypatch):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    monkeypatch.setattr(loading, "load", lambda name: model)
    line = ["doctor", "my-model", str(tmp_path)]
    good = CliRunner().invoke(cli.app, line)
    assert good.exit_code == 0, good.output
    assert good.output.startswith(f"my-model on 1 items of 1 in {tmp_path}")
    assert "0 failed" in good.output
    norms(model)
    bad = CliRunner().invoke(cli.app, line)
    assert bad.exit_code == 1
    assert "failed   norms" in bad.output
    assert "remedy: MaxSim prefers long vectors" in bad.output
    assert "1 failed" in bad.output


def test_the_command_names_a_source_that_does_not_exist():
    result = CliRunner().invoke(cli.app, ["doctor", "tiny", "no-such-folder"])
    assert result.exit_code == 2
    assert "neither a folder nor a suite" in result.output


def test_items_come_from_the_suite_of_the_model_or_a_named_one():
    items, where = choose_items("tiny-handwriting", None, [], 4)
    assert (len(items), where) == (5, "of the suite 'handwriting'")
    items, where = choose_items("tiny", "stickers", ["side=2"], 4)
    assert (len(items), where) == (5, "of the suite 'stickers'")
    assert items[0].size == items[3].size


def test_the_items_of_a_model_that_was_trained_on_a_folder_are_stickers(tmp_path):
    recipe = "model: {}\ndata: {name: image_folder, path: /not/here}\ntrain: {}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert choose_items(str(tmp_path), None, [], 4)[1] == "of the suite 'stickers'"
