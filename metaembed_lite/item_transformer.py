"""A backbone that reads items by one set of rules: see ``items.read``."""

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
    """sentence-transformers' ``Transformer``, where a text is text and a picture is one picture.

    A str is never opened or fetched, and cannot spell special tokens. Pictures of every form go
    through ``items.open_picture``. An error names the item. Where an image and its text are too
    long together, the text is cut, never the image.
    """

    def __init__(self, model_name_or_path: str, **kwargs: Any) -> None:
        super().__init__(model_name_or_path, **kwargs)
        self._plain_text: tuple[int, PlainText] | None = None
        self._told_of_cuts = False

    def appended_ids(self, task: str | None) -> list[int]:
        """The tokens that will follow the content, for which room is kept: here none."""
        return []

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Features of the inputs, among them ``item_keys`` (B,) int64: equal items, equal keys.

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
                    full = int((_lengths(features) >= limit).sum())
                    self._tell_of_cuts(full, len(rows), limit, kwargs.get("task"))
        except ItemError:
            raise
        except Exception:  # each family's processor raises different errors
            self._blame(inputs, rows, prompt, kwargs)
            raise
        features[ITEM_KEYS] = torch.tensor([items.key(row) for row in rows])
        return features

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """As sentence-transformers' ``Transformer``; ``item_keys`` is removed."""
        features.pop(ITEM_KEYS, None)
        tiles = features.get("aspect_ratio_ids")  # (B, images) in Mllama, 0 where there is none
        if tiles is None or bool((tiles > 0).any(dim=1).all()):
            return super().forward(features, **kwargs)
        seeing = (tiles > 0).any(dim=1)
        states = None
        for rows, without in ((seeing, ()), (~seeing, backbones.MLLAMA_IMAGES)):
            if not rows.any():
                continue
            part = {
                name: value[rows] if isinstance(value, Tensor) else value
                for name, value in features.items()
                if name not in without
            }
            output = super().forward(part, **kwargs)[self.module_output_name]
            if states is None:
                states = output.new_zeros(len(seeing), *output.shape[1:])
            states[rows] = output
        features[self.module_output_name] = states
        return features

    def content_limit(self, task: str | None, max_length: int | None = None) -> int | None:
        """The most content tokens that leave room for a task's meta tokens; None: no limit.

        Raises:
            ValueError: if there is no room for content.
        """
        reserve = len(self.appended_ids(task))
        length = self.query_length if task == "query" else self.document_length
        if max_length is not None:
            length = max_length
        room = self.max_seq_length
        if room is None or room > 10**9:  # tokenizers without a limit say 10**30
            return length
        if room - reserve < 1:
            raise ValueError(
                f"max_seq_length {room} leaves no room for content next to {reserve} meta tokens; "
                "raise it, or build with fewer meta tokens"
            )
        return room - reserve if length is None else min(room - reserve, length)

    @property
    def sees(self) -> bool:
        """Whether the backbone reads pictures."""
        return any("image" in kind for kind in self.modalities)

    def plain_text(self, text: str) -> str:
        """A user's text with the strings of special tokens broken: see ``PlainText``."""
        size = len(self.tokenizer)  # tokens may be added after a first use
        if self._plain_text is None or self._plain_text[0] != size:
            meta = [*self.appended_ids("query"), *self.appended_ids("document")]
            self._plain_text = size, PlainText(self.tokenizer, self.processor, meta)
        return self._plain_text[1](text)

    def _read(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        rows = []
        for index, item in enumerate(inputs):
            try:
                row = items.read(item)
                if "image" in row and not self.sees:
                    raise ValueError(
                        f"{type(self.model).__name__} reads no pictures: build on a "
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
        """Features of rows of which some have images: only text is cut, row by row."""
        features = self._untruncated(rows, prompt, **kwargs)
        if limit is None:
            return features
        cut = set()
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
                cut.add(index)
            rows = shorter
            features = self._untruncated(rows, prompt, **kwargs)
        self._tell_of_cuts(len(cut), len(rows), limit, kwargs.get("task"))
        return features

    def _untruncated(
        self, rows: list[dict[str, Any]], prompt: str | None, **kwargs: Any
    ) -> dict[str, Any]:
        settings = dict(kwargs.get("processing_kwargs") or {})
        text = {**settings.get("text", {}), "truncation": False, "max_length": None}
        text["verbose"] = False  # no warning about a length that is about to be cut
        kwargs = {**kwargs, "processing_kwargs": {**settings, "text": text}}
        seeing = [i for i, row in enumerate(rows) if "image" in row]
        if len(seeing) in (0, len(rows)) or self.config.model_type not in backbones.APART:
            return super().preprocess(rows, prompt=prompt, **kwargs)
        parts = []
        for indices in (seeing, [i for i in range(len(rows)) if i not in seeing]):
            part = super().preprocess([rows[i] for i in indices], prompt=prompt, **kwargs)
            parts.append((indices, part))
        return self._joined(parts)

    def _joined(self, parts: list[tuple[list[int], dict[str, Any]]]) -> dict[str, Any]:
        """Features of one batch from those of its parts, each with the indices of its rows."""
        total = sum(len(indices) for indices, _ in parts)
        width = max(part["input_ids"].shape[1] for _, part in parts)
        left = self.tokenizer.padding_side == "left"
        per_item = {"num_images_per_sample"}
        if self.config.model_type == "mllama":
            per_item.update(backbones.MLLAMA_IMAGES)
        joined: dict[str, Any] = {}
        for name, value in {k: v for _, part in reversed(parts) for k, v in part.items()}.items():
            owner = next(part for _, part in parts if name in part)
            along = isinstance(value, Tensor) and value.shape[:2] == owner["input_ids"].shape
            if not along and name not in per_item:
                joined[name] = value
                continue
            shape = (total, width, *value.shape[2:]) if along else (total, *value.shape[1:])
            fill = self.tokenizer.pad_token_id if name == "input_ids" else 0
            whole = value.new_full(shape, fill)
            for indices, part in parts:
                if name in part and along:
                    length = part[name].shape[1]
                    start = width - length if left else 0
                    whole[indices, start : start + length] = part[name]
                elif name in part:
                    whole[indices] = part[name]
            joined[name] = whole
        return joined

    def _without_last(self, text: str, n: int) -> str:
        """A text without its last n tokens, and always shorter than it was."""
        if self.tokenizer.is_fast:
            ends = self.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
            kept = ends[len(ends) - n - 1][1] if len(ends) > n else 0
        else:
            tokens = len(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            kept = len(text) * max(0, tokens - n) // max(1, tokens)
        return text[: min(kept, len(text) - 1)]

    def _too_large(self, tokens: int, limit: int, kwargs: dict[str, Any]) -> str:
        appended = len(self.appended_ids(kwargs.get("task")))
        others = f" next to {appended} meta tokens" if appended else ""
        return (
            f"without any text it takes {tokens} tokens, and there is room for {limit}{others}: "
            "give a smaller picture, or raise max_seq_length"
        )

    def _tell_of_cuts(self, full: int, total: int, limit: int, task: str | None) -> None:
        appended = len(self.appended_ids(task))
        if full and appended and not self._told_of_cuts:
            self._told_of_cuts = True
            logger.warning(
                "%d of %d inputs reach %d tokens, all that leaves room for the %d meta tokens: "
                "content beyond that is cut. Shorten the input or raise max_seq_length. (This "
                "warning appears once per model.)",
                full, total, limit, appended,
            )  # fmt: skip

    def _blame(
        self,
        inputs: Sequence[Any],
        rows: list[dict[str, Any]],
        prompt: str | None,
        kwargs: dict[str, Any],
    ) -> None:
        """Raises ItemError for the first row that also fails alone, if there is one."""
        for index, row in enumerate(rows):
            read = self._untruncated if "image" in row else super().preprocess
            try:
                read([row], prompt=prompt, **kwargs)
            except Exception as cause:
                problem = f"{type(cause).__name__}: {cause}"
                raise ItemError(index, inputs[index], problem, " of the batch") from cause


def _lengths(features: dict[str, Any]) -> Tensor:
    """Tokens of each row, (B,)."""
    lengths: Tensor = features["attention_mask"].sum(dim=1)
    return lengths
