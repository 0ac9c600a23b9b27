"""What predictors of clips share: pictures and sound as numbers, and which moments say anything.

A batch holds ``video``, uint8 ``[batch, frame, channel, height, width]``, ``audio``, int16 ``[batch, sample]`` with
``samples_per_frame`` samples for each frame from the same moment on, and ``clip``, int64 ``[batch]``, the same number
for parts of the same file. Nothing is padded.
"""

from jaxtyping import Float, Int16, UInt8
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.mel import MelFrontEnd
from mmssl.predictors.base import Batch, Predictor

FULL_SCALE = 32_768.0
"""Of int16 samples."""

EPSILON = 1e-5
"""Added to variances: what never changes becomes 0."""

QUIETEST = 1e-3
"""Loudness below which all is silence: -60 dB of a full-scale square wave."""

CELLS = 8
"""Rows and columns in which motion is looked for: a mouth moves in a face that does not."""


class AudioVisualPredictor(Predictor):
    """A predictor of clips."""

    front_end: MelFrontEnd

    @property
    def clip(self) -> ClipConfig:
        """What its clips look like."""
        return self.config.clip

    def check(self, batch: Batch) -> None:
        """Raises UserError for clips of another shape than this model takes."""
        video, audio, clip = batch["video"], batch["audio"], self.clip
        expected = (clip.channels, *clip.picture_size)
        if tuple(video.shape[2:]) != expected:
            raise UserError(
                f"frames of {tuple(video.shape[2:])} given, this model takes {expected}: cut clips with the settings "
                "of its run"
            )
        samples = video.shape[1] * clip.samples_per_frame
        if audio.shape[1] != samples:
            raise UserError(
                f"{video.shape[1]} frames need {samples} samples of sound, got {audio.shape[1]}: cut clips with the "
                "settings of its run"
            )

    def log_mel(self, audio: Int16[Tensor, "batch sample"], lead: int) -> Float[Tensor, "batch frame mel"]:
        """Log-mel frames from the ``lead``-th sample on, each bin with mean 0 and variance 1 over its clip.

        By clip, so that neither the microphone nor how loud a voice is makes a difference.
        """
        mel = self.front_end.log_mel(audio[:, lead:].float() / FULL_SCALE)
        return standardise(mel, (1,))


def standardise(x: Float[Tensor, "*shape"], dims: tuple[int, ...]) -> Float[Tensor, "*shape"]:
    """Mean 0 and variance 1 over ``dims``; a constant becomes 0."""
    x = x.float()
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + EPSILON).rsqrt()


def loudness(audio: Int16[Tensor, "batch sample"], samples: int) -> Float[Tensor, "batch frame"]:
    """Root mean square of each frame of ``samples`` samples, 1 at full scale, without the mean of the frame."""
    frames = audio.unflatten(1, (-1, samples)).float() / FULL_SCALE
    return (frames - frames.mean(2, keepdim=True)).square().mean(2).sqrt()


def sounding(loud: Float[Tensor, "batch frame"], window: int, decibels: float) -> Float[Tensor, "batch window"]:
    """1 for windows of ``window`` frames that say something, 0 for silence.

    Silent is what lies ``decibels`` below the loudest window of the clip, such as room noise between words, and
    whatever lies below -60 dB of full scale.
    """
    power = loud.square().unfold(1, window, 1).mean(2)
    least = power.amax(1, keepdim=True) * 10 ** (-decibels / 10)
    return (power >= least.clamp_min(QUIETEST**2)).float()


def moving(
    video: UInt8[Tensor, "batch frame channel height width"], window: int, least: float
) -> Float[Tensor, "batch window"]:
    """1 for windows of ``window`` frames in which something moves, 0 for a still picture.

    Moving is what changes from frame to frame by at least ``least`` grey levels of 255, on average over the window and
    over the busiest of 8 x 8 cells of the picture.
    """
    grey = F.adaptive_avg_pool2d(video.flatten(0, 1).float().mean(1, keepdim=True), 2 * CELLS)
    change = grey.view(*video.shape[:2], 2 * CELLS, 2 * CELLS).diff(dim=1).abs()
    change = F.adaptive_avg_pool2d(change, CELLS).flatten(2)
    return (change.unfold(1, window - 1, 1).mean(3).amax(2) >= least).float()
