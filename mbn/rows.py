"""Rows of X in the form in which the bottom layer compares them, prepared a block at a time.

X may be an array, a memory-mapped file or a CSR matrix, of any numeric dtype. It is read in blocks and never copied as
a whole.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils import assert_all_finite

from mbn.metrics import Matrix
from mbn.neighbors import row_squares
from mbn.parallel import blocks

# Values of a block that is read and prepared at once: 32 MB as float32
READ_VALUES = 1 << 23
# Features whose middle is further from zero than this many half ranges are centered: three bits of the products
_DISTANT = 8


@dataclass(frozen=True)
class Preparation:
    """Transformation of rows before distances are computed.

    Parameters
    ----------
    keep : ndarray of shape (n_kept,), int, or None
        Features in use; all if None.
    mean : ndarray of shape (n_kept,), float32, or None
        Subtracted from the rows.
    factor : float32 or None
        Multiplied with the rows after that.
    unit : bool
        Whether rows are then divided by their lengths.
    """

    keep: np.ndarray | None = None
    mean: np.ndarray | None = None
    factor: np.float32 | None = None
    unit: bool = False

    def is_identity(self) -> bool:
        """Return whether prepared rows are the rows themselves."""
        return self.keep is None and self.mean is None and self.factor is None and not self.unit

    def apply(self, X: Matrix) -> Matrix:
        """Prepare a block of float32 rows, an ndarray or CSR of shape (n_rows, n_features)."""
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

    def __init__(self, X: Matrix, preparation: Preparation = Preparation()):
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
        return _contiguous(self.preparation.apply(as_float32(self.X[which])))

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


def fit_preparation(X: Matrix, metric: str) -> Preparation:
    """Choose the preparation of rows from the ranges of their features, which are read once.

    Constant features are left out. Euclidean: features far from zero relative to their range are centered, which
    changes no distance but keeps the precision of products; others are left as they are, so that ties remain ties.
    Cosine: rows are divided by their lengths.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    metric : {"euclidean", "cosine", "linear"}

    Returns
    -------
    Preparation
    """
    minima, maxima = _ranges(X)
    keep = np.flatnonzero(maxima > minima) if metric == "euclidean" else np.flatnonzero((maxima != 0) | (minima != 0))
    keep = np.arange(1) if len(keep) == 0 else keep
    mean = None
    if metric == "euclidean" and not sparse.issparse(X):
        middle = (minima / 2 + maxima / 2)[keep]
        distant = np.abs(middle) > _DISTANT * (maxima / 2 - minima / 2)[keep]
        mean = np.where(distant, middle, 0).astype(np.float32) if distant.any() else None
    # Squares must neither overflow nor vanish; a power of two rounds nothing
    largest = max(float(np.abs(minima).max()), float(np.abs(maxima).max()))
    factor = 1.0 if largest == 0 or 1e-12 < largest < 1e12 else 2.0 ** -np.ceil(np.log2(largest))
    return Preparation(
        None if len(keep) == X.shape[1] else keep,
        mean,
        None if factor == 1 else np.float32(factor),
        metric == "cosine",
    )


def _ranges(X: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum of each feature, of shape (n_features,), float32."""
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
