"""Sets of shards stand for what they were made of: same names, numbers, labels and batches; damage is named."""

import itertools
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from shard_files import make_shards, picture, write_pictures

from mmssl.data.audio import AudioLoader, open_audio
from mmssl.data.images import ImageLoader, open_images
from mmssl.data.images.inspect import inspect_images
from mmssl.data.kind import kind_of
from mmssl.data.limits import MediaError
from mmssl.data.shards import HEADER, INDEX
from mmssl.data.shards.listing import ShardRows
from mmssl.data.shards.store import open_index
from mmssl.data.text import open_texts
from mmssl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures, one of them broken, with classes and a table."""
    folder = write_pictures(tmp_path_factory.mktemp("data") / "photos")
    (folder / "dog/11.a b.ü.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "cat/notes.txt").write_text("not a picture")
    rows = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"))]
    table = "".join(f"{row},{n % 3},size {n % 3}\n" for n, row in enumerate(rows))
    (folder / "labels.csv").write_text("file,label,label_name\n" + table, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def sharded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    return make_shards(photos, tmp_path_factory.mktemp("data") / "sharded")


def batches(data: Path, count: int, **options: object) -> list[dict[str, torch.Tensor]]:
    settings: dict[str, object] = {"size": (16, 16), "batch_size": 4, "seed": 7, "max_skipped": 0.5, "cache": "none"}
    loader = ImageLoader(open_images(data, split="train"), **(settings | options))
    return list(itertools.islice(loader.batches(), count))


def same(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]]) -> bool:
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_keep_names_numbers_labels_and_fingerprint(photos: Path, sharded: Path, split: str) -> None:
    loose, ours = open_images(photos, split=split), open_images(sharded, split=split)
    assert list(ours.files) == list(loose.files)
    assert ours.fingerprint() == loose.fingerprint()
    assert (ours.splits, ours.held_out) == (loose.splits, loose.held_out)
    assert ours.label_columns() == loose.label_columns()
    for column in ("label", "folder"):
        assert ours.column(column) == loose.column(column)
        assert ours.labels(column)[0].tolist() == loose.labels(column)[0].tolist()
        assert ours.labels(column)[1] == loose.labels(column)[1]
    assert ours.file_splits() == [split] * len(ours)
    for number in range(len(ours)):
        try:
            raw = loose.read(number)
            assert ours.read(number) == raw
        except MediaError:
            assert loose.files[number] == "dog/11.a b.ü.png"


def test_batches_are_those_of_the_loose_files(photos: Path, sharded: Path) -> None:
    assert same(batches(sharded, 10), batches(photos, 10))
    assert same(batches(sharded, 4, cache="memory"), batches(photos, 4, cache="memory"))
    # samples lie in random order, so that ids, and not places in shards, decide
    assert open_index(sharded).index.column("stored").tolist()[:20] != list(range(20))


def test_a_part_of_a_set_knows_its_own_facts(photos: Path, sharded: Path) -> None:
    loose, ours = open_images(photos, split="train").spread(9), open_images(sharded, split="train").spread(9)
    assert list(ours.files) == list(loose.files)
    assert ours.fingerprint() == loose.fingerprint()
    assert ours.sizes is not None
    for number in range(9):
        assert ours.sizes[number].tolist() == list(ours[number]["image"].shape[1:])
        assert torch.equal(ours[number]["image"], loose[number]["image"])


def test_every_split_and_all_of_them_can_be_asked_for(sharded: Path) -> None:
    everything = open_images(sharded)
    assert len(everything) == 30
    assert sorted(everything.files) == sorted([*open_images(sharded, split="train").files,
                                               *open_images(sharded, split="val").files])  # fmt: skip
    assert kind_of(sharded)[0] == "images"
    with pytest.raises(UserError, match="no split 'test': choose one of train, val"):
        open_images(sharded, split="test")
    with pytest.raises(UserError, match="holds shards of images, not recordings"):
        open_audio(sharded)
    with pytest.raises(UserError, match="is read alone"):
        open_images([sharded, sharded])
    assert [(item.file, item.kind) for item in everything.skipped] == [("cat/notes.txt", "not an image")]


def test_inspecting_shards_tells_what_inspecting_files_tells(photos: Path, sharded: Path) -> None:
    reports = [inspect_images(path, workers=0) for path in (photos, sharded)]
    for report in reports:
        assert report.pop("data")
        # shards also know which samples are held out; loose files are counted together
        counts = report.pop("labels")["label"].values()
        assert [sum(splits.values()) for splits in counts] == [10, 10, 10]
        report["mean"], report["std"] = np.round(report["mean"], 9).tolist(), np.round(report["std"], 9).tolist()
    assert [item["file"] for item in reports[1]["unreadable"]] == ["dog/11.a b.ü.png"]
    assert reports[0] == reports[1]


def test_too_small_pictures_are_found_without_reading_any(photos: Path, sharded: Path) -> None:
    for path in (photos, sharded):
        loader = ImageLoader(open_images(path, split="train"), size=(16, 16), batch_size=2, seed=0, max_skipped=0.9,
                             min_size=(23, 16), cache="none")  # fmt: skip
        small = [item.file for item in loader.source.skipped if item.kind == "small"]
        assert len(small) > 5
        assert len(loader) == len(loader.source) - len(small) - 1
    assert len(batches(sharded, 3, min_size=(23, 16), max_skipped=0.9)) == 3


def test_recordings_keep_their_segments(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.default_rng(0)
    (tmp_path / "sound").mkdir()
    for number in range(9):
        samples = rng.normal(0, 0.1, 3000 + 900 * number)
        soundfile.write(tmp_path / "sound" / f"{number}.{'flac' if number % 2 else 'wav'}", samples, 8000)
    make_shards(tmp_path / "sound", tmp_path / "sharded", megabytes=0.03)
    settings = {"sample_rate": 8000, "max_seconds": 0.5, "batch_seconds": 1.5, "seed": 3, "cache": "none"}
    loaders = [AudioLoader(open_audio(tmp_path / name, split="train"), **settings) for name in ("sound", "sharded")]
    assert loaders[0].fingerprint() == loaders[1].fingerprint()
    assert same(*(list(itertools.islice(loader.batches(), 8)) for loader in loaders))


def test_texts_keep_their_documents(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/book.txt").write_text("\n\n".join(f"Absatz {n}: " + "schön " * 200 for n in range(25)))
    (tmp_path / "texts/rows.jsonl").write_text("\n".join(json.dumps({"text": f"row {n}"}) for n in range(30)))
    make_shards(tmp_path / "texts", tmp_path / "sharded")
    for split in ("train", "val"):
        loose, ours = (open_texts(tmp_path / name, split=split) for name in ("texts", "sharded"))
        assert list(ours) == list(loose)
        assert (len(ours), ours.characters, ours.files) == (len(loose), loose.characters, loose.files)
        assert ours.where().tolist() == loose.where().tolist()
        assert [ours.name_of(n) for n in range(len(ours))] == [loose.name_of(n) for n in range(len(loose))]
        # so that tokens that were cached of the one serve the other
        assert ours.fingerprint() == loose.fingerprint()
        assert (ours.splits, ours.held_out, ours.notes) == (loose.splits, loose.held_out, loose.notes)
    with pytest.raises(UserError, match="cut into documents by the rule 'auto': leave the rule 'line' out"):
        open_texts(tmp_path / "sharded", documents="line")


def test_videos_give_the_same_clips(tmp_path: Path) -> None:
    pytest.importorskip("av")
    sys.path.insert(0, str(Path(__file__).parent / "video"))
    from video_files import ramp, write_video

    from mmssl.data.video import ClipSettings, open_clips

    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mkv", np.arange(12 + number) / 25, ramp(12_000), size=(16, 16))
    (tmp_path / "videos/9.mkv").write_bytes(b"no video")
    make_shards(tmp_path / "videos", tmp_path / "sharded")
    settings = ClipSettings(size=(16, 16))
    loose, ours = (
        open_clips(tmp_path / name, settings=settings, cache=tmp_path / f"{name}.cache")
        for name in ("videos", "sharded")
    )
    assert sorted(ours.files) == list(loose.files)
    assert [ours.files[number] for number in ours.failures] == ["9.mkv"]
    for number, file in enumerate(ours.files):
        if number in ours.failures:
            continue
        other = loose[list(loose.files).index(file)]
        assert torch.equal(ours[number]["video"], other["video"])
        assert torch.equal(ours[number]["audio"], other["audio"])


def test_a_training_run_on_shards_gives_the_weights_of_one_on_files(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "recipes"))
    from image_mae import main

    write_pictures(tmp_path / "photos", 24)
    make_shards(tmp_path / "photos", tmp_path / "sharded")
    flags = ["--preset", "pico", "--steps", "2", "--batch-size", "4", "--workers", "0", "--device", "cpu",
             "--image-size", "16", "--validate-every", "2", "--cache", "none"]  # fmt: skip
    for name in ("photos", "sharded"):
        main(["--data", str(tmp_path / name), "--out", str(tmp_path / "runs" / name), *flags])
    first, second = (load_file(tmp_path / "runs" / name / "model/model.safetensors") for name in ("photos", "sharded"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# damage


@pytest.fixture
def damaged(sharded: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    import shutil

    return Path(shutil.copytree(sharded, tmp_path / "damaged"))


def test_a_flipped_byte_is_named(damaged: Path) -> None:
    source = open_images(damaged, split="train")
    rows = source.index
    assert isinstance(rows, ShardRows)
    number, offset, size, _ = rows.index.place(0)
    path = damaged / rows.index.facts.shards[number].file
    raw = bytearray(path.read_bytes())
    raw[offset + size // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(MediaError, match=rf"its bytes in .*{path.name} are not those that were written"):
        source.read(0)
    others = [n for n in range(1, len(source)) if n not in rows.failures()]
    assert all(source.read(n) for n in others)


def test_a_truncated_shard_is_named(damaged: Path) -> None:
    path = damaged / "train-00001.tar"
    size = path.stat().st_size
    os.truncate(path, size - 700)
    source = open_images(damaged, split="train")
    of_each = source.index.column("shard")
    inside = next(
        number for number in range(len(source)) if of_each[number] == 1 and number not in source.index.failures()
    )
    with pytest.raises(MediaError, match=rf"train-00001.tar has {size - 700:,} bytes instead of {size:,}"):
        source.read(inside)
    path.unlink()
    with pytest.raises(UserError, match=r"train-00001.tar cannot be read \(No such file"):
        batches(damaged, 9)


@pytest.mark.parametrize("column", ["block", "size", "shard"])
def test_an_index_that_lies_reads_nothing_outside(damaged: Path, column: str) -> None:
    path = damaged / INDEX / f"{column}.npy"
    values = np.load(path)
    values[0] = np.iinfo(values.dtype).max
    np.save(path, values)
    source = open_images(damaged, split="train")
    with pytest.raises(MediaError, match=r"its index is damaged \(row 0 points beyond the end of its shard\)"):
        source.read(0)
    with pytest.raises(MediaError, match="its index is damaged"):
        source.extent(0)


def test_an_index_that_points_into_another_sample_is_noticed(damaged: Path) -> None:
    path = damaged / INDEX / "block.npy"
    values = np.load(path)
    values[0] += 1
    np.save(path, values)
    with pytest.raises(MediaError, match="are not those that were written"):
        open_images(damaged, split="train").read(0)


def test_a_damaged_index_is_one_sentence(damaged: Path) -> None:
    raw = (damaged / INDEX / "size.npy").read_bytes()
    (damaged / INDEX / "size.npy").write_bytes(raw[:-3])
    with pytest.raises(UserError, match=r"index/size.npy has \d+ bytes instead of \d+: copy the set again"):
        open_images(damaged)
    (damaged / INDEX / "size.npy").unlink()
    with pytest.raises(UserError, match=r"index/size\.npy is missing"):
        open_images(damaged)
    np.save(damaged / INDEX / "size.npy", np.array([{"a": 1}] * 30, object), allow_pickle=True)
    header = json.loads((damaged / HEADER).read_text())
    header["index"]["size.npy"]["bytes"] = (damaged / INDEX / "size.npy").stat().st_size
    (damaged / HEADER).write_text(json.dumps(header))
    with pytest.raises(UserError, match=r"size.npy cannot be read: .*Python objects"):
        open_images(damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "another version of mmssl"),
        ({"shards": [["../../etc/passwd", 1024, "0"]]}, "is no name of a file"),
        ({"shards": [["a", "b"]]}, "is damaged"),
        ({"index": {"/etc/passwd": {"bytes": 3, "digest": "0"}}}, "is no name of a file"),
        ({"splits": {"train": {"rows": 3}}}, "is missing|is not"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_a_hostile_header_is_refused(damaged: Path, change: dict[str, object], message: str) -> None:
    header = json.loads((damaged / HEADER).read_text())
    (damaged / HEADER).write_text(json.dumps(header | change))
    with pytest.raises(UserError, match=message):
        open_images(damaged)
    (damaged / HEADER).write_text("{")
    with pytest.raises(UserError, match=f"{HEADER} is damaged"):
        open_images(damaged)


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    """Members are numbered; a name is never a path of ours."""
    import tarfile

    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as tar:
        for number, name in enumerate(("../../escape.png", "/tmp/absolute.png", "a/" * 90 + "deep.png", "ok.png")):
            raw = picture(number)
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            import io

            tar.addfile(info, io.BytesIO(raw))
    make_shards(archive, tmp_path / "sharded")
    loose, ours = open_images(archive, split="train"), open_images(tmp_path / "sharded", split="train")
    assert list(ours.files) == list(loose.files)
    assert [ours.read(n) for n in range(len(ours))] == [loose.read(n) for n in range(len(loose))]
    with tarfile.open(tmp_path / "sharded/train-00000.tar") as tar:
        assert all(name.removesuffix(".png").isdigit() for name in tar.getnames())
    assert {path.name for path in tmp_path.iterdir()} <= {"hostile.tar", "sharded", "user_cache"}
