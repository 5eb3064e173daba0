"""The checkpoints that ship with the package, found by name wherever the package is installed.

``SHA256SUMS`` beside this file holds a hash of every weights file, in the format of ``sha256sum``;
a checkpoint is checked against it when it is first asked for. ``write_sums()`` writes it anew,
after a checkpoint was trained again.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

BACKBONES = ("tiny-vlm",)  # what build() starts from
# what load() gives: name -> folder
MODELS = {"tiny": "tiny-handwriting", "tiny-scenes": "tiny-scenes"}
PREFIX = "metaembed_lite/"  # how an adapter names a shipped backbone, instead of a path
HERE = Path(__file__).parent
SUMS = HERE / "SHA256SUMS"


def folder(name: str) -> Path | None:
    """The folder of a shipped backbone or model, or None if nothing by that name ships.

    Raises:
        OSError: if a weights file in it is missing or is not the one that was shipped.
    """
    name = name.removeprefix(PREFIX)
    if name in BACKBONES:
        return _verified(HERE / name)
    if name in MODELS:
        return _verified(HERE / MODELS[name])
    return None


def portable_name(path: str) -> str:
    """A shipped backbone's name instead of its path on this machine; any other path as it is."""
    return next((PREFIX + name for name in BACKBONES if str(HERE / name) == path), path)


@cache
def _verified(path: Path) -> Path:
    for line in SUMS.read_text().splitlines():
        digest, file = line.split(maxsplit=1)
        if path in (HERE / file).parents:
            found = _sha256(HERE / file) if (HERE / file).is_file() else "missing"
            if found != digest:
                raise OSError(
                    f"{HERE / file}: SHA-256 is {found}, shipped was {digest}: install "
                    "metaembed-lite again"
                )
    return path


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_sums() -> None:
    """Write ``SHA256SUMS`` from the weights files that are there."""
    files = sorted(HERE.rglob("*.safetensors"))
    SUMS.write_text("".join(f"{_sha256(f)}  {f.relative_to(HERE).as_posix()}\n" for f in files))
