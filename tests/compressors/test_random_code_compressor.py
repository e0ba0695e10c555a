"""RandomCodeCompressor: budgets exact to the byte, wrapped estimators, checkpoints, errors."""

import pickle

import numpy as np
import pytest
import torch
from fresh_process import run_python
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import load_diabetes, load_digits, make_blobs
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor

from distill import CodebookCompressor, Distiller, RandomCodeCompressor, load
from distill.codecs import container
from distill.compressors.base import network_of
from distill.compressors.random_code import learner as random_code_learner
from distill.compressors.random_code.layout_search import (
    LayoutSettings,
    allocate_numbers,
    blank_network,
    file_size,
    search_layout,
)
from distill.compressors.random_code.learner import initial_means
from distill.compressors.random_code.refinement import SharedNetwork

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
TRAIN, TEST = np.arange(1200), np.arange(1200, 1797)
QUICK = {"n_steps": 300, "n_steps_between_blocks": 1, "n_refinements": 1, "bits_per_block": 10, "random_state": 0}


def compress(fitted, X=DIGITS[TRAIN], y=None, **parameters):
    return RandomCodeCompressor(FrozenEstimator(fitted), **{**QUICK, **parameters}).fit(X, y)


# the file


@pytest.mark.parametrize("max_bytes", [100, 101, 150, 217, 333])
@pytest.mark.parametrize("bits_per_block", [4, 11, 13])
def test_max_bytes_is_kept_to_the_byte_and_used(shallow_student, max_bytes, bits_per_block, tmp_path):
    changes = {"n_steps": 1, "n_steps_between_blocks": 0, "n_refinements": 0}
    compressor = compress(shallow_student, max_bytes=max_bytes, bits_per_block=bits_per_block, **changes)
    compressor.save(tmp_path / "a.student")
    assert compressor.nbytes_ == (tmp_path / "a.student").stat().st_size == len(compressor.to_bytes()) <= max_bytes
    assert compressor.nbytes_ > max_bytes - 4
    assert sum(compressor.report_["bytes"].values()) == compressor.nbytes_


@pytest.mark.parametrize("bits_per_block", [4, 7, 12, 24])
@pytest.mark.parametrize("changes", [{}, {"input_shape": (8, 8)}, {"hidden_layer_sizes": (9, 5)}, {"hash_factors": 3}])
def test_layout_uses_max_bytes_and_does_not_exceed_it(shallow_student, bits_per_block, changes):
    hidden_layer_sizes = changes.get("hidden_layer_sizes")
    demands = {name: value for name, value in changes.items() if name != "hidden_layer_sizes"}
    blank = blank_network(network_of(shallow_student), hidden_layer_sizes, 0)
    for max_bytes in range(90, 1500, 67):
        layout = search_layout(blank, LayoutSettings(max_bytes=max_bytes, bits_per_block=bits_per_block, **demands))
        size = file_size(blank, layout)
        assert size <= max_bytes and (size > max_bytes - 5 or layout.n_blocks == layout.n_numbers)


def test_bits_per_weight_sets_the_size(shallow_student):
    compressor = compress(shallow_student, bits_per_weight=0.9, bits_per_block=9, n_steps=5, n_refinements=0)
    n_weights = shallow_student.network_.n_parameters
    assert compressor.report_["n_blocks"] == int(0.9 * n_weights / 9)
    assert compressor.report_["bytes"]["codes"] == -(-compressor.report_["n_blocks"] * 9 // 8)


@pytest.mark.slow
def test_file_is_much_smaller_and_agrees(random_code, shallow_student):
    assert random_code.nbytes_ <= 400 < shallow_student.nbytes_ / 15
    assert np.mean(random_code.predict(DIGITS[TEST]) == shallow_student.predict(DIGITS[TEST])) > 0.8
    assert random_code.report_["agreement"] > 0.8


@pytest.mark.slow
def test_file_predicts_the_same_bits_in_a_fresh_process(random_code, tmp_path):
    random_code.save(tmp_path / "random_code.student")
    np.save(tmp_path / "rows.npy", DIGITS[TEST])
    code = (
        "import sys; sys.modules.update(torch=None, sklearn=None)\n"
        "import numpy as np; from distill.runtime import load\n"
        "print(load(sys.argv[1]).predict_proba(np.load(sys.argv[2])).tobytes().hex())"
    )
    expected = random_code.predict_proba(DIGITS[TEST]).tobytes().hex()
    for threads in ("1", "2"):
        environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        assert run_python(code, tmp_path / "random_code.student", tmp_path / "rows.npy", **environment) == expected


@pytest.mark.slow
def test_fitted_network_is_decoded_from_the_bytes(random_code):
    network = container.decode(random_code.to_bytes()).network
    assert all(np.array_equal(*pair) for pair in zip(network.weights, random_code.network_.weights))
    assert random_code.score(DIGITS[TEST], random_code.predict(DIGITS[TEST])) == 1.0
    assert np.array_equal(load(random_code.to_bytes()).predict(DIGITS), random_code.predict(DIGITS))
    assert np.array_equal(pickle.loads(pickle.dumps(random_code)).predict(DIGITS), random_code.predict(DIGITS))


@pytest.mark.slow
def test_same_seed_gives_same_bytes_with_any_number_of_threads(shallow_student):
    changes = {"max_bytes": 150, "n_steps": 40, "input_shape": (8, 8)}
    expected = compress(shallow_student, **changes).to_bytes()
    before = torch.get_num_threads()
    torch.manual_seed(123)
    try:
        torch.set_num_threads(2)
        assert compress(shallow_student, **changes).to_bytes() == expected
    finally:
        torch.set_num_threads(before)
    assert compress(shallow_student, random_state=1, **changes).to_bytes() != expected


# the wrapped estimator


def test_hidden_layer_sizes(shallow_student):
    changes = {"n_steps": 5, "n_steps_between_blocks": 0, "n_refinements": 0}
    compressor = compress(shallow_student, max_bytes=300, hidden_layer_sizes=(12, 6), input_shape=(8, 8), **changes)
    assert compressor.network_.layer_sizes == (64, 12, 6, 10)
    assert np.array_equal(compressor.classes_, shallow_student.classes_)


@pytest.mark.slow
def test_teacher_without_predict():
    X, _ = make_blobs(400, centers=3, random_state=0)
    student = Distiller(DBSCAN(eps=1.0), hidden_layer_sizes=(16,), max_iter=60, random_state=0)
    compressor = RandomCodeCompressor(student, **{**QUICK, "max_bytes": 150}).fit(X)
    assert -1 in compressor.classes_ and compressor.nbytes_ <= 150
    assert compressor.score(X, compressor.estimator_.predict(X)) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_regression(activation):
    X, y = load_diabetes(return_X_y=True)
    X = X / X.std(axis=0)
    network = MLPRegressor(hidden_layer_sizes=(12,), activation=activation, solver="lbfgs", max_iter=25, random_state=0)
    network.set_params(alpha=10.0)
    with pytest.warns(UserWarning):
        network.fit(X, (y - y.mean()) / y.std())
    compressor = compress(network, X, max_bytes=250, n_steps=1000, batch_size=64)
    expected, found = network.predict(X), compressor.predict(X)
    assert found.shape == expected.shape
    assert 1 - np.mean((found - expected) ** 2) / expected.var() > 0.7


@pytest.mark.slow
def test_mlp_classifier_and_nested_compressor(shallow_student):
    network = MLPClassifier((20,), max_iter=30, random_state=0)
    with pytest.warns(UserWarning):
        network.fit(DIGITS[TRAIN], CLASSES[TRAIN])
    compressor = compress(network, y=CLASSES[TRAIN], max_bytes=250, input_shape=(8, 8), n_steps=400)
    assert compressor.score(DIGITS[TEST], CLASSES[TEST]) > 0.7
    nested = CodebookCompressor(FrozenEstimator(shallow_student), bits=3, max_iter=1, random_state=0)
    short = {**QUICK, "n_steps": 5, "n_steps_between_blocks": 0}
    assert RandomCodeCompressor(nested, max_bytes=300, **short).fit(DIGITS[TRAIN]).nbytes_ <= 300


@pytest.mark.slow
def test_mean_var_and_every_selection(shallow_student):
    for changes in ({"parameterization": "mean-var"}, {"selection": "sample"}, {"selection": "nearest"}):
        compressor = compress(shallow_student, max_bytes=150, input_shape=(8, 8), **changes)
        assert compressor.report_["agreement"] > 0.6  # measured 0.90 to 0.96


# errors


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"max_bytes": 20}, r"below the smallest possible file for this network, \d+ bytes"),
        ({"max_bytes": 10**6}, r"not below the size of this network in float32, \d+ bytes"),
        ({"bits_per_block": 3}, "bits_per_block"),
        ({"bits_per_block": 25}, "bits_per_block"),
        ({"hash_factors": 10**5}, "hash_factors gives 100000 to layer 0, which holds 1536 numbers"),
        ({"hash_factors": (1, 2, 3)}, "one for every layer"),
        ({"hash_factors": 0}, "hash_factors"),
        ({"hash_factors": (1, 0)}, "hash_factors"),
        ({"hidden_layer_sizes": (8, 0)}, "hidden_layer_sizes"),
        ({"input_shape": 64}, "'input_shape' parameter of RandomCodeCompressor must be"),
        ({"n_frequencies": "many"}, "'n_frequencies' parameter of RandomCodeCompressor must be"),
        ({"max_bytes": None}, "'max_bytes' parameter of RandomCodeCompressor must be"),
        ({"input_shape": (8, 9)}, "grid of 72 inputs"),
        ({"n_frequencies": 5}, "needs an input_shape"),
        ({"n_frequencies": 65, "input_shape": (8, 8)}, "needs an input_shape"),
        ({"parameterization": "mean"}, "'parameterization' parameter of .* must be .*'mean-kl'"),
        ({"selection": "best"}, "'selection' parameter of .* must be .*'argmax'"),
        ({"kl_margin": 12.0}, "kl_margin"),
        ({"bits_per_weight": 0.0}, "bits_per_weight"),
        ({"temperature": 0.0}, "temperature"),
        ({"checkpoint": "x", "random_state": None}, "int as random_state"),
    ],
)
def test_invalid_parameters_raise(shallow_student, changes, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compressor = RandomCodeCompressor(FrozenEstimator(shallow_student), **{**QUICK, "max_bytes": 400, **changes})
    with pytest.raises(ValueError, match=message):
        compressor.fit(DIGITS[TRAIN])
    assert not hasattr(compressor, "nbytes_") and not list(tmp_path.iterdir())


def test_smallest_file_named_in_the_error_can_be_written(shallow_student):
    with pytest.raises(ValueError) as caught:
        compress(shallow_student, max_bytes=5)
    least = int(str(caught.value).split(" bytes")[0].split()[-1])
    assert compress(shallow_student, max_bytes=least, n_steps=2).nbytes_ == least


def test_scales_per_feature_that_exceed_max_bytes_raise():
    X = make_blobs(100, n_features=30, random_state=0)[0] * np.logspace(-3, 3, 30)
    student = Distiller(KMeans(3, n_init=1, random_state=0), hidden_layer_sizes=(8,), max_iter=5, random_state=0).fit(X)
    with pytest.raises(ValueError, match="input_scaling='common'"):
        compress(student, X, max_bytes=200)


def test_non_finite_weights_raise():
    network = MLPClassifier((8,), max_iter=5, random_state=0)
    with pytest.warns(UserWarning):
        network.fit(DIGITS[TRAIN], CLASSES[TRAIN])
    network.coefs_[0][3, 2] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        compress(network, y=CLASSES[TRAIN], max_bytes=300)


@pytest.mark.slow
def test_resumed_fit_gives_the_same_bytes(shallow_student, tmp_path, monkeypatch):
    changes = {"max_bytes": 150, "n_steps": 60, "input_shape": (8, 8)}
    expected = compress(shallow_student, **changes).to_bytes()
    monkeypatch.setattr(random_code_learner, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    code_block, calls = random_code_learner.Learner.code_block, []

    def interrupted(self, block):
        calls.append(block)
        if len(calls) == 10:
            raise KeyboardInterrupt
        code_block(self, block)

    monkeypatch.setattr(random_code_learner.Learner, "code_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compress(shallow_student, checkpoint=tmp_path, **changes)
    with pytest.raises(ValueError, match="other rows, another wrapped network or other parameters"):
        compress(shallow_student, DIGITS[TRAIN][:-1], checkpoint=tmp_path, **changes)
    monkeypatch.setattr(random_code_learner.Learner, "code_block", code_block)
    monkeypatch.setattr(random_code_learner.Learner, "train", lambda self: self.done["steps"] == 60 or pytest.fail())
    assert compress(shallow_student, checkpoint=tmp_path, **changes).to_bytes() == expected
    assert not list(tmp_path.iterdir())


# the layout


def test_allocated_numbers_use_the_bits():
    shapes = ((784, 300), (300, 100), (100, 10))
    for n_bits in (2000, 16000, 60000):
        _, factors = allocate_numbers(shapes, False, n_bits, "auto", "auto")
        numbers = sum(-(-n_inputs * n_outputs // factor) for (n_inputs, n_outputs), factor in zip(shapes, factors))
        assert 0.85 < numbers / (0.6 * n_bits) < 1.15 and factors[0] >= factors[1] >= factors[2]
    assert allocate_numbers(shapes, False, 10**7, "auto", "auto")[1] == (1, 1, 1)
    assert allocate_numbers(shapes, True, 16000, 64, "auto")[0] == 64
    assert allocate_numbers(((784, 50), (50, 10)), True, 8000, "auto", "auto")[0] > 40


def test_initial_means_are_the_wrapped_network_if_the_budget_allows(shallow_student):
    network = network_of(shallow_student)
    layout = search_layout(network, LayoutSettings(max_bytes=5000, hash_factors=1))
    shared = SharedNetwork(layout, network.activation)
    means, log_scales = initial_means(shared, network)
    layers = shared.layers(means, log_scales.exp())
    for (weight, bias), expected_weight, expected_bias in zip(layers, network.weights, network.biases):
        torch.testing.assert_close(weight, torch.from_numpy(expected_weight))
        torch.testing.assert_close(bias, torch.from_numpy(expected_bias))


def test_for_budget_is_the_candidate_of_auto_compressor(shallow_student):
    compressor = RandomCodeCompressor.for_budget(
        shallow_student, 700, effort=0.5, hidden_layer_sizes=(9,), random_state=3
    )
    expected = RandomCodeCompressor(
        shallow_student, max_bytes=700, n_steps=1000, hidden_layer_sizes=(9,), random_state=3
    )
    assert compressor.get_params(deep=False) == expected.get_params(deep=False)
    assert RandomCodeCompressor.for_budget(shallow_student, 700, effort=1e-9).n_steps == 1
