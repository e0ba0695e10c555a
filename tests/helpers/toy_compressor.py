"""A complete compressor in one file: weights of -s, 0 and s, on the bytes of the codebook codec."""

from dataclasses import replace
from numbers import Real

import numpy as np
from sklearn.utils._param_validation import Interval

from distill.codecs import codebook, container
from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.base import Compressed, Compressor
from distill.network import Network
from distill.runtime.forward import activated, layer_outputs
from distill.training.fidelity import fidelity
from distill.training.targets import Calibration
from distill.utils.progress import Stage

_LEVELS = np.array([[-1, 0, 1]], dtype=np.float32)


class TernaryCompressor(Compressor):
    """Compress a network to weights of -s, 0 and s, with one s for each layer.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        The estimator whose network is compressed.
    threshold : float, default=0.7
        Weights below this multiple of their layer's mean absolute value become zero; 0 or more.
    n_calibration : int or None, default=10000
        Largest number of samples used; None uses all.
    validation_fraction : float, default=0.1
        Fraction of them in the validation set.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted wrapped estimator.
    random_state : int, RandomState instance or None, default=None
        Seed of the samples that are drawn.
    verbose : int, default=0
        1 prints progress.

    Attributes
    ----------
    scales_ : list of float
        The s of every layer.

    References
    ----------
    Li, Liu, Wang, Zhang, Yan, "Ternary weight networks" (arXiv 1605.04711).
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Compressor._parameter_constraints,
        "threshold": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        estimator,
        *,
        threshold=0.7,
        n_calibration=10000,
        validation_fraction=0.1,
        memory=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.threshold = threshold
        self.n_calibration = n_calibration
        self.validation_fraction = validation_fraction
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def for_budget(cls, estimator, max_bytes, effort=1.0, hidden_layer_sizes=None, random_state=None):
        """Return an unfitted compressor for `AutoCompressor`."""
        # AutoCompressor discards files that are too large; there is no size to choose here
        return cls(estimator, random_state=random_state)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        layers = ternary_layers(network, calibration.train, float(self.threshold))
        compressed = replace(
            network, weights=tuple(layer.weight for layer in layers), biases=tuple(layer.bias for layer in layers)
        )
        data = container.pack(compressed, [codebook.encode(layer) for layer in layers])
        outputs = (layer_outputs(found, calibration.validation)[-1] for found in (network, compressed))
        agreement = fidelity(*outputs, classification=network.classes is not None)
        return Compressed(data, {"agreement": agreement}, {"scales_": [float(layer.scales[0]) for layer in layers]})


def ternary_layers(network: Network, rows: np.ndarray, threshold: float) -> list[CodebookLayer]:
    """Return the layers of a network with ternary weights, each with the biases that keep its mean output.

    Parameters
    ----------
    network : Network
    rows : ndarray of shape (n_samples, n_features)
        As they enter the first layer.
    threshold : float
    """
    layers, inputs = [], rows
    for weight, expected in zip(network.weights, layer_outputs(network, rows)):
        kept = np.abs(weight) > threshold * np.abs(weight).mean()
        scale = np.abs(weight[kept]).mean() if kept.any() else 1.0
        layer = CodebookLayer(
            codes=(np.sign(weight) * kept + 1).astype(np.uint8),
            codebooks=_LEVELS,
            scales=round_to_half(np.array([scale], np.float32)),
            groups=np.zeros(weight.shape[1], np.intp),
            bias=np.zeros(weight.shape[1], np.float32),
            used=np.ones(len(weight), bool),
        )
        outputs = inputs @ layer.weight
        layer = replace(layer, bias=round_to_half((expected - outputs).mean(axis=0)))
        layers.append(layer)
        inputs = activated(outputs + layer.bias, network.activation)
    return layers
