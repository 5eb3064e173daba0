"""One writer at a time: a lock for a folder or a file, and files that are written whole."""

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
    """Reserve a folder or a file for this process; a second process gets an error.

    The operating system holds the lock (``filelock``) on the file ``.NAME.metaembed.lock`` next to
    ``path``. It ends with the process, so a killed process leaves the file but not the lock. The
    file says what is running, in which process and since when. It is removed before the lock is
    released; ``filelock`` checks for that, so two processes never lock two files of one name.

    The thread that has the lock may take it again. Another thread is refused like a process.

    Args:
        path: the folder or file to reserve; it does not have to exist.
        what: what is running, for the message that a second process gets: "training a model".
        wait: seconds to wait for the lock. Defaults to 0, an error at once.

    Raises:
        BlockingIOError: if the lock is taken; it names what is running, its process and ``path``.
        OSError: if the lock file cannot be written.
    """
    whole = Path(path).resolve()
    file = whole.with_name(f".{whole.name}.metaembed.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    reserved = FileLock(file, is_singleton=True)
    try:
        reserved.acquire(timeout=wait)
    except Timeout:
        raise BlockingIOError(
            f"{whole} is in use by {_owner(file)}: wait until it ends, or stop it, then try again"
        ) from None
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


def _owner(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another process"
    except (OSError, UnicodeDecodeError):
        return "another process"


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is whole or as it was before, also if several processes write it.

    Raises:
        OSError: if the file cannot be written; the old one is kept.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
        partial = Path(scratch) / path.name
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
