"""Select the candidate that stands for a Gaussian posterior of a block's numbers."""

from collections.abc import Iterator

import numpy as np

from distill.codecs import generator
from distill.codecs.random_code import Layout

_GUMBEL = 7
CHUNK_VALUES = 1 << 19


def choose(
    layout: Layout, block: int, mean: np.ndarray, log_variance: np.ndarray, selection: str = "argmax", seed: int = 0
) -> int:
    """Choose the candidate that stands for a Gaussian posterior of a block's numbers.

    Parameters
    ----------
    layout : Layout
    block : int
    mean, log_variance : ndarray of shape (n,)
        Of the numbers of this block, whose prior is the standard normal distribution; n is the block's own size.
    selection : {"sample", "argmax", "nearest"}
        "sample" draws with the probabilities of importance sampling, proportional to posterior / prior; "argmax" takes
        where that ratio is largest; "nearest" takes where the posterior is.
    seed : int
        Of the draw.

    Returns
    -------
    int
        The code. It does not depend on the size of the pieces in which the candidates are looked at.
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
    """Return ln posterior, or ln (posterior / prior), of candidates, up to a constant.

    Parameters
    ----------
    candidates : ndarray of shape (n_candidates, n)
    mean, log_variance : ndarray of shape (n,)
    against_prior : bool

    Returns
    -------
    ndarray of shape (n_candidates,), float64
    """
    candidates = candidates.astype(np.float64)
    precision = np.exp(-log_variance.astype(np.float64))
    twice = -((candidates - mean) ** 2) * precision
    if against_prior:
        twice += candidates * candidates
    return 0.5 * twice.sum(axis=1)


def _chunks(layout: Layout, block: int) -> Iterator[tuple[int, np.ndarray]]:
    n_candidates, size = 1 << layout.bits_per_block, max(1, CHUNK_VALUES // layout.block_size)
    for start in range(0, n_candidates, size):
        yield start, layout.candidates(block, start, min(start + size, n_candidates))


def _gumbel(seed: int, block: int, start: int, count: int) -> np.ndarray:
    # The largest of ln weight + Gumbel noise falls on each candidate with the probability of its weight
    uniform = (
        (generator.words((seed, _GUMBEL, block), count, start) >> np.uint64(11)).astype(np.float64) + 0.5
    ) / 2**53
    return -np.log(-np.log(uniform))
