"""Answers for the eye and for other programs: sentences, a table, JSON, a figure a file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.evaluation.offset.measure import Measurement
from mmssl.evaluation.offset.question import Answer, Question
from mmssl.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

SIGN = "positive: the sound leads the picture; negative: it lags"
BLUE, RED, GREY = "#1668b0", "#c8553d", "#9a9a9a"

IN_SYNC, OUT_OF_SYNC, UNDETERMINED, NOT_READ = 0, 1, 3, 4
"""Exit codes. 2 is a mistake of the user's, 130 Ctrl-C, as everywhere."""


def status(measurement: Measurement) -> str:
    """One of "in sync", "out of sync", "undetermined", "not read"."""
    if measurement.answer is None:
        return "not read"
    if measurement.answer.offset_ms is None:
        return "undetermined"
    return "in sync" if measurement.answer.in_sync else "out of sync"


def exit_code(measurements: Sequence[Measurement]) -> int:
    """The gravest of all files: not read, then out of sync, then undetermined."""
    found = {status(measurement) for measurement in measurements}
    for name, code in (("not read", NOT_READ), ("out of sync", OUT_OF_SYNC), ("undetermined", UNDETERMINED)):
        if name in found:
            return code
    return IN_SYNC


def as_dict(measurement: Measurement) -> dict[str, Any]:
    """Fit for JSON; offsets in ms, see :data:`SIGN`."""
    known: dict[str, Any] = {"file": str(measurement.path), "status": status(measurement), "says": measurement.sentence}
    found = measurement.answer
    if found is None:
        return known | {"failure": measurement.failure}
    known |= {
        name: _rounded(getattr(found, name))
        for name in ("offset_ms", "interval_ms", "confidence", "reason", "best_ms", "course", "course_ms", "course_at",
                     "second_peak_ms", "second_peak_share", "votes", "warning", "seconds")
    }  # fmt: skip
    if found.curve is not None:
        curve = found.curve
        known["curve"] = [
            round(float(score), 4) if valid else None for score, valid in zip(curve.score, curve.valid, strict=True)
        ]
    known["over_time"] = [
        {
            "seconds": _rounded(each.seconds),
            "shift_frames": _rounded(each.frames),
            "confidence": _rounded(each.confidence),
        }
        for each in found.local
    ]
    return known


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return [_rounded(each) for each in value] if isinstance(value, tuple) else value


def as_json(measurements: Sequence[Measurement], question: Question) -> str:
    """All files, what was asked, and what the signs mean; in ASCII, so that no name in it steers a terminal."""
    return json.dumps(
        {
            "sign": SIGN, "search_ms": question.far, "tolerance_ms": [question.lead_ms, -question.lag_ms],
            "fps": question.fps, "least_confidence": question.least_confidence,
            "files": [as_dict(each) for each in measurements],
        },
        indent=2,
    )  # fmt: skip


def print_table(measurements: Sequence[Measurement], console: "Console | None" = None) -> None:
    """A row a file, then how many of each kind."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("file", "offset, ms", "90 % within", "sure", "agree", ""):
        table.add_column(name, justify="left" if name in ("file", "") else "right", overflow="fold")
    for each in measurements:
        table.add_row(*(Text(printable(cell)) for cell in _cells(each)))
    console = console or Console()
    console.print(table)
    names = [status(each) for each in measurements]
    counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
    note = f"{len(names)} files: {counts}. {SIGN}; agree: how many seconds by themselves"
    console.print(note, markup=False, highlight=False, style="dim")


def _cells(each: Measurement) -> list[str]:
    found = each.answer
    if found is None:
        return [each.path.name, "", "", "", "", "not read"]
    sure = "" if found.confidence is None else f"{found.confidence:.2f}"
    agree = f"{found.votes[0]}/{found.votes[1]}" if found.votes else ""
    if found.offset_ms is None or found.interval_ms is None:
        return [each.path.name, "", "", sure, agree, found.reason or ""]
    low, high = found.interval_ms
    what = status(each) if found.course == "constant" else f"{status(each)}: {found.course}"
    return [each.path.name, f"{round(found.offset_ms):+d}", f"{round(low):+d} to {round(high):+d}", sure, agree, what]


def draw(measurement: Measurement, question: Question, file: Path) -> Path:
    """Score against shift, and offset against time, as ``file`` (.png)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    found = measurement.answer
    if found is not None and found.curve is not None:
        _draw_curve(left, found, question)
        _draw_course(right, found, question)
    else:
        for axes in (left, right):
            axes.set_axis_off()
    title = _wrapped(f"{printable(measurement.path.name)}: {measurement.sentence}", 120)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file


def _draw_curve(axes: "Axes", found: Answer, question: Question) -> None:
    """The sound's offset rises to the right: left of 0 it lags."""
    assert found.curve is not None
    reach = len(found.curve.score) // 2
    valid = found.curve.valid.numpy()
    offsets = [question.ms(shift) for shift in range(-reach, reach + 1)]
    shown = [
        (offset, score) for offset, score, use in zip(offsets, found.curve.score.tolist(), valid, strict=True) if use
    ]
    axes.plot(*zip(*shown, strict=True), "o-", color=BLUE, markersize=3, linewidth=1.2)
    axes.axvspan(-question.lag_ms, question.lead_ms, color=GREY, alpha=0.18, linewidth=0)
    for offset in set(found.course_ms or ()):
        axes.axvline(offset, color=RED, linewidth=1.2)
    if found.interval_ms is not None and found.course == "constant":
        axes.axvspan(*found.interval_ms, color=RED, alpha=0.2, linewidth=0)
    if found.second_peak_ms is not None and (found.second_peak_share or 0) > 0.5:
        axes.axvline(found.second_peak_ms, color=GREY, linewidth=1, linestyle=":")
    axes.set_xlim(-question.far, question.far)
    axes.set_xlabel("sound lags  ←  offset in ms  →  sound leads", fontsize=9)
    axes.set_ylabel("mean agreement", fontsize=9)
    axes.tick_params(labelsize=8)


def _draw_course(axes: "Axes", found: Answer, question: Question) -> None:
    """Each second's own answer, darker where it is surer, and the course through them."""
    from matplotlib.colors import to_rgb

    seconds = [each.seconds for each in found.local]
    offsets = [question.ms(each.frames) for each in found.local]
    sure = [0.5 if each.confidence is None else each.confidence for each in found.local]
    axes.axhspan(-question.lag_ms, question.lead_ms, color=GREY, alpha=0.18, linewidth=0)
    colours = [(*to_rgb(BLUE), 0.15 + 0.85 * value) for value in sure]
    axes.scatter(seconds, offsets, s=18, c=colours, linewidths=0, zorder=3)
    if found.course_ms is not None:
        start, stop = found.course_ms
        if found.course == "step" and found.course_at is not None:
            axes.plot([0, found.course_at, found.course_at, found.seconds], [start, start, stop, stop], color=RED)
        else:
            axes.plot([0, found.seconds], [start, stop], color=RED, linewidth=1.2)
    axes.set_ylim(-question.far * 1.05, question.far * 1.05)
    axes.set_xlim(0, max(found.seconds, 1e-3))
    axes.set_xlabel("seconds (each dot is one second by itself, pale where unsure)", fontsize=9)
    axes.set_ylabel("offset in ms", fontsize=9)
    axes.tick_params(labelsize=8)


def _wrapped(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
