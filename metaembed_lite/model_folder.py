"""The folder of a saved model: its files, and how it is written whole or not at all.

A saved model's folder holds a marker file with the SHA-256 of every file that ``load`` reads. With
it, damage is found before anything is loaded, and a folder is replaced only if nothing else is in
it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MARKER = "metaembed_lite.json"
MODULES = "modules.json"  # sentence-transformers' name
ADAPTER_CONFIG = "adapter_config.json"  # peft's name
CHECKPOINTS = "checkpoints"  # of training, below the folder of the model that it makes
WHOLE = "whole.json"  # in a checkpoint: the size of each of its files, written last
RUN = "run.json"  # in CHECKPOINTS: the settings of the run that wrote them
# These are written or changed after the model is saved, so they are not hashed.
NOTES = frozenset({MARKER, "README.md", "recipe.yaml", "training_curve.csv"})
LARGEST_JSON = 64 * 2**20  # bytes; tokenizers have up to 35 million
CHECKPOINT = re.compile(r"checkpoint-\d+")


def files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted, relative to it; training checkpoints are left out."""
    listed = []
    for parent, folders, names in os.walk(folder):
        at = Path(parent).relative_to(folder)
        if at == Path() and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        linked = [name for name in folders if (folder / at / name).is_symlink()]
        listed += [at / name for name in [*names, *linked]]
    return sorted(listed)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as ``sha256sum`` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_marker(folder: Path) -> None:
    """List every file of a saved model in its marker file, with its SHA-256."""
    from metaembed_lite import __version__

    hashes = {
        file.as_posix(): sha256(folder / file)
        for file in files(folder)
        if file.as_posix() not in NOTES
    }
    content = {"metaembed_lite": __version__, "sha256": hashes}
    (folder / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_marker(folder: Path) -> dict[str, str] | None:
    """The hashes of a saved model's files, by name; None if the folder has no marker file.

    Raises:
        ValueError: if the marker file is damaged.
    """
    file = folder / MARKER
    if not file.is_file():
        return None
    hashes = read_json(file).get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        raise ValueError(f"{file} lists no files: it is damaged; save the model again")
    return hashes


def read_json(file: Path, kind: type = dict) -> Any:
    """A JSON object, or a value of another kind, from a file.

    Raises:
        FileNotFoundError, ValueError: that name the file, if it is missing or holds something else.
    """
    if file.exists() and not (file.is_file() and file.stat().st_size <= LARGEST_JSON):
        raise ValueError(f"{file} is not a file of at most {LARGEST_JSON:,} bytes: it is refused")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing: the saved model is not whole") from error
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8
        raise ValueError(f"{file} is not JSON ({error}): it is damaged") from error
    if not isinstance(content, kind):
        raise ValueError(
            f"{file} holds a {type(content).__name__}, not a {kind.__name__}: it is damaged"
        )
    return content


def check_hashes(folder: Path) -> None:
    """Compare a saved model with its marker file, if it has one.

    Raises:
        ValueError: naming the file that is missing, was changed, or is not listed.
    """
    hashes = read_marker(folder)
    if hashes is None:
        return
    there = {file.as_posix() for file in files(folder)} - NOTES
    for name in sorted(hashes.keys() | there):
        if name not in there:
            raise ValueError(f"{folder / name} is missing: the saved model is not whole")
        if name not in hashes and _is_read(name):
            raise ValueError(
                f"{folder / name} was not saved with the model, and {MARKER} does not list it: "
                "move it out of the folder"
            )
        if name in hashes and sha256(folder / name) != hashes[name]:
            raise ValueError(
                f"{folder / name} is not the file that was saved: its SHA-256 differs from the one "
                f"in {MARKER}. It is damaged, or was edited; save or fetch the model again"
            )


def _is_read(name: str) -> bool:
    """Whether loading a model could read a file of this name."""
    suffixes = (".json", ".safetensors", ".jinja", ".model", "vocab.txt", "merges.txt")
    return name.endswith(suffixes) and not name.startswith(".")


def strange_entry(folder: Path) -> str | None:
    """The first entry of a folder that this project did not write; None if there is none."""
    try:
        hashes = read_marker(folder)
    except ValueError:
        return f"{MARKER} (damaged)"
    known = hashes.keys() | NOTES if hashes else set()
    for file in files(folder):
        if file.as_posix() not in known or (folder / file).is_symlink():
            return file.as_posix()
    for parent, folders, names in os.walk(folder):
        at = Path(parent).relative_to(folder)
        if not folders and not names and at.parts[:1] not in ((), (CHECKPOINTS,)):
            return f"{at.as_posix()}/"
    return strange_checkpoint(folder / CHECKPOINTS)


def strange_checkpoint(checkpoints: Path) -> str | None:
    """The first entry of a folder of checkpoints that ``train`` did not write, if there is one."""
    if not os.path.lexists(checkpoints):
        return None
    if checkpoints.is_symlink() or not checkpoints.is_dir():
        return CHECKPOINTS
    marked = (checkpoints / RUN).is_file()
    for path in sorted(checkpoints.iterdir()):
        if path.name == RUN or path.name.startswith(f".{RUN}."):  # the latter of a killed process
            continue
        if not (CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()):
            return f"{CHECKPOINTS}/{path.name}"
        if not marked:
            return f"{CHECKPOINTS} (without the {RUN} that train writes)"
        strange = _strange_in_checkpoint(path)
        if strange is not None:
            return f"{CHECKPOINTS}/{path.name}/{strange}"
    return None


def _strange_in_checkpoint(checkpoint: Path) -> str | None:
    """The first file that was put into a whole checkpoint later, if there is one."""
    try:
        sizes = read_json(checkpoint / WHOLE)
    except (OSError, ValueError):
        return None  # it is not whole, and nothing says what was written
    listed = {*sizes, WHOLE}
    names = (path.as_posix() for path in files(checkpoint))
    return next((name for name in names if name not in listed), None)


def check_output(folder: Path) -> None:
    """Check that a model may be written to a folder.

    Raises:
        ValueError: unless it does not exist, is empty, or holds only what this project wrote.
    """
    refused = f"output {str(folder)!r}"
    remedy = "name a new folder for the model"
    if not os.path.lexists(folder):
        return
    if folder.is_symlink():
        raise ValueError(f"{refused} is a symbolic link to {os.readlink(folder)!r}: {remedy}")
    if not folder.is_dir():
        raise ValueError(f"{refused} is {_kind(folder)}, not a folder: {remedy}")
    is_mount = folder.resolve().is_mount()
    if is_mount or folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        what = "a mount point" if is_mount else "the current folder, or one above it"
        raise ValueError(f"{refused} is {what} and cannot be replaced: {remedy}")
    strange = strange_entry(folder)
    if strange is not None:
        raise ValueError(
            f"{refused} holds {strange}, which metaembed_lite did not write and which would be "
            f"lost: {remedy}"
        )


def _kind(path: Path) -> str:
    mode = path.stat().st_mode
    kinds = {
        "a file": stat.S_ISREG, "a device": stat.S_ISCHR, "a disk": stat.S_ISBLK,
        "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK,
    }  # fmt: skip
    return next((kind for kind, test in kinds.items() if test(mode)), "something else")


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a saved model."""
    return (folder / MODULES).is_file()


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to write a model to, which takes the folder's place at the end.

    Until then the folder is as it was, also after an error. Training checkpoints below it stay. A
    process that dies between the two renames is repaired by ``recover``, which comes first here.

    Raises:
        ValueError: if the folder holds anything that this project did not write.
    """
    recover(folder)
    check_output(folder)
    stage = staging(folder)
    new, old = stage / "new", stage / "old"
    new.mkdir(parents=True)
    try:
        yield new
        write_marker(new)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
    finally:
        recover(folder)


def staging(folder: Path) -> Path:
    """Where a model is written before it takes a folder's place, on the same disk."""
    return folder.parent / f".{folder.name}.saving"


def interrupted(folder: Path) -> bool:
    """Whether a save to a folder was cut off while the folder was away."""
    return not folder.exists() and (staging(folder) / "old").is_dir()


def recover(folder: Path) -> None:
    """Finish or undo a save that was cut off, and remove what it left behind."""
    stage = staging(folder)
    if not os.path.lexists(stage):
        return
    if not stage.is_dir() or stage.is_symlink():
        raise ValueError(f"{stage} is in the way of saving {folder}: move it away")
    new, old = stage / "new", stage / "old"
    if not folder.exists() and (new / MARKER).is_file():  # cut off before the last rename
        os.replace(new, folder)
    elif not folder.exists() and old.is_dir():
        os.replace(old, folder)
    if (old / CHECKPOINTS).is_dir() and not (folder / CHECKPOINTS).exists():
        os.replace(old / CHECKPOINTS, folder / CHECKPOINTS)
    unknown = {path.name for path in stage.iterdir()} - {"new", "old"}
    if unknown:
        raise ValueError(
            f"{stage} holds {sorted(unknown)[0]}, which metaembed_lite did not write: move it away"
        )
    if old.is_dir() and strange_entry(old) is not None:  # it came while the model was written
        raise ValueError(
            f"{old} holds {strange_entry(old)}, which appeared while the model was saved: move it "
            "away, then remove the folder"
        )
    shutil.rmtree(stage)
