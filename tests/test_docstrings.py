"""Every parameter and every fitted attribute of the public API is documented, with its type."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
from numpydoc.docscrape import ClassDoc, FunctionDoc
from short_training import limit_training
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

import distill
import mbn
import mbn.preprocessing
from distill import (
    AutoCompressor,
    CodebookCompressor,
    Distiller,
    MatrixGaussianCompressor,
    RandomCodeCompressor,
    SpikeSlabCompressor,
    model_selection,
    plotting,
)
from distill.compressors import COMPRESSORS, compressor_class
from mbn import MBNClustering, MultilayerBootstrapNetwork

PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (distill, mbn, mbn.preprocessing, model_selection, plotting)
    for name in module.__all__
}
CLASSES = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isclass(value) and not issubclass(value, Exception) and value.__init__ is not object.__init__
}
ESTIMATORS = {name: value for name, value in CLASSES.items() if issubclass(value, BaseEstimator)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)}

SMALL = {"hidden_layer_sizes": (4,), "max_iter": 1, "random_state": 0}
NETWORK = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "max_iter": 20, "random_state": 0}
CLUSTERS, EMBEDDING = Distiller(KMeans(3, n_init=1, random_state=0), **SMALL), Distiller(PCA(2), **SMALL)
WRAPPED = (CLUSTERS, EMBEDDING, MLPClassifier(**NETWORK), MLPRegressor(**NETWORK))
SEARCH = {"max_bytes": 10**4, "methods": ["spike_slab"], "effort": 0.01, "random_state": 0}
# Fits that together set every fitted attribute
FITS = [
    MultilayerBootstrapNetwork(n_clusters=2, n_estimators=20, random_state=0),
    MultilayerBootstrapNetwork(n_clusters=2, n_estimators=20, k="stable", random_state=0),
    MBNClustering(2, n_estimators=20, random_state=0),
    mbn.preprocessing.ImageMoments((1, -1)),
    CLUSTERS,
    EMBEDDING,
    Distiller(LogisticRegression(), **SMALL),
    *(CodebookCompressor(wrapped, max_iter=1, random_state=0) for wrapped in WRAPPED),
    *(SpikeSlabCompressor(wrapped, max_iter=1, fine_tune_iter=1, random_state=0) for wrapped in WRAPPED),
    SpikeSlabCompressor(EMBEDDING, eliminate=True, max_iter=1, fine_tune_iter=1, random_state=0),
    *(MatrixGaussianCompressor(wrapped, max_iter=1, random_state=0) for wrapped in WRAPPED),
    MatrixGaussianCompressor(WRAPPED[-1], noise="t", max_iter=1, random_state=0),
    *(
        RandomCodeCompressor(wrapped, bits_per_weight=8.0, bits_per_block=8, n_steps=2, n_refinements=0, random_state=0)
        for wrapped in WRAPPED
    ),
    *(AutoCompressor(wrapped, **SEARCH) for wrapped in WRAPPED),
]
FITS += [
    compressor_class(method)(CLUSTERS)
    for method, name in COMPRESSORS.items()
    if name not in {type(estimator).__name__ for estimator in FITS}
]


def documented(entries):
    """Return the names of documented parameters or attributes with their types and descriptions."""
    found = {}
    for entry in entries:
        for name in entry.name.split(","):
            found[name.strip().lstrip("*")] = (entry.type, " ".join(entry.desc))
    return found


def parameters(function):
    """Return the names of the parameters of a function, without self and cls."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def untyped(entries):
    """Return the names without a type; that of ``**options`` is always a dict."""
    return [
        name for name, (kind, _) in documented(entry for entry in entries if entry.name[0] != "*").items() if not kind
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_of_a_class_is_documented(name):
    doc = ClassDoc(CLASSES[name])["Parameters"]
    assert list(documented(doc)) == parameters(CLASSES[name].__init__)
    assert untyped(doc) == []


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_parameter_of_an_estimator_has_a_description(name):
    doc = documented(ClassDoc(ESTIMATORS[name])["Parameters"])
    assert [parameter for parameter, (_, description) in doc.items() if not description] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_function_is_documented(name):
    doc = FunctionDoc(FUNCTIONS[name])["Parameters"]
    assert list(documented(doc)) == parameters(FUNCTIONS[name])
    assert untyped(doc) == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_of_a_method_is_documented(name):
    for method, function in inspect.getmembers(CLASSES[name], inspect.isfunction):
        expected = parameters(function)
        # X and y alone need no section; scikit-learn documents its own methods
        if (
            not method.startswith("_")
            and function.__module__.startswith(("distill", "mbn"))
            and set(expected) - {"X", "y"}
        ):
            doc = FunctionDoc(function)["Parameters"]
            assert (method, list(documented(doc)), untyped(doc)) == (method, expected, [])


@pytest.fixture(scope="module")
def fitted_attributes():
    """Names of the fitted attributes and public properties of every estimator class."""
    random = np.random.default_rng(0)
    X = pd.DataFrame(random.normal(size=(60, 3)), columns=["a", "b", "c"])
    y = (X["a"] > 0).to_numpy().astype(int)
    attributes = {}
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as monkeypatch:
        warnings.simplefilter("ignore")
        limit_training(monkeypatch, min_steps=8)
        for estimator in FITS:
            fitted = clone(estimator).fit(X, y)
            names = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
            names |= {
                name
                for name, value in inspect.getmembers(type(fitted), lambda value: isinstance(value, property))
                if name.endswith("_") and not name.startswith("_") and hasattr(fitted, name)
            }
            attributes.setdefault(type(fitted), set()).update(names)
    return attributes


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_fitted_attribute_is_documented(fitted_attributes, name):
    found = documented(ClassDoc(ESTIMATORS[name])["Attributes"])
    assert sorted(fitted_attributes[ESTIMATORS[name]] - set(found)) == []
    assert [attribute for attribute, (kind, _) in found.items() if not kind] == []
