"""The bottom layer: nearest of the drawn rows, each clustering in a random subspace of the features.

Costs are squared distances ("euclidean"), negative inner products ("linear"), or the latter divided by the length
of the centroid ("cosine"), always in the subspace of the clustering. Matrix products give them in float32; where
two centroids come closer to each other than such a product can tell, the costs are computed again, in float64 and
feature by feature. A code is therefore a function of its row alone: of no block, batch or thread.

Assignment by neighbours looks among the nearest rows first. In the subspace of one clustering they spread: the costs of
all of them, drawn or not, lie about a multiple of their distances in the whole space, with a standard deviation. Where
the best drawn one costs no clear number of these deviations less than what the last of the nearest rows would cost on
average, a row from beyond may well be nearer, and the next nearest rows are looked at too.
"""

import numpy as np
from numba import njit
from scipy import sparse

from mbn.neighbors import row_squares

_ROWS_PER_PRODUCT = 4
_TOGETHER = 4
_DIRECT_ROWS = 2048
_EPSILON = np.float32(2.0**-23)
_METRICS = {"euclidean": 0, "linear": 1, "cosine": 2}
# A code is clear if its cost lies so many deviations below. On MNIST one code in 20 does not, and three quarters of the
# wrong ones are among them.
CLEAR = np.float32(3.5)
# A table of positions takes no more; it has some 50 MB for 60 000 rows and 400 clusterings.
TABLE_BYTES = 1 << 26
# Whether a code is doubtful; CLOSE where float32 cannot tell
NO, YES, CLOSE = 0, 1, 2


def assign_neighbors(X, reference, candidates, positions, rows, masks, metric, n_first=None):
    """Codes of rows whose centroids are looked for among `candidates` only.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    reference : ndarray or CSR of shape (n_reference, n_features), float32
        The rows that clusterings drew from.
    candidates : ndarray of shape (n_samples, n_candidates), int32
        Rows of `reference` near each row, nearest first.
    positions : ndarray of shape (n_reference, n_estimators), or None
        From `position_table`; None where that would take too much memory, and tables of the candidates alone are made.
    rows : ndarray of shape (n_estimators, k)
        The rows of `reference` that each clustering drew.
    masks : ndarray of shape (n_features, n_estimators), float32
        One where a clustering uses a feature, zero elsewhere.
    metric : {"euclidean", "cosine", "linear"}
    n_first : int, default=None
        How many candidates are looked at for every code; the others only where a code is doubtful. None: all.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
        The position in `rows` of the nearest centroid. A row of which no candidate was drawn is compared
        with all the centroids.
    """
    n_samples = len(candidates)
    n_first = candidates.shape[1] if n_first is None else min(n_first, candidates.shape[1])
    k = rows.shape[1]
    places = candidates
    if positions is None:
        places, n_places = _number(candidates, reference.shape[0])
        if n_samples > 1 and n_places * len(rows) * np.min_scalar_type(k).itemsize > TABLE_BYTES:
            del places
            halves = (slice(None, n_samples // 2), slice(n_samples // 2, None))
            parts = [
                assign_neighbors(X[half], reference, candidates[half], None, rows, masks, metric, n_first)
                for half in halves
            ]
            return np.concatenate(parts)
        positions = _candidate_table(candidates, places, n_places, rows, reference.shape[0])
    slope = cost_share(masks, metric)
    codes = np.empty((n_samples, rows.shape[0]), positions.dtype)
    kind = _METRICS[metric]
    if sparse.issparse(X):
        _choose_sparse(
            X.indptr, X.indices, X.data, reference.indptr, reference.indices, reference.data,
            candidates, places, n_first, positions, masks, slope, kind, k, codes,
        )  # fmt: skip
    else:
        terms = np.empty((_ROWS_PER_PRODUCT * n_first, X.shape[1]), np.float32)
        totals = np.empty(len(terms), np.float32)
        relative = relative_error(X.shape[1])
        lines = np.ascontiguousarray(masks.T)
        costs = np.empty((len(terms), len(rows)), np.float32)
        for first in range(0, n_samples, _ROWS_PER_PRODUCT):
            block = slice(first, min(first + _ROWS_PER_PRODUCT, n_samples))
            _terms(X[block], reference, candidates[block], n_first, kind, terms, totals)
            np.matmul(terms, masks, out=costs)
            if metric == "euclidean":
                slack = np.zeros((len(terms), 1), np.float32)
            else:
                squares = np.zeros_like(terms)
                _squares(reference, candidates[block], n_first, squares)
                lengths = np.sqrt(squares @ masks)
                slack = np.sqrt(row_squares(X[block])).repeat(n_first)[:, None]
                slack = slack if metric == "cosine" else slack * np.sqrt(squares.sum(axis=1))[: len(slack), None]
                if metric == "cosine":
                    np.divide(costs, lengths, out=costs, where=lengths > 0)
            doubtful = np.zeros((len(codes[block]), len(rows)), np.uint8)
            _choose(X[block], reference, candidates[block], places[block], n_first, positions, lines, costs, totals,
                    slack, slope, relative, kind, k, codes[block], doubtful)  # fmt: skip
            if n_first < candidates.shape[1]:
                _look_further(X[block], reference, candidates[block], places[block], n_first, positions, rows, lines,
                              slope, relative, kind, k, doubtful, codes[block])  # fmt: skip
    missing = np.argwhere(codes == k)
    if len(missing):
        _search_all(X, reference, rows, masks, metric, missing, codes)
    return codes


def look_further(X, reference, candidates, n_first, positions, rows, masks, metric, doubtful, codes):
    """Replace codes that are `doubtful` (YES, or CLOSE where it is still to be decided) if a later candidate is nearer.

    Parameters
    ----------
    X, reference, candidates, positions, rows, masks, metric, n_first
        As in `assign_neighbors`, for dense rows.
    doubtful : ndarray of shape (n_samples, n_estimators), uint8
    codes : ndarray of shape (n_samples, n_estimators)
        Nearest among the first candidates; changed in place.
    """
    _look_further(
        X, reference, candidates, candidates, n_first, positions, rows, np.ascontiguousarray(masks.T),
        cost_share(masks, metric), relative_error(X.shape[1]), _METRICS[metric], rows.shape[1], doubtful, codes,
    )  # fmt: skip


def relative_error(n_features):
    """Largest relative error of a sum over features, in float32."""
    return np.float32(2 * (n_features + 4)) * _EPSILON


def cost_share(masks, metric):
    """What a clustering's cost is of the cost in all features, on average."""
    share = masks[:, 0].mean(dtype=np.float64)
    return np.float32(np.sqrt(share) if metric == "cosine" else share)


def position_table(rows, n_reference):
    """For each reference row and clustering: its position among the centroids, or k if it was not drawn."""
    n_estimators, k = rows.shape
    dtype = np.min_scalar_type(k)
    positions = np.full((n_reference, n_estimators), k, dtype)
    order = np.arange(k, dtype=dtype)
    for v in range(n_estimators):
        positions[rows[v], v] = order
    return positions


@njit(cache=True, nogil=True, boundscheck=False)
def _number(candidates, n_reference):
    """Number the rows among the candidates, each once, in the order in which they appear."""
    numbers = np.full(n_reference, -1, np.int32)
    places = np.empty(candidates.shape, np.int32)
    n_places = 0
    for i in range(candidates.shape[0]):
        for m in range(candidates.shape[1]):
            row = candidates[i, m]
            if numbers[row] < 0:
                numbers[row] = n_places
                n_places += 1
            places[i, m] = numbers[row]
    return places, n_places


def _candidate_table(candidates, places, n_places, rows, n_reference):
    """As `position_table`, a line for every place and not for every row of the reference."""
    numbers = np.full(n_reference, -1, np.int32)
    numbers[candidates] = places
    positions = np.full((n_places, len(rows)), rows.shape[1], np.min_scalar_type(rows.shape[1]))
    _fill_table(rows, numbers, positions)
    return positions


@njit(cache=True, nogil=True, boundscheck=False)
def _fill_table(rows, numbers, positions):
    for v in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            place = numbers[rows[v, j]]
            if place >= 0:
                positions[place, v] = j


def assign_direct(X, reference, rows, used, metric, first=0, last=None):
    """Codes of the clusterings first .. last by comparing every row with every centroid.

    Parameters
    ----------
    X, reference, rows, metric
        As in `assign_neighbors`.
    used : ndarray of shape (n_estimators, n_used)
        The features of each clustering, ascending.

    Returns
    -------
    ndarray of shape (last - first, n_samples)
    """
    last = len(rows) if last is None else last
    n_samples, k = X.shape[0], rows.shape[1]
    kind = _METRICS[metric]
    codes = np.empty((last - first, n_samples), np.min_scalar_type(k))
    relative = relative_error(used.shape[1])
    for v in range(first, last):
        centroids = _columns(reference[rows[v]], used[v])
        squares = row_squares(centroids)
        offsets = squares / 2 if metric == "euclidean" else np.zeros_like(squares)
        if metric == "cosine":
            lengths = np.sqrt(squares)
            factors = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            centroids = sparse.diags_array(factors) @ centroids if sparse.issparse(X) else centroids * factors[:, None]
            centroids = centroids.tocsr() if sparse.issparse(X) else centroids
            squares = np.ones_like(squares)
        transposed = centroids.T
        longest = np.sqrt(squares.max())
        for start in range(0, n_samples, _DIRECT_ROWS):
            block = _columns(X[start : start + _DIRECT_ROWS], used[v])
            products = block @ transposed
            products = products.toarray() if sparse.issparse(products) else products
            slack = relative * longest * (np.sqrt(row_squares(block)) + longest)
            near = np.empty(len(slack), bool)
            out = codes[v - first, start : start + _DIRECT_ROWS]
            _smallest(products, offsets, slack, out, near)
            doubtful = np.flatnonzero(near)
            if len(doubtful):
                where, products = start + doubtful, products[doubtful]
                if sparse.issparse(X):
                    _settle_sparse(
                        X[where], reference, rows[v], used[v], products, offsets, slack[doubtful], kind, out, doubtful
                    )
                else:
                    _settle(
                        X, where, reference, rows[v], used[v], products, offsets, slack[doubtful], kind, out, doubtful
                    )
    return codes


def _columns(X, used):
    return X[:, used] if sparse.issparse(X) else np.take(X, used, axis=1)


def _settle_sparse(X, reference, rows, used, products, offsets, slack, kind, codes, doubtful):
    for i, row in enumerate(doubtful):
        values = offsets - products[i]
        close = np.flatnonzero(values <= values.min() + slack[i])
        near = X[[i]].toarray(), reference[rows[close]].toarray()
        costs = [_exact_cost(near[0][0], centroid, used, kind) for centroid in near[1]]
        codes[row] = close[int(np.argmin(costs))]


@njit(cache=True, nogil=True, boundscheck=False)
def _settle(X, where, reference, rows, used, products, offsets, slack, kind, codes, doubtful):
    """Decide by exact costs what the products could not."""
    for i in range(len(where)):
        smallest = np.float32(np.inf)
        for j in range(len(rows)):
            smallest = min(smallest, offsets[j] - products[i, j])
        winner = np.inf
        for j in range(len(rows)):
            if offsets[j] - products[i, j] <= smallest + slack[i]:
                cost = _exact_cost(X[where[i]], reference[rows[j]], used, kind)
                if cost < winner:
                    winner = cost
                    codes[doubtful[i]] = j


def _search_all(X, reference, rows, masks, metric, missing, codes):
    for v in np.unique(missing[:, 1]):
        who = missing[missing[:, 1] == v, 0]
        used = np.flatnonzero(masks[:, v])[None]
        codes[who, v] = assign_direct(X[who], reference, rows[v : v + 1], used, metric)[0]


@njit(cache=True, nogil=True, boundscheck=False)
def _terms(X, reference, candidates, n_first, kind, out, totals):
    """What each feature adds to the cost of each of the first candidates, and the sum over all features."""
    n_rows = len(candidates)
    for i in range(n_rows):
        for m in range(n_first):
            _add_terms(X[i], reference[candidates[i, m]], kind, out[i * n_first + m])
            totals[i * n_first + m] = _sum(out[i * n_first + m])
    out[n_rows * n_first :] = 0


@njit(cache=True, nogil=True, inline="always")
def _add_terms(x, y, kind, line):
    if kind == 0:
        for f in range(len(line)):
            difference = x[f] - y[f]
            line[f] = difference * difference
    else:
        for f in range(len(line)):
            line[f] = -x[f] * y[f]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _sum(line):
    total = np.float32(0)
    for f in range(len(line)):
        total += line[f]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _product(line, other):
    total = np.float32(0)
    for f in range(len(line)):
        total += line[f] * other[f]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _four_products(lines, other):
    """Four at a time, so that the other line is read once."""
    first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for f in range(len(other)):
        first += lines[0, f] * other[f]
        second += lines[1, f] * other[f]
        third += lines[2, f] * other[f]
        fourth += lines[3, f] * other[f]
    return first, second, third, fourth


@njit(cache=True, nogil=True, boundscheck=False)
def _squares(reference, candidates, n_first, out):
    for i in range(len(candidates)):
        for m in range(n_first):
            y = reference[candidates[i, m]]
            line = out[i * n_first + m]
            for f in range(len(y)):
                line[f] = y[f] * y[f]


@njit(cache=True, nogil=True, boundscheck=False)
def _choose(
    X,
    reference,
    candidates,
    places,
    n_first,
    positions,
    lines,
    costs,
    totals,
    slack,
    slope,
    relative,
    kind,
    none,
    codes,
    doubtful,
):
    """The nearest of the first candidates, and which codes are `doubtful`: CLOSE where float32 cannot tell."""
    n_rows = len(candidates)
    n_estimators = positions.shape[1]
    infinity = np.float32(np.inf)
    best = np.empty(n_estimators, np.float32)
    second = np.empty(n_estimators, np.float32)
    sums = np.empty(n_estimators, np.float32)
    squares = np.empty(n_estimators, np.float32)
    for i in range(n_rows):
        choice = codes[i]
        for v in range(n_estimators):
            best[v] = infinity
            second[v] = infinity
            choice[v] = none
            sums[v] = 0
            squares[v] = 0
        loosest = np.float32(0)
        largest = np.float32(0)
        for m in range(n_first):
            cost = costs[i * n_first + m]
            expected = slope * totals[i * n_first + m]
            position = positions[places[i, m]]
            loosest = max(loosest, slack[i * n_first + m, 0])
            largest = max(largest, abs(totals[i * n_first + m]))
            for v in range(n_estimators):
                value = cost[v] if position[v] != none else infinity
                better = value < best[v]
                second[v] = best[v] if better else min(second[v], value)
                choice[v] = position[v] if better else choice[v]
                best[v] = value if better else best[v]
                rest = cost[v] - expected
                sums[v] += rest
                squares[v] += rest * rest
        for v in range(n_estimators):
            limit = best[v] + relative * (abs(best[v]) if kind == 0 else loosest)
            if second[v] <= limit and second[v] < infinity:
                winner = np.inf
                for m in range(n_first):
                    position = positions[places[i, m], v]
                    if position == none or costs[i * n_first + m, v] > limit:
                        continue
                    value = _exact_masked(X[i], reference[candidates[i, m]], lines[v], kind)
                    if value < winner or (value == winner and position < choice[v]):
                        winner = value
                        choice[v] = position
        # No cost, and no share of a total, is off by more than a quarter of this, nor their mean by more than half
        error = (relative + np.float32(2) * n_first * _EPSILON) * (largest if kind == 0 else max(loosest, largest))
        for v in range(n_estimators):
            mean = sums[v] / n_first
            square = squares[v] / n_first
            margin = expected + mean - best[v]
            spread = CLEAR * CLEAR * (square - mean * mean)
            unsure = np.float32(4) * error * (abs(margin) + error) + CLEAR * CLEAR * (
                np.float32(4) * error * (np.sqrt(square) + error) + np.float32(4) * n_first * _EPSILON * square
            )
            apart = margin * abs(margin) - spread
            flag = YES if apart < 0 else NO
            flag = CLOSE if abs(apart) <= unsure else flag
            doubtful[i, v] = flag if best[v] < infinity else NO


@njit(cache=True, nogil=True, boundscheck=False)
def _look_further(
    X, reference, candidates, places, n_first, positions, rows, lines, slope, relative, kind, none, doubtful, codes
):
    """Look for a nearer centroid among the candidates after the first, for doubtful codes."""
    n_features = X.shape[1]
    everything = np.ones(n_features, np.float32)
    terms = np.zeros((_TOGETHER, n_features), np.float32)
    squares = np.zeros((_TOGETHER, n_features), np.float32)
    slack = np.zeros(_TOGETHER, np.float32)
    expected = np.empty(n_first)
    for i in range(len(X)):
        x = X[i]
        clusterings = np.flatnonzero(doubtful[i])
        winners = np.empty(len(clusterings))
        n_doubtful = 0
        expected[0] = np.nan
        for v in clusterings:
            winner = _precise_cost(x, reference[rows[v, codes[i, v]]], lines[v], kind)
            if doubtful[i, v] == CLOSE:
                if np.isnan(expected[0]):
                    for m in range(n_first):
                        y = reference[candidates[i, m]]
                        expected[m] = slope * _precise_cost(x, y, everything, min(kind, 1))
                sums, rests = 0.0, 0.0
                for m in range(n_first):
                    rest = _precise_cost(x, reference[candidates[i, m]], lines[v], kind) - expected[m]
                    sums += rest
                    rests += rest * rest
                if not _is_near(winner, expected[n_first - 1], sums / n_first, rests / n_first):
                    continue
            clusterings[n_doubtful] = v
            winners[n_doubtful] = winner
            n_doubtful += 1
        if n_doubtful == 0:
            continue
        length = np.sqrt(_product(x, x))
        for first in range(n_first, candidates.shape[1], _TOGETHER):
            together = min(_TOGETHER, candidates.shape[1] - first)
            for c in range(together):
                y = reference[candidates[i, first + c]]
                _add_terms(x, y, kind, terms[c])
                if kind == 1:
                    slack[c] = length * np.sqrt(_product(y, y))
                elif kind == 2:
                    slack[c] = length
                    _add_terms(y, y, 1, squares[c])
            for a in range(n_doubtful):
                v = clusterings[a]
                values = _four_products(terms, lines[v])
                lengths = _four_products(squares, lines[v]) if kind == 2 else values
                for c in range(together):
                    value = values[c]
                    if kind == 2 and lengths[c] < 0:
                        value = value / np.sqrt(-lengths[c])
                    if value - relative * (abs(value) if kind == 0 else slack[c]) > winners[a]:
                        continue
                    position = positions[places[i, first + c], v]
                    if position == none:
                        continue
                    exact = _exact_masked(x, reference[candidates[i, first + c]], lines[v], kind)
                    before = _exact_masked(x, reference[rows[v, codes[i, v]]], lines[v], kind)
                    if exact < before or (exact == before and position < codes[i, v]):
                        winners[a] = exact
                        codes[i, v] = position


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _precise_cost(x, y, used, kind):
    """As `_exact_masked`, but for the order of the sum, and many times as fast."""
    total, square = 0.0, 0.0
    if kind == 0:
        for f in range(len(x)):
            difference = np.float64(x[f]) - np.float64(y[f])
            total += difference * difference * np.float64(used[f])
        return total
    for f in range(len(x)):
        total -= np.float64(x[f]) * np.float64(y[f]) * np.float64(used[f])
    if kind == 2:
        for f in range(len(x)):
            square += np.float64(y[f]) * np.float64(y[f]) * np.float64(used[f])
        total = total / np.sqrt(square) if square > 0 else total
    return total


@njit(cache=True, nogil=True, inline="always")
def _is_near(best, expected, mean, square):
    margin = expected + mean - best
    return margin * abs(margin) < CLEAR * CLEAR * (square - mean * mean)


@njit(cache=True, nogil=True)
def _exact_masked(x, y, used, kind):
    total, square = 0.0, 0.0
    for f in range(len(x)):
        if used[f] != 0:
            if kind == 0:
                difference = np.float64(x[f]) - np.float64(y[f])
                total += difference * difference
            else:
                total -= np.float64(x[f]) * np.float64(y[f])
                square += np.float64(y[f]) * np.float64(y[f])
    if kind == 2 and square > 0:
        total /= np.sqrt(square)
    return total


@njit(cache=True, nogil=True)
def _exact_cost(x, y, used, kind):
    total, square = 0.0, 0.0
    for f in used:
        if kind == 0:
            difference = np.float64(x[f]) - np.float64(y[f])
            total += difference * difference
        else:
            total -= np.float64(x[f]) * np.float64(y[f])
            square += np.float64(y[f]) * np.float64(y[f])
    if kind == 2 and square > 0:
        total /= np.sqrt(square)
    return total


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"}, boundscheck=False)
def _smallest(products, offsets, slack, codes, near):
    """First of the smallest ``offsets - products`` of every row, and whether another comes within the slack."""
    n_rows, k = products.shape
    chunk = 64
    n_chunks = (k + chunk - 1) // chunk
    minima = np.empty(n_chunks, np.float32)
    for i in range(n_rows):
        line = products[i]
        best = np.float32(np.inf)
        for c in range(n_chunks):
            smallest = np.float32(np.inf)
            for j in range(c * chunk, min((c + 1) * chunk, k)):
                smallest = min(smallest, offsets[j] - line[j])
            minima[c] = smallest
            best = min(best, smallest)
        limit = best + slack[i]
        hits, found = 0, -1
        for c in range(n_chunks):
            if minima[c] > limit:
                continue
            for j in range(c * chunk, min((c + 1) * chunk, k)):
                value = offsets[j] - line[j]
                if value <= limit:
                    hits += 1
                    if found < 0 and value == best:
                        found = j
        codes[i] = found
        near[i] = hits > 1


@njit(cache=True, nogil=True, boundscheck=False)
def _choose_sparse(
    x_starts, x_columns, x_values, y_starts, y_columns, y_values, candidates, places, n_first, positions, masks,
    slope, kind, none, codes,
):  # fmt: skip
    n_rows, n_candidates = candidates.shape
    n_estimators = positions.shape[1]
    cost = np.empty(n_estimators)
    square = np.empty(n_estimators)
    best = np.empty(n_estimators)
    sums = np.empty(n_estimators)
    squares = np.empty(n_estimators)
    for i in range(n_rows):
        choice = codes[i]
        choice[:] = none
        best[:] = np.inf
        sums[:] = 0
        squares[:] = 0
        looking = np.arange(n_estimators)
        expected = 0.0
        for m in range(n_candidates):
            if m == n_first:
                n_doubtful = 0
                for v in range(n_estimators):
                    if best[v] < np.inf and _is_near(best[v], expected, sums[v] / n_first, squares[v] / n_first):
                        looking[n_doubtful] = v
                        n_doubtful += 1
                looking = looking[:n_doubtful]
                if n_doubtful == 0:
                    break
            row = candidates[i, m]
            cost[:] = 0
            square[:] = 0
            total = 0.0
            a, b = x_starts[i], y_starts[row]
            while a < x_starts[i + 1] or b < y_starts[row + 1]:
                in_x = a < x_starts[i + 1] and (b >= y_starts[row + 1] or x_columns[a] <= y_columns[b])
                in_y = b < y_starts[row + 1] and (a >= x_starts[i + 1] or y_columns[b] <= x_columns[a])
                x = np.float64(x_values[a]) if in_x else 0.0
                y = np.float64(y_values[b]) if in_y else 0.0
                mask = masks[x_columns[a] if in_x else y_columns[b]]
                term = (x - y) * (x - y) if kind == 0 else -x * y
                total += term
                for v in looking:
                    cost[v] += term * mask[v]
                if kind == 2 and in_y:
                    for v in looking:
                        square[v] += y * y * mask[v]
                a += in_x
                b += in_y
            expected = slope * total if m < n_first else expected
            position = positions[places[i, m]]
            for v in looking:
                value = cost[v] / np.sqrt(square[v]) if kind == 2 and square[v] > 0 else cost[v]
                if m < n_first:
                    rest = value - expected
                    sums[v] += rest
                    squares[v] += rest * rest
                if position[v] == none:
                    continue
                if value < best[v] or (value == best[v] and position[v] < choice[v]):
                    best[v] = value
                    choice[v] = position[v]
