"""Processes that write to an index and search it at the same time. Quick to import."""

from __future__ import annotations

import hashlib
import itertools
import json
import time

import torch

from abuse.things import DIM, unit
from metaembed_lite import MetaIndex, maxsim

FIXED = 50  # candidates that nobody deletes


def vectors_of(name: str) -> torch.Tensor:
    """The vectors of a candidate follow from its id, so a reader can check what it finds."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return unit(6, DIM, seed=seed)


def write_for_ever(path: str) -> None:
    """Add, replace and delete candidates without end."""
    index = MetaIndex.open(path)
    for i in itertools.count():
        ids = [f"{i} {j}" for j in range(40)]
        index.add(ids, torch.stack([vectors_of(name) for name in ids]))
        index.upsert(ids[:20], torch.stack([vectors_of(name) for name in ids[:20]]))
        index.delete(ids[:35])
        if i % 10 == 9:
            index.optimize()


def read_for_a_while(path: str, seconds: float, seed: int) -> None:
    """Search, compare every score with MaxSim, and print a report."""
    index = MetaIndex.open(path)
    query, searches, problems = unit(4, DIM, seed=seed), 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            problem = find_problem(index, query)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        searches += problem is None
        problems += [] if problem is None else [problem]
    print(json.dumps({"searches": searches, "problems": problems}))


def find_problem(index: MetaIndex, query: torch.Tensor) -> str | None:
    """What is wrong with a search of everything, or None."""
    found = index.search(query, k=100_000)
    stored = [vectors_of(name).half().float() for name in found.id]
    expected = maxsim(query[None], stored)[0]
    off = float((expected - torch.tensor(found.score.to_numpy())).abs().max())
    if off > 1e-4:
        return f"a score is off by {off}"
    if not (found.score.is_monotonic_decreasing and found.id.is_unique):
        return "the results are not ordered, or not unique"
    missing = {f"fixed {i}" for i in range(FIXED)} - set(found.id)
    return f"{sorted(missing)[0]} is missing" if missing else None
