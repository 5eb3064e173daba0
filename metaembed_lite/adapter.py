"""Loads a LoRA adapter onto its backbone, and checks what its configuration may say.

A configuration is untrusted data. Only the settings that ``build`` makes are read from it. The
names of the adapted layers come from the weights, so no pattern of a checkpoint is ever run.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from sentence_transformers.base.modality import InputFormatter
from sentence_transformers.base.modules import Transformer
from torch import nn
from transformers import AutoProcessor

from metaembed_lite import checkpoints, hub
from metaembed_lite.model_folder import ADAPTER_CONFIG as CONFIG
from metaembed_lite.model_folder import MODULES, read_json
from metaembed_lite.scoring import at_least_float32

WEIGHTS = "adapter_model.safetensors"  # peft's name
PREFIX = "base_model.model."
READ = {"r", "lora_alpha", "lora_dropout", "trainable_token_indices"}
IGNORED = {  # does not change the vectors, or is read from the weights instead
    "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision",
    "target_modules", "task_type",
}  # fmt: skip


class AdapterTransformer(Transformer):
    """sentence-transformers' ``Transformer``, which reads adapters and saved models as data.

    An adapter names its backbone: a bundled one, a folder or a hub id. A hub's backbone is
    downloaded without code or pickles. Every tensor of a saved model must be present.

    Args:
        model_name_or_path: a hub id, a folder, or a bundled backbone ("tiny-vlm").
        backbone: the backbone of a saved adapter, if it has moved. Defaults to the one that the
            adapter names.
        **kwargs: those of sentence-transformers' ``Transformer``.

    Example:
        >>> transformer = AdapterTransformer("tiny-vlm")
        >>> transformer.get_embedding_dimension()
        128
    """

    def __init__(
        self, model_name_or_path: str, *, backbone: str | None = None, **kwargs: Any
    ) -> None:
        folder = str(checkpoints.folder(model_name_or_path) or model_name_or_path)
        adapter_config = read_config(folder)
        if adapter_config is None:
            super().__init__(folder, **kwargs)
            self.backbone_name = backbone or checkpoints.portable_name(folder)
            if _is_saved_here(Path(folder)):
                self._check_complete(folder, kwargs.get("model_kwargs") or {})
            return
        name = backbone or backbone_name(adapter_config, folder)
        super().__init__(plain_backbone_folder(name), **_settings_of_backbone(kwargs))
        self.backbone_name = name
        load_adapter(self.model, Path(folder), adapter_config)
        self._read_processor(folder, kwargs)

    def _read_processor(self, folder: str, kwargs: dict[str, Any]) -> None:
        """Replace the backbone's processor by the adapter's, and what follows from it.

        This repeats what ``Transformer`` does with a processor. ``do_lower_case`` is not repeated,
        because it is part of the saved tokenizer.
        """
        settings = dict(kwargs.get("processor_kwargs") or {})
        if kwargs.get("max_seq_length") is not None:
            settings.setdefault("model_max_length", kwargs["max_seq_length"])
        self.processor = AutoProcessor.from_pretrained(folder, **settings)
        positions = getattr(self.config, "max_position_embeddings", -1)
        if self.tokenizer is not None and "model_max_length" not in settings and positions != -1:
            self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, positions)
        modalities = kwargs.get("modality_config")
        self.input_formatter = InputFormatter(
            model_type=self.config.model_type,
            message_format=(modalities or {}).get("message", {}).get("format", "auto"),
            processor=self.processor,
        )
        if modalities is None:
            inferred = self.infer_modalities(self.model, self.processor)
            self.modality_config, self.module_output_name = inferred
        self.input_formatter.supported_modalities = list(self.modality_config)
        self.query_expansion = kwargs.get("query_expansion")  # checked against the tokenizer

    def _check_complete(self, folder: str, model_kwargs: dict[str, Any]) -> None:
        """Check that the weights of a saved model are exactly those of its class.

        The model is made once more without data: on the meta device no tensor is read.
        """
        _, report = type(self.model).from_pretrained(
            folder,
            subfolder=model_kwargs.get("subfolder", ""),
            use_safetensors=model_kwargs.get("use_safetensors"),
            local_files_only=True,
            device_map="meta",
            output_loading_info=True,
        )
        check_fit(report, Path(folder) / "model.safetensors")

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save as sentence-transformers does. A bundled backbone is named without its path."""
        super().save(output_path, *args, **kwargs)
        config = read_config(output_path)
        if config is not None:
            config["base_model_name_or_path"] = self.backbone_name
            (Path(output_path) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _settings_of_backbone(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an adapter's ``Transformer`` that hold for its backbone too."""
    settings = {**kwargs, "query_expansion": None}  # it may name a token of the adapter
    for key in {"model_kwargs", "processor_kwargs", "config_kwargs"} & kwargs.keys():
        values = kwargs[key] or {}
        # Revision and subfolder say where the adapter is.
        settings[key] = {k: v for k, v in values.items() if k not in ("revision", "subfolder")}
    return settings


def _is_saved_here(folder: Path) -> bool:
    """Whether a folder holds a model of this package, and not any other backbone."""
    listing = folder / MODULES
    return listing.is_file() and '"metaembed_lite.' in listing.read_text(encoding="utf-8")


def read_config(folder: str | Path) -> dict[str, Any] | None:
    """The configuration of the adapter in a local folder. None if there is none.

    Example:
        >>> read_config(checkpoints.HERE / "tiny")["peft_type"]
        'LORA'
        >>> read_config(checkpoints.HERE / "tiny-vlm") is None
        True
    """
    file = Path(folder) / CONFIG
    return read_json(file) if file.is_file() else None


def backbone_name(config: dict[str, Any], folder: str | Path) -> str:
    """The backbone that an adapter names: a bundled one, a folder, or a hub id.

    Args:
        config: the adapter's configuration.
        folder: the folder of the adapter, for the error.

    Raises:
        ValueError: if it names none.

    Example:
        >>> backbone_name({"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct"}, "my-model")
        'Qwen/Qwen2.5-VL-3B-Instruct'
    """
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{Path(folder) / CONFIG}: base_model_name_or_path is {name!r}, not a backbone; "
            "expected a folder or a hub id"
        )
    return name


def backbone_folder(name: str) -> str:
    """The folder of an adapter's backbone. A hub's backbone is downloaded if it is not local yet.

    Args:
        name: a bundled backbone, a folder, or a hub id.

    Raises:
        FileNotFoundError: if it was a local folder and no longer exists.
        OSError: if it cannot be downloaded.

    Example:
        >>> Path(backbone_folder("metaembed_lite/tiny-vlm")).name
        'tiny-vlm'
    """
    bundled = checkpoints.folder(name)
    if bundled is not None or Path(name).is_dir():
        return str(bundled or name)
    if Path(name).is_absolute() or name.count("/") != 1 or name.startswith("."):
        raise FileNotFoundError(
            f"the model's backbone was the folder {name!r}, which does not exist: give its new "
            "path with load(path, backbone=...)"
        )
    return str(hub.fetch(name, "backbone", checkpoints.BACKBONES))


def plain_backbone_folder(name: str) -> str:
    """``backbone_folder``, checked to hold no adapter and to name no code.

    Raises:
        ValueError: if it holds an adapter or names code.

    Example:
        >>> plain_backbone_folder("metaembed_lite/tiny")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: the backbone ...tiny is itself an adapter: it holds ...
    """
    base = backbone_folder(name)
    if (Path(base) / CONFIG).is_file():
        raise ValueError(f"the backbone {base} is itself an adapter: it holds {CONFIG}")
    check_no_code(Path(base), auto_map=False)
    return base


def check_no_code(folder: Path, auto_map: bool = True) -> None:
    """Refuse configurations of a model that name code or other configuration files.

    Args:
        folder: the folder of the model.
        auto_map: whether to refuse classes of a repository too. A backbone may name them, because
            they are not used without ``trust_remote_code``. Defaults to True.

    Raises:
        ValueError: naming the file and the setting.

    Example:
        >>> check_no_code(checkpoints.HERE / "tiny-vlm")
    """
    for file in (folder / "config.json", folder / CONFIG):
        if file.is_file():
            _check_no_code(read_json(file), file, auto_map)


def _check_no_code(config: Any, file: Path, auto_map: bool) -> None:
    nested = list(config.values()) if isinstance(config, dict) else config
    if isinstance(config, dict):
        for key, value in config.items():
            kernel = key.endswith("_implementation") and "/" in str(value)
            classes = auto_map and key in ("auto_map", "auto_mapping") and value
            if kernel or classes or key == "configuration_files":
                raise ValueError(f"{file}: {key} is {value!r}, which names code or files: refused")
    for value in nested:
        if isinstance(value, dict | list):
            _check_no_code(value, file, auto_map)


def load_adapter(backbone: Any, folder: Path, config: dict[str, Any]) -> None:
    """Add the adapter of a folder to a backbone, in float32 and ready to train further.

    Args:
        backbone: a model of transformers. It is changed in place.
        folder: the folder of the adapter.
        config: from ``read_config``.

    Raises:
        FileNotFoundError: if the adapter has no safetensors file.
        ValueError: on a setting that ``build`` does not make, or weights that do not fit the
            backbone or the configuration.

    Example:
        >>> from metaembed_lite import backbones
        >>> backbone = AdapterTransformer("tiny-vlm").model
        >>> folder = checkpoints.folder("tiny")
        >>> load_adapter(backbone, folder, read_config(folder))
        >>> backbones.describe_adapter(backbone)[:28]
        'LoRA of rank 32 and alpha 32'
    """
    from peft import set_peft_model_state_dict

    file = folder / CONFIG
    weights = read_weights(folder / WEIGHTS)
    lora_config = checked_config(config, weights, file)
    tokens = lora_config.trainable_token_indices or {}
    indices = [index for rows in tokens.values() for index in rows]
    rows = 1 + max(indices, default=0)
    vocabulary_size = backbone.get_input_embeddings().weight.shape[0]
    if rows > vocabulary_size + len(indices):
        raise ValueError(
            f"{file}: token {rows - 1} is far beyond the vocabulary of {vocabulary_size:,}"
        )
    if rows > vocabulary_size:  # the adapter's meta tokens are new
        backbone.resize_token_embeddings(rows, mean_resizing=False)
    try:
        report = backbone.load_adapter(
            peft_config=lora_config, adapter_state_dict=weights, is_trainable=True
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {type(backbone).__name__}, or is damaged: "
            f"{str(error)[:300]}"
        ) from error
    check_fit(report.to_dict(), folder / WEIGHTS)
    keep_trained_exact(backbone)
    exact = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
    set_peft_model_state_dict(backbone, exact)  # load_adapter rounded to the backbone's type


def keep_trained_exact(module: nn.Module) -> None:
    """Convert trainable parameters to at least float32. In half precision small steps are lost.

    Args:
        module: changed in place.

    Example:
        >>> layer = nn.Linear(2, 2).bfloat16()
        >>> keep_trained_exact(layer)
        >>> layer.weight.dtype
        torch.float32
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = at_least_float32(parameter.data)


def read_weights(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file, by name.

    Raises:
        FileNotFoundError: naming the file, if it is missing.
        ValueError: naming the file, if it is damaged.

    Example:
        >>> weights = read_weights(checkpoints.HERE / "tiny" / WEIGHTS)
        >>> sum(".lora_A." in name for name in weights)
        28
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: weights are read from safetensors files only")
    try:
        return load_file(file)
    except Exception as error:  # safetensors' own class, or others if the file is cut off
        raise ValueError(
            f"{file} is not a complete safetensors file ({error}): it is damaged"
        ) from error


def checked_config(config: dict[str, Any], weights: dict[str, Any], file: Path) -> Any:
    """A ``LoraConfig`` from a configuration, with the adapted layers taken from the weights.

    Args:
        config: from ``read_config``.
        weights: from ``read_weights``.
        file: the file of the configuration, for errors.

    Raises:
        ValueError: on a setting that ``build`` does not make, or one that contradicts the weights.

    Example:
        >>> folder = checkpoints.HERE / "tiny"
        >>> config = checked_config(
        ...     read_config(folder), read_weights(folder / WEIGHTS), folder / CONFIG
        ... )
        >>> config.r, len(config.target_modules)
        (32, 28)
    """
    from peft import LoraConfig

    if config.get("peft_type") != "LORA":
        raise ValueError(f"{file}: peft_type is {config.get('peft_type')!r}; only LORA is loaded")
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(LoraConfig)
    }
    for name, value in config.items():
        if name not in READ | IGNORED and value and value != defaults.get(name):
            raise ValueError(
                f"{file}: {name} is {value!r}, which build() never sets and load() does not accept"
            )
    layers = sorted({name.split(".lora_A.")[0] for name in weights if ".lora_A." in name})
    ranks = {tensor.shape[0] for name, tensor in weights.items() if ".lora_A." in name}
    if ranks != {config.get("r")}:
        raise ValueError(f"{file}: r is {config.get('r')!r}, the weights have {sorted(ranks)}")
    settings = {name: config.get(name, defaults[name]) for name in READ}
    _check_numbers(settings, file)
    counts = [len(indices) for indices in (settings["trainable_token_indices"] or {}).values()]
    rows = [len(tensor) for name, tensor in weights.items() if "trainable_tokens" in name]
    if counts != rows:
        raise ValueError(
            f"{file}: trainable_token_indices lists {counts} tokens, the weights have {rows}"
        )
    return LoraConfig(target_modules=[name.removeprefix(PREFIX) for name in layers], **settings)


def _check_numbers(settings: dict[str, Any], file: Path) -> None:
    alpha, dropout = settings["lora_alpha"], settings["lora_dropout"]
    for name, value, fits, expected in (
        ("lora_alpha", alpha, lambda x: 0 < x < 1e6, "above 0"),
        ("lora_dropout", dropout, lambda x: 0 <= x < 1, "from 0 to below 1"),
    ):
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits(value):
            raise ValueError(f"{file}: {name} is {value!r}; expected a number {expected}")
    tokens = settings["trainable_token_indices"] or {}
    lists = tokens.values() if isinstance(tokens, dict) else [None]
    for indices in lists:
        if not isinstance(indices, list) or not all(type(i) is int and i >= 0 for i in indices):
            raise ValueError(f"{file}: trainable_token_indices is not a list of rows per layer")


def check_fit(report: dict[str, Any], file: Path) -> None:
    """Check that loaded weights fit their model.

    Args:
        report: transformers' ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``.
        file: the file of the weights, for the error.

    Raises:
        ValueError: naming the first tensor that is missing, not expected, or of another shape.

    Example:
        >>> report = dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), set())
        >>> check_fit(report, Path("model.safetensors"))
        >>> check_fit({**report, "missing_keys": {"norm.weight"}}, Path("model.safetensors"))
        Traceback (most recent call last):
        ...
        ValueError: model.safetensors lacks the tensor norm.weight (1 in all): it is damaged
    """
    for problem, names in (
        ("lacks the tensor", report["missing_keys"]),
        ("holds a tensor that the model does not have:", report["unexpected_keys"]),
        ("holds a tensor of another shape:", report["mismatched_keys"]),
    ):
        if names:
            name = sorted(map(str, names))[0]
            raise ValueError(f"{file} {problem} {name} ({len(names)} in all): it is damaged")
