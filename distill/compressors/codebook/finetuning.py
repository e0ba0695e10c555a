"""Train the codewords, scales and biases of a compressed network, and on demand its codes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.layers import encode
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.loop import History, train
from distill.training.losses import DistillationLoss
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.samples import DenseRows
from distill.training.targets import Calibration
from distill.utils.progress import Stage

_BATCH_SIZE = 256
# Smallest number of steps in an epoch, so that a few hundred samples still give enough steps. Chosen by hand
_MIN_STEPS = 32
# Decay per step of the averaged values, which reduces the noise of batches: an average over about 50 steps, one to two
# epochs of 9000 samples. Chosen by hand
_AVERAGING = 0.98
# Standard deviations of a codebook in a unit of position. Codewords and scales move by small fractions of their size;
# a position has to cross half the gap between two codewords to change a code, so that its steps are twice as large
_POSITION_UNIT = 2.0


@dataclass(frozen=True, kw_only=True)
class TuningSettings:
    """Settings of `fine_tune`.

    Parameters
    ----------
    max_iter : int
        Number of epochs, 0 or more.
    learning_rate : float
        Step size at the start, relative to the size of the trained values.
    train_codes : bool
        Whether codes are trained too.
    temperature : float
        Divisor of logits; see `distill.training.losses.DistillationLoss`.
    """

    max_iter: int = 20
    learning_rate: float = 1e-3
    train_codes: bool = False
    temperature: float = 4.0


def fine_tune(
    network: Network,
    layers: Sequence[CodebookLayer],
    calibration: Calibration,
    settings: TuningSettings,
    stage: Stage | None = None,
) -> tuple[tuple[CodebookLayer, ...], int]:
    """Train a compressed network on the outputs of the original network.

    Parameters
    ----------
    network : Network
        The original network.
    layers : sequence of CodebookLayer
    calibration : Calibration
    settings : TuningSettings
    stage : Stage or None
        Reports every epoch; it can stop the training.

    Returns
    -------
    layers : tuple of CodebookLayer
        Those of the epoch with the smallest loss on the validation samples; those given if no epoch has a smaller one.
    n_iter : int
        Number of epochs that were run.
    """
    if settings.max_iter == 0:
        return tuple(layers), 0
    outputs = layer_outputs(network, calibration.train)[-1]
    distillation = DistillationLoss(network, outputs, settings.temperature)
    inputs = torch.from_numpy(calibration.validation)
    targets = distillation.targets(layer_outputs(network, calibration.validation)[-1])
    module = (MovingPerceptron if settings.train_codes else CodebookPerceptron)(layers, network.activation)

    def loss(module: CodebookPerceptron, inputs: Tensor, targets: Tensor) -> Tensor:
        return distillation(module(inputs), targets)

    def validate(module: CodebookPerceptron) -> tuple[float, float]:
        value = float(loss(module, inputs, targets))
        return -value, value

    def report(module: CodebookPerceptron, history: History) -> bool:
        return stage is not None and stage.step(
            f"loss {history.loss_curve[-1]:.5f}, validation loss {-history.last_score:.5f}",
            lambda: encode(network, module.layers()),
        )

    with torch.no_grad():
        start_score, _ = validate(module)
    history = train(
        module,
        loss,
        DenseRows(torch.from_numpy(calibration.train), distillation.targets(outputs)),
        batch_size=_BATCH_SIZE,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=_MIN_STEPS,
        validate=validate,
        n_iter_no_change=settings.max_iter,
        averaging=_AVERAGING,
        seed=calibration.seed,
        callback=report,
    )
    is_better = history.best_score is not None and history.best_score > start_score
    return module.layers() if is_better else tuple(layers), history.n_iter


class CodebookPerceptron(nn.Module):
    """A fully connected network whose codewords, scales and biases are trained.

    The values are rounded to 16 bits, as in a file, whenever outputs are computed, so that training and validation use
    the values of the file. The gradient of the rounding is taken as one (straight-through estimator). A codeword of
    zero stays zero.

    Parameters
    ----------
    layers : sequence of CodebookLayer
        The codes, which are constant, and the initial values.
    activation : {"identity", "relu", "tanh", "logistic"}

    Examples
    --------
    >>> layer = CodebookLayer(np.zeros((2, 1), np.uint8), np.array([[0.5]], np.float32), None, np.zeros(1, int),
    ...                       np.ones(1, np.float32), np.array([True, True]))
    >>> CodebookPerceptron([layer], "relu")(torch.ones(1, 2)).item()
    2.0
    """

    def __init__(self, layers: Sequence[CodebookLayer], activation: str):
        super().__init__()
        self.start = tuple(layers)
        self.activate = TORCH_ACTIVATIONS[activation]
        # Parameters are divided by their root mean square, so that one learning rate suits layers of any size
        self.sizes = [[_size(values) for values in _trained(layer)] for layer in layers]
        self.values = nn.ModuleList(
            nn.ParameterList(torch.tensor(np.float32(values / size)) for values, size in zip(_trained(layer), sizes))
            for layer, sizes in zip(layers, self.sizes)
        )
        for index, layer in enumerate(layers):
            level = layer.groups[None, :] * layer.codebooks.shape[1] + layer.codes
            self.register_buffer(f"level_{index}", torch.tensor(np.ascontiguousarray(level.T)))
            self.register_buffer(f"movable_{index}", torch.tensor((layer.codebooks != 0).astype(np.float32)))
            self.register_buffer(f"used_{index}", torch.tensor(np.flatnonzero(layer.used)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the last layer, shape (n_samples, n_outputs), before any softmax or logistic."""
        for index, layer in enumerate(self.start):
            if index:
                inputs = self.activate(inputs)
            if not layer.used.all():
                inputs = inputs[:, getattr(self, f"used_{index}")]
            codebooks, bias, *scales = self._rounded(index)
            # A common codebook times the scales, or a codebook for each group
            weight = self._weight(index, codebooks * scales[0][:, None] if scales else codebooks)
            inputs = nn.functional.linear(inputs, weight, bias)
        return inputs

    @torch.no_grad()
    def layers(self) -> tuple[CodebookLayer, ...]:
        """Return the layers with the values trained so far, rounded as in a file."""
        trained = []
        for index, layer in enumerate(self.start):
            codebooks, bias, *scales = (np.array(values.cpu().numpy()) for values in self._rounded(index))
            trained.append(replace(layer, codebooks=codebooks, bias=bias, scales=scales[0] if scales else None))
        return tuple(trained)

    def _weight(self, index: int, levels: Tensor) -> Tensor:
        """Return the weights, shape (n_outputs, n_used), for levels of shape (n_groups, n_codewords)."""
        level = getattr(self, f"level_{index}")
        return levels.flatten().index_select(0, level.flatten()).view(level.shape)

    def _rounded(self, index: int) -> list[Tensor]:
        """Return codebooks, bias and, where there are any, scales of a layer, rounded as in a file."""
        values = [values * size for values, size in zip(self.values[index].parameters(), self.sizes[index])]
        values[0] = values[0] * getattr(self, f"movable_{index}")
        return [_round_straight_through(value) for value in values]


class MovingPerceptron(CodebookPerceptron):
    """A fully connected network whose codes are trained together with its codewords, scales and biases.

    Each weight has a position, a real number, and its code is that of the codeword nearest to the position. A position
    has the gradient of its weight (straight-through estimator) and is clipped to the range of the codewords, so that
    codes change to those of neighboring codewords. Weights whose codeword is zero at the start stay zero.

    Parameters
    ----------
    layers : sequence of CodebookLayer
        Initial codes and values.
    activation : {"identity", "relu", "tanh", "logistic"}

    References
    ----------
    Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic neurons for conditional
    computation" (arXiv 1308.3432), for the straight-through estimator. Courbariaux, Bengio, David, "BinaryConnect"
    (NeurIPS 2015), for real positions behind quantized weights.

    Examples
    --------
    The code of the second weight changes.

    >>> layer = CodebookLayer(np.array([[0], [0]], np.uint8), np.array([[-1.0, 1.0]], np.float32), None,
    ...                       np.zeros(1, int), np.zeros(1, np.float32), np.array([True, True]))
    >>> module = MovingPerceptron([layer], "relu")
    >>> with torch.no_grad():
    ...     _ = module.positions[0].copy_(torch.tensor([[-0.2, 0.2]]))
    >>> module.layers()[0].codes.ravel()
    array([0, 1], dtype=uint8)
    """

    def __init__(self, layers: Sequence[CodebookLayer], activation: str):
        super().__init__(layers, activation)
        positions = []
        for index, layer in enumerate(layers):
            levels = torch.tensor(layer.levels)
            std = levels.std(dim=1, keepdim=True, correction=0)
            std = torch.where(std > 0, std, 1.0)[torch.tensor(layer.groups)]
            weight = torch.tensor(np.ascontiguousarray(layer.weight[layer.used].T))
            positions.append(nn.Parameter(weight / (_POSITION_UNIT * std)))
            self.register_buffer(f"unit_{index}", _POSITION_UNIT * std)
            self.register_buffer(f"groups_{index}", torch.tensor(layer.groups))
            zero = (weight == 0) if (layer.codebooks == 0).any() else None
            self.register_buffer(f"zero_{index}", zero)
            start = torch.tensor(np.ascontiguousarray(layer.codes.T), dtype=torch.int64)
            self.register_buffer(f"code_{index}", None if zero is None else start)
        self.positions = nn.ParameterList(positions)

    @torch.no_grad()
    def layers(self) -> tuple[CodebookLayer, ...]:
        """Return the layers with the codes and values trained so far, rounded as in a file."""
        moved = []
        for index, layer in enumerate(super().layers()):
            codes = self._codes(index, torch.tensor(layer.levels))
            moved.append(replace(layer, codes=np.ascontiguousarray(codes.numpy().T.astype(np.uint8))))
        return tuple(moved)

    def _weight(self, index: int, levels: Tensor) -> Tensor:
        codes = self._codes(index, levels.detach())
        of_neurons = levels[getattr(self, f"groups_{index}")]
        lowest, highest = (end.detach() for end in of_neurons.aminmax(dim=1, keepdim=True))
        position = self._position(index).clamp(lowest, highest)
        straight, zero = position - position.detach(), getattr(self, f"zero_{index}")
        return of_neurons.gather(1, codes) + (straight if zero is None else torch.where(zero, 0.0, straight))

    def _position(self, index: int) -> Tensor:
        """Return the positions of a layer in units of its weights, shape (n_outputs, n_used)."""
        return self.positions[index] * getattr(self, f"unit_{index}")

    @torch.no_grad()
    def _codes(self, index: int, levels: Tensor) -> Tensor:
        """Return the codes of the levels nearest to the positions, shape (n_outputs, n_used), int64."""
        ordered, order = levels.sort(dim=1)
        groups, position = getattr(self, f"groups_{index}"), self._position(index)
        # The nearest level of a position by the number of middles between neighboring levels below it
        middles = ((ordered[:, 1:] + ordered[:, :-1]) / 2)[groups]
        rank = torch.zeros(position.shape, dtype=torch.int64)
        for middle in middles.unbind(dim=1):
            rank += position > middle[:, None]
        codes = order[groups].gather(1, rank)
        zero = getattr(self, f"zero_{index}")
        return codes if zero is None else torch.where(zero, getattr(self, f"code_{index}"), codes)


def _trained(layer: CodebookLayer) -> list[np.ndarray]:
    """Return the arrays of a layer that are trained: codebooks, bias and, where there are any, scales."""
    return [layer.codebooks, layer.bias] + ([] if layer.scales is None else [layer.scales])


def _size(values: np.ndarray) -> float:
    """Return the root mean square, or 1 where it is zero."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) or 1.0


def _round_straight_through(values: Tensor) -> Tensor:
    """Round values as in a file, with the gradient of the identity."""
    rounded = torch.from_numpy(round_to_half(values.detach().cpu().numpy())).to(values.device)
    return values + (rounded - values).detach()
