"""The folder of a saved model: its files, and how it is written completely or not at all.

The folder holds a marker file with the SHA-256 of every file that ``load`` reads. So damage is
found before anything is loaded, and a folder that holds other files is never replaced.
"""

from __future__ import annotations

import errno
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

from safetensors import SafetensorError

MARKER = "metaembed_lite.json"
MODULES = "modules.json"  # sentence-transformers' name
ADAPTER_CONFIG = "adapter_config.json"  # peft's name
BUNDLED_PREFIX = "metaembed_lite/"  # of the name of a bundled backbone in it, not a path
CHECKPOINTS = "checkpoints"  # of training, below the folder of the model
WHOLE = "whole.json"  # in a checkpoint, written last: the size of each of its files
RUN = "run.json"  # in CHECKPOINTS: the settings of the training run
LOGS = frozenset({"runs", "emissions.csv"})  # in CHECKPOINTS: of tensorboard and codecarbon
# These are written or changed after the model is saved, so they are not hashed.
NOTES = frozenset({MARKER, "README.md", "recipe.yaml", "training_curve.csv"})
LARGEST_JSON = 64 * 2**20  # bytes, where the largest tokenizers have 35 million
UNWRITABLE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES)
CHECKPOINT = re.compile(r"checkpoint-\d+")


def files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted and relative to it, without training checkpoints.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> [path.as_posix() for path in files(checkpoints.HERE / "tiny-vlm")][:2]
        ['README.md', 'chat_template.jinja']
    """
    paths = []
    for parent, folders, names in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        if relative == Path() and CHECKPOINTS in folders:
            folders.remove(CHECKPOINTS)
        links = [name for name in folders if (folder / relative / name).is_symlink()]
        paths += [relative / name for name in [*names, *links]]
    return sorted(paths)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as ``sha256sum`` prints it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "empty").write_bytes(b"")
        ...     sha256(Path(folder, "empty"))[:12]
        'e3b0c44298fc'
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_marker(folder: Path) -> None:
    """Write the marker file of a saved model: the SHA-256 of every file by name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / MODULES).write_text("[]")
        ...     write_marker(folder)
        ...     list(read_marker(folder))
        ['modules.json']
    """
    from metaembed_lite import __version__

    hashes = {
        file.as_posix(): sha256(folder / file)
        for file in files(folder)
        if file.as_posix() not in NOTES
    }
    content = {"metaembed_lite": __version__, "sha256": hashes}
    (folder / MARKER).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_marker(folder: Path) -> dict[str, str] | None:
    """The hashes of a saved model's files by name, or None if the folder has no marker file.

    Raises:
        ValueError: if the marker file is damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(read_marker(Path(folder)))
        None
    """
    file = folder / MARKER
    if not file.is_file():
        return None
    hashes = read_json(file).get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        raise ValueError(f"{file} lists no files, so it is damaged: save the model again")
    return hashes


def read_json(file: Path, kind: type = dict) -> Any:
    """The JSON value of a file.

    Args:
        file: a file of at most ``LARGEST_JSON`` bytes.
        kind: the type of the value. Defaults to dict, a JSON object.

    Raises:
        FileNotFoundError: naming the file, if it is missing.
        OSError: naming the file, if it cannot be read.
        ValueError: naming the file, if it holds something else.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> read_json(checkpoints.HERE / "tiny-vlm" / "config.json")["model_type"]
        'qwen2_5_vl'
    """
    if file.exists() and not (file.is_file() and file.stat().st_size <= LARGEST_JSON):
        raise ValueError(
            f"{file} is not a file of at most {LARGEST_JSON:,} bytes, so it is refused"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{file} is missing: the saved model is incomplete") from error
    except OSError as error:  # it may not name the file
        raise OSError(f"{file} cannot be read: {error.strerror or error}") from error
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

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     _ = (folder / MODULES).write_text("[]")
        ...     write_marker(folder)
        ...     check_hashes(folder)
    """
    hashes = read_marker(folder)
    if hashes is None:
        return
    present = {file.as_posix() for file in files(folder)} - NOTES
    for name in sorted(hashes.keys() | present):
        if name not in present:
            raise ValueError(f"{folder / name} is missing: the saved model is incomplete")
        if name not in hashes and _is_read(name):
            raise ValueError(
                f"{folder / name} was not saved with the model, and {MARKER} does not list it: "
                "move it out of the folder"
            )
        if name in hashes and sha256(folder / name) != hashes[name]:
            raise ValueError(
                f"{folder / name} is not the file that was saved: its SHA-256 differs from the one "
                f"in {MARKER}. It is damaged or was edited. Save or download the model again"
            )


def _is_read(name: str) -> bool:
    """Whether loading a model can read a file of this name."""
    suffixes = (".json", ".safetensors", ".jinja", ".model", "vocab.txt", "merges.txt")
    return name.endswith(suffixes) and not name.startswith(".")


def strange_entry(folder: Path) -> str | None:
    """The first entry of a folder that this project did not write, or None.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "thesis.tex").write_text("years of work")
        ...     strange_entry(Path(folder))
        'thesis.tex'
    """
    try:
        hashes = read_marker(folder)
    except ValueError:
        return f"{MARKER} (damaged)"
    known = hashes.keys() | NOTES if hashes else set()
    for file in files(folder):
        if file.as_posix() not in known or (folder / file).is_symlink():
            return file.as_posix()
    for parent, folders, names in os.walk(folder):
        relative = Path(parent).relative_to(folder)
        if not folders and not names and relative.parts[:1] not in ((), (CHECKPOINTS,)):
            return f"{relative.as_posix()}/"
    return strange_checkpoint(folder / CHECKPOINTS)


def strange_checkpoint(checkpoints: Path) -> str | None:
    """The first entry of a folder of checkpoints that ``train`` did not write, or None.

    Example:
        >>> strange_checkpoint(Path("a folder that does not exist")) is None
        True
    """
    if not os.path.lexists(checkpoints):
        return None
    if checkpoints.is_symlink() or not checkpoints.is_dir():
        return CHECKPOINTS
    marked = (checkpoints / RUN).is_file()
    for path in sorted(checkpoints.iterdir()):
        if path.name == RUN or path.name.startswith(f".{RUN}."):  # left by a killed process
            continue
        if path.name in LOGS and marked and not path.is_symlink():
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
    """The first file that was added to a complete checkpoint, or None."""
    try:
        sizes = read_json(checkpoint / WHOLE)
    except (OSError, ValueError):
        return None  # incomplete, so nothing says which files were written
    names = (path.as_posix() for path in files(checkpoint))
    return next((name for name in names if name not in {*sizes, WHOLE}), None)


def check_output(folder: Path) -> None:
    """Check that a model may be written to a folder.

    Raises:
        ValueError: unless it does not exist, is empty, or holds only what this project wrote.

    Example:
        >>> check_output(Path("a new folder"))
        >>> check_output(Path.cwd())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: output ... is the current folder, or one above it, and cannot be replaced: ...
    """
    refused = f"output {str(folder)!r}"
    remedy = "name a new folder for the model"
    if "\0" in str(folder):
        raise ValueError(f"{refused} holds a NUL character, which no path can: {remedy}")
    if not os.path.lexists(folder):
        return
    if folder.is_symlink():
        raise ValueError(f"{refused} is a symbolic link to {os.readlink(folder)!r}: {remedy}")
    if not folder.is_dir():
        raise ValueError(f"{refused} is {_kind(folder)}, not a folder: {remedy}")
    is_mount = folder.resolve().is_mount()
    if is_mount or folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        kind = "a mount point" if is_mount else "the current folder, or one above it"
        raise ValueError(f"{refused} is {kind}, and cannot be replaced: {remedy}")
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
    """Whether a folder holds a saved model.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> [is_finished(checkpoints.HERE / name) for name in ("tiny", "tiny-vlm")]
        [True, False]
    """
    return (folder / MODULES).is_file()


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """An empty folder to write a model to, which takes the folder's place at the end.

    Until then the folder does not change. It does not change after an error either. Training
    checkpoints below it stay. If a process dies between the two renames, the next call repairs the
    folder with ``recover``.

    Raises:
        ValueError: if the folder holds anything that this project did not write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with replacing(Path(parent, "model")) as new:
        ...         _ = (new / MODULES).write_text("[]")
        ...     is_finished(Path(parent, "model"))
        True
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


@contextmanager
def naming(folder: str | Path) -> Iterator[None]:
    """Name the folder in the errors of libraries that write there, such as on a full disk.

    Raises:
        OSError: for the errors inside that say that a file could not be written.

    Example:
        >>> with naming("my-model"):
        ...     raise OSError(errno.ENOSPC, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: my-model could not be written: [Errno 28] No space left on device. Make room, ...
    """
    try:
        yield
    except (SafetensorError, OSError, RuntimeError) as error:
        of_system = isinstance(error, OSError) and error.errno in UNWRITABLE
        of_torch = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
        if not (of_system or of_torch or isinstance(error, SafetensorError)):
            raise
        raise OSError(
            f"{folder} could not be written: {error}. Make room, or choose another folder"
        ) from error


def staging(folder: Path) -> Path:
    """Where a model is written before it takes a folder's place, on the same disk.

    Example:
        >>> staging(Path("models/mine")).as_posix()
        'models/.mine.saving'
    """
    return folder.parent / f".{folder.name}.saving"


def interrupted(folder: Path) -> bool:
    """Whether a save to a folder ended between its two renames, so the folder is missing.

    Example:
        >>> interrupted(Path("a new folder"))
        False
    """
    return not folder.exists() and (staging(folder) / "old").is_dir()


def recover(folder: Path) -> None:
    """Finish or undo a save that was interrupted, and remove what it left behind.

    Raises:
        ValueError: if files that this project did not write are in the way.

    Example:
        >>> recover(Path("a new folder"))  # nothing to do
    """
    stage = staging(folder)
    if not os.path.lexists(stage):
        return
    if not stage.is_dir() or stage.is_symlink():
        raise ValueError(f"{stage} is in the way of saving {folder}: move it away")
    new, old = stage / "new", stage / "old"
    removed = {kept: stage / f"removed-{kept.name}" for kept in (new, old)}
    for half in removed.values():  # its process was killed while it removed them
        if half.is_dir():
            shutil.rmtree(half)
    if not folder.exists() and (new / MARKER).is_file():  # interrupted before the last rename
        os.replace(new, folder)
    elif not folder.exists() and old.is_dir():
        os.replace(old, folder)
    if (old / CHECKPOINTS).is_dir() and not (folder / CHECKPOINTS).exists():
        os.replace(old / CHECKPOINTS, folder / CHECKPOINTS)
    unknown = {path.name for path in stage.iterdir()} - {
        kept.name for pair in removed.items() for kept in pair
    }
    if unknown:
        raise ValueError(
            f"{stage} holds {sorted(unknown)[0]}, which metaembed_lite did not write: move it away"
        )
    if old.is_dir() and strange_entry(old) is not None:  # added while the model was written
        raise ValueError(
            f"{old} holds {strange_entry(old)}, which appeared while the model was saved: move it "
            "away, then remove the folder"
        )
    for kept, half in removed.items():  # so that half of a model is never taken for a user's files
        if kept.exists():
            os.replace(kept, half)
    shutil.rmtree(stage)
