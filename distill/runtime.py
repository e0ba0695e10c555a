"""Run a student with NumPy alone.

>>> import numpy as np
>>> from distill.codecs import container
>>> from distill.network import Network
>>> network = Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),), target="predict", output="softmax",
...                   classes=np.array(["left", "right"]))
>>> student = load(container.encode(network))
>>> student.predict([[3.0, 1.0], [0.0, 2.0]])
array(['left', 'right'], dtype='<U5')
"""

import os
from collections.abc import Callable

import numpy as np

from distill.codecs import container
from distill.network import Network

__all__ = ["Student", "load"]


def load(source: str | os.PathLike | bytes) -> "Student":
    """Read a student from a file or from the bytes of one.

    Parameters
    ----------
    source : str, path or bytes-like

    Returns
    -------
    Student

    Raises
    ------
    StudentFileError
        If the file is damaged, of another version, or no student file.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return Student.from_bytes(source)
    with open(source, "rb") as file:
        return Student.from_bytes(file.read())


class Student:
    """A network that answers as its teacher does, in NumPy.

    Which of `predict`, `predict_proba`, `transform` and `decision_function` exist depends on what the network was
    trained to answer. A row's answer is the same bit for bit whatever the rows beside it.

    Parameters
    ----------
    network : Network
    report : dict or None
        Where the bytes of its file are; see `distill.codecs.container.report`.
    extras : tuple of dict of str to ndarray
        What the file knows about each layer besides its weights.
    """

    def __init__(self, network: Network, report: dict | None = None, extras: tuple[dict, ...] = ()):
        self.network = network
        self.report = report
        self.extras = extras
        self.n_features_in_ = network.n_features
        if network.classes is not None:
            self.classes_ = network.classes
        if network.feature_names is not None:
            self.feature_names_in_ = np.array(network.feature_names, dtype=object)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Student":
        """Read a student from the bytes of a student file."""
        contents = container.decode(data)
        return cls(contents.network, container.summarize(contents), contents.extras)

    def raw_outputs(self, X) -> np.ndarray:
        """Return the last layer's sums, before softmax or logistic.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float32
        """
        network = self.network
        rows = self._check(X)
        if network.offset is not None:
            rows = rows - network.offset
        if network.scale is not None:
            rows = rows * network.scale
        activate = _ACTIVATIONS[network.activation]
        for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
            # One row at a time: slow, and independent of the other rows
            rows = np.matmul(rows[:, None, :], weight)[:, 0, :] + bias
            if index < len(network.weights) - 1:
                rows = activate(rows)
        return rows

    def __getattr__(self, name: str):
        if name in _ANSWERS and "network" in self.__dict__:
            if name in _available(self.network):
                return _ANSWERS[name].__get__(self)
            raise AttributeError(
                f"this student has no {name}: it answers {self.network.target!r} with output {self.network.output!r}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_available(self.network)})

    def _check(self, X) -> np.ndarray:
        names = self.network.feature_names
        columns = getattr(X, "columns", None)
        if names is not None and columns is not None and tuple(columns) != names:
            missing = [name for name in names if name not in set(columns)]
            if missing:
                raise ValueError(f"X lacks the columns {missing[:5]} that the student was fitted with")
            raise ValueError(
                f"X must have exactly the columns {names[:5]}... in this order; use X[student.feature_names_in_]"
            )
        try:
            rows = np.asarray(X, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(f"X must be an array of numbers, got {type(X).__name__}: {error}") from error
        if rows.ndim != 2:
            raise ValueError(f"X must have two dimensions, its shape is {rows.shape}; for one row use X[None]")
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {rows.shape[1]} features, but the student expects {self.n_features_in_}")
        if not np.isfinite(rows).all():
            raise ValueError("X has NaN, infinite or (for float32) too large values; replace them first")
        return rows


def _probabilities(student: Student, X) -> np.ndarray:
    sums = student.raw_outputs(X)
    if student.network.output == "softmax":
        exponentials = np.exp(sums - sums.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
    positive = _logistic(sums)
    return np.hstack([1 - positive, positive]) if positive.shape[1] == 1 else positive


def _numbers(student: Student, X) -> np.ndarray:
    sums = student.raw_outputs(X)
    return sums[:, 0] if student.network.squeeze else sums


def _prediction(student: Student, X) -> np.ndarray:
    if student.network.classes is None:
        return _numbers(student, X)
    sums = student.raw_outputs(X)
    best = (
        (sums[:, 0] > 0).astype(np.intp) if sums.shape[1] == 1 and len(student.classes_) == 2 else sums.argmax(axis=1)
    )
    return student.classes_[best]


def _available(network: Network) -> set[str]:
    names = {network.target}
    if network.classes is not None:
        names.add("predict")
        if network.output != "identity":
            names.add("predict_proba")
    return names


def _logistic(sums: np.ndarray) -> np.ndarray:
    return np.float32(0.5) * np.tanh(np.float32(0.5) * sums) + np.float32(0.5)


_ANSWERS: dict[str, Callable] = {
    "predict": _prediction,
    "predict_proba": _probabilities,
    "transform": _numbers,
    "decision_function": _numbers,
}
_ACTIVATIONS: dict[str, Callable] = {
    "identity": lambda sums: sums,
    "relu": lambda sums: np.maximum(sums, 0),
    "tanh": np.tanh,
    "logistic": _logistic,
}
