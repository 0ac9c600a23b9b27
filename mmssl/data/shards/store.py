"""Open a set of shards as a store of files.

Samples are read at their offsets: from the folder itself, or from shards that were fetched into a bounded cache.
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl.data.limits import Limits, MediaError, read_bytes
from mmssl.data.shards import HEADER, INDEX
from mmssl.data.shards.cache import FEWEST, VARIABLE, Readahead, ShardCache, cache_folder, cache_limit, release
from mmssl.data.shards.index import Shard, ShardIndex, parse_facts
from mmssl.data.shards.remote import PIECE, Remote, is_url, local_path
from mmssl.data.stores import Extent
from mmssl.errors import UserError

MOST_WINDOW = 8
"""Shards that are shuffled together at most: more shuffle hardly better (README), and training waits for the first."""
_THREADS = 4
_OPEN_FILES = 64


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
