"""Training of a spike-and-slab posterior that starts at a network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Generator, Tensor, nn

from distill.compressors.spike_slab.posterior import SpikeSlabPerceptron
from distill.network import Network
from distill.training.loop import History, batches_of_epoch, train
from distill.training.losses import Likelihood
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.units import Task

# Steps of an epoch, at least: small data are cut into smaller batches and an epoch goes over them several times
MIN_STEPS = 32
# Control of `kl_weight` by density. The density is measured every _CONTROL_INTERVAL steps, because it is a count over
# all logits, and `kl_weight` is multiplied by exp(_PULL * excess + _BRAKE * change), with the exponent cut to [-1, 1]:
# `excess` is the logarithm of measured over demanded density, `change` its change since the last measurement. A larger
# _PULL reaches the density earlier and overshoots more; _BRAKE damps that, because closed gates hardly open again.
# Chosen by hand; the densities in docs/results/spike_slab.md were reached with these values
_CONTROL_INTERVAL = 24
_PULL, _BRAKE = 0.05, 2.0
_INITIAL_KL_WEIGHT, _MIN_KL_WEIGHT, _MAX_KL_WEIGHT = 1e-2, 1e-4, 10.0
# Keeps the logarithm finite where no weight is included
_MIN_DENSITY = 1e-9
# Range of a prior probability that is estimated: finite log-odds below, and no prior in favor of inclusion above
_MIN_PRIOR, _MAX_PRIOR = 1e-9, 0.5

Report = Callable[[SpikeSlabPerceptron, str], bool]


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training of a posterior and of the fine-tuning; see `distill.SpikeSlabCompressor`."""

    granularity: tuple[str, ...] = ("weight",)
    prior_inclusion: float | str = 1e-3
    prior_std: float = 1.0
    kl_weight: float = 1.0
    density: float | None = None
    max_iter: int = 40
    warm_up: float = 0.3
    fine_tune_iter: int = 15
    temperature: float = 1.0
    batch_size: int = 256
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TrainedPosterior:
    """Result of the training of a posterior.

    Parameters
    ----------
    posterior : SpikeSlabPerceptron
    likelihood : Likelihood
    kl_weight : float
        Weight of the KL divergence in the last step.
    n_iter : int
        Number of epochs.
    """

    posterior: SpikeSlabPerceptron
    likelihood: Likelihood
    kl_weight: float
    n_iter: int


class KLWeight:
    """Schedule of the weight of the KL divergence, step after step.

    It rises linearly from zero to `final` during warm-up. With a density it is controlled instead: it rises while more
    weights are included than demanded, and falls where their number decreases too fast. Gates that have closed hardly
    open again, so that overshooting is not corrected later.

    Parameters
    ----------
    final : float
    n_warm_up : int
        Number of steps.
    density : float in (0, 1], or None
        Demanded fraction of included weights.

    Examples
    --------
    >>> weight = KLWeight(1.0, 4)
    >>> [weight.next(lambda: 1.0) for _ in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, final: float, n_warm_up: int, density: float | None = None):
        self.final, self.n_warm_up, self.density = final, n_warm_up, density
        self.n_steps, self.value = 0, _INITIAL_KL_WEIGHT
        self.excess: float | None = None

    def next(self, density: Callable[[], float]) -> float:
        """Return the weight of the next step; `density` returns the present fraction of included weights."""
        self.n_steps += 1
        if self.density is None:
            self.value = self.final * min(1.0, (self.n_steps - 1) / max(1, self.n_warm_up))
        elif self.n_steps % _CONTROL_INTERVAL == 0:
            excess = math.log(max(density(), _MIN_DENSITY) / self.density)
            change = 0.0 if self.excess is None else excess - self.excess
            self.value *= math.exp(max(-1.0, min(1.0, _PULL * excess + _BRAKE * change)))
            self.value = min(max(self.value, _MIN_KL_WEIGHT), _MAX_KL_WEIGHT)
            self.excess = excess
        return self.value


def included_fraction(posterior: SpikeSlabPerceptron) -> float:
    """Return the fraction of weights whose gates all have an inclusion probability above one half."""
    logits = posterior.logits()
    return sum(int(np.count_nonzero(logit > 0)) for logit in logits) / sum(logit.size for logit in logits)


def train_posterior(task: Task, settings: TrainingSettings, report: Report | None = None) -> TrainedPosterior:
    """Train a spike-and-slab posterior that starts at a network.

    The loss is the negative log-likelihood of a sample plus ``kl_weight / n_samples`` times the KL divergence.

    Parameters
    ----------
    task : Task
        Network and samples, in units of the training.
    settings : TrainingSettings
    report : callable(posterior, message) -> bool, or None
        Called after every epoch; return True to stop the training.

    Returns
    -------
    TrainedPosterior
    """
    prior = settings.prior_inclusion
    posterior = SpikeSlabPerceptron(
        task.network,
        settings.granularity,
        1 / (count_gates(task.network, settings.granularity) + 1) if isinstance(prior, str) else prior,
        settings.prior_std,
        activate=TORCH_ACTIVATIONS[task.network.activation],
    )
    likelihood = Likelihood(task.kind, task.network.layer_sizes[-1])
    generator = Generator().manual_seed(settings.seed)
    n_steps = math.prod(batches_of_epoch(len(task.train), settings.batch_size, min_steps=MIN_STEPS))
    weight = KLWeight(settings.kl_weight, round(settings.warm_up * settings.max_iter * n_steps), settings.density)

    def loss(module: nn.ModuleList, inputs: Tensor, targets: Tensor) -> Tensor:
        kl_weight = weight.next(lambda: included_fraction(posterior))
        fit = likelihood(posterior(inputs, generator), targets)
        return fit + posterior.divergence() * (kl_weight / len(task.train))

    def after_epoch(module: nn.ModuleList, history: History) -> bool:
        if prior == "elbo":
            posterior.prior_inclusion = min(max(posterior.mean_inclusion(), _MIN_PRIOR), _MAX_PRIOR)
        message = f"loss {history.loss_curve[-1]:.4f}, density {included_fraction(posterior):.4f}"
        return report is not None and report(posterior, message)

    history = train(
        nn.ModuleList([posterior, likelihood]),
        loss,
        task.train,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=MIN_STEPS,
        seed=settings.seed,
        callback=after_epoch,
    )
    return TrainedPosterior(posterior, likelihood, weight.value, history.n_iter)


def count_gates(network: Network, granularity: Sequence[str]) -> int:
    """Return the number of gates of a network with gates of a granularity."""
    sizes = network.layer_sizes
    n_gates = sum(weight.size for weight in network.weights) if "weight" in granularity else 0
    n_gates += sizes[0] if "input" in granularity else 0
    return n_gates + (sum(sizes[1:-1]) if "node" in granularity else 0)
