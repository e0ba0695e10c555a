"""Golden files with tables: every file that was ever written gives the same numbers; and hostile files."""

import json
from pathlib import Path

import fuzz_student_file
import golden_tables
import independent_reader
import independent_tables
import numpy as np
import pytest

from distill.codecs import container, table
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.table import TableStep
from distill.codecs.table.fields import Source, Writer
from distill.runtime import load
from distill.runtime.table.rows import table_rows

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture(params=sorted(EXPECTED))
def name(request):
    return request.param


def read_bytes(name):
    return (GOLDEN / f"{name}.student").read_bytes()


def test_predictions_are_those_expected(name):
    known, student = EXPECTED[name], load(read_bytes(name))
    np.testing.assert_allclose(student.raw_outputs(known["rows"]), known["sums"], rtol=2e-6, atol=2e-5)
    assert student.predict(known["rows"]).tolist() == known["labels"]


def test_numbers_are_those_of_the_independent_reader(name):
    student, independent = load(read_bytes(name)), independent_reader.read(read_bytes(name))
    rows, step = EXPECTED[name]["rows"], student.preprocessing.table
    found = student.preprocessing(table_rows(rows, step, None))
    expected = [independent_tables.table_row(independent["table"], row, independent_reader.take_step) for row in rows]
    for operation, values in independent["steps"]:
        expected = [independent_reader.take_step(operation, values, row) for row in expected]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_what_was_decoded_is_encoded_to_the_same_bytes(name):
    kind, payload = container.split(read_bytes(name))[1][0]
    assert kind == 5
    assert table.encode(table.decode(Reader(payload), len(read_bytes(name)))[0]) == payload


def test_golden_tables_have_every_operation():
    def codes(operations):
        for operation in operations:
            yield operation.code
            for branch in getattr(operation, "branches", ()):
                yield from codes(branch)

    found = {code for step, *_ in golden_tables.TABLES.values() for code in codes(step.operations)}
    assert found == set(table.OPERATIONS) == set(range(len(table.OPERATIONS)))
    assert sorted(path.stem for path in GOLDEN.glob("*.student")) == sorted(EXPECTED) == sorted(golden_tables.TABLES)


def test_hostile_tables():
    """Longer: ``python tests/helpers/fuzz_student_file.py --cases 1000000``."""
    outcome = fuzz_student_file.run(n_cases=2_500, seed=0, tables=True)
    assert outcome["refused with a right checksum"] > 1_000
    assert outcome["accepted"] > 100


@pytest.mark.parametrize("values", [
    (), (1, 2, 3), (-5,), (3, 1, 2**63 - 1, -(2**63)), ("a", "ab", "", "日本", "日x"), (0.5, 1.5), (0.1, 1e300),
    (True, False), (None,), (float("nan"),), ("a", None, float("nan")), (1, "a", None, 2.5, True, float("nan"), "b"),
    (None, 1), (float("nan"), 0.5),
], ids=repr)  # fmt: skip
def test_values_round_trip(values):
    out = Writer()
    out.values(values)
    source = Source(Reader(bytes(out.data)), 1000)
    found = source.values(len(values))
    source.reader.finish()
    assert [(type(value), value) for value in found if value == value] == [
        (type(value), value) for value in values if value == value
    ]
    assert [value != value for value in found] == [value != value for value in values]


@pytest.mark.parametrize(("content", "message"), [
    (b"\x00", "0 columns"),
    (b"\x02\x01\x20", "an operation 32, which this version cannot read"),
    (b"\x02\x00" + b"\x00", "goes on for 1 bytes"),
    (b"\x02\x01\x00\x01\x04", "takes column 2 of 2"),
    (b"\x02\x01\x00\x01\x01", "takes column -1 of 2"),
    (b"\x02\x01\x00\x00", "leads to no columns"),
    (b"\x02\x01\x04\x63", "function number 99, which this version cannot read"),
    (b"\x01\x01\x09\x02\x04\x00\x00\x00\x00", "2 where 1 is the largest possible value"),
    (b"\x01\x01\x0c\x04\x00\x00\xc0\x7f", "NaN or infinite"),
    (b"\x01\x01\x0c\x03\x00\x00\x00", "numbers of 3 bytes, which this version cannot read"),
    (b"\x01\x01\x0b\x00\x02\x04\x00\x00\x80\x3f\x00\x00\x00\x00", "edges of bins that decrease"),
    (b"\x01\x01\x0a\x03\x02\x04\x00\x00\x80\x3f\x00\x00\x00\x00", "quantiles that decrease"),
    (b"\x01\x01\x0d\x03\x00\x00\x04" + b"\x04" + bytes(16), "4 knots for splines of degree 3"),
    (b"\x01\x01\x0e\x02\x01\x00", "a polynomial of degrees 2 to 1"),
    (b"\x01\x01\x07\x02\x02\x01a\x00\x00\x00\x00", "a category twice|shares"),
    (b"\x01\x01\x07\x02\x00\x00\x00\x02\x05", "unknown categories in column 5 of 2"),
    (b"\x01\x01\x07\xff\xff\x7f\x00\x00\x00\x00", "too many columns|too many for its size"),
    (b"\x01\x01\x07\x02\x02\x05\x01a\x00\x00", "a string that shares 5 characters with one of 0"),
    (b"\x01\x01\x11\x03\x00\x01\x01\x00\x02\x00\x01\x00\x01a", "cuts texts in a way 3, which this version"),
    (b"\x01\x01\x11\x00\x00\x02\x01\x00\x02\x00\x01\x00\x01a", "n-grams of 2 to 1"),
    (b"\x01\x01\x11\x00\x00\x01\x01\x00\x00\x00\x01\x00\x01a", "words without letters"),
    (b"\x01\x01\x11\x00\x02\x01\x01\x01\x02\x00\x01\x00\x01a", "words of any characters that are bounded"),
    (b"\x01\x01\x11\x00\x00\x01\x01\x00\x02\x00\x02\x00\x01a\x01\x00", "an n-gram twice"),
    (b"\x02\x01\x11\x00\x00\x01\x01\x00\x02\x00\x01\x00\x01a", "cuts texts out of 2 columns"),
    (b"\x01\x01\x12\x00\x02\x01\x04\x00\x00\x80\x3f\x01", "weights beyond their table"),
    (b"\x01\x01\x12\x00\x03\x02\x00", "weights of no documents"),
    (b"\x01\x01\x02\x01\x01\x05\x01\x00\x00\x80\x3f", "steps of 1 features for 1 columns"),
    (b"\x01\x01\x10\x80\x80\x40", "too early|too many columns"),
])  # fmt: skip
def test_damaged_tables_raise(content, message):
    with pytest.raises(StudentFileError, match=message):
        table.decode(Reader(b"\x00" + content), 1000)


def test_damaged_frames_of_tables_raise():
    sound = table.encode(TableStep(1, (table.OPERATIONS[3](),)))
    for data, message in [
        (b"\x04" + sound[1:], "impossible flags 4"),
        (b"\x02\x02\x01\x03", "has 2 columns"),
        (b"\x01" + varint(10**9) + b"\x03\x00", "bytes of a table in 2 deflated ones"),
        (b"\x01\x05\xff\xff", "deflated bytes are damaged"),
        (b"\x01\x05\x03\x00", "deflated content is not 5 bytes long"),
    ]:
        with pytest.raises(StudentFileError, match=message):
            table.decode(Reader(data), 1000)
    for length in range(len(sound)):
        with pytest.raises(StudentFileError):
            table.decode(Reader(sound[:length]), 1000)
