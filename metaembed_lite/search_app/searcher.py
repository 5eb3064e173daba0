"""Searcher: an index together with the model that encodes queries for it."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from metaembed_lite import items
from metaembed_lite.budget import BudgetLike
from metaembed_lite.explorer.display import attention_to_json
from metaembed_lite.index import MetaIndex
from metaembed_lite.items import ItemError
from metaembed_lite.loading import load
from metaembed_lite.search_app.request import RequestError, checking_the_request

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

REMEMBERED = 64  # queries and attention maps
REMEMBERED_THUMBNAILS = 1024


class Query(NamedTuple):
    """An encoded query.

    Attributes:
        token: by which ``Searcher.recall`` finds it again.
        vectors: (R_q, D) float32.
        seconds: that encoding took.

    Example:
        >>> import torch
        >>> Query("1c0336a53680bc30", torch.zeros(8, 128), 0.02).vectors.shape
        torch.Size([8, 128])
    """

    token: str
    vectors: Tensor
    seconds: float


class UnknownError(ValueError):
    """A candidate or a query that the searcher does not have.

    Example:
        >>> str(UnknownError("id 'a' is not in the index"))
        "id 'a' is not in the index"
    """


class Searcher:
    """Encodes queries with the model of an index, searches, and explains a match.

    One thread encodes at a time. Any number may search.

    Args:
        index: to search.
        model: the one whose vectors the index holds.

    Raises:
        ValueError: if the index holds vectors of another model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> model = load("tiny", device="cpu")
        >>> with TemporaryDirectory() as folder:
        ...     index = MetaIndex.create(f"{folder}/index", 128, [(1, 1), (8, 16)], model=model)
        ...     index.add_from(model, ["violin", "red apple"], progress=False)
        ...     searcher = Searcher(index, model)
        ...     searcher.search(searcher.encode("violin"), k=1).id.item()
        '0'
    """

    def __init__(self, index: MetaIndex, model: MultiVectorEncoder) -> None:
        index.check_model(model)
        self.index, self.model = index, model
        self._encoding = threading.Lock()
        self._queries: Memory = Memory(REMEMBERED)
        self._attention: Memory = Memory(REMEMBERED)
        self._thumbnails: Memory = Memory(REMEMBERED_THUMBNAILS)
        model.eval()

    @classmethod
    def open(cls, path: str | Path, model: str | None = None) -> Searcher:
        """The index at a path, with its model.

        Args:
            path: of the index.
            model: a bundled name, a folder or a hub id. Defaults to the name in the index.

        Raises:
            FileNotFoundError: if there is no index, or no model.
            ValueError: if the index names no model, or holds vectors of another one.
        """
        index = MetaIndex.open(path)
        name = model or index.header.model
        if name is None:
            raise ValueError(f"index {path} does not name its model: name it with --model")
        return cls(index, load(name))

    @property
    def reads_images(self) -> bool:
        """Whether a query may be an image."""
        return bool(getattr(self.model[0], "reads_images", False))

    def encode(self, item: Any) -> Query:
        """Encode a query, or return it from memory.

        Args:
            item: a text, an image, or a dict with both.

        Raises:
            RequestError: if the item cannot be read.
        """
        with checking_the_request():
            parts = items.read(item)
        token = f"{items.key(parts):016x}"
        with self._encoding:
            query = self._queries.get(token)
            if query is None:
                start = time.perf_counter()
                try:
                    vectors = self.model.encode_query(parts, show_progress_bar=False)
                except ItemError as error:
                    raise RequestError(error.problem) from error
                r_q = self.index.columns.full_budget.r_q
                seconds = time.perf_counter() - start
                query = Query(token, vectors[:r_q].float().cpu(), seconds)
                self._queries.put(token, query)
        return query

    def recall(self, token: str) -> Query:
        """A query that was encoded lately.

        Raises:
            UnknownError: if it is not in memory.
        """
        query = self._queries.get(token)
        if query is None:
            raise UnknownError(f"query {token!r} is not in memory: search for it again")
        return query

    def search(
        self,
        query: Query,
        k: int = 10,
        budget: BudgetLike | None = None,
        *,
        prefetch: Sequence[tuple[BudgetLike, int]] = (),
        where: str | None = None,
    ) -> pd.DataFrame:
        """The k best candidates, without columns of bytes. Arguments are ``MetaIndex.search``'s.

        Returns:
            As ``MetaIndex.search``, with a column ``has_thumbnail``.
        """
        results = self.index.search(query.vectors, k, budget, prefetch=prefetch, where=where)
        stats = results.attrs["stats"]
        results = self._keep_thumbnails(results)
        results.attrs["stats"] = stats
        return results

    def head(self, n: int) -> pd.DataFrame:
        """The first ``n`` candidates, with the columns of ``search`` but for the score."""
        return self._keep_thumbnails(self.index.head(n))

    def _keep_thumbnails(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Remember the thumbnails of some rows, which are asked for next, and drop all bytes."""
        thumbnails = rows.get("thumbnail", pd.Series([None] * len(rows)))
        for name, thumbnail in zip(rows.id, thumbnails, strict=True):
            self._thumbnails.put(name, thumbnail or b"")
        is_raw = [
            name == "thumbnail" or any(isinstance(v, bytes) for v in rows[name]) for name in rows
        ]
        rows = rows.loc[:, np.logical_not(is_raw)]
        return rows.assign(has_thumbnail=[bool(t) for t in thumbnails])

    def thumbnail(self, name: str) -> bytes:
        """The thumbnail of a candidate, a WebP file.

        Raises:
            UnknownError: if there is no such candidate, or it has no image.
        """
        thumbnail = self._thumbnails.get(name)
        if thumbnail is None:
            thumbnail = self._get(name).get("thumbnail") or b""
        if not thumbnail:
            raise UnknownError(f"id {name!r} has no image")
        return bytes(thumbnail)

    def similarities(self, query: Query, name: str) -> Tensor:
        """(R_q, R_c): each query vector with each vector of a candidate.

        The score at (r_q, r_c) is the sum of the first r_q rows' maxima over r_c columns.

        Raises:
            UnknownError: if there is no such candidate.
        """
        self._get(name)
        return query.vectors @ self.index.vectors([name])[0].T

    def attention(self, name: str) -> dict[str, Any] | None:
        """Where each vector of a candidate attends in its image, as ``attention_to_json`` gives it.

        The image is the file that was indexed, if it is still there, or else the thumbnail.

        Returns:
            None for a text, and for backbones without image tokens.

        Raises:
            UnknownError: if there is no such candidate.
        """
        row = self._get(name)
        file = Path(row.get("path", ""))
        source = file if file.is_file() else row.get("thumbnail")
        if not source or row.get("text"):
            return None
        key = f"{zlib.crc32(row.get('thumbnail', b''))} {name}"  # an id may get another image
        with self._encoding:
            maps = self._attention.get(key)
            if maps is None:
                maps = (attention_to_json(self.model, [items.open_picture(source)]),)
                self._attention.put(key, maps)
        return maps[0]

    def _get(self, name: str) -> dict[str, Any]:
        """The metadata of a candidate that are texts or bytes."""
        try:
            row = self.index.get([name]).iloc[0]
        except ValueError as error:
            raise UnknownError(str(error)) from error
        return {name: value for name, value in row.items() if isinstance(value, str | bytes)}


def to_records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of ``Searcher.search`` or ``head`` as JSON has them: no NaN, and dates as texts.

    Example:
        >>> row = {"id": "a", "score": 0.5, "has_thumbnail": True, "year": float("nan")}
        >>> to_records(pd.DataFrame([row]))
        [{'id': 'a', 'score': 0.5, 'has_thumbnail': True, 'metadata': {'year': None}}]
    """
    fixed = [name for name in ("id", "score", "has_thumbnail") if name in rows]
    records = json.loads(rows.to_json(orient="records", date_format="iso"))
    return [{name: record.pop(name) for name in fixed} | {"metadata": record} for record in records]


class Memory:
    """Values by key, of which the oldest are forgotten. Threads may share it.

    Example:
        >>> memory = Memory(1)
        >>> memory.put("a", 1)
        >>> memory.put("b", 2)
        >>> memory.get("a"), memory.get("b")
        (None, 2)
    """

    def __init__(self, size: int) -> None:
        self._size, self._values = size, OrderedDict[str, Any]()
        self._lock = threading.Lock()

    def get(self, key: str) -> Any:
        """The value, or None."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        """Remember a value."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
