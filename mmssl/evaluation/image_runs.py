"""A run on pictures, and pictures, brought together for looking and measuring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmssl.config import read_json
from mmssl.data.images import ImageLoader, ImageSource, centre_crops, open_images
from mmssl.errors import UserError
from mmssl.evaluation.features import LabelledSet, to_device
from mmssl.evaluation.probe_results import ProbeReport
from mmssl.evaluation.probes import probe
from mmssl.evaluation.reveal import mean_measures, write_panels
from mmssl.predictors.base import Batch, Predictor
from mmssl.terminal import tell

WORKERS = 2
"""Processes that read labelled pictures."""


def split_images(
    data: str, channels: int, held_out: Sequence[str] = ("val", "test")
) -> tuple[ImageSource, ImageSource]:
    """Pictures to learn from, and pictures held out.

    The latter are the first of the splits ``held_out`` that the data has; a data set without splits keeps back 5 % as
    val (see :func:`mmssl.data.parts.hold_out`).
    """
    splits = open_images(data, channels=channels).splits
    name = next((name for name in held_out if name in splits), None)
    if name is None or "train" not in splits:
        have = ", ".join(f"{count} in {part}" for part, count in splits.items()) or "none"
        raise UserError(f"{data} needs pictures in train and in val (or test), it has {have}: add some")
    return open_images(data, split="train", channels=channels), open_images(data, split=name, channels=channels)


def frozen_loader(source: ImageSource, predictor: Predictor, workers: int = 0) -> ImageLoader:
    """Centre crops of the size that the predictor was trained on."""
    return ImageLoader(
        source, size=predictor.config.image_size, batch_size=256, seed=0, workers=workers, device=predictor.device
    )


def held_out_batch(run: Path, predictor: Predictor, data: str | None, first: int, count: int) -> Batch:
    """``count`` held-out pictures from ``first`` on; of ``data``, or of the data that the run was trained on.

    They are cropped as in the run's own validation.
    """
    file = run / "config.json"
    flags = read_json(file).get("config", {}) if file.is_file() else {}
    where = data or flags.get("data")
    if where is None:
        raise UserError(f"{run} does not say which pictures it was trained on: give some by --data")
    _, source = split_images(where, predictor.config.channels)
    if first >= len(source):
        raise UserError(f"--first {first} is beyond the {len(source)} held-out pictures of {where}")
    chosen = range(first, min(first + count, len(source)))
    zoom = tuple(flags["zoom"]) if flags.get("zoom") else None
    return to_device(centre_crops(source, chosen, predictor.config.image_size, zoom=zoom), predictor.device)


def reveal_run(run: Path, predictor: Predictor, data: str | None, out: Path | None, count: int, first: int) -> Path:
    """Draw ``count`` held-out pictures from ``first`` on, what was hidden and what was predicted; returns the PNG.

    Prints what the predictor measures of pictures, on average.
    """
    panels = predictor.reveal(held_out_batch(run, predictor, data, first, count))
    for line in mean_measures(panels):
        tell(line)
    return write_panels(predictor, panels, out or run / "reveal" / "reveal.png")


def probe_labelled(
    predictor: Predictor,
    run: Path,  # noqa: ARG001 - other modalities have their tokenizer there
    data: str,
    label: str | None,
    **settings: Any,
) -> ProbeReport:
    """Probe an encoder of pictures beside an untrained one and raw pixels; ``settings`` are those of ``probe``."""
    return probe(predictor, *labelled_images(predictor, data, label), label=label, **settings)


def labelled_images(predictor: Predictor, data: str, label: str | None) -> tuple[LabelledSet, LabelledSet]:
    """Labelled pictures to learn from and to test on, at the size that the predictor was trained on.

    Raises UserError where there is only one class.
    """
    parts = []
    for source in split_images(data, predictor.config.channels, held_out=("test", "val")):
        loader = frozen_loader(source, predictor, WORKERS)
        parts.append(
            LabelledSet(lambda loader=loader: loader.frozen(256), *source.labels(label), same=source.fingerprint())
        )
        if len(parts[-1].names) < 2:
            raise UserError(f"{data} has a single class: a probe needs pictures of at least two")
    train, test = parts
    return train, test
