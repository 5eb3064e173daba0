"""Recipes: which backbone, which data, which settings; one YAML file each, beside this one.

    model:  arguments of build()
    data:   arguments of load_task()
    train:  arguments of train()

``metaembed-lite train NAME`` runs one, and ``section.key=value`` overrides any line of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaembed_lite import checkpoints
from metaembed_lite.data import find_suite
from metaembed_lite.model import build
from metaembed_lite.settings import check, parse
from metaembed_lite.training import train

FOLDER = Path(__file__).parent
SECTIONS = ("model", "data", "train")
OF_THE_RUN = (  # arguments of train() that no recipe gives
    "model", "rows", "output", "resume", "restart", "overwrite", "recipe",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A recipe's three sections, each the keyword arguments of a function.

    Attributes:
        name: of the recipe, or the path of its file.
        model: arguments of ``build``.
        data: arguments of ``load_task``, ``name`` among them.
        train: arguments of ``train``.
    """

    name: str
    model: dict[str, Any]
    data: dict[str, Any]
    train: dict[str, Any]


def names() -> list[str]:
    """The recipes that ship."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that ships, by name, or your own, by path.

    Every value is checked against the signature of the function that it is for: ``build``, the
    suite's function, ``train``. Nothing is loaded.

    Args:
        name_or_path: such as "tiny" or "my/recipe.yaml".
        overrides: "section.key=value", the value as YAML: "train.steps=100", "model.dim=null".

    Raises:
        ValueError: on an unknown recipe, section, suite or key, a value of another type, an
            override without "=", or a file that is not YAML in UTF-8.
        OSError: if the file cannot be read.
    """
    file = FOLDER / f"{name_or_path}.yaml"
    if not file.is_file():
        file = Path(name_or_path)
    sections = _sections(file)
    for override in overrides:
        path, value = assignment(override)
        section, dot, key = path.partition(".")
        if not dot or section not in SECTIONS:
            raise ValueError(
                f"override {override!r}: write section.key=value with a section of "
                f"{', '.join(SECTIONS)}, such as train.steps=100"
            )
        sections[section] = {**sections[section], key: value}
    return _checked(str(name_or_path), sections)


def assignment(text: str) -> tuple[str, Any]:
    """ "key=value" as a key and a value, the value read as YAML.

    Raises:
        ValueError: without "=", or on a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} has no '=': write key=value; in a recipe, section.key=value")
    return key, parse(value, repr(value))


def suite_settings(name: str, assignments: Sequence[str], **defaults: Any) -> dict[str, Any]:
    """Settings of a suite that were written as "key=value", checked as those of a recipe.

    Args:
        name: of the suite.
        assignments: such as "path=my-pictures" or "n_queries=1e3".
        **defaults: settings that the assignments replace.

    Raises:
        ValueError: on an unknown suite or setting, or a value of another type.
    """
    values = {**defaults, **dict(map(assignment, assignments))}
    return check(find_suite(name), values, f"suite {name!r}")


def _sections(file: Path) -> dict[str, dict[Any, Any]]:
    """The three sections of a file, unchecked; an empty section is an empty dict."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name the recipe's file in it")
    if not file.is_file():
        raise ValueError(
            f"no recipe {str(file)!r}: there is no such file; the bundled recipes are "
            f"{', '.join(names())}"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}; save it as UTF-8") from error
    found = parse(text, str(file))
    if not isinstance(found, dict) or set(found) != set(SECTIONS):
        there = ", ".join(map(str, found)) if isinstance(found, dict) else f"only {found!r:.80}"
        raise ValueError(
            f"{file}: a recipe has the sections {', '.join(SECTIONS)}, and no others; "
            f"it has {there}"
        )
    for name, values in found.items():
        if values is not None and not isinstance(values, dict):
            raise ValueError(
                f"{file}: {name} is {values!r:.80}; expected lines of 'key: value' below"
            )
    return {name: found[name] or {} for name in SECTIONS}


def held_out(
    model: str | Path, name: str | None, assignments: Sequence[str], n_queries: int | None = None
) -> tuple[dict[str, Any], str]:
    """The arguments of ``load_task`` that give items on which a model was not trained.

    Args:
        model: a bundled name or the folder of a saved model. Its ``recipe.yaml`` says what it was
            trained on.
        name: the suite to evaluate on. Defaults to the one it was trained on, or else to
            "handwriting".
        assignments: settings of the suite, such as "path=my-pictures".
        n_queries: of the suite. Defaults to 500, or to what training held out.

    Returns:
        The arguments, and in words which part of the data they give.

    Raises:
        ValueError: on an unknown suite or setting, or a value of another type.
    """
    file = (checkpoints.folder(str(model)) or Path(model)) / "recipe.yaml"
    data = dict(read(file).data) if file.is_file() else {}
    trained_on = data.pop("name", None)
    name = name or trained_on or "handwriting"
    given = [*assignments, *([] if n_queries is None else [f"n_queries={n_queries}"])]
    path = dict(map(assignment, assignments)).get("path")
    if name == trained_on and path is None and "path" in data:
        raise ValueError(
            f"{file} says that the model was trained on path={data['path']}. A recipe does not "
            f"choose what is read: add path={data['path']}, or another path"
        )
    if name == trained_on and _same_path(path, data.get("path")):
        # In a folder the split depends on whether there are training rows at all; one is enough.
        n_train = 1 if name == "image_folder" and data.get("n_train") != 0 else 0
        chosen = suite_settings(name, given, **{**data, "n_train": n_train})
        return {"name": name, **chosen}, "the test split of the model's training"
    chosen = suite_settings(name, given, n_queries=500, n_train=0)
    if trained_on is None:
        return {
            "name": name,
            **chosen,
        }, "the model has no recipe.yaml, so it may have been trained on these items"
    return {"name": name, **chosen}, "other data than the model was trained on"


def _same_path(one: Any, other: Any) -> bool:
    """Whether two settings name the same folder, or are both missing."""
    if one is None or other is None:
        return one is other
    return Path(str(one)).resolve() == Path(str(other)).resolve()


def _checked(name: str, sections: dict[str, dict[Any, Any]]) -> Recipe:
    owner = f"recipe {name}"
    settings = dict(sections["data"])
    suite_name = settings.pop("name", None)
    if not isinstance(suite_name, str):
        raise ValueError(
            f"{owner}: data needs the name of a suite, such as name: scenes; it has {suite_name!r}"
        )
    try:
        function = find_suite(suite_name)
    except ValueError as error:
        raise ValueError(f"{owner}: data: {error}") from error
    return Recipe(
        name,
        model=check(build, sections["model"], f"{owner}: model"),
        data={"name": suite_name, **check(function, settings, f"{owner}: data")},
        train=check(train, sections["train"], f"{owner}: train", OF_THE_RUN),
    )
