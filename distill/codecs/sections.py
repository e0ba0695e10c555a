"""What a codec of weights gives back: layers, and whatever else it knows about them."""

from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    """One decoded layer.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs), float32
    bias : ndarray of shape (n_outputs,), float32
    extras : dict of str to ndarray
        More about this layer, for instance the variances of its weights; empty for most codecs.
    """

    weight: np.ndarray
    bias: np.ndarray
    extras: dict[str, np.ndarray] = {}  # noqa: RUF012 -- never written to


class Section(NamedTuple):
    """The bytes of one layer, or of the whole network, and the number of the codec that reads them."""

    codec: int
    payload: bytes
