"""Large batches shared out among threads, as many as NumPy's own products would use."""

import os
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

# Below this many multiplications starting threads costs more than it brings
_WORTH_THREADS = 1 << 26
_LIMITS = ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads")


def map_blocks(compute: Callable[[int], None], starts: Iterable[int], n_multiplications: int) -> None:
    """Call `compute` for every start, in threads where that is worth it.

    Parameters
    ----------
    compute : callable
        Writes its result where no other call writes.
    starts : iterable of int
    n_multiplications : int
        The size of the work.
    """
    n_threads = min(n_available_threads(), len(starts)) if n_multiplications >= _WORTH_THREADS else 1
    if n_threads == 1:
        for start in starts:
            compute(start)
        return
    # Imported here because few who load a student need it
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(n_threads) as pool:
        for _ in pool.map(compute, starts):
            pass


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
