"""Student files in open files, under all kinds of paths, and where a path cannot be replaced."""

import errno
import gzip
import io
import mmap
import os
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile

import fsspec
import numpy as np
import pytest
from fresh_process import environment
from some_students import labelled, make_rows

from distill.codecs import container, files
from distill.codecs.container import StudentFileError
from distill.runtime import load

DATA = container.encode(labelled((4, 8, 3)))
ROWS = make_rows(5, 4)
posix = pytest.mark.skipif(os.name != "posix", reason="named pipes, modes and links")


@pytest.fixture(scope="module")
def expected():
    return load(DATA).raw_outputs(ROWS)


def check(source, expected):
    np.testing.assert_array_equal(load(source).raw_outputs(ROWS), expected)


class OwnPath:
    """A path of another library than pathlib."""

    def __init__(self, path, as_bytes=False):
        self.path = os.fsencode(path) if as_bytes else str(path)

    def __fspath__(self):
        return self.path


# open files


def test_memory_and_other_open_files(expected, tmp_path):
    memory = io.BytesIO()
    container.save(DATA, memory)
    assert memory.getvalue() == DATA
    memory.seek(0)
    check(memory, expected)
    assert not memory.closed
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        container.save(DATA, file)
    with gzip.open(tmp_path / "a.gz") as file:
        check(file, expected)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("a.student", "w") as member:
        container.save(DATA, member)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        with archive.open("a.student") as member:
            check(member, expected)
        check(zipfile.Path(archive, "a.student"), expected)
    with fsspec.open("memory://a.student", "wb") as file:
        container.save(DATA, file)
    with fsspec.open("memory://a.student", "rb") as file:
        check(file, expected)
    # Not opened yet, compressed as well: they are closed, or bytes would be lost
    for path, more in (("memory://b.student", {}), (str(tmp_path / "c.gz"), {"compression": "gzip"})):
        container.save(DATA, fsspec.open(path, "wb", **more))
        check(fsspec.open(path, "rb", **more), expected)
        check(fsspec.open(path, **more), expected)
    with tempfile.TemporaryFile() as file:
        container.save(DATA, file)
        file.seek(0)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            check(mapped, expected)
    with open(tmp_path / "raw", "wb", buffering=0) as file:
        container.save(DATA, file)
    with open(tmp_path / "raw", "rb", buffering=0) as file:
        check(file, expected)
    check(np.frombuffer(DATA, np.uint8), expected)


def test_files_that_take_a_few_bytes_at_a_time():
    class Slow:
        def __init__(self):
            self.taken = b""

        def write(self, data):
            self.taken += bytes(data[:7])
            return len(data[:7])

    class Silent(Slow):
        def write(self, data):
            self.taken += bytes(data)

    for file in (Slow(), Silent()):
        container.save(DATA, file)
        assert file.taken == DATA


def test_files_start_at_their_position(expected):
    file = io.BytesIO(b"header" + DATA)
    file.seek(6)
    check(file, expected)
    with pytest.raises(StudentFileError, match=r"no bytes left.*seek\(0\)"):
        load(file)


def test_wrong_sources_and_targets_are_named(tmp_path):
    (tmp_path / "text").write_text("text")
    with open(tmp_path / "text") as file, pytest.raises(TypeError, match="opened as text; open it with mode 'rb'"):
        load(file)
    with open(tmp_path / "text", "w") as file, pytest.raises(TypeError, match="open it with mode 'wb'"):
        container.save(DATA, file)
    # They must not be opened, which would empty one
    for mode in ("wb", "w", "rt"):
        with pytest.raises(TypeError, match=f"mode '{mode}'; give mode 'rb'"):
            load(fsspec.open(str(tmp_path / "text"), mode))
    for mode in ("rb", "r", "wt"):
        with pytest.raises(TypeError, match=f"mode '{mode}'; give mode 'wb'"):
            container.save(DATA, fsspec.open(str(tmp_path / "text"), mode))
    assert (tmp_path / "text").read_text() == ""
    with tarfile.open(tmp_path / "a.tar", "w") as archive, pytest.raises(TypeError, match="must be a path"):
        container.save(DATA, archive)
    for wrong in (1, None, 2.5, ["a"]):
        with pytest.raises(TypeError, match="must be a path, an open binary file or the bytes"):
            load(wrong)
        with pytest.raises(TypeError, match="must be a path or an open binary file"):
            container.save(DATA, wrong)


# paths


@pytest.mark.parametrize("make", [str, os.fspath, os.fsencode, OwnPath, lambda path: OwnPath(path, as_bytes=True)])
def test_paths_of_all_kinds(make, tmp_path, expected):
    path = make(tmp_path / "größe.student")
    container.save(DATA, path)
    assert os.listdir(tmp_path) == ["größe.student"]
    if not isinstance(path, bytes):  # these are the contents of a file
        check(path, expected)


def test_names_of_the_greatest_length(tmp_path, expected):
    path = tmp_path / ("x" * 255)
    container.save(DATA, path)
    container.save(DATA, path)
    assert os.listdir(tmp_path) == [path.name]
    check(path, expected)


def test_missing_folder_is_named(tmp_path):
    folder = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match=r"no such folder; create it first") as caught:
        container.save(DATA, folder / "a.student")
    assert caught.value.filename == str(folder)
    assert "part" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"fsspec.open\('s3://bucket/a.student', 'wb'\)"):
        container.save(DATA, "s3://bucket/a.student")


def test_paths_that_are_no_file_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the path is empty; give the name of a file"):
        container.save(DATA, "")
    with pytest.raises(IsADirectoryError, match="give the name of a file in it"):
        container.save(DATA, f"{tmp_path / 'new'}{os.sep}")
    with pytest.raises(FileNotFoundError, match=r"fsspec.open\('memory://missing', 'rb'\)"):
        load("memory://missing")
    assert os.listdir(tmp_path) == []


@posix
def test_names_that_no_file_can_have_are_errors(tmp_path, monkeypatch):
    for name in ("a" * 256, "ä" * 128, os.path.join("a", *["b" * 200] * 30)):
        with pytest.raises(OSError, match="name too long") as caught:
            container.save(DATA, tmp_path / name)
        assert ".part" not in str(caught.value)
    os.symlink(tmp_path / "loop", tmp_path / "loop")
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        container.save(DATA, tmp_path / "loop")
    assert os.path.islink(tmp_path / "loop")

    def busy(source, target):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), source, None, target)

    monkeypatch.setattr(os, "replace", busy)
    with pytest.raises(OSError, match=r"the file cannot be replaced: .*busy: '.*a.student'") as caught:
        container.save(DATA, tmp_path / "a.student")
    assert ".part" not in str(caught.value)
    assert os.listdir(tmp_path) == ["loop"]


def test_other_places_that_take_no_file_are_named(tmp_path):
    with pytest.raises(IsADirectoryError, match="give the name of a file in it"):
        container.save(DATA, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="no file can be created in this folder") as caught:
        container.save(DATA, tmp_path / "file" / "a.student")
    assert caught.value.filename == str(tmp_path / "file")


@posix
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EIO])
def test_folder_that_cannot_be_synchronized_is_no_error(number, tmp_path, monkeypatch, expected):
    synchronize = os.fsync

    def only_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "no")
        synchronize(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    container.save(DATA, tmp_path / "a.student")
    check(tmp_path / "a.student", expected)


@posix
def test_folder_that_cannot_be_read_and_file_system_without_synchronization(tmp_path, monkeypatch, expected):
    def no_folders(path, flags, *more):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    def unknown(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "open", no_folders)
    monkeypatch.setattr(os, "fsync", unknown)
    container.save(DATA, tmp_path / "a.student")
    check(tmp_path / "a.student", expected)


@posix
def test_permissions_of_the_old_file_stay(tmp_path):
    path = tmp_path / "a.student"
    for mode in (0o600, 0o664, 0o444):
        path.unlink(missing_ok=True)
        path.write_bytes(b"old")
        path.chmod(mode)
        container.save(DATA, path)
        assert path.stat().st_mode & 0o777 == mode
        assert path.read_bytes() == DATA


@posix
def test_link_to_a_missing_file_and_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    container.save(DATA, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == DATA
    (tmp_path / "far").symlink_to(tmp_path / "nowhere" / "target")
    with pytest.raises(FileNotFoundError, match="create it first"):
        container.save(DATA, tmp_path / "far")


# what is written to, not replaced


@posix
def test_named_pipe(tmp_path, expected):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        writer = threading.Thread(target=container.save, args=(DATA, path))
        writer.start()
        check(path, expected)
        writer.join()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


@posix
def test_device():
    before = os.stat(os.devnull)
    container.save(DATA, os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert os.stat(os.devnull).st_ino == before.st_ino


@posix
def test_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen()
        container.save(DATA, "socket")
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as file:
            assert file.read() == DATA
    assert stat.S_ISSOCK(os.stat("socket").st_mode)


@posix
@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1"])
def test_standard_output_as_a_path(path, tmp_path):
    """As a pipe, and as a file in which something else stands already."""
    save = f"container.save({DATA!r}, {path!r})"
    code = f"import os; from distill.codecs import container; os.write(1, b'before'); {save}; os.write(1, b'after')"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=environment()) == b"before" + DATA + b"after"
    with open(tmp_path / "out", "wb") as file:
        subprocess.run(command, env=environment(), stdout=file, check=True)
    assert (tmp_path / "out").read_bytes() == b"before" + DATA + b"after"


def test_a_file_that_takes_nothing_is_an_error():
    class Full:
        def write(self, data):
            return 0

    with pytest.raises(OSError, match="takes no more bytes"):
        files.write_bytes(DATA, Full())
