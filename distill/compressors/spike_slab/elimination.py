"""Removal of inputs and hidden units of low inclusion probability, each given all others."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from distill.compressors.pruning import Masks
from distill.compressors.spike_slab.posterior import SpikeSlabPerceptron, fixed_point, slab_divergence
from distill.network import Network
from distill.runtime.forward import activated
from distill.training.losses import Likelihood
from distill.training.units import Task

_MOST_ELIMINATION_ROWS = 10_000


class Elimination(NamedTuple):
    """What is left when units have been removed.

    Parameters
    ----------
    network : Network
        With other biases.
    masks : list of ndarray of shape (n_inputs, n_outputs), bool
    inclusions : dict of int to ndarray of shape (n_units,)
        Inclusion probabilities of the units before each layer that was looked at; NaN for those that had no weights.
    """

    network: Network
    masks: list[np.ndarray]
    inclusions: dict[int, np.ndarray]


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
    """Remove units whose inclusion probability, given all others, is below a threshold: the least probable first.

    A unit is removed by fixing it at its mean over the rows, which goes into the biases behind it.

    Parameters
    ----------
    network : Network
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
    divergences : sequence of ndarray of shape (n_inputs, n_outputs)
        What each weight adds to the divergence from the prior while it is there, in nats.
    rows : ndarray of shape (n_samples, n_features)
        As they enter the first layer.
    log_likelihood : callable(outputs) -> float
        Of all rows, for the last sums of the network.
    prior_logit : float
        Log-odds of a unit before the data.
    threshold : float in (0, 1)
    layers : sequence of int
        The layers whose incoming units are looked at; 0 stands for the inputs.

    Returns
    -------
    Elimination
    """
    masks = [mask.copy() for mask in masks]
    biases = [bias.astype(np.float64) for bias in network.biases]
    inclusions = {}
    for index in layers:
        incoming = rows
        for layer in range(index):
            sums = incoming @ np.where(masks[layer], network.weights[layer], 0) + biases[layer]
            incoming = activated(sums, network.activation)
        inclusions[index] = inclusion = np.full(len(masks[index]), np.nan)
        weight = np.where(masks[index], network.weights[index], 0).astype(np.float64)
        means = incoming.mean(axis=0, dtype=np.float64)

        def score(sums: np.ndarray, index: int = index) -> float:
            for layer in range(index + 1, len(masks)):
                inputs = activated(sums, network.activation)
                sums = inputs @ np.where(masks[layer], network.weights[layer], 0) + biases[layer]
            return log_likelihood(sums)

        while True:
            present = masks[index].any(axis=1) & (masks[index - 1].any(axis=0) if index else True)
            present = np.flatnonzero(present)
            sums = incoming @ weight + biases[index]
            complete = score(sums)
            probability = np.empty(len(present))
            for place, unit in enumerate(present):
                used = masks[index][unit]
                without = sums.copy()
                without[:, used] -= (incoming[:, unit] - means[unit])[:, None] * weight[unit, used]
                divergence = divergences[index][unit, used].sum()
                if index:
                    divergence += divergences[index - 1][masks[index - 1][:, unit], unit].sum()
                probability[place] = fixed_point(complete - score(without), divergence, prior_logit)
            inclusion[present] = probability
            # Of correlated units each looks dispensable while the others are there, so few go at a time
            doubtful = np.argsort(probability, kind="stable")[: max(1, len(present) // 16)]
            doubtful = present[doubtful[probability[doubtful] < threshold]]
            if not len(doubtful):
                break
            biases[index] += means[doubtful] @ weight[doubtful]
            weight[doubtful] = 0
            masks[index][doubtful] = False
            if index:
                masks[index - 1][:, doubtful] = False
    biases = tuple(bias.astype(np.float32) for bias in biases)
    return Elimination(replace(network, biases=biases), masks, inclusions)


def eliminate(
    task: Task,
    network: Network,
    posterior: SpikeSlabPerceptron,
    masks: Sequence[np.ndarray],
    likelihood: Likelihood,
    kl_weight: float,
    threshold: float,
) -> Elimination:
    """Ask every input and hidden unit that is left whether it is worth its weights."""
    n_rows = min(len(task.train), _MOST_ELIMINATION_ROWS)
    rows, targets = (tensor[:n_rows] for tensor in task.train.tensors)
    factor = len(task.train) / max(kl_weight, 1e-12)
    by_units = bool(posterior.unit_gates)

    @torch.no_grad()
    def log_likelihood(outputs: np.ndarray) -> float:
        return -factor * float(likelihood(torch.from_numpy(outputs.astype(np.float32)), targets))

    with torch.no_grad():
        divergences = [
            slab_divergence(layer.mean, layer.deviation, posterior.prior_deviation) for layer in posterior.layers
        ]
    price = 0.0 if posterior.layers[0].gate is None else -posterior.prior_logit
    return eliminate_units(
        network,
        masks,
        [divergence.numpy() + price for divergence in divergences],
        rows.numpy(),
        log_likelihood,
        posterior.prior_logit if by_units else 0.0,
        threshold,
        range(len(network.weights)),
    )
