"""The multilayer bootstrap network as a scikit-learn transformer."""

import time
from numbers import Integral, Real

import numpy as np
from joblib import Memory
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from mbn import accelerator, bottom, neighbors, output, upper
from mbn.parallel import blocks, run
from mbn.schedule import automatic_schedule, draw

# Direct assignment pays for every centroid of the bottom layer: the automatic schedule stays within this many
# multiplications and additions there (a few minutes on two cores).
_DIRECT_OPERATIONS = 5e13
# Among this many drawn candidates the nearest centroid is found for about 99.6 % of all codes, among twice as many
# (the defaults) for 99.94 %.
_DRAWN_CANDIDATES = 16
_ROW_BLOCK = 1024
# New rows go through the layers so many at a time, which bounds the memory for their codes.
_TRANSFORM_ROWS = 1 << 16
_CLUSTERINGS_PER_TASK = 8
# Which kernel of the upper layers is fastest where; they all give the same codes.
_COMPARED_ROWS = 8
_INDEXED_CENTROIDS = 1500
_RANKED_SHARE = 40
_DENSE_CENTROIDS = 64


class MultilayerBootstrapNetwork(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Layers of random clusterings whose shared codes reveal clusters of any shape.

    Each layer holds `n_estimators` clusterings. A clustering draws k data points as centroids, nothing is
    optimised, and gives every row the code of its nearest centroid in a random part of the inputs. The codes are
    the next layer's input, with fewer centroids there, until k is about the number of clusters: small differences
    are forgotten from layer to layer and large ones stay. Principal components of the top layer's codes are a
    space in which k-means or agglomerative clustering finds the clusters.

    Parameters
    ----------
    n_components : int, default=None
        Width of the output; `n_clusters` if None.
    n_clusters : int, default=10
        A rough guess of the number of clusters. Sets the smallest layer (1.5 times as many centroids, or more)
        and the default width of the output; the clusters themselves are left to the estimator that follows.
    n_estimators : int, default=400
        Clusterings per layer; V in the paper.
    k : "auto", int or sequence of int, default="auto"
        Centroids per layer, bottom first. An integer sets the bottom layer, the others follow by `delta`. "auto"
        starts at half of the rows, or, with direct assignment, at what a budget of 5e13 operations allows.
    delta : float, default=0.5
        Ratio of the numbers of centroids in successive layers, in (0, 1). The most sensitive setting.
    max_features : float, default=0.5
        Share of the inputs that each clustering looks at, in (0, 1]; a in the paper.
    metric : {"euclidean", "cosine", "linear"}, default="euclidean"
        What "nearest" means in the bottom layer. Cosine and linear (the largest inner product) suit text.
    assignment : {"auto", "direct", "neighbors"}, default="auto"
        "direct" compares every row with every centroid of the bottom layer. "neighbors" looks for the centroid
        among the drawn ones of the row's nearest rows, which is far cheaper while k is a large share of the rows.
        "auto" takes "neighbors" where at least 16 candidates can be expected to be drawn, "direct" elsewhere.
    n_neighbors : int, default=64
        Nearest rows that serve as candidates; only for assignment by neighbours.
    output : {"pca", "codes"}, default="pca"
        What `transform` returns: principal components, or the one-hot codes of the top layer as CSR.
    max_samples : int or float, default=None
        Rows, or share of the rows, that may become centroids; all if None.
    n_jobs : int, default=None
        Workers; see joblib. The result does not depend on it.
    device : str, default="cpu"
        Where the bottom layer's products run: "cpu", or a torch device such as "cuda".
    memory : str, path or joblib.Memory, default=None
        Caches each finished layer, so that an interrupted fit resumes.
    random_state : int, RandomState instance or None, default=None
    verbose : int, default=0
        One line per layer if 1.

    Attributes
    ----------
    k_ : tuple of int
        Centroids per layer.
    components_ : ndarray of shape (n_components, n_estimators * k_[-1]), float32
        Principal directions of the top layer's one-hot codes; only for output "pca", as the next two.
    mean_ : ndarray of shape (n_estimators * k_[-1],), float32
    explained_variance_ratio_ : ndarray of shape (n_components,)
    assignment_ : {"direct", "neighbors"}
        The assignment in use.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only if X had string column names in fit.

    See Also
    --------
    distill.Distiller : Imitates the fitted network, or a pipeline that ends in a clusterer, by a small student.

    Notes
    -----
    A row's code depends on that row alone: batches, chunks, workers and backends do not change it. Among centroids
    at equal distance, or with equally many shared codes, the one drawn first wins, in every clustering by its own
    order.

    References
    ----------
    X.-L. Zhang, "Multilayer bootstrap networks", Neural Networks 103 (2018) 29-43, arXiv:1408.0848.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.metrics import normalized_mutual_info_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from mbn import MultilayerBootstrapNetwork
    >>> X, y = load_digits(return_X_y=True)
    >>> teacher = make_pipeline(
    ...     MultilayerBootstrapNetwork(n_estimators=50, random_state=0), KMeans(10, n_init=10, random_state=0)
    ... )
    >>> bool(normalized_mutual_info_score(y, teacher.fit_predict(X)) > 0.8)
    True
    """

    _parameter_constraints = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "k": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left"), "array-like"],
        "delta": [Interval(Real, 0, 1, closed="neither")],
        "max_features": [Interval(Real, 0, 1, closed="right")],
        "metric": [StrOptions({"euclidean", "cosine", "linear"})],
        "assignment": [StrOptions({"auto", "direct", "neighbors"})],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "output": [StrOptions({"pca", "codes"})],
        "max_samples": [
            Interval(Integral, 2, None, closed="left"),
            Interval(Real, 0, 1, closed="right"),
            None,
        ],
        "n_jobs": [Integral, None],
        "device": [str],
        "memory": [object],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_components=None,
        *,
        n_clusters=10,
        n_estimators=400,
        k="auto",
        delta=0.5,
        max_features=0.5,
        metric="euclidean",
        assignment="auto",
        n_neighbors=64,
        output="pca",
        max_samples=None,
        n_jobs=None,
        device="cpu",
        memory=None,
        random_state=None,
        verbose=0,
    ):
        self.n_components = n_components
        self.n_clusters = n_clusters
        self.n_estimators = n_estimators
        self.k = k
        self.delta = delta
        self.max_features = max_features
        self.metric = metric
        self.assignment = assignment
        self.n_neighbors = n_neighbors
        self.output = output
        self.max_samples = max_samples
        self.n_jobs = n_jobs
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Draw the centroids of every layer.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not finite, or has fewer rows than 1.5 times `n_clusters` or than the largest k.
        """
        self._fit(X)
        return self

    def fit_transform(self, X, y=None):
        """Fit, and transform the same rows at no further cost; equal to ``fit(X).transform(X)``."""
        return self._answer(self._fit(X))

    def transform(self, X):
        """Send rows through the layers.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32, or CSR array as from `encode`
            According to `output`.
        """
        X = self._check(X)
        parts = [self._answer(self._codes(X[block])) for block in blocks(X.shape[0], _TRANSFORM_ROWS)]
        return _stack(parts)

    def encode(self, X):
        """One-hot codes of the top layer.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        CSR array of shape (n_samples, n_estimators * k_[-1]), float32
            Exactly n_estimators ones in every row.
        """
        X = self._check(X)
        parts = [output.one_hot(self._codes(X[block]), self.k_[-1]) for block in blocks(X.shape[0], _TRANSFORM_ROWS)]
        return _stack(parts)

    def _fit(self, X):
        self._validate_params()
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float32, order="C", ensure_min_samples=2)
        n_samples, n_features = X.shape
        if n_samples < 1.5 * self.n_clusters:
            raise ValueError(
                f"n_samples={n_samples} is less than 1.5 * n_clusters with n_clusters={self.n_clusters}: the top "
                "layer could not draw enough centroids. Give more rows or set a smaller n_clusters."
            )
        if self.device != "cpu":
            accelerator.resolve_device(self.device)
        rng = check_random_state(self.random_state)
        entropy = int(rng.randint(np.iinfo(np.int32).max))
        landmarks = self._draw_landmarks(n_samples, entropy)
        n_landmarks = n_samples if landmarks is None else len(landmarks)
        schedule = self._schedule(n_samples, n_landmarks, n_features)
        assignment = self._choose_assignment(schedule[0], n_landmarks)
        n_components = self._n_components(n_samples, schedule[-1])

        report = _Report(self.verbose, type(self).__name__, len(schedule))
        memory = self.memory if hasattr(self.memory, "cache") else Memory(self.memory, verbose=0)
        X, preparation = _prepare(X, self.metric)
        codes, layers = None, []
        for index, k in enumerate(schedule):
            report.start(index, k)
            arguments = (index, k, self.n_estimators, self.max_features, entropy, landmarks)
            if index == 0:
                fit_layer = memory.cache(_fit_bottom, ignore=["n_jobs", "device"])
                codes, layer = fit_layer(
                    X, *arguments, self.metric, assignment, self.n_neighbors, n_jobs=self.n_jobs, device=self.device
                )
            else:
                fit_layer = memory.cache(_fit_upper, ignore=["n_jobs"])
                codes, layer = fit_layer(codes, *arguments, schedule[index - 1], n_jobs=self.n_jobs)
            layers.append(layer)
            report.end()
        if self.output == "pca":
            self.components_, self.mean_, self.explained_variance_ratio_ = output.principal_components(
                codes, schedule[-1], n_components, entropy
            )
        self.k_ = schedule
        self.assignment_ = assignment
        self._preparation = preparation
        self._layers = layers
        self._n_features_out = self.n_estimators * schedule[-1] if self.output == "codes" else n_components
        return codes

    def _draw_landmarks(self, n_samples, entropy):
        if self.max_samples is None:
            return None
        n_landmarks = (
            self.max_samples if isinstance(self.max_samples, Integral) else max(2, int(self.max_samples * n_samples))
        )
        if n_landmarks > n_samples:
            raise ValueError(
                f"max_samples={self.max_samples} is more than the {n_samples} rows of X; use at most that many, or None"
            )
        if n_landmarks < 1.5 * self.n_clusters:
            raise ValueError(
                f"max_samples={self.max_samples} leaves {n_landmarks} rows to draw centroids from, less than "
                f"1.5 * n_clusters with n_clusters={self.n_clusters}; raise max_samples or lower n_clusters"
            )
        rng = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(_LANDMARK_STREAM,)))
        return np.sort(rng.permutation(n_samples)[:n_landmarks])

    def _schedule(self, n_samples, n_landmarks, n_features):
        if not isinstance(self.k, (str, Integral)):
            schedule = tuple(int(k) for k in np.asarray(self.k).reshape(-1))
            if not schedule or not all(isinstance(k, (Integral, np.integer)) for k in np.asarray(self.k).reshape(-1)):
                raise ValueError(f"k={self.k!r} must hold one integer or more, one per layer")
        else:
            k_max = None
            if isinstance(self.k, Integral):
                k_max = int(self.k)
            elif self.assignment == "direct":
                per_centroid = n_samples * max(1, round(self.max_features * n_features)) * self.n_estimators * 2
                k_max = max(int(_DIRECT_OPERATIONS / per_centroid), int(np.ceil(1.5 * self.n_clusters)))
            if k_max is not None and isinstance(self.k, Integral):
                schedule = _schedule_from(k_max, n_landmarks, self.n_clusters, self.delta)
            else:
                schedule = automatic_schedule(n_landmarks, self.n_clusters, delta=self.delta, k_max=k_max)
        if min(schedule) < 1 or max(schedule) > n_landmarks:
            raise ValueError(
                f"k={self.k!r} asks for {max(schedule)} centroids in a layer, but only {n_landmarks} rows can become "
                f"centroids; use values from 1 to {n_landmarks}"
            )
        return schedule

    def _choose_assignment(self, k, n_landmarks):
        if self.assignment != "auto":
            return self.assignment
        n_neighbors = min(self.n_neighbors, n_landmarks)
        expected = n_neighbors * k / n_landmarks
        return "neighbors" if expected >= min(_DRAWN_CANDIDATES, k) else "direct"

    def _n_components(self, n_samples, k):
        most = min(n_samples, self.n_estimators * k)
        if self.n_components is None:
            return min(self.n_clusters, most)
        if self.n_components > most:
            raise ValueError(
                f"n_components={self.n_components} is more than min(n_samples, n_estimators * k)={most}; "
                "ask for fewer components or give more rows"
            )
        return self.n_components

    def _check(self, X):
        check_is_fitted(self)
        return validate_data(self, X, accept_sparse="csr", dtype=np.float32, order="C", reset=False)

    def _codes(self, X):
        X = _apply_preparation(X, self._preparation)
        codes = _assign_bottom(
            X, self._layers[0], self.metric, self.assignment_, self.n_neighbors, self.n_jobs, self.device
        )
        for n_codes, layer in zip(self.k_, self._layers[1:]):
            codes = _assign_upper(codes, layer, n_codes, self.n_jobs)
        return codes

    def _answer(self, codes):
        if self.output == "codes":
            return output.one_hot(codes, self.k_[-1])
        return output.project(codes, self.k_[-1], self.components_, self.mean_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


_LANDMARK_STREAM = 1 << 20


def _schedule_from(k, n_landmarks, n_clusters, delta):
    if k > n_landmarks:
        return (k,)
    schedule = [k]
    while int(delta * schedule[-1]) >= max(1, 1.5 * n_clusters):
        schedule.append(int(delta * schedule[-1]))
    return tuple(schedule)


def _prepare(X, metric):
    """Rows as the bottom layer wants them, and how to bring new rows to the same form.

    Features without variance are left out. Euclidean: features far from zero for their spread are centred, which
    changes no distance but saves the products' precision; others stay as they are, so that ties stay ties.
    Cosine: rows of length one.
    """
    if sparse.issparse(X):
        X.sort_indices()
        minima, maxima = (np.asarray(part.todense()).reshape(-1) for part in (X.min(axis=0), X.max(axis=0)))
    else:
        minima, maxima = X.min(axis=0), X.max(axis=0)
    keep = np.flatnonzero(maxima > minima) if metric == "euclidean" else np.flatnonzero((maxima != 0) | (minima != 0))
    keep = np.arange(1) if len(keep) == 0 else keep
    mean = None
    if metric == "euclidean" and not sparse.issparse(X):
        middle = (minima / 2 + maxima / 2)[keep]
        distant = np.abs(middle) > 8 * (maxima / 2 - minima / 2)[keep]
        mean = np.where(distant, middle, 0).astype(np.float32) if distant.any() else None
    # squares must neither overflow nor vanish; a power of two changes no digit
    largest = max(float(np.abs(minima).max()), float(np.abs(maxima).max()))
    factor = 1.0 if largest == 0 or 1e-12 < largest < 1e12 else 2.0 ** -np.ceil(np.log2(largest))
    preparation = {
        "keep": None if len(keep) == X.shape[1] else keep,
        "mean": mean,
        "factor": None if factor == 1 else np.float32(factor),
        "unit": metric == "cosine",
    }
    return _apply_preparation(X, preparation), preparation


def _apply_preparation(X, preparation):
    if preparation["keep"] is not None:
        X = X[:, preparation["keep"]]
    if preparation["mean"] is not None:
        X = X - preparation["mean"]
    if preparation["factor"] is not None:
        X = X * preparation["factor"]
    if preparation["unit"]:
        lengths = np.sqrt(neighbors.row_squares(X))
        lengths[lengths == 0] = 1
        X = (sparse.diags_array(1 / lengths) @ X).tocsr() if sparse.issparse(X) else X / lengths[:, None]
        X = X.astype(np.float32, copy=False)
    if sparse.issparse(X):
        X.sort_indices()
        return X
    return np.ascontiguousarray(X)


def _draw_layer(layer, k, n_estimators, max_features, entropy, landmarks, n_rows, n_inputs):
    """Draw all clusterings of a layer; rows are numbered within the sorted `drawn` ones."""
    n_used = max(1, round(max_features * n_inputs))
    n_landmarks = n_rows if landmarks is None else len(landmarks)
    rows = np.empty((n_estimators, k), np.min_scalar_type(n_landmarks))
    used = np.empty((n_estimators, n_used), np.min_scalar_type(n_inputs))
    for v in range(n_estimators):
        rows[v], used[v] = draw(entropy, layer, v, n_rows=n_landmarks, k=k, n_inputs=n_inputs, n_used=n_used)
    flags = np.zeros(n_landmarks, bool)
    for v in range(n_estimators):
        flags[rows[v]] = True
    numbers = (np.cumsum(flags) - 1).astype(rows.dtype)
    for v in range(n_estimators):
        rows[v] = numbers[rows[v]]
    drawn = np.flatnonzero(flags)
    return (drawn if landmarks is None else landmarks[drawn]), rows, used


def _fit_bottom(
    X, layer, k, n_estimators, max_features, entropy, landmarks, metric, assignment, n_neighbors, *, n_jobs, device
):
    drawn, rows, used = _draw_layer(layer, k, n_estimators, max_features, entropy, landmarks, X.shape[0], X.shape[1])
    reference = X if len(drawn) == X.shape[0] else X[drawn]
    state = {"reference": reference, "rows": rows, "used": used}
    return _assign_bottom(X, state, metric, assignment, n_neighbors, n_jobs, device, entropy), state


def _assign_bottom(X, state, metric, assignment, n_neighbors, n_jobs, device, entropy=0):
    reference, rows, used = state["reference"], state["rows"], state["used"]
    n_samples = X.shape[0]
    if device != "cpu":
        device = accelerator.resolve_device(device)
        on_device = metric == "euclidean" and not sparse.issparse(X)
    else:
        on_device = False
    if assignment == "direct":
        if on_device:
            return accelerator.assign_direct(X, reference, rows, used, device).T.copy()
        groups = blocks(len(rows), _CLUSTERINGS_PER_TASK)
        tasks = [(X, reference, rows[group], used[group], metric) for group in groups]
        return np.concatenate(run(bottom.assign_direct, tasks, n_jobs=n_jobs)).T.copy()
    n_neighbors = min(n_neighbors, reference.shape[0])
    nearest = _nearest(X, reference, metric, n_neighbors, n_jobs, device if on_device else None, entropy)
    masks = np.zeros((X.shape[1], len(rows)), np.float32)
    np.put_along_axis(masks, used.T.astype(np.int64), 1, axis=0)
    positions = bottom.position_table(rows, reference.shape[0])
    if on_device:
        return accelerator.assign_neighbors(X, reference, nearest, positions, rows, masks, device)
    tasks = [
        (X[block], reference, nearest[block], positions, rows, masks, metric) for block in blocks(n_samples, _ROW_BLOCK)
    ]
    return np.concatenate(run(bottom.assign_neighbors, tasks, n_jobs=n_jobs))


def _nearest(X, reference, metric, n_neighbors, n_jobs, device, entropy):
    nearness = "euclidean" if metric == "euclidean" else "linear"
    if device is not None:
        return accelerator.nearest_rows(X, reference, n_neighbors, nearness, device)
    if X is reference and metric != "linear" and neighbors.is_large(X.shape[0], reference):
        return neighbors.approximate_rows(X, n_neighbors, metric, entropy, n_jobs)
    norms = neighbors.row_squares(reference)
    tasks = [(X[block], reference, n_neighbors, nearness, norms) for block in blocks(X.shape[0], _ROW_BLOCK)]
    return np.concatenate(run(neighbors.nearest_rows, tasks, n_jobs=n_jobs))


def _fit_upper(codes, layer, k, n_estimators, max_features, entropy, landmarks, n_codes, *, n_jobs):
    n_samples, n_inputs = codes.shape
    drawn, rows, used = _draw_layer(layer, k, n_estimators, max_features, entropy, landmarks, n_samples, n_inputs)
    state = {"codes": codes if len(drawn) == n_samples else codes[drawn], "rows": rows, "used": used}
    return _assign_upper(codes, state, n_codes, n_jobs), state


def _assign_upper(codes, state, n_codes, n_jobs):
    centroid_codes, rows, used = state["codes"], state["rows"], state["used"]
    n_samples, n_inputs = codes.shape
    k = rows.shape[1]
    if n_samples <= _COMPARED_ROWS:
        bits = upper.pack_used(used, n_inputs)
        return upper.match_compared(codes, centroid_codes, rows, bits)
    if k > _INDEXED_CENTROIDS and _RANKED_SHARE * k > len(centroid_codes):
        bits = upper.pack_used(used, n_inputs)
        index = upper.index_all(np.ascontiguousarray(centroid_codes.T), n_codes)
        positions = bottom.position_table(rows, len(centroid_codes))
        tasks = [(codes[block], index, positions, k, bits) for block in blocks(n_samples, _ROW_BLOCK)]
        return np.concatenate(run(upper.match_ranked, tasks, n_jobs=n_jobs))
    lines, centroid_lines = np.ascontiguousarray(codes.T), np.ascontiguousarray(centroid_codes.T)
    if k <= _DENSE_CENTROIDS and n_codes <= 256 and used.shape[1] <= 255:
        lines, centroid_lines = lines.astype(np.uint8), centroid_lines.astype(np.uint8)
        tasks = [(lines, centroid_lines, rows[v], used[v]) for v in range(len(rows))]
        matched = run(upper.match_dense, tasks, n_jobs=n_jobs)
    else:
        tasks = [(lines, centroid_lines, rows[v], used[v], n_codes) for v in range(len(rows))]
        matched = run(upper.match_indexed, tasks, n_jobs=n_jobs)
    return np.ascontiguousarray(np.array(matched).T)


def _stack(parts):
    if len(parts) == 1:
        return parts[0]
    return sparse.vstack(parts, format="csr") if sparse.issparse(parts[0]) else np.concatenate(parts)


class _Report:
    """One line per layer on standard output."""

    def __init__(self, verbose, name, n_layers):
        self.verbose, self.name, self.n_layers = verbose, name, n_layers

    def start(self, index, k):
        self.began = time.perf_counter()
        if self.verbose:
            print(f"[{self.name}] layer {index + 1} of {self.n_layers}, k={k} ...", end=" ", flush=True)

    def end(self):
        if self.verbose:
            print(f"{time.perf_counter() - self.began:.1f} s", flush=True)
