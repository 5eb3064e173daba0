"""Locks a folder or a file for one writer, and writes files completely or not at all."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def lock(path: str | Path, what: str, wait: float = 0) -> Iterator[None]:
    """Reserve a folder or a file for this process. A second process gets an error.

    The lock is on the file ``.NAME.metaembed.lock`` next to ``path``, and the operating system
    holds it (``filelock``). It ends with the process, so a killed process leaves the file but not
    the lock. The file says what is running, in which process and since when. It is removed before
    the lock is released. ``filelock`` checks for that, so two processes never lock two files of
    the same name.

    The thread that has the lock may take it again. Another thread gets an error, like a process.

    Args:
        path: the folder or file to reserve. It does not have to exist.
        what: what is running, for the error that a second process gets: "training a model".
        wait: seconds to wait for the lock. Defaults to 0.

    Raises:
        BlockingIOError: if the lock is taken. It names what is running, its process and ``path``.
        OSError: if the lock file cannot be written. It names the folder.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with lock(Path(parent, "model"), "saving a model"):
        ...         os.listdir(parent)
        ['.model.metaembed.lock']
    """
    target = Path(path).resolve()
    file = target.with_name(f".{target.name}.metaembed.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    reserved = FileLock(file, is_singleton=True)
    try:
        reserved.acquire(timeout=wait)
    except Timeout:
        _check_writable(file.parent)  # filelock waits for a file that it cannot make, too
        raise BlockingIOError(
            f"{target} is in use by {_owner(file)}: wait until it ends, or stop it, then try again"
        ) from None
    except OSError as error:  # it may not name the file
        raise _explain(error, file.parent) from error
    outermost = reserved.lock_counter == 1
    try:
        if outermost:
            now = datetime.datetime.now().isoformat(" ", "seconds")
            with suppress(PermissionError):  # Windows: the file is locked against writing too
                file.write_text(f"process {os.getpid()} ({what}, since {now})", encoding="utf-8")
        yield
    finally:
        if outermost:
            with suppress(OSError):  # Windows: an open file cannot be removed
                file.unlink()
        reserved.release()


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _explain(error, folder) from error


def _explain(error: OSError, folder: Path) -> OSError:
    reason = f"{error.strerror}: this folder cannot be written, so choose another one"
    return OSError(error.errno, reason, str(folder))


def _owner(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


def write_whole(path: Path, text: str) -> None:
    """Write a text file completely or not at all, also if several processes write it.

    Args:
        path: the file to write. A file of that name is replaced.
        text: its content.

    Raises:
        OSError: naming the file, if it cannot be written. The old file stays.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "result.json"), "{}")
        ...     Path(folder, "result.json").read_text()
        '{}'
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            partial = Path(scratch) / path.name
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
    except OSError as error:  # it may name no file, or one that is gone
        raise OSError(error.errno, error.strerror, str(path)) from error
