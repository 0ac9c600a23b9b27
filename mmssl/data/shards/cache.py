"""A folder of fetched shards with a limit in bytes, shared by all processes of a machine.

A shard is fetched piece by piece into DIGEST.BYTES.partial, whose bytes are kept when the transfer is cut or the
process killed; it is checked against its digest and renamed to DIGEST.BYTES.tar. Room is made first, by removing what
was used longest ago; a partial file counts as large as it will be. Locks (flock) lie on the files themselves: whoever
fetches holds an exclusive one, so that others wait and then find the shard; whoever reads holds a shared one, so that
it is not removed under their hands. They end with the process, however it ends.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mmssl.data.limits import MediaError
from mmssl.data.shards.index import Shard
from mmssl.data.shards.remote import PIECE, Remote
from mmssl.errors import FULL, UserError

DEFAULT_GIGABYTES = 20.0
VARIABLE = "MMSSL_SHARD_GIGABYTES"
FEWEST = 3
"""Shards that must fit: one being read, one being fetched, and one for the next."""


def cache_limit() -> int:
    """Bytes that fetched shards may take: $MMSSL_SHARD_GIGABYTES, by default 20. Raises UserError for no number."""
    given = os.environ.get(VARIABLE, "")
    try:
        gigabytes = float(given or DEFAULT_GIGABYTES)
    except ValueError:
        gigabytes = -1.0
    if not 0 < gigabytes < 1e9:
        raise UserError(f"{VARIABLE}={given} is no number of gigabytes: set it to one, such as 20")
    return int(gigabytes * 1e9)


def cache_folder() -> Path:
    """$MMSSL_CACHE/shards, or mmssl/shards in the user's cache folder."""
    given = os.environ.get("MMSSL_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmssl"
    return base / "shards"


class ShardCache:
    """The shards of one set, fetched when they are needed.

    Args:
        remote: where they are.
        folder: of the cache.
        limit: bytes that the folder may take, whatever sets it serves.
    """

    def __init__(self, remote: Remote, folder: Path, limit: int) -> None:
        self.remote, self.folder, self.limit = remote, folder, limit

    @contextlib.contextmanager
    def open(self, shard: Shard) -> Iterator[int]:
        """A descriptor of the shard, fetched if need be; it is not removed meanwhile. Raises MediaError."""
        descriptor = self.hold(shard)
        try:
            yield descriptor
        finally:
            release(descriptor)

    def path(self, shard: Shard) -> Path:
        return self.folder / f"{shard.digest}.{shard.bytes}.tar"

    def hold(self, shard: Shard) -> int:
        """The same descriptor, which the caller gives to :func:`release`."""
        path = self.path(shard)
        while True:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if _still_there(path, descriptor) and os.fstat(descriptor).st_size == shard.bytes:
                    os.utime(path)
                    return descriptor
                release(descriptor)
            try:
                self._fetch(shard)
            except OSError as error:
                why = "the disk is full" if error.errno in FULL else f"it cannot be written ({error.strerror or error})"
                raise MediaError(
                    "unreadable",
                    f"{self.folder}, where shards are kept, cannot take {self.remote.at(shard.file)}: {why}; free some "
                    f"space, set {VARIABLE} lower or MMSSL_CACHE to another folder",
                ) from None

    def drop(self, shard: Shard) -> None:
        """Remove a shard whose bytes are wrong."""
        self.path(shard).unlink(missing_ok=True)

    def _fetch(self, shard: Shard) -> None:
        path, partial = self.path(shard), self.path(shard).with_suffix(".partial")
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if path.exists() and path.stat().st_size == shard.bytes:
                return
            if not partial.exists():
                self._make_room(shard.bytes)
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # whoever fetches it already is waited for
            if not _still_there(partial, descriptor):
                return
            self._transfer(shard, descriptor)
            os.replace(partial, path)
        finally:
            release(descriptor)

    def _transfer(self, shard: Shard, descriptor: int) -> None:
        """Fill the file from where it ends. Raises MediaError when its bytes are not those that were written."""
        for again in (True, False):
            digest = hashlib.blake2b(digest_size=16)
            place = 0
            while piece := os.pread(descriptor, PIECE, place):  # what an earlier try left
                digest.update(piece)
                place += len(piece)
            while place < shard.bytes:
                piece = self.remote.fetch(shard.file, place, min(place + PIECE, shard.bytes))
                written = 0
                while written < len(piece):
                    written += os.pwrite(descriptor, piece[written:], place + written)
                digest.update(piece)
                place += len(piece)
            if digest.hexdigest() == shard.digest and place == shard.bytes:
                return
            os.ftruncate(descriptor, 0)
            if not again:
                raise MediaError(
                    "broken",
                    f"{self.remote.at(shard.file)} is not the shard that was written (its digest differs): upload it "
                    "again",
                )

    def _make_room(self, wanted: int) -> None:
        """Remove what was used longest ago until so many bytes more are within the limit.

        What is read or fetched at this moment stays, even where the limit is passed: waiting for others could last for
        ever.
        """
        entries = []
        for path in self.folder.iterdir():
            if path.suffix in (".tar", ".partial"):
                with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
                    entries.append((path.stat().st_mtime_ns, int(path.name.split(".")[1]), path))
        total = sum(size for _, size, _ in entries) + wanted
        for _, size, path in sorted(entries):
            if total <= self.limit:
                return
            if _remove(path):
                total -= size

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes room meanwhile."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            release(descriptor)


def release(descriptor: int) -> None:
    """Close and unlock: said outright, since a process forked meanwhile keeps the descriptor open."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _still_there(path: Path, descriptor: int) -> bool:
    """Whether the path still names the open file."""
    try:
        named, opened = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _remove(path: Path) -> bool:
    """Remove a file unless somebody holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        release(descriptor)


class Readahead:
    """Fetches shards in the background, in the order in which they will be read.

    What fails is left for the reader, who says so.
    """

    def __init__(self, cache: ShardCache, threads: int) -> None:
        self._cache, self._threads = cache, threads
        self._wanted: list[Shard] = []
        self._ready = threading.Condition()
        self._process = -1

    def want(self, shards: list[Shard]) -> None:
        """Fetch these next; what was wanted before and has not begun is forgotten."""
        with self._ready:
            self._wanted = list(shards)
            if self._process != os.getpid():
                self._process = os.getpid()
                for _ in range(self._threads):
                    threading.Thread(target=self._work, daemon=True).start()
            self._ready.notify_all()

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._wanted:
                    self._ready.wait()
                shard = self._wanted.pop(0)
            with contextlib.suppress(MediaError, OSError), self._cache.open(shard):
                pass

    def __reduce__(self) -> tuple[type["Readahead"], tuple[ShardCache, int]]:
        return Readahead, (self._cache, self._threads)
