"""Downloads models from a hub and uploads them. Only file types that a model consists of."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path

from metaembed_lite.model_card import describe_origin
from metaembed_lite.model_folder import (
    ADAPTER_CONFIG,
    NOTES,
    check_hashes,
    is_finished,
    read_json,
    read_marker,
    write_marker,
)

# No code and no pickles: what a saved model or a backbone in safetensors consists of.
FETCHED = (
    "*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md", "recipe.yaml",
    "training_curve.csv",
)  # fmt: skip


def fetch(name: str, kind: str, bundled: tuple[str, ...]) -> Path:
    """The local copy of a hub's repository, downloaded if it is not local yet.

    Args:
        name: owner/name on the hub.
        kind: "model" or "backbone", for the error.
        bundled: names of the bundled ones, for the error.

    Raises:
        OSError: if it cannot be downloaded.

    Example:
        >>> fetch("Qwen/Qwen2.5-VL-3B-Instruct", "backbone", ("tiny-vlm",))  # doctest: +SKIP
        PosixPath('.../snapshots/66285546d2b821cf421d4f5eb2576359d3770cd3')
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except Exception as error:
        raise OSError(unreachable(name, kind, bundled)) from error


def unreachable(name: str, kind: str, bundled: tuple[str, ...]) -> str:
    """The error message for a name that is neither local, bundled nor on the hub.

    The arguments are those of ``fetch``.

    Example:
        >>> unreachable("my/model", "model", ("tiny",))  # doctest: +ELLIPSIS
        "model 'my/model' is neither a local folder nor bundled (tiny), and it could not be ...
    """
    return (
        f"{kind} {name!r} is neither a local folder nor bundled ({', '.join(bundled)}), and it "
        "could not be downloaded from the hub. "
        "Check the spelling and the connection, or give the path of a local copy"
    )


def files_to_push(folder: Path, name: str, backbone: str | None = None) -> list[str]:
    """The files of a saved model that ``push`` uploads, relative to its folder.

    Args:
        folder: the folder of the saved model.
        name: owner/name on the hub.
        backbone: the model's backbone, as owner/name on the hub. Defaults to the one that the
            model names.

    Raises:
        FileNotFoundError: if the folder holds no saved model.
        ValueError: if ``name`` is not owner/name, a file is damaged, or the model names a backbone
            on this machine and ``backbone`` is not given.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import load, save
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     save(load("tiny", device="cpu"), Path(parent) / "model")
        ...     files_to_push(Path(parent) / "model", "you/model")[:3]
        ['1_Normalize/config.json', 'README.md', 'adapter_config.json']
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise ValueError(f"{name!r}: name the repository as owner/name")
    if not is_finished(folder):
        raise FileNotFoundError(f"{folder} has no modules.json, so it is not a saved model")
    hashes = read_marker(folder)
    if hashes is None:
        raise ValueError(
            f"{folder} was not written by metaembed_lite.save, so the files of the model are not "
            "known: load it and save it to a new folder"
        )
    check_hashes(folder)
    has_adapter = (folder / ADAPTER_CONFIG).is_file()
    if backbone is not None and not has_adapter:
        raise ValueError(
            f"{folder} holds all its weights and needs no backbone: leave --backbone out"
        )
    if backbone is None and has_adapter:
        base = read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"]
        if Path(base).is_absolute():
            raise ValueError(
                f"{folder}: the backbone is the folder {base!r}, which exists on this machine "
                "only: give its name on the hub with --backbone owner/name"
            )
    return sorted([*hashes, *(note for note in NOTES if (folder / note).is_file())])


def push(
    folder: Path, name: str, files: list[str], *, private: bool, backbone: str | None = None
) -> None:
    """Upload only the listed files of a saved model.

    Args:
        folder: the folder of the saved model.
        name: owner/name on the hub.
        files: from ``files_to_push``.
        private: whether only the owner can see the repository.
        backbone: the model's backbone, as owner/name on the hub. Defaults to the one that the
            model names.

    Raises:
        OSError: if the upload fails.

    Example:
        >>> folder = Path("my-model")
        >>> push(folder, "you/model", ["modules.json"], private=True)  # doctest: +SKIP
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            target = Path(scratch) / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, target)
        if backbone is not None:
            config = read_json(Path(scratch) / ADAPTER_CONFIG)
            config["base_model_name_or_path"] = backbone
            (Path(scratch) / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
            write_marker(Path(scratch))
            if "README.md" in files:
                describe_origin(scratch)
        try:
            api = HfApi()
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(repo_id=name, folder_path=scratch)
        except Exception as error:
            raise OSError(
                f"{name} was not uploaded: {error}. Check the connection and the login"
            ) from error
