"""The data, labels and errors of the displays; their appearance was checked by eye."""

import matplotlib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.manifold import SpectralEmbedding
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import CodebookCompressor, Distiller, SpikeSlabCompressor
from mbn import MBNClustering

matplotlib.use("Agg")
from distill.plotting import (
    EmbeddingDisplay,
    InclusionDisplay,
    StructureDisplay,
    TradeOffDisplay,
    WeightCodesDisplay,
)

# Students are trained for a few epochs only
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X, y = load_digits(return_X_y=True)
X, y = X[:400], y[:400]
SMALL = {"hidden_layer_sizes": (12,), "max_iter": 3, "random_state": 0}
RESULTS = {
    "params": [{"step": KMeans(2)}, {"step": KMeans(3)}, {"step": PCA(2)}, {"step": PCA(3)}],
    "mean_test_fidelity": np.array([0.9, 0.8, 0.99, np.nan]),
    "std_test_fidelity": np.array([0.01, 0.02, 0.01, np.nan]),
    "mean_test_size": np.array([-100.0, -200.0, -300.0, np.nan]),
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    matplotlib.pyplot.close("all")


def test_trade_offs():
    display = TradeOffDisplay.from_cv_results(RESULTS, color_by="step", chosen=2, color="red")
    assert_array_equal(display.front, [0, 2])
    front = next(line for line in display.ax_.lines if line.get_label() == "best trade-offs")
    assert_array_equal(front.get_xdata(), [100, 300])
    assert_array_equal(front.get_ydata(), [0.9, 0.99])
    assert front.get_color() == "red"
    legend = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert {"KMeans", "PCA", "best trade-offs", "chosen"} == set(legend)
    assert display.figure_ is display.ax_.figure
    _, ax = matplotlib.pyplot.subplots()
    assert TradeOffDisplay.from_cv_results(RESULTS, ax=ax).ax_ is ax
    assert_array_equal(display.std, RESULTS["std_test_fidelity"])
    display.figure_.canvas.draw()


def test_deviation_is_the_former_name_of_std():
    n_bytes, fidelity, std = np.array([100, 200]), np.array([0.8, 0.9]), np.array([0.1, 0.2])
    with pytest.warns(FutureWarning, match="'deviation' of TradeOffDisplay was renamed to 'std'"):
        display = TradeOffDisplay(n_bytes, fidelity, deviation=std, front=np.array([0, 1]))
    assert display.std is std and display.plot().ax_.containers[0].has_yerr


def test_embeddings_side_by_side():
    student = Distiller(PCA(2), **SMALL).fit(X)
    display = EmbeddingDisplay.from_estimator(student, X, y)
    assert_allclose(display.teacher, student.teacher_.transform(X))
    assert_allclose(display.student, student.transform(X))
    assert display.fidelity == pytest.approx(student.score(X))
    for ax, points in zip(display.axes_, (display.teacher, display.student)):
        assert_allclose(ax.collections[0].get_offsets(), points)
    assert "R²" in display.axes_[1].get_title()
    display.figure_.canvas.draw()


@pytest.mark.parametrize("n_components", [1, 5])
def test_embeddings_of_other_width_are_projected_to_two_dimensions(n_components):
    pipeline = make_pipeline(StandardScaler(), Distiller(PCA(n_components), **SMALL)).fit(X)
    display = EmbeddingDisplay.from_estimator(pipeline, X, y / 7, s=3)
    assert display.teacher.shape == display.student.shape == (400, 2)


def test_teacher_without_transform_needs_an_embedding():
    student = Distiller(SpectralEmbedding(2, random_state=0), **SMALL).fit(X)
    with pytest.raises(ValueError, match="rows of its fit only"):
        EmbeddingDisplay.from_estimator(student, X)
    embedding = student.teacher_.embedding_
    assert_array_equal(EmbeddingDisplay.from_estimator(student, X, embedding=embedding).teacher, embedding)
    with pytest.raises(TypeError, match="that transforms"):
        EmbeddingDisplay.from_estimator(Distiller(KMeans(3, n_init=1), **SMALL).fit(X), X)


def test_inclusion_as_an_image():
    student = Distiller(KMeans(4, n_init=1, random_state=0), **SMALL)
    pruned = SpikeSlabCompressor(student, max_iter=2, fine_tune_iter=1, random_state=0).fit(X)
    display = InclusionDisplay.from_estimator(pruned, cmap="gray")
    assert_array_equal(display.image_.get_array(), pruned.feature_inclusion_.reshape(8, 8))
    assert InclusionDisplay.from_estimator(pruned, (4, 16)).inclusion.shape == (4, 16)
    with pytest.raises(ValueError, match=r"shape=\(3, 5\) is no image of 64 features"):
        InclusionDisplay.from_estimator(pruned, (3, 5))
    with pytest.raises(NotFittedError):
        InclusionDisplay.from_estimator(SpikeSlabCompressor(student))


@pytest.mark.parametrize("grouping", ["scales", "codebooks"])
def test_weight_codes(grouping):
    student = Distiller(KMeans(4, n_init=1, random_state=0), **SMALL)
    small = CodebookCompressor(student, bits=2, n_groups=3, grouping=grouping, max_iter=1, random_state=0).fit(X)
    display = WeightCodesDisplay.from_estimator(small, 0)
    weight = small.network_.weights[0]
    assert display.codes.shape == weight.shape
    assert_array_equal(display.codes.max(axis=1) < 0, ~weight.any(axis=1))  # pixels that are always black
    for column, codes in zip(weight.T, display.codes.T):
        for code in np.unique(codes[codes >= 0]):
            assert len(np.unique(column[codes == code])) == 1
    bars = [patch.get_height() for patch in display.axes_[1].patches]
    assert sum(bars) == np.sum(display.codes >= 0)
    assert WeightCodesDisplay.from_estimator(small, -1).layer == 1
    display.figure_.canvas.draw()
    with pytest.raises(TypeError, match="fitted CodebookCompressor"):
        WeightCodesDisplay.from_estimator(small.estimator_)


def test_structure():
    model = make_pipeline(StandardScaler(), MBNClustering(10, n_estimators=10, random_state=0)).fit(X)
    display = StructureDisplay.from_estimator(model, color="green")
    choice = model[-1].structure_["k"]
    assert_array_equal(display.line_.get_xdata(), choice.candidates)
    assert_array_equal(display.line_.get_ydata(), choice.scores)
    assert display.line_.get_color() == "green" and display.ax_.get_xlabel() == "k"
    assert display.ax_.get_legend().get_texts()[0].get_text() == f"chosen: {choice.chosen}"
    display.figure_.canvas.draw()
    metric = StructureDisplay.from_estimator(model, "metric")
    assert_array_equal(metric.line_.get_ydata(), model[-1].structure_["metric"].scores)
    assert [label.get_text() for label in metric.ax_.get_xticklabels()] == ["euclidean", "cosine"]
    metric.figure_.canvas.draw()
    with pytest.raises(ValueError, match="'n_clusters' was not chosen from the data by MBNClustering"):
        StructureDisplay.from_estimator(model, "n_clusters")
    with pytest.raises(ValueError, match="too few for a pilot"):
        StructureDisplay.from_estimator(MBNClustering(2, n_estimators=5, random_state=0).fit(X[:50]))
    one = StructureDisplay([2, 3], [0.3, 0.2], 1, parameter="n_clusters").plot()  # none of the candidates
    assert one.ax_.get_legend().get_texts()[0].get_text() == "chosen: 1"
