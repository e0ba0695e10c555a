"""Train a small network to answer as a teacher does.

The teacher and its application are taken as one black box, from the box's input to the application's output (X.-L.
Zhang, "Unsupervised model compression for multilayer bootstrap networks", arXiv 1503.06452; the idea for classifiers
goes back to Bucila, Caruana and Niculescu-Mizil, "Model compression", KDD 2006).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import joblib
import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import check_scalar, validate_data

from distill import teachers
from distill.base import StudentMixin, all_or_nothing
from distill.codecs import container
from distill.network import ACTIVATIONS, Network
from distill.runtime import Student
from distill.teachers import Answers
from distill.training import loop as training
from distill.training.perceptron import Perceptron, fold_input, folds_well, initial_network, scale_outputs, unfold_input
from distill.training.scaling import INPUT_SCALINGS, InputScaling, fit_input_scaling
from distill.utils.caching import cached_call, call_key
from distill.utils.progress import CallbackSupport, Progress, with_callbacks
from distill.utils.validation import LARGEST_SEED, check_choice, check_float32, routes, seeded

_WEIGHT_DTYPES = ("float32", "float16")
_AVERAGING = 0.999
_SMALL_BATCH, _LEAST_STEPS = 16, 64


@dataclass(frozen=True)
class StudentSettings:
    """What the training of a student depends on besides the rows and the answers; see `Distiller`."""

    hidden_layer_sizes: tuple[int, ...] = (256, 64)
    activation: str = "relu"
    input_scaling: str | None = "auto"
    alpha: float = 1e-4
    batch_size: int = 256
    learning_rate_init: float = 1e-3
    max_iter: int = 100
    early_stopping: bool = True
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    jitter: float = 0.5
    device: str = "cpu"
    seed: int = 0


class Distiller(CallbackSupport, StudentMixin, BaseEstimator):
    """Distil any unsupervised (or supervised) model into a small, fast network.

    The teacher is fitted and asked about the training rows; a fully connected network learns to answer the same. The
    fitted estimator predicts with NumPy alone, through the same student file that `save` writes, and needs neither the
    teacher nor the training rows for it. A clusterer without `predict` and an embedding without `transform` get theirs
    that way.

    Parameters
    ----------
    teacher : estimator
        Any scikit-learn estimator: transformer, clusterer, classifier, regressor, outlier detector, or a Pipeline. A
        clone is fitted. A teacher that can only `fit_predict` or `fit_transform` (DBSCAN, AgglomerativeClustering,
        SpectralClustering, HDBSCAN, TSNE) is asked for that. A `FrozenEstimator(fitted)` is not fitted again; if it
        knows the rows of its own fit only, its `labels_` or `embedding_` are its answers and `fit` wants those rows. In
        a cross-validation a frozen teacher has seen the validation rows, and scores look better than they are.
    target : {"auto", "predict", "predict_proba", "transform", "decision_function"}, default="auto"
        The method to imitate. "auto": `predict_proba`, else `predict`, of classifiers and clusterers; `predict` of
        regressors; `decision_function` of outlier detectors; `transform` of transformers.
    hidden_layer_sizes : tuple of int, default=(256, 64)
        Units of every hidden layer. An empty tuple makes the student linear.
    activation : {"relu", "tanh", "logistic", "identity"}, default="relu"
        What follows every hidden layer.
    input_scaling : {"auto", "common", "per-feature"} or None, default="auto"
        How inputs are scaled inside. "common" is one offset and one scale for all features, for features of one unit
        (pixels, channels, one-hot codes); "per-feature" one for each; "auto" decides by the features' ranges and means
        (see `distill.training.scaling.share_a_unit`); None leaves them as they are. The scaling is folded into the
        first layer, and kept in a section of its own where that would cost precision. Constant features get no weight.
    alpha : float, default=1e-4
        Strength of the L2 penalty ``alpha / 2 * ||W||^2`` on weights, 0 or more.
    batch_size : int, default=256
        Rows in a training step. Small data are cut finer, to 64 batches of 16 rows or more, and gone through several
        times a pass until it has 64 steps.
    learning_rate_init : float, default=1e-3
        Step size of Adam at the start.
    max_iter : int, default=100
        Most passes over the rows.
    early_stopping : bool, default=True
        Whether rows are held out, training ends when the agreement with the teacher on them no longer rises, and the
        weights of the best pass are kept. Otherwise all rows are trained on, for `max_iter` passes.
    validation_fraction : float, default=0.1
        Share of rows that are held out, between 0 and 1.
    n_iter_no_change : int, default=10
        Training ends after so many passes without gain.
    jitter : float, default=0.5
        In training every row moves at random, each time it is seen, about so many times the distance that rows
        typically have to their nearest neighbour. Nothing is known of the teacher at a finer grain than that, and
        learning it by heart costs agreement elsewhere. 0 leaves the rows where they are.
    weight_dtype : {"float32", "float16"}, default="float32"
        How weights are stored in the student file, and therefore what the fitted estimator computes with.
    device : str, default="cpu"
        Where torch trains. On "cpu" training runs on one thread, so that the result does not depend on the number of
        cores.
    memory : str, joblib.Memory or None, default=None
        Where the fitted teacher with its answers, and the trained student, are kept, and what the teacher answers when
        `score` asks it. Nothing is computed twice for equal settings and rows, neither in a grid search nor by several
        processes at the same time. What is random without an int as `random_state` is
        computed anew.
    random_state : int, RandomState instance or None, default=None
        Of the student, and of every `random_state` inside the teacher that is None. An int makes all of it repeatable.
    verbose : int, default=0
        1 prints a line for every pass.

    Attributes
    ----------
    teacher_ : estimator
        The fitted teacher.
    network_ : Network
        The student as NumPy arrays, decoded from the bytes of the student file.
    classes_ : ndarray of shape (n_classes,)
        The labels, with the -1 of noise if the teacher gives it; where the answers are labels.
    labels_ : ndarray of shape (n_samples,)
        The student's labels of the training rows; where the teacher is a clusterer.
    n_iter_ : int
        Passes over the training rows.
    loss_curve_ : list of float
        Mean training loss of every pass, for numbers in units of their variance.
    validation_scores_ : list of float or None
        Agreement with the teacher on held-out rows after every pass: accuracy for labels and probabilities, R^2
        weighted by variance for numbers. None without early stopping.
    best_validation_score_ : float or None
        That of the weights that were kept.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Where its bytes are.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    See Also
    --------
    mbn.MultilayerBootstrapNetwork : The teacher this was made for.
    distill.load : Read a student file and predict with NumPy alone.

    Notes
    -----
    Labels are learned by cross-entropy, probabilities by cross-entropy with the probabilities, numbers by squared
    error: centred, an embedding in units of its total deviation, other outputs each in units of its own. Of two classes
    the student has a single output.

    References
    ----------
    X.-L. Zhang, "Unsupervised model compression for multilayer bootstrap networks", arXiv 1503.06452.

    Examples
    --------
    DBSCAN has no `predict`; its student has.

    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.datasets import make_moons
    >>> from distill import Distiller
    >>> X, _ = make_moons(500, noise=0.05, random_state=0)
    >>> student = Distiller(DBSCAN(eps=0.2), hidden_layer_sizes=(32,), random_state=0).fit(X)
    >>> student.predict([[0.0, 1.0], [1.0, -0.5]])
    array([0, 1])
    >>> student.best_validation_score_ > 0.95
    True
    """

    def __init__(
        self,
        teacher: BaseEstimator,
        *,
        target: str = "auto",
        hidden_layer_sizes: Sequence[int] = (256, 64),
        activation: str = "relu",
        input_scaling: str | None = "auto",
        alpha: float = 1e-4,
        batch_size: int = 256,
        learning_rate_init: float = 1e-3,
        max_iter: int = 100,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        jitter: float = 0.5,
        weight_dtype: str = "float32",
        device: str = "cpu",
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.teacher = teacher
        self.target = target
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.input_scaling = input_scaling
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.jitter = jitter
        self.weight_dtype = weight_dtype
        self.device = device
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    @with_callbacks
    def fit(self, X, y=None, **fit_params) -> "Distiller":
        """Fit the teacher and train the student.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers. A data frame reaches the teacher as it is. Sparse rows are made dense for the student a
            batch at a time.
        y : array-like of shape (n_samples,) or None
            Goes to the teacher's fit.
        **fit_params
            Go to the teacher's fit (with metadata routing enabled, as its requests say).

        Returns
        -------
        Distiller
            Itself. A fit that fails or is interrupted leaves it as it was.

        Raises
        ------
        ValueError
            If a parameter or X is out of its range, the teacher does not have the target, gives all rows one label or
            changes the number of rows.
        TypeError
            If the teacher is no estimator, or a parameter of the wrong type.
        """
        target = self._target()
        settings, teacher = self._draw_settings()
        rows = validate_data(self, X, accept_sparse="csr", dtype=[np.float32, np.float64], ensure_min_samples=2)
        check_float32(rows)
        routed = process_routing(self, "fit", **fit_params).teacher.fit if routes(fit_params) else fit_params
        progress = Progress(self, 2, X, y, self._reconstruct)
        seen = X if hasattr(self, "feature_names_in_") else rows
        given = (teacher, seen, y, target, routed)
        self._teacher_key = None if self.memory is None else call_key(_fit_teacher, *given)
        self.teacher_, answers = cached_call(self.memory, _fit_teacher, *given, progress=progress)
        network, history = cached_call(self.memory, _fit_student, rows, answers, settings, progress=progress)
        self._input_section = (network.offset, network.scale)
        self._adopt(self._encode(network))
        self.n_iter_ = history.n_iter
        self.loss_curve_ = history.loss_curve
        self.validation_scores_ = history.validation_scores
        self.best_validation_score_ = history.best_score
        if teachers.teacher_type(teacher) == "clusterer" and answers.kind != "numbers":
            self.labels_ = self.predict(X)
        progress.finish()
        return self

    def get_metadata_routing(self) -> MetadataRouter:
        """Say that what `fit` is given besides X and y goes to the teacher's `fit`."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(teacher=self.teacher, method_mapping=mapping)

    def _imitated(self) -> BaseEstimator:
        return self.teacher

    def _target(self) -> str:
        return teachers.resolve_target(self.teacher, self.target)

    def _ask_imitated(self, X) -> np.ndarray:
        rows = (
            X
            if hasattr(self, "feature_names_in_")
            else validate_data(self, X, reset=False, accept_sparse="csr", dtype=[np.float32, np.float64])
        )
        given = (rows, self.network_.target)
        if self._teacher_key is None:
            return teachers.ask(self.teacher_, *given)
        # A search scores many compressions of one student: a slow teacher is asked about a fold once
        return cached_call(self.memory, _ask_teacher, self._teacher_key, *given, teacher=self.teacher_)

    def _unfolded_network(self) -> Network:
        """Return the network with its inputs scaled by a section of their own, whatever the file does."""
        network = self.network_
        return network if network.scale is not None else unfold_input(network, *self._input_section)

    def _draw_settings(self) -> tuple[StudentSettings, BaseEstimator]:
        """Check the parameters; return the student's settings and an unfitted teacher, both with their seeds."""
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("input_scaling", self.input_scaling, INPUT_SCALINGS)
        check_choice("weight_dtype", self.weight_dtype, _WEIGHT_DTYPES)
        check_scalar(self.alpha, "alpha", Real, min_val=0)
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        check_scalar(self.learning_rate_init, "learning_rate_init", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        check_scalar(self.n_iter_no_change, "n_iter_no_change", Integral, min_val=1)
        check_scalar(self.jitter, "jitter", Real, min_val=0)
        teacher_seed, seed = check_random_state(self.random_state).randint(LARGEST_SEED, size=2).tolist()
        settings = StudentSettings(
            _layer_sizes(self.hidden_layer_sizes),
            self.activation,
            self.input_scaling,
            float(self.alpha),
            int(self.batch_size),
            float(self.learning_rate_init),
            int(self.max_iter),
            bool(self.early_stopping),
            float(self.validation_fraction),
            int(self.n_iter_no_change),
            float(self.jitter),
            str(training.check_device(self.device)),
            seed,
        )
        teacher = clone(self.teacher)
        return settings, teacher if self.random_state is None else seeded(teacher, teacher_seed)

    def _reconstruct(self, network: Network) -> dict:
        """Return the attributes that make this estimator predict as the network does."""
        data = self._encode(network)
        return {"_data": data, "_student": Student.from_bytes(data)}

    def _encode(self, network: Network) -> bytes:
        """Write the student file."""
        if hasattr(self, "feature_names_in_"):
            network = replace(network, feature_names=tuple(map(str, self.feature_names_in_)))
        if folds_well(network, self.weight_dtype):
            network = fold_input(network)
        largest = max(float(np.abs(array).max()) for array in (*network.weights, *network.biases))
        if self.weight_dtype == "float16" and largest >= np.finfo(np.float16).max:
            raise ValueError(
                f"weight_dtype='float16' reaches to 65504 and the student has a weight of {largest:.3g}; use 'float32' "
                "or scale the teacher's answers down"
            )
        return container.encode(network, self.weight_dtype)


def _fit_teacher(
    teacher: BaseEstimator, X: Any, y: Any, target: str, fit_params: dict, progress: Progress
) -> tuple[BaseEstimator, Answers]:
    """Fit the teacher, an unfitted clone, and read its answers for the same rows."""
    with progress.stage("teacher") as stage, stage.inside(teacher):
        fitted, answers = teachers.fit_and_ask(teacher, X, y, target, fit_params)
        answers = teachers.read_answers(fitted, answers, target, X.shape[0])
        stage.say("done")
    return fitted, answers


def _ask_teacher(key: str, X: Any, target: str, teacher: BaseEstimator) -> np.ndarray:
    """Take the answers of the fitted teacher that `key` stands for."""
    return teachers.ask(teacher, X, target)


def _fit_student(
    X: Any, answers: Answers, settings: StudentSettings, progress: Progress
) -> tuple[Network, training.History]:
    """Train a network to give these answers for rows X.

    Returns
    -------
    network : Network
        With its input section, if it has one, not folded.
    history : History
    """
    scaling = fit_input_scaling(X, settings.input_scaling)
    expected, mean, deviation = _standardised(answers)
    n_outputs = 1 if answers.kind != "numbers" and len(answers.classes) == 2 else len(mean)
    sizes = (X.shape[1], *settings.hidden_layer_sizes, n_outputs)
    start = initial_network(sizes, settings.activation, settings.seed, scaling.varies)
    module = Perceptron(start).to(settings.device)
    measure = training.squared_error if answers.kind == "numbers" else training.cross_entropy

    def loss(module: Perceptron, rows: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        return measure(module(rows), expected)

    def result() -> Network:
        weights, biases = module.arrays()
        last = scale_outputs(weights[-1], biases[-1], mean[:n_outputs], deviation[:n_outputs])
        return Network(
            (*weights[:-1], last[0]),
            (*biases[:-1], last[1]),
            settings.activation,
            answers.target,
            _output(answers, n_outputs),
            answers.classes,
            scaling.offset,
            scaling.scale,
            squeeze=answers.kind == "numbers" and answers.squeeze,
        )

    def report(module: Perceptron, history: training.History) -> bool:
        message = f"loss {history.loss_curve[-1]:.5f}"
        if history.validation_scores:
            message += f", agreement {history.validation_scores[-1]:.5f}"
        return stage.step(message, result)

    learned, held_out = np.arange(X.shape[0]), None
    if settings.early_stopping:
        labels = None if answers.kind == "numbers" else answers.labels
        learned, held_out = training.holdout(labels, X.shape[0], settings.validation_fraction, settings.seed)
    rows = _rows(X, expected, learned, scaling, settings.device)
    gap = training.typical_gap(rows, settings.seed) if settings.jitter else 0.0
    if gap:
        deviation_of_one = settings.jitter * gap / np.sqrt(scaling.varies.sum())
        rows = training.JitteredRows(rows, deviation_of_one, scaling.varies, settings.seed)
    with progress.stage("student", settings.max_iter) as stage:
        history = training.train(
            module,
            loss,
            rows,
            batch_size=_batch_size(settings.batch_size, len(rows)),
            learning_rate=settings.learning_rate_init,
            weight_decay=settings.alpha,
            max_iter=settings.max_iter,
            min_steps=_LEAST_STEPS,
            validate=None
            if held_out is None
            else _judge(_rows(X, expected, held_out, scaling, settings.device), measure, answers.kind, deviation),
            n_iter_no_change=settings.n_iter_no_change,
            averaging=_AVERAGING,
            seed=settings.seed,
            callback=report,
        )
    return result(), history


def _standardised(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the network learns, and the mean and deviation that lead back from it."""
    if answers.kind != "numbers":
        n_classes = len(answers.classes)
        return answers.values, np.zeros(n_classes, np.float32), np.ones(n_classes, np.float32)
    values = answers.values.astype(np.float64)
    mean, variance = values.mean(axis=0), values.var(axis=0)
    if answers.target == "transform":  # distances between columns mean something in an embedding
        variance = np.full_like(variance, variance.mean())
    deviation = np.sqrt(variance)
    deviation[deviation == 0] = 1
    standardised = ((values - mean) / deviation).astype(np.float32)
    return standardised, mean.astype(np.float32), deviation.astype(np.float32)


def _output(answers: Answers, n_outputs: int) -> str:
    if answers.kind == "numbers":
        return "identity"
    return "logistic" if n_outputs == 1 else "softmax"


def _rows(
    X: Any, expected: np.ndarray, positions: np.ndarray, scaling: InputScaling, device: str
) -> training.DenseRows | training.SparseRows:
    targets = torch.from_numpy(expected[positions]).to(device)
    if sparse.issparse(X):
        return training.SparseRows(X[positions], scaling, targets, device=device)
    return training.DenseRows(torch.from_numpy(scaling.apply(X[positions])).to(device), targets)


def _judge(
    rows: training.DenseRows | training.SparseRows, measure: Callable, kind: str, deviation: np.ndarray
) -> Callable[[torch.nn.Module], tuple[float, float]]:
    """Return the judgement of a module on held-out rows: agreement, and loss where agreement is equal."""
    expected = rows.tensors[-1]
    values = expected.cpu().numpy()

    def judge(module: torch.nn.Module) -> tuple[float, float]:
        outputs = training.outputs_of(module, rows)
        loss = float(measure(outputs, expected))
        given = outputs.cpu().numpy()
        if kind == "numbers":
            return teachers.explained_variance(values * deviation, given * deviation), loss
        labels = given.argmax(axis=1) if given.shape[1] > 1 else (given[:, 0] > 0).astype(int)
        return float(np.mean(labels == (values if values.ndim == 1 else values.argmax(axis=1)))), loss

    return judge


def _batch_size(asked: int, n_samples: int) -> int:
    return min(asked, max(_SMALL_BATCH, n_samples // _LEAST_STEPS))


def _layer_sizes(sizes: Any) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, Integral) else sizes
    try:
        sizes = tuple(sizes)
    except TypeError:
        raise TypeError(f"hidden_layer_sizes must be a tuple of integers, got {sizes!r}") from None
    if not all(isinstance(size, Integral) and not isinstance(size, bool) and size >= 1 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be integers of at least 1, got {sizes!r}")
    return tuple(int(size) for size in sizes)
