"""The upper layers: the drawn row that shares the most codes, each clustering looking at some of the clusterings below.

Three exact kernels with one answer (the most shared codes; among equals the centroid drawn first), for three shapes
of the same work:

- `match_indexed`: many rows, moderately many centroids. Each clustering indexes its centroids by the codes they
  carry and every row counts the centroids it meets; rows go in blocks whose counters stay in the cache.
- `match_ranked`: a large share of all rows are centroids. One index for all clusterings ranks the rows near a row by
  codes shared over *all* inputs. No clustering can share more than that, so each scans the ranks only until its
  best is out of reach.
- `match_compared`: few rows. No index is worth building; rows are compared with all that were drawn.
"""

import numpy as np
from numba import njit, uint64

_COUNTER_BYTES = 1 << 18
_RANKS = 512


def match_indexed(codes, centroid_codes, rows, used, n_codes):
    """Codes of one clustering for many rows, by an inverted index of its centroids.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs, n_samples)
        Codes of the layer below, a line per clustering.
    centroid_codes : ndarray of shape (n_inputs, n_drawn)
        Codes of the rows drawn by any clustering of the layer.
    rows : ndarray of shape (k,)
        Columns of `centroid_codes` that this clustering drew.
    used : ndarray of shape (n_used,)
        Inputs that this clustering looks at.
    n_codes : int
        Number of different codes of an input.

    Returns
    -------
    ndarray of shape (n_samples,)
        Position in `rows` of the centroid that shares the most codes.
    """
    k = len(rows)
    ids = np.min_scalar_type(k + _TRASH)
    starts = np.zeros((len(used), n_codes + 1), np.min_scalar_type(k))
    items = np.empty((len(used), k), ids)
    slots = np.empty((len(used), n_codes, 2), ids)
    width = -(-k // _CHUNK) * _CHUNK + _TRASH
    _index(centroid_codes, rows, used, starts, items)
    _fill_slots(starts, items, width - _TRASH, slots)
    out = np.empty(codes.shape[1], np.min_scalar_type(k - 1))
    counters = np.uint8 if len(used) < 256 else np.uint16
    n_rows = min(max(_COUNTER_BYTES // (width * np.dtype(counters).itemsize), 8), 2048)
    _match(codes, used, starts, items, slots, np.zeros(n_rows * width, counters), width, out)
    return out


# Every code has two slots for centroids; an empty slot counts into one of a few spare counters, so that the common
# case has no branch. Lists longer than two are marked and walked.
_TRASH = 64
_CHUNK = 64


@njit(cache=True, nogil=True, boundscheck=False)
def _index(centroid_codes, rows, used, starts, items):
    """For each used input: the centroids sorted by code, and where each code starts."""
    k = len(rows)
    n_codes = starts.shape[1] - 1
    ends = np.empty(n_codes + 1, np.int64)
    for a in range(len(used)):
        line = centroid_codes[used[a]]
        ends[:] = 0
        for j in range(k):
            ends[uint64(line[rows[j]]) + uint64(1)] += 1
        start = starts[a]
        for c in range(n_codes):
            ends[c + 1] += ends[c]
            start[c + 1] = ends[c + 1]
        item = items[a]
        for j in range(k):
            c = uint64(line[rows[j]])
            item[ends[c]] = j
            ends[c] += 1


@njit(cache=True, nogil=True, boundscheck=False)
def _fill_slots(starts, items, spare, slots):
    n_used, n_codes, _ = slots.shape
    marked = slots.dtype.type(-1)
    for a in range(n_used):
        start, item, slot = starts[a], items[a], slots[a]
        for c in range(n_codes):
            first = uint64(start[c])
            size = uint64(start[c + 1]) - first
            slot[c, 0] = spare + (c & 31)
            slot[c, 1] = spare + 32 + (c & 31)
            if size > 2:
                slot[c, 0] = marked
            else:
                for t in range(size):
                    slot[c, t] = item[first + uint64(t)]


@njit(cache=True, nogil=True, boundscheck=False)
def _match(codes, used, starts, items, slots, counters, width, out):
    n_rows = len(counters) // width
    n_samples = codes.shape[1]
    n_counted = width - _TRASH
    marked = slots.dtype.type(-1)
    one = counters.dtype.type(1)
    for first in range(0, n_samples, n_rows):
        last = min(first + n_rows, n_samples)
        counters[:] = 0
        for a in range(len(used)):
            line, slot = codes[used[a]], slots[a]
            base = uint64(0)
            for r in range(first, last):
                c = uint64(line[r])
                centroid = slot[c, 0]
                if centroid == marked:
                    for t in range(uint64(starts[a, c]), uint64(starts[a, c + uint64(1)])):
                        counters[base + uint64(items[a, t])] += one
                else:
                    counters[base + uint64(centroid)] += one
                    counters[base + uint64(slot[c, 1])] += one
                base += uint64(width)
        for r in range(last - first):
            out[first + r] = _first_largest(counters[r * width : r * width + n_counted])


@njit(cache=True, nogil=True, boundscheck=False)
def _first_largest(counts):
    largest = counts[0]
    for j in range(len(counts)):
        largest = max(largest, counts[j])
    left = uint64(0)
    while True:
        hits = 0
        for j in range(left, left + uint64(_CHUNK)):
            hits += counts[j] == largest
        if hits:
            break
        left += uint64(_CHUNK)
    while counts[left] != largest:
        left += uint64(1)
    return left


def index_all(centroid_codes, n_codes):
    """Index of all drawn rows by every input, as `match_ranked` needs it.

    Returns
    -------
    starts : ndarray of shape (n_inputs, n_codes + 1)
    items : ndarray of shape (n_inputs, n_drawn)
    """
    n_inputs, n_drawn = centroid_codes.shape
    starts = np.zeros((n_inputs, n_codes + 1), np.min_scalar_type(n_drawn))
    items = np.empty((n_inputs, n_drawn), np.min_scalar_type(n_drawn))
    _index(centroid_codes, np.arange(n_drawn), np.arange(n_inputs), starts, items)
    return starts, items


def match_ranked(codes, centroid_codes, index, positions, k, bits):
    """Codes of all clusterings for a block of rows, by ranking the drawn rows once per row.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below, a line per row.
    centroid_codes : ndarray of shape (n_drawn, n_inputs)
    index : tuple of ndarray
        From `index_all`.
    positions : ndarray of shape (n_drawn, n_estimators)
        For each drawn row and clustering: its position among the centroids, or k if it was not drawn.
    k : int
    bits : ndarray of shape (n_estimators, n_words), uint64
        The inputs each clustering looks at, from `pack_used`.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
    """
    starts, items = index
    out = np.empty((len(codes), positions.shape[1]), positions.dtype)
    _match_ranked(codes, centroid_codes, starts, items, positions, positions.dtype.type(k), bits, out)
    return out


def pack_used(used, n_inputs):
    """The inputs each clustering looks at as bits, 64 to a word."""
    flags = np.zeros((len(used), -(-n_inputs // 64) * 64), np.uint8)
    np.put_along_axis(flags, used, 1, axis=1)
    return np.packbits(flags, axis=1, bitorder="little").view(np.uint64)


@njit(cache=True, nogil=True, boundscheck=False)
def _match_ranked(codes, centroid_codes, starts, items, positions, none, bits, out):
    n_samples, n_inputs = codes.shape
    n_drawn, n_estimators = positions.shape
    n_words = bits.shape[1]
    shared = np.zeros(n_drawn, np.uint16)
    met = np.empty(n_drawn, np.uint32)
    ranked = np.empty(_RANKS, np.uint32)
    totals = np.empty(_RANKS, np.int64)
    equal = np.empty((_RANKS, n_words), np.uint64)
    drawn = np.empty((n_estimators, _RANKS), positions.dtype)
    for i in range(n_samples):
        row = codes[i]
        n_met = 0
        for u in range(n_inputs):
            c = uint64(row[u])
            for t in range(uint64(starts[u, c]), uint64(starts[u, c + uint64(1)])):
                item = uint64(items[u, t])
                if shared[item] == 0:
                    met[n_met] = item
                    n_met += 1
                shared[item] += np.uint16(1)
        n_ranked = _rank(shared, met, n_met, n_inputs, ranked, totals)
        complete = n_ranked == n_met
        for m in range(n_ranked):
            _compare(row, centroid_codes[ranked[m]], equal[m])
            position = positions[ranked[m]]
            for v in range(n_estimators):
                drawn[v, m] = position[v]
        for v in range(n_estimators):
            best, choice = 0, none
            m = 0
            while m < n_ranked and totals[m] >= best:
                position = drawn[v, m]
                if position != none:
                    count = 0
                    for w in range(n_words):
                        count += _popcount(equal[m, w] & bits[v, w])
                    if count > best or (count == best and position < choice):
                        best = count
                        choice = position
                m += 1
            if best == 0 or (m == n_ranked and not complete and totals[n_ranked - 1] >= best):
                choice = _best_met(row, centroid_codes, met, n_met, shared, positions, none, bits[v], v, best, choice)
            out[i, v] = choice
        for t in range(n_met):
            shared[met[t]] = 0


@njit(cache=True, nogil=True, boundscheck=False)
def _rank(shared, met, n_met, n_inputs, ranked, totals):
    """The rows met that share the most codes, most first."""
    histogram = np.zeros(n_inputs + 2, np.int64)
    for t in range(n_met):
        histogram[shared[met[t]]] += 1
    room, lowest = 0, n_inputs + 1
    while lowest > 1 and room + histogram[lowest - 1] <= len(ranked):
        lowest -= 1
        room += histogram[lowest]
    place = 0
    for count in range(n_inputs, lowest - 1, -1):
        size = histogram[count]
        histogram[count] = place
        place += size
    for t in range(n_met):
        count = shared[met[t]]
        if count >= lowest:
            ranked[histogram[count]] = met[t]
            totals[histogram[count]] = count
            histogram[count] += 1
    return room


@njit(cache=True, nogil=True, boundscheck=False)
def _compare(x, y, words):
    for w in range(len(words)):
        word = uint64(0)
        first = w * 64
        for b in range(min(64, len(x) - first)):
            word |= uint64(x[first + b] == y[first + b]) << uint64(b)
        words[w] = word


@njit(cache=True, nogil=True, inline="always")
def _popcount(x):
    x = x - ((x >> uint64(1)) & uint64(0x5555555555555555))
    x = (x & uint64(0x3333333333333333)) + ((x >> uint64(2)) & uint64(0x3333333333333333))
    x = (x + (x >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
    return (x * uint64(0x0101010101010101)) >> uint64(56)


@njit(cache=True, nogil=True, boundscheck=False)
def _best_met(row, centroid_codes, met, n_met, shared, positions, none, bits, v, best, choice):
    """Where the ranks did not settle it: all rows met, then, if none shares a code, the centroid drawn first."""
    for t in range(n_met):
        item = met[t]
        position = positions[item, v]
        if position == none or shared[item] < best:
            continue
        other = centroid_codes[item]
        count = 0
        for u in range(len(row)):
            if row[u] == other[u]:
                count += (bits[u >> 6] >> uint64(u & 63)) & uint64(1)
        if count > best or (count == best and count > 0 and position < choice):
            best = count
            choice = position
    if best == 0:
        choice = positions.dtype.type(0)
    return choice


@njit(cache=True, nogil=True, boundscheck=False)
def _match_compared(codes, centroid_codes, rows, bits, out):
    n_samples = len(codes)
    n_drawn = len(centroid_codes)
    n_estimators, n_words = bits.shape
    equal = np.empty((n_drawn, n_words), np.uint64)
    for i in range(n_samples):
        for j in range(n_drawn):
            _compare(codes[i], centroid_codes[j], equal[j])
        for v in range(n_estimators):
            best, choice = -1, 0
            for j in range(rows.shape[1]):
                words = equal[rows[v, j]]
                count = 0
                for w in range(n_words):
                    count += _popcount(words[w] & bits[v, w])
                if count > best:
                    best = count
                    choice = j
            out[i, v] = choice


def match_compared(codes, centroid_codes, rows, bits):
    """Codes of all clusterings for a few rows, by comparing each with all drawn rows.

    Parameters are those of `match_ranked`, and `rows`, of shape (n_estimators, k): the rows of `centroid_codes`
    that each clustering drew.
    """
    out = np.empty((len(codes), len(rows)), np.min_scalar_type(rows.shape[1] - 1))
    _match_compared(codes, centroid_codes, rows, bits, out)
    return out
