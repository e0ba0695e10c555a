"""The weights that are left of a network: taken out of it, asked once more, and trained on."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from distill.compressors.pruning import slice_network
from distill.compressors.spike_slab.posterior import SpikeSlabPerceptron
from distill.compressors.spike_slab.training import LEAST_STEPS, Report, SelectionSettings
from distill.network import Network
from distill.runtime.forward import activated
from distill.training.loop import History, train
from distill.training.losses import Likelihood
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.samples import DenseRows
from distill.training.units import Standardization, Task

_AVERAGING = 0.999


@dataclass(frozen=True, eq=False)
class Remains:
    """The weights that are left, with what is still uncertain about them.

    Parameters
    ----------
    standardization : Standardization
        Of the inputs that are used.
    network : Network
        In units of the training, without unused inputs and hidden units.
    masks : tuple of ndarray of shape (n_inputs, n_outputs), bool
        The weights that are there.
    deviations : tuple of ndarray of shape (n_inputs, n_outputs), float32
        Posterior deviations of the weights.
    units : tuple of ndarray of int
        Which inputs of the unpruned network, and which outputs of each of its layers, are left.
    """

    standardization: Standardization
    network: Network
    masks: tuple[np.ndarray, ...]
    deviations: tuple[np.ndarray, ...]
    units: tuple[np.ndarray, ...]

    @property
    def signals(self) -> list[np.ndarray]:
        """Size of every weight in units of its deviation; minus infinity where there is none."""
        parts = zip(self.network.weights, self.deviations, self.masks)
        return [np.where(mask, np.abs(weight) / deviation, -np.inf) for weight, deviation, mask in parts]

    def draw(self, inputs: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the outputs that one draw of the weights gives for rows.

        Parameters
        ----------
        inputs : ndarray of shape (n_samples, n_used)
            As `standardization.transform` returns them.
        random : Generator

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float32
            In the units of the unpruned network.
        """
        layers = len(self.masks)
        for index in range(layers):
            noise = random.standard_normal(self.masks[index].shape, dtype=np.float32)
            weight = np.where(self.masks[index], self.network.weights[index] + self.deviations[index] * noise, 0)
            inputs = inputs @ weight + self.network.biases[index]
            inputs = activated(inputs, self.network.activation) if index < layers - 1 else inputs
        return inputs * self.standardization.unit + self.standardization.mean


def leave(task: Task, network: Network, deviations: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Remains:
    """Keep the weights of masks, and only the units that they need.

    Parameters
    ----------
    task : Task
    network : Network
        In units of the training, all units there.
    deviations : sequence of ndarray of shape (n_inputs, n_outputs)
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
    """
    sliced = slice_network(network, masks)
    used = np.flatnonzero(sliced.masks[0].any(axis=1))
    used = used if len(used) else np.array([0])
    places = (used, *sliced.units)
    left = replace(sliced.network, weights=(sliced.network.weights[0][used], *sliced.network.weights[1:]))
    blocks = [deviation[np.ix_(*block)] for deviation, block in zip(deviations, itertools.pairwise(places))]
    units = (task.standardization.features[used], *sliced.units)
    return Remains(
        task.standardization.select(used), left, (sliced.masks[0][used], *sliced.masks[1:]), tuple(blocks), units
    )


def fine_tune(
    remains: Remains,
    task: Task,
    likelihood: Likelihood,
    kl_weight: float,
    settings: SelectionSettings,
    report: Report | None = None,
) -> Remains:
    """Train the weights that are left; the pass is kept whose means do best on held-out rows.

    Parameters
    ----------
    remains : Remains
    task : Task
    likelihood : Likelihood
        Trained as well.
    kl_weight : float
    settings : SelectionSettings
    report : callable(posterior, message) -> bool, or None
        Called after every pass; true stops the training.
    """
    used = torch.from_numpy(np.searchsorted(task.standardization.features, remains.units[0]))
    rows, held_out = (DenseRows(part.tensors[0][:, used], part.tensors[1]) for part in (task.train, task.validation))
    activate = TORCH_ACTIVATIONS[task.network.activation]
    posterior = SpikeSlabPerceptron(
        remains.network, (), prior_deviation=settings.prior_deviation, deviations=remains.deviations, activate=activate
    )
    kept = [torch.from_numpy(mask.astype(np.float32)) for mask in remains.masks]
    generator = torch.Generator().manual_seed(settings.seed + 1)

    def loss(module: nn.ModuleList, inputs: Tensor, targets: Tensor) -> Tensor:
        fit = likelihood(posterior(inputs, generator, kept), targets, settings.temperature)
        return fit + posterior.divergence(kept) * (kl_weight / len(rows))

    def judge(module: nn.ModuleList) -> tuple[float, float]:
        return likelihood.validate(posterior.mean_outputs(held_out.tensors[0], kept), held_out.tensors[1])

    def after_pass(module: nn.ModuleList, history: History) -> bool:
        message = f"fine-tuning: loss {history.loss_curve[-1]:.4f}, agreement {history.validation_scores[-1]:.4f}"
        return report is not None and report(posterior, message)

    train(
        nn.ModuleList([posterior, likelihood]),
        loss,
        rows,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate / 2,
        max_iter=settings.fine_tune_iter,
        min_steps=LEAST_STEPS,
        validate=judge,
        n_iter_no_change=settings.fine_tune_iter,
        averaging=_AVERAGING,
        seed=settings.seed + 1,
        callback=after_pass,
    )
    return tuned(remains, posterior)


def tuned(remains: Remains, posterior: SpikeSlabPerceptron) -> Remains:
    """Return what is left with the numbers that a posterior of it has."""
    means, deviations, biases = posterior.arrays()
    weights = tuple(np.where(mask, mean, 0) for mask, mean in zip(remains.masks, means))
    return replace(remains, network=replace(remains.network, weights=weights, biases=biases), deviations=deviations)


def means_of(task: Task, posterior: SpikeSlabPerceptron) -> Network:
    """Return the network of the means, in units of the training."""
    weights, _, biases = posterior.arrays()
    return replace(task.network, weights=weights, biases=biases)


def kept_weights(remains: Remains, network: Network) -> list[np.ndarray]:
    """Return masks of the weights of an unpruned network that are left of it."""
    kept = [np.zeros(weight.shape, bool) for weight in network.weights]
    for mask, block, target in zip(remains.masks, itertools.pairwise(remains.units), kept):
        target[np.ix_(*block)] = mask
    return kept
