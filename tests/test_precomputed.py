"""Distiller("precomputed"): the predictions of a teacher that is not at hand, and frozen teachers that hold them."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import HDBSCAN, AgglomerativeClustering
from sklearn.datasets import make_blobs
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import SpectralEmbedding
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from distill import AutoCompressor, CodebookCompressor, Distiller, load
from distill.model_selection import fidelity_scorer

# Students are trained for an epoch or two
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X, groups = make_blobs(150, centers=[[0, 0], [6, 0], [0, 6]], cluster_std=0.6, random_state=0)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "learning_rate_init": 0.02, "random_state": 0}
PROBABILITIES = np.eye(3)[groups] * 0.9 + 0.1 / 3


def precomputed(**parameters):
    return Distiller("precomputed", **{**SMALL, **parameters})


@pytest.mark.parametrize(
    "y, target, classes",
    [
        (groups, "predict", [0, 1, 2]),
        (groups.tolist(), "predict", [0, 1, 2]),
        (groups[:, None], "predict", [0, 1, 2]),
        (np.array(["a", "b", "c"])[groups], "predict", ["a", "b", "c"]),
        (pd.Series(np.array(["a", "b", "c"])[groups], dtype="category"), "predict", ["a", "b", "c"]),
        (groups == 1, "predict", [False, True]),
        (groups.astype(float), "predict", None),
        (X, "transform", None),
        (PROBABILITIES, "transform", None),
        (sparse.csr_array(X), "transform", None),
        (pd.DataFrame(X), "transform", None),
    ],
)
def test_automatic_target(y, target, classes):
    # scanpy #2259: labels and embeddings without the estimator that made them
    student = precomputed().fit(X, y)
    assert student.network_.target == target
    assert getattr(student, "classes_", np.array(None)).tolist() == classes
    assert student.score(X, y) > (0.9 if classes else 0.7)
    np.testing.assert_array_equal(getattr(load(student.to_bytes()), target)(X), getattr(student, target)(X))


def test_chosen_target():
    student = precomputed(target="predict_proba").fit(X, pd.DataFrame(PROBABILITIES, columns=["a", "b", "c"]))
    assert student.classes_.tolist() == ["a", "b", "c"] and student.predict(X[:1]) == ["abc"[groups[0]]]
    assert student.score(X, PROBABILITIES) > 0.95
    assert precomputed(target="predict").fit(X, X).predict(X).shape == (150, 2)
    decisions = precomputed(target="decision_function").fit(X, X[:, 0])
    assert decisions.decision_function(X).shape == (150,) and not hasattr(decisions, "predict")
    with pytest.raises(ValueError, match="y has 2 columns"):
        student.score(X, X)


@pytest.mark.parametrize(
    "target, y, message",
    [
        ("auto", None, "teacher='precomputed' requires y to be passed, but the target y is None"),
        ("auto", groups[:7], "X has 150 samples and y has 7"),
        ("auto", np.zeros(150, int), "y has the same label for all 150 rows"),
        ("predict", np.where(X[:, 0] > 0, np.nan, 1.0), r"'precomputed' \(y\) returned values that are NaN"),
        ("predict_proba", X, "do not sum to one"),
        ("predict_proba", PROBABILITIES[:, 0], r"np.column_stack\(\[1 - p, p\]\)"),
        ("transform", ["a"] * 150, "not numeric"),
        ("decision", X, "target must be"),
    ],
)
def test_predictions_that_are_no_target(target, y, message):
    with pytest.raises(ValueError, match=message):
        precomputed(target=target).fit(X, y)


def test_other_names_are_no_teacher():
    with pytest.raises(TypeError, match="or 'precomputed' where y are its predictions, got 'kmeans'"):
        Distiller("kmeans").fit(X, groups)


def test_it_is_an_estimator_of_scikit_learn():
    student = precomputed()
    assert clone(student).get_params() == student.get_params() and get_tags(student).target_tags.required
    with pytest.raises(ValueError, match="pass them as y, in the form they had in fit"):
        student.fit(X, groups).score(X)
    assert not hasattr(precomputed(target="predict"), "transform") and hasattr(precomputed(), "transform")
    assert precomputed().fit_transform(X, X).shape == X.shape
    assert precomputed().fit(X, X).fit(X, groups).network_.target == "predict"
    search = GridSearchCV(make_pipeline(StandardScaler(), precomputed()), {"distiller__alpha": [0, 0.1]}, cv=2)
    assert search.fit(X, groups).best_score_ > 0.9
    assert cross_val_score(precomputed(), X, groups, scoring=fidelity_scorer, cv=2).min() > 0.9


def test_compressors_around_it(tmp_path):
    compressor = CodebookCompressor(precomputed(memory=str(tmp_path)), max_iter=1).fit(X, groups)
    assert compressor.score(X, groups) > 0.9 and compressor.report_["agreement"] > 0.9
    with pytest.raises(ValueError, match="requires y to be passed"):
        CodebookCompressor(precomputed(), max_iter=1).fit(X)
    auto = AutoCompressor(precomputed(), max_bytes=10**4, methods=["codebook"], effort=0.01, random_state=0)
    assert auto.fit(X, groups).score(X, groups) > 0.9


# several labels per row


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("teacher", [
    RandomForestClassifier(3, random_state=0),
    MLPClassifier((4,), solver="lbfgs", max_iter=30, random_state=0),
], ids=lambda teacher: type(teacher).__name__)  # fmt: skip
@pytest.mark.parametrize("target", ["auto", "predict"])
def test_teachers_of_several_labels_name_the_way_out(teacher, target):
    labels = np.c_[groups == 1, groups == 2].astype(int)
    with pytest.raises(ValueError, match=r"MultiOutputClassifier\(Distiller\('precomputed'\)\).fit\(X, Y\)"):
        Distiller(teacher, target=target, **SMALL).fit(X, labels)
    predicted = clone(teacher).fit(X, labels).predict(X)
    students = MultiOutputClassifier(precomputed()).fit(X, predicted)
    assert np.mean(students.predict(X) == predicted) > 0.95
    values = precomputed(target="transform").fit(X, predicted)
    assert np.mean((values.transform(X) > 0.5) == predicted) > 0.95
    if isinstance(teacher, MLPClassifier):
        with pytest.raises(ValueError, match=r"MultiOutputClassifier\(CodebookCompressor"):
            CodebookCompressor(teacher).fit(X, labels)
        students = MultiOutputClassifier(CodebookCompressor(teacher, max_iter=1)).fit(X, labels)
        assert np.mean(students.predict(X) == labels) > 0.9


# frozen teachers that hold their predictions


@pytest.mark.parametrize("wrap", [
    lambda last: FrozenEstimator(make_pipeline(StandardScaler(), last).fit(X)),
    lambda last: FrozenEstimator(make_pipeline(StandardScaler(), make_pipeline("passthrough", last)).fit(X)),
    lambda last: make_pipeline(StandardScaler(), FrozenEstimator(last.fit(X))),
    lambda last: FrozenEstimator(make_pipeline(StandardScaler(), FrozenEstimator(last.fit(X)))),
    lambda last: FrozenEstimator(GridSearchCV(last, {}, scoring=lambda *_: 0, cv=2).fit(X)),
], ids=["pipeline", "nested", "frozen step", "twice", "search"])  # fmt: skip
@pytest.mark.parametrize("last, attribute", [
    (HDBSCAN(min_cluster_size=10, copy=True), "labels_"),
    (AgglomerativeClustering(3), "labels_"),
    (SpectralEmbedding(2, affinity="rbf"), "embedding_"),
], ids=["hdbscan", "agglomerative", "embedding"])  # fmt: skip
def test_frozen_teachers_hold_their_predictions(last, attribute, wrap):
    teacher = wrap(clone(last))
    student = Distiller(teacher, **{**SMALL, "max_iter": 1}).fit(X)
    assert student.network_.target == ("predict" if attribute == "labels_" else "transform")
    with pytest.raises(ValueError, match="the 150 rows of its fit only"):
        Distiller(teacher, **SMALL).fit(X[:50])
    if attribute == "labels_":
        inner = student.teacher_
        while not hasattr(inner, attribute):
            inner = getattr(inner, "best_estimator_", getattr(inner, "estimator", None)) or inner.steps[-1][1]
        # HDBSCAN has a label for noise, also where no row of the fit has it
        noise = [-1] if isinstance(last, HDBSCAN) and attribute == "labels_" and student.classes_[0] == -1 else []
        assert student.classes_.tolist() == noise + np.unique(inner.labels_[inner.labels_ >= 0]).tolist()
