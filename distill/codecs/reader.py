"""Read untrusted bytes.

Every codec reads through a `Reader`, which never reads beyond the end, counts the bytes read under a name (so that
reports are exact to the byte), and raises `StudentFileError` for anything unexpected.
"""

from collections import Counter

import numpy as np

BytesLike = bytes | memoryview


class StudentFileError(ValueError):
    """The bytes are not a student file that this version can read; the message names the reason."""


class Reader:
    r"""A cursor over bytes that raises StudentFileError at their end.

    Parameters
    ----------
    data : bytes-like
    where : str
        A name of the bytes, for messages.

    Attributes
    ----------
    parts : Counter of str to int
        Bytes read so far under each name.

    Examples
    --------
    >>> reader = Reader(b"\x85\x01\x00\x00\x80?", where="example")
    >>> reader.varint("size"), float(reader.array("<f4", 1, "value")[0])
    (133, 1.0)
    >>> reader.finish()
    >>> dict(reader.parts)
    {'size': 2, 'value': 4}
    """

    def __init__(self, data: BytesLike, where: str = "the file"):
        self._data = memoryview(data)
        self._position = 0
        self.where = where
        self.parts: Counter[str] = Counter()

    @property
    def remaining(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._position

    def take(self, count: int, part: str) -> memoryview:
        """Return the next `count` bytes, counted under the name `part`."""
        if count > self.remaining:
            raise StudentFileError(
                f"{self.where} ends too early: {part} needs {count} bytes and {self.remaining} are left"
            )
        start, self._position = self._position, self._position + count
        self.parts[part] += count
        return self._data[start : self._position]

    def byte(self, part: str) -> int:
        """Return the next byte as an integer, counted under the name `part`."""
        return self.take(1, part)[0]

    def varint(self, part: str, limit: int = 0xFFFFFFFF) -> int:
        """Return an unsigned integer of at most `limit`, written as a varint: seven bits per byte, the lowest first."""
        value = shift = 0
        # The limit is checked byte by byte, so that a long varint cannot make a large integer
        while True:
            byte = self.byte(part)
            value |= (byte & 0x7F) << shift
            if value > limit:
                raise StudentFileError(f"{self.where}: {part} is larger than {limit}, the largest possible value")
            if byte < 0x80:
                break
            shift += 7
            if shift > 63:
                raise StudentFileError(f"{self.where}: {part} is a varint of more than ten bytes")
        # Every integer has one form only
        if byte == 0 and shift:
            raise StudentFileError(f"{self.where}: {part} is a varint with useless zeros at its end")
        return value

    def array(self, dtype: str, count: int, part: str) -> np.ndarray:
        """Return values as a writable copy in native byte order.

        Parameters
        ----------
        dtype : str
            Little-endian, such as ``"<f4"``.
        count : int
        part : str
            The name under which the bytes are counted.

        Returns
        -------
        ndarray of shape (count,)
        """
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(count * kind.itemsize, part), kind).astype(kind.newbyteorder("="))

    def finish(self) -> None:
        """Raise StudentFileError if there are bytes left."""
        if self.remaining:
            raise StudentFileError(f"{self.where} goes on for {self.remaining} bytes after its end")


def varint(value: int) -> bytes:
    """Write an unsigned integer as a varint: seven bits per byte, the lowest first; the top bit is set if more follow.

    Examples
    --------
    >>> varint(133).hex()
    '8501'
    """
    if value < 0:
        raise ValueError(f"a varint cannot be negative, got {value}")
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
