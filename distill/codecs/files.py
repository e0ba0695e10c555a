"""Read and write whole files: paths, open files, and members of archives.

>>> import io
>>> file = io.BytesIO()
>>> write_bytes(b"content", file)
>>> read_bytes(io.BytesIO(file.getvalue()))
b'content'
"""

import errno
import os
import socket
import stat
from typing import Any

from distill.codecs.reader import StudentFileError

# Answers of a file system that has no fsync; any other one means that bytes may be lost
_NO_FSYNC = {getattr(errno, name) for name in ("EINVAL", "ENOSYS", "ENOTSUP", "EOPNOTSUPP") if hasattr(errno, name)}
# Paths to which no file can be written, whether or not there is one: a name too long, a link that leads to itself
_NEVER = {errno.ENAMETOOLONG, errno.ELOOP}
# Ends of paths that are folders, which is lost in os.path.realpath
_ENDS_OF_FOLDERS = tuple({os.sep, os.altsep or os.sep})
# Characters of the name that the name of the temporary file repeats: a name may have 255 bytes in all
_REPEATED = 40
# Symbolic links that are followed, as in Linux
_MOST_LINKS = 40


def read_bytes(source: Any) -> Any:
    """Return the bytes of a file.

    Parameters
    ----------
    source : str, path, open binary file or bytes-like
        Anything with a method `read` is read from its present position to its end and stays open. Paths are str,
        `os.PathLike`, and objects with a method `read_bytes`, such as members of a zip file. What a `with` statement
        opens, as `fsspec.open` returns it, is opened and closed.

    Returns
    -------
    bytes-like

    Raises
    ------
    TypeError
        If the source is none of these, or a file opened as text.
    StudentFileError
        If an open file has no bytes left.
    OSError
        If a file cannot be read.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return source
    if hasattr(source, "read"):
        data = source.read()
        if isinstance(data, str):
            raise TypeError(f"{source!r} is opened as text; open it with mode 'rb'")
        if not data:
            raise StudentFileError(f"{source!r} has no bytes left to read; if it was just written, seek(0) goes back")
        return data
    if _opens(source, "rb"):
        with source as file:
            return read_bytes(file)
    # An int is not a path here, though open would take it for the number of an open file, and close that
    if isinstance(source, str | os.PathLike):
        try:
            with open(source, "rb") as file:
                return file.read()
        except FileNotFoundError as error:
            path = os.fsdecode(source)
            if "://" not in path:
                raise
            advice = f"there is no such file; of a URL give the open file, such as fsspec.open({path!r}, 'rb')"
            raise FileNotFoundError(error.errno, advice, path) from None
    if hasattr(source, "read_bytes"):
        return source.read_bytes()
    try:
        return memoryview(source).tobytes()
    except TypeError:
        raise TypeError(
            f"the source must be a path, an open binary file or the bytes of a student file, got {source!r}"
        ) from None


def write_bytes(data: bytes, target: Any) -> None:
    """Write bytes to a file: a path atomically, an open file from its present position.

    Parameters
    ----------
    data : bytes
    target : str, path or open binary file
        A path holds either the old or the new bytes at any time, and keeps the permissions of the old file. If the
        process is killed while writing, the old file is unchanged, and a file whose name begins with a dot and ends
        with ".part" may exist beside it. A named pipe, a socket, a device or an open file such as /dev/stdout is
        written to, not replaced. Anything with a method `write` is written to and stays open; what a `with` statement
        opens, as `fsspec.open` returns it, is opened and closed.

    Raises
    ------
    TypeError
        If the target is none of these, or a file opened as text.
    OSError
        If the file cannot be written.
    """
    if hasattr(target, "write"):
        _write_all(target, data)
    elif _opens(target, "wb"):
        with target as file:
            write_bytes(data, file)
    elif isinstance(target, str | bytes | os.PathLike):
        _write_path(data, os.fsdecode(target))
    elif hasattr(target, "write_bytes"):
        target.write_bytes(data)
    else:
        raise TypeError(f"the target must be a path or an open binary file, got {target!r}")


def _opens(file: Any, mode: str) -> bool:
    """Return whether a `with` statement opens a file, as of fsspec; TypeError if not for reading or writing bytes.

    The mode is checked before the file is opened: one that is opened for writing is emptied.
    """
    if isinstance(file, str | bytes | os.PathLike) or not (hasattr(file, "open") and hasattr(file, "__enter__")):
        return False
    if hasattr(file, "read") or hasattr(file, "write") or hasattr(file, "__iter__"):  # files, and archives of many
        return False
    found = getattr(file, "mode", mode)
    if isinstance(found, str) and (not set(found) & set(mode.replace("w", "wxa").replace("b", "")) or "t" in found):
        raise TypeError(f"{file!r} opens a file with mode {found!r}; give mode {mode!r}")
    return True


def _write_all(file: Any, data: bytes) -> None:
    """Write to an open file; one without a buffer may take the bytes in several parts."""
    rest = memoryview(data)
    while len(rest):
        try:
            written = file.write(rest)
        except TypeError as error:
            raise TypeError(f"{file!r} does not take bytes ({error}); open it with mode 'wb'") from error
        if isinstance(written, int) and written == 0:
            raise OSError(errno.EIO, "the file takes no more bytes", str(file))
        rest = rest[written:] if isinstance(written, int) else rest[:0]  # None: all of them


def _write_path(data: bytes, path: str) -> None:
    """Write to a path, atomically where it is a regular file or none yet."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, "the path is empty; give the name of a file", path)
    descriptor = _descriptor(path)
    if descriptor is not None:
        with open(os.dup(descriptor), "wb") as file:
            file.write(data)
        return
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        # A link that leads to itself would be replaced by a file, and a name may be too long for its file but not for
        # the temporary one
        if error.errno in _NEVER:
            raise
        mode = None  # there is none yet, or the folder is missing, which is said below
    if (mode is not None and stat.S_ISDIR(mode)) or path.endswith(_ENDS_OF_FOLDERS):
        raise IsADirectoryError(errno.EISDIR, "this is a folder; give the name of a file in it", path)
    if mode is not None and stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(data)
    elif mode is not None and not stat.S_ISREG(mode):
        with open(path, "wb") as file:
            file.write(data)
    else:
        _replace(data, path, mode)


def _replace(data: bytes, path: str, mode: int | None) -> None:
    """Write a regular file under another name in the same folder, then rename it."""
    # A symbolic link stays; the file that it points to is replaced
    folder, name = os.path.split(os.path.realpath(path))
    temporary = os.path.join(folder, f".{name[:_REPEATED]}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with _created(temporary, folder, path) as file:
            file.write(data)
            file.flush()
            _synchronize(file.fileno())
        if mode is not None and os.name == "posix":
            os.chmod(temporary, stat.S_IMODE(mode))
        try:
            os.replace(temporary, os.path.join(folder, name))
        except OSError as error:  # it names the temporary file
            raise type(error)(error.errno, f"the file cannot be replaced: {error.strerror}", path) from None
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    # The rename is durable only after its folder has been synchronized. Some file systems cannot do that, and some
    # folders may be written but not read: the file is there and complete, so that this is no error
    if os.name == "posix":
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError:
            return
        try:
            os.fsync(descriptor)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _created(temporary: str, folder: str, path: str) -> Any:
    """Return the new temporary file, opened; an error names the folder and not this file."""
    try:
        return open(temporary, "xb")
    except FileNotFoundError:
        advice = "there is no such folder; create it first, as with os.makedirs"
        if "://" in path:
            advice += f"; of a URL give the open file, such as fsspec.open({path!r}, 'wb')"
        raise FileNotFoundError(errno.ENOENT, advice, folder) from None
    except OSError as error:
        raise OSError(error.errno, f"no file can be created in this folder: {error.strerror}", folder) from error


def _synchronize(descriptor: int) -> None:
    """Wait until a file is on the disk, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise


def _descriptor(path: str) -> int | None:
    """Return the number of the open file that a path such as /dev/stdout or /dev/fd/3 stands for, or None."""
    if os.name != "posix":
        return None
    own = os.path.realpath("/dev/fd")  # in Linux a link to the folder of this process in /proc
    for _ in range(_MOST_LINKS):
        folder, name = os.path.split(path)
        if name.isdigit() and os.path.realpath(folder) == own:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))
    return None
