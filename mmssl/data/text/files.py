"""Which files there are, and their bytes: folders, single files, tar files (streamed, never unpacked to disk).

Files are read from start to end, as often as needed, in pieces of a megabyte: no file has to fit into memory. Anything
compressed with gzip is recognized by its first bytes, whatever its name.
"""

import gzip
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import cast

from mmssl.data.skipped import Skipped
from mmssl.data.stores import BROKEN_TAR, is_tar, open_folder
from mmssl.errors import UserError

PLAIN = (".txt", ".text", ".md")
ROWS = (".jsonl", ".ndjson", ".tsv", ".csv")
PARQUET = ".parquet"
EXTENSIONS = (*PLAIN, *ROWS, PARQUET)
CHUNK = 2**20
BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError)
"""What reading a damaged file raises (a bad gzip is an OSError)."""
INFLATED = 2**30
INFLATION = 300
"""A gzip that has given so many bytes, and so many times its own, is a bomb: texts shrink to a third or a tenth."""


@dataclass(frozen=True)
class TextFile:
    """A file that may hold text. ``member``: its place in the tar file ``path``, -1 for a file of its own."""

    name: str
    path: Path
    member: int = -1
    split: str | None = None

    @property
    def form(self) -> str:
        """The last extension without .gz: what kind of file it is; "dataset" for a folder written by datasets."""
        return "dataset" if self.path.is_dir() else extension(self.name)


def extension(name: str) -> str:
    """The extension, lower case, that tells what a file holds: that before a .gz."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix == ".gz" else path.suffix


def is_text(name: str) -> bool:
    return extension(name) in EXTENSIONS


def list_files(path: Path) -> tuple[list[TextFile], list[Skipped]]:
    """The text files of a folder (at any depth, with the tar files in it), of a tar file, or the file itself.

    Raises:
        UserError: when the path does not exist or may not be read, or is a file of another kind.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        top = set(os.listdir(path)) if is_folder else set()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path given as data") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): change its permissions") from None
    if "dataset_dict.json" in top or {"dataset_info.json", "state.json"} <= top:
        return [TextFile(path.resolve().name, path)], []
    if is_folder:
        return _list_folder(path)
    if is_tar(path):
        return _list_tar(path, "")
    if not is_text(path.name):
        known = " ".join(EXTENSIONS)
        raise UserError(f"{path} is neither a folder, a tar nor a text file: give one of these ({known}, also .gz)")
    return [TextFile(path.name, path)], []


def _list_folder(root: Path) -> tuple[list[TextFile], list[Skipped]]:
    store = open_folder(root, is_text)
    files: list[TextFile] = []
    skipped: list[Skipped] = []
    for name in sorted(store.names + store.others):
        path = root / name
        if is_tar(path):
            inside, unused = _list_tar(path, f"{name}/")
            files += inside
            skipped += unused
        elif is_text(name):
            files.append(TextFile(name, path))
        else:
            skipped.append(_other(name))
    return files, skipped


def _list_tar(path: Path, prefix: str) -> tuple[list[TextFile], list[Skipped]]:
    """Members in the order of the archive. One that is cut short gives what comes before the damage."""
    files: list[TextFile] = []
    skipped: list[Skipped] = []
    try:
        with tarfile.open(path, "r|*") as archive:
            for place, info in enumerate(archive):
                name = PurePosixPath(info.name).as_posix()
                if not info.isreg() or any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                    continue
                if is_text(name) and extension(name) != PARQUET:
                    files.append(TextFile(prefix + name, path, place))
                else:
                    skipped.append(_other(prefix + name))
    except (OSError, *BROKEN_TAR) as error:
        reason = f"is not a whole tar file ({error}): what comes after the damage is not used"
        skipped.append(Skipped(prefix.rstrip("/") or path.name, reason, "broken"))
    return files, skipped


def _other(name: str) -> Skipped:
    if extension(name) == PARQUET:
        return Skipped(name, "a parquet file inside a tar cannot be read: unpack it", "not text")
    return Skipped(name, f"'{PurePosixPath(name).suffix}' is not a text extension", "not text")


def with_prefix(files: Sequence[TextFile], prefix: str) -> list[TextFile]:
    return [replace(file, name=prefix + file.name) for file in files]


def streams(files: Sequence[TextFile]) -> Iterator[tuple[int, BufferedIOBase | BaseException]]:
    """(place in ``files``, its unpacked bytes to read from start to end), or the error that opening it gave.

    Members of one tar must follow each other in its order. Each stream is closed when the next one is asked for.
    """
    place = 0
    while place < len(files):
        file = files[place]
        if file.form == "dataset":
            yield place, io.BytesIO()
            place += 1
            continue
        if file.member < 0:
            try:
                with _open(file.path) as raw, _unpacked(raw) as stream:
                    yield place, stream
            except BROKEN as error:
                yield place, error
            place += 1
            continue
        stop = place
        while stop < len(files) and files[stop].path == file.path and files[stop].member >= 0:
            stop += 1
        yield from _tar_streams(files, place, stop)
        place = stop


def _tar_streams(
    files: Sequence[TextFile], start: int, stop: int
) -> Iterator[tuple[int, BufferedIOBase | BaseException]]:
    wanted = {files[place].member: place for place in range(start, stop)}
    done = set()
    failure: BaseException = tarfile.ReadError("the archive ends before it")
    try:
        with tarfile.open(files[start].path, "r|*") as archive:
            for member, info in enumerate(archive):
                raw = archive.extractfile(info) if member in wanted and info.isreg() else None
                if raw is None:
                    continue
                done.add(member)
                with _unpacked(raw) as stream:  # type: ignore[arg-type]
                    yield wanted[member], stream
                if len(done) == len(wanted):
                    break
    except (OSError, *BROKEN_TAR) as error:
        failure = zlib.error(why(error))
    for member, place in wanted.items():
        if member not in done:
            yield place, failure


def _open(path: Path) -> BufferedIOBase:
    if not path.is_file():  # opening a named pipe would wait for ever
        raise OSError(0, "it is not a regular file")
    return path.open("rb")


def _unpacked(raw: BufferedIOBase) -> BufferedIOBase:
    buffered = io.BufferedReader(cast(io.RawIOBase, raw), 2**16)  # which reads as much as it is asked for
    if buffered.peek(2)[:2] == b"\x1f\x8b":
        return _Inflated(buffered)
    return buffered


class _Inflated(gzip.GzipFile):
    """Raises zlib.error where it goes on and on."""

    def __init__(self, packed: BufferedIOBase) -> None:
        super().__init__(fileobj=packed)
        self._packed, self._given = packed, 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self._given += len(found)
        if self._given > INFLATED and self._given > INFLATION * self._packed.tell():
            raise zlib.error(f"it unpacks to more than {INFLATION} times its size")
        return found


def chunks(stream: BufferedIOBase) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK):
        yield chunk


def why(error: BaseException) -> str:
    """The reason of a reading error, in words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
