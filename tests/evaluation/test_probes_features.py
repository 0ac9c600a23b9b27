"""Frozen features, their baselines, and fine-tuning."""

from collections.abc import Mapping

import pytest
import torch
from probe_subjects import pictures, stub
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
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


def test_features_do_not_keep_what_they_were_cut_from():
    """A cls token is a view of all tokens; held on to, it would keep them all in memory."""
    tokens = torch.zeros(4, 1000, 3)
    whole = tokens.untyped_storage()
    batch = {"id": torch.arange(4), "epoch": torch.zeros(4, dtype=torch.int64)}
    samples = LabelledSet(lambda: [batch], torch.zeros(4, dtype=torch.int64), ["one"])
    features, _ = extract(lambda _: {"cls": tokens[:, 0]}, samples)
    assert features["cls"].untyped_storage().nbytes() == 4 * 3 * 4
    assert features["cls"].untyped_storage().data_ptr() != whole.data_ptr()
