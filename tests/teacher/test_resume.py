"""Fits that are killed or interrupted, or whose cache cannot be used."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits

from mbn import MultilayerBootstrapNetwork, checkpoint, layers

DIGITS = load_digits().data.astype(np.float32)[:600]


def a_network(memory=None, **settings):
    return MultilayerBootstrapNetwork(n_estimators=20, memory=memory, **{"random_state": 0, **settings})


Z = a_network().fit_transform(DIGITS)


def layers_computed(monkeypatch):
    """A list that grows with every layer that is computed and not read from a file."""
    computed = []
    for name in ("assign_bottom", "assign_upper"):
        function = getattr(layers, name)
        monkeypatch.setattr(layers, name, lambda *args, f=function: (computed.append(f), f(*args))[1])
    return computed


def files(folder):
    return sorted(folder.rglob("*.layer"), key=os.path.getmtime)


KILLED = """
import os, signal, sys
import numpy as np
from sklearn.datasets import load_digits
from mbn import MultilayerBootstrapNetwork, checkpoint
calls = []
def deadly(function, when):
    def wrapped(*args):
        calls.append(when)
        if when == moment and calls.count(when) == int(count):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return wrapped
os.replace = deadly(os.replace, "written, not yet renamed")
checkpoint.code_blocks = deadly(checkpoint.code_blocks, "header known, nothing written")
checkpoint.Checkpoint.load = deadly(checkpoint.Checkpoint.load, "between layers")
X = load_digits().data.astype(np.float32)[:600]
for folder, moment, count in zip(*[iter(sys.argv[1:])] * 3):
    fitting = os.fork()
    if not fitting:
        MultilayerBootstrapNetwork(n_estimators=20, memory=folder, random_state=0).fit(X)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(fitting, 0)[1]))
"""
MOMENTS = [("between layers", 4, 3), ("written, not yet renamed", 2, 1), ("header known, nothing written", 3, 2)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of fits that were killed, by the moment; forked from one process, which loads the libraries once."""
    folders = {moment: tmp_path_factory.mktemp("killed") for moment, *_ in MOMENTS}
    arguments = [str(part) for moment, count, _ in MOMENTS for part in (folders[moment], moment, count)]
    printed = subprocess.check_output([sys.executable, "-c", KILLED, *arguments], text=True)
    assert printed.split() == [str(-signal.SIGKILL)] * len(MOMENTS)
    return folders


@pytest.mark.parametrize("moment, count, finished", MOMENTS)
def test_killed_fit_resumes_with_the_same_result(killed, monkeypatch, moment, count, finished):
    folder = killed[moment]
    assert len(files(folder)) == finished
    computed = layers_computed(monkeypatch)
    model = a_network(folder)
    assert_array_equal(model.fit_transform(DIGITS), Z)
    assert len(computed) == len(model.k_) - finished
    assert not list(folder.rglob("*.partial"))
    assert_array_equal(clone(model).fit(DIGITS).transform(DIGITS), Z)


def test_layers_are_found_for_other_forms_of_the_same_rows(tmp_path, monkeypatch):
    a_network(tmp_path).fit(DIGITS)
    computed = layers_computed(monkeypatch)
    for X in (DIGITS.astype(float), np.asfortranarray(DIGITS), DIGITS.astype(np.uint8)):
        a_network(joblib.Memory(tmp_path, verbose=0)).fit(X)
        assert not computed
    a_network(str(tmp_path), n_components=3, output="codes", n_jobs=2).fit(
        DIGITS
    )  # parameters that do not change the layers
    assert not computed
    longer = a_network(tmp_path, k=[*a_network().fit(DIGITS).k_, 10])
    del computed[:]
    longer.fit(DIGITS)  # the layers below are those of the shorter schedule
    assert len(computed) == 1


def test_fit_on_sparse_rows_resumes(tmp_path):
    X = sparse.csr_matrix(DIGITS)
    expected = a_network(tmp_path).fit_transform(X)
    files(tmp_path)[-1].unlink()
    assert_array_equal(a_network(tmp_path).fit_transform(X), expected)


def test_other_parameters_give_other_layers(tmp_path):
    a_network(tmp_path).fit(DIGITS)
    other = dict(max_features=0.7), dict(metric="cosine"), dict(random_state=1), dict(max_samples=500), dict(k=[200])
    for settings in other:
        assert_array_equal(
            a_network(tmp_path, **settings).fit_transform(DIGITS), a_network(**settings).fit_transform(DIGITS)
        )


def other_version(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(f'"version": {checkpoint.VERSION}'.encode(), b'"version": 0'))


def other_numpy(path):
    data = path.read_bytes()
    now = np.__version__.encode()
    path.write_bytes(data.replace(b'"numpy": "' + now, b'"numpy": "' + b"0" * len(now)))


def one_bit(path):
    data = bytearray(path.read_bytes())
    data[-200] ^= 4
    path.write_bytes(data)


def a_folder(path):
    path.unlink()
    path.mkdir()


def exchanged(path):
    other = files(path.parent)[2]
    shutil.copy(other, path)


@pytest.mark.parametrize(
    "spoil, why",
    [
        (other_version, "another version"),
        (other_numpy, "random numbers may differ"),
        (one_bit, "do not match its digest"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "its size is not"),
        (lambda path: path.write_bytes(path.read_bytes() + b"!"), "its size is not"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "ends within its header"),
        (lambda path: path.write_bytes(b""), "ends within its first word"),
        (lambda path: path.write_bytes(b"\x80\x04 what is this"), "not the file of a layer"),
        (lambda path: path.write_bytes(b"mbn-layer\n\x04\x00\x00\x00null"), "cannot be read"),
        (lambda path: path.write_bytes(b"mbn-layer\n\xff\xff\xff\xff"), "impossible length"),
        (exchanged, "other parameters"),
        (a_folder, "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore:memory=.*cannot be written")
def test_damaged_layers_are_computed_again(tmp_path, monkeypatch, spoil, why):
    a_network(tmp_path).fit(DIGITS)
    spoil(files(tmp_path)[1])
    computed = layers_computed(monkeypatch)
    with pytest.warns(UserWarning, match=f"layer 2 is computed again: .*{why}"):
        assert_array_equal(a_network(tmp_path).fit_transform(DIGITS), Z)
    assert len(computed) == 1
    if spoil is not a_folder:
        with warnings.catch_warnings(action="error"):  # the file was replaced by a valid one
            a_network(tmp_path).fit(DIGITS)


def test_layers_of_other_rows_are_not_used(tmp_path):
    a_network(tmp_path).fit(DIGITS[::-1])
    with pytest.warns(
        UserWarning, match="layer 1 is computed again: .*the cached layers were computed for a different X"
    ):
        assert_array_equal(a_network(tmp_path).fit_transform(DIGITS), Z)
    renamed = files(tmp_path)[0]
    shutil.copy(renamed, files(tmp_path)[-1].parent / "0.layer")  # a name that is never used
    with warnings.catch_warnings(action="error"):
        assert_array_equal(a_network(tmp_path).fit_transform(DIGITS), Z)


def test_any_damage_is_detected(tmp_path):
    """Files cut or changed anywhere are never taken for a layer."""
    kept = checkpoint.Checkpoint(tmp_path, np.eye(3))
    codes = np.arange(12, dtype=np.uint16).reshape(4, 3)
    kept.save({"layer": 1}, codes)
    (path,) = files(tmp_path)
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(len(sound)):
        path.write_bytes(sound[:place])
        with pytest.warns(UserWarning, match="computed again"):
            assert kept.load({"layer": 1}) is None
        changed = bytearray(sound)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with pytest.warns(UserWarning, match="computed again"):
            assert kept.load({"layer": 1}) is None
    path.write_bytes(sound)
    assert_array_equal(kept.load({"layer": 1}), codes)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="cannot be written .*continues without"):
        assert_array_equal(a_network(tmp_path / "file").fit_transform(DIGITS), Z)


def test_full_disk(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # every write past 5000 bytes fails
        with pytest.warns(UserWarning, match="cannot be written .*continues without") as warned:
            assert_array_equal(a_network(tmp_path).fit_transform(DIGITS), Z)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(warned) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_is_kept_without_random_state(tmp_path):
    with pytest.warns(UserWarning, match="keeps nothing without a random_state"):
        a_network(tmp_path, random_state=None).fit(DIGITS)
    assert not files(tmp_path)


def test_memory_of_wrong_type_raises():
    with pytest.raises(ValueError, match="memory=3 must be"):
        a_network(3).fit(DIGITS)


@pytest.fixture
def interrupts():
    """Ctrl-C raises KeyboardInterrupt, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_interrupted_fit_leaves_the_estimator_unchanged(tmp_path, monkeypatch, n_jobs):
    fresh, fitted = a_network(tmp_path, n_jobs=n_jobs), a_network(n_jobs=n_jobs).fit(DIGITS)
    assign, calls = layers.assign_upper, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return assign(*args)

    monkeypatch.setattr(layers, "assign_upper", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(DIGITS)
    assert vars(fresh) == vars(a_network(tmp_path, n_jobs=n_jobs))
    assert len(files(tmp_path)) == 2
    assert not list(tmp_path.rglob("*.partial"))
    del calls[:]
    with pytest.raises(KeyboardInterrupt):
        fitted.fit(DIGITS[::2, :30])
    assert_array_equal(fitted.transform(DIGITS), Z)
    assert_array_equal(fresh.fit_transform(DIGITS), Z)


def test_interrupt_while_a_layer_is_written(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        a_network(tmp_path).fit(DIGITS)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
