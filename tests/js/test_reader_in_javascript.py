"""js/distill.js reads what the package reads, refuses what it refuses, and gives the same answers."""

import json
import shutil
import subprocess
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fuzz_student_file
import javascript
import numpy as np
import pytest
import small_student_files
from javascript import decoded, encoded
from some_students import make_network, make_rows
from tools import absent

import distill
from distill.codecs import codebook, container, cosine, entropy, generator, grid, random_code, sparse
from distill.codecs.preprocessing import MomentsStep, Step
from distill.codecs.random_code import Layout
from distill.codecs.reader import varint
from distill.compressors.matrix_gaussian.rounding import round_independently
from distill.network import Network
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


def dynamic_block(literals, distances, symbols, first_repeats=False):
    """Return a block of deflate data with codes of its own, of lengths 0, 8 and 9, and these codes of symbols.

    With `first_repeats` the first length repeats the one before, which does not exist.
    """
    sizes = [*literals, *distances]
    bits = [1, 0, 1]  # the last block, of kind 2
    for value, width in ((len(literals) - 257, 5), (len(distances) - 1, 5), (14, 4)):
        bits += [value >> place & 1 for place in range(width)]
    # Lengths of the codes of lengths, in the order of the format: 0, 8, 9 and "repeat" (16) have two bits
    for symbol in (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1):
        bits += [0, symbol in (0, 8, 9, 16), 0]
    short = {0: (0, 0), 8: (0, 1), 9: (1, 0)}
    if first_repeats:
        bits += [1, 1, 0, 0]  # three times
        sizes = sizes[3:]
    for size in sizes:
        bits += short[size]
    codes, code = {}, 0
    for size in (8, 9):
        code <<= size - 8
        for symbol, found in enumerate(literals):
            if found == size:
                codes[symbol] = [code >> place & 1 for place in reversed(range(size))]
                code += 1
    for symbol in symbols:
        bits += codes[symbol]
    return np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


def complete(n_symbols, without=None):
    """Return lengths 8 and 9 of a complete code of this many symbols, one of which may be left out."""
    n_used = n_symbols - (without is not None)
    n_long = 2 * (n_used - 256)
    sizes = [8] * (n_used - n_long) + [9] * n_long
    return sizes if without is None else [*sizes[:without], 0, *sizes[without:]]


def names_deflated():
    """Return deflate data of all kinds of blocks and lengths when inflated, sound and damaged."""
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
    changed = []
    for data, length in sound:
        for bit in range(min(8 * len(data), 240)):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            changed.append((bytes(flipped), length))
        cut = int(random.integers(len(data)))
        changed += [(data[:cut], length), (data + b"\0", length), (data, length + 1), (data, max(length - 1, 0))]
    text, end = list(b"names"), [256]
    made = [
        dynamic_block(complete(286), [0], text + end),
        dynamic_block(complete(286), [0] * 30, text + end),
        dynamic_block(complete(286), [0] * 31, text + end),
        dynamic_block(complete(287), [0], text + end),
        dynamic_block(complete(288), [0], text + end),
        dynamic_block(complete(286, without=256), [0], text),
        dynamic_block(complete(286), [0], [*text, 285, *end]),  # a distance, and there are none
        dynamic_block(complete(286)[:-1] + [8], [0], text + end),
        dynamic_block(complete(286)[:-1] + [0], [0], text + end),
        dynamic_block(complete(286), [8], text + end),
        dynamic_block([0, 0, 0, *complete(283)], [0], text + end, first_repeats=True),
        b"\0\xff\xff\0\0" + bytes(65535) + _fixed([97, 257, 30], 14),
        # Blocks of the fixed codes with the symbols 286 and 287 and the distances 30 and 31, which mean nothing
        *(_fixed([97, 257 + length, far]) for length in range(31) for far in (0, 1, 29, 30, 31)),
    ]
    return sound + changed + [(data, length) for data in made for length in (5, 4, 6, 258 + 1, 65535 + 4)]


def _fixed(symbols, n_extra=0):
    """Return a last block of the fixed codes with a literal, a length and a distance, and its extra bits, all 0."""
    bits = [1, 1, 0]
    literal, length, far = symbols
    for code, width in ((48 + literal, 8), (length - 256, 7) if length < 280 else (192 + length - 280, 8), (far, 5)):
        bits += [code >> place & 1 for place in reversed(range(width))]
    end = [0] * 7
    return np.packbits(np.array([*bits, *[0] * n_extra, *end], np.uint8), bitorder="little").tobytes()


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
    assert inflated(dynamic_block(complete(286), [0], [*b"names", 256]), 5) == b"names"
    accepted = sum(plain is not None for plain in expected)
    assert 200 < accepted < len(cases) - 2000
    found = javascript.internals([["inflate", encoded(data), length] for data, length in cases], folder)
    assert found == [None if plain is None else encoded(plain) for plain in expected]


@pytest.mark.parametrize("n_cases, seed", [(3000, 101), pytest.param(20_000, 102, marks=pytest.mark.slow)])
def test_fuzzed_files_are_accepted_and_refused_alike(n_cases, seed, folder):
    outcome = javascript.fuzz(n_cases, seed, folder)
    assert sum(outcome.values()) == n_cases
    assert min(outcome["accepted"], outcome["refused"]) > n_cases / 20


@pytest.mark.slow
def test_every_changed_byte_of_small_files_is_accepted_and_refused_alike(folder):
    whole = small_student_files.small_files().values()
    files = list(dict.fromkeys(each for data in whole for each in (data, *small_student_files.changed_files(data))))
    # Predictions of every third; most others have another weight
    rows = [1 if index % 3 == 0 else 0 for index in range(len(files))]
    outcome = Counter(map(javascript.compare, files, rows, javascript.answers(files, rows, folder)))
    assert min(outcome["accepted"], outcome["refused"]) > 5000


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


def file_of(*sections, sizes=(2, 2), kind=0x10):
    """Return a file of sections, (kind, content), and, if they have no weights, a layer of zeros."""
    if all(number < 16 for number, _ in sections):
        sections = [*sections, (17, bytes(2 * (sizes[0] + 1) * sizes[1]))]
    data = b"MBNS\1" + bytes([kind]) + b"".join(map(varint, (len(sizes) - 1, *sizes)))
    data += b"".join(bytes([number]) + varint(len(content)) + content for number, content in sections)
    return with_checksum(data)


def singles(*values):
    return np.array(values, "<f4").tobytes()


def doubles(*values):
    return np.array(values, "<f8").tobytes()


def codebook_in_contexts(n_rows, n_columns):
    """Return a codebook of two codewords whose codes are in so many contexts."""
    zeros = np.zeros((2, 2), int)
    coded = small_student_files.codes_in_contexts(zeros, 2, zeros[0], zeros[0], (n_rows, n_columns))
    return 18, b"\0\1\1\0" + bytes(4) + b"\0" + bytes(4) + coded


def grid_in_classes(n_classes):
    """Return a grid of one step whose codes are in so many classes, all but the first empty."""

    def zeros(count):
        return entropy.encode(np.zeros(count, int), 1)

    levels = b"\0\0\0" + zeros(2) + b"\0\0\0" + zeros(3)
    codes = b"".join(b"\0\0" + zeros(4 if number == 0 else 0) for number in range(n_classes))
    return 22, b"\0\0" + levels + bytes([n_classes]) + codes + b"\0\0" + zeros(2)


def random_code_of(bits, n_blocks=1, factor=1, scale=b"\0\x3c", grid_of_inputs=b"\0"):
    codes = bytes(-(-n_blocks * bits // 8))
    return 20, bytes([bits, 0]) + varint(n_blocks) + bytes([factor]) + grid_of_inputs + 2 * scale + codes


EMPTY_GRID = grid_in_classes(1)[1]
# Each violates one rule of docs/format.md, with the message of the package; in everything else they are sound
FORGED = {
    "offset of both kinds": (file_of((3, varint(3) + singles(1))), "flags 3"),
    "scale of both kinds": (file_of((3, varint(12) + singles(1))), "flags 12"),
    "limit, not wide": (file_of((3, varint(33) + singles(1, 1))), "flags 33"),
    "missing values, not wide": (file_of((3, varint(65) + singles(1))), "flags 65"),
    "wide alone": (file_of((3, varint(16))), "flags 16"),
    "double offset without offset": (file_of((3, varint(148) + singles(1))), "flags 148"),
    "double scale without scale": (file_of((3, varint(273) + singles(1))), "flags 273"),
    "bits alone": (file_of((3, varint(512) + b"\1")), "flags 512"),
    "wide bits alone": (file_of((3, varint(528) + b"\1")), "flags 528"),
    "bits and one offset": (file_of((3, varint(513) + b"\1" + singles(1))), "flags 513"),
    "bits and missing values": (file_of((3, varint(592) + b"\1")), "flags 592"),
    "bits of all inputs": (file_of((3, varint(514) + b"\3" + singles(1, 1))), "bits"),
    "padding of bits": (file_of((3, varint(514) + b"\5" + singles(1))), "bits"),
    "limit 0": (file_of((3, varint(48) + singles(0))), "clipped at 0"),
    "infinite limit": (file_of((3, varint(48) + singles(np.inf))), "clipped at inf"),
    "infinite offset": (file_of((3, varint(1) + singles(np.inf))), "NaN or infinite"),
    "output without flags": (file_of((4, b"\0")), "flags 0"),
    "unknown flag of output": (file_of((4, b"\x11" + doubles(1))), "flags 17"),
    "offsets of both kinds": (file_of((4, b"\3" + doubles(1))), "flags 3"),
    "scales of both kinds": (file_of((4, b"\x0c" + doubles(1))), "flags 12"),
    "scale 0": (file_of((4, b"\4" + doubles(0))), "not positive"),
    "scale and softmax": (file_of((4, b"\1" + doubles(1)), kind=0x30), "neither an offset nor a scale"),
    "labels beyond 64 bits": (file_of((1, b"\2\0" + varint(2**64 - 2))), "beyond 64 bits"),
    "kind of labels": (file_of((1, b"\2\5\0\0")), "unknown kind of labels"),
    "boolean 2": (file_of((1, b"\2\3\0\2")), "neither 0 nor 1"),
    "three labels": (file_of((1, b"\3\0\0")), "3 classes"),
    "labels and relu": (file_of((1, b"\2\0\0"), kind=0x70), "there are classes"),
    "probabilities without labels": (file_of(kind=0x28), "needs classes"),
    "logistic without labels": (file_of(kind=0x50), "needs classes"),
    "probabilities of values": (file_of(kind=0x08), "needs output"),
    "squeeze of two": (file_of(kind=0x90), "one vector"),
    "activation": (file_of(kind=0x14), "activation number 4"),
    "no inputs": (file_of((17, bytes(4)), sizes=(0, 2)), "empty network"),
    "no layers": (file_of((17, b""), sizes=(2,)), "empty network"),
    "no weights": (file_of((17, bytes(12)), sizes=(2, 2, 2)), "weights for 1 of 2"),
    "two sections": (file_of((17, bytes(12)), (17, bytes(12))), "after the last"),
    "labels twice": (file_of((1, b"\2\0\0"), (1, b"\2\0\0")), "comes after section 1"),
    "names before labels": (file_of((2, b"\0\0\0"), (1, b"\2\0\0")), "comes after section 2"),
    "names after weights": (file_of((17, bytes(12)), (2, b"\0\0\0")), "comes after section 17"),
    "form of names": (file_of((2, b"\2\0\0")), "way of writing names"),
    "names and more": (file_of((2, b"\0\0\0\0")), "goes on"),
    "long names": (
        file_of((2, b"\1" + varint(5003) + zlib.compress(varint(5000) + bytes(5001), 9, wbits=-15))),
        "5003 bytes of names",
    ),
    "no steps": (file_of((0, b"\2\0")), "0 steps"),
    "steps of no features": (file_of((0, b"\0\1\x18" + singles(1))), "0 features"),
    "steps to other inputs": (file_of((0, b"\3\1\x18" + singles(1))), "leads to 3 inputs"),
    "operation 7": (file_of((0, b"\2\1\7")), "step 7"),
    "flag 32 of a step": (file_of((0, b"\2\1\x38" + singles(1))), "step 56"),
    "one limit for all": (file_of((0, b"\2\1\x0c" + doubles(0, 1))), "impossible flags 12"),
    "empty range": (file_of((0, b"\2\1\x14" + singles(1, 0))), "empty range"),
    "division by zero": (file_of((0, b"\2\1\x19" + singles(0))), "divides by zero"),
    "infinite step": (file_of((0, b"\2\1\x18" + singles(np.inf))), "NaN or infinite"),
    "shared product": (file_of((0, b"\2\1\x0d\2" + singles(1, 1, 1, 1))), "impossible flags 13"),
    "single product": (file_of((0, b"\2\1\x15\2" + singles(1, 1, 1, 1))), "impossible flags 21"),
    "product of no outputs": (file_of((0, b"\2\1\5\0")), "without outputs"),
    "shared moments": (file_of((0, b"\2\1\x0e\1\1\2")), "impossible flags 14"),
    "moments without flags": (file_of((0, b"\2\1\6\0\1\2")), "impossible flags 0"),
    "moments of channels": (file_of((0, b"\2\1\6\x08\1\1\2")), "impossible flags 8"),
    "unknown moments": (file_of((0, b"\2\1\6\x21\1\2")), "impossible flags 33"),
    "one channel": (file_of((0, b"\2\1\6\x09\1\2\1")), "shape"),
    "other shape": (file_of((0, b"\2\1\6\1\2\2")), "shape"),
    "blur 0": (file_of((0, b"\2\1\6\x10\1\2" + singles(0))), "blur"),
    "blur 65": (file_of((0, b"\2\1\6\x10\1\2" + singles(65))), "blur"),
    "no groups": (file_of((18, b"\0\1\0\0\0" + bytes(6) + b"\0\0")), "no groups"),
    "coded inputs, and all are used": (file_of((18, b"\x08\1\1\0" + bytes(5) + bytes(6) + b"\0\0")), "flags 8"),
    "no contexts": (file_of(codebook_in_contexts(1, 1)[:1] + (b"\0\1\1\0" + bytes(9) + b"\2\0\1",)), "0, 1"),
    "too many contexts": (file_of(codebook_in_contexts(17, 16)), "17, 16"),
    "degrees without noise": (file_of((22, b"\x10" + EMPTY_GRID[1:] + singles(3, 3))), "flags 16"),
    "degrees of freedom 2": (file_of((22, b"\x14" + EMPTY_GRID[1:] + singles(0, 0, 2, 3))), "not above 2"),
    "negative noise": (file_of((22, b"\x04" + EMPTY_GRID[1:] + singles(0, -1))), "negative"),
    "no classes": (file_of(grid_in_classes(0)), "0 classes"),
    "17 classes": (file_of(grid_in_classes(17)), "17 classes"),
    "words left": (file_of((24, b"\2\0\1\1\1\1\3" + bytes(6) + singles(0, 0))), "symbols are damaged"),
    "no lanes": (file_of((24, b"\2\0\1\1\1\0\0" + singles(0, 0))), "lanes is zero"),
    "frequencies above their sum": (file_of((24, b"\2\0\1\x10\x81\x80\4\1\0" + singles(0, 0))), "larger than"),
    "flag 8 of a mask": (file_of((24, b"\x08\0\0" + singles(0, 0))), "flags 8"),
    "three bits a block": (file_of(random_code_of(3)), "bits per block"),
    "25 bits a block": (file_of(random_code_of(25)), "bits per block"),
    "no blocks": (file_of(random_code_of(4, 0)), "number of blocks"),
    "more blocks than numbers": (file_of(random_code_of(4, 7)), "number of blocks"),
    "sharing factor 0": (file_of(random_code_of(4, factor=0)), "hash factor"),
    "sharing factor 5": (file_of(random_code_of(4, factor=5)), "hash factor"),
    "scale -0": (file_of(random_code_of(4, scale=b"\0\x80")), "negative"),
    "grid of other inputs": (file_of(random_code_of(4, grid_of_inputs=b"\1\3\1")), "does not hold 2 inputs"),
    "no waves": (file_of(random_code_of(4, grid_of_inputs=b"\1\2\0")), "waves must be"),
    "more waves than inputs": (file_of(random_code_of(4, grid_of_inputs=b"\1\2\3")), "waves must be"),
    "nine axes": (file_of(random_code_of(4, grid_of_inputs=b"\x09" + b"\1" * 8 + b"\2\1")), "larger than 8"),
    "too much work": (
        file_of(random_code_of(4, 600, grid_of_inputs=b"\2" + 2 * varint(1024) + varint(2**20)), sizes=(2**20, 1)),
        "too much work",
    ),
}
SOUND = {
    "contexts": file_of(codebook_in_contexts(16, 16)),
    "classes": file_of(grid_in_classes(16)),
    "degrees": file_of((22, b"\x14" + EMPTY_GRID[1:] + singles(0, 0, 2.5, 3))),
    "no stored weights": file_of((24, b"\2\0\1\1\1\1\0" + singles(0, 0))),
    "random code": file_of(random_code_of(24, 3, 4)),
    "waves": file_of(random_code_of(4, grid_of_inputs=b"\1\2\2")),
    "bits": file_of((3, varint(514) + b"\1" + singles(1))),
    "limit": file_of((3, varint(48) + singles(1))),
    "labels": file_of((1, b"\2\0" + varint(2**64 - 4))),
    "steps": file_of((0, b"\2\2\x18" + singles(1) + b"\x14" + singles(0, 0))),
    "channels": file_of((0, b"\2\1\6\x09\1\1\2")),
    "blur": file_of((0, b"\2\1\6\x10\1\2" + singles(64))),
    "names": file_of((2, b"\1" + varint(102) + zlib.compress(varint(100) + bytes(101), 9, wbits=-15))),
    "scale": file_of((4, b"\4" + doubles(1e-300))),
}


def test_files_that_violate_a_single_rule_are_refused(folder):
    for data, message in FORGED.values():
        with pytest.raises(distill.StudentFileError, match=message):
            load(data)
    files = [*(data for data, _ in FORGED.values()), *SOUND.values()]
    answers = dict(zip((*FORGED, *SOUND), javascript.answers(files, [2] * len(files), folder)))
    assert [name for name in FORGED if "refused" not in answers[name]] == []
    for name, data in SOUND.items():
        assert javascript.compare(data, 2, answers[name]).startswith("accepted"), name


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


@pytest.mark.slow
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
    ones, opposite = np.full((5, 2), 3e38, np.float32), np.array([[1], [-1]], np.float32)
    zeros = tuple(np.zeros(size, np.float32) for size in (2, 1, 1))
    overflowing = Network((ones, opposite, np.ones((1, 1), np.float32)), zeros)
    files = {"labels": network, "wide": make_network((5, 2), fill=True), "plain": plain, "overflowing": overflowing}
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
    # A version in development, 1.2.0.dev0, is no version of npm
    assert description["version"] == distill.__version__.split(".dev")[0]
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
