"""Benchmarks of mteb at chosen budgets, through mteb's public interface and in its format.

mteb encodes the inputs of a task each time it runs a model on it. Every budget is a prefix of the
full one. So ``evaluate`` runs a task at one budget after the other. It keeps the embeddings of the
first run in memory for the others, and drops them before the next task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, BudgetLike, Budgets, as_budget
from metaembed_lite.extras import extra
from metaembed_lite.meta_tokens import choose_budgets, full_budget
from metaembed_lite.scoring import as_embeddings, maxsim

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

BLOCK_VALUES = 1 << 28  # of candidate embeddings on the model's device at a time: 1 GiB of float32


class BudgetEncoder:
    """A model as mteb sees it, an ``EncoderProtocol``: embeddings cut to a budget, and MaxSim.

    Attributes:
        model: the model that encodes.
        budget: (r_q, r_c) of the vectors that mteb gets.
        mteb_model_meta: name, revision and size of the model, for mteb's results.
        cache: embeddings at the full budget, shared with the encoders of other budgets. None keeps
            nothing.

    Example:
        >>> from metaembed_lite import load
        >>> encoder = wrap(load("tiny", device="cpu"), "4x8")
        >>> encoder.mteb_model_meta.name
        'local/model-4x8'
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        budget: Budget,
        meta: Any,
        cache: dict[tuple[Any, ...], Tensor] | None = None,
    ) -> None:
        self.model = model
        self.budget = budget
        self.mteb_model_meta = meta
        self.cache = cache

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        batch_size: int = 32,
        precision: str | None = None,
        **settings: Any,
    ) -> Tensor:
        """The embeddings (n, r, D) of mteb's queries or documents, float32, on the CPU.

        Raises:
            ValueError: on inputs that are neither queries nor documents, or another precision.
        """
        side = getattr(prompt_type, "value", prompt_type)
        if side not in ("query", "document"):
            raise ValueError(
                f"mteb task {task_metadata.name!r} encodes inputs that are neither queries nor "
                "documents: meta tokens embed these two only; choose retrieval or reranking tasks"
            )
        if precision not in (None, "float32"):
            raise ValueError(f"precision {precision!r}: only float32 is supported")
        if self.cache is None or "id" not in inputs.dataset.column_names:
            full = self._encode_all(inputs, side, batch_size)
        else:  # mteb passes a large corpus in parts, and the ids tell them apart
            key = (task_metadata.name, hf_split, hf_subset, side, tuple(inputs.dataset["id"]))
            if key not in self.cache:
                self.cache[key] = self._encode_all(inputs, side, batch_size)
            full = self.cache[key]
        r = self.budget.r_q if side == "query" else self.budget.r_c
        if full.shape[1] < r:
            raise ValueError(
                f"budget {self.budget}: the model gives {full.shape[1]} {side} vectors"
            )
        return full[:, :r]

    def _encode_all(self, inputs: Iterable[Any], side: str, batch_size: int) -> Tensor:
        encode = self.model.encode_query if side == "query" else self.model.encode_document
        parts = []
        for batch in inputs:
            kinds = [kind for kind in self.mteb_model_meta.modalities if kind in batch]
            rows = zip(*(batch[kind] for kind in kinds), strict=True)
            items = [
                {kind: value for kind, value in zip(kinds, row, strict=True) if value is not None}
                for row in rows
            ]
            embeddings = encode(items, batch_size=batch_size, show_progress_bar=False)
            parts.append(as_embeddings(embeddings, f"{side} embeddings").float().cpu())
        return torch.cat(parts)  # (n, R, D)

    def similarity(self, queries: Tensor, documents: Tensor) -> Tensor:
        """MaxSim of each query (Q, r_q, D) with each document (N, r_c, D): (Q, N), on the CPU."""
        device = self.model.device
        queries = torch.as_tensor(queries).to(device)
        step = max(1, BLOCK_VALUES // documents[0].numel())
        blocks = torch.as_tensor(documents).split(step)
        return torch.cat([maxsim(queries, block.to(device)).cpu() for block in blocks], dim=1)

    def similarity_pairwise(self, queries: Tensor, documents: Tensor) -> Tensor:
        """MaxSim of each query with the document at the same index: (n,)."""
        pairs = zip(queries, documents, strict=True)
        return torch.cat([self.similarity(q[None], d[None])[0] for q, d in pairs])


def wrap(model: MultiVectorEncoder, budget: BudgetLike, name: str = "model") -> BudgetEncoder:
    """A model as mteb sees it, cut to a budget: prefixes of its embeddings, scored by MaxSim.

    mteb files results by name and revision. The name gets the budget's numbers, and the revision is
    made from the model's weights and settings. So mteb never confuses this model with another one
    of the same name, or with an earlier stage of its training.

    Args:
        model: from ``build`` or ``load``.
        budget: a budget in any form.
        name: the name of the model. Defaults to "model".

    Raises:
        ImportError: if mteb is not installed.
        ValueError: on a budget beyond the model's meta tokens.

    Example:
        >>> from metaembed_lite import load
        >>> wrap(load("tiny", device="cpu"), (4, 8)).budget
        Budget(r_q=4, r_c=8)
    """
    return _wrap(model, as_budget(budget), name, revision(model), None)


def _wrap(
    model: MultiVectorEncoder,
    budget: Budget,
    name: str,
    identity: str,
    cache: dict[tuple[Any, ...], Tensor] | None,
) -> BudgetEncoder:
    (budget,) = choose_budgets(model, budget)
    owner, _, short = name.strip("/").rpartition("/")
    meta = (
        _mteb()
        .models.ModelMeta.from_multi_vector_encoder_model(model)
        .model_copy(
            update={
                "name": f"{owner.rpartition('/')[2] or 'local'}/{short}-{budget.r_q}x{budget.r_c}",
                "revision": identity,
                "modalities": [kind for kind in ("text", "image") if kind in model.modalities],
                "n_parameters": sum(weight.numel() for weight in model.parameters()),
            }
        )
    )
    return BudgetEncoder(model, budget, meta, cache)


def revision(model: MultiVectorEncoder) -> str:
    """Twelve hexadecimal digits that identify a model's weights and how it reads inputs.

    Every weight is read, which takes about a second per GB.

    Example:
        >>> from metaembed_lite import load
        >>> len(revision(load("tiny", device="cpu")))
        12
    """
    settings = (repr(model), model.max_seq_length, model.prompts, full_budget(model))
    digest = hashlib.sha256(repr(settings).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        values = weight.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def evaluate(
    model: MultiVectorEncoder,
    benchmark: str | Sequence[Any],
    budgets: Budgets | None = None,
    output: str | Path | None = None,
    name: str = "model",
    batch_size: int = 32,
) -> pd.DataFrame:
    """Run a benchmark of mteb at one or more budgets. Every input is encoded once.

    The mean of a benchmark can be taken over its tasks, as mteb does, or over the subsets
    (languages, collections) of all tasks. The table has both. Papers may average over other sets:
    for ViDoRe v2, MetaEmbed's paper counts 7 where mteb has 4 tasks. So compare only means over the
    same set.

    With ``output``, finished tasks are read from there, so a run that was cut off continues. To
    measure again, delete the folder or name another one.

    Memory holds the embeddings of one task at the full budget, ``4 N R_c D`` bytes for N
    documents, unless there is only one budget.

    Args:
        model: from ``build`` or ``load``.
        benchmark: a benchmark's or a task's name, such as "ViDoRe(v2)", or tasks of mteb.
        budgets: a list, or a single budget. Defaults to those of the paper that the model can
            meet, and its full budget.
        output: a folder for the results in mteb's format. Defaults to none.
        name: the name of the model in these results. Each budget has separate results. Defaults to
            "model".
        batch_size: inputs per batch. Defaults to mteb's 32.

    Returns:
        DataFrame with r_q, r_c, task, subset, main_score (in the task's main metric) and
        bytes_per_candidate (float32). One row per budget and subset, and two per budget for means.

    Raises:
        ImportError: if mteb is not installed.
        ValueError: on an empty list, an unknown benchmark, a budget beyond the model, or a task
            that is neither retrieval nor reranking.

    Example:
        >>> from metaembed_lite import load
        >>> evaluate(load("tiny", device="cpu"), "no such benchmark")
        Traceback (most recent call last):
        ...
        ValueError: mteb knows no benchmark or task 'no such benchmark'; ...
    """
    mteb = _mteb()
    encode_kwargs = {"batch_size": whole_number(batch_size, "batch_size")}
    chosen = choose_budgets(model, budgets)
    embeddings: dict[tuple[Any, ...], Tensor] | None = {} if len(chosen) > 1 else None
    identity = revision(model)
    encoders = [_wrap(model, budget, name, identity, embeddings) for budget in chosen]
    tasks = _tasks(benchmark) if isinstance(benchmark, str) else list(benchmark)
    cache = mteb.ResultCache(Path(output)) if output is not None else None
    model.eval()
    scores: list[list[dict[str, Any]]] = [[] for _ in chosen]
    for task in tasks:
        for encoder, rows in zip(encoders, scores, strict=True):
            results = mteb.evaluate(
                encoder, task, cache=cache, show_progress_bar=False, encode_kwargs=encode_kwargs,
                overwrite_strategy=_strategy(cache, task, encoder.mteb_model_meta),
            )  # fmt: skip
            rows += _rows(results, task)
        if embeddings is not None:
            embeddings.clear()
    dim = model.get_embedding_dimension()
    return pd.DataFrame(
        [
            {"r_q": b.r_q, "r_c": b.r_c, **row, "bytes_per_candidate": b.bytes_per_candidate(dim)}
            for b, rows in zip(chosen, scores, strict=True)
            for row in [*rows, *_means(rows)]
        ]
    )


def _mteb() -> Any:
    with extra("benchmarks"):
        import mteb
    return mteb


def _strategy(cache: Any, task: Any, meta: Any) -> str:
    """mteb's overwrite strategy: "only-missing" keeps stored results, "always" ignores them."""
    if cache is None:
        return "always"
    try:
        stored = cache.load_task_result(task.metadata.name, meta)
    except Exception:  # mteb raises various errors for a truncated file
        return "always"
    is_current = stored is None or stored.is_mergeable(task)  # False: another revision of the data
    return "only-missing" if is_current else "always"


def _rows(results: Any, task: Any) -> list[dict[str, Any]]:
    """The main score of each requested subset. Stored results may hold more.

    Raises:
        OSError: if mteb could not run the task.
    """
    for failure in results.exceptions or []:
        raise OSError(f"mteb task {failure.task_name!r} was not run: {failure.exception}")
    (result,) = results.task_results
    main = {
        (split, scores["hf_subset"]): scores["main_score"]
        for split, subsets in result.scores.items()
        for scores in subsets
    }
    return [
        {"task": result.task_name, "subset": subset, "main_score": main[split, subset]}
        for split in task.eval_splits
        for subset in task.hf_subsets
    ]


def _means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    table = pd.DataFrame(rows)
    by_task = table.groupby("task").main_score.mean().mean()
    by_subset = table.main_score.mean()
    return [
        {"task": "mean over tasks", "subset": "", "main_score": by_task},
        {"task": "mean over subsets", "subset": "", "main_score": by_subset},
    ]


def _tasks(name: str) -> list[Any]:
    mteb = _mteb()
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
