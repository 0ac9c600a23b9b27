"""Which windows of which clips an epoch shows, as arithmetic.

A clip of n frames gives max(1, n // frames) windows an epoch, each at a place of its own from 0 to n - frames: drawn
anew each epoch from (seed, epoch, id), or, for validation, spread evenly from the first to the last place (one window:
the middle). So an epoch shows long clips in proportion to their length, and every clip longer than a window moves.

The id of a window is the number of its clip plus 2^28 times its own: it depends on no other clip.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from mmssl.data.audio.segments import ID_STEP
from mmssl.masking import NoiseKey

WINDOW_STREAM = 0x71D
"""Which of the noise streams of a window decides where it begins."""
_MOST_WINDOWS = 2**15


@dataclass(frozen=True)
class Windows:
    """All windows of an epoch, in the order of clips; lengths in frames."""

    clip: Int64[np.ndarray, " window"]
    number: Int64[np.ndarray, " window"]
    """Among those of its clip."""
    count: Int64[np.ndarray, " window"]
    """Windows of its clip."""
    places: Int64[np.ndarray, " window"]
    """Places where it may begin: the clip's frames minus the window's, plus one."""

    def __len__(self) -> int:
        return len(self.clip)

    @property
    def id(self) -> Int64[np.ndarray, " window"]:
        return self.clip + self.number * ID_STEP

    def starts(
        self, chosen: Int64[np.ndarray, " batch"], epochs: Int64[np.ndarray, " batch"], seed: int
    ) -> Int64[np.ndarray, " batch"]:
        """First frame of these windows in their epochs."""
        key = NoiseKey(seed, torch.from_numpy(epochs), torch.from_numpy(self.id[chosen]))
        word = key.bits(1, WINDOW_STREAM)[:, 0].numpy().astype(np.int64) & 0xFFFFFFFF
        # a 32-bit word times the number of places, by 2^32: uniform to one part in 2^32 / places
        return word * self.places[chosen] >> 32

    def fixed(self, chosen: Int64[np.ndarray, " batch"]) -> Int64[np.ndarray, " batch"]:
        """First frame of these windows for validation."""
        spare, others = self.places[chosen] - 1, self.count[chosen] - 1
        return np.where(others > 0, self.number[chosen] * spare // np.maximum(others, 1), spare // 2)


def cut(lengths: Int64[np.ndarray, " clip"], clips: Int64[np.ndarray, " usable"], frames: int) -> Windows:
    """Windows of ``frames`` frames of these clips, of ``lengths`` frames each; none is shorter than a window."""
    counts = np.clip(lengths[clips] // frames, 1, _MOST_WINDOWS)
    clip = np.repeat(clips, counts)
    number = np.arange(len(clip)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Windows(clip, number, np.repeat(counts, counts), lengths[clip] - frames + 1)
