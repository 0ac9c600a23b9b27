"""A run folder and data, brought together for looking and measuring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mmssl.config import read_json
from mmssl.data.images import ImageLoader, ImageSource, centre_crops, open_images
from mmssl.errors import UserError
from mmssl.evaluation.features import LabelledSet, to_device
from mmssl.evaluation.probe_report import print_report, save_report
from mmssl.evaluation.probe_results import ProbeReport
from mmssl.evaluation.probes import probe
from mmssl.predictors import load_predictor
from mmssl.predictors.base import Batch, Predictor


def split_images(
    data: str, channels: int, held_out: Sequence[str] = ("val", "test")
) -> tuple[ImageSource, ImageSource]:
    """Pictures to learn from, and pictures held out.

    The latter are the first of the splits ``held_out`` that the data has; a data set without splits keeps back 5 % as
    val (see :func:`mmssl.data.images.hold_out`).
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
    """``count`` held-out pictures from ``first`` on; of ``data``, or of the data that the run was trained on."""
    if count < 1 or first < 0:
        raise UserError(f"--count must be at least 1 and --first not negative, got {count} and {first}")
    where: str = data or read_json(run / "config.json")["config"]["data"]
    _, source = split_images(where, predictor.config.channels)
    if first >= len(source):
        raise UserError(f"--first {first} is beyond the {len(source)} held-out pictures of {where}")
    chosen = range(first, min(first + count, len(source)))
    return to_device(centre_crops(source, chosen, predictor.config.image_size), predictor.device)


def probe_run(run: Path, data: str, label: str | None, out: Path, workers: int = 2, **settings: Any) -> ProbeReport:
    """Probe the model of a run on labelled data of its kind: prints the table, writes ``probe.json`` and a figure.

    ``settings`` are those of :func:`mmssl.evaluation.probes.probe` that a user chooses.
    Raises UserError where there are no probes for the kind of run, where ``out`` is a file, and for what is wrong with
    the data.
    """
    from mmssl.evaluation.text_runs import probe_texts

    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder, which is made if missing")
    predictor = load_predictor(run)
    predictor.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    settings |= {"say": _say}
    if predictor.name == "masked_autoencoder":
        report = _probe_images(predictor, data, label, workers, **settings)
    elif predictor.name == "masked_language_model":
        report = probe_texts(predictor, run, data, label, **settings)
    else:
        raise UserError(f"{run} is a {predictor.name}, for which there are no probes")
    print_report(report)
    for file in save_report(report, out):
        print(file)
    return report


def _say(line: str) -> None:
    print(f"... {line}", flush=True)


def _probe_images(predictor: Predictor, data: str, label: str | None, workers: int, **settings: Any) -> ProbeReport:
    parts = []
    for source in split_images(data, predictor.config.channels, held_out=("test", "val")):
        loader = frozen_loader(source, predictor, workers)
        parts.append(LabelledSet(lambda loader=loader: loader.frozen(256), *source.labels(label)))
        if len(parts[-1].names) < 2:
            raise UserError(f"{data} has a single class: a probe needs pictures of at least two")
    return probe(predictor, *parts, label=label, **settings)
