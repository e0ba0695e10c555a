"""The upper layers: the drawn row that shares the most codes, each clustering looking at some of the clusterings below.

Five exact kernels with one answer (the most shared codes; among equals the centroid drawn first), for five shapes
of the same work:

- `match_ranked`: few of the drawn rows share one code with a row. One index for all clusterings ranks the rows near a
  row by codes shared over *all* inputs. No clustering can share more than that, so each scans the ranks only until
  its best is out of reach.
- `match_listed`: many centroids, of which a row meets few. Each clustering indexes its centroids by the codes they
  carry; a row lists those it meets and counts these alone, so that its time does not grow with their number.
- `match_indexed`: moderately many centroids. The same index, but a row has a counter for each of them; rows go in
  blocks whose counters stay in the cache.
- `match_dense`: at most 256 different codes and few centroids. A line of centroids is compared with a row's code at
  once, as bytes.
- `match_compared`: few rows. No index is worth building; rows are compared with all that were drawn.
"""

import numpy as np
from numba import int64, njit, types, uint8, uint64
from numba.extending import intrinsic

_COUNTER_BYTES = 1 << 18
_LISTED_VALUES = 1 << 24
_LISTS_SAMPLED = 16


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
_DENSE_ROWS = 1024


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


def match_listed(codes, centroid_codes, rows, used, n_codes, places=8):
    """Codes of one clustering for many rows, by lists of the centroids each row meets; as `match_indexed`.

    The first two centroids of a list have places of their own; a row has `places` for each input for the others, and
    rows that need more are done again with as many as that takes.
    """
    k, n_used, n_samples = len(rows), len(used), codes.shape[1]
    ids = np.min_scalar_type(k)
    n_rows = min(max(_LISTED_VALUES // (places * n_used), 1), n_samples)
    heads, following = np.empty(n_codes, ids), np.empty(k + 1, ids)
    # 32 more, so that the places of one row do not compete for the same part of the cache
    met, more = np.empty((n_used, 2, n_rows + 32), ids), np.empty((n_rows, places * n_used), ids)
    sizes = np.empty(n_samples, np.int64)
    out = np.empty(n_samples, np.min_scalar_type(k - 1))
    _match_listed(codes, centroid_codes, rows, used, heads, following, ids.type(k), met, more, sizes, out)
    long = np.flatnonzero(sizes > more.shape[1])
    if len(long):
        enough = -(-int(sizes.max()) // n_used)
        out[long] = match_listed(np.ascontiguousarray(codes[:, long]), centroid_codes, rows, used, n_codes, enough)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _match_listed(codes, centroid_codes, rows, used, heads, following, none, met, more, sizes, out):
    n_rows, capacity = more.shape
    n_samples, n_used = len(out), len(used)
    counters = np.zeros(uint64(none) + uint64(1), np.int32)
    counters[uint64(none)] = -(1 << 30)  # never the largest
    for first in range(0, n_samples, n_rows):
        last = min(first + n_rows, n_samples)
        size = sizes[first:last]
        size[:] = 0
        for a in range(n_used):
            _chain(centroid_codes[used[a]], rows, none, heads, following)
            line, nearest, second = codes[used[a], first:last], met[a, 0], met[a, 1]
            for r in range(len(line)):
                nearest[r] = heads[uint64(line[r])]
            for r in range(len(line)):
                second[r] = following[uint64(nearest[r])]
            for r in range(len(line)):
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
            counters[uint64(none)] = -(1 << 30)
            out[first + r] = -best & int64(0xFFFFFFFF)


@njit(cache=True, nogil=True, boundscheck=False)
def _chain(line, rows, none, heads, following):
    """For each code the first centroid that carries it, and for each centroid the next one; `none` follows itself."""
    heads[:] = none
    following[uint64(none)] = none
    for j in range(len(rows) - 1, -1, -1):
        code = uint64(line[rows[j]])
        following[j] = heads[code]
        heads[code] = j


@njit(cache=True, nogil=True, boundscheck=False, inline="always")
def _count(j, counters, best):
    """Count a centroid once more; the best is the highest count, and among equals the first centroid."""
    counters[j] += 1
    return max(best, (int64(counters[j]) << 32) - int64(j))


def match_dense(codes, centroid_codes, rows, used):
    """Codes of one clustering by comparing bytes; for few centroids and at most 255 inputs looked at.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs, n_samples), uint8
    centroid_codes : ndarray of shape (n_inputs, n_drawn), uint8
    rows : ndarray of shape (k,)
    used : ndarray of shape (n_used,)

    Returns
    -------
    ndarray of shape (n_samples,), uint8
    """
    out = np.empty(codes.shape[1], np.uint8)
    _match_dense(codes, centroid_codes, rows, used, out)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _match_dense(codes, centroid_codes, rows, used, out):
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
                    codes[used[a], first : first + n_rows], centroid_codes[used[a], rows[j]],
                    codes[used[a + 1], first : first + n_rows], centroid_codes[used[a + 1], rows[j]],
                    codes[used[a + 2], first : first + n_rows], centroid_codes[used[a + 2], rows[j]],
                    codes[used[a + 3], first : first + n_rows], centroid_codes[used[a + 3], rows[j]],
                    counts,
                )  # fmt: skip
            for a in range(n_used - n_used % 4, n_used):
                line, code = codes[used[a], first : first + n_rows], centroid_codes[used[a], rows[j]]
                for r in range(n_rows):
                    counts[r] += uint8(line[r] == code)
            for r in range(n_rows):
                better = counts[r] > most[r]
                choice[r] = uint8(j) if better else choice[r]
                most[r] = counts[r] if better else most[r]


@njit(cache=True, nogil=True, boundscheck=False)
def _count_equal(line0, code0, line1, code1, line2, code2, line3, code3, counts):
    for r in range(len(line0)):
        low = uint8(line0[r] == code0) + uint8(line1[r] == code1)
        high = uint8(line2[r] == code2) + uint8(line3[r] == code3)
        counts[r] += low + high


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


def index_bytes(n_inputs, n_drawn, n_codes):
    """Memory that the index of `index_all` takes."""
    return n_inputs * (n_codes + 1 + n_drawn) * np.min_scalar_type(n_drawn).itemsize


def mean_list(centroid_codes):
    """How many drawn rows have the same code of an input as a row, on average over rows and some inputs.

    Parameters
    ----------
    centroid_codes : ndarray of shape (n_drawn, n_inputs)

    Returns
    -------
    float
    """
    n_drawn, n_inputs = centroid_codes.shape
    sizes = [np.bincount(centroid_codes[:, u]) for u in range(0, n_inputs, -(-n_inputs // _LISTS_SAMPLED))]
    return float(np.mean([np.square(size, dtype=np.float64).sum() for size in sizes])) / n_drawn


def match_ranked(codes, index, positions, k, bits):
    """Codes of all clusterings for a block of rows, by ranking the drawn rows once per row.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below, a line per row.
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
    _match_ranked(codes, starts, items, len(positions), positions, positions.dtype.type(k), bits, out)
    return out


def pack_used(used, n_inputs):
    """The inputs each clustering looks at as bits, 64 to a word."""
    flags = np.zeros((len(used), -(-n_inputs // 64) * 64), np.uint8)
    np.put_along_axis(flags, used, 1, axis=1)
    return np.packbits(flags, axis=1, bitorder="little").view(np.uint64)


@njit(cache=True, nogil=True, boundscheck=False)
def _match_ranked(codes, starts, items, n_drawn, positions, none, bits, out):
    n_samples, n_inputs = codes.shape
    n_estimators, n_words = bits.shape
    places = np.full(n_drawn, -1, np.int32)  # of a drawn row among those met
    met = np.empty(n_drawn, np.uint32)
    shared = np.empty((n_drawn, n_words), np.uint64)  # the inputs in which a met row has the code of this row
    totals = np.empty(n_drawn, np.int64)
    order = np.empty(n_drawn + 64, np.uint32)
    drawn = np.empty((-(-n_drawn // 64), n_estimators), np.uint64)  # a bit for each of 64 ranks
    for i in range(n_samples):
        n_met = 0
        for u in range(n_inputs):
            c = uint64(codes[i, u])
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
        _rank(shared, n_met, n_inputs, totals, order)
        n_ready = 0
        for v in range(n_estimators):
            best, choice = 0, none
            chunk = 0
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
def _rank(shared, n_met, n_inputs, totals, order):
    """Order the rows met by the number of codes shared, most first."""
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
def _mark_drawn(order, chunk, n_met, met, positions, none, drawn):
    drawn[:] = 0
    for b in range(min(64, n_met - chunk * 64)):
        line = positions[met[order[chunk * 64 + b]]]
        for v in range(len(drawn)):
            drawn[v] |= uint64(line[v] != none) << uint64(b)


@intrinsic
def popcount(typing_context, x):
    """Number of ones in a 64-bit word."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@intrinsic
def trailing_zeros(typing_context, x):
    """Place of the lowest one in a 64-bit word that is not zero."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], context.get_constant(types.boolean, True))

    return types.uint64(types.uint64), generate


@njit(cache=True, nogil=True, boundscheck=False)
def _compare(line, code, bit, words):
    for j in range(len(line)):
        words[j] |= uint64(line[j] == code) << bit


@njit(cache=True, nogil=True, boundscheck=False)
def _match_compared(codes, centroid_codes, rows, bits, out):
    n_samples = len(codes)
    n_inputs, n_drawn = centroid_codes.shape
    n_estimators, n_words = bits.shape
    equal = np.empty((n_drawn, n_words), np.uint64)
    words = np.empty(_DENSE_ROWS, np.uint64)
    for i in range(n_samples):
        for first in range(0, n_drawn, _DENSE_ROWS):
            last = min(first + _DENSE_ROWS, n_drawn)
            for w in range(n_words):
                words[:] = 0
                for u in range(w * 64, min(w * 64 + 64, n_inputs)):
                    _compare(centroid_codes[u, first:last], codes[i, u], uint64(u) & uint64(63), words)
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


def match_compared(codes, centroid_codes, rows, bits):
    """Codes of all clusterings for a few rows, by comparing each with all drawn rows.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
    centroid_codes : ndarray of shape (n_inputs, n_drawn)
    rows : ndarray of shape (n_estimators, k)
        The columns of `centroid_codes` that each clustering drew.
    bits : ndarray of shape (n_estimators, n_words), uint64
        From `pack_used`.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
    """
    out = np.empty((len(codes), len(rows)), np.min_scalar_type(rows.shape[1] - 1))
    _match_compared(codes, centroid_codes, rows, bits, out)
    return out
