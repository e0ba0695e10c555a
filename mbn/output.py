"""Outputs from the codes of the top layer: the one-hot matrix and its principal components."""

import numpy as np
from numba import njit
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh, svds
from sklearn.decomposition import PCA
from sklearn.utils import check_random_state
from threadpoolctl import threadpool_limits

from mbn.parallel import blocks, read_only

# Width or height of the one-hot matrix up to which it is written out for a full decomposition
_SMALL = 500
# Rows whose codes of all clusterings are read together, while their outputs stay in the cache
_TOGETHER = 1024
# Memory for left singular vectors, in bytes: ARPACK computes them although they are not used. Past it the components
# are the eigenvectors of the squared matrix, computed from blocks of BLOCK rows, and rounded differently.
LEFT_BYTES, BLOCK = 1 << 27, 1 << 16


def one_hot(codes: np.ndarray, k: int) -> sparse.csr_array:
    """Return the codes as a sparse matrix of zeros and ones.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_estimators)
        Values 0 .. k - 1.
    k : int

    Returns
    -------
    CSR array of shape (n_samples, n_estimators * k), float32
        A single one for each row and clustering.
    """
    n_samples, n_estimators = codes.shape
    columns = np.arange(n_estimators, dtype=np.int32) * k + codes.astype(np.int32)
    starts = np.arange(n_samples + 1, dtype=np.int64) * n_estimators
    data = np.ones(columns.size, np.float32)
    return sparse.csr_array((data, columns.reshape(-1), starts), shape=(n_samples, n_estimators * k))


def principal_components(
    codes: np.ndarray, k: int, n_components: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal components of the one-hot codes, which are centered implicitly and never written out.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_estimators)
        Values 0 .. k - 1.
    k : int
    n_components : int
    seed : int
        Of the start vector of the iteration.

    Returns
    -------
    components : ndarray of shape (n_components, n_estimators * k), float32
        The largest entry of each is positive.
    mean : ndarray of shape (n_estimators * k,), float32
    ratio : ndarray of shape (n_components,)
        Fraction of the variance explained.
    """
    n_samples, n_estimators = codes.shape
    width = n_estimators * k
    columns = np.ascontiguousarray(codes.T)
    mean = _add_rows(columns, k, np.ones(n_samples)) / n_samples
    if all((column == column[0]).all() for column in columns):
        return np.zeros((n_components, width), np.float32), mean.astype(np.float32), np.zeros(n_components)
    if min(n_samples, width) <= max(_SMALL, 2 * n_components):
        with threadpool_limits(1):
            pca = PCA(n_components, svd_solver="full").fit(one_hot(codes, k).toarray())
        components, ratio = pca.components_, pca.explained_variance_ratio_
    else:
        centered = LinearOperator(
            (n_samples, width),
            matvec=lambda weights: _sum_entries(columns, k, weights.reshape(-1)) - mean @ weights.reshape(-1),
            rmatvec=lambda values: _add_rows(columns, k, values.reshape(-1)) - mean * values.sum(),
            dtype=np.float64,
        )
        start = check_random_state(seed).uniform(-1, 1, min(n_samples, width))
        # The linear algebra library rounds differently for each number of threads, which differs between workers
        with threadpool_limits(1):
            if n_samples > width and n_samples * n_components * 24 > LEFT_BYTES:
                values, components = _singular_vectors(columns, k, mean, n_components, start)
            else:
                _, values, components = svds(centered, n_components, v0=start)
        order = np.argsort(-values, kind="stable")
        components, ratio = components[order], values[order] ** 2 / (n_samples * (mean * (1 - mean)).sum())
    largest = np.argmax(np.abs(components).round(6), axis=1)
    signs = np.sign(components[np.arange(n_components), largest])
    signs[signs == 0] = 1
    return (components * signs[:, None]).astype(np.float32), mean.astype(np.float32), ratio


def _singular_vectors(
    columns: np.ndarray, k: int, mean: np.ndarray, n_components: int, start: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `svds` for a matrix of many more rows than columns, without vectors of the length of its columns.

    Returns
    -------
    values : ndarray of shape (n_components,)
    components : ndarray of shape (n_components, n_estimators * k)
    """

    def times_its_transpose(weights: np.ndarray) -> np.ndarray:
        products, total = _add_products(columns, k, weights.reshape(-1), mean @ weights.reshape(-1))
        return products - mean * total

    square = LinearOperator((len(mean), len(mean)), matvec=times_its_transpose, dtype=np.float64)
    _, vectors = eigsh(square, n_components, v0=start)
    vectors, _ = np.linalg.qr(vectors)
    squares = np.zeros((n_components, n_components))
    for block in blocks(columns.shape[1], BLOCK):
        part = np.ascontiguousarray(columns[:, block])
        coordinates = np.stack([_sum_entries(part, k, vector) - mean @ vector for vector in vectors.T.copy()])
        squares += coordinates @ coordinates.T
    values, rotation = np.linalg.eigh(squares)
    return np.sqrt(np.maximum(values, 0)), (vectors @ rotation).T


def project(codes: np.ndarray, k: int, components: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Coordinates of rows, given by their codes, on the principal components.

    The sum runs over the clusterings in their order, for any number of rows.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_estimators)
        Values 0 .. k - 1.
    k : int
    components : ndarray of shape (n_components, n_estimators * k), float32
    mean : ndarray of shape (n_estimators * k,), float32

    Returns
    -------
    ndarray of shape (n_samples, n_components), float32
    """
    out = np.empty((len(codes), len(components)), np.float32)
    table = np.ascontiguousarray(components.T)
    _project(np.ascontiguousarray(codes.T), k, table, _shifts(table, read_only(mean)), out)
    return out


@njit(cache=True)
def _shifts(table: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Coordinates of the mean, of shape (n_components,), summed in one order in float64; `table` as in `_project`."""
    shifts = np.empty(table.shape[1], np.float32)
    for d in range(table.shape[1]):
        total = 0.0
        for column in range(len(mean)):
            total += np.float64(table[column, d]) * np.float64(mean[column])
        shifts[d] = total
    return shifts


# The kernels below take codes in C order with a line for each clustering, which is read from start to end


@njit(cache=True, nogil=True, boundscheck=False)
def _project(codes: np.ndarray, k: int, table: np.ndarray, shift: np.ndarray, out: np.ndarray) -> None:
    """Sum the components' entries of each row's codes.

    ===== ================================ ========
    codes (n_estimators, n_samples)        unsigned
    table (n_estimators * k, n_components) float32
    shift (n_components,)                  float32
    out   (n_samples, n_components)        float32
    ===== ================================ ========
    """
    n_estimators, n_samples = codes.shape
    for first in range(0, n_samples, _TOGETHER):
        last = min(first + _TOGETHER, n_samples)
        for i in range(first, last):
            out[i] = -shift
        for v in range(n_estimators):
            for i in range(first, last):
                entries = table[v * k + codes[v, i]]
                for d in range(out.shape[1]):
                    out[i, d] += entries[d]


@njit(cache=True, nogil=True, boundscheck=False)
def _sum_entries(codes: np.ndarray, k: int, weights: np.ndarray) -> np.ndarray:
    """Product of the one-hot matrix with a vector.

    ======= ========================= =================
    codes   (n_estimators, n_samples) unsigned
    weights (n_estimators * k,)       float64
    out     (n_samples,)              float64, returned
    ======= ========================= =================
    """
    n_estimators, n_samples = codes.shape
    out = np.zeros(n_samples)
    for first in range(0, n_samples, _TOGETHER):
        last = min(first + _TOGETHER, n_samples)
        for v in range(n_estimators):
            for i in range(first, last):
                out[i] += weights[v * k + codes[v, i]]
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _add_rows(codes: np.ndarray, k: int, values: np.ndarray) -> np.ndarray:
    """Product of the transposed one-hot matrix with a vector.

    ====== ========================= =================
    codes  (n_estimators, n_samples) unsigned
    values (n_samples,)              float64
    out    (n_estimators * k,)       float64, returned
    ====== ========================= =================
    """
    n_estimators, n_samples = codes.shape
    out = np.zeros(n_estimators * k)
    for v in range(n_estimators):
        for i in range(n_samples):
            out[v * k + codes[v, i]] += values[i]
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _add_products(codes: np.ndarray, k: int, weights: np.ndarray, shift: float) -> tuple[np.ndarray, float]:
    """Product of the transposed one-hot matrix with ``(one-hot matrix @ weights) - shift``, and the sum of the latter.

    ======= ========================= =================
    codes   (n_estimators, n_samples) unsigned
    weights (n_estimators * k,)       float64
    out     (n_estimators * k,)       float64, returned
    ======= ========================= =================
    """
    n_estimators, n_samples = codes.shape
    out, total = np.zeros(n_estimators * k), 0.0
    values = np.empty(_TOGETHER)
    for first in range(0, n_samples, _TOGETHER):
        last = min(first + _TOGETHER, n_samples)
        values[:] = -shift
        for v in range(n_estimators):
            for i in range(last - first):
                values[i] += weights[v * k + codes[v, first + i]]
        for i in range(last - first):
            total += values[i]
        for v in range(n_estimators):
            for i in range(last - first):
                out[v * k + codes[v, first + i]] += values[i]
    return out, total
