"""Nearest rows: the candidates among which the clusterings search their centroids. The exact search."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from scipy import sparse

from mbn.metrics import Matrix
from mbn.parallel import read_only

# A search keeps a few rows more than requested and ranks them again by distances that do not depend on how a matrix
# product was blocked, so that the rows returned are the same for every block size and thread count.
SPARE = 8
# A block of products (2 MB as float32) stays in the cache until its smallest values are selected.
QUERY_ROWS, REFERENCE_ROWS = 256, 2048
# Multiplications and additions past which `mbn.tree` takes over (some 150 000 rows of 784 features): time against
# exactness; 70 000 rows of MNIST, a fifth of it, took 35.8 s on two cores (docs/results/scale.md).
EXACT_OPERATIONS = 2e13
# Values in which `_keep_smallest` counts those below the limit before it branches; a multiple of the vector length
_CHUNK = 64


@dataclass(frozen=True)
class NeighborSearch(ABC):
    """A search for the reference rows nearest to each of some rows.

    Subclasses are dataclasses of arrays and scalars, so that `mbn.parallel.run` can send their arrays to workers once.

    Parameters
    ----------
    reference : ndarray or CSR of shape (n_reference, n_features), float32
    metric : {"euclidean", "linear"}
        Nearest by distance, or by the largest inner product. Cosine is the latter on rows of length one.
    n_neighbors : int
        Candidates of a row, at most n_reference.
    """

    reference: Matrix
    metric: str
    n_neighbors: int

    @abstractmethod
    def candidates(self, queries: Any) -> tuple[Matrix, np.ndarray]:
        """Find the candidates of some rows.

        Parameters
        ----------
        queries : object
            The rows, of shape (n_rows, n_features), or what names them in the subclass.

        Returns
        -------
        rows : ndarray or CSR of shape (n_rows, n_features), float32
        candidates : ndarray of shape (n_rows, n_neighbors), int32
            Rows of the reference, nearest first; equal distances in the order of the reference.
        """


@dataclass(frozen=True)
class ExactSearch(NeighborSearch):
    """Compare each row with all reference rows by matrix products.

    Parameters
    ----------
    reference, metric, n_neighbors
        As in `NeighborSearch`.
    squares : ndarray of shape (n_reference,), float32
        Squared lengths of the reference rows.
    """

    squares: np.ndarray

    def candidates(self, queries: Matrix) -> tuple[Matrix, np.ndarray]:
        """Find the candidates of the rows `queries`; see `NeighborSearch.candidates`."""
        return queries, nearest_rows(queries, self.reference, self.n_neighbors, self.metric, self.squares)


def nearest_rows(
    X: Matrix,
    reference: Matrix,
    n_neighbors: int,
    metric: str = "euclidean",
    reference_squares: np.ndarray | None = None,
) -> np.ndarray:
    """Find the reference rows nearest to each row of X, by blocked matrix products.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    reference : ndarray or CSR of shape (n_reference, n_features), float32
    n_neighbors : int
        At most n_reference.
    metric : {"euclidean", "linear"}
        Nearest by distance, or by the largest inner product. Cosine is the latter on rows of length one.
    reference_squares : ndarray of shape (n_reference,), float32, optional
        Squared lengths of the reference rows, if they have been computed before.

    Returns
    -------
    ndarray of shape (n_samples, n_neighbors), int32
        Nearest first; equal distances in the order of the reference.
    """
    n_samples, n_reference = X.shape[0], reference.shape[0]
    n_kept = min(n_neighbors + SPARE, n_reference)
    if metric == "linear":
        factor, offsets = np.float32(-1), np.zeros(n_reference, np.float32)
    else:
        factor, offsets = np.float32(-2), row_squares(reference) if reference_squares is None else reference_squares
    rows = np.empty((n_samples, n_neighbors), np.int32)
    # One buffer for all products: page faults of a new one each made the search half as slow again in Dask workers
    memory = np.empty(QUERY_ROWS * REFERENCE_ROWS, np.float32)
    for first in range(0, n_samples, QUERY_ROWS):
        block = X[first : first + QUERY_ROWS]
        scaled = block * factor
        heap_values = np.full((block.shape[0], n_kept), np.inf, np.float32)
        heap_rows = np.zeros((block.shape[0], n_kept), np.int32)
        for start in range(0, n_reference, REFERENCE_ROWS):
            part = reference[start : start + REFERENCE_ROWS]
            if sparse.issparse(part):
                products = (scaled @ part.T).toarray()
            else:
                shape = len(block), len(part)
                products = np.matmul(scaled, part.T, out=memory[: shape[0] * shape[1]].reshape(shape))
            _keep_smallest(products, offsets[start : start + part.shape[0]], start, heap_values, heap_rows)
        rank(block, reference, heap_rows, metric, rows[first : first + block.shape[0]])
    return rows


def is_large(n_samples: int, reference: Matrix) -> bool:
    """Return whether an exact search would exceed the budget of operations."""
    n_values = reference.nnz / reference.shape[0] if sparse.issparse(reference) else reference.shape[1]
    return float(n_samples) * reference.shape[0] * n_values > EXACT_OPERATIONS


def row_squares(X: Matrix) -> np.ndarray:
    """Squared length of every row, of shape (n_rows,), float32."""
    if sparse.issparse(X):
        return np.asarray(X.multiply(X).sum(axis=1), np.float32).reshape(-1)
    return np.einsum("ij,ij->i", X, X)


def rank(X: Matrix, reference: Matrix, candidates: np.ndarray, metric: str, out: np.ndarray) -> None:
    """Write the nearest of each row's candidates to `out`, nearest first, by distances computed pair by pair.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_rows, n_features), float32
    reference : ndarray or CSR of shape (n_reference, n_features), float32
    candidates : ndarray of shape (n_rows, n_candidates), int32
        Rows of the reference, in any order.
    metric : {"euclidean", "linear"}
    out : ndarray of shape (n_rows, n_neighbors), int32
        At most n_candidates neighbors.
    """
    linear = metric == "linear"
    if sparse.issparse(X):
        _rank_sparse(
            X.indptr, X.indices, X.data, reference.indptr, reference.indices, reference.data, candidates, linear, out
        )
    else:
        _rank_dense(*read_only((X, reference, candidates)), linear, out)


@njit(cache=True, nogil=True, boundscheck=False)
def _keep_smallest(
    products: np.ndarray, offsets: np.ndarray, start: int, heap_values: np.ndarray, heap_rows: np.ndarray
) -> None:
    """Push ``products + offsets`` into one heap per row, whose first value is the largest.

    =========== ================== ======= ===============================================
    products    (n_rows, n_columns) float32 reference rows start .. start + n_columns - 1
    offsets     (n_columns,)        float32 added to each row of products
    heap_values (n_rows, n_kept)    float32 changed in place
    heap_rows   (n_rows, n_kept)    int32   reference row of each value; changed in place
    =========== ================== ======= ===============================================
    """
    n_rows, n_columns = products.shape
    n_kept = heap_values.shape[1]
    for i in range(n_rows):
        values, rows = heap_values[i], heap_rows[i]
        row_products = products[i]
        for left in range(0, n_columns, _CHUNK):
            right = min(left + _CHUNK, n_columns)
            largest = values[0]
            hits = 0
            for j in range(left, right):
                hits += row_products[j] + offsets[j] < largest
            if hits == 0:
                continue
            for j in range(left, right):
                value = row_products[j] + offsets[j]
                if value < values[0]:
                    _replace_first(values, rows, n_kept, value, start + j)


@njit(cache=True, nogil=True, inline="always")
def _replace_first(values: np.ndarray, rows: np.ndarray, size: int, value: np.float32, row: int) -> None:
    """Replace the largest value of a heap (arrays of `size`) and restore its order."""
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        if child + 1 < size and values[child + 1] > values[child]:
            child += 1
        if values[child] <= value:
            break
        values[hole] = values[child]
        rows[hole] = rows[child]
        hole = child
    values[hole] = value
    rows[hole] = row


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _rank_dense(X: np.ndarray, reference: np.ndarray, candidates: np.ndarray, linear: bool, out: np.ndarray) -> None:
    """Rank the candidates of dense rows; arrays as in `rank`."""
    n_candidates, n_features = candidates.shape[1], X.shape[1]
    distances = np.empty(n_candidates, np.float32)
    for i in range(len(X)):
        order = np.sort(candidates[i])
        x = X[i]
        for m in range(n_candidates):
            y = reference[order[m]]
            total = np.float32(0)
            if linear:
                for f in range(n_features):
                    total -= x[f] * y[f]
            else:
                for f in range(n_features):
                    total += (x[f] - y[f]) * (x[f] - y[f])
            distances[m] = total
        ranked = np.argsort(distances, kind="mergesort")
        for m in range(out.shape[1]):
            out[i, m] = order[ranked[m]]


@njit(cache=True, nogil=True, boundscheck=False)
def _rank_sparse(
    x_starts: np.ndarray,
    x_columns: np.ndarray,
    x_values: np.ndarray,
    y_starts: np.ndarray,
    y_columns: np.ndarray,
    y_values: np.ndarray,
    candidates: np.ndarray,
    linear: bool,
    out: np.ndarray,
) -> None:
    """Rank the candidates of sparse rows; arrays as in `rank`, each matrix as indptr, indices (sorted) and data."""
    n_candidates = candidates.shape[1]
    distances = np.empty(n_candidates, np.float32)
    for i in range(len(candidates)):
        order = np.sort(candidates[i])
        for m in range(n_candidates):
            a, b = x_starts[i], y_starts[order[m]]
            a_end, b_end = x_starts[i + 1], y_starts[order[m] + 1]
            total = np.float32(0)
            while a < a_end or b < b_end:
                in_x = a < a_end and (b >= b_end or x_columns[a] <= y_columns[b])
                in_y = b < b_end and (a >= a_end or y_columns[b] <= x_columns[a])
                x = x_values[a] if in_x else np.float32(0)
                y = y_values[b] if in_y else np.float32(0)
                total += -x * y if linear else (x - y) * (x - y)
                a += in_x
                b += in_y
            distances[m] = total
        ranked = np.argsort(distances, kind="mergesort")
        for m in range(out.shape[1]):
            out[i, m] = order[ranked[m]]
