"""Segments read from their files, a batch at a time; runs in the workers of a DataLoader."""

import numpy as np
import torch
from jaxtyping import Float32
from torch.utils.data import Dataset

from mmssl.data.audio.cache import SampleCache
from mmssl.data.audio.header import Header
from mmssl.data.audio.segments import Pieces
from mmssl.data.audio.source import AudioSource
from mmssl.data.delivery import Batch, Failure
from mmssl.data.limits import MediaError


class SegmentReader(Dataset["Batch | Failure"]):
    """The batch of given (epoch, place) pairs.

    Args:
        source: the recordings.
        headers: of each, with exact lengths.
        pieces: what there is to read; a place is an index into them.
        sample_rate: of the batches.
        seed: decides where long recordings are cut.
        frozen: cut them at their fixed places.
        cache: all samples in memory, instead of the files.
    """

    def __init__(
        self, source: AudioSource, headers: list[Header | MediaError], pieces: Pieces, sample_rate: int, seed: int,
        frozen: bool, cache: SampleCache | None = None,
    ) -> None:  # fmt: skip
        self.source, self.headers, self.pieces = source, headers, pieces
        self.sample_rate, self.seed, self.frozen, self.cache = sample_rate, seed, frozen, cache

    def __getitems__(self, wanted: list[tuple[int, int]]) -> "Batch | Failure":
        """The batch, longest first if ``wanted`` is."""
        epochs, places = np.array(wanted, np.int64).reshape(-1, 2).T.copy()
        lengths = self.pieces.length[places]
        starts = self.pieces.starts(places, None if self.frozen else epochs, self.seed)
        audio = torch.zeros(len(places), int(lengths.max()))
        rows = audio.numpy()
        recordings = self.pieces.recording[places].tolist()
        for row, (recording, start, length) in enumerate(
            zip(recordings, starts.tolist(), lengths.tolist(), strict=True)
        ):
            try:
                rows[row, :length] = self._segment(recording, start, start + length)
            except MediaError as error:
                return Failure(recording, error.reason)
        return {
            "id": torch.from_numpy(self.pieces.id[places]),
            "epoch": torch.from_numpy(epochs),
            "audio": audio,
            "length": torch.from_numpy(lengths),
        }

    def _segment(self, recording: int, start: int, stop: int) -> Float32[np.ndarray, " sample"]:
        if self.cache is not None:
            return self.cache.segment(recording, start, stop) * np.float32(2.0**-15)
        header = self.headers[recording]
        if isinstance(header, MediaError):
            raise header
        return self.source.segment(recording, header, start, stop, self.sample_rate)
