"""Moments of networks with uncertain weights against numerical integration, sampled networks and torch."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from distill.compressors.matrix_gaussian import moments as trained
from distill.compressors.matrix_gaussian.posterior import MatrixGaussianNetwork
from distill.network import ACTIVATIONS, Network
from distill.runtime import moments

FUNCTIONS = {
    "identity": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "tanh": np.tanh,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
}


def integrated(activation, mean, variance):
    deviation, function = np.sqrt(variance), FUNCTIONS[activation]

    def moment(power):
        def integrand(z):
            return function(mean + deviation * z) ** power * stats.norm.pdf(z)

        kink = -mean / deviation
        points = [kink] if -9 < kink < 9 else None
        return integrate.quad(integrand, -9, 9, points=points, epsabs=1e-11, limit=200)[0]

    return moment(1), moment(2) - moment(1) ** 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_moments_equal_the_integrals(activation):
    means, variances = np.meshgrid([-6.0, -1.0, 0.0, 0.3, 5.0], [0.01, 0.5, 4.0])
    expected = np.array([integrated(activation, *pair) for pair in zip(means.ravel(), variances.ravel())])
    # NumPy has no error function, and a quadrature of 32 nodes does not follow a steep curve exactly
    tolerance = {"identity": 1e-9, "relu": 4e-6}.get(activation, 4e-3)
    found = moments.activation_moments(activation, means.ravel(), variances.ravel())
    np.testing.assert_allclose(np.transpose(found), expected, atol=tolerance)
    tensors = (torch.tensor(means.ravel()), torch.tensor(variances.ravel()))
    found = trained.activation_moments(activation, *tensors)
    np.testing.assert_allclose(torch.stack(found, 1), expected, atol=1e-8 if tolerance < 1e-3 else 2e-2)


def test_normal_probability_equals_scipy():
    z = np.linspace(-40, 40, 20001)
    np.testing.assert_allclose(moments.normal_probability(z), stats.norm.cdf(z), atol=1e-7)


def test_relu_moments_are_finite_far_from_zero():
    mean = np.array([-1e6, -100.0, 100.0, 1e6])
    for variance in (0.0, 1e-12, 1.0):
        first, second = moments.relu_moments(mean, np.full(4, variance))
        np.testing.assert_allclose(first, np.maximum(mean, 0), atol=1e-3)
        assert np.isfinite(second).all() and (second >= 0).all()
    first, second = trained.relu_moments(torch.tensor(mean).float(), torch.full((4,), 1e-12))
    np.testing.assert_allclose(first, np.maximum(mean, 0), atol=1e-3)
    assert (second >= 0).all() and torch.isfinite(second).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_exact(activation):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    variance = torch.rand(4, 3, dtype=torch.float64, generator=generator).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: trained.activation_moments(activation, *given), (mean, variance))


def random_network(sizes, activation, std=0.6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = [torch.randn(a + 1, b, generator=generator) for a, b in itertools.pairwise(sizes)]
    network = MatrixGaussianNetwork(means, activation, std=std)
    with torch.no_grad():
        for layer in network.layers:
            layer.log_rows += 0.5 * torch.randn(layer.log_rows.shape, generator=generator)
            layer.log_columns += 0.5 * torch.randn(layer.log_columns.shape, generator=generator)
    return network


def drawn_moments(network, X, n_draws=100_000):
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        draws = network.outputs(network.posteriors()[0], X.expand(n_draws, *X.shape), "weight", generator)
    return draws.mean(0), draws.var(0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_hidden_layer_is_exact(activation):
    network, X = random_network((3, 6, 2), activation), torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    expected_mean, expected_variance = drawn_moments(network, X)
    mean, variance = trained.output_moments(network.posteriors()[0], X, activation)
    # With 100000 draws the error of a mean is 0.3 % of the standard deviation, that of a variance about 0.6 %
    assert ((mean - expected_mean).abs() / expected_variance.sqrt()).max() < 0.015
    assert ((variance / expected_variance).log().abs()).max() < 0.03


def test_two_hidden_layers_are_close():
    network, X = random_network((3, 20, 20, 1), "relu"), torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    expected_mean, expected_variance = drawn_moments(network, X, 30_000)
    mean, variance = trained.output_moments(network.posteriors()[0], X, "relu")
    assert ((mean - expected_mean).abs() / expected_variance.sqrt()).max() < 0.15
    assert ((variance / expected_variance).log().abs()).max() < 0.3


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_numpy_agrees_with_torch(activation):
    sizes = (3, 6, 5, 2)
    module = random_network(sizes, activation)
    posteriors = module.posteriors()[0]
    X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    with torch.no_grad():
        expected = trained.output_moments(
            posteriors, torch.from_numpy((X - np.float32(0.5)) * np.float32(2)), activation
        )
    # A file's weights have the division by the square root of the number of inputs in them
    fan_in = [size + 1 for size in sizes[:-1]]
    with torch.no_grad():
        means = [q.mean.numpy() / np.sqrt(n) for q, n in zip(posteriors, fan_in)]
        rows = [q.rows.diagonal().numpy() / n for q, n in zip(posteriors, fan_in)]
        columns = [q.columns.numpy() for q in posteriors]
    weights, biases = tuple(mean[:-1] for mean in means), tuple(mean[-1] for mean in means)
    network = Network(weights, biases, activation, offset=np.float32(0.5), scale=np.float32(2))
    mean, variance = moments.output_moments(network, rows, columns, X)
    tolerance = 1e-4 if activation in ("identity", "relu") else 1e-2
    np.testing.assert_allclose(mean, expected[0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(variance, expected[1], rtol=tolerance, atol=tolerance)
    alone = [moments.output_moments(network, rows, columns, X[index : index + 1]) for index in range(len(X))]
    np.testing.assert_array_equal(mean, np.concatenate([one[0] for one in alone]))
    np.testing.assert_array_equal(variance, np.concatenate([one[1] for one in alone]))


@pytest.mark.parametrize("n_outputs, output", [(1, "logistic"), (3, "softmax")])
def test_averaged_probabilities_are_means_over_draws(n_outputs, output):
    random = np.random.default_rng(0)
    mean, variance = random.normal(size=(6, n_outputs)), random.uniform(0, 3, size=(6, n_outputs))
    sums = mean + np.sqrt(variance) * random.normal(size=(200_000, 6, n_outputs))
    if output == "logistic":
        expected = 1 / (1 + np.exp(-sums))
        expected = np.concatenate([1 - expected, expected], axis=2)
    else:
        expected = np.exp(sums) / np.exp(sums).sum(axis=2, keepdims=True)
    found = moments.averaged_probabilities(mean, variance, output)
    # 128 draws of softmax: within four hundredths; the quadrature of a logistic: within a thousandth
    np.testing.assert_allclose(found, expected.mean(0), atol=0.04 if output == "softmax" else 3e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    certain = moments.averaged_probabilities(mean, np.zeros_like(variance), output)
    if output == "softmax":
        np.testing.assert_allclose(certain, np.exp(mean) / np.exp(mean).sum(axis=1, keepdims=True), rtol=1e-5)
