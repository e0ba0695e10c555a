"""SpikeSlabCompressor: pruning and feature selection by posterior inclusion probabilities."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, check_scalar

from distill.codecs import container
from distill.compressors.base import Compressed, Compressor, compression_targets, learns_from_y
from distill.compressors.pruning import count, keep_largest
from distill.compressors.spike_slab.elimination import eliminate
from distill.compressors.spike_slab.encoding import density_within, encode, encode_posterior, masks_within, trim
from distill.compressors.spike_slab.posterior import GRANULARITIES, SpikeSlabPerceptron
from distill.compressors.spike_slab.pruned import (
    check_connected,
    extract,
    fine_tune,
    kept_weights,
    measure,
    posterior_means,
    select_weights,
)
from distill.compressors.spike_slab.training import TrainingSettings, train_posterior
from distill.network import Network
from distill.runtime.forward import output_values
from distill.training.targets import Calibration, probabilities, scaled_rows
from distill.training.units import Task, make_task
from distill.utils.deprecation import DEPRECATED, renamed
from distill.utils.progress import Stage
from distill.utils.validation import LARGEST_SEED

# kl_weight="auto" for the outputs of a network: they have no noise, so that a sample carries more information than the
# likelihood of noisy targets assumes. Lower values prune less. Chosen by hand
_KL_WEIGHT_OF_OUTPUTS = 0.1
# Draws of the weights for averaged probabilities and standard deviations: their standard error is a tenth of the
# standard deviation over weights. Time is proportional to their number
_N_DRAWS = 100


class SpikeSlabCompressor(Compressor):
    """Prune a network by the posterior inclusion probabilities of its weights, hidden units or inputs.

    Every weight (or hidden unit, or input) has a gate with a probability of being open, its inclusion probability. It
    is learned by variational inference, together with mean and standard deviation of every weight, from the outputs of
    the wrapped network or from y. Weights with an inclusion probability below a threshold are removed, hidden units
    that are constant or have no path to an output are removed altogether, and the pruned network is fine-tuned. The
    inclusion probabilities of inputs select features, also without labels.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one, or a Student
        A clone is fitted; a `FrozenEstimator(fitted)` or a loaded `Student` is not fitted again. Training starts at its
        network.
    granularity : {"weight", "node", "input"} or a sequence of these, default="weight"
        Elements with gates: single weights, hidden units, inputs, or several of these together.
    prior_inclusion : float in (0, 1), "auto" or "elbo", default=1e-3
        Prior probability of every gate to be open. "auto" expects one open gate in all, for any depth and size of the
        network; "elbo" sets it after every epoch to the mean inclusion probability, at which the evidence lower bound
        is highest.
    prior_std : float, default=1.0
        Prior standard deviation of the weights, above 0, for standardized inputs and outputs.
    kl_weight : float or "auto", default="auto"
        Weight of the KL divergence from the prior, above 0. 1 gives the variational posterior; lower values prune less,
        as if every sample were present several times. "auto" is 1 for targets y, which are noisy, and 0.1 for the
        outputs of a network, which are not. Controlled during training where `density` or `max_bytes` is set.
    threshold : float in (0, 1), default=0.5
        Weights of a lower inclusion probability are removed. 0.5 gives the median probability model.
    density : float in (0, 1] or None, default=None
        Largest fraction of kept weights. `kl_weight` is then controlled during training so that about this fraction is
        kept, and excess weights of the lowest inclusion probabilities are removed.
    max_bytes : int or None, default=None
        Largest size of the file in bytes; sets the density. Excludes `density`.
    learn_from : {"auto", "outputs", "y"}, default="auto"
        Targets of the training: the outputs of the wrapped network, or y. "auto" is "y" if y is given and an
        MLPClassifier or MLPRegressor is wrapped.
    eliminate : bool, default=False
        Whether kept inputs and hidden units are tested again, one after the other: each is fixed at its mean, and
        removed if its inclusion probability, in closed form given all others, is below `threshold`. Makes feature
        selection stricter.
    weight_dtype : {"float16", "float32"}, default="float16"
        Type of the weights in the student file, and therefore in the predictions.
    max_iter : int, default=40
        Number of epochs in which gates are learned, at least 1.
    warm_up : float in [0, 1], default=0.3
        Fraction of these epochs in which `kl_weight` rises from zero, and gates stay open.
    fine_tune_iter : int, default=15
        Number of epochs of fine-tuning with fixed gates; the weights of the epoch with the best validation score are
        kept. 0 for no fine-tuning.
    temperature : float, default=4.0
        Divisor of the logits, above 0, before they become the class probabilities that the fine-tuning imitates. Not
        used for targets y.
    batch_size : int, default=256
        Largest number of samples in a batch; small data are cut into smaller batches.
    learning_rate_init : float, default=2e-3
        Initial learning rate of Adam for the weights, above 0; that of gates is ten times as high.
    n_calibration : int or None, default=None
        Largest number of samples used when learning from outputs, at least 2; None for all.
    validation_fraction : float, default=0.1
        Fraction of the samples in the validation set, between 0 and 1.
    balance_classes : bool, default=False
        Whether calibration samples are drawn such that all labels, as the wrapped network predicts them (or y where
        it is the target), have equally many, those of small classes repeatedly. A small cluster then counts as much as
        a large one in the compression, its choices and the "agreement" in `report_`. For networks with labels only.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted wrapped estimator: a grid search over the other parameters fits it once.
    random_state : int, RandomState instance or None, default=None
        Seed of all draws, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every epoch.
    prior_deviation : float, default="deprecated"
        Former name of `prior_std`.

        .. deprecated:: 0.1
            Use `prior_std`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator; it is not modified.
    network_ : Network
        The pruned network, decoded from the bytes of the student file. It has no removed hidden units; unused inputs
        are present, with weights of zero.
    inclusion_probabilities_ : list of ndarray of shape (n_inputs, n_outputs)
        Probability that all gates of a weight are open, for every weight of each layer of the wrapped network. Zero for
        inputs that are constant.
    node_inclusion_ : list of ndarray of shape (n_units,)
        Inclusion probabilities of the units of each hidden layer of the wrapped network: the probability of the most
        probable path from the unit to an output, times that of its most probable incoming weight. With `eliminate` at
        most the probability found there.
    feature_inclusion_ : ndarray of shape (n_features_in_,)
        Inclusion probabilities of the inputs: the probability that all gates of the most probable path to an output are
        open. Zero for inputs that are constant. With `eliminate` at most the probability found there.
    kept_weights_ : list of ndarray of shape (n_inputs, n_outputs), bool
        Masks of the kept weights, for each layer of the wrapped network.
    density_ : float
        Number of nonzero weights of the pruned network, as a fraction of all weights of the wrapped one.
    n_iter_ : int
        Number of epochs, fine-tuning included; smaller than ``max_iter + fine_tune_iter`` if a callback stopped the
        training.
    kl_weight_ : float
        Weight of the KL divergence at the end of the training.
    noise_ : ndarray of shape (n_outputs,), float32, or None
        Learned standard deviation of the noise of a regression, in units of the outputs; None for classification.
    classes_ : ndarray of shape (n_classes,)
        The labels, where labels are predicted.
    labels_ : ndarray of shape (n_samples,)
        Labels of the samples of the fit, where a clusterer is imitated.
    nbytes_ : int
        Size of the student file in bytes.
    report_ : dict
        Sizes of the parts of the student file, in bytes; "density"; "n_weights", the number of nonzero weights;
        "layer_sizes_before" of the wrapped network; "n_features", the number of used inputs; and "agreement" with the
        targets on the validation set: accuracy, or R^2 of a regression.
        Where labels are predicted, "agreement_per_class" has the fraction found of each label's validation samples (of
        all its samples where fewer than 10 are held out).
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had names.

    See Also
    --------
    CodebookCompressor : Around this one, it preserves zeros and stores the other weights in a few bits.
    MatrixGaussianCompressor : Precision of every weight according to its posterior variance, and standard deviations of
        predictions from the file alone.

    Notes
    -----
    The evidence lower bound is maximized by sampling pre-activations in place of weights. The fraction of irrelevant
    features among the selected ones was measured in simulations (benchmarks/spike_slab.py). With a `kl_weight` below 1,
    inclusion probabilities are those of a tempered posterior, and larger.

    References
    ----------
    Saha, Liu and Liang, "Efficient model compression for Bayesian neural networks", arXiv 2411.00273. Barbieri and
    Berger, "Optimal predictive model selection", Annals of Statistics 32 (2004), for the median probability model. The
    family of methods is that of the former, whose equations were not available to us; the formulas are ours.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from distill import Distiller, SpikeSlabCompressor
    >>> X, _ = load_digits(return_X_y=True)
    >>> student = Distiller(KMeans(10, n_init=1, random_state=0), hidden_layer_sizes=(64,), random_state=0)
    >>> pruned = SpikeSlabCompressor(student, density=0.2, max_iter=20, random_state=0).fit(X)
    >>> pruned.density_ <= 0.2 and pruned.score(X) > 0.93
    True
    >>> len(pruned.get_support(indices=True)) < 64
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Compressor._parameter_constraints,
        "granularity": [StrOptions(set(GRANULARITIES)), "array-like"],
        "prior_inclusion": [Interval(Real, 0, 1, closed="neither"), StrOptions({"auto", "elbo"})],
        "prior_std": [Interval(Real, 0, None, closed="neither")],
        "kl_weight": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "threshold": [Interval(Real, 0, 1, closed="neither")],
        "density": [Interval(Real, 0, 1, closed="right"), None],
        "eliminate": ["boolean"],
        "weight_dtype": [StrOptions({"float16", "float32"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "warm_up": [Interval(Real, 0, 1, closed="both")],
        "fine_tune_iter": [Interval(Integral, 0, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "prior_deviation": [Interval(Real, 0, None, closed="neither"), Hidden(StrOptions({DEPRECATED}))],
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        granularity: str | Sequence[str] = "weight",
        prior_inclusion: float | str = 1e-3,
        prior_std: float = 1.0,
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
        balance_classes: bool = False,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        prior_deviation: float | str = DEPRECATED,
    ):
        self.estimator = estimator
        self.granularity = granularity
        self.prior_inclusion = prior_inclusion
        self.prior_std = prior_std
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
        self.balance_classes = balance_classes
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose
        self.prior_deviation = prior_deviation

    @classmethod
    def for_budget(
        cls,
        estimator: BaseEstimator,
        max_bytes: int,
        effort: float = 1.0,
        hidden_layer_sizes: tuple[int, ...] | None = None,
        random_state: int | None = None,
    ) -> "SpikeSlabCompressor":
        """Return an unfitted compressor for a file of at most `max_bytes`.

        Parameters
        ----------
        estimator : estimator
            See the class.
        max_bytes : int
        effort : float
            Factor of the default number of epochs, above 0.
        hidden_layer_sizes : tuple of int or None
            Not used.
        random_state : int or None

        Returns
        -------
        SpikeSlabCompressor
        """
        return cls(
            estimator,
            max_bytes=max_bytes,
            learn_from="outputs",
            max_iter=max(1, round(40 * effort)),
            fine_tune_iter=max(1, round(15 * effort)),
            random_state=random_state,
        )

    # The overridden method has no return_std, and never returns a pair
    def predict(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Predict labels or regression values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return standard deviations as well, of a regression only: over 100 draws of the weights, and
            together with the noise where the network was learned from y.

        Returns
        -------
        predictions : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Regression values are float32.
        std : ndarray of the same shape
            Only with `return_std`.
        """
        predictions = self.student_output("predict", X)
        return (predictions, self._std(X, predictions)) if return_std else predictions

    def predict_proba(
        self, X, averaged: bool = False, n_draws: int | None = None, random_state: int | None = 0
    ) -> np.ndarray:
        """Predict the probability of every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        averaged : bool, default=False
            Whether to average the probabilities over draws of the weights from their posterior; otherwise they are
            those of the network in the file.

            .. deprecated:: 0.1
                An integer in its place, as number of draws.
        n_draws : int or None, default=None
            Number of draws, at least 1; None for 100. Not used unless averaged.

            .. deprecated:: 0.1
                `n_draws` without `averaged` also averages; 0 does not.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`; rows sum to one.
        """
        if not isinstance(averaged, bool | np.bool_):  # the former predict_proba(X, n_draws, random_state)
            averaged, n_draws, random_state = False, averaged, random_state if n_draws is None else n_draws
        if not averaged and n_draws is not None:
            check_scalar(n_draws, "n_draws", Integral, min_val=0)
            warnings.warn(
                f"predict_proba with n_draws={n_draws} and without averaged=True is deprecated and will change in "
                f"version 0.2; call predict_proba(X, averaged={n_draws > 0}, n_draws={n_draws or None})",
                FutureWarning,
                stacklevel=2,
            )
            averaged = n_draws > 0
        if not averaged:
            return self.student_output("predict_proba", X)
        return self.sample(X, _N_DRAWS if n_draws is None else n_draws, random_state).mean(axis=0)

    # The overridden method has no return_std, and never returns a pair
    def transform(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Compute the embedding.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return standard deviations over 100 draws of the weights as well.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_components), float32
            Or a data frame; see `set_output`.
        std : ndarray of shape (n_samples, n_components), float32
            Only with `return_std`.
        """
        embedding = self.student_output("transform", X)
        return (embedding, self._std(X, embedding)) if return_std else embedding

    def sample(self, X, n_draws: int = _N_DRAWS, random_state=0) -> np.ndarray:
        """Draw networks from the posterior of the kept weights, and compute their outputs.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        n_draws : int, default=100
            Number of networks, at least 1.
        random_state : int, RandomState instance or None, default=0
            Seed of the draws.

        Returns
        -------
        ndarray of shape (n_draws, n_samples, n_outputs), float32
            Values of a regression without noise, or probabilities of the labels.
        """
        check_is_fitted(self)
        check_scalar(n_draws, "n_draws", Integral, min_val=1)
        rows = self._network_rows(X)
        rows = self._pruned.standardization.transform(scaled_rows(rows, self.network_))
        rng = np.random.default_rng(check_random_state(random_state).randint(LARGEST_SEED))
        draws = np.stack([self._pruned.draw(rows, rng) for _ in range(n_draws)])
        if self.network_.classes is not None and self.network_.gives_probabilities:
            return probabilities(draws, self.network_.output)
        return output_values(self.network_, draws)

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Return a mask or the positions of the used inputs of the network, after any preprocessing in its file.

        Parameters
        ----------
        indices : bool, default=False
            Whether to return positions instead of a mask.

        Returns
        -------
        ndarray of shape (n_features_in_,), bool, or of shape (n_used,), int
        """
        check_is_fitted(self)
        support: np.ndarray = np.any(self.network_.weights[0], axis=1)
        return np.flatnonzero(support) if indices else support

    @property
    def density_(self) -> float:
        """Number of nonzero weights of the pruned network, as a fraction of all weights of the wrapped one."""
        kept = self._fitted_student("density_").network.weights
        return sum(int(np.count_nonzero(weight)) for weight in kept) / sum(mask.size for mask in self.kept_weights_)

    def _check_parameters(self) -> None:
        granularity = _as_tuple(self.granularity)
        if not granularity or not set(granularity) <= set(GRANULARITIES):
            names = ", ".join(map(repr, GRANULARITIES))
            raise ValueError(f"granularity must be one of {names} or several of them, got {self.granularity!r}")
        if self.density is not None and self.max_bytes is not None:
            raise ValueError(
                f"density={self.density} and max_bytes={self.max_bytes} exclude each other; set one of them to None"
            )

    def _n_steps(self) -> int:
        return int(self.max_iter) + int(self.fine_tune_iter)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        from_y = learns_from_y(self, calibration.y)
        targets = compression_targets(self, network, calibration)
        task = make_task(network, calibration.varies, targets)
        settings = self._settings(network, task, from_y, calibration.seed)
        encode_pruned = partial(encode, network=network, dtype=self.weight_dtype)
        encode_masks = partial(encode_posterior, task=task, network=network, dtype=self.weight_dtype)

        def report(posterior: SpikeSlabPerceptron, message: str) -> bool:
            return stage.step(message, lambda: encode_masks(posterior, select_weights(posterior, self.threshold)))

        def report_tuning(posterior: SpikeSlabPerceptron, message: str) -> bool:
            return stage.step(message, lambda: encode_pruned(extracted.updated(posterior)))

        trained = train_posterior(task, settings, report)
        posterior, means = trained.posterior, posterior_means(task, trained.posterior)
        masks = self._select(posterior, network, partial(encode_masks, posterior))
        unit_inclusions = posterior.unit_inclusions()
        if self.eliminate:
            found = eliminate(task, means, trained, masks, self.threshold)
            means, masks = found.network, found.masks
            unit_inclusions = [np.fmin(old, found.inclusions[index]) for index, old in enumerate(unit_inclusions)]
        check_connected(masks, self._remedy())
        extracted = extract(task, means, posterior.arrays()[1], masks)
        likelihood, kl_weight = trained.likelihood, trained.kl_weight
        pruned, n_tuned = fine_tune(extracted, task, likelihood, kl_weight, settings, report_tuning)
        if self.max_bytes is not None:
            pruned = trim(pruned, int(self.max_bytes), encode_pruned)
        data = encode_pruned(pruned)

        first, *others = posterior.inclusions()
        features, *nodes = unit_inclusions
        noise, units = likelihood.noise, task.standardization
        attributes = {
            "inclusion_probabilities_": [units.expand(first), *others],
            "feature_inclusion_": units.expand(features),
            "node_inclusion_": nodes,
            "kept_weights_": kept_weights(pruned, network),
            "n_iter_": trained.n_iter + n_tuned,
            "kl_weight_": kl_weight,
            "noise_": None
            if noise is None
            else noise * units.unit * (network.output_scale if network.output_scale is not None else 1),
            "_pruned": pruned,
            "_from_y": from_y,
        }
        return Compressed(data, measure(container.decode(data).network, network, targets), attributes)

    def _settings(self, network: Network, task: Task, from_y: bool, seed: int) -> TrainingSettings:
        """Return the settings of the training."""
        granularity = _as_tuple(self.granularity)
        if set(granularity) == {"node"} and len(network.weights) == 1:
            raise ValueError("granularity='node' needs hidden units, and the wrapped network has none; use 'weight'")
        density = self.density
        if self.max_bytes is not None:
            density = density_within(int(self.max_bytes), network, self.weight_dtype)
        if density is not None:  # the training counts weights of inputs that vary
            n_weights, n_trained = (sum(weight.size for weight in part.weights) for part in (network, task.network))
            density = min(1.0, density * n_weights / n_trained)
        prior = self.prior_inclusion if isinstance(self.prior_inclusion, str) else float(self.prior_inclusion)
        return TrainingSettings(
            granularity=granularity,
            prior_inclusion=prior,
            prior_std=float(renamed(self, "prior_deviation", "prior_std")),
            kl_weight=(1.0 if from_y else _KL_WEIGHT_OF_OUTPUTS) if self.kl_weight == "auto" else float(self.kl_weight),
            density=density,
            max_iter=int(self.max_iter),
            warm_up=float(self.warm_up),
            fine_tune_iter=int(self.fine_tune_iter),
            temperature=float(self.temperature),
            batch_size=int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            seed=seed,
        )

    def _select(
        self, posterior: SpikeSlabPerceptron, network: Network, encode_masks: Callable[[Sequence[np.ndarray]], bytes]
    ) -> list[np.ndarray]:
        """Return masks of the weights above the threshold, or of the most probable ones within density or size."""
        masks, logits = select_weights(posterior, self.threshold), posterior.logits()
        if self.max_bytes is not None:
            return masks_within(int(self.max_bytes), masks, logits, encode_masks)
        if self.density is not None:
            n_kept = int(self.density * sum(weight.size for weight in network.weights))
            return masks if count(masks) <= n_kept else keep_largest(logits, n_kept)
        return masks

    def _remedy(self) -> str:
        """Return the advice of the error for a fit that removes all weights."""
        for name in ("max_bytes", "density"):
            if getattr(self, name) is not None:
                return f"{name}={getattr(self, name)!r} leaves too few weights; raise it"
        return f"lower kl_weight, now {self.kl_weight!r}, or raise prior_inclusion, now {self.prior_inclusion!r}"

    def _std(self, X, predictions: np.ndarray) -> np.ndarray:
        """Return the standard deviations of predictions of a regression."""
        if self.network_.classes is not None:
            raise ValueError(
                "return_std=True is for a regression, and labels are predicted here; use predict_proba or sample"
            )
        variance = self.sample(X).var(axis=0)
        if self._from_y:
            variance = variance + self.noise_**2
        return np.sqrt(variance).reshape(np.shape(predictions))


def _as_tuple(granularity: str | Sequence[str]) -> tuple[str, ...]:
    """Return one or several granularities as a tuple."""
    return (granularity,) if isinstance(granularity, str) else tuple(granularity)
