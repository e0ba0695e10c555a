"""Bisection for the largest setting that fits into a budget of bytes."""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def bisect(
    attempt: Callable[[float], Result | None],
    fitting: float,
    failing: float,
    n_halvings: int,
    result: Result | None = None,
) -> tuple[float, Result | None]:
    """Find the boundary between settings that fit into a budget and settings that do not, by bisection.

    Parameters
    ----------
    attempt : callable(setting) -> result or None
        Result of a setting; None if the setting does not fit.
    fitting, failing : float
        A setting that fits and one that does not; either may be the larger one. Neither is attempted.
    n_halvings : int
        Number of attempts.
    result : object or None
        Result of `fitting`.

    Returns
    -------
    setting : float
        The fitting setting nearest to `failing` among those attempted.
    result : object or None
        Its result.

    Examples
    --------
    >>> bisect(lambda size: size**2 if size**2 <= 50 else None, 1, 100, 30)[0]
    7.07106...
    """
    for _ in range(n_halvings):
        middle = (fitting + failing) / 2
        found = attempt(middle)
        if found is None:
            failing = middle
        else:
            fitting, result = middle, found
    return fitting, result


def largest(fits: Callable[[int], bool], low: int, high: int, resolution: int | None = None) -> int:
    """Return the largest integer that fits into a budget, by bisection.

    Parameters
    ----------
    fits : callable(n) -> bool
        True up to some n and False beyond.
    low, high : int
        `low` fits and `high` does not; neither is tried.
    resolution : int or None
        The search ends when the two differ by ``high // resolution`` or less; None finds the largest exactly.

    Returns
    -------
    int

    Examples
    --------
    >>> largest(lambda n: n**2 <= 50, 1, 100)
    7
    """
    while high - low > max(1, high // resolution if resolution else 0):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
