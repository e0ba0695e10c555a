"""Matrix Gaussian posteriors: precision of storage from posterior uncertainty, predictions with standard deviations."""

from numbers import Integral, Real
from typing import cast

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, check_scalar

from distill.base import validated_rows
from distill.codecs import container
from distill.compressors.base import Compressed, Compressor, compression_targets, learns_from_y
from distill.compressors.matrix_gaussian import quantization
from distill.compressors.matrix_gaussian.noise import classification_log_likelihood, regression_log_likelihood
from distill.compressors.matrix_gaussian.quantization import GaussianWeights
from distill.compressors.matrix_gaussian.training import (
    EXPECTATIONS,
    PRIORS,
    Posterior,
    VariationalSettings,
    fit_degrees_of_freedom,
    fit_noise,
    initial_means,
    learn,
    make_posterior,
)
from distill.network import Network
from distill.runtime.forward import output_values
from distill.runtime.moments import sample_outputs
from distill.training.samples import StackedRows
from distill.training.scaling import dense
from distill.training.targets import Calibration, Targets, encode_targets, probabilities
from distill.training.units import Task, make_task
from distill.utils.deprecation import DEPRECATED, renamed
from distill.utils.progress import Stage
from distill.utils.validation import LARGEST_SEED

# kl_weight="auto" for the outputs of a network: they have no noise, so that at 1 the prior would count too much
_OUTPUTS_KL_WEIGHT = 0.1
# Largest number of training samples for the correlations of inputs: time and memory of every rounding are proportional
# to it
_N_ROUNDING_SAMPLES = 6000


class MatrixGaussianCompressor(Compressor):
    """Compress a network to weights as precise as their posterior variances demand; predict with standard deviations.

    The weights of each layer have a matrix Gaussian posterior: a variance for each row (the outgoing weights of an
    input) and for each column (the incoming weights of an output), whose products are the variances of the weights. It
    is trained by variational inference, with the outputs of the wrapped network or y as targets. Weights are stored on
    a grid whose steps follow their standard deviations; rows and columns without signal are removed. The file contains
    the variances, so that a loaded student predicts standard deviations with NumPy alone.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one, or a Student
        A clone is fitted; a `FrozenEstimator(fitted)` or a loaded `Student` is not fitted again. The training starts at
        its network.
    rate_weight : float, default=0.1
        Price of a nat of code in nats of loss, positive. The step of the grid is ``sqrt(12 rate_weight)`` standard
        deviations, and codes are rounded toward zero where that reduces loss plus rate. Ignored with `max_bytes`.
    max_bytes : int or None, default=None
        Largest size of the file; the smallest `rate_weight` that fits is used.
    min_signal : float, default=0.05
        Rows and columns of weights, hidden units among them, are removed where the mean of ``mean^2 / variance`` is
        below this; 0 keeps all of them.
    compensate : bool, default=True
        Whether the weights of a layer are rounded jointly, so that the errors of correlated inputs cancel, and each
        layer compensates for the changes of the layers before it; wide layers then have larger steps for rows that
        other rows compensate for. If False, and in layers of more than 4096 inputs, weights are rounded
        independently.
    kl_weight : float or "auto", default="auto"
        Weight of the KL divergence from the prior relative to the likelihood, positive. 1 is the Bayesian posterior;
        lower values trust the data more, as if each sample had been seen several times. "auto" is 1 where the targets
        are y, which is noisy, and 0.1 where they are the outputs of a network, which are not.
    prior : {"normal", "row", "layer"}, default="normal"
        "normal": N(0, 1) for each weight, in units in which a layer divides its inputs by the square root of their
        number. "row", "layer": normal with an unknown precision for each row, or one for each layer.
    n_pseudo : int, default=0
        Number of pairs of trained pseudo-inputs and pseudo-outputs of each layer. They make the covariance of the rows
        more than diagonal during training; the file contains its diagonal.
    n_factors : int, default=0
        Rank of the part of the rows' covariance beside its diagonal. The file contains the diagonal.
    bound : {"valid", "paper"}, default="valid"
        "valid": pseudo-outputs have a distribution, and the objective is a lower bound of the marginal likelihood.
        "paper", for comparison: pseudo-outputs are fixed, as in the authors' program. Without effect for `n_pseudo=0`.
    expectation : {"moments", "draws"}, default="moments"
        Expected squared error of a regression: "moments" in closed form, exact for one hidden layer; "draws", for
        comparison, from one draw for each sample. Classification always uses draws.
    noise : {"normal", "t"}, default="normal"
        Noise of a regression: normal, or Student's t for targets with outliers, whose degrees of freedom are chosen on
        the validation set and stored in the file.
    learn_from : {"auto", "outputs", "y"}, default="auto"
        The targets: the outputs of the wrapped network, or y. "auto" is "y" where y is given and an MLPClassifier or
        MLPRegressor is wrapped.
    max_iter : int, default=100
        Number of epochs, 1 or more.
    warm_up : float, default=0.1
        Fraction of the epochs, between 0 and 1, during which the weight of the KL divergence rises from 0.
    initial_std : float, default=0.05
        Initial standard deviation of the weights, positive, in the units of `prior`.
    batch_size : int, default=256
        Number of samples in a step.
    learning_rate_init : float, default=5e-3
        Adam's initial step size.
    n_calibration : int or None, default=None
        Number of samples drawn from X where the targets are outputs; None uses all.
    validation_fraction : float, default=0.1
        Fraction of the samples, between 0 and 1, in the validation set, which determines the noise of a regression and
        the agreement in `report_`.
    balance_classes : bool, default=False
        Whether calibration samples are drawn such that all labels, as the wrapped network predicts them (or y where
        it is the target), have equally many, those of small classes repeatedly. A small cluster then counts as much as
        a large one in the compression, its choices and the "agreement" in `report_`. For networks with labels only.
    memory : str, joblib.Memory or None, default=None
        Cache of the fitted wrapped estimator, so that a grid search over the parameters here fits it once.
    random_state : int, RandomState instance or None, default=None
        Seed of all draws, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line after every epoch.
    initial_deviation : float, default="deprecated"
        .. deprecated:: 0.1
           Use `initial_std`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator; it is not modified.
    network_ : Network
        Means of the weights as decoded from the file.
    row_variances_ : list of ndarray of shape (n_inputs + 1,)
        For each layer of the network, as decoded from the file; that of the biases last, 0 for removed inputs.
    column_variances_ : list of ndarray of shape (n_outputs,)
        For each layer. The variance of a weight is that of its row times that of its column.
    noise_ : ndarray of shape (n_outputs,) or None
        Standard deviation of the noise of a regression, in the units of the targets; None for classification.
    noise_degrees_ : ndarray of shape (n_outputs,) or None
        Degrees of freedom of Student's t noise, above 2; None for normal noise and for classification.
    bound_ : float
        Lower bound of the marginal likelihood in nats per training sample, in the last epoch, with the KL divergence
        multiplied by `kl_weight`.
    rate_weight_ : float
        The `rate_weight` of the file.
    n_iter_ : int
        Number of epochs that were run: `max_iter`, or fewer if a callback stopped the training.
    classes_ : ndarray of shape (n_classes,)
        The labels, where labels are predicted.
    labels_ : ndarray of shape (n_samples,)
        Labels of the X of the fit, where a clusterer is imitated.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Sizes of the parts of the file; "n_weights" that are not zero, "n_features" used, "layer_sizes_before",
        "rate_weight", and "agreement" with the targets of the validation set: accuracy or explained variance.
        Where labels are predicted, "agreement_per_class" has the fraction found of each label's validation samples (of
        all its samples where fewer than 10 are held out).
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, where X had them.

    See Also
    --------
    SpikeSlabCompressor : Pruning by posterior inclusion probabilities.
    CodebookCompressor : A few bits for each weight, without variances.

    Notes
    -----
    Inputs and targets of a regression are standardized for the training; predictions are in the original units. The
    noise is as large as the errors on the validation set where these are larger than those of the training set.

    References
    ----------
    Louizos and Welling, "Structured and efficient variational deep learning with matrix Gaussian posteriors", ICML
    2016, arXiv 1603.04733. Moments in closed form: Wu et al., "Deterministic variational inference for robust Bayesian
    neural networks", ICLR 2019. Joint rounding: Frantar et al., "GPTQ", ICLR 2023, arXiv 2210.17323. Grid steps that
    follow the posterior are our proposal; see docs/methods/matrix_gaussian.md.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn.preprocessing import StandardScaler
    >>> from distill import MatrixGaussianCompressor
    >>> X, y = load_diabetes(return_X_y=True, scaled=False)
    >>> X = StandardScaler().fit_transform(X)
    >>> network = MLPRegressor(hidden_layer_sizes=20, learning_rate_init=0.1, early_stopping=True)
    >>> compressor = MatrixGaussianCompressor(network, max_iter=50, random_state=0).fit(X, y)
    >>> mean, std = compressor.predict(X, return_std=True)
    >>> bool(abs(y - mean).mean() < 50) and compressor.nbytes_ < 500
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **Compressor._parameter_constraints,
        "rate_weight": [Interval(Real, 0, None, closed="neither")],
        "min_signal": [Interval(Real, 0, None, closed="left")],
        "compensate": ["boolean"],
        "kl_weight": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "prior": [StrOptions(set(PRIORS))],
        "n_pseudo": [Interval(Integral, 0, None, closed="left")],
        "n_factors": [Interval(Integral, 0, None, closed="left")],
        "bound": [StrOptions({"valid", "paper"})],
        "expectation": [StrOptions(set(EXPECTATIONS))],
        "noise": [StrOptions({"normal", "t"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "warm_up": [Interval(Real, 0, 1, closed="both")],
        "initial_std": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "initial_deviation": [Interval(Real, 0, None, closed="neither"), StrOptions({DEPRECATED})],
    }

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        rate_weight: float = 0.1,
        max_bytes: int | None = None,
        min_signal: float = 0.05,
        compensate: bool = True,
        kl_weight: float | str = "auto",
        prior: str = "normal",
        n_pseudo: int = 0,
        n_factors: int = 0,
        bound: str = "valid",
        expectation: str = "moments",
        noise: str = "normal",
        learn_from: str = "auto",
        max_iter: int = 100,
        warm_up: float = 0.1,
        initial_std: float = 0.05,
        batch_size: int = 256,
        learning_rate_init: float = 5e-3,
        n_calibration: int | None = None,
        validation_fraction: float = 0.1,
        balance_classes: bool = False,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        initial_deviation: float | str = DEPRECATED,
    ):
        self.estimator = estimator
        self.rate_weight = rate_weight
        self.max_bytes = max_bytes
        self.min_signal = min_signal
        self.compensate = compensate
        self.kl_weight = kl_weight
        self.prior = prior
        self.n_pseudo = n_pseudo
        self.n_factors = n_factors
        self.bound = bound
        self.expectation = expectation
        self.noise = noise
        self.learn_from = learn_from
        self.max_iter = max_iter
        self.warm_up = warm_up
        self.initial_std = initial_std
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.n_calibration = n_calibration
        self.validation_fraction = validation_fraction
        self.balance_classes = balance_classes
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose
        self.initial_deviation = initial_deviation

    @classmethod
    def for_budget(
        cls,
        estimator: BaseEstimator,
        max_bytes: int,
        effort: float = 1.0,
        hidden_layer_sizes: tuple[int, ...] | None = None,
        random_state: int | None = None,
    ) -> "MatrixGaussianCompressor":
        """Return an unfitted compressor for a file of at most `max_bytes`, as `AutoCompressor` tries it.

        Parameters
        ----------
        estimator : estimator
            See the class; the targets are its outputs.
        max_bytes : int
            Largest size of the file.
        effort : float, default=1.0
            Factor of the number of epochs, positive.
        hidden_layer_sizes : tuple of int or None
            Ignored: the compressed network has the shape of the wrapped one, or fewer units.
        random_state : int or None
            Seed of all draws.

        Returns
        -------
        MatrixGaussianCompressor
        """
        n_epochs = max(1, round(100 * float(effort)))
        return cls(estimator, max_bytes=max_bytes, learn_from="outputs", max_iter=n_epochs, random_state=random_state)

    # The overridden method has no return_std, and never returns a pair
    def predict(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Predict labels or regression values.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return standard deviations as well, of a regression only: of function and noise together.

        Returns
        -------
        predictions : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        std : ndarray of the same shape
            With `return_std` only.

        Raises
        ------
        ValueError
            If labels are predicted and `return_std` is True.
        """
        predictions = super().predict(X)
        return (predictions, self._std("predict", X).astype(np.float64)) if return_std else predictions

    def predict_proba(self, X, averaged: bool = False) -> np.ndarray:
        """Predict the probability of every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        averaged : bool, default=False
            Whether to average the probabilities over the posterior of the weights, instead of using the mean weights:
            less confident far from the training samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`; rows sum to one.
        """
        if not averaged:
            return super().predict_proba(X)
        return self._student.predict_proba(self._validated(X), averaged=True)

    # The overridden method has no return_std, and never returns a pair
    def transform(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:  # type: ignore[override]
        """Compute the embedding.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool, default=False
            Whether to return standard deviations as well.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_components), float32
            Or a data frame; see `set_output`.
        std : ndarray of shape (n_samples, n_components), float32
            With `return_std` only.
        """
        embedding = self.student_output("transform", X)
        return (embedding, self._std("transform", X)) if return_std else embedding

    def sample(self, X, n_draws: int = 100, random_state=0) -> np.ndarray:
        """Draw networks from the posterior and return their outputs: functions, correlated between samples.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        n_draws : int, default=100
            Number of networks, 1 or more.
        random_state : int, RandomState instance or None, default=0

        Returns
        -------
        ndarray of shape (n_draws, n_samples, n_outputs), float32
            Regression values without noise, or probabilities of the labels.
        """
        draws = self._draw(X, n_draws, random_state)
        if self.network_.classes is not None and self.network_.gives_probabilities:
            return probabilities(draws, self.network_.output)
        return output_values(self.network_, draws)

    def log_likelihood(self, X, y, n_draws: int = 100, random_state=0) -> float:
        """Return the mean log-likelihood of y.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or regression targets.
        n_draws : int, default=100
            Number of draws of the weights over which probabilities, or densities with the noise, are averaged.
        random_state : int, RandomState instance or None, default=0

        Returns
        -------
        float
            Mean log-probability of a label, or log-density of a target in the units of y, in nats per sample.

        Raises
        ------
        ValueError
            If X and y differ in length, or the outputs are decision values, which have no probabilities.
        """
        draws = self._draw(X, n_draws, random_state).astype(np.float64)
        targets = encode_targets(y, self.network_)
        if len(targets) != draws.shape[1]:
            raise ValueError(f"X has {draws.shape[1]} samples and y has {len(targets)}; pass equally many")
        if self.network_.classes is None:
            # Files of a regression store the noise
            unit = 1.0 if self.network_.output_scale is None else self.network_.output_scale
            noise = cast(np.ndarray, self.noise_)
            return regression_log_likelihood(draws * unit, targets * unit, noise, self.noise_degrees_)
        if not self.network_.gives_probabilities:
            raise ValueError("decision values have no probabilities; imitate predict or predict_proba instead")
        return classification_log_likelihood(probabilities(draws, self.network_.output), targets)

    @property
    def row_variances_(self) -> list[np.ndarray]:
        """Variances of the rows of every layer."""
        return [extras["row_variance"] for extras in self._fitted_student("row_variances_").extras]

    @property
    def column_variances_(self) -> list[np.ndarray]:
        """Variances of the columns of every layer."""
        return [extras["column_variance"] for extras in self._fitted_student("column_variances_").extras]

    @property
    def noise_(self) -> np.ndarray | None:
        """Standard deviation of the noise of a regression."""
        student = self._fitted_student("noise_")
        variance, unit = student.extras[-1].get("noise_variance"), student.network.output_scale
        noise = None if variance is None else np.sqrt(variance)
        return noise if noise is None or unit is None else noise * unit

    @property
    def noise_degrees_(self) -> np.ndarray | None:
        """Degrees of freedom of Student's t noise."""
        return self._fitted_student("noise_degrees_").extras[-1].get("noise_degrees")

    def encode_weights(self, weights: GaussianWeights, inputs: np.ndarray) -> tuple[bytes, float]:
        """Encode a posterior in a student file; a subclass may quantize in another way.

        Parameters
        ----------
        weights : GaussianWeights
            Posterior without rows and columns of low signal.
        inputs : ndarray of shape (n_samples, n_features), float32
            Training samples as inputs of the first layer, at most 6000.

        Returns
        -------
        data : bytes
        rate_weight : float
            The `rate_weight` of this file.

        Raises
        ------
        ValueError
            If no file is as small as `max_bytes`.
        """
        used = inputs if self.compensate else None
        if self.max_bytes is not None:
            return quantization.encode_within(weights, int(self.max_bytes), used)
        return quantization.encode(weights, float(self.rate_weight), used), float(self.rate_weight)

    def _n_steps(self) -> int:
        return int(self.max_iter)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        targets = compression_targets(self, network, calibration)
        task = make_task(network, calibration.varies, targets)
        train, validation = (StackedRows(*part.tensors) for part in (task.train, task.validation))
        settings = self._settings(learns_from_y(self, calibration.y), calibration.seed)
        means, regression = initial_means(task.network), task.kind == "regression"
        posterior = make_posterior(means, network.activation, settings, len(train), regression)

        def report(posterior: Posterior, message: str) -> bool:
            return stage.step(message, lambda: self._encode(posterior, task, network, targets)[0])

        try:
            history = learn(posterior, train, settings, report)
        except FloatingPointError as error:
            raise ValueError(f"the posterior has diverged: {error}") from error
        fit_noise(posterior, train, validation)
        if self.noise == "t" and regression:
            fit_degrees_of_freedom(posterior, validation)
        data, rate_weight = self._encode(posterior, task, network, targets)
        measured = quantization.describe(container.decode(data).network, network, targets)
        bound = -float(history.loss_curve[-1])
        return Compressed(
            data=data,
            report=measured | {"rate_weight": rate_weight},
            attributes={"n_iter_": history.n_iter, "bound_": bound, "rate_weight_": rate_weight},
        )

    def _settings(self, from_y: bool, seed: int) -> VariationalSettings:
        """Return the settings of the training."""
        automatic = 1.0 if from_y else _OUTPUTS_KL_WEIGHT
        return VariationalSettings(
            kl_weight=automatic if self.kl_weight == "auto" else float(self.kl_weight),
            prior=self.prior,
            initial_std=float(renamed(self, "initial_deviation", "initial_std")),
            n_factors=int(self.n_factors),
            n_pseudo=int(self.n_pseudo),
            bound=self.bound,
            expectation=self.expectation,
            max_iter=int(self.max_iter),
            warm_up=float(self.warm_up),
            batch_size=int(self.batch_size),
            learning_rate=float(self.learning_rate_init),
            seed=seed,
        )

    def _encode(self, posterior: Posterior, task: Task, network: Network, targets: Targets) -> tuple[bytes, float]:
        """Return the student file of a posterior, and its rate weight."""
        weights = quantization.posterior_to_weights(posterior, task.standardization, network, self.noise == "t")
        if self.min_signal:
            weights = quantization.prune(weights, quantization.signal_masks(weights, float(self.min_signal)))
        rows = targets.train[:_N_ROUNDING_SAMPLES]
        return self.encode_weights(weights, quantization.first_layer_inputs(rows, network, weights.network))

    def _validated(self, X):
        """Return samples of a fitted estimator as an array or CSR matrix."""
        check_is_fitted(self)
        return validated_rows(self, X)

    def _std(self, method: str, X) -> np.ndarray:
        """Return the standard deviations of `predict` or `transform`."""
        return getattr(self._student, method)(self._validated(X), return_std=True)[1]

    def _draw(self, X, n_draws: int, random_state) -> np.ndarray:
        """Return outputs of networks drawn from the posterior, shape (n_draws, n_samples, n_outputs), float32."""
        check_scalar(n_draws, "n_draws", Integral, min_val=1)
        rows = dense(self._network_rows(X))
        rng = np.random.default_rng(check_random_state(random_state).randint(LARGEST_SEED))
        return sample_outputs(self.network_, self.row_variances_, self.column_variances_, rows, n_draws, rng)
