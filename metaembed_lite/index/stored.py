"""What an index holds, read back: ids, metadata, vectors, sizes, and whether they are intact."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.index import incoming
from metaembed_lite.index.header import Header
from metaembed_lite.index.snapshot import Snapshot, explained
from metaembed_lite.index.storage import among, open_newest


class StoredCandidates:
    """The candidates of an index. ``MetaIndex`` adds writing and searching.

    Attributes:
        path: of the index.
        header: what the index says about itself.
        columns: how it stores vectors.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import MetaIndex
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", dim=16, budgets=[(1, 1), (4, 8)])
        ...     index.add(["a", "b"], torch.randn(2, 8, 16), {"page": [4, 5]})
        ...     index.check()
        ...     isinstance(index, StoredCandidates), index.get(["b"]).page.item()
        (True, 5)
    """

    def __init__(self, path: str, database: Any, header: Header) -> None:
        self.path, self.header, self.columns = path, header, header.columns
        self._database = database

    def __len__(self) -> int:
        return int(self._table().count_rows())

    def __repr__(self) -> str:
        columns = self.columns
        return (
            f"MetaIndex({self.path!r}, {len(self):,} candidates, D = {columns.dim}, "
            f"{columns.dtype}, budgets {', '.join(map(str, columns.budgets))})"
        )

    def batches(self, rows: int = 1024) -> Iterator[tuple[list[str], Tensor, pd.DataFrame]]:
        """Everything that is stored, to copy it elsewhere: ids, embeddings and metadata.

        Args:
            rows: candidates per batch. Defaults to 1024.

        Yields:
            N ids, embeddings (N, R_c, D) in float32, and N rows of metadata.
        """
        columns, snapshot = self.columns, Snapshot(self.path, self._table())
        r_c, metadata = columns.full_budget.r_c, self._metadata_names(snapshot.table)
        vectors = columns.names(r_c, exact=True)
        for batch in snapshot.scan(["id", *vectors, *metadata], whole_number(rows, "rows")):
            rings = [ring.float() for ring in columns.decode(batch, r_c, exact=True)]
            frame = batch.select(metadata).to_pandas()
            yield batch.column("id").to_pylist(), torch.cat(rings, dim=1), frame

    def ids(self) -> set[str]:
        """The ids of all candidates."""
        batches = Snapshot(self.path, self._table()).scan(["id"], 1 << 16)
        return {name for batch in batches for name in batch.column("id").to_pylist()}

    def head(self, n: int = 5) -> pd.DataFrame:
        """The ids and the metadata of the first ``n`` candidates, or of all if there are fewer."""
        table = self._table()
        names = ["id", *self._metadata_names(table)]
        with explained(self.path):
            return table.search().select(names).limit(whole_number(n, "n")).to_pandas()

    def get(self, ids: Sequence[str], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The metadata of some candidates, one row per id, in the order of ``ids``.

        Args:
            ids: of candidates in the index.
            columns: metadata columns. Defaults to all.

        Raises:
            ValueError: if an id is not in the index, or there is no such column.
        """
        stored = self._metadata_names(self._table())
        if columns is not None and (isinstance(columns, str) or not isinstance(columns, Iterable)):
            raise ValueError(f"columns={columns!r:.80}: give a list of metadata columns")
        columns = None if columns is None else list(columns)
        for name in columns or ():
            if name not in stored:
                raise ValueError(
                    f"index {self.path} has no metadata column {name!r}: choose from "
                    f"{', '.join(stored) or 'none'}"
                )
        names = ["id", *(stored if columns is None else columns)]
        return self._rows(ids, names).select(names).to_pandas()

    def vectors(self, ids: Sequence[str]) -> Tensor:
        """The stored vectors of some candidates, (N, R_c, D) float32, in the order of ``ids``.

        They are those of the last stage of a search: exact ones, if the index keeps them.

        Raises:
            ValueError: if an id is not in the index.
        """
        columns = self.columns
        r_c = columns.full_budget.r_c
        rows = self._rows(ids, ["id", *columns.names(r_c, exact=True)])
        rings = columns.decode(rows, r_c, exact=True)
        return torch.cat([vectors.float() for vectors in rings], dim=1)

    def stats(self) -> dict[str, Any]:
        """Rows, bytes on disk, and bytes per candidate that a search reads at each budget."""
        columns = self.columns
        table = self._table()
        with explained(self.path):
            stored = table.stats()
        return {
            "candidates": table.count_rows(),
            "bytes_on_disk": stored["total_bytes"],
            "files": stored["fragment_stats"]["num_fragments"],
            "dim": columns.dim,
            "dtype": columns.dtype,
            "rescore": columns.rescore,
            "bytes_per_candidate": {
                str(b): columns.bytes_per_candidate(b.r_c) for b in columns.budgets
            },
            "model": self.header.model,
            "fingerprint": self.header.fingerprint,
            "ann": bool(table.list_indices()),
        }

    def check(self) -> None:
        """Read every vector and compare it with the checksum from when it was added.

        Raises:
            ValueError: naming the first candidate that differs, or an id that is stored twice.
            OSError: if a file cannot be read.
        """
        columns, seen = self.columns, set()
        names = ["id", "crc32", *columns.schema.names]
        for batch in Snapshot(self.path, self._table()).scan(names, incoming.BATCH_ROWS):
            ids = batch.column("id").to_pylist()
            same = columns.checksums(batch) == batch.column("crc32").to_numpy()
            if not same.all():
                raise ValueError(
                    f"index {self.path}: the vectors of {ids[int(np.argmin(same))]!r} are not "
                    "those that were added: delete this candidate and add it again"
                )
            for name in ids:
                if name in seen:
                    raise ValueError(f"index {self.path}: id {name!r} is stored twice")
                seen.add(name)

    def _table(self) -> Any:
        """The newest version. This handle stays on it, whatever other processes write."""
        return open_newest(self._database, self.path)

    def _rows(self, ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Some columns of some candidates, in the order of ``ids``."""
        names = incoming.check_ids(ids)
        snapshot = Snapshot(self.path, self._table(), among(names))
        batches = list(snapshot.scan(columns, incoming.BATCH_ROWS))
        rows = {name: i for i, name in enumerate(n for b in batches for n in b["id"].to_pylist())}
        for name in names:
            if name not in rows:
                raise ValueError(f"id {name!r} is not in index {self.path}")
        return pa.Table.from_batches(batches).take([rows[name] for name in names])

    def _metadata_names(self, table: Any) -> list[str]:
        internal = {"id", "crc32", *self.columns.schema.names}
        return [name for name in table.schema.names if name not in internal]
