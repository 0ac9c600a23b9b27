"""Open a set of shards as a store of files: the same names, splits, labels and numbers as what it was made of.

Samples are read at their offsets: from the folder itself, or from shards that were fetched into a bounded cache.
"""

import fcntl
import functools
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Int64

from mmssl.data.labels import SPLIT_NAMES, LabelTable
from mmssl.data.limits import Limits, MediaError, read_bytes
from mmssl.data.parts import Entry, Listing, Part
from mmssl.data.shards import HEADER, INDEX
from mmssl.data.shards.cache import FEWEST, VARIABLE, Readahead, ShardCache, cache_folder, cache_limit, release
from mmssl.data.shards.index import Kind, Shard, ShardIndex, parse_facts
from mmssl.data.shards.remote import PIECE, Remote, is_url, local_path
from mmssl.data.stores import Extent
from mmssl.errors import UserError

MOST_WINDOW = 8
"""Shards that are shuffled together at most: more shuffle hardly better (README), and training waits for the first."""
_THREADS = 4
_OPEN_FILES = 64
_KINDS: dict[str, tuple[Kind, ...]] = {
    "images": ("images",), "recordings": ("audio", "video"), "videos": ("video",), "texts": ("text",),
}  # fmt: skip


def is_shards(data: object) -> bool:
    """Whether data is a set of shards: a folder with shards.json, or any URL."""
    return is_url(data) or (isinstance(data, str | Path) and (Path(local_path(data)) / HEADER).is_file())


def open_index(data: str | Path) -> "ShardStore":
    """The index of a set, and how its samples are read. Raises UserError when there is none, or it is damaged."""
    if not is_url(data):
        folder = Path(local_path(data))
        return ShardStore(ShardIndex(folder, str(folder)), None)
    remote = Remote(str(data))
    return ShardStore(ShardIndex(_fetched_index(remote), remote.url), remote)


def _fetched_index(remote: Remote) -> Path:
    """The index of a remote set in the cache folder; it does not count towards the limit."""
    raw = remote.read(HEADER)
    facts = parse_facts(raw, remote.url)
    target = cache_folder() / "index" / hashlib.blake2b(raw, digest_size=16).hexdigest()
    try:
        (target / INDEX).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            for name, known in facts.index.items():
                _fetch_file(remote, name, known.bytes, known.digest, target / INDEX / name)
            partial = target / f"{HEADER}.partial"
            partial.write_bytes(raw)
            partial.replace(target / HEADER)
        finally:
            release(descriptor)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{target}, where the index of {remote.url} is kept, cannot be written ({reason}): free some space or set "
            "MMSSL_CACHE to another folder"
        ) from None
    return target


def _fetch_file(remote: Remote, name: str, size: int, digest: str, path: Path) -> None:
    if path.is_file() and path.stat().st_size == size:
        return
    partial = path.with_name(f"{name}.partial")
    found = hashlib.blake2b(digest_size=16)
    with partial.open("wb") as file:
        while file.tell() < size:
            piece = remote.fetch(f"{INDEX}/{name}", file.tell(), min(file.tell() + PIECE, size))
            file.write(piece)
            found.update(piece)
    if found.hexdigest() != digest:
        raise UserError(f"{remote.at(f'{INDEX}/{name}')} is not the file that was written: upload the set again")
    partial.replace(path)


class ShardStore:
    """Samples by row, as :class:`~mmssl.data.stores.Store` has files."""

    def __init__(self, index: ShardIndex, remote: Remote | None) -> None:
        self.index, self.remote = index, remote
        self.cache = None if remote is None else ShardCache(remote, cache_folder(), cache_limit())
        self.names: Sequence[str] = index.texts("name")
        self.others: Sequence[str] = []
        self._files: dict[int, int] = {}
        self._held = -1
        self._process = os.getpid()
        largest = max((shard.bytes for shard in index.facts.shards), default=0)
        if self.cache is not None and self.cache.limit < FEWEST * largest:
            raise UserError(
                f"{VARIABLE}: {self.cache.limit / 1e9:g} GB hold fewer than {FEWEST} shards of {index.name} "
                f"({largest / 1e9:.3g} GB each): set it to {FEWEST * largest / 1e9 + 0.1:.1f} or more"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardStore, (self.index, self.remote)

    def read(self, index: int, limits: Limits) -> bytes:
        """The bytes of one sample, checked against its CRC-32. Raises MediaError when they are not those written."""
        number, offset, size, crc = self._place(index)
        if size > limits.file_bytes:
            raise MediaError("limit", f"the file is larger than the limit of {limits.file_bytes / 2**20:.0f} MiB")
        shard = self.index.facts.shards[number]
        raw = self._bytes(number, offset, size)
        if zlib.crc32(raw) != crc and self.cache is not None:
            self.cache.drop(shard)  # the copy is damaged, what it was copied from perhaps not
            raw = self._bytes(number, offset, size)
        if zlib.crc32(raw) != crc:
            raise MediaError(
                "broken", f"its bytes in {self._at(shard)} are not those that were written: copy the shard again"
            )
        return read_bytes(raw, limits)

    def _place(self, index: int) -> tuple[int, int, int, int]:
        place = self.index.place(index)
        if place[2] == 0:
            raise self.index.reason(index)
        return place

    def _bytes(self, number: int, offset: int, size: int) -> bytes:
        shard = self.index.facts.shards[number]
        try:
            if self.cache is None:
                return os.pread(self._local(number), size, offset)
            with self.cache.open(shard) as descriptor:
                return os.pread(descriptor, size, offset)
        except OSError as error:
            raise MediaError("unreadable", f"{self._at(shard)} cannot be read ({error.strerror or error})") from None

    def _local(self, number: int) -> int:
        """A descriptor of a local shard, of this process; the last ones stay open. Raises OSError, MediaError."""
        self._own()
        if number not in self._files:
            if len(self._files) >= _OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
            shard = self.index.facts.shards[number]
            descriptor = os.open(self._at(shard), os.O_RDONLY)
            size = os.fstat(descriptor).st_size
            if size != shard.bytes:
                os.close(descriptor)
                said = f"{self._at(shard)} has {size:,} bytes instead of {shard.bytes:,}: copy it again"
                raise MediaError("broken", said)
            self._files[number] = descriptor
        return self._files[number]

    def _own(self) -> None:
        """Forget what a parent opened."""
        if self._process != os.getpid():
            self._files, self._held, self._process = {}, -1, os.getpid()

    def _at(self, shard: Shard) -> str:
        return str(self.index.folder / shard.file) if self.remote is None else self.remote.at(shard.file)

    def extent(self, index: int) -> Extent:
        """Where its bytes lie; in the cache the shard stays until the process asks for another one."""
        number, offset, size, _ = self._place(index)
        shard = self.index.facts.shards[number]
        try:
            if self.cache is None:
                self._local(number)
                return Extent(self._at(shard), offset, size)
            descriptor = self.cache.hold(shard)
        except OSError as error:
            raise MediaError("unreadable", f"{self._at(shard)} cannot be read ({error.strerror or error})") from None
        self._own()
        if self._held >= 0:
            release(self._held)
        self._held = descriptor
        return Extent(str(self.cache.path(shard)), offset, size)

    def location(self, index: int) -> str:
        return f"{self.index.name}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:
        return int(self.index.column("size")[index]), int(self.index.column("crc")[index])

    def window(self, shards: Sequence[Shard]) -> int | None:
        """How many of these shards to shuffle together; None where all of them are at hand, or fit into the cache."""
        if self.cache is None or sum(shard.bytes for shard in shards) <= self.cache.limit:
            return None
        largest = max(shard.bytes for shard in shards)
        # those that are read, as many that are fetched meanwhile, and one of the held-out part
        return max(1, min(MOST_WINDOW, (self.cache.limit // largest - 1) // 2))

    def readahead(self) -> Readahead | None:
        return None if self.cache is None else Readahead(self.cache, _THREADS)


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
        return [self.store.names[row] for row in self.rows.tolist()]

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
        self.index, self.rows = index, rows
        self._files, self._classes = index.texts("name", rows), ("", *index.facts.classes)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> "ShardEntries": ...
    def __getitem__(self, place: int | slice) -> "Entry | ShardEntries":
        if isinstance(place, slice):
            return ShardEntries(self.index, self.rows[place])
        row = self.rows[int(place)]
        folder = self._classes[int(self.index.column("folder")[row])] if self.index.has("folder") else ""
        return Entry(0, row, self._files[int(place)], self._split(row), folder)

    def _split(self, row: int) -> str | None:
        for name, split in self.index.facts.splits.items():
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
    table = None if facts.columns is None or not index.has("rows") else ShardTable(index, facts.columns)
    return Listing(
        [Part(store, "", table)], ShardEntries(index, rows), index.name, split, splits, facts.held_out,
        list(facts.classes), list(index.skipped), ShardRows(store, rows, chosen),
    )  # fmt: skip
