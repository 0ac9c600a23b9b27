"""Where the bytes of files come from: folders, list files and tar files. A store is random access and safe to pickle.

Names are relative, with forward slashes, sorted. Hidden files and folders (a leading dot, or ``__MACOSX``) are left out
without a word; everything else that is not of the wanted kind by its extension is listed in ``others``.

A picture is read whole (``read``); of a recording a part is wanted, so a store also tells where the bytes lie
(``extent``) and leaves the reading to the decoder.
"""

import gzip
import io
import os
import tarfile
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from mmssl.data.limits import Limits, MediaError, read_bytes, regular_size
from mmssl.errors import UserError

TAR_EXTENSIONS = (".tar", ".tar.gz", ".tgz")
UNPACKED_LIMIT = 2 * 2**30
"""A compressed tar has no random access, so it is unpacked in memory; larger than this it is refused."""
TABLES = ("labels.csv", "manifest.jsonl")
"""Files that say what is known of the others: one of these beside or among them is read."""

BROKEN_TAR = (tarfile.TarError, EOFError, zlib.error, ValueError, MemoryError, RecursionError, OverflowError)
"""What tarfile raises on damage: headers claim sizes beyond all memory, numbers that are none, chains without end."""

Wanted = Callable[[str], bool]
"""Tells by its name whether a file is of the wanted kind."""


@dataclass(frozen=True)
class Extent:
    """Where the bytes of a file lie: ``size`` of them from ``offset`` on in ``path``, or in memory."""

    path: str
    offset: int
    size: int
    memory: bytes | None = None
    """The whole file ``path`` lies in, unpacked, when it cannot be read at an offset."""

    @property
    def alone(self) -> bool:
        """Whether it is a file of its own, which a library can open by its path."""
        return self.offset == 0 and self.memory is None

    def read(self, start: int, count: int) -> bytes:
        """``count`` bytes from ``start`` of this file on; fewer at its end. Raises OSError."""
        count = max(0, min(count, self.size - start))
        if self.memory is not None:
            return self.memory[self.offset + start : self.offset + start + count]
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            return os.pread(descriptor, count, self.offset + start)
        finally:
            os.close(descriptor)


@runtime_checkable
class Store(Protocol):
    """``names[i]`` is a relative name; ``others`` are names of files of other kinds."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def others(self) -> Sequence[str]: ...

    def read(self, index: int, limits: Limits) -> bytes:
        """The bytes of one file. Raises MediaError when it cannot be read."""
        ...

    def extent(self, index: int) -> Extent:
        """Where its bytes lie. Raises MediaError when there is no such file."""
        ...

    def location(self, index: int) -> str:
        """Where the file is, for people."""
        ...

    def stamp(self, index: int) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds: changed files have changed stamps."""
        ...


def is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TAR_EXTENSIONS)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


class FileStore:
    """Files on disk: ``names[i]`` is at ``paths[i]``."""

    def __init__(self, names: list[str], paths: list[str], others: list[str] | None = None) -> None:
        self.names, self.paths, self.others = names, paths, others or []

    def read(self, index: int, limits: Limits) -> bytes:
        return read_bytes(Path(self.paths[index]), limits)

    def extent(self, index: int) -> Extent:
        return Extent(self.paths[index], 0, regular_size(self.paths[index]))

    def location(self, index: int) -> str:
        return self.paths[index]

    def stamp(self, index: int) -> tuple[int, int]:
        try:
            status = os.stat(self.paths[index])
        except (OSError, ValueError):
            return -1, -1
        return status.st_size, status.st_mtime_ns


def open_folder(root: Path, wanted: Wanted) -> FileStore:
    """All wanted files below a folder, at any depth; symbolic links are followed, each folder once.

    Raises:
        UserError: for a folder, the root or one below, that may not be listed.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be listed ({error.strerror}): change its permissions or move it away")

    found: list[str] = []
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back up
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _hidden(name))
        inner = Path(folder).relative_to(root).as_posix()
        prefix = "" if inner == "." else inner + "/"
        found.extend(prefix + name for name in files if not _hidden(name))
    names = sorted(name for name in found if wanted(name))
    others = sorted(name for name in found if not wanted(name))
    return FileStore(names, [os.path.join(root, name) for name in names], others)


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int


class TarStore:
    """The wanted files inside one tar file, read at their offsets.

    The index is made once. Every process opens the file for itself when it first reads; a compressed tar is unpacked
    in memory once a process (forked workers share the parent's copy).
    """

    def __init__(self, path: Path, wanted: Wanted, unpacked_limit: int = UNPACKED_LIMIT) -> None:
        self.path, self._unpacked_limit = path, unpacked_limit
        self._lock = threading.Lock()
        self._file: io.BufferedReader | io.BytesIO | None = None
        self._process = -1
        self._unpacked: bytes | None = None
        try:
            with path.open("rb") as file:
                self._compressed = file.read(2) == b"\x1f\x8b"
            self._mtime = path.stat().st_mtime_ns
            members = self._index()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}): is it a whole tar file?") from None
        except BROKEN_TAR as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path} is not a whole tar file ({error}): make or copy it again") from None
        self._members = sorted((m for m in members if wanted(m.name)), key=lambda member: member.name)
        self.names = [member.name for member in self._members]
        self.others = sorted(member.name for member in members if not wanted(member.name))
        self._tables = {member.name: member for member in members if member.name in TABLES}

    def _index(self) -> list[_Member]:
        with self._open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = [
                _Member(PurePosixPath(info.name).as_posix(), info.offset_data, info.size)
                for info in archive
                if info.isreg() and not info.issparse()
            ]
        size = len(self._unpacked) if self._unpacked is not None else self.path.stat().st_size
        if members and members[-1].offset + members[-1].size > size:
            raise tarfile.ReadError("it ends inside a file")
        return [member for member in members if not _hidden(member.name)]

    def _open(self) -> io.BufferedReader | io.BytesIO:
        if not self._compressed:
            return self.path.open("rb")
        if self._unpacked is None:
            with gzip.open(self.path) as packed:
                self._unpacked = packed.read(self._unpacked_limit + 1)
            if len(self._unpacked) > self._unpacked_limit:
                self._unpacked = None
                limit = f"{self._unpacked_limit / 2**30:.2g} GiB"
                raise UserError(f"{self.path} unpacks to more than {limit}: store it as a plain .tar (gunzip it)")
        return io.BytesIO(self._unpacked)

    def read_text(self, name: str) -> str | None:
        """One of TABLES, when it is in the archive. Raises UserError for one that is no UTF-8 text."""
        if name not in self._tables:
            return None
        try:
            return self._read(self._tables[name]).decode("utf-8-sig")
        except (UnicodeDecodeError, MemoryError) as error:
            raise UserError(f"{self.path}!{name} cannot be read as UTF-8 text ({error}): write it again") from None

    def _read(self, member: _Member) -> bytes:
        with self._lock:
            if self._file is None or self._process != os.getpid():
                self._file, self._process = self._open(), os.getpid()
            self._file.seek(member.offset)
            return self._file.read(member.size)

    def read(self, index: int, limits: Limits) -> bytes:
        member = self._members[index]
        if member.size > limits.file_bytes:
            raise MediaError("limit", f"the file is larger than the limit of {limits.file_bytes / 2**20:.0f} MiB")
        try:
            return read_bytes(self._read(member), limits)
        except OSError as error:
            raise MediaError("unreadable", f"cannot be read ({error.strerror or error})") from None

    def extent(self, index: int) -> Extent:
        member = self._members[index]
        if not self._compressed:
            return Extent(str(self.path), member.offset, member.size)
        if self._unpacked is None:
            self._open()
        return Extent(str(self.path), member.offset, member.size, self._unpacked)

    def location(self, index: int) -> str:
        return f"{self.path}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:
        return self._members[index].size, self._mtime

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_file": None, "_unpacked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
