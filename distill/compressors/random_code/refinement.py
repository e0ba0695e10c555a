"""Choose the codes of all blocks again, for the loss of the whole network.

A block's code is first chosen for the posterior of that block. Refinement then chooses the codes of a group of blocks
again: the gradient of the loss over all training samples and its Gauss-Newton curvature define a quadratic model in the
random numbers of these blocks. Coordinate descent over the codes minimizes it, exactly in every step. A choice that
does not lower the loss is undone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from distill.codecs import cosine
from distill.codecs.random_code import Layout
from distill.training.losses import DistillationLoss
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.samples import DenseRows

# Values of a Jacobian computed at once, 16 MB in float32
_JACOBIAN_VALUES = 1 << 22
# Samples, or candidates, evaluated at once: 4096 samples of 1000 features are 16 MB in float32
_BLOCK = 4096
# Smallest relative decrease of the quadratic model that changes a code, above rounding errors: coordinate descent would
# otherwise cycle
_DECREASE = 1e-12
# Adam's learning rate and batch size when scales are tuned: a step changes a scale by about 0.3 % at most. Chosen by
# hand
_SCALE_RATE, _SCALE_BATCH = 3e-3, 1024
# Derivatives of the activations as functions of the activated values
_DERIVATIVES = {
    "identity": torch.ones_like,
    "relu": lambda activations: (activations > 0).to(activations.dtype),
    "tanh": lambda activations: 1 - activations * activations,
    "logistic": lambda activations: activations * (1 - activations),
}


class SharedNetwork:
    """A network as a function of the random numbers in its blocks.

    Parameters
    ----------
    layout : Layout
    activation : {"identity", "relu", "tanh", "logistic"}

    Attributes
    ----------
    used : Tensor of shape (n_blocks, block_size), bool
        False at the unused places of blocks.
    places : ndarray of shape (n_blocks, block_size), int64
        Index of the number at each place; -1 for none.
    weight_places, bias_places : list of Tensor of shape (n_weights,) or (n_outputs,), int64
        For each layer, the place of the number of each weight, in row order, and of each bias; places are counted
        through all blocks.
    signs : list of Tensor of shape (n_weights,), float32
        For each layer, the factor 1 or -1 of each weight.

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
        """Return weights, shape (n_inputs, n_outputs), and biases, shape (n_outputs,), of every layer.

        Parameters
        ----------
        numbers : Tensor of shape (n_blocks, block_size)
            Random numbers of all blocks.
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
        """Return the outputs of the last layer, shape (n_samples, n_outputs), for the inputs that `project` returns."""
        for weight, bias in layers[:-1]:
            inputs = TORCH_ACTIVATIONS[self.activation](torch.addmm(bias, inputs, weight))
        return torch.addmm(layers[-1][1], inputs, layers[-1][0])

    def project(self, inputs: np.ndarray) -> Tensor:
        """Return the inputs of a network whose first layer has waves in place of a grid of features.

        Parameters
        ----------
        inputs : ndarray of shape (n_samples, n_features)

        Returns
        -------
        Tensor of shape (n_samples, n_features) or (n_samples, n_frequencies), float32
            The products with the waves; without a grid, the inputs themselves.
        """
        if self.layout.input_shape:
            waves = np.eye(self.layout.n_frequencies, dtype=np.float32)
            inputs = inputs @ cosine.synthesize(waves, self.layout.input_shape)
        return torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))

    def average(self, layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the random numbers, for scales of 1, of the network nearest to given layers.

        Parameters
        ----------
        layers : sequence of (ndarray of shape (n_inputs, n_outputs), ndarray of shape (n_outputs,))
            Weights and biases.

        Returns
        -------
        list of (ndarray of shape (n_shared,), ndarray of shape (n_outputs,)), float32
            For each layer, the numbers of its weights and of its biases.
        """
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
        """Return the numbers of `average` at their places, shape (n_blocks, block_size); 0 at unused places."""
        flat = np.concatenate([part for pair in parts for part in pair]).astype(np.float32)
        return torch.from_numpy(np.where(self.places >= 0, flat[self.places], np.float32(0)))


def loss_and_gradient(
    network: SharedNetwork, numbers: Tensor, scales: Tensor, samples: DenseRows, loss: DistillationLoss
) -> tuple[float, Tensor]:
    """Return the mean loss of all samples and its gradient by the random numbers.

    Parameters
    ----------
    network : SharedNetwork
    numbers : Tensor of shape (n_blocks, block_size)
    scales : Tensor of shape (n_layers, 2)
    samples : DenseRows
        Inputs as `SharedNetwork.project` returns them, and the targets of `loss`.
    loss : DistillationLoss

    Returns
    -------
    loss : float
    gradient : Tensor of shape (n_blocks, block_size)
    """
    numbers = numbers.detach().requires_grad_()
    made = network.layers(numbers, scales)
    layers = [(weight.detach().requires_grad_(), bias.detach().requires_grad_()) for weight, bias in made]
    total = 0.0
    for inputs, targets in zip(*(tensor.split(_BLOCK) for tensor in samples.tensors)):
        value = loss(network.outputs(inputs, layers), targets) * (len(inputs) / len(samples))
        value.backward()
        total += value.item()
    # The gradients by weights and biases, added up over batches, go through their construction once
    arrays, gradients = [array for pair in made for array in pair], [array.grad for pair in layers for array in pair]
    (gradient,) = torch.autograd.grad(arrays, numbers, gradients)
    return total, gradient


@torch.no_grad()
def mean_loss(
    network: SharedNetwork, numbers: Tensor, scales: Tensor, samples: DenseRows, loss: DistillationLoss
) -> float:
    """Return the mean loss of all samples; parameters as of `loss_and_gradient`."""
    layers, total = network.layers(numbers, scales), 0.0
    for inputs, targets in zip(*(tensor.split(_BLOCK) for tensor in samples.tensors)):
        total += loss(network.outputs(inputs, layers), targets).item() * len(inputs) / len(samples)
    return total


@torch.no_grad()
def curvature(
    network: SharedNetwork, numbers: Tensor, scales: Tensor, chosen: Tensor, inputs: Tensor, loss: DistillationLoss
) -> Tensor:
    """Return the Gauss-Newton matrix of the mean loss for some of the random numbers.

    Parameters
    ----------
    network : SharedNetwork
    numbers : Tensor of shape (n_blocks, block_size)
    scales : Tensor of shape (n_layers, 2)
    chosen : Tensor of shape (n,), int64
        Places of these numbers, counted through all blocks.
    inputs : Tensor of shape (n_samples, n_inputs)
        As `SharedNetwork.project` returns them.
    loss : DistillationLoss

    Returns
    -------
    Tensor of shape (n, n)
        The mean over samples of J^T S J: J are the derivatives of the outputs by the chosen numbers, S the second
        derivative of the loss by the outputs.

    Notes
    -----
    Samples go through the network in blocks of n_rows, together with the derivatives by the chosen numbers:

    ===========  ============================  ===================================================================
    array        shape                         content
    ===========  ============================  ===================================================================
    column       (n_blocks * block_size,)      index in `chosen` of each place; -1 if it is not chosen
    activations  (n_rows, n_inputs)            inputs of a layer
    jacobian     (n_rows, n, n_inputs)         their derivatives by the chosen numbers; None for the first layer
    moved        (n_rows, n, n_outputs)        derivatives of the layer's outputs: through its inputs, and through its
                                               own weights and biases, where these have a chosen number
    weighted     (n_rows * n_outputs, n)       derivatives of the last outputs times a root of S
    ===========  ============================  ===================================================================
    """
    layers, n = network.layers(numbers, scales), len(chosen)
    column = torch.full((numbers.numel(),), -1)
    column[chosen] = torch.arange(n)
    influences = [_influence(network, layer, column, scales) for layer in range(len(layers))]
    total = torch.zeros(n, n)
    widest = max(weight.shape[1] for weight, _ in layers)
    for activations in inputs.split(max(1, _JACOBIAN_VALUES // (n * widest))):
        jacobian, n_rows = None, len(activations)
        for layer, ((weight, bias), influence) in enumerate(zip(layers, influences)):
            columns, entries, factors, bias_columns, units, bias_factors = influence
            n_outputs = weight.shape[1]
            outputs = torch.addmm(bias, activations, weight)
            if jacobian is None:
                moved = torch.zeros(n_rows, n * n_outputs)
            else:
                moved = (jacobian.reshape(n_rows * n, -1) @ weight).reshape(n_rows, n * n_outputs)
            entry_inputs = activations[:, entries // n_outputs]
            moved.index_add_(1, columns * n_outputs + entries % n_outputs, entry_inputs * factors)
            moved.index_add_(1, bias_columns * n_outputs + units, bias_factors.expand(n_rows, -1).contiguous())
            moved = moved.reshape(n_rows, n, n_outputs)
            if layer < len(layers) - 1:
                activations = TORCH_ACTIVATIONS[network.activation](outputs)
                jacobian = moved * _DERIVATIVES[network.activation](activations)[:, None]
        weighted = _weighted(moved, outputs, loss).transpose(1, 2).reshape(-1, n)
        total += weighted.T @ weighted
    return total / len(inputs)


def choose_together(
    layout: Layout,
    blocks: Sequence[int],
    current: Sequence[np.ndarray],
    gradient: np.ndarray,
    hessian: np.ndarray,
    n_sweeps: int = 3,
) -> tuple[list[int | None], np.ndarray]:
    """Choose codes of some blocks that minimize a quadratic model of the loss, one block after the other.

    Parameters
    ----------
    layout : Layout
    blocks : sequence of int
    current : sequence of ndarray of shape (size of the block,)
        Current random numbers of the blocks, the origin of the model.
    gradient : ndarray of shape (n,)
        By the random numbers of all these blocks, in their order.
    hessian : ndarray of shape (n, n)
    n_sweeps : int
        Largest number of sweeps over the blocks; fewer if one changes nothing.

    Returns
    -------
    codes : list of int or None
        None where no candidate is better than the current one.
    moves : ndarray of shape (n,)
        New minus current random numbers; no choice increases the model.

    Notes
    -----
    For one block, with the others at their moves:

    ======  ==========================  ====================================================================
    array   shape                       content
    ======  ==========================  ====================================================================
    inside  (size, size)                its part of the Hessian
    slope   (size,)                     gradient of the model by its move, where that is zero
    steps   (n_candidates, size)        moves to the candidates
    values  (n_candidates,)             changes of the model by them
    ======  ==========================  ====================================================================
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
            lowest = slope @ moves[own] + 0.5 * moves[own] @ inside @ moves[own]
            for start in range(0, 1 << layout.bits_per_block, _BLOCK):
                stop = min(start + _BLOCK, 1 << layout.bits_per_block)
                steps = layout.candidates(block, start, stop)[:, : len(current[position])] - current[position]
                values = steps @ slope + 0.5 * ((steps @ inside) * steps).sum(axis=1)
                best = int(values.argmin())
                if values[best] < lowest - _DECREASE * abs(lowest):
                    lowest, codes[position], moves[own] = values[best], start + best, steps[best]
        if codes == before:
            break
    return codes, moves


def tune_scales(
    network: SharedNetwork,
    numbers: Tensor,
    log_scales: Tensor,
    samples: DenseRows,
    loss: DistillationLoss,
    n_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Train the scales alone.

    Parameters
    ----------
    network : SharedNetwork
    numbers : Tensor of shape (n_blocks, block_size)
        Random numbers, constant.
    log_scales : Tensor of shape (n_layers, 2)
        Initial ln scales of weights and of biases.
    samples : DenseRows
    loss : DistillationLoss
    n_steps : int
        Steps of Adam with a learning rate that falls linearly.
    generator : torch.Generator
        Draws the batches.

    Returns
    -------
    Tensor of shape (n_layers, 2)
    """
    log_scales = log_scales.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([log_scales], lr=_SCALE_RATE)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = _SCALE_RATE * (1 - step / n_steps)
        batch = torch.randint(len(samples), (min(_SCALE_BATCH, len(samples)),), generator=generator)
        inputs, targets = samples.take(batch)
        optimizer.zero_grad()
        layers = network.layers(numbers, log_scales.exp())
        loss(network.outputs(inputs, layers), targets).backward()
        optimizer.step()
    return log_scales.detach()


def _influence(network: SharedNetwork, layer: int, column: Tensor, scales: Tensor) -> tuple[Tensor, ...]:
    """Return the weights and biases of a layer that depend on a chosen random number.

    Returns
    -------
    columns, entries, factors : Tensor of shape (n_weights,)
        Of each weight the column of its number, its index in row order and its derivative by the number.
    bias_columns, units, bias_factors : Tensor of shape (n_biases,)
        The same of each bias.
    """
    columns = column[network.weight_places[layer]]
    entries = torch.nonzero(columns >= 0)[:, 0]
    bias_columns = column[network.bias_places[layer]]
    units = torch.nonzero(bias_columns >= 0)[:, 0]
    factors = network.signs[layer][entries] * scales[layer, 0]
    return columns[entries], entries, factors, bias_columns[units], units, scales[layer, 1].expand(len(units))


def _weighted(jacobian: Tensor, outputs: Tensor, loss: DistillationLoss) -> Tensor:
    """Return a Jacobian of the outputs times a root of the loss's second derivative by them; (n_rows, n, n_outputs)."""
    kind = loss.network.output
    if kind == "softmax":
        probability = nn.functional.softmax(outputs / loss.temperature, dim=1)[:, None]
        return (jacobian - (jacobian * probability).sum(dim=2, keepdim=True)) * probability.sqrt()
    if kind == "logistic":
        probability = torch.sigmoid(outputs / loss.temperature)[:, None]
        return jacobian * torch.sqrt(probability * (1 - probability))
    return jacobian * ((2 / outputs.shape[1]) ** 0.5 / torch.from_numpy(loss.unit))
