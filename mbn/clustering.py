"""The multilayer bootstrap network as a scikit-learn clusterer."""

import warnings
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import ClassifierTags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _num_samples, check_is_fitted

from mbn.clusters import find_clusters, fit_temperature, median_gap, probabilities, space, stability
from mbn.columns import validate_rows
from mbn.estimator import MultilayerBootstrapNetwork, choose_metric, fit_with_pilot, propose_n_clusters, transform_valid
from mbn.structure import GUESS, Choice

# With outliers="auto" a row is left out if another network more likely than not puts it in another cluster
_LEAST_CERTAIN = 0.5
# Samples from which small networks can find a number of clusters
_FEWEST_SAMPLES = 100
# Parameters that are those of the network
_PASSED = (
    "n_components", "n_estimators", "k", "delta", "max_features", "metric", "assignment", "n_neighbors", "max_samples",
    "n_jobs", "device", "memory", "random_state", "verbose",
)  # fmt: skip


class MBNClustering(ClusterMixin, BaseEstimator):
    """Clusters found by a multilayer bootstrap network, with k-means or agglomerative clustering of its output.

    One estimator for what `MultilayerBootstrapNetwork` and a clusterer do in a pipeline, and more: the bottom layer
    that suits the samples, probabilities, a stability for each cluster, and the least certain samples left out.

    Parameters
    ----------
    n_clusters : int or "auto", default=10
        Number of clusters. "auto" proposes one, from 2 to 30: that of the clusters which small networks on a sample of
        the rows find again most reliably; one, with a warning, if they find none again. It is a number of clusters in
        the data, which need not be that of the classes somebody has in mind.
    algorithm : {"kmeans", "agglomerative"}, default="kmeans"
        Algorithm in the output of the network. "agglomerative" is Ward's; of more than 5000 samples it takes 5000 that
        are drawn, and the others follow the nearest of these.
    outliers : None, float or "auto", default=None
        Samples that get the label -1, in `labels_` and from `predict`: the least certain ones, whose largest
        probability is below `threshold_`. A float is their fraction in the fit, in [0, 1). "auto" leaves out samples
        that another network more likely than not would put in another cluster; see Notes.
    n_components : int, default=None
        Number of principal components of the network's output; `n_clusters` if None.
    n_estimators : int, default=400
        Number of clusterings in each layer.
    k : "stable", "auto", int or sequence of int, default="stable"
        Number of centroids in each layer, as in `MultilayerBootstrapNetwork`, whose default is "auto".
    delta : float or "auto", default="auto"
        Ratio of the numbers of centroids in successive layers.
    max_features : float, default=0.5
        Fraction of the inputs that each clustering uses.
    metric : {"auto", "euclidean", "cosine", "linear"}, default="auto"
        Distance in the bottom layer. With "cosine" the clusters are those of the directions of the network's output:
        k-means of rows scaled to length one. "auto" is "cosine" if all samples have length one, as text after
        `Normalizer`. For other samples it compares the clusters of small networks, and is "cosine" where two of these
        agree better with it than with "euclidean": `structure_` has both scores. With up to eight features, few
        samples, or n_clusters "auto" nothing is compared, and it is "euclidean".
    assignment : {"auto", "direct", "neighbors"}, default="auto"
        As in `MultilayerBootstrapNetwork`.
    n_neighbors : int, default=64
        Number of nearest samples for assignment by neighbors.
    max_samples : int or float, default=None
        Number or fraction of the samples with which the network is fitted; all if None. The clusters are found in the
        output of all.
    n_jobs : int, default=None
        Number of threads, or of the workers of a joblib backend. The result does not depend on it.
    device : str, default="cpu"
        Device for the products of the bottom layer.
    memory : str, path or joblib.Memory, default=None
        Folder in which each finished layer of the network is kept, and those of the pilot. Needs a `random_state`.
    random_state : int, RandomState instance or None, default=None
        Seed of all random draws. Pass an int for reproducible output across calls of `fit`.
    verbose : int, default=0
        Verbosity: 1 prints a line for each layer and each step of a pilot.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,), int
        Clusters of the samples of the fit, equal to ``predict`` of them; -1 for outliers.
    n_clusters_ : int
        Number of clusters: `n_clusters`, or the one proposed.
    stability_ : ndarray of shape (n_clusters,)
        Jaccard index of each cluster and the most similar one of a small network on a sample of the rows, a mean over
        two such networks, from 0 to 1. Clusters of .85 and more are found again by any network, those below .5 are due
        to chance or part of others. NaN for a cluster of which no row was drawn.
    network_ : MultilayerBootstrapNetwork
        The fitted network; its `transform` is the space of the clusters, with metric "cosine" after scaling to length
        one.
    clusters_ : mbn.clusters.Centers or mbn.clusters.Members
        Centers of the clusters in the network's output; or the rows that were agglomerated.
    temperature_, gap_ : float
        Of the probabilities: proportional to ``exp(-d / (gap_ * temperature_))`` with the squared distance d from a
        cluster.
    threshold_ : float
        Largest probability below which a sample is an outlier; 0 without outliers.
    structure_ : dict of str to mbn.structure.Choice
        What was chosen from the samples: candidates, scores, choice and reason, under the names of the parameters: "k"
        if that is "stable", "n_clusters" and "metric" if they are "auto". See `distill.plotting.StructureDisplay`.
    n_features_in_ : int
        Number of features seen during `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during `fit`. Only if all names are strings.

    See Also
    --------
    MultilayerBootstrapNetwork : The network as a transformer, for other clusterers or for an embedding.
    distill.Distiller : Distills the clusterer into a small student, by its probabilities.

    Notes
    -----
    `predict` depends on the sample alone: batches, chunks, workers and backends do not change its cluster.

    *What probabilities mean.* Two small networks (50 clusterings each, at most 2000 rows) are fitted on a sample of the
    rows with separate draws, and the temperature is the one at which the probabilities of one predict the clusters of
    the other best. So the probability of a cluster is that of finding the sample there with such a network, if the
    number of clusters is right. It is not the probability of being right: a cluster that every network finds is
    certain. Small networks agree less than large ones do, so that probabilities are on the careful side. A row far away
    from all others shares its codes with some cluster, and may be certain; outliers here are rows between clusters.

    References
    ----------
    X.-L. Zhang, "Multilayer bootstrap networks", Neural Networks 103 (2018) 29-43, arXiv:1408.0848.

    C. Hennig, "Cluster-wise assessment of cluster stability", Computational Statistics & Data Analysis 52 (2007).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.metrics import normalized_mutual_info_score
    >>> from mbn import MBNClustering
    >>> X, y = load_digits(return_X_y=True)
    >>> model = MBNClustering(10, n_estimators=50, random_state=0).fit(X)
    >>> bool(normalized_mutual_info_score(y, model.labels_) > 0.8)
    True
    >>> model.predict_proba(X[:2]).shape, model.stability_.shape, model.network_.k_[0]
    ((2, 10), (10,), 898)
    """

    _parameter_constraints = {  # noqa: RUF012
        **{name: MultilayerBootstrapNetwork._parameter_constraints[name] for name in _PASSED},
        "n_clusters": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "algorithm": [StrOptions({"kmeans", "agglomerative"})],
        "outliers": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left"), None],
    }

    def __init__(
        self,
        n_clusters: int | str = 10,
        *,
        algorithm: str = "kmeans",
        outliers: str | float | None = None,
        n_components: int | None = None,
        n_estimators: int = 400,
        k: str | int | Sequence[int] = "stable",
        delta: str | float = "auto",
        max_features: float = 0.5,
        metric: str = "auto",
        assignment: str = "auto",
        n_neighbors: int = 64,
        max_samples: int | float | None = None,
        n_jobs: int | None = None,
        device: str = "cpu",
        memory: Any = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.n_clusters = n_clusters
        self.algorithm = algorithm
        self.outliers = outliers
        self.n_components = n_components
        self.n_estimators = n_estimators
        self.k = k
        self.delta = delta
        self.max_features = max_features
        self.metric = metric
        self.assignment = assignment
        self.n_neighbors = n_neighbors
        self.max_samples = max_samples
        self.n_jobs = n_jobs
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "MBNClustering":
        """Fit the network and find the clusters in its output.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)
            As in `MultilayerBootstrapNetwork.fit`.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : MBNClustering
            A fit that fails or is interrupted leaves the estimator as it was.

        Raises
        ------
        ValueError
            As `MultilayerBootstrapNetwork.fit`; or with n_clusters "auto", if X has fewer than 100 samples.

        Warns
        -----
        UserWarning
            As `MultilayerBootstrapNetwork.fit`; or with n_clusters "auto", if no number of clusters is stable.
        """
        self._validate_params()
        parameters = {name: getattr(self, name) for name in _PASSED}
        if isinstance(self.n_clusters, str):
            network, chosen = self._propose(X, parameters)
        else:
            network, chosen = MultilayerBootstrapNetwork(n_clusters=self.n_clusters, **parameters), {}
            if self.metric == "auto" and (choice := choose_metric(network, X, self.algorithm)) is not None:
                network.set_params(metric=choice.chosen)
                chosen = {"metric": choice}
        n_clusters = network.n_clusters
        Z, numbers, halves = fit_with_pilot(network, X, chosen)
        Z, *halves = (space(part, n_clusters, network.metric_) for part in (Z, *halves))
        clusters = find_clusters(Z, n_clusters, self.algorithm, network.seed_)
        distances = clusters.squared_distances(Z)
        labels = distances.argmin(axis=1)
        apart = [
            find_clusters(half, n_clusters, self.algorithm, network.seed_).squared_distances(half) for half in halves
        ]
        gap, temperature = median_gap(distances), fit_temperature(apart)
        certainty = probabilities(distances, gap, temperature).max(axis=1)
        self.n_clusters_, self.network_, self.clusters_ = n_clusters, network, clusters
        self.gap_, self.temperature_ = gap, temperature
        self.stability_ = stability(labels[numbers], [part.argmin(axis=1) for part in apart], n_clusters)
        self.threshold_ = self._threshold(certainty)
        self.labels_ = np.where(certainty < self.threshold_, -1, labels)
        self.structure_ = {**getattr(network, "structure_", {}), **chosen}
        self.n_features_in_ = network.n_features_in_
        if hasattr(network, "feature_names_in_"):
            self.feature_names_in_ = network.feature_names_in_
        elif hasattr(self, "feature_names_in_"):  # of an earlier fit
            del self.feature_names_in_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Clusters of samples.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,), int
            From 0 to n_clusters - 1; -1 for outliers.

        Raises
        ------
        ValueError
            If X is not finite or has other features than in `fit`.
        """
        distances = self._squared_distances(X)
        labels = distances.argmin(axis=1)
        if self.threshold_ == 0:
            return labels
        certainty = probabilities(distances, self.gap_, self.temperature_).max(axis=1)
        return np.where(certainty < self.threshold_, -1, labels)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the clusters; see Notes for what they mean.

        Parameters
        ----------
        X : array-like, memory-mapped array or sparse matrix of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_clusters), float64
            Rows sum to one, of outliers too. The largest is that of the cluster that `predict` returns for samples that
            are no outliers.

        Raises
        ------
        ValueError
            As `predict`.
        """
        return probabilities(self._squared_distances(X), self.gap_, self.temperature_)

    def _propose(self, X: Any, parameters: dict) -> tuple[MultilayerBootstrapNetwork, dict[str, Choice]]:
        """Return an unfitted network with a number of clusters chosen from the samples, and all that was chosen."""
        if _num_samples(X) < _FEWEST_SAMPLES:
            raise ValueError(
                f"n_clusters='auto' needs {_FEWEST_SAMPLES} samples or more to compare small networks on, got "
                f"{_num_samples(X)}; give the number of clusters, or more samples"
            )
        network, chosen = propose_n_clusters(
            MultilayerBootstrapNetwork(n_clusters=GUESS, **parameters), X, self.algorithm
        )
        if network.n_clusters == 1:
            warnings.warn(
                f"n_clusters='auto' found no clusters: {chosen['n_clusters'].reason}. All samples get the label 0. "
                "Scale the features or give a number of clusters.",
                stacklevel=3,
            )
        return network, chosen

    def _squared_distances(self, X: Any) -> np.ndarray:
        """Return the squared distances of samples from the clusters."""
        check_is_fitted(self)
        rows = validate_rows(self, X, reset=False, accept_sparse="csr", dtype="numeric")
        Z = transform_valid(self.network_, rows)
        return self.clusters_.squared_distances(space(Z, self.n_clusters_, self.network_.metric_))

    def _threshold(self, certainty: np.ndarray) -> float:
        """Return the largest probability below which a sample is an outlier, for those of the fit."""
        if self.outliers is None:
            return 0.0
        if isinstance(self.outliers, str):
            return _LEAST_CERTAIN
        return float(np.sort(certainty)[int(self.outliers * len(certainty))]) if self.outliers else 0.0

    def __sklearn_tags__(self) -> Any:
        """Declare sparse input."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags = ClassifierTags()  # read by scikit-learn wherever there is a predict_proba
        return tags
