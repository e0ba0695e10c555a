"""Learn the codebook and mapping of a layer by gradient descent, with a proximal gradient of the mapping.

A weight is ``w = sum_k p_k c_k`` with ``p = softmax(logits)``. By the chain rule the gradient of logit k is
``p_k (c_k - w)`` times the gradient of w: it grows with the distance of the codeword, so that codes change to extremes.
A proximal gradient keeps the sign and falls with the distance, or is zero for all but the two codewords next to w.

`mapping_forward` and `mapping_backward` are plain functions, `SoftMapping` combines them for autograd, and
`gradient_descent` uses it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.compressors.codebook.layer_problem import LayerProblem
from distill.compressors.codebook.solver import Mapping, fit_levels
from distill.compressors.codebook.wide_problem import WideLayerProblem
from distill.utils.validation import check_choice

PROXIMAL = ("inverse", "neighbor", "off")


def mapping_forward(logits: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix codewords by the softmax of logits.

    Parameters
    ----------
    logits : Tensor of shape (..., n_codewords)
    levels : Tensor of a shape that broadcasts to that of `logits`
        The codewords.

    Returns
    -------
    weight : Tensor of shape (...)
    probabilities : Tensor of shape (..., n_codewords)
    """
    probabilities = torch.softmax(logits, dim=-1)
    return (probabilities * levels).sum(dim=-1), probabilities


def mapping_backward(gradient: Tensor, probabilities: Tensor, levels: Tensor, weight: Tensor, proximal: str) -> Tensor:
    """Return the gradient of the logits.

    Parameters
    ----------
    gradient, weight : Tensor of shape (...)
        The gradient of the weight, and the weight.
    probabilities : Tensor of shape (..., n_codewords)
    levels : Tensor of a shape that broadcasts to that of `probabilities`
        The codewords.
    proximal : {"inverse", "neighbor", "off"}
        "off": the derivative, ``g p_k (c_k - w)``. "inverse": ``g p_k (c_k - w) h^2 / ((c_k - w)^2 + h^2)`` with h
        half the smallest gap between codewords: near w the derivative, far from it inverse to the distance.
        "neighbor": the derivative for the nearest codeword at or below w and the nearest above, zero for the others.

    Returns
    -------
    Tensor of shape (..., n_codewords)

    Raises
    ------
    ValueError
        If `proximal` is another value.

    Examples
    --------
    >>> levels, p, one = torch.tensor([-3.0, -1.0, 1.0, 3.0]), torch.full((1, 4), 0.25), torch.ones(1)
    >>> for proximal in PROXIMAL:  # the codeword with the largest gradient
    ...     mapping_backward(one, p, levels, torch.tensor([0.5]), proximal).abs().argmax().item()
    1
    1
    0
    """
    check_choice("proximal", proximal, PROXIMAL)
    distance = levels - weight[..., None]
    if proximal == "inverse":
        square = torch.square(_gaps(levels)[1] / 2)
        distance = distance * (square / (torch.square(distance) + square))
    elif proximal == "neighbor":
        below = torch.where(distance <= 0, distance, -torch.inf).amax(dim=-1, keepdim=True)
        above = torch.where(distance > 0, distance, torch.inf).amin(dim=-1, keepdim=True)
        distance = torch.where((distance == below) | (distance == above), distance, 0.0)
    return gradient[..., None] * probabilities * distance


class SoftMapping(torch.autograd.Function):
    """`mapping_forward`, with `mapping_backward` as the gradient of the logits and the derivative for the codewords."""

    @staticmethod
    def forward(context, logits: Tensor, levels: Tensor, proximal: str) -> Tensor:
        """Return the weights, shape (...); see `mapping_forward`."""
        weight, probabilities = mapping_forward(logits, levels)
        context.save_for_backward(probabilities, levels, weight)
        context.proximal = proximal
        return weight

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of logits and levels; see `mapping_backward`."""
        probabilities, levels, weight = context.saved_tensors
        for_logits = mapping_backward(gradient, probabilities, levels, weight, context.proximal)
        for_levels = (gradient[..., None] * probabilities).sum_to_size(levels.shape)
        return for_logits, for_levels, None


def gradient_descent(
    problem: LayerProblem | WideLayerProblem,
    start: Mapping,
    *,
    proximal: str = "neighbor",
    n_steps: int = 300,
    learning_rate: float = 0.4,
    temperatures: tuple[float, float] = (1.0, 0.05),
) -> Mapping:
    """Learn codes, codewords and scales together with Adam, with a mapping that is soft at first and hard at the end.

    Parameters
    ----------
    problem : LayerProblem or WideLayerProblem
    start : Mapping
        Not modified.
    proximal : {"inverse", "neighbor", "off"}
        See `mapping_backward`.
    n_steps : int
        Number of steps, 1 or more.
    learning_rate : float
        Of the logits; that of codewords and scales, relative to their size, is a tenth of it.
    temperatures : tuple of float
        Divisor of the logits at the first and the last step; it falls geometrically in between.

    Returns
    -------
    Mapping
        The most probable codes, with codewords and scales of least squares; or the codes of `start` with their
        codewords and scales of least squares, where those have the smaller error. Nothing is random.

    Raises
    ------
    ValueError
        If `proximal` is another value.

    Notes
    -----
    A step needs memory for about ten float32 values per weight and codeword.

    References
    ----------
    The proximal gradient of the mapping is the idea of Yvinec, Dapogny, Bailly (ICLR 2024, arXiv 2309.17361), whose
    formula was not available to us. Soft mappings that are annealed: Cho et al., "DKM", ICLR 2022 (arXiv 2108.12659).
    """
    check_choice("proximal", proximal, PROXIMAL)
    refined = fit_levels(problem, start)
    if start.codebooks.shape[1] == 1:
        return refined
    # In units of the outputs' power, so that float32 suffices
    unit = problem.power or 1.0
    times_gram, cross = _times_gram(problem, unit), torch.tensor(problem.cross.T / unit, dtype=torch.float32)
    layer = _SoftLayer(start)
    groups: list[dict[str, Any]] = [
        {"params": [layer.logits]},
        {"params": layer.slow_parameters(), "lr": learning_rate / 10},
    ]
    optimizer = torch.optim.Adam(groups, lr=learning_rate)
    first, last = temperatures
    for step in range(n_steps):
        temperature = first * (last / first) ** (step / max(n_steps - 1, 1))
        optimizer.zero_grad()
        weight = layer.weight(temperature, proximal)
        (weight * (times_gram(weight) - 2 * cross)).sum().backward()
        optimizer.step()
    return min(fit_levels(problem, layer.mapping()), refined, key=lambda mapping: problem.error(mapping.weight))


def _times_gram(problem: LayerProblem | WideLayerProblem, unit: float) -> Callable[[Tensor], Tensor]:
    """Return the function that multiplies weights, shape (n_outputs, n_inputs), by the inner products over `unit`."""
    if isinstance(problem, WideLayerProblem):
        inputs, anchor = torch.tensor(problem.centered() / unit**0.5), problem.anchor / unit
        return lambda weight: (weight @ inputs.T) @ inputs + anchor * weight
    gram = torch.tensor(problem.gram / unit, dtype=torch.float32)
    return lambda weight: weight @ gram


class _SoftLayer:
    """Logits, codebooks and scales of a layer in training.

    Parameters
    ----------
    start : Mapping

    Attributes
    ----------
    logits : Tensor of shape (n_outputs, n_inputs, n_codewords), float32
    codebooks : Tensor of shape (1 or n_groups, n_codewords), float32
        In units of the largest codeword at the start.
    log_factors : Tensor of shape (n_groups,), float32
        Logarithms of the factors of the scales.
    """

    def __init__(self, start: Mapping):
        self.start = start
        self.groups = torch.tensor(start.groups)
        self.size = float(np.abs(start.codebooks).max()) or 1.0
        self.codebooks = torch.tensor(start.codebooks / self.size, dtype=torch.float32, requires_grad=True)
        self.scales = torch.tensor(start.scales, dtype=torch.float32)
        self.log_factors = torch.zeros(len(start.scales), requires_grad=True)
        self.frozen = None if start.frozen is None else torch.tensor(start.frozen)
        self.movable = torch.ones_like(self.codebooks)
        if self.frozen is not None:
            self.movable[:, 0] = 0
        weight = torch.tensor(start.weight.T, dtype=torch.float32)
        with torch.no_grad():
            gap, _ = _gaps(self.levels())
            self.logits = -torch.square((self.levels() - weight[..., None]) / gap)
        self.logits.requires_grad_(True)

    def slow_parameters(self) -> list[Tensor]:
        """Return the parameters besides the logits: codebooks, and the scales of a common codebook."""
        shared = len(self.start.codebooks) == 1 and len(self.scales) > 1
        return [self.codebooks, self.log_factors] if shared else [self.codebooks]

    def levels(self) -> Tensor:
        """Return the possible weights of every neuron, shape (n_outputs, 1, n_codewords)."""
        table = self.size * (self.codebooks * self.movable) * (self.scales * self.log_factors.exp())[:, None]
        return table[self.groups][:, None, :]

    def weight(self, temperature: float, proximal: str) -> Tensor:
        """Return the mixed codewords, shape (n_outputs, n_inputs)."""
        weight = SoftMapping.apply(self.logits / temperature, self.levels(), proximal)
        return weight if self.frozen is None else torch.where(self.frozen, 0.0, weight)

    def mapping(self) -> Mapping:
        """Return the most probable codes with their codebooks and scales."""
        codes = self.logits.detach().argmax(dim=-1).numpy().astype(np.uint8)
        if self.start.frozen is not None:
            codes[self.start.frozen] = 0
        return replace(
            self.start,
            codes=codes,
            codebooks=(self.size * self.codebooks * self.movable).detach().numpy().astype(np.float64),
            scales=(self.scales * self.log_factors.exp()).detach().numpy().astype(np.float64),
        )


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
