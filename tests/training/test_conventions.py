"""What predictions mean, read from the predictions themselves: thresholds and signs of decision values, and ranges."""

import numpy as np
import onnxruntime
import pytest
from sklearn.base import BaseEstimator, ClusterMixin, OutlierMixin, clone
from sklearn.cluster import DBSCAN, HDBSCAN, OPTICS, KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.datasets import make_blobs
from sklearn.decomposition import NMF, PCA, LatentDirichletAllocation
from sklearn.ensemble import IsolationForest, RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, SGDOneClassSVM
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.neighbors import KNeighborsRegressor, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import CodebookCompressor, Distiller, load, to_onnx
from distill.teachers import compare_labels, is_detector, labels_beside, range_of, read_predictions, resolve_target

random = np.random.default_rng(0)
# One group of rows, and a few far away from it
ROWS = np.vstack([random.normal(size=(285, 2)), random.uniform(-9, 9, (15, 2))])
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 25, "learning_rate_init": 0.02, "random_state": 0}


class Detector:
    """An outlier detector that derives from nothing: the score is the distance from the mean, larger for outliers.

    Those of PyOD label outliers 1 and all others 0, above a `threshold_`.
    """

    def __init__(self, inlier=0, outlier=1, sign=1, shift=0.0):
        self.inlier, self.outlier, self.sign, self.shift = inlier, outlier, sign, shift

    def get_params(self, deep=True):
        return {name: getattr(self, name) for name in ("inlier", "outlier", "sign", "shift")}

    def set_params(self, **parameters):
        vars(self).update(parameters)
        return self

    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        self.cut_ = np.quantile(self.sign * self.decision_function(X), 0.95)
        return self

    def decision_function(self, X):
        return self.sign * np.sqrt(np.square(X - self.mean_).sum(axis=1)) + self.shift

    def predict(self, X):
        is_outlier = self.sign * self.decision_function(X) > self.cut_
        return np.where(is_outlier, self.outlier, self.inlier)


class Thresholded(Detector):
    """Names its threshold as PyOD does, and calls no row an outlier if there are few."""

    def fit(self, X, y=None):
        super().fit(X)
        self.threshold_ = float(self.cut_ * self.sign) if len(X) > 50 else 1e3
        return self

    def predict(self, X):
        return (self.decision_function(X) > self.threshold_).astype(int)


class Noisy(Detector):
    """Labels have nothing to do with the scores."""

    def predict(self, X):
        return (np.arange(len(X)) % 3 == 0).astype(int)


def fitted_to(teacher, rows):
    # scikit-learn does not fit a frozen detector without tags
    return teacher if isinstance(teacher, FrozenEstimator) else clone(teacher).fit(rows)


def read(teacher, rows=ROWS):
    fitted = fitted_to(teacher, rows)
    labels = labels_beside(fitted, rows, "decision_function")
    return read_predictions(fitted, fitted.decision_function(rows), "decision_function", len(rows), labels)


DETECTORS = [
    (Detector(), [0, 1]),
    (Detector(1, -1), [1, -1]),
    (FrozenEstimator(Thresholded().fit(ROWS)), [0, 1]),
    (make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)), [-1, 1]),
    (IsolationForest(n_estimators=40, contamination=0.05, random_state=0), [-1, 1]),
    # For the rest the threshold is enough
    (EllipticEnvelope(contamination=0.05, random_state=0), [-1, 1]),
    (Detector(shift=-100.0), [0, 1]),
    (Detector(shift=1e6), [0, 1]),
    (Detector(1, -1, sign=-1), [-1, 1]),
    (Detector("normal", "outlier"), ["normal", "outlier"]),
    (Detector(False, True, sign=-1), [True, False]),
    (Thresholded(), [0, 1]),
]


@pytest.mark.parametrize("teacher, classes", DETECTORS, ids=lambda value: type(value).__name__)
def test_threshold_and_sign_are_those_of_the_teacher(teacher, classes):
    assert resolve_target(teacher) == "decision_function" and is_detector(teacher)
    assert hasattr(Distiller(teacher), "predict")
    found, labels = read(teacher), fitted_to(teacher, ROWS).predict(ROWS)
    assert found.classes.tolist() == classes and not found.note
    above = found.values[:, 0] > found.threshold
    assert np.mean(found.classes[above.astype(int)] == labels) >= 0.99


@pytest.mark.parametrize("teacher, classes", DETECTORS[:5], ids=lambda value: type(value).__name__)
def test_labels_are_those_of_the_teacher(teacher, classes):
    # pyod #4: 1 for outliers and large scores for worse ones, read as scikit-learn's -1 and 1: 1 for all rows
    student = Distiller(teacher, **SMALL).fit(ROWS)
    assert student.classes_.tolist() == classes and student.network_.target == "decision_function"
    assert np.mean(student.predict(ROWS) == student.teacher_.predict(ROWS)) >= 0.98
    assert student.score(ROWS) > 0.9
    read = load(student.to_bytes())
    np.testing.assert_array_equal(read.predict(ROWS), student.predict(ROWS))
    np.testing.assert_array_equal(read.decision_function(ROWS), student.decision_function(ROWS))


def test_threshold_stays_through_compression_and_export():
    student = Distiller(Detector(shift=50.0), **SMALL).fit(ROWS)
    compressor = CodebookCompressor(FrozenEstimator(student), bits=5, max_iter=2, random_state=0).fit(ROWS)
    assert np.mean(compressor.predict(ROWS) == student.teacher_.predict(ROWS)) >= 0.97
    assert compressor.decision_function(ROWS).min() > 49 and compressor.score(ROWS) > 0.9
    rows = ROWS.astype(np.float32)
    session = onnxruntime.InferenceSession(to_onnx(student).SerializeToString())
    decision, labels = session.run(["decision", "label"], {"X": rows})
    np.testing.assert_allclose(decision, student.decision_function(rows), rtol=1e-5)
    assert np.mean(labels == student.predict(rows)) > 0.99


def test_threshold_separates_the_labels():
    for shift in (-3.0, 1e3):
        found = read(Detector(shift=shift))
        above = found.values[:, 0] > found.threshold
        np.testing.assert_array_equal(found.classes[above.astype(int)], Detector(shift=shift).fit(ROWS).predict(ROWS))
    assert read(Thresholded()).threshold == Thresholded().fit(ROWS).threshold_
    assert read(IsolationForest(n_estimators=10, contamination=0.05)).threshold == 0
    # A threshold of zero is wrong even if few labels are, where few rows are outliers
    few = np.vstack([random.normal(size=(2000, 2)), [[50.0, 50.0]]])
    rare = Thresholded().fit(few)
    rare.threshold_ = 30.0
    scores = rare.decision_function(few)
    found = read_predictions(rare, scores, "decision_function", 2001, rare.predict(few))
    assert found.classes.tolist() == [0, 1] and np.sum(scores > found.threshold) == 1


def test_labels_that_do_not_follow_from_scores_are_said():
    with pytest.warns(UserWarning, match=r"do not follow from its decision values.*use\s+target='predict'") as caught:
        student = Distiller(Noisy(), **{**SMALL, "max_iter": 1}).fit(ROWS)
    assert caught[0].filename == __file__
    assert len(student.classes_) == 2
    three = read_predictions(Detector(), ROWS[:, 0], "decision_function", 300, np.arange(300) % 3)
    assert three.classes is None and "use target='predict'" in three.note


def test_a_single_label():
    quiet = ROWS[:40]
    found = read(Thresholded(), quiet)
    assert found.classes.tolist() == [0, 1] and found.threshold == 1e3 and not found.note
    inliers = read_predictions(IsolationForest(), np.ones(9), "decision_function", 9, np.ones(9, int))
    assert inliers.classes.tolist() == [-1, 1] and inliers.threshold == 0
    with pytest.warns(UserWarning, match="all rows the label 0, so that it is not known which decision values"):
        student = Distiller(Detector(outlier=0), **{**SMALL, "max_iter": 1}).fit(ROWS)
    assert not hasattr(student, "predict") and student.decision_function(ROWS).shape == (300,)


class Classifies(BaseEstimator):
    """A classifier without a declared type is none of the detectors."""

    def fit(self, X, y):
        return self

    def predict(self, X): ...
    def decision_function(self, X): ...
    def predict_proba(self, X): ...


def test_detectors_are_known_by_their_methods():
    assert not is_detector(Classifies()) and resolve_target(Classifies()) == "predict_proba"
    assert not is_detector(FrozenEstimator(Classifies())) and not is_detector(LogisticRegression())
    assert not is_detector(KMeans()) and is_detector(SGDOneClassSVM())


X, groups = make_blobs(150, centers=[[0, 0], [6, 0], [0, 6]], cluster_std=1.5, random_state=0)


@pytest.mark.parametrize("target", ["auto", "decision_function"])
def test_classifiers_with_a_tuned_threshold(target):
    # The same kind as pyod #4: labels that neither a threshold of zero nor the most probable class gives
    method = "predict_proba" if target == "auto" else "decision_function"
    teacher = FixedThresholdClassifier(LogisticRegression(), threshold=0.05 if target == "auto" else 2.0,
                                       response_method=method)  # fmt: skip
    make = Distiller(teacher, target=target, **{**SMALL, "max_iter": 10})
    if target == "auto":
        with pytest.warns(UserWarning, match=r"the most probable class in .*% of the training rows only.*'predict'"):
            make.fit(X, groups > 0)
    else:
        student = make.fit(X, groups > 0)
        assert student.network_.output_offset == pytest.approx(2, abs=0.5)
        assert np.mean(student.predict(X) == student.teacher_.predict(X)) > 0.95
    assert np.mean(Distiller(teacher, target="predict", **{**SMALL, "max_iter": 5}).fit(X, groups > 0).score(X)) > 0.9


def test_usual_classifiers_are_not_warned_of():
    for method in ("predict_proba", "decision_function"):
        teacher = LogisticRegression().fit(X, groups)
        found = read_predictions(teacher, getattr(teacher, method)(X), method, 150)
        assert compare_labels(teacher, X, found) == compare_labels(teacher, X.tolist(), found) == ""


# ranges


COUNTS = random.poisson(2, (150, 8))


@pytest.mark.parametrize("teacher, target, expected", [
    (LatentDirichletAllocation(3, random_state=0), "transform", "softmax"),
    (NMF(2, init="nndsvda", max_iter=400, random_state=0), "transform", "relu"),
    (RandomForestRegressor(5, random_state=0), "predict", "relu"),
    (KNeighborsRegressor(), "predict", "relu"),
    (PCA(2), "transform", "identity"),
    (KMeans(3, n_init=1), "transform", "identity"),
], ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else None)  # fmt: skip
def test_outputs_stay_in_their_range(teacher, target, expected):
    # Students of topic models were 19 % negative
    y = np.maximum(COUNTS[:, 0] - 3, 0)
    student = Distiller(teacher, target=target, **{**SMALL, "max_iter": 10}).fit(COUNTS, y)
    assert student.network_.output == expected
    far = np.vstack([COUNTS, 10 * COUNTS, np.zeros((1, 8), int)])
    outputs = getattr(student, target)(far)
    compressor = CodebookCompressor(FrozenEstimator(student), bits=4, max_iter=1, random_state=0).fit(COUNTS)
    for values in (outputs, getattr(compressor, target)(far)):
        if expected != "identity":
            assert values.min() >= 0
        if expected == "softmax":
            np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    assert student.score(COUNTS, y if target == "predict" else None) > 0.5
    np.testing.assert_array_equal(getattr(load(student.to_bytes()), target)(far), outputs.astype(np.float32))


def test_ranges():
    assert range_of(np.array([[0.5, 0.5], [0.1, 0.9]]), "transform") == "distribution"
    assert range_of(np.array([[0.5, 0.5], [0.1, 0.9]]), "predict") == "any"
    assert range_of(np.array([[1.0], [1.0]]), "transform") == "any"
    assert range_of(np.array([[0.0, 5.0], [7.0, 0.0]]), "transform") == "non-negative"
    # An embedding that happens to be positive, and one of which a single column begins at zero
    assert range_of(np.array([[3.0, 5.0], [7.0, 9.0]]), "transform") == "any"
    assert range_of(np.array([[0.0, 5.0], [7.0, 9.0]]), "transform") == "any"
    assert range_of(np.array([[0.0], [7.0]]), "predict") == "non-negative"
    assert range_of(np.array([[1e-9], [7.0]]), "predict") == "any"
    assert range_of(np.array([[0.0], [7.0]]), "decision_function") == "any"


# one class


class Outliers(OutlierMixin, BaseEstimator):
    def __init__(self, label=-1, nu=0.5):
        self.label, self.nu = label, nu

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.full(len(X), self.label, np.int32)


class Clusters(ClusterMixin, Outliers):
    def fit(self, X, y=None):
        self.labels_ = self.predict(X)
        return self


@pytest.mark.parametrize("teacher, message", [
    (DBSCAN(eps=1e-6), r"DBSCAN calls each of the 150 rows noise \(label -1\).*change its eps or min_samples"),
    (HDBSCAN(min_cluster_size=140, copy=True), "noise.*min_samples or min_cluster_size or cluster_selection_epsilon"),
    (make_pipeline(StandardScaler(), DBSCAN(eps=1e-6)), "each of the 150 rows noise.*change its eps or min_samples"),
    (OPTICS(min_samples=5, cluster_method="dbscan", eps=1e-6), "noise.*eps or min_samples"),
    (Outliers(), r"an outlier \(label -1\).*change its nu, or scale"),
    (Outliers(1), r"none of the 150 rows an outlier.*change its nu"),
    (Clusters(), "calls each of the 150 rows noise"),
    (Clusters(np.int32(0)), "put all 150 rows in one class, 0: there is nothing"),
    (KMeans(1, n_init=1), "put all 150 rows in one class, 0: there is nothing.*change the teacher's parameters"),
], ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else None)  # fmt: skip
def test_one_label_for_all_rows(teacher, message):
    with pytest.raises(ValueError, match=message) as caught:
        Distiller(teacher, target="predict", **SMALL).fit(X)
    assert "np." not in str(caught.value)
