"""The predictor of the pairing: its loss by brute force, what weighs nothing, controls, and a shortcut on purpose."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_clips import CLIP, SAMPLES, sync_model, talking, train
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.predictors import load_predictor
from mmssl.predictors.audio_visual import loudness, moving, sounding
from mmssl.predictors.audio_visual_sync import SHIFT_REACH
from mmssl.predictors.candidates import curriculum, draw_one, lags, shift_candidates, shift_curve, shift_hits

pytest.importorskip("torchaudio")


@pytest.fixture(scope="module")
def trained():
    """Knows within 90 steps that an open mouth is loud."""
    model = sync_model()
    train(model, [talking(8, seed=seed) for seed in range(1, 9)], 90)
    return model


def top1(model, batch) -> tuple[float, float]:
    """Hits and chance over all windows, whether they weigh anything or not."""
    with torch.no_grad():
        found = model.embed(batch)
        hit, chance = shift_hits(
            model.similarity(found.visual, found.audio), lags(found.visual.shape[1], found.visual.device), SHIFT_REACH
        )
    return float(hit.mean()), float(chance.mean())


@pytest.mark.parametrize("negatives", ["shifts", "clips", "both"])
def test_loss_reference_and_accuracy_are_those_of_the_definition(negatives):
    model, batch = sync_model(negatives=negatives).eval(), talking(3, frames=12)
    batch["clip"] = torch.tensor([5, 5, 9])  # two windows of one file are no negatives of each other
    batch["audio"][1, : 7 * SAMPLES] = 0  # silence does not ask
    with torch.no_grad():
        outcome, found = model(batch), model.embed(batch)
    windows = 8
    losses, chances, rights = [], [], []
    for clip in range(3):
        for t in range(windows):
            if not found.visual_weight[clip, t] * found.audio_weight[clip, t]:
                continue
            pairs = [[], []]
            for way, (asking, asked) in enumerate([(found.visual, found.audio), (found.audio, found.visual)]):
                wrong = [(clip, u) for u in range(windows) if abs(u - t) >= 2] if negatives != "clips" else []
                if negatives != "shifts":
                    wrong += [(other, t) for other in range(3) if batch["clip"][other] != batch["clip"][clip]]
                pairs[way] = [float(10 * asking[clip, t] @ asked[c, u]) for c, u in [(clip, t), *wrong]]
            losses.append(sum(-math.log(math.exp(p[0]) / sum(map(math.exp, p))) for p in pairs) / 2)
            chances.append(math.log(len(pairs[0])))
            rights.append(sum(p[0] == max(p) for p in pairs) / 2)
    assert len(losses) == int(outcome["count"]) < 24
    assert float(outcome["loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert float(outcome["reference"]) == pytest.approx(sum(chances) / len(chances), rel=1e-5)
    assert float(outcome["accuracy"]) == pytest.approx(sum(rights) / len(rights), abs=1e-5)


def test_correspondence_is_the_logistic_loss_of_a_right_and_a_wrong_pair():
    model, batch = sync_model(objective="correspondence").eval(), talking(2, frames=12)
    with torch.no_grad():
        model.bias.fill_(0.7)
        view = model.perturb(batch)
        prediction, allowed = model.predict(model.encode(view), view), model.target(batch, view)
        outcome, found = model(batch), model.embed(batch)
        noise = view["key"].uniform(64, 0x73796E6300).view(2, 8, 8)
    eye = torch.eye(8, dtype=torch.bool)
    wrong = draw_one(allowed & ~eye, noise)
    assert ((wrong - torch.arange(8)).abs() >= 2).all()
    losses = []
    for clip, t in (view["weight"] > 0).nonzero().tolist():
        right = float(10 * found.visual[clip, t] @ found.audio[clip, t]) + 0.7
        other = float(10 * found.visual[clip, t] @ found.audio[clip, wrong[clip, t]]) + 0.7
        losses.append((math.log1p(math.exp(-right)) + math.log1p(math.exp(other))) / 2)
    assert float(outcome["loss"]) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert float(outcome["reference"]) == pytest.approx(math.log(2))
    assert prediction.shape == (2, 2, 8, 8)


def test_a_window_one_frame_away_is_neither_right_nor_wrong():
    allowed = shift_candidates(lags(6, torch.device("cpu")))
    assert allowed[2].tolist() == [True, False, True, False, True, True]
    score = torch.full((1, 40, 40), 0.0)
    score[0, torch.arange(39), torch.arange(1, 40)] = 1.0  # all a frame late
    hit, chance = shift_hits(score, lags(40, score.device), 15)
    assert hit[0, :39].all()
    assert float(chance[20]) == pytest.approx(3 / 31)  # the published chance
    assert float(chance[0]) == pytest.approx(2 / 16)
    score = score.roll(1, 2)  # two frames
    assert not shift_hits(score, lags(40, score.device), 15)[0][0, :38].any()


def test_draws_are_even_among_the_allowed():
    allowed = torch.tensor([True, False, True, True]).expand(1, 6000, 4)
    found = draw_one(allowed, torch.rand(1, 6000, 4, generator=torch.Generator().manual_seed(0)))
    assert (torch.bincount(found[0], minlength=4) / 6000).tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.03)


def test_the_mean_over_shifts_counts_pairs_that_exist_and_weigh():
    torch.manual_seed(0)
    score, weight = torch.randn(2, 7, 7), (torch.rand(2, 7, 7) < 0.6).float()
    curve, pairs = shift_curve(score, weight, 8)
    for clip in range(2):
        for shift in range(-8, 9):
            there = [(t, t + shift) for t in range(7) if 0 <= t + shift < 7 and weight[clip, t, t + shift]]
            assert pairs[clip, shift + 8] == len(there)
            mean = sum(float(score[clip, t, u]) for t, u in there) / max(len(there), 1)
            assert float(curve[clip, shift + 8]) == pytest.approx(mean, abs=1e-5)


def test_negatives_come_nearer_over_a_curriculum():
    seen = [curriculum(torch.tensor(float(step)), 90, 40) for step in range(100)]
    assert [bool(shifts) for _, shifts in seen] == [step >= 30 for step in range(100)]
    nearest = [float(near) for near, _ in seen]
    assert nearest[30] == 20
    assert nearest[90:] == [2.0] * 10
    assert all(a >= b for a, b in pairwise(nearest))
    model, batch = sync_model(negatives="both", curriculum_steps=90).train(), talking(2, frames=20)

    def wrong() -> torch.Tensor:
        view = model.perturb(batch)
        return model.target(batch, view)[0, 8]

    assert wrong().tolist() == [t == 8 for t in range(16)] + [False, True]
    model.updates.fill_(60.0)
    assert wrong()[:16].tolist() == [t == 8 or abs(t - 8) >= 5 for t in range(16)]
    model.eval()
    assert wrong()[:16].tolist() == [t == 8 or abs(t - 8) >= 2 for t in range(16)]


def test_silence_and_still_pictures_weigh_nothing():
    """Known by construction: frames 10 to 19 are silent but for faint noise, frames 20 on still but for a blink."""
    batch = talking(1, frames=40)
    torch.manual_seed(0)
    batch["audio"] = (3000 * torch.randn(1, 40 * SAMPLES)).short()
    batch["audio"][0, 10 * SAMPLES : 20 * SAMPLES] = (20 * torch.randn(10 * SAMPLES)).short()
    batch["video"][0, 20:] = batch["video"][0, 20]
    batch["video"][0, 33, 0, 2:6, 2:6] = 255
    heard = sounding(loudness(batch["audio"], SAMPLES), 5, 20.0)[0]
    seen = moving(batch["video"], 5, 0.5)[0]
    assert heard.nonzero()[:, 0].tolist() == [t for t in range(36) if t < 10 or t >= 16]
    assert seen.nonzero()[:, 0].tolist() == [t for t in range(36) if t < 20 or 29 <= t <= 33]
    assert not sounding(loudness(torch.zeros(1, 9 * SAMPLES, dtype=torch.int16), SAMPLES), 5, 20.0).any()
    model = sync_model()
    outcome = model({**batch, "audio": torch.zeros_like(batch["audio"])})
    outcome["loss"].backward()
    assert float(outcome["loss"].detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_it_learns_the_pairing_and_the_controls_score_chance(trained):
    """Held-out clips; then the same without a picture, without sound, and with another clip's sound."""
    batch = talking(24, seed=99)
    hit, chance = top1(trained, batch)
    assert hit > 0.65 > 4 * chance
    grey, quiet = torch.full_like(batch["video"], 128), torch.zeros_like(batch["audio"])
    for control in ({"video": grey}, {"audio": quiet}, {"audio": batch["audio"].roll(1, 0)}):
        blank, _ = top1(trained, batch | control)
        assert blank < chance + 0.08, control.keys()
    for control in ({"video": grey}, {"audio": quiet}):
        found = trained.embed(batch | control)
        assert not (found.visual_weight * found.audio_weight).any()


def test_whole_clips_are_found_by_their_sound(trained):
    batch = talking(12, seed=98)
    clips, found = trained.clip_embedding(batch), trained.embed(batch)
    agreement = clips.visual @ clips.audio.T
    assert (agreement.argmax(1) == torch.arange(12)).sum() >= 11
    seen, heard = found.visual_weight[3].sqrt(), found.audio_weight[7].sqrt()
    by_hand = ((found.visual[3] * found.audio[7]).sum(1) * seen * heard).sum()
    scale = found.visual_weight[3].sum().sqrt() * found.audio_weight[7].sum().sqrt()
    assert float(agreement[3, 7]) == pytest.approx(float(by_hand / scale), abs=1e-5)


def test_the_sound_is_located_at_the_mouth(trained):
    """The mouth lies at the lower left, a light that flickers on its own at the upper right."""
    where = trained.locate(talking(8, seed=97))
    assert where.shape == (8, 26, 4, 4)
    mean = where.mean((0, 1))
    row, column = divmod(int(mean.argmax()), 4)
    assert row >= 2
    assert column <= 2
    assert mean[:2, 2:].max() < 0.5 * mean.max()


def coded(count: int, seed: int) -> dict[str, torch.Tensor]:
    """Clips whose sound has nothing to do with their picture, but traces of coding at each video frame."""
    batch = talking(count, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    noise = 0.1 * torch.randn(count, 30, SAMPLES, generator=generator)
    noise[:, :, :160] *= 0.1  # blocks fade in
    batch["audio"] = (noise.flatten(1) * 32767).clamp(-32767, 32767).short()
    return batch


@pytest.mark.parametrize("off_grid", [True, False])
def test_the_off_grid_shortcut_looks_like_learning(off_grid):
    """Wrong answers cut between frames are told by the coding: accuracy rises, and no moment is known any better."""
    model = sync_model(objective="correspondence", off_grid_negatives=off_grid)
    train(model, [coded(8, seed) for seed in range(1, 7)], 20)
    with torch.no_grad():
        outcome = model(coded(16, 99))
    assert float(outcome["shift_top1"]) < float(outcome["shift_chance"]) + 0.08
    if off_grid:
        assert float(outcome["accuracy"]) > 0.85
        assert float(outcome["skill"]) > 0.4
    else:
        assert abs(float(outcome["accuracy"]) - 0.5) < 0.08


def test_variations_change_no_moment_and_evaluation_has_none():
    model, batch = sync_model(), talking(4)
    model.train()
    first, again = model.perturb(batch), model.perturb(batch)
    assert torch.equal(first["video"], again["video"])  # by seed, epoch and id alone
    other = model.perturb(batch | {"epoch": batch["epoch"] + 1})
    assert not torch.equal(first["video"], other["video"])
    assert not torch.equal(first["mel"], other["mel"])
    # the frame-to-frame change of the picture as a whole goes with that of the original
    change = batch["video"].float().mean((2, 3, 4)).diff(dim=1)
    seen = other["video"].mean((2, 3, 4)).diff(dim=1)
    for row in range(4):
        assert float(torch.corrcoef(torch.stack([change[row], seen[row]]))[0, 1]) > 0.5
    model.eval()
    view = model.perturb(batch)
    inner = batch["video"][..., 2:18, 2:18].float()
    expected = (inner - inner.mean((1, 2, 3, 4), keepdim=True)) / inner.std((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(view["video"], expected, atol=1e-3, rtol=1e-3)


def test_what_is_saved_comes_back(trained, tmp_path):
    trained.save(tmp_path)
    again, batch = load_predictor(tmp_path), talking(2, seed=96)
    assert again.config == trained.config
    for ours, theirs in zip(trained.embed(batch), again.embed(batch), strict=True):
        assert torch.equal(ours, theirs)
    features = again.encode_clean(batch)
    assert features["mean"].shape == (2, 48)
    shown = again.reveal(batch)
    best = shown["curve"].argmax(1) - SHIFT_REACH
    assert (best.abs() <= 1).all()
    trained.train()
    trained.embed(batch)
    assert trained.training
    trained.eval()


def test_similarity_is_the_scaled_cosine():
    model = sync_model()
    visual, audio = F.normalize(torch.randn(3, 24), dim=-1), F.normalize(torch.randn(5, 24), dim=-1)
    with torch.no_grad():
        torch.testing.assert_close(model.similarity(visual, audio), 10 * visual @ audio.T)
        model.log_scale.fill_(9.0)
        assert float(model.scale) == pytest.approx(100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 1}, "window must be at least 2"),
        ({"margin": 7}, "leaves less than 8 pixels"),
        ({"zoom": 0.7}, "zoom must be"),
        ({"off_grid_negatives": True}, "weakness of correspondence"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        sync_model(**changes)


def test_clips_of_another_shape_are_refused():
    model, batch = sync_model(), talking(2)
    with pytest.raises(UserError, match="settings of its run"):
        model({**batch, "video": batch["video"][..., 1:]})
    with pytest.raises(UserError, match="samples of sound"):
        model({**batch, "audio": batch["audio"][:, 1:]})
    with pytest.raises(UserError, match="no wrong moment"):
        model(talking(2, frames=6))
    assert replace(CLIP, channels=3).channels == 3


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_that_on_the_cpu_without_waiting():
    model, batch = sync_model(negatives="both").eval(), talking(3)
    here = model(batch)
    model.cuda()
    there = {name: value.cuda() for name, value in batch.items()}
    for name, value in model(there).items():
        assert float(value.detach()) == pytest.approx(float(here[name].detach()), rel=1e-2, abs=1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        model.train()(there)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
