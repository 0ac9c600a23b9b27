"""Labelled texts: tables with a label a row, or folders with one folder a class.

    found = open_labelled_texts("sst2.tsv.gz", label="label")
    found.train.texts[3], found.train.targets[3], found.names

``data`` may be a .tsv (no quoting), .csv or .jsonl file whose columns are named, a folder of such files, or a folder
with one folder of .txt files a class; any of them compressed with gzip. The text is in the column ``text`` (or
``sentence``).

**Splits.** By a column ``split``, by folders named train, val or test, or by such words in file names (train.tsv,
sst2_dev.tsv). The test part is ``test``, or ``val`` where there is no test. Where nothing is said, a fifth is kept back
as the test part by a hash of the text: the same texts every time, whatever else is added, and the same text is never on
both sides.
"""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int64

from mmssl.data.labels import SPLIT_NAMES, LabelTable, folder_classes, folder_splits
from mmssl.data.text.decoding import NotTextError, decode, look_at_bytes, whole_characters
from mmssl.data.text.files import BROKEN, list_files, streams, why
from mmssl.errors import UserError

TEXT_COLUMNS = ("text", "sentence")
HELD_OUT_EVERY = 5
TABLES = (".tsv", ".csv", ".jsonl", ".ndjson")
LONGEST = 2**24
"""Characters that a field of a table may have."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class LabelledPart:
    """Texts and the class of each."""

    texts: list[str]
    targets: Int64[np.ndarray, " text"]
    """Class number by text."""


@dataclass(frozen=True)
class LabelledTexts:
    """What :func:`open_labelled_texts` found."""

    train: LabelledPart
    test: LabelledPart
    names: list[str]
    """Class names by class number; both parts have the same."""
    label: str | None
    """The column they come from; None for folders."""
    notes: list[str]
    """What was left out, and how the parts were made, in sentences for the user."""


def open_labelled_texts(data: str | Path, *, label: str | None = None) -> LabelledTexts:
    """Find labelled texts and their two parts. Rows without text or label are left out, counted, and said.

    Raises UserError where there are no texts, no column of texts, no labels or several columns to choose from, a single
    class, or a part is empty.
    """
    rows, notes = _read_all(Path(data), label)
    in_folders = all("folder" in row for row in rows)
    if in_folders and label not in (None, "folder"):
        raise UserError(f"{data} has its classes as folders and no column '{label}': leave --label out")
    column = "folder" if in_folders else _label_column(str(data), rows, label)
    text_column = _text_column(str(data), rows)
    usable = [row for row in rows if row.get(text_column, "").strip() and row.get(column, "").strip()]
    if len(usable) < len(rows):
        notes.append(f"{len(rows) - len(usable)} of {len(rows)} rows have no text or no '{column}' and are left out")
    found = Counter(row[column].strip() for row in usable)
    if len(found) < 2:
        missing = "no text in a class folder" if in_folders else f"no text with a '{column}'"
        what = f"the single class '{next(iter(found))}'" if found else missing
        raise UserError(f"{data} has {what}: a probe needs texts of at least two classes")
    # a table without the texts, whose numbers stand for the names of files
    table = LabelTable([{**row, text_column: "", "file": str(number)} for number, row in enumerate(usable)], str(data))
    targets, names = table.targets([str(number) for number in range(len(usable))], column)
    texts = [row[text_column] for row in usable]
    splits = _splits(texts, [row.get("split", "").strip().lower() for row in usable], notes)
    parts = [_part(str(data), texts, targets, splits, which) for which in ("train", "test")]
    return LabelledTexts(*parts, names=names, label=None if in_folders else column, notes=notes)


def _label_column(data: str, rows: Sequence[Row], label: str | None) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    choices = [name for name in columns if name not in ("split", *TEXT_COLUMNS) and not name.endswith("_name")]
    if label is not None:
        if label not in columns:
            raise UserError(f"{data} has no column '{label}': choose one of {', '.join(choices) or 'none'}")
        return label
    if "label" in choices or len(choices) == 1:
        return "label" if "label" in choices else choices[0]
    if choices:
        raise UserError(f"{data} has several columns that may be the label: choose one with --label ({_list(choices)})")
    raise UserError(f"{data} has no labels: add a column 'label', or put the texts into one folder a class")


def _text_column(data: str, rows: Sequence[Row]) -> str:
    for column in TEXT_COLUMNS:
        if any(column in row for row in rows):
            return column
    columns = list(dict.fromkeys(name for row in rows for name in row))
    raise UserError(f"{data} has no column 'text' (it has {_list(columns)}): name the column of the texts so")


def _list(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:10])


def _splits(texts: Sequence[str], said: Sequence[str], notes: list[str]) -> list[str]:
    """``train`` or ``test`` for each text, or another word for one that is in neither."""
    splits = [SPLIT_NAMES.get(split, split) for split in said]
    if "train" in splits and {"test", "val"} & set(splits):
        tested = "test" if "test" in splits else "val"
        unused = sum(split not in ("train", tested) for split in splits)
        if unused:
            notes.append(f"{unused} texts are in neither the train nor the {tested} part and are left out")
        return ["test" if split == tested else "train" if split == "train" else "" for split in splits]
    notes.append(f"there are no train and test parts: every {HELD_OUT_EVERY}th text is kept back, by a hash of it")
    return ["train" if _hash(text) % HELD_OUT_EVERY else "test" for text in texts]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.strip().encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _part(
    data: str, texts: Sequence[str], targets: Int64[np.ndarray, " text"], splits: Sequence[str], which: str
) -> LabelledPart:
    chosen = [number for number, split in enumerate(splits) if split == which]
    if not chosen:
        raise UserError(f"{data} has no text in its {which} part: add some, or leave the column 'split' out")
    if which == "train" and len(np.unique(targets[chosen])) < 2:
        raise UserError(f"{data} has a single class in its train part: a probe needs texts of at least two")
    return LabelledPart([texts[number] for number in chosen], targets[chosen])


def _read_all(path: Path, label: str | None) -> tuple[list[Row], list[str]]:
    """All rows of all files, or a row a file with its ``folder``; and what could not be read."""
    files, _ = list_files(path)
    tables = [file for file in files if file.form in TABLES]
    if tables and label != "folder":
        files = tables
    elif not path.is_dir():
        raise UserError(f"{path} says no labels: give a table (.tsv, .csv, .jsonl) or a folder with one folder a class")
    names = [file.name for file in files]
    splits = folder_splits(names)
    classes = folder_classes(names, splits)
    rows: list[Row] = []
    notes = []
    for number, stream in streams(files):
        name = names[number]
        try:
            text = _read(stream)
            if files[number].form in TABLES:
                split = splits[number] or _split_of(name)
                rows += ({"split": split, **row} if split else row for row in _rows(text, files[number].form))
            else:
                rows.append({"text": text, "folder": classes[number], "split": splits[number] or ""})
        except NotTextError as error:
            notes.append(f"{name} is left out: {error}")
    if not rows:
        raise UserError(f"{path} holds no labelled texts{f' ({notes[0]})' if notes else ''}: give a table or folders")
    return rows, notes


def _split_of(name: str) -> str:
    """The split that the first or the last word of a file's name says: train.tsv, sst2_dev.tsv.gz."""
    words = re.findall("[a-z]+", PurePosixPath(name).name.lower().split(".")[0]) or [""]
    said = {SPLIT_NAMES.get(word) for word in (words[0], words[-1])} - {None}
    return said.pop() or "" if len(said) == 1 else ""


def _read(stream: Any) -> str:
    """The whole text of a file: labelled sets are small."""
    if isinstance(stream, BaseException):
        raise NotTextError("unreadable", why(stream))
    try:
        raw = stream.read()
    except BROKEN as error:
        raise NotTextError("broken", why(error)) from None
    return "".join(decode(io.BytesIO(raw), look_at_bytes(io.BytesIO(raw)).name))


def _rows(text: str, form: str) -> Iterator[Row]:
    """Rows of a table; values that are no strings as JSON writes them."""
    if form in (".tsv", ".csv"):
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
        quoting: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if form == ".tsv" else {}
        try:
            for row in csv.DictReader(io.StringIO(text), **quoting):
                yield {name: value for name, value in row.items() if name and isinstance(value, str)}
        except csv.Error as error:
            raise NotTextError("broken", f"it cannot be read as {form[1:].upper()} ({error})") from None
        return
    for line in text.split("\n"):
        if line.strip():
            yield _json_row(line)


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    values = {name: value for name, value in row.items() if value is not None} if isinstance(row, dict) else {}
    return {
        name: whole_characters(value) if isinstance(value, str) else json.dumps(value) for name, value in values.items()
    }
