"""Finds the bundled checkpoints by name, and checks that their files are complete.

``SHA256SUMS`` in this folder holds the hash of every file of every checkpoint, in the format of
``sha256sum``. A checkpoint is checked when it is first used. A file that was changed, is missing or
is not listed is an error. ``write_sums()`` writes the list after a new training.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from metaembed_lite.model_folder import BUNDLED_PREFIX, sha256

BACKBONES = ("tiny-vlm",)  # for build()
MODELS = ("tiny", "tiny-no-mmr", "tiny-single", "tiny-handwriting")  # for load()
HERE = Path(__file__).parent
SUMS = HERE / "SHA256SUMS"
REMEDY = "install metaembed-lite again"


def folder(name: str) -> Path | None:
    """The folder of a bundled backbone or model, or None if there is none of that name.

    Raises:
        OSError: if a file in it is missing, was changed, or is not listed.

    Example:
        >>> folder("tiny").name
        'tiny'
        >>> folder("huge") is None
        True
    """
    name = name.removeprefix(BUNDLED_PREFIX)
    return _verify(HERE / name) if name in BACKBONES + MODELS else None


def portable_name(path: str) -> str:
    """How an adapter names its backbone: a bundled name, a folder's full path, or a hub id.

    Example:
        >>> portable_name(str(HERE / "tiny-vlm")), portable_name("Qwen/Qwen2.5-VL-3B-Instruct")
        ('metaembed_lite/tiny-vlm', 'Qwen/Qwen2.5-VL-3B-Instruct')
    """
    if Path(path).is_dir():
        bundled = (BUNDLED_PREFIX + name for name in BACKBONES if HERE / name == Path(path))
        return next(bundled, str(Path(path).resolve()))
    return path


@cache
def _verify(path: Path) -> Path:
    hashes = _read_hashes(path)
    present = {file.relative_to(HERE).as_posix() for file in _files(path)}
    for name in sorted(hashes.keys() | present):
        if name not in hashes:
            raise OSError(f"{HERE / name} is not listed in {SUMS.name}: {REMEDY}")
        if name not in present:
            raise OSError(f"{HERE / name} is missing: {REMEDY}")
        if sha256(HERE / name) != hashes[name]:
            raise OSError(f"{HERE / name}: its SHA-256 is not the one in {SUMS.name}: {REMEDY}")
    return path


def _read_hashes(path: Path) -> dict[str, str]:
    """The hashes of a checkpoint's files, by name relative to ``HERE``."""
    lines = SUMS.read_text(encoding="utf-8").splitlines() if SUMS.is_file() else []
    every = dict(line.split(maxsplit=1)[::-1] for line in lines if len(line.split()) == 2)
    hashes = {name: digest for name, digest in every.items() if path in (HERE / name).parents}
    if not hashes:
        raise OSError(f"{SUMS} lists no file of {path.name}: {REMEDY}")
    return hashes


def _files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts)


def write_sums(target: Path | None = None) -> None:
    """Write the hashes of the files of all checkpoints.

    Args:
        target: the file to write. Defaults to ``SHA256SUMS`` in this folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     write_sums(Path(parent, "sums"))
        ...     Path(parent, "sums").read_text() == SUMS.read_text()
        True
    """
    lines = [
        f"{sha256(file)}  {file.relative_to(HERE).as_posix()}\n"
        for name in sorted(BACKBONES + MODELS)
        for file in _files(HERE / name)
    ]
    (target or SUMS).write_text("".join(lines), encoding="utf-8")
