"""Smooth weights on a grid of inputs: sums of cosine waves, bit-identical on every machine.

Neighboring inputs of an image, a spectrum or a time series are correlated, so the weights of a unit can be smooth. A
smooth pattern is a sum of few waves of low frequency (the discrete cosine transform; Chen, Wilson, Tyree, Weinberger
and Chen, "Compressing Convolutional Neural Networks in the Frequency Domain", KDD 2016). Only additions,
multiplications, divisions and square roots are used, one at a time and in a fixed order.
"""

from math import factorial, prod

import numpy as np

# Terms of the series of sine and cosine on [0, pi / 4]: the error is far below the resolution of float32
_N_TERMS = 11


def waves(extent: int, count: int) -> np.ndarray:
    """Return the first waves of the orthonormal discrete cosine transform (type II).

    Parameters
    ----------
    extent : int
        Length of the axis.
    count : int
        Number of waves, the constant one first; at most `extent`.

    Returns
    -------
    ndarray of shape (count, extent), float32

    Examples
    --------
    >>> waves(2, 2)
    array([[ 0.70710677,  0.70710677],
           [ 0.70710677, -0.70710677]], dtype=float32)
    """
    # cos(pi / 2 * m / extent): the multiples m are integers, so that the reduction to the first octant is exact
    multiple = np.arange(count)[:, None] * (2 * np.arange(extent) + 1) % (4 * extent)
    multiple = np.minimum(multiple, 4 * extent - multiple)
    sign = np.where(multiple > extent, -1.0, 1.0)
    multiple = np.minimum(multiple, 2 * extent - multiple)
    steep = 2 * multiple > extent
    angle = np.where(steep, extent - multiple, multiple) * (np.pi / 2) / extent
    height = np.where(steep, _sine(angle), _cosine(angle)) * sign * np.sqrt(2 / extent)
    height[0] = np.sqrt(1 / extent)
    return height.astype(np.float32)


def lowest_frequencies(shape: tuple[int, ...], count: int) -> np.ndarray:
    """Return the waves of lowest frequency on a grid, the lowest first.

    Parameters
    ----------
    shape : tuple of int
        Extents of the grid.
    count : int

    Returns
    -------
    ndarray of shape (count, n_axes), int64
        Wave number along every axis, ordered by the sum of the squares of wave number / extent; ties are in the
        order of the grid.

    Examples
    --------
    >>> lowest_frequencies((4, 4), 4).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    wave_numbers = np.indices(shape).reshape(len(shape), -1)
    frequency = sum((number / np.float64(extent)) ** 2 for number, extent in zip(wave_numbers, shape))
    return wave_numbers[:, np.argsort(frequency, kind="stable")[:count]].T


def synthesize(amplitudes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return weights on a grid from the amplitudes of its waves of lowest frequency.

    Parameters
    ----------
    amplitudes : ndarray of shape (n_frequencies, n_outputs), float32
        In the order of `lowest_frequencies`.
    shape : tuple of int

    Returns
    -------
    ndarray of shape (prod(shape), n_outputs), float32
        Bit-identical on every machine.

    Examples
    --------
    >>> synthesize(np.array([[3.0]], np.float32), (3, 3)).round(4).ravel()
    array([1., 1., 1., 1., 1., 1., 1., 1., 1.], dtype=float32)
    """
    wave_numbers = lowest_frequencies(shape, len(amplitudes))
    extents = wave_numbers.max(axis=0) + 1
    grid = np.zeros((*extents, amplitudes.shape[1]), np.float32)
    grid[tuple(wave_numbers.T)] = amplitudes
    for axis, extent in enumerate(shape):
        waves_of_axis = waves(extent, extents[axis])
        inside = np.moveaxis(grid, axis, 0)
        total = np.zeros((extent, *inside.shape[1:]), np.float32)
        for wave, layer in zip(waves_of_axis, inside):
            total += np.multiply.outer(wave, layer)
        grid = np.moveaxis(total, 0, axis)
    return np.ascontiguousarray(grid).reshape(prod(shape), -1)


def synthesis_work(shape: tuple[int, ...], n_frequencies: int, n_outputs: int) -> int:
    """Return an upper bound of the multiplications of `synthesize`."""
    extents = [min(extent, n_frequencies) for extent in shape]
    work = 0
    for axis in range(len(shape)):
        work += extents[axis] * prod(shape[: axis + 1]) * prod(extents[axis + 1 :]) * n_outputs
    return work


def _cosine(angle: np.ndarray) -> np.ndarray:
    """Return cosines of angles in [0, pi / 4]."""
    return _alternating(angle * angle, 0)


def _sine(angle: np.ndarray) -> np.ndarray:
    """Return sines of angles in [0, pi / 4]."""
    return _alternating(angle * angle, 1) * angle


def _alternating(square: np.ndarray, first: int) -> np.ndarray:
    """Return the series of cosine (first = 0) or of sine / angle (first = 1) by Horner's rule."""
    total = np.zeros_like(square)
    for n in reversed(range(_N_TERMS)):
        total = total * square + (-1) ** n / factorial(2 * n + first)
    return total
