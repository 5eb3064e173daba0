"""MaxSimStepper: MaxSim of one query and one candidate, one query vector per step.

In JupyterLab and on a static page it runs the same ES modules (``js/stepper.js``).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from metaembed_lite.arguments import is_count, whole_number
from metaembed_lite.explorer.display import image_to_data_url
from metaembed_lite.explorer.page import bundle_js, render_html
from metaembed_lite.extras import extra

with extra("plots"):
    import anywidget
    import traitlets

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class MaxSimStepper(anywidget.AnyWidget):
    """A table of similarities, in which each step takes one row's maximum and adds it to the sum.

    Args:
        similarities: (R_q, R_c), the dot products of a query's and a candidate's vectors.
        query_labels: R_q names of the rows.
        candidate_labels: R_c names of the columns.
        image: the candidate as a PIL image, shown next to the table. Defaults to none.
        columns: places per row of the image, if each candidate vector stands for one place, in
            reading order. A step then lights up the place of the maximum. Defaults to None: the
            image has no places.

    Attributes:
        step: how many query vectors have been added, from 0 to R_q. Shared with the page.
        score: MaxSim, the sum after the last step.

    Raises:
        ValueError: if the similarities are not finite numbers (R_q, R_c), or the labels, the image
            or the columns do not fit them.

    Example:
        >>> stepper = MaxSimStepper([[0.9, 0.1], [0.2, 0.5]], ["q1", "q2"], ["c1", "c2"])
        >>> stepper.score, stepper.step
        (1.4, 0)
    """

    _esm = bundle_js("stepper")
    page = traitlets.Dict().tag(sync=True)
    step: Any = traitlets.TraitType(0).tag(sync=True)

    def __init__(
        self,
        similarities: ArrayLike,
        query_labels: Sequence[str],
        candidate_labels: Sequence[str],
        image: Image.Image | None = None,
        columns: int | None = None,
    ) -> None:
        values = check_similarities(similarities, query_labels, candidate_labels)
        if image is not None and not isinstance(image, Image.Image):
            raise ValueError(f"image: expected a PIL image, got {type(image).__name__}")
        if columns is not None:
            columns = _check_columns(columns, values.shape[1], image)
        self.score = float(values.max(axis=1).sum())
        page = {
            "similarities": values.round(6).tolist(),
            "query_labels": list(map(str, query_labels)),
            "candidate_labels": list(map(str, candidate_labels)),
            "image": None if image is None else image_to_data_url(image),
            "columns": columns,
        }
        super().__init__(page=page)

    @traitlets.validate("step")
    def _check_step(self, proposal: Any) -> int:
        step, last = proposal["value"], len(self.page["query_labels"])
        if not is_count(step, least=0) or step > last:
            raise ValueError(f"step {step!r}: use a whole number from 0 to {last}")
        return int(step)

    def static_html(self) -> str:
        """The stepper as HTML for any page. It needs no kernel and loads nothing from a host."""
        state = {"page": self.page, "step": self.step}
        return render_html(f"stepper-{self.model_id}", state, _noscript_table(self.page), "stepper")

    def _repr_html_(self) -> str:
        # IPython adds this to the live widget's output, for pages without a kernel.
        return self.static_html()


def check_similarities(
    similarities: ArrayLike, query_labels: Sequence[str], candidate_labels: Sequence[str]
) -> np.ndarray:
    """Check a table of similarities and its labels, and return it as (R_q, R_c) float64.

    Raises:
        ValueError: naming what is wrong, if the values are not finite numbers (R_q, R_c), or the
            labels do not fit their shape.

    Example:
        >>> check_similarities([[1, 0]], ["q1"], ["c1", "c2"]).shape
        (1, 2)
    """
    values = np.asarray(similarities)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "biuf":
        raise ValueError(
            f"similarities have shape {values.shape} and type {values.dtype}: expected numbers of "
            "shape (R_q, R_c), such as query @ candidate.T"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ValueError(
            f"similarities[{row}, {column}] is {values[row, column]}: expected finite numbers; "
            "leave out the vectors of padding"
        )
    sides = {
        "query_labels": (query_labels, "row"),
        "candidate_labels": (candidate_labels, "column"),
    }
    for (name, (labels, side)), size in zip(sides.items(), values.shape, strict=True):
        if isinstance(labels, str) or len(labels) != size:
            raise ValueError(f"{name}={labels!r}: give a list of {size} names, one per {side}")
    return values


def _check_columns(columns: Any, r_c: int, image: Image.Image | None) -> int:
    columns = whole_number(columns, "columns")
    if image is None:
        raise ValueError(f"columns={columns} without an image: pass the image too, or no columns")
    if r_c % columns:
        divisors = ", ".join(str(n) for n in range(1, r_c + 1) if r_c % n == 0)
        raise ValueError(
            f"columns={columns}: {r_c} candidate vectors do not fill rows of {columns} places; "
            f"use one of {divisors}, or no columns"
        )
    return columns


def _noscript_table(page: dict[str, Any]) -> str:
    """The similarities and the maximum of each row, for readers without JavaScript."""
    labels = "".join(f'<th scope="col">{escape(label)}</th>' for label in page["candidate_labels"])
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(f"<td>{value:.2f}</td>" for value in [*values, max(values)])
        + "</tr>"
        for label, values in zip(page["query_labels"], page["similarities"], strict=True)
    )
    score = sum(map(max, page["similarities"]))
    return (
        f"<table><caption>Similarities. The maxima add up to the MaxSim score, {score:.2f} (the "
        f'steps need JavaScript)</caption><thead><tr><td></td>{labels}<th scope="col">maximum</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
