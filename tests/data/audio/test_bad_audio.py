"""Every odd or broken file of the shared pack: what happens to it, file by file."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from sound_files import shared, write_folder

from mmssl.data.audio import AudioLoader, open_audio
from mmssl.data.audio.inspect import inspect_audio
from mmssl.data.skipped import write_skipped

PACK = shared("bad_inputs")
pytestmark = pytest.mark.skipif(not PACK.exists(), reason="the shared data are not there")

# frames that are read, or the kind of refusal
AUDIO: dict[str, int | str] = {
    "empty.wav": "broken",
    "float64.wav": 8000,
    "hz96000.wav": 48_000,
    "nan_inf.wav": "broken",
    "ok_16k.wav": 16_000,
    "one_sample.wav": 1,
    "scipy_test-44100Hz-2ch-32bit-float-be.wav": 441,
    "scipy_test-44100Hz-2ch-32bit-float-le.wav": 441,
    "scipy_test-44100Hz-le-1ch-4bytes-early-eof-no-data.wav": "broken",
    "scipy_test-44100Hz-le-1ch-4bytes-early-eof.wav": 236,
    "scipy_test-44100Hz-le-1ch-4bytes-rf64.wav": 4410,
    "scipy_test-44100Hz-le-1ch-4bytes.wav": 4410,
    "scipy_test-8000Hz-be-3ch-5S-24bit.wav": 5,
    "scipy_test-8000Hz-le-1ch-1byte-ulaw.wav": 9,
    "scipy_test-8000Hz-le-3ch-5S-24bit-inconsistent.wav": 5,
    "scipy_test-8000Hz-le-3ch-5S-24bit-rf64.wav": 5,
    "scipy_test-8000Hz-le-3ch-5S-36bit.wav": "unsupported",
    "scipy_test-8000Hz-le-3ch-5S-45bit.wav": "unsupported",
    "scipy_test-8000Hz-le-3ch-5S-64bit.wav": 5,
    "scipy_test-8000Hz-le-4ch-9S-12bit.wav": 9,
    "silence.flac": "silent",
    "six_channels.wav": 8000,
    "speech.mp3": 32_000,
    "speech.ogg": 32_000,
    "text_named.wav": "broken",
    "truncated.flac": "broken",
    "truncated.wav": 7989,
    "u8_8k.wav": 8000,
    "zero_samples.wav": "broken",
}
VIDEO: dict[str, int | str] = {
    "audio_late_400ms.mp4": 49_152,
    "audio_only.mp4": 48_128,
    "audio_short.mp4": 19_456,
    "decord_corrupted.mp4": "no sound",
    "decord_unordered.mov": "no sound",
    "decord_video_90.mov": "no sound",
    "edit_list_cut.mp4": 36_928,
    "empty.mp4": "broken",
    "fps29_97.mp4": 48_128,
    "fragmented.mp4": 49_408,
    "jpeg_named.mp4": "no sound",
    "many_bframes.mp4": 48_128,
    "mjpeg_pcm.avi": 24_000,
    "mpegts.ts": 49_152,
    "no_audio.mp4": "no sound",
    "one_frame.mp4": "no sound",
    "rotate90.mp4": 48_128,
    "torchcodec_av1_video.mkv": "no sound",
    "torchcodec_discard_first_keyframe.mp4": "no sound",
    "torchcodec_h265_10bits.mp4": "no sound",
    "torchcodec_h265_video.mp4": "no sound",
    "torchcodec_nasa_13013_rotated.mp4": "no sound",
    "torchcodec_test_non_zero_start.mp4": "no sound",
    "torchcodec_testsrc2_odd_height_and_width_mpeg2.mp4": "no sound",
    "truncated_half.mp4": 15_360,
    "vfr.mp4": 48_128,
    "video_late_400ms.mp4": 48_128,
    "vp9_opus.webm": 142_944,
}
EXPECTED = {**{f"audio/{name}": value for name, value in AUDIO.items()},
            **{f"video/{name}": value for name, value in VIDEO.items()}}  # fmt: skip


def test_the_tables_are_complete() -> None:
    assert sorted(AUDIO) == sorted(path.name for path in (PACK / "audio").iterdir())
    assert sorted(VIDEO) == sorted(path.name for path in (PACK / "video").iterdir())


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_a_folder_with_all_of_them_loads_and_tells_why(tmp_path: Path, cache: str) -> None:
    data = write_folder(tmp_path / "data", [0.6, 1.0, 1.4])
    shutil.copytree(PACK / "audio", data / "bad/audio")
    shutil.copytree(PACK / "video", data / "bad/video")
    source = open_audio(data)
    started = time.perf_counter()
    loader = AudioLoader(
        source, max_seconds=2.0, batch_seconds=8.0, seed=0, cache=cache, workers=2, min_seconds=0.4, max_skipped=0.5
    )
    rows = [json.loads(line) for line in write_skipped(tmp_path, source).read_text().splitlines()]
    kinds = {row["file"].removeprefix("bad/"): row["kind"] for row in rows}
    refused = {name: value for name, value in EXPECTED.items() if isinstance(value, str)}
    assert {name: kind for name, kind in kinds.items() if kind != "short"} == refused
    assert all(len(row["reason"]) > 10 for row in rows)
    if cache == "none":
        counted = {
            file.removeprefix("bad/"): header for file, header in zip(source.files, source.headers(), strict=True)
        }
        assert {name: counted[name].frames for name, value in EXPECTED.items() if isinstance(value, int)} == {
            name: value for name, value in EXPECTED.items() if isinstance(value, int)
        }
        assert counted["video/audio_late_400ms.mp4"].start == pytest.approx(0.336)
    for batch in loader.frozen():
        assert batch["audio"].isfinite().all()
        assert batch["audio"].abs().amax(1).min() > 0
    assert time.perf_counter() - started < 30


def test_inspecting_all_of_them() -> None:
    report = inspect_audio([PACK / "audio", PACK / "video"], workers=2)
    assert {item["file"]: item["kind"] for item in report["unreadable"]} == {
        name: value for name, value in EXPECTED.items() if isinstance(value, str) and value != "silent"
    }
    assert report["all_silent"] == 1
    assert report["shorter"] == 1  # half a video
    assert np.isfinite(report["loudness"]["min"])
