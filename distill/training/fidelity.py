"""Agreement of predictions with their targets: the one measure of fidelity."""

import numpy as np


def fidelity(targets: np.ndarray, outputs: np.ndarray, classification: bool) -> float:
    """Measure how well outputs agree with targets.

    Parameters
    ----------
    targets, outputs : ndarray
        For classification: labels of shape (n_samples,), or probabilities or logits of shape (n_samples, n_classes);
        a single column is the log-odds of the second class. For regression: values of shape (n_samples, n_outputs) or
        (n_samples,).
    classification : bool

    Returns
    -------
    float
        Accuracy for classification, variance-weighted R^2 for regression; at most 1.

    Examples
    --------
    >>> fidelity(np.array([0, 1, 1]), np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0]]), classification=True)
    0.6666666666666666
    """
    if not classification:
        return explained_variance(targets, outputs)
    return float(np.mean(label_positions(targets) == label_positions(outputs)))


def label_positions(values: np.ndarray) -> np.ndarray:
    """Return labels, shape (n_samples,): given labels, or the positions of the largest probabilities or logits."""
    values = np.asarray(values)
    if values.ndim == 1:
        return values
    return values.argmax(axis=1) if values.shape[1] > 1 else (values[:, 0] > 0).astype(int)


def explained_variance(targets: np.ndarray, outputs: np.ndarray) -> float:
    """Return the R^2 of outputs, every column weighted by its variance.

    Parameters
    ----------
    targets, outputs : ndarray of shape (n_samples, n_outputs) or (n_samples,)

    Returns
    -------
    float
        One minus the squared error over the squared distance from the mean. Constant targets: 1 if the error is zero,
        else 0.
    """
    targets = np.asarray(targets, dtype=np.float64).reshape(len(targets), -1)
    outputs = np.asarray(outputs, dtype=np.float64).reshape(targets.shape)
    error = np.square(targets - outputs).sum()
    total = np.square(targets - targets.mean(axis=0)).sum()
    if total == 0:
        return 1.0 if error == 0 else 0.0
    return float(1 - error / total)
