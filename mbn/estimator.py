"""The multilayer bootstrap network as a scikit-learn transformer."""

import functools
import time
import warnings
from numbers import Integral, Real

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state, metadata_routing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from mbn import accelerator, layers, output
from mbn.checkpoint import Checkpoint
from mbn.parallel import run
from mbn.rows import Rows, fit_preparation
from mbn.schedule import automatic_schedule, schedule_from

# Direct assignment pays for every centroid of the bottom layer: the automatic schedule stays within this many
# multiplications and additions there (a few minutes on two cores).
_DIRECT_OPERATIONS = 5e13
# Among this many drawn candidates the nearest centroid is found for about 99.6 % of all codes, among twice as many
# (the defaults) for 99.8 %, and more where doubtful codes look further.
_DRAWN_CANDIDATES = 16
_LANDMARK_STREAM = 1 << 20


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
        Nearest rows that serve as candidates; only for assignment by neighbours. Three times as many where the nearest
        drawn one is not clearly nearer than a row beyond would be. Past some 2e13 operations the search is approximate.
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
        codes, fitted = None, []
        for index, k in enumerate(schedule):
            report.start(index, k)
            parameters = {"layer": index, "k": list(schedule[: index + 1]), **settings}
            known = kept.load(parameters)
            arguments = (index, k, self.n_estimators, self.max_features, entropy)
            if index == 0:
                codes, layer = layers.fit_bottom(
                    rows, *arguments, self.metric, assignment, self.n_neighbors,
                    n_jobs=self.n_jobs, device=self.device, codes=known,
                )  # fmt: skip
            else:
                codes, layer = layers.fit_upper(
                    codes, *arguments, schedule[index - 1], n_jobs=self.n_jobs, codes_above=known
                )
            if known is None:
                kept.save(parameters, codes)
            fitted.append(layer)
            report.end(known is not None)
        if self.output == "pca":
            self.components_, self.mean_, self.explained_variance_ratio_ = output.principal_components(
                codes, schedule[-1], n_components, entropy
            )
        self.k_ = schedule
        self.assignment_ = assignment
        self._preparation = preparation
        self._layers = fitted
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
        elif isinstance(self.k, Integral):
            schedule = schedule_from(int(self.k), self.n_clusters, self.delta)
        else:
            k_max = None
            if self.assignment == "direct":
                per_centroid = n_landmarks * max(1, round(self.max_features * n_features)) * self.n_estimators * 2
                k_max = max(int(_DIRECT_OPERATIONS / per_centroid), int(np.ceil(1.5 * self.n_clusters)))
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
        keys = layers.transform_blocks(n_samples, X.shape[1], self.n_estimators, self.n_neighbors, self.n_jobs)
        for block, answer in run(layers.transform_block, model, keys, lambda block: (rows[block],), n_jobs=self.n_jobs):
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
