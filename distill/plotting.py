"""Displays of trade-offs, embeddings, inclusion probabilities and codes, in scikit-learn's style; needs matplotlib."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from distill.base import StudentMixin
from distill.codecs import container
from distill.codecs.codebook import CODEBOOK, decode_layer
from distill.codecs.reader import Reader
from distill.model_selection.scores import mean_scores, pareto_front

__all__ = ["EmbeddingDisplay", "InclusionDisplay", "StructureDisplay", "TradeOffDisplay", "WeightCodesDisplay"]

# Classes with distinct colors, as many as the color map tab20 has; more are drawn on a continuous scale
_MOST_CLASSES = 20


class TradeOffDisplay:
    """Size against fidelity of the candidates of a search, with the Pareto front.

    Usually created by `from_cv_results`.

    Parameters
    ----------
    n_bytes, fidelity : ndarray of shape (n_candidates,)
        Means over the folds.
    std : ndarray of shape (n_candidates,) or None
        Standard deviations of the fidelity over the folds.
    front : ndarray of int or None
        Positions of the candidates on the Pareto front, smallest file first.
    labels : list of str or None
        Category of each candidate, shown by its color.
    labels_name : str or None
        Name of the categories: the title of the legend.
    chosen : int or None
        Position of the chosen candidate.
    deviation : ndarray of shape (n_candidates,) or None
        Former name of `std`.

        .. deprecated:: 0.1
            Use `std`.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from distill.plotting import TradeOffDisplay
    >>> results = {"mean_test_fidelity": [0.9, 0.8, 0.99], "mean_test_size": [-100, -200, -300], "params": [{}] * 3}
    >>> TradeOffDisplay.from_cv_results(results).front
    array([0, 2])
    """

    def __init__(
        self,
        n_bytes: np.ndarray,
        fidelity: np.ndarray,
        *,
        std: np.ndarray | None = None,
        front: np.ndarray | None = None,
        labels: Sequence[str] | None = None,
        labels_name: str | None = None,
        chosen: int | None = None,
        deviation: np.ndarray | None = None,
    ):
        self.n_bytes = n_bytes
        self.fidelity = fidelity
        if deviation is not None:
            warnings.warn(
                "the parameter 'deviation' of TradeOffDisplay was renamed to 'std' in version 0.1 and will be removed "
                "in 0.2; set 'std' instead",
                FutureWarning,
                stacklevel=2,
            )
            std = deviation
        self.std = std
        self.front = front
        self.labels = labels
        self.labels_name = labels_name
        self.chosen = chosen

    @classmethod
    def from_cv_results(
        cls,
        cv_results: Mapping[str, Any],
        *,
        fidelity: str = "fidelity",
        size: str = "size",
        color_by: str | None = None,
        chosen: int | None = None,
        ax=None,
        **line_kw,
    ) -> "TradeOffDisplay":
        """Create and draw the display of a search.

        Parameters
        ----------
        cv_results : dict
            The `cv_results_` of a search with `distill.model_selection.SCORING`, or an AutoCompressor's
            `search_results_`.
        fidelity, size : str
            Names of the scores.
        color_by : str or None
            Name of a parameter whose values are shown by color; estimators are compared by class name.
        chosen : int or None
            Position of a candidate to be marked, such as `best_index_`.
        ax : matplotlib Axes or None
        **line_kw
            Passed to `plot` for the line of the front.

        Returns
        -------
        TradeOffDisplay
        """
        scores, n_bytes = mean_scores(cv_results, fidelity, size)
        std = cv_results.get(f"std_test_{fidelity}")
        labels = None
        if color_by is not None:
            labels = [_label(parameters.get(color_by)) for parameters in cv_results["params"]]
        front = pareto_front(cv_results, fidelity=fidelity, size=size)
        display = cls(
            n_bytes,
            scores,
            std=None if std is None else np.asarray(std, float),
            front=front,
            labels=labels,
            labels_name=color_by,
            chosen=chosen,
        )
        return display.plot(ax=ax, **line_kw)

    def plot(self, *, ax=None, **line_kw) -> "TradeOffDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes or None
            None for a new figure.
        **line_kw
            Passed to `plot` for the line of the front.

        Returns
        -------
        TradeOffDisplay
            Itself, with `ax_` and `figure_`.
        """
        self.ax_ = ax = _axes(ax)
        self.figure_ = ax.figure
        labels = np.asarray(self.labels if self.labels is not None else [""] * len(self.n_bytes), dtype=object)
        for index, label in enumerate(dict.fromkeys(labels)):
            shown = labels == label
            ax.errorbar(
                self.n_bytes[shown],
                self.fidelity[shown],
                None if self.std is None else self.std[shown],
                fmt="o",
                markersize=5,
                elinewidth=0.8,
                color=f"C{index}",
                alpha=0.75,
                label=label or None,
            )
        if self.front is not None:
            style = {
                "color": "0.3",
                "linewidth": 1.2,
                "drawstyle": "steps-post",
                "zorder": 0,
                "label": "best trade-offs",
            }
            ax.plot(self.n_bytes[self.front], self.fidelity[self.front], **{**style, **line_kw})
        if self.chosen is not None:
            place = self.n_bytes[self.chosen], self.fidelity[self.chosen]
            ax.plot(*place, "o", markersize=13, fillstyle="none", color="crimson", markeredgewidth=1.8, label="chosen")
        ax.set_xscale("log")
        _name_bytes(ax.xaxis)
        ax.set(xlabel="student file (bytes)", ylabel="fidelity")
        ax.grid(alpha=0.25)
        ax.legend(loc="lower right", title=self.labels_name)
        return self


class EmbeddingDisplay:
    """Embeddings of the same samples by teacher and student, side by side.

    Usually created by `from_estimator`.

    Parameters
    ----------
    teacher, student : ndarray of shape (n_samples, 2)
    classes : ndarray of shape (n_samples,) or None
        Classes of the samples, shown by color.
    fidelity : float or None
        R^2 of the student's embedding, part of its title.

    Attributes
    ----------
    axes_ : ndarray of two matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from distill import Distiller
    >>> from distill.plotting import EmbeddingDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> student = Distiller(PCA(2), hidden_layer_sizes=(16,), max_iter=30, random_state=0).fit(X)
    >>> EmbeddingDisplay.from_estimator(student, X, y).student.shape
    (150, 2)
    """

    def __init__(
        self,
        teacher: np.ndarray,
        student: np.ndarray,
        *,
        classes: np.ndarray | None = None,
        fidelity: float | None = None,
    ):
        self.teacher = teacher
        self.student = student
        self.classes = classes
        self.fidelity = fidelity

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, X, classes=None, *, embedding=None, axes=None, **scatter_kw
    ) -> "EmbeddingDisplay":
        """Create and draw the display of a fitted estimator with a method `transform`.

        Parameters
        ----------
        estimator : Distiller, compressor, or Pipeline that ends in one
            Fitted, with a teacher that has an embedding.
        X : array-like of shape (n_samples, n_features)
        classes : array-like of shape (n_samples,) or None
            Classes of the samples, shown by color.
        embedding : array-like of shape (n_samples, n_components) or None
            The teacher's embedding of X; required for a teacher such as TSNE, which has no transform.
        axes : sequence of two matplotlib Axes, or None
        **scatter_kw
            Passed to both calls of `scatter`.

        Returns
        -------
        EmbeddingDisplay
            Embeddings of more than two columns are projected onto the first two principal components of the teacher's
            embedding; those of one column are plotted over the position of the sample.

        Raises
        ------
        TypeError
            If the estimator is not a student with a method `transform`.
        """
        rows, student = X, estimator
        if isinstance(estimator, Pipeline):
            rows, student = estimator[:-1].transform(X), estimator[-1]
        check_is_fitted(student)
        if not (isinstance(student, StudentMixin) and hasattr(student, "transform")):
            raise TypeError(f"estimator must be a fitted Distiller or compressor that transforms, got {estimator!r}")
        outputs = np.asarray(student.student_output("transform", rows))
        expected = np.asarray(student.predict_imitated(rows) if embedding is None else embedding)
        teacher, student_view = _in_a_plane(expected, outputs)
        fidelity = student.score(rows, expected)
        display = cls(teacher, student_view, classes=classes, fidelity=fidelity)
        return display.plot(axes=axes, **scatter_kw)

    def plot(self, *, axes=None, **scatter_kw) -> "EmbeddingDisplay":
        """Draw the display.

        Parameters
        ----------
        axes : sequence of two matplotlib Axes, or None
            None for a new figure.
        **scatter_kw
            Passed to both calls of `scatter`.

        Returns
        -------
        EmbeddingDisplay
            Itself, with `axes_` and `figure_`.
        """
        if axes is None:
            _, axes = _pyplot().subplots(1, 2, figsize=(9.6, 4.6), sharex=True, sharey=True, layout="constrained")
        self.axes_, self.figure_ = np.asarray(axes), axes[0].figure
        style: dict[str, Any] = {"s": 9, "linewidths": 0, "alpha": 0.8}
        if self.classes is not None:
            kinds, positions = np.unique(self.classes, return_inverse=True)
            if len(kinds) <= _MOST_CLASSES:
                colors = _pyplot().get_cmap("tab10" if len(kinds) <= 10 else "tab20")
                style["color"] = [colors(position) for position in positions]
            else:
                style["c"] = np.asarray(self.classes, float)
        title = "student" if self.fidelity is None else f"student, R² = {self.fidelity:.3f}"
        for ax, points, name in zip(self.axes_, (self.teacher, self.student), ("teacher", title)):
            ax.scatter(*points.T, **{**style, **scatter_kw})
            ax.set(title=name, xticks=[], yticks=[])
        return self


class InclusionDisplay:
    """Inclusion probabilities of pixels, as an image.

    Usually created by `from_estimator`.

    Parameters
    ----------
    inclusion : ndarray of shape (height, width)
        Inclusion probabilities, from 0 to 1.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    image_ : matplotlib AxesImage
    """

    def __init__(self, inclusion: np.ndarray):
        self.inclusion = inclusion

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, shape: Sequence[int] | None = None, *, ax=None, **image_kw
    ) -> "InclusionDisplay":
        """Create and draw the display of a fitted SpikeSlabCompressor.

        Parameters
        ----------
        estimator : SpikeSlabCompressor, or Pipeline that ends in one
            Fitted; has `feature_inclusion_`.
        shape : (height, width) or None
            Shape of the image that each sample holds; None for a square.
        ax : matplotlib Axes or None
        **image_kw
            Passed to `imshow`.

        Returns
        -------
        InclusionDisplay

        Raises
        ------
        ValueError
            If the number of features is not that of the pixels.
        """
        fitted = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        check_is_fitted(fitted)
        inclusion = fitted.feature_inclusion_
        side = round(len(inclusion) ** 0.5)
        shape = (side, side) if shape is None else tuple(shape)
        if len(shape) != 2 or np.prod(shape) != len(inclusion):
            raise ValueError(f"shape={shape} is no image of {len(inclusion)} features; give (height, width)")
        return cls(inclusion.reshape(shape)).plot(ax=ax, **image_kw)

    def plot(self, *, ax=None, **image_kw) -> "InclusionDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes or None
            None for a new figure.
        **image_kw
            Passed to `imshow`.

        Returns
        -------
        InclusionDisplay
            Itself, with `ax_`, `figure_` and `image_`.
        """
        self.ax_ = ax = _axes(ax, figsize=(4.6, 4.0))
        self.figure_ = ax.figure
        self.image_ = ax.imshow(self.inclusion, **{"cmap": "viridis", "vmin": 0, "vmax": 1, **image_kw})
        self.figure_.colorbar(self.image_, ax=ax, label="inclusion probability")
        ax.set(xticks=[], yticks=[], title=f"{np.sum(self.inclusion > 0.5)} of {self.inclusion.size} pixels matter")
        return self


class StructureDisplay:
    """Candidates of a parameter that was chosen from the data, with their scores and the choice.

    Usually created by `from_estimator`.

    Parameters
    ----------
    candidates : sequence of int or of str
    scores : sequence of float
        Agreement of small networks for each candidate, from 0 to 1.
    chosen : int or None
        The value in use.
    parameter : str
        Name of the parameter, for the axis.
    reason : str
        Part of the title.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib Line2D

    Examples
    --------
    >>> from distill.plotting import StructureDisplay
    >>> StructureDisplay([500, 250, 125], [0.8, 0.82, 0.83], 500, parameter="k").plot().line_.get_xdata().tolist()
    [500, 250, 125]
    """

    def __init__(
        self,
        candidates: Sequence[int],
        scores: Sequence[float],
        chosen: int | None,
        *,
        parameter: str = "",
        reason: str = "",
    ):
        self.candidates = candidates
        self.scores = scores
        self.chosen = chosen
        self.parameter = parameter
        self.reason = reason

    @classmethod
    def from_estimator(
        cls, estimator: BaseEstimator, parameter: str | None = None, *, ax=None, **line_kw
    ) -> "StructureDisplay":
        """Create and draw the display of a fitted MBNClustering or MultilayerBootstrapNetwork.

        Parameters
        ----------
        estimator : estimator, or Pipeline that ends in one
            Fitted; has `structure_`.
        parameter : {"k", "metric", "n_clusters"} or None
            None for "n_clusters" if that was chosen from the data, else "k".
        ax : matplotlib Axes or None
        **line_kw
            Passed to `plot` of the axes.

        Returns
        -------
        StructureDisplay

        Raises
        ------
        ValueError
            If nothing was chosen from the data for this parameter.
        """
        fitted = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        check_is_fitted(fitted)
        chosen = getattr(fitted, "structure_", {})
        if parameter is None:
            parameter = "n_clusters" if "n_clusters" in chosen else "k"
        if parameter not in chosen:
            raise ValueError(
                f"parameter={parameter!r} was not chosen from the data by {type(fitted).__name__}, which has chosen "
                f"{sorted(chosen) or 'nothing'}; set k='stable' or n_clusters='auto'"
            )
        choice = chosen[parameter]
        if not choice.candidates:
            raise ValueError(f"there are no candidates for {parameter} to draw: {choice.reason}")
        display = cls(choice.candidates, choice.scores, choice.chosen, parameter=parameter, reason=choice.reason)
        return display.plot(ax=ax, **line_kw)

    def plot(self, *, ax=None, **line_kw) -> "StructureDisplay":
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib Axes or None
            None for a new figure.
        **line_kw
            Passed to `plot` of the axes.

        Returns
        -------
        StructureDisplay
            Itself, with `ax_`, `figure_` and `line_`.
        """
        self.ax_ = ax = _axes(ax)
        self.figure_ = ax.figure
        (self.line_,) = ax.plot(self.candidates, self.scores, **{"marker": "o", "markersize": 4, **line_kw})
        if self.chosen is not None and self.chosen in self.candidates:
            score = self.scores[list(self.candidates).index(self.chosen)]
            ax.plot(
                self.chosen, score, "o", markersize=13, fillstyle="none", color="crimson", markeredgewidth=1.8,
                label=f"chosen: {self.chosen}",
            )  # fmt: skip
            ax.legend(loc="lower right")
        elif self.chosen is not None:
            ax.axvline(self.chosen, color="crimson", linewidth=1.2, label=f"chosen: {self.chosen}")
            ax.legend(loc="lower right")
        if self.parameter == "k":
            ax.set_xscale("log", base=2)
            ax.set_xticks(list(self.candidates), [str(candidate) for candidate in self.candidates])
            ax.set_xticks([], minor=True)
        ax.set(xlabel=self.parameter, ylabel="agreement of small networks", ylim=(0, 1.02))
        ax.set_title(self.reason, fontsize="small", wrap=True)
        ax.grid(alpha=0.25)
        return self


class WeightCodesDisplay:
    """The codes of a layer's weights as an image, with the number of weights of every codeword.

    Usually created by `from_estimator`.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs, n_outputs), int
        Position of each weight's codeword; -1 in the rows of unused inputs.
    codebooks : ndarray of shape (1, n_codewords) or (n_groups, n_codewords)
        One codebook for all neurons, or one for each group of neurons.
    layer : int
        Position of the layer, part of the title.

    Attributes
    ----------
    axes_ : ndarray of two matplotlib Axes
    figure_ : matplotlib Figure
    """

    def __init__(self, codes: np.ndarray, codebooks: np.ndarray, *, layer: int = 0):
        self.codes = codes
        self.codebooks = codebooks
        self.layer = layer

    @classmethod
    def from_estimator(cls, estimator: BaseEstimator, layer: int = 0, *, axes=None, **image_kw) -> "WeightCodesDisplay":
        """Create and draw the display of a fitted CodebookCompressor.

        Parameters
        ----------
        estimator : CodebookCompressor, or Pipeline that ends in one
            Fitted.
        layer : int
            Position of the layer; -1 is the last one.
        axes : sequence of two matplotlib Axes, or None
        **image_kw
            Passed to `imshow`.

        Returns
        -------
        WeightCodesDisplay

        Raises
        ------
        TypeError
            If the weights of the layer are not codes.
        """
        fitted = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        check_is_fitted(fitted)
        shapes = [weight.shape for weight in fitted.network_.weights]
        _, sections = container.split(fitted.to_bytes())
        coded = [payload for kind, payload in sections if kind == CODEBOOK]
        if len(coded) != len(shapes):
            raise TypeError(f"estimator must be a fitted CodebookCompressor, got {fitted!r}")
        layer = range(len(shapes))[layer]
        decoded = decode_layer(Reader(coded[layer]), *shapes[layer])
        codes = np.full(shapes[layer], -1)
        codes[decoded.used] = decoded.codes
        return cls(codes, decoded.codebooks, layer=layer).plot(axes=axes, **image_kw)

    def plot(self, *, axes=None, **image_kw) -> "WeightCodesDisplay":
        """Draw the display.

        Parameters
        ----------
        axes : sequence of two matplotlib Axes, or None
            None for a new figure.
        **image_kw
            Passed to `imshow`.

        Returns
        -------
        WeightCodesDisplay
            Itself, with `axes_` and `figure_`.
        """
        pyplot = _pyplot()
        if axes is None:
            _, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained", width_ratios=(1.7, 1))
        self.axes_, self.figure_ = np.asarray(axes), axes[0].figure
        n_codewords = self.codebooks.shape[1]
        # Colors by rank, so that neighboring codewords look similar at any distance
        order = np.argsort(self.codebooks.mean(axis=0))
        ranks = np.argsort(order)
        shown = np.where(self.codes < 0, np.nan, ranks[np.maximum(self.codes, 0)])
        colors = pyplot.get_cmap("coolwarm", n_codewords).with_extremes(bad="0.45")
        style = {"cmap": colors, "vmin": -0.5, "vmax": n_codewords - 0.5, "aspect": "auto", "interpolation": "nearest"}
        self.axes_[0].imshow(shown, **{**style, **image_kw})
        unused = np.all(self.codes < 0, axis=1).sum()
        note = f", {unused} inputs unused (gray)" if unused else ""
        self.axes_[0].set(title=f"codes of layer {self.layer + 1}{note}", xlabel="neuron", ylabel="input")
        counts = np.bincount(ranks[self.codes[self.codes >= 0]], minlength=n_codewords)
        fraction = counts[counts > 0] / max(counts.sum(), 1)
        self.axes_[1].bar(
            range(n_codewords), counts, color=[colors(rank) for rank in range(n_codewords)], edgecolor="0.4"
        )
        entropy = float(-fraction @ np.log2(fraction)) + 0.0  # 0.0 and not -0.0 for a single codeword
        self.axes_[1].set(
            title=f"{n_codewords} codewords, {entropy:.2f} bits per weight", xlabel="codeword", ylabel="weights"
        )
        # Values of more codewords would overlap on the axis
        if n_codewords <= 16:
            one = len(self.codebooks) == 1
            names = [f"{value:.2g}" for value in self.codebooks[0, order]] if one else range(n_codewords)
            self.axes_[1].set_xticks(range(n_codewords), names, rotation=45 if one else 0)
        return self


def _pyplot():
    """Return pyplot; ImportError with advice where matplotlib is not installed."""
    try:
        import matplotlib.pyplot as pyplot
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'mbn-distill[plot]'") from error
    return pyplot


def _axes(ax, **figure_kw):
    """Return the given axes, or those of a new figure."""
    return ax if ax is not None else _pyplot().subplots(layout="constrained", **figure_kw)[1]


def _label(value: Any) -> str:
    """Return the text of a parameter's value, of an estimator its class name."""
    return type(value).__name__ if isinstance(value, BaseEstimator) else str(value)


def _name_bytes(axis) -> None:
    """Label a logarithmic axis in bytes, at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _in_a_plane(teacher: np.ndarray, student: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two columns of both embeddings, in the same coordinates."""
    if teacher.shape[1] == 2:
        return teacher, student
    if teacher.shape[1] == 1:
        position = np.arange(len(teacher))
        return np.column_stack([position, teacher]), np.column_stack([position, student])
    plane = PCA(2).fit(teacher)
    return plane.transform(teacher), plane.transform(student)
