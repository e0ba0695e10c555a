"""The label of a single row from a quick product, where its margin proves it right.

A row alone is fastest as a product of a vector and a matrix, but a BLAS rounds that in another way than the tiles of
`distill.arithmetic`. Both are within a bound of the exact sums; where the best sum leads by more than the bounds
together, both have the same best label, and the quick one may answer. The rare other rows go through the tiles.

Notes
-----
Summed in any order, with fused multiplications or without, k products of float32 err by at most
``g = (k + 1) u / (1 - (k + 1) u)`` times the sum of their magnitudes, ``u = 2**-24`` (Higham, "Accuracy and Stability
of Numerical Algorithms", section 3.1). So if a layer's input is off by ``d`` in the Euclidean norm and not longer than
``H``, its sums are off by at most ``|W| d + g (||W|| (H + d) + |b|)``, where ``|W|`` is the spectral norm and ``||W||``
the Frobenius norm, which bounds the spectral norm of the magnitudes. No activation stretches distances, and
the logistic one divides them by four.

A first bound, a multiple of the row's length, assumes the worst of every layer and settles nearly all rows. For the
others the lengths and the numbers of zeros that the quick sums met give a closer one: adding a zero rounds nothing.
"""

import math
from collections.abc import Callable

import numpy as np

from distill.arithmetic import MOST_INPUTS, Prepared, activate

_UNIT = 2.0**-24
# An input that the activation turns into exactly one
_SATURATING = {"identity": 1.0, "relu": 1.0, "tanh": 20.0, "logistic": 40.0}
_ZERO = np.zeros((), np.float32)
_TOO_LARGE = 1e30


class QuickLabel:
    """Find the label of one row, or say that the margin is too small.

    Parameters
    ----------
    prepared : Prepared
    activation : str

    Examples
    --------
    >>> weight, bias = np.array([[1, 2], [3, 4]], np.float32), np.array([0, 0.5], np.float32)
    >>> quick = QuickLabel(Prepared(None, None, (weight,), (bias,)), "relu")
    >>> quick(np.array([[1, 1]], np.float32)), quick(np.array([[1, -1.5]], np.float32))
    (1, -1)
    """

    def __init__(self, prepared: Prepared, activation: str):
        self._offset, self._scale = prepared.offset, prepared.scale
        self._activate = None if activation == "relu" else activation
        self._n_inputs = len(prepared.weights[0])
        *self._hidden, self._last = _augmented(prepared, activation)
        self._relative, self._absolute, self._longest = _bounds(prepared, activation)
        self._norms = [_norms(weight, bias) for weight, bias in zip(prepared.weights, prepared.biases)]
        self._blank = np.zeros(self._n_inputs + 1, np.float32)
        self._blank[-1] = 1

    def __call__(self, X: np.ndarray) -> int:
        """Return the index of the largest sum, or of a single sum whether it is positive; -1 if it is not certain.

        Parameters
        ----------
        X : ndarray of shape (1, n_features), of integers, booleans or floats
        """
        n_inputs = self._n_inputs
        row = self._blank.copy()
        if X.dtype == np.float64:
            with np.errstate(over="ignore"):
                row[:n_inputs] = X
        else:
            row[:n_inputs] = X
        if self._offset is not None:
            row[:n_inputs] -= self._offset
        if self._scale is not None:
            row[:n_inputs] *= self._scale
        squared_norm = float(np.vdot(row, row))
        if not squared_norm < self._longest:
            return -1
        inputs = [row]
        for weight in self._hidden:
            row = row.dot(weight)
            if self._activate is None:
                np.maximum(row, _ZERO, out=row)
            else:
                activate(row, self._activate)
            inputs.append(row)
        sums = row.dot(self._last).tolist()
        uncertain = self._relative * math.sqrt(squared_norm) + self._absolute
        if len(sums) == 1:
            best, margin = int(sums[0] > 0), abs(sums[0])
        else:
            largest = max(sums)
            best = sums.index(largest)
            sums[best] = -math.inf
            margin = largest - max(sums)
        if uncertain < margin < _TOO_LARGE or self._close_error(inputs) < margin < _TOO_LARGE:
            return best
        return -1

    def _close_error(self, inputs: list[np.ndarray]) -> float:
        """Return a bound for differences of sums, from the inputs of all layers, each with its one at the end."""
        quick_error = tile_error = 0.0
        for index, (row, (spectral, frobenius, bias_norm)) in enumerate(zip(inputs, self._norms)):
            length, n_terms = 1.001 * math.sqrt(np.vdot(row, row)), int(np.count_nonzero(row))
            own = _rounding(n_terms) * (frobenius * length + bias_norm)
            # Behind the first layer the tiles may have other zeros
            n_additions = _tile_additions(len(row) if index else n_terms, len(row))
            other = _rounding(n_additions) * (frobenius * (length + quick_error + tile_error) + bias_norm)
            quick_error, tile_error = spectral * quick_error + own, spectral * tile_error + other
            if index < len(inputs) - 1:
                slope, jump = _stretch(self._activate, len(inputs[index + 1]))
                quick_error, tile_error = slope * quick_error + jump, slope * tile_error + jump
        return math.sqrt(2) * (quick_error + tile_error) * 1.01 + 1e-30


def _augmented(prepared: Prepared, activation: str) -> list[np.ndarray]:
    """Return the weights with the biases as their last row, for an input that is one, one column after another."""
    augmented = []
    for index, (weight, bias) in enumerate(zip(prepared.weights, prepared.biases)):
        n_inputs, n_outputs = weight.shape
        last = index == len(prepared.weights) - 1
        whole = np.zeros((n_inputs + 1, n_outputs + (not last)), np.float32, order="F")
        whole[:n_inputs, :n_outputs] = weight
        whole[n_inputs, :n_outputs] = bias
        if not last:
            whole[n_inputs, n_outputs] = _SATURATING[activation]
        augmented.append(whole)
    return augmented


def _bounds(prepared: Prepared, activation: str) -> tuple[float, float, float]:
    """Return a, b, c: no margin above ``a |x| + b`` is an error, and nothing overflows where ``|x|**2 < c``."""
    quick_error, largest = _propagated(prepared, activation, lambda n_inputs: n_inputs)
    tile_error, _ = _propagated(prepared, activation, lambda n_inputs: _tile_additions(n_inputs, n_inputs))
    # The difference of two entries of the difference of both results; the rest covers our own rounding
    relative, absolute = math.sqrt(2) * (quick_error + tile_error) * 1.01
    longest = max(0.0, _TOO_LARGE - largest[1]) / max(largest[0], 1.0)
    return float(relative), float(absolute) + 1e-30, min(longest**2, _TOO_LARGE)


def _propagated(
    prepared: Prepared, activation: str, n_additions: Callable[[int], int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of the last layer's error and of all sums of magnitudes, as coefficients of ``|x|`` and of one."""
    length, error, largest = np.array([1.0, 0.0]), np.zeros(2), np.zeros(2)
    for index, (weight, bias) in enumerate(zip(prepared.weights, prepared.biases)):
        n_inputs, n_outputs = weight.shape
        spectral, frobenius, bias_norm = _norms(weight, bias)
        bias_norm = np.array([0.0, bias_norm])
        magnitude = frobenius * (length + error) + bias_norm
        error = spectral * error + _rounding(n_additions(n_inputs)) * magnitude
        largest = np.maximum(largest, magnitude)
        length = spectral * length + bias_norm
        if index < len(prepared.weights) - 1:
            slope, jump = _stretch(activation, n_outputs)
            error = slope * error + np.array([0.0, jump])
            if activation in ("tanh", "logistic"):  # at most one
                length = np.array([0.0, math.sqrt(n_outputs)])
    return error, largest


def _norms(weight: np.ndarray, bias: np.ndarray) -> tuple[float, float, float]:
    """Return bounds of the spectral norm, the Frobenius norm, and the length of the biases."""
    wide = weight.astype(np.float64)
    lengths = float(np.linalg.norm(wide)), float(np.linalg.norm(bias.astype(np.float64)))
    return spectral_norm_bound(wide), *lengths


def _rounding(n_additions: int) -> float:
    """Return the relative error of a sum of products, with room for the bias and a few units more."""
    return (n_additions + 4) * _UNIT / (1 - (n_additions + 4) * _UNIT)


def _tile_additions(n_terms: int, n_inputs: int) -> int:
    """Return how many additions follow each other in a tile's sum, which is added in parts, and then the parts.

    What a BLAS does with a vector is not known: there every term may follow another.
    """
    return min(n_terms, MOST_INPUTS) + -(-n_inputs // MOST_INPUTS)


def _stretch(activation: str | None, n_outputs: int) -> tuple[float, float]:
    """Return by how much an activation multiplies distances at most, and what it adds.

    NumPy's tanh is right to a few units in the last place.
    """
    if activation not in ("tanh", "logistic"):
        return 1.0, 0.0
    return (1.0 if activation == "tanh" else 0.25), 16 * _UNIT * math.sqrt(n_outputs)


def spectral_norm_bound(weight: np.ndarray) -> float:
    """Return a number not below the spectral norm, and rarely a tenth above it.

    The trace of the eighth power of the Gram matrix is the sum of the sixteenth powers of the singular values.

    Examples
    --------
    >>> round(spectral_norm_bound(np.diag([3.0, 4.0])), 3)
    4.002
    """
    weight = np.asarray(weight, np.float64)
    power = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
    logarithm, exponent = 0.0, 2
    for step in range(3):
        norm = np.linalg.norm(power)
        if norm == 0:
            return 0.0
        logarithm += math.log(norm) / exponent
        power = power / norm
        if step < 2:
            power = power @ power
            exponent *= 2
    return math.exp(logarithm) * (1 + 1e-6)
