"""What one video is and what is odd about it: the findings of `mmssl inspect` on videos."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmssl.data.stores import Extent
from mmssl.data.video.clip import Clip, ClipSettings, Streams
from mmssl.data.video.decode import decode_clip
from mmssl.data.video.limits import VideoLimits

# 100 frames a second: every source frame of at most so many is shown at least once
_LOOK = ClipSettings(fps=100.0, sample_rate=16_000, size=(48, 48))
_FRAME_SECONDS = 0.02
SILENCE_DB = -60.0
"""A frame of 20 ms of sound below this level, relative to full scale, counts as silence."""
_OFFSET = 0.04
"""Seconds between the starts of the two streams that are worth a word: a frame."""
_SHORTER = 0.5
"""Seconds by which one stream may end before the other."""
_REPEATED, _SILENT = 0.05, 0.8
"""Shares of repeated pictures and of silence that are worth a word."""


@dataclass(frozen=True)
class Examined:
    """What is remembered of one video."""

    streams: Streams
    seconds: float
    """Both streams exist."""
    bytes: int
    repeated: float
    """Share of pictures with the very same pixels as the one before, although under a new time stamp."""
    silent: float
    """Share of frames of 20 ms that are silence."""
    loudness: float
    """Root mean square, in dB relative to full scale."""


def examine(extent: Extent, limits: VideoLimits) -> Examined:
    """Decode a video. Raises MediaError when it has not both pictures and sound, or cannot be decoded."""
    clip = decode_clip(extent, _LOOK, None, None, limits)
    count = round(_FRAME_SECONDS * _LOOK.sample_rate)
    sound = clip.audio[: len(clip.audio) // count * count].reshape(-1, count).astype(np.float64) / 2**15
    power = np.square(sound).mean(1)
    return Examined(
        clip.streams, clip.seconds, extent.size, _repeated(clip), float((power < 10 ** (SILENCE_DB / 10)).mean()),
        float(10 * np.log10(max(power.mean(), 1e-20))),
    )  # fmt: skip


def _repeated(clip: Clip) -> float:
    new = np.flatnonzero(np.diff(clip.times) > 0)
    if not len(new):
        return 0.0
    return float(np.mean([np.array_equal(clip.video[place], clip.video[place + 1]) for place in new]))


def findings(seen: Examined) -> Iterator[tuple[str, str]]:
    """(kind, sentence) of everything odd about a video; nothing about most."""
    streams = seen.streams
    if abs(streams.offset) > _OFFSET:
        when = "after" if streams.offset > 0 else "before"
        yield "start offset", f"its sound begins {1000 * abs(streams.offset):.0f} ms {when} its picture"
    later = streams.audio_end - streams.video_end
    if abs(later) > _SHORTER:
        first, other = ("picture", "sound") if later > 0 else ("sound", "picture")
        yield "length", f"its {first} ends {abs(later):.2f} s before its {other}"
    if streams.variable:
        usual = 1000 / streams.frame_rate if streams.frame_rate else 0.0
        longest = 1000 * streams.longest_interval
        yield "variable rate", f"its frame rate varies: {usual:.0f} ms between pictures, but up to {longest:.0f} ms"
    if seen.repeated > _REPEATED:
        yield "repeated pictures", f"{seen.repeated:.0%} of its pictures repeat the one before"
    for at, seconds in streams.picture_gaps:
        yield "gap in the picture", f"no new picture comes for {seconds:.2f} s at {at:.2f} s"
    for at, seconds in streams.sound_gaps:
        yield "gap in the sound", f"{1000 * seconds:.0f} ms of its sound are missing at {at:.2f} s"
    if seen.silent > _SILENT:
        yield "silence", f"{seen.silent:.0%} of its sound is silence (below {SILENCE_DB:g} dBFS)"
