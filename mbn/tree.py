"""An approximate search for nearest rows whose memory does not grow with the rows.

Rows are split at the median of their principal direction, recursively, into leaves of equal size. A row is compared
with all rows of the leaves whose centers are nearest to it, by matrix products. Only one permutation of the rows and
the centers are kept; time grows in proportion to the rows, since each is compared with equally many.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import int64, njit, uint64
from scipy import sparse

from mbn.metrics import Matrix
from mbn.neighbors import SPARE, NeighborSearch, rank, row_squares

# Rows of a leaf at most; leaves that a row is compared with; and leaves near its own among which those are chosen.
# Time against recall: with 128 leaves .898 of the 64 nearest rows were found among 10^6 rows of 20 clusters, with 256
# leaves .9995, in an estimated half as long again (docs/design.md).
LEAF_ROWS, PROBED_LEAVES, NEARBY_LEAVES = 256, 128, 512
# Rows from which a direction is computed, and steps of the power iteration: a direction of large variance is enough.
_SAMPLED_ROWS, _STEPS = 128, 8
# Dimensions of the random projection of sparse rows in which centers are compared; centers as wide as the rows would
# take too much memory.
_SKETCH = 128
# Key of the tree's random stream
_STREAM = 1 << 21
# Values compared with the limit at once in `_gather`; a constant count lets the compiler use vector instructions.
_CHUNK = 32
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Tree:
    """Leaves of equal size of the rows.

    Parameters
    ----------
    order : ndarray of shape (n_samples,), int32
        The rows, leaf after leaf; see `bounds`.
    centers : ndarray of shape (n_features, n_leaves), float32
        Means of the leaves; of sparse rows means after the projection, of shape (128, n_leaves).
    projection : ndarray of shape (n_features, 128), float32, or None
        Random projection of sparse rows; None for dense ones.
    """

    order: np.ndarray
    centers: np.ndarray
    projection: np.ndarray | None

    @property
    def n_leaves(self) -> int:
        """Number of leaves, a power of two."""
        return self.centers.shape[1]

    @property
    def starts(self) -> np.ndarray:
        """Start of each leaf in `order`, and the end of the last one, of shape (n_leaves + 1,)."""
        return bounds(len(self.order), self.n_leaves)

    def rows_of(self, leaves: slice) -> np.ndarray:
        """Return the rows of consecutive leaves."""
        starts = self.starts
        return self.order[starts[leaves.start] : starts[leaves.stop]]


@dataclass(frozen=True)
class TreeSearch(NeighborSearch):
    """Compare each reference row with those of some leaves of a tree.

    Parameters
    ----------
    reference, metric, n_neighbors
        As in `NeighborSearch`.
    tree : Tree
        Of the reference.
    """

    tree: Tree

    def candidates(self, queries: slice) -> tuple[Matrix, np.ndarray]:
        """Find the candidates of the rows of the leaves `queries`; see `NeighborSearch.candidates`."""
        found = nearest_rows(self.reference, self.tree, queries, self.n_neighbors, self.metric)
        return self.reference[self.tree.rows_of(queries)], found


def grow(X: Matrix, seed: int) -> Tree:
    """Split rows into leaves of equal size.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    seed : int

    Returns
    -------
    Tree
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
    n_samples, n_features = X.shape
    depth = max(0, int(np.ceil(np.log2(n_samples / LEAF_ROWS))))
    order, keys = np.arange(n_samples, dtype=np.int32), np.empty(n_samples, np.uint64)
    for level in range(depth):
        for (first, last), middle in zip(pairwise(bounds(n_samples, 1 << level)), bounds(n_samples, 2 << level)[1::2]):
            rows = order[first:last]
            _project(X, rows, _direction(X, rows, rng), keys)
            _select(keys[: len(rows)], middle - first)
            rows[:] = keys[: len(rows)] & _LOW
    projection = None
    if sparse.issparse(X):
        projection = rng.choice(np.float32([-1, 1]), (n_features, _SKETCH)) / np.float32(np.sqrt(_SKETCH))
    centers = np.empty((n_features if projection is None else _SKETCH, 1 << depth), np.float32)
    for leaf, (first, last) in enumerate(pairwise(bounds(n_samples, 1 << depth))):
        centers[:, leaf] = _sketch(X[order[first:last]], projection).mean(axis=0)
    return Tree(order, centers, projection)


def bounds(n_samples: int, n_leaves: int) -> np.ndarray:
    """Start of each leaf in the order of rows, and the end of the last one; `n_leaves` is a power of two."""
    return np.arange(n_leaves + 1, dtype=np.int64) * n_samples >> (n_leaves.bit_length() - 1)


def n_compared(n_samples: int) -> int:
    """Return the number of rows with which a row is compared."""
    return min(n_samples, PROBED_LEAVES * LEAF_ROWS)


def nearest_rows(X: Matrix, tree: Tree, leaves: slice, n_neighbors: int, metric: str) -> np.ndarray:
    """Find rows near each row of some leaves.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    tree : Tree
        Of X.
    leaves : slice
    n_neighbors : int
        At most n_samples.
    metric : {"euclidean", "linear"}
        By distance, or by the largest inner product of rows of length one.

    Returns
    -------
    ndarray of shape (n_rows, n_neighbors), int32
        For the rows of the leaves in the order of the tree. Nearest first; equal distances in the order of the rows.
    """
    starts, n_leaves = tree.starts, tree.n_leaves
    block = X[tree.rows_of(leaves)]
    n_kept = min(n_neighbors + SPARE, len(tree.order))
    n_probed = min(n_leaves, max(PROBED_LEAVES, -(-n_kept // (len(tree.order) // n_leaves))))
    probed = _probe(_sketch(block, tree.projection), tree.centers, leaves, starts, n_probed)
    begins, members = _invert(probed, n_leaves)
    del probed
    keys = np.empty((block.shape[0], 2 * n_kept + _CHUNK), np.uint64)
    limits, counts = np.full(block.shape[0], np.inf, np.float32), np.zeros(block.shape[0], np.int64)
    scaled = block * np.float32(-1 if metric == "linear" else -2)
    # One buffer for all products, as in the exact search
    memory = np.empty(int(np.diff(begins).max()) * LEAF_ROWS, np.float32)
    touched = np.flatnonzero(np.diff(begins))
    own = (touched >= leaves.start) & (touched < leaves.stop)
    for leaf in np.concatenate([touched[own], touched[~own]]):  # near rows first, for low limits from the start
        queries = members[begins[leaf] : begins[leaf + 1]]
        part = X[tree.order[starts[leaf] : starts[leaf + 1]]]
        if sparse.issparse(part):
            products = (scaled[queries] @ part.T).toarray()
        else:
            shape = len(queries), len(part)
            products = np.matmul(scaled[queries], part.T, out=memory[: shape[0] * shape[1]].reshape(shape))
        offsets = np.zeros(part.shape[0], np.float32) if metric == "linear" else row_squares(part)
        _gather(products, offsets, starts[leaf], queries, n_kept, keys, limits, counts)
    candidates = np.empty((block.shape[0], n_kept), np.int32)
    _finish(keys, counts, tree.order, candidates)
    rows = np.empty((block.shape[0], n_neighbors), np.int32)
    rank(block, X, candidates, metric, rows)
    return rows


def _sketch(block: Matrix, projection: np.ndarray | None) -> np.ndarray:
    """Return rows in the space of the centers."""
    return block if projection is None else np.asarray(block @ projection)


def _direction(X: Matrix, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Approximate principal direction of some of the rows, of shape (n_features,); zero if they are all equal."""
    sample = X[rows[rng.integers(0, len(rows), min(_SAMPLED_ROWS, len(rows)))]]
    mean = np.asarray(sample.mean(axis=0), np.float32).reshape(-1)
    direction = rng.standard_normal(X.shape[1], dtype=np.float32)
    for _ in range(_STEPS):
        weights = _times(sample, direction) - _dot(mean, direction)
        direction = _combine(sample, weights) - weights.sum() * mean
        length = np.sqrt(_dot(direction, direction))
        if not length > 0:
            break
        direction = direction / length
    return np.ascontiguousarray(direction, np.float32)


# Sums without the linear algebra library, which rounds differently for every number of threads


def _dot(x: np.ndarray, y: np.ndarray) -> np.float32:
    """Inner product."""
    return np.einsum("i,i->", x, y)


def _times(X: Matrix, vector: np.ndarray) -> np.ndarray:
    """Product of the rows with a vector."""
    return X @ vector if sparse.issparse(X) else np.einsum("ij,j->i", X, vector)


def _combine(X: Matrix, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of the rows."""
    return X.T @ weights if sparse.issparse(X) else np.einsum("ij,i->j", X, weights)


def _project(X: Matrix, rows: np.ndarray, direction: np.ndarray, keys: np.ndarray) -> None:
    """Write the keys of the rows' inner products with a direction, of shape (n_rows,), uint64; see `_key`."""
    if sparse.issparse(X):
        _project_sparse(X.indptr, X.indices, X.data, rows, direction, keys)
    else:
        _project_dense(np.asarray(X), rows, direction, keys)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _project_dense(X: np.ndarray, rows: np.ndarray, direction: np.ndarray, keys: np.ndarray) -> None:
    """Project dense rows; arrays as in `_project`."""
    for i in range(len(rows)):
        x = X[rows[i]]
        total = np.float32(0)
        for f in range(len(direction)):
            total += x[f] * direction[f]
        keys[i] = _key(total, rows[i])


@njit(cache=True, nogil=True, boundscheck=False)
def _project_sparse(
    starts: np.ndarray,
    columns: np.ndarray,
    data: np.ndarray,
    rows: np.ndarray,
    direction: np.ndarray,
    keys: np.ndarray,
) -> None:
    """Project rows of a CSR matrix; arrays as in `_project`."""
    for i in range(len(rows)):
        total = np.float32(0)
        for t in range(starts[rows[i]], starts[rows[i] + 1]):
            total += data[t] * direction[columns[t]]
        keys[i] = _key(total, rows[i])


@njit(cache=True, nogil=True, inline="always")
def _key(value: np.float32, index: int) -> np.uint64:
    """Pack a float32 and an index of 32 bits into one integer, ordered by value and then by index."""
    bits = np.float32(value).view(np.uint32)
    bits ^= np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000)
    return uint64(bits) << uint64(32) | uint64(index)


@njit(cache=True, nogil=True, inline="always")
def _value(key: np.uint64) -> np.float32:
    """Return the value of a key."""
    bits = np.uint32(key >> uint64(32))
    bits ^= np.uint32(0x80000000) if bits >> np.uint32(31) else np.uint32(0xFFFFFFFF)
    return np.uint32(bits).view(np.float32)


@njit(cache=True, nogil=True, boundscheck=False)
def _select(keys: np.ndarray, n_smallest: int) -> None:
    """Move the smallest keys to the front, by quickselect; keys, of shape (n_keys,), uint64, must be distinct."""
    low, high = uint64(0), uint64(len(keys))
    middle = uint64(n_smallest)
    while low < middle < high:
        a, b, c = keys[low], keys[(low + high) >> uint64(1)], keys[high - uint64(1)]
        # the median of three, or the smaller of two, so that at least one key is larger
        pivot = max(min(a, b), min(max(a, b), c)) if high - low > uint64(2) else min(a, c)
        place = low
        for j in range(low, high):  # no branch, since it could not be predicted
            key = keys[j]
            keys[j] = keys[place]
            keys[place] = key
            place += uint64(key <= pivot)
        if place > middle:
            high = place
        else:
            low = place


def _probe(points: np.ndarray, centers: np.ndarray, leaves: slice, starts: np.ndarray, n_probed: int) -> np.ndarray:
    """Choose the leaves with which each row is compared: those with the nearest centers, and its own.

    Parameters
    ----------
    points : ndarray of shape (n_rows, n_dimensions), float32
        Rows of `leaves` in the space of the centers.
    centers : ndarray of shape (n_dimensions, n_leaves), float32
    leaves : slice
    starts : ndarray of shape (n_leaves + 1,), int64
    n_probed : int

    Returns
    -------
    ndarray of shape (n_rows, n_probed), int32
    """
    n_leaves = centers.shape[1]
    n_nearby = min(n_leaves, max(NEARBY_LEAVES, n_probed))
    squares = np.einsum("ij,ij->j", centers, centers)
    probed = np.empty((len(points), n_probed), np.int32)
    first = starts[leaves.start]
    for leaf in range(leaves.start, leaves.stop):
        nearby = _nearest_centers(centers[:, leaf][None].copy(), centers, squares, leaf, n_nearby)[0]
        nearby.sort()
        own = int(np.searchsorted(nearby, leaf))
        part = slice(starts[leaf] - first, starts[leaf + 1] - first)
        near = np.ascontiguousarray(centers[:, nearby])
        probed[part] = nearby[_nearest_centers(points[part], near, squares[nearby], own, n_probed)]
    return probed


def _nearest_centers(
    points: np.ndarray, centers: np.ndarray, squares: np.ndarray, own: int, n_nearest: int
) -> np.ndarray:
    """Return the nearest centers of each point, and the center `own`, of shape (n_points, n_nearest), int32."""
    distances = np.empty((len(points), centers.shape[1]), np.float32)
    _compare(np.ascontiguousarray(points), centers, squares, distances)
    distances[:, own] = -np.inf
    return select_smallest(distances, n_nearest)


def select_smallest(values: np.ndarray, n_smallest: int) -> np.ndarray:
    """Return the columns of the smallest values of each row, in no order; of equal values the first.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns), float32
    n_smallest : int

    Returns
    -------
    ndarray of shape (n_rows, n_smallest), int32
    """
    columns = np.empty((len(values), n_smallest), np.int32)
    _select_smallest(values, columns)
    return columns


@njit(cache=True, nogil=True, boundscheck=False)
def _compare(points: np.ndarray, centers: np.ndarray, squares: np.ndarray, out: np.ndarray) -> None:
    """Squared distances less the point's square, each summed in the order of the features in any batch.

    ======= ======================== =======
    points  (n_points, n_dimensions) float32
    centers (n_dimensions, n_leaves) float32
    squares (n_leaves,)              float32
    out     (n_points, n_leaves)     float32
    ======= ======================== =======
    """
    for i in range(len(points)):
        distances = out[i]
        distances[:] = squares
        for f in range(len(centers)):
            x = np.float32(-2) * points[i, f]
            center = centers[f]
            for c in range(len(distances)):
                distances[c] += x * center[c]


@njit(cache=True, nogil=True, boundscheck=False)
def _invert(probed: np.ndarray, n_leaves: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are compared with each leaf: the start of each leaf's rows, and all of them.

    ======= ==================== ===== =====================================
    probed  (n_rows, n_probed)   int32 leaves of each row
    begins  (n_leaves + 1,)      int64 returned: start of each leaf's rows
    members (n_rows * n_probed,) int32 returned: rows, leaf after leaf
    ======= ==================== ===== =====================================
    """
    begins = np.zeros(n_leaves + 1, np.int64)
    for i in range(len(probed)):
        for leaf in probed[i]:
            begins[leaf + 1] += 1
    for leaf in range(n_leaves):
        begins[leaf + 1] += begins[leaf]
    places = begins.copy()
    members = np.empty(probed.size, np.int32)
    for i in range(len(probed)):
        for leaf in probed[i]:
            members[places[leaf]] = i
            places[leaf] += 1
    return begins, members


@njit(cache=True, nogil=True, boundscheck=False)
def _select_smallest(values: np.ndarray, out: np.ndarray) -> None:
    """Select by keys; arrays as in `select_smallest`, `out` of shape (n_rows, n_smallest), int32."""
    keys = np.empty(values.shape[1], np.uint64)
    for i in range(len(values)):
        for c in range(len(keys)):
            keys[c] = _key(values[i, c], c)
        _select(keys, out.shape[1])
        for c in range(out.shape[1]):
            out[i, c] = keys[c] & _LOW


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"}, boundscheck=False)
def _gather(
    products: np.ndarray,
    offsets: np.ndarray,
    start: int,
    queries: np.ndarray,
    n_kept: int,
    keys: np.ndarray,
    limits: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Append values below the limit of their row; when its keys are full, keep the smallest and lower the limit.

    ======== ============================= ======= ============================================================
    products (n_queries, n_columns)        float32 of the rows order[start : start + n_columns]
    offsets  (n_columns,)                  float32 added to each row of products
    queries  (n_queries,)                  int32   rows of keys, limits and counts
    keys     (n_rows, 2 * n_kept + _CHUNK) uint64  values and places in the order of the tree; changed in place
    limits   (n_rows,)                     float32 changed in place
    counts   (n_rows,)                     int64   keys in use; changed in place
    ======== ============================= ======= ============================================================
    """
    n_columns = len(offsets)
    for i in range(len(queries)):
        query = queries[i]
        row_products, row_keys, limit, count = products[i], keys[query], limits[query], uint64(counts[query])
        for left in range(0, n_columns, _CHUNK):
            first = uint64(left)
            smallest = np.float32(np.inf)
            if left + _CHUNK <= n_columns:
                last = first + uint64(_CHUNK)
                for j in range(uint64(_CHUNK)):
                    smallest = min(smallest, row_products[first + j] + offsets[first + j])
            else:
                last = uint64(n_columns)
                for j in range(first, last):
                    smallest = min(smallest, row_products[j] + offsets[j])
            if smallest >= limit:
                continue
            if count + uint64(_CHUNK) > uint64(len(row_keys)):
                limit = _keep(row_keys[:count], n_kept)
                count = uint64(n_kept)
            for j in range(first, last):
                value = row_products[j] + offsets[j]
                row_keys[count] = _key(value, start + int64(j))
                count += uint64(value < limit)
        limits[query], counts[query] = limit, int64(count)


@njit(cache=True, nogil=True, boundscheck=False)
def _keep(keys: np.ndarray, n_kept: int) -> np.float32:
    """Move the smallest keys to the front and return the largest value of them."""
    _select(keys, n_kept)
    largest = uint64(0)
    for j in range(n_kept):
        largest = max(largest, keys[j])
    return _value(largest)


@njit(cache=True, nogil=True, boundscheck=False)
def _finish(keys: np.ndarray, counts: np.ndarray, order: np.ndarray, out: np.ndarray) -> None:
    """Write the rows of the smallest keys to `out`, of shape (n_rows, n_kept), int32; other arrays as in `_gather`."""
    for i in range(len(counts)):
        _select(keys[i, : counts[i]], out.shape[1])
        for j in range(out.shape[1]):
            out[i, j] = order[keys[i, j] & _LOW]
