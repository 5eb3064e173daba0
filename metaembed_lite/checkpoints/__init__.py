"""The checkpoints that ship with the package, found by name wherever the package is installed."""

from __future__ import annotations

from pathlib import Path

BACKBONES = ("tiny-vlm",)  # what build() starts from
MODELS = {"tiny": "tiny-handwriting"}  # what load() gives: name -> folder
PREFIX = "metaembed_lite/"  # how an adapter names a shipped backbone, instead of a path


def folder(name: str) -> Path | None:
    """The folder of a shipped backbone or model, or None if nothing by that name ships."""
    name = name.removeprefix(PREFIX)
    if name in BACKBONES:
        return Path(__file__).parent / name
    if name in MODELS:
        return Path(__file__).parent / MODELS[name]
    return None


def portable_name(path: str) -> str:
    """A shipped backbone's name instead of its path on this machine; any other path as it is."""
    return next((PREFIX + name for name in BACKBONES if str(folder(name)) == path), path)
