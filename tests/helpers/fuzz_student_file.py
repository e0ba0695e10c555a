"""Feed mutilated student files to the reader.

Every case is a file that was cut, extended, spliced or changed at random, most with a right checksum so that the
damage reaches the parsers. It must be refused with a StudentFileError, or be a file that predicts without an
exception (a table may refuse cells, with a ValueError about X); a wrong checksum must be refused. Nothing may
allocate more than four times the file and the weights that it declares and can hold, or 2^14 bytes for each byte of
a file with a table. Files with tables are cases of their own, for readers of files without them.

    python tests/helpers/fuzz_student_file.py --cases 1000000 --seed 1
"""

import argparse
import time
import tracemalloc
import zlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from some_students import make_network

from distill.codecs import codebook, container, grid, preprocessing, random_code, sparse
from distill.codecs.container import StudentFileError
from distill.codecs.reader import Reader, varint
from distill.compressors.matrix_gaussian.rounding import round_independently
from distill.runtime import Student, load

_GOLDEN = Path(__file__).parent.parent / "golden"
# Interpreter objects and tables of a codec, whatever the file
_ALLOWANCE = 1 << 20
# Bytes for each byte of a file with a table, whose content may be deflated and becomes objects of Python
_ALLOWANCE_OF_TABLES = 1 << 14
# Cells of the rows that a table is tried with
_CELLS = (1, "the blue fox", 0.5, None, "red", float("nan"), True, "", 7)


def seeds() -> dict[str, bytes]:
    """Return sound files to start from, with sections of every kind: the golden ones and some made here.

    Golden files of a grid alone are left out: decoding one takes up to 54 bytes a weight, more than the bound that is
    checked here allows once a mutated header declares 30 000 weights or more.
    """
    files = {path.stem: path.read_bytes() for path in sorted(_GOLDEN.glob("*.student")) if path.stem[:5] != "grid-"}
    random = np.random.default_rng(0)
    sizes = (24, 10, 4)
    shapes = tuple(pairwise(sizes))
    network = make_network(sizes, target="predict", output="softmax", classes=np.arange(4))
    for name, factors, extents, small in (
        ("plain", (1, 1), (), False),
        ("shared", (3, 2), (), False),
        ("waves", (2, 1), (4, 6), False),
        ("small", (1, 1), (4, 6), True),
    ):
        layout = random_code.Layout(shapes, factors, 8, 9, 5, extents, 10 if extents else 0, small)
        section = random_code.encode(layout, random.integers(0, 256, 9), np.full((2, 2), 0.5, np.float16))
        files[f"random-code-{name}"] = container.pack(network, [section])
    for dtype in ("float16", "float32"):
        layers = []
        for weight, bias in zip(network.weights, network.biases):
            kept = weight * (random.random(weight.shape) < 0.4)
            kept[::5] = 0
            layers.append(sparse.encode(kept, bias, dtype))
        files[f"sparse-{dtype}"] = container.pack(network, layers)
    for rate_weight in (1e-3, 1.0):
        layers = []
        for weight, bias in zip(network.weights, network.biases):
            means = np.vstack([weight, bias]) * (random.random((len(weight) + 1, 1)) < 0.7)
            rows, columns = np.exp(random.normal(-3, 1, len(means))), np.exp(random.normal(size=len(bias)))
            noise = np.ones(len(bias)) if len(bias) == sizes[-1] else None
            layer = round_independently(means, rows, columns, rate_weight, noise)
            tails = None if noise is None else np.full(len(bias), 4, np.float32)
            layers.append(grid.encode(replace(layer, degrees_of_freedom=tails)))
        files[f"grid-{rate_weight:g}"] = container.pack(network, layers)
    steps = [
        preprocessing.Step("subtract", random.normal(size=9)),
        preprocessing.Step("divide", np.full(9, 2.0)),
        preprocessing.Step("product", random.normal(size=(9, 24)).astype(np.float32)),
        preprocessing.Step("add", random.normal(size=24).astype(np.float32)),
        preprocessing.Step("clip", np.array([-3.0, 3.0])),
    ]
    plain = container.encode(make_network((24, 3)), "float16")
    files["steps"] = container.with_steps(plain, 9, steps, [f"feature {index}" for index in range(9)])
    files["scaler"] = container.with_steps(plain, 24, [preprocessing.Step("multiply", np.full(24, 0.25))], None)
    moments = [
        preprocessing.MomentsStep((4, 6, 1), blur=0.5),
        preprocessing.MomentsStep((2, 4, 3), centre=False, scale=True),
        preprocessing.MomentsStep((24, 1, 1), deskew=False),
    ]
    files["moments"] = container.with_steps(plain, 24, moments, None)
    large = make_network((120, 80, 4))
    layers = []
    for weight, bias in zip(large.weights, large.biases):
        # Rows and columns of unlike distribution, so that contexts pay
        spread = np.linspace(0.1, 1, len(weight))[:, None] * np.linspace(0.1, 1, weight.shape[1])
        codes = np.clip(np.rint(random.normal(size=weight.shape) * 4 * spread), -4, 3).astype(int) + 4
        codebooks = np.linspace(-1, 1, 8, dtype=np.float32)[None]
        groups, used = np.zeros(weight.shape[1], np.intp), np.ones(len(weight), bool)
        levels, bias = codebook.round_to_half(codebooks), codebook.round_to_half(bias)
        layers.append(codebook.CodebookLayer(codes.astype(np.uint8), levels, None, groups, bias, used))
    files["codebook-contexts"] = container.pack(large, [codebook.encode(layer) for layer in layers])
    return files


def table_seeds() -> dict[str, bytes]:
    """Return sound files with tables, whose bytes are also there as they are before deflation.

    Changes of deflated bytes are mostly noticed at once.
    """
    files = {path.stem: path.read_bytes() for path in sorted((_GOLDEN / "tables").glob("*.student"))}
    return files | {f"{name}-plain": _with_plain_table(data) for name, data in files.items()}


def _with_plain_table(data: bytes) -> bytes:
    """Return a file whose table is not deflated."""
    header, [(kind, payload), *others] = container.split(data)
    assert kind == 5
    reader = Reader(payload)
    flags = reader.byte("flags")
    if flags & 1:
        reader.varint("length")
        payload = bytes([flags & 2]) + zlib.decompress(reader.take(reader.remaining, "deflated"), wbits=-15)
    sections = [(kind, payload), *others]
    written = header + b"".join(bytes([kind]) + varint(len(content)) + content for kind, content in sections)
    return written + zlib.crc32(written).to_bytes(4, "little")


def run(n_cases: int, seed: int, verbose: bool = False, tables: bool = False) -> Counter:
    """Try `n_cases` hostile files, with tables or without.

    Returns
    -------
    Counter
        How the cases ended.

    Raises
    ------
    AssertionError
        Naming the case that did harm; `case(seed, index)` makes it again.
    """
    outcome = Counter()
    slowest = 0.0
    tracing = tracemalloc.is_tracing()
    tracemalloc.start()
    try:
        for index in range(n_cases):
            data, checksum_is_right = case(seed, index, tables)
            start = time.perf_counter()
            try:
                outcome[_try(data, checksum_is_right)] += 1
            except Exception as error:
                raise AssertionError(f"case {index} of seed {seed} ({len(data)} bytes): {error!r}") from error
            slowest = max(slowest, time.perf_counter() - start)
            outcome["cases"] += 1
            if verbose and outcome["cases"] % 20_000 == 0:
                print(dict(outcome), f"slowest {slowest:.3f} s", flush=True)
    finally:
        if not tracing:
            tracemalloc.stop()
    return outcome


def case(seed: int, index: int, tables: bool = False) -> tuple[bytes, bool]:
    """Make a hostile file, with a table or without; return it and whether its checksum is right."""
    random = np.random.default_rng([seed, index])
    sound, cumulative = _SOUND_TABLES if tables else _SOUND
    data = bytearray(sound[cumulative.searchsorted(random.random(), side="right")])
    if random.random() < 0.02:
        data = bytearray(b"MBNS\1" + random.bytes(random.integers(0, 300)))
    for _ in range(_N_MUTATIONS[random.integers(len(_N_MUTATIONS))]):
        mutate = _MUTATIONS[random.integers(len(_MUTATIONS))]
        data = mutate(data, random, sound) if mutate is _splice else mutate(data, random)
    if random.random() < 0.85:
        return bytes(data) + zlib.crc32(data).to_bytes(4, "little"), True
    data += random.bytes(4)
    return bytes(data), zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")


def _try(data: bytes, checksum_is_right: bool) -> str:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        student = load(data)
    except StudentFileError:
        declared, first = _declared(data)
        least = _ALLOWANCE_OF_TABLES * len(data) if first == 5 else 0
        assert tracemalloc.get_traced_memory()[1] - before <= max(least, 4 * (len(data) + declared)) + _ALLOWANCE
        return "refused with a right checksum" if checksum_is_right else "refused"
    assert checksum_is_right, "a wrong checksum was accepted"
    peak = tracemalloc.get_traced_memory()[1] - before
    has_table = student.preprocessing is not None and student.preprocessing.table is not None
    least = _ALLOWANCE_OF_TABLES * len(data) if has_table else 0
    most = max(least, 4 * (len(data) + 4 * student.network.n_parameters)) + _ALLOWANCE
    assert peak <= most, f"{peak} bytes were allocated"
    assert sum(student.report["bytes"].values()) == len(data)
    if has_table:
        return _try_table(student)
    # Students with offsets in float64 warn of rows in float32
    rows = np.ones((3, student.n_features_in_), np.float64 if student.network.has_wide_inputs else np.float32)
    if student.preprocessing is not None or student.network.has_wide_inputs:
        try:
            student.raw_outputs(rows)
        except ValueError as error:  # divided by next to nothing, rows are too large for the network
            assert "X before the network has values" in str(error)
            return "accepted, rows too large"
    with np.errstate(all="ignore"):
        for method in ("predict", "predict_proba", "transform", "decision_function"):
            if hasattr(student, method):
                assert len(getattr(student, method)(rows)) == 3
        if all("row_variance" in extras for extras in student.extras):
            mean, variance = student.output_moments(rows)
            assert len(mean) == len(variance) == 3
    return "accepted"


def _try_table(student: Student) -> str:
    """Predict for rows of all kinds of cells, of which a table may refuse some with an error about X."""
    outcome, n_columns = "accepted, all cells refused", student.n_features_in_
    if n_columns > 1000:
        return "accepted, wide"
    for shift in range(len(_CELLS)):
        row = [_CELLS[(column + shift) % len(_CELLS)] for column in range(n_columns)]
        try:
            assert len(student.raw_outputs([row])) == 1
            outcome = "accepted"
        except ValueError as error:
            assert " of X" in str(error) or "X before the network has values" in str(error), error
    return outcome


def _declared(data: bytes) -> tuple[int, int]:
    """Return the bytes of the weights that a header declares, if a reader accepts that many, and the first section."""
    try:
        values, position = [], 6
        while len(values) < 2 or len(values) < values[0] + 2:
            value = shift = 0
            while True:
                value |= (data[position] & 127) << shift
                shift, position = shift + 7, position + 1
                if data[position - 1] < 128:
                    break
            values.append(value)
        first = data[position]
    except IndexError:
        return 0, -1
    n_parameters = sum((n_inputs + 1) * n_outputs for n_inputs, n_outputs in pairwise(values[1:]))
    return 4 * n_parameters if n_parameters <= min(4096 * len(data), 2**24 + 64 * len(data)) else 0, first


def _place(data: bytearray, random: np.random.Generator) -> int:
    # Half of the changes go where the header and the small sections are
    return int(random.integers(min(len(data), 64) if random.random() < 0.5 else len(data))) if data else 0


def _flip(data, random):
    if data:
        data[_place(data, random)] ^= 1 << random.integers(8)
    return data


def _set(data, random):
    if data:
        values = (0, 1, 2, 127, 128, 255, random.integers(256))
        data[_place(data, random)] = values[random.integers(len(values))]
    return data


def _cut(data, random):
    return data[: random.integers(len(data) + 1)]


def _extend(data, random):
    return data + random.bytes(random.integers(1, 40))


def _insert(data, random):
    place = _place(data, random)
    return data[:place] + random.bytes(random.integers(1, 5)) + data[place:]


def _delete(data, random):
    place = _place(data, random)
    return data[:place] + data[place + random.integers(1, 9) :]


def _huge(data, random):
    place, size = _place(data, random), random.integers(1, 10)
    return data[:place] + b"\xff" * size + b"\x01" + data[place + random.integers(0, size + 2) :]


def _repeat(data, random):
    place = _place(data, random)
    return data[:place] + data[place : place + random.integers(1, 60)] + data[place:]


def _splice(data, random, sound):
    other = sound[random.integers(len(sound))]
    return data[: _place(data, random)] + other[_place(other, random) :]


def _weighted(files: dict[str, bytes]) -> tuple[list[bytes], np.ndarray]:
    """Return files without their checksums, and cumulative probabilities."""
    sound = [data[:-4] for data in files.values()]
    # Short files are tried most: there, a change is likely to hit something that is read
    cumulative = np.cumsum([1 / (len(data) + 4) for data in sound])
    return sound, cumulative / cumulative[-1]


_SOUND, _SOUND_TABLES = _weighted(seeds()), _weighted(table_seeds())
_N_MUTATIONS = (1, 1, 1, 2, 3, 8)
_MUTATIONS = [_flip, _flip, _set, _set, _cut, _extend, _insert, _delete, _huge, _repeat, _splice]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for tables in (False, True):
        print(dict(run(options.cases // 2, options.seed, verbose=True, tables=tables)))
