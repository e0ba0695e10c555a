"""Learn the codebook and mapping of a layer by coordinate descent on the error of its outputs.

`nearest_codewords` is k-means of the weights. `coordinate_descent` starts from it and minimizes the output error over
codes, codewords and scales in turn. Each step is an exact minimization, so that the error never increases; there is no
seed and no step size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.kmeans import kmeans_1d
from distill.compressors.codebook.layer_problem import LayerProblem
from distill.compressors.codebook.wide_problem import WideLayerProblem

# Position of the zero of a pruned network in its codebook
_ZERO = 0
# Rounds of codebook and scales for the same codes. Each is exact and cheap in comparison with a sweep over the codes,
# and the next round continues from their result. Chosen by hand
_N_ALTERNATIONS = 4
# Singular values below this fraction of the largest count as zero: of codewords that the inputs do not distinguish,
# lstsq then returns the solution of the smallest norm
_RCOND = 1e-12


@dataclass(frozen=True, eq=False)
class Mapping:
    """Weights as codes in learning: a weight is ``scales[group] * codebooks[.., code]``.

    Parameters
    ----------
    codes : ndarray of shape (n_outputs, n_inputs), uint8
        Position of each weight's codeword; one row for each neuron.
    codebooks : ndarray of shape (1, n_codewords) or (n_groups, n_codewords), float64
        One for all groups, or one for each.
    scales : ndarray of shape (n_groups,), float64
        All 1 where every group has a codebook.
    groups : ndarray of shape (n_outputs,), intp
        Group of every neuron.
    frozen : ndarray of shape (n_outputs, n_inputs), bool, or None
        Weights of zero that keep the first codeword, which is constant at zero; None if there are none to keep.
    """

    codes: np.ndarray
    codebooks: np.ndarray
    scales: np.ndarray
    groups: np.ndarray
    frozen: np.ndarray | None = None

    @property
    def levels(self) -> np.ndarray:
        """Possible weights of each group; ndarray of shape (n_groups, n_codewords)."""
        return self.scales[:, None] * self.codebooks

    @property
    def weight(self) -> np.ndarray:
        """The weights; ndarray of shape (n_inputs, n_outputs), float64."""
        return self.levels[self.groups[:, None], self.codes].T


def nearest_codewords(
    weight: np.ndarray, groups: np.ndarray, n_codewords: int, *, grouping: str = "scales", pin_zero: bool = False
) -> Mapping:
    """Quantize weights by optimal k-means, without regard to the inputs.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    groups : ndarray of shape (n_outputs,), intp
    n_codewords : int in [1, 256]
        Largest number of codewords; there are no more than distinct weights.
    grouping : {"scales", "codebooks"}
        Parameters of each group: a scale, the root mean square of its weights, for a common codebook; or a codebook.
    pin_zero : bool
        Whether zero is a codeword, and that of all weights of zero.

    Returns
    -------
    Mapping
    """
    rows = np.asarray(weight, np.float64).T
    n_groups = int(groups.max()) + 1
    frozen = rows == 0 if pin_zero else None
    codes = np.zeros(rows.shape, np.uint8)
    if grouping == "scales":
        scales, neurons_of_codebook = _root_mean_squares(rows, groups, pin_zero), [np.arange(len(rows))]
    else:
        scales, neurons_of_codebook = np.ones(n_groups), [np.flatnonzero(groups == group) for group in range(n_groups)]
    found = []
    for neurons in neurons_of_codebook:
        scale = np.broadcast_to(scales[groups[neurons], None], rows[neurons].shape)
        values = rows[neurons] / scale
        learned = np.ones(values.shape, bool) if frozen is None else ~frozen[neurons]
        centers, part = np.zeros(0), np.zeros(values.shape, np.uint8)
        if learned.any() and n_codewords > pin_zero:
            centers, labels = kmeans_1d(values[learned], n_codewords - pin_zero, scale[learned] ** 2)
            part[learned] = labels + pin_zero
        codes[neurons] = part
        found.append(np.concatenate([np.zeros(1), centers]) if pin_zero else centers)
    width = max(len(codebook) for codebook in found)
    # A group with fewer distinct weights repeats its last codeword; no code uses the copies
    codebooks = np.array([np.pad(codebook, (0, width - len(codebook)), "edge") for codebook in found])
    return Mapping(codes, codebooks, scales, np.asarray(groups), frozen)


def _root_mean_squares(rows: np.ndarray, groups: np.ndarray, skip_zero: bool) -> np.ndarray:
    """Return the root mean square of the weights of each group, shape (n_groups,); 1 where all are zero."""
    scales = np.ones(int(groups.max()) + 1)
    for group in range(len(scales)):
        values = rows[groups == group]
        values = values[values != 0] if skip_zero else values
        scales[group] = np.sqrt(np.mean(values**2)) if values.size and values.any() else 1.0
    return scales


def coordinate_descent(
    problem: LayerProblem | WideLayerProblem,
    start: Mapping,
    *,
    rate_weight: float = 0.0,
    max_rounds: int = 30,
    tol: float = 1e-3,
    learn_codes: bool = True,
    callback: Callable[[str, float], None] | None = None,
) -> Mapping:
    """Learn codes, codewords and scales together, by exact minimization over each in turn.

    Parameters
    ----------
    problem : LayerProblem or WideLayerProblem
    start : Mapping
    rate_weight : float
        Price of a bit: the objective is the error as a fraction of the outputs' power plus `rate_weight` times the
        entropy of the codes in bits per weight.
    max_rounds : int
        Largest number of rounds; a round is one sweep over all codes and one fit of codewords and scales.
    tol : float
        Rounds end when one lowers the objective by less than this fraction of it.
    learn_codes : bool
        If False, the codes are constant; for comparison.
    callback : callable(step, objective), or None
        Called after every step, "start", "codes", "codebooks", "scales" or "lengths" (of codes), with the objective,
        which never increases.

    Returns
    -------
    Mapping
        `start` is not modified.

    References
    ----------
    Joint learning of codebooks and mapping on a layer's outputs is the idea of Yvinec, Dapogny, Bailly (ICLR 2024,
    arXiv 2309.17361); the assignment at a price per bit is entropy-constrained vector quantization (Chou, Lookabaugh,
    Gray, IEEE Transactions on Acoustics, Speech and Signal Processing 37(1), 1989).
    """
    mapping = replace(start, codes=start.codes.copy(), codebooks=start.codebooks.copy(), scales=start.scales.copy())
    n_codewords = mapping.codebooks.shape[1]
    frozen = np.zeros((1, 1), bool) if mapping.frozen is None else mapping.frozen
    bit_price = rate_weight * problem.power / mapping.codes.size
    lengths = _code_lengths(mapping.codes, n_codewords)
    residual = _residual(problem, mapping)

    def objective() -> float:
        weight = mapping.weight.T
        error = float(np.sum(weight * (residual - problem.cross.T))) + problem.power
        bits = float(np.bincount(mapping.codes.ravel(), minlength=n_codewords) @ lengths) if bit_price else 0.0
        return error + bit_price * bits

    def report(step: str) -> None:
        if callback is not None:
            callback(step, objective())

    report("start")
    previous = objective()
    for _ in range(max_rounds):
        if learn_codes:
            prices = bit_price * lengths
            if isinstance(problem, WideLayerProblem):
                problem.sweep(mapping.codes, mapping.levels, mapping.groups, prices, frozen)
                residual = _residual(problem, mapping) if callback is not None else residual
            else:
                _sweep(mapping.codes, residual, problem.gram, mapping.levels, mapping.groups, prices, frozen)
            report("codes")
            if bit_price:
                lengths = _code_lengths(mapping.codes, n_codewords)
                report("lengths")
        for step, codebooks, scales in _fit_levels(problem, mapping):
            mapping = replace(mapping, codebooks=codebooks, scales=scales)
            residual = _residual(problem, mapping) if callback is not None else residual
            report(step)
        residual = _residual(problem, mapping)
        current = objective()
        if previous - current <= tol * abs(previous):
            break
        previous = current
    return mapping


def fit_levels(problem: LayerProblem | WideLayerProblem, mapping: Mapping) -> Mapping:
    """Fit codewords and scales by least squares for given codes; the error does not increase.

    Parameters
    ----------
    problem : LayerProblem or WideLayerProblem
    mapping : Mapping
        Not modified.

    Returns
    -------
    Mapping
    """
    for _, codebooks, scales in _fit_levels(problem, mapping):
        mapping = replace(mapping, codebooks=codebooks, scales=scales)
    return mapping


def stored_layer(mapping: Mapping, bias: np.ndarray, used: np.ndarray, grouping: str) -> CodebookLayer:
    """Return a mapping as it is stored in a file: rounded, without unused codewords.

    Parameters
    ----------
    mapping : Mapping
    bias : ndarray of shape (n_outputs,)
    used : ndarray of shape (n_inputs,), bool
        Inputs that have codes in the mapping.
    grouping : {"scales", "codebooks"}
        The argument of `nearest_codewords`.

    Returns
    -------
    CodebookLayer
    """
    occurs = np.zeros(mapping.codebooks.shape[1], bool)
    occurs[mapping.codes] = True
    codes = (np.cumsum(occurs) - 1).astype(np.uint8)[mapping.codes]
    shared = grouping == "scales"
    return CodebookLayer(
        np.ascontiguousarray(codes.T),
        round_to_half(mapping.codebooks[:, occurs] if shared else mapping.levels[:, occurs]),
        round_to_half(mapping.scales) if shared else None,
        mapping.groups,
        round_to_half(bias),
        used,
    )


def _residual(problem: LayerProblem | WideLayerProblem, mapping: Mapping) -> np.ndarray:
    """Return half the gradient of the error; ndarray of shape (n_outputs, n_inputs)."""
    return np.ascontiguousarray((problem.times_gram(mapping.weight) - problem.cross).T)


def _code_lengths(codes: np.ndarray, n_codewords: int) -> np.ndarray:
    """Return ideal code lengths in bits, shape (n_codewords,); an unused codeword costs as much as one used once."""
    counts = np.bincount(codes.ravel(), minlength=n_codewords)
    return np.log2(codes.size) - np.log2(np.maximum(counts, 1))


@njit(cache=True, nogil=True)
def _sweep(codes, residual, gram, levels, groups, prices, frozen):
    """Assign to every weight in turn the best codeword while all others stay.

    ======== ======================= ======= =================================================
    codes    (n_outputs, n_inputs)   uint8   position of each weight's codeword; updated
    residual (n_outputs, n_inputs)   float64 half the gradient of the error; updated
    gram     (n_inputs, n_inputs)    float64 inner products of the inputs
    levels   (n_groups, n_codewords) float64 possible weights of each group
    groups   (n_outputs,)            intp    group of every neuron
    prices   (n_codewords,)          float64 cost of each code, in units of the error
    frozen   (n_outputs, n_inputs)   bool    weights that do not change; shape (1, 1) if all may change
    ======== ======================= ======= =================================================

    The error of one weight is ``curvature * (level - ideal)**2`` plus a constant.
    """
    n_outputs, n_inputs = codes.shape
    n_codewords = levels.shape[1]
    any_frozen = frozen.shape[0] == n_outputs and frozen.shape[1] == n_inputs
    for neuron in range(n_outputs):
        level = levels[groups[neuron]]
        slope = residual[neuron]
        for i in range(n_inputs):
            if any_frozen and frozen[neuron, i]:
                continue
            curvature = gram[i, i]
            code = codes[neuron, i]
            ideal = level[code] - slope[i] / curvature
            best = code
            best_cost = curvature * (level[code] - ideal) ** 2 + prices[code]
            for candidate in range(n_codewords):
                cost = curvature * (level[candidate] - ideal) ** 2 + prices[candidate]
                if cost < best_cost:
                    best, best_cost = candidate, cost
            if best != code:
                change = level[best] - level[code]
                codes[neuron, i] = best
                if change != 0.0:
                    row = gram[i]
                    for other in range(n_inputs):
                        slope[other] += change * row[other]


def _fit_levels(
    problem: LayerProblem | WideLayerProblem, mapping: Mapping
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (step, codebooks, scales) of least squares for given codes: codebooks and scales in turn."""
    n_groups, n_codewords = len(mapping.scales), mapping.codebooks.shape[1]
    if isinstance(problem, WideLayerProblem):
        curvature, slope = problem.accumulate(mapping.codes, mapping.groups, n_groups, n_codewords)
    else:
        curvature, slope = np.zeros((n_groups, n_codewords, n_codewords)), np.zeros((n_groups, n_codewords))
        cross = np.ascontiguousarray(problem.cross.T)
        _accumulate(mapping.codes, problem.gram, cross, mapping.groups, curvature, slope)
    free = np.arange(n_codewords) if mapping.frozen is None else np.delete(np.arange(n_codewords), _ZERO)
    codebooks, scales = mapping.codebooks.copy(), mapping.scales.copy()
    if len(codebooks) == n_groups > 1:
        for group in range(n_groups):
            codebooks[group] = _least_squares(curvature[group], slope[group], codebooks[group], free)
        yield "codebooks", codebooks, scales
        return
    for _ in range(_N_ALTERNATIONS if n_groups > 1 else 1):
        shared = np.einsum("g,gkl->kl", scales**2, curvature)
        codebooks = _least_squares(shared, scales @ slope, codebooks[0], free)[None]
        yield "codebooks", codebooks, scales
        if n_groups == 1:
            return
        squares = np.einsum("k,gkl,l->g", codebooks[0], curvature, codebooks[0])
        products = slope @ codebooks[0]
        # A scale is positive: its sign is that of the codewords
        scales = np.where((squares > 0) & (products > 0), products / np.where(squares > 0, squares, 1), scales)
        yield "scales", codebooks, scales


def _least_squares(curvature: np.ndarray, slope: np.ndarray, codebook: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Return the codebook that minimizes ``c' curvature c - 2 c' slope``.

    Parameters
    ----------
    curvature : ndarray of shape (n_codewords, n_codewords), float64
    slope : ndarray of shape (n_codewords,), float64
    codebook : ndarray of shape (n_codewords,), float64
        The current one, returned if it is better because of rounding errors.
    free : ndarray of shape (n_free,), intp
        Entries that may change; unused ones do not.
    """
    free = free[np.diag(curvature)[free] > 0]
    if len(free) == 0:
        return codebook
    solved = codebook.copy()
    solved[free] = 0
    right = slope[free] - curvature[free] @ solved
    solved[free] = np.linalg.lstsq(curvature[np.ix_(free, free)], right, rcond=_RCOND)[0]

    def value(c: np.ndarray) -> float:
        return float(c @ curvature @ c - 2 * c @ slope)

    return solved if value(solved) < value(codebook) else codebook


@njit(cache=True, nogil=True)
def _accumulate(codes, gram, cross, groups, curvature, slope):
    """Add up gram and cross by group and code: the normal equations of the codewords.

    ========= ==================================== ======= ===================================================
    codes     (n_outputs, n_inputs)                uint8   position of each weight's codeword
    gram      (n_inputs, n_inputs)                 float64 inner products of the inputs
    cross     (n_outputs, n_inputs)                float64 inner products of targets and inputs
    groups    (n_outputs,)                         intp    group of every neuron
    curvature (n_groups, n_codewords, n_codewords) float64 gram, added up by the codes of both inputs; updated
    slope     (n_groups, n_codewords)              float64 cross, added up by code; updated
    ========= ==================================== ======= ===================================================
    """
    n_outputs, n_inputs = codes.shape
    n_codewords = curvature.shape[1]
    by_code = np.empty(n_codewords)
    for neuron in range(n_outputs):
        group = groups[neuron]
        code = codes[neuron]
        for i in range(n_inputs):
            # Gram is symmetric: the lower triangle, with half of the diagonal, counts for both triangles
            by_code[:] = 0.0
            row = gram[i]
            by_code[code[i]] = 0.5 * row[i]
            for other in range(i):
                by_code[code[other]] += row[other]
            slope[group, code[i]] += cross[neuron, i]
            for k in range(n_codewords):
                curvature[group, code[i], k] += by_code[k]
                curvature[group, k, code[i]] += by_code[k]
