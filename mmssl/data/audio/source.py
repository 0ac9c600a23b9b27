"""Open recordings wherever they are: folders, list files, tar files, Hugging Face audio datasets.

    source = open_audio("speech", split="train")
    source.seconds                                  # of every recording, from their headers
    source[3]                                       # {"id": 3, "audio": float32 [sample], "rate": 44100, "file": ...}
    source.read(3, 16000, 48000, sample_rate=16000) # the second and third second, by seeking

``data`` may be

- a folder, at any depth, with or without class folders;
- a tar file (plain, or .tar.gz / .tgz), or a folder that holds tar files and no recordings;
- a list: a .txt with one path a line, or a .csv or .jsonl with a ``file`` column; paths are relative to the list;
- a Hugging Face audio dataset on disk (``Dataset.save_to_disk``; needs the ``datasets`` package);
- several of these, as a list;
- a set of shards that data_prep/shard.py made of them, or its URL.

A video file is the recording of its sound. A ``labels.csv`` or ``manifest.jsonl`` beside or inside the data (``file``,
any labels, optionally ``split``) names labels and splits; otherwise the split is the top folder (train, val, test and
their usual other names) and the class the folder below it. Without a validation split 5 % of the training recordings
are held out by a hash of their names (:func:`mmssl.data.parts.hold_out`).

Channels are mixed by their mean, rates changed by torchaudio (:mod:`mmssl.data.audio.resample`).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from mmssl.data.audio import decode
from mmssl.data.audio.header import RECORDINGS, AudioLimits, Header
from mmssl.data.audio.resample import resample_blocks, resample_segment, resampled_length
from mmssl.data.limits import MediaError
from mmssl.data.parts import Listing, list_files
from mmssl.data.pool import map_files
from mmssl.data.source import FileSource
from mmssl.errors import UserError


def open_audio(
    data: str | Path | Sequence[str | Path], *, split: str | None = None, limits: AudioLimits | None = None
) -> "AudioSource":
    """List the recordings of ``data`` (nothing is read yet).

    Args:
        data: as above.
        split: "train", "val", "test" or any name in the ``split`` column; None takes every recording.
        limits: what one recording may cost.

    Raises:
        UserError: when the data is missing, may not be read or holds no recordings, or has no such split.
    """
    return AudioSource(list_files(data, split, RECORDINGS), limits=limits or AudioLimits())


class AudioSource(FileSource):
    """Recordings of one split, read in parts from their files whenever they are asked for."""

    what = "recordings"

    def __init__(self, listing: Listing, *, limits: AudioLimits) -> None:
        super().__init__(listing)
        self.limits = limits
        self._headers: list[Header | MediaError] | None = None

    def subset(self, chosen: Sequence[int]) -> "AudioSource":
        """The recordings of these numbers, with ids of their own."""
        part = super().subset(chosen)
        part._headers = None if self._headers is None else [self._headers[number] for number in chosen]
        return part

    def headers(
        self, workers: int = 0, progress: Callable[[int, int], None] | None = None
    ) -> list[Header | MediaError]:
        """The header of every recording, or why it has none. Read once; ``progress`` is called with (done, all)."""
        if self._headers is None and self.index is not None and (records := self.index.records()) is not None:
            failures = self.index.failures()
            self._headers = [failures.get(number) or Header(*record) for number, record in enumerate(records)]
        if self._headers is None:
            found: dict[int, Header | MediaError] = {}
            read = partial(_read_header, self)
            for done, (index, result) in enumerate(
                map_files(read, range(len(self)), workers=workers, seconds=self.limits.seconds), 1
            ):
                found[index] = result
                if progress is not None:
                    progress(done, len(self))
            self._headers = [found[index] for index in range(len(self))]
        return self._headers

    def trust(self, headers: list[Header | MediaError]) -> None:
        """Take these for the headers: read by other processes, or with lengths that were counted."""
        self._headers = list(headers)

    @property
    def seconds(self) -> Float64[np.ndarray, " recording"]:
        """Length of every recording as its header says, 0 where it cannot be read."""
        return np.array([item.seconds if isinstance(item, Header) else 0.0 for item in self.headers()], np.float64)

    def header(self, index: int) -> Header:
        """One header. Raises MediaError when it cannot be read."""
        if self._headers is None:
            return _read_header(self, index)
        header = self._headers[index]
        if isinstance(header, MediaError):
            raise header
        return header

    def read(
        self, index: int, start: int = 0, stop: int | None = None, *, sample_rate: int | None = None
    ) -> Float[Tensor, " sample"]:
        """Samples ``start`` to ``stop`` (the end) of a recording, counted at ``sample_rate`` (its own).

        Raises:
            UserError: naming the file, when they cannot be decoded.
        """
        try:
            header = self.header(index)
            rate = sample_rate or header.rate
            end = resampled_length(header.frames, header.rate, rate)
            stop = end if stop is None else stop
            if not 0 <= start <= stop <= end:
                raise MediaError("broken", f"it has {end} samples at {rate} Hz, not {start} to {stop}")
            return torch.from_numpy(self.segment(index, header, start, stop, rate))
        except MediaError as error:
            raise UserError(f"{self.location(index)}: {error.reason}: repair or remove the file") from None

    def segment(
        self, index: int, header: Header, start: int, stop: int, sample_rate: int
    ) -> Float32[np.ndarray, " sample"]:
        """Samples at ``sample_rate``, clipped to [-1, 1]. Raises MediaError."""
        if start == stop:
            return np.zeros(0, np.float32)
        fetch = partial(decode.read_frames, self.extent(index), header, limits=self.limits)
        found = resample_segment(fetch, header.frames, header.rate, sample_rate, start, stop)
        return np.clip(found, -1, 1)

    def stream(self, index: int, header: Header, sample_rate: int) -> Iterator[Float32[np.ndarray, " _"]]:
        """A whole recording at ``sample_rate``, some of it at a time, clipped to [-1, 1]. Raises MediaError."""
        mixed = (decode.mix(block) for block in decode.blocks(self.extent(index), header, self.limits))
        for block in resample_blocks(mixed, header.rate, sample_rate):
            yield np.clip(block, -1, 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A whole recording at its own rate. Raises UserError naming the file when it cannot be decoded."""
        audio = self.read(index)
        return {"id": index, "audio": audio, "rate": self.header(index).rate, "file": self.files[index]}


def _read_header(source: AudioSource, index: int) -> Header:
    return decode.read_header(source.extent(index), source.files[index], source.limits)
