"""The command line: what the module does, from a terminal.

metaembed-lite recipes
metaembed-lite train tiny --output my-model train.steps=100
accelerate launch -m metaembed_lite.cli train qwen2.5-vl-7b --output my-model
metaembed-lite evaluate my-model --suite folder path=my-pictures
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


def _is_expected(error: Exception) -> bool:
    """Whether an error names what a user can mend, and not a mistake in this package."""
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
    """List the recipes that ship."""
    from metaembed_lite import recipes

    for name in recipes.names():
        recipe = recipes.read(name)
        typer.echo(f"{name:22} {recipe.model['backbone']} on {recipe.data['name']}")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe that ships, or the path of your own.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="section.key=value, such as train.steps=100")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the trained model.")] = Path("model"),
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint there.")] = False,
) -> None:
    """Train a recipe, evaluate it at every budget, save it with a card that says how good it is."""
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("metaembed_lite").setLevel(logging.INFO)
    from metaembed_lite import build, load_task, sweep
    from metaembed_lite import recipes as shipped
    from metaembed_lite import train as run
    from metaembed_lite.training import add_to_card

    chosen = shipped.read(recipe, overrides or [])
    task = load_task(**chosen.data)
    _say(repr(task))
    model = build(**chosen.model)
    curve = run(model, task.train, output=output, resume=resume, **chosen.train)
    if int(os.environ.get("RANK", 0)) != 0:
        return
    curve.round(4).to_csv(output / "training_curve.csv", index=False)
    table = sweep(model, task)
    add_to_card(output, task, table)
    _say(_shown(table))
    adapter = sum(f.stat().st_size for f in output.rglob("*.safetensors"))
    _say(f"saved: {output}, {adapter / 2**20:.1f} MiB of weights")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A shipped name, a folder or a hub id.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key=value for the suite, such as path=my-pictures")
    ] = None,
    suite: Annotated[str, typer.Option(help="A suite of load_task.")] = "handwriting",
    queries: Annotated[int, typer.Option(help="Queries of the suite.")] = 500,
    benchmark: Annotated[
        str | None, typer.Option(help='A benchmark or task of mteb, such as "ViDoRe(v2)".')
    ] = None,
    budget: Annotated[
        list[str] | None, typer.Option(help="Such as 4x8; may be given several times.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for mteb's results.")] = Path("results"),
) -> None:
    """Quality and cost on a suite, or on a benchmark of mteb, at the budgets given or at all."""
    from metaembed_lite import Budget, load, load_task, recipes, sweep

    budgets = [Budget.parse(text) for text in budget] if budget else None
    if benchmark is None:
        sizes = {"n_queries": queries, "n_train": 0}
        chosen = recipes.suite_settings(suite, settings or [], **sizes)  # before the model loads
        table = sweep(load(model), load_task(suite, **chosen), budgets)
    else:
        from metaembed_lite.mteb_bridge import evaluate as on_mteb

        table = on_mteb(load(model), benchmark, budgets, output, name=model)
    _say(_shown(table))


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="A saved model.")],
    name: Annotated[str, typer.Argument(help="owner/name on the hub.")],
    private: Annotated[bool, typer.Option(help="Only for you.")] = True,
) -> None:
    """Upload a saved model and its card to the model hub; `hf auth login` comes first."""
    from huggingface_hub import HfApi

    if not (folder / "modules.json").is_file():
        raise FileNotFoundError(f"{folder} has no modules.json: not a saved model")
    if name.count("/") != 1:
        raise ValueError(f"{name!r}: name the repository as owner/name")
    try:
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=["checkpoints/*"])
    except Exception as error:
        raise OSError(
            f"{name} was not uploaded: {error}. Check the connection and the login"
        ) from error
    _say(f"uploaded: https://huggingface.co/{name}")


def _shown(table: Any) -> str:
    return str(table.round(3).to_string(index=False))


if __name__ == "__main__":
    app()
