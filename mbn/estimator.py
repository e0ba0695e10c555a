"""The multilayer bootstrap network as a scikit-learn transformer."""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils import check_random_state, metadata_routing
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from mbn import accelerator, layers, output, structure
from mbn.checkpoint import Checkpoint
from mbn.columns import validate_rows
from mbn.metrics import Matrix
from mbn.parallel import run
from mbn.rows import Rows, fit_preparation, have_unit_length
from mbn.schedule import (
    FEW_FEATURES,
    automatic_schedule,
    draw_landmarks,
    most_centroids,
    n_used_features,
    ratio,
    schedule_from,
)

# Multiplications and additions of direct assignment in the bottom layer, which limit the automatic schedule: accuracy
# against time, a few minutes on two cores (docs/design.md).
DIRECT_OPERATIONS = 5e13
# Drawn candidates from which assignment "auto" is "neighbors". Time against exactness: on MNIST 99.6 % of the codes are
# exact with this many, 99.8 % with twice as many (the defaults), more where doubtful codes have further candidates.
_DRAWN_CANDIDATES = 16


def all_or_nothing(fit: Callable) -> Callable:
    """Make a fit that fails or is interrupted leave the estimator as it was."""

    @functools.wraps(fit)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded


class MultilayerBootstrapNetwork(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Multilayer bootstrap network: layers of random clusterings, from fine to coarse.

    Each layer holds `n_estimators` clusterings. A clustering draws k samples as its centroids, without any
    optimization, and assigns to every sample the code of the nearest centroid in a random part of the inputs. The
    codes are the input of the next layer, which has fewer centroids, until k is about the number of clusters: small
    differences vanish from layer to layer and large ones remain. The principal components of the top layer's codes
    span a space in which k-means or agglomerative clustering finds clusters that need not be round in the features.

    Parameters
    ----------
    n_components : int, default=None
        Number of principal components in the output; `n_clusters` if None.
    n_clusters : int, default=10
        A rough guess of the number of clusters. It sets the smallest layer, of at least 1.5 times as many centroids,
        and the default of `n_components`; the clusters themselves are found by the estimator that follows.
    n_estimators : int, default=400
        Number of clusterings in each layer; V in the paper.
    k : "auto", "stable", int or sequence of int, default="auto"
        Number of centroids in each layer, bottom first. An integer sets the bottom layer, and the others follow by
        `delta`. "auto" starts at half of the samples, or, with direct assignment, at the k that a budget of 5e13
        operations allows. With 2 to 8 features it starts at a fifth of the samples, 1000 at most, and at
        ``12 * n_clusters`` at least; with one feature at ``12 * n_clusters``. "stable" starts there, or at a half, a
        quarter, ... of that if two small networks on a sample of the rows agree better for it; for noisy samples of
        many features, such as short texts. With up to 8 features it is "auto".
    delta : float or "auto", default="auto"
        Ratio of the numbers of centroids in successive layers, in (0, 1). "auto" is 0.5, and 0.9 with 2 to 8 features.
        The most sensitive parameter.
    max_features : float, default=0.5
        Fraction of the inputs that each clustering uses, in (0, 1]; a in the paper. In the bottom layer a clustering
        uses at least 8 features, and all if there are fewer: half of two features would be another shape.
    metric : {"euclidean", "cosine", "linear", "auto"}, default="euclidean"
        Distance in the bottom layer. "cosine" and "linear" (the largest inner product is nearest) suit text. With
        "euclidean" neither an offset nor a common factor of the features changes the codes. "auto" is "cosine" if all
        samples have length one, as after `Normalizer`, and "euclidean" otherwise.
    assignment : {"auto", "direct", "neighbors"}, default="auto"
        "direct" compares every sample with every centroid of the bottom layer. "neighbors" compares it with the
        centroids among its nearest samples, which is far cheaper if k is a large fraction of the samples. "auto" is
        "neighbors" if at least 16 centroids are expected among the nearest samples, and "direct" otherwise.
    n_neighbors : int, default=64
        Number of nearest samples for assignment by neighbors; three times as many where the nearest centroid among
        them is not clearly nearer than a sample beyond them would be. The search is approximate if an exact one would
        take more than 2e13 operations.
    output : {"pca", "codes"}, default="pca"
        Output of `transform`: principal components, or the one-hot codes of the top layer as a CSR array.
    max_samples : int or float, default=None
        Number or fraction of the samples that may become centroids; all if None. Otherwise `fit` draws these samples
        and computes with them alone, so that its time does not grow with the samples in X.
    n_jobs : int, default=None
        Number of threads. Under ``joblib.parallel_config(backend=...)`` None means the workers of that backend, such
        as the processes of a Dask cluster. The result does not depend on it.
    device : str, default="cpu"
        Device for the products of the bottom layer: "cpu", or a torch device such as "cuda".
    memory : str, path or joblib.Memory, default=None
        Folder in which each finished layer is kept, so that a fit that was killed resumes after the last one. Needs a
        `random_state`. Files are found by samples and parameters, and checked; a layer whose file cannot be used is
        computed again, with a warning.
    random_state : int, RandomState instance or None, default=None
        Seed of all random draws: of the samples that may become centroids, of the centroids and inputs of every
        clustering, and of the start vectors of iterations. Pass an int for reproducible output across calls of `fit`.
    verbose : int, default=0
        Verbosity: 1 prints one line per layer.

    Attributes
    ----------
    k_ : tuple of int
        Number of centroids in each layer, bottom first.
    structure_ : dict of str to mbn.structure.Choice
        What was chosen from the samples: under the key "k" the candidates for the bottom layer, the agreement of two
        networks for each, the choice and the reason. Only for k "stable".
    components_ : ndarray of shape (n_components, n_estimators * k_[-1]), float32
        Principal directions of the top layer's one-hot codes. Only for output "pca".
    mean_ : ndarray of shape (n_estimators * k_[-1],), float32
        Mean of the top layer's one-hot codes. Only for output "pca".
    explained_variance_ratio_ : ndarray of shape (n_components,)
        Fraction of the codes' variance explained by each component. Only for output "pca".
    assignment_ : {"direct", "neighbors"}
        Assignment in use.
    metric_ : {"euclidean", "cosine", "linear"}
        Metric in use.
    seed_ : int
        Seed of all random draws, taken from `random_state`.
    preparation_ : mbn.rows.Preparation
        Transformation of samples before distances are computed.
    layers_ : list of mbn.layers.Layer
        Centroids and inputs of the clusterings of each layer, bottom first.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during `fit`. Only if all names are strings.

    See Also
    --------
    distill.Distiller : Distills the fitted network, or a pipeline that ends in a clusterer, into a small student.
    mbn.in_blocks : Calls a method with blocks of rows, for rows or outputs that are too large for memory.
    sklearn.ensemble.RandomTreesEmbedding : One-hot codes of random trees, fitted without targets.

    Notes
    -----
    The code of a sample depends on that sample alone: batches, chunks, workers and backends do not change it. Of
    centroids at equal distance, or with equally many shared codes, the one drawn first is chosen, in the order of each
    clustering.

    Up to 8 features (those that vary) count as few. Samples then have few neighbors, and some share no code with any
    centroid of a clustering above; such a sample follows the most similar of some others, where it would be assigned to
    the centroid drawn first.

    Distances are computed in float32, after offsets and a common factor have been removed in float64. A feature whose
    range is less than 2**-46 of its values is constant up to rounding, and left out. ``fit`` warns of features whose
    differences float32 cannot represent, and of integers past 2**53.

    A cluster has as many of the top layer's centroids as its share of the samples. Where the shares differ by more than
    a factor of two, k-means may split a large cluster and join two small ones, however far they are apart.

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

    # `out` is an argument of `transform`, not metadata for a pipeline to route
    __metadata_request__transform = {"out": metadata_routing.UNUSED}  # noqa: RUF012

    _parameter_constraints = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "k": [StrOptions({"auto", "stable"}), Interval(Integral, 1, None, closed="left"), "array-like"],
        "delta": [Interval(Real, 0, 1, closed="neither"), StrOptions({"auto"})],
        "max_features": [Interval(Real, 0, 1, closed="right")],
        "metric": [StrOptions({"euclidean", "cosine", "linear", "auto"})],
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
        n_components: int | None = None,
        *,
        n_clusters: int = 10,
        n_estimators: int = 400,
        k: str | int | Sequence[int] = "auto",
        delta: str | float = "auto",
        max_features: float = 0.5,
        metric: str = "euclidean",
        assignment: str = "auto",
        n_neighbors: int = 64,
        output: str = "pca",
        max_samples: int | float | None = None,
        n_jobs: int | None = None,
        device: str = "cpu",
        memory: Any = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
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
    def fit(self, X: Any, y: Any = None) -> "MultilayerBootstrapNetwork":
        """Draw the centroids of every layer.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
            Read in blocks. With `max_samples`, only the samples that may become centroids are used.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : MultilayerBootstrapNetwork
            A fit that fails or is interrupted leaves the estimator as it was.

        Raises
        ------
        ValueError
            If X is not finite, or has fewer samples than 1.5 times `n_clusters` or than the largest k; or if some of
            its values are too large for float32 beside the others.

        Warns
        -----
        UserWarning
            If float32 cannot represent the differences within a feature.
            With k "stable", if two networks hardly agree wherever the layers start.
            If a layer kept in `memory` cannot be used, or none can be kept; or if workers were lost.
        """
        self._fit(X)
        return self

    @all_or_nothing
    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit, and transform the same samples; equal to ``fit(X).transform(X)``.

        Without `max_samples` the transformation takes no time, since the codes of all samples have been computed.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
            As in `fit`.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32, or CSR array as from `encode`
            According to `output`.
        """
        return self._outputs(self._fit(X))

    def transform(self, X: Any, out: np.ndarray | None = None) -> Any:
        """Send samples through the layers, a block at a time.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
            Read in blocks.
        out : ndarray of shape (n_samples, n_components), float32, optional
            Array for the output, such as a memory-mapped file. Only for output "pca".

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32, or CSR array as from `encode`
            According to `output`; `out` if it was given.

        Raises
        ------
        ValueError
            If X is not finite or has other features than in `fit`, or if `out` does not fit.
        """
        X = self._check(X)
        kind = self._kind()
        if out is not None and kind == "one-hot":
            raise ValueError(
                "out= cannot hold the sparse matrix that output='codes' returns; use encode(X, one_hot=False, out=out)"
            )
        return self._stream(X, kind, out)

    def encode(self, X: Any, one_hot: bool = True, out: np.ndarray | None = None) -> Any:
        """Codes of the top layer.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
            Read in blocks.
        one_hot : bool, default=True
            Whether to return one-hot vectors; otherwise the index of the nearest centroid in every clustering, in the
            smallest type of unsigned integers.
        out : ndarray of shape (n_samples, n_estimators), optional
            Array for the indices, such as a memory-mapped file. Only with ``one_hot=False``.

        Returns
        -------
        CSR array of shape (n_samples, n_estimators * k_[-1]), float32, if `one_hot`
            Exactly n_estimators ones in every row.
        ndarray of shape (n_samples, n_estimators) otherwise
            Integers from 0 to k_[-1] - 1; `out` if it was given.

        Raises
        ------
        ValueError
            As in `transform`.
        """
        X = self._check(X)
        if out is not None and one_hot:
            raise ValueError("out= cannot hold a sparse matrix; set one_hot=False to write the codes as integers")
        return self._stream(X, "one-hot" if one_hot else "codes", out)

    def _fit(self, X: Any) -> "_Fitted":
        """Fit, and return what the fit has computed on the way."""
        begun = self._begin(X)
        n_landmarks = begun.sample.shape[0]
        n_components = self._n_components(n_landmarks, self.k_[-1])
        codes = self._fit_layers(begun)
        if self.output == "pca":
            self.components_, self.mean_, self.explained_variance_ratio_ = output.principal_components(
                codes, self.k_[-1], n_components, self.seed_
            )
        self._n_features_out = self.n_estimators * self.k_[-1] if self.output == "codes" else n_components
        return dataclasses.replace(begun, codes=codes)

    def _begin(self, X: Any) -> "_Fitted":
        """Validate samples and parameters, draw the samples that may become centroids, and choose the schedule."""
        self._validate_params()
        X = validate_rows(self, X, reset=True, accept_sparse="csr", dtype="numeric", ensure_min_samples=2)
        n_samples, n_features = X.shape
        if n_samples < 1.5 * self.n_clusters:
            raise ValueError(
                f"n_samples={n_samples} is less than 1.5 * n_clusters with n_clusters={self.n_clusters}: the top "
                "layer could not draw enough centroids. Give more rows or set a smaller n_clusters."
            )
        if self.device != "cpu":
            accelerator.resolve_device(self.device)
        rng = check_random_state(self.random_state)
        self.seed_ = int(rng.randint(np.iinfo(np.int32).max))
        n_landmarks = self._n_landmarks(n_samples)
        # All that follows depends on these samples only
        landmarks = None if self.max_samples is None else draw_landmarks(n_samples, n_landmarks, self.seed_)
        sample = X if landmarks is None else X[landmarks]
        self.metric_ = self.metric
        if self.metric == "auto":
            self.metric_ = "cosine" if have_unit_length(sample) else "euclidean"
        self.preparation_ = fit_preparation(sample, self.metric_, getattr(self, "feature_names_in_", None))
        n_varying = Rows(sample, self.preparation_).shape[1]
        self.k_ = self._schedule(n_landmarks, n_features, n_varying)
        self.assignment_ = self._choose_assignment(self.k_[0], n_landmarks)
        memory, pilot = self._memory(), None
        if hasattr(self, "structure_"):  # of an earlier fit
            del self.structure_
        if isinstance(self.k, str) and self.k == "stable":
            pilot = self._choose_structure(sample, n_varying, memory)
        return _Fitted(X, np.empty((0, 0), np.uint8), landmarks, sample, memory, pilot)

    def _outputs(self, fitted: "_Fitted") -> Any:
        """Return the output of the rows of the fit."""
        if self.max_samples is not None:
            return self._stream(fitted.X, self._kind())
        if self.output == "codes":
            return output.one_hot(fitted.codes, self.k_[-1])
        return output.project(fitted.codes, self.k_[-1], self.components_, self.mean_)

    def _choose_structure(self, sample: Matrix, n_varying: int, memory: Any) -> structure.Pilot | None:
        """Replace the default schedule by the one whose networks agree; returns the pilot that has chosen it."""
        if n_varying <= FEW_FEATURES:
            reason = f"{n_varying} features have a schedule of their own: the default"
            self.structure_ = {"k": structure.Choice("k", (), (), None, reason)}
            return None
        delta = ratio(self.delta, n_varying)
        pilot = self._pilot(sample, memory)
        choice = structure.choose_k(pilot, self.k_[0], self.n_clusters, delta)
        if choice.candidates and max(choice.scores) < structure.FLAT:
            warnings.warn(
                f"k='stable' found no structure to choose by: two networks on {choice.n_samples} rows agree at "
                f"{max(choice.scores):.2f} at best, of 1, wherever the layers start, as for rows without clusters. The "
                "default schedule is used.",
                stacklevel=6,  # the caller of fit
            )
        self.structure_ = {"k": choice}
        if choice.chosen is not None:
            self.k_ = schedule_from(choice.chosen, self.n_clusters, delta)
            self.assignment_ = self._choose_assignment(self.k_[0], sample.shape[0])
        return pilot

    def _pilot(self, sample: Matrix, memory: Any) -> structure.Pilot:
        """Return two small networks with the settings of this one, on a sample of the rows that may become centroids.

        Needs a schedule and a preparation.
        """
        few = Rows(sample, self.preparation_).shape[1] <= FEW_FEATURES
        return structure.Pilot(
            sample,
            self.preparation_,
            dataclasses.replace(self._settings(), guided=few),
            self._choose_assignment,
            self.n_components or self.n_clusters,
            memory,
            self._say,
        )

    def _say(self, line: str) -> None:
        """Print a line if `verbose` is set."""
        if self.verbose:
            print(f"[{type(self).__name__}] {line}", flush=True)

    def _fit_layers(self, begun: "_Fitted") -> np.ndarray:
        """Draw and assign all layers, or read their codes from `memory`; returns the codes of the top layer."""
        report = _Report(self.verbose, type(self).__name__, len(self.k_))
        kept = Checkpoint(begun.memory, begun.sample, self.preparation_)
        self.layers_ = []
        codes: Any = Rows(begun.sample, self.preparation_)  # of the input of the next layer
        n_features = codes.shape[1]
        settings = dataclasses.replace(self._settings(), guided=n_features <= FEW_FEATURES)
        for index, k in enumerate(self.k_):
            report.start(index, k)
            parameters = self._file_parameters(index, settings, n_features)
            known = kept.load(parameters)
            if index == 0:
                codes, layer = layers.fit_bottom(codes, k, settings, known)
            else:
                codes, layer = layers.fit_upper(codes, index, k, settings, self.k_[index - 1], known)
            if known is None:
                kept.save(parameters, codes)
            self.layers_.append(layer)
            report.end(known is not None)
        return codes

    def _settings(self) -> layers.LayerSettings:
        """Return the settings of the layers in this fit."""
        return layers.LayerSettings(
            n_estimators=int(self.n_estimators),
            max_features=float(self.max_features),
            seed=self.seed_,
            metric=self.metric_,
            assignment=self.assignment_,
            n_neighbors=int(self.n_neighbors),
            n_jobs=self.n_jobs,
            device=self.device,
        )

    def _file_parameters(self, index: int, settings: layers.LayerSettings, n_features: int) -> dict:
        """Return the parameters on which the codes of a layer depend, under the names that its file has for them."""
        n_used = n_used_features(settings.max_features, n_features)
        more = {} if n_used == max(1, round(settings.max_features * n_features)) else {"n_used_features": n_used}
        more |= {"guided": True} if settings.guided else {}
        return {
            **more,
            "layer": index,
            "k": list(self.k_[: index + 1]),
            "n_estimators": settings.n_estimators,
            "max_features": settings.max_features,
            "entropy": settings.seed,
            "metric": settings.metric,
            "assignment": settings.assignment,
            "n_neighbors": settings.n_neighbors,
        }

    def _memory(self) -> Any:
        """Return `memory`, or None with a warning if no layer could be found again."""
        if self.memory is not None and self.random_state is None:
            warnings.warn(
                "memory= keeps nothing without a random_state: every fit draws other centroids. Set random_state to "
                "an integer.",
                stacklevel=6,
            )
            return None
        return self.memory

    def _n_landmarks(self, n_samples: int) -> int:
        """Return the number of samples that may become centroids."""
        if self.max_samples is None:
            return n_samples
        exact = isinstance(self.max_samples, Integral)
        n_landmarks = int(self.max_samples) if exact else max(2, int(self.max_samples * n_samples))
        if n_landmarks > n_samples:
            raise ValueError(
                f"max_samples={self.max_samples} is more than the {n_samples} rows of X; use at most that many, or None"
            )
        if n_landmarks < 1.5 * self.n_clusters:
            raise ValueError(
                f"max_samples={self.max_samples} leaves {n_landmarks} rows to draw centroids from, less than "
                f"1.5 * n_clusters with n_clusters={self.n_clusters}; raise max_samples or lower n_clusters"
            )
        return n_landmarks

    def _schedule(self, n_landmarks: int, n_features: int, n_varying: int) -> tuple[int, ...]:
        """Return the number of centroids in each layer, for rows with `n_features`, of which `n_varying` are used."""
        delta = ratio(self.delta, n_varying)
        if not isinstance(self.k, (str, Integral)):
            schedule = tuple(int(k) for k in np.asarray(self.k).reshape(-1))
            if not schedule or not all(isinstance(k, (Integral, np.integer)) for k in np.asarray(self.k).reshape(-1)):
                raise ValueError(f"k={self.k!r} must hold one integer or more, one per layer")
        elif isinstance(self.k, Integral):
            schedule = schedule_from(int(self.k), self.n_clusters, delta)
        else:
            k_max = most_centroids(n_landmarks, self.n_clusters, n_varying)
            if self.assignment == "direct":
                per_centroid = n_landmarks * n_used_features(self.max_features, n_features) * self.n_estimators * 2
                k_max = min(k_max, max(int(DIRECT_OPERATIONS / per_centroid), int(np.ceil(1.5 * self.n_clusters))))
            schedule = automatic_schedule(n_landmarks, self.n_clusters, delta=delta, k_max=k_max)
        if min(schedule) < 1 or max(schedule) > n_landmarks:
            raise ValueError(
                f"k={self.k!r} requires {max(schedule)} centroids in a layer, but only {n_landmarks} rows can become "
                f"centroids; use values from 1 to {n_landmarks}"
            )
        return schedule

    def _choose_assignment(self, k: int, n_landmarks: int) -> str:
        """Return the assignment in a bottom layer of k centroids."""
        if self.assignment != "auto":
            return self.assignment
        n_neighbors = min(self.n_neighbors, n_landmarks)
        n_drawn = n_neighbors * k / n_landmarks
        return "neighbors" if n_drawn >= min(_DRAWN_CANDIDATES, k) else "direct"

    def _n_components(self, n_samples: int, k: int) -> int:
        """Return the number of principal components of the codes of a top layer of k centroids."""
        most = min(n_samples, self.n_estimators * k)
        if self.n_components is None:
            return min(self.n_clusters, most)
        if self.n_components > most:
            raise ValueError(
                f"n_components={self.n_components} is more than min(n_samples, n_estimators * k)={most}; "
                "set fewer components or give more rows"
            )
        return self.n_components

    def _check(self, X: Any) -> Matrix:
        """Validate samples to be transformed."""
        check_is_fitted(self)
        return validate_rows(self, X, reset=False, accept_sparse="csr", dtype="numeric")

    def _kind(self) -> str:
        """Return the kind of output of `transform`: "one-hot" or "components"."""
        return "one-hot" if self.output == "codes" else "components"

    def _stream(self, X: Matrix, kind: str, out: np.ndarray | None = None) -> Any:
        """Send validated samples through all layers, a block of them in each task.

        Parameters
        ----------
        X : ndarray or CSR of shape (n_samples, n_features)
        kind : {"components", "codes", "one-hot"}
        out : ndarray, optional
            Array for components or codes.
        """
        n_samples = X.shape[0]
        if kind == "components":
            found = _output_array(out, (n_samples, len(self.components_)), np.float32)
            projection = self.components_, self.mean_
        else:
            found = _output_array(out, (n_samples, self.n_estimators), np.min_scalar_type(self.k_[-1] - 1))
            projection = None
        settings = dataclasses.replace(self._settings(), n_jobs=1)  # within a task
        rows = Rows(X, self.preparation_)
        keys = layers.transform_blocks(n_samples, X.shape[1], self.n_estimators, self.n_neighbors, self.n_jobs)
        shared = (self.layers_, self.k_, settings, projection)
        for block, part in run(layers.transform_block, shared, keys, lambda block: (rows[block],), n_jobs=self.n_jobs):
            found[block] = part
        return output.one_hot(found, self.k_[-1]) if kind == "one-hot" else found

    def __sklearn_tags__(self) -> Any:
        """Declare sparse input and float32 output."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """What a fit has computed on the way to its attributes.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        The validated samples.
    codes : ndarray of shape (n_landmarks, n_estimators)
        Codes of the top layer; empty until they are computed.
    landmarks : ndarray of shape (n_landmarks,), or None
        Numbers of the samples that may become centroids; all if None.
    sample : ndarray or CSR of shape (n_landmarks, n_features)
        These samples.
    memory : object
        `memory`, or None where nothing is kept.
    pilot : mbn.structure.Pilot or None
        The pilot that has chosen the schedule.
    """

    X: Matrix
    codes: np.ndarray
    landmarks: np.ndarray | None
    sample: Matrix
    memory: Any
    pilot: structure.Pilot | None


def fit_with_pilot(
    network: MultilayerBootstrapNetwork, X: Any, chosen: dict[str, structure.Choice]
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Fit a network, and two small ones of disjoint draws on a sample of the rows.

    Parameters
    ----------
    network : MultilayerBootstrapNetwork
        Fitted in place.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    chosen : dict of str to mbn.structure.Choice
        What was chosen before, as by `propose_n_clusters`.

    Returns
    -------
    outputs : ndarray of shape (n_samples, n_components)
        Of the network.
    numbers : ndarray of shape (n_rows,)
        The rows in the sample.
    halves : list of two ndarray of shape (n_rows, n_components)
        Outputs of the small networks for these rows.
    """
    fitted = network._fit(X)
    pilot = network._pilot(fitted.sample, fitted.memory) if fitted.pilot is None else fitted.pilot
    choice = {**getattr(network, "structure_", {}), **chosen}.get("k")
    absolute = choice is not None and choice.absolute
    halves = pilot.halves(pilot.scaled(network.k_, 1.5 * network.n_clusters, absolute))
    numbers = pilot.numbers if fitted.landmarks is None else fitted.landmarks[pilot.numbers]
    return network._outputs(fitted), numbers, halves


def transform_valid(network: MultilayerBootstrapNetwork, X: Matrix) -> np.ndarray:
    """Principal components of rows that have been validated, by a fitted network: as `transform`, without a check.

    Parameters
    ----------
    network : MultilayerBootstrapNetwork
    X : ndarray or CSR of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_components), float32
    """
    return network._stream(X, "components")


def choose_metric(network: MultilayerBootstrapNetwork, X: Any, algorithm: str) -> structure.Choice | None:
    """Choose between the Euclidean and the cosine distance: whose clusters small networks find again more reliably.

    Parameters
    ----------
    network : MultilayerBootstrapNetwork
        Not changed; with the number of clusters, and metric "auto".
    X : array-like or sparse matrix of shape (n_samples, n_features)
    algorithm : {"kmeans", "agglomerative"}
        As in `mbn.clusters.find_clusters`.

    Returns
    -------
    mbn.structure.Choice or None
        Scores are mean Jaccard indices at the default schedule; see `mbn.structure.choose_metric`. None where nothing
        is compared: for rows of length one, whose metric is "cosine", few rows, up to eight features, or one cluster.
    """
    # The trial takes no draw from a generator of the user's
    seed = network.random_state if isinstance(network.random_state, Integral) else 0
    pilots, schedules = [], []
    for metric in ("auto", *structure.METRICS):
        trial = clone(network).set_params(metric=metric, random_state=int(seed), verbose=0)
        if trial.k == "stable":
            trial.set_params(k="auto")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the fit says it
            begun = trial._begin(X)
        n_features = Rows(begun.sample, trial.preparation_).shape[1]
        if metric == "auto":
            n_rows = min(begun.sample.shape[0], structure.PILOT_ROWS)
            few = n_rows < max(structure.FEWEST_ROWS, structure.FEWEST_PER_CLUSTER * network.n_clusters)
            if trial.metric_ == "cosine" or few or n_features <= FEW_FEATURES or network.n_clusters == 1:
                return None
            continue
        pilots.append(trial._pilot(begun.sample, begun.memory))
        schedules.append(pilots[-1].scaled(trial.k_, 1.5 * network.n_clusters))
    return structure.choose_metric(pilots, schedules, network.n_clusters, algorithm)


def propose_n_clusters(
    network: MultilayerBootstrapNetwork, X: Any, algorithm: str
) -> tuple[MultilayerBootstrapNetwork, dict[str, structure.Choice]]:
    """Choose the number of clusters, and the bottom layer if that is "stable", on a sample of the rows.

    Parameters
    ----------
    network : MultilayerBootstrapNetwork
        With `structure.GUESS` clusters.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    algorithm : {"kmeans", "agglomerative"}
        As in `mbn.clusters.find_clusters`.

    Returns
    -------
    network : MultilayerBootstrapNetwork
        Unfitted, with the number of clusters and the bottom layer.
    chosen : dict of str to mbn.structure.Choice
    """
    begun = network._begin(X)
    pilot = network._pilot(begun.sample, begun.memory) if begun.pilot is None else begun.pilot
    schedule = network.k_
    if isinstance(network.k, (str, Integral)):  # down to two clusters
        schedule = schedule_from(
            network.k_[0], 2, ratio(network.delta, Rows(begun.sample, network.preparation_).shape[1])
        )
    chosen = dict(getattr(network, "structure_", {}))
    scaled = pilot.scaled(schedule, 3, "k" in chosen and chosen["k"].absolute)
    chosen["n_clusters"] = choice = structure.choose_n_clusters(pilot, scaled, algorithm, network.n_components)
    proposed = clone(network).set_params(n_clusters=choice.chosen)
    if "k" in chosen:
        k, least = chosen["k"].chosen, math.ceil(1.5 * proposed.n_clusters)
        proposed.set_params(k="auto" if k is None else max(k, least))
    return proposed.set_params(random_state=network.random_state), chosen


def _output_array(out: np.ndarray | None, shape: tuple[int, int], dtype: Any) -> np.ndarray:
    """Check the array of the user, or allocate one."""
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

    def __init__(self, verbose: int, name: str, n_layers: int):
        self.verbose, self.name, self.n_layers = verbose, name, n_layers

    def start(self, index: int, k: int) -> None:
        """Print the first part of the line of a layer."""
        self.began = time.perf_counter()
        if self.verbose:
            print(f"[{self.name}] layer {index + 1} of {self.n_layers}, k={k} ...", end=" ", flush=True)

    def end(self, known: bool) -> None:
        """Print the seconds of the layer, or that its codes were read."""
        if self.verbose:
            print("from memory" if known else f"{time.perf_counter() - self.began:.1f} s", flush=True)
