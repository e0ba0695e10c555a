"""Mean-Var, for comparison: Gaussian posteriors with mean and variance, whose penalties lead to the budget.

This is the parameterization of Havasi, Peharz and Hernandez-Lobato, "Minimal Random Code Learning" (arXiv 1810.00440).
Every block has a penalty weight that increases after each step in which its divergence was above the budget, and
decreases after all other steps.
"""

import math

import torch
from torch import Tensor, nn

from distill.compressors.random_code.mean_kl import divergence

# Initial penalty weight and its relative change per step. Larger rates meet the budget sooner: on MNIST 0.01 took 750
# steps, 0.003 took 2000, and the 1e-8 and 1e-4 of the authors' code 95000 or more (docs/results/random_code.md).
_PENALTY = 1e-6
_PENALTY_RATE = 0.01
# Initial ln variance, far below the prior's 0: training starts almost as that of a plain network. Chosen by hand
_LOG_VARIANCE = -6.0
# Largest penalty weight: without a limit they could become infinite
_LARGEST_PENALTY = math.exp(20)


class MeanVar(nn.Module):
    """Gaussian posteriors of blocks of weights, each block penalized until its divergence meets the budget.

    Parameters
    ----------
    means : Tensor of shape (n_blocks, block_size)
        Initial means in units of the prior N(0, 1).
    used : Tensor of shape (n_blocks, block_size), bool
        False at the unused places of blocks.
    budget : float
        Information of a block in nats.
    penalty : float
        Initial weight of the divergence in the loss.
    rate : float in (0, 1)
        Relative change of a penalty weight in a step.
    log_variance : float
        Initial ln variance of all weights.

    Attributes
    ----------
    mean, log_variance : Parameter of shape (n_blocks, block_size)
    penalties : Tensor of shape (n_blocks,)
        Weights of the divergences in the loss.

    Examples
    --------
    >>> posterior = MeanVar(torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool), budget=8.0)
    >>> posterior.divergence().shape
    torch.Size([3])
    """

    used: Tensor  # buffers
    penalties: Tensor

    def __init__(
        self,
        means: Tensor,
        used: Tensor,
        budget: float,
        penalty: float = _PENALTY,
        rate: float = _PENALTY_RATE,
        log_variance: float = _LOG_VARIANCE,
    ):
        super().__init__()
        self.budget, self.rate = budget, rate
        self.register_buffer("used", used)
        self.register_buffer("penalties", torch.full((len(means),), penalty, dtype=means.dtype))
        self.mean = nn.Parameter(means.masked_fill(~used, 0.0))
        self.log_variance = nn.Parameter(torch.full_like(means, log_variance).masked_fill(~used, 0.0))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return means and ln variances, shape (n_blocks, block_size); unused places are as the prior."""
        return self.mean.masked_fill(~self.used, 0.0), self.log_variance.masked_fill(~self.used, 0.0)

    def divergence(self) -> Tensor:
        """Return the Kullback-Leibler divergence of every block from its prior in nats, shape (n_blocks,)."""
        return divergence(*self()).sum(dim=1)

    def penalty(self, coded: Tensor) -> Tensor:
        """Return the penalty of a training step, and update the penalty weights for the next one.

        Parameters
        ----------
        coded : Tensor of shape (n_blocks,), bool
            Blocks whose codes are chosen; their divergence counts as equal to the budget.

        Returns
        -------
        Tensor of shape ()
        """
        spent = torch.where(coded, self.budget, self.divergence())
        # The gradient needs the weights of this step, which `anneal` changes in place
        penalty = (self.penalties.clone() * spent).sum()
        self.anneal(spent.detach())
        return penalty

    @torch.no_grad()
    def anneal(self, spent: Tensor) -> None:
        """Update the penalty weights after a step; `spent` is the divergence of every block, shape (n_blocks,)."""
        self.penalties *= torch.where(spent > self.budget, 1 + self.rate, 1 / (1 + self.rate))
        self.penalties.clamp_(max=_LARGEST_PENALTY)
