"""The rows of X for a table: data frames, dicts, lists of texts and all other containers as cells."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.codecs.table import TableStep
from distill.runtime import columns
from distill.runtime.table import used_columns
from distill.runtime.table.cells import Cells

__all__ = ["table_rows"]


def table_rows(X: Any, table: TableStep, names: Sequence[str] | None) -> Cells:
    """Return X as cells, its columns by name.

    Parameters
    ----------
    X : {array-like, data frame, sparse matrix} of shape (n_samples, n_columns), or texts of shape (n_samples,)
        A list of texts only for a table whose rows are texts. A dict may be a single row.
    table : TableStep
    names : sequence of str or None
        Names of the columns.

    Returns
    -------
    Cells

    Raises
    ------
    ValueError
        If X has other columns, or another number of them, or is a single text.

    Examples
    --------
    >>> table_rows(["red wine", "blue sky"], TableStep(1, (), texts=True), None).shape
    (2, 1)
    """
    if isinstance(X, str | bytes):
        raise ValueError("X must be rows, and it is a single text; [X] is one row")
    if table.texts and isinstance(X, list | tuple) and X and isinstance(X[0], str):
        return Cells([_texts(X)], names or (0,))
    needed = used_columns(table.operations, table.n_columns)
    values = columns.cells(X, names, needed)
    n_columns = len(values) if isinstance(values, list) else values.shape[1]
    if isinstance(values, list) and not values and table.n_columns:
        values, n_columns = [np.empty(0, object)] * table.n_columns, table.n_columns
    is_vector = _is_vector(X)
    if n_columns != table.n_columns or (is_vector and not table.texts):
        hint = f"; {columns.single_row(X, table.n_columns)}" if is_vector else ""
        kind = "is a vector" if is_vector else f"has {n_columns} columns"
        raise ValueError(f"X {kind}, and the student was fitted with {table.n_columns} columns{hint}")
    return Cells(values, tuple(range(n_columns)) if names is None else tuple(names))


def _texts(texts: Sequence[Any]) -> np.ndarray:
    """Return texts as objects."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def _is_vector(X: Any) -> bool:
    """Return whether X is a sequence of values, not of rows."""
    if isinstance(X, list | tuple):
        return bool(X) and (isinstance(X[0], str) or not hasattr(X[0], "__len__"))
    return getattr(X, "ndim", 2) == 1 and columns.column_names(X) is None
