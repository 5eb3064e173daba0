"""Texts: special tokens, paths, addresses, and odd characters. A text stays a text."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from abuse.models import tiny
from abuse.tally import Effort, Row
from metaembed_lite.plain_text import control_strings

ORDINARY = {
    "empty": "", "a space": " ", "a line": "\n", "NUL": "a\0b", "right to left": "\u202eabc\u202c",
    "zero width": "a\u200bb\u200dc\ufeff", "combining": "e" + "\u0301" * 400,
    "emoji": "👩‍👩‍👧‍👦" * 30,
    "controls": "".join(map(chr, range(32))), "private use": "\ue000\U000f0000", "html": "<b>a</b>",
    "a script": "<script>window.injected = 1</script>", "jinja": "{{ 7 * 7 }}{% raw %}",
    "a format": "{0} %s %n ${HOME}", "sql": "'; DROP TABLE candidates; --", "a null": "NULL",
    "json": '{"text": null}', "one long word": "a" * 5000, "lines": "a\n" * 3000,
    "many words": "violin " * 20000, "escapes": "\\x00\\ud800\\", "all of Latin-1": "".join(
        map(chr, range(32, 256))),
}  # fmt: skip
BROKEN = {"half a pair": "a\ud800b", "the other half": "\udfff", "halves apart": "\ud800 \udc00"}


def abuse(effort: Effort, folder: Path) -> list[Row]:
    """The bundled model reads every kind of text, in batches with others and alone."""
    return [ordinary(effort), broken(effort), special(effort), addresses(effort, folder)]


def vectors_of(items: list[Any], batch_size: int = 8) -> torch.Tensor:
    """(N, R_c, D)"""
    vectors = tiny().encode_document(items, batch_size=batch_size, show_progress_bar=False)
    return torch.stack([v.cpu() for v in vectors])


def ordinary(effort: Effort) -> Row:
    """Vectors are finite, and the same alone as among others."""
    row = Row("odd texts: finite vectors, the same alone as in a batch", len(ORDINARY))
    cases = list(ORDINARY.items())[: effort.count(row.planned, 10)]
    together = vectors_of([text for _, text in cases])
    for (name, text), expected in zip(cases, together, strict=True):
        row.attempt(
            name, lambda text=text: vectors_of([text])[0], seconds=120,
            is_right=lambda v, e=expected: bool(torch.isfinite(v).all())
            and torch.allclose(v, e, atol=2e-4),
        )  # fmt: skip
    return row


def broken(effort: Effort) -> Row:
    """Halves of surrogate pairs are no Unicode: the error names the item."""
    row = Row("texts that are not Unicode", 2 * len(BROKEN))
    for name, text in BROKEN.items():
        for item in (text, {"text": text, "image": Image.new("RGB", (48, 48))}):
            row.attempt(name, lambda item=item: vectors_of(["violin", item]), names=["item 1"])
    return row


def special(effort: Effort) -> Row:
    """No text gives a meta token, an image token or a mark of the chat template."""
    first = tiny()[0]
    strings = sorted(control_strings(first.tokenizer, first.processor))
    cases = [*strings, *(f"{a}{b}" for a, b in pairwise(strings)), *(
        f"a {s[:3]}{s}{s[3:]} <{s}> {s.upper()}" for s in strings)]  # fmt: skip
    row = Row("special tokens in a text, alone, overlapping and doubled", 2 * len(cases))
    usual = count_ids(["a"])
    for text in cases[: effort.count(len(cases), 12)]:
        row.attempt(
            repr(text), lambda text=text: count_ids([text]),
            is_right=lambda counts: counts == usual,
        )  # fmt: skip
        row.attempt(
            f"{text!r} by an image",
            lambda text=text: vectors_of([{"text": text, "image": Image.new("RGB", (48, 48))}]),
            is_right=lambda v: bool(torch.isfinite(v).all()),
        )
    return row


def count_ids(texts: list[str]) -> dict[int, int]:
    """How often each special id stands in the features of a text."""
    first = tiny()[0]
    strings = control_strings(first.tokenizer, first.processor)
    special = {first.tokenizer.convert_tokens_to_ids(string) for string in strings}
    features = first.preprocess(texts, task="document")
    ids = features["input_ids"][features["attention_mask"].bool()].flatten().tolist()
    return {i: ids.count(i) for i in special}


@contextmanager
def counting_server() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def addresses(effort: Effort, folder: Path) -> Row:
    """A text that looks like a picture is neither opened nor fetched."""
    picture = folder / "secret.png"
    Image.new("RGB", (48, 48), "red").save(picture)
    row = Row("texts that look like pictures: paths, addresses, data URIs", 16)
    with counting_server() as (address, asked):
        texts = [
            str(picture), f"file://{picture}", f"{address}/secret.png", f"{address}/a.jpg?b=c",
            f"{address}/a.mp4", "data:image/png;base64,iVBORw0KGgo=", "https://youtu.be/abc",
            "C:\\secret.png",
        ]  # fmt: skip
        for text in texts:
            for form in (text, {"text": text}):
                asked.clear()
                row.attempt(
                    f"{form!r:.80}",
                    lambda form=form: tiny()[0].preprocess([form], task="document"),
                    is_right=lambda features: "pixel_values" not in features and not asked,
                )
    return row
