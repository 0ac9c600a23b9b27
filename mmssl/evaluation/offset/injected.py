"""Known shifts injected into clips that are in sync: free truth to measure and to calibrate with.

Shifting the sound of a clip by whole frames moves the columns of its scores, so that every window is embedded once
whatever the number of shifts. The sound keeps its length, so it begins late and outlasts the picture or the other way
round, as in a real file; where there is none, nothing is padded. Each clip's sound is also cut a random part of a frame
late, so that true offsets fall between frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.data.video import ClipSource
from mmssl.errors import UserError
from mmssl.evaluation.offset.curve import Curve, ShiftScores, mean_curve
from mmssl.evaluation.offset.embedding import Windows, embed_clip, score_windows

REACH = 15
"""Frames searched on either side: the protocol of SyncNet and its successors on LRS2."""
CONTEXTS = (5, 9, 15, 25, 75)
"""Frames that an answer is made of."""
OUTSIDE = 3
"""Offsets beyond the search range are injected by so many frames."""
MOST_FRAMES = 250
"""Longer clips are cut to their first so many frames."""


Kind = Literal["own", "other", "outside", "all_count"]

MOST_CLIPS = 200
"""Of a large set, so many, evenly spaced."""


@runtime_checkable
class ClipLike(Protocol):
    """Frames and samples of the same interval."""

    video: np.ndarray
    audio: np.ndarray


@dataclass(frozen=True)
class KnownClip:
    """Scores of a clip whose true offset is known, far beyond the search range so that shifts can be injected."""

    own: ShiftScores
    other: ShiftScores
    """The picture with another clip's sound, cut at the same times: there is no right answer."""
    all_count: ShiftScores
    """``own`` with silence and still pictures counted like everything else, as published protocols do."""
    truth: float
    """True shift of ``own`` in frames, between -1 and 0: the part of a frame that its sound was cut late."""
    number: int
    """Which clip."""


@dataclass(frozen=True)
class Injected:
    """Curves over the search range, and what was injected."""

    curve: Curve
    truth: Float[Tensor, " sample"]
    """True shift in frames; not a number where there is none."""
    clip: Int[Tensor, " sample"]
    context: Int[Tensor, " sample"]
    kind: Kind = "own"

    def right(self, frames: Float[Tensor, " sample"]) -> Tensor:
        """Which answers are within one frame of the truth."""
        return (frames - self.truth).abs() <= 1.0 + 1e-6


class UsableClips(Sequence[ClipLike]):
    """The clips of a source that can be used, read when they are asked for."""

    def __init__(self, source: ClipSource, numbers: Sequence[int]) -> None:
        self.source, self.numbers = source, list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: Any) -> Any:
        return self.source.clip(self.numbers[place])


def usable_clips(source: ClipSource, most: int = MOST_CLIPS) -> UsableClips:
    """Clips of a source, those left out that give none. Raises UserError where none is left."""
    failures = source.failures
    numbers = [number for number in range(len(source)) if number not in failures]
    if not numbers:
        raise UserError(f"{source.name} has no videos with picture and sound: see `mmssl inspect {source.name}`")
    most = min(most, len(numbers))
    return UsableClips(source, [numbers[place * len(numbers) // most] for place in range(most)])


def know_clips(
    predictor: Any, clips: Sequence[ClipLike], *, seed: int = 0, reach: int = REACH, between_frames: bool = True,
    say: Callable[[str], None] | None = None,
) -> list[KnownClip]:  # fmt: skip
    """Embed clips once each. ``between_frames`` also cuts their sound a random part of a frame late.

    Raises UserError where none is long enough.
    """
    generator = np.random.default_rng(seed)
    embedded: list[tuple[int, Windows, float]] = []
    for number in range(len(clips)):
        clip = clips[number]
        part = int(generator.integers(1, 2**20))
        found, truth = _embed_late(predictor, clip, part if between_frames else 0)
        if found is not None and len(found) >= 2:
            embedded.append((number, found, truth))
        if say is not None and (number + 1) % 100 == 0:
            say(f"{number + 1} of {len(clips)} clips embedded")
    if not embedded:
        raise UserError("no clip is long enough to inject shifts into: they need at least two windows")
    wide = 2 * reach + OUTSIDE
    known = []
    for place, (number, found, truth) in enumerate(embedded):
        following = embedded[(place + 1) % len(embedded)][1]
        if len(embedded) == 1:  # nobody else's sound: its own, backwards
            following = Windows(*(each.flip(0) for each in found.tensors))
        own = score_windows(predictor, found, found, wide)
        other = score_windows(predictor, found, following, wide)
        plain = found.all_count()
        known.append(KnownClip(own, other, score_windows(predictor, plain, plain, wide), truth, number))
    return known


def _embed_late(predictor: Any, clip: ClipLike, part: int) -> tuple[Windows | None, float]:
    """The windows, with the sound cut ``part`` samples (of a frame's) late, and the shift that this makes."""
    video, audio = clip.video[:MOST_FRAMES], clip.audio
    per_frame = len(audio) // max(len(clip.video), 1)
    late = part % max(per_frame, 1)
    if late:
        video = video[:-1]
    audio = audio[late : late + len(video) * per_frame]
    return embed_clip(predictor, video, audio), -late / max(per_frame, 1)


def inject(
    known: Sequence[KnownClip],
    context: int,
    window: int,
    *,
    repeats: int,
    seed: int,
    reach: int = REACH,
    kind: Kind = "own",
) -> Injected:
    """``repeats`` random places and offsets in every clip, each judged from ``context`` frames.

    ``kind``: "own" has an offset within the search range, and so has "all_count", which leaves nothing out; "outside"
    has one beyond it, and "other" another clip's sound. A clip shorter than the context is used whole.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for clip in known:
        scores = {"other": clip.other, "all_count": clip.all_count}.get(kind, clip.own)
        count = len(scores.score)
        used = min(max(context - window + 1, 1), count)
        start = (torch.rand(repeats, generator=generator) * (count - used + 1)).long()
        offset = torch.randint(-reach, reach + 1, (repeats,), generator=generator)
        if kind == "outside":
            offset = torch.where(offset < 0, -1, 1) * (reach + OUTSIDE)
        columns = scores.reach - offset[:, None] + torch.arange(-reach, reach + 1)  # the true shift lands on +offset
        total, weight = (_between(each, start, used).gather(1, columns) for each in (
            scores.score * scores.weight, scores.weight))  # fmt: skip
        truth = offset + clip.truth if kind in ("own", "all_count") else torch.full((repeats,), torch.nan)
        parts.append((total, weight, truth, torch.full((repeats,), clip.number)))
    total, weight, truth, number = (torch.cat(each) for each in zip(*parts, strict=True))
    return Injected(mean_curve(total, weight), truth.float(), number, torch.full_like(number, context), kind)


def _between(
    values: Float[Tensor, "window shift"], start: Int[Tensor, " sample"], used: int
) -> Float[Tensor, "sample shift"]:
    """Sums over ``used`` windows from each start."""
    summed = torch.cat([values.new_zeros(1, values.shape[1], dtype=torch.float64), values.double().cumsum(0)])
    return (summed[start + used] - summed[start]).float()
