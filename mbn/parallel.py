"""Run pure tasks on several workers: threads, processes or machines, according to joblib's backend.

Tasks depend on their arguments only, so that each may run anywhere, in any order, and a second time if its worker is
lost.
"""

import dataclasses
import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from scipy import sparse
from threadpoolctl import threadpool_limits

# Attempts to run the remaining tasks when workers are lost; any result in between resets the count. The pauses
# between them, each three times as long as the one before, give the backend time to notice the loss and to start other
# workers (6.5 s in all).
_ATTEMPTS = 4
PAUSE_SECONDS = 0.5
# Timeout without a result, in seconds, on backends without shared memory, some of which wait forever for a task on its
# way to a worker that died. Tasks take some ten seconds at most; each further timeout is twice as long.
PATIENCE_SECONDS = 60
# Arrays of a task that together have fewer bytes are sent within it: a separate argument costs a message.
LARGE_BYTES = 1 << 18


def run(
    function: Callable,
    shared: Sequence,
    keys: Sequence,
    take: Callable[[Any], Sequence],
    *,
    n_jobs: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield ``key, function(*shared, *take(key))`` for every key, in their order.

    Workers are threads unless the caller has set a joblib backend, in which case ``n_jobs=None`` means its workers.
    The kernels release the interpreter lock, and the linear algebra library gets ``cores // workers`` threads
    meanwhile.

    Parameters
    ----------
    function : callable
        A pure function of a module.
    shared : sequence
        Arguments of every task: arrays, sparse matrices, scalars, and lists, tuples, dicts and dataclasses of them.
        Each array is one object for the backend, which sends it to a worker once.
    keys : sequence
        One for each task.
    take : callable
        Returns the arguments of the task of a key. Called when the task is submitted, so that only a few tasks' rows
        are in memory at a time. An array that is shared, or was an argument of the task before, is not sent again.
    n_jobs : int, optional
        Number of workers, as in joblib.

    Yields
    ------
    key : object
    result : object

    Raises
    ------
    Exception
        The exception of a task; or that of the backend, if workers are lost four times without any result.

    Warns
    -----
    UserWarning
        If workers were lost and their tasks are run again.

    Examples
    --------
    >>> from mbn.parallel import blocks, run
    >>> rows = list(range(10))
    >>> [total for _, total in run(pow, (2,), blocks(10, 4), lambda block: rows[block][:1], n_jobs=2)]
    [1, 16, 256]
    """
    keys = list(keys)
    backend, n_active = get_active_backend(prefer="threads")
    n_requested = n_jobs if n_jobs is not None else n_active if n_active is not None else backend.default_n_jobs
    if len(keys) < 2 or n_requested == 1:
        shared = read_only(shared)
        for key in keys:
            yield key, function(*shared, *read_only(take(key)))
        return
    n_threads = max(1, cpu_count() // min(n_workers(n_jobs), len(keys)))
    patience = None if getattr(backend, "supports_sharedmem", False) else PATIENCE_SECONDS
    arrays: list[np.ndarray] = []
    form = _take_apart(shared, arrays, 0)
    views = _Views(arrays)
    n_done = n_failures = 0
    with threadpool_limits(n_threads, user_api="blas"):
        while n_done < len(keys):
            rest = keys[n_done:]
            tasks = (_task(n_threads, function, form, views, take(key)) for key in rest)
            try:
                with closing(_results(tasks, n_jobs, patience)) as results:
                    for result, error in results:
                        if error is not None:
                            raise _TaskError(error)
                        yield keys[n_done], result
                        n_done += 1
                        n_failures = 0
            except _TaskError as failed:
                raise failed.error from None
            except multiprocessing.TimeoutError:
                warnings.warn(
                    f"No result for {patience:.0f} s; {len(keys) - n_done} of {len(keys)} tasks are run again. "
                    "The result does not change.",
                    stacklevel=2,
                )
                patience *= 2
            except Exception as error:
                n_failures += 1
                if n_failures == _ATTEMPTS:
                    error.add_note(
                        f"Workers were lost {_ATTEMPTS} times; {len(rest)} of {len(keys)} tasks have no result. "
                        "If their memory is too small: smaller blocks of rows need less "
                        "(sklearn.set_config(working_memory=...), in MiB), so do fewer threads per worker, max_samples "
                        "and n_estimators."
                    )
                    raise
                warnings.warn(
                    f"Workers were lost ({type(error).__name__}: {error}); {len(keys) - n_done} of {len(keys)} tasks "
                    "are run again. The result does not change.",
                    stacklevel=2,
                )
                time.sleep(PAUSE_SECONDS * 3 ** (n_failures - 1))


def blocks(n_rows: int, size: int) -> list[slice]:
    """Cut ``range(n_rows)`` into consecutive slices of at most `size` rows."""
    return [slice(first, min(first + size, n_rows)) for first in range(0, n_rows, size)]


def n_workers(n_jobs: int | None) -> int:
    """Workers that the backend has at the moment; one while it has none, as when all of them were lost."""
    try:
        return max(1, effective_n_jobs(n_jobs))
    except TimeoutError:
        return 1


class _TaskError(Exception):
    """Wraps the exception of a task, to tell it from those of the backend."""

    def __init__(self, error: Exception):
        self.error = error


class _Views:
    """Read-only views of arrays: the same object for the same array, since backends recognize arrays by identity.

    Parameters
    ----------
    shared : list of ndarray
        Kept until the end; of the arrays of single tasks only those of the last task are kept.
    """

    def __init__(self, shared: list[np.ndarray]):
        self.shared = {id(array): (array, read_only(array)) for array in shared}
        self.last: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.of_shared = self.of(shared)

    def of(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Return the views of some arrays."""
        known = {**self.last, **self.shared}
        self.last = {id(array): known.get(id(array)) or (array, read_only(array)) for array in arrays}
        return [self.last[id(array)][1] for array in arrays]


def _results(tasks: Iterator, n_jobs: int | None, patience: float | None) -> Generator:
    """Run tasks by joblib and yield their results in order."""
    # One task a batch: tasks take seconds, and larger batches leave workers idle at the end
    settings: dict[str, Any] = {"n_jobs": n_jobs, "prefer": "threads", "batch_size": 1}
    try:
        workers = Parallel(timeout=patience, return_as="generator", **settings)
    except ValueError:  # the backend returns lists only
        workers = Parallel(**settings)
    results = workers(tasks)
    if isinstance(results, list):
        results = (result for result in results)
    return results


def _task(n_threads: int, function: Callable, form: Sequence, views: _Views, own: Sequence) -> tuple:
    """Return a task for joblib whose large arrays are separate arguments."""
    own_arrays: list[np.ndarray] = []
    own_form = _take_apart(own, own_arrays, len(views.of_shared))
    if sum(array.nbytes for array in own_arrays) < LARGE_BYTES:
        own_form, own_arrays = own, []
    return delayed(_call)(os.getpid(), n_threads, function, form, own_form, *views.of_shared, *views.of(own_arrays))


def _call(
    parent: int, n_threads: int, function: Callable, form: Sequence, own_form: Sequence, *arrays: np.ndarray
) -> tuple[Any, Exception | None]:
    """Call the function in a worker; its exception is returned, to tell it from those of the backend."""
    shared, own = (read_only(_put_together(part, arrays)) for part in (form, own_form))
    try:
        if os.getpid() == parent:
            return function(*shared, *own), None
        with threadpool_limits(n_threads, user_api="blas"):
            return function(*shared, *own), None
    except Exception as error:
        if os.getpid() != parent:
            error.add_note(traceback.format_exc())
        return None, error


def read_only(values: Any) -> Any:
    """Return the same values with arrays as read-only views.

    Workers of some backends receive read-only arrays. A kernel is compiled for each kind of array; with read-only
    arguments everywhere once is enough.
    """
    if isinstance(values, np.ndarray):
        if type(values) is np.ndarray and not values.flags.writeable:
            return values
        view = np.asarray(values).view()
        view.flags.writeable = False
        return view
    if sparse.issparse(values):
        parts = tuple(map(read_only, (values.data, values.indices, values.indptr)))
        return type(values)(parts, shape=values.shape, copy=False)
    if isinstance(values, (list, tuple)):
        return tuple(map(read_only, values))
    return _rebuild(values, read_only)


class _Index(int):
    """Stands for an array: its index in the list of arrays."""


class _Csr(tuple):
    """Stands for a CSR matrix: its class, shape and three arrays."""


def _take_apart(value: Any, arrays: list[np.ndarray], first: int) -> Any:
    """Move arrays from a nested value to a list: backends recognize a shared array by its identity as an argument."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return _Index(first + len(arrays) - 1)
    if sparse.issparse(value):
        parts = _take_apart([value.data, value.indices, value.indptr], arrays, first)
        return _Csr((type(value), value.shape, parts))
    if isinstance(value, (list, tuple)):
        return type(value)(_take_apart(item, arrays, first) for item in value)
    return _rebuild(value, lambda item: _take_apart(item, arrays, first))


def _put_together(form: Any, arrays: Sequence[np.ndarray]) -> Any:
    """Undo `_take_apart`."""
    if isinstance(form, _Index):
        return arrays[form]
    if isinstance(form, _Csr):
        csr, shape, parts = form
        return csr(tuple(_put_together(parts, arrays)), shape=shape, copy=False)
    if isinstance(form, (list, tuple)):
        return type(form)(_put_together(item, arrays) for item in form)
    return _rebuild(form, lambda item: _put_together(item, arrays))


def _rebuild(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Return a dict or dataclass with its items converted; other values as they are."""
    if isinstance(value, dict):
        return {key: convert(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {field.name: convert(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value)(**items)
    return value
