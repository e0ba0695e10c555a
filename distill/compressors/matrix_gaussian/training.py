"""Train matrix Gaussian posteriors of a network's weights: maximize the evidence lower bound.

All functions take leading axes, for many networks of one shape that are trained on different samples at once, each with
the result that it would have alone; `kl_weight` may differ between them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from distill.compressors.matrix_gaussian.moments import output_moments
from distill.compressors.matrix_gaussian.noise import GaussianNoise, predictive_log_density
from distill.compressors.matrix_gaussian.posterior import (
    MatrixGaussian,
    MatrixGaussianNetwork,
    hierarchical_divergence,
    kl_divergence,
)
from distill.network import Network
from distill.training import losses
from distill.training.loop import History, batches_of_epoch, train
from distill.training.samples import StackedRows

PRIORS = ("normal", "row", "layer")
EXPECTATIONS = ("moments", "draws")

# Least number of steps of an epoch: small data are repeated within it
_MIN_STEPS = 32
# Decay of the running average of the parameters, as in the program of Louizos and Welling
_AVERAGING = 0.999
# Least step of the noise's posterior toward that of the present batch; the first steps are larger, 1 / n
_NOISE_STEP = 0.05
# Samples per block of the evaluation, which bounds the memory
_BLOCK = 1024
# Weight, in samples, of the noise estimated from the training samples: with more validation samples than this, their
# errors determine most of the noise. Chosen by hand
_PSEUDO_COUNT = 5.0
# Candidates for Student's t noise: degrees of freedom, the last one nearly normal, and factors of the squared scale
_DEGREES_OF_FREEDOM = (3.0, 5.0, 10.0, 30.0, 1000.0)
_SCALES = np.geomspace(0.4, 40, 28)
# Gamma prior of the precision of the weights of a row or layer: weak, worth one weight of variance one
_SHAPE, _RATE = 0.5, 0.5


@dataclass(frozen=True)
class VariationalSettings:
    """Settings of the training of a posterior.

    Parameters
    ----------
    kl_weight : float or Tensor
        Weight of the KL divergence relative to the likelihood; a tensor has the leading axes.
    prior : {"normal", "row", "layer"}
        N(0, 1) for every weight, in units in which a layer divides its inputs by the square root of their number; or
        N(0, 1 / t) with a Gamma prior on the precision t, one for each row or one for each layer.
    initial_std : float
        Standard deviation of the weights at the start.
    n_factors, n_pseudo, bound
        See `distill.compressors.matrix_gaussian.posterior.MatrixGaussianLayer`.
    expectation : {"moments", "draws"}
        Expected likelihood of a regression: in closed form, or with one draw for each sample. Classification always
        uses draws.
    max_iter : int
        Number of epochs.
    warm_up : float in [0, 1]
        Fraction of the epochs during which the weight of the KL divergence rises.
    batch_size : int
    learning_rate : float
    seed : int
    """

    kl_weight: float | Tensor = 1.0
    prior: str = "normal"
    initial_std: float = 0.05
    n_factors: int = 0
    n_pseudo: int = 0
    bound: str = "valid"
    expectation: str = "moments"
    max_iter: int = 100
    warm_up: float = 0.1
    batch_size: int = 256
    learning_rate: float = 5e-3
    seed: int = 0


class Posterior(nn.Module):
    """A network with a posterior over its weights and, for regression, over the precision of the noise.

    Parameters
    ----------
    network : MatrixGaussianNetwork
        A MatrixGaussianNetwork, or another module with its methods.
    activation : str
    noise : GaussianNoise or None
        None for classification.
    """

    def __init__(self, network: MatrixGaussianNetwork, activation: str, noise: GaussianNoise | None):
        super().__init__()
        self.network, self.activation, self.noise = network, activation, noise

    def noise_variance(self) -> Tensor:
        """Return the inverse of the mean precision, shape (..., n_outputs); ValueError for a classification."""
        if self.noise is None:
            raise ValueError("a classification has no noise")
        return self.noise.rate / self.noise.shape

    def moments(self, inputs: Tensor, posteriors: Sequence | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the network's outputs, shape (..., n, n_outputs); see `output_moments`."""
        posteriors = self.network.posteriors()[0] if posteriors is None else posteriors
        return output_moments(posteriors, inputs, self.activation)

    def divergence(self, posteriors: Sequence, prior: str) -> Tensor:
        """Return the KL divergence of all layers from the prior, shape (...), in nats."""
        return sum(layer_divergence(q, prior) for q in posteriors)


def layer_divergence(q: MatrixGaussian, prior: str) -> Tensor:
    """Return the KL divergence of a layer's posterior from one of the `PRIORS`, shape (...), in nats."""
    if prior == "normal":
        return kl_divergence(q)
    return hierarchical_divergence(q, _SHAPE, _RATE, prior)


def initial_means(network: Network) -> list[Tensor]:
    """Return the weights of a network in the units of `MatrixGaussianNetwork`, the biases as last rows.

    Returns
    -------
    list of Tensor of shape (n_inputs + 1, n_outputs)

    Examples
    --------
    >>> network = Network((np.ones((3, 1), np.float32),), (np.zeros(1, np.float32),))
    >>> initial_means(network)[0].ravel()
    tensor([2., 2., 2., 0.])
    """
    layers = zip(network.weights, network.biases)
    return [
        torch.from_numpy(np.vstack([weight, bias]).astype(np.float32)) * math.sqrt(len(weight) + 1)
        for weight, bias in layers
    ]


def make_posterior(
    means: Sequence[Tensor], activation: str, settings: VariationalSettings, n_samples: int, regression: bool
) -> Posterior:
    """Return the posterior at the start of a training: narrow, around a network.

    Parameters
    ----------
    means : sequence of Tensor of shape (..., n_inputs + 1, n_outputs)
        See `initial_means`.
    activation : str
    settings : VariationalSettings
    n_samples : int
        Number of training samples.
    regression : bool
        Whether there is noise; False for classification.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    network = MatrixGaussianNetwork(
        means,
        activation,
        std=settings.initial_std,
        n_factors=settings.n_factors,
        n_pseudo=settings.n_pseudo,
        bound=settings.bound,
        generator=generator,
    )
    batch, n_outputs = means[-1].shape[:-2], means[-1].shape[-1]
    return Posterior(network, activation, GaussianNoise(n_samples, (*batch, n_outputs)) if regression else None)


def learn(
    posterior: Posterior,
    rows: StackedRows,
    settings: VariationalSettings,
    callback: Callable[[Posterior, str], bool] | None = None,
) -> History:
    """Train a posterior in place.

    Parameters
    ----------
    posterior : Posterior
    rows : StackedRows
        Training samples. Targets of a regression are standardized; those of a classification are positions of labels,
        or probabilities.
    settings : VariationalSettings
    callback : callable(posterior, message) -> bool, or None
        Called after every epoch; return True to stop early.

    Returns
    -------
    History
        Losses are negative bounds in nats per sample, summed over leading axes.

    Raises
    ------
    FloatingPointError
        If the bound is no longer finite.
    """
    generator = torch.Generator().manual_seed(settings.seed + 1)
    n_batches, n_rounds = batches_of_epoch(len(rows), settings.batch_size, settings.batch_size, _MIN_STEPS)
    n_warm_up = settings.warm_up * settings.max_iter * (n_batches * n_rounds)
    n_steps = 0

    def loss(module: Posterior, inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal n_steps
        sampled, penalized = module.network.posteriors()
        if module.noise is None:
            outputs = module.network.outputs(sampled, inputs, "local", generator)
            fit = cross_entropy(outputs, targets)
        else:
            squares = squared_errors(module, sampled, inputs, targets, settings.expectation, generator)
            # The optimum of the noise given the errors has a closed form, so that it needs no gradient
            module.noise.update(squares.detach().mean(-2), max(_NOISE_STEP, 1 / (n_steps + 1)))
            fit = -module.noise.log_likelihood(squares).mean(-1)
        n_steps += 1
        ramp = min(1.0, n_steps / max(1.0, n_warm_up))
        divergence = module.divergence(penalized, settings.prior)
        return (fit + divergence * (settings.kl_weight * ramp / len(rows))).sum()

    def after_epoch(module: Posterior, history: History) -> bool:
        return callback is not None and callback(module, f"bound {-history.loss_curve[-1]:.4f} nats per sample")

    history = train(
        posterior,
        loss,
        rows,
        batch_size=settings.batch_size,
        min_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=_MIN_STEPS,
        averaging=_AVERAGING,
        seed=settings.seed,
        callback=after_epoch,
    )
    fit_noise(posterior, rows)
    return history


def squared_errors(
    posterior: Posterior,
    posteriors: Sequence[MatrixGaussian],
    inputs: Tensor,
    targets: Tensor,
    expectation: str,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return expected squared errors, in closed form or from one draw for each sample.

    Parameters
    ----------
    posterior : Posterior
    posteriors : sequence of MatrixGaussian
        Posteriors of the layers.
    inputs : Tensor of shape (..., n, n_features)
    targets : Tensor of shape (..., n, n_outputs)
    expectation : {"moments", "draws"}
    generator : torch.Generator or None
        For "draws".

    Returns
    -------
    Tensor of shape (..., n, n_outputs)
    """
    if expectation == "moments":
        mean, variance = posterior.moments(inputs, posteriors)
        return (targets - mean).square() + variance
    return (targets - posterior.network.outputs(posteriors, inputs, "local", generator)).square()


@torch.no_grad()
def mean_squares(posterior: Posterior, rows: StackedRows) -> tuple[Tensor, Tensor]:
    """Return the mean squared error of the mean function, and the mean of its variance, shape (..., n_outputs) each."""
    error = variance = 0.0
    for index in torch.arange(len(rows)).split(_BLOCK):
        inputs, targets = rows.take(index)
        mean, spread = posterior.moments(inputs)
        error = error + (targets - mean).square().sum(-2)
        variance = variance + spread.sum(-2)
    return error / len(rows), variance / len(rows)


def fit_noise(posterior: Posterior, rows: StackedRows, validation: StackedRows | None = None) -> None:
    """Set the posterior of the noise, in place, to its optimum given the errors; without effect for classification.

    Parameters
    ----------
    posterior : Posterior
    rows : StackedRows
        Training samples.
    validation : StackedRows or None
        Where its errors exceed those that the noise and the variance of the function imply, the noise is multiplied by
        the ratio, or by less with few samples.
    """
    if posterior.noise is None:
        return
    error, variance = mean_squares(posterior, rows)
    posterior.noise.update(error + variance, 1.0)
    if validation is not None:
        scale = noise_excess(posterior, validation)
        posterior.noise.rate.mul_(1 + (scale - 1) * len(validation) / (len(validation) + _PSEUDO_COUNT))


def noise_excess(posterior: Posterior, validation: StackedRows) -> Tensor:
    """Return the factor by which validation errors exceed the noise variance, at least 1, shape (..., n_outputs)."""
    error, variance = mean_squares(posterior, validation)
    return ((error - variance) / posterior.noise_variance()).clamp_min(1.0)


@torch.no_grad()
def fit_degrees_of_freedom(posterior: Posterior, validation: StackedRows, n_draws: int = 50, seed: int = 0) -> None:
    """Make the noise Student's t, in place, with the scale and degrees of freedom of largest validation likelihood.

    Each sample then has a precision; shape and rate of the noise are those of the Gamma distribution of precisions.

    Parameters
    ----------
    posterior : Posterior
        With noise, whose scale is the reference of the candidates.
    validation : StackedRows
    n_draws : int
        Number of draws of the function for each sample.
    seed : int
    """
    variance = posterior.noise_variance()
    difference = validation.targets - function_draws(posterior, validation.inputs, n_draws, seed)
    best = torch.full_like(variance, -math.inf)
    shape, rate = torch.zeros_like(variance), torch.zeros_like(variance)
    for degrees_of_freedom in _DEGREES_OF_FREEDOM:
        for scale in _SCALES:
            half = degrees_of_freedom / 2
            candidate = torch.full_like(variance, half), half * variance * scale
            density = predictive_log_density(difference, *(part[..., None, :] for part in candidate))
            likelihood = (torch.logsumexp(density, 0) - math.log(n_draws)).mean(-2)
            better = likelihood > best
            best = torch.where(better, likelihood, best)
            shape, rate = torch.where(better, candidate[0], shape), torch.where(better, candidate[1], rate)
    noise = cast(GaussianNoise, posterior.noise)
    noise.shape, noise.rate = shape, rate


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over samples, shape (...); see `losses.cross_entropy`."""
    if outputs.ndim == 2:
        return losses.cross_entropy(outputs, targets)
    return torch.stack([losses.cross_entropy(*pair) for pair in zip(outputs, targets)])


@torch.no_grad()
def function_draws(posterior: Posterior, inputs: Tensor, n_draws: int, seed: int) -> Tensor:
    """Return draws of the network's outputs, independent between samples, shape (n_draws, ..., n, n_outputs)."""
    generator = torch.Generator().manual_seed(seed)
    sampled, _ = posterior.network.posteriors()
    return torch.stack([posterior.network.outputs(sampled, inputs, "local", generator) for _ in range(n_draws)])
