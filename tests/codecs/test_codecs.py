"""The parts shared by all codecs: bits, varints, labels, entropy coding, the counter-based generator."""

import hashlib

import numpy as np
import pytest
from scipy import special, stats

from distill.codecs import bits, entropy, generator, labels
from distill.codecs.reader import Reader, StudentFileError, varint


def described_bits(codes, width):
    """The definition, digit by digit: the first code in the lowest bits of one long number."""
    number = sum(int(code) << index * width for index, code in enumerate(codes))
    return number.to_bytes((len(codes) * width + 7) // 8, "little")


@pytest.mark.parametrize("width", range(1, 33))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_packed_bits_follow_their_definition_and_round_trip(width, count):
    codes = np.random.default_rng(width).integers(0, 1 << width, count, dtype=np.uint32)
    data = bits.pack(codes, width)
    assert data == described_bits(codes, width)
    assert len(data) == bits.packed_size(count, width)
    np.testing.assert_array_equal(bits.unpack(data, width, count), codes)


@pytest.mark.parametrize("width", [0, 1, 3, 12, 17, 32])
def test_packed_bits_round_trip_across_blocks(width):
    codes = np.random.default_rng(0).integers(0, 1 << width, 2 * (1 << 15) + 5)
    np.testing.assert_array_equal(bits.unpack(bits.pack(codes, width), width, len(codes)), codes)


def test_invalid_bits_raise():
    data = bits.pack([1, 2, 3], 3)
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(StudentFileError, match=r"3 codes of 3 bits are 2 bytes"):
            bits.unpack(wrong, 3, 3)
    with pytest.raises(StudentFileError, match="not zero"):
        bits.unpack(data[:-1] + bytes([data[-1] | 0x80]), 3, 3)
    with pytest.raises(ValueError, match=r"\[0, 8\) to fit 3 bits, got 0..8"):
        bits.pack([0, 8], 3)
    with pytest.raises(ValueError, match="width"):
        bits.pack([0], 33)
    with pytest.raises(ValueError, match="integers"):
        bits.pack([0.5], 3)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32 - 1, 2**64 - 1])
def test_varints_round_trip_and_are_canonical(value):
    data = varint(value)
    assert len(data) == max(1, -(-value.bit_length() // 7))
    assert Reader(data).varint("value", 2**64 - 1) == value
    with pytest.raises(StudentFileError, match=r"useless zeros|more than ten bytes"):
        Reader(data[:-1] + bytes([data[-1] | 0x80, 0])).varint("value", 2**64 - 1)
    with pytest.raises(StudentFileError, match="ends too early"):
        Reader(data[:-1]).varint("value", 2**64 - 1)
    if value:
        with pytest.raises(StudentFileError, match="larger than"):
            Reader(data).varint("value", value - 1)


@pytest.mark.parametrize(
    "classes",
    [
        np.arange(10),
        np.arange(-1, 7),
        np.array([5]),
        np.array([3, 1, -(2**63), 2**63 - 1]),
        np.array([2, 3], np.uint8),
        np.array(["a", "ß", "", "日本語"]),
        np.array(["setosa", "versicolor"], object),
        np.array([False, True]),
        np.array([0.5, -1e300, 2.0]),
    ],
    ids=repr,
)
def test_classes_round_trip(classes):
    reader = Reader(labels.encode_classes(classes))
    decoded = labels.decode_classes(reader, len(classes))
    reader.finish()
    assert decoded.tolist() == classes.tolist()
    assert decoded.dtype.kind == {"u": "i", "O": "U"}.get(classes.dtype.kind, classes.dtype.kind)


def test_one_long_label_does_not_pad_the_others():
    classes = np.array(["x" * 10_000, *map(str, range(500))], object)
    decoded = labels.decode_classes(Reader(labels.encode_classes(classes)), len(classes))
    assert decoded.dtype == object
    assert decoded.tolist() == classes.tolist()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.array([1, "a"], object), "all integers, all strings"),
        (np.array([2**64], object), "64 bits"),
        (np.zeros((2, 2)), "vector"),
        (np.array([]), "at least one"),
        (np.array(["\ud800"]), "UTF-8"),
    ],
)
def test_unsupported_classes_raise(classes, message):
    with pytest.raises(ValueError, match=message):
        labels.encode_classes(classes)


@pytest.mark.parametrize(
    "names",
    [("a",), ("x0", "x 1", "ß\n"), tuple(f"pixel{i}" for i in range(784)), ("",) * 3000, ("same",) * 5000],
    ids=len,
)
def test_names_round_trip(names):
    reader = Reader(labels.encode_names(names))
    assert labels.decode_names(reader, len(names)) == names
    reader.finish()


def test_compressed_names_with_wrong_size_raise():
    import zlib

    packer = zlib.compressobj(9, wbits=-15)
    bomb = packer.compress(bytes(10**7)) + packer.flush()
    with pytest.raises(StudentFileError, match="10000000 bytes of names"):
        labels.decode_names(Reader(b"\1" + varint(10**7) + bomb), 10**7)
    with pytest.raises(StudentFileError, match="not 5000 bytes long"):
        labels.decode_names(Reader(b"\1" + varint(5000) + bomb), 5000)


DISTRIBUTIONS = {
    "one symbol": [1.0],
    "one of three": [0, 1.0, 0],
    "coin": [0.5, 0.5],
    "skewed": [0.92, 0.05, 0.03],
    "rare": [0.9999, 0.0001],
    "sparse": [0.95, 0.02, 0, 0, 0, 0.03] + [0] * 20,
    "zipf": 1 / np.arange(1.0, 65.0) ** 1.2,
    "uniform": np.ones(256),
    "many": np.ones(4096),
}


def draw(distribution, count, seed=0):
    weights = np.asarray(DISTRIBUTIONS[distribution], float)
    return np.random.default_rng(seed).choice(len(weights), count, p=weights / weights.sum()), len(weights)


def entropy_in_bytes(symbols):
    counts = np.bincount(symbols)
    return len(symbols) * stats.entropy(counts, base=2) / 8 if len(symbols) else 0.0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [0, 1, 2, 100, 4095, 4097, 300_000])
def test_symbols_round_trip(distribution, count):
    symbols, n_symbols = draw(distribution, count)
    reader = Reader(entropy.encode(symbols, n_symbols))
    np.testing.assert_array_equal(entropy.decode(reader, count, n_symbols), symbols)
    reader.finish()


@pytest.mark.parametrize("distribution", [name for name in DISTRIBUTIONS if name != "many"])
@pytest.mark.parametrize("count", [1, 100, 10_000, 266_000])
def test_coded_symbols_are_within_half_a_percent_of_their_entropy(distribution, count):
    symbols, n_symbols = draw(distribution, count)
    frequencies = entropy.quantize(np.bincount(symbols, minlength=n_symbols), 14)
    assert len(entropy.encode_symbols(symbols, frequencies)) <= 1.005 * entropy_in_bytes(symbols) + 16


def test_stored_frequencies_of_a_small_alphabet_are_cheap():
    for distribution, count in (("coin", 5000), ("skewed", 5000), ("sparse", 266_000)):
        symbols, n_symbols = draw(distribution, count)
        assert len(entropy.encode(symbols, n_symbols)) <= 1.005 * entropy_in_bytes(symbols) + 16


@pytest.mark.parametrize("count", [1, 500, 300_000])
def test_each_context_has_its_own_frequencies(count):
    generator_of_contexts = np.random.default_rng(1)
    contexts = generator_of_contexts.integers(0, 2, count)
    symbols = np.where(contexts == 0, draw("skewed", count)[0], 2 - draw("skewed", count, 1)[0])
    table = np.array([[3768, 205, 123], [123, 205, 3768]])
    data = entropy.encode_symbols(symbols, table, contexts)
    reader = Reader(data)
    np.testing.assert_array_equal(entropy.decode_symbols(reader, count, table, contexts), symbols)
    reader.finish()
    bits_needed = -np.log2(table[contexts, symbols] / 4096).sum()
    assert len(data) <= 1.005 * bits_needed / 8 + 16


@pytest.mark.parametrize("precision", [6, 10, 16])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_quantized_frequencies_sum_to_a_power_of_two_and_are_close(distribution, precision):
    symbols, n_symbols = draw(distribution, 20_000)
    counts = np.bincount(symbols, minlength=n_symbols)
    if np.count_nonzero(counts) > 1 << precision:
        with pytest.raises(ValueError, match="do not fit"):
            entropy.quantize(counts, precision)
        return
    frequencies = entropy.quantize(counts, precision)
    assert frequencies.sum() == 1 << precision
    assert ((frequencies > 0) >= (counts > 0)).all()
    if precision == 16 and n_symbols <= 256:
        assert stats.entropy(counts, frequencies, base=2) < 1e-4


@pytest.mark.parametrize("count", [2000, 300_000])
def test_damaged_symbols_raise_or_stay_in_the_alphabet(count):
    """The container's checksum finds damage; a forged message gives other symbols of the alphabet, or an error."""
    symbols, n_symbols = draw("zipf", count)
    data = entropy.encode(symbols, n_symbols)
    chance = np.random.default_rng(3)
    n_refused = 0
    for _ in range(30):
        damaged = bytearray(data)
        damaged[chance.integers(len(data))] ^= 1 << chance.integers(8)
        reader = Reader(damaged)
        try:
            decoded = entropy.decode(reader, count, n_symbols)
            reader.finish()
            assert decoded.max() < n_symbols
        except StudentFileError:
            n_refused += 1
    assert n_refused > 20
    for cut in (data[:-1], data[:-2], data[: len(data) // 2], b""):
        with pytest.raises(StudentFileError, match="ends too early"):
            entropy.decode(Reader(cut), count, n_symbols)
    with pytest.raises(StudentFileError, match="damaged"):
        entropy.decode(Reader(data), count - 1, n_symbols)


def test_invalid_symbols_raise():
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        entropy.encode([0, 2], 2)
    with pytest.raises(ValueError, match="frequency is zero"):
        entropy.encode_symbols([0, 1], [4, 0])
    with pytest.raises(ValueError, match="power of two"):
        entropy.encode_symbols([0, 1], [2, 1])
    with pytest.raises(ValueError, match=r"1\.\.4096"):
        entropy.encode([0], 5000)


def test_words_are_those_of_splitmix64():
    # The first outputs of the reference implementation for the seed 1234567, as other libraries test them too
    known = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    positions = np.arange(1, 6, dtype=np.uint64)
    assert generator.mix(np.uint64(1234567) + positions * generator.GOLDEN_GAMMA).tolist() == known


def test_words_follow_their_definition():
    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    golden = 0x9E3779B97F4A7C15
    for keys in ((0,), (2**64 - 1, 3), (1, 2, 3, 4)):
        state = 0
        for key in keys:
            state = mix((state + (key + 1) * golden) % 2**64)
        expected = [mix((state + (position + 1) * golden) % 2**64) for position in range(6)]
        assert generator.words(keys, 6).tolist() == expected
        assert generator.words(keys, 2, start=4).tolist() == expected[4:]


def test_random_access_equals_sequential_access():
    candidates = np.arange(100)
    every = generator.normals(9, 4, candidates, 11)
    assert every.shape == (100, 11)
    for candidate in (0, 17, 99):
        np.testing.assert_array_equal(generator.normals(9, 4, candidate, 11), every[candidate])
    np.testing.assert_array_equal(generator.normals(9, 4, candidates[30:60], 11), every[30:60])
    np.testing.assert_array_equal(generator.normals(9, 4, candidates, 7), every[:, :7])
    blocks, indices = np.arange(5), np.array([3, 1, 4, 1, 5])
    together = generator.normals(9, blocks, indices, 6)
    for block, index, row in zip(blocks, indices, together):
        np.testing.assert_array_equal(generator.normals(9, block, index, 6), row)


def test_generator_known_answers():
    """What version 1 of the student file drew, it must always draw."""
    drawn = generator.normals(2024, np.arange(16), 7, 100)
    assert hashlib.sha256(drawn.astype("<f4").tobytes()).hexdigest() == KNOWN["normals"]
    table = generator.normal_table()
    assert hashlib.sha256(table.astype("<f4").tobytes()).hexdigest() == KNOWN["table"]
    order = generator.permutation(5, 2, 1000)
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == KNOWN["permutation"]
    drawn = generator.integers(5, 2, 77, 1000)
    assert hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest() == KNOWN["integers"]


KNOWN = {
    "normals": "c12abe1ca90310798b48562995def6c3e6e208de98874a4cbcb59292e2e71514",
    "table": "1cfbba1e07e34386a57626f82aeb43e6ed54ba70a3ea6b7d964dc66a841074a8",
    "permutation": "4f4eadbca5e6d2c8ee7d35e3a131295a546aab1d390d49af4529c6b2dd0b821a",
    "integers": "fde60c496da192057d3520a8f5eba5288ae45704b1d45863f61018c793216e10",
}


def test_table_holds_the_quantiles_of_the_normal_distribution():
    table = generator.normal_table()
    middles = (np.arange(65536) + 0.5) / 65536
    np.testing.assert_array_equal(table, special.ndtri(middles).astype(np.float32))
    np.testing.assert_array_equal(table, -table[::-1])
    assert not table.flags.writeable


def test_drawn_numbers_are_normal_and_independent():
    drawn = generator.normals(0, np.arange(50)[:, None], np.arange(40), 100).astype(float)
    flat = drawn.ravel()
    assert stats.kstest(flat, "norm").pvalue > 0.01
    assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
    assert abs(flat.var() - 1) < 4 * np.sqrt(2 / flat.size)
    for axis in range(3):
        neighbors = np.corrcoef(np.delete(drawn, 0, axis).ravel(), np.delete(drawn, -1, axis).ravel())[0, 1]
        assert abs(neighbors) < 4 / np.sqrt(flat.size)
    assert stats.kstest(generator.normals(1, 0, 0, 100_000), "norm").pvalue > 0.01


def test_permutations_and_integers_are_uniform():
    orders = np.array([generator.permutation(0, stream, 5) for stream in range(2000)])
    assert (np.sort(orders, axis=1) == np.arange(5)).all()
    for place in orders.T:
        assert stats.chisquare(np.bincount(place)).pvalue > 1e-3
    drawn = generator.integers(3, 0, 7, 70_000)
    assert stats.chisquare(np.bincount(drawn, minlength=7)).pvalue > 1e-3
    with pytest.raises(ValueError, match="upper"):
        generator.integers(0, 0, 0, 5)


def test_every_codec_is_registered_under_its_own_number():
    from distill.codecs import codebook, container, dense, grid, random_code, sparse

    numbers = {dense.FLOAT32, dense.FLOAT16, codebook.CODEBOOK, random_code.RANDOM_CODE, grid.GRID, sparse.SPARSE}
    assert numbers | {random_code.SMALL_RANDOM_CODE} == set(container.CODECS)
    for module, constant in ((codebook, "CODEBOOK"), (random_code, "RANDOM_CODE"), (grid, "GRID"), (sparse, "SPARSE")):
        assert module.__name__ == f"distill.codecs.{container.CODECS[getattr(module, constant)].module}"
