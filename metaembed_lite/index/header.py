"""What an index says about itself, stored with its columns."""

from __future__ import annotations

import json
from dataclasses import dataclass

from metaembed_lite.budget import as_budgets
from metaembed_lite.index.columns import RingColumns

FORMAT = 1  # of the columns; raised when an older package could not read a newer index
KEY = b"metaembed_lite"  # in the metadata of the table's schema


@dataclass(frozen=True)
class Header:
    """The vectors' shape and type, and the model that they come from.

    Attributes:
        columns: dimension, budgets and types.
        model: a name or folder from which the model can be loaded. Defaults to none.
        fingerprint: of the model's weights. Defaults to none.
        credit: whom to name where the candidates are shown. Defaults to none.

    Example:
        >>> header = Header(RingColumns(128, ((1, 1), (4, 8))), model="tiny")
        >>> Header.from_json(header.to_json(), "my-index") == header
        True
    """

    columns: RingColumns
    model: str | None = None
    fingerprint: str | None = None
    credit: str | None = None

    def to_json(self) -> str:
        """The header as text."""
        columns = self.columns
        return json.dumps(
            {
                "format": FORMAT,
                "dim": columns.dim,
                "budgets": [[b.r_q, b.r_c] for b in columns.budgets],
                "dtype": columns.dtype,
                "rescore": columns.rescore,
                "model": self.model,
                "fingerprint": self.fingerprint,
                "credit": self.credit,
            }
        )

    @classmethod
    def from_json(cls, text: str, path: str) -> Header:
        """The header that ``to_json`` wrote.

        Raises:
            ValueError: if it is damaged, or a newer version of the package wrote it.
        """
        try:
            values = json.loads(text)
            newest = int(values["format"])
            if newest <= FORMAT:
                budgets = as_budgets(values["budgets"])
                columns = RingColumns(values["dim"], budgets, values["dtype"], values["rescore"])
                return cls(columns, values["model"], values["fingerprint"], values.get("credit"))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"index {path}: what it says about itself cannot be read "
                f"({type(error).__name__}: {error}): it is damaged"
            ) from error
        raise ValueError(
            f"index {path} has format {newest}, and this version of metaembed_lite reads up to "
            f"{FORMAT}: update the package"
        )
