"""Open videos wherever they are, as clips: decoded once into a store, memory-mapped from then on.

    source = open_clips("videos", split="train", settings=ClipSettings(size=(64, 64), crop="mouth"))
    source[3]                 # {"id": 3, "video": uint8 [frame, channel, height, width], "audio": int16, ...}
    source.clip(3)            # the same as a Clip, with time stamps and boxes

``data`` may be

- a folder, at any depth, with or without class folders;
- a tar file (plain, or .tar.gz / .tgz), or a folder that holds tar files and no videos;
- a list: a .txt with one path a line, or a .csv or .jsonl with a ``file`` column; paths are relative to the list;
- several of these, as a list;
- a set of shards that data_prep/shard.py made of them, or its URL;
- a cache folder that data_prep/cache_clips.py wrote: the videos themselves are not needed any more.

A ``labels.csv`` or ``manifest.jsonl`` beside or inside the data (``file``, any labels such as ``speaker``, ``text`` and
``words``, optionally ``split``) names labels and splits, as for pictures and recordings. Without a validation split 5 %
of the training videos are held out by a hash of their names (:func:`mmssl.data.parts.hold_out`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16, Int64, UInt8

from mmssl.data.audio.header import VIDEO
from mmssl.data.limits import MediaError
from mmssl.data.parts import Listing, Medium, list_files
from mmssl.data.source import FileSource
from mmssl.data.video.clip import Clip, ClipSettings
from mmssl.data.video.limits import VideoLimits
from mmssl.data.video.store import FORMAT, ClipStore, is_store
from mmssl.errors import UserError

VIDEOS = Medium("a video", "videos", VIDEO, "Audio")
HARMLESS = ("no sound", "no picture", "no face", "short", "apart")
"""Kinds of files that are left out and do not count as broken: nothing is wrong with them."""


class VideoSource(FileSource):
    """Video files of one split, not decoded."""

    what = "videos"

    def __init__(self, listing: Listing, *, limits: VideoLimits) -> None:
        super().__init__(listing)
        self.limits = limits


def open_videos(
    data: str | Path | Sequence[str | Path], *, split: str | None = None, limits: VideoLimits | None = None
) -> VideoSource:
    """List the videos of ``data`` (nothing is decoded). Raises UserError as :func:`open_clips` does."""
    if isinstance(data, str | Path) and is_store(Path(data)):
        raise UserError(f"{data} holds clips that were made of videos: give the videos themselves")
    return VideoSource(list_files(data, split, VIDEOS), limits=limits or VideoLimits())


def open_clips(
    data: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    settings: ClipSettings | None = None,
    cache: Path | None = None,
    workers: int = 0,
    limits: VideoLimits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> "ClipSource":
    """The clips of ``data``; what is not in the cache yet is decoded into it.

    Args:
        data: as above.
        split: "train", "val", "test" or any name in the ``split`` column; None takes every video.
        settings: of the clips; a cache folder knows its own.
        cache: where clips are kept; by default in $MMSSL_CACHE/clips or the user's cache folder.
        workers: processes that decode; 0 decodes in this one.
        limits: what one video may cost.
        progress: called with (videos done, videos) while they are decoded.

    Raises:
        UserError: when the data is missing, may not be read or holds no videos, or has no such split; when a cache
            folder holds clips of other settings.
    """
    from mmssl.data.video.cache import cached_listing, fill_store

    path = Path(data) if isinstance(data, str | Path) else None
    if path is not None and is_store(path):
        store = ClipStore(path, settings)
        listing, keys = cached_listing(store, split)
        return ClipSource(listing, store, keys)
    videos = open_videos(data, split=split, limits=limits)
    settings = settings or ClipSettings()
    store = ClipStore(cache or default_folder(settings), settings)
    return ClipSource(videos.listing, store, fill_store(videos, store, workers=workers, progress=progress))


def default_folder(settings: ClipSettings) -> Path:
    """Where clips of these settings are kept: below $MMSSL_CACHE, or in the user's cache folder."""
    said = json.dumps([FORMAT, settings.key()])
    given = os.environ.get("MMSSL_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmssl"
    return base / "clips" / hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


class ClipSource(FileSource):
    """Clips of one split, from a store.

    ``failures`` says which videos give no clip, and why; a loader lists them in ``skipped``.
    """

    what = "videos"

    def __init__(self, listing: Listing, store: ClipStore, keys: Sequence["str | MediaError"]) -> None:
        super().__init__(listing)
        self.store, self.settings = store, store.settings
        self._keys = list(keys)

    def subset(self, chosen: Sequence[int]) -> "ClipSource":
        """The clips of these numbers, with ids of their own."""
        part = super().subset(chosen)
        part._keys = [self._keys[number] for number in chosen]
        return part

    def _key(self, index: int) -> str:
        key = self._keys[index]
        if isinstance(key, MediaError):
            raise key
        return key

    @property
    def failures(self) -> dict[int, MediaError]:
        """Videos that give no clip, by number."""
        found = {}
        for index in range(len(self)):
            try:
                self.store.record(self._key(index))
            except MediaError as error:
                found[index] = error
        return found

    @property
    def frames(self) -> Int64[np.ndarray, " clip"]:
        """Frames of every clip; 0 where there is none."""
        bad = self.failures
        return np.array(
            [0 if index in bad else self.store.record(self._key(index)).frames for index in range(len(self))], np.int64
        )

    def window(
        self, index: int, first: int, count: int
    ) -> tuple[UInt8[np.ndarray, "frame channel height width"], Int16[np.ndarray, " sample"]]:
        """Pictures and sound of frames ``first`` to ``first + count``. Raises MediaError when they are not there."""
        return self.store.window(self._key(index), first, count)

    def clip(self, index: int) -> Clip:
        """A whole clip. Raises UserError naming the file where there is none."""
        try:
            clip = self.store.clip(self._key(index))
        except MediaError as error:
            raise UserError(f"{self.location(index)}: {error.reason}") from None
        return replace(clip, path=self.location(index))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole clip as tensors. Raises UserError naming the file where there is none."""
        import torch  # takes seconds; a worker that decodes videos does without it

        clip = self.clip(index)
        return {
            "id": index, "clip": index, "video": torch.from_numpy(np.array(clip.video)),
            "audio": torch.from_numpy(np.array(clip.audio)), "times": torch.from_numpy(np.array(clip.times)),
            "start": clip.start, "file": self.files[index],
        }  # fmt: skip

    def fingerprint(self) -> str:
        """Hash of names, contents and settings: the same for videos and for a cache made of them."""
        digest = hashlib.blake2b(json.dumps(self.settings.key()).encode(), digest_size=16)
        for file, key in zip(self.files, self._keys, strict=True):
            digest.update(f"{file}\0{key if isinstance(key, str) else ''}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
