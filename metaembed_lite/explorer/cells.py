"""What the explorer frames: the cells of sheets and boards that show what a query names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metaembed_lite.data.named_cells import READERS, Fact, parse_query, read_cells
from metaembed_lite.data.task import RetrievalTask


def cells_to_json(
    task: RetrievalTask, queries: Sequence[int], candidates: Sequence[int]
) -> dict[str, Any] | None:
    """What the queries name and what the candidates show, cell by cell.

    Args:
        task: of the suite stickers, with English queries, or of the suite handwriting. Other tasks
            have no known cells.
        queries, candidates: indices into the task.

    Returns:
        ``named``: for each query a list of ``name``, ``content`` and ``place`` (a cell in reading
        order, or None if any cell will do). ``contents``: for each candidate the content of each
        cell, or None if it is no such image. None if a query names anything else.

    Example:
        >>> from metaembed_lite import load_task
        >>> cells = cells_to_json(load_task("stickers", n_queries=2, n_train=0, side=2), [0], [0])
        >>> cells["named"][0][0]["name"], len(cells["contents"][0])
        ('bowling', 4)
    """
    if task.name not in READERS:
        return None
    contents = [read_cells(task.name, task.candidates[i]) for i in candidates]
    sides = {round(len(cells) ** 0.5) for cells in contents if cells}
    if len(sides) != 1:
        return None
    side = sides.pop()
    named = [parse_query(task.name, task.queries[i], side) for i in queries]
    known = [[_to_json(fact) for fact in facts] for facts in named if facts]
    return {"named": known, "contents": contents} if len(known) == len(named) else None


def _to_json(fact: Fact) -> dict[str, Any]:
    return {"name": fact.name, "content": fact.content, "place": fact.place}
