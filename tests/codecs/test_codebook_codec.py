"""The codebook codec: round trips, sizes in bytes, damaged payloads."""

from dataclasses import replace

import numpy as np
import pytest

from distill.codecs import bits, container
from distill.codecs.codebook import CODEBOOK, CodebookLayer, decode_layer, encode, round_to_half
from distill.codecs.reader import Reader, StudentFileError
from distill.codecs.sections import Section
from distill.network import Network


def make_layer(n_inputs=30, n_outputs=12, n_codewords=4, n_groups=3, separate=False, sort=True, skewed=False, unused=0):
    rng = np.random.default_rng(n_inputs * n_outputs + n_codewords)
    groups = rng.permutation(np.r_[np.arange(n_groups), rng.integers(0, n_groups, n_outputs - n_groups)])
    used = np.ones(n_inputs, bool)
    used[:unused] = False
    frequencies = np.full(n_codewords, 1 / n_codewords)
    if skewed:
        frequencies = np.geomspace(1, 1e-3, n_codewords)
        frequencies /= frequencies.sum()
    return CodebookLayer(
        rng.choice(n_codewords, size=(used.sum(), n_outputs), p=frequencies).astype(np.uint8),
        round_to_half(rng.normal(size=(n_groups if separate else 1, n_codewords))),
        None if separate else round_to_half(rng.uniform(0.5, 2, n_groups)),
        np.sort(groups) if sort else groups,
        round_to_half(rng.normal(size=n_outputs)),
        used,
    )


def read(payload, layer):
    reader = Reader(payload, "the layer")
    decoded = decode_layer(reader, len(layer.used), len(layer.groups))
    reader.finish()
    return decoded, reader.parts


def assert_equal(layer, other):
    for name in ("codes", "codebooks", "scales", "groups", "bias", "used"):
        np.testing.assert_array_equal(getattr(layer, name), getattr(other, name), err_msg=name)
    np.testing.assert_array_equal(layer.weight, other.weight)


LAYERS = {
    "plain": make_layer(),
    "separate codebooks": make_layer(separate=True),
    "one group": make_layer(n_groups=1, separate=True),
    "groups in any order": make_layer(sort=False),
    "one codeword": make_layer(n_codewords=1),
    "not a power of two": make_layer(n_codewords=3),
    "256 codewords": make_layer(n_codewords=256, n_inputs=100),
    "skewed": make_layer(120, 50, skewed=True),
    "one weight": make_layer(1, 1, n_codewords=1, n_groups=1),
    "first inputs unused": make_layer(400, unused=300),
    "some inputs unused": replace(
        make_layer(9, unused=4), used=np.array([True, False, True, False, True, False, True, False, True])
    ),
}


@pytest.mark.parametrize("entropy_coding", ["auto", "off"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_round_trip(layer, entropy_coding):
    section = encode(layer, entropy_coding)
    decoded, parts = read(section.payload, layer)
    assert_equal(layer, decoded)
    assert sum(parts.values()) == len(section.payload)
    assert section.codec == CODEBOOK


@pytest.mark.parametrize("width", range(1, 9))
def test_packed_codes_take_their_bits_and_one_byte(width):
    layer = make_layer(31, 13, n_codewords=2**width, n_groups=1)
    parts = read(encode(layer, "off").payload, layer)[1]
    assert parts["codes"] == 1 + -(-31 * 13 * width // 8)
    assert parts["codebooks"] == 1 + 2 * 2**width
    assert parts["biases"] == 1 + 2 * 13
    assert parts["scales"] == 1 + 2


def test_sorted_groups_cost_their_sizes_only():
    layer = make_layer(n_groups=3)
    assert read(encode(layer).payload, layer)[1]["groups"] == 2


def test_entropy_coding_is_used_where_it_is_shorter():
    skewed, flat = make_layer(120, 50, skewed=True), make_layer(120, 50)
    frequencies = np.bincount(skewed.codes.ravel()) / skewed.codes.size
    ideal = -frequencies @ np.log2(frequencies) * skewed.codes.size / 8
    assert ideal <= read(encode(skewed).payload, skewed)[1]["codes"] <= ideal + 24
    assert len(encode(flat).payload) <= len(encode(flat, "off").payload)


def test_contexts_shorten_codes_whose_rows_and_columns_differ():
    rng = np.random.default_rng(0)
    rate = np.outer(np.r_[np.full(200, 0.02), np.full(100, 0.7)], np.r_[np.full(50, 1.0), np.full(50, 0.2)])
    codes = (rng.random((300, 100)) < rate).astype(np.uint8)
    layer = replace(make_layer(300, 100, 2), codes=codes)
    size = read(encode(layer).payload, layer)[1]["codes"]
    ideal = -np.sum(codes * np.log2(rate) + (1 - codes) * np.log2(1 - rate)) / 8
    assert ideal < size < 1.04 * ideal + 150


def test_values_that_are_not_rounded():
    with pytest.raises(ValueError, match="rounded before they are written"):
        encode(replace(make_layer(), bias=np.full(12, 1.00001, np.float32)))


@pytest.mark.parametrize("magnitude", [1e-36, 1e-20, 1e20, 1e36])
def test_weights_of_any_size(magnitude):
    layer = make_layer(separate=True)
    layer = replace(
        layer, codebooks=round_to_half(layer.codebooks * magnitude), bias=round_to_half(layer.bias * magnitude)
    )
    assert_equal(layer, read(encode(layer).payload, layer)[0])


def student_file(layer):
    network = Network((layer.weight,), (layer.bias,))
    return network, container.pack(network, [encode(layer)])


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_file_holds_the_layer_and_reports_its_parts(layer):
    _, data = student_file(layer)
    contents = container.decode(data)
    np.testing.assert_array_equal(contents.network.weights[0], layer.weight)
    np.testing.assert_array_equal(contents.network.biases[0], layer.bias)
    assert contents.codecs == ("codebook",)
    assert sum(contents.parts.values()) == len(data)
    assert {"codes", "codebooks", "biases"} <= set(contents.parts)


@pytest.mark.parametrize("name", LAYERS)
def test_damaged_payloads_are_decoded_or_raise(name):
    """A payload with a valid checksum is decoded, or raises StudentFileError and no other exception."""
    layer = LAYERS[name]
    payload = encode(layer).payload
    network, _ = student_file(layer)
    rng = np.random.default_rng(0)
    n_errors = 0
    for trial in range(300):
        damaged = bytearray(payload)
        place = int(rng.integers(min(len(damaged), 64) if trial % 2 else len(damaged)))
        kind = trial % 3
        if kind == 0:
            damaged[place] = rng.integers(256)
        elif kind == 1:
            del damaged[place:]
        else:
            damaged += rng.bytes(1 + place % 5)
        try:
            container.pack(network, [Section(CODEBOOK, bytes(damaged))])
        except StudentFileError:
            n_errors += 1
    assert n_errors >= 200


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x10", "impossible flags"),
        (b"\x08", "impossible flags"),
        (b"\x00\x00\x00", "no groups"),
        (b"\x00\x00\x0d", "larger than 12"),
        (b"\x00\x00\x03\x0c\x0c", "groups of 24 neurons"),
        (b"\x02\x00\x03" + bits.pack([3] * 12, 2), "names group 3 of 3"),
        (b"\x00\x00\x01\x00\x00\x7c", "codebooks are NaN or infinite"),
        (b"\x00\x00\x01\x7f\xff\x7b", "codebooks are too large"),
        (b"\x00\x00\x01\x00\x00\x00" + bytes(25) + b"\x07", "form 7"),
        (b"\x00\x02\x01\x00" + bytes(6) + bytes(25) + b"\x00" + b"\xff" * 90, "has code 3, and 3 codewords"),
        (b"\x00\x02\x01\x00" + bytes(6) + bytes(25) + b"\x02\x00\x01", r"codes in \(0, 1\) classes"),
    ],
)
def test_messages_of_damaged_payloads(payload, message):
    with pytest.raises(StudentFileError, match=message):
        decode_layer(Reader(payload, "the layer"), 30, 12)
