"""A run on recordings, and recordings, brought together for looking and measuring."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mmssl.config import read_json
from mmssl.data.audio import AudioLoader, AudioPart, AudioSource, LabelledAudio, open_audio, open_labelled_audio
from mmssl.errors import UserError
from mmssl.evaluation.ctc import CtcConfig, Transcripts, probe_ctc
from mmssl.evaluation.ctc_report import CtcReport
from mmssl.evaluation.features import LabelledSet
from mmssl.evaluation.finetune import FinetuneConfig
from mmssl.evaluation.intervals import IntervalSet, encode_intervals, with_intervals
from mmssl.evaluation.log_mel import LogMel
from mmssl.evaluation.probe_results import ProbeReport
from mmssl.evaluation.probes import probe
from mmssl.evaluation.reveal_audio import write_page, write_picture
from mmssl.evaluation.revealed_audio import Clip, reveal_clips, summary
from mmssl.predictors.audio import AudioPredictor
from mmssl.terminal import tell

SHOWN_SECONDS = 8.0
"""A picture shows a recording up to here."""
BATCH_SECONDS = 120.0
"""Sound encoded at a time; more where a single recording is longer."""
WORKERS = 2

FINETUNING = FinetuneConfig(steps=150, batch_size=32, learning_rate=5e-4)
"""As for texts (:mod:`mmssl.evaluation.text_runs`). A guess, made before any result."""

TRANSCRIBING = CtcConfig()
"""A guess too; on generated tones a third and three times this rate did as well with the same steps."""


def shown_clips(source: AudioSource, sample_rate: int, first: int, count: int) -> list[Clip]:
    """``count`` recordings from ``first`` on, up to 8 seconds of each. Raises UserError where there are none."""
    if first >= len(source):
        raise UserError(f"--first {first} is beyond the {len(source)} recordings of {source.name}")
    clips = []
    for number in range(first, min(first + count, len(source))):
        most = round(min(SHOWN_SECONDS, source.header(number).seconds) * sample_rate)
        clips.append(Clip(source.files[number], source.read(number, 0, most, sample_rate=sample_rate)))
    return clips


def reveal_run(
    run: Path, predictor: AudioPredictor, data: str | None, out: Path | None, count: int, first: int
) -> Path:  # fmt: skip
    """Write a page with sound and a picture of ``count`` recordings, held out by ``data`` or by the run.

    ``out`` is the page or the picture; both are written side by side. Returns the page.
    """
    where: Any = data
    if data is None:
        saved = read_json(run / "config.json")["config"]
        where = [saved["data"], *saved["more_data"]]
    source = open_audio(where)
    held_out = next((name for name in ("val", "test") if name in source.splits), None)
    if held_out:
        source = open_audio(where, split=held_out)
    page = (out or run / "reveal" / "reveal.html").with_suffix(".html")
    shown = reveal_clips(predictor, shown_clips(source, predictor.sample_rate, first, count))
    caption = f"{predictor.name} on {source.name}"
    tell(f"{caption}: {summary(shown)}")
    tell(write_picture(shown, caption, page.with_suffix(".png")))
    return write_page(shown, caption, page)


def probe_labelled(
    predictor: AudioPredictor,
    run: Path,  # noqa: ARG001 - other modalities have their tokenizer there
    data: str,
    label: str | None,
    *,
    held_out_speakers: float | None = None,
    speaker_seed: int = 0,
    **settings: Any,
) -> ProbeReport:
    """Probe an encoder of recordings, beside an untrained one and log-mel statistics.

    Labels are those of whole recordings, or of stretches of them where the column says lists of [label, start, end].
    Stretches are features of an encoder that heard the whole recording; nothing is fine-tuned on them.

    ``settings`` are those of :func:`mmssl.evaluation.probes.probe`.

    Raises UserError for whatever :func:`mmssl.data.audio.open_labelled_audio` refuses.
    """
    found = open_labelled_audio(data, label=label, held_out_speakers=held_out_speakers, seed=speaker_seed)
    raw = LogMel(predictor.sample_rate, predictor.device)
    whole = all(np.isinf(part.stop).all() for part in (found.train, found.test))
    sets, owners, said = [], [], []
    for part in (found.train, found.test):
        loader = labelled_loader(part.source, predictor)
        part = part if whole else usable_part(part, loader)
        sets.append((clip_set if whole else stretch_set)(part, found.names, loader))
        owners.append(np.arange(len(part.source)) if whole else part.recording)
    heard, unheard = (part.speakers() for part in (found.train, found.test))
    if found.label != "speaker" and heard and unheard and not set(heard) & set(unheard):
        # voices are held out whole too where the strength of regularisation is chosen
        numbers = np.unique(heard, return_inverse=True)[1]
        sets[0] = replace(sets[0], groups=numbers[owners[0]])
    if not whole:
        said.append("Stretches of recordings that were heard whole; nothing is fine-tuned on them.")
        settings |= {"finetune_labels": (), "encoder": encode_intervals}
    return probe(
        predictor,
        *sets,
        raw=raw,
        raw_name=raw.name,
        label=None if found.label == "folder" else found.label,
        finetune_config=FINETUNING,
        notes=[*_sentences(found), *said],
        **settings,
    )


def probe_transcripts(
    predictor: AudioPredictor,
    data: str,
    label: str | None,
    *,
    unit: Literal["auto", "words", "characters"],
    seeds: int,
    held_out_speakers: float | None = None,
    speaker_seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> CtcReport:
    """Train a CTC head to write the column ``label`` (by default ``text``) of recordings."""
    found = open_labelled_audio(data, label=label or "text", held_out_speakers=held_out_speakers, seed=speaker_seed)
    parts = []
    for part in (found.train, found.test):
        if not np.isinf(part.stop).all():
            raise UserError(f"{data} has stretches in its column '{found.label}': name one with whole transcripts")
        texts = [""] * len(part.source)
        for number, target in zip(part.recording.tolist(), part.targets.tolist(), strict=True):
            texts[number] = found.names[target]
        parts.append(Transcripts(labelled_loader(part.source, predictor).frozen, texts))
    return probe_ctc(predictor, *parts, unit=unit, seeds=seeds, config=TRANSCRIBING, notes=_sentences(found), say=say)


def labelled_loader(source: AudioSource, predictor: AudioPredictor) -> AudioLoader:
    """Whole recordings; what is shorter than a frame of the encoder or of log-mel is skipped."""
    longest = math.ceil(float(source.seconds.max(initial=0.0))) + 1.0
    shortest = max(predictor.encoder.front_end.field_and_step[0] / predictor.sample_rate, 0.025)
    return AudioLoader(
        source, sample_rate=predictor.sample_rate, max_seconds=longest, min_seconds=shortest,
        batch_seconds=max(BATCH_SECONDS, longest), seed=0, workers=WORKERS, device=predictor.device,
    )  # fmt: skip


def clip_set(part: AudioPart, names: list[str], loader: AudioLoader) -> LabelledSet:
    """One label a recording."""
    targets = np.full(len(part.source), -1, np.int64)
    targets[part.recording] = part.targets
    return LabelledSet(loader.frozen, targets, names, {"audio": 0}, same=tuple(part.source.files))


def usable_part(part: AudioPart, loader: AudioLoader) -> AudioPart:
    """The stretches of those recordings that can be used."""
    usable = np.isin(part.recording, loader.pieces.recording)
    return replace(
        part, recording=part.recording[usable], start=part.start[usable], stop=part.stop[usable],
        targets=part.targets[usable],
    )  # fmt: skip


def stretch_set(part: AudioPart, names: list[str], loader: AudioLoader) -> IntervalSet:
    """Labels of stretches, all of usable recordings."""
    between = torch.from_numpy(part.samples(loader.sample_rate))
    return IntervalSet(with_intervals(loader.frozen, torch.from_numpy(part.recording), between), part.targets, names)


def _sentences(found: LabelledAudio) -> list[str]:
    return [note[0].upper() + note[1:] + "." for note in found.notes]
