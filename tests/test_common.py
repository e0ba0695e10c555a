"""scikit-learn's own checks, for every estimator of both packages.

Compressors come from the registry; ESTIMATORS holds instances that are small enough for a hundred fits in a few
seconds, and a compressor without one is checked with its defaults. An entry of EXPECTED_FAILURES needs a convincing
reason.
"""

import warnings

import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

import distill
from distill import (
    AutoCompressor,
    CodebookCompressor,
    Distiller,
    MatrixGaussianCompressor,
    RandomCodeCompressor,
    SpikeSlabCompressor,
)
from distill.base import StudentMixin
from distill.compressors import COMPRESSORS, compressor_class
from mbn import MBNClustering, MultilayerBootstrapNetwork
from mbn.preprocessing import ImageMoments

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 1, "learning_rate_init": 0.1}  # an epoch of so few rows is 64 steps
# Four clusters, because the checks of sparse input want as many probabilities as there are classes in their y
CLUSTERS = Distiller(KMeans(4, n_init=1, random_state=0), **SMALL)
NETWORK = {"hidden_layer_sizes": (8,), "solver": "lbfgs", "max_iter": 20, "random_state": 0}
ESTIMATORS = [
    MultilayerBootstrapNetwork(n_clusters=2, n_estimators=20),
    CLUSTERS,
    ImageMoments((1, -1)),  # for any number of features
    MBNClustering(4, n_estimators=10),
    Distiller(PCA(1), **SMALL),
    Distiller(LogisticRegression(), **SMALL),
    Distiller(Ridge(), **SMALL),
    Distiller(IsolationForest(n_estimators=5, random_state=0), weight_dtype="float16", **SMALL),
    CodebookCompressor(MLPClassifier(**NETWORK), max_iter=1),
    SpikeSlabCompressor(MLPRegressor(**NETWORK), max_iter=1, fine_tune_iter=1),
    MatrixGaussianCompressor(CLUSTERS, max_iter=1),
    MatrixGaussianCompressor(MLPRegressor(**NETWORK), max_iter=1),
    RandomCodeCompressor(
        Distiller(PCA(1), **SMALL),
        bits_per_weight=2.0,
        bits_per_block=8,
        n_steps=10,
        n_steps_between_blocks=0,
        n_refinements=0,
    ),
    AutoCompressor(CLUSTERS, max_bytes=10**5, methods=["spike_slab"], effort=0.02, refit=False),
]
ESTIMATORS += [
    compressor_class(method)(CLUSTERS)
    for method, name in COMPRESSORS.items()
    if name not in {type(estimator).__name__ for estimator in ESTIMATORS}
]
# Few rows give the bootstrap network one layer, and a network of few epochs has not converged: both warn
EXPECTED_WARNINGS = (
    pytest.mark.filterwarnings("ignore:The schedule has collapsed"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning"),
)
EXPECTED_FAILURES: dict[type, dict[str, str]] = {}


@pytest.fixture(autouse=True)
def few_steps(limit_training, request):
    """Train for fewer steps than students of few rows do, except where a check is about what was learned."""
    check = getattr(request.node, "callspec", None) and request.node.callspec.params["check"]
    if check and not check.func.__name__.endswith(("_train", "_one_label_sample_weights")):
        limit_training(min_steps=4)


def checks(estimators):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)
        return parametrize_with_checks(
            estimators, expected_failed_checks=lambda estimator: EXPECTED_FAILURES.get(type(estimator), {})
        )


@checks(ESTIMATORS[:4])
@EXPECTED_WARNINGS[0]
@EXPECTED_WARNINGS[1]
@EXPECTED_WARNINGS[2]
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@checks(ESTIMATORS[4:])
@EXPECTED_WARNINGS[0]
@EXPECTED_WARNINGS[1]
@EXPECTED_WARNINGS[2]
def test_scikit_learn_checks_of_all_others(estimator, check):
    check(estimator)


def test_no_estimator_is_left_out():
    public = (getattr(distill, name) for name in distill.__all__)
    estimators = {value for value in public if isinstance(value, type) and issubclass(value, StudentMixin)}
    assert estimators <= {type(estimator) for estimator in ESTIMATORS}
