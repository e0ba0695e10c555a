"""A network without the weights, hidden units and inputs that the data do not ask for."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real

import joblib
import numpy as np
from scipy import special
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data

from distill.codecs import container
from distill.compressors.base import Compressed, Compressor, compression_targets, learns_from_y
from distill.compressors.pruning import count, largest, without_dead_ends
from distill.compressors.spike_slab.elimination import eliminate
from distill.compressors.spike_slab.encoding import density_within, masks_within, trim, write
from distill.compressors.spike_slab.posterior import GRANULARITIES, SpikeSlabPerceptron, path_inclusion
from distill.compressors.spike_slab.pruned import fine_tune, kept_weights, leave, means_of, tuned
from distill.compressors.spike_slab.training import SelectionSettings, learn_posterior
from distill.network import Network
from distill.training.targets import Calibration, Targets, probabilities, scaled_rows, validation_fidelity
from distill.training.units import Task, make_task
from distill.utils.progress import Stage
from distill.utils.validation import LARGEST_SEED

LEARN_FROM = ("auto", "outputs", "y")
_WEIGHT_DTYPES = ("float32", "float16")
_PRIORS = ("auto", "elbo")
_TEMPERED = 0.1


class SpikeSlabCompressor(Compressor):
    """Prune a network by the probability that its weights, hidden units or inputs are needed.

    Every weight (or hidden unit, or input) gets a gate, and every gate a probability of being open, its inclusion
    probability. They are learned by variational inference, together with means and deviations of the weights, from the
    outputs of the wrapped network or from y. What is more likely closed than open is removed; hidden units that lead
    nowhere or have become constant are removed altogether, and what is left is trained on. The inclusion probabilities
    of inputs select features, without labels if need be.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        A clone is fitted; a `FrozenEstimator(fitted)` is not fitted again. Its network is where training starts.
    granularity : {"weight", "node", "input"} or a sequence of these, default="weight"
        What has gates: single weights, hidden units, inputs, or several of these together.
    prior_inclusion : float in (0, 1), "auto" or "elbo", default=1e-3
        Probability of every gate to be open before the data. "auto" expects one of all gates to be open, whatever the
        depth and the size of the network; "elbo" takes the value at which the targets lower bound is highest, the mean
        inclusion probability, after every pass.
    prior_deviation : float, default=1.0
        Deviation of the weights before the data, for inputs and outputs in units of their deviation.
    kl_weight : float or "auto", default="auto"
        What the divergence from the prior counts compared with the likelihood. 1 is the posterior proper; lower values
        prune less, as if every row had been seen several times. "auto" is 1 for answers y, which are noisy, and 0.1
        for the outputs of a network, which are not.
    threshold : float in (0, 1), default=0.5
        What is less probable is removed. At 0.5 the median probability model is left.
    density : float in (0, 1] or None, default=None
        The largest share of weights to be left; `kl_weight` is then steered during training so that about as many are
        left, and the least probable are removed beyond that.
    max_bytes : int or None, default=None
        The size that the file must not exceed; a density is then chosen that fits. Not together with `density`.
    learn_from : {"auto", "outputs", "y"}, default="auto"
        What the rows are said to answer: what the wrapped network does, or y. "auto" is "y" where y is given and an
        MLPClassifier or MLPRegressor is wrapped.
    eliminate : bool, default=False
        Whether inputs and hidden units that are left are asked once more if they are worth their weights: one after the
        other is fixed at its mean, and removed if its inclusion probability, in closed form given all others, is below
        `threshold`. Makes feature selection stricter.
    weight_dtype : {"float16", "float32"}, default="float16"
        How weights are stored in the student file, and therefore what the fitted estimator computes with.
    max_iter : int, default=40
        Passes over the rows while gates are learned, 1 or more.
    warm_up : float in [0, 1], default=0.3
        Share of these passes during which `kl_weight` rises from zero and gates stay open.
    fine_tune_iter : int, default=15
        Passes afterwards, with the gates fixed; those weights are kept that do best on held-out rows. 0 for none.
    temperature : float, default=4.0
        What outputs of a network are divided by before they become the probabilities that the training afterwards
        imitates, above 0. Not of answers y.
    batch_size : int, default=256
        Rows in a step; fewer if there are few rows.
    learning_rate_init : float, default=2e-3
        Step size of Adam for weights; gates move ten times as fast.
    n_calibration : int or None, default=None
        How many rows are looked at when learning from outputs; None for all.
    validation_fraction : float, default=0.1
        Share of rows that is held out, between 0 and 1.
    memory : str, joblib.Memory or None, default=None
        Where the fitted wrapped estimator is kept, so that a grid over the parameters here fits it once.
    random_state : int, RandomState instance or None, default=None
        Of all draws, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every pass.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator; it is not modified.
    network_ : Network
        The pruned network, decoded from the bytes of the student file. It has fewer hidden units than the wrapped one
        where some were removed; its inputs are all there, those not used with weights of zero.
    inclusion_probabilities_ : list of ndarray of shape (n_inputs, n_outputs)
        For every layer of the wrapped network, the probability of every weight that all its gates are open.
    node_inclusion_ : list of ndarray of shape (n_units,)
        For every hidden layer of the wrapped network, the probability of the most probable path through every unit.
    feature_inclusion_ : ndarray of shape (n_features_in_,)
        The probability of the most probable path from every input to an output, all its gates open. Zero for inputs
        that never vary.
    kept_weights_ : list of ndarray of shape (n_inputs, n_outputs), bool
        For every layer of the wrapped network, the weights that are left.
    density_ : float
        Weights of the pruned network that are not zero, as a share of all weights of the wrapped one.
    n_iter_ : int
        Passes over the rows, those of the fine-tuning with them.
    kl_weight_ : float
        What the divergence counted in the end.
    noise_ : ndarray of shape (n_outputs,)
        Learned deviation of the noise of numbers; zero for labels.
    classes_ : ndarray of shape (n_classes,)
        The labels, where the answers are labels.
    labels_ : ndarray of shape (n_samples,)
        Labels of the rows of the fit; where a clusterer is imitated.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Where its bytes are; "density", "n_weights" left, "layer_sizes_before", "n_features" used, and "agreement" on
        held-out rows with what was learned: a share of equal labels or an explained variance.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    See Also
    --------
    CodebookCompressor : Around this one it keeps every zero and stores the other weights in a few bits.

    Notes
    -----
    The targets lower bound is maximised by sampling sums in place of weights. The share of wrong features among those
    selected was measured in simulations (benchmarks/spike_slab.py). With a `kl_weight` below 1 inclusion
    probabilities are those of a tempered posterior, and larger.

    References
    ----------
    Saha, Liu and Liang, "Efficient model compression for Bayesian neural networks", arXiv 2411.00273. Barbieri and
    Berger, "Optimal predictive model selection", Annals of Statistics 32 (2004), for the median probability model. The
    equations of the former were not available to us: the family of methods is theirs, formulas are ours.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import Distiller
    >>> from distill.compressors.spike_slab.estimator import SpikeSlabCompressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> student = Distiller(KMeans(10, n_init=1, random_state=0), hidden_layer_sizes=(64,), random_state=0)
    >>> pruned = SpikeSlabCompressor(student, density=0.2, max_iter=20, random_state=0).fit(X)
    >>> pruned.density_ <= 0.2 and pruned.score(X) > 0.93
    True
    >>> len(pruned.get_support(indices=True)) < 64
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        granularity: str | Sequence[str] = "weight",
        prior_inclusion: float | str = 1e-3,
        prior_deviation: float = 1.0,
        kl_weight: float | str = "auto",
        threshold: float = 0.5,
        density: float | None = None,
        max_bytes: int | None = None,
        learn_from: str = "auto",
        eliminate: bool = False,
        weight_dtype: str = "float16",
        max_iter: int = 40,
        warm_up: float = 0.3,
        fine_tune_iter: int = 15,
        temperature: float = 4.0,
        batch_size: int = 256,
        learning_rate_init: float = 2e-3,
        n_calibration: int | None = None,
        validation_fraction: float = 0.1,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.estimator = estimator
        self.granularity = granularity
        self.prior_inclusion = prior_inclusion
        self.prior_deviation = prior_deviation
        self.kl_weight = kl_weight
        self.threshold = threshold
        self.density = density
        self.max_bytes = max_bytes
        self.learn_from = learn_from
        self.eliminate = eliminate
        self.weight_dtype = weight_dtype
        self.max_iter = max_iter
        self.warm_up = warm_up
        self.fine_tune_iter = fine_tune_iter
        self.temperature = temperature
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.n_calibration = n_calibration
        self.validation_fraction = validation_fraction
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Answer labels, or what a regressor answers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to answer the deviation as well, of numbers only: over 100 draws of the weights, and together with
            the noise where the network was learned from y.

        Returns
        -------
        answers : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        deviations : ndarray of the same shape
            With `return_std` only.
        """
        answers = self.student_output("predict", X)
        return (answers, self._deviation(X, answers)) if return_std else answers

    def predict_proba(self, X, n_draws: int = 0, random_state=0) -> np.ndarray:
        """Answer the probability of every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        n_draws : int
            0 for the network as it is in the file; else probabilities are averaged over so many draws of the weights
            from their posterior.
        random_state : int, RandomState instance or None
            Of the draws.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`; rows sum to one.
        """
        check_scalar(n_draws, "n_draws", Integral, min_val=0)
        if not n_draws:
            return self.student_output("predict_proba", X)
        return self.sample(X, n_draws, random_state).mean(axis=0)

    def transform(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Answer the embedding.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to answer the deviation over 100 draws of the weights as well.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_components), float32
            Or a data frame; see `set_output`.
        deviations : ndarray of shape (n_samples, n_components), float32
            With `return_std` only.
        """
        answers = self.student_output("transform", X)
        return (answers, self._deviation(X, answers)) if return_std else answers

    def sample(self, X, n_draws: int = 100, random_state=0) -> np.ndarray:
        """Draw networks from the posterior of the weights that are left, and let each answer.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        n_draws : int
            Number of networks, 1 or more; each answers all rows.
        random_state : int, RandomState instance or None

        Returns
        -------
        ndarray of shape (n_draws, n_samples, n_outputs), float32
            Numbers without noise, or probabilities of the labels.
        """
        check_is_fitted(self)
        check_scalar(n_draws, "n_draws", Integral, min_val=1)
        rows = validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float32)
        rows = self._remains.standardization.transform(scaled_rows(rows, self.network_))
        random = np.random.default_rng(check_random_state(random_state).randint(LARGEST_SEED))
        draws = np.stack([self._remains.draw(rows, random) for _ in range(n_draws)])
        return draws if self.network_.output == "identity" else probabilities(draws, self.network_.output)

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Return which inputs are used.

        Parameters
        ----------
        indices : bool
            Whether to return their positions.

        Returns
        -------
        ndarray of shape (n_features_in_,), bool, or of shape (n_used,), int
        """
        check_is_fitted(self)
        support = self.network_.weights[0].any(axis=1)
        return np.flatnonzero(support) if indices else support

    @property
    def density_(self) -> float:
        """Weights that are left, as a share of all weights of the wrapped network."""
        kept = self._fitted_student("density_").network.weights
        return sum(int(np.count_nonzero(weight)) for weight in kept) / sum(mask.size for mask in self.kept_weights_)

    def _check_parameters(self) -> None:
        granularity = _granularity(self.granularity)
        if not granularity or not set(granularity) <= set(GRANULARITIES):
            names = ", ".join(map(repr, GRANULARITIES))
            raise ValueError(f"granularity must be one of {names} or several of them, got {self.granularity!r}")
        for name, choices in (("learn_from", LEARN_FROM), ("weight_dtype", _WEIGHT_DTYPES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}")
        between = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
        if isinstance(self.prior_inclusion, str):
            if self.prior_inclusion not in _PRIORS:
                raise ValueError(f"prior_inclusion must be in (0, 1), 'auto' or 'elbo', got {self.prior_inclusion!r}")
        else:
            check_scalar(self.prior_inclusion, "prior_inclusion", Real, **between)
        if self.kl_weight != "auto":
            check_scalar(self.kl_weight, "kl_weight", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.prior_deviation, "prior_deviation", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.threshold, "threshold", Real, **between)
        if self.density is not None:
            check_scalar(self.density, "density", Real, **{**between, "include_boundaries": "right"})
        if self.max_bytes is not None:
            check_scalar(self.max_bytes, "max_bytes", Integral, min_val=1)
            if self.density is not None:
                raise ValueError(
                    f"density={self.density} and max_bytes={self.max_bytes} are two demands on one thing; set one of "
                    "them to None"
                )
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        check_scalar(self.warm_up, "warm_up", Real, min_val=0, max_val=1)
        check_scalar(self.fine_tune_iter, "fine_tune_iter", Integral, min_val=0)
        check_scalar(self.temperature, "temperature", Real, min_val=0, include_boundaries="neither")
        check_scalar(self.batch_size, "batch_size", Integral, min_val=1)
        check_scalar(self.learning_rate_init, "learning_rate_init", Real, min_val=0, include_boundaries="neither")
        if self.n_calibration is not None:
            check_scalar(self.n_calibration, "n_calibration", Integral, min_val=2)
        check_scalar(self.validation_fraction, "validation_fraction", Real, **between)

    def _n_steps(self) -> int:
        return int(self.max_iter) + int(self.fine_tune_iter)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        from_y = learns_from_y(self, calibration.y)
        targets = compression_targets(self, network, calibration)
        task = make_task(network, calibration.varies, targets)
        settings = self._settings(network, task, from_y, calibration.seed)
        file_of = partial(write, network=network, dtype=self.weight_dtype)

        def file_with(posterior: SpikeSlabPerceptron, masks: list[np.ndarray]) -> bytes:
            return file_of(leave(task, means_of(task, posterior), posterior.arrays()[1], masks))

        def report(posterior: SpikeSlabPerceptron, message: str) -> bool:
            return stage.step(message, lambda: file_with(posterior, choose(posterior, self.threshold)))

        posterior, likelihood, kl_weight = learn_posterior(task, settings, report)
        weights, units = posterior.gate_inclusions()
        features, *nodes = path_inclusion(weights, units)
        nodes = [node * incoming.max(axis=0) for node, incoming in zip(nodes, weights)]
        masks = self._within_demands(posterior, network, lambda masks: len(file_with(posterior, masks)))
        inner = means_of(task, posterior)
        if self.eliminate:
            found = eliminate(task, inner, posterior, masks, likelihood, kl_weight, self.threshold)
            inner, masks = found.network, found.masks
            features, *nodes = (np.fmin(old, found.inclusions[index]) for index, old in enumerate((features, *nodes)))
        self._refuse_emptiness(masks)
        remains = leave(task, inner, posterior.arrays()[1], masks)
        if settings.fine_tune_iter:

            def report_tuning(posterior: SpikeSlabPerceptron, message: str) -> bool:
                return stage.step(message, lambda: file_of(tuned(remains, posterior)))

            remains = fine_tune(remains, task, likelihood, kl_weight, settings, report_tuning)
        if self.max_bytes is not None:
            remains = trim(remains, int(self.max_bytes), lambda smaller: len(file_of(smaller)))
        data = file_of(remains)

        first, *others = posterior.inclusions()
        noise = likelihood.noise
        attributes = {
            "inclusion_probabilities_": [task.standardization.expand(first), *others],
            "feature_inclusion_": task.standardization.expand(features),
            "node_inclusion_": nodes,
            "kept_weights_": kept_weights(remains, network),
            "n_iter_": settings.max_iter + settings.fine_tune_iter,
            "kl_weight_": kl_weight,
            "noise_": None if noise is None else noise * task.standardization.unit,
            "_remains": remains,
            "_noisy": from_y,
        }
        return Compressed(data, measure(container.decode(data).network, network, targets), attributes)

    def _settings(self, network: Network, task: Task, from_y: bool, seed: int) -> SelectionSettings:
        granularity = _granularity(self.granularity)
        if set(granularity) == {"node"} and len(network.weights) == 1:
            raise ValueError("granularity='node' needs hidden units, and the wrapped network has none; use 'weight'")
        n_weights = sum(weight.size for weight in network.weights)
        density = self.density
        if self.max_bytes is not None:
            density = density_within(int(self.max_bytes), network, self.weight_dtype)
        if density is not None:
            density = min(1.0, density * n_weights / sum(weight.size for weight in task.network.weights))
        prior = self.prior_inclusion if isinstance(self.prior_inclusion, str) else float(self.prior_inclusion)
        return SelectionSettings(
            granularity,
            prior,
            float(self.prior_deviation),
            (1.0 if from_y else _TEMPERED) if self.kl_weight == "auto" else float(self.kl_weight),
            density,
            int(self.max_iter),
            float(self.warm_up),
            int(self.fine_tune_iter),
            float(self.temperature),
            int(self.batch_size),
            float(self.learning_rate_init),
            seed,
        )

    def _within_demands(
        self, posterior: SpikeSlabPerceptron, network: Network, size_of: Callable[[list[np.ndarray]], int]
    ) -> list[np.ndarray]:
        """Return masks of the weights to keep: those probable enough, and no more of them than demanded."""
        masks, logits = choose(posterior, self.threshold), posterior.logits()
        if self.max_bytes is not None:
            return masks_within(int(self.max_bytes), masks, logits, size_of)
        if self.density is not None:
            most = int(self.density * sum(weight.size for weight in network.weights))
            return masks if count(masks) <= most else largest(logits, most)
        return masks

    def _refuse_emptiness(self, masks: Sequence[np.ndarray]) -> None:
        alive = without_dead_ends(masks)
        if not alive[0].any():
            lost = next((index for index, mask in enumerate(masks) if not mask.any()), 0)
            if self.density is not None or self.max_bytes is not None:
                name = "density" if self.max_bytes is None else "max_bytes"
                cause = f"{name}={getattr(self, name)!r} leaves too little; allow more"
            else:
                cause = (
                    f"lower kl_weight, now {self.kl_weight!r}, or raise prior_inclusion, now {self.prior_inclusion!r}"
                )
            raise ValueError(f"everything was pruned away: no weight of layer {lost} joins inputs and outputs; {cause}")

    def _deviation(self, X, answers) -> np.ndarray:
        if self.network_.output != "identity" or self.network_.classes is not None:
            raise ValueError(
                "return_std=True is for numbers, and labels are answered here; use predict_proba or sample"
            )
        variance = self.sample(X).var(axis=0)
        if self._noisy:
            variance = variance + self.noise_**2
        return np.sqrt(variance).reshape(np.shape(answers))


def choose(posterior: SpikeSlabPerceptron, threshold: float) -> list[np.ndarray]:
    """Return masks of the weights whose gates are all more probable than a threshold."""
    least = special.logit(threshold)
    return [logit > least for logit in posterior.logits()]


def measure(pruned: Network, network: Network, targets: Targets) -> dict:
    """Say what is left of a network and how well it answers; see `SpikeSlabCompressor.report_`."""
    n_weights = sum(int(np.count_nonzero(weight)) for weight in pruned.weights)
    return {
        "n_weights": n_weights,
        "density": n_weights / sum(weight.size for weight in network.weights),
        "layer_sizes_before": network.layer_sizes,
        "n_features": int(pruned.weights[0].any(axis=1).sum()),
        "agreement": validation_fidelity(pruned, targets),
    }


def _granularity(granularity: str | Sequence[str]) -> tuple[str, ...]:
    return (granularity,) if isinstance(granularity, str) else tuple(granularity)
