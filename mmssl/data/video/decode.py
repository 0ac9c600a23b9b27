"""One video file in, one :class:`~mmssl.data.video.clip.Clip` out: what is accepted, what is refused and why.

Pictures and sound are decoded one after the other, each from its own start, and meet on the container's clock. With
crops of faces the pictures are decoded twice: where a face is in a frame also depends on later frames.

Refused, in one clause: no moving pictures, no sound, the two not at the same time, fewer than a frame of both, no face
where one is wanted, damage that stops a decoder, and what is beyond :class:`~mmssl.data.video.limits.VideoLimits`.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data.limits import MediaError, guarded, regular_size
from mmssl.data.media import open_media, pictures_of, sound_of
from mmssl.data.pool import map_files
from mmssl.data.stores import Extent
from mmssl.data.video import faces, pictures
from mmssl.data.video.clip import Clip, ClipSettings, Streams
from mmssl.data.video.limits import VideoLimits
from mmssl.data.video.sound import Sound, read_sound
from mmssl.data.video.timeline import Grid, frames_within, is_variable, still_gaps, usual_interval
from mmssl.errors import UserError

_SHORTFALL = 0.5
"""Seconds by which both streams may end before the header says: more means that the file was cut off."""


def read_clip(
    path: str | Path,
    settings: ClipSettings | None = None,
    start: float | None = None,
    seconds: float | None = None,
    *,
    limits: VideoLimits | None = None,
    own_process: bool = False,
) -> Clip:
    """A video as pictures and sound on one clock.

    Args:
        path: the file.
        settings: of the clip.
        start: seconds on the container's clock where the clip begins; by default where both streams have begun.
        seconds: at most so many; by default until the first stream ends.
        limits: what it may cost.
        own_process: decode in a process of its own, which is killed where a decoder hangs or crashes.

    Raises:
        UserError: naming the file, with the reason, when there is no such clip.
    """
    settings, limits = settings or ClipSettings(), limits or VideoLimits()
    try:
        extent = Extent(str(path), 0, regular_size(path))
        read = partial(_read, extent, settings, start, seconds, limits)
        if not own_process:
            return read(0)
        patience = limits.patience_of_bytes(extent.size)
        clip = next(map_files(read, [0], workers=1, seconds=patience, method="spawn"))[1]
        if isinstance(clip, MediaError):
            raise clip
        return clip
    except MediaError as error:
        raise UserError(f"{path}: {error.reason}") from None


def _read(
    extent: Extent, settings: ClipSettings, start: float | None, seconds: float | None, limits: VideoLimits, _: int
) -> Clip:
    return decode_clip(extent, settings, start, seconds, limits)


def decode_clip(
    extent: Extent, settings: ClipSettings, start: float | None, seconds: float | None, limits: VideoLimits
) -> Clip:
    """As :func:`read_clip`, from any place where bytes lie. Raises MediaError with the reason in one clause."""
    if extent.size == 0:
        raise MediaError("broken", "the file is empty")
    length, form, first = _header(extent, limits)
    wanted = length if seconds is None else min(seconds, length or seconds)
    _check_memory(settings, wanted, limits)
    with _refusals(limits.patience(length)):
        stop = None if seconds is None else (first if start is None else start) + seconds
        most = limits.clip_bytes / settings.bytes_of(1) / settings.fps
        sound = read_sound(extent, settings.sample_rate, start, stop, limits.seconds, most)
        return _with_pictures(extent, settings, start, stop, limits, sound, form, length)


def _header(extent: Extent, limits: VideoLimits) -> tuple[float, str, float]:
    """Promised seconds, container, and where the later of the streams claims to begin. Checks that both are there."""
    with _refusals(limits.seconds), open_media(extent, limits.seconds) as container:
        name = container.format.name
        if name.endswith("_pipe") or name == "image2":
            raise MediaError("no picture", "it is a still picture, not a video")
        streams = pictures_of(container), sound_of(container)
        first = max(float((stream.start_time or 0) * stream.time_base) for stream in streams)
        return max(0.0, (container.duration or 0) / 1e6), name.split(",")[0].upper(), first


def _check_memory(settings: ClipSettings, seconds: float, limits: VideoLimits) -> None:
    if settings.bytes_of(math.ceil(seconds * settings.fps)) > limits.clip_bytes:
        raise MediaError(
            "limit",
            f"{seconds / 3600:.1f} h of {settings.size[0]} x {settings.size[1]} pixels take more than the limit of "
            f"{limits.clip_bytes / 2**30:.1f} GiB a clip: cut it into shorter files or choose smaller frames",
        )


class _Pictures:
    """Frames of a clip as they come, and what the track is."""

    def __init__(self, settings: ClipSettings, limits: VideoLimits) -> None:
        self.settings, self.limits = settings, limits
        self.codec, self.tick, self.rotation = "", 0.0, 0
        self.size = (0, 0)
        self.times: list[float] = []
        """Of all source frames."""
        self.end = 0.0
        self.frames: list[np.ndarray] = []
        self.shown: list[float] = []
        """Time stamp of the source frame that each frame of the clip shows."""

    def read(self, container: Any, start: float | None, stop: float | None) -> Iterator[tuple[float, Any]]:
        """(time, frame) in order up to ``stop``; keeps times and the end."""
        stream = pictures_of(container)
        self.codec, self.tick = stream.codec_context.name, float(stream.time_base)
        time, frame = 0.0, None
        for time, frame in pictures.frames_in_order(container, stream, start):
            if not self.times:
                pictures.check_size(frame, self.limits)
                self.rotation = int(frame.rotation) % 360
                turned = self.rotation in (90, 270)
                self.size = (frame.width, frame.height) if turned else (frame.height, frame.width)
            self.times.append(time)
            yield time, frame
            if stop is not None and time > stop:
                break
        if frame is None:
            raise MediaError("broken", "its picture track has no frames")
        self.end = pictures.end_of(time, frame, self.tick, usual_interval(np.array(self.times)))


def _with_pictures(
    extent: Extent, settings: ClipSettings, start: float | None, stop: float | None, limits: VideoLimits,
    sound: Sound, form: str, promised: float,
) -> Clip:  # fmt: skip
    track = _Pictures(settings, limits)
    finder = _Finder(extent, settings, limits, start, stop)
    boxes: list[tuple[float, float, float, float]] = []
    grid: Grid | None = None
    shown: tuple[float, Any] | None = None
    with open_media(extent, limits.seconds) as container:
        for time, frame in track.read(container, start, stop):
            both = max(sound.start, track.times[0])
            if grid is None and (start is not None or time >= both - track.tick / 2):
                grid = Grid(_begin(start, both, time, track.tick, settings), settings.fps, track.tick / 2 + 1e-9)
            if grid is not None and shown is not None:
                _show(track, boxes, finder, *shown, grid.until(time))
            shown = time, frame
        assert shown is not None
        grid = grid or Grid(max(sound.start, track.times[0]), settings.fps, 1e-9)
        _show(track, boxes, finder, *shown, grid.until(track.end + 1 / settings.fps))
    return _assemble(extent, settings, stop, sound, track, boxes, grid.start, form, promised)


def _begin(start: float | None, both: float, time: float, tick: float, settings: ClipSettings) -> float:
    """Where the clip begins, given when both streams have begun and the first frame from then on.

    By default with that frame: then a video at the rate of the clip is shown frame by frame, without a constant lag.
    """
    if start is None:
        return time if time <= both + 1 / settings.fps else both
    if start < both - max(tick, 1e-3):
        raise MediaError(
            "apart", f"its picture and its sound both exist only from {both:.3f} s on, not at {start:.3f} s"
        )
    return max(start, both)


class _Finder:
    """Which box a frame shows."""

    def __init__(
        self, extent: Extent, settings: ClipSettings, limits: VideoLimits, start: float | None, stop: float | None
    ) -> None:
        self.settings = settings
        self.found: dict[float, tuple[float, float, float, float]] = {}
        if isinstance(settings.crop, str) and settings.crop != "none":
            self._find(extent, limits, start, stop)

    def _find(self, extent: Extent, limits: VideoLimits, start: float | None, stop: float | None) -> None:
        settings, looks, due = self.settings, [], -math.inf
        track = _Pictures(settings, limits)
        with open_media(extent, limits.seconds) as container:
            for time, frame in track.read(container, start, stop):
                if time >= due:
                    looks.append(faces.look(time, pictures.upright(frame, "luma")))
                    due = time + 1 / faces.LOOKS - track.tick
        assert settings.crop in ("face", "mouth")
        times = np.array(track.times)
        boxes = faces.boxes_at(times, *faces.follow(looks), settings.crop, settings.size, track.size)
        self.found = dict(zip(track.times, map(tuple, boxes.tolist()), strict=True))

    def box(self, time: float, pixels: np.ndarray) -> tuple[float, float, float, float] | None:
        """Top, left, height and width; None for the whole picture."""
        if self.settings.crop == "none":
            return None
        if isinstance(self.settings.crop, str):
            return self.found[time]
        top, left, height, width = self.settings.crop
        if top + height > pixels.shape[0] or left + width > pixels.shape[1]:
            raise MediaError(
                "small", f"the box {self.settings.crop} reaches beyond its {pixels.shape[1]} x {pixels.shape[0]} pixels"
            )
        return float(top), float(left), float(height), float(width)


def _show(
    track: _Pictures, boxes: list[tuple[float, float, float, float]], finder: _Finder, time: float, frame: Any,
    count: int,
) -> None:  # fmt: skip
    """Add a source frame to the clip so many times; what is not shown is not converted."""
    if not count:
        return
    # headers may be honest, and time stamps jump by years
    _check_memory(track.settings, (len(track.frames) + count) / track.settings.fps, track.limits)
    pixels = pictures.upright(frame, track.settings.colour)
    box = finder.box(time, pixels)
    picture = pictures.cut(pixels, box, track.settings.size)
    track.frames.extend([picture] * count)
    track.shown.extend([time] * count)
    if box is not None:
        boxes.extend([box] * count)


def _assemble(
    extent: Extent, settings: ClipSettings, stop: float | None, sound: Sound, track: _Pictures,
    boxes: list[tuple[float, float, float, float]], start: float, form: str, promised: float,
) -> Clip:  # fmt: skip
    """Cut both to the interval where both exist."""
    if (
        stop is None
        and promised
        and max(track.end, sound.end) - min(track.times[0], sound.start) < promised - max(_SHORTFALL, 0.1 * promised)
    ):
        length = max(track.end, sound.end) - min(track.times[0], sound.start)
        raise MediaError("broken", f"it ends after {length:.2f} s of the {promised:.2f} s it promises: it was cut off")
    size, first = settings.samples_per_frame, round((start - sound.start) * settings.sample_rate)
    end = min(track.end, math.inf if stop is None else stop)
    count = min(frames_within(start, end, settings.fps), (len(sound.samples) - first) // size, len(track.frames))
    if count < 1:
        raise MediaError(
            "short",
            f"its picture ({track.times[0]:.2f} to {track.end:.2f} s) and its sound ({sound.start:.2f} to "
            f"{sound.end:.2f} s) have less than one frame in common",
        )
    times = np.array(track.times)
    streams = Streams(
        format=f"{form}/{track.codec}+{sound.codec}", height=track.size[0], width=track.size[1],
        rotation=track.rotation, frame_rate=1 / usual_interval(times) if len(times) > 1 else 0.0, frames=len(times),
        video_start=track.times[0], video_end=track.end, rate=sound.rate, channels=sound.channels,
        audio_start=sound.start, audio_end=sound.end, longest_interval=float(np.diff(times).max(initial=0.0)),
        variable=is_variable(times, track.tick), picture_gaps=still_gaps(times), sound_gaps=tuple(sound.gaps),
    )  # fmt: skip
    return Clip(
        video=np.stack(track.frames[:count]), audio=sound.samples[first : first + count * size],
        times=np.array(track.shown[:count]), start=start, settings=settings, path=extent.path, streams=streams,
        boxes=np.array(boxes[:count], np.float32) if boxes else None,
    )  # fmt: skip


@contextlib.contextmanager
def _refusals(seconds: float) -> Iterator[None]:
    """What FFmpeg says of a damaged file becomes one clause; a time limit for the block."""
    with guarded(seconds):
        try:
            yield
        except Exception as error:
            if type(error).__module__.split(".")[0] != "av":
                raise
            said = getattr(error, "strerror", None) or error
            raise MediaError("broken", f"it cannot be decoded ({said}): it is damaged or cut off") from None
