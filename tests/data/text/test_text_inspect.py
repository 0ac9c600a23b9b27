import json
from pathlib import Path

import pytest
from text_files import small_tokenizer, write_lines

from mmssl import cli
from mmssl.data.kind import kind_of
from mmssl.data.text.inspect import inspect_texts


def test_the_report_counts_and_is_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    write_lines(data / "train.txt", 40)
    write_lines(data / "valid.txt", 10, 1)
    (data / "empty.txt").write_text("")
    small_tokenizer().save(tmp_path / "tokenizer")
    report = inspect_texts(data, documents="line", tokenizer=tmp_path / "tokenizer")
    assert json.loads(json.dumps(report)) == report
    assert (report["documents"], report["splits"]) == (50, {"train": 40, "val": 10})
    assert report["unknown"] == 0
    assert report["words"] < report["tokens"]
    cli.main(["inspect", str(data), "--documents", "line"])
    text = " ".join(capsys.readouterr().out.split())
    for piece in (
        "3 files of text: looking at the text",
        "50 from 2 files",
        "train 40, val 10",
        "2 files: lines are documents",
        "most frequent tokens",
        "empty.txt: the file is empty",
    ):
        assert piece in text


def test_what_a_path_holds(tmp_path: Path) -> None:
    write_lines(tmp_path / "text/a.txt", 2)
    (tmp_path / "text/one.png").write_bytes(b"")
    (tmp_path / "text/README.md").write_text("words")
    (tmp_path / "list.txt").write_text("a/b.png\n")
    assert kind_of(tmp_path / "list.txt")[0] == "images"
    assert kind_of(tmp_path / "text/a.txt")[0] == "text"
    kind, said = kind_of(tmp_path / "text")
    assert kind == "images"
    assert said == "1 picture, 1 file of text: looking at the images; --kind text looks at the others"
    assert kind_of(tmp_path / "missing")[0] == "images"
