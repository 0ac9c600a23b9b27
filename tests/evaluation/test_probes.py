"""The whole probe: what it measures, beside what, and its promises about the test split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from probe_subjects import pictures, stub

from mmssl.errors import UserError
from mmssl.evaluation.classifiers import standardise
from mmssl.evaluation.features import LabelledSet, extract, raw_features
from mmssl.evaluation.finetune import FinetuneConfig
from mmssl.evaluation.probe_report import print_report, save_report
from mmssl.evaluation.probe_results import BEST_LAYER, PRETRAINED, RAW, UNTRAINED, ProbeReport
from mmssl.evaluation.probes import balanced_draw, probe


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
    for representation, many in ((PRETRAINED, 1), (UNTRAINED, 2)):
        for feature in ("layer 1", "layer 2", BEST_LAYER):
            expected[representation, feature, "linear", 400] = many
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


def test_held_out_labels_choose_the_layer_for_all_encoders_alike(report: ProbeReport) -> None:
    """Layer 1 of the stub is the picture, layer 2 is constant, and layer 3 is the mean of random features."""
    for representation, seeds in ((PRETRAINED, 1), (UNTRAINED, 2)):
        best = report.find(representation, BEST_LAYER, "linear")
        assert best.layers == (1,) * seeds
        assert best.accuracies == report.find(representation, "layer 1", "linear").accuracies
        assert best.mean > report.find(representation, "layer 2", "linear").mean + 0.2
    assert report.find(RAW, "flat", "linear").layers == ()


def test_layers_can_be_left_out() -> None:
    lean = small_probe(pictures(300, seed=1), by_layer=False, finetune_labels=(), labels=())
    assert {result.feature for result in lean.results} == {"mean", "cls", "flat"}


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

    console = Console(record=True, width=80, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(report, console)
    text = console.export_text()
    result = report.find(PRETRAINED, "mean", "linear", 12)
    assert f"{100 * result.mean:.1f} ± {100 * result.std:.1f}" in text  # type: ignore[operator]
    assert "layer 2" not in text
    for word in (
        "best layer (1, 1)",
        "'edge'",
        "20 nearest neighbours",
        "random init (scratch)",
        "raw input",
        "all 400",
        "Chance 33.3",
    ):
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
