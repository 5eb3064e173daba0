"""Where a model comes from that was trained in Python: the content of its recipe.yaml.

It has the sections of a recipe, as far as they are known: the model, the number of rows and the
settings. It holds no item of the data and no path. It names no suite, so it cannot be run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Dense

from metaembed_lite.budget import Budget
from metaembed_lite.meta_tokens import MetaTokenTransformer
from metaembed_lite.model_folder import BUNDLED_PREFIX

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoder


def describe_training(
    model: MultiVectorEncoder,
    datasets: Mapping[str, Dataset],
    evaluator: Any,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """What is known of a training that was started in Python, in the sections of a recipe.

    Args:
        model: the model that is trained.
        datasets: the training sets by name.
        evaluator: the ``BudgetEvaluator`` of the validation, or None.
        settings: arguments of ``train``. Those that are None are left out.

    Example:
        >>> from datasets import Dataset
        >>> from metaembed_lite import load
        >>> rows = Dataset.from_list([{"query": "a", "positive": "b"}])
        >>> sections = describe_training(
        ...     load("tiny", device="cpu"), {"the task": rows}, None, {"steps": 2}
        ... )
        >>> sections["model"], sections["data"]
        ({'start_from': 'tiny'}, {'rows': 1, 'columns': ['query', 'positive']})
    """
    sets = list(datasets.values())
    data: dict[str, Any] = {
        "rows": sum(map(len, sets)),
        "columns": list(dict.fromkeys(column for rows in sets for column in rows.column_names)),
    }
    if len(sets) > 1:
        data["sets"] = len(sets)
    if evaluator is not None:
        data["validation"] = {
            "queries": len(evaluator.task.queries),
            "candidates": len(evaluator.task.candidates),
        }
    train = {name: _plain(value) for name, value in settings.items() if value is not None}
    return {"model": describe_model(model), "data": data, "train": train}


def _plain(value: Any) -> Any:
    """A value as YAML writes it: a budget as 4x8, and numbers of numpy as Python's."""
    if isinstance(value, Budget):
        return f"{value.r_q}x{value.r_c}"
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else [_plain(item) for item in value]


def describe_model(model: MultiVectorEncoder) -> dict[str, Any]:
    """The section ``model`` of a recipe: what the model started from, or arguments of ``build``.

    A folder is named without its path.

    Example:
        >>> from metaembed_lite import build
        >>> describe_model(build("tiny-vlm", r_q=2, r_c=4, lora_rank=4, dim=16, device="cpu"))
        {'backbone': 'tiny-vlm', 'r_q': 2, 'r_c': 4, 'layout': 'joint', 'dim': 16, 'lora_rank': 4,
        'lora_alpha': 4, 'lora_dropout': 0.0}
    """
    started_from = getattr(model, "loaded_from", None)
    if started_from is not None:
        return {"start_from": started_from}
    transformer = model[0]
    section: dict[str, Any] = {"backbone": name_backbone(model)}
    if isinstance(transformer, MetaTokenTransformer):
        section |= {"r_q": transformer.r_q, "r_c": transformer.r_c, "layout": transformer.layout}
    for module in model:
        if isinstance(module, Dense):
            section["dim"] = module.out_features
    adapters = getattr(getattr(transformer, "model", None), "peft_config", {})
    section["lora_rank"] = None
    for config in adapters.values():
        section |= {
            "lora_rank": config.r,
            "lora_alpha": config.lora_alpha,
            "lora_dropout": config.lora_dropout,
        }
    return section


def name_backbone(model: MultiVectorEncoder) -> str | None:
    """The name of a model's backbone: a bundled name, a hub id, or the last part of a path.

    Example:
        >>> from metaembed_lite import load
        >>> name_backbone(load("tiny", device="cpu"))
        'tiny-vlm'
    """
    name = getattr(model[0], "backbone_name", None)
    return None if name is None else name_source(name)


def name_source(name: str) -> str:
    """A bundled name or a hub id as it is, and a folder without its path.

    Example:
        >>> name_source("metaembed_lite/tiny-vlm"), name_source("Qwen/Qwen2.5-VL-3B-Instruct")
        ('tiny-vlm', 'Qwen/Qwen2.5-VL-3B-Instruct')
        >>> name_source("/home/me/models/mine")
        'mine'
    """
    name = name.removeprefix(BUNDLED_PREFIX)
    path = Path(name)
    return path.name if path.is_absolute() or path.is_dir() else name
