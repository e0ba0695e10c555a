"""What a compressor that trains learns from: the answers of the network it wraps, or those given as y."""

from typing import Any

import numpy as np
from scipy import sparse, special
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import validate_data

from distill.compressors.base import Calibration, layer_outputs, unwrap
from distill.network import Network
from distill.teachers import explained_variance
from distill.training import loop as training
from distill.training.task import Evidence

LEARN_FROM = ("auto", "outputs", "y")


class LearnsAnswers:
    """Mixin, before `Compressor`, of compressors with a parameter `learn_from`.

    Its values are "outputs", what the wrapped network answers; "y"; and "auto", which is "y" where y is given and an
    MLPClassifier or MLPRegressor is wrapped.
    """

    def fit(self, X, y=None, **fit_params):
        """Fit what is wrapped, unless it is frozen, and compress its network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), or None
            Goes to the wrapped estimator's fit, if that is not frozen, and is learned from if `learn_from` says so.
        **fit_params
            Go to the wrapped estimator's fit (with metadata routing enabled, as its requests say).

        Returns
        -------
        self
            A fit that fails or is interrupted leaves it as it was. The wrapped estimator is never modified.

        Raises
        ------
        ValueError
            If a parameter, X or y is out of its range, nothing is left of a layer, or a demand in bytes or weights
            cannot be met.
        TypeError
            If `estimator` is none that can be wrapped.
        """
        # Held by the fit only: y is asked for by its place among the rows, which the base does not hand on
        self._given = X, y
        try:
            return super().fit(X, y, **fit_params)
        finally:
            vars(self).pop("_given", None)

    def _learns_from_y(self) -> bool:
        given = self._given[1] is not None
        if self.learn_from == "y" and not given:
            raise ValueError("learn_from='y' needs y, and y is None; pass it to fit or set learn_from='outputs'")
        if self.learn_from == "auto":
            return given and isinstance(unwrap(self.estimator), MLPClassifier | MLPRegressor)
        return self.learn_from == "y"

    def _evidence(self, network: Network, calibration: Calibration) -> Evidence:
        """Return the rows and what is learned about them."""
        if not self._learns_from_y():
            return outputs_as_answers(network, calibration)
        X, y = self._given
        rows = validate_data(self, X, reset=False, accept_sparse="csr", dtype=[np.float32, np.float64])
        targets = encode_answers(y, network)
        if len(targets) != rows.shape[0]:
            raise ValueError(f"X has {rows.shape[0]} rows and y has {len(targets)}; they must be as many")
        labels = targets if network.classes is not None else None
        learned, held_out = training.holdout(labels, rows.shape[0], self.validation_fraction, calibration.seed)
        rows = scale_input(rows, network)
        kind = "numbers" if labels is None else "labels"
        return Evidence(kind, rows[learned], targets[learned], rows[held_out], targets[held_out])


def outputs_as_answers(network: Network, calibration: Calibration) -> Evidence:
    """Return rows with what a network says about them: probabilities of labels, or numbers."""

    def targets(rows: np.ndarray) -> np.ndarray:
        outputs = layer_outputs(network, rows)[-1]
        return outputs if network.output == "identity" else probabilities(outputs, network.output)

    kind = "numbers" if network.output == "identity" else "labels"
    return Evidence(
        kind, calibration.learned, targets(calibration.learned), calibration.held_out, targets(calibration.held_out)
    )


def agreement(found: Network, network: Network, evidence: Evidence) -> float:
    """Return how well a network found for another answers the held-out rows: a share of equal labels, or an R^2."""
    outputs, targets = layer_outputs(found, evidence.held_out)[-1], evidence.held_out_targets
    if evidence.kind == "numbers":
        return explained_variance(targets, outputs)
    labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
    return float(np.mean(probabilities(outputs, network.output).argmax(axis=1) == labels))


def encode_answers(y: Any, network: Network) -> np.ndarray:
    """Return labels as their positions, shape (n_samples,), int64, or numbers as columns, float32.

    Raises
    ------
    ValueError
        If a label is none of the network's, or y does not have as many columns as the network has outputs.
    """
    if network.classes is not None:
        labels = column_or_1d(y)
        order = np.argsort(network.classes)
        place = np.searchsorted(network.classes, labels, sorter=order).clip(max=len(order) - 1)
        unknown = network.classes[order[place]] != labels
        if unknown.any():
            raise ValueError(f"y has the label {labels[unknown][0]!r}, which the wrapped network does not know")
        return order[place].astype(np.int64)
    numbers = check_array(y, ensure_2d=False, dtype=np.float32, input_name="y")
    numbers = numbers.reshape(len(numbers), -1)
    if numbers.shape[1] != network.layer_sizes[-1]:
        raise ValueError(f"y has {numbers.shape[1]} columns, and the wrapped network {network.layer_sizes[-1]} outputs")
    return numbers


def probabilities(outputs: np.ndarray, output: str) -> np.ndarray:
    """Return the probabilities of labels, two columns also for a single output."""
    if output == "softmax":
        return special.softmax(outputs, axis=-1)
    positive = special.expit(outputs)
    return np.concatenate([1 - positive, positive], axis=-1) if outputs.shape[-1] == 1 else positive


def scale_input(rows: Any, network: Network) -> np.ndarray:
    """Return rows as they enter the first layer: dense, scaled, float32."""
    rows = np.array(rows.toarray() if sparse.issparse(rows) else rows, dtype=np.float32)
    if network.offset is not None:
        rows -= network.offset
    if network.scale is not None:
        rows *= network.scale
    return rows
