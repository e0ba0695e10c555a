"""The example of the page "Write a compressor" is a full member of the family."""

import sys
from types import ModuleType

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from toy_compressor import TernaryCompressor, ternary_layers

from distill import AutoCompressor, Distiller, compressors, load
from distill.compressors.base import network_of
from distill.model_selection import fidelity_scorer

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")


@pytest.fixture(scope="module")
def ternary(student, train_rows):
    return TernaryCompressor(FrozenEstimator(student), random_state=0).fit(train_rows)


def test_loaded_file_predicts_the_same_bits(ternary, train_rows):
    loaded = load(ternary.to_bytes())
    assert_array_equal(loaded.predict(train_rows), ternary.predict(train_rows))
    assert ternary.nbytes_ == len(ternary.to_bytes()) == sum(ternary.report_["bytes"].values())
    assert ternary.score(train_rows) > 0.7 and ternary.report_["agreement"] > 0.7


def test_weights_are_ternary(ternary):
    for weight, scale in zip(ternary.network_.weights, ternary.scales_):
        assert set(np.unique(weight)) <= {np.float32(-scale), np.float32(0), np.float32(scale)}


def test_biases_keep_the_mean_output_of_a_linear_layer(student, train_rows):
    network = network_of(student)
    rows = network.scale_inputs(train_rows)
    layer = ternary_layers(network, rows, 0.7)[0]
    expected = (rows @ network.weights[0] + network.biases[0]).mean(axis=0)
    np.testing.assert_allclose((rows @ layer.weight + layer.bias).mean(axis=0), expected, atol=5e-3)


def test_it_is_a_candidate_of_a_grid_search(student, train_rows):
    search = GridSearchCV(
        TernaryCompressor(FrozenEstimator(student)), {"threshold": [0.5, 1.5]}, cv=2, scoring=fidelity_scorer
    )
    assert search.fit(train_rows).best_params_["threshold"] == 0.5


def test_one_line_in_the_registry_is_enough_for_auto_compressor(monkeypatch, student, train_rows):
    module = ModuleType("distill.compressors.ternary")
    module.TernaryCompressor = TernaryCompressor
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(compressors.COMPRESSORS, "ternary", "TernaryCompressor")
    auto = AutoCompressor(FrozenEstimator(student), max_bytes=5000, methods=["ternary"], random_state=0)
    assert isinstance(auto.fit(train_rows).compressor_, TernaryCompressor)


def test_bad_parameter_is_named(student, train_rows):
    with pytest.raises(ValueError, match="'threshold' parameter of TernaryCompressor must be"):
        TernaryCompressor(FrozenEstimator(student), threshold=-1).fit(train_rows)


def test_wrapped_teacher_is_fitted_too(train_rows):
    from sklearn.cluster import KMeans

    inner = Distiller(KMeans(3, n_init=1), hidden_layer_sizes=(8,), max_iter=2)
    assert TernaryCompressor(inner, random_state=0).fit(train_rows[:100]).predict(train_rows[:3]).shape == (3,)


@pytest.mark.parametrize("y", [[0, 1, 2], 3])
def test_y_of_another_length_is_refused(student, train_rows, y):
    with pytest.raises(ValueError, match=r"samples"):
        TernaryCompressor(FrozenEstimator(student)).fit(train_rows, y)
    with pytest.raises(ValueError, match=r"samples"):
        AutoCompressor(FrozenEstimator(student), max_bytes=900).fit(train_rows, y)


@pytest.mark.parametrize("methods", [None, 1.5])
def test_methods_that_are_no_sequence_are_named(student, train_rows, methods):
    with pytest.raises(TypeError, match="methods must be 'all' or a sequence of codebook"):
        AutoCompressor(FrozenEstimator(student), max_bytes=900, methods=methods).fit(train_rows)


def test_an_mlp_of_one_class_is_refused(train_rows):
    network = MLPClassifier(hidden_layer_sizes=(4,), solver="lbfgs", max_iter=50).fit(train_rows[:30], np.zeros(30))
    with pytest.raises(ValueError, match="fitted to the single class 0"):
        TernaryCompressor(FrozenEstimator(network)).fit(train_rows)


def test_a_number_is_no_student_file():
    with pytest.raises(TypeError, match="must be a path, an open binary file or the bytes of a student file, got 0"):
        load(0)
