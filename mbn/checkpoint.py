"""Finished layers on disk, so that a fit that was killed goes on where it was.

One file per layer: a magic word, a header in JSON, the codes, and a digest of all of it. Its name says which rows and
which parameters the codes belong to. A file appears whole, by renaming, or not at all; one that does not check out is
never used. Nothing here can stop a fit: what cannot be read is computed, what cannot be written is left, and a
warning says why.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from mbn.parallel import blocks
from mbn.rows import Rows

# Raised whenever the same rows and parameters would get other codes than before.
VERSION = 3
_MAGIC = b"mbn-layer\n"
_LONGEST_HEADER = 1 << 16
_COPIED_BYTES = 1 << 24
_DIGEST_BYTES = 32


class Checkpoint:
    """The finished layers of one fit.

    Parameters
    ----------
    memory : str, path, joblib.Memory or None
        The folder; of a joblib.Memory its location. None keeps nothing.
    X : ndarray or CSR of shape (n_samples, n_features)
        The rows of the fit. The same numbers of another type or layout are the same rows.

    Raises
    ------
    ValueError
        If `memory` is something else.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from mbn.checkpoint import Checkpoint
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = Checkpoint(folder, np.eye(3))
    ...     kept.save({"layer": 0}, np.array([[1, 2]], np.uint8))
    ...     print(kept.load({"layer": 0}), kept.load({"layer": 1}))
    [[1 2]] None
    """

    def __init__(self, memory: Any, X: Any):
        location = getattr(memory, "location", None) if hasattr(memory, "cache") else memory
        if location is not None and not isinstance(location, (str, os.PathLike)):
            raise ValueError(f"memory={memory!r} must be the path of a folder, a joblib.Memory with one, or None")
        self.folder = None if location is None else Path(location) / "mbn-layers"
        self.rows = None if location is None else digest_of_rows(X)
        self.writes = self.folder is not None

    def load(self, parameters: dict) -> np.ndarray | None:
        """Return the codes of a layer, or None if they have to be computed.

        Parameters
        ----------
        parameters : dict
            What the codes depend on besides the rows.

        Warns
        -----
        UserWarning
            If there is a file that cannot be used, or there are files of the same parameters for other rows only.
        """
        if self.folder is None:
            return None
        path = self._path(parameters)
        try:
            with open(path, "rb") as file:
                return _read(file, self._header(parameters))
        except (FileNotFoundError, NotADirectoryError):
            self._mention_other_rows(parameters)
        except OSError as error:
            self._warn(parameters, f"{path.name} cannot be read ({error})")
        except _UnusableError as error:
            self._warn(parameters, f"{path.name} {error}")
        return None

    def save(self, parameters: dict, codes: np.ndarray) -> None:
        """Keep the codes of a finished layer.

        Warns
        -----
        UserWarning
            If they cannot be written; no more is tried then.
        """
        if not self.writes:
            return
        path = self._path(parameters)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_whole(path, self._header(parameters), codes)
        except OSError as error:
            warnings.warn(
                f"memory={str(self.folder.parent)!r} cannot be written ({error}); the fit goes on without keeping its "
                "layers.",
                stacklevel=4,
            )
            self.writes = False

    def _path(self, parameters):
        return self.folder / f"{_digest_of(parameters)}-{self.rows}.layer"

    def _header(self, parameters):
        return {"version": VERSION, "numpy": np.__version__, "rows": self.rows, "parameters": parameters}

    def _mention_other_rows(self, parameters):
        if parameters.get("layer") == 0 and any(self.folder.glob(f"{_digest_of(parameters)}-*.layer")):
            self._warn(parameters, "what is there was computed with the same parameters for other rows X")

    def _warn(self, parameters, why):
        warnings.warn(
            f"memory={str(self.folder.parent)!r}: layer {parameters.get('layer', 0) + 1} is computed again: {why}.",
            stacklevel=5,
        )


class _UnusableError(Exception):
    """Says what is wrong with a file."""


def digest_of_rows(X: Any) -> str:
    """Name rows by their numbers, as float32."""
    digest = hashlib.blake2b(repr(X.shape).encode(), digest_size=16)
    rows = Rows(X)
    for block in rows.blocks():
        part = rows[block]
        if sparse.issparse(part):
            digest.update(b"sparse")
            digest.update(np.asarray(part.indptr, "<i8"))
            digest.update(np.asarray(part.indices, "<i8"))
            digest.update(np.asarray(part.data, "<f4"))
        else:
            digest.update(np.asarray(part, "<f4"))
    return digest.hexdigest()


def _digest_of(parameters):
    return hashlib.blake2b(json.dumps(parameters, sort_keys=True).encode(), digest_size=12).hexdigest()


def _write_whole(path, header, codes):
    dtype = codes.dtype.newbyteorder("<")
    head = json.dumps({**header, "dtype": dtype.str, "shape": codes.shape}, sort_keys=True).encode()
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".partial")
    try:
        with open(handle, "wb") as file:
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            for part in chain((_MAGIC, len(head).to_bytes(4, "little"), head), _pieces(codes, dtype)):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    for leftover in path.parent.glob(f"{path.stem}-*.partial"):  # of fits that were killed while writing
        with contextlib.suppress(OSError):
            leftover.unlink()


def _read(file, header):
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def read(n_bytes, what):
        data = file.read(n_bytes)
        if len(data) != n_bytes:
            raise _UnusableError(f"is damaged: it ends within {what}")
        digest.update(data)
        return data

    if read(len(_MAGIC), "its first word") != _MAGIC:
        raise _UnusableError("is damaged, or no file of a layer")
    length = int.from_bytes(read(4, "its header"), "little")
    if length > _LONGEST_HEADER:
        raise _UnusableError("is damaged: its header has an impossible length")
    try:
        found = json.loads(read(length, "its header"))
        shape, dtype = tuple(found.pop("shape")), np.dtype(found.pop("dtype"))
        n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _UnusableError("is damaged: its header cannot be read") from None
    if found.get("version") != header["version"]:
        raise _UnusableError(f"was written by another version ({found.get('version')}, not {header['version']})")
    if found.get("numpy") != header["numpy"]:
        raise _UnusableError(f"was written with NumPy {found.get('numpy')}, whose random numbers may differ")
    if found.get("rows") != header["rows"]:
        raise _UnusableError("was computed for other rows X")
    if found != json.loads(json.dumps(header)):
        raise _UnusableError("was computed with other parameters")
    if dtype.kind != "u" or len(shape) != 2 or min(shape) < 1:
        raise _UnusableError("is damaged: its header describes no codes")
    if os.fstat(file.fileno()).st_size != file.tell() + n_bytes + _DIGEST_BYTES:
        raise _UnusableError("is damaged: it has not the size its header says")
    codes = np.empty(shape, dtype.newbyteorder("="), order="F")
    for block in _row_blocks(codes):
        part = np.empty(codes[block].shape, dtype)
        if file.readinto(memoryview(part).cast("B")) != part.nbytes:
            raise _UnusableError("is damaged: it ends within the codes")
        digest.update(part)
        codes[block] = part
    if file.read() != digest.digest():
        raise _UnusableError("is damaged: its contents do not match its digest")
    return codes


def _pieces(codes, dtype):
    """The codes row after row, some rows at a time; in memory they stand in lines, one per clustering."""
    return (np.ascontiguousarray(codes[block], dtype) for block in _row_blocks(codes))


def _row_blocks(codes):
    return blocks(len(codes), max(1, _COPIED_BYTES // codes[:1].nbytes))
