"""The model that is examined, with the user's items and generated ones, and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metaembed_lite import items
from metaembed_lite.items import ItemError

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

TASKS = ("query", "document")
N_OWN = 8  # of the user's items that go into comparisons of embeddings
# The largest relative difference of two embeddings that rounding explains, by the type of the
# backbone's weights. Vectors of different items differ by about 1, and a wrong mask by 0.1 or more.
TOLERANCES = {torch.bfloat16: 0.1, torch.float16: 0.03}
EXACT_TOLERANCE = 1e-3
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55)  # of the generated texts, in words
WORDS = ("red", "apple", "violin", "house", "seven", "river", "paper", "cloud", "green", "bread")


class Subject:
    """A model with the items to examine it on.

    Args:
        model: from ``build`` or ``load``, or any ``MultiVectorEncoder``.
        own: the user's items. Those that cannot be encoded are left out, with their reason.

    Attributes:
        model: the model.
        transformer: its first module, the backbone.
        own: the user's items that can be encoded.
        unreadable: for each other item its index, what it is, and why it cannot be encoded.
        samples: generated items of different lengths and sizes, and a few of the user's.

    Example:
        >>> from metaembed_lite import load
        >>> subject = Subject(load("tiny", device="cpu"), ["violin", 7])
        >>> subject.own, len(subject.unreadable), len(subject.samples)
        (['violin'], 1, 15)
    """

    def __init__(self, model: MultiVectorEncoder, own: Sequence[Any]) -> None:
        self.model, self.transformer = model, model[0]
        self.own: list[Any] = []
        self.unreadable: list[str] = []
        for index, item in enumerate(own):
            problem = self._find_problem(item)
            if problem is None:
                self.own.append(item)
            else:
                self.unreadable.append(f"item {index} ({items.describe(item)}): {problem}")
        self.texts = generate_texts()
        images = generate_images() if self.reads_images else []
        both = [{"text": self.texts[i], "image": image} for i, image in enumerate(images[:2])]
        self.samples = [*self.texts, *images, *both, *self.own[:N_OWN]]

    def _find_problem(self, item: Any) -> str | None:
        """Why an item cannot be encoded, or None. The backbone does not run."""
        try:
            items.read(item)
            self.model.preprocess([item], task="document")
        except ItemError as error:
            return error.problem
        except Exception as error:  # each family's processor raises different classes
            return str(error) or type(error).__name__
        return None

    @property
    def reads_images(self) -> bool:
        """Whether the backbone reads images."""
        return any("image" in kind for kind in getattr(self.transformer, "modalities", ()))

    @property
    def tokenizer(self) -> Any:
        """The backbone's tokenizer, or None."""
        return getattr(self.transformer, "tokenizer", None)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type of most of the backbone's weights."""
        sizes: dict[torch.dtype, int] = {}
        for parameter in self.transformer.parameters():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
        return max(sizes, key=lambda dtype: sizes[dtype])

    @property
    def tolerance(self) -> float:
        """The largest relative difference of two embeddings that rounding explains."""
        return TOLERANCES.get(self.dtype, EXACT_TOLERANCE)

    def encode(self, inputs: Sequence[Any], task: str, batch_size: int = 64) -> list[Tensor]:
        """Embeddings (R, D) of items, on the CPU, in the type that the model gives."""
        encode = self.model.encode_query if task == "query" else self.model.encode_document
        vectors = encode(list(inputs), batch_size=batch_size, show_progress_bar=False)
        return [v.detach().cpu() for v in vectors]

    @cached_property
    def embeddings(self) -> dict[str, list[Tensor]]:
        """Embeddings of the samples for each task, encoded as one batch."""
        return {task: self.encode(self.samples, task) for task in TASKS}

    @cached_property
    def own_embeddings(self) -> list[Tensor]:
        """Embeddings of all the user's items as candidates."""
        return self.encode(self.own, "document")


def generate_texts() -> list[str]:
    """Texts of very different lengths.

    Example:
        >>> [len(text.split()) for text in generate_texts()][:4]
        [1, 2, 3, 5]
    """
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=n)) for n in LENGTHS]


def generate_images() -> list[Image.Image]:
    """Colored RGB images of different shapes, without any symmetry.

    Example:
        >>> [image.size for image in generate_images()]
        [(64, 64), (96, 48), (48, 80)]
    """
    rng = np.random.default_rng(1)
    images = []
    for width, height in ((64, 64), (96, 48), (48, 80)):
        coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST)
        images.append(image)
    return images


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The largest relative difference between corresponding vectors of two lists of embeddings.

    It is ``|a - b| / max(|a|, |b|)``: 0 for equal vectors, about 1.4 for unrelated ones, and
    infinite if the numbers of vectors differ or a value is not a number.

    Example:
        >>> difference([torch.eye(2)], [torch.eye(2)]), difference([torch.eye(2)], [torch.eye(3)])
        (0.0, inf)
    """
    largest = 0.0
    for one, other in zip(first, second, strict=True):
        if one.shape != other.shape:
            return float("inf")
        a, b = one.double(), other.double()
        sizes = torch.maximum(a.norm(dim=-1), b.norm(dim=-1)).clamp(min=1e-12)
        relative = ((a - b).norm(dim=-1) / sizes).flatten()  # (R,)
        if not torch.isfinite(relative).all():
            return float("inf")
        largest = max(largest, relative.max().item() if len(relative) else 0.0)
    return largest
