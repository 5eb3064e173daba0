"""Small copies of images, which an index stores and a page can contain."""

from __future__ import annotations

import io

from PIL import Image


def encode_thumbnail(picture: Image.Image, longest: int) -> bytes:
    """A WebP file of an image whose longer side has at most ``longest`` pixels.

    Args:
        picture: in RGB. It is not changed.
        longest: pixels of the longer side. A smaller image keeps its size.

    Example:
        >>> file = encode_thumbnail(Image.new("RGB", (640, 320)), longest=160)
        >>> Image.open(io.BytesIO(file)).size
        (160, 80)
    """
    thumbnail = picture.copy()  # thumbnail() works in place
    thumbnail.thumbnail((longest, longest))
    file = io.BytesIO()
    thumbnail.save(file, "WEBP", quality=80)
    return file.getvalue()
