"""How often is the answer right, by how much of the video it is made of: the published protocol, with known shifts.

That of SyncNet and its successors on LRS2: search 15 frames to either side at 25 frames a second, average the scores of
5-frame windows over the context, right within one frame; shifts that leave the clip are not candidates (VocaLiST,
Kadandale et al. 2022, ``test_lrs2.py``).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmssl.evaluation.offset.calibration import Bin, Calibration, expected_table, fit_calibration
from mmssl.evaluation.offset.curve import NEIGHBOURS, read_peak
from mmssl.evaluation.offset.injected import CONTEXTS, ClipLike, KnownClip, inject, know_clips
from mmssl.evaluation.offset.question import LEAST_CONFIDENCE
from mmssl.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

PUBLISHED = {
    "SyncNet, 13.6 M (LRS2)": {5: 76, 9: 88, 15: 96},
    "Perfect Match, 13.6 M (LRS2)": {5: 88, 9: 96, 15: 99},
    "VocaLiST, 80 M (LRS2)": {5: 93, 15: 99.8},
}
"""Accuracy in % by frames of context, read off the figure size_and_acc.jpg of MTDVocaLiST (2022), to about a point."""

DIFFERENCES = (
    "The published figures are for LRS2: television, thousands of speakers, networks trained for days on much more. "
    "They are here for scale: other clips, so no competition. The same are range, tolerance, averaging of scores, and "
    "that shifts beyond the clip are left out. Different is also that here every answer has a place and an offset of "
    "its own, drawn at random, where published tests take clips as they are and ask for 0."
)
SURE = 0.9
REPEATS = 20
"""Places and offsets drawn in each clip."""


@dataclass(frozen=True)
class Row:
    """Answers made of ``context`` frames."""

    context: int
    answers: int
    right: float
    """Share within one frame of the truth, silence and still pictures included, as published."""
    right_speaking: float
    """The same of those places in which at least half of the windows sound and move, others left out of the mean."""
    chance: float
    """The same for guessing among the candidates."""
    median_error_ms: float
    """Of all answers, refined by the parabola."""
    sure: float
    """Share given with a confidence above 0.9."""
    sure_right: float | None
    """Share of those that are right."""
    declined_swapped: float
    """Share of answers to another clip's sound that are refused or have a confidence below 0.5."""


@dataclass(frozen=True)
class Evaluation:
    """All contexts."""

    data: str
    clips: int
    crossed: bool
    """The clips are those of the calibration: each half was judged by a calibration on the other half."""
    rows: tuple[Row, ...]
    expected: tuple[Bin, ...]
    """Confidence against share right, over all contexts."""
    command: str | None = None
    """What measures it again; None where it was not a run folder that was asked."""


def evaluate(
    predictor: Any,
    clips: Sequence[ClipLike],
    calibration: Calibration | None,
    *,
    data: str,
    crossed: bool,
    seed: int = 1,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Inject whole-frame offsets into clips, as published, and judge the answers.

    ``crossed`` judges every clip by a calibration that did not see it; without a calibration it is always done.
    """
    window = predictor.config.window
    known = know_clips(predictor, clips, between_frames=False, say=say)
    parts = [(known, calibration)]
    if (crossed or calibration is None) and len(known) > 1:
        halves = know_clips(predictor, clips, say=say)
        parts = [(known[half::2], fit_calibration(halves[1 - half :: 2], window)) for half in (0, 1)]
    elif calibration is None:
        parts = [(known, fit_calibration(known, window))]
    fitted: list[tuple[list[KnownClip], Calibration]] = [(part, fit) for part, fit in parts if fit is not None]
    rows, every = [], []
    for context in CONTEXTS:
        row, judged = _row(fitted, context, window, seed)
        rows.append(row)
        every.append(judged)
    sure, right = (torch.cat(each) for each in zip(*every, strict=True))
    return Evaluation(data, len(known), len(fitted) > 1, tuple(rows), expected_table(sure, right))


def _row(
    parts: list[tuple[list[KnownClip], Calibration]], context: int, window: int, seed: int
) -> tuple[Row, tuple[torch.Tensor, torch.Tensor]]:
    found = defaultdict[str, list[torch.Tensor]](list)
    for known, calibration in parts:
        plain, own, other = (
            inject(known, context, window, repeats=REPEATS, seed=seed, kind=kind)
            for kind in ("all_count", "own", "other")
        )
        columns = torch.arange(plain.curve.score.shape[-1]) - plain.curve.score.shape[-1] // 2

        def near(shift: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:  # whole frames, as published
            return (shift - truth).abs() <= NEIGHBOURS

        peak, gated, fooled = read_peak(plain.curve), read_peak(own.curve), read_peak(other.curve)
        true = (own.truth.long() + len(columns) // 2)[:, None]
        evidence = own.curve.pairs.gather(1, true) / plain.curve.pairs.gather(1, true).clamp_min(1)
        valid = plain.curve.valid
        found["right"].append(near(columns[peak.column], plain.truth))
        found["speaking"].append(evidence[:, 0] >= 0.5)
        found["gated"].append(near(columns[gated.column], own.truth))
        found["chance"].append((valid & near(columns, plain.truth[:, None])).sum(-1) / valid.sum(-1).clamp_min(1))
        found["error"].append((peak.frames - plain.truth).abs() * 1000 / calibration.fps)
        found["sure"].append(calibration.confidence(own.curve))
        found["given"].append(~gated.at_edge & own.curve.valid.any(-1))
        found["declined"].append(
            fooled.at_edge | ~other.curve.valid.any(-1) | (calibration.confidence(other.curve) < LEAST_CONFIDENCE)
        )
    all_ = {name: torch.cat(values) for name, values in found.items()}
    sure = all_["given"] & (all_["sure"] > SURE)
    speaking = all_["gated"][all_["speaking"]]
    row = Row(
        context=context,
        answers=len(all_["right"]),
        right=float(all_["right"].float().mean()),
        right_speaking=float(speaking.float().mean()),
        chance=float(all_["chance"].mean()),
        median_error_ms=float(all_["error"].median()),
        sure=float(sure.float().mean()),
        sure_right=float(all_["gated"][sure].float().mean()) if sure.any() else None,
        declined_swapped=float(all_["declined"].float().mean()),
    )
    return row, (all_["sure"][all_["given"]], all_["gated"][all_["given"]])


def print_evaluation(found: Evaluation, console: "Console | None" = None) -> None:
    """Accuracy by context, ours above the published figures, then confidence."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    contexts = [row.context for row in found.rows]
    title = f"Offset within one frame, % of answers, {found.clips} clips of {plain(found.data)}"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("frames of context")
    for context in contexts:
        table.add_column(str(context), justify="right")
    table.add_row("this run", *(f"{100 * row.right:.1f}" for row in found.rows), style="bold")
    table.add_row("where it sounds and moves", *(f"{100 * row.right_speaking:.1f}" for row in found.rows))
    table.add_row("chance", *(f"{100 * row.chance:.1f}" for row in found.rows))
    for name, figures in PUBLISHED.items():
        table.add_row(
            name, *(f"{figures[context]:g}" if context in figures else "" for context in contexts), style="dim"
        )
    table.add_section()
    sure = ["" if row.sure_right is None else f"{100 * row.sure_right:.1f}" for row in found.rows]
    table.add_row("median error, ms", *(f"{row.median_error_ms:.0f}" for row in found.rows))
    table.add_row("confidence above 0.9, %", *(f"{100 * row.sure:.0f}" for row in found.rows))
    table.add_row("of these right, %", *sure)
    table.add_row("another clip's sound declined, %", *(f"{100 * row.declined_swapped:.0f}" for row in found.rows))
    console.print(table)
    said = [f"{each.confidence:.2f} / {each.right:.2f} ({each.answers})" for each in found.expected]
    console.print(f"Confidence / share right (answers): {', '.join(said)}", highlight=False, style="dim")
    if found.crossed:
        console.print("Each half of the clips was judged by a calibration on the other half.", style="dim")
    console.print(DIFFERENCES, style="dim", highlight=False)


def save_evaluation(found: Evaluation, file: Path) -> Path:
    """As JSON, with the published figures."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(found) | {"published": PUBLISHED, "differences": DIFFERENCES}, indent=2)
    file.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return file
