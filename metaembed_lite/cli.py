"""The command line of the package.

metaembed-lite recipes
metaembed-lite recipes tiny
metaembed-lite check-data my-images
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
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from metaembed_lite import __version__, data_commands, doctor_command, search_commands
from metaembed_lite.extras import extra
from metaembed_lite.model_folder import files

if TYPE_CHECKING:
    from metaembed_lite.budget import Budget
    from metaembed_lite.evaluation import EncodedTask


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


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_once(line: str) -> None:
    """Print from the first process only, where several train together."""
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(line)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"metaembed-lite {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True,
                           help="Print the version and exit.")
    ] = False,
) -> None:  # fmt: skip
    """MetaEmbed's flexible late interaction."""


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this recipe with its comments. Defaults to a list.")
    ] = None,
) -> None:
    """List the bundled recipes, or print one to copy and change."""
    from metaembed_lite import recipes

    if name is not None:
        typer.echo(recipes.read_text(name), nl=False)
        return
    for each in recipes.list_names():
        sections = recipes.read_sections(each)
        typer.echo(f"{each:22} {sections['model']['backbone']} on {sections['data']['name']}")
    typer.echo(f"\n{recipes.PAPER_NOTE}\n\nmetaembed-lite recipes NAME prints one.")


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
    start_from: Annotated[
        str | None,
        typer.Option(help="A trained model to train further, in place of the recipe's model."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a recipe, evaluate the model per budget, and save it with its quality on the card."""
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("metaembed_lite").setLevel(logging.INFO)
    from metaembed_lite import load_task, sweep, training_run
    from metaembed_lite import recipes as shipped
    from metaembed_lite import train as run
    from metaembed_lite.model_card import add_to_card
    from metaembed_lite.recipes import start

    chosen = shipped.read(recipe, overrides or [], start_from)
    modes: dict[str, Any] = {"resume": resume, "restart": restart, "overwrite": overwrite}
    if int(os.environ.get("RANK", 0)) == 0:
        training_run.check_free(output.absolute(), **modes)
    validation = start.load_validation(chosen)
    task = load_task(**chosen.data)
    _print_once(repr(task))
    model = start.load_model(chosen)
    run(
        model, task.train, validation=validation, output=output, progress=progress, **modes,
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
    misses: Annotated[
        int, typer.Option(min=0, help="Queries to list whose best candidate is wrong.")
    ] = 0,
    output: Annotated[Path, typer.Option(help="Folder for mteb's results.")] = Path("results"),
    batch_size: Annotated[
        int | None, typer.Option(help="Inputs encoded at a time. Defaults to 64, or mteb's 32.")
    ] = None,
) -> None:
    """Measure quality and cost on a suite or on a benchmark of mteb, per budget.

    The budgets default to those of the paper that the model can meet, and its full budget. On the
    suite that the model was trained on, the test split of that training is used, which has no
    training item in it. --misses lists queries at the largest budget: which candidate is right,
    its rank, and which one was found.
    """
    from metaembed_lite import Budget, load, load_task, recipes
    from metaembed_lite.evaluation import encode
    from metaembed_lite.evaluation import evaluate as measure
    from metaembed_lite.meta_tokens import choose_budgets

    if misses and benchmark is not None:
        raise typer.BadParameter("--misses needs a suite: leave it out, or leave out --benchmark")
    budgets = [Budget.parse(text) for text in budget] if budget else None
    at_once: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    if benchmark is None:
        chosen, description = recipes.choose_held_out(
            model, suite, settings or [], n_queries=queries
        )
        loaded, task = load(model), load_task(**chosen)
        _print_once(f"{task!r}: {description}")
        within = choose_budgets(loaded, budgets)  # before the work of encoding
        encoded = encode(loaded, task, **at_once)
        table = measure(encoded, within)
    else:
        with extra("benchmarks"):
            import mteb  # noqa: F401  before the model is loaded
        from metaembed_lite.mteb_bridge import evaluate as on_mteb

        table = on_mteb(load(model), benchmark, budgets, output, name=model, **at_once)
    _print_once(_format(table))
    if misses:
        _print_misses(encoded, within[-1], misses)


def _print_misses(encoded: EncodedTask, budget: Budget, n: int) -> None:
    from metaembed_lite.evaluation import find_misses
    from metaembed_lite.items import describe

    table, queries = find_misses(encoded, budget), encoded.task.queries
    _print_once(f"\n{len(table)} of {len(queries)} queries are missed at {budget}")
    if len(table):
        texts = [describe(queries[i]) for i in table["query"][:n]]
        _print_once(_format(table[:n].assign(query=texts)))


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


app.command("check-data")(data_commands.check_data)
app.command()(search_commands.index)
app.command()(search_commands.search)
app.command()(search_commands.serve)
app.command()(doctor_command.doctor)


def _format(table: Any) -> str:
    return str(table.round(3).to_string(index=False))


if __name__ == "__main__":
    app()
