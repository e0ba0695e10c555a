"""How good a student is: beside a linear model and a constant, and for every label."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from distill.training.fidelity import LEAST_OF_CLASS, agreement_per_class, fidelity, label_positions
from distill.training.samples import DenseRows, SparseRows, at_most, outputs_of

Finish = Callable[..., np.ndarray]

# Rows from which the linear model is computed, and rows with which it is compared: at 784 features a quarter of a
# second, less than an epoch of a hidden layer of 256 units. Chosen by hand
_MOST_ROWS = 2000
# With fewer validation rows than this their score is mostly chance, and a student is judged by all rows. Chosen by hand
_LEAST_ROWS = 20
# Penalty of the linear model as a fraction of the mean variance of the inputs, so that it exists for any rows
_RIDGE = 1e-3
# A student is below simpler models if its accuracy is lower by this number of standard errors and by this difference,
# or its R^2 by this difference; the standard error of an R^2 needs more rows than a validation set has. Chosen by hand
_STANDARD_ERRORS, _ACCURACY_MARGIN, _R2_MARGIN = 2.0, 0.05, 0.1
# Fidelity below which a student is called poor whatever a linear model reaches. Chosen by hand
_POOR_ACCURACY, _POOR_R2 = 0.7, 0.3


@dataclass(frozen=True)
class Baseline:
    """What simpler models than a student reach on some rows.

    Parameters
    ----------
    linear, constant : float
        Accuracy or R^2 of a linear model, and of the best constant.
    n_rows : int
    classification : bool
    """

    linear: float
    constant: float
    n_rows: int
    classification: bool

    @property
    def floor(self) -> float:
        """Score that a trained student exceeds unless something went wrong: that of simpler models, less chance."""
        if not self.classification:
            return max(0.0, self.linear - _R2_MARGIN)
        best = max(self.constant, self.linear)
        chance = _STANDARD_ERRORS * float(np.sqrt(best * (1 - best) / self.n_rows))
        return best - max(chance, _ACCURACY_MARGIN)

    def is_below(self, score: float) -> bool:
        """Return whether a score is below the floor; an R^2 of zero is that of a constant, and is below."""
        return score < self.floor or (not self.classification and score <= 0)


@dataclass(frozen=True)
class Assessment:
    """Fidelity of a student.

    Parameters
    ----------
    score : float
        Accuracy or R^2.
    baseline : Baseline
        On the same rows.
    held_out : bool
        Whether these are validation rows; otherwise they are rows of all kinds, because there are too few of those.
    per_class : ndarray of shape (n_classes,), or None
        Agreement for each label; see `distill.training.fidelity.agreement_per_class`. None without labels.
    """

    score: float
    baseline: Baseline
    held_out: bool
    per_class: np.ndarray | None = None

    def complaint(self) -> str | None:
        """Return what is wrong with the student, or None."""
        linear, classification = self.baseline.linear, self.baseline.classification
        measure = "agreement with its teacher" if classification else "R^2 against its teacher"
        where = "held-out rows" if self.held_out else "rows of the fit"
        found = f"the student's {measure} on {where} is {self.score:.2f}"
        if self.baseline.is_below(self.score):
            if linear > self.baseline.constant:
                return f"{found}, less than the {linear:.2f} of a linear model"
            return f"{found}, no better than a constant"
        return f"{found} only" if self.score < (_POOR_ACCURACY if classification else _POOR_R2) else None


def assess(
    module: nn.Module,
    train: DenseRows | SparseRows,
    validation: DenseRows | SparseRows | None,
    finish: Finish | None,
    seed: int,
) -> Assessment:
    """Compare a trained module with simpler models.

    Parameters
    ----------
    module : nn.Module
    train : DenseRows or SparseRows
        Inputs and targets of the training.
    validation : DenseRows, SparseRows or None
    finish : callable(outputs, are_targets=False) -> ndarray, or None
        Makes values of the outputs of a regression, or of its targets; None for classification.
    seed : int
        Seed of the choice of rows.

    Returns
    -------
    Assessment
    """
    held_out = validation is not None and len(validation) >= _LEAST_ROWS
    rows = [at_most(_MOST_ROWS, part, seed) for part in (validation, None if held_out else train) if part is not None]
    judged = DenseRows(*(torch.cat(parts) for parts in zip(*(part.tensors for part in rows))))
    found, targets = outputs_of(module, judged).cpu().numpy(), judged.tensors[-1].cpu().numpy()
    baseline = baseline_of(train, judged, finish, found.shape[1], seed)
    if finish is not None:
        score = fidelity(finish(targets, are_targets=True), finish(found), classification=False)
        return Assessment(score, baseline, held_out)
    score = fidelity(targets, found, classification=True)
    return Assessment(score, baseline, held_out, _per_class(module, train, validation, max(found.shape[1], 2), seed))


def baseline_of(
    train: DenseRows | SparseRows, judged: DenseRows | SparseRows, finish: Finish | None, n_outputs: int, seed: int
) -> Baseline:
    """Fit a linear model by least squares to training rows, and measure it and the best constant on other rows.

    Parameters
    ----------
    train, judged : DenseRows or SparseRows
        At most 2000 of either are used.
    finish : callable or None
        See `assess`.
    n_outputs : int
        Of the student.
    seed : int
        Seed of the choice of rows.

    Returns
    -------
    Baseline
    """
    (inputs, targets), (others, expected) = (
        [part.tensors[0].cpu().numpy(), part.tensors[-1].cpu().numpy()]
        for part in (at_most(_MOST_ROWS, train, seed), at_most(_MOST_ROWS, judged, seed))
    )
    if finish is not None:
        outputs = linear_model(inputs, targets.astype(np.float64), others)
        expected, outputs = (finish(values, are_targets=True) for values in (expected, outputs))
        return Baseline(fidelity(expected, outputs, classification=False), 0.0, len(expected), False)
    labels, expected = label_positions(targets), label_positions(expected)
    one_hot = np.eye(max(n_outputs, 2))[labels]
    linear = fidelity(expected, linear_model(inputs, one_hot, others), classification=True)
    return Baseline(linear, float(np.bincount(expected).max() / len(expected)), len(expected), True)


def linear_model(inputs: np.ndarray, targets: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the outputs of a ridge regression for other inputs, float64."""
    n_samples, n_features = inputs.shape
    mean = targets.mean(axis=0)
    if n_features <= n_samples:
        center = inputs.mean(axis=0, dtype=np.float64)
        inputs, others = inputs - center, others - center
        gram = inputs.T @ inputs
        gram[np.diag_indices_from(gram)] += _RIDGE * (np.trace(gram) / n_features or 1.0)
        return others @ np.linalg.solve(gram, inputs.T @ (targets - mean)) + mean
    # With more inputs than samples the same model from the products of samples, which are centered and not the inputs
    kernel, cross = (np.asarray(part @ inputs.T, np.float64) for part in (inputs, others))
    middle = kernel.mean(axis=1)
    cross = cross - cross.mean(axis=1, keepdims=True) - middle + middle.mean()
    kernel = kernel - middle - middle[:, None] + middle.mean()
    kernel[np.diag_indices_from(kernel)] += _RIDGE * (np.trace(kernel) / n_features or 1.0)
    return cross @ np.linalg.solve(kernel, targets - mean) + mean


def _per_class(
    module: nn.Module,
    train: DenseRows | SparseRows,
    validation: DenseRows | SparseRows | None,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Return the agreement for each label on validation rows, and on training rows too where these are few."""
    labels = label_positions(train.tensors[-1].cpu().numpy())
    expected = found = np.zeros(0, np.int64)
    if validation is not None:
        expected = label_positions(validation.tensors[-1].cpu().numpy())
        found = label_positions(outputs_of(module, validation).cpu().numpy())
    few = np.bincount(expected, minlength=n_classes) < LEAST_OF_CLASS
    index = np.flatnonzero(few[labels])
    index = np.sort(np.random.default_rng(seed).permutation(index)[:_MOST_ROWS])
    more = outputs_of(module, train, torch.from_numpy(index)).cpu().numpy()
    return agreement_per_class(expected, found, n_classes, labels[index], label_positions(more))
