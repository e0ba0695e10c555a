"""The sums of a network, each row's the same bit for bit whatever the rows beside it.

A BLAS promises nothing of the kind: it adds in another order for one row than for ten thousand, for rows at the edge of
a block, with two threads. Here every product has the same shape however many rows there are: tiles of 16 rows, the last
one filled up with zeros, which lie side by side in the lanes of the processor's vectors, so that all 16 go through the
same instructions. A product is small enough for a BLAS to leave it to one thread, and large batches are shared out
among threads here. Before a shape is used for the first time in a process, `lanes_agree` tries whether equal rows
really get equal bits; where they do not, rows are multiplied one at a time.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from distill.codecs import generator
from distill.network import Network

_LANES = 16
MOST_INPUTS = 160
# OpenBLAS gives products of up to this many multiplications to a single thread, and, on some processors, those with up
# to this many outputs of a tile to a kernel that copies nothing first and is a third faster
_MOST_MULTIPLICATIONS, _MOST_OUTPUTS = 1 << 18, 64
_LARGEST_FOLDED = 16.0
_HALF = np.float32(0.5)


class Prepared(NamedTuple):
    """The weights of a network as they are multiplied.

    Parameters
    ----------
    offset, scale : ndarray or None
        What is done to the input first, where it is not folded into the first layer.
    weights, biases : tuple of ndarray, float32
    """

    offset: np.ndarray | None
    scale: np.ndarray | None
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]


def prepare(network: Network) -> Prepared:
    """Fold the input's offset and scale into the first layer, unless the offset is so large that digits would be lost.

    Examples
    --------
    >>> network = Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),), scale=np.float32(2))
    >>> prepare(network).weights[0]
    array([[2., 0.],
           [0., 2.]], dtype=float32)
    """
    if network.offset is None and network.scale is None:
        return Prepared(None, None, network.weights, network.biases)
    scale = np.broadcast_to(np.float64(1) if network.scale is None else np.float64(network.scale), network.n_features)
    offset = np.broadcast_to(np.float64(0) if network.offset is None else np.float64(network.offset), scale.shape)
    moved = offset * scale
    if np.abs(moved).max() <= _LARGEST_FOLDED and np.abs(scale).max() < 1e15:
        first = np.asarray(network.weights[0], np.float64)
        weight, bias = scale[:, None] * first, network.biases[0] - moved @ first
        if max(np.abs(weight).max(), np.abs(bias).max()) < np.finfo(np.float32).max:
            weights = (weight.astype(np.float32), *network.weights[1:])
            return Prepared(None, None, weights, (bias.astype(np.float32), *network.biases[1:]))
    return Prepared(network.offset, network.scale, network.weights, network.biases)


def activate(sums: np.ndarray, activation: str) -> np.ndarray:
    """Apply an activation in place; see `distill.network.ACTIVATIONS`."""
    if activation == "relu":
        # Three times as fast as the maximum with a single zero, for which NumPy has no vector loop
        np.maximum(sums, np.zeros(sums.shape[1:], np.float32), out=sums)
    elif activation == "tanh":
        np.tanh(sums, out=sums)
    elif activation == "logistic":
        logistic(sums)
    return sums


def activated(sums: np.ndarray, activation: str) -> np.ndarray:
    """Return what the next layer gets for these sums, which stay as they are."""
    return activate(sums.copy(), activation)


def logistic(sums: np.ndarray) -> np.ndarray:
    """Replace float32 sums by 1 / (1 + exp(-sums)), in place and without overflow."""
    np.multiply(sums, _HALF, out=sums)
    np.tanh(sums, out=sums)
    np.multiply(sums, _HALF, out=sums)
    return np.add(sums, _HALF, out=sums)


def softmax(sums: np.ndarray) -> np.ndarray:
    """Replace float32 sums by the softmax of each row, in place."""
    np.subtract(sums, sums.max(axis=1, keepdims=True), out=sums)
    np.exp(sums, out=sums)
    return np.divide(sums, sums.sum(axis=1, keepdims=True), out=sums)


class Forward:
    """Compute the last layer's sums.

    Parameters
    ----------
    network : Network

    Attributes
    ----------
    block_rows : int
        The number of rows that are best given at once: what is computed of them fits into a processor's cache.
    """

    def __init__(self, network: Network):
        self.activation = network.activation
        self.block_rows = max(16, min(256, (1 << 12) // max(network.layer_sizes[1:]))) * _LANES
        self.prepared = prepare(network)
        self._layers = None

    def buffers(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return room for the sums of one block in every layer, to be used again for the next block.

        Fresh memory for every block costs more than a tenth of the time, and more with several threads, because
        the operating system clears it page by page.
        """
        lanes, layers = self._cut_once()
        shapes = [(self.block_rows // lanes, *bias.shape) for _, bias in layers]
        return [
            (np.empty(shape, np.float32), np.empty(shape, np.float32) if len(pieces) > 1 else None)
            for shape, (pieces, _) in zip(shapes, layers)
        ]

    def __call__(self, rows: np.ndarray, buffers: list | None = None) -> np.ndarray:
        """Return the sums of a block of rows.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features), float32, C-contiguous
        buffers : list or None
            From `buffers`, for at most `block_rows` rows; not shared by threads.

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float32, C-contiguous
        """
        lanes, layers = self._cut_once()
        n_rows = len(rows)
        with np.errstate(all="ignore"):
            if self.prepared.offset is not None:
                rows = rows - self.prepared.offset
            if self.prepared.scale is not None:
                rows = rows * self.prepared.scale
            if missing := -n_rows % lanes:
                rows = np.concatenate([rows, np.zeros((missing, rows.shape[1]), np.float32)])
            tiles = rows.reshape(-1, lanes, rows.shape[1]).swapaxes(1, 2)
            for index, layer in enumerate(layers):
                if index:
                    activate(tiles, self.activation)
                tiles = _layer(tiles, *layer, *((None, None) if buffers is None else buffers[index]))
        return np.ascontiguousarray(tiles.swapaxes(1, 2)).reshape(-1, tiles.shape[1])[:n_rows]

    def _cut_once(self) -> tuple[int, list[tuple]]:
        if self._layers is None:
            self._layers = _cut(self.prepared)
        return self._layers

    def __getstate__(self):
        return self.__dict__ | {"_layers": None}


def _cut(prepared: Prepared) -> tuple[int, list[tuple]]:
    """Cut the weights into pieces for products of the right size, transposed: one row per output."""
    layers, shapes = [], set()
    for weight, bias in zip(prepared.weights, prepared.biases):
        n_inputs, n_outputs = weight.shape
        columns = _parts(n_inputs, MOST_INPUTS)
        widest = max(part.stop - part.start for part in columns)
        rows = _parts(n_outputs, min(_MOST_OUTPUTS, _MOST_MULTIPLICATIONS // (_LANES * widest)))
        pieces = [(inputs, outputs, weight[inputs, outputs].T.copy()) for inputs in columns for outputs in rows]
        shapes.update(piece.shape for _, _, piece in pieces)
        layers.append((pieces, bias))
    lanes = _LANES if all(lanes_agree(*shape) for shape in shapes) else 1
    return lanes, [(pieces, np.repeat(bias[:, None], lanes, axis=1)) for pieces, bias in layers]


def _parts(size: int, most: int) -> list[slice]:
    """Return slices of at most `most`, about even, the first ones multiples of 16 where that is possible."""
    even = -(-size // -(-size // most))
    step = min(most, -(-even // 16) * 16)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _layer(
    tiles: np.ndarray, pieces: list[tuple], bias: np.ndarray, sums: np.ndarray | None, added: np.ndarray | None
) -> np.ndarray:
    shape = (len(tiles), *bias.shape)
    sums = np.empty(shape, np.float32) if sums is None else sums[: len(tiles)]
    if len(pieces) == 1:
        np.matmul(pieces[0][2], tiles, out=sums)
    else:
        added = np.empty(shape, np.float32) if added is None else added[: len(tiles)]
        for inputs, outputs, weight in pieces:
            if inputs.start == 0:
                np.matmul(weight, tiles[:, inputs], out=sums[:, outputs])
            else:
                np.matmul(weight, tiles[:, inputs], out=added[:, outputs])
                if outputs.stop == len(bias):
                    np.add(sums, added, out=sums)
    return np.add(sums, bias, out=sums)


@cache
def lanes_agree(n_outputs: int, n_inputs: int) -> bool:
    """Try whether a product with a tile gives all 16 rows the same bits when they hold the same numbers.

    The order of additions in a BLAS depends on shapes, not on numbers, so that random numbers show it.
    """
    n_trials = 4 + 64 // n_outputs
    drawn = generator.words((n_outputs, n_inputs), (n_outputs + n_trials) * n_inputs) >> np.uint64(40)
    numbers = (drawn.astype(np.float32) * np.float32(2**-23) - 1).reshape(-1, n_inputs)
    weight, rows = numbers[:n_outputs], numbers[n_outputs:]
    first = np.repeat(rows[:, None], _LANES, axis=1).swapaxes(1, 2)
    products = (np.matmul(weight, tiles) for tiles in (first, np.ascontiguousarray(first)))
    return all((product == product[..., :1]).all() for product in products)


def layer_outputs(network: Network, inputs: np.ndarray) -> list[np.ndarray]:
    """Return the sums of every layer, before the activation.

    Parameters
    ----------
    network : Network
    inputs : ndarray of shape (n_samples, n_features)
        As they enter the first layer.

    Returns
    -------
    list of ndarray of shape (n_samples, n_outputs), float32
    """
    outputs = []
    for weight, bias in zip(network.weights, network.biases):
        outputs.append(inputs @ weight + bias)
        inputs = activated(outputs[-1], network.activation)
    return outputs
