"""The nearest rows of every row: the candidates among which the clusterings look for centroids."""

import numpy as np
from numba import njit

# A search keeps a few rows more than were asked for and ranks them again by distances that do not depend on how
# a matrix product was blocked, so that the rows returned are the same for every block size and thread count.
_SPARE = 8
_QUERY_ROWS, _REFERENCE_ROWS = 256, 2048


def nearest_rows(X, reference, n_neighbors, metric="euclidean", reference_norms=None):
    """Find the reference rows nearest to each row of X, by blocked matrix products.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
    reference : ndarray of shape (n_reference, n_features), float32
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
    n_samples, n_reference = len(X), len(reference)
    n_kept = min(n_neighbors + _SPARE, n_reference)
    if reference_norms is None:
        reference_norms = squared_norms(reference)
    if metric == "linear":
        factor, offsets = np.float32(-1), np.zeros(n_reference, np.float32)
    else:
        factor, offsets = np.float32(-2), reference_norms
    rows = np.empty((n_samples, n_neighbors), np.int32)
    for first in range(0, n_samples, _QUERY_ROWS):
        block = X[first : first + _QUERY_ROWS]
        scaled = block * factor
        heap_values = np.full((len(block), n_kept), np.inf, np.float32)
        heap_rows = np.zeros((len(block), n_kept), np.int32)
        for start in range(0, n_reference, _REFERENCE_ROWS):
            part = reference[start : start + _REFERENCE_ROWS]
            _keep_smallest(scaled @ part.T, offsets[start : start + len(part)], start, heap_values, heap_rows)
        _rank(block, reference, heap_rows, metric == "linear", rows[first : first + len(block)])
    return rows


def squared_norms(X):
    """Squared length of every row."""
    return np.einsum("ij,ij->i", X, X)


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
def _rank(X, reference, candidates, linear, out):
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
