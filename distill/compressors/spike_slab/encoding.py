"""From what is left of a network to a student file, and how much may be left for a file of a given size."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from distill.codecs import container, dense, sparse
from distill.compressors.pruning import count, largest
from distill.compressors.spike_slab.pruned import Remains
from distill.network import Network

_STEP = 200


def write(remains: Remains, network: Network, dtype: str) -> bytes:
    """Write the student file: each layer sparse or dense, whichever is shorter.

    Parameters
    ----------
    remains : Remains
    network : Network
        What it is left of, whose description the file gets.
    dtype : {"float16", "float32"}
    """
    masked = [np.where(mask, weight, 0) for mask, weight in zip(remains.masks, remains.network.weights)]
    outer = remains.standardization.to_network(replace(remains.network, weights=tuple(masked)), network)
    plain = dense.FLOAT16 if dtype == "float16" else dense.FLOAT32
    sections = [
        min(
            sparse.encode(weight, bias, dtype),
            dense.encode(weight, bias, plain),
            key=lambda section: len(section.payload),
        )
        for weight, bias in zip(outer.weights, outer.biases)
    ]
    return container.pack(outer, sections)


def density_within(max_bytes: int, network: Network, dtype: str) -> float:
    """Return about the density at which a network's file has so many bytes."""
    bits_per_value = 12 if dtype == "float16" else 28  # a part of every value is entropy-coded
    n_weights = sum(weight.size for weight in network.weights)
    n_others = sum(bias.size for bias in network.biases) * bits_per_value / 8 + 64
    low, high = 0.0, 1.0
    for _ in range(30):
        density = (low + high) / 2
        mask = -(density * np.log2(density) + (1 - density) * np.log2(1 - density))
        n_bytes = n_weights * (0.9 * mask + density * bits_per_value) / 8 + n_others
        low, high = (density, high) if n_bytes < max_bytes else (low, density)
    return max(low, 1 / n_weights)


def masks_within(
    max_bytes: int, masks: Sequence[np.ndarray], scores: Sequence[np.ndarray], size_of: Callable[[list], int]
) -> list[np.ndarray]:
    """Return the masks if their file is small enough, or masks of as many of the largest scores as fit.

    Parameters
    ----------
    max_bytes : int
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
    scores : sequence of ndarray of the same shapes
    size_of : callable(masks) -> int
        Size of the file with these weights.

    Raises
    ------
    ValueError
        If not even one weight per layer fits.
    """
    if size_of(masks) <= max_bytes:
        return list(masks)
    low, high = len(masks), count(masks)
    if (smallest := size_of(largest(scores, low))) > max_bytes:
        raise ValueError(
            f"max_bytes={max_bytes} cannot be reached: with {low} weights left the file still has {smallest} bytes; "
            "allow more"
        )
    while high - low > max(1, high // _STEP):
        middle = (low + high) // 2
        low, high = (middle, high) if size_of(largest(scores, middle)) <= max_bytes else (low, middle)
    return largest(scores, low)


def trim(remains: Remains, max_bytes: int, size_of: Callable[[Remains], int]) -> Remains:
    """Return what is left without the least certain weights that `max_bytes` has no room for.

    Raises
    ------
    ValueError
        If not even one weight per layer fits.
    """
    n_kept, smaller = count(remains.masks), remains
    while size_of(smaller) > max_bytes:
        n_kept -= max(1, n_kept // _STEP)
        if n_kept < len(remains.masks):
            raise ValueError(f"max_bytes={max_bytes} cannot be reached by pruning; allow more")
        smaller = replace(remains, masks=tuple(largest(remains.signals, n_kept)))
    return smaller
