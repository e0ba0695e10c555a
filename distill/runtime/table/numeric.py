"""Functions of columns of numbers, each an array of shape (n_rows, n_columns), float64.

A row's result does not depend on the other rows: sums run along a row in C order, or one row at a time.
"""

from collections.abc import Callable
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np

from distill.codecs.table import numeric
from distill.runtime.preprocessing import Preprocessing
from distill.runtime.table.cells import Cells

__all__ = ["FUNCTIONS", "normal_quantiles", "normalized", "power_transform", "spline_basis"]

# As in scikit-learn: what is this near to the least or largest quantile is at the end of the normal distribution
_THRESHOLD = 1e-7
# Wichura's algorithm AS 241 (Applied Statistics 37, 1988), numerators and denominators, highest power first
_CENTRAL = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
     1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
     687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_MIDDLE = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


def _complete(_: numeric.Complete) -> Callable[[Cells], Cells]:
    def check(cells: Cells) -> Cells:
        values = cells.matrix()
        for row, column in np.argwhere(np.isnan(values))[:1]:
            raise cells.error(
                "is missing, and the next step takes no missing values; fill it in, or fit a SimpleImputer before it",
                int(row),
                int(column),
            )
        return Cells(values, cells.labels, cells.start)

    return check


def _elementwise(operation: numeric.Elementwise) -> Callable[[Cells], Cells]:
    steps = Preprocessing(operation.n_columns, operation.steps)
    return lambda cells: cells.computed(steps(cells.matrix()))


def _of_matrix(function: Callable[[Any, np.ndarray], np.ndarray]) -> Callable[[Any], Callable[[Cells], Cells]]:
    """Return what makes a function of an operation and a matrix a function of cells."""

    def prepare(operation: Any) -> Callable[[Cells], Cells]:
        def apply(cells: Cells) -> Cells:
            # Results that are not finite are reported by the caller
            with np.errstate(all="ignore"):
                return cells.computed(function(operation, cells.matrix()))

        return apply

    return prepare


def _function(operation: numeric.Function, rows: np.ndarray) -> np.ndarray:
    return getattr(np, operation.function)(rows).astype(np.float64, copy=False)


def _power(operation: numeric.Power) -> Callable[[Cells], Cells]:
    def apply(cells: Cells) -> Cells:
        rows = cells.matrix()
        if operation.positive:
            for row, column in np.argwhere(rows <= 0)[:1]:
                raise cells.error(
                    f"{rows[row, column]} is not above zero, which the Box-Cox transform needs; fit Yeo-Johnson's",
                    int(row),
                    int(column),
                )
        with np.errstate(all="ignore"):
            for column, exponent in enumerate(operation.exponents.tolist()):
                rows[:, column] = power_transform(rows[:, column], exponent, operation.positive)
        return cells.computed(rows)

    return apply


def power_transform(values: np.ndarray, exponent: float, positive: bool = False) -> np.ndarray:
    """Return the power transform of Box and Cox, of positive numbers, or of Yeo and Johnson.

    Examples
    --------
    >>> power_transform(np.array([1.0, 4.0]), 0.5, positive=True)
    array([0., 2.])
    >>> power_transform(np.array([-3.0, 0.0, 3.0]), 0.5).round(3)
    array([-4.667,  0.   ,  2.   ])
    """
    if positive:
        if abs(exponent) < 1e-19:
            return np.log(values)
        power = exponent * np.log(values)
        large = np.sign(exponent) * np.exp(power - np.log(abs(exponent))) - 1 / exponent
        return np.where(power < 709.78, np.expm1(power) / exponent, large)
    transformed = np.full_like(values, np.nan)
    above, below = values >= 0, values < 0
    if abs(exponent) < np.spacing(1.0):
        transformed[above] = np.log1p(values[above])
    else:
        transformed[above] = np.expm1(exponent * np.log1p(values[above])) / exponent
    if abs(exponent - 2) > np.spacing(1.0):
        transformed[below] = -np.expm1((2 - exponent) * np.log1p(-values[below])) / (2 - exponent)
    else:
        transformed[below] = -np.log1p(-values[below])
    return transformed


def _quantiles(operation: numeric.Quantiles, rows: np.ndarray) -> np.ndarray:
    references = operation.references
    for column in range(rows.shape[1]):
        quantiles, values = operation.quantiles[:, column], rows[:, column]
        if operation.normal:
            low, high = values - _THRESHOLD < quantiles[0], values + _THRESHOLD > quantiles[-1]
        else:
            low, high = values == quantiles[0], values == quantiles[-1]
        # From both sides, since repeated quantiles make a step
        upward = np.interp(values, quantiles, references)
        downward = np.interp(-values, -quantiles[::-1], -references[::-1])
        fractions = np.where(np.isnan(values), values, 0.5 * (upward - downward))
        fractions[high], fractions[low] = 1, 0
        if operation.normal:
            limit = _THRESHOLD - np.spacing(1)
            ends = normal_quantiles(np.array([limit, 1 - limit]))
            fractions = np.clip(normal_quantiles(fractions), *ends)
        rows[:, column] = fractions
    return rows


def normal_quantiles(fractions: np.ndarray) -> np.ndarray:
    """Return quantiles of the standard normal distribution, with a relative error of about 1e-15.

    Examples
    --------
    >>> normal_quantiles(np.array([0.0, 0.025, 0.5, 0.975])).round(6)
    array([     -inf, -1.959964,  0.      ,  1.959964])
    """
    centered = fractions - 0.5
    quantiles = np.full(fractions.shape, np.nan)
    central = np.abs(centered) <= 0.425
    inside = centered[central]
    quantiles[central] = inside * _ratio(0.180625 - inside * inside, _CENTRAL)
    tail = np.where(centered < 0, fractions, 1 - fractions)
    with np.errstate(all="ignore"):
        depth = np.sqrt(-np.log(tail))
        for where, shift, coefficients in ((depth <= 5, 1.6, _MIDDLE), (depth > 5, 5.0, _FAR)):
            where = where & ~central
            size = _ratio(depth[where] - shift, coefficients)
            quantiles[where] = np.where(centered[where] < 0, -size, size)
    quantiles[fractions == 0], quantiles[fractions == 1] = -np.inf, np.inf
    return quantiles


def _ratio(values: np.ndarray, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """Return a ratio of two polynomials by Horner's rule."""
    numerator, denominator = np.zeros_like(values), np.zeros_like(values)
    for upper, lower in zip(*coefficients):
        numerator = numerator * values + upper
        denominator = denominator * values + lower
    return numerator / denominator


def _bins(operation: numeric.Bins, rows: np.ndarray) -> np.ndarray:
    numbers = [np.searchsorted(edges, rows[:, column], side="right") for column, edges in enumerate(operation.edges)]
    if not operation.one_hot:
        return np.column_stack(numbers).astype(np.float64) if numbers else rows
    sizes = [len(edges) + 1 for edges in operation.edges]
    one_hot, first = np.zeros((len(rows), sum(sizes))), 0
    for size, number in zip(sizes, numbers):
        one_hot[np.arange(len(rows)), first + number] = 1
        first += size
    return one_hot


def _threshold(operation: numeric.Threshold, rows: np.ndarray) -> np.ndarray:
    return (rows > operation.threshold).astype(np.float64)


def _spline(operation: numeric.Spline) -> Callable[[Cells], Cells]:
    def apply(cells: Cells) -> Cells:
        rows, n_splines = cells.matrix(), operation.n_splines
        parts = np.zeros((len(rows), rows.shape[1], n_splines))
        for column in range(rows.shape[1]):
            values = rows[:, column]
            missing = np.isnan(values)
            if missing.any() and not operation.missing_as_zeros:
                raise cells.error(
                    "is missing, and a SplineTransformer with handle_missing='error' takes no missing values",
                    int(np.argmax(missing)),
                    column,
                )
            with np.errstate(all="ignore"):
                known = np.where(missing, operation.knots[operation.degree, column], values)
                parts[:, column] = _splines_of(operation, known, column)
            parts[missing, column] = 0
            beyond = np.isnan(parts[:, column]).any(axis=1)
            if beyond.any():
                row = int(np.argmax(beyond))
                raise cells.error(
                    f"{values[row]} is beyond the knots, and extrapolation='error'; fit with another extrapolation",
                    row,
                    column,
                )
        if not operation.include_bias:
            parts = parts[:, :, :-1]
        return cells.computed(np.ascontiguousarray(parts.reshape(len(rows), parts.shape[1] * parts.shape[2])))

    return apply


def _splines_of(operation: numeric.Spline, values: np.ndarray, column: int) -> np.ndarray:
    """Return the splines of one column, NaN beyond the knots where there is no extrapolation."""
    degree, n_splines, knots = operation.degree, operation.n_splines, operation.knots[:, column]
    extrapolation, last = operation.extrapolation, len(knots) - 1
    low, high = knots[degree], knots[last - degree]
    if extrapolation == "periodic":
        values = low + (values - low) % (high - low) if high > low else np.zeros_like(values)
        basis = spline_basis(values, knots, degree)
        folded = basis[:, :n_splines].copy()
        folded[:, :degree] += basis[:, n_splines:]
        return folded
    basis = spline_basis(values, knots, degree)
    if extrapolation == "continue":
        return basis
    if extrapolation == "linear" and degree <= 1:
        # As in scikit-learn, which raises the degree by one for each column up to two
        degree = min(degree + column, 2)
        low, high = knots[degree], knots[last - degree]
    below, above = values < low, values > high
    if extrapolation == "error":
        basis[below | above] = np.nan
        return basis
    ends = np.array([low, high])
    at_low, at_high = spline_basis(ends, knots, operation.degree)
    basis[below | above] = 0
    if extrapolation == "constant":
        basis[below, :degree] = at_low[:degree]
        first = n_splines - degree if degree else 0
        basis[above, first:] = at_high[first:]
        return basis
    slope_low, slope_high = spline_basis(ends, knots, operation.degree, derivative=1)
    # The slope of the second spline of degree 1 is not zero at the ends
    for index in range(min(degree + 1 if degree <= 1 else degree, n_splines)):
        basis[below, index] = at_low[index] + (values[below] - low) * slope_low[index]
        place = n_splines - 1 - index
        basis[above, place] = at_high[place] + (values[above] - high) * slope_high[place]
    return basis


def spline_basis(values: np.ndarray, knots: np.ndarray, degree: int, derivative: int = 0) -> np.ndarray:
    """Return all B-splines of a degree at some values, by the recursion of Cox and de Boor.

    Parameters
    ----------
    values : ndarray of shape (n_values,)
    knots : ndarray of shape (n_knots,)
    degree : int
    derivative : int
        Order of the derivative, 0 or 1.

    Returns
    -------
    ndarray of shape (n_values, n_knots - degree - 1)

    Examples
    --------
    >>> spline_basis(np.array([0.5, 1.0]), np.arange(-1.0, 4.0), 1)
    array([[0.5, 0.5, 0. ],
           [0. , 1. , 0. ]])
    """
    n_splines = len(knots) - degree - 1
    # The last piece is closed on the right, and values beyond the ends belong to the pieces at the ends
    piece = np.clip(np.searchsorted(knots[: n_splines + 1], values, side="right") - 1, degree, n_splines - 1)
    weights = np.zeros((len(values), degree + 1))
    weights[:, 0] = 1
    for order in range(1, degree + 1):
        before = weights.copy()
        weights[:, 0] = 0
        for index in range(1, order + 1):
            upper, lower = knots[piece + index], knots[piece + index - order]
            flat = upper == lower
            width = np.where(flat, 1, upper - lower)
            if order > degree - derivative:
                weight = order * before[:, index - 1] / width
                weights[:, index - 1] = np.where(flat, weights[:, index - 1], weights[:, index - 1] - weight)
                weights[:, index] = np.where(flat, 0, weight)
            else:
                weight = before[:, index - 1] / width
                raised = weights[:, index - 1] + weight * (upper - values)
                weights[:, index - 1] = np.where(flat, weights[:, index - 1], raised)
                weights[:, index] = np.where(flat, 0, weight * (values - lower))
    if derivative > degree:
        weights[:] = 0
    basis = np.zeros((len(values), n_splines))
    places = piece[:, None] - degree + np.arange(degree + 1)
    np.put_along_axis(basis, places, weights, axis=1)
    return basis


def _polynomial(operation: numeric.Polynomial) -> Callable[[Cells], Cells]:
    plans: dict[int, list[tuple[int, int]]] = {}

    def apply(cells: Cells) -> Cells:
        rows = cells.matrix()
        n_columns = rows.shape[1]
        if n_columns not in plans:
            plans[n_columns] = _factors(n_columns, operation)
        terms = np.ones((len(rows), 1 + len(plans[n_columns])))
        with np.errstate(all="ignore"):
            for index, (shorter, column) in enumerate(plans[n_columns], 1):
                np.multiply(terms[:, shorter], rows[:, column], out=terms[:, index])
        kept = terms.shape[1] - operation.n_outputs(n_columns) + operation.include_bias
        kept_terms = [terms[:, kept:]] if not operation.include_bias else [terms[:, :1], terms[:, kept:]]
        return cells.computed(np.hstack(kept_terms))

    return apply


def _factors(n_columns: int, operation: numeric.Polynomial) -> list[tuple[int, int]]:
    """Return for each term of degree 1 and above the index of the term without its first column, and that column.

    The term of degree 0 has index 0. Of several columns the last ones are multiplied first, as in scikit-learn.
    """
    combine = combinations if operation.interaction_only else combinations_with_replacement
    indices: dict[tuple[int, ...], int] = {(): 0}
    factors = []
    for degree in range(1, operation.max_degree + 1):
        for columns in combine(range(n_columns), degree):
            indices[columns] = len(indices)
            factors.append((indices[columns[1:]], columns[0]))
    return factors


def _normalize(operation: numeric.Normalize, rows: np.ndarray) -> np.ndarray:
    return normalized(rows, operation.norm)


def normalized(rows: np.ndarray, norm: str) -> np.ndarray:
    """Return rows over their norms, zero rows as they are.

    Examples
    --------
    >>> normalized(np.array([[3.0, -4.0], [0.0, 0.0]]), "l2")
    array([[ 0.6, -0.8],
           [ 0. ,  0. ]])
    """
    if norm == "l1":
        norms = np.abs(rows).sum(axis=1)
    elif norm == "l2":
        norms = np.sqrt(np.square(rows).sum(axis=1))
    else:
        norms = np.abs(rows).max(axis=1, initial=0)
    norms[norms == 0] = 1
    return rows / norms[:, None]


def _product(operation: numeric.Product, rows: np.ndarray) -> np.ndarray:
    # One row at a time: the order of additions of one large product would depend on the number of rows
    return np.matmul(rows[:, None, :], operation.matrix)[:, 0, :]


FUNCTIONS: dict[type, Callable[[Any], Callable[[Cells], Cells]]] = {
    numeric.Complete: _complete,
    numeric.Elementwise: _elementwise,
    numeric.Function: _of_matrix(_function),
    numeric.Power: _power,
    numeric.Quantiles: _of_matrix(_quantiles),
    numeric.Bins: _of_matrix(_bins),
    numeric.Threshold: _of_matrix(_threshold),
    numeric.Spline: _spline,
    numeric.Polynomial: _polynomial,
    numeric.Normalize: _of_matrix(_normalize),
    numeric.Product: _of_matrix(_product),
}
