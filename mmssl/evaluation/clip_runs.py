"""A run on clips, and videos, brought together for looking."""

from pathlib import Path
from typing import Any

import numpy as np

from mmssl.config import read_json
from mmssl.data.video import ClipSettings, ClipSource, open_clips, open_videos
from mmssl.data.video.store import is_store
from mmssl.errors import UserError
from mmssl.evaluation.probe_results import ProbeReport
from mmssl.evaluation.reveal_clips import to_batch, write_clip_picture
from mmssl.predictors.audio_visual import AudioVisualPredictor
from mmssl.predictors.base import Batch

SHOWN_FRAMES = 75
"""Frames of a clip in a picture, at most."""


def clip_settings(run: Path, predictor: AudioVisualPredictor) -> ClipSettings:
    """How a run wants its clips. Raises UserError where ``run`` has no config.json."""
    folder = run.parent if run.name == "model" else run
    crop: Any = read_json(folder / "config.json")["config"]["crop"]
    if isinstance(crop, list):
        crop = tuple(crop)
    clip = predictor.clip
    return ClipSettings(
        fps=clip.fps, sample_rate=clip.sample_rate, size=clip.picture_size, hop=clip.hop,
        colour="luma" if clip.channels == 1 else "rgb", crop=crop,
    )  # fmt: skip


def held_out_part(data: str) -> str:
    """Name of the part of ``data`` that is held out. Raises UserError where there is none."""
    splits = (open_clips(data) if is_store(Path(data)) else open_videos(data)).splits
    name = next((name for name in ("val", "test") if name in splits), None)
    if name is None:
        raise UserError(f"{data} has no held-out part: add a val split")
    return name


def shown_batch(
    source: ClipSource, predictor: AudioVisualPredictor, first: int, count: int, frames: int | None
) -> tuple[Batch, list[str]]:
    """``count`` clips from ``first`` on and their names: their middle, of equal length, ``frames`` or fewer than 76.

    Clips that are too short are passed over. Raises UserError where none is left.
    """
    lengths = source.frames
    least = frames or predictor.config.window + 2
    usable = np.flatnonzero(lengths >= least)[first : first + count]
    if not len(usable):
        raise UserError(
            f"--first {first} is beyond the {(lengths >= least).sum()} clips of {source.name} with {least} frames"
        )
    wanted = frames or min(SHOWN_FRAMES, int(lengths[usable].min()))
    clips = []
    for number in usable.tolist():
        video, audio = source.window(number, (int(lengths[number]) - wanted) // 2, wanted)
        clips.append({"video": np.array(video), "audio": np.array(audio)})
    return to_batch(clips, predictor.device), [source.files[int(number)] for number in usable.tolist()]


def frames_of(predictor: AudioVisualPredictor) -> int | None:
    """Frames that clips must have, where the predictor says so."""
    return getattr(predictor.config, "frames", None)


def reveal_run(
    run: Path, predictor: AudioVisualPredictor, data: str | None, out: Path | None, count: int, first: int
) -> Path:  # fmt: skip
    """Draw ``count`` held-out clips from ``first`` on, of ``data`` or of the run's own; returns the PNG."""
    saved = read_json(run / "config.json")["config"]
    where = data or saved["data"]
    cache = Path(saved["cache"]) if saved["cache"] and data is None else None
    source = open_clips(where, split=held_out_part(where), settings=clip_settings(run, predictor), cache=cache)
    batch, names = shown_batch(source, predictor, first, count, frames_of(predictor))
    file = out or run / "reveal" / "reveal.png"
    return write_clip_picture(predictor, batch, names, f"{predictor.name} on {source.name}", file)


def probe_labelled(
    predictor: AudioVisualPredictor,
    run: Path,
    data: str,  # noqa: ARG001 - other modalities have labels there
    label: str | None,  # noqa: ARG001
    **settings: Any,  # noqa: ARG001
) -> ProbeReport:
    """Refuses: what a run on clips is for is measured by `mmssl sync`, and its features have no raw input to compare
    with."""
    raise UserError(
        f"{run} is a {predictor.name}, for which there are no probes: look with `mmssl reveal`, or measure offsets "
        "with `mmssl sync`"
    )
