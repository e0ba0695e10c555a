"""Learn which weights a network needs: train a spike-and-slab posterior that starts at the network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distill.compressors.spike_slab.posterior import SpikeSlabPerceptron
from distill.network import Network
from distill.training.loop import History, batches_of_epoch, train
from distill.training.losses import Likelihood
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.units import Task

LEAST_STEPS = 32
_STEERED_EVERY = 24
_STEERED_FROM, _STEERED_LOWEST, _STEERED_HIGHEST = 1e-2, 1e-4, 10.0
_PULL, _BRAKE = 0.05, 2.0
_LOWEST_PRIOR, _LEAST_PROBABILITY = 1e-9, 1e-30

Report = Callable[[SpikeSlabPerceptron, str], bool]


@dataclass(frozen=True)
class SelectionSettings:
    """What a selection depends on besides the network and the rows; see `distill.SpikeSlabCompressor`."""

    granularity: tuple[str, ...] = ("weight",)
    prior_inclusion: float | str = 1e-3
    prior_deviation: float = 1.0
    kl_weight: float = 1.0
    density: float | None = None
    max_iter: int = 40
    warm_up: float = 0.3
    fine_tune_iter: int = 15
    temperature: float = 1.0
    batch_size: int = 256
    learning_rate: float = 2e-3
    seed: int = 0


class KLWeight:
    """What the divergence is multiplied by, step after step.

    It rises from zero to `final` along a line while training warms up. With a density it is steered instead: it rises
    as long as more weights are there than shall be, and is held back where they become fewer too fast. Gates that have
    closed hardly open again, so that going too far cannot be made good later.

    Parameters
    ----------
    final : float
    n_warm_up : int
        Steps.
    density : float or None

    Examples
    --------
    >>> weight = KLWeight(1.0, 4)
    >>> [weight.next(lambda: 1.0) for _ in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, final: float, n_warm_up: int, density: float | None = None):
        self.final, self.n_warm_up, self.density = final, n_warm_up, density
        self.n_steps, self.value, self.excess = 0, _STEERED_FROM, None

    def next(self, density: Callable[[], float]) -> float:
        """Return the weight for the next step; `density` tells the share of weights that are there."""
        self.n_steps += 1
        if self.density is None:
            self.value = self.final * min(1.0, (self.n_steps - 1) / max(1, self.n_warm_up))
        elif self.n_steps % _STEERED_EVERY == 0:
            excess = math.log(max(density(), 1e-9) / self.density)
            change = 0.0 if self.excess is None else excess - self.excess
            self.value *= math.exp(max(-1.0, min(1.0, _PULL * excess + _BRAKE * change)))
            self.value = min(max(self.value, _STEERED_LOWEST), _STEERED_HIGHEST)
            self.excess = excess
        return self.value


def density_of(posterior: SpikeSlabPerceptron) -> float:
    """Return the share of weights that are more likely there than not."""
    logits = posterior.logits()
    return sum(int(np.count_nonzero(logit > 0)) for logit in logits) / sum(logit.size for logit in logits)


def learn_posterior(
    task: Task, settings: SelectionSettings, report: Report | None = None
) -> tuple[SpikeSlabPerceptron, Likelihood, float]:
    """Train a spike-and-slab posterior that starts at a network.

    Parameters
    ----------
    task : Task
    settings : SelectionSettings
    report : callable(posterior, message) -> bool, or None
        Called after every pass; true stops the training.

    Returns
    -------
    posterior : SpikeSlabPerceptron
    likelihood : Likelihood
    kl_weight : float
        What the divergence was multiplied by in the end.
    """
    prior = settings.prior_inclusion
    posterior = SpikeSlabPerceptron(
        task.network,
        settings.granularity,
        1 / (_n_gates(task.network, settings.granularity) + 1) if isinstance(prior, str) else prior,
        settings.prior_deviation,
        activate=TORCH_ACTIVATIONS[task.network.activation],
    )
    likelihood = Likelihood(task.kind, task.network.layer_sizes[-1])
    generator = torch.Generator().manual_seed(settings.seed)
    n_steps = math.prod(batches_of_epoch(len(task.train), settings.batch_size, min_steps=LEAST_STEPS))
    weight = KLWeight(settings.kl_weight, round(settings.warm_up * settings.max_iter * n_steps), settings.density)

    def loss(module: nn.ModuleList, inputs: Tensor, targets: Tensor) -> Tensor:
        kl_weight = weight.next(lambda: density_of(posterior))
        fit = likelihood(posterior(inputs, generator), targets)
        return fit + posterior.divergence() * (kl_weight / len(task.train))

    def after_pass(module: nn.ModuleList, history: History) -> bool:
        if prior == "elbo":
            posterior.prior_inclusion = min(max(posterior.mean_inclusion(), _LOWEST_PRIOR), 0.5)
        message = f"loss {history.loss_curve[-1]:.4f}, density {density_of(posterior):.4f}"
        return report is not None and report(posterior, message)

    train(
        nn.ModuleList([posterior, likelihood]),
        loss,
        task.train,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=LEAST_STEPS,
        seed=settings.seed,
        callback=after_pass,
    )
    return posterior, likelihood, weight.value


def _n_gates(network: Network, granularity: Sequence[str]) -> int:
    sizes = network.layer_sizes
    n_gates = sum(weight.size for weight in network.weights) if "weight" in granularity else 0
    n_gates += sizes[0] if "input" in granularity else 0
    return n_gates + (sum(sizes[1:-1]) if "node" in granularity else 0)
