"""Backward elimination of inputs and hidden units of low inclusion probability, each given all others.

A unit is removed by fixing it at its mean over the samples, which is added to the biases of the next layer. Its
inclusion probability is that of a gate at the optimum of the evidence lower bound, see `posterior.fixed_point`.

Arrays, for the units before one layer:

=============== ========================= ==============================================================
inputs          (n_samples, n_units)      outputs of the units before the layer
pre_activations (n_samples, n_outputs)    ``inputs @ weight + bias`` of the layer
weight          (n_units, n_outputs)      weights of the layer, zero where removed, float64
means           (n_units,)                mean of every unit over the samples, float64
inclusion       (n_units,)                inclusion probabilities, NaN for units without weights, float64
=============== ========================= ==============================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from distill.compressors.pruning import Masks
from distill.compressors.spike_slab.posterior import fixed_point, slab_divergence
from distill.compressors.spike_slab.training import TrainedPosterior
from distill.network import Network
from distill.runtime.forward import activated
from distill.training.units import Task

# Largest number of samples of the log-likelihood. A round evaluates the network once per unit, in time proportional to
# the samples; fewer samples give noisier probabilities. The simulations in docs/results/spike_slab.md have 9000
_MAX_SAMPLES = 10_000
# At most one of 16 present units is removed per round, and at least one. Of correlated units each looks dispensable
# while the others are present, so that only a few are removed at a time; a larger number takes more rounds. By hand
_PRESENT_PER_REMOVED = 16
# Keeps the tempered number of samples finite for a kl_weight of zero
_MIN_KL_WEIGHT = 1e-12


@dataclass(frozen=True, eq=False)
class Elimination:
    """Result of an elimination.

    Parameters
    ----------
    network : Network
        With biases that contain the means of removed units.
    masks : list of ndarray of shape (n_inputs, n_outputs), bool
    inclusions : dict of int to ndarray of shape (n_units,)
        Inclusion probabilities of the units before each examined layer; NaN for units without weights.
    """

    network: Network
    masks: list[np.ndarray]
    inclusions: dict[int, np.ndarray]


def eliminate(task: Task, network: Network, trained: TrainedPosterior, masks: Masks, threshold: float) -> Elimination:
    """Remove inputs and hidden units of a trained posterior whose inclusion probability is below a threshold.

    Parameters
    ----------
    task : Task
        The first 10000 training samples are used.
    network : Network
        Posterior means, in units of the training.
    trained : TrainedPosterior
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
        Kept weights.
    threshold : float in (0, 1)

    Returns
    -------
    Elimination
    """
    posterior = trained.posterior
    n_samples = min(len(task.train), _MAX_SAMPLES)
    rows, targets = (tensor[:n_samples] for tensor in task.train.tensors)
    # Of all training samples, tempered as the training was
    n_effective = len(task.train) / max(trained.kl_weight, _MIN_KL_WEIGHT)

    @torch.no_grad()
    def log_likelihood(outputs: np.ndarray) -> float:
        return -n_effective * float(trained.likelihood(torch.from_numpy(outputs.astype(np.float32)), targets))

    with torch.no_grad():
        divergences = [slab_divergence(layer.mean, layer.std, posterior.prior_std) for layer in posterior.layers]
    open_gate = 0.0 if posterior.layers[0].gate is None else -posterior.prior_logit
    return eliminate_units(
        network,
        masks,
        [divergence.numpy() + open_gate for divergence in divergences],
        rows.numpy(),
        log_likelihood,
        posterior.prior_logit if posterior.unit_gates else 0.0,
        threshold,
        range(len(network.weights)),
    )


def eliminate_units(
    network: Network,
    masks: Masks,
    divergences: Sequence[np.ndarray],
    rows: np.ndarray,
    log_likelihood: Callable[[np.ndarray], float],
    prior_logit: float,
    threshold: float,
    layers: Sequence[int],
) -> Elimination:
    """Remove units whose inclusion probability, given all others, is below a threshold, the least probable first.

    Parameters
    ----------
    network : Network
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
    divergences : sequence of ndarray of shape (n_inputs, n_outputs)
        KL divergence from the prior that each weight contributes while it is kept, in nats.
    rows : ndarray of shape (n_samples, n_features)
        Inputs of the first layer.
    log_likelihood : callable(outputs) -> float
        Log-likelihood of all samples given the outputs of the last layer, shape (n_samples, n_outputs), in nats.
    prior_logit : float
        Prior log-odds of a unit.
    threshold : float in (0, 1)
    layers : sequence of int
        Layers whose incoming units are examined, in this order; 0 for the inputs.

    Returns
    -------
    Elimination
    """
    kept = _KeptWeights(network, masks)
    inclusions = {}
    for index in layers:
        inputs = kept.inputs_of(index, rows)
        means = inputs.mean(axis=0, dtype=np.float64)
        inclusions[index] = np.full(len(means), np.nan)
        while True:
            present = kept.units_before(index)
            gains = _gains(kept, index, present, inputs, means, log_likelihood)
            costs = [kept.total_of_unit(divergences, index, unit) for unit in present]
            probability = fixed_point(gains, costs, prior_logit)
            inclusions[index][present] = probability
            candidates = np.argsort(probability, kind="stable")[: max(1, len(present) // _PRESENT_PER_REMOVED)]
            removed = present[candidates[probability[candidates] < threshold]]
            if not len(removed):
                break
            kept.fix_units(index, removed, means)
    return Elimination(kept.network_with_biases(), kept.masks, inclusions)


def _gains(
    kept: "_KeptWeights",
    index: int,
    present: np.ndarray,
    inputs: np.ndarray,
    means: np.ndarray,
    log_likelihood: Callable[[np.ndarray], float],
) -> list[float]:
    """Return the log-likelihood that each of the units `present` adds, compared with its mean in its place."""
    weight = kept.weight(index).astype(np.float64)
    pre_activations = inputs @ weight + kept.biases[index]
    complete = log_likelihood(kept.outputs_after(index, pre_activations))
    gains = []
    for unit in present:
        used = kept.masks[index][unit]
        without = pre_activations.copy()
        without[:, used] -= (inputs[:, unit] - means[unit])[:, None] * weight[unit, used]
        gains.append(complete - log_likelihood(kept.outputs_after(index, without)))
    return gains


class _KeptWeights:
    """The weights of a network that are kept while units are removed; masks and biases change in place."""

    def __init__(self, network: Network, masks: Masks):
        self.network = network
        self.masks = [mask.copy() for mask in masks]
        self.biases = [bias.astype(np.float64) for bias in network.biases]

    def weight(self, index: int) -> np.ndarray:
        """Return the weights of a layer, zero where removed, float32."""
        return np.where(self.masks[index], self.network.weights[index], 0)

    def inputs_of(self, index: int, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of a layer, given those of the first layer."""
        inputs = rows
        for layer in range(index):
            inputs = activated(inputs @ self.weight(layer) + self.biases[layer], self.network.activation)
        return inputs

    def outputs_after(self, index: int, pre_activations: np.ndarray) -> np.ndarray:
        """Return the outputs of the last layer for the pre-activations of layer `index`."""
        for layer in range(index + 1, len(self.masks)):
            inputs = activated(pre_activations, self.network.activation)
            pre_activations = inputs @ self.weight(layer) + self.biases[layer]
        return pre_activations

    def units_before(self, index: int) -> np.ndarray:
        """Return the positions of the units before a layer that have weights on both sides."""
        incoming = self.masks[index - 1].any(axis=0) if index else True
        return np.flatnonzero(self.masks[index].any(axis=1) & incoming)

    def total_of_unit(self, values: Sequence[np.ndarray], index: int, unit: int) -> float:
        """Return the sum of values of the kept weights of a unit before layer `index`, those into it included."""
        total = values[index][unit, self.masks[index][unit]].sum()
        if index:
            total += values[index - 1][self.masks[index - 1][:, unit], unit].sum()
        return total

    def fix_units(self, index: int, units: np.ndarray, means: np.ndarray) -> None:
        """Remove units before layer `index`: add their means to its biases."""
        self.biases[index] += means[units] @ self.weight(index).astype(np.float64)[units]
        self.masks[index][units] = False
        if index:
            self.masks[index - 1][:, units] = False

    def network_with_biases(self) -> Network:
        """Return the network with the present biases."""
        return replace(self.network, biases=tuple(bias.astype(np.float32) for bias in self.biases))
