import bz2
import gzip
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from text_files import sentences, shared, write_lines

from mmssl.data.skipped import write_skipped
from mmssl.data.text import open_texts
from mmssl.errors import UserError

PACK = shared("bad_inputs/text")
ENGLISH = shared("text_english")


def test_a_file_a_document(tmp_path: Path) -> None:
    for number in range(5):
        write_lines(tmp_path / f"deep/{number}.txt", 4, number)
    source = open_texts(tmp_path)
    assert len(source) == 5
    assert list(source)[3] == "\n".join(sentences(4, 3))
    assert source.notes == ["5 files: a file is a document"]
    assert source.name_of(2) == "deep/2.txt:1"


def test_lines_and_blocks_said_outright(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\r\ntwo\r\n\r\n   \r\nthree\rfour\n")
    assert list(open_texts(tmp_path, documents="line")) == ["one", "two", "three", "four"]
    blocks = open_texts(tmp_path, documents="block")
    assert list(blocks) == ["one\ntwo", "three\nfour"]
    assert [blocks.name_of(i) for i in range(2)] == ["a.txt:1", "a.txt:5"]
    assert list(open_texts(tmp_path, documents="file")) == ["one\ntwo\n\n   \nthree\nfour"]
    with pytest.raises(UserError, match="documents 'page' is unknown"):
        open_texts(tmp_path, documents="page")  # type: ignore[arg-type]


def test_auto_joins_lines_and_blocks_of_large_files(tmp_path: Path) -> None:
    lines = sentences(1500)
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    (tmp_path / "blocks.txt").write_text("\n\n".join(lines))
    source = open_texts(tmp_path)
    texts = list(source)
    assert "1 file: lines are joined up to 1,000 characters or more" in source.notes
    assert "1 file: blank-line blocks are joined up to 1,000 characters or more" in source.notes
    assert sum(len(text) < 950 for text in texts) <= 2
    assert max(map(len, texts)) < 1500
    assert sorted("\n".join(texts).split()) == sorted(2 * " ".join(lines).split())


def test_tables_and_json(tmp_path: Path) -> None:
    rows = [{"text": "first"}, {"text": "  "}, {"other": 1}, {"text": "half \ud800 pair"}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\nnot json\n")
    (tmp_path / "b.tsv").write_text('split\ttext\ntrain\t"quoted\ndev\tsecond\n')
    with gzip.open(tmp_path / "c.csv.gz", "wt") as file:
        file.write('text,split\n"two\nlines, one field",test\n')
    source = open_texts(tmp_path)
    assert list(source) == ["first", "half \ufffd pair", '"quoted', "second", "two\nlines, one field"]
    assert source.splits == {"train": 3, "val": 1, "test": 1}
    assert any(note.startswith("3 rows without text left out") for note in source.notes)
    assert list(open_texts(tmp_path, split="valid")) == ["second"]
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    assert "no column 'text' (columns: a, b)" in open_texts(tmp_path).skipped[0].reason
    assert list(open_texts(tmp_path / "d.csv", text_column="b")) == ["2"]


def test_parquet_and_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("pyarrow")
    rows = datasets.Dataset.from_dict({"text": ["one", "two", None], "label": [0, 1, 1]})
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    assert list(open_texts(tmp_path / "rows.parquet")) == ["one", "two"]
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(str(tmp_path / "saved"))
    source = open_texts(tmp_path / "saved")
    assert source.splits == {"train": 2, "val": 2}
    assert list(open_texts(tmp_path / "saved", split="val")) == ["one", "two"]
    with pytest.raises(UserError, match="no column 'body'"):
        open_texts(tmp_path / "saved", text_column="body")


def test_parquet_without_pyarrow_is_skipped_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(tmp_path / "a.txt", 3)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install" in open_texts(tmp_path).skipped[0].reason


def test_tar_files_are_streamed_and_their_names_never_touch_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "books.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("../../evil.txt", "/absolute.txt", "books/c.txt.gz", "books/x.bin"):
            text = name.encode()
            data = gzip.compress(text, mtime=0) if name.endswith("gz") else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    before = sorted(tmp_path.parent.rglob("*"))
    source = open_texts(tmp_path)
    assert list(source) == ["/absolute.txt", "books/c.txt.gz"]
    assert sorted(tmp_path.parent.rglob("*")) == before
    # within the first member: the time in the headers changes how long the whole is
    (tmp_path / "cut.tar.gz").write_bytes(path.read_bytes()[:90])
    assert {item.file for item in open_texts(tmp_path).skipped} >= {"cut.tar.gz"}


def test_splits_by_folder_file_name_and_hash(tmp_path: Path) -> None:
    write_lines(tmp_path / "names/wiki_train.txt", 30)
    write_lines(tmp_path / "names/wiki_valid.txt", 10, 1)
    source = open_texts(tmp_path / "names", documents="line")
    assert (source.splits, source.held_out) == ({"train": 30, "val": 10}, False)
    write_lines(tmp_path / "folders/train/a.txt", 30)
    write_lines(tmp_path / "folders/test/a.txt", 10, 1)
    source = open_texts(tmp_path / "folders", documents="line")
    assert source.held_out
    assert source.splits["test"] == 10
    with pytest.raises(UserError, match="has no split 'dev2': choose one of train, val, test"):
        open_texts(tmp_path / "folders", split="dev2", documents="line")


def test_the_hold_out_is_stable_and_separates(tmp_path: Path) -> None:
    lines = sentences(2000)
    (tmp_path / "a.txt").write_text("\n".join(lines))
    train, val = (set(open_texts(tmp_path, split=split, documents="line")) for split in ("train", "val"))
    assert not train & val
    assert train | val == set(lines)
    assert 60 < len(val) < 140
    (tmp_path / "a.txt").write_text("\n".join(["Something new.", *lines]))
    assert set(open_texts(tmp_path, split="val", documents="line")) - {"Something new."} == val


def test_several_paths(tmp_path: Path) -> None:
    a, b = write_lines(tmp_path / "a/train.txt", 5), write_lines(tmp_path / "b/x.txt", 6)
    source = open_texts([a.parent, b.parent], documents="line")
    assert len(source) == 11
    assert source.name_of(10) == "b/x.txt:6"


@pytest.mark.skipif(not PACK.exists(), reason="the shared data are not there")
def test_each_file_of_the_bad_pack(tmp_path: Path) -> None:
    def only(name: str) -> str:
        return "|".join(open_texts(PACK / name, documents="file"))

    assert only("crlf.txt") == only("latin1.txt") == only("utf16_bom.txt")
    assert only("crlf.txt") == "It was a dark night.\nThe café closed at 9."
    assert only("emoji_zwj.txt").startswith("\U0001f469\u200d\U0001f469")
    assert only("nul_bytes.txt") == "abcdefghi"
    assert len(only("one_long_line.txt").split()) == 40_000
    with pytest.raises(UserError, match="the file is empty"):
        only("empty.txt")
    source = open_texts(PACK)
    assert any("windows-1252" in note and "latin1.txt" in note for note in source.notes)
    assert any("utf-16" in note for note in source.notes)
    assert any(note.startswith("3 NUL bytes removed") for note in source.notes)
    rows = [json.loads(line) for line in write_skipped(tmp_path, source).read_text().splitlines()]
    assert [(row["file"], row["kind"]) for row in rows] == [("empty.txt", "empty")]


def test_broken_files_are_skipped_and_the_rest_used(tmp_path: Path) -> None:
    write_lines(tmp_path / "good.txt", 3)
    packed = gzip.compress(b"some text " * 10000)
    (tmp_path / "cut.txt.gz").write_bytes(packed[:-20])
    (tmp_path / "noise.txt").write_bytes(bz2.compress(b"noise" * 999))
    (tmp_path / "half.txt").write_bytes("no mark".encode("utf-16-le"))
    (tmp_path / "blank.txt").write_text(" \n\n ")
    source = open_texts(tmp_path)
    assert len(source) == 1
    assert {item.file: item.kind for item in source.skipped} == {
        "cut.txt.gz": "broken",
        "noise.txt": "broken",
        "half.txt": "broken",
        "blank.txt": "empty",
    }


def test_many_broken_files_stop_the_run(tmp_path: Path) -> None:
    for number in range(25):
        write_lines(tmp_path / f"{number}.txt", 2, number)
    (tmp_path / "x.txt").write_bytes(b"\0\1" * 50)
    open_texts(tmp_path)
    (tmp_path / "y.txt").write_bytes(b"\0\1" * 50)
    with pytest.raises(UserError, match=r"2 of \d+ text files .* more than the allowed 5%"):
        open_texts(tmp_path)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_texts(tmp_path / "missing")
    with pytest.raises(UserError, match="holds no text"):
        open_texts(tmp_path)
    (tmp_path / "x.png").write_bytes(b"1")
    with pytest.raises(UserError, match=r"holds no text \(1 files were skipped, such as x.png"):
        open_texts(tmp_path)
    with pytest.raises(UserError, match="neither a folder, a tar nor a text file"):
        open_texts(tmp_path / "x.png")


def test_one_enormous_line_in_bounded_memory(tmp_path: Path) -> None:
    """40 MB in one line; in a process of its own, whose peak memory is its own."""
    with (tmp_path / "line.txt").open("w") as file:
        for _ in range(40):
            file.write("word " * 200_000)
    program = (
        "import resource, sys; from mmssl.data.text import open_texts\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "source = open_texts(sys.argv[1])\n"
        "longest = max(map(len, source)); words = sum(len(text.split()) for text in source)\n"
        "print(longest, words, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "line.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    longest, words, kilobytes = map(int, done.stdout.split())
    assert longest <= 2**18
    assert words == 8_000_000
    assert kilobytes < 30_000


@pytest.mark.skipif(not ENGLISH.exists(), reason="the shared data are not there")
def test_the_shared_texts() -> None:
    source = open_texts([ENGLISH / "wikitext2_train.txt.gz", ENGLISH / "wikitext2_valid.txt.gz"])
    assert source.splits.keys() == {"train", "val"}
    assert not source.held_out
    books = open_texts(ENGLISH / "books.tar.gz")
    assert len(books.files) == 18
    assert open_texts(ENGLISH / "sst2.tsv.gz").splits == {"train": 6920, "val": 872}
