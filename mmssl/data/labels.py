"""Which split and which classes a file belongs to: by labels.csv or manifest.jsonl, or by the folders it lies in."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int64

from mmssl.errors import UserError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# columns that describe a file and are no classes
_NOT_LABELS = frozenset({
    "file", "split", "width", "height", "bytes", "id", "text", "words", "seconds", "fps", "frames", "licence",
    "license", "source", "phones", "face", "mouth", "mouth_opening", "eyes_shut",
})  # fmt: skip


_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class LabelTable:
    """What is known of files beside their content: rows of a labels.csv, a manifest.jsonl or a Hugging Face dataset.

    Args:
        rows: each with the file's name under ``file``.
        origin: where they came from, for messages.
        prefix: what stands before our names in ``file``, e.g. "images/" when only that folder was opened.
    """

    def __init__(self, rows: Sequence[Mapping[str, str]], origin: str, prefix: str = "") -> None:
        self.origin, self._prefix = origin, prefix
        if not rows or "file" not in rows[0]:
            raise UserError(f"{origin} has no 'file' column or no rows: its first line must name the columns")
        self.columns = [name for name in rows[0] if name and name not in _NOT_LABELS and not name.endswith("_name")]
        self._known = set(rows[0])
        self.has_split = "split" in rows[0]
        self._rows = {PurePosixPath(row["file"]).as_posix(): row for row in rows if row["file"]}

    @classmethod
    def from_csv(cls, text: str, origin: str, prefix: str = "") -> "LabelTable":
        """From a CSV whose first line names the columns. Raises UserError when it cannot be parsed."""
        try:
            return cls(list(csv.DictReader(io.StringIO(text))), origin, prefix)
        except csv.Error as error:
            raise UserError(f"{origin} cannot be read as CSV ({error}): write it again") from None

    @classmethod
    def from_jsonl(cls, text: str, origin: str, prefix: str = "") -> "LabelTable":
        """From one JSON object a line. Strings stay as they are, null is no value, all else is kept as JSON."""
        rows = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{origin} has no JSON object in line {number}: write one object a line")
            rows.append({name: _as_text(value) for name, value in row.items()})
        columns = dict.fromkeys(name for row in rows for name in row)
        return cls([{name: row.get(name, "") for name in columns} for row in rows], origin, prefix)

    @classmethod
    def parse(cls, text: str, origin: str, prefix: str = "") -> "LabelTable":
        """From a file whose name says which of the two it is."""
        return (cls.from_jsonl if origin.lower().endswith(".jsonl") else cls.from_csv)(text, origin, prefix)

    @property
    def files(self) -> list[str]:
        return list(self._rows)

    def has(self, column: str) -> bool:
        return column in self._known

    def row(self, name: str) -> Mapping[str, str] | None:
        return self._rows.get(self._prefix + name) or self._rows.get(name)

    def split(self, name: str) -> str | None:
        value = ((self.row(name) or {}).get("split") or "").strip()
        return SPLIT_NAMES.get(value.lower(), value) or None

    def default_column(self) -> str | None:
        """The column meant when none is named: ``label``, or the only one there is."""
        if "label" in self.columns or len(self.columns) == 1:
            return "label" if "label" in self.columns else self.columns[0]
        return None

    def targets(self, names: Sequence[str], column: str) -> tuple[Int64[np.ndarray, " file"], list[str]]:
        """Class index of each file, and the class names; classes are those of the whole table, not of these files.

        Numbers 0 ... K-1 are taken as they are, and named by a column ``<column>_name`` when there is one.
        """
        if column not in self._known:
            raise UserError(f"{self.origin} has no column '{column}': choose one of {', '.join(self.columns)}")
        rows = [self.row(name) for name in names]
        values = [(row.get(column) or "").strip() if row else "" for row in rows]
        missing = [name for name, value in zip(names, values, strict=True) if not value]
        if missing:
            raise UserError(f"{self.origin} gives no '{column}' for {len(missing)} files (first: {missing[0]}): add it")
        everything = {(row.get(column) or "").strip() for row in self._rows.values()} - {""}
        if all(value.isdecimal() and len(value) < 10 for value in everything):
            classes = sorted(everything, key=int)
            numbers = [int(value) for value in classes]
            if numbers == list(range(len(numbers))):
                return np.array([int(value) for value in values], np.int64), self._names(column, classes)
        classes = sorted(everything)
        place = {value: number for number, value in enumerate(classes)}
        return np.array([place[value] for value in values], np.int64), self._names(column, classes)

    def _names(self, column: str, classes: list[str]) -> list[str]:
        """Readable names from the column beside it, when they correspond one to one."""
        pairs = {(row.get(column) or "", row.get(f"{column}_name") or "") for row in self._rows.values()}
        names = dict(pairs)
        if len(pairs) == len(classes) == len(set(names.values()) - {""}):
            return [names[value] for value in classes]
        return classes


def _as_text(value: object) -> str:
    if isinstance(value, str):
        # JSON can spell halves of characters; those that stand for odd bytes of a name are kept
        return _HALVES.sub("\N{REPLACEMENT CHARACTER}", value)
    return "" if value is None else json.dumps(value)


def common_folder(names: Sequence[str]) -> str:
    """The folder all files lie in, with a slash at its end, down to a folder that is named like a split."""
    if not names:
        return ""
    shared: list[str] = []
    for parts in zip(*(name.split("/")[:-1] for name in (min(names), max(names))), strict=False):
        if parts[0] != parts[1] or parts[0].lower() in SPLIT_NAMES:
            break
        shared.append(parts[0])
    return "".join(part + "/" for part in shared)


def folder_splits(names: Sequence[str]) -> list[str | None]:
    """The split of each file by its top folder, when there is a train folder (or only folders named like splits)."""
    start = len(common_folder(names))
    tops = [name[start:].split("/")[0].lower() if "/" in name[start:] else "" for name in names]
    found = set(tops)
    if any(SPLIT_NAMES.get(top) == "train" for top in found) or (found and found <= set(SPLIT_NAMES)):
        return [SPLIT_NAMES.get(top) for top in tops]
    return [None] * len(names)


def folder_classes(names: Sequence[str], splits: Sequence[str | None]) -> list[str]:
    """The folder of each file below its split, e.g. "cat" for train/cat/1.jpg; "" for a file outside class folders."""
    start = len(common_folder(names))
    classes = []
    for name, split in zip(names, splits, strict=True):
        folders = name[start:].split("/")[:-1]
        classes.append("/".join(folders[1:] if split is not None else folders))
    return classes
