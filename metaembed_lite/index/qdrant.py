"""The same candidates in Qdrant, for more of them than one machine holds.

Qdrant scores MaxSim itself, over whole named vectors. So each budget gets a named vector of its
first ``r_c`` vectors, and a search is a chain of prefetch and rescore stages on the server.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from metaembed_lite.budget import Budget, BudgetLike
from metaembed_lite.extras import extra
from metaembed_lite.index.columns import RingColumns
from metaembed_lite.index.stages import Stage, plan

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

NAMESPACE = uuid.UUID("6d657461-656d-6265-642d-6c6974650000")  # "metaembed-lite" in hex


def vector_name(r_c: int) -> str:
    """The named vector that holds a candidate's first ``r_c`` vectors.

    Example:
        >>> vector_name(4)
        'first_4'
    """
    return f"first_{r_c}"


def create_collection(client: QdrantClient, collection: str, columns: RingColumns) -> None:
    """A collection with one named multi-vector per budget, in float16, compared by MaxSim.

    Only the first one gets Qdrant's graph index. The larger ones rescore, which needs none.

    Raises:
        FileExistsError: if there is a collection of that name.

    Example:
        >>> from qdrant_client import QdrantClient
        >>> client = QdrantClient(":memory:")
        >>> create_collection(client, "sheets", RingColumns(128, ((1, 1), (4, 8))))
        >>> sorted(client.get_collection("sheets").config.params.vectors)
        ['first_1', 'first_8']
    """
    with extra("qdrant"):
        from qdrant_client import models

    if client.collection_exists(collection):
        raise FileExistsError(f"Qdrant has a collection {collection!r}: choose another name")
    maxsim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    no_graph = models.HnswConfigDiff(m=0)
    client.create_collection(
        collection,
        vectors_config={
            vector_name(ring.stop): models.VectorParams(
                size=columns.dim,
                distance=models.Distance.DOT,
                datatype=models.Datatype.FLOAT16,
                multivector_config=maxsim,
                hnsw_config=no_graph if ring.start else None,
            )
            for ring in columns.rings
        },
    )


def upload(
    client: QdrantClient,
    collection: str,
    batches: Iterable[tuple[list[str], Tensor, pd.DataFrame]],
    columns: RingColumns,
) -> None:
    """Write candidates. A candidate that is there already is replaced.

    Args:
        client: connected to a server, or a local one.
        collection: from ``create_collection``.
        batches: of ids, embeddings (N, R_c, D) and metadata, as ``MetaIndex.batches`` gives them.
        columns: of the index.

    Example:
        >>> import torch
        >>> from qdrant_client import QdrantClient
        >>> client, columns = QdrantClient(":memory:"), RingColumns(4, ((1, 1), (2, 3)))
        >>> create_collection(client, "sheets", columns)
        >>> upload(client, "sheets", [(["a"], torch.ones(1, 3, 4), pd.DataFrame())], columns)
        >>> client.count("sheets").count
        1
    """
    with extra("qdrant"):
        from qdrant_client import models

    for ids, embeddings, metadata in batches:
        vectors = embeddings.numpy()
        payloads = metadata.astype(object).where(metadata.notna(), None).to_dict("records")
        points = [
            models.PointStruct(
                id=str(uuid.uuid5(NAMESPACE, name)),
                vector={
                    vector_name(ring.stop): vectors[i, : ring.stop].tolist()
                    for ring in columns.rings
                },
                payload={"id": name} | (payloads[i] if payloads else {}),
            )
            for i, name in enumerate(ids)
        ]
        client.upsert(collection, points, wait=True)


def search_qdrant(
    client: QdrantClient,
    collection: str,
    query: Tensor,
    columns: RingColumns,
    k: int = 10,
    budget: BudgetLike | None = None,
    *,
    prefetch: Sequence[tuple[BudgetLike, int]] = (),
    where: Any = None,
) -> pd.DataFrame:
    """The k best candidates for one query, found and rescored by Qdrant.

    Args:
        client: connected to a server, or a local one.
        collection: from ``MetaIndex.to_qdrant``.
        query: (R_q, D) at the full budget.
        columns: ``index.columns`` of the index that was written there.
        k: results. Defaults to 10.
        budget: as in ``MetaIndex.search``, but ``r_c`` must be that of one of the index's budgets,
            because Qdrant reads whole named vectors.
        prefetch: as in ``MetaIndex.search``.
        where: a ``Filter`` of qdrant_client. Defaults to none.

    Returns:
        DataFrame with id, score and metadata, as ``MetaIndex.search``.

    Raises:
        ValueError: if a budget does not fit.

    Example:
        >>> import torch
        >>> from qdrant_client import QdrantClient
        >>> client, columns = QdrantClient(":memory:"), RingColumns(4, ((1, 1), (2, 3)))
        >>> create_collection(client, "sheets", columns)
        >>> upload(client, "sheets", [(["a"], torch.ones(1, 3, 4), pd.DataFrame())], columns)
        >>> search_qdrant(client, "sheets", torch.ones(2, 4), columns).score.item()
        8.0
    """
    with extra("qdrant"):
        from qdrant_client import models

    stages = plan(columns, k, budget, prefetch)
    vectors = query.detach().float().cpu().numpy()
    earlier: models.Prefetch | None = None
    for stage in stages[:-1]:
        earlier = models.Prefetch(
            prefetch=earlier, query=_prefix(vectors, stage), using=_using(stage.budget, columns),
            limit=stage.keep, filter=where,
        )  # fmt: skip
    last = stages[-1]
    found = client.query_points(
        collection, prefetch=earlier, query=_prefix(vectors, last),
        using=_using(last.budget, columns), limit=last.keep, query_filter=where, with_payload=True,
    )  # fmt: skip
    rows = [{"score": np.float32(point.score)} | (point.payload or {}) for point in found.points]
    frame = pd.DataFrame(rows, columns=None if rows else ["id", "score"])
    return frame[["id", "score", *frame.columns.drop(["id", "score"])]]


def _prefix(query: np.ndarray, stage: Stage) -> list[list[float]]:
    return query[: stage.budget.r_q].tolist()


def _using(budget: Budget, columns: RingColumns) -> str:
    ends = [ring.stop for ring in columns.rings]
    if budget.r_c not in ends:
        raise ValueError(
            f"budget {budget}: Qdrant holds prefixes of {', '.join(map(str, ends))} vectors; "
            "choose one of them for r_c"
        )
    return vector_name(budget.r_c)
