"""Learn the codes of a network layer by layer, encode them, and measure the result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.codecs import codebook as codec
from distill.codecs import container
from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.layer_problem import LayerProblem
from distill.compressors.codebook.mapping import gradient_descent
from distill.compressors.codebook.solver import coordinate_descent, nearest_codewords, stored_layer
from distill.compressors.codebook.wide_problem import WideLayerProblem, make_problem
from distill.compressors.pruning import is_pruned
from distill.network import Network
from distill.runtime.forward import activated, layer_outputs
from distill.training.fidelity import fidelity
from distill.training.targets import Calibration
from distill.utils.progress import Stage

# Codes are bytes, and a file has one byte for the number of codewords less one
MOST_BITS = 8


@dataclass(frozen=True, kw_only=True)
class CodebookSettings:
    """Settings of `learn_layers`.

    Parameters
    ----------
    bits : tuple of int in [1, 8]
        Bits of a code of each layer, which has at most ``2 ** bits`` codewords.
    grouping : {"scales", "codebooks"}
        Parameters of each group of neurons: a scale for a common codebook, or a codebook.
    solver : {"cd", "gradient", "kmeans"}
        Coordinate descent; gradient descent, then coordinate descent; the codewords nearest to the weights.
    proximal : {"neighbor", "inverse", "off"}
        Gradient of the mapping; for "gradient" only.
    rate_weight : float
        Price of a bit, 0 or more; see `distill.compressors.codebook.solver.coordinate_descent`.
    entropy_coding : {"auto", "off"}
    """

    bits: tuple[int, ...]
    grouping: str = "scales"
    solver: str = "cd"
    proximal: str = "neighbor"
    rate_weight: float = 0.0
    entropy_coding: str = "auto"


def learn_layers(
    network: Network,
    groups: Sequence[np.ndarray],
    calibration: Calibration,
    settings: CodebookSettings,
    stage: Stage | None = None,
) -> tuple[CodebookLayer, ...]:
    """Learn the codes of every layer, with the outputs of the compressed layers before it as inputs.

    Parameters
    ----------
    network : Network
        Its neurons in the order of the file; see `distill.compressors.codebook.grouping.reorder_neurons`.
    groups : sequence of ndarray of shape (n_outputs,), intp
        Group of every neuron, for each layer.
    calibration : Calibration
        The training samples are used.
    settings : CodebookSettings
    stage : Stage or None
        Reports every layer.

    Returns
    -------
    tuple of CodebookLayer
        With codebooks, scales and biases rounded as in a file.
    """
    inputs, targets = calibration.train, layer_outputs(network, calibration.train)
    pruned = is_pruned(network)
    layers = []
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        varies = calibration.varies if index == 0 else inputs.max(axis=0) > inputs.min(axis=0)
        used = _used_inputs(weight, varies, len(inputs))
        mapping = nearest_codewords(
            weight[used],
            groups[index],
            2 ** settings.bits[index],
            grouping=settings.grouping,
            pin_zero=pruned and not weight[used].all(),
        )
        if settings.solver == "kmeans":
            # Inputs without codes contribute a constant, which the bias takes over
            constant = np.where(used, 0.0, inputs.mean(axis=0, dtype=np.float64))
            layer = stored_layer(mapping, bias + constant @ weight, used, settings.grouping)
        else:
            problem = make_problem(inputs, used, targets[index], weight[used])
            if settings.solver == "gradient":
                mapping = gradient_descent(problem, mapping, proximal=settings.proximal)
            mapping = coordinate_descent(problem, mapping, rate_weight=settings.rate_weight)
            layer = _with_best_bias(stored_layer(mapping, bias, used, settings.grouping), problem)
        layers.append(layer)
        outputs = inputs @ layer.weight + layer.bias
        if stage is not None:
            error = relative_error(outputs, targets[index])
            stage.log(f"layer {index + 1}/{len(network.weights)}: relative output error {error:.5f}")
        inputs = activated(outputs, network.activation)
    return tuple(layers)


def decoded_network(network: Network, layers: Sequence[CodebookLayer]) -> Network:
    """Return the network with the weights and biases of its compressed layers."""
    return replace(
        network, weights=tuple(layer.weight for layer in layers), biases=tuple(layer.bias for layer in layers)
    )


def encode(network: Network, layers: Sequence[CodebookLayer], entropy_coding: str = "auto") -> bytes:
    """Return the student file of a network with compressed layers.

    Parameters
    ----------
    network : Network
        The original network, its neurons in the order of the layers.
    layers : sequence of CodebookLayer
    entropy_coding : {"auto", "off"}
        Whether codes are entropy-coded where that is shorter, or always packed.
    """
    sections = [codec.encode(layer, entropy_coding) for layer in layers]
    return container.pack(decoded_network(network, layers), sections)


def measure(network: Network, layers: Sequence[CodebookLayer], samples: np.ndarray) -> dict:
    """Measure the difference between a network and its compressed layers.

    Parameters
    ----------
    network : Network
        The original network.
    layers : sequence of CodebookLayer
    samples : ndarray of shape (n_samples, n_features), float32
        Inputs of the first layer.

    Returns
    -------
    dict
        "layers" and "agreement" of `CodebookCompressor.report_`.
    """
    targets, outputs = layer_outputs(network, samples), layer_outputs(decoded_network(network, layers), samples)
    measured = [
        {
            "n_codewords": layer.codebooks.shape[1],
            "entropy": _entropy(layer.codes),
            "output_error": relative_error(of_layer, target),
        }
        for layer, of_layer, target in zip(layers, outputs, targets)
    ]
    return {"layers": measured, "agreement": fidelity(targets[-1], outputs[-1], network.classes is not None)}


def relative_error(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the squared error of outputs as a fraction of the variance of their targets.

    Parameters
    ----------
    outputs, targets : ndarray of shape (n_samples, n_outputs)

    Returns
    -------
    float
        Not negative. Constant targets: 1 if there is any error, else 0.

    Examples
    --------
    >>> relative_error(np.array([[0.0], [1.0]]), np.array([[0.0], [2.0]]))
    0.5
    """
    error = np.sum(np.square(outputs - targets, dtype=np.float64))
    power = np.sum(np.square(targets - targets.mean(axis=0), dtype=np.float64))
    return float(error / power) if power else float(error > 0)


def _used_inputs(weight: np.ndarray, varies: np.ndarray, n_samples: int) -> np.ndarray:
    """Return a mask of the inputs that get codes, shape (n_inputs,), bool: they have weights and are not constant."""
    used = np.asarray(weight.any(axis=1))
    # With fewer samples than inputs, some that are constant by chance may vary later
    if n_samples >= len(used):
        used &= varies
    if not used.any():  # a layer has at least one input in the file
        used[0] = True
    return used


def _with_best_bias(layer: CodebookLayer, problem: LayerProblem | WideLayerProblem) -> CodebookLayer:
    """Return the layer with the best bias for its rounded weights."""
    return replace(layer, bias=round_to_half(problem.bias(layer.weight[layer.used])))


def _entropy(codes: np.ndarray) -> float:
    """Return the entropy of the frequencies of codes, in bits."""
    counts = np.bincount(codes.ravel())
    frequencies = counts[counts > 0] / max(codes.size, 1)
    return float(-frequencies @ np.log2(frequencies)) + 0.0
