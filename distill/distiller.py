"""Distillation: train a small network on the predictions of a teacher.

The teacher is a black box, and the student is trained to map its inputs to its outputs (X.-L. Zhang, "Unsupervised
model compression for multilayer bootstrap networks", arXiv 1503.06452; for classifiers Bucila, Caruana and
Niculescu-Mizil, "Model compression", KDD 2006).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, cast

import joblib
import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.validation import _num_samples

from distill import teachers
from distill.base import StudentMixin, all_or_nothing, student_attributes, validated_rows, with_columns, without_columns
from distill.codecs import container
from distill.codecs.labels import encode_classes
from distill.exceptions import FidelityWarning
from distill.network import ACTIVATIONS, Network
from distill.teachers import Predictions
from distill.training.beyond import Beyond, surround
from distill.training.device import check_device
from distill.training.loop import History
from distill.training.perceptron import fold_input, folds_well, unfold_input
from distill.training.queries import AUGMENTATIONS, Queries, check_augment, make_queries
from distill.training.scaling import coarse_feature, feature_ranges, fit_input_scaling
from distill.training.student import StudentSettings, fit_student, split_positions
from distill.utils.caching import cached_call, call_key
from distill.utils.caller import warn_caller
from distill.utils.progress import CallbackSupport, Progress, with_callbacks
from distill.utils.validation import (
    LARGEST_SEED,
    check_length,
    check_magnitude,
    routes,
    seeded,
    warn_user,
)

# Rows of a label from which it is said that none of them keeps it
_ROWS_OF_LABEL = 20
# Rows in one call of the teacher for the predictions of `n_queries` rows
QUERIES_AT_ONCE = 10_000


class Distiller(CallbackSupport, StudentMixin, BaseEstimator):
    """Distill any unsupervised (or supervised) model into a small, fast network.

    The teacher is fitted, and a fully connected network is trained on its predictions for the same rows. The fitted
    estimator predicts with NumPy alone, through the student file that `save` writes, without the teacher or the
    training rows. This gives a `predict` to clusterers and a `transform` to embeddings that have none.

    Parameters
    ----------
    teacher : estimator, list of estimators, or "precomputed"
        Any scikit-learn estimator: transformer, clusterer, classifier, regressor, outlier detector, or a Pipeline. A
        clone is fitted, to X as it is passed to `fit`; every call gets a copy of its own, because a teacher may work in
        place. (Of a memory map it gets a view that cannot be written to.) A teacher that can only `fit_predict` or
        `fit_transform` (DBSCAN, AgglomerativeClustering, SpectralClustering, HDBSCAN, TSNE) is used through these. A
        `FrozenEstimator(fitted)` is not fitted again; if it has no method for new rows, its `labels_` or `embedding_`,
        or those of the last step of a pipeline in it, are imitated and `fit` requires the rows of that fit. With
        "precomputed", y are the predictions to imitate, for labels, probabilities, values or an embedding whose
        estimator is not at hand. A list of clusterers is an ensemble: their clusters are aligned to those of the first,
        and the average of their soft labels is learned (see Notes). In a cross-validation the validation rows are among
        the training rows of a frozen teacher, so that scores are too high.
    target : {"auto", "predict", "predict_proba", "transform", "decision_function"}, default="auto"
        The method to imitate. "auto": `predict_proba`, else `predict`, of classifiers and clusterers; `predict` of
        regressors; `decision_function` of outlier detectors, with the labels that the teacher gives to these values;
        `transform` of transformers. Of a clusterer's labels "auto" learns soft ones where its answers give some (see
        Notes), and "predict" the labels alone. Of precomputed predictions "auto" takes integers, Booleans and strings
        for labels, a vector of floats for regression values, and two columns or more for an embedding; "predict_proba"
        is one column for each class, and the columns of a data frame name the classes.
    noise : {"learn", "exclude"}, default="learn"
        What becomes of the rows that a clusterer calls noise (label -1). "learn": -1 is a label like any other, and the
        student predicts it, also for rows far from all of X. "exclude": these rows are left out of the training, the
        student gives every row one of the clusters, and its fidelity is measured on the other rows.
    hidden_layer_sizes : tuple of int, default=(256, 64)
        Units of every hidden layer. An empty tuple makes the student linear.
    activation : {"relu", "tanh", "logistic", "identity"}, default="relu"
        Activation of the hidden layers.
    input_scaling : {"auto", "common", "per-feature"} or None, default="auto"
        Scaling of the inputs. "common" is one offset and one scale for all features, for features of one unit
        (pixels, channels, one-hot codes); "per-feature" one for each; "auto" decides by the features' ranges and means
        (see `distill.training.scaling.have_one_unit`); None scales nothing. The scaling is folded into the first
        layer, and stored separately where folding would cost precision. Constant features get no weight.
    alpha : float, default=1e-4
        Strength of the L2 penalty ``alpha / 2 * ||W||^2`` on weights, 0 or more.
    batch_size : int, default=256
        Samples in a training step. Small data are cut into smaller batches of at least 16 samples, and an epoch uses
        every sample several times, until it has 64 steps.
    learning_rate_init : float, default=1e-3
        Step size of Adam at the start.
    max_iter : int, default=100
        Largest number of epochs.
    early_stopping : bool, default=True
        Whether to hold out a validation set, to stop when the agreement with the teacher on it no longer improves, and
        to keep the weights of the best epoch. Otherwise all samples are used for training, for `max_iter` epochs.
    validation_fraction : float, default=0.1
        Fraction of the samples in the validation set, between 0 and 1.
    n_iter_no_change : int, default=10
        Training stops after this number of epochs without improvement, but not while the agreement is below that of a
        linear model or of a constant.
    jitter : float, default=0.5
        Size of the normal noise that is added to the inputs in training, new in every epoch, in units of the typical
        distance between nearest neighbors. It prevents overfitting below that scale. 0 adds none.
    n_queries : int, default=0
        Number of further training rows, about which a teacher that can predict is asked: points at random places
        between a training row and one of its five nearest neighbors. Three to nine times as many as X has may bring the
        student nearer to its teacher; an epoch takes as many times longer, and they need the memory of such rows. 0
        asks about none.
    augment : callable(rows, rng) -> ndarray, "shift", "affine" or None, default=None
        Makes half of the `n_queries` rows from training rows: a function of an array of shape (n_rows, n_features), in
        the units of X, and of a `numpy.random.Generator` that returns an array of the same shape. For rows that are
        images of `input_shape`, "shift" moves each by up to 8 % of its sides, at least a pixel, and "affine" also turns
        it by up to 10 degrees, shears it, and changes its size by up to a tenth. That is knowledge about images.
    input_shape : (height, width), (height, width, channels) or None, default=None
        Shape of the images that the rows are, for "shift" and "affine".
    weight_dtype : {"float32", "float16"}, default="float32"
        Precision of the weights in the student file, and therefore of those that the fitted estimator uses.
    device : str, default="cpu"
        Torch device of the training. On "cpu" training runs on one thread, so that the result does not depend on the
        number of cores.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted teacher, its predictions in `fit` and `score`, and the trained student. With equal settings
        and rows each is computed only once, also in a grid search and by concurrent processes. Without an int as
        `random_state`, random stages are computed again.
    random_state : int, RandomState instance or None, default=None
        Seed of the student, and of every `random_state` inside the teacher that is None. An int makes fits repeatable.
    verbose : int, default=0
        1 prints a line for every epoch.

    Attributes
    ----------
    teacher_ : estimator
        The fitted teacher; for "precomputed" one without predictions.
    network_ : Network
        The student as NumPy arrays, decoded from the bytes of the student file.
    classes_ : ndarray of shape (n_classes,)
        The labels, including the -1 of noise if the teacher predicts it; only where labels are predicted. Of two with
        decision values, the second is that of larger values; they need not be sorted.
    labels_ : ndarray of shape (n_samples,)
        The student's labels of the training rows; only where the teacher is a clusterer.
    learned_ : str
        What the student learned: "labels", "soft labels from transform" (or from the fitted attribute that they come
        from, such as `probabilities_`), "probabilities" or "values".
    temperature_ : float or None
        Temperature of soft labels that come from distances.
    n_iter_ : int
        Number of epochs.
    loss_curve_ : list of float
        Mean training loss of every epoch; of a regression in units of its variance.
    validation_scores_ : list of float or None
        Agreement with the teacher on the validation set after every epoch: accuracy for labels and probabilities,
        variance-weighted R^2 otherwise. None without early stopping.
    best_validation_score_ : float or None
        Agreement of the weights that were kept.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Sizes of its parts in bytes. Where labels or probabilities are imitated also "agreement_per_class", for each
        label the fraction of its validation rows for which the student finds it (of all its rows where fewer than 10
        are held out). With `n_queries` also "n_queries", the number of rows that the teacher answered: those of a label
        that no row of X has are left out. With noise="exclude" also "n_excluded", the number of rows that were noise.
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features; only if X had names.

    See Also
    --------
    mbn.MultilayerBootstrapNetwork : A teacher for data without labels.
    distill.load : Read a student file and predict with NumPy alone.

    Warns
    -----
    FidelityWarning
        `distill.exceptions.FidelityWarning`, at the end of a fit whose agreement on held-out rows is clearly below that
        of a linear model or a constant (by .05 for labels, by .1 for an R^2, which is never below 0), or below .7 for
        labels and .3 for an R^2. With fewer than 20 held-out rows all rows are judged. The message says what to try.

    Notes
    -----
    The loss is cross-entropy for labels and probabilities and squared error otherwise, in units of the standard
    deviation: of all columns together for an embedding, of each column for other outputs. For two classes the student
    has a single output.

    With ``target="auto"`` the student of a clusterer learns soft labels where the teacher's answers for the training
    rows give some, because it then agrees with the teacher on more new rows. Of distances, which are what `transform`
    returns if the smallest one in a row tells its label (k-means and pipelines that end in it), these are
    ``exp(-gap / (temperature_ * unit))``, scaled to a sum of one, with the gap between a squared distance and the
    smallest one of the row, and the median over the rows of that of the second nearest cluster as unit. Of the
    strengths in [0, 1] that a fit keeps beside its labels (`probabilities_` of HDBSCAN), a row of strength p has the
    share (1 + p) / 2 of its label, and the rest is divided among the others by the numbers of their rows. The largest
    soft label of a row is always its label, and all measures of agreement compare labels. `predict_proba` is then a
    soft assignment to clusters and no probability that the teacher gives. ``target="predict"`` learns the labels alone.

    The labels of an ensemble are those of the first teacher. Each cluster of another one is matched to one of these,
    such that as many rows as possible are in both; where it has more clusters, each of the rest counts for that in
    which most of its rows are, and where it has fewer, some clusters have no vote of it. The soft label of a row is the
    average of all, its label the largest, and that of the first where two are equally large. Embeddings are not
    averaged.

    Outputs keep the range of the teacher's: an embedding whose training rows are distributions
    (LatentDirichletAllocation) is learned by cross-entropy and ends with a softmax, and values that are bounded at zero
    end there (NMF, means of counts); see `distill.teachers.range_of`.

    References
    ----------
    X.-L. Zhang, "Unsupervised model compression for multilayer bootstrap networks", arXiv 1503.06452.

    Examples
    --------
    DBSCAN has no `predict`, but its student has one.

    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.datasets import make_moons
    >>> from distill import Distiller
    >>> X, _ = make_moons(500, noise=0.05, random_state=0)
    >>> student = Distiller(DBSCAN(eps=0.2), hidden_layer_sizes=(32,), random_state=0).fit(X)
    >>> student.predict([[0.0, 1.0], [1.0, -0.5]])
    array([0, 1])
    >>> student.best_validation_score_ > 0.95
    True

    Labels, or an embedding, that are known without their estimator:

    >>> labels = DBSCAN(eps=0.2).fit_predict(X)
    >>> student = Distiller("precomputed", hidden_layer_sizes=(32,), random_state=0).fit(X, labels)
    >>> student.score(X, labels) > 0.95
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "teacher": "no_validation",  # `imitated_method` checks it
        "target": "no_validation",
        "noise": [StrOptions({"learn", "exclude"})],
        "hidden_layer_sizes": "no_validation",
        "activation": [StrOptions(set(ACTIVATIONS))],
        "input_scaling": [StrOptions({"auto", "common", "per-feature"}), None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "jitter": [Interval(Real, 0, None, closed="left")],
        "n_queries": [Interval(Integral, 0, None, closed="left")],
        "augment": [StrOptions(set(AUGMENTATIONS)), callable, None],
        "input_shape": ["array-like", None],
        "weight_dtype": [StrOptions({"float32", "float16"})],
        "device": "no_validation",  # `check_device` tries it
        "memory": [str, HasMethods(["cache"]), None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        teacher: BaseEstimator,
        *,
        target: str = "auto",
        noise: str = "learn",
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
        n_queries: int = 0,
        augment: Callable | str | None = None,
        input_shape: Sequence[int] | None = None,
        weight_dtype: str = "float32",
        device: str = "cpu",
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.teacher = teacher
        self.target = target
        self.noise = noise
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
        self.n_queries = n_queries
        self.augment = augment
        self.input_shape = input_shape
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
            Passed to the teacher in its own form: a list, integers, a data frame, a sparse matrix of any format. Sparse
            rows are made dense for the student a batch at a time.
        y : array-like of shape (n_samples,) or None
            Passed to the teacher's fit, or, for a "precomputed" teacher, its predictions: an array of shape
            (n_samples,) or (n_samples, n_outputs).
        **fit_params
            Passed to the teacher's fit; with metadata routing enabled, according to its requests.

        Returns
        -------
        Distiller
            The fitted estimator itself. A fit that fails or is interrupted does not change it.

        Raises
        ------
        ValueError
            If a parameter or X is out of its range, the teacher does not have the target, predicts one label for all
            rows, or changes the number of rows; with noise="exclude", if it has no label of noise, or fewer than two
            others.
        TypeError
            If the teacher is not an estimator, or a parameter has the wrong type.
        """
        self._validate_params()
        self.imitated_method()
        settings, teacher = self._draw_settings()
        X = with_columns(X)
        # Only the student's rows are converted: conversions and missing values are for the teacher to accept or refuse
        rows = validated_rows(self, X, reset=True, ensure_min_samples=2, ensure_all_finite="allow-nan")
        check_magnitude(rows)
        if isinstance(teacher, teachers.Precomputed) and y is not None:
            check_length(y, rows.shape[0])
        target = teachers.resolve_target(self.imitated_estimator(), self.target, y)
        if self.n_queries:
            teachers.check_answers(teacher, target)
        shape = check_augment(self.augment, self.input_shape, rows.shape[1])
        routed = process_routing(self, "fit", **fit_params).teacher.fit if routes(fit_params) else fit_params
        progress = Progress(self, 3 if self.n_queries else 2, X, y, self._reconstruct)
        given = (teacher, without_columns(X), y, target, routed, self.target == "auto")
        self._teacher_key = None if self.memory is None else call_key(_fit_teacher, *given)
        self.teacher_, predictions = cached_call(self.memory, _fit_teacher, *given, progress=progress)
        self.learned_, self.temperature_ = _learned(predictions)
        if predictions.note:
            warn_user(predictions.note)
        if predictions.classes is not None:
            encode_classes(predictions.classes)  # labels that no file can hold are an error before the training
        answered = predictions = teachers.with_noise(self.teacher_, without_columns(X), rows, predictions)
        if self.noise == "exclude":
            predictions, left = teachers.without_noise(self.teacher_, answered)
            rows = rows[left]
        if (column := coarse_feature(rows)) is not None:
            warn_user(
                f"the differences within column {column} of X are a few steps of its type, {rows.dtype}, so far from "
                "zero; subtract an offset from it before, in the type that it was measured in"
            )
        beyond = self._look_beyond(X, rows, predictions, settings)
        queries = self._ask(X, rows, predictions, beyond, shape, settings, progress) if self.n_queries else None
        samples = (rows, predictions, beyond, queries, settings)
        network, history = cached_call(self.memory, fit_student, *samples, progress=progress)
        if network.offset is not None and network.offset.dtype == np.float64:
            note = teachers.compare_labels_of_fit(self.teacher_, without_columns(X), answered)
            if note:
                warn_user(note)
        self._input_section = (network.offset, network.scale)
        self._adopt(self._encode(network))
        self.n_iter_ = history.n_iter
        self.loss_curve_ = history.loss_curve
        self.validation_scores_ = history.validation_scores
        self.best_validation_score_ = history.best_score
        if teachers.teacher_type(teacher) == "clusterer" and predictions.kind != "values":
            self.labels_ = self.predict(X)
        self._measured = self._measure(history, predictions)
        if queries is not None:
            self._measured["n_queries"] = len(queries.targets)
        if self.noise == "exclude":
            self._measured["n_excluded"] = len(answered.values) - len(predictions.values)
        progress.finish()
        return self

    @property
    def report_(self) -> dict:
        """Sizes of the parts of the student file in bytes, and the agreement for each label."""
        return {**super().report_, **self._measured}

    def _measure(self, history: History, predictions: Predictions) -> dict:
        """Return the measurements of `report_`, and warn of a poor student."""
        if self.early_stopping and history.validation_scores is None:
            warn_caller(
                "every label occurs in one row only, so that no row could be held out: the student was trained for "
                f"max_iter={self.max_iter} epochs without early stopping; give more rows, or set early_stopping=False",
                FidelityWarning,
            )
        found = history.assessment
        complaint = found.complaint()
        if complaint is None and found.per_class is not None:
            complaint = _lost_label(found.per_class, predictions)
        if complaint is not None:
            warn_caller(
                f"{complaint}; try a larger max_iter, now {self.max_iter}, n_iter_no_change, now "
                f"{self.n_iter_no_change}, or learning_rate_init, now {self.learning_rate_init}, more hidden units, "
                f"now hidden_layer_sizes={self.hidden_layer_sizes}, another input_scaling, now "
                f"{self.input_scaling!r}, or more rows",
                FidelityWarning,
            )
        if found.per_class is None:
            return {}
        labels = cast(np.ndarray, self.network_.classes).tolist()
        return {"agreement_per_class": dict(zip(labels, found.per_class.tolist()))}

    def get_metadata_routing(self) -> MetadataRouter:
        """Return the metadata routing: parameters of `fit` besides X and y are passed to the teacher's `fit`."""
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(teacher=self.imitated_estimator(), method_mapping=mapping)

    def imitated_estimator(self) -> BaseEstimator:
        """Return the teacher, not fitted; of a list an ensemble, of "precomputed" an estimator without predictions."""
        if isinstance(self.teacher, list | tuple):
            teachers.check_ensemble(self.teacher)
            return teachers.Ensemble(list(self.teacher))
        is_precomputed = isinstance(self.teacher, str) and self.teacher == teachers.PRECOMPUTED
        return teachers.Precomputed(self.target) if is_precomputed else self.teacher

    def imitated_method(self) -> str:
        """Return the name of the teacher's method that is imitated."""
        teacher = self.imitated_estimator()
        if isinstance(teacher, teachers.Precomputed) and self.target == "auto" and "_student" in vars(self):
            return self.network_.target
        return teachers.resolve_target(teacher, self.target)

    def excluded_label(self) -> int | None:
        """Return the label of rows that are left out of all comparisons, -1 with noise="exclude"; else None."""
        return teachers.NOISE if self.noise == "exclude" else None

    def predict_imitated(self, X) -> np.ndarray:
        """Return the predictions of the fitted teacher for rows X, from the cache if there is one."""
        validated_rows(self, X, ensure_all_finite="allow-nan")
        given = (without_columns(X), self.network_.target)
        if self._teacher_key is None:
            return teachers.predict(self.teacher_, *given)
        # A search scores many compressions of one student; the cache saves the predictions of a slow teacher
        return cached_call(self.memory, _predict_with_teacher, self._teacher_key, *given, teacher=self.teacher_)

    def scaled_network(self) -> Network:
        """Return the network with its input scaling apart from the first layer, also if the file has them folded."""
        network = self.network_
        return network if network.scale is not None else unfold_input(network, *self._input_section)

    def _look_beyond(
        self, X: Any, rows: np.ndarray | sparse.csr_array, predictions: Predictions, settings: StudentSettings
    ) -> Beyond | None:
        """Return rows around and beyond the training rows with their labels, for a teacher that marks noise."""
        if predictions.noise is None:
            return None
        scaling = fit_input_scaling(rows, settings.input_scaling)
        scaling, made = surround(rows, predictions.values != predictions.noise, scaling, settings.seed)
        # In their own units, constant features included, for a teacher that can be asked
        original = np.where(scaling.varies, scaling.restore(made), feature_ranges(rows)[0])
        given = (self._teacher_key or "", without_columns(X), original, predictions)
        memory = None if self._teacher_key is None else self.memory
        return Beyond(scaling, made, cached_call(memory, _predict_beyond, *given, teacher=self.teacher_))

    def _ask(
        self,
        X: Any,
        rows: np.ndarray | sparse.csr_array,
        predictions: Predictions,
        beyond: Beyond | None,
        shape: tuple[int, ...],
        settings: StudentSettings,
        progress: Progress,
    ) -> Queries:
        """Return further rows with the teacher's answers; a callback that stops leaves those answered so far."""
        scaling = fit_input_scaling(rows, settings.input_scaling) if beyond is None else beyond.scaling
        train = split_positions(predictions, settings)[0]
        made = make_queries(rows, train, scaling, self.n_queries, self.augment, shape, settings.seed)
        # A block is cached by itself: after an interruption the teacher is not asked about it again
        memory = None if self._teacher_key is None else self.memory
        passed = {"teacher": self.teacher_, "X": without_columns(X), "predictions": predictions}
        starts, kept, targets = range(0, self.n_queries, QUERIES_AT_ONCE), [], []
        with progress.stage("queries", len(starts)) as stage:
            for start in starts:
                block = made[start : start + QUERIES_AT_ONCE]
                answered, found = cached_call(memory, _answers, self._teacher_key or "", block, **passed)
                kept.append(block[np.flatnonzero(answered)])
                targets.append(found)
                if stage.step(f"{sum(map(len, targets))} rows"):
                    break
        return Queries(
            sparse.csr_array(sparse.vstack(kept)) if sparse.issparse(made) else np.vstack(kept), np.concatenate(targets)
        )

    def _draw_settings(self) -> tuple[StudentSettings, BaseEstimator]:
        """Return the settings of the student and an unfitted teacher, both with their seeds."""
        teacher_seed, seed = check_random_state(self.random_state).randint(LARGEST_SEED, size=2).tolist()
        settings = StudentSettings(
            hidden_layer_sizes=_layer_sizes(self.hidden_layer_sizes),
            activation=self.activation,
            input_scaling=self.input_scaling,
            alpha=float(self.alpha),
            batch_size=int(self.batch_size),
            learning_rate_init=float(self.learning_rate_init),
            max_iter=int(self.max_iter),
            early_stopping=bool(self.early_stopping),
            validation_fraction=float(self.validation_fraction),
            n_iter_no_change=int(self.n_iter_no_change),
            jitter=float(self.jitter),
            device=str(check_device(self.device)),
            seed=seed,
        )
        teacher = clone(self.imitated_estimator())
        return settings, teacher if self.random_state is None else _with_seeds(teacher, teacher_seed)

    def _reconstruct(self, network: Network) -> dict:
        """Return the fitted attributes of an estimator with this network."""
        return {**student_attributes(self._encode(network)), "_measured": {}}

    def _encode(self, network: Network) -> bytes:
        """Return the student file of a network."""
        if hasattr(self, "feature_names_in_"):
            network = replace(network, feature_names=tuple(map(str, self.feature_names_in_)))
        if folds_well(network, self.weight_dtype):
            network = fold_input(network)
        largest = max(float(np.abs(array).max()) for array in (*network.weights, *network.biases))
        if self.weight_dtype == "float16" and largest >= np.finfo(np.float16).max:
            raise ValueError(
                f"weight_dtype='float16' holds values up to 65504 and the student has a weight of {largest:.3g}; use "
                "'float32' or scale the teacher's outputs down"
            )
        return container.encode(network, self.weight_dtype)


def _fit_teacher(
    teacher: BaseEstimator, X: Any, y: Any, target: str, fit_params: dict, soft: bool, progress: Progress
) -> tuple[BaseEstimator, Predictions]:
    """Fit the teacher, a clone, and return it with its predictions for the same rows, soft labels if they shall be."""
    with progress.stage("teacher") as stage, stage.inside(teacher):
        with teachers.inputs_of_last_step(teacher) as inputs:
            fitted, predictions = teachers.fit_and_predict(teacher, X, y, target, fit_params)
        labels = teachers.labels_beside(fitted, X, target)
        predictions = teachers.read_predictions(fitted, predictions, target, _num_samples(X), labels)
        if soft:
            predictions = teachers.soften(fitted, X, predictions, *inputs)
        if not predictions.note:
            predictions = replace(predictions, note=teachers.compare_labels(fitted, X, predictions))
        stage.log("done")
    return fitted, predictions


def _with_seeds(teacher: BaseEstimator, seed: int) -> BaseEstimator:
    """Set every `random_state` in a teacher that is None, in each member of an ensemble to another one."""
    if not isinstance(teacher, teachers.Ensemble):
        return seeded(teacher, seed)
    seeds = np.random.RandomState(seed).randint(LARGEST_SEED, size=len(teacher.estimators)).tolist()
    return teacher.set_params(estimators=[seeded(member, own) for member, own in zip(teacher.estimators, seeds)])


def _predict_with_teacher(key: str, X: Any, target: str, teacher: BaseEstimator) -> np.ndarray:
    """Return the predictions of a fitted teacher; `key` identifies its fit in the cache."""
    return teachers.predict(teacher, X, target)


def _lost_label(per_class: np.ndarray, predictions: Predictions) -> str | None:
    """Return what to say of a label that no row keeps, None if there is none with enough rows."""
    counts = np.bincount(predictions.labels, minlength=len(per_class))
    lost = np.flatnonzero((per_class == 0) & (counts >= _ROWS_OF_LABEL))
    if not len(lost):
        return None
    label = cast(np.ndarray, predictions.classes)[lost[:1]].tolist()[0]
    return (
        f"the student predicts the label {label!r} for none of the rows that have it, {counts[lost[0]]} of "
        f"{counts.sum()}: the features tell it hardly apart, or say so by their missing values"
    )


def _predict_beyond(key: str, X: Any, rows: np.ndarray, predictions: Predictions, teacher: BaseEstimator) -> np.ndarray:
    """Return a fitted teacher's labels for rows beyond those of its fit; `key` identifies its fit in the cache."""
    return teachers.predict_beyond(teacher, X, rows, predictions)


def _answers(key: str, rows: Any, teacher: BaseEstimator, X: Any, predictions: Predictions) -> tuple:
    """Return a fitted teacher's answers about further rows; `key` identifies its fit in the cache."""
    return teachers.answers(teacher, X, rows, predictions)


def _learned(predictions: Predictions) -> tuple[str, float | None]:
    """Return in words what the student learns, and the temperature of soft labels from distances."""
    softness = predictions.softness
    if softness is None:
        return predictions.kind, None
    return f"soft labels from {softness.source}", softness.temperature


def _layer_sizes(sizes: Any) -> tuple[int, ...]:
    sizes = (sizes,) if isinstance(sizes, Integral) else sizes
    # Sets and dicts have no order of layers, an iterator is empty the second time, and bytes are no numbers of units
    if not isinstance(sizes, Sequence | np.ndarray) or isinstance(sizes, str | bytes | bytearray | memoryview):
        raise TypeError(f"hidden_layer_sizes must be a tuple of integers, got {sizes!r}")
    sizes = tuple(size.item() if isinstance(size, np.generic) else size for size in sizes)
    if not all(isinstance(size, Integral) and not isinstance(size, bool) and int(size) >= 1 for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be integers of at least 1, got {sizes!r}")
    return tuple(int(size) for size in sizes)
