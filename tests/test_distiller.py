"""Distiller: kinds of teachers, fitted attributes, errors."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import HDBSCAN, AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA, KernelPCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.manifold import TSNE, Isomap
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import Distiller, RandomCodeCompressor, load

X, groups = make_blobs(240, centers=[[0, 0, 0], [6, 6, 0], [0, 6, 6]], cluster_std=0.6, random_state=0)
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 12, "learning_rate_init": 0.01, "random_state": 0}


def kmeans(**parameters):
    return KMeans(3, n_init=2, **parameters)


def small(teacher, **parameters):
    return Distiller(teacher, **{**SMALL, **parameters})


@pytest.fixture(scope="module")
def student():
    """A student of k-means. No test may change it."""
    return small(kmeans()).fit(X)


@pytest.mark.parametrize(
    "teacher, method, least",
    [
        (kmeans(), "predict", 0.98),
        (SpectralClustering(3, gamma=0.1), "predict", 0.98),
        (AgglomerativeClustering(3), "predict", 0.98),
        (HDBSCAN(min_cluster_size=10, copy=True), "predict", 0.85),
        (make_pipeline(StandardScaler(), kmeans()), "predict", 0.98),
        (GaussianMixture(3), "predict_proba", 0.98),
        (RandomForestClassifier(10), "predict_proba", 0.98),
        (LinearRegression(), "predict", 0.95),
        (PCA(2), "transform", 0.95),
        (KernelPCA(2, kernel="rbf", gamma=0.05), "transform", 0.9),
        (TSNE(2, perplexity=20, init="pca", max_iter=250), "transform", 0.8),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else None,
)
def test_kinds_of_teacher(teacher, method, least):
    student = small(teacher).fit(X, groups)
    assert student.best_validation_score_ >= least
    assert student.network_.target == method
    assert len(getattr(student, method)(X[:5])) == 5
    assert hasattr(student, "transform") == (method == "transform")


def test_outlier_detector():
    student = small(IsolationForest(n_estimators=100), max_iter=40).fit(X)
    assert student.score(X) > 0.5 and student.classes_.tolist() == [-1, 1]
    np.testing.assert_array_equal(student.predict(X) == 1, student.decision_function(X) > 0)


@pytest.mark.filterwarnings("ignore:The number of connected components:UserWarning")
@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
def test_isomap():
    assert small(Isomap(n_components=2, n_neighbors=100)).fit(X).score(X) > 0.9


def test_file_predicts_the_same_bits(student, tmp_path):
    student.save(tmp_path / "a.student")
    read = load(tmp_path / "a.student")
    np.testing.assert_array_equal(read.predict_proba(X), student.predict_proba(X))
    size = (tmp_path / "a.student").stat().st_size
    assert student.nbytes_ == len(student.to_bytes()) == size == sum(student.report_["bytes"].values())


def test_same_seed_gives_same_bytes_and_global_state_is_unchanged(student):
    np.random.seed(5)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert small(kmeans()).fit(X).to_bytes() == student.to_bytes()
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_pickle_and_hash(student):
    copy = pickle.loads(pickle.dumps(student))
    np.testing.assert_array_equal(copy.predict(X), student.predict(X))
    assert joblib.hash(copy) == joblib.hash(student)


def test_string_labels_and_noise():
    names = np.array(["ant", "bee", "cat"])[groups]
    assert set(small(LogisticRegression()).fit(X, names).predict(X)) == {"ant", "bee", "cat"}
    noisy = np.vstack([X, np.random.default_rng(0).uniform(-15, 20, (25, 3))])
    assert -1 in small(HDBSCAN(min_cluster_size=10, copy=True)).fit(noisy).classes_


def test_constant_features_have_zero_weights():
    student = small(kmeans(), max_iter=2).fit(np.hstack([X, np.full((len(X), 1), 7.0)]))
    assert not student.network_.weights[0][3].any()


def test_score(student):
    assert student.score(X) == np.mean(student.teacher_.predict(X.astype(np.float64)) == student.predict(X))
    assert student.score(X, student.predict(X)) == 1
    with pytest.raises(ValueError, match="pass the expected predictions as y"):
        small(AgglomerativeClustering(3), max_iter=2).fit(X).score(X)


def test_sparse_rows_equal_dense_rows():
    counts = np.random.default_rng(0).poisson(0.7, (120, 6)).astype(float)
    one, other = small(kmeans()).fit(counts), small(kmeans()).fit(sparse.csr_array(counts))
    np.testing.assert_array_equal(other.predict(sparse.csr_array(counts)), other.predict(counts))
    assert one.score(counts) > 0.8 and other.score(sparse.csr_array(counts)) > 0.8


def test_frames_names_and_set_output():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    student = small(PCA(2), max_iter=4).set_output(transform="pandas").fit(frame)
    assert student.transform(frame).columns.tolist() == ["distiller0", "distiller1"]
    assert student.teacher_.feature_names_in_.tolist() == ["a", "b", "c"]
    assert student.network_.feature_names == ("a", "b", "c")
    assert not hasattr(small(kmeans()), "set_output")


def test_nested_parameters_and_representation():
    student = small(kmeans(), max_iter=2)
    assert clone(student).set_params(teacher__n_clusters=5).teacher.n_clusters == 5
    assert student.teacher.n_clusters == 3
    assert "KMeans" in student.fit(X)._repr_html_()


def test_frozen_teacher_is_not_cloned():
    teacher = FrozenEstimator(kmeans(random_state=0).fit(X))
    assert small(teacher, max_iter=2).fit(X).teacher_ is teacher


def test_only_unset_seeds_of_the_teacher_are_set():
    student = small(make_pipeline(PCA(2, random_state=7), kmeans()), max_iter=2).fit(X)
    assert student.teacher_["pca"].random_state == 7 and student.teacher_["kmeans"].random_state is not None


class Counted(ClusterMixin, BaseEstimator):
    """Writes a line to a file whenever it is fitted."""

    def __init__(self, path):
        self.path = path

    def fit(self, X, y=None):
        with open(self.path, "a") as file:
            file.write("fit\n")
        self.labels_ = (X[:, 0] > np.median(X[:, 0])).astype(int)
        return self

    def predict(self, X):
        return (X[:, 0] > 0).astype(int)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cached_teacher_is_fitted_once_per_fold(tmp_path, n_jobs):
    path = tmp_path / "fits"
    student = small(Counted(str(path)), memory=str(tmp_path / "cache"), max_iter=2)
    with parallel_config("threading"):  # processes: test_caching.py
        GridSearchCV(student, {"alpha": [0.0, 1e-3, 1e-2]}, cv=3, n_jobs=n_jobs).fit(X)
    assert len(path.read_text().splitlines()) == 4


def test_interrupted_fit_leaves_the_estimator_unchanged(monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    fitted = small(kmeans(), max_iter=2).fit(X)
    data = fitted.to_bytes()
    fresh = small(kmeans())
    monkeypatch.setattr("distill.training.student.train", interrupt)
    for student, rows in ((fitted, X[:, :2]), (fresh, X)):
        with pytest.raises(KeyboardInterrupt):
            student.fit(rows)
    assert fitted.to_bytes() == data and fitted.n_features_in_ == 3
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    assert not hasattr(fresh, "n_features_in_")


def test_without_early_stopping():
    student = small(kmeans(), early_stopping=False, max_iter=3).fit(X)
    assert student.n_iter_ == 3 and student.validation_scores_ is None and student.best_validation_score_ is None


def test_verbose_prints_progress(capsys):
    small(kmeans(), verbose=1, max_iter=2).fit(X)
    assert "student 2/2: loss" in capsys.readouterr().out


def test_scikit_learn_callbacks():
    pytest.importorskip("sklearn.callback")
    steps = []

    class Stops:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            if context.task_name == "student-step":
                steps.append(fitted_estimator.predict(X[:2]))
            return len(steps) == 3

    student = small(kmeans()).set_callbacks(Stops()).fit(X)
    assert student.n_iter_ == 3 and len(steps) == 3


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"target": "nonsense"}, "target must be"),
        ({"target": "decision_function"}, "does not have it"),
        ({"activation": "gelu"}, "'activation' parameter of Distiller must be"),
        ({"input_scaling": "minmax"}, "'input_scaling' parameter of Distiller must be"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes"),
        ({"alpha": -1}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate_init": 0}, "learning_rate_init"),
        ({"max_iter": 0}, "max_iter"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"n_iter_no_change": 0}, "n_iter_no_change"),
        ({"jitter": -0.1}, "jitter"),
        ({"weight_dtype": "int8"}, "'weight_dtype' parameter of Distiller must be"),
        ({"device": "abacus"}, "device must be"),
        ({"teacher": KMeans(1, n_init=1)}, "one class"),
    ],
)
def test_invalid_parameters_raise(parameters, message):
    with pytest.raises(ValueError, match=message):
        small(**{"teacher": kmeans(), **parameters}).fit(X)


@pytest.mark.parametrize(
    "sizes", [{}, {8: 4}, {8}, b"a", bytearray(b"a"), "8", iter([8])], ids=lambda sizes: type(sizes).__name__
)
def test_hidden_layer_sizes_without_an_order_or_numbers(sizes):
    with pytest.raises(TypeError, match="hidden_layer_sizes must be a tuple of integers, got"):
        small(kmeans(), hidden_layer_sizes=sizes).fit(X)
    if isinstance(sizes, dict | set):
        with pytest.raises(TypeError, match="hidden_layer_sizes must be a tuple of integers, got"):
            RandomCodeCompressor(small(kmeans()), hidden_layer_sizes=sizes).fit(X)


def test_sizes_of_numpy():
    with pytest.raises(ValueError, match=r"got \(0,\)"):
        small(kmeans(), hidden_layer_sizes=[np.int64(0)]).fit(X)
    assert small(kmeans(), hidden_layer_sizes=np.array([5, 4]), max_iter=1).fit(X).network_.layer_sizes == (3, 5, 4, 3)


@pytest.mark.parametrize(
    "rows, message",
    [
        (X[:, 0], "2D array"),
        (X[:1], "minimum of 2"),
        (np.zeros((0, 3)), "minimum of 2"),
        (np.where(X > 5, np.nan, X), "NaN"),
        (np.where(X > 5, np.inf, X), "infinity"),
        (np.where(X > 5, 1e200, X), "as large as 1e.200"),
    ],
)
def test_invalid_rows_raise(rows, message):
    with pytest.raises(ValueError, match=message):
        small(kmeans()).fit(rows)
