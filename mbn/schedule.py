"""Number of centroids per layer, and the random draws: landmarks, and rows and inputs of each clustering."""

import warnings

import numpy as np

# Key of the landmarks' random stream, larger than the index of any layer
_LANDMARK_STREAM = 1 << 20
# Rows of up to this many features have few neighbors, and every part of the features is another shape: all of them are
# used, and layers shrink slowly. Chosen on two-dimensional data sets; the data sets of docs/results/mbn.md have more.
FEW_FEATURES = 8
# Of rows with few features: the schedule starts at a fifth of the rows, so that a clustering is coarser than the gaps
# between single rows, at 1000 centroids at most, and at 12 for each cluster if there are so many rows. Of one feature
# it always starts at 12 for each cluster, since a line breaks at every gap.
_FEW_FRACTION, _FEW_MOST, _PER_CLUSTER = 5, 1000, 12
# Ratio of layers by default: of rows with few features, but more than one, and of others. A layer can only join what
# lies near each other along a curve, and a small step does so with fewer errors.
_FEW_DELTA, _DELTA = 0.9, 0.5


def n_used_features(max_features: float, n_features: int) -> int:
    """Return the number of features that a clustering of the bottom layer uses."""
    return max(1, round(max_features * n_features), min(n_features, FEW_FEATURES))


def ratio(delta: str | float, n_features: int) -> float:
    """Return the ratio of layers for rows of `n_features` features."""
    if not isinstance(delta, str):
        return float(delta)
    return _FEW_DELTA if 1 < n_features <= FEW_FEATURES else _DELTA


def most_centroids(n_rows: int, n_clusters: int, n_features: int) -> int:
    """Return the limit of the bottom layer in the automatic schedule."""
    least = min(n_rows // 2, _PER_CLUSTER * n_clusters)
    if n_features > FEW_FEATURES:
        return n_rows
    return least if n_features == 1 else max(least, min(n_rows // _FEW_FRACTION, _FEW_MOST))


def automatic_schedule(
    n_rows: int, n_clusters: int, *, delta: float = 0.5, k_max: int | None = None
) -> tuple[int, ...]:
    """Return the number of centroids per layer, bottom first.

    Starts at half of the rows (or at `k_max`, if that is less), shrinks by `delta` and stops before the first
    value under ``1.5 * n_clusters``: with fewer centroids a draw would often miss a cluster altogether.

    Parameters
    ----------
    n_rows : int
        Rows that may become centroids.
    n_clusters : int
        A rough guess of the number of clusters.
    delta : float
        Ratio of successive layers, in (0, 1).
    k_max : int, optional
        Upper limit of the bottom layer.

    Returns
    -------
    tuple of int
        At least one.

    Warns
    -----
    UserWarning
        If there is room for a single layer only.

    References
    ----------
    X.-L. Zhang, "Multilayer bootstrap networks", Neural Networks 103 (2018), arXiv:1408.0848.

    Examples
    --------
    >>> from mbn.schedule import automatic_schedule
    >>> automatic_schedule(1797, n_clusters=10)
    (898, 449, 224, 112, 56, 28)
    """
    smallest = 1.5 * n_clusters
    k = n_rows // 2 if k_max is None else min(n_rows // 2, k_max)
    k = max(k, min(n_rows, int(np.ceil(smallest))), 1)
    schedule = schedule_from(k, n_clusters, delta)
    if len(schedule) == 1:
        warnings.warn(
            f"The schedule has collapsed to the single layer {list(schedule)}: {n_rows} rows with "
            f"n_clusters={n_clusters} and delta={delta} leave no room for a second one. Give more rows, a "
            "smaller n_clusters, a larger delta, or an explicit k.",
            stacklevel=3,
        )
    return schedule


def schedule_from(k: int, n_clusters: int, delta: float) -> tuple[int, ...]:
    """Return the number of centroids per layer, bottom first, from k on down; see `automatic_schedule`.

    Examples
    --------
    >>> from mbn.schedule import schedule_from
    >>> schedule_from(100, n_clusters=10, delta=0.5)
    (100, 50, 25)
    """
    schedule = [k]
    while int(delta * schedule[-1]) >= 1.5 * n_clusters:
        schedule.append(int(delta * schedule[-1]))
    return tuple(schedule)


def draw_landmarks(n_samples: int, n_landmarks: int, seed: int) -> np.ndarray:
    """Draw the rows that may become centroids, without replacement.

    Returns
    -------
    ndarray of shape (n_landmarks,), int64
        Ascending.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_LANDMARK_STREAM,)))
    return np.sort(rng.permutation(n_samples)[:n_landmarks])


def draw(
    seed: int, layer: int, clustering: int, *, n_rows: int, k: int, n_inputs: int, n_used: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the centroids and the inputs of one clustering, each without replacement.

    Every pair of layer and clustering has its own random stream, so that the draw depends on nothing else.

    Returns
    -------
    rows : ndarray of shape (k,), int64
        In the order drawn, which also decides ties between centroids.
    used : ndarray of shape (n_used,), int64
        Ascending.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(layer, clustering)))
    rows = rng.permutation(n_rows)[:k]
    used = np.sort(rng.permutation(n_inputs)[:n_used])
    return rows, used
