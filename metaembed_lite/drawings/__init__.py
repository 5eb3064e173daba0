"""The drawings of the ideas in the book. Each carries one idea.

``game.py`` draws what is searched, ``network.py`` what happens in the model, ``vectors.py`` how
vectors are compared and stored, ``search.py`` what a search reads, and ``curriculum.py`` how the
tiny backbone is pretrained. They share the boxes, arrows and labels of ``canvas``.
Queries are blue, candidates are orange, and what is right is green in every drawing.
"""

from metaembed_lite.extras import extra

with extra("plots"):
    import matplotlib  # noqa: F401

from metaembed_lite.drawings.curriculum import draw_curriculum
from metaembed_lite.drawings.game import draw_game
from metaembed_lite.drawings.network import draw_architectures, draw_lora, draw_sequence
from metaembed_lite.drawings.search import draw_cascade
from metaembed_lite.drawings.vectors import draw_corners, draw_rings, draw_scores, draw_sum

__all__ = [
    "draw_architectures",
    "draw_cascade",
    "draw_corners",
    "draw_curriculum",
    "draw_game",
    "draw_lora",
    "draw_rings",
    "draw_scores",
    "draw_sequence",
    "draw_sum",
]
