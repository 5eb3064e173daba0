"""Rendered scenes of shapes: synthetic, so that the ground truth is exact.

A scene is a 3 x 3 grid; each place holds one of 6 shapes in one of 8 colors. A query names a few
of its objects by place; a hard negative differs in one attribute (color or shape) of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from metaembed_lite.data.boards import CELL, PLACES, Triple, satisfied, table
from metaembed_lite.data.task import RetrievalTask, check_sizes, split_rng, training_rng

if TYPE_CHECKING:
    from datasets import Dataset

COLORS = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180),
    "yellow": (240, 200, 30), "purple": (128, 60, 170), "orange": (255, 127, 14),
    "black": (20, 20, 20), "gray": (140, 140, 140),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
NAMED = 2  # objects a query names: 48 kinds a place, one scene in 2,304 fits by chance

Scene = np.ndarray  # (9, 2) int: color index, shape index


def draw_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """A scene as an image, 48 x 48 RGB; sizes and offsets vary, drawn at four times the size."""
    scale = 4
    image = Image.new("RGB", (3 * CELL * scale, 3 * CELL * scale), "white")
    pen = ImageDraw.Draw(image)
    for place, (color, shape) in enumerate(scene):
        r = rng.uniform(5.2, 6.8) * scale
        x, y = (
            ((place % 3) + 0.5) * CELL * scale + rng.uniform(-1, 1) * scale,
            ((place // 3) + 0.5) * CELL * scale + rng.uniform(-1, 1) * scale,
        )
        _draw_shape(pen, SHAPES[shape], list(COLORS.values())[color], x, y, r)
    return image.resize((3 * CELL, 3 * CELL), Image.Resampling.LANCZOS)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, fill: tuple[int, int, int], x: float, y: float, r: float
) -> None:
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=round(r * 0.45))
    elif shape == "square":
        pen.rectangle((x - 0.85 * r, y - 0.85 * r, x + 0.85 * r, y + 0.85 * r), fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + 0.8 * r), (x + r, y + 0.8 * r)], fill=fill)
    elif shape == "diamond":
        pen.polygon([(x, y - r), (x + 0.7 * r, y), (x, y + r), (x - 0.7 * r, y)], fill=fill)
    else:  # cross
        pen.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=fill)
        pen.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=fill)


def describe(scene: Scene, places: np.ndarray) -> str:
    """The query that names the objects at the given places: "red circle top, gray ring left"."""
    return ", ".join(
        f"{list(COLORS)[scene[p, 0]]} {SHAPES[scene[p, 1]]} {PLACES[p]}" for p in places
    )


def random_scene(rng: np.random.Generator) -> Scene:
    """Nine objects, colors and shapes independent and uniform."""
    return np.stack([rng.integers(len(COLORS), size=9), rng.integers(len(SHAPES), size=9)], axis=1)


def draw_triple(rng: np.random.Generator) -> Triple:
    """A random scene, the places a query names (NAMED,), and its hard negative."""
    scene, places = random_scene(rng), rng.permutation(9)[:NAMED]
    negative = scene.copy()
    attribute = int(rng.integers(2))
    kinds = (len(COLORS), len(SHAPES))[attribute]
    negative[places[0], attribute] += rng.integers(1, kinds)
    negative[places[0], attribute] %= kinds
    return Triple(scene, rng.permutation(places), negative)


def training_rows(n: int, seed: int = 0) -> Dataset:
    """``n`` rows (query, positive, negative): text, scene, scene one attribute away."""
    rng = training_rng(seed)
    triples = (draw_triple(rng) for _ in range(n))
    return table(triples, describe, lambda scene: draw_scene(scene, rng))


def scenes(
    n_queries: int = 500, n_train: int = 16_000, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Text query to rendered scene, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' scenes, half are hard negatives, one a query, that
    differ in one attribute of a named object. Every scene that satisfies a query counts as
    relevant, also one that does so by chance. The splits are different random draws.

    Raises:
        ValueError: on sizes below one or an unknown split.
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    triples = [draw_triple(rng) for _ in range(n_queries)]
    contents = [t.board for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="scenes",
        queries=[describe(t.board, t.places) for t in triples],
        candidates=[draw_scene(scene, rng) for scene in contents],
        relevance=satisfied(triples, contents),
        train=training_rows(n_train, seed) if n_train else None,
        about=__doc__ or "",
    )
