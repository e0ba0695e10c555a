"""The rows of X as the bottom layer wants them, made a block at a time from whatever holds them.

X may be an array, a memory-mapped file or a CSR matrix, of any type of numbers. It is read in blocks and never copied
as a whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import assert_all_finite

from mbn.neighbors import row_squares
from mbn.parallel import blocks

_READ_VALUES = 1 << 23


@dataclass(frozen=True)
class Preparation:
    """How rows are brought to the form in which distances are computed.

    Parameters
    ----------
    keep : ndarray of int or None
        The features in use; all if None.
    mean : ndarray of shape (n_kept,), float32, or None
        Subtracted.
    factor : float32 or None
        Multiplied with.
    unit : bool
        Whether rows are then brought to length one.
    """

    keep: np.ndarray | None = None
    mean: np.ndarray | None = None
    factor: np.float32 | None = None
    unit: bool = False

    def changes_nothing(self) -> bool:
        """Whether prepared rows are the rows themselves."""
        return self.keep is None and self.mean is None and self.factor is None and not self.unit

    def apply(self, X: Any) -> Any:
        """Prepare a block of float32 rows."""
        if self.keep is not None:
            X = X[:, self.keep]
        if self.mean is not None:
            X = X - self.mean
        if self.factor is not None:
            X = X * self.factor
        if self.unit:
            lengths = np.sqrt(row_squares(X))
            lengths[lengths == 0] = 1
            X = (sparse.diags_array(1 / lengths) @ X).tocsr() if sparse.issparse(X) else X / lengths[:, None]
            X = X.astype(np.float32, copy=False)
        return X


class Rows:
    """Prepared float32 rows, made when they are asked for.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        Finite numbers.
    preparation : Preparation

    Examples
    --------
    >>> import numpy as np
    >>> from mbn.rows import Rows
    >>> rows = Rows(np.arange(8).reshape(4, 2))
    >>> rows[1:3]
    array([[2., 3.],
           [4., 5.]], dtype=float32)
    """

    def __init__(self, X: Any, preparation: Preparation = Preparation()):
        self.X = X
        self.preparation = preparation
        n_features = X.shape[1] if preparation.keep is None else len(preparation.keep)
        self.shape = (X.shape[0], n_features)

    def __getitem__(self, which: slice | np.ndarray) -> Any:
        """Prepare some rows: a C-contiguous array or a CSR with sorted columns.

        Raises
        ------
        ValueError
            If a number is too large for float32.
        """
        return _contiguous(self.preparation.apply(as_float32(self.X[which])))

    def whole(self) -> Any:
        """All prepared rows; X itself where that is what they are."""
        as_they_are = self.X.dtype == np.float32 and self.preparation.changes_nothing()
        if as_they_are and sparse.issparse(self.X) and self.X.has_sorted_indices:
            return self.X
        if as_they_are and not sparse.issparse(self.X) and self.X.flags.c_contiguous:
            return self.X
        if sparse.issparse(self.X):
            return sparse.vstack([self[block] for block in self.blocks()], format="csr")
        out = np.empty(self.shape, np.float32)
        for block in self.blocks():
            out[block] = self[block]
        return out

    def blocks(self) -> list[slice]:
        """Slices of rows that are read at once."""
        return blocks(self.shape[0], max(1, _READ_VALUES // max(1, self.X.shape[1])))


def in_blocks(method: Callable, X: Any, *, n_rows: int = 65536) -> Iterator[tuple[slice, Any]]:
    """Call a method that answers row by row with a block of rows after the other.

    For what is too large to be answered at once: rows of a memory-mapped file, answers that go to another one.

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
    answer
        What the method gives for ``X[block]``.

    Examples
    --------
    >>> import numpy as np
    >>> from mbn import in_blocks
    >>> X, out = np.arange(10.0).reshape(5, 2), np.empty(5)
    >>> for block, answer in in_blocks(lambda rows: rows.sum(axis=1), X, n_rows=2):
    ...     out[block] = answer
    >>> out
    array([ 1.,  5.,  9., 13., 17.])
    """
    if n_rows < 1:
        raise ValueError(f"n_rows={n_rows} must be 1 or more")
    for block in blocks(X.shape[0], n_rows):
        yield block, method(X[block])


def fit_preparation(X: Any, metric: str) -> Preparation:
    """Find out what rows need, by one pass over them.

    Features without variance are left out. Euclidean: features far from zero for their spread are centred, which
    changes no distance but saves the products' precision; others stay as they are, so that ties stay ties.
    Cosine: rows of length one.
    """
    minima, maxima = _ranges(X)
    keep = np.flatnonzero(maxima > minima) if metric == "euclidean" else np.flatnonzero((maxima != 0) | (minima != 0))
    keep = np.arange(1) if len(keep) == 0 else keep
    mean = None
    if metric == "euclidean" and not sparse.issparse(X):
        middle = (minima / 2 + maxima / 2)[keep]
        distant = np.abs(middle) > 8 * (maxima / 2 - minima / 2)[keep]
        mean = np.where(distant, middle, 0).astype(np.float32) if distant.any() else None
    # squares must neither overflow nor vanish; a power of two changes no digit
    largest = max(float(np.abs(minima).max()), float(np.abs(maxima).max()))
    factor = 1.0 if largest == 0 or 1e-12 < largest < 1e12 else 2.0 ** -np.ceil(np.log2(largest))
    return Preparation(
        None if len(keep) == X.shape[1] else keep,
        mean,
        None if factor == 1 else np.float32(factor),
        metric == "cosine",
    )


def _ranges(X):
    rows = Rows(X)
    minima, maxima = np.full(X.shape[1], np.inf, np.float32), np.full(X.shape[1], -np.inf, np.float32)
    for block in rows.blocks():
        part = rows[block]
        low, high = part.min(axis=0), part.max(axis=0)
        if sparse.issparse(part):
            low, high = (np.asarray(side.todense()).reshape(-1) for side in (low, high))
        np.minimum(minima, low, out=minima)
        np.maximum(maxima, high, out=maxima)
    return minima, maxima


def as_float32(X: Any) -> Any:
    """Convert rows to float32.

    Raises
    ------
    ValueError
        If a number is too large for float32.
    """
    if X.dtype == np.float32:
        return X
    with np.errstate(over="ignore"):
        X = X.astype(np.float32)
    assert_all_finite(X, input_name="X")
    return X


def _contiguous(X):
    if not sparse.issparse(X):
        return np.ascontiguousarray(X)
    if not X.has_sorted_indices:
        X = X.sorted_indices()
    return X
