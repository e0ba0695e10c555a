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

# Format of the cached results; it changes with the classes in them
_FORMAT = 2


def cached_call(memory: str | joblib.Memory | None, function: Callable, *arguments: Any, **passed: Any) -> Any:
    """Return ``function(*arguments, **passed)``, from the cache if it was called with these arguments before.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        A folder or a cache; None calls the function every time.
    function : callable
        A pure function of a module; the result depends on `arguments` only.
    *arguments
        Unfitted estimators, arrays and scalars: hashed by value with `joblib.hash`. Arrays are passed on
        in C order, so that their order in memory does not change the key.
    **passed
        Passed on without being part of the key: a progress report, or the object that an argument identifies.

    Returns
    -------
    object
        The result. Of several processes or threads with the same call at the same time, one computes and the
        others wait.

    Examples
    --------
    >>> cached_call(None, max, 2, 3)
    3
    """
    memory, arguments = check_memory(memory), _in_order(arguments)
    location = getattr(memory, "location", None)
    if location is None:
        return function(*arguments, **passed)
    call = memory.cache(function, ignore=list(passed))
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
    """Warn once for a cache whose results have an earlier format: joblib computes them again."""
    marker = locks / f"format-{_FORMAT}.lock"
    if marker.exists():
        return
    if next(locks.glob("*.lock"), None) is not None:
        warnings.warn(
            f"the cached fits in {locks.parent} were written by an earlier version of distill, in another format; they "
            "are computed again. Remove the folder to free their space",
            stacklevel=4,
        )
    marker.touch()


def _remove_unfinished(folder: Path) -> None:
    """Remove the files that joblib was writing in this thread when it was interrupted; it never reads them again."""
    process, thread = str(os.getpid()), str(id(threading.current_thread()))
    for path in folder.rglob("*.*-*"):  # joblib names them after both
        if process in path.name and thread in path.name:
            with contextlib.suppress(OSError):
                path.unlink()


def call_key(function: Callable, *arguments: Any) -> str:
    """Return a key of the call of a function with these arguments: the same in every process."""
    return joblib.hash((function.__module__, function.__qualname__, _in_order(arguments)))


def _in_order(arguments: tuple) -> tuple:
    # A worker gets arrays that were pickled, or mapped from disk, and their hash depends on that
    return tuple(
        np.ascontiguousarray(value) if isinstance(value, np.ndarray) and value.ndim else value for value in arguments
    )
