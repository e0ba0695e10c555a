"""Losses of a network's outputs against their targets."""

import numpy as np
import torch
from torch import Tensor, nn

from distill.network import Network
from distill.training.fidelity import fidelity

# Keeps the logarithm of a probability of zero finite in float32
_LEAST_PROBABILITY = 1e-30


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of a network's outputs, in nats.

    Parameters
    ----------
    outputs : Tensor of shape (n_samples, n_outputs)
        Logits; a single one is the log-odds of the second of two classes.
    targets : Tensor
        Positions of the labels, shape (n_samples,), int64; or probabilities, shape (n_samples, n_classes).
    """
    if outputs.shape[1] > 1:
        return nn.functional.cross_entropy(outputs, targets)
    second = targets[:, 1] if targets.ndim == 2 else targets.to(outputs.dtype)
    return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], second)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of a network's outputs; both have shape (n_samples, n_outputs)."""
    return nn.functional.mse_loss(outputs, targets)


class DistillationLoss:
    """Loss of a network's outputs against those of the network it is distilled from.

    Parameters
    ----------
    network : Network
        The original network.
    outputs : ndarray of shape (n_samples, n_outputs), float32
        Its outputs (logits) for the training samples; of a regression they give the unit of the loss.
    temperature : float
        Divisor of logits before they become probabilities. Above 1, nearly certain labels still show which classes
        resemble each other.

    References
    ----------
    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (arXiv 1503.02531), for the temperature.

    Examples
    --------
    >>> network = Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),))
    >>> outputs = np.array([[0.0, 1.0], [2.0, 3.0]], dtype=np.float32)
    >>> loss = DistillationLoss(network, outputs)
    >>> loss(torch.tensor(outputs), loss.targets(outputs)).item(), loss.fidelity(outputs, outputs)
    (0.0, 1.0)
    """

    def __init__(self, network: Network, outputs: np.ndarray, temperature: float = 1.0):
        self.network, self.temperature = network, temperature
        std = outputs.std(axis=0, dtype=np.float64)
        if network.target == "transform":  # one unit for all columns keeps the distances in an embedding
            std = np.full_like(std, np.sqrt(np.mean(std**2)))
        self.unit = np.where(std > 0, std, 1).astype(np.float32)

    def targets(self, outputs: np.ndarray) -> Tensor:
        """Return the targets of the loss for these outputs of the original network, one row for each sample."""
        values = torch.from_numpy(np.ascontiguousarray(outputs, dtype=np.float32))
        if self.network.output == "softmax":
            return torch.softmax(values / self.temperature, dim=1)
        return torch.sigmoid(values / self.temperature) if self.network.output == "logistic" else values

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, shape (): zero where the outputs are those of the original network.

        Kullback-Leibler divergence of probabilities, in nats times the square of the temperature; squared error of a
        regression in units of its variance.
        """
        softened, square = outputs / self.temperature, self.temperature**2
        if self.network.output == "softmax":
            log_probabilities = torch.log_softmax(softened, dim=1)
            return square * torch.nn.functional.kl_div(log_probabilities, targets, reduction="batchmean")
        if self.network.output == "logistic":
            entropy = torch.special.entr(targets) + torch.special.entr(1 - targets)
            cross = torch.nn.functional.binary_cross_entropy_with_logits(softened, targets, reduction="none")
            return square * (cross - entropy).sum(dim=1).mean()
        return squared_error(outputs / torch.from_numpy(self.unit), targets / torch.from_numpy(self.unit))

    def fidelity(self, targets: np.ndarray, outputs: np.ndarray) -> float:
        """Return the fidelity of outputs to those of the original network, both of shape (n_samples, n_outputs)."""
        return fidelity(targets, outputs, self.network.classes is not None)


class Likelihood(nn.Module):
    """Negative log-likelihood of a network's outputs.

    Parameters
    ----------
    kind : {"classification", "regression"}
        A regression has normal noise with a learned standard deviation for each output.
    n_outputs : int

    Examples
    --------
    >>> likelihood = Likelihood("regression", 1)
    >>> likelihood(torch.zeros(2, 1), torch.tensor([[0.0], [1.0]])).item()
    0.25
    """

    def __init__(self, kind: str, n_outputs: int):
        super().__init__()
        self.kind = kind
        self.log_noise = nn.Parameter(torch.zeros(n_outputs)) if kind == "regression" else None

    def forward(self, outputs: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the mean negative log-likelihood of a sample, up to a constant, in nats.

        Where targets are probabilities of labels, they and those of the outputs are softened by the temperature, and
        the cross-entropy is multiplied by its square.
        """
        if self.log_noise is None:
            if temperature == 1.0 or targets.ndim == 1:
                return cross_entropy(outputs, targets)
            softened = torch.softmax(targets.clamp_min(_LEAST_PROBABILITY).log() / temperature, dim=1)
            return temperature**2 * cross_entropy(outputs / temperature, softened)
        error = ((outputs - targets) * torch.exp(-self.log_noise)).square()
        return (0.5 * error + self.log_noise).sum(dim=1).mean()

    @property
    def noise(self) -> np.ndarray | None:
        """Standard deviation of the noise of every output, shape (n_outputs,), float32; None for classification."""
        return None if self.log_noise is None else self.log_noise.detach().exp().numpy()

    @torch.no_grad()
    def validate(self, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return fidelity and mean loss."""
        loss = float(self(outputs, targets))
        return fidelity(targets.numpy(), outputs.numpy(), self.kind == "classification"), loss
