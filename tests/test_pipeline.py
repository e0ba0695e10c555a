"""Pipelines as student files, and the estimators as steps of scikit-learn's pipelines."""

import pickle
import zlib

import independent_reader
import joblib
import numpy as np
import onnxruntime
import pytest
from fresh_process import run_python
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import NMF, PCA
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from some_students import make_network, make_rows

from distill import (
    CodebookCompressor,
    Distiller,
    MatrixGaussianCompressor,
    RandomCodeCompressor,
    SpikeSlabCompressor,
    Student,
    StudentFileError,
    load,
    save,
    to_onnx,
)
from distill.__main__ import main
from distill.codecs import container
from distill.codecs.preprocessing import Step, decode, encode
from distill.codecs.reader import Reader
from distill.model_selection import fidelity_scorer
from distill.pipeline import to_bytes
from distill.runtime.preprocessing import Preprocessing

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X, y = load_digits(return_X_y=True)
# Offsets and scales of very different size: what a scaler is for
SKEWED = X * np.geomspace(1e-6, 1e6, 64) + np.linspace(-1e5, 1e5, 64)
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 3, "random_state": 0}
SCALERS = [
    StandardScaler(),
    StandardScaler(with_mean=False),
    StandardScaler(with_std=False),
    MinMaxScaler(),
    MinMaxScaler((-1, 1), clip=True),
    MaxAbsScaler(),
    RobustScaler(),
    RobustScaler(with_centering=False, unit_variance=True),
]


def fitted(*steps, rows=SKEWED, teacher=None):
    teacher = KMeans(5, n_init=1, random_state=0) if teacher is None else teacher
    return make_pipeline(*steps, Distiller(teacher, **SMALL)).fit(rows[:600], y[:600])


@pytest.fixture(scope="module")
def scaled():
    return fitted(StandardScaler())


# agreement with the pipeline


@pytest.mark.filterwarnings("ignore:the teacher KMeans predicts the labels of its own fit")  # it does, far from zero
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_scalers_predict_the_same_bits(scaler, tmp_path):
    pipeline = fitted(scaler)
    save(pipeline, tmp_path / "a.student")
    student = load(tmp_path / "a.student")
    assert_array_equal(student.predict_proba(SKEWED), pipeline.predict_proba(SKEWED))
    assert_array_equal(student.predict(SKEWED[:1]), pipeline.predict(SKEWED[:1]))
    integers = np.rint(SKEWED).astype(np.int64)
    assert_array_equal(student.predict_proba(integers), pipeline.predict_proba(integers))
    assert student.report["bytes"]["preprocessing"] > 0
    assert sum(student.report["bytes"].values()) == (tmp_path / "a.student").stat().st_size == len(to_bytes(pipeline))


def test_float32_rows_differ_by_their_rounding(scaled):
    rows = X.astype(np.float32)
    pipeline = fitted(StandardScaler(), rows=X)
    assert_allclose(load(to_bytes(pipeline)).predict_proba(rows), pipeline.predict_proba(rows), atol=1e-5)


@pytest.mark.parametrize("steps", [
    (PCA(10),),
    (StandardScaler(), PCA(0.9, whiten=True)),
    (PCA(12, svd_solver="randomized", random_state=0), MinMaxScaler(clip=True)),
], ids=repr)  # fmt: skip
def test_principal_components_agree_within_rounding(steps):
    rows = SKEWED if len(steps) == 2 and isinstance(steps[0], StandardScaler) else X
    pipeline = fitted(*steps, rows=rows, teacher=Ridge())
    student = load(to_bytes(pipeline))
    expected = pipeline.predict(rows)
    assert_allclose(student.predict(rows), expected, atol=2e-5 * expected.std())
    assert student.n_features_in_ == 64 and student.network.n_features < 64


def test_row_is_bit_identical_in_any_batch(scaled):
    student = load(to_bytes(fitted(RobustScaler(), PCA(20), MinMaxScaler())))
    together = student.raw_outputs(SKEWED)
    alone = np.vstack([student.raw_outputs(row[None]) for row in SKEWED[:50]])
    assert_array_equal(alone, together[:50])
    assert_array_equal(
        np.vstack([student.raw_outputs(SKEWED[1000:]), together[:1000]])[: len(X) - 1000], together[1000:]
    )


def test_centered_principal_components_need_no_offset():
    centered = make_pipeline(StandardScaler(), PCA(8)).fit(X)
    with_mean = PCA(8).fit(X)
    student = Distiller(KMeans(3, n_init=1, random_state=0), **SMALL).fit(centered.transform(X))
    files = [to_bytes(Pipeline([("a", first), ("b", student)])) for first in (centered, with_mean)]
    operations = [[step.operation for step in container.decode(data).steps] for data in files]
    assert operations == [["subtract", "divide", "product"], ["subtract", "product"]]


def test_float32_halves_the_preprocessing(scaled):
    pipeline = fitted(StandardScaler(), rows=X)
    long, short = (load(to_bytes(pipeline, dtype=dtype)) for dtype in ("float64", "float32"))
    assert long.report["bytes"]["preprocessing"] == 3 + 2 * (1 + 64 * 8) - 1
    assert short.report["bytes"]["preprocessing"] == 3 + 2 * (1 + 64 * 4) - 1
    assert_allclose(short.predict_proba(X), pipeline.predict_proba(X), atol=1e-5)
    # float32 cuts digits of the offset, which scaled rows need: the reason for the default
    long, short = (load(to_bytes(scaled, dtype=dtype)) for dtype in ("float64", "float32"))
    assert np.mean(short.predict(SKEWED) == long.predict(SKEWED)) < 0.5


def test_equal_and_short_numbers_are_stored_compactly():
    pipeline = fitted(MaxAbsScaler().fit(np.full((1, 64), 16.0)), rows=X)
    pipeline.steps[0] = ("scale", MaxAbsScaler().fit(np.full((1, 64), 16.0)))
    assert load(to_bytes(pipeline)).report["bytes"]["preprocessing"] == 1 + 1 + 1 + 4


# supported steps


def test_nested_pipelines_and_passthrough_steps():
    nested = make_pipeline(make_pipeline(StandardScaler(), "passthrough"), None, FrozenEstimator(MaxAbsScaler().fit(X)))
    pipeline = fitted(*(step for _, step in nested.steps))
    assert_array_equal(load(to_bytes(pipeline)).predict_proba(SKEWED), pipeline.predict_proba(SKEWED))
    assert [step.operation for step in container.decode(to_bytes(pipeline)).steps] == ["subtract", "divide", "divide"]


def test_pipeline_of_one_student_is_its_file(scaled):
    student = scaled[-1]
    assert to_bytes(student) == to_bytes(make_pipeline(student)) == student.to_bytes()


def test_pipeline_with_compressor(tmp_path):
    compressor = CodebookCompressor(Distiller(KMeans(5, n_init=1, random_state=0), **SMALL), max_iter=1, random_state=0)
    pipeline = make_pipeline(StandardScaler(), compressor).fit(SKEWED)
    save(pipeline, tmp_path / "a.student")
    assert_array_equal(load(tmp_path / "a.student").predict(SKEWED), pipeline.predict(SKEWED))


@pytest.mark.parametrize("step", [KNNImputer(), NMF(2, init="random", random_state=0, tol=1)])
def test_unsupported_step_raises(step):
    pipeline = fitted(MinMaxScaler(), step, rows=X)
    for write in (to_bytes, to_onnx):
        with pytest.raises(TypeError, match=rf"step '{type(step).__name__.lower()}' \({type(step).__name__}\) cannot"):
            write(pipeline)


def test_subclass_of_supported_step_raises():
    class Shifted(StandardScaler):
        def transform(self, X):
            return super().transform(X) + 1

    with pytest.raises(TypeError, match="Shifted"):
        to_bytes(fitted(Shifted(), rows=X))


def test_invalid_input_raises(scaled):
    with pytest.raises(TypeError, match=r"ends in one, got step 'kmeans' .KMeans"):
        to_bytes(make_pipeline(StandardScaler(), KMeans(2)))
    with pytest.raises(TypeError, match=r"got estimator .KMeans"):
        save(KMeans(2), "never written")
    with pytest.raises(NotFittedError):
        to_bytes(make_pipeline(StandardScaler(), Distiller(KMeans(2))))
    with pytest.raises(ValueError, match="dtype must be one of 'float64', 'float32', got 'float16'"):
        to_bytes(scaled, dtype="float16")
    student = load(to_bytes(scaled))
    with pytest.raises(ValueError, match=r"64 features|fitted with 64"):
        student.predict(X[:, :10])
    with pytest.raises(ValueError, match=r"NaN, infinite or too large for float64.*in column 3"):
        student.predict(np.where(np.arange(64) == 3, np.nan, SKEWED[:2]))
    with pytest.raises(ValueError, match="X before the network has values"):
        student.predict(np.full((1, 64), 1e300))


def test_feature_names_are_those_of_the_pipeline_input():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(SKEWED, columns=[f"pixel {index}" for index in range(64)])
    pipeline = make_pipeline(StandardScaler(), PCA(5), Distiller(KMeans(3, n_init=1, random_state=0), **SMALL))
    pipeline.set_output(transform="pandas").fit(frame)
    student = load(to_bytes(pipeline))
    assert_array_equal(student.feature_names_in_, frame.columns)
    assert_array_equal(student.predict(frame), pipeline.predict(frame))
    assert_array_equal(student.predict(frame[frame.columns[::-1]]), pipeline.predict(frame))
    # Names made by an inner step are not those of the input
    assert load(to_bytes(pipeline.fit(SKEWED))).network.feature_names is None


# the section


def test_steps_equal_their_definition():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(6, 4)).astype(np.float32)
    steps = [
        Step("subtract", random.normal(size=6)),
        Step("divide", np.full(6, 3.0)),
        Step("clip", np.array([-0.4, 0.3])),
        Step("product", matrix),
        Step("multiply", random.normal(size=4)),
        Step("add", np.array(0.5)),
    ]
    written = encode(6, steps)
    reader = Reader(written)
    n_features, read = decode(reader, 4)
    reader.finish()
    rows = random.normal(size=(9, 6))
    expected = np.clip((rows - steps[0].values) / 3.0, -0.4, 0.3) @ matrix.astype(np.float64)
    expected = expected * steps[4].values + 0.5
    for some in (steps, read):
        assert_allclose(Preprocessing(6, some)(rows.copy()), expected, atol=1e-6)
    assert n_features == 6 and encode(6, read) == written


def test_damaged_steps_raise():
    steps = [
        Step("divide", np.arange(1.0, 4.0)),
        Step("product", np.ones((3, 2), np.float32)),
        Step("clip", np.arange(2.0)),
    ]
    sound = encode(3, steps)
    for length in range(len(sound)):
        with pytest.raises(StudentFileError):
            decode(Reader(sound[:length]), 2)
    for damaged, message in [
        (b"\x00\x01\x08" + bytes(8), "0 features"),
        (b"\x03\x00", "0 steps"),
        (b"\x03\x01\x07", "cannot read"),
        (b"\x03\x01\x20", "cannot read"),
        (b"\x03\x01\x0d\x02", "impossible flags"),
        (b"\x03\x01\x0c" + bytes(16), "impossible flags"),
        (b"\x02\x01\x19" + bytes(4), "divides by zero"),
        (b"\x02\x01\x18\x00\x00\xc0\x7f", "NaN"),
        (b"\x02\x01\x14\x00\x00\x80\x3f" + bytes(4), "empty range"),
        (b"\x03\x01\x18" + bytes(4), "leads to 3 inputs, and the network has 2"),
        (b"\xff\xff\xff\xff\x0f\x02\x05\x00\x05\x02", "without outputs"),
        (b"\xff\xff\xff\xff\x0f\x01\x05\xff\xff\xff\xff\x0f", "ends too early"),
    ]:
        with pytest.raises(StudentFileError, match=message):
            decode(Reader(damaged), 2)
    with pytest.raises(ValueError, match="1 to 255 steps"):
        encode(3, [])


def test_steps_must_come_first_and_once(scaled):
    body = scaled[-1].to_bytes()[:-4]
    for forged in (body + b"\x00\x07\x40\x01\x18" + bytes(4), body + b"\x00\x00"):
        with pytest.raises(StudentFileError):
            load(forged + zlib.crc32(forged).to_bytes(4, "little"))


def test_independent_reader_agrees():
    pipeline = fitted(StandardScaler(), PCA(7), MinMaxScaler(clip=True), rows=X, teacher=Ridge())
    network = independent_reader.read(to_bytes(pipeline))
    answers = [independent_reader.sums(network, row)[0] for row in X[:5].tolist()]
    assert_allclose(answers, pipeline.predict(X[:5]), rtol=1e-4)


@pytest.mark.parametrize("steps", [(StandardScaler(),), (RobustScaler(), PCA(9), MinMaxScaler(clip=True))], ids=repr)
def test_onnx_agrees(steps):
    rows = X.astype(np.float32)
    pipeline = fitted(*steps, rows=X)
    for source in (pipeline, load(to_bytes(pipeline))):
        session = onnxruntime.InferenceSession(to_onnx(source).SerializeToString())
        assert session.get_inputs()[0].shape[1] == 64
        label, probabilities = session.run(["label", "probabilities"], {"X": rows})
        assert_allclose(probabilities, load(to_bytes(pipeline)).predict_proba(rows), atol=1e-5)
        assert np.mean(label == pipeline.predict(rows)) > 0.999


def test_decision_function():
    pipeline = fitted(StandardScaler(), teacher=IsolationForest(n_estimators=10, random_state=0))
    student = load(to_bytes(pipeline))
    assert_array_equal(student.decision_function(SKEWED), pipeline.decision_function(SKEWED))
    assert set(np.unique(student.predict(SKEWED))) <= {-1, 1}


def test_file_of_a_pipeline_needs_numpy_only(scaled, tmp_path):
    save(scaled, tmp_path / "a.student")
    np.save(tmp_path / "rows.npy", SKEWED[:20])
    code = (
        "import sys, numpy as np, distill;"
        "print(*distill.load(sys.argv[1]).predict(np.load(sys.argv[2])));"
        "assert not {'torch', 'sklearn', 'scipy', 'joblib'} & set(sys.modules)"
    )
    printed = run_python(code, tmp_path / "a.student", tmp_path / "rows.npy").split()
    assert printed == [str(label) for label in scaled.predict(SKEWED[:20])]


def test_command_line_reads_all_digits(scaled, tmp_path, capsys):
    save(scaled, tmp_path / "a.student")
    np.savetxt(tmp_path / "rows.csv", SKEWED, delimiter=",", fmt="%.17g")
    assert main(["predict", str(tmp_path / "a.student"), str(tmp_path / "rows.csv")]) == 0
    assert_array_equal([int(line) for line in capsys.readouterr().out.split()], scaled.predict(SKEWED))
    assert main(["info", str(tmp_path / "a.student")]) == 0
    assert "subtract, divide, of 64 features" in capsys.readouterr().out


def test_student_with_preprocessing():
    network = make_network((4, 3))
    student = Student(network, preprocessing=Preprocessing(4, [Step("multiply", np.array(2.0))]))
    rows = make_rows(5, 4)
    assert_array_equal(student.transform(rows), Student(network).transform(rows * np.float32(2)))


# as steps of scikit-learn's pipelines


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_and_feature_names_in_pipelines(library):
    module = pytest.importorskip(library)
    names = [f"pixel {index}" for index in range(64)]
    frame = module.DataFrame(dict(zip(names, X.T)))
    embed = CodebookCompressor(Distiller(PCA(3), **SMALL), max_iter=1, random_state=0)
    pipeline = make_pipeline(MinMaxScaler(), embed, StandardScaler()).set_output(transform=library).fit(frame)
    shown = pipeline.transform(frame)
    expected = [f"codebookcompressor{index}" for index in range(3)]
    assert isinstance(shown, module.DataFrame) and list(shown.columns) == expected
    assert list(pipeline.get_feature_names_out()) == expected
    assert list(pipeline.feature_names_in_) == names
    plain = make_pipeline(MinMaxScaler(), clone(embed), StandardScaler()).fit(X)
    assert_array_equal(np.asarray(shown), plain.transform(X))
    # The student's file keeps the names that it was fitted with
    assert list(load(pipeline[1].to_bytes()).feature_names_in_) == names


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [
    Distiller(KMeans(4, n_init=1, random_state=0), **SMALL),
    CodebookCompressor(Distiller(KMeans(4, n_init=1), **SMALL), max_iter=1, random_state=0),
    SpikeSlabCompressor(Distiller(KMeans(4, n_init=1), **SMALL), max_iter=1, fine_tune_iter=0, random_state=0),
    MatrixGaussianCompressor(Distiller(KMeans(4, n_init=1), **SMALL), max_iter=1, random_state=0),
    RandomCodeCompressor(
        Distiller(KMeans(4, n_init=1), **SMALL), max_bytes=200, n_steps=5, n_refinements=0, random_state=0
    ),
], ids=lambda estimator: type(estimator).__name__)  # fmt: skip
def test_hash_of_fitted_estimators_is_stable(estimator):
    first, second = clone(estimator).fit(X), clone(estimator).fit(X)
    again = pickle.loads(pickle.dumps(first))
    assert joblib.hash(first) == joblib.hash(second) == joblib.hash(again)
    first.predict(X)
    assert joblib.hash(first) == joblib.hash(again)
    assert again.to_bytes() == first.to_bytes()


def test_progress_is_nested_through_searches_and_pipelines():
    pytest.importorskip("sklearn.callback")
    tasks = []

    class Notes:
        max_propagation_depth = None

        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context):
            names = []
            while context is not None:
                names.append(f"{context.estimator_name} {context.task_name}")
                context = context.parent
            tasks.append(names[::-1])

        def on_fit_task_end(self, estimator, context): ...

    compressor = CodebookCompressor(Distiller(KMeans(4, n_init=1, random_state=0), **SMALL), max_iter=2, random_state=0)
    pipeline = Pipeline([("scale", StandardScaler()), ("compress", compressor)])
    GridSearchCV(pipeline, {"compress__bits": [1, 2]}, cv=2, scoring=fidelity_scorer).set_callbacks(Notes()).fit(
        X[:200]
    )
    deepest = [" > ".join(names) for names in tasks if names[-1].endswith("student-step")]
    # 2 settings x 2 folds and the final fit, each with 3 epochs
    assert len(deepest) == 5 * 3
    assert all("GridSearchCV" in path and "Pipeline" in path for path in deepest)
    assert all(path.index("CodebookCompressor") < path.index("Distiller") for path in deepest)
    assert sum(names[-1].endswith("compress-step") for names in tasks) == 5 * 2
