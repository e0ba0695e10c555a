"""Reported faults, replayed: what is not known is said, and file and estimator agree."""

import io

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.cluster import DBSCAN, HDBSCAN, OPTICS, AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from distill import CodebookCompressor, Distiller, load, save
from distill.exceptions import FidelityWarning
from distill.pipeline import to_bytes
from distill.teachers import with_noise
from distill.training.scaling import coarse_feature

random = np.random.default_rng(0)
X, LABELS = make_blobs(300, 2, centers=4, cluster_std=0.5, random_state=3)


def distiller(teacher="precomputed", max_iter=20, **settings):
    return Distiller(teacher, hidden_layer_sizes=(64, 32), max_iter=max_iter, random_state=0, **settings)


def hardly_trained(teacher="precomputed"):
    """A student for what does not depend on how well it is trained."""
    return distiller(teacher, max_iter=1)


@pytest.fixture(scope="module")
def student():
    return load(distiller().fit(X, LABELS).to_bytes())


@pytest.mark.parametrize(
    "teacher",
    [
        HDBSCAN(min_cluster_size=20, copy=True),
        DBSCAN(eps=3),
        OPTICS(min_samples=20, max_eps=3, cluster_method="dbscan", eps=3),
        make_pipeline(StandardScaler(), DBSCAN(eps=0.8)),
        FrozenEstimator(DBSCAN(eps=3).fit(X)),
    ],
    ids=["HDBSCAN", "DBSCAN", "OPTICS", "pipeline", "frozen"],
)
def test_far_rows_are_noise_also_without_noise_in_the_fit(teacher):
    # hdbscan #361
    model = distiller(teacher).fit(X)
    far = X.mean(axis=0) + 100 * X.std(axis=0) * random.normal(size=(200, 2))
    assert model.classes_[0] == -1 and np.mean(model.predict(far) == -1) >= 0.99
    assert np.mean(model.predict(X) == -1) < 0.03


def test_clusterers_without_noise_have_no_label_for_it():
    assert -1 not in hardly_trained(AgglomerativeClustering(4)).fit(X).classes_

    class Refuses(DBSCAN):
        def fit_predict(self, X, y=None):
            raise RuntimeError

    predictions = distiller(DBSCAN(eps=3)).fit(X)  # a fitted teacher
    from distill.teachers import read_predictions

    read = read_predictions(predictions.teacher_, LABELS, "predict", len(X))
    assert with_noise(Refuses(), X, X, read) is read


@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(clip=True), RobustScaler()])
def test_missing_values_pass_through_the_scalers_of_a_file(scaler):
    rows = X.copy()
    rows[::5, 1] = np.nan
    pipeline = make_pipeline(scaler, hardly_trained(HistGradientBoostingRegressor(max_iter=10))).fit(rows, rows[:, 0])
    np.testing.assert_allclose(load(to_bytes(pipeline)).predict(rows), pipeline.predict(rows), rtol=1e-6)


def test_missing_values_in_front_of_a_product_are_refused():
    from sklearn.decomposition import PCA

    rows = X.copy()
    rows[::5, 1] = np.nan
    model = hardly_trained(HistGradientBoostingRegressor(max_iter=10)).fit(rows, rows[:, 0])
    pipeline = make_pipeline(PCA(2).fit(X), FrozenEstimator(model))
    with pytest.raises(ValueError, match="NaN"):
        load(to_bytes(pipeline)).predict(rows)


def test_a_label_that_no_row_keeps_is_said():
    labels = (random.random(len(X)) < 0.2).astype(int)
    with pytest.warns(FidelityWarning, match="label 1 for none of the rows that have it"):
        model = distiller().fit(random.normal(size=(len(X), 2)), labels)
    assert model.report_["agreement_per_class"][1] == 0


def test_rows_coarser_than_those_of_the_fit_are_said():
    rows = 1e9 + X
    model = distiller().fit(rows, LABELS)
    for estimator in (model, load(model.to_bytes())):
        with pytest.warns(UserWarning, match="column 0 of X is float32.*give it float64"):
            estimator.predict(rows.astype(np.float32))
    assert np.mean(model.predict(rows) == LABELS) > 0.98


@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")
@pytest.mark.parametrize(
    "rows",
    [(X * 100).astype(np.int64) + 2**60, (1e8 + X).astype(np.float32), np.c_[X, 1e17 + X]],
    ids=["int64", "float32", "float64"],
)
def test_differences_below_the_resolution_of_their_type_are_said(rows):
    with pytest.warns(UserWarning, match="a few steps of its type"):
        hardly_trained().fit(rows, LABELS)


@pytest.mark.parametrize(
    "rows", [X, np.round(X), (X > 0).astype(np.float32), np.round(X).astype(np.int64), sparse.csr_array(X), X + 1e9]
)
def test_ordinary_rows_are_not_coarse(rows):
    assert coarse_feature(rows) is None


def test_a_teacher_that_contradicts_the_labels_of_its_fit_is_said():
    class Contradicts(KMeans):
        def fit_predict(self, X, y=None, sample_weight=None):
            return 3 - self.fit(X).labels_

    with pytest.warns(UserWarning, match="predicts the labels of its own fit for 0.0% of the training rows only"):
        hardly_trained(Contradicts(4, n_init=1, random_state=0)).fit(X + 1e6)


def test_compressed_students_keep_the_names_of_the_columns():
    frame = pd.DataFrame(X, columns=["b", "a"])
    model = hardly_trained().fit(frame, LABELS)
    for wrapped in (load(model.to_bytes()), FrozenEstimator(model)):
        compressed = load(CodebookCompressor(wrapped, bits=4, max_iter=1, random_state=0).fit(X).to_bytes())
        assert compressed.feature_names_in_.tolist() == ["b", "a"]
        np.testing.assert_array_equal(compressed.predict(frame[["a", "b"]]), compressed.predict(X))


def test_loaded_students_are_scored_and_saved_again(student, tmp_path):
    assert student.score(X, LABELS) == np.mean(student.predict(X) == LABELS) > 0.9
    assert len(cross_val_score(student, X, LABELS, cv=2)) == 2
    with pytest.raises(ValueError, match="y is None"):
        student.score(X, None)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        student.score(X, LABELS[:2])
    student.save(tmp_path / "again.student")
    assert (tmp_path / "again.student").read_bytes() == student.to_bytes()
    scaler = StandardScaler().fit(X * 7)
    file = io.BytesIO()
    save(make_pipeline(scaler, student), file)
    np.testing.assert_array_equal(load(file.getvalue()).predict(X), student.predict(scaler.transform(X)))
    with pytest.raises(ValueError, match="not read from a file"):
        type(student)(student.network).to_bytes()


def test_scores_of_a_loaded_regression():
    y = np.c_[X @ [1.0, 2.0], np.full(len(X), 5.0)]
    model = hardly_trained().fit(X, y)
    student = load(model.to_bytes())
    np.testing.assert_allclose(student.transform(X)[:, 1], 5.0, rtol=1e-6)  # a constant stays one
    expected = 1 - np.square(y - student.transform(X)).sum() / np.square(y - y.mean(axis=0)).sum()
    assert student.score(X, y) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [np.array([b"a", b"b", b"c", b"d"])[LABELS], pd.to_datetime(LABELS, unit="D")])
def test_labels_that_no_file_can_hold_are_an_error_before_the_training(labels, monkeypatch):
    monkeypatch.setattr("distill.distiller.fit_student", None)
    with pytest.raises(ValueError, match="integers, all strings"):
        distiller().fit(X, labels)


@pytest.mark.parametrize(
    "rows",
    [
        pd.DataFrame({"a": X[:, 0], "t": pd.Timestamp("2020") + pd.to_timedelta(X[:, 1], unit="D")}),
        pd.DataFrame({"a": X[:, 0], "t": pd.to_timedelta(X[:, 1], unit="D")}),
        X.astype("datetime64[s]"),
    ],
    ids=["dates", "time spans", "array"],
)
def test_dates_are_named(rows):
    with pytest.raises(ValueError, match="dates or time spans in column"):
        distiller().fit(rows, LABELS)


@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")
def test_unused_inputs_take_a_bit_each():
    rows = sparse.random(200, 3000, density=1e-3, random_state=0, format="csr") + sparse.csr_array(
        (np.full(200, 3.0), (np.arange(200), np.arange(200) % 4 * 10)), shape=(200, 3000)
    )
    labels = np.arange(200) % 4
    model = hardly_trained().fit(rows.tocsr(), labels)
    n_used = len(np.unique(rows.tocsr().indices))
    assert n_used < 1000 and model.report_["bytes"]["weights"] < 5 * 64 * n_used
    compressed = CodebookCompressor(FrozenEstimator(model), bits=2, max_iter=1, random_state=0).fit(
        rows.tocsr(), labels
    )
    assert compressed.report_["bytes"].get("input", 0) <= 3000 / 8 + 8 * n_used + 8
    assert (load(compressed.to_bytes()).predict(rows) == compressed.predict(rows.tocsr())).all()
