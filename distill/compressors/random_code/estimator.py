"""Minimal random code learning: compress a network to an exact number of bytes."""

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import astuple
from numbers import Integral, Real

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_scalar

from distill.codecs import container
from distill.codecs import random_code as codec
from distill.codecs.random_code import MAX_BITS, MIN_BITS, Layout
from distill.compressors.base import Compressed, Compressor
from distill.compressors.random_code.layout_search import LayoutSettings, blank_network, search_layout
from distill.compressors.random_code.learner import (
    PARAMETERIZATIONS,
    REPORTS_PER_PART,
    Learner,
    LearnerSettings,
    distillation_samples,
    fingerprint,
    initial_posterior,
)
from distill.compressors.random_code.refinement import SharedNetwork
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.targets import Calibration
from distill.utils.progress import Stage

# Training steps of a candidate of AutoCompressor with effort=1, a quarter of the default `n_steps`
_STEPS_OF_CANDIDATES = 2000


class RandomCodeCompressor(Compressor):
    """Compress a network to a given number of bytes.

    The weights are divided into blocks. Encoder and decoder generate the same list of random candidates for each block,
    and the file holds the index of one: `bits_per_block` bits, which determine about ``bits_per_block / bits per
    weight`` weights. A Gaussian posterior with an information of `bits_per_block` bits per block is trained on the
    outputs of the wrapped network (no labels are needed). Block after block is then replaced by a candidate while the
    training of the others continues, and at the end the candidates are chosen again for the network as a whole.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one, or a Student
        A clone is fitted; a `FrozenEstimator(fitted)` or a loaded `Student` is not fitted again.
    max_bytes : int, default=2000
        Largest size of the file, in bytes.
    bits_per_weight : float or None, default=None
        Bits of all codes over the number of weights and biases. If given, it determines the size of the file, and
        `max_bytes` is ignored.
    bits_per_block : int, default=12
        4 to 24. The number of candidates, and the time to choose among them, doubles with every bit.
    parameterization : {"mean-kl", "mean-var"}, default="mean-kl"
        "mean-kl": the information of every block is its budget by construction. "mean-var", for comparison: a penalty
        moves it to the budget.
    hidden_layer_sizes : sequence of int or None, default=None
        Units of the hidden layers of the compressed network; None takes those of the wrapped one. Small networks suit
        small files.
    input_shape : sequence of int or None, default=None
        Shape of the grid of the features: ``(28, 28)`` for images of that size, ``(500,)`` for a spectrum. The weights
        of a unit of the first layer are then a sum of the cosine waves of the lowest frequencies over the grid, and
        take far fewer random numbers.
    n_frequencies : int or "auto", default="auto"
        Number of waves; needs `input_shape`.
    hash_factors : int, sequence of int or "auto", default="auto"
        Number of weights for each random number, in all layers or one value for each; 1 for no weight sharing.
    for_device : bool, default=False
        Whether a microcontroller can compute the weights from the codes, one by one, as `distill.to_c` then writes
        them: the codes are all that is in flash. Random numbers have 256 values then, and weights are not shared.
        Versions of this package before 0.2 refuse the file.
    n_steps : int, default=8000
        Training steps before the first block is coded.
    n_steps_between_blocks : int, default=5
        Training steps after every block.
    n_refinements : int, default=2
        Largest number of refinements, in which all codes are chosen again. They end when the validation loss no longer
        falls.
    selection : {"argmax", "sample", "nearest"}, default="argmax"
        First choice of a block's candidate. "argmax": the largest importance weight. For comparison, "sample": a draw
        of importance sampling; "nearest": the largest posterior density.
    kl_margin : float, default=0.0
        Bits by which a block's information stays below `bits_per_block`, 0 to ``bits_per_block - 1``. For comparison.
    temperature : float, default=2.0
        Divisor of logits before the softmax in the loss, above 0. At 1 only the most probable labels matter.
    batch_size : int, default=256
        Samples in a training step, drawn with replacement.
    learning_rate_init : float, default=2e-2
        Adam's initial learning rate for the logits of the information; other parameters have fixed fractions of it.
    checkpoint : str, path or None, default=None
        Directory in which the state of the fit is saved every 20 seconds. An interrupted fit resumes there and gives
        the same bytes; the saved state is deleted at the end. (The wrapped estimator is fitted again, unless `memory`
        or FrozenEstimator keeps it.) Needs an int as `random_state`.
    n_calibration : int or None, default=None
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
        Seed of candidates and training, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints progress and the remaining time.

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
        Sizes of the parts of the file in bytes, and on the validation set "agreement", the fidelity to the wrapped
        network (accuracy for classification, R^2 for regression), and "loss". Of the layout "n_blocks", "n_numbers"
        (the number of random numbers from which all weights are computed), "hash_factors" and "n_frequencies" (None
        without a grid).
        Where labels are predicted, "agreement_per_class" has the fraction found of each label's validation samples (of
        all its samples where fewer than 10 are held out).
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only if X has names that are all strings.

    See Also
    --------
    distill.CodebookCompressor : Larger files and a faster fit, with a codebook for each layer.
    distill.SpikeSlabCompressor : Prunes weights.
    distill.MatrixGaussianCompressor : Quantizes weights by their posterior variances.
    distill.AutoCompressor : Chooses a compressor and its settings.

    Notes
    -----
    The cost of a fit is that of `n_steps` training steps, of ``2 ** bits_per_block`` candidates for each block, and of
    the refinements, each of which evaluates all samples once per group of blocks. Decoding generates a single candidate
    for each block.

    References
    ----------
    Havasi, Peharz, Hernandez-Lobato, "Minimal random code learning", ICLR 2019 (arXiv 1810.00440).

    Lin, Flamich, Hernandez-Lobato, "Minimal random code learning with Mean-KL parameterization" (arXiv 2307.07816). Its
    formulas were not available to us: the idea is from there, the formulas of
    `distill.compressors.random_code.mean_kl` are ours.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import Distiller, RandomCodeCompressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> teacher = KMeans(10, n_init=1, random_state=0)
    >>> student = Distiller(teacher, hidden_layer_sizes=(16,), max_iter=10, random_state=0)
    >>> small = RandomCodeCompressor(
    ...     student, max_bytes=250, input_shape=(8, 8), n_steps=500, n_steps_between_blocks=1, random_state=0
    ... ).fit(X)
    >>> small.nbytes_ <= 250 and small.score(X) > 0.8
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Compressor._parameter_constraints,
        "max_bytes": [Interval(Integral, 1, None, closed="left")],
        "bits_per_weight": [Interval(Real, 0, None, closed="neither"), None],
        "bits_per_block": [Interval(Integral, MIN_BITS, MAX_BITS, closed="both")],
        "parameterization": [StrOptions(set(PARAMETERIZATIONS))],
        "hidden_layer_sizes": ["array-like", None],
        "input_shape": ["array-like", None],
        "n_frequencies": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "hash_factors": [Interval(Integral, 1, None, closed="left"), "array-like", StrOptions({"auto"})],
        "for_device": ["boolean"],
        "n_steps": [Interval(Integral, 1, None, closed="left")],
        "n_steps_between_blocks": [Interval(Integral, 0, None, closed="left")],
        "n_refinements": [Interval(Integral, 0, None, closed="left")],
        "selection": [StrOptions({"argmax", "sample", "nearest"})],
        "kl_margin": [Interval(Real, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "checkpoint": [str, os.PathLike, None],
    }

    # AutoCompressor tries narrower networks only: random codes of a wide one take longer and are not better
    narrow_bits: tuple[float, ...] = (6.0,)
    trains_own_network: bool = True

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        max_bytes: int = 2000,
        bits_per_weight: float | None = None,
        bits_per_block: int = 12,
        parameterization: str = "mean-kl",
        hidden_layer_sizes: Sequence[int] | None = None,
        input_shape: Sequence[int] | None = None,
        n_frequencies: int | str = "auto",
        hash_factors: int | Sequence[int] | str = "auto",
        for_device: bool = False,
        n_steps: int = 8000,
        n_steps_between_blocks: int = 5,
        n_refinements: int = 2,
        selection: str = "argmax",
        kl_margin: float = 0.0,
        temperature: float = 2.0,
        batch_size: int = 256,
        learning_rate_init: float = 2e-2,
        checkpoint: str | os.PathLike | None = None,
        n_calibration: int | None = None,
        validation_fraction: float = 0.1,
        balance_classes: bool = False,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.estimator = estimator
        self.max_bytes = max_bytes
        self.bits_per_weight = bits_per_weight
        self.bits_per_block = bits_per_block
        self.parameterization = parameterization
        self.hidden_layer_sizes = hidden_layer_sizes
        self.input_shape = input_shape
        self.n_frequencies = n_frequencies
        self.hash_factors = hash_factors
        self.for_device = for_device
        self.n_steps = n_steps
        self.n_steps_between_blocks = n_steps_between_blocks
        self.n_refinements = n_refinements
        self.selection = selection
        self.kl_margin = kl_margin
        self.temperature = temperature
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.checkpoint = checkpoint
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
        hidden_layer_sizes: Sequence[int] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> "RandomCodeCompressor":
        """Return the unfitted compressor that `distill.AutoCompressor` tries.

        Parameters
        ----------
        estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        max_bytes : int
        effort : float, default=1.0
            Multiplies the training steps, above 0.
        hidden_layer_sizes : sequence of int or None, default=None
            Of a narrower network.
        random_state : int, RandomState instance or None, default=None

        Returns
        -------
        RandomCodeCompressor
        """
        return cls(
            estimator,
            max_bytes=max_bytes,
            hidden_layer_sizes=hidden_layer_sizes,
            n_steps=max(1, round(_STEPS_OF_CANDIDATES * float(effort))),
            random_state=random_state,
        )

    def _check_parameters(self) -> None:
        for name in ("hidden_layer_sizes", "input_shape", "hash_factors"):
            value = getattr(self, name)
            if isinstance(value, Mapping | Set):  # without an order
                raise TypeError(f"{name} must be a tuple of integers, got {value!r}")
            for entry in () if value is None or np.ndim(value) == 0 else value:
                check_scalar(entry, name, Integral, min_val=1)
        check_scalar(self.kl_margin, "kl_margin", Real, max_val=self.bits_per_block - 1)
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"checkpoint needs an int as random_state, got {self.random_state!r}: without it an interrupted fit "
                "could not be repeated"
            )

    def _n_steps(self) -> int:
        return REPORTS_PER_PART * (2 + int(self.n_refinements))

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        blank = blank_network(network, self.hidden_layer_sizes, calibration.seed)
        layout = search_layout(blank, self._layout_settings(calibration.seed))
        shared = SharedNetwork(layout, blank.activation)
        loss, samples, validation_samples = distillation_samples(network, shared, calibration, float(self.temperature))
        start = network if blank.layer_sizes == network.layer_sizes else blank
        posterior, log_scales = initial_posterior(shared, start, self.parameterization, float(self.kl_margin))
        settings = self._learner_settings(calibration.seed)
        learner = Learner(shared, posterior, log_scales, samples, validation_samples, loss, settings, stage.step)
        if self.checkpoint is not None:
            others = (self.parameterization, float(self.kl_margin), float(self.temperature))
            run = fingerprint(network, calibration, astuple(layout), astuple(settings), *others)
            learner.resume(self.checkpoint, run)
        codes, scales = learner.run()
        learner.forget()
        data = container.pack(blank, [codec.encode(layout, codes, scales)])
        return Compressed(data, _report(data, layout, network, loss, calibration.validation))

    def _layout_settings(self, seed: int) -> LayoutSettings:
        return LayoutSettings(
            max_bytes=int(self.max_bytes),
            bits_per_weight=self.bits_per_weight,
            bits_per_block=int(self.bits_per_block),
            input_shape=() if self.input_shape is None else tuple(map(int, self.input_shape)),
            n_frequencies=self.n_frequencies,
            hash_factors=self.hash_factors,
            seed=seed,
            for_device=bool(self.for_device),
        )

    def _learner_settings(self, seed: int) -> LearnerSettings:
        return LearnerSettings(
            n_steps=int(self.n_steps),
            n_steps_between_blocks=int(self.n_steps_between_blocks),
            n_refinements=int(self.n_refinements),
            batch_size=int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            selection=self.selection,
            seed=seed,
        )


def _report(data: bytes, layout: Layout, network: Network, loss: DistillationLoss, validation: np.ndarray) -> dict:
    """Return measurements of a student file on the validation set, shape (n_samples, n_features), and its layout."""
    expected = layer_outputs(network, validation)[-1]
    outputs = layer_outputs(container.decode(data).network, validation)[-1]
    return {
        "agreement": loss.fidelity(expected, outputs),
        "loss": float(loss(torch.from_numpy(outputs), loss.targets(expected))),
        "n_blocks": layout.n_blocks,
        "n_numbers": layout.n_numbers,
        "hash_factors": layout.hash_factors,
        "n_frequencies": layout.n_frequencies or None,
    }
