"""From the top layer's codes to numbers: the one-hot matrix and its principal components."""

import numpy as np
from numba import njit
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh, svds
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

from mbn.parallel import blocks

_SMALL = 500
_TOGETHER = 1024
# Bytes that left singular vectors may take; they are computed though nobody asks for them.
_LEFT_BYTES, _BLOCK = 1 << 27, 1 << 16


def one_hot(codes, k):
    """The codes as a sparse matrix of zeros and ones.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_estimators)
        Values 0 .. k - 1.
    k : int

    Returns
    -------
    CSR array of shape (n_samples, n_estimators * k), float32
        One one per row and clustering.
    """
    n_samples, n_estimators = codes.shape
    columns = np.arange(n_estimators, dtype=np.int32) * k + codes.astype(np.int32)
    starts = np.arange(n_samples + 1, dtype=np.int64) * n_estimators
    data = np.ones(columns.size, np.float32)
    return sparse.csr_array((data, columns.reshape(-1), starts), shape=(n_samples, n_estimators * k))


def principal_components(codes, k, n_components, random_state):
    """Principal components of the one-hot codes, which are centred implicitly and never written out.

    Returns
    -------
    components : ndarray of shape (n_components, n_estimators * k), float32
        The largest entry of each is positive.
    mean : ndarray of shape (n_estimators * k,), float32
    ratio : ndarray of shape (n_components,)
        Share of the variance explained.
    """
    n_samples, n_estimators = codes.shape
    width = n_estimators * k
    lines = np.ascontiguousarray(codes.T)
    mean = _add_rows(lines, k, np.ones(n_samples)) / n_samples
    if all((line == line[0]).all() for line in lines):
        return np.zeros((n_components, width), np.float32), mean.astype(np.float32), np.zeros(n_components)
    if min(n_samples, width) <= max(_SMALL, 2 * n_components):
        with threadpool_limits(1):
            pca = PCA(n_components, svd_solver="full").fit(one_hot(codes, k).toarray())
        components, ratio = pca.components_, pca.explained_variance_ratio_
    else:
        centred = LinearOperator(
            (n_samples, width),
            matvec=lambda weights: _sum_entries(lines, k, weights.reshape(-1)) - mean @ weights.reshape(-1),
            rmatvec=lambda values: _add_rows(lines, k, values.reshape(-1)) - mean * values.sum(),
            dtype=np.float64,
        )
        start = check_random_state(random_state).uniform(-1, 1, min(n_samples, width))
        # A linear algebra library rounds differently with another number of threads, which differs between workers
        with threadpool_limits(1):
            if n_samples > width and n_samples * n_components * 24 > _LEFT_BYTES:
                values, components = _singular_vectors(lines, k, mean, n_components, start)
            else:
                _, values, components = svds(centred, n_components, v0=start)
        order = np.argsort(-values, kind="stable")
        components, ratio = components[order], values[order] ** 2 / (n_samples * (mean * (1 - mean)).sum())
    largest = np.argmax(np.abs(components).round(6), axis=1)
    signs = np.sign(components[np.arange(n_components), largest])
    signs[signs == 0] = 1
    return (components * signs[:, None]).astype(np.float32), mean.astype(np.float32), ratio


def _singular_vectors(lines, k, mean, n_components, start):
    """As `svds` for a matrix of many more rows than columns, but without vectors as long as there are rows."""

    def times_its_transpose(weights):
        sums, total = _add_products(lines, k, weights.reshape(-1), mean @ weights.reshape(-1))
        return sums - mean * total

    square = LinearOperator((len(mean), len(mean)), matvec=times_its_transpose, dtype=np.float64)
    _, vectors = eigsh(square, n_components, v0=start)
    vectors, _ = np.linalg.qr(vectors)
    squares = np.zeros((n_components, n_components))
    for block in blocks(lines.shape[1], _BLOCK):
        part = np.ascontiguousarray(lines[:, block])
        answers = np.stack([_sum_entries(part, k, vector) - mean @ vector for vector in vectors.T.copy()])
        squares += answers @ answers.T
    values, turn = np.linalg.eigh(squares)
    return np.sqrt(np.maximum(values, 0)), (vectors @ turn).T


def project(codes, k, components, mean):
    """Coordinates of rows, given by their codes, on the principal components.

    The sum runs over the clusterings in their order, whatever the number of rows.
    """
    out = np.empty((len(codes), len(components)), np.float32)
    _project(np.ascontiguousarray(codes.T), k, np.ascontiguousarray(components.T), _shifts(components, mean), out)
    return out


@njit(cache=True)
def _shifts(components, mean):
    """Where the mean lies on each component, summed in one order whatever the linear algebra library does."""
    shifts = np.empty(len(components), np.float32)
    for d in range(len(components)):
        total = 0.0
        for column in range(len(mean)):
            total += np.float64(components[d, column]) * np.float64(mean[column])
        shifts[d] = total
    return shifts


# Codes stand in lines, one per clustering, each of which is read from end to end for some rows at a time.


@njit(cache=True, nogil=True, boundscheck=False)
def _project(lines, k, table, shift, out):
    n_estimators, n_samples = lines.shape
    for first in range(0, n_samples, _TOGETHER):
        last = min(first + _TOGETHER, n_samples)
        for i in range(first, last):
            out[i] = -shift
        for v in range(n_estimators):
            for i in range(first, last):
                line = table[v * k + lines[v, i]]
                for d in range(out.shape[1]):
                    out[i, d] += line[d]


@njit(cache=True, nogil=True, boundscheck=False)
def _sum_entries(lines, k, weights):
    """The one-hot matrix times a vector."""
    n_estimators, n_samples = lines.shape
    out = np.zeros(n_samples)
    for first in range(0, n_samples, _TOGETHER):
        last = min(first + _TOGETHER, n_samples)
        for v in range(n_estimators):
            for i in range(first, last):
                out[i] += weights[v * k + lines[v, i]]
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _add_rows(lines, k, values):
    """The transposed one-hot matrix times a vector."""
    n_estimators, n_samples = lines.shape
    out = np.zeros(n_estimators * k)
    for v in range(n_estimators):
        for i in range(n_samples):
            out[v * k + lines[v, i]] += values[i]
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _add_products(lines, k, weights, shift):
    """The transposed one-hot matrix times what it gives for the weights, less the shift; and the sum of the latter."""
    n_estimators, n_samples = lines.shape
    out, total = np.zeros(n_estimators * k), 0.0
    values = np.empty(_TOGETHER)
    for first in range(0, n_samples, _TOGETHER):
        last = min(first + _TOGETHER, n_samples)
        values[:] = -shift
        for v in range(n_estimators):
            for i in range(last - first):
                values[i] += weights[v * k + lines[v, first + i]]
        for i in range(last - first):
            total += values[i]
        for v in range(n_estimators):
            for i in range(last - first):
                out[v * k + lines[v, first + i]] += values[i]
    return out, total
