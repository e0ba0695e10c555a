"""Running pure tasks on several workers without ever asking for more threads than there are cores."""

import os

from joblib import Parallel, cpu_count, delayed, effective_n_jobs
from threadpoolctl import threadpool_limits


def run(function, tasks, *, n_jobs=None):
    """Call ``function(*task)`` for every task and return the results in their order.

    Workers are threads unless a joblib backend is set from outside. The kernels release the interpreter lock,
    and the linear algebra library gets ``cores // workers`` threads meanwhile.
    """
    tasks = list(tasks)
    n_workers = min(effective_n_jobs(n_jobs), len(tasks))
    if n_workers <= 1:
        return [function(*task) for task in tasks]
    n_threads = max(1, cpu_count() // n_workers)
    with threadpool_limits(n_threads, user_api="blas"):
        workers = Parallel(n_jobs=n_jobs, prefer="threads")
        return workers(delayed(_within_limits)(os.getpid(), n_threads, function, task) for task in tasks)


def _within_limits(parent, n_threads, function, task):
    if os.getpid() == parent:
        return function(*task)
    with threadpool_limits(n_threads, user_api="blas"):
        return function(*task)


def blocks(n_rows, size):
    """Cut ``range(n_rows)`` into consecutive slices of at most `size` rows."""
    return [slice(first, min(first + size, n_rows)) for first in range(0, n_rows, size)]
