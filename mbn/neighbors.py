"""The nearest rows of every row: the candidates among which the clusterings look for centroids."""

import numpy as np
from numba import njit
from scipy import sparse

# A search keeps a few rows more than were asked for and ranks them again by distances that do not depend on how
# a matrix product was blocked, so that the rows returned are the same for every block size and thread count.
SPARE = 8
_QUERY_ROWS, _REFERENCE_ROWS = 256, 2048
# Multiplications and additions past which `mbn.tree` takes over (some 150 000 rows of 784 features).
_EXACT_OPERATIONS = 2e13


def nearest_rows(X, reference, n_neighbors, metric="euclidean", reference_norms=None):
    """Find the reference rows nearest to each row of X, by blocked matrix products.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    reference : ndarray or CSR of shape (n_reference, n_features), float32
    n_neighbors : int
        At most n_reference.
    metric : {"euclidean", "linear"}
        Nearest by distance, or by the largest inner product. Cosine is the latter on rows of length one.
    reference_norms : ndarray of shape (n_reference,), float32, optional
        The squared lengths of the reference rows, where they are known already.

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
        factor, offsets = np.float32(-2), row_squares(reference) if reference_norms is None else reference_norms
    rows = np.empty((n_samples, n_neighbors), np.int32)
    memory = np.empty(_QUERY_ROWS * _REFERENCE_ROWS, np.float32)  # asking for it again and again takes time
    for first in range(0, n_samples, _QUERY_ROWS):
        block = X[first : first + _QUERY_ROWS]
        scaled = block * factor
        heap_values = np.full((block.shape[0], n_kept), np.inf, np.float32)
        heap_rows = np.zeros((block.shape[0], n_kept), np.int32)
        for start in range(0, n_reference, _REFERENCE_ROWS):
            part = reference[start : start + _REFERENCE_ROWS]
            if sparse.issparse(part):
                products = (scaled @ part.T).toarray()
            else:
                shape = len(block), len(part)
                products = np.matmul(scaled, part.T, out=memory[: shape[0] * shape[1]].reshape(shape))
            _keep_smallest(products, offsets[start : start + part.shape[0]], start, heap_values, heap_rows)
        rank(block, reference, heap_rows, metric, rows[first : first + block.shape[0]])
    return rows


def is_large(n_samples, reference):
    """Whether an exact search would exceed the budget of operations."""
    n_values = reference.nnz / reference.shape[0] if sparse.issparse(reference) else reference.shape[1]
    return float(n_samples) * reference.shape[0] * n_values > _EXACT_OPERATIONS


def row_squares(X):
    """Squared length of every row, float32."""
    if sparse.issparse(X):
        return np.asarray(X.multiply(X).sum(axis=1), np.float32).reshape(-1)
    return np.einsum("ij,ij->i", X, X)


def rank(X, reference, candidates, metric, out):
    """Write the nearest of each row's candidates to `out`, nearest first, by distances computed pair by pair."""
    linear = metric == "linear"
    if sparse.issparse(X):
        _rank_sparse(
            X.indptr, X.indices, X.data, reference.indptr, reference.indices, reference.data, candidates, linear, out
        )
    else:
        _rank_dense(X, reference, candidates, linear, out)


@njit(cache=True, nogil=True, boundscheck=False)
def _keep_smallest(products, offsets, start, heap_values, heap_rows):
    """Push ``products + offsets`` into one heap per row; the largest value kept stands on top."""
    n_rows, n_columns = products.shape
    n_kept = heap_values.shape[1]
    chunk = 64
    for i in range(n_rows):
        values, rows = heap_values[i], heap_rows[i]
        line = products[i]
        for left in range(0, n_columns, chunk):
            right = min(left + chunk, n_columns)
            largest = values[0]
            hits = 0
            for j in range(left, right):
                hits += line[j] + offsets[j] < largest
            if hits == 0:
                continue
            for j in range(left, right):
                value = line[j] + offsets[j]
                if value < values[0]:
                    _replace_top(values, rows, n_kept, value, start + j)


@njit(cache=True, nogil=True, inline="always")
def _replace_top(values, rows, size, value, row):
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
def _rank_dense(X, reference, candidates, linear, out):
    n_kept, n_features = candidates.shape[1], X.shape[1]
    distances = np.empty(n_kept, np.float32)
    for i in range(len(X)):
        order = np.sort(candidates[i])
        x = X[i]
        for m in range(n_kept):
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
def _rank_sparse(x_starts, x_columns, x_values, y_starts, y_columns, y_values, candidates, linear, out):
    n_kept = candidates.shape[1]
    distances = np.empty(n_kept, np.float32)
    for i in range(len(candidates)):
        order = np.sort(candidates[i])
        for m in range(n_kept):
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
