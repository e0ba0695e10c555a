"""Kernels of the upper layers: the drawn row that shares the most codes with a row, in the inputs of each clustering.

Five exact kernels with the same result (the most shared codes; of equal counts the centroid drawn first), for
different shapes of the problem. Rows *meet* if they share a code in at least one input.

- `match_ranked`: few of the drawn rows share one code with a row. One index for all clusterings ranks the drawn rows
  that a row meets by the codes shared over *all* inputs. No clustering can share more than that, so each scans the
  ranks only until its best is out of reach.
- `match_listed`: many centroids, of which a row meets few. Each clustering indexes its centroids by their codes; a row
  lists and counts only those that it meets, so that its time does not grow with their number.
- `match_indexed`: moderately many centroids. The same index, with a counter for each centroid; rows are processed in
  blocks whose counters stay in the cache.
- `match_dense`: at most 256 different codes and few centroids. Codes of many rows are compared with that of a centroid
  at once, as bytes.
- `match_compared`: few rows, which are compared with all drawn rows without an index.

Unless stated otherwise, codes are in C order with a line for each input.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import int64, njit, types, uint8, uint64
from numba.extending import intrinsic

from mbn.parallel import read_only

# Counters of a block of rows in `match_indexed`, in bytes, so that they stay in the cache
_COUNTER_BYTES = 1 << 18
# Values of the lists of a block of rows in `match_listed`: time against memory, since each block chains the centroids
# anew; with the other arrays some 70 MB (docs/results/scale.md)
LISTED_VALUES = 1 << 24
# Inputs from which `mean_list` estimates the length of lists
_LISTS_SAMPLED = 16
# Spare counters in `match_indexed`: see `_fill_slots`
_SPARE = 64
# Counters compared with the largest at once in `_first_largest`; a multiple of the vector length
_CHUNK = 64
# Rows, or drawn rows, compared at once in `match_dense` and `match_compared`
_DENSE_ROWS = 1024
# Count of the end of lists, which must never be the largest
_NEVER = -(1 << 30)


def match_indexed(
    codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, used: np.ndarray, n_codes: int
) -> np.ndarray:
    """Codes of one clustering for many rows, by an inverted index of its centroids.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs, n_samples)
        Codes of the layer below.
    reference_codes : ndarray of shape (n_inputs, n_drawn)
        Codes of the rows that any clustering of the layer drew.
    rows : ndarray of shape (k,)
        Columns of `reference_codes` that this clustering drew.
    used : ndarray of shape (n_used,)
        Inputs of this clustering.
    n_codes : int
        Number of different codes of an input.

    Returns
    -------
    ndarray of shape (n_samples,)
        Position in `rows` of the centroid that shares the most codes.
    """
    codes, reference_codes, rows, used = _arguments(codes, reference_codes, rows, used)
    k = len(rows)
    ids = np.min_scalar_type(k + _SPARE)
    starts = np.zeros((len(used), n_codes + 1), np.min_scalar_type(k))
    items = np.empty((len(used), k), ids)
    slots = np.empty((len(used), n_codes, 2), ids)
    width = -(-k // _CHUNK) * _CHUNK + _SPARE
    _index(reference_codes, rows, used, starts, items)
    _fill_slots(starts, items, width - _SPARE, slots)
    out = np.empty(codes.shape[1], np.min_scalar_type(k - 1))
    counters = np.uint8 if len(used) < 256 else np.uint16
    n_rows = min(max(_COUNTER_BYTES // (width * np.dtype(counters).itemsize), 8), 2048)
    _match(codes, used, starts, items, slots, np.zeros(n_rows * width, counters), width, out)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _index(
    reference_codes: np.ndarray, rows: np.ndarray, used: np.ndarray, starts: np.ndarray, items: np.ndarray
) -> None:
    """For each used input, sort the centroids by code.

    =============== ===================== ======== ===================================
    reference_codes (n_inputs, n_drawn)   unsigned
    rows            (k,)                  integers columns of reference_codes
    used            (n_used,)             integers lines of reference_codes
    starts          (n_used, n_codes + 1) unsigned written: start of each code's items
    items           (n_used, k)           unsigned written: centroids 0 .. k - 1
    =============== ===================== ======== ===================================
    """
    k = len(rows)
    n_codes = starts.shape[1] - 1
    ends = np.empty(n_codes + 1, np.int64)
    for a in range(len(used)):
        input_codes = reference_codes[used[a]]
        ends[:] = 0
        for j in range(k):
            ends[uint64(input_codes[rows[j]]) + uint64(1)] += 1
        start = starts[a]
        for c in range(n_codes):
            ends[c + 1] += ends[c]
            start[c + 1] = ends[c + 1]
        item = items[a]
        for j in range(k):
            c = uint64(input_codes[rows[j]])
            item[ends[c]] = j
            ends[c] += 1


@njit(cache=True, nogil=True, boundscheck=False)
def _fill_slots(starts: np.ndarray, items: np.ndarray, spare: int, slots: np.ndarray) -> None:
    """Write the centroids of each code to two slots, so that the common case in `_match` has no branch.

    An empty slot has one of the 64 spare counters, from `spare` on; longer lists are marked by the largest value.

    ====== ===================== ======== =============
    starts (n_used, n_codes + 1) unsigned from `_index`
    items  (n_used, k)           unsigned from `_index`
    slots  (n_used, n_codes, 2)  unsigned written
    ====== ===================== ======== =============
    """
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
def _match(
    codes: np.ndarray,
    used: np.ndarray,
    starts: np.ndarray,
    items: np.ndarray,
    slots: np.ndarray,
    counters: np.ndarray,
    width: int,
    out: np.ndarray,
) -> None:
    """Count the codes that rows share with all centroids.

    ======== ===================== ======== ===============================================
    codes    (n_inputs, n_samples) unsigned
    used     (n_used,)             integers
    starts   (n_used, n_codes + 1) unsigned from `_index`
    items    (n_used, k)           unsigned from `_index`
    slots    (n_used, n_codes, 2)  unsigned from `_fill_slots`
    counters (n_rows * width,)     unsigned memory; width is k, rounded up, and the spare ones
    out      (n_samples,)          unsigned written: the centroid that shares the most codes
    ======== ===================== ======== ===============================================
    """
    n_rows = len(counters) // width
    n_samples = codes.shape[1]
    n_counted = width - _SPARE
    marked = slots.dtype.type(-1)
    one = counters.dtype.type(1)
    for first in range(0, n_samples, n_rows):
        last = min(first + n_rows, n_samples)
        counters[:] = 0
        for a in range(len(used)):
            input_codes, slot = codes[used[a]], slots[a]
            base = uint64(0)
            for r in range(first, last):
                c = uint64(input_codes[r])
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
def _first_largest(counts: np.ndarray) -> int:
    """Index of the first of the largest counts, of shape (n_counts,), a multiple of 64."""
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


def match_listed(
    codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, used: np.ndarray, n_codes: int, places: int = 8
) -> np.ndarray:
    """Codes of one clustering for many rows, by lists of the centroids that each row meets.

    Parameters and result as in `match_indexed`. The first two centroids of a list have fixed places; a row has
    `places` for each input for the others on average, and rows that need more are computed again with enough.
    """
    codes, reference_codes, rows, used = _arguments(codes, reference_codes, rows, used)
    k, n_used, n_samples = len(rows), len(used), codes.shape[1]
    ids = np.min_scalar_type(k)
    n_rows = min(max(LISTED_VALUES // (places * n_used), 1), n_samples)
    heads, following = np.empty(n_codes, ids), np.empty(k + 1, ids)
    # 32 more, so that the places of one row are not mapped to the same set of the cache
    met, more = np.empty((n_used, 2, n_rows + 32), ids), np.empty((n_rows, places * n_used), ids)
    sizes = np.empty(n_samples, np.int64)
    out = np.empty(n_samples, np.min_scalar_type(k - 1))
    _match_listed(codes, reference_codes, rows, used, heads, following, ids.type(k), met, more, sizes, out)
    long = np.flatnonzero(sizes > more.shape[1])
    if len(long):
        enough = -(-int(sizes.max()) // n_used)
        out[long] = match_listed(np.ascontiguousarray(codes[:, long]), reference_codes, rows, used, n_codes, enough)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _match_listed(
    codes: np.ndarray,
    reference_codes: np.ndarray,
    rows: np.ndarray,
    used: np.ndarray,
    heads: np.ndarray,
    following: np.ndarray,
    none: int,
    met: np.ndarray,
    more: np.ndarray,
    sizes: np.ndarray,
    out: np.ndarray,
) -> None:
    """List and count the centroids that each row meets.

    =============== ======================== ======== ===============================================
    codes           (n_inputs, n_samples)    unsigned
    reference_codes (n_inputs, n_drawn)      unsigned
    rows            (k,)                     integers columns of reference_codes
    used            (n_used,)                integers
    heads           (n_codes,)               unsigned memory; see `_chain`
    following       (k + 1,)                 unsigned memory; see `_chain`
    none            scalar                   unsigned k: the end of a list
    met             (n_used, 2, n_rows + 32) unsigned memory: the first two centroids of each input
    more            (n_rows, capacity)       unsigned memory: the other centroids
    sizes           (n_samples,)             int64    written: number of other centroids
    out             (n_samples,)             unsigned written; wrong where sizes exceeds the capacity
    =============== ======================== ======== ===============================================
    """
    n_rows, capacity = more.shape
    n_samples, n_used = len(out), len(used)
    counters = np.zeros(uint64(none) + uint64(1), np.int32)
    counters[uint64(none)] = _NEVER
    for first in range(0, n_samples, n_rows):
        last = min(first + n_rows, n_samples)
        size = sizes[first:last]
        size[:] = 0
        for a in range(n_used):
            _chain(reference_codes[used[a]], rows, none, heads, following)
            input_codes, head, second = codes[used[a], first:last], met[a, 0], met[a, 1]
            for r in range(len(input_codes)):
                head[r] = heads[uint64(input_codes[r])]
            for r in range(len(input_codes)):
                second[r] = following[uint64(head[r])]
            for r in range(len(input_codes)):
                j = following[uint64(second[r])]
                while j != none:
                    if size[r] < capacity:
                        more[r, size[r]] = j
                    size[r] += 1
                    j = following[uint64(j)]
        for r in range(last - first):
            best = int64(0)
            n_more = min(size[r], capacity)
            for a in range(n_used):
                best = _count(uint64(met[a, 0, r]), counters, best)
                best = _count(uint64(met[a, 1, r]), counters, best)
            for t in range(n_more):
                best = _count(uint64(more[r, t]), counters, best)
            for a in range(n_used):
                counters[uint64(met[a, 0, r])] = 0
                counters[uint64(met[a, 1, r])] = 0
            for t in range(n_more):
                counters[uint64(more[r, t])] = 0
            counters[uint64(none)] = _NEVER
            out[first + r] = -best & int64(0xFFFFFFFF)


@njit(cache=True, nogil=True, boundscheck=False)
def _chain(input_codes: np.ndarray, rows: np.ndarray, none: int, heads: np.ndarray, following: np.ndarray) -> None:
    """Write the first centroid of each code, and for each centroid the next one; `none` follows itself.

    =========== ========== ======== ===================================
    input_codes (n_drawn,) unsigned codes of the drawn rows in one input
    rows        (k,)       integers
    heads       (n_codes,) unsigned written
    following   (k + 1,)   unsigned written
    =========== ========== ======== ===================================
    """
    heads[:] = none
    following[uint64(none)] = none
    for j in range(len(rows) - 1, -1, -1):
        code = uint64(input_codes[rows[j]])
        following[j] = heads[code]
        heads[code] = j


@njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _count(j: int, counters: np.ndarray, best: int) -> int:
    """Count centroid j once more, and return the best key: the count in the high half, less the centroid."""
    counters[j] += 1
    return max(best, (int64(counters[j]) << 32) - int64(j))


def match_dense(codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Codes of one clustering by comparing bytes; for few centroids and at most 255 inputs of a clustering.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs, n_samples), uint8
    reference_codes : ndarray of shape (n_inputs, n_drawn), uint8
    rows : ndarray of shape (k,)
    used : ndarray of shape (n_used,)

    Returns
    -------
    ndarray of shape (n_samples,), uint8
    """
    out = np.empty(codes.shape[1], np.uint8)
    _match_dense(*_arguments(codes, reference_codes, rows, used), out)
    return out


def _arguments(
    codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return arguments of a kernel with the same types for all fits, so that it is compiled for them once."""
    return read_only(codes), read_only(reference_codes), rows.astype(np.intp), used.astype(np.intp)


@njit(cache=True, nogil=True, boundscheck=False)
def _match_dense(
    codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, used: np.ndarray, out: np.ndarray
) -> None:
    """Compare rows with one centroid after another; arrays as in `match_dense`, `out` of shape (n_samples,), uint8."""
    n_used, n_samples = len(used), codes.shape[1]
    counts = np.empty(_DENSE_ROWS, np.uint8)
    most = np.empty(_DENSE_ROWS, np.uint8)
    for first in range(0, n_samples, _DENSE_ROWS):
        n_rows = min(_DENSE_ROWS, n_samples - first)
        choice = out[first : first + n_rows]
        choice[:] = 0
        most[:] = 0
        for j in range(len(rows)):
            counts[:] = 0
            for a in range(0, n_used - 3, 4):
                _count_equal(
                    codes[used[a], first : first + n_rows], reference_codes[used[a], rows[j]],
                    codes[used[a + 1], first : first + n_rows], reference_codes[used[a + 1], rows[j]],
                    codes[used[a + 2], first : first + n_rows], reference_codes[used[a + 2], rows[j]],
                    codes[used[a + 3], first : first + n_rows], reference_codes[used[a + 3], rows[j]],
                    counts,
                )  # fmt: skip
            for a in range(n_used - n_used % 4, n_used):
                input_codes, code = codes[used[a], first : first + n_rows], reference_codes[used[a], rows[j]]
                for r in range(n_rows):
                    counts[r] += uint8(input_codes[r] == code)
            for r in range(n_rows):
                better = counts[r] > most[r]
                choice[r] = uint8(j) if better else choice[r]
                most[r] = counts[r] if better else most[r]


@njit(cache=True, nogil=True, boundscheck=False)
def _count_equal(
    codes0: np.ndarray,
    code0: int,
    codes1: np.ndarray,
    code1: int,
    codes2: np.ndarray,
    code2: int,
    codes3: np.ndarray,
    code3: int,
    counts: np.ndarray,
) -> None:
    """Count equal codes in four inputs, so that counts are read once; arrays of shape (n_rows,), uint8."""
    for r in range(len(codes0)):
        low = uint8(codes0[r] == code0) + uint8(codes1[r] == code1)
        high = uint8(codes2[r] == code2) + uint8(codes3[r] == code3)
        counts[r] += low + high


def index_all(reference_codes: np.ndarray, n_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of all drawn rows by every input, for `match_ranked`.

    Parameters
    ----------
    reference_codes : ndarray of shape (n_inputs, n_drawn)
    n_codes : int

    Returns
    -------
    starts : ndarray of shape (n_inputs, n_codes + 1)
    items : ndarray of shape (n_inputs, n_drawn)
        Drawn rows, sorted by code.
    """
    n_inputs, n_drawn = reference_codes.shape
    starts = np.zeros((n_inputs, n_codes + 1), np.min_scalar_type(n_drawn))
    items = np.empty((n_inputs, n_drawn), np.min_scalar_type(n_drawn))
    _index(read_only(reference_codes), np.arange(n_drawn), np.arange(n_inputs), starts, items)
    return starts, items


def index_bytes(n_inputs: int, n_drawn: int, n_codes: int) -> int:
    """Memory of the index of `index_all`, in bytes."""
    return n_inputs * (n_codes + 1 + n_drawn) * np.min_scalar_type(n_drawn).itemsize


def mean_list(codes: np.ndarray) -> float:
    """Mean number of drawn rows with the same code in an input as a drawn row, over rows and some inputs.

    Parameters
    ----------
    codes : ndarray of shape (n_drawn, n_inputs)
        Codes of the drawn rows.

    Returns
    -------
    float
    """
    n_drawn, n_inputs = codes.shape
    sizes = [np.bincount(codes[:, u]) for u in range(0, n_inputs, -(-n_inputs // _LISTS_SAMPLED))]
    return float(np.mean([np.square(size, dtype=np.float64).sum() for size in sizes])) / n_drawn


def match_ranked(
    codes: np.ndarray, index: tuple[np.ndarray, np.ndarray], positions: np.ndarray, k: int, bits: np.ndarray
) -> np.ndarray:
    """Codes of all clusterings for a block of rows, by ranking the drawn rows once per row.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below, with a line for each row.
    index : tuple of ndarray
        From `index_all`.
    positions : ndarray of shape (n_drawn, n_estimators)
        For each drawn row and clustering: its position among the centroids, or k if it was not drawn.
    k : int
    bits : ndarray of shape (n_estimators, n_words), uint64
        The inputs of each clustering, from `pack_used`.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
    """
    codes, starts, items, positions, bits = read_only((codes, *index, positions, bits))
    out = np.empty((len(codes), positions.shape[1]), positions.dtype)
    _match_ranked(codes, starts, items, len(positions), positions, positions.dtype.type(k), bits, out)
    return out


def pack_used(used: np.ndarray, n_inputs: int) -> np.ndarray:
    """Pack the inputs of each clustering as bits, 64 to a word.

    Parameters
    ----------
    used : ndarray of shape (n_estimators, n_used)
    n_inputs : int

    Returns
    -------
    ndarray of shape (n_estimators, n_words), uint64
    """
    flags = np.zeros((len(used), -(-n_inputs // 64) * 64), np.uint8)
    np.put_along_axis(flags, used, 1, axis=1)
    return np.packbits(flags, axis=1, bitorder="little").view(np.uint64)


@njit(cache=True, nogil=True, boundscheck=False)
def _match_ranked(
    codes: np.ndarray,
    starts: np.ndarray,
    items: np.ndarray,
    n_drawn: int,
    positions: np.ndarray,
    none: int,
    bits: np.ndarray,
    out: np.ndarray,
) -> None:
    """Rank the drawn rows that each row meets, and scan the ranks for each clustering.

    ========= ========================= ======== ================================================
    codes     (n_samples, n_inputs)     unsigned
    starts    (n_inputs, n_codes + 1)   unsigned from `index_all`
    items     (n_inputs, n_drawn)       unsigned from `index_all`
    positions (n_drawn, n_estimators)   unsigned positions of the centroids, `none` where not drawn
    none      scalar                    unsigned k
    bits      (n_estimators, n_words)   uint64   from `pack_used`
    out       (n_samples, n_estimators) unsigned written
    ========= ========================= ======== ================================================
    """
    n_samples, n_inputs = codes.shape
    n_estimators, n_words = bits.shape
    places = np.full(n_drawn, -1, np.int32)  # of a drawn row among those met
    met = np.empty(n_drawn, np.uint32)
    shared = np.empty((n_drawn, n_words), np.uint64)  # inputs in which a drawn row has the code of this row
    totals = np.empty(n_drawn, np.int64)
    order = np.empty(n_drawn + 64, np.uint32)
    drawn = np.empty((-(-n_drawn // 64), n_estimators), np.uint64)  # a bit for each of 64 ranks
    for i in range(n_samples):
        n_met = _meet(codes[i], starts, items, places, met, shared)
        _rank(shared, n_met, n_inputs, totals, order)
        n_ready = int64(0)
        for v in range(n_estimators):
            best, choice = 0, none
            chunk = int64(0)
            while chunk * 64 < n_met and totals[order[chunk * 64]] >= best:
                if chunk == n_ready:
                    _mark_drawn(order, chunk, n_met, met, positions, none, drawn[chunk])
                    n_ready += 1
                rest = drawn[chunk, v]
                while rest != uint64(0):
                    place = uint64(order[uint64(chunk * 64) + trailing_zeros(rest)])
                    rest &= rest - uint64(1)
                    if totals[place] < best:
                        break
                    count = 0
                    for w in range(n_words):
                        count += popcount(shared[place, w] & bits[v, w])
                    if count >= best:
                        position = positions[met[place], v]
                        if count > best or position < choice:
                            best = count
                            choice = position
                chunk += 1
            out[i, v] = choice if best > 0 else 0
        for place in range(n_met):
            places[met[place]] = -1


@njit(cache=True, nogil=True, boundscheck=False)
def _meet(
    codes: np.ndarray, starts: np.ndarray, items: np.ndarray, places: np.ndarray, met: np.ndarray, shared: np.ndarray
) -> int:
    """Collect the drawn rows that a row meets, and the inputs in which they share codes; returns their number.

    ====== ======================= ======== ==================================================
    codes  (n_inputs,)             unsigned of the row
    starts (n_inputs, n_codes + 1) unsigned from `index_all`
    items  (n_inputs, n_drawn)     unsigned from `index_all`
    places (n_drawn,)              int32    -1; written: place of each drawn row that is met
    met    (n_drawn,)              uint32   written: drawn row of each place
    shared (n_drawn, n_words)      uint64   written: a bit for each input with the same code
    ====== ======================= ======== ==================================================
    """
    n_met = int64(0)
    for u in range(len(codes)):
        c = uint64(codes[u])
        word, bit = uint64(u) >> uint64(6), uint64(1) << (uint64(u) & uint64(63))
        for t in range(uint64(starts[u, c]), uint64(starts[u, c + uint64(1)])):
            item = uint64(items[u, t])
            place = places[item]
            if place < 0:
                place = n_met
                places[item] = place
                met[place] = item
                shared[place] = 0
                n_met += 1
            shared[uint64(place), word] |= bit
    return n_met


@njit(cache=True, nogil=True, boundscheck=False)
def _rank(shared: np.ndarray, n_met: int, n_inputs: int, totals: np.ndarray, order: np.ndarray) -> None:
    """Order the drawn rows that a row meets by the number of codes shared, most first, by counting sort.

    ====== ================== ====== ========================================
    shared (n_drawn, n_words) uint64 the first n_met in use, as the next two
    totals (n_drawn,)         int64  written: number of codes shared
    order  (n_drawn + 64,)    uint32 written: places in the order of the ranks
    ====== ================== ====== ========================================
    """
    histogram = np.zeros(n_inputs + 2, np.int64)
    for place in range(n_met):
        total = 0
        for w in range(shared.shape[1]):
            total += popcount(shared[place, w])
        totals[place] = total
        histogram[total] += 1
    first = 0
    for total in range(n_inputs, -1, -1):
        size = histogram[total]
        histogram[total] = first
        first += size
    for place in range(n_met):
        order[histogram[totals[place]]] = place
        histogram[totals[place]] += 1


@njit(cache=True, nogil=True, boundscheck=False)
def _mark_drawn(
    order: np.ndarray, chunk: int, n_met: int, met: np.ndarray, positions: np.ndarray, none: int, drawn: np.ndarray
) -> None:
    """Mark which of 64 consecutive ranks each clustering drew.

    ========= ======================= ======== ======================
    order     (n_drawn + 64,)         uint32   from `_rank`
    met       (n_drawn,)              uint32   drawn row of each place
    positions (n_drawn, n_estimators) unsigned
    drawn     (n_estimators,)         uint64   written: a bit per rank
    ========= ======================= ======== ======================
    """
    drawn[:] = 0
    for b in range(min(64, n_met - chunk * 64)):
        position = positions[met[order[chunk * 64 + b]]]
        for v in range(len(drawn)):
            drawn[v] |= uint64(position[v] != none) << uint64(b)


@intrinsic
def popcount(typing_context: Any, x: Any) -> tuple[Any, Callable]:
    """Count the ones in a 64-bit word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def trailing_zeros(typing_context: Any, x: Any) -> tuple[Any, Callable]:
    """Place of the lowest one in a 64-bit word that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), generate


def match_compared(codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Codes of all clusterings for a few rows, by comparing each with all drawn rows.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below, with a line for each row.
    reference_codes : ndarray of shape (n_inputs, n_drawn)
    rows : ndarray of shape (n_estimators, k)
        The columns of `reference_codes` that each clustering drew.
    bits : ndarray of shape (n_estimators, n_words), uint64
        From `pack_used`.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
    """
    out = np.empty((len(codes), len(rows)), np.min_scalar_type(rows.shape[1] - 1))
    _match_compared(*read_only((codes, reference_codes, rows, bits)), out)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _compare(input_codes: np.ndarray, code: int, bit: int, words: np.ndarray) -> None:
    """Mark where codes, of shape (n_rows,), equal a code: one bit of each word, of shape (n_words,), uint64."""
    for j in range(len(input_codes)):
        words[j] |= uint64(input_codes[j] == code) << bit


@njit(cache=True, nogil=True, boundscheck=False)
def _match_compared(
    codes: np.ndarray, reference_codes: np.ndarray, rows: np.ndarray, bits: np.ndarray, out: np.ndarray
) -> None:
    """Compare rows with all drawn rows; arrays as in `match_compared`, `out` of shape (n_samples, n_estimators)."""
    n_samples = len(codes)
    n_inputs, n_drawn = reference_codes.shape
    n_estimators, n_words = bits.shape
    equal = np.empty((n_drawn, n_words), np.uint64)
    words = np.empty(_DENSE_ROWS, np.uint64)
    for i in range(n_samples):
        for first in range(0, n_drawn, _DENSE_ROWS):
            last = min(first + _DENSE_ROWS, n_drawn)
            for w in range(n_words):
                words[:] = 0
                for u in range(w * 64, min(w * 64 + 64, n_inputs)):
                    _compare(reference_codes[u, first:last], codes[i, u], uint64(u) & uint64(63), words)
                for j in range(last - first):
                    equal[first + j, w] = words[j]
        for v in range(n_estimators):
            best, choice = -1, 0
            for j in range(rows.shape[1]):
                shared = equal[rows[v, j]]
                count = 0
                for w in range(n_words):
                    count += popcount(shared[w] & bits[v, w])
                if count > best:
                    best = count
                    choice = j
            out[i, v] = choice
