"""Seven UCI regression sets in their 20 standard splits: error and log-likelihood of uncertain networks.

    python benchmarks/uci.py --data DIR --sets yacht,energy

One hidden layer of 50 units learns from the training rows of a split with matrix Gaussian weights, and once more with
factorised Gaussian weights. Nothing is chosen in sight of test rows. Activation and step size are chosen once for a
set, the same for both, where the mean of both is best on rows held out of the training rows of five splits; likewise
whether the matrix Gaussian has pseudo-data or rows whose covariance has a part of low rank. The weight of the
divergence and the noise are chosen for every split, on rows held out of its training rows. All splits of a set learn
side by side in one process. Beside them stand ridge regression and published figures. Results are written as they come;
what is there is not computed again.
"""

import json
import math
from itertools import pairwise, product
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from common import parser, table, write_json
from scipy import stats
from sklearn.linear_model import LinearRegression, RidgeCV
from torch import Tensor, nn

from distill.compressors.matrix_gaussian.noise import GaussianNoise, predictive_log_density
from distill.compressors.matrix_gaussian.training import (
    Posterior,
    Rows,
    VariationalSettings,
    function_draws,
    learn,
    make_posterior,
    settle_noise,
)
from distill.training.perceptron import TORCH_ACTIVATIONS

N_HIDDEN, N_SPLITS, N_DRAWS = 50, 20, 100
WEIGHTS = (1.0, 0.25, 0.06)
N_CHOOSING = 5
METHODS = ("matrix", "factorised")
DEGREES = (3.0, 5.0, 10.0, 30.0, math.inf)
SCALES = np.geomspace(0.4, 40, 28)


class Published(NamedTuple):
    """What is in the literature for the same splits: test log-likelihood and RMSE."""

    likelihood: float
    error: float


class Recipe(NamedTuple):
    """What is the same for all splits of a set."""

    activation: str = "tanh"
    learning_rate: float = 0.02
    n_pseudo: int = 0
    n_factors: int = 0


class DataSet(NamedTuple):
    """How a set is called, learned and compared.

    Parameters
    ----------
    file : str
    passes, batch_size : int
    n_inner : int
        How many times training rows are split to choose settings.
    variational : Published
        Matrix Gaussian posteriors, Louizos and Welling (2016); errors from memory.
    dropout : Published
        Fairly tuned Monte Carlo dropout.
    """

    file: str
    passes: int
    batch_size: int
    n_inner: int
    variational: Published
    dropout: Published


SETS = {
    "yacht": DataSet("yacht", 100, 64, 2, Published(-1.30, 0.71), Published(-1.25, 0.67)),
    "boston": DataSet("bostonHousing", 100, 64, 1, Published(-2.46, 2.70), Published(-2.40, 2.90)),
    "energy": DataSet("energy", 120, 64, 1, Published(-1.06, 0.54), Published(-1.21, 0.54)),
    "concrete": DataSet("concrete", 200, 128, 1, Published(-3.01, 4.89), Published(-2.93, 4.82)),
    "wine": DataSet("wine-quality-red", 60, 128, 1, Published(-0.95, 0.63), Published(-0.93, 0.62)),
    "kin8nm": DataSet("kin8nm", 40, 256, 1, Published(1.10, 0.08), Published(1.14, 0.08)),
    "power": DataSet("power-plant", 70, 256, 1, Published(-2.82, 4.04), Published(-2.80, 4.01)),
}
# Least squares, mean and standard error of RMSE over the splits, computed by others: the loader must give the same
LEAST_SQUARES = {"boston": (4.588, 0.210), "energy": (3.056, 0.054), "yacht": (8.970, 0.273)}


def main():
    line = parser(__doc__, "uci")
    line.add_argument("--sets", default=",".join(SETS), help="which sets, small ones first")
    options = line.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results.pop("machine", None)
    for name in options.sets.split(","):
        data, file = SETS[name], options.data / "uci" / f"{SETS[name].file}.npz"
        check_loader(name, file)
        found = results.setdefault(name, {})
        found.setdefault("ridge", ridge(file))
        held_out = found.setdefault("held-out", {})
        for method, recipe in choose_recipes(data, file, held_out).items():
            kinds = [f"{method}, {kind} noise" for kind in ("normal", "t")]
            if not all(kind in found and found[kind]["recipe"] == recipe._asdict() for kind in kinds):
                began = perf_counter()
                found |= uncertain(data, file, method, recipe)
                for kind in kinds:
                    print(f"{name} {kind}: {in_words(found[kind])}, {perf_counter() - began:.0f} s", flush=True)
            write_json(options.out, results)
    report({name: found for name, found in results.items() if name in SETS})


# the splits


class Split(NamedTuple):
    """Standardised training rows and test rows of every split; leading axes are the splits."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    mean: Tensor
    unit: Tensor


def arrays(file):
    """Return X, y and one mask of test rows for each split."""
    data = np.load(file)
    return data["X"], data["y"], data["test_mask"][:N_SPLITS]


def outer_splits(file):
    """Return the standard splits."""
    X, y, masks = arrays(file)
    return stacked([standardised(X, y, np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks])


def inner_splits(file, n_inner, n_splits=N_SPLITS):
    """Return splits of the training rows alone, four fifths and one fifth; leading axes (n_inner, n_splits)."""
    X, y, masks = arrays(file)
    masks, parts = masks[:n_splits], []
    for seed in range(n_inner):
        for split, mask in enumerate(masks):
            rows = np.random.default_rng([seed, split]).permutation(np.flatnonzero(~mask))
            n_held_out = len(rows) // 5
            parts.append(standardised(X, y, rows[n_held_out:], rows[:n_held_out]))
    return Split(*(part.unflatten(0, (n_inner, len(masks))) for part in stacked(parts)))


def standardised(X, y, train, test):
    """Bring rows into units of the training rows."""
    mean, unit = X[train].mean(axis=0), X[train].std(axis=0)
    X = (X - mean) / np.where(unit > 0, unit, 1)
    mean, unit = y[train].mean(), y[train].std()
    y = (y - mean) / unit
    return X[train], y[train, None], X[test], y[test, None], mean, unit


def stacked(parts):
    return Split(*(torch.tensor(np.stack(part), dtype=torch.float32) for part in zip(*parts)))


def check_loader(name, file):
    """Refuse data whose least squares differ from what others found."""
    X, y, masks = arrays(file)
    errors = []
    for mask in masks:
        found = LinearRegression().fit(X[~mask], y[~mask]).predict(X[mask])
        errors.append(np.sqrt(np.mean(np.square(found - y[mask]))))
    mean, error = np.mean(errors), np.std(errors) / np.sqrt(len(errors))
    print(f"{name}: least squares, RMSE {mean:.3f} +- {error:.3f}, {len(X)} rows, {X.shape[1]} inputs")
    if name in LEAST_SQUARES and not np.allclose((mean, error), LEAST_SQUARES[name], atol=0.0055):
        raise ValueError(f"least squares should give {LEAST_SQUARES[name]}: these are other rows or other splits")


# uncertain networks


def choose_recipes(data, file, known):
    """Return the recipe of each method, under which rows held out of training rows are most likely.

    Parameters
    ----------
    known : dict
        Held-out log-likelihoods of every method and recipe that has been tried; what is tried is added.
    """
    inner = inner_splits(file, data.n_inner, N_CHOOSING)

    def held_out(method, recipe):
        key = f"{method}, " + ", ".join(map(str, recipe))
        if key not in known:
            tried = [choose_noise(fit(data, inner, method, weight, recipe), inner)[0] for weight in WEIGHTS[1:]]
            known[key] = float(torch.stack(tried).amax(0).mean())
            print(f"  {key}: held-out {known[key]:.3f}", flush=True)
        return known[key]

    nets = [Recipe(*choice) for choice in product(("tanh", "relu"), (0.02, 0.04))]
    net = max(nets, key=lambda recipe: sum(held_out(method, recipe) for method in METHODS))
    matrices = [net, net._replace(n_pseudo=5), net._replace(n_factors=4)]
    return {"matrix": max(matrices, key=lambda recipe: held_out("matrix", recipe)), "factorised": net}


def uncertain(data, file, method, recipe):
    """Choose the other settings inside the training rows of every split, learn from all, and look at the test rows."""
    inner = inner_splits(file, data.n_inner)
    likelihoods, noises = [], []
    for weight in WEIGHTS:
        posterior = fit(data, inner, method, weight, recipe)
        likelihood, noise = choose_noise(posterior, inner)
        likelihoods.append(likelihood)
        noises.append(noise)
        print(f"  {method} {weight:g}: held-out {float(likelihood.mean()):.3f}", flush=True)
    best = torch.stack(likelihoods).argmax(0)
    outer, chosen = outer_splits(file), torch.tensor(WEIGHTS)[best]
    posterior = fit(data, outer, method, chosen, recipe)
    scores = {}
    for kind in noises[0]:
        shapes, rates = (torch.stack([noise[kind][part] for noise in noises]) for part in (0, 1))
        posterior.noise.shape, posterior.noise.rate = (
            values.gather(0, best[None])[0][:, None] for values in (shapes, rates)
        )
        found = {key: values.tolist() for key, values in judge(posterior, outer).items()}
        found |= {"kl_weights": chosen.tolist(), "n_variances": n_variances(inner.X.shape[-1], method, recipe)}
        found |= {"recipe": recipe._asdict()}
        scores[f"{method}, {kind} noise"] = found
    return scores


def fit(data, split, method, weight, recipe):
    """Learn one posterior for every split."""
    settings = VariationalSettings(
        kl_weight=weight,
        n_pseudo=recipe.n_pseudo,
        n_factors=recipe.n_factors,
        expectation="draws",
        max_iter=data.passes,
        batch_size=data.batch_size,
        learning_rate=recipe.learning_rate,
    )
    batch, n_rows = split.X.shape[:-2], split.X.shape[-2]
    means = initial_means(batch, (split.X.shape[-1], N_HIDDEN, 1))
    if method == "matrix":
        posterior = make_posterior(means, recipe.activation, settings, n_rows, True)
    else:
        noise = GaussianNoise(n_rows, (*batch, 1))
        posterior = FactorisedPosterior(means, recipe.activation, settings.deviation, noise)
    rows = Rows(split.X, split.y)
    learn(posterior, rows, settings)
    settle_noise(posterior, rows)
    return posterior


def initial_means(batch, sizes, seed=0):
    """Draw the means that training starts from, in units in which layers divide their inputs."""
    generator, means = torch.Generator().manual_seed(seed), []
    for n_inputs, n_outputs in pairwise(sizes):
        mean = torch.randn((*batch, n_inputs + 1, n_outputs), generator=generator)
        mean[..., -1, :] = 0
        means.append(mean)
    return means


def choose_noise(posterior, inner):
    """Return held-out log-likelihood, shape (n_splits,), and shape and rate of the noise's Gamma, one for each kind.

    "normal": of one variance; "t": a precision that differs from row to row, which is Student's t. Both are where
    held-out rows are most likely, and are asked about with inner splits taken together.
    """
    difference = inner.y_test - function_draws(posterior, inner.X_test, N_DRAWS // 2, seed=0)
    difference = difference[..., 0]
    base = float((posterior.noise.rate / posterior.noise.shape).median())
    tried, found = [], []
    for degrees in DEGREES:
        for scale in SCALES:
            shape = min(degrees, 1e4) / 2
            tried.append((shape, shape * base * scale))
            density = predictive_log_density(difference, *map(torch.tensor, tried[-1]))
            found.append((torch.logsumexp(density, 0) - math.log(len(density))).mean((0, 2)))
    found, tried = torch.stack(found), torch.tensor(tried)
    noises = {}
    for kind, first in (("normal", len(found) - len(SCALES)), ("t", 0)):
        chosen = tried[first + found[first:].argmax(0)]
        noises[kind] = chosen[:, 0], chosen[:, 1]
    # In the units of y, which differ a little between inner splits
    return found.amax(0) - inner.unit.log().mean(0), noises


def judge(posterior, split):
    """Return log-likelihood, RMSE and the share of targets inside 90 % intervals, for every split."""
    draws = function_draws(posterior, split.X_test, N_DRAWS, seed=1)
    difference = (split.y_test - draws)[..., 0]
    density = predictive_log_density(difference, posterior.noise.shape, posterior.noise.rate)
    likelihood = (torch.logsumexp(density, 0) - math.log(N_DRAWS)).mean(-1) - split.unit.log()
    error = (split.y_test - draws.mean(0)).square().mean((-2, -1)).sqrt() * split.unit
    scale = (posterior.noise.rate / posterior.noise.shape).sqrt().numpy()
    degrees = 2 * posterior.noise.shape.numpy()
    place = stats.t.cdf(difference.numpy() / scale, degrees).mean(axis=0)
    covered = torch.tensor(((place > 0.05) & (place < 0.95)).mean(axis=-1))
    return {"likelihood": likelihood, "error": error, "coverage": covered}


# the ablation: a variance for every weight


class Factorised(NamedTuple):
    """Independent normal weights of one layer, shapes (..., n_inputs + 1, n_outputs)."""

    mean: Tensor
    variance: Tensor


class FactorisedLayers(nn.Module):
    """A mean and a variance for every weight."""

    def __init__(self, means, activation, deviation):
        super().__init__()
        self.activate = TORCH_ACTIVATIONS[activation]
        self.means = nn.ParameterList(means)
        self.log_variances = nn.ParameterList(torch.full_like(mean, 2 * math.log(deviation)) for mean in means)

    def posteriors(self):
        layers = [Factorised(mean, log.exp()) for mean, log in zip(self.means, self.log_variances)]
        return layers, layers

    def outputs(self, posteriors, X, mode, generator=None):
        for index, q in enumerate(posteriors):
            X = torch.cat([X, torch.ones(*X.shape[:-1], 1)], -1) / math.sqrt(X.shape[-1] + 1)
            mean, variance = X @ q.mean, X.square() @ q.variance
            X = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)
            X = self.activate(X) if index < len(posteriors) - 1 else X
        return X


class FactorisedPosterior(Posterior):
    """Learned by the same code; only the layers' distribution and its divergence differ."""

    def __init__(self, means, activation, deviation, noise):
        super().__init__(FactorisedLayers(means, activation, deviation), activation, noise)

    def moments(self, rows, used=None):
        draws = function_draws(self, rows, 30, seed=0)
        return draws.mean(0), draws.var(0)

    def divergence(self, counted, prior):
        return sum(0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum((-2, -1)) for q in counted)


def n_variances(n_inputs, method, recipe):
    """Return how many numbers describe the posterior besides its means."""
    sizes = ((n_inputs + 1, N_HIDDEN), (N_HIDDEN + 1, 1))
    if method != "matrix":
        return sum(rows * columns for rows, columns in sizes)
    m = recipe.n_pseudo  # inputs, outputs, and a triangular factor of their covariance
    return sum(
        rows * (1 + recipe.n_factors) + columns + m * (rows + columns) + m * (m + 1) // 2 for rows, columns in sizes
    )


# beside them


def ridge(file):
    """Ridge regression, its penalty by leave-one-out, with normal noise."""
    X, y, masks = arrays(file)
    scores = {"likelihood": [], "error": [], "coverage": []}
    for mask in masks:
        train, test = np.flatnonzero(~mask), np.flatnonzero(mask)
        X_train, y_train, X_test, y_test, _, unit = standardised(X, y, train, test)
        model = RidgeCV(np.logspace(-4, 3, 15)).fit(X_train, y_train[:, 0])
        difference = y_test[:, 0] - model.predict(X_test)
        residuals = y_train[:, 0] - model.predict(X_train)
        deviation = np.sqrt(np.sum(residuals**2) / (len(train) - X.shape[1] - 1))
        scores["likelihood"].append(stats.norm.logpdf(difference, scale=deviation).mean() - np.log(unit))
        scores["error"].append(np.sqrt(np.mean(difference**2)) * unit)
        scores["coverage"].append(np.mean(np.abs(difference) < stats.norm.ppf(0.95) * deviation))
    return scores


# tables


def in_words(scores):
    return (
        f"LL {with_error(scores['likelihood'])}, RMSE {with_error(scores['error'])}, "
        f"coverage {100 * np.mean(scores['coverage']):.1f} %"
    )


def with_error(values):
    return f"{np.mean(values):.3f} +- {standard_error(values):.3f}"


def standard_error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


def report(results):
    """Print what was found next to what is published, and count."""
    methods = list(dict.fromkeys(method for found in results.values() for method in found if method != "held-out"))
    for key, title, number in (("likelihood", "Test log-likelihood", 0), ("error", "Test RMSE", 1)):
        rows = [
            [
                name,
                *(with_error(found[method][key]) if method in found else "" for method in methods),
                SETS[name].variational[number],
                SETS[name].dropout[number],
            ]
            for name, found in results.items()
        ]
        table(f"{title}, mean +- standard error over splits", ["", *methods, "published", "dropout"], rows)
    rows = []
    for method in methods:
        known = {name: found[method] for name, found in results.items() if method in found}
        likely = {
            name: (np.mean(part["likelihood"]), standard_error(part["likelihood"])) for name, part in known.items()
        }
        errors = {name: (np.mean(part["error"]), standard_error(part["error"])) for name, part in known.items()}
        rows.append(
            [
                method,
                len(known),
                sum(mean + error >= SETS[name].variational.likelihood for name, (mean, error) in likely.items()),
                sum(mean > SETS[name].dropout.likelihood for name, (mean, _) in likely.items()),
                sum(mean - error <= SETS[name].variational.error for name, (mean, error) in errors.items()),
                sum(mean < SETS[name].dropout.error for name, (mean, _) in errors.items()),
                f"{100 * np.mean([np.mean(part['coverage']) for part in known.values()]):.1f}",
            ]
        )
    columns = ["", "sets", "LL >= published - s.e.", "LL > dropout", "RMSE <= published + s.e.", "RMSE < dropout"]
    table("On how many sets", [*columns, "coverage %"], rows)
    ablation(results)


def ablation(results):
    """Print the matrix Gaussian's log-likelihood beside the factorised one's, paired by splits."""
    for kind in ("normal", "t"):
        rows, ranks = [], []
        for name, found in results.items():
            both = [found.get(f"{method}, {kind} noise") for method in METHODS]
            if None in both:
                continue
            difference = np.subtract(*(part["likelihood"] for part in both))
            ranks.append(1 + int(difference.mean() < 0))
            numbers = [part["n_variances"] for part in both]
            rows.append([name, with_error(difference), int(np.sum(difference > 0)), ranks[-1], *numbers])
        columns = ["", "difference", f"splits of {N_SPLITS} won", "rank", "numbers", "numbers, factorised"]
        title = f"Log-likelihood, {kind} noise: matrix minus factorised"
        table(f"{title}; mean rank {np.mean(ranks):.2f} against {3 - np.mean(ranks):.2f}", columns, rows)


if __name__ == "__main__":
    main()
