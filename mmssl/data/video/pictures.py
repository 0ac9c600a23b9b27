"""The pictures of a video on the container's clock: upright, luma or RGB, any coding that FFmpeg knows.

Luma is full range (0 black, 255 white) whatever the video's own range. A display matrix turns and mirrors; a stored
aspect ratio of pixels is not applied, since crops are scaled in both directions anyway.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmssl.data.limits import MediaError
from mmssl.data.video.limits import VideoLimits

SEEK_FROM = 5.0
"""A part that begins less than so many seconds after the beginning is reached by decoding."""
_FORMATS = {"luma": "gray", "rgb": "rgb24"}


def frames_in_order(container: Any, stream: Any, begin: float | None) -> Iterator[tuple[float, Any]]:
    """(seconds, frame) with times that only rise, from the last key frame before ``begin`` on.

    A frame whose time stamp is not later than one that came before cannot be shown on a clock and is left out; one
    without a time stamp follows the one before it after the usual interval.
    """
    tick = float(stream.time_base)
    last, usual = -math.inf, 1.0 / float(stream.average_rate or 25)
    for frame in _decoded(container, stream, begin):
        time = frame.pts * tick if frame.pts is not None else 0.0 if last == -math.inf else last + usual
        if time > last:
            yield time, frame
            last = time


def _decoded(container: Any, stream: Any, begin: float | None) -> Iterator[Any]:
    tick, origin = stream.time_base, stream.start_time or 0
    if begin is not None and begin - float(origin * tick) > SEEK_FROM:
        container.seek(int(begin / tick), stream=stream)
        frames = container.decode(stream)
        first = next(frames, None)
        if first is not None and first.pts is not None and float(first.pts * tick) <= begin:
            yield first
            yield from frames
            return
        container.seek(min(origin, 0), stream=stream)  # an index that is missing or wrong: from the first frame
    yield from container.decode(stream)


def end_of(time: float, frame: Any, tick: float, usual: float) -> float:
    """When the last frame stops being shown: after its stated duration, if that makes sense, or the usual one."""
    stated = (frame.duration or 0) * tick
    return time + (stated if max(0.5 * usual, 1e-6) <= stated <= max(2 * usual, 0.25) else usual or 0.04)


def check_size(frame: Any, limits: VideoLimits) -> None:
    """Raises MediaError for a frame that is larger than allowed."""
    if frame.height * frame.width > limits.pixels:
        raise MediaError("limit", f"its frames of {frame.width} x {frame.height} pixels are beyond the limit")


def upright(frame: Any, colour: Literal["luma", "rgb"]) -> UInt8[np.ndarray, "height width ..."]:
    """The pixels as they are to be seen: [height, width] of luma, or [height, width, 3]."""
    pixels = frame.to_ndarray(format=_FORMATS[colour])
    matrix = _matrix(frame)
    if matrix is None:
        return pixels
    a, b, c, d = matrix  # x' = a x + c y, y' = b x + d y, each up to a shift
    if abs(b) > abs(a):
        pixels, across, down = pixels.swapaxes(0, 1), c, b
    else:
        across, down = a, d
    pixels = pixels[:, ::-1] if across < 0 else pixels
    return pixels[::-1] if down < 0 else pixels


def _matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The part of the display matrix that turns and mirrors; None where it does neither."""
    for item in frame.side_data:
        if item.type.name == "DISPLAYMATRIX":
            words = np.frombuffer(bytes(item), "=i4")
            if len(words) == 9 and words[[0, 1, 3, 4]].any():
                a, b, c, d = (int(words[place]) for place in (0, 1, 3, 4))
                return None if a > 0 and d > 0 and b == c == 0 else (a, b, c, d)
    return None


def cut(
    pixels: UInt8[np.ndarray, "height width ..."], box: tuple[float, float, float, float] | None, size: tuple[int, int]
) -> UInt8[np.ndarray, "channel out_height out_width"]:
    """A box (top, left, height, width; fractions of pixels count) resized: bilinear, antialiased. None: all of it."""
    height, width = pixels.shape[:2]
    top, left, high, wide = box or (0.0, 0.0, float(height), float(width))
    if (high, wide) == size and top == int(top) and left == int(left):
        found = pixels[int(top) : int(top) + size[0], int(left) : int(left) + size[1]]
    else:
        edges = (left, top, min(left + wide, width), min(top + high, height))
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        found = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=edges))
    return np.ascontiguousarray(found[None] if found.ndim == 2 else found.transpose(2, 0, 1))
