"""The commands index, search and serve of the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

MAX_CELL = 60  # characters of a value in the table


def index(
    model: Annotated[str, typer.Argument(help="A bundled name, a folder or a hub id.")],
    source: Annotated[str, typer.Argument(help="A suite of load_task, or a folder of images.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value for the suite, such as n_queries=200")
    ] = None,
    output: Annotated[str, typer.Option(help="Folder for the index.")] = "index",
    add: Annotated[
        bool, typer.Option("--add", help="Add to the index there. Only new ids are encoded.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(help="How vectors are stored: float16, float32, int8 or binary."),
    ] = None,
    rescore: Annotated[
        str | None,
        typer.Option(help="With int8 or binary, also store float16 or float32, to rescore."),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Candidates that are encoded at once.")] = 64,
) -> None:
    """Encode the candidates of a suite, or a folder of images, and store them in an index.

    Images are found in the folder and below it, and need no captions. Candidates are stored a few
    thousand at a time, so an interrupted run is continued with --add.
    """
    from metaembed_lite.indexing import build_index

    filled, corpus = build_index(
        model, source, output, settings or [], add=add, dtype=dtype, rescore=rescore,
        skip_unreadable=skip_unreadable, batch_size=batch_size,
    )  # fmt: skip
    for file in corpus.skipped:
        typer.echo(f"skipped {file}")
    stats = filled.stats()
    typer.echo(
        f"indexed: {output} has {stats['candidates']:,} candidates, {len(corpus.ids):,} of them "
        f"new, in {stats['bytes_on_disk'] / 2**20:.1f} MiB\n"
        f"next: metaembed-lite serve {shlex.quote(output)}"
    )


def search(
    index: Annotated[str, typer.Argument(help="The folder of an index.")],
    query: Annotated[str, typer.Argument(help="What to look for.")] = "",
    image: Annotated[Path | None, typer.Option(help="Search by an image, or with it.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Such as 4x8. Defaults to the full budget.")
    ] = None,
    k: Annotated[int, typer.Option(help="Number of results.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="A filter in SQL, such as \"path LIKE '%cats%'\".")
    ] = None,
    prefetch: Annotated[
        str | None,
        typer.Option(help="Earlier stages of a cascade, such as 1x1:1000 or 1x1:1000,4x8:200."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model is now, if it has moved.")
    ] = None,
) -> None:
    """Search an index, and print the best candidates and what the search cost."""
    from metaembed_lite.index import MetaIndex
    from metaembed_lite.index.stages import plan
    from metaembed_lite.search_app.request import read_request
    from metaembed_lite.search_app.searcher import Searcher

    file = None if image is None else image.read_bytes()
    wanted = read_request(
        {"text": query, "image": file, "budget": budget, "k": k, "where": where,
         "prefetch": prefetch}
    )  # fmt: skip
    columns = MetaIndex.open(index).header.columns
    plan(columns, wanted.k, wanted.budget, wanted.prefetch)  # before the model is loaded
    searcher = Searcher.open(index, model)
    encoded = searcher.encode(wanted.item)
    results = searcher.search(
        encoded, wanted.k, wanted.budget, prefetch=wanted.prefetch, where=wanted.where
    )
    stats = results.attrs["stats"]
    typer.echo(_format(results.drop(columns="has_thumbnail")))
    typer.echo(
        f"\n{stats['bytes_read']:,} bytes read, {1000 * stats['seconds']:.1f} ms to search, "
        f"{1000 * encoded.seconds:.1f} ms to encode the query"
    )


def serve(
    index: Annotated[str, typer.Argument(help="The folder of an index.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On 127.0.0.1. 0 takes any free one.")
    ] = 8000,
    model: Annotated[
        str | None, typer.Option(help="Where the model is now, if it has moved.")
    ] = None,
) -> None:
    """Search an index from a page on this machine. No other machine can reach it."""
    from metaembed_lite.search_app.app import create_app
    from metaembed_lite.search_app.app import serve as run
    from metaembed_lite.search_app.searcher import Searcher

    app = create_app(Searcher.open(index, model))
    run(app, port, lambda address: typer.echo(f"open {address} (stop with Ctrl+C)"))


def _format(results: pd.DataFrame) -> str:
    """A table whose cells are short and printable."""
    if results.empty:
        return "no candidate passes the filter, or the index is empty"
    table = results.assign(score=results.score.map("{:.4f}".format))
    for name in table.columns.drop("score"):
        from_end = name in ("id", "path")  # the end of a path says which file it is
        table[name] = [_shorten(str(value), from_end) for value in table[name]]
    table.index = range(1, len(table) + 1)
    return str(table.to_string())


def _shorten(text: str, from_end: bool = False) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    plain = " ".join(plain.split())
    if len(plain) <= MAX_CELL:
        return plain
    return f"…{plain[1 - MAX_CELL :]}" if from_end else f"{plain[: MAX_CELL - 1]}…"
