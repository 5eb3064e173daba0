"""The boards of handwriting: k x k places, a query about some of them, and a hard negative.

A board is first sampled as symbols, an integer array with one value per place. Only then is it
rendered as an image. Relevance is computed from the symbols, so it is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import NamedTuple

import numpy as np

from metaembed_lite.arguments import whole_number


def place_names(side: int) -> list[str]:
    """Name the places of a side x side board in reading order, as in a spreadsheet.

    Args:
        side: places per row and column, from 1 to 26.

    Raises:
        ValueError: if ``side`` is out of range.

    Example:
        >>> place_names(2)
        ['A1', 'B1', 'A2', 'B2']
    """
    side = whole_number(side, "side")
    if side > len(ascii_uppercase):
        raise ValueError(f"side={side}: columns are named A to Z, so use at most 26")
    return [f"{column}{row}" for row in range(1, side + 1) for column in ascii_uppercase[:side]]


class Triple(NamedTuple):
    """One training example or one test query, as symbols, before anything is rendered.

    Attributes:
        board: (K,) int, what each of the K places holds.
        places: (k,) int, the places that the query names, in the order it names them.
        negative: like ``board``, and different from it at one named place.

    Example:
        >>> board = np.arange(9)
        >>> Triple(board, places=np.array([0, 4]), negative=board[::-1]).places
        array([0, 4])
    """

    board: np.ndarray
    places: np.ndarray
    negative: np.ndarray


def grade_boards(triples: Sequence[Triple], boards: Sequence[np.ndarray]) -> np.ndarray:
    """Grade every board for every query: 1 if it holds what the query names at all named places.

    Args:
        triples: Q queries.
        boards: N candidates, as symbols.

    Returns:
        (Q, N) float32 of 0 and 1.

    Example:
        >>> board, negative = np.arange(9), np.array([7, 1, 2, 3, 4, 5, 6, 7, 8])
        >>> triple = Triple(board, np.array([0, 4]), negative)
        >>> grade_boards([triple], [board, negative]).tolist()
        [[1.0, 0.0]]
    """
    contents = np.stack(boards)  # (N, K)
    matches = [(contents[:, t.places] == t.board[t.places]).all(axis=1) for t in triples]
    return np.stack(matches).astype(np.float32)
