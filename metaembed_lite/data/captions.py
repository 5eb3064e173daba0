"""Reads a CSV of images and captions exactly as written, and knows the line of each row."""

from __future__ import annotations

import io
from collections.abc import Sequence
from csv import Error as CsvError
from csv import reader as csv_reader
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class CaptionFile:
    """The cells of a CSV, as text.

    Attributes:
        header: names of the columns.
        rows: line -> the cells of the row that starts there.

    Example:
        >>> CaptionFile(["image", "text"], {2: ["a.png"]}).cell(2, "text")
        ''
    """

    header: list[str]
    rows: dict[int, list[str]]

    def cell(self, line: int, column: str) -> str:
        """The cell of a row, or "" if the row is too short."""
        row, place = self.rows[line], self.header.index(column)
        return row[place] if place < len(row) else ""

    def problem(self, line: int, needed: Sequence[str]) -> str | None:
        """What is wrong with a row whose ``needed`` columns must not be empty, or None."""
        row = self.rows[line]
        if any(row[len(self.header) :]):
            return (
                f"has {len(row)} cells, and the header {len(self.header)}; put quotes around a "
                "cell that holds a comma"
            )
        if any(not self.cell(line, column).strip() for column in needed):
            return "has an empty cell"
        return None


def read_cells(file: Path, columns: Sequence[str]) -> CaptionFile:
    """Read a CSV that has some columns. Its rows are not checked.

    Args:
        file: in UTF-8, with a header.
        columns: names that the header must have.

    Raises:
        ValueError: naming the file and the line, if it is not a CSV in UTF-8 or lacks a column.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "captions.csv")
        ...     _ = file.write_text('image,text\\na.png,"red, round"\\n')
        ...     read_cells(file, ["image", "text"]).rows
        {2: ['a.png', 'red, round']}
    """
    data = file.read_bytes()
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file}: line {line} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    reader = csv_reader(io.StringIO(content, newline=""), strict=True)
    rows: dict[int, list[str]] = {}
    line = 1
    try:
        header = next(reader, [])
        line = reader.line_num + 1
        for row in reader:
            if row:
                rows[line] = row
            line = reader.line_num + 1
    except CsvError as error:
        raise ValueError(f"{file}: the row of line {line} is not CSV: {error}") from error
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(
            f"{file} has no column {', '.join(missing)}; it has {', '.join(header)}: "
            "name your columns with image= and text="
        )
    return CaptionFile(header, rows)


def read_captions(file: Path, image: str, text: str, others: Sequence[str] = ()) -> pd.DataFrame:
    """Read columns of a CSV exactly as written, so "NA" is a caption.

    Args:
        file: the CSV.
        image: column of image paths.
        text: column of captions.
        others: more columns, whose cells may be empty. Defaults to none.

    Returns:
        DataFrame with these columns, indexed by the line each row starts in.

    Raises:
        ValueError: naming the file and the line, if it is not a CSV in UTF-8, lacks a column, or
            has an empty cell.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "captions.csv")
        ...     _ = file.write_text("image,text\\na.png,NA\\n")
        ...     read_captions(file, "image", "text").loc[2].to_list()
        ['a.png', 'NA']
    """
    columns = list(dict.fromkeys([image, text, *others]))
    cells = read_cells(file, columns)
    for line in cells.rows:
        problem = cells.problem(line, [image, text])
        if problem:
            raise ValueError(f"{file}: line {line} {problem}")
    table = [[cells.cell(line, column) for column in columns] for line in cells.rows]
    return pd.DataFrame(table, index=list(cells.rows), columns=columns)
