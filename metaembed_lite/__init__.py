"""metaembed_lite: MetaEmbed's flexible late interaction, to learn from and to use.

    from metaembed_lite import build, load, maxsim, sweep
    model = load("tiny")                              # or build("Qwen/Qwen2.5-VL-3B-Instruct")
    scores = maxsim(model.encode_query(texts), model.encode_document(images), budget=(4, 8))

The line that data travels, a file a step: data/ -> meta_tokens.py -> mmr.py -> budget.py ->
scoring.py -> evaluation.py -> explorer/; model.py builds, saves and loads, training.py trains.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaembed_lite.budget import PAPER_BUDGETS, Budget, PrefixPooling
    from metaembed_lite.data import RetrievalTask, load_task
    from metaembed_lite.evaluation import sweep
    from metaembed_lite.explorer import BudgetExplorer
    from metaembed_lite.gradient_caching import CachedMatryoshkaMultiVectorLoss
    from metaembed_lite.meta_tokens import MetaTokenTransformer
    from metaembed_lite.mmr import MatryoshkaMultiVectorLoss
    from metaembed_lite.model import build, load, save
    from metaembed_lite.scoring import maxsim
    from metaembed_lite.training import train

__version__ = "0.1.0"

_HOME = {  # imported when first asked for: torch and transformers take seconds
    "Budget": "budget",
    "PAPER_BUDGETS": "budget",
    "PrefixPooling": "budget",
    "RetrievalTask": "data",
    "load_task": "data",
    "sweep": "evaluation",
    "BudgetExplorer": "explorer",
    "CachedMatryoshkaMultiVectorLoss": "gradient_caching",
    "MetaTokenTransformer": "meta_tokens",
    "MatryoshkaMultiVectorLoss": "mmr",
    "build": "model",
    "load": "model",
    "save": "model",
    "maxsim": "scoring",
    "train": "training",
}
__all__ = [
    "PAPER_BUDGETS",
    "Budget",
    "BudgetExplorer",
    "CachedMatryoshkaMultiVectorLoss",
    "MatryoshkaMultiVectorLoss",
    "MetaTokenTransformer",
    "PrefixPooling",
    "RetrievalTask",
    "build",
    "load",
    "load_task",
    "maxsim",
    "save",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
