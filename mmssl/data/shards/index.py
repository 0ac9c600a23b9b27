"""The index of a set of shards: columns on disk, memory-mapped, so that opening 10^8 samples takes no memory.

Every column is a .npy file without pickle, of the smallest unsigned type that its values fit into:

    size, shard, block, crc   bytes of a sample; number of its shard; where it begins there, in units of 512 bytes (tar
                              aligns to them); CRC-32 of its bytes. A sample that was left out has size 0
    stored                    per split, in the order in which samples are stored: place among the split's usable ones
    broken                    rows of samples that were left out, ascending
    name, name_start          all names as one UTF-8 blob, and where each begins (one more than there are names)
    folder                    class folder, by its number in the header
    row, rows, rows_start     what labels.csv or manifest.jsonl say of a sample: number of a JSON object, each kept once
    pixels                    height and width of pictures, upright: two numbers a row
    header, headers, ...      of recordings: what decoders know of them (frames, rate, coding), as JSON, stored once
    characters, file, line, part, files, ...   of documents of text

Rows are sorted by split, then by name: a split is a range of rows.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from jaxtyping import Int64

from mmssl.config import from_dict
from mmssl.data.limits import MediaError
from mmssl.data.shards import HEADER, INDEX
from mmssl.data.skipped import Skipped
from mmssl.errors import UserError

FORMAT = 1
"""Raised whenever an older reader would misread what is written."""
BLOCK = 512
"""Bytes that tar aligns to."""
SKIPPED = "skipped.jsonl"
Kind = Literal["images", "audio", "video", "text"]


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    file: str
    bytes: int
    digest: str
    """BLAKE2b of 16 bytes, in hexadecimal."""


@dataclass(frozen=True)
class Split:
    """A range of rows, and the shards that hold it."""

    rows: tuple[int, int]
    shards: tuple[int, int]
    stored: tuple[int, int]
    """Range of the column ``stored``: as long as there are usable samples."""
    starts: tuple[int, ...]
    """Place in stored order at which each of its shards begins."""
    fingerprint: str
    """That of the source it was made of."""
    least: tuple[int, int] = (0, 0)
    """Smallest height and width of its pictures."""


@dataclass(frozen=True)
class File:
    """A file of the index."""

    bytes: int
    digest: str


@dataclass(frozen=True)
class Facts:
    """The header."""

    format: int
    plan: str
    """Hash of everything that decided which bytes went where."""
    kind: Kind
    order: Literal["shuffled", "given"]
    seed: int
    held_out: bool
    """Whether "val" was cut from the training samples."""
    splits: dict[str, Split]
    classes: tuple[str, ...]
    columns: tuple[str, ...] | None
    """Columns of the labels, None without such a table."""
    shards: tuple[Shard, ...]
    index: dict[str, File]
    settings: dict[str, Any]
    """Of texts: how they were cut, and notes on their files."""


class Names(Sequence[str]):
    """Strings of the index, decoded when they are asked for; ``rows`` is the range that is seen."""

    def __init__(self, index: "ShardIndex", name: str, rows: range) -> None:
        self._index, self._name, self._rows = index, name, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Names": ...
    def __getitem__(self, place: int | slice) -> "str | Names":
        if isinstance(place, slice):
            return Names(self._index, self._name, self._rows[place])
        row, starts = self._rows[int(place)], self._index.column(f"{self._name}_start")
        # slices of arrays end where the array ends: nothing outside is ever read
        piece = self._index.column(self._name)[int(starts[row]) : int(starts[row + 1])]
        return piece.tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))


class ShardIndex:
    """The index of a folder.

    Args:
        folder: with shards.json and index/.
        name: what users call the set, for messages.

    Raises:
        UserError: when it is damaged or of another version.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.facts = parse_facts((folder / HEADER).read_bytes(), name)
        for file, known in self.facts.index.items():
            path = folder / INDEX / file
            size = path.stat().st_size if path.is_file() else -1
            if size != known.bytes:
                said = "is missing" if size < 0 else f"has {size:,} bytes instead of {known.bytes:,}"
                raise UserError(f"{name}: {INDEX}/{file} {said}: copy the set again, or shard it again")
        self._columns: dict[str, np.ndarray] = {}
        self.count = max((split.rows[1] for split in self.facts.splits.values()), default=0)
        for column in ("size", "shard", "block", "crc"):
            if self.column(column).shape != (self.count,):
                raise self.damaged(f"column '{column}' has not one entry for each of {self.count:,} samples")

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardIndex, (self.folder, self.name)  # maps would be copied

    def damaged(self, why: str) -> UserError:
        return UserError(f"{self.name}: its index is damaged ({why}): copy the set again, or shard it again")

    def has(self, name: str) -> bool:
        return f"{name}.npy" in self.facts.index

    def column(self, name: str) -> np.ndarray:
        """A column, memory-mapped."""
        if name not in self._columns:
            try:
                path = self.folder / INDEX / f"{name}.npy"
                column = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise self.damaged(f"{name}.npy cannot be read: {error}") from None
            if column.dtype.kind != "u":
                raise self.damaged(f"{name}.npy holds other than unsigned integers")
            self._columns[name] = column
        return self._columns[name]

    def texts(self, name: str, rows: range | None = None) -> Names:
        """A column of strings."""
        blob, starts = self.column(name), self.column(f"{name}_start")
        if not len(starts) or int(starts[-1]) != len(blob):
            raise self.damaged(f"{name}_start does not end where {name} does")
        return Names(self, name, range(len(starts) - 1) if rows is None else rows)

    @functools.cached_property
    def skipped(self) -> list[Skipped]:
        """Files that were left out, and why."""
        path = self.folder / INDEX / SKIPPED
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if path.is_file() else []
        return [Skipped(**json.loads(line)) for line in lines]

    @functools.cached_property
    def _skipped_files(self) -> dict[str, Skipped]:
        return {item.file: item for item in self.skipped}

    def reason(self, row: int) -> MediaError:
        """Why a sample was left out."""
        item = self._skipped_files.get(self.texts("name")[row])
        return MediaError(item.kind, item.reason) if item else MediaError("broken", "it was left out of the shards")

    def broken(self, rows: range) -> Int64[np.ndarray, " broken"]:
        """Rows of a range that were left out."""
        found = self.column("broken")
        low, high = np.searchsorted(found, (rows.start, rows.stop))
        return found[low:high].astype(np.int64)

    def row(self, number: int) -> Mapping[str, str]:
        """What the labels say of a sample."""
        return json.loads(self.texts("rows")[int(self.column("row")[number])])

    def place(self, row: int) -> tuple[int, int, int, int]:
        """Number of its shard, offset there, size and CRC-32 of a sample. Raises UserError when they cannot be."""
        shard, size = int(self.column("shard")[row]), int(self.column("size")[row])
        offset = int(self.column("block")[row]) * BLOCK
        if shard >= len(self.facts.shards) or offset + size > self.facts.shards[shard].bytes:
            raise MediaError("broken", str(self.damaged(f"row {row} points beyond the end of its shard")))
        return shard, offset, size, int(self.column("crc")[row])


def parse_facts(raw: bytes, name: str) -> Facts:
    """The header. Raises UserError when it is damaged or of another version."""
    try:
        data = json.loads(raw)
        found = data["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{name}: {HEADER} is damaged ({error}): copy the set again, or shard it again") from None
    if found != FORMAT:
        raise UserError(
            f"{name} was written by another version of mmssl (format {found}, not {FORMAT}): shard it again"
        )
    where = f"{name}: {HEADER}"
    try:
        # there may be 100,000 shards: one by one and by name they would take seconds
        shards = tuple(Shard(str(file), int(size), str(digest)) for file, size, digest in data.pop("shards"))
        data["splits"] = {key: from_dict(Split, value, where) for key, value in data["splits"].items()}
        data["index"] = {key: from_dict(File, value, where) for key, value in data["index"].items()}
        facts = replace(from_dict(Facts, {**data, "shards": ()}, where), shards=shards)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is damaged ({error}): copy the set again, or shard it again") from None
    # names of files to open and to fetch: never a path that leads elsewhere
    for file in (*facts.index, *(shard.file for shard in facts.shards)):
        if not file or file.startswith(".") or not set(file) <= _SAFE:
            raise UserError(f"{name}: {HEADER} is damaged ('{file}' is no name of a file): shard the set again")
    return facts


_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
