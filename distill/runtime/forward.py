"""The forward pass of a network in NumPy, bit-identical for a row in any batch.

A BLAS does not guarantee that: its order of additions differs between one row and ten thousand, between rows inside and
at the edge of a block, and with two threads. Here every product has the same shape for any number of rows: tiles of 16
rows, the last one padded with zeros. The rows of a tile lie side by side in the lanes of the processor's vectors, so
that the same instructions compute all 16. A product is so small that a BLAS computes it in one thread; large batches
are distributed over threads by `distill.runtime.threads`. The first time that a process uses a shape, `lanes_agree`
tests that equal rows get equal bits; if not, rows are multiplied one at a time.

Arrays of a layer with ``n_inputs`` inputs and ``n_outputs`` outputs, for a block of ``n_tiles * 16`` rows:

============ ========================= ========================================================================
tiles        (n_tiles, n_inputs, 16)   inputs, transposed, so that the rows of a tile are contiguous
weight       (<= 64, <= 160)           one piece of the transposed weights: some outputs x some inputs
bias         (n_outputs, 16)           the bias of every output, repeated over the lanes
outputs      (n_tiles, n_outputs, 16)  pre-activations
partial      (n_tiles, n_outputs, 16)  products of the second and later pieces of inputs, before they are added
============ ========================= ========================================================================

All are float32. Where lanes do not agree, 1 takes the place of 16.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from distill.codecs import generator
from distill.network import Network

# Rows of a tile, a multiple of the 4 to 16 float32 in a vector of current processors
_LANES = 16
# Inputs per product. Also the length of partial sums, which the error bounds of `distill.runtime.single_row` rely on
MAX_INPUTS = 160
# OpenBLAS gives products of up to this many multiplications to a single thread, and, on some processors, those with up
# to this many outputs of a tile to a kernel that copies nothing first and is a third faster
_MAX_MULTIPLICATIONS, _MAX_OUTPUTS = 1 << 18, 64
# Rows per block are such that the outputs of the widest layer have this many values (256 KB), within these bounds
_BLOCK_VALUES, _MIN_BLOCK_TILES, _MAX_BLOCK_TILES = 1 << 16, 16, 256
# With a larger offset * scale, folding it into the biases would cancel leading digits of the pre-activations
_MAX_FOLDED_OFFSET, _MAX_FOLDED_SCALE = 16.0, 1e15
_HALF = np.float32(0.5)

# A piece of a layer's weights: its inputs, its outputs, and the weights, transposed
_Piece = tuple[slice, slice, np.ndarray]
_Buffers = list[tuple[np.ndarray, np.ndarray | None]]


class Prepared(NamedTuple):
    """Weights and biases with offset and scale of the inputs folded in.

    Parameters
    ----------
    offset, scale : ndarray or None
        Applied to the inputs, if they are not folded into the first layer.
    weights : tuple of ndarray of shape (n_inputs, n_outputs), float32
    biases : tuple of ndarray of shape (n_outputs,), float32
    """

    offset: np.ndarray | None
    scale: np.ndarray | None
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]


def prepare(network: Network) -> Prepared:
    """Fold offset and scale of the inputs into the first layer, unless the offset is so large that precision is lost.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Prepared

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
    shift = offset * scale
    if np.abs(shift).max() <= _MAX_FOLDED_OFFSET and np.abs(scale).max() < _MAX_FOLDED_SCALE:
        first = np.asarray(network.weights[0], np.float64)
        weight, bias = scale[:, None] * first, network.biases[0] - shift @ first
        if max(np.abs(weight).max(), np.abs(bias).max()) < np.finfo(np.float32).max:
            weights = (weight.astype(np.float32), *network.weights[1:])
            return Prepared(None, None, weights, (bias.astype(np.float32), *network.biases[1:]))
    return Prepared(network.offset, network.scale, network.weights, network.biases)


def activate(pre_activations: np.ndarray, activation: str) -> np.ndarray:
    """Apply an activation in place; see `distill.network.ACTIVATIONS`.

    Parameters
    ----------
    pre_activations : ndarray, float32
    activation : {"identity", "relu", "tanh", "logistic"}

    Returns
    -------
    ndarray
        The same array.
    """
    if activation == "relu":
        # Three times as fast as the maximum with a single zero, for which NumPy has no vector loop
        np.maximum(pre_activations, np.zeros(pre_activations.shape[1:], np.float32), out=pre_activations)
    elif activation == "tanh":
        np.tanh(pre_activations, out=pre_activations)
    elif activation == "logistic":
        logistic(pre_activations)
    return pre_activations


def activated(pre_activations: np.ndarray, activation: str) -> np.ndarray:
    """Return the activations, the inputs of the next layer, as a copy; see `activate`."""
    return activate(pre_activations.copy(), activation)


def logistic(logits: np.ndarray) -> np.ndarray:
    """Replace float32 logits by 1 / (1 + exp(-logits)), in place and without overflow."""
    np.multiply(logits, _HALF, out=logits)
    np.tanh(logits, out=logits)
    np.multiply(logits, _HALF, out=logits)
    return np.add(logits, _HALF, out=logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Replace float32 logits of shape (..., n_classes) by the softmax of each row, in place."""
    np.subtract(logits, logits.max(axis=-1, keepdims=True), out=logits)
    np.exp(logits, out=logits)
    return np.divide(logits, logits.sum(axis=-1, keepdims=True), out=logits)


def output_values(network: Network, outputs: np.ndarray) -> np.ndarray:
    """Return values (an embedding, a regression, decision values) from the outputs of the last layer.

    Parameters
    ----------
    network : Network
    outputs : ndarray of shape (..., n_outputs), float32
        Overwritten where the output function is not the identity.

    Returns
    -------
    ndarray of shape (..., n_outputs)
        float32, or float64 with an offset or a scale of the outputs.
    """
    if network.output == "softmax" and network.classes is None:
        outputs = softmax(outputs)
    elif network.output == "relu":
        np.maximum(outputs, np.float32(0), out=outputs)
    if network.output_scale is not None:
        outputs = outputs * network.output_scale
    return outputs if network.output_offset is None else outputs + network.output_offset


class Forward:
    """Compute the outputs of a network: the pre-activations of its last layer.

    Parameters
    ----------
    network : Network

    Attributes
    ----------
    block_rows : int
        Fastest number of rows per call: their outputs fit into a processor's cache.
    activation : str
    prepared : Prepared
    """

    def __init__(self, network: Network):
        self.activation = network.activation
        tiles = _BLOCK_VALUES // _LANES // max(network.layer_sizes[1:])
        self.block_rows = max(_MIN_BLOCK_TILES, min(_MAX_BLOCK_TILES, tiles)) * _LANES
        self.prepared = prepare(network)
        self._layers: tuple[int, list[tuple[list[_Piece], np.ndarray]]] | None = None

    def buffers(self) -> _Buffers:
        """Return memory for the outputs of one block in every layer, to be reused for the next block.

        New memory for every block would cost more than a tenth of the time, and more with several threads, because the
        operating system clears it page by page.
        """
        lanes, layers = self._cut_once()
        shapes = [(self.block_rows // lanes, *bias.shape) for _, bias in layers]
        return [
            (np.empty(shape, np.float32), np.empty(shape, np.float32) if len(pieces) > 1 else None)
            for shape, (pieces, _) in zip(shapes, layers)
        ]

    def __call__(self, rows: np.ndarray, buffers: _Buffers | None = None) -> np.ndarray:
        """Return the outputs for a block of rows.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features), float32, C-contiguous
        buffers : list of tuple or None
            From `buffers`, for at most `block_rows` rows; not shared between threads.

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

    def _cut_once(self) -> tuple[int, list[tuple[list[_Piece], np.ndarray]]]:
        # At the first prediction and not in the constructor, because lanes_agree takes some multiplications
        if self._layers is None:
            self._layers = _cut(self.prepared)
        return self._layers

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_layers": None}


def _cut(prepared: Prepared) -> tuple[int, list[tuple[list[_Piece], np.ndarray]]]:
    """Return the number of lanes, and for each layer the pieces of its transposed weights and its repeated bias."""
    layers: list[tuple[list[_Piece], np.ndarray]] = []
    shapes: set[tuple[int, int]] = set()
    for weight, bias in zip(prepared.weights, prepared.biases):
        n_inputs, n_outputs = weight.shape
        columns = _even_slices(n_inputs, MAX_INPUTS)
        widest = max(part.stop - part.start for part in columns)
        rows = _even_slices(n_outputs, min(_MAX_OUTPUTS, _MAX_MULTIPLICATIONS // (_LANES * widest)))
        pieces = [(inputs, outputs, weight[inputs, outputs].T.copy()) for inputs in columns for outputs in rows]
        shapes.update(piece.shape for _, _, piece in pieces)
        layers.append((pieces, bias))
    lanes = _LANES if all(lanes_agree(*shape) for shape in shapes) else 1
    return lanes, [(pieces, np.repeat(bias[:, None], lanes, axis=1)) for pieces, bias in layers]


def _even_slices(size: int, limit: int) -> list[slice]:
    """Return slices of about equal length, at most `limit`, the first ones multiples of 16 where that is possible."""
    even = -(-size // -(-size // limit))
    step = min(limit, -(-even // 16) * 16)
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def _layer(
    tiles: np.ndarray,
    pieces: list[_Piece],
    bias: np.ndarray,
    outputs: np.ndarray | None,
    partial: np.ndarray | None,
) -> np.ndarray:
    """Return the pre-activations of one layer; see the table of arrays above. The last two are memory to be reused."""
    shape = (len(tiles), *bias.shape)
    outputs = np.empty(shape, np.float32) if outputs is None else outputs[: len(tiles)]
    if len(pieces) == 1:
        np.matmul(pieces[0][2], tiles, out=outputs)
    else:
        partial = np.empty(shape, np.float32) if partial is None else partial[: len(tiles)]
        for columns, rows, weight in pieces:
            if columns.start == 0:
                np.matmul(weight, tiles[:, columns], out=outputs[:, rows])
            else:
                np.matmul(weight, tiles[:, columns], out=partial[:, rows])
                if rows.stop == len(bias):
                    np.add(outputs, partial, out=outputs)
    return np.add(outputs, bias, out=outputs)


@cache
def lanes_agree(n_outputs: int, n_inputs: int) -> bool:
    """Return whether a product with a tile gives all 16 rows the same bits when the rows are equal.

    The order of additions in a BLAS depends on the shapes, not on the values, so that a test with random values is
    conclusive.

    Parameters
    ----------
    n_outputs, n_inputs : int
        Shape of the left factor, a piece of weights.
    """
    n_trials = 4 + 64 // n_outputs
    drawn = generator.words((n_outputs, n_inputs), (n_outputs + n_trials) * n_inputs) >> np.uint64(40)
    values = (drawn.astype(np.float32) * np.float32(2**-23) - 1).reshape(-1, n_inputs)
    weight, rows = values[:n_outputs], values[n_outputs:]
    first = np.repeat(rows[:, None], _LANES, axis=1).swapaxes(1, 2)
    products = (np.matmul(weight, tiles) for tiles in (first, np.ascontiguousarray(first)))
    return all((product == product[..., :1]).all() for product in products)


def layer_outputs(network: Network, inputs: np.ndarray) -> list[np.ndarray]:
    """Return the pre-activations of every layer, for training: bits depend on the batch.

    Parameters
    ----------
    network : Network
    inputs : ndarray of shape (n_samples, n_features)
        Inputs of the first layer, scaled.

    Returns
    -------
    list of ndarray of shape (n_samples, n_outputs), float32
    """
    outputs = []
    for weight, bias in zip(network.weights, network.biases):
        outputs.append(inputs @ weight + bias)
        inputs = activated(outputs[-1], network.activation)
    return outputs
