"""Structure of a network chosen from the rows: what two networks of disjoint draws agree on, without any label.

A pilot has a sample of the rows, and two small networks, the halves, whose clusterings are drawn separately. What is
in the rows appears in both, what is due to a draw in one.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from mbn import clusters, layers, output
from mbn.checkpoint import Checkpoint
from mbn.layers import LayerSettings
from mbn.metrics import Matrix
from mbn.rows import Preparation, Rows
from mbn.schedule import schedule_from

# Rows of a pilot, and clusterings in each half, or those of the network if they are fewer: more of both make
# differences between draws smaller, and cost more. On eight data sets the standard deviation of the agreement between
# pairs of halves was .01 to .03.
PILOT_ROWS, HALF_CLUSTERINGS = 2000, 50
# With fewer rows, or fewer for each cluster, halves differ by the rows that they draw, and nothing is chosen
FEWEST_ROWS, FEWEST_PER_CLUSTER = 250, 10
# Agreement by which a halving of the bottom layer must pay. Coarse layers agree better in any data, and resolve less:
# lower prices coarsened `texture` and `penbased`, where n/2 is the most accurate, higher ones left short texts at n/2.
PRICE = 0.045
# Numbers of clusters that are compared, by three small networks, and the guess with which the bottom layer is chosen
MOST_CLUSTERS, GUESS, _N_NETWORKS = 30, 10, 3
# Difference of two stabilities that is due to the draws
_NOISE = 0.02
# Stability below which no number of clusters is a finding: rows of one cluster, normal or uniform, in 2 to 64 features
# reach .50 at most, and all data sets with classes .66 at least
NO_CLUSTERS = 0.6
# The search ends after so many halvings without a better one
_PATIENCE = 2
# Where the halves of the default agree less than this, most of what it finds is due to the draws (.42 to .47 on short
# texts, .7 and more on all other sets), and the largest agreement counts alone
UNRELIABLE = 0.6
# Two halves that agree less than this, wherever the layers start, agree on little more than rows without clusters
FLAT = 0.5
# Calls between `_fit` of the network and the checkpoint of a pilot, beyond those for a layer
_DEPTH = 4
# Distances that are compared, in this order
METRICS = ("euclidean", "cosine")
# Key of the random stream of pilots
_STREAM = 1 << 21


@dataclass(frozen=True)
class Choice:
    """A parameter chosen from the data.

    Parameters
    ----------
    parameter : str
        Name of the parameter.
    candidates : tuple of int or of str
        Values that were tried, in this order; empty if nothing was.
    scores : tuple of float
        Agreement of two halves for each of them, 1 at most.
    chosen : int, str or None
        The value in use; None where `candidates` is empty and the default was taken.
    reason : str
        Why, in a sentence.
    n_samples : int
        Number of samples of the pilot.
    absolute : bool
        Whether as many centroids are in the network as in the pilot, and not the same share of the rows.

    Examples
    --------
    >>> from mbn.structure import Choice
    >>> Choice("k", (500, 250), (0.81, 0.83), 500, "no halving pays").chosen
    500
    """

    parameter: str
    candidates: tuple
    scores: tuple[float, ...]
    chosen: Any
    reason: str
    n_samples: int = 0
    absolute: bool = False


@dataclass
class Pilot:
    """Two halves on a sample of the rows.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        The rows of the fit; a sample of them is drawn.
    preparation : Preparation
    settings : LayerSettings
        Of the network; the pilot's own are derived from them.
    choose_assignment : callable
        Returns the assignment for a number of centroids and one of rows.
    n_components : int
        Principal components of each half.
    memory : object
        As in `mbn.checkpoint.Checkpoint`.
    report : callable
        Called with a line of text for each pair of halves.
    """

    X: Matrix
    preparation: Preparation
    settings: LayerSettings
    choose_assignment: Callable[[int, int], str]
    n_components: int
    memory: Any = None
    report: Callable[[str], None] = lambda line: None
    numbers: np.ndarray = field(init=False)
    _rows: Matrix = field(init=False)
    _kept: Checkpoint = field(init=False)
    _found: dict = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        n_samples = self.X.shape[0]
        rng = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(_STREAM,)))
        self.numbers = np.sort(rng.permutation(n_samples)[:PILOT_ROWS])
        part = self.X[self.numbers]
        self._rows = Rows(part, self.preparation).whole()
        self._kept = Checkpoint(self.memory, part, self.preparation, _DEPTH)

    def scaled(self, schedule: Sequence[int], least: float, absolute: bool = False) -> tuple[int, ...]:
        """Centroids in the layers of the pilot for those of the network: the same shares of the rows, `least` at least.

        With `absolute` the same numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from mbn.rows import IDENTITY
        >>> settings = LayerSettings(10, 0.5, 0, "euclidean", "direct", 64)
        >>> pilot = Pilot(np.ones((8000, 9)), IDENTITY, settings, lambda k, n: "direct", 2)
        >>> pilot.scaled((4000, 2000, 1000, 30), 15)
        (1000, 500, 250)
        """
        n_rows = len(self.numbers)
        share = 1 if absolute else n_rows / self.X.shape[0]
        numbers = [int(k * share) for k in schedule]
        bottom = min(max(numbers[0], math.ceil(least)), n_rows)
        return (bottom, *(k for k in numbers[1:] if least <= k < bottom))

    def halves(self, schedule: tuple[int, ...]) -> list[np.ndarray]:
        """Principal components of the rows of the pilot in both halves, of shape (n_rows, n_components) each.

        Parameters
        ----------
        schedule : tuple of int
            Centroids in the layers of the pilot.
        """
        if schedule not in self._found:
            ((_, codes),) = self.codes(schedule, 2, len(schedule) - 1)
            self._found[schedule] = [self.components(half, schedule[-1], self.n_components) for half in codes]
        return self._found[schedule]

    def components(self, codes: np.ndarray, k: int, n_components: int) -> np.ndarray:
        """Principal components of codes of k centroids: an array of shape (n_rows, n_components)."""
        most = min(n_components, len(codes), codes.shape[1] * k)
        components, mean, _ = output.principal_components(codes, k, most, self.settings.seed)
        return output.project(codes, k, components, mean)

    def codes(self, schedule: tuple[int, ...], number: int, first: int) -> list[tuple[int, list[np.ndarray]]]:
        """Codes of small networks; from `memory` where they are kept.

        Parameters
        ----------
        schedule : tuple of int
            Centroids in their layers.
        number : int
            How many networks.
        first : int
            Index of the first layer of interest.

        Returns
        -------
        list of tuple of (k, list of ndarray of shape (n_rows, n_clusterings))
            For each layer of interest its number of centroids, and the codes of each network.
        """
        n_half = min(HALF_CLUSTERINGS, self.settings.n_estimators)
        assignment = self.choose_assignment(schedule[0], len(self.numbers))
        settings = dataclasses.replace(self.settings, n_estimators=number * n_half, assignment=assignment)
        parameters = {"pilot": list(schedule), "networks": number, "first": first, **dataclasses.asdict(settings)}
        for name in ("n_jobs", "device"):
            del parameters[name]
        found = self._kept.load(parameters)
        if found is None:
            found = self._compute(schedule, number, first, settings)
            self._kept.save(parameters, found)
        parts = iter(np.split(found, number * len(schedule[first:]), axis=1))
        return [(k, [next(parts) for _ in range(number)]) for k in schedule[first:]]

    def _compute(self, schedule: tuple[int, ...], number: int, first: int, settings: LayerSettings) -> np.ndarray:
        """Codes of all layers of interest and all networks, side by side."""
        n_half = settings.n_estimators // number
        # One search of the bottom layer for all networks, whose clusterings have draws of their own
        codes, _ = layers.fit_bottom(Rows(self._rows), schedule[0], settings)
        parts = np.split(codes, number, axis=1)
        found = list(parts) if first == 0 else []
        networks = [
            dataclasses.replace(settings, n_estimators=n_half, seed=_seed(settings.seed, index))
            for index in range(number)
        ]
        for layer, (below, k) in enumerate(itertools.pairwise(schedule), 1):
            parts = [layers.fit_upper(part, layer, k, one, below)[0] for part, one in zip(parts, networks)]
            found += parts if layer >= first else []
        return np.concatenate(found, axis=1)


def choose_metric(
    pilots: Sequence[Pilot], schedules: Sequence[tuple[int, ...]], n_clusters: int, algorithm: str
) -> Choice:
    """Choose the distance for which the clusters of two small networks are more alike.

    Parameters
    ----------
    pilots : sequence of Pilot
        One for each of METRICS, of the same rows.
    schedules : sequence of tuple of int
        Centroids in their layers.
    n_clusters : int
    algorithm : {"kmeans", "agglomerative"}

    Returns
    -------
    Choice
        Scores are mean Jaccard indices; see `mbn.clusters.stability`.
    """
    scores = []
    for pilot, schedule in zip(pilots, schedules):
        metric, seed = pilot.settings.metric, pilot.settings.seed
        labels = [
            clusters.labels_of(clusters.space(half, n_clusters, metric), n_clusters, algorithm, seed)
            for half in pilot.halves(schedule)
        ]
        pairs = itertools.permutations(labels, 2)
        scores.append(round(float(np.nanmean([clusters.stability(a, [b], n_clusters) for a, b in pairs])), 4))
        pilot.report(f"pilot of {len(pilot.numbers)} samples, metric={metric!r}: stability {scores[-1]:.3f}")
    better = scores[1] > scores[0] + _NOISE
    reason = f"the stability of its clusters, which has to be larger by {_NOISE} for 'cosine'"
    return Choice("metric", METRICS, tuple(scores), METRICS[better], reason, len(pilots[0].numbers))


def choose_n_clusters(
    pilot: Pilot, schedule: tuple[int, ...], algorithm: str, n_components: int | None = None
) -> Choice:
    """Propose a number of clusters: that of the clusters which small networks find again most reliably.

    Parameters
    ----------
    pilot : Pilot
    schedule : tuple of int
        Centroids in the layers of the pilot, down to three. Each number of clusters has the layer, and the principal
        components, that a network for it has.
    algorithm : {"kmeans", "agglomerative"}
    n_components : int, optional
        As many as clusters if None.

    Returns
    -------
    Choice
        Scores are mean Jaccard indices; see `mbn.clusters.stability`. One cluster if none reaches NO_CLUSTERS.
    """
    n_rows = len(pilot.numbers)
    most = min(MOST_CLUSTERS, n_rows // FEWEST_PER_CLUSTER, int(schedule[0] / 1.5))
    candidates = tuple(range(2, max(2, most) + 1))
    tops = {n: max((index for index, k in enumerate(schedule) if k >= 1.5 * n), default=0) for n in candidates}
    first = min(tops.values())
    scores = dict.fromkeys(candidates, 0.0)
    for index, (k, codes) in enumerate(pilot.codes(schedule, _N_NETWORKS, first), first):
        numbers = [n for n in candidates if tops[n] == index]
        if not numbers:
            continue
        outputs = [pilot.components(part, k, n_components or numbers[-1]) for part in codes]
        for n in numbers:
            labels = [
                clusters.labels_of(
                    clusters.space(part[:, : n_components or n], n, pilot.settings.metric),
                    n,
                    algorithm,
                    pilot.settings.seed,
                )
                for part in outputs
            ]
            pairs = itertools.permutations(labels, 2)
            scores[n] = round(float(np.nanmean([clusters.stability(one, [other], n) for one, other in pairs])), 4)
    values = tuple(scores.values())
    near = [n for n in candidates if scores[n] >= max(values) - _NOISE]
    best = near[len(near) // 2]
    pilot.report(f"pilot of {n_rows} samples, {best} clusters: stability {scores[best]:.3f}")
    if max(values) < NO_CLUSTERS:
        reason = f"small networks find no clusters again: their stability is {max(values):.2f} at most; one cluster"
        return Choice("n_clusters", candidates, values, 1, reason, n_rows)
    reason = "the largest stability" if len(near) == 1 else f"the middle of those within {_NOISE} of the largest"
    return Choice("n_clusters", candidates, values, best, reason, n_rows)


def _seed(seed: int, index: int) -> int:
    """Return the seed of a half."""
    return int(np.random.SeedSequence(seed, spawn_key=(_STREAM, index + 1)).generate_state(1)[0])


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    r"""Agreement of two embeddings of the same rows, from 0 to 1, whatever their rotations and scales.

    The RV coefficient, or linear centered kernel alignment: with centered columns
    :math:`\|A^T B\|^2 / (\|A^T A\| \|B^T B\|)` in the Frobenius norm. Unlike the adjusted Rand index of two sets of
    clusters it does not jump where two clusters merge.

    Parameters
    ----------
    first, second : ndarray of shape (n_samples, n_components)

    Returns
    -------
    float
        Zero for an embedding without variance.

    References
    ----------
    P. Robert and Y. Escoufier, "A unifying tool for linear multivariate statistical methods: the RV-coefficient",
    Applied Statistics 25 (1976).

    Examples
    --------
    >>> import numpy as np
    >>> from mbn.structure import agreement
    >>> A = np.array([[0.0, 0], [1, 0], [0, 3]])
    >>> agreement(A, 2 * A[:, ::-1] + 5)
    1.0
    """
    A, B = (np.asarray(part, np.float64) - np.mean(part, axis=0, dtype=np.float64) for part in (first, second))
    with threadpool_limits(1):  # products of other numbers of threads are rounded differently
        lengths = np.linalg.norm(A.T @ A) * np.linalg.norm(B.T @ B)
        return round(float(np.linalg.norm(A.T @ B) ** 2 / lengths), 4) if lengths > 0 else 0.0


def choose_k(pilot: Pilot, k: int, n_clusters: int, delta: float) -> Choice:
    """Choose the bottom layer: the default, or half, a quarter, ... of it where the halves agree better for it.

    Parameters
    ----------
    pilot : Pilot
    k : int
        The default: the largest candidate.
    n_clusters : int
    delta : float
        Ratio of layers.

    Returns
    -------
    Choice
        Of the candidates the one with the largest agreement less PRICE for each halving. Where the agreement of the
        default is less than UNRELIABLE, the largest counts alone, and candidates are numbers of centroids in the pilot.
    """
    n_rows = len(pilot.numbers)
    if n_rows < max(FEWEST_ROWS, FEWEST_PER_CLUSTER * n_clusters):
        return Choice("k", (), (), None, f"{n_rows} samples are too few for a pilot: the default", n_rows)
    least = 1.5 * n_clusters
    candidates: list[int] = []
    scores: list[float] = []
    price = 0.0
    while not candidates or int(k * n_rows / pilot.X.shape[0]) >= least:
        schedule = pilot.scaled(schedule_from(k, n_clusters, delta), least)
        candidates.append(k)
        scores.append(agreement(*pilot.halves(schedule)))
        pilot.report(f"pilot of {n_rows} samples, k={k}: agreement {scores[-1]:.3f}")
        price = PRICE if scores[0] >= UNRELIABLE else 0.0
        best = int(np.argmax(np.array(scores) - price * np.arange(len(scores))))
        if len(scores) - 1 - best >= _PATIENCE or k < 2 * least:
            break
        k //= 2
    if max(scores) < FLAT:
        reason = f"flat: two networks agree at {max(scores):.2f} at best, wherever the layers start; the default"
        return Choice("k", tuple(candidates), tuple(scores), candidates[0], reason, n_rows)
    if price:
        reason = f"the largest agreement less {price} for each halving"
        return Choice("k", tuple(candidates), tuple(scores), candidates[best], reason, n_rows)
    # What blurs the codes then is the noise of the centroids, which are single rows: more rows do not make them better,
    # so that the number of centroids counts and not their share of the rows (short texts, 4000 and 10000)
    tried = tuple(pilot.scaled((candidate,), least)[0] for candidate in candidates)
    reason = f"the largest agreement, since that of the default is less than {UNRELIABLE}; as many as in the pilot"
    return Choice("k", tried, tuple(scores), tried[best], reason, n_rows, absolute=True)
