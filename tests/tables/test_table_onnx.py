"""Tables of numbers as ONNX models, computed by onnxruntime."""

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
    TargetEncoder,
)  # fmt: skip
from through_file import file_of

from distill import load, to_onnx
from distill.codecs import container
from distill.network import Network

random = np.random.default_rng(0)
X = random.normal(size=(80, 4)) * [1, 3, 0.5, 2] + [0, 1, 1, -2]
X[:, 3] = np.rint(X[:, 3])
y = np.arange(80) % 3
HOLES = X.copy()
HOLES[::7, 0], HOLES[::5, 3] = np.nan, np.nan


def name_of(transformer):
    return repr(transformer).replace("\n", "").replace(" ", "")[:80]


def run(student, rows):
    session = onnxruntime.InferenceSession(to_onnx(student).SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


@pytest.mark.parametrize("transformer", [
    *(FunctionTransformer(getattr(np, name)) for name in ("tanh", "square", "sign", "rint", "floor", "abs", "expm1")),
    PowerTransformer(), KBinsDiscretizer(4, strategy="uniform"), Binarizer(),
    PolynomialFeatures(3), FunctionTransformer(np.negative),
    KBinsDiscretizer(3, encode="ordinal", strategy="uniform"), PolynomialFeatures((2, 3), include_bias=False),
    PolynomialFeatures(2, interaction_only=True), Normalizer(), Normalizer("l1"), Normalizer("max"), SelectKBest(k=2),
    make_pipeline(PCA(3), Binarizer()), make_pipeline(SelectKBest(k=3), TruncatedSVD(2)),
    FeatureUnion([("a", StandardScaler()), ("b", "passthrough"), ("c", Binarizer())], transformer_weights={"a": 0.5}),
], ids=name_of)  # fmt: skip
def test_numbers(transformer):
    student = load(file_of(clone(transformer).fit(X, y)))
    assert_allclose(run(student, X), student.transform(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transformer", [
    SimpleImputer(add_indicator=True), SimpleImputer(strategy="constant", fill_value=2.0),
    make_pipeline(SimpleImputer(), StandardScaler(), PolynomialFeatures(2)),
    FeatureUnion([("a", SimpleImputer()), ("b", MissingIndicator()), ("c", FunctionTransformer(np.isnan))]),
    ColumnTransformer([
        ("n", make_pipeline(SimpleImputer(), MinMaxScaler()), [0, 1]),
        ("c", OneHotEncoder(handle_unknown="ignore", drop="first"), [3]),
        ("o", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-2), [3]),
        ("t", TargetEncoder(), [3]),
        ("i", OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist"), [3]),
    ]),
], ids=name_of)  # fmt: skip
def test_missing_values_and_categories(transformer):
    student = load(file_of(clone(transformer).fit(HOLES, y)))
    rows = HOLES.copy()
    rows[1, 3] = 99  # no category
    assert_allclose(run(student, rows), student.transform(rows), rtol=1e-5, atol=1e-5)


def test_positive_numbers():
    rows = np.abs(X) + 0.1
    for transformer in (
        PowerTransformer("box-cox"),
        *(FunctionTransformer(f) for f in (np.log1p, np.sqrt, np.log, np.reciprocal)),
    ):
        student = load(file_of(transformer.fit(rows)))
        assert_allclose(run(student, rows), student.transform(rows), rtol=1e-5, atol=1e-5)


def test_rows_that_the_file_refuses_are_nan():
    for transformer in (make_pipeline(Binarizer(), PolynomialFeatures(2)), OneHotEncoder(), MissingIndicator()):
        rows = (
            np.array([[1.0, 2], [3, 4], [5, 6]])
            if not isinstance(transformer, MissingIndicator)
            else np.array([[1, np.nan], [2, 3]])
        )
        student = load(file_of(transformer.fit(rows)))
        bad = rows[:2].copy()
        bad[1, 0] = np.nan
        with pytest.raises(ValueError, match="row 1 of X"):
            student.transform(bad)
        outputs = run(student, bad)
        assert np.isfinite(outputs[0]).all() and np.isnan(outputs[1]).all()


@pytest.mark.parametrize(("transformer", "message"), [
    (QuantileTransformer(n_quantiles=5), "operation 'quantiles' has no form in ONNX here; export the last step"),
    (SplineTransformer(), "operation 'spline' has no form"),
    (FunctionTransformer(np.cbrt), "operation 'function' cbrt has no form"),
], ids=name_of)  # fmt: skip
def test_operations_without_a_form_are_named(transformer, message):
    with pytest.raises(TypeError, match=message):
        to_onnx(load(file_of(transformer.fit(X))))


def test_text_is_named():
    for fitted in (CountVectorizer().fit(["a text"]), OneHotEncoder().fit(np.array([["a"], ["b"]], dtype=object))):
        with pytest.raises(TypeError, match=r"'text' has no form in ONNX|'one-hot' has text, such as 'a'"):
            to_onnx(load(file_of(fitted)))


def test_a_network_that_fills_cannot_mark_rows():
    network = Network((np.ones((4, 1), np.float32),), (np.zeros(1, np.float32),), fill=True)
    step = load(file_of(Binarizer().fit(X))).preprocessing.table
    student = load(container.with_steps(container.encode(network), 4, [step], None))
    with pytest.raises(TypeError, match="its network takes NaN for a missing value"):
        to_onnx(student)
