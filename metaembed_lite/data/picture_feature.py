"""A column of pictures whose rows are opened by the same rules as every other picture."""

from __future__ import annotations

from typing import Any

from datasets import Image as ImageFeature

from metaembed_lite.items import open_picture


class PictureFeature(ImageFeature):
    """datasets' ``Image``, decoded by ``open_picture``: in RGB, and with errors that name the file.

    It stores what ``Image`` stores. Where datasets rebuilds the features from a file, an ``Image``
    comes back, and ``preprocess`` opens its pictures by the same rules.
    """

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """The picture in RGB."""
        return open_picture(value)
