"""SpikeSlabCompressor in use: pruning, feature selection, predictions, errors."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPRegressor

from distill import Distiller, load
from distill.codecs import container, sparse
from distill.codecs.reader import Reader, StudentFileError
from distill.compressors.codebook.estimator import CodebookCompressor
from distill.compressors.pruning import slice_network, without_dead_ends
from distill.compressors.spike_slab.elimination import eliminate_units
from distill.compressors.spike_slab.estimator import SpikeSlabCompressor
from distill.network import Network
from distill.training.losses import Likelihood
from distill.training.perceptron import initial_network
from distill.training.units import fit_standardization

# Networks are compressed to few bytes in a few steps
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X = load_digits().data
SHORT = {"max_iter": 12, "fine_tune_iter": 4, "random_state": 0}


@pytest.fixture(scope="module")
def student():
    return Distiller(
        KMeans(10, n_init=1, random_state=0), hidden_layer_sizes=(48, 24), max_iter=20, random_state=0
    ).fit(X)


@pytest.fixture(scope="module")
def pruned(student):
    return SpikeSlabCompressor(FrozenEstimator(student), density=0.25, **SHORT).fit(X)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
def test_sparse_layers_round_trip(density, dtype):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((80, 30)).astype(dtype).astype(np.float32) * (rng.random((80, 30)) < density)
    bias = rng.standard_normal(30).astype(dtype).astype(np.float32)
    section = sparse.encode(weight, bias, dtype)
    reader = Reader(section.payload)
    (layer,) = sparse.decode(reader, [(80, 30)])
    reader.finish()
    np.testing.assert_array_equal(layer.weight, weight)
    np.testing.assert_array_equal(layer.bias, bias)
    assert sum(reader.parts.values()) == len(section.payload)


def test_damaged_sparse_layers_raise_or_decode():
    weight = np.eye(40, 20, dtype=np.float32)
    payload = sparse.encode(weight, np.ones(20, np.float32)).payload
    for length in range(len(payload)):
        with pytest.raises(StudentFileError):
            reader = Reader(payload[:length])
            sparse.decode(reader, [(40, 20)])
            reader.finish()
    with pytest.raises(ValueError, match="too large for float16"):
        sparse.encode(weight * 1e6, np.ones(20))


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_sliced_network_has_the_outputs_of_the_masked_one(activation):
    functions = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "logistic": lambda x: 1 / (1 + np.exp(-x))}
    activate, rng = functions[activation], np.random.default_rng(0)
    network = initial_network((6, 12, 9, 3), activation, seed=0)
    biases = tuple(rng.standard_normal(len(bias)).astype(np.float32) for bias in network.biases)
    network = Network(network.weights, biases, activation)
    masks = [rng.random(weight.shape) < 0.15 for weight in network.weights]
    rows = rng.standard_normal((50, 6)).astype(np.float32)

    def outputs(weights, biases):
        hidden = rows
        for index, (weight, bias) in enumerate(zip(weights, biases)):
            hidden = hidden @ weight + bias
            hidden = activate(hidden) if index < 2 else hidden
        return hidden

    sliced = slice_network(network, masks)
    assert sliced.network.n_parameters < network.n_parameters
    masked = [weight * mask for weight, mask in zip(network.weights, masks)]
    np.testing.assert_allclose(
        outputs(sliced.network.weights, sliced.network.biases), outputs(masked, biases), atol=1e-6
    )
    for mask in without_dead_ends(sliced.masks):
        assert mask.any(axis=1).sum() <= mask.shape[0]


def test_elimination_removes_inputs_without_effect():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((500, 4)).astype(np.float32)
    network = Network((np.array([[1.0], [0.01], [-1.0], [0.0]], np.float32),), (np.zeros(1, np.float32),))
    targets = rows[:, :1] - rows[:, 2:3]
    found = eliminate_units(
        network,
        [np.array([[True], [True], [True], [False]])],
        [np.full((4, 1), 3.0)],
        rows,
        lambda outputs: -0.5 * float(np.square(outputs - targets).sum()),
        -5.0,
        0.5,
        [0],
    )
    assert found.masks[0][:, 0].tolist() == [True, False, True, False]
    assert found.inclusions[0][0] > 0.99 > 0.1 > found.inclusions[0][1] and np.isnan(found.inclusions[0][3])


def test_standardization_changes_units_and_not_the_function():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((100, 5)) * [1, 100, 3, 0, 1] + [0, 50, 1, 7, 2]).astype(np.float32)
    network = initial_network((5, 8, 2), "tanh", seed=0)
    targets = (rng.standard_normal((100, 2)) * [5, 0.1] + 3).astype(np.float32)
    units = fit_standardization(network, rows, rows.std(axis=0) > 0, targets)
    inner = units.to_training(network)
    assert inner.n_features == 4
    inside = np.tanh(units.transform(rows) @ inner.weights[0] + inner.biases[0]) @ inner.weights[1] + inner.biases[1]
    outside = np.tanh(rows @ network.weights[0] + network.biases[0]) @ network.weights[1] + network.biases[1]
    np.testing.assert_allclose(inside * units.unit + units.mean, outside, atol=1e-4)
    back = units.to_network(inner, network)
    again = np.tanh(rows @ back.weights[0] + back.biases[0]) @ back.weights[1] + back.biases[1]
    np.testing.assert_allclose(again, outside, atol=1e-3)


@pytest.mark.parametrize("n_outputs", [1, 4])
def test_softened_likelihood_is_lowest_at_equal_outputs(n_outputs):
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(30, n_outputs, generator=generator)
    targets = torch.softmax(outputs if n_outputs > 1 else torch.cat([0 * outputs, outputs], dim=1), dim=1)
    likelihood, moved = Likelihood("classification", n_outputs), outputs.clone().requires_grad_()
    value = likelihood(moved, targets, 5.0)
    value.backward()
    assert moved.grad.abs().max() < 1e-6
    softened = torch.softmax(targets.log() / 5, dim=1)
    entropy = torch.distributions.Categorical(probs=softened).entropy().mean()
    assert value.item() == pytest.approx(25 * entropy.item(), rel=1e-5)
    assert likelihood(outputs, targets, 1.0) == likelihood(outputs, targets)


def test_pruned_student_is_smaller_and_agrees(student, pruned):
    assert pruned.density_ <= 0.25
    assert pruned.report_["n_weights"] == sum(np.count_nonzero(weight) for weight in pruned.network_.weights)
    assert sum(pruned.report_["bytes"].values()) == pruned.nbytes_ == len(pruned.to_bytes())
    assert pruned.nbytes_ < student.nbytes_ / 4
    assert np.mean(pruned.predict(X) == student.predict(X)) > 0.93
    np.testing.assert_array_equal(load(pruned.to_bytes()).predict_proba(X), pruned.predict_proba(X))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pruned)).sample(X[:5], 2), pruned.sample(X[:5], 2))


def test_inclusion_probabilities_have_the_shapes_of_the_wrapped_network(pruned):
    assert [inclusion.shape for inclusion in pruned.inclusion_probabilities_] == [(64, 48), (48, 24), (24, 10)]
    assert [inclusion.shape for inclusion in pruned.node_inclusion_] == [(48,), (24,)]
    assert (pruned.feature_inclusion_[X.std(axis=0) == 0] == 0).all()
    assert not pruned.get_support()[X.std(axis=0) == 0].any()
    assert pruned.get_support().tolist() == pruned.kept_weights_[0].any(axis=1).tolist()


@pytest.mark.parametrize("granularity", ["node", "input", ("input", "node"), ("weight", "node", "input")])
def test_gates_of_units_keep_or_remove_whole_units(student, granularity):
    small = SpikeSlabCompressor(FrozenEstimator(student), granularity=granularity, kl_weight=0.3, **SHORT).fit(X)
    if "weight" not in granularity:
        for kept in small.kept_weights_:
            assert np.array_equal(kept, kept.any(axis=1)[:, None] & kept.any(axis=0))
    if "node" in granularity:
        assert all(after < before for after, before in zip(small.network_.layer_sizes[1:3], (48, 24)))
        assert small.network_.layer_sizes[1:3] == tuple(kept.any(axis=0).sum() for kept in small.kept_weights_[:2])
    if "input" in granularity:
        assert small.report_["n_features"] < 61 == (X.std(axis=0) > 0).sum()
    if granularity == "input":  # with other gates on its way, a path is less probable than each of its gates
        assert np.array_equal(small.get_support(), small.feature_inclusion_ > 0.5)
    assert np.mean(small.predict(X) == student.predict(X)) > 0.8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")
def test_automatic_priors(student):
    settings = {"kl_weight": 1.0, **SHORT}
    by_size, by_bound, strict = (
        SpikeSlabCompressor(FrozenEstimator(student), prior_inclusion=prior, **settings).fit(X)
        for prior in ("auto", "elbo", 1e-9)
    )
    assert strict.density_ < by_size.density_ < by_bound.density_ < 0.61


def test_probabilities_average_over_draws(pruned):
    averaged = pruned.predict_proba(X[:20], averaged=True, n_draws=50)
    np.testing.assert_allclose(averaged.sum(axis=1), 1, atol=1e-5)
    assert np.abs(averaged - pruned.predict_proba(X[:20])).mean() < 0.1
    np.testing.assert_array_equal(averaged, pruned.sample(X[:20], 50).mean(axis=0))
    np.testing.assert_array_equal(pruned.predict_proba(X[:5], averaged=True), pruned.sample(X[:5], 100).mean(axis=0))
    with pytest.raises(ValueError, match="n_draws"):
        pruned.sample(X, 0)
    with pytest.raises(ValueError, match="n_draws"):
        pruned.predict_proba(X, averaged=True, n_draws=0)


def test_former_parameters_of_predict_proba_warn(pruned):
    averaged = pruned.predict_proba(X[:9], averaged=True, n_draws=20, random_state=3)
    with pytest.warns(FutureWarning, match=r"averaged=True, n_draws=20"):
        np.testing.assert_array_equal(pruned.predict_proba(X[:9], n_draws=20, random_state=3), averaged)
    with pytest.warns(FutureWarning, match=r"averaged=True, n_draws=20"):
        np.testing.assert_array_equal(pruned.predict_proba(X[:9], 20, random_state=3), averaged)
    with pytest.warns(FutureWarning, match=r"averaged=True, n_draws=20"):
        np.testing.assert_array_equal(pruned.predict_proba(X[:9], 20, 3), averaged)
    with pytest.warns(FutureWarning, match=r"averaged=False, n_draws=None"):
        np.testing.assert_array_equal(pruned.predict_proba(X[:9], 0), pruned.predict_proba(X[:9]))


def test_former_name_of_prior_std_warns(student):
    settings = {"max_iter": 2, "fine_tune_iter": 0, "random_state": 0}
    compressor = SpikeSlabCompressor(FrozenEstimator(student), prior_std=0.5, **settings).fit(X[:200])
    former = SpikeSlabCompressor(FrozenEstimator(student), prior_deviation=0.5, **settings)
    with pytest.warns(FutureWarning, match="'prior_deviation' of SpikeSlabCompressor was renamed to 'prior_std'"):
        former.fit(X[:200])
    assert former.to_bytes() == compressor.to_bytes()


def test_the_same_seed_gives_the_same_bytes(student):
    settings = {"density": 0.25, "max_iter": 2, "fine_tune_iter": 1, "random_state": 0}
    first, second = (SpikeSlabCompressor(FrozenEstimator(student), **settings).fit(X[:300]) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()


def test_max_bytes_is_kept(student):
    small = SpikeSlabCompressor(FrozenEstimator(student), max_bytes=1500, **SHORT).fit(X)
    assert small.nbytes_ <= 1500
    with pytest.raises(ValueError, match="max_bytes=100 "):
        SpikeSlabCompressor(FrozenEstimator(student), max_bytes=100, **SHORT).fit(X)


def test_codebooks_preserve_zeros(pruned):
    small = CodebookCompressor(FrozenEstimator(pruned), bits=3, max_iter=2, random_state=0).fit(X)
    for ours, theirs in zip(pruned.network_.weights, small.network_.weights):
        # hidden units are in another order: compare the numbers of their weights
        for axis in (0, 1):
            assert np.all(np.sort(np.count_nonzero(theirs, axis=axis)) <= np.sort(np.count_nonzero(ours, axis=axis)))
    assert not (small.network_.weights[0].any(axis=1) & ~pruned.get_support()).any()
    assert small.nbytes_ < pruned.nbytes_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_relevant_inputs_are_found_from_noisy_targets():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((1500, 12))
    y = 2 * np.tanh(2 * inputs[:, 0]) - inputs[:, 1] + 0.3 * rng.standard_normal(1500)
    network = MLPRegressor(
        hidden_layer_sizes=(12,), activation="tanh", max_iter=30, early_stopping=True, random_state=0
    ).fit(inputs, y)
    selection = SpikeSlabCompressor(
        FrozenEstimator(network), eliminate=True, max_iter=40, learning_rate_init=1e-2, random_state=0
    ).fit(inputs, y)
    assert selection.get_support()[:2].all() and selection.get_support().sum() <= 3
    assert (selection.feature_inclusion_[:2] > 0.9).all()
    predictions, std = selection.predict(inputs, return_std=True)
    assert 0.2 < std.mean() < 0.6 and predictions.shape == std.shape
    assert 0.2 < selection.noise_[0] < 0.6


def test_embeddings_have_standard_deviations():
    embedding = Distiller(PCA(2), hidden_layer_sizes=(16,), max_iter=2, learning_rate_init=0.01, random_state=0)
    pruned = SpikeSlabCompressor(embedding, max_iter=2, fine_tune_iter=1, random_state=0).fit(X)
    predictions, std = pruned.transform(X[:7], return_std=True)
    assert predictions.shape == std.shape == (7, 2) and (std > 0).all()


@pytest.mark.parametrize("fine_tune_iter", [0, 3])
def test_n_iter_counts_the_epochs(student, capsys, fine_tune_iter):
    compressor = SpikeSlabCompressor(
        FrozenEstimator(student), max_iter=4, fine_tune_iter=fine_tune_iter, random_state=0, verbose=1
    ).fit(X[:200])
    lines = capsys.readouterr().out.splitlines()
    assert compressor.n_iter_ == 4 + fine_tune_iter == sum("compress" in line for line in lines)


def test_n_iter_counts_the_epochs_before_a_callback_stops(student):
    pytest.importorskip("sklearn.callback")

    class Stop:
        n_epochs = 0

        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
            self.n_epochs += context.task_name == "compress-step"
            return self.n_epochs >= 2

    stop = Stop()
    compressor = SpikeSlabCompressor(FrozenEstimator(student), max_iter=5, fine_tune_iter=3, random_state=0)
    compressor.set_callbacks(stop).fit(X[:200])
    # the callback stops the training after two epochs, and the fine-tuning after its first
    assert compressor.n_iter_ == stop.n_epochs == 3


def test_noise_is_none_for_classification(pruned):
    assert pruned.noise_ is None
    with pytest.raises(AttributeError):
        pruned.transform(X)
    with pytest.raises(ValueError, match="return_std=True is for a regression"):
        pruned.predict(X, return_std=True)


def test_compressor_for_a_budget(student):
    compressor = SpikeSlabCompressor.for_budget(FrozenEstimator(student), 1500, effort=0.1, random_state=0)
    assert (compressor.max_iter, compressor.fine_tune_iter, compressor.learn_from) == (4, 2, "outputs")
    assert compressor.fit(X).nbytes_ <= 1500


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"granularity": "layer"}, "'granularity' parameter of SpikeSlabCompressor must be"),
        ({"granularity": ("input", "layer")}, "granularity must be one of 'weight', 'node', 'input'"),
        ({"granularity": ()}, "granularity must be one of"),
        ({"prior_inclusion": 1.0}, "'prior_inclusion' parameter .* must be .* Got 1.0"),
        ({"prior_inclusion": 0.0}, "'prior_inclusion' parameter .* must be .* Got 0.0"),
        ({"prior_inclusion": float("nan")}, "prior_inclusion must be a finite number, got nan"),
        ({"prior_inclusion": "best"}, "'prior_inclusion' parameter .* must be .* Got 'best'"),
        ({"density": 0.0}, "'density' parameter .* must be .* Got 0.0"),
        ({"threshold": 1.0}, "'threshold' parameter .* must be .* Got 1.0"),
        ({"density": 0.5, "max_bytes": 900}, "exclude each other"),
        ({"learn_from": "y"}, "learn_from='y' needs y"),
        ({"temperature": 0.0}, "'temperature' parameter .* must be .* Got 0.0"),
        (
            {"kl_weight": 1e3, "learning_rate_init": 0.05},
            r"everything was pruned away: no weight of layer \d .* lower kl_weight",
        ),
        ({"density": 1e-9}, "density=1e-09 leaves too few weights; raise it"),
    ],
)
def test_invalid_parameters_raise(student, parameters, message):
    with pytest.raises(ValueError, match=message):
        SpikeSlabCompressor(FrozenEstimator(student), **{**SHORT, "max_iter": 6, **parameters}).fit(X)


def test_weights_that_are_not_finite_raise():
    network = MLPRegressor(hidden_layer_sizes=(4,), random_state=0).partial_fit(X[:, :3], X[:, 3])
    network.coefs_[1][2] = np.nan
    with pytest.raises(ValueError, match="weights in layer 1 that are NaN or infinite"):
        SpikeSlabCompressor(FrozenEstimator(network), **SHORT).fit(X[:, :3])


def test_constant_samples_raise(student):
    with pytest.raises(ValueError, match="none of them varies"):
        SpikeSlabCompressor(FrozenEstimator(student), **SHORT).fit(np.ones((50, 64)))


def test_the_codec_is_registered():
    assert container.CODECS[sparse.SPARSE].name == "sparse"
