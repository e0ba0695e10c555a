"""A network in a few bits per weight: codebooks and mappings, learned together against the network's outputs."""

from collections.abc import Sequence
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_scalar

from distill.compressors.base import Compressed, Compressor
from distill.compressors.codebook.budget_search import search_budget
from distill.compressors.codebook.finetuning import TuningSettings, fine_tune
from distill.compressors.codebook.grouping import reorder_neurons
from distill.compressors.codebook.layers import MOST_BITS, CodebookSettings, learn_layers, measure, pack
from distill.compressors.codebook.mapping import PROXIMAL
from distill.network import Network
from distill.training.targets import Calibration
from distill.utils.progress import Stage

_GROUPINGS = ("scales", "codebooks")
_SOLVERS = ("cd", "gradient", "kmeans")
_ENTROPY_CODINGS = ("auto", "off")


class CodebookCompressor(Compressor):
    """Compress a network to a few bits per weight.

    Every weight becomes a code into a small codebook. Neurons with weights of similar spread are sorted into groups,
    and each group has a scale, or a codebook, of its own; which group a neuron is in costs nothing, as its position
    says so. Codes and codebooks are learned together, layer by layer, so that the layer's outputs are kept for the
    inputs that the layers before it, already compressed, really deliver. At last codewords, scales and biases are
    trained on the outputs of the whole network. No labels are needed.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        A clone is fitted; a `FrozenEstimator(fitted)` is not fitted again. Inputs of an MLP that are of unlike units
        should be scaled before it.
    bits : int or sequence of int, default=2
        Bits of a packed code, 1 to 8, for all layers or one for each: a layer has at most ``2 ** bits`` codewords.
    n_groups : int, default=4
        Groups of neurons per layer, at most.
    grouping : {"scales", "codebooks"}, default="scales"
        Whether the groups of a layer share a codebook and have a scale each, or have a codebook each.
    solver : {"cd", "gradient", "kmeans"}, default="cd"
        "cd": coordinate descent, exact in every step. "gradient": gradient descent with a soft mapping, then "cd".
        "kmeans": the codewords nearest to the weights, whatever the outputs; for comparison.
    proximal : {"neighbour", "inverse", "off"}, default="neighbour"
        The gradient of the mapping; see `distill.compressors.codebook.mapping.mapping_backward`. Of "gradient" only.
    entropy_coding : {"auto", "off"}, default="auto"
        Whether codes are entropy-coded where that is shorter, or always packed.
    rate_weight : float, default=0.0
        What a bit is worth, 0 or more: learning minimises the relative error of a layer's outputs plus `rate_weight`
        times the entropy of its codes in bits per weight. Codes then cost less than `bits`, fewest for the most
        frequent codeword. Useful from 1e-4 to 1e-1. Not of "kmeans".
    max_bytes : int or None, default=None
        The size that the file must not exceed. `bits` and `rate_weight` are then chosen, not taken.
    max_iter : int, default=20
        Passes of the last training over the calibration rows, 0 or more. Those of the best pass on held-out rows are
        kept.
    learning_rate_init : float, default=1e-3
        Its step size, for numbers relative to their size.
    train_codes : bool, default=False
        Whether codes move in the last training as well, to neighbouring codewords. Pays with one or two bits, many rows
        (`n_calibration` of None) and 20 passes or more. Not together with `max_bytes` or a `rate_weight`, which it
        would not heed.
    temperature : float, default=4.0
        What outputs are divided by before they become probabilities that the last training imitates, above 0. At 1 it
        looks at likely labels only.
    n_calibration : int or None, default=10000
        How many rows are looked at; None for all.
    validation_fraction : float, default=0.1
        Share of them that is held out, between 0 and 1.
    memory : str, joblib.Memory or None, default=None
        Where the fitted wrapped estimator is kept, so that a grid over the parameters here fits it once.
    random_state : int, RandomState instance or None, default=None
        Of the choice and order of rows, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every step.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator; it is not modified.
    network_ : Network
        The compressed network as NumPy arrays, decoded from the bytes of the student file.
    classes_ : ndarray of shape (n_classes,)
        The labels, where the answers are labels.
    labels_ : ndarray of shape (n_samples,)
        Labels of the rows of the fit; where a clusterer is imitated.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Where its bytes are, and in "layers", for each layer: "n_codewords"; "entropy", of its codes, in bits per
        weight; "output_error", the squared error of its sums on held-out rows, as a share of their variance. In
        "agreement": the share of held-out rows with the label that the wrapped network gives, or the explained variance
        of its numbers. "rate_weight" and "bits" as used.
    n_iter_ : int
        Passes of the last training.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    Notes
    -----
    A network of which at least one weight in twenty is zero counts as pruned, and its zeros stay zeros: zero is then
    one of the codewords. Inputs that never vary in the rows of the fit get no codes; their effect goes to the bias.

    References
    ----------
    Yvinec, Dapogny, Bailly, "Network memory footprint compression through jointly learnable codebooks and mappings",
    ICLR 2024 (arXiv 2309.17361). Its equations were not available to us: ideas are theirs, formulas are ours.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import Distiller
    >>> from distill.compressors.codebook.estimator import CodebookCompressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> teacher = KMeans(10, n_init=1, random_state=0)
    >>> student = Distiller(teacher, hidden_layer_sizes=(32,), max_iter=10, random_state=0)
    >>> small = CodebookCompressor(student, bits=2, random_state=0).fit(X)
    >>> small.nbytes_ < 900 and small.report_["agreement"] > 0.95
    True
    >>> small.save("digits.student")  # doctest: +SKIP
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        bits: int | Sequence[int] = 2,
        n_groups: int = 4,
        grouping: str = "scales",
        solver: str = "cd",
        proximal: str = "neighbour",
        entropy_coding: str = "auto",
        rate_weight: float = 0.0,
        max_bytes: int | None = None,
        max_iter: int = 20,
        learning_rate_init: float = 1e-3,
        train_codes: bool = False,
        temperature: float = 4.0,
        n_calibration: int | None = 10000,
        validation_fraction: float = 0.1,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.estimator = estimator
        self.bits = bits
        self.n_groups = n_groups
        self.grouping = grouping
        self.solver = solver
        self.proximal = proximal
        self.entropy_coding = entropy_coding
        self.rate_weight = rate_weight
        self.max_bytes = max_bytes
        self.max_iter = max_iter
        self.learning_rate_init = learning_rate_init
        self.train_codes = train_codes
        self.temperature = temperature
        self.n_calibration = n_calibration
        self.validation_fraction = validation_fraction
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self) -> None:
        for name, choices in (
            ("grouping", _GROUPINGS),
            ("solver", _SOLVERS),
            ("proximal", PROXIMAL),
            ("entropy_coding", _ENTROPY_CODINGS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")
        for bits in self.bits if isinstance(self.bits, (Sequence, np.ndarray)) else (self.bits,):
            check_scalar(bits, "bits", Integral, min_val=1, max_val=MOST_BITS)
        check_scalar(self.n_groups, "n_groups", Integral, min_val=1)
        check_scalar(self.rate_weight, "rate_weight", Real, min_val=0)
        if self.max_bytes is not None:
            check_scalar(self.max_bytes, "max_bytes", Integral, min_val=1)
        if self.n_calibration is not None:
            check_scalar(self.n_calibration, "n_calibration", Integral, min_val=2)
        check_scalar(self.max_iter, "max_iter", Integral, min_val=0)
        check_scalar(self.learning_rate_init, "learning_rate_init", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.temperature, "temperature", Real, min_val=0, include_boundaries="neither")
        if self.train_codes and (self.rate_weight or self.max_bytes is not None):
            raise ValueError(
                f"train_codes=True would undo rate_weight={self.rate_weight} and max_bytes={self.max_bytes}; set it to "
                "False, or these to 0 and None"
            )
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )

    def _n_steps(self) -> int:
        return int(self.max_iter)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        n_layers = len(network.weights)
        settings = CodebookSettings(
            _bits_of_layers(self.bits, n_layers),
            int(self.n_groups),
            self.grouping,
            self.solver,
            self.proximal,
            float(self.rate_weight),
            self.entropy_coding,
        )
        ordered, groups = reorder_neurons(network, settings.n_groups)
        problem = (ordered, groups, calibration)
        if self.max_bytes is None:
            layers = learn_layers(*problem, settings, stage)
        else:
            settings, layers = search_budget(*problem, settings, int(self.max_bytes), stage)
        if self.max_iter:
            tuning = TuningSettings(
                int(self.max_iter), float(self.learning_rate_init), bool(self.train_codes), float(self.temperature)
            )
            layers = fine_tune(ordered, layers, calibration, tuning, stage)
        data = pack(ordered, layers, settings.entropy_coding)
        measured = measure(ordered, layers, calibration.validation)
        report = {**measured, "bits": settings.bits, "rate_weight": settings.rate_weight}
        return Compressed(data, report, {"n_iter_": int(self.max_iter)})


def _bits_of_layers(bits: int | Sequence[int], n_layers: int) -> tuple[int, ...]:
    if isinstance(bits, Integral):
        return (int(bits),) * n_layers
    if len(bits) != n_layers:
        raise ValueError(f"bits must be one number or one for each of {n_layers} layers, got {bits!r}")
    return tuple(int(number) for number in bits)
