"""Mixin of all fitted estimators: predictions always come from the encoded student file."""

import os
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, BinaryIO, cast

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags, TransformerTags, check_array, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted, validate_data

from distill.codecs import container
from distill.network import Network
from distill.runtime import Student, columns
from distill.teachers import Precomputed, as_array, is_detector, predicts_values, resolve_target, teacher_type
from distill.training.fidelity import fidelity, label_positions

# Arrays of these kinds of dtype need no conversion or names: the student's checks suffice, and take a tenth of the time
_CHECKED_BY_STUDENT = "fiub"
# Methods of a student, and all methods that exist only where the imitated estimator has them
_OF_STUDENT = ("predict", "predict_proba", "decision_function", "transform")
_OFFERED = (
    "predict",
    "predict_proba",
    "decision_function",
    "transform",
    "fit_transform",
    "fit_predict",
    "get_feature_names_out",
)


def with_columns(X: Any) -> Any:
    """Return X in a form whose names of columns are not lost, for the fit of an estimator.

    Data frames that scikit-learn knows, arrays, sparse matrices and lists are returned as they are. All other
    containers with named columns (record batches, dask's data frames, duckdb's relations, dicts of columns, ...) are
    read once and returned as a structured array.
    """
    return columns.structured(X) if _names_unknown_to_sklearn(X) is not None else X


def without_columns(X: Any) -> Any:
    """Return X in a form that scikit-learn reads: what `with_columns` would make a structured array, as an array."""
    if isinstance(X, np.ma.MaskedArray) or _names_unknown_to_sklearn(X) is not None:
        return columns.matrix(X)
    return X


def validated(estimator: BaseEstimator, X: Any, *, reset: bool = False, **check_params) -> Any:
    """Validate X as scikit-learn's `validate_data` does, with the names of columns of any container.

    Parameters
    ----------
    estimator : estimator
        Its `n_features_in_` and `feature_names_in_` are set or checked.
    X : {array-like, container of columns, sparse matrix} of shape (n_samples, n_features)
    reset : bool, default=False
        Whether this is a fit.
    **check_params
        See `sklearn.utils.check_array`.

    Returns
    -------
    ndarray or CSR

    Raises
    ------
    ValueError
        If X is invalid, or has other columns than in the fit, or in another order.
    """
    fitted = vars(estimator).get("feature_names_in_")
    columns.check_labels(X, None if reset else fitted)
    names = _names_unknown_to_sklearn(X)
    if names is not None or isinstance(X, np.ma.MaskedArray):
        X = columns.matrix(X)
    if names is None or (fitted is None and not reset):
        if names is not None:
            warnings.warn(
                f"X has feature names, but {type(estimator).__name__} was fitted without feature names", stacklevel=4
            )
        return validate_data(estimator, X, reset=reset, **check_params)
    if reset:
        rows = validate_data(estimator, X, reset=True, **check_params)
        estimator.feature_names_in_ = np.array(names, dtype=object)
        return rows
    if list(names) != list(fitted):
        missing, unseen = (
            [name for name in one if name not in other] for one, other in ((fitted, names), (names, fitted))
        )
        details = [
            *([f"Feature names unseen at fit time: {unseen[:5]}."] if unseen else []),
            *([f"Feature names seen at fit time, yet now missing: {missing[:5]}."] if missing else []),
        ] or ["Feature names must be in the same order as they were in fit."]
        raise ValueError(f"The feature names should match those that were passed during fit. {' '.join(details)}")
    return check_array(X, input_name="X", estimator=estimator, **check_params)


def validated_rows(estimator: BaseEstimator, X: Any, **settings: Any) -> Any:
    """Return X, checked by `validated`, as an array or CSR matrix in the numeric dtype of X.

    A conversion to float32 or float64 would cut digits of integers. Text is converted to float64, as scikit-learn does.
    """
    X = columns.in_memory(X)  # a lazy container is computed once, and gives its dtypes without a warning
    _check_columns_are_numbers(X)
    try:
        return validated(estimator, X, accept_sparse="csr", dtype="numeric", **settings)
    except ValueError:
        return validated(estimator, X, accept_sparse="csr", dtype=np.float64, **settings)


def _check_columns_are_numbers(X: Any) -> None:
    """Raise ValueError for dates and time spans, which NumPy would take for numbers or refuse without a column."""
    kinds = getattr(X, "dtypes", None)
    if hasattr(X, "iloc") and kinds is not None and hasattr(kinds, "items"):
        found = [(name, kind) for name, kind in kinds.items() if getattr(kind, "kind", "") in ("m", "M")]
    else:
        found = [(0, X.dtype)] if isinstance(X, np.ndarray) and X.dtype.kind in "mM" else []
    if found:
        raise ValueError(
            f"X has dates or time spans in column {found[0][0]!r} ({found[0][1]}); convert them to numbers, such as "
            "seconds since a date, or leave them out"
        )


def _names_unknown_to_sklearn(X: Any) -> tuple[str, ...] | None:
    """Return the names of columns that scikit-learn does not see, None where it sees them or there are none."""
    if isinstance(X, np.ndarray) and X.dtype.names is None:
        return None
    names = columns.column_names(X)
    if names is None:
        return None
    seen = BaseEstimator()
    try:
        validate_data(seen, X, skip_check_array=True)
    except Exception:  # it asks X for row 0 to count the features, and X may raise anything
        pass
    return None if hasattr(seen, "feature_names_in_") else names


def all_or_nothing(fit: Callable) -> Callable:
    """Decorate a fit: if it fails or is interrupted, all attributes of the estimator are restored."""

    @wraps(fit)
    def guarded(self, *args, **kwargs):
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return guarded


class StudentMixin(TransformerMixin, ClassNamePrefixFeaturesOutMixin):
    """Mixin of estimators whose fit ends in a student file.

    The methods `predict`, `predict_proba`, `transform`, `decision_function` (and with them `fit_transform`,
    `fit_predict`, `get_feature_names_out`, `set_output`) exist where the imitated estimator has them. A subclass
    implements `imitated_estimator`, `imitated_method` and `predict_imitated`, and its fit ends with `_adopt`.

    Attributes
    ----------
    network_ : Network
        The network as NumPy arrays, decoded from the bytes.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Sizes of its parts in bytes; see `distill.codecs.container.report`.
    classes_ : ndarray of shape (n_classes,)
        The labels, where labels are predicted.
    """

    def __init_subclass__(cls, **kwargs):
        # After the class body, because scikit-learn's mixin wraps `transform` for set_output at the same time
        super().__init_subclass__(**kwargs)
        inherited = vars(StudentMixin) if StudentMixin in cls.__bases__ else {}
        for name in _OFFERED:
            method = vars(cls).get(name, inherited.get(name))
            if method is not None:
                setattr(cls, name, available_if(where_offered(name))(method))

    def imitated_estimator(self) -> BaseEstimator:
        """Return the imitated estimator, fitted or not."""
        raise NotImplementedError

    def imitated_method(self) -> str:
        """Return the name of the imitated method.

        Raises
        ------
        ValueError, TypeError
            If the imitated estimator has none.
        """
        return resolve_target(self.imitated_estimator())

    def predict_imitated(self, X: Any) -> np.ndarray:
        """Return the predictions of the imitated estimator, fitted, for rows X, by the imitated method.

        Raises
        ------
        ValueError
            If it predicts for the rows of its fit only, as DBSCAN and TSNE do.
        """
        raise NotImplementedError

    def excluded_label(self) -> int | None:
        """Return the label of the imitated estimator whose rows no score counts, None if there is none."""
        return None

    def predict(self, X) -> np.ndarray:
        """Predict labels or regression values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Regression values are the student's float32 as float64, the dtype of scikit-learn's regressors.
        """
        predictions = self.student_output("predict", X)
        return predictions.astype(np.float64) if self.network_.classes is None else predictions

    def predict_proba(self, X) -> np.ndarray:
        """Predict the probability of every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`; rows sum to one.
        """
        return self.student_output("predict_proba", X)

    def decision_function(self, X) -> np.ndarray:
        """Compute the decision values of a classifier or the normality scores of an outlier detector.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes), float32
        """
        return self.student_output("decision_function", X)

    def transform(self, X) -> np.ndarray:
        """Compute the embedding.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32
            Or a data frame; see `set_output`.
        """
        return self.student_output("transform", X)

    def fit_transform(self, X, y=None, **fit_params) -> np.ndarray:
        """Fit, then return the embedding of the same rows as `transform` does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or None
        **fit_params
            See `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32
        """
        X = with_columns(X)
        return self.fit(X, y, **fit_params).transform(X)

    def fit_predict(self, X, y=None, **fit_params) -> np.ndarray:
        """Fit, then return the labels of the same rows as `predict` does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or None
        **fit_params
            See `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        X = with_columns(X)
        return self.fit(X, y, **fit_params).predict(X)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return the names of the output columns of `transform`: the class name in lower case and a number.

        Parameters
        ----------
        input_features : array-like of str or None
            Not used.

        Returns
        -------
        ndarray of str
        """
        return super().get_feature_names_out(input_features)

    def score(self, X, y=None) -> float:
        """Measure fidelity to the imitated estimator, or the usual score against y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like or None
            Without y: fidelity to the imitated estimator's predictions for X, which is accuracy for labels and
            variance-weighted R^2 otherwise. With y: accuracy or R^2 against y; of probabilities, y may have a column
            for each class, and its largest is the label. The numbering of clusters is arbitrary: against classes use
            `sklearn.metrics.adjusted_rand_score`. With noise="exclude" rows with the label -1, the teacher's or that of
            y, do not count. For an embedding, a y that does not have its shape is ignored.

        Returns
        -------
        float
            At most 1.

        Raises
        ------
        ValueError
            If y is not given and the teacher predicts for the rows of its fit only, as DBSCAN and TSNE do, or is
            "precomputed".
        """
        check_is_fitted(self)
        X = with_columns(X)
        target, classes = self.network_.target, self.network_.classes
        n_outputs = self.network_.layer_sizes[-1]
        if y is not None and target == "transform":
            y = as_array(y, "y")
            y = y.reshape(len(y), -1)
            y = y if y.shape == (_num_samples(X), n_outputs) else None
        if y is not None:
            if sparse.issparse(y):
                y = as_array(y, "y")
            if classes is not None and np.ndim(y) == 2 and np.shape(y)[1] > 1:
                if target != "predict_proba" or np.shape(y)[1] != len(classes):
                    raise ValueError(
                        f"y has {np.shape(y)[1]} columns, and the student one label per row; pass labels, or one "
                        f"probability for each of {len(classes)} classes where probabilities are imitated"
                    )
                y = classes[label_positions(np.asarray(y))]
            if classes is not None:
                return float(accuracy_score(*self._counted(y, self.predict(X))))
            output = self.student_output(target, X)
            # scikit-learn's R^2 with these weights would not count errors in columns of y that are constant
            if target == "transform":
                return fidelity(y, output, classification=False)
            return float(r2_score(y, output))
        expected = as_array(self.predict_imitated(X), "that is imitated")
        if classes is None or target == "decision_function":
            return fidelity(expected, self.student_output(target, X), classification=False)
        expected = expected if expected.ndim == 1 else classes[label_positions(expected)]
        return fidelity(*self._counted(expected, self.predict(X)), classification=True)

    def _counted(self, expected: Any, found: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return expected and found labels without rows of the excluded label; ValueError if no row is left."""
        excluded, labels = self.excluded_label(), np.asarray(expected)
        if excluded is None or labels.dtype.kind not in "iuf" or labels.shape != found.shape:
            return expected, found
        counted = labels != excluded
        if not counted.any():
            raise ValueError(
                f"all {len(labels)} rows of X have the label {excluded}, which noise='exclude' leaves out, so that "
                "there is nothing to compare; give other rows"
            )
        return labels[counted], found[counted]

    def to_bytes(self) -> bytes:
        """Return the student file as bytes, which `distill.load` reads."""
        check_is_fitted(self)
        return self._data

    def save(self, path: str | os.PathLike | BinaryIO) -> None:
        """Write the student file, which `distill.load` reads; an existing file is replaced atomically.

        Parameters
        ----------
        path : str, path or open binary file
        """
        container.save(self.to_bytes(), path)

    @property
    def network_(self) -> Network:
        """The network as NumPy arrays, decoded from the bytes."""
        return self._fitted_student("network_").network

    @property
    def nbytes_(self) -> int:
        """Size of the student file in bytes."""
        self._fitted_student("nbytes_")
        return len(self._data)

    @property
    def report_(self) -> dict:
        """Sizes of the parts of the student file, in bytes."""
        return cast(dict, self._fitted_student("report_").report)  # a decoded student has one

    @property
    def classes_(self) -> np.ndarray:
        """The labels, in the order of the columns of `predict_proba`."""
        classes = self._fitted_student("classes_").network.classes
        if classes is None:
            raise AttributeError(f"{type(self).__name__} does not predict labels here, so it has no classes_")
        return classes

    @property
    def _n_features_out(self) -> int:
        return self.network_.layer_sizes[-1]

    def _adopt(self, data: bytes) -> None:
        """Set the fitted attributes: all predictions then come from the student encoded in `data`."""
        self.__dict__.update(student_attributes(data))

    def _fitted_student(self, attribute: str) -> Student:
        """Return the student; AttributeError, as for a missing `attribute`, before the fit."""
        if "_student" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no {attribute} before it is fitted")
        return self._student

    def student_output(self, method: str, X) -> np.ndarray:
        """Return the output of one of the student's methods, float32 or labels.

        Parameters
        ----------
        method : {"predict", "predict_proba", "transform", "decision_function"}
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        if "_student" not in vars(self):
            check_is_fitted(self)
        output = getattr(self._student, method)
        names = "feature_names_in_" in vars(self)
        network = self._student.network
        # Missing values are for the student to accept or to refuse
        finite = "allow-nan" if network.fill else True
        try:
            if type(X) is np.ndarray and X.dtype.kind in _CHECKED_BY_STUDENT and X.ndim == 2 and len(X) and not names:
                return output(X)
            return output(validated_rows(self, X, ensure_all_finite=finite))
        except ValueError:
            # scikit-learn's message, where it has one
            dtype = np.float64 if network.has_wide_inputs else np.float32
            validated(self, X, accept_sparse="csr", dtype=dtype, ensure_all_finite=finite)
            raise

    def _methods(self) -> set[str]:
        """Return the names of the prediction methods that exist, or will exist after fit."""
        if "_student" in vars(self):
            network = self.network_
            found, has_labels = {network.target}, network.classes is not None
            probable = has_labels and network.gives_probabilities
        else:
            try:
                target, imitated = self.imitated_method(), self.imitated_estimator()
            except (TypeError, ValueError):
                return set()
            kind = teacher_type(imitated)
            found = {target}
            if isinstance(imitated, Precomputed) and imitated.target == "auto":
                found = {"predict", "predict_proba", "transform"}  # which of them is known by y
            has_labels = not predicts_values(imitated, target) or (
                target == "decision_function" and (kind == "classifier" or is_detector(imitated))
            )
            probable = target == "predict_proba" or (
                target == "predict" and kind in ("classifier", "clusterer", "outlier_detector")
            )
        found |= {"predict"} if has_labels else set()
        found |= {"predict_proba"} if probable else set()
        found |= {"fit_transform", "get_feature_names_out"} if "transform" in found else set()
        clusters = has_labels and teacher_type(self.imitated_estimator()) != "classifier"
        return found | ({"fit_predict"} if clusters else set())

    def __sklearn_is_fitted__(self) -> bool:
        return "_student" in vars(self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = None
        tags.target_tags.required = False
        try:
            target, imitated = self.imitated_method(), self.imitated_estimator()
        except (TypeError, ValueError):
            return tags
        try:
            inner = get_tags(imitated)
        except AttributeError:
            return tags
        tags.input_tags.sparse = inner.input_tags.sparse
        tags.input_tags.allow_nan = inner.input_tags.allow_nan
        tags.input_tags.positive_only = inner.input_tags.positive_only
        tags.target_tags.required = inner.target_tags.required and not isinstance(imitated, FrozenEstimator)
        tags.target_tags.positive_only = inner.target_tags.positive_only
        tags.non_deterministic = inner.non_deterministic
        if target == "transform":
            tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        elif inner.estimator_type == "classifier":
            tags.estimator_type = "classifier"
            tags.classifier_tags = inner.classifier_tags or ClassifierTags()
            tags.classifier_tags.multi_label = False
        elif inner.estimator_type == "regressor":
            tags.estimator_type = "regressor"
            tags.regressor_tags = inner.regressor_tags or RegressorTags()
            tags.target_tags.multi_output = inner.target_tags.multi_output
            tags.target_tags.single_output = inner.target_tags.single_output
        elif inner.estimator_type == "clusterer":
            tags.estimator_type = "clusterer"
            tags.classifier_tags = ClassifierTags()  # read by scikit-learn wherever there is a predict_proba
        return tags

    def __getstate__(self) -> dict:
        # The decoded student follows from the bytes, and is excluded from pickles and from hashes of joblib
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_student"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if "_data" in state:
            self._adopt(state["_data"])


def student_attributes(data: bytes) -> dict[str, Any]:
    """Return the fitted attributes with which an estimator predicts as the student encoded in `data`."""
    return {"_data": data, "_student": Student.from_bytes(data)}


def where_offered(name: str) -> Callable[[StudentMixin], bool]:
    """Return the condition, for scikit-learn's `available_if`, that an estimator has the prediction method `name`."""

    def is_offered(estimator: StudentMixin) -> bool:
        if name in _OF_STUDENT and "_student" in vars(estimator):
            return hasattr(estimator._student, name)
        return name in estimator._methods()

    return is_offered
