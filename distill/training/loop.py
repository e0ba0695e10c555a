"""The training loop: rows in shuffled batches, Adam, averaged weights, a stop when held-out rows no longer gain.

Everything that is trained here passes its own module and loss: a plain network, or one whose weights are random. The
loop runs on one CPU thread, because sums of floats depend on how they are split: results are then the same on any
number of cores and under any joblib backend. Nothing here touches torch's global random state.
"""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from distill.training.scaling import InputScaling

_MOST_DENSE_ROWS = 4096
_POOL_SIZE, _POOL_LASTS = 2**21, 256
_SAMPLE = 128


@dataclass
class History:
    """What happened during training.

    Parameters
    ----------
    loss_curve : list of float
        Mean training loss of every pass.
    validation_scores : list of float or None
        Score of the held-out rows after every pass; None without held-out rows.
    best_iter : int
        The pass, from 1, whose weights were kept.
    """

    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] | None = None
    best_iter: int = 0

    @property
    def n_iter(self) -> int:
        """Number of passes over the training rows."""
        return len(self.loss_curve)

    @property
    def best_score(self) -> float | None:
        """Score of the pass whose weights were kept."""
        return None if self.validation_scores is None else self.validation_scores[self.best_iter - 1]


class DenseRows:
    """Rows in memory: tensors of equal length, taken by position.

    Parameters
    ----------
    *tensors : Tensor of shape (n_samples, ...)
        Inputs first, then whatever the loss wants to see with them.
    """

    def __init__(self, *tensors: Tensor):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the rows at these positions, one tensor for each of those given."""
        return tuple(tensor[index] for tensor in self.tensors)


class SparseRows:
    """CSR rows, made dense and scaled a batch at a time.

    Parameters
    ----------
    X : CSR of shape (n_samples, n_features)
    scaling : InputScaling
    *tensors : Tensor of shape (n_samples, ...)
        What the loss wants to see with the rows.
    device : str
    """

    def __init__(self, X: sparse.csr_array, scaling: InputScaling, *tensors: Tensor, device: str = "cpu"):
        self.X, self.scaling, self.tensors, self.device = X, scaling, tensors, device

    def __len__(self) -> int:
        return self.X.shape[0]

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the rows at these positions, dense, and what belongs to them."""
        dense = self.scaling.apply(self.X[index.cpu().numpy()].toarray())
        return torch.from_numpy(dense).to(self.device), *(tensor[index] for tensor in self.tensors)


class JitteredRows:
    """Rows that move a little every time they are taken: normal noise on the inputs, the rest as it is.

    Parameters
    ----------
    rows : DenseRows or SparseRows
    deviation : float
        Of the noise in every input.
    varies : ndarray of shape (n_features,), bool
        Inputs that are False get no noise.
    seed : int
    """

    def __init__(self, rows: DenseRows | SparseRows, deviation: float, varies: np.ndarray, seed: int):
        self.rows, self.deviation, self.varies = rows, deviation, torch.from_numpy(varies)
        self.generator = torch.Generator().manual_seed(seed)
        self.pool, self.n_taken = torch.empty(0, len(varies)), 0

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the rows at these positions, moved, and what belongs to them."""
        inputs, *others = self.rows.take(index)
        # Normal numbers are slow to draw: a pool of them serves many batches, each from another place in it
        if self.n_taken % _POOL_LASTS == 0 or len(self.pool) < len(index):
            n_rows = max(2 * len(index), _POOL_SIZE // len(self.varies))
            noise = torch.randn(n_rows, len(self.varies), generator=self.generator)
            self.pool = (noise * (self.deviation * self.varies)).to(inputs.device)
        self.n_taken += 1
        start = int(torch.randint(len(self.pool) - len(index) + 1, (1,), generator=self.generator))
        # What was taken is a copy: the noise goes into it without another one
        return inputs.add_(self.pool[start : start + len(index)]), *others


def typical_gap(rows: DenseRows | SparseRows, seed: int) -> float:
    """Return the median distance of a row to the nearest other one, over a sample of rows.

    Parameters
    ----------
    rows : DenseRows or SparseRows
        The first of their tensors is looked at.
    seed : int
        Of the sample.

    Returns
    -------
    float
        Zero where most rows have a double.

    Examples
    --------
    >>> typical_gap(DenseRows(torch.arange(5.0)[:, None]), seed=0)
    1.0
    """
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(rows), generator=generator)[:_SAMPLE]
    queries = rows.take(sample)[0]
    nearest = torch.full((len(sample),), math.inf, device=queries.device)
    with one_thread():
        for block in torch.arange(len(rows)).split(_MOST_DENSE_ROWS):
            distances = torch.cdist(queries, rows.take(block)[0])
            distances[(sample[:, None] == block).to(distances.device)] = math.inf
            nearest = torch.minimum(nearest, distances.min(dim=1).values)
    return float(nearest.median()) if len(rows) > 1 else 0.0


def train(
    module: nn.Module,
    loss: Callable[..., Tensor],
    rows: DenseRows | SparseRows | JitteredRows,
    *,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    max_iter: int = 100,
    min_steps: int = 1,
    validate: Callable[[nn.Module], tuple[float, float]] | None = None,
    n_iter_no_change: int = 10,
    averaging: float = 0.0,
    seed: int = 0,
    callback: Callable[[nn.Module, History], bool] | None = None,
) -> History:
    """Train a module in place.

    Parameters
    ----------
    module : nn.Module
    loss : callable(module, *batch) -> Tensor of shape ()
        The mean loss of a batch; `batch` is what `rows.take` returns.
    rows : DenseRows, SparseRows or JitteredRows
        Or anything with `__len__` and `take`.
    batch_size : int
        Rows in a step; a pass is cut into batches of equal size, as near below this as possible.
    learning_rate : float
        Adam's, at the start; it falls to a hundredth of it along half a cosine over `max_iter` passes.
    weight_decay : float
        Adds ``weight_decay * weight`` to the gradient of parameters of two or more dimensions.
    max_iter : int
        Most passes over the rows.
    min_steps : int
        Where the rows fill fewer batches, a pass goes over them several times, until it has so many steps.
    validate : callable(module) -> (score, loss), or None
        Called after every pass without gradients. A pass is better than another if its score is higher, or equal with
        a lower loss. The weights of the best pass are kept.
    n_iter_no_change : int
        Training stops after so many passes in a row that were not better.
    averaging : float in [0, 1)
        What is validated and kept is an exponential moving average of the weights with this decay per step.
    seed : int
        Of the order of the rows.
    callback : callable(module, history) -> bool, or None
        Called after every pass, with the averaged weights in place; true stops the training.

    Returns
    -------
    History

    Raises
    ------
    FloatingPointError
        If the loss is no longer finite.

    Examples
    --------
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
    n_batches = max(1, math.ceil(len(rows) / batch_size))
    n_rounds = math.ceil(min_steps / n_batches)
    n_steps = n_rounds * n_batches
    average = _MovingAverage(parameters, averaging) if averaging else None
    history = History(validation_scores=None if validate is None else [])
    best, best_weights = (-math.inf, -math.inf), None
    with one_thread():
        for iteration in range(max_iter):
            module.train()
            total = 0.0
            for step, index in enumerate(_batches(len(rows), n_batches, n_rounds, generator)):
                _set_learning_rate(optimizer, learning_rate, (iteration + step / n_steps) / max_iter)
                optimizer.zero_grad()
                value = loss(module, *rows.take(index))
                value.backward()
                optimizer.step()
                if average:
                    average.update()
                total += value.detach() * (len(index) / (n_rounds * len(rows)))
            history.loss_curve.append(_finite(total, iteration, learning_rate))
            module.eval()
            with average.swapped() if average else _nothing(), torch.no_grad():
                if validate is not None:
                    score, held_out_loss = validate(module)
                    history.validation_scores.append(score)
                    if (score, -held_out_loss) > best:
                        best, history.best_iter = (score, -held_out_loss), iteration + 1
                        best_weights = [parameter.detach().clone() for parameter in parameters]
                stop = callback is not None and callback(module, history)
            if stop or (validate is not None and history.n_iter - history.best_iter >= n_iter_no_change):
                break
        _keep(parameters, best_weights or (average.values if average else None))
    if validate is None:
        history.best_iter = history.n_iter
    return history


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread; the number there was comes back when the last of those inside has left.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    with _THREADS.lock:
        if not _THREADS.users:
            _THREADS.before = torch.get_num_threads()
        _THREADS.users += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _THREADS.lock:
            _THREADS.users -= 1
            if not _THREADS.users:
                torch.set_num_threads(_THREADS.before)


def cross_entropy(outputs: Tensor, expected: Tensor) -> Tensor:
    """Return the mean cross-entropy of a network's outputs.

    Parameters
    ----------
    outputs : Tensor of shape (n_samples, n_outputs)
        Sums before softmax; a single one is the log-odds of the second of two classes.
    expected : Tensor
        Positions of the labels, shape (n_samples,), int64; or their probabilities, shape (n_samples, n_classes).
    """
    if outputs.shape[1] > 1:
        return nn.functional.cross_entropy(outputs, expected)
    second = expected[:, 1] if expected.ndim == 2 else expected.to(outputs.dtype)
    return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], second)


def squared_error(outputs: Tensor, expected: Tensor) -> Tensor:
    """Return the mean squared error of a network's outputs; both have shape (n_samples, n_outputs)."""
    return nn.functional.mse_loss(outputs, expected)


@torch.no_grad()
def outputs_of(module: nn.Module, rows: DenseRows | SparseRows) -> Tensor:
    """Return a module's outputs for all rows, computed a block at a time; the first of `rows` goes in."""
    blocks = torch.arange(len(rows)).split(_MOST_DENSE_ROWS)
    return torch.cat([module(rows.take(block)[0]) for block in blocks])


def check_device(device: str) -> torch.device:
    """Return the torch device of this name.

    Raises
    ------
    ValueError
        If torch does not know the name, or this machine or this torch does not have the device.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be a torch device such as 'cpu' or 'cuda', got {device!r}") from error
    try:
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used here ({reason}); use device='cpu'") from error
    return found


def holdout(labels: np.ndarray | None, n_samples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into those to train on and those to hold out.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or None
        Every label is held out in proportion, and none is held out altogether.
    n_samples : int
    fraction : float in (0, 1)
    seed : int

    Returns
    -------
    train, held_out : ndarray of int
        Sorted positions; at least one each.

    Examples
    --------
    >>> train, held_out = holdout(np.array([0] * 8 + [1]), 9, 0.25, seed=0)
    >>> len(held_out), 8 in train
    (2, True)
    """
    order = np.random.default_rng(seed).permutation(n_samples)
    n_held_out = min(max(1, round(fraction * n_samples)), n_samples - 1)
    if labels is not None:
        counts = np.bincount(labels)
        grouped = order[np.argsort(labels[order], kind="stable")]
        # The first row of every label stays, so that no label is unknown to the student
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts > 0]
        free = np.delete(grouped, first)
        n_held_out = min(n_held_out, len(free))
        order = free[((np.arange(n_held_out) + 0.5) * len(free) / max(1, n_held_out)).astype(int)]
    held_out = np.zeros(n_samples, dtype=bool)
    held_out[order[:n_held_out]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


class _MovingAverage:
    """An exponential moving average of parameters; early on it forgets faster, so as not to remember the start."""

    def __init__(self, parameters: list[nn.Parameter], decay: float):
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.values = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (10 + self.steps))
        torch._foreach_lerp_(self.values, self.parameters, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        current = [parameter.detach().clone() for parameter in self.parameters]
        _keep(self.parameters, self.values)
        try:
            yield
        finally:
            _keep(self.parameters, current)


class _Threads:
    def __init__(self):
        self.lock, self.users, self.before = threading.Lock(), 0, 1


_THREADS = _Threads()


def _batches(n_samples: int, n_batches: int, n_rounds: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(n_rounds):
        yield from torch.randperm(n_samples, generator=generator).tensor_split(n_batches)


def _adam(parameters: list[nn.Parameter], learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], lr=learning_rate, fused=True)


def _set_learning_rate(optimizer: torch.optim.Optimizer, start: float, progress: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = start * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _keep(parameters: Iterable[nn.Parameter], values: Iterable[Tensor] | None) -> None:
    if values is not None:
        with torch.no_grad():
            for parameter, value in zip(parameters, values):
                parameter.copy_(value)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _finite(total: Tensor, iteration: int, learning_rate: float) -> float:
    value = float(total)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the training loss became {value} in pass {iteration + 1}; lower learning_rate_init, now {learning_rate}"
        )
    return value
