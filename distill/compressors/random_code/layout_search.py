"""Choose the layout of a random code: the largest number of blocks within a budget of bytes, and the weight sharing.

A layout is the number of random numbers for the weights of each layer, and their order in blocks; see
`distill.codecs.random_code.Layout`. All functions are pure functions of a network's shape and of `LayoutSettings`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from distill.codecs import container
from distill.codecs import random_code as codec
from distill.codecs.container import StudentFileError
from distill.codecs.random_code import Layout
from distill.compressors.budget import bisect
from distill.network import Network
from distill.training.perceptron import initial_network

# Weights of a network for each byte of its file, at most; see `distill.codecs.container`
_MOST_WEIGHTS_OF_BYTE = 4096
# Random numbers per bit of all codes, with "auto". With more of them each has fewer bits; on MNIST, random numbers of
# less than about a bit and a half were more noise than weight (docs/methods/random_code.md)
_NUMBERS_PER_BIT = 0.6
# Smallest number of waves with "auto": 4 x 4 waves of the lowest frequencies of an image. Chosen by hand
_FEWEST_FREQUENCIES = 16
# Number of seeds of the generator: those below it take one byte of the file
_N_SEEDS = 128
# Halvings of the search for the sizes of layers, to the precision of float64
_N_HALVINGS = 60


@dataclass(frozen=True)
class LayoutSettings:
    """Demands on a layout; see `distill.RandomCodeCompressor`.

    Parameters
    ----------
    max_bytes : int
        Largest size of the file. Ignored if `bits_per_weight` is given.
    bits_per_weight : float or None
        Bits of all codes over the number of weights and biases.
    bits_per_block : int in [4, 24]
    input_shape : tuple of int
        Extents of the grid of inputs; empty if there is none.
    n_frequencies : int or "auto"
    hash_factors : int, sequence of int or "auto"
    seed : int
        Seed of candidates and of sharing, taken modulo 128.
    for_device : bool
        Whether the small random code is used, which shares no weights.
    """

    max_bytes: int = 2000
    bits_per_weight: float | None = None
    bits_per_block: int = 12
    input_shape: tuple[int, ...] = ()
    n_frequencies: int | str = "auto"
    hash_factors: int | Sequence[int] | str = "auto"
    seed: int = 0
    for_device: bool = False


def blank_network(network: Network, hidden_layer_sizes: Sequence[int] | None, seed: int) -> Network:
    """Return a network with random weights for the inputs and outputs of another one.

    Parameters
    ----------
    network : Network
        All but the weights and biases is copied.
    hidden_layer_sizes : sequence of int or None
        None for those of `network`.
    seed : int
        Seed of the weights.

    Returns
    -------
    Network
    """
    hidden = network.layer_sizes[1:-1] if hidden_layer_sizes is None else hidden_layer_sizes
    sizes = (network.n_features, *map(int, hidden), network.layer_sizes[-1])
    blank = initial_network(sizes, network.activation, seed)
    return replace(network, weights=blank.weights, biases=blank.biases)


def search_layout(network: Network, settings: LayoutSettings) -> Layout:
    """Choose the layout with the largest number of blocks whose file is within the budget.

    Parameters
    ----------
    network : Network
        Its layer sizes are used, not its weights.
    settings : LayoutSettings

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If the settings do not fit the network, or the budget is below the smallest file or not below the size of the
        network in float32.

    Examples
    --------
    >>> network = initial_network((64, 20, 10))
    >>> layout = search_layout(network, LayoutSettings(max_bytes=300, bits_per_block=8))
    >>> layout.n_blocks, file_size(network, layout)
    (268, 300)
    """
    _check_settings(network, settings)
    if settings.bits_per_weight is not None:
        n_blocks = max(1, int(settings.bits_per_weight * network.n_parameters / settings.bits_per_block))
        return make_layout(network, settings, min(n_blocks, make_layout(network, settings, n_blocks).n_numbers))
    float_size = len(container.encode(network, "float32"))
    if settings.max_bytes >= float_size:
        raise ValueError(
            f"max_bytes={settings.max_bytes} is not below the size of this network in float32, {float_size} bytes; "
            "lower it"
        )
    fewest = 1
    try:
        least = file_size(network, make_layout(network, settings, fewest))
    except StudentFileError:  # a reader takes no more than 4096 weights for a byte
        fewest = -(-network.n_parameters * 8 // (_MOST_WEIGHTS_OF_BYTE * settings.bits_per_block))
        least = file_size(network, make_layout(network, settings, fewest))
        if least > settings.max_bytes:
            raise ValueError(_too_small(network, settings.max_bytes, least)) from None
    n_blocks = fewest + max(0, settings.max_bytes - least) * 8 // settings.bits_per_block
    layout = make_layout(network, settings, n_blocks)
    if n_blocks > layout.n_numbers:
        layout = make_layout(network, settings, layout.n_numbers)
    # Every block takes the same number of bits, so that a few layouts suffice; each is encoded for its size. Bisection
    # could miss the largest one: hash factors and counts are varints, and the size is not monotone in the blocks
    while (excess := file_size(network, layout) - settings.max_bytes) > 0:
        if layout.n_blocks == fewest:
            raise ValueError(_too_small(network, settings.max_bytes, least))
        n_blocks = max(fewest, layout.n_blocks - max(1, excess * 8 // settings.bits_per_block))
        layout = make_layout(network, settings, n_blocks)
    return layout


def make_layout(network: Network, settings: LayoutSettings, n_blocks: int) -> Layout:
    """Return the layout of a number of blocks; ValueError if a hash factor is larger than its layer."""
    shapes = tuple(weight.shape for weight in network.weights)
    n_frequencies, hash_factors = allocate_numbers(
        shapes,
        bool(settings.input_shape),
        n_blocks * settings.bits_per_block,
        settings.n_frequencies,
        _hash_factors(1 if settings.for_device else settings.hash_factors, len(shapes)),
    )
    layout = Layout(
        shapes=shapes,
        hash_factors=hash_factors,
        bits_per_block=settings.bits_per_block,
        n_blocks=n_blocks,
        seed=settings.seed % _N_SEEDS,
        input_shape=settings.input_shape,
        n_frequencies=n_frequencies,
        small=settings.for_device,
    )
    for layer, (shape, factor) in enumerate(zip(layout.shared_shapes, hash_factors)):
        if factor > prod(shape):
            raise ValueError(
                f"hash_factors gives {factor} to layer {layer}, which holds {prod(shape)} numbers; it must not be "
                "larger"
            )
    return layout


def file_size(network: Network, layout: Layout) -> int:
    """Return the size in bytes of the file of a network with this layout; codes and scales do not change it."""
    codes, scales = np.zeros(layout.n_blocks, np.int64), np.ones((len(layout.shapes), 2), np.float16)
    return len(container.pack(network, [codec.encode(layout, codes, scales)]))


def allocate_numbers(
    shapes: Sequence[tuple[int, int]],
    on_grid: bool,
    n_bits: int,
    n_frequencies: int | str = "auto",
    hash_factors: Sequence[int] | str = "auto",
) -> tuple[int, tuple[int, ...]]:
    """Choose the number of waves and the hash factors for a number of bits.

    The layers together have about 0.6 random numbers per bit. If there are more weights, the numbers of a layer are in
    proportion to the square root of its number of weights, so that large layers share more.

    Parameters
    ----------
    shapes : sequence of (int, int)
        (n_inputs, n_outputs) of every layer.
    on_grid : bool
        Whether the weights of the first layer are sums of cosine waves.
    n_bits : int
        Bits of all codes.
    n_frequencies : int or "auto"
    hash_factors : sequence of int or "auto"

    Returns
    -------
    n_frequencies : int
        0 without a grid.
    hash_factors : tuple of int

    Examples
    --------
    >>> allocate_numbers([(784, 100), (100, 10)], False, 8000)
    (0, (18, 2))
    >>> allocate_numbers([(784, 100), (100, 10)], True, 8000)
    (43, (1, 2))
    """
    sizes = np.array([n_inputs * n_outputs for n_inputs, n_outputs in shapes], dtype=float)
    targets = _layer_targets(sizes, _NUMBERS_PER_BIT * n_bits)
    n_inputs, n_outputs = shapes[0]
    if not on_grid:
        n_frequencies = 0
    elif n_frequencies == "auto":
        n_frequencies = min(n_inputs, max(_FEWEST_FREQUENCIES, round(targets[0] / n_outputs)))
    if hash_factors == "auto":
        if on_grid:
            sizes[0] = n_frequencies * n_outputs
        hash_factors = [min(size, max(1, round(size / max(target, 1)))) for size, target in zip(sizes, targets)]
    return int(n_frequencies), tuple(int(factor) for factor in hash_factors)


def _layer_targets(sizes: np.ndarray, total: float) -> np.ndarray:
    """Return ``minimum(sizes, multiplier * sqrt(sizes))`` with this sum, or `sizes` if theirs is less; (n_layers,)."""
    tried = [sizes]

    def attempt(multiplier: float) -> np.ndarray | None:
        tried.append(np.minimum(sizes, multiplier * np.sqrt(sizes)))
        return tried[-1] if tried[-1].sum() < total else None

    if sizes.sum() > total:
        bisect(attempt, 0.0, float(np.sqrt(sizes).max()), _N_HALVINGS)
    # The last attempt, not the last that fits; they differ by rounding, and layouts must not change between versions
    return tried[-1]


def _check_settings(network: Network, settings: LayoutSettings) -> None:
    """Raise ValueError for a grid, waves or hash factors that do not fit the network."""
    n_features, input_shape = network.n_features, settings.input_shape
    if input_shape and prod(input_shape) != n_features:
        raise ValueError(
            f"input_shape={input_shape} is a grid of {prod(input_shape)} inputs, and X has {n_features} features"
        )
    n_frequencies = settings.n_frequencies
    if not isinstance(n_frequencies, str) and not (input_shape and n_frequencies <= n_features):
        raise ValueError(
            f"n_frequencies={n_frequencies} needs an input_shape of at least as many inputs, got "
            f"input_shape={input_shape or None} for {n_features} features"
        )
    factors = _hash_factors(settings.hash_factors, len(network.weights))
    if settings.for_device and not isinstance(factors, str) and set(factors) != {1}:
        raise ValueError(f"for_device=True shares no weights: hash_factors must be 1 or 'auto', got {factors!r}")


def _hash_factors(factors: Any, n_layers: int) -> Sequence[int] | str:
    """Return the hash factor of each layer, or "auto"; ValueError if their number is not that of the layers."""
    if isinstance(factors, str):
        return factors
    of_layers = (factors,) * n_layers if np.ndim(factors) == 0 else tuple(factors)
    if len(of_layers) != n_layers:
        raise ValueError(f"hash_factors={of_layers!r} must be one integer or {n_layers}, one for every layer")
    return of_layers


def _too_small(network: Network, max_bytes: int, least: int) -> str:
    """Return the message for a budget below the smallest file."""
    hint = ""
    if network.scale is not None and network.scale.ndim:
        hint = ", most of it offsets and scales of the features: use input_scaling='common' in the Distiller"
    return f"max_bytes={max_bytes} is below the smallest possible file for this network, {least} bytes{hint}"
