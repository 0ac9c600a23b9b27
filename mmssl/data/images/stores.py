"""Where the bytes of files come from: folders, list files and tar files. A store is random access and safe to pickle.

Names are relative, with forward slashes, sorted. Hidden files and folders (a leading dot, or ``__MACOSX``) are left out
without a word; everything else that is not an image by its extension is listed in ``others``.
"""

import gzip
import io
import os
import tarfile
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from mmssl.data.images.decode import EXTENSIONS
from mmssl.data.limits import ImageError, Limits, read_bytes
from mmssl.errors import UserError

TAR_EXTENSIONS = (".tar", ".tar.gz", ".tgz")
UNPACKED_LIMIT = 2 * 2**30
"""A compressed tar has no random access, so it is unpacked in memory; larger than this it is refused."""


@runtime_checkable
class Store(Protocol):
    """``names[i]`` is a relative name; ``others`` are names of files that are not images."""

    names: list[str]
    others: list[str]

    def read(self, index: int, limits: Limits) -> bytes:
        """The bytes of one file. Raises ImageError when it cannot be read."""
        ...

    def location(self, index: int) -> str:
        """Where the file is, for people."""
        ...

    def stamp(self, index: int) -> tuple[int, int]:
        """Size in bytes and time of change in nanoseconds: changed files have changed stamps."""
        ...


def is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


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

    def location(self, index: int) -> str:
        return self.paths[index]

    def stamp(self, index: int) -> tuple[int, int]:
        try:
            status = os.stat(self.paths[index])
        except OSError:
            return -1, -1
        return status.st_size, status.st_mtime_ns


def open_folder(root: Path) -> FileStore:
    """All images below a folder, at any depth; symbolic links are followed, each folder once.

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
    names = sorted(name for name in found if is_image(name))
    others = sorted(name for name in found if not is_image(name))
    return FileStore(names, [os.path.join(root, name) for name in names], others)


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int


class TarStore:
    """Images inside one tar file, read at their offsets.

    The index is made once. Every process opens the file for itself when it first reads; a compressed tar is unpacked
    in memory once a process (forked workers share the parent's copy).
    """

    def __init__(self, path: Path, unpacked_limit: int = UNPACKED_LIMIT) -> None:
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
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is not a whole tar file ({error}): make or copy it again") from None
        images = sorted((m for m in members if is_image(m.name)), key=lambda member: member.name)
        self.names = [member.name for member in images]
        self.others = sorted(member.name for member in members if not is_image(member.name))
        self._members = images
        self._labels = next((member for member in members if member.name == "labels.csv"), None)

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
        """A small text file of the archive, today labels.csv; None when it is not there."""
        if self._labels is None or name != self._labels.name:
            return None
        return self._read(self._labels).decode("utf-8-sig")

    def _read(self, member: _Member) -> bytes:
        with self._lock:
            if self._file is None or self._process != os.getpid():
                self._file, self._process = self._open(), os.getpid()
            self._file.seek(member.offset)
            return self._file.read(member.size)

    def read(self, index: int, limits: Limits) -> bytes:
        member = self._members[index]
        if member.size > limits.file_bytes:
            raise ImageError("limit", f"the file is larger than the limit of {limits.file_bytes / 2**20:.0f} MiB")
        try:
            return read_bytes(self._read(member), limits)
        except OSError as error:
            raise ImageError("unreadable", f"cannot be read ({error.strerror or error})") from None

    def location(self, index: int) -> str:
        return f"{self.path}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:
        return self._members[index].size, self._mtime

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_file": None, "_unpacked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
