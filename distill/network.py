"""A fully connected network as data: NumPy arrays and the meaning of its outputs.

All modules that train, encode, decode or run a student use this description.
"""

from dataclasses import dataclass

import numpy as np

ACTIVATIONS = ("identity", "relu", "tanh", "logistic")
TARGETS = ("predict", "predict_proba", "transform", "decision_function")
OUTPUTS = ("identity", "softmax", "logistic")


@dataclass(frozen=True, eq=False)
class Network:
    """A fully connected network and the meaning of its outputs.

    Parameters
    ----------
    weights : tuple of ndarray of shape (n_inputs, n_outputs), float32
        One matrix per layer; inputs times the matrix plus the biases are the layer's pre-activations.
    biases : tuple of ndarray of shape (n_outputs,), float32
    activation : {"identity", "relu", "tanh", "logistic"}
        Activation after every layer but the last.
    target : {"predict", "predict_proba", "transform", "decision_function"}
        The method of the teacher that the network was trained for.
    output : {"identity", "softmax", "logistic"}
        Applied to the outputs of the last layer. Softmax and logistic give probabilities of `classes`; a single
        logistic output is the probability of the second of two classes.
    classes : ndarray of shape (n_classes,) or None
        Label values, in the order of the outputs; None for regression and embeddings.
    offset, scale : ndarray of shape () or (n_features,), float32, or None
        The inputs of the first layer are ``(X - offset) * scale``. None if it is folded into the first layer.
    feature_names : tuple of str or None
    squeeze : bool
        Whether predictions of a single output are a vector of shape (n_samples,) instead of a column.
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    activation: str = "relu"
    target: str = "transform"
    output: str = "identity"
    classes: np.ndarray | None = None
    offset: np.ndarray | None = None
    scale: np.ndarray | None = None
    feature_names: tuple[str, ...] | None = None
    squeeze: bool = False

    def scale_inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of the first layer, float32; see `scale_inputs`."""
        return scale_inputs(rows, self.offset, self.scale)

    @property
    def n_features(self) -> int:
        """Number of inputs."""
        return self.weights[0].shape[0]

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Number of inputs, then of outputs of every layer."""
        return (self.n_features, *(weight.shape[1] for weight in self.weights))

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(weight.size for weight in self.weights) + sum(bias.size for bias in self.biases)


def scale_inputs(rows: np.ndarray, offset: np.ndarray | None, scale: np.ndarray | None) -> np.ndarray:
    """Return ``(rows - offset) * scale``.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
    offset, scale : ndarray of shape () or (n_features,), or None
        None for no subtraction or no multiplication.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32
        A copy.
    """
    rows = np.array(rows, dtype=np.float32)
    if offset is not None:
        rows -= offset
    if scale is not None:
        rows *= scale
    return rows
