"""The Mean-KL posterior against closed forms, torch.distributions and numerical derivatives."""

import math

import numpy as np
import pytest
import torch
from scipy.special import lambertw
from torch.distributions import Normal, kl_divergence

from distill.compressors.random_code.mean_kl import (
    SERIES,
    LogVariance,
    MeanKL,
    divergence,
    excess,
    log_information,
    log_variance_slope,
    mean_and_log_variance,
    solve_log_variance,
    starting_point,
)
from distill.compressors.random_code.mean_var import MeanVar


def independent_divergence(mean, log_variance):
    """Return the divergence from torch.distributions, in float64."""
    mean, std = mean.detach().double(), torch.exp(0.5 * log_variance.detach().double())
    return kl_divergence(Normal(mean, std), Normal(torch.zeros_like(mean), torch.ones_like(mean)))


def test_series_is_the_published_one():
    expected = [0, -1, -1 / 6, -1 / 36, -1 / 270, -1 / 4320, 1 / 17010]
    np.testing.assert_allclose(SERIES[:7], expected, rtol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-7), (torch.float64, 1e-14)])
def test_log_variance_is_the_lambert_function_where_scipy_is_exact(dtype, tolerance):
    target = np.linspace(0.5, 300, 2000)
    # s = -W0(-exp(-(1 + a))); taking y = ln s avoids a variance that underflows
    argument = -np.exp(-(1 + target))
    expected = np.log(-lambertw(argument).real)
    found = solve_log_variance(torch.tensor(np.sqrt(2 * target), dtype=dtype)).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_log_variance_near_zero_follows_its_expansion():
    width = torch.logspace(-20, -3, 200, dtype=torch.float64)
    expected = -width - width**2 / 6 - width**3 / 36 - width**4 / 270 - width**5 / 4320
    assert torch.allclose(solve_log_variance(width), expected, rtol=2e-15, atol=0)
    assert solve_log_variance(torch.zeros(1)).item() == 0


def test_log_variance_has_no_seam():
    width = torch.linspace(1.39, 1.41, 2001, dtype=torch.float64)
    steps = torch.diff(solve_log_variance(width))
    assert (steps < 0).all() and (torch.diff(steps).abs() < 1e-10).all()


def test_excess_against_exact_sums():
    y = [-1e-12, -1e-6, -1e-3, -0.1, -0.29999, -0.30001, -2.0, -50.0]
    exact = [math.fsum(value**n / math.factorial(n) for n in range(2, 120)) for value in y[:-1]] + [49 + math.exp(-50)]
    found = excess(torch.tensor(y, dtype=torch.float64))
    np.testing.assert_allclose(found, exact, rtol=5e-15)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_information_is_recovered_from_mean_and_variance(dtype, tolerance):
    kappa = torch.logspace(-8, math.log10(200), 400, dtype=torch.float64)
    for tau in (-10.0, -1.0, -1e-3, 0.0, 0.3, 2.0, 10.0):
        mean, log_variance = mean_and_log_variance(torch.full_like(kappa, tau).to(dtype), kappa.log().to(dtype))
        assert mean.dtype == log_variance.dtype == dtype
        exact_kappa = kappa.log().to(dtype).double().exp()
        assert torch.allclose(divergence(mean.double(), log_variance.double()), exact_kappa, rtol=tolerance, atol=0)


@pytest.mark.parametrize("block_size", [1, 2, 17, 400])
@pytest.mark.parametrize("bits", [4, 12, 24])
def test_every_block_costs_its_budget(block_size, bits):
    generator = torch.Generator().manual_seed(block_size)
    budget = bits * math.log(2)
    for spread in (0.1, 5.0, 50.0):
        gamma = (torch.rand(50, block_size, generator=generator) * 2 - 1) * spread
        tau = (torch.rand(50, block_size, generator=generator) * 2 - 1) * 10
        mean, log_variance = mean_and_log_variance(tau, log_information(gamma, math.log(budget)))
        spent = independent_divergence(mean, log_variance).sum(dim=1)
        assert torch.allclose(spent, torch.full_like(spent, budget), rtol=1e-5)
        assert torch.allclose(divergence(mean, log_variance).sum(dim=1).double(), spent, rtol=1e-5)


def test_gradients_are_exact():
    generator = torch.Generator().manual_seed(0)
    width = torch.cat([torch.rand(20, generator=generator, dtype=torch.float64) * 8 + 1e-3, torch.tensor([1e-5])])
    assert torch.autograd.gradcheck(LogVariance.apply, width.requires_grad_())
    tau = torch.randn(4, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    gamma = (3 * torch.randn(4, 6, generator=generator, dtype=torch.float64)).requires_grad_()

    def family(tau, gamma):
        return mean_and_log_variance(tau, log_information(gamma, math.log(9.0)))

    assert torch.autograd.gradcheck(family, (tau, gamma))


def test_slope_at_zero_is_its_limit():
    width = torch.tensor([0.0, 1e-30, 1e-10, 1e-6], dtype=torch.float64)
    assert torch.allclose(log_variance_slope(width, solve_log_variance(width)), -torch.ones(4, dtype=torch.float64))


def test_gradients_are_finite_where_the_softmax_underflows():
    gamma = torch.linspace(-300, 300, 40).repeat(2, 1).requires_grad_()
    tau = torch.linspace(-20, 20, 40).repeat(2, 1).requires_grad_()
    mean, log_variance = mean_and_log_variance(tau, log_information(gamma, math.log(8.0)))
    ((mean + 1) ** 2 + torch.exp(log_variance)).sum().backward()
    assert torch.isfinite(gamma.grad).all() and torch.isfinite(tau.grad).all()


def test_variance_never_exceeds_the_prior():
    log_kappa = torch.linspace(-40, 6, 300)
    for tau in (-30.0, 0.0, 0.1, 30.0):
        assert (mean_and_log_variance(torch.full_like(log_kappa, tau), log_kappa)[1] <= 0).all()


class TestMeanKL:
    def blocks(self):
        generator = torch.Generator().manual_seed(1)
        used = torch.ones(6, 9, dtype=torch.bool)
        used[4:, -1] = False
        return torch.randn(6, 9, generator=generator) * 0.5, used

    def test_starts_near_means_within_the_budget(self):
        means, used = self.blocks()
        posterior = MeanKL(means, used, budget=20.0)
        found, log_variance = posterior()
        assert torch.allclose(found[used], means[used], atol=1e-5)
        assert (found[~used] == 0).all() and (log_variance[~used] == 0).all()
        # 20 nats do not suffice for means of 1e3: they are shortened
        shortened = MeanKL(means * 1e3, used, budget=20.0)()[0]
        assert torch.isfinite(shortened).all() and (shortened[used] * means[used] >= 0).all()

    def test_budget_holds_during_training(self):
        means, used = self.blocks()
        posterior = MeanKL(means, used, budget=8.3)
        optimizer = torch.optim.Adam(posterior.parameters(), lr=0.3)
        goal = torch.linspace(-3, 3, means.numel()).reshape(means.shape)
        losses = []
        for _ in range(200):
            optimizer.zero_grad()
            mean, log_variance = posterior()
            loss = ((mean - goal) ** 2 + torch.exp(log_variance)).masked_fill(~used, 0.0).sum()
            loss.backward()
            optimizer.step()
            spent = independent_divergence(*posterior()).sum(dim=1)
            assert torch.allclose(spent, torch.full_like(spent, 8.3), rtol=1e-4)
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_zero_means_and_blocks_of_one_weight(self):
        tau, gamma = starting_point(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), 3.0)
        assert torch.isfinite(tau).all() and torch.isfinite(gamma).all()
        posterior = MeanKL(torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool), 3.0)
        assert torch.allclose(posterior.divergence(), torch.full((2,), 3.0))


def test_penalty_weighs_divergences_and_counts_coded_blocks_as_on_budget():
    means, used = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 4, dtype=torch.bool)
    coded = torch.tensor([False, True, False])
    posterior = MeanVar(means, used, budget=6.0, penalty=0.5, rate=0.25)
    penalty = posterior.penalty(coded)
    spent = independent_divergence(*posterior()).sum(dim=1)
    assert penalty.item() == pytest.approx(0.5 * (spent[0] + 6.0 + spent[2]).item(), rel=1e-5)
    above = torch.tensor([spent[0] > 6, False, spent[2] > 6])
    torch.testing.assert_close(posterior.penalties, torch.where(above, 0.5 * 1.25, 0.5 / 1.25))
    penalty.backward()
    assert posterior.mean.grad[0].any() and not posterior.mean.grad[1].any()
    assert MeanKL(means, used, budget=6.0).penalty(coded).item() == 0


@pytest.mark.slow
def test_mean_var_penalties_steer_to_the_budget():
    generator = torch.Generator().manual_seed(2)
    used = torch.ones(5, 8, dtype=torch.bool)
    posterior = MeanVar(torch.randn(5, 8, generator=generator), used, budget=6.0, penalty=1e-3, rate=0.005)
    goal = torch.randn(5, 8, generator=generator)
    optimizer = torch.optim.Adam(posterior.parameters(), lr=0.02)
    visited = []
    for _ in range(3000):
        optimizer.zero_grad()
        mean, log_variance = posterior()
        visited.append(torch.stack([mean, log_variance]).detach())
        loss = ((mean - goal) ** 2 + torch.exp(log_variance)).sum()
        (loss + posterior.penalty(torch.zeros(5, dtype=torch.bool))).backward()
        optimizer.step()
    # The divergences swing about the budget and never rest on it, unlike those of Mean-KL
    last = independent_divergence(*torch.stack(visited[-1000:], dim=1)).sum(dim=2)
    assert torch.allclose(last.mean(dim=0), torch.full((5,), 6.0, dtype=torch.float64), rtol=0.05)
