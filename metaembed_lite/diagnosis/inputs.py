"""Checks of inputs: readable items, pictures of every form, special tokens in text, cut items."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as ExifTag

from metaembed_lite import items
from metaembed_lite.diagnosis.finding import FAILED, OK, SKIPPED, WARNING, Finding
from metaembed_lite.diagnosis.subject import Subject, difference, generate_images
from metaembed_lite.item_transformer import ItemTransformer
from metaembed_lite.plain_text import control_strings

MAX_STRINGS = 256  # special tokens that are typed into a text
MAX_OWN_PICTURES = 4


def check_items(subject: Subject) -> Finding:
    """Each of the user's items can be read and tokenized.

    Example:
        >>> from metaembed_lite import load
        >>> check_items(Subject(load("tiny", device="cpu"), ["violin", 7])).measured[:56]
        '1 of 2 items cannot be encoded: item 1 (int): int is not'
    """
    total = len(subject.own) + len(subject.unreadable)
    if not total:
        return Finding(SKIPPED, "there are no items of yours")
    if subject.unreadable:
        named = "; ".join(subject.unreadable[:3])
        return Finding(
            FAILED,
            f"{len(subject.unreadable)} of {total:,} items cannot be encoded: {named}",
            "mend them or leave them out",
        )
    kinds = [tuple(sorted(items.read(item))) for item in subject.own]
    counts = [f"{kinds.count(kind):,} {' with '.join(kind)}" for kind in sorted(set(kinds))]
    return Finding(OK, f"{total:,} items: {', '.join(counts)}")


def check_lengths(subject: Subject) -> Finding:
    """None of the user's items is longer than the model reads.

    Example:
        >>> from metaembed_lite import load
        >>> check_lengths(Subject(load("tiny", device="cpu"), ["violin", "7 " * 2000])).measured
        '1 of 2 items is cut: the longest, item 1, has 2,006 tokens, and there is room for 488'
    """
    transformer = subject.transformer
    if not subject.own:
        return Finding(SKIPPED, "there are no items of yours")
    if not isinstance(transformer, ItemTransformer):
        return Finding(
            SKIPPED, f"{type(transformer).__name__} is not from build() or load(): it cuts silently"
        )
    limit = transformer.content_limit("document")
    lengths = transformer.count_tokens(subject.own, "document")
    longest = max(lengths)
    if limit is None or longest <= limit:
        room = "no limit" if limit is None else f"room for {limit:,}"
        return Finding(OK, f"the longest of {len(lengths):,} items has {longest:,} tokens, {room}")
    n_cut = sum(length > limit for length in lengths)
    return Finding(
        WARNING,
        f"{n_cut:,} of {len(lengths):,} items {'is' if n_cut == 1 else 'are'} cut: the longest, "
        f"item {lengths.index(longest)}, has {longest:,} tokens, and there is room for {limit:,}",
        "split long items, or build with a larger max_seq_length if the backbone reads more",
    )


def check_special_tokens(subject: Subject) -> Finding:
    """The model's special tokens, typed into a text, stay plain text.

    Example:
        >>> from metaembed_lite import load
        >>> check_special_tokens(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    tokenizer = subject.tokenizer
    if tokenizer is None:
        return Finding(SKIPPED, "the model has no tokenizer")
    strings = control_strings(tokenizer, getattr(subject.transformer, "processor", None))
    for ids in getattr(subject.transformer, "meta_ids", {}).values():
        strings |= set(tokenizer.convert_ids_to_tokens(list(ids)))
    chosen = sorted(s for s in strings if s.strip())[:MAX_STRINGS]
    remedy = "a stranger's text can steer the model: build or load it with metaembed_lite, which "
    remedy += "splits such strings"
    try:
        became = _find_special(subject, chosen)
    except Exception as error:  # such as a text with an image token, but no image
        return Finding(FAILED, f"a text with special tokens raises {_explain(error)}", remedy)
    if not became:
        return Finding(OK, f"{len(chosen)} special tokens in texts were read as plain text")
    names = ", ".join(map(repr, became[:4]))
    return Finding(
        FAILED,
        f"{len(became)} of {len(chosen)} special tokens in a text become special: {names}",
        remedy,
    )


def _find_special(subject: Subject, strings: list[str]) -> list[str]:
    """The strings whose token appears more often in a text that contains them."""
    ids = subject.tokenizer.convert_tokens_to_ids(strings)
    plain = _content_ids(subject, ["one two"])[0]
    typed = _content_ids(subject, [f"one {string} two" for string in strings])
    return [
        string
        for string, token, row in zip(strings, ids, typed, strict=True)
        if token != subject.tokenizer.unk_token_id and row.count(token) > plain.count(token)
    ]


def _content_ids(subject: Subject, texts: list[str]) -> list[list[int]]:
    """The tokens of each text as the model reads it, without padding."""
    features = subject.model.preprocess(texts, task="document")
    pairs = zip(features["input_ids"], features["attention_mask"].bool(), strict=True)
    return [row[mask].tolist() for row, mask in pairs]


def check_pictures(subject: Subject) -> Finding:
    """A picture of any form is read as ``items.open_picture`` opens it, by path and by object.

    Example:
        >>> from metaembed_lite import load
        >>> check_pictures(Subject(load("tiny", device="cpu"), [])).result
        'ok'
    """
    if not subject.reads_images:
        return Finding(SKIPPED, "the model reads no images")
    own = [item for item in subject.own if "image" in items.read(item)][:MAX_OWN_PICTURES]
    with TemporaryDirectory() as folder:
        forms = dict(_write_pictures(Path(folder)))
        sources: dict[str, Any] = {}
        for form, path in forms.items():
            sources[f"{form} by path"] = path
            sources[f"{form} as a PIL image"] = Image.open(path)
        for i, item in enumerate(own):
            sources[f"your picture {i} ({items.describe(item)})"] = item
        differences = _compare_pictures(subject, sources)
    wrong = {k: d for k, d in differences.items() if not d <= subject.tolerance}
    if not wrong:
        forms_and_own = f"{len(forms)} forms by path and as a PIL image"
        forms_and_own += f", and {len(own)} of your pictures" if own else ""
        largest = max(differences.values())
        return Finding(OK, f"{forms_and_own} differ from open_picture by at most {largest:.1e}")
    named = ", ".join(f"{name} by {size:.2f}" for name, size in list(wrong.items())[:4])
    return Finding(
        FAILED,
        f"{len(wrong)} of {len(differences)} pictures differ from what open_picture gives: {named}",
        "open every picture with metaembed_lite.items.open_picture, in training and in use",
    )


def _compare_pictures(subject: Subject, sources: dict[str, Any]) -> dict[str, float]:
    """How far the embedding of each picture is from that of its upright RGB version."""
    parts = [items.read(source) for source in sources.values()]
    opened = [part["image"] if set(part) == {"image"} else part for part in parts]
    given = subject.encode(list(sources.values()), "document")
    expected = subject.encode(opened, "document")
    return {
        name: difference([one], [other])
        for name, one, other in zip(sources, given, expected, strict=True)
    }


def _write_pictures(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write a picture in every form that is easy to read wrongly: its name and its path."""
    picture = generate_images()[1]  # wide, so that a rotation shows
    width, height = picture.size
    gray = np.asarray(picture.convert("L"))
    hidden = np.asarray(picture).copy()
    is_clear = np.zeros((height, width), dtype=bool)
    is_clear[:, : width // 2] = True
    hidden[is_clear] = (200, 0, 90)  # a color that is not to be seen
    alpha = np.where(is_clear, 0, 255).astype(np.uint8)
    transparent = Image.fromarray(np.dstack([hidden, alpha]))
    turned = Image.Exif()
    turned[ExifTag.Orientation] = 6
    files: list[tuple[str, str, Image.Image, dict[str, Any]]] = [
        ("transparent", "transparent.png", transparent, {}),
        ("with a transparent palette", "palette.png", transparent.quantize(16), {}),
        ("turned by EXIF", "turned.jpg", picture, {"exif": turned}),
        ("16-bit gray", "deep.png", Image.fromarray(gray.astype(np.uint16) * 257), {}),
        ("gray", "gray.png", Image.fromarray(gray), {}),
        ("CMYK", "cmyk.jpg", picture.convert("CMYK"), {}),
    ]
    for form, name, image, settings in files:
        image.save(folder / name, **settings)
        yield form, folder / name


def _explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
