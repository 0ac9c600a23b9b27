"""Clips on disk: decoded once, memory-mapped from then on.

A store is a folder:

    clips.json       version and settings; one store holds clips of one kind
    index.jsonl      one line a clip or failure, keyed by the content of the video: where its bytes lie, what it is
    files.jsonl      one line a file: size, time of change and key, so that an unchanged file is not read again
    shard-*.bin      the bytes: pictures, sound, time stamps and boxes of one clip after the other

A line is added when the bytes before it are written, so a build that was killed goes on where it stopped. Every process
that adds clips writes shards of its own. Two files of one name never meet, and a file that moved is known again.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Int16, UInt8

from mmssl.config import from_dict, parse_json
from mmssl.data.limits import MediaError
from mmssl.data.stores import Extent
from mmssl.data.video.clip import Clip, ClipSettings, Streams
from mmssl.errors import FORBIDDEN, FULL, UserError

FORMAT = 1
"""Raised whenever the same video and settings would give other bytes than before."""
SHARD_BYTES = 256 * 2**20
"""A shard is not added to when it is larger."""
# reasons that lie in the machine and not in the file: they may be gone next time
PASSING = ("unreadable", "timeout", "memory")
_CHUNK = 2**20


def content_key(extent: Extent) -> str:
    """Hash of the bytes of a file. Raises MediaError when they cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        for place in range(0, extent.size, _CHUNK):
            digest.update(extent.read(place, min(_CHUNK, extent.size - place)))
    except OSError as error:
        raise MediaError("unreadable", f"cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """Where a clip lies, and what it is."""

    shard: str
    offset: int
    frames: int
    start: float
    boxed: bool
    path: str
    streams: dict[str, Any]


class ClipStore:
    """The clips of a folder, by key.

    Args:
        folder: made if it is not there.
        settings: of its clips; None takes those of a folder that is a store.

    Raises:
        UserError: when the folder is no store, holds clips of other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: ClipSettings | None = None) -> None:
        self.folder = folder
        stored = _stored_settings(folder)
        if stored is None:
            if settings is None:
                raise UserError(f"{folder} holds no clips: make it with data_prep/cache_clips.py")
            self._create(settings)
        elif settings is not None and stored.key() != settings.key():
            differing = [name for name, value in stored.key().items() if value != settings.key()[name]]
            said = ", ".join(f"{name} {stored.key()[name]} instead of {settings.key()[name]}" for name in differing)
            raise UserError(f"{folder} holds clips of other settings ({said}): use these or another folder")
        self.settings = settings or stored or ClipSettings()
        self._records: dict[str, Record | MediaError] = {}
        self._maps: dict[str, np.ndarray] = {}
        self._shard: IO[bytes] | None = None
        self._read_index()
        self.seen: dict[str, tuple[int, int, str]] = {
            row["file"]: (row["size"], row["changed"], row["key"])
            for row in read_rows(folder / "files.jsonl")
            if row.keys() >= {"file", "size", "changed", "key"} and isinstance(row["file"], str)
        }
        """Size, time of change and key of files by where they lie."""

    def _create(self, settings: ClipSettings) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(not path.name.startswith("clips.json") for path in self.folder.iterdir()):
                raise UserError(f"{self.folder} is not empty and holds no clips: choose another folder")
            text = json.dumps({"format": FORMAT, "settings": asdict(settings)}, indent=1)
            partial = self.folder / f"clips.json.{secrets.token_hex(4)}"
            partial.write_text(text, encoding="utf-8")
            partial.replace(self.folder / "clips.json")
        except OSError as error:
            raise _refused(self.folder, error) from None

    def _read_index(self) -> None:
        sizes: dict[str, int] = {path.name: path.stat().st_size for path in self.folder.glob("shard-*.bin")}
        for row in read_rows(self.folder / "index.jsonl"):
            try:
                key = str(row.pop("key"))
                if "kind" in row:
                    self._records[key] = MediaError(str(row["kind"]), str(row["reason"]))
                    continue
                record = from_dict(Record, row)
            except (KeyError, UserError):  # a line that is none of ours is one that is not there
                continue
            # a shard is a file of this folder, and the clip lies within it
            inside = 0 <= record.offset <= record.offset + self._bytes(record) <= sizes.get(record.shard, 0)
            if inside and record.frames > 0:
                self._records[key] = record

    def _bytes(self, record: Record) -> int:
        return self.settings.bytes_of(record.frames) + 16 * record.frames * record.boxed

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def keys(self) -> frozenset[str]:
        return frozenset(self._records)

    def failed(self, key: str) -> bool:
        """Whether a video is known to give no clip."""
        return isinstance(self._records[key], MediaError)

    def record(self, key: str) -> Record:
        """What is known of a clip. Raises MediaError where the video gives none."""
        record = self._records[key]
        if isinstance(record, MediaError):
            raise record
        return record

    def add(self, key: str, clip: Clip) -> None:
        """Write a clip. Raises UserError when the folder takes no more."""
        parts = [clip.video, clip.audio, clip.times, *([] if clip.boxes is None else [clip.boxes])]
        try:
            if self._shard is None or self._shard.tell() > SHARD_BYTES:
                self.close()
                self._shard = (self.folder / f"shard-{secrets.token_hex(4)}.bin").open("xb")
            offset = self._shard.tell()
            for part in parts:
                self._shard.write(np.ascontiguousarray(part).data)
            self._shard.flush()
        except OSError as error:
            raise _refused(self.folder, error) from None
        name = Path(self._shard.name).name
        record = Record(name, offset, len(clip), clip.start, clip.boxes is not None, clip.path, asdict(clip.streams))
        self._append("index.jsonl", {"key": key, **asdict(record)})
        self._records[key] = record

    def fail(self, key: str, error: MediaError) -> None:
        """Remember that a video gives no clip, unless the reason may pass."""
        if error.kind not in PASSING:
            self._append("index.jsonl", {"key": key, "kind": error.kind, "reason": error.reason})
        self._records[key] = error

    def note(self, file: str, stamp: tuple[int, int], key: str) -> None:
        """Remember the key of a file as long as its size and time of change stay."""
        if self.seen.get(file) != (*stamp, key):
            self._append("files.jsonl", {"file": file, "size": stamp[0], "changed": stamp[1], "key": key})
            self.seen[file] = (*stamp, key)

    def _append(self, name: str, row: dict[str, Any]) -> None:
        path = self.folder / name
        try:
            # a line that a killed process left half-written must not swallow the next
            whole = not path.exists() or path.stat().st_size == 0 or _ends_line(path)
            with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(("" if whole else "\n") + json.dumps(row) + "\n")
        except OSError as error:
            raise _refused(self.folder, error) from None

    def close(self) -> None:
        """Close the shard that is being written; clips stay readable."""
        if self._shard is not None:
            self._shard.close()
            self._shard = None

    def _map(self, record: Record) -> UInt8[np.ndarray, " byte"]:
        """The bytes of a shard up to the end of this clip, at least."""
        end = record.offset + self._bytes(record)
        found = self._maps.get(record.shard)
        if found is None or len(found) < end:
            found = self._maps[record.shard] = np.memmap(self.folder / record.shard, np.uint8, mode="r")
        return found

    def window(
        self, key: str, first: int, count: int
    ) -> tuple[UInt8[np.ndarray, "frame channel height width"], Int16[np.ndarray, " sample"]]:
        """Pictures and sound of ``count`` frames from frame ``first`` on: views of the file. Raises MediaError."""
        record, settings = self.record(key), self.settings
        if not 0 <= first <= first + count <= record.frames:
            raise MediaError("short", f"it has {record.frames} frames, not {first} to {first + count}")
        data, size = self._map(record), settings.channels * settings.size[0] * settings.size[1]
        begin = record.offset + first * size
        video = data[begin : begin + count * size].reshape(count, settings.channels, *settings.size)
        samples = settings.samples_per_frame
        begin = record.offset + record.frames * size + 2 * first * samples
        audio = np.frombuffer(data[begin : begin + 2 * count * samples], np.int16)
        return video, audio

    def clip(self, key: str) -> Clip:
        """A whole clip; its arrays are views of the file. Raises MediaError where the video gives none."""
        record = self.record(key)
        video, audio = self.window(key, 0, record.frames)
        data, place = self._map(record), record.offset + video.nbytes + audio.nbytes
        times = np.frombuffer(data[place : place + 8 * record.frames], np.float64)
        place += times.nbytes
        boxes = np.frombuffer(data[place : place + 16 * record.frames], np.float32).reshape(-1, 4)
        return Clip(
            video, audio, times, record.start, self.settings, record.path, Streams.from_dict(record.streams),
            boxes if record.boxed else None,
        )  # fmt: skip


def is_store(folder: Path) -> bool:
    return (folder / "clips.json").is_file()


def _stored_settings(folder: Path) -> ClipSettings | None:
    if not is_store(folder):
        return None
    try:
        data = parse_json((folder / "clips.json").read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise UserError(f"{folder} was written by another version of mmssl (format {data['format']}): make it anew")
        return from_dict(ClipSettings, data["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / 'clips.json'} is damaged ({error}): make the cache anew") from None


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a file of JSON objects; what is half-written is passed over."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                try:
                    row = parse_json(line)
                except ValueError:
                    continue
                if isinstance(row, dict):
                    yield row
    except FileNotFoundError:
        return


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _refused(folder: Path, error: OSError) -> UserError:
    why = "the disk is full" if error.errno in FULL else f"it cannot be written ({error.strerror or error})"
    remedy = "free some space" if error.errno in FULL else "change its permissions" if error.errno in FORBIDDEN else ""
    return UserError(f"{folder}, where clips are kept: {why}; {remedy}{remedy and ' or '}choose another folder")
