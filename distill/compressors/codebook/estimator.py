"""Compress a network to a few bits per weight, with codebooks and mappings that are learned together."""

import warnings
from collections.abc import Sequence
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_scalar

from distill.compressors.base import Compressed, Compressor
from distill.compressors.codebook.budget_search import search_budget
from distill.compressors.codebook.finetuning import TuningSettings, fine_tune
from distill.compressors.codebook.grouping import reorder_neurons
from distill.compressors.codebook.layers import MOST_BITS, CodebookSettings, encode, learn_layers, measure
from distill.network import Network
from distill.training.targets import Calibration
from distill.utils.progress import Stage

# Deprecated values of `proximal`, to be removed in 0.2
_RENAMED_PROXIMAL = {"neighbour": "neighbor"}


class CodebookCompressor(Compressor):
    """Compress a network to a few bits per weight.

    Every weight becomes a code into a small codebook. Neurons whose weights have a similar standard deviation are
    sorted into groups, and each group has a scale or a codebook; the order of the neurons encodes their groups without
    a byte. Codes and codebooks are learned together, layer by layer, to keep the outputs of the layer when its inputs
    come from the compressed layers before it. Finally codewords, scales and biases are trained on the outputs of the
    whole network. No labels are needed.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one, or a Student
        A clone is fitted; a `FrozenEstimator(fitted)` or a loaded `Student` is not fitted again. Scale the inputs of an
        MLP before it if they have different units.
    bits : int or sequence of int, default=2
        Bits of a packed code, 1 to 8, for all layers or for each layer: a layer has at most ``2 ** bits`` codewords.
    n_groups : int, default=4
        Largest number of groups of neurons in a layer, 1 or more.
    grouping : {"scales", "codebooks"}, default="scales"
        Parameters of each group of a layer: a scale for a common codebook, or a codebook.
    solver : {"cd", "gradient", "kmeans"}, default="cd"
        "cd": coordinate descent, exact in every step. "gradient": gradient descent with a soft mapping, then "cd";
        three to four times as slow, with a smaller error. "kmeans", for comparison: the codewords nearest to the
        weights, without regard to the outputs.
    proximal : {"neighbor", "inverse", "off"}, default="neighbor"
        Gradient of the mapping, for ``solver="gradient"`` only: zero for all but the two neighboring codewords;
        falling with the inverse of the distance; or the derivative ("off", for comparison). See
        `distill.compressors.codebook.mapping.mapping_backward`.

        .. deprecated:: 0.1
           The value "neighbour" is deprecated and will be removed in 0.2; use "neighbor".
    entropy_coding : {"auto", "off"}, default="auto"
        Whether codes are entropy-coded where that is shorter, or always packed.
    rate_weight : float, default=0.0
        Price of a bit, 0 or more: learning minimizes the relative error of a layer's outputs plus `rate_weight` times
        the entropy of its codes in bits per weight. Entropy coding then takes fewer than `bits` bits per code. Useful
        from 1e-4 to 1e-1. Not for ``solver="kmeans"``.
    max_bytes : int or None, default=None
        Largest size of the file, in bytes. If given, `bits` and `rate_weight` are chosen on the validation samples and
        the parameters of that name are ignored.
    max_iter : int, default=20
        Number of epochs of the final training on the calibration samples, 0 or more. The result of the epoch with the
        smallest validation loss is kept.
    learning_rate_init : float, default=1e-3
        Step size at the start of the final training, above 0, relative to the size of the trained values.
    train_codes : bool, default=False
        Whether the final training also changes codes, to neighboring codewords. Useful with one or two bits, many
        samples (``n_calibration=None``) and 20 epochs or more. Cannot be combined with `max_bytes` or a `rate_weight`,
        which it would ignore.
    temperature : float, default=4.0
        Divisor of logits before the softmax, above 0, in the targets and the loss of the final training. At 1 only the
        most probable labels matter.
    n_calibration : int or None, default=10000
        Largest number of samples used, 2 or more; None for all.
    validation_fraction : float, default=0.1
        Fraction of them in the validation set, between 0 and 1.
    balance_classes : bool, default=False
        Whether calibration samples are drawn such that all labels, as the wrapped network predicts them (or y where
        it is the target), have equally many, those of small classes repeatedly. A small cluster then counts as much as
        a large one in the compression, its choices and the "agreement" in `report_`. For networks with labels only.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted wrapped estimator, so that a grid search over the parameters here fits it once.
    random_state : int, RandomState instance or None, default=None
        Seed of the choice and order of samples, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every step.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator; it is not modified.
    network_ : Network
        The compressed network as NumPy arrays, decoded from the bytes of the student file.
    classes_ : ndarray of shape (n_classes,)
        Class labels; for classification only.
    labels_ : ndarray of shape (n_samples,)
        Labels of the X of the fit; only if a clusterer is imitated.
    nbytes_ : int
        Size of the student file, in bytes.
    report_ : dict
        Sizes of the parts of the file in bytes, and measurements on the validation samples. "layers" has for each
        layer "n_codewords"; "entropy", of its codes, in bits per weight; "output_error", the squared error of its
        outputs before the activation as a fraction of their variance. "agreement" is the fraction of labels equal to
        those of the wrapped network, or the R^2 of its outputs. "bits" and "rate_weight" are those used.
        Where labels are predicted, "agreement_per_class" has the fraction found of each label's validation samples (of
        all its samples where fewer than 10 are held out).
    n_iter_ : int
        Number of epochs of the final training that were run: `max_iter`, or fewer if a callback stopped it.
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only if X has names that are all strings.

    See Also
    --------
    distill.SpikeSlabCompressor : Prunes weights; for less than one bit per weight, wrap it in a `CodebookCompressor`.
    distill.RandomCodeCompressor : Compresses to an exact number of bytes.
    distill.MatrixGaussianCompressor : Quantizes weights by their posterior variances.
    distill.AutoCompressor : Chooses a compressor and its settings.

    Notes
    -----
    A network of which at least one weight in twenty is zero counts as pruned, and its zeros are kept: zero is then one
    of the codewords. Inputs that are constant in the X of the fit have no codes; their effect is added to the bias.

    References
    ----------
    Yvinec, Dapogny, Bailly, "Network memory footprint compression through jointly learnable codebooks and mappings",
    ICLR 2024 (arXiv 2309.17361). Its equations were not available to us: the ideas are from there, the formulas are
    ours.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import CodebookCompressor, Distiller
    >>> X, _ = load_digits(return_X_y=True)
    >>> teacher = KMeans(10, n_init=1, random_state=0)
    >>> student = Distiller(teacher, hidden_layer_sizes=(32,), max_iter=10, random_state=0)
    >>> small = CodebookCompressor(student, bits=2, random_state=0).fit(X)
    >>> small.nbytes_ < 900 and small.report_["agreement"] > 0.95
    True
    >>> small.save("digits.student")  # doctest: +SKIP
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Compressor._parameter_constraints,
        "bits": [Interval(Integral, 1, MOST_BITS, closed="both"), "array-like"],
        "n_groups": [Interval(Integral, 1, None, closed="left")],
        "grouping": [StrOptions({"scales", "codebooks"})],
        "solver": [StrOptions({"cd", "gradient", "kmeans"})],
        "proximal": [StrOptions({"neighbor", "inverse", "off", *_RENAMED_PROXIMAL}, deprecated={*_RENAMED_PROXIMAL})],
        "entropy_coding": [StrOptions({"auto", "off"})],
        "rate_weight": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "train_codes": ["boolean"],
        "temperature": [Interval(Real, 0, None, closed="neither")],
    }

    # At less than one bit per weight, a narrower network distilled from the wrapped one, with three or four bits per
    # weight, agreed with it better than any compression of the wide one (docs/design.md)
    narrow_bits = (2.5, 4.0)

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        bits: int | Sequence[int] = 2,
        n_groups: int = 4,
        grouping: str = "scales",
        solver: str = "cd",
        proximal: str = "neighbor",
        entropy_coding: str = "auto",
        rate_weight: float = 0.0,
        max_bytes: int | None = None,
        max_iter: int = 20,
        learning_rate_init: float = 1e-3,
        train_codes: bool = False,
        temperature: float = 4.0,
        n_calibration: int | None = 10000,
        validation_fraction: float = 0.1,
        balance_classes: bool = False,
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
        self.balance_classes = balance_classes
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def for_budget(
        cls,
        estimator: BaseEstimator,
        max_bytes: int,
        effort: float = 1.0,
        hidden_layer_sizes: tuple[int, ...] | None = None,
        random_state: int | None = None,
    ) -> "CodebookCompressor":
        """Return an unfitted compressor for a file of at most `max_bytes`.

        Parameters
        ----------
        estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        max_bytes : int
            Largest size of the file, in bytes.
        effort : float
            Factor of the default number of epochs, above 0.
        hidden_layer_sizes : tuple of int or None
            Ignored.
        random_state : int or None

        Returns
        -------
        CodebookCompressor
        """
        max_iter = max(1, round(20 * float(effort)))  # 20 is the default
        return cls(estimator, max_bytes=max_bytes, max_iter=max_iter, random_state=random_state)

    def _check_parameters(self) -> None:
        if not isinstance(self.bits, int | Integral):
            for bits in self.bits:
                check_scalar(bits, "bits", Integral, min_val=1, max_val=MOST_BITS)
        if self.proximal in _RENAMED_PROXIMAL:
            warnings.warn(
                f"proximal={self.proximal!r} was renamed in 0.1 and will be removed in 0.2; set it to "
                f"{_RENAMED_PROXIMAL[self.proximal]!r}",
                FutureWarning,
                stacklevel=2,
            )
        if self.train_codes and (self.rate_weight or self.max_bytes is not None):
            raise ValueError(
                f"train_codes=True cannot be combined with rate_weight={self.rate_weight} and max_bytes="
                f"{self.max_bytes}, which it ignores; set it to False, or these to 0 and None"
            )

    def _n_steps(self) -> int:
        return int(self.max_iter)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        settings = CodebookSettings(
            bits=_bits_of_layers(self.bits, len(network.weights)),
            grouping=self.grouping,
            solver=self.solver,
            proximal=_RENAMED_PROXIMAL.get(self.proximal, self.proximal),
            rate_weight=float(self.rate_weight),
            entropy_coding=self.entropy_coding,
        )
        network, groups = reorder_neurons(network, int(self.n_groups))
        if self.max_bytes is None:
            layers = learn_layers(network, groups, calibration, settings, stage)
        else:
            settings, layers = search_budget(network, groups, calibration, settings, int(self.max_bytes), stage)
        tuning = TuningSettings(
            max_iter=int(self.max_iter),
            learning_rate=float(self.learning_rate_init),
            train_codes=bool(self.train_codes),
            temperature=float(self.temperature),
        )
        layers, n_iter = fine_tune(network, layers, calibration, tuning, stage)
        report = measure(network, layers, calibration.validation)
        return Compressed(
            data=encode(network, layers, settings.entropy_coding),
            report={**report, "bits": settings.bits, "rate_weight": settings.rate_weight},
            attributes={"n_iter_": n_iter},
        )


def _bits_of_layers(bits: int | Sequence[int], n_layers: int) -> tuple[int, ...]:
    if isinstance(bits, int | Integral):
        return (int(bits),) * n_layers
    if len(bits) != n_layers:
        raise ValueError(f"bits must be an integer or one for each of {n_layers} layers, got {bits!r}")
    return tuple(int(width) for width in bits)
