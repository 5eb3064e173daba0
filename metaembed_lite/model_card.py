"""The README of a saved model, in the format of the model hub.

sentence-transformers fills the template ``model_card.md``. ``describe_origin`` adds what the model
was made from, and ``add_to_card`` what it can do. Both write metadata that the hub reads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from metaembed_lite.locking import write_whole
from metaembed_lite.model_folder import ADAPTER_CONFIG, BUNDLED_PREFIX, read_json

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder

    from metaembed_lite.data.task import RetrievalTask

TEMPLATE = Path(__file__).parent / "model_card.md"
CARD, RECIPE, CURVE = "README.md", "recipe.yaml", "training_curve.csv"  # in a model's folder
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
METRICS = {"p_at_1": ("precision_at_1", "P@1"), "ndcg_at_5": ("ndcg_at_5", "NDCG@5")}


def remove_examples(model: MultiVectorEncoder) -> None:
    """Remove captions and images of the training rows from a model's card.

    Example:
        >>> from metaembed_lite import load
        >>> model = load("tiny", device="cpu")
        >>> remove_examples(model)
        >>> model.model_card_data.widget
        []
    """
    card = model.model_card_data
    card.widget, card.usage_examples, card.usage_examples_display = [], None, None
    for dataset in [*card.train_datasets, *card.eval_datasets]:
        for key in ("examples", "examples_table", "stats", "stats_table"):
            dataset.pop(key, None)


def describe_origin(folder: str | Path, backbone: str | None = None) -> None:
    """Write backbone, license and recipe into a saved model's card.

    A backbone on the hub becomes the card's ``base_model``. One that is bundled, or is a folder on
    this machine, is only named in the text, because the hub does not know it. A license that the
    card does not state is ``unknown``.

    Args:
        folder: the folder of the saved model, with ``recipe.yaml`` and ``training_curve.csv`` if
            there are any.
        backbone: a hub id, "metaembed_lite/NAME" for a bundled one, or a folder. Defaults to the
            one that the model's adapter names.

    Raises:
        ValueError: if the card's metadata cannot be read.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import load, save
        >>> folder = tempfile.mkdtemp()
        >>> save(load("tiny", device="cpu"), folder)
        >>> describe_origin(folder, "Qwen/Qwen2.5-VL-3B-Instruct")
        >>> ModelCard.load(Path(folder, "README.md")).data.base_model
        'Qwen/Qwen2.5-VL-3B-Instruct'
    """
    folder = Path(folder)
    card = read_card(folder)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    if backbone is None and is_adapter:
        backbone = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    is_public = _is_hub_id(backbone)
    if is_public:
        card.data["base_model"] = backbone
        card.data["base_model_relation"] = "adapter" if is_adapter else "finetune"
    card.data["license"] = card.data.get("license") or "unknown"
    recipe = _read_recipe(folder)
    if recipe.get("data", {}).get("name") == "mmeb":
        card.data["datasets"] = [recipe["data"].get("path", "TIGER-Lab/MMEB-train")]
    origin = _origin(folder, backbone, recipe)
    card.text = _put_section(card.text, "Origin", origin, before="Architecture")
    (folder / CARD).write_text(_format_card(card), encoding="utf-8")


def add_to_card(folder: str | Path, task: RetrievalTask, table: pd.DataFrame) -> None:
    """Write quality and index bytes at every budget into a saved model's card.

    The metadata get them as ``model-index``, which the hub reads. What the data is, where it comes
    from and whom to name stands below the table. What an earlier call wrote is replaced.

    Args:
        folder: the folder of the saved model.
        task: the task that was evaluated.
        table: from ``sweep``.

    Raises:
        ValueError: if the card's metadata cannot be read.

    Example:
        >>> import tempfile
        >>> from metaembed_lite import load, load_task, save, sweep
        >>> model, folder = load("tiny", device="cpu"), tempfile.mkdtemp()
        >>> save(model, folder)
        >>> task = load_task("stickers", n_queries=4, n_train=0)
        >>> add_to_card(folder, task, sweep(model, task))
        >>> results = ModelCard.load(Path(folder, "README.md")).data.eval_results
        >>> results[0].metric_name, results[0].dataset_name, results[0].dataset_split
        ('P@1 at budget (1, 1)', 'stickers', 'test')
    """
    folder = Path(folder)
    describe_origin(folder)
    card = read_card(folder)
    settings = _read_recipe(folder).get("data", {})
    if settings.get("name") != task.name:
        settings = {}
    card.data["model_name"] = card.data.get("model_name") or folder.resolve().name
    card.data["eval_results"] = _eval_results(task, table, settings)
    lines = [
        "| budget (r_q, r_c) | P@1 | NDCG@5 | index bytes per candidate |",
        "|---|---|---|---|",
    ]
    for row in table.itertuples():
        lines.append(
            f"| ({row.r_q}, {row.r_c}) | {row.p_at_1:.3f} | {row.ndcg_at_5:.3f} "
            f"| {row.bytes_per_candidate:,} |"
        )
    about = re.sub(r"^#+ ", "", task.about, flags=re.M).strip()  # a heading would end the section
    sizes = f"{len(task.queries):,} queries and {len(task.candidates):,} candidates"
    split = settings.get("split", "test")
    parts = [f"Suite `{task.name}`, {split} split: {sizes}.", "\n".join(lines), about]
    body = "\n\n".join(part for part in parts if part)
    card.text = _put_section(card.text, "Quality at every budget", body, before="Origin")
    write_whole(folder / CARD, _format_card(card))


def read_card(folder: Path) -> ModelCard:
    """Read the card of a saved model.

    Raises:
        ValueError: if its metadata cannot be read.

    Example:
        >>> from metaembed_lite import checkpoints
        >>> read_card(checkpoints.HERE / "tiny").data.library_name
        'sentence-transformers'
    """
    file = folder / CARD
    try:
        return ModelCard.load(file)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{file}: the metadata between the first two lines of --- cannot be read ({error}): "
            "correct them, or save the model again"
        ) from error


def _is_hub_id(backbone: str | None) -> bool:
    if backbone is None or backbone.startswith(BUNDLED_PREFIX):
        return False
    return HUB_ID.fullmatch(backbone) is not None and not Path(backbone).is_dir()


def _origin(folder: Path, backbone: str | None, recipe: dict[str, Any]) -> str:
    """The text of the section on what the model was made from."""
    parts = []
    if _is_hub_id(backbone):
        parts.append(f"The backbone is [{backbone}](https://huggingface.co/{backbone}).")
    elif backbone is not None and backbone.startswith(BUNDLED_PREFIX):
        name = backbone.removeprefix(BUNDLED_PREFIX)
        parts.append(f"The backbone is `{name}`, which comes with the package metaembed-lite.")
    elif backbone is not None:  # the rest of the path says something about its author only
        parts.append(f"The backbone was in a local folder, `{Path(backbone).name}`.")
    if (folder / CURVE).is_file():
        parts.append(f"[{CURVE}]({CURVE}) has the loss in the course of training.")
    if recipe:
        text = (folder / RECIPE).read_text(encoding="utf-8").strip()
        parts.append(
            f"[{RECIPE}]({RECIPE}) repeats the training, with `metaembed-lite train {RECIPE}`:\n\n"
            f"```yaml\n{text}\n```"
        )
    return "\n\n".join(parts) or "The backbone is not recorded."


def _read_recipe(folder: Path) -> dict[str, Any]:
    """The recipe of a saved model as it is written. Empty if there is none with three sections."""
    file = folder / RECIPE
    recipe = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    if not isinstance(recipe, dict):
        return {}
    return {name: values for name, values in recipe.items() if isinstance(values, dict)}


def _eval_results(
    task: RetrievalTask, table: pd.DataFrame, settings: dict[str, Any]
) -> list[EvalResult]:
    left_out = ("name", "split", "path")
    arguments = {key: value for key, value in settings.items() if key not in left_out}
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Retrieval",
            dataset_type=task.name,
            dataset_name=task.name,
            dataset_split=settings.get("split", "test"),
            dataset_args=arguments or None,
            metric_type=kind,
            metric_name=f"{label} at budget ({row.r_q}, {row.r_c})",
            metric_value=round(float(getattr(row, column)), 4),
            metric_args={"r_q": int(row.r_q), "r_c": int(row.r_c)},
        )
        for row in table.itertuples()
        for column, (kind, label) in METRICS.items()
    ]


def _put_section(text: str, title: str, body: str, before: str) -> str:
    """Put a section before another one, or at the end. An earlier one of its title goes."""
    text = re.sub(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", "", text, flags=re.M | re.S)
    start, heading, rest = text.partition(f"## {before}\n")
    return f"{start.rstrip()}\n\n## {title}\n\n{body}\n\n{heading}{rest}"


def _format_card(card: ModelCard) -> str:
    text = card.text.rstrip("\n") + "\n"
    return f"---\n{card.data.to_yaml()}\n---\n{text}"
