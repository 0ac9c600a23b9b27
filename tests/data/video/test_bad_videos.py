"""Every odd or broken file of the shared pack: what happens to it, file by file."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from video_files import plain, shared

from mmssl.data.skipped import write_skipped
from mmssl.data.video import ClipLoader, ClipSettings, open_clips, read_clip
from mmssl.data.video.inspect import inspect_video
from mmssl.errors import UserError

PACK = shared("bad_inputs") / "video"
pytestmark = pytest.mark.skipif(not PACK.exists(), reason="the shared data are not there")
SMALL = ClipSettings(size=(16, 16))

# frames of the clip, its start, how much later the sound begins (all in seconds but the first); or kind and reason
EXPECTED: dict[str, tuple[int, float, float] | tuple[str, str]] = {
    # the encoder's 64 ms of priming come before the sound that begins at 0.4 s, with time stamps of their own
    "audio_late_400ms.mp4": (66, 0.36, 0.336),
    "audio_only.mp4": ("no picture", "no picture track"),
    "audio_short.mp4": (30, 0.0, 0.0),
    "decord_corrupted.mp4": ("no sound", "no sound track"),
    "decord_unordered.mov": ("no sound", "no sound track"),
    "decord_video_90.mov": ("no sound", "no sound track"),
    "edit_list_cut.mp4": (57, 0.0, 0.0),
    "empty.mp4": ("broken", "empty"),
    "fps29_97.mp4": (75, 0.0, 0.0),
    "fragmented.mp4": (75, 0.08, -0.08),
    "jpeg_named.mp4": ("no picture", "still picture"),
    "many_bframes.mp4": (75, 0.0, 0.0),
    "mjpeg_pcm.avi": (37, 0.0, 0.0),
    "mpegts.ts": (75, 1.48, -0.064),
    "no_audio.mp4": ("no sound", "no sound track"),
    "one_frame.mp4": ("no sound", "no sound track"),
    "rotate90.mp4": (75, 0.0, 0.0),
    "torchcodec_av1_video.mkv": ("no sound", "no sound track"),
    "torchcodec_discard_first_keyframe.mp4": ("no sound", "no sound track"),
    "torchcodec_h265_10bits.mp4": ("no sound", "no sound track"),
    "torchcodec_h265_video.mp4": ("no sound", "no sound track"),
    "torchcodec_nasa_13013_rotated.mp4": ("no sound", "no sound track"),
    "torchcodec_test_non_zero_start.mp4": ("no sound", "no sound track"),
    "torchcodec_testsrc2_odd_height_and_width_mpeg2.mp4": ("no sound", "no sound track"),
    "truncated_half.mp4": ("broken", "cut off"),
    "vfr.mp4": (75, 0.0, 0.0),
    "video_late_400ms.mp4": (65, 0.4, -0.4),
    "vp9_opus.webm": (74, 0.0, 0.0),
}
REFUSED = {name: value for name, value in EXPECTED.items() if isinstance(value[0], str)}


def test_the_table_is_complete() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in PACK.iterdir())


def test_refusals_are_one_clear_sentence() -> None:
    for name, (_, reason) in REFUSED.items():
        with pytest.raises(UserError) as caught:
            read_clip(PACK / name, SMALL)
        said = str(caught.value)
        assert said.startswith(str(PACK / name))
        assert str(reason) in said
        assert "\n" not in said


def test_a_folder_with_all_of_them_loads_and_tells_why(tmp_path: Path) -> None:
    started = time.perf_counter()
    source = open_clips(PACK, settings=SMALL)
    assert {source.files[index]: error.kind for index, error in source.failures.items()} == {
        name: value[0] for name, value in REFUSED.items()
    }
    for index, name in enumerate(source.files):
        expected = EXPECTED[name]
        if isinstance(expected[0], str):
            continue
        clip = source.clip(index)
        assert (len(clip), round(clip.start, 6), round(clip.streams.offset, 3)) == expected, name
        assert len(clip.audio) == 640 * len(clip)
    loader = ClipLoader(source, frames=25, batch_size=4, seed=0, max_skipped=0.1)  # two of 28 are broken
    rows = [json.loads(line) for line in write_skipped(tmp_path, source).read_text().splitlines()]
    assert {row["file"] for row in rows} == set(REFUSED)
    assert all(len(row["reason"]) > 10 for row in rows)
    assert sum(len(batch["id"]) for batch in loader.frozen()) == len(loader)
    assert time.perf_counter() - started < 60


def test_late_tracks_are_the_same_recording_moved_on_the_clock() -> None:
    """The sound of the one and the pictures of the other are 400 ms late against the same original."""
    late_sound, late_picture = (read_clip(PACK / f"{which}_late_400ms.mp4", SMALL) for which in ("audio", "video"))
    # on each clip's own clock: what is at t in one is at t + lag in the other
    count = 25 * 640
    first, second = late_sound.audio.astype(float), late_picture.audio.astype(float)
    origin = round((late_sound.start - late_picture.start) * 16_000)
    reference = second[8000 : 8000 + count]
    lags = [abs(np.dot(first[at : at + count], reference)) / np.linalg.norm(first[at : at + count])
            for at in range(len(first) - count)]  # fmt: skip
    lag = (int(np.argmax(lags)) - 8000 + origin) / 16_000
    assert lag == pytest.approx(0.4, abs=1e-3)
    moved = late_picture.video[:40].astype(float)
    errors = [np.abs(late_sound.video[at : at + 40] - moved).mean() for at in range(10)]
    # late_sound begins with frame 9 (0.36 s), late_picture with frame 0 (0.4 s): nine frames of it are not there
    forward = [
        np.abs(late_picture.video[at : at + 40].astype(float) - late_sound.video[:40]).mean() for at in range(20)
    ]
    assert int(np.argmin(forward)) == 9
    assert min(forward) < min(errors)


def test_an_upright_picture_is_a_turned_one() -> None:
    upright, turned = read_clip(PACK / "edit_list_cut.mp4", SMALL), read_clip(PACK / "rotate90.mp4", SMALL)
    assert turned.streams.rotation == 90
    assert upright.streams.rotation == 0
    difference = {
        turns: np.abs(np.rot90(turned.video[40, 0].astype(float), turns) - upright.video[22, 0]).mean()
        for turns in range(4)
    }
    # made from an upright original by adding the matrix: shown as the matrix says, it lies on its side
    assert min(difference, key=lambda turns: difference[turns]) == 3


def test_inspecting_all_of_them() -> None:
    report = inspect_video(PACK, workers=0)
    assert {item["file"]: item["kind"] for item in report["unreadable"]} == {
        name: value[0] for name, value in REFUSED.items()
    }
    found = {(item["file"], item["kind"]) for item in report["findings"]}
    assert {
        ("audio_late_400ms.mp4", "start offset"), ("video_late_400ms.mp4", "start offset"),
        ("audio_short.mp4", "length"), ("vfr.mp4", "variable rate"), ("fragmented.mp4", "start offset"),
    } <= found  # fmt: skip
    assert not {kind for file, kind in found if file in ("many_bframes.mp4", "edit_list_cut.mp4", "fps29_97.mp4")}
    assert report["turned"] == 1


def test_one_broken_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    plain(tmp_path / "a.mov")
    (tmp_path / "b.mp4").write_bytes((PACK / "truncated_half.mp4").read_bytes())
    source = open_clips(tmp_path, settings=SMALL)
    assert source.frames.tolist() == [50, 0]
    with pytest.raises(UserError, match=r"b\.mp4: it cannot be decoded"):
        source[1]
