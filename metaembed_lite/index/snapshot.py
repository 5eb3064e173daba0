"""One version of an index's table, as LanceDB gives it, and its errors in one line."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.index.columns import RingColumns
from metaembed_lite.index.stages import Best, Stage, StageStats

REFINE = 8  # candidates that the ANN index finds and exact vectors rank, per candidate kept
LEAST_REFINED = 400  # of them, however few are kept


@contextmanager
def explained(path: str) -> Iterator[None]:
    """LanceDB's errors as an ``OSError`` of one line that names the index.

    Raises:
        OSError: for every error inside, because damaged files can make LanceDB raise any kind.

    Example:
        >>> with explained("my-index"):
        ...     raise RuntimeError("lance error: No space left on device")
        Traceback (most recent call last):
        ...
        OSError: index my-index: lance error: No space left on device
    """
    try:
        yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise OSError(f"index {path}: {reason}") from error


class FilterError(ValueError):
    """A filter that LanceDB does not understand.

    Example:
        >>> str(FilterError("where='color =': ..."))
        "where='color =': ..."
    """


@dataclass(frozen=True)
class Snapshot:
    """A table that stays at one version, whatever other processes write.

    Attributes:
        path: of the index, for errors.
        table: LanceDB's handle.
        where: a filter in SQL, or None.

    Example:
        >>> import lancedb, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = [{"year": 2019}, {"year": 2021}]
        ...     table = lancedb.connect(folder).create_table("candidates", rows)
        ...     batches = list(Snapshot(folder, table, "year > 2020").scan(["year"], 10))
        >>> batches[0]["year"].to_pylist()
        [2021]
    """

    path: str
    table: Any
    where: str | None = None

    def check_filter(self) -> None:
        """Check that LanceDB understands the filter.

        Raises:
            FilterError: a ValueError that names the filter, and the columns that there are.
        """
        if self.where is None:
            return
        try:
            self.table.search().where(self.where).select(["id"]).limit(1).to_batches()
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise FilterError(f"where={self.where!r}: {reason}") from error

    def scan(self, columns: Sequence[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Rows that pass the filter, with ``_rowid``, in batches."""
        with explained(self.path):
            query = self.table.search().select(list(columns)).with_row_id(True)
            if self.where is not None:
                query = query.where(self.where)
            batches = query.to_batches(batch_size=batch_rows)
        while True:
            with explained(self.path):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Some rows by their number, with ``_rowid``, in any order."""
        with explained(self.path):
            query = self.table.take_row_ids(rows.tolist()).select(list(columns))
            return query.with_row_id().to_arrow()

    def nearest(
        self, columns: RingColumns, queries: Tensor, stage: Stage, nprobes: int
    ) -> tuple[Best, StageStats]:
        """A first stage at (1, 1) by LanceDB's ANN index, instead of a scan.

        ``bytes_read`` counts the exact vectors that rank what the index finds, not the index.

        Raises:
            ValueError: if there is no ANN index, or the stage has another budget.
        """
        nprobes = whole_number(nprobes, "nprobes")
        if not self.table.list_indices():
            raise ValueError(f"index {self.path} has no ANN index: call build_ann first")
        if (stage.budget.r_q, stage.budget.r_c) != (1, 1):
            raise ValueError(
                f"nprobes={nprobes}: the ANN index finds by one vector, and the first stage has "
                f"budget {stage.budget}; start with prefetch=[((1, 1), 1000)]"
            )
        factor = max(REFINE, math.ceil(LEAST_REFINED / stage.keep))
        start, best, n_found = time.perf_counter(), Best.none(len(queries), stage.keep), 0
        for q, query in enumerate(queries):
            with explained(self.path):
                search = self.table.search(query[0].numpy(), vector_column_name="ring0")
                search = search.distance_type("dot").nprobes(nprobes).refine_factor(factor)
                if self.where is not None:
                    search = search.where(self.where, prefilter=True)
                search = search.limit(stage.keep).select(["_distance"]).with_row_id(True)
                found = search.to_arrow()
            scores = 1 - found.column("_distance").to_numpy()
            best.add(q, scores.astype(np.float32), found.column("_rowid").to_numpy())
            n_found += factor * found.num_rows
        n_bytes = n_found * columns.bytes_per_candidate(1)
        return best, StageStats(stage.budget, n_found, n_bytes, time.perf_counter() - start)

    def describe(self, found: Best, names: Sequence[str]) -> pd.DataFrame:
        """Results as a table: query, id, score and the metadata ``names``."""
        frames = []
        for q, (scores, rows) in enumerate(zip(found.scores, found.rows, strict=True)):
            frame = self.take(rows, ["id", *names]).to_pandas().set_index("_rowid").loc[rows]
            frame.insert(0, "query", q)
            frame.insert(2, "score", scores)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)
