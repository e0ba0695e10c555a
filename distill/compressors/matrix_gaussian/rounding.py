"""Round the weights of a layer together: what rounding one does to the sums, others that are still to come take back.

A posterior of independent weights says how precisely each must be stored while all others stay as they are. Inputs of a
layer are correlated, though: errors of their weights may add up to much, or cancel. With C the inputs' correlations the
loss of the column j is

    (z - m)^T C (z - m) / (2 v_j)  nats,    z and m in units of the rows' deviations,

one matrix for all columns. Rows are rounded one after the other; the rest is moved to where it is best given those that
are fixed, which is a triangular solve (Hassibi and Stork, "Optimal brain surgeon", 1993; for rounding: Frantar et al.,
"GPTQ", 2023). How far a row may be off is then said by its deviation given those before it, the others following; its
steps are as much coarser.
"""

from dataclasses import replace

import numpy as np
from scipy import linalg

from distill.codecs.grid import GridLayer, nearest_level, power

_N_PASSES = 2
# What a nat of code counts once steps are chosen. With all of it small weights go to zero that together matter much
_EAGERNESS = 0.5
# What of the posterior's precision is not from the inputs of the layer: of the prior, and of other rows of data
_DAMPING = 0.05
_MOST_COUNTED = 1 << 12
# Rows still to come do not follow all the way: many are zero and stay so
_FOLLOWING = 0.5


def input_correlations(inputs: np.ndarray, damping: float = _DAMPING) -> np.ndarray:
    """Return the correlations of a layer's inputs and its constant, about zero, with a diagonal of one.

    Parameters
    ----------
    inputs : ndarray of shape (n_samples, n_inputs)
    damping : float in (0, 1]
        Correlations are multiplied by one less this.

    Returns
    -------
    ndarray of shape (n_inputs + 1, n_inputs + 1)

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


def freedom(correlations: np.ndarray) -> np.ndarray:
    """Return how much coarser the steps of rows may be whose errors the rows after them make good.

    Parameters
    ----------
    correlations : ndarray of shape (n_inputs + 1, n_inputs + 1)
        See `input_correlations`.

    Returns
    -------
    ndarray of shape (n_inputs + 1,), int64
        Powers of 2^(1/4): of a row's deviation given those before it, over that given all others, the square root. Zero
        for the last.

    Examples
    --------
    >>> freedom(np.array([[1.0, 0.97], [0.97, 1.0]]))
    array([4, 0])
    """
    return nearest_level(np.diag(_factor(correlations)) ** _FOLLOWING)


def round_together(
    layer: GridLayer,
    mean: np.ndarray,
    row_variance: np.ndarray,
    column_variance: np.ndarray,
    correlations: np.ndarray,
    rate_weight: float,
) -> GridLayer:
    """Choose the codes of a layer again, so that their errors cancel.

    Parameters
    ----------
    layer : GridLayer
        Weights rounded one by one; says how large steps are, and which inputs are not used.
    mean : ndarray of shape (n_inputs + 1, n_outputs)
        What was rounded.
    row_variance, column_variance : ndarray of shape (n_inputs + 1,) and (n_outputs,)
        Of the posterior.
    correlations : ndarray of shape (n_inputs + 1, n_inputs + 1)
        Positive definite; see `input_correlations`.
    rate_weight : float
        What a nat of code is worth in nats of loss.

    Returns
    -------
    GridLayer
        The same steps.
    """
    factor = _factor(correlations)
    steps = power(layer.levels + layer.step_level)
    deviations = np.sqrt(row_variance)
    worth = 0.5 * np.square(steps) / (row_variance[:, None] * column_variance) / rate_weight
    kinds = _kinds(layer.levels)
    # Lengths are those of plain rounding: codes that were made short already would make others look long, and so on
    codes = np.rint(mean / steps).astype(np.int64)
    stays = np.append(layer.used, True)
    for _ in range(_N_PASSES):
        nats = _code_lengths(codes, kinds)
        wanted, chosen = mean.astype(np.float64), np.zeros_like(codes)
        for row in range(len(codes)):
            if stays[row]:
                exact = wanted[row] / steps[row]
                chosen[row] = _cheapest(exact, worth[row] / factor[row, row] ** 2, nats[kinds[row]])
            error = (wanted[row] - chosen[row] * steps[row]) / (deviations[row] * factor[row, row])
            wanted[row + 1 :] -= (deviations[row + 1 :] * factor[row, row + 1 :])[:, None] * error
        codes = chosen
    return replace(layer, codes=codes, used=codes[:-1].any(axis=1))


def _factor(correlations: np.ndarray) -> np.ndarray:
    """Return the upper triangle T with T^T T the inverse of the correlations; its diagonal is 1 or more."""
    return linalg.cholesky(linalg.inv(correlations), lower=False)


def _kinds(levels: np.ndarray) -> np.ndarray:
    """Sort weights into four kinds of like levels; biases are a kind of their own."""
    kinds = np.searchsorted(np.quantile(levels[:-1], (0.25, 0.5, 0.75)), levels)
    kinds[-1] = 4
    return kinds


def _code_lengths(codes: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return what a magnitude costs, for every kind; shape (5, largest + 2)."""
    magnitudes = np.minimum(np.abs(codes), _MOST_COUNTED)
    lengths = np.empty((5, int(magnitudes.max()) + 2))
    for kind in range(5):
        counts = np.bincount(magnitudes[kinds == kind], minlength=lengths.shape[1]) + 0.5
        lengths[kind] = np.log(counts.sum()) - np.log(counts)
    lengths[:, 1:] += np.log(2)
    return _EAGERNESS * lengths


def _cheapest(exact: np.ndarray, worth: np.ndarray, nats: np.ndarray) -> np.ndarray:
    """Choose between the nearest whole number, the next one towards zero, and zero; `nats` has a row for each."""
    magnitude = np.abs(exact)
    nearest = np.rint(magnitude).astype(np.int64)
    candidates = np.stack([nearest, np.maximum(nearest - 1, 0), np.zeros_like(nearest)])
    lengths = np.take_along_axis(nats.T, np.minimum(candidates, nats.shape[1] - 1), axis=0)
    costs = worth * np.square(candidates - magnitude) + lengths
    best = np.take_along_axis(candidates, costs.argmin(axis=0)[None], axis=0)[0]
    return np.where(exact < 0, -best, best)
