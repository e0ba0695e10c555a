"""Functions of columns of categories, and of missing values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.codecs.table import categorical
from distill.codecs.table.fields import Value, is_nan
from distill.runtime.table.cells import Cells, shown

__all__ = ["FUNCTIONS", "Lookup", "is_missing"]

# Categories that an error shows
_SHOWN = 5
# Integers up to this magnitude are the same in float64
_EXACT = 2**53


class Lookup:
    """The index of a value among categories, -1 for others.

    Categories are equal as in Python: 1, 1.0 and True are one, "1" is another. None and NaN are different only if both
    are categories.

    Parameters
    ----------
    values : sequence
        Categories, all different.

    Examples
    --------
    >>> Lookup(("a", "b", np.nan))(np.array(["b", None, "c"], dtype=object))
    array([ 1,  2, -1])
    >>> Lookup((10, 20))(np.array([20.0, 15.0]))
    array([ 1, -1])
    """

    def __init__(self, values: Sequence[Value]):
        self.values = values
        known = ((value, index) for index, value in enumerate(values) if value is not None and not is_nan(value))
        self._indices: dict[Value, int] = dict(known)
        none = next((index for index, value in enumerate(values) if value is None), -1)
        nan = next((index for index, value in enumerate(values) if is_nan(value)), -1)
        self._none = nan if none < 0 else none
        self._nan = none if nan < 0 else nan
        self._indices_with_none = {**self._indices, None: self._none}
        numbers = [(value, index) for value, index in self._indices.items() if not isinstance(value, str)]
        self._all_text = bool(self._indices) and not numbers
        integral = all(isinstance(value, int) for value, _ in numbers)
        small = all(abs(value) < 2**63 for value, _ in numbers if isinstance(value, int))
        self._integers = _sorted(numbers, np.int64) if integral and small else None
        self._floats = _sorted(numbers, np.float64)

    @property
    def holds_text(self) -> bool:
        """Whether all categories are text."""
        return self._all_text

    def __call__(self, column: np.ndarray) -> np.ndarray:
        """Return the index of each value of a column; TypeError for a value that no category can be."""
        if column.dtype.kind not in "fiub":
            return self._of_objects(column)
        if column.dtype.kind in "iub" and self._integers is not None and column.dtype != np.uint64:
            return _found(column.astype(np.int64), *self._integers)
        indices = _found(column.astype(np.float64), *self._floats)
        if column.dtype.kind == "f":
            indices[np.isnan(column)] = self._nan
        return indices

    def _of_objects(self, column: np.ndarray) -> np.ndarray:
        get = self._indices_with_none.get
        found = [get(value, -1) for value in column.tolist()]
        indices = np.array(found, np.intp)
        if -1 in found:
            for row in np.flatnonzero(indices < 0):
                if is_nan(column[row]):
                    indices[row] = self._nan
        return indices


def _sorted(numbers: list[tuple[Any, int]], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers in order, and their indices."""
    values: np.ndarray = np.array([value for value, _ in numbers], dtype)
    order = np.argsort(values, kind="stable")
    return values[order], np.array([index for _, index in numbers], np.intp)[order]


def _found(column: np.ndarray, known: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the indices of values among known ones, -1 for others."""
    if not len(known):
        return np.full(len(column), -1, np.intp)
    places = np.minimum(np.searchsorted(known, column), len(known) - 1)
    return np.where(known[places] == column, indices[places], -1)


def is_missing(column: np.ndarray, missing: Value, none_too: bool = True) -> np.ndarray:
    """Return where the values of a column are missing.

    Parameters
    ----------
    column : ndarray of shape (n_rows,)
    missing : str, int, float, bool or None
    none_too : bool
        Whether None is missing where NaN is.

    Examples
    --------
    >>> is_missing(np.array(["a", None, np.nan], dtype=object), np.nan)
    array([False,  True,  True])
    """
    if missing is None or is_nan(missing):
        nan_too = missing is not None or none_too
        none_too = missing is None or none_too
        if column.dtype.kind == "f" and nan_too:
            return np.isnan(column)
        if column.dtype.kind != "O":
            return np.zeros(len(column), bool)
        values = column.tolist()
        return np.array([none_too if value is None else nan_too and is_nan(value) for value in values], bool)
    if column.dtype.kind in "fiub":
        return column == missing if not isinstance(missing, str) else np.zeros(len(column), bool)
    return np.array([value == missing for value in column.tolist()], bool)


def _impute(operation: categorical.Impute, none_too: bool) -> Callable[[Cells], Cells]:
    def apply(cells: Cells) -> Cells:
        columns = cells.columns()
        # Where a number replaces it, None is no category: scikit-learn makes it NaN
        masks = {
            index: is_missing(columns[index], operation.missing, none_too or not isinstance(fill, str | None))
            for index, fill in zip(operation.columns, operation.fills)
        }
        filled = []
        for index, fill in zip(operation.columns, operation.fills):
            filled.append(_filled(columns[index], masks[index], fill))
        for index in operation.indicated:
            mask = masks[index] if index in masks else is_missing(columns[index], operation.missing, none_too)
            filled.append(mask.astype(np.float64))
        labels = [cells.labels[index] for index in operation.columns] + [None] * len(operation.indicated)
        return Cells(filled, labels, cells.start, cells.shape[0])

    return apply


def _filled(column: np.ndarray, mask: np.ndarray, fill: Value) -> np.ndarray:
    """Return a column with a value where the mask is true."""
    if not mask.any():
        return column
    text = isinstance(fill, str) or fill is None
    column = column.astype(object if text or column.dtype.kind not in "fiub" else np.float64)
    column[mask] = fill
    return column


def _indicate(operation: categorical.Indicate, none_too: bool) -> Callable[[Cells], Cells]:
    def apply(cells: Cells) -> Cells:
        columns = cells.columns()
        if operation.refuses_others:
            for index in sorted(set(range(len(columns))) - set(operation.columns)):
                mask = is_missing(columns[index], operation.missing, none_too)
                if mask.any():
                    raise cells.error(
                        "is missing, and no value of the column was missing in the fit; fill it in, or fit a "
                        "MissingIndicator with features='all' or error_on_new=False",
                        int(np.argmax(mask)),
                        index,
                    )
        masks = [is_missing(columns[index], operation.missing, none_too) for index in operation.columns]
        values = np.column_stack(masks).astype(np.float64) if masks else np.zeros((cells.shape[0], 0))
        return cells.computed(values)

    return apply


def _looked_up(cells: Cells, index: int, column: np.ndarray, lookup: Lookup, refuses: bool) -> np.ndarray:
    """Return the indices of a column's categories; ValueError for what cannot be one, or is unknown and refused."""
    if lookup.holds_text and column.dtype.kind in "fiub":
        wrong = ~np.isnan(column) if column.dtype.kind == "f" else np.ones(len(column), bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise cells.error(
                f"{column[row].item()!r} is a number, and the categories are text, such as {lookup.values[0]!r}; "
                "convert the column, as with X[column].astype(str)",
                row,
                index,
            )
    try:
        indices = lookup(column)
    except TypeError as error:
        row = next(row for row, value in enumerate(column.tolist()) if not _is_hashable(value))
        raise cells.error(f"{shown(column[row])} cannot be a category: {error}", row, index) from None
    if refuses and (indices < 0).any():
        row = int(np.argmax(indices < 0))
        known = ", ".join(map(shown, lookup.values[:_SHOWN]))
        more = f" and {len(lookup.values) - _SHOWN} more" if len(lookup.values) > _SHOWN else ""
        raise cells.error(
            f"{shown(column[row : row + 1].tolist()[0])} is no category of the fit, which are {known}{more}; correct "
            "it, or fit the encoder with another handle_unknown than 'error'",
            row,
            index,
        )
    return indices


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _one_hot(operation: categorical.OneHot) -> Callable[[Cells], Cells]:
    lookups = [Lookup(feature.values) for feature in operation.features]
    # The code of an unknown category comes last, where -1 finds it
    codes = [np.array([*codes, -1 if unknown is None else unknown]) for _, codes, _, unknown in operation.features]
    width = sum(feature.n_outputs for feature in operation.features)

    def apply(cells: Cells) -> Cells:
        one_hot, first = np.zeros((cells.shape[0], width)), 0
        for index, (column, feature) in enumerate(zip(cells.columns(), operation.features)):
            places = codes[index][_looked_up(cells, index, column, lookups[index], feature.unknown is None)]
            rows = np.flatnonzero(places >= 0)
            one_hot[rows, first + places[rows]] = 1
            first += feature.n_outputs
        return cells.computed(one_hot)

    return apply


def _encode(operation: categorical.Encode) -> Callable[[Cells], Cells]:
    lookups = [Lookup(feature.values) for feature in operation.features]
    tables = []
    for values, numbers, unknown in operation.features:
        known = np.arange(len(values), dtype=np.float64)[:, None] if numbers is None else numbers
        last = np.full((1, known.shape[1]), np.nan) if unknown is None else unknown[None]
        tables.append(np.vstack([known, last]))

    def apply(cells: Cells) -> Cells:
        encoded = [
            table[_looked_up(cells, index, column, lookup, feature.unknown is None)]
            for index, (column, lookup, table, feature) in enumerate(
                zip(cells.columns(), lookups, tables, operation.features)
            )
        ]
        return cells.computed(np.hstack(encoded) if encoded else np.zeros((cells.shape[0], 0)))

    return apply


# Those that look at missing values are told whether None is one
FUNCTIONS: dict[type, Callable[[Any], Callable[[Cells], Cells]]] = {
    categorical.OneHot: _one_hot,
    categorical.Encode: _encode,
}
FUNCTIONS_OF_MISSING: dict[type, Callable[[Any, bool], Callable[[Cells], Cells]]] = {
    categorical.Impute: _impute,
    categorical.Indicate: _indicate,
}
