"""Runs that know which sound belongs to which moment, brought together with videos and clips."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmssl.config import command_line, read_json
from mmssl.data.limits import MediaError, regular_size
from mmssl.data.stores import Extent
from mmssl.data.video import ClipSettings, ClipSource, open_clips
from mmssl.data.video.decode import decode_clip
from mmssl.data.video.limits import VideoLimits
from mmssl.errors import UserError
from mmssl.evaluation.localization import locate_clip, write_overlay, write_picture
from mmssl.evaluation.offset.calibration import Calibration, calibrate, load_calibration
from mmssl.evaluation.offset.embedding import check_synchroniser
from mmssl.evaluation.offset.injected import usable_clips
from mmssl.evaluation.offset.measure import Synchroniser
from mmssl.evaluation.offset.protocol import Evaluation, evaluate, print_evaluation, save_evaluation
from mmssl.evaluation.offset.question import Question
from mmssl.evaluation.retrieval import Retrieval, print_retrieval, retrieve, save_retrieval
from mmssl.predictors import load_predictor
from mmssl.terminal import tell, tell_progress


def open_predictor(run: Path) -> Any:
    """The network of a run. Raises UserError where it is of another kind."""
    predictor: Any = load_predictor(run)
    check_synchroniser(predictor, run)
    return predictor.to(torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()


def open_synchroniser(run: Path, question: Question | None = None, search_ms: float | None = None) -> Synchroniser:
    """The network of a run, its calibration, and how it wants its clips.

    Raises UserError where the run is of another kind.
    """
    predictor = open_predictor(run)
    calibration = load_calibration(run)
    settings = clip_settings(run, predictor)
    question = replace(question or Question(), fps=settings.fps, window=predictor.config.window)
    if search_ms is not None:
        question = replace(question, reach=-int(-search_ms * settings.fps // 1000))
    return Synchroniser(predictor, question, clip_reader(settings), calibration)


def clip_settings(run: Path, predictor: Any) -> ClipSettings:
    """How the clips of a run were cut: as its calibration says, else as its network and its flags say."""
    calibration = load_calibration(run)
    if calibration is not None and calibration.cut:
        return settings_of(calibration.cut)
    saved = read_json(run / "config.json").get("config", {}) if (run / "config.json").is_file() else {}
    clip = predictor.clip
    colour = "luma" if clip.channels == 1 else "rgb"
    cut = {"fps": clip.fps, "sample_rate": clip.sample_rate, "size": list(clip.picture_size), "colour": colour}
    return settings_of(cut | {"crop": saved.get("crop") or "none"})


def settings_of(cut: dict[str, Any]) -> ClipSettings:
    """Settings from :meth:`ClipSettings.key`."""
    crop = cut["crop"] if isinstance(cut["crop"], str) else tuple(cut["crop"])
    return ClipSettings(**{**cut, "size": tuple(cut["size"]), "crop": crop})


def clip_reader(settings: Any) -> Any:
    """Reads parts of files as clips with these settings."""

    def read(path: Path, start: float | None, seconds: float | None) -> Any:
        return decode_clip(Extent(str(path), 0, regular_size(path)), settings, start, seconds, VideoLimits())

    return read


def held_out_clips(run: Path, predictor: Any, data: str | Sequence[str], split: str | None) -> ClipSource:
    """Clips of ``data`` as the run wants them: of a split, else of "val" or "test", else all."""
    settings = clip_settings(run, predictor)
    if split is None:
        from mmssl.data.video.source import open_videos
        from mmssl.data.video.store import is_store

        one = data if isinstance(data, str) else data[0]
        splits = open_clips(data, settings=settings).splits if is_store(Path(one)) else open_videos(data).splits
        split = next((name for name in ("val", "test") if name in splits), None)
    return open_clips(data, split=split, settings=settings)


def calibrate_run(run: Path, data: str, split: str | None) -> Calibration:
    """Fit the confidence of a run's answers to clips of ``data``, write RUN/calibration.json, say how it came out."""
    predictor = open_predictor(run)
    found = calibrate(run, predictor, held_out_clips(run, predictor, data, split))
    print_calibration(found)
    tell(run / "calibration.json")
    return found


def say_calibration(run: Path, predictor: Any, source: ClipSource) -> None:
    """Calibrate at the end of training. Clips that do not serve cost the confidence, not the run."""
    try:
        print_calibration(calibrate(run, predictor, source))
    except UserError as error:
        tell(f"not calibrated: {error}")


def print_calibration(found: Calibration) -> None:
    """Confidence beside the share that was right, in bins."""
    tell(f"calibrated on {found.samples:,} answers from {found.clips} held-out clips; confidence and share right:")
    for each in found.expected:
        share = f"{each.confidence:.2f}  {each.right:.2f}  ({each.answers:,} answers)"
        tell(f"    {each.low:.1f} to {each.high:.1f}  {share}")


def evaluate_run(run: Path, data: str, split: str | None, out: Path) -> Evaluation:
    """The published protocol on clips of ``data``: prints the table, writes OUT/evaluation.json (or with the split)."""
    predictor = open_predictor(run)
    source = held_out_clips(run, predictor, data, split)
    calibration = load_calibration(run)
    crossed = calibration is not None and calibration.data == source.fingerprint()
    name = f"{source.name} ({source.split})" if source.split else source.name
    found = evaluate(predictor, usable_clips(source), calibration, data=name, crossed=crossed, say=tell_progress)
    found = replace(found, command=command_line("mmssl", "sync", run, evaluate=data, split=split))
    print_evaluation(found)
    tell(save_evaluation(found, out / f"evaluation{'-' + split if split else ''}.json"))
    return found


def retrieve_run(run: Path, data: str, split: str | None, count: int, out: Path) -> Retrieval:
    """Retrieval among clips of ``data``: prints the table, writes OUT/retrieval.json."""
    if count < 2:
        raise UserError(f"--count must be at least 2, got {count}")
    predictor = open_predictor(run)
    source = held_out_clips(run, predictor, data, split)
    name = f"{source.name} ({source.split})" if source.split else source.name
    found = retrieve(predictor, usable_clips(source, count), name)
    found = replace(found, command=command_line("mmssl", "retrieve", run, data=data, split=split, count=count))
    print_retrieval(found)
    tell(save_retrieval(found, out / "retrieval.json"))
    return found


def localize_run(run: Path, video: Path, out: Path, other: Path | None) -> list[Path]:
    """Write maps of a video with their controls to ``out``, and say whether they change with the sound."""
    predictor = open_predictor(run)
    settings = clip_settings(run, predictor)
    read = clip_reader(settings)
    clips = []
    for path in filter(None, (video, other)):
        try:
            clips.append(read(path, None, 10.0))
        except MediaError as error:
            raise UserError(f"{path}: {error.reason}") from None
    if other is None:
        clips.append(_another_clip(run, predictor, video))
    located = locate_clip(predictor, clips[0], clips[1], settings.fps)
    said = located.verdict
    tell(f"{video}: {said}")
    picture = write_picture(located, f"{video.name}: {said}", out / f"{video.stem}.localized.png")
    film = write_overlay(located, settings.sample_rate, out / f"{video.stem}.localized.mp4")
    tell(f"{picture}\n{film}")
    return [picture, film]


def _another_clip(run: Path, predictor: Any, video: Path) -> Any:
    """A held-out clip of the run's own data, of another file. Raises UserError where there is none."""
    saved = read_json(run / "config.json").get("config", {}) if (run / "config.json").is_file() else {}
    data = [saved["data"], *(saved.get("more_data") or ())] if saved.get("data") else []
    try:
        clips = usable_clips(held_out_clips(run, predictor, data, None)) if data else []
    except UserError as error:
        raise UserError(f"{error} (for the control with another clip's sound; --other VIDEO names one)") from None
    for number in range(len(clips)):
        clip = clips[number]
        if Path(clip.path).name != video.name:
            return clip
    raise UserError("the control needs another clip's sound: name a video with --other")
