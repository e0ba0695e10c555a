"""Which weights stay: ranking, removing what leads nowhere, and asking the data whether a unit is worth its weights.

Everything here is a function of a network and of masks: one array of bool per layer, True for the weights that stay.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from distill.compressors.spike_slab.posterior import fixed_point
from distill.network import Network
from distill.runtime.forward import activated

Masks = Sequence[np.ndarray]

_PRUNED = 0.05


class Sliced(NamedTuple):
    """A network without the units that have become constant or lead nowhere.

    Parameters
    ----------
    network : Network
        Physically smaller; it answers as the masked one does.
    masks : tuple of ndarray of shape (n_inputs, n_outputs), bool
        The weights that stay, of the smaller network.
    units : tuple of ndarray of int
        For the outputs of every layer, which of the old ones are left.
    """

    network: Network
    masks: tuple[np.ndarray, ...]
    units: tuple[np.ndarray, ...]


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


def largest(scores: Sequence[np.ndarray], n_kept: int) -> list[np.ndarray]:
    """Return masks of the `n_kept` largest scores over all layers; the first ones win where scores are equal.

    Examples
    --------
    >>> largest([np.array([[1.0, 3.0]]), np.array([[2.0], [3.0]])], 2)
    [array([[False,  True]]), array([[False],
           [ True]])]
    """
    flat = np.concatenate([score.ravel() for score in scores])
    mask = np.zeros(len(flat), bool)
    mask[np.argsort(-flat, kind="stable")[:n_kept]] = True
    parts = np.split(mask, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores)]


def count(masks: Masks) -> int:
    """Return the number of weights that stay."""
    return int(sum(mask.sum() for mask in masks))


def is_pruned(network: Network) -> bool:
    """Return whether at least one weight in twenty is zero, unused inputs aside."""
    used = [weight[weight.any(axis=1)] for weight in network.weights]
    n_weights = sum(weight.size for weight in used)
    return sum(int(np.sum(weight == 0)) for weight in used) >= _PRUNED * max(n_weights, 1)


def without_dead_ends(masks: Masks) -> list[np.ndarray]:
    """Return masks without the weights into units that lead nowhere, and out of units that nothing reaches.

    The biases of the latter still count: see `slice_network`.
    """
    masks = [mask.copy() for mask in masks]
    for before, behind in itertools.pairwise(masks):
        behind[~before.any(axis=0)] = False
    for before, behind in reversed(list(itertools.pairwise(masks))):
        before[:, ~behind.any(axis=1)] = False
    return masks


def slice_network(network: Network, masks: Masks) -> Sliced:
    """Drop hidden units that are constant or lead nowhere.

    Parameters
    ----------
    network : Network
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
        Weights that are False are taken as zero.

    Returns
    -------
    Sliced
        Units that no input reaches are constant, and are added to the biases behind them. At least one unit of each
        layer is left.

    Examples
    --------
    The second hidden unit is always 2, the third leads nowhere.

    >>> network = Network((np.ones((1, 3), np.float32), np.ones((3, 1), np.float32)),
    ...                   (np.array([0, 2, 0], np.float32), np.zeros(1, np.float32)))
    >>> masks = [np.array([[True, False, True]]), np.array([[True], [True], [False]])]
    >>> sliced = slice_network(network, masks).network
    >>> sliced.layer_sizes, sliced.biases[1]
    ((1, 1, 1), array([2.], dtype=float32))
    """
    weights = [np.where(mask, weight, 0) for mask, weight in zip(masks, network.weights)]
    biases = [bias.astype(np.float64) for bias in network.biases]
    reached = [mask.copy() for mask in masks]
    for index in range(len(weights) - 1):
        constant = ~reached[index].any(axis=0)
        biases[index + 1] += activated(biases[index][constant], network.activation) @ weights[index + 1][constant]
        reached[index + 1][constant] = False
    alive = without_dead_ends(reached)
    kept = np.arange(network.n_features)
    units, small_weights, small_biases, small_masks = [], [], [], []
    for index, mask in enumerate(alive):
        left = mask.any(axis=0) if index < len(alive) - 1 else np.ones(mask.shape[1], bool)
        left = np.flatnonzero(left) if left.any() else np.array([0])
        block = np.ix_(kept, left)
        small_weights.append(np.where(mask, weights[index], 0)[block].astype(np.float32))
        small_biases.append(biases[index][left].astype(np.float32))
        small_masks.append(mask[block])
        units.append(left)
        kept = left
    smaller = replace(network, weights=tuple(small_weights), biases=tuple(small_biases))
    return Sliced(smaller, tuple(small_masks), tuple(units))


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
