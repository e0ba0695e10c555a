"""Round the means of one layer's posterior to a grid, independently or jointly.

The steps of the grid follow the standard deviations of the posterior; see `distill.codecs.grid`. The code of a weight
is chosen by rate and distortion, between the nearest integer, the next one toward zero, and zero. The distortion is the
loss of the rounding error in nats, the rate the length of the code in nats times `rate_weight`.

*Independently.* Where weights are independent, the loss of the error z - m of a weight of variance u_i v_j is
``(z - m)^2 / (2 u_i v_j)``.

*Jointly.* The inputs of a layer are correlated, so that errors of their weights add up or cancel. With C the
correlations of the inputs, the loss of column j is

    (z - m)^T C (z - m) / (2 v_j)  nats,    z and m in units of the standard deviations of the rows,

with one matrix for all columns. Rows are rounded one after the other. The rows after them move to their optimum given
the rounded ones, which is a triangular solve (Hassibi and Stork, "Optimal brain surgeon", 1993; for rounding: Frantar
et al., "GPTQ", 2023). The tolerance of a row is then its standard deviation given the rows before it, because the rows
after it compensate; its steps may be larger by the same factor.
"""

from dataclasses import replace

import numpy as np
from scipy import linalg

from distill.codecs.grid import MAX_LOW_BITS, GridLayer, nearest_level, power

# Rounds of the choice of codes, each with the code lengths that follow from the codes of the round before. By hand
_N_INDEPENDENT_ROUNDS, _N_JOINT_ROUNDS = 3, 2
# Classes of weights with a code-length table each: quartiles of the levels of their steps, and the biases
_QUARTILES = (0.25, 0.5, 0.75)
_BIASES, _N_CLASSES = 4, 5
# Magnitudes from here on are counted as one in joint rounding; independent rounding keeps the nearest codes of a class
# that has such magnitudes. With steps this small the lengths of neighboring codes hardly differ
_LARGEST_COUNTED = 1 << 12
# Factor of the rate in joint rounding. At 1 too many small weights become zero that together matter; at 0 codes are the
# nearest ones, which saves no bytes
_RATE_DISCOUNT = 0.5
# Fraction of the posterior's precision that is not due to the inputs of the layer, but to the prior and other samples.
# It also keeps the correlations positive definite
_DAMPING = 0.05
# Exponent of the factor by which the steps of compensated rows are larger. 1 assumes that all later rows compensate
# fully, but many of them are zero and stay so; 0 assumes no compensation. 0.5 is the geometric mean of both, and takes
# 0.92 to 0.96 of the bytes of 0 at equal loss in tests/compressors/test_matrix_gaussian_compressor.py
_COMPENSATION = 0.5


def round_independently(
    mean: np.ndarray,
    row_variance: np.ndarray,
    column_variance: np.ndarray,
    rate_weight: float = 1.0,
    noise: np.ndarray | None = None,
    step_exponents: np.ndarray | None = None,
) -> GridLayer:
    """Round the means of independent weights to a grid that follows their variances.

    Parameters
    ----------
    mean : ndarray of shape (n_inputs + 1, n_outputs)
        The biases last.
    row_variance : ndarray of shape (n_inputs + 1,)
    column_variance : ndarray of shape (n_outputs,)
        The variance of a weight is the product of both.
    rate_weight : float
        Price of a nat of code in nats of loss, positive. Steps are ``sqrt(12 rate_weight)`` standard deviations.
    noise : ndarray of shape (n_outputs,) or None
        Variance of the noise of a regression; for a last layer.
    step_exponents : ndarray of shape (n_inputs + 1,), int64, or None
        See `GridLayer`.

    Returns
    -------
    GridLayer

    Raises
    ------
    ValueError
        If a mean is not finite, a variance not positive and finite, or a weight too many steps from zero for the file
        format.
    """
    _check_posterior(mean, row_variance, column_variance)
    rows, columns = nearest_level(np.sqrt(row_variance)), nearest_level(np.sqrt(column_variance))
    # A factor can move between rows and columns; by convention the lowest column level is zero
    rows, columns = rows + columns.min(), columns - columns.min()
    step_level = int(np.clip(nearest_level(np.sqrt(12 * rate_weight)), -127, 127))
    levels = rows[:, None] + columns
    if step_exponents is not None:
        levels += step_exponents[:, None]
    exact = mean / power(levels + step_level)
    if np.abs(exact).max() >= 1 << (8 + MAX_LOW_BITS):
        raise ValueError("a weight is more steps from zero than a student file holds; use a larger rate_weight")
    distortion = 0.5 * float(power(np.array(step_level))) ** 2
    classes = step_classes(levels)
    codes = np.rint(exact).astype(np.int64)
    for _ in range(_N_INDEPENDENT_ROUNDS):
        codes = _shorter_codes(exact, codes, classes, distortion, rate_weight)
    used = codes[:-1].any(axis=1)
    rows[:-1][~used] = rows[-1]
    return GridLayer(
        codes=codes,
        row_levels=rows,
        column_levels=columns,
        step_level=step_level,
        used=used,
        noise=None if noise is None else np.asarray(noise, np.float32),
        step_exponents=step_exponents,
    )


def round_jointly(
    layer: GridLayer,
    mean: np.ndarray,
    row_variance: np.ndarray,
    column_variance: np.ndarray,
    correlations: np.ndarray,
    rate_weight: float,
) -> GridLayer:
    """Choose the codes of a layer again, such that the errors of correlated inputs cancel.

    Parameters
    ----------
    layer : GridLayer
        The weights rounded independently. Its steps and its unused inputs are kept.
    mean : ndarray of shape (n_inputs + 1, n_outputs)
    row_variance, column_variance : ndarray of shape (n_inputs + 1,) and (n_outputs,)
        Variances of the posterior.
    correlations : ndarray of shape (n_inputs + 1, n_inputs + 1)
        Positive definite; see `input_correlations`.
    rate_weight : float
        Price of a nat of code in nats of loss.

    Returns
    -------
    GridLayer
        The same layer with other codes.

    Notes
    -----
    ========== ========================= ==============================================================================
    array      shape                     content
    ========== ========================= ==============================================================================
    factor     (n_inputs + 1, same)      upper triangle T, T^T T the inverse of the correlations
    steps      (n_inputs + 1, n_outputs) size of one step
    stds       (n_inputs + 1,)           standard deviations of the rows
    distortion (n_inputs + 1, n_outputs) loss of an error of one step, other weights fixed, in units of `rate_weight`
    classes    (n_inputs + 1, n_outputs) class of each weight; see `step_classes`
    lengths    (n_classes, n_magnitudes) length of each magnitude's code in nats, discounted
    targets    (n_inputs + 1, n_outputs) means, moved by the errors of the rows before them
    ========== ========================= ==============================================================================
    """
    factor = _inverse_factor(correlations)
    steps = power(layer.levels + layer.step_level)
    stds = np.sqrt(row_variance)
    distortion = 0.5 * np.square(steps) / (row_variance[:, None] * column_variance) / rate_weight
    classes = step_classes(layer.levels)
    # Lengths follow from plain rounding: those of codes already shortened would shorten the next ones too much
    codes = np.rint(mean / steps).astype(np.int64)
    stored = np.append(layer.used, True)
    for _ in range(_N_JOINT_ROUNDS):
        magnitudes = np.minimum(np.abs(codes), _LARGEST_COUNTED)
        n_magnitudes = int(magnitudes.max()) + 2
        tables = [code_lengths(magnitudes[classes == number], n_magnitudes) for number in range(_N_CLASSES)]
        lengths = _RATE_DISCOUNT * np.stack(tables)
        targets, chosen = mean.astype(np.float64), np.zeros_like(codes)
        for row in range(len(codes)):
            if stored[row]:
                exact = targets[row] / steps[row]
                chosen[row] = cheapest_codes(exact, distortion[row] / factor[row, row] ** 2, lengths, classes[row])
            error = (targets[row] - chosen[row] * steps[row]) / (stds[row] * factor[row, row])
            targets[row + 1 :] -= (stds[row + 1 :] * factor[row, row + 1 :])[:, None] * error
        codes = chosen
    return replace(layer, codes=codes, used=codes[:-1].any(axis=1))


def input_correlations(inputs: np.ndarray, damping: float = _DAMPING) -> np.ndarray:
    """Return the uncentered correlations of a layer's inputs and its constant.

    Parameters
    ----------
    inputs : ndarray of shape (n_samples, n_inputs)
    damping : float in (0, 1]
        Correlations are multiplied by ``1 - damping``.

    Returns
    -------
    ndarray of shape (n_inputs + 1, n_inputs + 1), float64
        Symmetric, its diagonal one.

    Examples
    --------
    >>> input_correlations(np.array([[1.0, 1.0], [1.0, -1.0]]), 0.1)
    array([[1. , 0. , 0.9],
           [0. , 1. , 0. ],
           [0.9, 0. , 1. ]])
    """
    rows = np.hstack([inputs, np.ones((len(inputs), 1), inputs.dtype)]).astype(np.float32)
    moments = (rows.T @ rows).astype(np.float64)
    size = np.sqrt(np.diag(moments))
    inverse = np.divide(1, size, out=np.zeros_like(size), where=size > 0)
    correlations = (1 - damping) * moments * inverse[:, None] * inverse
    np.fill_diagonal(correlations, 1.0)
    return correlations


def step_multipliers(correlations: np.ndarray) -> np.ndarray:
    """Return the factors by which the steps of rows may be larger because the rows after them compensate.

    Parameters
    ----------
    correlations : ndarray of shape (n_inputs + 1, n_inputs + 1)
        See `input_correlations`.

    Returns
    -------
    ndarray of shape (n_inputs + 1,), int64
        As powers of 2^(1/4). The factor is the square root of the standard deviation of a row given the rows before it,
        over that given all others. Zero for the last row.

    Examples
    --------
    >>> step_multipliers(np.array([[1.0, 0.97], [0.97, 1.0]]))
    array([4, 0])
    """
    return nearest_level(np.diag(_inverse_factor(correlations)) ** _COMPENSATION)


def step_classes(levels: np.ndarray) -> np.ndarray:
    """Return the class of each weight: 0 to 3 for the quartiles of the weights' levels, 4 for biases.

    Parameters
    ----------
    levels : ndarray of shape (n_inputs + 1, n_outputs), int64
        Levels of the steps; see `GridLayer.levels`.

    Returns
    -------
    ndarray of shape (n_inputs + 1, n_outputs), int64

    Notes
    -----
    They approximate the classes of the codec, which depend on the codes; see `distill.codecs.grid`.
    """
    classes = np.searchsorted(np.quantile(levels[:-1], _QUARTILES), levels)
    classes[-1] = _BIASES
    return classes


def code_lengths(magnitudes: np.ndarray, n_magnitudes: int) -> np.ndarray:
    """Return the length of a code in nats, for each magnitude: ideal for these codes, a sign included.

    Parameters
    ----------
    magnitudes : ndarray of int
        Magnitudes of the codes of one class.
    n_magnitudes : int
        Least number of magnitudes in the result. Half a code is added to each count, so that no length is infinite.

    Returns
    -------
    ndarray of shape (n_magnitudes,)
        More than `n_magnitudes` if a code is larger.

    Examples
    --------
    >>> code_lengths(np.array([0, 0, 0, 1]), 2).round(2)
    array([0.36, 1.9 ])
    """
    counts = np.bincount(magnitudes, minlength=n_magnitudes) + 0.5
    lengths = np.log(counts.sum()) - np.log(counts)
    lengths[1:] += np.log(2)
    return lengths


def cheapest_codes(
    exact: np.ndarray,
    distortion: float | np.ndarray,
    lengths: np.ndarray,
    classes: np.ndarray,
    largest: np.ndarray | None = None,
) -> np.ndarray:
    """Choose the code of least cost for each weight: the nearest integer, the next one toward zero, or zero.

    Parameters
    ----------
    exact : ndarray
        Weights in steps.
    distortion : float or ndarray of the same shape
        Cost of an error of one step; it grows with the square of the error.
    lengths : ndarray of shape (n_classes, n_magnitudes)
        Cost of each magnitude. Larger magnitudes cost as much as the last one.
    classes : ndarray of int, of the same shape
    largest : ndarray of int, of the same shape, or None
        Limit of the magnitudes.

    Returns
    -------
    ndarray of the same shape, int64

    Examples
    --------
    >>> lengths, classes = np.array([[0.1, 2.0, 3.0]]), np.zeros(4, int)
    >>> cheapest_codes(np.array([-0.6, 1.55, -1.7, 2.2]), 5.0, lengths, classes)
    array([ 0,  1, -2,  2])
    """
    magnitudes = np.abs(exact)
    nearest = np.rint(magnitudes).astype(np.int64)
    if largest is not None:
        nearest = np.minimum(nearest, largest)
    candidates = np.stack([nearest, np.maximum(nearest - 1, 0), np.zeros_like(nearest)])
    rates = lengths[classes, np.minimum(candidates, lengths.shape[1] - 1)]
    costs = distortion * np.square(candidates - magnitudes) + rates
    best = np.take_along_axis(candidates, costs.argmin(axis=0)[None], axis=0)[0]
    return np.where(exact < 0, -best, best)


def _check_posterior(mean: np.ndarray, row_variance: np.ndarray, column_variance: np.ndarray) -> None:
    """Raise ValueError if a mean or variance is out of range."""
    if not np.isfinite(mean).all():
        raise ValueError("the means of the weights must be finite; the posterior has diverged, lower the learning rate")
    for variance in (row_variance, column_variance):
        if not (np.isfinite(variance) & (variance > 0)).all():
            raise ValueError(
                "variances must be positive and finite; the posterior has diverged, lower the learning rate"
            )


def _shorter_codes(
    exact: np.ndarray, codes: np.ndarray, classes: np.ndarray, distortion: float, rate_weight: float
) -> np.ndarray:
    """Choose codes anew, with the code lengths of the present ones; no code exceeds the largest of its class."""
    magnitudes = np.abs(codes)
    largest = np.array([magnitudes[classes == number].max(initial=1) for number in range(_N_CLASSES)])
    counted = largest < _LARGEST_COUNTED
    lengths = np.full((_N_CLASSES, largest[counted].max(initial=1) + 1), np.inf)
    for number in np.flatnonzero(counted):
        lengths[number, : largest[number] + 1] = rate_weight * code_lengths(magnitudes[classes == number], 2)
    chosen = cheapest_codes(exact, distortion, lengths, classes, largest[classes])
    return np.where(counted[classes], chosen, codes)


def _inverse_factor(correlations: np.ndarray) -> np.ndarray:
    """Return the upper triangle T with T^T T the inverse of the correlations; its diagonal is 1 or more."""
    return linalg.cholesky(linalg.inv(correlations), lower=False)
