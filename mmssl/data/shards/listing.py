"""The samples of a set of shards as a listing of files: names, splits, labels and facts, from the index alone."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int64

from mmssl.data.labels import SPLIT_NAMES, LabelTable
from mmssl.data.limits import MediaError
from mmssl.data.parts import Entry, Listing, Part
from mmssl.data.shards.index import Kind, Shard, ShardIndex
from mmssl.data.shards.store import ShardStore, open_index
from mmssl.errors import UserError

_KINDS: dict[str, tuple[Kind, ...]] = {
    "images": ("images",), "recordings": ("audio", "video"), "videos": ("video",), "texts": ("text",),
}  # fmt: skip


class ShardRows:
    """The rows of a source: a split, or some of it."""

    def __init__(self, store: ShardStore, rows: range | Int64[np.ndarray, " sample"], split: str | None) -> None:
        self.store, self.index, self.rows, self.split = store, store.index, rows, split

    def subset(self, chosen: Sequence[int]) -> "ShardRows":
        """Some of them."""
        numbers = np.asarray(chosen, np.int64)
        rows = self.rows.start + numbers if isinstance(self.rows, range) else self.rows[numbers]
        return ShardRows(self.store, rows, None)

    @property
    def files(self) -> Sequence[str]:
        """Names, in the order of numbers."""
        if isinstance(self.rows, range):
            return self.index.texts("name", self.rows)
        return [self.store.names[int(row)] for row in self.rows.tolist()]

    def fingerprint(self) -> str | None:
        """That of the files the split was made of; None where this is no whole split."""
        return None if self.split is None else self.index.facts.splits[self.split].fingerprint

    def column(self, name: str) -> np.ndarray | None:
        """A column of the index for these rows; None where the set has none such."""
        if not self.index.has(name):
            return None
        return self.index.column(name)[self._selection]

    @property
    def _selection(self) -> "slice | Int64[np.ndarray, ' sample']":
        return slice(self.rows.start, self.rows.stop) if isinstance(self.rows, range) else self.rows

    @property
    def layout(self) -> str:
        """Tells shards from others that were made of the same samples with another size or seed."""
        return self.index.facts.plan[:8]

    @property
    def least(self) -> tuple[int, int] | None:
        """Smallest height and width of pictures; None where this is no whole split."""
        return None if self.split is None else self.index.facts.splits[self.split].least

    def records(self) -> list[Any] | None:
        """What decoders know of every recording, as lists; None where it is not known."""
        if (numbers := self.column("header")) is None:
            return None
        records = [json.loads(text) for text in self.index.texts("headers")]
        return [records[number] for number in numbers.tolist()]

    def failures(self) -> dict[int, MediaError]:
        """Samples that were left out, by number."""
        if isinstance(self.rows, range):
            rows = self.index.broken(self.rows)
            numbers = rows - self.rows.start
        else:
            numbers = np.flatnonzero(np.isin(self.rows, self.index.broken(range(self.index.count))))
            rows = self.rows[numbers]
        return {number: self.index.reason(row) for number, row in zip(numbers.tolist(), rows.tolist(), strict=True)}

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Those of the split; all where this is no whole split."""
        if self.split is None:
            return self.index.facts.shards
        first, last = self.index.facts.splits[self.split].shards
        return self.index.facts.shards[first:last]

    def window(self) -> int | None:
        """See :meth:`ShardStore.window`; None where this is no whole split."""
        return None if self.split is None else self.store.window(self.shards)

    def sequence(self) -> Int64[np.ndarray, " sample"] | range:
        """The numbers in an order that reads one shard after the other, as far as they are remote."""
        if self.store.cache is None:
            return range(len(self.rows))
        columns = (self.index.column(name)[self._selection] for name in ("block", "shard"))
        return np.lexsort(tuple(columns)).astype(np.int64)


class ShardEntries(Sequence[Entry]):
    """The files of a split, made when they are asked for."""

    def __init__(self, index: ShardIndex, rows: range) -> None:
        self._index, self.rows = index, rows
        self._files, self._classes = index.texts("name", rows), ("", *index.facts.classes)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> "ShardEntries": ...
    def __getitem__(self, place: int | slice) -> "Entry | ShardEntries":
        if isinstance(place, slice):
            return ShardEntries(self._index, self.rows[place])
        row = self.rows[int(place)]
        folder = self._classes[int(self._index.column("folder")[row])] if self._index.has("folder") else ""
        return Entry(0, row, self._files[int(place)], self._split(row), folder)

    def _split(self, row: int) -> str | None:
        for name, split in self._index.facts.splits.items():
            if split.rows[0] <= row < split.rows[1]:
                return name or None
        return None


class ShardTable(LabelTable):
    """What labels.csv or manifest.jsonl said, read from the index when it is first asked for."""

    def __init__(self, index: ShardIndex, columns: Sequence[str]) -> None:
        self._index = index
        row = dict.fromkeys(("file", *columns), "-")
        super().__init__([row], index.name)
        del self._rows

    @functools.cached_property
    def _rows(self) -> Mapping[str, Mapping[str, str]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        index, names = self._index, self._index.texts("name")
        objects = [{name: str(value) for name, value in row.items()} for row in map(json.loads, index.texts("rows"))]
        numbers = index.column("row").tolist()
        return {file: {"file": file, **objects[number]} for file, number in zip(names, numbers, strict=True)}


def list_shards(data: str | Path, split: str | None, what: str) -> Listing:
    """The samples of a split; ``what`` they must be: "images", "recordings", "videos" or "texts".

    Raises UserError when there is no such split, or the set is of another kind.
    """
    store = open_index(data)
    index = store.index
    facts = index.facts
    if facts.kind not in _KINDS[what]:
        raise UserError(f"{index.name} holds shards of {facts.kind}, not {what}: give them to another recipe")
    splits = {name: found.rows[1] - found.rows[0] for name, found in facts.splits.items() if name}
    rows, chosen = range(index.count), None
    if split is not None:
        chosen = SPLIT_NAMES.get(split.lower(), split)
        if chosen not in splits:
            raise UserError(f"{index.name} has no split '{split}': choose one of {', '.join(sorted(splits))}")
        rows = range(*facts.splits[chosen].rows)
    # those that have a row are noted by whoever goes through the rows
    broken = {store.names[row] for row in index.broken(range(index.count)).tolist()}
    skipped = [item for item in index.skipped if item.file not in broken]
    table = None if facts.columns is None or not index.has("rows") else ShardTable(index, facts.columns)
    return Listing(
        [Part(store, "", table)], ShardEntries(index, rows), index.name, split, splits, facts.held_out,
        list(facts.classes), skipped, ShardRows(store, rows, chosen),
    )  # fmt: skip
