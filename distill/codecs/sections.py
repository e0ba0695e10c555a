"""The contract of a codec: layers to bytes and back.

A codec is a module of this package that stores the weights and biases of a layer, or of all layers, in one section of a
student file. It makes no decisions: codewords, codes and scales of a network are chosen by its compressor. A codec has

``encode(...) -> Section``
    Takes the arrays to be stored and raises ValueError for values that the format cannot hold. It does not round: a
    layer decoded from the section equals the given one, except that `dense` and `sparse` cast to their float type.

``decode(reader, shapes) -> list[Layer]``
    Reads one section. `shapes` are the ``(n_inputs, n_outputs)`` of all layers that have no weights yet, at least one;
    the result has the layers from the first on, one for most codecs and ``len(shapes)`` for a codec that stores a whole
    network. It reads through the `Reader` alone, under names of parts for the report, all bytes of the section, and
    raises `StudentFileError` for bytes that `encode` cannot have written. Sizes are checked before memory for them is
    allocated: a decoder allocates a bounded multiple of the weights that `shapes` describe, which the container has
    limited, and of the bytes there are. NaN and infinite weights may be returned; the container refuses them.

A new codec needs a kind here, a line in `distill.codecs.container.CODECS`, and a description in docs/format.md.
"""

from typing import NamedTuple

import numpy as np

# Kinds of sections in a file, one for each codec; a kind is never reused. Kinds below 16 are sections without weights
FLOAT32 = 16
FLOAT16 = 17
CODEBOOK = 18
RANDOM_CODE = 20
SMALL_RANDOM_CODE = 21
GRID = 22
SPARSE = 24


class Layer(NamedTuple):
    """One decoded layer.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs), float32
    bias : ndarray of shape (n_outputs,), float32
    extras : dict of str to ndarray
        Further arrays of the layer, such as the variances of its weights; empty for most codecs.
    """

    weight: np.ndarray
    bias: np.ndarray
    extras: dict[str, np.ndarray] = {}  # noqa: RUF012 -- never written to


class Section(NamedTuple):
    """The bytes of one layer, or of the whole network, and their codec.

    Parameters
    ----------
    codec : int
        Kind of the section.
    payload : bytes
    """

    codec: int
    payload: bytes
