"""Finds what is wrong with a folder of images and captions, before a model is trained on it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from metaembed_lite.data.captions import CaptionFile, read_cells
from metaembed_lite.data.folder_split import as_list, split_folder
from metaembed_lite.data.image_files import list_images
from metaembed_lite.data.parts import label_groups
from metaembed_lite.data.rows import resolve_picture
from metaembed_lite.items import describe, key, open_picture

LONG_CAPTION = 100  # words. Few captions are longer, and a backbone may cut them
SIDE = 16  # pixels of the small copies that are compared
ALIKE = 3.0  # root mean square difference of two small copies, of 255 levels
SHAPE = 0.05  # relative difference of two images' width per height
ROWS_AT_ONCE = 2048

# kind -> what to do about it
KINDS = {
    "bad row": "mend the row, or remove it",
    "missing image": "correct the path, or remove the row",
    "unreadable image": "replace the file, or remove its rows",
    "identical images": "keep one file, and name it in all their rows",
    "near duplicates": "keep one of them, or give them one group with group=COLUMN",
    "one caption, several images": "write what tells them apart, unless captions are labels",
    "long caption": "a backbone may cut its end: put what matters first",
    "image without a row": "training does not use it: add a row, or leave it",
}
ERRORS = ("bad row", "missing image", "unreadable image")  # they stop `load_image_folder`


class Finding(NamedTuple):
    """One thing that was found in a folder.

    Attributes:
        kind: a key of ``KINDS``.
        lines: of the CSV that it is about.
        images: that it is about, as paths relative to the folder.
        detail: what was found, in words.

    Example:
        >>> Finding("missing image", (12,), ("later.png",), "").is_error
        True
    """

    kind: str
    lines: tuple[int, ...]
    images: tuple[str, ...]
    detail: str

    @property
    def is_error(self) -> bool:
        """Whether nothing can be trained before it is mended."""
        return self.kind in ERRORS


@dataclass(frozen=True)
class FolderReport:
    """What a folder holds, and what is wrong with it.

    Attributes:
        rows: number of rows with a caption and an image that can be read.
        images: number of images that these rows name.
        captions: number of different captions in these rows.
        findings: in the order of ``KINDS``.
        parts: images and captions per part of the split. Empty if there are errors.

    Example:
        >>> FolderReport(2, 2, 2, [], pd.DataFrame()).has_errors
        False
    """

    rows: int
    images: int
    captions: int
    findings: list[Finding]
    parts: pd.DataFrame

    @property
    def has_errors(self) -> bool:
        """Whether something must be mended before training."""
        return any(finding.is_error for finding in self.findings)

    def of_kind(self, kind: str) -> list[Finding]:
        """The findings of one kind."""
        return [finding for finding in self.findings if finding.kind == kind]


def inspect_folder(
    path: str | Path,
    csv: str = "captions.csv",
    image: str = "image",
    text: str = "text",
    *,
    progress: bool = False,
    **settings: Any,
) -> FolderReport:
    """Open every image of a folder once, and list what is wrong with images and captions.

    Args:
        path, csv, image, text: as in ``load_image_folder``.
        progress: show a progress bar. Defaults to False.
        **settings: other arguments of ``split_folder``, such as ``group`` and ``n_validation``.

    Returns:
        The report. Two images are identical if their pixels are equal, as ``open_picture`` opens
        them. They are near duplicates if small copies of 16 x 16 pixels differ by at most 3 of 255
        levels (root mean square), such as an image in two sizes.

    Raises:
        FileNotFoundError: if the CSV is missing.
        ValueError: if it is not a CSV in UTF-8, or lacks a column. Also on invalid settings.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("red", "copy"):
        ...         Image.new("RGB", (48, 48), "red").save(f"{folder}/{name}.png")
        ...     csv = "image,text\\nred.png,a red square\\ncopy.png,red\\nblue.png,blue\\n"
        ...     _ = Path(folder, "captions.csv").write_text(csv)
        ...     report = inspect_folder(folder)
        >>> [(finding.kind, finding.lines) for finding in report.findings]
        [('missing image', (4,)), ('identical images', (2, 3))]
    """
    root = Path(path)
    if not (root / csv).is_file():
        raise FileNotFoundError(f"{root / csv} is missing: a CSV with columns {image}, {text}")
    group, negatives = settings.get("group"), as_list(settings.get("negative"))
    columns = list(dict.fromkeys([image, text, *([] if group is None else [group]), *negatives]))
    cells = read_cells(root / csv, columns)
    files = [file.relative_to(root.resolve()).as_posix() for file in list_images(root.resolve())]
    named, findings = _read_rows(root, csv, cells, (image, text), negatives, files)
    lines_of: dict[str, list[int]] = {}  # image -> the rows that name it
    for line, names in named.items():
        for name in names:
            lines_of.setdefault(name, []).append(line)
    looks, unreadable = _open_all(root, lines_of, progress)
    captions = {
        line: (cells.cell(line, text), names[0])
        for line, names in named.items()
        if names[0] in looks
    }
    findings += [
        *unreadable,
        *_find_copies(looks, lines_of),
        *_check_captions(captions, looks),
        *_find_unnamed(files, lines_of),
    ]
    order = list(KINDS)
    findings.sort(key=lambda finding: (order.index(finding.kind), finding.lines, finding.images))
    parts = pd.DataFrame()
    if not any(finding.is_error for finding in findings):
        table = split_folder(root, csv, image, text, **settings)
        parts = table.groupby("split", sort=False)[[image, text]].nunique()
        parts = parts.set_axis(["images", "captions"], axis=1)
    return FolderReport(
        rows=len(captions),
        images=len({name for _, name in captions.values()}),
        captions=len({caption for caption, _ in captions.values()}),
        findings=findings,
        parts=parts,
    )


def _read_rows(
    root: Path, csv: str, cells: CaptionFile, needed: tuple[str, str], negatives: Sequence[str],
    files: Sequence[str],
) -> tuple[dict[int, list[str]], list[Finding]]:  # fmt: skip
    """The images of each good row, its own before its hard negatives, and what is wrong."""
    similar = {_fold(name): name for name in files}
    named: dict[int, list[str]] = {}
    findings = []
    for line in cells.rows:
        problem = cells.problem(line, needed)
        if problem:
            findings.append(Finding("bad row", (line,), (), problem))
            continue
        names = []
        for column in (needed[0], *negatives):
            name = cells.cell(line, column)
            if not name:
                continue
            try:
                file = resolve_picture(root, name, "it")
            except ValueError as error:
                findings.append(Finding("bad row", (line,), (name,), str(error)))
                break
            if not file.is_file():
                meant = similar.get(_fold(name))
                hint = f"is it {meant!r}?" if meant else "no such file"
                findings.append(Finding("missing image", (line,), (name,), hint))
                break
            names.append(file.relative_to(root.resolve()).as_posix())
        else:
            named[line] = names
    return named, findings


def _fold(name: str) -> str:
    """Equal for spellings of a path that differ in case or in the form of their Unicode."""
    return unicodedata.normalize("NFC", name).casefold()


class _Look(NamedTuple):
    """How an image looks: the hash of its pixels, a small copy, and its width per height."""

    pixels: int
    small: np.ndarray
    shape: float


def _open_all(
    root: Path, lines_of: Mapping[str, Sequence[int]], progress: bool
) -> tuple[dict[str, _Look], list[Finding]]:
    """How each image looks, and which cannot be read."""
    looks, findings = {}, []
    for name, lines in tqdm(lines_of.items(), "reading", unit=" images", disable=not progress):
        try:
            picture = open_picture(root / name)
        except ValueError as error:
            detail = str(error).replace(str(root / name), "it")
            findings.append(Finding("unreadable image", tuple(lines), (name,), detail))
            continue
        small = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
        values = np.asarray(small, dtype=np.float32).ravel() - 128
        looks[name] = _Look(key({"image": picture}), values, picture.width / picture.height)
    return looks, findings


def _find_copies(
    looks: Mapping[str, _Look], lines_of: Mapping[str, Sequence[int]]
) -> Iterator[Finding]:
    """Images with equal pixels, and images that look nearly the same."""
    files_of: dict[int, list[str]] = {}
    for name, look in looks.items():
        files_of.setdefault(look.pixels, []).append(name)
    different = [names[0] for names in files_of.values()]
    groups: dict[int, list[str]] = {}
    pairs = _find_alike([looks[name] for name in different])
    for name, group in zip(different, label_groups(len(different), pairs), strict=True):
        groups.setdefault(int(group), []).append(name)
    for kind, sets in (("identical images", files_of), ("near duplicates", groups)):
        for names in sets.values():
            if len(names) > 1:
                lines = sorted({line for name in names for line in lines_of[name]})
                yield Finding(kind, tuple(lines), tuple(names), "")


def _find_alike(looks: Sequence[_Look]) -> Iterator[tuple[int, int]]:
    """Pairs of images whose small copies and shapes are nearly equal."""
    if not looks:
        return
    small = np.stack([look.small for look in looks])  # (N, 3 SIDE^2)
    shape = np.array([look.shape for look in looks])
    squares = (small**2).sum(axis=1)
    limit = ALIKE**2 * small.shape[1]
    for start in range(0, len(looks), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        distance = squares[rows, None] + squares - 2 * small[rows] @ small.T
        alike = (distance <= limit) & (abs(shape[rows, None] / shape - 1) <= SHAPE)
        for i, j in np.argwhere(alike).tolist():
            if start + i < j:
                yield start + i, j


def _check_captions(
    captions: Mapping[int, tuple[str, str]], looks: Mapping[str, _Look]
) -> Iterator[Finding]:
    """Captions that stand for several different images, and long ones."""
    rows: dict[str, list[int]] = {}
    for line, (caption, _) in captions.items():
        rows.setdefault(" ".join(_fold(caption).split()), []).append(line)
        n_words = len(caption.split())
        if n_words > LONG_CAPTION:
            yield Finding("long caption", (line,), (), f"{n_words} words: {describe(caption)}")
    for lines in rows.values():
        names = dict.fromkeys(captions[line][1] for line in lines)
        if len({looks[name].pixels for name in names}) > 1:
            caption = describe(captions[lines[0]][0])
            yield Finding("one caption, several images", tuple(lines), tuple(names), caption)


def _find_unnamed(files: Iterable[str], lines_of: Mapping[str, Any]) -> Iterator[Finding]:
    for name in files:
        if name not in lines_of:
            yield Finding("image without a row", (), (name,), "")
