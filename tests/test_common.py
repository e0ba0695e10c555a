"""scikit-learn's own checks, for every estimator of the package.

A new estimator adds an instance of itself to ESTIMATORS, small enough that a hundred fits take seconds. An entry of
EXPECTED_FAILURES needs a reason that convinces.
"""

import warnings

import pytest
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from distill import Distiller

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 4, "learning_rate_init": 0.05}

# Four clusters, because the checks of sparse input want as many probabilities as there are classes in their y
ESTIMATORS = [
    Distiller(KMeans(4, n_init=1, random_state=0), **SMALL),
    Distiller(PCA(1), **SMALL),
    Distiller(LogisticRegression(), **SMALL),
    Distiller(LogisticRegression(), target="decision_function", **SMALL),
    Distiller(Ridge(), **SMALL),
    Distiller(IsolationForest(n_estimators=5, random_state=0), **SMALL),
    Distiller(GaussianMixture(2, random_state=0), weight_dtype="float16", **SMALL),
    Distiller(make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)), target="transform", **SMALL),
]


def expected_failures(estimator: BaseEstimator) -> dict[str, str]:
    """Return the checks that an estimator may fail, each with the reason."""
    return {}


with warnings.catch_warnings():
    warnings.simplefilter("ignore", SkipTestWarning)
    checks = parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)


@checks
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_checks(estimator, check):
    check(estimator)
