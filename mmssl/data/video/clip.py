"""A clip: pictures and sound of one video on one clock, and the settings that say how it was made.

**The clock** is the container's: seconds = pts x time base, for both streams. A clip begins with the first frame from
where both streams have begun, and ends where the first of them ends; nothing is padded. With ``start`` seconds for
frame 0 and R frames a second

- frame i shows the last source frame whose time stamp is at most start + i / R, as a viewer would see it;
- audio sample ``i * samples_per_frame`` is the sample at start + i / R (to the nearest of the recording's own samples:
  at most 31 microseconds away at 16 kHz).

**The sign** of an offset: positive = the sound leads the picture (ITU-R BT.1359; SyncNet, Chung & Zisserman 2016).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int16, UInt8

from mmssl.errors import UserError

Box = tuple[int, int, int, int]
Crop = Literal["none", "face", "mouth"] | Box


@dataclass(frozen=True)
class ClipSettings:
    """How clips are made of videos. Everything that decides their bytes is here, and a cache is keyed by it."""

    fps: float = 25.0
    """Frames a second; other rates are resampled on the time line."""
    sample_rate: int = 16_000
    """Samples a second of the sound, mixed to one channel."""
    size: tuple[int, int] = (96, 96)
    """Height and width of the frames in pixels."""
    colour: Literal["luma", "rgb"] = "luma"
    """luma: brightness only, one channel; rgb: three."""
    crop: Crop = "none"
    """none: the whole picture; face or mouth: found, followed and smoothed over the clip (needs OpenCV); or a box: top,
    left, height and width in pixels of the upright picture."""
    hop: int = 160
    """Samples between two frames of the log-mel spectrogram: a picture has to be a whole number of them."""

    def __post_init__(self) -> None:
        if not 1 <= self.fps <= 240 or not 1000 <= self.sample_rate <= 192_000 or self.hop < 1:
            raise UserError(
                f"{self.fps:g} frames a second, {self.sample_rate} Hz and a hop of {self.hop} samples are impossible: "
                "give 1 to 240, 1000 to 192000 and 1 or more, such as 25, 16000 and 160"
            )
        count = self.sample_rate / self.fps
        if count != int(count) or int(count) % self.hop:
            raise UserError(
                f"{self.sample_rate} Hz at {self.fps:g} frames a second are {count:g} samples a frame, not a multiple "
                f"of the hop of {self.hop}: sound and picture would drift apart; choose 25 frames a second with "
                "16000 Hz and a hop of 160, or 30 with 24000 Hz and 200"
            )
        if len(self.size) != 2 or not all(8 <= side <= 1024 for side in self.size):
            raise UserError(f"frames of {self.size} pixels are impossible: give a height and a width from 8 to 1024")
        if self.colour not in ("luma", "rgb"):
            raise UserError(f"colour '{self.colour}' is unknown: choose luma or rgb")
        if isinstance(self.crop, str):
            if self.crop not in ("none", "face", "mouth"):
                raise UserError(f"crop '{self.crop}' is unknown: choose none, face, mouth or a box of four numbers")
        elif len(self.crop) != 4 or min(self.crop[:2]) < 0 or min(self.crop[2:]) < 1:
            raise UserError(f"crop {self.crop} is no box: give top, left, height and width in pixels")

    @property
    def channels(self) -> int:
        """Of a frame."""
        return 1 if self.colour == "luma" else 3

    @property
    def samples_per_frame(self) -> int:
        """Audio samples that go with a frame."""
        return int(self.sample_rate / self.fps)

    def bytes_of(self, frames: int) -> int:
        """What so many frames take with their sound and time stamps."""
        return frames * (self.channels * self.size[0] * self.size[1] + 2 * self.samples_per_frame + 8)

    def key(self) -> dict[str, Any]:
        """What decides the bytes of a clip, fit for JSON; the hop does not."""
        return {
            "fps": self.fps, "sample_rate": self.sample_rate, "size": list(self.size), "colour": self.colour,
            "crop": self.crop if isinstance(self.crop, str) else list(self.crop),
        }  # fmt: skip


@dataclass(frozen=True)
class Streams:
    """What the two streams of a file are and where they lie on its clock. All times in seconds."""

    format: str
    """Container and the two codings, such as MP4/h264+aac."""
    height: int
    width: int
    """Of the upright picture."""
    rotation: int
    """Degrees that the picture is turned counter-clockwise to be upright: 0, 90, 180 or 270."""
    frame_rate: float
    """Frames a second, by the median interval between two frames; 0 with a single frame."""
    frames: int
    """Pictures decoded."""
    video_start: float
    video_end: float
    rate: int
    """Samples a second of the sound."""
    channels: int
    audio_start: float
    audio_end: float
    longest_interval: float = 0.0
    """Between two pictures."""
    variable: bool = False
    """Whether intervals between pictures differ by more than rounding explains."""
    picture_gaps: tuple[tuple[float, float], ...] = ()
    """(where, how long) no new picture came for at least half a second, and for more than three usual intervals."""
    sound_gaps: tuple[tuple[float, float], ...] = ()
    """(where, how long) there is no sound in the middle: filled with silence."""

    @property
    def offset(self) -> float:
        """Seconds that the sound track begins after the picture track; negative: before."""
        return self.audio_start - self.video_start

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Streams":
        """From JSON."""
        gaps = {name: tuple((at, length) for at, length in data[name]) for name in ("picture_gaps", "sound_gaps")}
        return cls(**{**data, **gaps})


@dataclass(frozen=True)
class Clip:
    """A video, or a part of it, as pictures and sound on one clock (see above)."""

    video: UInt8[np.ndarray, "frame channel height width"]
    audio: Int16[np.ndarray, " sample"]
    """``samples_per_frame`` for each frame."""
    times: Float64[np.ndarray, " frame"]
    """Time stamp of the source frame shown, in seconds on the container's clock; equal neighbours are repeats."""
    start: float
    """Seconds of frame 0 on the container's clock."""
    settings: ClipSettings
    path: str
    streams: Streams
    boxes: Float32[np.ndarray, "frame 4"] | None = field(default=None, repr=False)
    """Top, left, height and width of what each frame shows, in pixels of the upright picture; None: all of it."""

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.video)

    @property
    def seconds(self) -> float:
        return len(self) / self.settings.fps

    @property
    def repeated(self) -> int:
        """Frames that show the same source frame as the one before."""
        return int((np.diff(self.times) == 0).sum())
