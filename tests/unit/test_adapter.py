"""An adapter on its backbone: what comes from the adapter's folder and what from the backbone's."""

import json
import shutil

import pytest
from sentence_transformers.base.modules import Transformer

from metaembed_lite import build, checkpoints, save
from metaembed_lite.adapter import AdapterTransformer
from metaembed_lite.meta_tokens import MetaTokenTransformer

BASE = checkpoints.HERE / "tiny-vlm"
FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
FORMAT_BY_TEMPLATE = {
    "structured": "{% for m in messages %}{{ m['content'][0]['text'] if m['type'] }}{% endfor %}",
    "flat": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(build(r_q=2, r_c=4, lora_rank=2, device="cpu"), folder)
    return folder


@pytest.fixture
def saved(original, tmp_path):
    """A saved LoRA model that a test may change."""
    shutil.copytree(original, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_seq_length": 77},
        {"processor_kwargs": {"model_max_length": 88}},
        {"query_expansion": {"strategy": "fixed", "attend": True, "length": 9}},
        {"modality_config": {"text": FORWARD}, "module_output_name": "token_embeddings"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("template", "limit"), [("structured", 50), ("flat", 10**9)])
def test_the_processor_comes_from_the_adapter_and_is_set_up_as_in_sentence_transformers(
    settings, template, limit, saved
):
    (saved / "chat_template.jinja").write_text(FORMAT_BY_TEMPLATE[template])
    tokenizer_config = json.loads((saved / "tokenizer_config.json").read_text())
    tokenizer_config["model_max_length"] = limit
    (saved / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))

    transformer = AdapterTransformer(str(saved), **settings)
    # The oracle is sentence-transformers' deprecated way to take a tokenizer from another folder.
    expected = Transformer(str(BASE), tokenizer_name_or_path=str(saved), **settings)

    assert transformer.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert "<|meta_q_0|>" in transformer.tokenizer.get_vocab()
    for name in ("max_seq_length", "modality_config", "module_output_name", "query_expansion"):
        assert getattr(transformer, name) == getattr(expected, name), name
    for name in ("message_format", "model_type", "supported_modalities"):
        formatters = transformer.input_formatter, expected.input_formatter
        assert getattr(formatters[0], name) == getattr(formatters[1], name), name
    assert transformer.input_formatter.processor is transformer.processor


def test_revision_and_subfolder_apply_to_the_adapter_only(saved):
    where = {"revision": "v2", "subfolder": "", "local_files_only": True}
    settings = {"model_kwargs": where, "processor_kwargs": where, "config_kwargs": where}
    transformer = AdapterTransformer(str(saved), **settings)
    assert transformer.backbone_name == "metaembed_lite/tiny-vlm"
    assert where == {"revision": "v2", "subfolder": "", "local_files_only": True}
    elsewhere = {"subfolder": "of the adapter"}  # the backbone has no such folder
    AdapterTransformer(str(saved), model_kwargs=elsewhere, config_kwargs=elsewhere)


def test_a_saved_model_is_checked_without_reading_its_tensors_twice(tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    save(build(r_q=2, r_c=4, lora_rank=None, device="cpu"), tmp_path / "model")
    loads = []
    load = PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls, *args, **kwargs):
        loaded = load(cls, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        loads.append({parameter.device.type for parameter in model.parameters()})
        return loaded

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
    transformer = AdapterTransformer(str(tmp_path / "model"))
    assert loads == [{"cpu"}, {"meta"}]
    assert {parameter.device.type for parameter in transformer.parameters()} == {"cpu"}


@pytest.mark.parametrize("unpad_inputs", [None, True])
def test_with_flash_attention_texts_are_not_packed_into_one_row(unpad_inputs, monkeypatch):
    """Flash attention needs a GPU, so only its request is imitated."""
    monkeypatch.setattr("transformers.utils.generic.is_flash_attention_requested", lambda **_: True)
    monkeypatch.setattr(
        "transformers.modeling_flash_attention_utils.lazy_import_flash_attention",
        lambda *_: ((None, lambda: None, None, None), None),
    )
    texts = ["1 B1", "7 B2, 2 C2"]
    packed = Transformer(str(BASE), unpad_inputs=unpad_inputs)
    assert packed.can_flatten_inputs
    assert len(packed.preprocess(texts)["input_ids"]) == 1
    transformer = MetaTokenTransformer("tiny-vlm", r_q=2, r_c=4, unpad_inputs=unpad_inputs)
    assert not transformer.can_flatten_inputs
    features = transformer.preprocess(texts, task="query")
    assert len(features["input_ids"]) == len(features["attention_mask"]) == 2
    assert transformer(features, task="query")["token_embeddings"].shape == (2, 2, 128)


def test_a_saved_model_does_not_store_unpad_inputs_and_cannot_turn_it_on(saved):
    file = saved / "sentence_bert_config.json"
    config = json.loads(file.read_text())
    assert "unpad_inputs" not in config  # as in the bundled checkpoints
    file.write_text(json.dumps({**config, "unpad_inputs": True}))
    assert MetaTokenTransformer.load(str(saved)).unpad_inputs is False
