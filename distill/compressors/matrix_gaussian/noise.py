"""Noise of a regression: a Gamma posterior of its precision, and likelihoods of targets.

The precision t of the noise in y = f + noise, for standardized y, has the prior Gamma(1, 0.01) and the posterior
Gamma(shape, rate), one for each output.
Given the function, the posterior has a closed form; from batches it is approached by stochastic steps (Hoffman, Blei,
Wang and Paisley, "Stochastic variational inference", JMLR 2013), without a gradient.
"""

import math

import numpy as np
import torch
from scipy import special, stats
from torch import Tensor, nn

# The prior of the authors of matrix Gaussian posteriors, Gamma(6, 6) for raw targets, would make noise below a fifth of
# the standard deviation of standardized targets unlikely even after hundreds of samples
PRIOR_SHAPE, PRIOR_RATE = 1.0, 0.01


def expected_log_likelihood(squares: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    """Return E log N(y; f, 1/t) in nats, for a precision t with a Gamma posterior.

    Parameters
    ----------
    squares : Tensor
        ``(y - f)^2``.
    shape, rate : Tensor
        Parameters of the posterior, broadcast against `squares`.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> certain = torch.tensor(1e6)
    >>> round(expected_log_likelihood(torch.tensor(1.0), certain, certain).item(), 3)
    -1.419
    """
    return 0.5 * (torch.digamma(shape) - rate.log() - math.log(2 * math.pi) - shape / rate * squares)


def gamma_divergence(
    shape: Tensor, rate: Tensor, prior_shape: float = PRIOR_SHAPE, prior_rate: float = PRIOR_RATE
) -> Tensor:
    """Return the Kullback-Leibler divergence of Gamma(shape, rate) from Gamma(prior_shape, prior_rate) in nats."""
    return (
        (shape - prior_shape) * torch.digamma(shape)
        - torch.lgamma(shape)
        + math.lgamma(prior_shape)
        + prior_shape * (rate.log() - math.log(prior_rate))
        + shape * (prior_rate - rate) / rate
    )


def predictive_log_density(difference: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    """Return log p(y | f), the precision integrated out: Student's t with ``2 * shape`` degrees of freedom.

    Parameters
    ----------
    difference : Tensor
        ``y - f``.
    shape, rate : Tensor
        Parameters of the Gamma distribution of the precision, broadcast against `difference`.

    Returns
    -------
    Tensor
    """
    normalizer = torch.lgamma(shape + 0.5) - torch.lgamma(shape) - 0.5 * (rate.log() + math.log(2 * math.pi))
    return normalizer - (shape + 0.5) * torch.log1p(difference.square() / (2 * rate))


def regression_log_likelihood(
    draws: np.ndarray, targets: np.ndarray, std: np.ndarray, degrees_of_freedom: np.ndarray | None = None
) -> float:
    """Return the mean log-density of targets under draws of a function, averaged over the draws, and its noise.

    Parameters
    ----------
    draws : ndarray of shape (n_draws, n_samples, n_outputs)
    targets : ndarray of shape (n_samples, n_outputs)
    std : ndarray of shape (n_outputs,)
        Standard deviation of the noise.
    degrees_of_freedom : ndarray of shape (n_outputs,) or None
        Degrees of freedom of Student's t noise, above 2; None for normal noise.

    Returns
    -------
    float
        In nats per sample.

    Examples
    --------
    >>> draws, targets = np.zeros((3, 2, 1)), np.zeros((2, 1))
    >>> round(regression_log_likelihood(draws, targets, np.ones(1)), 4)
    -0.9189
    """
    std = np.maximum(std.astype(np.float64), np.finfo(np.float32).tiny)
    if degrees_of_freedom is None:
        densities = stats.norm.logpdf(targets, draws, std)
    else:
        degrees = degrees_of_freedom.astype(np.float64)
        # Student's t of scale 1 has the variance degrees / (degrees - 2)
        densities = stats.t.logpdf(targets, degrees, draws, std * np.sqrt((degrees - 2) / degrees))
    return float((special.logsumexp(densities.sum(axis=2), axis=0) - np.log(len(draws))).mean())


def classification_log_likelihood(draws: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean log-probability of labels under draws of a function, averaged over the draws.

    Parameters
    ----------
    draws : ndarray of shape (n_draws, n_samples, n_classes)
        Probabilities.
    targets : ndarray of shape (n_samples,), int
        Positions of the labels.

    Returns
    -------
    float
        In nats per sample.

    Examples
    --------
    >>> draws = np.array([[[0.5, 0.5]], [[0.1, 0.9]]])
    >>> round(classification_log_likelihood(draws, np.array([1])), 4)  # log 0.7
    -0.3567
    """
    likelihoods = draws.mean(axis=0)[np.arange(len(targets)), targets]
    return float(np.log(np.maximum(likelihoods, np.finfo(np.float32).tiny)).mean())


class GaussianNoise(nn.Module):
    """The Gamma posterior of the precision of normal noise, updated batch by batch.

    Parameters
    ----------
    n_samples : int
        Number of training samples.
    size : tuple of int
        Shape of the precision: leading axes of networks trained side by side, then n_outputs.

    Attributes
    ----------
    shape, rate : Tensor of shape size
    """

    def __init__(self, n_samples: int, size: tuple[int, ...]):
        super().__init__()
        self.n_samples = n_samples
        self.register_buffer("shape", torch.full(size, PRIOR_SHAPE + 0.5 * n_samples))
        self.register_buffer("rate", torch.full(size, PRIOR_RATE + 0.5 * n_samples))

    @torch.no_grad()
    def update(self, mean_squares: Tensor, step: float = 0.01) -> None:
        """Move the posterior toward the posterior given the errors.

        Parameters
        ----------
        mean_squares : Tensor of shape size
            Mean squared error per sample.
        step : float in (0, 1]
            Fraction of the way.
        """
        self.rate.lerp_(PRIOR_RATE + 0.5 * self.n_samples * mean_squares, step)

    def log_likelihood(self, squares: Tensor) -> Tensor:
        """Return the expected log-likelihood of samples, shape (..., n), given squared errors (..., n, n_outputs)."""
        return expected_log_likelihood(squares, self.shape[..., None, :], self.rate[..., None, :]).sum(-1)

    def divergence(self) -> Tensor:
        """Return the KL divergence from the prior in nats, shape (...)."""
        return gamma_divergence(self.shape, self.rate).sum(-1)
