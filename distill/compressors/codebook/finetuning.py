"""Networks of codebook layers that train: codewords, scales and biases, and codes as well if they may move."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.layers import pack
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.loop import History, train
from distill.training.losses import DistillationLoss
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.samples import DenseRows
from distill.training.targets import Calibration
from distill.utils.progress import Stage

_BATCH_SIZE, _LEAST_STEPS, _AVERAGING = 256, 32, 0.98
_POSITION_PACE = 2.0  # positions have further to go than numbers relative to their size


@dataclass(frozen=True)
class TuningSettings:
    """How the last training goes; see `CodebookCompressor`."""

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
) -> tuple[CodebookLayer, ...]:
    """Train codewords, scales and biases, and codes if they may move, to give the outputs of the network.

    Parameters
    ----------
    network : Network
        The network that is imitated.
    layers : sequence of CodebookLayer
    calibration : Calibration
        Those of the best pass on the held-out rows are kept, or `layers` if no pass is better.
    settings : TuningSettings
    stage : Stage or None

    Returns
    -------
    tuple of CodebookLayer
    """
    outputs = layer_outputs(network, calibration.train)[-1]
    imitation = DistillationLoss(network, outputs, settings.temperature)
    held_out = torch.from_numpy(calibration.validation)
    expected = imitation.targets(layer_outputs(network, calibration.validation)[-1])
    module = (MovingPerceptron if settings.train_codes else CodebookPerceptron)(layers, network.activation)

    def loss(module: CodebookPerceptron, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return imitation(module(rows), targets)

    def judge(module: CodebookPerceptron) -> tuple[float, float]:
        value = float(loss(module, held_out, expected))
        return -value, value

    def report(module: CodebookPerceptron, history: History) -> bool:
        return stage is not None and stage.step(
            f"loss {history.loss_curve[-1]:.5f}, held out {-history.validation_scores[-1]:.5f}",
            lambda: pack(network, module.layers()),
        )

    with torch.no_grad():
        before = judge(module)
    history = train(
        module,
        loss,
        DenseRows(torch.from_numpy(calibration.train), imitation.targets(outputs)),
        batch_size=_BATCH_SIZE,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=_LEAST_STEPS,
        validate=judge,
        n_iter_no_change=settings.max_iter,
        averaging=_AVERAGING,
        seed=calibration.seed,
        callback=report,
    )
    return module.layers() if history.best_score > before[0] else tuple(layers)


class CodebookPerceptron(nn.Module):
    """A fully connected network that computes with its numbers as a file stores them.

    Every pass rounds codewords, scales and biases to 16 bits and lets gradients through as if it had not, so what is
    trained and judged is exactly what will be written. A codeword that is zero stays zero.

    Parameters
    ----------
    layers : sequence of CodebookLayer
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
        # numbers of about one, whatever the layer's size, so that one learning rate suits all
        self.sizes = [[_size(numbers) for numbers in _numbers(layer)] for layer in layers]
        self.numbers = nn.ModuleList(
            nn.ParameterList(torch.tensor(np.float32(array / size)) for array, size in zip(_numbers(layer), sizes))
            for layer, sizes in zip(layers, self.sizes)
        )
        for index, layer in enumerate(layers):
            place = layer.groups[None, :] * layer.codebooks.shape[1] + layer.codes
            self.register_buffer(f"place_{index}", torch.tensor(np.ascontiguousarray(place.T)))
            self.register_buffer(f"movable_{index}", torch.tensor((layer.codebooks != 0).astype(np.float32)))
            self.register_buffer(f"used_{index}", torch.tensor(np.flatnonzero(layer.used)))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the last layer's sums, shape (n_samples, n_outputs)."""
        for index, layer in enumerate(self.start):
            if index:
                rows = self.activate(rows)
            if not layer.used.all():
                rows = rows[:, getattr(self, f"used_{index}")]
            codebooks, bias, *scales = self._stored(index)
            weight = self._weight(index, codebooks * scales[0][:, None] if scales else codebooks)
            rows = nn.functional.linear(rows, weight, bias)
        return rows

    @torch.no_grad()
    def layers(self) -> tuple[CodebookLayer, ...]:
        """Return the layers as they are now, with the numbers that a file stores."""
        learned = []
        for index, layer in enumerate(self.start):
            codebooks, bias, *scales = (np.array(number.cpu().numpy()) for number in self._stored(index))
            learned.append(replace(layer, codebooks=codebooks, bias=bias, scales=scales[0] if scales else None))
        return tuple(learned)

    def _weight(self, index: int, levels: Tensor) -> Tensor:
        """Return the matrix, shape (n_outputs, n_used), of these levels, shape (n_groups, n_codewords)."""
        place = getattr(self, f"place_{index}")
        return levels.flatten().index_select(0, place.flatten()).view(place.shape)

    def _stored(self, index: int) -> list[Tensor]:
        numbers = [number * size for number, size in zip(self.numbers[index], self.sizes[index])]
        numbers[0] = numbers[0] * getattr(self, f"movable_{index}")
        return [_as_stored(number) for number in numbers]


class MovingPerceptron(CodebookPerceptron):
    """A fully connected network whose codes train together with its codewords, scales and biases.

    Beside its code every weight has a position on the line of its codewords, and its code is that of the nearest one.
    A position takes the gradient of its weight as if there were no rounding, and stays between the outermost codewords,
    so that a code only ever changes to that of a neighbour. Weights that are zero by their codeword, and start there,
    stay zero.

    Parameters
    ----------
    layers : sequence of CodebookLayer
    activation : {"identity", "relu", "tanh", "logistic"}

    References
    ----------
    Bengio, Leonard, Courville, "Estimating or propagating gradients through stochastic neurons for conditional
    computation" (arXiv 1308.3432), for gradients that go straight through. Courbariaux, Bengio, David, "BinaryConnect"
    (NeurIPS 2015), for real positions behind coarse weights.

    Examples
    --------
    Here the second weight changes sides.

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
            deviation = levels.std(dim=1, keepdim=True, correction=0)
            deviation = torch.where(deviation > 0, deviation, 1.0)[torch.tensor(layer.groups)]
            weight = torch.tensor(np.ascontiguousarray(layer.weight[layer.used].T))
            positions.append(nn.Parameter(weight / (_POSITION_PACE * deviation)))
            self.register_buffer(f"deviation_{index}", _POSITION_PACE * deviation)
            self.register_buffer(f"groups_{index}", torch.tensor(layer.groups))
            zero = (weight == 0) if (layer.codebooks == 0).any() else None
            self.register_buffer(f"zero_{index}", zero)
            start = torch.tensor(np.ascontiguousarray(layer.codes.T), dtype=torch.int64)
            self.register_buffer(f"code_{index}", None if zero is None else start)
        self.positions = nn.ParameterList(positions)

    @torch.no_grad()
    def layers(self) -> tuple[CodebookLayer, ...]:
        """Return the layers as they are now, with the numbers that a file stores."""
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
        return self.positions[index] * getattr(self, f"deviation_{index}")

    @torch.no_grad()
    def _codes(self, index: int, levels: Tensor) -> Tensor:
        ordered, order = levels.sort(dim=1)
        groups, position = getattr(self, f"groups_{index}"), self._position(index)
        between = ((ordered[:, 1:] + ordered[:, :-1]) / 2)[groups]
        rank = torch.zeros(position.shape, dtype=torch.int64)
        for middle in between.unbind(dim=1):
            rank += position > middle[:, None]
        codes = order[groups].gather(1, rank)
        zero = getattr(self, f"zero_{index}")
        return codes if zero is None else torch.where(zero, getattr(self, f"code_{index}"), codes)


def _numbers(layer: CodebookLayer) -> list[np.ndarray]:
    return [layer.codebooks, layer.bias] + ([] if layer.scales is None else [layer.scales])


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) or 1.0


def _as_stored(values: Tensor) -> Tensor:
    rounded = torch.from_numpy(round_to_half(values.detach().cpu().numpy())).to(values.device)
    return values + (rounded - values).detach()
