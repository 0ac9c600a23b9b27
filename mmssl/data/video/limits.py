"""What one video may cost."""

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoLimits:
    """Checked before anything large is allocated, and while decoding goes on."""

    pixels: int = 40_000_000
    """Height times width of a frame: 8K has 33 million; a decompression bomb claims more."""
    clip_bytes: int = 4 * 2**30
    """Of one clip in memory: 4 GiB are 10 hours at 64 x 64 pixels of luma."""
    seconds: float = 120.0
    """Time to open a file and to read from it. By the clock, and a process beside others may get little of a core."""
    least_speed: float = 0.2
    """Decoding may take ``seconds`` and the length of the video over this: slower ones hang or are bombs."""

    def patience(self, length: float) -> float:
        """Seconds that decoding a video of ``length`` seconds may take."""
        return self.seconds + min(max(length, 0.0), 24 * 3600) / self.least_speed

    def patience_of_bytes(self, size: int) -> float:
        """The same from outside, where only the size of the file is known: as long as at 128 kbit/s it could be."""
        return self.patience(size / 16_000)
