import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sound_files import pack, tone, write, write_any, write_folder

from mmssl.cli import main
from mmssl.data.audio import open_audio
from mmssl.data.audio.inspect import inspect_audio
from mmssl.data.kind import kind_of
from mmssl.errors import UserError


def test_folders_nested_and_several(tmp_path: Path) -> None:
    write_folder(tmp_path / "a/train/x", [0.2, 0.3])
    write_folder(tmp_path / "a/test/y", [0.4])
    (tmp_path / "a/notes.pdf").write_text("no sound")
    source = open_audio(tmp_path / "a", split="train")
    assert source.splits == {"test": 1, "train": 1, "val": 1}
    everything = open_audio(tmp_path / "a")
    assert everything.files == ["test/y/00.wav", "train/x/00.wav", "train/x/01.wav"]
    assert everything.seconds.tolist() == pytest.approx([0.4, 0.2, 0.3])
    assert [item.file for item in everything.skipped] == ["notes.pdf"]
    assert everything.labels("folder")[1] == ["x", "y"]
    write_folder(tmp_path / "b", [0.5])
    both = open_audio([tmp_path / "a", tmp_path / "b"])
    assert both.files[-1] == "b/00.wav"
    assert len(both) == 4


def test_a_sample_is_read_whole_or_in_part(tmp_path: Path) -> None:
    stereo = tone(1.0, 44_100, 2)
    write(tmp_path / "a.wav", stereo, 44_100)
    source = open_audio(tmp_path)
    sample = source[0]
    assert (sample["id"], sample["rate"], sample["file"]) == (0, 44_100, "a.wav")
    assert (sample["audio"] - torch.from_numpy(stereo.mean(1))).abs().max() < 1e-4
    part = source.read(0, 4000, 12_000, sample_rate=16_000)
    assert (part - source.read(0, sample_rate=16_000)[4000:12_000]).abs().max() < 1e-6
    with pytest.raises(UserError, match=r"a.wav: it has 16000 samples at 16000 Hz, not 0 to 16001"):
        source.read(0, 0, 16_001, sample_rate=16_000)


def test_lists_tars_and_manifests(tmp_path: Path) -> None:
    write_folder(tmp_path / "audio", [0.2, 0.3, 0.4])
    rows = [{"file": f"audio/{n:02d}.wav", "label": n % 2, "speaker": "ab"[n % 2], "words": None,
             "split": "train" if n else "test"} for n in range(3)]  # fmt: skip
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    (tmp_path / "manifest.jsonl").write_text(lines)
    (tmp_path / "list.txt").write_text("audio/02.wav\naudio/00.wav\n")
    (tmp_path / "list.csv").write_text("file,label\naudio/01.wav,x\n")
    (tmp_path / "packed").mkdir()
    tar = pack(tmp_path / "packed/audio.tar", sorted((tmp_path / "audio").iterdir()))
    (tmp_path / "packed/manifest.jsonl").write_text(lines)
    inside = pack(tmp_path / "inside.tgz", sorted((tmp_path / "audio").iterdir()), {"manifest.jsonl": lines})
    assert open_audio(tmp_path / "list.txt").files == ["audio/00.wav", "audio/02.wav"]
    assert open_audio(tmp_path / "list.csv").labels()[1] == ["x"]
    for data in (tmp_path / "manifest.jsonl", tmp_path / "audio", tmp_path / "packed", tar, inside):
        source = open_audio(data)
        assert source.labels("label")[0].tolist() == [0, 1, 0]
        assert source.labels("speaker")[1] == ["a", "b"]
        assert source.file_splits() == ["test", "train", "train"]
        assert source.label_columns() == ["label", "speaker"]
        assert source.seconds.tolist() == pytest.approx([0.2, 0.3, 0.4])


def test_hugging_face_datasets_are_decoded_by_us(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write_folder(tmp_path / "audio", [0.2, 0.3])
    files = sorted((tmp_path / "audio").iterdir())
    rows = {"audio": [{"bytes": file.read_bytes(), "path": None} for file in files], "label": [1, 0]}
    made = datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    made.cast_column("audio", datasets.Audio()).save_to_disk(str(tmp_path / "set"))
    source = open_audio(tmp_path / "set")
    assert source.seconds.tolist() == pytest.approx([0.2, 0.3])
    assert torch.equal(source.read(1), open_audio(tmp_path / "audio").read(1))
    assert source.labels()[0].tolist() == [1, 0]
    assert kind_of(tmp_path / "set")[0] == "audio"


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("hello")
    for data, named in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "empty", "holds no recordings: give a folder"),
        (tmp_path / "texts", r"holds no recordings \(it holds 1 other files, such as a.txt\)"),
        (tmp_path / "texts/a.txt", "holds no recordings"),
    ):
        with pytest.raises(UserError, match=named):
            open_audio(data)
    with pytest.raises(SystemExit):
        main(["inspect", "--kind", "audio", str(tmp_path / "empty")])
    assert capsys.readouterr().err.startswith("error: ")
    os.mkfifo(tmp_path / "empty/pipe.wav")
    write(tmp_path / "empty/a.wav", tone(0.2))
    source = open_audio(tmp_path / "empty")
    assert source.seconds.tolist() == pytest.approx([0.2, 0.0])
    with pytest.raises(UserError, match=r"pipe.wav: it is not a regular file"):
        source.read(1)


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    write_folder(tmp_path / "audio", [0.2, 0.2])
    (tmp_path / "audio/readme.txt").write_text("two recordings")
    assert kind_of(tmp_path / "audio") == ("audio", "2 recordings: looking at the audio")
    assert kind_of(pack(tmp_path / "a.tar", sorted((tmp_path / "audio").iterdir())))[0] == "audio"
    assert kind_of(tmp_path / "audio/00.wav")[0] == "audio"
    for name, text in (("a.txt", "audio/00.wav\n"), ("a.csv", "file,label\naudio/00.wav,1\n"),
                       ("a.jsonl", '{"file": "audio/00.wav"}\n')):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert kind_of(tmp_path / name)[0] == "audio"
    (tmp_path / "b.jsonl").write_text('{"text": "hello"}\n')
    (tmp_path / "b.txt").write_text("hello\n")
    assert kind_of(tmp_path / "b.jsonl")[0] == kind_of(tmp_path / "b.txt")[0] == "text"
    (tmp_path / "b.csv").write_text("file,label\na.jpg,1\n")
    assert kind_of(tmp_path / "b.csv")[0] == "images"


def test_a_report_measures(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sine = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000).astype(np.float32)[:, None]
    write(tmp_path / "loud/sine.wav", 0.5 * sine)
    write(tmp_path / "loud/clipped.wav", np.clip(4 * sine, -1, 1))
    write(tmp_path / "quiet/half.wav", np.concatenate([0.5 * sine, 0 * sine, 0.5 * sine, 0 * sine]), 8000)
    write_any(tmp_path / "quiet", "mp3.mp3")
    (tmp_path / "quiet/bad.wav").write_text("no")
    report = inspect_audio(tmp_path, workers=0)
    assert (report["recordings"], report["readable"]) == (5, 4)
    assert report["hours"] * 3600 == pytest.approx(1 + 1 + 8 + 3, abs=0.1)
    assert report["rates"] == {"16000": 3, "8000": 1}
    assert report["formats"] == {"WAV/PCM_16": 3, "MP3/mp3float": 1}
    assert report["seconds"]["max"] == 8
    assert report["silence"] == pytest.approx(4 / 13, abs=0.01)
    assert report["loudness"]["min"] == pytest.approx(20 * np.log10(0.25), abs=0.1)
    assert report["peak"]["max"] == pytest.approx(0, abs=0.01)
    assert report["clipped"] == 1
    at_full_scale = int((np.abs(4 * sine) >= 1).sum())
    assert report["clipping"] * (32_000 + 64_000 + 48_000) == pytest.approx(at_full_scale)
    assert sum(row["recordings"] for row in report["histogram"]) == 4
    assert [item["file"] for item in report["unreadable"]] == ["quiet/bad.wav"]
    json.dumps(report)
    main(["inspect", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "below -60 dBFS" in shown
    assert "quiet/bad.wav: it is no recording" in shown
