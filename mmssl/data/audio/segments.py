"""Where recordings are cut, as arithmetic.

A recording of at most ``most`` samples is one piece, whole. A longer one of n samples gives k = n // most pieces of
``most`` samples, one after the other without a gap; the row begins at a place from 0 to n - k * most that is drawn anew
each epoch from (seed, epoch, recording), and in the middle of that range for validation. So an epoch hears nearly all
of a long recording, no two pieces of an epoch overlap, and every length is known before anything is drawn.

Pieces of *varied* lengths, from ``least`` to ``most`` samples and evenly spread on a logarithmic scale, are drawn once
from (seed, recording); they fill the recording in the same manner, and each epoch begins the row with another of them.

The id of a piece is the number of its recording plus 2^28 times its place in the row: it depends on no other recording,
and the id of a recording that is not cut is its own number.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from mmssl.masking import NoiseKey

ID_STEP = 2**28
"""Recordings there may be; 2^15 pieces of each keep ids within the 2^43 that noise tells apart."""
_MOST_PIECES = 2**15
SEGMENT_STREAM, LENGTH_STREAM = 0x5E6, 0x5E7
"""Which of the noise streams of a recording decide where its row begins, and how long its pieces are."""


@dataclass(frozen=True)
class Pieces:
    """All pieces of an epoch, in the order of recordings; lengths in samples."""

    recording: Int64[np.ndarray, " piece"]
    number: Int64[np.ndarray, " piece"]
    """Place in the row of its recording."""
    length: Int64[np.ndarray, " piece"]
    before: Int64[np.ndarray, " piece"]
    """Samples of its row before it."""
    spare: Int64[np.ndarray, " piece"]
    """Samples of its recording that no piece covers."""
    varied: bool = False
    """Whether the pieces of a recording have different lengths."""

    def __len__(self) -> int:
        return len(self.recording)

    @property
    def id(self) -> Int64[np.ndarray, " piece"]:
        return self.recording + self.number * ID_STEP

    def starts(
        self, places: Int64[np.ndarray, " batch"], epochs: Int64[np.ndarray, " batch"] | None, seed: int
    ) -> Int64[np.ndarray, " batch"]:
        """First sample of the pieces at ``places``, in their epochs; None gives the fixed ones of validation."""
        spare = self.spare[places]
        if epochs is None:
            begin = spare // 2
        else:
            key = NoiseKey(seed, torch.from_numpy(epochs), torch.from_numpy(self.recording[places]))
            words = key.bits(2, SEGMENT_STREAM).numpy().astype(np.int64) & 0xFFFFFFFF
            # a 32-bit word times the number of places, by 2^32: uniform to one part in 2^32 / places
            begin = words[:, 0] * (spare + 1) >> 32
            if self.varied:
                return begin + self._turned(places, words[:, 1])
        return begin + self.before[places]

    def _turned(
        self, places: Int64[np.ndarray, " batch"], words: Int64[np.ndarray, " batch"]
    ) -> Int64[np.ndarray, " batch"]:
        """Samples before each piece when its row begins with the one that ``words`` picks."""
        zeroth = places - self.number[places]
        behind = np.searchsorted(self.recording, self.recording[places], side="right")
        leader, last = zeroth + (words * (behind - zeroth) >> 32), behind - 1
        row = self.before[last] + self.length[last]
        return (self.before[places] - self.before[leader]) % row


def cut(
    lengths: Int64[np.ndarray, " recording"],
    recordings: Int64[np.ndarray, " usable"],
    most: int,
    least: int | None = None,
    seed: int = 0,
) -> Pieces:
    """Cut the recordings, of ``lengths`` samples each, into pieces of at most ``most``.

    ``recordings`` ascend. With ``least`` below ``most`` the lengths vary between them, as ``seed`` decides.
    """
    whole = lengths[recordings]
    if least is not None and least < most:
        return _cut_varied(whole, recordings, most, least, seed)
    counts = np.clip(whole // most, 1, _MOST_PIECES)
    recording = np.repeat(recordings, counts)
    number = np.arange(len(recording)) - np.repeat(np.cumsum(counts) - counts, counts)
    length = np.repeat(np.minimum(whole, most), counts)
    return Pieces(
        recording, number, length, number * length, np.repeat(whole, counts) - length * np.repeat(counts, counts)
    )


def _cut_varied(
    whole: Int64[np.ndarray, " usable"], recordings: Int64[np.ndarray, " usable"], most: int, least: int, seed: int
) -> Pieces:
    # as many draws as a recording of the shortest pieces would need, for the longest one
    draws = int(np.clip(whole.max(initial=1) // least, 1, _MOST_PIECES))
    key = NoiseKey(seed, torch.zeros(len(recordings), dtype=torch.int64), torch.from_numpy(recordings))
    uniform = key.uniform(draws, LENGTH_STREAM).numpy().astype(np.float64)
    drawn = np.rint(least * (most / least) ** uniform).astype(np.int64)
    ends = drawn.cumsum(1)
    inside = ends <= whole[:, None]
    # shorter than its first piece: whole
    drawn[:, 0] = np.minimum(drawn[:, 0], whole)
    inside[:, 0] = True
    counts = inside.sum(1)
    row, number = inside.nonzero()
    length, covered = drawn[row, number], (drawn * inside).sum(1)
    before = (drawn * inside).cumsum(1)[row, number] - length
    return Pieces(recordings[row], number, length, before, np.repeat(whole - covered, counts), varied=True)
