"""Agreement of predictions with their targets: the one measure of fidelity."""

import numpy as np

# With fewer held-out samples of a label than this, its agreement is measured on training samples, too. Chosen by hand
LEAST_OF_CLASS = 10


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


def agreement_per_class(
    expected: np.ndarray,
    found: np.ndarray,
    n_classes: int,
    more_expected: np.ndarray | None = None,
    more_found: np.ndarray | None = None,
) -> np.ndarray:
    """Measure for each label the fraction of its samples for which it is found.

    Parameters
    ----------
    expected, found : ndarray of shape (n_samples,), int
        Positions of labels, of held-out samples.
    n_classes : int
    more_expected, more_found : ndarray of int, or None
        The same of training samples, which count for labels of which fewer than 10 samples are held out.

    Returns
    -------
    ndarray of shape (n_classes,)
        NaN for a label without samples.

    Examples
    --------
    >>> agreement_per_class(np.array([0, 0, 1]), np.array([0, 1, 1]), 3, np.array([1]), np.array([0]))
    array([0.5, 0.5, nan])
    """
    counts = np.bincount(expected, minlength=n_classes).astype(np.float64)
    hits = np.bincount(expected[expected == found], minlength=n_classes).astype(np.float64)
    if more_expected is not None and more_found is not None:
        few = counts < LEAST_OF_CLASS
        counts += few * np.bincount(more_expected, minlength=n_classes)
        hits += few * np.bincount(more_expected[more_expected == more_found], minlength=n_classes)
    return np.divide(hits, counts, out=np.full(n_classes, np.nan), where=counts > 0)


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
