"""Candidates on their way into an index: checked, and turned into Arrow batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from metaembed_lite.index.columns import RingColumns
from metaembed_lite.scoring import as_embeddings

LONGEST_ID = 1024  # bytes of UTF-8
BATCH_ROWS = 1024  # candidates per Arrow batch
Metadata = pd.DataFrame | Mapping[str, Sequence[Any]] | None


class Candidates(NamedTuple):
    """Checked candidates: N ids, embeddings (N, R_c, D) and N rows of metadata.

    Example:
        >>> Candidates(["a"], torch.ones(1, 8, 128), pd.DataFrame({"year": [2020]})).ids
        ['a']
    """

    ids: list[str]
    embeddings: Tensor
    metadata: pd.DataFrame


def check(
    batches: Iterable[Sequence[Any]], columns: RingColumns, stored: Set[str]
) -> Iterator[Candidates]:
    """Check batches of ``(ids, embeddings)`` or ``(ids, embeddings, metadata)``, one at a time.

    Args:
        batches: as ``MetaIndex.add_batches`` takes them.
        columns: of the index.
        stored: ids that are taken.

    Raises:
        ValueError: naming the value that does not fit.

    Example:
        >>> columns = RingColumns(4, ((1, 1), (2, 3)))
        >>> [batch.ids for batch in check([(["a", "b"], torch.ones(2, 3, 4))], columns, set())]
        [['a', 'b']]
    """
    seen: set[str] = set()
    for batch in batches:
        if not isinstance(batch, Sequence) or len(batch) not in (2, 3):
            raise ValueError(
                f"a batch is {type(batch).__name__}: give (ids, embeddings) or (ids, embeddings, "
                "metadata)"
            )
        ids = check_ids(batch[0])
        for name in ids:
            if name in seen:
                raise ValueError(f"id {name!r} is given twice: give each candidate one id")
            if name in stored:
                raise ValueError(f"id {name!r} is in the index: use upsert to replace it")
            seen.add(name)
        embeddings = _check_embeddings(batch[1], len(ids), columns)
        yield Candidates(ids, embeddings, _check_metadata(batch[2:], len(ids), columns))


def check_ids(ids: Any) -> list[str]:
    """The ids as a list.

    Raises:
        ValueError: if there are none, or one is not a short, printable text.

    Example:
        >>> check_ids(["page 1", "page 2"])
        ['page 1', 'page 2']
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise ValueError(f"ids {str(ids)[:40]!r}: give a list of texts, one per candidate")
    names = list(ids)
    if not names:
        raise ValueError("no ids: give at least one candidate")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"id {name!r:.80}: use a text that is not empty, such as str(number)")
        if len(name) > LONGEST_ID or len(name.encode("utf-8", "replace")) > LONGEST_ID:
            raise ValueError(
                f"id {name[:40]!r}... has {len(name):,} characters: use at most {LONGEST_ID} "
                "bytes, and keep long texts in the metadata"
            )
        if not name.isprintable():
            raise ValueError(f"id {name!r}: use printable characters only")
    return names


def _check_embeddings(embeddings: Any, n_ids: int, columns: RingColumns) -> Tensor:
    tensor = as_embeddings(embeddings, "embeddings").detach().cpu()
    r_c, dim = columns.full_budget.r_c, columns.dim
    if tuple(tensor.shape[1:]) != (r_c, dim):
        raise ValueError(
            f"embeddings have shape {tuple(tensor.shape)}: this index stores (N, {r_c}, {dim}), "
            "(N, R_c, D); encode with the model of the index"
        )
    if len(tensor) != n_ids:
        raise ValueError(f"there are {n_ids} ids and {len(tensor)} embeddings: give one id each")
    return tensor


def _check_metadata(given: Sequence[Any], n_ids: int, columns: RingColumns) -> pd.DataFrame:
    if not given or given[0] is None:
        return pd.DataFrame(index=range(n_ids))
    try:
        frame = pd.DataFrame(given[0]).reset_index(drop=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata is not a table with one row per id: {error}") from error
    if len(frame) != n_ids:
        raise ValueError(f"there are {n_ids} ids and {len(frame)} rows of metadata: give one each")
    reserved = {"id", "crc32", "query", "score", *columns.schema.names}
    for name in frame:
        if not isinstance(name, str) or name in reserved or not name.isidentifier():
            raise ValueError(
                f"metadata column {name!r}: use letters, digits and _, and none of the names "
                f"{', '.join(sorted(reserved))}"
            )
    return frame


def new_fields(metadata: pd.DataFrame, schema: pa.Schema) -> list[pa.Field]:
    """Arrow fields for the metadata that a table with this schema does not have yet.

    Raises:
        ValueError: if a column is empty or mixed, so that its type is unknown.

    Example:
        >>> new_fields(pd.DataFrame({"year": [2020]}), pa.schema([]))
        [pyarrow.Field<year: int64>]
    """
    fields = []
    for name in metadata:
        if name not in schema.names:
            try:
                kind = pa.Array.from_pandas(metadata[name]).type
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(
                    f"metadata column {name!r} has values of mixed types: {error}"
                ) from error
            if pa.types.is_null(kind):
                raise ValueError(
                    f"metadata column {name!r} is empty in the first batch, so its type is "
                    "unknown: leave it out, or give a value"
                )
            fields.append(pa.field(str(name), kind))
    return fields


def encode(
    candidates: Iterable[Candidates], columns: RingColumns, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Arrow batches with the columns of ``schema``. Metadata that is not given is null.

    Raises:
        ValueError: if a value does not fit the stored type.

    Example:
        >>> columns = RingColumns(4, ((1, 1), (2, 3)))
        >>> checked = check([(["a"], torch.ones(1, 3, 4))], columns, set())
        >>> next(encode(checked, columns, columns.schema)).schema.names
        ['ring0', 'ring1']
    """
    for ids, embeddings, metadata in candidates:
        for start in range(0, len(ids), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            arrays = columns.encode(embeddings[part])
            _check_range(arrays, ids[part])
            arrays |= {"id": pa.array(ids[part]), "crc32": pa.array(columns.checksums(arrays))}
            arrays |= _metadata_arrays(metadata.iloc[part], schema)
            for field in schema:
                if field.name not in arrays:
                    arrays[field.name] = pa.nulls(len(ids[part]), field.type)
            yield pa.record_batch([arrays[field.name] for field in schema], schema=schema)


def _metadata_arrays(metadata: pd.DataFrame, schema: pa.Schema) -> dict[str, pa.Array]:
    arrays = {}
    for name in metadata:
        if name not in schema.names:
            raise ValueError(f"metadata column {name!r} is not in the first batch: give it there")
        field = schema.field(name)
        try:
            arrays[name] = pa.Array.from_pandas(metadata[name], type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(
                f"metadata column {name!r} is {field.type} in this index: {error}"
            ) from error
    return arrays


def _check_range(arrays: Mapping[str, pa.Array], ids: Sequence[str]) -> None:
    """Half precision ends at 65,504: a larger value would be stored as infinity."""
    for name, array in arrays.items():
        if array.type.value_type == pa.float16():
            finite = (
                torch.isfinite(torch.from_dlpack(array.flatten())).view(len(ids), -1).all(dim=1)
            )
            if not finite.all():
                raise ValueError(
                    f"the embedding of {ids[int(finite.int().argmin())]!r} has a value beyond "
                    f"float16 in {name}: L2-normalize the vectors, or use dtype float32"
                )
