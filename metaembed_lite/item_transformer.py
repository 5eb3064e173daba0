"""A backbone that reads every item by the rules of ``items.read``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaembed_lite import backbones, items
from metaembed_lite.adapter import AdapterTransformer
from metaembed_lite.items import ITEM_KEYS, ItemError
from metaembed_lite.plain_text import PlainText

logger = logging.getLogger(__name__)


class ItemTransformer(AdapterTransformer):
    """sentence-transformers' ``Transformer``, which reads items by the rules of ``items.read``.

    A str is always text. It is never opened or downloaded, and cannot contain special tokens.
    Images of every form go through ``items.open_picture``. An error names the item. If an image
    and its text are too long together, the text is cut, never the image.

    Args:
        model_name_or_path: a hub id, a folder, or a bundled backbone ("tiny-vlm").
        **kwargs: those of ``AdapterTransformer``.

    Example:
        >>> transformer = ItemTransformer("tiny-vlm")
        >>> features = transformer.preprocess(["violin.png", {"text": "violin.png"}])
        >>> keys = features["item_keys"]
        >>> bool(keys[0] == keys[1]), "pixel_values" in features
        (True, False)
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self._plain_text: tuple[int, PlainText] | None = None
        self._warned_of_truncation = False

    def appended_ids(self, task: str | None) -> list[int]:
        """The tokens that are appended to the content later and need room. Here there are none.

        Args:
            task: "query", "document" or None.
        """
        return []

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Features of the inputs, and ``item_keys``, (B,) int64: equal for equal items.

        Args:
            inputs: items.
            prompt: text before each item. Defaults to none.
            **kwargs: ``task`` ("query" or "document"), and those of sentence-transformers'
                ``Transformer.preprocess``.

        Raises:
            ItemError: a ValueError that names the item that cannot be read.
        """
        if not inputs:
            return {}
        rows = self._read(inputs)
        limit = self.content_limit(kwargs.get("task"), kwargs.get("max_length"))
        if limit is not None:
            kwargs["max_length"] = limit
        try:
            if any("image" in row for row in rows):
                features = self._with_images(inputs, rows, limit, prompt, kwargs)
            else:
                features = super().preprocess(rows, prompt=prompt, **kwargs)
                if limit is not None:
                    n_full = int((_lengths(features) >= limit).sum())
                    self._warn_of_truncation(n_full, len(rows), limit, kwargs.get("task"))
        except ItemError:
            raise
        except Exception:  # each family's processor raises different classes
            self._raise_for_item(inputs, rows, prompt, kwargs)
            raise
        features[ITEM_KEYS] = torch.tensor([items.key(row) for row in rows])
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As sentence-transformers' ``Transformer.forward``, without ``item_keys``."""
        features.pop(ITEM_KEYS, None)
        tiles = features.get("aspect_ratio_ids")  # (B, images) in Mllama, 0 for no image
        if tiles is None or bool((tiles > 0).any(dim=1).all()):
            return super().forward(features, **kwargs)
        has_image = (tiles > 0).any(dim=1)  # (B,)
        states = None
        for rows, excluded in ((has_image, ()), (~has_image, backbones.MLLAMA_IMAGES)):
            if not rows.any():
                continue
            part = {
                name: value[rows] if isinstance(value, Tensor) else value
                for name, value in features.items()
                if name not in excluded
            }
            output = super().forward(part, **kwargs)[self.module_output_name]  # (b, T, H)
            if states is None:
                states = output.new_zeros(len(has_image), *output.shape[1:])  # (B, T, H)
            states[rows] = output
        features[self.module_output_name] = states
        return features

    def content_limit(self, task: str | None, max_length: int | None = None) -> int | None:
        """The largest number of content tokens that leaves room for a task's meta tokens.

        Args:
            task: "query", "document" or None.
            max_length: a lower limit for this call. Defaults to ``query_length`` or
                ``document_length``.

        Returns:
            None if there is no limit.

        Raises:
            ValueError: if there is no room for content.
        """
        n_appended = len(self.appended_ids(task))
        length = self.query_length if task == "query" else self.document_length
        if max_length is not None:
            length = max_length
        room = self.max_seq_length
        if room is None or room > 10**9:  # tokenizers without a limit say 10**30
            return length
        if room - n_appended < 1:
            raise ValueError(
                f"max_seq_length {room} leaves no room for content next to {n_appended} meta "
                "tokens: raise it, or build with fewer meta tokens"
            )
        return room - n_appended if length is None else min(room - n_appended, length)

    def count_tokens(self, inputs: Sequence[Any], task: str | None = None) -> list[int]:
        """Content tokens of each item, before anything is cut. Compare with ``content_limit``.

        Args:
            inputs: items.
            task: "query", "document" or None.

        Raises:
            ItemError: a ValueError that names the item that cannot be read.
        """
        rows = self._read(inputs)
        return [int(_lengths(self._preprocess_whole([row], None, task=task))[0]) for row in rows]

    @property
    def reads_images(self) -> bool:
        """Whether the backbone reads images."""
        return any("image" in kind for kind in self.modalities)

    def plain_text(self, text: str) -> str:
        """A user's text with the strings of special tokens split, as ``PlainText`` does."""
        size = len(self.tokenizer)  # tokens may be added after the first use
        if self._plain_text is None or self._plain_text[0] != size:
            meta_ids = [*self.appended_ids("query"), *self.appended_ids("document")]
            self._plain_text = size, PlainText(self.tokenizer, self.processor, meta_ids)
        return self._plain_text[1](text)

    def _read(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        rows = []
        for index, item in enumerate(inputs):
            try:
                row = items.read(item)
                if "image" in row and not self.reads_images:
                    raise ValueError(
                        f"{type(self.model).__name__} cannot read images: build with a "
                        "vision-language model"
                    )
            except (ValueError, OSError) as error:
                raise ItemError(index, item, str(error), " of the batch") from error
            if "text" in row:
                row["text"] = self.plain_text(row["text"])
            rows.append(row)
        return rows

    def _with_images(
        self,
        inputs: Sequence[Any],
        rows: list[dict[str, Any]],
        limit: int | None,
        prompt: str | None,
        kwargs: dict[str, Any],
    ) -> dict[str, Any]:
        """Features of rows of which some have images. Only text is cut, row by row."""
        features = self._preprocess_whole(rows, prompt, **kwargs)
        if limit is None:
            return features
        cut_rows = set()
        while (excess := _lengths(features) - limit).max() > 0:
            shorter = list(rows)
            for index in excess.clamp(min=0).nonzero()[:, 0].tolist():
                text = rows[index].get("text", "")
                if not text:
                    tokens = int(excess[index]) + limit
                    raise ItemError(index, inputs[index], self._too_large(tokens, limit, kwargs),
                                    " of the batch")  # fmt: skip
                text = self._without_last(text, int(excess[index]))
                shorter[index] = {**rows[index], "text": text}
                cut_rows.add(index)
            rows = shorter
            features = self._preprocess_whole(rows, prompt, **kwargs)
        self._warn_of_truncation(len(cut_rows), len(rows), limit, kwargs.get("task"))
        return features

    def _preprocess_whole(
        self, rows: list[dict[str, Any]], prompt: str | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Features of rows of any length, without truncation."""
        settings = dict(kwargs.get("processing_kwargs") or {})
        text = {**settings.get("text", {}), "truncation": False, "max_length": None}
        text["verbose"] = False  # no warning about a text that will be cut
        kwargs = {**kwargs, "processing_kwargs": {**settings, "text": text}}
        with_image = [i for i, row in enumerate(rows) if "image" in row]
        if len(with_image) in (0, len(rows)) or self.config.model_type not in backbones.APART:
            return super().preprocess(rows, prompt=prompt, **kwargs)
        parts = []
        for indices in (with_image, [i for i in range(len(rows)) if i not in with_image]):
            part = super().preprocess([rows[i] for i in indices], prompt=prompt, **kwargs)
            parts.append((indices, part))
        return self._join(parts)

    def _join(self, parts: list[tuple[list[int], dict[str, Any]]]) -> dict[str, Any]:
        """Features of a batch from those of its parts, each with the indices of its rows."""
        total = sum(len(indices) for indices, _ in parts)
        width = max(part["input_ids"].shape[1] for _, part in parts)
        left = self.tokenizer.padding_side == "left"
        per_item = {"num_images_per_sample"}
        if self.config.model_type == "mllama":
            per_item.update(backbones.MLLAMA_IMAGES)
        joined: dict[str, Any] = {}
        for name, value in {k: v for _, part in reversed(parts) for k, v in part.items()}.items():
            source = next(part for _, part in parts if name in part)
            per_token = isinstance(value, Tensor) and value.shape[:2] == source["input_ids"].shape
            if not per_token and name not in per_item:
                joined[name] = value
                continue
            shape = (total, width, *value.shape[2:]) if per_token else (total, *value.shape[1:])
            fill = self.tokenizer.pad_token_id if name == "input_ids" else 0
            batch = value.new_full(shape, fill)  # (B, T, ...) or (B, ...)
            for indices, part in parts:
                if name in part and per_token:
                    length = part[name].shape[1]
                    start = width - length if left else 0
                    batch[indices, start : start + length] = part[name]
                elif name in part:
                    batch[indices] = part[name]
            joined[name] = batch
        return joined

    def _without_last(self, text: str, n: int) -> str:
        """A text without its last n tokens. It is always shorter than before."""
        if self.tokenizer.is_fast:
            ends = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
            length = ends[len(ends) - n - 1][1] if len(ends) > n else 0
        else:
            tokens = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            length = len(text) * max(0, tokens - n) // max(1, tokens)
        return text[: min(length, len(text) - 1)]

    def _too_large(self, tokens: int, limit: int, kwargs: dict[str, Any]) -> str:
        appended = len(self.appended_ids(kwargs.get("task")))
        meta_tokens = f" next to {appended} meta tokens" if appended else ""
        length = "query_length" if kwargs.get("task") == "query" else "document_length"
        setting = length if getattr(self, length) == limit else "max_seq_length"
        return (
            f"without any text it takes {tokens} tokens, and there is room for {limit}"
            f"{meta_tokens}: give a smaller image, or raise {setting}"
        )

    def _warn_of_truncation(self, n_full: int, total: int, limit: int, task: str | None) -> None:
        appended = len(self.appended_ids(task))
        if n_full and appended and not self._warned_of_truncation:
            self._warned_of_truncation = True
            logger.warning(
                "%d of %d inputs have %d tokens or more, which leaves just enough room for the %d "
                "meta tokens: content beyond that is cut. Shorten the input or raise "
                "max_seq_length. (This warning appears once per model.)",
                n_full, total, limit, appended,
            )  # fmt: skip

    def _raise_for_item(
        self,
        inputs: Sequence[Any],
        rows: list[dict[str, Any]],
        prompt: str | None,
        kwargs: dict[str, Any],
    ) -> None:
        """Raise ItemError for the first row that also fails alone, if there is one."""
        for index, row in enumerate(rows):
            preprocess = self._preprocess_whole if "image" in row else super().preprocess
            try:
                preprocess([row], prompt=prompt, **kwargs)
            except Exception as cause:
                problem = f"{type(cause).__name__}: {cause}"
                raise ItemError(index, inputs[index], problem, " of the batch") from cause


def _lengths(features: dict[str, Any]) -> Tensor:
    """Tokens of each row, (B,)."""
    lengths: Tensor = features["attention_mask"].sum(dim=1)
    return lengths
