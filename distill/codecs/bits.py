"""Pack unsigned integers of any bit width without gaps.

The first code takes the lowest bits of the first byte; the last byte is padded with zero bits.
"""

from collections.abc import Sequence

import numpy as np

from distill.codecs.reader import BytesLike, StudentFileError

# Bounds the memory for unpacked bits. Eight codes of any width end at a byte, so blocks of a multiple of eight do, too
_BLOCK = 1 << 15


def packed_size(count: int, width: int) -> int:
    """Return the number of bytes of `count` packed codes of `width` bits."""
    return (count * width + 7) // 8


def width_of(n_values: int) -> int:
    """Return the width in bits of packed codes with `n_values` different values.

    Examples
    --------
    >>> [width_of(n_values) for n_values in (1, 2, 3, 4, 5)]
    [0, 1, 2, 2, 3]
    """
    return (n_values - 1).bit_length()


def pack(codes: Sequence[int] | np.ndarray, width: int) -> bytes:
    """Pack unsigned integers.

    Parameters
    ----------
    codes : array-like of shape (count,), integers in [0, 2**width)
    width : int in [0, 32]
        Bits per code; with 0 nothing is written, and all codes are 0.

    Returns
    -------
    bytes
        ``ceil(count * width / 8)`` of them.

    Raises
    ------
    ValueError
        If the width is out of range or a code does not fit.

    Examples
    --------
    >>> pack([1, 2, 3, 4, 5], 3).hex()
    'd158'
    """
    codes = np.asarray(codes)
    _check_width(width)
    if codes.ndim != 1 or (codes.size and codes.dtype.kind not in "iu"):
        raise ValueError(f"codes must be a vector of integers, got shape {codes.shape} of {codes.dtype}")
    if codes.size and (codes.min() < 0 or codes.max() >= 1 << width):
        raise ValueError(f"codes must be in [0, {1 << width}) to fit {width} bits, got {codes.min()}..{codes.max()}")
    shifts = np.arange(width, dtype=np.uint32)
    packed = []
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK].astype(np.uint32)
        block_bits = (block[:, None] >> shifts & 1).astype(np.uint8)
        packed.append(np.packbits(block_bits, bitorder="little").tobytes())
    return b"".join(packed)


def unpack(data: BytesLike, width: int, count: int) -> np.ndarray:
    """Unpack codes written by `pack`.

    Parameters
    ----------
    data : bytes-like
        Exactly the packed codes.
    width : int in [0, 32]
    count : int

    Returns
    -------
    ndarray of shape (count,), uint32

    Raises
    ------
    StudentFileError
        If the number of bytes is wrong or the padding of the last byte is not zero.

    Examples
    --------
    >>> unpack(bytes.fromhex("d158"), 3, 5)
    array([1, 2, 3, 4, 5], dtype=uint32)
    """
    _check_width(width)
    if len(data) != packed_size(count, width):
        raise StudentFileError(f"{count} codes of {width} bits are {packed_size(count, width)} bytes, got {len(data)}")
    if width == 0:
        return np.zeros(count, np.uint32)
    used = count * width % 8
    if used and data[-1] >> used:
        raise StudentFileError("the padding bits of packed codes are not zero")
    codes = np.empty(count, np.uint32)
    mask = np.uint64((1 << width) - 1)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        # Eight bytes from the byte in which a code begins hold all of it: 7 + 32 bits are less than 64
        padded = bytes(data[start * width // 8 : packed_size(stop, width)]) + bytes(8)
        windows = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))
        first = np.arange(stop - start, dtype=np.uint64) * np.uint64(width)
        codes[start:stop] = windows[first >> np.uint64(3)] >> (first & np.uint64(7)) & mask
    return codes


def _check_width(width: int) -> None:
    """Raise ValueError if a width is out of range."""
    if not 0 <= width <= 32:
        raise ValueError(f"width must be in [0, 32] bits, got {width}")
