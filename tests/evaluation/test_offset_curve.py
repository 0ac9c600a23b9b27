"""Curves over shifts, their peaks, their confidence and their course, against brute force and made scores."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from mmssl.errors import UserError
from mmssl.evaluation.offset.answer import answer
from mmssl.evaluation.offset.calibration import fit_calibration, load_calibration
from mmssl.evaluation.offset.curve import (
    Curve,
    ShiftScores,
    bootstrap_frames,
    curve_of,
    read_peak,
    second_peak,
)
from mmssl.evaluation.offset.embedding import RowCollector, Windows, score_windows
from mmssl.evaluation.offset.injected import KnownClip, inject
from mmssl.evaluation.offset.question import Question

PREDICTOR = SimpleNamespace(
    similarity=lambda visual, audio: 10 * visual @ audio.T, config=SimpleNamespace(window=5), device=torch.device("cpu")
)


def moments(count: int, noise: float = 0.5, seed: int = 0) -> Windows:
    """Picture and sound of the same moments, each with noise of its own; neighbours are alike."""
    draw = torch.Generator().manual_seed(seed)
    common = torch.randn(count + 2, 16, generator=draw).unfold(0, 3, 1).sum(-1)
    senses = [common + noise * torch.randn(count, 16, generator=draw) for _ in range(2)]
    visual, audio = (torch.nn.functional.normalize(sense, dim=1) for sense in senses)
    return Windows(visual, audio, torch.ones(count), torch.ones(count))


def late(windows: Windows, frames: int) -> Windows:
    """The sound lags by so many frames: what belongs to window t is heard at t + frames."""
    return dataclasses.replace(windows, audio=windows.audio.roll(frames, 0))


def curve(*scores: float) -> Curve:
    score = torch.tensor(scores, dtype=torch.float32)
    return Curve(score.nan_to_num(0), ~score.isnan(), (~score.isnan()).float())


@pytest.fixture(scope="module")
def calibration():
    known = []
    for number in range(16):
        own, other = moments(71, 1.5, number), moments(71, 1.5, 100 + number)
        known.append(
            KnownClip(
                score_windows(PREDICTOR, own, own, 33),
                score_windows(PREDICTOR, own, other, 33),
                score_windows(PREDICTOR, own, own, 33),
                0.0,
                number,
            )
        )
    return fit_calibration(known, 5)


def test_the_curve_is_the_mean_over_the_pairs_that_exist_and_say_something():
    windows = moments(12)
    windows.visual_weight[3], windows.audio_weight[5:8] = 0, 0
    found = curve_of(score_windows(PREDICTOR, windows, windows, 4))
    for column, shift in enumerate(range(-4, 5)):
        pairs = [
            (t, t + shift) for t in range(12) if 0 <= t + shift < 12 and t != 3 and t + shift not in (5, 6, 7)
        ]  # fmt: skip
        mean = sum(10 * float(windows.visual[t] @ windows.audio[s]) for t, s in pairs) / len(pairs)
        assert float(found.pairs[column]) == len(pairs)
        assert float(found.score[column]) == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize(("frames", "offset"), [(7, -280), (-5, 200), (0, 0)])
def test_a_sound_that_lags_has_a_positive_shift_and_a_negative_offset(frames, offset, calibration):
    windows = late(moments(200), frames)
    assert int(read_peak(curve_of(score_windows(PREDICTOR, windows, windows, 15))).column) - 15 == frames
    found = answer(score_windows(PREDICTOR, windows, windows, 15), 200.0, 200.0, calibration, Question())
    assert found.offset_ms == pytest.approx(offset, abs=10)
    word = "in sync" if not offset else "lags" if offset < 0 else "leads"
    assert word in found.sentence
    assert found.interval_ms[0] <= offset <= found.interval_ms[1]


def test_shifts_with_few_pairs_are_not_judged():
    windows = moments(18)
    scores = score_windows(PREDICTOR, windows, windows, 15)
    valid = curve_of(scores).valid
    assert valid.sum() == 27  # 18 - |shift| pairs, at least a quarter of 18: shifts from -13 to 13
    assert not valid[[0, 1, 29, 30]].any()


def test_the_parabola_finds_the_vertex_between_frames():
    shifts = torch.arange(-5, 6)
    peak = read_peak(curve(*(3 - 0.1 * (shifts - 1.3) ** 2).tolist()))
    assert float(peak.frames) == pytest.approx(1.3, abs=1e-5)
    beside_nothing = curve(0, 0, 1, float("nan"), 0.9, 0, 0)
    assert float(read_peak(beside_nothing).frames) == -1


def test_margin_height_and_edge():
    peak = read_peak(curve(0, 1, 0, 4, 9, 5, 2, 1, 0))
    assert float(peak.margin) == 7  # the best that is further than a frame away has 2
    others = torch.tensor([0.0, 1, 0, 2, 1, 0])
    assert float(peak.height) == pytest.approx(float((9 - others.mean()) / others.std(unbiased=False)))
    assert not peak.at_edge
    assert read_peak(curve(0, 9, 0, 0, 0, 0)).at_edge
    assert read_peak(curve(float("nan"), 0, 9, 0, 0, 0, 0, 0)).at_edge


def test_periodic_motion_has_a_second_peak_a_period_away():
    shifts = torch.arange(-15, 16)
    found = second_peak(curve(*(torch.cos(2 * torch.pi * (shifts - 2) / 8) - 0.01 * (shifts - 2).abs()).tolist()))
    assert found is not None
    assert found.frames in (-6, 10)
    assert found.share > 0.85
    assert second_peak(curve(0, 0, 1, 2, 1, 0, 0)) is None


def test_the_bootstrap_narrows_with_evidence_and_declines_without():
    def width(count: int) -> float:
        windows = moments(count, 2.0)
        frames = bootstrap_frames(score_windows(PREDICTOR, windows, windows, 10), 5)
        return float(frames.quantile(0.95) - frames.quantile(0.05))

    assert width(1600) < width(100)
    short = moments(12)
    assert bootstrap_frames(score_windows(PREDICTOR, short, short, 5), 5) is None


def test_pieces_give_the_same_rows_as_the_whole():
    windows = late(moments(230), 3)
    collector = RowCollector(PREDICTOR, 15)
    for start, stop in ((0, 7), (7, 90), (90, 91), (91, 230)):
        collector.add(windows.part(start, stop))
    found, whole = collector.finish(), score_windows(PREDICTOR, windows, windows, 15)
    torch.testing.assert_close(found.score, whole.score)
    torch.testing.assert_close(found.weight, whole.weight)


def test_an_injected_shift_moves_the_sound():
    windows = moments(71)
    known = KnownClip(*(score_windows(PREDICTOR, windows, windows, 33),) * 3, 0.0, 0)
    sample = inject([known], 75, 5, repeats=30, seed=1)
    assert set(sample.truth.tolist()) <= {float(shift) for shift in range(-15, 16)}
    for place in (0, 7, 19):
        lag = int(sample.truth[place])  # what belongs to window t is now heard at t + lag
        for column, shift in enumerate(range(-15, 16)):
            pairs = [(t, t + shift - lag) for t in range(71) if 0 <= t + shift - lag < 71]
            mean = sum(10 * float(windows.visual[t] @ windows.audio[s]) for t, s in pairs) / len(pairs)
            assert float(sample.curve.score[place, column]) == pytest.approx(mean, abs=1e-3)
    assert sample.right(read_peak(sample.curve).frames).all()


def test_confidence_is_the_share_of_right_answers(calibration):
    fresh = []
    for number in range(40):
        own, other = moments(71, 1.5, 500 + number), moments(71, 1.5, 700 + number)
        fresh.append(
            KnownClip(
                score_windows(PREDICTOR, own, own, 33),
                score_windows(PREDICTOR, own, other, 33),
                score_windows(PREDICTOR, own, own, 33),
                0.0,
                number,
            )
        )
    answers = []
    for context in (5, 9, 15, 25, 75):
        for kind, repeats in (("own", 12), ("other", 4), ("outside", 4)):  # a careless user's files, as in the fit
            sample = inject(fresh, context, 5, repeats=repeats, seed=3, kind=kind)
            peak = read_peak(sample.curve)
            judged = sample.curve.valid.any(-1) & ~peak.at_edge
            answers.append((calibration.confidence(sample.curve)[judged], sample.right(peak.frames)[judged]))
    sure, right = (torch.cat(each) for each in zip(*answers, strict=True))
    assert float(sure.mean()) == pytest.approx(float(right.float().mean()), abs=0.05)
    assert float(right[sure > 0.9].float().mean()) > 0.95
    assert 0.3 < float(right[(sure > 0.3) & (sure < 0.7)].float().mean()) < 0.7
    swapped = inject(fresh, 75, 5, repeats=10, seed=3, kind="other")
    assert float((calibration.confidence(swapped.curve) < 0.5).float().mean()) > 0.95


def test_a_calibration_survives_its_file(calibration, tmp_path):
    assert load_calibration(tmp_path) is None
    calibration.save(tmp_path)
    assert load_calibration(tmp_path) == calibration


def scores_along(path: torch.Tensor, noise: float = 1.0) -> ShiftScores:
    """Every window's sound at a lag of its own."""
    windows = moments(len(path), noise)
    audio = windows.audio[(torch.arange(len(path)) - path).clamp(0, len(path) - 1)]
    return score_windows(PREDICTOR, windows, dataclasses.replace(windows, audio=audio), 15)


def test_drift_and_step_are_told_from_constant(calibration):
    count = 1000
    ask = lambda path: answer(scores_along(path), float(count), float(count), calibration, Question())  # noqa: E731
    constant = ask(torch.full((count,), 4))
    assert (constant.course, constant.votes) == ("constant", (40, 40))
    drift = ask(torch.linspace(-4.4, 5.4, count).round().long())
    assert drift.course == "drift"
    assert drift.course_ms == pytest.approx((170, -210), abs=45)
    assert "drifts" in drift.sentence
    step = ask(torch.where(torch.arange(count) < 600, -3, 5))
    assert step.course == "step"
    assert step.course_ms == (120, -200)
    assert step.course_at == pytest.approx(24, abs=1)


def test_no_answer_comes_with_its_reason(calibration):
    windows = moments(400)
    scores = score_windows(PREDICTOR, windows, windows, 15)
    ask = lambda scores, seen=400.0, heard=400.0: answer(scores, seen, heard, calibration, Question())  # noqa: E731
    assert ask(scores.rows(0, 15)).reason == "too short"
    assert ask(scores, heard=3.0).reason == "silence"
    assert ask(scores, seen=3.0).reason == "still picture"
    beyond = late(moments(400), 15)
    assert ask(score_windows(PREDICTOR, beyond, beyond, 15)).reason == "edge of the range"
    strangers = score_windows(PREDICTOR, windows, moments(400, seed=9), 15)
    found = ask(strangers)
    assert found.offset_ms is None
    assert found.reason in ("low confidence", "edge of the range")
    assert found.sentence.startswith("undetermined: ")


@pytest.mark.parametrize("wrong", [{"reach": 1}, {"least_confidence": 1.5}, {"lead_ms": -1.0}])
def test_impossible_questions_are_refused(wrong):
    with pytest.raises(UserError):
        dataclasses.replace(Question(), **wrong)
