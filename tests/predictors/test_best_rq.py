"""BEST-RQ: targets by the paper, statistics of the data as references, and everything by recording."""

import math

import pytest
import torch
from tiny_audio import LENGTHS, best_rq, encoder_config, one_of, recordings
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.evaluation.features import freshly_initialised
from mmssl.nn import MelConfig
from mmssl.predictors import load_predictor
from mmssl.predictors.best_rq import nearest_visible

pytest.importorskip("torchaudio")


def test_targets_are_the_nearest_codes_of_normalised_projections():
    """Written out: for each codebook the code at the smallest distance once both have length 1."""
    model, batch = best_rq(), recordings(LENGTHS)
    view = model.perturb(batch)
    target = model.target(batch, view)
    features = view["features"][view["hidden"].ids[0]]
    for book in range(3):
        projected = F.normalize(features @ model.random_projection[:, 4 * book : 4 * book + 4], dim=-1)
        distance = (projected[:, None] - model.codes[book]).norm(dim=-1)
        assert torch.equal(target[:, book], distance.argmin(-1))
    torch.testing.assert_close(model.codes.norm(dim=-1), torch.ones(3, 16))


def test_the_loss_of_a_batch_is_that_of_its_recordings_one_by_one():
    model, batch = best_rq(), recordings(LENGTHS)
    model.observe([batch])
    for training in (True, False):
        model.train(training)
        whole = model(batch)
        names = [name for name in whole if name.startswith(("loss", "reference", "accuracy"))]
        total, count = dict.fromkeys(names, 0.0), 0.0
        for row in range(len(LENGTHS)):
            outcome = model(one_of(batch, row))
            count += float(outcome["count"])
            for name in names:
                total[name] += float((outcome[name] * outcome["count"]).detach())
        assert float(whole["count"]) == count
        for name in names:
            assert float(whole[name].detach()) == pytest.approx(total[name] / count, rel=1e-4), name


def test_nothing_of_a_hidden_step_is_seen():
    """Replaced before any convolution: what is hidden could be anything else (statistics are those of the data)."""
    encoder = encoder_config("mel")
    model = best_rq(encoder=type(encoder)(encoder.trunk, MelConfig(20, 2, statistics="data"), 16_000, 16, 4)).eval()
    batch = recordings([12_000] * 3)
    view = model.perturb(batch)
    changed = torch.where(view["frames"].take(view["hidden"].mask)[:, None], 7.0, view["features"])
    with torch.no_grad():
        first, second = model.encode(view), model.encode(view | {"features": changed})
    assert torch.equal(first, second)


def test_reference_is_the_cross_entropy_of_how_often_codes_occur():
    model, batch = best_rq().eval(), recordings(LENGTHS)
    assert float(model(batch)["reference"]) == pytest.approx(math.log(16), rel=1e-5)
    data = [recordings(LENGTHS, seed) for seed in (1, 2)]
    model.observe(data)
    counts = torch.ones(3, 16)
    for each in data:
        codes = model.code_of(model.perturb(each)["features"])
        for book in range(3):
            counts[book] += torch.bincount(codes[:, book], minlength=16)
    share = counts / counts.sum(-1, keepdim=True)
    target = model.target(batch, model.perturb(batch))
    expected = -torch.stack([share[book][target[:, book]].log() for book in range(3)]).mean()
    before = float(model(batch)["reference"])
    assert before == pytest.approx(float(expected), rel=1e-4)
    model.train()(batch)
    assert float(model.eval()(batch)["reference"]) == before  # frozen


def test_repetition_beats_code_frequencies_where_sounds_last():
    model = best_rq(span=4).eval()
    time = torch.arange(32_000) / 16_000
    batch = recordings([32_000] * 4)
    pitch = torch.tensor([300.0, 900.0, 2000.0, 4000.0]).repeat_interleave(8000)
    batch["audio"] = (2 * math.pi * pitch * time).sin() + 0.001 * batch["audio"]
    model.observe([batch])
    assert (model.repeats[:, 0] > 0.5).all()
    outcome = model(batch)
    assert float(outcome["reference_repeat"]) < 0.7 * float(outcome["reference"])
    noise = recordings([32_000] * 4)
    noise["audio"] = 0.1 * torch.randn(4, 32_000)
    model.observe([noise])
    outcome = model(noise)
    assert float(outcome["reference_repeat"]) == pytest.approx(float(outcome["reference"]), rel=0.05)


def test_nearest_visible_steps():
    from mmssl.nn import Frames

    frames = Frames.of(torch.tensor([7, 4, 2]), 7)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 1], [1, 1, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]).bool()
    place, distance = nearest_visible(mask, frames)
    assert place[0].tolist() == [0, 1, 1, 1, 5, 5, 5]
    assert distance[0].tolist() == [0, 0, 1, 2, 1, 0, 1]
    assert place[1, :4].tolist() == [2, 2, 2, 2]
    assert (distance[2] > frames.width).all()


def test_statistics_of_the_data_come_before_codes():
    encoder = encoder_config("mel")
    model = best_rq(encoder=type(encoder)(encoder.trunk, MelConfig(20, 2, statistics="data"), 16_000, 16, 4))
    data = [recordings(LENGTHS, seed) for seed in (1, 2)]
    model.observe(data)
    features = torch.cat([model.perturb(each)["features"] for each in data])
    assert abs(float(features.mean())) < 0.05
    assert float(features.std()) == pytest.approx(1, abs=0.05)


def test_it_loads_as_it_was_saved(tmp_path):
    model, batch = best_rq().eval(), recordings(LENGTHS)
    model.observe([batch])
    model.save(tmp_path)
    again = load_predictor(tmp_path)
    assert torch.equal(again.random_projection, model.random_projection)
    assert {n: float(v.detach()) for n, v in again(batch).items()} == {
        n: float(v.detach()) for n, v in model(batch).items()
    }


def test_reveal_shows_codes_at_hidden_steps_only():
    model, batch = best_rq(), recordings(LENGTHS)
    shown = model.reveal(batch)
    hidden = shown["hidden"]
    assert ((shown["target"] >= 0).all(-1) == hidden).all()
    assert ((shown["predicted"] >= 0).all(-1) == hidden).all()
    assert ((shown["probability"] > 0).all(-1) == hidden).all()


def test_features_do_not_depend_on_neighbours():
    model, batch = best_rq().eval(), recordings(LENGTHS)
    mean, layers = model.encode_clean(batch)["mean"], model.encode_layers(batch)
    for row in range(len(LENGTHS)):
        alone = one_of(batch, row)
        torch.testing.assert_close(model.encode_clean(alone)["mean"][0], mean[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            model.encode_layers(alone)["layer 1"][0], layers["layer 1"][row], rtol=1e-4, atol=1e-4
        )


def test_evaluation_is_frozen_and_recordings_of_a_step_are_left_alone():
    model = best_rq().eval()
    outcome, again = model(recordings(LENGTHS)), model(recordings(LENGTHS))
    assert all(torch.equal(outcome[name], again[name]) for name in outcome)
    short = model(recordings([4000, 700, 100]))
    assert all(value.isfinite() for value in short.values())


def test_it_learns_sounds_that_last():
    torch.manual_seed(0)
    model = best_rq()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def tones(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        pitch = 200 + 5000 * torch.rand(8, 2, generator=generator)
        phase = 2 * math.pi * (pitch.repeat_interleave(8100, 1) / 16_000).cumsum(1)
        batch = recordings([16_200] * 8, seed)
        return batch | {"audio": phase.sin() + 0.01 * batch["audio"], "id": batch["id"] + 8 * seed}

    model.observe([tones(seed) for seed in range(2000, 2008)])
    for step in range(60):
        model(tones(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(model.eval()(tones(1000))["skill"]) > 0.15


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": encoder_config("group")}, "mel front end"),
        ({"codebook_size": 1}, "codebook_size"),
        ({"mask_fraction": 0.0}, "mask_fraction"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        best_rq(**changes)


@pytest.mark.gpu
def test_the_gpu_hides_the_same_and_gets_the_same_loss_without_waiting():
    model, batch = best_rq(), recordings(LENGTHS)
    model.observe([batch])
    here = model(batch)
    model.cuda()
    there = {name: value.cuda() for name, value in batch.items()}
    for name, value in model(there).items():
        assert float(value.detach()) == pytest.approx(float(here[name].detach()), rel=1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(there)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_kept_steps_are_predicted_in_training_though_they_are_seen():
    model, batch = best_rq(keep_fraction=0.4, mask_fraction=0.3, span=2), recordings(LENGTHS)
    model.observe([batch])
    view = model.train().perturb(batch)
    frames, hidden, asked = view["frames"], view["hidden"], view["asked"]
    both = torch.zeros_like(frames.take(frames.real))
    both[asked.ids[0]] = True
    both = frames.put_back(both.float()).bool()
    assert (hidden.mask <= both).all()
    kept = both & ~hidden.mask
    # two draws of which neither looks at the other: 0.4 of what the first has left
    assert 0.15 < float(kept.sum() / frames.real.sum()) < 0.45
    assert torch.equal(hidden.mask, best_rq(mask_fraction=0.3, span=2).train().perturb(batch)["hidden"].mask)
    outcome = model(batch)
    assert float(outcome["count"]) == float(both.sum())
    assert float(outcome["mask_coverage"]) == pytest.approx(float(hidden.mask.sum() / frames.real.sum()))
    view = model.eval().perturb(batch)
    assert torch.equal(view["asked"].ids, view["hidden"].ids)


def test_codes_of_cepstra_do_not_hear_the_pitch_and_have_targets_of_their_own():
    model, batch = best_rq(cepstra=6), recordings(LENGTHS)
    assert model.random_projection.shape == (6 * 2, 3 * 4)
    model.observe([batch])
    view = model.eval().perturb(batch)
    mel = model.front_end.spectrogram_of(batch["audio"])
    cepstra = model.front_end.cepstra(mel, batch["length"], view["frames"], 6)
    wanted = model.code_of(cepstra)[view["hidden"].ids[0]]
    assert torch.equal(model.target(batch, view), wanted)
    # ripples as narrow as harmonics are beyond the first cepstra
    ripple = torch.cos(math.pi * torch.arange(20.0) * 0.9)
    changed = model.front_end.cepstra(mel + ripple, batch["length"], view["frames"], 6)
    torch.testing.assert_close(changed, cepstra, rtol=1e-3, atol=1e-3)


def test_variation_is_for_training_and_for_input_and_target_alike():
    model, batch = best_rq(variation=1.0), recordings(LENGTHS)
    plain = best_rq().perturb(batch)["features"]
    assert torch.equal(model.eval().perturb(batch)["features"], plain)
    varied = model.train().perturb(batch)
    assert float((varied["features"] - plain).abs().mean()) > 0.1
    assert varied["coded"] is varied["features"]


def test_an_untrained_twin_normalises_as_the_trained_one():
    encoder = encoder_config("mel")
    front_end = MelConfig(20, 2, prior_seconds=0.5)
    model = best_rq(encoder=type(encoder)(encoder.trunk, front_end, 16_000, 16, 4)).eval()
    batch = recordings(LENGTHS)
    model.observe([batch])
    twin = freshly_initialised(model, 3)
    torch.testing.assert_close(twin.perturb(batch)["features"], model.perturb(batch)["features"])
    assert not torch.equal(twin.head.weight, model.head.weight)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"keep_fraction": 1.0}, "keep_fraction"), ({"cepstra": 21}, "cepstra"), ({"variation": -1.0}, "variation")],
)
def test_impossible_settings_of_little_data_are_refused(changes, named):
    with pytest.raises(UserError, match=named):
        best_rq(**changes)
