"""Optimal one-dimensional k-means: the best codebook for scalar weights."""

import numpy as np
from numba import njit


def kmeans_1d(
    values: np.ndarray, n_clusters: int, sample_weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster scalars with the smallest sum of squared distances to the centers.

    In one dimension the optimal clusters are intervals of the sorted values, and dynamic programming finds the global
    optimum, without a seed or restarts. It takes O(n log n) operations per cluster, and 4 bytes of memory per distinct
    value and cluster.

    Parameters
    ----------
    values : ndarray of any shape
        Finite.
    n_clusters : int
        Largest number of centers, 1 or more; there are fewer if there are fewer distinct values.
    sample_weight : ndarray of the shape of `values`, optional
        Weights of the squared distances, 0 or more, not all zero; by default all 1.

    Returns
    -------
    centers : ndarray of shape (<= n_clusters,), float64
        Ascending.
    labels : ndarray of the shape of `values`, intp
        Position of every value's center.

    Raises
    ------
    ValueError
        If `values` is empty or not finite, or `n_clusters` is below 1.

    References
    ----------
    Wang, Song, "Ckmeans.1d.dp: optimal k-means clustering in one dimension by dynamic programming", The R Journal
    3(2), 2011. Wu, "Optimal quantization by matrix searching", Journal of Algorithms 12(4), 1991.

    Examples
    --------
    >>> from distill.compressors.codebook.kmeans import kmeans_1d
    >>> centers, labels = kmeans_1d([0.0, 5.0, 1.0, 6.0], 2)
    >>> centers, labels
    (array([0.5, 5.5]), array([0, 1, 0, 1]))
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0 or not np.all(np.isfinite(values)):
        raise ValueError(f"values must be finite, and at least one; got an array of shape {values.shape}")
    if n_clusters < 1:
        raise ValueError(f"n_clusters must be at least 1, got {n_clusters!r}")
    distinct, inverse = np.unique(values, return_inverse=True)
    given = np.ones(values.size) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64).ravel()
    weight = np.bincount(inverse.ravel(), weights=given, minlength=distinct.size)
    if n_clusters >= distinct.size:
        return distinct, inverse.reshape(values.shape)

    # Centered, because the cost of an interval is a difference of cumulative squares and would lose digits
    shifted = distinct - np.average(distinct, weights=weight)
    cumulative = np.zeros((3, distinct.size + 1))
    np.cumsum([weight, weight * shifted, weight * shifted**2], axis=1, out=cumulative[:, 1:])
    starts = _interval_starts(cumulative, n_clusters)
    mass, total = np.add.reduceat(weight, starts), np.add.reduceat(weight * distinct, starts)
    plain = np.add.reduceat(distinct, starts) / np.diff(np.append(starts, distinct.size))
    centers = np.where(mass > 0, total / np.where(mass > 0, mass, 1), plain)
    labels = np.searchsorted(starts, np.arange(distinct.size), side="right") - 1
    return centers, labels[inverse].reshape(values.shape)


@njit(cache=True)
def _interval_cost(cumulative, start, stop):
    """Return the weighted sum of squared distances to their mean of the values from start to stop - 1.

    `cumulative` is that of `_interval_starts`.
    """
    mass = cumulative[0, stop] - cumulative[0, start]
    if mass <= 0.0:
        return 0.0
    total = cumulative[1, stop] - cumulative[1, start]
    return max(cumulative[2, stop] - cumulative[2, start] - total * total / mass, 0.0)


@njit(cache=True)
def _interval_starts(cumulative, n_clusters):
    """Return the first position of each interval of the best partition into intervals.

    ========== =================== ======= ================================================================
    cumulative (3, n + 1)          float64 cumulative sums of weights, weighted values and weighted squares
    cost       (n + 1,)            float64 cost of the best partition of the first values
    last_start (n_clusters, n + 1) int32   start of the last interval of that partition
    starts     (n_clusters,)       int64   returned
    ========== =================== ======= ================================================================
    """
    n = cumulative.shape[1] - 1
    cost = np.empty(n + 1)
    for stop in range(n + 1):
        cost[stop] = _interval_cost(cumulative, 0, stop)
    last_start = np.zeros((n_clusters, n + 1), dtype=np.int32)
    for cluster in range(1, n_clusters):
        previous = cost.copy()
        start_of = last_start[cluster]
        cost[: cluster + 1] = np.inf  # no interval is empty
        # The best start is monotone in the stop: solve every other stop first, then between the starts of its neighbors
        stride = 1
        while stride < n:
            stride *= 2
        while stride >= 1:
            for stop in range(stride, n + 1, 2 * stride):
                if stop <= cluster:
                    continue
                low = max(start_of[stop - stride], cluster)
                high = stop - 1
                if stop + stride <= n:
                    high = min(high, start_of[stop + stride])
                best, best_start = np.inf, low
                for start in range(low, high + 1):
                    candidate = previous[start] + _interval_cost(cumulative, start, stop)
                    if candidate < best:
                        best, best_start = candidate, start
                cost[stop] = best
                start_of[stop] = best_start
            stride //= 2
    starts = np.empty(n_clusters, dtype=np.int64)
    stop = n
    for cluster in range(n_clusters - 1, -1, -1):
        stop = last_start[cluster, stop] if cluster else 0
        starts[cluster] = stop
    return starts
