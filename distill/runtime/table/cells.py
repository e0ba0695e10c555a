"""The cells of some rows of a table: numbers, text and missing values, column by column.

>>> cells = Cells([np.array([1, 2]), np.array(["x", None], dtype=object)], ("size", "color"))
>>> cells.shape, cells.select((0,)).matrix()
((2, 2), array([[1.],
       [2.]]))
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Cells"]

# Kinds of the dtypes of real numbers
_NUMERIC = "fiub"
# Characters of a value that an error shows
_SHOWN = 60


class Cells:
    """Some rows of a table.

    Parameters
    ----------
    values : ndarray or CSR of numbers, of shape (n_rows, n_columns), or list of ndarray of shape (n_rows,)
        Columns of a list hold numbers, or Python objects: str, numbers, None, NaN.
    labels : sequence
        Name or index of each column in X, None of one that was computed.
    start : int
        Number of the first row in X, for errors.
    n_rows : int or None
        Needed where there are no columns.
    """

    ndim = 2

    def __init__(self, values: Any, labels: Sequence[Any], start: int = 0, n_rows: int | None = None):
        self.values = values
        self.labels = labels
        self.start = start
        if n_rows is None:
            n_rows = (len(values[0]) if values else 0) if isinstance(values, list) else values.shape[0]
        self.shape = (n_rows, len(values) if isinstance(values, list) else values.shape[1])

    def __getitem__(self, rows: slice) -> "Cells":
        first, stop, _ = rows.indices(self.shape[0])
        values = [column[rows] for column in self.values] if isinstance(self.values, list) else self.values[rows]
        return Cells(values, self.labels, self.start + first, max(0, stop - first))

    def computed(self, values: np.ndarray) -> "Cells":
        """Return a matrix of numbers that were computed from these rows."""
        return Cells(values, (None,) * values.shape[1], self.start)

    def select(self, columns: Sequence[int]) -> "Cells":
        """Return some of the columns."""
        labels = [self.labels[column] for column in columns]
        if isinstance(self.values, list):
            return Cells([self.values[column] for column in columns], labels, self.start, self.shape[0])
        return Cells(self.values[:, list(columns)], labels, self.start)

    def columns(self) -> list[np.ndarray]:
        """Return all columns."""
        if isinstance(self.values, list):
            return self.values
        return list(_dense(self.values).T)

    def matrix(self) -> np.ndarray:
        """Return numbers as a new array in C order, float64; ValueError for text and infinite values."""
        if not isinstance(self.values, list):
            values = _dense(self.values)
            numbers = np.array(values, np.float64, order="C")
        else:
            numbers = np.empty(self.shape)
            for index, column in enumerate(self.values):
                numbers[:, index] = self._numbers(column, index)
        # The sum of squares is finite for nearly every table without missing values, and faster
        if not math.isfinite(np.vdot(numbers, numbers)) and np.isinf(numbers).any():
            for row, column in np.argwhere(np.isinf(numbers)):
                if self.labels[column] is not None:
                    raise self.error("is infinite; correct it, or make it missing", int(row), int(column))
        return numbers

    def _numbers(self, column: np.ndarray, index: int) -> np.ndarray:
        """Return a column as numbers."""
        if column.dtype.kind in _NUMERIC:
            return column
        if column.dtype.kind == "O":
            try:
                return column.astype(np.float64)
            except (TypeError, ValueError, OverflowError):
                pass
        wrong = (row for row, value in enumerate(column.tolist()) if column.dtype.kind != "O" or not _is_number(value))
        row = next(wrong, -1)
        if row < 0:
            return np.zeros(len(column))
        value = column[row : row + 1].tolist()[0]
        kind = "text" if isinstance(value, str) else "no number"
        raise self.error(f"is {kind}, {shown(value)}, where a number is needed; correct it", row, index)

    def error(self, text: str, row: int, column: int | None = None) -> ValueError:
        """Return the error about a row, and a column if it is one of X."""
        label = None if column is None else self.labels[column]
        place = "" if label is None else f", column {label!r}"
        return ValueError(f"row {self.start + row} of X{place}: the value {text}")


def shown(value: Any) -> str:
    """Return the text of a value, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_number(value: Any) -> bool:
    try:
        float(np.nan if value is None else value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _dense(values: Any) -> np.ndarray:
    return values.toarray() if hasattr(values, "toarray") else values
