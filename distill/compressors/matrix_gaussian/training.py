"""Learn matrix Gaussian posteriors of a network's weights: maximise the targets lower bound.

Everything takes leading axes, so that many networks of one shape learn from many sets of rows side by side, each as it
would alone; `kl_weight` may differ between them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
from distill.training.loop import History, train

PRIORS = ("normal", "row", "layer")
EXPECTATIONS = ("moments", "draws")

_LEAST_STEPS, _AVERAGING, _NOISE_STEP = 32, 0.999, 0.05
_BLOCK = 1024
# Held-out rows count as if there were so many more of them on which the noise is as it was
_DOUBT = 5.0
_DEGREES = (3.0, 5.0, 10.0, 30.0, 1000.0)
# Gamma prior of the precision of a row's weights, or a layer's
_SHAPE, _RATE = 0.5, 0.5


@dataclass(frozen=True)
class VariationalSettings:
    """What a posterior depends on besides the network and the rows.

    Parameters
    ----------
    kl_weight : float or Tensor
        What the divergence counts compared with the likelihood; a tensor has the leading axes.
    prior : {"normal", "row", "layer"}
        N(0, 1) for every weight, in units in which a layer divides its inputs by the square root of their number; or
        a precision that is not known, one for every row or one for every layer.
    deviation : float
        Of the weights at the start.
    n_factors, n_pseudo, bound
        See `distill.compressors.matrix_gaussian.posterior.MatrixGaussianLayer`.
    expectation : {"moments", "draws"}
        How the expected likelihood of numbers is computed: in closed form, or with one draw for each row. That of
        labels always takes draws.
    max_iter : int
        Passes over the rows.
    warm_up : float in [0, 1]
        Share of them during which the divergence comes to count.
    batch_size : int
    learning_rate : float
    seed : int
    """

    kl_weight: float | Tensor = 1.0
    prior: str = "normal"
    deviation: float = 0.05
    n_factors: int = 0
    n_pseudo: int = 0
    bound: str = "valid"
    expectation: str = "moments"
    max_iter: int = 100
    warm_up: float = 0.1
    batch_size: int = 256
    learning_rate: float = 5e-3
    seed: int = 0


class Rows:
    """Rows of leading axes, taken by their position in each: tensors of shape (..., n_samples, n_columns).

    Parameters
    ----------
    inputs, targets : Tensor
        Targets may also be positions of labels, of shape (..., n_samples).
    """

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets
        self.axis = inputs.ndim - 2

    def __len__(self) -> int:
        return self.inputs.shape[self.axis]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of these rows."""
        return self.inputs.index_select(self.axis, index), self.targets.index_select(self.axis, index)


class Posterior(nn.Module):
    """A network with uncertain weights and, for numbers, noise of unknown size.

    Parameters
    ----------
    network : MatrixGaussianNetwork
        Or anything with its methods.
    activation : str
    noise : GaussianNoise or None
        None for labels.
    """

    def __init__(self, network: MatrixGaussianNetwork, activation: str, noise: GaussianNoise | None):
        super().__init__()
        self.network, self.activation, self.noise = network, activation, noise

    def moments(self, rows: Tensor, used: Sequence | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the last layer's sums; see `output_moments`."""
        return output_moments(self.network.posteriors()[0] if used is None else used, rows, self.activation)

    def divergence(self, counted: Sequence, prior: str) -> Tensor:
        """Return the divergence of all layers from the prior, shape (...), in nats."""
        return sum(layer_divergence(q, prior) for q in counted)


def layer_divergence(q: MatrixGaussian, prior: str) -> Tensor:
    """Return the divergence of a layer's posterior from one of the `PRIORS`, shape (...), in nats."""
    if prior == "normal":
        return kl_divergence(q)
    return hierarchical_divergence(q, _SHAPE, _RATE, prior)


def initial_means(network: Network) -> list[Tensor]:
    """Return a network's weights with the biases as last rows, in units in which layers divide their inputs.

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
    means: Sequence[Tensor], activation: str, settings: VariationalSettings, n_samples: int, numbers: bool
) -> Posterior:
    """Return the posterior that training starts from: narrow, around a network.

    Parameters
    ----------
    means : sequence of Tensor of shape (..., n_inputs + 1, n_outputs)
        See `initial_means`.
    activation : str
    settings : VariationalSettings
    n_samples : int
        Rows that will be learned from.
    numbers : bool
        Whether numbers are learned, or labels.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    network = MatrixGaussianNetwork(
        means,
        activation,
        deviation=settings.deviation,
        n_factors=settings.n_factors,
        n_pseudo=settings.n_pseudo,
        bound=settings.bound,
        generator=generator,
    )
    batch, n_outputs = means[-1].shape[:-2], means[-1].shape[-1]
    return Posterior(network, activation, GaussianNoise(n_samples, (*batch, n_outputs)) if numbers else None)


def learn(
    posterior: Posterior,
    rows: Rows,
    settings: VariationalSettings,
    report: Callable[[Posterior, str], bool] | None = None,
) -> History:
    """Train a posterior in place.

    Parameters
    ----------
    posterior : Posterior
    rows : Rows
        Targets of numbers are in units of their deviation; those of labels are positions or probabilities.
    settings : VariationalSettings
    report : callable(posterior, message) -> bool, or None
        Called after every pass; true stops the training.

    Returns
    -------
    History
        Losses are negative bounds in nats per row, summed over leading axes.

    Raises
    ------
    FloatingPointError
        If the bound is no longer finite.
    """
    generator = torch.Generator().manual_seed(settings.seed + 1)
    n_batches = math.ceil(len(rows) / settings.batch_size)
    steps_per_pass = n_batches * math.ceil(_LEAST_STEPS / n_batches)
    n_warm_up = settings.warm_up * settings.max_iter * steps_per_pass
    n_steps = 0

    def loss(module: Posterior, inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal n_steps
        used, counted = module.network.posteriors()
        if module.noise is None:
            outputs = module.network.outputs(used, inputs, "local", generator)
            fit = cross_entropy(outputs, targets)
        else:
            squares = squared_errors(module, used, inputs, targets, settings.expectation, generator)
            # The noise is known given the errors: it needs no gradient
            module.noise.update(squares.detach().mean(-2), max(_NOISE_STEP, 1 / (n_steps + 1)))
            fit = -module.noise.log_likelihood(squares).mean(-1)
        n_steps += 1
        share = min(1.0, n_steps / max(1.0, n_warm_up))
        divergence = module.divergence(counted, settings.prior)
        return (fit + divergence * (settings.kl_weight * share / len(rows))).sum()

    def after_pass(module: Posterior, history: History) -> bool:
        return report is not None and report(module, f"bound {-history.loss_curve[-1]:.4f} nats a row")

    history = train(
        posterior,
        loss,
        rows,
        batch_size=settings.batch_size,
        min_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=_LEAST_STEPS,
        averaging=_AVERAGING,
        seed=settings.seed,
        callback=after_pass,
    )
    settle_noise(posterior, rows)
    return history


def squared_errors(
    posterior: Posterior,
    used: Sequence[MatrixGaussian],
    inputs: Tensor,
    targets: Tensor,
    expectation: str,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return expected squared errors, shape (..., n, n_outputs), in closed form or of one draw for each row."""
    if expectation == "moments":
        mean, variance = posterior.moments(inputs, used)
        return (targets - mean).square() + variance
    return (targets - posterior.network.outputs(used, inputs, "local", generator)).square()


@torch.no_grad()
def mean_squares(posterior: Posterior, rows: Rows) -> tuple[Tensor, Tensor]:
    """Return mean squared errors of the mean function, and its mean variances, over rows; shape (..., n_outputs)."""
    error = variance = 0.0
    for index in torch.arange(len(rows)).split(_BLOCK):
        inputs, targets = rows.take(index)
        mean, spread = posterior.moments(inputs)
        error = error + (targets - mean).square().sum(-2)
        variance = variance + spread.sum(-2)
    return error / len(rows), variance / len(rows)


def settle_noise(posterior: Posterior, rows: Rows, held_out: Rows | None = None) -> None:
    """Give the noise the posterior that errors call for.

    Parameters
    ----------
    posterior : Posterior
    rows : Rows
        Those that were learned from.
    held_out : Rows or None
        Rows that were not. Where their errors are larger than noise and what is uncertain about the function explain,
        noise is larger by that; the fewer they are, the less they count.
    """
    if posterior.noise is None:
        return
    error, variance = mean_squares(posterior, rows)
    posterior.noise.update(error + variance, 1.0)
    if held_out is not None:
        scale = noise_excess(posterior, held_out)
        posterior.noise.rate.mul_(1 + (scale - 1) * len(held_out) / (len(held_out) + _DOUBT))


def noise_excess(posterior: Posterior, held_out: Rows) -> Tensor:
    """Return by what held-out errors say the noise's variance is too small, at least 1, shape (..., n_outputs)."""
    error, variance = mean_squares(posterior, held_out)
    noise = posterior.noise.rate / posterior.noise.shape
    return ((error - variance) / noise).clamp_min(1.0)


@torch.no_grad()
def fit_tails(posterior: Posterior, held_out: Rows, n_draws: int = 50, seed: int = 0) -> None:
    """Make the noise Student's t, with scale and degrees of freedom under which held-out rows are most likely.

    The precision is then taken to differ from row to row; shape and rate of the noise say how.

    Parameters
    ----------
    posterior : Posterior
        With noise, whose present size is where the search begins.
    held_out : Rows
    n_draws : int
        Draws of the function for every row.
    seed : int
    """
    difference = held_out.targets - function_draws(posterior, held_out.inputs, n_draws, seed)
    size = posterior.noise.rate / posterior.noise.shape
    best = torch.full_like(size, -math.inf)
    shape, rate = torch.zeros_like(size), torch.zeros_like(size)
    for degrees in _DEGREES:
        for scale in np.geomspace(0.4, 40, 28):
            tried = torch.full_like(size, degrees / 2), degrees / 2 * size * scale
            density = predictive_log_density(difference, *(part[..., None, :] for part in tried))
            value = (torch.logsumexp(density, 0) - math.log(n_draws)).mean(-2)
            better = value > best
            best = torch.where(better, value, best)
            shape, rate = torch.where(better, tried[0], shape), torch.where(better, tried[1], rate)
    posterior.noise.shape, posterior.noise.rate = shape, rate


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over rows, shape (...); see `losses.cross_entropy`."""
    if outputs.ndim == 2:
        return losses.cross_entropy(outputs, targets)
    return torch.stack([losses.cross_entropy(*pair) for pair in zip(outputs, targets)])


@torch.no_grad()
def function_draws(posterior: Posterior, inputs: Tensor, n_draws: int, seed: int) -> Tensor:
    """Return draws of the last layer's sums, every row for itself, shape (n_draws, ..., n, n_outputs)."""
    generator = torch.Generator().manual_seed(seed)
    used, _ = posterior.network.posteriors()
    return torch.stack([posterior.network.outputs(used, inputs, "local", generator) for _ in range(n_draws)])
