"""mteb's benchmarks at a chosen budget, through mteb's public interface and in its own format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaembed_lite.budget import BudgetLike, Budgets, PrefixPooling, as_budget, choose_budgets
from metaembed_lite.model import vectors

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder


def wrap(model: MultiVectorEncoder, budget: BudgetLike, name: str = "model") -> Any:
    """A model as mteb sees it, cut to a budget: prefixes of its embeddings, scored by MaxSim.

    Raises:
        ImportError: if mteb is not installed.
        ValueError: on a budget beyond the model's meta tokens.
    """
    try:
        from mteb.models.sentence_transformer_wrapper import MultiVectorWrapper
    except ImportError as error:
        raise ImportError(
            "mteb is not installed: pip install 'metaembed-lite[benchmarks]'"
        ) from error
    from sentence_transformers import MultiVectorEncoder

    full = vectors(model)
    budget = as_budget(budget).check(full.r_q, full.r_c)
    cuts = [
        PrefixPooling(budget.r_q, tasks="query"),
        PrefixPooling(budget.r_c, tasks="document"),
    ]
    wrapped = MultiVectorWrapper(
        MultiVectorEncoder(
            modules=[*model, *cuts], device=str(model.device), similarity_fn_name="maxsim"
        )
    )
    meta = wrapped.mteb_model_meta
    seen = [kind for kind in ("text", "image") if kind in model.modalities]
    owner, _, short = name.strip("/").rpartition("/")
    own = f"{owner.rpartition('/')[2] or 'local'}/{short}-{budget.r_q}x{budget.r_c}"
    wrapped.mteb_model_meta = meta.model_copy(update={"name": own, "modalities": seen})
    return wrapped


def evaluate(
    model: MultiVectorEncoder,
    benchmark: str | Sequence[Any],
    budgets: Budgets | None = None,
    output: str | Path | None = None,
    name: str = "model",
) -> pd.DataFrame:
    """Run a benchmark of mteb at one or more budgets.

    A benchmark's mean can be taken over its tasks, as mteb does, or over the subsets (languages,
    collections) of all tasks. Both are given, named. Papers may average over other sets still: for
    ViDoRe v2, MetaEmbed's counts 7 where mteb has 4 tasks. Compare like with like.

    Args:
        model: from ``build`` or ``load``.
        benchmark: a benchmark's or a task's name, such as "ViDoRe(v2)", or tasks of mteb.
        budgets: a list, or a single budget; None takes the paper's that the model can meet, and its
            own full one.
        output: a folder for mteb's own results; None keeps none.
        name: of the model in these results; each budget has results of its own.

    Returns:
        A row a budget and subset, and two a budget for the means: r_q, r_c, task, subset, main
        score (which metric it is, the task says), bytes_per_candidate (float32).

    Raises:
        ImportError: if mteb is not installed.
        ValueError: on an unknown benchmark, or a budget beyond the model.
    """
    import pandas as pd

    full = vectors(model)
    chosen = choose_budgets(budgets, full.r_q, full.r_c)
    wrapped = [(budget, wrap(model, budget, name)) for budget in chosen]
    import mteb

    tasks = _tasks(benchmark) if isinstance(benchmark, str) else list(benchmark)
    cache = mteb.ResultCache(Path(output)) if output is not None else None
    rows = []
    for budget, cut in wrapped:
        results = mteb.evaluate(
            cut, tasks, cache=cache, overwrite_strategy="always", show_progress_bar=False
        )
        found = [
            {
                "task": result.task_name,
                "subset": scores["hf_subset"],
                "main_score": scores["main_score"],
            }
            for result in results.task_results
            for split in result.scores.values()
            for scores in split
        ]
        table = pd.DataFrame(found)
        by_task = table.groupby("task").main_score.mean().mean()
        found.append({"task": "mean over tasks", "subset": "", "main_score": by_task})
        by_subset = table.main_score.mean()
        found.append({"task": "mean over subsets", "subset": "", "main_score": by_subset})
        dim = model.get_embedding_dimension()
        size = budget.bytes_per_candidate(dim)
        rows += [
            {"r_q": budget.r_q, "r_c": budget.r_c, **row, "bytes_per_candidate": size}
            for row in found
        ]
    return pd.DataFrame(rows)


def _tasks(name: str) -> list[Any]:
    import mteb

    try:
        return list(mteb.get_benchmark(name).tasks)
    except (KeyError, ValueError):
        pass
    try:
        return [mteb.get_task(name)]
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"mteb knows no benchmark or task {name!r}; mteb.get_benchmarks() and mteb.get_tasks() "
            "list them, such as 'ViDoRe(v2)'"
        ) from error
