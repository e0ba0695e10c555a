"""Learn the codes of a network layer by layer, write them to a student file, measure the result."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.codecs import codebook as codec
from distill.codecs import container
from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.layer_problem import LayerProblem, layer_problem
from distill.compressors.codebook.mapping import gradient_descent
from distill.compressors.codebook.solver import coordinate_descent, nearest_codewords, stored_layer
from distill.compressors.pruning import is_pruned
from distill.network import Network
from distill.runtime.forward import activated, layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.targets import Calibration
from distill.utils.progress import Stage

MOST_BITS = 8


@dataclass(frozen=True)
class CodebookSettings:
    """What the codes of a network depend on besides the network and the rows; see `CodebookCompressor`."""

    bits: tuple[int, ...]
    n_groups: int = 4
    grouping: str = "scales"
    solver: str = "cd"
    proximal: str = "neighbour"
    rate_weight: float = 0.0
    entropy_coding: str = "auto"


def learn_layers(
    network: Network,
    groups: Sequence[np.ndarray],
    calibration: Calibration,
    settings: CodebookSettings,
    stage: Stage | None = None,
) -> tuple[CodebookLayer, ...]:
    """Learn codes layer by layer, each for what the layers before it, already compressed, deliver.

    Parameters
    ----------
    network : Network
        Its neurons in the order in which they are to be stored.
    groups : sequence of ndarray of shape (n_outputs,), intp
        The group of every neuron of every layer.
    calibration : Calibration
    settings : CodebookSettings
    stage : Stage or None

    Returns
    -------
    tuple of CodebookLayer
        With numbers as a file stores them.
    """
    inputs, wanted = calibration.train, layer_outputs(network, calibration.train)
    pruned = is_pruned(network)
    layers = []
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        varies = calibration.varies if index == 0 else inputs.max(axis=0) > inputs.min(axis=0)
        used = _used_inputs(weight, varies, len(inputs))
        start = nearest_codewords(
            weight[used],
            groups[index],
            2 ** settings.bits[index],
            grouping=settings.grouping,
            pin_zero=pruned and not weight[used].all(),
        )
        if settings.solver == "kmeans":
            constant = np.where(used, 0.0, inputs.mean(axis=0, dtype=np.float64))
            layer = stored_layer(start, bias + constant @ weight, used, settings.grouping)
        else:
            problem = layer_problem(inputs[:, used], wanted[index], weight[used])
            if settings.solver == "gradient":
                start = gradient_descent(problem, start, proximal=settings.proximal)
            mapping = coordinate_descent(problem, start, rate_weight=settings.rate_weight)
            layer = _corrected(stored_layer(mapping, bias, used, settings.grouping), problem)
        layers.append(layer)
        sums = inputs @ layer.weight + layer.bias
        if stage is not None:
            stage.say(
                f"layer {index + 1}/{len(network.weights)}: output error {_relative_error(sums, wanted[index]):.5f}"
            )
        inputs = activated(sums, network.activation)
    return tuple(layers)


def pack(network: Network, layers: Sequence[CodebookLayer], entropy_coding: str = "auto") -> bytes:
    """Write the student file of a network whose layers are codes."""
    described = replace(
        network, weights=tuple(layer.weight for layer in layers), biases=tuple(layer.bias for layer in layers)
    )
    return container.pack(described, [codec.encode(layer, entropy_coding) for layer in layers])


def measure(network: Network, layers: Sequence[CodebookLayer], rows: np.ndarray) -> dict:
    """Say how far codes are from the network, layer by layer and at the end; see `CodebookCompressor.report_`."""
    wanted, inputs, of_layers = layer_outputs(network, rows), rows, []
    for layer, expected in zip(layers, wanted):
        sums = inputs @ layer.weight + layer.bias
        counts = np.bincount(layer.codes.ravel())
        share = counts[counts > 0] / max(layer.codes.size, 1)
        of_layers.append(
            {
                "n_codewords": layer.codebooks.shape[1],
                "entropy": float(-share @ np.log2(share)) + 0.0,
                "output_error": _relative_error(sums, expected),
            }
        )
        inputs = activated(sums, network.activation)
    agreement = DistillationLoss(network, wanted[-1]).fidelity(wanted[-1], sums)
    return {"layers": of_layers, "agreement": agreement}


def _used_inputs(weight: np.ndarray, varies: np.ndarray, n_rows: int) -> np.ndarray:
    """Which inputs get codes: those with weights, and among many rows also only those that vary."""
    used = weight.any(axis=1)
    if n_rows >= len(used):
        used &= varies
    if not used.any():
        used[0] = True
    return used


def _corrected(layer: CodebookLayer, problem: LayerProblem) -> CodebookLayer:
    """Return the layer with the bias that is best for its weights as they are stored."""
    return replace(layer, bias=round_to_half(problem.bias(layer.weight[layer.used])))


def _relative_error(sums: np.ndarray, expected: np.ndarray) -> float:
    error = np.sum(np.square(sums - expected, dtype=np.float64))
    power = np.sum(np.square(expected - expected.mean(axis=0), dtype=np.float64))
    return float(error / power) if power else float(error > 0)
