"""Rows that a clusterer calls noise: learned, or left out of training and scores; clusterers of other packages."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import DBSCAN, HDBSCAN, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

from distill import AutoCompressor, CodebookCompressor, Distiller, load
from distill.teachers import fit_and_predict, read_predictions, soften, without_noise

CENTERS = np.array([[0.0, 0], [8, 0], [0, 8]])
X, TRUE = make_blobs(240, centers=CENTERS, cluster_std=0.7, random_state=0)
X = np.vstack([X, np.random.default_rng(0).uniform(-4, 12, (60, 2))])
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 15, "learning_rate_init": 0.01, "random_state": 0}


def hdbscan():
    return HDBSCAN(min_cluster_size=30, copy=True)


class Near(ClusterMixin, BaseEstimator):
    """Clusters around known centers, noise beyond a radius; it predicts for new rows, too."""

    def __init__(self, radius=2.5):
        self.radius = radius

    def fit(self, X, y=None):
        self.labels_ = self.predict(X)
        return self

    def predict(self, X):
        distances = np.linalg.norm(np.asarray(X)[:, None] - CENTERS, axis=2)
        return np.where(distances.min(axis=1) <= self.radius, distances.argmin(axis=1), -1)


class Outliers(Near):
    """The parameter of a clusterer that may call rows noise, and calls none so."""

    def __init__(self, outliers="auto"):
        self.outliers, self.radius = outliers, np.inf


LABELS = hdbscan().fit_predict(X)
INSIDE = LABELS != -1


def test_learned_noise_is_a_label_and_excluded_noise_is_none():
    learned, excluded = (Distiller(hdbscan(), noise=noise, **SMALL).fit(X) for noise in ("learn", "exclude"))
    assert learned.classes_.tolist() == [-1, 0, 1, 2] and excluded.classes_.tolist() == [0, 1, 2]
    assert "n_excluded" not in learned.report_ and excluded.report_["n_excluded"] == (~INSIDE).sum() > 30
    assert set(learned.labels_) == {-1, 0, 1, 2} and set(excluded.labels_) == {0, 1, 2}
    assert learned.predict([[500.0, -500.0]]) == [-1] and excluded.predict([[500.0, -500.0]]) >= 0
    assert np.mean(excluded.labels_[INSIDE] == LABELS[INSIDE]) > 0.98
    assert load(excluded.to_bytes()).predict(X).tolist() == excluded.labels_.tolist()


@pytest.mark.parametrize("kind", [pd.DataFrame, sparse.csr_array, np.ndarray.tolist])
def test_excluded_rows_have_no_part_in_the_training(kind):
    """Every bit of the student is that of one which never got these rows."""
    teacher = DBSCAN(eps=0.8, min_samples=10)
    labels = teacher.fit_predict(X)
    inside = labels != -1
    assert 30 < (~inside).sum() < 100
    excluded = Distiller(teacher, target="predict", noise="exclude", **SMALL).fit(kind(X))
    expected = Distiller("precomputed", **SMALL).fit(kind(X[inside]), labels[inside])
    assert excluded.to_bytes() == expected.to_bytes()
    labelled = Distiller("precomputed", noise="exclude", **SMALL).fit(kind(X), labels)
    assert labelled.to_bytes() == expected.to_bytes()
    for part in ("validation_scores_", "loss_curve_"):
        assert getattr(excluded, part) == getattr(expected, part)
    assert excluded.report_["agreement_per_class"] == expected.report_["agreement_per_class"]


def test_soft_labels_without_the_share_of_noise():
    teacher, predicted = fit_and_predict(hdbscan(), X)
    found = soften(teacher, X, read_predictions(teacher, predicted, "predict", len(X)))
    left, positions = without_noise(teacher, found)
    assert positions.tolist() == np.flatnonzero(INSIDE).tolist() and left.noise is None
    np.testing.assert_array_equal(left.classes[left.values], LABELS[INSIDE])
    # By hand: (1 + p) / 2 of a row for its label, of the rest the part of each other one, without that of noise
    share = np.array([(LABELS == label).mean() for label in (-1, 0, 1, 2)])
    for row, strength, label in list(zip(left.soft, teacher.probabilities_[INSIDE], LABELS[INSIDE]))[::40]:
        others = np.delete(share, label + 1)
        rest = (1 - strength) / 2 * share[1:] / others.sum()
        rest[label] = (1 + strength) / 2
        np.testing.assert_allclose(row, rest / rest.sum(), rtol=1e-5)
    student = Distiller(hdbscan(), noise="exclude", **SMALL).fit(X)
    assert student.learned_ == "soft labels from probabilities_"


def moved_away(rows, rng):
    return rows + 30


def test_scores_count_the_other_rows_only():
    student = Distiller(Near(1), noise="exclude", n_queries=200, augment=moved_away, **SMALL).fit(X)
    labels, counted = Near(1).predict(X), Near(1).predict(X) != -1
    agreement = np.mean(student.predict(X)[counted] == labels[counted])
    assert student.score(X) == student.score(X, labels) == agreement > 0.98
    assert student.report_["n_excluded"] == (~counted).sum() > 20
    # Rows that the teacher calls noise are not learned either
    assert student.report_["n_queries"] == 100
    small = CodebookCompressor(FrozenEstimator(student), max_iter=2, random_state=0).fit(X)
    assert small.score(X) == np.mean(small.predict(X)[counted] == labels[counted])
    with pytest.raises(ValueError, match=r"all 1 rows of X have the label -1.*nothing to compare"):
        student.score([[100.0, 100.0]])
    learned = Distiller(Near(1), **SMALL).fit(X)
    assert learned.score(X) == np.mean(learned.predict(X) == labels)


def test_a_search_for_few_bytes_does_not_count_excluded_rows():
    settings = {"max_bytes": 400, "methods": ["codebook"], "effort": 0.2, "refit": False, "random_state": 0}
    auto = AutoCompressor(Distiller(Near(), noise="exclude", **SMALL), **settings).fit(X)
    # A fifth of the rows are noise: fidelity counted on all of them could not exceed .8
    assert (Near().predict(X) == -1).mean() > 0.1 and auto.best_fidelity_ > 0.95
    assert auto.classes_.tolist() == [0, 1, 2] and auto.score(X) > 0.95


def test_a_label_of_noise_that_no_row_has():
    rows = X[:240][np.linalg.norm(X[:240] - CENTERS[TRUE], axis=1) < 1.5]
    # DBSCAN would call a row beyond them noise; Outliers has the parameter of a teacher that may
    for teacher in (DBSCAN(eps=2), Outliers()):
        student = Distiller(teacher, noise="exclude", **SMALL).fit(rows)
        assert student.classes_.tolist() == [0, 1, 2] and student.report_["n_excluded"] == 0


@pytest.mark.parametrize(
    "teacher, settings, message",
    [
        (KMeans(3, n_init=1), {}, "KMeans calls none of the 300 rows so"),
        (Near(0.01), {}, "calls each of the 300 rows noise"),
        (hdbscan().set_params(min_cluster_size=70, allow_single_cluster=True), {}, "has 1 label besides noise, for"),
        (
            IsolationForest(n_estimators=10, random_state=0),
            {"target": "predict"},
            "IsolationForest is an outlier detector",
        ),
        (IsolationForest(n_estimators=10, random_state=0), {}, "no labels .target='decision_function'."),
        (PCA(1), {}, "PCA has no labels .target='transform'."),
        (GaussianMixture(3, random_state=0), {}, "no class for it; set target='predict'"),
        (Near(), {"noise": "ignore"}, "noise.*must be a str among"),
    ],
    ids=["none", "all", "one", "detector", "scores", "embedding", "probabilities", "unknown"],
)
def test_teachers_whose_noise_cannot_be_left_out(teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        Distiller(teacher, **{"noise": "exclude", **settings}, **SMALL).fit(X)


class OnDevice:
    """Array in a GPU's memory, as those of CuPy and cuDF: it refuses an implicit copy."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __len__(self):
        return len(self.values)

    def get(self):
        return self.values.copy()


class ForDevice:
    """The names and habits of cuML's HDBSCAN: no class of scikit-learn's, arrays of its own, in attributes too."""

    _estimator_type = "clusterer"

    def __init__(self, min_cluster_size=30):
        self.min_cluster_size = min_cluster_size

    def get_params(self, deep=True):
        return {"min_cluster_size": self.min_cluster_size}

    def set_params(self, **params):
        vars(self).update(params)
        return self

    def fit(self, X, y=None, convert_dtype=True):
        inner = hdbscan().fit(X)
        self.labels_, self.probabilities_ = OnDevice(inner.labels_), OnDevice(inner.probabilities_)
        return self

    def fit_predict(self, X, y=None):
        return self.fit(X).labels_


@pytest.mark.parametrize("noise", ["learn", "exclude"])
@pytest.mark.parametrize("frozen", [False, True], ids=["fitted", "frozen"])
def test_estimators_with_arrays_of_another_library(noise, frozen):
    """The student is bit for bit that of the same clusterer with NumPy's arrays."""
    teacher = FrozenEstimator(ForDevice().fit(X)) if frozen else ForDevice()
    student = Distiller(teacher, noise=noise, **SMALL).fit(X)
    assert student.to_bytes() == Distiller(hdbscan(), noise=noise, **SMALL).fit(X).to_bytes()
    assert student.learned_ == "soft labels from probabilities_"


class Embedding(BaseEstimator):
    """UMAP on a GPU: fit_transform gives an array of the device, and so does transform."""

    def fit(self, X, y=None):
        self.inner_ = PCA(1).fit(X)
        return self

    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X)

    def transform(self, X):
        return OnDevice(self.inner_.transform(X))


def test_embeddings_with_arrays_of_another_library():
    student = Distiller(Embedding(), **SMALL).fit(X)
    assert student.to_bytes() == Distiller(PCA(1), target="transform", **SMALL).fit(X).to_bytes()
    assert student.score(X) > 0.9


def agreement(student, labels, inside):
    return np.mean(student.predict(X)[inside] == labels[inside])


@pytest.mark.slow  # fast_hdbscan compiles its kernels once
@pytest.mark.parametrize("noise", ["learn", "exclude"])
def test_fast_hdbscan(noise):
    package = pytest.importorskip("fast_hdbscan", reason="fast_hdbscan is not installed")
    teacher = package.HDBSCAN(min_cluster_size=30)
    labels = package.HDBSCAN(min_cluster_size=30).fit_predict(X)
    student = Distiller(teacher, noise=noise, **SMALL).fit(X)
    assert student.learned_ == "soft labels from probabilities_" and not hasattr(teacher, "predict")
    assert student.classes_.tolist() == sorted(set(labels) - ({-1} if noise == "exclude" else set()))
    assert agreement(student, labels, labels != -1) > 0.97


@pytest.mark.slow  # evoc compiles its kernels once, more than a minute
@pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaPendingDeprecationWarning")
def test_evoc():
    package = pytest.importorskip("evoc", reason="evoc is not installed")
    directions = np.random.default_rng(0).normal(size=(4, 16))
    rows = np.repeat(directions, 100, axis=0) + 0.25 * np.random.default_rng(1).normal(size=(400, 16))
    rows = np.vstack([rows, np.random.default_rng(2).normal(size=(60, 16))])
    teacher = package.EVoC(base_min_cluster_size=40, random_state=0)
    assert not hasattr(teacher, "predict")
    student = Distiller(teacher, **SMALL).fit(rows)
    labels = student.teacher_.labels_
    assert student.learned_ == "soft labels from membership_strengths_"
    assert set(student.classes_) >= set(labels) and np.mean(student.predict(rows) == labels) > 0.9
    kept = Distiller(FrozenEstimator(student.teacher_), noise="exclude", **SMALL).fit(rows)
    assert -1 not in kept.classes_ and kept.report_["n_excluded"] == (labels == -1).sum()
    assert np.mean(kept.predict(rows)[labels != -1] == labels[labels != -1]) > 0.95
    assert load(kept.to_bytes()).predict(rows[:3]).tolist() == kept.labels_[:3].tolist()


@pytest.mark.slow  # umap-learn compiles its kernels, about 13 s
@pytest.mark.filterwarnings("ignore:n_jobs value 1 overridden", "ignore::ImportWarning")
def test_pipeline_of_umap_and_hdbscan_as_in_bertopic():
    from umap import UMAP

    teacher = make_pipeline(UMAP(n_neighbors=15, n_components=2, random_state=0), hdbscan())
    student = Distiller(teacher, noise="exclude", **SMALL).fit(X)
    labels = student.teacher_[-1].labels_
    assert not hasattr(teacher, "predict") and student.learned_ == "soft labels from probabilities_"
    assert student.report_["n_excluded"] == (labels == -1).sum()
    assert agreement(student, labels, labels != -1) > 0.9
