"""Weights as codes into small codebooks: the layer as data, and as bytes.

The columns of a layer's matrix, its neurons, fall into groups. A weight is the codeword that its code names, times the
scale of its neuron's group, or it is a codeword of the group's own codebook.
"""

from dataclasses import dataclass

import numpy as np

_LOWEST_EXPONENT = -126


@dataclass(frozen=True, eq=False)
class CodebookLayer:
    """A layer whose weights are codes.

    Parameters
    ----------
    codes : ndarray of shape (n_used, n_outputs), uint8
        Position of every weight's codeword; one row for each input that is used.
    codebooks : ndarray of shape (1, n_codewords) or (n_groups, n_codewords), float32
        One that all groups share, or one for each.
    scales : ndarray of shape (n_groups,), float32, or None
        What multiplies the shared codebook; None where every group has its own.
    groups : ndarray of shape (n_outputs,), intp
        The group of every neuron.
    bias : ndarray of shape (n_outputs,), float32
    used : ndarray of shape (n_inputs,), bool
        Inputs that have weights at all; the others' are zero.
    """

    codes: np.ndarray
    codebooks: np.ndarray
    scales: np.ndarray | None
    groups: np.ndarray
    bias: np.ndarray
    used: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """The weights that each group can have; ndarray of shape (n_groups, n_codewords), float32."""
        return self.codebooks if self.scales is None else self.codebooks * self.scales[:, None]

    @property
    def weight(self) -> np.ndarray:
        """The matrix; ndarray of shape (n_inputs, n_outputs), float32."""
        weight = np.zeros((len(self.used), self.codes.shape[1]), np.float32)
        weight[self.used] = self.levels[self.groups, self.codes]
        return weight


def round_to_half(values: np.ndarray) -> np.ndarray:
    """Round numbers to those that a file stores: 16-bit floats that share one power of two.

    Parameters
    ----------
    values : ndarray, finite

    Returns
    -------
    ndarray of the same shape, float32
        Within 1/2048 of every value that is not 16000 times smaller than the largest. Rounding twice changes nothing.

    Examples
    --------
    >>> round_to_half(np.array([1.0, 1.0004, 1.0006], dtype=np.float32))
    array([1.       , 1.       , 1.0009766], dtype=float32)
    """
    return _from_half(*_to_half(_from_half(*_to_half(values))))


def _to_half(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return 16-bit floats and the exponent of the power of two that multiplies them."""
    largest = float(np.abs(values).max(initial=0.0))
    exponent = max(int(np.frexp(largest)[1]), _LOWEST_EXPONENT) if largest else 0
    return np.ldexp(np.asarray(values, np.float64), -exponent).astype(np.float16), exponent


def _from_half(halves: np.ndarray, exponent: int) -> np.ndarray:
    return np.ldexp(halves.astype(np.float32), exponent)
