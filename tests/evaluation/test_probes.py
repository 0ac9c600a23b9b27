"""Probes against independent solvers and closed forms, and their promises about the test split."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.evaluation.classifiers import (
    DEFAULT_L2,
    LogisticProblem,
    class_rank,
    fit_linear_probe,
    nearest_neighbours,
    standardise,
)
from mmssl.evaluation.features import (
    LabelledSet,
    extract,
    freshly_initialised,
    frozen,
    gather,
    raw_features,
    side_by_side,
)
from mmssl.evaluation.finetune import Classifier, FinetuneConfig, accuracy_of, finetune, layer_groups
from mmssl.evaluation.probe_report import print_report, save_report
from mmssl.evaluation.probes import PRETRAINED, RAW, UNTRAINED, ProbeReport, balanced_draw, probe
from mmssl.predictors.base import Batch, Predictor, View


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def blobs(count: int, dim: int, classes: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Overlapping Gaussian classes whose features are correlated and of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    features = centres[labels] + spread * torch.randn(count, dim, generator=generator)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(98))
    return features @ mixing * torch.logspace(-2, 2, dim), labels


# logistic regression


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


# nearest neighbours


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


# draws


def test_draws_are_balanced_nested_and_seeded() -> None:
    labels = torch.randint(10, (3000,), generator=torch.Generator().manual_seed(0))
    small, large = balanced_draw(labels, 25, seed=1), balanced_draw(labels, 1000, seed=1)
    assert small.tolist() == large[:25].tolist()
    assert len(set(large.tolist())) == 1000
    assert labels[large].bincount().tolist() == [100] * 10
    assert sorted(labels[small].bincount(minlength=10).tolist()) == [2] * 5 + [3] * 5
    assert small.tolist() != balanced_draw(labels, 25, seed=2).tolist()
    starts = [int(labels[balanced_draw(labels, 1, seed)[0]]) for seed in range(40)]
    assert len(set(starts)) > 4  # what is left over does not always go to the same classes


def test_draw_takes_all_of_a_rare_class() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3)
    assert labels[balanced_draw(labels, 20, seed=0)].bincount().tolist() == [17, 3]


def test_class_rank_numbers_each_class() -> None:
    labels = torch.tensor([2, 0, 2, 2, 0, 4])
    rank = class_rank(labels, seed=3)
    assert sorted(rank[labels == 2].tolist()) == [0, 1, 2]
    assert sorted(rank[labels == 0].tolist()) == [0, 1]
    assert rank[labels == 4].tolist() == [0]


# a predictor small enough for tests


@dataclass(frozen=True)
class StubConfig:
    """Shape of the stub."""

    pixels: int
    dim: int = 24


class StubPredictor(Predictor):
    """Two layers on flattened pixels; its decoder is not part of the encoder."""

    name = "stub"

    def __init__(self, config: StubConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.pixels, config.dim)
        self.block = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(0.5)
        self.decoder = nn.Linear(config.dim, config.pixels)

    def parameter_depths(self) -> dict[str, int]:
        depths = {"embedding": 0, "block": 1}
        return {name: depths[name.split(".")[0]] for name, _ in self.named_parameters() if "decoder" not in name}

    def encode_clean(self, batch: Batch) -> dict[str, Tensor]:
        hidden = torch.tanh(self.embedding(batch["image"].flatten(1).float() / 127.5 - 1))
        hidden = self.dropout(hidden)
        return {"mean": hidden + self.block(hidden), "cls": hidden}

    def perturb(self, batch: Batch) -> View:
        raise NotImplementedError

    def encode(self, view: View) -> Tensor:
        raise NotImplementedError

    def predict(self, latent: Tensor, view: View) -> Tensor:
        raise NotImplementedError

    def target(self, batch: Batch, view: View) -> Tensor:
        raise NotImplementedError

    def score(self, prediction: Tensor, target: Tensor, view: View) -> dict[str, Tensor]:
        raise NotImplementedError

    def reveal(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError


def pictures(count: int, seed: int, side: int = 6, noise: float = 60.0) -> LabelledSet:
    """Three classes of faint patterns in noise, as batches of 50 whose ids are shuffled."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    patterns = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(77)) * 30 + 128
    images = (patterns[labels] + noise * torch.randn(count, 3, side, side, generator=generator)).clamp(0, 255).byte()
    ids = torch.randperm(count, generator=generator)
    targets = torch.empty(count, dtype=torch.int64)
    targets[ids] = labels

    def batches() -> Iterator[dict[str, Tensor]]:
        for start in range(0, count, 50):
            part = slice(start, start + 50)
            yield {"id": ids[part], "epoch": torch.zeros_like(ids[part]), "image": images[part]}

    return LabelledSet(batches, targets.numpy(), ("round", "flat", "sharp"))


def stub(seed: int = 0, pixels: int = 108) -> StubPredictor:
    torch.manual_seed(seed)
    return StubPredictor(StubConfig(pixels))


# features


def test_features_come_in_order_in_eval_mode_and_without_gradient() -> None:
    predictor, samples = stub().train(), pictures(120, seed=0)
    features, labels = extract(side_by_side({"a": frozen(predictor), "b": raw_features}), samples)
    assert predictor.training
    assert set(features) == {"a.mean", "a.cls", "b.flat"}
    predictor.eval()
    batches = list(samples.batches())
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    expected = predictor.encode_clean(whole)["mean"]
    torch.testing.assert_close(features["a.mean"], expected.detach())
    assert not features["a.mean"].requires_grad
    assert labels.tolist() == [int(samples.targets[i]) for i in whole["id"].tolist()]


def test_raw_pixels_are_scaled_and_bounded() -> None:
    image = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 3, 2, 1)
    assert raw_features({"image": image})["flat"].tolist() == [[-1.0, 1.0] * 6]
    big = torch.full((2, 1, 128, 48), 51, dtype=torch.uint8)
    flat = raw_features({"image": big})["flat"]
    assert flat.shape == (2, 32 * 32)
    torch.testing.assert_close(flat, torch.full_like(flat, -0.6))
    with pytest.raises(UserError, match=r"no raw features.*id"):
        raw_features({"id": torch.zeros(1)})


def test_random_initialisation_is_seeded_and_leaves_the_generator_alone() -> None:
    predictor = stub()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (freshly_initialised(predictor, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.block.weight, again.block.weight)
    assert not torch.equal(first.block.weight, other.block.weight)
    assert not torch.equal(first.block.weight, predictor.block.weight)
    assert not first.training


def test_damaged_weights_are_named() -> None:
    predictor = stub()
    nn.init.constant_(predictor.block.weight, float("nan"))
    with pytest.raises(UserError, match="'mean' are not finite"):
        extract(frozen(predictor), pictures(60, seed=0))


def test_empty_set_is_refused() -> None:
    with pytest.raises(UserError, match="no labelled samples"):
        extract(raw_features, LabelledSet(lambda: [], torch.zeros(0, dtype=torch.int64), ("a",)))


def test_gather_returns_the_asked_samples_in_the_asked_order() -> None:
    samples = pictures(170, seed=1)
    ids = torch.cat([batch["id"] for batch in samples.batches()])
    positions = torch.tensor([160, 3, 51, 3, 99])
    batch = gather(samples, positions)
    assert batch["id"].tolist() == ids[positions].tolist()
    images = torch.cat([batch["image"] for batch in samples.batches()])
    assert torch.equal(batch["image"], images[positions])


# fine-tuning


def test_layer_decay_by_depth_and_no_decay_by_name() -> None:
    model = Classifier(stub(), "mean", 24, 3)
    groups = layer_groups(model, FinetuneConfig(layer_decay=0.5, weight_decay=0.1))
    found = {name: (group["scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    assert found == {
        "predictor.embedding.weight": (0.5, 0.1),
        "predictor.embedding.bias": (0.5, 0.0),
        "predictor.block.weight": (1.0, 0.1),
        "predictor.block.bias": (1.0, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
        "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.0),
    }


def test_finetuning_trains_a_copy_and_learns() -> None:
    predictor, train, test = stub(), pictures(400, seed=0), pictures(300, seed=1)
    weights = {name: tensor.clone() for name, tensor in predictor.state_dict().items()}
    batch = gather(train, torch.arange(400))
    labels = train.labels(batch)
    generator_state = torch.get_rng_state()
    config = FinetuneConfig(steps=60, batch_size=32)
    tuned = finetune(predictor, batch, labels, 3, seed=0, config=config)
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in predictor.state_dict().items())
    changed = {name for name, tensor in tuned.predictor.state_dict().items() if not torch.equal(tensor, weights[name])}
    assert changed == {"embedding.weight", "embedding.bias", "block.weight", "block.bias"}
    assert not tuned.training
    assert accuracy_of(tuned, test) > 0.8
    again = finetune(predictor, batch, labels, 3, seed=0, config=config)
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), again.parameters(), strict=True))


def test_finetuning_works_with_gradients_switched_off_outside() -> None:
    train = pictures(20, seed=0)
    batch = gather(train, torch.arange(20))
    with torch.no_grad():
        tuned = finetune(stub(), batch, train.labels(batch), 3, seed=0, config=FinetuneConfig(steps=2))
    assert tuned.head.weight.abs().max() > 0


def test_accuracy_of_is_the_share_of_right_answers() -> None:
    class Oracle(Classifier):
        def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
            return F.one_hot(torch.from_numpy(truth)[batch["id"]], 3)

    samples = pictures(110, seed=0)
    truth = samples.targets.copy()  # type: ignore[union-attr]
    truth[:22] = (truth[:22] + 1) % 3
    assert accuracy_of(Oracle(stub(), "mean", 24, 3), samples) == pytest.approx(0.8)


# the whole probe


@pytest.fixture(scope="module")
def report() -> ProbeReport:
    return small_probe(pictures(300, seed=1))


def small_probe(test: LabelledSet, **changes: Any) -> ProbeReport:
    settings = {
        "label": "edge",
        "seeds": 2,
        "labels": (2, 12, 10_000),
        "finetune_labels": (30,),
        "finetune_config": FinetuneConfig(steps=25, batch_size=16),
    }
    return probe(stub(), pictures(400, seed=0), test, **(settings | changes))


def test_probe_measures_every_representation_beside_its_baselines(report: ProbeReport) -> None:
    found = {(r.representation, r.feature, r.method, r.labels): len(r.accuracies) for r in report.results}
    expected = {}
    for representation, feature in (
        (PRETRAINED, "mean"),
        (PRETRAINED, "cls"),
        (UNTRAINED, "mean"),
        (UNTRAINED, "cls"),
        (RAW, "flat"),
    ):
        # a fixed feature and all labels leave nothing random
        many = 2 if representation == UNTRAINED else 1
        expected[representation, feature, "knn", 400] = many
        expected[representation, feature, "linear", 400] = many
        expected[representation, feature, "linear", 12] = 2
    expected[PRETRAINED, "mean", "finetune", 30] = expected[UNTRAINED, "mean", "finetune", 30] = 2
    assert found == expected  # 2 labels are fewer than classes, 10,000 more than there are
    assert (report.train_samples, report.test_samples, report.chance) == (400, 300, pytest.approx(1 / 3))


def test_probe_agrees_with_scikit_learn_on_raw_pixels(report: ProbeReport) -> None:
    """Same strength, same features: scikit-learn's accuracy within one point."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    (features, labels), (test, test_labels) = (
        extract(raw_features, samples) for samples in (pictures(400, seed=0), pictures(300, seed=1))
    )
    x, y = standardise(features["flat"], test["flat"])
    result = report.find(RAW, "flat", "linear")
    oracle = linear_model.LogisticRegression(C=1 / (result.l2[0] * 400), max_iter=2000, tol=1e-7)
    with threadpoolctl.threadpool_limits(1):
        score = oracle.fit(x.numpy(), labels.numpy()).score(y.numpy(), test_labels.numpy())
    assert result.mean == pytest.approx(score, abs=0.01)
    assert result.mean > 0.7


def test_more_labels_help(report: ProbeReport) -> None:
    means = [report.find(RAW, "flat", "linear", labels).mean for labels in (12, 400)]
    assert means == sorted(means)
    result = report.find(RAW, "flat", "linear", 12)
    assert result.std == pytest.approx(np.std(result.accuracies, ddof=1))
    assert report.find(RAW, "flat", "linear").std is None


def test_the_test_split_chooses_nothing(report: ProbeReport) -> None:
    """With the test labels turned round, every right answer becomes wrong and nothing else changes."""
    samples = pictures(300, seed=1)
    turned = LabelledSet(samples.batches, (samples.targets + 1) % 3, samples.names)
    other = small_probe(turned, labels=(12,), finetune_labels=())
    for two in other.results:
        one = report.find(two.representation, two.feature, two.method, two.labels)
        assert one.l2 == two.l2
        for right, wrong in zip(one.accuracies, two.accuracies, strict=True):
            assert right + wrong <= 1 + 1e-6


def test_probe_is_repeatable_and_finetuning_can_be_left_out(report: ProbeReport) -> None:
    lean = small_probe(pictures(300, seed=1), finetune_labels=())
    assert [r for r in report.results if r.method != "finetune"] == lean.results


def test_other_classes_in_the_test_part_are_refused() -> None:
    samples = pictures(60, seed=1)
    with pytest.raises(UserError, match=r"round, flat, sharp.*a, b, c"):
        small_probe(LabelledSet(samples.batches, samples.targets, ("a", "b", "c")))
    with pytest.raises(UserError, match="at least 1 seed"):
        small_probe(samples, seeds=0)


def test_report_as_table_json_and_figure(report: ProbeReport, tmp_path: Path) -> None:
    from PIL import Image
    from rich.console import Console

    console = Console(record=True, width=140, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    text = console.export_text()
    result = report.find(PRETRAINED, "mean", "linear", 12)
    assert f"{100 * result.mean:.1f} ± {100 * result.std:.1f}" in text  # type: ignore[operator]
    for word in ("'edge'", "20 nearest neighbours", "from scratch", "raw input", "all 400", "chance 33.3"):
        assert word in text
    numbers, figure = save_report(report, tmp_path / "new")
    assert numbers.name == "probe-edge.json"
    data = json.loads(numbers.read_text())
    assert data["names"] == ["round", "flat", "sharp"]
    row = next(r for r in data["results"] if r["method"] == "linear" and r["labels"] == 12)
    assert row["mean"] == pytest.approx(sum(row["accuracies"]) / 2)
    with Image.open(figure) as image:
        assert image.size[0] > 600
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 50  # something was drawn
