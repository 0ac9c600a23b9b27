"""Recordings of a small set decoded and resampled once, kept as 16-bit samples in one flat array: 115 MB an hour.

16-bit recordings that are at the model's rate are kept exactly; others are rounded to 16 bits (96 dB below full scale).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int16, Int64

from mmssl.data.audio.check import checked_length
from mmssl.data.audio.header import Header
from mmssl.data.audio.source import AudioSource
from mmssl.data.limits import MediaError
from mmssl.data.pool import map_files


@dataclass(frozen=True)
class SampleCache:
    """Samples by recording; ``lengths`` is 0 for one that could not be decoded."""

    samples: Int16[np.ndarray, " sample"]
    offsets: Int64[np.ndarray, " recording"]
    lengths: Int64[np.ndarray, " recording"]

    def segment(self, index: int, start: int, stop: int) -> Int16[np.ndarray, " sample"]:
        """Samples of a recording (a view)."""
        offset = int(self.offsets[index])
        return self.samples[offset + start : offset + stop]


def decode_for_cache(
    source: AudioSource, headers: list[Header | MediaError], sample_rate: int, index: int
) -> Int16[np.ndarray, " sample"]:
    """A whole recording at ``sample_rate``. Raises MediaError."""
    header = headers[index]
    if isinstance(header, MediaError):
        raise header
    kept = [
        np.clip(np.rint(block * np.float32(2**15)), -(2**15), 2**15 - 1).astype(np.int16)
        for block in source.stream(index, header, sample_rate)
    ]
    checked_length(sum(map(len, kept)), not any(block.any() for block in kept))
    return np.concatenate(kept)


def build_cache(
    source: AudioSource,
    sample_rate: int,
    *,
    workers: int = 0,
    memory_limit: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SampleCache | None, dict[int, MediaError]]:
    """Decode every recording once.

    Returns:
        The cache, or None as soon as it would exceed ``memory_limit`` bytes; and the recordings that cannot be used.
    """
    count = len(source)
    headers = source.headers(workers)
    longest = max((item.seconds for item in headers if isinstance(item, Header)), default=0.0)
    kept: dict[int, np.ndarray] = {}
    lengths = np.zeros(count, np.int64)
    failures: dict[int, MediaError] = {}
    used = 0
    read = partial(decode_for_cache, source, headers, sample_rate)
    results = map_files(read, source.sequence(), workers=workers, seconds=source.limits.patience(longest))
    for done, (index, result) in enumerate(results, 1):
        if isinstance(result, MediaError):
            failures[index] = result
        else:
            kept[index], lengths[index] = result, len(result)
            used += result.nbytes
            if used > memory_limit:
                return None, failures
        if progress is not None:
            progress(done, count)
    offsets = np.cumsum(lengths) - lengths
    samples = np.empty(int(lengths.sum()), np.int16)
    for index in sorted(kept):
        samples[offsets[index] : offsets[index] + lengths[index]] = kept.pop(index)
    return SampleCache(samples, offsets, lengths), failures
