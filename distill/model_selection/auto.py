"""The compression that a demand calls for, found by trying on rows that were held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params, check_scalar

from distill import teachers
from distill.base import StudentMixin, all_or_nothing
from distill.codecs import container
from distill.compressors.base import Compressor, network_of
from distill.compressors.codebook.estimator import CodebookCompressor
from distill.compressors.matrix_gaussian.estimator import MatrixGaussianCompressor
from distill.compressors.random_code.estimator import RandomCodeCompressor
from distill.compressors.spike_slab.estimator import SpikeSlabCompressor
from distill.distiller import Distiller
from distill.network import Network
from distill.training.fidelity import explained_variance
from distill.training.samples import holdout
from distill.utils.progress import Progress, with_callbacks

# Quick ones first: where a size is searched, later ones have to be smaller than what was found
METHODS = ("codebook", "spike_slab", "matrix_gaussian", "random_code")
# Bits per weight for which narrower networks are laid out
_NARROW_BITS = {"codebook": (2.5, 4.0), "random_code": (6.0,)}
_LEAST_UNITS = 4
# A network is made narrower only if that changes it, and a size is searched only where much can be won
_WIDEST, _WORTH_TRYING = 0.8, 0.8
_LEAST_BYTES = 64
_N_HALVINGS = 5


@dataclass(frozen=True)
class Attempt:
    """A candidate: a way of compression and the bytes it is given.

    Parameters
    ----------
    method : str
    max_bytes : int
    hidden_layer_sizes : tuple of int or None
        Of a narrower network that first learns to imitate the wrapped one; None compresses that itself.
    """

    method: str
    max_bytes: int
    hidden_layer_sizes: tuple[int, ...] | None = None


class AutoCompressor(Compressor):
    """Find the compressor and the settings that meet a demand.

    What is wrapped is fitted to a part of the rows, candidates compress it, and rows that neither has seen tell how
    faithful they are. The winner is fitted again to all rows, and kept as it was should that make it worse.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        A clone is fitted. A `FrozenEstimator(fitted)` is not fitted again; rows it has learned from are then held out
        from its compression only, and fidelity looks a little better than it is.
    max_bytes : int or None, default=None
        The size that the file must not exceed. Without `min_fidelity` the most faithful file of that size is kept.
    min_fidelity : float or None, default=None
        The fidelity that is demanded on held-out rows: the share of labels equal to those of what is imitated (the
        teacher; of an MLP its own), or R^2 of numbers. The smallest file is kept that reaches it. Instead of a teacher
        that knows the rows of its own fit only, the wrapped network is asked. One of the two demands is needed.
    methods : "all" or sequence of str, default="all"
        Which compressors are tried: "codebook", "spike_slab", "matrix_gaussian", "random_code". Codebooks and random
        codes are tried on narrower networks that imitate the wrapped one, where that leaves more bits for a weight.
    effort : float, default=1.0
        Multiplies the training passes of all candidates, above 0; below 1 is faster and less good.
    refit : bool, default=True
        Whether the winner is fitted again, to all rows. If it is then less faithful on the rows that were held out
        before, or with False, the winner stays as it was measured, fitted to the rows that were not held out.
    validation_fraction : float, default=0.2
        Share of rows that is held out to measure fidelity, between 0 and 1.
    n_jobs : int or None, default=None
        Candidates that are tried at the same time, in joblib's workers; the result does not depend on it.
    memory : str, joblib.Memory or None, default=None
        Where what is wrapped is kept, fitted.
    random_state : int, RandomState instance or None, default=None
        Of the rows held out, of all candidates, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every candidate.

    Attributes
    ----------
    compressor_ : estimator
        The winner, fitted.
    estimator_ : estimator
        What is wrapped, fitted.
    search_results_ : dict
        Of all candidates, in the form of scikit-learn's `cv_results_`: "params", "mean_test_fidelity" (NaN where a
        candidate failed), "mean_test_size" (minus the bytes), "error". For
        `distill.model_selection.pareto_front` and `distill.plotting.TradeOffDisplay`.
    best_index_ : int
        Position of the winner in it.
    best_params_ : dict
        "method", "max_bytes" and "hidden_layer_sizes" of the winner.
    best_fidelity_ : float
        The winner's, on the rows held out. The best of many looks a little better there than it is.
    network_ : Network
        The compressed network as NumPy arrays, decoded from the bytes of the student file.
    classes_ : ndarray of shape (n_classes,)
        The labels, where the answers are labels.
    labels_ : ndarray of shape (n_samples,)
        Labels of the rows of the fit; where a clusterer is imitated.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Where its bytes are.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    See Also
    --------
    distill.model_selection.scores.smallest_within : To choose from a grid of your own.

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
        self.n_jobs = n_jobs
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y=None, **fit_params) -> "AutoCompressor":
        """Find the compression, and fit it.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or None
            Goes to the wrapped estimator's fit.
        **fit_params
            Go to the wrapped estimator's fit; what has an entry for every row is split with the rows.

        Returns
        -------
        AutoCompressor
            Itself. A fit that fails or is interrupted leaves it as it was.

        Raises
        ------
        ValueError
            If nothing meets the demand, with what came nearest; or a parameter or X is out of its range.
        TypeError
            If `estimator` is none that can be wrapped.
        """
        rows, inner_seed, seed = self._admit(X, y)
        progress = Progress(self, 4, X, y, self._reconstruct)
        seen = X if hasattr(self, "feature_names_in_") else rows
        learned, held_out = holdout(None, rows.shape[0], float(self.validation_fraction), seed)
        parts = [_safe_indexing(seen, positions) for positions in (learned, held_out)]
        y_learned = None if y is None else _safe_indexing(y, learned)
        params_learned = _check_method_params(seen, fit_params, learned)
        fitted, _ = self._fit_estimator(parts[0], y_learned, params_learned, inner_seed, progress)
        with progress.stage("search") as stage:
            search = _Search(self, fitted, *parts, seed, stage)
            index = search.smallest() if self.min_fidelity is not None else search.most_faithful()
        self.search_results_ = search.results()
        self.best_index_, self.best_params_ = index, self.search_results_["params"][index]
        self.best_fidelity_ = float(self.search_results_["mean_test_fidelity"][index])
        self.estimator_, self._wrapped_key, self.compressor_ = fitted, None, search.compressors[index]
        if self.refit:
            again, key = self._fit_estimator(seen, y, fit_params, inner_seed, progress)
            with progress.stage("refit"):
                candidate = self._compressor(search.attempts[index], again, seed)
                compressor, fidelity, _ = _attempt(candidate, seen, parts[1], _expected(again, parts[1]))
            # It has now learned from these rows; should it be worse on them nevertheless, it is not what was chosen
            if fidelity >= self.best_fidelity_:
                self.estimator_, self._wrapped_key, self.compressor_ = again, key, compressor
        self._measured = {name: value for name, value in self.compressor_.report_.items() if name in ("agreement",)}
        self._adopt(self.compressor_.to_bytes())
        if teachers.teacher_type(self.imitated_estimator()) == "clusterer" and self.network_.classes is not None:
            self.labels_ = self.predict(X)
        progress.finish()
        return self

    def _check_parameters(self) -> None:
        if self.max_bytes is None and self.min_fidelity is None:
            raise ValueError("max_bytes and min_fidelity are both None; give one of them, or both, as the demand")
        if self.max_bytes is not None:
            check_scalar(self.max_bytes, "max_bytes", Integral, min_val=1)
        if self.min_fidelity is not None:
            check_scalar(self.min_fidelity, "min_fidelity", Real, max_val=1)
        check_scalar(self.effort, "effort", Real, min_val=0, include_boundaries="neither")
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        unknown = [method for method in _methods(self.methods) if method not in METHODS]
        if unknown or not _methods(self.methods):
            raise ValueError(f"methods must be 'all' or some of {', '.join(map(repr, METHODS))}, got {self.methods!r}")

    def _compressor(self, attempt: Attempt, fitted: BaseEstimator, seed: int) -> Compressor:
        """Return the unfitted compressor that an attempt stands for."""
        wrapped: Any = FrozenEstimator(fitted)
        if attempt.hidden_layer_sizes is not None and attempt.method != "random_code":
            passes = _scaled(100, self.effort)
            network = network_of(fitted)
            wrapped = Distiller(
                wrapped,
                target=network.target if network.output == "identity" else "predict_proba",
                hidden_layer_sizes=attempt.hidden_layer_sizes,
                activation=network.activation,
                max_iter=passes,
                random_state=seed,
            )
        common = {"max_bytes": attempt.max_bytes, "random_state": seed}
        if attempt.method == "codebook":
            return CodebookCompressor(wrapped, max_iter=_scaled(20, self.effort), **common)
        if attempt.method == "spike_slab":
            passes = {"max_iter": _scaled(40, self.effort), "fine_tune_iter": _scaled(15, self.effort)}
            return SpikeSlabCompressor(wrapped, learn_from="outputs", **passes, **common)
        if attempt.method == "matrix_gaussian":
            return MatrixGaussianCompressor(wrapped, learn_from="outputs", max_iter=_scaled(100, self.effort), **common)
        return RandomCodeCompressor(
            wrapped, hidden_layer_sizes=attempt.hidden_layer_sizes, n_steps=_scaled(2000, self.effort), **common
        )


class _Search:
    """Candidates around one fitted network, what they are worth on rows that were held out, and the choice."""

    def __init__(self, auto: AutoCompressor, fitted: BaseEstimator, X, X_held_out, seed: int, stage):
        self.auto, self.fitted, self.X, self.X_held_out = auto, fitted, X, X_held_out
        self.seed, self.stage = seed, stage
        self.network = network_of(fitted)
        self.expected = _expected(fitted, X_held_out)
        self.attempts: list[Attempt] = []
        self.compressors: list[Compressor | None] = []
        self.fidelity: list[float] = []
        self.errors: list[str] = []

    def most_faithful(self) -> int:
        """Try everything at the largest size; return the position of the best, of equal ones the smallest."""
        self._try([attempt for lane in self._lanes() for attempt in lane.at(int(self.auto.max_bytes), self.network)])
        fitting = self._fitting()
        if not fitting:
            raise ValueError(f"no file of max_bytes={self.auto.max_bytes} could be made: {'; '.join(self.errors)}")
        return max(fitting, key=lambda index: (self.fidelity[index], -self.compressors[index].nbytes_))

    def smallest(self) -> int:
        """Narrow down, in every lane, the size that is needed; return the position of the smallest that is good."""
        largest = len(container.encode(self.network, "float16"))
        largest = largest if self.auto.max_bytes is None else min(largest, int(self.auto.max_bytes))
        # Lanes go side by side, and hear of each other between rounds only: so the choice does not depend on n_jobs
        lanes = self._lanes()
        self._round(dict.fromkeys(lanes, largest))
        too_small = dict.fromkeys(lanes, _LEAST_BYTES)
        for _ in range(_N_HALVINGS):
            if (best := self._smallest_good()) is None:
                break
            size = self.compressors[best].nbytes_
            worth = [lane for lane in lanes if too_small[lane] < _WORTH_TRYING * size]
            sizes = {lane: round((too_small[lane] * size) ** 0.5) for lane in worth}
            good = self._round(sizes)
            too_small |= {lane: size for lane, size in sizes.items() if lane not in good}
        if (best := self._smallest_good()) is None:
            nearest = max(self._fitting(), key=lambda index: self.fidelity[index], default=None)
            said = "; ".join(self.errors) if nearest is None else f"the best one reached {self.fidelity[nearest]:.4f}"
            raise ValueError(
                f"min_fidelity={self.auto.min_fidelity} was not reached within {largest} bytes: {said}; demand less, "
                "allow more bytes, or wrap a network that is more faithful itself"
            )
        return best

    def results(self) -> dict:
        """Return all candidates in the form of `cv_results_`."""
        sizes = [np.nan if compressor is None else -float(compressor.nbytes_) for compressor in self.compressors]
        return {
            "params": [dict(vars(attempt)) for attempt in self.attempts],
            "mean_test_fidelity": np.array(self.fidelity),
            "mean_test_size": np.array(sizes),
            "error": list(self.errors),
        }

    def _lanes(self) -> list["_Lane"]:
        lanes = []
        for method in _methods(self.auto.methods):
            # Random codes of a wide network take long and are not better
            widths = [] if method == "random_code" else [None]
            lanes += [_Lane(method, bits) for bits in (*widths, *_NARROW_BITS.get(method, ()))]
        return lanes

    def _round(self, sizes: dict["_Lane", int]) -> set["_Lane"]:
        """Try every lane at its size; return those that were good enough."""
        tried = [(lane, attempt) for lane, size in sizes.items() for attempt in lane.at(size, self.network)]
        first = len(self.attempts)
        self._try([attempt for _, attempt in tried])
        return {lane for index, (lane, _) in enumerate(tried, start=first) if self._is_good(index)}

    def _try(self, attempts: list[Attempt]) -> None:
        calls = (
            joblib.delayed(_attempt)(
                self.auto._compressor(attempt, self.fitted, self.seed), self.X, self.X_held_out, self.expected
            )
            for attempt in attempts
        )
        for attempt, (compressor, fidelity, error) in zip(attempts, joblib.Parallel(n_jobs=self.auto.n_jobs)(calls)):
            self.attempts.append(attempt)
            self.compressors.append(compressor)
            self.fidelity.append(fidelity)
            self.errors.append(error)
            size = f"{compressor.nbytes_} bytes, fidelity {fidelity:.4f}" if compressor is not None else error
            narrowed = f" {attempt.hidden_layer_sizes}" if attempt.hidden_layer_sizes else ""
            self.stage.say(f"{attempt.method}{narrowed}, at most {attempt.max_bytes} bytes: {size}")

    def _fitting(self) -> list[int]:
        found = [index for index, compressor in enumerate(self.compressors) if compressor is not None]
        limit = self.auto.max_bytes
        return [index for index in found if limit is None or self.compressors[index].nbytes_ <= limit]

    def _is_good(self, index: int) -> bool:
        return index in self._fitting() and self.fidelity[index] >= self.auto.min_fidelity

    def _smallest_good(self) -> int | None:
        good = [index for index in self._fitting() if self._is_good(index)]
        return min(good, key=lambda index: (self.compressors[index].nbytes_, -self.fidelity[index]), default=None)


@dataclass(frozen=True)
class _Lane:
    """A method, for the network as it is or for one so narrow that its weights have about so many bits each."""

    method: str
    bits: float | None

    def at(self, max_bytes: int, network: Network) -> list[Attempt]:
        """Return the attempt at this size, or none if there is nothing to be made narrower."""
        sizes = None if self.bits is None else narrower(network.layer_sizes, 8 * max_bytes / self.bits)
        wanted = sizes is not None or self.bits is None or self.method == "random_code"
        return [Attempt(self.method, max_bytes, sizes)] if wanted else []


def narrower(layer_sizes: Sequence[int], n_parameters: float) -> tuple[int, ...] | None:
    """Return hidden layers, all narrower in the same proportion, with which a network has about so many parameters.

    Returns
    -------
    tuple of int, or None
        None where the network is hardly larger, or where even the narrowest would be.

    Examples
    --------
    >>> narrower((64, 256, 64, 10), 4000)
    (49, 12)
    >>> narrower((64, 8, 10), 4000)
    """

    def hidden(share: float) -> tuple[int, ...]:
        return tuple(max(min(_LEAST_UNITS, size), round(share * size)) for size in layer_sizes[1:-1])

    def count(sizes: tuple[int, ...]) -> int:
        sizes = (layer_sizes[0], *sizes, layer_sizes[-1])
        return sum((n_inputs + 1) * n_outputs for n_inputs, n_outputs in pairwise(sizes))

    shares = np.linspace(0, _WIDEST, 200)
    fitting = [hidden(share) for share in shares if count(hidden(share)) <= n_parameters]
    if not fitting or fitting[-1] == hidden(_WIDEST):
        return None
    return fitting[-1]


def _attempt(
    compressor: Compressor, X: Any, X_held_out: Any, expected: np.ndarray
) -> tuple[Compressor | None, float, str]:
    """Fit a candidate; return it with its fidelity, or why there is none."""
    try:
        compressor.fit(X)
    except ValueError as error:
        return None, np.nan, f"{type(compressor).__name__}: {error}"
    given = _answers(compressor, X_held_out)
    labelled = compressor.network_.classes is not None and compressor.network_.target != "decision_function"
    fidelity = np.mean(expected == given) if labelled else explained_variance(expected, given)
    return compressor, float(fidelity), ""


def _expected(fitted: BaseEstimator, X: Any) -> np.ndarray:
    """Return what is imitated about rows it has not seen; for a teacher that cannot say it, what its student says."""
    if not isinstance(fitted, StudentMixin):
        return np.asarray(fitted.predict(X))
    if teachers.is_transductive(fitted.imitated_estimator(), fitted.network_.target):
        return _answers(fitted, X)
    answers, classes = np.asarray(fitted.predict_imitated(X)), fitted.network_.classes
    probable = fitted.network_.target == "predict_proba"
    return classes[answers.argmax(axis=1)] if probable else answers


def _answers(fitted: StudentMixin, X: Any) -> np.ndarray:
    """Return labels, or else the numbers that the student was trained to answer."""
    target = fitted.network_.target
    return np.asarray(fitted.predict(X) if target == "predict_proba" else fitted.student_output(target, X))


def _methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    asked = METHODS if isinstance(methods, str) and methods == "all" else methods
    asked = (asked,) if isinstance(asked, str) else tuple(asked)
    return tuple(sorted(asked, key=lambda method: METHODS.index(method) if method in METHODS else -1))


def _scaled(passes: int, effort: float) -> int:
    return max(1, round(passes * float(effort)))
