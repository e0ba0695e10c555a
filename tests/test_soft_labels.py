"""Soft labels of clusterers: what they are made of, when there are none, and that students learn them."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.cluster import HDBSCAN, AgglomerativeClustering, Birch, BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import Distiller
from distill.teachers import fit_and_predict, inputs_of_last_step, read_predictions, soften, with_noise

X, _ = make_blobs(240, centers=[[0, 0], [4, 0], [0, 4]], random_state=0)
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 15, "learning_rate_init": 0.01, "random_state": 0}


class Named(ClusterMixin, TransformerMixin, BaseEstimator):
    """Labels that are neither numbers nor in the order of the columns, noise if it is asked for, and any values."""

    def __init__(self, names=("c", "a", "b"), values=None, far=np.inf):
        self.names, self.values, self.far = names, values, far

    def fit(self, X, y=None):
        self.inner_ = KMeans(3, n_init=1, random_state=0).fit(X)
        self.labels_ = self.predict(X)
        return self

    def predict(self, X):
        labels = np.array(self.names)[self.inner_.predict(X)]
        return np.where(self.inner_.transform(X).min(axis=1) > self.far, -1, labels) if self.far < np.inf else labels

    def transform(self, X):
        distances = self.inner_.transform(X)
        return distances if self.values is None else self.values(distances)


def softened(teacher, X=X):
    with inputs_of_last_step(teacher) as inputs:
        teacher, labels = fit_and_predict(teacher, X)
    return teacher, soften(teacher, X, read_predictions(teacher, labels, "predict", len(X)), *inputs)


def kmeans(k=3):
    return KMeans(k, n_init=1, random_state=0)


@pytest.mark.parametrize(
    "teacher",
    [
        kmeans(),
        kmeans(2),
        MiniBatchKMeans(3, n_init=1, random_state=0),
        make_pipeline(StandardScaler(), make_pipeline(PCA(2), kmeans())),
        FrozenEstimator(make_pipeline(StandardScaler(), kmeans()).fit(X)),
        Named(),
        Named(names=(0, 1, 2), far=2.0),
    ],
    ids=["kmeans", "two", "minibatch", "pipeline", "frozen", "named", "noise"],
)
def test_soft_labels_of_distances_follow_the_formula(teacher):
    teacher, found = softened(teacher)
    labels = found.values
    inside = np.ones(len(X), bool) if found.noise is None else labels != found.noise
    np.testing.assert_allclose(found.soft.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.soft.argmax(axis=1), labels)
    squares = np.square(teacher.transform(X))
    squares -= squares.min(axis=1, keepdims=True)
    unit = np.median(np.sort(squares[inside], axis=1)[:, 1])
    expected = np.exp(-squares / (found.softness.temperature * unit))
    expected /= expected.sum(axis=1, keepdims=True)
    # Rows whose nearest center has another label, those of noise among them, are hard
    columns = found.softness.owners
    right = inside & (columns[squares.argmin(axis=1)] == labels)
    assert right.sum() >= 0.9 * inside.sum()
    np.testing.assert_allclose(found.soft[right][:, columns], expected[right], atol=1e-6)
    assert set(np.unique(found.soft[~right])) <= {0, 1}


def test_several_centers_of_one_label():
    teacher, found = softened(Birch(threshold=0.7, n_clusters=3))
    assert teacher.transform(X).shape[1] > 3 and found.softness.source == "transform"
    np.testing.assert_array_equal(found.soft.argmax(axis=1), found.values)
    assert 0.5 < np.median(found.soft.max(axis=1)) < 1


@pytest.mark.parametrize(
    "teacher",
    [
        Named(values=lambda distances: 10 - distances),
        Named(values=lambda distances: -distances),
        Named(values=lambda distances: distances[:, :2]),
        Named(values=lambda distances: np.where(distances > 3, np.nan, distances)),
        Named(values=lambda distances: [["?"]] * len(distances)),
        Named(values=lambda distances: distances[:, 0]),
        Named(values=lambda distances: np.zeros_like(distances)),
        Birch(threshold=0.01, n_clusters=3),  # nearly a column for each row
        BisectingKMeans(3, random_state=0),  # its tree finds another center than the nearest one for many rows
        AgglomerativeClustering(3),
    ],
    ids=["similarity", "negative", "narrow", "missing", "text", "vector", "zero", "wide", "tree", "none"],
)
def test_labels_stay_hard_where_nothing_softer_is_known(teacher):
    _, found = softened(teacher)
    assert found.soft is None and found.softness is None


def test_a_pipeline_transforms_the_rows_of_its_fit_once():
    class Counting(StandardScaler):
        calls = 0

        def transform(self, X, copy=None):
            type(self).calls += 1
            return super().transform(X, copy)

    teacher, found = softened(make_pipeline(Counting(), kmeans()))
    assert Counting.calls == 1 and found.softness.source == "transform"
    assert not {"fit_predict", "predict"} & set(vars(teacher[-1]))


def test_strengths_of_hdbscan():
    teacher, found = softened(make_pipeline(StandardScaler(), HDBSCAN(min_cluster_size=20, copy=True)))
    strengths, is_noise = teacher[-1].probabilities_, found.values == found.noise
    assert found.softness.source == "probabilities_" and is_noise.any() and strengths.min() < 0.5
    np.testing.assert_allclose(found.soft.max(axis=1), np.where(is_noise, 1, (1 + strengths) / 2), rtol=1e-6)
    # What is left is divided by the numbers of rows
    counts = np.bincount(found.values)
    for label in range(len(counts)):
        rows, others = found.soft[(found.values == label) & ~is_noise], np.delete(counts, label)
        left = 1 - rows[:, [label]]
        np.testing.assert_allclose(np.delete(rows, label, axis=1), left * others / others.sum(), atol=1e-6)
    np.testing.assert_array_equal(found.soft.argmax(axis=1), found.values)


def test_soft_labels_get_a_column_for_noise_that_no_row_of_the_fit_is():
    two, _ = make_blobs(80, centers=[[0, 0], [9, 0]], cluster_std=0.3, random_state=0)
    teacher, found = softened(HDBSCAN(min_cluster_size=10, min_samples=1, copy=True), two)
    padded = with_noise(teacher, two, two, found)
    assert found.noise is None and padded.noise == 0 and padded.classes.tolist() == [-1, 0, 1]
    np.testing.assert_array_equal(padded.soft[:, 1:], found.soft)
    np.testing.assert_array_equal(padded.soft.argmax(axis=1), padded.values)


@pytest.mark.filterwarnings("ignore:Persisting input arguments took")  # on a busy machine
def test_two_clusters_have_one_output_that_is_soft_between_the_centers(tmp_path):
    settings = {**SMALL, "max_iter": 40}
    student = Distiller(kmeans(2), memory=str(tmp_path), **settings).fit(X)
    centers = student.teacher_.cluster_centers_
    line = centers[0] + np.linspace(0, 1, 5)[:, None] * (centers[1] - centers[0])
    soft = student.predict_proba(line)[:, 1]
    assert student.network_.layer_sizes[-1] == 1 and (np.diff(soft) > 0).all()
    assert 0.3 < soft[2] < 0.7 and student.score(X) > 0.97
    assert student.learned_ == "soft labels from transform" and student.temperature_ > 0
    assert Distiller(kmeans(2), memory=str(tmp_path), **settings).fit(X).to_bytes() == student.to_bytes()


def test_target_predict_learns_the_labels_alone():
    hard = Distiller(kmeans(), target="predict", **SMALL).fit(X)
    known = Distiller("precomputed", target="predict", **SMALL).fit(X, hard.teacher_.labels_)
    assert (hard.learned_, hard.temperature_) == ("labels", None)
    assert hard.loss_curve_ == known.loss_curve_
    assert hard.loss_curve_[-1] < Distiller(kmeans(), **SMALL).fit(X).loss_curve_[-1]


def test_noise_and_rows_beyond_the_data_stay_hard():
    teacher = Named(names=(0, 1, 2), far=2.0)
    student = Distiller(teacher, **SMALL).fit(X)
    assert student.learned_ == "soft labels from transform" and student.classes_.tolist() == [-1, 0, 1, 2]
    assert student.predict([[1000.0, -1000.0], [0.0, 4.0]])[0] == -1
    assert student.predict_proba([[1000.0, -1000.0]])[0, 0] > 0.9
