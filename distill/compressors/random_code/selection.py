"""Select the candidate that represents the Gaussian posterior of a block's random numbers."""

from collections.abc import Iterator

import numpy as np

from distill.codecs import generator
from distill.codecs.random_code import Layout

# Values of the candidates that are computed at once, 4 MB in float64. The choice does not depend on it
CHUNK_VALUES = 1 << 19
# Stream of the generator for the noise of "sample", so that the draw does not depend on other uses of the seed
_GUMBEL = 7


def choose(
    layout: Layout, block: int, mean: np.ndarray, log_variance: np.ndarray, selection: str = "argmax", seed: int = 0
) -> int:
    """Choose the candidate that represents the Gaussian posterior of a block's random numbers.

    Parameters
    ----------
    layout : Layout
    block : int
    mean, log_variance : ndarray of shape (n,)
        Posterior of the n random numbers of this block; their prior is the standard normal distribution.
    selection : {"argmax", "sample", "nearest"}
        "argmax": the largest importance weight, posterior / prior. "sample", for comparison: a draw with probabilities
        in proportion to the importance weights. "nearest", for comparison: the largest posterior density.
    seed : int
        Seed of the draw.

    Returns
    -------
    int
        The code. It does not depend on the size of the chunks in which candidates are computed.
    """
    best, code = -np.inf, 0
    for start, candidates in _chunks(layout, block):
        scores = log_weights(candidates[:, : len(mean)], mean, log_variance, against_prior=selection != "nearest")
        if selection == "sample":
            scores += _gumbel(seed, block, start, len(candidates))
        top = int(scores.argmax())
        if scores[top] > best:
            best, code = scores[top], start + top
    return code


def log_weights(
    candidates: np.ndarray, mean: np.ndarray, log_variance: np.ndarray, against_prior: bool = True
) -> np.ndarray:
    """Return ln (posterior / prior) of candidates, or ln posterior, up to a constant.

    Parameters
    ----------
    candidates : ndarray of shape (n_candidates, n)
    mean, log_variance : ndarray of shape (n,)
    against_prior : bool
        Whether the prior, the standard normal distribution, is divided out.

    Returns
    -------
    ndarray of shape (n_candidates,), float64

    Examples
    --------
    >>> log_weights(np.array([[0.0], [3.0]]), np.array([2.0]), np.array([0.0]), against_prior=False)
    array([-2. , -0.5])
    """
    candidates = candidates.astype(np.float64)
    precision = np.exp(-log_variance.astype(np.float64))
    twice = -((candidates - mean) ** 2) * precision
    if against_prior:
        twice += candidates * candidates
    return 0.5 * twice.sum(axis=1)


def _chunks(layout: Layout, block: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the candidates of a block in chunks, each with the code of its first candidate."""
    n_candidates, size = 1 << layout.bits_per_block, max(1, CHUNK_VALUES // layout.block_size)
    for start in range(0, n_candidates, size):
        yield start, layout.candidates(block, start, min(start + size, n_candidates))


def _gumbel(seed: int, block: int, start: int, count: int) -> np.ndarray:
    """Return Gumbel noise, shape (count,): the largest log-weight plus noise is a draw in proportion to the weights."""
    words = generator.words((seed, _GUMBEL, block), count, start) >> np.uint64(11)
    uniform = (words.astype(np.float64) + 0.5) / 2**53
    return -np.log(-np.log(uniform))
