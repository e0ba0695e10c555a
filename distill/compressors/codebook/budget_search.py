"""Choose bits and the price of a bit for a budget of bytes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from distill.codecs.codebook import CodebookLayer
from distill.compressors.codebook.layers import MOST_BITS, CodebookSettings, learn_layers, pack
from distill.network import Network
from distill.runtime.forward import activated, layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.targets import Calibration
from distill.utils.progress import Stage

_RATE_WEIGHTS = (1e-5, 1e3)
_N_BISECTIONS = 7


def search_budget(
    network: Network,
    groups: Sequence[np.ndarray],
    calibration: Calibration,
    settings: CodebookSettings,
    max_bytes: int,
    stage: Stage,
) -> tuple[CodebookSettings, tuple[CodebookLayer, ...]]:
    """Choose bits and a price per bit so that the file is no larger than `max_bytes`.

    The widest plain codes that fit compete with codes of one to three bits more at the lowest price at which they fit.
    The judge is the loss of the last outputs on held-out rows.
    """
    n_layers = len(network.weights)
    outputs = layer_outputs(network, calibration.validation)[-1]
    imitation = DistillationLoss(network, outputs)
    targets = imitation.targets(outputs)

    def attempt(bits: int, rate_weight: float):
        tried = replace(settings, bits=(bits,) * n_layers, rate_weight=rate_weight)
        layers = learn_layers(network, groups, calibration, tried)
        size = len(pack(network, layers, settings.entropy_coding))
        stage.say(f"{bits} bits, rate_weight {rate_weight:.2g}: {size} bytes")
        return size, tried, layers

    def loss(layers: Sequence[CodebookLayer]) -> float:
        inputs = calibration.validation
        for index, layer in enumerate(layers):
            inputs = activated(inputs, network.activation) if index else inputs
            inputs = inputs @ layer.weight + layer.bias
        return float(imitation(torch.from_numpy(inputs), targets))

    priced = settings.solver != "kmeans" and settings.entropy_coding == "auto"
    smallest = attempt(1, _RATE_WEIGHTS[1] if priced else 0.0)
    if smallest[0] > max_bytes:
        raise ValueError(
            f"max_bytes={max_bytes} cannot be reached: the smallest file with these settings has {smallest[0]} bytes; "
            "allow more, or wrap a smaller network"
        )
    fitting, widest = [smallest], 0
    for bits in range(1, MOST_BITS + 1):
        found = attempt(bits, 0.0)
        if found[0] > max_bytes:
            break
        fitting.append(found)
        widest = bits
    if priced:
        for bits in range(widest + 1, min(widest + 3, MOST_BITS) + 1):
            low, high = np.log(_RATE_WEIGHTS[0]), np.log(_RATE_WEIGHTS[1])
            for _ in range(_N_BISECTIONS):
                middle = (low + high) / 2
                found = attempt(bits, float(np.exp(middle)))
                if found[0] <= max_bytes:
                    fitting.append(found)
                    high = middle
                else:
                    low = middle
    _, chosen, layers = min(fitting, key=lambda found: loss(found[2]))
    return chosen, layers
