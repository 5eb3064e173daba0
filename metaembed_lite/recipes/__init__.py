"""Recipes: a backbone, data and training settings, in one YAML file each, in this folder.

    model:  arguments of build(), or start_from, a trained model that is trained further
    data:   arguments of load_task()
    train:  arguments of train()

``metaembed-lite train NAME`` runs a recipe, and ``section.key=value`` overrides any line of it.
With ``validate_every`` or ``keep_best`` it validates on the validation split of the suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaembed_lite import checkpoints
from metaembed_lite.settings import check, parameters, parse

FOLDER = Path(__file__).parent
SECTIONS = ("model", "data", "train")
LENGTHS = ("steps", "epochs")  # a run has one of them
RUN_ARGUMENTS = (  # arguments of train() that a recipe may not set
    "model", "rows", "output", "resume", "restart", "overwrite", "recipe", "callbacks",
    "validation", "progress",
)  # fmt: skip
PAPER_NOTE = """\
The recipes llama-3.2-vision-11b, paligemma-3b and qwen2.5-vl-* follow the published configuration
(scripts/7b_mrl.yaml of the official code), as readers of its README report it: budgets and weights,
temperature, LoRA rank, alpha and dropout, learning rate, warm-up, steps, bfloat16, and 48 queries
per device with one hard negative each. The number of GPUs is unknown, and so is the global batch
size. We chose mini_batch_size and the data, which you replace with your own."""


@dataclass(frozen=True)
class Recipe:
    """A recipe's three sections, each the keyword arguments of a function.

    Attributes:
        name: name of the recipe, or the path of its file.
        model: arguments of ``build``, or of ``start.continue_from``.
        data: arguments of ``load_task``, with the suite as ``name``.
        train: arguments of ``train``.

    Example:
        >>> Recipe("mine", model={"r_q": 8}, data={"name": "stickers"}, train={}).data
        {'name': 'stickers'}
    """

    name: str
    model: dict[str, Any]
    data: dict[str, Any]
    train: dict[str, Any]


def list_names() -> list[str]:
    """List the bundled recipes.

    Example:
        >>> "tiny" in list_names()
        True
    """
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_text(name: str) -> str:
    """The text of a bundled recipe, with its comments.

    Raises:
        ValueError: if there is no bundled recipe of that name.

    Example:
        >>> read_text("tiny").startswith("# Sheets of stickers on tiny-vlm")
        True
    """
    if name not in list_names():
        raise ValueError(f"no recipe {name!r}: the bundled recipes are {', '.join(list_names())}")
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def read_sections(name: str) -> dict[str, dict[Any, Any]]:
    """The three sections of a bundled recipe, as they are written. ``read`` also checks them.

    Reading them takes no time, while checking them imports PyTorch.

    Example:
        >>> read_sections("tiny")["model"]["r_q"]
        8
    """
    return _read_sections(FOLDER / f"{name}.yaml")


def read(
    name_or_path: str | Path, overrides: Sequence[str] = (), start_from: str | None = None
) -> Recipe:
    """Read a bundled recipe, by name, or your own, by path.

    Every value is checked against the signature of its function: ``build``, the suite's function,
    or ``train``. No model and no data are loaded.

    Args:
        name_or_path: such as "tiny" or "my/recipe.yaml".
        overrides: "section.key=value", with the value as YAML: "train.steps=100", "model.dim=null".
            train.steps and train.epochs replace each other.
        start_from: a trained model to train further, in place of the section ``model``: a bundled
            name, a folder, or a hub id. Defaults to the model of the recipe.

    Raises:
        ValueError: on an unknown recipe, section, suite or key, or a value of a wrong type. Also on
            an override without "=", or a file that is not YAML in UTF-8.
        OSError: if the file cannot be read.

    Example:
        >>> recipe = read("tiny", ["train.steps=3"])
        >>> recipe.model["backbone"], recipe.train["steps"]
        ('tiny-vlm', 3)
    """
    file = FOLDER / f"{name_or_path}.yaml"
    if not file.is_file():
        file = Path(name_or_path)
    sections = _read_sections(file)
    if start_from is not None:
        sections["model"] = {"start_from": start_from}
    for override in overrides:
        path, value = parse_assignment(override)
        section, dot, key = path.partition(".")
        if not dot or section not in SECTIONS:
            raise ValueError(
                f"override {override!r}: write section.key=value with a section of "
                f"{', '.join(SECTIONS)}, such as train.steps=100"
            )
        kept = sections[section]
        if section == "train" and key in LENGTHS:
            kept = {name: kept[name] for name in kept if name not in LENGTHS}
        sections[section] = {**kept, key: value}
    return _check_sections(str(name_or_path), sections)


def parse_assignment(text: str) -> tuple[str, Any]:
    """Parse "key=value" as a key and a value, with the value read as YAML.

    Raises:
        ValueError: without "=", or on a value that is not YAML.

    Example:
        >>> parse_assignment("n_queries=1e3")
        ('n_queries', 1000.0)
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} has no '=': write key=value; in a recipe, section.key=value")
    return key, parse(value, repr(value))


def read_suite_settings(name: str, assignments: Sequence[str], **defaults: Any) -> dict[str, Any]:
    """Read settings of a suite that are written as "key=value", checked like those of a recipe.

    Args:
        name: name of the suite.
        assignments: such as "path=my-images" or "n_queries=1e3".
        **defaults: settings that the assignments replace.

    Raises:
        ValueError: on an unknown suite or setting, or a value of another type.

    Example:
        >>> read_suite_settings("stickers", ["n_queries=1e3"], n_train=0)
        {'n_train': 0, 'n_queries': 1000}
    """
    from metaembed_lite.data import find_suite  # imports PyTorch, which takes seconds

    values = {**defaults, **dict(map(parse_assignment, assignments))}
    return check(find_suite(name), values, f"suite {name!r}")


def choose_held_out(
    model: str | Path, name: str | None, assignments: Sequence[str], n_queries: int | None = None
) -> tuple[dict[str, Any], str]:
    """Choose the arguments of ``load_task`` that give items on which a model was not trained.

    Args:
        model: a bundled name or the folder of a saved model. Its ``recipe.yaml`` says what it was
            trained on.
        name: the suite to evaluate on. Defaults to the one it was trained on, or else to
            "handwriting".
        assignments: settings of the suite, such as "path=my-images".
        n_queries: number of queries. Defaults to 500, or to what training held out.

    Returns:
        The arguments, and in words which part of the data they give.

    Raises:
        ValueError: on an unknown suite or setting, or a value of another type.

    Example:
        >>> arguments, part = choose_held_out("tiny", None, [], n_queries=10)
        >>> arguments["name"], arguments["n_queries"], part
        ('stickers', 10, "the test split of the model's training")
    """
    from metaembed_lite.data.image_folder import changed_split  # imports PyTorch

    file = (checkpoints.folder(str(model)) or Path(model)) / "recipe.yaml"
    sections = _read_sections(file) if file.is_file() else {"model": {}, "data": {}}
    # A training in Python can have any rows, so its recipe.yaml names no suite.
    data = dict(read(file).data) if "name" in sections["data"] else {}
    trained_on = data.pop("name", None)
    name = name or trained_on or "handwriting"
    all_assignments = [*assignments, *([] if n_queries is None else [f"n_queries={n_queries}"])]
    path = dict(map(parse_assignment, assignments)).get("path")
    if name == trained_on and path is None and "path" in data:
        raise ValueError(
            f"{file} says that the model was trained on path={data['path']}. A recipe does not "
            f"choose what is read: add path={data['path']}, or another path"
        )
    csv = dict(map(parse_assignment, assignments)).get("csv")
    trained_csv = data.get("csv", "captions.csv")
    if name == trained_on and csv not in (None, trained_csv):
        settings = read_suite_settings(name, all_assignments, n_queries=500, n_train=0)
        return {"name": name, **settings}, (
            f"all items of {csv}. The model was trained on {trained_csv}, and an item that is in "
            "both may be one of its training items"
        )
    if name == trained_on and _is_same_path(path, data.get("path")):
        # An image folder splits its images only if there are training rows. One row is enough.
        n_train = 1 if name == "image_folder" and data.get("n_train") != 0 else 0
        settings = read_suite_settings(name, all_assignments, **{**data, "n_train": n_train})
        changed = changed_split(data, settings) if name == "image_folder" else []
        part = f"the {settings.get('split', 'test')} split of the model's training"
        if changed:
            part = (
                f"not {part}, because of {', '.join(changed)}: it may hold images that the model "
                "was trained on"
            )
        return {"name": name, **settings}, part
    settings = read_suite_settings(name, all_assignments, n_queries=500, n_train=0)
    return {"name": name, **settings}, _describe_other(file, sections["model"], trained_on)


def _describe_other(file: Path, model: Mapping[str, Any], trained_on: str | None) -> str:
    """What is known of items that are not from the suite that a model was trained on."""
    if not file.is_file():
        return "the model has no recipe.yaml, so it may have been trained on these items"
    if trained_on is None:
        return "the model was trained in Python, so it may have been trained on these items"
    if "start_from" in model:
        return (
            "other data than in the model's last training. It started from "
            f"{model['start_from']}, which may have been trained on these items"
        )
    return "other data than the model was trained on"


def _is_same_path(first: Any, second: Any) -> bool:
    """Whether two settings name the same folder, or are both missing."""
    if first is None or second is None:
        return first is second
    return Path(str(first)).resolve() == Path(str(second)).resolve()


def _read_sections(file: Path) -> dict[str, dict[Any, Any]]:
    """Read the three sections of a file, unchecked. An empty section is an empty dict."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name the recipe's file in it")
    if not file.is_file():
        raise ValueError(
            f"no recipe {str(file)!r}: there is no such file, and the bundled recipes are "
            f"{', '.join(list_names())}"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}; save it as UTF-8") from error
    sections = parse(text, str(file))
    if not isinstance(sections, dict) or set(sections) != set(SECTIONS):
        is_mapping = isinstance(sections, dict)
        content = ", ".join(map(str, sections)) if is_mapping else f"only {sections!r:.80}"
        raise ValueError(
            f"{file}: a recipe has the sections {', '.join(SECTIONS)}, and no others; "
            f"it has {content}"
        )
    for name, values in sections.items():
        if values is not None and not isinstance(values, dict):
            raise ValueError(
                f"{file}: {name} is {values!r:.80}; expected lines of 'key: value' below"
            )
    return {name: sections[name] or {} for name in SECTIONS}


def _check_sections(name: str, sections: dict[str, dict[Any, Any]]) -> Recipe:
    from metaembed_lite.data import find_suite  # these import PyTorch, which takes seconds
    from metaembed_lite.model import build
    from metaembed_lite.recipes.start import continue_from
    from metaembed_lite.training import train

    owner = f"recipe {name}"
    settings = dict(sections["data"])
    suite = settings.pop("name", None)
    if not isinstance(suite, str):
        raise ValueError(
            f"{owner}: data needs the name of a suite, such as name: stickers; it has {suite!r}"
        )
    try:
        load = find_suite(suite)
    except ValueError as error:
        raise ValueError(f"{owner}: data: {error}") from error
    model = sections["model"]
    others = sorted(model.keys() - parameters(continue_from).keys(), key=str)
    if "start_from" in model and others:
        raise ValueError(
            f"{owner}: model starts from {model['start_from']!r}, which is built already: leave "
            f"out {', '.join(map(str, others))}, or use --start-from, which does"
        )
    return Recipe(
        name,
        model=check(continue_from if "start_from" in model else build, model, f"{owner}: model"),
        data={"name": suite, **check(load, settings, f"{owner}: data")},
        train=check(train, sections["train"], f"{owner}: train", RUN_ARGUMENTS),
    )
