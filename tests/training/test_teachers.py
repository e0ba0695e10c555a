"""Targets of teachers: which method is called, and how its predictions are read."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.manifold import TSNE
from sklearn.metrics import r2_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from distill.teachers import fit_and_predict, predict, read_predictions, resolve_target
from distill.training.fidelity import explained_variance, fidelity


@pytest.mark.parametrize(
    "teacher, expected",
    [
        (KMeans(), "predict"),
        (DBSCAN(), "predict"),
        (AgglomerativeClustering(), "predict"),
        (TSNE(), "transform"),
        (PCA(), "transform"),
        (make_pipeline(PCA(), KMeans()), "predict"),
        (GaussianMixture(), "predict_proba"),
        (RandomForestClassifier(), "predict_proba"),
        (SVC(), "predict"),
        (Ridge(), "predict"),
        (IsolationForest(), "decision_function"),
        (LocalOutlierFactor(), "predict"),
    ],
)
def test_automatic_target(teacher, expected):
    assert resolve_target(teacher) == expected


@pytest.mark.parametrize(
    "teacher, target, error, message",
    [
        (KMeans(), "nonsense", ValueError, "target must be"),
        (KMeans(), "predict_proba", ValueError, "KMeans does not have it; it offers predict, transform"),
        (KMeans, "auto", TypeError, "instance"),
        (3, "auto", TypeError, "fit method"),
        (KernelDensity(), "auto", TypeError, "KernelDensity has none of them"),
    ],
)
def test_impossible_target_raises(teacher, target, error, message):
    with pytest.raises(error, match=message):
        resolve_target(teacher, target)


def test_frozen_teacher_is_not_fitted_again():
    X = np.random.default_rng(0).normal(size=(30, 2))
    fitted = KMeans(2, n_init=1, random_state=0).fit(X)
    centers = fitted.cluster_centers_.copy()
    _, answers = fit_and_predict(FrozenEstimator(fitted), X[:7] + 1, target="predict")
    assert len(answers) == 7
    np.testing.assert_array_equal(fitted.cluster_centers_, centers)


def test_frozen_teacher_without_predict_uses_its_labels():
    X = np.random.default_rng(0).normal(size=(30, 2))
    frozen = FrozenEstimator(AgglomerativeClustering(3).fit(X))
    _, answers = fit_and_predict(frozen, X, target="predict")
    np.testing.assert_array_equal(answers, frozen.labels_)
    with pytest.raises(ValueError, match="the 30 rows of its fit only"):
        fit_and_predict(frozen, X[:9], target="predict")


def test_transductive_teacher_on_new_rows_raises():
    with pytest.raises(ValueError, match="pass the expected predictions as y"):
        predict(DBSCAN(), np.zeros((2, 2)), "predict")


def test_classes_without_predictions_are_kept():
    X = np.array([[0.0], [0.1], [5.0], [5.1], [5.05]])
    teacher = LogisticRegression(C=1e-3).fit(X, ["a", "b", "c", "c", "c"])
    answers = read_predictions(teacher, ["c", "a", "c"], "predict", 3)
    assert answers.classes.tolist() == ["a", "b", "c"] and answers.values.tolist() == [2, 0, 2]


def test_string_labels_are_plain_strings():
    answers = read_predictions(DBSCAN(), np.array(["cat", "dog", "cat"], dtype=object), "predict", 3)
    assert answers.classes.dtype.kind == "U" and answers.values.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    "answers, target, message",
    [
        ([1, 1, 1], "predict", "one class"),
        ([1, 2], "predict", "neither add nor drop"),
        ([[1, 2], [1, 2], [0, 1]], "predict", "2 labels per row"),
        ([0.0, np.nan, 1.0], "predict", "NaN or infinite"),
        ([[1.0], [1.0], [1.0]], "predict_proba", "one class only"),
        ([[0.9, 0.9], [0.5, 0.5], [1, 0]], "predict_proba", "do not sum to one"),
        ([[0.0], [np.inf], [1.0]], "transform", "NaN or infinite"),
        ([[0.0], [1e300], [1.0]], "transform", "as large as 1e.300"),
        ([["x"], ["y"], ["z"]], "transform", "not numeric"),
        (np.zeros((3, 2, 2)), "transform", "one or two dimensions"),
        ([np.zeros((3, 2)), np.zeros((3, 2))], "predict_proba", "several outputs"),
        (sparse.csr_array((3, 2**30)), "transform", "TruncatedSVD"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_invalid_predictions_raise(answers, target, message):
    with pytest.raises(ValueError, match=message):
        read_predictions(KMeans(), answers, target, 3)


def test_duck_typed_teacher():
    class Plain(BaseEstimator, TransformerMixin):
        def fit(self, X):
            return self

        def transform(self, X):
            return X + 1

    X = np.arange(6.0).reshape(3, 2)
    _, answers = fit_and_predict(Plain(), X, target="transform")
    np.testing.assert_array_equal(answers, X + 1)


def test_teacher_that_drops_rows_raises():
    class Dropping(ClusterMixin, BaseEstimator):
        def fit(self, X, y=None):
            self.labels_ = np.arange(len(X) - 1)
            return self

    X = np.zeros((5, 1))
    teacher, answers = fit_and_predict(Dropping(), X, target="predict")
    with pytest.raises(ValueError, match="returned 4 rows for 5"):
        read_predictions(teacher, answers, "predict", 5)


def test_fidelity_equals_variance_weighted_r2():
    random = np.random.default_rng(0)
    expected, given = random.normal(size=(50, 3)) * [1, 5, 0.1], random.normal(size=(50, 3))
    reference = r2_score(expected, given, multioutput="variance_weighted")
    assert explained_variance(expected, given) == pytest.approx(reference, rel=1e-12)
    assert explained_variance(np.ones(4), np.ones(4)) == 1 and explained_variance(np.ones(4), np.zeros(4)) == 0
    assert fidelity(np.array([0, 1, 1]), np.array([0, 1, 0]), classification=True) == pytest.approx(2 / 3)
