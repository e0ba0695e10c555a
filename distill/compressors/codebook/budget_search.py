"""Choose the bits of a code and the price of a bit for a budget of bytes."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from distill.codecs.codebook import CodebookLayer
from distill.compressors.budget import bisect
from distill.compressors.codebook.layers import MOST_BITS, CodebookSettings, decoded_network, encode, learn_layers
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.targets import Calibration
from distill.utils.progress import Stage

# Range of the search. Useful prices are from 1e-4 to 1e-1; at 1e3 the codes have almost no entropy
_RATE_WEIGHTS = (1e-5, 1e3)
# Halvings of the logarithm of the price, to a factor of 1.16; each learns all layers once
_N_HALVINGS = 7
# Widths of a code tried with a price, above the widest that fits without one; each takes 7 attempts. Chosen by hand
_EXTRA_BITS = 3


def search_budget(
    network: Network,
    groups: Sequence[np.ndarray],
    calibration: Calibration,
    settings: CodebookSettings,
    max_bytes: int,
    stage: Stage,
) -> tuple[CodebookSettings, tuple[CodebookLayer, ...]]:
    """Choose bits and a price per bit such that the file is no larger than `max_bytes`.

    Candidates are all widths of a code that fit without a price, and one to three bits more at prices at which they
    fit, found by bisection. The candidate with the smallest loss of the network's outputs on the validation samples is
    chosen.

    Parameters
    ----------
    network : Network
        Its neurons in the order of the file.
    groups : sequence of ndarray of shape (n_outputs,), intp
        Group of every neuron, for each layer.
    calibration : Calibration
    settings : CodebookSettings
        `bits` and `rate_weight` are replaced.
    max_bytes : int
        Largest size of the file, in bytes.
    stage : Stage
        Reports every attempt.

    Returns
    -------
    settings : CodebookSettings
    layers : tuple of CodebookLayer

    Raises
    ------
    ValueError
        If the smallest file is larger than `max_bytes`.
    """
    candidates = _Candidates(network, groups, calibration, settings, max_bytes, stage)
    priced = settings.solver != "kmeans" and settings.entropy_coding == "auto"
    smallest = candidates.add(1, _RATE_WEIGHTS[1] if priced else 0.0)
    if smallest > max_bytes:
        raise ValueError(
            f"max_bytes={max_bytes} cannot be reached: the smallest file with these settings has {smallest} bytes; "
            "increase it, or wrap a smaller network"
        )
    widest = 0
    while widest < MOST_BITS and candidates.add(widest + 1, 0.0) <= max_bytes:
        widest += 1
    if priced:
        low, high = (np.log(rate_weight) for rate_weight in _RATE_WEIGHTS)
        for bits in range(widest + 1, min(widest + _EXTRA_BITS, MOST_BITS) + 1):
            bisect(partial(candidates.add_priced, bits), high, low, _N_HALVINGS)
    return candidates.best()


class _Candidates:
    """Settings that fit into a budget, with the layers learned with them; parameters as in `search_budget`."""

    def __init__(
        self,
        network: Network,
        groups: Sequence[np.ndarray],
        calibration: Calibration,
        settings: CodebookSettings,
        max_bytes: int,
        stage: Stage,
    ):
        self.network, self.groups, self.calibration = network, groups, calibration
        self.settings, self.max_bytes, self.stage = settings, max_bytes, stage
        self.fitting: list[tuple[CodebookSettings, tuple[CodebookLayer, ...]]] = []

    def add(self, bits: int, rate_weight: float) -> int:
        """Learn layers with these settings, keep them if they fit, and return the size of their file in bytes."""
        bits_of_layers = (bits,) * len(self.network.weights)
        settings = replace(self.settings, bits=bits_of_layers, rate_weight=rate_weight)
        layers = learn_layers(self.network, self.groups, self.calibration, settings)
        n_bytes = len(encode(self.network, layers, settings.entropy_coding))
        self.stage.log(f"{bits} bits, rate_weight {rate_weight:.2g}: {n_bytes} bytes")
        if n_bytes <= self.max_bytes:
            self.fitting.append((settings, layers))
        return n_bytes

    def add_priced(self, bits: int, log_rate_weight: float) -> bool | None:
        """Add a candidate; return True if it fits, else None."""
        return True if self.add(bits, float(np.exp(log_rate_weight))) <= self.max_bytes else None

    def best(self) -> tuple[CodebookSettings, tuple[CodebookLayer, ...]]:
        """Return the candidate with the smallest loss on the validation samples, of equal ones the first."""
        outputs = layer_outputs(self.network, self.calibration.validation)[-1]
        loss = DistillationLoss(self.network, outputs)
        targets = loss.targets(outputs)

        def loss_of(candidate: tuple[CodebookSettings, tuple[CodebookLayer, ...]]) -> float:
            compressed = decoded_network(self.network, candidate[1])
            outputs = layer_outputs(compressed, self.calibration.validation)[-1]
            return float(loss(torch.from_numpy(outputs), targets))

        return min(self.fitting, key=loss_of)
