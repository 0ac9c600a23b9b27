"""What the recipes of videos share: flags, clips, and the way from a model to a finished run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmssl.config import to_dict
from mmssl.data.skipped import write_skipped
from mmssl.data.video import ClipLoader, ClipSettings, open_clips
from mmssl.errors import INTERRUPTED, UserError
from mmssl.evaluation.clip_runs import frames_of, held_out_part, shown_batch
from mmssl.evaluation.reveal_clips import write_clip_picture
from mmssl.nn.clip_clock import ClipConfig
from mmssl.nn.mel import MelConfig
from mmssl.predictors import load_predictor
from mmssl.predictors.audio_visual import AudioVisualPredictor
from mmssl.predictors.base import Batch
from mmssl.terminal import tell
from mmssl.training.config import RunConfig
from mmssl.training.distributed import is_main, one_after_another, place, share_of_batch
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, say_start

SHOWN = 3
"""Held-out clips in the pictures of a run."""


@dataclass(frozen=True, kw_only=True)
class ClipRunConfig(RunConfig):
    """Flags of every recipe of videos."""

    data: str
    """Folder, list or tar file with videos, or a folder made of them by data_prep/cache_clips.py."""
    preset: str = "nano"
    """Size of the model: pico, nano or small."""
    init: str | None = None
    """Start from the weights of another run of this recipe with the same model."""
    size: tuple[int, int] = (72, 72)
    """Height and width of the frames."""
    crop: Literal["none", "face", "mouth"] | tuple[int, int, int, int] = "none"
    """none: the whole picture; face or mouth: found and followed (needs OpenCV); or top, left, height, width."""
    colour: Literal["luma", "rgb"] = "luma"
    """luma: brightness only; rgb: colour."""
    fps: float = 25.0
    """Frames a second that videos are resampled to."""
    sample_rate: int = 16_000
    """Samples of sound a second; the hop of mel frames, a quarter of a video frame, must be whole samples."""
    mels: int = 80
    """Mel bins of the spectrogram."""
    validation_clips: int = 256
    """At most so many held-out windows are used for validation."""
    cache: Path | None = None
    """Folder that clips are decoded into, once. Default: in the user's cache folder."""
    log_every: int = 25
    """Steps between journal lines."""
    validate_every: int = 250
    """Steps between validations on fixed windows."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_clips < 1:
            raise UserError(f"--validation-clips must be at least 1, got {self.validation_clips}")

    @property
    def clip_config(self) -> ClipConfig:
        """What clips look like to the network."""
        mel = MelConfig(mels=self.mels, stack=1, window=0.625 / self.fps, hop=0.25 / self.fps)
        return ClipConfig(self.size, 1 if self.colour == "luma" else 3, self.fps, self.sample_rate, mel)

    @property
    def settings(self) -> ClipSettings:
        """How videos become such clips."""
        hop = self.clip_config.hop
        return ClipSettings(self.fps, self.sample_rate, self.size, self.colour, self.crop, hop)


@dataclass(frozen=True)
class Clips:
    """Windows to train on, and windows held out."""

    train: ClipLoader
    val: ClipLoader
    most: int

    def describe(self) -> dict[str, str | int | float]:
        """What a resumed run must find again."""
        return {
            "fingerprint": self.train.fingerprint(), "train": len(self.train), "val": min(len(self.val), self.most),
            "seconds": round(self.train.seconds, 1),
        }  # fmt: skip

    def validation(self) -> Iterator[Batch]:
        """The same windows each time, of which each rank has a share."""
        return self.val.frozen(most=self.most, share=place())


def open_windows(config: ClipRunConfig, frames: int, device: str) -> Clips:
    """Decode what is not decoded yet, and cut windows of ``frames`` frames of both parts."""

    share, (rank, ranks) = share_of_batch(config.batch_size, config.accumulation), place()

    def load(split: str, batch_size: int, rank: int = 0, ranks: int = 1) -> ClipLoader:
        with one_after_another():
            source = open_clips(
                config.data, split=split, settings=config.settings, cache=config.cache, workers=config.workers,
                progress=_say_progress,
            )  # fmt: skip
        return ClipLoader(
            source, frames=frames, batch_size=batch_size, seed=config.seed, device=device, rank=rank, world_size=ranks
        )

    train = load("train", share, rank, ranks)
    # validation in batches of one process: what a clip is told apart from there does not depend on their number
    return Clips(train, load(held_out_part(config.data), config.micro_batch_size), config.validation_clips)


def _say_progress(done: int, total: int) -> None:
    if done and (done == total or done % 100 == 0):
        tell(f"decoding   {done:,} of {total:,} videos")


def start(config: ClipRunConfig, run: RunFolder, predictor: AudioVisualPredictor, clips: Clips) -> Path | None:
    """Open the run folder, say what will run, load --init; returns the checkpoint to go on from."""
    data = clips.describe()
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
    if is_main():
        write_skipped(run.path, clips.train.source, clips.val.source)
    say_start(config, predictor, data, predictor.device, sample="windows")
    tell(f"clips      {clips.train.seconds / 60:.1f} min for training, in windows of {clips.train.frames} frames")
    if config.init and checkpoint is None:
        tell(f"init       {load_weights(predictor, config.init)}")
    return checkpoint


def load_weights(predictor: AudioVisualPredictor, init: str) -> str:
    """Weights of another run. Raises UserError where its model is another one."""
    other = load_predictor(init)
    same = {name: value.shape for name, value in other.state_dict().items()}
    if other.name != predictor.name or same != {name: value.shape for name, value in predictor.state_dict().items()}:
        raise UserError(f"--init {init} holds another model than these flags describe: give the flags of its run")
    predictor.load_state_dict(other.state_dict())
    return f"all weights of {init}"


def train(
    config: ClipRunConfig, run: RunFolder, predictor: AudioVisualPredictor, clips: Clips, checkpoint: Path | None
) -> Path:
    """Train to the end, with a picture at each validation; returns the run folder."""
    spread = clips.val.source.subset(clips.val.usable.tolist()).spread(SHOWN)
    batch, names = shown_batch(spread, predictor, 0, SHOWN, frames_of(predictor))
    trainer = Trainer(
        predictor, config, run, clips.train, clips.validation,
        on_validate=lambda step: write_clip_picture(
            predictor, batch, names, f"Step {step}", run.reveal / f"step-{step:08d}.png"
        ),
    )  # fmt: skip
    if not trainer.fit(checkpoint):
        tell(f"interrupted and saved: add --resume to continue\n{run.path}")
        raise SystemExit(INTERRUPTED)
    tell(f"pictures: {run.reveal / f'step-{config.steps:08d}.png'}")
    return run.path
