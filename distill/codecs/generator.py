"""Counter-based random numbers, bit-identical on every machine.

A number is a function of its keys and its position, so that any part of a stream can be generated alone. The words are
those of splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), whose seed is
derived from the keys by the same mixing function. Normal numbers are looked up in a table of 65536 quantiles, which is
computed with additions, multiplications, divisions and square roots alone: IEEE 754 defines these to the last bit, and
no mathematical library is involved.
"""

import math
import zlib
from functools import cache

import numpy as np

# Increment of splitmix64: 2**64 divided by the golden ratio, made odd
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
# The same of 32 bits
SMALL_GAMMA = np.uint32(0x9E3779B9)
# The key that separates the kinds of streams
_NORMALS, _PERMUTATION, _INTEGERS = range(3)
# The table of normal quantiles has 2**16 entries; CRC-32 of its little-endian float32 bytes
_TABLE_BITS = 16
_TABLE_CHECKSUM = 0x1296E3AD

# Wichura's coefficients, numerator and denominator, highest power first. His third pair is for quantiles beyond 5.9.
_CENTRAL = (
    (
        2.50908_09287_30122_6727e3,
        3.34305_75583_58812_8105e4,
        6.72657_70927_00870_0853e4,
        4.59219_53931_54987_1457e4,
        1.37316_93765_50946_1125e4,
        1.97159_09503_06551_4427e3,
        1.33141_66789_17843_7745e2,
        3.38713_28727_96366_6080e0,
    ),
    (
        5.22649_52788_52854_5610e3,
        2.87290_85735_72194_2674e4,
        3.93078_95800_09271_0610e4,
        2.12137_94301_58659_5867e4,
        5.39419_60214_24751_1077e3,
        6.87187_00749_20579_0830e2,
        4.23133_30701_60091_1252e1,
        1.0,
    ),
)
_TAIL = (
    (
        7.74545_01427_83414_07640e-4,
        2.27238_44989_26918_45833e-2,
        2.41780_72517_74506_11770e-1,
        1.27045_82524_52368_38258e0,
        3.64784_83247_63204_60504e0,
        5.76949_72214_60691_40550e0,
        4.63033_78461_56545_29590e0,
        1.42343_71107_49683_57734e0,
    ),
    (
        1.05075_00716_44416_84324e-9,
        5.47593_80849_95344_94600e-4,
        1.51986_66563_61645_71966e-2,
        1.48103_97642_74800_74590e-1,
        6.89767_33498_51000_04550e-1,
        1.67638_48301_83803_84940e0,
        2.05319_16266_37758_82187e0,
        1.0,
    ),
)


def words(keys: tuple, count: int, start: int = 0) -> np.ndarray:
    """Return 64-bit words of the streams with these keys.

    Parameters
    ----------
    keys : tuple of int or ndarray of ints, in [0, 2**64)
        Arrays are broadcast against each other; each combination of keys is a separate stream.
    count : int
    start : int
        Position of the first word.

    Returns
    -------
    ndarray of shape (*keys' shape, count), uint64

    Examples
    --------
    >>> np.array_equal(words((7, 3), 5)[2:], words((7, 3), 3, start=2))
    True
    """
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = mix(state + (np.asarray(key, np.uint64)[..., None] + np.uint64(1)) * GOLDEN_GAMMA)
    positions = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    return mix(state + positions * GOLDEN_GAMMA)


def normals(seed: int, block: int | np.ndarray, candidate: int | np.ndarray, count: int) -> np.ndarray:
    """Return standard normal numbers, drawn from 65536 quantiles.

    Parameters
    ----------
    seed : int in [0, 2**64)
    block, candidate : int or ndarray of ints
        Broadcast against each other: all candidates of one block, or one candidate of every block.
    count : int
        Count of normal numbers per candidate.

    Returns
    -------
    ndarray of shape (*shape of block and candidate, count), float32

    Examples
    --------
    >>> every = normals(1, 5, np.arange(8), 3)
    >>> np.array_equal(normals(1, 5, 6, 3), every[6])
    True
    """
    drawn = words((seed, _NORMALS, block, candidate), -(-count // 4))
    # Four indices of 16 bits per word, the lowest bits first, also on machines of the other byte order
    return normal_table()[drawn.astype("<u8", copy=False).view("<u2")[..., :count]]


def permutation(seed: int, stream: int, count: int) -> np.ndarray:
    """Return a permutation of 0..count-1, a function of seed and stream; ndarray of shape (count,), int64.

    Examples
    --------
    >>> sorted(permutation(1, 0, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(words((seed, _PERMUTATION, stream), count), kind="stable")


def integers(seed: int, stream: int, upper: int, count: int) -> np.ndarray:
    """Return uniform integers in [0, upper), a function of seed and stream; ndarray of shape (count,), int64.

    Parameters
    ----------
    seed, stream : int in [0, 2**64)
    upper : int in [1, 2**32]
    count : int

    Raises
    ------
    ValueError
        If upper is not in [1, 2**32].

    Examples
    --------
    >>> bool((integers(1, 0, 6, 1000) < 6).all())
    True
    """
    if not 1 <= upper <= 1 << 32:
        raise ValueError(f"upper must be in [1, 2**32], got {upper}")
    high = words((seed, _INTEGERS, stream), count) >> np.uint64(32)
    return (high * np.uint64(upper) >> np.uint64(32)).astype(np.int64)


def small_normals(seed: int, key: int | np.ndarray, count: int) -> np.ndarray:
    """Return standard normal numbers of 256 values, from arithmetic of 32 bits, which a microcontroller can do.

    Parameters
    ----------
    seed : int in [0, 2**32)
    key : int or ndarray of ints
        Each key, modulo 2**32, names a stream.
    count : int
        Count of normal numbers per key.

    Returns
    -------
    ndarray of shape (*shape of key, count), float32

    Examples
    --------
    >>> every = small_normals(1, np.arange(8), 3)
    >>> np.array_equal(small_normals(1, 6, 5)[:3], every[6])
    True
    """
    return small_normal_table()[small_indices(seed, key, count)]


def small_indices(seed: int, key: int | np.ndarray, count: int) -> np.ndarray:
    """Return indices into `small_normal_table`; ndarray of shape (*shape of key, count), uint8."""
    keys = (np.asarray(key, np.uint64)[..., None] & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    state = mix32((keys + np.uint32(1)) * SMALL_GAMMA + np.uint32(small_state(seed)))
    positions = np.arange(1, -(-count // 4) + 1, dtype=np.uint32)
    drawn = mix32(state + positions * SMALL_GAMMA)
    # Four indices per word, the lowest bits first, also on machines of the other byte order
    return drawn.astype("<u4", copy=False).view("u1")[..., :count]


def small_state(seed: int) -> int:
    """Return the state from which the streams of `small_normals` begin."""
    return int(mix32(np.array([seed], np.uint32) + SMALL_GAMMA)[0])


def small_stride(count: int) -> int:
    """Return the stride of an order of 0..count-1: element i has place ``i * stride % count``.

    It is the least integer from .618 of the count on that has no divisor in common with it.

    Examples
    --------
    >>> small_stride(10), [element * 7 % 10 for element in range(10)]
    (7, [0, 7, 4, 1, 8, 5, 2, 9, 6, 3])
    """
    stride = count * 40503 >> 16
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


@cache
def small_normal_table() -> np.ndarray:
    """Return the quantiles of the standard normal distribution at (i + 1/2) / 256, i = 0..255, as float32."""
    below = np.arange(1, 256, 2, dtype=np.float64) / 512
    lower = -_upper_quantiles(below).astype("<f4")
    table = np.concatenate([lower, -lower[::-1]]).astype(np.float32)
    table.flags.writeable = False
    return table


@cache
def normal_table() -> np.ndarray:
    """Return the quantiles of the standard normal distribution at (i + 1/2) / 65536, i = 0..65535, as float32.

    Wichura's algorithm AS 241 (Applied Statistics 37, 1988), accurate to about 1e-16 before rounding to float32.

    Raises
    ------
    RuntimeError
        If the checksum of the table is wrong, on a machine without IEEE 754 arithmetic.
    """
    below = np.arange(1, 1 << _TABLE_BITS, 2, dtype=np.float64) / (2 << _TABLE_BITS)
    lower = -_upper_quantiles(below).astype("<f4")
    table = np.concatenate([lower, -lower[::-1]])
    if zlib.crc32(table.tobytes()) != _TABLE_CHECKSUM:
        raise RuntimeError(
            "this machine's floating-point arithmetic does not follow IEEE 754; the table of normal quantiles is wrong"
        )
    table = table.astype(np.float32)
    table.flags.writeable = False
    return table


def mix(state: np.ndarray) -> np.ndarray:
    """Mix the bits of 64-bit words: the output function of splitmix64."""
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return state ^ state >> np.uint64(31)


def mix32(state: np.ndarray) -> np.ndarray:
    """Mix the bits of 32-bit words: two rounds of xor, shift and multiplication ("lowbias32" of C. Wellons)."""
    state = (state ^ state >> np.uint32(16)) * np.uint32(0x7FEB352D)
    state = (state ^ state >> np.uint32(15)) * np.uint32(0x846CA68B)
    return state ^ state >> np.uint32(16)


def _upper_quantiles(above: np.ndarray) -> np.ndarray:
    """Return the standard normal quantiles of 1 - `above`, which is at most 1/2, by algorithm AS 241."""
    distance = 0.5 - above
    central = distance <= 0.425
    quantile = np.empty_like(above)
    inside = distance[central]
    quantile[central] = inside * _ratio(0.180625 - inside * inside, _CENTRAL)
    depth = np.sqrt(-_log(above[~central]))
    quantile[~central] = _ratio(depth - 1.6, _TAIL)
    return quantile


def _log(values: np.ndarray) -> np.ndarray:
    """Return natural logarithms, computed with IEEE 754 operations alone."""
    # log(m 2^e) = 2 artanh((m - 1) / (m + 1)) + e log 2, with m in [1/2, 1)
    mantissa, exponent = np.frexp(values)
    s = (mantissa - 1) / (mantissa + 1)
    square, term, total = s * s, s.copy(), s.copy()
    # |s| is at most 1/3: terms beyond the 39th power are below the resolution of float64
    for odd in range(3, 41, 2):
        term = term * square
        total = total + term / odd
    return 2 * total + exponent * 0.6931471805599453


def _ratio(values: np.ndarray, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> np.ndarray:
    """Return a ratio of two polynomials by Horner's rule."""
    numerator, denominator = (np.zeros_like(values), np.zeros_like(values))
    for upper, lower in zip(*coefficients):
        numerator = numerator * values + upper
        denominator = denominator * values + lower
    return numerator / denominator
