"""Tasks that fail, and workers that are lost or never return a result."""

import threading
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from joblib import parallel_config, register_parallel_backend
from joblib._parallel_backends import ThreadingBackend
from scipy import sparse

from mbn import parallel
from mbn.parallel import blocks, run


class Unreliable(ThreadingBackend):
    """A backend that loses the first `losses` tasks: with an error, or silently."""

    supports_sharedmem = False
    losses = 0
    silent = False

    def submit(self, func, callback=None):
        return None if self.loses() else super().submit(func, callback)

    def apply_async(self, func, callback=None):  # the same before joblib 1.5
        return None if self.loses() else super().apply_async(func, callback)

    def loses(self):
        if not Unreliable.losses:
            return False
        Unreliable.losses -= 1
        if not Unreliable.silent:
            raise ConnectionError("the worker is gone")
        return True


register_parallel_backend("unreliable", Unreliable)


@pytest.fixture
def unreliable(monkeypatch):
    monkeypatch.setattr(parallel, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(Unreliable, "silent", False)
    with parallel_config(backend="unreliable", n_jobs=2):
        yield Unreliable


def double(offset, number):
    return 2 * number + offset


def doubled(**settings):
    return list(run(double, (1,), range(20), lambda number: (number,), **settings))


EXPECTED = [(number, 2 * number + 1) for number in range(20)]


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
def test_results_are_in_order(n_jobs):
    assert doubled(n_jobs=n_jobs) == EXPECTED


def test_tasks_of_lost_workers_are_run_again(unreliable):
    unreliable.losses = 2
    with pytest.warns(UserWarning, match="Workers were lost .*the worker is gone.* tasks are run again") as warned:
        assert doubled() == EXPECTED
    assert len(warned) == 2


def test_backend_without_workers_counts_as_one(unreliable, monkeypatch):
    monkeypatch.setattr(Unreliable, "effective_n_jobs", lambda self, n_jobs: 0)
    assert parallel.n_workers(None) == 1

    def wait_in_vain(self, n_jobs):
        raise TimeoutError("no worker after 10 seconds")

    monkeypatch.setattr(Unreliable, "effective_n_jobs", wait_in_vain)
    assert parallel.n_workers(None) == 1


def test_tasks_without_result_are_run_again(unreliable, monkeypatch):
    monkeypatch.setattr(parallel, "PATIENCE_SECONDS", 0.1)
    unreliable.losses, unreliable.silent = 3, True
    with pytest.warns(UserWarning, match="No result for .* 20 of 20 tasks are run again"):
        assert doubled() == EXPECTED


def test_error_of_backend_is_raised_with_a_hint_after_all_attempts(unreliable):
    unreliable.losses = 1000
    with warnings.catch_warnings(action="ignore"), pytest.raises(ConnectionError, match="is gone") as raised:
        doubled()
    unreliable.losses = 0
    assert "20 of 20 tasks have no result" in raised.value.__notes__[0]
    assert "working_memory" in raised.value.__notes__[0]


def fail(number):
    raise ValueError(f"no {number}")


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_error_of_task_is_raised_at_once(n_jobs):
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match="no 0"):
        list(run(fail, (), range(4), lambda number: (number,), n_jobs=n_jobs))


@dataclass(frozen=True)
class Nested:
    array: np.ndarray
    number: float


def describe(shared, number):
    nested, csr = shared["nested"], shared["csr"]
    arrays = nested[0], csr.data, nested[2].array, number
    total = nested[0].sum() + nested[1] + nested[2].array.sum() + nested[2].number + csr.sum() + number.sum()
    return total, any(array.flags.writeable for array in arrays), type(csr)


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_nested_arguments_are_complete_and_read_only(backend):
    csr = sparse.csr_matrix(np.eye(6))
    shared = {"nested": [np.ones(400_000), 2.0, Nested(np.ones(300_000), 1.0)], "csr": csr}
    for n_jobs in (1, 2):
        with parallel_config(backend=backend, n_jobs=n_jobs):
            results = list(run(describe, (shared,), range(3), lambda number: (np.full(4, number),)))
        assert [result for _, result in results] == [(700_009 + 4 * number, False, type(csr)) for number in range(3)]
    assert shared["nested"][0].flags.writeable
    assert csr.data.flags.writeable


def wait(seen, number):
    if number > 0:
        seen.wait()
    return number


def test_few_tasks_are_prepared_ahead():
    seen, taken, results = threading.Event(), [], []
    for key, _ in run(wait, (seen,), range(50), lambda number: (taken.append(number), number)[1:], n_jobs=2):
        if key == 0:
            assert len(taken) < 20
            seen.set()
        results.append(key)
    assert results == list(range(50))


def test_blocks():
    assert blocks(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]
    assert blocks(0, 4) == []
