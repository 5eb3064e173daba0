"""The numbers on the pages: scikit-learn's tables, their sections, and statistics of their columns.

Nothing is copied or downloaded: the tables are read from the installed scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd


class Table(NamedTuple):
    """A real table.

    Attributes:
        title: the name that pages and queries use.
        columns: the columns that pages show, by name. Rows are counted from 1.
        by: what the rows are grouped by, such as "species".
        groups: the group of each row.
        stratum: the column that cuts the table into sections. It is not among ``columns``.
        strata: the values of the stratum.
        edges: a section begins at an edge and ends before the next. The last edge is included.

    Example:
        >>> wine = load_tables()["wine"]
        >>> wine.sections[4], int(wine.select_rows(4).sum())
        ('Wine, alcohol 13 to 13.3', 22)
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
        """The names of the sections, as pages show them: "Wine, alcohol 13 to 13.3"."""
        return [f"{self.title}, {self.stratum} {a:g} to {b:g}" for a, b in pairwise(self.edges)]

    def select_rows(self, section: int) -> pd.Series:
        """Return True for the rows of a section."""
        last = len(self.edges) - 2
        bounds = "both" if section == last else "left"
        return self.strata.between(*self.edges[section : section + 2], inclusive=bounds)


Numbers = list[tuple[str, float]]  # what a chart shows: label, value
Compute = Callable[[pd.Series, pd.Series, Table], Numbers]  # of values and groups of a section


class Statistic(NamedTuple):
    """A way to summarize a column. ``{by}``, ``{stratum}`` and ``{column}`` are filled in.

    Attributes:
        title: what the page calls it.
        phrase: what a query may call it.
        compute: computes the labels and values that the chart shows.

    Example:
        >>> STATISTICS["bars"][0].phrase.format(column="malic acid", by="class")
        'mean malic acid by class'
    """

    title: str
    phrase: str
    compute: Compute


@cache
def load_tables() -> dict[str, Table]:
    """Load the tables, by name. A section has nine rows or more.

    Example:
        >>> list(load_tables())
        ['iris', 'wine', 'breast_cancer', 'diabetes', 'linnerud']
    """
    from sklearn.datasets import (  # importing sklearn takes seconds
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
    parts = {
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
    tables = {}
    for name, (title, frame, by, groups, stratum, edges) in parts.items():
        frame.index = groups.index = frame.index + 1
        tables[name] = Table(
            title, frame.drop(columns=stratum), by, groups, stratum, frame[stratum], edges
        )
    return tables


def _list_rows(values: pd.Series) -> Numbers:
    return [(f"No. {row}", value) for row, value in values[:3].items()]


def _count_quarters(values: pd.Series) -> Numbers:
    counts, _ = np.histogram(values, bins=4)
    return list(zip(("1st", "2nd", "3rd", "4th"), counts.tolist(), strict=True))


def _count_thirds(values: pd.Series, column: pd.Series) -> Numbers:
    low, high = column.quantile([1 / 3, 2 / 3])
    below, above = int((values <= low).sum()), int((values > high).sum())
    return [("low", below), ("middle", len(values) - below - above), ("high", above)]


def _aggregate(values: pd.Series, groups: pd.Series, how: str) -> Numbers:
    return list(values.groupby(groups).agg(how).items())


def _list_points(values: pd.Series) -> Numbers:
    return [("", value) for value in values]


STATISTICS: dict[str, tuple[Statistic, ...]] = {
    "tables": (
        Statistic("first values", "first values of {column}", lambda v, g, t: _list_rows(v)),
        Statistic(
            "mean by {by}", "mean {column} by {by}", lambda v, g, t: _aggregate(v, g, "mean")
        ),
        Statistic(
            "mean and extremes",
            "mean and extremes of {column}",
            lambda v, g, t: [("mean", v.mean()), ("lowest", v.min()), ("highest", v.max())],
        ),
        Statistic(
            "highest values",
            "highest values of {column}",
            lambda v, g, t: _list_rows(v.sort_values(ascending=False, kind="stable")),
        ),
    ),
    "bars": (
        Statistic(
            "mean by {by}", "mean {column} by {by}", lambda v, g, t: _aggregate(v, g, "mean")
        ),
        Statistic(
            "lowest by {by}", "lowest {column} by {by}", lambda v, g, t: _aggregate(v, g, "min")
        ),
        Statistic(
            "highest by {by}", "highest {column} by {by}", lambda v, g, t: _aggregate(v, g, "max")
        ),
        Statistic(
            "quarters of range",
            "{column} in quarters of its range",
            lambda v, g, t: _count_quarters(v),
        ),
    ),
    "lines": (
        Statistic(
            "in order of {stratum}",
            "{column} in order of {stratum}",
            lambda v, g, t: _list_points(v.loc[t.strata[v.index].sort_values(kind="stable").index]),
        ),
        Statistic(
            "from low to high",
            "{column} from low to high",
            lambda v, g, t: _list_points(v.sort_values()),
        ),
        Statistic(
            "running mean",
            "running mean of {column}",
            lambda v, g, t: _list_points(v.expanding().mean()),
        ),
        Statistic(
            "running highest", "running highest {column}", lambda v, g, t: _list_points(v.cummax())
        ),
    ),
    "pies": (
        Statistic(
            "quarters of range",
            "{column} in quarters of its range",
            lambda v, g, t: _count_quarters(v),
        ),
        Statistic(
            "low, middle, high",
            "low, middle and high {column}",
            lambda v, g, t: _count_thirds(v, t.columns[v.name]),
        ),
        Statistic(
            "above mean, by {by}",
            "{column} above mean, by {by}",
            lambda v, g, t: _aggregate(v[v > v.mean()], g, "size"),
        ),
        Statistic(
            "below mean, by {by}",
            "{column} below mean, by {by}",
            lambda v, g, t: _aggregate(v[v < v.mean()], g, "size"),
        ),
    ),
}


@cache
def compute_numbers(name: str, column: str, section: int, statistic: Statistic) -> Numbers:
    """Compute what a page shows: a statistic of a column, in a section of a table's rows.

    Args:
        name: name of the table, such as "wine".
        column: such as "malic acid".
        section: an index into the table's sections.
        statistic: one of ``STATISTICS``.

    Returns:
        (label, value) pairs, in drawing order.

    Example:
        >>> compute_numbers("wine", "malic acid", 4, STATISTICS["bars"][3])
        [('1st', 11), ('2nd', 4), ('3rd', 5), ('4th', 2)]
    """
    table = load_tables()[name]
    rows = table.select_rows(section)
    return statistic.compute(table.columns[column][rows], table.groups[rows], table)
