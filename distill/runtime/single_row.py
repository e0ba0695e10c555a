"""The label of a single row from a quick product, where its margin proves it right.

A row alone is fastest as a product of a vector and a matrix, but a BLAS rounds that in another way than the tiles of
`distill.runtime.forward`. Both are within a bound of the exact sums; where the best sum leads by more than the bounds
together, both have the same best label, and the quick one may answer. The rare other rows go through the tiles.

Notes
-----
Summed in any order, with fused multiplications or without, k products of float32 err by at most
``g = (k + 1) u / (1 - (k + 1) u)`` times the sum of their magnitudes, ``u = 2**-24`` (Higham, "Accuracy and Stability
of Numerical Algorithms", section 3.1), which by Cauchy and Schwarz is at most the length of the weights of a sum times
that of its inputs. Below, an error is the sum of both ways' distances from the exact numbers.

A first bound, a multiple of the row's length plus a constant, assumes the worst of every layer and settles nearly all
rows: inputs of a layer that are off by ``d`` in the Euclidean norm and not longer than ``H`` make sums that are off by
at most ``|W| d + g (||W|| (H + d) + |b|)``, where ``|W|`` is the spectral norm and ``||W||`` that of the magnitudes. No
activation stretches distances, and the logistic one divides them by four.

The few others are computed once more, in parts as the tiles are, which errs less, and a second bound follows what the
row meets on its way: knowing the sums and their errors, it knows by how much every unit multiplies a change (units of a
relu excepted whose sums are closer to its kink than their errors), and carries the difference between the best sum and
a rival back through the layers, signs and all, to where errors arise.

Two things are worth knowing. The quick sums of a relu lack their biases: ``max(s, -b) = max(s + b, 0) - b``, and what
is missing is made good for by the next layer's biases, which saves an addition. And a single output, whose sign tells
the label, has another one beside it, which is zero.
"""

from math import exp, inf, log, sqrt

import numpy as np

# By name: behind a product that has filled the first cache, looking a function up in a module takes a tenth of a us
from numpy import maximum, vdot

from distill.runtime.forward import MOST_INPUTS, Prepared, activate

_UNIT = 2.0**-24
_TOO_LARGE = 1e30
# More than products that underflow can add up to
_TINY = 1e-34
# More than the rounding errors of numbers in float64 that are computed on the way back
_REMAINDER = 1e-9
# With more sums as large as that, the tiles are faster
_MOST_RIVALS = 4
# Pairs of so many outputs are compared one by one
_MOST_COMPARED = 1000
_FLOAT32 = np.dtype(np.float32)


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
    >>> quick.label(np.array([[1, 1]], np.float32)), quick.label(np.array([[1, -1.5]], np.float32))
    (1, -1)
    """

    def __init__(self, prepared: Prepared, activation: str):
        self._offset, self._scale = prepared.offset, prepared.scale
        self._straight = prepared.offset is None and prepared.scale is None
        self._activation = activation
        self._weights, self._biases = _compared(prepared)
        added = _added(self._weights, self._biases, activation)
        self._relative, self._absolute, self._longest = _bounds(self._weights, self._biases, added, activation)
        self._roundings = [_roundings(weight, bias) for weight, bias in zip(self._weights, self._biases)]
        *hidden, (last, added_last) = zip(self._weights, added)
        if activation == "relu":
            hidden = [(weight, -constants) for weight, constants in hidden]
        self._quick = hidden, last, added_last, activation == "relu"

    def label(self, X: np.ndarray) -> int:
        """Return the index of the largest sum, or of a single sum whether it is positive; -1 if it is not certain.

        Parameters
        ----------
        X : ndarray of shape (1, n_features)
        """
        row = X[0]
        if not (self._straight and X.dtype is _FLOAT32):
            if X.dtype.kind not in "fiub":
                return -1
            row = self._entering(row)
        # Not row.dot(row), which warns where squares overflow
        length = sqrt(vdot(row, row))
        if not length < self._longest:
            return -1
        hidden, last, added, relu = self._quick
        values = row
        for weight, shift in hidden:
            product = values.dot(weight)
            values = maximum(product, shift) if relu else activate(product + shift, self._activation)
        sums = (values.dot(last) + added).tolist()
        largest = max(sums)
        best = sums.index(largest)
        sums[best] = -inf
        demanded = self._relative * length + self._absolute
        return best if largest - max(sums) > demanded else self._carefully(row, demanded)

    def _entering(self, row: np.ndarray) -> np.ndarray:
        """Return a row as it enters the first layer, in float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            row = row.astype(np.float32)
            if self._offset is not None:
                row -= self._offset
            if self._scale is not None:
                row *= self._scale
        return row

    def _carefully(self, row: np.ndarray, demanded: float) -> int:
        """Return the index of the largest sum, or -1, for a row whose margin is not as large as the first bound.

        Parameters
        ----------
        row : ndarray of shape (n_features,), float32
            What enters the first layer.
        demanded : float
            The first bound.
        """
        values, error, followed = row, 0.0, []
        with np.errstate(all="ignore"):
            for weight, bias, (lengths, relative, absolute) in zip(self._weights, self._biases, self._roundings):
                sums = _in_parts(values, weight) + bias
                own = (sqrt(vdot(values, values)) + error) * relative + absolute
                if len(followed) < len(self._weights) - 1:
                    errors = own + error * lengths if followed else own
                    slope, spread = _slopes(sums, errors, self._activation)
                    followed.append((own, slope, (spread + _REMAINDER) * errors + _jump(self._activation)))
                    values = activate(sums, self._activation)
                    error = sqrt(errors.dot(errors)) + _jump(self._activation) * len(errors)
            sums = sums.tolist()
            largest = max(sums)
            best = sums.index(largest)
            rivals = [index for index, value in enumerate(sums) if largest - value <= demanded and index != best]
            if len(rivals) > _MOST_RIVALS:
                return -1
            certain = all(largest - sums[rival] > self._second_bound(best, rival, own, followed) for rival in rivals)
        return best if certain else -1

    def _second_bound(self, best: int, rival: int, own: np.ndarray, followed: list[tuple[np.ndarray, ...]]) -> float:
        """Return by how much the best sum must lead a rival.

        Parameters
        ----------
        best, rival : int
        own : ndarray
            The errors that arise in the last sums.
        followed : list of tuple
            Of each hidden layer the errors that arise in its sums, the slopes of its units, and by how much their
            answers may be off besides.
        """
        weight = self._weights[-1]
        direction = np.subtract(weight[:, best], weight[:, rival], dtype=np.float64)
        bound = own[best] + own[rival]
        for index in reversed(range(len(followed))):
            own, slope, unexplained = followed[index]
            bound += unexplained.dot(np.abs(direction))
            direction = direction * slope
            bound += own.dot(np.abs(direction))
            if index:
                direction = self._weights[index] @ direction
        return float(bound)


def _compared(prepared: Prepared) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return weights and biases; beside a single output stands another one, the first, that is zero."""
    weights, biases = list(prepared.weights), list(prepared.biases)
    if len(biases[-1]) == 1:
        weights[-1] = np.concatenate([np.zeros_like(weights[-1]), weights[-1]], axis=1)
        biases[-1] = np.concatenate([np.zeros_like(biases[-1]), biases[-1]])
    return [_aligned(weight) for weight in weights], biases


def _added(weights: list[np.ndarray], biases: list[np.ndarray], activation: str) -> list[np.ndarray]:
    """Return what the quick way adds to its products: biases, and behind a relu what its values lack."""
    if activation != "relu":
        return biases
    added = biases[:1]
    with np.errstate(over="ignore", invalid="ignore"):
        for weight, bias in zip(weights[1:], biases[1:]):
            lacking = added[-1].astype(np.float64) @ weight.astype(np.float64)
            added.append((bias + lacking).astype(np.float32))
    return added


def _roundings(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lengths of the weights of each sum, and a, b: sums computed in parts err by less than ``a |x| + b``.

    Both ways together, with something for the rounding of bounds.
    """
    lengths = 1.01 * np.linalg.norm(weight.astype(np.float64), axis=0)
    rounding = 2.02 * (1 + _rounding(len(weight))) * _rounding(_tile_additions(len(weight)))
    absolute = rounding * (np.abs(bias.astype(np.float64)) + _vanishing(len(weight)) * lengths) + _TINY
    return lengths, rounding * lengths, absolute


def _in_parts(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    sums = values[:MOST_INPUTS].dot(weight[:MOST_INPUTS])
    for start in range(MOST_INPUTS, len(weight), MOST_INPUTS):
        part = slice(start, start + MOST_INPUTS)
        sums += values[part].dot(weight[part])
    return sums


def _aligned(weight: np.ndarray) -> np.ndarray:
    """Return a copy that begins at a multiple of 64 bytes, where a product with a vector is a tenth faster."""
    memory = np.empty(weight.size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    aligned = memory[start : start + weight.size].reshape(weight.shape)
    aligned[...] = weight
    return aligned


def _bounds(
    weights: list[np.ndarray], biases: list[np.ndarray], added: list[np.ndarray], activation: str
) -> tuple[float, float, float]:
    """Return a, b, c: no margin above ``a |x| + b`` is an error, and nothing overflows where ``|x| < c``.

    All of it is computed as coefficients of ``|x|`` and of one.
    """
    length, error, largest, lacking = np.array([1.0, 0.0]), np.zeros(2), np.zeros(2), np.zeros(2)
    for index, (weight, bias, more) in enumerate(zip(weights, biases, added)):
        n_inputs, n_outputs = weight.shape
        wide = weight.astype(np.float64)
        constants = np.array([[0.0, np.linalg.norm(each.astype(np.float64))] for each in (bias, more)])
        magnitude = magnitude_norm_bound(wide) * (length + error + lacking) + constants.max(axis=0)
        rounding = _rounding(n_inputs + 1) + _rounding(_tile_additions(n_inputs))
        own = rounding * magnitude + np.array([0.0, _TINY * sqrt(n_outputs)])
        largest = np.maximum(largest, magnitude)
        if index == len(weights) - 1:
            error = _largest_distance(wide) * error + sqrt(2) * own
            break
        spectral = spectral_norm_bound(wide)
        error = spectral * error + own
        length = spectral * length + constants[0]
        if activation == "relu":
            lacking = constants[1]
        elif activation != "identity":
            error = (1.0 if activation == "tanh" else 0.25) * error + [0.0, _jump(activation) * sqrt(n_outputs)]
            length = np.array([0.0, sqrt(n_outputs)])  # at most one
    # The length of a row is computed in float32, too, where the squares of small numbers vanish
    n_inputs = len(weights[0])
    relative, absolute = 1.01 * (1 + _rounding(n_inputs)) * error
    absolute += relative * _vanishing(n_inputs)
    longest = max(0.0, _TOO_LARGE - largest[1]) / max(largest[0], 1.0)
    return float(relative), float(absolute), min(longest, sqrt(_TOO_LARGE))


def _largest_distance(weight: np.ndarray) -> float:
    """Return a bound of the distances between any two columns."""
    if weight.shape[1] > _MOST_COMPARED:
        return sqrt(2) * spectral_norm_bound(weight)
    products = weight.T @ weight
    squares = np.diag(products)
    distances = squares[:, None] + squares - 2 * products
    return sqrt(distances.max() + 1e-9 * squares.max())


def _vanishing(n_inputs: int) -> float:
    """Return a length that is not seen where squares are added in float32."""
    return 1e-18 * sqrt(n_inputs)


def _rounding(n_additions: int) -> float:
    """Return the relative error of a sum of products, with room for the bias and a few units more."""
    return (n_additions + 4) * _UNIT / (1 - (n_additions + 4) * _UNIT)


def _tile_additions(n_inputs: int) -> int:
    """Return how many additions follow each other in a tile's sum, which is added in parts, and then the parts.

    What a BLAS does with a vector is not known: there every term may follow another.
    """
    return min(n_inputs, MOST_INPUTS) + -(-n_inputs // MOST_INPUTS)


def _jump(activation: str) -> float:
    """Return what an activation itself may err by, both ways together; NumPy's tanh is right to a few units."""
    return 32 * _UNIT if activation in ("tanh", "logistic") else 0.0


def _slopes(sums: np.ndarray, error: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes of an activation's chords.

    Any two sums that are not farther from the given ones than the error are joined by a chord; its slope is not
    farther than ``spread`` from ``slope``.

    Returns
    -------
    slope, spread : ndarray of numbers or, of a relu, booleans

    Examples
    --------
    >>> _slopes(np.array([-1.0, 0.01, 1.0]), np.full(3, 0.1), "relu")
    (array([False,  True,  True]), array([False,  True, False]))
    """
    if activation == "relu":
        return sums > 0, np.abs(sums) <= error
    # The spreads: the largest second derivatives are 4 / sqrt(27) and 1 / sqrt(108)
    if activation == "tanh":
        return 1 - np.tanh(sums.astype(np.float64)) ** 2, np.minimum(0.77 * error, 1)
    if activation == "logistic":
        return (1 - np.tanh(0.5 * sums.astype(np.float64)) ** 2) / 4, np.minimum(0.097 * error, 0.25)
    return np.ones(len(sums)), np.zeros(len(sums))


def spectral_norm_bound(weight: np.ndarray) -> float:
    """Return a number not below the spectral norm, and rarely a twentieth above it.

    The trace of the 32nd power of the Gram matrix is the sum of the 64th powers of the singular values.

    Examples
    --------
    >>> round(spectral_norm_bound(np.diag([3.0, 4.0])), 3)
    4.0
    """
    weight = np.asarray(weight, np.float64)
    power = weight.T @ weight if weight.shape[0] > weight.shape[1] else weight @ weight.T
    logarithm, exponent = 0.0, 2
    for step in range(5):
        norm = np.linalg.norm(power)
        if norm == 0:
            return 0.0
        logarithm += log(norm) / exponent
        power = power / norm
        if step < 4:
            power = power @ power
            exponent *= 2
    return exp(logarithm) * (1 + 1e-6)


def magnitude_norm_bound(weight: np.ndarray) -> float:
    """Return a number not below the spectral norm of the magnitudes, and close to it.

    No positive vector is stretched everywhere by less than the largest eigenvalue of a matrix without negative entries
    (Collatz and Wielandt).

    Examples
    --------
    >>> round(magnitude_norm_bound(np.array([[1.0, -1.0], [-1.0, 1.0]])), 3)
    2.0
    """
    magnitudes = np.abs(np.asarray(weight, np.float64))
    magnitudes = magnitudes[:, magnitudes.any(axis=0)]
    vector, bound = np.ones(magnitudes.shape[1]), 0.0
    for _ in range(5 if len(vector) else 0):
        stretched = magnitudes.T @ (magnitudes @ vector)
        bound = sqrt((stretched / vector).max()) * (1 + 1e-6)
        # Not quite where it leads to, so that no entry vanishes
        vector = stretched / stretched.max() + 1e-3
    return bound
