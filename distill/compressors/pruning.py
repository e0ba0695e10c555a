"""Masks of weights: ranking, removal of dead ends, and networks without unused units.

Masks are one array of bool per layer, of the shape of the layer's weights, True for the weights that are kept.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from distill.network import Network
from distill.runtime.forward import activated

Masks = Sequence[np.ndarray]

# Smallest fraction of zeros among the weights of used inputs in a pruned network. Trained weights are hardly ever
# exactly zero, so that any value well below one separates the two cases
_PRUNED = 0.05


class Sliced(NamedTuple):
    """A network without the units that are constant or have no path to an output.

    Parameters
    ----------
    network : Network
        Smaller, with the outputs of the masked network up to rounding.
    masks : tuple of ndarray of shape (n_inputs, n_outputs), bool
        Kept weights of the smaller network.
    units : tuple of ndarray of int
        For every layer, the kept outputs by their positions in the original layer.
    """

    network: Network
    masks: tuple[np.ndarray, ...]
    units: tuple[np.ndarray, ...]


def keep_largest(scores: Sequence[np.ndarray], n_kept: int) -> list[np.ndarray]:
    """Return masks of the `n_kept` largest scores over all layers; of equal scores the first are kept.

    Parameters
    ----------
    scores : sequence of ndarray of shape (n_inputs, n_outputs)
    n_kept : int

    Returns
    -------
    list of ndarray of shape (n_inputs, n_outputs), bool

    Examples
    --------
    >>> keep_largest([np.array([[1.0, 3.0]]), np.array([[2.0], [3.0]])], 2)
    [array([[False,  True]]), array([[False],
           [ True]])]
    """
    flat = np.concatenate([score.ravel() for score in scores])
    mask = np.zeros(len(flat), bool)
    mask[np.argsort(-flat, kind="stable")[:n_kept]] = True
    parts = np.split(mask, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores)]


def count(masks: Masks) -> int:
    """Return the number of kept weights."""
    return int(sum(mask.sum() for mask in masks))


def is_pruned(network: Network) -> bool:
    """Return whether at least one in twenty weights of used inputs is zero."""
    used = [weight[weight.any(axis=1)] for weight in network.weights]
    n_weights = sum(weight.size for weight in used)
    return sum(int(np.sum(weight == 0)) for weight in used) >= _PRUNED * max(n_weights, 1)


def without_dead_ends(masks: Masks) -> list[np.ndarray]:
    """Return masks without the weights into units that have no path to an output, or out of units without inputs.

    Units without inputs may have biases, which `slice_network` adds to those of the next layer.
    """
    masks = [mask.copy() for mask in masks]
    for before, after in itertools.pairwise(masks):
        after[~before.any(axis=0)] = False
    for before, after in reversed(list(itertools.pairwise(masks))):
        before[:, ~after.any(axis=1)] = False
    return masks


def slice_network(network: Network, masks: Masks) -> Sliced:
    """Remove hidden units that are constant or have no path to an output.

    Parameters
    ----------
    network : Network
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
        Weights that are False count as zero.

    Returns
    -------
    Sliced
        Units without inputs are constant, and are added to the biases of the next layer. At least one unit of each
        layer is kept.

    Examples
    --------
    The second hidden unit is always 2, the third has no path to the output.

    >>> network = Network((np.ones((1, 3), np.float32), np.ones((3, 1), np.float32)),
    ...                   (np.array([0, 2, 0], np.float32), np.zeros(1, np.float32)))
    >>> masks = [np.array([[True, False, True]]), np.array([[True], [True], [False]])]
    >>> sliced = slice_network(network, masks).network
    >>> sliced.layer_sizes, sliced.biases[1]
    ((1, 1, 1), array([2.], dtype=float32))
    """
    weights = [np.where(mask, weight, 0) for mask, weight in zip(masks, network.weights)]
    biases, connected = _fold_constants(weights, network.biases, masks, network.activation)
    alive = without_dead_ends(connected)
    kept = np.arange(network.n_features)
    units, small_weights, small_biases, small_masks = [], [], [], []
    for index, mask in enumerate(alive):
        has_input = mask.any(axis=0) if index < len(alive) - 1 else np.ones(mask.shape[1], bool)
        of_layer = np.flatnonzero(has_input) if has_input.any() else np.array([0])
        block = np.ix_(kept, of_layer)
        small_weights.append(np.where(mask, weights[index], 0)[block].astype(np.float32))
        small_biases.append(biases[index][of_layer].astype(np.float32))
        small_masks.append(mask[block])
        units.append(of_layer)
        kept = of_layer
    smaller = replace(network, weights=tuple(small_weights), biases=tuple(small_biases))
    return Sliced(smaller, tuple(small_masks), tuple(units))


def _fold_constants(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], masks: Masks, activation: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Add constant hidden units to the biases of the next layer; return biases in float64, and masks without them."""
    biases = [bias.astype(np.float64) for bias in biases]
    connected = [mask.copy() for mask in masks]
    for index in range(len(weights) - 1):
        constant = ~connected[index].any(axis=0)
        biases[index + 1] += activated(biases[index][constant], activation) @ weights[index + 1][constant]
        connected[index + 1][constant] = False
    return biases, connected
