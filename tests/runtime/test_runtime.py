"""Student: outputs, the same bits in any batch, errors, NumPy only."""

import copy
import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import threadpoolctl
import torch
from fresh_process import run_python
from scipy import sparse, special
from scipy.special import expit
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from some_students import SIZES, labelled, make_network, make_rows

from distill.codecs import container
from distill.network import ACTIVATIONS
from distill.runtime import Student, load
from distill.runtime import forward as arithmetic
from distill.runtime import single_row as margin
from distill.runtime import threads as parallel


def torch_sums(network, rows):
    """The sums in double precision, by torch."""
    modules = {
        "identity": torch.nn.Identity,
        "relu": torch.nn.ReLU,
        "tanh": torch.nn.Tanh,
        "logistic": torch.nn.Sigmoid,
    }
    hidden = torch.from_numpy(rows.astype(np.float64))
    for name, combine in (("offset", torch.sub), ("scale", torch.mul)):
        if getattr(network, name) is not None:
            hidden = combine(hidden, torch.as_tensor(np.float64(getattr(network, name))))
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
        hidden = hidden @ torch.from_numpy(np.float64(weight)) + torch.from_numpy(np.float64(bias))
        if index < len(network.weights) - 1:
            hidden = modules[network.activation]()(hidden)
    return hidden.numpy()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_raw_outputs_equal_torch(sizes, activation):
    network, rows = make_network(sizes, activation), make_rows(700, sizes[0])
    sums = Student(network).raw_outputs(rows)
    assert sums.shape == (700, sizes[-1])
    assert sums.dtype == np.float32
    assert sums.flags.c_contiguous
    np.testing.assert_allclose(sums, torch_sums(network, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "section",
    [
        {"offset": np.float32(0.4), "scale": np.float32(2.5)},
        {"scale": np.linspace(0.1, 3, 7).astype(np.float32)},
        {"offset": np.linspace(-3, 3, 7).astype(np.float32)},
        {"offset": np.full(7, 1000, np.float32), "scale": np.float32(1.5)},
    ],
    ids=["shared", "scales", "offsets", "large offsets"],
)
def test_offset_and_scale(section):
    rows = make_rows(50, 7) + section.get("offset", 0)
    network = replace(make_network((7, 20, 3)), **section)
    np.testing.assert_allclose(Student(network).raw_outputs(rows), torch_sums(network, rows), rtol=1e-4, atol=1e-4)


def test_large_offset_loses_no_digits():
    """Folded into the first layer it would: 1e6 * weights in float32 leave no digit of a unit."""
    rows = (1e6 + np.arange(0, 16).reshape(4, 4)).astype(np.float32)
    network = replace(make_network((4, 3)), offset=np.float32(1e6))
    np.testing.assert_allclose(Student(network).raw_outputs(rows), torch_sums(network, rows), rtol=1e-5)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_row_is_bit_identical_in_any_batch(sizes, activation):
    student, rows = Student(labelled(sizes, activation)), make_rows(1500, sizes[0])
    predictions = {name: getattr(student, name) for name in ("raw_outputs", "predict", "predict_proba")}
    whole = {name: answer(rows) for name, answer in predictions.items()}
    order = np.random.default_rng(2).permutation(len(rows))
    for name, answer in predictions.items():
        for size in (1, 2, 3, 15, 16, 17, 33, 511, 513):
            for start in (0, 1, 7, 900):
                part = slice(start, start + size)
                np.testing.assert_array_equal(answer(rows[part]), whole[name][part])
        np.testing.assert_array_equal(answer(rows[order]), whole[name][order])
        singles = [answer(rows[index : index + 1]) for index in range(100)]
        np.testing.assert_array_equal(np.concatenate(singles), whole[name][:100])


def test_row_is_bit_identical_in_any_container_and_dtype():
    student, rows = Student(labelled((64, 32, 10))), np.random.default_rng(0).integers(-50, 50, size=(700, 64))
    expected = student.raw_outputs(rows.astype(np.float32))
    strided, unaligned = np.zeros((1400, 65), np.float32), np.zeros(700 * 64 * 4 + 1, np.uint8)[1:]
    strided[::2, 1:] = rows
    shifted = unaligned.view(np.float32).reshape(700, 64)
    shifted[...] = rows
    forms = [
        rows,
        rows.astype(np.int8),
        rows.astype(np.float64),
        rows.astype(np.float16),
        np.asfortranarray(rows.astype(np.float32)),
        rows.astype(">f4"),
        strided[::2, 1:],
        shifted,
        rows.astype(object),
        rows.tolist(),
        pd.DataFrame(rows),
        pl.DataFrame(rows),
        sparse.csr_matrix(rows),
        sparse.csc_array(rows.astype(np.float64)),
    ]
    for form in forms:
        np.testing.assert_array_equal(student.raw_outputs(form), expected)
    single = student.predict(rows)
    for form in forms[:9]:
        np.testing.assert_array_equal(
            np.concatenate([student.predict(form[i : i + 1]) for i in range(50)]), single[:50]
        )


def test_predict_changes_neither_rows_nor_network():
    network, rows = labelled((6, 5, 4), offset=np.float32(1), scale=np.float32(2)), make_rows(40, 6)
    before = copy.deepcopy(network), rows.copy()
    rows.flags.writeable = False
    student = Student(network)
    for count in (1, 1, 1, 40):
        for _ in range(10):
            student.predict(rows[:count])
            student.predict_proba(rows[:count])
            student.raw_outputs(rows[:count])
    np.testing.assert_array_equal(rows, before[1])
    for one, other in zip(network.weights + network.biases, before[0].weights + before[0].biases):
        np.testing.assert_array_equal(one, other)
    student.predict(rows[:1])[0] = "changed"
    assert "changed" not in student.classes_


DIGEST = """
import hashlib, numpy as np
from some_students import labelled, make_rows, SIZES
from distill.runtime.forward import Forward
from distill.runtime import Student
digest = hashlib.sha256()
for sizes in SIZES:
    student, rows = Student(labelled(sizes, "tanh")), make_rows(1100, sizes[0])
    whole = student.raw_outputs(rows)
    for part in (slice(0, 1), slice(5, 7), slice(1, 18), slice(100, 700)):
        assert (student.raw_outputs(rows[part]) == whole[part]).all(), (sizes, part)
    digest.update(whole.tobytes() + student.predict_proba(rows).tobytes())
print(digest.hexdigest())
"""


def test_row_is_bit_identical_with_any_number_of_threads():
    digests = {run_python(DIGEST, OMP_NUM_THREADS=n, OPENBLAS_NUM_THREADS=n) for n in ("1", "2", "3")}
    assert len(digests) == 1
    student, rows = Student(labelled((784, 256, 64, 10))), make_rows(4000, 784)
    predictions = []
    for limit in (1, 2):
        with threadpoolctl.threadpool_limits(limit):
            assert parallel.n_available_threads() in (1, limit)
            predictions.append(student.raw_outputs(rows))
    np.testing.assert_array_equal(*predictions)
    np.testing.assert_array_equal(
        np.concatenate([student.raw_outputs(rows[i : i + 7]) for i in (0, 7)]), predictions[0][:14]
    )


def kernels():
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    needs = {"Prescott": None, "Nehalem": None, "Sandybridge": "X86_V3", "Haswell": "X86_V3", "SkylakeX": "X86_V4"}
    return [name for name, extension in needs.items() if extension is None or extension in found]


@pytest.mark.parametrize("kernel", kernels())
def test_row_is_bit_identical_in_any_batch_with_other_kernels(kernel):
    """OpenBLAS has other kernels for other processors, and can be told to use them."""
    run_python(DIGEST, OPENBLAS_CORETYPE=kernel)


def test_lanes_agree_here():
    """If not, products still agree, but are slow."""
    assert arithmetic.lanes_agree(64, 196)
    assert arithmetic.lanes_agree(10, 64)


def test_rows_are_multiplied_one_by_one_where_lanes_disagree(monkeypatch):
    network, rows = labelled((300, 33, 5)), make_rows(40, 300)
    expected = Student(network).raw_outputs(rows)
    monkeypatch.setattr(arithmetic, "lanes_agree", lambda *shape: False)
    student = Student(network)
    sums = student.raw_outputs(rows)
    np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=1e-5)
    for size in (1, 2, 17):
        np.testing.assert_array_equal(student.raw_outputs(rows[3 : 3 + size]), sums[3 : 3 + size])


@pytest.mark.parametrize("function", [arithmetic.softmax, arithmetic.logistic, np.tanh], ids=lambda f: f.__name__)
@pytest.mark.parametrize("n_columns", [1, 2, 3, 7, 10, 17, 64, 200])
def test_functions_do_not_depend_on_the_position_in_the_array(function, n_columns):
    """NumPy's vector loops must treat the last numbers of an array as all others."""
    rows = 8 * make_rows(600, n_columns)
    whole = function(rows.copy())
    for size in (1, 2, 3, 15, 33):
        for start in (0, 1, 2, 3, 501):
            np.testing.assert_array_equal(function(rows[start : start + size].copy()), whole[start : start + size])


@pytest.mark.parametrize("n_columns", [2, 10, 100])
def test_probabilities_equal_scipy(n_columns):
    sums = np.concatenate([30 * make_rows(100, n_columns), np.full((1, n_columns), 500, np.float32)])
    np.testing.assert_allclose(arithmetic.softmax(sums.copy()), special.softmax(sums, axis=1), rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(arithmetic.logistic(sums.copy()), special.expit(sums), rtol=1e-6, atol=1e-7)


def test_methods_by_target():
    rows = make_rows(30, 4)
    for target, more, names in [
        ("transform", {}, {"transform"}),
        ("decision_function", {}, {"decision_function"}),
        ("decision_function", {"classes": np.arange(3)}, {"decision_function", "predict"}),
        ("predict", {}, {"predict"}),
        ("predict", {"classes": np.arange(3), "output": "softmax"}, {"predict", "predict_proba"}),
        ("predict_proba", {"classes": np.arange(3), "output": "logistic"}, {"predict", "predict_proba"}),
    ]:
        student = Student(make_network((4, 3), target=target, **more))
        every = {"predict", "predict_proba", "transform", "decision_function"}
        assert {name for name in every if hasattr(student, name)} == names
        assert every & set(dir(student)) == names
        assert hasattr(student, "classes_") == ("classes" in more)
        sums = student.raw_outputs(rows)
        if "classes" not in more:
            np.testing.assert_array_equal(getattr(student, target)(rows), sums)
        else:
            np.testing.assert_array_equal(student.predict(rows), sums.argmax(axis=1))
        for name in every - names:
            with pytest.raises(AttributeError, match=f"no {name}: it was trained for '{target}'"):
                getattr(student, name)


def test_two_classes_with_one_output():
    network = make_network((4, 1), target="predict", output="logistic", classes=np.array(["no", "yes"]))
    student, rows = Student(network), make_rows(200, 4)
    sums, probabilities = student.raw_outputs(rows)[:, 0], student.predict_proba(rows)
    assert student.predict(rows).tolist() == ["yes" if value > 0 else "no" for value in sums]
    np.testing.assert_allclose(probabilities[:, 1], special.expit(sums), rtol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-6)


def test_squeeze_returns_one_output_as_a_vector():
    rows = make_rows(5, 4)
    assert Student(make_network((4, 1), target="predict")).predict(rows).shape == (5, 1)
    assert Student(make_network((4, 1), target="predict", squeeze=True)).predict(rows).shape == (5,)
    assert Student(make_network((4, 1), target="decision_function", squeeze=True)).decision_function(rows).shape == (5,)


def test_zero_rows():
    student = Student(labelled((4, 3)))
    assert student.predict(np.empty((0, 4))).shape == (0,)
    assert student.predict_proba(np.empty((0, 4), np.float32)).shape == (0, 3)


def test_copy_and_pickle():
    student, rows = load(container.encode(labelled((6, 5, 3)))), make_rows(50, 6)
    expected = student.predict_proba(rows)
    for other in (pickle.loads(pickle.dumps(student)), copy.deepcopy(student), copy.copy(student)):
        np.testing.assert_array_equal(other.predict_proba(rows), expected)
        assert other.report == student.report
    assert repr(student) == f"<Student 6-5-3: predict, predict_proba, {student.report['n_bytes']} bytes>"


def test_arrays_for_single_rows_are_not_pickled():
    student, rows = Student(labelled((300, 33, 3))), make_rows(30, 300)
    expected, before = student.predict(rows), len(pickle.dumps(student))
    singles = [rows[index : index + 1] for index in range(30)]
    np.testing.assert_array_equal(np.concatenate([student.predict(row) for row in singles]), expected)
    assert student._single_row is not None
    assert len(pickle.dumps(student)) == before
    for other in (pickle.loads(pickle.dumps(student)), copy.deepcopy(student), copy.copy(student)):
        np.testing.assert_array_equal(np.concatenate([other.predict(row) for row in singles]), expected)
        assert other._single_row is not None
        assert other._single_row is not student._single_row


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros(4), r"two dimensions, and its shape is \(4,\); X\[None\] is a single row"),
        (np.zeros((2, 2, 4)), "two dimensions"),
        (np.float32(1), "two dimensions"),
        (np.zeros((2, 5)), "X has 5 features, and the student was fitted with 4"),
        (np.zeros((1, 3)), "X has 3 features, and the student was fitted with 4"),
        (np.array([[0, 1, np.nan, 2.0]]), "NaN, infinite or too large for float32, as nan in column 2"),
        (np.array([[0, 1, 2, -np.inf]], np.float32), "as -inf in column 3"),
        (np.array([[0, 1e39, 2, 3]]), r"as 1e\+39 in column 1"),
        (np.array([["a", "b", "c", "d"]]), "real numbers, and its dtype is <U1"),
        (np.array([["a", 1, 2, 3]], object), "real numbers: could not convert"),
        (np.zeros((1, 4), complex), "dtype is complex128"),
        (np.zeros((1, 4), "datetime64[s]"), "dtype is datetime64"),
        ([[1, 2, 3, 4], [1, 2]], "rows of equal length"),
        (sparse.csr_array(np.array([[0, 1, np.nan, 2]])), "NaN"),
        (None, "two dimensions|real numbers"),
        ("text", "two dimensions"),
    ],
)
def test_invalid_rows_raise(X, message):
    student = Student(labelled((4, 3)))
    good = make_rows(20, 4)
    for _ in range(2):
        for method in (student.predict, student.predict_proba, student.raw_outputs):
            with pytest.raises(ValueError, match=message):
                method(X)
        for index in range(20):  # after which single rows take the quick path
            student.predict(good[index : index + 1])


@pytest.mark.parametrize("place", [0, 5, 2999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_value_raises_at_any_position(place, value):
    rows = make_rows(3000, 6)
    rows[place, 3] = value
    with pytest.raises(ValueError, match="column 3"):
        Student(labelled((6, 3))).predict(rows)


def test_large_values_are_valid():
    """Their squares overflow in the quick check for bad numbers; they themselves are fine."""
    rows = np.full((40, 4), 1e25, np.float32)
    student = Student(labelled((4, 3)))
    assert np.isfinite(student.raw_outputs(rows)).all()
    for _ in range(20):
        np.testing.assert_array_equal(student.predict(rows[:1]), student.predict(rows)[:1])
    steep = labelled((4, 5, 3))
    steep = Student(replace(steep, weights=tuple(weight * np.float32(1e18) for weight in steep.weights)))
    rows = make_rows(40, 4)
    for index in range(40):
        np.testing.assert_array_equal(steep.predict(rows[index : index + 1]), steep.predict(rows)[index : index + 1])


def test_feature_names_are_checked():
    names = ("alpha", "beta", "gamma")
    student = Student(labelled((3, 4), feature_names=names))
    frame = pd.DataFrame(make_rows(5, 3), columns=names)
    assert student.feature_names_in_.tolist() == list(names)
    expected = student.predict_proba(frame.to_numpy())
    np.testing.assert_array_equal(student.predict_proba(frame), expected)
    np.testing.assert_array_equal(student.predict_proba(pl.from_pandas(frame)), expected)
    np.testing.assert_array_equal(student.predict_proba(pd.DataFrame(frame.to_numpy())), expected)
    np.testing.assert_array_equal(student.predict_proba(frame[["beta", "alpha", "gamma"]]), expected)
    with pytest.raises(ValueError, match=r"1 are missing \['gamma'\], 1 are unknown \['delta'\]"):
        student.predict(frame.rename(columns={"gamma": "delta"}))
    with pytest.raises(ValueError, match=r"1 are missing \['alpha'\], 0 are unknown"):
        student.predict(frame[["beta", "gamma"]])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "sizes", [(64, 32, 10), (784, 256, 64, 10), (20, 8, 1), (170, 30, 9, 1), (4, 1), (5, 2), (3, 7, 4)], ids=str
)
def test_certain_quick_labels_are_correct(sizes, activation):
    """The proof in `distill.runtime.single_row`, on rows of the smallest possible margins."""
    network = labelled(sizes, activation)
    student, rows = Student(network), make_rows(600, sizes[0])
    # Bisection between two rows of different labels: the margin shrinks until no label is certain
    labels = student.predict(rows)
    pairs = [(i, j) for i in range(0, 600, 7) for j in range(i) if labels[i] != labels[j]][:60]
    low, high = (rows[list(side)].astype(np.float64) for side in zip(*pairs))
    close = [rows]
    for _ in range(26):
        middle = (low + high) / 2
        same = (student.predict(middle) == student.predict(low))[:, None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
        close.append(middle.astype(np.float32))
    rows = np.concatenate(close)
    expected = student.predict(rows)
    quick = margin.SingleRowClassifier(arithmetic.prepare(network), activation)
    found = np.array([quick.label(row[None]) for row in rows])
    certain = found >= 0
    np.testing.assert_array_equal(network.classes[found[certain]], expected[certain])
    assert certain[:600].any()
    assert not certain[-len(low) :].all()


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_quick_labels_are_nearly_always_certain(activation):
    """Of a trained network, that is: most rows of random ones are between two labels."""
    X, y = load_digits(return_X_y=True)
    mlp = MLPClassifier((64, 32), activation=activation, max_iter=60, random_state=0, early_stopping=True).fit(
        X[300:], y[300:]
    )
    network = labelled((64, 64, 32, 10), activation)
    weights = tuple(weight.astype(np.float32) for weight in mlp.coefs_)
    network = replace(network, weights=weights, biases=tuple(bias.astype(np.float32) for bias in mlp.intercepts_))
    quick = margin.SingleRowClassifier(arithmetic.prepare(network), activation)
    assert np.mean([quick.label(row[None]) >= 0 for row in X[:300]]) > 0.97


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1e-20, 1e-7, 1.0, 1e12])
def test_certain_quick_labels_are_correct_where_outputs_are_rounding_errors(activation, scale):
    """Rows to which all weights of the first layer are orthogonal, and units at the kink of a relu."""
    network = labelled((200, 40, 12, 5), activation)
    network = replace(network, biases=tuple(0 * bias for bias in network.biases))
    weight, rows = network.weights[0].astype(np.float64), make_rows(400, 200).astype(np.float64)
    rows -= rows @ weight @ np.linalg.pinv(weight) * (np.arange(400) % 4 > 0)[:, None]
    rows = (scale * rows).astype(np.float32)
    expected = Student(network).predict(rows)
    quick = margin.SingleRowClassifier(arithmetic.prepare(network), activation)
    found = np.array([quick.label(row[None]) for row in rows])
    np.testing.assert_array_equal(network.classes[found[found >= 0]], expected[found >= 0])
    assert (found[np.arange(400) % 4 > 0] < 0).mean() > 0.3 or activation == "logistic"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [30, 1e4, 1e20, 1e38])
def test_certain_quick_labels_are_correct_with_large_biases(activation, size):
    network = labelled((20, 30, 8, 4), activation)
    drawn = np.random.default_rng(3)
    biases = tuple(
        (size * drawn.normal(size=len(bias))).clip(-2e38, 2e38).astype(np.float32) for bias in network.biases
    )
    network = replace(network, biases=(*biases[:-1], network.biases[-1]))
    rows = 30 * make_rows(200, 20)
    expected = Student(network).predict(rows)
    quick = margin.SingleRowClassifier(arithmetic.prepare(network), activation)
    found = np.array([quick.label(row[None]) for row in rows])
    np.testing.assert_array_equal(network.classes[found[found >= 0]], expected[found >= 0])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shift", "bias"), [(0.0, 0.0), (50.0, 0.0), (0.0, -1e4)])
def test_errors_are_below_half_of_their_bounds(activation, shift, bias, monkeypatch):
    """Errors of all ways of computing, measured against double precision, stay within half of the bound together."""
    network = labelled((400, 60, 20, 6), activation, offset=np.float32(shift), scale=np.float32(1.5))
    # Most units of a relu stay silent, and the quick way must subtract what it adds for them
    silenced = network.biases[0] + np.where(np.arange(60) % 4, bias, 0).astype(np.float32)
    network = replace(network, biases=(silenced, *network.biases[1:]))
    prepared = arithmetic.prepare(network)
    quick = margin.SingleRowClassifier(prepared, activation)
    rows = make_rows(300, 400) + np.float32(shift)
    exact = torch_sums(replace(network, offset=prepared.offset, scale=prepared.scale, weights=prepared.weights,
                               biases=prepared.biases), rows)  # fmt: skip
    entered = (rows - prepared.offset) * prepared.scale if prepared.offset is not None else rows
    first = quick._relative * np.linalg.norm(entered, axis=1) + quick._absolute

    def error(sums):
        """The largest error of a difference of two sums."""
        return np.ptp(sums - exact, axis=1)

    tiled = Student(network).raw_outputs(rows)
    assert (error(tiled) + error(quick_sums(quick, entered, activation)) < first / 2).all()
    bounds, seen, second_bound, last, in_parts = [], [], quick._second_bound, [], margin.product_in_parts
    monkeypatch.setattr(
        margin, "product_in_parts", lambda values, weight: last.append(in_parts(values, weight)) or last[-1]
    )
    monkeypatch.setattr(
        quick, "_second_bound", lambda *found: seen.append((found, second_bound(*found))) or seen[-1][1]
    )
    demanded = np.diff(np.sort(exact, axis=1)[:, -4:], axis=1).sum(axis=1)
    for row, right, tile, most in zip(entered, exact, tiled, demanded):
        seen.clear()
        assert quick._label_by_second_bound(row, most * 0.999) in (-1, right.argmax())
        careful = last[-1] + quick._biases[-1]
        assert 1 <= len(seen) <= 2
        for (best, rival, *_), second in seen:
            errors = [np.abs((sums - right)[best] - (sums - right)[rival]) for sums in (careful, tile)]
            assert sum(errors) < second / 2
            bounds.append(second)
    assert bias or np.median(bounds) < np.median(first) / 2


def quick_sums(quick, rows, activation):
    """The sums of the quick way."""
    found = []
    for values in rows.astype(np.float32):
        for weight, shift in quick._fast[0]:
            sums = values.dot(weight)
            values = np.maximum(sums, shift) if activation == "relu" else arithmetic.activate(sums + shift, activation)
        found.append(values.dot(quick._fast[1]) + quick._fast[2])
    return np.array(found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_bound_all_chords(activation):
    middle = np.linspace(-3, 3, 61)
    for error in (1e-6, 0.05, 2.0):
        slope, spread = margin.slopes(middle, np.full(61, error), activation)
        ends = middle + error * np.linspace(-1, 1, 21)[:, None]
        values = activated64(ends, activation)
        for i in range(20):
            chords = (values[i + 1 :] - values[i]) / (ends[i + 1 :] - ends[i])
            assert (np.abs(chords - slope) <= spread + 1e-7).all()
    values, ends = activated64(middle, activation), middle.astype(np.float32)
    np.testing.assert_allclose(
        arithmetic.activated(ends, activation), values, atol=margin.activation_error(activation) or 1e-6
    )


def activated64(sums, activation):
    functions = {"identity": lambda x: x, "relu": lambda x: np.maximum(x, 0), "tanh": np.tanh, "logistic": expit}
    return functions[activation](sums)


def test_single_class_is_always_predicted():
    network = make_network((4, 1), target="predict", output="softmax", classes=np.array([7]))
    student, rows = Student(network), make_rows(30, 4)
    for index in range(30):
        assert student.predict(rows[index : index + 1]).tolist() == [7]


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (50, 3), (200, 200)])
def test_bounds_on_spectral_norms_are_tight(shape):
    weight = np.random.default_rng(0).normal(size=shape)
    norm = np.linalg.norm(weight, 2)
    assert norm <= margin.spectral_norm_bound(weight) <= 1.1 * norm
    norm = np.linalg.norm(np.abs(weight), 2)
    assert norm <= margin.magnitude_norm_bound(weight) <= 1.01 * norm
    half = weight * (np.arange(shape[1]) % 2)
    assert np.linalg.norm(np.abs(half), 2) <= margin.magnitude_norm_bound(half) <= 1.01 * norm
    for bound in (margin.spectral_norm_bound, margin.magnitude_norm_bound):
        assert bound(np.zeros(shape)) == 0


@pytest.mark.parametrize("n_outputs", [2, 9, 1200])
def test_bounds_on_distances_of_columns_are_tight(n_outputs):
    weight = np.random.default_rng(0).normal(size=(7, n_outputs))
    distance = max(np.linalg.norm(weight - weight[:, [index]], axis=0).max() for index in range(n_outputs))
    assert distance <= margin.largest_distance(weight)
    if n_outputs < 1000:
        assert margin.largest_distance(weight) <= 1.001 * distance


def test_predict_from_many_threads():
    from concurrent.futures import ThreadPoolExecutor

    student, rows = Student(labelled((64, 32, 10))), make_rows(400, 64)
    expected = student.predict(rows)
    with ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(lambda index: student.predict(rows[index : index + 1])[0], range(400)))
        batches = list(pool.map(lambda start: student.predict(rows[start:]), range(20)))
    np.testing.assert_array_equal(predictions, expected)
    for start, batch in enumerate(batches):
        np.testing.assert_array_equal(batch, expected[start:])
    # Also during the preparation for single rows, and with uncertain rows among them
    close, order = np.concatenate([rows, rows * np.float32(1e-9)]), np.tile(np.arange(800), 3)
    student = Student(labelled((64, 32, 10)))
    with ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(lambda index: student.predict(close[index : index + 1])[0], order))
    np.testing.assert_array_equal(predictions, student.predict(close)[order])


def test_large_batches_are_split_among_threads():
    calls = []
    with threadpoolctl.threadpool_limits(2):
        parallel.map_blocks(lambda: calls.append, range(0, 100, 10), n_multiplications=1 << 30)
    assert sorted(calls) == list(range(0, 100, 10))

    def fail(start):
        raise ValueError("from a thread")

    with threadpoolctl.threadpool_limits(2), pytest.raises(ValueError, match="from a thread"):
        parallel.map_blocks(lambda: fail, range(4), n_multiplications=1 << 30)


def test_numpy_is_the_only_dependency(tmp_path):
    """In an interpreter in which only NumPy and the standard library exist."""
    network, rows = labelled((64, 32, 10)), make_rows(30, 64)
    container.save(container.encode(network), tmp_path / "a.student")
    np.save(tmp_path / "rows.npy", rows)
    code = f"""
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in ("numpy", "distill"):
            raise ImportError(f"{{name}} is not here")
sys.meta_path.insert(0, Only())
import numpy, distill
student = distill.load({str(tmp_path / "a.student")!r})
print("|".join(student.predict(numpy.load({str(tmp_path / "rows.npy")!r}))))
assert not {{"torch", "sklearn", "scipy", "joblib", "numba"}} & set(sys.modules)
"""
    assert run_python(code).split("|") == Student(network).predict(rows).tolist()


def test_fresh_process_predicts_the_same_bits(tmp_path):
    network, rows = labelled((64, 32, 10)), make_rows(300, 64)
    container.save(container.encode(network), tmp_path / "a.student")
    np.save(tmp_path / "rows.npy", rows)
    code = f"""
import hashlib, numpy, distill
student = distill.load({str(tmp_path / "a.student")!r})
rows = numpy.load({str(tmp_path / "rows.npy")!r})
print(hashlib.sha256(student.predict_proba(rows).tobytes() + student.raw_outputs(rows[7:8]).tobytes()).hexdigest())
"""
    student = Student(network)
    expected = student.predict_proba(rows).tobytes() + student.raw_outputs(rows)[7:8].tobytes()
    assert run_python(code) == hashlib.sha256(expected).hexdigest()
