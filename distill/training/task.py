"""What a posterior is learned from: rows, what they answer, and the network that training starts at."""

from dataclasses import dataclass

import numpy as np
import torch

from distill.network import Network
from distill.training import loop as training
from distill.training.units import Frame, fit_frame


@dataclass(frozen=True, eq=False)
class Evidence:
    """Rows and what they are said to answer.

    Parameters
    ----------
    kind : {"labels", "numbers"}
    learned, held_out : ndarray of shape (n_samples, n_features), float32
        As they enter the first layer.
    targets, held_out_targets : ndarray
        Labels: their positions, shape (n_samples,), int64, or their probabilities, shape (n_samples, n_classes), two
        columns also for a network with one output. Numbers: shape (n_samples, n_outputs).
    """

    kind: str
    learned: np.ndarray
    targets: np.ndarray
    held_out: np.ndarray
    held_out_targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained, in units of its own.

    Parameters
    ----------
    frame : Frame
    network : Network
        Where training starts.
    rows, held_out : DenseRows
        Inputs and targets.
    kind : {"labels", "numbers"}
    """

    frame: Frame
    network: Network
    rows: training.DenseRows
    held_out: training.DenseRows
    kind: str


def make_task(network: Network, varies: np.ndarray, evidence: Evidence) -> Task:
    """Bring a network and rows into the units of a training.

    Parameters
    ----------
    network : Network
    varies : ndarray of shape (n_features,), bool
        Inputs that are False are taken as constant, and have no part in the training.
    evidence : Evidence

    Raises
    ------
    ValueError
        If no input varies.
    """
    numbers = evidence.kind == "numbers"
    frame = fit_frame(network, evidence.learned, varies, evidence.targets if numbers else None)
    if not len(frame.features):
        raise ValueError(
            f"X has {network.n_features} features and none of them varies, so there is nothing to learn from; fit on "
            "rows that differ"
        )

    def rows(inputs: np.ndarray, targets: np.ndarray) -> training.DenseRows:
        targets = ((targets - frame.mean) / frame.unit).astype(np.float32) if numbers else targets
        return training.DenseRows(torch.from_numpy(frame.enter(inputs)), torch.from_numpy(targets))

    learned, held_out = rows(evidence.learned, evidence.targets), rows(evidence.held_out, evidence.held_out_targets)
    return Task(frame, frame.inward(network), learned, held_out, evidence.kind)
