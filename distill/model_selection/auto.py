"""Search for the compression that meets a demand in bytes or fidelity, on validation data."""

from collections.abc import Sequence
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_method_params

from distill import teachers
from distill.base import all_or_nothing, with_columns
from distill.compressors import COMPRESSORS
from distill.compressors.base import Compressor
from distill.exceptions import FidelityWarning
from distill.model_selection.search import (
    Demand,
    Search,
    chosen_methods,
    expected_predictions,
    make_compressor,
    try_candidate,
)
from distill.training.samples import holdout
from distill.utils.caller import warn_caller
from distill.utils.progress import Progress, with_callbacks


class AutoCompressor(Compressor):
    """Find the compressor and the settings that meet a demand in bytes or fidelity.

    The wrapped estimator is fitted to a part of the samples, and candidates compress it. Their fidelity is measured on
    the rest, the validation set. The best candidate is fitted again to all samples; the refit is discarded if it is
    worse on the validation set.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one, or a Student
        A clone is fitted. A `FrozenEstimator(fitted)` or a loaded `Student` is not fitted again; the validation samples
        may then be among its training samples, and the measured fidelity slightly too high.
    max_bytes : int or None, default=None
        Largest size of the file. Without `min_fidelity` the most faithful file of that size is kept.
    min_fidelity : float or None, default=None
        Fidelity on the validation set: accuracy against the imitated estimator (the teacher, or the MLP itself), or R^2
        of a regression. The smallest file that reaches it is kept. For a teacher without predictions for new rows, the
        wrapped network takes its place. At least one of the two demands is required.
    methods : "all" or sequence of str, default="all"
        Names of the compressors that are tried, those in `distill.compressors.COMPRESSORS`: "codebook", "spike_slab",
        "matrix_gaussian", "random_code". Some are also tried on narrower networks, distilled from the wrapped one, with
        more bits per weight.
    effort : float, default=1.0
        Factor of the number of training epochs of all candidates, above 0; values below 1 are faster and less accurate.
    refit : bool, default=True
        Whether the best candidate is fitted again to all samples. If the refit has a lower fidelity on the validation
        set, the candidate is kept.
    validation_fraction : float, default=0.2
        Fraction of the samples in the validation set, between 0 and 1.
    balance_classes : bool, default=False
        Whether candidates are compressed on samples that have equally many of each label, which keeps small clusters.
        Candidates are compared by the plain fidelity.
    n_jobs : int or None, default=None
        Number of candidates fitted in parallel by joblib; the result does not depend on it.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted wrapped estimator.
    random_state : int, RandomState instance or None, default=None
        Seed of the validation set, of all candidates, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every candidate.

    Attributes
    ----------
    compressor_ : estimator
        The best candidate, fitted.
    estimator_ : estimator
        The wrapped estimator, fitted.
    search_results_ : dict
        Results of all candidates, in the form of scikit-learn's `cv_results_`: "params", "mean_test_fidelity" (NaN if
        a candidate failed), "mean_test_size" (minus the bytes), "error". For `distill.model_selection.pareto_front`
        and `distill.plotting.TradeOffDisplay`.
    best_index_ : int
        Position of the best candidate in `search_results_`.
    best_params_ : dict
        "method", "max_bytes" and "hidden_layer_sizes" of the best candidate.
    best_fidelity_ : float
        Fidelity of the best candidate on the validation set, slightly too high because it is the best of many.
    network_ : Network
        The compressed network as NumPy arrays, decoded from the bytes of the student file.
    classes_ : ndarray of shape (n_classes,)
        The labels; only where labels are predicted.
    labels_ : ndarray of shape (n_samples,)
        Labels of the training samples; only where a clusterer is imitated.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Sizes of its parts in bytes, and "agreement", the fidelity that the compressor measured; where labels are
        predicted, "agreement_per_class".
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only if X had names.

    See Also
    --------
    distill.model_selection.smallest_within : The same choice in a grid search.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import AutoCompressor, Distiller
    >>> X, _ = load_digits(return_X_y=True)
    >>> student = Distiller(KMeans(10, n_init=1, random_state=0), hidden_layer_sizes=(32,), max_iter=10, random_state=0)
    >>> auto = AutoCompressor(student, max_bytes=1200, methods=["codebook"], effort=0.2, random_state=0).fit(X)
    >>> auto.nbytes_ <= 1200, auto.score(X) > 0.9
    (True, True)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Compressor._parameter_constraints,
        "min_fidelity": [Interval(Real, None, 1, closed="right"), None],
        "methods": "no_validation",  # `_check_parameters` checks them
        "effort": [Interval(Real, 0, None, closed="neither")],
        "refit": ["boolean"],
        "n_jobs": [Integral, None],
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        max_bytes: int | None = None,
        min_fidelity: float | None = None,
        methods: str | Sequence[str] = "all",
        effort: float = 1.0,
        refit: bool = True,
        validation_fraction: float = 0.2,
        balance_classes: bool = False,
        n_jobs: int | None = None,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.estimator = estimator
        self.max_bytes = max_bytes
        self.min_fidelity = min_fidelity
        self.methods = methods
        self.effort = effort
        self.refit = refit
        self.validation_fraction = validation_fraction
        self.balance_classes = balance_classes
        self.n_jobs = n_jobs
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y=None, **fit_params) -> "AutoCompressor":
        """Search for the best compression, and fit it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite values.
        y : array-like of shape (n_samples,) or None
            Passed to the wrapped estimator's fit.
        **fit_params
            Passed to the wrapped estimator's fit; parameters with an entry for every sample are split with the samples.

        Returns
        -------
        AutoCompressor
            The fitted estimator itself. A fit that fails or is interrupted does not change it.

        Raises
        ------
        ValueError
            If no candidate meets the demand (the error names the nearest one), or a parameter or X is out of its range.
        TypeError
            If `estimator` is of a type that cannot be compressed.
        """
        X = with_columns(X)
        rows, inner_seed, seed = self._admit(X, y)
        progress = Progress(self, 4, X, y, self._reconstruct)
        (seen,) = indexable(X)  # sparse matrices of any format as CSR, all else as it is
        train, validation = holdout(None, rows.shape[0], float(self.validation_fraction), seed)
        X_train, X_validation = (_safe_indexing(seen, positions) for positions in (train, validation))
        y_train = None if y is None else _safe_indexing(y, train)
        params_train = _check_method_params(seen, fit_params, train)
        fitted, _ = self._fit_estimator(X_train, y_train, params_train, inner_seed, progress)
        with progress.stage("search") as stage:
            methods = chosen_methods(self.methods)
            demand = Demand(
                self.max_bytes,
                self.min_fidelity,
                methods,
                float(self.effort),
                seed,
                balance_classes=bool(self.balance_classes),
            )
            search = Search(demand, fitted, X_train, X_validation, self.n_jobs, stage)
            if self.max_bytes is None or self.min_fidelity is not None:
                index = search.smallest()
            else:
                index = search.most_faithful(int(self.max_bytes))
        self.search_results_ = search.results()
        self.best_index_, self.best_params_ = index, self.search_results_["params"][index]
        self.best_fidelity_ = float(self.search_results_["mean_test_fidelity"][index])
        self.estimator_, self._wrapped_key, self.compressor_ = fitted, None, search.compressors[index]
        if self.refit:
            again, key = self._fit_estimator(X, y, fit_params, inner_seed, progress)
            with progress.stage("refit"):
                candidate = make_compressor(search.candidates[index], again, demand)
                compressor, fidelity, _ = try_candidate(
                    candidate, X, X_validation, expected_predictions(again, X_validation)
                )
            # The validation samples are training samples of the refit; if it is worse on them, the candidate is kept
            if compressor is not None and fidelity >= self.best_fidelity_:
                self.estimator_, self._wrapped_key, self.compressor_ = again, key, compressor
        kept = ("agreement", "agreement_per_class")
        self._measured = {name: value for name, value in self.compressor_.report_.items() if name in kept}
        self._adopt(self.compressor_.to_bytes())
        complaint = getattr(self.compressor_, "_complaint", None)
        if complaint is not None:
            warn_caller(complaint, FidelityWarning)
        if teachers.teacher_type(self.imitated_estimator()) == "clusterer" and self.network_.classes is not None:
            self.labels_ = self.predict(X)
        progress.finish()
        return self

    def _check_parameters(self) -> None:
        if self.max_bytes is None and self.min_fidelity is None:
            raise ValueError("max_bytes and min_fidelity are both None; give one of them, or both, as the demand")
        methods = chosen_methods(self.methods)
        if not methods or not set(methods) <= set(COMPRESSORS):
            names = ", ".join(map(repr, COMPRESSORS))
            raise ValueError(f"methods must be 'all' or some of {names}, got {self.methods!r}")
