"""The search of AutoCompressor: candidates around one fitted network, compared on validation samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

from distill import teachers
from distill.base import StudentMixin, without_columns
from distill.codecs import container
from distill.compressors import COMPRESSORS, compressor_class
from distill.compressors.base import Compressor, network_of
from distill.distiller import Distiller
from distill.network import Network
from distill.runtime import Student
from distill.training.fidelity import fidelity, label_positions
from distill.utils.caller import quiet
from distill.utils.progress import Stage

# Smallest number of units in a hidden layer of a narrower network. Chosen by hand
_MIN_UNITS = 4
# Largest width of a narrower network as a fraction of the original one: closer widths would cost a distillation and
# change little. Chosen by hand
_MAX_WIDTH = 0.8
# The search for the smallest size skips a lane whose largest size that is too small is above this fraction of the best
# size: it could save less than a fifth of the bytes, for another fit. Chosen by hand
_WORTH_TRYING = 0.8
# Lower end of the search for the smallest size, below all student files
_MIN_BYTES = 64
# Rounds of that search: each halves the interval of log(size) for one more fit in every lane. Chosen by hand
_N_HALVINGS = 5
# Epochs of the distillation of a narrower network with effort=1: the default of `Distiller`
_DISTILLATION_EPOCHS = 100


@dataclass(frozen=True)
class Demand:
    """The demand on a compression, and the extent of the search; see `AutoCompressor`."""

    max_bytes: int | None
    min_fidelity: float | None
    methods: tuple[str, ...]
    effort: float
    seed: int
    balance_classes: bool = False


@dataclass(frozen=True)
class Candidate:
    """A method with a number of bytes.

    Parameters
    ----------
    method : str
    max_bytes : int
    hidden_layer_sizes : tuple of int or None
        Of a narrower network, distilled from the wrapped one; None compresses the wrapped network itself.
    """

    method: str
    max_bytes: int
    hidden_layer_sizes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Lane:
    """A method, for the wrapped network (`bits` None) or for a narrower one with about `bits` bits per weight.

    Parameters
    ----------
    method : str
    bits : float or None
    """

    method: str
    bits: float | None

    def at(self, max_bytes: int, network: Network) -> list[Candidate]:
        """Return the candidate of this size in a list, empty if the network is too narrow already."""
        sizes = None if self.bits is None else narrower(network.layer_sizes, 8 * max_bytes / self.bits)
        exists = sizes is not None or self.bits is None or compressor_class(self.method).trains_own_network
        return [Candidate(self.method, max_bytes, sizes)] if exists else []


class Search:
    """Search over candidates around one fitted network by their fidelity on validation samples.

    Parameters
    ----------
    demand : Demand
    fitted : estimator
        The wrapped estimator.
    X, X_validation : array-like
        Samples for the fit of candidates, and samples for their fidelity.
    n_jobs : int or None
    stage : Stage

    Attributes
    ----------
    candidates : list of Candidate
    compressors : dict of int to Compressor
        Fitted candidates by their positions; those whose fit failed are missing.
    fidelity : list of float
        NaN for candidates whose fit failed.
    errors : list of str
        Messages of failed fits, else empty.
    """

    def __init__(self, demand: Demand, fitted: BaseEstimator, X: Any, X_validation: Any, n_jobs: Any, stage: Stage):
        self.demand, self.fitted, self.X, self.X_validation = demand, fitted, X, X_validation
        self.n_jobs, self.stage = n_jobs, stage
        self.network = network_of(fitted)
        self.expected = expected_predictions(fitted, X_validation)
        self.candidates: list[Candidate] = []
        self.compressors: dict[int, Compressor] = {}
        self.fidelity: list[float] = []
        self.errors: list[str] = []

    def most_faithful(self, max_bytes: int) -> int:
        """Try all lanes at this size; return the position of the best candidate, the smallest among equals."""
        self._try([candidate for lane in self._lanes() for candidate in lane.at(max_bytes, self.network)])
        fitting = self._fitting()
        if not fitting:
            raise ValueError(f"no file of max_bytes={max_bytes} could be made: {'; '.join(self.errors)}")
        return max(fitting, key=lambda index: (self.fidelity[index], -self.compressors[index].nbytes_))

    def smallest(self) -> int:
        """Bisect the size in every lane; return the position of the smallest candidate that meets the demand."""
        largest = len(container.encode(self.network, "float16"))
        largest = largest if self.demand.max_bytes is None else min(largest, int(self.demand.max_bytes))
        # Lanes use the results of others only after a round is complete: the choice does not depend on n_jobs
        lanes = self._lanes()
        self._round(dict.fromkeys(lanes, largest))
        too_small = dict.fromkeys(lanes, _MIN_BYTES)
        for _ in range(_N_HALVINGS):
            if (best := self._smallest_good()) is None:
                break
            size = self.compressors[best].nbytes_
            promising = [lane for lane in lanes if too_small[lane] < _WORTH_TRYING * size]
            sizes = {lane: round((too_small[lane] * size) ** 0.5) for lane in promising}
            good = self._round(sizes)
            too_small |= {lane: size for lane, size in sizes.items() if lane not in good}
        if (best := self._smallest_good()) is None:
            nearest = max(self._fitting(), key=lambda index: self.fidelity[index], default=None)
            result = "; ".join(self.errors) if nearest is None else f"the best one reached {self.fidelity[nearest]:.4f}"
            raise ValueError(
                f"min_fidelity={self.demand.min_fidelity} was not reached within {largest} bytes: {result}; demand "
                "less, allow more bytes, or wrap a network that is more faithful itself"
            )
        return best

    def results(self) -> dict:
        """Return all candidates in the form of `cv_results_`."""
        sizes = np.full(len(self.candidates), np.nan)
        for index, compressor in self.compressors.items():
            sizes[index] = -float(compressor.nbytes_)
        return {
            "params": [dict(vars(candidate)) for candidate in self.candidates],
            "mean_test_fidelity": np.array(self.fidelity),
            "mean_test_size": sizes,
            "error": list(self.errors),
        }

    def _lanes(self) -> list[Lane]:
        """Return the lanes of all methods: the wrapped network, and narrower ones at the bits that suit the method."""
        lanes: list[Lane] = []
        for method in self.demand.methods:
            kind = compressor_class(method)
            wrapped = () if kind.trains_own_network else (None,)
            lanes += [Lane(method, bits) for bits in (*wrapped, *kind.narrow_bits)]
        return lanes

    def _round(self, sizes: dict[Lane, int]) -> set[Lane]:
        """Try every lane at its size; return those that meet the demand."""
        tried = [(lane, candidate) for lane, size in sizes.items() for candidate in lane.at(size, self.network)]
        first = len(self.candidates)
        self._try([candidate for _, candidate in tried])
        return {lane for index, (lane, _) in enumerate(tried, start=first) if self._is_good(index)}

    def _try(self, candidates: list[Candidate]) -> None:
        """Fit candidates, in parallel, and record their results."""
        calls = (
            joblib.delayed(try_candidate)(
                make_compressor(candidate, self.fitted, self.demand), self.X, self.X_validation, self.expected
            )
            for candidate in candidates
        )
        for candidate, (compressor, score, error) in zip(candidates, joblib.Parallel(n_jobs=self.n_jobs)(calls)):
            if compressor is not None:
                self.compressors[len(self.candidates)] = compressor
            self.candidates.append(candidate)
            self.fidelity.append(score)
            self.errors.append(error)
            result = f"{compressor.nbytes_} bytes, fidelity {score:.4f}" if compressor is not None else error
            sizes = f" {candidate.hidden_layer_sizes}" if candidate.hidden_layer_sizes else ""
            self.stage.log(f"{candidate.method}{sizes}, at most {candidate.max_bytes} bytes: {result}")

    def _fitting(self) -> list[int]:
        """Return the positions of the candidates that fit into the demanded size."""
        limit = np.inf if self.demand.max_bytes is None else self.demand.max_bytes
        return [index for index, compressor in self.compressors.items() if compressor.nbytes_ <= limit]

    def _is_good(self, index: int) -> bool:
        """Return whether a candidate meets the demand in size and fidelity."""
        least = -np.inf if self.demand.min_fidelity is None else self.demand.min_fidelity
        return index in self._fitting() and self.fidelity[index] >= least

    def _smallest_good(self) -> int | None:
        """Return the position of the smallest candidate that meets the demand, the most faithful among equals."""
        good = [index for index in self._fitting() if self._is_good(index)]
        return min(good, key=lambda index: (self.compressors[index].nbytes_, -self.fidelity[index]), default=None)


def make_compressor(candidate: Candidate, fitted: BaseEstimator, demand: Demand) -> Compressor:
    """Return the unfitted compressor of a candidate, around a fitted estimator."""
    wrapped: Any = FrozenEstimator(fitted)
    kind = compressor_class(candidate.method)
    if candidate.hidden_layer_sizes is not None and not kind.trains_own_network:
        network = network_of(fitted)
        wrapped = Distiller(
            wrapped,
            target="predict_proba" if network.gives_probabilities else network.target,
            hidden_layer_sizes=candidate.hidden_layer_sizes,
            activation=network.activation,
            max_iter=max(1, round(_DISTILLATION_EPOCHS * demand.effort)),
            random_state=demand.seed,
        )
    compressor: Compressor = kind.for_budget(
        wrapped,
        candidate.max_bytes,
        effort=demand.effort,
        hidden_layer_sizes=candidate.hidden_layer_sizes,
        random_state=demand.seed,
    )
    return compressor.set_params(balance_classes=True) if demand.balance_classes else compressor


def try_candidate(
    compressor: Compressor, X: Any, X_validation: Any, expected: np.ndarray
) -> tuple[Compressor | None, float, str]:
    """Fit a candidate; return it with its fidelity, or None, NaN and the error."""
    try:
        with quiet():  # of what candidates lose, only that of the chosen one matters
            compressor.fit(X)
    except ValueError as error:
        return None, np.nan, f"{type(compressor).__name__}: {error}"
    classification = compressor.network_.classes is not None and compressor.network_.target != "decision_function"
    return compressor, fidelity(expected, _predictions(compressor, X_validation), classification), ""


def expected_predictions(fitted: BaseEstimator, X: Any) -> np.ndarray:
    """Return the predictions of the imitated estimator for rows X, or of the student if its teacher has none."""
    if isinstance(fitted, Student):
        target = fitted.network.target
        return np.asarray(fitted.predict(X) if target == "predict_proba" else getattr(fitted, target)(X))
    if not isinstance(fitted, StudentMixin):
        return np.asarray(fitted.predict(without_columns(X)))
    if teachers.is_transductive(fitted.imitated_estimator(), fitted.network_.target):
        return _predictions(fitted, X)
    expected, classes = teachers.as_array(fitted.predict_imitated(X), "that is imitated"), fitted.network_.classes
    if fitted.network_.target == "predict_proba" and classes is not None:
        expected = classes[label_positions(expected)]
    excluded = fitted.excluded_label()
    # Rows of an excluded label have one of the student's labels, which a compression shall keep
    return expected if excluded is None else np.where(expected == excluded, _predictions(fitted, X), expected)


def _predictions(fitted: StudentMixin, X: Any) -> np.ndarray:
    """Return predictions of the kind that the student was trained on, labels in place of probabilities."""
    target = fitted.network_.target
    return np.asarray(fitted.predict(X) if target == "predict_proba" else fitted.student_output(target, X))


def chosen_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """Return the methods of a parameter `methods` in the order of the registry, unknown ones first."""
    known = list(COMPRESSORS)
    chosen = known if isinstance(methods, str) and methods == "all" else methods
    try:
        chosen = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    except TypeError:
        raise TypeError(f"methods must be 'all' or a sequence of {', '.join(known)}, got {methods!r}") from None
    return tuple(sorted(chosen, key=lambda method: known.index(method) if method in known else -1))


def narrower(layer_sizes: Sequence[int], n_parameters: float) -> tuple[int, ...] | None:
    """Return sizes of hidden layers, all reduced by one factor, for about `n_parameters` weights and biases.

    Returns
    -------
    tuple of int, or None
        None if the network is hardly larger, or the narrowest network still too large.

    Examples
    --------
    >>> narrower((64, 256, 64, 10), 4000)
    (49, 12)
    >>> narrower((64, 8, 10), 4000)
    """

    def hidden(fraction: float) -> tuple[int, ...]:
        return tuple(max(min(_MIN_UNITS, size), round(fraction * size)) for size in layer_sizes[1:-1])

    def count(sizes: tuple[int, ...]) -> int:
        all_sizes = (layer_sizes[0], *sizes, layer_sizes[-1])
        return sum((n_inputs + 1) * n_outputs for n_inputs, n_outputs in pairwise(all_sizes))

    fractions = np.linspace(0, _MAX_WIDTH, 200)
    fitting = [hidden(fraction) for fraction in fractions if count(hidden(fraction)) <= n_parameters]
    if not fitting or fitting[-1] == hidden(_MAX_WIDTH):
        return None
    return fitting[-1]
