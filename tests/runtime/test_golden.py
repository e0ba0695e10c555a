"""Golden files: every file of version 1 that was ever written decodes to the same arrays and predictions."""

import json
from itertools import pairwise, product
from pathlib import Path

import independent_reader
import numpy as np
import pytest
from golden import write

import distill
from distill.codecs import codebook, container, dense, grid, random_code, sparse
from distill.codecs.container import StudentFileError
from distill.codecs.reader import Reader
from distill.runtime import load
from distill.runtime.moments import sample_outputs

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
EXTRAS = {"rows": "row_variance", "columns": "column_variance", "noise": "noise_variance", "degrees": "noise_degrees"}


@pytest.fixture(params=sorted(EXPECTED))
def name(request):
    return request.param


def read_bytes(name):
    return (GOLDEN / f"{name}.student").read_bytes()


def weight_sections(data):
    """Yield kind, payload and the shapes of the layers to come of every section of weights."""
    shapes, n_layers = list(pairwise(container.decode(data).network.layer_sizes)), 0
    for kind, payload in container.split(data)[1]:
        if kind >= 16:
            yield kind, payload, shapes[n_layers:]
            n_layers += 1


def encode_again(kind, payload, shapes):
    """Decode a section of weights to what its encoder takes, and encode that."""
    reader = Reader(payload)
    if kind in (random_code.RANDOM_CODE, random_code.SMALL_RANDOM_CODE):
        return random_code.encode(*random_code.read(reader, shapes, kind == random_code.SMALL_RANDOM_CODE))
    if kind == codebook.CODEBOOK:
        return codebook.encode(codebook.decode_layer(reader, *shapes[0]))
    if kind == grid.GRID:
        return grid.encode(grid.decode_layer(reader, *shapes[0]))
    if kind == sparse.SPARSE:
        layer = sparse.decode(reader, shapes)[0]
        return sparse.encode(layer.weight, layer.bias, "float16" if payload[0] & 1 else "float32")
    layer = container.CODECS[kind].decode(reader, shapes)[0]
    return dense.encode(layer.weight, layer.bias, kind)


def test_predictions_are_those_expected(name):
    known, student = EXPECTED[name], load(read_bytes(name))
    rows, sums = np.array(known["rows"]), np.array(known["sums"])
    tolerance = {"rtol": 2e-6, "atol": 2e-5}
    np.testing.assert_allclose(student.raw_outputs(rows), sums, **tolerance)
    if "labels" in known:
        assert student.predict(rows).tolist() == known["labels"]
    if "probabilities" in known:
        np.testing.assert_allclose(student.predict_proba(rows), known["probabilities"], **tolerance)
    if student.network.classes is None or student.network.target == "decision_function":
        answer = getattr(student, student.network.target)(rows)
        assert answer.shape == ((len(rows),) if student.network.squeeze else sums.shape)
        # Files from before section 4 have no values besides the outputs of the last layer
        values = np.array(known.get("values", sums)).reshape(answer.shape)
        largest = max(1.0, np.abs(values).max())
        np.testing.assert_allclose(answer, values, rtol=2e-6, atol=2e-5 * (largest if largest > 1e6 else 1))


def test_arrays_are_bit_for_bit_those_expected(name):
    if "digest" in EXPECTED[name]:
        assert write.digest(read_bytes(name)) == EXPECTED[name]["digest"]


def test_arrays_are_those_of_the_independent_reader(name):
    contents, independent = container.decode(read_bytes(name)), independent_reader.read(read_bytes(name))
    for layer, (weight, bias) in enumerate(independent["layers"]):
        # A random weight is a sum of waves in float32
        np.testing.assert_allclose(contents.network.weights[layer], weight, rtol=2e-7, atol=2e-7)
        np.testing.assert_allclose(contents.network.biases[layer], bias, rtol=2e-7, atol=2e-7)
    for extras, variances in zip(contents.extras, independent["variances"]):
        for key, found in EXTRAS.items():
            assert (found in extras) == (variances[key] is not None)
            if found in extras:
                np.testing.assert_allclose(extras[found], variances[key], rtol=1e-7)


def test_standard_deviations_are_those_expected(name):
    if "deviations" in EXPECTED[name]:
        rows = np.array(EXPECTED[name]["rows"])
        found = load(read_bytes(name)).predict(rows, return_std=True)[1]
        np.testing.assert_allclose(found, EXPECTED[name]["deviations"], rtol=1e-5)


def test_encoding_what_was_decoded_gives_the_same_bytes(name):
    data = read_bytes(name)
    sections = [encode_again(*section) for section in weight_sections(data)]
    assert [section.payload for section in sections] == [payload for _, payload, _ in weight_sections(data)]
    contents = container.decode(data)
    if not contents.steps:
        assert container.pack(contents.network, sections) == data


def test_golden_variances_give_the_deviations_they_gave():
    student = load(GOLDEN / "regressor-grid.student")
    rows = np.array(EXPECTED["regressor-grid"]["rows"])
    deviations = student.predict(rows, return_std=True)[1]
    draws = sample_outputs(
        student.network,
        *([extras[name] for extras in student.extras] for name in ("row_variance", "column_variance")),
        rows,
        4000,
        np.random.default_rng(0),
    )
    # Beyond one hidden layer moments are an approximation
    expected = np.sqrt(draws.var(axis=0) + [0.25, 0.5])
    np.testing.assert_allclose(deviations, expected, rtol=0.1)


def test_golden_files_are_complete():
    assert sorted(path.stem for path in GOLDEN.glob("*.student")) == sorted(EXPECTED)
    networks = [load(path).network for path in GOLDEN.glob("*.student")]
    assert {network.target for network in networks} == set(distill.network.TARGETS)
    assert {network.activation for network in networks} == set(distill.network.ACTIVATIONS)
    assert {network.output for network in networks} == set(distill.network.OUTPUTS)


def test_golden_files_cover_every_flag_of_the_codecs():
    sections = [section for name in EXPECTED for section in weight_sections(read_bytes(name))]
    flags = {kind: {payload[0] for number, payload, _ in sections if number == kind} for kind in (22, 24)}
    inputs, noise = (0, 1, 3), (0, 4, 4 | 16)
    assert flags[22] == {sum(bits) for bits in product(inputs, noise, (0, 8), (0, 32))}
    assert flags[24] == set(range(8))
    ways = set()
    for kind, payload, shapes in sections:
        if kind == sparse.SPARSE:
            ways.add(payload[1 + (-(-shapes[0][0] // 8) if payload[0] & 2 else 0)])
    assert ways == {0, 1, 2}
    layouts = [random_code.read(Reader(payload), shapes)[0] for kind, payload, shapes in sections if kind == 20]
    for trait in (
        lambda layout: layout.input_shape != (),
        lambda layout: max(layout.hash_factors) > 1,
        lambda layout: layout.input_shape != () and max(layout.hash_factors) > 1,
        lambda layout: layout.n_blocks == layout.n_numbers,
    ):
        assert {trait(layout) for layout in layouts} == {False, True}
    assert {layout.bits_per_block for layout in layouts} >= {random_code.MIN_BITS, random_code.MAX_BITS}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("version-2", "format version 2, this version of distill reads 1; it was written by a later version"),
        ("section-9", "section of kind 9, .* the file has format version 1 and was written by a later version"),
        ("section-99", "section of kind 99, .* the file has format version 1 and was written by a later version"),
    ],
)
def test_files_from_the_future_are_refused_with_the_version_that_wrote_them(name, message):
    with pytest.raises(StudentFileError, match=message):
        load(GOLDEN / "future" / f"{name}.student")
