"""Pictures and sound of a clip on one clock: which samples and which mel frames go with which video frames."""

from dataclasses import dataclass, field

from mmssl.errors import UserError
from mmssl.nn.mel import MelConfig


@dataclass(frozen=True)
class ClipConfig:
    """What clips look like to a network, most important settings first."""

    picture_size: tuple[int, int]
    """Height and width of a frame in pixels, as clips are cached."""
    channels: int = 1
    """1 brightness, 3 colour."""
    fps: float = 25.0
    """Frames a second."""
    sample_rate: int = 16_000
    """Samples of sound a second."""
    mel: MelConfig = field(default_factory=lambda: MelConfig(stack=1))
    """Spectrogram of the sound; its hop must divide a video frame."""

    def __post_init__(self) -> None:
        if min(self.picture_size) < 8 or self.channels < 1:
            raise UserError(
                f"frames need at least 8 x 8 pixels and 1 channel, got {self.picture_size} and {self.channels}"
            )
        if self.fps <= 0 or self.sample_rate < 1:
            raise UserError(f"fps and sample_rate must be positive, got {self.fps:g} and {self.sample_rate}")
        samples = self.sample_rate / self.fps
        hop = self.mel.hop * self.sample_rate
        # otherwise windows of pictures and of sound drift apart by a fraction of a hop, and the offset shows it
        if abs(samples - round(samples)) > 1e-6 or abs(hop - round(hop)) > 1e-6 or round(samples) % round(hop):
            raise UserError(
                f"a mel hop of {1000 * self.mel.hop:g} ms does not divide a video frame of {1000 / self.fps:g} ms in "
                f"whole samples at {self.sample_rate} Hz: choose a hop of {1000 / self.fps / 4:g} ms, or 25 frames a "
                "second with 16000 Hz and a hop of 10 ms"
            )
        if self.mel.stack != 1:
            raise UserError(f"mel frames of clips are not stacked: leave out stack={self.mel.stack}")

    @property
    def samples_per_frame(self) -> int:
        """Samples of sound that go with a video frame."""
        return round(self.sample_rate / self.fps)

    @property
    def hop(self) -> int:
        """Samples from one mel frame to the next."""
        return round(self.mel.hop * self.sample_rate)

    @property
    def mel_per_frame(self) -> int:
        """Mel frames that begin in a video frame."""
        return self.samples_per_frame // self.hop

    def mel_in(self, frames: int) -> tuple[int, int]:
        """``(lead, count)``: the mel frames that see nothing but the samples of ``frames`` video frames.

        ``count`` is as many as fit; the first begins ``lead`` samples behind the first of the video frames, so that
        all of them together lie in the middle. Nothing reaches over an edge, so nothing is padded.
        Raises UserError where not even one fits.
        """
        window = round(self.mel.window * self.sample_rate)
        samples = frames * self.samples_per_frame
        if window > samples:
            raise UserError(
                f"{frames} video frames of {1000 / self.fps:g} ms are shorter than a mel window of "
                f"{1000 * self.mel.window:g} ms: choose more frames or a shorter window"
            )
        count = (samples - window) // self.hop + 1
        return (samples - window - (count - 1) * self.hop) // 2, count
