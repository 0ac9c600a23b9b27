"""Windows of a clip, embedded by a predictor that knows which sound belongs to which moment."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from torch import Tensor

from mmssl.errors import UserError
from mmssl.evaluation.offset.curve import ShiftScores, shift_scores

SLICE_FRAMES = 250
"""Frames embedded at a time: bounds the memory of the encoder's activations."""


@dataclass(frozen=True)
class Windows:
    """Window t of the picture and of the sound, both from the same moment."""

    visual: Float[Tensor, "window dim"]
    audio: Float[Tensor, "window dim"]
    visual_weight: Float[Tensor, " window"]
    """0 for a still picture."""
    audio_weight: Float[Tensor, " window"]
    """0 for silence."""

    def __len__(self) -> int:
        return len(self.visual)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of the fields."""
        return self.visual, self.audio, self.visual_weight, self.audio_weight

    def all_count(self) -> "Windows":
        """The same, silence and still pictures not left out."""
        return replace(self, visual_weight=torch.ones(len(self)), audio_weight=torch.ones(len(self)))

    def part(self, start: int, stop: int | None = None) -> "Windows":
        """Some of them."""
        return Windows(*(each[start:stop] for each in self.tensors))


def join(parts: list[Windows]) -> Windows:
    """One after the other."""
    return Windows(*(torch.cat(each) for each in zip(*(part.tensors for part in parts), strict=True)))


def check_synchroniser(predictor: Any, run: Any) -> None:
    """Raises UserError for a predictor that doesn't embed windows of picture and sound."""
    if not hasattr(predictor, "embed"):
        raise UserError(
            f"{run} is a {predictor.name}, which does not compare moments of picture and sound: give a run of "
            "recipes/av_sync.py"
        )


def clip_batch(
    predictor: Any, video: UInt8[np.ndarray, "frame channel height width"], audio: Int16[np.ndarray, " sample"]
) -> dict[str, Tensor]:
    """A batch of one clip."""
    zero = torch.zeros(1, dtype=torch.int64)
    batch = {
        "id": zero, "epoch": zero, "clip": zero,
        "video": torch.from_numpy(np.array(video))[None],  # a copy: caches are mapped read-only
        "audio": torch.from_numpy(np.array(audio))[None],
    }  # fmt: skip
    return {name: value.to(predictor.device) for name, value in batch.items()}


@torch.inference_mode()
def embed_clip(
    predictor: Any, video: UInt8[np.ndarray, "frame channel height width"], audio: Int16[np.ndarray, " sample"]
) -> Windows | None:
    """Every window of a clip, in slices that follow each other without a seam; None where it is shorter than one."""
    per_frame = len(audio) // max(len(video), 1)
    parts: list[Windows] = []
    start = 0
    while len(video) - start >= predictor.config.window:
        stop = min(start + SLICE_FRAMES, len(video))
        found = predictor.embed(clip_batch(predictor, video[start:stop], audio[start * per_frame : stop * per_frame]))
        windows = Windows(*(each[0].float().cpu() for each in (
            found.visual, found.audio, found.visual_weight, found.audio_weight)))  # fmt: skip
        if not len(windows):
            break
        parts.append(windows)
        if stop == len(video):
            break
        start += len(windows)
    return join(parts) if parts else None


class RowCollector:
    """Scores of all windows of a long video, which arrive piece by piece; keeps only what later pieces need."""

    def __init__(self, predictor: Any, reach: int) -> None:
        self.predictor, self.reach = predictor, reach
        self.rows: list[ShiftScores] = []
        self.windows = 0
        self.seen = self.heard = 0.0
        """Weight of all windows: what moves, and what sounds."""
        self._held: Windows | None = None
        self._lead = 0

    def add(self, windows: Windows) -> None:
        """The windows that follow those given so far."""
        self.windows += len(windows)
        self.seen += float(windows.visual_weight.sum())
        self.heard += float(windows.audio_weight.sum())
        self._held = windows if self._held is None else join([self._held, windows])
        self._judge(len(self._held) - self.reach)

    def skip(self, count: int) -> None:
        """So many windows that say nothing."""
        if self._held is not None:
            dim, none = self._held.visual.shape[1], torch.zeros(count)
            self.add(Windows(torch.zeros(count, dim), torch.zeros(count, dim), none, none))

    def finish(self) -> ShiftScores:
        """The scores of all windows."""
        if self._held is not None:
            self._judge(len(self._held))
        if not self.rows:
            empty = torch.zeros(0, 2 * self.reach + 1)
            return ShiftScores(empty, empty)
        return ShiftScores(torch.cat([row.score for row in self.rows]), torch.cat([row.weight for row in self.rows]))

    def _judge(self, stop: int) -> None:
        """Rows of the held windows from the first one not yet judged up to ``stop``."""
        if self._held is None or stop <= self._lead:
            return
        scores = score_windows(self.predictor, self._held, self._held, self.reach)
        self.rows.append(scores.rows(self._lead, stop))
        keep = max(stop - self.reach, 0)
        self._held, self._lead = self._held.part(keep), stop - keep


def score_windows(predictor: Any, picture: Windows, sound: Windows, reach: int) -> ShiftScores:
    """Picture of one clip with the sound of another (or the same), as long as the shorter one."""
    count = min(len(picture), len(sound))
    with torch.inference_mode():
        found = shift_scores(
            picture.visual[:count], sound.audio[:count], picture.visual_weight[:count], sound.audio_weight[:count],
            reach, predictor.similarity,
        )  # fmt: skip
    return found
