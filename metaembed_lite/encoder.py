"""The model that ``build`` and ``load`` return: an encoder whose errors name the item."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sentence_transformers

from metaembed_lite import items, model_card
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.items import ItemError
from metaembed_lite.meta_tokens import MetaTokenTransformer
from metaembed_lite.scoring import at_least_float32

SINGLE_ITEMS = (str, bytes, bytearray, Mapping, np.ndarray)  # one item, although iterable


class MultiVectorEncoder(sentence_transformers.MultiVectorEncoder):
    """sentence-transformers' ``MultiVectorEncoder``, with errors that name an item by its index.

    ``encode`` sorts items into batches, so an index within a batch is not the index in the list
    that was passed. All items are checked before the first is encoded. The class has its parent's
    name, so both classes load a saved model.

    Example:
        >>> from metaembed_lite import load
        >>> load("tiny", device="cpu").encode_query(["violin, red apple", 7])
        Traceback (most recent call last):
        ...
        metaembed_lite.items.ItemError: item 1 ...
    """

    def encode(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As the parent's ``encode``.

        Raises:
            ItemError: a ValueError that names the first item that cannot be read.
        """
        if isinstance(inputs, Iterable) and not isinstance(inputs, SINGLE_ITEMS):
            inputs = list(inputs)  # also a generator, or a column of a DataFrame
        if self.is_singular_input(inputs):
            self._check([inputs])
        else:
            if not isinstance(inputs, list):
                inputs = inputs.tolist() if isinstance(inputs, np.ndarray) else list(inputs)
            self._check(inputs)
        try:
            return super().encode(inputs, *args, **kwargs)
        except ItemError as error:
            index = items.find([inputs] if self.is_singular_input(inputs) else inputs, error.item)
            if index is None:
                raise
            raise ItemError(index, error.item, error.problem) from error

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Features of the inputs. Only the first module decides what an item is."""
        if isinstance(self[0], ItemTransformer):
            return self[0].preprocess(inputs, prompt=prompt, **kwargs)
        return super().preprocess(inputs, prompt=prompt, **kwargs)

    def _check(self, inputs: list[Any]) -> None:
        if not isinstance(self[0], ItemTransformer):
            return
        for index, item in enumerate(inputs):
            try:
                items.check(item)
            except ValueError as error:
                raise ItemError(index, item, str(error)) from error


def configure(model: MultiVectorEncoder) -> None:
    """Set the model card's template, and float32 for the modules after the backbone.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu").half()
        >>> configure(model)
        >>> model.encode_query("violin, red apple").dtype
        torch.float32
    """
    model.model_card_data.template_path = model_card.TEMPLATE
    if isinstance(model[0], MetaTokenTransformer):  # its output has the type of ``precision``
        model[0].precision = at_least_float32(model[0].precision)
        for module in list(model)[1:]:
            module.to(model[0].precision.dtype)
