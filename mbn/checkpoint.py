"""Finished layers on disk, so that a fit that was killed resumes after the last one.

One file per layer: a magic word, a header in JSON, the codes, and a digest of all these bytes. Its name is made of
digests of the rows and of the parameters. A file appears whole, by renaming, or not at all; an invalid one is never
used. No failure here stops a fit: a layer that cannot be read is computed, one that cannot be written is not kept, and
a warning gives the reason.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from scipy import sparse

from mbn.metrics import Matrix
from mbn.parallel import blocks
from mbn.rows import IDENTITY, Preparation, Rows

# To be raised whenever the codes of the same rows and parameters change
VERSION = 3
_MAGIC = b"mbn-layer\n"
# A header takes a few hundred bytes; a longer one than this is damaged
_LONGEST_HEADER = 1 << 16
# Codes written at once, in bytes, since they are copied from Fortran to C order
_COPIED_BYTES = 1 << 24
_DIGEST_BYTES = 32


class Checkpoint:
    """The finished layers of one fit.

    Parameters
    ----------
    memory : str, path, joblib.Memory or None
        The folder; of a joblib.Memory its location. With None no layer is kept.
    X : ndarray or CSR of shape (n_samples, n_features)
        The rows of the fit. The same values in another dtype or memory layout are the same rows.
    preparation : mbn.rows.Preparation, optional
        Of these rows. Where it shifts or scales them the prepared rows count, since float32 would round them before.
    depth : int, default=0
        Calls between the caller of fit and `load` or `save`, beyond those for a layer; for warnings.

    Raises
    ------
    ValueError
        If `memory` is of another type.

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

    def __init__(self, memory: Any, X: Matrix, preparation: Preparation = IDENTITY, depth: int = 0):
        location = getattr(memory, "location", None) if hasattr(memory, "cache") else memory
        if location is not None and not isinstance(location, (str, os.PathLike)):
            raise ValueError(f"memory={memory!r} must be the path of a folder, a joblib.Memory with one, or None")
        self.folder = None if location is None else Path(location) / "mbn-layers"
        self.rows = None if location is None else digest_of_rows(X, preparation)
        self.writes = self.folder is not None
        self.depth = depth

    def load(self, parameters: dict) -> np.ndarray | None:
        """Return the codes of a layer, or None if they have to be computed.

        Parameters
        ----------
        parameters : dict
            All that the codes depend on besides the rows.

        Returns
        -------
        ndarray of shape (n_samples, n_estimators), or None

        Warns
        -----
        UserWarning
            If the file cannot be used, or if files of the same parameters exist for other rows only.
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

        Parameters
        ----------
        parameters : dict
            As in `load`.
        codes : ndarray of shape (n_samples, n_estimators)

        Warns
        -----
        UserWarning
            If they cannot be written; further layers are not written then.
        """
        if not self.writes:
            return
        path = self._path(parameters)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write_whole(path, self._header(parameters), codes)
        except OSError as error:
            warnings.warn(
                f"memory={str(self.folder.parent)!r} cannot be written ({error}); the fit continues without keeping "
                "its layers.",
                stacklevel=6 + self.depth,  # the caller of fit
            )
            self.writes = False

    def _path(self, parameters: dict) -> Path:
        """Return the path of a layer's file."""
        return self.folder / f"{_digest_of(parameters)}-{self.rows}.layer"

    def _header(self, parameters: dict) -> dict:
        """Return the header of a layer's file, without the dtype and shape of the codes."""
        return {"version": VERSION, "numpy": np.__version__, "rows": self.rows, "parameters": parameters}

    def _mention_other_rows(self, parameters: dict) -> None:
        """Warn once in a fit if layers of the same parameters exist for other rows."""
        if parameters.get("layer") == 0 and any(self.folder.glob(f"{_digest_of(parameters)}-*.layer")):
            self._warn(parameters, "the cached layers were computed for a different X")

    def _warn(self, parameters: dict, reason: str) -> None:
        """Warn that a layer is computed again."""
        what = "the pilot" if "pilot" in parameters else f"layer {parameters.get('layer', 0) + 1}"
        warnings.warn(
            f"memory={str(self.folder.parent)!r}: {what} is computed again: {reason}.",
            stacklevel=7 + self.depth,  # the caller of fit
        )


class _UnusableError(Exception):
    """The reason why a file cannot be used."""


def digest_of_rows(X: Matrix, preparation: Preparation = IDENTITY) -> str:
    """Digest of the values of rows as float32, after a preparation that shifts or scales them."""
    digest = hashlib.blake2b(repr(X.shape).encode(), digest_size=16)
    if preparation.moves():
        preparation = dataclasses.replace(preparation, unit=False)
        for part in (preparation.keep, preparation.mean, preparation.factor):
            digest.update(repr(None if part is None else np.asarray(part).tolist()).encode())
        rows = Rows(X, preparation)
    else:
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


def _digest_of(parameters: dict) -> str:
    """Digest of parameters, for names of files."""
    return hashlib.blake2b(json.dumps(parameters, sort_keys=True).encode(), digest_size=12).hexdigest()


def _write_whole(path: Path, header: dict, codes: np.ndarray) -> None:
    """Write a file under a temporary name, and rename it."""
    dtype = codes.dtype.newbyteorder("<")
    head = json.dumps({**header, "dtype": dtype.str, "shape": codes.shape}, sort_keys=True).encode()
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".partial")
    try:
        with open(handle, "wb") as file:
            digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
            for part in chain((_MAGIC, len(head).to_bytes(4, "little"), head), code_blocks(codes, dtype)):
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
    for leftover in path.parent.glob(f"{path.stem}-*.partial"):  # of fits that were killed while they wrote
        with contextlib.suppress(OSError):
            leftover.unlink()


def _read(file: BinaryIO, header: dict) -> np.ndarray:
    """Read the codes of a file and check all of it."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    shape, dtype, n_bytes = _read_header(file, header, digest)
    if os.fstat(file.fileno()).st_size != file.tell() + n_bytes + _DIGEST_BYTES:
        raise _UnusableError("is damaged: its size is not the one in its header")
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


def _read_header(file: BinaryIO, header: dict, digest: Any) -> tuple[tuple[int, int], np.dtype, int]:
    """Read and check all before the codes, update the digest, and return the codes' shape, dtype and size in bytes."""

    def read(n_bytes: int, where: str) -> bytes:
        data = file.read(n_bytes)
        if len(data) != n_bytes:
            raise _UnusableError(f"is damaged: it ends within {where}")
        digest.update(data)
        return data

    if read(len(_MAGIC), "its first word") != _MAGIC:
        raise _UnusableError("is damaged, or not the file of a layer")
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
        raise _UnusableError("was computed for a different X")
    if found != json.loads(json.dumps(header)):
        raise _UnusableError("was computed with other parameters")
    if dtype.kind != "u" or len(shape) != 2 or min(shape) < 1:
        raise _UnusableError("is damaged: its header does not describe codes")
    return shape, dtype, n_bytes


def code_blocks(codes: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    """Copy codes to C order, in which they are written, a block of rows at a time."""
    return (np.ascontiguousarray(codes[block], dtype) for block in _row_blocks(codes))


def _row_blocks(codes: np.ndarray) -> list[slice]:
    """Return blocks of rows that are copied at once."""
    return blocks(len(codes), max(1, _COPIED_BYTES // codes[:1].nbytes))
