"""Pruned networks: selection and extraction of the kept weights of a posterior, and their fine-tuning."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn

from distill.compressors.pruning import slice_network, without_dead_ends
from distill.compressors.spike_slab.posterior import SpikeSlabPerceptron
from distill.compressors.spike_slab.training import MIN_STEPS, Report, TrainingSettings
from distill.network import Network
from distill.runtime.forward import activated
from distill.training.loop import History, train
from distill.training.losses import Likelihood
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.samples import DenseRows
from distill.training.targets import Targets, validation_fidelity
from distill.training.units import Standardization, Task

# Decay of the moving average of the weights: an average over about the last 1000 steps, as in the training of a student
_AVERAGING = 0.999
# Learning rate of the fine-tuning, as a fraction of that of the training. Chosen by hand
_FINE_TUNING_RATE = 0.5


@dataclass(frozen=True, eq=False)
class PrunedNetwork:
    """The kept weights of a network, with their posterior.

    Parameters
    ----------
    standardization : Standardization
        For the used inputs.
    network : Network
        Means of the weights in units of the training, without unused inputs and hidden units.
    masks : tuple of ndarray of shape (n_inputs, n_outputs), bool
        Kept weights.
    stds : tuple of ndarray of shape (n_inputs, n_outputs), float32
        Posterior standard deviations of the weights.
    units : tuple of ndarray of int
        The used inputs, and the kept outputs of each layer, by their positions in the unpruned network.
    """

    standardization: Standardization
    network: Network
    masks: tuple[np.ndarray, ...]
    stds: tuple[np.ndarray, ...]
    units: tuple[np.ndarray, ...]

    def signal_to_noise(self) -> list[np.ndarray]:
        """Return the magnitude of every weight divided by its standard deviation; minus infinity for removed ones."""
        parts = zip(self.network.weights, self.stds, self.masks)
        return [np.where(mask, np.abs(weight) / std, -np.inf) for weight, std, mask in parts]

    def draw(self, inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the outputs of one network drawn from the posterior of the kept weights.

        Parameters
        ----------
        inputs : ndarray of shape (n_samples, n_used)
            Transformed by `standardization`.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float32
            In units of the unpruned network.
        """
        n_layers = len(self.masks)
        for index in range(n_layers):
            noise = rng.standard_normal(self.masks[index].shape, dtype=np.float32)
            weight = np.where(self.masks[index], self.network.weights[index] + self.stds[index] * noise, 0)
            inputs = inputs @ weight + self.network.biases[index]
            inputs = activated(inputs, self.network.activation) if index < n_layers - 1 else inputs
        return inputs * self.standardization.unit + self.standardization.mean

    def updated(self, posterior: SpikeSlabPerceptron) -> "PrunedNetwork":
        """Return the same weights with the means, standard deviations and biases of a posterior of this network."""
        means, stds, biases = posterior.arrays()
        weights = tuple(np.where(mask, mean, 0) for mask, mean in zip(self.masks, means))
        return replace(self, network=replace(self.network, weights=weights, biases=biases), stds=stds)


def select_weights(posterior: SpikeSlabPerceptron, threshold: float) -> list[np.ndarray]:
    """Return masks of the weights whose gates all have an inclusion probability above a threshold."""
    least = special.logit(threshold)
    return [logit > least for logit in posterior.logits()]


def check_connected(masks: Sequence[np.ndarray], remedy: str) -> None:
    """Raise ValueError, with the remedy, if no kept weights connect an input with an output."""
    if not without_dead_ends(masks)[0].any():
        empty = next((index for index, mask in enumerate(masks) if not mask.any()), 0)
        raise ValueError(
            f"everything was pruned away: no weight of layer {empty} connects inputs with outputs; {remedy}"
        )


def posterior_means(task: Task, posterior: SpikeSlabPerceptron) -> Network:
    """Return the network of the posterior means, in units of the training."""
    weights, _, biases = posterior.arrays()
    return replace(task.network, weights=weights, biases=biases)


def extract(task: Task, network: Network, stds: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> PrunedNetwork:
    """Extract the weights of masks, and the units with such weights.

    Parameters
    ----------
    task : Task
    network : Network
        Unpruned, in units of the training.
    stds : sequence of ndarray of shape (n_inputs, n_outputs)
        Posterior standard deviations of its weights.
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool

    Returns
    -------
    PrunedNetwork
    """
    sliced = slice_network(network, masks)
    used = np.flatnonzero(sliced.masks[0].any(axis=1))
    # A network has one input at least, if only with weights of zero
    used = used if len(used) else np.array([0])
    positions = (used, *sliced.units)
    smaller = replace(sliced.network, weights=(sliced.network.weights[0][used], *sliced.network.weights[1:]))
    return PrunedNetwork(
        standardization=task.standardization.select(used),
        network=smaller,
        masks=(sliced.masks[0][used], *sliced.masks[1:]),
        stds=tuple(std[np.ix_(*block)] for std, block in zip(stds, itertools.pairwise(positions))),
        units=(task.standardization.features[used], *sliced.units),
    )


def fine_tune(
    pruned: PrunedNetwork,
    task: Task,
    likelihood: Likelihood,
    kl_weight: float,
    settings: TrainingSettings,
    report: Report | None = None,
) -> tuple[PrunedNetwork, int]:
    """Train the posterior of the kept weights with fixed gates; keep the epoch with the best validation fidelity.

    Parameters
    ----------
    pruned : PrunedNetwork
    task : Task
    likelihood : Likelihood
        Trained as well, in place.
    kl_weight : float
    settings : TrainingSettings
    report : callable(posterior, message) -> bool, or None
        Called after every epoch with the posterior of the kept weights; return True to stop the training.

    Returns
    -------
    pruned : PrunedNetwork
    n_iter : int
        Number of epochs.
    """
    if not settings.fine_tune_iter:
        return pruned, 0
    used = torch.from_numpy(np.searchsorted(task.standardization.features, pruned.units[0]))
    rows, validation = (DenseRows(part.tensors[0][:, used], part.tensors[1]) for part in (task.train, task.validation))
    activate = TORCH_ACTIVATIONS[task.network.activation]
    posterior = SpikeSlabPerceptron(
        pruned.network, (), prior_std=settings.prior_std, stds=pruned.stds, activate=activate
    )
    gates = [torch.from_numpy(mask.astype(np.float32)) for mask in pruned.masks]
    generator = torch.Generator().manual_seed(settings.seed + 1)

    def loss(module: nn.ModuleList, inputs: Tensor, targets: Tensor) -> Tensor:
        fit = likelihood(posterior(inputs, generator, gates), targets, settings.temperature)
        return fit + posterior.divergence(gates) * (kl_weight / len(rows))

    def validate(module: nn.ModuleList) -> tuple[float, float]:
        return likelihood.validate(posterior.mean_outputs(validation.tensors[0], gates), validation.tensors[1])

    def after_epoch(module: nn.ModuleList, history: History) -> bool:
        score = cast(list, history.validation_scores)[-1]  # a list, because there is a validation set
        message = f"fine-tuning: loss {history.loss_curve[-1]:.4f}, fidelity {score:.4f}"
        return report is not None and report(posterior, message)

    history = train(
        nn.ModuleList([posterior, likelihood]),
        loss,
        rows,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate * _FINE_TUNING_RATE,
        max_iter=settings.fine_tune_iter,
        min_steps=MIN_STEPS,
        validate=validate,
        n_iter_no_change=settings.fine_tune_iter,
        averaging=_AVERAGING,
        seed=settings.seed + 1,
        callback=after_epoch,
    )
    return pruned.updated(posterior), history.n_iter


def kept_weights(pruned: PrunedNetwork, network: Network) -> list[np.ndarray]:
    """Return masks of the kept weights in the unpruned `network`, shape (n_inputs, n_outputs) for each layer."""
    kept = [np.zeros(weight.shape, bool) for weight in network.weights]
    for mask, block, target in zip(pruned.masks, itertools.pairwise(pruned.units), kept):
        target[np.ix_(*block)] = mask
    return kept


def measure(pruned: Network, network: Network, targets: Targets) -> dict:
    """Return size and validation fidelity of a pruned network; see `SpikeSlabCompressor.report_`.

    Parameters
    ----------
    pruned, network : Network
        After and before pruning, in units of the samples.
    targets : Targets
    """
    n_weights = sum(int(np.count_nonzero(weight)) for weight in pruned.weights)
    return {
        "n_weights": n_weights,
        "density": n_weights / sum(weight.size for weight in network.weights),
        "layer_sizes_before": network.layer_sizes,
        "n_features": int(pruned.weights[0].any(axis=1).sum()),
        "agreement": validation_fidelity(pruned, targets),
    }
