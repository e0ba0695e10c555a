"""The network as data: NumPy arrays and the few words needed to read them.

Everything that writes, reads, trains or runs a student shares this description. It knows nothing of torch,
scikit-learn or bytes.
"""

from dataclasses import dataclass

import numpy as np

ACTIVATIONS = ("identity", "relu", "tanh", "logistic")
TARGETS = ("predict", "predict_proba", "transform", "decision_function")
OUTPUTS = ("identity", "softmax", "logistic")


@dataclass(frozen=True, eq=False)
class Network:
    """A fully connected network and what its outputs mean.

    Parameters
    ----------
    weights : tuple of ndarray of shape (n_inputs, n_outputs), float32
        One matrix per layer; a row times the matrix gives the layer's sums.
    biases : tuple of ndarray of shape (n_outputs,), float32
    activation : {"identity", "relu", "tanh", "logistic"}
        What follows every layer but the last.
    target : {"predict", "predict_proba", "transform", "decision_function"}
        The method of the teacher that the network answers for.
    output : {"identity", "softmax", "logistic"}
        What turns the last layer's sums into the answer. Softmax and logistic give probabilities of `classes`;
        a single logistic output is the probability of the second of two classes.
    classes : ndarray of shape (n_classes,) or None
        Label values, integers or strings, in the order of the outputs; None where the answer is a number.
    offset, scale : ndarray of shape () or (n_features,), float32, or None
        The input section: rows enter the first layer as ``(X - offset) * scale``. None where it was folded away.
    feature_names : tuple of str or None
    squeeze : bool
        Whether a single output is answered as a vector of shape (n_samples,) and not as a column.
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
        """Return rows as they enter the first layer; see `scale_inputs`."""
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
        None leaves the rows as they are.

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
