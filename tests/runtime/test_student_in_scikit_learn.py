"""Loaded students as estimators of scikit-learn: steps, cross-validation, teachers, and networks to compress."""

import pickle

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from fresh_process import run_python
from numpy.testing import assert_array_equal
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from distill import (
    AutoCompressor,
    CodebookCompressor,
    Distiller,
    MatrixGaussianCompressor,
    RandomCodeCompressor,
    SpikeSlabCompressor,
    load,
    save,
    to_onnx,
)
from distill.compressors.base import network_of
from distill.pipeline import to_bytes

# Features of very different size: their scale decides how well weights can be compressed
X, groups = make_blobs(150, centers=[[0, 0, 0], [8, 0, 8], [0, 8, 4]], random_state=0)
X = X * [1e-3, 1.0, 1e4] + [5.0, 0.0, 1e5]
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 8, "learning_rate_init": 0.02, "random_state": 0}


def fitted(teacher, *steps):
    return make_pipeline(*steps, Distiller(teacher, **SMALL)).fit(X, groups)


@pytest.fixture(scope="module")
def plain():
    return load(to_bytes(fitted(KMeans(3, n_init=1))))


@pytest.fixture(scope="module")
def preprocessed():
    return load(to_bytes(fitted(KMeans(3, n_init=1), StandardScaler())))


@pytest.fixture(scope="module")
def regression():
    return load(to_bytes(fitted(Ridge())))


@pytest.fixture(scope="module")
def embedding():
    return load(to_bytes(fitted(PCA(2))))


@pytest.mark.filterwarnings("ignore:This Pipeline instance is not fitted yet:FutureWarning")
def test_last_step_of_a_pipeline(plain, embedding):
    pipeline = Pipeline([("as_it_is", "passthrough"), ("student", plain)])
    assert_array_equal(pipeline.predict(X), plain.predict(X))
    assert_array_equal(pipeline.fit(X, groups).predict_proba(X), plain.predict_proba(X))
    assert_array_equal(clone(pipeline).fit(X).predict(X), plain.predict(X))
    assert pipeline.get_params()["student"] is plain and "Student" in pipeline._repr_html_()
    clusters = make_pipeline(embedding, KMeans(3, n_init=1, random_state=0)).fit(X)
    assert_array_equal(clusters.predict(X), clusters[-1].predict(embedding.transform(X)))


def test_cross_validation(plain, regression):
    assert_array_equal(cross_val_predict(plain, X), plain.predict(X))
    assert_array_equal(cross_val_predict(plain, X, groups, method="predict_proba"), plain.predict_proba(X))
    assert_array_equal(cross_val_predict(regression, X, groups), regression.predict(X))
    assert cross_val_score(plain, X, plain.predict(X), scoring="accuracy").tolist() == [1] * 5
    assert permutation_importance(plain, X, plain.predict(X), scoring="accuracy", n_repeats=1).importances.max() > 0


def test_contract_of_estimators(plain, regression):
    assert clone(plain) is plain and plain.fit(X) is plain and plain.get_params() == {}
    assert is_classifier(plain) and is_regressor(regression)
    assert plain.set_params() is plain
    with pytest.raises(ValueError, match="has no parameters, got alpha"):
        plain.set_params(alpha=1)
    for bad in (X[:, :2], X[0]):
        with pytest.raises(ValueError, match=r"X (has 2 features|must have two dimensions)"):
            plain.fit(bad)
    assert_array_equal(pickle.loads(pickle.dumps(plain)).predict(X), plain.predict(X))


def test_fit_imports_nothing(plain, tmp_path):
    path = tmp_path / "a.student"
    path.write_bytes(to_bytes(Distiller(KMeans(3, n_init=1), **{**SMALL, "max_iter": 1}).fit(X)))
    run_python(
        f"import sys; from distill import load; student = load({str(path)!r}); student.fit([[5.0, 0.0, 1e5]])\n"
        "assert not {'sklearn', 'scipy', 'torch'} & set(sys.modules)"
    )


def test_students_are_teachers(plain):
    student = Distiller(plain, **SMALL).fit(X)
    assert student.network_.target == "predict_proba" and student.score(X) > 0.9


# compressing a student further


@pytest.mark.parametrize("kind, settings", [
    (CodebookCompressor, {"max_iter": 1, "bits": 4}),
    (SpikeSlabCompressor, {"max_iter": 4, "fine_tune_iter": 1, "density": 0.8}),
    (MatrixGaussianCompressor, {"max_iter": 4}),
    (RandomCodeCompressor, {"bits_per_weight": 8.0, "bits_per_block": 8, "n_steps": 10, "n_steps_between_blocks": 0,
                            "n_refinements": 0}),
    (AutoCompressor, {"max_bytes": 10**4, "methods": ["codebook"], "effort": 0.05}),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
@pytest.mark.parametrize("name", ["plain", "preprocessed"])
def test_students_are_compressed(request, name, kind, settings):
    student = request.getfixturevalue(name)
    compressor = kind(student, random_state=0, **settings).fit(X)
    assert compressor.score(X) == np.mean(compressor.predict(X) == student.predict(X)) > 0.85
    smaller = load(compressor.to_bytes())
    assert_array_equal(smaller.predict_proba(X), compressor.predict_proba(X))
    assert compressor.nbytes_ == sum(compressor.report_["bytes"].values()) == len(compressor.to_bytes())
    assert (smaller.preprocessing is None) == (name == "plain")
    if smaller.preprocessing is not None:
        for step, expected in zip(smaller.preprocessing.steps, student.preprocessing.steps, strict=True):
            assert step.operation == expected.operation
            assert_array_equal(step.values, expected.values)
    if hasattr(compressor, "sample"):
        assert np.mean(compressor.sample(X).mean(axis=0).argmax(axis=1) == student.predict(X)) > 0.8


@pytest.mark.parametrize("name, method", [("regression", "predict"), ("embedding", "transform")])
def test_students_of_values_are_compressed(request, name, method):
    student = request.getfixturevalue(name)
    compressor = CodebookCompressor(FrozenEstimator(student), bits=5, max_iter=1, random_state=0).fit(X)
    assert compressor.score(X) > 0.8 and hasattr(compressor, method)
    again = CodebookCompressor(load(compressor.to_bytes()), bits=5, max_iter=1, random_state=0).fit(X)
    assert again.score(X) > 0.8


def test_names_and_widths_are_those_before_the_preprocessing():
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    pipeline = make_pipeline(StandardScaler(), PCA(2), Distiller(KMeans(3, n_init=1), **SMALL)).fit(frame)
    student = load(to_bytes(pipeline))
    compressor = CodebookCompressor(student, max_iter=1).fit(frame)
    assert network_of(student).n_features == 2 and network_of(student).feature_names is None
    smaller = load(compressor.to_bytes())
    assert smaller.n_features_in_ == 3 and smaller.feature_names_in_.tolist() == ["a", "b", "c"]
    assert_array_equal(smaller.predict(frame), compressor.predict(frame))
    with pytest.raises(ValueError, match="X has the columns"):
        CodebookCompressor(student).fit(frame[["b", "a", "c"]])
    with pytest.raises(ValueError, match="X has 2 features, but estimator was fitted with 3; fit on rows like those"):
        CodebookCompressor(student).fit(X[:, :2])
    with pytest.raises(ValueError, match=r"makes infinite or NaN|as large as|too large"):
        CodebookCompressor(student).fit(frame * 1e145)


def test_preprocessing_stays_through_wrappers_pipelines_and_export(preprocessed):
    once = CodebookCompressor(preprocessed, bits=5, max_iter=1, random_state=0).fit(X)
    twice = CodebookCompressor(FrozenEstimator(once), bits=4, max_iter=1, random_state=0).fit(X)
    nested = CodebookCompressor(CodebookCompressor(preprocessed, bits=5, max_iter=1), bits=4, max_iter=1).fit(X)
    for compressor in (twice, nested):
        assert np.mean(load(compressor.to_bytes()).predict(X) == preprocessed.predict(X)) > 0.85
        assert compressor.score(X) > 0.85
    scaled = make_pipeline(MinMaxScaler(), CodebookCompressor(preprocessed, max_iter=1)).fit(X)
    assert [step.operation for step in load(to_bytes(scaled)).preprocessing.steps] == [
        "multiply", "add", "subtract", "divide"
    ]  # fmt: skip
    assert_array_equal(load(to_bytes(scaled)).predict(X), scaled.predict(X))
    session = onnxruntime.InferenceSession(to_onnx(once).SerializeToString())
    rows = X.astype({"tensor(double)": np.float64, "tensor(float)": np.float32}[session.get_inputs()[0].type])
    assert np.mean(session.run(["label"], {"X": rows})[0] == once.predict(X)) > 0.98


def test_a_feature_that_is_constant_here_keeps_its_weights(plain):
    rows = X.copy()
    rows[:, 2] = 1e5 + 6e4
    compressor = CodebookCompressor(plain, bits=6, max_iter=1, random_state=0).fit(rows)
    assert compressor.score(rows) > 0.85


# searches


@pytest.mark.parametrize("kind, settings", [
    (GridSearchCV, {}), (RandomizedSearchCV, {"n_iter": 1}), (HalvingGridSearchCV, {"min_resources": 40}),
])  # fmt: skip
def test_a_search_is_saved_as_its_best_estimator(kind, settings, tmp_path):
    pipeline = make_pipeline(StandardScaler(), Distiller(KMeans(3, n_init=1), **{**SMALL, "max_iter": 1}))
    search = kind(pipeline, {"distiller__alpha": [1e-3]}, cv=2, **settings)
    nested = make_pipeline("passthrough", search).fit(X)
    for estimator in (nested, nested[-1], FrozenEstimator(nested[-1])):
        save(estimator, tmp_path / "a.student")
        assert_array_equal(load(tmp_path / "a.student").predict(X), nested.predict(X))
    assert to_onnx(nested[-1]).graph.output[0].name == "label"


def test_a_search_without_a_best_estimator_is_not_saved():
    search = GridSearchCV(Distiller(KMeans(3, n_init=1), **{**SMALL, "max_iter": 1}), {}, cv=2, refit=False)
    with pytest.raises(ValueError, match="is not fitted"):
        to_bytes(search)
    with pytest.raises(TypeError, match=r"GridSearchCV\) has no best_estimator_, because refit=False"):
        to_bytes(search.fit(X))
