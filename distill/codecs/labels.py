"""Encode label values and feature names."""

import zlib

import numpy as np

from distill.codecs.reader import BytesLike, Reader, StudentFileError, varint

# Kinds of label values, and forms of feature names
_CONSECUTIVE, _INTEGERS, _STRINGS, _BOOLEANS, _FLOATS = range(5)
_PLAIN, _DEFLATED = range(2)
# Names with a higher ratio of compression are written plainly: it bounds what a reader allocates for a few bytes
MAX_INFLATION = 64


def encode_classes(classes: np.ndarray) -> bytes:
    r"""Write label values: all integers, all strings, all booleans or all floats.

    Raises
    ------
    ValueError
        If the labels are of other types, not a vector, or integers beyond 64 bits.

    Examples
    --------
    >>> encode_classes(np.arange(10)).hex()
    '0a0000'
    >>> encode_classes(np.array(["cat", "dog"]))
    b'\x02\x02\x03cat\x03dog'
    """
    classes = np.asarray(classes)
    if classes.ndim != 1 or not 1 <= len(classes):
        raise ValueError(f"classes must be a vector of at least one label, got an array of shape {classes.shape}")
    values = classes.tolist()
    kind = _kind(classes, values)
    head = varint(len(classes)) + bytes([kind])
    if kind == _BOOLEANS:
        return head + bytes(values)
    if kind == _CONSECUTIVE:
        return head + varint(_zigzag(values[0]))
    if kind == _INTEGERS:
        return head + b"".join(varint(_zigzag(value)) for value in values)
    if kind == _STRINGS:
        return head + b"".join(_string(value) for value in values)
    return head + np.asarray(values, "<f8").tobytes()


def _kind(classes: np.ndarray, values: list) -> int:
    """Return the kind of label values; ValueError if they have none."""
    if classes.dtype.kind == "b":
        return _BOOLEANS
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        if not all(-(2**63) <= value < 2**63 for value in values):
            raise ValueError("classes has integers beyond 64 bits, which a student file cannot keep")
        return _CONSECUTIVE if values == list(range(values[0], values[0] + len(values))) else _INTEGERS
    if all(isinstance(value, str) for value in values):
        return _STRINGS
    if all(isinstance(value, float) for value in values):
        return _FLOATS
    raise ValueError(f"classes must be all integers, all strings, all booleans or all floats, got {classes!r}")


def decode_classes(reader: Reader, expected: int) -> np.ndarray:
    """Read `expected` label values.

    Returns
    -------
    ndarray of shape (expected,), int64, str, object (strings), bool or float64

    Raises
    ------
    StudentFileError
        If the bytes are damaged or hold another number of labels.
    """
    part = "classes"
    count = reader.varint(part)
    if count != expected:
        raise StudentFileError(f"{reader.where} has {count} classes, and the outputs need {expected}")
    kind = reader.byte(part)
    if kind == _CONSECUTIVE:
        start = _unzigzag(reader.varint(part, 2**64 - 1))
        if start + count > 2**63:
            raise StudentFileError(f"{reader.where} has labels beyond 64 bits")
        return np.arange(start, start + count, dtype=np.int64)
    if count > reader.remaining:
        raise StudentFileError(f"{reader.where} has {reader.remaining} bytes, too few for {count} labels")
    if kind == _INTEGERS:
        return np.fromiter((_unzigzag(reader.varint(part, 2**64 - 1)) for _ in range(count)), np.int64, count)
    if kind == _STRINGS:
        return _read_strings(reader, count, part)
    if kind == _BOOLEANS:
        values = reader.array("u1", count, part)
        if values.max(initial=0) > 1:
            raise StudentFileError(f"{reader.where}: a boolean label is neither 0 nor 1")
        return values.astype(bool)
    if kind == _FLOATS:
        return reader.array("<f8", count, part)
    raise StudentFileError(f"{reader.where}: unknown kind of labels {kind}")


def encode_names(names: tuple[str, ...]) -> bytes:
    """Write feature names, deflated where that is shorter.

    Examples
    --------
    >>> len(encode_names([f"pixel{i}" for i in range(784)])) < 2500
    True
    """
    plain = b"".join(_string(name) for name in names)
    packer = zlib.compressobj(9, wbits=-15)
    deflated = varint(len(plain)) + packer.compress(plain) + packer.flush()
    if len(deflated) < len(plain) and len(plain) <= MAX_INFLATION * len(deflated):
        return bytes([_DEFLATED]) + deflated
    return bytes([_PLAIN]) + plain


def decode_names(reader: Reader, count: int) -> tuple[str, ...]:
    """Read `count` feature names; StudentFileError if the bytes are damaged."""
    part = "feature names"
    kind = reader.byte(part)
    if kind == _DEFLATED:
        length = reader.varint(part)
        deflated = reader.take(reader.remaining, part)
        if length > MAX_INFLATION * (len(deflated) + 5):
            raise StudentFileError(f"{reader.where}: {length} bytes of names in {len(deflated)} deflated ones")
        reader = Reader(inflate(deflated, length, reader.where), reader.where)
    elif kind != _PLAIN:
        raise StudentFileError(f"{reader.where}: unknown way of writing names {kind}")
    if count > reader.remaining:
        raise StudentFileError(f"{reader.where} has {reader.remaining} bytes, too few for {count} names")
    names = tuple(_read_string(reader, part) for _ in range(count))
    reader.finish()
    return names


def _read_strings(reader: Reader, count: int, part: str) -> np.ndarray:
    """Read `count` strings; as objects if an array of str would not hold them or would waste memory."""
    available = reader.remaining
    values = [_read_string(reader, part) for _ in range(count)]
    # An array of str is as wide as its longest string, and drops zero characters at the end of strings
    wide = count * max(map(len, values), default=0) > 16 * available
    return np.array(values, object if wide or any(value.endswith("\0") for value in values) else str)


def _zigzag(value: int) -> int:
    """Map integers to unsigned ones, small magnitudes to small values."""
    return 2 * value if value >= 0 else -2 * value - 1


def _unzigzag(value: int) -> int:
    """Invert `_zigzag`."""
    return value >> 1 if value % 2 == 0 else -(value >> 1) - 1


def _string(value: str) -> bytes:
    """Return a string as its length and UTF-8."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{value!r} cannot be written as UTF-8") from error
    return varint(len(encoded)) + encoded


def _read_string(reader: Reader, part: str) -> str:
    """Read a string."""
    try:
        return str(reader.take(reader.varint(part), part), "utf-8")
    except UnicodeDecodeError as error:
        raise StudentFileError(f"{reader.where}: {part} are not UTF-8") from error


def inflate(deflated: BytesLike, length: int, where: str) -> bytes:
    """Return `length` inflated bytes; StudentFileError if there are more or fewer."""
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        plain = unpacker.decompress(deflated, length + 1)
    except zlib.error as error:
        raise StudentFileError(f"{where}: the deflated bytes are damaged") from error
    if len(plain) != length or not unpacker.eof or unpacker.unused_data:
        raise StudentFileError(f"{where}: the deflated content is not {length} bytes long")
    return plain
