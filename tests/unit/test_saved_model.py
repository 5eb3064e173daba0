"""A checkpoint is data: its code never runs, it writes nothing, and damaged files are refused."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from abuse.model_folders import pickled
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder

from metaembed_lite import build, checkpoints, load, save
from metaembed_lite.model_folder import MARKER, write_marker


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved LoRA model and a saved model with all weights: folder names to folders."""
    at = tmp_path_factory.mktemp("saved")
    for name, rank in (("adapter", 2), ("whole", None)):
        model = build(r_q=2, r_c=4, lora_rank=rank, dim=8, device="cpu")
        save(model, at / name)
    return at


@pytest.fixture
def hostile(saved, tmp_path):
    """Copies of the saved models that a test may change, as an attacker would: without a marker."""
    shutil.copytree(saved, tmp_path / "models")
    for folder in (tmp_path / "models").iterdir():
        (folder / MARKER).unlink()
    return tmp_path / "models"


def edit(file: Path, **values):
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, **values}))


def remove(file: Path, *keys):
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k not in keys}))


# Five ways in which a pickle was once run (the fifth is in test_only_data_is_downloaded_from_a_hub)


def a_whole_model_without_safetensors(models, marker):
    folder = models / "whole"
    (folder / "model.safetensors").unlink()
    pickled(folder / "pytorch_model.bin", marker)
    remove(folder / "config.json", "dtype")
    return folder


def a_pickle_next_to_good_weights(models, marker):
    folder = models / "whole"
    pickled(folder / "pytorch_model.bin", marker)
    remove(folder / "config.json", "dtype")
    return folder


def an_adapter_on_a_hostile_folder(models, marker):
    a_whole_model_without_safetensors(models, marker)
    base = models / "whole"
    edit(models / "adapter" / "adapter_config.json", base_model_name_or_path=str(base))
    return models / "adapter"


def an_adapter_that_is_a_pickle(models, marker):
    folder = models / "adapter"
    (folder / "adapter_model.safetensors").unlink()
    pickled(folder / "adapter_model.bin", marker)
    return folder


def a_projection_that_is_a_pickle(models, marker):
    folder = models / "whole"
    (folder / "1_Dense" / "model.safetensors").unlink()
    pickled(folder / "1_Dense" / "pytorch_model.bin", marker)
    return folder


@pytest.mark.parametrize(
    "make",
    [
        a_whole_model_without_safetensors, a_pickle_next_to_good_weights,
        an_adapter_on_a_hostile_folder, an_adapter_that_is_a_pickle, a_projection_that_is_a_pickle,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model_kwargs": {"weights_only": False, "dtype": "auto", "use_safetensors": False}},
        {"model_args": {"weights_only": False, "torch_dtype": "auto"}},
    ],
    ids=["plain", "model_kwargs", "model_args"],
)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_no_pickle_of_a_checkpoint_is_run(make, settings, dtype, hostile, tmp_path):
    marker = tmp_path / "code has run"
    folder = make(hostile, marker)
    if settings:
        edit(folder / "sentence_bert_config.json", **settings)
    if make is a_pickle_next_to_good_weights and not settings:
        load(folder, device="cpu", dtype=dtype)  # the pickle is not read
    else:
        with pytest.raises((ValueError, OSError)):
            load(folder, device="cpu", dtype=dtype)
    assert not marker.exists()


def test_the_payload_runs_if_nothing_stops_it(tmp_path):
    pickled(tmp_path / "weights.bin", tmp_path / "code has run")
    torch.load(tmp_path / "weights.bin", weights_only=False)
    assert (tmp_path / "code has run").exists()


def test_only_data_is_downloaded_from_a_hub(hostile, tmp_path, monkeypatch):
    """Both ways through a hub: a repository with pickles, and an adapter that names another one."""
    import fnmatch

    marker = tmp_path / "code has run"
    evil = hostile / "whole"
    (evil / "model.safetensors").rename(evil / "weights.dat")
    pickled(evil / "weights.dat", marker)
    (evil / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"language_model.norm.weight": "weights.dat"}})
    )
    (evil / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')")
    edit(hostile / "adapter" / "adapter_config.json", base_model_name_or_path="evil/base")
    served = {"evil/full": evil, "evil/base": evil, "good/adapter": hostile / "adapter"}
    downloaded, names = [], []

    def snapshot_download(name, *, allow_patterns):
        names.append(name)
        copy = tmp_path / "cache" / name
        for file in sorted(served[name].rglob("*")):
            relative = file.relative_to(served[name]).as_posix()
            if file.is_file() and any(fnmatch.fnmatch(relative, p) for p in allow_patterns):
                (copy / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy / relative)
                downloaded.append(relative)
        return str(copy)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    for name in ("evil/full", "good/adapter"):
        with pytest.raises((ValueError, OSError)):
            load(name, device="cpu")
    assert not marker.exists()
    assert set(names) == {"evil/full", "good/adapter", "evil/base"}
    assert not [name for name in downloaded if name.endswith((".dat", ".bin", ".py"))]


@pytest.mark.parametrize(
    "key",
    [
        "model_kwargs", "processor_kwargs", "config_kwargs", "model_args", "tokenizer_args",
        "config_args", "tokenizer_name_or_path", "backend", "trust_remote_code", "backbone",
        "processing_kwargs", "anything_new",
    ],
)  # fmt: skip
def test_settings_that_reach_from_pretrained_are_refused(key, hostile, tmp_path):
    target = tmp_path / "written by a checkpoint"
    value = {"device_map": {"": "disk"}, "offload_folder": str(target)}
    edit(hostile / "whole" / "sentence_bert_config.json", **{key: value})
    with pytest.raises(ValueError, match=rf"sentence_bert_config\.json sets '{key}'"):
        load(hostile / "whole")
    assert not target.exists()


def under_another_name(folder, settings):
    """The settings in a file that sentence-transformers reads if the first one is empty."""
    config = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text("{}")
    (folder / "sentence_roberta_config.json").write_text(json.dumps({**config, **settings}))


def next_to_the_file(folder, settings):
    (folder / "sentence_xlnet_config.json").write_text(json.dumps(settings))


def in_a_folder_of_the_backbone(folder, settings):
    listing = json.loads((folder / "modules.json").read_text())
    listing[0]["path"] = "T"
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "T").mkdir()
    for file in folder.glob("*.*"):
        shutil.copy(file, folder / "T")
    edit(folder / "T" / "sentence_bert_config.json", **settings)


@pytest.mark.parametrize(
    "hide", [under_another_name, next_to_the_file, in_a_folder_of_the_backbone]
)
@pytest.mark.parametrize("name", ["whole", "adapter"])
def test_settings_are_refused_wherever_they_are_hidden(hide, name, hostile, tmp_path):
    target = tmp_path / "written by a checkpoint"
    offload = {"device_map": {"": "disk"}, "offload_folder": str(target)}
    hide(hostile / name, {"model_kwargs": offload})
    write_marker(hostile / name)  # because an attacker can write a marker too
    with pytest.raises(
        ValueError, match=r"sentence_bert_config\.json is empty|stands next to|modules\.json"
    ):
        load(hostile / name, device="cpu")
    assert not target.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transformer_task": "retrieval"}, "transformer_task is 'retrieval'; expected 'feature"),
        ({"module_output_name": "x"}, "module_output_name is 'x'"),
        ({"query_length": -3}, "query_length is -3"),
        ({"max_seq_length": "a"}, "max_seq_length is 'a'"),
        ({"r_q": 10**7}, "r_q is 10000000"),
        ({"modality_config": 3}, "modality_config is 3"),
    ],
    ids=str,
)
def test_values_of_the_backbone_settings_are_checked(values, message, hostile):
    edit(hostile / "whole" / "sentence_bert_config.json", **values)
    write_marker(hostile / "whole")
    with pytest.raises(ValueError, match=message):
        load(hostile / "whole", device="cpu")


@pytest.mark.parametrize(
    "values", [{"attn_implementation": "evil/kernel"}, {"configuration_files": ["x"]}]
)
def test_the_backbone_of_an_adapter_is_checked_too(values, hostile):
    edit(hostile / "whole" / "config.json", **values)
    edit(
        hostile / "adapter" / "adapter_config.json", base_model_name_or_path=str(hostile / "whole")
    )
    with pytest.raises(ValueError, match=r"config\.json: .*refused"):
        load(hostile / "adapter", device="cpu")


@pytest.mark.parametrize("base", ["metaembed_lite/tiny", "another"])
def test_an_adapter_is_refused_as_a_backbone(base, hostile):
    shutil.copytree(hostile / "adapter", hostile / "another")
    name = base if "/" in base else str(hostile / base)
    edit(hostile / "adapter" / "adapter_config.json", base_model_name_or_path=name)
    with pytest.raises(ValueError, match="is itself an adapter"):
        load(hostile / "adapter", device="cpu")


def test_odd_modules_and_activations_are_refused(hostile):
    file = hostile / "whole" / "modules.json"
    listing = json.loads(file.read_text())
    for change in ({"name": "0"}, {"name": "a.b"}, {"name": "forward"}, {"path": ""}):
        file.write_text(json.dumps([listing[0], {**listing[1], **change}, listing[2]]))
        with pytest.raises(ValueError, match=r"modules\.json"):
            load(hostile / "whole", device="cpu")
    file.write_text(json.dumps(listing))
    edit(
        hostile / "whole" / "1_Dense" / "config.json", activation_function="sentence_transformers.x"
    )
    with pytest.raises(ValueError, match=r"1_Dense/config\.json: activation_function"):
        load(hostile / "whole", device="cpu")


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "evil/kernel"},
        {"text_config": {"_attn_implementation": "evil/kernel"}},
        {"auto_map": {"AutoModel": "modeling_evil.Model"}},
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}},
        {"configuration_files": ["config.evil.json"]},
    ],
    ids=str,
)
def test_configurations_that_name_code_are_refused(file, values, hostile):
    folder = hostile / ("whole" if file == "config.json" else "adapter")
    edit(folder / file, **values)
    with pytest.raises(ValueError, match=rf"{file}.*(evil|Evil)"):
        load(folder)


def test_modality_config_may_only_call_a_forward_pass(hostile):
    call = {"method": "save_pretrained", "method_output_name": None}
    edit(hostile / "whole" / "sentence_bert_config.json", modality_config={"text": call})
    with pytest.raises(ValueError, match="calls 'save_pretrained', which is not a forward pass"):
        load(hostile / "whole")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 1_000_000}, r"r is 1000000, the weights have \[2\]"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_dropout": 2}, "lora_dropout is 2"),
        ({"peft_type": "PROMPT_TUNING"}, "only LORA"),
        ({"megatron_config": {"a": 1}}, "megatron_config is"),
        ({"modules_to_save": ["visual"]}, "modules_to_save is"),
        ({"use_dora": True}, "use_dora is"),
        ({"base_model_name_or_path": None}, "not a backbone"),
        ({"trainable_token_indices": {"language_model.embed_tokens": ["a"]}}, "list of rows"),
        (
            {"trainable_token_indices": {"language_model.embed_tokens": [1, 2]}},
            r"lists \[2\] tokens.*\[6\]",
        ),
    ],
    ids=str,
)
def test_an_adapter_may_only_have_settings_that_build_makes(values, message, hostile):
    edit(hostile / "adapter" / "adapter_config.json", **values)
    started = time.monotonic()
    with pytest.raises(ValueError, match=message):
        load(hostile / "adapter", device="cpu")
    assert time.monotonic() - started < 30


def test_no_pattern_of_a_checkpoint_is_run(hostile, saved):
    edit(hostile / "adapter" / "adapter_config.json", target_modules="(.*.*)*x")
    started = time.monotonic()
    loaded = load(hostile / "adapter", device="cpu")
    assert time.monotonic() - started < 30
    right = load(saved / "adapter", device="cpu")
    assert torch.equal(loaded.encode_query("7 B2"), right.encode_query("7 B2"))


def test_a_chat_template_is_checked_in_each_file_that_holds_one(hostile):
    growing = "{{ 'A' * 10**9 }}"
    edit(hostile / "adapter" / "tokenizer_config.json", chat_template=growing)
    (hostile / "whole" / "chat_template.jinja").write_text(growing)
    for name, file in (("adapter", "tokenizer_config.json"), ("whole", "chat_template.jinja")):
        with pytest.raises(ValueError, match=rf"{file}.*chat template multiplies"):
            load(hostile / name, device="cpu")


@pytest.mark.parametrize("path", ["/etc", "../../x", "..", "a/b", "1_Dense\x00", "\\\\host\\x"])
def test_modules_lie_below_the_folder(path, hostile):
    listing = json.loads((hostile / "whole" / "modules.json").read_text())
    listing[1]["path"] = path
    (hostile / "whole" / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match=r"modules\.json.*path"):
        load(hostile / "whole")


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[]", "[1]", '[{"type": 3}]', "\xff", "[" * 100_000]
)
def test_a_damaged_list_of_modules_is_named(text, hostile):
    (hostile / "whole" / "modules.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"modules\.json.*damaged"):
        load(hostile / "whole")


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "chat_template.jinja"])
def test_devices_and_pipes_are_not_read(name, hostile):
    """A link to a device or a pipe, as an archive can bring along, would hang or fill memory."""
    for make in (lambda file: file.symlink_to("/dev/zero"), os.mkfifo):
        (hostile / "whole" / name).unlink()
        make(hostile / "whole" / name)
        with pytest.raises(ValueError, match=name):
            load(hostile / "whole")


# Damage


@pytest.mark.parametrize("name", ["adapter", "whole"])
def test_damage_to_any_file_is_refused_with_its_name(name, saved, tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "model"
    shutil.copytree(saved / name, folder)
    notes = {"README.md"}
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name not in notes):
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        for damaged in (bytes(flipped), content[: len(content) // 2], b"", None):
            file.unlink() if damaged is None else file.write_bytes(damaged)
            if file.name == MARKER and damaged is None:
                continue  # a model without a marker loads
            with pytest.raises((ValueError, FileNotFoundError)) as error:
                load(folder, device="cpu")
            assert file.name in str(error.value)
        file.write_bytes(content)
    assert load(folder, device="cpu")


@pytest.mark.parametrize("name", ["adapter", "whole"])
def test_a_missing_file_is_named_also_without_a_marker(name, hostile):
    folder = hostile / name
    needed = [
        "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json",
        "1_Dense/config.json", "1_Dense/model.safetensors", "2_Normalize/config.json",
        "tokenizer.json",
        *(["adapter_model.safetensors"] if name == "adapter" else ["model.safetensors",
        "config.json"]),
    ]  # fmt: skip
    for missing in needed:
        content = (folder / missing).read_bytes()
        (folder / missing).unlink()
        with pytest.raises((ValueError, OSError)) as error:
            load(folder, device="cpu")
        if missing != "tokenizer.json":  # transformers' own error
            assert Path(missing).name in str(error.value), f"{missing}: {error.value}"
        (folder / missing).write_bytes(content)
    assert load(folder, device="cpu")


def drop_half(tensors):
    return dict(list(tensors.items())[::2])


def rename_all(tensors):
    return {f"renamed.{name}": tensor for name, tensor in tensors.items()}


def drop_the_meta_tokens(tensors):
    return {name: tensor for name, tensor in tensors.items() if "trainable_tokens" not in name}


def add_one(tensors):
    return {**tensors, "visual.extra.lora_A.weight": torch.zeros(2, 3)}


def not_finite(tensors):
    name = sorted(tensors)[-1]
    return {**tensors, name: torch.full_like(tensors[name], float("nan"))}


@pytest.mark.parametrize(
    "change", [drop_half, rename_all, drop_the_meta_tokens, add_one, not_finite]
)
@pytest.mark.parametrize("file", ["adapter/adapter_model", "whole/model", "whole/1_Dense/model"])
def test_weights_that_do_not_fit_are_refused_also_without_a_marker(change, file, hostile):
    weights = hostile / f"{file}.safetensors"
    tensors = load_file(weights)
    if change(tensors).keys() == tensors.keys() and change is not not_finite:
        pytest.skip("there is nothing to change in this file")
    save_file(change(tensors), weights, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"damaged|NaN|cannot be made|the weights have|does not fit"
    ):
        load(hostile / file.split("/")[0], device="cpu")


@pytest.mark.parametrize("name", ["adapter", "whole"])
@pytest.mark.parametrize(
    "change", [{"r_q": 3}, {"r_q": 1}, {"r_c": 3}, {"r_c": 5}, {"layout": "separate"}]
)
def test_meta_tokens_other_than_the_trained_ones_are_refused(
    name, change, saved, hostile, tmp_path
):
    marked = tmp_path / "marked"
    shutil.copytree(saved / name, marked)
    edit(marked / "sentence_bert_config.json", **change)
    with pytest.raises(
        ValueError, match=r"sentence_bert_config\.json is not the file that was saved"
    ):
        load(marked, device="cpu")
    if "layout" in change:
        return  # only the marker shows this
    edit(hostile / name / "sentence_bert_config.json", **change)
    with pytest.raises(ValueError, match=r"sentence_bert_config\.json says r_q|with other numbers"):
        load(hostile / name, device="cpu")


def test_a_file_that_load_could_read_and_save_did_not_write_is_refused(saved, tmp_path):
    shutil.copytree(saved / "adapter", tmp_path / "model")
    (tmp_path / "model" / "notes.md").write_text("mine")
    assert load(tmp_path / "model", device="cpu")
    (tmp_path / "model" / "added_tokens.json").write_text("{}")
    with pytest.raises(ValueError, match=r"added_tokens\.json was not saved with the model"):
        load(tmp_path / "model", device="cpu")


# What still works


def test_a_moved_backbone_is_named_and_can_be_given(tmp_path):
    shutil.copytree(checkpoints.HERE / "tiny-vlm", tmp_path / "mybase")
    model = build(str(tmp_path / "mybase"), r_q=2, r_c=4, lora_rank=2, device="cpu").eval()
    save(model, tmp_path / "model")
    assert torch.equal(
        load(tmp_path / "model", device="cpu").encode_query("a"), model.encode_query("a")
    )
    (tmp_path / "mybase").rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=r"mybase.*does not exist.*load\(path, backbone=\.\.\.\)"
    ):
        load(tmp_path / "model", device="cpu")
    loaded = load(tmp_path / "model", device="cpu", backbone=tmp_path / "moved")
    assert torch.equal(loaded.encode_query("a"), model.encode_query("a"))
    save(loaded, tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "moved")


def test_prompts_and_the_card_survive_loading_and_saving(tmp_path):
    model = build(r_q=2, r_c=4, lora_rank=2, device="cpu")
    model.prompts["query"] = "find: "
    save(model, tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text(card.read_text() + "\n## Quality at every budget\n")
    loaded = load(tmp_path / "model", device="cpu")
    assert loaded.prompts == model.prompts
    assert torch.equal(loaded.encode_query("a"), model.eval().encode_query("a"))
    save(loaded, tmp_path / "again")
    assert "Quality at every budget" in (tmp_path / "again" / "README.md").read_text()


def test_a_model_saved_by_sentence_transformers_loads_with_both_libraries(tmp_path):
    model = build(r_q=2, r_c=4, lora_rank=2, dim=8, device="cpu").eval()
    model.save_pretrained(str(tmp_path / "plain"))
    for loaded in (
        load(tmp_path / "plain", device="cpu"),
        MultiVectorEncoder(str(tmp_path / "plain"), trust_remote_code=True, device="cpu"),
    ):
        assert torch.equal(loaded.encode_query("a"), model.encode_query("a"))


def test_a_marker_lists_every_file_with_its_hash(saved):
    import hashlib

    for folder in saved.iterdir():
        listed = json.loads((folder / MARKER).read_text())["sha256"]
        hashes = {
            f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in folder.rglob("*")
            if f.is_file() and f.name not in (MARKER, "README.md")
        }
        assert listed == hashes
        write_marker(folder)
        assert json.loads((folder / MARKER).read_text())["sha256"] == hashes


@pytest.mark.skipif(os.name == "nt", reason="links need special rights on Windows")
def test_a_model_in_a_hubs_cache_consists_of_links_and_loads(saved, tmp_path):
    for file in (f for f in (saved / "adapter").rglob("*") if f.is_file()):
        link = tmp_path / "snapshot" / file.relative_to(saved / "adapter")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    assert load(tmp_path / "snapshot", device="cpu")
