"""Divides images into test, validation and training, so that no group of images is divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def label_groups(n: int, links: Iterable[tuple[int, int]]) -> np.ndarray:
    """Number the groups of images. Images that are linked, also by way of others, are one group.

    Args:
        n: number of images.
        links: pairs of images, as indices from 0 to ``n - 1``.

    Returns:
        (n,) int, the group of each image. Groups are numbered in the order of their first image.

    Example:
        >>> label_groups(4, [(0, 2), (2, 3)]).tolist()
        [0, 1, 0, 0]
    """
    pairs = np.array(list(links), dtype=int).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    labels = connected_components(graph, directed=False)[1]
    first, numbers = np.unique(labels, return_index=True)[1], np.empty(labels.max() + 1, dtype=int)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[labels]


def divide(
    groups: np.ndarray, n_test: int, n_validation: int, rng: np.random.Generator
) -> np.ndarray:
    """Divide images into parts at random. All images of a group get the same part.

    The test takes groups in random order until it has ``n_test`` images, and passes over a group
    with which it would have more than half of all. Validation then does the same with
    the images that the test leaves. So a smaller test is a subset of a larger one.

    Args:
        groups: (n,) int, the group of each image.
        n_test: images to hold out for the test.
        n_validation: images to hold out for validation. 0 for none.
        rng: draws the order of the groups.

    Returns:
        (n,) "test", "validation" or "train".

    Raises:
        ValueError: if every group has more than half of the images, so that a part would be empty.

    Example:
        >>> divide(np.array([0, 0, 1, 2, 3, 4]), 2, 1, np.random.default_rng(0)).tolist()
        ['train', 'train', 'train', 'test', 'validation', 'test']
    """
    sizes = np.bincount(groups)
    order = rng.permutation(len(sizes)).tolist()
    part_of_group = np.full(len(sizes), "train", dtype="<U10")
    for part, wanted in (("test", n_test), ("validation", n_validation)):
        chosen = _hold_out(order, sizes, wanted)
        if wanted and not chosen:
            n, largest = int(sizes[order].sum()), int(sizes[order].max(initial=0))
            raise ValueError(
                f"no {part}: a part holds whole groups, and at most half of the {n} images that "
                f"are left, but each group has more (the largest has {largest}); make smaller "
                "groups, or give more images"
            )
        part_of_group[chosen] = part
        order = [group for group in order if group not in set(chosen)]
    return part_of_group[groups]


def _hold_out(order: Sequence[int], sizes: np.ndarray, wanted: int) -> list[int]:
    """The groups of a part: in order, until there are ``wanted`` images, at most half of all."""
    most, held = int(sizes[order].sum()) // 2, 0
    chosen = []
    for group in order:
        if held >= wanted:
            break
        if held + sizes[group] <= most:
            chosen.append(group)
            held += int(sizes[group])
    return chosen
