"""Student files of pruned networks, and the number of weights that a file of a given size has room for."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from distill.codecs import container, dense, sparse
from distill.compressors import budget
from distill.compressors.pruning import count, keep_largest
from distill.compressors.spike_slab.posterior import SpikeSlabPerceptron
from distill.compressors.spike_slab.pruned import PrunedNetwork, extract, posterior_means
from distill.network import Network
from distill.training.units import Task

# A search for the number of weights ends at 1 / _RESOLUTION of it, and trimming removes this fraction per step. Finer
# steps use the budget better by less than half a percent, and encode the file more often
_RESOLUTION = 200
# Estimate of the size of a file, from which the density is chosen that training aims at; the file itself is measured.
# Bits per weight and bias: entropy coding saves about half of the highest byte of a float (distill/codecs/sparse.py).
# The mask takes 0.9 of its entropy at a uniform density, because it is coded in contexts of inputs and outputs; the
# header takes about 64 bytes. Chosen by hand
_BITS_PER_VALUE = {"float16": 12, "float32": 28}
_MASK_FRACTION = 0.9
_HEADER_BYTES = 64
_N_HALVINGS = 30


def encode(pruned: PrunedNetwork, network: Network, dtype: str) -> bytes:
    """Encode a student file: each layer sparse or dense, whichever is shorter.

    Parameters
    ----------
    pruned : PrunedNetwork
    network : Network
        Unpruned, with the description that the file gets.
    dtype : {"float16", "float32"}

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If a weight is too large for the dtype.
    """
    masked = [np.where(mask, weight, 0) for mask, weight in zip(pruned.masks, pruned.network.weights)]
    outer = pruned.standardization.to_network(replace(pruned.network, weights=tuple(masked)), network)
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


def encode_posterior(
    posterior: SpikeSlabPerceptron, masks: Sequence[np.ndarray], task: Task, network: Network, dtype: str
) -> bytes:
    """Encode the student file of the posterior means of the weights in `masks`; see `extract` and `encode`."""
    return encode(extract(task, posterior_means(task, posterior), posterior.arrays()[1], masks), network, dtype)


def density_within(max_bytes: int, network: Network, dtype: str) -> float:
    """Estimate the density at which the file of a network has `max_bytes`.

    Parameters
    ----------
    max_bytes : int
    network : Network
    dtype : {"float16", "float32"}

    Returns
    -------
    float
        At least one weight, as a fraction of all weights.
    """
    bits_per_value = _BITS_PER_VALUE[dtype]
    n_weights = sum(weight.size for weight in network.weights)
    n_others = sum(bias.size for bias in network.biases) * bits_per_value / 8 + _HEADER_BYTES

    def size(density: float) -> float:
        entropy = -(density * np.log2(density) + (1 - density) * np.log2(1 - density))
        return n_weights * (_MASK_FRACTION * entropy + density * bits_per_value) / 8 + n_others

    density, _ = budget.bisect(
        lambda density: True if size(density) < max_bytes else None, fitting=0.0, failing=1.0, n_halvings=_N_HALVINGS
    )
    return max(density, 1 / n_weights)


def masks_within(
    max_bytes: int, masks: Sequence[np.ndarray], scores: Sequence[np.ndarray], encode: Callable[[Sequence], bytes]
) -> list[np.ndarray]:
    """Return the masks if their file is small enough, or masks of as many of the largest scores as fit.

    Parameters
    ----------
    max_bytes : int
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
    scores : sequence of ndarray of the same shapes
    encode : callable(masks) -> bytes
        Student file with these weights.

    Returns
    -------
    list of ndarray of shape (n_inputs, n_outputs), bool

    Raises
    ------
    ValueError
        If not even one weight per layer fits.
    """
    if len(encode(masks)) <= max_bytes:
        return list(masks)
    low, high = len(masks), count(masks)
    if (smallest := len(encode(keep_largest(scores, low)))) > max_bytes:
        raise ValueError(
            f"max_bytes={max_bytes} cannot be reached: with {low} weights the file still has {smallest} bytes; allow "
            "more"
        )
    n_kept = budget.largest(
        lambda n_kept: len(encode(keep_largest(scores, n_kept))) <= max_bytes, low, high, resolution=_RESOLUTION
    )
    return keep_largest(scores, n_kept)


def trim(pruned: PrunedNetwork, max_bytes: int, encode: Callable[[PrunedNetwork], bytes]) -> PrunedNetwork:
    """Remove the weights of the lowest signal-to-noise ratio, until the file is small enough.

    For use after fine-tuning, which changes the size of the entropy-coded values slightly: few steps are needed.

    Parameters
    ----------
    pruned : PrunedNetwork
    max_bytes : int
    encode : callable(pruned) -> bytes
        Student file of a pruned network.

    Returns
    -------
    PrunedNetwork

    Raises
    ------
    ValueError
        If not even one weight per layer fits.
    """
    n_kept, smaller = count(pruned.masks), pruned
    while len(encode(smaller)) > max_bytes:
        n_kept -= max(1, n_kept // _RESOLUTION)
        if n_kept < len(pruned.masks):
            raise ValueError(f"max_bytes={max_bytes} cannot be reached by pruning; allow more")
        smaller = replace(pruned, masks=tuple(keep_largest(pruned.signal_to_noise(), n_kept)))
    return smaller
