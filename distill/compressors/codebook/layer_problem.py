"""The error of a layer's outputs as a least-squares problem in its weights."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """The squared error of a layer's outputs as a quadratic function of its weights.

    The error of a matrix V with columns v_j, with the best bias, is the sum over neurons j of
    ``v_j' gram v_j - 2 v_j' cross_j`` plus `power`. It is never negative.

    Parameters
    ----------
    gram : ndarray of shape (n_inputs, n_inputs), float64
        Inner products of the centered inputs.
    cross : ndarray of shape (n_inputs, n_outputs), float64
        Inner products of the centered inputs and the centered targets.
    power : float
        Sum of the squares of the centered targets.
    input_mean : ndarray of shape (n_inputs,), float64
    target_mean : ndarray of shape (n_outputs,), float64
    """

    gram: np.ndarray
    cross: np.ndarray
    power: float
    input_mean: np.ndarray
    target_mean: np.ndarray

    def times_gram(self, weight: np.ndarray) -> np.ndarray:
        """Return the product of `gram` and weights of shape (n_inputs, n_outputs)."""
        return self.gram @ weight

    def error(self, weight: np.ndarray) -> float:
        """Return the sum of squared errors of the outputs for weights of shape (n_inputs, n_outputs)."""
        weight = np.asarray(weight, np.float64)
        return float(np.sum(weight * (self.gram @ weight - 2 * self.cross)) + self.power)

    def bias(self, weight: np.ndarray) -> np.ndarray:
        """Return the best bias for these weights; ndarray of shape (n_outputs,), float64."""
        return self.target_mean - self.input_mean @ np.asarray(weight, np.float64)


def layer_problem(inputs: np.ndarray, targets: np.ndarray, weight: np.ndarray, ridge: float = 1e-3) -> LayerProblem:
    """Set up the least-squares problem of a layer.

    Parameters
    ----------
    inputs : ndarray of shape (n_samples, n_inputs)
        Inputs of the layer: the outputs of the compressed layers before it, whose errors are corrected here.
    targets : ndarray of shape (n_samples, n_outputs)
        Outputs of the original layer, before the activation, in the original network.
    weight : ndarray of shape (n_inputs, n_outputs)
        The original weights.
    ridge : float
        Adds ``ridge * (mean of gram's diagonal) * ||V - weight||^2`` to the error, which determines the weights also
        with few samples or collinear inputs.

    Returns
    -------
    LayerProblem
    """
    inputs, targets = np.asarray(inputs, np.float64), np.asarray(targets, np.float64)
    weight = np.asarray(weight, np.float64)
    input_mean, target_mean = inputs.mean(axis=0), targets.mean(axis=0)
    inputs, targets = inputs - input_mean, targets - target_mean
    gram = inputs.T @ inputs
    cross = inputs.T @ targets
    power = float(np.sum(targets**2))
    spread = float(np.trace(gram)) / max(len(gram), 1)
    anchor = ridge * spread if spread else 1.0  # constant inputs: only the original weights determine the new ones
    gram[np.diag_indices_from(gram)] += anchor
    return LayerProblem(
        gram, cross + anchor * weight, power + anchor * float(np.sum(weight**2)), input_mean, target_mean
    )
