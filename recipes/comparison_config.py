"""What recipes/compare_modalities.py trains and sweeps, and its flags."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from budget import Pace

from mmssl.config import nearest
from mmssl.errors import UserError

DATA = ("images", "text", "speech", "videos")
"""Modalities, each with a flag for data of the user's."""


class Part(NamedTuple):
    """A run of the comparison."""

    modality: str
    recipe: str
    flags: str
    pico: str
    """Flags of the smaller network: after the others, so that they count."""
    probed: bool = True


PARTS = {
    "images": Part(
        "images",
        "image_mae",
        "--architecture cross_mae --target pixels --batch-size 64 --validation-images 256",
        "--preset pico",
    ),
    "text": Part(
        "text", "text_bert", "--preset bert_mini --batch-size 16 --validation-tokens 20000", "--preset bert_tiny"
    ),
    "speech": Part("speech", "audio_best_rq", "--validation-seconds 120", "--validation-seconds 60"),
    "wav2vec2": Part("speech", "audio_wav2vec2", "--validation-seconds 120", "--validation-seconds 60"),
    "sync": Part("videos", "av_sync", "--validation-clips 64", "--preset pico", probed=False),
    "senses": Part(
        "videos",
        "av_masked",
        "--validation-clips 64",
        "--preset pico --batch-size 16 --validation-clips 16",
        probed=False,
    ),
}
"""What is trained, by the name of its run folder. Presets are nano where nothing else is said, and bert_mini, which has
about as many parameters with a vocabulary as small as the world's: between one and four million each. Pixels are
predicted as they are: targets normalised patch by patch leave out the very colours that are asked for later."""


class Study(NamedTuple):
    """A sweep over mask fractions, with small and cheap runs."""

    recipe: str
    flags: str
    fractions: tuple[str, ...]
    by: str
    """What else decides the mask."""
    by_values: tuple[str, ...]


STUDIES = {
    "images": Study(
        "image_mae", "--preset pico --target pixels --batch-size 32 --validation-images 256",
        ("0.25", "0.5", "0.75", "0.9"), "sampler", ("random", "block"),
    ),
    "text": Study(
        "text_bert", "--preset bert_tiny --batch-size 16 --validation-tokens 20000", ("0.15", "0.4", "0.65", "0.85"),
        "unit", ("token", "span"),
    ),
    "speech": Study(
        "audio_best_rq", "--batch-size 12 --validation-seconds 60", ("0.2", "0.49", "0.65", "0.8"), "span", ("3", "10")
    ),
}  # fmt: skip
GRIDS = ((4, 2, 3), (4, 1, 3), (3, 1, 2), (3, 1, 1))
"""Fractions, values beside them, and seeds of a sweep: the first for which the time left gives ENOUGH steps a run."""
ENOUGH = 100


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a predictor in every modality on the same scenes, ask all of them the same questions, write a page."""

    out: Path
    """Folder for everything; report.html is the page."""
    minutes: float = 60.0
    """Wall time for all of it, over all calls of the command."""
    parts: tuple[str, ...] = tuple(PARTS)
    """Which runs take part: images, text, speech, wav2vec2, sync, senses."""
    sweeps: tuple[str, ...] = tuple(STUDIES)
    """In which modalities mask fractions are compared: images, text, speech; nothing after the flag switches it off."""
    images: str | None = None
    """Your own pictures. With any of these four nothing is generated, and modalities without data are left out."""
    text: str | None = None
    """Your own texts."""
    speech: str | None = None
    """Your own recordings."""
    videos: str | None = None
    """Your own videos."""
    crop: Literal["none", "face", "mouth"] = "none"
    """What of the videos is looked at."""
    labels: tuple[str, ...] = ("colour", "shape", "size", "place")
    """What is asked of the frozen representations; sweeps ask the first."""
    networks: Literal["auto", "pico", "nano"] = "auto"
    """pico learns something in minutes, nano more in hours (text: bert_tiny, bert_mini); auto: nano from 120
    minutes on."""
    probes: Literal["auto", "quick", "thorough"] = "auto"
    """thorough: of three seeds and every layer, with fine-tuning; auto: that from 30 minutes on, fine-tuning from 120
    on."""
    finetune_labels: tuple[int, ...] = (100, 1000)
    """Numbers of labels for fine-tuning, and for training from scratch. It costs more than all other probes, so only
    the first of --labels is asked."""
    scenes: int = 4000
    """Scenes of the generated world."""
    face_scenes: int = 1000
    """The first so many of them also as talking faces, which cost most of the time to generate."""
    seed: int = 0
    """Seed of the world and of the runs."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 on CUDA, and on CPUs that compute in it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    workers: int = 2
    """Processes that generate and read data."""

    def __post_init__(self) -> None:
        for flag, chosen, known in (("parts", self.parts, PARTS), ("sweeps", self.sweeps, STUDIES)):
            for name in chosen:
                if name not in known:
                    raise UserError(f"--{flag}: there is no '{name}'; {nearest(name, known)}")
        if not self.parts or not self.labels or self.minutes <= 0:
            raise UserError("a comparison needs one of --parts, one of --labels, and --minutes above 0")

    @property
    def own(self) -> dict[str, str]:
        """Data of the user's, by modality."""
        return {modality: data for modality in DATA if (data := getattr(self, modality)) is not None}


def grid(pace: Pace, seconds: float, least: int) -> tuple[int, int, int, int]:
    """Fractions, values beside them, seeds, and steps a run (at least ``least``), for so many seconds."""
    sized = [(*shape, pace.steps(seconds / math.prod(shape))) for shape in GRIDS]
    fractions, others, seeds, steps = next((each for each in sized if each[-1] >= ENOUGH), sized[-1])
    return fractions, others, seeds, max(least, steps)


def spread(values: Sequence[str], count: int) -> tuple[str, ...]:
    """So many of the values, evenly spaced, the first and the last among them."""
    return tuple(values[round(place * (len(values) - 1) / (count - 1))] for place in range(count))
