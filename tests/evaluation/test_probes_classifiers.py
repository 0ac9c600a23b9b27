"""Logistic regression and nearest neighbours against independent solvers and closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.evaluation.classifiers import (
    DEFAULT_L2,
    LogisticProblem,
    class_rank,
    fit_linear_probe,
    nearest_neighbours,
    standardise,
)


def blobs(count: int, dim: int, classes: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes whose features are correlated and of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    features = centres[labels] + spread * torch.randn(count, dim, generator=generator)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(98))
    return features @ mixing * torch.logspace(-2, 2, dim), labels


def objective(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: float) -> float:
    logits = features.double() @ weight.double().T + bias.double()
    return float(F.cross_entropy(logits, labels) + l2 / 2 * weight.double().square().sum())


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_logistic_regression_equals_scikit_learn(l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    features, labels = blobs(1500, 30, 6, seed=0, spread=3.0)
    test, test_labels = blobs(1500, 30, 6, seed=1, spread=3.0)
    features, test = standardise(features, test)
    ours = LogisticProblem(features, labels, 6).solve(l2)
    theirs = linear_model.LogisticRegression(C=1 / (l2 * len(labels)), tol=1e-8, max_iter=5000)
    with threadpoolctl.threadpool_limits(1):
        theirs.fit(features.double().numpy(), labels.numpy())
    coefficients, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
    expected = objective(features, labels, coefficients, intercept, l2)
    assert objective(features, labels, ours.weight, ours.bias, l2) == pytest.approx(expected, abs=1e-5)
    ours_accuracy = float((ours.predict(test) == test_labels).float().mean())
    assert ours_accuracy == pytest.approx(theirs.score(test.numpy(), test_labels.numpy()), abs=0.01)
    assert 0.5 < ours_accuracy < 0.99  # neither trivial nor hopeless, or the comparison would say little


def test_solution_has_zero_gradient() -> None:
    """The conditions of optimality, by autograd in double precision."""
    features, labels = blobs(400, 12, 4, seed=2, spread=3.0)
    (features,) = standardise(features)
    solution = LogisticProblem(features, labels, 4).solve(1e-3)
    weight = solution.weight.double().requires_grad_()
    bias = solution.bias.double().requires_grad_()
    loss = F.cross_entropy(features.double() @ weight.T + bias, labels) + 1e-3 / 2 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert gradient.abs().max() < 2e-4


def test_fewer_samples_than_features_gives_the_same_solution() -> None:
    """Solved in the space that the samples span, compared with solving for all weights: the optimum is unique."""
    features, labels = blobs(60, 200, 3, seed=3, spread=20.0)
    (features,) = standardise(features)
    probe_ = fit_linear_probe(features, labels, 3, seed=0, grid=(1e-2,))
    full = LogisticProblem(features, labels, 3).solve(1e-2)
    assert probe_.l2 == 1e-2
    assert probe_.weight.shape == (3, 200)
    reached, expected = (objective(features, labels, one.weight, one.bias, 1e-2) for one in (probe_, full))
    assert reached == pytest.approx(expected, abs=1e-6)
    test = standardise(blobs(60, 200, 3, seed=3, spread=20.0)[0], blobs(500, 200, 3, seed=4, spread=20.0)[0])[1]
    assert (probe_.predict(test) == full.predict(test)).float().mean() > 0.99


def test_warm_start_does_not_change_the_optimum() -> None:
    features, labels = blobs(500, 20, 5, seed=4, spread=3.0)
    (features,) = standardise(features)
    problem = LogisticProblem(features, labels, 5)
    cold, warm = problem.solve(1e-3), problem.solve(1e-3, start=problem.solve(1.0))
    assert objective(features, labels, warm.weight, warm.bias, 1e-3) == pytest.approx(
        objective(features, labels, cold.weight, cold.bias, 1e-3), abs=1e-5
    )


def test_strength_is_chosen_by_held_out_samples() -> None:
    """Noise features want much regularisation, a clean separable problem little."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    noise = torch.randn(400, 150, generator=generator)
    noise[:, :4] += 0.7 * F.one_hot(labels, 4)
    strong = fit_linear_probe(*(standardise(noise)[0], labels), 4, seed=0).l2
    clean, clean_labels = blobs(2000, 20, 8, seed=5, spread=2.0)
    weak = fit_linear_probe(*(standardise(clean)[0], clean_labels), 8, seed=0).l2
    assert strong > weak


def test_one_label_a_class_uses_the_stated_strength() -> None:
    features, labels = torch.eye(5), torch.arange(5)
    fitted = fit_linear_probe(features, labels, 5, seed=0)
    assert fitted.l2 == DEFAULT_L2
    assert fitted.predict(features).tolist() == [0, 1, 2, 3, 4]


def test_a_class_without_samples_is_never_predicted() -> None:
    features, labels = blobs(300, 10, 3, seed=6)
    labels = torch.tensor([0, 2, 5])[labels]
    (features,) = standardise(features)
    assert set(fit_linear_probe(features, labels, 7, seed=0).predict(features).tolist()) <= {0, 2, 5}


def test_standardise_uses_the_training_part_only() -> None:
    train, test = torch.randn(50, 4) * 3 + 1, torch.randn(20, 4)
    train[:, 2] = 7.0
    scaled, other = standardise(train, test)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    expected = (test - train.mean(0)) / train.std(0, correction=0)
    torch.testing.assert_close(other[:, [0, 1, 3]], expected[:, [0, 1, 3]])
    assert not other[:, 2].any()


def test_nearest_neighbours_equal_a_double_loop() -> None:
    train, labels = blobs(120, 6, 4, seed=7, spread=4.0)
    test, _ = blobs(45, 6, 4, seed=8, spread=4.0)
    fast = nearest_neighbours(train, labels, test, 4, neighbours=9, temperature=0.2, chunk=16)
    for index, sample in enumerate(test.double()):
        similarity = [float(sample @ other / sample.norm() / other.norm()) for other in train.double()]
        nearest = sorted(range(120), key=lambda i, s=similarity: -s[i])[:9]
        votes = [sum(np.exp(similarity[i] / 0.2) for i in nearest if labels[i] == k) for k in range(4)]
        assert fast[index] == int(np.argmax(votes))


def test_close_neighbours_outvote_many_far_ones() -> None:
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [-0.1, 1.0]])
    predicted = nearest_neighbours(train, torch.tensor([0, 1, 1, 1]), torch.tensor([[1.0, 0.05]]), 2)
    assert predicted.tolist() == [0]


def test_class_rank_numbers_each_class() -> None:
    labels = torch.tensor([2, 0, 2, 2, 0, 4])
    rank = class_rank(labels, seed=3)
    assert sorted(rank[labels == 2].tolist()) == [0, 1, 2]
    assert sorted(rank[labels == 0].tolist()) == [0, 1]
    assert rank[labels == 4].tolist() == [0]


def test_groups_are_held_out_whole_when_the_strength_is_chosen():
    """Three speakers, and a feature that names class and speaker at once: it says nothing of an unheard speaker."""
    generator = torch.Generator().manual_seed(0)
    labels, speakers = torch.arange(300) % 3, torch.arange(300) // 100
    voice = 4 * F.one_hot((labels + speakers) % 3, 3).float()  # which digit it stands for depends on who speaks
    honest = F.one_hot(labels, 3).float() + 1.5 * torch.randn(300, 3, generator=generator)
    features = standardise(torch.cat([voice * (speakers < 2)[:, None], honest], 1))[0]
    deaf = fit_linear_probe(features, labels, 3, seed=0)
    heard = fit_linear_probe(features, labels, 3, seed=0, groups=speakers)
    assert heard.l2 > deaf.l2
    assert heard.held_out > deaf.held_out
