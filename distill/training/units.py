"""Standardized units of a training: inputs and outputs of mean zero and standard deviation one.

The standard deviation of a prior of the weights, and that of the noise of a regression, refer to these units.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from distill.network import Network, scale_inputs
from distill.training.perceptron import fold_input, scale_outputs, unfold_input
from distill.training.samples import DenseRows
from distill.training.scaling import fit_input_scaling
from distill.training.targets import Targets


@dataclass(frozen=True, eq=False)
class Standardization:
    """Conversion of rows and networks between their own units and those of a training.

    Parameters
    ----------
    features : ndarray of int
        Positions of the inputs that vary. The training uses no others.
    constants : ndarray of shape (n_features,)
        Means of all inputs; those of constant inputs are their values.
    offset, scale : ndarray or None
        Scaling of the inputs that vary.
    mean, unit : ndarray of shape (n_outputs,), float32
        An output of the original network is ``unit`` times the trained one plus ``mean``.
    """

    features: np.ndarray
    constants: np.ndarray
    offset: np.ndarray | None
    scale: np.ndarray | None
    mean: np.ndarray
    unit: np.ndarray

    def select(self, positions: np.ndarray) -> "Standardization":
        """Return the standardization of a part of the inputs that vary, by their positions among them."""
        offset, scale = (_select(part, positions) for part in (self.offset, self.scale))
        return replace(self, features=self.features[positions], offset=offset, scale=scale)

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as inputs of the trained network, shape (n_samples, n_varying), float32."""
        return scale_inputs(rows[:, self.features], self.offset, self.scale)

    def expand(self, values: np.ndarray) -> np.ndarray:
        """Return values of the inputs that vary as values of all inputs, shape (n_features, ...), zero elsewhere."""
        expanded = np.zeros((len(self.constants), *values.shape[1:]), values.dtype)
        expanded[self.features] = values
        return expanded

    def to_training(self, network: Network) -> Network:
        """Return a network in units of the training."""
        # Inputs that are constant contribute a constant, which the biases take over
        constant = np.setdiff1d(np.arange(network.n_features), self.features)
        moved = self.constants[constant].astype(np.float64) @ network.weights[0][constant]
        first = replace(
            network,
            weights=(network.weights[0][self.features], *network.weights[1:]),
            biases=((network.biases[0] + moved).astype(np.float32), *network.biases[1:]),
            offset=None,
            scale=None,
        )
        inner = unfold_input(first, self.offset, self.scale)
        last = scale_outputs(inner.weights[-1], inner.biases[-1] - self.mean, np.zeros_like(self.mean), 1 / self.unit)
        return replace(
            inner,
            weights=(*inner.weights[:-1], last[0]),
            biases=(*inner.biases[:-1], last[1]),
            offset=None,
            scale=None,
        )

    def to_network(self, trained: Network, network: Network) -> Network:
        """Return a trained network with the inputs, the outputs and the description of the original `network`."""
        last = scale_outputs(trained.weights[-1], trained.biases[-1], self.mean, self.unit)
        trained = replace(trained, weights=(*trained.weights[:-1], last[0]), biases=(*trained.biases[:-1], last[1]))
        trained = fold_input(replace(trained, offset=self.offset, scale=self.scale))
        first = np.zeros((network.n_features, trained.weights[0].shape[1]), np.float32)
        first[self.features] = trained.weights[0]
        return replace(network, weights=(first, *trained.weights[1:]), biases=trained.biases)


@dataclass(frozen=True, eq=False)
class Task:
    """A network to start from, and samples with their targets, in units of the training.

    Parameters
    ----------
    standardization : Standardization
    network : Network
    train, validation : DenseRows
        Inputs and targets.
    kind : {"classification", "regression"}
    """

    standardization: Standardization
    network: Network
    train: DenseRows
    validation: DenseRows
    kind: str


def make_task(network: Network, varies: np.ndarray, targets: Targets) -> Task:
    """Convert a network and its samples to units of a training.

    Parameters
    ----------
    network : Network
    varies : ndarray of shape (n_features,), bool
        False for inputs that are constant; the training does not use them.
    targets : Targets

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If no input varies.
    """
    regression = targets.kind == "regression"
    units = fit_standardization(network, targets.train, varies, targets.train_targets if regression else None)
    if not len(units.features):
        raise ValueError(
            f"X has {network.n_features} features and none of them varies, so there is nothing to learn from; fit on "
            "rows that differ"
        )

    def rows(inputs: np.ndarray, values: np.ndarray) -> DenseRows:
        values = ((values - units.mean) / units.unit).astype(np.float32) if regression else values
        return DenseRows(torch.from_numpy(units.transform(inputs)), torch.from_numpy(values))

    train = rows(targets.train, targets.train_targets)
    validation = rows(targets.validation, targets.validation_targets)
    return Task(units, units.to_training(network), train, validation, targets.kind)


def fit_standardization(
    network: Network, rows: np.ndarray, varies: np.ndarray, targets: np.ndarray | None
) -> Standardization:
    """Choose the units of a training.

    Parameters
    ----------
    network : Network
        If it has an input scaling, `rows` are scaled already and stay as they are.
    rows : ndarray of shape (n_samples, n_features)
        Inputs of the first layer.
    varies : ndarray of shape (n_features,), bool
    targets : ndarray of shape (n_samples, n_outputs), or None
        Targets of a regression; None for classification, whose logits have a unit already.

    Returns
    -------
    Standardization
    """
    features = np.flatnonzero(varies)
    offset = scale = None
    if network.offset is None and network.scale is None and not network.has_wide_inputs and len(features):
        scaling = fit_input_scaling(rows[:, features], narrow=True)
        features = features[scaling.varies]
        offset, scale = (_select(part, scaling.varies) for part in (scaling.offset, scaling.scale))
    n_outputs = network.layer_sizes[-1]
    mean, unit = np.zeros(n_outputs, np.float32), np.ones(n_outputs, np.float32)
    if targets is not None:
        mean, variance = targets.mean(axis=0, dtype=np.float64), targets.var(axis=0, dtype=np.float64)
        if network.target == "transform":  # one unit for all columns keeps the distances in an embedding
            variance = np.full_like(variance, variance.mean())
        mean, unit = mean.astype(np.float32), np.where(variance > 0, np.sqrt(variance), 1).astype(np.float32)
    return Standardization(features, rows.mean(axis=0, dtype=np.float64), offset, scale, mean, unit)


def _select(part: np.ndarray | None, positions: np.ndarray) -> np.ndarray | None:
    """Return an offset or a scale for some of the inputs; a single one, or None, is for all of them."""
    return part if part is None or np.ndim(part) == 0 else part[positions]
