"""`mmssl sync` on generated videos with exact truth: offsets, signs, reasons, repairs, exit codes."""

import json
import os
import signal

import av
import numpy as np
import pytest
from moving_square import (
    PER_FRAME,
    RATE,
    BrightnessMeter,
    envelope,
    pictures,
    sound,
    square_clip,
    square_video,
    write_video,
)

from mmssl import cli
from mmssl.data.video import ClipSettings, open_clips
from mmssl.errors import UserError
from mmssl.evaluation.offset import measure
from mmssl.evaluation.offset.calibration import calibrate, fit_calibration
from mmssl.evaluation.offset.injected import know_clips
from mmssl.evaluation.offset.measure import Synchroniser
from mmssl.evaluation.offset.question import Question
from mmssl.evaluation.offset.remux import shift_sound
from mmssl.evaluation.sync_runs import clip_reader

SETTINGS = ClipSettings(size=(64, 64))


@pytest.fixture(scope="module")
def calibration():
    return fit_calibration(know_clips(BrightnessMeter(), [square_clip(4, 50 + seed) for seed in range(8)]), 5)


@pytest.fixture(scope="module")
def synchroniser(calibration):
    return Synchroniser(BrightnessMeter().eval(), Question(), clip_reader(SETTINGS), calibration)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four files with known offsets, made once."""
    folder = tmp_path_factory.mktemp("videos")
    return {ms: square_video(folder / f"lead{ms}.mp4", lead_ms=ms) for ms in (0.0, 150.0, -200.0, 300.0)}


@pytest.fixture
def run(tmp_path, monkeypatch, calibration):
    """A run folder whose network is the hand-made one."""
    folder = tmp_path / "run"
    folder.mkdir()
    calibration.save(folder)
    monkeypatch.setattr("mmssl.evaluation.sync_runs.load_predictor", lambda _: BrightnessMeter().eval())
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.mark.parametrize("lead", [0.0, 150.0, -200.0, 300.0])
def test_known_offsets_come_back_and_are_repaired(synchroniser, videos, tmp_path, lead):
    found = synchroniser.measure(videos[lead]).answer
    assert found.offset_ms == pytest.approx(lead, abs=40)
    assert found.confidence > 0.9
    assert found.interval_ms[0] - 10 <= lead <= found.interval_ms[1] + 10
    if lead:
        assert ("leads" if lead > 0 else "lags") in found.sentence
        repaired = tmp_path / "repaired.mp4"
        shift_sound(videos[lead], repaired, found.offset_ms)
        assert synchroniser.measure(repaired).answer.offset_ms == pytest.approx(0, abs=40)


def test_sound_delayed_by_a_quarter_of_a_second_lags(synchroniser, tmp_path):
    """The sign, by samples that are moved and by a track that begins late."""
    loudness = envelope(5, 1)
    moved = write_video(tmp_path / "moved.mp4", pictures(loudness), sound(loudness, -250))
    stamped = write_video(tmp_path / "stamped.mp4", pictures(loudness), sound(loudness), late=(0.0, 0.25))
    for file in (moved, stamped):
        found = synchroniser.measure(file)
        assert found.answer.offset_ms == pytest.approx(-250, abs=40)
        assert "the sound lags the picture by 2" in found.sentence


def test_a_repair_moves_samples_and_copies_the_picture(tmp_path):
    """Whoever reads both tracks from their first frame on, without time stamps, gets them in sync."""
    loudness = envelope(5, 0)
    late = write_video(tmp_path / "late.mp4", pictures(loudness), sound(loudness), late=(0.0, 0.4))
    repaired = tmp_path / "repaired.mp4"
    shift_sound(late, repaired, -400.0)

    def tracks(file):
        with av.open(str(file)) as container:
            packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        with av.open(str(file)) as container:
            frames = list(container.decode(audio=0))
        return packets, frames[0].pts, np.concatenate([frame.to_ndarray()[0] for frame in frames])

    before, after = tracks(late), tracks(repaired)
    assert before[0] == after[0]
    assert after[1] == 0
    heard = after[2][: 100 * PER_FRAME].reshape(100, PER_FRAME).std(1)
    assert np.corrcoef(heard, loudness[:100])[0, 1] > 0.95


@pytest.mark.parametrize(("ending", "codec"), [(".mkv", "pcm_s16le"), (".mkv", "flac"), (".mov", "pcm_s16le")])
def test_lossless_sound_keeps_its_samples(tmp_path, ending, codec):
    loudness = envelope(2, 4)
    samples = sound(loudness, 100)
    file = write_video(tmp_path / f"a{ending}", pictures(loudness), samples, codec=codec)
    shift_sound(file, tmp_path / f"b{ending}", 100.0)
    with av.open(str(tmp_path / f"b{ending}")) as container:
        assert container.streams.audio[0].codec_context.name == codec
        found = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    delay = RATE // 10
    assert not found[:delay].any()
    scale = 1 if found.dtype == np.int16 else 65536
    np.testing.assert_array_equal(found[delay : delay + len(samples)] // scale, samples)


def test_originals_are_never_overwritten(videos, tmp_path):
    with pytest.raises(UserError, match="originals are never overwritten"):
        shift_sound(videos[150.0], videos[150.0], 100.0, overwrite=True)
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"mine")
    with pytest.raises(UserError, match="--overwrite"):
        shift_sound(videos[150.0], taken, 100.0)
    assert taken.read_bytes() == b"mine"
    shift_sound(videos[150.0], taken, 100.0, overwrite=True)
    assert taken.stat().st_size > 1000
    with pytest.raises(UserError, match="ending"):
        shift_sound(videos[150.0], tmp_path / "a.nonsense", 100.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.mp4"]  # nothing half written is left


def test_every_reason_is_named(synchroniser, tmp_path):
    loudness = envelope(4, 2)
    frames, samples = pictures(loudness), sound(loudness)
    still = np.repeat(frames[:1], len(frames), 0)
    files = {
        "no sound track": write_video(tmp_path / "mute.mp4", frames, None),
        "no picture": write_video(tmp_path / "blind.m4a", None, samples),
        "silence": write_video(tmp_path / "silent.mp4", frames, np.zeros_like(samples)),
        "still picture": write_video(tmp_path / "still.mp4", still, samples),
        "too short": write_video(tmp_path / "short.mp4", frames[:12], samples[: 12 * PER_FRAME]),
        "edge of the range": square_video(tmp_path / "far.mp4", lead_ms=600, seed=2),
    }
    for reason, file in files.items():
        found = synchroniser.measure(file)
        assert found.failure is None
        assert found.answer.reason == reason
        assert found.answer.offset_ms is None
    other = write_video(tmp_path / "other.mp4", frames, sound(envelope(4, 77), seed=77))
    assert synchroniser.measure(other).answer.reason in ("low confidence", "edge of the range")


def test_long_videos_are_read_in_pieces_without_a_seam(synchroniser, videos, monkeypatch):
    whole = synchroniser.measure(videos[-200.0]).answer
    asked = []
    monkeypatch.setattr(measure, "PIECE_SECONDS", 1.2)
    reader = synchroniser.read
    counted = Synchroniser(
        synchroniser.predictor, Question(), lambda *part: asked.append(part) or reader(*part), synchroniser.calibration
    )
    pieces = counted.measure(videos[-200.0]).answer
    assert len(asked) >= 5
    assert pieces.seconds == whole.seconds
    np.testing.assert_allclose(pieces.curve.score, whole.curve.score, atol=1e-3)
    assert pieces.offset_ms == pytest.approx(whole.offset_ms, abs=0.5)


def test_exit_codes_and_json(run, videos, tmp_path, capsys):
    def code(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main(["sync", str(run), *map(str, arguments)])
        return stop.value.code

    assert code(videos[0.0]) == 0
    out = capsys.readouterr().out
    assert "in sync" in out
    assert (run / "sync" / "lead0.0.mp4.png").stat().st_size > 10_000
    assert code(videos[150.0]) == 1
    assert code(videos[150.0], "--tolerance-ms", "200", "10") == 0
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(videos[0.0].read_bytes()[:700])
    mute = write_video(tmp_path / "mute.mp4", pictures(envelope(2, 1)), None)
    assert code(mute) == 3
    capsys.readouterr()
    assert code(videos[0.0], videos[150.0], mute, broken, "--json", "--out", tmp_path / "out") == 4
    captured = capsys.readouterr()
    said = json.loads(captured.out)  # nothing else is there
    assert [each["status"] for each in said["files"]] == ["in sync", "out of sync", "undetermined", "not read"]
    assert said["files"][1]["offset_ms"] == pytest.approx(150, abs=40)
    assert said["files"][2]["reason"] == "no sound track"
    assert said["files"][3]["failure"]
    assert str(broken) in captured.err
    assert json.loads((tmp_path / "out" / "sync.json").read_text()) == said
    assert code(run / "nothing.mp4") == 2
    assert code() == 2


def test_a_folder_is_repaired_and_measured_again(run, videos, tmp_path, capsys):
    folder = videos[0.0].parent
    with pytest.raises(SystemExit) as stop:
        cli.main(["sync", str(run), str(folder), "--fix", str(tmp_path / "fixed")])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.count("measured again: repaired") == 3
    assert "copied as it is" in out
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == sorted(p.name for p in videos.values())
    assert (tmp_path / "fixed" / "lead0.0.mp4").read_bytes() == videos[0.0].read_bytes()
    assert "4 files: 3 out of sync, 1 in sync" in " ".join(out.split())  # in the order of their names


def test_an_interruption_keeps_what_was_found(run, videos, monkeypatch, capsys):
    original, done = Synchroniser.measure, []

    def stop_at_second(self, path):
        if done:
            os.kill(os.getpid(), signal.SIGINT)
        done.append(path)
        return original(self, path)

    monkeypatch.setattr(Synchroniser, "measure", stop_at_second)
    # a shell that starts the tests in the background makes them ignore interruptions
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sync", str(run), *map(str, videos.values())])
    signal.signal(signal.SIGINT, before)
    assert stop.value.code == 130
    assert len(json.loads((run / "sync" / "sync.json").read_text())["files"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_calibrating_and_evaluating_from_the_command_line(run, tmp_path, capsys):
    for number in range(6):
        square_video(tmp_path / "data" / "val" / f"{number}.mp4", 4.0, seed=number)
    source = open_clips(tmp_path / "data", settings=SETTINGS)
    fitted = calibrate(run, BrightnessMeter().eval(), source)
    assert fitted.clips == 6
    assert fitted.cut["size"] == [64, 64]
    cli.main(["sync", str(run), "--calibrate", str(tmp_path / "data")])
    assert "6 held-out clips" in capsys.readouterr().out
    cli.main(["sync", str(run), "--evaluate", str(tmp_path / "data")])
    out = capsys.readouterr().out
    assert "SyncNet" in out
    assert "judged by a calibration on the other half" in " ".join(out.split())
    rows = json.loads((run / "sync" / "evaluation.json").read_text())["rows"]
    by_context = {row["context"]: row for row in rows}
    assert by_context[25]["right"] > 0.97
    assert by_context[75]["right"] == 1.0
    assert by_context[75]["median_error_ms"] < 10
    assert by_context[25]["chance"] == pytest.approx(3 / 31, abs=0.02)
    assert by_context[5]["right"] < by_context[15]["right"]
    assert by_context[75]["declined_swapped"] > 0.8
