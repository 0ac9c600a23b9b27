"""Clips in their store: what comes out is what went in, however often the building was stopped."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from video_files import plain, write_video

from mmssl.data.audio import open_audio
from mmssl.data.limits import MediaError
from mmssl.data.video import ClipSettings, open_clips, open_videos, read_clip
from mmssl.data.video import cache as filling
from mmssl.data.video.cache import fill_store, write_listing
from mmssl.data.video.store import ClipStore
from mmssl.errors import UserError

SMALL = ClipSettings(size=(12, 16))


def videos(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        plain(folder / f"{number}.mov", seconds=0.4 + 0.2 * number)
    return folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of videos that are decoded, in order."""
    paths: list[str] = []
    real = filling.decode_clip

    def counting(extent, *more):
        paths.append(Path(extent.path).name)
        return real(extent, *more)

    monkeypatch.setattr(filling, "decode_clip", counting)
    return paths


@pytest.mark.parametrize(
    "settings",
    [SMALL, ClipSettings(size=(9, 9), colour="rgb"), ClipSettings(size=(9, 9), crop=(1, 2, 30, 30)),
     ClipSettings(fps=20.0, size=(8, 8))],
)  # fmt: skip
def test_what_is_kept_is_what_was_decoded(tmp_path: Path, settings: ClipSettings) -> None:
    """Also where frames have an odd number of bytes, so that sound and time stamps lie at odd places."""
    data = videos(tmp_path / "data")
    source = open_clips(data, settings=settings)
    for index, file in enumerate(source.files):
        clip, fresh = source.clip(index), read_clip(data / file, settings)
        assert (clip.video == fresh.video).all()
        assert (clip.audio == fresh.audio).all()
        assert (clip.times == fresh.times).all()
        assert (clip.boxes is None) == (fresh.boxes is None)
        assert clip.boxes is None or (clip.boxes == fresh.boxes).all()
        assert (clip.start, clip.streams, clip.path) == (fresh.start, fresh.streams, str(data / file))
        assert source.frames[index] == len(fresh)
        sample = source[index]
        assert (sample["video"].numpy() == fresh.video).all()
        video, audio = source.window(index, 3, 4)
        size = settings.samples_per_frame
        assert (video == fresh.video[3:7]).all()
        assert (audio == fresh.audio[3 * size : 7 * size]).all()
    with pytest.raises(MediaError, match="not 8 to 40"):
        source.window(0, 8, 32)


def test_only_what_is_new_is_decoded(tmp_path: Path, decoded: list[str]) -> None:
    data = videos(tmp_path / "data")
    (data / "bad.mp4").write_bytes(b"no video at all")
    first = open_clips(data, settings=SMALL)
    assert sorted(decoded) == ["0.mov", "1.mov", "2.mov", "bad.mp4"]
    decoded.clear()
    plain(data / "3.mov", seconds=1.5)
    (data / "1.mov").rename(data / "moved.mov")
    shutil.copy(data / "0.mov", data / "copy.mov")
    (data / "other").mkdir()
    write_video(data / "other/0.mov", np.arange(20) / 25, np.ones(16_000, np.int16))  # the same name, other content
    second = open_clips(data, settings=SMALL)
    assert sorted(decoded) == ["0.mov", "3.mov"]
    assert (second.clip(second.files.index("moved.mov")).video == first.clip(1).video).all()
    assert dict(zip(second.files, second.frames.tolist(), strict=True)) == {
        "0.mov": 10, "2.mov": 20, "3.mov": 37, "bad.mp4": 0, "copy.mov": 10, "moved.mov": 15, "other/0.mov": 20
    }  # fmt: skip
    assert not (second.clip(second.files.index("other/0.mov")).audio != 1).any()
    decoded.clear()
    open_clips(data, settings=SMALL)
    assert decoded == []
    other = open_clips(data, settings=ClipSettings(size=(8, 8)))
    assert len(decoded) == 7
    assert len(other.store.keys()) == 6  # the copy is the same video


def test_building_goes_on_where_it_was_stopped(tmp_path: Path, decoded: list[str]) -> None:
    data = videos(tmp_path / "data", 5)

    def stop(done: int, total: int) -> None:
        if done == 3 < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_store(open_videos(data), ClipStore(tmp_path / "out", SMALL), progress=stop)
    assert len(decoded) == 3
    with (tmp_path / "out/index.jsonl").open("a") as file:
        file.write('{"key": "half a li')
    store = ClipStore(tmp_path / "out", SMALL)
    keys = fill_store(open_videos(data), store)
    assert len(decoded) == 5
    again = ClipStore(tmp_path / "out")
    for number, key in enumerate(keys):
        assert isinstance(key, str)
        assert (again.clip(key).video == read_clip(data / f"{number}.mov", SMALL).video).all()


def test_a_shard_that_lost_its_end_is_made_again(tmp_path: Path, decoded: list[str]) -> None:
    data = videos(tmp_path / "data")
    store = ClipStore(tmp_path / "out", SMALL)
    fill_store(open_videos(data), store)
    shard = next((tmp_path / "out").glob("shard-*.bin"))
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size - 10)
    decoded.clear()
    keys = fill_store(open_videos(data), ClipStore(tmp_path / "out", SMALL))
    assert decoded == ["2.mov"]
    last = ClipStore(tmp_path / "out").clip(str(keys[2]))
    assert (last.times == read_clip(data / "2.mov", SMALL).times).all()


def test_processes_give_the_same(tmp_path: Path) -> None:
    data = videos(tmp_path / "data", 2)
    (data / "bad.mp4").write_bytes(b"no video at all")
    here, there = ClipStore(tmp_path / "a", SMALL), ClipStore(tmp_path / "b", SMALL)
    said: list[tuple[int, int]] = []
    first = fill_store(open_videos(data), here)
    second = fill_store(open_videos(data), there, workers=2, progress=lambda *done: said.append(done))
    assert first == second
    assert said == [(1, 3), (2, 3), (3, 3)]
    for key in first[:2]:
        assert (here.clip(str(key)).audio == there.clip(str(key)).audio).all()
    assert there.failed(str(first[2]))


def test_a_cache_is_a_data_set_of_its_own(tmp_path: Path) -> None:
    data = videos(tmp_path / "data/clips", 4).parent
    rows = [
        {"file": f"clips/{number}.mov", "speaker": "ab"[number % 2], "text": f"word {number}",
         "words": [["word", 0.1, 0.2]], "split": "val" if number == 3 else "train"}
        for number in range(4)
    ]  # fmt: skip
    (data / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain(data / "clips/4.mov", seconds=0.1)
    (data / "clips/bad.mp4").write_bytes(b"no video at all")
    videos_source = open_videos(data)
    store = ClipStore(tmp_path / "out", SMALL)
    skipped = write_listing(videos_source, store, fill_store(videos_source, store))
    assert [row.file for row in skipped] == ["clips/bad.mp4"]
    direct, cached = open_clips(data, split="train", settings=SMALL), open_clips(tmp_path / "out", split="train")
    assert direct.files == cached.files
    assert cached.fingerprint() == direct.fingerprint()
    assert cached.splits == direct.splits
    assert cached.column("speaker") == ["a", "b", "a"]
    assert cached.column("text") == ["word 0", "word 1", "word 2"]
    assert json.loads(cached.column("words")[0]) == [["word", 0.1, 0.2]]
    assert cached.labels("speaker")[0].tolist() == direct.labels("speaker")[0].tolist() == [0, 1, 0]
    assert (cached.clip(1).video == direct.clip(1).video).all()
    shutil.rmtree(data)
    assert len(open_clips(tmp_path / "out", split="val").clip(0)) == 25
    with pytest.raises(UserError, match=r"other settings \(size \[12, 16\] instead of \[96, 96\]\)"):
        open_clips(tmp_path / "out", settings=ClipSettings())
    with pytest.raises(UserError, match="give the videos themselves"):
        open_videos(tmp_path / "out")
    with pytest.raises(UserError, match="no split 'test'"):
        open_clips(tmp_path / "out", split="test")


def test_folders_name_splits_and_tars_are_read_in_place(tmp_path: Path) -> None:
    videos(tmp_path / "data/train", 2)
    videos(tmp_path / "data/val", 1)
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        archive.add(tmp_path / "data", "data")
    folder, tar = (open_clips(tmp_path / name, split="train", settings=SMALL) for name in ("data", "all.tar"))
    assert folder.files == ["train/0.mov", "train/1.mov"]
    assert tar.files == ["data/train/0.mov", "data/train/1.mov"]
    assert (folder.clip(1).video == tar.clip(1).video).all()
    source = open_videos(tmp_path / "data")
    store = ClipStore(tmp_path / "out", SMALL)
    write_listing(source, store, fill_store(source, store))
    assert open_clips(tmp_path / "out", split="val").files == ["val/0.mov"]
    assert len(open_audio(tmp_path / "data", split="train")) == 2  # the sound is still anybody's to take


def test_a_folder_of_other_things_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no clips"):
        ClipStore(tmp_path / "full", SMALL)
    with pytest.raises(UserError, match="holds no clips"):
        ClipStore(tmp_path / "missing")
    ClipStore(tmp_path / "empty", SMALL)
    with pytest.raises(UserError, match="was not finished"):
        open_clips(tmp_path / "empty")
    (tmp_path / "empty/clips.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        open_clips(tmp_path / "empty")


def test_a_video_that_took_too_long_is_tried_again_and_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = videos(tmp_path / "data", 2)
    real = filling.decode_clip

    def slow(extent, *more):
        if extent.path.endswith("1.mov"):
            raise MediaError("timeout", "decoding took longer than 1 s")
        return real(extent, *more)

    source = open_videos(data)
    with monkeypatch.context() as patch:
        patch.setattr(filling, "decode_clip", slow)
        store = ClipStore(tmp_path / "out", SMALL)
        write_listing(source, store, fill_store(source, store))
    failures = open_clips(tmp_path / "out").failures
    assert {index: str(error) for index, error in failures.items()} == {1: "decoding took longer than 1 s"}
    store = ClipStore(tmp_path / "out", SMALL)
    write_listing(source, store, fill_store(source, store))
    assert open_clips(tmp_path / "out").failures == {}
    shard = next((tmp_path / "out").glob("shard-*.bin"))
    shard.unlink()
    assert "run data_prep/cache_clips.py again" in str(open_clips(tmp_path / "out").failures.popitem()[1])
