"""Fill a store with the clips of many videos, in several processes, and open one without the videos.

Each file is hashed and decoded in a process that is killed when it hangs (:mod:`mmssl.data.pool`); processes are
spawned, since decoders must not meet what a parent has loaded. One broken file costs itself only.
"""

import json
from collections.abc import Callable
from functools import partial

from mmssl.data.labels import LabelTable
from mmssl.data.limits import Limits, MediaError
from mmssl.data.parts import Listing, Part, list_parts
from mmssl.data.pool import map_files
from mmssl.data.skipped import Skipped
from mmssl.data.stores import Extent
from mmssl.data.video.clip import Clip, ClipSettings
from mmssl.data.video.decode import decode_clip
from mmssl.data.video.source import VIDEOS, VideoSource
from mmssl.data.video.store import ClipStore, content_key, read_rows
from mmssl.errors import UserError

Progress = Callable[[int, int], None]


def fill_store(
    source: VideoSource, store: ClipStore, *, workers: int = 0, progress: Progress | None = None
) -> list[str | MediaError]:
    """Decode what is not in the store yet.

    Returns:
        The key of every video; a MediaError for one that could not even be read, or whose decoding was killed.
    """
    keys: dict[int, str | MediaError] = {}
    todo = []
    for index in source.sequence():
        size, changed, key = store.seen.get(source.location(index), (-1, -1, ""))
        if key in store and (size, changed) == source.stamp(index):
            keys[index] = key
        else:
            todo.append(index)
    make = partial(_make, source, store.settings, store.keys())
    patience = source.limits.patience_of_bytes(max((source.stamp(index)[0] for index in todo), default=0))
    made = map_files(make, todo, workers=workers, seconds=patience, method="spawn")
    try:
        for done, (index, result) in enumerate(made, len(keys) + 1):
            if isinstance(result, MediaError):
                keys[index] = result
            else:
                keys[index], clip = result
                _keep(store, result[0], clip)
                store.note(source.location(index), source.stamp(index), result[0])
            if progress is not None:
                progress(done, len(source))
    finally:
        store.close()
    return [keys[index] for index in range(len(source))]


def _keep(store: ClipStore, key: str, clip: Clip | MediaError | None) -> None:
    if isinstance(clip, MediaError):
        store.fail(key, clip)
    elif clip is not None and key not in store:
        store.add(key, clip)


def _make(
    source: VideoSource, settings: ClipSettings, known: frozenset[str], index: int
) -> tuple[str, Clip | MediaError | None]:
    """Key and clip of a video; None when the store has it. Raises MediaError when the file cannot be read."""
    extent = source.extent(index)
    key = content_key(extent)
    if key in known:
        return key, None
    try:
        return key, decode_clip(extent, settings, None, None, source.limits)
    except MediaError as error:
        return key, error


def write_listing(source: VideoSource, store: ClipStore, keys: list[str | MediaError]) -> list[Skipped]:
    """Make the store a data set of its own: names, keys, labels and splits of the videos; returns what is left out."""
    skipped, listed, rows = [], [], []
    splits = source.file_splits()
    for index, (file, key) in enumerate(zip(source.files, keys, strict=True)):
        try:
            if isinstance(key, MediaError):
                raise key
            store.record(key)
        except MediaError as error:
            skipped.append(Skipped(file, error.reason, error.kind))
        listed.append({"file": file, "key": key if isinstance(key, str) else ""})
        row = {name: value for name, value in source.row(index).items() if name not in ("file", "split")}
        rows.append({"file": file, **({"split": splits[index]} if any(splits) else {}), **row})
    _write(store, "listing.jsonl", listed)
    if any(len(row) > 1 for row in rows):
        _write(store, "manifest.jsonl", rows)
    _write(store, "skipped.jsonl", [{"file": row.file, "reason": row.reason, "kind": row.kind} for row in skipped])
    return skipped


def _write(store: ClipStore, name: str, rows: list[dict[str, str]]) -> None:
    path = store.folder / name
    partial_path = path.with_name(name + ".partial")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    partial_path.write_text(text, encoding="utf-8", errors="surrogateescape")
    partial_path.replace(path)


class _Listed:
    """The videos of a store by name, when the files themselves may be gone."""

    def __init__(self, store: ClipStore, names: list[str]) -> None:
        self._folder = store.folder
        self.names, self.others = names, []

    def read(self, index: int, limits: Limits) -> bytes:  # noqa: ARG002
        raise MediaError("unreadable", f"only the clip of {self.names[index]} is kept, not the video")

    def extent(self, index: int) -> Extent:
        raise MediaError("unreadable", f"only the clip of {self.names[index]} is kept, not the video")

    def location(self, index: int) -> str:
        return f"{self._folder}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:  # noqa: ARG002
        return 0, 0


def cached_listing(store: ClipStore, split: str | None) -> tuple[Listing, list[str | MediaError]]:
    """The videos that :func:`write_listing` wrote of, and their keys. Raises UserError when it did not."""
    rows = read_rows(store.folder / "listing.jsonl")
    keys = {str(row["file"]): str(row["key"]) for row in rows if row.keys() >= {"file", "key"}}
    if not keys:
        raise UserError(f"{store.folder} was not finished: run data_prep/cache_clips.py again, it goes on")
    table = None
    manifest = store.folder / "manifest.jsonl"
    if manifest.is_file():
        table = LabelTable.parse(manifest.read_text(encoding="utf-8"), str(manifest))
    part = Part(_Listed(store, sorted(keys)), "", table)
    listing = list_parts([part], split, VIDEOS, str(store.folder))
    said = {
        str(row["file"]): MediaError(str(row["kind"]), str(row["reason"]))
        for row in read_rows(store.folder / "skipped.jsonl")
        if row.keys() >= {"file", "kind", "reason"}
    }
    lost = MediaError("broken", "its clip is not there any more: run data_prep/cache_clips.py again")
    return listing, [
        keys[entry.file] if keys[entry.file] in store else said.get(entry.file, lost) for entry in listing.entries
    ]
