"""Students of teachers that mark noise say noise for rows beyond the data, as the teacher would (hdbscan #361)."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import DBSCAN, HDBSCAN, OPTICS
from sklearn.datasets import make_blobs
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, OneClassSVM

from distill import CodebookCompressor, Distiller, load
from distill.teachers import predict_beyond, read_predictions
from distill.training.beyond import surround
from distill.training.scaling import fit_input_scaling

random = np.random.default_rng(0)
BLOBS = make_blobs(400, 3, centers=3, cluster_std=0.5, random_state=0)[0]
ROWS = np.vstack([BLOBS, random.uniform(BLOBS.min(axis=0) - 1, BLOBS.max(axis=0) + 1, (40, 3))])


def far_rows(X, times):
    return X.mean(axis=0) + times * X.std(axis=0) * random.normal(size=(300, X.shape[1]))


def distiller(teacher, **settings):
    return Distiller(teacher, hidden_layer_sizes=(64, 32), max_iter=20, random_state=0, **settings)


TEACHERS = {
    "DBSCAN": DBSCAN(eps=0.6),
    "HDBSCAN": HDBSCAN(min_cluster_size=20, copy=True),
    "OPTICS": OPTICS(min_samples=15, max_eps=2.0),
    "frozen": FrozenEstimator(DBSCAN(eps=0.6).fit(ROWS)),
    "pipeline": make_pipeline(StandardScaler(), DBSCAN(eps=0.25)),
    "outlier detector": LocalOutlierFactor(novelty=True, n_neighbors=30),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_far_rows_are_noise(name):
    model = distiller(TEACHERS[name], target="predict").fit(ROWS)
    student = load(model.to_bytes())
    for times in (20, 100, 1e6):
        assert np.mean(student.predict(far_rows(ROWS, times)) == -1) >= 0.99
    # In one feature only
    for feature in range(3):
        rows = ROWS[::10].copy()
        rows[:, feature] += random.choice([-1, 1], len(rows)) * 100 * ROWS[:, feature].std()
        assert np.mean(student.predict(rows) == -1) >= 0.99
    expected = model.teacher_.predict(ROWS) if hasattr(model.teacher_, "predict") else None
    if expected is None:
        expected = TEACHERS[name].fit_predict(ROWS) if name != "frozen" else TEACHERS[name].estimator.labels_
    # Half of the rows are noise to OPTICS, next to rows that are not
    assert np.mean(model.predict(ROWS) == expected) >= (0.85 if name == "OPTICS" else 0.95)


def test_far_rows_of_sparse_rows_data_frames_and_compressed_students():
    model = distiller(DBSCAN(eps=0.6)).fit(sparse.csr_array(ROWS))
    assert np.mean(model.predict(sparse.csr_array(far_rows(ROWS, 100))) == -1) >= 0.99
    frame = pd.DataFrame(ROWS, columns=list("abc"))
    model = distiller(OneClassSVM(nu=0.1), target="predict").fit(frame)
    far = pd.DataFrame(far_rows(ROWS, 100), columns=list("abc"))
    assert np.mean(model.predict(far) == -1) >= 0.99
    compressed = CodebookCompressor(FrozenEstimator(model), bits=4, max_iter=2, random_state=0).fit(frame)
    assert np.mean(compressed.predict(far) == -1) >= 0.99


def test_precomputed_labels_of_clusters_with_noise():
    model = distiller("precomputed").fit(ROWS, DBSCAN(eps=0.6).fit_predict(ROWS))
    assert np.mean(model.predict(far_rows(ROWS, 100)) == -1) >= 0.99


class OneOfTwo(ClusterMixin, BaseEstimator):
    """A clusterer that can be asked about new rows, and calls only the row zero noise."""

    def fit(self, X, y=None):
        self.labels_ = self.predict(X)
        return self

    def predict(self, X):
        return np.where(np.abs(X).max(axis=1) == 0, -1, (np.asarray(X)[:, 0] > 0).astype(int))


def test_a_teacher_that_can_be_asked_decides_about_far_rows():
    X = random.normal(size=(200, 2))
    X[:5] = 0
    model = distiller(OneOfTwo()).fit(X)
    far = far_rows(X, 100)
    assert np.mean(model.predict(far) == OneOfTwo().predict(far)) >= 0.98


def test_two_classes_of_a_classifier_are_no_noise():
    y = np.where(ROWS[:, 0] > 0, 1, -1)
    model = distiller(SVC(), target="predict").fit(ROWS, y)
    assert model.network_.clip is None


def test_rows_beyond_are_in_the_box_and_far_from_the_data():
    X = np.c_[ROWS, np.full(len(ROWS), 7.0)]
    is_inside = np.arange(len(X)) < 400
    scaling, made = surround(X, is_inside, fit_input_scaling(X), seed=0)
    assert np.abs(made).max() <= scaling.clip and not made[:, 3].any() and len(made) > 100
    inside = scaling.apply(X[is_inside])
    distances = np.linalg.norm(made[:, None] - inside[None], axis=2).min(axis=1)
    between = np.linalg.norm(inside[:, None] - inside[None], axis=2) + np.diag(np.full(400, np.inf))
    assert distances.min() > 1.99 * np.quantile(between.min(axis=1), 0.99)
    # The unit is restored, and the same seed gives the same rows
    np.testing.assert_allclose(scaling.apply(scaling.restore(made)), made, atol=1e-5)
    np.testing.assert_array_equal(surround(X, is_inside, fit_input_scaling(X), seed=0)[1], made)
    assert len(surround(X, np.zeros(len(X), bool), fit_input_scaling(X), seed=0)[1]) == 0


def test_labels_unknown_in_the_fit_become_noise():
    predictions = read_predictions(DBSCAN(), np.array([-1, 0, 0, 1]), "predict", 4)
    assert predictions.noise == 0

    class Teacher(OneOfTwo):
        def predict(self, X):
            return np.array([5, 1, -1])

    assert predict_beyond(Teacher(), ROWS, ROWS[:3], predictions).tolist() == [0, 2, 0]
