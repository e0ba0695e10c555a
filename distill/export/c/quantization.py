"""A student in integers: weights, sums and activations of the C code, and the same arithmetic in NumPy.

Activations and weights are integers; the sum of a unit is an int32 that cannot overflow, for any inputs. A sum
becomes an activation by one 16-bit multiplication:

    activation = clamp((clamp(sum >> pre) * multiplier + 2^(post - 1)) >> post)

`pre` leaves 16 bits of twice the largest sum of the rows that are at hand, `multiplier` is a number of each output.
Sums of the last layer are only multiplied: they are the scores that labels follow from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from distill.codecs import generator
from distill.export.c.floats import coded_columns
from distill.export.c.program import Affine, Computed, Linear, Stage, Waves, activated, half_turn

# Largest integers: of sums; of a factor of 16 bits with sign
_LARGEST_SUM, LARGEST_FACTOR = 2**31 - 1, 2**15 - 1
# Bits of the cosines of waves: more do not fit beside those of the inputs
_COSINE_BITS = 12
# Clipped ranges that are tried for the weights of an output, in units of the largest weight
_RANGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
# Activations of one layer share a range, have their own, or something between: exponents that are tried
_BALANCES = (0.0, 0.5, 1.0)
# The root of 1/2 in 2^-15
ROOT_OF_HALF = 23170
# Share of zeros among the inputs of a layer from which the loop over the inputs is the outer one: sums are in RAM then,
# and a product takes 7 instructions instead of 5 on a Cortex-M3
_MOSTLY_ZERO = 0.5
# The largest of the normal numbers of small random codes as integers, one table for all layers
NORMALS_LIMIT = 127
# Inputs above which weights are rounded to the nearest integers: second moments of 4096 inputs take 134 MB
_MOST_CORRECTED = 4096
# Weights of integer inputs have at least so large integers, or inputs are scaled first
_FEWEST_LEVELS = 15
# Damping of the second moments of the inputs, in units of their mean, as in GPTQ
_DAMPING = 0.01
# Integers of a pre-activation before tanh or logistic, per sign, and those between two entries of its table: linear
# interpolation is right to 4e-4
TABLE_HALF, TABLE_STEP = 4096, 64
# Range of pre-activations that the tables hold: beyond it tanh is 1 to 7e-4, logistic to 3e-4
_TABLE_RANGE = {"tanh": 4.0, "logistic": 8.0}


class Width(NamedTuple):
    """Largest magnitudes of an arithmetic: of weights, of activations, and NumPy's codes of their types."""

    weight: int
    activation: int
    kind: str


def widths(arithmetic: str, n_inputs: int) -> Width:
    """Return the width of a layer: 8 bits, or up to 16, of which sums of `n_inputs` products fit into 32."""
    if arithmetic == "int8":
        return Width(127, 255, "i1")
    # The larger half for the activations, which are rounded again in each layer
    both = (2**30 - 1) // n_inputs
    weight = int(min(LARGEST_FACTOR, max(127, np.sqrt(both) / 2)))
    return Width(weight, int(min(LARGEST_FACTOR, both // weight)), "i2")


@dataclass(frozen=True, eq=False)
class Front:
    """Float inputs as integers: ``clamp(round(scaled input * factor))``.

    Parameters
    ----------
    affines : list of Affine
        Stages before.
    largest : int
        Limit of the magnitude.
    """

    affines: list[Affine]
    largest: int

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the integers."""
        values = rows
        for affine in self.affines:
            values = affine(values)
        values = np.where(np.isnan(values), 0.0, values)
        return np.floor(np.clip(values, -self.largest, self.largest).astype(np.float32) + np.float32(0.5)).astype(
            np.int64
        )


@dataclass(frozen=True, eq=False)
class IntegerWaves:
    """Waves in integers; outputs are ``clamp(sum >> last)`` with sums over the second axis shifted by `first`."""

    waves: Waves
    bits: int
    first: int
    last: int
    input_largest: int

    def table(self, extent: int) -> np.ndarray:
        """Return the cosines as integers."""
        return np.rint(half_turn(extent) * 2**self.bits).astype(np.int64)

    @property
    def factor(self) -> float:
        """The outputs in units of the products with the waves."""
        return 2.0 ** (2 * self.bits - self.first - self.last)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the integers."""
        waves = self.waves
        images = rows.reshape(len(rows), *waves.shape)
        along = np.einsum("nrc,kc->nrk", images, waves.heights(1, self.table(waves.shape[1]))) >> self.first
        both = np.einsum("nrk,lr->nlk", along, waves.heights(0, self.table(waves.shape[0])))
        sums = both[:, waves.numbers[:, 0], waves.numbers[:, 1]]
        assert np.abs(sums).max(initial=0) <= _LARGEST_SUM
        found = np.clip(sums >> self.last, -LARGEST_FACTOR, LARGEST_FACTOR)
        if waves.normed:
            for axis, extent in enumerate(waves.shape):
                if extent > 1:
                    found = np.where(waves.numbers[:, axis] == 0, (found * ROOT_OF_HALF) >> 15, found)
        return found


@dataclass(frozen=True, eq=False)
class IntegerLinear:
    """A layer in integers.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs), int64
    bias : ndarray of shape (n_outputs,), int64
    pre, post : int
    multiplier : ndarray of shape (n_outputs,), int64
        At most 2^15 - 1.
    low, high : int
        Limits of the activations; both 0 for the last layer, which has scores.
    table : ndarray of shape (129,) or None
        The activations at every 64th integer from `low` on, for tanh and logistic; between them they are interpolated.
    step : float
        A score of 1 in units of the student's outputs.
    values : tuple or None
        Codes, tables, groups and width of the weights, where they have few values; see `coded_columns`.
        Those of inputs without weights are left out, but not in the last layer.
    computed : Computed or None
        Where weights are computed: they are then the numbers of `integer_normals`.
    by_inputs : bool
        Whether the loop over the inputs is the outer one.
    """

    weight: np.ndarray
    bias: np.ndarray
    pre: int
    post: int
    multiplier: np.ndarray
    low: int = 0
    high: int = 0
    table: np.ndarray | None = None
    step: float = 1.0
    values: tuple | None = None
    computed: Computed | None = None
    by_inputs: bool = False

    @property
    def magnitude(self) -> int:
        """The largest magnitude of an activation."""
        return max(self.high, -self.low) if self.table is None else int(np.abs(self.table).max())

    @property
    def is_signed(self) -> bool:
        """Whether an activation may be negative."""
        return self.low < 0 if self.table is None else bool((self.table < 0).any())

    @property
    def is_last(self) -> bool:
        """Whether the outputs are scores."""
        return self.low == self.high

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return activations, or scores of the last layer; int64."""
        sums = rows @ self.weight + self.bias
        assert np.abs(sums).max(initial=0) <= _LARGEST_SUM
        products = np.clip(sums >> self.pre, -LARGEST_FACTOR, LARGEST_FACTOR) * self.multiplier
        if self.is_last:
            return products
        half = 1 << (self.post - 1) if self.post else 0
        found = np.clip((products + half) >> self.post, self.low, self.high)
        if self.table is None:
            return found
        place, rest = np.divmod(found - self.low, TABLE_STEP)
        left, right = self.table[place], self.table[place + 1]
        return left + (((right - left) * rest + TABLE_STEP // 2) >> (TABLE_STEP.bit_length() - 1))


@dataclass(frozen=True, eq=False)
class IntegerProgram:
    """The stages of a student in integers."""

    front: Front | None
    stages: tuple[IntegerWaves | IntegerLinear, ...]

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores of rows, ndarray of shape (n_rows, n_outputs), int64."""
        values = rows.astype(np.int64) if self.front is None else self.front(rows.astype(np.float64))
        for stage in self.stages:
            values = stage(values)
        return values

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs of the network, float64."""
        last = self.stages[-1]
        assert isinstance(last, IntegerLinear)
        return self.scores(rows) * last.step


def candidates(
    before: list[Affine], stages: list[Stage], rows: np.ndarray, arithmetic: str, input_largest: int
) -> Iterator[IntegerProgram]:
    """Yield forms of a student in integers.

    Parameters
    ----------
    before : list of Affine
        Stages before `stages`.
    stages : list of Waves and Linear
        Waves first, if there are any.
    rows : ndarray of shape (n_rows, n_features), float64
        Inputs of `before`.
    arithmetic : {"int8", "int16"}
    input_largest : int
        Largest magnitude of integer inputs, 0 for float ones.
    """
    for front, first in _fronts(before, stages, rows, arithmetic, input_largest):
        # Computed weights of different inputs have no scales of their own
        for balance in _BALANCES[:1] if len(first) == 1 or _are_computed(first) else _BALANCES:
            yield _quantized(front, first, rows, arithmetic, balance, input_largest)


def _fronts(
    before: list[Affine], stages: list[Stage], rows: np.ndarray, arithmetic: str, input_largest: int
) -> list[tuple[Front | None, list[Stage]]]:
    """Return ways to give the stages integers: integer inputs as they are, or scaled in float and rounded."""
    found: list[tuple[Front | None, list[Stage]]] = []
    # What sums leave for the weights of integer inputs as they are
    left = (
        _LARGEST_SUM // 2 // (input_largest * rows.shape[1]) if input_largest and isinstance(stages[0], Linear) else 127
    )
    if input_largest and left >= _FEWEST_LEVELS:
        affine = before[0] if before else None
        if affine is None:
            found.append((None, stages))
            if left >= widths("int8", 1).weight:
                return found
        elif len(before) == 1 and not affine.is_limited:
            folded = _folded(affine, stages)
            if folded is not None:
                found.append((None, folded))
    values = rows
    for affine in before:
        values = affine(values)
    ranges = np.abs(values).max(axis=0)
    ranges[ranges == 0] = ranges.max() or 1.0
    if isinstance(stages[0], Waves) or _are_computed(stages) or ranges.max() <= 8 * ranges.min():
        ranges[:] = ranges.max()
    n_inputs = len(ranges)
    largest = min(LARGEST_FACTOR, (2**30 - 1) // (widths(arithmetic, n_inputs).weight * n_inputs))
    if isinstance(stages[0], Waves):
        largest = 2**10
    # Half as much again as the largest of the rows
    factor = Affine(np.zeros_like(ranges), largest / (1.5 * ranges), np.zeros_like(ranges))
    inverse = Affine(np.zeros_like(ranges), 1.5 * ranges / largest, np.zeros_like(ranges))
    folded = _folded(inverse, stages)
    assert folded is not None
    together = [*before]
    if together and (merged := together[-1].then("multiply", factor.scale)) is not None:
        together[-1] = merged
    else:
        together.append(factor)
    return [*found, (Front(together, int(largest)), folded)]


def _are_computed(stages: list[Stage]) -> bool:
    """Return whether there are layers with computed weights."""
    return any(isinstance(stage, Linear) and stage.computed is not None for stage in stages)


def _folded(affine: Affine, stages: list[Stage]) -> list[Stage] | None:
    """Return the stages with an affine stage before them in their weights, None if that is not possible."""
    first = stages[0]
    if isinstance(first, Linear):
        weight = first.weight.astype(np.float64)
        bias = first.bias + (affine.shift - affine.offset * affine.scale) @ weight
        layer = replace(first, weight=weight * affine.scale[:, None], bias=bias, computed=_scaled(first, affine))
        return [layer, *stages[1:]]
    # Waves of inputs less one offset, times one scale
    assert isinstance(first, Waves)
    if np.ptp(affine.scale) or np.ptp(affine.offset) or affine.shift.any():
        return None
    second = stages[1]
    assert isinstance(second, Linear)
    constant = first(np.full((1, first.n_inputs), affine.offset[0] * affine.scale[0]))[0]
    weight = second.weight.astype(np.float64)
    bias = second.bias - constant @ weight
    layer = replace(second, weight=weight * affine.scale[0], bias=bias, computed=_scaled(second, affine))
    return [first, layer, *stages[2:]]


def _scaled(layer: Linear, affine: Affine) -> Computed | None:
    """Return the computed weights of a layer times the scale of an affine stage, None where that is not one number."""
    if layer.computed is None or np.ptp(affine.scale):
        return None
    return replace(layer.computed, factor=layer.computed.factor * float(affine.scale[0]))


def _quantized(
    front: Front | None, stages: list[Stage], rows: np.ndarray, arithmetic: str, balance: float, input_largest: int
) -> IntegerProgram:
    """Return the stages in integers, each quantized for the inputs that those before it give."""
    values = rows.astype(np.int64) if front is None else front(rows)
    magnitude = input_largest if front is None else front.largest
    made: list[IntegerWaves | IntegerLinear] = []
    steps = np.ones(values.shape[1])  # of the inputs of the next layer, in units of the student
    stages = list(stages)
    if isinstance(stages[0], Waves):
        waves = _integer_waves(stages[0], values, magnitude)
        stages.pop(0)
        made.append(waves)
        values, magnitude = waves(values), LARGEST_FACTOR
        steps = np.full(values.shape[1], 1 / waves.factor)
    signed = True
    for index, layer in enumerate(stages):
        assert isinstance(layer, Linear)
        last = index == len(stages) - 1
        n_next = 0 if last else layer.weight.shape[1]
        integer, steps = _integer_linear(layer, values, steps, magnitude, signed, arithmetic, balance, n_next)
        made.append(integer)
        values = integer(values)
        magnitude, signed = integer.magnitude, integer.is_signed
    return IntegerProgram(front, tuple(made))


def _integer_waves(waves: Waves, values: np.ndarray, magnitude: int) -> IntegerWaves:
    """Return waves in integers whose sums cannot overflow and whose outputs use 16 bits on these inputs."""
    rows, columns = waves.shape
    bits = _COSINE_BITS
    while columns * magnitude << bits > _LARGEST_SUM:
        bits -= 1
    first = 0
    while rows * ((columns * magnitude << bits >> first) + 1) << bits > _LARGEST_SUM:
        first += 1
    while columns * magnitude << bits >> first > LARGEST_FACTOR:
        first += 1
    made = IntegerWaves(waves, bits, first, 0, magnitude)
    # Twice the largest output on the rows is left
    images = values.reshape(len(values), rows, columns)
    along = np.einsum("nrc,kc->nrk", images, waves.heights(1, made.table(columns))) >> first
    both = np.einsum("nrk,lr->nlk", along, waves.heights(0, made.table(rows)))
    largest, last = int(np.abs(both[:, waves.numbers[:, 0], waves.numbers[:, 1]]).max(initial=1)), 0
    while 2 * largest >> last > LARGEST_FACTOR:
        last += 1
    return replace(made, last=last)


def _integer_linear(
    layer: Linear,
    values: np.ndarray,
    steps: np.ndarray,
    magnitude: int,
    signed: bool,
    arithmetic: str,
    balance: float,
    n_next: int,
) -> tuple[IntegerLinear, np.ndarray]:
    """Return a layer in integers and the steps of its activations.

    Parameters
    ----------
    layer : Linear
    values : ndarray of shape (n_rows, n_inputs), int64
        Its inputs on the rows.
    steps : ndarray of shape (n_inputs,)
        What 1 means for each input, in the student's units.
    magnitude : int
        Largest magnitude of the inputs.
    signed : bool
        Whether inputs may be negative.
    arithmetic : str
    balance : float
        0: one range for the activations of all units; 1: each its own.
    n_next : int
        Number of inputs of the next layer, 0 if there is none.
    """
    weight = layer.weight.astype(np.float64) * steps[:, None]
    limit = min(widths(arithmetic, len(weight)).weight, max(1, (2**30 - 1) // (magnitude * len(weight))))
    computed = layer.computed if (steps == steps[0]).all() and limit >= NORMALS_LIMIT else None
    computed = None if computed is not None and computed.factor == 0 else computed
    used = layer.weight.any(axis=1)
    # Inputs that are zero cost nothing where the loop over them is the outer one; the last layer has no sums in RAM
    by_inputs = bool(n_next and computed is None and np.mean(values == 0) >= _MOSTLY_ZERO)
    coded = None
    if (steps == steps[0]).all() and used.any():
        coded = coded_columns(layer.weight[used] if n_next else layer.weight)
    if computed is None and coded is not None and _codes_pay(layer.weight, coded):
        scales, integers = np.ones(weight.shape[1]), np.zeros(weight.shape, np.int64)
        integers[used if n_next else slice(None)], scales = _rounded_values(coded, limit)
        scales = scales * steps[0]
        by_inputs = by_inputs or bool(n_next and not used.all())
    elif computed is not None:
        normals, unit = integer_normals()
        integers = normals[computed.indices(layer.weight.shape)]
        coded, scales = None, np.full(weight.shape[1], computed.factor * unit * steps[0])
    else:
        coded = None
        integers, scales = _rounded(weight, values, limit)
    # An output without weights is its bias, in sums as large as the others
    dead = ~integers.any(axis=0)
    reach = np.abs(values @ integers).max(initial=2**12)
    scales = np.where(dead & (layer.bias != 0), np.abs(layer.bias) / reach, scales)
    bias = layer.bias.astype(np.float64) / scales
    # A bias beyond the sums is never reached by them
    bias = np.rint(np.clip(bias, -(2.0**30), 2.0**30)).astype(np.int64)
    low = np.minimum(integers, 0).sum(axis=0) * magnitude - (
        np.maximum(integers, 0).sum(axis=0) * magnitude if signed else 0
    )
    high = np.maximum(integers, 0).sum(axis=0) * magnitude - (
        np.minimum(integers, 0).sum(axis=0) * magnitude if signed else 0
    )
    bound = int(max((high + bias).max(), -(low + bias).min(), np.abs(bias).max(), 1))
    assert bound <= _LARGEST_SUM
    sums = values @ integers + bias
    reached = min(bound, 2 * int(np.abs(sums).max(initial=1)))
    pre = max(0, reached.bit_length() - 15)
    if not n_next:
        # One scale of the scores: the largest multiplier uses 15 bits
        step = scales.max() * 2.0**pre / LARGEST_FACTOR
        multiplier = np.maximum(1, np.rint(scales * 2.0**pre / step)).astype(np.int64)
        return IntegerLinear(integers, bias, pre, 0, multiplier, step=step, values=coded, computed=computed), np.ones(1)
    kind = layer.activation
    top = widths(arithmetic, n_next).activation
    table = None
    if kind in _TABLE_RANGE:
        out_steps = np.full(len(scales), _TABLE_RANGE[kind] / TABLE_HALF)
        low_limit, high_limit = -TABLE_HALF, TABLE_HALF - 1
        places = np.arange(-TABLE_HALF, TABLE_HALF + 1, TABLE_STEP) * out_steps[0]
        of_table = min(top, 127 if arithmetic == "int8" else LARGEST_FACTOR)
        table = np.rint(activated(places, kind) * of_table).astype(np.int64)
        after = np.full(len(scales), 1 / of_table)
    else:
        active = activated(sums * scales, kind)
        if layer.limits is not None:
            active = np.clip(active, *layer.limits)
        ranges = np.abs(active).max(axis=0, initial=0)
        largest = ranges.max() or 1.0
        ranges = np.where(ranges == 0, largest, ranges)
        ranges = largest ** (1 - balance) * ranges**balance
        high_limit = top if kind == "relu" or arithmetic != "int8" else 127
        low_limit = 0 if kind == "relu" else -high_limit
        out_steps = ranges / high_limit
        if layer.limits is not None:
            # One step, so that limits are the same integers for all
            out_steps[:] = out_steps.max()
            low_limit = max(low_limit, round(layer.limits[0] / out_steps[0]))
            high_limit = min(high_limit, round(layer.limits[1] / out_steps[0]))
        after = out_steps
    # multiplier / 2^post = scale 2^pre / step of the output
    ratio = scales * 2.0**pre / out_steps
    post = 0
    while post < 30 and ratio.max() * 2.0 ** (post + 1) <= LARGEST_FACTOR:
        post += 1
    multiplier = np.clip(np.rint(ratio * 2.0**post), 0, LARGEST_FACTOR).astype(np.int64)
    made = IntegerLinear(
        integers,
        bias,
        pre,
        post,
        multiplier,
        low_limit,
        high_limit,
        table,
        values=coded,
        computed=computed,
        by_inputs=by_inputs,
    )
    return made, after


def integer_normals() -> tuple[np.ndarray, float]:
    """Return the normal numbers of small random codes as integers of 8 bits, and the unit of these."""
    table = generator.small_normal_table().astype(np.float64)
    unit = float(table.max() / NORMALS_LIMIT)
    return np.rint(table / unit).astype(np.int64), unit


def _codes_pay(weight: np.ndarray, coded: tuple) -> bool:
    """Return whether codes of up to 4 bits take fewer bytes than weights of 8 bits or those that are not zero."""
    codes, tables, groups, width = coded
    n_coded = codes.size * width // 8 + tables.size + (groups.size if len(tables) > 1 else 0)
    n_sparse = len(weight) + 2 * np.count_nonzero(weight)
    return width <= 4 and bool(tables.any(axis=1).all()) and n_coded < min(codes.size, n_sparse)


def _rounded_values(coded: tuple, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a matrix of few values in integers, and the scale of each output."""
    codes, tables, groups, _ = coded
    scale = np.abs(tables).max(axis=1).astype(np.float64) / limit
    scale[scale == 0] = 1.0
    integers = np.rint(tables / scale[:, None]).astype(np.int64)
    return integers[groups[None, :], codes], scale[groups]


def _rounded(weight: np.ndarray, values: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights in integers and the scale of each output.

    Ranges are those with the least error on these inputs. Of up to _MOST_CORRECTED inputs, later weights compensate for
    the rounding of earlier ones where that pays on these inputs.
    """
    n_inputs, n_outputs = weight.shape
    inputs = values.astype(np.float64)
    moments = inputs.T @ inputs / len(inputs) if n_inputs <= _MOST_CORRECTED else None
    squares = np.square(inputs).mean(axis=0) if moments is None else np.diag(moments)
    if not squares.any():
        squares, moments = np.ones(n_inputs), None if moments is None else np.eye(n_inputs)
    damping = _DAMPING * squares.mean()
    importance = (squares + damping)[:, None]
    largest = np.abs(weight).max(axis=0)
    largest[largest == 0] = 1.0
    best, scales = np.full(n_outputs, np.inf), largest / limit
    for share in _RANGES:
        scale = share * largest / limit
        rounded = np.clip(np.rint(weight / scale), -limit, limit) * scale
        error = (importance * np.square(rounded - weight)).sum(axis=0)
        scales, best = np.where(error < best, scale, scales), np.minimum(error, best)
    plain = np.clip(np.rint(weight / scales), -limit, limit).astype(np.int64)
    if moments is None:
        return plain, scales
    corrected = _corrected(weight, moments + damping * np.eye(n_inputs), scales, limit)
    errors = [np.square(inputs @ (made * scales - weight)).sum(axis=0) for made in (corrected, plain)]
    return np.where(errors[0] <= errors[1], corrected, plain), scales


def _corrected(weight: np.ndarray, moments: np.ndarray, scales: np.ndarray, limit: int) -> np.ndarray:
    """Return weights in integers, each with the errors of those before it, for second moments of the inputs.

    The order and the correction are those of GPTQ (Frantar, Ashkboos, Hoefler and Alistarh, ICLR 2023): the error of
    one weight is passed on to the weights of inputs that are correlated with its own.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(moments[np.ix_(order, order)])).T
    rest, integers = weight[order].copy(), np.zeros(weight.shape, np.int64)
    for at, place in enumerate(order):
        # A weight of zero stays one: sparse layers are stored without it
        found = np.where(weight[place] == 0, 0, np.clip(np.rint(rest[at] / scales), -limit, limit))
        integers[place] = found
        rest[at + 1 :] -= np.outer(factor[at, at + 1 :], (rest[at] - found * scales) / factor[at, at])
    return integers
