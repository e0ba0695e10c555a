"""Load a student file and predict with NumPy alone.

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
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import MethodType
from typing import Any, BinaryIO

import numpy as np
from numpy import ndarray

from distill.codecs import container, files
from distill.network import Network
from distill.runtime import columns
from distill.runtime.forward import Forward, logistic, output_values, softmax
from distill.runtime.preprocessing import Preprocessing
from distill.runtime.single_row import SingleRowClassifier
from distill.runtime.threads import map_blocks

__all__ = ["Student", "load"]

# Single rows after which their fast path is prepared. That takes as long as 40 (64-256-64-10) to 240 (784-256-64-10)
# predictions on the fast path
_SINGLE_ROWS_BEFORE_PREPARING = 8
# Rows per block of moments, which take 32 float64 values per unit and row in each layer
_MOMENT_ROWS = 4096
# Values of a block of rows at most, 16 MB in float32: blocks of wide sparse rows are made dense, and their memory does
# not grow with the width. Blocks are multiples of 16 rows, and predictions do not depend on them
_BLOCK_VALUES, _LEAST_ROWS = 1 << 22, 16
# Steps of float32 around an offset, in standard deviations, from which float32 rows are warned of
_COARSE = 0.1
_METHODS = {"predict", "predict_proba", "transform", "decision_function"}


def load(source: str | os.PathLike | BinaryIO | bytes) -> "Student":
    """Read a student from a student file or its bytes.

    Parameters
    ----------
    source : str, path, open binary file or bytes-like
        A file opened with mode "rb", `io.BytesIO`, or anything else whose `read` returns bytes is read from its present
        position to its end.

    Returns
    -------
    Student

    Raises
    ------
    StudentFileError
        If the file is damaged, of another format version, or no student file.
    TypeError
        If the source is none of these, or a file opened as text.
    OSError
        If there is no such file.
    """
    return Student.from_bytes(files.read_bytes(source))


class _Available:
    """Decorator of a method that exists only for students whose network was trained for it."""

    def __init__(self, function: Callable):
        self.function = function
        self.name = function.__name__
        self.__doc__ = function.__doc__

    def __get__(self, student: "Student | None", owner: type) -> Callable:
        if student is None:
            return self.function
        if self.name not in student._available:
            network = student.network
            raise AttributeError(
                f"this student has no {self.name}: it was trained for {network.target!r} with output {network.output!r}"
            )
        return MethodType(self.function, student)


class Student:
    """A trained network that predicts as its teacher does, in NumPy.

    It has the method of the teacher that the network was trained for, among `predict`, `predict_proba`, `transform` and
    `decision_function`, and `predict` and `predict_proba` where there are labels and probabilities. The prediction for
    a row is bit-identical for any other rows in the batch, any dtype and memory order of X, and any number of threads.

    Parameters
    ----------
    network : Network
    report : dict or None
        Sizes of the parts of its file; see `distill.codecs.container.report`.
    extras : tuple of dict of str to ndarray
        Arrays of each layer that the file stores besides the weights.
    preprocessing : Preprocessing or None
        Steps before the network.

    Attributes
    ----------
    network : Network
    report : dict or None
    extras : tuple of dict
    preprocessing : Preprocessing or None
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        If the file stores them.
    classes_ : ndarray of shape (n_classes,)
        If labels are predicted.

    Notes
    -----
    X is checked: two dimensions, the right number of features, finite values. If the file stores feature names and X
    has names, of whatever library, its columns are taken by name, in any order; one that is missing or unknown is an
    error. Computation is in float32, and in float64 for preprocessing.
    An X without rows gives predictions without rows.
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
        self._available = _available_methods(network)
        # The layers as they are after a scaling in float64, which `_rows` does
        self._layers = _without_scaling(network) if network.has_wide_inputs else network
        self._forward = Forward(self._layers)
        self._is_plain = preprocessing is None and not network.has_wide_inputs
        self._coarse = _coarse_column(network) if preprocessing is None else None
        # Missing values stay missing through steps for each feature alone, and a product would spread them
        self._may_be_missing = network.fill and (preprocessing is None or preprocessing.is_elementwise)
        self._table = None if preprocessing is None else preprocessing.table
        # Imported when first needed: most files have no table
        self._table_rows = None if self._table is None else import_module("distill.runtime.table.rows").table_rows
        self._single_shape = (1, network.n_features) if self._is_plain else None
        self._n_single_rows = 0
        self._data: bytes | None = None
        self._single_row: SingleRowClassifier | None = None

    @classmethod
    def from_bytes(cls, data: bytes) -> "Student":
        """Read a student from the bytes of a student file.

        Raises
        ------
        StudentFileError
            See `load`.
        """
        contents = container.decode(data)
        preprocessing = Preprocessing(contents.n_features, contents.steps) if contents.steps else None
        student = cls(contents.network, container.summarize(contents), contents.extras, preprocessing)
        student._data = bytes(data)
        return student

    def to_bytes(self) -> bytes:
        """Return the bytes of the student file from which the student was read.

        Raises
        ------
        ValueError
            If it was made from a Network.
        """
        if self._data is None:
            raise ValueError(
                "this student was not read from a file; distill.codecs.container.encode writes its network"
            )
        return self._data

    def save(self, path: Any) -> None:
        """Write the student file from which the student was read; see `distill.save`.

        Parameters
        ----------
        path : str, path or open binary file
        """
        files.write_bytes(self.to_bytes(), path)

    def score(self, X: Any, y: Any) -> float:
        """Return the agreement with y: accuracy for labels, otherwise the R^2 with columns weighted by their variance.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)

        Returns
        -------
        float
            At most 1.

        Raises
        ------
        ValueError
            If y is None or has another shape than the predictions.
        """
        if y is None:
            raise ValueError("a loaded student is compared with y, and y is None; its teacher is not in the file")
        method = self.predict if hasattr(self, "predict") else getattr(self, self.network.target)
        expected, found = np.asarray(y), method(X)
        if expected.shape != found.shape:
            raise ValueError(f"y has the shape {expected.shape}, and the predictions {found.shape}; they must be equal")
        if self.network.classes is not None:
            return float(np.mean(expected == found))
        error, total = np.square(expected - found).sum(), np.square(expected - expected.mean(axis=0)).sum()
        return float(1 - error / total) if total else float(error == 0)

    def raw_outputs(self, X: Any) -> np.ndarray:
        """Return the outputs of the last layer: logits, or values without their output function, offset and scale.

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
        outputs = np.empty((X.shape[0], self.network.layer_sizes[-1]), np.float32)

        def store(block: slice, part: np.ndarray) -> None:
            outputs[block] = part

        self._each_block(X, store)
        return outputs

    def output_moments(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and variance of the outputs of the last layer, from a file that stores variances of weights.

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
            If the file stores no variances, or X is invalid; see `raw_outputs`.
        """
        from distill.runtime.moments import output_moments

        if not all("row_variance" in extras for extras in self.extras) or not self.extras:
            raise ValueError(
                "the file of this student stores no variances of its weights; files of MatrixGaussianCompressor do"
            )
        rows, columns = ([extras[name] for extras in self.extras] for name in ("row_variance", "column_variance"))
        X = self._matrix(X)
        size = self._rows_per_block(_MOMENT_ROWS)
        blocks = [
            output_moments(self._layers, rows, columns, self._rows(X[start : start + size]))
            for start in range(0, max(X.shape[0], 1), size)
        ]
        mean, variance = (np.concatenate(parts) for parts in zip(*blocks))
        return mean, variance

    @_Available
    def predict(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predict labels or regression values.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to return standard deviations of regression values as well, from a file that stores variances: of
            the learned function and of the noise together.

        Returns
        -------
        predictions : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        std : ndarray of the same shape
            With `return_std` only.

        Raises
        ------
        ValueError
            If X is invalid, see `raw_outputs`, or `return_std` is given for labels.
        """
        # The path of a single row is first and short: a microsecond matters
        single_row = self._single_row
        if single_row is not None and type(X) is ndarray and X.shape == self._single_shape and not return_std:
            label = single_row.label(X)
            if label >= 0:
                return self.classes_[label : label + 1].copy()
        classes = self.network.classes
        if classes is None:
            return self._regression(X, return_std)
        if return_std:
            raise ValueError("return_std=True is for regression, and this student predicts labels; use predict_proba")
        X = self._matrix(X)
        if single_row is None and X.shape == self._single_shape and len(classes) > 1:
            self._n_single_rows += 1
            if self._n_single_rows >= _SINGLE_ROWS_BEFORE_PREPARING:
                self._single_row = SingleRowClassifier(self._forward.prepared, self.network.activation)
        labels = np.empty(X.shape[0], np.intp)
        one_output = self.network.layer_sizes[-1] < len(classes)

        def store(block: slice, outputs: np.ndarray) -> None:
            labels[block] = outputs[:, 0] > 0 if one_output else outputs.argmax(axis=1)

        self._each_block(X, store)
        return classes[labels]

    @_Available
    def predict_proba(self, X: Any, averaged: bool = False) -> np.ndarray:
        """Predict the probability of every label.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        averaged : bool
            Whether to average the probabilities over the posterior of the weights, from a file that stores variances,
            instead of those of the mean weights: less confident far from the training samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`.

        Raises
        ------
        ValueError
            If X is invalid, see `raw_outputs`, or `averaged` is given without variances.
        """
        if averaged:
            from distill.runtime.moments import averaged_probabilities

            return averaged_probabilities(*self.output_moments(X), self.network.output)
        logits = self.raw_outputs(X)
        if self.network.output == "softmax":
            return softmax(logits)
        positive = logistic(logits)
        return np.hstack([1 - positive, positive]) if positive.shape[1] == 1 else positive

    @_Available
    def transform(self, X: Any, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Compute the embedding.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to return standard deviations as well; see `predict`.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_components), float32
        std : ndarray of the same shape
            With `return_std` only.
        """
        return self._regression(X, return_std)

    @_Available
    def decision_function(self, X: Any) -> np.ndarray:
        """Compute decision values.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_outputs) or (n_samples,), float32
        """
        return self._values(self.raw_outputs(X))

    def fit(self, X: Any, y: Any = None) -> "Student":
        """Do nothing but check the columns of X: a student is trained already.

        With this method a student can be a step of a scikit-learn Pipeline, the estimator of `cross_val_predict`, the
        teacher of a Distiller, and the estimator of a compressor.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
        y : None
            Not used.

        Returns
        -------
        Student
            The student itself.

        Raises
        ------
        ValueError
            If X has another number of features, or other columns.
        """
        self._matrix(X)
        return self

    def get_params(self, deep: bool = True) -> dict:
        """Return the parameters for scikit-learn: a trained student has none.

        Parameters
        ----------
        deep : bool
            Not used.
        """
        return {}

    def set_params(self, **params: Any) -> "Student":
        """Return the student itself; ValueError for any parameter, because it has none.

        Parameters
        ----------
        **params
            None.
        """
        if params:
            raise ValueError(f"a student is trained and has no parameters, got {', '.join(params)}")
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> "Student":
        # A clone is for a new fit, which changes nothing here
        return self

    def __sklearn_tags__(self) -> Any:
        # Asked by scikit-learn, which has then been imported; nothing else here needs it
        tags = import_module("sklearn.utils")
        predicts = "predict" in self._available
        kind = None if not predicts else "regressor" if self.network.classes is None else "classifier"
        return tags.Tags(
            estimator_type=kind,
            target_tags=tags.TargetTags(required=False),
            transformer_tags=tags.TransformerTags() if "transform" in self._available else None,
            classifier_tags=tags.ClassifierTags() if kind == "classifier" else None,
            regressor_tags=tags.RegressorTags() if kind == "regressor" else None,
            input_tags=tags.InputTags(sparse=True),
            requires_fit=False,
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__()} - (_METHODS - self._available))

    def __repr__(self) -> str:
        sizes = "-".join(map(str, self.network.layer_sizes))
        size = f", {self.report['n_bytes']} bytes" if self.report else ""
        return f"<Student {sizes}: {', '.join(sorted(self._available))}{size}>"

    def __getstate__(self) -> dict:
        # To prepare the fast path again is cheaper than to send it
        return self.__dict__ | {"_n_single_rows": 0, "_single_row": None}

    def _regression(self, X: Any, return_std: bool) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return values, and their standard deviations if demanded."""
        values = self._values(self.raw_outputs(X))
        if not return_std:
            return values
        std = np.sqrt(self.output_moments(X)[1] + self.extras[-1].get("noise_variance", np.float32(0)))
        if self.network.output_scale is not None:
            std = std * self.network.output_scale
        return values, std.reshape(values.shape)

    def _values(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs of the last layer as values, a single one as a vector if `squeeze` is set."""
        values = output_values(self.network, outputs)
        return values[:, 0] if self.network.squeeze else values

    def _each_block(self, X: Any, store: Callable[[slice, np.ndarray], None]) -> None:
        """Call `store` with the slice and the outputs of each block of rows, in threads for large X."""
        forward, size = self._forward, self._rows_per_block(self._forward.block_rows)
        if X.shape[0] <= size:
            store(slice(None), forward(self._rows(X)))
            return

        def make_worker() -> Callable[[int], None]:
            buffers = forward.buffers()

            def compute(start: int) -> None:
                block = slice(start, start + size)
                store(block, forward(self._rows(X[block]), buffers))

            return compute

        map_blocks(make_worker, range(0, X.shape[0], size), X.shape[0] * self.network.n_parameters)

    def _rows_per_block(self, largest: int) -> int:
        """Return the number of rows of a block: `largest`, or fewer for wide rows."""
        width = max(self.n_features_in_, self.network.n_features, 1)
        if self._table is not None:
            return max(1, min(largest, _BLOCK_VALUES // max(width, self._table.n_cells)))
        return min(largest, max(_LEAST_ROWS, _BLOCK_VALUES // width // _LEAST_ROWS * _LEAST_ROWS))

    def _rows(self, X: Any) -> np.ndarray:
        """Return a block of rows as inputs of the network, float32."""
        if self._is_plain:
            return _finite_rows(X)
        if self._table is not None and self.preprocessing is not None:
            rows = self.preprocessing(X)
            if not self._may_be_missing and np.isnan(rows).any():
                raise _missing_after_table(X, int(np.argmax(np.isnan(rows).any(axis=1))))
        else:
            rows = _finite_rows(X, np.float64, may_be_missing=self._may_be_missing)
            if self.preprocessing is not None:
                rows = self.preprocessing(rows.copy())
        if self.network.has_wide_inputs:
            rows = self.network.scale_inputs(rows)
        return _finite_rows(rows, name="X before the network")

    def _matrix(self, X: Any) -> Any:
        """Return X as a numeric array or CSR matrix of two dimensions and the right width, or raise ValueError.

        For a table it is returned as its cells.
        """
        if self._table_rows is not None:
            return self._table_rows(X, self._table, self.network.feature_names)
        given = X
        if type(X) is not np.ndarray or X.dtype.names is not None:
            X = columns.matrix(X, self.network.feature_names)
        if X.ndim != 2:
            hint = columns.single_row(given, self.n_features_in_) if X.ndim == 1 else "it needs a row per sample"
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
        if self._coarse is not None and X.dtype in (np.float32, np.float16):
            warnings.warn(
                f"column {self._coarse} of X is {X.dtype}, whose steps around the values of the fit are as large as "
                "the differences that the student has learned; give it float64",
                stacklevel=4,
            )
        return X


def _missing_after_table(X: Any, row: int) -> ValueError:
    """Return the error for a row of which a table has made a missing value."""
    missing = [
        label for label, column in zip(X.labels, X.columns()) if column[row] is None or column[row] != column[row]
    ]
    return X.error(
        "is missing after the steps before the network, which takes no missing values"
        + (f"; it is missing in the columns {missing[:5]}" if missing else "")
        + "; fill it in, or fit a SimpleImputer before the student",
        row,
    )


def _finite_rows(X: Any, dtype: type = np.float32, name: str = "X", may_be_missing: bool = False) -> np.ndarray:
    """Return a C-contiguous block of rows in the dtype, dense; ValueError if a value is NaN, infinite or too large.

    With `may_be_missing` a value may be NaN.
    """
    if hasattr(X, "toarray"):
        X = X.toarray()
    rows = X
    if X.dtype != dtype:
        with np.errstate(over="ignore"):
            rows = X.astype(dtype, order="C")
    elif not X.flags.c_contiguous:
        rows = np.ascontiguousarray(X)
    # The sum of squares is finite for nearly every valid block, and faster than isfinite; large values overflow in it
    if not math.isfinite(np.vdot(rows, rows)):
        is_wrong = np.isinf(rows) if may_be_missing else ~np.isfinite(rows)
        if is_wrong.any():
            row, column = np.argwhere(is_wrong)[0]
            raise ValueError(
                f"{name} has values that are NaN, infinite or too large for {np.dtype(dtype)}, as {X[row, column]} in "
                f"column {column}; replace them, for instance with sklearn.impute.SimpleImputer"
            )
    return rows


def _coarse_column(network: Network) -> int | None:
    """Return a column whose differences float32 rows cannot hold around its offset, None if there is none."""
    if not network.has_wide_inputs or network.offset is None or network.scale is None:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.spacing(np.abs(network.offset).astype(np.float32)) * np.ones(network.n_features)
        coarse = np.flatnonzero(steps * network.scale > _COARSE)
    return int(coarse[0]) if len(coarse) else None


def _without_scaling(network: Network) -> Network:
    """Return the network that takes scaled inputs."""
    return replace(network, offset=None, scale=None, clip=None, fill=False)


def _available_methods(network: Network) -> set[str]:
    """Return the names of the methods of a student with this network."""
    names = {network.target}
    if network.classes is not None:
        names.add("predict")
        if network.gives_probabilities:
            names.add("predict_proba")
    return names
