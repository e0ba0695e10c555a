"""A fully connected network as data: NumPy arrays and the meaning of its outputs.

All modules that train, encode, decode or run a student use this description.
"""

from dataclasses import dataclass

import numpy as np

ACTIVATIONS = ("identity", "relu", "tanh", "logistic")
TARGETS = ("predict", "predict_proba", "transform", "decision_function")
OUTPUTS = ("identity", "softmax", "logistic", "relu")


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
    output : {"identity", "softmax", "logistic", "relu"}
        Applied to the outputs of the last layer. Softmax and logistic give probabilities of `classes`; a single
        logistic output is the probability of the second of two classes. Without classes, softmax gives an embedding
        whose rows are distributions, and relu values that are not negative.
    classes : ndarray of shape (n_classes,) or None
        Label values, in the order of the outputs; None for regression and embeddings.
    offset, scale : ndarray of shape () or (n_features,), float32 or float64, or None
        The inputs of the first layer are ``(X - offset) * scale``. None if it is folded into the first layer.
    feature_names : tuple of str or None
    squeeze : bool
        Whether predictions of a single output are a vector of shape (n_samples,) instead of a column.
    clip : float or None
        Scaled inputs are clipped to ``[-clip, clip]``.
    fill : bool
        Whether inputs may be NaN, a missing value; it becomes zero after scaling.
    output_offset, output_scale : ndarray of shape () or (n_outputs,), float64, or None
        Values are the outputs of the last layer times `output_scale` plus `output_offset`, computed in float64. Labels
        of decision values follow from the outputs of the last layer themselves. None if folded into the last layer.
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
    clip: float | None = None
    fill: bool = False
    output_offset: np.ndarray | None = None
    output_scale: np.ndarray | None = None

    def scale_inputs(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of the first layer, float32; see `scale_inputs`."""
        return scale_inputs(rows, self.offset, self.scale, self.clip, self.fill)

    @property
    def has_wide_inputs(self) -> bool:
        """Whether inputs are scaled in float64: with an offset or a scale in float64, clipping or missing values."""
        return self.clip is not None or self.fill or _is_wide(self.offset) or _is_wide(self.scale)

    @property
    def gives_probabilities(self) -> bool:
        """Whether the outputs of the last layer are logits of probabilities or distributions."""
        return self.output in ("softmax", "logistic")

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


def scale_inputs(
    rows: np.ndarray,
    offset: np.ndarray | None,
    scale: np.ndarray | None,
    clip: float | None = None,
    fill: bool = False,
) -> np.ndarray:
    """Return ``(rows - offset) * scale``, clipped, with zeros for missing values.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Of any numeric type.
    offset, scale : ndarray of shape () or (n_features,), or None
        None for no subtraction or no multiplication. If one is float64, the computation is in float64: an offset that
        is large relative to the differences between rows would use up the digits of float32.
    clip : float or None
        Limit of the magnitude of the result.
    fill : bool
        Whether NaN becomes zero.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32
        A copy.

    Examples
    --------
    >>> rows = np.array([[1e9 + 1.0, np.nan], [1e9 + 2.0, 5e12]])
    >>> scale_inputs(rows, np.array([1e9, 0.0]), None, clip=8.0, fill=True)
    array([[1., 0.],
           [2., 8.]], dtype=float32)
    """
    is_wide = clip is not None or fill or _is_wide(offset) or _is_wide(scale)
    rows = np.array(rows, dtype=np.float64 if is_wide else np.float32)
    # Infinite results are left to the caller, who knows which rows they are
    with np.errstate(over="ignore", invalid="ignore"):
        if offset is not None:
            rows -= offset
        if scale is not None:
            rows *= scale
        if clip is not None:
            np.clip(rows, -clip, clip, out=rows)
        if fill:
            rows[np.isnan(rows)] = 0
        return rows.astype(np.float32, copy=False)


def _is_wide(values: np.ndarray | None) -> bool:
    """Return whether an offset or a scale needs float64."""
    return values is not None and values.dtype == np.float64
