"""Codebooks and mappings of one layer, learned so that its outputs, not its weights, are kept.

`nearest_codewords` is plain k-means of the weights. `coordinate_descent` starts there and minimises the output error
over codes, codewords and scales in turn. Each of its steps solves its own small problem exactly, so the error never
rises; there is no seed and no step size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numba import njit

from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.kmeans import kmeans_1d
from distill.compressors.codebook.layer_problem import LayerProblem

_ZERO = 0  # where a pinned zero stands in its codebook


@dataclass(frozen=True, eq=False)
class Mapping:
    """Weights as codes, while they are being learned; a weight is ``scales[group] * codebooks[.., code]``.

    Parameters
    ----------
    codes : ndarray of shape (n_outputs, n_inputs), uint8
        One row for each neuron.
    codebooks : ndarray of shape (1, n_codewords) or (n_groups, n_codewords), float64
    scales : ndarray of shape (n_groups,), float64
        All one where every group has its own codebook.
    groups : ndarray of shape (n_outputs,), intp
    frozen : ndarray of shape (n_outputs, n_inputs), bool, or None
        Weights that stay at the first codeword, which is zero and stays zero; None where no zero is pinned.
    """

    codes: np.ndarray
    codebooks: np.ndarray
    scales: np.ndarray
    groups: np.ndarray
    frozen: np.ndarray | None = None

    @property
    def levels(self) -> np.ndarray:
        """The weights that each group can have; ndarray of shape (n_groups, n_codewords)."""
        return self.scales[:, None] * self.codebooks

    @property
    def weight(self) -> np.ndarray:
        """The matrix; ndarray of shape (n_inputs, n_outputs), float64."""
        return self.levels[self.groups[:, None], self.codes].T


def nearest_codewords(
    weight: np.ndarray, groups: np.ndarray, n_codewords: int, *, grouping: str = "scales", pin_zero: bool = False
) -> Mapping:
    """Quantise weights by optimal k-means: the nearest of the best codewords, whatever the inputs.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    groups : ndarray of shape (n_outputs,), intp
    n_codewords : int in [1, 256]
        At most; there are no more than distinct weights.
    grouping : {"scales", "codebooks"}
        Whether groups have scales, the root mean squares of their weights, and share a codebook, or have one each.
    pin_zero : bool
        Whether weights that are zero stay zero.

    Returns
    -------
    Mapping
    """
    rows = np.asarray(weight, np.float64).T
    n_groups = int(groups.max()) + 1
    frozen = rows == 0 if pin_zero else None
    codes = np.zeros(rows.shape, np.uint8)
    scales = np.ones(n_groups)
    if grouping == "scales":
        for group in range(n_groups):
            values = rows[groups == group]
            values = values[values != 0] if pin_zero else values
            scales[group] = np.sqrt(np.mean(values**2)) if values.size and values.any() else 1.0
        of_codebook = [np.arange(len(rows))]
    else:
        of_codebook = [np.flatnonzero(groups == group) for group in range(n_groups)]
    found = []
    for neurons in of_codebook:
        scale = np.broadcast_to(scales[groups[neurons], None], rows[neurons].shape)
        values = rows[neurons] / scale
        learned = ~frozen[neurons] if pin_zero else np.ones(values.shape, bool)
        centers, part = np.zeros(0), np.zeros(values.shape, np.uint8)
        if learned.any() and n_codewords > pin_zero:
            centers, labels = kmeans_1d(values[learned], n_codewords - pin_zero, scale[learned] ** 2)
            part[learned] = labels + pin_zero
        codes[neurons] = part
        found.append(np.concatenate([np.zeros(1), centers]) if pin_zero else centers)
    width = max(len(codebook) for codebook in found)
    # a group with fewer distinct weights repeats its last codeword, which no code names twice
    codebooks = np.array([np.pad(codebook, (0, width - len(codebook)), "edge") for codebook in found])
    return Mapping(codes, codebooks, scales, np.asarray(groups), frozen)


def coordinate_descent(
    problem: LayerProblem,
    start: Mapping,
    *,
    rate_weight: float = 0.0,
    max_rounds: int = 30,
    tol: float = 1e-3,
    learn_codes: bool = True,
    callback: Callable[[str, float], None] | None = None,
) -> Mapping:
    """Learn codes, codewords and scales together, by exact minimisation over each in turn.

    Parameters
    ----------
    problem : LayerProblem
    start : Mapping
    rate_weight : float
        What an ideal bit costs: the objective is the error as a share of the outputs' power plus `rate_weight` times
        the entropy of the codes in bits per weight.
    max_rounds : int
        Most rounds of one sweep over all codes and one fit of codewords and scales.
    tol : float
        Rounds end when one lowers the objective by less than this share of it.
    learn_codes : bool
        False learns codewords and scales for the codes that there are.
    callback : callable(step, objective), or None
        Called after every step, "start", "codes", "codebooks", "scales" or "lengths", with the objective, which never
        rises.

    Returns
    -------
    Mapping
        `start` is not modified.

    References
    ----------
    The joint learning of codebooks and mapping against a layer's outputs is the idea of Yvinec, Dapogny, Bailly
    (ICLR 2024, arXiv 2309.17361); the assignment at a price per bit is entropy-constrained vector quantisation (Chou,
    Lookabaugh, Gray, IEEE Transactions on Acoustics, Speech and Signal Processing 37(1), 1989).
    """
    mapping = replace(start, codes=start.codes.copy(), codebooks=start.codebooks.copy(), scales=start.scales.copy())
    n_codewords = mapping.codebooks.shape[1]
    frozen = np.zeros((1, 1), bool) if mapping.frozen is None else mapping.frozen
    per_bit = rate_weight * problem.power / mapping.codes.size
    lengths = _code_lengths(mapping.codes, n_codewords)
    residual = _residual(problem, mapping)

    def objective() -> float:
        weight = mapping.weight.T
        error = float(np.sum(weight * (residual - problem.cross.T))) + problem.power
        bits = float(np.bincount(mapping.codes.ravel(), minlength=n_codewords) @ lengths) if per_bit else 0.0
        return error + per_bit * bits

    def tell(step: str) -> None:
        if callback is not None:
            callback(step, objective())

    tell("start")
    previous = objective()
    for _ in range(max_rounds):
        if learn_codes:
            _sweep(mapping.codes, residual, problem.gram, mapping.levels, mapping.groups, per_bit * lengths, frozen)
            tell("codes")
            if per_bit:
                lengths = _code_lengths(mapping.codes, n_codewords)
                tell("lengths")
        for step, codebooks, scales in _fit_levels(problem, mapping):
            mapping = replace(mapping, codebooks=codebooks, scales=scales)
            residual = _residual(problem, mapping) if callback is not None else residual
            tell(step)
        residual = _residual(problem, mapping)
        reached = objective()
        if previous - reached <= tol * abs(previous):
            break
        previous = reached
    return mapping


def fit_levels(problem: LayerProblem, mapping: Mapping) -> Mapping:
    """Fit codewords and scales by least squares for the codes as they are; the error does not rise.

    Parameters
    ----------
    problem : LayerProblem
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
    """Return a mapping as a file stores it, without codewords that no code names.

    Parameters
    ----------
    mapping : Mapping
    bias : ndarray of shape (n_outputs,)
    used : ndarray of shape (n_inputs,), bool
        The inputs that the mapping has codes for.
    grouping : {"scales", "codebooks"}

    Returns
    -------
    CodebookLayer
    """
    named = np.zeros(mapping.codebooks.shape[1], bool)
    named[mapping.codes] = True
    codes = (np.cumsum(named) - 1).astype(np.uint8)[mapping.codes]
    shared = grouping == "scales"
    return CodebookLayer(
        np.ascontiguousarray(codes.T),
        round_to_half(mapping.codebooks[:, named] if shared else mapping.levels[:, named]),
        round_to_half(mapping.scales) if shared else None,
        mapping.groups,
        round_to_half(bias),
        used,
    )


def _residual(problem: LayerProblem, mapping: Mapping) -> np.ndarray:
    """Half the gradient of the error; ndarray of shape (n_outputs, n_inputs)."""
    return np.ascontiguousarray((problem.gram @ mapping.weight - problem.cross).T)


def _code_lengths(codes: np.ndarray, n_codewords: int) -> np.ndarray:
    """Ideal code lengths in bits; a codeword that is not used costs as much as one used once."""
    counts = np.bincount(codes.ravel(), minlength=n_codewords)
    return np.log2(codes.size) - np.log2(np.maximum(counts, 1))


@njit(cache=True, nogil=True)
def _sweep(codes, residual, gram, levels, groups, prices, frozen):
    """Give every weight in turn the codeword that is best while all others stay; updates codes and residual."""
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


def _fit_levels(problem: LayerProblem, mapping: Mapping):
    """Yield (step, codebooks, scales) of least squares for the codes as they are."""
    n_groups, n_codewords = len(mapping.scales), mapping.codebooks.shape[1]
    curvature, slope = np.zeros((n_groups, n_codewords, n_codewords)), np.zeros((n_groups, n_codewords))
    _accumulate(mapping.codes, problem.gram, np.ascontiguousarray(problem.cross.T), mapping.groups, curvature, slope)
    free = np.arange(n_codewords) if mapping.frozen is None else np.delete(np.arange(n_codewords), _ZERO)
    codebooks, scales = mapping.codebooks.copy(), mapping.scales.copy()
    if len(codebooks) == n_groups > 1:
        for group in range(n_groups):
            codebooks[group] = _least_squares(curvature[group], slope[group], codebooks[group], free)
        yield "codebooks", codebooks, scales
        return
    for _ in range(4 if n_groups > 1 else 1):
        shared = np.einsum("g,gkl->kl", scales**2, curvature)
        codebooks = _least_squares(shared, scales @ slope, codebooks[0], free)[None]
        yield "codebooks", codebooks, scales
        if n_groups == 1:
            return
        squares = np.einsum("k,gkl,l->g", codebooks[0], curvature, codebooks[0])
        products = slope @ codebooks[0]
        scales = np.where((squares > 0) & (products > 0), products / np.where(squares > 0, squares, 1), scales)
        yield "scales", codebooks, scales


def _least_squares(curvature: np.ndarray, slope: np.ndarray, codebook: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Minimise ``c' curvature c - 2 c' slope`` over the free entries that are in use; never worse than `codebook`."""
    free = free[np.diag(curvature)[free] > 0]
    if len(free) == 0:
        return codebook
    held = codebook.copy()
    held[free] = 0
    right = slope[free] - curvature[free] @ held
    solved = held
    solved[free] = np.linalg.lstsq(curvature[np.ix_(free, free)], right, rcond=1e-12)[0]

    def value(c: np.ndarray) -> float:
        return float(c @ curvature @ c - 2 * c @ slope)

    return solved if value(solved) < value(codebook) else codebook


@njit(cache=True, nogil=True)
def _accumulate(codes, gram, cross, groups, curvature, slope):
    """Add up gram and cross by group and code: what least squares for the codewords needs to know."""
    n_outputs, n_inputs = codes.shape
    n_codewords = curvature.shape[1]
    sums = np.empty(n_codewords)
    for neuron in range(n_outputs):
        group = groups[neuron]
        code = codes[neuron]
        for i in range(n_inputs):
            # gram is symmetric: half of it, with half of its diagonal, counts for both triangles
            sums[:] = 0.0
            row = gram[i]
            sums[code[i]] = 0.5 * row[i]
            for other in range(i):
                sums[code[other]] += row[other]
            slope[group, code[i]] += cross[neuron, i]
            for k in range(n_codewords):
                curvature[group, code[i], k] += sums[k]
                curvature[group, k, code[i]] += sums[k]
