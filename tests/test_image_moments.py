"""Images moved by their own moments: the transformer, its step in student files, and that both give the same bits."""

import copy
import itertools
import pickle
from pathlib import Path

import independent_reader
import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import distill.runtime.moving
import mbn.preprocessing.moving
from distill import Distiller, Student, StudentFileError, load, to_onnx
from distill.__main__ import main
from distill.codecs import container
from distill.codecs.preprocessing import MomentsStep, Step, decode, encode
from distill.codecs.reader import Reader
from distill.network import Network
from distill.pipeline import to_bytes
from distill.runtime.preprocessing import Preprocessing
from mbn.preprocessing import ImageMoments

# Students are trained for a few epochs only
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X, y = load_digits(return_X_y=True)
FLAGS = [flags for flags in itertools.product((False, True), (False, True), (False, True), (0.0, 0.75)) if any(flags)]
SHAPES = [(8, 8, 1), (5, 7, 3), (1, 9, 1), (9, 1, 2), (1, 1, 12), (2, 2, 1)]


def images(shape, seed=0):
    """Return images of every kind: noise, bytes, few bright pixels, one pixel, one row, constant, empty, tiny, dark."""
    random, n = np.random.default_rng(seed), int(np.prod(shape))
    lines = np.zeros((2, *shape))
    lines[0, shape[0] // 2] = random.random(shape[1:])
    lines[1, :, shape[1] // 2] = 7
    few = random.random((3, n)) * (random.random((3, n)) < 0.2)
    return np.vstack([
        random.normal(size=(3, n)), random.integers(0, 256, (3, n)), few, few[:1] * 1e-310, few[:1] * 1e250 - 1e249,
        np.eye(n)[:2], lines.reshape(2, n), np.full((1, n), 0.1), np.full((1, n), -3.0), np.zeros((1, n)),
    ])  # fmt: skip


def moments(flags, shape):
    centre, deskew, scale, blur = flags
    return ImageMoments(shape, centre=centre, deskew=deskew, scale=scale, blur=blur)


# the definition


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_are_moved_as_defined(shape):
    rows = images(shape)
    for flags in FLAGS:
        numbers = sum(bit for bit, flag in zip((1, 2, 4), flags) if flag)
        moved = moments(flags, shape).fit_transform(rows)
        for row, found in zip(rows, moved):
            expected = independent_reader.move_image(numbers, shape, flags[3], row.tolist())
            # Tiny numbers have fewer digits, and a cell of exactly one pixel's weight may fall to either side
            assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.ptp(row) + 1e-315)


def test_default_is_the_published_formula():
    image = X[3].reshape(8, 8)
    i, j = np.mgrid[:8, :8]
    r, c = (image * i).sum() / image.sum(), (image * j).sum() / image.sum()
    skew = (image * (i - r) * (j - c)).sum() / (image * (i - r) ** 2).sum()
    rows, columns = i - 3.5 + r, j - 3.5 + c + skew * (i - 3.5)
    expected = np.zeros((8, 8))
    for y_, x_ in itertools.product(range(8), repeat=2):
        expected += image[y_, x_] * np.maximum(1 - abs(rows - y_), 0) * np.maximum(1 - abs(columns - x_), 0)
    assert_allclose(ImageMoments((8, 8)).fit_transform(X[3:4]).reshape(8, 8), expected, atol=1e-12)


def test_moved_images_have_the_moments_demanded():
    # Ellipses with soft edges, well inside: interpolation hardly changes their moments
    i, j = np.mgrid[:40, :40]
    rows = np.array([
        np.clip(3 - 3 * np.hypot((i - 15 - k) / 9, (j - 22 + k - 0.2 * k * (i - 15 - k)) / (7 + k)), 0, 1).ravel()
        for k in range(4)
    ])  # fmt: skip
    moved = ImageMoments((40, 40), scale=True).fit_transform(rows).reshape(-1, 40, 40)
    mass = moved.sum(axis=(1, 2))
    r, c = (moved * i).sum(axis=(1, 2)) / mass, (moved * j).sum(axis=(1, 2)) / mass
    assert_allclose([r, c], 19.5, atol=0.02)
    below, right = i - r[:, None, None], j - c[:, None, None]
    slopes = (moved * below * right).sum(axis=(1, 2)) / (moved * below**2).sum(axis=(1, 2))
    assert_allclose(slopes, 0, atol=0.02)
    assert_allclose((moved * (below**2 + right**2)).sum(axis=(1, 2)) / mass / 2, 40**2 * 3 / 64, rtol=0.05)


def test_position_brightness_and_contrast_do_not_matter():
    canvas = np.zeros((50, 20, 20))
    canvas[:, 4:12, 2:10] = X[:50].reshape(-1, 8, 8)
    elsewhere = np.roll(canvas, (5, 7), axis=(1, 2))
    move = ImageMoments((20, 20), scale=True, blur=0.5)
    moved = move.fit_transform(canvas.reshape(50, -1))
    assert_allclose(move.transform(elsewhere.reshape(50, -1)), moved, atol=1e-9)
    # Scaled pixels are negative, and empty space is not zero
    assert_allclose(move.transform(0.5 * canvas.reshape(50, -1) - 3), 0.5 * moved - 3, atol=1e-9)


def test_neighbors_of_images_that_were_moved_and_sheared_are_of_their_class():
    random = np.random.default_rng(0)
    canvas = np.zeros((600, 16, 16))
    for image, row, (down, aside) in zip(canvas, X, random.integers(0, 9, (600, 2))):
        image[down : down + 8, aside : aside + 8] = row.reshape(8, 8)
    rows = canvas.reshape(600, -1)

    def error(rows):
        squares = (rows**2).sum(axis=1)
        distances = squares[:, None] + squares - 2 * rows @ rows.T
        np.fill_diagonal(distances, np.inf)
        return np.mean(y[:600][distances.argmin(axis=1)] != y[:600])

    assert error(rows) > 0.2
    assert error(ImageMoments((16, 16)).fit_transform(rows)) < 0.04


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_images_without_structure_are_unchanged(shape):
    rows = images(shape)[-3:]
    for flags in FLAGS:
        assert_array_equal(moments(flags, shape).fit_transform(rows), rows)


def test_a_row_of_pixels_has_no_slant_and_a_pixel_no_size():
    line = np.zeros((1, 8, 8))
    line[0, 2, 1:4] = [0.1, 0.3, 0.2]  # the mean row is no exact 2 in floating point
    assert_array_equal(ImageMoments((8, 8), centre=False).fit_transform(line.reshape(1, -1)), line.reshape(1, -1))
    pixel = ImageMoments((9, 9), scale=True).fit_transform(np.eye(81)[:1]).reshape(9, 9)
    assert pixel.argmax() == 40 and pixel[4, 4] == 1 and 0.1 < pixel.min() < 0.2


# the same bits


def test_transformer_and_runtime_have_the_same_code():
    texts = [Path(module.__file__).read_text("utf-8") for module in (distill.runtime.moving, mbn.preprocessing.moving)]
    code, other = (text.split('"""', 2)[2] for text in texts)
    assert code == other, "distill/runtime/moving.py and mbn/preprocessing/moving.py are copies of each other"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_those_of_the_file_in_any_batch(shape):
    rows = images(shape)
    for flags in FLAGS:
        transformer = moments(flags, shape).fit(rows)
        together = transformer.transform(rows)
        assert together.dtype == np.float64
        assert_array_equal(np.vstack([transformer.transform(row[None]) for row in rows]), together)
        assert_array_equal(transformer.transform(np.asfortranarray(rows[::-1]))[::-1], together)
        step = MomentsStep(shape, *flags)
        preprocessing = Preprocessing(rows.shape[1], decode(Reader(encode(rows.shape[1], [step])), rows.shape[1])[1])
        assert preprocessing.steps == (step,)
        assert_array_equal(preprocessing(rows.copy()), together)
        assert_array_equal(np.vstack([preprocessing(row[None].copy()) for row in rows]), together)
        short = rows[:9].astype(np.float32)
        assert_array_equal(transformer.transform(short), preprocessing(short.astype(np.float64)).astype(np.float32))
        assert transformer.transform(short).dtype == np.float32


def test_blocks_of_many_images_have_the_same_bits():
    rows = np.random.default_rng(0).random((3 * mbn.preprocessing.moving.block_size(784) + 5, 784))
    transformer = ImageMoments((28, 28), scale=True).fit(rows)
    moved = transformer.transform(rows)
    assert_array_equal(transformer.transform(rows[100:]), moved[100:])
    assert_array_equal(transformer.transform(rows[90:91]), moved[90:91])


@pytest.fixture(scope="module")
def pipeline():
    student = Distiller(KMeans(5, n_init=1, random_state=0), hidden_layer_sizes=(8,), max_iter=2, random_state=0)
    return make_pipeline(ImageMoments((8, 8), blur=0.3), student).fit(X[:500])


def test_pipeline_and_file_predict_the_same_bits(pipeline, tmp_path):
    student = load(to_bytes(pipeline))
    assert student.report["bytes"]["preprocessing"] == 1 + 1 + 1 + 1 + 2 + 4
    for rows in (X, X.astype(np.float32), X.astype(np.uint8), X[:1]):
        assert_array_equal(student.predict_proba(rows), pipeline.predict_proba(rows))
    for other in (pickle.loads(pickle.dumps(student)), copy.deepcopy(student)):
        assert_array_equal(other.predict_proba(X[:9]), student.predict_proba(X[:9]))
    assert to_bytes(pipeline, dtype="float32") == to_bytes(pipeline)


def test_file_tells_of_its_step(pipeline, tmp_path, capsys):
    (tmp_path / "a.student").write_bytes(to_bytes(pipeline))
    assert main(["info", str(tmp_path / "a.student")]) == 0
    assert "moments, of 64 features" in capsys.readouterr().out


def test_steps_around_the_moments_are_kept_in_order(pipeline):
    steps = make_pipeline(MinMaxScaler((-1, 3)), ImageMoments((8, -1), scale=True), "passthrough", StandardScaler())
    student = clone(pipeline[-1]).fit(steps.fit_transform(X))
    steps.steps.append(("student", student))
    operations = [step.operation for step in container.decode(to_bytes(steps)).steps]
    assert operations == ["multiply", "add", "moments", "subtract", "divide"]
    assert_array_equal(load(to_bytes(steps)).predict_proba(X), steps.predict_proba(X))


def test_step_that_does_nothing_takes_no_bytes(pipeline):
    nothing = ImageMoments((8, 8), centre=False, deskew=False).fit(X)
    assert_array_equal(nothing.transform(X), X)
    assert to_bytes(make_pipeline(nothing, pipeline[-1])) == pipeline[-1].to_bytes()


def test_subclass_does_not_become_the_step_of_its_base(pipeline):
    class Shifted(ImageMoments):
        def transform(self, X):
            return super().transform(X) + 1

    with pytest.raises(TypeError, match=r"step 'shifted' \(Shifted\) cannot .* PCA, ImageMoments"):
        to_bytes(make_pipeline(Shifted((8, 8)).fit(X), pipeline[-1]))


def test_overflow_before_the_moments_is_named(pipeline):
    network = Network((np.eye(4, dtype=np.float32),), (np.zeros(4, np.float32),))
    steps = [Step("multiply", np.array(1e300)), MomentsStep((2, 2, 1), scale=True, blur=1.0)]
    student = Student(network, preprocessing=Preprocessing(4, steps))
    for row in ([[1e10, 2e10, -1e10, 0]], [[1e300, -1e300, 3, 1]], [[1e300] * 4]):
        with pytest.raises(ValueError, match="X before the network has values that are NaN, infinite"):
            student.transform(row)


@pytest.mark.parametrize("shape", [(8, 8, 1), (4, 3, 3), (1, 6, 2)], ids=str)
def test_onnx_agrees(shape):
    rows = images(shape)[[0, 1, 2, 3, 4, 5, 6, 7, *range(11, 18)]].astype(np.float32)
    n = rows.shape[1]
    network = Network((np.eye(n, dtype=np.float32),), (np.zeros(n, np.float32),))
    for flags in FLAGS[1::3]:
        student = Student(network, preprocessing=Preprocessing(n, [MomentsStep(shape, *flags)]))
        session = onnxruntime.InferenceSession(to_onnx(student).SerializeToString())
        found, expected = session.run(None, {"X": rows})[0], student.transform(rows)
        assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.ptp(rows, axis=1).max())
    assert session.run(None, {"X": rows[:0]})[0].shape == (0, n)


# what is refused


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((28, 28), r"shape=\(28, 28\) is that of images of 784 values, and X has 64 features"),
        ((8, 8, 3), r"images of 192 values, and X has 64 features"),
        ((-1, 7), r"images of 7 times any number of values, and X has 64 features"),
        ((2**40, 2**40), r"and X has 64 features"),
        ((8,), "must be height and width"),
        ((8, 8, 1, 1), "must be height and width"),
        ((8, 0), "must be height and width"),
        ((-1, -1), "must be height and width"),
        ((-8, -8), "must be height and width"),
        ((8.0, 8), "must be height and width"),
        ((True, 64), "must be height and width"),
    ],
)
def test_shape_that_does_not_fit_raises(shape, message):
    with pytest.raises(ValueError, match=message):
        ImageMoments(shape).fit(X)


def test_shape_is_completed():
    assert ImageMoments([8, -1]).fit(X).shape_ == (8, 8, 1)
    assert ImageMoments(np.array([4, 4, -1])).fit(X).shape_ == (4, 4, 4)


def test_invalid_input_raises():
    with pytest.raises(NotFittedError):
        ImageMoments((8, 8)).transform(X)
    transformer = ImageMoments((8, 8)).fit(X)
    with pytest.raises(ValueError, match="X has 32 features, but ImageMoments is expecting 64"):
        transformer.transform(X[:, :32])
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
            transformer.transform(np.where(np.arange(64) == 5, value, X[:3]))
    with pytest.raises(ValueError, match=r"row 1 of X has values from 0 to 1e\+308, too large for moments in float64"):
        transformer.transform(np.vstack([X[:1], np.where(np.arange(64) % 2, 1e308, 0)]))
    for more in ({"blur": -1}, {"blur": 65}, {"centre": "yes"}, {"scale": None}):
        with pytest.raises(ValueError, match=f"The '{next(iter(more))}' parameter of ImageMoments must be"):
            ImageMoments((8, 8), **more).fit(X)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (b"\x06\x03\x02\x03", r"shape \(2, 3\) for 4 features"),
        (b"\x06\x03\x00\x04", r"shape \(0, 4\) for 4 features"),
        (b"\x06\x03" + b"\xff\xff\xff\xff\x0f" * 2, "for 4 features"),
        (b"\x06\x0b\x02\x02\x01", r"shape \(2, 2, 1\) for 4 features"),
        (b"\x06\x00\x02\x02", "impossible flags 0"),
        (b"\x06\x08\x01\x02\x02", "impossible flags 8"),
        (b"\x06\x23\x02\x02", "impossible flags 35"),
        (b"\x0e\x03\x02\x02", "impossible flags 14"),
        (b"\x16\x03\x02\x02", "impossible flags 22"),
        (b"\x06\x10\x02\x02" + np.float32(65).tobytes(), "blur of 65"),
        (b"\x06\x10\x02\x02" + np.float32(0).tobytes(), "blur of 0"),
        (b"\x06\x10\x02\x02" + np.float32(np.nan).tobytes(), "blur of nan"),
        (b"\x06\x13\x02\x02\x00", "ends too early"),
        (b"\x06\x03\x82\x00\x02", "useless zeros"),
    ],
)
def test_damaged_step_raises(step, message):
    with pytest.raises(StudentFileError, match=message):
        decode(Reader(b"\x04\x01" + step), 4)


# scikit-learn


def test_names_output_and_clone():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"pixel {index}" for index in range(64)])
    transformer = ImageMoments((8, 8)).set_output(transform="pandas").fit(frame)
    shown = transformer.transform(frame)
    assert list(shown.columns) == list(frame.columns) == list(transformer.get_feature_names_out())
    again = clone(transformer)
    assert again.shape == (8, 8) and not hasattr(again, "shape_")
    assert_array_equal(shown, ImageMoments((8, 8)).fit_transform(X))
    assert "ImageMoments(shape=(8, 8))" in repr(transformer)
