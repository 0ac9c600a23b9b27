import csv
import json
import os
import pickle
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from picture_files import encode, shared, smooth, write_folder, write_png

from mmssl.data.images.open import IMAGES, open_images
from mmssl.data.limits import Limits
from mmssl.data.parts import hold_out
from mmssl.data.skipped import Skipped, write_skipped
from mmssl.data.stores import TarStore
from mmssl.errors import UserError


def write_labels(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_tar(path: Path, root: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.add(file, file.relative_to(root).as_posix(), recursive=False)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """train/{cat,dog} with 3 and 2 images, val/{cat,dog} with 1 each."""
    root = tmp_path / "animals"
    for number, (split, name, count) in enumerate(
        [("train", "cat", 3), ("train", "dog", 2), ("val", "cat", 1), ("val", "dog", 1)]
    ):
        for index in range(count):
            write_png(root / split / name / f"{index}.png", smooth(8, 9, seed=10 * number + index))
    return root


def test_nested_folders_sorted_with_hidden_and_foreign_files_set_apart(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/deep/er/1.PNG", "c.jpeg", ".hidden.png", "__MACOSX/x.png", "a/.thumbs/1.png"):
        write_png(tmp_path / name, smooth(4, 4))
    (tmp_path / "notes.md").write_text("no image")
    source = open_images(tmp_path)
    assert source.files == ["a/deep/er/1.PNG", "b/2.png", "c.jpeg"]
    assert source.skipped == [Skipped("notes.md", "'.md' is not an image extension", "not an image")]
    assert len(source) == 3
    assert source.location(1) == str(tmp_path / "b/2.png")


def test_a_sample(classes: Path) -> None:
    sample = open_images(classes, split="train")[4]
    assert sample["id"] == 4
    assert sample["file"] == "train/dog/1.png"
    assert np.array_equal(sample["image"].permute(1, 2, 0), smooth(8, 9, seed=11))
    assert open_images(classes, channels=1)[0]["image"].shape == (1, 8, 9)


def test_a_broken_sample_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"x\.png: no picture in a known format.* repair or remove"):
        open_images(tmp_path)[0]


def test_splits_and_classes_by_folder(classes: Path) -> None:
    source = open_images(classes, split="train")
    assert (source.splits, source.held_out) == ({"train": 5, "val": 2}, False)
    targets, names = source.labels()
    assert (targets.tolist(), targets.dtype, names) == ([0, 0, 0, 1, 1], np.int64, ["cat", "dog"])
    assert open_images(classes, split="validation").files == ["val/cat/0.png", "val/dog/0.png"]
    assert open_images(classes).file_splits() == ["train"] * 5 + ["val"] * 2
    # the same classes have the same numbers in every split, even where one is missing
    shutil.rmtree(classes / "val/cat")
    assert open_images(classes, split="val").labels()[0].tolist() == [1]
    with pytest.raises(UserError, match="no split 'test': choose one of train, val"):
        open_images(classes, split="test")


def test_class_folders_without_splits_below_a_common_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures/sky", 2)
    write_folder(tmp_path / "pictures/sea", 2)
    source = open_images(tmp_path)
    assert source.labels()[1] == ["sea", "sky"]
    assert source.labels("folder")[0].tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"no labels.csv with a column 'shape'"):
        source.labels("shape")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    with pytest.raises(UserError, match=r"no labels: put images into one folder a class or add a labels\.csv"):
        open_images(tmp_path).labels()


def test_labels_csv_names_classes_and_splits(tmp_path: Path) -> None:
    write_folder(tmp_path, 6)
    rows = [
        {
            "file": f"{i:02d}.png",
            "label": i % 2,
            "label_name": ("odd", "even")[i % 2],
            "shape": "ab"[i // 3],
            "split": s,
        }
        for i, s in enumerate(["train", "train", "train", "dev", "dev", "other"])
    ]
    write_labels(tmp_path / "labels.csv", rows)
    source = open_images(tmp_path, split="train")
    assert source.splits == {"train": 3, "val": 2, "other": 1}
    targets, names = source.labels()
    assert (targets.tolist(), names) == ([0, 1, 0], ["odd", "even"])
    assert source.labels("shape")[0].tolist() == [0, 0, 0]
    assert source.labels("shape")[1] == ["a", "b"]
    assert source.label_columns() == ["label", "shape"]
    assert source.labels("label_name")[1] == ["even", "odd"]
    assert source.skipped == []
    with pytest.raises(UserError, match="no column 'colour': choose one of label, shape"):
        source.labels("colour")


def test_labels_csv_beside_the_folder_that_was_opened(tmp_path: Path) -> None:
    write_folder(tmp_path / "images/train", 2)
    write_folder(tmp_path / "images/val", 1)
    rows = [{"file": f"images/{name}", "shape": shape, "size": 7} for name, shape in
            [("train/00.png", "disc"), ("train/01.png", "star"), ("val/00.png", "star")]]  # fmt: skip
    write_labels(tmp_path / "labels.csv", rows)
    for data in (tmp_path, tmp_path / "images"):
        source = open_images(data, split="train")
        assert source.labels("shape")[0].tolist() == [0, 1]
        with pytest.raises(UserError, match="several label columns: choose one of shape, size"):
            source.labels()


def test_images_without_a_label_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    write_labels(tmp_path / "labels.csv", [{"file": "01.png", "label": "x"}])
    with pytest.raises(UserError, match=r"gives no 'label' for 2 files \(first: 00.png\)"):
        open_images(tmp_path).labels()


def test_a_damaged_labels_csv_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, 1)
    (tmp_path / "labels.csv").write_text("name,label\n00.png,3\n")
    with pytest.raises(UserError, match=r"labels.csv has no 'file' column"):
        open_images(tmp_path)


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")])
def test_tar_files_are_read_at_random_and_in_other_processes(
    classes: Path, tmp_path: Path, name: str, mode: str
) -> None:
    (classes / "readme.txt").write_text("not an image")
    folder, tar = open_images(classes), open_images(write_tar(tmp_path / name, classes, mode))
    assert tar.files == folder.files
    assert tar.labels()[0].tolist() == folder.labels()[0].tolist()
    assert tar.skipped[0].file == "readme.txt"
    assert tar.location(0) == f"{tmp_path / name}!train/cat/0.png"
    copy = pickle.loads(pickle.dumps(tar))
    for index in (5, 0, 3, 3, 6):
        assert tar.read(index) == copy.read(index) == folder.read(index)


def test_labels_beside_and_inside_a_tar(tmp_path: Path) -> None:
    write_folder(tmp_path / "in", 2)
    write_labels(tmp_path / "in/labels.csv", [{"file": "00.png", "label": "p"}, {"file": "01.png", "label": "q"}])
    tar = write_tar(tmp_path / "x.tar", tmp_path / "in")
    assert open_images(tar).labels()[1] == ["p", "q"]
    (tmp_path / "in/labels.csv").unlink()
    tar = write_tar(tmp_path / "x.tar", tmp_path / "in")
    write_labels(tmp_path / "labels.csv", [{"file": "00.png", "label": "s"}, {"file": "01.png", "label": "r"}])
    assert open_images(tar).labels()[0].tolist() == [1, 0]


def test_a_folder_that_holds_only_tars(classes: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    write_tar(pack / "images.tar", classes)
    write_labels(pack / "labels.csv", [{"file": f, "label": i} for i, f in enumerate(open_images(classes).files)])
    source = open_images(pack, split="val")
    assert source.files == ["val/cat/0.png", "val/dog/0.png"]
    assert source.labels()[0].tolist() == [5, 6]
    shutil.copy(pack / "images.tar", pack / "more.tar")
    both = open_images(pack)
    assert len(both) == 14
    assert both.files[0] == "images/train/cat/0.png"
    assert both.files[7] == "more/train/cat/0.png"
    assert both.labels()[0].tolist() == [*range(7), *range(7)]


def test_damaged_and_oversized_tars_are_refused(classes: Path, tmp_path: Path) -> None:
    plain, packed = write_tar(tmp_path / "x.tar", classes), write_tar(tmp_path / "x.tar.gz", classes, "w:gz")
    with pytest.raises(UserError, match=r"more than .* GiB: store it as a plain .tar"):
        TarStore(packed, IMAGES.wanted, unpacked_limit=5000)
    for path in (plain, packed):
        raw = path.read_bytes()
        for length in (3, len(raw) // 3):
            path.write_bytes(raw[:length])
            with pytest.raises(UserError, match=path.name):
                open_images(path)


def test_several_roots(classes: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "other/cat", 2)
    write_folder(tmp_path / "deep/other", 1)
    source = open_images([classes / "train", tmp_path / "other", tmp_path / "deep/other"])
    assert source.files[:2] == ["other-2/00.png", "other/cat/00.png"]
    assert Counter(name.split("/")[0] for name in source.files) == {"train": 5, "other": 2, "other-2": 1}
    assert len(open_images([classes, tmp_path / "other"], split="val")) == 2


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_list_files(classes: Path, tmp_path: Path, suffix: str) -> None:
    path = classes / f"list{suffix}"
    chosen = [
        "val/dog/0.png",
        "train/cat/1.png",
        "train/cat/1.png",
        str(write_folder(tmp_path / "far", 1)[0]),
        "no.png",
    ]
    if suffix == ".txt":
        path.write_text("\n".join([*chosen, "", "movie.mp4"]))
    else:
        write_labels(path, [{"file": name, "kind": name[0], "split": "train"} for name in [*chosen, "movie.mp4"]])
    source = open_images(path, split="train" if suffix == ".csv" else None)
    if suffix == ".csv":
        assert source.held_out
        assert source.splits == {"train": len(source), "val": 4 - len(source)}
        assert source.label_columns() == ["kind"]
    else:
        assert source.files == sorted({*chosen})
        assert source[source.files.index("val/dog/0.png")]["image"].shape == (3, 8, 9)
        with pytest.raises(UserError, match=r"no\.png: cannot be opened"):
            source[source.files.index("no.png")]
    assert [item.file for item in source.skipped] == ["movie.mp4"]


def test_a_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "picture": [{"bytes": encode(smooth(8, 9, seed=i), "PNG"), "path": None} for i in range(4)],
        "kind": [0, 1, 1, 0],
    }
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["sea", "sky"])})
    dataset = datasets.Dataset.from_dict(rows, features=features)
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([2, 1])}).save_to_disk(tmp_path / "two")
    source = open_images(tmp_path / "one")
    assert np.array_equal(source[2]["image"].permute(1, 2, 0), smooth(8, 9, seed=2))
    targets, names = source.labels()
    assert (targets.tolist(), names) == ([0, 1, 1, 0], ["sea", "sky"])
    test = open_images(tmp_path / "two", split="test")
    assert test.files == ["test/00000000", "test/00000001"]
    assert np.array_equal(pickle.loads(pickle.dumps(test))[0]["image"].permute(1, 2, 0), smooth(8, 9, seed=2))
    assert test.labels()[0].tolist() == [1, 1]
    texts = datasets.Dataset.from_dict({"text": ["a"]})
    texts.save_to_disk(tmp_path / "three")
    with pytest.raises(UserError, match="no image column"):
        open_images(tmp_path / "three")


def test_without_a_validation_split_some_are_held_out(tmp_path: Path) -> None:
    write_folder(tmp_path, 60, (2, 2))
    train, val, everything = (open_images(tmp_path, split=split) for split in ("train", "val", None))
    assert train.held_out
    assert sorted(train.files + val.files) == everything.files
    assert train.splits == {"train": len(train), "val": len(val)}
    assert 1 <= len(val) <= 9


def test_a_test_split_is_never_validation(classes: Path) -> None:
    (classes / "val").rename(classes / "test")
    assert not any(name.startswith("test") for name in open_images(classes, split="val").files)
    assert open_images(classes, split="test").files == ["test/cat/0.png", "test/dog/0.png"]


def test_adding_files_moves_no_other() -> None:
    names = [f"{number}.jpg" for number in range(5000)]
    few, many = hold_out(names[:3000]), hold_out(names)
    assert few == many[:3000]
    assert abs(sum(many) / 5000 - 0.05) < 0.01
    assert sum(hold_out(names[:2])) == 1
    # beyond 1024 the share falls, but nobody is moved into the held-out set
    names = [f"{number}.jpg" for number in range(60_000)]
    half, whole = hold_out(names[:30_000]), hold_out(names)
    assert all(small for small, large in zip(half, whole, strict=False) if large)
    assert abs(sum(whole) - 1024) < 150


def test_the_hold_out_of_a_name_is_fixed_for_ever() -> None:
    names = [f"{number}.jpg" for number in range(200)]
    assert [name for name, held in zip(names, hold_out(names), strict=True) if held] == [
        "65.jpg",
        "70.jpg",
        "92.jpg",
        "100.jpg",
        "128.jpg",
        "164.jpg",
        "185.jpg",
    ]


def test_missing_empty_and_forbidden_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no images: give"):
        open_images(tmp_path / "empty")
    (tmp_path / "empty/notes.md").write_text("")
    with pytest.raises(UserError, match=r"holds no images \(it holds 1 other files, such as notes.md\)"):
        open_images(tmp_path / "empty")
    with pytest.raises(UserError, match="neither a folder, a tar, a list"):
        open_images(tmp_path / "empty/notes.md")

    write_folder(tmp_path / "data/locked", 1)
    listing = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"data/locked cannot be listed \(Permission denied\): change its permissions"):
        open_images(tmp_path / "data")

    def denied(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(UserError, match=r"data cannot be read \(Permission denied\): change its permissions"):
        open_images(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_real_permissions(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 1)
    (tmp_path / "data").chmod(0)
    try:
        with pytest.raises(UserError, match="change its permissions"):
            open_images(tmp_path / "data")
    finally:
        (tmp_path / "data").chmod(0o700)


def test_links_that_run_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path / "a", 2)
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert open_images(tmp_path).files == ["a/00.png", "a/01.png"]


def test_fingerprint_changes_with_the_data(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    first = open_images(tmp_path).fingerprint()
    assert open_images(tmp_path).fingerprint() == first
    write_png(tmp_path / "01.png", smooth(30, 30))
    assert open_images(tmp_path).fingerprint() != first


def test_skipped_jsonl(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 30)
    (tmp_path / "data/ü.txt").write_text("")
    train, val = (open_images(tmp_path / "data", split=split) for split in ("train", "val"))
    path = write_skipped(tmp_path, train, val)
    assert path == tmp_path / "skipped.jsonl"
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"file": "ü.txt", "reason": "'.txt' is not an image extension", "kind": "not an image"}
    ]


def test_evenly_spread_images(tmp_path: Path) -> None:
    write_folder(tmp_path, 10, (2, 2))
    source = open_images(tmp_path)
    assert source.spread(4).files == ["00.png", "02.png", "05.png", "07.png"]
    assert source.spread(99).files == source.files


def test_limits_reach_the_decoder(tmp_path: Path) -> None:
    write_folder(tmp_path, 1, (20, 20))
    with pytest.raises(UserError, match="more than the limit of 300"):
        open_images(tmp_path, limits=Limits(pixels=300))[0]


@pytest.mark.skipif(not shared("images_cifar10").exists(), reason="the shared data are not there")
def test_the_shared_packs() -> None:
    for name, count, names in (
        ("images_cifar10", {"train": 20_000, "val": 3000}, ("airplane", "truck")),
        ("images_clothing", {"train": 1120, "val": 341}, ("dress", "t-shirt")),
    ):
        source = open_images(shared(name), split="val")
        assert source.splits == count
        targets, classes = source.labels()
        assert (len(classes), classes[0], classes[-1]) == (10, *names)
        folder = [file.split("/")[1] for file in source.files]
        assert [classes[target] for target in targets] == folder
