"""Convert a matrix Gaussian posterior to a student file: units, removal of weights without signal, quantization."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from distill.codecs import container, grid
from distill.codecs.grid import GridLayer
from distill.compressors.budget import bisect
from distill.compressors.matrix_gaussian.rounding import (
    input_correlations,
    round_independently,
    round_jointly,
    step_multipliers,
)
from distill.compressors.matrix_gaussian.training import Posterior
from distill.compressors.pruning import slice_network, without_dead_ends
from distill.network import Network
from distill.runtime.forward import Forward, activated
from distill.training.perceptron import scale_outputs
from distill.training.targets import Targets, validation_fidelity
from distill.training.units import Standardization

# Rounds of quantization at most, each without the hidden units that lost all their weights in the round before
_MAX_ROUNDS = 4
# Rows of a layer up to which its inputs are correlated with each other; their matrix takes 134 MB then and grows with
# the square. Weights of wider layers are rounded one by one
MOST_CORRELATED = 4097
# Narrower layers keep the plain steps: a step exponent for each row costs them more bytes than larger steps save
_MIN_COLUMNS = 32
# Ridge of the fit of a layer to changed inputs, relative to their mean square. At 0 the fit is singular for dependent
# inputs; larger values correct less of the error
_RIDGE = 1e-2
# Search for a budget in bytes: range of rate weights; bisections of the logarithm with independent rounding, which is
# quick, and with joint rounding; attempts, each 0.25 higher in the logarithm, to find a start for the latter
_MIN_RATE, _MAX_RATE = 1e-6, 1e6
_N_HALVINGS, _N_JOINT_HALVINGS, _N_STARTS = 24, 5, 8


@dataclass(frozen=True, eq=False)
class GaussianWeights:
    """Means and variances of a network's weights, in the units of its inputs and outputs.

    Parameters
    ----------
    network : Network
        Weights and biases are the means.
    row_variances : tuple of ndarray of shape (n_inputs + 1,)
        For each layer; the last variance is that of the biases.
    column_variances : tuple of ndarray of shape (n_outputs,)
        For each layer. The variance of a weight is that of its row times that of its column.
    noise : ndarray of shape (n_outputs,) or None
        Variance of the noise of a regression.
    degrees_of_freedom : ndarray of shape (n_outputs,) or None
        Degrees of freedom of Student's t noise, above 2; None for normal noise.
    marginal : bool
        Whether the row variances are the diagonal of a full covariance. They then include the tolerance due to
        compensation by other rows, for which the steps must not be enlarged again.
    """

    network: Network
    row_variances: tuple[np.ndarray, ...]
    column_variances: tuple[np.ndarray, ...]
    noise: np.ndarray | None = None
    degrees_of_freedom: np.ndarray | None = None
    marginal: bool = False

    @property
    def matrices(self) -> list[np.ndarray]:
        """Means of every layer, shape (n_inputs + 1, n_outputs), the biases last."""
        return [np.vstack(layer) for layer in zip(self.network.weights, self.network.biases)]

    def round_layer(self, index: int, rate_weight: float) -> GridLayer:
        """Return a layer whose weights are rounded independently; see `round_independently`."""
        noise = self.noise if index == len(self.row_variances) - 1 else None
        rows, columns = self.row_variances[index], self.column_variances[index]
        return round_independently(self.matrices[index], rows, columns, rate_weight, noise)


@torch.no_grad()
def posterior_to_weights(
    posterior: Posterior, units: Standardization, network: Network, student_t: bool = False
) -> GaussianWeights:
    """Convert a posterior to the units of the network that it was trained for.

    Parameters
    ----------
    posterior : Posterior
        Trained in `units`. Of the covariance of the rows only the diagonal is used.
    units : Standardization
    network : Network
        Source of names, classes and the input scaling. If it has no input scaling, that of `units` is used: folded into
        the first layer, it would make the biases depend on the weights.
    student_t : bool
        Whether the noise is Student's t: the Gamma posterior is then the distribution of each sample's precision.

    Returns
    -------
    GaussianWeights
        Inputs that do not vary have means of zero.
    """
    layers = posterior.network.posteriors()[0]
    # Training divides the inputs of a layer by the square root of their number; see `with_constant`
    matrices = [q.mean.numpy().astype(np.float64) / math.sqrt(len(q.mean)) for q in layers]
    rows = [q.rows.diagonal().numpy().astype(np.float64) / len(q.mean) for q in layers]
    columns = [q.columns.numpy().astype(np.float64) for q in layers]
    weights, biases = [matrix[:-1] for matrix in matrices], [matrix[-1] for matrix in matrices]
    weights[-1], biases[-1] = scale_outputs(weights[-1], biases[-1], units.mean, units.unit)
    columns[-1] = columns[-1] * np.square(units.unit, dtype=np.float64)
    weights[0] = units.expand(weights[0])
    # The posterior has no variances for constant inputs; that of the biases keeps the levels in a narrow range
    variances = np.full(network.n_features + 1, rows[0][-1])
    variances[:-1][units.features] = rows[0][:-1]
    rows[0] = variances
    means = replace(
        network,
        weights=tuple(weight.astype(np.float32) for weight in weights),
        biases=tuple(bias.astype(np.float32) for bias in biases),
    )
    if units.offset is not None:
        offset, scale = (
            value if value is None or np.ndim(value) == 0 else units.expand(value)
            for value in (units.offset, units.scale)
        )
        means = replace(means, offset=offset, scale=scale)
    noise = degrees_of_freedom = None
    if posterior.noise is not None:
        # The mean of 1 / t for t with a Gamma distribution; it exists for shapes above 1, and not with two samples
        noise = (posterior.noise.rate / (posterior.noise.shape - 1).clamp_min(0.5)).numpy() * np.square(units.unit)
        degrees_of_freedom = 2 * posterior.noise.shape.numpy() if student_t else None
    marginal = any(q.rows.basis is not None for q in layers)
    return GaussianWeights(means, tuple(rows), tuple(columns), noise, degrees_of_freedom, marginal)


def first_layer_inputs(rows: np.ndarray, network: Network, compressed: Network) -> np.ndarray:
    """Return inputs of a network's first layer as inputs of the compressed network's first layer.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        With the input scaling of `network`, if it has one.
    network : Network
        The original network.
    compressed : Network
        With the input scaling of `network`; or, if `network` has none, with one that is not applied to `rows` yet. See
        `posterior_to_weights`.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32
    """
    scaled = network.offset is not None or network.scale is not None or network.has_wide_inputs
    return rows.astype(np.float32) if scaled else compressed.scale_inputs(rows)


def signal_masks(weights: GaussianWeights, min_signal: float) -> list[np.ndarray]:
    """Return masks that are False for rows and columns without signal.

    Parameters
    ----------
    weights : GaussianWeights
    min_signal : float
        Least mean of ``mean^2 / variance`` over the weights of a row or column, biases apart.

    Returns
    -------
    list of ndarray of shape (n_inputs, n_outputs), bool
        The outputs of the network are kept.
    """
    masks = []
    layers = zip(weights.network.weights, weights.row_variances, weights.column_variances)
    for index, (mean, row_variance, column_variance) in enumerate(layers):
        signal = np.square(mean, dtype=np.float64) / (row_variance[:-1, None] * column_variance)
        rows, columns = signal.mean(axis=1) >= min_signal, signal.mean(axis=0) >= min_signal
        if index == len(weights.row_variances) - 1:
            columns[:] = True
        masks.append(rows[:, None] & columns)
    return masks


def prune(weights: GaussianWeights, masks: Sequence[np.ndarray]) -> GaussianWeights:
    """Remove weights, and the hidden units that are then constant or without outgoing weights.

    Parameters
    ----------
    weights : GaussianWeights
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
        False for the weights that are removed.

    Returns
    -------
    GaussianWeights
        With fewer hidden units. Constant units are added to the biases of the next layer.
    """
    sliced = slice_network(weights.network, masks)
    rows, columns, kept = [], [], np.arange(weights.network.n_features)
    for row, column, units in zip(weights.row_variances, weights.column_variances, sliced.units):
        rows.append(np.append(row[kept], row[-1]))
        columns.append(column[units])
        kept = units
    return replace(weights, network=sliced.network, row_variances=tuple(rows), column_variances=tuple(columns))


def quantize(
    weights: GaussianWeights, rate_weight: float, inputs: np.ndarray | None = None
) -> tuple[Network, list[GridLayer]]:
    """Round the means to grids that follow the variances, and remove the hidden units that lose all their weights.

    Parameters
    ----------
    weights : GaussianWeights
    rate_weight : float
        Price of a nat of code in nats of loss, positive.
    inputs : ndarray of shape (n_samples, n_features), float32, or None
        Inputs of the first layer. If given, the weights of a layer are rounded jointly, and each layer compensates for
        the changes of the layers before it; see `distill.compressors.matrix_gaussian.rounding`.

    Returns
    -------
    network : Network
        Means of the weights, without the removed units.
    layers : list of GridLayer
        Layers of the same shapes.

    Raises
    ------
    ValueError
        If the posterior is not finite, or `rate_weight` too small for the file format.
    """
    for n_rounds in range(1, _MAX_ROUNDS + 1):
        layers = [weights.round_layer(index, rate_weight) for index in range(len(weights.row_variances))]
        if inputs is not None:
            layers = _round_layers_jointly(weights, layers, inputs, rate_weight)
        alive = without_dead_ends([layer.codes[:-1] != 0 for layer in layers])
        if n_rounds == _MAX_ROUNDS or all(mask.any(axis=0).all() for mask in alive[:-1]):
            break
        weights = prune(weights, _masks_of_units(alive))
    if weights.degrees_of_freedom is not None:
        layers[-1] = replace(layers[-1], degrees_of_freedom=np.asarray(weights.degrees_of_freedom, np.float32))
    return weights.network, layers


def encode(weights: GaussianWeights, rate_weight: float, inputs: np.ndarray | None = None) -> bytes:
    """Return the student file; see `quantize`."""
    network, layers = quantize(weights, rate_weight, inputs)
    return container.pack(network, [grid.encode(layer) for layer in layers])


def encode_within(weights: GaussianWeights, max_bytes: int, inputs: np.ndarray | None = None) -> tuple[bytes, float]:
    """Return the most faithful student file within a budget.

    Parameters
    ----------
    weights : GaussianWeights
    max_bytes : int
    inputs : ndarray of shape (n_samples, n_features), float32, or None
        See `quantize`.

    Returns
    -------
    data : bytes
    rate_weight : float
        The `rate_weight` of this file.

    Raises
    ------
    ValueError
        If no file is that small.
    """

    def attempt(log_rate: float, inputs: np.ndarray | None = None) -> bytes | None:
        try:
            data = encode(weights, math.exp(log_rate), inputs)
        except ValueError:  # more steps than the format holds
            return None
        return data if len(data) <= max_bytes else None

    low, high = math.log(_MIN_RATE), math.log(_MAX_RATE)
    smallest = attempt(high)
    if smallest is None:
        size = len(encode(weights, _MAX_RATE))
        raise ValueError(f"max_bytes={max_bytes} cannot be reached: the smallest file has {size} bytes; allow more")
    log_rate, found = bisect(attempt, high, low, _N_HALVINGS, smallest)
    data = found or smallest
    if inputs is not None:
        # Jointly rounded weights take about as many bytes: the search starts at the rate found
        for start in log_rate + 0.25 * np.arange(_N_STARTS):
            joint = attempt(start, inputs)
            if joint is not None:
                rate, better = bisect(lambda rate: attempt(rate, inputs), start, start - 1, _N_JOINT_HALVINGS, joint)
                joint = better or joint
                # In very small budgets the nearest file that fits may have hardly any weights
                if _squared_error(weights, joint, inputs) <= _squared_error(weights, data, inputs):
                    log_rate, data = rate, joint
                break
    return data, math.exp(log_rate)


def refit(matrix: np.ndarray, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Fit a layer to changed inputs by ridge regression toward its present weights.

    Parameters
    ----------
    matrix : ndarray of shape (n_inputs + 1, n_outputs)
        The biases last.
    inputs : ndarray of shape (n_samples, n_inputs), float32
    outputs : ndarray of shape (n_samples, n_outputs)
        Pre-activations of the layer for the original inputs.

    Returns
    -------
    ndarray of shape (n_inputs + 1, n_outputs), float64
    """
    rows = np.hstack([inputs, np.ones((len(inputs), 1), np.float32)])
    moments = (rows.T @ rows).astype(np.float64)
    ridge = _RIDGE * np.trace(moments) / len(moments)
    gradient = rows.T @ (outputs - rows @ matrix)
    return matrix + np.linalg.solve(moments + ridge * np.eye(len(moments)), gradient.astype(np.float64))


def describe(decoded: Network, network: Network, targets: Targets) -> dict:
    """Return the measurements of `MatrixGaussianCompressor.report_`.

    Parameters
    ----------
    decoded : Network
        Network of the file.
    network : Network
        The original network.
    targets : Targets
        Targets of the compression.
    """
    targets = replace(targets, validation=first_layer_inputs(targets.validation, network, decoded))
    return {
        "n_weights": sum(int(np.count_nonzero(weight)) for weight in decoded.weights),
        "n_features": int(decoded.weights[0].any(axis=1).sum()),
        "layer_sizes_before": network.layer_sizes,
        "agreement": validation_fidelity(decoded, targets),
    }


def _masks_of_units(alive: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return masks that are False for the weights of hidden units without incoming or outgoing weights, and no others.

    Weights of other units that were rounded to zero may get other codes in the next round.
    """
    masks = [np.ones_like(mask) for mask in alive]
    for index, mask in enumerate(alive[:-1]):
        dead = ~mask.any(axis=0)
        masks[index][:, dead] = False
        masks[index + 1][dead] = False
    return masks


def _round_layers_jointly(
    weights: GaussianWeights, layers: list[GridLayer], inputs: np.ndarray, rate_weight: float
) -> list[GridLayer]:
    """Round layer after layer, each refitted to the outputs of the rounded layers before it."""
    activation = weights.network.activation
    original = rounded = inputs
    result: list[GridLayer] = []
    parts = zip(weights.matrices, layers, weights.row_variances, weights.column_variances)
    for matrix, layer, row_variance, column_variance in parts:
        outputs = original @ matrix[:-1] + matrix[-1]
        if result:
            matrix = refit(matrix, rounded, outputs)
        if len(matrix) <= MOST_CORRELATED:
            correlations = input_correlations(rounded)
            if not weights.marginal and len(column_variance) >= _MIN_COLUMNS:
                layer = replace(layer, step_exponents=step_multipliers(correlations))
            layer = round_jointly(layer, matrix, row_variance, column_variance, correlations, rate_weight)
        result.append(layer)
        original = activated(outputs, activation)
        matrix = result[-1].matrix
        rounded = activated(rounded @ matrix[:-1] + matrix[-1], activation)
    return result


def _squared_error(weights: GaussianWeights, data: bytes, inputs: np.ndarray) -> float:
    """Return the mean squared difference between the outputs of a file and those of the means."""
    return float(np.square(Forward(container.decode(data).network)(inputs) - Forward(weights.network)(inputs)).mean())
