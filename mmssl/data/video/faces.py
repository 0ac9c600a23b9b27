"""Where a face, or its mouth, is in every frame: found by OpenCV's cascade, followed and smoothed over the clip.

Frames are looked at LOOKS times a second (Viola & Jones, CVPR 2001; the frontal cascade that OpenCV 4 ships). What
overlaps from look to look is one face; the one that fills most of the clip is taken. Its box is smoothed so that the
crop does not tremble: what moves in a mouth crop should be the mouth.

Measured on generated and real frontal faces only: profiles and faces below a tenth of the picture's shorter side are
not found, and a video of two speakers gives the larger of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, UInt8

from mmssl.data.limits import MediaError
from mmssl.errors import UserError

LOOKS = 5.0
"""A second; a talking head moves little in 0.2 s."""
_SIDE = 320
"""Larger pictures are shrunk to about so many pixels on the shorter side for looking."""
_SMALLEST = 0.1
"""Least side of a face, as a share of the picture's shorter side."""
_OVERLAP = 0.25
"""Intersection over union from which two boxes are the same face."""
_LONGEST_LOSS = 2.0
"""Seconds after which a face that was not seen is another one."""
_LEAST_SEEN = 0.2
"""Share of the looks in which a face has to be found."""
_MOVE_SECONDS, _SIZE_SECONDS = 0.25, 1.0
"""Standard deviation in time of the smoothing of places and of sizes."""
# Of the cascade's square: centre down, and side of the crop, as shares of its side.
_PLACES: dict[str, tuple[float, float]] = {"face": (0.54, 1.2), "mouth": (0.80, 0.52)}


@dataclass(frozen=True)
class Seen:
    """Squares found at one time: left, top and side in pixels."""

    time: float
    squares: Float64[np.ndarray, "face 3"]


@lru_cache(maxsize=1)
def _cascade() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError(
            "crops of faces and mouths need OpenCV: pip install 'mmssl[video]', or use --crop none"
        ) from None
    if not hasattr(cv2, "CascadeClassifier"):
        raise UserError(f"OpenCV {cv2.__version__} has no cascades any more: pip install 'opencv-python-headless<5'")
    cv2.setNumThreads(1)
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_alt2.xml"))


def look(time: float, luma: UInt8[np.ndarray, "height width"]) -> Seen:
    """Find the faces of a frame."""
    import cv2

    cascade = _cascade()
    shrink = max(1.0, min(luma.shape) / _SIDE)
    if shrink > 1:
        size = (round(luma.shape[1] / shrink), round(luma.shape[0] / shrink))
        luma = cv2.resize(luma, size, interpolation=cv2.INTER_AREA)
    least = max(20, round(_SMALLEST * min(luma.shape)))
    found = cascade.detectMultiScale(np.ascontiguousarray(luma), 1.1, 4, minSize=(least, least))
    squares = np.array(found, np.float64).reshape(-1, 4)[:, :3] * shrink
    return Seen(time, squares)


def follow(looks: Sequence[Seen]) -> tuple[Float64[np.ndarray, " look"], Float64[np.ndarray, "look 3"]]:
    """Times and squares (left, top, side) of the face that fills most of the clip.

    Raises:
        MediaError: when none is found in enough of the looks.
    """
    tracks: list[list[tuple[float, np.ndarray]]] = []
    for seen in looks:
        free = [track for track in tracks if seen.time - track[-1][0] <= _LONGEST_LOSS]
        for square in seen.squares[np.argsort(-seen.squares[:, 2])]:
            overlaps = [_overlap(track[-1][1], square) for track in free]
            if overlaps and max(overlaps) >= _OVERLAP:
                free.pop(int(np.argmax(overlaps))).append((seen.time, square))
            else:
                tracks.append([(seen.time, square)])
    best = max(tracks, key=lambda track: sum(float(square[2]) ** 2 for _, square in track), default=[])
    if len(best) < max(1, _LEAST_SEEN * len(looks)):
        raise MediaError(
            "no face", f"a face was found in {len(best)} of {len(looks)} frames looked at, too few to follow"
        )
    return np.array([time for time, _ in best]), np.stack([square for _, square in best])


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two squares."""
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(first[:2] + first[2], second[:2] + second[2])
    inner = float(np.prod(np.maximum(high - low, 0)))
    return inner / (float(first[2] ** 2 + second[2] ** 2) - inner)


def boxes_at(
    times: Float64[np.ndarray, " frame"],
    seen_at: Float64[np.ndarray, " look"],
    squares: Float64[np.ndarray, "look 3"],
    what: Literal["face", "mouth"],
    size: tuple[int, int],
    picture: tuple[int, int],
) -> Float64[np.ndarray, "frame 4"]:
    """Top, left, height and width of the crop at each time: inside the picture, of the shape of ``size``."""
    down, share = _PLACES[what]
    left, top, side = squares.T
    centre_x = _smooth(times, seen_at, left + side / 2, _MOVE_SECONDS)
    centre_y = _smooth(times, seen_at, top + down * side, _MOVE_SECONDS)
    across = share * _smooth(times, seen_at, side, _SIZE_SECONDS)
    longest = max(size)
    height, width = across * size[0] / longest, across * size[1] / longest
    fit = np.minimum(1.0, np.minimum(picture[0] / height, picture[1] / width))
    height, width = height * fit, width * fit
    y = np.clip(centre_y - height / 2, 0, picture[0] - height)
    x = np.clip(centre_x - width / 2, 0, picture[1] - width)
    return np.stack([y, x, height, width], 1)


def _smooth(
    times: Float64[np.ndarray, " frame"],
    seen_at: Float64[np.ndarray, " look"],
    values: Float64[np.ndarray, " look"],
    seconds: float,
) -> Float64[np.ndarray, " frame"]:
    """A median over five looks against blunders, a straight line between looks, and a Gaussian over frames."""
    padded = np.pad(values, 2, mode="edge")
    steady = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    line = np.interp(times, seen_at, steady)
    if len(times) < 2:
        return line
    interval = max((times[-1] - times[0]) / (len(times) - 1), 1e-3)
    reach = max(1, round(3 * seconds / interval))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) * interval / seconds) ** 2)
    return np.convolve(np.pad(line, reach, mode="edge"), weights / weights.sum(), mode="valid")
