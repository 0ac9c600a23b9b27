"""Labelled recordings: one label each, or labelled stretches of them such as words with their times.

    found = open_labelled_audio("speech_digits", label="label")
    found.train.source, found.train.targets, found.names
    found = open_labelled_audio("grid", label="words")         # found.train.recording, start, stop, targets

Labels are a column of ``labels.csv`` or ``manifest.jsonl``, or class folders. A column whose values are lists of
[label, start, end] in seconds labels stretches; times count on the file's own clock, as players show it.

**Splits.** Recordings of one voice resemble each other, and a probe that has heard a speaker may know the answer by the
voice. So where there is a column ``speaker`` (and it is not the label), the test part has speakers of its own: those of
the split column when its parts share none, else a quarter of all speakers, chosen by a hash. Without speakers, by the
column ``split`` or by folders named train, val, test; where nothing is said, a fifth is kept back by a hash of names.
``notes`` says which.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from mmssl.config import parse_json
from mmssl.data.audio.header import AudioLimits
from mmssl.data.audio.resample import resampled_length
from mmssl.data.audio.source import AudioSource, open_audio
from mmssl.data.labels import SPLIT_NAMES
from mmssl.errors import UserError

HELD_OUT_EVERY = 5
HELD_OUT_SPEAKERS = 0.25


@dataclass(frozen=True)
class AudioPart:
    """Labelled stretches of recordings; a whole recording is one from 0 to infinity."""

    source: AudioSource
    recording: Int64[np.ndarray, " item"]
    """Its number in ``source``."""
    start: Float64[np.ndarray, " item"]
    """Seconds on the file's own clock."""
    stop: Float64[np.ndarray, " item"]
    targets: Int64[np.ndarray, " item"]
    """Class number by item."""

    def __len__(self) -> int:
        return len(self.targets)

    def speakers(self) -> list[str]:
        """The speaker of each recording in ``source``; empty where one of them is not known."""
        everyone = list(range(len(self.source)))
        speakers = _speakers(self.source, "", everyone)
        return [speakers[number] for number in everyone] if speakers else []

    def samples(self, sample_rate: int) -> Int64[np.ndarray, "item 2"]:
        """First sample and the one behind the last, at ``sample_rate``; within the recording. Raises MediaError."""
        edges = np.empty((len(self), 2), np.int64)
        for item, (number, *times) in enumerate(
            zip(self.recording.tolist(), self.start.tolist(), self.stop.tolist(), strict=True)
        ):
            header = self.source.header(number)
            length = resampled_length(header.frames, header.rate, sample_rate)
            edges[item] = [
                length if time == np.inf else min(max(round((time - header.start) * sample_rate), 0), length)
                for time in times
            ]
        return edges


@dataclass(frozen=True)
class LabelledAudio:
    """What :func:`open_labelled_audio` found."""

    train: AudioPart
    test: AudioPart
    names: list[str]
    """Class names by class number; both parts have the same."""
    label: str
    """The column they come from, or "folder"."""
    notes: list[str]
    """What was left out, and how the parts were made, in sentences for the user."""


def open_labelled_audio(
    data: str | Path | Sequence[str | Path],
    *,
    label: str | None = None,
    split: str | None = None,
    held_out_speakers: int | float | None = None,
    seed: int = 0,
    limits: AudioLimits | None = None,
) -> LabelledAudio:
    """Find labelled recordings and their two parts. Those without a label are left out, counted, and said.

    Args:
        data: as for :func:`mmssl.data.audio.open_audio`.
        label: the column of the labels, or "folder"; not needed when there is one choice.
        split: use the recordings of this split only, and divide them.
        held_out_speakers: a number of speakers, or below 1 a share of them, that only the test part has; 0 divides
            without regard to speakers. None is as described above.
        seed: of the choice of speakers.
        limits: what one recording may cost.

    Raises:
        UserError: where there are no recordings or labels, several columns to choose from, a single class, or a part is
            empty.
    """
    source = open_audio(data, split=split, limits=limits)
    column = label or _label_column(source)
    notes: list[str] = []
    items = _items(source, column, notes)
    found = sorted({name for _, _, _, name in items}, key=_by_number)
    if len(found) < 2:
        what = f"the single class '{found[0]}'" if found else f"no recording with a '{column}'"
        raise UserError(f"{source.name} has {what}: a probe needs recordings of at least two classes")
    used = sorted({number for number, *_ in items})
    is_test = _divide(source, column, used, [] if split else source.file_splits(), held_out_speakers, seed, notes)
    place = {name: number for number, name in enumerate(found)}
    parts = []
    for which, test in (("train", False), ("test", True)):
        chosen = [number for number in used if is_test[number] is test]
        part = _part(source, chosen, items, place)
        if not len(part):
            raise UserError(f"{source.name} has no labelled recording in its {which} part: add some, or choose a split")
        if not test and len(np.unique(part.targets)) < 2:
            raise UserError(f"{source.name} has a single class in its train part: a probe needs at least two")
        parts.append(part)
    return LabelledAudio(*parts, names=found, label=column, notes=notes)


def _by_number(name: str) -> tuple[bool, int, str]:
    """Numbers first, by value, then names."""
    return not name.isdecimal(), int(name) if name.isdecimal() else 0, name


def _label_column(source: AudioSource) -> str:
    choices = source.label_columns()
    if "label" in choices or len(choices) == 1:
        return "label" if "label" in choices else choices[0]
    if choices:
        raise UserError(
            f"{source.name} has several columns that may be the label: choose one with --label ({', '.join(choices)})"
        )
    raise UserError(f"{source.name} has no labels: add a labels.csv or manifest.jsonl, or one folder a class")


def _items(source: AudioSource, column: str, notes: list[str]) -> list[tuple[int, float, float, str]]:
    """(recording, start, stop, label) of everything that has a label."""
    values = source.column(column)
    missing = values.count("")
    if missing:
        notes.append(f"{missing:,} of {len(values):,} recordings have no '{column}' and are left out")
    if not any(value.startswith("[") for value in values):
        return [(number, 0.0, np.inf, value) for number, value in enumerate(values) if value]
    items = []
    wrong = 0
    for number, value in enumerate(values):
        for stretch in _stretches(value):
            if stretch is None:
                wrong += 1
            else:
                items.append((number, *stretch))
    if wrong:
        notes.append(f"{wrong:,} of {wrong + len(items):,} entries of '{column}' are not [label, start, end]: left out")
    return items


def _stretches(value: str) -> list[tuple[float, float, str] | None]:
    """What a list of [label, start, end] says; None for an entry that is something else."""
    try:
        listed = parse_json(value) if value else []
    except ValueError:
        return [None]
    if not isinstance(listed, list):
        return [None]
    found: list[tuple[float, float, str] | None] = []
    for entry in listed:
        match entry:
            case [str(name), int() | float() as start, int() | float() as stop] if name and 0 <= start < stop < np.inf:
                found.append((float(start), float(stop), name))
            case _:
                found.append(None)
    return found


def _divide(
    source: AudioSource, column: str, used: list[int], splits: list[str], held_out: int | float | None, seed: int,
    notes: list[str],
) -> dict[int, bool | None]:  # fmt: skip
    """Whether each recording is for testing; None for one in neither part."""
    said = {number: splits[number] for number in used} if splits else {}
    said = {number: SPLIT_NAMES.get(value.lower(), value) for number, value in said.items()}
    tested = "test" if "test" in said.values() else "val" if "val" in said.values() else None
    by_split = None
    if tested and "train" in said.values():
        by_split = {number: True if value == tested else False if value == "train" else None
                    for number, value in said.items()}  # fmt: skip
    speakers = _speakers(source, column, used)
    if len(set(speakers.values())) > 1 and held_out != 0:
        shared = by_split is None or held_out is not None or _shared_speakers(by_split, speakers)
        if by_split is None or shared:
            chosen = _held_out(sorted(set(speakers.values())), held_out, seed, source.name)
            also = "; the column 'split', whose parts share speakers, is not used" if by_split else ""
            notes.append(f"the test part has speakers that the train part has not: {', '.join(chosen)}{also}")
            return {number: speakers[number] in chosen for number in used}
        notes.append(f"divided by the column 'split' (train, {tested}), whose parts share no speaker")
        return by_split
    if by_split:
        unused = sum(value is None for value in by_split.values())
        also = f"; {unused:,} recordings are in neither part" if unused else ""
        notes.append(f"divided by the split (train, {tested}){also}")
        return by_split
    notes.append(f"there are no train and test parts: every {HELD_OUT_EVERY}th recording is kept back, by its name")
    return {number: _hash(source.files[number]) % HELD_OUT_EVERY == 0 for number in used}


def _speakers(source: AudioSource, column: str, used: list[int]) -> dict[int, str]:
    """The speaker of each recording; none at all when the label is the speaker or somebody is missing."""
    if column == "speaker":
        return {}
    try:
        values = source.column("speaker")
    except UserError:
        return {}
    found = {number: values[number] for number in used}
    return found if all(found.values()) else {}


def _shared_speakers(by_split: dict[int, bool | None], speakers: dict[int, str]) -> bool:
    train = {speakers[number] for number, test in by_split.items() if test is False}
    return any(speakers[number] in train for number, test in by_split.items() if test)


def _held_out(speakers: list[str], held_out: int | float | None, seed: int, name: str) -> list[str]:
    """The speakers to test on: a share of them, at least one, or a number."""
    wanted = HELD_OUT_SPEAKERS if held_out is None else held_out
    count = max(1, round(wanted * len(speakers))) if 0 < wanted < 1 else int(wanted)
    if not 0 < count < len(speakers) or (wanted >= 1 and wanted != count):
        raise UserError(
            f"{wanted:g} held-out speakers are impossible: {name} has {len(speakers)}, choose 1 to {len(speakers) - 1}"
        )
    return sorted(sorted(speakers, key=lambda speaker: _hash(f"{seed} {speaker}"))[:count])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _part(
    source: AudioSource, chosen: list[int], items: list[tuple[int, float, float, str]], place: dict[str, int]
) -> AudioPart:
    row = {number: new for new, number in enumerate(chosen)}
    own = [(row[number], start, stop, place[name]) for number, start, stop, name in items if number in row]
    recording, start, stop, targets = (list(values) for values in zip(*own, strict=True)) if own else ([], [], [], [])
    return AudioPart(
        source.subset(chosen),
        np.array(recording, np.int64),
        np.array(start, np.float64),
        np.array(stop, np.float64),
        np.array(targets, np.int64),
    )


def class_counts(part: AudioPart, names: list[str]) -> dict[str, int]:
    """Items by class name."""
    counts = Counter(part.targets.tolist())
    return {name: counts[number] for number, name in enumerate(names)}
