"""data_prep/shard.py: what it writes, that it goes on, and what it refuses."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "data_prep"), str(ROOT / "tests/data")]

import shard  # noqa: E402
from shard_files import make_shards, write_pictures  # noqa: E402

from mmssl.data.images import open_images  # noqa: E402
from mmssl.data.shards import write  # noqa: E402
from mmssl.data.shards.store import open_index  # noqa: E402


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "photos")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_shards_are_plain_tar_files_of_bounded_size(photos: Path, tmp_path: Path) -> None:
    out = make_shards(photos, tmp_path / "out")
    index = open_index(out).index
    tars = sorted(out.glob("*.tar"))
    assert len(tars) > 3
    assert all(path.stat().st_size <= 12_000 for path in tars)
    names = []
    for path in tars:
        listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for member in members:
                row = int(member.name.split(".")[0])
                # the key that webdataset sees is all before the first dot: another one for each sample
                assert member.name == f"{row:012d}.png"
                number, offset, size, _ = index.place(row)
                assert (index.facts.shards[number].file, offset, size) == (path.name, member.offset_data, member.size)
                assert (member.uid, member.gid, member.uname, member.mtime) == (0, 0, "", 0)
                original = photos / index.texts("name")[row]
                assert tar.extractfile(member).read() == original.read_bytes()
        assert listed.stdout.split() == [member.name for member in members]
        names += [member.name for member in members]
    assert len(names) == len(set(names)) == 30
    assert names != sorted(names)


def test_equal_data_and_seed_give_equal_bytes_and_another_seed_another_order(photos: Path, tmp_path: Path) -> None:
    first = digests(make_shards(photos, tmp_path / "first"))
    copied = tmp_path / "elsewhere" / "photos"
    shutil.copytree(photos, copied, copy_function=shutil.copy)  # other times of change
    assert digests(make_shards(copied, tmp_path / "second")) == first
    other = digests(make_shards(photos, tmp_path / "other", "--seed", "1"))
    assert other["train-00000.tar"] != first["train-00000.tar"]
    assert other["index/name.npy"] == first["index/name.npy"]
    given = make_shards(photos, tmp_path / "given", "--order", "given")
    with tarfile.open(given / "train-00000.tar") as tar:
        assert tar.getnames() == sorted(tar.getnames())


def test_the_stored_order_mixes_the_classes(photos: Path, tmp_path: Path) -> None:
    index = open_index(make_shards(photos, tmp_path / "out", megabytes=1)).index
    stored = index.column("stored")[slice(*index.facts.splits["train"].stored)]
    folders = index.column("folder")[stored]
    # 15 cats come before 15 dogs by name: few changes there, many here
    assert np.count_nonzero(np.diff(folders)) > 8


class Killed(BaseException):
    """Stands for a signal: nothing of ours catches it."""


@pytest.mark.parametrize("survived", [3, 20])
def test_a_run_that_was_killed_keeps_its_finished_shards(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    expected = digests(make_shards(photos, tmp_path / "expected"))
    left, pieces = [survived], shard._pieces

    def dying(source, index):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        yield from pieces(source, index)

    monkeypatch.setattr(shard, "_pieces", dying)
    with pytest.raises(Killed):
        make_shards(photos, tmp_path / "out")
    whole = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert not (tmp_path / "out/shards.json").exists()
    assert (survived > 10) == bool(whole)
    read = []
    monkeypatch.setattr(shard, "_pieces", lambda source, index: (read.append(index), pieces(source, index))[1])
    make_shards(photos, tmp_path / "out")
    assert digests(tmp_path / "out") == expected
    assert {path: path.stat().st_mtime_ns for path in whole} == whole
    assert len(read) < 30 or not whole
    # once more: nothing is left to do
    read.clear()
    make_shards(photos, tmp_path / "out")
    assert not read


def test_a_shard_that_was_cut_short_is_written_again(photos: Path, tmp_path: Path, monkeypatch) -> None:
    expected = digests(make_shards(photos, tmp_path / "expected"))
    monkeypatch.setattr(write, "write_index", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        make_shards(photos, tmp_path / "out")
    monkeypatch.undo()
    path = tmp_path / "out/train-00001.tar"
    path.write_bytes(path.read_bytes()[:700])
    make_shards(photos, tmp_path / "out")
    assert digests(tmp_path / "out") == expected


def test_other_data_do_not_go_into_the_same_folder(photos: Path, tmp_path: Path, capsys) -> None:
    make_shards(photos, tmp_path / "out")
    for flags in (["--seed", "3"], ["--order", "given"]):
        with pytest.raises(SystemExit):
            make_shards(photos, tmp_path / "out", *flags)
        assert "holds no shards of these data and settings: choose another --out" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    with pytest.raises(SystemExit):
        make_shards(photos, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_broken_files_are_left_out_counted_and_listed(photos: Path, tmp_path: Path, capsys) -> None:
    (photos / "cat/00.a b.ü.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    out = make_shards(photos, tmp_path / "out")
    assert "left out: 1 broken" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "index/skipped.jsonl").read_text().splitlines()]
    assert [(row["file"], row["kind"]) for row in rows] == [("cat/00.a b.ü.png", "broken")]
    # the number of every other sample stays
    assert list(open_images(out, split="train").files) == list(open_images(photos, split="train").files)
    for number in range(1, 9):
        (photos / f"cat/{2 * number:02d}.a b.ü.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        make_shards(photos, tmp_path / "many")
    assert "cannot be used, more than the allowed 5%" in capsys.readouterr().err


def test_several_roots_and_tables_become_one_set(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_pictures(tmp_path / name, 8, (name,))
        rows = "".join(f"{name}/{n:02d}.a b.ü.png,{name},{'val' if n == 3 else 'train'}\n" for n in range(8))
        (tmp_path / name / "labels.csv").write_text("file,kind,split\n" + rows, encoding="utf-8")
    shard.main(["--data", str(tmp_path / "first"), str(tmp_path / "second"), "--out", str(tmp_path / "out"),
                "--workers", "0"])  # fmt: skip
    loose = open_images([tmp_path / "first", tmp_path / "second"], split="val")
    ours = open_images(tmp_path / "out", split="val")
    assert list(ours.files) == list(loose.files) == ["first/first/03.a b.ü.png", "second/second/03.a b.ü.png"]
    assert ours.column("kind") == loose.column("kind") == ["first", "second"]
    assert not ours.held_out


def test_a_sample_larger_than_a_shard_has_one_of_its_own(photos: Path, tmp_path: Path) -> None:
    out = make_shards(photos, tmp_path / "out", megabytes=0.0001)
    assert len(list(out.glob("*.tar"))) == 30
    assert len(open_images(out)) == 30


def test_data_that_change_meanwhile_are_noticed(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    pieces = shard._pieces
    monkeypatch.setattr(shard, "_pieces", lambda source, index: [*pieces(source, index), b"more"])
    with pytest.raises(SystemExit):
        make_shards(photos, tmp_path / "out")
    assert "leave the data alone while it is sharded, and start again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard-megabytes", "0"], "--shard-megabytes 0 is impossible"),
        (["--workers", "-1"], "--workers -1 is impossible"),
        (["--kind", "text", "--order", "shuffled"], "--order shuffled is not for texts"),
    ],
)
def test_mistakes_are_one_sentence(photos: Path, tmp_path: Path, capsys, flags: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as end:
        shard.main(["--data", str(photos), "--out", str(tmp_path / "out"), *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_member_of_eight_gigabytes_gets_a_header_that_can_say_so() -> None:
    for size in (0, 2**33 - 1, 2**33, 2**40):
        raw = write.tar_header("000000000001.mp4", size)
        assert len(raw) % 512 == 0
        found = tarfile.TarInfo.frombuf(raw[-512:], "utf-8", "strict")
        assert found.name == "000000000001.mp4"
        assert found.size == size or b" size=%d\n" % size in raw
