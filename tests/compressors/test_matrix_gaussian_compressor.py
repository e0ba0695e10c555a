"""MatrixGaussianCompressor in use: bytes, standard deviations, targets, errors."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from fresh_process import run_python
from scipy import stats
from sklearn.datasets import load_diabetes, load_digits
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import BayesianRidge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from distill import Distiller, MatrixGaussianCompressor, load
from distill.codecs import container, grid
from distill.compressors.matrix_gaussian import quantization, rounding, training
from distill.compressors.matrix_gaussian.quantization import GaussianWeights
from distill.compressors.matrix_gaussian.rounding import round_independently
from distill.compressors.matrix_gaussian.training import VariationalSettings, initial_means, make_posterior
from distill.network import Network
from distill.training.perceptron import initial_network
from distill.training.samples import StackedRows
from distill.training.units import fit_standardization

# Networks are compressed to few bytes in a few steps
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
TRAIN, TEST = np.arange(1200), np.arange(1200, 1797)
SHORT = {"max_iter": 15, "random_state": 0}
SHORTEST = {"max_iter": 4, "random_state": 0}


@pytest.fixture(scope="module")
def curve():
    """Noisy samples of a curve, with a gap without data, and a network fitted to them."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.uniform(-3, -1, 300), rng.uniform(1, 3, 300)])[:, None]
    y = 40 + 10 * np.sin(2 * X[:, 0]) + rng.normal(0, 2, 600)
    network = MLPRegressor(hidden_layer_sizes=40, solver="lbfgs", alpha=1, max_iter=400, random_state=0)
    with pytest.warns(UserWarning):
        network.fit(X, y)
    return X, y, MatrixGaussianCompressor(FrozenEstimator(network), max_iter=60, random_state=0).fit(X, y)


# the file


@pytest.mark.slow
def test_file_is_much_smaller_and_agrees(student, matrix_gaussian):
    assert matrix_gaussian.nbytes_ < student.nbytes_ / 5
    assert np.mean(matrix_gaussian.predict(DIGITS[TEST]) == student.predict(DIGITS[TEST])) > 0.9
    assert sum(matrix_gaussian.report_["bytes"].values()) == matrix_gaussian.nbytes_ == len(matrix_gaussian.to_bytes())
    assert matrix_gaussian.report_["agreement"] > 0.9
    assert matrix_gaussian.report_["n_features"] == matrix_gaussian.network_.weights[0].any(axis=1).sum() < 64


@pytest.mark.slow
def test_file_predicts_the_same_bits(curve, matrix_gaussian, tmp_path):
    X, _, fitted = curve
    student = load(fitted.to_bytes())
    for ours, theirs in zip(student.predict(X, return_std=True), fitted.predict(X, return_std=True)):
        np.testing.assert_array_equal(ours, theirs.astype(np.float32))
    student = load(matrix_gaussian.to_bytes())
    for averaged in (False, True):
        expected = matrix_gaussian.predict_proba(DIGITS[TEST], averaged=averaged)
        np.testing.assert_array_equal(student.predict_proba(DIGITS[TEST], averaged=averaged), expected)
    copy = pickle.loads(pickle.dumps(matrix_gaussian))
    np.testing.assert_array_equal(copy.sample(DIGITS[:5], 3), matrix_gaussian.sample(DIGITS[:5], 3))


@pytest.mark.slow
def test_standard_deviations_need_numpy_only(curve, tmp_path):
    X, _, fitted = curve
    fitted.save(tmp_path / "curve.student")
    np.save(tmp_path / "rows.npy", X)
    code = (
        "import sys; sys.modules.update(torch=None, sklearn=None, scipy=None)\n"
        "import numpy as np; from distill.runtime import load\n"
        "predictions = load(sys.argv[1]).predict(np.load(sys.argv[2]), return_std=True)\n"
        "print(np.stack(predictions).tobytes().hex())"
    )
    expected = np.stack(fitted.predict(X, return_std=True)).astype(np.float32).tobytes().hex()
    for threads in ("1", "2"):
        environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        assert run_python(code, tmp_path / "curve.student", tmp_path / "rows.npy", **environment) == expected


@pytest.mark.slow
def test_standard_deviation_of_a_row_is_bit_identical_in_any_batch(curve):
    X, _, fitted = curve
    student = load(fitted.to_bytes())
    together = student.predict(X, return_std=True)[1]
    alone = np.concatenate([student.predict(row[None], return_std=True)[1] for row in X[:40]])
    np.testing.assert_array_equal(alone, together[:40])


def test_variances_take_few_bytes(matrix_gaussian):
    parts = matrix_gaussian.report_["bytes"]
    n_variances = sum(len(part) for part in matrix_gaussian.row_variances_ + matrix_gaussian.column_variances_)
    assert parts["variances"] < 1.2 * n_variances and parts["variances"] < 0.3 * matrix_gaussian.nbytes_


@pytest.mark.slow
@pytest.mark.parametrize("max_bytes", [350, 700, 1500])
@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")
def test_max_bytes_is_kept_and_used(student, max_bytes):
    compressor = MatrixGaussianCompressor(
        FrozenEstimator(student), max_bytes=max_bytes, max_iter=1, random_state=0
    ).fit(DIGITS[TRAIN])
    assert 0.8 * max_bytes < compressor.nbytes_ <= max_bytes
    assert compressor.rate_weight_ == compressor.report_["rate_weight"] > 0


@pytest.mark.slow
def test_rate_weight_makes_files_smaller(student):
    sizes = [
        MatrixGaussianCompressor(FrozenEstimator(student), rate_weight=weight, **SHORTEST).fit(DIGITS[TRAIN]).nbytes_
        for weight in (1e-3, 0.1, 3.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.slow
def test_same_seed_gives_same_bytes_with_any_number_of_threads(student, limit_training):
    limit_training(min_steps=8)
    expected = MatrixGaussianCompressor(FrozenEstimator(student), **SHORTEST).fit(DIGITS[TRAIN]).to_bytes()
    before = torch.get_num_threads()
    torch.manual_seed(123)
    try:
        torch.set_num_threads(2)
        again = MatrixGaussianCompressor(FrozenEstimator(student), **SHORTEST).fit(DIGITS[TRAIN])
    finally:
        torch.set_num_threads(before)
    assert again.to_bytes() == expected
    other = MatrixGaussianCompressor(FrozenEstimator(student), **{**SHORTEST, "random_state": 1}).fit(DIGITS[TRAIN])
    assert other.to_bytes() != expected


# uncertainty


@pytest.mark.slow
def test_noise_is_estimated_and_fewer_rows_give_larger_variances(curve):
    X, y, fitted = curve
    assert 1.7 < fitted.noise_.item() < 2.6
    _, variance = load(fitted.to_bytes()).output_moments(X)
    std = fitted.predict(X, return_std=True)[1]
    np.testing.assert_allclose(std, np.sqrt(variance[:, 0] + fitted.noise_**2), rtol=1e-5)
    few = MatrixGaussianCompressor(FrozenEstimator(fitted.estimator_), max_iter=40, random_state=0)
    _, less = load(few.fit(X[::12], y[::12]).to_bytes()).output_moments(X)
    assert less.mean() > 2 * variance.mean()


@pytest.mark.slow
def test_intervals_cover(curve):
    _, _, fitted = curve
    rng = np.random.default_rng(1)
    X = np.concatenate([rng.uniform(-3, -1, 2000), rng.uniform(1, 3, 2000)])[:, None]
    y = 40 + 10 * np.sin(2 * X[:, 0]) + rng.normal(0, 2, 4000)
    predictions, std = fitted.predict(X, return_std=True)
    covered = np.mean(np.abs(y - predictions) < stats.norm.ppf(0.95) * std)
    assert 0.85 < covered < 0.96


@pytest.mark.slow
def test_samples_have_the_moments_of_predict(curve):
    fitted = curve[2]
    rows = np.linspace(-3, 3, 41)[:, None]
    draws = fitted.sample(rows, 4000)[:, :, 0]
    mean, variance = load(fitted.to_bytes()).output_moments(rows)
    np.testing.assert_allclose(draws.mean(axis=0), mean[:, 0], atol=0.1)
    np.testing.assert_allclose(draws.std(axis=0), np.sqrt(variance[:, 0]), rtol=0.08)
    # Functions are smooth: differences of neighboring points are small beside the standard deviation
    assert np.diff(draws, axis=1).std(axis=0).max() < 0.6 * draws.std(axis=0).max()


@pytest.mark.slow
def test_log_likelihood_is_that_of_the_mixture_of_draws(curve):
    X, y, fitted = curve
    draws = fitted.sample(X[:50], 20)[:, :, 0]
    expected = stats.norm.pdf(y[:50], draws, fitted.noise_.item()).mean(axis=0)
    np.testing.assert_allclose(fitted.log_likelihood(X[:50], y[:50], 20), np.log(expected).mean(), rtol=1e-5)


def test_log_likelihood_of_labels(matrix_gaussian):
    labels = matrix_gaussian.predict(DIGITS[TEST])
    draws = matrix_gaussian.sample(DIGITS[TEST], 10)
    np.testing.assert_allclose(draws.sum(axis=2), 1, atol=1e-5)
    found = draws.mean(axis=0)[np.arange(len(labels)), np.searchsorted(matrix_gaussian.classes_, labels)]
    likelihood = matrix_gaussian.log_likelihood(DIGITS[TEST], labels, 10)
    np.testing.assert_allclose(likelihood, np.log(found).mean(), rtol=1e-5)


def test_averaged_probabilities_of_noise_have_larger_entropy(matrix_gaussian):
    noise = np.random.default_rng(0).uniform(0, 3, (200, 64))
    plain, averaged = matrix_gaussian.predict_proba(noise), matrix_gaussian.predict_proba(noise, averaged=True)
    np.testing.assert_allclose(averaged.sum(axis=1), 1, atol=1e-5)
    entropies = [stats.entropy(part, axis=1).mean() for part in (plain, averaged)]
    assert entropies[1] > entropies[0]
    np.testing.assert_allclose(averaged, matrix_gaussian.sample(noise, 3000).mean(axis=0), atol=0.15)


@pytest.mark.slow
def test_linear_network_has_the_posterior_of_bayesian_linear_regression():
    """One layer with known noise and prior is Bayesian linear regression, which scikit-learn solves."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    y = X @ [1.0, -0.5, 0.0] + 0.5 * rng.standard_normal(60)
    X, y = (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()
    network = Network((np.zeros((3, 1), np.float32),), (np.zeros(1, np.float32),))
    settings = VariationalSettings(max_iter=100, batch_size=60, learning_rate=0.02, warm_up=0.0)
    posterior = make_posterior(initial_means(network), "relu", settings, 60, True)
    rows = torch.tensor(X, dtype=torch.float32), torch.tensor(y[:, None], dtype=torch.float32)
    training.learn(posterior, StackedRows(*rows), settings)
    precision = (posterior.noise.shape / posterior.noise.rate).item()
    # N(0, 1) on weights whose inputs are divided by 2, sqrt(3 inputs + 1), is N(0, 1/4) on the weights themselves
    covariance = np.linalg.inv(precision * X.T @ X + 4 * np.eye(3))
    expected = covariance @ (precision * X.T @ y)
    q = posterior.network.posteriors()[0][0]
    np.testing.assert_allclose(q.mean[:3, 0].detach() / 2, expected, atol=0.01)
    # A factorized posterior has the inverse diagonal of the precision as its variances
    variances = 1 / (precision * (X * X).sum(axis=0) + 4)
    np.testing.assert_allclose((q.rows.variance[:3] * q.columns).detach() / 4, variances, rtol=0.05)
    reference = BayesianRidge().fit(X, y)
    np.testing.assert_allclose(precision, reference.alpha_, rtol=0.1)


def test_batched_posteriors_equal_single_ones():
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(2, 50, 3, generator=generator), torch.randn(2, 50, 1, generator=generator)
    means = [torch.randn(2, 4, 5, generator=generator), torch.randn(2, 6, 1, generator=generator)]
    weights = torch.tensor([1.0, 0.2])
    settings = VariationalSettings(kl_weight=weights, max_iter=2, batch_size=20)
    both = make_posterior(means, "relu", settings, 50, True)
    training.learn(both, StackedRows(X, y), settings)
    for index in range(2):
        settings = VariationalSettings(kl_weight=float(weights[index]), max_iter=2, batch_size=20)
        alone = make_posterior([mean[index] for mean in means], "relu", settings, 50, True)
        training.learn(alone, StackedRows(X[index], y[index]), settings)
        for ours, theirs in zip(alone.network.layers, both.network.layers):
            torch.testing.assert_close(ours.mean, theirs.mean[index], atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(ours.log_rows, theirs.log_rows[index], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(alone.noise.rate, both.noise.rate[index])


def test_expected_loss_does_not_depend_on_batch_size():
    """The divergence is divided by the number of rows once, and the likelihood is a mean."""
    X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    settings = VariationalSettings()
    posterior = make_posterior([torch.ones(4, 5), torch.ones(6, 1)], "relu", settings, 8, True)
    used = posterior.network.posteriors()[0]
    once = training.squared_errors(posterior, used, X, torch.zeros(8, 1), "moments").mean(-2)
    twice = training.squared_errors(posterior, used, torch.cat([X, X]), torch.zeros(16, 1), "moments").mean(-2)
    torch.testing.assert_close(once, twice)


@pytest.mark.slow
def test_student_t_noise_fits_heavy_tails(curve):
    X, _, fitted = curve
    rng = np.random.default_rng(2)
    wild = fitted.predict(X) + 2 * stats.t.rvs(3, size=len(X), random_state=rng)
    settings = {"max_iter": 30, "validation_fraction": 0.3, "random_state": 0}
    normal = MatrixGaussianCompressor(FrozenEstimator(fitted.estimator_), **settings).fit(X, wild)
    heavy = MatrixGaussianCompressor(FrozenEstimator(fitted.estimator_), noise="t", **settings).fit(X, wild)
    assert normal.noise_degrees_ is None and heavy.noise_degrees_.item() <= 10
    again = fitted.predict(X) + 2 * stats.t.rvs(3, size=len(X), random_state=rng)
    assert heavy.log_likelihood(X, again) > normal.log_likelihood(X, again) + 0.02
    assert load(heavy.to_bytes()).extras[-1]["noise_degrees"] == heavy.noise_degrees_
    draws = heavy.sample(X[:30], 20)[:, :, 0]
    degrees = heavy.noise_degrees_.item()
    scale = heavy.noise_.item() / np.sqrt(degrees / (degrees - 2))
    expected = np.log(stats.t.pdf((again[:30] - draws) / scale, degrees).mean(axis=0) / scale).mean()
    np.testing.assert_allclose(heavy.log_likelihood(X[:30], again[:30], 20), expected, rtol=1e-4)


# units, pruning


def test_change_of_units_keeps_the_moments():
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((100, 4)) * [1, 100, 0, 3] + [0, 50, 7, 1]).astype(np.float32)
    targets = (rng.standard_normal((100, 2)) * [5, 0.1] + 3).astype(np.float32)
    network = initial_network((4, 6, 2), "tanh", seed=0)
    units = fit_standardization(network, rows, rows.std(axis=0) > 0, targets)
    settings = VariationalSettings(initial_std=0.5)
    inner = units.to_training(network)
    posterior = make_posterior(initial_means(inner), "tanh", settings, 100, True)
    weights = quantization.posterior_to_weights(posterior, units, network)
    mean, variance = posterior.moments(torch.from_numpy(units.transform(rows)))
    data = quantization.encode(weights, 1e-9)
    student = load(data)
    found_mean, found_variance = student.output_moments(rows)
    unit = units.unit
    np.testing.assert_allclose(found_mean, mean.detach().numpy() * unit + units.mean, rtol=0.02, atol=0.02)
    # Standard deviations are powers of 2^(1/4), so variances are off by up to a fifth in rows and columns each
    np.testing.assert_allclose(found_variance, variance.detach().numpy() * unit**2, rtol=0.3)


def test_hidden_units_without_signal_are_removed():
    rng = np.random.default_rng(0)
    network = initial_network((5, 8, 3), "relu", seed=0)
    network.weights[0][:, 2] = 0  # no inputs: a constant
    network.biases[0][2] = 1.5
    network.weights[1][5] = 0  # no outgoing weights
    network.weights[0][4] = 0  # an input without weights
    weights = GaussianWeights(network, (np.full(6, 1e-4), np.full(9, 1e-4)), (np.ones(8), np.ones(3)))
    reduced = quantization.prune(weights, quantization.signal_masks(weights, 0.05))
    assert reduced.network.layer_sizes == (5, 6, 3)
    assert len(reduced.row_variances[1]) == 7 and len(reduced.column_variances[0]) == 6
    rows = rng.standard_normal((20, 5)).astype(np.float32)
    hidden = [np.maximum(rows @ part.weights[0] + part.biases[0], 0) for part in (network, reduced.network)]
    wanted, found = (h @ part.weights[1] + part.biases[1] for h, part in zip(hidden, (network, reduced.network)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    decoded = container.decode(quantization.encode(weights, 0.1))
    assert decoded.network.layer_sizes == (5, 6, 3)
    assert decoded.extras[0]["row_variance"][4] == 0
    assert container.CODECS[grid.GRID].name == "grid"


def test_wide_layers_with_diagonal_covariance_have_coarser_steps():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((300, 20)).cumsum(axis=1).astype(np.float32)
    network = initial_network((20, 40, 3), "relu", seed=0)
    weights = GaussianWeights(network, (np.full(21, 1e-4), np.full(41, 1e-4)), (np.ones(40), np.ones(3)))
    layers = quantization.quantize(weights, 0.1, inputs=inputs)[1]
    assert layers[0].step_exponents.max() > 2
    assert layers[1].step_exponents is None  # an exponent for three weights costs more than it saves
    decoded = container.decode(quantization.encode(weights, 0.1, inputs=inputs)).network
    for weight, layer in zip(decoded.weights, layers):
        np.testing.assert_array_equal(weight, layer.matrix[:-1])
    settings = VariationalSettings(n_factors=2)
    posterior = make_posterior(initial_means(network), "relu", settings, 300, True)
    units = fit_standardization(network, inputs, inputs.any(axis=0), np.ones((300, 3)))
    full = quantization.posterior_to_weights(posterior, units, network)
    assert full.marginal
    for marginal in (full, replace(weights, marginal=True)):
        assert quantization.quantize(marginal, 0.1, inputs=inputs)[1][0].step_exponents is None


def test_removed_units_do_not_affect_the_rounding_of_others():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((300, 20)).cumsum(axis=1).astype(np.float32)
    network = initial_network((20, 40, 3), "relu", seed=0)
    without = Network(
        (np.delete(network.weights[0], 7, axis=1), np.delete(network.weights[1], 7, axis=0)),
        (np.delete(network.biases[0], 7), network.biases[1]),
        "relu",
    )
    network.weights[0][:, 7] = network.weights[1][7] = 1e-6  # rounded to zero, so that there is a second round
    network.biases[0][7] = 0
    columns = np.ones(40, np.float32), np.ones(3, np.float32)
    weights = GaussianWeights(network, (np.full(21, 1e-4), np.full(41, 1e-4)), columns)
    smaller = GaussianWeights(without, (np.full(21, 1e-4), np.full(40, 1e-4)), (columns[0][1:], columns[1]))
    reduced, layers = quantization.quantize(weights, 0.5, inputs=inputs)
    assert reduced.layer_sizes == (20, 39, 3) and (layers[0].codes == 0).mean() > 0.05
    for layer, wanted in zip(layers, quantization.quantize(smaller, 0.5, inputs=inputs)[1]):
        np.testing.assert_array_equal(layer.codes, wanted.codes)


@pytest.mark.parametrize("seed", range(3))
def test_chosen_code_costs_least_of_all_candidates(seed):
    rng = np.random.default_rng(seed)
    exact, classes = rng.normal(0, 3, 200), rng.integers(0, 2, 200)
    lengths, distortion = rng.uniform(0, 4, (2, 12)), rng.uniform(0.1, 3, 200)
    chosen = rounding.cheapest_codes(exact, distortion, lengths, classes)
    for value, weight, number, code in zip(exact, distortion, classes, chosen):
        nearest = abs(round(value))
        costs = {c: weight * (c - abs(value)) ** 2 + lengths[number, c] for c in {nearest, max(nearest - 1, 0), 0}}
        assert abs(code) == min(costs, key=costs.get) and code * value >= 0


def test_code_lengths_are_those_of_the_frequencies():
    magnitudes = np.repeat([0, 1, 2], [6000, 3000, 1000])
    np.testing.assert_allclose(rounding.code_lengths(magnitudes, 2), -np.log([0.6, 0.3 / 2, 0.1 / 2]), atol=1e-3)


def correlated_layer(seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((500, 6)).astype(np.float32) @ rng.standard_normal((6, 20)).astype(np.float32)
    inputs += 0.3 * rng.standard_normal(inputs.shape).astype(np.float32)
    size = np.sqrt(np.append(np.square(inputs).mean(axis=0), 1))
    return inputs, rng.standard_normal((21, 8)), 0.01 / size**2, np.exp(rng.normal(0, 0.3, 8))


def test_uncorrelated_weights_are_rounded_independently():
    _, mean, rows, columns = correlated_layer()
    layer = round_independently(mean, rows, columns, 1e-6)
    together = rounding.round_jointly(layer, mean, rows, columns, np.eye(21), 1e-6)
    np.testing.assert_array_equal(together.codes, layer.codes)


@pytest.mark.parametrize("seed", range(3))
def test_joint_rounding_has_smaller_output_error(seed):
    inputs, mean, rows, columns = correlated_layer(seed)
    layer = round_independently(mean, rows, columns, 0.3)
    correlations = rounding.input_correlations(inputs)
    together = rounding.round_jointly(layer, mean, rows, columns, correlations, 0.3)
    errors = [inputs @ (part.matrix - mean)[:-1] + (part.matrix - mean)[-1] for part in (layer, together)]
    before, after = (float(np.square(error).mean()) for error in errors)
    assert after < 0.75 * before  # measured 0.2 to 0.55 of it
    loss = [
        np.einsum("ij,ik,kj->j", z, correlations, z) / (2 * columns)
        for z in ((part.matrix - mean) / np.sqrt(rows)[:, None] for part in (layer, together))
    ]
    assert loss[1].sum() < 0.9 * loss[0].sum()


def bytes_and_loss(rate_weight, coarsely, seed):
    """The loss is that of correlated inputs, z^T C z / (2 v) of every column, in nats."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2000, 120)).cumsum(axis=1) * rng.uniform(0.5, 2, 120)
    correlations = rounding.input_correlations(image.astype(np.float32))
    rows, columns = 0.01 / np.square(np.append(image.std(axis=0), 1)), np.exp(rng.normal(0, 0.3, 40))
    mean = 0.4 * np.sqrt(rows[:, None] * columns) * rng.standard_normal((121, 40)) / np.sqrt(0.1)
    exponents = rounding.step_multipliers(correlations) if coarsely else None
    layer = round_independently(mean, rows, columns, rate_weight, step_exponents=exponents)
    layer = rounding.round_jointly(layer, mean, rows, columns, correlations, rate_weight)
    z = (layer.matrix - mean) / np.sqrt(rows)[:, None]
    return len(grid.encode(layer).payload), float((np.einsum("ij,ik,kj->j", z, correlations, z) / (2 * columns)).sum())


def test_step_multipliers_are_conditional_standard_deviations():
    # Brute force: the precision given the rows before, with the rows after free
    rng = np.random.default_rng(0)
    correlations = rounding.input_correlations(rng.standard_normal((50, 9)).cumsum(axis=1).astype(np.float32))
    wanted = [np.linalg.inv(correlations[row:, row:])[0, 0] for row in range(10)]
    np.testing.assert_array_equal(rounding.step_multipliers(correlations), grid.nearest_level(np.power(wanted, 0.25)))
    np.testing.assert_array_equal(rounding.step_multipliers(np.eye(4)), 0)


@pytest.mark.parametrize("seed", range(3))
def test_coarser_steps_of_early_rows_cost_less_at_equal_loss(seed):
    rates = (0.05, 0.1, 0.2, 0.4)
    coarse_bytes, coarse_loss = np.transpose([bytes_and_loss(rate, True, seed) for rate in rates])
    plain_bytes, plain_loss = np.transpose([bytes_and_loss(rate, False, seed) for rate in rates])
    at_equal_loss = np.exp(np.interp(np.log(coarse_loss[:-1]), np.log(plain_loss), np.log(plain_bytes)))
    assert np.all(coarse_bytes[:-1] < 0.98 * at_equal_loss)  # measured 0.92 to 0.96 of it


def test_refitted_layer_compensates_changed_inputs():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((300, 5)).astype(np.float32)
    matrix = rng.standard_normal((6, 2))
    changed = inputs + 0.3 * np.roll(inputs, 1, axis=1)
    outputs = inputs @ matrix[:-1] + matrix[-1]
    again = quantization.refit(matrix, changed, outputs)
    np.testing.assert_allclose(changed @ again[:-1] + again[-1], outputs, atol=0.1)


# targets


def test_classification_learns_from_y():
    network = MLPClassifier(32, max_iter=15, random_state=0)
    with pytest.warns(UserWarning):
        network.fit(DIGITS[TRAIN], CLASSES[TRAIN])
    fitted = MatrixGaussianCompressor(FrozenEstimator(network), **SHORT).fit(DIGITS[TRAIN], CLASSES[TRAIN])
    assert fitted.score(DIGITS[TEST], CLASSES[TEST]) > 0.88
    assert fitted.noise_ is None and fitted.nbytes_ < 2500
    with pytest.raises(ValueError, match="return_std=True is for regression"):
        fitted.predict(DIGITS[:3], return_std=True)


@pytest.mark.slow
def test_embeddings_have_standard_deviations():
    embedding = Distiller(PCA(2), hidden_layer_sizes=(16,), max_iter=15, random_state=0)
    fitted = MatrixGaussianCompressor(embedding, **SHORT).fit(DIGITS[TRAIN])
    predictions, std = fitted.transform(DIGITS[TEST], return_std=True)
    assert predictions.shape == std.shape == (597, 2) and (std > 0).all()
    assert fitted.score(DIGITS[TEST]) > 0.85


@pytest.fixture(scope="module")
def diabetes():
    """Rows, targets, and a network fitted to them."""
    X, y = load_diabetes(return_X_y=True, scaled=False)
    X = StandardScaler().fit_transform(X)
    network = MLPRegressor(
        hidden_layer_sizes=20, activation="tanh", learning_rate_init=0.1, early_stopping=True, random_state=0
    )
    return X, y, network.fit(X, y)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_pseudo": 3},
        {"n_pseudo": 3, "bound": "paper"},
        {"n_factors": 2},
        {"prior": "row"},
        {"prior": "layer"},
        {"expectation": "draws"},
    ],
)
def test_every_posterior_and_prior_fits(changes, diabetes):
    X, y, network = diabetes
    fitted = MatrixGaussianCompressor(FrozenEstimator(network), max_iter=8, random_state=0, **changes).fit(X, y)
    assert fitted.score(X, y) > 0.4
    assert -5.8 < fitted.log_likelihood(X, y) < -5.0  # measured -5.45 to -5.41


# parameters


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

    compressor = MatrixGaussianCompressor(FrozenEstimator(student), **SHORTEST)
    assert compressor.set_callbacks(Stops()).fit(DIGITS[TRAIN]).n_iter_ == 2


def test_old_name_of_initial_std_is_deprecated(student, limit_training):
    limit_training(min_steps=8)
    new = MatrixGaussianCompressor(FrozenEstimator(student), initial_std=0.2, max_iter=1, random_state=0)
    old = MatrixGaussianCompressor(FrozenEstimator(student), initial_deviation=0.2, max_iter=1, random_state=0)
    with pytest.warns(FutureWarning, match="'initial_deviation' of MatrixGaussianCompressor .* 'initial_std'"):
        old.fit(DIGITS[TRAIN])
    assert old.to_bytes() == new.fit(DIGITS[TRAIN]).to_bytes()


@pytest.mark.slow
def test_compressor_for_a_budget(student):
    compressor = MatrixGaussianCompressor.for_budget(FrozenEstimator(student), 1500, effort=0.02, random_state=3)
    assert (compressor.max_bytes, compressor.max_iter, compressor.random_state) == (1500, 2, 3)
    assert compressor.learn_from == "outputs"
    assert MatrixGaussianCompressor.for_budget(student, 1500, effort=1e-3).max_iter == 1
    assert compressor.fit(DIGITS[TRAIN]).nbytes_ <= 1500


# errors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_weight": 0.0}, "rate_weight"),
        ({"max_bytes": 40}, r"max_bytes=40 cannot be reached: .* \d+ bytes"),
        ({"min_signal": -1.0}, "min_signal"),
        ({"kl_weight": 0.0}, "kl_weight"),
        ({"prior": "laplace"}, "'prior' parameter of MatrixGaussianCompressor must be a str among .*'layer'"),
        ({"bound": "loose"}, "'bound' parameter of .* must be a str among"),
        ({"expectation": "none"}, "'expectation' parameter of .* must be a str among"),
        ({"noise": "laplace"}, "'noise' parameter of .* must be a str among"),
        ({"n_pseudo": -1}, "n_pseudo"),
        ({"compensate": "yes"}, "'compensate' parameter of .* must be"),
        ({"initial_std": 0.0}, "'initial_std' parameter of .* must be a float in the range"),
        ({"learn_from": "y"}, "learn_from='y' needs y"),
        ({"learning_rate_init": 1e6}, "diverged"),
    ],
)
def test_invalid_settings_raise(student, changes, message):
    compressor = MatrixGaussianCompressor(FrozenEstimator(student), **{**SHORT, "max_iter": 5, **changes})
    with pytest.raises(ValueError, match=message):
        compressor.fit(DIGITS[TRAIN])
    assert not hasattr(compressor, "nbytes_")


def test_invalid_rows_raise(student):
    compressor = MatrixGaussianCompressor(FrozenEstimator(student), **SHORT)
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        compressor.fit(DIGITS[:1])
    with pytest.raises(ValueError, match="none of them varies"):
        compressor.fit(np.ones((50, 64)))
    with pytest.raises(ValueError, match="NaN"):
        compressor.fit(np.full((50, 64), np.nan))


def test_constant_targets():
    X = np.random.default_rng(0).standard_normal((60, 3))
    network = MLPRegressor(hidden_layer_sizes=5, solver="lbfgs", max_iter=500, random_state=0).fit(X, np.full(60, 3.5))
    fitted = MatrixGaussianCompressor(FrozenEstimator(network), **SHORT).fit(X, np.full(60, 3.5))
    predictions, std = fitted.predict(X, return_std=True)
    np.testing.assert_allclose(predictions, 3.5, atol=0.2)
    assert np.isfinite(std).all() and np.isfinite(fitted.log_likelihood(X, np.full(60, 3.5)))


def test_non_finite_weights_raise():
    X, y = load_diabetes(return_X_y=True)
    network = MLPRegressor(hidden_layer_sizes=8, solver="lbfgs", max_iter=500, alpha=10, random_state=0).fit(
        X, (y - 150) / 80
    )
    network.coefs_[0][3, 2] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        MatrixGaussianCompressor(FrozenEstimator(network), **SHORT).fit(X, y)


def test_files_without_variances_raise(student):
    with pytest.raises(ValueError, match="stores no variances"):
        load(student.to_bytes()).output_moments(DIGITS[:3])
    with pytest.raises(ValueError, match="stores no variances"):
        load(student.to_bytes()).predict_proba(DIGITS[:3], averaged=True)
