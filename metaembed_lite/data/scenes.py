"""Rendered scenes of colored shapes. They are synthetic, so the ground truth is exact.

A scene is a board whose nine places each hold one of 6 shapes in one of 8 colors. A query names two
of its objects by place. Its hard negative differs in the color or the shape of one of them.
"""

from __future__ import annotations

import numpy as np
from datasets import Dataset
from PIL import Image, ImageDraw

from metaembed_lite.data.boards import CELL, PLACES, Triple, grade_boards, render_rows
from metaembed_lite.data.task import RetrievalTask, check_sizes, split_rng, training_rng

ABOUT = """\
Rendered scenes of colored shapes: synthetic, so the ground truth is exact.

A scene is a 3 x 3 grid. Each place holds one of 6 shapes in one of 8 colors. A query names two
objects by place, such as "red circle top, gray ring left". A hard negative differs in one attribute
(color or shape) of one named object. The splits are different random samples of the same world.
"""
COLORS = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180),
    "yellow": (240, 200, 30), "purple": (128, 60, 170), "orange": (255, 127, 14),
    "black": (20, 20, 20), "gray": (140, 140, 140),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
NAMED_OBJECTS = 2  # per query, from 48 possible ones, so 1 of 2,304 random scenes fits by chance
SUPERSAMPLE = 4  # scenes are drawn this many times larger, then reduced, for smooth edges

Scene = np.ndarray  # (9, 2) int: color index, shape index


def render_scene(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Render a scene, 48 x 48 RGB. Sizes and offsets of the objects vary.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> render_scene(sample_scene(rng), rng).size
        (48, 48)
    """
    image = Image.new("RGB", (3 * CELL * SUPERSAMPLE, 3 * CELL * SUPERSAMPLE), "white")
    pen = ImageDraw.Draw(image)
    for place, (color, shape) in enumerate(scene):
        r = rng.uniform(5.2, 6.8) * SUPERSAMPLE
        x = ((place % 3) + 0.5) * CELL * SUPERSAMPLE + rng.uniform(-1, 1) * SUPERSAMPLE
        y = ((place // 3) + 0.5) * CELL * SUPERSAMPLE + rng.uniform(-1, 1) * SUPERSAMPLE
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
    """Describe the objects at some places, in the order given.

    Example:
        >>> scene = np.array([[0, 0], [7, 5]] + [[0, 0]] * 7)
        >>> describe(scene, np.array([1, 0]))
        'gray ring top, red circle top-left'
    """
    colors = list(COLORS)
    return ", ".join(
        f"{colors[scene[place, 0]]} {SHAPES[scene[place, 1]]} {PLACES[place]}" for place in places
    )


def sample_scene(rng: np.random.Generator) -> Scene:
    """Sample nine objects. Colors and shapes are independent and uniform.

    Example:
        >>> sample_scene(np.random.default_rng(0)).shape
        (9, 2)
    """
    return np.stack([rng.integers(len(COLORS), size=9), rng.integers(len(SHAPES), size=9)], axis=1)


def sample_triple(rng: np.random.Generator) -> Triple:
    """Sample a scene, the places that its query names (2,), and a hard negative.

    Example:
        >>> triple = sample_triple(np.random.default_rng(0))
        >>> int((triple.board != triple.negative).sum())
        1
    """
    scene, places = sample_scene(rng), rng.permutation(9)[:NAMED_OBJECTS]
    negative = scene.copy()
    attribute = int(rng.integers(2))
    n_values = (len(COLORS), len(SHAPES))[attribute]
    negative[places[0], attribute] += rng.integers(1, n_values)
    negative[places[0], attribute] %= n_values
    return Triple(scene, rng.permutation(places), negative)


def training_rows(n: int, seed: int = 0) -> Dataset:
    """Sample ``n`` rows (query, positive, negative): text, scene, scene with one attribute changed.

    Example:
        >>> training_rows(2).column_names
        ['query', 'positive', 'negative']
    """
    rng = training_rng(seed)
    triples = (sample_triple(rng) for _ in range(n))
    return render_rows(triples, describe, lambda scene: render_scene(scene, rng))


def load_scenes(
    n_queries: int = 500, n_train: int = 16_000, seed: int = 0, split: str = "test"
) -> RetrievalTask:
    """Load the task: text query to rendered scene, over ``2 * n_queries`` candidates.

    Half of the candidates are the queries' scenes. The other half are hard negatives, one per
    query, which differ in one attribute of a named object. Every scene that satisfies a query is
    relevant, even one that satisfies it by chance.

    Args:
        n_queries: number of queries. Defaults to 500.
        n_train: number of training rows. Defaults to 16,000.
        seed: random seed of the sampling. Defaults to 0.
        split: "train", "validation" or "test", which are different random samples. Defaults to
            "test".

    Raises:
        ValueError: on fewer than one query, a negative ``n_train``, or an unknown split.

    Example:
        >>> load_scenes(n_queries=5, n_train=0).relevance.shape
        (5, 10)
    """
    check_sizes(n_queries, n_train)
    rng = split_rng(seed, split)
    triples = [sample_triple(rng) for _ in range(n_queries)]
    scenes = [t.board for t in triples] + [t.negative for t in triples]
    return RetrievalTask(
        name="scenes",
        queries=[describe(t.board, t.places) for t in triples],
        candidates=[render_scene(scene, rng) for scene in scenes],
        relevance=grade_boards(triples, scenes),
        train=training_rows(n_train, seed) if n_train else None,
        about=ABOUT,
    )
