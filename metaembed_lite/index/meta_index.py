"""MetaIndex: embeddings on disk, one column per ring, so that a search reads only its budget."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from lancedb.index import IvfPq
from torch import Tensor
from tqdm.auto import tqdm

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import BudgetLike, Budgets, check_nested
from metaembed_lite.index import incoming
from metaembed_lite.index.columns import RingColumns
from metaembed_lite.index.fingerprint import fingerprint
from metaembed_lite.index.header import KEY, Header
from metaembed_lite.index.incoming import Metadata
from metaembed_lite.index.qdrant import create_collection, upload
from metaembed_lite.index.snapshot import Snapshot, explained
from metaembed_lite.index.stages import plan, rescore, scan
from metaembed_lite.index.storage import TABLE, among, commit, connect, is_local, record_version
from metaembed_lite.index.stored import StoredCandidates
from metaembed_lite.locking import lock
from metaembed_lite.scoring import as_embeddings, check_reduce

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from sentence_transformers import MultiVectorEncoder

LOCK_SECONDS = 60  # how long a writer waits for another one
LEAST_FOR_ANN = 256  # the fewest vectors on which LanceDB trains its ANN index


class MetaIndex(StoredCandidates):
    """Candidates on disk, searched at any budget.

    Make one with ``create`` or ``open``. Any number of processes may search while one writes.
    A second writer waits. Each write is one commit of LanceDB: all of it is there, or nothing.

    Example:
        >>> import tempfile, torch
        >>> candidates = torch.nn.functional.normalize(torch.randn(100, 8, 16), dim=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", dim=16, budgets=[(1, 1), (4, 8)])
        ...     index.add([f"item {i}" for i in range(100)], candidates, {"page": list(range(100))})
        ...     results = index.search(candidates[7, :4], k=2, where="page < 50")
        >>> results.id[0], int(results.page.max()) < 50, results.attrs["stats"]["bytes_read"]
        ('item 7', True, 12800)
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        dim: int,
        budgets: Budgets,
        dtype: str = "float16",
        *,
        rescore: str | None = None,
        model: MultiVectorEncoder | None = None,
        model_name: str | None = None,
        credit: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> MetaIndex:
        """An empty index.

        Args:
            path: a new folder, or a URI of an object store that LanceDB supports, such as
                ``s3://bucket/index``.
            dim: D, values per vector.
            budgets: nested, such as the model was trained with. The last one is the full budget.
            dtype: how vectors are stored: "float16", "float32", "int8" or "binary". Defaults to
                "float16".
            rescore: also store the vectors as "float16" or "float32", to rescore the best
                candidates of an int8 or binary scan. Defaults to none.
            model: its fingerprint is stored, and vectors of other models are then refused by
                ``add_from`` and ``open``. Defaults to none.
            model_name: from which ``load`` finds the model again. Defaults to none.
            credit: whom to name where candidates are shown, as a license may ask. Defaults to none.
            storage_options: for LanceDB, such as the credentials of an object store.

        Raises:
            ValueError: if budgets, types or dimensions do not fit.
            FileExistsError: if there is an index at ``path``.
        """
        columns = RingColumns(dim, check_nested(budgets), dtype, rescore)
        mark = None if model is None else fingerprint(model)
        header = Header(columns, model_name, mark, credit)
        index = cls(str(path), None, header)
        with index._writing("creating an index"):
            with explained(index.path):
                index._database = connect(index.path, storage_options)
                there = TABLE in index._database.list_tables().tables
            if there:
                raise FileExistsError(f"{path} holds an index: open it, or delete the folder first")
            fields = [pa.field("id", pa.string()), pa.field("crc32", pa.uint32())]
            schema = pa.schema([*fields, *columns.schema], metadata={KEY: header.to_json()})
            with explained(index.path):
                index._database.create_table(TABLE, schema=schema)
        return index

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        model: MultiVectorEncoder | None = None,
        dim: int | None = None,
        budgets: Budgets | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> MetaIndex:
        """The index at a path.

        Args:
            path: as in ``create``.
            model: refuse the index if it holds vectors of another model. Defaults to no check.
            dim: refuse the index if its vectors have another dimension. Defaults to no check.
            budgets: refuse the index if it has other budgets. Defaults to no check.
            storage_options: as in ``create``.

        Raises:
            FileNotFoundError: if there is no index.
            ValueError: if the index does not fit, or a newer version of the package wrote it.
        """
        name = str(path)
        if is_local(name) and not Path(name, f"{TABLE}.lance").is_dir():
            raise FileNotFoundError(f"there is no index at {name}: make one with MetaIndex.create")
        with explained(name):
            database = connect(name, storage_options)
            metadata = database.open_table(TABLE).schema.metadata or {}
        if KEY not in metadata:
            raise ValueError(f"{name} is a LanceDB folder, but not an index of metaembed_lite")
        index = cls(name, database, Header.from_json(metadata[KEY].decode(), name))
        columns = index.columns
        if dim is not None and dim != columns.dim:
            raise ValueError(f"index {name} has D = {columns.dim}, not {dim}")
        if budgets is not None and check_nested(budgets) != columns.budgets:
            given = ", ".join(map(str, check_nested(budgets)))
            stored = ", ".join(map(str, columns.budgets))
            raise ValueError(f"index {name} has budgets {stored}, not {given}")
        if model is not None:
            index.check_model(model)
        return index

    def check_model(self, model: MultiVectorEncoder) -> None:
        """Check that the index holds vectors of this model.

        Raises:
            ValueError: if its fingerprint is another one, or the index stores none.
        """
        mine, theirs = self.header.fingerprint, fingerprint(model)
        if mine is None:
            raise ValueError(
                f"index {self.path} does not say of which model its vectors are: create it with "
                "model=..."
            )
        if mine != theirs:
            name = f" ({self.header.model})" if self.header.model else ""
            raise ValueError(
                f"index {self.path} holds vectors of model {mine}{name}, and this is model "
                f"{theirs}: load that model, or index with this one again"
            )

    # Writing

    def add(
        self,
        ids: Sequence[str],
        embeddings: Tensor | Sequence[Tensor],
        metadata: Metadata = None,
    ) -> None:
        """Add candidates, all or none.

        Args:
            ids: one text per candidate, new to the index.
            embeddings: (N, R_c, D) at the full budget.
            metadata: one row per candidate. New columns are added to the index. Defaults to none.

        Raises:
            ValueError: if an id is empty, too long or used twice, a shape does not fit, or a value
                is not finite. The index is unchanged.
            OSError: if the disk is full or cannot be written. The index is unchanged.
            BlockingIOError: if another process writes for more than a minute.
        """
        self.add_batches([(ids, embeddings, metadata)], progress=False)

    def add_batches(
        self, batches: Iterable[Sequence[Any]], *, progress: bool = True, total: int | None = None
    ) -> None:
        """Add candidates from an iterator, in one commit and in bounded memory.

        Args:
            batches: of ``(ids, embeddings)`` or ``(ids, embeddings, metadata)``, as in ``add``. The
                first one decides which metadata columns there are.
            progress: show a progress bar. Defaults to True.
            total: candidates, for the bar. Defaults to unknown.

        Raises:
            ValueError: as ``add``. Nothing is added then, from no batch.
        """
        self._write(batches, progress, total, upsert=False)

    def upsert(
        self,
        ids: Sequence[str],
        embeddings: Tensor | Sequence[Tensor],
        metadata: Metadata = None,
    ) -> None:
        """Add candidates, and replace those whose id is in the index. All or none.

        A replaced candidate loses metadata that is not given here. Arguments and errors are those
        of ``add``.
        """
        self._write([(ids, embeddings, metadata)], False, None, upsert=True)

    def add_from(
        self,
        model: MultiVectorEncoder,
        items: Iterable[Any],
        ids: Iterable[str] | None = None,
        metadata: pd.DataFrame | None = None,
        *,
        batch_size: int = 64,
        progress: bool = True,
    ) -> None:
        """Encode items and add them, batch by batch, so memory does not grow with their number.

        Args:
            model: from ``build`` or ``load``. The index must be of this model.
            items: texts, images, or anything that ``model.encode_document`` takes.
            ids: one text per item. Defaults to "0", "1", ... after those in the index.
            metadata: one row per item, in their order. Defaults to none.
            batch_size: items per batch. Defaults to 64.
            progress: show a progress bar. Defaults to True.

        Raises:
            ValueError: if the index holds vectors of another model, or as ``add``.
        """
        self.check_model(model)
        batch_size = whole_number(batch_size, "batch_size")
        names = map(str, range(len(self), 1 << 62)) if ids is None else iter(ids)

        def encode() -> Iterator[tuple[Any, ...]]:
            left, start = iter(items), 0
            while batch := list(islice(left, batch_size)):
                embeddings = model.encode_document(
                    batch, batch_size=batch_size, show_progress_bar=False
                )
                chosen = list(islice(names, len(batch)))
                rows = None if metadata is None else metadata.iloc[start : start + len(batch)]
                yield chosen, [e.cpu() for e in embeddings], rows
                start += len(batch)

        total = len(items) if isinstance(items, Sized) else None
        self.add_batches(encode(), progress=progress, total=total)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove candidates, all or none.

        Raises:
            ValueError: if an id is not in the index. The index is unchanged.
        """
        names = incoming.check_ids(ids)
        with self._writing("deleting from an index"):
            stored = self.ids()
            missing = next((name for name in names if name not in stored), None)
            if missing is not None:
                raise ValueError(f"id {missing!r} is not in index {self.path}: nothing was deleted")
            with explained(self.path):
                self._table().delete(among(names))

    def optimize(self, *, cleanup_older_than: timedelta = timedelta(hours=1)) -> None:
        """Join small files, drop deleted rows, bring an ANN index up to date, remove old versions.

        Args:
            cleanup_older_than: a search that began longer ago than this may fail. Defaults to one
                hour.
        """
        with self._writing("optimizing an index"), explained(self.path):
            self._table().optimize(cleanup_older_than=cleanup_older_than)

    def build_ann(self) -> None:
        """Build LanceDB's own index (IVF, product quantization) on ring 0, for ``nprobes``.

        Raises:
            ValueError: if ring 0 has more than one vector, or the index holds fewer than 256
                candidates or quantized vectors.
        """
        columns = self.columns
        if columns.rings[0].stop != 1 or columns.dtype not in ("float16", "float32"):
            raise ValueError(
                f"index {self.path} stores {columns.rings[0].stop} {columns.dtype} vectors in ring "
                "0: an ANN index needs one vector, in float16 or float32; start the budgets with "
                "(1, 1)"
            )
        if len(self) < LEAST_FOR_ANN:
            raise ValueError(
                f"index {self.path} holds {len(self)} candidates: an ANN index is trained on at "
                f"least {LEAST_FOR_ANN}, and a scan is faster for a small index"
            )
        with self._writing("building an ANN index"), explained(self.path):
            self._table().create_index("ring0", config=IvfPq(distance_type="dot"))

    # Searching

    def search(
        self,
        query: Tensor,
        k: int = 10,
        budget: BudgetLike | None = None,
        *,
        prefetch: Sequence[tuple[BudgetLike, int]] = (),
        where: str | None = None,
        nprobes: int | None = None,
        reduce: str = "sum",
    ) -> pd.DataFrame:
        """The k best candidates for one query.

        Args:
            query: (R_q, D) at the full budget.
            k: results. Defaults to 10.
            budget: of the scores that order the results. Defaults to the full budget.
            prefetch: earlier stages of a cascade, as pairs of a budget and the number of candidates
                to keep. ``[((1, 1), 1000), ((4, 8), 200)]`` scans with one vector, scores 1,000
                candidates at (4, 8), and 200 at ``budget``. Defaults to none: the scan is exact.
            where: a filter on metadata in SQL, such as ``"year > 2020"``. Defaults to none.
            nprobes: partitions of the ANN index to read. With it, the index of ``build_ann`` does
                the first stage, at (1, 1). Defaults to none, an exact scan.
            reduce: "sum", or "mean", which divides each score by the budget's r_q. Then scores of
                normalized vectors are at most 1 at every budget. Defaults to "sum".

        Returns:
            DataFrame with id, score (MaxSim at ``budget``) and the metadata, best first. Equal
            scores are in the order in which candidates were added. ``attrs["stats"]`` has
            bytes_read, seconds and the stages.

        Raises:
            ValueError: if the query has another shape or holds NaN, a budget needs more vectors
                than the index has, ``k`` is below 1, the filter is not understood, or ``reduce`` is
                unknown.
        """
        queries = as_embeddings(query[None] if isinstance(query, Tensor) else [query], "query")
        return self.search_batch(
            queries, k, budget, prefetch=prefetch, where=where, nprobes=nprobes, reduce=reduce
        ).drop(columns="query")

    def search_batch(
        self,
        queries: Tensor | Sequence[Tensor],
        k: int = 10,
        budget: BudgetLike | None = None,
        *,
        prefetch: Sequence[tuple[BudgetLike, int]] = (),
        where: str | None = None,
        nprobes: int | None = None,
        reduce: str = "sum",
    ) -> pd.DataFrame:
        """The k best candidates for each query, from one scan.

        Args:
            queries: (Q, R_q, D) at the full budget.
            k: results per query. Other arguments are those of ``search``.

        Returns:
            As ``search``, with the number of the query in the first column.
        """
        check_reduce(reduce)
        columns = self.columns
        stages = plan(columns, k, budget, prefetch)
        queries = self._check_queries(queries)
        start = time.perf_counter()
        snapshot = Snapshot(self.path, self._table(), where)
        snapshot.check_filter()
        if nprobes is None:
            found, stats = scan(snapshot, columns, queries, stages[0])
        else:
            found, stats = snapshot.nearest(columns, queries, stages[0], nprobes)
        all_stats = [stats]
        for stage in stages[1:]:
            found, stats = rescore(snapshot, columns, queries, found, stage)
            all_stats.append(stats)
        results = snapshot.describe(found, self._metadata_names(snapshot.table))
        if reduce == "mean":
            results["score"] /= stages[-1].budget.r_q
        results.attrs["stats"] = {
            "bytes_read": sum(stats.bytes_read for stats in all_stats),
            "seconds": time.perf_counter() - start,
            "stages": [asdict(stats) | {"budget": str(stats.budget)} for stats in all_stats],
        }
        return results

    def to_qdrant(self, client: QdrantClient, collection: str) -> None:
        """Write everything to a new collection of Qdrant. Search it with ``search_qdrant``.

        Args:
            client: connected to a server, or ``QdrantClient(":memory:")``.
            collection: the name of the new collection.

        Raises:
            FileExistsError: if there is a collection of that name.
        """
        create_collection(client, collection, self.columns)
        upload(client, collection, self.batches(rows=128), self.columns)

    @contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """One writer at a time. In an object store, LanceDB's commits alone keep writers apart."""
        if not is_local(self.path):
            yield
            return
        with lock(self.path, what, wait=LOCK_SECONDS):
            yield
            record_version(self.path, self._table().version)

    def _check_queries(self, queries: Any) -> Tensor:
        full, dim = self.columns.full_budget, self.columns.dim
        tensor = as_embeddings(queries, "queries").detach().float().cpu()
        if tuple(tensor.shape[1:]) != (full.r_q, dim):
            raise ValueError(
                f"a query has shape {tuple(tensor.shape[1:])}: index {self.path} expects (R_q, D) "
                f"= ({full.r_q}, {dim}); encode it with the model of the index"
            )
        return tensor

    def _write(
        self, batches: Iterable[Sequence[Any]], progress: bool, total: int | None, upsert: bool
    ) -> None:
        columns = self.columns
        with self._writing("writing to an index"):
            stored = set() if upsert else self.ids()
            candidates = incoming.check(batches, columns, stored)
            first = next(candidates, None)
            if first is None:
                return
            table = self._table()
            fields = incoming.new_fields(first.metadata, table.schema)
            if fields:
                with explained(self.path):
                    table.add_columns(fields)
            rows = incoming.encode(chain([first], candidates), columns, table.schema)
            with tqdm(total=total, unit=" candidates", disable=not progress) as bar:
                commit(self.path, table, rows, bar, upsert)
