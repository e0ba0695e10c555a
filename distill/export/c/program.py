"""A student as a short list of stages, before any of them is C.

Elementwise steps are put together: scalers of a Pipeline and the scaling of the inputs become one offset and one scale
per feature, which the first layer applies while it reads its inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distill.codecs import container, cosine, random_code, sections
from distill.codecs.preprocessing import MomentsStep, Step
from distill.codecs.reader import Reader
from distill.network import Network
from distill.runtime import Student
from distill.runtime.moving import blur_weights, move_images

# Offsets in units of the scale that leave four of float32's seven digits
MAX_NARROW_OFFSET = 1000.0
# Smaller scales are of features that are as large as the largest float32
LEAST_NARROW_SCALE = 1e-35


@dataclass(frozen=True, eq=False)
class Affine:
    """Elementwise ``clip((x - offset) * scale + shift)``, with 0 for a missing value.

    Parameters
    ----------
    offset, scale, shift : ndarray of shape (n_features,), float64
        `shift` is not zero only where `scale` is, for a feature that has become constant.
    limits : tuple of float or None
        The least and the largest result.
    fill : bool
        Whether NaN becomes 0.
    """

    offset: np.ndarray
    scale: np.ndarray
    shift: np.ndarray
    limits: tuple[float, float] | None = None
    fill: bool = False

    @classmethod
    def identity(cls, n_features: int) -> "Affine":
        """Return the stage that changes nothing."""
        return cls(np.zeros(n_features), np.ones(n_features), np.zeros(n_features))

    @property
    def is_identity(self) -> bool:
        """Whether values stay as they are."""
        return not self.offset.any() and bool((self.scale == 1).all()) and not self.is_limited

    @property
    def is_limited(self) -> bool:
        """Whether the stage does more than subtract and multiply."""
        return self.limits is not None or self.fill or bool(self.shift.any())

    @property
    def is_wide(self) -> bool:
        """Whether float32 rows would lose the differences between them, or could not hold them."""
        beyond = (self.scale != 0) & (np.abs(self.scale) < LEAST_NARROW_SCALE)
        return bool((np.abs(self.offset * self.scale) > MAX_NARROW_OFFSET).any() or beyond.any())

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the result for rows of shape (n_rows, n_features), float64."""
        rows = (rows - self.offset) * self.scale + self.shift
        if self.limits is not None:
            rows = np.clip(rows, *self.limits)
        return np.where(np.isnan(rows), 0.0, rows) if self.fill else rows

    def then(self, operation: str, values: np.ndarray) -> "Affine | None":
        """Return this stage followed by another elementwise operation, None if they stay two."""
        if self.limits is not None or self.fill:
            return None
        if operation == "clip":
            return replace(self, limits=(float(values[0]), float(values[1])))
        if operation in ("multiply", "divide"):
            factor = values if operation == "multiply" else 1 / values
            return replace(self, scale=self.scale * factor, shift=self.shift * factor)
        amount = np.broadcast_to(values if operation == "subtract" else -values, self.scale.shape)
        live = self.scale != 0
        moved = np.divide(amount, self.scale, out=np.zeros_like(self.scale), where=live)
        return replace(self, offset=self.offset + moved, shift=np.where(live, 0.0, self.shift - amount))


@dataclass(frozen=True, eq=False)
class Images:
    """Images moved by their moments; see `distill.codecs.preprocessing.MomentsStep`."""

    step: MomentsStep

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the moved images; rows of shape (n_rows, n_features), float64."""
        step = self.step
        return move_images(rows, step.shape, step.centre, step.deskew, step.scale, blur_weights(step.blur))


@dataclass(frozen=True, eq=False)
class Computed:
    """Weights of a layer as numbers of a small random code times a factor.

    Parameters
    ----------
    layout : random_code.Layout
    codes : ndarray of shape (n_blocks,), int
    start : int
        Number of the layer's first weight among all numbers.
    factor : float
    """

    layout: random_code.Layout
    codes: np.ndarray
    start: int
    factor: float

    def indices(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the index of each weight in the table of normal numbers, ndarray of this shape, uint8."""
        numbers = self.layout.indices(self.codes)
        return numbers[self.start : self.start + shape[0] * shape[1]].reshape(shape)


@dataclass(frozen=True, eq=False)
class Waves:
    """Products of the inputs on a grid of two axes with cosine waves of low frequency, before the first layer.

    A wave of wave number k has the height cos(pi k (2 x + 1) / (2 extent)) at place x of an axis; their norms are
    in the weights of the first layer.

    Parameters
    ----------
    shape : tuple of int
        Extents of the axes; the first is 1 for inputs on a line.
    numbers : ndarray of shape (n_waves, 2), int
        Wave number on either axis.
    normed : bool
        Whether products with waves that are constant along an axis are divided by the root of 2, so that all waves have
        the same norm.
    """

    shape: tuple[int, int]
    numbers: np.ndarray
    normed: bool = False

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.shape[0] * self.shape[1]

    def heights(self, axis: int, table: np.ndarray | None = None) -> np.ndarray:
        """Return the waves of an axis, ndarray of shape (n_waves, extent), from `half_turn` or `table`."""
        extent, count = self.shape[axis], int(self.numbers[:, axis].max()) + 1
        turn = np.outer(np.arange(count), 2 * np.arange(extent) + 1) % (4 * extent)
        return (half_turn(extent) if table is None else table)[np.minimum(turn, 4 * extent - turn)]

    def norms(self) -> np.ndarray:
        """Return the factors by which the waves of the format differ from these, ndarray of shape (n_waves,)."""
        factors = [np.sqrt(np.where(self.numbers[:, axis], 2, 1) / self.shape[axis]) for axis in (0, 1)]
        return factors[0] * factors[1] / self.roots()

    def roots(self) -> np.ndarray:
        """Return the factors of `normed` waves, ndarray of shape (n_waves,)."""
        constant = sum((self.numbers[:, axis] == 0) & (self.shape[axis] > 1) for axis in (0, 1))
        return np.sqrt(0.5) ** constant if self.normed else np.ones(len(self.numbers))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the products, ndarray of shape (n_rows, n_waves), float64."""
        along = np.einsum("nrc,kc->nrk", rows.reshape(len(rows), *self.shape), self.heights(1))
        both = np.einsum("nrk,lr->nlk", along, self.heights(0))
        return both[:, self.numbers[:, 0], self.numbers[:, 1]] * self.roots()


def half_turn(extent: int) -> np.ndarray:
    """Return cos(pi m / (2 extent)) for m = 0 .. 2 extent, the heights of all waves of an axis; float64."""
    return np.cos(np.pi * np.arange(2 * extent + 1) / (2 * extent))


@dataclass(frozen=True, eq=False)
class Linear:
    """A layer: inputs times weights plus biases, and the activation.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs), float32
    bias : ndarray of shape (n_outputs,), float32
    activation : str
    limits : tuple of float or None
        The least and the largest activation.
    computed : Computed or None
        The same weights as numbers of a small random code.
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: str = "identity"
    limits: tuple[float, float] | None = None
    computed: Computed | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the activations; rows of shape (n_rows, n_inputs), float64."""
        found = activated(rows @ self.weight + self.bias, self.activation)
        return found if self.limits is None else np.clip(found, *self.limits)


Stage = Affine | Images | Waves | Linear


@dataclass(frozen=True, eq=False)
class Program:
    """The stages of a student, in order, and the network whose outputs the last one computes."""

    n_features: int
    stages: tuple[Stage, ...]
    network: Network
    input_scale: float = 1.0


def program_of(student: Student, input_scale: float = 1.0) -> Program:
    """Return the stages of a student.

    Parameters
    ----------
    student : Student
    input_scale : float
        The student's features are the inputs times this.

    Returns
    -------
    Program

    Raises
    ------
    ValueError
        If a step before the network has no form in C; the error names it.
    """
    network = student.network
    stages: list[Stage] = []
    affine = replace(Affine.identity(student.n_features_in_), scale=np.full(student.n_features_in_, input_scale))
    for step in () if student.preprocessing is None else student.preprocessing.steps:
        if isinstance(step, MomentsStep):
            stages += [affine, Images(step)]
        elif isinstance(step, Step) and step.operation == "product":
            stages += [affine, Linear(step.values, np.zeros(step.values.shape[1], np.float32))]
        elif isinstance(step, Step):
            together = affine.then(step.operation, np.asarray(step.values, np.float64))
            if together is not None:
                affine = together
                continue
            stages.append(affine)
            together = Affine.identity(len(affine.scale)).then(step.operation, np.asarray(step.values, np.float64))
            assert together is not None
            affine = together
            continue
        else:
            raise ValueError(
                f"the step {step.operation!r} before the network has no form in C yet; for categories and text export "
                "a student of the columns of numbers that they become, and make these on the device"
            )
        affine = Affine.identity(_width(stages[-1], len(affine.scale)))
    for operation, values in (("subtract", network.offset), ("multiply", network.scale)):
        if values is not None:
            together = affine.then(operation, np.asarray(values, np.float64))
            if together is None:
                stages.append(affine)
                together = Affine.identity(len(affine.scale)).then(operation, np.asarray(values, np.float64))
                assert together is not None
            affine = together
    if network.clip is not None or network.fill:
        if affine.limits is not None or affine.fill:
            stages.append(affine)
            affine = Affine.identity(len(affine.scale))
        limits = None if network.clip is None else (-float(network.clip), float(network.clip))
        affine = replace(affine, limits=limits, fill=network.fill)
    stages.append(affine)
    stages += _layers(student)
    kept = tuple(stage for stage in stages if not (isinstance(stage, Affine) and stage.is_identity))
    return Program(student.n_features_in_, kept, network, input_scale)


def _layers(student: Student) -> list[Stage]:
    """Return the layers of the network, after the waves of a random code."""
    network = student.network
    weights = list(network.weights)
    computed: list[Computed | None] = [None] * len(weights)
    found = _random_code(student)
    stages: list[Stage] = []
    if found is not None:
        layout, codes, scales = found
        waves = _waves(layout)
        if layout.small and (waves is not None or not layout.input_shape):
            starts = np.append(0, np.cumsum(layout.sizes))[::2]
            factors = scales.astype(np.float64)[:, 0]
            if waves is not None:
                factors[0] *= waves.norms()[0]
            computed = [Computed(layout, codes, int(at), float(factor)) for at, factor in zip(starts, factors)]
        if waves is not None:
            stages.append(waves)
            amplitudes = layout.shared_layers(layout.numbers(codes))[0].weight * scales.astype(np.float32)[0, 0]
            weights[0] = (amplitudes * waves.norms()[:, None]).astype(np.float32)
    for index, (weight, bias) in enumerate(zip(weights, network.biases)):
        last = index == len(weights) - 1
        activation = "identity" if last else network.activation
        stages.append(Linear(weight, bias, activation, computed=computed[index]))
    return stages


def activated(values: np.ndarray, activation: str) -> np.ndarray:
    """Return activations in float64."""
    if activation == "relu":
        return np.maximum(values, 0)
    if activation == "tanh":
        return np.tanh(values)
    if activation == "logistic":
        return 0.5 * np.tanh(0.5 * values) + 0.5
    return values


def _width(stage: Stage, n_inputs: int) -> int:
    return stage.weight.shape[1] if isinstance(stage, Linear) else n_inputs


def _random_code(student: Student) -> tuple[random_code.Layout, np.ndarray, np.ndarray] | None:
    """Return layout, codes and scales of a random code, None for other students."""
    try:
        data = student.to_bytes()
    except ValueError:  # made from a Network
        return None
    for kind, payload in container.split(data)[1]:
        if kind in (sections.RANDOM_CODE, sections.SMALL_RANDOM_CODE):
            shapes = [weight.shape for weight in student.network.weights]
            return random_code.read(Reader(payload), shapes, kind == sections.SMALL_RANDOM_CODE)
    return None


def _waves(layout: random_code.Layout) -> Waves | None:
    """Return the waves on a grid of one or two axes, None for other layouts."""
    extents = [extent for extent in layout.input_shape if extent > 1]
    if not 1 <= len(extents) <= 2:
        return None
    numbers = cosine.lowest_frequencies(layout.input_shape, layout.n_frequencies)
    numbers = numbers[:, [axis for axis, extent in enumerate(layout.input_shape) if extent > 1]]
    if len(extents) == 1:
        extents, numbers = [1, *extents], np.column_stack([np.zeros(len(numbers), np.int64), numbers])
    return Waves((extents[0], extents[1]), numbers, layout.small)


def outputs_of(stages: Sequence[Stage], rows: np.ndarray) -> np.ndarray:
    """Return what the stages compute, in float64; rows of shape (n_rows, n_features)."""
    rows = np.array(rows, np.float64)
    for stage in stages:
        rows = stage(rows)
    return rows
