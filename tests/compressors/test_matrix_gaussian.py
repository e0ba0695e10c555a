"""Matrix Gaussian posteriors against their vectorized form, torch.distributions and brute-force conditioning."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import gamma
from torch.distributions import Gamma, MultivariateNormal, Normal, StudentT
from torch.distributions import kl_divergence as reference_divergence

from distill.compressors.matrix_gaussian.noise import (
    GaussianNoise,
    expected_log_likelihood,
    gamma_divergence,
    predictive_log_density,
)
from distill.compressors.matrix_gaussian.posterior import (
    MatrixGaussian,
    MatrixGaussianLayer,
    MatrixGaussianNetwork,
    RowCovariance,
    condition,
    hierarchical_divergence,
    kl_divergence,
    precision_posterior,
    sample_outputs,
    sample_weights,
    stable_cholesky,
    with_constant,
)

P, Q = 5, 3
KINDS = ["diagonal", "factor", "factor and core"]


def random_posterior(kind="diagonal", seed=0, p=P, q=Q, batch=()):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

    basis = None if kind == "diagonal" else normal(p, 2)
    core = None
    if kind == "factor and core":
        core = normal(2, 2)
        core = core @ core.mT - 0.01 * torch.eye(2)
    return MatrixGaussian(normal(p, q), RowCovariance(normal(p).exp(), basis, core), normal(q).exp())


def dense(rows):
    """Return U as a dense matrix."""
    if rows.basis is None:
        return rows.variance.diag_embed()
    core = torch.eye(rows.basis.shape[-1]).to(rows.basis) if rows.core is None else rows.core
    return rows.variance.diag_embed() + rows.basis @ core @ rows.basis.mT


def vectorized(q):
    """Return the distribution of vec(W), columns stacked: N(vec(M), V kron U)."""
    return MultivariateNormal(q.mean.T.reshape(-1), torch.kron(q.columns.diag(), dense(q.rows)))


def normal_inputs(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_row_covariance_equals_the_dense_matrix(kind):
    rows = random_posterior(kind).rows
    full, X = dense(rows), normal_inputs(4, P)
    torch.testing.assert_close(rows.diagonal(), full.diagonal())
    torch.testing.assert_close(rows.log_determinant(), torch.logdet(full))
    torch.testing.assert_close(rows.times(X.T), full @ X.T)
    torch.testing.assert_close(rows.quadratic(X), (X @ full @ X.T).diagonal())
    root = rows.draw(torch.eye(P, dtype=torch.float64))
    torch.testing.assert_close(root @ root.T, full)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_and_divergence_are_those_of_the_vectorized_gaussian(kind):
    q, prior = random_posterior(kind), random_posterior(seed=7)
    expected = vectorized(q).entropy()
    torch.testing.assert_close(q.entropy(), expected, rtol=1e-12, atol=1e-10)
    for p in (prior, MatrixGaussian(torch.zeros(P, Q).double(), RowCovariance(torch.ones(P).double()), torch.ones(Q))):
        p = p._replace(columns=p.columns.double())
        expected = reference_divergence(vectorized(q), vectorized(p))
        torch.testing.assert_close(kl_divergence(q, p), expected, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(kl_divergence(q), expected, rtol=1e-12, atol=1e-10)


def test_divergence_is_positive_and_zero_only_at_the_prior():
    for seed in range(50):
        q, prior = random_posterior(seed=seed), random_posterior(seed=seed + 1000)
        assert kl_divergence(q, prior) > 0.1
        torch.testing.assert_close(kl_divergence(q, q), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)


def test_divergence_is_invariant_to_a_factor_moved_from_rows_to_columns():
    q = random_posterior()
    shifted = q._replace(rows=RowCovariance(7 * q.rows.variance), columns=q.columns / 7)
    torch.testing.assert_close(kl_divergence(shifted), kl_divergence(q))


def test_divergence_from_a_prior_with_full_covariance_raises():
    with pytest.raises(ValueError, match="diagonal"):
        kl_divergence(random_posterior(), random_posterior("factor"))


@pytest.mark.parametrize("per", ["row", "layer"])
@pytest.mark.parametrize("kind", KINDS)
def test_hierarchical_divergence_is_the_minimum_of_the_sum_of_its_two_parts(kind, per):
    q, shape, rate = random_posterior(kind), 1.5, 0.7
    prior = Gamma(torch.tensor(shape).double(), torch.tensor(rate, dtype=torch.float64))

    def two_parts(a, b):
        precision = Gamma(a, b)
        mean, mean_logarithm = a / b, torch.digamma(a) - b.log()
        squares = q.mean.square().sum(1) + dense(q.rows).diagonal() * q.columns.sum()
        squares = squares if per == "row" else squares.sum(0, keepdim=True)
        count = P * Q / len(squares)
        log_prior = 0.5 * (count * (mean_logarithm - math.log(2 * math.pi)) - mean * squares)
        return -vectorized(q).entropy() - log_prior.sum() + reference_divergence(precision, prior).sum()

    best_shape, best_rate = precision_posterior(q, shape, rate, per)
    assert best_rate.shape == ((P,) if per == "row" else (1,))
    best_shape = torch.full_like(best_rate, best_shape)
    found = hierarchical_divergence(q, shape, rate, per)
    torch.testing.assert_close(found, two_parts(best_shape, best_rate), rtol=1e-12, atol=1e-10)
    for factor in (0.9, 1.1):
        assert two_parts(best_shape * factor, best_rate) > found
        assert two_parts(best_shape, best_rate * factor) > found


def test_hierarchical_divergence_of_an_unknown_grouping_raises():
    with pytest.raises(ValueError, match="per must be 'row' or 'layer', got 'column'"):
        hierarchical_divergence(random_posterior(), per="column")


@pytest.mark.parametrize("kind", KINDS)
def test_pseudo_data_are_brute_force_conditioning(kind):
    q, inputs, outputs = random_posterior(kind), normal_inputs(2, P), normal_inputs(2, Q, seed=2)
    # vec(A W) = (I kron A) vec(W): condition the p q entries of vec(W) on these 2 q
    prior, observe = vectorized(q), torch.kron(torch.eye(Q), inputs)
    covariance = prior.covariance_matrix
    gain = covariance @ observe.T @ torch.linalg.inv(observe @ covariance @ observe.T)
    mean = prior.mean + gain @ (outputs.T.reshape(-1) - observe @ prior.mean)
    left = covariance - gain @ observe @ covariance
    found = condition(q, inputs, outputs)
    torch.testing.assert_close(found.mean.T.reshape(-1), mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.kron(found.columns.diag(), dense(found.rows)), left, rtol=1e-10, atol=1e-10)
    # At a pseudo-input the output has no variance
    torch.testing.assert_close(inputs @ found.mean, outputs, rtol=1e-10, atol=1e-10)
    assert found.rows.quadratic(inputs).max() < 1e-10

    spread = normal_inputs(2, 2, seed=3).tril()
    factor = torch.linalg.cholesky(inputs @ dense(q.rows) @ inputs.T)
    outer = torch.kron(q.columns.diag(), factor @ spread @ spread.T @ factor.T)
    found = condition(q, inputs, outputs, spread)
    torch.testing.assert_close(found.mean.T.reshape(-1), mean, rtol=1e-10, atol=1e-10)
    expected = MultivariateNormal(mean, left + gain @ outer @ gain.T)
    torch.testing.assert_close(vectorized(found).covariance_matrix, expected.covariance_matrix, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(kl_divergence(found), reference_divergence(expected, vectorized(_standard())))


def _standard():
    return MatrixGaussian(
        torch.zeros(P, Q).double(), RowCovariance(torch.ones(P).double()), torch.ones(Q, dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pseudo_data_with_the_distribution_of_the_outputs_change_nothing(kind):
    q, inputs = random_posterior(kind), normal_inputs(2, P)
    found = condition(q, inputs, inputs @ q.mean, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(found.mean, q.mean)
    torch.testing.assert_close(dense(found.rows), dense(q.rows))
    torch.testing.assert_close(kl_divergence(found), kl_divergence(q))


def test_equal_pseudo_inputs_get_jitter_and_invalid_ones_raise():
    q, once = random_posterior(), normal_inputs(1, P)
    twice = torch.cat([once, once])
    found = condition(q, twice, twice @ q.mean + 1.0)
    torch.testing.assert_close(once @ found.mean, once @ q.mean + 1.0, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match=r"kernel of the pseudo-inputs is singular.*n_pseudo"):
        condition(q, torch.full((2, P), math.nan, dtype=torch.float64), torch.zeros(2, Q, dtype=torch.float64))
    with pytest.raises(ValueError, match="the matrix"):
        stable_cholesky(-torch.eye(3), "the matrix")


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_outputs_have_the_moments_of_the_closed_form(kind):
    q, X, n_draws = random_posterior(kind), normal_inputs(4, P), 200_000
    generator = torch.Generator().manual_seed(3)
    expected = torch.kron(q.columns.diag(), X @ dense(q.rows) @ X.T)
    for mode in ("weight", "joint", "local"):
        draws = sample_outputs(q, X.expand(n_draws, 4, P), mode, generator)
        assert draws.shape == (n_draws, 4, Q)
        mean = draws.mean(0)
        std = expected.diagonal().reshape(Q, 4).T.sqrt()
        assert ((mean - X @ q.mean).abs() / std * math.sqrt(n_draws)).max() < 4.5
        found = torch.cov(draws.mT.reshape(n_draws, -1).T)
        # In "local" mode samples are independent, each with its marginal distribution
        wanted = expected if mode != "local" else expected.diagonal().diag()
        assert (found - wanted).norm() / wanted.norm() < 0.01
    torch.testing.assert_close(sample_outputs(q, X, "mean"), X @ q.mean)


def test_draws_of_weights_have_the_covariance_of_the_definition():
    q = random_posterior("factor")
    draws = sample_weights(q, (200_000,), torch.Generator().manual_seed(0)).mT.reshape(-1, P * Q)
    expected = vectorized(q).covariance_matrix
    assert (torch.cov(draws.T) - expected).norm() / expected.norm() < 0.01


def test_unknown_modes_raise():
    with pytest.raises(ValueError, match="mode must be one of 'mean', 'local', 'joint', 'weight', got 'median'"):
        sample_outputs(random_posterior(), normal_inputs(4, P), "median")


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_are_independent_posteriors(kind):
    both = random_posterior(kind, batch=(2,))
    inputs, outputs, X = normal_inputs(2, 3, P), normal_inputs(2, 3, Q), normal_inputs(2, 4, P, seed=5)
    spread = normal_inputs(2, 3, 3, seed=6).tril()

    def one(index):
        rows = RowCovariance(*(None if part is None else part[index] for part in both.rows))
        return MatrixGaussian(both.mean[index], rows, both.columns[index])

    together = condition(both, inputs, outputs, spread)
    for index in range(2):
        alone = condition(one(index), inputs[index], outputs[index], spread[index])
        torch.testing.assert_close(together.mean[index], alone.mean)
        torch.testing.assert_close(together.rows.quadratic(X)[index], alone.rows.quadratic(X[index]))
        for measure in (kl_divergence, hierarchical_divergence, MatrixGaussian.entropy):
            torch.testing.assert_close(measure(together)[index], measure(alone))
    for mode in ("mean", "local", "joint", "weight"):
        assert sample_outputs(together, X, mode, torch.Generator().manual_seed(0)).shape == (2, 4, Q)


@pytest.mark.parametrize("bound", ["valid", "paper"])
@pytest.mark.parametrize("n_factors", [0, 1])
@pytest.mark.parametrize("n_pseudo", [0, 2])
def test_gradients_of_bound_and_outputs_are_exact(n_pseudo, n_factors, bound):
    settings = {"n_factors": n_factors, "n_pseudo": n_pseudo, "bound": bound, "std": 0.5}
    layer = MatrixGaussianLayer(normal_inputs(3, 2), **settings, generator=torch.Generator().manual_seed(0))
    layer = layer.double()
    names = [name for name, _ in layer.named_parameters()]
    X = normal_inputs(4, 3, seed=4)

    def objectives(*values):
        module = MatrixGaussianLayer(normal_inputs(3, 2), **settings, generator=torch.Generator().manual_seed(0))
        for name, value in zip(names, values):
            delattr(module, name)
            setattr(module, name, value)
        sampled, penalized = module.posteriors()
        outputs = sample_outputs(sampled, X, "local", torch.Generator().manual_seed(1))
        return outputs, kl_divergence(penalized), hierarchical_divergence(penalized)

    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(objectives, values)


def test_every_parameter_moves_the_outputs_and_the_divergence_together():
    network = MatrixGaussianNetwork(
        [normal_inputs(4, 3), normal_inputs(4, 2)],
        n_factors=1,
        n_pseudo=2,
        std=0.5,
        generator=torch.Generator().manual_seed(0),
    )
    X = normal_inputs(6, 3)
    with torch.no_grad():
        for index, parameter in enumerate(network.parameters()):
            parameter += 0.1 * normal_inputs(*parameter.shape, seed=index)

    def objectives():
        sampled, penalized = network.posteriors()
        outputs = network.outputs(sampled, X, "local", torch.Generator().manual_seed(1))
        return outputs.sum(), sum(kl_divergence(q) for q in penalized)

    for objective in objectives():
        for gradient in torch.autograd.grad(objective, list(network.parameters()), retain_graph=True):
            assert gradient.abs().max() > 1e-4


def test_initial_mean_and_standard_deviation_of_a_layer():
    mean = normal_inputs(4, 3).float()
    for n_pseudo in (0, 2):
        layer = MatrixGaussianLayer(mean, std=0.2, n_pseudo=n_pseudo, generator=torch.Generator().manual_seed(0))
        sampled, penalized = layer.posteriors()
        assert sampled is penalized
        torch.testing.assert_close(sampled.mean, mean)
        torch.testing.assert_close(sampled.rows.diagonal()[:, None] * sampled.columns, torch.full((4, 3), 0.04))


def test_network_of_means_is_the_plain_network():
    first, second = normal_inputs(4, 5).float(), normal_inputs(6, 2, seed=2).float()
    network, X = MatrixGaussianNetwork([first, second], "tanh"), normal_inputs(7, 3).float()
    hidden = torch.tanh((X @ first[:-1] + first[-1]) / 2)
    expected = (hidden @ second[:-1] + second[-1]) / math.sqrt(6)
    torch.testing.assert_close(network.outputs(network.posteriors()[0], X, "mean"), expected)
    assert with_constant(X).shape == (7, 4)
    with pytest.raises(ValueError, match="5 outputs cannot feed one of 3 inputs"):
        MatrixGaussianNetwork([first, torch.zeros(4, 2)])
    with pytest.raises(ValueError, match="bound"):
        MatrixGaussianNetwork([first, second], bound="invalid")


def test_mean_loss_does_not_depend_on_the_size_of_the_batch():
    network, X = MatrixGaussianNetwork([normal_inputs(4, 5), normal_inputs(6, 1)], std=0.3), normal_inputs(8, 3)
    y, generator = normal_inputs(8, 1, seed=9), torch.Generator().manual_seed(0)

    def losses(n_samples):
        sampled, _ = network.posteriors()
        repeats = 4000
        index = torch.arange(8).repeat(n_samples // 8)
        outputs = network.outputs(sampled, X[index].expand(repeats, n_samples, 3), "local", generator)
        return (outputs - y[index]).square().mean((1, 2)).detach()

    small, large = losses(8), losses(16)
    error = math.sqrt(small.var() / len(small) + large.var() / len(large))
    assert abs(small.mean() - large.mean()) < 4 * error
    # Independent samples: twice as many have half the variance
    assert 0.4 < large.var() / small.var() < 0.6


def test_noise_precision_agrees_with_torch_distributions():
    shape, rate = torch.tensor([7.0, 30.0]).double(), torch.tensor([2.0, 25.0]).double()
    posterior, prior = Gamma(shape, rate), Gamma(torch.tensor(1.0).double(), torch.tensor(0.01, dtype=torch.float64))
    torch.testing.assert_close(gamma_divergence(shape, rate), reference_divergence(posterior, prior))
    difference = normal_inputs(5, 2)
    expected = StudentT(2 * shape, 0.0, (rate / shape).sqrt()).log_prob(difference)
    torch.testing.assert_close(predictive_log_density(difference, shape, rate), expected)
    # Quantiles of the Gamma in equal steps of probability
    levels = (np.arange(100_000) + 0.5) / 100_000
    precision = torch.tensor(gamma.ppf(levels[:, None], shape.numpy(), scale=1 / rate.numpy()))
    expected = Normal(0.0, precision.rsqrt()).log_prob(difference[0]).mean(0)
    found = expected_log_likelihood(difference[0].square(), shape, rate)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_noise_converges_to_the_closed_form_of_the_errors():
    noise = GaussianNoise(100, (2,))
    errors = torch.tensor([0.5, 2.0])
    noise.update(errors, step=1.0)
    torch.testing.assert_close(noise.shape, torch.tensor([51.0, 51.0]))
    torch.testing.assert_close(noise.rate, 0.01 + 50 * errors)

    def bound(rate):
        squares = errors.expand(100, 2).double()
        likelihood = expected_log_likelihood(squares, noise.shape.double(), rate).sum()
        return likelihood - gamma_divergence(noise.shape.double(), rate).sum()

    best = bound(noise.rate.double())
    assert bound(noise.rate.double() * 1.02) < best and bound(noise.rate.double() * 0.98) < best
    for _ in range(1000):
        noise.update(torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(noise.rate, torch.tensor([150.01, 150.01]), rtol=1e-3, atol=0)
    assert noise.log_likelihood(torch.zeros(4, 2)).shape == (4,)
    assert noise.divergence().shape == ()
