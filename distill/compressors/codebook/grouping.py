"""Neurons that look alike side by side, so that which group a neuron is in need not be written down."""

from dataclasses import replace

import numpy as np

from distill.compressors.codebook.kmeans import kmeans_1d
from distill.network import Network


def group_neurons(weight: np.ndarray, n_groups: int) -> np.ndarray:
    """Group neurons by the spread of their weights.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    n_groups : int
        How many at most; there are fewer when fewer neurons differ.

    Returns
    -------
    ndarray of shape (n_outputs,), intp
        The group of every neuron, ascending with the standard deviation of its weights; groups are those of the
        optimal one-dimensional k-means of the deviations.

    Examples
    --------
    >>> group_neurons(np.array([[5.0, 1.0, 5.1], [-5.0, -1.0, -5.1]]), 2)
    array([1, 0, 1])
    """
    return kmeans_1d(np.asarray(weight, np.float64).std(axis=0), n_groups)[1]


def reorder_neurons(network: Network, n_groups: int) -> tuple[Network, tuple[np.ndarray, ...]]:
    """Sort hidden neurons into contiguous groups of similar spread; the network computes the same.

    Of ``y = act(X W1 + b1) W2 + b2`` the columns of W1, the entries of b1 and the rows of W2 can be permuted together
    and y does not change. The neurons of the last layer stay where they are.

    Parameters
    ----------
    network : Network
        Not modified.
    n_groups : int
        Per layer, at most.

    Returns
    -------
    network : Network
    groups : tuple of ndarray of shape (n_outputs,), intp
        The group of every neuron of every layer; ascending in all layers but the last.

    References
    ----------
    Yvinec, Dapogny, Bailly, "Network memory footprint compression through jointly learnable codebooks and mappings",
    ICLR 2024 (arXiv 2309.17361): the re-ordering. The rule that groups are those of the standard deviations is ours.
    """
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups!r}.")
    weights, biases, groups = list(network.weights), list(network.biases), []
    for index in range(len(weights) - 1):
        group = group_neurons(weights[index], n_groups)
        order = np.lexsort((weights[index].std(axis=0), group))
        weights[index] = np.ascontiguousarray(weights[index][:, order])
        biases[index] = biases[index][order]
        weights[index + 1] = np.ascontiguousarray(weights[index + 1][order])
        groups.append(group[order])
    groups.append(group_neurons(weights[-1], n_groups))
    return replace(network, weights=tuple(weights), biases=tuple(biases)), tuple(groups)
