"""Spike-and-slab posteriors: every weight, hidden unit or input is there with a probability that is learned.

A weight is ``w = z * beta``: a gate z, 1 with prior probability pi, and a slab ``beta ~ N(0, prior_deviation**2)``.
Where the gate is 0 the weight is exactly zero. The posterior keeps that form: the gate is 1 with probability phi, its
inclusion probability, and then the slab is N(mean, deviation**2). Gates may be shared: a hidden unit's gate holds for
all weights into and out of it and for its bias, an input's gate for all weights it enters by.

The family is that of Saha, Liu and Liang, "Efficient model compression for Bayesian neural networks" (arXiv
2411.00273). The relaxation of gates is due to Maddison, Mnih and Teh, "The concrete distribution" (ICLR 2017), the
sampling of sums in place of weights to Kingma, Salimans and Welling, "Variational dropout and the local
reparameterization trick" (NeurIPS 2015).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from distill.network import Network

GRANULARITIES = ("weight", "node", "input")

# Adam moves every parameter by about its learning rate; logits and logarithms have further to go than weights
_GATE_PACE, _DEVIATION_PACE = 10.0, 3.0
_SMALLEST = 1e-6


def gate_divergence(logit: Tensor, prior_logit: float) -> Tensor:
    """Return KL(Bernoulli(sigmoid(logit)) || Bernoulli(sigmoid(prior_logit))), element by element, in nats.

    Examples
    --------
    >>> phi, pi = torch.tensor(0.9), torch.tensor(0.2)
    >>> expected = phi * torch.log(phi / pi) + (1 - phi) * torch.log((1 - phi) / (1 - pi))
    >>> bool(torch.isclose(gate_divergence(phi.logit(), pi.logit().item()), expected))
    True
    """
    never = nn.functional.softplus(logit) - math.log1p(math.exp(prior_logit))
    return torch.sigmoid(logit) * (logit - prior_logit) - never


def slab_divergence(mean: Tensor, deviation: Tensor, prior_deviation: float) -> Tensor:
    """Return KL(N(mean, deviation**2) || N(0, prior_deviation**2)), element by element, in nats."""
    ratio = deviation / prior_deviation
    return 0.5 * (ratio.square() + (mean / prior_deviation).square() - 1) - torch.log(ratio)


def weight_divergence(
    logit: Tensor, mean: Tensor, deviation: Tensor, prior_logit: float, prior_deviation: float
) -> Tensor:
    """Return the divergence of gated weights from their prior, element by element, in nats.

    The slab counts as far as it is there, ``phi`` times; an excluded weight would otherwise pay for its slab, and
    nothing would be gained by excluding it.
    """
    slab = slab_divergence(mean, deviation, prior_deviation)
    return gate_divergence(logit, prior_logit) + torch.sigmoid(logit) * slab


def weight_moments(inclusion: Tensor, mean: Tensor, deviation: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of gated weights.

    Examples
    --------
    >>> weight_moments(torch.tensor(0.5), torch.tensor(2.0), torch.tensor(0.1))
    (tensor(1.), tensor(1.0050))
    """
    return inclusion * mean, inclusion * (deviation.square() + (1 - inclusion) * mean.square())


def straight_through_gates(logit: Tensor, uniform: Tensor, temperature: float = 0.5) -> Tensor:
    """Return gates that are exactly 0 or 1, with the gradient of their concrete relaxation.

    Parameters
    ----------
    logit : Tensor
        A gate is 1 with probability ``sigmoid(logit)``, whatever the temperature.
    uniform : Tensor
        Draws from [0, 1), of a shape that `logit` broadcasts to.
    temperature : float
        The lower, the nearer the relaxation is to the gate and the wilder its gradient.

    Examples
    --------
    >>> straight_through_gates(torch.tensor([2.0, 2.0]), torch.tensor([0.1, 0.5]))
    tensor([0., 1.])
    """
    noise = uniform.clamp(_SMALLEST, 1 - _SMALLEST).logit()
    relaxed = torch.sigmoid((logit + noise) / temperature)
    return (relaxed > 0.5).to(relaxed.dtype) + (relaxed - relaxed.detach())


def gate_gradient(logit: Tensor, gain: Tensor, divergence: Tensor, prior_logit: float) -> Tensor:
    """Return the exact gradient of the targets lower bound with respect to a gate's logit.

    Parameters
    ----------
    logit : Tensor
    gain : Tensor
        ``E[log likelihood | gate 1] - E[log likelihood | gate 0]``, summed over the rows. One draw of everything else,
        passed through the network twice, makes the answer an unbiased estimate.
    divergence : Tensor
        Of the slabs (and gates) that are there only where this gate is 1.
    prior_logit : float
    """
    inclusion = torch.sigmoid(logit)
    return inclusion * (1 - inclusion) * (gain - divergence - (logit - prior_logit))


def fixed_point(gain: np.ndarray, divergence: np.ndarray, prior_logit: float) -> np.ndarray:
    """Return the inclusion probability at which `gate_gradient` is zero, the best for all else as it is.

    Parameters
    ----------
    gain, divergence : array-like
        As in `gate_gradient`.
    prior_logit : float

    Examples
    --------
    >>> fixed_point([0.0, 12.0], [0.0, 5.0], -4.6).round(3)
    array([0.01 , 0.917])
    """
    logit = prior_logit + np.asarray(gain, np.float64) - np.asarray(divergence, np.float64)
    return 0.5 * (1 + np.tanh(0.5 * logit))


def path_inclusion(weights: Sequence[np.ndarray], units: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return, for the units before every layer, the probability of their most probable path to an output.

    All gates of a path must be open, that of the unit itself among them. The probability that any of all paths is open
    would be near 1 for every unit of a wide network: hundreds of gates that are hardly ever open add up.

    Parameters
    ----------
    weights : sequence of ndarray of shape (n_inputs, n_outputs)
        Inclusion probabilities of the weights' own gates.
    units : sequence of ndarray of shape (n_inputs,)
        Those of the gates of the units before each layer.

    Returns
    -------
    list of ndarray of shape (n_inputs,)
        The first is for the inputs of the network.

    Examples
    --------
    The first input enters a unit that leads nowhere.

    >>> path_inclusion([np.eye(2), np.array([[0.0], [0.9]])], [np.ones(2), np.ones(2)])[0]
    array([0. , 0.9])
    """
    reached = np.ones(weights[-1].shape[1])
    answer = []
    for weight, unit in zip(reversed(weights), reversed(units)):
        reached = unit * (weight * reached).max(axis=1)
        answer.insert(0, reached)
    return answer


class SpikeSlabLayer(nn.Module):
    """One layer's weights with their posterior; its biases are plain numbers.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
        Means of the slabs at the start.
    bias : ndarray of shape (n_outputs,)
    gated : bool
        Whether each weight has a gate of its own.
    inclusion : float in (0, 1)
        Inclusion probability of every gate at the start.
    deviation : ndarray of shape (n_inputs, n_outputs), or None
        Deviations of the slabs at the start; None for a tenth of ``n_inputs ** -0.5``.
    """

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        gated: bool,
        inclusion: float = 0.99,
        deviation: np.ndarray | None = None,
    ):
        super().__init__()
        weight = torch.tensor(weight)
        start = torch.full_like(weight, 0.1 / math.sqrt(len(weight))) if deviation is None else torch.tensor(deviation)
        self.mean = nn.Parameter(weight)
        self.log_deviation = nn.Parameter(start.log() / _DEVIATION_PACE)
        self.gate = nn.Parameter(torch.full_like(weight, _start_of_gate(inclusion))) if gated else None
        self.bias = nn.Parameter(torch.tensor(bias))

    @property
    def deviation(self) -> Tensor:
        """Deviations of the slabs, shape (n_inputs, n_outputs)."""
        return torch.exp(_DEVIATION_PACE * self.log_deviation)

    @property
    def logit(self) -> Tensor | None:
        """Logits of the inclusion probabilities, shape (n_inputs, n_outputs), or None without gates."""
        return None if self.gate is None else _GATE_PACE * self.gate

    def forward(self, rows: Tensor, generator: torch.Generator, kept: Tensor | None = None) -> Tensor:
        """Return one draw of the sums of every row, shape (n_samples, n_outputs).

        A sum of many independent weights is nearly normal, so that each row's sums are drawn with the mean and the
        variance that gates and slabs give them; both are exact.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, n_inputs)
        generator : torch.Generator
        kept : Tensor of shape (n_inputs, n_outputs), or None
            Gates fixed at these values.
        """
        mean, variance = self.moments(kept)
        deviation = (rows.square() @ variance).clamp_min(1e-12).sqrt()
        noise = torch.randn(deviation.shape, generator=generator, device=deviation.device)
        return torch.addmm(self.bias, rows, mean) + deviation * noise

    def moments(self, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the weights, gates of units aside."""
        if kept is not None:
            return kept * self.mean, kept * self.deviation.square()
        if self.gate is None:
            return self.mean, self.deviation.square()
        return weight_moments(torch.sigmoid(self.logit), self.mean, self.deviation)

    def divergence(self, prior_logit: float, prior_deviation: float) -> Tensor:
        """Return the divergence of each weight from its prior, shape (n_inputs, n_outputs)."""
        if self.gate is None:
            return slab_divergence(self.mean, self.deviation, prior_deviation)
        return weight_divergence(self.logit, self.mean, self.deviation, prior_logit, prior_deviation)


class SpikeSlabPerceptron(nn.Module):
    """A fully connected network whose weights, hidden units or inputs are there with a learned probability.

    Parameters
    ----------
    network : Network
        Where the means start. Its input section is not part of the module: rows come in scaled.
    granularity : collection of {"weight", "node", "input"}
        What has gates: single weights, hidden units, inputs; any of these together.
    prior_inclusion : float in (0, 1)
    prior_deviation : float
        Of the slabs.
    inclusion : float in (0, 1)
        Inclusion probability of every gate at the start.
    deviations : sequence of ndarray of shape (n_inputs, n_outputs), or None
        Deviations of the slabs at the start, one array per layer.
    activate : callable
        What follows every layer but the last.

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
        prior_deviation: float = 1.0,
        inclusion: float = 0.99,
        deviations: Sequence[np.ndarray] | None = None,
        activate: Callable[[Tensor], Tensor] = torch.relu,
    ):
        super().__init__()
        self.prior_inclusion = prior_inclusion
        self.prior_deviation = prior_deviation
        self.activate = activate
        layers = zip(network.weights, network.biases, deviations or [None] * len(network.weights))
        self.layers = nn.ModuleList(
            SpikeSlabLayer(weight, bias, "weight" in granularity, inclusion, deviation)
            for weight, bias, deviation in layers
        )
        # Units before each layer: the inputs, then every hidden layer
        self.unit_gates = nn.ParameterDict()
        for index, n_units in enumerate(network.layer_sizes[:-1]):
            if ("node" if index else "input") in granularity:
                self.unit_gates[str(index)] = nn.Parameter(torch.full((n_units,), _start_of_gate(inclusion)))

    @property
    def prior_logit(self) -> float:
        """Log-odds of every gate before the data."""
        return math.log(self.prior_inclusion) - math.log1p(-self.prior_inclusion)

    def unit_logit(self, index: int) -> Tensor | None:
        """Return the logits of the gates of the units before layer `index`, shape (n_units,), or None."""
        gate = self.unit_gates[str(index)] if str(index) in self.unit_gates else None
        return None if gate is None else _GATE_PACE * gate

    def forward(self, rows: Tensor, generator: torch.Generator, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return one draw of the outputs of every row, each with weights and gates of its own.

        Parameters
        ----------
        rows : Tensor of shape (n_samples, n_features)
        generator : torch.Generator
        kept : sequence of Tensor of shape (n_inputs, n_outputs), or None
            One per layer: gates fixed at these values, 0 or 1.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
        """
        open_gates = self._draw_units(len(rows), 0, generator, kept)
        rows = rows if open_gates is None else rows * open_gates
        for index, layer in enumerate(self.layers):
            rows = layer(rows, generator, None if kept is None else kept[index])
            if index < len(self.layers) - 1:
                open_gates = self._draw_units(len(rows), index + 1, generator, kept)
                rows = self.activate(rows) if open_gates is None else self.activate(rows) * open_gates
        return rows

    def mean_outputs(self, rows: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """Return the outputs of the network whose weights are the means of the slabs, where `kept` is 1."""
        for index, (layer, gates) in enumerate(zip(self.layers, kept)):
            rows = torch.addmm(layer.bias, rows, gates * layer.mean)
            rows = self.activate(rows) if index < len(self.layers) - 1 else rows
        return rows

    def divergence(self, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Return the divergence of the posterior from the prior, shape (), in nats.

        Parameters
        ----------
        kept : sequence of Tensor, or None
            With gates fixed at these values only the slabs are counted, where the gate is 1.
        """
        if kept is not None:
            slabs = (slab_divergence(layer.mean, layer.deviation, self.prior_deviation) for layer in self.layers)
            return sum((gates * slab).sum() for gates, slab in zip(kept, slabs))
        total = sum(gate_divergence(_GATE_PACE * gate, self.prior_logit).sum() for gate in self.unit_gates.values())
        for index, layer in enumerate(self.layers):
            each = layer.divergence(self.prior_logit, self.prior_deviation)
            total = total + self._by_units(index, each).sum()
        return total

    @torch.no_grad()
    def gate_inclusions(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return the inclusion probabilities of the gates, 1 where there is none.

        Returns
        -------
        weights : list of ndarray of shape (n_inputs, n_outputs)
            Of the gates of single weights, one array per layer.
        units : list of ndarray of shape (n_inputs,)
            Of the gates of inputs and hidden units, those before each layer.
        """
        weights, units = [], []
        for index, layer in enumerate(self.layers):
            logit = self.unit_logit(index)
            own = torch.ones_like(layer.mean) if layer.gate is None else torch.sigmoid(layer.logit)
            weights.append(own.cpu().numpy())
            units.append(np.ones(len(own), np.float32) if logit is None else torch.sigmoid(logit).cpu().numpy())
        return weights, units

    def inclusions(self) -> list[np.ndarray]:
        """Return the inclusion probability of every weight, all its gates together, one array per layer."""
        weights, units = self.gate_inclusions()
        after = [*units[1:], np.ones(weights[-1].shape[1], np.float32)]
        return [weight * before[:, None] * behind for weight, before, behind in zip(weights, units, after)]

    @torch.no_grad()
    def logits(self) -> list[np.ndarray]:
        """Return a logit for every weight that orders weights as their inclusion probabilities do, without ties at 1.

        It is that of the least probable of the weight's gates.
        """
        answer = []
        for index, layer in enumerate(self.layers):
            least = torch.full_like(layer.mean, math.inf) if layer.gate is None else layer.logit
            for logit, shape in ((self.unit_logit(index), (-1, 1)), (self.unit_logit(index + 1), (1, -1))):
                least = least if logit is None else torch.minimum(least, logit.reshape(shape))
            answer.append(least.cpu().numpy())
        return answer

    @torch.no_grad()
    def arrays(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        """Return means and deviations of the slabs, shapes (n_inputs, n_outputs), and biases, as float32 arrays."""
        parts = ([getattr(layer, name) for layer in self.layers] for name in ("mean", "deviation", "bias"))
        return tuple(tuple(tensor.cpu().numpy().copy() for tensor in part) for part in parts)

    @torch.no_grad()
    def mean_inclusion(self) -> float:
        """Return the mean inclusion probability of all gates; as prior probability it would make the bound highest."""
        gates = [gate.ravel() for gate in self.unit_gates.values()]
        gates += [layer.gate.ravel() for layer in self.layers if layer.gate is not None]
        return float(torch.sigmoid(_GATE_PACE * torch.cat(gates)).mean())

    def _by_units(self, index: int, each: Tensor) -> Tensor:
        for logit, shape in ((self.unit_logit(index), (-1, 1)), (self.unit_logit(index + 1), (1, -1))):
            each = each if logit is None else each * torch.sigmoid(logit).reshape(shape)
        return each

    def _draw_units(self, n_rows: int, index: int, generator: torch.Generator, kept: object) -> Tensor | None:
        logit = self.unit_logit(index)
        if logit is None or kept is not None:
            return None
        uniform = torch.rand((n_rows, len(logit)), generator=generator, device=logit.device)
        return straight_through_gates(logit, uniform)


def _start_of_gate(inclusion: float) -> float:
    return math.log(inclusion / (1 - inclusion)) / _GATE_PACE
