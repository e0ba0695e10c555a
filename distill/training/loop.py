"""The training loop: shuffled batches, Adam, averaged weights, early stopping on a validation set.

The module and the loss are arguments: a plain network, or one with a posterior over its weights. The loop runs on one
CPU thread, because the rounding of a sum depends on its division among threads: results are then the same on any number
of cores and under any joblib backend. Torch's global random state is not used.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from distill.training.device import one_thread
from distill.training.samples import Rows

Module = TypeVar("Module", bound=nn.Module)

# Smallest batch that small data are cut into: Adam's steps from fewer samples are mostly noise. Chosen by hand
_SMALL_BATCH = 16
# Learning rate at the end, as a fraction of that at the start. Chosen by hand
_LAST_RATE = 0.01
# Steps in which the moving average reaches half of its decay; it forgets the initial weights. Chosen by hand
_AVERAGING_WARM_UP = 10


@dataclass
class History:
    """Record of a training.

    Parameters
    ----------
    loss_curve : list of float
        Mean training loss of every epoch.
    validation_scores : list of float or None
        Validation score after every epoch; None without a validation set.
    best_iter : int
        Number of the epoch, counted from 1, whose weights were kept.
    assessment : object
        What the caller of the training measured afterwards; None if nothing.
    """

    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] | None = None
    best_iter: int = 0
    assessment: Any = None

    @property
    def n_iter(self) -> int:
        """Number of epochs."""
        return len(self.loss_curve)

    @property
    def best_score(self) -> float | None:
        """Validation score of the epoch whose weights were kept."""
        return None if self.validation_scores is None else self.validation_scores[self.best_iter - 1]

    @property
    def last_score(self) -> float:
        """Validation score of the last epoch; NaN if there is none."""
        return self.validation_scores[-1] if self.validation_scores else math.nan


def train(
    module: Module,
    loss: Callable[..., Tensor],
    rows: Rows,
    *,
    batch_size: int = 256,
    min_batch_size: int = _SMALL_BATCH,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    max_iter: int = 100,
    min_steps: int = 1,
    validate: Callable[[Module], tuple[float, float]] | None = None,
    n_iter_no_change: int = 10,
    is_below: Callable[[float], bool] | None = None,
    averaging: float = 0.0,
    seed: int = 0,
    callback: Callable[[Module, History], bool] | None = None,
) -> History:
    """Train a module in place.

    Parameters
    ----------
    module : nn.Module
    loss : callable(module, *batch) -> Tensor of shape ()
        Mean loss of a batch as `rows.take` returns it.
    rows : DenseRows, SparseRows, JitteredRows or another `Rows`
    batch_size : int
        Samples in a step; an epoch is cut into batches of equal size, as near below this as possible.
    min_batch_size : int
        Small data are cut into smaller batches of at least this size, to come near `min_steps`.
    learning_rate : float
        Adam's, at the start; it falls to a hundredth of it along half a cosine over `max_iter` epochs.
    weight_decay : float
        Adds ``weight_decay * weight`` to the gradient of parameters of two or more dimensions.
    max_iter : int
        Largest number of epochs.
    min_steps : int
        Steps of an epoch, at least: with fewer batches, an epoch goes over the samples several times.
    validate : callable(module) -> (score, loss), or None
        Called after every epoch without gradients. An epoch is better than another if its score is higher, or equal
        with a lower loss. The weights of the best epoch are kept.
    n_iter_no_change : int
        Training stops after this number of epochs in a row without improvement.
    is_below : callable(score) -> bool, or None
        Whether the best validation score so far is one that simpler models reach: training is then on a plateau at the
        start, and does not stop. Called only where it would stop.
    averaging : float in [0, 1)
        Decay per step of an exponential moving average of the weights, which is validated and kept in their place.
    seed : int
        Seed of the order of the samples.
    callback : callable(module, history) -> bool, or None
        Called after every epoch, with the averaged weights in place; return True to stop early.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.

    Examples
    --------
    >>> from distill.training.losses import squared_error
    >>> from distill.training.samples import DenseRows
    >>> X = torch.linspace(-1, 1, 64)[:, None]
    >>> module = nn.Linear(1, 1)
    >>> def loss(module, X, y):
    ...     return squared_error(module(X), y)
    >>> history = train(module, loss, DenseRows(X, 3 * X), batch_size=8, learning_rate=0.1)
    >>> round(module.weight.item(), 2)
    3.0
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = _adam(parameters, learning_rate, weight_decay)
    n_batches, n_rounds = batches_of_epoch(len(rows), batch_size, min_batch_size, min_steps)
    average = _MovingAverage(parameters, averaging) if averaging else None
    best = _BestWeights(parameters)
    history = History(validation_scores=None if validate is None else best.scores)
    with one_thread():
        for iteration in range(max_iter):
            batches = _batches(len(rows), n_batches, n_rounds, generator)
            rates = _learning_rates(learning_rate, iteration, max_iter, n_rounds * n_batches)
            mean_loss = _train_epoch(module, loss, rows, n_rounds * len(rows), optimizer, batches, rates, average)
            history.loss_curve.append(_finite(mean_loss, iteration, learning_rate))
            module.eval()
            with average.swapped() if average else nullcontext(), torch.no_grad():
                if validate is None or best.update(*validate(module)):
                    history.best_iter = history.n_iter
                stop = callback is not None and callback(module, history)
            if stop or (history.n_iter - history.best_iter >= n_iter_no_change and not _goes_on(history, is_below)):
                break
        _copy_into(parameters, best.values or (average.values if average else None))
    return history


def batches_of_epoch(
    n_samples: int, batch_size: int, min_batch_size: int = _SMALL_BATCH, min_steps: int = 1
) -> tuple[int, int]:
    """Return the number of batches that samples are cut into, and how often an epoch goes over them; see `train`.

    Examples
    --------
    >>> batches_of_epoch(60000, 256), batches_of_epoch(200, 256, min_steps=64)
    ((235, 1), (13, 5))
    """
    size = min(batch_size, max(min_batch_size, n_samples // min_steps))
    n_batches = max(1, math.ceil(n_samples / size))
    return n_batches, math.ceil(min_steps / n_batches)


def _train_epoch(
    module: nn.Module,
    loss: Callable[..., Tensor],
    rows: Rows,
    n_samples: int,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Tensor],
    rates: Iterable[float],
    average: "_MovingAverage | None",
) -> Tensor | float:
    """Take a step for each batch and learning rate; return the mean loss of `n_samples`, repeated samples counted."""
    module.train()
    total: Tensor | float = 0.0
    for index, rate in zip(batches, rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = loss(module, *rows.take(index))
        value.backward()
        optimizer.step()
        if average:
            average.update()
        # A tensor until the end of the epoch: reading its value would wait for the device in every step
        total += value.detach() * (len(index) / n_samples)
    return total


class _MovingAverage:
    """Exponential moving average of parameters; decays faster in the first steps, to forget the initial weights."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float):
        self.parameters: list[Tensor] = list(parameters)
        self.decay, self.steps = decay, 0
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Add the current parameters to the average."""
        self.steps += 1
        decay = min(self.decay, self.steps / (_AVERAGING_WARM_UP + self.steps))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the average in place of the parameters for the duration of the context."""
        current = [parameter.detach().clone() for parameter in self.parameters]
        _copy_into(self.parameters, self.values)
        try:
            yield
        finally:
            _copy_into(self.parameters, current)


class _BestWeights:
    """Scores of all epochs and the weights of the best one; of equal scores the one with the lower loss is better."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters, self.scores = parameters, list[float]()
        self.best, self.values = (-math.inf, -math.inf), list[Tensor]()

    def update(self, score: float, loss: float) -> bool:
        """Add an epoch, copy its weights if it is the best so far, and return whether it is."""
        self.scores.append(score)
        is_best = (score, -loss) > self.best
        if is_best:
            self.best = (score, -loss)
            self.values = [parameter.detach().clone() for parameter in self.parameters]
        return is_best


def _batches(n_samples: int, n_batches: int, n_rounds: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the positions of the samples of each step of an epoch, in a new order in each round."""
    for _ in range(n_rounds):
        yield from torch.randperm(n_samples, generator=generator).tensor_split(n_batches)


def _adam(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    # Biases and scales have one dimension, and no penalty
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def _learning_rates(start: float, iteration: int, max_iter: int, n_steps: int) -> Iterator[float]:
    """Yield the learning rate of each step of an epoch, along half a cosine over all epochs."""
    for step in range(n_steps):
        progress = (iteration + step / n_steps) / max_iter
        yield start * (_LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * progress)))


def _goes_on(history: History, is_below: Callable[[float], bool] | None) -> bool:
    return is_below is not None and history.best_score is not None and is_below(history.best_score)


def _copy_into(parameters: Iterable[Tensor], values: Iterable[Tensor] | None) -> None:
    if values is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, values):
                parameter.copy_(value)


def _finite(loss: Tensor | float, iteration: int, learning_rate: float) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the training loss became {value} in epoch {iteration + 1}; lower learning_rate_init, now {learning_rate}"
        )
    return value
