"""The student file: round trips, golden files, hostile bytes, atomic writes."""

import math
import os
import runpy
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import fuzz_student_file
import independent_reader
import numpy as np
import pytest
from some_students import make_network

import distill
from distill.codecs import container, dense, entropy
from distill.codecs.container import StudentFileError
from distill.runtime import Student, load


def labelled(sizes=(6, 5, 4, 3), **more):
    return make_network(sizes, target="predict", output="softmax", classes=np.arange(sizes[-1]), **more)


def with_checksum(data):
    return bytes(data) + zlib.crc32(data).to_bytes(4, "little")


def assert_equal_networks(actual, expected):
    for name in ("activation", "target", "output", "squeeze", "feature_names"):
        assert getattr(actual, name) == getattr(expected, name)
    for name in ("weights", "biases"):
        for one, other in zip(getattr(actual, name), getattr(expected, name)):
            assert one.dtype == np.float32
            np.testing.assert_array_equal(one, other)
    for name in ("offset", "scale", "classes"):
        one, other = getattr(actual, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if other is not None:
            np.testing.assert_array_equal(one, other)
            assert np.shape(one) == np.shape(other)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"target": "predict_proba", "output": "softmax", "classes": np.array(["a", "b", "c"])},
        {"target": "predict", "output": "logistic", "classes": np.arange(-1, 2)},
        {"target": "decision_function", "classes": np.array([1, 5, 2])},
        {"offset": np.float32(3)},
        {"scale": np.arange(1, 7, dtype=np.float32)},
        {"offset": np.arange(6, dtype=np.float32), "scale": np.float32(0.5), "feature_names": tuple("abcdef")},
    ],
    ids=lambda more: "-".join(more) or "plain",
)
def test_network_round_trips(activation, more):
    network = make_network((6, 5, 4, 3), activation=activation, **more)
    data = container.encode(network)
    assert_equal_networks(container.decode(data).network, network)
    assert container.encode(container.decode(data).network) == data


def test_float16_rounds_weights_and_halves_the_file():
    network = labelled((64, 32, 10))
    data = container.encode(network, "float16")
    rounded = replace(
        network,
        weights=tuple(weight.astype(np.float16).astype(np.float32) for weight in network.weights),
        biases=tuple(bias.astype(np.float16).astype(np.float32) for bias in network.biases),
    )
    assert_equal_networks(container.decode(data).network, rounded)
    assert len(container.encode(network)) - len(data) == 2 * network.n_parameters


@pytest.mark.parametrize("codec", ["float32", "float16"])
def test_overhead_is_at_most_64_bytes(codec):
    """A three-layer student with integer labels, which are included."""
    network = labelled((784, 256, 64, 10), offset=np.float32(33.3), scale=np.float32(0.0127))
    data = container.encode(network, codec)
    size = {"float32": 4, "float16": 2}[codec]
    assert len(data) - size * network.n_parameters <= 64
    bare = labelled((784, 256, 64, 10))
    assert len(container.encode(bare, codec)) - size * bare.n_parameters <= 40


def test_report_is_exact_to_the_byte(tmp_path):
    network = labelled((30, 20, 10), feature_names=tuple(f"feature {i}" for i in range(30)), scale=np.float32(2))
    data = container.encode(network)
    container.save(data, tmp_path / "a.student")
    report = container.report(data)
    assert report["n_bytes"] == len(data) == os.path.getsize(tmp_path / "a.student") == sum(report["bytes"].values())
    assert report["bytes"]["weights"] == 4 * (30 * 20 + 20 * 10)
    assert report["bytes"]["biases"] == 4 * (20 + 10)
    assert report["bytes"]["checksum"] == 4
    assert report["n_parameters"] == 30 * 20 + 20 * 10 + 30
    assert report["bits_per_weight"] == 8 * len(data) / report["n_parameters"]
    assert report["ratio"] == 4 * report["n_parameters"] / len(data)
    assert report["layer_sizes"] == (30, 20, 10)
    assert report["codecs"] == ("float32", "float32")
    assert load(data).report == report


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": np.arange(2)}, "2 classes, and the outputs need 3"),
        ({"output": "softmax", "target": "predict"}, "needs classes"),
        ({"output": "relu", "classes": np.arange(3)}, "'relu' is for values"),
        ({"output": "relu", "output_offset": np.float64(1)}, "neither an offset nor a scale"),
        ({"output_scale": np.array([1.0, 0.0, 1.0])}, "scale of the outputs is not positive"),
        ({"output_offset": np.float64(np.inf)}, "NaN or infinite"),
        ({"clip": 0.0}, "clipped at 0.0"),
        ({"clip": np.nan}, "clipped at nan"),
        ({"target": "predict_proba"}, "needs output 'softmax' or 'logistic'"),
        ({"squeeze": True}, "3 outputs cannot predict one vector"),
        ({"feature_names": ("a",)}, "too few for 6 names"),
        ({"offset": np.float32(np.nan)}, "NaN or infinite"),
        ({"classes": np.array([1, "a", None], object)}, "all integers, all strings"),
    ],
)
def test_inconsistent_network_raises(more, message):
    with pytest.raises(ValueError, match=message):
        container.encode(make_network((6, 5, 4, 3), **more))


def test_weights_out_of_range_of_the_dtype_raise():
    network = make_network((6, 5, 4, 3))
    network.weights[1][0, 0] = 1e6
    with pytest.raises(ValueError, match="too large for float16; use another codec"):
        container.encode(network, "float16")
    network.weights[1][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        container.encode(network)
    with pytest.raises(ValueError, match=r"codec must be one of \['float16', 'float32'\], got 'int8'"):
        container.encode(make_network((6, 5, 4, 3)), "int8")


def test_sections_must_cover_the_layers():
    network = make_network((6, 5, 4, 3))
    sections = [dense.encode(weight, bias) for weight, bias in zip(network.weights, network.biases)]
    with pytest.raises(StudentFileError, match="weights for 2 of 3 layers"):
        container.pack(network, sections[:2])
    with pytest.raises(StudentFileError, match="after the last of 3 layers"):
        container.pack(network, [*sections, sections[0]])
    with pytest.raises(StudentFileError, match="kind 99, which this version of distill cannot read"):
        container.pack(network, [*sections[:2], container.Section(99, b"")])


def test_reader_written_from_the_documentation_agrees():
    """`independent_reader` was written from docs/format.md and shares nothing with the package."""
    random = np.random.default_rng(0)
    for name, data in sorted(fuzz_student_file.seeds().items()):
        student, network = load(data), independent_reader.read(data)
        rows = random.normal(size=(4, student.n_features_in_))
        sums = np.array([independent_reader.sums(network, row) for row in rows.tolist()])
        np.testing.assert_allclose(
            student.raw_outputs(rows), sums, rtol=1e-4, atol=1e-4 * np.abs(sums).max(), err_msg=name
        )
        assert network["target"] == student.network.target
        assert network["names"] == (
            None if student.network.feature_names is None else list(student.network.feature_names)
        )
        if student.network.classes is not None:
            assert network["classes"] == student.classes_.tolist()


@pytest.mark.parametrize("count", [0, 5000, 220_000])
def test_entropy_decoder_written_from_the_documentation_agrees(count):
    symbols = np.random.default_rng(0).integers(2, 10, count)
    data = entropy.encode(symbols, 12)
    assert (entropy.choose_n_lanes(count, len(data)) > 1) == (count > 100_000)
    assert independent_reader.read_symbols(independent_reader.Bytes(data), count, 12) == symbols.tolist()


def test_every_flipped_bit_raises():
    data = container.encode(labelled())
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(StudentFileError):
                load(damaged)


def test_every_truncation_and_extension_raises():
    data = container.encode(labelled(feature_names=tuple("abcdef")))
    for size in range(len(data)):
        with pytest.raises(StudentFileError):
            load(data[:size])
        if size != len(data) - 4:
            with pytest.raises(StudentFileError):
                load(with_checksum(data[:size]))
    for more in (b"\0", b"\n", data):
        with pytest.raises(StudentFileError, match="damaged"):
            load(data + more)
        with pytest.raises(StudentFileError):
            load(with_checksum(data[:-4] + more))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with"),
        (b"MBN", "does not begin with"),
        (b"\x93NUMPY\1\0", "does not begin with"),
        (b"MBNS\2rest", "format version 2, this version of distill reads 1"),
        (b"MBNS\1", "damaged or cut"),
        (with_checksum(b"MBNS\1\4\1\2\2"), "activation number 4, which this version of distill cannot read"),
        (with_checksum(b"MBNS\1\0\0\2"), "empty network"),
        (with_checksum(b"MBNS\1\0\1\2\0"), "empty network"),
        (with_checksum(b"MBNS\1\0\xff\xff\3\2\2"), "larger than 255"),
        (with_checksum(b"MBNS\1\0\1\xff\xff\xff\xff\x0f\xff\xff\xff\xff\x0f"), "too many for"),
        (with_checksum(b"MBNS\1\0\1\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\2"), "larger than"),
        (with_checksum(b"MBNS\1\0\1\x82\0\2"), "useless zeros"),
        (with_checksum(b"MBNS\1\0\1\1\1\x10\x08" + struct.pack("<2f", math.nan, 0)), "NaN or infinite"),
        (with_checksum(b"MBNS\1\0\1\1\1\x10\x09" + bytes(9)), "goes on for 1 bytes"),
        (with_checksum(b"MBNS\1\0\1\1\1\x10\x07" + bytes(7)), "ends too early"),
        (with_checksum(b"MBNS\1\0\1\1\1\x10\xff\xff\xff\xff\x0f"), "ends too early"),
        (with_checksum(b"MBNS\1\0\1\1\1\3\1\0\x10\x08" + bytes(8)), "impossible flags"),
        (with_checksum(b"MBNS\1\0\1\1\1\3\1\x20\x10\x08" + bytes(8)), "impossible flags 32"),
        (with_checksum(b"MBNS\1\0\1\1\1\3\1\x10\x10\x08" + bytes(8)), "impossible flags 16"),
        (with_checksum(b"MBNS\1\0\1\1\1\3\2\x90\1\x10\x08" + bytes(8)), "impossible flags 144"),
        (with_checksum(b"MBNS\1\0\1\1\1\4\1\x10\x10\x08" + bytes(8)), "impossible flags 16"),
        (with_checksum(b"MBNS\1\0\1\1\1\x10\x08" + bytes(8) + b"\3\5\1\0\0\0\0"), "comes after section 16"),
    ],
)
def test_invalid_files_raise(data, message):
    with pytest.raises(StudentFileError, match=message):
        load(data)


@pytest.mark.slow
def test_twenty_thousand_hostile_files_do_no_harm():
    """Longer: ``python tests/helpers/fuzz_student_file.py --cases 1000000``."""
    outcome = fuzz_student_file.run(n_cases=20_000, seed=0)
    assert outcome["cases"] == 20_000
    # The parsers behind the checksum were reached, and some damaged files are valid
    assert outcome["refused with a right checksum"] > 5_000
    assert outcome["accepted"] > 500


def test_save_replaces_the_file(tmp_path):
    first, second = container.encode(labelled()), container.encode(labelled(seed=1))
    path = tmp_path / "a.student"
    container.save(first, path)
    container.save(second, str(path))
    assert path.read_bytes() == second
    assert os.listdir(tmp_path) == ["a.student"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.student"
    container.save(b"old", path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        container.save(b"new", path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.student"]
    with pytest.raises(FileNotFoundError):
        container.save(b"new", tmp_path / "nowhere" / "a.student")


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_save_follows_symbolic_links(tmp_path):
    target, link = tmp_path / "target.student", tmp_path / "link.student"
    container.save(b"old", target)
    link.symlink_to(target)
    container.save(b"new", link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


WRITER = """
import sys
from distill.codecs import container
old, new, path = open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read(), sys.argv[3]
print("ready", flush=True)
while True:
    container.save(new, path)
    container.save(old, path)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_writer_leaves_the_old_or_the_new_file(tmp_path):
    networks = labelled((64, 200, 10)), labelled((64, 300, 10), seed=1)
    whole = [container.encode(network) for network in networks]
    for name, data in zip(("one", "other", "a.student"), (*whole, whole[0])):
        (tmp_path / name).write_bytes(data)
    random = np.random.default_rng(0)
    seen = set()
    for n_kills in range(200):
        if n_kills >= 12 and seen == {0, 1}:  # on a busy machine more kills are needed to see both
            break
        command = [sys.executable, "-c", WRITER, *(str(tmp_path / name) for name in ("one", "other", "a.student"))]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout.readline() == b"ready\n"
            deadline = time.perf_counter() + random.uniform(0, 0.02)
            while time.perf_counter() < deadline:
                data = (tmp_path / "a.student").read_bytes()
                assert data in whole
            writer.send_signal(signal.SIGKILL)
        data = (tmp_path / "a.student").read_bytes()
        assert data in whole
        seen.add(whole.index(data))
        load(tmp_path / "a.student")
        leftover = [name for name in os.listdir(tmp_path) if name not in ("one", "other", "a.student")]
        assert all(name.startswith(".a.student.") and name.endswith(".part") for name in leftover)
    assert seen == {0, 1}


def test_load_accepts_paths_and_bytes(tmp_path):
    data = container.encode(labelled())
    container.save(data, tmp_path / "a.student")
    rows = np.random.default_rng(0).normal(size=(20, 6))
    expected = Student.from_bytes(data).predict(rows)
    for source in (data, bytearray(data), memoryview(data), tmp_path / "a.student", str(tmp_path / "a.student")):
        np.testing.assert_array_equal(distill.load(source).predict(rows), expected)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")  # of the short training
def test_deployment_example_runs(capfd):
    example = Path(distill.__file__).parents[1] / "examples" / "deploy.py"
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(example), run_name="__main__")
    assert ended.value.code == 0
    printed = capfd.readouterr().out
    assert "predicted 540 samples" in printed and "the same predictions as here: True" in printed


def test_signaling_nan_is_refused_without_a_warning():
    network = replace(make_network((3, 2)), offset=np.full(3, 0.5, np.float32), clip=2.0)
    data = container.encode(network)
    place = data.index(np.full(1, 0.5, "<f4").tobytes())
    body = data[:place] + bytes.fromhex("0100a07f") + data[place + 4 : -4]
    with pytest.raises(StudentFileError, match="input"):
        load(body + zlib.crc32(body).to_bytes(4, "little"))
