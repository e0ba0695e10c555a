"""From a matrix Gaussian posterior to a student file: units, what is dropped, steps of the grid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from distill.codecs import container, grid
from distill.codecs.grid import GridLayer
from distill.compressors.matrix_gaussian import grid_codes
from distill.compressors.matrix_gaussian.rounding import freedom, input_correlations, round_together
from distill.compressors.matrix_gaussian.training import Posterior
from distill.compressors.pruning import slice_network, without_dead_ends
from distill.network import Network
from distill.runtime.forward import Forward, activated
from distill.training.perceptron import scale_outputs
from distill.training.units import Standardization

_MOST_ROUNDS = 4
# Fewer weights do not pay for a number that says how much coarser their row's steps are
_FEWEST_COLUMNS = 32
_RIDGE = 1e-2
_LOWEST_RATE, _HIGHEST_RATE = 1e-6, 1e6
_N_HALVINGS, _N_COSTLY_HALVINGS, _N_WIDENINGS = 24, 5, 8


@dataclass(frozen=True, eq=False)
class Belief:
    """What is known of a network's weights, in the units of the rows it will be asked about.

    Parameters
    ----------
    network : Network
        Its weights and biases are the means.
    rows : tuple of ndarray of shape (n_inputs + 1,)
        Variances of the rows of every layer, the biases' last.
    columns : tuple of ndarray of shape (n_outputs,)
        Variances of the columns. A weight's is the product of both.
    noise : ndarray of shape (n_outputs,) or None
        Variance of the noise of numbers.
    tails : ndarray of shape (n_outputs,) or None
        Degrees of freedom of the noise where it is Student's t.
    marginal : bool
        Whether the rows' variances are the diagonal of a covariance that is not diagonal, so that they say already how
        far a row may move if others follow.
    """

    network: Network
    rows: tuple[np.ndarray, ...]
    columns: tuple[np.ndarray, ...]
    noise: np.ndarray | None = None
    tails: np.ndarray | None = None
    marginal: bool = False

    @property
    def matrices(self) -> list[np.ndarray]:
        """Means of every layer, shape (n_inputs + 1, n_outputs), the biases last."""
        return [np.vstack(layer) for layer in zip(self.network.weights, self.network.biases)]


@torch.no_grad()
def believe(posterior: Posterior, frame: Standardization, network: Network, heavy_tails: bool = False) -> Belief:
    """Bring a posterior into the units of a network that it was learned for.

    Parameters
    ----------
    posterior : Posterior
        Learned in the units of `frame`. Of rows whose covariance has more than a diagonal, the diagonal is kept.
    frame : Standardization
    network : Network
        It gives names, classes and the input section. Where it has none, the frame's becomes one: folded into the
        first layer it would make the bias depend on the weights.
    heavy_tails : bool
        Whether the Gamma posterior of the noise's precision is one for each row, so that noise is Student's t.

    Returns
    -------
    Belief
        Inputs that do not vary have means of zero.
    """
    weights, biases, rows, columns = [], [], [], []
    layers = posterior.network.posteriors()[0]
    for q in layers:
        matrix = q.mean.numpy().astype(np.float64) / math.sqrt(len(q.mean))
        weights.append(matrix[:-1])
        biases.append(matrix[-1])
        rows.append(q.rows.diagonal().numpy().astype(np.float64) / len(q.mean))
        columns.append(q.columns.numpy().astype(np.float64))
    weights[-1], biases[-1] = scale_outputs(weights[-1], biases[-1], frame.mean, frame.unit)
    columns[-1] = columns[-1] * np.square(frame.unit, dtype=np.float64)
    first = np.zeros((network.n_features, weights[0].shape[1]))
    first[frame.features] = weights[0]
    variances = np.full(network.n_features + 1, rows[0][-1])
    variances[:-1][frame.features] = rows[0][:-1]
    rows[0] = variances
    learned = replace(
        network,
        weights=tuple(weight.astype(np.float32) for weight in (first, *weights[1:])),
        biases=tuple(bias.astype(np.float32) for bias in biases),
    )
    if frame.offset is not None:
        offset, scale = (
            _everywhere(value, frame.features, network.n_features) for value in (frame.offset, frame.scale)
        )
        learned = replace(learned, offset=offset, scale=scale)
    noise = tails = None
    if posterior.noise is not None:
        # The mean of 1 / t for a Gamma t; with two rows it would not exist
        noise = (posterior.noise.rate / (posterior.noise.shape - 1).clamp_min(0.5)).numpy() * np.square(frame.unit)
        tails = 2 * posterior.noise.shape.numpy() if heavy_tails else None
    marginal = any(q.rows.basis is not None for q in layers)
    return Belief(learned, tuple(rows), tuple(columns), noise, tails, marginal)


def signals(belief: Belief) -> list[np.ndarray]:
    """Return every weight's mean, squared, over its variance; biases not with them."""
    parts = zip(belief.network.weights, belief.rows, belief.columns)
    return [np.square(weight, dtype=np.float64) / (rows[:-1, None] * columns) for weight, rows, columns in parts]


def signal_masks(belief: Belief, least: float) -> list[np.ndarray]:
    """Return masks without the rows and columns whose mean signal is below `least`; outputs stay."""
    masks = []
    for index, signal in enumerate(signals(belief)):
        rows, columns = signal.mean(axis=1) >= least, signal.mean(axis=0) >= least
        if index == len(belief.rows) - 1:
            columns[:] = True
        masks.append(rows[:, None] & columns)
    return masks


def reduce(belief: Belief, masks: Sequence[np.ndarray]) -> Belief:
    """Drop weights that are False, and with them hidden units that nothing reaches or that lead nowhere.

    Returns
    -------
    Belief
        Fewer hidden units. Units that nothing reaches are constant, and are added to the biases behind them.
    """
    sliced = slice_network(belief.network, masks)
    rows, columns, kept = [], [], np.arange(belief.network.n_features)
    for row, column, units in zip(belief.rows, belief.columns, sliced.units):
        rows.append(np.append(row[kept], row[-1]))
        columns.append(column[units])
        kept = units
    return replace(belief, network=sliced.network, rows=tuple(rows), columns=tuple(columns))


def quantize(
    belief: Belief, rate_weight: float, uniform: bool | int = False, inputs: np.ndarray | None = None
) -> tuple[Network, list[GridLayer]]:
    """Round the means to grids that follow the variances, and drop the hidden units that this leaves without weights.

    Parameters
    ----------
    belief : Belief
    rate_weight, uniform
        See `distill.compressors.matrix_gaussian.grid_codes.quantize`.
    inputs : ndarray of shape (n_samples, n_features), or None
        Rows as they enter the first layer. With them the weights of a layer are rounded together, and every layer makes
        good what those before it have changed; see `distill.compressors.matrix_gaussian.rounding`.

    Returns
    -------
    network : Network
        Of the shape that the layers have.
    layers : list of GridLayer
    """
    for n_rounds in range(1, _MOST_ROUNDS + 1):
        last = len(belief.rows) - 1
        layers = [
            grid_codes.quantize(matrix, rows, columns, rate_weight, belief.noise if index == last else None, uniform)
            for index, (matrix, rows, columns) in enumerate(zip(belief.matrices, belief.rows, belief.columns))
        ]
        if inputs is not None:
            layers = _rounded_together(belief, layers, inputs, rate_weight, uniform)
        masks = [layer.codes[:-1] != 0 for layer in layers]
        alive = without_dead_ends(masks)
        if n_rounds == _MOST_ROUNDS or all(mask.any(axis=0).all() for mask in alive[:-1]):
            break
        belief = reduce(belief, _whole_units(alive))
    if belief.tails is not None:
        layers[-1] = replace(layers[-1], degrees_of_freedom=np.asarray(belief.tails, np.float32))
    return belief.network, layers


def _whole_units(alive: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return masks that are False for whole hidden units alone: those that have no weights, of either side.

    Weights of other units that were rounded to zero may be wanted in the next round, when the rest is rounded anew.
    """
    masks = [np.ones_like(mask) for mask in alive]
    for index, mask in enumerate(alive[:-1]):
        dead = ~mask.any(axis=0)
        masks[index][:, dead] = False
        masks[index + 1][dead] = False
    return masks


def _rounded_together(
    belief: Belief, layers: list[GridLayer], inputs: np.ndarray, rate_weight: float, uniform: bool | int
) -> list[GridLayer]:
    activation = belief.network.activation
    wanted_inputs = given_inputs = inputs
    rounded = []
    for matrix, layer, rows, columns in zip(belief.matrices, layers, belief.rows, belief.columns):
        correlations = input_correlations(given_inputs)
        sums = wanted_inputs @ matrix[:-1] + matrix[-1]
        if rounded:
            matrix = refitted(matrix, given_inputs, sums)
        if uniform is False and not belief.marginal and len(columns) >= _FEWEST_COLUMNS:
            layer = replace(layer, step_exponents=freedom(correlations))
        rounded.append(round_together(layer, matrix, rows, columns, correlations, rate_weight))
        wanted_inputs = activated(sums, activation)
        matrix = rounded[-1].matrix
        given_inputs = activated(given_inputs @ matrix[:-1] + matrix[-1], activation)
    return rounded


def refitted(matrix: np.ndarray, inputs: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Return a matrix, biases last, that gives these sums for other inputs, and is otherwise near to what it was."""
    rows = np.hstack([inputs, np.ones((len(inputs), 1), np.float32)])
    moments = (rows.T @ rows).astype(np.float64)
    ridge = _RIDGE * np.trace(moments) / len(moments)
    missing = rows.T @ (sums - rows @ matrix)
    return matrix + np.linalg.solve(moments + ridge * np.eye(len(moments)), missing.astype(np.float64))


def write(belief: Belief, rate_weight: float, uniform: bool | int = False, inputs: np.ndarray | None = None) -> bytes:
    """Write the student file; see `quantize`."""
    network, layers = quantize(belief, rate_weight, uniform, inputs)
    return container.pack(network, [grid.encode(layer) for layer in layers])


def write_within(
    belief: Belief, max_bytes: int, uniform: bool | int = False, inputs: np.ndarray | None = None
) -> tuple[bytes, float]:
    """Write the most faithful student file of at most so many bytes.

    Returns
    -------
    data : bytes
    rate_weight : float

    Raises
    ------
    ValueError
        If no file is that small.
    """

    def attempt(log_rate: float, inputs: np.ndarray | None) -> bytes | None:
        try:
            data = write(belief, math.exp(log_rate), uniform, inputs)
        except ValueError:  # more steps than the format holds
            return None
        return data if len(data) <= max_bytes else None

    low, high = math.log(_LOWEST_RATE), math.log(_HIGHEST_RATE)
    found = attempt(high, None)
    if found is None:
        size = len(write(belief, _HIGHEST_RATE, uniform))
        raise ValueError(
            f"max_bytes={max_bytes} cannot be reached: a file without any weight that matters has {size} bytes; allow "
            "more"
        )
    low, high, found = _lowest_rate(lambda rate: attempt(rate, None), low, high, found, _N_HALVINGS)
    if inputs is not None:
        # Rounded together, weights take about as many bytes: what was found is where to look
        for start in high + 0.25 * np.arange(_N_WIDENINGS):
            together = attempt(start, inputs)
            if together is not None:
                _, rate, together = _lowest_rate(
                    lambda rate: attempt(rate, inputs), start - 1, start, together, _N_COSTLY_HALVINGS
                )
                # With very few bytes there may be none between too many and hardly any
                if _departure(belief, together, inputs) <= _departure(belief, found, inputs):
                    high, found = rate, together
                break
    return found, math.exp(high)


def _departure(belief: Belief, data: bytes, inputs: np.ndarray) -> float:
    """Return the mean squared difference between what a file answers and what was to be written."""
    return float(np.square(Forward(container.decode(data).network)(inputs) - Forward(belief.network)(inputs)).mean())


def _lowest_rate(
    attempt: Callable[[float], bytes | None], low: float, high: float, found: bytes, n_halvings: int
) -> tuple[float, float, bytes]:
    for _ in range(n_halvings):
        middle = 0.5 * (low + high)
        data = attempt(middle)
        if data is None:
            low = middle
        else:
            high, found = middle, data
    return low, high, found


def _everywhere(value: np.ndarray | None, features: np.ndarray, n_features: int) -> np.ndarray | None:
    if value is None or np.ndim(value) == 0:
        return value
    spread = np.zeros(n_features, np.float32)
    spread[features] = value
    return spread
