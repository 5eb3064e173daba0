"""Model folders of an attacker. Loading one runs no code, and writes nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from abuse.growing_templates import GROWING
from abuse.models import answer, saved, small
from abuse.tally import Effort, Row
from metaembed_lite import load, save
from metaembed_lite.model_folder import MARKER, write_marker

TRANSFORMER = "sentence_bert_config.json"


class Payload:
    """Unpickling this makes a file, which proves that code has run."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.marker, "w")


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """Copies of two saved models, one change each. An attacker writes a marker that fits."""
    bench = Bench(folder)
    return [
        bench.run("pickles in place of weights or next to them", list(pickles(bench)), effort, 6),
        bench.run("settings that run code, write files or fetch", list(settings()), effort, 12),
        bench.run("lists of modules: classes, paths, names", list(modules()), effort, 6),
        bench.run("adapters: patterns, ranks, other backbones", list(adapters()), effort, 6),
        bench.run("chat templates that fill memory or time", list(templates()), effort, 30),
        bench.run("links, devices and pipes in place of files", list(links()), effort, 4),
        bench.run("weights missing, renamed, NaN, of another shape", list(weights()), effort, 5),
    ]  # fmt: skip


Change = tuple[str, str, Callable[[Path], Any], bool]  # case, model, change, may it load as before


class Bench:
    """Saved models to change, and what must not happen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marker = folder / "code has run"
        self.models = {"adapter": saved(folder)}
        save(small(1, lora_rank=None), folder / "whole")
        self.models["whole"] = folder / "whole"
        self.right = {
            name: answer(load(model, device="cpu")) for name, model in self.models.items()
        }

    def run(self, what: str, changes: list[Change], effort: Effort, short: int) -> Row:
        """Try each change on a copy."""
        row = Row(what, len(changes))
        step = max(1, len(changes) // effort.count(len(changes), short))
        for case, name, change, may_load in changes[::step]:
            copy = self.folder / "changed"
            shutil.copytree(self.models[name], copy)
            (copy / MARKER).unlink()
            change(copy)
            if not any(path.is_symlink() or path.is_fifo() for path in copy.rglob("*")):
                write_marker(copy)
            right = self.right[name] if may_load else None
            row.attempt(
                case, lambda copy=copy: answer(load(copy, device="cpu")), names=[str(copy)],
                is_right=lambda got, right=right: right is not None and torch.equal(got, right),
                seconds=30,
            )  # fmt: skip
            if self.marker.exists() or (self.folder / "written").exists():
                row.fail(case, "code has run, or a file was written")
                self.marker.unlink(missing_ok=True)
            shutil.rmtree(copy)
        return row


def edit(name: str, **values: Any) -> Callable[[Path], None]:
    """Change values of a JSON file."""

    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Replace a file."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def pickled(file: Path, marker: Path) -> None:
    """A file in torch's zip format, whose pickle runs code."""
    body = io.BytesIO()
    pickle.Pickler(body, protocol=2).dump(Payload(marker))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", body.getvalue())
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def pickles(bench: Bench) -> Iterator[Change]:
    """Weights as pickles, for each place, with the settings that once made them run."""
    places = [
        ("whole", "model.safetensors", "pytorch_model.bin"),
        ("adapter", "adapter_model.safetensors", "adapter_model.bin"),
        ("whole", "1_Dense/model.safetensors", "1_Dense/pytorch_model.bin"),
    ]
    tricks: dict[str, dict[str, Any]] = {
        "plain": {}, "model_kwargs": {"model_kwargs": {"weights_only": False, "dtype": "auto"}},
        "model_args": {"model_args": {"weights_only": False, "use_safetensors": False}},
    }  # fmt: skip
    for name, weights, file in places:
        for trick, values in tricks.items():
            for stays in (False, True):

                def change(folder: Path, w: str = weights, f: str = file, v: Any = values,
                           stays: bool = stays) -> None:  # fmt: skip
                    if not stays:
                        (folder / w).unlink()
                    pickled(folder / f, bench.marker)
                    if v:
                        edit(TRANSFORMER, **v)(folder)

                yield f"{file}, {trick}, weights stay: {stays}", name, change, stays and not values
    for file in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "a.pkl"):
        yield file, "adapter", lambda folder, f=file: pickled(folder / f, bench.marker), True


def settings() -> Iterator[Change]:
    """Values of configurations that once reached from_pretrained, and code by name."""
    offload = {"device_map": {"": "disk"}, "offload_folder": "../written"}
    for name in ("whole", "adapter"):
        for key in (
            "model_kwargs", "processor_kwargs", "config_kwargs", "model_args", "tokenizer_args",
            "config_args", "tokenizer_name_or_path", "backend", "trust_remote_code", "backbone",
            "processing_kwargs", "anything_new",
        ):  # fmt: skip
            yield f"{key}, {name}", name, edit(TRANSFORMER, **{key: offload}), False
        for key in ("r_q", "r_c", "max_seq_length", "query_length"):
            for value in (0, -1, 1.5, "a", True, [], 10**12, 1e99):
                yield f"{key}={value!r}", name, edit(TRANSFORMER, **{key: value}), False
    for file, name in (("config.json", "whole"), ("adapter_config.json", "adapter")):
        for values in (
            {"attn_implementation": "evil/kernel"}, {"auto_map": {"AutoModel": "evil.Model"}},
            {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}},
            {"configuration_files": ["config.evil.json"]},
            {"text_config": {"_attn_implementation": "evil/kernel"}},
        ):  # fmt: skip
            yield f"{file}: {values}", name, edit(file, **values), False
    for file in ("tokenizer_config.json", "processor_config.json"):
        code = {"auto_map": {"AutoTokenizer": ["evil.T", None], "AutoProcessor": "evil.P"}}
        yield f"{file}: auto_map", "adapter", edit(file, **code), True
    call = {"text": {"method": "save_pretrained", "method_output_name": None}}
    yield "a method of the model", "whole", edit(TRANSFORMER, modality_config=call), False
    for name in (
        TRANSFORMER, "config_sentence_transformers.json", "tokenizer_config.json",
        "2_Normalize/config.json", "1_Dense/config.json", "processor_config.json",
    ):  # fmt: skip
        for text in ("", "[", "[]", "null", "\udcff", "[" * 100_000, '{"a": 1'):
            yield f"{name} is {text[:9]!r}", "whole", write(name, text), False
    yield (
        "prompts of numbers",
        "whole",
        edit("config_sentence_transformers.json", prompts=[1]),
        False,
    )


def modules() -> Iterator[Change]:
    """What modules.json may not name."""
    for kind in ("os.system", "torch.load", "evil.Model", "", "builtins.eval",
                 "sentence_transformers.base.modules.transformer.Transformer.load",
                 "torch.nn.modules.linear.Linear"):  # fmt: skip
        yield f"class {kind}", "whole", edit_module(1, type=kind), False
    for path in ("/etc", "../../x", "..", "a/b", "1_Dense\x00", "\\\\host\\x", "", "."):
        yield f"path {path!r}", "whole", edit_module(1, path=path), False
    for name in ("0", "a.b", "forward", "", "-1"):
        yield f"name {name!r}", "whole", edit_module(1, name=name), False
    for text in ("", "[", "{}", "[]", "[1]", '[{"type": 3}]', "\udcff", "[" * 100_000, "null"):
        yield f"modules.json is {text[:9]!r}", "whole", write("modules.json", text), False
    for value in ("torch.nn.modules.linear.Linear", "evil.f", 3, None, ["a"]):
        change = edit("1_Dense/config.json", activation_function=value)
        yield f"activation {value!r}", "whole", change, False


def edit_module(index: int, **values: Any) -> Callable[[Path], None]:
    """Change an entry of modules.json."""

    def change(folder: Path) -> None:
        file = folder / "modules.json"
        listing = json.loads(file.read_text())
        listing[index].update(values)
        file.write_text(json.dumps(listing))

    return change


def adapters() -> Iterator[Change]:
    """What adapter_config.json may not say."""
    tokens = "trainable_token_indices"
    values: list[dict[str, Any]] = [
        {"r": 1_000_000}, {"r": 0}, {"r": "2"}, {"lora_alpha": float("nan")}, {"lora_dropout": 2},
        {"peft_type": "PROMPT_TUNING"}, {"peft_type": 3}, {"megatron_config": {"a": 1}},
        {"modules_to_save": ["visual"]}, {"use_dora": True}, {"base_model_name_or_path": None},
        {"base_model_name_or_path": 7}, {"base_model_name_or_path": "/etc"},
        {"base_model_name_or_path": "."}, {"base_model_name_or_path": "no/such"},
        {"rank_pattern": {"(.*.*)*x": 9}}, {"alpha_pattern": {"a": "b"}},
        {"loftq_config": {"a": 1}},
        {"init_lora_weights": "pissa"}, {"layer_replication": [[0, 9999]]}, {"bias": "all"},
        {tokens: {"language_model.embed_tokens": ["a"]}}, {tokens: [1]}, {tokens: 3},
        {tokens: {"language_model.embed_tokens": [10**9]}},
    ]  # fmt: skip
    for value in values:
        yield str(value), "adapter", edit("adapter_config.json", **value), False
    yield "a task that nobody knows", "adapter", edit("adapter_config.json", task_type="EVIL"), True
    pattern = edit("adapter_config.json", target_modules="(.*.*)*x")
    yield "a pattern that runs for ever", "adapter", pattern, True
    for text in ("", "[]", "{", "\udcff"):
        yield f"the file is {text!r}", "adapter", write("adapter_config.json", text), False


def templates() -> Iterator[Change]:
    """Chat templates, in their own file."""
    for i, text in enumerate(GROWING):
        yield f"template {i}: {text[:60]}", "whole", write("chat_template.jinja", text), False
    for i, text in enumerate(GROWING[:4]):
        change = edit("tokenizer_config.json", chat_template=text)
        yield f"template {i} in tokenizer_config.json", "whole", change, False


def links() -> Iterator[Change]:
    """Devices, pipes and loops, as an archive can bring them along."""
    for name in (TRANSFORMER, "modules.json", "chat_template.jinja", "tokenizer.json",
                 "config.json", "1_Dense/config.json"):  # fmt: skip
        for target in ("/dev/zero", "/proc/self/mem", "itself", "a pipe", "a folder"):

            def change(folder: Path, name: str = name, target: str = target) -> None:
                file = folder / name
                file.unlink()
                if target == "a pipe":
                    os.mkfifo(file)
                elif target == "a folder":
                    file.mkdir()
                    (file / "a").write_text("a")
                else:
                    file.symlink_to(file if target == "itself" else target)

            yield f"{name}: {target}", "whole", change, False


def weights() -> Iterator[Change]:
    """Weights that do not fit the configuration, in safetensors."""
    from safetensors.torch import load_file, save_file

    def change_tensors(
        name: str, change: Callable[[dict[str, Any]], Any]
    ) -> Callable[[Path], None]:
        def apply(folder: Path) -> None:
            tensors = load_file(folder / name)
            change(tensors)
            save_file(tensors, folder / name, metadata={"format": "pt"})

        return apply

    def rename(tensors: dict[str, Any]) -> None:
        for key in sorted(tensors):
            tensors[f"x.{key}"] = tensors.pop(key)

    def drop_half(tensors: dict[str, Any]) -> None:
        for key in sorted(tensors)[::2]:
            del tensors[key]

    def nan(tensors: dict[str, Any]) -> None:
        next(iter(tensors.values())).view(-1)[0] = torch.nan

    def add(tensors: dict[str, Any]) -> None:
        tensors["evil.weight"] = torch.zeros(1)

    def reshape(tensors: dict[str, Any]) -> None:
        key = sorted(tensors)[0]
        tensors[key] = torch.zeros(3, 3)

    files = {
        "adapter": ["adapter_model.safetensors", "1_Dense/model.safetensors"],
        "whole": ["model.safetensors", "1_Dense/model.safetensors"],
    }
    for model, names in files.items():
        for name in names:
            for function in (rename, drop_half, nan, add, reshape):
                yield f"{name}: {function.__name__}", model, change_tensors(name, function), False
            for text in ("", "{}", "\0" * 99, "PK"):
                yield f"{name} is {text[:4]!r}", model, write(name, text), False
            yield f"{name} is missing", model, lambda folder, n=name: (folder / n).unlink(), False
    for name in ("whole", "adapter"):
        for values in ({"r_q": 3}, {"r_c": 2}, {"r_q": 1}, {"layout": "interleaved"}):
            yield f"{values}, {name}", name, edit(TRANSFORMER, **values), False
