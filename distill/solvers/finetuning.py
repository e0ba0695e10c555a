"""A network of codebook layers whose codewords, scales and biases train, codes frozen."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.students.network import TORCH_ACTIVATIONS


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
            levels = codebooks * scales[0][:, None] if scales else codebooks
            place = getattr(self, f"place_{index}")
            weight = levels.flatten().index_select(0, place.flatten()).view(place.shape)
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

    def _stored(self, index: int) -> list[Tensor]:
        numbers = [number * size for number, size in zip(self.numbers[index], self.sizes[index])]
        numbers[0] = numbers[0] * getattr(self, f"movable_{index}")
        return [_as_stored(number) for number in numbers]


def _numbers(layer: CodebookLayer) -> list[np.ndarray]:
    return [layer.codebooks, layer.bias] + ([] if layer.scales is None else [layer.scales])


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) or 1.0


def _as_stored(values: Tensor) -> Tensor:
    rounded = torch.from_numpy(round_to_half(values.detach().cpu().numpy())).to(values.device)
    return values + (rounded - values).detach()
