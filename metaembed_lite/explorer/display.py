"""What the page displays: sentences, items as texts and thumbnails, and attention maps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from metaembed_lite.data.task import Item
from metaembed_lite.explorer.quantization import to_base64
from metaembed_lite.interpretability import image_attention
from metaembed_lite.items import read
from metaembed_lite.thumbnails import encode_thumbnail

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

MAX_TEXT_CHARS = 300
THUMBNAIL_PX = 128  # of an image's longer side
MAX_MAP_CELLS = 10  # of an attention map's longer side. A finer map is averaged down to it


def describe_content(n_queries: int, n_candidates: int, n_shown: int, depth: int) -> str:
    """One line below the ranking: what it covers, and on what the quality was measured.

    Args:
        n_queries, n_candidates: those of the task.
        n_shown: candidates on the page.
        depth: how many of the task's best candidates are surely among them. 0 if unknown.

    Example:
        >>> describe_content(10, 20, 20, 0)[:59]
        'This page ranks all 20 candidates with vectors in int8. NDC'
    """
    if n_shown == n_candidates:
        content = f"all {n_candidates:,} candidates"
    else:
        content = f"{n_shown:,} of the task's {n_candidates:,} candidates"
        if depth:
            content += f", including the task's best {depth} at each trained budget,"
    return (
        f"This page ranks {content} with vectors in int8. NDCG@5 and P@1 were measured on all "
        f"{n_queries:,} queries and {n_candidates:,} candidates with vectors in float32."
    )


def explain_gaps(relevance: np.ndarray, pool: np.ndarray | None) -> list[str]:
    """For each query, a sentence on what its ranking lacks. Empty if it lacks nothing.

    Args:
        relevance: (Q, N) grades of the candidates on the page.
        pool: (Q, N) bool, or None if every candidate is in every pool.

    Example:
        >>> explain_gaps(np.array([[1, 0], [0, 0]]), None)
        ['', 'None of the 2 candidates ranked here is relevant to this query.']
    """
    n = relevance.shape[1]
    notes = []
    for row, grades in enumerate(relevance):
        ranked = n if pool is None else int(pool[row].sum())
        if not ranked:
            none = "the only candidate" if n == 1 else f"none of the {n:,} candidates"
            notes.append(
                f"Nothing to rank: this query has a candidate pool, and {none} on this page is "
                f"{'not ' * (n == 1)}in it."
            )
        elif not (grades > 0).any():
            none = "The only candidate" if ranked == 1 else f"None of the {ranked:,} candidates"
            notes.append(f"{none} ranked here is {'not ' * (ranked == 1)}relevant to this query.")
        else:
            notes.append("")
    return notes


def item_to_json(item: Item, index: int) -> dict[str, Any]:
    """An item as the page shows it.

    Args:
        item: a text, an image, or both.
        index: index of the item in the task.

    Returns:
        ``id`` (the index), ``text`` (cut to ``MAX_TEXT_CHARS``, or empty) and ``image`` (a
        thumbnail as data URL, or None).

    Example:
        >>> item_to_json("violin", 4)
        {'id': 4, 'text': 'violin', 'image': None}
    """
    parts = read(item)
    text, picture = parts.get("text", ""), parts.get("image")
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS].rstrip() + " …"
    image = None if picture is None else image_to_data_url(picture)
    return {"id": index, "text": text, "image": image}


def image_to_data_url(picture: Image.Image) -> str:
    """An image as a thumbnail of at most ``THUMBNAIL_PX``, which a page can contain.

    Example:
        >>> image_to_data_url(Image.new("RGB", (8, 8)))[:23]
        'data:image/webp;base64,'
    """
    file = encode_thumbnail(picture, THUMBNAIL_PX)
    return "data:image/webp;base64," + base64.b64encode(file).decode()


def attention_to_json(model: MultiVectorEncoder, items: Sequence[Item]) -> dict[str, Any] | None:
    """The attention of each candidate vector over its image, for items that are only an image.

    Args:
        model: built or loaded with meta tokens.
        items: candidates.

    Returns:
        ``maps``, base64 of uint8: the R_c maps of one item after another, each scaled to its own
        maximum. ``grids``: for each item [offset, height, width] or None. None if there is no map.

    Example:
        >>> from metaembed_lite import build
        >>> model = build("tiny-vlm", r_q=1, r_c=2, dim=8, device="cpu")
        >>> attention_to_json(model, [Image.new("RGB", (84, 84)), "a text"])["grids"]
        [[0, 5, 5], None]
    """
    parts: list[np.ndarray] = []
    grids: list[list[int] | None] = []
    offset = 0
    for item in items:
        if not isinstance(item, Image.Image):
            grids.append(None)
            continue
        try:
            maps = image_attention(model, item)
        except ValueError:  # a backbone that does not read images as tokens has no such maps
            return None
        shrink = min(1.0, MAX_MAP_CELLS / max(maps.shape[1:]))
        size = [max(1, round(side * shrink)) for side in maps.shape[1:]]
        maps = torch.nn.functional.adaptive_avg_pool2d(maps, size)
        maps = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        parts.append((255 * maps).round().to(torch.uint8).numpy().ravel())
        grids.append([offset, *size])
        offset += parts[-1].size
    return {"maps": to_base64(np.concatenate(parts)), "grids": grids} if parts else None
