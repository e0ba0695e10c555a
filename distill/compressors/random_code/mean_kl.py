"""Mean-KL: Gaussian posteriors parameterized by mean and information, with a fixed budget of information.

Weights are in units of their prior: z = w / scale, and the prior is N(0, 1). A posterior N(mean, variance) is usually
learned with a penalty on its Kullback-Leibler divergence that is tuned until the divergence equals the budget. Here the
mean and the divergence are the parameters, and the variance is a function of them (Lin, Flamich and Hernandez-Lobato,
"Minimal Random Code Learning with Mean-KL Parameterization", arXiv 2307.07816; its formulas were not available to us,
those below are ours).

With kappa nats for one weight, s = variance and y = ln s,

    kappa = (mean^2 + s - 1 - y) / 2,    so    mean = sqrt(2 kappa) tanh(tau)    is possible for every tau, and
    e^y - 1 - y = 2 kappa - mean^2 = 2 kappa sech(tau)^2 = b^2 / 2    with    b = 2 sqrt(kappa) sech(tau).

The root y <= 0 is an analytic function of b, also at b = 0. The kappas of a block are its budget times a softmax.
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def _series(n_terms: int) -> list[float]:
    # y^2 = b^2 - integral of b^2 y' follows from y' (e^y - 1) = b; compare the coefficients of b^n
    terms = [0.0, -1.0]
    for n in range(3, n_terms + 2):
        inner = sum(terms[i] * terms[n - i] for i in range(2, n - 1))
        terms.append((inner + (n - 2) * terms[n - 2] / n) / 2)
    return terms


# Initial value of the root: seven terms of its series in b below 1.4, an asymptotic expansion above. Newton steps, each
# of which doubles the correct digits, then reach the precision of the type on both sides (tests/compressors/
# test_mean_kl.py)
SERIES = _series(7)
_SERIES_UP_TO = 1.4
_NEWTON_STEPS = {torch.float32: 2, torch.float64: 4}


def excess(log_variance: Tensor) -> Tensor:
    """Return e^y - 1 - y to full precision, also where y is almost 0.

    Parameters
    ----------
    log_variance : Tensor
        The y, <= 0.

    Examples
    --------
    >>> f"{excess(torch.tensor(-1e-6)).item():.4e}"
    '5.0000e-13'
    """
    y = log_variance
    # Below 0.3 the difference would cancel; there 11 terms of its series are exact to float64
    near = torch.zeros_like(y)
    for n in range(12, 1, -1):
        near = near * y + 1 / math.factorial(n)
    return torch.where(y.abs() < 0.3, near * y * y, torch.expm1(y) - y)


def solve_log_variance(width: Tensor) -> Tensor:
    """Return the y <= 0 for which e^y - 1 - y = b^2 / 2.

    Parameters
    ----------
    width : Tensor, float32 or float64
        The b of the module docstring, >= 0.

    Returns
    -------
    Tensor

    Examples
    --------
    >>> y = solve_log_variance(torch.tensor([0.0, 1e-3, 1.0, 20.0], dtype=torch.float64))
    >>> torch.allclose(torch.expm1(y) - y, torch.tensor([0.0, 5e-7, 0.5, 200.0], dtype=torch.float64))
    True
    """
    b = width
    near = torch.zeros_like(b)
    for coefficient in reversed(SERIES):
        near = near * b + coefficient
    target = b * b / 2
    far = torch.expm1(-1 - target) - target
    y = torch.where(b < _SERIES_UP_TO, near, far)
    for _ in range(_NEWTON_STEPS.get(b.dtype, 4)):
        # 0 / 0 at b = 0, where y = 0 is the root already
        step = (excess(y) - target) / torch.expm1(y)
        y = torch.where(b > 0, y - step, y)
    return y


def log_variance_slope(width: Tensor, log_variance: Tensor) -> Tensor:
    """Return dy/db = b / (e^y - 1), which is -1 at b = 0."""
    slope = width / torch.expm1(log_variance)
    return torch.where(width > 0, slope, -torch.ones_like(slope))


class LogVariance(torch.autograd.Function):
    """`solve_log_variance` with its exact gradient."""

    @staticmethod
    def forward(context, width: Tensor) -> Tensor:
        """Return `solve_log_variance` of the width."""
        log_variance = solve_log_variance(width)
        context.save_for_backward(width, log_variance)
        return log_variance

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> Tensor:
        """Return the gradient by the width."""
        return gradient * log_variance_slope(*context.saved_tensors)


def log_information(gamma: Tensor, log_budget: float | Tensor) -> Tensor:
    """Return the logarithm of the information of every weight, ln kappa: its block's budget times a softmax.

    Parameters
    ----------
    gamma : Tensor of shape (n_blocks, block_size)
        Logits of the softmax over each block; -inf at unused places.
    log_budget : float or Tensor of shape (n_blocks, 1)
        Logarithm of a block's budget in nats.

    Returns
    -------
    Tensor of shape (n_blocks, block_size)
    """
    return log_budget + torch.log_softmax(gamma, dim=-1)


def mean_and_log_variance(tau: Tensor, log_kappa: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and ln variance, in units of the prior, of posteriors of information kappa.

    Parameters
    ----------
    tau : Tensor
        Any real number; the mean is ``sqrt(2 kappa) tanh(tau)``.
    log_kappa : Tensor of the same shape
        ln of the Kullback-Leibler divergence to N(0, 1) in nats; -inf for none.

    Returns
    -------
    mean, log_variance : Tensor
        The variance is at most 1.

    Examples
    --------
    >>> mean, log_variance = mean_and_log_variance(torch.tensor([0.0, 3.0]), torch.tensor([3.0, 3.0]).log())
    >>> torch.allclose(divergence(mean, log_variance), torch.tensor(3.0))
    True
    """
    # Roots by logarithms: the gradient of sqrt(softmax) is NaN where the softmax underflows
    magnitude = tau.abs()
    log_sech = math.log(2) - magnitude - nn.functional.softplus(-2 * magnitude)
    mean = torch.exp(0.5 * (log_kappa + math.log(2))) * torch.tanh(tau)
    width = torch.exp(0.5 * log_kappa + math.log(2) + log_sech)
    return mean, LogVariance.apply(width)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of N(mean, e^log_variance) from N(0, 1) in nats."""
    return 0.5 * (mean * mean + excess(log_variance))


class MeanKL(nn.Module):
    """Gaussian posteriors of blocks of weights, each block with a fixed information.

    Parameters
    ----------
    means : Tensor of shape (n_blocks, block_size)
        Initial means in units of the prior; means too large for the budget are reduced.
    used : Tensor of shape (n_blocks, block_size), bool
        False at the unused places of blocks.
    budget : float
        Information of a block in nats.

    Attributes
    ----------
    tau, gamma : Parameter of shape (n_blocks, block_size)
        The mean relative to the largest possible one, and the logits of the information; see the module docstring.

    Examples
    --------
    >>> posterior = MeanKL(torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool), budget=8.0)
    >>> torch.allclose(posterior.divergence(), torch.tensor(8.0))
    True
    """

    used: Tensor  # a buffer

    def __init__(self, means: Tensor, used: Tensor, budget: float):
        super().__init__()
        self.log_budget = math.log(budget)
        self.register_buffer("used", used)
        tau, gamma = starting_point(means, used, budget)
        self.tau, self.gamma = nn.Parameter(tau), nn.Parameter(gamma)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return means and ln variances, shape (n_blocks, block_size); unused places have mean 0."""
        gamma = self.gamma.masked_fill(~self.used, -math.inf)
        return mean_and_log_variance(self.tau, log_information(gamma, self.log_budget))

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence of every block from its prior in nats, shape (n_blocks,)."""
        return divergence(*self()).sum(dim=1)

    def penalty(self, coded: Tensor) -> Tensor:
        """Return the penalty of a training step, shape (): zero, because the divergence is always the budget."""
        return torch.zeros((), device=coded.device)


def starting_point(means: Tensor, used: Tensor, budget: float) -> tuple[Tensor, Tensor]:
    """Return tau and gamma of posteriors near the given means.

    Half of a block's budget is divided evenly and half in proportion to the squares of the means, so that every weight
    begins with a variance below that of its prior.

    Parameters
    ----------
    means : Tensor of shape (n_blocks, block_size)
        In units of the prior.
    used : Tensor of shape (n_blocks, block_size), bool
        False at the unused places of blocks.
    budget : float
        Information of a block in nats.

    Returns
    -------
    tau, gamma : Tensor of shape (n_blocks, block_size)
        0 at unused places.
    """
    squares = (means * means).masked_fill(~used, 0.0)
    even = used / used.sum(dim=1, keepdim=True)
    total = squares.sum(dim=1, keepdim=True)
    tiny = torch.finfo(means.dtype).tiny
    fraction = torch.where(total > 0, 0.5 * even + 0.5 * squares / total.clamp_min(tiny), even)
    reachable = torch.sqrt(2 * budget * fraction).clamp_min(tiny)
    # Clamped, because tau would be infinite where a mean takes all of its budget
    tau = torch.atanh((means / reachable).clamp(-0.95, 0.95)).masked_fill(~used, 0.0)
    return tau, torch.log(fraction.masked_fill(~used, 1.0))
