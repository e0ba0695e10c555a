"""Cached calls of pure functions; concurrent processes compute each call only once."""

import contextlib
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from filelock import FileLock
from sklearn.utils.validation import check_memory

# Format of the cached results. Increase it when the classes in them, or their modules, change
_FORMAT = 4


def cached_call(memory: str | joblib.Memory | None, function: Callable, *arguments: Any, **passed: Any) -> Any:
    """Return ``function(*arguments, **passed)``, from the cache if it was called with these arguments before.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        A folder or a cache; None calls the function every time.
    function : callable
        A pure function of a module; the result depends on `arguments` only.
    *arguments
        Unfitted estimators, arrays and scalars: hashed by value with `joblib.hash`. Arrays are converted to C order,
        so that their order in memory does not change the key.
    **passed
        Arguments that are not part of the key: a progress report, or the object that an argument identifies.

    Returns
    -------
    object
        The result. Concurrent processes or threads with the same call wait for the one that computes it.

    Examples
    --------
    >>> cached_call(None, max, 2, 3)
    3
    """
    cache, arguments = check_memory(memory), _in_order(arguments)
    location = getattr(cache, "location", None)
    if location is None:
        return function(*arguments, **passed)
    call = cache.cache(function, ignore=list(passed))
    locks = Path(location) / "distill-locks"
    locks.mkdir(parents=True, exist_ok=True)
    _warn_of_earlier_format(locks)
    with FileLock(locks / f"{call_key(function, *arguments)}.lock"):
        try:
            return call(*arguments, **passed)
        except BaseException:
            _remove_unfinished(Path(location))
            raise


def _warn_of_earlier_format(locks: Path) -> None:
    """Warn once for a cache whose results have an earlier format; joblib computes them again."""
    marker = locks / f"format-{_FORMAT}.lock"
    if marker.exists():
        return
    is_used = next(locks.glob("*.lock"), None) is not None
    # Again, because locks of a concurrent call with this format appear after its marker
    if is_used and not marker.exists():
        warnings.warn(
            f"the cached fits in {locks.parent} were written by an earlier version of distill, in another format; they "
            "are computed again. Remove the folder to free their space",
            stacklevel=4,
        )
    marker.touch()


def _remove_unfinished(folder: Path) -> None:
    """Remove the files of an interrupted write of joblib in this thread, which joblib would not read again."""
    process, thread = str(os.getpid()), str(id(threading.current_thread()))
    for path in folder.rglob("*.*-*"):  # joblib names them after both
        if process in path.name and thread in path.name:
            with contextlib.suppress(OSError):
                path.unlink()


def call_key(function: Callable, *arguments: Any) -> str:
    """Return a key of the call of a function with these arguments: the same in every process."""
    return joblib.hash((function.__module__, function.__qualname__, _in_order(arguments)))


def _in_order(arguments: tuple) -> tuple:
    # Pickling for a worker, or mapping from disk, changes the order and the class of an array, and with it its hash
    return tuple(
        np.ascontiguousarray(value) if isinstance(value, np.ndarray) and value.ndim else value for value in arguments
    )
