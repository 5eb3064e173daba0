"""The numbers on the pages: scikit-learn's real tables, their sections, and what to show of them.

Nothing is copied or downloaded: the tables are read from the installed scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


class Source(NamedTuple):
    """A real table.

    Attributes:
        title: as pages and queries call it.
        columns: a column of numbers each, by the name that pages show; rows counted from 1.
        by: what the rows are compared by, such as "species".
        groups: which group each row is in.
        stratum: the column that cuts the table into sections; it is not among ``columns``.
        strata: its values.
        edges: a section begins at an edge and ends before the next; the last edge is included.
    """

    title: str
    columns: pd.DataFrame
    by: str
    groups: pd.Series
    stratum: str
    strata: pd.Series
    edges: tuple[float, ...]

    @property
    def sections(self) -> list[str]:
        """Their names, as pages show them: "Wine, alcohol 13 to 13.3"."""
        return [f"{self.title}, {self.stratum} {a:g} to {b:g}" for a, b in pairwise(self.edges)]

    def rows(self, section: int) -> pd.Series:
        """True for the rows of a section."""
        last = len(self.edges) - 2
        bounds = "both" if section == last else "left"
        return self.strata.between(*self.edges[section : section + 2], inclusive=bounds)


Numbers = list[tuple[str, float]]  # what a chart shows: label, value
Show = Callable[["pd.Series", "pd.Series", Source], Numbers]  # values and groups of a section


class Form(NamedTuple):
    """A way to show a column: what the page calls it and a query may, and its numbers.

    ``{by}``, ``{stratum}`` and ``{column}`` stand for the table's own words.
    """

    title: str
    phrase: str
    show: Show


@cache
def sources() -> dict[str, Source]:
    """The tables, by name. A section has nine rows or more."""
    from sklearn.datasets import (
        load_breast_cancer,
        load_diabetes,
        load_iris,
        load_linnerud,
        load_wine,
    )

    iris, wine = load_iris(as_frame=True), load_wine(as_frame=True)
    cancer, diabetes = (
        load_breast_cancer(as_frame=True),
        load_diabetes(as_frame=True, scaled=False),
    )
    linnerud = load_linnerud(as_frame=True)
    species = iris.target.map(dict(enumerate(iris.target_names)))
    diagnosis = cancer.target.map(dict(enumerate(cancer.target_names)))
    blood = diabetes.data.assign(progression=diabetes.target).rename(
        columns={
            "age": "age", "sex": "sex", "bmi": "body mass index", "bp": "blood pressure",
            "s1": "total cholesterol", "s2": "LDL", "s3": "HDL", "s4": "cholesterol / HDL",
            "s5": "log triglycerides", "s6": "blood sugar",
        }
    )  # fmt: skip
    chemistry = wine.data.rename(columns=lambda name: name.replace("_", " ")).rename(
        columns={"od280/od315 of diluted wines": "OD280 / OD315"}
    )
    club = linnerud.data.join(linnerud.target).rename(columns=str.lower)
    pulse = (club["pulse"] < 55).map({True: "below 55", False: "from 55"})
    tables = {
        "iris": ("Iris", iris.data.rename(columns=lambda name: name.removesuffix(" (cm)")),
                 "species", species, "sepal length", (4.3, 4.9, 5.1, 5.5, 5.8, 6.2, 6.6, 8)),
        "wine": ("Wine", chemistry, "class", "class " + wine.target.astype(str),
                 "alcohol", (11, 12, 12.3, 12.6, 13, 13.3, 13.6, 13.9, 15)),
        "breast_cancer": ("Breast cancer", cancer.data.rename(columns={"mean texture": "texture"}),
                          "diagnosis", diagnosis, "texture",
                          (9, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 40)),
        "diabetes": ("Diabetes", blood.drop(columns="sex"), "sex",
                     "sex " + blood["sex"].astype(int).astype(str), "age",
                     (19, 30, 35, 40, 45, 50, 55, 60, 65, 80)),
        "linnerud": ("Linnerud", club.drop(columns="pulse"), "pulse", pulse, "weight",
                     (138, 175, 250)),
    }  # fmt: skip
    made = {}
    for name, (title, frame, by, groups, stratum, edges) in tables.items():
        frame.index = groups.index = frame.index + 1
        made[name] = Source(
            title, frame.drop(columns=stratum), by, groups, stratum, frame[stratum], edges
        )
    return made


def _listed(values: pd.Series) -> Numbers:
    return [(f"No. {row}", value) for row, value in values[:3].items()]


def _quarters(values: pd.Series) -> Numbers:
    counts, _ = np.histogram(values, bins=4)
    return list(zip(("1st", "2nd", "3rd", "4th"), counts.tolist(), strict=True))


def _thirds(values: pd.Series, whole: pd.Series) -> Numbers:
    low, high = whole.quantile([1 / 3, 2 / 3])
    below, above = int((values <= low).sum()), int((values > high).sum())
    return [("low", below), ("middle", len(values) - below - above), ("high", above)]


def _by_group(values: pd.Series, groups: pd.Series, how: str) -> Numbers:
    return list(values.groupby(groups).agg(how).items())


def _line(values: pd.Series) -> Numbers:
    return [("", value) for value in values]


FORMS: dict[str, tuple[Form, ...]] = {
    "tables": (
        Form("first values", "first values of {column}", lambda v, g, s: _listed(v)),
        Form("mean by {by}", "mean {column} by {by}", lambda v, g, s: _by_group(v, g, "mean")),
        Form(
            "mean and extremes",
            "mean and extremes of {column}",
            lambda v, g, s: [("mean", v.mean()), ("lowest", v.min()), ("highest", v.max())],
        ),
        Form(
            "highest values",
            "highest values of {column}",
            lambda v, g, s: _listed(v.sort_values(ascending=False, kind="stable")),
        ),
    ),
    "bars": (
        Form("mean by {by}", "mean {column} by {by}", lambda v, g, s: _by_group(v, g, "mean")),
        Form("lowest by {by}", "lowest {column} by {by}", lambda v, g, s: _by_group(v, g, "min")),
        Form("highest by {by}", "highest {column} by {by}", lambda v, g, s: _by_group(v, g, "max")),
        Form(
            "quarters of range",
            "{column} in quarters of its range",
            lambda v, g, s: _quarters(v),
        ),
    ),
    "lines": (
        Form(
            "in order of {stratum}",
            "{column} in order of {stratum}",
            lambda v, g, s: _line(v.loc[s.strata[v.index].sort_values(kind="stable").index]),
        ),
        Form(
            "from low to high", "{column} from low to high", lambda v, g, s: _line(v.sort_values())
        ),
        Form(
            "running mean", "running mean of {column}", lambda v, g, s: _line(v.expanding().mean())
        ),
        Form("running highest", "running highest {column}", lambda v, g, s: _line(v.cummax())),
    ),
    "pies": (
        Form(
            "quarters of range",
            "{column} in quarters of its range",
            lambda v, g, s: _quarters(v),
        ),
        Form(
            "low, middle, high",
            "low, middle and high {column}",
            lambda v, g, s: _thirds(v, s.columns[v.name]),
        ),
        Form(
            "above mean, by {by}",
            "{column} above mean, by {by}",
            lambda v, g, s: _by_group(v[v > v.mean()], g, "size"),
        ),
        Form(
            "below mean, by {by}",
            "{column} below mean, by {by}",
            lambda v, g, s: _by_group(v[v < v.mean()], g, "size"),
        ),
    ),
}


@cache
def numbers(table: str, column: str, section: int, form: Form) -> Numbers:
    """What a page shows: a column of a table, in a section of its rows, in a form."""
    source = sources()[table]
    rows = source.rows(section)
    return form.show(source.columns[column][rows], source.groups[rows], source)
