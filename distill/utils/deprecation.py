"""Renamed parameters: the old name works for one release, with a FutureWarning."""

import warnings
from typing import Any

# Default of an old name in the signature, as in scikit-learn: any other value was set by the user
DEPRECATED = "deprecated"


def renamed(estimator: Any, old: str, new: str) -> Any:
    """Return the value of a parameter that was renamed, from its old name if that is set.

    The old name is the last parameter of the constructor, with the default `DEPRECATED`.

    Parameters
    ----------
    estimator : estimator
    old, new : str
        Names of the parameter.

    Returns
    -------
    object

    Warns
    -----
    FutureWarning
        If the old name is set; its value has precedence.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> renamed(SimpleNamespace(width=3, size="deprecated"), "size", "width")
    3
    """
    value = getattr(estimator, old)
    if isinstance(value, str) and value == DEPRECATED:
        return getattr(estimator, new)
    warnings.warn(
        f"the parameter {old!r} of {type(estimator).__name__} was renamed to {new!r} in version 0.1 and will be "
        f"removed in 0.2; set {new!r} instead",
        FutureWarning,
        stacklevel=2,
    )
    return value
