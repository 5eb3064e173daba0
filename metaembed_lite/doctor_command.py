"""The command doctor of the command line."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metaembed_lite.data.task import RetrievalTask

COLORS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "bright_black"}
INDENT = 30  # of what was measured
WIDTH = 100


def doctor(
    model: Annotated[str, typer.Argument(help="A bundled name, a folder or a hub id.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="A suite of load_task, or a folder of images. Defaults to the suite that the "
            "model was trained on, if it is part of the package, or to stickers."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value for the suite, such as path=my-images")
    ] = None,
    items: Annotated[int, typer.Option(min=1, help="The most candidates to check.")] = 64,
    round_trip: Annotated[
        bool, typer.Option("--round-trip", help="Also save and load the model, and compare.")
    ] = False,
) -> None:
    """Check a model and your items for traps: padding, masks, images, adapted layers and more.

    Each line is a check. The exit code is 1 if a check failed, and 0 with warnings.
    """
    from metaembed_lite.diagnosis import examine
    from metaembed_lite.loading import load

    chosen, description = choose_items(model, source, settings or [], items)
    loaded = load(model)
    if not getattr(loaded[0], "reads_images", True):
        chosen = [item for item in chosen if isinstance(item, str)]
    typer.echo(f"{model} on {len(chosen):,} items {description}, and on generated ones")
    counts: Counter[str] = Counter()
    for name, finding in examine(loaded, chosen, round_trip=round_trip):
        counts[finding.result] += 1
        result = typer.style(f"{finding.result:8}", fg=COLORS[finding.result])
        typer.echo(f"{result} {name:20} {_wrap(finding.measured)}")
        if finding.remedy:
            typer.echo(f"{'':{INDENT}}{_wrap(f'remedy: {finding.remedy}')}")
    typer.echo(", ".join(f"{counts[result]} {result}" for result in COLORS))
    if counts["failed"]:
        raise typer.Exit(code=1)


def choose_items(
    model: str, source: str | None, settings: list[str], n: int
) -> tuple[list[Any], str]:
    """Choose up to n candidates of a suite with some queries, or n images of a folder.

    Args:
        model: a bundled name, a folder or a hub id. Its ``recipe.yaml`` names the default suite.
        source: a suite, a folder of images, or None.
        settings: of the suite, as "key=value".
        n: the most candidates.

    Returns:
        The items, and in words where they are from.

    Raises:
        ValueError: if there is no such suite and no such folder, or on a setting that the suite
            does not have.

    Example:
        >>> items, description = choose_items("tiny", None, [], 8)
        >>> len(items), description
        (10, "of the suite 'stickers'")
    """
    from metaembed_lite.data import SUITES, load_task
    from metaembed_lite.data.image_files import find_images
    from metaembed_lite.recipes import read_suite_settings

    if source is not None and source not in SUITES:
        if not Path(source).is_dir():
            raise ValueError(
                f"{source!r} is neither a folder nor a suite: the suites are {', '.join(SUITES)}"
            )
        if settings:
            raise ValueError(f"{settings[0]!r}: a folder has no settings, only a suite does")
        files = find_images(source)
        step = -(-len(files) // n)
        return list(files[::step]), f"of {len(files):,} in {source}"
    if source is None:
        arguments = _choose_suite(model, settings, n)
    else:
        arguments = {
            "name": source,
            **read_suite_settings(source, settings, n_queries=n, n_train=0),
        }
    return _take(load_task(**arguments), n), f"of the suite {arguments['name']!r}"


def _choose_suite(model: str, settings: list[str], n: int) -> dict[str, Any]:
    """Arguments of the suite that the model was trained on, or of stickers.

    A suite that reads a folder or downloads its data is only used if it is named.
    """
    from metaembed_lite.recipes import choose_held_out, read_suite_settings

    try:
        arguments, _ = choose_held_out(model, None, settings, n_queries=n)
    except ValueError:  # the suite of the model needs the path of its data
        arguments = {"name": "mmeb"}
    if arguments["name"] == "mmeb" or "path" in arguments:
        defaults = read_suite_settings("stickers", settings, n_queries=n, n_train=0)
        arguments = {"name": "stickers", **defaults}
    return arguments


def _take(task: RetrievalTask, n: int) -> list[Any]:
    """Up to n candidates, and a quarter as many queries."""
    return [*task.candidates[:n], *task.queries[: -(-n // 4)]]


def _wrap(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - INDENT, break_long_words=False, break_on_hyphens=False)
    return f"\n{'':{INDENT}}".join(lines)
