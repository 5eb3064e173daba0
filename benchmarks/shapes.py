"""Boards of 3 x 3 colored shapes, which ``tiny-vlm`` also saw in pretraining."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from metaembed_lite.data.boards import CELL

COLORS = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180),
    "yellow": (240, 200, 30), "purple": (128, 60, 170), "orange": (255, 127, 14),
    "black": (20, 20, 20), "gray": (140, 140, 140),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SUPERSAMPLE = 4  # boards are drawn this many times larger, then reduced, for smooth edges

ShapeBoard = np.ndarray  # (9, 2) int: color index, shape index


def sample_shapes(rng: np.random.Generator) -> ShapeBoard:
    """Sample nine shapes. Colors and shapes are independent and uniform."""
    return np.stack([rng.integers(len(COLORS), size=9), rng.integers(len(SHAPES), size=9)], axis=1)


def render_shapes(board: ShapeBoard, rng: np.random.Generator) -> Image.Image:
    """Render a board, 48 x 48 RGB. Sizes and offsets of the shapes vary."""
    image = Image.new("RGB", (3 * CELL * SUPERSAMPLE, 3 * CELL * SUPERSAMPLE), "white")
    pen = ImageDraw.Draw(image)
    for place, (color, shape) in enumerate(board):
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
