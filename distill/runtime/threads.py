"""Distribute the blocks of a large batch over threads, as many as NumPy's BLAS would use."""

import os
from collections.abc import Callable
from functools import cache
from importlib import import_module
from threading import Thread

# With fewer multiplications, starting threads takes longer than it saves
_MIN_MULTIPLICATIONS = 1 << 24
_LIMITS = ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads")


def map_blocks(make_worker: Callable[[], Callable[[int], None]], starts: range, n_multiplications: int) -> None:
    """Call a function for every start, in threads if the work is large.

    Parameters
    ----------
    make_worker : callable
        Called once in every thread; returns the function of a start. This function may reuse memory between its calls,
        and its calls write to disjoint places.
    starts : range
    n_multiplications : int
        Amount of work.

    Raises
    ------
    Exception
        The first one raised by a call; calls that have not started by then are skipped.
    """
    remaining = iter(starts)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            compute = make_worker()
            for start in remaining:
                if errors:
                    return
                compute(start)
        except BaseException as error:
            errors.append(error)

    n_threads = min(n_available_threads(), len(starts)) if n_multiplications >= _MIN_MULTIPLICATIONS else 1
    # The calling thread works, too, which saves the start of one
    others = [Thread(target=work) for _ in range(n_threads - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]


def n_available_threads() -> int:
    """Return the number of threads that NumPy's BLAS may use now; OMP_NUM_THREADS and threadpoolctl limit it."""
    limit = _blas_limit()
    return max(1, min(limit(), os.cpu_count() or 1)) if limit else 1


@cache
def _blas_limit() -> Callable[[], int] | None:
    """Return the function of the loaded BLAS that reads its number of threads; NumPy has none."""
    import ctypes

    try:
        library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError):
        return None
    return next((getattr(library, name) for name in _LIMITS if hasattr(library, name)), None)
