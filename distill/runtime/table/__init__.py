"""Tables before a network in NumPy: columns of numbers, categories and text become a matrix of numbers."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.codecs.table import Encode, OneHot, Select, TableStep, Union
from distill.runtime.table import categorical, numeric, text
from distill.runtime.table.cells import Cells

__all__ = ["Cells", "Table"]

_FUNCTIONS = {**numeric.FUNCTIONS, **categorical.FUNCTIONS, **text.FUNCTIONS}


class Table:
    """The step from a table of any values to numbers, bit-identical for a row in any batch.

    Parameters
    ----------
    step : TableStep

    Examples
    --------
    >>> from distill.codecs.table.categorical import Categories
    >>> colors = OneHot((Categories(("blue", "red"), (0, 1), 2, unknown=-1),))
    >>> table = Table(TableStep(2, (Union(((Select((1,)), colors), (Select((0,)),))),)))
    >>> table(Cells([np.array([1.5, 2.5]), np.array(["red", "green"], dtype=object)], ("size", "color")))
    array([[0. , 1. , 1.5],
           [0. , 0. , 2.5]])
    """

    def __init__(self, step: TableStep):
        self.step = step
        # None is a missing value as NaN is, unless one of them is a separate category
        self._apply = _prepared(step.operations, not _mentions_none(step.operations))

    def __call__(self, cells: Cells) -> np.ndarray:
        """Return the numbers of some rows.

        Parameters
        ----------
        cells : Cells

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), float64
            NaN or infinite where an operation gives that.

        Raises
        ------
        ValueError
            If a value is of the wrong kind, missing or unknown where that is refused; it names row and column.
        """
        return self._apply(cells).matrix()

    def __getstate__(self) -> TableStep:
        return self.step

    def __setstate__(self, step: TableStep) -> None:
        self.__init__(step)  # type: ignore[misc]


def used_columns(operations: Sequence[Any], n_columns: int) -> set[int]:
    """Return the indices of the columns of the input that the operations look at."""
    if not operations:
        return set(range(n_columns))
    first, rest = operations[0], operations[1:]
    if isinstance(first, Select):
        inner = used_columns(rest, len(first.columns))
        return {first.columns[index] for index in inner}
    if isinstance(first, Union):
        return set().union(*(used_columns(branch, n_columns) for branch in first.branches))
    return set(range(n_columns))


def _mentions_none(operations: Sequence[Any]) -> bool:
    """Return whether None is a category, or a missing value of its own."""
    for operation in operations:
        if isinstance(operation, Union):
            if any(map(_mentions_none, operation.branches)):
                return True
        elif isinstance(operation, OneHot | Encode):
            if any(None in feature.values for feature in operation.features):
                return True
    return False


def _prepared(operations: Sequence[Any], none_too: bool) -> Callable[[Cells], Cells]:
    """Return the function of a list of operations."""
    functions = [_prepare(operation, none_too) for operation in operations]

    def apply(cells: Cells) -> Cells:
        for function in functions:
            cells = function(cells)
        return cells

    return apply


def _prepare(operation: Any, none_too: bool) -> Callable[[Cells], Cells]:
    if isinstance(operation, Select):
        return lambda cells: cells.select(operation.columns)
    if isinstance(operation, Union):
        return _side_by_side([_prepared(branch, none_too) for branch in operation.branches])
    if type(operation) in categorical.FUNCTIONS_OF_MISSING:
        return categorical.FUNCTIONS_OF_MISSING[type(operation)](operation, none_too)
    return _FUNCTIONS[type(operation)](operation)


def _side_by_side(branches: Sequence[Callable[[Cells], Cells]]) -> Callable[[Cells], Cells]:
    """Return the function that puts the results of branches side by side."""

    def apply(cells: Cells) -> Cells:
        found = [branch(cells) for branch in branches]
        labels = [label for each in found for label in each.labels]
        if any(isinstance(each.values, list) for each in found):
            columns = [column for each in found for column in each.columns()]
            return Cells(columns, labels, cells.start, cells.shape[0])
        return Cells(np.hstack([each.matrix() for each in found]), labels, cells.start)

    return apply
