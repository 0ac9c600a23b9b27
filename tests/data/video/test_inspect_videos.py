"""What `mmssl inspect` says of videos made to be odd in known ways."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from video_files import RATE, plain, ramp, write_video

from mmssl import cli
from mmssl.data.kind import kind_of
from mmssl.data.video.inspect import inspect_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    steady = np.arange(50) / 25
    plain(root / "fine.mov")
    write_video(root / "late.mov", steady, ramp(2 * RATE), sound_start=0.3)
    write_video(root / "early_end.mov", steady, ramp(RATE))
    write_video(root / "varying.mkv", np.delete(steady, [9, 10, 30]), ramp(2 * RATE))
    write_video(root / "frozen.mkv", np.delete(steady, np.arange(20, 45)), ramp(2 * RATE))
    write_video(root / "gap.mkv", steady, ramp(20_480), sound_gap=(10_240, 0.25))
    write_video(root / "mute.mov", steady, None)
    write_video(root / "silent.mov", steady, np.zeros(2 * RATE, np.int16))
    levels = np.repeat(np.arange(0, 250, 10, dtype=np.uint8), 2)
    pictures = np.tile(levels[:, None, None, None], (1, 48, 64, 3))
    write_video(root / "doubled.mov", steady, ramp(2 * RATE), pictures=pictures, options={"qp": "0", "bf": "0"})
    (root / "broken.mp4").write_bytes(b"nothing")
    (root / "notes.doc").write_text("other")
    return root


def test_every_oddity_is_found_and_nothing_else(folder: Path) -> None:
    report = inspect_video(folder, workers=0)
    said: dict[str, list[str]] = {}
    for item in report["findings"]:
        said.setdefault(item["file"], []).append(item["reason"])
    assert said == {
        "late.mov": ["its sound begins 300 ms after its picture"],
        "early_end.mov": ["its sound ends 1.00 s before its picture"],
        "varying.mkv": ["its frame rate varies: 40 ms between pictures, but up to 120 ms"],
        "frozen.mkv": [
            "its frame rate varies: 40 ms between pictures, but up to 1040 ms",
            "no new picture comes for 1.04 s at 0.76 s",
        ],
        "gap.mkv": ["250 ms of its sound are missing at 0.64 s"],
        "silent.mov": ["100% of its sound is silence (below -60 dBFS)"],
        "doubled.mov": ["51% of its pictures repeat the one before"],
    }
    assert {item["file"]: item["kind"] for item in report["unreadable"]} == {
        "broken.mp4": "broken", "mute.mov": "no sound"
    }  # fmt: skip
    assert [item["file"] for item in report["not_videos"]] == ["notes.doc"]
    assert (report["videos"], report["readable"]) == (10, 8)
    assert report["sizes"] == {"64x48": 8}
    assert report["frame_rates"] == {"25.00": 8}
    assert report["sample_rates"] == {"16000": 8}
    assert report["seconds"]["max"] == 2.0
    assert report["offset_ms"]["max"] == pytest.approx(300)
    assert report["end_ms"]["min"] == pytest.approx(-1000)
    json.dumps(report)


def test_the_command_looks_at_videos_as_videos_and_at_their_sound_on_request(folder: Path, capsys) -> None:
    cli.main(["inspect", str(folder), "--split", "train"])
    said = " ".join(capsys.readouterr().out.split())
    assert "10 videos: looking at the videos; --kind audio looks at their sound only" in said
    assert "its sound begins 300 ms after its picture" in said
    assert "mute.mov: it has no sound track" in said
    cli.main(["inspect", str(folder), "--kind", "audio"])
    assert "recordings 10, of which 2 cannot be used" in " ".join(capsys.readouterr().out.split())


def test_a_process_that_decodes_does_without_torch(folder: Path) -> None:
    """It is spawned, and would load torch for seconds, which it needs only where sound is resampled."""
    script = (
        "import sys; from mmssl.data.video.inspect import inspect_video\n"
        "assert inspect_video(sys.argv[1], workers=0)['readable'] == 8\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True)


def test_which_kind(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.wav"):
        (tmp_path / name).write_bytes(b"")
    assert kind_of(tmp_path)[0] == "video"
    assert kind_of(tmp_path / "a.mp4")[0] == "video"
    assert kind_of(tmp_path / "c.wav")[0] == "audio"
    (tmp_path / "list.jsonl").write_text('{"file": "a.mp4", "speaker": "x"}\n')
    assert kind_of(tmp_path / "list.jsonl")[0] == "video"
    for name in ("d.flac", "e.mp3"):
        (tmp_path / name).write_bytes(b"")
    kind, said = kind_of(tmp_path)
    assert kind == "audio"
    assert said.endswith("--kind video or text looks at the others")
