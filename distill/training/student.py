"""Training of a student: a plain network fitted to the predictions of a teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import sparse, special

from distill.network import Network
from distill.teachers import Predictions
from distill.training.assessment import Baseline, assess, baseline_of
from distill.training.beyond import Beyond
from distill.training.fidelity import fidelity
from distill.training.initialization import bend_at_rows
from distill.training.loop import History, train
from distill.training.losses import cross_entropy, squared_error
from distill.training.perceptron import Perceptron, initial_network, outputs_fold_well, scale_outputs
from distill.training.queries import Queries
from distill.training.samples import DenseRows, JitteredRows, Rows, SparseRows, holdout, outputs_of, typical_gap
from distill.training.scaling import InputScaling, fit_input_scaling
from distill.utils.progress import Progress, Stage

# Decay of the moving average of the weights: an average over about the last 1000 steps. Chosen by hand
_AVERAGING = 0.999
# Smallest number of steps in an epoch: small data are cut into smaller batches and used several times. Chosen by hand
_MIN_STEPS = 64
# With fewer validation rows a score that is below that of a linear model is mostly chance. Chosen by hand
_LEAST_ROWS = 10


@dataclass(frozen=True)
class StudentSettings:
    """Settings of the training of a student; see `distill.Distiller`."""

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


def fit_student(
    X: np.ndarray | sparse.csr_array,
    predictions: Predictions,
    beyond: Beyond | None,
    queries: Queries | None,
    settings: StudentSettings,
    progress: Progress,
) -> tuple[Network, History]:
    """Train a network on a teacher's predictions for rows X.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    predictions : Predictions
        Of the teacher, for the same rows.
    beyond : Beyond or None
        Further training rows with their targets, around and beyond X.
    queries : Queries or None
        Further training rows with their targets, made of the training rows.
    settings : StudentSettings
    progress : Progress

    Returns
    -------
    network : Network
        Its input scaling is not folded into the first layer.
    history : History

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.
    """
    scaling = fit_input_scaling(X, settings.input_scaling) if beyond is None else beyond.scaling
    targets, mean, unit = _standardized(predictions)
    module = Perceptron(_initial_network(X.shape[1], predictions, settings, scaling)).to(settings.device)
    more = []
    if beyond is not None:
        more.append((beyond.rows, beyond.labels))
    if queries is not None:
        inputs = queries.rows if sparse.issparse(queries.rows) else scaling.apply(queries.rows)
        more.append((inputs, _as_targets(queries.targets, predictions, mean, unit)))
    rows, train_rows, validation_rows = _split(X, predictions, targets, scaling, settings, more)
    classification = predictions.kind != "values"
    if not classification:
        bend_at_rows(module, rows, settings.seed)
    measure = cross_entropy if classification or predictions.range == "distribution" else squared_error

    def loss(module: Perceptron, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return measure(module(rows), targets)

    def student() -> Network:
        return _trained_network(module, predictions, settings, scaling, mean, unit)

    def report(module: Perceptron, history: History) -> bool:
        return _report(stage, history, student)

    validate = is_below = None
    finish = None if classification else partial(_in_range, predictions=predictions, mean=mean, unit=unit)
    if validation_rows is not None:
        validate = partial(_validate, rows=validation_rows, measure=measure, finish=finish)
        is_below = _Floor(rows, validation_rows, finish, len(unit), settings.seed)
    with progress.stage("student", settings.max_iter) as stage:
        history = train(
            module,
            loss,
            train_rows,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate_init,
            weight_decay=settings.alpha,
            max_iter=settings.max_iter,
            min_steps=_MIN_STEPS,
            validate=validate,
            n_iter_no_change=settings.n_iter_no_change,
            is_below=is_below,
            averaging=_AVERAGING,
            seed=settings.seed,
            callback=report,
        )
    history.assessment = assess(module, rows, validation_rows, finish, settings.seed)
    return student(), history


class _Floor:
    """Whether a validation score is below that of simpler models, which are computed when they are first needed."""

    def __init__(self, *given: Any):
        self.given = given
        self.baseline: Baseline | None = None

    def __call__(self, score: float) -> bool:
        if self.baseline is None:
            self.baseline = baseline_of(*self.given)
        return self.baseline.n_rows >= _LEAST_ROWS and self.baseline.is_below(score)


def _validate(
    module: Perceptron,
    rows: DenseRows | SparseRows,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    finish: Callable[..., np.ndarray] | None,
) -> tuple[float, float]:
    """Return fidelity and loss of a module on validation rows; `finish` makes values of its outputs, None labels."""
    outputs, targets = outputs_of(module, rows), rows.tensors[-1]
    loss = float(measure(outputs, targets))
    expected, found = targets.cpu().numpy(), outputs.cpu().numpy()
    if finish is None:
        return fidelity(expected, found, classification=True), loss
    return fidelity(finish(expected, are_targets=True), finish(found), classification=False), loss


def _in_range(
    outputs: np.ndarray, predictions: Predictions, mean: np.ndarray, unit: np.ndarray, are_targets: bool = False
) -> np.ndarray:
    """Return values from the outputs of a module, or from its targets, for the fidelity: a common shift is left out.

    Columns of an output with a larger variance have a larger weight in R^2.
    """
    if predictions.range == "distribution":
        return outputs if are_targets else special.softmax(outputs, axis=1)
    if predictions.range == "non-negative" and not are_targets:
        return np.maximum(outputs * unit, -mean)
    return outputs * unit


def _standardized(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return targets of the training, and mean and unit of the outputs: a prediction is output times unit plus mean."""
    if predictions.kind != "values" or predictions.range == "distribution":
        n_outputs = _n_outputs(predictions)
        targets = predictions.values if predictions.kind != "values" else predictions.values.astype(np.float32)
        targets = targets if predictions.soft is None else predictions.soft
        return targets, np.zeros(n_outputs, np.float32), np.ones(n_outputs, np.float32)
    values = predictions.values.astype(np.float64)
    # Differences from the first row: a sum of values far from zero would lose the digits of their differences
    mean = values[0] + (values - values[0]).mean(axis=0)
    variance = np.square(values - mean).mean(axis=0)
    if predictions.target == "transform":  # one unit for all columns keeps the distances in an embedding
        variance = np.full_like(variance, variance.mean())
    unit = np.sqrt(variance)
    unit[unit == 0] = 1
    return ((values - mean) / unit).astype(np.float32), mean, unit


def _as_targets(values: np.ndarray, predictions: Predictions, mean: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return a teacher's answers about further rows as targets of the training; see `_standardized`."""
    if predictions.kind != "values":
        return values
    return (values if predictions.range == "distribution" else (values - mean) / unit).astype(np.float32)


def _n_outputs(predictions: Predictions) -> int:
    """Return the number of outputs of the student, a single one for two classes."""
    classes = predictions.classes
    if predictions.kind == "values" or classes is None:
        return predictions.values.shape[1]
    return 1 if len(classes) == 2 else len(classes)


def _initial_network(
    n_features: int, predictions: Predictions, settings: StudentSettings, scaling: InputScaling
) -> Network:
    sizes = (n_features, *settings.hidden_layer_sizes, _n_outputs(predictions))
    return initial_network(sizes, settings.activation, settings.seed, scaling.varies)


def split_positions(predictions: Predictions, settings: StudentSettings) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the positions of the training rows, and those of the validation rows, None without early stopping."""
    n_samples = len(predictions.values)
    if not settings.early_stopping:
        return np.arange(n_samples), None
    labels = None if predictions.kind == "values" else predictions.labels
    return holdout(labels, n_samples, settings.validation_fraction, settings.seed)


def _split(
    X: np.ndarray | sparse.csr_array,
    predictions: Predictions,
    targets: np.ndarray,
    scaling: InputScaling,
    settings: StudentSettings,
    more: list[tuple[Any, np.ndarray]],
) -> tuple[DenseRows | SparseRows, Rows, DenseRows | SparseRows | None]:
    """Return training rows, these with input noise if the settings demand it, and validation rows with early stopping.

    The further rows are only among the second. There are no validation rows, as without early stopping, where
    every label occurs once and is needed for the training.
    """
    train_index, validation_index = split_positions(predictions, settings)
    rows = _rows(X, targets, train_index, scaling, settings.device)
    gap = typical_gap(rows, settings.seed) if settings.jitter else 0.0
    # Noise in all directions together has the size of the gap times `jitter`
    std = settings.jitter * gap / np.sqrt(scaling.varies.sum()) if gap else 0.0
    all_rows = rows
    for others in more:
        all_rows = _joined(all_rows, *others, scaling)
    train_rows = JitteredRows(all_rows, std, scaling.varies, settings.seed) if gap else all_rows
    if validation_index is None or not len(validation_index):
        return rows, train_rows, None
    return rows, train_rows, _rows(X, targets, validation_index, scaling, settings.device)


def _rows(
    X: np.ndarray | sparse.csr_array, targets: np.ndarray, positions: np.ndarray, scaling: InputScaling, device: str
) -> DenseRows | SparseRows:
    chosen = torch.from_numpy(targets[positions]).to(device)
    if sparse.issparse(X):
        return SparseRows(X[positions], scaling, chosen, device=device)
    scaled = scaling.apply(X[positions])
    if not np.isfinite(scaled).all():
        column = int(np.argwhere(~np.isfinite(scaled))[0, 1])
        raise ValueError(
            f"X has values in column {column} that are too large for float32, in which the student computes, with "
            "this input_scaling; use input_scaling='auto' or scale X down"
        )
    return DenseRows(torch.from_numpy(scaled).to(device), chosen)


def _joined(
    rows: DenseRows | SparseRows, inputs: Any, targets: np.ndarray, scaling: InputScaling
) -> DenseRows | SparseRows:
    """Return rows followed by others with their targets: CSR in their own units, or dense and scaled."""
    known, others = rows.tensors[-1], torch.from_numpy(targets)
    if known.ndim == 2 and others.ndim == 1:  # labels among soft ones
        others = torch.nn.functional.one_hot(others, known.shape[1])
    joined = torch.cat([known, others.to(known.device, known.dtype)])
    if isinstance(rows, SparseRows):
        inputs = inputs if sparse.issparse(inputs) else sparse.csr_array(scaling.restore(inputs))
        return SparseRows(sparse.vstack([rows.X, inputs], format="csr"), scaling, joined, device=rows.device)
    return DenseRows(torch.cat([rows.tensors[0], torch.from_numpy(inputs).to(known.device)]), joined)


def _trained_network(
    module: Perceptron,
    predictions: Predictions,
    settings: StudentSettings,
    scaling: InputScaling,
    mean: np.ndarray,
    unit: np.ndarray,
) -> Network:
    """Return the network with the module's weights, in the units of the teacher's predictions."""
    weights, biases = module.arrays()
    if predictions.kind == "values" and predictions.range == "any":
        constant = np.ptp(predictions.values, axis=0) == 0
        weights[-1][:, constant], biases[-1][constant] = 0, 0
    last, output_offset, output_scale = _last_layer(weights[-1], biases[-1], predictions, mean, unit)
    output = "identity"
    if predictions.kind != "values":
        output = "logistic" if len(mean) == 1 else "softmax"
    elif predictions.range == "distribution":
        output = "softmax"
    elif predictions.range == "non-negative" and output_offset is None:
        output = "relu"
    return Network(
        weights=(*weights[:-1], last[0]),
        biases=(*biases[:-1], last[1]),
        activation=settings.activation,
        target=predictions.target,
        output=output,
        classes=predictions.classes,
        offset=scaling.offset,
        scale=scaling.scale,
        clip=scaling.clip,
        fill=scaling.fill,
        output_offset=output_offset,
        output_scale=output_scale,
        squeeze=predictions.kind == "values" and predictions.squeeze,
    )


def _last_layer(
    weight: np.ndarray, bias: np.ndarray, predictions: Predictions, mean: np.ndarray, unit: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray | None, np.ndarray | None]:
    """Return the last layer in the units of the predictions where that loses nothing, and offset and scale after it."""
    if predictions.classes is None:
        if outputs_fold_well(mean, unit):
            return scale_outputs(weight, bias, mean, unit), None, None
        return (weight, bias), mean, unit
    # Labels follow from the outputs of the last layer: the larger one, or, of a single one, the sign
    above = mean - predictions.threshold
    offset = np.asarray(predictions.threshold, np.float64) if predictions.threshold else None
    if len(mean) > 1 or outputs_fold_well(above, unit):
        return scale_outputs(weight, bias, above, unit), offset, None
    return scale_outputs(weight, bias, above / unit, np.ones_like(unit)), offset, unit


def _report(stage: Stage, history: History, student: Callable[[], Any]) -> bool:
    message = f"loss {history.loss_curve[-1]:.5f}"
    if history.validation_scores:
        message += f", agreement {history.validation_scores[-1]:.5f}"
    return stage.step(message, student)
