"""Samples and targets of a compression: the outputs of the wrapped network, or y."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, special
from sklearn.utils import check_array, column_or_1d

from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.fidelity import fidelity, label_positions
from distill.training.samples import holdout, rows_per_block
from distill.training.scaling import feature_ranges
from distill.utils.caller import warn_caller
from distill.utils.validation import LARGEST_SEED

# Values of the sparse rows that a compression makes dense, 256 MB in float32; methods copy them once or twice. Rows
# that are dense already take no more than those given. Chosen by hand
DENSE_VALUES = 2**26


@dataclass(frozen=True, eq=False)
class Calibration:
    """Training and validation samples of a compression, and the X and y of the fit.

    Parameters
    ----------
    train : ndarray of shape (n_train, n_features), float32
        Training samples, dense and scaled: the inputs of the first layer.
    validation : ndarray of shape (n_validation, n_features), float32
        Validation samples, for choices and for the report.
    varies : ndarray of shape (n_features,), bool
        Inputs that are not constant in the X of the fit.
    seed : int
        Seed of all random steps after the choice of the samples.
    X : ndarray or CSR of shape (n_samples, n_features)
        All samples of the fit, not scaled.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), or None
        The y of the fit.
    positions : tuple of ndarray of int
        Positions in X of the training and of the validation samples.
    balanced : bool
        Whether samples are drawn such that each label has equally many; those of small classes are then repeated.
    """

    train: np.ndarray
    validation: np.ndarray
    varies: np.ndarray
    seed: int
    X: Any = None
    y: Any = None
    positions: tuple[np.ndarray, ...] = ()
    balanced: bool = False


@dataclass(frozen=True, eq=False)
class Targets:
    """Training and validation samples with their targets.

    Parameters
    ----------
    kind : {"classification", "regression"}
    train, validation : ndarray of shape (n_samples, n_features), float32
        Inputs of the first layer.
    train_targets, validation_targets : ndarray
        Classification: positions of labels, shape (n_samples,), int64, or probabilities, shape (n_samples, n_classes),
        two columns also for a network with one output. Regression: shape (n_samples, n_outputs), float32.
    """

    kind: str
    train: np.ndarray
    train_targets: np.ndarray
    validation: np.ndarray
    validation_targets: np.ndarray


def draw_calibration(
    X: np.ndarray | sparse.csr_array,
    y: Any,
    network: Network,
    n_samples: int | None,
    validation_fraction: float,
    seed: int,
    balanced: bool = False,
) -> Calibration:
    """Draw training and validation samples.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    y : array-like or None
        Targets of the same samples.
    network : Network
        Its input scaling is applied.
    n_samples : int or None
        Largest number of samples, both sets together; None takes all.
    validation_fraction : float in (0, 1)
    seed : int
    balanced : bool
        Whether each label that the network predicts gets equally many samples, in both sets.

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If the samples shall be balanced and the network predicts no labels.
    """
    rng = np.random.default_rng(seed)
    n_drawn = _limited(X, X.shape[0] if n_samples is None else min(max(n_samples, 2), X.shape[0]))
    drawn = rng.permutation(X.shape[0])
    if balanced:
        labels = labels_of(network, X)
        drawn = _in_turn(drawn, labels)
    drawn = np.sort(drawn[:n_drawn])
    train, validation = holdout(labels[drawn] if balanced else None, n_drawn, validation_fraction, seed)
    train, validation = drawn[train], drawn[validation]
    if balanced:
        train, validation = (_balanced(part, labels, seed) for part in (train, validation))
    # Over all samples: an input that is constant in the drawn ones may vary
    low, high = feature_ranges(X)
    train_rows, validation_rows = (scaled_rows(X[part], network) for part in (train, validation))
    seed = int(rng.integers(LARGEST_SEED))
    return Calibration(train_rows, validation_rows, high > low, seed, X, y, (train, validation), balanced)


def _limited(X: np.ndarray | sparse.csr_array, n_rows: int) -> int:
    """Return the number of rows that are made dense, at most `n_rows`; warn if these are fewer."""
    most = max(2, DENSE_VALUES // max(1, X.shape[1]))
    if not sparse.issparse(X) or n_rows <= most:
        return n_rows
    warn_caller(
        f"X is sparse and has {X.shape[1]} features, and a compression makes its rows dense: it uses {most} of "
        f"{n_rows} rows, which take {DENSE_VALUES // 2**18} MB. Set n_calibration={most} or less to choose this "
        "number, or select features before the student",
    )
    return most


def labels_of(network: Network, X: np.ndarray | sparse.csr_array) -> np.ndarray:
    """Return the positions of the labels that a network predicts for rows, not scaled; shape (n_samples,).

    Raises
    ------
    ValueError
        If it predicts no labels.
    """
    if network.classes is None:
        raise ValueError(
            "balance_classes=True is for labels, and the wrapped network predicts numbers; set it to False"
        )
    size = rows_per_block(X.shape[1])
    blocks = (scaled_rows(X[start : start + size], network) for start in range(0, X.shape[0], size))
    return np.concatenate([label_positions(layer_outputs(network, rows)[-1]) for rows in blocks])


def _in_turn(order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return positions in an order in which labels take turns, each as long as it has positions."""
    by_label = np.argsort(labels[order], kind="stable")
    counts = np.bincount(labels)
    # The rank of a position among those of its label, in the given order
    rank = np.empty(len(order), np.intp)
    rank[by_label] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.argsort(rank, kind="stable")]


def _balanced(positions: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return about as many positions with equally many of each label: chosen at random, repeated where too few."""
    rng, present = np.random.default_rng(seed), np.unique(labels[positions])
    share = -(-len(positions) // len(present))
    of_labels = (positions[labels[positions] == label] for label in present)
    return np.concatenate([np.resize(rng.permutation(part), share) for part in of_labels])


def targets_from_outputs(network: Network, calibration: Calibration) -> Targets:
    """Return the calibration samples with the network's outputs as targets: probabilities, or values."""

    def targets(rows: np.ndarray) -> np.ndarray:
        outputs = layer_outputs(network, rows)[-1]
        return probabilities(outputs, network.output) if network.gives_probabilities else outputs

    kind = "classification" if network.gives_probabilities else "regression"
    train, validation = calibration.train, calibration.validation
    return Targets(kind, train, targets(train), validation, targets(validation))


def targets_from_y(network: Network, calibration: Calibration, validation_fraction: float) -> Targets:
    """Return all samples of the fit with y as targets, split into training and validation set.

    Raises
    ------
    ValueError
        If X and y differ in length, or y does not suit the network; see `encode_targets`.
    """
    _limited(calibration.X, calibration.X.shape[0])
    targets, train, validation = split_y(network, calibration, validation_fraction)
    train_rows, validation_rows = (scaled_rows(calibration.X[part], network) for part in (train, validation))
    kind = "regression" if network.classes is None else "classification"
    return Targets(kind, train_rows, targets[train], validation_rows, targets[validation])


def split_y(
    network: Network, calibration: Calibration, validation_fraction: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y as `encode_targets` does, and the positions of the training and of the validation samples.

    Where every label occurs once, all samples are in both sets.

    Raises
    ------
    ValueError
        See `targets_from_y`.
    """
    targets = encode_targets(calibration.y, network)
    n_samples = calibration.X.shape[0]
    if len(targets) != n_samples:
        raise ValueError(f"X has {n_samples} samples and y has {len(targets)}; they must be equal")
    labels = targets if network.classes is not None else None
    train, validation = holdout(labels, n_samples, validation_fraction, calibration.seed)
    if sparse.issparse(calibration.X):
        most, rng = max(2, DENSE_VALUES // max(1, calibration.X.shape[1])), np.random.default_rng(calibration.seed)
        train, validation = (np.sort(rng.permutation(part)[:most]) for part in (train, validation))
    if calibration.balanced:
        train, validation = (
            _balanced(part, targets, calibration.seed) if len(part) else part for part in (train, validation)
        )
    return targets, train, validation if len(validation) else train


def validation_fidelity(network: Network, targets: Targets) -> float:
    """Return the fidelity of a network's outputs to the validation targets: accuracy, or an R^2."""
    outputs = layer_outputs(network, targets.validation)[-1]
    return fidelity(targets.validation_targets, outputs, targets.kind == "classification")


def encode_targets(y: Any, network: Network) -> np.ndarray:
    """Return labels as their positions, shape (n_samples,), int64, or values as outputs of the last layer, float32.

    Raises
    ------
    ValueError
        If a label is not one of the network's, or the number of columns of y is not the network's number of outputs.
    """
    if network.classes is not None:
        labels = column_or_1d(y)
        # Classes need not be sorted, and searchsorted finds the nearest one for unknown labels: compare afterwards
        order = np.argsort(network.classes)
        position = np.searchsorted(network.classes, labels, sorter=order).clip(max=len(order) - 1)
        unknown = network.classes[order[position]] != labels
        if unknown.any():
            raise ValueError(
                f"y has the label {labels[unknown].tolist()[0]!r}, which is not a label of the wrapped network; its "
                f"labels are {', '.join(map(repr, network.classes[:10].tolist()))}"
            )
        return order[position].astype(np.int64)
    values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    values = values.reshape(len(values), -1)
    if values.shape[1] != network.layer_sizes[-1]:
        raise ValueError(
            f"y has {values.shape[1]} columns, and the wrapped network {network.layer_sizes[-1]} outputs; it must have "
            "one column for each output"
        )
    if network.output_offset is not None:
        values = values - network.output_offset
    return (values if network.output_scale is None else values / network.output_scale).astype(np.float32)


def probabilities(outputs: np.ndarray, output: str) -> np.ndarray:
    """Return class probabilities of logits, shape (..., n_classes): two columns also for a single output."""
    if output == "softmax":
        return special.softmax(outputs, axis=-1)
    positive = special.expit(outputs)
    return np.concatenate([1 - positive, positive], axis=-1) if outputs.shape[-1] == 1 else positive


def scaled_rows(rows: Any, network: Network) -> np.ndarray:
    """Return the inputs of the network's first layer for dense or CSR rows, dense float32."""
    if sparse.issparse(rows):
        scaled, size = np.empty(rows.shape, np.float32), rows_per_block(rows.shape[1])
        for start in range(0, rows.shape[0], size):
            scaled[start : start + size] = network.scale_inputs(rows[start : start + size].toarray())
    else:
        scaled = network.scale_inputs(rows)
    if not np.isfinite(scaled).all():
        column = int(np.argwhere(~np.isfinite(scaled))[0, 1])
        raise ValueError(
            f"X has values in column {column} that are NaN or too large for float32 after scaling, and the compressed "
            "network was fitted without missing values; replace them"
        )
    return scaled
