"""Soft labels as arrays: from squared distances, and made to agree with the labels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Softness:
    """How the soft labels of a clusterer are made.

    Parameters
    ----------
    source : str
        The method or the fitted attribute of the teacher that they come from.
    temperature : float or None
        Of distances: soft labels are ``exp(-gap / (temperature * unit))`` with the gap between a squared distance and
        the smallest one of the row, scaled to a sum of one.
    unit : float
        Median over the rows of the fit of the gap of the second nearest cluster.
    owners : ndarray of shape (n_columns,), int64, or None
        Of distances: for each column the position of the label that it belongs to, or -1.
    """

    source: str
    temperature: float | None = None
    unit: float = 1.0
    owners: np.ndarray | None = None

    def soften(self, distances: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
        """Return soft labels of rows.

        Parameters
        ----------
        distances : ndarray of shape (n_samples, n_columns), float64
        labels : ndarray of shape (n_samples,), int64
            Positions of the labels. A row whose nearest center has another one, as rows of noise have, gets a hard
            label.
        n_classes : int

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Rows sum to one; the largest is that of the label.
        """
        soft = np.exp(-gaps(distances, self.owners, n_classes) / ((self.temperature or 1.0) * self.unit))
        return with_labels(soft / soft.sum(axis=1, keepdims=True), labels)


def gaps(distances: np.ndarray, owners: np.ndarray | None, n_classes: int) -> np.ndarray:
    """Return squared distances to the nearest center of each label less the smallest one; infinite without center."""
    squares = np.full((len(distances), n_classes), np.inf)
    for column, owner in enumerate(np.arange(n_classes) if owners is None else owners):
        if owner >= 0:
            np.minimum(squares[:, owner], np.square(distances[:, column]), out=squares[:, owner])
    return squares - squares.min(axis=1, keepdims=True)


def with_labels(soft: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return soft labels, float32, in which rows whose largest one is not that of the label are hard."""
    soft = soft.astype(np.float32)
    other = np.flatnonzero(soft.argmax(axis=1) != labels)
    soft[other] = 0
    soft[other, labels[other]] = 1
    return soft
