"""What all compressors share: what they wrap, the rows they look at, what they imitate, and their fit.

A compressor is a subclass of `Compressor` with its own parameters, `_check_parameters` and `_compress`. Everything else
it needs is a pure function here: `network_of` a fitted estimator, `layer_outputs` of a network, `Imitation` of its
outputs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import Tags, check_random_state, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits
from torch import Tensor

from distill import teachers
from distill.base import StudentMixin, all_or_nothing
from distill.distiller import Distiller
from distill.network import ACTIVATIONS, Network
from distill.runtime import Student
from distill.runtime.forward import activated
from distill.training import loop as training
from distill.utils.caching import cached_call, call_key
from distill.utils.progress import CallbackSupport, Progress, Stage, with_callbacks
from distill.utils.validation import LARGEST_SEED, check_finite, check_float32, routes, seeded


@dataclass(frozen=True, eq=False)
class Calibration:
    """The rows a compressor looks at, as they enter the first layer: dense, scaled, float32.

    Parameters
    ----------
    learned : ndarray of shape (n_learned, n_features)
        For learning.
    held_out : ndarray of shape (n_held_out, n_features)
        For choosing and for reporting.
    varies : ndarray of shape (n_features,), bool
        Inputs that differ between any two rows of the whole fit.
    seed : int
        For whatever else is random.
    """

    learned: np.ndarray
    held_out: np.ndarray
    varies: np.ndarray
    seed: int


class Imitation:
    """What a network answered, as something to train towards and to compare with.

    Parameters
    ----------
    network : Network
        The network that is imitated.
    outputs : ndarray of shape (n_samples, n_outputs), float32
        Its last sums for some rows; from them the unit of numbers is taken.
    temperature : float
        What the sums are divided by before they become probabilities. Above 1, labels that are nearly certain still say
        what they are confused with.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531), for the temperature.

    Examples
    --------
    >>> network = Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),))
    >>> outputs = np.array([[0.0, 1.0], [2.0, 3.0]], dtype=np.float32)
    >>> imitation = Imitation(network, outputs)
    >>> imitation.loss(torch.tensor(outputs), imitation.targets(outputs)).item(), imitation.agreement(outputs, outputs)
    (0.0, 1.0)
    """

    def __init__(self, network: Network, outputs: np.ndarray, temperature: float = 1.0):
        self.network, self.temperature = network, temperature
        deviation = outputs.std(axis=0, dtype=np.float64)
        if network.target == "transform":  # distances between columns mean something in an embedding
            deviation = np.full_like(deviation, np.sqrt(np.mean(deviation**2)))
        self.unit = np.where(deviation > 0, deviation, 1).astype(np.float32)

    def targets(self, outputs: np.ndarray) -> Tensor:
        """Return what `loss` wants to see of the imitated network's outputs, one row for each."""
        outputs = torch.from_numpy(np.ascontiguousarray(outputs, dtype=np.float32))
        if self.network.output == "softmax":
            return torch.softmax(outputs / self.temperature, dim=1)
        return torch.sigmoid(outputs / self.temperature) if self.network.output == "logistic" else outputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of other outputs: zero where they are equal.

        Kullback-Leibler divergence of probabilities, in nats times the square of the temperature; squared error of
        numbers in units of their variance.
        """
        softened, square = outputs / self.temperature, self.temperature**2
        if self.network.output == "softmax":
            log_probabilities = torch.log_softmax(softened, dim=1)
            return square * torch.nn.functional.kl_div(log_probabilities, targets, reduction="batchmean")
        if self.network.output == "logistic":
            entropy = torch.special.entr(targets) + torch.special.entr(1 - targets)
            cross = torch.nn.functional.binary_cross_entropy_with_logits(softened, targets, reduction="none")
            return square * (cross - entropy).sum(dim=1).mean()
        return training.squared_error(outputs / torch.from_numpy(self.unit), targets / torch.from_numpy(self.unit))

    def agreement(self, expected: np.ndarray, outputs: np.ndarray) -> float:
        """Return the share of equal labels, or the explained variance of numbers; both are last sums."""
        if self.network.classes is None:
            return teachers.explained_variance(expected, outputs)
        if expected.shape[1] == 1:
            return float(np.mean((expected > 0) == (outputs > 0)))
        return float(np.mean(expected.argmax(axis=1) == outputs.argmax(axis=1)))


def network_of(estimator: BaseEstimator) -> Network:
    """Return the network inside a fitted estimator.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or FrozenEstimator of one
        Not modified.

    Returns
    -------
    Network
        It answers as the estimator does, and keeps scikit-learn's rule of prediction. A Distiller's inputs are scaled
        by a section of their own, so that its weights are of like size.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is built in a way that a student file cannot hold, or has weights that are not finite.
    """
    estimator = unwrap(estimator)
    check_is_fitted(estimator)
    if isinstance(estimator, Distiller):
        network = estimator._unfolded_network()
    elif isinstance(estimator, StudentMixin):
        network = estimator.network_
    else:
        network = _network_of_mlp(estimator)
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ValueError(
                f"estimator has weights in layer {index} that are NaN or infinite in float32; fit it again, with a "
                "smaller learning rate or scaled inputs"
            )
    return network


def unwrap(estimator: Any) -> BaseEstimator:
    """Return what a compressor can wrap, without the FrozenEstimator around it; TypeError if it is something else."""
    inner = estimator.estimator if isinstance(estimator, FrozenEstimator) else estimator
    if isinstance(estimator, type) or not isinstance(inner, StudentMixin | MLPClassifier | MLPRegressor):
        raise TypeError(
            "estimator must be a Distiller, another compressor, an MLPClassifier or MLPRegressor, or a FrozenEstimator "
            f"of one of these, got {estimator!r}; wrap any other model in a Distiller first"
        )
    return inner


def layer_outputs(network: Network, inputs: np.ndarray) -> list[np.ndarray]:
    """Return the sums of every layer, before the activation.

    Parameters
    ----------
    network : Network
    inputs : ndarray of shape (n_samples, n_features)
        As they enter the first layer.

    Returns
    -------
    list of ndarray of shape (n_samples, n_outputs), float32
    """
    outputs = []
    for weight, bias in zip(network.weights, network.biases):
        outputs.append(inputs @ weight + bias)
        inputs = activated(outputs[-1], network.activation)
    return outputs


class Compressor(CallbackSupport, StudentMixin, BaseEstimator):
    """Base of compressors: an estimator around an estimator that has a network.

    A subclass takes the parameters `estimator`, `n_calibration`, `validation_fraction`, `memory`, `random_state` and
    `verbose` besides its own, and says in `_compress` how a network becomes bytes.
    """

    _N_STAGES = 2

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y=None, **fit_params) -> "Compressor":
        """Fit what is wrapped, unless it is frozen, and compress its network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers. The network is compressed so that it still answers the same for such rows; no labels are
            needed for that.
        y : array-like of shape (n_samples,) or None
            Goes to the wrapped estimator's fit. Not used if that is frozen.
        **fit_params
            Go to the wrapped estimator's fit (with metadata routing enabled, as its requests say).

        Returns
        -------
        self
            A fit that fails or is interrupted leaves it as it was. The wrapped estimator is never modified.

        Raises
        ------
        ValueError
            If a parameter or X is out of its range, or the wrapped network cannot be compressed as demanded.
        TypeError
            If `estimator` is none that can be wrapped.
        """
        rows, inner_seed, seed = self._admit(X, y)
        progress = Progress(self, self._N_STAGES, X, y, self._reconstruct)
        seen = X if hasattr(self, "feature_names_in_") else rows
        self.estimator_, self._wrapped_key = self._fit_estimator(seen, y, fit_params, inner_seed, progress)
        network = self._with_names(network_of(self.estimator_))
        calibration = calibration_rows(rows, network, self.n_calibration, self.validation_fraction, seed)
        # sums of floats depend on how threads split them, and results shall not depend on the number of cores
        with threadpool_limits(1), training.one_thread(), progress.stage("compress", self._n_steps()) as stage:
            data, self._measured = self._compress(network, calibration, stage)
        self._adopt(data)
        if teachers.teacher_type(self._imitated()) == "clusterer" and self.network_.classes is not None:
            self.labels_ = self.predict(X)
        progress.finish()
        return self

    def _admit(self, X, y) -> tuple[np.ndarray | sparse.csr_array, int, int]:
        """Check parameters and rows; return the rows, a seed for what is wrapped and one for all else."""
        inner = unwrap(self.estimator)
        check_finite(self.get_params(deep=False))
        self._check_parameters()
        inner_seed, seed = check_random_state(self.random_state).randint(LARGEST_SEED, size=2).tolist()
        rows = validate_data(self, X, accept_sparse="csr", dtype=[np.float32, np.float64], ensure_min_samples=2)
        check_float32(rows)
        if y is None and get_tags(self).target_tags.required:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None: the wrapped "
                f"{type(inner).__name__} learns from it; wrap a fitted one in FrozenEstimator to do without"
            )
        return rows, inner_seed, seed

    def _fit_estimator(
        self, X, y, fit_params: dict, seed: int, progress: Progress
    ) -> tuple[StudentMixin | MLPClassifier | MLPRegressor, str | None]:
        """Return what is wrapped, fitted, and the key of its fit in the cache if there is one."""
        inner = unwrap(self.estimator)
        if isinstance(self.estimator, FrozenEstimator):
            return inner, None
        fresh = clone(inner) if self.random_state is None else seeded(clone(inner), seed)
        routed = process_routing(self, "fit", **fit_params).estimator.fit if routes(fit_params) else fit_params
        given = (fresh, X, y, routed)
        key = None if self.memory is None else call_key(_fit_wrapped, *given)
        return cached_call(self.memory, _fit_wrapped, *given, progress=progress), key

    def _check_parameters(self) -> None:
        """Refuse parameters that are out of range."""
        raise NotImplementedError

    def _n_steps(self) -> int:
        """Return how often `_compress` calls ``stage.step`` at most."""
        return 0

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> tuple[bytes, dict]:
        """Return the student file, and what was measured on held-out rows: more entries for `report_`."""
        raise NotImplementedError

    @property
    def report_(self) -> dict:
        """Where the bytes of the student file are, and what was measured while it was made."""
        return {**super().report_, **self._measured}

    def get_metadata_routing(self) -> MetadataRouter:
        """Say that what `fit` is given besides X and y goes to the wrapped estimator's `fit`."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(estimator=self.estimator, method_mapping=mapping)

    def _imitated(self) -> BaseEstimator:
        inner = unwrap(self.estimator)
        return inner._imitated() if isinstance(inner, StudentMixin) else inner

    def _target(self) -> str:
        inner = unwrap(self.estimator)
        return inner._target() if isinstance(inner, StudentMixin) else teachers.resolve_target(inner)

    def _ask_imitated(self, X) -> np.ndarray:
        if self._wrapped_key is None:
            return _ask_wrapped("", X, self.network_.target, self.estimator_)
        given = (self._wrapped_key, X, self.network_.target)
        return cached_call(self.memory, _ask_wrapped, *given, wrapped=self.estimator_)

    def _reconstruct(self, data: bytes) -> dict:
        """Return the attributes that make this estimator predict as the student in these bytes."""
        return {"_data": data, "_student": Student.from_bytes(data), "_measured": {}}

    def _with_names(self, network: Network) -> Network:
        if network.n_features != self.n_features_in_:
            raise ValueError(
                f"X has {self.n_features_in_} features, but estimator was fitted with {network.n_features}; fit on "
                "rows like those, or pass it without FrozenEstimator"
            )
        names = tuple(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None
        if names and network.feature_names and names != network.feature_names:
            raise ValueError(
                f"X has the columns {names[:5]}, but estimator was fitted with {network.feature_names[:5]}; reorder or "
                "rename the columns of X"
            )
        return replace(network, feature_names=names)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        if isinstance(self.estimator, FrozenEstimator):
            tags.target_tags.required = False
        return tags


def calibration_rows(
    X: np.ndarray | sparse.csr_array, network: Network, n_rows: int | None, validation_fraction: float, seed: int
) -> Calibration:
    """Draw rows to learn from and rows to hold out.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    network : Network
        Its input section is applied.
    n_rows : int or None
        How many rows are drawn together, at most; None takes all.
    validation_fraction : float in (0, 1)
        Share of them that is held out.
    seed : int

    Returns
    -------
    Calibration
    """
    n_samples = X.shape[0]
    random = np.random.default_rng(seed)
    n_drawn = n_samples if n_rows is None else min(max(n_rows, 2), n_samples)
    drawn = np.sort(random.permutation(n_samples)[:n_drawn])
    learned, held_out = training.holdout(None, n_drawn, validation_fraction, seed)
    low, high = _extremes(X)
    rows = X[drawn]
    rows = np.array(rows.toarray() if sparse.issparse(rows) else rows, dtype=np.float32)
    if network.offset is not None:
        rows -= network.offset
    if network.scale is not None:
        rows *= network.scale
    return Calibration(rows[learned], rows[held_out], high > low, int(random.integers(LARGEST_SEED)))


def _extremes(X: np.ndarray | sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    low, high = X.min(axis=0), X.max(axis=0)
    if sparse.issparse(X):
        low, high = low.toarray().ravel(), high.toarray().ravel()
    return low, high


def _fit_wrapped(
    estimator: BaseEstimator, X: Any, y: Any, fit_params: dict, progress: Progress
) -> StudentMixin | MLPClassifier | MLPRegressor:
    """Fit what is wrapped, an unfitted clone."""
    with progress.stage("estimator") as stage, stage.inside(estimator):
        estimator.fit(X, *(() if y is None else (y,)), **fit_params)
        stage.say("done")
    return estimator


def _ask_wrapped(key: str, X: Any, target: str, wrapped: StudentMixin | MLPClassifier | MLPRegressor) -> np.ndarray:
    """Take the answers of what the fitted estimator that `key` stands for imitates, or of itself."""
    return wrapped._ask_imitated(X) if isinstance(wrapped, StudentMixin) else teachers.ask(wrapped, X, target)


def _network_of_mlp(estimator: MLPClassifier | MLPRegressor) -> Network:
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
                f"the {name} answers {estimator.n_outputs_} labels per row, which a student file does not hold; fit "
                "one classifier for each label"
            )
        classes = teachers.plain_classes(np.asarray(estimator.classes_))
    else:
        squeeze = estimator.n_outputs_ == 1
    return Network(
        tuple(np.ascontiguousarray(weight, dtype=np.float32) for weight in estimator.coefs_),
        tuple(np.asarray(bias, dtype=np.float32) for bias in estimator.intercepts_),
        estimator.activation,
        "predict" if classes is None else "predict_proba",
        output,
        classes,
        feature_names=None,
        squeeze=squeeze,
    )
