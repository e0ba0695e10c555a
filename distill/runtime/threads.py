"""Large batches shared out among threads, as many as NumPy's own products would use."""

import os
from collections.abc import Callable, Iterable
from functools import cache
from threading import Thread

import numpy as np

# Below this many multiplications starting threads costs more than it brings
_WORTH_THREADS = 1 << 24
_LIMITS = ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads")


def map_blocks(make_worker: Callable[[], Callable[[int], None]], starts: Iterable[int], n_multiplications: int) -> None:
    """Have a function called for every start, in threads where that is worth it.

    Parameters
    ----------
    make_worker : callable
        Called once in every thread; returns the function, which may keep memory of its own from call to call and
        writes its results where no other call writes.
    starts : iterable of int
    n_multiplications : int
        The size of the work.

    Raises
    ------
    Exception
        The first that a call raised; what has not been started by then is left out.
    """
    remaining, errors = iter(starts), []

    def work() -> None:
        try:
            compute = make_worker()
            for start in remaining:
                if errors:
                    return
                compute(start)
        except BaseException as error:
            errors.append(error)

    n_threads = min(n_available_threads(), len(starts)) if n_multiplications >= _WORTH_THREADS else 1
    # The calling thread is one of them: a thread less to start
    others = [Thread(target=work) for _ in range(n_threads - 1)]
    for thread in others:
        thread.start()
    work()
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]


def n_available_threads() -> int:
    """Return the number of threads that NumPy's BLAS may use now, which OMP_NUM_THREADS and threadpoolctl limit."""
    limit = _blas_limit()
    return max(1, min(limit(), os.cpu_count() or 1)) if limit else 1


@cache
def _blas_limit() -> Callable[[], int] | None:
    # NumPy does not say it; the library that it has loaded does
    import ctypes

    try:
        library = ctypes.CDLL(np._core._multiarray_umath.__file__)
    except (AttributeError, OSError):
        return None
    return next((getattr(library, name) for name in _LIMITS if hasattr(library, name)), None)
