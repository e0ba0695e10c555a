"""The stages of a student put together as C, in float or in the best form of integers."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from distill.codecs import generator
from distill.export.c import computed, floats, images, integers, quantization
from distill.export.c.calibration import RANGES, agreement_of, labels_or_values
from distill.export.c.floats import Code, Emitter
from distill.export.c.header import Outputs
from distill.export.c.program import Affine, Images, Linear, Program, Stage, Waves, outputs_of

# Bytes of the code that scales inputs in float: 1.1 kB on AVR, 1.3 to 2.7 kB on a Cortex-M3
_FRONT_CODE = 1500
# Share of agreement that fewer bytes may cost
_LOSS = 0.001


class Integers(NamedTuple):
    """A student in integers.

    Parameters
    ----------
    program : IntegerProgram
    first : sequence of Stage
        Stages in float before it.
    codes : list of Code
    outputs : Outputs
    n_buffers : int
        Bytes of the buffers between layers.
    agreement : float
        With the student, on the calibration samples.
    """

    program: quantization.IntegerProgram
    first: Sequence[Stage]
    codes: list[Code]
    outputs: Outputs
    n_buffers: int
    agreement: float

    def values(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs of the network for inputs of shape (n_rows, n_features), float64."""
        return self.program.outputs(outputs_of(self.first, rows))


def _float_stages(emit: Emitter, stages: Sequence[Stage], kind: str) -> tuple[list[Code], list[str], str, int]:
    """Return the code of stages in float arithmetic, the lines that call it, its result, and the bytes of the buffers.

    Stages end with one that is not elementwise.
    """
    codes: list[Code] = []
    prepare, calls, affines, n_buffers = [], [], [], 0
    place = "x"
    for index, stage in enumerate(stages):
        if isinstance(stage, Affine):
            affines.append(stage)
            continue
        codes.append(floats.reader(emit, index, affines, kind))
        affines = []
        if isinstance(stage, Linear):
            form = None
            if stage.computed is not None:
                form = computed.float_form(emit, index, (len(stage.weight), stage.weight.shape[1]), stage.computed)
            codes.append(floats.linear(emit, index, stage, kind, form))
            width = stage.weight.shape[1]
        elif isinstance(stage, Waves):
            codes.append(floats.waves(emit, index, stage, kind))
            width = len(stage.numbers)
        else:
            codes.append(images.images(emit, index, stage, kind))
            width = math.prod(stage.step.shape)
        buffer = f"buffer{index}"
        prepare.append(f"float {buffer}[{width}];")
        calls.append(f"{emit.name}_layer{index}({place}, {buffer});")
        place, kind = buffer, "f4"
        n_buffers += 4 * width
    return codes, [*prepare, *calls], place, n_buffers


def float_code(emit: Emitter, program: Program, kind: str) -> tuple[list[Code], Outputs, int]:
    """Return the code of a student in float arithmetic, how outputs are computed, and the bytes of the buffers."""
    codes, prepare, place, n_buffers = _float_stages(emit, program.stages, kind)
    codes = [*_numbers(emit, program.stages, generator.small_normal_table(), "f4"), *codes]
    declarations = [line for code in codes for line in code.declarations]
    return codes, Outputs(declarations, prepare, f"{place}[j]", "float", f"{place}[j]"), n_buffers


def _numbers(emit: Emitter, stages: Sequence[Any], table: np.ndarray, kind: str) -> list[Code]:
    """Return what layers with computed weights share."""
    found = [stage.computed for stage in stages if getattr(stage, "computed", None) is not None]
    return [computed.shared(emit, found[0], table, kind)] if found else []


def within_words(program: Program) -> Program:
    """Return the program with expanded weights where the places of computed ones would not fit into 32 bits."""
    widest = max(program.network.layer_sizes)
    stages: list[Stage] = []
    for stage in program.stages:
        if isinstance(stage, Linear) and stage.computed is not None:
            fits = widest * stage.computed.layout.n_numbers < 1 << 32
            stage = stage if fits else replace(stage, computed=None)
        stages.append(stage)
    return replace(program, stages=tuple(stages))


def best_integers(
    emit: Emitter, program: Program, rows: np.ndarray, reference: np.ndarray, kind: str, arithmetic: str
) -> Integers:
    """Return the student in integers: of the forms whose agreement is almost the best, the smallest.

    `reference` are the labels or values of the student for the rows.
    """
    # Images are moved in float, before everything else
    start = max((index + 1 for index, stage in enumerate(program.stages) if isinstance(stage, Images)), default=0)
    first, stages = program.stages[:start], list(program.stages[start:])
    earlier, prepare, source, n_first = _float_stages(emit, first, kind)
    given, kind = (outputs_of(first, rows), "f4") if start else (rows, kind)
    before: list[Affine] = []
    while isinstance(first_left := stages[0], Affine):
        before.append(first_left)
        stages.pop(0)
    layers = _without_affines(stages)
    n_inputs = given.shape[1]
    found = []
    for made in quantization.candidates(before, layers, given, arithmetic, max(map(abs, RANGES.get(kind, (0,))))):
        codes, outputs, n_buffers = integers.stages(emit, made, kind, n_inputs, source, start)
        codes = [*_numbers(emit, made.stages, quantization.integer_normals()[0], "i1"), *earlier, *codes]
        outputs = replace(
            outputs,
            declarations=[line for code in codes for line in code.declarations],
            prepare=_declared_first([*prepare, *outputs.prepare]),
        )
        agreement = agreement_of(reference, labels_or_values(program, made.outputs(given)))
        found.append(Integers(made, first, codes, outputs, n_first + n_buffers, agreement))
    best = max(made.agreement for made in found)
    almost = [made for made in found if made.agreement >= best - _LOSS]
    return min(almost, key=_cost)


def _cost(made: Integers) -> int:
    """Return the bytes of a form: constants, buffers, and the float arithmetic that scales inputs."""
    n_constants = sum(code.n_bytes for code in made.codes)
    # RAM is a sixteenth of the flash of an ATmega328P and a fourth of that of many others
    return n_constants + 2 * made.n_buffers + (_FRONT_CODE if made.program.front is not None else 0)


def _declared_first(lines: list[str]) -> list[str]:
    """Return lines with declarations before calls."""
    return sorted(lines, key=lambda line: "(" in line)


def _without_affines(stages: list[Any]) -> list[Any]:
    """Return layers with the elementwise stages between them in their weights."""
    layers: list[Any] = []
    for stage in stages:
        if not isinstance(stage, Affine):
            layers.append(stage)
            continue
        before = layers[-1]
        if before.limits is not None:
            raise ValueError(
                "more than one clipping between two matrix products has no form in integer arithmetic; use "
                "arithmetic='float'"
            )
        bias = (before.bias - stage.offset) * stage.scale + stage.shift
        layers[-1] = Linear(before.weight * stage.scale, bias, "identity", stage.limits)
    return layers


def half(emit: Emitter, codes: list[Code]) -> list[str]:
    """Return the function that converts 16-bit floats, where it is used."""
    call = f"{emit.name}_half("
    if not any(call in declaration for code in codes for declaration in code.declarations):
        return []
    lines = f"""static inline float {emit.name}_half(uint16_t bits)
{{
    /* Sign, exponent, fraction of a 16-bit float; there is no infinity among the weights */
    union {{
        uint32_t bits;
        float value;
    }} made;
    made.bits = (uint32_t)(bits & 0x7fff) << 13;
    made.value *= 5192296858534827628530496329220096.0f; /* 2^112, the difference of the exponents' offsets */
    return bits & 0x8000 ? -made.value : made.value;
}}"""
    return [lines]
