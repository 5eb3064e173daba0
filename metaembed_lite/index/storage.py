"""LanceDB: where the table lies, a write as one commit, and a filter by ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from tqdm.auto import tqdm

from metaembed_lite.index.snapshot import explained
from metaembed_lite.locking import write_whole

TABLE = "candidates"
VERSION = f"{TABLE}.version"  # a file next to the table: the number of its last write


def connect(path: str, storage_options: Mapping[str, str] | None = None) -> Any:
    """LanceDB's connection to a folder, or to a URI of an object store.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     connect(folder).list_tables().tables
        []
    """
    return lancedb.connect(path, storage_options=dict(storage_options or {}) or None)


def is_local(path: str) -> bool:
    """Whether a path is a folder, and not a URI of an object store.

    Example:
        >>> is_local("my-index"), is_local("s3://bucket/my-index")
        (True, False)
    """
    return "://" not in path


def open_newest(database: Any, path: str) -> Any:
    """The table at its newest version. The handle stays on it, whatever other processes write.

    LanceDB opens the newest version that it finds. If files of a later write are missing, that is
    an older one, with fewer candidates.

    Args:
        database: from ``connect``.
        path: of the index.

    Raises:
        OSError: if the table cannot be opened, or is older than the last write.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     database = connect(folder)
        ...     table = database.create_table(TABLE, schema=pa.schema({"id": pa.string()}))
        ...     record_version(folder, table.version + 1)
        ...     open_newest(database, folder)
        Traceback (most recent call last):
        ...
        OSError: index ... is at version 1, and version 2 was written: ...
    """
    written = _recorded_version(path) if is_local(path) else 0
    with explained(path):
        table = database.open_table(TABLE)
    if table.version < written:
        raise OSError(
            f"index {path} is at version {table.version}, and version {written} was written: files "
            "of it are missing or damaged. Restore the folder, or index again"
        )
    return table


def record_version(path: str, version: int) -> None:
    """Remember which version was written last. If the disk is full, an older record stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     record_version(folder, 3)
        ...     Path(folder, VERSION).read_text()
        '3\\n'
    """
    with suppress(OSError):  # the write is done, and an older record is still true
        write_whole(Path(path, VERSION), f"{version}\n")


def _recorded_version(path: str) -> int:
    try:
        return int(Path(path, VERSION).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an index that an older version of the package wrote has none
        return 0


def among(ids: Sequence[str]) -> str:
    """A filter in SQL for candidates with these ids.

    Example:
        >>> among(["page 1", "Anna's"])
        "id IN ('page 1', 'Anna''s')"
    """
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in ids)
    return f"id IN ({quoted})"


def commit(path: str, table: Any, rows: Iterator[pa.RecordBatch], bar: tqdm, upsert: bool) -> None:
    """Write all rows as one version of the table, or none.

    Args:
        path: of the index, for errors.
        table: LanceDB's handle.
        rows: batches with the table's schema.
        bar: counts the rows that were written.
        upsert: replace rows with the same id, instead of adding the rows at the end.

    Raises:
        OSError: if LanceDB cannot write. An error of ``rows`` itself is raised as it is.

    Example:
        >>> import tempfile
        >>> batch = pa.record_batch({"id": ["a", "b"]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = connect(folder).create_table(TABLE, schema=batch.schema)
        ...     commit(folder, table, iter([batch]), tqdm(disable=True), upsert=False)
        ...     table.count_rows()
        2
    """
    errors: list[BaseException] = []

    def stream() -> Iterator[pa.RecordBatch]:
        try:
            for batch in rows:
                yield batch
                bar.update(batch.num_rows)
        except BaseException as error:  # Arrow would make a text of it
            errors.append(error)
            raise

    reader = pa.RecordBatchReader.from_batches(table.schema, stream())
    try:
        with explained(path):
            if upsert:
                merge = table.merge_insert("id").when_matched_update_all()
                merge.when_not_matched_insert_all().execute(reader)
            else:
                table.add(reader)
    except OSError:
        if errors:
            raise errors[0] from None
        raise
