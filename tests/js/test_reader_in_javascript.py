"""js/distill.js reads what the package reads, refuses what it refuses, and gives the same answers."""

import json
import shutil
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import fuzz_student_file
import javascript
import numpy as np
import pytest
from javascript import decoded, encoded
from some_students import make_network, make_rows
from tools import absent

import distill
from distill.codecs import codebook, container, cosine, generator, grid, random_code, sparse
from distill.codecs.preprocessing import MomentsStep, Step
from distill.codecs.random_code import Layout
from distill.compressors.matrix_gaussian.rounding import round_independently
from distill.runtime import load

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
NAMES = sorted(EXPECTED)
STRINGS, LARGE = np.array(["a", "ß\0", "日本語", "\ufeff\U0001f600"]), np.array([-(2**53), 2**63 - 1, 0, -(2**63)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("javascript")


@pytest.fixture(scope="module")
def golden(folder):
    """The bytes and the answer of every golden file, in one process of node."""
    files = [(GOLDEN / f"{name}.student").read_bytes() for name in NAMES]
    rows = [np.array(EXPECTED[name]["rows"]) for name in NAMES]
    return dict(zip(NAMES, zip(files, javascript.answers(files, rows, folder))))


def with_checksum(data):
    return bytes(data) + zlib.crc32(data).to_bytes(4, "little")


def within(found, expected, fraction=1e-5):
    """Return whether values are within a fraction of the range of the expected ones."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return found.shape == expected.shape and np.abs(found - expected).max() <= fraction * (np.ptp(expected) or 1)


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_give_the_labels_and_numbers_expected(golden, name):
    (data, answer), known = golden[name], EXPECTED[name]
    assert javascript.compare(data, np.array(known["rows"]), answer) == "accepted"
    if "labels" in known:
        assert answer["found"]["predict"] == known["labels"]
    if "probabilities" in known:
        assert within(answer["found"]["predictProba"], known["probabilities"])
    method = next((name for name in answer["methods"] if answer["classes"] is None or name == "decisionFunction"), None)
    if method:
        values = known.get("values", known["sums"])
        found = answer["found"][method]
        found = found if np.ndim(found) == 2 else np.array(found)[:, None]
        # Columns of unlike scale are compared apart
        assert all(within(np.array(found)[:, column], np.array(values)[:, column]) for column in range(len(values[0])))


def files_of_every_codec():
    """Yield files with sections that golden files have in small sizes only, drawn at random."""
    random = np.random.default_rng(5)
    for sizes, factors, extents, n_waves in (
        (((784, 50), (50, 10)), (1, 1), (28, 28), 64),
        (((60, 31), (31, 7)), (5, 2), (3, 4, 5), 40),
        (((90, 20), (20, 5)), (11, 1), (), 0),
        (((77, 3),), (1,), (77,), 77),
    ):
        layout = Layout(sizes, factors, 12, 150, int(random.integers(2**32)), extents, n_waves)
        scales = random.random((len(sizes), 2)).astype(np.float16)
        section = random_code.encode(layout, random.integers(0, 4096, 150), scales)
        yield container.pack(make_network((sizes[0][0], *(size[1] for size in sizes))), [section])
    network = make_network((300, 64, 9))
    sparse_layers, coded_layers, grid_layers = [], [], []
    for weight, bias in zip(network.weights, network.biases):
        kept = weight * (random.random(weight.shape) < np.linspace(0, 1, len(weight))[:, None] ** 3)
        sparse_layers.append(sparse.encode(kept, bias, "float32"))
        codes = np.clip(np.rint(random.normal(size=weight.shape) * np.linspace(0.2, 3, len(weight))[:, None]), -4, 3)
        codebooks = codebook.round_to_half(random.normal(size=(3, 8)).astype(np.float32))
        groups = random.integers(0, 3, weight.shape[1])
        bias = codebook.round_to_half(bias)
        used = np.arange(len(weight)) % 9 != 2
        layer = codebook.CodebookLayer((codes + 4).astype(np.uint8)[used], codebooks, None, groups, bias, used)
        coded_layers.append(codebook.encode(layer))
        means = np.vstack([weight, bias]) * (random.random((len(weight) + 1, 1)) < 0.9)
        spreads = np.exp(random.normal(-4, 1.5, len(means))), np.exp(random.normal(size=len(bias)))
        grid_layers.append(grid.encode(round_independently(means, *spreads, 0.01, None)))
    for layers in (sparse_layers, coded_layers, grid_layers):
        yield container.pack(network, layers)


def test_weights_have_the_same_bits(golden, folder):
    files = [data for data, _ in golden.values()] + list(files_of_every_codec())
    for data, layers in zip(files, javascript.internals([["layers", encoded(data)] for data in files], folder)):
        network = load(data).network
        for (weight, bias), *expected in zip(layers, network.weights, network.biases):
            for found, array in zip((weight, bias), expected):
                np.testing.assert_array_equal(decoded(found), array.ravel())


def test_random_numbers_and_waves_have_the_same_bits(folder):
    extents = (*range(1, 33), 57, 100)
    tasks = [["quantiles"], *(["waves", extent] for extent in extents)]
    quantiles, *waves = javascript.internals(tasks, folder)
    np.testing.assert_array_equal(decoded(quantiles), generator.normal_table())
    for extent, found in zip(extents, waves):
        np.testing.assert_array_equal(decoded(found), cosine.waves(extent, extent).ravel())


def test_words_and_permutations_are_those_of_the_generator(folder):
    keys = [(0,), (2**32 - 1, 1, 0), (7, 0, 2**31, 2**24 - 1), (2**32 - 1, 2**32 - 1)]
    counts = [(2**32 - 1, 0, 1), (3, 1, 1000), (5, 255, 70_000)]
    tasks = [["words", list(each), 9] for each in keys] + [["permutation", *each] for each in counts]
    found = javascript.internals(tasks, folder)
    for each, words in zip(keys, found):
        assert [high << 32 | low for high, low in words] == generator.words(each, 9).ravel().tolist()
    for each, order in zip(counts, found[len(keys) :]):
        assert order == generator.permutation(*each).tolist()


def names_deflated():
    """Return names as bytes, and their deflate data of all kinds of blocks, sound and damaged."""
    random = np.random.default_rng(0)
    plain = [
        b"",
        b"a",
        bytes(300),
        random.bytes(200),
        b"".join(b"\x09pixel %03d" % index for index in range(400)),
        bytes(random.integers(97, 100, 3000, np.uint8)),
    ]
    sound = []
    for data in plain:
        for level, strategy in ((0, 0), (1, 0), (9, 0), (9, zlib.Z_HUFFMAN_ONLY), (9, zlib.Z_FIXED), (6, zlib.Z_RLE)):
            packer = zlib.compressobj(level, zlib.DEFLATED, -15, strategy=strategy)
            sound.append((packer.compress(data) + packer.flush(zlib.Z_FULL_FLUSH) + packer.flush(), len(data)))
    damaged = []
    for _ in range(1500):
        data, length = sound[random.integers(len(sound))]
        data = bytearray(data)
        for _ in range(random.integers(1, 3)):
            data[random.integers(min(len(data), 80))] ^= 1 << random.integers(8)
        cut = random.integers(len(data) + 1) if random.random() < 0.2 else len(data)
        damaged.append((bytes(data[:cut]), length + int(random.integers(-1, 2)) * (random.random() < 0.3)))
    return sound + [(data, max(length, 0)) for data, length in damaged]


def inflated(data, length):
    """Return what the package accepts of deflated names."""
    unpacker = zlib.decompressobj(wbits=-15)
    try:
        plain = unpacker.decompress(data, length + 1)
    except zlib.error:
        return None
    return plain if len(plain) == length and unpacker.eof and not unpacker.unused_data else None


def test_deflated_names_are_inflated_and_refused_as_zlib_does(folder):
    cases = names_deflated()
    expected = [inflated(*case) for case in cases]
    accepted = sum(plain is not None for plain in expected)
    assert 100 < accepted < len(cases) - 500
    found = javascript.internals([["inflate", encoded(data), length] for data, length in cases], folder)
    assert found == [None if plain is None else encoded(plain) for plain in expected]


@pytest.mark.parametrize("n_cases, seed", [(3000, 101), pytest.param(20_000, 102, marks=pytest.mark.slow)])
def test_fuzzed_files_are_accepted_and_refused_alike(n_cases, seed, folder):
    outcome = javascript.fuzz(n_cases, seed, folder)
    assert sum(outcome.values()) == n_cases
    assert min(outcome["accepted"], outcome["refused"]) > n_cases / 20


def test_cut_and_extended_files_are_refused(golden, folder):
    whole = [data for data, _ in golden.values()] + [path.read_bytes() for path in (GOLDEN / "future").iterdir()]
    files = [b"", b"MBNS", b"MBNS\1", b"\0" * 40]
    for data in whole:
        cuts = sorted({*range(0, min(len(data), 40)), *range(0, len(data), len(data) // 8), len(data) - 1})
        files += [data[:cut] for cut in cuts] + [with_checksum(data[:cut]) for cut in cuts if cut < len(data) - 4]
        files += [data + b"\0", with_checksum(data), with_checksum(data[:-4] + b"\x10\0")]
    answers = javascript.answers(files, [1] * len(files), folder)
    assert {javascript.compare(data, 1, answer) for data, answer in zip(files, answers)} == {"refused"}
    later = javascript.answers([path.read_bytes() for path in sorted((GOLDEN / "future").iterdir())], [1] * 3, folder)
    assert ["kind 9" in later[0]["refused"], "kind 99" in later[1]["refused"]] == [True, True]
    assert "version 2" in later[2]["refused"]


def test_forged_sizes_are_refused_before_memory_is_allocated(folder):
    def header(*sizes):
        return b"MBNS\1\x10" + b"".join(map(container.varint, (len(sizes) - 1, *sizes)))

    # 4096 weights a byte are the limit: a waves section of all inputs, names and classes without end
    forged = [
        with_checksum(header(2**32 - 1, 2**32 - 1)),
        with_checksum(header(60_000, 1)),
        with_checksum(header(1, 60_000)),
        with_checksum(header(400, 1) + b"\x12\x80\x80\x80\x80\x08"),
        with_checksum(header(400, 1) + b"\x00\x06\xff\xff\xff\xff\x0f\x01"),
        with_checksum(header(400, 1) + b"\x02\x06\x01\xff\xff\xff\xff\x0f"),
        with_checksum(header(400, 400) + b"\x14\x0d\x04\x00\x01\x01\x02\x14\x14\x90\x03\x00\x3c\x00\x3c"),
        with_checksum(header(*[1] * 300)),
    ]
    answers = javascript.answers(forged, [1] * len(forged), folder)
    assert {javascript.compare(data, 1, answer) for data, answer in zip(forged, answers)} == {"refused"}
    assert "too many weights" in answers[0]["refused"]


DESCRIPTIONS = {
    "strings": ((5, 4), {"target": "predict_proba", "output": "softmax", "classes": STRINGS}),
    "large integers": ((5, 4), {"target": "predict", "output": "softmax", "classes": LARGE}),
    "consecutive and large": ((5, 4), {"target": "predict", "classes": np.arange(2**53 - 1, 2**53 + 3)}),
    "floats": ((5, 4), {"target": "predict", "classes": np.array([np.nan, np.inf, -0.5, -np.inf])}),
    "booleans": ((5, 1), {"target": "predict", "classes": np.array([False, True])}),
    "one class": ((5, 1), {"target": "predict", "output": "softmax", "classes": np.array([3])}),
    "several logistic": ((5, 3), {"target": "predict", "output": "logistic", "classes": np.arange(3)}),
    "column": ((5, 6, 1), {"target": "predict"}),
    "vector": ((5, 6, 1), {"target": "predict", "squeeze": True, "output_scale": np.array(1e3)}),
    "distribution": ((5, 6, 4), {"output": "softmax"}),
    "embedding and labels": ((5, 4), {"output": "softmax", "classes": np.arange(4)}),
    "names": ((5, 2), {"feature_names": ("a", "__proto__", "toString", "ü", "")}),
    "same names": ((5, 2), {"feature_names": tuple("aabcd")}),
    "five layers": ((5, 9, 8, 7, 6, 2), {"activation": "logistic"}),
}


@pytest.fixture(scope="module")
def described(folder):
    """Files of networks of all kinds of outputs, and the answers for normal rows."""
    files = [container.encode(make_network(sizes, **more)) for sizes, more in DESCRIPTIONS.values()]
    return dict(zip(DESCRIPTIONS, zip(files, javascript.answers(files, [make_rows(20, 5)] * len(files), folder))))


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_kind_of_output_is_that_of_the_package(described, name):
    data, answer = described[name]
    assert javascript.compare(data, make_rows(20, 5), answer) == "accepted"


def test_every_combination_of_moments_is_that_of_the_package(folder):
    files, rows = [], []
    for bits in range(1, 32):
        centre, deskew, scale, channels, blur = (bool(bits & 1 << place) for place in range(5))
        if bits == 8:
            continue  # channels alone are no step
        step = MomentsStep((6, 4, 2) if channels else (6, 8, 1), centre, deskew, scale, 0.75 if blur else 0.0)
        steps = [step, Step("clip", np.array([-1, 2]))]
        files.append(container.with_steps(container.encode(make_network((48, 3))), 48, steps, None))
        rows.append(np.random.default_rng(bits).random((6, 48)) ** 4)
        rows[-1][0, 5:], rows[-1][1] = 0, -3
    answers = javascript.answers(files, rows, folder)
    assert [javascript.compare(*case) for case in zip(files, rows, answers)] == ["accepted"] * 30


def test_ten_thousand_rows_of_a_random_code_have_the_labels_of_the_package(folder):
    data = next(files_of_every_codec())
    network = load(data).network
    labels = make_network((784, 50, 10), target="predict", output="softmax", classes=np.arange(10))
    section = container.split(data)[1][0]
    data = container.pack(labels, [container.Section(*section)])
    random = np.random.default_rng(0)
    # Bright pixels in few places, as digits have; few enough bits that the exchanged file stays small
    rows = (np.rint(random.random((10_000, 784)) * 16) / 16 * (random.random((10_000, 784)) < 0.2)).astype(np.float32)
    answer = javascript.answers([data], [rows], folder)[0]
    student = load(data)
    assert student.network.layer_sizes == network.layer_sizes
    different = np.array(answer["found"]["predict"]) != student.predict(rows)
    margins = np.sort(student.raw_outputs(rows[different]), axis=1)[:, -2:]
    assert different.sum() <= 3
    assert (np.diff(margins) < 1e-5 * np.ptp(student.raw_outputs(rows))).all()
    assert within(answer["found"]["predictProba"], student.predict_proba(rows))


def test_rows_in_every_form_and_errors(folder):
    names = tuple(f"f{index}" for index in range(5))
    network = make_network((5, 4), target="predict", output="softmax", classes=STRINGS, feature_names=names)
    plain = make_network((5, 3))
    plain = replace(plain, weights=(100 * plain.weights[0],))
    files = {"labels": network, "wide": make_network((5, 2), fill=True), "plain": plain}
    for name, each in files.items():
        (folder / f"{name}.student").write_bytes(container.encode(each))
    (folder / "future.student").write_bytes((GOLDEN / "future" / "version-2.student").read_bytes())
    javascript.run(javascript.TESTS / "interface.mjs", javascript.SOURCE, folder)


def npm(*arguments, **options):
    found = shutil.which("npm")
    if found is None:
        absent("npm is not installed")
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=True, **options).stdout


def tool(name):
    """Return the path of a tool of js/node_modules, or of this machine; skip the test, or fail, if there is none."""
    local = javascript.ROOT / "js" / "node_modules" / ".bin"
    found = shutil.which(name, path=str(local)) or shutil.which(name)
    if found is None:
        absent(f"{name} is not installed; `make setup-web` installs it in js/node_modules")
    javascript.node()
    return found


def test_package_contains_what_it_needs_and_packs_without_a_network(folder):
    description = json.loads((javascript.ROOT / "js" / "package.json").read_text())
    assert description["version"] == distill.__version__
    assert "dependencies" not in description
    assert (javascript.ROOT / "js" / "LICENSE").read_text() == (javascript.ROOT / "LICENSE").read_text()
    packed = json.loads(npm("pack", "--offline", "--json", "--pack-destination", folder, cwd=javascript.ROOT / "js"))
    files = {file["path"] for file in packed[0]["files"]}
    assert files == {"LICENSE", "README.md", "distill.d.ts", "distill.js", "package.json"}
    exports = description["exports"]["."]
    assert {exports["types"], exports["default"]} <= {f"./{file}" for file in files}


def test_minified_module_is_below_eight_kilobytes(folder):
    terser = tool("terser")
    minified = folder / "distill.min.js"
    options = ["--module", "--ecma", "2022", "--compress", "passes=2", "--mangle", "--output", minified]
    subprocess.run([terser, javascript.SOURCE, *options], check=True)
    packer = zlib.compressobj(9, wbits=31)
    assert len(packer.compress(minified.read_bytes()) + packer.flush()) <= 8000
    # It is the same module
    data = (GOLDEN / "integers-codebook.student").read_bytes()
    (folder / "jobs.json").write_text(json.dumps([{"data": encoded(data), "rows": 3}]))
    javascript.run(javascript.TESTS / "answer.mjs", minified, folder / "jobs.json", folder / "answers.json")
    assert javascript.compare(data, 3, json.loads((folder / "answers.json").read_text())[0]) == "accepted"


def test_declarations_are_those_of_the_module(folder):
    tsc = tool("tsc")
    options = [
        "--noEmit",
        "--strict",
        "--exactOptionalPropertyTypes",
        "--noUncheckedIndexedAccess",
        "--target",
        "es2022",
    ]
    options += ["--module", "nodenext", "--moduleResolution", "nodenext", "--lib", "es2022,dom"]
    done = subprocess.run([tsc, *options, javascript.TESTS / "types.ts"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_fuzzed_seeds_have_all_sections():
    kinds = {kind for data in fuzz_student_file.seeds().values() for kind, _ in container.split(data)[1]}
    assert kinds == {0, 1, 2, 3, 4, 16, 17, 18, 20, 21, 22, 24}
