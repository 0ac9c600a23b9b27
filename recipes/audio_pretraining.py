"""What the recipes of recordings share: flags, loaders, and the way from a model to a finished run."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from mmssl.config import to_dict
from mmssl.data.audio import AudioLoader, open_audio
from mmssl.data.order import EVERYTHING
from mmssl.data.shards.order import order_in_words
from mmssl.data.skipped import write_skipped
from mmssl.errors import INTERRUPTED, UserError
from mmssl.evaluation.audio_runs import shown_clips
from mmssl.evaluation.reveal_audio import write_page, write_picture, write_sounds
from mmssl.evaluation.revealed_audio import reveal_clips
from mmssl.interchange import adapt_audio_config, load_initial_audio_weights
from mmssl.nn import AudioEncoderConfig
from mmssl.predictors.audio import AudioPredictor
from mmssl.predictors.base import Batch
from mmssl.predictors.best_rq import BestRQ, BestRQConfig
from mmssl.predictors.wav2vec2 import Wav2Vec2, Wav2Vec2Config
from mmssl.terminal import tell
from mmssl.training.config import MaskedRunConfig
from mmssl.training.distributed import is_main, place
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, say_start

REFERENCE_SECONDS = 24
"""Sound of a step that the recipes' learning rates are for."""
OBSERVED_SECONDS = 3600.0
"""Sound that statistics of the data are counted on before training."""
SHOWN = 3
"""Held-out recordings in the pictures of a run."""

C = TypeVar("C", bound="AudioConfig")
M = TypeVar("M", Wav2Vec2Config, BestRQConfig)


@dataclass(frozen=True, kw_only=True)
class AudioConfig(MaskedRunConfig):
    """Flags of every recipe of recordings."""

    data: str
    """Folder, list, tar file or Hugging Face data set with recordings; see `mmssl inspect DATA`."""
    preset: str = "nano"
    """Size of the model: nano, small, base or large."""
    init: str | None = None
    """Start from weights in this folder: a run on recordings, or a wav2vec 2.0 of transformers."""
    more_data: tuple[str, ...] = ()
    """More folders and files with recordings, beside --data."""
    max_seconds: float = 4.0
    """Longer recordings are cut into pieces of at most this length, elsewhere in each epoch."""
    shortest_piece: float = 0.4
    """Pieces vary in length from these seconds to --max-seconds: who heard long ones only is lost on a word."""
    min_seconds: float = 0.5
    """Shorter recordings are skipped."""
    span: int | None = None
    """Steps of the encoder that are hidden as a whole. Default: by preset."""
    cepstra: int | None = None
    """Cepstral coefficients of a frame that codes are of; 0: all that the encoder is given. Default: by preset."""
    keep_fraction: float | None = None
    """Share of steps predicted in training though visible. Default: by preset."""
    variation: float | None = None
    """Strength of other voices, microphones, bands and noise in training, 0 for none. Default: by preset."""
    validation_seconds: float = 300.0
    """At most about this much held-out sound is used for validation."""
    cache: Literal["auto", "memory", "none"] = "auto"
    """Keep all sound in memory (115 MB an hour), or read each piece by seeking; auto keeps what fits."""
    batch_size: int = REFERENCE_SECONDS
    """Seconds of sound an optimizer step, over all micro-batches; at least --max-seconds in each of these."""
    mask_fraction: float = 0.49
    """Share of steps hidden in training, as achieved; validation hides 49 % in all runs."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas."""
    log_every: int = 25
    """Steps between journal lines."""
    validate_every: int = 250
    """Steps between validations on frozen pieces and masks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_seconds <= self.max_seconds or self.validation_seconds <= 0:
            raise UserError(
                "--min-seconds and --validation-seconds must be above 0, --max-seconds at least --min-seconds, got "
                f"{self.min_seconds:g}, {self.validation_seconds:g} and {self.max_seconds:g}"
            )
        if not 0 < self.shortest_piece <= self.max_seconds:
            raise UserError(
                f"--shortest-piece must be above 0 and at most --max-seconds {self.max_seconds:g}, got "
                f"{self.shortest_piece:g}"
            )
        if self.micro_batch_size < self.max_seconds:
            raise UserError(
                f"a micro-batch of {self.micro_batch_size} s does not hold a piece of --max-seconds "
                f"{self.max_seconds:g}: raise --batch-size or lower --max-seconds"
            )


@dataclass(frozen=True)
class Recordings:
    """Sound to train on, and sound held out."""

    train: AudioLoader
    val: AudioLoader
    micro_batch: float
    """Seconds of a micro-batch, of all ranks together."""

    def describe(self) -> dict[str, str | int | float]:
        """What a resumed run must find again."""
        found = {
            "fingerprint": self.train.fingerprint(), "train": len(self.train), "val": len(self.val),
            "seconds": round(self.train.seconds, 1),
        }  # fmt: skip
        return found | ({"order": said} if (said := order_in_words(self.train.order)) else {})

    @property
    def mean_step(self) -> float:
        """Seconds of sound in a step on average: padding, and room that no piece fills, left out."""
        return self.train.seconds / self.train.epoch_steps


@dataclass(frozen=True)
class FrozenBatches:
    """Fixed batches of a loader that can be gone through again and again."""

    loader: AudioLoader
    batch_seconds: float
    most_seconds: float
    share: tuple[int, int] = EVERYTHING

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.frozen(self.batch_seconds, self.most_seconds, self.share)


def starting_model(config: AudioConfig, run: RunFolder, model: M) -> M:
    """The model of the flags, fitted to the weights of --init; when a run goes on, its own."""
    if config.init and not config.resume:
        return adapt_audio_config(model, config.init)
    if config.init and run.config_file.is_file():  # the folder of --init may be gone by now
        return run.saved_predictor(type(model))
    return model


def given(**flags: object) -> dict[str, Any]:
    """The flags that were given: of the others the preset decides."""
    return {name: value for name, value in flags.items() if value is not None}


def open_recordings(config: AudioConfig, predictor: AudioPredictor) -> Recordings:
    """Loaders of the training and the held-out part, as the predictor wants its sound.

    Raises UserError where a recording of --min-seconds would have fewer than two steps, one to hide and one to hear.
    """
    field, step = predictor.encoder.front_end.field_and_step
    for flag in ("min_seconds", "shortest_piece"):
        if (value := getattr(config, flag)) * predictor.sample_rate < field + step:
            least, name = (field + step) / predictor.sample_rate, f"--{flag.replace('_', '-')}"
            raise UserError(f"{name} {value:g} is less than two steps: give at least {least:.3g}")

    def load(split: str, shortest: float | None, rank: int = 0, ranks: int = 1, accumulation: int = 1) -> AudioLoader:
        return AudioLoader(
            open_audio([config.data, *config.more_data], split=split),
            sample_rate=predictor.sample_rate,
            max_seconds=config.max_seconds,
            min_seconds=config.min_seconds,
            shortest_piece=shortest,
            batch_seconds=float(config.batch_size),
            seed=config.seed,
            workers=config.workers,
            device=predictor.device,
            cache=config.cache,
            rank=rank,
            world_size=ranks,
            accumulation=accumulation,
        )

    train = load("train", config.shortest_piece, *place(), config.accumulation)
    val = load("val", None)
    return Recordings(train, val, float(config.micro_batch_size))


def with_rate(config: C, rates: Mapping[int, float], encoder: AudioEncoderConfig) -> C:
    """The flags with a learning rate: by the width of the encoder, which --init may have changed from the preset's.

    It grows with the square root of the sound in a step, as suits Adam (Malladi et al. 2022).
    """
    width = max((dim for dim in rates if dim <= encoder.trunk.dim), default=min(rates))
    rate = config.learning_rate or rates[width] * math.sqrt(config.batch_size / REFERENCE_SECONDS)
    return replace(config, learning_rate=rate)


def start(config: AudioConfig, run: RunFolder, predictor: Wav2Vec2 | BestRQ, recordings: Recordings) -> Path | None:
    """Open the run folder, say what will run, load --init; returns the checkpoint to go on from."""
    data = recordings.describe()
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
    if is_main():
        write_skipped(run.path, recordings.train.source, recordings.val.source)
    say_start(config, predictor, data, predictor.device, sample="seconds of sound", epoch=recordings.train.seconds)
    if "order" in data:
        tell(f"order      {data['order']}")
    hours, held = recordings.train.seconds / 3600, recordings.val.seconds / 60
    tell(f"sound      {hours:.2f} h for training, {held:.1f} min held out, at {predictor.sample_rate} Hz")
    if config.init and checkpoint is None:
        tell(f"init       {load_initial_audio_weights(predictor, config.init)}")
    if checkpoint is None:
        predictor.observe(FrozenBatches(recordings.train, recordings.micro_batch, OBSERVED_SECONDS))
    return checkpoint


def train(
    config: AudioConfig, run: RunFolder, predictor: Wav2Vec2 | BestRQ, recordings: Recordings, checkpoint: Path | None
) -> Path:
    """Train to the end, with a picture at each validation and a page with sound at the end; returns the run folder."""
    clips = shown_clips(recordings.val.source.spread(SHOWN), predictor.sample_rate, 0, SHOWN)
    if is_main():
        write_sounds(reveal_clips(predictor, clips), run.reveal)

    def reveal(step: int) -> None:
        shown = reveal_clips(predictor, clips)
        write_picture(shown, f"Step {step}", run.reveal / f"step-{step:08d}.png")
        if step == config.steps:
            write_page(shown, f"Step {step}", run.reveal / f"step-{step:08d}.html")

    held_out = FrozenBatches(recordings.val, recordings.micro_batch, config.validation_seconds, place())
    trainer = Trainer(
        predictor, config, run, recordings.train, lambda: held_out, on_validate=reveal,
        step_samples=recordings.mean_step,
    )  # fmt: skip
    finished = trainer.fit(checkpoint)
    if not finished:
        tell(f"interrupted and saved: add --resume to continue\n{run.path}")
        raise SystemExit(INTERRUPTED)
    tell(f"look and listen: {run.reveal / f'step-{config.steps:08d}.html'}")
    tell(f"next: mmssl probe {run.path} --data LABELLED_RECORDINGS")
    tell(run.path)
    return run.path
