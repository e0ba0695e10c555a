"""CodebookCompressor: wrapped estimators, bytes, budgets, errors."""

import copy
import itertools
import os
import pickle
import warnings
from functools import partial

import joblib
import numpy as np
import pytest
from fresh_process import run_python
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import load_diabetes, load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import Distiller
from distill.compressors.base import network_of
from distill.compressors.codebook import layers as codebook_layers
from distill.compressors.codebook.estimator import CodebookCompressor
from distill.compressors.codebook.grouping import reorder_neurons
from distill.compressors.codebook.layers import CodebookSettings, decoded_network, learn_layers
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.targets import Calibration, draw_calibration

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
TRAIN, TEST = np.arange(1200), np.arange(1200, 1797)


def fit_quietly(estimator, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


@pytest.fixture(scope="module")
def classifier():
    network = MLPClassifier((128, 64), max_iter=60, random_state=0)
    return fit_quietly(network, DIGITS[TRAIN], CLASSES[TRAIN])


@pytest.fixture
def few_steps(monkeypatch):
    """A sixth of the steps of the solver "gradient", for what does not depend on how well it solves."""
    brief = partial(codebook_layers.gradient_descent, n_steps=50)
    monkeypatch.setattr(codebook_layers, "gradient_descent", brief)


def compress(fitted, X=DIGITS[TRAIN], max_iter=4, **parameters):
    return CodebookCompressor(FrozenEstimator(fitted), random_state=0, max_iter=max_iter, **parameters).fit(X)


# the wrapped estimator


@pytest.mark.slow
def test_distiller_is_fitted_and_compressed(student):
    compressor = CodebookCompressor(clone(student), max_iter=4, random_state=0).fit(DIGITS[TRAIN])
    assert compressor.nbytes_ < student.nbytes_ / 10
    assert np.mean(compressor.predict(DIGITS[TEST]) == compressor.estimator_.predict(DIGITS[TEST])) > 0.95
    assert compressor.score(DIGITS[TEST]) == np.mean(
        compressor.predict(DIGITS[TEST]) == compressor.estimator_.teacher_.predict(DIGITS[TEST])
    )


def test_frozen_estimator_is_neither_fitted_nor_modified(classifier):
    before = joblib.hash(classifier)
    compressor = compress(classifier)
    assert compressor.estimator_ is classifier
    assert joblib.hash(classifier) == before
    assert np.array_equal(compressor.classes_, classifier.classes_)
    assert np.mean(compressor.predict(DIGITS[TEST]) == classifier.predict(DIGITS[TEST])) > 0.97


def test_mlp_is_fitted_with_labels():
    compressor = CodebookCompressor(MLPClassifier((32,), max_iter=30, random_state=0), bits=3, random_state=0)
    fit_quietly(compressor, DIGITS[TRAIN], CLASSES[TRAIN])
    assert not hasattr(compressor.estimator, "coefs_")
    assert compressor.score(DIGITS[TEST], CLASSES[TEST]) > 0.85
    np.testing.assert_allclose(compressor.predict_proba(DIGITS[TEST]).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("labels", [np.array(["no", "yes"]), np.array([-3, 7])])
def test_two_classes_have_one_output(labels):
    y = labels[(CLASSES > 4).astype(int)]
    network = fit_quietly(MLPClassifier((32,), max_iter=40, random_state=0), DIGITS[TRAIN], y[TRAIN])
    compressor = compress(network, bits=4)
    assert compressor.network_.layer_sizes == (64, 32, 1)
    assert np.mean(compressor.predict(DIGITS[TEST]) == network.predict(DIGITS[TEST])) > 0.97
    np.testing.assert_allclose(compressor.predict_proba(DIGITS[TEST]), network.predict_proba(DIGITS[TEST]), atol=0.2)


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_regressors(n_outputs, activation):
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(), (y - y.mean()) / y.std()
    y = y if n_outputs == 1 else np.column_stack([y, 100 * X[:, 0], X[:, 1] ** 2])
    network = MLPRegressor(hidden_layer_sizes=(20, 10), activation=activation, max_iter=100, random_state=0)
    network = fit_quietly(network, X, y)
    compressor = compress(network, X, bits=6)
    expected, predictions = network.predict(X), compressor.predict(X)
    assert predictions.shape == expected.shape
    assert np.sum((predictions - expected) ** 2) < 0.02 * np.sum((expected - expected.mean(axis=0)) ** 2)
    assert compressor.score(X) > 0.97


def test_embeddings():
    student = Distiller(PCA(3), hidden_layer_sizes=(32,), max_iter=30, random_state=0).fit(DIGITS[TRAIN])
    compressor = compress(student, bits=4)
    assert compressor.transform(DIGITS[TEST]).shape == (len(TEST), 3)
    assert compressor.score(DIGITS[TEST]) > 0.9
    assert compressor.report_["agreement"] > 0.95


def test_compressors_stack(student):
    first = compress(student, bits=8)
    second = compress(first, bits=3)
    assert second.nbytes_ < first.nbytes_ / 2
    assert np.mean(second.predict(DIGITS[TEST]) == student.predict(DIGITS[TEST])) > 0.95
    assert second.score(DIGITS[TEST]) == np.mean(second.predict(DIGITS[TEST]) == student.teacher_.predict(DIGITS[TEST]))


@pytest.mark.slow
def test_teacher_without_predict():
    X, _ = make_blobs(400, centers=3, cluster_std=0.5, random_state=0)
    compressor = CodebookCompressor(
        Distiller(DBSCAN(eps=0.5), hidden_layer_sizes=(16,), max_iter=30, random_state=0),
        bits=4,
        max_iter=4,
        random_state=0,
    ).fit(X)
    assert set(compressor.labels_) <= set(compressor.classes_)
    assert np.mean(compressor.labels_ == compressor.estimator_.labels_) > 0.9
    with pytest.raises(ValueError, match="rows of its fit only"):
        compressor.score(X)


@pytest.mark.slow
def test_sparse_rows_and_pipeline_step(student):
    dense = compress(student)
    assert np.array_equal(
        compress(student, sparse.csr_matrix(DIGITS[TRAIN])).predict(DIGITS[TEST]), dense.predict(DIGITS[TEST])
    )
    pipeline = make_pipeline(
        StandardScaler(), CodebookCompressor(clone(student).set_params(max_iter=2), max_iter=1)
    ).fit(DIGITS[TRAIN])
    assert pipeline.predict(DIGITS[TEST]).shape == (len(TEST),)


@pytest.mark.slow
def test_grid_search_fits_wrapped_estimator_once_per_fold(student, tmp_path):
    compressor = CodebookCompressor(clone(student), memory=str(tmp_path), max_iter=2, random_state=0)
    compressor.estimator.set_params(max_iter=3)
    search = GridSearchCV(compressor, {"bits": [1, 2, 4]}, cv=2, error_score="raise").fit(DIGITS[TRAIN])
    found = list(tmp_path.rglob("_fit_wrapped/*/output.pkl"))
    assert len(found) == 3
    assert search.best_estimator_.score(DIGITS[TEST]) > 0.7


# the file


def test_file_predicts_the_same_bits_in_a_fresh_process(student, tmp_path):
    compressor = compress(student, rate_weight=0.02, bits=3)
    path = tmp_path / "digits.student"
    compressor.save(path)
    assert os.path.getsize(path) == compressor.nbytes_ == compressor.report_["n_bytes"]
    assert sum(compressor.report_["bytes"].values()) == compressor.nbytes_
    np.save(tmp_path / "rows.npy", DIGITS[TEST])
    code = (
        "import sys; sys.modules.update(torch=None, sklearn=None)\n"
        "import numpy, distill\n"
        "numpy.save(sys.argv[3], distill.load(sys.argv[1]).predict_proba(numpy.load(sys.argv[2])))"
    )
    run_python(code, path, tmp_path / "rows.npy", tmp_path / "probabilities.npy")
    assert np.array_equal(np.load(tmp_path / "probabilities.npy"), compressor.predict_proba(DIGITS[TEST]))
    again = pickle.loads(pickle.dumps(compressor))
    assert np.array_equal(again.predict_proba(DIGITS[TEST]), compressor.predict_proba(DIGITS[TEST]))
    assert again.report_ == compressor.report_


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("solver", ["cd", "gradient", "kmeans"])
def test_same_seed_gives_same_bytes(student, solver):
    first, second = (compress(student, DIGITS[:300], solver=solver, max_iter=2) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


@pytest.mark.parametrize("grouping", ["scales", "codebooks"])
@pytest.mark.parametrize("bits", [1, 2, (3, 1, 2)])
def test_number_of_distinct_weights_per_group(student, grouping, bits):
    compressor = compress(student, bits=bits, grouping=grouping, n_groups=2, max_iter=1)
    per_layer = (bits,) * 3 if isinstance(bits, int) else bits
    for weight, width, layer in zip(compressor.network_.weights, per_layer, compressor.report_["layers"]):
        of_neurons = {frozenset(column[column != 0]) for column in weight.T}
        assert max(map(len, of_neurons)) <= 2**width == 2 ** int(np.ceil(np.log2(layer["n_codewords"])))
        assert layer["entropy"] <= width


def test_coordinate_descent_has_lower_error_than_kmeans(classifier):
    for bits in (1, 2, 3):
        joint, plain = (compress(classifier, bits=bits, solver=solver, max_iter=0) for solver in ("cd", "kmeans"))
        for of_joint, of_plain in zip(joint.report_["layers"], plain.report_["layers"]):
            assert of_joint["output_error"] <= 0.35 * of_plain["output_error"]
        assert joint.report_["agreement"] >= plain.report_["agreement"]


@pytest.mark.slow
def test_fine_tuning_improves_kmeans(classifier):
    before, after = (compress(classifier, bits=1, solver="kmeans", max_iter=n) for n in (0, 20))
    assert before.nbytes_ == pytest.approx(after.nbytes_, abs=3)
    assert after.score(DIGITS[TEST]) > before.score(DIGITS[TEST]) + 0.05


@pytest.mark.slow
def test_train_codes_improves_one_bit_networks(classifier):
    settings = {"bits": 1, "max_iter": 40, "learning_rate_init": 3e-3}
    stay, move = (compress(classifier, train_codes=train, **settings) for train in (False, True))
    assert move.nbytes_ == pytest.approx(stay.nbytes_, abs=20)
    assert move.report_["agreement"] >= stay.report_["agreement"]
    assert move.score(DIGITS[TEST]) > stay.score(DIGITS[TEST]) + 0.01  # measured .980 and .958


def test_classifier_is_fifty_times_smaller_and_as_accurate(classifier, tmp_path):
    compressor = compress(classifier, bits=2)
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    assert compressor.nbytes_ * 50 <= os.path.getsize(tmp_path / "classifier.joblib")
    assert compressor.nbytes_ * 12 <= 4 * sum(array.size for array in classifier.coefs_ + classifier.intercepts_)
    assert compressor.score(DIGITS[TEST], CLASSES[TEST]) >= classifier.score(DIGITS[TEST], CLASSES[TEST]) - 0.01


def test_rate_weight_makes_files_smaller(classifier):
    sizes = [compress(classifier, rate_weight=rate, max_iter=0).nbytes_ for rate in (0.0, 0.01, 0.1, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.75 * sizes[0]


@pytest.mark.slow
@pytest.mark.parametrize("network, max_bytes", [("classifier", 1500), ("student", 900), ("student", 1800)])
def test_max_bytes_is_kept_and_used(network, max_bytes, request):
    compressor = compress(request.getfixturevalue(network), max_bytes=max_bytes)
    assert 0.85 * max_bytes < compressor.nbytes_ <= max_bytes
    assert compressor.score(DIGITS[TEST]) > 0.9


def test_zeros_of_a_pruned_network_are_kept(classifier):
    pruned = copy.copy(classifier)
    small = [np.abs(weight) < np.quantile(np.abs(weight), 0.7) for weight in classifier.coefs_]
    pruned.coefs_ = [np.where(mask, 0, weight) for weight, mask in zip(classifier.coefs_, small)]
    compressor = compress(pruned, bits=3)
    for weight, before in zip(compressor.network_.weights, network_of(pruned).weights):
        # hidden neurons are reordered: compare the numbers of zeros per neuron
        for axis in (0, 1):
            assert np.all(np.sort((weight == 0).sum(axis=axis)) >= np.sort((before == 0).sum(axis=axis)))
    assert compressor.nbytes_ < 0.75 * compress(classifier, bits=3).nbytes_


def test_constant_inputs_have_no_weights(classifier):
    compressor = compress(classifier)
    constant = DIGITS[TRAIN].max(axis=0) == DIGITS[TRAIN].min(axis=0)
    assert constant.sum() >= 3
    assert np.all(compressor.network_.weights[0][constant] == 0)


def test_few_rows(classifier):
    compressor = compress(classifier, DIGITS[:32], bits=3)
    assert compressor.score(DIGITS[TEST]) > 0.8
    assert compress(classifier, DIGITS[:2], bits=8, max_iter=0).score(DIGITS[TEST]) > 0.9


def test_eight_bits_are_nearly_exact(classifier):
    compressor = compress(classifier, bits=8, max_iter=0)
    np.testing.assert_allclose(
        compressor.predict_proba(DIGITS[TEST]), classifier.predict_proba(DIGITS[TEST]), atol=0.05
    )


def test_n_iter_is_the_number_of_epochs_that_were_run(student):
    assert compress(student, max_iter=0).n_iter_ == 0
    assert compress(student, max_iter=3).n_iter_ == 3


def test_n_iter_of_a_fit_that_a_callback_stops(student):
    pytest.importorskip("sklearn.callback")
    steps = []

    class Stops:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            steps.append(context.task_name)
            return steps.count("compress-step") == 2

    compressor = CodebookCompressor(FrozenEstimator(student), max_iter=5, random_state=0)
    assert compressor.set_callbacks(Stops()).fit(DIGITS[TRAIN]).n_iter_ == 2


@pytest.mark.usefixtures("few_steps")
def test_old_spelling_of_neighbor_is_deprecated(student):
    new = compress(student, DIGITS[:60], solver="gradient", max_iter=0, proximal="neighbor")
    with pytest.warns(FutureWarning, match="proximal='neighbour' was renamed .* set it to 'neighbor'"):
        old = compress(student, DIGITS[:60], solver="gradient", max_iter=0, proximal="neighbour")
    assert old.to_bytes() == new.to_bytes()
    assert old.proximal == "neighbour"


def test_compressor_for_a_budget(student):
    compressor = CodebookCompressor.for_budget(FrozenEstimator(student), 1500, effort=0.1, random_state=3)
    assert (compressor.max_bytes, compressor.max_iter, compressor.random_state) == (1500, 2, 3)
    assert CodebookCompressor.for_budget(student, 1500, effort=1e-3).max_iter == 1
    assert compressor.fit(DIGITS[TRAIN]).nbytes_ <= 1500


# small and degenerate networks


def degenerate_network(kind):
    rng = np.random.default_rng(0)
    sizes = {"one weight": (1, 1), "one of each": (1, 1, 1)}.get(kind, (5, 4, 3))
    weights = [rng.normal(size=shape).astype(np.float32) for shape in itertools.pairwise(sizes)]
    if kind == "all zero":
        weights = [0 * weight for weight in weights]
    if kind == "middle zero":
        weights[1] *= 0
    if kind == "all equal":
        weights = [0 * weight + 0.3 for weight in weights]
    if kind == "huge":
        weights = [weight * 1e15 for weight in weights]
    if kind == "tiny":
        weights = [weight * 1e-15 for weight in weights]
    biases = [np.arange(weight.shape[1], dtype=np.float32) for weight in weights]
    return Network(tuple(weights), tuple(biases), "tanh" if kind == "huge" else "relu")


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("solver", ["cd", "gradient", "kmeans"])
@pytest.mark.parametrize("grouping", ["scales", "codebooks"])
@pytest.mark.parametrize(
    "kind", ["one weight", "one of each", "all zero", "middle zero", "all equal", "huge", "tiny", "few distinct"]
)
def test_degenerate_networks(kind, grouping, solver):
    network = degenerate_network(kind)
    inputs = np.random.default_rng(1).normal(size=(40, network.n_features)).astype(np.float32)
    calibration = Calibration(inputs, inputs[:10], np.ones(network.n_features, bool), 0)
    ordered, groups = reorder_neurons(network, 4)
    settings = CodebookSettings(bits=(8,) * len(network.weights), grouping=grouping, solver=solver)
    layers = learn_layers(ordered, groups, calibration, settings)
    outputs = layer_outputs(decoded_network(ordered, layers), inputs)[-1]
    expected = layer_outputs(network, inputs)[-1]
    np.testing.assert_allclose(outputs, expected, atol=0.01 * max(np.abs(expected).max(), 1e-30))


# errors


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bits": 0}, "'bits' parameter of CodebookCompressor must be an int in the range"),
        ({"bits": 9}, "'bits' parameter of CodebookCompressor must be an int in the range"),
        ({"bits": (2, 9, 2)}, "bits == 9"),
        ({"bits": (2, 2)}, "one for each of 3 layers"),
        ({"n_groups": 0}, "'n_groups' parameter of"),
        ({"grouping": "rows"}, "'grouping' parameter of CodebookCompressor must be a str among"),
        ({"solver": "sgd"}, "'solver' parameter of CodebookCompressor must be a str among"),
        ({"proximal": "on"}, "'proximal' parameter of CodebookCompressor must be a str among"),
        ({"entropy_coding": True}, "'entropy_coding' parameter of CodebookCompressor must be a str among"),
        ({"rate_weight": -1.0}, "'rate_weight' parameter of"),
        ({"rate_weight": np.nan}, "rate_weight must be a finite number, got nan"),
        ({"max_bytes": 500}, r"the smallest file with these settings has \d+ bytes"),
        ({"validation_fraction": 1.0}, "'validation_fraction' parameter"),
        ({"n_calibration": 1}, "'n_calibration' parameter"),
        ({"temperature": 0.0}, "'temperature' parameter of"),
        ({"train_codes": True, "rate_weight": 0.1}, "train_codes=True cannot be combined with rate_weight=0.1"),
        ({"train_codes": True, "max_bytes": 3000}, "train_codes=True cannot be combined with .* max_bytes=3000"),
    ],
)
def test_invalid_parameters_raise(classifier, parameters, message):
    with pytest.raises(ValueError, match=message):
        compress(classifier, **parameters)


@pytest.mark.parametrize("bits", [None, 2.0, "2", (2, 2, None)])
def test_non_integer_bits_raise(classifier, bits):
    with pytest.raises(TypeError, match=r"bits must be an instance of int|'bits' parameter .* must be an int"):
        compress(classifier, bits=bits)


def test_unsupported_activation_raises(classifier):
    broken = copy.copy(classifier)
    broken.activation = "gelu"
    with pytest.raises(ValueError, match="activation 'gelu' and output 'softmax'; supported are"):
        compress(broken)


@pytest.mark.parametrize("estimator", [KMeans(2), PCA(2), MLPClassifier, make_pipeline(MLPClassifier())])
def test_unsupported_estimator_raises(estimator):
    with pytest.raises(TypeError, match="wrap any other model in a Distiller first"):
        CodebookCompressor(estimator).fit(DIGITS)


def test_non_finite_weights_raise(classifier):
    broken = copy.copy(classifier)
    broken.coefs_ = [weight.copy() for weight in classifier.coefs_]
    broken.coefs_[1][3, 4] = np.inf
    with pytest.raises(ValueError, match="weights in layer 1 that are NaN or infinite"):
        compress(broken)


def test_wrong_number_of_features_raises(classifier):
    with pytest.raises(ValueError, match="X has 63 features, but estimator was fitted with 64"):
        compress(classifier, DIGITS[:, 1:])


def test_multilabel_raises():
    network = fit_quietly(MLPClassifier((8,), max_iter=3), DIGITS, np.column_stack([CLASSES > 4, CLASSES % 2]))
    with pytest.raises(ValueError, match="2 labels per row"):
        compress(network)


def test_missing_labels_raise():
    with pytest.raises(ValueError, match="requires y to be passed"):
        CodebookCompressor(MLPClassifier()).fit(DIGITS)


# functions of the base class


def test_network_of_mlp_gives_same_probabilities(classifier):
    network = network_of(classifier)
    logits = layer_outputs(network, DIGITS[TEST].astype(np.float32))[-1].astype(np.float64)
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, classifier.predict_proba(DIGITS[TEST]), atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("output", ["softmax", "logistic", "identity"])
def test_distillation_loss_equals_torch_distributions(output, temperature):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    classes = None if output == "identity" else np.arange(3)
    network = Network((np.eye(3, dtype=np.float32),), (np.zeros(3, np.float32),), output=output, classes=classes)
    original, outputs = (rng.normal(size=(20, 3)).astype(np.float32) for _ in range(2))
    loss = DistillationLoss(network, original, temperature)
    value = loss(torch.tensor(outputs), loss.targets(original)).item()
    a, b = torch.tensor(original) / temperature, torch.tensor(outputs) / temperature
    if output == "softmax":
        p, q = torch.distributions.Categorical(logits=a), torch.distributions.Categorical(logits=b)
        expected = temperature**2 * torch.distributions.kl_divergence(p, q).mean().item()
    elif output == "logistic":
        p, q = torch.distributions.Bernoulli(logits=a), torch.distributions.Bernoulli(logits=b)
        expected = temperature**2 * torch.distributions.kl_divergence(p, q).sum(dim=1).mean().item()
    else:
        unit = np.sqrt(np.mean(original.var(axis=0)))
        expected = np.mean(((original - outputs) / unit) ** 2)
    assert value == pytest.approx(expected, rel=1e-4)
    assert abs(loss(torch.tensor(original), loss.targets(original)).item()) < 1e-5


def test_calibration_rows_are_scaled_disjoint_and_limited(student):
    network = network_of(student)
    rows = draw_calibration(DIGITS, None, network, 500, 0.2, seed=0)
    assert rows.train.shape == (400, 64)
    assert rows.validation.shape == (100, 64)
    scaled = {row.tobytes() for row in (DIGITS.astype(np.float32) - network.offset) * network.scale}
    drawn = [row.tobytes() for row in np.vstack([rows.train, rows.validation])]
    assert set(drawn) <= scaled
    same = draw_calibration(sparse.csr_array(DIGITS), None, network, 500, 0.2, seed=0)
    assert np.array_equal(same.train, rows.train)
    assert np.array_equal(same.varies, rows.varies)
