"""The advice to install what the fits need, where only what runs a student is installed."""

from collections.abc import Iterator
from contextlib import contextmanager

# Import names of the packages of the extra `train` in pyproject.toml
TRAINING = ("scipy", "sklearn", "torch", "joblib", "filelock", "numba", "threadpoolctl")


@contextmanager
def training_needed(what: str) -> Iterator[None]:
    """Import something for which the extra `train` is needed.

    Parameters
    ----------
    what : str
        Name for the message.

    Raises
    ------
    ImportError
        With the command that installs it, if a package of the extra is missing.

    Examples
    --------
    >>> with training_needed("distill.Distiller"):
    ...     raise ModuleNotFoundError("No module named 'torch'", name="torch")
    Traceback (most recent call last):
        ...
    ImportError: distill.Distiller needs torch, which is not installed: pip install 'mbn-distill[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in TRAINING:
            raise
        raise ImportError(
            f"{what} needs {package}, which is not installed: pip install 'mbn-distill[train]'", name=package
        ) from error
