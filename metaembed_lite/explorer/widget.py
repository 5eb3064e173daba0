"""BudgetExplorer: two sliders that really re-rank, in JupyterLab and on a page without a kernel.

Both homes run the same ES module, ``explorer_js/``, over the same vectors: scores are MaxSim,
computed in the browser at the budget under the sliders. In JupyterLab the traits ``budget``,
``query`` and ``selection`` are shared with Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, Budgets, as_budget, choose_budgets
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.evaluation import Encoded, check_encoded, encode, every_budget
from metaembed_lite.explorer.page import check_size, element, front_end, table
from metaembed_lite.explorer.state import (
    Int8Vectors,
    attention_maps,
    choose_candidates,
    explain_gaps,
    grid_of,
    measure_costs,
    shown,
    text64,
)
from metaembed_lite.model import vectors
from metaembed_lite.scoring import maxsim

if TYPE_CHECKING:
    import pandas as pd
    from sentence_transformers import MultiVectorEncoder


class BudgetExplorer(anywidget.AnyWidget):
    """A retriever at every budget, driven by two sliders.

    Quality is measured on the whole task at every budget, in Python; rankings are computed live in
    the browser for some of its queries over some of its candidates, which are chosen so that the
    best of the whole task are among them.

    Args:
        model: built or loaded with meta tokens.
        task: queries, candidates and relevance.
        encoded: the task's embeddings, if ``evaluation.encode`` made them before.
        queries: how many queries can be picked, the task's first, or the indices of these.
        candidates: how many candidates are ranked, or the indices of these.
        budgets: the trained ones, marked and snapped to, a list or a single one; None takes the
            paper's that the model can meet, and its own full one.

    Attributes:
        budget: a ``Budget``; a pair or "4x8" can be assigned. Shared with the page, as are
        query: index of a query in the task, and
        selection: index of the candidate whose match is shown, or None for the best one.
        quality: what ``every_budget`` measured.
        note: what the ranking of the query lacks: a relevant candidate, or any candidate in the
            query's pool; empty if it lacks nothing. The page shows it too.

    Raises:
        ValueError: on a budget, query or candidate that is not there, embeddings that are not
            finite or not the task's, or a page above one megabyte.
    """

    _esm = front_end()
    page = traitlets.Dict().tag(sync=True)
    # Not traitlets.Any, which takes None without asking the validators below.
    budget: Any = traitlets.TraitType(None).tag(
        sync=True,
        to_json=lambda value, _: [value.r_q, value.r_c],
        from_json=lambda value, _: as_budget(value),
    )
    query: Any = traitlets.TraitType(None).tag(sync=True)
    selection = traitlets.Any(None, allow_none=True).tag(sync=True)

    def __init__(
        self,
        model: MultiVectorEncoder,
        task: RetrievalTask,
        encoded: Encoded | None = None,
        *,
        queries: int | Sequence[int] = 12,
        candidates: int | Sequence[int] = 160,
        budgets: Budgets | None = None,
    ) -> None:
        full = vectors(model)
        trained = choose_budgets(budgets, full.r_q, full.r_c)
        asked = _indices(queries, len(task.queries), "queries")
        ranked = _indices(candidates, len(task.candidates), "candidates")
        encoded = encoded or encode(model, task)
        check_encoded(task, encoded)
        depth = 0
        if isinstance(candidates, Integral):
            ranked, depth = choose_candidates(task, encoded, asked, trained, len(ranked))
        self.quality = every_budget(task, encoded)
        self._queries, self._candidates = asked, ranked
        self._relevance = task.relevance[np.ix_(asked, ranked)]
        self._pool = None if task.pool is None else task.pool[np.ix_(asked, ranked)]
        query_vectors = Int8Vectors.of(encoded.queries[asked])
        candidate_vectors = Int8Vectors.of(encoded.candidates[ranked])
        self._vectors = query_vectors.floats(), candidate_vectors.floats()
        items = [task.candidates[i] for i in ranked]
        page = {
            "task": task.name,
            "about": _about(task, asked, ranked, depth),
            "dim": encoded.queries.shape[2],
            "r_q": full.r_q,
            "r_c": full.r_c,
            "trained": [[b.r_q, b.r_c] for b in trained],
            "queries": [shown(task.queries[i], i) for i in asked],
            "candidates": [shown(item, i) for item, i in zip(items, ranked, strict=True)],
            "relevant": [np.flatnonzero(row > 0).tolist() for row in self._relevance],
            "excluded": None
            if self._pool is None
            else [np.flatnonzero(~row).tolist() for row in self._pool],
            "notes": explain_gaps(self._relevance, self._pool),
            "vectors": {
                "queries": text64(query_vectors.values),
                "query_scales": text64(query_vectors.scales),
                "candidates": text64(candidate_vectors.values),
                "candidate_scales": text64(candidate_vectors.scales),
            },
            "attention": attention_maps(model, items),
            "quality": {name: grid_of(self.quality, name) for name in ("p_at_1", "ndcg_at_5")},
            "cost": measure_costs(model, task, encoded),
        }
        check_size(page, len(ranked))
        super().__init__(page=page, budget=trained[len(trained) // 2], query=asked[0])

    @traitlets.validate("budget")
    def _check_budget(self, proposal: Any) -> Budget:
        return as_budget(proposal["value"]).check(self.page["r_q"], self.page["r_c"])

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> int:
        return _known(proposal["value"], self._queries, "query", "queries")

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> int | None:
        if proposal["value"] is None:
            return None
        return _known(proposal["value"], self._candidates, "selection", "candidates")

    @traitlets.observe("query")
    def _follow_the_best(self, change: Any) -> None:
        self.selection = None

    @property
    def note(self) -> str:
        """What the ranking of the query lacks, in words; empty if it lacks nothing."""
        return self.page["notes"][self._queries.index(self.query)]

    def ranking(self, k: int = 10) -> pd.DataFrame:
        """The k best candidates of the query at the budget, as the page shows them.

        Returns:
            A DataFrame indexed by place, from 1, with columns candidate (index in the task), score
            and relevant. It is empty if no candidate is in the query's pool; ``note`` says so.

        Raises:
            ValueError: if ``k`` is not a whole number from 1 up.
        """
        import pandas as pd

        k = whole_number(k, "k")
        at = self._queries.index(self.query)
        scores = maxsim(self._vectors[0][at : at + 1], self._vectors[1], self.budget)[0].numpy()
        counted = scores if self._pool is None else np.where(self._pool[at], scores, -np.inf)
        order = np.argsort(-counted, kind="stable")[: min(k, np.isfinite(counted).sum())]
        return pd.DataFrame(
            {
                "candidate": np.array(self._candidates)[order],
                "score": scores[order],
                "relevant": self._relevance[at, order] > 0,
            },
            index=pd.RangeIndex(1, len(order) + 1, name="place"),
        )

    def static_html(self) -> str:
        """The explorer as an element of a page: needs no kernel and asks no other host."""
        state = {
            "page": self.page,
            "budget": [self.budget.r_q, self.budget.r_c],
            "query": self.query,
            "selection": self.selection,
        }
        return element(f"explorer-{self.model_id}", state, table(self.page, self.quality))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        live = super()._repr_mimebundle_(**kwargs)
        data, metadata = live if isinstance(live, tuple) else (live, {})
        return {**data, "text/html": self.static_html()}, metadata


def _indices(asked: Any, there: int, name: str) -> list[int]:
    """Indices into the task: the first ones up to a number, or those that were asked for."""
    remedy = f"give different indices from 0 to {there - 1}"
    if isinstance(asked, Integral):
        if isinstance(asked, bool) or asked < 1:
            raise ValueError(f"{name}={asked}: use a number from 1 up, or a list of indices")
        return list(range(min(int(asked), there)))
    if isinstance(asked, str | bytes | set | dict) or not hasattr(asked, "__len__"):
        raise ValueError(f"{name}={asked!r}: {remedy}, or how many to take")
    strange = [i for i in asked if isinstance(i, bool) or not isinstance(i, Integral)]
    if strange:
        raise ValueError(f"{name}: {strange[0]!r} is not an index; {remedy}")
    indices = [int(i) for i in asked]
    outside = [i for i in indices if not 0 <= i < there]
    if not indices or outside or len(set(indices)) < len(indices):
        what = f"{outside[0]} is not there" if outside else "none or the same one twice"
        raise ValueError(f"{name}: {what}; {remedy}")
    return indices


def _known(value: Any, known: list[int], trait: str, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value not in known:
        listed = ", ".join(map(str, known[:12])) + (", ..." if len(known) > 12 else "")
        raise ValueError(
            f"{trait} {value!r}: this explorer holds the task's {name} {listed}; assign one of "
            f"them, or make one with BudgetExplorer(..., {name}=[...])"
        )
    return int(value)


def _about(task: RetrievalTask, queries: list[int], candidates: list[int], depth: int) -> str:
    """One line below the ranking: what is ranked, and what the quality was measured on."""
    of = f"{len(candidates):,} of the task's {len(task.candidates):,} candidates"
    deep = f", among them the whole task's best {depth} at each trained budget" if depth else ""
    if len(candidates) == len(task.candidates):
        of, deep = f"all {len(candidates):,} candidates", ""
    return (
        f"On this page: {of}{deep}; vectors in int8. NDCG@5 and P@1 are measured in float32 on all "
        f"{len(task.queries):,} queries and {len(task.candidates):,} candidates."
    )
