"""Files with known truth: every frame shows the picture, and every sample is the one, that the clock says."""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from video_files import LEVELS, RATE, level, number_of, plain, ramp, write_video

from mmssl.data.video import ClipSettings, pictures, read_clip
from mmssl.data.video.clip import Clip
from mmssl.data.video.limits import VideoLimits
from mmssl.errors import UserError

SMALL = ClipSettings(size=(12, 16))


def check(clip: Clip, times: np.ndarray, sound_start: float = 0.0, exact: bool = True) -> None:
    """Pictures by their grey level, sound by its ramp, against the definition."""
    instants = clip.start + np.arange(len(clip)) / clip.settings.fps
    expected = [int(np.flatnonzero(times <= instant + 5e-4)[-1]) for instant in instants]
    assert [number_of(picture) for picture in clip.video] == [number % LEVELS for number in expected]
    assert np.abs(clip.times - times[expected]).max() < 1e-3
    first = round((clip.start - sound_start) * RATE)
    assert len(clip.audio) == len(clip) * clip.settings.samples_per_frame
    if exact:
        assert (clip.audio == (first + np.arange(len(clip.audio))) % 20_000).all()


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mov", "libx264"), ("mkv", "libx264"), ("avi", "mjpeg"), ("mp4", "mpeg4"), ("webm", "libvpx")],
)
def test_both_streams_from_the_start(tmp_path: Path, ending: str, codec: str) -> None:
    sound = {"mp4": "aac", "webm": "libopus"}.get(ending, "pcm_s16le")
    options = {"crf": "1", "preset": "ultrafast"} if codec == "libx264" else {"qmin": "2", "qmax": "4", "b": "1M"}
    clip = read_clip(plain(tmp_path / f"a.{ending}", codec=codec, sound=sound, options=options), SMALL)
    assert len(clip) == 50
    assert clip.start == 0
    check(clip, np.arange(50) / 25, exact=sound == "pcm_s16le")
    assert clip.streams.frames == 50
    assert clip.streams.offset == 0
    assert clip.repeated == 0
    assert (clip.streams.height, clip.streams.width) == (48, 64)


def test_b_frames_come_in_the_order_of_presentation(tmp_path: Path) -> None:
    options = {"crf": "1", "bf": "4", "b_strategy": "0", "preset": "fast"}
    path = plain(tmp_path / "b.mov", options=options)
    import av
    from av.video.frame import PictureType

    with av.open(str(path)) as file:
        assert PictureType.B in {PictureType(frame.pict_type) for frame in file.decode(video=0)}
    check(read_clip(path, SMALL), np.arange(50) / 25)


@pytest.mark.parametrize(("late_sound", "late_picture"), [(0.4, 0.0), (0.0, 0.4), (0.413, 0.05), (0.0, 0.013)])
def test_a_late_track_begins_the_clip_where_both_exist(tmp_path: Path, late_sound: float, late_picture: float) -> None:
    times = late_picture + np.arange(50) / 25
    path = write_video(tmp_path / "late.mkv", times, ramp(2 * RATE), sound_start=late_sound)
    clip = read_clip(path, SMALL)
    stamps = np.round(times, 3)
    begins = stamps[stamps >= max(late_sound, late_picture) - 5e-4][0]
    assert clip.start == pytest.approx(begins, abs=1e-9)
    check(clip, stamps, late_sound)
    ends = min(times[-1] + 0.04, late_sound + 2)
    assert len(clip) == int((ends - clip.start) * 25 + 0.02)
    assert clip.streams.offset == pytest.approx(late_sound - late_picture, abs=1e-3)


@pytest.mark.parametrize("fps", [10.0, 24.0, 30.0, 60.0])
def test_other_rates_are_resampled_on_the_time_line(tmp_path: Path, fps: float) -> None:
    clip = read_clip(plain(tmp_path / "a.mov", fps=fps), SMALL)
    check(clip, np.round(np.arange(round(2 * fps)) / fps, 3))
    assert clip.streams.frame_rate == pytest.approx(fps, rel=0.03)
    assert not clip.streams.variable
    assert clip.repeated == (30 if fps == 10 else 2 if fps == 24 else 0)


def test_a_variable_rate_repeats_the_picture_that_is_still_shown(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    times = np.sort(rng.choice(np.arange(1, 2000), 39, replace=False)) / 1000
    times = np.concatenate([[0.0], times])
    clip = read_clip(write_video(tmp_path / "v.mkv", times, ramp(2 * RATE)), SMALL)
    check(clip, times)
    assert clip.streams.variable
    assert clip.streams.longest_interval == pytest.approx(np.diff(times).max(), abs=1e-9)


def test_sound_of_another_rate_and_two_channels_is_resampled(tmp_path: Path) -> None:
    instants = np.arange(2 * 48_000) / 48_000
    tone = (10_000 * np.sin(2 * np.pi * 440 * instants)).astype(np.int16)
    path = write_video(tmp_path / "a.mkv", np.arange(50) / 25, tone, rate=48_000, channels=2, sound_start=0.1)
    clip = read_clip(path, SMALL)
    check(clip, np.arange(50) / 25, exact=False)
    inner = slice(200, -200)
    expected = 10_000 * np.sin(2 * np.pi * 440 * (clip.start - 0.1 + np.arange(len(clip.audio)) / RATE))
    assert np.abs(clip.audio - expected)[inner].max() < 60
    assert (clip.streams.rate, clip.streams.channels) == (48_000, 2)


def test_a_gap_in_the_sound_is_silence_and_told(tmp_path: Path) -> None:
    path = write_video(tmp_path / "gap.mkv", np.arange(50) / 25, ramp(20_480) + 1, sound_gap=(10_240, 0.25))
    clip = read_clip(path, SMALL)
    assert clip.streams.sound_gaps == (pytest.approx((0.64, 0.25), abs=1e-3),)
    assert (clip.audio[:10_240] == ramp(20_480)[:10_240] + 1).all()
    assert (clip.audio[10_240 : 10_240 + 4000 - 16] == 0).all()
    after = clip.audio[10_240 + 4000 + 16 :].astype(np.int64)
    assert (np.diff(after) == 1).sum() > len(after) - 3


def test_a_part_is_a_part_of_the_whole(tmp_path: Path) -> None:
    options = {"crf": "1", "g": "50", "preset": "ultrafast"}
    for ending in ("mov", "mkv"):
        path = plain(tmp_path / f"long.{ending}", seconds=8.0, size=(16, 16), options=options)
        whole = read_clip(path, SMALL)
        for start in (0.4, 6.96):
            part = read_clip(path, SMALL, start, 1.0)
            first = round(start * 25)
            assert part.start == pytest.approx(start)
            assert (part.video == whole.video[first : first + 25]).all()
            assert (part.audio == whole.audio[640 * first : 640 * (first + 25)]).all()
            assert (part.times == whole.times[first : first + 25]).all()
        assert len(read_clip(path, SMALL, 7.0, 5.0)) == 25  # only what is there


def test_colour_range_and_channels(tmp_path: Path) -> None:
    colours = np.zeros((50, 48, 64, 3), np.uint8)
    colours[:10] = 0
    colours[10:20] = 255
    colours[20:] = (200, 30, 30)
    path = write_video(tmp_path / "c.mov", np.arange(50) / 25, ramp(2 * RATE), pictures=colours)
    luma = read_clip(path, SMALL)
    assert luma.video[:10].max() <= 2
    assert luma.video[10:20].min() >= 253
    rgb = read_clip(path, ClipSettings(size=(12, 16), colour="rgb"))
    assert rgb.video.shape == (50, 3, 12, 16)
    assert np.abs(rgb.video[30].mean((1, 2)) - (200, 30, 30)).max() < 6
    grey = 0.299 * 200 + 0.587 * 30 + 0.114 * 30  # ITU-R BT.601
    assert abs(luma.video[30].mean() - grey) < 4


def test_a_box_is_cut_and_scaled(tmp_path: Path) -> None:
    picture = np.zeros((50, 48, 64, 3), np.uint8)
    picture[:, 8:24, 32:48] = 200
    path = write_video(tmp_path / "box.mov", np.arange(50) / 25, ramp(2 * RATE), pictures=picture)
    inside = read_clip(path, ClipSettings(size=(8, 8), crop=(10, 34, 12, 12)))
    assert inside.video.min() > 190
    assert inside.boxes is not None
    assert (inside.boxes == (10, 34, 12, 12)).all()
    left = read_clip(path, ClipSettings(size=(16, 16), crop=(8, 24, 16, 16))).video[5, 0]
    assert left[:, :7].max() < 10
    assert left[:, 9:].min() > 190
    whole = read_clip(path, SMALL)
    assert whole.boxes is None
    assert whole.video[5, 0, 2:6, 8:12].min() > 150
    with pytest.raises(UserError, match=r"box\.mov: the box .* reaches beyond its 64 x 48 pixels"):
        read_clip(path, ClipSettings(crop=(40, 0, 20, 20)))


def test_odd_sizes_are_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.avi", np.arange(20) / 25, ramp(RATE), size=(47, 61), codec="mjpeg", options={})
    clip = read_clip(path, ClipSettings(size=(9, 11)))
    assert clip.video.shape == (20, 1, 9, 11)
    assert (clip.streams.height, clip.streams.width) == (47, 61)


@pytest.mark.parametrize("matrix", [(a, b, c, d) for a, b, c, d in (
    (1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0),
    (0, -1, -1, 0))])  # fmt: skip
def test_a_display_matrix_moves_every_pixel_to_its_place(matrix: tuple[int, int, int, int]) -> None:
    """Each pixel (x, y) goes to (a x + c y, b x + d y), shifted to begin at 0 (ISO/IEC 14496-12, 6.2.2)."""
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    a, b, c, d = matrix
    words = np.zeros(9, np.int32)
    words[[0, 1, 3, 4, 8]] = a << 16, b << 16, c << 16, d << 16, 1 << 30
    frame: Any = SimpleNamespace(
        to_ndarray=lambda format: pixels,  # noqa: ARG005
        side_data=[DisplayMatrix(words.tobytes())],
    )
    y, x = np.mgrid[:3, :5]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    expected = np.empty((down.max() + 1, across.max() + 1), np.uint8)
    expected[down, across] = pixels
    assert (pictures.upright(frame, "luma") == expected).all()


class DisplayMatrix(bytes):
    type = SimpleNamespace(name="DISPLAYMATRIX")


def test_a_process_of_its_own_gives_the_same(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.mov")
    here, there = read_clip(path, SMALL), read_clip(path, SMALL, own_process=True)
    assert (here.video == there.video).all()
    assert (here.audio == there.audio).all()
    with pytest.raises(UserError, match=r"none\.mov: cannot be opened"):
        read_clip(tmp_path / "none.mov", SMALL, own_process=True)


def test_decoding_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plain(tmp_path / "slow.mov")
    monkeypatch.setattr(pictures, "cut", lambda *_: time.sleep(30))
    started = time.monotonic()
    with pytest.raises(UserError, match=r"slow\.mov: decoding took longer than 0\.5 s"):
        read_clip(path, SMALL, limits=VideoLimits(seconds=0.4, least_speed=20.0))
    assert time.monotonic() - started < 5


def test_refusals_name_the_file_and_the_reason(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "mute.mov", np.arange(10) / 25, None)
    with pytest.raises(UserError, match=r"mute\.mov: it has no sound track"):
        read_clip(silent)
    never = write_video(tmp_path / "never.mkv", np.arange(10) / 25, ramp(RATE), sound_start=5.0)
    with pytest.raises(UserError, match=r"less than one frame in common"):
        read_clip(never)
    path = plain(tmp_path / "a.mov")
    with pytest.raises(UserError, match=r"a\.mov: its picture and its sound both exist only from 0\.000 s on"):
        read_clip(path, SMALL, start=-1.0)
    with pytest.raises(UserError, match="take more than the limit"):
        read_clip(path, SMALL, limits=VideoLimits(clip_bytes=1000))
    with pytest.raises(UserError, match="beyond the limit"):
        read_clip(path, SMALL, limits=VideoLimits(pixels=1000))
    whole = path.read_bytes()
    half = tmp_path / "half.mkv"
    plain(half)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    with pytest.raises(UserError, match=r"half\.mkv: it .*cut off"):
        read_clip(half, SMALL)
    assert len(whole) > 0
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UserError, match="not a regular file"):
        read_clip(tmp_path / "pipe.mp4")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fps": 30.0}, "533.333 samples a frame"),
        ({"hop": 200}, "not a multiple of the hop of 200"),
        ({"fps": 0.5}, "impossible"),
        ({"size": (4, 4)}, "from 8 to 1024"),
        ({"colour": "grey"}, "choose luma or rgb"),
        ({"crop": "lips"}, "choose none, face, mouth"),
        ({"crop": (0, 0, 0, 5)}, "is no box"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ClipSettings(**wrong)
    assert ClipSettings(fps=30.0, sample_rate=24_000, hop=200).samples_per_frame == 800


def test_the_grey_levels_of_the_tests_survive_coding() -> None:
    assert len({level(number) for number in range(LEVELS)}) == LEVELS
