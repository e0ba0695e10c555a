"""Group the neurons of a layer and reorder them, so that groups are contiguous and take no bytes in the file."""

from dataclasses import replace

import numpy as np

from distill.compressors.codebook.kmeans import kmeans_1d
from distill.network import Network


def group_neurons(weight: np.ndarray, n_groups: int) -> np.ndarray:
    """Group neurons by the standard deviation of their weights.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    n_groups : int
        Largest number of groups, 1 or more; there are fewer if fewer neurons differ.

    Returns
    -------
    ndarray of shape (n_outputs,), intp
        Group of every neuron, ascending with the standard deviation of its weights: the clusters of the optimal
        one-dimensional k-means of the standard deviations.

    Examples
    --------
    >>> group_neurons(np.array([[5.0, 1.0, 5.1], [-5.0, -1.0, -5.1]]), 2)
    array([1, 0, 1])
    """
    return kmeans_1d(np.asarray(weight, np.float64).std(axis=0), n_groups)[1]


def reorder_neurons(network: Network, n_groups: int) -> tuple[Network, tuple[np.ndarray, ...]]:
    """Sort hidden neurons into contiguous groups of similar standard deviation of their weights.

    In ``y = act(X W1 + b1) W2 + b2`` the columns of W1, the entries of b1 and the rows of W2 can be permuted together
    without changing y. The neurons of the last layer keep their order.

    Parameters
    ----------
    network : Network
        Not modified.
    n_groups : int
        Largest number of groups of a layer.

    Returns
    -------
    network : Network
        It has the same outputs, up to rounding.
    groups : tuple of ndarray of shape (n_outputs,), intp
        Group of every neuron, for each layer; ascending in all layers but the last.

    Raises
    ------
    ValueError
        If `n_groups` is below 1.

    References
    ----------
    Yvinec, Dapogny, Bailly, "Network memory footprint compression through jointly learnable codebooks and mappings",
    ICLR 2024 (arXiv 2309.17361), for the reordering. Grouping by standard deviations is our choice.
    """
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups!r}")
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
