"""Rows of X in the form in which the bottom layer compares them, prepared a block at a time.

X may be an array, a memory-mapped file or a CSR matrix, of any numeric dtype. It is read in blocks and never copied as
a whole.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import assert_all_finite

from mbn.metrics import Matrix
from mbn.neighbors import row_squares
from mbn.parallel import blocks

# Deviation of the squared length of a row that has length one
_UNIT = 2e-3
# Values of a block that is read and prepared at once: 32 MB as float32
READ_VALUES = 1 << 23
# Features whose middle is further from zero than this many half ranges are centered: three bits of the products. In
# sparse rows every value of such a feature is stored anyway, since the range covers those that are not.
_DISTANT = 8
# A feature whose range is this small a fraction of its values is constant up to the rounding of float64
_NOISE = 2.0**-46
# Values, and at most how many rows, from which is judged what float32 loses
_SAMPLED_VALUES, _FEWEST_SAMPLED, _MOST_SAMPLED = 1 << 14, 64, 1024
# Fractions of neighboring values that float32 merges: from the first on, another offset is tried; past the second,
# the loss is said.
_TRIED, _SAID = 0.01, 0.1
# Values converted at once with a factor: 8 MB as float64
_CONVERTED_VALUES = 1 << 20
# Past this, integers have no float64 of their own
_LARGEST_INTEGER = 2**53


@dataclass(frozen=True)
class Preparation:
    """Transformation of rows before distances are computed, in float64; the result is rounded to float32.

    Parameters
    ----------
    keep : ndarray of shape (n_kept,), int, or None
        Features in use; all if None.
    mean : ndarray of shape (n_kept,), float64, or None
        Subtracted from the rows.
    factor : float or None
        Multiplied with the rows after that.
    unit : bool
        Whether rows are then divided by their lengths.
    """

    keep: np.ndarray | None = None
    mean: np.ndarray | None = None
    factor: float | None = None
    unit: bool = False

    def is_identity(self) -> bool:
        """Return whether prepared rows are the rows themselves."""
        return self.keep is None and not self.moves() and not self.unit

    def moves(self) -> bool:
        """Return whether values are shifted or scaled."""
        return self.mean is not None or self.factor is not None

    def apply(self, X: Matrix) -> Matrix:
        """Prepare a block of rows of any numeric type, an ndarray or CSR of shape (n_rows, n_features).

        Raises
        ------
        ValueError
            If a value is too large for float32.
        """
        if not self.moves():
            X = as_float32(X)
        if self.keep is not None:
            X = X[:, self.keep]
        if self.moves():
            move = _move_sparse if sparse.issparse(X) else _move_dense
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                X = move(X, self.mean, self.factor)
            assert_all_finite(X, input_name="X")
        if self.unit:
            lengths = np.sqrt(row_squares(X))
            lengths[lengths == 0] = 1
            X = (sparse.diags_array(1 / lengths) @ X).tocsr() if sparse.issparse(X) else X / lengths[:, None]
            X = X.astype(np.float32, copy=False)
        return X


def _move_dense(X: np.ndarray, mean: np.ndarray | None, factor: float | None) -> np.ndarray:
    """Subtract and multiply in float64, and round the results to float32."""
    mean = np.zeros(1) if mean is None else mean
    out = np.empty(X.shape, np.float32)
    if factor is None:  # converted in NumPy's small buffers
        return np.subtract(X, mean, out=out, dtype=np.float64, casting="same_kind")
    for block in blocks(len(X), max(1, _CONVERTED_VALUES // max(1, X.shape[1]))):
        out[block] = np.subtract(X[block], mean, dtype=np.float64, casting="same_kind") * factor
    return out


def _move_sparse(X: Matrix, mean: np.ndarray | None, factor: float | None) -> Matrix:
    """As `_move_dense`; where a mean is subtracted every row gets a value."""
    X = sparse.csr_array(X, dtype=np.float64, copy=True)
    X.sum_duplicates()
    if mean is not None:
        shifted = np.flatnonzero(mean)
        places = np.full(X.shape[1], -1)
        places[shifted] = np.arange(len(shifted))
        stored = places[X.indices]
        absent = np.ones((X.shape[0], len(shifted)), bool)
        absent[np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))[stored >= 0], stored[stored >= 0]] = False
        rows, columns = np.nonzero(absent)
        X.data -= mean[X.indices]
        if len(rows):
            columns = shifted[columns]
            X = sparse.csr_array(X + sparse.csr_array((-mean[columns], (rows, columns)), shape=X.shape))
    if factor is not None:
        X.data *= factor
    return X.astype(np.float32)


IDENTITY = Preparation()


class Rows:
    """Prepared float32 rows, computed on access.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        Finite values.
    preparation : Preparation

    Attributes
    ----------
    shape : tuple of (n_samples, n_kept)

    Examples
    --------
    >>> import numpy as np
    >>> from mbn.rows import Rows
    >>> rows = Rows(np.arange(8).reshape(4, 2))
    >>> rows[1:3]
    array([[2., 3.],
           [4., 5.]], dtype=float32)
    """

    def __init__(self, X: Matrix, preparation: Preparation = IDENTITY):
        self.X = X
        self.preparation = preparation
        n_features = X.shape[1] if preparation.keep is None else len(preparation.keep)
        self.shape = (X.shape[0], n_features)

    def __getitem__(self, which: slice | np.ndarray) -> Matrix:
        """Prepare some rows: a C-contiguous array or a CSR with sorted indices.

        Raises
        ------
        ValueError
            If a value is too large for float32.
        """
        return _contiguous(self.preparation.apply(self.X[which]))

    def whole(self) -> Matrix:
        """Return all prepared rows; X itself if it equals them."""
        unchanged = self.X.dtype == np.float32 and self.preparation.is_identity()
        if unchanged and sparse.issparse(self.X) and self.X.has_sorted_indices:
            return self.X
        if unchanged and not sparse.issparse(self.X) and self.X.flags.c_contiguous:
            return self.X
        if sparse.issparse(self.X):
            return sparse.vstack([self[block] for block in self.blocks()], format="csr")
        out = np.empty(self.shape, np.float32)
        for block in self.blocks():
            out[block] = self[block]
        return out

    def blocks(self) -> list[slice]:
        """Return slices of rows that are read at once."""
        return blocks(self.shape[0], max(1, READ_VALUES // max(1, self.X.shape[1])))


def in_blocks(method: Callable, X: Matrix, *, n_rows: int = 65536) -> Iterator[tuple[slice, Any]]:
    """Call a method whose output for a row depends on that row alone with one block of rows after another.

    For rows or outputs that are too large for memory, such as those of memory-mapped files.

    Parameters
    ----------
    method : callable
        Such as the `predict` of a fitted pipeline or student.
    X : ndarray or CSR of shape (n_samples, n_features)
    n_rows : int, default=65536
        Rows of a block.

    Yields
    ------
    block : slice
    output : object
        Return value of ``method(X[block])``.

    Raises
    ------
    ValueError
        If `n_rows` is less than 1.

    Examples
    --------
    >>> import numpy as np
    >>> from mbn import in_blocks
    >>> X, out = np.arange(10.0).reshape(5, 2), np.empty(5)
    >>> for block, output in in_blocks(lambda rows: rows.sum(axis=1), X, n_rows=2):
    ...     out[block] = output
    >>> out
    array([ 1.,  5.,  9., 13., 17.])
    """
    if n_rows < 1:
        raise ValueError(f"n_rows={n_rows} must be 1 or more")
    for block in blocks(X.shape[0], n_rows):
        yield block, method(X[block])


def fit_preparation(X: Matrix, metric: str, names: np.ndarray | None = None) -> Preparation:
    """Choose the preparation of rows from the ranges of their features, and a sample where float32 would round.

    Constant features are left out. Euclidean: features far from zero relative to their range are centered, which
    changes no distance but keeps the differences that float32 would round away; others are left as they are, so that
    ties remain ties. Very large or small values are multiplied with a power of two. Cosine: rows are divided by their
    lengths. With cosine and linear no offset is subtracted, since it has a meaning there.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    metric : {"euclidean", "cosine", "linear"}
    names : ndarray of shape (n_features,), optional
        Names of the features, for messages.

    Returns
    -------
    Preparation

    Raises
    ------
    ValueError
        If values are too large for float32, and so different in size that no factor helps.

    Warns
    -----
    UserWarning
        If float32 cannot represent the differences in a feature, or float64 its integers.
    """
    minima, maxima = _ranges(X)
    # Halves, since sums and differences could overflow
    middle, half = minima / 2 + maxima / 2, maxima / 2 - minima / 2
    rounded = not np.can_cast(X.dtype, np.float32)
    if metric != "euclidean":
        used = (minima != 0) | (maxima != 0)
    else:
        used = half > _NOISE * np.abs(middle) if rounded else maxima > minima
    distant = (np.abs(middle) > _DISTANT * half) & (metric == "euclidean")
    mean = np.where(distant, _short(middle, minima, maxima), 0.0)
    sample = _Sample(X) if rounded else None
    if sample is not None:
        movable = (minima > 0) | (maxima < 0) if sparse.issparse(X) else np.ones(len(mean), bool)
        mean = sample.better(mean, used & movable & (metric == "euclidean"))
    # Squares must neither overflow nor vanish; a power of two rounds nothing
    with np.errstate(over="ignore"):
        low, high = minima - mean, maxima - mean
    sizes = np.maximum(np.abs(low), np.abs(high))
    largest = float(sizes[used].max(initial=0.0))
    factor = 1.0 if largest == 0 or 1e-12 < largest < 1e12 else 2.0 ** min(1023, -np.ceil(np.log2(largest)))
    with np.errstate(over="ignore", under="ignore"):
        small, large = (np.float32(side * factor) for side in (low, high))
    vanished = used & ((small == large) if metric == "euclidean" else (small == 0) & (large == 0))
    merged = np.zeros(len(mean)) if sample is None else np.where(used, sample.merged(mean, factor), 0)
    extent = np.maximum(np.abs(minima), np.abs(maxima))
    integers = X.dtype.kind in "iu" and (maxima > minima) & (extent > _LARGEST_INTEGER)
    _report_losses(metric, names, sizes, used, vanished, merged, integers)
    keep = np.flatnonzero(used & ~vanished)
    keep = np.arange(1) if len(keep) == 0 else keep
    return Preparation(
        None if len(keep) == X.shape[1] else keep,
        mean[keep] if mean[keep].any() else None,
        None if factor == 1 else factor,
        metric == "cosine",
    )


def _short(middle: np.ndarray, minima: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Round offsets to float32 where that leaves them between two values: rows of float32 then lose no bit."""
    with np.errstate(over="ignore", under="ignore"):
        short = middle.astype(np.float32).astype(np.float64)
    return np.where((short >= minima) & (short <= maxima), short, middle)


def have_unit_length(X: Matrix) -> bool:
    """Return whether all rows have length one, within a thousandth, but for rows of zeros, which have none.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)

    Examples
    --------
    >>> import numpy as np
    >>> from mbn.rows import have_unit_length
    >>> have_unit_length(np.array([[0.6, 0.8], [0.0, 0.0], [1.0, 0.0]])), have_unit_length(np.zeros((2, 2)))
    (True, False)
    """
    found = False
    for block in Rows(X).blocks():
        squares = row_squares(as_float32(X[block]))
        squares = squares[squares != 0]
        if np.any(np.abs(squares - 1) > _UNIT):
            return False
        found = found or len(squares) > 0
    return found


class _Sample:
    """Values of some rows, from which is judged what float32 loses.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    """

    def __init__(self, X: Matrix):
        n_samples, self.n_features = X.shape
        n_rows = min(n_samples, int(np.clip(_SAMPLED_VALUES // self.n_features, _FEWEST_SAMPLED, _MOST_SAMPLED)))
        part = X[np.linspace(0, n_samples - 1, n_rows).astype(np.intp)]
        if sparse.issparse(part):
            part = part.tocoo()
            columns, values = part.coords[1], part.data.astype(np.float64)
        else:
            values = part.astype(np.float64).T.reshape(-1)
            columns = np.repeat(np.arange(self.n_features), n_rows)
        order = np.lexsort((values, columns))
        # In ascending order, feature after feature
        self.values, self.columns = values[order], columns[order]
        with np.errstate(over="ignore"):
            gaps = np.diff(self.values)
        sizes = np.maximum(np.abs(self.values[1:]), np.abs(self.values[:-1]))
        self.differ = (self.columns[1:] == self.columns[:-1]) & (gaps > _NOISE * sizes)
        self.n_gaps = np.maximum(np.bincount(self.columns[1:][self.differ], minlength=self.n_features), 1)

    def merged(self, mean: np.ndarray, factor: float = 1.0) -> np.ndarray:
        """Fraction of the neighboring values of each feature that have the same float32 after a preparation."""
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            values = ((self.values - mean[self.columns]) * factor).astype(np.float32)
        merged = self.differ & (values[1:] == values[:-1]) & np.isfinite(values[1:])
        return np.bincount(self.columns[1:][merged], minlength=self.n_features) / self.n_gaps

    def better(self, mean: np.ndarray, movable: np.ndarray) -> np.ndarray:
        """Replace offsets, where float32 merges values with them, by quantiles that merge fewer.

        Such as the median of values far from zero, of which some stand for missing ones and are zero.
        """
        best = self.merged(mean)
        tried = np.flatnonzero(movable & (best > _TRIED))
        if len(tried) == 0:
            return mean
        mean = mean.copy()
        starts = np.searchsorted(self.columns, tried)
        counts = np.searchsorted(self.columns, tried, side="right") - starts
        limits = best / 2
        for quantile in (0.5, 0.25, 0.75, 0.1, 0.9):
            other = mean.copy()
            other[tried] = self.values[starts + (quantile * (counts - 1)).astype(int)]
            merged = self.merged(other)
            improved = movable & (best > _TRIED) & (merged < np.minimum(best, limits))
            mean, best = np.where(improved, other, mean), np.where(improved, merged, best)
        return mean


def _report_losses(
    metric: str,
    names: np.ndarray | None,
    sizes: np.ndarray,
    used: np.ndarray,
    vanished: np.ndarray,
    merged: np.ndarray,
    integers: Any,
) -> None:
    """Raise or warn where float32, or float64, cannot hold the values of features; arrays as in `fit_preparation`."""
    largest, level = sizes[used].max(initial=0.0), 7  # the caller of fit

    def describe(features: np.ndarray) -> str:
        numbers = np.flatnonzero(features)
        first = str(numbers[0]) if names is None else repr(str(names[numbers[0]]))
        return f"column {first}" + (f" and {len(numbers) - 1} more" if len(numbers) > 1 else "")

    lost = used & (vanished | (merged > _SAID))
    if lost.any() and largest > np.finfo(np.float32).max:
        raise ValueError(
            f"X has a value too large for float32 beside the others: {describe(used & (sizes == largest))} reaches "
            f"{largest:.3g} from its middle, and no factor keeps the differences in {describe(lost)}. Remove or clip "
            "such values, or scale the features, as with RobustScaler."
        )
    if vanished.any():
        warnings.warn(
            f"{describe(vanished)} of X is left out: its values are so small beside the others, which reach "
            f"{largest:.3g}, that float32 cannot represent them. Scale the features, as with StandardScaler.",
            stacklevel=level,
        )
    coarse = used & ~vanished & (merged > _SAID)
    if coarse.any():
        advice = (
            f"With metric={metric!r} an offset is not subtracted, since it has a meaning; center the features first if "
            "it has none here, or use metric='euclidean'."
            if metric != "euclidean"
            else "Its values lie at several places that are too far apart: scale or transform it, as with "
            "QuantileTransformer."
        )
        warnings.warn(
            f"{describe(coarse)} of X is too coarse in float32, in which this network computes: "
            f"{merged[coarse].max():.0%} of its neighboring values become equal. {advice}",
            stacklevel=level,
        )
    if np.any(integers):
        warnings.warn(
            f"{describe(integers)} of X holds integers past 2**53, which float64 rounds. Subtract an offset from them "
            "as integers first.",
            stacklevel=level,
        )


def _ranges(X: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum of each feature, of shape (n_features,), float64."""
    minima, maxima = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for block in Rows(X).blocks():
        part = X[block]
        low, high = part.min(axis=0), part.max(axis=0)
        if sparse.issparse(part):
            low, high = (np.asarray(side.todense()).reshape(-1) for side in (low, high))
        np.minimum(minima, low, out=minima)
        np.maximum(maxima, high, out=maxima)
    return minima, maxima


def as_float32(X: Matrix) -> Matrix:
    """Convert rows to float32.

    Raises
    ------
    ValueError
        If a value is too large for float32.
    """
    if X.dtype == np.float32:
        return X
    with np.errstate(over="ignore"):
        X = X.astype(np.float32)
    assert_all_finite(X, input_name="X")
    return X


def _contiguous(X: Matrix) -> Matrix:
    """Return the rows C-contiguous, or as CSR with sorted indices."""
    if not sparse.issparse(X):
        return np.ascontiguousarray(X)
    if not X.has_sorted_indices:
        X = X.sorted_indices()
    return X
