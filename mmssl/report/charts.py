"""What the page draws, as numbers: curves, bars and tables, each with its sources and the commands that made it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmssl.report import numbers
from mmssl.report.gather import Run, is_number
from mmssl.report.numbers import Number, Table
from mmssl.report.words import BASELINES, words_of
from mmssl.training.finding import Entry

INK, RANDOM, RAW = "ink", "random", "raw"
"""Colours that are not those of a run: see style.css.jinja."""


@dataclass(frozen=True)
class Line:
    """One line of a chart."""

    name: str
    colour: int | str
    """Place of a run, or one of the names above."""
    x: Sequence[float | int]
    y: Sequence[Number]
    low: Sequence[float | int] = ()
    high: Sequence[float | int] = ()
    """The band around it, where there are several seeds."""
    dash: str = "-"
    marker: str = "o"


@dataclass(frozen=True)
class Chart:
    """Lines in one pair of axes."""

    key: str
    title: str
    caption: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    table: Table
    commands: Sequence[str] = ()
    log_x: bool = False
    ticks: Mapping[str, float] = field(default_factory=dict)
    """Labels of the x axis and where they stand; by default chosen by the drawing."""
    floor: tuple[float, str] | None = None
    """A line to compare with, such as chance, and its name."""
    scale: float = 1.0
    """What numbers are multiplied by on the y axis: 100 for per cent."""

    @property
    def alt(self) -> str:
        """For those who do not see it: what is drawn, and where each line ends."""
        ends = "; ".join(f"{line.name} ends at {line.y[-1].text}" for line in self.lines)
        return f"{self.title}: {self.y_label} against {self.x_label}. {ends}."


@dataclass(frozen=True)
class Bar:
    """One bar."""

    name: str
    number: Number
    colour: int | str
    pale: bool = False

    @property
    def width(self) -> str:
        """Of the bar in per cent of the track; nothing where the number is below 0."""
        return f"{100 * min(1.0, max(0.0, self.number.value)):.2f}"


@dataclass(frozen=True)
class Bars:
    """Groups of bars on the scale 0 to 1."""

    key: str
    title: str
    caption: str
    groups: Mapping[str, Sequence[Bar]]
    commands: Sequence[str] = ()


def commands_of(runs: Sequence[Run]) -> list[str]:
    """How the runs were made; runs of one command share its line."""
    return list(dict.fromkeys(f"python {run.saved['command']}" for run in runs if run.saved.get("command")))


def final_skill(run: Run) -> Number | None:
    """Of the last validation."""
    if not run.validations:
        return None
    last = run.validations[-1]
    return numbers.skill(last["val_skill"], run.source("val_skill", last))


def skill_over_time(runs: Sequence[Run]) -> Chart | None:
    """Validation skill against minutes of training, every run on one axis."""
    lines, rows, shown = [], [], []
    for run in runs:
        timed = [entry for entry in run.validations if is_number(entry.get("seconds"))]
        if not timed:
            continue
        skills = [numbers.skill(entry["val_skill"], run.source("val_skill", entry)) for entry in timed]
        lines.append(Line(run.name, run.colour, [entry["seconds"] / 60 for entry in timed], skills))
        last = timed[-1]
        time = numbers.duration(last["seconds"], run.source("seconds", last))
        step = numbers.count(last["step"], run.source("step", last))
        rows.append([run.name, words_of(run.kind).task, skills[0], skills[-1], step, time])
        shown.append(run)
    if not lines:
        return None
    ends = [line.x[-1] for line in lines]
    return Chart(
        "time", "Skill against training time",
        "Every line is a run, every dot a validation on samples that it never trains on. Zero is the trivial guess of "
        "each task. The tasks differ, so heights compare only within one; what compares is how fast each learns.",
        "minutes of training", "validation skill", lines,
        Table(["run", "task", "first validation", "last validation", "steps", "time"], rows), commands_of(shown),
        log_x=max(ends) > 8 * max(min(ends), 1e-9), floor=(0.0, "trivial guess"),
    )  # fmt: skip


def baselines_of(entry: Entry) -> dict[str, float]:
    """Skill of guesses that learn nothing: ``reference_NAME`` against ``reference``, unless it has an own loss."""
    found = {}
    for key in entry:
        name = key.removeprefix("val_reference_")
        own = key == name or f"val_loss_{name}" in entry
        if not own and is_number(entry[key]) and is_number(entry.get("val_reference")):
            found[name] = 1 - entry[key] / entry["val_reference"]
    return found


def beyond_neighbours(runs: Sequence[Run]) -> Bars | None:
    """How far guesses from the neighbours come, beside the networks: how redundant each modality is."""
    groups, shown = {}, []
    for run in runs:
        last = run.validations[-1] if run.validations else {}
        found = baselines_of(last)
        if not found:
            continue
        bars = [Bar("the network", numbers.skill(last["val_skill"], run.source("val_skill", last)), run.colour)]
        for name, value in found.items():
            source = run.source(f"1 - val_reference_{name} / val_reference", last)
            bars.append(Bar(BASELINES.get(name, name), numbers.skill(value, source), run.colour, pale=True))
        groups[run.name] = bars
        shown.append(run)
    return Bars(
        "neighbours", "What the neighbours alone tell",
        "Skill of guesses that need no network: the more they reach, the more redundant the data, and the more must be "
        "hidden before something beyond that has to be learned. A network beyond its neighbours knows more than that "
        "near things are alike.", groups, commands_of(shown),
    ) if groups else None  # fmt: skip


def between_senses(runs: Sequence[Run]) -> Bars | None:
    """What one sense tells of the other, from ``val_skill_A_from_B``."""
    groups, shown = {}, []
    for run in runs:
        last = run.validations[-1] if run.validations else {}
        for key in last:
            match = re.fullmatch(r"val_skill_(\w+)_from_(\w+)", key)
            if not match or not is_number(last[key]):
                continue
            title = f"{match[1]} hidden" if len(runs) == 1 else f"{run.name}: {match[1]} hidden"
            bar = Bar(
                f"from {match[2]}", numbers.skill(last[key], run.source(key, last)), run.colour, match[2] != "both"
            )
            groups.setdefault(title, []).append(bar)
            shown = [*shown, run] if run not in shown else shown
    return Bars(
        "senses", "What one sense tells of the other",
        "The same clips, predicted from the other sense alone, from the rest of the same sense, and from both. From "
        "the other sense alone above zero means that something is known of how sight and sound belong together.",
        groups, commands_of(shown),
    ) if groups else None  # fmt: skip
