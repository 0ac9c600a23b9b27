"""Where recordings are cut, as arithmetic.

A recording of at most ``most`` samples is one piece, whole. A longer one of n samples gives k = n // most pieces of
``most`` samples, one after the other without a gap; the row begins at a place from 0 to n - k * most that is drawn anew
each epoch from (seed, epoch, recording), and in the middle of that range for validation. So an epoch hears nearly all
of a long recording, no two pieces of an epoch overlap, and every length is known before anything is drawn.

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
SEGMENT_STREAM = 0x5E6
"""Which of the noise streams of a recording decides where its row begins."""


@dataclass(frozen=True)
class Pieces:
    """All pieces of an epoch, in the order of recordings; lengths in samples."""

    recording: Int64[np.ndarray, " piece"]
    number: Int64[np.ndarray, " piece"]
    """Place in the row of its recording."""
    length: Int64[np.ndarray, " piece"]
    spare: Int64[np.ndarray, " piece"]
    """Samples of its recording that no piece covers."""

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
            word = key.bits(1, SEGMENT_STREAM)[:, 0].numpy().astype(np.int64) & 0xFFFFFFFF
            # a 32-bit word times the number of places, by 2^32: uniform to one part in 2^32 / places
            begin = word * (spare + 1) >> 32
        return begin + self.number[places] * self.length[places]


def cut(lengths: Int64[np.ndarray, " recording"], recordings: Int64[np.ndarray, " usable"], most: int) -> Pieces:
    """Cut the recordings, of ``lengths`` samples each, into pieces of at most ``most``."""
    whole = lengths[recordings]
    counts = np.clip(whole // most, 1, _MOST_PIECES)
    recording = np.repeat(recordings, counts)
    number = np.arange(len(recording)) - np.repeat(np.cumsum(counts) - counts, counts)
    length = np.minimum(whole, most)
    return Pieces(recording, number, np.repeat(length, counts), np.repeat(whole - counts * length, counts))
