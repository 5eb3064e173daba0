"""What a recipe's training starts with: its model, new or trained already, and its validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaembed_lite.data import find_suite, load_task
from metaembed_lite.loading import load
from metaembed_lite.model import build
from metaembed_lite.settings import parameters

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

    from metaembed_lite.data import RetrievalTask
    from metaembed_lite.recipes import Recipe


def load_model(recipe: Recipe) -> MultiVectorEncoder:
    """Build the model of a recipe, or load the one that it starts from.

    Example:
        >>> from metaembed_lite import recipes
        >>> load_model(recipes.read("tiny", start_from="tiny-handwriting")).loaded_from
        'tiny-handwriting'
    """
    if "start_from" in recipe.model:
        return continue_from(**recipe.model)
    return build(**recipe.model)


def continue_from(
    start_from: str, device: str | None = None, dtype: str | None = None
) -> MultiVectorEncoder:
    """Load a trained model to train it further: ``load``, with the names that a recipe uses.

    Args:
        start_from: a bundled name such as "tiny", a folder, or a hub id.
        device: "cpu", "cuda", ... Defaults to the best available one.
        dtype: the backbone's type, "bfloat16", ... Defaults to the checkpoint's.

    Raises:
        FileNotFoundError, OSError, ValueError: as ``load``.

    Example:
        >>> continue_from("tiny", device="cpu").loaded_from
        'tiny'
    """
    return load(start_from, device, dtype)


def load_validation(recipe: Recipe) -> RetrievalTask | None:
    """Load the validation split of a recipe's suite, if the recipe validates.

    Raises:
        ValueError: if the suite has no validation split.

    Example:
        >>> from metaembed_lite import recipes
        >>> settings = ["data.n_queries=4", "train.validate_every=100"]
        >>> load_validation(recipes.read("tiny", settings))
        RetrievalTask('stickers': 4 queries, 8 candidates, 0 training rows)
    """
    if not recipe.train.get("validate_every") and not recipe.train.get("keep_best"):
        return None
    suite = recipe.data["name"]
    if "split" not in parameters(find_suite(suite)):
        raise ValueError(
            f"suite {suite!r} has no validation split: leave validate_every and keep_best out of "
            "the recipe, or call train(..., validation=...) in Python"
        )
    return load_task(**recipe.data | {"split": "validation", "n_train": 0})
