"""Warnings that point at the line of the user, whatever lies between it and the place that warns."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

# Packages whose frames are skipped: a fit may be called through scikit-learn's pipelines and searches
_SKIPPED = ("distill", "mbn", "sklearn", "joblib", "contextlib", "functools")
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the file and line of the first caller outside of this package, scikit-learn and joblib.

    Parameters
    ----------
    message : str
    category : type
    """
    if _QUIET.get():
        return
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _SKIPPED:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings of `warn_caller` inside the context, in this thread: those of candidates of a search."""
    token = _QUIET.set(True)
    try:
        yield
    finally:
        _QUIET.reset(token)
