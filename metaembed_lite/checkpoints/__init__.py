"""The checkpoints that ship with the package, found by name wherever the package is installed.

``SHA256SUMS`` in this folder holds the hash of every file of every checkpoint, in the format of
``sha256sum``. A checkpoint is checked against it when it is first used; a file that was changed, is
missing or is not listed is an error. ``write_sums()`` writes the list after a new training.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from metaembed_lite.model_folder import sha256

BACKBONES = ("tiny-vlm",)  # what build() starts from
# what load() gives: name -> folder
MODELS = {"tiny": "tiny-handwriting", "tiny-scenes": "tiny-scenes"}
PREFIX = "metaembed_lite/"  # how an adapter names a shipped backbone, instead of a path
HERE = Path(__file__).parent
SUMS = HERE / "SHA256SUMS"
REMEDY = "install metaembed-lite again"


def folder(name: str) -> Path | None:
    """The folder of a shipped backbone or model, or None if nothing by that name ships.

    Raises:
        OSError: if a file in it is missing, not listed, or not the one that was shipped.
    """
    name = name.removeprefix(PREFIX)
    if name in BACKBONES:
        return _verified(HERE / name)
    if name in MODELS:
        return _verified(HERE / MODELS[name])
    return None


def portable_name(path: str) -> str:
    """How an adapter names its backbone: a bundled name, a folder's whole path, or a hub id."""
    if Path(path).is_dir():
        bundled = (PREFIX + name for name in BACKBONES if HERE / name == Path(path))
        return next(bundled, str(Path(path).resolve()))
    return path


@cache
def _verified(path: Path) -> Path:
    listed = _listed(path)
    there = {file.relative_to(HERE).as_posix() for file in _files(path)}
    for name in sorted(listed.keys() | there):
        if name not in listed:
            raise OSError(f"{HERE / name} is not listed in {SUMS.name}: {REMEDY}")
        if name not in there:
            raise OSError(f"{HERE / name} is missing: {REMEDY}")
        if sha256(HERE / name) != listed[name]:
            raise OSError(f"{HERE / name}: its SHA-256 is not the one in {SUMS.name}: {REMEDY}")
    return path


def _listed(path: Path) -> dict[str, str]:
    """The hashes of a checkpoint's files, by name relative to ``HERE``."""
    lines = SUMS.read_text(encoding="utf-8").splitlines() if SUMS.is_file() else []
    named = dict(line.split(maxsplit=1)[::-1] for line in lines if len(line.split()) == 2)
    listed = {name: digest for name, digest in named.items() if path in (HERE / name).parents}
    if not listed:
        raise OSError(f"{SUMS} lists no file of {path.name}: {REMEDY}")
    return listed


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts)


def write_sums() -> None:
    """Write ``SHA256SUMS`` from the files of the checkpoints that are there."""
    folders = sorted({*BACKBONES, *MODELS.values()})
    lines = [
        f"{sha256(file)}  {file.relative_to(HERE).as_posix()}\n"
        for name in folders
        for file in _files(HERE / name)
    ]
    SUMS.write_text("".join(lines), encoding="utf-8")
