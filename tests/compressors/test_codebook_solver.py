"""Codebooks and mappings against closed forms and brute force."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.codecs.codebook import CodebookLayer, round_to_half
from distill.compressors.codebook.finetuning import CodebookPerceptron, MovingPerceptron
from distill.compressors.codebook.grouping import group_neurons, reorder_neurons
from distill.compressors.codebook.kmeans import kmeans_1d
from distill.compressors.codebook.layer_problem import layer_problem
from distill.compressors.codebook.mapping import PROXIMAL, SoftMapping, gradient_descent, mapping_backward
from distill.compressors.codebook.solver import Mapping, coordinate_descent, fit_levels, nearest_codewords
from distill.network import Network
from distill.runtime import Student

GROUPINGS = ("scales", "codebooks")


def random_problem(seed=0, n_samples=300, n_inputs=20, n_outputs=12, ridge=1e-3):
    """Return the problem of a layer with correlated inputs, and samples of which the first half make the problem."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(6, n_inputs))
    inputs = rng.normal(size=(2 * n_samples, 6)) @ mixing + 0.4 * rng.normal(size=(2 * n_samples, n_inputs)) + 1
    weight = rng.normal(size=(n_inputs, n_outputs)) * rng.uniform(0.2, 2, n_outputs)
    targets = inputs @ weight + rng.normal(size=n_outputs)
    return layer_problem(inputs[:n_samples], targets[:n_samples], weight, ridge), weight, inputs, targets


# k-means in one dimension


@pytest.mark.parametrize("seed", range(40))
def test_kmeans_is_the_best_of_all_partitions(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=rng.integers(2, 10)) * 10.0 ** rng.integers(-3, 4) + rng.integers(-5, 5)
    weight = rng.uniform(0.01, 1, len(values))
    n_clusters = rng.integers(1, len(values) + 1)
    centers, labels = kmeans_1d(values, n_clusters, weight)

    order = np.argsort(values)
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), n_clusters - 1):
        parts = np.split(order, cuts)
        cost = sum(weight[p] @ (values[p] - np.average(values[p], weights=weight[p])) ** 2 for p in parts)
        best = min(best, cost)
    assert weight @ (values - centers[labels]) ** 2 <= best * (1 + 1e-9) + 1e-14
    assert np.all(np.diff(centers) > 0)


def test_kmeans_has_no_more_centers_than_distinct_values():
    centers, labels = kmeans_1d([2.0, 1.0, 2.0], 8)
    assert centers.tolist() == [1.0, 2.0]
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(("values", "n_clusters"), [([], 2), ([1.0, np.nan], 2), ([1.0], 0)])
def test_kmeans_input_errors(values, n_clusters):
    with pytest.raises(ValueError, match=r"values must be|n_clusters must be"):
        kmeans_1d(values, n_clusters)


# groups


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("n_groups", [1, 3, 100])
def test_reordered_network_computes_the_same(activation, n_groups):
    rng = np.random.default_rng(0)
    sizes = [(7, 11), (11, 5), (5, 3)]
    network = Network(
        tuple(rng.normal(size=size).astype(np.float32) for size in sizes),
        tuple(rng.normal(size=size[1]).astype(np.float32) for size in sizes),
        activation,
    )
    before = [weight.copy() for weight in network.weights]
    reordered, groups = reorder_neurons(network, n_groups)
    rows = rng.normal(size=(50, 7)).astype(np.float32)
    np.testing.assert_allclose(Student(reordered).transform(rows), Student(network).transform(rows), atol=1e-5)
    for group, weight in zip(groups, reordered.weights):
        assert group.max() + 1 == len(np.unique(group)) <= min(n_groups, weight.shape[1])
    assert all(np.all(np.diff(group) >= 0) for group in groups[:-1])
    assert all(np.array_equal(old, new) for old, new in zip(before, network.weights))


def test_groups_are_contiguous_in_spread():
    weight = np.random.default_rng(0).normal(size=(30, 20)) * np.linspace(0.1, 3, 20)[::-1]
    groups = group_neurons(weight, 4)
    assert np.all(np.diff(groups[np.argsort(weight.std(axis=0))]) >= 0)


# the layer's problem


def test_error_and_bias_are_those_of_the_samples():
    problem, weight, inputs, targets = random_problem(ridge=0.0)
    inputs, targets = inputs[:300], targets[:300]
    other = weight + np.random.default_rng(1).normal(size=weight.shape)
    expected = np.linalg.lstsq(np.ones((300, 1)), targets - inputs @ other, rcond=None)[0][0]
    np.testing.assert_allclose(problem.bias(other), expected, rtol=1e-9)
    np.testing.assert_allclose(problem.error(other), np.sum((inputs @ other + expected - targets) ** 2), rtol=1e-9)
    assert abs(problem.error(weight)) < 1e-8 * problem.power


def test_constant_inputs_keep_the_original_weights():
    weight = np.array([[1.0, 2.0], [3.0, 4.0]])
    problem = layer_problem(np.ones((5, 2)), np.ones((5, 2)) @ weight, weight)
    assert problem.error(weight) == pytest.approx(0, abs=1e-9)
    assert problem.error(weight + 1) == pytest.approx(4)


# coordinate descent


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("rate_weight", [0.0, 0.02])
@pytest.mark.parametrize("n_codewords", [1, 2, 4, 9])
def test_objective_never_increases(grouping, rate_weight, n_codewords):
    for seed in range(5):
        problem, weight, _, _ = random_problem(seed)
        start = nearest_codewords(weight, group_neurons(weight, 3), n_codewords, grouping=grouping)
        seen = []

        def record(step, value, seen=seen):
            seen.append(value)

        learned = coordinate_descent(problem, start, rate_weight=rate_weight, callback=record)
        assert np.all(np.diff(seen) <= 1e-9 * seen[0])
        if not rate_weight:
            assert problem.error(learned.weight) == pytest.approx(seen[-1], rel=1e-6, abs=1e-6 * problem.power)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("n_codewords", [2, 4, 8])
def test_joint_is_best_then_codebook_only_then_kmeans(grouping, n_codewords):
    problem, weight, _, _ = random_problem()
    start = nearest_codewords(weight, group_neurons(weight, 3), n_codewords, grouping=grouping)
    codebook_only = coordinate_descent(problem, start, learn_codes=False)
    joint = coordinate_descent(problem, start)
    errors = [problem.error(mapping.weight) for mapping in (joint, codebook_only, start)]
    assert errors == sorted(errors)
    assert errors[0] < 0.7 * errors[2]


@pytest.mark.parametrize("n_codewords", [2, 4, 8])
@pytest.mark.parametrize("n_samples", [32, 300])
def test_joint_beats_kmeans_on_validation_samples(n_codewords, n_samples):
    for seed in range(3):
        problem, weight, inputs, targets = random_problem(seed, n_samples=n_samples, n_outputs=30)
        rows, expected = inputs[n_samples:], targets[n_samples:]
        start = nearest_codewords(weight, group_neurons(weight, 4), n_codewords)
        joint = coordinate_descent(problem, start)
        bias = expected[0] - rows[0] @ weight
        plain = np.sum((rows @ start.weight + bias - expected) ** 2)
        assert np.sum((rows @ joint.weight + problem.bias(joint.weight) - expected) ** 2) < 0.35 * plain


def test_one_coordinate_at_a_time_reaches_the_optimum_of_one_weight():
    problem, weight, _, _ = random_problem(n_inputs=1, n_outputs=1)
    codebooks = np.array([[-1.0, 0.3, 2.0]])
    start = Mapping(np.zeros((1, 1), np.uint8), codebooks, np.ones(1), np.zeros(1, int))
    learned = coordinate_descent(problem, start, max_rounds=1)
    nearest = np.abs(codebooks[0] - weight[0, 0]).argmin()
    assert learned.codes[0, 0] == nearest
    assert learned.weight[0, 0] == pytest.approx(weight[0, 0], abs=1e-6)


def test_no_single_code_can_be_improved():
    problem, weight, _, _ = random_problem(n_outputs=4)
    start = nearest_codewords(weight, group_neurons(weight, 2), 3)
    learned = coordinate_descent(problem, start, tol=0.0, max_rounds=200)
    reached = problem.error(learned.weight)
    for place in itertools.product(*map(range, learned.codes.shape)):
        for code in range(3):
            codes = learned.codes.copy()
            codes[place] = code
            assert problem.error(replace(learned, codes=codes).weight) >= reached - 1e-9 * problem.power


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_codewords_are_least_squares(grouping):
    problem, weight, _, _ = random_problem()
    groups = group_neurons(weight, 2) if grouping == "codebooks" else np.zeros(12, int)
    start = nearest_codewords(weight, groups, 3, grouping=grouping)
    fitted = fit_levels(problem, start)
    # Brute force: one column of indicator weights for each codeword, in whose values the error is quadratic
    n_levels = fitted.levels.size
    columns = [(fitted.groups[:, None] * 3 + fitted.codes == level).T.astype(float) for level in range(n_levels)]
    curvature = np.array([[np.sum(a * (problem.gram @ b)) for b in columns] for a in columns])
    slope = np.array([np.sum(a * problem.cross) for a in columns])
    np.testing.assert_allclose(fitted.levels.ravel(), np.linalg.solve(curvature, slope), rtol=1e-6)


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("solve", [coordinate_descent, gradient_descent])
def test_representable_weights_are_recovered(grouping, solve):
    rng = np.random.default_rng(0)
    codebook = np.array([-1.5, -0.25, 0.5, 2.0])
    weight = codebook[rng.integers(0, 4, (20, 12))]
    problem = random_problem()[0]
    inputs = rng.normal(size=(100, 20))
    problem = layer_problem(inputs, inputs @ weight, weight)
    start = nearest_codewords(weight, np.repeat([0, 1], 6), 4, grouping="codebooks")
    np.testing.assert_allclose(solve(problem, start).weight, weight, atol=1e-6)


@pytest.mark.parametrize("solve", [coordinate_descent, gradient_descent])
def test_pinned_zeros_stay(solve):
    problem, weight, _, _ = random_problem()
    weight = np.where(np.random.default_rng(1).random(weight.shape) < 0.6, 0.0, weight)
    start = nearest_codewords(weight, group_neurons(weight, 3), 4, pin_zero=True)
    learned = solve(problem, start)
    assert np.all(learned.weight[weight == 0] == 0)
    assert len(np.unique(learned.codes)) > 2
    assert np.all(learned.levels[:, 0] == 0)


def test_rate_weight_lowers_the_entropy():
    problem, weight, _, _ = random_problem(n_inputs=40, n_outputs=40)
    start = nearest_codewords(weight, group_neurons(weight, 2), 4)

    def entropy(mapping):
        frequencies = np.bincount(mapping.codes.ravel(), minlength=4) / mapping.codes.size
        return -np.sum(frequencies[frequencies > 0] * np.log2(frequencies[frequencies > 0]))

    bits = [entropy(coordinate_descent(problem, start, rate_weight=rate)) for rate in (0.0, 0.01, 0.1, 10.0)]
    assert bits[0] > bits[1] > bits[2] > bits[3]
    assert bits[3] < 0.1


@pytest.mark.parametrize(
    "weight", [np.zeros((4, 3)), np.ones((4, 3)), np.array([[2.0]]), np.array([[1.0, -1.0]] * 4)], ids=str
)
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("pin_zero", [False, True])
@pytest.mark.parametrize("solve", [coordinate_descent, gradient_descent])
def test_degenerate_layers(weight, grouping, pin_zero, solve):
    inputs = np.random.default_rng(0).normal(size=(30, len(weight)))
    problem = layer_problem(inputs, inputs @ weight, weight)
    start = nearest_codewords(weight, group_neurons(weight, 4), 4, grouping=grouping, pin_zero=pin_zero)
    np.testing.assert_allclose(solve(problem, start).weight, weight, atol=1e-6)


# the gradient of the mapping


def test_off_is_the_true_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    levels = torch.tensor([-1.0, -0.1, 0.4, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: SoftMapping.apply(a, b, "off"), (logits, levels))


@pytest.mark.parametrize("proximal", PROXIMAL)
def test_largest_proximal_gradient_is_near_the_weight(proximal):
    levels = torch.tensor([-4.0, -2.5, -1.0, 0.5, 1.5, 3.5])
    for weight in np.linspace(-3.9, 3.4, 60):
        weight = torch.tensor([weight], dtype=torch.float32)
        gradient = mapping_backward(torch.ones(1), torch.full((1, 6), 1 / 6), levels, weight, proximal)[0]
        largest = gradient.abs().argmax().item()
        nearest = (levels - weight).abs().argmin().item()
        if proximal == "off":
            assert largest in {0, 5}
        else:
            assert abs(largest - nearest) <= 1
        assert torch.all(gradient.sign() * (levels - weight).sign() >= 0)


def test_unknown_proximal():
    problem, weight, _, _ = random_problem()
    start = nearest_codewords(weight, group_neurons(weight, 1), 2)
    with pytest.raises(ValueError, match="proximal must be one of"):
        gradient_descent(problem, start, proximal="paper")


@pytest.mark.parametrize("proximal", PROXIMAL)
def test_gradient_descent_learns_and_repeats(proximal):
    problem, weight, _, _ = random_problem()
    start = nearest_codewords(weight, group_neurons(weight, 3), 4)
    learned = gradient_descent(problem, start, proximal=proximal)
    again = gradient_descent(problem, start, proximal=proximal)
    assert np.array_equal(learned.weight, again.weight)
    assert problem.error(learned.weight) < 0.8 * problem.error(fit_levels(problem, start).weight)


# rounding to stored values, and training


@pytest.mark.parametrize("magnitude", [1e-35, 1e-9, 1.0, 1e9, 1e35])
def test_rounding_is_close_and_idempotent(magnitude):
    values = (np.random.default_rng(0).normal(size=1000) * magnitude).astype(np.float32)
    rounded = round_to_half(values)
    assert np.array_equal(round_to_half(rounded), rounded)
    close = np.abs(values) > np.abs(values).max() / 16000
    np.testing.assert_allclose(rounded[close], values[close], rtol=1 / 2048)
    assert np.abs(rounded - values).max() <= np.abs(values).max() / 2048


def random_layer(rng, n_inputs, n_outputs, n_codewords=4, separate=False):
    groups = np.sort(np.r_[0, 1, rng.integers(0, 2, n_outputs - 2)])
    used = rng.random(n_inputs) < 0.8
    used[:2] = True
    codes = rng.integers(0, n_codewords, (used.sum(), n_outputs)).astype(np.uint8)
    codebooks = rng.normal(size=(1 + separate, n_codewords)).astype(np.float32)
    codebooks[:, 0] = 0
    scales = None if separate else round_to_half(rng.uniform(0.5, 2, 2))
    bias = rng.normal(size=n_outputs)
    return CodebookLayer(codes, round_to_half(codebooks), scales, groups, round_to_half(bias), used)


@pytest.mark.parametrize("separate", [False, True])
def test_module_has_the_outputs_of_its_layers_and_trains_them(separate):
    rng = np.random.default_rng(0)
    layers = [random_layer(rng, 6, 5, separate=separate), random_layer(rng, 5, 3, separate=separate)]
    module = CodebookPerceptron(layers, "tanh")
    kept = module.layers()
    network = Network(tuple(layer.weight for layer in kept), tuple(layer.bias for layer in kept), "tanh")
    rows = rng.normal(size=(40, 6)).astype(np.float32)
    np.testing.assert_allclose(module(torch.tensor(rows)).detach(), Student(network).transform(rows), atol=1e-5)
    for layer, other in zip(layers, kept):
        np.testing.assert_allclose(layer.weight, other.weight, rtol=2e-3)

    targets = torch.tensor(rng.normal(size=(40, 3)).astype(np.float32))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = torch.square(module(torch.tensor(rows)) - targets).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for layer, other in zip(layers, module.layers()):
        assert np.array_equal(layer.codes, other.codes)
        assert np.all(other.codebooks[:, 0] == 0)
        assert np.array_equal(round_to_half(other.codebooks), other.codebooks)


# moving codes


@pytest.mark.parametrize("separate", [False, True])
def test_codes_are_those_of_the_nearest_codewords(separate):
    rng = np.random.default_rng(1)
    layer = random_layer(rng, 30, 7, n_codewords=5, separate=separate)
    module = MovingPerceptron([layer], "relu")
    (start,) = module.layers()
    assert np.array_equal(start.codes, layer.codes)
    position = rng.normal(size=(7, layer.used.sum())).astype(np.float32) * 3
    with torch.no_grad():
        module.positions[0].copy_(torch.tensor(position) / module.unit_0)
    (moved,) = module.layers()
    assert np.array_equal(moved.codebooks, start.codebooks)
    nearest = np.abs(position[:, :, None] - moved.levels[moved.groups][:, None, :]).argmin(axis=2).T
    pinned = layer.weight[layer.used] == 0
    assert 0 < pinned.mean() < 0.5
    assert np.array_equal(moved.codes, np.where(pinned, 0, nearest))
    rows = rng.normal(size=(20, 30)).astype(np.float32)
    np.testing.assert_allclose(module(torch.tensor(rows)).detach(), rows @ moved.weight + moved.bias, atol=1e-4)


def test_positions_take_the_gradient_of_their_weights():
    rng = np.random.default_rng(2)
    layer = random_layer(rng, 9, 4)
    module = MovingPerceptron([layer], "identity")
    rows = torch.tensor(rng.normal(size=(50, 9)).astype(np.float32))
    torch.square(module(rows)).sum().backward()
    (stored,) = module.layers()
    weight = torch.tensor(stored.weight, requires_grad=True)
    torch.square(rows @ weight + torch.tensor(stored.bias)).sum().backward()
    expected = weight.grad.numpy()[layer.used].T * module.unit_0.numpy()
    pinned = (layer.weight[layer.used] == 0).T
    actual = module.positions[0].grad.numpy()
    np.testing.assert_allclose(actual[~pinned], expected[~pinned], rtol=1e-4, atol=1e-2)
    assert np.all(actual[pinned] == 0)


def test_moving_codes_fit_better_than_fixed_codes():
    rng = np.random.default_rng(3)
    layers = [random_layer(rng, 12, 10, 2), random_layer(rng, 10, 3, 2)]
    layers = [replace(layer, codebooks=np.array([[-0.5, 0.5]], np.float32)) for layer in layers]
    rows = torch.tensor(rng.normal(size=(200, 12)).astype(np.float32))
    targets = torch.tanh(rows[:, :3] + rows[:, 3:6])

    def trained(module):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        for _ in range(300):
            optimizer.zero_grad()
            loss = torch.square(module(rows) - targets).mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    moved, stayed = trained(MovingPerceptron(layers, "relu")), trained(CodebookPerceptron(layers, "relu"))
    assert moved < 0.75 * stayed  # measured .56
