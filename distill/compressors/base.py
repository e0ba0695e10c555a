"""The contract of a compressor: wrap an estimator, fit it, compress its network to bytes.

A compressor is a subclass of `Compressor` with additional parameters, declared in `_parameter_constraints`, and a
method `_compress` that returns a `Compressed`. Fitting and caching the wrapped estimator, drawing samples, decoding
the bytes, predicting and reporting are inherited.
"""

from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from distill import teachers
from distill.base import (
    StudentMixin,
    all_or_nothing,
    student_attributes,
    validated_rows,
    with_columns,
    without_columns,
)
from distill.codecs import container
from distill.distiller import Distiller
from distill.exceptions import FidelityWarning
from distill.network import ACTIVATIONS, Network
from distill.runtime import Student
from distill.runtime.forward import layer_outputs
from distill.training.device import one_thread
from distill.training.fidelity import LEAST_OF_CLASS, agreement_per_class, label_positions
from distill.training.perceptron import outputs_fold_well, unfold_input
from distill.training.scaling import dense, fit_input_scaling
from distill.training.targets import (
    Calibration,
    Targets,
    draw_calibration,
    split_y,
    targets_from_outputs,
    targets_from_y,
)
from distill.utils.caching import cached_call, call_key
from distill.utils.caller import warn_caller
from distill.utils.progress import CallbackSupport, Progress, Stage, with_callbacks
from distill.utils.validation import (
    LARGEST_SEED,
    check_finite,
    check_length,
    check_magnitude,
    routes,
    seeded,
)

# Rows preprocessed at once
_BLOCK = 4096

# Agreement of a label below which it counts as lost
_LOST = 0.5


@dataclass(frozen=True, eq=False)
class Compressed:
    """Result of a compression.

    Parameters
    ----------
    data : bytes
        The student file.
    report : dict
        Measurements on the validation samples, added to `report_`; "agreement" is the fidelity to the wrapped network,
        or to y.
    attributes : dict
        Fitted attributes of the compressor, by name.
    """

    data: bytes
    report: dict
    attributes: dict = field(default_factory=dict)


def network_of(estimator: BaseEstimator) -> Network:
    """Return the network inside a fitted estimator.

    Parameters
    ----------
    estimator : Distiller, compressor, Student, MLPClassifier, MLPRegressor, or FrozenEstimator of one
        Not modified.

    Returns
    -------
    Network
        With the predictions of the estimator. The input scaling of a Distiller is kept apart from the first layer, so
        that the weights of features with different units have similar sizes. That of a loaded student begins after its
        preprocessing, and has no feature names if there is any.

    Raises
    ------
    TypeError
        If the estimator is of another type.
    ValueError
        If a student file cannot represent the network, or its weights are not finite.
    """
    estimator = unwrap(estimator)
    check_is_fitted(estimator)
    student = _student_in(estimator)
    if isinstance(estimator, Distiller):
        network = estimator.scaled_network()
    elif student is not None:
        if student.preprocessing is not None and student.preprocessing.table is not None:
            raise TypeError(
                "estimator is a loaded student whose file begins with a table of any values, which a compressor cannot "
                "read; put the compressor into the pipeline, make_pipeline(..., Compressor(Distiller(...))), and fit it"
            )
        network = student.network
        network = network if student.preprocessing is None else replace(network, feature_names=None)
    else:
        network = _network_of_mlp(estimator)
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError(
                f"estimator has weights in layer {index} that are NaN or infinite in float32; fit it again, with a "
                "smaller learning rate or scaled inputs"
            )
    return network


def unwrap(estimator: Any) -> Any:
    """Return an estimator that can be compressed, without the FrozenEstimator around it; TypeError for any other."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if isinstance(estimator, type) or not isinstance(inner, StudentMixin | MLPClassifier | MLPRegressor | Student):
        raise TypeError(
            "estimator must be a Distiller, another compressor, a loaded Student, an MLPClassifier or MLPRegressor, or "
            f"a FrozenEstimator of one of these, got {estimator!r}; wrap any other model in a Distiller first"
        )
    return inner


def is_frozen(estimator: Any) -> bool:
    """Return whether a wrapped estimator is fitted and stays as it is: a FrozenEstimator, or a loaded Student."""
    return isinstance(estimator, FrozenEstimator | Student)


class Compressor(CallbackSupport, StudentMixin, BaseEstimator):
    """Base class of compressors: meta-estimators around an estimator that has a network.

    A subclass has the parameters `estimator`, `n_calibration`, `validation_fraction`, `memory`, `random_state` and
    `verbose` besides those of the method, and implements `_compress`. With a parameter `balance_classes`, True or
    False, it offers calibration samples that have equally many of each label. It may implement `_check_parameters`
    (conditions on several parameters), `_n_steps` (for progress) and `for_budget` (for `distill.AutoCompressor`).

    Attributes
    ----------
    narrow_bits : tuple of float
        Best numbers of bits per weight for the method: `AutoCompressor` also tries it on narrower networks with about
        these numbers at the demanded size.
    trains_own_network : bool
        Whether the method trains a network of any width itself. For the others `AutoCompressor` distills a narrower
        one.
    """

    narrow_bits: tuple[float, ...] = ()
    trains_own_network: bool = False

    _parameter_constraints: dict = {  # noqa: RUF012
        "estimator": "no_validation",  # `unwrap` checks it
        "max_bytes": [Interval(Integral, 1, None, closed="left"), None],
        "learn_from": [StrOptions({"auto", "outputs", "y"})],
        "n_calibration": [Interval(Integral, 2, None, closed="left"), None],
        "balance_classes": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "memory": [str, HasMethods(["cache"]), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _N_STAGES = 2

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y=None, **fit_params) -> "Compressor":
        """Fit the wrapped estimator, unless it is frozen, and compress its network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite values. The network is compressed such that its predictions for these rows change as little as
            possible, which needs no labels.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), or None
            Passed to the wrapped estimator's fit, unless that is frozen. Compressors with a parameter `learn_from` can
            also use it as the target of the compression.
        **fit_params
            Passed to the wrapped estimator's fit; with metadata routing enabled, according to its requests.

        Returns
        -------
        self
            A fit that fails or is interrupted does not change it. The wrapped estimator is never modified.

        Raises
        ------
        ValueError
            If a parameter, X or y is out of its range, or the network cannot be compressed as demanded.
        TypeError
            If `estimator` is of a type that cannot be compressed.
        """
        X = with_columns(X)
        rows, inner_seed, seed = self._admit(X, y)
        progress = Progress(self, self._N_STAGES, X, y, self._reconstruct)
        # The wrapped estimator has conversions and checks of its own
        self.estimator_, self._wrapped_key = self._fit_estimator(X, y, fit_params, inner_seed, progress)
        network = self._with_names(network_of(self.estimator_))
        if (student := _student_in(self.estimator_)) is not None:
            rows = _network_inputs(student, rows)
        if isinstance(self.estimator_, Student):
            network = _with_scaling(network, rows)
        # Compressors of others may lack the parameter
        balanced = bool(getattr(self, "balance_classes", False))
        calibration = draw_calibration(rows, y, network, self.n_calibration, self.validation_fraction, seed, balanced)
        # The rounding of a sum depends on its division among threads; results must not depend on the number of cores
        with threadpool_limits(1), one_thread(), progress.stage("compress", self._n_steps()) as stage:
            compressed = self._compress(network, calibration, stage)
        self._adopt(self._with_steps(compressed.data))
        self.__dict__.update(compressed.attributes)
        self._measured = dict(compressed.report)
        self._complaint: str | None = None
        if network.classes is not None:
            with threadpool_limits(1):
                self._measure_classes(network, calibration, compressed.data)
        if teachers.teacher_type(self.imitated_estimator()) == "clusterer" and self.network_.classes is not None:
            self.labels_ = self.predict(X)
        progress.finish()
        return self

    def _measure_classes(self, network: Network, calibration: Calibration, data: bytes) -> None:
        """Add "agreement_per_class" to `report_`, and warn of a label that is lost; `data` is a file without steps."""
        # Balanced samples are repeated, and count once here
        if hasattr(self, "learn_from") and learns_from_y(self, calibration.y):
            targets, *parts = split_y(network, calibration, self.validation_fraction)
            train, validation = (np.unique(part) for part in parts)
            expected, more_expected = targets[validation], targets[train]
        else:
            (train, first), (validation, other) = (np.unique(part, return_index=True) for part in calibration.positions)
            samples = calibration.validation[other], calibration.train[first]
            expected, more_expected = (label_positions(layer_outputs(network, rows)[-1]) for rows in samples)
        student = self._student if self._student.preprocessing is None else Student.from_bytes(data)
        labels = cast(np.ndarray, network.classes).tolist()
        counts = np.bincount(expected, minlength=len(labels))
        # Training samples are only used for the labels of few validation samples
        few = counts[more_expected] < LEAST_OF_CLASS
        found, more_found = (
            label_positions(student.raw_outputs(calibration.X[part])) for part in (validation, train[few])
        )
        agreement = agreement_per_class(expected, found, len(labels), more_expected[few], more_found)
        self._measured["agreement_per_class"] = dict(zip(labels, agreement.tolist()))
        if (agreement < _LOST).any():
            worst, n_lost = int(np.nanargmin(agreement)), int((agreement < _LOST).sum())
            others = f" and {n_lost - 1} more" if n_lost > 1 else ""
            counts += np.bincount(more_expected, minlength=len(labels))
            balanced = f"set balance_classes=True (it has {counts[worst] / counts.sum():.2%} of the rows), or "
            self._complaint = (
                f"the compression loses the label {labels[worst]!r}{others}: only {agreement[worst]:.2f} of its rows "
                f"keep it; {'' if calibration.balanced else balanced}allow a larger file, by more bits, a higher "
                "density or more max_bytes"
            )
            warn_caller(self._complaint, FidelityWarning)

    def _admit(self, X, y) -> tuple[np.ndarray | sparse.csr_array, int, int]:
        """Check parameters and X; return X as an array, a seed for the wrapped estimator and one for the rest."""
        inner = unwrap(self.estimator)
        check_finite(self.get_params(deep=False))
        self._validate_params()
        self._check_parameters()
        inner_seed, seed = check_random_state(self.random_state).randint(LARGEST_SEED, size=2).tolist()
        # Missing values are for the wrapped estimator to accept or to refuse
        rows = validated_rows(self, X, reset=True, ensure_min_samples=2, ensure_all_finite="allow-nan")
        check_magnitude(rows)
        if y is None and get_tags(self).target_tags.required:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: the wrapped "
                f"{type(inner).__name__} learns from it; wrap a fitted one in FrozenEstimator to do without"
            )
        if y is not None:
            check_length(y, rows.shape[0])
        return rows, inner_seed, seed

    def _fit_estimator(
        self, X, y, fit_params: dict, seed: int, progress: Progress
    ) -> tuple[StudentMixin | MLPClassifier | MLPRegressor | Student, str | None]:
        """Return the fitted wrapped estimator, and the key of its fit in the cache if there is one."""
        inner = unwrap(self.estimator)
        if is_frozen(self.estimator):
            return inner, None
        fresh = clone(inner) if self.random_state is None else seeded(clone(inner), seed)
        routed = process_routing(self, "fit", **fit_params).estimator.fit if routes(fit_params) else fit_params
        given = (fresh, X, y, routed)
        key = None if self.memory is None else call_key(_fit_wrapped, *given)
        return cached_call(self.memory, _fit_wrapped, *given, progress=progress), key

    @classmethod
    def for_budget(
        cls,
        estimator: BaseEstimator,
        max_bytes: int,
        effort: float = 1.0,
        hidden_layer_sizes: tuple[int, ...] | None = None,
        random_state: int | None = None,
    ) -> "Compressor":
        """Return an unfitted compressor for a file of at most `max_bytes`.

        Parameters
        ----------
        estimator : estimator
        max_bytes : int
        effort : float
            Factor of the default number of epochs or steps, above 0.
        hidden_layer_sizes : tuple of int or None
            Units of the hidden layers, for methods that train a network themselves; others ignore it, because
            `AutoCompressor` then wraps a Distiller of these sizes.
        random_state : int or None

        Returns
        -------
        Compressor
        """
        settings = {"max_bytes": max_bytes, "random_state": random_state}
        offered = cls(estimator).get_params(deep=False)
        return cls(estimator, **{name: value for name, value in settings.items() if name in offered})

    def _check_parameters(self) -> None:
        """Raise ValueError for parameters that are invalid in combination."""

    def _n_steps(self) -> int:
        """Return the largest number of calls of ``stage.step`` in `_compress`."""
        return 0

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        """Compress a network.

        Parameters
        ----------
        network : Network
            Of the wrapped estimator; its input scaling is applied to the samples already.
        calibration : Calibration
            Training and validation samples, and the y of the fit.
        stage : Stage
            Reports progress: ``stage.step(message, result)`` after every step, ``stage.log(message)`` prints a line.

        Returns
        -------
        Compressed
        """
        raise NotImplementedError

    @property
    def report_(self) -> dict:
        """Sizes of the parts of the student file in bytes, and measurements on the validation samples.

        Where labels are predicted "agreement_per_class" has for each of them the fraction of its rows for which it is
        found: of its validation samples, or of all its samples where fewer than 10 of those are held out.
        """
        return {**super().report_, **self._measured}

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the metadata routing: all parameters of `fit` but X and y go to the wrapped estimator's `fit`."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def imitated_estimator(self) -> BaseEstimator:
        """Return the estimator whose predictions are imitated, not fitted: a teacher, an MLP or a loaded student."""
        inner = unwrap(self.estimator)
        return inner.imitated_estimator() if isinstance(inner, StudentMixin) else inner

    def imitated_method(self) -> str:
        """Return the name of the method that is imitated."""
        inner = unwrap(self.estimator)
        if isinstance(inner, Student):
            return inner.network.target
        return inner.imitated_method() if isinstance(inner, StudentMixin) else teachers.resolve_target(inner)

    def excluded_label(self) -> int | None:
        """Return the label whose rows no score counts, as of the wrapped estimator."""
        inner = unwrap(self.estimator)
        return inner.excluded_label() if isinstance(inner, StudentMixin) else None

    def predict_imitated(self, X) -> np.ndarray:
        """Return the predictions that are imitated, for rows X, from the cache if there is one."""
        if self._wrapped_key is None:
            return _predict_with_wrapped("", X, self.network_.target, self.estimator_)
        given = (self._wrapped_key, X, self.network_.target)
        return cached_call(self.memory, _predict_with_wrapped, *given, wrapped=self.estimator_)

    def _reconstruct(self, data: bytes) -> dict:
        """Return the fitted attributes of an estimator with the student of this file."""
        return {**student_attributes(self._with_steps(data)), "_measured": {}}

    def _with_steps(self, data: bytes) -> bytes:
        """Return a student file with the preprocessing of the loaded student that is compressed, if it has any."""
        student = _student_in(self.estimator_)
        if student is None or student.preprocessing is None:
            return data
        names = tuple(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None
        return container.with_steps(data, student.n_features_in_, student.preprocessing.steps, names)

    def _network_rows(self, X) -> np.ndarray | sparse.csr_array:
        """Return rows X, checked, as they enter the compressed network: after any preprocessing in its file."""
        check_is_fitted(self)
        return _network_inputs(self._student, validated_rows(self, X))

    def _with_names(self, network: Network) -> Network:
        """Return the network with the names of the features of the fit; ValueError if they do not match."""
        student = _student_in(self.estimator_)
        n_features, fitted_names = network.n_features, network.feature_names
        if student is not None:
            n_features, fitted_names = student.n_features_in_, student.network.feature_names
        if n_features != self.n_features_in_:
            remedy = "" if isinstance(self.estimator_, Student) else ", or wrap it without FrozenEstimator"
            raise ValueError(
                f"X has {self.n_features_in_} features, but estimator was fitted with {n_features}; fit on rows like "
                f"those{remedy}"
            )
        names = tuple(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None
        if names and fitted_names and names != fitted_names:
            raise ValueError(
                f"X has the columns {names[:5]}, but estimator was fitted with {fitted_names[:5]}; reorder or "
                "rename the columns of X"
            )
        # Names are those of the columns before any preprocessing, and enter the file together with it
        has_steps = student is not None and student.preprocessing is not None
        # An X without names has those columns whose names the wrapped estimator knows
        return network if has_steps else replace(network, feature_names=names or fitted_names)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if is_frozen(self.estimator):
            tags.target_tags.required = False
        return tags


def compression_targets(compressor: Compressor, network: Network, calibration: Calibration) -> Targets:
    """Return the samples and targets of a compression according to `learn_from`; see `learns_from_y`."""
    if learns_from_y(compressor, calibration.y):
        return targets_from_y(network, calibration, compressor.validation_fraction)
    return targets_from_outputs(network, calibration)


def learns_from_y(compressor: Compressor, y: Any) -> bool:
    """Return whether y is the target of the compression, by the compressor's parameter `learn_from`.

    Its values are "outputs" (those of the wrapped network), "y", and "auto", which is "y" if y is given and an
    MLPClassifier or MLPRegressor is wrapped, else "outputs".

    Raises
    ------
    ValueError
        If learn_from is "y" and there is no y.
    """
    if compressor.learn_from == "y" and y is None:
        raise ValueError("learn_from='y' needs y, and y is None; give y to fit or set learn_from='outputs'")
    if compressor.learn_from == "auto":
        return y is not None and isinstance(unwrap(compressor.estimator), MLPClassifier | MLPRegressor)
    return compressor.learn_from == "y"


def _fit_wrapped(
    estimator: BaseEstimator, X: Any, y: Any, fit_params: dict, progress: Progress
) -> StudentMixin | MLPClassifier | MLPRegressor:
    """Fit the wrapped estimator, a clone, and return it."""
    with progress.stage("estimator") as stage, stage.inside(estimator):
        # A student makes the copies for its teacher itself
        if not isinstance(estimator, StudentMixin):
            X, y = teachers.own_copy(without_columns(X)), teachers.own_copy(y)
            fit_params = {name: teachers.own_copy(value) for name, value in fit_params.items()}
        estimator.fit(X, *(() if y is None else (y,)), **fit_params)
        stage.log("done")
    return estimator


def _predict_with_wrapped(
    key: str, X: Any, target: str, wrapped: StudentMixin | MLPClassifier | MLPRegressor | Student
) -> np.ndarray:
    """Return what a wrapped estimator imitates, or the predictions of an MLP or a student; `key` identifies the fit."""
    if isinstance(wrapped, StudentMixin):
        return wrapped.predict_imitated(X)
    return teachers.predict(wrapped, without_columns(X), target)


def _student_in(estimator: Any) -> Student | None:
    """Return the student of a fitted Distiller or compressor, a loaded one itself, and None for all else."""
    if isinstance(estimator, Student):
        return estimator
    return estimator._student if isinstance(estimator, StudentMixin) else None


def _network_inputs(student: Student, rows: np.ndarray | sparse.csr_array) -> np.ndarray | sparse.csr_array:
    """Return rows after the preprocessing of a student, a block at a time; ValueError if they are not finite then."""
    if student.preprocessing is None:
        return rows
    blocks = []
    for start in range(0, rows.shape[0], _BLOCK):
        block = dense(rows[start : start + _BLOCK])
        blocks.append(student.preprocessing(np.array(block, np.float64, order="C")))
    inputs = np.concatenate(blocks)
    if not np.isfinite(inputs).all():
        column = np.argwhere(~np.isfinite(inputs))[0][1]
        raise ValueError(
            f"X has values that the preprocessing of the student makes infinite or NaN, in its output column {column}; "
            "scale X as in the training of the student"
        )
    return inputs


def _with_scaling(network: Network, rows: np.ndarray | sparse.csr_array) -> Network:
    """Return a loaded network with an input scaling of its own, apart from the first layer as in a Distiller.

    Files hold it folded into the first layer where that loses nothing, but weights in the units of the features are
    hard to compress.
    """
    if network.offset is not None or network.scale is not None or network.has_wide_inputs:
        return network
    scaling = fit_input_scaling(rows, narrow=True)
    offset, scale = scaling.offset, scaling.scale
    if scale is not None and scale.ndim:
        # A feature that is constant in these rows may have been used in the training
        scale = np.where(scaling.varies, scale, 1).astype(scale.dtype)
    return unfold_input(network, offset, scale)


def _network_of_mlp(estimator: MLPClassifier | MLPRegressor) -> Network:
    """Return the network of a fitted MLP; ValueError if a student file cannot represent it."""
    name = type(estimator).__name__
    output, classes, squeeze = estimator.out_activation_, None, False
    if estimator.activation not in ACTIVATIONS or output not in ("identity", "softmax", "logistic"):
        raise ValueError(
            f"the {name} has activation {estimator.activation!r} and output {output!r}; supported are activations "
            f"{', '.join(map(repr, ACTIVATIONS))} and outputs 'identity', 'softmax', 'logistic'"
        )
    if isinstance(estimator, MLPClassifier):
        if output == "logistic" and estimator.n_outputs_ > 1:
            raise ValueError(
                f"the {name} predicts {estimator.n_outputs_} labels per row, which a student file does not hold; fit "
                "one classifier for each label, as MultiOutputClassifier(CodebookCompressor(MLPClassifier())).fit(X, Y)"
                " does with any compressor (sklearn.multioutput)"
            )
        classes = teachers.plain_classes(np.asarray(estimator.classes_))
        if len(classes) < 2:
            raise ValueError(
                f"the {name} was fitted to the single class {classes.tolist()[0]!r}: there is nothing to predict; fit "
                "it to a y of several classes"
            )
    else:
        squeeze = estimator.n_outputs_ == 1
    *biases, last = estimator.intercepts_
    output_offset = None
    if classes is None and not outputs_fold_well(last, np.linalg.norm(estimator.coefs_[-1], axis=0)):
        # A bias that would use up the digits of float32 becomes an offset in float64
        last, output_offset = np.zeros_like(last), np.asarray(last, np.float64)
    return Network(
        weights=tuple(np.ascontiguousarray(weight, dtype=np.float32) for weight in estimator.coefs_),
        biases=tuple(np.asarray(bias, dtype=np.float32) for bias in (*biases, last)),
        activation=estimator.activation,
        target="predict" if classes is None else "predict_proba",
        output=output,
        classes=classes,
        squeeze=squeeze,
        output_offset=output_offset,
    )
