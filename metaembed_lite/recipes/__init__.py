"""Recipes: which backbone, which data, which settings; one YAML file each, beside this one.

    model:  arguments of build()
    data:   arguments of load_task()
    train:  arguments of train()

``metaembed-lite train NAME`` runs one, and ``section.key=value`` overrides any line of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
SECTIONS = ("model", "data", "train")


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

    Args:
        name_or_path: such as "tiny" or "my/recipe.yaml".
        overrides: "section.key=value", the value as YAML: "train.steps=100", "model.dim=null".

    Raises:
        ValueError: on an unknown recipe, section or key, or an override without "=".
    """
    import yaml

    file = FOLDER / f"{name_or_path}.yaml"
    if not file.is_file():
        file = Path(name_or_path)
    if not file.is_file():
        raise ValueError(
            f"no recipe {str(name_or_path)!r}: it is no file, and these ship: {', '.join(names())}"
        )
    try:
        sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(sections, dict) or set(sections) != set(SECTIONS):
        raise ValueError(f"{file}: a recipe has the sections {', '.join(SECTIONS)}, and no others")
    for override in overrides:
        path, value = assignment(override)
        section, dot, key = path.partition(".")
        if not dot or section not in SECTIONS:
            raise ValueError(
                f"override {override!r}: write section.key=value with a section of "
                f"{', '.join(SECTIONS)}, such as train.steps=100"
            )
        sections[section] = {**(sections[section] or {}), key: value}
    recipe = Recipe(str(name_or_path), **{name: sections[name] or {} for name in SECTIONS})
    _check(recipe)
    return recipe


def assignment(text: str) -> tuple[str, Any]:
    """ "key=value" as a key and a value, the value read as YAML.

    Raises:
        ValueError: without "=", or on a value that is not YAML.
    """
    import yaml

    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} has no '=': write key=value; in a recipe, section.key=value")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{value!r} is not YAML: {error}") from error
    if isinstance(found, str):
        try:
            return key, float(found)  # 1e-4, which YAML takes for a text without a point in it
        except ValueError:
            pass
    return key, found


def test_split(
    model: str | Path, suite: str | None, own: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """The arguments of ``load_task`` that give items on which a model was not trained.

    Args:
        model: a bundled name or the folder of a saved model; its ``recipe.yaml`` says what it was
            trained on.
        suite: the suite to evaluate on. Defaults to the one it was trained on, or else to
            "handwriting".
        own: settings that the user gives.

    Returns:
        The arguments, and in words which split they give.
    """
    from metaembed_lite import checkpoints

    file = (checkpoints.folder(str(model)) or Path(model)) / "recipe.yaml"
    data = read(file).data if file.is_file() else {}
    suite = suite or data.get("name", "handwriting")
    if suite != data.get("name"):
        return {"name": suite, "n_queries": 500, "n_train": 0, **own}, "all of it"
    if "path" in own and Path(own["path"]).resolve() != Path(data.get("path", "")).resolve():
        return {
            "name": suite,
            "n_queries": 500,
            "n_train": 0,
            **own,
        }, "all of it, as it is other data"
    # In a folder the split depends on whether there is training data at all; one row is enough.
    n_train = 1 if suite == "folder" and data.get("n_train") != 0 else 0
    return {**data, "n_train": n_train, **own}, "the test split of the model's training"


def _check(recipe: Recipe) -> None:
    from metaembed_lite import build, train

    known = {
        "model": set(inspect.signature(build).parameters),
        "train": set(inspect.signature(train).parameters)
        - {"model", "rows", "output", "resume", "restart", "overwrite", "recipe"},
    }
    for section, keys in known.items():
        for key in getattr(recipe, section):
            if key not in keys:
                raise ValueError(
                    f"recipe {recipe.name}: {section} has no {key!r}; it has "
                    f"{', '.join(sorted(keys))}"
                )
    if "name" not in recipe.data:
        raise ValueError(f"recipe {recipe.name}: data needs the name of a suite")
