"""The command line: what the module does, from a terminal.

metaembed-lite recipes
metaembed-lite train tiny --output my-model train.steps=100
accelerate launch -m metaembed_lite.cli train qwen2.5-vl-7b --output my-model
metaembed-lite evaluate my-model --suite image_folder path=my-pictures
metaembed-lite evaluate my-model --benchmark "ViDoRe(v2)" --budget 8x16
metaembed-lite push my-model you/my-model
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from metaembed_lite.model_folder import files


def _is_expected(error: Exception) -> bool:
    """Whether the user can fix an error; if not, it is a bug in this package."""
    from PIL.Image import DecompressionBombError
    from safetensors import SafetensorError

    expected = (
        ValueError, OSError, MemoryError, ImportError,
        DecompressionBombError, SafetensorError,
    )  # fmt: skip
    return isinstance(error, expected) and not isinstance(error, BrokenPipeError)  # click's own


class _Commands(TyperGroup):
    """Every command: what goes wrong for a known reason is one line and exit status 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not _is_expected(error):
                raise
            typer.secho(f"error: {str(error) or type(error).__name__}", fg="red", err=True)
            raise typer.Exit(code=2) from error


app = typer.Typer(
    cls=_Commands, help="MetaEmbed's flexible late interaction.", no_args_is_help=True,
    pretty_exceptions_enable=False,
)  # fmt: skip


def _say(line: str) -> None:
    """Print once, however many processes there are."""
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(line)


@app.command()
def recipes() -> None:
    """List the bundled recipes, and where the values of the paper's recipes come from."""
    from metaembed_lite import recipes

    for name in recipes.list_names():
        recipe = recipes.read(name)
        typer.echo(f"{name:22} {recipe.model['backbone']} on {recipe.data['name']}")
    typer.echo(f"\n{recipes.PAPER_NOTE}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships, or the path of your own.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, such as train.steps=100")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the trained model.")] = Path("model"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the newest whole checkpoint there.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete the checkpoints of an unfinished run there.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the finished model there.")
    ] = False,
) -> None:
    """Train a recipe, evaluate it at every budget, save it with a card that says how good it is."""
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("metaembed_lite").setLevel(logging.INFO)
    from metaembed_lite import build, load_task, sweep
    from metaembed_lite import recipes as shipped
    from metaembed_lite import train as run
    from metaembed_lite.model_card import add_to_card

    chosen = shipped.read(recipe, overrides or [])
    task = load_task(**chosen.data)
    _say(repr(task))
    model = build(**chosen.model)
    run(
        model, task.train, output=output, resume=resume, restart=restart, overwrite=overwrite,
        recipe={"model": chosen.model, "data": chosen.data, "train": chosen.train},
        **chosen.train,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)) != 0:
        return
    table = sweep(model, task)
    add_to_card(output, task, table)
    _say(_shown(table))
    weights = sum((output / f).stat().st_size for f in files(output) if f.suffix == ".safetensors")
    _say(f"saved: {output}, {weights / 2**20:.1f} MiB of weights")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped name, a folder or a hub id.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value for the suite, such as path=my-pictures")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="A suite of load_task. Defaults to the one it was trained on."),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Queries of the suite. Defaults to 500, or as in training.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help='A benchmark or task of mteb, such as "ViDoRe(v2)".')
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Such as 4x8; may be given several times.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for mteb's results.")] = Path("results"),
) -> None:
    """Quality and cost on a suite, or on a benchmark of mteb, at the budgets given or at all.

    On the suite that the model was trained on, the test split of that training is used, so that no
    training item is in it.
    """
    from metaembed_lite import Budget, load, load_task, recipes, sweep

    budgets = [Budget.parse(text) for text in budget] if budget else None
    if benchmark is None:
        chosen, which = recipes.choose_held_out(model, suite, settings or [], n_queries=queries)
        loaded, task = load(model), load_task(**chosen)
        _say(f"{task!r}: {which}")
        table = sweep(loaded, task, budgets)
    else:
        from metaembed_lite.mteb_bridge import evaluate as on_mteb

        table = on_mteb(load(model), benchmark, budgets, output, name=model)
    _say(_shown(table))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A saved model.")],
    name: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    private: Annotated[bool, typer.Option(help="Only for you.")] = True,
    backbone: Annotated[
        str | None,
        typer.Option(help="The backbone on the hub, if it was a local folder in training."),
    ] = None,
) -> None:
    """Upload a saved model and its card to the model hub; `hf auth login` comes first.

    Only the files that belong to the model are uploaded, and each is named. Checkpoints and other
    files stay here.
    """
    from metaembed_lite import hub

    names = hub.files_to_push(folder, name, backbone)
    for file in names:
        _say(f"  {file}")
    hub.push(folder, name, names, private=private, backbone=backbone)
    _say(f"uploaded: {len(names)} files to https://huggingface.co/{name}")


def _shown(table: Any) -> str:
    return str(table.round(3).to_string(index=False))


if __name__ == "__main__":
    app()
