"""Headers of `distill.to_c` on devices: the numbers of Python, no variable, no heap, no harm from extreme inputs."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulators
from simulators import header_function
from some_students import labelled, make_network
from tools import absent, need

import distill
from distill.codecs import container, random_code
from distill.codecs.preprocessing import Step
from distill.codecs.random_code import Layout
from distill.export import toolchain
from distill.export.size import read_interface
from distill.network import Network
from distill.runtime import Student

GOLDEN = Path(__file__).parents[1] / "golden"
DEVICES = ["cortex-m3", "atmega328p"]
N_ROWS = 24


def digits_like(n_rows=300, n_features=64, largest=16, seed=2):
    """Return rows of small integers, half of them zeros."""
    rng = np.random.default_rng(seed)
    return np.maximum(0, rng.integers(-largest, largest + 1, (n_rows, n_features))).astype(np.float64)


def normal(n_features):
    return lambda: np.random.default_rng(3).normal(size=(300, n_features))


def scaled_labels():
    """Return a student of digits with a scaler in front, as a Pipeline's file has it."""
    data = container.encode(labelled((64, 32, 10), seed=4))
    return distill.load(container.with_steps(data, 64, [Step("divide", np.array(16.0))], None))


def waves(small=False):
    """Return a student with waves on a grid of 8 x 8 pixels in its random code."""
    layout = Layout(((64, 12), (12, 5)), (1, 1), 8, 90, seed=5, input_shape=(8, 8), n_frequencies=20, small=small)
    codes = np.arange(layout.n_blocks) * 2654435761 % (1 << layout.bits_per_block)
    scales = np.array([[0.03, 0.1], [0.3, 0.1]], np.float16)
    layers = layout.layers(layout.numbers(codes), scales)
    weights, biases = tuple(layer.weight for layer in layers), tuple(layer.bias for layer in layers)
    network = Network(weights, biases, "relu", "predict", "softmax", classes=np.arange(5))
    return distill.load(container.pack(network, [random_code.encode(layout, codes, scales)]))


def golden(name):
    return lambda: distill.load(GOLDEN / f"{name}.student")


# Student and typical rows
STUDENTS = {
    "labels": (scaled_labels, digits_like),
    "tanh": (lambda: Student(labelled((20, 12, 4), "tanh", seed=5)), normal(20)),
    "two-classes": (lambda: Student(labelled((9, 7, 1), seed=6)), normal(9)),
    "embedding": (lambda: Student(make_network((30, 16, 2), seed=7)), normal(30)),
    "codebook": (golden("integers-codebook"), digits_like),
    "pruned": (golden("pruned-contexts"), lambda: None),
    "random-code": (golden("random-shared"), lambda: None),
    "waves": (waves, digits_like),
    "computed": (golden("random-small"), lambda: None),
    "computed-waves": (lambda: waves(small=True), digits_like),
    "probabilities": (golden("strings-float32"), normal(4)),
    "decisions": (golden("margin-float32"), normal(6)),
    "offset": (golden("moved-float32"), normal(4)),
}
CASES = [(name, arithmetic) for name in STUDENTS for arithmetic in ("float", "int8")]
CASES += [(name, "int16") for name in ("labels", "embedding", "waves")]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """Return header, student and rows of a case; each is written once."""
    made = {}

    def export(name, arithmetic):
        if (name, arithmetic) not in made:
            make, make_rows = STUDENTS[name]
            student = make()
            rows = make_rows()
            if rows is None:
                rows = np.random.default_rng(8).normal(size=(300, student.n_features_in_))
            path = tmp_path_factory.mktemp("headers") / f"{name}-{arithmetic}.h"
            distill.to_c(student, path, name="model", arithmetic=arithmetic, calibration=rows, min_agreement=0)
            made[name, arithmetic] = path, student, rows[:N_ROWS]
        return made[name, arithmetic]

    return export


@pytest.fixture(params=DEVICES)
def run(request):
    """Run a function on a simulated device."""
    need(*{"cortex-m3": ["arm-none-eabi-gcc", "qemu-system-arm"], "atmega328p": ["avr-gcc"]}[request.param])
    if request.param == "atmega328p" and not simulators.has_avr_simulator():
        absent("the library of simavr is not found (Debian: apt-get install libsimavr-dev)")
    return simulators.RUNNERS[request.param]


def every_function(path):
    """Return one call of all functions of a header: the label, and the results of the one that writes some."""
    interface = read_interface(path)
    calls = {function: call for function, call in interface.calls.items() if function != "selftest"}
    writing = [function for function, call in calls.items() if call.output_type]
    assert len(writing) == 1, "more than one function writes results"
    called = header_function(path, writing[0])
    labels = "predict" in calls and "predict" not in writing
    statements = called.call.replace("return 0;", calls["predict"].statements if labels else "return 0;")
    return replace(called, call=statements), writing[0], labels


@pytest.mark.parametrize(("name", "arithmetic"), CASES)
def test_devices_give_the_numbers_of_python(export, run, name, arithmetic):
    path, student, rows = export(name, arithmetic)
    called, function, labels = every_function(path)
    expected = simulators.run_host(called, rows)
    if called.output_type == "double" and run is simulators.run_atmega328p:
        with pytest.raises(ValueError, match="needs double of 64 bits"):
            run(called, rows)
        return
    found = run(called, rows)
    wanted = np.asarray(getattr(student, function)(rows), np.float64).reshape(len(rows), -1)
    reach = max(np.ptp(wanted), 1e-30)
    if arithmetic == "float":
        np.testing.assert_allclose(expected.outputs, wanted, rtol=0, atol=1e-5 * reach)
        np.testing.assert_allclose(found.outputs, wanted, rtol=0, atol=1e-5 * reach)
        if labels:
            assert (expected.labels == labels_of(student, rows)).mean() == 1
    else:
        # Integers are the same everywhere; what is left are their step, and exponential functions
        tolerance = 1e-6 if function == "predict_proba" else 1e-7
        np.testing.assert_allclose(found.outputs, expected.outputs, rtol=tolerance, atol=tolerance * reach)
        assert np.abs(found.outputs - wanted).max() < (0.35 if arithmetic == "int8" else 0.05) * reach
    assert (found.labels == expected.labels).all()


def labels_of(student, rows):
    """Return the labels as C has them: integers, or the index of the label."""
    labels = student.predict(rows)
    if student.network.classes.dtype.kind in "iu":
        return labels
    return np.array([student.network.classes.tolist().index(label) for label in labels.tolist()])


@pytest.mark.parametrize("arithmetic", ["float", "int8"])
@pytest.mark.parametrize("name", ["labels", "embedding", "random-code", "waves"])
def test_devices_pass_the_selftest(export, run, name, arithmetic):
    path, _, rows = export(name, arithmetic)
    assert run(header_function(path, "selftest"), rows[:1]).labels.tolist() == [0]


@pytest.mark.parametrize(("name", "arithmetic"), [("labels", "int8"), ("waves", "int8"), ("embedding", "float")])
def test_the_stack_on_devices_has_the_bound_of_evaluate_size(export, run, name, arithmetic):
    path, _, rows = export(name, arithmetic)
    target = next(target for target, runner in simulators.RUNNERS.items() if runner is run)
    size = distill.evaluate_size(path, target)
    used = run(header_function(path, size.function), rows).stack
    assert used <= size.stack <= used + 16
    assert size.static_ram == 0


@pytest.mark.parametrize("name", STUDENTS)
def test_headers_have_neither_variables_nor_heap(export, tmp_path, name):
    need("gcc", "nm")
    target = toolchain.find_target("host")
    for arithmetic in ("float", "int8"):
        path, _, _ = export(name, arithmetic)
        calls = "".join(
            f"int32_t call_{function}(const model_input *row, {call.output_type or 'float'} *results);\n"
            f"int32_t call_{function}(const model_input *row, {call.output_type or 'float'} *results)\n"
            f"{{ (void)row; (void)results; {call.statements} }}\n"
            for function, call in read_interface(path).calls.items()
        )
        source = f'#include "{path}"\n{calls}'
        unit = toolchain.compile_object(target, source, tmp_path, arithmetic, ["-std=c99", "-O1", *toolchain.WARNINGS])
        listing = subprocess.run(["nm", unit], capture_output=True, text=True, check=True).stdout
        kinds = {line.split()[-1]: line.split()[-2] for line in listing.splitlines() if line.strip()}
        assert "call_selftest" in kinds
        assert not [symbol for symbol, kind in kinds.items() if kind in "dDbBcCsS"]
        # The mathematical library for probabilities and activations, and nothing that allocates
        undefined = {symbol for symbol, kind in kinds.items() if kind == "U"}
        assert undefined <= {"expf", "tanhf", "sqrtf", "exp", "tanh", "sqrt", "_GLOBAL_OFFSET_TABLE_"}


def extreme_rows(dtype, n_features):
    """Return rows of the largest, smallest, infinite, missing and denormal values, and of random bits."""
    rng = np.random.default_rng(9)
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        rows = rng.integers(limits.min, limits.max, (40, n_features), endpoint=True).astype(dtype)
        rows[0], rows[1] = limits.min, limits.max
        rows[2, ::2], rows[2, 1::2] = limits.min, limits.max
        return rows
    limits = np.finfo(dtype)
    values = [0.0, -0.0, 1.0, limits.max, -limits.max, limits.tiny, limits.smallest_subnormal, np.inf, -np.inf, np.nan]
    rows = rng.choice(np.array(values, dtype), (60, n_features))
    for index, value in enumerate(values):
        rows[index] = value
    bits = rng.integers(0, 2**8, (20, n_features, dtype.itemsize), dtype=np.uint8).view(dtype)[..., 0]
    return np.concatenate([rows, bits])


@pytest.mark.parametrize(("name", "arithmetic"), CASES)
def test_extreme_inputs_do_no_harm(export, name, arithmetic):
    """No undefined behaviour, which the sanitizers of GCC report; a label that exists."""
    need("gcc")
    path, student, _ = export(name, arithmetic)
    called, _, labels = every_function(path)
    rows = extreme_rows(simulators.TYPES[called.input_type], called.n_inputs)
    found = simulators.run_host(called, rows, simulators.SANITIZERS)
    if labels:
        classes = student.network.classes
        assert np.isin(found.labels, classes if classes.dtype.kind in "iu" else np.arange(len(classes))).all()
