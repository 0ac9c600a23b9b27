import json
from pathlib import Path

import numpy as np
import pytest
from sound_files import shared, write_folder

from mmssl.data.audio import open_labelled_audio
from mmssl.errors import UserError


def write_speakers(root: Path, rows: list[dict]) -> Path:
    """Recordings of 0.2 s with these columns, and a manifest."""
    write_folder(root, [0.2] * len(rows))
    lines = [json.dumps({"file": f"{number:02d}.wav", **row}) for number, row in enumerate(rows)]
    (root / "manifest.jsonl").write_text("\n".join(lines))
    return root


def test_by_default_the_test_part_has_speakers_of_its_own(tmp_path: Path) -> None:
    rows = [
        {"label": n % 2, "speaker": "abcdefgh"[n // 2], "split": "test" if n % 4 in (0, 3) else "train"}
        for n in range(16)
    ]
    data = write_speakers(tmp_path, [*rows, {"speaker": "a", "split": "train"}])
    found = open_labelled_audio(data, label="label")
    assert (len(found.train), len(found.test), found.names) == (12, 4, ["0", "1"])
    heard = [set(part.source.column("speaker")) for part in (found.train, found.test)]
    assert not heard[0] & heard[1]
    assert "1 of 17 recordings have no 'label'" in found.notes[0]
    assert "the test part has speakers that the train part has not: " in found.notes[1]
    assert "is not used" in found.notes[1]
    for part in (found.train, found.test):
        assert part.targets.tolist() == [int(value) for value in part.source.column("label")]
        assert part.recording.tolist() == list(range(len(part.source)))
        assert part.samples(16_000).tolist() == [[0, 3200]] * len(part)
    again = open_labelled_audio(data, label="label")
    assert again.test.source.files == found.test.source.files
    others = {tuple(open_labelled_audio(data, label="label", seed=seed).test.source.files) for seed in range(6)}
    assert len(others) > 1
    assert len(open_labelled_audio(data, label="label", held_out_speakers=3).test) == 6
    assert len(open_labelled_audio(data, label="label", held_out_speakers=0.5).test) == 8
    by_split = open_labelled_audio(data, label="label", held_out_speakers=0)
    assert set(by_split.test.source.file_splits()) == {"test"}
    for wrong in (8, 1.5, -1):
        with pytest.raises(UserError, match="held-out speakers are impossible"):
            open_labelled_audio(data, label="label", held_out_speakers=wrong)


def test_a_split_that_shares_no_speaker_is_kept(tmp_path: Path) -> None:
    rows = [{"label": n % 2, "speaker": "abcd"[n // 2], "split": "train" if n < 6 else "val"} for n in range(8)]
    found = open_labelled_audio(write_speakers(tmp_path, rows), label="label")
    assert set(found.test.source.column("speaker")) == {"d"}
    assert "whose parts share no speaker" in found.notes[0]


def test_speakers_themselves_are_divided_otherwise(tmp_path: Path) -> None:
    rows = [{"speaker": "ab"[n % 2]} for n in range(30)]
    found = open_labelled_audio(write_speakers(tmp_path, rows), label="speaker")
    assert found.names == ["a", "b"]
    assert "every 5th recording is kept back" in found.notes[0]
    assert 0 < len(found.test) < 12


def test_class_folders(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            write_folder(tmp_path / split / name, [0.2] * count)
    found = open_labelled_audio(tmp_path)
    assert (found.names, len(found.train), len(found.test), found.label) == (["cat", "dog"], 6, 4, "folder")


def test_words_with_times(tmp_path: Path) -> None:
    words = [["red", 0.0, 0.1], ["blue", 0.1, 0.19], ["wrong", 0.2, 0.1], ["late", 0.15, 9.0]]
    rows = [{"words": words, "split": split} for split in ("train", "train", "test")] + [
        {"words": None, "split": "train"}
    ]
    found = open_labelled_audio(write_speakers(tmp_path, rows), label="words")
    assert found.names == ["blue", "late", "red"]
    assert "1 of 4 recordings have no 'words'" in found.notes[0]
    assert "3 of 12 entries of 'words'" in found.notes[1]
    assert found.train.recording.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.train.start.tolist() == [0.0, 0.1, 0.15] * 2
    assert found.train.samples(16_000)[:3].tolist() == [[0, 1600], [1600, 3040], [2400, 3200]]
    assert found.test.targets.tolist() == [2, 0, 1]


def test_what_cannot_be_probed_is_said(tmp_path: Path) -> None:
    data = write_speakers(tmp_path, [{"label": "x", "other": n, "split": "train"} for n in range(3)])
    for options, named in (
        ({"label": "label"}, "the single class 'x'"),
        ({"label": "colour"}, "no column 'colour': choose one of label, other"),
        ({"label": "other", "split": "val2"}, "no split 'val2'"),
    ):
        with pytest.raises(UserError, match=named):
            open_labelled_audio(data, **options)


@pytest.mark.skipif(not shared("av_grid").exists(), reason="the shared data are not there")
def test_words_of_the_grid_corpus() -> None:
    found = open_labelled_audio(shared("av_grid"), label="words")
    assert len(found.train.source) == 360
    assert len(found.test.source) == 60
    assert len(found.train) > 2000
    assert {"bin", "green", "please"} <= set(found.names)
    edges = found.test.samples(16_000)
    assert ((edges[:, 1] > edges[:, 0]) & (edges[:, 1] <= 49_152)).all()


@pytest.mark.skipif(not shared("speech_digits").exists(), reason="the shared data are not there")
def test_digits_by_other_speakers() -> None:
    found = open_labelled_audio(shared("speech_digits"))
    assert found.names == [str(number) for number in range(10)]
    assert (len(found.train), len(found.test)) == (1200, 400)
    assert np.bincount(found.test.targets).tolist() == [40] * 10
