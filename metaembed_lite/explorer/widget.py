"""BudgetExplorer: two sliders that re-rank candidates, in JupyterLab and on a static page.

Both run the same ES modules (``js/``) on the same vectors, and MaxSim is computed in the browser at
the budget of the sliders. In JupyterLab the traits ``budget``, ``query`` and ``selection`` are
shared with Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from metaembed_lite.arguments import whole_number
from metaembed_lite.budget import Budget, Budgets, as_budget
from metaembed_lite.data.task import RetrievalTask
from metaembed_lite.evaluation import EncodedTask
from metaembed_lite.explorer.page import bundle_js, check_size, noscript_table, render_html
from metaembed_lite.explorer.state import build_state
from metaembed_lite.extras import extra
from metaembed_lite.scoring import maxsim

with extra("plots"):
    import anywidget
    import traitlets

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


class BudgetExplorer(anywidget.AnyWidget):
    """A retriever at every budget, controlled by two sliders.

    Python measures quality on the whole task at every budget. The browser ranks some of the
    candidates for some of the queries. These candidates are chosen so that the best of the whole
    task are included.

    Args:
        model: built or loaded with meta tokens.
        task: queries, candidates and relevance.
        encoded: the task's embeddings from ``evaluation.encode``. Defaults to encoding the task.
        queries: how many queries to offer (the first of the task), or their indices. Defaults to
            12.
        candidates: how many candidates to rank, or their indices. Defaults to 160.
        budgets: the trained budgets, a list or a single one. They are marked, and a dragged slider
            snaps to them. Defaults to the paper's that fit the model, and the full budget.

    Attributes:
        budget: a ``Budget``. A pair or a text such as "4x8" can be assigned. It starts at the
            smallest trained budget. Shared with the page.
        query: index of the displayed query in the task. Shared with the page.
        selection: index of the candidate whose match is displayed, or None for the best one.
            Shared with the page.
        quality: the table of ``evaluation.evaluate_all``.
        note: a sentence on what the ranking of the query lacks: a relevant candidate, or any
            candidate in the query's pool. Empty if it lacks nothing.

    Raises:
        ValueError: if a budget does not fit the model, or a query or candidate is unknown. Also if
            embeddings are not finite or belong to another task, or the page exceeds two megabytes.

    Example:
        >>> from metaembed_lite import build, load_task
        >>> model = build("tiny-vlm", r_q=2, r_c=4, dim=8, device="cpu")
        >>> task = load_task("stickers", n_queries=4, n_train=0, side=2)
        >>> explorer = BudgetExplorer(model, task, queries=2, candidates=5)
        >>> explorer.budget = (1, 4)
        >>> explorer.ranking(k=3).columns.tolist()
        ['candidate', 'score', 'relevant']
    """

    _esm = bundle_js()
    page = traitlets.Dict().tag(sync=True)
    # Not traitlets.Any, which accepts None without calling the validators below.
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
        encoded: EncodedTask | None = None,
        *,
        queries: int | Sequence[int] = 12,
        candidates: int | Sequence[int] = 160,
        budgets: Budgets | None = None,
    ) -> None:
        state = build_state(
            model, task, encoded, queries=queries, candidates=candidates, budgets=budgets
        )
        check_size(state.page)
        self._state = state
        self.quality = state.quality
        smallest = Budget(*state.page["trained"][0])
        super().__init__(page=state.page, budget=smallest, query=state.queries[0])

    @traitlets.validate("budget")
    def _check_budget(self, proposal: Any) -> Budget:
        return as_budget(proposal["value"]).check(self.page["r_q"], self.page["r_c"])

    @traitlets.validate("query")
    def _check_query(self, proposal: Any) -> int:
        return _check_index(proposal["value"], self._state.queries, "query", "queries")

    @traitlets.validate("selection")
    def _check_selection(self, proposal: Any) -> int | None:
        if proposal["value"] is None:
            return None
        return _check_index(proposal["value"], self._state.candidates, "selection", "candidates")

    @traitlets.observe("query")
    def _select_best(self, change: Any) -> None:
        self.selection = None

    @property
    def note(self) -> str:
        """A sentence on what the ranking of the query lacks. Empty if it lacks nothing."""
        return self.page["notes"][self._state.queries.index(self.query)]

    def ranking(self, k: int = 10) -> pd.DataFrame:
        """The k best candidates of the query at the budget, as the page shows them.

        Returns:
            DataFrame indexed by place, from 1, with columns candidate (index in the task), score
            and relevant. It is empty if no candidate is in the query's pool. Then ``note`` says so.

        Raises:
            ValueError: if ``k`` is not a whole number from 1 up.
        """
        k = whole_number(k, "k")
        state = self._state
        row = state.queries.index(self.query)
        query_vectors = state.query_vectors[row : row + 1]  # (1, R_q, D)
        scores = maxsim(query_vectors, state.candidate_vectors, self.budget)[0].numpy()  # (N,)
        pooled = scores if state.pool is None else np.where(state.pool[row], scores, -np.inf)
        order = np.argsort(-pooled, kind="stable")[: min(k, np.isfinite(pooled).sum())]
        return pd.DataFrame(
            {
                "candidate": np.array(state.candidates)[order],
                "score": scores[order],
                "relevant": state.relevance[row, order] > 0,
            },
            index=pd.RangeIndex(1, len(order) + 1, name="place"),
        )

    def static_html(self) -> str:
        """The explorer as HTML for any page. It needs no kernel and loads nothing from a host."""
        state = {
            "page": self.page,
            "budget": [self.budget.r_q, self.budget.r_c],
            "query": self.query,
            "selection": self.selection,
        }
        fallback = noscript_table(self._state.page, self.quality)
        return render_html(f"explorer-{self.model_id}", state, fallback)

    def _repr_html_(self) -> str:
        # IPython adds this to the live widget's output, for pages without a kernel.
        return self.static_html()


def _check_index(value: Any, indices: list[int], trait: str, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value not in indices:
        listed = ", ".join(map(str, indices[:12])) + (", ..." if len(indices) > 12 else "")
        raise ValueError(
            f"{trait} {value!r}: this explorer has the task's {name} {listed}; assign one of them, "
            f"or create another explorer with BudgetExplorer(..., {name}=[...])"
        )
    return int(value)
