"""An approximate search for the nearest rows of every row, whose memory does not grow with the rows.

Rows are split at the median of their principal direction, again and again, into leaves of equal size. A row is compared
with all rows of so many leaves whose centres are nearest to it, by matrix products. What is kept is one permutation of
the rows and the centres; time grows in proportion to the rows, since each is compared with equally many.
"""

from itertools import pairwise

import numpy as np
from numba import int64, njit, uint64
from scipy import sparse

from mbn.neighbors import SPARE, rank, row_squares

# Rows of a leaf, at most; leaves that a row looks at, and those near its own leaf among which they are chosen.
_LEAF_ROWS, _PROBED, _NEARBY = 256, 128, 512
# Rows by which a direction is found, and steps of the power iteration.
_SAMPLED_ROWS, _STEPS = 128, 8
# Sparse rows are compared with centres after a random projection to so many numbers.
_SKETCH = 128
_STREAM = 1 << 21
_CHUNK = 32
_LOW = np.uint64(0xFFFFFFFF)


def grow(X, entropy):
    """Split rows into leaves of equal size.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    entropy : int

    Returns
    -------
    order : ndarray of shape (n_samples,), int32
        The rows, leaf after leaf; see `bounds`.
    centres : ndarray of shape (n_features, n_leaves), float32
        Means of the leaves, of sparse rows after the projection.
    signs : ndarray of shape (n_features, _SKETCH), float32, or None
        The projection of sparse rows.
    """
    rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(_STREAM,)))
    n_samples, n_features = X.shape
    depth = max(0, int(np.ceil(np.log2(n_samples / _LEAF_ROWS))))
    order, keys = np.arange(n_samples, dtype=np.int32), np.empty(n_samples, np.uint64)
    for level in range(depth):
        for (first, last), middle in zip(pairwise(bounds(n_samples, 1 << level)), bounds(n_samples, 2 << level)[1::2]):
            rows = order[first:last]
            _project(X, rows, _direction(X, rows, rng), keys)
            _select(keys[: len(rows)], middle - first)
            rows[:] = keys[: len(rows)] & _LOW
    signs = None
    if sparse.issparse(X):
        signs = rng.choice(np.float32([-1, 1]), (n_features, _SKETCH)) / np.float32(np.sqrt(_SKETCH))
    centres = np.empty((n_features if signs is None else _SKETCH, 1 << depth), np.float32)
    for leaf, (first, last) in enumerate(pairwise(bounds(n_samples, 1 << depth))):
        centres[:, leaf] = _sketch(X[order[first:last]], signs).mean(axis=0)
    return order, centres, signs


def bounds(n_samples, n_leaves):
    """Where each leaf begins in the order of rows, and where the last one ends; `n_leaves` is a power of two."""
    return np.arange(n_leaves + 1, dtype=np.int64) * n_samples >> (n_leaves.bit_length() - 1)


def rows_of(tree, leaves):
    """The rows of some leaves."""
    order, centres, _ = tree
    starts = bounds(len(order), centres.shape[1])
    return order[starts[leaves.start] : starts[leaves.stop]]


def n_compared(n_samples):
    """With how many rows a row is compared."""
    return min(n_samples, _PROBED * _LEAF_ROWS)


def nearest_rows(X, tree, leaves, n_neighbors, metric):
    """Find rows near each row of some leaves.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    tree : tuple
        From `grow`.
    leaves : slice
    n_neighbors : int
    metric : {"euclidean", "linear"}
        By distance, or by the largest inner product of rows of length one.

    Returns
    -------
    ndarray of shape (n_rows, n_neighbors), int32
        For the rows of the leaves in the order of the tree. Nearest first; equal distances in the order of the rows.
    """
    order, centres, signs = tree
    n_leaves = centres.shape[1]
    starts = bounds(len(order), n_leaves)
    block = X[rows_of(tree, leaves)]
    n_kept = min(n_neighbors + SPARE, len(order))
    n_probed = min(n_leaves, max(_PROBED, -(-n_kept // (len(order) // n_leaves))))
    probed = _probe(_sketch(block, signs), centres, leaves, starts, n_probed)
    begins, members = _invert(probed, n_leaves)
    del probed
    keys = np.empty((block.shape[0], 2 * n_kept + _CHUNK), np.uint64)
    limits, counts = np.full(block.shape[0], np.inf, np.float32), np.zeros(block.shape[0], np.int64)
    scaled = block * np.float32(-1 if metric == "linear" else -2)
    memory = np.empty(int(np.diff(begins).max()) * _LEAF_ROWS, np.float32)  # asking again and again takes time
    touched = np.flatnonzero(np.diff(begins))
    own = (touched >= leaves.start) & (touched < leaves.stop)
    for leaf in np.concatenate([touched[own], touched[~own]]):  # near rows first keep the others away
        who = members[begins[leaf] : begins[leaf + 1]]
        part = X[order[starts[leaf] : starts[leaf + 1]]]
        if sparse.issparse(part):
            products = (scaled[who] @ part.T).toarray()
        else:
            shape = len(who), len(part)
            products = np.matmul(scaled[who], part.T, out=memory[: shape[0] * shape[1]].reshape(shape))
        offsets = np.zeros(part.shape[0], np.float32) if metric == "linear" else row_squares(part)
        _gather(products, offsets, starts[leaf], who, n_kept, keys, limits, counts)
    candidates = np.empty((block.shape[0], n_kept), np.int32)
    _finish(keys, counts, order, candidates)
    rows = np.empty((block.shape[0], n_neighbors), np.int32)
    rank(block, X, candidates, metric, rows)
    return rows


def _sketch(block, signs):
    return block if signs is None else np.asarray(block @ signs)


def _direction(X, rows, rng):
    """The principal direction of some of the rows, about; zero where they are all alike."""
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


def _dot(x, y):
    return np.einsum("i,i->", x, y)


def _times(X, vector):
    return X @ vector if sparse.issparse(X) else np.einsum("ij,j->i", X, vector)


def _combine(X, weights):
    return X.T @ weights if sparse.issparse(X) else np.einsum("ij,i->j", X, weights)


def _project(X, rows, direction, keys):
    if sparse.issparse(X):
        _project_sparse(X.indptr, X.indices, X.data, rows, direction, keys)
    else:
        _project_dense(np.asarray(X), rows, direction, keys)


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _project_dense(X, rows, direction, keys):
    for i in range(len(rows)):
        x = X[rows[i]]
        total = np.float32(0)
        for f in range(len(direction)):
            total += x[f] * direction[f]
        keys[i] = _key(total, rows[i])


@njit(cache=True, nogil=True, boundscheck=False)
def _project_sparse(starts, columns, data, rows, direction, keys):
    for i in range(len(rows)):
        total = np.float32(0)
        for t in range(starts[rows[i]], starts[rows[i] + 1]):
            total += data[t] * direction[columns[t]]
        keys[i] = _key(total, rows[i])


# A value and a number as one integer, in the order of values and then of numbers


@njit(cache=True, nogil=True, inline="always")
def _key(value, number):
    bits = np.float32(value).view(np.uint32)
    bits ^= np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000)
    return uint64(bits) << uint64(32) | uint64(number)


@njit(cache=True, nogil=True, inline="always")
def _value(key):
    bits = np.uint32(key >> uint64(32))
    bits ^= np.uint32(0x80000000) if bits >> np.uint32(31) else np.uint32(0xFFFFFFFF)
    return np.uint32(bits).view(np.float32)


@njit(cache=True, nogil=True, boundscheck=False)
def _select(keys, n_smallest):
    """Move the smallest keys, none of which is there twice, to the front."""
    low, high = uint64(0), uint64(len(keys))
    middle = uint64(n_smallest)
    while low < middle < high:
        a, b, c = keys[low], keys[(low + high) >> uint64(1)], keys[high - uint64(1)]
        # the median of three, and of two the smaller one, so that something is larger
        pivot = max(min(a, b), min(max(a, b), c)) if high - low > uint64(2) else min(a, c)
        place = low
        for j in range(low, high):  # without a branch, which could not be predicted
            key = keys[j]
            keys[j] = keys[place]
            keys[place] = key
            place += uint64(key <= pivot)
        if place > middle:
            high = place
        else:
            low = place


def _probe(points, centres, leaves, starts, n_probed):
    """The leaves that each row looks at: those with the nearest centres, and its own."""
    n_leaves = centres.shape[1]
    n_nearby = min(n_leaves, max(_NEARBY, n_probed))
    squares = np.einsum("ij,ij->j", centres, centres)
    probed = np.empty((len(points), n_probed), np.int32)
    first = starts[leaves.start]
    for leaf in range(leaves.start, leaves.stop):
        nearby = _nearest_centres(centres[:, leaf][None].copy(), centres, squares, leaf, n_nearby)[0]
        nearby.sort()
        own = int(np.searchsorted(nearby, leaf))
        part = slice(starts[leaf] - first, starts[leaf + 1] - first)
        near = np.ascontiguousarray(centres[:, nearby])
        probed[part] = nearby[_nearest_centres(points[part], near, squares[nearby], own, n_probed)]
    return probed


def _nearest_centres(points, centres, squares, own, n_kept):
    distances = np.empty((len(points), centres.shape[1]), np.float32)
    _compare(np.ascontiguousarray(points), centres, squares, distances)
    distances[:, own] = -np.inf
    kept = np.empty((len(points), n_kept), np.int32)
    _smallest(distances, kept)
    return kept


@njit(cache=True, nogil=True, boundscheck=False)
def _compare(points, centres, squares, out):
    """Squared distances but for the point's own square; each a sum in the order of the features, whatever is beside."""
    for i in range(len(points)):
        line = out[i]
        line[:] = squares
        for f in range(len(centres)):
            x = np.float32(-2) * points[i, f]
            centre = centres[f]
            for c in range(len(line)):
                line[c] += x * centre[c]


@njit(cache=True, nogil=True, boundscheck=False)
def _invert(probed, n_leaves):
    """For every leaf the rows that look at it: where they begin, and all of them."""
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
def _smallest(distances, out):
    keys = np.empty(distances.shape[1], np.uint64)
    for i in range(len(distances)):
        for c in range(len(keys)):
            keys[c] = _key(distances[i, c], c)
        _select(keys, out.shape[1])
        for c in range(out.shape[1]):
            out[i, c] = keys[c] & _LOW


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"}, boundscheck=False)
def _gather(products, offsets, start, who, n_kept, keys, limits, counts):
    """Append what is below the limit of its row; when its places are full, keep the smallest and lower the limit."""
    n_columns = len(offsets)
    for i in range(len(who)):
        line, own, limit, count = products[i], keys[who[i]], limits[who[i]], uint64(counts[who[i]])
        for left in range(0, n_columns, _CHUNK):
            first = uint64(left)
            smallest = np.float32(np.inf)
            if left + _CHUNK <= n_columns:
                last = first + uint64(_CHUNK)
                for j in range(uint64(_CHUNK)):  # a constant length is what makes this fast
                    smallest = min(smallest, line[first + j] + offsets[first + j])
            else:
                last = uint64(n_columns)
                for j in range(first, last):
                    smallest = min(smallest, line[j] + offsets[j])
            if smallest >= limit:
                continue
            if count + uint64(_CHUNK) > uint64(len(own)):
                limit = _keep(own[:count], n_kept)
                count = uint64(n_kept)
            for j in range(first, last):
                value = line[j] + offsets[j]
                own[count] = _key(value, start + int64(j))
                count += uint64(value < limit)
        limits[who[i]], counts[who[i]] = limit, int64(count)


@njit(cache=True, nogil=True, boundscheck=False)
def _keep(keys, n_kept):
    _select(keys, n_kept)
    largest = uint64(0)
    for j in range(n_kept):
        largest = max(largest, keys[j])
    return _value(largest)


@njit(cache=True, nogil=True, boundscheck=False)
def _finish(keys, counts, order, out):
    for i in range(len(counts)):
        _select(keys[i, : counts[i]], out.shape[1])
        for j in range(out.shape[1]):
            out[i, j] = order[keys[i, j] & _LOW]
