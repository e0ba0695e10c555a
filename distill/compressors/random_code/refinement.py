"""Choosing random codes for what the network answers, all blocks together.

A block's code is first chosen for its own posterior. Afterwards codes are chosen again, some blocks at a time, for the
loss of the whole network: its gradient over all rows and its Gauss-Newton curvature make a quadratic model of the
blocks' numbers, and coordinate descent over the codes, exact in every step, minimises it. A choice that does not lower
the real loss is taken back.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distill.codecs import cosine
from distill.codecs.random_code import Layout
from distill.training.perceptron import TORCH_ACTIVATIONS

_MOST_VALUES = 1 << 22
_ROWS = 4096
_SLOPES = {
    "identity": torch.ones_like,
    "relu": lambda answers: (answers > 0).to(answers.dtype),
    "tanh": lambda answers: 1 - answers * answers,
    "logistic": lambda answers: answers * (1 - answers),
}


class SharedNetwork:
    """A network as a function of the numbers in its blocks.

    Parameters
    ----------
    layout : Layout
    activation : {"identity", "relu", "tanh", "logistic"}

    Attributes
    ----------
    used : Tensor of shape (n_blocks, block_size), bool
        Places of blocks that hold a number.
    places : ndarray of shape (n_blocks, block_size), int64
        Which number stands at each place; -1 for none.

    Examples
    --------
    >>> layout = Layout(((3, 2),), (1,), bits_per_block=8, n_blocks=4)
    >>> network = SharedNetwork(layout, "relu")
    >>> layers = network.layers(torch.ones(4, 2), torch.full((1, 2), 0.5))
    >>> network.outputs(torch.ones(1, 3), layers)
    tensor([[2., 2.]])
    """

    def __init__(self, layout: Layout, activation: str):
        self.layout, self.activation = layout, activation
        self.places = layout.places()
        self.used = torch.from_numpy(self.places >= 0)
        place_of = np.empty(layout.n_numbers, np.int64)
        taken = self.places.ravel() >= 0
        place_of[self.places.ravel()[taken]] = np.flatnonzero(taken)
        starts = np.concatenate([[0], np.cumsum(layout.sizes)])
        self.weight_places, self.bias_places, self.signs = [], [], []
        for layer in range(len(layout.shapes)):
            index, sign = layout.sharing(layer)
            first, second, third = starts[2 * layer : 2 * layer + 3]
            self.weight_places.append(torch.from_numpy(place_of[first + index]))
            self.bias_places.append(torch.from_numpy(place_of[second:third]))
            self.signs.append(torch.from_numpy(sign))

    def layers(self, numbers: Tensor, scales: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weights, shape (n_inputs, n_outputs), and biases of every layer.

        Parameters
        ----------
        numbers : Tensor of shape (n_blocks, block_size)
        scales : Tensor of shape (n_layers, 2)
            Of weights and of biases.
        """
        flat, layers = numbers.reshape(-1), []
        for layer, shape in enumerate(self.layout.shared_shapes):
            weight = flat.index_select(0, self.weight_places[layer]) * (self.signs[layer] * scales[layer, 0])
            bias = flat.index_select(0, self.bias_places[layer]) * scales[layer, 1]
            layers.append((weight.reshape(shape), bias))
        return layers

    def outputs(self, inputs: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the last layer's sums for inputs as `project` returns them."""
        for weight, bias in layers[:-1]:
            inputs = TORCH_ACTIVATIONS[self.activation](torch.addmm(bias, inputs, weight))
        return torch.addmm(layers[-1][1], inputs, layers[-1][0])

    def project(self, inputs: np.ndarray) -> Tensor:
        """Return rows as the numbers of the first layer meet them: by waves, where the inputs are a grid."""
        if self.layout.input_shape:
            waves = np.eye(self.layout.n_frequencies, dtype=np.float32)
            inputs = inputs @ cosine.synthesize(waves, self.layout.input_shape)
        return torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))

    def average(self, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the numbers, of scale 1, whose network is nearest to given layers: those of weights and of biases."""
        numbers = []
        for layer, (weight, bias) in enumerate(layers):
            if layer == 0 and self.layout.input_shape:
                # Waves are orthonormal, so products with them are the amplitudes
                waves = np.eye(self.layout.n_frequencies, dtype=np.float32)
                weight = cosine.synthesize(waves, self.layout.input_shape).T @ weight
            index, sign = self.layout.sharing(layer)
            total = np.bincount(index, weights=sign * weight.ravel())
            numbers.append(((total / np.bincount(index)).astype(np.float32), bias))
        return numbers

    def gather(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        """Return numbers given layer by layer, weights and biases, at their places; 0 where there is none."""
        flat = np.concatenate([part for pair in parts for part in pair]).astype(np.float32)
        return torch.from_numpy(np.where(self.places >= 0, flat[self.places], np.float32(0)))


@dataclass(frozen=True)
class Rows:
    """What the network is to answer.

    Parameters
    ----------
    inputs : Tensor of shape (n_samples, n_inputs)
        As `SharedNetwork.project` returns them.
    targets : Tensor of shape (n_samples, ...)
    loss : callable(outputs, targets) -> Tensor of shape ()
        Mean loss of rows.
    output : {"identity", "softmax", "logistic"}
        The loss is squared error in units of `unit`, cross-entropy of classes, or of every output.
    unit : Tensor of shape (n_outputs,)
    temperature : float
        What sums are divided by before they become probabilities; the loss is cross-entropy times its square.
    """

    inputs: Tensor
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    output: str
    unit: Tensor
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs)


def loss_and_gradient(network: SharedNetwork, numbers: Tensor, scales: Tensor, rows: Rows) -> tuple[float, Tensor]:
    """Return the mean loss of all rows and its gradient, shape (n_blocks, block_size)."""
    numbers = numbers.detach().requires_grad_()
    made = network.layers(numbers, scales)
    layers = [(weight.detach().requires_grad_(), bias.detach().requires_grad_()) for weight, bias in made]
    total = 0.0
    for inputs, targets in zip(rows.inputs.split(_ROWS), rows.targets.split(_ROWS)):
        value = rows.loss(network.outputs(inputs, layers), targets) * (len(inputs) / len(rows))
        value.backward()
        total += value.item()
    torch.autograd.backward(
        [array for pair in made for array in pair], [array.grad for pair in layers for array in pair]
    )
    return total, numbers.grad


@torch.no_grad()
def mean_loss(network: SharedNetwork, numbers: Tensor, scales: Tensor, rows: Rows) -> float:
    """Return the mean loss of all rows."""
    layers, total = network.layers(numbers, scales), 0.0
    for inputs, targets in zip(rows.inputs.split(_ROWS), rows.targets.split(_ROWS)):
        total += rows.loss(network.outputs(inputs, layers), targets).item() * len(inputs) / len(rows)
    return total


@torch.no_grad()
def curvature(network: SharedNetwork, numbers: Tensor, scales: Tensor, chosen: Tensor, rows: Rows) -> Tensor:
    """Return the Gauss-Newton matrix of the mean loss for some of the numbers.

    Parameters
    ----------
    network : SharedNetwork
    numbers : Tensor of shape (n_blocks, block_size)
    scales : Tensor of shape (n_layers, 2)
    chosen : Tensor of shape (n,), int64
        Places, counted through all blocks.
    rows : Rows
        All of them are used.

    Returns
    -------
    Tensor of shape (n, n)
        The mean over rows of J^T S J, with J the slopes of the last sums and S the second derivative of the loss by
        them.
    """
    layers, n = network.layers(numbers, scales), len(chosen)
    column = torch.full((numbers.numel(),), -1)
    column[chosen] = torch.arange(n)
    touched = [_touched(network, layer, column, scales) for layer in range(len(layers))]
    total = torch.zeros(n, n)
    widest = max(weight.shape[1] for weight, _ in layers)
    for inputs in rows.inputs.split(max(1, _MOST_VALUES // (n * widest))):
        slopes = None
        for layer, ((weight, bias), (columns, entries, sizes, bias_columns, units, bias_sizes)) in enumerate(
            zip(layers, touched)
        ):
            n_rows, n_outputs = len(inputs), weight.shape[1]
            sums = torch.addmm(bias, inputs, weight)
            if slopes is None:
                moved = torch.zeros(n_rows, n * n_outputs)
            else:
                moved = (slopes.reshape(n_rows * n, -1) @ weight).reshape(n_rows, n * n_outputs)
            moved.index_add_(1, columns * n_outputs + entries % n_outputs, inputs[:, entries // n_outputs] * sizes)
            moved.index_add_(1, bias_columns * n_outputs + units, bias_sizes.expand(n_rows, -1).contiguous())
            moved = moved.reshape(n_rows, n, n_outputs)
            if layer < len(layers) - 1:
                inputs = TORCH_ACTIVATIONS[network.activation](sums)
                slopes = moved * _SLOPES[network.activation](inputs)[:, None]
        weighted = _weighted(moved, sums, rows).transpose(1, 2).reshape(-1, n)
        total += weighted.T @ weighted
    return total / len(rows)


def choose_together(
    layout: Layout,
    blocks: Sequence[int],
    current: Sequence[np.ndarray],
    gradient: np.ndarray,
    hessian: np.ndarray,
    n_sweeps: int = 3,
) -> tuple[list[int | None], np.ndarray]:
    """Choose codes of some blocks that minimise a quadratic model of the loss, one block after the other.

    Parameters
    ----------
    layout : Layout
    blocks : sequence of int
    current : sequence of ndarray of shape (size of the block,)
        The numbers the blocks have, about which the model is made.
    gradient : ndarray of shape (n,)
        For the numbers of all these blocks, in their order.
    hessian : ndarray of shape (n, n)
    n_sweeps : int
        How often every block is looked at, at most.

    Returns
    -------
    codes : list of int or None
        None where nothing is better than what the block has.
    moves : ndarray of shape (n,)
        New numbers less the old ones; the model never rises from block to block.
    """
    bounds = np.cumsum([0] + [len(numbers) for numbers in current])
    codes: list[int | None] = [None] * len(blocks)
    moves = np.zeros(len(gradient))
    for _ in range(n_sweeps):
        before = list(codes)
        for position, block in enumerate(blocks):
            own = slice(bounds[position], bounds[position + 1])
            inside = hessian[own, own]
            slope = gradient[own] + hessian[own] @ moves - inside @ moves[own]
            stay = slope @ moves[own] + 0.5 * moves[own] @ inside @ moves[own]
            for start in range(0, 1 << layout.bits_per_block, _ROWS):
                stop = min(start + _ROWS, 1 << layout.bits_per_block)
                steps = layout.candidates(block, start, stop)[:, : len(current[position])] - current[position]
                values = steps @ slope + 0.5 * ((steps @ inside) * steps).sum(axis=1)
                best = int(values.argmin())
                if values[best] < stay - 1e-12 * abs(stay):
                    stay, codes[position], moves[own] = values[best], start + best, steps[best]
        if codes == before:
            break
    return codes, moves


def tune_scales(
    network: SharedNetwork, numbers: Tensor, log_scales: Tensor, rows: Rows, n_steps: int, generator: torch.Generator
) -> Tensor:
    """Return ln scales that suit numbers which no longer change, shape (n_layers, 2)."""
    log_scales = log_scales.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([log_scales], lr=3e-3)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / n_steps)
        batch = torch.randint(len(rows), (min(1024, len(rows)),), generator=generator)
        optimizer.zero_grad()
        layers = network.layers(numbers, log_scales.exp())
        rows.loss(network.outputs(rows.inputs[batch], layers), rows.targets[batch]).backward()
        optimizer.step()
    return log_scales.detach()


def _touched(network: SharedNetwork, layer: int, column: Tensor, scales: Tensor) -> tuple[Tensor, ...]:
    """Which weights and biases of a layer the chosen numbers make: column, entry and size of their influence."""
    columns = column[network.weight_places[layer]]
    entries = torch.nonzero(columns >= 0)[:, 0]
    bias_columns = column[network.bias_places[layer]]
    units = torch.nonzero(bias_columns >= 0)[:, 0]
    sizes = network.signs[layer][entries] * scales[layer, 0]
    return columns[entries], entries, sizes, bias_columns[units], units, scales[layer, 1].expand(len(units))


def _weighted(slopes: Tensor, sums: Tensor, rows: Rows) -> Tensor:
    """Return slopes, shape (n_rows, n, n_outputs), times a root of the loss's second derivative by the sums."""
    if rows.output == "softmax":
        share = nn.functional.softmax(sums / rows.temperature, dim=1)[:, None]
        return (slopes - (slopes * share).sum(dim=2, keepdim=True)) * share.sqrt()
    if rows.output == "logistic":
        share = torch.sigmoid(sums / rows.temperature)[:, None]
        return slopes * torch.sqrt(share * (1 - share))
    return slopes * ((2 / sums.shape[1]) ** 0.5 / rows.unit)
