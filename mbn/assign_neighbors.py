"""Assignment by neighbors in the bottom layer: the nearest of the drawn rows among the rows nearest to a row.

In the features of one clustering the nearest rows spread: the costs of all of them, drawn or not, are about a multiple
of their costs in all features, with a standard deviation. Where the best drawn row among the first candidates does not
cost clearly less than the last of these costs on average, a row beyond them may be nearer. Such a code is doubtful, and
the further candidates are compared, too.

Dense rows are compared by matrix products in float32, and again in float64 wherever the error of such a product could
change a decision; sparse rows are compared in float64 at once. A code is therefore a function of its row alone: of no
block, batch or thread.
"""

import numpy as np
from numba import njit
from scipy import sparse

from mbn import assign_direct
from mbn.metrics import COSINE, EPSILON, EUCLIDEAN, LINEAR, METRIC_NUMBERS, Matrix, relative_error
from mbn.neighbors import row_squares
from mbn.parallel import read_only

# Rows of a matrix product: the terms of 4 x 64 candidates (0.8 MB for 784 features) stay in the cache.
_ROWS_PER_PRODUCT = 4
# Further candidates compared at once, so that a mask is read once for all of them
_TOGETHER = 4
# A code is clear if its cost is this many standard deviations below the average at the last candidate's distance. Time
# against exactness: on MNIST one code in 20 is doubtful, three quarters of the wrong ones among them (docs/design.md).
CLEAR = np.float32(3.5)
# Largest table of positions, in bytes; the full one has 48 MB for 60 000 rows and 400 clusterings.
TABLE_BYTES = 1 << 26
# Values of `doubtful`; CLOSE where float32 cannot tell
NO, YES, CLOSE = 0, 1, 2


def nearest_centroids(
    X: Matrix,
    reference: Matrix,
    candidates: np.ndarray,
    positions: np.ndarray | None,
    rows: np.ndarray,
    masks: np.ndarray,
    metric: str,
    n_first: int | None = None,
) -> np.ndarray:
    """Codes of rows by comparing each with the drawn ones among its candidates.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features), float32
    reference : ndarray or CSR of shape (n_reference, n_features), float32
        The rows from which clusterings drew.
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
        Number of candidates that are compared for every code; the others only where a code is doubtful. None: all.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
        The position in `rows` of the nearest centroid, in the smallest type of unsigned integers; of centroids at
        equal distance the first. A row without any drawn candidate is compared with all the centroids.
    """
    candidates, rows = read_only((np.ascontiguousarray(candidates), rows))
    if not sparse.issparse(X):
        X, reference = read_only((X, reference))
    n_samples, n_candidates = candidates.shape
    n_first = n_candidates if n_first is None else min(n_first, n_candidates)
    k = rows.shape[1]
    places = candidates
    if positions is None:
        places, n_places = _number(candidates, reference.shape[0])
        if n_samples > 1 and n_places * len(rows) * np.min_scalar_type(k).itemsize > TABLE_BYTES:
            del places
            halves = (slice(None, n_samples // 2), slice(n_samples // 2, None))
            parts = [
                nearest_centroids(X[half], reference, candidates[half], None, rows, masks, metric, n_first)
                for half in halves
            ]
            return np.concatenate(parts)
        positions = _candidate_table(candidates, places, n_places, rows, reference.shape[0])
    places, positions = read_only((places, positions))
    codes = np.empty((n_samples, len(rows)), positions.dtype)
    if sparse.issparse(X):
        _choose_sparse(
            X.indptr, X.indices, X.data, reference.indptr, reference.indices, reference.data,
            candidates, places, n_first, positions, masks, cost_fraction(masks, metric), METRIC_NUMBERS[metric], k,
            codes,
        )  # fmt: skip
    else:
        _assign_dense(X, reference, candidates, places, n_first, positions, rows, masks, metric, codes)
    missing = np.argwhere(codes == k)
    for v in np.unique(missing[:, 1]):
        samples = missing[missing[:, 1] == v, 0]
        used = np.flatnonzero(masks[:, v])[None]
        codes[samples, v] = assign_direct.nearest_centroids(X[samples], reference, rows[v : v + 1], used, metric)[0]
    return codes


def cost_fraction(masks: np.ndarray, metric: str) -> np.float32:
    """Average cost in the features of a clustering, as a fraction of the cost in all features."""
    fraction = masks[:, 0].mean(dtype=np.float64)
    return np.float32(np.sqrt(fraction) if metric == "cosine" else fraction)


def position_table(rows: np.ndarray, n_reference: int) -> np.ndarray:
    """For each reference row and clustering: its position among the centroids, or k if it was not drawn.

    Parameters
    ----------
    rows : ndarray of shape (n_estimators, k)
    n_reference : int

    Returns
    -------
    ndarray of shape (n_reference, n_estimators)
        In the smallest type of unsigned integers.
    """
    n_estimators, k = rows.shape
    dtype = np.min_scalar_type(k)
    positions = np.full((n_reference, n_estimators), k, dtype)
    order = np.arange(k, dtype=dtype)
    for v in range(n_estimators):
        positions[rows[v], v] = order
    return positions


@njit(cache=True, nogil=True, boundscheck=False)
def _number(candidates: np.ndarray, n_reference: int) -> tuple[np.ndarray, int]:
    """Assign numbers to the distinct rows among the candidates, in the order of their first appearance.

    Returns the number of each candidate, an int32 array of the shape of `candidates`, and how many there are.
    """
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


def _candidate_table(
    candidates: np.ndarray, places: np.ndarray, n_places: int, rows: np.ndarray, n_reference: int
) -> np.ndarray:
    """As `position_table`, with a row for each distinct candidate in place of each reference row."""
    numbers = np.full(n_reference, -1, np.int32)
    numbers[candidates] = places
    positions = np.full((n_places, len(rows)), rows.shape[1], np.min_scalar_type(rows.shape[1]))
    _fill_table(rows, numbers, positions)
    return positions


@njit(cache=True, nogil=True, boundscheck=False)
def _fill_table(rows: np.ndarray, numbers: np.ndarray, positions: np.ndarray) -> None:
    """Write the positions of the centroids that are candidates.

    ========= ======================== ======== ============================================
    rows      (n_estimators, k)        unsigned reference rows of the centroids
    numbers   (n_reference,)           int32    row of `positions` of each reference row, or -1
    positions (n_places, n_estimators) unsigned changed in place
    ========= ======================== ======== ============================================
    """
    for v in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            place = numbers[rows[v, j]]
            if place >= 0:
                positions[place, v] = j


# -- decisions, the same for dense and sparse rows


@njit(cache=True, nogil=True, inline="always")
def _is_nearer(cost: float, position: int, best: float, choice: int) -> bool:
    """Return whether a centroid is nearer than the best so far; of two at equal distance, the one drawn first."""
    return cost < best or (cost == best and position < choice)


@njit(cache=True, nogil=True, inline="always")
def _clearness(best: float, expected: float, mean: float, square: float) -> float:
    """Signed squared margin of a code less that of a clear one: negative if the code is doubtful.

    Parameters
    ----------
    best : float
        Cost of the nearest drawn candidate.
    expected : float
        Cost in all features of the last of the first candidates, times `cost_fraction`.
    mean, square : float
        Mean, and mean of squares, of the differences between the first candidates' costs and expected costs.
    """
    margin = expected + mean - best
    return margin * abs(margin) - CLEAR * CLEAR * (square - mean * mean)


# -- dense rows


def _assign_dense(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    places: np.ndarray,
    n_first: int,
    positions: np.ndarray,
    rows: np.ndarray,
    masks: np.ndarray,
    metric: str,
    codes: np.ndarray,
) -> None:
    """Write the codes of dense rows, k where no candidate was drawn; arrays as in `_choose_dense`."""
    n_samples, n_features = X.shape
    number, k = METRIC_NUMBERS[metric], rows.shape[1]
    slope, relative = cost_fraction(masks, metric), relative_error(n_features)
    feature_masks = np.ascontiguousarray(masks.T)
    terms = np.empty((_ROWS_PER_PRODUCT * n_first, n_features), np.float32)
    totals = np.empty(len(terms), np.float32)
    costs = np.empty((len(terms), len(rows)), np.float32)
    doubtful = np.empty((_ROWS_PER_PRODUCT, len(rows)), np.uint8)
    for first in range(0, n_samples, _ROWS_PER_PRODUCT):
        block = slice(first, min(first + _ROWS_PER_PRODUCT, n_samples))
        near, flags = candidates[block], doubtful[: block.stop - first]
        _terms(X[block], reference, near, n_first, number, terms, totals)
        np.matmul(terms, masks, out=costs)
        slack = np.zeros(len(near), np.float32)
        if metric != "euclidean":
            slack = _finish_products(X[block], reference, near, n_first, masks, metric, costs)
        _choose_dense(
            X[block], reference, near, places[block], n_first, positions, feature_masks, costs, totals, slack, slope,
            relative, number, k, codes[block], flags,
        )  # fmt: skip
        if n_first < candidates.shape[1]:
            _look_further(
                X[block], reference, near, places[block], n_first, positions, rows, feature_masks, slope, relative,
                number, flags, codes[block],
            )  # fmt: skip


def _finish_products(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    n_first: int,
    masks: np.ndarray,
    metric: str,
    costs: np.ndarray,
) -> np.ndarray:
    """Divide cosine costs by the centroids' lengths; return the scale of the error of each row's costs.

    Parameters
    ----------
    X, reference, candidates, n_first, masks, costs
        As in `_choose_dense` and `nearest_centroids`; `costs` is changed in place.
    metric : {"cosine", "linear"}

    Returns
    -------
    ndarray of shape (n_rows,), float32
    """
    squares = np.zeros((len(costs), X.shape[1]), np.float32)
    _squares(reference, candidates, n_first, squares)
    slack = np.sqrt(row_squares(X))
    if metric == "cosine":
        lengths = np.sqrt(squares @ masks)
        np.divide(costs, lengths, out=costs, where=lengths > 0)
        return slack
    return (slack.repeat(n_first) * np.sqrt(squares.sum(axis=1))[: len(X) * n_first]).reshape(len(X), -1).max(axis=1)


def look_further(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    n_first: int,
    positions: np.ndarray,
    rows: np.ndarray,
    masks: np.ndarray,
    metric: str,
    doubtful: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Replace codes that are `doubtful` (YES, or CLOSE where this is still undecided) if a further candidate is nearer.

    Parameters
    ----------
    X, reference, candidates, positions, rows, masks, metric, n_first
        As in `nearest_centroids`, for dense rows.
    doubtful : ndarray of shape (n_samples, n_estimators), uint8
    codes : ndarray of shape (n_samples, n_estimators)
        Nearest among the first candidates; changed in place.
    """
    X, reference, candidates, positions, rows = read_only((X, reference, candidates, positions, rows))
    _look_further(
        X, reference, candidates, candidates, n_first, positions, rows, np.ascontiguousarray(masks.T),
        cost_fraction(masks, metric), relative_error(X.shape[1]), METRIC_NUMBERS[metric], doubtful, codes,
    )  # fmt: skip


@njit(cache=True, nogil=True, boundscheck=False)
def _terms(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    n_first: int,
    metric: int,
    terms: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Contribution of each feature to the cost of each of the first candidates, and their sum.

    ========== ========================= ======= ====================================================
    X          (n_rows, n_features)      float32
    reference  (n_reference, n_features) float32
    candidates (n_rows, n_candidates)    int32
    terms      (n_terms, n_features)     float32 written: row after row, n_first each, the rest zero
    totals     (n_terms,)                float32 written
    ========== ========================= ======= ====================================================
    """
    n_rows = len(candidates)
    for i in range(n_rows):
        for m in range(n_first):
            _add_terms(X[i], reference[candidates[i, m]], metric, terms[i * n_first + m])
            totals[i * n_first + m] = _sum(terms[i * n_first + m])
    terms[n_rows * n_first :] = 0


@njit(cache=True, nogil=True, inline="always")
def _add_terms(x: np.ndarray, y: np.ndarray, metric: int, terms: np.ndarray) -> None:
    """Write the contribution of each feature to the cost of y for x; arrays of shape (n_features,), float32."""
    if metric == EUCLIDEAN:
        for f in range(len(terms)):
            difference = x[f] - y[f]
            terms[f] = difference * difference
    else:
        for f in range(len(terms)):
            terms[f] = -x[f] * y[f]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _sum(terms: np.ndarray) -> np.float32:
    """Sum of an array of shape (n_features,), float32."""
    total = np.float32(0)
    for f in range(len(terms)):
        total += terms[f]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _dot(x: np.ndarray, y: np.ndarray) -> np.float32:
    """Inner product of arrays of shape (n_features,), float32."""
    total = np.float32(0)
    for f in range(len(x)):
        total += x[f] * y[f]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _four_dots(terms: np.ndarray, mask: np.ndarray) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    """Inner products of `terms`, of shape (4, n_features), with a mask that is read once."""
    first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for f in range(len(mask)):
        first += terms[0, f] * mask[f]
        second += terms[1, f] * mask[f]
        third += terms[2, f] * mask[f]
        fourth += terms[3, f] * mask[f]
    return first, second, third, fourth


@njit(cache=True, nogil=True, boundscheck=False)
def _squares(reference: np.ndarray, candidates: np.ndarray, n_first: int, out: np.ndarray) -> None:
    """Square the features of the first candidates.

    ========== ========================= ======= =====================================
    reference  (n_reference, n_features) float32
    candidates (n_rows, n_candidates)    int32
    out        (n_terms, n_features)     float32 written: row after row, n_first each
    ========== ========================= ======= =====================================
    """
    for i in range(len(candidates)):
        for m in range(n_first):
            y = reference[candidates[i, m]]
            squares = out[i * n_first + m]
            for f in range(len(y)):
                squares[f] = y[f] * y[f]


@njit(cache=True, nogil=True, boundscheck=False)
def _choose_dense(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    places: np.ndarray,
    n_first: int,
    positions: np.ndarray,
    feature_masks: np.ndarray,
    costs: np.ndarray,
    totals: np.ndarray,
    slack: np.ndarray,
    slope: np.float32,
    relative: np.float32,
    metric: int,
    k: int,
    codes: np.ndarray,
    doubtful: np.ndarray,
) -> None:
    """Choose the nearest of the first candidates, and flag the codes that are `doubtful`.

    ============= ============================ ======== =======================================================
    X             (n_rows, n_features)         float32
    reference     (n_reference, n_features)    float32
    candidates    (n_rows, n_candidates)       int32    rows of the reference
    places        (n_rows, n_candidates)       int32    rows of positions
    positions     (n_places, n_estimators)     unsigned positions of the centroids, k where not drawn
    feature_masks (n_estimators, n_features)   float32  one for the features of each clustering
    costs         (n_terms, n_estimators)      float32  of the first candidates, row after row, by matrix products
    totals        (n_terms,)                   float32  costs in all features
    slack         (n_rows,)                    float32  scale of the error of the costs; zero: their own size
    codes         (n_rows, n_estimators)       unsigned written: position of the nearest, k if none was drawn
    doubtful      (n_rows, n_estimators)       uint8    written: NO, YES or CLOSE
    ============= ============================ ======== =======================================================
    """
    n_estimators = positions.shape[1]
    best = np.empty(n_estimators, np.float32)
    second = np.empty(n_estimators, np.float32)
    sums = np.empty(n_estimators, np.float32)
    squares = np.empty(n_estimators, np.float32)
    for i in range(len(candidates)):
        terms = slice(i * n_first, (i + 1) * n_first)
        _scan(costs[terms], totals[terms], slope, places[i], positions, k, best, second, sums, squares, codes[i])
        largest = np.float32(0)
        for total in totals[terms]:
            largest = max(largest, abs(total))
        for v in range(n_estimators):
            limit = best[v] + relative * (abs(best[v]) if metric == EUCLIDEAN else slack[i])
            if second[v] <= limit and second[v] < np.inf:
                codes[i, v] = _nearest_within(
                    X[i], reference, candidates[i], positions[:, v], places[i], costs[terms, v], limit,
                    feature_masks[v], metric, k,
                )  # fmt: skip
        # No cost, and no fraction of a total, is off by more than a quarter of this, nor their mean by more than half
        error = (relative + np.float32(2) * n_first * EPSILON) * max(slack[i], largest)
        _flag(best, sums, squares, n_first, slope * totals[terms][-1], error, doubtful[i])


@njit(cache=True, nogil=True, inline="always")
def _scan(
    costs: np.ndarray,
    totals: np.ndarray,
    slope: np.float32,
    places: np.ndarray,
    positions: np.ndarray,
    k: int,
    best: np.ndarray,
    second: np.ndarray,
    sums: np.ndarray,
    squares: np.ndarray,
    choice: np.ndarray,
) -> None:
    """Find the two lowest costs of drawn candidates for one row, and how the costs of all first candidates spread.

    ========= ======================== ======== =================================================================
    costs     (n_first, n_estimators)  float32
    totals    (n_first,)               float32
    places    (n_candidates,)          int32
    positions (n_places, n_estimators) unsigned
    best      (n_estimators,)          float32  written: lowest cost of a drawn candidate, or infinity
    second    (n_estimators,)          float32  written: the next lowest
    sums      (n_estimators,)          float32  written: sum of the differences from the expected costs
    squares   (n_estimators,)          float32  written: sum of their squares
    choice    (n_estimators,)          unsigned written: position of the lowest, or k
    ========= ======================== ======== =================================================================
    """
    infinity = np.float32(np.inf)
    for v in range(len(best)):
        best[v] = infinity
        second[v] = infinity
        choice[v] = k
        sums[v] = 0
        squares[v] = 0
    for m in range(len(costs)):
        cost = costs[m]
        expected = slope * totals[m]
        position = positions[places[m]]
        for v in range(len(best)):
            value = cost[v] if position[v] != k else infinity
            better = value < best[v]
            second[v] = best[v] if better else min(second[v], value)
            choice[v] = position[v] if better else choice[v]
            best[v] = value if better else best[v]
            rest = cost[v] - expected
            sums[v] += rest
            squares[v] += rest * rest


@njit(cache=True, nogil=True, boundscheck=False)
def _nearest_within(
    x: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    positions: np.ndarray,
    places: np.ndarray,
    costs: np.ndarray,
    limit: np.float32,
    mask: np.ndarray,
    metric: int,
    k: int,
) -> int:
    """Position of the nearest of the candidates whose cost is at most `limit`, by exact costs, for one clustering.

    ========== ========================= ======== ===================================
    x          (n_features,)             float32
    reference  (n_reference, n_features) float32
    candidates (n_candidates,)           int32
    positions  (n_places,)               unsigned of the clustering, k where not drawn
    places     (n_candidates,)           int32
    costs      (n_first,)                float32
    mask       (n_features,)             float32
    ========== ========================= ======== ===================================
    """
    winner, choice = np.inf, k
    for m in range(len(costs)):
        position = positions[places[m]]
        if position == k or costs[m] > limit:
            continue
        cost = _exact_cost(x, reference[candidates[m]], mask, metric)
        if _is_nearer(cost, position, winner, choice):
            winner = cost
            choice = int(position)
    return choice


@njit(cache=True, nogil=True, inline="always")
def _flag(
    best: np.ndarray,
    sums: np.ndarray,
    squares: np.ndarray,
    n_first: int,
    expected: np.float32,
    error: float,
    doubtful: np.ndarray,
) -> None:
    """Flag the codes of one row that are doubtful; arrays as in `_scan`, `doubtful` as in `_choose_dense`."""
    for v in range(len(best)):
        mean = sums[v] / n_first
        square = squares[v] / n_first
        margin = expected + mean - best[v]
        unsure = np.float32(4) * error * (abs(margin) + error) + CLEAR * CLEAR * (
            np.float32(4) * error * (np.sqrt(square) + error) + np.float32(4) * n_first * EPSILON * square
        )
        clearness = _clearness(best[v], expected, mean, square)
        flag = YES if clearness < 0 else NO
        flag = CLOSE if abs(clearness) <= unsure else flag
        doubtful[v] = flag if best[v] < np.inf else NO


@njit(cache=True, nogil=True, boundscheck=False)
def _look_further(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    places: np.ndarray,
    n_first: int,
    positions: np.ndarray,
    rows: np.ndarray,
    feature_masks: np.ndarray,
    slope: np.float32,
    relative: np.float32,
    metric: int,
    doubtful: np.ndarray,
    codes: np.ndarray,
) -> None:
    """Search a nearer centroid among the candidates after the first, for doubtful codes.

    Arrays as in `_choose_dense`, `doubtful` read, `codes` changed in place, and

    ==== ================= ======== =====================================================
    rows (n_estimators, k) unsigned rows of the reference that each clustering drew
    ==== ================= ======== =====================================================
    """
    n_estimators, n_features = feature_masks.shape
    terms = np.zeros((_TOGETHER, n_features), np.float32)
    squares = np.zeros((_TOGETHER, n_features), np.float32)
    slack = np.zeros(_TOGETHER, np.float32)
    clusterings = np.empty(n_estimators, np.int64)
    winners = np.empty(n_estimators)
    for i in range(len(X)):
        x = X[i]
        n_doubtful = _confirm_doubts(
            x, reference, candidates[i, :n_first], rows, feature_masks, slope, metric, doubtful[i], codes[i],
            clusterings, winners,
        )  # fmt: skip
        if n_doubtful == 0:
            continue
        length = np.sqrt(_dot(x, x))
        for first in range(n_first, candidates.shape[1], _TOGETHER):
            n_together = min(_TOGETHER, candidates.shape[1] - first)
            near = candidates[i, first : first + n_together]
            for c in range(n_together):
                _prepare(x, reference[near[c]], length, metric, c, terms, squares, slack)
            for a in range(n_doubtful):
                v = clusterings[a]
                costs = _four_dots(terms, feature_masks[v])
                squared = _four_dots(squares, feature_masks[v]) if metric == COSINE else costs
                for c in range(n_together):
                    cost = costs[c]
                    if metric == COSINE and squared[c] < 0:
                        cost = cost / np.sqrt(-squared[c])
                    if cost - relative * (abs(cost) if metric == EUCLIDEAN else slack[c]) > winners[a]:
                        continue
                    position = positions[places[i, first + c], v]
                    if position == rows.shape[1]:
                        continue
                    exact = _exact_cost(x, reference[near[c]], feature_masks[v], metric)
                    before = _exact_cost(x, reference[rows[v, codes[i, v]]], feature_masks[v], metric)
                    if _is_nearer(exact, position, before, codes[i, v]):
                        winners[a] = exact
                        codes[i, v] = position


@njit(cache=True, nogil=True, inline="always")
def _prepare(
    x: np.ndarray,
    y: np.ndarray,
    length: np.float32,
    metric: int,
    c: int,
    terms: np.ndarray,
    squares: np.ndarray,
    slack: np.ndarray,
) -> None:
    """Write line c of the terms, squares and error scales of a further candidate y; `length` is that of the row x."""
    _add_terms(x, y, metric, terms[c])
    if metric == LINEAR:
        slack[c] = length * np.sqrt(_dot(y, y))
    elif metric == COSINE:
        slack[c] = length
        _add_terms(y, y, LINEAR, squares[c])


@njit(cache=True, nogil=True, boundscheck=False)
def _confirm_doubts(
    x: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    rows: np.ndarray,
    feature_masks: np.ndarray,
    slope: np.float32,
    metric: int,
    doubtful: np.ndarray,
    codes: np.ndarray,
    clusterings: np.ndarray,
    winners: np.ndarray,
) -> int:
    """Decide in float64 which codes of one row are doubtful, and return how many.

    ============= ========================== ======== ============================================
    x             (n_features,)              float32
    reference     (n_reference, n_features)  float32
    candidates    (n_first,)                 int32
    rows          (n_estimators, k)          unsigned
    feature_masks (n_estimators, n_features) float32
    doubtful      (n_estimators,)            uint8
    codes         (n_estimators,)            unsigned
    clusterings   (n_estimators,)            int64    written: clusterings whose codes are doubtful
    winners       (n_estimators,)            float64  written: costs of their codes
    ============= ========================== ======== ============================================
    """
    n_first, n_doubtful = len(candidates), 0
    expected = np.empty(0)
    for v in np.flatnonzero(doubtful):
        winner = _precise_cost(x, reference[rows[v, codes[v]]], feature_masks[v], metric)
        if doubtful[v] == CLOSE:
            if len(expected) == 0:
                expected = _expected_costs(x, reference, candidates, slope, metric)
            total, squares = 0.0, 0.0
            for m in range(n_first):
                rest = _precise_cost(x, reference[candidates[m]], feature_masks[v], metric) - expected[m]
                total += rest
                squares += rest * rest
            if _clearness(winner, expected[n_first - 1], total / n_first, squares / n_first) >= 0:
                continue
        clusterings[n_doubtful] = v
        winners[n_doubtful] = winner
        n_doubtful += 1
    return n_doubtful


@njit(cache=True, nogil=True, boundscheck=False)
def _expected_costs(
    x: np.ndarray, reference: np.ndarray, candidates: np.ndarray, slope: np.float32, metric: int
) -> np.ndarray:
    """Average cost of each candidate in the features of a clustering, of shape (n_first,), float64."""
    everything = np.ones(len(x), np.float32)
    expected = np.empty(len(candidates))
    for m in range(len(candidates)):
        expected[m] = slope * _precise_cost(x, reference[candidates[m]], everything, min(metric, LINEAR))
    return expected


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"}, boundscheck=False)
def _precise_cost(x: np.ndarray, y: np.ndarray, mask: np.ndarray, metric: int) -> np.float64:
    """As `_exact_cost`, but for the order of the sum, and many times as fast."""
    total, square = 0.0, 0.0
    if metric == EUCLIDEAN:
        for f in range(len(x)):
            difference = np.float64(x[f]) - np.float64(y[f])
            total += difference * difference * np.float64(mask[f])
        return total
    for f in range(len(x)):
        total -= np.float64(x[f]) * np.float64(y[f]) * np.float64(mask[f])
    if metric == COSINE:
        for f in range(len(x)):
            square += np.float64(y[f]) * np.float64(y[f]) * np.float64(mask[f])
        total = total / np.sqrt(square) if square > 0 else total
    return total


@njit(cache=True, nogil=True)
def _exact_cost(x: np.ndarray, y: np.ndarray, mask: np.ndarray, metric: int) -> np.float64:
    """Cost of the centroid y for the row x in the features of a mask, summed in their order in float64."""
    total, square = 0.0, 0.0
    for f in range(len(x)):
        if mask[f] != 0:
            if metric == EUCLIDEAN:
                difference = np.float64(x[f]) - np.float64(y[f])
                total += difference * difference
            else:
                total -= np.float64(x[f]) * np.float64(y[f])
                square += np.float64(y[f]) * np.float64(y[f])
    if metric == COSINE and square > 0:
        total /= np.sqrt(square)
    return total


# -- sparse rows


@njit(cache=True, nogil=True, boundscheck=False)
def _choose_sparse(
    x_starts: np.ndarray,
    x_columns: np.ndarray,
    x_values: np.ndarray,
    y_starts: np.ndarray,
    y_columns: np.ndarray,
    y_values: np.ndarray,
    candidates: np.ndarray,
    places: np.ndarray,
    n_first: int,
    positions: np.ndarray,
    masks: np.ndarray,
    slope: np.float32,
    metric: int,
    k: int,
    codes: np.ndarray,
) -> None:
    """Choose the nearest of the candidates; those after the first are compared where a code is doubtful.

    ========== ========================== ======== =====================================================
    x_...      CSR                        float32  rows: indptr, indices (sorted) and data
    y_...      CSR                        float32  reference
    candidates (n_rows, n_candidates)     int32    rows of the reference
    places     (n_rows, n_candidates)     int32    rows of positions
    positions  (n_places, n_estimators)   unsigned positions of the centroids, k where not drawn
    masks      (n_features, n_estimators) float32  one for the features of each clustering
    codes      (n_rows, n_estimators)     unsigned written: position of the nearest, k if none was drawn
    ========== ========================== ======== =====================================================
    """
    n_rows, n_candidates = candidates.shape
    n_estimators = positions.shape[1]
    cost = np.empty(n_estimators)
    square = np.empty(n_estimators)
    best = np.empty(n_estimators)
    sums = np.empty(n_estimators)
    squares = np.empty(n_estimators)
    for i in range(n_rows):
        x = slice(x_starts[i], x_starts[i + 1])
        choice = codes[i]
        choice[:] = k
        best[:] = np.inf
        sums[:] = 0
        squares[:] = 0
        clusterings = np.arange(n_estimators).astype(np.uint64)  # unsigned: no check for negative indices
        expected = 0.0
        for m in range(n_candidates):
            if m == n_first:
                clusterings = _doubtful(best, expected, sums, squares, n_first)
                if len(clusterings) == 0:
                    break
            row = candidates[i, m]
            y = slice(y_starts[row], y_starts[row + 1])
            total = _sparse_costs(
                x_columns[x], x_values[x], y_columns[y], y_values[y], masks, metric, clusterings, cost, square
            )
            expected = slope * total if m < n_first else expected
            position = positions[places[i, m]]
            for v in clusterings:
                if m < n_first:
                    rest = cost[v] - expected
                    sums[v] += rest
                    squares[v] += rest * rest
                if position[v] != k and _is_nearer(cost[v], position[v], best[v], choice[v]):
                    best[v] = cost[v]
                    choice[v] = position[v]


@njit(cache=True, nogil=True, boundscheck=False)
def _doubtful(best: np.ndarray, expected: float, sums: np.ndarray, squares: np.ndarray, n_first: int) -> np.ndarray:
    """Clusterings in which the code of a row is doubtful, uint64; arrays of shape (n_estimators,), float64."""
    clusterings = np.empty(len(best), np.uint64)
    n_doubtful = 0
    for v in range(len(best)):
        if best[v] < np.inf and _clearness(best[v], expected, sums[v] / n_first, squares[v] / n_first) < 0:
            clusterings[n_doubtful] = v
            n_doubtful += 1
    return clusterings[:n_doubtful]


@njit(cache=True, nogil=True, inline="always")
def _add_masked(value: float, mask: np.ndarray, clusterings: np.ndarray, out: np.ndarray) -> None:
    """Add ``value * mask`` to `out`, of shape (n_estimators,), at some clusterings; with vector instructions at all."""
    if len(clusterings) == len(out):
        for v in range(len(out)):
            out[v] += value * mask[v]
    else:
        for v in clusterings:
            out[v] += value * mask[v]


@njit(cache=True, nogil=True, inline="always")
def _sparse_costs(
    x_columns: np.ndarray,
    x_values: np.ndarray,
    y_columns: np.ndarray,
    y_values: np.ndarray,
    masks: np.ndarray,
    metric: int,
    clusterings: np.ndarray,
    cost: np.ndarray,
    square: np.ndarray,
) -> float:
    """Cost of one candidate for one row in some clusterings; returns the cost in all features.

    =========== ========================== ======= =================================================
    x_columns   (n_x,)                     int     features of the row that are not zero, ascending
    x_values    (n_x,)                     float32
    y_columns   (n_y,)                     int     features of the candidate
    y_values    (n_y,)                     float32
    masks       (n_features, n_estimators) float32
    clusterings (n_clusterings,)           uint64
    cost        (n_estimators,)            float64 written at `clusterings`
    square      (n_estimators,)            float64 memory for the squared lengths
    =========== ========================== ======= =================================================
    """
    cost[:] = 0
    square[:] = 0
    total = 0.0
    a, b, n_x, n_y = 0, 0, len(x_columns), len(y_columns)
    while a < n_x or b < n_y:
        in_x = a < n_x and (b >= n_y or x_columns[a] <= y_columns[b])
        in_y = b < n_y and (a >= n_x or y_columns[b] <= x_columns[a])
        x = np.float64(x_values[a]) if in_x else 0.0
        y = np.float64(y_values[b]) if in_y else 0.0
        mask = masks[x_columns[a] if in_x else y_columns[b]]
        term = (x - y) * (x - y) if metric == EUCLIDEAN else -x * y
        total += term
        _add_masked(term, mask, clusterings, cost)
        if metric == COSINE and in_y:
            _add_masked(y * y, mask, clusterings, square)
        a += in_x
        b += in_y
    if metric == COSINE:
        for v in clusterings:
            if square[v] > 0:
                cost[v] = cost[v] / np.sqrt(square[v])
    return total
