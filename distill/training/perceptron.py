"""The trainable network: NumPy arrays to a torch module and back."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from distill.network import Network

# Activations in torch; the names are those of `distill.network.ACTIVATIONS`
TORCH_ACTIVATIONS = {
    "identity": lambda outputs: outputs,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "logistic": torch.sigmoid,
}
# Offset of a feature in standard deviations up to which folding keeps four of float32's seven digits
_MAX_OFFSET = 1000.0


class Perceptron(nn.Module):
    """A fully connected network in torch, made from one in NumPy.

    Parameters
    ----------
    network : Network
        Its input scaling and output function are not part of the module: inputs are scaled rows, and the outputs those
        before any softmax or logistic.

    Examples
    --------
    >>> network = initial_network((3, 5, 2), seed=0)
    >>> module = Perceptron(network)
    >>> module(torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, network: Network):
        super().__init__()
        self.activate = TORCH_ACTIVATIONS[network.activation]
        # torch multiplies by the transposed matrix, and both directions are fast on (n_outputs, n_inputs)
        self.weights = nn.ParameterList(torch.tensor(weight.T.copy()) for weight in network.weights)
        self.biases = nn.ParameterList(torch.tensor(bias) for bias in network.biases)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the outputs of the last layer before its output function, shape (n_samples, n_outputs)."""
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            rows = nn.functional.linear(rows, weight, bias)
            if index < last:
                rows = self.activate(rows)
        return rows

    def arrays(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Return weights, shapes (n_inputs, n_outputs), and biases as new float32 arrays."""
        weights = tuple(np.ascontiguousarray(weight.detach().cpu().numpy().T) for weight in self.weights)
        return weights, tuple(bias.detach().cpu().numpy().copy() for bias in self.biases)


def initial_network(
    layer_sizes: Sequence[int], activation: str = "relu", seed: int = 0, varies: np.ndarray | None = None
) -> Network:
    """Draw the initial weights of a training.

    Parameters
    ----------
    layer_sizes : sequence of int
        Number of inputs, then of outputs of every layer.
    activation : {"identity", "relu", "tanh", "logistic"}
    seed : int
    varies : ndarray of shape (n_features,), bool, or None
        Inputs that are False get no weight.

    Returns
    -------
    Network
        Weights uniform with variance 2 / n_inputs before a "relu" and 1 / n_inputs elsewhere (He et al., "Delving deep
        into rectifiers", 2015; LeCun et al., "Efficient backprop", 1998); biases zero.
    """
    rng = np.random.default_rng(seed)
    weights = []
    for index, (n_inputs, n_outputs) in enumerate(itertools.pairwise(layer_sizes)):
        gain = 2 if activation == "relu" and index < len(layer_sizes) - 2 else 1
        bound = np.sqrt(3 * gain / n_inputs)
        weights.append(rng.uniform(-bound, bound, (n_inputs, n_outputs)).astype(np.float32))
    if varies is not None:
        weights[0][~varies] = 0
    biases = tuple(np.zeros(n_outputs, dtype=np.float32) for n_outputs in layer_sizes[1:])
    return Network(tuple(weights), biases, activation)


def scale_outputs(
    weight: np.ndarray, bias: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fold ``outputs * std + mean`` into the last layer.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    bias, mean, std : ndarray of shape (n_outputs,)

    Returns
    -------
    weight, bias : ndarray, float32
    """
    return (weight * std).astype(np.float32), (bias * std + mean).astype(np.float32)


def outputs_fold_well(mean: np.ndarray, unit: np.ndarray) -> bool:
    """Return whether ``outputs * unit + mean`` can be folded into the last layer without loss, in float32.

    It can for means of up to a thousand units: a larger one would use up the digits of the biases and of the outputs.

    Parameters
    ----------
    mean, unit : ndarray of shape (n_outputs,)
    """
    limits = np.finfo(np.float32)
    # Weights and differences are some powers of ten above and below the unit
    in_range = unit.min() > 1e8 * limits.tiny and unit.max() < 1e-8 * limits.max
    return bool(in_range and np.all(np.abs(mean) <= _MAX_OFFSET * unit))


def fold_input(network: Network) -> Network:
    """Fold the input scaling into the first layer.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Network
        The same function of its inputs, without offset and scale.

    Examples
    --------
    >>> network = replace(initial_network((2, 1)), offset=np.float32(5), scale=np.float32(0.5))
    >>> folded = fold_input(network)
    >>> folded.offset is None, np.allclose(folded.weights[0], network.weights[0] / 2)
    (True, True)
    """
    offset, scale = _input_scaling(network)
    weight = network.weights[0].astype(np.float64) * scale[:, None]
    return _with_first(network, weight, network.biases[0] - offset @ weight, None, None)


def unfold_input(network: Network, offset: np.ndarray | None, scale: np.ndarray | None) -> Network:
    """Take an input scaling out of the first layer: the inverse of `fold_input`.

    The weights of features with different units then have similar sizes, which compression needs.
    """
    if offset is None and scale is None:
        return network
    bare = _with_first(network, network.weights[0], network.biases[0], offset, scale)
    offset_values, scale_values = _input_scaling(bare)
    weight = network.weights[0].astype(np.float64)
    bias = network.biases[0] + offset_values @ weight
    weight = np.divide(weight, scale_values[:, None], out=np.zeros_like(weight), where=scale_values[:, None] != 0)
    return _with_first(network, weight, bias, offset, scale)


def folds_well(network: Network, dtype: str = "float32") -> bool:
    """Return whether the input scaling can be folded into the first layer without loss.

    In float32 it can up to offsets of a thousand standard deviations, beyond which ``x * w - offset * w`` cancels. In
    float16, with 11 bits and a range of 6e-5 to 6e4, it can for offsets within two standard deviations and scales
    between 1/64 and 64. Clipping and missing values cannot be folded.
    """
    if network.clip is not None or network.fill:
        return False
    offset, scale = _input_scaling(network)
    used = network.weights[0].any(axis=1)
    if not used.any():
        return True
    offsets = np.abs(offset * scale)[used]
    if dtype == "float16":
        return bool(offsets.max() <= 2 and scale[used].min() >= 1 / 64 and scale[used].max() <= 64)
    return bool(offsets.max() <= _MAX_OFFSET)


def _input_scaling(network: Network) -> tuple[np.ndarray, np.ndarray]:
    """Return offset and scale of every feature, shape (n_features,), float64; 0 and 1 without a scaling."""
    shape = network.n_features
    offset = 0.0 if network.offset is None else network.offset
    scale = 1.0 if network.scale is None else network.scale
    return np.broadcast_to(np.float64(offset), shape), np.broadcast_to(np.float64(scale), shape)


def _with_first(
    network: Network, weight: np.ndarray, bias: np.ndarray, offset: np.ndarray | None, scale: np.ndarray | None
) -> Network:
    """Return the network with this first layer and input scaling."""
    weights = (np.asarray(weight, np.float32), *network.weights[1:])
    biases = (np.asarray(bias, np.float32), *network.biases[1:])
    return replace(network, weights=weights, biases=biases, offset=offset, scale=scale)
