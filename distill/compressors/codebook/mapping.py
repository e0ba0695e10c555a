"""Codebook and mapping learned by gradient descent, with a gradient that looks near before it looks far.

A weight is ``w = sum_k p_k c_k`` with ``p = softmax(logits)``. The chain rule moves logit k by ``p_k (c_k - w)`` times
the gradient of w: the farther a codeword, the harder the pull, so that codes jump to extremes. A proximal gradient
keeps the sign and lets the pull shrink with the distance, or gives it to the two neighbours of w alone.

The same thing on three levels: `mapping_forward` and `mapping_backward`, `SoftMapping`, `gradient_descent`.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distill.compressors.codebook.layer_problem import LayerProblem
from distill.compressors.codebook.solver import Mapping, fit_levels

PROXIMAL = ("inverse", "neighbour", "off")


def mapping_forward(logits: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix codewords.

    Parameters
    ----------
    logits : Tensor of shape (..., n_codewords)
    levels : Tensor of a shape that broadcasts to it
        The codewords.

    Returns
    -------
    weight : Tensor of shape (...)
    probabilities : Tensor of shape (..., n_codewords)
    """
    probabilities = torch.softmax(logits, dim=-1)
    return (probabilities * levels).sum(dim=-1), probabilities


def mapping_backward(gradient: Tensor, probabilities: Tensor, levels: Tensor, weight: Tensor, proximal: str) -> Tensor:
    """Return the gradient for the logits.

    Parameters
    ----------
    gradient, weight : Tensor of shape (...)
        The gradient for the weight, and the weight.
    probabilities : Tensor of shape (..., n_codewords)
    levels : Tensor of a shape that broadcasts to it
    proximal : {"inverse", "neighbour", "off"}
        "off": the derivative, ``g p_k (c_k - w)``. "inverse": ``g p_k (c_k - w) h^2 / ((c_k - w)^2 + h^2)`` with h
        half the smallest gap between codewords: near w the derivative, far from it as the inverse distance.
        "neighbour": the derivative for the nearest codeword at or below w and the nearest above, zero for the others.

    Returns
    -------
    Tensor of shape (..., n_codewords)

    Examples
    --------
    >>> levels, p, one = torch.tensor([-3.0, -1.0, 1.0, 3.0]), torch.full((1, 4), 0.25), torch.ones(1)
    >>> for proximal in PROXIMAL:  # the codeword that gets the strongest pull
    ...     mapping_backward(one, p, levels, torch.tensor([0.5]), proximal).abs().argmax().item()
    1
    1
    0
    """
    distance = levels - weight[..., None]
    if proximal == "inverse":
        square = torch.square(_gaps(levels)[1] / 2)
        distance = distance * (square / (torch.square(distance) + square))
    elif proximal == "neighbour":
        below = torch.where(distance <= 0, distance, -torch.inf).amax(dim=-1, keepdim=True)
        above = torch.where(distance > 0, distance, torch.inf).amin(dim=-1, keepdim=True)
        distance = torch.where((distance == below) | (distance == above), distance, 0.0)
    elif proximal != "off":
        raise ValueError(f"proximal must be one of {', '.join(map(repr, PROXIMAL))}, got {proximal!r}.")
    return gradient[..., None] * probabilities * distance


class SoftMapping(torch.autograd.Function):
    """`mapping_forward` with the gradient of `mapping_backward`; codewords get the true one."""

    @staticmethod
    def forward(context, logits: Tensor, levels: Tensor, proximal: str) -> Tensor:
        weight, probabilities = mapping_forward(logits, levels)
        context.save_for_backward(probabilities, levels, weight)
        context.proximal = proximal
        return weight

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        probabilities, levels, weight = context.saved_tensors
        for_logits = mapping_backward(gradient, probabilities, levels, weight, context.proximal)
        for_levels = (gradient[..., None] * probabilities).sum_to_size(levels.shape)
        return for_logits, for_levels, None


def gradient_descent(
    problem: LayerProblem,
    start: Mapping,
    *,
    proximal: str = "neighbour",
    n_steps: int = 300,
    learning_rate: float = 0.4,
    temperatures: tuple[float, float] = (1.0, 0.05),
) -> Mapping:
    """Learn codes, codewords and scales together with Adam, the mapping soft at first and hard at the end.

    Parameters
    ----------
    problem : LayerProblem
    start : Mapping
        Not modified.
    proximal : {"inverse", "neighbour", "off"}
    n_steps : int
    learning_rate : float
        Of the logits; codewords and scales, relative to their size, move a tenth as fast.
    temperatures : tuple of float
        What the logits are divided by at the first and the last step; in between it falls geometrically.

    Returns
    -------
    Mapping
        The most probable codes, with codewords and scales of least squares; `start`, its codewords fitted likewise,
        where that is better. Nothing is random.

    Notes
    -----
    A step needs memory for about ten numbers for each pair of weight and codeword.

    References
    ----------
    The proximal mapping gradient is the idea of Yvinec, Dapogny, Bailly (ICLR 2024, arXiv 2309.17361), whose exact
    function we do not know. Softening and annealing the mapping: Cho et al., "DKM", ICLR 2022 (arXiv 2108.12659).
    """
    if proximal not in PROXIMAL:
        raise ValueError(f"proximal must be one of {', '.join(map(repr, PROXIMAL))}, got {proximal!r}.")
    refined = fit_levels(problem, start)
    if start.codebooks.shape[1] == 1:
        return refined
    unit = problem.power or 1.0
    gram, cross = (torch.tensor(array / unit, dtype=torch.float32) for array in (problem.gram, problem.cross.T))
    groups = torch.tensor(start.groups)
    size = float(np.abs(start.codebooks).max()) or 1.0
    codebooks = torch.tensor(start.codebooks / size, dtype=torch.float32, requires_grad=True)
    scales = torch.tensor(start.scales, dtype=torch.float32)
    log_factors = torch.zeros(len(scales), requires_grad=True)
    shared = len(start.codebooks) == 1
    weight = torch.tensor(start.weight.T, dtype=torch.float32)
    frozen = None if start.frozen is None else torch.tensor(start.frozen)
    movable = torch.ones_like(codebooks)
    if frozen is not None:
        movable[:, 0] = 0

    def levels() -> Tensor:
        table = size * (codebooks * movable) * (scales * log_factors.exp())[:, None]
        return table[groups][:, None, :]

    with torch.no_grad():
        gap, _ = _gaps(levels())
        logits = -torch.square((levels() - weight[..., None]) / gap)
    logits.requires_grad_(True)
    slow = [codebooks, log_factors] if shared and len(scales) > 1 else [codebooks]
    optimizer = torch.optim.Adam([{"params": [logits]}, {"params": slow, "lr": learning_rate / 10}], lr=learning_rate)
    first, last = temperatures
    for step in range(n_steps):
        temperature = first * (last / first) ** (step / max(n_steps - 1, 1))
        optimizer.zero_grad()
        mixed = SoftMapping.apply(logits / temperature, levels(), proximal)
        if frozen is not None:
            mixed = torch.where(frozen, 0.0, mixed)
        (mixed * (mixed @ gram - 2 * cross)).sum().backward()
        optimizer.step()
    codes = logits.detach().argmax(dim=-1).numpy().astype(np.uint8)
    if start.frozen is not None:
        codes[start.frozen] = 0
    learned = replace(
        start,
        codes=codes,
        codebooks=(size * codebooks * movable).detach().numpy().astype(np.float64),
        scales=(scales * log_factors.exp()).detach().numpy().astype(np.float64),
    )
    return min(fit_levels(problem, learned), refined, key=lambda mapping: problem.error(mapping.weight))


def _gaps(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the smallest gap between the codewords of each codebook, shapes (..., 1)."""
    gaps = levels.sort(dim=-1).values.diff(dim=-1)
    tiny = torch.finfo(levels.dtype).tiny
    if gaps.shape[-1] == 0:
        one = torch.ones_like(levels)
        return one, one
    smallest = torch.where(gaps > 0, gaps, torch.inf).amin(dim=-1, keepdim=True)
    mean = gaps.mean(dim=-1, keepdim=True).clamp(min=tiny)
    return mean, torch.minimum(smallest, mean)
