"""Fast prediction for one row, verified by a floating-point error bound.

It takes a fifth (64-256-64-10) to a tenth (784-256-64-10, docs/design.md) of the time of a tile of
`distill.runtime.forward`, which computes 16 rows.

One row is fastest as a product of a vector and a matrix, but a BLAS rounds that differently from a tile. Both are
within a bound of the exact outputs; if the largest output exceeds all others by more than both bounds together, both
computations have the same label, and that of the fast one is returned. All other rows, which are rare, are computed in
tiles.

Notes
-----
Summed in any order, with fused multiplications or without, k products of float32 have an error of at most
``g = (k + 1) u / (1 - (k + 1) u)`` times the sum of their magnitudes, ``u = 2**-24`` (Higham, "Accuracy and Stability
of Numerical Algorithms", section 3.1), which by Cauchy and Schwarz is at most the norm of the weights of an output
times that of its inputs. Below, an error is the sum of the errors of both computations.

The first bound, a multiple of the row's norm plus a constant, takes the worst case of every layer and suffices for
nearly all rows: inputs of a layer with an error of norm ``d`` and of norm at most ``H`` give pre-activations with an
error of norm at most ``|W| d + g (||W|| (H + d) + |b|)``, where ``|W|`` is the spectral norm and ``||W||`` that of the
magnitudes. No activation increases distances, and the logistic one divides them by four.

The few other rows are computed again, in parts as in the tiles, which has a smaller error, and a second bound follows
the row through the network. The pre-activations and their errors bound the slope of every unit (except relu units whose
pre-activation is closer to the kink than its error), and the difference between the largest output and another one is
propagated back through the layers, with signs, to where rounding errors arise.

Two details of the implementation. The fast pre-activations of a relu lack their biases:
``max(s, -b) = max(s + b, 0) - b``, and the missing ``b`` is included in the biases of the next layer, which saves an
addition. And a single output, whose sign is the label, is compared with a second one, which is zero.

Arrays of a layer with ``n_inputs`` inputs and ``n_outputs`` outputs; the last layer has at least two outputs:

=========== ===================================== ==========================================================
weight      (n_inputs, n_outputs) float32         aligned to 64 bytes
bias        (n_outputs,) float32
folded_bias (n_outputs,) float32                  fast computation: with the biases that its inputs lack
norms       (n_outputs,) float64                  bounds of the norms of the columns of weight
own         (n_outputs,) float64                  bounds of the errors that arise in the pre-activations
slope       (n_outputs,) float64 or bool          of each unit's activation
unexplained (n_outputs,) float64                  errors of each unit that the slopes do not describe
=========== ===================================== ==========================================================
"""

from math import exp, inf, log, sqrt

import numpy as np

# By name: after a product that has filled the first cache, looking a function up in a module takes a tenth of a us
from numpy import maximum, vdot

from distill.runtime.forward import MAX_INPUTS, Prepared, activate

# Unit roundoff of float32
_UNIT = 2.0**-24
# Squares of outputs up to this size are finite in float64; rows that may exceed it are computed in tiles
_MAX_OUTPUT = 1e30
# Above the sum of all products that underflow in float32
_UNDERFLOW = 1e-34
# Above the relative rounding errors of the backward propagation in float64
_BACKWARD_ROUNDING = 1e-9
# With more outputs this close to the largest, the tiles are faster than the second bound
_MAX_COMPETITORS = 4
# Up to this many outputs, all pairs of columns are compared for the largest distance
_MAX_COMPARED = 1000
_FLOAT32 = np.dtype(np.float32)

# Arrays of a hidden layer for one row: own, slope and unexplained
_Errors = tuple[np.ndarray, np.ndarray, np.ndarray]


class SingleRowClassifier:
    """Predict the label of one row, or report that the margin is too small.

    Parameters
    ----------
    prepared : Prepared
    activation : {"identity", "relu", "tanh", "logistic"}

    Examples
    --------
    >>> weight, bias = np.array([[1, 2], [3, 4]], np.float32), np.array([0, 0.5], np.float32)
    >>> classifier = SingleRowClassifier(Prepared(None, None, (weight,), (bias,)), "relu")
    >>> classifier.label(np.array([[1, 1]], np.float32)), classifier.label(np.array([[1, -1.5]], np.float32))
    (1, -1)
    """

    def __init__(self, prepared: Prepared, activation: str):
        self._offset, self._scale = prepared.offset, prepared.scale
        self._unscaled = prepared.offset is None and prepared.scale is None
        self._activation = activation
        self._weights, self._biases = _two_outputs(prepared)
        folded = _folded_biases(self._weights, self._biases, activation)
        self._relative, self._absolute, self._max_norm = _first_bound(self._weights, self._biases, folded, activation)
        self._errors = [_layer_errors(weight, bias) for weight, bias in zip(self._weights, self._biases)]
        *hidden, (last, folded_last) = zip(self._weights, folded)
        if activation == "relu":
            hidden = [(weight, -bias) for weight, bias in hidden]
        self._fast = hidden, last, folded_last, activation == "relu"

    def label(self, X: np.ndarray) -> int:
        """Return the index of the label, that of the largest output; -1 if it is not certain.

        Parameters
        ----------
        X : ndarray of shape (1, n_features)

        Returns
        -------
        int
            For a single output, 1 if it is positive and 0 otherwise.
        """
        row = X[0]
        if not (self._unscaled and X.dtype is _FLOAT32):
            if X.dtype.kind not in "fiub":
                return -1
            row = self._scaled(row)
        # Not row.dot(row), which warns where squares overflow
        norm = sqrt(vdot(row, row))
        if not norm < self._max_norm:
            return -1
        hidden, last, folded_last, relu = self._fast
        values = row
        for weight, shift in hidden:
            product = values.dot(weight)
            values = maximum(product, shift) if relu else activate(product + shift, self._activation)
        outputs = (values.dot(last) + folded_last).tolist()
        largest = max(outputs)
        best = outputs.index(largest)
        outputs[best] = -inf
        margin = self._relative * norm + self._absolute
        return best if largest - max(outputs) > margin else self._label_by_second_bound(row, margin)

    def _scaled(self, row: np.ndarray) -> np.ndarray:
        """Return the inputs of the first layer, float32."""
        with np.errstate(over="ignore", invalid="ignore"):
            row = row.astype(np.float32)
            if self._offset is not None:
                row -= self._offset
            if self._scale is not None:
                row *= self._scale
        return row

    def _label_by_second_bound(self, row: np.ndarray, margin: float) -> int:
        """Return the index of the label, or -1, for a row whose margin is below the first bound.

        Parameters
        ----------
        row : ndarray of shape (n_features,), float32
            Inputs of the first layer.
        margin : float
            The first bound.
        """
        values, error = row, 0.0
        layers: list[_Errors] = []
        with np.errstate(all="ignore"):
            for weight, bias, (norms, relative, absolute) in zip(self._weights, self._biases, self._errors):
                outputs = product_in_parts(values, weight) + bias
                own = (sqrt(vdot(values, values)) + error) * relative + absolute
                if len(layers) < len(self._weights) - 1:
                    errors = own + error * norms if layers else own
                    slope, spread = slopes(outputs, errors, self._activation)
                    unexplained = (spread + _BACKWARD_ROUNDING) * errors + activation_error(self._activation)
                    layers.append((own, slope, unexplained))
                    values = activate(outputs, self._activation)
                    error = sqrt(errors.dot(errors)) + activation_error(self._activation) * len(errors)
            outputs = outputs.tolist()
            largest = max(outputs)
            best = outputs.index(largest)
            others = [index for index, value in enumerate(outputs) if largest - value <= margin and index != best]
            if len(others) > _MAX_COMPETITORS:
                return -1
            certain = all(largest - outputs[other] > self._second_bound(best, other, own, layers) for other in others)
        return best if certain else -1

    def _second_bound(self, best: int, other: int, own: np.ndarray, layers: list[_Errors]) -> float:
        """Return the margin by which the largest output must lead another one.

        Parameters
        ----------
        best, other : int
        own : ndarray of shape (n_outputs,)
            Bounds of the errors that arise in the outputs.
        layers : list of tuple
            For each hidden layer the arrays `own`, `slope` and `unexplained`; see the table of the module.
        """
        weight = self._weights[-1]
        direction = np.subtract(weight[:, best], weight[:, other], dtype=np.float64)
        bound = own[best] + own[other]
        for index in reversed(range(len(layers))):
            own, slope, unexplained = layers[index]
            bound += unexplained.dot(np.abs(direction))
            direction = direction * slope
            bound += own.dot(np.abs(direction))
            if index:
                direction = self._weights[index] @ direction
        return float(bound)


def _two_outputs(prepared: Prepared) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return weights and biases; a single output becomes the second of two, and the first is zero."""
    weights, biases = list(prepared.weights), list(prepared.biases)
    if len(biases[-1]) == 1:
        weights[-1] = np.concatenate([np.zeros_like(weights[-1]), weights[-1]], axis=1)
        biases[-1] = np.concatenate([np.zeros_like(biases[-1]), biases[-1]])
    return [_aligned(weight) for weight in weights], biases


def _folded_biases(weights: list[np.ndarray], biases: list[np.ndarray], activation: str) -> list[np.ndarray]:
    """Return the biases of the fast computation; after a relu, with the biases that its values lack."""
    if activation != "relu":
        return biases
    folded = biases[:1]
    with np.errstate(over="ignore", invalid="ignore"):
        for weight, bias in zip(weights[1:], biases[1:]):
            lacking = folded[-1].astype(np.float64) @ weight.astype(np.float64)
            folded.append((bias + lacking).astype(np.float32))
    return folded


def _layer_errors(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return bounds of the errors of a layer whose products are computed in parts.

    Returns
    -------
    norms : ndarray of shape (n_outputs,), float64
        Bounds of the norms of the columns.
    relative, absolute : ndarray of shape (n_outputs,), float64
        For inputs of norm x, the errors of both computations together are below ``relative * x + absolute``. The
        factors 1.01 and 2.02 cover the rounding of the bounds themselves.
    """
    norms = 1.01 * np.linalg.norm(weight.astype(np.float64), axis=0)
    rounding = 2.02 * (1 + _rounding(len(weight))) * _rounding(_tile_additions(len(weight)))
    absolute = rounding * (np.abs(bias.astype(np.float64)) + _underflow_norm(len(weight)) * norms) + _UNDERFLOW
    return norms, rounding * norms, absolute


def product_in_parts(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return values @ weight, added in parts of 160 inputs, as the tiles do."""
    product = values[:MAX_INPUTS].dot(weight[:MAX_INPUTS])
    for start in range(MAX_INPUTS, len(weight), MAX_INPUTS):
        part = slice(start, start + MAX_INPUTS)
        product += values[part].dot(weight[part])
    return product


def _aligned(weight: np.ndarray) -> np.ndarray:
    """Return a copy at a multiple of 64 bytes, where a product with a vector is a tenth faster."""
    memory = np.empty(weight.size + 16, np.float32)
    start = -memory.ctypes.data % 64 // 4
    aligned = memory[start : start + weight.size].reshape(weight.shape)
    aligned[...] = weight
    return aligned


def _first_bound(
    weights: list[np.ndarray], biases: list[np.ndarray], folded: list[np.ndarray], activation: str
) -> tuple[float, float, float]:
    """Return the first bound and its range of validity.

    Parameters
    ----------
    weights, biases, folded : list of ndarray
        For each layer; see the table of the module.
    activation : str

    Returns
    -------
    relative, absolute : float
        For a row of norm x, a label whose margin is above ``relative * x + absolute`` is certain.
    max_norm : float
        Nothing overflows for rows of smaller norm.

    Notes
    -----
    The variables are pairs of coefficients, of the row's norm and of one: `norm` bounds the inputs of a layer, `error`
    their errors, `lacking` the biases that they lack.
    """
    norm, error, largest, lacking = np.array([1.0, 0.0]), np.zeros(2), np.zeros(2), np.zeros(2)
    for index, (weight, bias, folded_bias) in enumerate(zip(weights, biases, folded)):
        n_inputs, n_outputs = weight.shape
        wide = weight.astype(np.float64)
        constants = np.array([[0.0, np.linalg.norm(each.astype(np.float64))] for each in (bias, folded_bias)])
        magnitude = magnitude_norm_bound(wide) * (norm + error + lacking) + constants.max(axis=0)
        rounding = _rounding(n_inputs + 1) + _rounding(_tile_additions(n_inputs))
        own = rounding * magnitude + np.array([0.0, _UNDERFLOW * sqrt(n_outputs)])
        largest = np.maximum(largest, magnitude)
        if index == len(weights) - 1:
            error = largest_distance(wide) * error + sqrt(2) * own
            break
        spectral = spectral_norm_bound(wide)
        error = spectral * error + own
        norm = spectral * norm + constants[0]
        if activation == "relu":
            lacking = constants[1]
        elif activation != "identity":
            error = (1.0 if activation == "tanh" else 0.25) * error
            error = error + [0.0, activation_error(activation) * sqrt(n_outputs)]
            norm = np.array([0.0, sqrt(n_outputs)])  # activations are at most one
    # The norm of a row is computed in float32, too, where squares of small values underflow
    n_inputs = len(weights[0])
    relative, absolute = 1.01 * (1 + _rounding(n_inputs)) * error
    absolute += relative * _underflow_norm(n_inputs)
    max_norm = max(0.0, _MAX_OUTPUT - largest[1]) / max(largest[0], 1.0)
    return float(relative), float(absolute), min(max_norm, sqrt(_MAX_OUTPUT))


def largest_distance(weight: np.ndarray) -> float:
    """Return an upper bound of the distance between any two columns."""
    if weight.shape[1] > _MAX_COMPARED:
        return sqrt(2) * spectral_norm_bound(weight)
    products = weight.T @ weight
    squares = np.diag(products)
    distances = squares[:, None] + squares - 2 * products
    return sqrt(distances.max() + 1e-9 * squares.max())


def _underflow_norm(n_inputs: int) -> float:
    """Return a norm below which squares that are added in float32 may underflow."""
    return 1e-18 * sqrt(n_inputs)


def _rounding(n_additions: int) -> float:
    """Return a bound of the relative error of a sum of products, with a margin for the bias and a few additions."""
    return (n_additions + 4) * _UNIT / (1 - (n_additions + 4) * _UNIT)


def _tile_additions(n_inputs: int) -> int:
    """Return the depth of additions in a tile's sum, which is computed in parts; then the parts are added.

    For a vector the order of a BLAS is unknown, and the depth is that of adding one term after the other.
    """
    return min(n_inputs, MAX_INPUTS) + -(-n_inputs // MAX_INPUTS)


def activation_error(activation: str) -> float:
    """Return a bound of the errors of an activation itself in both computations; NumPy's tanh is within a few units."""
    return 32 * _UNIT if activation in ("tanh", "logistic") else 0.0


def slopes(outputs: np.ndarray, error: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of the slopes of an activation's chords.

    Any two pre-activations within `error` of the given ones are joined by a chord, whose slope is within `spread` of
    `slope`.

    Parameters
    ----------
    outputs, error : ndarray of shape (n_outputs,)
        Pre-activations and bounds of their errors.
    activation : str

    Returns
    -------
    slope, spread : ndarray of shape (n_outputs,), float64, or bool for a relu

    Examples
    --------
    >>> slopes(np.array([-1.0, 0.01, 1.0]), np.full(3, 0.1), "relu")
    (array([False,  True,  True]), array([False,  True, False]))
    """
    if activation == "relu":
        return outputs > 0, np.abs(outputs) <= error
    # The spreads: the largest second derivatives are 4 / sqrt(27) and 1 / sqrt(108)
    if activation == "tanh":
        return 1 - np.tanh(outputs.astype(np.float64)) ** 2, np.minimum(0.77 * error, 1)
    if activation == "logistic":
        return (1 - np.tanh(0.5 * outputs.astype(np.float64)) ** 2) / 4, np.minimum(0.097 * error, 0.25)
    return np.ones(len(outputs)), np.zeros(len(outputs))


def spectral_norm_bound(weight: np.ndarray) -> float:
    """Return an upper bound of the spectral norm, rarely more than a twentieth above it.

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
    """Return a close upper bound of the spectral norm of the magnitudes.

    For a matrix A without negative entries and a positive vector x, the largest entry of A x / x is not below the
    largest eigenvalue (Collatz and Wielandt).

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
        # Entries of the next vector stay positive
        vector = stretched / stretched.max() + 1e-3
    return bound
