"""A run folder and data, brought together for looking and measuring: what is asked goes to the modality of the run."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch

from mmssl.config import command_line
from mmssl.errors import UserError
from mmssl.evaluation.features import Memory
from mmssl.evaluation.probe_report import print_report, save_report
from mmssl.evaluation.probe_results import ProbeReport
from mmssl.predictors import load_predictor
from mmssl.predictors.audio import AudioPredictor
from mmssl.predictors.base import Predictor
from mmssl.terminal import tell, tell_progress

MODALITIES = {
    "masked_autoencoder": "mmssl.evaluation.image_runs",
    "colorization": "mmssl.evaluation.image_runs",
    "inpainting": "mmssl.evaluation.image_runs",
    "super_resolution": "mmssl.evaluation.image_runs",
    "restoration": "mmssl.evaluation.image_runs",
    "masked_language_model": "mmssl.evaluation.text_runs",
    "wav2vec2": "mmssl.evaluation.audio_runs",
    "best_rq": "mmssl.evaluation.audio_runs",
    "audio_visual_sync": "mmssl.evaluation.clip_runs",
    "audio_visual_masked": "mmssl.evaluation.clip_runs",
}
"""Where ``reveal_run`` and ``probe_labelled`` of each predictor are."""


def _modality(run: Path, predictor: Predictor) -> ModuleType:
    if predictor.name not in MODALITIES:
        raise UserError(f"{run} is a {predictor.name}, for which there are neither pictures nor probes")
    return import_module(MODALITIES[predictor.name])


def reveal_run(run: Path, data: str | None, out: Path | None, count: int, first: int) -> Path:
    """Show ``count`` samples from ``first`` on, held out by ``data`` or by the run; returns the file to look at.

    Raises UserError for impossible numbers, and for what is wrong with the data.
    """
    if count < 1 or first < 0:
        raise UserError(f"--count must be at least 1 and --first not negative, got {count} and {first}")
    predictor = load_predictor(run)
    return _modality(run, predictor).reveal_run(run, predictor, data, out, count, first)


def probe_run(
    run: Path,
    data: str,
    columns: Sequence[str | None],
    out: Path,
    *,
    voices: dict[str, Any] | None = None,
    memory: Memory | None = None,
    **settings: Any,
) -> list[ProbeReport]:
    """Probe the model of a run on labelled data of its kind: prints the table, writes ``probe.json`` and a figure.

    Several ``columns`` are asked of features that are computed once, also in several calls with the same ``memory``;
    None stands for the labels of data with a single kind.
    ``voices`` says which speakers of recordings are held out, ``settings`` are those of
    :func:`mmssl.evaluation.probes.probe` that a user chooses.
    Raises UserError where there are no probes for the kind of run, where ``out`` is a file, and for what is wrong with
    the data.
    """
    _check_folder(out)
    predictor = _loaded(run)
    modality = _modality(run, predictor)
    if voices:
        _of_recordings(run, predictor, voices)
        settings |= voices
    memory = {} if memory is None else memory
    reports = []
    for label in columns:
        if label is not None and len(columns) > 1:
            tell(f"\n{label}")
        report = modality.probe_labelled(predictor, run, data, label, memory=memory, say=tell_progress, **settings)
        report = replace(report, command=command_line("mmssl", "probe", run, data=data, label=label, **settings))
        print_report(report)
        for file in save_report(report, out):
            tell(file)
        reports.append(report)
    return reports


def transcribe_run(
    run: Path,
    data: str,
    label: str | None,
    out: Path,
    *,
    unit: Literal["auto", "words", "characters"],
    seeds: int,
    voices: dict[str, Any],
) -> None:
    """Train a CTC head on the frozen frames of a run on recordings: prints the table, writes ``ctc.json``.

    ``unit``, ``seeds``, ``voices`` are those of :func:`mmssl.evaluation.audio_runs.probe_transcripts`.
    """
    from mmssl.evaluation.audio_runs import probe_transcripts
    from mmssl.evaluation.ctc_report import print_ctc_report, save_ctc_report

    _check_folder(out)
    predictor = _of_recordings(run, _loaded(run), {"transcribe": unit, **voices})
    report = probe_transcripts(predictor, data, label, unit=unit, seeds=seeds, say=tell_progress, **voices)
    print_ctc_report(report)
    tell(save_ctc_report(report, out))


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder, which is made if missing")


def _loaded(run: Path) -> Predictor:
    predictor = load_predictor(run)
    return predictor.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _of_recordings(run: Path, predictor: Predictor, asked: dict[str, Any]) -> AudioPredictor:
    """The predictor. Raises UserError where it is none of recordings, which these flags are for."""
    if not isinstance(predictor, AudioPredictor):
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise UserError(f"{flags} are for runs on recordings, and {run} is a {predictor.name}: leave them out")
    return predictor
