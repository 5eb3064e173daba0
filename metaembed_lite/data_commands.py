"""The command check-data of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metaembed_lite.data.folder_report import Finding

SHOWN = 5  # findings per kind
MAX_NAMED = 3  # images and lines per finding


def check_data(
    folder: Annotated[Path, typer.Argument(help="A folder of images with captions.csv.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="key=value of the suite image_folder, such as group=album"),
    ] = None,
    all_findings: Annotated[
        bool, typer.Option("--all", help="Print every finding, not the first 5 of each kind.")
    ] = False,
) -> None:
    """Find what is wrong with a folder of images and captions, and show how it will be split.

    Each image is opened once. Rows, paths and images that would stop a training are errors, and
    the exit status is then 1. Copies, ambiguous and long captions are findings that you decide on.
    """
    from metaembed_lite.data.folder_report import KINDS, inspect_folder
    from metaembed_lite.recipes import read_suite_settings

    chosen = read_suite_settings("image_folder", settings or [], path=str(folder))
    chosen.pop("split", None)
    report = inspect_folder(**chosen, progress=True)
    typer.echo(f"{report.rows:,} rows, {report.images:,} images, {report.captions:,} captions")
    for part, row in report.parts.iterrows():
        typer.echo(f"  {part:10} {row.images:7,} images, {row.captions:7,} captions")
    for kind, remedy in KINDS.items():
        findings = report.of_kind(kind)
        if not findings:
            continue
        level = "error: " if findings[0].is_error else ""
        typer.echo(f"\n{level}{kind}: {len(findings):,} ({remedy})")
        shown = findings if all_findings else findings[:SHOWN]
        for finding in shown:
            typer.echo(f"  {_describe(finding)}")
        if len(shown) < len(findings):
            typer.echo(f"  and {len(findings) - len(shown):,} more: --all prints them")
    if not report.findings:
        typer.echo("nothing found")
    if report.has_errors:
        raise typer.Exit(code=1)


def _describe(finding: Finding) -> str:
    """A finding in one line, such as "line 3: a.png: no such file"."""
    lines = ""
    if finding.lines:
        lines = f"line{'s' * (len(finding.lines) > 1)} {_join(list(map(str, finding.lines)))}"
    images = _join([repr(name) for name in finding.images])
    return ": ".join(part for part in (lines, images, finding.detail) if part)


def _join(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
