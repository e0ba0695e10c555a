"""Calls that are made once and then read from disk, also when many processes want the same one at the same time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
from filelock import FileLock
from sklearn.utils.validation import check_memory


def cached_call(memory: str | joblib.Memory | None, function: Callable, *arguments: Any, progress: Any = None) -> Any:
    """Return ``function(*arguments, progress=progress)``, from the cache if it was called so before.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        A folder or a cache; None calls the function every time.
    function : callable
        A pure function of a module; the result depends on `arguments` only.
    *arguments
        Unfitted estimators, arrays and scalars: what `joblib.hash` knows by value.
    progress
        Passed on, and no part of what is looked up.

    Returns
    -------
    object
        What the function returned. Of several processes that ask at the same time one computes and the others wait.
    """
    memory = check_memory(memory)
    location = getattr(memory, "location", None)
    if location is None:
        return memory.cache(function, ignore=["progress"])(*arguments, progress=progress)
    locks = Path(location) / "distill-locks"
    locks.mkdir(parents=True, exist_ok=True)
    key = joblib.hash((function.__module__, function.__qualname__, arguments))
    with FileLock(locks / f"{key}.lock"):
        return memory.cache(function, ignore=["progress"])(*arguments, progress=progress)
