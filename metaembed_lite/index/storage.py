"""LanceDB: where the table lies, a write as one commit, and a filter by ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lancedb
import pyarrow as pa
from tqdm.auto import tqdm

from metaembed_lite.index.snapshot import explained

TABLE = "candidates"


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
