"""Spike-and-slab posteriors: every weight, hidden unit or input has a learned probability of inclusion.

A weight is ``w = z * beta``: a gate z, 1 with prior probability pi, and a slab ``beta ~ N(0, prior_std**2)``. Where the
gate is 0 the weight is exactly zero. The variational posterior has the same form: the gate is 1 with probability phi,
its inclusion probability, and the slab is N(mean, std**2). Gates may be shared: the gate of a hidden unit belongs to
all weights into and out of it and to its bias, the gate of an input to all weights out of it.

The functions below have one array per quantity, all of them with the shape of the weights, (n_inputs, n_outputs),
unless stated otherwise:

=========== =====================================================
logit       log-odds of the inclusion probability phi
inclusion   phi, the sigmoid of the logit
mean, std   mean and standard deviation of the slab, std above 0
prior_logit log-odds of the prior inclusion probability pi, float
prior_std   standard deviation of the slab's prior, float
=========== =====================================================

References
----------
The family is that of Saha, Liu and Liang, "Efficient model compression for Bayesian neural networks" (arXiv
2411.00273). The relaxation of gates is due to Maddison, Mnih and Teh, "The concrete distribution" (ICLR 2017), the
sampling of pre-activations in place of weights to Kingma, Salimans and Welling, "Variational dropout and the local
reparameterization trick" (NeurIPS 2015).
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from distill.network import Network

GRANULARITIES = ("weight", "node", "input")

# Learning rates of gates and standard deviations, as multiples of that of weights. Adam moves every parameter by about
# its learning rate per step, and logits and logarithms have further to go than weights. Chosen by hand
_GATE_RATE, _STD_RATE = 10.0, 3.0
# Uniform draws are kept this far from 0 and 1, so that their logits and the gradients of gates stay finite
_MIN_UNIFORM = 1e-6
# Lower bound of the variance of a pre-activation: the gradient of a square root is infinite at zero
_MIN_VARIANCE = 1e-12
# Initial standard deviation of a slab, times the root of the number of inputs: weights start nearly certain
_INITIAL_STD = 0.1


def gate_divergence(logit: Tensor, prior_logit: float) -> Tensor:
    """Return KL(Bernoulli(sigmoid(logit)) || Bernoulli(sigmoid(prior_logit))), elementwise, in nats.

    Examples
    --------
    >>> phi, pi = torch.tensor(0.9), torch.tensor(0.2)
    >>> expected = phi * torch.log(phi / pi) + (1 - phi) * torch.log((1 - phi) / (1 - pi))
    >>> bool(torch.isclose(gate_divergence(phi.logit(), pi.logit().item()), expected))
    True
    """
    never = nn.functional.softplus(logit) - math.log1p(math.exp(prior_logit))
    return torch.sigmoid(logit) * (logit - prior_logit) - never


def slab_divergence(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    """Return KL(N(mean, std**2) || N(0, prior_std**2)), elementwise, in nats."""
    ratio = std / prior_std
    return 0.5 * (ratio.square() + (mean / prior_std).square() - 1) - torch.log(ratio)


def weight_divergence(logit: Tensor, mean: Tensor, std: Tensor, prior_logit: float, prior_std: float) -> Tensor:
    """Return the KL divergence of gated weights from their prior, elementwise, in nats.

    The divergence of the slab is weighted by phi: otherwise an excluded weight would still cost the divergence of its
    slab, and its exclusion would gain little.
    """
    slab = slab_divergence(mean, std, prior_std)
    return gate_divergence(logit, prior_logit) + torch.sigmoid(logit) * slab


def weight_moments(inclusion: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of gated weights.

    Examples
    --------
    >>> weight_moments(torch.tensor(0.5), torch.tensor(2.0), torch.tensor(0.1))
    (tensor(1.), tensor(1.0050))
    """
    return inclusion * mean, inclusion * (std.square() + (1 - inclusion) * mean.square())


def straight_through_gates(logit: Tensor, uniform: Tensor, temperature: float = 0.5) -> Tensor:
    """Return gates that are exactly 0 or 1, with the gradient of their concrete relaxation.

    Parameters
    ----------
    logit : Tensor
        A gate is 1 with probability ``sigmoid(logit)`` at any temperature.
    uniform : Tensor
        Draws from [0, 1), of a shape that `logit` broadcasts to.
    temperature : float
        Lower values bring the relaxation nearer to the gate, and give gradients of higher variance.

    Returns
    -------
    Tensor of the shape of `uniform`

    Examples
    --------
    >>> straight_through_gates(torch.tensor([2.0, 2.0]), torch.tensor([0.1, 0.5]))
    tensor([0., 1.])
    """
    noise = uniform.clamp(_MIN_UNIFORM, 1 - _MIN_UNIFORM).logit()
    relaxed = torch.sigmoid((logit + noise) / temperature)
    return (relaxed > 0.5).to(relaxed.dtype) + (relaxed - relaxed.detach())


def fixed_point(gain: ArrayLike, divergence: ArrayLike, prior_logit: float) -> np.ndarray:
    """Return the inclusion probability of a gate at which the evidence lower bound is highest, all else fixed.

    The derivative of the bound with respect to the gate's logit is
    ``phi * (1 - phi) * (gain - divergence - (logit - prior_logit))``, and zero at this probability.

    Parameters
    ----------
    gain : array-like
        ``E[log likelihood | gate 1] - E[log likelihood | gate 0]``, summed over the samples.
    divergence : array-like
        KL divergence, in nats, of the slabs (and gates) that exist only if this gate is 1.
    prior_logit : float

    Returns
    -------
    ndarray of the same shape, float64

    Examples
    --------
    >>> fixed_point([0.0, 12.0], [0.0, 5.0], -4.6).round(3)
    array([0.01 , 0.917])
    """
    logit = prior_logit + np.asarray(gain, np.float64) - np.asarray(divergence, np.float64)
    return 0.5 * (1 + np.tanh(0.5 * logit))


def path_inclusion(weights: Sequence[np.ndarray], units: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for the units before every layer, the probability of their most probable path to an output.

    It is the probability that all gates of the path are open, that of the unit itself among them. The probability that
    any path is open would be near 1 for every unit of a wide network: hundreds of gates that are hardly ever open
    add up.

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_inputs, n_outputs)
        Inclusion probabilities of the gates of single weights.
    units : sequence of ndarray of shape (n_inputs,)
        Inclusion probabilities of the gates of the units before each layer.

    Returns
    -------
    list of ndarray of shape (n_inputs,)
        The first is for the inputs of the network.

    Examples
    --------
    The first input has a weight only to a unit without a path to the output.

    >>> path_inclusion([np.eye(2), np.array([[0.0], [0.9]])], [np.ones(2), np.ones(2)])[0]
    array([0. , 0.9])
    """
    reached = np.ones(weights[-1].shape[1])
    inclusions: list[np.ndarray] = []
    for weight, unit in zip(reversed(weights), reversed(units)):
        reached = unit * (weight * reached).max(axis=1)
        inclusions.insert(0, reached)
    return inclusions


class SpikeSlabLayer(nn.Module):
    """Posterior of the weights of one layer; biases have no posterior.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
        Initial means of the slabs.
    bias : ndarray of shape (n_outputs,)
        Initial biases.
    gated : bool
        Whether single weights have gates.
    inclusion : float in (0, 1)
        Initial inclusion probability of every gate.
    std : ndarray of shape (n_inputs, n_outputs), or None
        Initial standard deviations of the slabs; None for ``0.1 * n_inputs ** -0.5``.
    """

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        gated: bool,
        inclusion: float = 0.99,
        std: np.ndarray | None = None,
    ):
        super().__init__()
        mean = torch.tensor(weight)
        stds = torch.full_like(mean, _INITIAL_STD / math.sqrt(len(weight))) if std is None else torch.tensor(std)
        self.mean = nn.Parameter(mean)
        self.log_std = nn.Parameter(stds.log() / _STD_RATE)
        self.gate = nn.Parameter(torch.full_like(mean, _gate_parameter(inclusion))) if gated else None
        self.bias = nn.Parameter(torch.tensor(bias))

    @property
    def std(self) -> Tensor:
        """Standard deviations of the slabs, shape (n_inputs, n_outputs)."""
        return torch.exp(_STD_RATE * self.log_std)

    @property
    def logit(self) -> Tensor | None:
        """Logits of the inclusion probabilities, shape (n_inputs, n_outputs), or None without gates."""
        return None if self.gate is None else _GATE_RATE * self.gate

    def forward(self, inputs: Tensor, generator: torch.Generator, gates: Tensor | None = None) -> Tensor:
        """Return one draw of the pre-activations of every sample, shape (n_samples, n_outputs).

        A sum of many independent weights is nearly normal, so that pre-activations are drawn from a normal
        distribution, with the exact mean and variance under gates and slabs.

        Parameters
        ----------
        inputs : Tensor of shape (n_samples, n_inputs)
        generator : torch.Generator
        gates : Tensor of shape (n_inputs, n_outputs), or None
            Fixed values of the gates.
        """
        mean, variance = self.moments(gates)
        std = (inputs.square() @ variance).clamp_min(_MIN_VARIANCE).sqrt()
        noise = torch.randn(std.shape, generator=generator, device=std.device)
        return torch.addmm(self.bias, inputs, mean) + std * noise

    def moments(self, gates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the weights, without the gates of units; see `forward` for `gates`."""
        if gates is not None:
            return gates * self.mean, gates * self.std.square()
        if self.gate is None:
            return self.mean, self.std.square()
        return weight_moments(torch.sigmoid(self.logit), self.mean, self.std)

    def divergence(self, prior_logit: float, prior_std: float) -> Tensor:
        """Return the KL divergence of each weight from its prior, shape (n_inputs, n_outputs), in nats."""
        if self.gate is None:
            return slab_divergence(self.mean, self.std, prior_std)
        return weight_divergence(self.logit, self.mean, self.std, prior_logit, prior_std)


class SpikeSlabPerceptron(nn.Module):
    """A fully connected network with a spike-and-slab posterior over its weights, hidden units or inputs.

    Parameters
    ----------
    network : Network
        Initial means. Its input scaling is not part of the module: inputs are expected scaled.
    granularity : collection of {"weight", "node", "input"}
        Elements with gates: single weights, hidden units, inputs, or several of these together.
    prior_inclusion : float in (0, 1)
        Prior probability of every gate to be open.
    prior_std : float
        Standard deviation of the slabs' prior.
    inclusion : float in (0, 1)
        Initial inclusion probability of every gate.
    stds : sequence of ndarray of shape (n_inputs, n_outputs), or None
        Initial standard deviations of the slabs, one array per layer.
    activate : callable
        Activation of every layer but the last.

    Examples
    --------
    >>> network = Network((np.eye(3, 2, dtype=np.float32), np.ones((2, 1), np.float32)),
    ...                   (np.zeros(2, np.float32), np.zeros(1, np.float32)))
    >>> module = SpikeSlabPerceptron(network, {"input", "weight"}, prior_inclusion=0.1)
    >>> generator = torch.Generator().manual_seed(0)
    >>> module(torch.ones(4, 3), generator).shape, bool(module.divergence() > 0)
    (torch.Size([4, 1]), True)
    >>> [inclusion.shape for inclusion in module.inclusions()]
    [(3, 2), (2, 1)]
    """

    def __init__(
        self,
        network: Network,
        granularity: Sequence[str] = ("weight",),
        prior_inclusion: float = 1e-3,
        prior_std: float = 1.0,
        inclusion: float = 0.99,
        stds: Sequence[np.ndarray] | None = None,
        activate: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        self.prior_inclusion = prior_inclusion
        self.prior_std = prior_std
        self.activate = activate
        layers = zip(network.weights, network.biases, stds or itertools.repeat(None))
        self.layers = nn.ModuleList(
            SpikeSlabLayer(weight, bias, "weight" in granularity, inclusion, std) for weight, bias, std in layers
        )
        # Units before each layer: the inputs, then every hidden layer
        self.unit_gates = nn.ParameterDict()
        for index, n_units in enumerate(network.layer_sizes[:-1]):
            if ("node" if index else "input") in granularity:
                self.unit_gates[str(index)] = nn.Parameter(torch.full((n_units,), _gate_parameter(inclusion)))

    @property
    def prior_logit(self) -> float:
        """Prior log-odds of every gate to be open."""
        return math.log(self.prior_inclusion) - math.log1p(-self.prior_inclusion)

    def unit_logit(self, index: int) -> Tensor | None:
        """Return the logits of the gates of the units before layer `index`, shape (n_units,), or None."""
        gate = self.unit_gates[str(index)] if str(index) in self.unit_gates else None
        return None if gate is None else _GATE_RATE * gate

    def forward(self, inputs: Tensor, generator: torch.Generator, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Return one draw of the outputs, with weights and gates drawn independently for every sample.

        Parameters
        ----------
        inputs : Tensor of shape (n_samples, n_features)
        generator : torch.Generator
        gates : sequence of Tensor of shape (n_inputs, n_outputs), or None
            Fixed values of the gates, 0 or 1, one array per layer.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
        """
        drawn = self._draw_unit_gates(len(inputs), 0, generator, gates)
        inputs = inputs if drawn is None else inputs * drawn
        for index, layer in enumerate(self.layers):
            inputs = layer(inputs, generator, None if gates is None else gates[index])
            if index < len(self.layers) - 1:
                drawn = self._draw_unit_gates(len(inputs), index + 1, generator, gates)
                inputs = self.activate(inputs) if drawn is None else self.activate(inputs) * drawn
        return inputs

    def mean_outputs(self, inputs: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Return the outputs of the network whose weights are the means of the slabs times `gates`."""
        for index, (layer, gate) in enumerate(zip(self.layers, gates)):
            inputs = torch.addmm(layer.bias, inputs, gate * layer.mean)
            inputs = self.activate(inputs) if index < len(self.layers) - 1 else inputs
        return inputs

    def divergence(self, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Return the KL divergence of the posterior from the prior, shape (), in nats.

        Parameters
        ----------
        gates : sequence of Tensor of shape (n_inputs, n_outputs), or None
            With gates fixed at these values, the sum of the divergences of slabs whose gate is 1.
        """
        if gates is not None:
            slabs = (slab_divergence(layer.mean, layer.std, self.prior_std) for layer in self.layers)
            return sum((gate * slab).sum() for gate, slab in zip(gates, slabs))
        total = sum(gate_divergence(_GATE_RATE * gate, self.prior_logit).sum() for gate in self.unit_gates.values())
        for index, layer in enumerate(self.layers):
            each = layer.divergence(self.prior_logit, self.prior_std)
            total = total + self._times_unit_inclusion(index, each).sum()
        return total

    @torch.no_grad()
    def gate_inclusions(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the inclusion probabilities of the gates, 1 where there is no gate.

        Returns
        -------
        weights : list of ndarray of shape (n_inputs, n_outputs)
            Inclusion probabilities of the gates of single weights, one array per layer.
        units : list of ndarray of shape (n_inputs,)
            Inclusion probabilities of the gates of the units before each layer: inputs, then hidden units.
        """
        weights, units = [], []
        for index, layer in enumerate(self.layers):
            logit = self.unit_logit(index)
            inclusion = torch.ones_like(layer.mean) if layer.gate is None else torch.sigmoid(layer.logit)
            weights.append(inclusion.cpu().numpy())
            units.append(np.ones(len(inclusion), np.float32) if logit is None else torch.sigmoid(logit).cpu().numpy())
        return weights, units

    def inclusions(self) -> list[np.ndarray]:
        """Return the inclusion probability of every weight, all its gates together, one array per layer."""
        weights, units = self.gate_inclusions()
        after = [*units[1:], np.ones(weights[-1].shape[1], np.float32)]
        return [weight * before[:, None] * behind for weight, before, behind in zip(weights, units, after)]

    def unit_inclusions(self) -> list[np.ndarray]:
        """Return the inclusion probability of every input and hidden unit, shape (n_inputs,) for each layer.

        That of an input is the probability of its most probable path to an output, see `path_inclusion`; that of a
        hidden unit is this probability times the largest inclusion probability of a gate of its incoming weights.
        """
        weights, units = self.gate_inclusions()
        inputs, *hidden = path_inclusion(weights, units)
        return [inputs, *(unit * incoming.max(axis=0) for unit, incoming in zip(hidden, weights))]

    @torch.no_grad()
    def logits(self) -> list[np.ndarray]:
        """Return the logit of the least probable gate of every weight, one array per layer.

        It ranks weights nearly as their inclusion probabilities do, without ties at 1.
        """
        logits = []
        for index, layer in enumerate(self.layers):
            least = torch.full_like(layer.mean, math.inf) if layer.gate is None else layer.logit
            for logit, shape in ((self.unit_logit(index), (-1, 1)), (self.unit_logit(index + 1), (1, -1))):
                least = least if logit is None else torch.minimum(least, logit.reshape(shape))
            logits.append(least.cpu().numpy())
        return logits

    @torch.no_grad()
    def arrays(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Return means and standard deviations of the slabs, and biases, as float32 arrays, one per layer.

        Returns
        -------
        means, stds : tuple of ndarray of shape (n_inputs, n_outputs)
        biases : tuple of ndarray of shape (n_outputs,)
        """
        parts = ([getattr(layer, name) for layer in self.layers] for name in ("mean", "std", "bias"))
        means, stds, biases = (tuple(tensor.cpu().numpy().copy() for tensor in part) for part in parts)
        return means, stds, biases

    @torch.no_grad()
    def mean_inclusion(self) -> float:
        """Return the mean inclusion probability of all gates: the prior probability of the highest lower bound."""
        gates = [gate.ravel() for gate in self.unit_gates.values()]
        gates += [layer.gate.ravel() for layer in self.layers if layer.gate is not None]
        return float(torch.sigmoid(_GATE_RATE * torch.cat(gates)).mean())

    def _times_unit_inclusion(self, index: int, each: Tensor) -> Tensor:
        """Return values of the weights of a layer times the inclusion probabilities of the units on both sides."""
        for logit, shape in ((self.unit_logit(index), (-1, 1)), (self.unit_logit(index + 1), (1, -1))):
            each = each if logit is None else each * torch.sigmoid(logit).reshape(shape)
        return each

    def _draw_unit_gates(
        self, n_samples: int, index: int, generator: torch.Generator, gates: Sequence[Tensor] | None
    ) -> Tensor | None:
        """Draw the gates of the units before a layer, shape (n_samples, n_units); None without or with fixed ones."""
        logit = self.unit_logit(index)
        if logit is None or gates is not None:
            return None
        uniform = torch.rand((n_samples, len(logit)), generator=generator, device=logit.device)
        return straight_through_gates(logit, uniform)


def _gate_parameter(inclusion: float) -> float:
    """Return the parameter of a gate with an inclusion probability."""
    return math.log(inclusion / (1 - inclusion)) / _GATE_RATE
