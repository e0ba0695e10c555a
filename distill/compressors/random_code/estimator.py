"""A network in as many bytes as one likes: random weights that happen to be right, and which of them they are."""

import os
from collections.abc import Sequence
from dataclasses import astuple, replace
from numbers import Integral, Real

import joblib
import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_scalar

from distill.codecs import container
from distill.codecs import random_code as codec
from distill.codecs.random_code import MAX_BITS, MIN_BITS, Layout
from distill.compressors.base import Compressed, Compressor
from distill.compressors.random_code.learner import REPORTS_PER_PART, Learner, LearnerSettings
from distill.compressors.random_code.refinement import Rows, SharedNetwork
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.perceptron import initial_network
from distill.training.targets import Calibration
from distill.utils.progress import Stage

_PARAMETERIZATIONS = ("mean-kl", "mean-var")
_SELECTIONS = ("argmax", "sample", "nearest")
_NUMBERS_PER_BIT = 0.6
_FEWEST_FREQUENCIES = 16
_N_SEEDS = 128  # a seed below it is one byte of the file
_LEAST_SCALE = 1e-3


class RandomCodeCompressor(Compressor):
    """Compress a network to a given number of bytes.

    The weights are cut into blocks. Reader and writer can make the same long list of random candidates for each block,
    and the file says which to take: `bits_per_block` bits that stand for about ``bits_per_block / bits per weight``
    weights. A Gaussian posterior whose information is exactly that many bits per block is trained on the outputs of the
    wrapped network (no labels are needed), block after block is replaced by a candidate while the others go on
    learning, and in the end the candidates are chosen again for the network as a whole.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        A clone is fitted; a `FrozenEstimator(fitted)` is not fitted again.
    max_bytes : int, default=2000
        The size that the file must not exceed, all included.
    bits_per_weight : float or None, default=None
        If given, the size follows from it instead: bits of all codes over the number of weights and biases.
    bits_per_block : int, default=12
        4 to 24. Candidates double with every bit, and so does the time to choose among them.
    parameterization : {"mean-kl", "mean-var"}, default="mean-kl"
        "mean-kl" keeps the information of every block at its budget by construction; "mean-var" steers it there with
        a penalty, for comparison.
    hidden_layer_sizes : sequence of int or None, default=None
        Units of the hidden layers of the compressed network; None takes those of the wrapped one. A small file wants a
        small network, which may imitate a large one.
    input_shape : sequence of int or None, default=None
        Extents of the grid that the features are: ``(28, 28)`` for images of that size, ``(500,)`` for a spectrum.
        The first layer's weights are then sums of the slowest waves over the grid, and far fewer numbers make them.
    n_frequencies : int or "auto", default="auto"
        How many waves, with `input_shape`.
    hash_factors : int, sequence of int or "auto", default="auto"
        How many weights of a layer share a number, for all layers or one for each; 1 for none.
    n_steps : int, default=8000
        Training steps before the first block is coded.
    n_steps_between_blocks : int, default=5
        Training steps after every block.
    n_refinements : int, default=2
        How often all codes are chosen again, at most; it ends when held-out rows no longer gain.
    selection : {"argmax", "sample", "nearest"}, default="argmax"
        How a block's candidate is first chosen: the most probable under importance sampling, a draw of importance
        sampling, or the most probable under the posterior.
    kl_margin : float, default=0.0
        Bits by which a block's information stays below `bits_per_block`.
    temperature : float, default=2.0
        What outputs are divided by before they become probabilities that are imitated, above 0. At 1 only likely labels
        count.
    batch_size : int, default=256
    learning_rate_init : float, default=2e-2
        Adam's, for shares of information; other parameters have fixed fractions of it.
    checkpoint : str, path or None, default=None
        A directory. If it is given, the state of the work is saved there every 20 seconds, an interrupted fit goes on
        where it was, with the same bytes as result, and the saved state is deleted at the end. (What is wrapped is
        fitted anew, unless `memory` or FrozenEstimator keeps it; `random_state` must be an int.)
    n_calibration : int or None, default=None
        How many rows are looked at; None for all.
    validation_fraction : float, default=0.1
        Share of them that is held out, between 0 and 1.
    memory : str, joblib.Memory or None, default=None
        Where the fitted wrapped estimator is kept, so that a grid over the parameters here fits it once.
    random_state : int, RandomState instance or None, default=None
        Of the candidates, of training, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints how far the work is and how long it will take.

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
        Where its bytes are; "agreement": the share of held-out rows with the label that the wrapped network gives, or
        the explained variance of its numbers; "loss" on held-out rows; "n_blocks", "n_numbers" (random numbers that
        make all weights), "hash_factors" and "n_frequencies" as used.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    See Also
    --------
    CodebookCompressor : More bytes, and a faster fit.

    References
    ----------
    Havasi, Peharz, Hernandez-Lobato, "Minimal random code learning", ICLR 2019 (arXiv 1810.00440).

    Lin, Flamich, Hernandez-Lobato, "Minimal random code learning with Mean-KL parameterization" (arXiv 2307.07816). Its
    formulas were not available to us: the idea is theirs, the formulas of
    `distill.compressors.random_code.mean_kl` are ours.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import Distiller
    >>> from distill.compressors.random_code.estimator import RandomCodeCompressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> teacher = KMeans(10, n_init=1, random_state=0)
    >>> student = Distiller(teacher, hidden_layer_sizes=(16,), max_iter=10, random_state=0)
    >>> small = RandomCodeCompressor(
    ...     student, max_bytes=250, input_shape=(8, 8), n_steps=500, n_steps_between_blocks=1, random_state=0
    ... ).fit(X)
    >>> small.nbytes_ <= 250 and small.score(X) > 0.8
    True
    """

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
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def _check_parameters(self) -> None:
        for name, choices in (("parameterization", _PARAMETERIZATIONS), ("selection", _SELECTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")
        check_scalar(self.max_bytes, "max_bytes", Integral, min_val=1)
        if self.bits_per_weight is not None:
            check_scalar(self.bits_per_weight, "bits_per_weight", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.bits_per_block, "bits_per_block", Integral, min_val=MIN_BITS, max_val=MAX_BITS)
        for size in self.hidden_layer_sizes or ():
            check_scalar(size, "hidden_layer_sizes", Integral, min_val=1)
        for extent in self.input_shape or ():
            check_scalar(extent, "input_shape", Integral, min_val=1)
        if self.n_frequencies != "auto":
            check_scalar(self.n_frequencies, "n_frequencies", Integral, min_val=1)
        if self.hash_factors != "auto":
            for factor in (self.hash_factors,) if isinstance(self.hash_factors, Real) else self.hash_factors:
                check_scalar(factor, "hash_factors", Integral, min_val=1)
        for name, least in (("n_steps", 1), ("n_steps_between_blocks", 0), ("n_refinements", 0), ("batch_size", 1)):
            check_scalar(getattr(self, name), name, Integral, min_val=least)
        check_scalar(self.kl_margin, "kl_margin", Real, min_val=0, max_val=self.bits_per_block - 1)
        for name in ("temperature", "learning_rate_init"):
            check_scalar(getattr(self, name), name, Real, min_val=0, include_boundaries="neither")
        if self.n_calibration is not None:
            check_scalar(self.n_calibration, "n_calibration", Integral, min_val=2)
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"checkpoint needs an int as random_state, got {self.random_state!r}: without it an interrupted fit "
                "could not be repeated"
            )

    def _n_steps(self) -> int:
        return REPORTS_PER_PART * (2 + int(self.n_refinements))

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        smaller = self._blank(network, calibration.seed)
        layout = self._plan(network, smaller, calibration.seed)
        settings = LearnerSettings(
            self.parameterization,
            int(self.n_steps),
            int(self.n_steps_between_blocks),
            int(self.n_refinements),
            int(self.batch_size),
            float(self.learning_rate_init),
            self.selection,
            float(self.kl_margin),
            calibration.seed,
        )
        shared = SharedNetwork(layout, smaller.activation)
        imitation, learned, held_out = _rows(network, shared, calibration, float(self.temperature))
        start = network if smaller.layer_sizes == network.layer_sizes else smaller
        means, log_scales = starting_point(shared, start, settings.kl_margin)
        learner = Learner(shared, learned, held_out, means, log_scales, settings, stage.step)
        if self.checkpoint is not None:
            learner.resume(self.checkpoint, _fingerprint(learner, network, calibration))
        codes, scales = learner.run()
        learner.forget()
        data = container.pack(smaller, [codec.encode(layout, codes, scales)])
        wanted = layer_outputs(network, calibration.validation)[-1]
        answered = layer_outputs(container.decode(data).network, calibration.validation)[-1]
        report = {
            "agreement": imitation.fidelity(wanted, answered),
            "loss": float(imitation(torch.from_numpy(answered), imitation.targets(wanted))),
            "n_blocks": layout.n_blocks,
            "n_numbers": layout.n_numbers,
            "hash_factors": layout.hash_factors,
            "n_frequencies": layout.n_frequencies or None,
        }
        return Compressed(data, report)

    def _blank(self, network: Network, seed: int) -> Network:
        """Return a network of the shape that is to be compressed, with weights at random."""
        inside = network.layer_sizes[1:-1] if self.hidden_layer_sizes is None else tuple(self.hidden_layer_sizes)
        sizes = (network.n_features, *map(int, inside), network.layer_sizes[-1])
        blank = initial_network(sizes, network.activation, seed)
        return replace(network, weights=blank.weights, biases=blank.biases)

    def _plan(self, network: Network, smaller: Network, seed: int) -> Layout:
        """Choose the layout: as many blocks as fit into the budget."""
        n_layers, n_features = len(smaller.weights), network.n_features
        input_shape = tuple(int(extent) for extent in self.input_shape or ())
        if input_shape and np.prod(input_shape) != n_features:
            raise ValueError(
                f"input_shape={input_shape} is a grid of {np.prod(input_shape)} inputs, and X has {n_features} features"
            )
        if self.n_frequencies != "auto" and not (input_shape and self.n_frequencies <= n_features):
            raise ValueError(
                f"n_frequencies={self.n_frequencies} needs an input_shape of at least as many inputs, got "
                f"input_shape={self.input_shape!r} for {n_features} features"
            )
        factors = self.hash_factors
        if factors != "auto":
            factors = (factors,) * n_layers if isinstance(factors, Real) else tuple(factors)
            if len(factors) != n_layers:
                raise ValueError(
                    f"hash_factors={self.hash_factors!r} must be one number or {n_layers}, one for every layer"
                )

        def plan(n_blocks: int) -> Layout:
            shapes = tuple(weight.shape for weight in smaller.weights)
            frequencies, hashes = _economy(
                shapes, bool(input_shape), n_blocks * self.bits_per_block, self.n_frequencies, factors
            )
            layout = Layout(
                shapes, hashes, int(self.bits_per_block), n_blocks, seed % _N_SEEDS, input_shape, frequencies
            )
            for layer, (shape, factor) in enumerate(zip(layout.shared_shapes, hashes)):
                if factor > np.prod(shape):
                    raise ValueError(
                        f"hash_factors gives {factor} to layer {layer}, which holds {np.prod(shape)} numbers; it must "
                        "not be larger"
                    )
            return layout

        def size(layout: Layout) -> int:
            codes, scales = np.zeros(layout.n_blocks, np.int64), np.ones((n_layers, 2), np.float16)
            return len(container.pack(smaller, [codec.encode(layout, codes, scales)]))

        if self.bits_per_weight is not None:
            n_blocks = max(1, int(self.bits_per_weight * smaller.n_parameters / self.bits_per_block))
            return plan(min(n_blocks, plan(n_blocks).n_numbers))
        float_size = len(container.encode(smaller, "float32"))
        if self.max_bytes >= float_size:
            raise ValueError(
                f"max_bytes={self.max_bytes} is no compression: this network takes {float_size} bytes in "
                "float32; lower it"
            )
        least = size(plan(1))
        n_blocks = 1 + max(0, self.max_bytes - least) * 8 // self.bits_per_block
        layout = plan(n_blocks)
        if n_blocks > layout.n_numbers:
            layout = plan(layout.n_numbers)
        while (excess := size(layout) - self.max_bytes) > 0:
            if layout.n_blocks == 1:
                hint = ""
                if network.scale is not None and network.scale.ndim:
                    hint = (
                        ", most of it offsets and scales of the features: use input_scaling='common' in the Distiller"
                    )
                raise ValueError(
                    f"max_bytes={self.max_bytes} is below the smallest possible file for this network, {least} "
                    f"bytes{hint}"
                )
            layout = plan(max(1, layout.n_blocks - max(1, excess * 8 // self.bits_per_block)))
        return layout


def _economy(
    shapes: tuple[tuple[int, int], ...],
    on_grid: bool,
    n_bits: int,
    n_frequencies: int | str,
    factors: tuple[int, ...] | str,
) -> tuple[int, tuple[int, ...]]:
    """Return how many waves and which hash factors suit a number of bits.

    Measured on images: a random number that is worth less than about a bit and a half is more noise than weight. Large
    layers are cut more than small ones, in proportion to the root of their size.
    """
    sizes = np.array([n_inputs * n_outputs for n_inputs, n_outputs in shapes], dtype=float)
    wanted = _NUMBERS_PER_BIT * n_bits
    shares = sizes
    if sizes.sum() > wanted:
        low, high = 0.0, float(np.sqrt(sizes).max())
        for _ in range(60):
            middle = (low + high) / 2
            shares = np.minimum(sizes, middle * np.sqrt(sizes))
            low, high = (middle, high) if shares.sum() < wanted else (low, middle)
    n_inputs, n_outputs = shapes[0]
    if not on_grid:
        n_frequencies = 0
    elif n_frequencies == "auto":
        n_frequencies = min(n_inputs, max(_FEWEST_FREQUENCIES, round(shares[0] / n_outputs)))
    if factors == "auto":
        if on_grid:
            sizes[0] = n_frequencies * n_outputs
        factors = tuple(int(min(size, max(1, round(size / max(share, 1))))) for size, share in zip(sizes, shares))
    return int(n_frequencies), tuple(int(factor) for factor in factors)


def starting_point(
    shared: SharedNetwork, network: Network, kl_margin: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return means and ln scales of a posterior around the weights of a network.

    Parameters
    ----------
    shared : SharedNetwork
    network : Network
        Of the same layer sizes. Weights that share a number have their mean.
    kl_margin : float
        Bits by which a block's information stays below its code.

    Returns
    -------
    means : Tensor of shape (n_blocks, block_size)
        In units of the scales.
    log_scales : Tensor of shape (n_layers, 2)
        Such that the means cost half of the budget.
    """
    layout = shared.layout
    bits = (layout.bits_per_block - kl_margin) * layout.n_blocks
    deviation = np.sqrt(bits * np.log(2) / layout.n_numbers)
    parts, scales = [], []
    for weight, bias in shared.average(list(zip(network.weights, network.biases))):
        pair = []
        for numbers in (weight, bias):
            size = float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64))))
            pair.append(max(size / deviation, _LEAST_SCALE if size else 0.1))
        parts.append((weight / np.float32(pair[0]), bias / np.float32(pair[1])))
        scales.append(pair)
    return shared.gather(parts), torch.log(torch.tensor(scales, dtype=torch.float32))


def _rows(
    network: Network, shared: SharedNetwork, calibration: Calibration, temperature: float = 1.0
) -> tuple[DistillationLoss, Rows, Rows]:
    """Return what is imitated, and rows with its outputs: to learn from, and held out."""
    outputs = [layer_outputs(network, rows)[-1] for rows in (calibration.train, calibration.validation)]
    imitation = DistillationLoss(network, outputs[0], temperature)
    unit = torch.from_numpy(imitation.unit)
    learned, held_out = (
        Rows(shared.project(inputs), imitation.targets(wanted), imitation, network.output, unit, temperature)
        for inputs, wanted in zip((calibration.train, calibration.validation), outputs)
    )
    return imitation, learned, held_out


def _fingerprint(learner: Learner, network: Network, calibration: Calibration) -> str:
    """Return what a saved state must agree with."""
    arrays = (*network.weights, *network.biases, calibration.train, calibration.validation)
    settings = (*astuple(learner.layout), *astuple(learner.settings), learner.learned.temperature)
    return joblib.hash((network.activation, network.output, arrays, settings))
