"""Matrix variate Gaussian posteriors: variances of rows and of columns instead of one for every weight.

A layer multiplies rows x of p inputs, a constant 1 for the bias among them, by a p x q matrix W. The posterior

    q(W) = MN(M, U, V),    Cov(w_ij, w_kl) = U_ik V_jl,

has a p x p covariance U of the inputs and a diagonal q x q covariance V of the outputs. With diagonal U = diag(u) and
V = diag(v) these are p + q variances, fewer than the p q of a factorised Gaussian, and yet weights of one row or column
rise and fall together (Louizos and Welling, "Structured and Efficient Variational Deep Learning with Matrix Gaussian
Posteriors", arXiv 1603.04733). U may also carry a part of low rank, and pseudo-data: rows A of m inputs whose outputs
A W are given a distribution of their own.

All functions take leading axes: independent posteriors, one after another, in one call.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.training.perceptron import TORCH_ACTIVATIONS

MODES = ("mean", "local", "joint", "weight")

_JITTERS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)


class RowCovariance(NamedTuple):
    """The covariance of the inputs, ``U = diag(variance) + basis core basis^T``.

    Parameters
    ----------
    variance : Tensor of shape (..., p)
        Positive.
    basis : Tensor of shape (..., p, r) or None
        None leaves U diagonal.
    core : Tensor of shape (..., r, r) or None
        Symmetric, and such that U is positive definite. None is the identity.

    Examples
    --------
    >>> rows = RowCovariance(torch.ones(2), torch.tensor([[1.0], [2.0]]))
    >>> rows.times(torch.eye(2))
    tensor([[2., 2.],
            [2., 5.]])
    """

    variance: Tensor
    basis: Tensor | None = None
    core: Tensor | None = None

    def diagonal(self) -> Tensor:
        """Return the diagonal of U, shape (..., p)."""
        if self.basis is None:
            return self.variance
        total = self.variance + (self._weighted_basis() * self.basis).sum(-1)
        # A part of low rank that takes away nearly all of a variance may leave less than nothing after rounding
        return total.clamp_min(torch.finfo(total.dtype).eps * self.variance.detach().amin())

    def log_determinant(self) -> Tensor:
        """Return log |U|, shape (...)."""
        value = self.variance.log().sum(-1)
        if self.basis is None:
            return value
        inner = self.basis.mT @ (self.basis / self.variance[..., None])
        inner = inner if self.core is None else self.core @ inner
        return value + torch.linalg.slogdet(inner + torch.eye(inner.shape[-1]).to(inner)).logabsdet

    def times(self, columns: Tensor) -> Tensor:
        """Return U B for B of shape (..., p, k)."""
        product = self.variance[..., None] * columns
        return product if self.basis is None else product + self._weighted_basis() @ (self.basis.mT @ columns)

    def quadratic(self, X: Tensor) -> Tensor:
        """Return x U x^T for every row x of X, shape (..., n)."""
        value = (X.square() @ self.variance[..., None]).squeeze(-1)
        if self.basis is None:
            return value
        projected = X @ self.basis
        weighted = projected if self.core is None else projected @ self.core
        return (value + (weighted * projected).sum(-1)).clamp_min(0)

    def draw(self, noise: Tensor) -> Tensor:
        """Return R noise with R R^T = U, for noise of shape (..., p, k)."""
        root = self.variance.sqrt()[..., None]
        if self.basis is None:
            return root * noise
        # U = D^1/2 (I + Q T core T^T Q^T) D^1/2, so only the square root of an r x r matrix is needed
        orthogonal, triangle = torch.linalg.qr(self.basis / root)
        inner = triangle @ triangle.mT if self.core is None else triangle @ self.core @ triangle.mT
        identity = torch.eye(inner.shape[-1]).to(inner)
        factor = stable_cholesky(inner + identity, "the covariance of the rows")
        return root * (noise + orthogonal @ ((factor - identity) @ (orthogonal.mT @ noise)))

    def _weighted_basis(self) -> Tensor:
        return self.basis if self.core is None else self.basis @ self.core


class MatrixGaussian(NamedTuple):
    """A distribution of p x q matrices, ``MN(mean, rows, diag(columns))``.

    Parameters
    ----------
    mean : Tensor of shape (..., p, q)
    rows : RowCovariance
    columns : Tensor of shape (..., q)
        Positive.
    """

    mean: Tensor
    rows: RowCovariance
    columns: Tensor

    def entropy(self) -> Tensor:
        """Return the differential entropy in nats, shape (...)."""
        p, q = self.mean.shape[-2:]
        logarithms = q * self.rows.log_determinant() + p * self.columns.log().sum(-1)
        return 0.5 * (p * q * math.log(2 * math.pi * math.e) + logarithms)

    def row_squares(self) -> Tensor:
        """Return the expected sum of squares of every row, shape (..., p)."""
        return self.mean.square().sum(-1) + self.rows.diagonal() * self.columns.sum(-1, keepdim=True)


def kl_divergence(q: MatrixGaussian, prior: MatrixGaussian | None = None) -> Tensor:
    """Return the Kullback-Leibler divergence of a posterior from a prior in nats.

    Parameters
    ----------
    q : MatrixGaussian
    prior : MatrixGaussian or None
        Its rows must be diagonal. None is N(0, 1) for every weight.

    Returns
    -------
    Tensor of shape (...)
        ``(tr(U0^-1 U) tr(V0^-1 V) + tr((M - M0)^T U0^-1 (M - M0) V0^-1) - p q + q log(|U0| / |U|)
        + p log(|V0| / |V|)) / 2``. The first term is a product of sums.

    Examples
    --------
    >>> standard = MatrixGaussian(torch.zeros(3, 2), RowCovariance(torch.ones(3)), torch.ones(2))
    >>> kl_divergence(standard).item(), kl_divergence(standard._replace(mean=torch.ones(3, 2))).item()
    (0.0, 3.0)
    """
    n_rows, n_columns = q.mean.shape[-2:]
    if prior is None:
        difference, row_ratio, column_ratio = q.mean.square(), q.rows.diagonal(), q.columns
        log_prior = 0.0
    else:
        if prior.rows.basis is not None:
            raise ValueError("the prior's rows must have a diagonal covariance")
        row_prior, column_prior = prior.rows.variance, prior.columns
        difference = (q.mean - prior.mean).square() / (row_prior[..., None] * column_prior[..., None, :])
        row_ratio, column_ratio = q.rows.diagonal() / row_prior, q.columns / column_prior
        log_prior = n_columns * row_prior.log().sum(-1) + n_rows * column_prior.log().sum(-1)
    log_posterior = n_columns * q.rows.log_determinant() + n_rows * q.columns.log().sum(-1)
    traces = row_ratio.sum(-1) * column_ratio.sum(-1) + difference.sum((-2, -1))
    return 0.5 * (traces - n_rows * n_columns + log_prior - log_posterior)


def hierarchical_divergence(q: MatrixGaussian, shape: float = 1.0, rate: float = 1.0, per: str = "row") -> Tensor:
    """Return the divergence from a Gaussian prior whose precision is not known.

    Parameters
    ----------
    q : MatrixGaussian
    shape, rate : float
        The precision t of the weights, N(0, 1/t), has a Gamma(shape, rate) prior; both positive.
    per : {"row", "layer"}
        Whether every row (all weights that leave one input) has a precision of its own, or one is shared.

    Returns
    -------
    Tensor of shape (...)
        ``E KL(q(W) || p(W | t)) + KL(q(t) || p(t))`` at the Gamma q(t) for which it is least: an upper bound like any
        other, and nothing more to learn.
    """
    shape_posterior, rate_posterior = precision_posterior(q, shape, rate, per)
    count = 2 * (shape_posterior - shape)
    log_evidence = (
        shape * math.log(rate)
        - math.lgamma(shape)
        + math.lgamma(shape_posterior)
        - shape_posterior * rate_posterior.log()
        - 0.5 * count * math.log(2 * math.pi)
    )
    return -log_evidence.sum(-1) - q.entropy()


def precision_posterior(
    q: MatrixGaussian, shape: float = 1.0, rate: float = 1.0, per: str = "row"
) -> tuple[float, Tensor]:
    """Return shape and rate, (..., p) or (..., 1), of the Gamma posterior of the weights' precision."""
    if per not in ("row", "layer"):
        raise ValueError(f"per must be 'row' or 'layer', got {per!r}")
    squares = q.row_squares()
    if per == "layer":
        squares = squares.sum(-1, keepdim=True)
    count = q.mean.shape[-1] * (q.mean.shape[-2] if per == "layer" else 1)
    return shape + 0.5 * count, rate + 0.5 * squares


def condition(
    q: MatrixGaussian, pseudo_inputs: Tensor, pseudo_outputs: Tensor, spread: Tensor | None = None
) -> MatrixGaussian:
    """Return what is believed of W when its outputs at some pseudo-inputs have a given distribution.

    Parameters
    ----------
    q : MatrixGaussian
    pseudo_inputs : Tensor of shape (..., m, p)
        Rows A, linearly independent.
    pseudo_outputs : Tensor of shape (..., m, q)
        The mean B of A W.
    spread : Tensor of shape (..., m, m) or None
        T of its covariance ``S = L T T^T L^T``, where ``L L^T = K = A U A^T`` is what it was before: the identity
        leaves the covariance as it is. None is S = 0: A W is known to be B, and the posterior has no density.

    Returns
    -------
    MatrixGaussian
        ``MN(M + P (B - A M), U - P A U + P S P^T, V)`` with ``P = U A^T K^-1``.

    Raises
    ------
    ValueError
        If K is singular.
    """
    covariance = q.rows.times(pseudo_inputs.mT)
    factor = stable_cholesky(pseudo_inputs @ covariance, "the kernel of the pseudo-inputs")
    residual = pseudo_outputs - pseudo_inputs @ q.mean
    mean = q.mean + covariance @ torch.cholesky_solve(residual, factor)
    identity = torch.eye(factor.shape[-1]).to(factor)
    change = -identity if spread is None else spread @ spread.mT - identity
    core = torch.linalg.solve_triangular(factor.mT, change, upper=True)
    core = torch.linalg.solve_triangular(factor, core, upper=False, left=False)
    variance, basis, inner = q.rows
    if basis is None:
        return MatrixGaussian(mean, RowCovariance(variance, covariance, core), q.columns)
    inner = torch.eye(basis.shape[-1]).to(basis) if inner is None else inner
    batch = torch.broadcast_shapes(inner.shape[:-2], core.shape[:-2])
    corner = torch.zeros(*batch, inner.shape[-1], core.shape[-1]).to(core)
    inner, core = inner.expand(*batch, *inner.shape[-2:]), core.expand(*batch, *core.shape[-2:])
    core = torch.cat([torch.cat([inner, corner], -1), torch.cat([corner.mT, core], -1)], -2)
    return MatrixGaussian(mean, RowCovariance(variance, torch.cat([basis, covariance], -1), core), q.columns)


def sample_outputs(q: MatrixGaussian, X: Tensor, mode: str, generator: torch.Generator | None = None) -> Tensor:
    """Draw the outputs X W of a layer.

    Parameters
    ----------
    q : MatrixGaussian
    X : Tensor of shape (..., n, p)
        Each of its leading axes gets draws of its own.
    mode : {"mean", "local", "joint", "weight"}
        "mean": no draw, the mean. "local": every row for itself, which is all that a sum over rows needs and has the
        least noise (Kingma, Salimans and Welling, "Variational dropout and the local reparameterization trick", 2015).
        "joint": all rows of X from their common distribution ``MN(X M, X U X^T, V)``. "weight": the same by drawing W.
        Functions that are looked at as such (curves, Thompson sampling) need one of the last two.
    generator : torch.Generator or None

    Returns
    -------
    Tensor of shape (..., n, q)
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
    if mode == "weight":
        return X @ sample_weights(q, X.shape[:-2], generator)
    mean = X @ q.mean
    if mode == "mean":
        return mean
    noise = _normal(mean.shape, mean, generator) * q.columns.sqrt()[..., None, :]
    if mode == "local":
        # The square root has no derivative where a row is certain
        smallest = torch.finfo(mean.dtype).tiny
        return mean + q.rows.quadratic(X).clamp_min(smallest).sqrt()[..., None] * noise
    return mean + stable_cholesky(X @ q.rows.times(X.mT), "the covariance of the outputs") @ noise


def sample_weights(q: MatrixGaussian, size: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
    """Draw weight matrices, shape (\\*size, p, q), where size has the posterior's own leading axes last."""
    shape = torch.broadcast_shapes((*size, 1, 1), q.mean.shape)
    return q.mean + q.rows.draw(_normal(shape, q.mean, generator)) * q.columns.sqrt()[..., None, :]


def with_constant(X: Tensor) -> Tensor:
    """Append a constant 1 to every row and divide by the square root of the number of inputs, the constant included."""
    ones = torch.ones(*X.shape[:-1], 1).to(X)
    return torch.cat([X, ones], -1) / math.sqrt(X.shape[-1] + 1)


def stable_cholesky(matrix: Tensor, name: str) -> Tensor:
    """Return the Cholesky factor, with as little as needed added to the diagonal, up to a thousandth of its mean.

    Raises
    ------
    ValueError
        If the matrix has none even so, or is not finite.
    """
    size = matrix.detach().diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    identity = torch.eye(matrix.shape[-1]).to(matrix)
    for jitter in _JITTERS:
        factor, failed = torch.linalg.cholesky_ex(matrix if jitter == 0 else matrix + jitter * size * identity)
        if not failed.any() and torch.isfinite(factor.detach()).all():
            return factor
    raise ValueError(
        f"{name} is singular even with {_JITTERS[-1]:g} of its mean diagonal added; use fewer pseudo-inputs (n_pseudo) "
        "or a lower learning rate"
    )


def _normal(shape: Sequence[int], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


class MatrixGaussianLayer(nn.Module):
    """The posterior of one layer's weights as parameters to learn.

    Parameters
    ----------
    mean : Tensor of shape (..., p, q)
        Where M begins; the bias is the last row.
    deviation : float
        Standard deviation of every weight at the start.
    n_factors : int
        Rank of what U has beyond its diagonal.
    n_pseudo : int
        Number m of pseudo-inputs.
    bound : {"valid", "paper"}
        What pseudo-data mean. "valid": the outputs at the pseudo-inputs have a mean and a covariance that are learned,
        and the divergence is that of the posterior which results. "paper": they are fixed numbers, as in the authors'
        program; the divergence is that of the posterior before conditioning, and so the loss bounds nothing.
    generator : torch.Generator or None
        Draws the pseudo-inputs.
    """

    def __init__(
        self,
        mean: Tensor,
        deviation: float = 0.05,
        n_factors: int = 0,
        n_pseudo: int = 0,
        bound: str = "valid",
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if bound not in ("valid", "paper"):
            raise ValueError(f"bound must be 'valid' or 'paper', got {bound!r}")
        batch, (p, q) = mean.shape[:-2], mean.shape[-2:]
        self.bound = bound
        self.mean = nn.Parameter(mean.clone())
        self.log_rows = nn.Parameter(torch.full((*batch, p), math.log(deviation)).to(mean))
        self.log_columns = nn.Parameter(torch.full((*batch, q), math.log(deviation)).to(mean))
        self.factor = self.pseudo_inputs = None
        if n_factors:
            scale = math.sqrt(deviation) * 0.1
            self.factor = nn.Parameter(scale * _normal((*batch, p, n_factors), mean, generator))
        if n_pseudo:
            inputs = _normal((*batch, n_pseudo, p), mean, generator) / math.sqrt(p)
            self.pseudo_inputs = nn.Parameter(inputs)
            self.pseudo_outputs = nn.Parameter(inputs @ mean)
            if bound == "valid":
                self.pseudo_spread = nn.Parameter(torch.eye(n_pseudo).to(mean).repeat(*batch, 1, 1))

    def base(self) -> MatrixGaussian:
        """Return the posterior before any pseudo-data."""
        rows = RowCovariance(self.log_rows.exp(), self.factor)
        return MatrixGaussian(self.mean, rows, self.log_columns.exp())

    def posteriors(self) -> tuple[MatrixGaussian, MatrixGaussian]:
        """Return the posterior to compute with and the one whose divergence counts; see `bound`."""
        base = self.base()
        if self.pseudo_inputs is None:
            return base, base
        if self.bound == "paper":
            return condition(base, self.pseudo_inputs, self.pseudo_outputs), base
        used = condition(base, self.pseudo_inputs, self.pseudo_outputs, self.pseudo_spread.tril())
        return used, used


class MatrixGaussianNetwork(nn.Module):
    """A fully connected network with a matrix Gaussian posterior in every layer.

    Parameters
    ----------
    means : sequence of Tensor of shape (..., n_inputs + 1, n_outputs)
        Where the means begin, the bias in the last row, in units in which each layer divides its inputs by
        ``sqrt(n_inputs + 1)``; see `with_constant`.
    activation : {"identity", "relu", "tanh", "logistic"}
        What follows every layer but the last.
    deviation, n_factors, n_pseudo, bound, generator
        See `MatrixGaussianLayer`.

    Examples
    --------
    >>> network = MatrixGaussianNetwork([torch.zeros(4, 5), torch.zeros(6, 2)])
    >>> used, counted = network.posteriors()
    >>> network.outputs(used, torch.ones(7, 3), "mean").shape
    torch.Size([7, 2])
    """

    def __init__(self, means: Sequence[Tensor], activation: str = "relu", **settings):
        super().__init__()
        for (_, n_outputs), (n_inputs, _) in itertools.pairwise(mean.shape[-2:] for mean in means):
            if n_inputs != n_outputs + 1:
                raise ValueError(f"a layer of {n_outputs} outputs cannot feed one of {n_inputs - 1} inputs")
        self.activate = TORCH_ACTIVATIONS[activation]
        self.layers = nn.ModuleList(MatrixGaussianLayer(mean, **settings) for mean in means)

    def posteriors(self) -> tuple[list[MatrixGaussian], list[MatrixGaussian]]:
        """Return every layer's posterior to compute with, and those whose divergence counts."""
        used, counted = zip(*(layer.posteriors() for layer in self.layers))
        return list(used), list(counted)

    def outputs(
        self, posteriors: Sequence[MatrixGaussian], X: Tensor, mode: str, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the last layer's sums for rows X of shape (..., n, n_features); see `sample_outputs`."""
        last = len(posteriors) - 1
        for index, q in enumerate(posteriors):
            X = sample_outputs(q, with_constant(X), mode, generator)
            if index < last:
                X = self.activate(X)
        return X
