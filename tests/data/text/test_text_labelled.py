"""Labelled texts: where labels and parts come from, what is left out, what is refused, and the batches they become."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from text_files import shared

from mmssl.data.text.labelled import open_labelled_texts
from mmssl.data.text.tokenized import TokenizedTexts
from mmssl.data.text.training import train_tokenizer
from mmssl.errors import UserError

SHARED = shared("text_english")
ROWS = [("train", "0", "a bad film"), ("train", "1", "a good film"), ("val", "1", "a fine film"), ("val", "0", "awful")]


def table(path: Path, rows=ROWS, columns=("split", "label", "text"), separator="\t") -> Path:
    text = "".join(separator.join(row) + "\n" for row in (columns, *rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "a.csv", "a.csv.gz"])
def test_tables_with_a_split_column(tmp_path, name):
    found = open_labelled_texts(table(tmp_path / name, separator="\t" if "tsv" in name else ","))
    assert found.train.texts == ["a bad film", "a good film"]
    assert found.train.targets.tolist() == [0, 1]
    assert found.test.texts == ["a fine film", "awful"]
    assert found.test.targets.tolist() == [1, 0]
    assert (found.names, found.label, found.notes) == (["0", "1"], "label", [])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_with_numbers_and_a_test_part(tmp_path, name):
    rows = [{"split": split, "label": int(label), "sentence": text} for split, label, text in ROWS]
    rows += [
        {"split": "test", "label": 1, "sentence": "line\nbreak \ud83d"},
        {"split": "dev", "label": 0, "sentence": "x"},
    ]
    text = "\n".join(json.dumps(row) for row in rows) + "\nnot json\n[1]\n"
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    found = open_labelled_texts(file)
    assert found.test.texts == ["line\nbreak \ufffd"]
    assert found.notes == [
        "2 of 8 rows have no text or no 'label' and are left out",
        "3 texts are in neither the train nor the test part and are left out",
    ]


def test_tsv_has_no_quoting_and_csv_has(tmp_path):
    rows = [("train", "0", '"quoted'), ("train", "1", "b"), ("test", "1", "c")]
    assert open_labelled_texts(table(tmp_path / "a.tsv", rows)).train.texts[0] == '"quoted'
    rows[0] = ("train", "0", '"one, two"')
    assert open_labelled_texts(table(tmp_path / "a.csv", rows, separator=",")).train.texts[0] == "one, two"


def test_label_is_chosen_among_columns(tmp_path):
    rows = [("train", "A", "A:x", "one"), ("train", "B", "B:y", "two"), ("test", "B", "B:z", "three")]
    file = table(tmp_path / "trec.tsv", rows, ("split", "coarse", "fine", "text"))
    with pytest.raises(
        UserError, match=r"several columns that may be the label: choose one with --label \(coarse, fine\)"
    ):
        open_labelled_texts(file)
    assert open_labelled_texts(file, label="coarse").names == ["A", "B"]
    fine = open_labelled_texts(file, label="fine")  # classes are those of the whole table
    assert fine.names == ["A:x", "B:y", "B:z"]
    assert fine.test.targets.tolist() == [2]
    with pytest.raises(UserError, match="has no column 'finer': choose one of coarse, fine"):
        open_labelled_texts(file, label="finer")


def test_names_come_from_the_column_beside(tmp_path):
    rows = [("train", "0", "World", "one"), ("train", "1", "Sports", "two"), ("test", "1", "Sports", "three")]
    file = table(tmp_path / "news.tsv", rows, ("split", "label", "label_name", "text"))
    assert open_labelled_texts(file).names == ["World", "Sports"]


@pytest.mark.parametrize(
    "names", [("train.tsv", "dev.tsv"), ("sst2_train.tsv", "sst2_dev.tsv"), ("train/a.tsv", "test/a.tsv")]
)
def test_folder_of_tables(tmp_path, names):
    for name, rows in zip(names, (ROWS[:2], ROWS[2:]), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table(tmp_path / name, [row[1:] for row in rows], ("label", "text"))
    found = open_labelled_texts(tmp_path)
    assert found.train.texts == ["a bad film", "a good film"]
    assert found.test.texts == ["a fine film", "awful"]


def test_class_folders(tmp_path):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            for number in range(3):
                file = tmp_path / split / label / f"{number}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{split} {label} {number}")
    (tmp_path / "train/pos/empty.txt").write_bytes(b"")
    (tmp_path / "train/pos/picture.txt").write_bytes(b"\x00\x01" * 999)
    found = open_labelled_texts(tmp_path)
    assert found.names == ["neg", "pos"]
    assert found.label is None
    assert found.train.texts == [f"train {label} {number}" for label in ("neg", "pos") for number in range(3)]
    assert found.train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(found.test.texts) == 6
    assert any("empty.txt is left out: the file is empty" in note for note in found.notes)
    assert any("picture.txt is left out" in note for note in found.notes)
    with pytest.raises(UserError, match="its classes as folders and no column 'mood': leave --label out"):
        open_labelled_texts(tmp_path, label="mood")


def test_hold_out_is_stable_and_keeps_repeated_texts_together(tmp_path):
    rows = [(str(number % 2), f"text number {number}") for number in range(200)]
    found = open_labelled_texts(table(tmp_path / "a.tsv", rows + rows, ("label", "text")))
    assert not set(found.train.texts) & set(found.test.texts)
    assert 50 < len(found.test.texts) < 120
    more = open_labelled_texts(table(tmp_path / "b.tsv", [("0", "new"), *rows], ("label", "text")))
    assert set(found.test.texts) <= set(more.test.texts)
    assert "every 5th text is kept back" in found.notes[0]


def test_rows_without_text_or_label_are_left_out_and_said(tmp_path):
    rows = [*ROWS, ("train", "", "no label"), ("train", "1", "  "), ("train", "1")]
    found = open_labelled_texts(table(tmp_path / "a.tsv", rows))
    assert found.train.texts == ["a bad film", "a good film"]
    assert found.notes == ["3 of 7 rows have no text or no 'label' and are left out"]


@pytest.mark.parametrize(
    ("rows", "columns", "sentence"),
    [
        ([("train", "one")], ("split", "text"), "has no labels: add a column 'label'"),
        ([("0", "one"), ("1", "two")], ("label", "words"), r"has no column 'text' \(it has label, words\)"),
        ([("0", "one"), ("0", "two")], ("label", "text"), "has the single class '0': a probe needs texts of at least"),
        ([("", "one"), ("", "two")], ("label", "text"), "has no text with a 'label': a probe needs"),
        (
            [("train", "0", "a"), ("train", "0", "b"), ("test", "1", "c")],
            ("split", "label", "text"),
            "has a single class in its train part",
        ),
    ],
)
def test_what_is_no_labelled_text_is_refused_in_a_sentence(tmp_path, rows, columns, sentence):
    with pytest.raises(UserError, match=sentence):
        open_labelled_texts(table(tmp_path / "a.tsv", rows, columns))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_labelled_texts(tmp_path / "a.tsv")
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UserError, match="says no labels: give a table"):
        open_labelled_texts(tmp_path / "a.txt")
    with pytest.raises(UserError, match="no text in a class folder"):
        open_labelled_texts(tmp_path)
    (tmp_path / "b.tsv").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds no labelled texts \(b\.tsv is left out: the file is empty\)"):
        open_labelled_texts(tmp_path / "b.tsv")
    whole = gzip.compress(b"label\ttext\n" + b"0\twords\n" * 999)
    (tmp_path / "c.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"holds no labelled texts \(c\.tsv\.gz is left out"):
        open_labelled_texts(tmp_path / "c.tsv.gz")


TEXTS = ["a cat sat", "", "the cat sat on the mat and looked at a dog", "dog", "the dog sat on a cat " * 50, "a mat"]


def test_batches_hold_every_text_once_longest_first():
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 60)
    texts = TokenizedTexts(TEXTS, tokenizer, max_length=16, batch_tokens=40)
    batches = list(texts.batches())
    ids = np.concatenate([batch["id"].numpy() for batch in batches])
    assert ids.tolist() == texts.order.tolist() == [4, 2, 0, 5, 3, 1]
    assert len(batches) > 1
    for batch in batches:
        length, token, word = batch["length"], batch["token"], batch["word"]
        assert length.tolist() == sorted(length.tolist(), reverse=True)
        assert token.shape == word.shape == (len(length), int(length[0]))
        assert len(length) == 1 or token.numel() <= 40
        for row, text in enumerate(batch["id"].tolist()):
            encoded = tokenizer.encode([TEXTS[text]])[0]
            ids, words = encoded.ids[:14].tolist(), encoded.words[:14].tolist()
            pad = token.shape[1] - len(ids) - 2
            assert token[row].tolist() == [tokenizer.cls_id, *ids, tokenizer.sep_id] + [tokenizer.pad_id] * pad
            assert word[row].tolist() == [-1, *words, -1] + [-1] * pad
            assert length[row] == len(ids) + 2
    again = list(texts.batches())
    assert all((one["token"] == two["token"]).all() for one, two in zip(batches, again, strict=True))


def test_no_room_and_no_texts_are_refused():
    tokenizer = train_tokenizer(TEXTS, "wordpiece", 60)
    with pytest.raises(UserError, match="2 tokens leave no room"):
        TokenizedTexts(TEXTS, tokenizer, max_length=2)
    with pytest.raises(UserError, match="no texts"):
        TokenizedTexts([], tokenizer, max_length=8)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data")
@pytest.mark.parametrize(
    ("name", "label", "counts"),
    [("sst2", None, (6920, 872, 2)), ("agnews", None, (4800, 800, 4)), ("trec", "coarse", (4052, 450, 6))],
)
def test_public_sets(name, label, counts):
    found = open_labelled_texts(SHARED / f"{name}.tsv.gz", label=label)
    assert (len(found.train.texts), len(found.test.texts), len(found.names)) == counts
    assert found.notes == []
