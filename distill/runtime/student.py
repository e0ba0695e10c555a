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

import math
import os
from collections.abc import Callable
from types import MethodType

import numpy as np
from numpy import ndarray

from distill.codecs import container
from distill.network import Network
from distill.runtime.forward import Forward, logistic, softmax
from distill.runtime.preprocessing import Preprocessing
from distill.runtime.single_row import QuickLabel
from distill.runtime.threads import map_blocks

__all__ = ["Student", "load"]

# A quick path for single rows is prepared when so many of them have been asked about
_WORTH_PREPARING = 8
_BLOCK = 4096
_ANSWERS = {"predict", "predict_proba", "transform", "decision_function"}


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


class _Offered:
    """A method that only those students have whose network was trained for it."""

    def __init__(self, function: Callable):
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __get__(self, student: "Student | None", owner: type):
        if student is None:
            return self.function
        if self.name not in student._offered:
            network = student.network
            raise AttributeError(
                f"this student has no {self.name}: it answers {network.target!r} with output {network.output!r}"
            )
        return MethodType(self.function, student)


class Student:
    """A network that answers as its teacher does, in NumPy.

    Which of `predict`, `predict_proba`, `transform` and `decision_function` exist depends on what the network was
    trained to answer. A row's answer is the same bit for bit whatever the rows beside it, their number, type and order
    in memory, and the number of threads.

    Parameters
    ----------
    network : Network
    report : dict or None
        Where the bytes of its file are; see `distill.codecs.container.report`.
    extras : tuple of dict of str to ndarray
        What the file knows about each layer besides its weights.
    preprocessing : Preprocessing or None
        What rows go through before they enter the network.

    Attributes
    ----------
    network : Network
    report : dict or None
    extras : tuple of dict
    preprocessing : Preprocessing or None
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where the file keeps them.
    classes_ : ndarray of shape (n_classes,)
        Where the answers are labels.

    Notes
    -----
    Rows are checked: two dimensions, the right number of features, finite numbers, and, where feature names are known
    and X has column names, the same names in the same order. They are computed with in float32, and before that in
    float64 if there are steps before the network. No rows at all are answered with no rows.
    """

    def __init__(
        self,
        network: Network,
        report: dict | None = None,
        extras: tuple[dict, ...] = (),
        preprocessing: Preprocessing | None = None,
    ):
        self.network = network
        self.report = report
        self.extras = extras
        self.preprocessing = preprocessing
        self.n_features_in_ = network.n_features if preprocessing is None else preprocessing.n_features_in
        if network.classes is not None:
            self.classes_ = network.classes
        if network.feature_names is not None:
            self.feature_names_in_ = np.array(network.feature_names, dtype=object)
        self._offered = _offered(network)
        self._forward = Forward(network)
        self._single = (1, network.n_features) if preprocessing is None else None
        self._n_singles = 0
        self._quick_label = None

    @classmethod
    def from_bytes(cls, data: bytes) -> "Student":
        """Read a student from the bytes of a student file; see `load`."""
        contents = container.decode(data)
        preprocessing = Preprocessing(contents.n_features, contents.steps) if contents.steps else None
        return cls(contents.network, container.summarize(contents), contents.extras, preprocessing)

    def raw_outputs(self, X) -> np.ndarray:
        """Return the last layer's sums, before softmax or logistic.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs), float32

        Raises
        ------
        ValueError
            If X has another shape, other columns, or values that are NaN, infinite or too large for float32.
        """
        X = self._matrix(X)
        sums = np.empty((X.shape[0], self.network.layer_sizes[-1]), np.float32)

        def keep(block: slice, part: np.ndarray) -> None:
            sums[block] = part

        self._each_block(X, keep)
        return sums

    def output_moments(self, X) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the last layer's sums, from a file that keeps the variances of weights.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        mean, variance : ndarray of shape (n_samples, n_outputs), float32
            Without noise. See `distill.runtime.moments.output_moments`.

        Raises
        ------
        ValueError
            If the file keeps no variances, or X is not as demanded.
        """
        from distill.runtime.moments import output_moments

        if not all("row_variance" in extras for extras in self.extras) or not self.extras:
            raise ValueError(
                "this student knows nothing of the uncertainty of its weights; files of MatrixGaussianCompressor do"
            )
        rows, columns = ([extras[name] for extras in self.extras] for name in ("row_variance", "column_variance"))
        X = self._matrix(X)
        blocks = [
            output_moments(self.network, rows, columns, self._rows(X[start : start + _BLOCK]))
            for start in range(0, max(X.shape[0], 1), _BLOCK)
        ]
        mean, variance = (np.concatenate(parts) for parts in zip(*blocks))
        return mean, variance

    @_Offered
    def predict(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Answer labels, or the numbers of a regressor.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to answer standard deviations as well: of numbers, from a file that keeps variances. They are those
            of the function that was learned and of the noise around it together.

        Returns
        -------
        answers : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        deviations : ndarray of the same shape
            With `return_std` only.
        """
        # What a single row meets comes first, and there is little of it: a microsecond counts
        quick = self._quick_label
        if quick is not None and type(X) is ndarray and X.shape == self._single and not return_std:
            label = quick.label(X)
            if label >= 0:
                return self.classes_[label : label + 1].copy()
        classes = self.network.classes
        if classes is None:
            return self._numbers(X, return_std)
        if return_std:
            raise ValueError("return_std=True is for numbers, and labels are answered here; use predict_proba")
        X = self._matrix(X)
        if quick is None and X.shape == self._single and len(classes) > 1:
            self._n_singles += 1
            if self._n_singles >= _WORTH_PREPARING:
                self._quick_label = QuickLabel(self._forward.prepared, self.network.activation)
        labels = np.empty(X.shape[0], np.intp)
        single = self.network.layer_sizes[-1] < len(classes)

        def choose(block: slice, sums: np.ndarray) -> None:
            labels[block] = sums[:, 0] > 0 if single else sums.argmax(axis=1)

        self._each_block(X, choose)
        return classes[labels]

    @_Offered
    def predict_proba(self, X, averaged: bool = False) -> np.ndarray:
        """Answer the probability of every label.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        averaged : bool
            Whether probabilities are averaged over the weights that are possible, where the file keeps variances, and
            not those of the mean weights: less sure far from what was learned.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`.
        """
        if averaged:
            from distill.runtime.moments import averaged_probabilities

            return averaged_probabilities(*self.output_moments(X), self.network.output)
        sums = self.raw_outputs(X)
        if self.network.output == "softmax":
            return softmax(sums)
        positive = logistic(sums)
        return np.hstack([1 - positive, positive]) if positive.shape[1] == 1 else positive

    @_Offered
    def transform(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Answer an embedding.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to answer standard deviations as well; see `predict`.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_components), float32
        deviations : ndarray of the same shape
            With `return_std` only.
        """
        return self._numbers(X, return_std)

    @_Offered
    def decision_function(self, X) -> np.ndarray:
        """Answer decision values.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs) or (n_samples,), float32
        """
        return self._numbers(X)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__()} - (_ANSWERS - self._offered))

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.network.layer_sizes))
        size = f", {self.report['n_bytes']} bytes" if self.report else ""
        return f"<Student {sizes}: {', '.join(sorted(self._offered))}{size}>"

    def __getstate__(self) -> dict:
        # What follows from the network is cheaper to prepare again than to send
        return self.__dict__ | {"_n_singles": 0, "_quick_label": None}

    def _numbers(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        sums = self.raw_outputs(X)
        answers = sums[:, 0] if self.network.squeeze else sums
        if not return_std:
            return answers
        variance = self.output_moments(X)[1] + self.extras[-1].get("noise_variance", np.float32(0))
        return answers, np.sqrt(variance).reshape(answers.shape)

    def _each_block(self, X, take: Callable[[slice, np.ndarray], None]) -> None:
        """Call `take` with the last layer's sums of one block of rows after the other, or side by side in threads."""
        forward, size = self._forward, self._forward.block_rows
        if X.shape[0] <= size:
            take(slice(None), forward(self._rows(X)))
            return

        def make_worker() -> Callable[[int], None]:
            buffers = forward.buffers()

            def compute(start: int) -> None:
                block = slice(start, start + size)
                take(block, forward(self._rows(X[block]), buffers))

            return compute

        map_blocks(make_worker, range(0, X.shape[0], size), X.shape[0] * self.network.n_parameters)

    def _rows(self, X) -> np.ndarray:
        """Return a block of rows as they enter the network, float32."""
        if self.preprocessing is None:
            return _finite_rows(X)
        return _finite_rows(self.preprocessing(_finite_rows(X, np.float64).copy()), what="X before the network")

    def _matrix(self, X):
        """Return X as something with two dimensions whose blocks of rows are numbers."""
        if type(X) is not np.ndarray:
            if self.network.feature_names is not None:
                _check_columns(X, self.network.feature_names)
            if hasattr(X, "tocsr"):
                X = X.tocsr()
            else:
                try:
                    X = np.asarray(X)
                except ValueError as error:
                    raise ValueError(f"X must be an array of numbers with rows of equal length: {error}") from error
        if X.ndim != 2:
            hint = "X[None] is a single row" if X.ndim == 1 else "give it a row per sample"
            raise ValueError(f"X must have two dimensions, and its shape is {X.shape}; {hint}")
        if X.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {X.shape[1]} features, and the student was fitted with {self.n_features_in_}")
        if X.dtype.kind not in "fiub":
            if X.dtype.kind != "O":
                raise ValueError(
                    f"X must hold real numbers, and its dtype is {X.dtype}; convert it with X.astype(float)"
                )
            try:
                X = X.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"X must hold real numbers: {error}") from error
        return X


def _finite_rows(X, dtype: type = np.float32, what: str = "X") -> np.ndarray:
    if hasattr(X, "toarray"):
        X = X.toarray()
    rows = X
    if X.dtype != dtype:
        with np.errstate(over="ignore"):
            rows = X.astype(dtype, order="C")
    elif not X.flags.c_contiguous:
        rows = np.ascontiguousarray(X)
    # One pass tells of nearly every block that all is finite; large numbers may overflow in it
    if not math.isfinite(np.vdot(rows, rows)) and not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            f"{what} has values that are NaN, infinite or too large for {np.dtype(dtype)}, as {X[row, column]} in "
            f"column {column}; replace them, for instance with sklearn.impute.SimpleImputer"
        )
    return rows


def _check_columns(X, names: tuple[str, ...]) -> None:
    columns = getattr(X, "columns", None)
    if columns is None or callable(columns):
        return
    columns = list(columns)
    if columns == list(names) or not all(isinstance(column, str) for column in columns):
        return
    missing, surplus = [name for name in names if name not in columns], [name for name in columns if name not in names]
    if missing or surplus:
        raise ValueError(
            f"X must have the columns the student was fitted with: {len(missing)} are missing {missing[:5]}, "
            f"{len(surplus)} are unknown {surplus[:5]}"
        )
    raise ValueError("X has its columns in another order than the student; use X[student.feature_names_in_]")


def _offered(network: Network) -> set[str]:
    names = {network.target}
    if network.classes is not None:
        names.add("predict")
        if network.output != "identity":
            names.add("predict_proba")
    return names
