"""metaembed_lite: MetaEmbed's flexible late interaction, to learn from and to use.

    from metaembed_lite import build, load, maxsim, sweep
    model = load("tiny")                              # or build("Qwen/Qwen2.5-VL-3B-Instruct")
    scores = maxsim(model.encode_query(texts), model.encode_document(images), budget=(4, 8))

Data flows through one file per step: data/ -> meta_tokens.py -> losses.py -> budget.py ->
scoring.py -> index/ -> evaluation.py -> explorer/. Models come from model.py (build), loading.py
and saving.py. training.py trains them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaembed_lite.budget import PAPER_BUDGETS, Budget
    from metaembed_lite.data import RetrievalTask, load_task
    from metaembed_lite.diagnosis import doctor
    from metaembed_lite.evaluation import sweep
    from metaembed_lite.explanation import explain
    from metaembed_lite.explorer import BudgetExplorer
    from metaembed_lite.index import MetaIndex
    from metaembed_lite.loading import load
    from metaembed_lite.losses import (
        CachedMatryoshkaMultiVectorLoss,
        MatryoshkaMultiVectorLoss,
        mmr_loss,
    )
    from metaembed_lite.meta_tokens import MetaTokenTransformer
    from metaembed_lite.model import build
    from metaembed_lite.pooling import PrefixPooling
    from metaembed_lite.saving import save
    from metaembed_lite.schedule import training_arguments
    from metaembed_lite.scoring import maxsim
    from metaembed_lite.threshold import choose_threshold
    from metaembed_lite.training import train

__version__ = "0.1.0"

_MODULES = {  # imported on first use: torch and transformers take seconds
    "PAPER_BUDGETS": "budget",
    "Budget": "budget",
    "BudgetExplorer": "explorer",
    "CachedMatryoshkaMultiVectorLoss": "losses",
    "MatryoshkaMultiVectorLoss": "losses",
    "MetaIndex": "index",
    "MetaTokenTransformer": "meta_tokens",
    "PrefixPooling": "pooling",
    "RetrievalTask": "data",
    "build": "model",
    "choose_threshold": "threshold",
    "doctor": "diagnosis",
    "explain": "explanation",
    "load": "loading",
    "load_task": "data",
    "maxsim": "scoring",
    "mmr_loss": "losses",
    "save": "saving",
    "sweep": "evaluation",
    "train": "training",
    "training_arguments": "schedule",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*_MODULES, "__version__"]
