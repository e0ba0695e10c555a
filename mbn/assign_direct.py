"""Direct assignment in the bottom layer: every row is compared with every centroid.

Matrix products give the costs in float32. Where two centroids come closer to each other than the error of such a
product, the costs are computed again in float64 and feature by feature. A code is therefore a function of its row
alone: of no block, batch or thread.
"""

import numpy as np
from numba import njit
from scipy import sparse

from mbn.metrics import COSINE, EUCLIDEAN, METRIC_NUMBERS, Matrix, relative_error
from mbn.neighbors import row_squares
from mbn.parallel import read_only

# Rows of a block of products, which bounds the memory for them
DIRECT_ROWS = 2048
# Costs of which `_smallest` first computes the minimum alone, with vector instructions
_CHUNK = 64


def nearest_centroids(X: Matrix, reference: Matrix, rows: np.ndarray, used: np.ndarray, metric: str) -> np.ndarray:
    """Codes of rows by comparing each with all centroids of each clustering.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    reference : ndarray or CSR of shape (n_reference, n_features), float32
        The rows from which clusterings drew.
    rows : ndarray of shape (n_estimators, k)
        The rows of `reference` that each clustering drew.
    used : ndarray of shape (n_estimators, n_used)
        The features of each clustering, ascending.
    metric : {"euclidean", "cosine", "linear"}

    Returns
    -------
    ndarray of shape (n_estimators, n_samples)
        The position in `rows` of the nearest centroid, in the smallest type of unsigned integers; of centroids at
        equal distance the first.
    """
    codes = np.empty((len(rows), X.shape[0]), np.min_scalar_type(rows.shape[1]))
    if not sparse.issparse(X):
        X, reference = read_only((X, reference))
    for v in range(len(rows)):
        _assign_clustering(X, reference, rows[v].astype(np.intp), used[v].astype(np.intp), metric, codes[v])
    return codes


def _assign_clustering(
    X: Matrix, reference: Matrix, rows: np.ndarray, used: np.ndarray, metric: str, codes: np.ndarray
) -> None:
    """Write the codes of one clustering to `codes`, of shape (n_samples,); other arrays as in `nearest_centroids`."""
    centroids = _take_features(reference[rows], used)
    squares = row_squares(centroids)
    offsets = squares / 2 if metric == "euclidean" else np.zeros_like(squares)
    if metric == "cosine":
        lengths = np.sqrt(squares)
        factors = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        if sparse.issparse(centroids):
            centroids = (sparse.diags_array(factors) @ centroids).tocsr()
        else:
            centroids = centroids * factors[:, None]
        squares = np.ones_like(squares)
    transposed = centroids.T
    longest = np.sqrt(squares.max())
    relative = relative_error(len(used))
    for start in range(0, len(codes), DIRECT_ROWS):
        block = _take_features(X[start : start + DIRECT_ROWS], used)
        products = block @ transposed
        products = products.toarray() if sparse.issparse(products) else products
        slack = relative * longest * (np.sqrt(row_squares(block)) + longest)
        ambiguous = np.empty(len(slack), bool)
        _smallest(products, offsets, slack, codes[start : start + DIRECT_ROWS], ambiguous)
        again = np.flatnonzero(ambiguous)
        if len(again):
            decide = _decide_sparse if sparse.issparse(X) else _decide_dense
            arguments = products[again], offsets, slack[again], METRIC_NUMBERS[metric], codes
            decide(X, start + again, reference, rows, used, *arguments)


def _take_features(X: Matrix, used: np.ndarray) -> Matrix:
    """Return the columns `used`."""
    return X[:, used] if sparse.issparse(X) else np.take(X, used, axis=1)


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"}, boundscheck=False)
def _smallest(
    products: np.ndarray, offsets: np.ndarray, slack: np.ndarray, codes: np.ndarray, ambiguous: np.ndarray
) -> None:
    """First of the smallest ``offsets - products`` of every row, and whether another is within the slack.

    ========= =========== ======== ==========================================================
    products  (n_rows, k) float32  inner products with the centroids
    offsets   (k,)        float32
    slack     (n_rows,)   float32  bound of the error of a difference of two costs
    codes     (n_rows,)   unsigned written
    ambiguous (n_rows,)   bool     written: two centroids or more within the slack of the best
    ========= =========== ======== ==========================================================
    """
    n_rows, k = products.shape
    n_chunks = (k + _CHUNK - 1) // _CHUNK
    minima = np.empty(n_chunks, np.float32)
    for i in range(n_rows):
        row_products = products[i]
        best = np.float32(np.inf)
        for c in range(n_chunks):
            smallest = np.float32(np.inf)
            for j in range(c * _CHUNK, min((c + 1) * _CHUNK, k)):
                smallest = min(smallest, offsets[j] - row_products[j])
            minima[c] = smallest
            best = min(best, smallest)
        limit = best + slack[i]
        hits, found = 0, -1
        for c in range(n_chunks):
            if minima[c] > limit:
                continue
            for j in range(c * _CHUNK, min((c + 1) * _CHUNK, k)):
                value = offsets[j] - row_products[j]
                if value <= limit:
                    hits += 1
                    if found < 0 and value == best:
                        found = j
        codes[i] = found
        ambiguous[i] = hits > 1


@njit(cache=True, nogil=True, boundscheck=False)
def _decide_dense(
    X: np.ndarray,
    where: np.ndarray,
    reference: np.ndarray,
    rows: np.ndarray,
    used: np.ndarray,
    products: np.ndarray,
    offsets: np.ndarray,
    slack: np.ndarray,
    metric: int,
    codes: np.ndarray,
) -> None:
    """Decide by exact costs between the centroids within the slack.

    ========= ========================= ======= =====================================
    X         (n_samples, n_features)   float32
    where     (n_ambiguous,)            int64   the ambiguous rows of X
    reference (n_reference, n_features) float32
    rows      (k,)                      int64   the centroids' rows of the reference
    used      (n_used,)                 int64   features
    products  (n_ambiguous, k)          float32
    offsets   (k,)                      float32
    slack     (n_ambiguous,)            float32
    codes     (n_samples,)              unsigned changed in place
    ========= ========================= ======= =====================================
    """
    for i in range(len(where)):
        smallest = np.float32(np.inf)
        for j in range(len(rows)):
            smallest = min(smallest, offsets[j] - products[i, j])
        winner = np.inf
        for j in range(len(rows)):
            if offsets[j] - products[i, j] <= smallest + slack[i]:
                cost = _exact_cost(X[where[i]], reference[rows[j]], used, metric)
                if cost < winner:
                    winner = cost
                    codes[where[i]] = j


def _decide_sparse(
    X: Matrix,
    where: np.ndarray,
    reference: Matrix,
    rows: np.ndarray,
    used: np.ndarray,
    products: np.ndarray,
    offsets: np.ndarray,
    slack: np.ndarray,
    metric: int,
    codes: np.ndarray,
) -> None:
    """As `_decide_dense`, for CSR matrices."""
    for i, row in enumerate(where):
        costs = offsets - products[i]
        close = np.flatnonzero(costs <= costs.min() + slack[i])
        x, centroids = X[[row]].toarray()[0], reference[rows[close]].toarray()
        codes[row] = close[int(np.argmin([_exact_cost(x, centroid, used, metric) for centroid in centroids]))]


@njit(cache=True, nogil=True)
def _exact_cost(x: np.ndarray, y: np.ndarray, used: np.ndarray, metric: int) -> np.float64:
    """Cost of the centroid y for the row x in the features `used`, summed in their order in float64."""
    total, square = 0.0, 0.0
    for f in used:
        if metric == EUCLIDEAN:
            difference = np.float64(x[f]) - np.float64(y[f])
            total += difference * difference
        else:
            total -= np.float64(x[f]) * np.float64(y[f])
            square += np.float64(y[f]) * np.float64(y[f])
    if metric == COSINE and square > 0:
        total /= np.sqrt(square)
    return total
