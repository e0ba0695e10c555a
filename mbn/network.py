"""The multilayer bootstrap network as a scikit-learn transformer."""

import functools
import time
import warnings
from numbers import Integral, Real

import numpy as np
from joblib import effective_n_jobs
from scipy import sparse
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, metadata_routing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from mbn import accelerator, bottom, neighbors, output, upper
from mbn.checkpoint import Checkpoint
from mbn.parallel import blocks, run
from mbn.rows import Rows, fit_preparation
from mbn.schedule import automatic_schedule, draw

# Direct assignment pays for every centroid of the bottom layer: the automatic schedule stays within this many
# multiplications and additions there (a few minutes on two cores).
_DIRECT_OPERATIONS = 5e13
# Among this many drawn candidates the nearest centroid is found for about 99.6 % of all codes, among twice as many
# (the defaults) for 99.94 %.
_DRAWN_CANDIDATES = 16
_ROW_BLOCK = 1024
_DIRECT_ROWS = 8192  # whose centroids are gathered once for each block
# Few rows are cut into so many tasks, of no less rows than that.
_TASKS, _LEAST_ROWS = 16, 128
# New rows go through the layers so many at a time, which bounds the memory for their codes.
_TRANSFORM_ROWS = 1 << 16
_CLUSTERINGS_PER_TASK = 8
# Which kernel of the upper layers is fastest where; they all give the same codes.
_COMPARED_ROWS = 8
_INDEXED_CENTROIDS = 1500
_RANKED_SHARE = 40
_DENSE_CENTROIDS = 64


def all_or_nothing(fit):
    """Make a fit that fails or is interrupted leave the estimator as it was."""

    @functools.wraps(fit)
    def guarded(self, *args, **kwargs):
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded


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
        Rows, or share of the rows, that may become centroids; all if None. With it, fit draws these rows and computes
        with them only, so that its cost does not grow with the rows of X.
    n_jobs : int, default=None
        Threads; under ``joblib.parallel_config(backend=...)`` None means that backend's workers, such as the processes
        of a Dask cluster. The result does not depend on it.
    device : str, default="cpu"
        Where the bottom layer's products run: "cpu", or a torch device such as "cuda".
    memory : str, path or joblib.Memory, default=None
        Folder in which each finished layer is kept, so that a fit that was killed goes on after the last one. Files are
        looked up by rows and parameters and checked; what cannot be used or written is computed, with a warning.
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

    # `out` and `one_hot` are no metadata that a pipeline could route
    __metadata_request__transform = {"out": metadata_routing.UNUSED}  # noqa: RUF012

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

    @all_or_nothing
    def fit(self, X, y=None):
        """Draw the centroids of every layer.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
            Read in blocks. With `max_samples`, only the rows that may become centroids are computed with.
        y : ignored

        Returns
        -------
        self
            A fit that fails or is interrupted leaves it as it was.

        Raises
        ------
        ValueError
            If X is not finite, or has fewer rows than 1.5 times `n_clusters` or than the largest k.

        Warns
        -----
        UserWarning
            If a layer kept in `memory` cannot be used, or none can be kept; or if workers were lost.
        """
        self._fit(X)
        return self

    @all_or_nothing
    def fit_transform(self, X, y=None):
        """Fit, and transform the same rows; equal to ``fit(X).transform(X)``.

        Without `max_samples` the transformation costs nothing, since all rows have gone through the layers.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32, or CSR array as from `encode`
        """
        X, codes = self._fit(X)
        return self._stream(X, self._answer_kind()) if self.max_samples is not None else self._answer(codes)

    def transform(self, X, out=None):
        """Send rows through the layers, a block at a time.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
        out : ndarray of shape (n_samples, n_components), float32, optional
            Where the answer is written, such as a memory-mapped file; only for output "pca".

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32, or CSR array as from `encode`
            According to `output`; `out` if it was given.
        """
        X = self._check(X)
        kind = self._answer_kind()
        if out is not None and kind == "one-hot":
            raise ValueError(
                "out= cannot hold the sparse matrix that output='codes' gives; use encode(X, one_hot=False, out=out)"
            )
        return self._stream(X, kind, out)

    def encode(self, X, one_hot=True, out=None):
        """Codes of the top layer.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
        one_hot : bool, default=True
            Whether a code is a row of zeros and ones; else it is the number of the nearest centroid in every
            clustering, in the smallest type of integers.
        out : ndarray of shape (n_samples, n_estimators), optional
            Where the numbers are written, such as a memory-mapped file; only with ``one_hot=False``.

        Returns
        -------
        CSR array of shape (n_samples, n_estimators * k_[-1]), float32
            Exactly n_estimators ones in every row. Or, with ``one_hot=False``:
        ndarray of shape (n_samples, n_estimators)
            Integers from 0 to k_[-1] - 1; `out` if it was given.
        """
        X = self._check(X)
        if out is not None and one_hot:
            raise ValueError("out= cannot hold a sparse matrix; set one_hot=False to write the codes as integers")
        return self._stream(X, "one-hot" if one_hot else "codes", out)

    def _fit(self, X):
        self._validate_params()
        X = validate_data(self, X, accept_sparse="csr", dtype="numeric", ensure_min_samples=2)
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
        # everything else depends on these rows only
        sample = X if landmarks is None else X[landmarks]
        n_landmarks = sample.shape[0]
        schedule = self._schedule(n_landmarks, n_features)
        assignment = self._choose_assignment(schedule[0], n_landmarks)
        n_components = self._n_components(n_landmarks, schedule[-1])

        report = _Report(self.verbose, type(self).__name__, len(schedule))
        kept = Checkpoint(self._memory(), sample)
        preparation = fit_preparation(sample, self.metric)
        rows = Rows(sample, preparation)
        settings = {
            "n_estimators": int(self.n_estimators), "max_features": float(self.max_features), "entropy": entropy,
            "metric": self.metric, "assignment": assignment, "n_neighbors": int(self.n_neighbors),
        }  # fmt: skip
        codes, layers = None, []
        for index, k in enumerate(schedule):
            report.start(index, k)
            parameters = {"layer": index, "k": list(schedule[: index + 1]), **settings}
            known = kept.load(parameters)
            arguments = (index, k, self.n_estimators, self.max_features, entropy)
            if index == 0:
                codes, layer = _fit_bottom(
                    rows, *arguments, self.metric, assignment, self.n_neighbors,
                    n_jobs=self.n_jobs, device=self.device, codes=known,
                )  # fmt: skip
            else:
                codes, layer = _fit_upper(codes, *arguments, schedule[index - 1], n_jobs=self.n_jobs, codes_above=known)
            if known is None:
                kept.save(parameters, codes)
            layers.append(layer)
            report.end(known is not None)
        if self.output == "pca":
            self.components_, self.mean_, self.explained_variance_ratio_ = output.principal_components(
                codes, schedule[-1], n_components, entropy
            )
        self.k_ = schedule
        self.assignment_ = assignment
        self._preparation = preparation
        self._layers = layers
        self._n_features_out = self.n_estimators * schedule[-1] if self.output == "codes" else n_components
        return X, codes

    def _memory(self):
        if self.memory is not None and self.random_state is None:
            warnings.warn(
                "memory= keeps nothing without a random_state: every fit draws other centroids. Set random_state to "
                "an integer.",
                stacklevel=5,
            )
            return None
        return self.memory

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

    def _schedule(self, n_landmarks, n_features):
        if not isinstance(self.k, (str, Integral)):
            schedule = tuple(int(k) for k in np.asarray(self.k).reshape(-1))
            if not schedule or not all(isinstance(k, (Integral, np.integer)) for k in np.asarray(self.k).reshape(-1)):
                raise ValueError(f"k={self.k!r} must hold one integer or more, one per layer")
        else:
            k_max = None
            if isinstance(self.k, Integral):
                k_max = int(self.k)
            elif self.assignment == "direct":
                per_centroid = n_landmarks * max(1, round(self.max_features * n_features)) * self.n_estimators * 2
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
        return validate_data(self, X, accept_sparse="csr", dtype="numeric", reset=False)

    def _answer_kind(self):
        return "one-hot" if self.output == "codes" else "components"

    def _stream(self, X, kind, out=None):
        """Answer for rows that were checked: each task takes a block of them through all layers."""
        n_samples = X.shape[0]
        if kind == "components":
            out = _output_array(out, (n_samples, len(self.components_)), np.float32)
        else:
            codes = out if kind == "codes" else None
            codes = _output_array(codes, (n_samples, self.n_estimators), np.min_scalar_type(self.k_[-1] - 1))
        projection = (self.components_, self.mean_) if kind == "components" else None
        model = (self._layers, self.k_, self.metric, self.assignment_, self.n_neighbors, self.device, projection)
        rows = Rows(X, self._preparation)
        n_rows = max(_ROW_BLOCK, -(-n_samples // effective_n_jobs(self.n_jobs)))
        n_rows = min(n_rows, _rows_at_once(self.n_estimators, X.shape[1], self.n_neighbors))
        for block, answer in run(
            _transform_block, model, blocks(n_samples, n_rows), lambda block: (rows[block],), n_jobs=self.n_jobs
        ):
            (out if kind == "components" else codes)[block] = answer
        return output.one_hot(codes, self.k_[-1]) if kind == "one-hot" else out if out is not None else codes

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


def _draw_layer(layer, k, n_estimators, max_features, entropy, n_rows, n_inputs):
    """Draw all clusterings of a layer; rows are numbered within the sorted `drawn` ones."""
    n_used = max(1, round(max_features * n_inputs))
    rows = np.empty((n_estimators, k), np.min_scalar_type(n_rows))
    used = np.empty((n_estimators, n_used), np.min_scalar_type(n_inputs))
    for v in range(n_estimators):
        rows[v], used[v] = draw(entropy, layer, v, n_rows=n_rows, k=k, n_inputs=n_inputs, n_used=n_used)
    flags = np.zeros(n_rows, bool)
    for v in range(n_estimators):
        flags[rows[v]] = True
    numbers = (np.cumsum(flags) - 1).astype(rows.dtype)
    for v in range(n_estimators):
        rows[v] = numbers[rows[v]]
    return np.flatnonzero(flags), rows, used


def _fit_bottom(
    X, layer, k, n_estimators, max_features, entropy, metric, assignment, n_neighbors, *, n_jobs, device, codes=None
):
    """Draw the bottom layer from the rows X, and compute its codes if they are not known."""
    drawn, rows, used = _draw_layer(layer, k, n_estimators, max_features, entropy, *X.shape)
    complete = len(drawn) == X.shape[0]
    state = {"reference": X.whole() if complete else X[drawn], "rows": rows, "used": used}
    if codes is None:
        codes = _assign_bottom(X, state, metric, assignment, n_neighbors, n_jobs, device, entropy, complete)
    return codes, state


def _assign_bottom(X, state, metric, assignment, n_neighbors, n_jobs, device, entropy=0, complete=False):
    """Codes of the rows X, which are a matrix or `Rows`; `complete` says that the reference is all of them."""
    reference, rows, used = state["reference"], state["rows"], state["used"]
    n_samples, k = X.shape[0], rows.shape[1]
    codes = np.empty((n_samples, len(rows)), np.min_scalar_type(k - 1))
    if device != "cpu":
        device = accelerator.resolve_device(device)
        on_device = metric == "euclidean" and not sparse.issparse(reference)
    else:
        on_device = False
    if assignment == "direct":
        if on_device:
            for block in blocks(n_samples, _TRANSFORM_ROWS):
                codes[block] = accelerator.assign_direct(X[block], reference, rows, used, device).T
            return codes
        shared = (reference, rows, used, metric)
        for block, found in run(
            _assign_direct, shared, _tasks(n_samples, _DIRECT_ROWS), lambda b: (X[b],), n_jobs=n_jobs
        ):
            codes[block] = found
        return codes
    n_neighbors = min(n_neighbors, reference.shape[0])
    nearest = _nearest(X, reference, metric, n_neighbors, n_jobs, device if on_device else None, entropy, complete)
    masks = np.zeros((X.shape[1], len(rows)), np.float32)
    np.put_along_axis(masks, used.T.astype(np.int64), 1, axis=0)
    positions = bottom.position_table(rows, reference.shape[0])
    if on_device:
        for block in blocks(n_samples, _TRANSFORM_ROWS):
            codes[block] = accelerator.assign_neighbors(
                X[block], reference, nearest[block], positions, rows, masks, device
            )
        return codes
    shared = (reference, positions, rows, masks, metric)
    for block, found in run(_assign_neighbors, shared, _tasks(n_samples), lambda b: (X[b], nearest[b]), n_jobs=n_jobs):
        codes[block] = found
    return codes


def _assign_direct(reference, rows, used, metric, X):
    return bottom.assign_direct(X, reference, rows, used, metric).T


def _assign_neighbors(reference, positions, rows, masks, metric, X, nearest):
    return bottom.assign_neighbors(X, reference, nearest, positions, rows, masks, metric)


def _nearest(X, reference, metric, n_neighbors, n_jobs, device, entropy, complete):
    nearness = "euclidean" if metric == "euclidean" else "linear"
    if device is None and complete and metric != "linear" and neighbors.is_large(X.shape[0], reference):
        return neighbors.approximate_rows(reference, n_neighbors, metric, entropy, n_jobs)
    nearest = np.empty((X.shape[0], n_neighbors), np.int32)
    if device is not None:
        for block in blocks(X.shape[0], _TRANSFORM_ROWS):
            nearest[block] = accelerator.nearest_rows(X[block], reference, n_neighbors, nearness, device)
        return nearest
    norms = np.concatenate([neighbors.row_squares(reference[b]) for b in blocks(reference.shape[0], _TRANSFORM_ROWS)])
    shared = (reference, n_neighbors, nearness, norms)
    for block, found in run(_nearest_rows, shared, _tasks(X.shape[0]), lambda b: (X[b],), n_jobs=n_jobs):
        nearest[block] = found
    return nearest


def _nearest_rows(reference, n_neighbors, nearness, norms, X):
    return neighbors.nearest_rows(X, reference, n_neighbors, nearness, norms)


def _fit_upper(codes, layer, k, n_estimators, max_features, entropy, n_codes, *, n_jobs, codes_above=None):
    """Draw an upper layer from the codes below it, and compute its codes if they are not known."""
    drawn, rows, used = _draw_layer(layer, k, n_estimators, max_features, entropy, *codes.shape)
    state = {"codes": codes if len(drawn) == len(codes) else codes[drawn], "rows": rows, "used": used}
    if codes_above is None:
        codes_above = _assign_upper(codes, state, n_codes, n_jobs)
    return codes_above, state


def _assign_upper(codes, state, n_codes, n_jobs):
    centroid_codes, rows, used = state["codes"], state["rows"], state["used"]
    n_samples, n_inputs = codes.shape
    k = rows.shape[1]
    if n_samples <= _COMPARED_ROWS:
        bits = upper.pack_used(used, n_inputs)
        return upper.match_compared(codes, centroid_codes, rows, bits)
    found = np.empty((n_samples, len(rows)), np.min_scalar_type(k - 1))
    if k > _INDEXED_CENTROIDS and _RANKED_SHARE * k > len(centroid_codes):
        bits = upper.pack_used(used, n_inputs)
        index = upper.index_all(np.ascontiguousarray(centroid_codes.T), n_codes)
        positions = bottom.position_table(rows, len(centroid_codes))
        shared = (index, positions, k, bits)
        for block, part in run(_match_ranked, shared, _tasks(n_samples), lambda b: (codes[b],), n_jobs=n_jobs):
            found[block] = part
        return found
    dense = k <= _DENSE_CENTROIDS and n_codes <= 256 and used.shape[1] <= 255
    dtype = np.uint8 if dense else codes.dtype
    shared = (np.ascontiguousarray(centroid_codes.T, dtype), rows, used, n_codes, dense)
    groups = blocks(len(rows), _CLUSTERINGS_PER_TASK)
    keys = [(block, group) for block in blocks(n_samples, _TRANSFORM_ROWS) for group in groups]
    lines = functools.lru_cache(maxsize=1)(lambda first, last: np.ascontiguousarray(codes[first:last].T, dtype))
    for (block, group), part in run(
        _match_lines, shared, keys, lambda key: (lines(key[0].start, key[0].stop), key[1]), n_jobs=n_jobs
    ):
        found[block, group] = part
    return found


def _match_ranked(index, positions, k, bits, codes):
    return upper.match_ranked(codes, index, positions, k, bits)


def _match_lines(centroid_lines, rows, used, n_codes, dense, lines, group):
    """Codes of some clusterings, for codes below that stand in one line per clustering."""
    found = np.empty((lines.shape[1], group.stop - group.start), np.min_scalar_type(rows.shape[1] - 1))
    for place, v in enumerate(range(group.start, group.stop)):
        if dense:
            found[:, place] = upper.match_dense(lines, centroid_lines, rows[v], used[v])
        else:
            found[:, place] = upper.match_indexed(lines, centroid_lines, rows[v], used[v], n_codes)
    return found


def _transform_block(layers, n_centroids, metric, assignment, n_neighbors, device, projection, X):
    """Send prepared rows through all layers; on to the principal components if there is a projection."""
    if sparse.issparse(layers[0]["reference"]) != sparse.issparse(X):  # fitted on rows of the other kind
        X = X.toarray() if sparse.issparse(X) else sparse.csr_array(X)
    codes = _assign_bottom(X, layers[0], metric, assignment, n_neighbors, 1, device)
    for n_codes, layer in zip(n_centroids, layers[1:]):
        codes = _assign_upper(codes, layer, n_codes, 1)
    return codes if projection is None else output.project(codes, n_centroids[-1], *projection)


def _tasks(n_samples, most=None):
    """Blocks of rows, of which there are enough for several workers."""
    return blocks(n_samples, max(_LEAST_ROWS, min(most or _ROW_BLOCK, -(-n_samples // _TASKS))))


def _rows_at_once(n_estimators, n_features, n_neighbors):
    """Rows that go through the layers together, for some quarter of scikit-learn's working_memory."""
    per_row = 12 * n_estimators + 8 * n_features + 16 * n_neighbors
    return int(np.clip(get_config()["working_memory"] * 2**18 // per_row, _LEAST_ROWS, _TRANSFORM_ROWS))


def _output_array(out, shape, dtype):
    """Check what the user gave to write to, or make it."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or not np.can_cast(dtype, out.dtype, "same_kind"):
        given = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else repr(type(out))
        raise ValueError(f"out={given} must be an array of shape {shape} that can hold {np.dtype(dtype)}")
    if out.dtype.itemsize < np.dtype(dtype).itemsize or not out.flags.writeable:
        raise ValueError(f"out= must be writeable and of {np.dtype(dtype)} or a larger type, got {out.dtype}")
    return out


class _Report:
    """One line per layer on standard output."""

    def __init__(self, verbose, name, n_layers):
        self.verbose, self.name, self.n_layers = verbose, name, n_layers

    def start(self, index, k):
        self.began = time.perf_counter()
        if self.verbose:
            print(f"[{self.name}] layer {index + 1} of {self.n_layers}, k={k} ...", end=" ", flush=True)

    def end(self, known):
        if self.verbose:
            print("from memory" if known else f"{time.perf_counter() - self.began:.1f} s", flush=True)
