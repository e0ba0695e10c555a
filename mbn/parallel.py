"""Running pure tasks on several workers: threads, processes or machines, whatever joblib's backend is.

Tasks depend on their arguments only, so that each may run anywhere, in any order, and a second time when the worker
that ran it is gone.
"""

import multiprocessing
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from scipy import sparse
from threadpoolctl import threadpool_limits

# How often tasks are handed out, when workers are lost, before giving up; any result in between starts anew. The pause,
# each three times as long as the one before, gives the backend time to notice who is gone and to start others.
_ATTEMPTS = 4
_PAUSE_SECONDS = 0.5
# Some backends wait for ever for what was on its way to a worker that died. Tasks take seconds: after so long without
# a result they are handed out again, and the next time twice as long is waited.
_PATIENCE_SECONDS = 60
# Smaller arrays travel within the task they belong to.
_LARGE_BYTES = 1 << 18


def run(
    function: Callable,
    shared: Sequence,
    keys: Sequence,
    take: Callable[[Any], Sequence],
    *,
    n_jobs: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Yield ``key, function(*shared, *take(key))`` for every key, in their order.

    Workers are threads unless a joblib backend is set from outside, in which case ``n_jobs=None`` means its workers.
    The kernels release the interpreter lock, and the linear algebra library gets ``cores // workers`` threads
    meanwhile.

    Parameters
    ----------
    function : callable
        A pure function of a module.
    shared : sequence
        Arguments of every task: arrays, sparse matrices, scalars, and lists, tuples and dicts of them. Each array is
        one object for the backend, which sends it to a worker once.
    keys : sequence
    take : callable
        Gives the arguments of one task. Called when the task is handed out, so that only a few tasks' rows are in
        memory at a time. An array that is shared, or that the task before was given, is not sent again.
    n_jobs : int, optional

    Yields
    ------
    key, result

    Raises
    ------
    Exception
        What a task raised; or what the backend raised, if workers are lost again and again without any result.

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
    backend, n_outside = get_active_backend(prefer="threads")
    n_asked = n_jobs if n_jobs is not None else n_outside if n_outside is not None else backend.default_n_jobs
    if len(keys) < 2 or n_asked == 1:
        shared = _read_only(shared)
        for key in keys:
            yield key, function(*shared, *_read_only(take(key)))
        return
    n_threads = max(1, cpu_count() // min(n_workers(n_jobs), len(keys)))
    patience = None if getattr(backend, "supports_sharedmem", False) else _PATIENCE_SECONDS
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
                time.sleep(_PAUSE_SECONDS * 3 ** (n_failures - 1))


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
    """Carries what a task raised past the handling of what the backend raises."""

    def __init__(self, error):
        self.error = error


class _Views:
    """Read-only views of arrays: the same object for the same array, by which backends know that they have it.

    Parameters
    ----------
    shared : list of ndarray
        Known for ever; of a task's own arrays only those of the task before.
    """

    def __init__(self, shared):
        self.shared = {id(array): (array, _read_only(array)) for array in shared}
        self.last = {}
        self.of_shared = self.of(shared)

    def of(self, arrays):
        known = {**self.last, **self.shared}
        self.last = {id(array): known.get(id(array)) or (array, _read_only(array)) for array in arrays}
        return [self.last[id(array)][1] for array in arrays]


def _results(tasks, n_jobs, patience):
    # tasks are large enough to go alone; batches of them would leave workers idle at the end
    settings = {"n_jobs": n_jobs, "prefer": "threads", "batch_size": 1}
    try:
        workers = Parallel(timeout=patience, return_as="generator", **settings)
    except ValueError:  # a backend that returns lists only
        workers = Parallel(**settings)
    results = workers(tasks)
    if isinstance(results, list):
        results = (result for result in results)
    return results


def _task(n_threads, function, form, views, own):
    own_arrays: list[np.ndarray] = []
    own_form = _take_apart(own, own_arrays, len(views.of_shared))
    if sum(array.nbytes for array in own_arrays) < _LARGE_BYTES:
        own_form, own_arrays = own, []
    return delayed(_call)(os.getpid(), n_threads, function, form, own_form, *views.of_shared, *views.of(own_arrays))


def _call(parent, n_threads, function, form, own_form, *arrays):
    """Call the function in a worker; an error is returned, so that it is not taken for one of the backend."""
    shared, own = (_read_only(_put_together(part, arrays)) for part in (form, own_form))
    try:
        if os.getpid() == parent:
            return function(*shared, *own), None
        with threadpool_limits(n_threads, user_api="blas"):
            return function(*shared, *own), None
    except Exception as error:
        if os.getpid() != parent:
            error.add_note(traceback.format_exc())
        return None, error


def _read_only(values):
    """The same values, arrays as views that cannot be written to, as workers of every backend may see them.

    A compiled kernel exists once for arrays of either kind; this way one is enough.
    """
    if isinstance(values, np.ndarray):
        view = np.asarray(values).view()
        view.flags.writeable = False
        return view
    if sparse.issparse(values):
        parts = tuple(map(_read_only, (values.data, values.indices, values.indptr)))
        return type(values)(parts, shape=values.shape, copy=False)
    if isinstance(values, dict):
        return {key: _read_only(value) for key, value in values.items()}
    return tuple(map(_read_only, values)) if isinstance(values, (list, tuple)) else values


class _Place(int):
    """Where an array that was taken out stands in the list of arrays."""


class _Rows(tuple):
    """A CSR matrix taken apart: its class, shape and three arrays."""


def _take_apart(value, arrays, first):
    """Move arrays from a nested value to a list: backends know a shared array by its identity as an argument."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return _Place(first + len(arrays) - 1)
    if sparse.issparse(value):
        parts = _take_apart([value.data, value.indices, value.indptr], arrays, first)
        return _Rows((type(value), value.shape, parts))
    if isinstance(value, (list, tuple)):
        return type(value)(_take_apart(item, arrays, first) for item in value)
    if isinstance(value, dict):
        return {key: _take_apart(item, arrays, first) for key, item in value.items()}
    return value


def _put_together(form, arrays):
    if isinstance(form, _Place):
        return arrays[form]
    if isinstance(form, _Rows):
        kind, shape, parts = form
        return kind(tuple(_put_together(parts, arrays)), shape=shape, copy=False)
    if isinstance(form, (list, tuple)):
        return type(form)(_put_together(item, arrays) for item in form)
    if isinstance(form, dict):
        return {key: _put_together(item, arrays) for key, item in form.items()}
    return form
