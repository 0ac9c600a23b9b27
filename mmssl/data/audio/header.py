"""What the beginning of a recording says of it, and what one may cost."""

from dataclasses import dataclass
from typing import Literal

from mmssl.data.limits import MediaError
from mmssl.data.parts import Medium

SOUND = frozenset({
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff",
    ".aifc", ".au", ".snd", ".caf", ".sph", ".wma", ".ac3", ".amr", ".mka",
})  # fmt: skip
VIDEO = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv",
})  # fmt: skip
RECORDINGS = Medium("a recording", "recordings", SOUND | VIDEO, "Audio")


@dataclass(frozen=True)
class AudioLimits:
    """What one recording may cost."""

    hours: float = 24.0
    """Length; a decompression bomb, or a broken header, claims more."""
    seconds: float = 20.0
    """Time to read a header or a segment."""
    least_speed: float = 20.0
    """Decoding a whole recording may take ``seconds`` and its length over this: slower ones hang or are bombs."""

    def patience(self, length: float) -> float:
        """Seconds that decoding all of a recording of ``length`` seconds may take."""
        return self.seconds + min(length, 3600 * self.hours) / self.least_speed


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a recording before it is decoded. A *frame* is one sample of each channel."""

    decoder: Literal["pcm", "soundfile", "pyav"]
    """Who reads it: numpy for plain PCM in WAV files, soundfile for what it knows, PyAV for the rest."""
    format: str
    """Container and coding, such as WAV/PCM_16."""
    rate: int
    """Frames a second."""
    channels: int
    frames: int
    """As the header says, never more than fit into the file; exact once the recording was checked."""
    start: float = 0.0
    """Seconds from the beginning of the file's own clock to the first frame: a sound track may begin late."""
    offset: int = 0
    """For pcm the byte where samples begin, for pyav the timestamp of the first frame."""
    code: str = ""
    """For pcm: the numpy type of a sample, "<i3" for 24 bits."""
    begin: int = -1
    """For pyav the byte where the first packet begins, -1 when that is not known."""

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def check_header(header: Header, limits: AudioLimits) -> Header:
    """The header, when it makes sense. Raises MediaError."""
    if not (1 <= header.rate <= 10_000_000 and 1 <= header.channels <= 1024):
        raise MediaError("broken", f"its header says {header.rate} Hz and {header.channels} channels")
    if header.frames < 1:
        raise MediaError("broken", "it has no samples")
    if header.seconds > 3600 * limits.hours:
        hours = f"{header.seconds / 3600:,.0f} h"
        raise MediaError("limit", f"its header claims {hours}, more than the limit of {limits.hours:g} h")
    return header
