"""Masks of the used inputs of a layer: one bit for each input, packed or entropy-coded.

Where inputs have been pruned, a codec stores only the weights of used inputs. The *form* of the mask takes two bits of
the flags of the codec:

==== ===========================================================
form bytes
==== ===========================================================
0    none, all inputs are used
1    packed, `distill.codecs.bits` of width 1
3    entropy-coded with two symbols, `distill.codecs.entropy`
==== ===========================================================
"""

import numpy as np

from distill.codecs import bits, entropy
from distill.codecs.reader import Reader

FORMS = ALL_USED, PACKED, CODED = 0, 1, 3


def encode_used(used: np.ndarray, entropy_coding: bool = True) -> tuple[int, bytes]:
    r"""Return the shortest form of a mask, and its bytes.

    Parameters
    ----------
    used : ndarray of shape (n_inputs,), bool
    entropy_coding : bool
        If False, the bits are packed unless all are set.

    Returns
    -------
    form : {0, 1, 3}
    written : bytes

    Examples
    --------
    >>> encode_used(np.array([True, True]))
    (0, b'')
    >>> encode_used(np.array([True, False, True]))
    (1, b'\x05')
    """
    if used.all():
        return ALL_USED, b""
    packed = bits.pack(used.astype(np.uint8), 1)
    coded = entropy.encode(used.astype(np.uint8), 2) if entropy_coding else packed
    return (CODED, coded) if len(coded) < len(packed) else (PACKED, packed)


def decode_used(reader: Reader, n_inputs: int, form: int, part: str = "used inputs") -> np.ndarray:
    """Read a mask.

    Parameters
    ----------
    reader : Reader
    n_inputs : int
    form : {0, 1, 3}
        One of `FORMS`; the codec checks it.
    part : str
        The name under which the bytes are counted.

    Returns
    -------
    ndarray of shape (n_inputs,), bool

    Raises
    ------
    StudentFileError
        If the bytes are damaged.
    """
    if form == ALL_USED:
        return np.ones(n_inputs, bool)
    if form == PACKED:
        return bits.unpack(reader.take(bits.packed_size(n_inputs, 1), part), 1, n_inputs).astype(bool)
    return entropy.decode(reader, n_inputs, 2, part).astype(bool)
