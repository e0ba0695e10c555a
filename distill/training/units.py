"""The units in which a network is trained: inputs and outputs of deviation one.

The deviation that a prior gives weights, and the noise that a likelihood gives numbers, mean something in such units
only.
"""

from dataclasses import dataclass, replace

import numpy as np

from distill.network import Network
from distill.training.perceptron import fold_input, scale_outputs, unfold_input
from distill.training.scaling import fit_input_scaling


@dataclass(frozen=True, eq=False)
class Frame:
    """How rows and networks enter a training, and how networks leave it.

    Parameters
    ----------
    features : ndarray of int
        Inputs that vary; the others have no part in it.
    constants : ndarray of shape (n_features,)
        The values of inputs, of which those that do not vary are used.
    offset, scale : ndarray or None
        What is done to the inputs that vary.
    mean, unit : ndarray of shape (n_outputs,), float32
        A trained output times `unit` plus `mean` is one of the network's.
    """

    features: np.ndarray
    constants: np.ndarray
    offset: np.ndarray | None
    scale: np.ndarray | None
    mean: np.ndarray
    unit: np.ndarray

    def narrowed(self, positions: np.ndarray) -> "Frame":
        """Return the frame of some of the inputs that vary, by their positions among them."""
        parts = (part if part is None or np.ndim(part) == 0 else part[positions] for part in (self.offset, self.scale))
        return replace(self, features=self.features[positions], **dict(zip(("offset", "scale"), parts)))

    def enter(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as the trained network takes them, shape (n_samples, n_varying), float32."""
        rows = np.array(rows[:, self.features], dtype=np.float32)
        if self.offset is not None:
            rows -= self.offset
        if self.scale is not None:
            rows *= self.scale
        return rows

    def scattered(self, values: np.ndarray) -> np.ndarray:
        """Return what is known of the inputs that vary for all inputs, with zeros for the others."""
        everywhere = np.zeros((len(self.constants), *values.shape[1:]), values.dtype)
        everywhere[self.features] = values
        return everywhere

    def inward(self, network: Network) -> Network:
        """Return the network as it is trained."""
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

    def outward(self, inner: Network, network: Network) -> Network:
        """Return a trained network as one that stands for `network`: its inputs, outputs and description."""
        last = scale_outputs(inner.weights[-1], inner.biases[-1], self.mean, self.unit)
        inner = replace(inner, weights=(*inner.weights[:-1], last[0]), biases=(*inner.biases[:-1], last[1]))
        inner = fold_input(replace(inner, offset=self.offset, scale=self.scale))
        first = np.zeros((network.n_features, inner.weights[0].shape[1]), np.float32)
        first[self.features] = inner.weights[0]
        return replace(network, weights=(first, *inner.weights[1:]), biases=inner.biases)


def fit_frame(network: Network, rows: np.ndarray, varies: np.ndarray, targets: np.ndarray | None) -> Frame:
    """Choose the units of a training.

    Parameters
    ----------
    network : Network
        With an input section, its inputs are scaled already.
    rows : ndarray of shape (n_samples, n_features)
        As they enter the first layer.
    varies : ndarray of shape (n_features,), bool
    targets : ndarray of shape (n_samples, n_outputs), or None
        The numbers that are learned; None for labels.
    """
    features = np.flatnonzero(varies)
    offset = scale = None
    if network.offset is None and network.scale is None and len(features):
        scaling = fit_input_scaling(rows[:, features])
        features = features[scaling.varies]
        offset, scale = (
            value if value is None or np.ndim(value) == 0 else value[scaling.varies]
            for value in (scaling.offset, scaling.scale)
        )
    n_outputs = network.layer_sizes[-1]
    mean, unit = np.zeros(n_outputs, np.float32), np.ones(n_outputs, np.float32)
    if targets is not None:
        mean, variance = targets.mean(axis=0, dtype=np.float64), targets.var(axis=0, dtype=np.float64)
        if network.target == "transform":  # distances between columns mean something in an embedding
            variance = np.full_like(variance, variance.mean())
        mean, unit = mean.astype(np.float32), np.where(variance > 0, np.sqrt(variance), 1).astype(np.float32)
    return Frame(features, rows.mean(axis=0, dtype=np.float64), offset, scale, mean, unit)
