"""Train a spike-and-slab posterior, and then the weights that are left.

Likelihoods of rows, the weight of the divergence step after step, and the two trainings. What is trained here sees its
inputs and its outputs in units of their deviation: `Frame` brings a network there and back, because the deviation that
a prior gives its weights means something in such units only.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from distill.network import Network
from distill.posteriors.spike_slab import SpikeSlabPerceptron
from distill.students import training
from distill.students.network import _ACTIVATIONS, fold_input, scale_outputs, unfold_input
from distill.students.scaling import fit_input_scaling
from distill.teachers import explained_variance

LIKELIHOODS = ("labels", "numbers")

_LEAST_STEPS, _SMALL_BATCH, _AVERAGING = 32, 16, 0.999
_STEERED_EVERY = 24
_STEERED_FROM, _STEERED_LOWEST, _STEERED_HIGHEST = 1e-2, 1e-4, 10.0
_PULL, _BRAKE = 0.05, 2.0
_LOWEST_PRIOR = 1e-9


@dataclass(frozen=True)
class SelectionSettings:
    """What a posterior depends on besides the network and the rows; see `distill.SpikeSlabCompressor`."""

    granularity: tuple[str, ...] = ("weight",)
    prior_inclusion: float | str = 1e-3
    prior_deviation: float = 1.0
    kl_weight: float = 1.0
    density: float | None = None
    warm_up: float = 0.3
    max_iter: int = 40
    fine_tune_iter: int = 15
    batch_size: int = 256
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Frame:
    """How rows and networks enter a training, and how networks leave it.

    Parameters
    ----------
    features : ndarray of int
        Inputs that vary; the others have no part in it.
    constants : ndarray of shape (n_features,)
        The values of inputs, of which those that do not vary are used.
    offset, scale : ndarray or None
        What is done to the inputs that vary.
    mean, unit : ndarray of shape (n_outputs,), float32
        A trained output times `unit` plus `mean` is one of the network's.
    """

    features: np.ndarray
    constants: np.ndarray
    offset: np.ndarray | None
    scale: np.ndarray | None
    mean: np.ndarray
    unit: np.ndarray

    def enter(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as the trained network takes them, shape (n_samples, n_varying), float32."""
        rows = np.array(rows[:, self.features], dtype=np.float32)
        if self.offset is not None:
            rows -= self.offset
        if self.scale is not None:
            rows *= self.scale
        return rows

    def inward(self, network: Network) -> Network:
        """Return the network as it is trained."""
        constant = np.setdiff1d(np.arange(network.n_features), self.features)
        moved = self.constants[constant].astype(np.float64) @ network.weights[0][constant]
        first = replace(
            network,
            weights=(network.weights[0][self.features], *network.weights[1:]),
            biases=((network.biases[0] + moved).astype(np.float32), *network.biases[1:]),
            offset=None,
            scale=None,
        )
        inner = unfold_input(first, self.offset, self.scale)
        last = scale_outputs(inner.weights[-1], inner.biases[-1] - self.mean, 1 / self.unit, np.float32(0))
        return replace(
            inner,
            weights=(*inner.weights[:-1], last[0]),
            biases=(*inner.biases[:-1], last[1]),
            offset=None,
            scale=None,
        )

    def outward(self, inner: Network, network: Network) -> Network:
        """Return a trained network as one that stands for `network`: its inputs, outputs and description."""
        last = scale_outputs(inner.weights[-1], inner.biases[-1], self.mean, self.unit)
        inner = replace(inner, weights=(*inner.weights[:-1], last[0]), biases=(*inner.biases[:-1], last[1]))
        inner = fold_input(replace(inner, offset=self.offset, scale=self.scale))
        first = np.zeros((network.n_features, inner.weights[0].shape[1]), np.float32)
        first[self.features] = inner.weights[0]
        return replace(network, weights=(first, *inner.weights[1:]), biases=inner.biases)


def fit_frame(network: Network, rows: np.ndarray, varies: np.ndarray, targets: np.ndarray | None) -> Frame:
    """Choose the units of a training.

    Parameters
    ----------
    network : Network
        With an input section, its inputs are scaled already.
    rows : ndarray of shape (n_samples, n_features)
        As they enter the first layer.
    varies : ndarray of shape (n_features,), bool
    targets : ndarray of shape (n_samples, n_outputs), or None
        The numbers that are learned; None for labels.
    """
    features = np.flatnonzero(varies)
    offset = scale = None
    if network.offset is None and network.scale is None and len(features):
        scaling = fit_input_scaling(rows[:, features])
        features = features[scaling.varies]
        offset, scale = (
            value if value is None or np.ndim(value) == 0 else value[scaling.varies]
            for value in (scaling.offset, scaling.scale)
        )
    n_outputs = network.layer_sizes[-1]
    mean, unit = np.zeros(n_outputs, np.float32), np.ones(n_outputs, np.float32)
    if targets is not None:
        mean, variance = targets.mean(axis=0, dtype=np.float64), targets.var(axis=0, dtype=np.float64)
        if network.target == "transform":  # distances between columns mean something in an embedding
            variance = np.full_like(variance, variance.mean())
        mean, unit = mean.astype(np.float32), np.where(variance > 0, np.sqrt(variance), 1).astype(np.float32)
    return Frame(features, rows.mean(axis=0, dtype=np.float64), offset, scale, mean, unit)


class Likelihood(nn.Module):
    """What rows say about a network's outputs.

    Parameters
    ----------
    kind : {"labels", "numbers"}
        "labels": targets are positions of labels, or probabilities. "numbers": targets are numbers with normal noise,
        whose deviation is learned.
    n_outputs : int

    Examples
    --------
    >>> likelihood = Likelihood("numbers", 1)
    >>> likelihood(torch.zeros(2, 1), torch.tensor([[0.0], [1.0]])).item()
    0.25
    """

    def __init__(self, kind: str, n_outputs: int):
        super().__init__()
        self.kind = kind
        self.log_noise = nn.Parameter(torch.zeros(n_outputs)) if kind == "numbers" else None

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of a row, up to a constant, in nats."""
        if self.kind == "labels":
            return training.cross_entropy(outputs, targets)
        error = ((outputs - targets) * torch.exp(-self.log_noise)).square()
        return (0.5 * error + self.log_noise).sum(dim=1).mean()

    @property
    def noise(self) -> np.ndarray:
        """Deviation of the noise in every output, shape (n_outputs,); zero for labels."""
        return np.zeros(1, np.float32) if self.log_noise is None else self.log_noise.detach().exp().cpu().numpy()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return agreement, a share of equal labels or an explained variance, and the mean loss."""
        loss = float(self(outputs, targets))
        if self.kind == "numbers":
            return explained_variance(targets.numpy(), outputs.numpy()), loss
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        given = outputs.argmax(dim=1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0).to(labels.dtype)
        return float((given == labels).double().mean()), loss


class KLWeight:
    """What the divergence is multiplied by, step after step.

    It rises from zero to `final` along a line while training warms up. With a density it is steered instead: it rises
    as long as more weights are there than shall be, and falls when they become fewer faster than needed. Gates that
    have closed hardly open again, so that going too far cannot be made good later.

    Parameters
    ----------
    final : float
    n_warm_up : int
        Steps.
    density : float or None

    Examples
    --------
    >>> weight = KLWeight(1.0, 4)
    >>> [weight.next(None) for _ in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    def __init__(self, final: float, n_warm_up: int, density: float | None = None):
        self.final, self.n_warm_up, self.density = final, n_warm_up, density
        self.n_steps, self.value, self.excess = 0, _STEERED_FROM, None

    def next(self, posterior: SpikeSlabPerceptron | None) -> float:
        """Return the weight for the next step."""
        self.n_steps += 1
        if self.density is None:
            return self.final * min(1.0, (self.n_steps - 1) / max(1, self.n_warm_up))
        if self.n_steps % _STEERED_EVERY == 0:
            excess = math.log(max(density_of(posterior), 1e-9) / self.density)
            change = 0.0 if self.excess is None else excess - self.excess
            self.value *= math.exp(max(-1.0, min(1.0, _PULL * excess + _BRAKE * change)))
            self.value = min(max(self.value, _STEERED_LOWEST), _STEERED_HIGHEST)
            self.excess = excess
        return self.value


@torch.no_grad()
def density_of(posterior: SpikeSlabPerceptron) -> float:
    """Return the share of weights that are more likely there than not."""
    logits = posterior.logits()
    return sum(int(np.sum(logit > 0)) for logit in logits) / sum(logit.size for logit in logits)


def learn_posterior(
    network: Network,
    rows: training.DenseRows,
    likelihood: Likelihood,
    settings: SelectionSettings,
    report: Callable[[SpikeSlabPerceptron, str], bool] | None = None,
) -> tuple[SpikeSlabPerceptron, float]:
    """Train a spike-and-slab posterior that starts at a network.

    Parameters
    ----------
    network : Network
        In the units of the training.
    rows : DenseRows
        Inputs and targets.
    likelihood : Likelihood
        Trained as well.
    settings : SelectionSettings
    report : callable(posterior, message) -> bool, or None
        Called after every pass; true stops the training.

    Returns
    -------
    posterior : SpikeSlabPerceptron
    kl_weight : float
        What the divergence was multiplied by in the end.
    """
    n_gates = _n_gates(network, settings.granularity)
    prior = settings.prior_inclusion
    posterior = SpikeSlabPerceptron(
        network,
        settings.granularity,
        prior if isinstance(prior, float) else 1 / (n_gates + 1),
        settings.prior_deviation,
        activate=_ACTIVATIONS[network.activation],
    )
    generator = torch.Generator().manual_seed(settings.seed)
    batch_size, n_steps = _batches(len(rows), settings.batch_size)
    weight = KLWeight(settings.kl_weight, round(settings.warm_up * settings.max_iter * n_steps), settings.density)
    module = nn.ModuleList([posterior, likelihood])
    used = 0.0

    def loss(module: nn.ModuleList, inputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal used
        used = weight.next(posterior)
        fit = likelihood(posterior(inputs, generator), targets)
        return fit + posterior.divergence() * (used / len(rows))

    def after_pass(module: nn.ModuleList, history: training.History) -> bool:
        if prior == "elbo":
            posterior.prior_inclusion = min(max(posterior.mean_inclusion(), _LOWEST_PRIOR), 0.5)
        message = f"loss {history.loss_curve[-1]:.4f}, density {density_of(posterior):.4f}"
        return report is not None and report(posterior, message)

    training.train(
        module,
        loss,
        rows,
        batch_size=batch_size,
        learning_rate=settings.learning_rate,
        max_iter=settings.max_iter,
        min_steps=_LEAST_STEPS,
        seed=settings.seed,
        callback=after_pass,
    )
    return posterior, used


def fine_tune(
    posterior: SpikeSlabPerceptron,
    masks: Sequence[np.ndarray],
    rows: training.DenseRows,
    held_out: training.DenseRows,
    likelihood: Likelihood,
    kl_weight: float,
    settings: SelectionSettings,
    report: Callable[[SpikeSlabPerceptron, str], bool] | None = None,
) -> list[float]:
    """Train the slabs that are left, with all gates fixed; the pass is kept whose means do best on held-out rows.

    Parameters
    ----------
    posterior : SpikeSlabPerceptron
        Trained in place.
    masks : sequence of ndarray of shape (n_inputs, n_outputs), bool
    rows, held_out : DenseRows
    likelihood : Likelihood
    kl_weight : float
    settings : SelectionSettings
    report : callable(posterior, message) -> bool, or None

    Returns
    -------
    list of float
        Agreement on the held-out rows after every pass.
    """
    kept = [torch.from_numpy(mask.astype(np.float32)) for mask in masks]
    generator = torch.Generator().manual_seed(settings.seed + 1)
    batch_size, _ = _batches(len(rows), settings.batch_size)
    module = nn.ModuleList([posterior, likelihood])

    def loss(module: nn.ModuleList, inputs: Tensor, targets: Tensor) -> Tensor:
        fit = likelihood(posterior(inputs, generator, kept), targets)
        return fit + posterior.divergence(kept) * (kl_weight / len(rows))

    def judge(module: nn.ModuleList) -> tuple[float, float]:
        return likelihood.judge(posterior.mean_outputs(held_out.tensors[0], kept), held_out.tensors[1])

    def after_pass(module: nn.ModuleList, history: training.History) -> bool:
        message = f"fine-tuning: loss {history.loss_curve[-1]:.4f}, agreement {history.validation_scores[-1]:.4f}"
        return report is not None and report(posterior, message)

    history = training.train(
        module,
        loss,
        rows,
        batch_size=batch_size,
        learning_rate=settings.learning_rate / 2,
        max_iter=settings.fine_tune_iter,
        min_steps=_LEAST_STEPS,
        validate=judge,
        n_iter_no_change=settings.fine_tune_iter,
        averaging=_AVERAGING,
        seed=settings.seed + 1,
        callback=after_pass,
    )
    return history.validation_scores


def _batches(n_rows: int, asked: int) -> tuple[int, int]:
    """Return the batch size, and the steps that a pass then has."""
    size = min(asked, max(_SMALL_BATCH, n_rows // _LEAST_STEPS))
    n_batches = max(1, math.ceil(n_rows / size))
    return size, n_batches * math.ceil(_LEAST_STEPS / n_batches)


def _n_gates(network: Network, granularity: Sequence[str]) -> int:
    sizes = network.layer_sizes
    n_gates = sum(weight.size for weight in network.weights) if "weight" in granularity else 0
    n_gates += sizes[0] if "input" in granularity else 0
    return n_gates + (sum(sizes[1:-1]) if "node" in granularity else 0)
