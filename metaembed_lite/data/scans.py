"""Scans of digits, boards of them with white gutters, and a compact file format for these boards.

Training needs 100,000s of boards, which would fill gigabytes as PNG. So rows store a board as the
bytes of an image file of our own format, which lists its scans. Pillow renders it when it opens the
file, as it does for ``data.sheets``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import IO, Any

import numpy as np
from PIL import Image

from metaembed_lite.arguments import whole_number
from metaembed_lite.data.task import check_split

# Scans are ordered by writer (13 writers, about 138 each). A gap of one writer keeps train and test
# writers disjoint. The gap is the validation split: it may share writers with either side, so use
# it for tuning only.
SCAN_RANGES = {"train": (0, 1100), "validation": (1100, 1240), "test": (1240, 1797)}
CELL, ENLARGED_SCAN = 32, 24  # pixels: a place of a board, and the scan inside it
MOST_SIDE = 10  # places per row and column
_HEADER = b"digits of metaembed_lite.data.scans\n"  # the first line of a stored board


@cache
def load_scans(split: str) -> tuple[np.ndarray, ...]:
    """Load the scans of a split, by digit.

    Returns:
        Ten arrays (n, 8, 8), uint8, ink from 0 (none) to 255.

    Raises:
        ValueError: on an unknown split.

    Example:
        >>> scans = load_scans("test")
        >>> len(scans), scans[0].shape[1:]
        (10, (8, 8))
    """
    check_split(split)
    part = slice(*SCAN_RANGES[split])
    scans, digits = (values[part] for values in _read_digits())
    return tuple(scans[digits == digit] for digit in range(10))


@cache
def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """All scans in the order of scikit-learn, (n, 8, 8) uint8, and the digit of each, (n,) int."""
    from sklearn.datasets import load_digits  # importing sklearn takes seconds

    digits = load_digits()
    return (digits.images * 255 / 16).round().astype(np.uint8), digits.target


def choose_scans(digits: np.ndarray, rng: np.random.Generator, split: str) -> np.ndarray:
    """Choose a random scan of each digit.

    Args:
        digits: (K,) int.
        rng: random generator of the choice.
        split: whose scans, "train", "validation" or "test".

    Returns:
        (K,) int, the positions of the scans in scikit-learn's set of 1,797.

    Raises:
        ValueError: on an unknown split, or a digit that is not 0 to 9.

    Example:
        >>> scans = choose_scans(np.array([7, 7]), np.random.default_rng(0), "train")
        >>> len(scans), bool((scans < 1100).all())
        (2, True)
    """
    positions = _positions_by_digit(split)
    for digit in np.asarray(digits).tolist():
        if whole_number(digit, "digit", least=0) > 9:
            raise ValueError(f"digit={digit}: use 0 to 9")
    chosen = [positions[digit][rng.integers(len(positions[digit]))] for digit in digits]
    return np.array(chosen, dtype=np.int64)


@cache
def _positions_by_digit(split: str) -> tuple[np.ndarray, ...]:
    check_split(split)
    first, stop = SCAN_RANGES[split]
    digits = _read_digits()[1][first:stop]
    return tuple(first + np.flatnonzero(digits == digit) for digit in range(10))


def check_scans(scans: Sequence[int] | np.ndarray) -> int:
    """Check the scans of a board, and return its side, the number of places per row and column.

    Raises:
        ValueError: if they do not fill a square, or there is no such scan.

    Example:
        >>> check_scans([0, 1, 2, 3])
        2
    """
    side = round(len(scans) ** 0.5)
    if side < 1 or side * side != len(scans):
        raise ValueError(f"{len(scans)} digits do not fill a square: give 1, 4, 9, 16, 25, ...")
    n_scans = SCAN_RANGES["test"][1]
    for scan in np.asarray(scans).tolist():
        if whole_number(scan, "scan", least=0) >= n_scans:
            raise ValueError(f"scan={scan}: use a position from 0 to {n_scans - 1}")
    return side


def render_scans(scans: Sequence[int] | np.ndarray) -> Image.Image:
    """Render k x k scans with white gutters, RGB, 32 pixels per place.

    Args:
        scans: (k * k,) int, positions in scikit-learn's set, in reading order.

    Raises:
        ValueError: as ``check_scans``.

    Example:
        >>> render_scans([0, 1, 2, 3]).size
        (64, 64)
    """
    side = check_scans(scans)
    board = _load_cells()[scans].reshape(side, side, CELL, CELL).swapaxes(1, 2)
    edge = side * CELL
    return Image.fromarray(board.reshape(edge, edge)).convert("RGB")


def render_digits(digits: np.ndarray, rng: np.random.Generator, split: str) -> Image.Image:
    """Render k x k digits with white gutters, 32 pixels per place, the size of a sticker.

    Args:
        digits: (k * k,) int in reading order.
        rng: chooses a scan of each digit.
        split: whose scans, "train", "validation" or "test".

    Returns:
        An RGB image of edge ``32 * k``.

    Raises:
        ValueError: if the digits do not fill a square, or are not 0 to 9, or on an unknown split.

    Example:
        >>> render_digits(np.arange(25) % 10, np.random.default_rng(0), "train").size
        (160, 160)
    """
    return render_scans(choose_scans(digits, rng, split))


@cache
def _load_cells() -> np.ndarray:
    """Every scan as a place of a board, (n, 32, 32) uint8: dark ink of 24 x 24 pixels on white."""
    gutter, size = (CELL - ENLARGED_SCAN) // 2, (ENLARGED_SCAN, ENLARGED_SCAN)
    scans, _ = _read_digits()
    cells = np.full((len(scans), CELL, CELL), 255, dtype=np.uint8)
    for cell, scan in zip(cells, scans, strict=True):
        ink = np.asarray(Image.fromarray(scan).resize(size, Image.Resampling.BILINEAR))
        cell[gutter:-gutter, gutter:-gutter] = 255 - ink
    return cells


def store_board(scans: Sequence[int] | np.ndarray) -> bytes:
    """Store a board as a small image file, which Pillow opens as ``render_scans`` paints it.

    Raises:
        ValueError: as ``check_scans``.

    Example:
        >>> store_board([0, 11, 2, 13])
        b'digits of metaembed_lite.data.scans\\n0 11 2 13'
    """
    check_scans(scans)
    return _HEADER + " ".join(map(str, scans)).encode()


def _open_board(file: IO[bytes], name: str | bytes) -> Any:
    scans = file.read().removeprefix(_HEADER).decode().split(" ")
    if len(scans) > MOST_SIDE**2:  # a small file must not claim a huge image
        raise ValueError(f"a stored board has {len(scans):,} scans; at most {MOST_SIDE**2} fit")
    return render_scans(np.array(scans, dtype=np.int64))


def _is_board(prefix: bytes) -> bool:
    return _HEADER[:16] == prefix  # Pillow shows a format the first 16 bytes of a file


Image.register_open("DIGITS", _open_board, _is_board)
