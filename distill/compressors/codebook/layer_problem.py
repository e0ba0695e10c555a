"""One layer's outputs as a least-squares problem in its weights."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """How far a layer's outputs are from what they should be, as a quadratic function of its weights.

    The error of a matrix V, with the best bias for it, is the sum over neurons j of ``v_j' gram v_j - 2 v_j' cross_j``
    plus `power`. It is never negative.

    Parameters
    ----------
    gram : ndarray of shape (n_inputs, n_inputs), float64
        Inner products of the centred inputs that the layer really gets.
    cross : ndarray of shape (n_inputs, n_outputs), float64
        Inner products of these inputs with the centred outputs that are wanted.
    power : float
        Sum of the squares of the centred outputs.
    input_mean, target_mean : ndarray of shape (n_inputs,), (n_outputs,), float64
    """

    gram: np.ndarray
    cross: np.ndarray
    power: float
    input_mean: np.ndarray
    target_mean: np.ndarray

    def error(self, weight: np.ndarray) -> float:
        """Return the sum of squared errors of the outputs, with the best bias."""
        weight = np.asarray(weight, np.float64)
        return float(np.sum(weight * (self.gram @ weight - 2 * self.cross)) + self.power)

    def bias(self, weight: np.ndarray) -> np.ndarray:
        """Return the bias that makes the mean outputs right; ndarray of shape (n_outputs,), float64."""
        return self.target_mean - self.input_mean @ np.asarray(weight, np.float64)


def layer_problem(inputs: np.ndarray, targets: np.ndarray, weight: np.ndarray, ridge: float = 1e-3) -> LayerProblem:
    """State the problem of replacing a layer's weights.

    Parameters
    ----------
    inputs : ndarray of shape (n_samples, n_inputs)
        What the layer gets, from layers before it that are already replaced.
    targets : ndarray of shape (n_samples, n_outputs)
        What it should answer: the outputs of the original layer for the original inputs.
    weight : ndarray of shape (n_inputs, n_outputs)
        The original weights.
    ridge : float
        Adds ``ridge * (mean of gram's diagonal) * ||V - weight||^2`` to the error, so that few rows, or inputs that
        always move together, do not leave the weights free.

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
    anchor = ridge * spread if spread else 1.0  # inputs that never vary: nothing but the old weights to go by
    gram[np.diag_indices_from(gram)] += anchor
    return LayerProblem(
        gram, cross + anchor * weight, power + anchor * float(np.sum(weight**2)), input_mean, target_mean
    )
