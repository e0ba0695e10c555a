"""The student of an estimator, a Pipeline, a search or a file."""

import os
from typing import Any

from distill.runtime import Student, load


def student_in(source: Any, function: str) -> Student:
    """Return a student of a fitted estimator, a Pipeline, a search, or a student file.

    Parameters
    ----------
    source : Student, path, bytes, open binary file, fitted Distiller or compressor, Pipeline or search
    function : str
        The caller, for the error.

    Returns
    -------
    Student

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(source, Student):
        return source
    if isinstance(source, str | bytes | bytearray | memoryview | os.PathLike) or hasattr(source, "read"):
        return load(source)
    if hasattr(source, "steps") or hasattr(source, "best_estimator_"):
        from distill.pipeline import to_bytes

        return Student.from_bytes(to_bytes(source))
    if isinstance(getattr(type(source), "network_", None), property):
        # An estimator implies scikit-learn; an unfitted one raises its NotFittedError
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(source)
        return Student.from_bytes(source.to_bytes())
    raise TypeError(
        f"{function} takes a Student, a fitted Distiller or compressor, or a Pipeline, got {type(source).__name__}; or "
        "the path of a student file"
    )
