"""C headers, compiled without a warning and under sanitizers, against the NumPy runtime."""

import re
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from c_program import SANITIZERS, CProgram
from some_students import labelled, make_network, make_rows
from tools import need

from distill import __main__ as command_line
from distill import load, to_c
from distill.codecs import container, random_code
from distill.codecs.preprocessing import MomentsStep, Step
from distill.network import Network
from distill.runtime import Student

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.student"))
# Offset 1e9 and scale 1.5e-45: all finite rows of float32 are one row
WITHOUT_ROWS = {"shared-float16"}
N_ROWS = 200


def rows_for(student, seed=0):
    """Return rows about the place that the student's scaling has, as float32 where that is enough."""
    rows = np.random.default_rng(seed).normal(size=(N_ROWS, student.n_features_in_))
    network = student.network
    if any(isinstance(step, MomentsStep) for step in getattr(student.preprocessing, "steps", ())):
        return np.abs(rows).astype(np.float32)
    scale = np.ones(student.n_features_in_) if network.scale is None else np.array(network.scale, np.float64)
    rows = rows / np.where(scale == 0, 1, scale) + (0 if network.offset is None else network.offset)
    return rows if network.has_wide_inputs else rows.astype(np.float32)


def write_headers(arithmetic):
    headers, students, rows = {}, {}, {}
    for path in GOLDEN:
        if path.stem in WITHOUT_ROWS:
            continue
        name = re.sub(r"\W", "_", path.stem)
        students[name] = load(path)
        rows[name] = rows_for(students[name])
        calibration = None if arithmetic == "float" else rows[name]
        with warnings.catch_warnings():  # of integers for outputs that hardly differ
            warnings.filterwarnings("ignore", "arithmetic='int.* agrees with the student", UserWarning)
            headers[name] = to_c(students[name], name=name, arithmetic=arithmetic, calibration=calibration)
    return headers, students, rows


def label_index(student, labels):
    """Return labels as the C functions do: integers as they are, others by index."""
    kind = student.classes_.dtype.kind
    return labels.astype(np.float64) if kind in "iub" else (labels[:, None] == student.classes_).argmax(axis=1)


def expected_of(student, method, rows):
    predictions = getattr(student, method)(rows)
    if method == "predict" and student.network.classes is not None:
        return label_index(student, predictions)
    return predictions.reshape(len(rows), -1)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    headers, students, rows = write_headers("float")
    return CProgram(tmp_path_factory.mktemp("float"), headers, SANITIZERS), students, rows


def test_float_arithmetic_equals_the_runtime(floats):
    program, students, rows = floats
    assert len(students) > 45
    for name, student in students.items():
        given = rows[name].astype(program.input_type(name))
        found = program(name, given)
        assert found, name
        for method, values in found.items():
            expected = expected_of(student, method, given)
            if values.ndim == 1:
                np.testing.assert_array_equal(values, expected, name)
            else:
                np.testing.assert_allclose(
                    values, expected, rtol=0, atol=1e-5 * max(np.ptp(expected), 1e-6), err_msg=name
                )


def test_every_row_is_defined(floats):
    program, students, _ = floats
    extremes = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0, -0.0])
    for name, student in students.items():
        draw = np.random.default_rng(1).choice(extremes, (20, student.n_features_in_))
        assert program(name, draw)  # no sanitizer stops it


def test_integer_arithmetic_is_what_was_measured(tmp_path):
    for arithmetic, least in (("int8", 0.97), ("int16", 0.99)):
        headers, students, rows = write_headers(arithmetic)
        folder = tmp_path / arithmetic
        folder.mkdir()
        program = CProgram(folder, headers, SANITIZERS if arithmetic == "int8" else ["-O0"])
        for name, student in students.items():
            stated = float(re.search(r"Agreement +([-\d.]+)", headers[name])[1])
            method = "predict" if student.network.classes is not None else student.network.target
            given = rows[name].astype(program.input_type(name))
            found, expected = program(name, given)[method], expected_of(student, method, given)
            if found.ndim == 1:
                agreement = np.mean(found == expected)
            else:
                # Without the output function and scale, as the header counts
                total = np.square(expected - expected.mean(axis=0)).sum()
                agreement = 1 - np.square(found - expected).sum() / total if total else 1.0
            # Some students with random weights have outputs that hardly vary
            varied = found.ndim == 1 or expected.std(axis=0).max() > 1e-3 * np.abs(expected).max()
            assert agreement >= least or not varied, (name, agreement)
            if found.ndim == 1 and not student.preprocessing:
                assert abs(agreement - stated) < 1e-4, name
            extremes = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45])
            program(name, np.random.default_rng(1).choice(extremes, (10, student.n_features_in_)))


def grid_student(shape=(28, 28), n_waves=40, n_hidden=12, n_inputs=None, bits=8, **more):
    n_inputs = n_inputs or int(np.prod(shape))
    shapes = ((n_inputs, n_hidden), (n_hidden, 4))
    layout = random_code.Layout(shapes, (1, 1), bits, 30, 5, shape, n_waves, **more)
    scales = np.array([[0.4, 0.2], [0.6, 0.1]], np.float16)
    codes = np.random.default_rng(0).integers(0, 1 << bits, 30)
    layers = layout.layers(layout.numbers(codes), scales)
    network = Network(
        tuple(layer.weight for layer in layers),
        tuple(layer.bias for layer in layers),
        target="predict",
        output="softmax",
        classes=np.array([-3, 0, 5, 1000]),
        offset=np.float32(40.0),
        scale=np.float32(1 / 60),
    )
    return load(container.pack(network, [random_code.encode(layout, codes, scales)]))


def blobs(shape, seed=0):
    """Return images of one bright spot each, as bytes."""
    random = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    centers = random.uniform(0.2, 0.8, (N_ROWS, len(shape))) * np.array(shape)
    distance = np.square(places[None] - centers[(slice(None), *[None] * len(shape))]).sum(axis=-1)
    return np.rint(255 * np.exp(-distance / 12)).reshape(N_ROWS, -1).astype(np.uint8)


@pytest.mark.parametrize("shape", [(28, 28), (5, 9), (60,), (1, 40, 1), (4, 5, 3)], ids=str)
def test_waves_are_products_of_two_axes(tmp_path, shape):
    student = grid_student(shape, n_waves=min(40, int(np.prod(shape))))
    images = blobs(shape)
    text = {
        "waves": to_c(student, name="waves", input_type="uint8"),
        "waves8": to_c(student, name="waves8", arithmetic="int8", calibration=images),
    }
    program = CProgram(tmp_path, text, SANITIZERS)
    separable = sum(extent > 1 for extent in shape) <= 2
    assert ("_wave" in text["waves"]) == ("_wave" in text["waves8"]) == separable
    found = program("waves", images)
    np.testing.assert_array_equal(found["predict"], student.predict(images))
    np.testing.assert_allclose(found["predict_proba"], student.predict_proba(images), rtol=0, atol=1e-5)
    assert program.input_type("waves8") == np.uint8
    assert np.mean(program("waves8", images)["predict"] == student.predict(images)) >= 0.985


@pytest.mark.parametrize(("shape", "bits"), [((28, 28), 12), ((60,), 5), ((4, 5, 3), 24), ((), 12)], ids=str)
def test_weights_of_small_random_codes_are_computed(tmp_path, shape, bits):
    images = blobs(shape or (8, 8))
    n_waves = 40 if len(shape) in (1, 2) else 0
    student = grid_student(shape if n_waves else (), n_waves, n_inputs=images.shape[1], bits=bits, small=True)
    text = {
        "small": to_c(student, name="small", input_type="uint8"),
        "small8": to_c(student, name="small8", arithmetic="int8", calibration=images),
        "small16": to_c(student, name="small16", arithmetic="int16", calibration=images),
    }
    assert all("_number(p)" in header and "_weight" not in header for header in text.values())
    program = CProgram(tmp_path, text, SANITIZERS)
    found, expected = program("small", images), student.predict(images)
    np.testing.assert_array_equal(found["predict"], expected)
    np.testing.assert_allclose(found["predict_proba"], student.predict_proba(images), rtol=0, atol=1e-5)
    # Weights have 8 bits in both
    assert np.mean(program("small8", images)["predict"] == expected) >= 0.96
    assert np.mean(program("small16", images)["predict"] == expected) >= 0.96


def test_weights_take_their_smallest_form():
    random = np.random.default_rng(0)
    sparse = make_network((60, 20, 3))
    mask = random.random(sparse.weights[0].shape) < 0.05
    sparse = Network((sparse.weights[0] * mask, sparse.weights[1]), sparse.biases)
    levels = np.float32([-0.5, -0.1, 0.2, 0.7])
    coded = Network((random.choice(levels, (60, 20)), make_network((20, 3)).weights[0]), sparse.biases)
    halves = Network(
        tuple(w.astype(np.float16).astype(np.float32) for w in make_network((60, 20, 3)).weights), sparse.biases
    )
    biases = 4 * 23
    holes = np.ones((60, 1), bool)
    holes[::4] = False
    few = Network((coded.weights[0] * holes, coded.weights[1]), coded.biases)
    for network, size in (
        (few, 45 * 20 // 4 + 15 + 4 * 4 + 4 * 60 + biases),
        (make_network((60, 20, 3)), 4 * 60 * 20 + 4 * 60 + biases),
        (halves, 2 * 60 * 20 + 2 * 60 + biases),
        (coded, 60 * 20 // 4 + 4 * 4 + 4 * 60 + biases),
        (sparse, 60 + 5 * int(mask.sum()) + 4 * 60 + biases),
    ):
        header = to_c(Student(network))
        assert f"Constants in flash   {size} bytes" in header
    rows = make_rows(300, 60)
    header = to_c(Student(coded), arithmetic="int8", calibration=rows)
    header8 = to_c(Student(few), arithmetic="int8", calibration=rows)
    assert f"Constants in flash   {45 * 20 // 4 + 15 + 4 + 6 * 20 + 60 + 4 * 3} bytes" in header8
    # Packed codes and four words of a byte, biases of 4 and multipliers of 2; second layer with biases of 2
    assert f"Constants in flash   {60 * 20 // 4 + 4 + 6 * 20 + 60 + 4 * 3} bytes" in header


def test_inputs_that_are_mostly_zero_or_unused(tmp_path):
    random = np.random.default_rng(0)
    dense = labelled((50, 12, 4))
    levels, holes = np.float32([-0.7, -0.2, 0.3, 0.8]), random.random((50, 1)) < 0.7
    weights = {
        "dense": dense.weights[0],
        "holes": dense.weights[0] * holes,
        "coded": random.choice(levels, (50, 12)) * holes,
        "few": dense.weights[0] * (random.random((50, 12)) < 0.2),
        "grouped": random.choice(levels, (50, 12)) * holes * np.where(np.arange(12) < 5, 1, 0.5).astype(np.float32),
        "alone": dense.weights[0] * (np.arange(50) == 7)[:, None],
    }
    students = {name: Student(replace(dense, weights=(first, *dense.weights[1:]))) for name, first in weights.items()}
    rows = random.integers(0, 256, (N_ROWS, 50)) * (random.random((N_ROWS, 50)) < 0.3)
    headers = {name: to_c(student, name=name, input_type="uint8") for name, student in students.items()}
    headers |= {
        f"{name}8": to_c(student, name=f"{name}8", arithmetic="int8", calibration=rows)
        for name, student in students.items()
    }
    assert all("sums[" in headers[f"{name}8"] for name in students)
    assert "few8_count0" in headers["few8"] and "few8_count0" not in headers["dense8"]
    # A scale of 255 in place of 1/255 makes all bytes 0, and is no sign of integers
    wrong = to_c(students["dense"], name="wrong", arithmetic="int8", calibration=rows / 255, input_scale=255)
    assert "typedef float wrong_input" in wrong
    program = CProgram(tmp_path, headers, SANITIZERS)
    for name, student in students.items():
        expected = label_index(student, student.predict(rows))
        np.testing.assert_array_equal(program(name, rows)["predict"], expected, name)
        assert np.mean(program(f"{name}8", rows)["predict"] == expected) >= 0.98, name


def test_wide_rows_and_wide_integers(tmp_path):
    random = np.random.default_rng(0)
    headers, students, rows = {}, {}, {}
    for name, n_features, high in (("words", 20_000, 3), ("samples", 300, 30_000), ("both", 20_000, 30_000)):
        students[name] = Student(labelled((n_features, 6, 3)))
        rows[name] = random.integers(-high, high, (60, n_features))
        headers[name] = to_c(students[name], name=name, arithmetic="int8", calibration=rows[name])
    # 16-bit inputs of so many features leave weights of 1 bit in sums of 32: they are scaled first
    assert ["_front(" in header for header in headers.values()] == [False, False, True]
    program = CProgram(tmp_path, headers)
    for name, student in students.items():
        expected = label_index(student, student.predict(rows[name]))
        assert np.mean(program(name, rows[name])["predict"] == expected) >= 0.95, name


def test_labels_of_every_type(tmp_path):
    kinds = {
        "wide": np.array([-(2**62), 5, 2**63 - 1]),
        "gaps": np.array([-70000, 0, 70000]),
        "shifted": np.array([-1, 0, 1]),
        "words": np.array(['a "quoted" one', "back\\slash ??/", "größe */"]),
        "floats": np.array([0.5, 1.5, 1e300]),
    }
    headers, students = {}, {}
    for name, classes in kinds.items():
        students[name] = Student(make_network((6, 5, 3), target="predict", output="softmax", classes=classes))
        headers[name] = to_c(students[name], name=name)
    two = make_network((6, 5, 1), target="predict", output="logistic", classes=np.array([False, True]))
    students["two"], headers["two"] = Student(two), to_c(Student(two), name="two")
    program = CProgram(tmp_path, headers, SANITIZERS)
    rows = make_rows(100, 6)
    for name, student in students.items():
        found = program(name, rows)
        np.testing.assert_array_equal(found["predict"], label_index(student, student.predict(rows)), name)
        np.testing.assert_allclose(found["predict_proba"], student.predict_proba(rows), atol=1e-5)
    (tmp_path / "names.c").write_text(
        '#include <stdio.h>\n#include "words.h"\n#include "floats.h"\nint main(void) { int i; for (i = 0; i < 3; i++) '
        'printf("%s\\n%.17g\\n", words_class_name(i), floats_label(i)); return 0; }\n'
    )
    subprocess.run(["gcc", tmp_path / "names.c", "-o", tmp_path / "names", "-lm"], check=True)
    printed = subprocess.run([tmp_path / "names"], capture_output=True, check=True).stdout.decode().splitlines()
    assert (
        printed[::2] == kinds["words"].tolist() and [float(text) for text in printed[1::2]] == kinds["floats"].tolist()
    )


def test_rows_by_the_names_of_features(tmp_path):
    names = ("petal length (cm)", "petal length [cm]", "int", "2nd */ x", "größe", "NAN")
    student = Student(make_network((6, 2), feature_names=names))
    header = to_c(student, tmp_path / "flower.h", name="flower")
    (tmp_path / "m.c").write_text(
        '#include <math.h>\n#include <stdio.h>\n#include "flower.h"\n'
        "int main(void) {\nflower_row r = {0}; flower_input x[6]; float out[2];\n"
        "r.petal_length_cm = 1; r.petal_length_cm_2 = 2; r.int_ = 3; r.f_2nd_x = 4; r.gr_e = 5; r.nan = 6;\n"
        'flower_inputs(&r, x); flower_transform(x, out); printf("%.9g %.9g", out[0], out[1]); return 0; }\n'
    )
    (gcc,) = need("gcc")
    subprocess.run([gcc, "-Wall", "-Werror", tmp_path / "m.c", "-o", tmp_path / "m"], check=True)
    found = subprocess.run([tmp_path / "m"], capture_output=True, check=True, text=True).stdout.split()
    np.testing.assert_allclose(np.float64(found), student.transform([[1, 2, 3, 4, 5, 6]])[0], rtol=1e-6)
    assert (tmp_path / "flower.h").read_text("utf-8") == header


def test_no_heap_and_no_writable_variables(tmp_path):
    gcc, nm = need("gcc", "nm")
    (tmp_path / "two.h").write_text(
        to_c(Student(labelled((9, 5, 4))), name="two", arithmetic="int8", calibration=make_rows(50, 9))
    )
    (tmp_path / "m.c").write_text(
        '#include "two.h"\nint f(const two_input *x) { return two_predict(x) + two_selftest(); }\n'
    )
    subprocess.run([gcc, "-O1", "-c", tmp_path / "m.c", "-o", tmp_path / "m.o"], check=True)
    symbols = subprocess.run([nm, tmp_path / "m.o"], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[-2] for line in symbols.splitlines()}
    assert not kinds & set("bBdDC"), symbols
    undefined = {line.split()[-1] for line in symbols.splitlines() if line.split()[-2] == "U"}
    assert undefined <= {"expf", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_", "memcpy", "memset"}, undefined


def test_inputs_in_units_of_a_device(tmp_path):
    student, images = Student(labelled((64, 20, 5))), blobs((8, 8))
    headers = {
        "bytes8": to_c(
            student, name="bytes8", arithmetic="int8", calibration=images / np.float32(255), input_scale=1 / 255
        ),
        "bytes32": to_c(student, name="bytes32", input_type="uint8", input_scale=1 / 255),
    }
    program = CProgram(tmp_path, headers)
    expected = label_index(student, student.predict(images / np.float32(255)))
    assert program.input_type("bytes8") == np.uint8
    np.testing.assert_array_equal(program("bytes32", images)["predict"], expected)
    assert np.mean(program("bytes8", images)["predict"] == expected) >= 0.98


def test_missing_values(tmp_path):
    student = Student(make_network((5, 6, 3), fill=True, clip=4.0, offset=np.full(5, 0.5), scale=np.full(5, 0.8)))
    rows = make_rows(N_ROWS, 5).astype(np.float64)
    rows[np.random.default_rng(1).random(rows.shape) < 0.2] = np.nan
    headers = {
        "holes": to_c(student, name="holes", calibration=rows),
        "holes8": to_c(student, name="holes8", arithmetic="int8", calibration=rows),
        "never8": to_c(student, name="never8", arithmetic="int8", calibration=rows[np.isnan(rows).any(axis=1)]),
    }
    program = CProgram(tmp_path, headers, SANITIZERS)
    expected = student.transform(rows)
    np.testing.assert_allclose(program("holes", rows)["transform"], expected, rtol=0, atol=1e-5 * np.ptp(expected))
    for name in ("holes8", "never8"):
        np.testing.assert_allclose(program(name, rows)["transform"], expected, rtol=0, atol=0.03 * np.ptp(expected))


def test_offsets_that_float_cannot_hold(tmp_path):
    network = make_network((3, 4, 2), offset=np.array([1.7e9, 0, 5]), scale=np.array([1e-2, 1, 2]))
    student = Student(network)
    rows = np.random.default_rng(0).normal(size=(50, 3)) * [100, 1, 0.5] + [1.7e9, 0, 5]
    program = CProgram(tmp_path, {"wide": to_c(student, name="wide")})
    assert program.input_type("wide") == np.float64
    np.testing.assert_allclose(program("wide", rows)["transform"], student.transform(rows), atol=1e-5)


def test_steps_before_the_network(tmp_path):
    random = np.random.default_rng(0)
    inner = make_network((4, 6, 3), clip=3.0, fill=True, scale=np.full(4, 0.7))
    steps = [
        Step("subtract", random.normal(size=10)),
        Step("divide", np.array(2.0)),
        Step("clip", np.array([-1.5, 1.0])),
        Step("product", random.normal(size=(10, 4)).astype(np.float32)),
        Step("add", random.normal(size=4)),
        Step("multiply", random.uniform(0.5, 2, 4)),
    ]
    data = container.with_steps(container.encode(inner), 10, steps, None)
    student = load(data)
    rows = make_rows(N_ROWS, 10)
    headers = {
        "steps": to_c(data, name="steps"),
        "steps16": to_c(student, name="steps16", arithmetic="int16", calibration=rows),
    }
    program = CProgram(tmp_path, headers, SANITIZERS)
    expected = student.transform(rows)
    np.testing.assert_allclose(program("steps", rows)["transform"], expected, rtol=0, atol=1e-5 * np.ptp(expected))
    np.testing.assert_allclose(program("steps16", rows)["transform"], expected, rtol=0, atol=5e-3 * np.ptp(expected))


def test_wrong_parameters_name_the_way_out(tmp_path):
    student = Student(labelled((64, 30, 10)))
    rows = make_rows(50, 64)
    path = tmp_path / "m.h"
    for match, parameters in {
        "name must be an identifier": {"name": "2nd"},
        "word that C": {"name": "int"},
        "identifier of C": {"name": "a-b"},
        "arithmetic must be one of": {"arithmetic": "int4"},
        "target must be one of": {"target": "z80"},
        "input_type must be one of": {"input_type": "long"},
        "input_scale must be a number above 0": {"input_scale": 0},
        r"min_agreement must be in \[0, 1\]": {"min_agreement": 2},
        r"calibration must have the shape \(n_samples, 64\)": {"arithmetic": "int8", "calibration": rows[:, :5]},
        "value nan in row 0, column 3": {
            "arithmetic": "int8",
            "calibration": np.where(np.arange(64) == 3, np.nan, rows),
        },
        "give some hundred typical samples": {"arithmetic": "int8"},
        "holds integers from 0 to 255": {"arithmetic": "int8", "calibration": rows, "input_type": "uint8"},
        "holds integers from -128 to 127": {"calibration": rows, "input_type": "int8", "input_scale": 255},
        "less than min_agreement=1.0": {"arithmetic": "int8", "calibration": rows, "min_agreement": 1.0},
    }.items():
        with pytest.raises(ValueError, match=match):
            to_c(student, path, **parameters)
        assert not list(tmp_path.iterdir())
    for match, parameters in {
        r"min_agreement must be in \[0, 1\], got 'x'": {"min_agreement": "x"},
        "complex numbers": {"calibration": rows * 1j},
        "beyond the range of float: .* check calibration and input_scale": {"input_scale": 1e300},
    }.items():
        with pytest.raises(ValueError, match=match):
            to_c(student, path, **parameters)
    with pytest.raises(ValueError, match="the character NUL"):
        to_c(Student(labelled((4, 2), classes=np.array(["a", "b\0c"]))), path)
    with pytest.warns(UserWarning, match="99 samples, 1 of them different"):
        to_c(student, arithmetic="int8", calibration=np.ones((99, 64)))
    large = Student(labelled((784, 100, 10)))
    with pytest.raises(ValueError, match=r"32768 bytes of flash, and the model needs about \d+: \d+ bytes too many"):
        to_c(large, path, target="avr")
    with pytest.raises(ValueError, match="2048 bytes of RAM"):
        to_c(grid_student(), path, target="avr")
    far = make_network((3, 4, 2), offset=np.array([1.7e9, 0, 5]), scale=np.array([1e-2, 1, 2]))
    with pytest.raises(ValueError, match="doubles of 32 bits, and the student needs 64"):
        to_c(Student(far), path, target="avr")
    with pytest.raises(ValueError, match="do not hold the label 1e"):
        to_c(Student(labelled((4, 3), classes=np.array([0.5, 1.5, 1e300]))), path, target="avr")
    with pytest.raises(TypeError, match="to_c takes a Student"):
        to_c(object())
    network = make_network((3, 5, 2))
    factors = np.float32([1, 1e-30])
    weights, biases = (
        [factor * part for factor, part in zip(factors, parts)] for parts in (network.weights, network.biases)
    )
    tiny = Student(replace(network, weights=tuple(weights), biases=tuple(biases)))
    assert re.search("Agreement +1.0000", to_c(tiny, arithmetic="int16", calibration=make_rows(99, 3)))
    filled = make_network((3, 4, 2), fill=True, clip=9.0)
    header = to_c(Student(filled), arithmetic="int8", calibration=make_rows(99, 3).round(), min_agreement=0.9)
    assert "typedef float model_input" in header
    with pytest.warns(UserWarning, match="agrees with the student by"):
        to_c(
            Student(make_network((3, 500, 2), scale=np.full(3, 1e-3))), arithmetic="int8", calibration=make_rows(99, 3)
        )


def test_command_line(tmp_path, capsys):
    path = tmp_path / "digits.student"
    path.write_bytes(container.encode(labelled((64, 12, 10))))
    rows = np.abs(make_rows(100, 64)).round()
    np.save(tmp_path / "rows.npy", rows)
    command = ["export", str(path), "--target", "avr", "-o", str(tmp_path / "my digits.h"), "--arithmetic", "int8"]
    assert command_line.main([*command, "--calibration", str(tmp_path / "rows.npy")]) == 0
    text = (tmp_path / "my digits.h").read_text("utf-8")
    assert text == to_c(load(path), name="my_digits", arithmetic="int8", calibration=rows, target="avr")
    assert command_line.main(command) == 2 and "typical samples" in capsys.readouterr().err
    assert command_line.main([*command[:4], "-o", str(tmp_path / "é.h")]) == 2
    assert "give --name" in capsys.readouterr().err
    assert (
        command_line.main(["export", str(path), "--target", "onnx", "--name", "x", "-o", str(tmp_path / "x.onnx")]) == 2
    )
    assert "--name is for the targets c and avr" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_estimators_and_pipelines(tmp_path):
    from sklearn.cluster import KMeans
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from distill import Distiller

    rows = np.vstack([make_rows(60, 5, seed) + 4 * seed for seed in range(3)])
    distiller = Distiller(KMeans(3, n_init=1, random_state=0), hidden_layer_sizes=(8,), max_iter=30, random_state=0)
    pipeline = make_pipeline(StandardScaler(), distiller).fit(rows)
    program = CProgram(tmp_path, {"groups": to_c(pipeline, name="groups")})
    np.testing.assert_array_equal(program("groups", rows)["predict"], pipeline.predict(rows))


def test_codebook_students_keep_their_codes(tmp_path):
    random = np.random.default_rng(0)
    values = np.float32([[-0.5, 0.0, 0.25, 1.0], [-0.3, -0.1, 0.1, 0.3]])
    codes = random.integers(0, 4, (40, 16))
    groups = np.repeat([0, 1], 8)
    weight = values[groups[None, :], codes]
    network = Network((weight, make_network((16, 3)).weights[0]), (np.zeros(16, np.float32), np.zeros(3, np.float32)))
    rows = make_rows(N_ROWS, 40)
    text = {"coded": to_c(Student(network), name="coded")}
    text["coded8"] = to_c(Student(network), name="coded8", arithmetic="int8", calibration=rows)
    assert all("_codes" in header for header in text.values())
    program = CProgram(tmp_path, text, SANITIZERS)
    expected = Student(network).transform(rows)
    np.testing.assert_allclose(program("coded", rows)["transform"], expected, rtol=0, atol=1e-5 * np.ptp(expected))
    np.testing.assert_allclose(program("coded8", rows)["transform"], expected, rtol=0, atol=0.02 * np.ptp(expected))
