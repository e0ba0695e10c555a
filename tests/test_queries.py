"""Further rows about which a teacher is asked: how they are made, what is refused, and that answers are learned."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import Distiller, distiller
from distill.teachers import answers, fit_and_predict, inputs_of_last_step, read_predictions, soften
from distill.training.queries import check_augment, make_queries
from distill.training.scaling import fit_input_scaling

X, y = make_blobs(120, centers=[[0, 0], [8, 0], [0, 8]], random_state=0)
QUICK = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0}
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")


def kmeans(k=3):
    return KMeans(k, n_init=1, random_state=0)


def made(X, n_queries=400, augment=None, shape=(), train=None):
    train = np.arange(X.shape[0]) if train is None else train
    return make_queries(X, train, fit_input_scaling(X), n_queries, augment, shape, seed=0)


def test_rows_lie_between_neighbors_of_the_training_rows():
    train = np.flatnonzero(y < 2)
    rows = made(X, train=train)
    assert rows.shape == (400, 2) and rows.dtype == np.float64
    # On a segment from a row to one of its five nearest neighbors: distances to both ends sum to its length
    known = X[train]
    between = np.linalg.norm(known[:, None] - known, axis=2)
    nearest = np.argsort(between, axis=1)[:, 1:6]
    ends = np.linalg.norm(rows[:, None] - known, axis=2)
    detour = ends[:, :, None] + ends[:, nearest] - np.take_along_axis(between, nearest, axis=1)
    assert detour.min(axis=(1, 2)).max() < 1e-6


def test_sparse_rows_and_small_types_give_the_same_rows():
    X = np.random.default_rng(0).integers(0, 3, (50, 6))
    dense = made(X)
    some = made(sparse.csr_array(X))
    assert some.format == "csr" and made(X.astype(np.uint8)).dtype == np.float32
    np.testing.assert_allclose(some.toarray(), dense, atol=1e-12)
    np.testing.assert_allclose(made(X.astype(np.uint8)), dense, atol=1e-6)


@pytest.mark.parametrize("augment", ["shift", "affine"])
@pytest.mark.parametrize("shape", [(8, 10), (8, 10, 3)])
def test_images_are_moved(augment, shape):
    image = np.zeros(shape)
    image[3:5, 4:6] = 1
    rows = made(np.tile(image.ravel(), (3, 1)), 60, augment, shape)
    np.testing.assert_array_equal(rows[:30], np.tile(image.ravel(), (30, 1)))
    images = rows[30:].reshape(30, 8, 10, -1)
    assert ((images > -1e-9) & (images < 1 + 1e-9)).all() and (images == images[..., :1]).all()
    moved = np.array(
        [np.average(np.argwhere(one[..., 0] > 0), axis=0, weights=one[one[..., 0] > 0, 0]) for one in images]
    )
    assert np.abs(moved - [3.5, 4.5]).max() < 1.5 and moved.std(axis=0).min() > 0.2
    if augment == "shift":
        np.testing.assert_allclose(images[..., 0].sum(axis=(1, 2)), 4, rtol=1e-6)


def test_augment_as_a_function():
    rows = made(X, 400, lambda rows, rng: rows + 100 * rng.integers(1, 3, size=(len(rows), 1)))
    assert (rows[:200] < 50).all() and (rows[200:] > 50).all()
    assert made(sparse.csr_array(X), 100, lambda rows, rng: rows + 100).toarray()[50:].min() > 50


@pytest.mark.parametrize(
    "augment, shape, message",
    [
        ("shift", None, "augment='shift' moves images, and input_shape is None"),
        ("affine", (3, 3), "the number of features of X, which is 2"),
        (None, (2,), "must be .height, width."),
        (lambda rows, rng: rows[:-1], None, "augment returned float64 of shape"),
        (lambda rows, rng: rows * np.nan, None, "NaN or infinite"),
        (lambda rows, rng: rows.astype(str), None, "augment returned <U"),
    ],
)
def test_wrong_augmentations(augment, shape, message):
    with pytest.raises(ValueError, match=message):
        made(X, 10, augment, check_augment(augment, shape, 2))


class Strict(KMeans):
    def predict(self, X):
        if len(X) == 7:
            raise ValueError("only rows that I know")
        return super().predict(X)


@pytest.mark.parametrize(
    "teacher, target, message",
    [
        (DBSCAN(eps=2.0), None, "DBSCAN has predictions for the rows of its fit only, and no method predict"),
        ("precomputed", y, "n_queries asks the teacher about further rows, but 'precomputed'"),
        (Strict(3, n_init=1), None, "the teacher Strict does not predict for rows made of those of its fit: only rows"),
    ],
    ids=["transductive", "precomputed", "strict"],
)
def test_teachers_that_cannot_be_asked(teacher, target, message):
    with pytest.raises(ValueError, match=f"{message}.*set n_queries=0"):
        Distiller(teacher, n_queries=7, **QUICK).fit(X, target)


class Seldom(ClusterMixin, BaseEstimator):
    """A label that no row of the fit has."""

    def fit(self, X, y=None):
        self.known_ = np.asarray(X)
        self.labels_ = self.predict(X)
        return self

    def predict(self, X):
        is_known = (np.abs(np.asarray(X)[:, None] - self.known_).sum(axis=2) < 1e-9).any(axis=1)
        return np.where(is_known, (np.asarray(X)[:, 0] > 4).astype(int), 7)


def predicted(teacher, target="predict", y=None, X=X):
    with inputs_of_last_step(teacher) as inputs:
        teacher, found = fit_and_predict(teacher, X, y, target)
    return teacher, soften(teacher, X, read_predictions(teacher, found, target, len(X)), *inputs)


@pytest.mark.parametrize(
    "teacher, target",
    [
        (kmeans(), "predict"),
        (make_pipeline(StandardScaler(), kmeans()), "predict"),
        (FrozenEstimator(make_pipeline(StandardScaler(), kmeans()).fit(X)), "predict"),
        (LogisticRegression(), "predict"),
        (LogisticRegression(), "predict_proba"),
        (LogisticRegression(), "decision_function"),
        (PCA(1), "transform"),
        (LinearRegression(), "predict"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_answers_have_the_form_of_predictions(teacher, target):
    teacher, predictions = predicted(teacher, target, y)
    answered, targets = answers(teacher, X, X[:40].copy(), predictions)
    expected = predictions.values if predictions.soft is None else predictions.soft
    assert answered.all() and targets.dtype == expected.dtype
    np.testing.assert_allclose(targets, expected[:40], rtol=1e-5, atol=1e-6)


def test_labels_that_cannot_be_learned_are_left_out():
    teacher, predictions = predicted(Seldom())
    answered, targets = answers(teacher, X, np.vstack([X[:3], X[:2] + 0.01]), predictions)
    assert answered.tolist() == [True] * 3 + [False] * 2 and len(targets) == 3


def test_the_teacher_gets_rows_of_its_own_type():
    class Typed(KMeans):
        kind = np.ndarray

        def predict(self, X):
            assert isinstance(X, self.kind), type(X)
            return super().predict(X)

    for kind, rows in [(pd.DataFrame, pd.DataFrame(X, columns=["a", "b"])), (sparse.csr_matrix, sparse.csr_matrix(X))]:
        Typed.kind = kind
        student = Distiller(Typed(3, n_init=1), n_queries=30, **QUICK).fit(rows)
        assert student.report_["n_queries"] == 30


def test_students_learn_answers_in_blocks_with_progress(monkeypatch, capsys):
    monkeypatch.setattr(distiller, "QUERIES_AT_ONCE", 200)
    settings = {**QUICK, "hidden_layer_sizes": (16,), "max_iter": 10, "learning_rate_init": 0.01, "verbose": 1}
    student = Distiller(kmeans(), n_queries=500, augment=lambda rows, rng: rows + 0.1, **settings).fit(X)
    printed = capsys.readouterr().out
    assert all(f"queries {part}/3: {200 * part if part < 3 else 500} rows" in printed for part in (1, 2, 3))
    assert student.report_["n_queries"] == 500 and student.score(X) > 0.95


def test_an_interrupted_fit_leaves_the_estimator_as_it_was():
    class Interrupted(KMeans):
        def predict(self, X):
            raise KeyboardInterrupt

    student = Distiller(Interrupted(3, n_init=1), n_queries=10, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        student.fit(X)
    assert not hasattr(student, "teacher_") and not hasattr(student, "learned_")
