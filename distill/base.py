"""What every fitted estimator here has in common: it is the bytes of a student file, and answers as they do."""

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags, TransformerTags, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from distill.codecs import container
from distill.network import Network
from distill.runtime import Student
from distill.teachers import explained_variance, resolve_target, speaks_numbers, teacher_type

_BLOCK = 4096


def all_or_nothing(fit: Callable) -> Callable:
    """Make a fit that fails or is interrupted leave the estimator as it was."""

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
    `fit_predict`, `get_feature_names_out`, `set_output`) exist where what is imitated calls for them. A subclass names
    it by `_imitated` and `_target`, and its fit ends with `_adopt`.

    Attributes
    ----------
    network_ : Network
        The network as NumPy arrays, decoded from the bytes.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Where its bytes are; see `distill.codecs.container.report`.
    classes_ : ndarray of shape (n_classes,)
        The labels, where the answers are labels.
    """

    def _imitated(self) -> BaseEstimator:
        """Return the estimator that is imitated, fitted or not."""
        raise NotImplementedError

    def _target(self) -> str:
        """Return the method that is imitated; ValueError or TypeError if there is none."""
        return resolve_target(self._imitated())

    def _ask_imitated(self, X: Any) -> np.ndarray:
        """Return the answers of what was imitated, fitted, for rows X."""
        raise NotImplementedError

    def predict(self, X) -> np.ndarray:
        """Answer labels, or what a regressor answers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Numbers are the student's float32 ones as float64, which scikit-learn's regressors answer.
        """
        answers = self._answer("predict", X)
        return answers.astype(np.float64) if self.network_.classes is None else answers

    def predict_proba(self, X) -> np.ndarray:
        """Answer the probability of every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`; rows sum to one.
        """
        return self._answer("predict_proba", X)

    def decision_function(self, X) -> np.ndarray:
        """Answer the decision values of a classifier, or how normal an outlier detector finds each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes), float32
        """
        return self._answer("decision_function", X)

    def transform(self, X) -> np.ndarray:
        """Answer the embedding.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_components), float32
            Or a data frame; see `set_output`.
        """
        return self._answer("transform", X)

    def fit_transform(self, X, y=None, **fit_params) -> np.ndarray:
        """Fit, then answer the embedding of the same rows as `transform` does.

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
        return self.fit(X, y, **fit_params).transform(X)

    def fit_predict(self, X, y=None, **fit_params) -> np.ndarray:
        """Fit, then answer the labels of the same rows as `predict` does.

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
        return self.fit(X, y, **fit_params).predict(X)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Return the names of the columns that `transform` answers: the class name in small letters and a number.

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
        """Measure fidelity to what was imitated, or accuracy against given answers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like or None
            Without y: how well the answers agree with those of what was imitated: the share of equal labels; for
            numbers R^2, every output weighted by its variance. With y: accuracy against these labels, or R^2 against
            these numbers. A clusterer numbers its clusters as it likes: against classes use
            `sklearn.metrics.adjusted_rand_score`. An embedding is compared with a y of its own shape; any other y is
            not used.

        Returns
        -------
        float
            At most 1.

        Raises
        ------
        ValueError
            If y is not given and a teacher such as DBSCAN or TSNE knows only the rows of its own fit.
        """
        check_is_fitted(self)
        target, classes = self.network_.target, self.network_.classes
        if y is not None and target == "transform":
            y = np.asarray(y)
            y = y if y.shape == (np.shape(X)[0], self.network_.layer_sizes[-1]) else None
        if y is not None:
            if classes is not None:
                return float(accuracy_score(y, self.predict(X)))
            weighting = "variance_weighted" if target == "transform" else "uniform_average"
            return float(r2_score(y, self._answer(target, X), multioutput=weighting))
        expected = np.asarray(self._ask_imitated(X))
        if classes is None or target == "decision_function":
            return explained_variance(expected, self._answer(target, X))
        labels = expected if expected.ndim == 1 else classes[expected.argmax(axis=1)]
        return float(np.mean(labels == self.predict(X)))

    def to_bytes(self) -> bytes:
        """Return the student file; `distill.load` reads it."""
        check_is_fitted(self)
        return self._data

    def save(self, path: str | os.PathLike) -> None:
        """Write the student file; `distill.load` reads it. At any moment the old file or the new one is there.

        Parameters
        ----------
        path : str or path
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
        """Where the bytes of the student file are."""
        return self._fitted_student("report_").report

    @property
    def classes_(self) -> np.ndarray:
        """The labels, in the order of the columns of `predict_proba`."""
        classes = self._fitted_student("classes_").network.classes
        if classes is None:
            raise AttributeError(f"{type(self).__name__} answers numbers here, so it has no classes_")
        return classes

    @property
    def _n_features_out(self) -> int:
        return self.network_.layer_sizes[-1]

    def _adopt(self, data: bytes) -> None:
        """Become the student that is written in these bytes."""
        self._student = Student.from_bytes(data)
        self._data = data

    def _fitted_student(self, attribute: str) -> Student:
        if "_student" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no {attribute} before it is fitted")
        return self._student

    def _answer(self, method: str, X) -> np.ndarray:
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float32)
        answer = getattr(self._student, method)
        if not sparse.issparse(rows):
            return answer(rows)
        blocks = range(0, rows.shape[0], _BLOCK)
        return np.concatenate([answer(rows[start : start + _BLOCK].toarray()) for start in blocks])

    def _methods(self) -> set[str]:
        """Names of the answering methods there are, or will be after fit."""
        if "_student" in vars(self):
            network = self.network_
            found, labelled = {network.target}, network.classes is not None
            probable = labelled and network.output != "identity"
        else:
            try:
                target, imitated = self._target(), self._imitated()
            except (TypeError, ValueError):
                return set()
            kind = teacher_type(imitated)
            found = {target}
            labelled = not speaks_numbers(imitated, target) or (
                target == "decision_function" and kind in ("classifier", "outlier_detector")
            )
            probable = target == "predict_proba" or (
                target == "predict" and kind in ("classifier", "clusterer", "outlier_detector")
            )
        found |= {"predict"} if labelled else set()
        found |= {"predict_proba"} if probable else set()
        found |= {"fit_transform", "get_feature_names_out"} if "transform" in found else set()
        clusters = labelled and teacher_type(self._imitated()) != "classifier"
        return found | ({"fit_predict"} if clusters else set())

    def __sklearn_is_fitted__(self) -> bool:
        return "_student" in vars(self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = None
        tags.target_tags.required = False
        try:
            target, imitated = self._target(), self._imitated()
        except (TypeError, ValueError):
            return tags
        try:
            told = get_tags(imitated)
        except AttributeError:
            return tags
        tags.input_tags.sparse = told.input_tags.sparse
        tags.input_tags.positive_only = told.input_tags.positive_only
        tags.target_tags.required = told.target_tags.required and not isinstance(imitated, FrozenEstimator)
        tags.target_tags.positive_only = told.target_tags.positive_only
        tags.non_deterministic = told.non_deterministic
        if target == "transform":
            tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        elif told.estimator_type == "classifier":
            tags.estimator_type = "classifier"
            tags.classifier_tags = told.classifier_tags or ClassifierTags()
            tags.classifier_tags.multi_label = False
        elif told.estimator_type == "regressor":
            tags.estimator_type = "regressor"
            tags.regressor_tags = told.regressor_tags or RegressorTags()
            tags.target_tags.multi_output = told.target_tags.multi_output
            tags.target_tags.single_output = told.target_tags.single_output
        elif told.estimator_type == "clusterer":
            tags.estimator_type = "clusterer"
            tags.classifier_tags = ClassifierTags()  # asked for by whoever finds a predict_proba
        return tags

    def __getstate__(self) -> dict:
        # The bytes say everything; what was decoded from them is not pickled, and does not enter a hash
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_student"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if "_data" in state:
            self._adopt(state["_data"])


def where_offered(name: str) -> Callable[[StudentMixin], bool]:
    """Return the condition, for scikit-learn's `available_if`, that an estimator has the answering method `name`."""
    return lambda self: name in self._methods()


# Only now, because TransformerMixin wraps `transform` for set_output when the class body ends
for _name in (
    "predict",
    "predict_proba",
    "decision_function",
    "transform",
    "fit_transform",
    "fit_predict",
    "get_feature_names_out",
):
    setattr(StudentMixin, _name, available_if(where_offered(_name))(vars(StudentMixin)[_name]))
