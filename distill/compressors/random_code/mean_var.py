"""The usual Gaussian posterior, mean and variance, whose information is steered to a budget while it learns.

This is the parameterisation of Havasi, Peharz and Hernandez-Lobato, "Minimal Random Code Learning" (arXiv 1810.00440),
kept for comparison: every block has a penalty weight that goes up a little after each step that spent too much and
down after each that spent too little.
"""

import math

import torch
from torch import Tensor, nn

from distill.compressors.random_code.mean_kl import divergence


class MeanVar(nn.Module):
    """Posteriors of blocks of weights, each block penalised until it is worth what it may cost.

    Parameters
    ----------
    means : Tensor of shape (n_blocks, block_size)
        Where the means begin, in units of the prior N(0, 1).
    used : Tensor of shape (n_blocks, block_size), bool
        Places that hold a weight.
    budget : float
        Nats per block that the penalties aim at.
    penalty : float
        First weight of the divergence in the loss.
    rate : float in (0, 1)
        By how much a step changes a penalty.
    log_variance : float
        Where the ln variances begin.

    Attributes
    ----------
    mean, log_variance : Parameter of shape (n_blocks, block_size)
    penalties : Tensor of shape (n_blocks,)

    Examples
    --------
    >>> posterior = MeanVar(torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool), budget=8.0)
    >>> posterior.divergence().shape
    torch.Size([3])
    """

    def __init__(
        self,
        means: Tensor,
        used: Tensor,
        budget: float,
        penalty: float = 1e-8,
        rate: float = 0.005,
        log_variance: float = -6.0,
    ):
        super().__init__()
        self.budget, self.rate = budget, rate
        self.register_buffer("used", used)
        self.register_buffer("penalties", torch.full((len(means),), penalty, dtype=means.dtype))
        self.mean = nn.Parameter(means.masked_fill(~used, 0.0))
        self.log_variance = nn.Parameter(torch.full_like(means, log_variance).masked_fill(~used, 0.0))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return means and ln variances, shape (n_blocks, block_size); places without a weight are as the prior."""
        return self.mean.masked_fill(~self.used, 0.0), self.log_variance.masked_fill(~self.used, 0.0)

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence of every block from its prior in nats, shape (n_blocks,)."""
        return divergence(*self()).sum(dim=1)

    @torch.no_grad()
    def anneal(self, spent: Tensor) -> None:
        """Move the penalties after a step; `spent` is what the blocks were worth, shape (n_blocks,)."""
        self.penalties *= torch.where(spent > self.budget, 1 + self.rate, 1 / (1 + self.rate))
        self.penalties.clamp_(max=math.exp(20))
