"""What a predictor hid of recordings, and what it predicted there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmssl.evaluation.features import longest_first, to_device

if TYPE_CHECKING:
    from mmssl.predictors.audio import AudioPredictor

NEAR_RANKS = 5
"""A true code that at most so many negatives came before is nearly right."""


@dataclass(frozen=True)
class Clip:
    """A recording at the model's sample rate."""

    name: str
    audio: Float[Tensor, " sample"]


@dataclass(frozen=True)
class Codes:
    """BEST-RQ at each step: the codes of all codebooks, -1 where nothing was hidden."""

    target: Int[np.ndarray, "step codebook"]
    predicted: Int[np.ndarray, "step codebook"]
    probability: Float[np.ndarray, "step codebook"]
    """What the network gave the true code."""


@dataclass(frozen=True)
class Ranks:
    """wav2vec 2.0 at each step: how the true code stands among the negatives."""

    similarity: Float[np.ndarray, " step"]
    """Cosine of the prediction and the true code."""
    rank: Int[np.ndarray, " step"]
    """Negatives that came before it; -1 where nothing was hidden."""
    negatives: int
    """Drawn for each."""


@dataclass(frozen=True)
class RevealedClip:
    """One recording, what was hidden of it, and what was predicted there."""

    clip: Clip
    sample_rate: int
    mel: Float[np.ndarray, "frame mel"]
    """Log energies."""
    hidden: Bool[np.ndarray, " step"]
    begin: float
    """Seconds at which the first step begins."""
    step: float
    """Seconds of a step."""
    found: Codes | Ranks

    @property
    def seconds(self) -> float:
        return len(self.clip.audio) / self.sample_rate

    def spans(self) -> list[tuple[float, float]]:
        """Beginning and end of each hidden span in seconds."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], self.hidden, [False]]).astype(np.int8)))
        return [(self.begin + self.step * start, self.begin + self.step * stop) for start, stop in edges.reshape(-1, 2)]

    def heard(self) -> Float[Tensor, " sample"]:
        """The sound with silence where spans are hidden."""
        audio = self.clip.audio.clone()
        for start, stop in self.spans():
            audio[max(0, round(start * self.sample_rate)) : round(stop * self.sample_rate)] = 0
        return audio


def reveal_clips(predictor: "AudioPredictor", clips: Sequence[Clip]) -> list[RevealedClip]:
    """Hide as validation does, and predict; in the order given. A clip's mask depends on its place among the clips."""
    batch = {
        "id": torch.arange(len(clips)),
        "epoch": torch.zeros(len(clips), dtype=torch.int64),
        "audio": pad_sequence([clip.audio for clip in clips], batch_first=True),
        "length": torch.tensor([len(clip.audio) for clip in clips]),
    }
    batch, order = longest_first(batch)
    panels = {
        name: values.cpu().numpy() for name, values in predictor.reveal(to_device(batch, predictor.device)).items()
    }
    field, step = predictor.encoder.front_end.field_and_step
    rate = predictor.sample_rate
    shown = {}
    for row, number in enumerate(order.tolist()):
        steps, frames = int(panels["lengths"][row]), int(panels["mel_lengths"][row])
        cut = {name: values[row, :steps] for name, values in panels.items() if values.ndim > 1}
        shown[number] = RevealedClip(
            clips[number], rate, panels["original"][row, :frames], cut["hidden"],
            begin=(field - step) / 2 / rate, step=step / rate, found=_found(predictor, cut),
        )  # fmt: skip
    return [shown[number] for number in range(len(clips))]


def _found(predictor: "AudioPredictor", cut: dict[str, Any]) -> Codes | Ranks:
    if "predicted" in cut:
        return Codes(cut["target"], cut["predicted"], cut["probability"])
    return Ranks(cut["similarity"], cut["rank"], predictor.config.negatives)


def summary(shown: Sequence[RevealedClip]) -> str:
    """How much was hidden, and how much of it was told."""
    hidden = np.concatenate([clip.hidden for clip in shown])
    if not hidden.any():
        return "nothing was hidden: these recordings are too short"
    said = f"{hidden.mean():.0%} of {len(hidden)} steps hidden"
    first = shown[0].found
    if isinstance(first, Codes):
        codes = [clip.found for clip in shown if isinstance(clip.found, Codes)]
        right = np.concatenate([(code.target == code.predicted)[code.target[:, 0] >= 0] for code in codes])
        given = np.concatenate([code.probability[code.target[:, 0] >= 0] for code in codes])
        return f"{said}; code right {right.mean():.0%}, probability of the true one {given.mean():.1%} on average"
    ranks = np.concatenate([clip.found.rank for clip in shown if isinstance(clip.found, Ranks)])
    ranks = ranks[ranks >= 0]
    return (
        f"{said}; true code first {np.mean(ranks == 0):.0%}, among the first {NEAR_RANKS + 1} "
        f"{np.mean(ranks <= NEAR_RANKS):.0%}, of {first.negatives + 1}"
    )


def legend_of(shown: Sequence[RevealedClip]) -> str:
    """What the colours mean."""
    if isinstance(shown[0].found, Codes):
        return (
            "Blue: hidden from the network. Below: the code of the first codebook at each hidden step and the one that "
            "was predicted, a colour a code; and how many codebooks were right, from none (light) to all (green)."
        )
    return (
        "Blue: hidden from the network. Below, at each hidden step, the cosine of the prediction and the true code. "
        f"Green: no negative was more similar. Yellow: at most {NEAR_RANKS} were. Red: more."
    )
