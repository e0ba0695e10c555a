"""The least-squares problem of a wide layer, without the products of all pairs of inputs.

The matrix of inner products of 20000 inputs takes 3.2 GB, and a change of one weight is added to a row of it. Here the
inputs themselves are kept, by columns and only where they differ from the most frequent value of their column: zeros of
sparse rows, also after scaling. A step costs as many operations as the input of a weight has such entries.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy import sparse

from distill.compressors.codebook.layer_problem import LayerProblem, layer_problem

# Inputs up to which the inner products of all pairs are computed: they take 134 MB, and twice that while they are made
MOST_INPUTS_OF_GRAM = 4096
# Values of the inputs that are looked at together, 32 MB in float64
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class WideLayerProblem:
    """The same function of the weights as that of `LayerProblem`, with the inputs in place of their inner products.

    Parameters
    ----------
    columns : CSC of shape (n_samples, n_inputs), float64
        Inputs less the most frequent value of each, which centering removes.
    column_mean : ndarray of shape (n_inputs,), float64
        Means of `columns`.
    targets : ndarray of shape (n_samples, n_outputs), float64
        Centered.
    weight : ndarray of shape (n_inputs, n_outputs), float64
        The original weights.
    anchor : float
        Weight of the squared distance from the original weights.
    cross : ndarray of shape (n_inputs, n_outputs), float64
    power : float
    input_mean : ndarray of shape (n_inputs,), float64
    target_mean : ndarray of shape (n_outputs,), float64
        As in `LayerProblem`.
    """

    columns: sparse.csc_array
    column_mean: np.ndarray
    targets: np.ndarray
    weight: np.ndarray
    anchor: float
    cross: np.ndarray
    power: float
    input_mean: np.ndarray
    target_mean: np.ndarray

    def outputs(self, weight: np.ndarray) -> np.ndarray:
        """Return the centered outputs for weights of shape (n_inputs, n_outputs); shape (n_samples, n_outputs)."""
        return self.columns @ weight - self.column_mean @ weight

    def times_gram(self, weight: np.ndarray) -> np.ndarray:
        """Return the product of the inner products of the inputs, with the anchor, and weights."""
        return _transposed_product(self.columns, self.column_mean, self.outputs(weight)) + self.anchor * weight

    def centered(self) -> np.ndarray:
        """Return the centered inputs, dense float32, shape (n_samples, n_inputs)."""
        return self.columns.astype(np.float32).toarray() - self.column_mean.astype(np.float32)

    def error(self, weight: np.ndarray) -> float:
        """Return the sum of squared errors of the outputs for weights of shape (n_inputs, n_outputs)."""
        weight = np.asarray(weight, np.float64)
        errors = np.square(self.outputs(weight) - self.targets).sum()
        return float(errors + self.anchor * np.square(weight - self.weight).sum())

    def bias(self, weight: np.ndarray) -> np.ndarray:
        """Return the best bias for these weights; ndarray of shape (n_outputs,), float64."""
        return self.target_mean - self.input_mean @ np.asarray(weight, np.float64)

    def sweep(
        self, codes: np.ndarray, levels: np.ndarray, groups: np.ndarray, prices: np.ndarray, frozen: np.ndarray
    ) -> None:
        """Assign to every weight in turn the best codeword while all others stay; `codes` changes in place."""
        weight = levels[groups[:, None], codes].T
        rest = np.ascontiguousarray((self.outputs(weight) - self.targets).T)
        sums = self.column_mean * self.columns.shape[0]
        squares = np.bincount(
            np.repeat(np.arange(len(sums)), np.diff(self.columns.indptr)), self.columns.data**2, len(sums)
        )
        curvature = squares - sums * self.column_mean + self.anchor
        start = np.ascontiguousarray(self.weight.T)
        columns = (self.columns.data, self.columns.indices, self.columns.indptr)
        _sweep_columns(codes, rest, columns, sums, curvature, start, self.anchor, levels, groups, prices, frozen)

    def accumulate(
        self, codes: np.ndarray, groups: np.ndarray, n_groups: int, n_codewords: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the normal equations of the codewords of each group: curvature and slope.

        Returns
        -------
        curvature : ndarray of shape (n_groups, n_codewords, n_codewords)
        slope : ndarray of shape (n_groups, n_codewords)
        """
        curvature, slope = np.zeros((n_groups, n_codewords, n_codewords)), np.zeros((n_groups, n_codewords))
        data, indices, indptr = self.columns.data, self.columns.indices, self.columns.indptr
        for neuron, code in enumerate(codes):
            sums = np.zeros((self.columns.shape[0], n_codewords))
            _sum_by_code(code, data, indices, indptr, sums)
            sums -= np.bincount(code, self.column_mean, n_codewords)
            counts = np.bincount(code, minlength=n_codewords)
            curvature[groups[neuron]] += sums.T @ sums + np.diag(self.anchor * counts)
            slope[groups[neuron]] += np.bincount(code, self.cross[:, neuron], n_codewords)
        return curvature, slope


def make_problem(
    inputs: np.ndarray, used: np.ndarray, targets: np.ndarray, weight: np.ndarray, ridge: float = 1e-3
) -> LayerProblem | WideLayerProblem:
    """Set up the least-squares problem of a layer, in the form that suits its width.

    Parameters
    ----------
    inputs : ndarray of shape (n_samples, n_all)
    used : ndarray of shape (n_all,), bool
        Inputs with weights in the problem.
    targets, weight, ridge
        See `distill.compressors.codebook.layer_problem.layer_problem`; weights of the used inputs only.

    Returns
    -------
    LayerProblem or WideLayerProblem
        The second for more than 4096 used inputs.
    """
    if np.count_nonzero(used) <= MOST_INPUTS_OF_GRAM:
        return layer_problem(inputs[:, used], targets, weight, ridge)
    return wide_problem(inputs, np.flatnonzero(used), targets, weight, ridge)


def wide_problem(
    inputs: np.ndarray, used: np.ndarray, targets: np.ndarray, weight: np.ndarray, ridge: float = 1e-3
) -> WideLayerProblem:
    """Set up the least-squares problem of a wide layer; `used` are positions, the rest is as in `make_problem`."""
    columns, base = _differences(inputs, used)
    targets, weight = np.asarray(targets, np.float64), np.asarray(weight, np.float64)
    target_mean = targets.mean(axis=0)
    targets = targets - target_mean
    column_mean = np.asarray(columns.mean(axis=0)).ravel()
    spread = float(np.square(columns.data).sum() - len(inputs) * np.square(column_mean).sum()) / len(used)
    anchor = ridge * spread if spread > 0 else 1.0
    cross = _transposed_product(columns, column_mean, targets) + anchor * weight
    power = float(np.sum(targets**2)) + anchor * float(np.sum(weight**2))
    return WideLayerProblem(
        columns, column_mean, targets, weight, anchor, cross, power, base + column_mean, target_mean
    )


def _differences(inputs: np.ndarray, used: np.ndarray) -> tuple[sparse.csc_array, np.ndarray]:
    """Return the used columns less a value of each, the most frequent one of more than half, and these values."""
    width = max(1, _BLOCK_VALUES // len(inputs))
    parts, bases = [], []
    for start in range(0, len(used), width):
        block = inputs[:, used[start : start + width]].astype(np.float64)
        base = np.partition(block, len(block) // 2, axis=0)[len(block) // 2]
        parts.append(sparse.csc_array(block - base))
        bases.append(base)
    columns = sparse.csc_array(sparse.hstack(parts, format="csc"))
    columns.sort_indices()
    return columns, np.concatenate(bases)


def _transposed_product(columns: sparse.csc_array, mean: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the product of the transposed centered columns and values of shape (n_samples, n_outputs)."""
    return columns.T @ values - mean[:, None] * values.sum(axis=0)


@njit(cache=True, nogil=True)
def _sum_by_code(code, data, indices, indptr, sums):
    """Add up the columns of one neuron by their codes; `sums`, shape (n_samples, n_codewords), is updated."""
    for i in range(len(code)):
        for position in range(indptr[i], indptr[i + 1]):
            sums[indices[position], code[i]] += data[position]


@njit(cache=True, nogil=True)
def _sweep_columns(codes, rest, columns, sums, curvature, start, anchor, levels, groups, prices, frozen):
    """Assign to every weight in turn the best codeword while all others stay.

    ========= ======================= ======= ======================================================
    codes     (n_outputs, n_inputs)   uint8   position of each weight's codeword; updated
    rest      (n_outputs, n_samples)  float64 errors of the outputs; updated but for a constant
    columns   tuple of three                  data, indices and indptr of the inputs, not centered
    sums      (n_inputs,)             float64 of the columns
    curvature (n_inputs,)             float64 sums of squares of the centered columns, with the anchor
    start     (n_outputs, n_inputs)   float64 original weights
    levels    (n_groups, n_codewords) float64 possible weights of each group
    groups    (n_outputs,)            intp    group of every neuron
    prices    (n_codewords,)          float64 cost of each code, in units of the error
    frozen    (n_outputs, n_inputs)   bool    weights that do not change; shape (1, 1) if all may change
    ========= ======================= ======= ======================================================
    """
    n_outputs, n_inputs = codes.shape
    n_samples, n_codewords = rest.shape[1], levels.shape[1]
    data, indices, indptr = columns
    any_frozen = frozen.shape[0] == n_outputs and frozen.shape[1] == n_inputs
    for neuron in range(n_outputs):
        level = levels[groups[neuron]]
        errors = rest[neuron]
        shift = 0.0  # to be added to all errors: the means of the columns, which are not subtracted from them
        for i in range(n_inputs):
            if any_frozen and frozen[neuron, i]:
                continue
            code = codes[neuron, i]
            slope = shift * sums[i] + anchor * (level[code] - start[neuron, i])
            for position in range(indptr[i], indptr[i + 1]):
                slope += data[position] * errors[indices[position]]
            ideal = level[code] - slope / curvature[i]
            best = code
            best_cost = curvature[i] * (level[code] - ideal) ** 2 + prices[code]
            for candidate in range(n_codewords):
                cost = curvature[i] * (level[candidate] - ideal) ** 2 + prices[candidate]
                if cost < best_cost:
                    best, best_cost = candidate, cost
            if best != code:
                change = level[best] - level[code]
                codes[neuron, i] = best
                for position in range(indptr[i], indptr[i + 1]):
                    errors[indices[position]] += change * data[position]
                shift -= change * sums[i] / n_samples
