"""Matrix variate Gaussian posteriors: a variance for each row and column instead of one for each weight.

A layer multiplies samples x of p inputs, a constant 1 for the bias among them, by a p x q matrix W. The posterior

    q(W) = MN(M, U, V),    Cov(w_ij, w_kl) = U_ik V_jl,

has a p x p covariance U of the inputs and a diagonal q x q covariance V of the outputs. With diagonal U = diag(u) and
V = diag(v) these are p + q variances, fewer than the p q of a factorized Gaussian, and the variances of a row or column
are proportional (Louizos and Welling, "Structured and Efficient Variational Deep Learning with Matrix Gaussian
Posteriors", arXiv 1603.04733). U may also have a part of low rank, and W may be conditioned on pseudo-data: m rows A of
pseudo-inputs whose outputs A W have a given distribution.

All functions take leading axes: independent posteriors in one call.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distill.training.perceptron import TORCH_ACTIVATIONS

MODES = ("mean", "local", "joint", "weight")

# Additions to the diagonal, relative to its mean, tried one after the other until a Cholesky factor exists; larger ones
# would change the posterior noticeably. Chosen by hand
_JITTERS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)


class RowCovariance(NamedTuple):
    """Covariance of the rows, ``U = diag(variance) + basis core basis^T``.

    Parameters
    ----------
    variance : Tensor of shape (..., p)
        Positive.
    basis : Tensor of shape (..., p, r) or None
        None for a diagonal U.
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
        # Where the part of low rank cancels nearly all of a variance, the rounded result may be negative
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
        """Return U B for B of shape (..., p, k); the same shape."""
        product = self.variance[..., None] * columns
        return product if self.basis is None else product + self._weighted_basis() @ (self.basis.mT @ columns)

    def quadratic(self, X: Tensor) -> Tensor:
        """Return x U x^T for each row x of X of shape (..., n, p); shape (..., n)."""
        value = (X.square() @ self.variance[..., None]).squeeze(-1)
        if self.basis is None:
            return value
        projected = X @ self.basis
        weighted = projected if self.core is None else projected @ self.core
        return (value + (weighted * projected).sum(-1)).clamp_min(0)

    def draw(self, noise: Tensor) -> Tensor:
        """Return R noise with R R^T = U, for noise of shape (..., p, k); the same shape."""
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
    """Distribution of p x q matrices, ``MN(mean, rows, diag(columns))``.

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
        """Return the expected sum of squares of each row, shape (..., p)."""
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
        In nats, ``(tr(U0^-1 U) tr(V0^-1 V) + tr((M - M0)^T U0^-1 (M - M0) V0^-1) - p q + q log(|U0| / |U|)
        + p log(|V0| / |V|)) / 2``.

    Raises
    ------
    ValueError
        If the covariance of the prior's rows is not diagonal.

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
    """Return the KL divergence from a Gaussian prior whose precision has a Gamma prior.

    Parameters
    ----------
    q : MatrixGaussian
    shape, rate : float
        The precision t of the weights, N(0, 1/t), has a Gamma(shape, rate) prior; both positive.
    per : {"row", "layer"}
        One precision for each row (the outgoing weights of an input), or one for all weights.

    Returns
    -------
    Tensor of shape (...)
        In nats, ``E KL(q(W) || p(W | t)) + KL(q(t) || p(t))`` at the Gamma q(t) that minimizes it, so that q(t) has
        no parameters to train.

    Raises
    ------
    ValueError
        If `per` is unknown.
    """
    shape_posterior, rate_posterior = precision_posterior(q, shape, rate, per)
    count = 2 * (shape_posterior - shape)
    log_marginal = (
        shape * math.log(rate)
        - math.lgamma(shape)
        + math.lgamma(shape_posterior)
        - shape_posterior * rate_posterior.log()
        - 0.5 * count * math.log(2 * math.pi)
    )
    return -log_marginal.sum(-1) - q.entropy()


def precision_posterior(
    q: MatrixGaussian, shape: float = 1.0, rate: float = 1.0, per: str = "row"
) -> tuple[float, Tensor]:
    """Return the Gamma posterior of the weights' precision.

    Parameters
    ----------
    q, shape, rate, per
        See `hierarchical_divergence`.

    Returns
    -------
    shape : float
    rate : Tensor of shape (..., p) or (..., 1)
    """
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
    """Condition a posterior on the distribution of its outputs at pseudo-inputs.

    Parameters
    ----------
    q : MatrixGaussian
    pseudo_inputs : Tensor of shape (..., m, p)
        Rows A, linearly independent.
    pseudo_outputs : Tensor of shape (..., m, q)
        The mean B of A W.
    spread : Tensor of shape (..., m, m) or None
        T of its covariance ``S = L T T^T L^T``, where ``L L^T = K = A U A^T`` is the covariance before: with the
        identity it is unchanged. None is S = 0: A W is known to be B, and the posterior has no density.

    Returns
    -------
    MatrixGaussian
        ``MN(M + P (B - A M), U - P A U + P S P^T, V)`` with ``P = U A^T K^-1``.

    Raises
    ------
    ValueError
        If K is singular.
    """
    # covariance is U A^T; in the basis of its columns, U changes by K^-1 (S - K) K^-1 = L^-T (T T^T - I) L^-1
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
    # Both parts of low rank side by side: the core is block-diagonal
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
        Draws are independent between the indices of the leading axes.
    mode : {"mean", "local", "joint", "weight"}
        "mean": no draw, the mean. "local": samples independent of each other, which suffices for a sum over samples and
        gives its gradient the least variance (Kingma, Salimans and Welling, "Variational dropout and the local
        reparameterization trick", 2015). "joint": all samples from their joint distribution ``MN(X M, X U X^T, V)``.
        "weight": the same by drawing W. Functions as such (curves, Thompson sampling) need one of the last two.
    generator : torch.Generator or None

    Returns
    -------
    Tensor of shape (..., n, q)

    Raises
    ------
    ValueError
        If `mode` is unknown, or the covariance of "joint" draws is singular.
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
        # The square root has no derivative at a variance of zero
        smallest = torch.finfo(mean.dtype).tiny
        return mean + q.rows.quadratic(X).clamp_min(smallest).sqrt()[..., None] * noise
    return mean + stable_cholesky(X @ q.rows.times(X.mT), "the covariance of the outputs") @ noise


def sample_weights(q: MatrixGaussian, size: Sequence[int] = (), generator: torch.Generator | None = None) -> Tensor:
    r"""Draw weight matrices, shape (\*size, p, q); the last axes of size are the leading axes of the posterior."""
    shape = torch.broadcast_shapes((*size, 1, 1), q.mean.shape)
    return q.mean + q.rows.draw(_normal(shape, q.mean, generator)) * q.columns.sqrt()[..., None, :]


def with_constant(X: Tensor) -> Tensor:
    """Return samples (..., n, p - 1) with a constant 1 appended, divided by sqrt(p); shape (..., n, p)."""
    ones = torch.ones(*X.shape[:-1], 1).to(X)
    return torch.cat([X, ones], -1) / math.sqrt(X.shape[-1] + 1)


def stable_cholesky(matrix: Tensor, name: str) -> Tensor:
    """Return the Cholesky factor, with the least sufficient jitter on the diagonal, up to a thousandth of its mean.

    Parameters
    ----------
    matrix : Tensor of shape (..., n, n)
    name : str
        Name of the matrix in the error message.

    Returns
    -------
    Tensor of shape (..., n, n)
        Lower triangular.

    Raises
    ------
    ValueError
        If the matrix is not positive definite even so, or not finite.
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
    """Return standard normal draws with the dtype and device of another tensor."""
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


class MatrixGaussianLayer(nn.Module):
    """Posterior of one layer's weights with trainable parameters.

    Parameters
    ----------
    mean : Tensor of shape (..., p, q)
        Initial M; the bias is the last row.
    std : float
        Initial standard deviation of every weight.
    n_factors : int
        Rank of the part of U beside its diagonal.
    n_pseudo : int
        Number m of pseudo-inputs.
    bound : {"valid", "paper"}
        "valid": the outputs at the pseudo-inputs have a trained mean and covariance, and the KL divergence is that of
        the conditioned posterior. "paper", for comparison: these outputs are fixed, as in the authors' program, and the
        KL divergence is that of the posterior before conditioning, so that the loss is no bound.
    generator : torch.Generator or None
        For the initial factors and pseudo-inputs.

    Raises
    ------
    ValueError
        If `bound` is unknown.
    """

    def __init__(
        self,
        mean: Tensor,
        std: float = 0.05,
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
        self.log_rows = nn.Parameter(torch.full((*batch, p), math.log(std)).to(mean))
        self.log_columns = nn.Parameter(torch.full((*batch, q), math.log(std)).to(mean))
        self.factor = self.pseudo_inputs = None
        if n_factors:
            # Small beside the diagonal, and not zero, where the gradient would vanish
            scale = math.sqrt(std) * 0.1
            self.factor = nn.Parameter(scale * _normal((*batch, p, n_factors), mean, generator))
        if n_pseudo:
            inputs = _normal((*batch, n_pseudo, p), mean, generator) / math.sqrt(p)
            self.pseudo_inputs = nn.Parameter(inputs)
            self.pseudo_outputs = nn.Parameter(inputs @ mean)
            if bound == "valid":
                self.pseudo_spread = nn.Parameter(torch.eye(n_pseudo).to(mean).repeat(*batch, 1, 1))

    def base(self) -> MatrixGaussian:
        """Return the posterior before conditioning on pseudo-data."""
        rows = RowCovariance(self.log_rows.exp(), self.factor)
        return MatrixGaussian(self.mean, rows, self.log_columns.exp())

    def posteriors(self) -> tuple[MatrixGaussian, MatrixGaussian]:
        """Return the posterior of the likelihood term and the posterior of the KL divergence; see `bound`."""
        base = self.base()
        if self.pseudo_inputs is None:
            return base, base
        if self.bound == "paper":
            return condition(base, self.pseudo_inputs, self.pseudo_outputs), base
        conditioned = condition(base, self.pseudo_inputs, self.pseudo_outputs, self.pseudo_spread.tril())
        return conditioned, conditioned


class MatrixGaussianNetwork(nn.Module):
    """Fully connected network with a matrix Gaussian posterior in every layer.

    Parameters
    ----------
    means : sequence of Tensor of shape (..., n_inputs + 1, n_outputs)
        Initial means, the bias in the last row, in units in which each layer divides its inputs by
        ``sqrt(n_inputs + 1)``; see `with_constant`.
    activation : {"identity", "relu", "tanh", "logistic"}
        Activation of every layer but the last.
    **settings
        std, n_factors, n_pseudo, bound, generator: see `MatrixGaussianLayer`.

    Raises
    ------
    ValueError
        If the means of successive layers do not fit together.

    Examples
    --------
    >>> network = MatrixGaussianNetwork([torch.zeros(4, 5), torch.zeros(6, 2)])
    >>> posteriors, _ = network.posteriors()
    >>> network.outputs(posteriors, torch.ones(7, 3), "mean").shape
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
        """Return the posteriors of all layers for the likelihood, and those for the KL divergence."""
        sampled, penalized = zip(*(layer.posteriors() for layer in self.layers))
        return list(sampled), list(penalized)

    def outputs(
        self, posteriors: Sequence[MatrixGaussian], X: Tensor, mode: str, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw the network's outputs for samples X of shape (..., n, n_features); see `sample_outputs`."""
        last = len(posteriors) - 1
        for index, q in enumerate(posteriors):
            X = sample_outputs(q, with_constant(X), mode, generator)
            if index < last:
                X = self.activate(X)
        return X
