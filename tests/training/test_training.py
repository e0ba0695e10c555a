"""The training loop, the network in torch, the scaling of inputs."""

import math
import threading

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn

from distill.codecs import container
from distill.network import Network
from distill.runtime import Student
from distill.training.device import check_device, one_thread
from distill.training.loop import train
from distill.training.losses import cross_entropy, squared_error
from distill.training.perceptron import Perceptron, fold_input, folds_well, initial_network, scale_outputs, unfold_input
from distill.training.samples import DenseRows, JitteredRows, SparseRows, holdout, typical_gap
from distill.training.scaling import feature_statistics, fit_input_scaling

random = np.random.default_rng(0)
X = random.normal(size=(200, 3)).astype(np.float32)
y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def loss(module, rows, expected):
    return cross_entropy(module(rows), expected)


def fitted(**settings):
    module = Perceptron(initial_network((3, 8, 2), seed=1))
    rows = DenseRows(torch.from_numpy(X), torch.from_numpy(y))
    return module, train(module, loss, rows, batch_size=32, **{"max_iter": 5, "learning_rate": 0.01, **settings})


def test_same_seed_gives_same_weights_and_global_state_is_unchanged(two_threads):
    state = torch.get_rng_state()
    first, second = fitted(averaging=0.9)[0].arrays(), fitted(averaging=0.9)[0].arrays()
    for one, other in zip(first[0] + first[1], second[0] + second[1]):
        np.testing.assert_array_equal(one, other)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == two_threads


def test_best_weights_are_kept():
    scores = iter([0.1, 0.9, 0.3, 0.2, 0.2, 0.2])
    seen = []

    def validate(module):
        seen.append(module.weights[0].detach().clone())
        return next(scores), 0.0

    module, history = fitted(validate=validate, n_iter_no_change=2, max_iter=6)
    assert history.n_iter == 4 and history.best_iter == 2 and history.best_score == 0.9
    assert torch.equal(module.weights[0], seen[1])


def test_ties_of_the_score_are_broken_by_the_loss():
    losses = iter([3.0, 2.0, 1.0, 1.0])
    assert fitted(validate=lambda module: (1.0, next(losses)), n_iter_no_change=1)[1].best_iter == 3


def test_callback_stops():
    assert fitted(callback=lambda module, history: history.n_iter == 3)[1].n_iter == 3


def test_interrupt_propagates_and_restores_threads(two_threads):
    def interrupt(module, history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(callback=interrupt)
    assert torch.get_num_threads() == two_threads


def test_threads_are_restored_when_trainings_overlap(two_threads):
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_thread():
            inside.set()
            leave.wait(10)

    worker = threading.Thread(target=other)
    worker.start()
    inside.wait(10)
    with one_thread():
        leave.set()
        worker.join()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == two_threads


def test_divergence_raises():
    with pytest.raises(FloatingPointError, match="lower learning_rate_init"):
        module = Perceptron(initial_network((3, 1)))
        train(module, lambda module, rows: module(rows).sum() * math.inf, DenseRows(torch.from_numpy(X)))


def test_every_row_is_used_once_per_epoch():
    taken = []

    class Rows(DenseRows):
        def take(self, index):
            taken.append(index)
            return super().take(index)

    module = Perceptron(initial_network((3, 2)))
    rows = Rows(torch.from_numpy(X), torch.from_numpy(y))
    train(module, loss, rows, batch_size=64, max_iter=1, min_steps=7, min_batch_size=64)
    assert len(taken) == 8  # two rounds of four batches
    assert torch.cat(taken[:4]).sort().values.tolist() == list(range(200))


def test_losses_against_closed_forms():
    outputs, labels = torch.tensor([[0.3], [-1.2]]), torch.tensor([1, 0])
    expected = -np.log([1 / (1 + np.exp(-0.3)), 1 / (1 + np.exp(-1.2))]).mean()
    assert cross_entropy(outputs, labels).item() == pytest.approx(expected, rel=1e-6)
    both = torch.nn.functional.one_hot(labels, 2).float()
    assert cross_entropy(outputs, both).item() == pytest.approx(expected, rel=1e-6)
    assert squared_error(torch.ones(2, 1), torch.zeros(2, 1)).item() == 1


def test_sparse_rows_equal_dense_rows():
    dense = X * (random.random(X.shape) > 0.5)
    scaling, index = fit_input_scaling(dense, "per-feature"), torch.tensor([3, 0, 7])
    taken = SparseRows(sparse.csr_array(dense), scaling, torch.from_numpy(y)).take(index)
    np.testing.assert_array_equal(taken[0].numpy(), scaling.apply(dense)[index.numpy()])
    np.testing.assert_array_equal(taken[1].numpy(), y[index.numpy()])


def test_jitter_has_its_standard_deviation_and_skips_constant_inputs():
    rows = JitteredRows(DenseRows(torch.zeros(4000, 3)), 0.5, np.array([True, False, True]), seed=0)
    moved = rows.take(torch.arange(4000))[0].numpy()
    assert np.all(moved[:, 1] == 0)
    np.testing.assert_allclose(moved[:, [0, 2]].std(axis=0), 0.5, rtol=0.05)


def test_typical_gap_of_doubled_rows_is_zero():
    assert typical_gap(DenseRows(torch.from_numpy(np.repeat(X, 2, axis=0))), seed=0) < 1e-3


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_module_and_student_agree(activation):
    network = initial_network((3, 7, 4, 2), activation, seed=3)
    module = Perceptron(network)
    answers = Student.from_bytes(container.encode(network)).transform(X)
    np.testing.assert_allclose(module(torch.from_numpy(X)).detach().numpy(), answers, rtol=1e-4, atol=1e-5)
    for one, other in zip(module.arrays()[0], network.weights):
        np.testing.assert_array_equal(one, other)


def test_folding_and_unfolding_keep_the_function():
    network = initial_network((3, 5, 1), seed=0)
    network = Network(network.weights, network.biases, offset=np.float32([1, 20, -3]), scale=np.float32([2, 0.1, 7]))
    folded = fold_input(network)
    back = unfold_input(folded, network.offset, network.scale)
    answers = [Student.from_bytes(container.encode(each)).transform(X) for each in (network, folded, back)]
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(back.weights[0], network.weights[0], rtol=1e-5)
    assert folds_well(network) and not folds_well(network, "float16")


def test_scaled_outputs():
    weight, bias = scale_outputs(np.ones((2, 1)), np.ones(1), np.array([3.0]), np.array([2.0]))
    assert weight.tolist() == [[2], [2]] and bias.tolist() == [5]


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_feature_statistics(kind):
    values = (X * (random.random(X.shape) > 0.4)).astype(np.float32)
    values[:, 2] += 5
    found = feature_statistics(kind(values))
    low, high, mean, variance = found.low, found.high, found.mean, found.variance
    np.testing.assert_array_equal(low, values.min(axis=0))
    np.testing.assert_array_equal(high, values.max(axis=0))
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, values.var(axis=0, dtype=np.float64), rtol=1e-6)


def test_rare_and_constant_features_have_bounded_scales():
    rows = np.zeros((100000, 3), np.float32)
    rows[0, 0], rows[:, 1] = 1, 1e9
    rows[:, 2] = random.normal(size=len(rows))
    scaling = fit_input_scaling(rows, "per-feature")
    assert scaling.varies.tolist() == [True, False, True] and scaling.scale[1] == 0
    assert np.abs(scaling.apply(rows)).max() <= 100.1


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_holdout_keeps_every_label_in_training(fraction):
    labels = np.array([0] * 50 + [1] * 2 + [2])
    train_rows, held_out = holdout(labels, len(labels), fraction, seed=0)
    assert set(labels[train_rows]) == {0, 1, 2} and len(held_out) >= 1
    assert sorted([*train_rows, *held_out]) == list(range(len(labels)))


@pytest.mark.parametrize("device", ["nonsense", 3.5, "cuda:77"])
def test_unknown_device_raises(device):
    with pytest.raises(ValueError, match="device"):
        check_device(device)


def test_any_module_can_be_trained():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.generator = nn.Parameter(torch.zeros(3)), torch.Generator().manual_seed(0)

        def forward(self, rows):
            return rows @ (self.mean + 0.01 * torch.randn(3, generator=self.generator))

    module, slope = Noisy(), torch.tensor([1.0, -2.0, 0.5])
    rows = DenseRows(torch.from_numpy(X), torch.from_numpy(X) @ slope)
    train(module, lambda m, a, b: (m(a) - b).square().mean(), rows, batch_size=20, learning_rate=0.05, max_iter=40)
    np.testing.assert_allclose(module.mean.detach().numpy(), slope.numpy(), atol=0.05)
