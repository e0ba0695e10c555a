"""Noise of unknown size: a Gamma posterior of the precision of Gaussian noise.

The precision t of y = f + noise, y standardised, has the prior Gamma(1, 0.01) and the posterior Gamma(shape, rate), one
for every output. A prior of Gamma(6, 6), as the authors of matrix Gaussian posteriors have it for raw targets, says of
standardised ones that noise below a fifth of their deviation is unlikely, whatever hundreds of rows show.
Given the function, the posterior is known in closed form; given batches of rows it is approached by steps (Hoffman,
Blei, Wang and Paisley, "Stochastic variational inference", JMLR 2013), without a gradient.
"""

import math

import torch
from torch import Tensor, nn

PRIOR_SHAPE, PRIOR_RATE = 1.0, 0.01


def expected_log_likelihood(squares: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    """Return E log N(y; f, 1/t) over a Gamma posterior of t.

    Parameters
    ----------
    squares : Tensor
        ``(y - f)^2``.
    shape, rate : Tensor
        Of the posterior; broadcast against `squares`.

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
    """Return log p(y | f), the precision integrated out: Student's t with 2 shape degrees of freedom.

    Parameters
    ----------
    difference : Tensor
        ``y - f``.
    shape, rate : Tensor
        Broadcast against `difference`.
    """
    normalizer = torch.lgamma(shape + 0.5) - torch.lgamma(shape) - 0.5 * (rate.log() + math.log(2 * math.pi))
    return normalizer - (shape + 0.5) * torch.log1p(difference.square() / (2 * rate))


class GaussianNoise(nn.Module):
    """The Gamma posterior of the precision of noise, followed through batches.

    Parameters
    ----------
    n_samples : int
        Rows in all the data.
    size : tuple of int
        One posterior for each index: outputs last, before them whatever is learned side by side.

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
        """Go a part of the way, 1 for all of it, to the posterior that these squared errors per row would give."""
        self.rate.lerp_(PRIOR_RATE + 0.5 * self.n_samples * mean_squares, step)

    def log_likelihood(self, squares: Tensor) -> Tensor:
        """Return the expected log likelihood of rows, shape (..., n), of squared errors (..., n, n_outputs)."""
        return expected_log_likelihood(squares, self.shape[..., None, :], self.rate[..., None, :]).sum(-1)

    def divergence(self) -> Tensor:
        """Return the divergence from the prior, shape (...)."""
        return gamma_divergence(self.shape, self.rate).sum(-1)
