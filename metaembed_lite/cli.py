"""The command line of the package.

metaembed-lite recipes
metaembed-lite train tiny --output my-model train.steps=100
accelerate launch -m metaembed_lite.cli train qwen2.5-vl-7b --output my-model
metaembed-lite evaluate my-model --suite image_folder path=my-images
metaembed-lite evaluate my-model --benchmark "ViDoRe(v2)" --budget 8x16
metaembed-lite push my-model you/my-model
metaembed-lite index tiny stickers n_queries=200 --output my-index
metaembed-lite search my-index "violin, red apple" --budget 4x8
metaembed-lite serve my-index
metaembed-lite doctor my-model my-images
"""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from metaembed_lite import doctor_command, search_commands
from metaembed_lite.model_folder import files


def is_expected(error: Exception) -> bool:
    """Whether an error is explained by its message, so that a traceback would not help.

    These are errors of the machine (files, memory, connection, missing packages), and each
    ``ValueError`` that this package raises. A ``ValueError`` from another library may be a bug.

    Example:
        >>> is_expected(FileNotFoundError("model.safetensors is missing"))
        True
        >>> import json
        >>> try:
        ...     json.loads("{")
        ... except ValueError as error:
        ...     is_expected(error)
        False
    """
    from PIL.Image import DecompressionBombError
    from safetensors import SafetensorError

    if isinstance(error, BrokenPipeError):  # typer handles it
        return False
    if isinstance(error, ValueError):
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        return bool(frames) and frames[-1].f_globals.get("__name__", "").startswith(
            "metaembed_lite"
        )
    return isinstance(
        error, OSError | MemoryError | ImportError | DecompressionBombError | SafetensorError
    )


def fail(error: Exception) -> NoReturn:
    """Print an error as one line and end with exit status 2.

    Raises:
        typer.Exit: always.

    Example:
        >>> try:
        ...     fail(ValueError("no recipe 'huge'"))  # printed to stderr
        ... except typer.Exit as end:
        ...     end.exit_code
        2
    """
    typer.secho(f"error: {str(error) or type(error).__name__}", fg="red", err=True)
    raise typer.Exit(code=2) from error


class Commands(TyperGroup):
    """The commands of an app. An error that ``is_expected`` hides its traceback.

    Example:
        >>> app = typer.Typer(cls=Commands)
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command, as the parent class does."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if is_expected(error):
                fail(error)
            raise


app = typer.Typer(
    cls=Commands, help="MetaEmbed's flexible late interaction.", no_args_is_help=True,
    pretty_exceptions_enable=False,
)  # fmt: skip


def _print_once(line: str) -> None:
    """Print from the first process only, where several train together."""
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
    recipe: Annotated[str, typer.Argument(help="A bundled recipe, or the path of your own.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, such as train.steps=100")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the trained model.")] = Path("model"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest complete checkpoint there.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Delete the checkpoints of an unfinished run there.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the finished model there.")
    ] = False,
) -> None:
    """Train a recipe, evaluate the model per budget, and save it with its quality on the card."""
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("metaembed_lite").setLevel(logging.INFO)
    from metaembed_lite import build, load_task, sweep
    from metaembed_lite import recipes as shipped
    from metaembed_lite import train as run
    from metaembed_lite.model_card import add_to_card

    chosen = shipped.read(recipe, overrides or [])
    task = load_task(**chosen.data)
    _print_once(repr(task))
    model = build(**chosen.model)
    run(
        model, task.train, output=output, resume=resume, restart=restart, overwrite=overwrite,
        recipe={"model": chosen.model, "data": chosen.data, "train": chosen.train},
        **chosen.train,
    )  # fmt: skip
    if int(os.environ.get("RANK", 0)) != 0:
        return
    at_once = chosen.train.get("mini_batch_size") or 64  # what fits in training fits here
    table = sweep(model, task, batch_size=at_once)
    add_to_card(output, task, table)
    _print_once(_format(table))
    weights = [output / file for file in files(output) if file.suffix == ".safetensors"]
    mebibytes = sum(file.stat().st_size for file in weights) / 2**20
    _print_once(f"saved: {output}, {mebibytes:.1f} MiB of weights")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A bundled name, a folder or a hub id.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value for the suite, such as path=my-images")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="A suite of load_task. Defaults to the one that the model was trained on."
        ),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(help="Queries of the suite. Defaults to 500, or as in training.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help='A benchmark or task of mteb, such as "ViDoRe(v2)".')
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Such as 4x8. Repeat the option for more than one.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for mteb's results.")] = Path("results"),
) -> None:
    """Measure quality and cost on a suite or on a benchmark of mteb, per budget.

    The budgets default to those of the paper that the model can meet, and its full budget. On the
    suite that the model was trained on, the test split of that training is used, which has no
    training item in it.
    """
    from metaembed_lite import Budget, load, load_task, recipes, sweep

    budgets = [Budget.parse(text) for text in budget] if budget else None
    if benchmark is None:
        chosen, description = recipes.choose_held_out(
            model, suite, settings or [], n_queries=queries
        )
        loaded, task = load(model), load_task(**chosen)
        _print_once(f"{task!r}: {description}")
        table = sweep(loaded, task, budgets)
    else:
        from metaembed_lite.mteb_bridge import evaluate as on_mteb

        table = on_mteb(load(model), benchmark, budgets, output, name=model)
    _print_once(_format(table))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A saved model.")],
    name: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    private: Annotated[bool, typer.Option(help="Visible to you only.")] = True,
    backbone: Annotated[
        str | None,
        typer.Option(help="The backbone on the hub, if it was a local folder in training."),
    ] = None,
) -> None:
    """Upload a saved model and its card to the model hub. Run `hf auth login` first.

    Only the files of the model are uploaded, and each is printed. Training checkpoints and other
    files in the folder are not.
    """
    from metaembed_lite import hub

    names = hub.files_to_push(folder, name, backbone)
    for file in names:
        _print_once(f"  {file}")
    hub.push(folder, name, names, private=private, backbone=backbone)
    _print_once(f"uploaded: {len(names)} files to https://huggingface.co/{name}")


app.command()(search_commands.index)
app.command()(search_commands.search)
app.command()(search_commands.serve)
app.command()(doctor_command.doctor)


def _format(table: Any) -> str:
    return str(table.round(3).to_string(index=False))


if __name__ == "__main__":
    app()
