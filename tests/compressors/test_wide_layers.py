"""Layers of many inputs, and sparse rows that are wide: the same results without matrices of all pairs of inputs."""

import tracemalloc

import numpy as np
import pytest
from scipy import sparse
from sklearn.frozen import FrozenEstimator

from distill import CodebookCompressor, MatrixGaussianCompressor
from distill.codecs import container
from distill.compressors.codebook import wide_problem
from distill.compressors.codebook.layer_problem import layer_problem
from distill.compressors.codebook.mapping import gradient_descent
from distill.compressors.codebook.solver import coordinate_descent, nearest_codewords
from distill.compressors.matrix_gaussian import quantization
from distill.compressors.random_code.layout_search import LayoutSettings, search_layout
from distill.network import Network
from distill.runtime import Student
from distill.training import targets
from distill.training.perceptron import initial_network
from distill.training.targets import draw_calibration

USED = np.arange(50) != 7


@pytest.fixture(scope="module")
def problems():
    """Both forms of a layer's problem, and its weights; most values of most inputs are equal."""
    rng = np.random.default_rng(0)
    inputs = (2 * rng.normal(size=(80, 50)) * (rng.random((80, 50)) < 0.2)).astype(np.float32) + np.float32(0.3)
    inputs[:, :3] = rng.normal(size=(80, 3))
    weight = rng.normal(size=(50, 6))
    outputs = np.tanh(inputs @ weight) + 1
    wide = wide_problem.wide_problem(inputs, np.flatnonzero(USED), outputs, weight[USED])
    return layer_problem(inputs[:, USED], outputs, weight[USED]), wide, weight[USED]


def test_wide_problem_is_the_same_function(problems):
    plain, wide, weight = problems
    other = weight + np.random.default_rng(1).normal(size=weight.shape)
    assert wide.error(other) == pytest.approx(plain.error(other), rel=1e-12)
    assert wide.power == pytest.approx(plain.power, rel=1e-12)
    for one, same in ((wide.cross, plain.cross), (wide.times_gram(other), plain.gram @ other)):
        np.testing.assert_allclose(one, same, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(wide.bias(other), plain.bias(other), rtol=1e-12)
    np.testing.assert_allclose(wide.centered().T @ wide.centered() + wide.anchor * np.eye(49), plain.gram, atol=1e-3)


@pytest.mark.parametrize("grouping", ["scales", "codebooks"])
@pytest.mark.parametrize("rate_weight", [0, 1e-2])
def test_wide_problem_has_the_same_solution(problems, grouping, rate_weight):
    plain, wide, weight = problems
    start = nearest_codewords(weight, np.array([0, 0, 1, 1, 1, 0]), 4, grouping=grouping)
    steps = ([], [])
    found, same = (
        coordinate_descent(problem, start, rate_weight=rate_weight, callback=lambda *step, to=to: to.append(step[1]))
        for problem, to in zip((plain, wide), steps)
    )
    np.testing.assert_array_equal(found.codes, same.codes)
    np.testing.assert_allclose(found.weight, same.weight, rtol=1e-6)
    np.testing.assert_allclose(*steps, rtol=1e-9)
    np.testing.assert_array_equal(coordinate_descent(wide, start, rate_weight=rate_weight).codes, same.codes)
    soft = [gradient_descent(problem, start, n_steps=20) for problem in (plain, wide)]
    assert wide.error(soft[1].weight) == pytest.approx(plain.error(soft[0].weight), rel=1e-2)


def test_compression_does_not_depend_on_the_form(shallow_student, train_rows, monkeypatch):
    compressor = CodebookCompressor(FrozenEstimator(shallow_student), max_iter=1, n_calibration=300, random_state=0)
    expected = compressor.fit(train_rows).predict(train_rows)
    monkeypatch.setattr(wide_problem, "MOST_INPUTS_OF_GRAM", 16)
    assert np.mean(compressor.fit(train_rows).predict(train_rows) == expected) > 0.99


def test_wide_layers_of_a_matrix_gaussian_are_rounded_one_by_one(shallow_student, train_rows, monkeypatch):
    monkeypatch.setattr(quantization, "MOST_CORRELATED", 16)
    fitted = MatrixGaussianCompressor(FrozenEstimator(shallow_student), max_iter=3, random_state=0).fit(train_rows)
    assert fitted.report_["agreement"] > 0.9


# A network of more than 4096 weights for each byte of the smallest file failed with an error of the file's reader
def test_layout_of_a_random_code_for_many_weights():
    layout = search_layout(initial_network((8000, 32, 1)), LayoutSettings(max_bytes=300, bits_per_block=8))
    assert layout.n_blocks > 100
    with pytest.raises(ValueError, match="max_bytes=40"):
        search_layout(initial_network((8000, 32, 1)), LayoutSettings(max_bytes=40, bits_per_block=8))


# sklearn-onnx #53: predict took 2.67 GB with 8 units
def test_prediction_of_wide_sparse_rows_needs_a_block_of_memory():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(60000, 8)).astype(np.float32), np.eye(8, dtype=np.float32)
    student = Student.from_bytes(container.encode(Network(weights, (np.zeros(8, np.float32),) * 2)))
    place = rng.integers(0, 500, 9000), rng.integers(0, 60000, 9000)
    rows = sparse.csr_array(sparse.coo_array((rng.normal(size=9000), place), shape=(500, 60000)))
    student.transform(rows[:2])
    tracemalloc.start()
    outputs = student.transform(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6  # dense they take 240 MB in float64
    np.testing.assert_array_equal(outputs[100:130], student.transform(rows[100:130].toarray()))


def test_calibration_of_wide_sparse_rows_is_bounded(monkeypatch):
    monkeypatch.setattr(targets, "DENSE_VALUES", 1000)
    X = sparse.csr_array(np.random.default_rng(0).normal(size=(60, 50)))
    network = initial_network((50, 2))
    with pytest.warns(UserWarning, match="it uses 20 of 60 rows.*n_calibration=20"):
        calibration = draw_calibration(X, None, network, None, 0.1, 0)
    assert len(calibration.train) + len(calibration.validation) == 20
    assert len(draw_calibration(X.toarray(), None, network, None, 0.1, 0).train) == 54
    assert len(draw_calibration(X, None, network, 20, 0.1, 0).train) == 18
