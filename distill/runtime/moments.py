"""Mean and variance of the outputs of a network with uncertain weights, in NumPy.

The weight in row i and column j of a layer has the variance u_i v_j. Moments are propagated from layer to layer: a sum
of products of independent variables has a known mean and variance, and is approximated as normal; an activation of a
normal variable has a known mean and variance. For one hidden layer the variance of the output is exact; for more, units
of a layer are treated as independent (Wu et al., "Deterministic variational inference for robust Bayesian neural
networks", 2019).

The result for a row is bit-identical in any batch.

Arrays of a layer, float64:

=============== =================================== =====================================================
mean, variance  (n_samples, n_inputs)               moments of the layer's inputs; variance is 0 at first
weight, bias    (n_inputs, n_outputs), (n_outputs,) means of the weights and biases
row_variance    (n_inputs + 1,)                     u; the last one belongs to the biases
column_variance (n_outputs,)                        v
output_variance (n_samples, n_outputs)              of the pre-activations
=============== =================================== =====================================================
"""

from collections.abc import Sequence

import numpy as np

from distill.codecs import generator
from distill.network import Network
from distill.runtime.forward import activate

# Gauss-Hermite quadrature of tanh and logistic: within 0.004 of the exact moments
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
# Antithetic pairs of draws for a softmax: probabilities are within 0.04
_N_PAIRS = 64
# Abramowitz and Stegun, Handbook of mathematical functions, 7.1.26: within 1.5e-7 of the error function
_ERROR_FUNCTION = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def output_moments(
    network: Network, row_variances: Sequence[np.ndarray], column_variances: Sequence[np.ndarray], X: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the outputs of the last layer.

    Parameters
    ----------
    network : Network
        Means of the weights.
    row_variances : sequence of ndarray of shape (n_inputs + 1,)
        For each layer; the last variance is that of the biases.
    column_variances : sequence of ndarray of shape (n_outputs,)
        For each layer. The variance of a weight is the product of those of its row and its column.
    X : ndarray of shape (n_samples, n_features)
        Without the network's offset and scale, which are applied here. Memory is proportional to the number of samples:
        the caller cuts large X into blocks.

    Returns
    -------
    mean, variance : ndarray of shape (n_samples, n_outputs), float32

    Examples
    --------
    >>> network = Network((np.ones((2, 1), np.float32),), (np.zeros(1, np.float32),))
    >>> mean, variance = output_moments(network, [np.array([0.1, 0.2, 0.5])], [np.array([2.0])], np.array([[1.0, 3.0]]))
    >>> mean.item(), round(variance.item(), 6)
    (4.0, 4.8)
    """
    mean = _scaled(network, X)
    variance = np.zeros_like(mean)
    last = len(network.weights) - 1
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        rows, columns = row_variances[index].astype(np.float64), column_variances[index].astype(np.float64)
        output_variance = _product(mean * mean + variance, rows[:-1, None]) + rows[-1]
        output_variance = output_variance * columns
        if index:
            output_variance += _product(variance, np.square(weight, dtype=np.float64))
        mean, variance = _product(mean, weight.astype(np.float64)) + bias, output_variance
        if index < last:
            mean, variance = activation_moments(network.activation, mean, variance)
    return mean.astype(np.float32), variance.astype(np.float32)


def sample_outputs(
    network: Network,
    row_variances: Sequence[np.ndarray],
    column_variances: Sequence[np.ndarray],
    X: np.ndarray,
    n_draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw networks from the posterior of the weights, and return the outputs of each for all samples.

    Parameters
    ----------
    network, row_variances, column_variances, X
        See `output_moments`.
    n_draws : int
    rng : Generator

    Returns
    -------
    ndarray of shape (n_draws, n_samples, n_outputs), float32
        Outputs of the last layer.

    Examples
    --------
    >>> network = Network((np.ones((2, 1), np.float32),), (np.zeros(1, np.float32),))
    >>> draws = sample_outputs(
    ...     network, [np.array([0.1, 0.2, 0.5])], [np.array([2.0])], np.eye(2), 50_000, np.random.default_rng(0)
    ... )
    >>> draws.var(axis=0).round(1).ravel()
    array([1.2, 1.4], dtype=float32)
    """
    inputs = _scaled(network, X).astype(np.float32)
    draws = np.empty((n_draws, len(inputs), network.layer_sizes[-1]), np.float32)
    last = len(network.weights) - 1
    for draw in draws:
        values = inputs
        for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
            rows, columns = np.sqrt(row_variances[index]), np.sqrt(column_variances[index])
            noise = rng.standard_normal((len(rows), len(columns))) * rows[:, None] * columns
            values = values @ (weight + noise[:-1]).astype(np.float32) + (bias + noise[-1]).astype(np.float32)
            if index < last:
                values = activate(values, network.activation)
        draw[:] = values
    return draws


def relu_moments(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of max(z, 0) for a normal variable z.

    Parameters
    ----------
    mean, variance : ndarray of the same shape

    Returns
    -------
    mean, variance : ndarray of that shape

    Examples
    --------
    >>> mean, variance = relu_moments(np.zeros(1), np.ones(1))
    >>> mean.round(6), variance.round(6)
    (array([0.398942]), array([0.340845]))
    """
    std = np.sqrt(variance)
    z = mean / np.maximum(std, 1e-30)
    density = np.exp(-0.5 * np.minimum(z * z, 1400.0)) / np.sqrt(2 * np.pi)
    probability = normal_probability(z)
    first = mean * probability + std * density
    second = variance * probability + mean * first
    return first, np.maximum(second - first * first, 0.0)


def activation_moments(activation: str, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of an activation of a normal variable.

    Parameters
    ----------
    activation : {"identity", "relu", "tanh", "logistic"}
    mean, variance : ndarray of the same shape

    Returns
    -------
    mean, variance : ndarray of that shape
        Those of tanh and logistic by quadrature, within 0.004.
    """
    if activation == "identity":
        return mean, variance
    if activation == "relu":
        return relu_moments(mean, variance)
    values = mean[..., None] + np.sqrt(variance)[..., None] * _NODES
    values = np.tanh(values) if activation == "tanh" else 0.5 * np.tanh(0.5 * values) + 0.5
    first = (values * _WEIGHTS).sum(-1)
    return first, (np.square(values - first[..., None]) * _WEIGHTS).sum(-1)


def normal_probability(z: np.ndarray) -> np.ndarray:
    """Return the cumulative distribution function of the standard normal distribution, within 1e-7.

    Examples
    --------
    >>> normal_probability(np.array([-np.inf, -1.0, 0.0, 1.0])).round(6)
    array([0.      , 0.158655, 0.5     , 0.841345])
    """
    magnitude = np.abs(z) / np.sqrt(2)
    t = 1 / (1 + 0.3275911 * magnitude)
    polynomial = np.zeros_like(t)
    for coefficient in _ERROR_FUNCTION:
        polynomial = (polynomial + coefficient) * t
    tail = 0.5 * polynomial * np.exp(-np.minimum(magnitude * magnitude, 700.0))
    return np.where(z < 0, tail, 1 - tail)


def averaged_probabilities(mean: np.ndarray, variance: np.ndarray, output: str) -> np.ndarray:
    """Return probabilities averaged over normal logits.

    Parameters
    ----------
    mean, variance : ndarray of shape (n_samples, n_outputs)
        Moments of the logits.
    output : {"softmax", "logistic"}
        A logistic is averaged by quadrature, a softmax over 64 antithetic pairs of draws, the same for every row.

    Returns
    -------
    ndarray of shape (n_samples, n_classes), float32
        Rows sum to one; a single logistic output gives two columns.

    Examples
    --------
    >>> averaged_probabilities(np.array([[2.0]]), np.array([[0.0]]), "logistic").round(3)
    array([[0.119, 0.881]], dtype=float32)
    >>> averaged_probabilities(np.array([[2.0]]), np.array([[9.0]]), "logistic").round(3)
    array([[0.283, 0.717]], dtype=float32)
    """
    mean, std = mean.astype(np.float64), np.sqrt(variance, dtype=np.float64)
    if output == "logistic":
        positive = activation_moments("logistic", mean, std**2)[0].astype(np.float32)
        return np.hstack([1 - positive, positive]) if mean.shape[1] == 1 else positive
    draws = generator.normals(0, 0, np.arange(_N_PAIRS), mean.shape[1]).astype(np.float64)
    total = np.zeros_like(mean)
    for draw in np.concatenate([draws, -draws]):
        logits = mean + std * draw
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        total += exponentials / exponentials.sum(axis=1, keepdims=True)
    return (total / (2 * _N_PAIRS)).astype(np.float32)


def _scaled(network: Network, X: np.ndarray) -> np.ndarray:
    """Return the inputs of the first layer in float64."""
    if network.has_wide_inputs:
        return network.scale_inputs(X).astype(np.float64)
    rows = np.asarray(X, np.float64)
    if network.offset is not None:
        rows = rows - network.offset
    return rows if network.scale is None else rows * network.scale


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return rows @ matrix, bit-identical for a row in any batch."""
    # One row at a time: the order of additions of one large product would depend on the number of rows
    return np.matmul(rows[:, None, :], matrix)[:, 0, :]
