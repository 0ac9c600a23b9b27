"""What is wrong with a run: small functions on the lines of its journal.

Each check looks at all lines so far and speaks of the state at the last one: what has passed by itself is no worry. The
first steps and the warm-up are left alone by those that could mistake them for an illness. Thresholds say where they
are from; a guess says so.
"""

import math
import statistics
from collections.abc import Sequence

from mmssl.training.collapse import (
    CHANCE_SKILL,
    DEAD_GRADIENT,
    DEAD_STEPS,
    collapse_a,
    collapse_b,
    collapse_c,
    few_codes,
    vanishing_variance,
)
from mmssl.training.finding import LINES, Entry, Finding, after_warmup, gain, lasting, value, values

PLATEAU_STEPS = 1000
"""After warm-up. A guess: our small BERT leaves token frequencies within some 300 steps, and wider ones take longer. It
is the plateau that google-research/bert#746 and huggingface/transformers#3983 ask about."""

SPENT_PLATEAU_STEPS = 300
"""The same where the schedule is nearly over: what has not begun by then will not."""

SPENT_RATE = 0.1
"""Share of the peak learning rate below which the schedule is nearly over; a half cosine is there at 80 %."""

PLATEAU_GAIN = 0.005
"""Skill gained within a plateau from which on it is not one. A guess: the scatter of a line of a few thousand words."""

LOST_SHARE = 0.5
"""A run that has lost half of the skill it had held, and does not regain it, has diverged. A guess."""

MORE_CODES = 2.0
"""Times the code perplexity of its best lines: then the task is another one, and skill may fall. A guess."""

LEARNED_SKILL = 0.1
"""Skill from which on there is something to lose. A guess, above the scatter of small batches."""

WORSE_THAN_TRIVIAL = -0.1
"""Skill, after warm-up, for :data:`WORSE_STEPS`. A guess: an untrained decoder starts there, but does not stay."""

WORSE_STEPS = 200

HOPELESS_SKILL = -1.0
"""Twice the trivial loss: coming closer to the trivial guess from below this is no learning. A guess."""

EXPLODED = 100.0
"""Times the median gradient norm before, three lines in a row. A guess: leaving a plateau raises it ten- to
twentyfold."""

SPIKES, SPIKE_WINDOW, SPIKE_BEFORE = 3, 20, 5
"""Spikes among the newest lines that make a finding, and the lines that each is compared with. Guesses: a single spike
that recovers is common and harmless."""

SPIKE_DROP, SPIKE_SCATTER = 0.1, 6.0
"""A spike costs this much skill, and this many times the median deviation of the lines before it. Guesses."""

CONVERGED_SKILL = 0.9
"""A run that predicts nearly everything may have no gradient in health. A guess."""

OVERFIT = 0.02
"""Validation skill lost since its best, with as much training skill won. A guess: validation uses the same crops and
masks every time, so it scatters less."""

VALIDATIONS = 2
"""Validations in a row that must be below the best one."""

STARVED, STARVED_LINES = 0.3, 5
"""Share of the time spent waiting for data, five lines in a row: the run would be 1.4 times as fast. A guess."""


def not_finite(entries: Sequence[Entry]) -> Finding | None:
    """The trainer stopped at a loss or gradient that is not a number, and left a line that says so."""
    if not entries or "loss" not in entries[-1] or entries[-1]["loss"] is not None:
        return None
    return Finding(
        "loss or gradient not finite",
        entries[-1]["step"],
        f"training ended there; the line before has {_last(entries[:-1])}",
        "--learning-rate",
        "start again with half of it",
    )


def diverged(entries: Sequence[Entry]) -> Finding | None:
    """Skill was there and is lost, or is far below the trivial guess. Not judged where a teacher moves the targets,
    whose loss may rise in health (fairseq#4177)."""
    if not entries or "target_std" in entries[-1] or "target_variance" in entries[-1]:
        return None
    known = [entry for entry in entries if not math.isnan(value(entry, "skill"))]
    skills = values(known, "skill")
    held = [(min(skills[end - LINES : end]), end) for end in range(LINES, len(skills) + 1)]
    best, end = max(held, default=(0.0, 0))
    lost = lasting(known, lambda entry: value(entry, "skill") <= LOST_SHARE * best)
    if lost and best >= LEARNED_SKILL and not _more_codes(known[end - 1], known[-1]):
        return _diverged(lost, f"was {best:.3f}")
    worse = lasting(after_warmup(entries), lambda entry: value(entry, "skill") <= WORSE_THAN_TRIVIAL, steps=WORSE_STEPS)
    if worse and gain(worse, "skill", floor=HOPELESS_SKILL) < PLATEAU_GAIN:
        return _diverged(worse, "worse than the trivial guess")
    return None


def _more_codes(before: Entry, after: Entry) -> bool:
    """More codes to tell apart make a contrastive task harder: its loss rises in health."""
    return value(after, "code_perplexity") >= MORE_CODES * value(before, "code_perplexity")


def _diverged(found: Sequence[Entry], what: str) -> Finding:
    saw = f"{_last(found)} ({what}), gradient norm {value(found[-1], 'gradient_norm'):.3g}"
    return Finding("diverged", found[0]["step"], saw, "--learning-rate", "start again with half of it")


def exploding_gradient(entries: Sequence[Entry]) -> Finding | None:
    """The gradient has grown far beyond what it was."""
    norms = values(entries, "gradient_norm")
    if len(norms) < 2 * LINES + 1:
        return None
    usual = statistics.median(norms[:-LINES])
    found = lasting(entries, lambda entry: value(entry, "gradient_norm") >= EXPLODED * max(usual, DEAD_GRADIENT))
    if not found:
        return None
    return Finding(
        "exploding gradient",
        found[0]["step"],
        f"gradient norm {value(found[-1], 'gradient_norm'):.3g}, was {usual:.3g}, {_last(found)}",
        "--learning-rate",
        "start again with half of it; clipping bounds the length of a step, not the harm of its direction",
    )


def loss_spikes(entries: Sequence[Entry]) -> Finding | None:
    """The loss jumps up again and again, and recovers."""
    recent = [entry for entry in entries[-SPIKE_WINDOW:] if "skill" in entry]
    skills = [value(entry, "skill") for entry in recent]
    spikes = []
    for place in range(SPIKE_BEFORE, len(skills) - 1):
        before = skills[place - SPIKE_BEFORE : place]
        level = statistics.median(before)
        scatter = statistics.median(abs(skill - level) for skill in before)
        drop = level - skills[place]
        if drop >= max(SPIKE_DROP, SPIKE_SCATTER * scatter) and skills[place + 1] > level - drop / 2:
            spikes.append((recent[place]["step"], drop))
    if len(spikes) < SPIKES:
        return None
    deepest = max(drop for _, drop in spikes)
    return Finding(
        "loss spikes",
        spikes[0][0],
        f"{len(spikes)} spikes in {len(recent)} lines, the largest costing {deepest:.2f} of skill",
        "--learning-rate",
        "half of it in the next run",
        hopeless=False,
    )


def dead_gradient(entries: Sequence[Entry]) -> Finding | None:
    """Nothing is learned because nothing flows back."""

    def dead(entry: Entry) -> bool:
        return value(entry, "gradient_norm") <= DEAD_GRADIENT and value(entry, "skill") < CONVERGED_SKILL

    found = lasting(after_warmup(entries), dead, steps=DEAD_STEPS)
    if not found:
        return None
    return Finding(
        "dead gradient",
        found[0]["step"],
        f"gradient norm {value(found[-1], 'gradient_norm'):.3g}, {_last(found)}",
        "--learning-rate",
        "start again with half of it; if it is 0 from the first step, a part is frozen or multiplied by 0",
    )


def plateau(entries: Sequence[Entry]) -> Finding | None:
    """The loss is that of the trivial guess, and stays there. Gains below the trivial guess are none."""
    rates = values(entries, "learning_rate")
    spent = bool(rates) and rates[-1] < SPENT_RATE * max(rates)
    steps = SPENT_PLATEAU_STEPS if spent else PLATEAU_STEPS
    found = lasting(after_warmup(entries), lambda entry: value(entry, "skill") < CHANCE_SKILL, steps=steps)
    if not found or gain(found, "skill", floor=0.0) >= PLATEAU_GAIN:
        return None
    return Finding(
        "stuck at the trivial guess",
        found[0]["step"],
        f"{_last(found)}, where knowing nothing gives {value(found[-1], 'reference'):.3f}",
        "--learning-rate",
        "start again with a third of it; too high a rate keeps a network at averages",
    )


def overfitting(entries: Sequence[Entry]) -> Finding | None:
    """Training skill rises while validation skill falls."""
    measured = [entry for entry in entries if not math.isnan(value(entry, "val_skill"))]
    if not measured:
        return None
    best = max(measured, key=lambda entry: value(entry, "val_skill"))
    top = value(best, "val_skill")
    worse = lasting(measured, lambda entry: value(entry, "val_skill") <= top - OVERFIT, lines=VALIDATIONS)
    won = value(measured[-1], "skill") - value(best, "skill")
    if not worse or not won >= OVERFIT:
        return None
    return Finding(
        "overfitting",
        best["step"],
        f"val_skill fell from {top:.3f} to {value(worse[-1], 'val_skill'):.3f} while skill rose by {won:.3f}",
        "--steps",
        f"{best['step']}, or give more data; validation was best there",
    )


def slow_loader(entries: Sequence[Entry]) -> Finding | None:
    """The device waits for data. The first line is left out: processes that read are started in it."""
    found = lasting(entries[1:], lambda entry: value(entry, "data_wait") >= STARVED, lines=STARVED_LINES)
    if not found:
        return None
    share = statistics.fmean(values(found, "data_wait"))
    return Finding(
        "waiting for data",
        found[0]["step"],
        f"{share:.0%} of the time went into waiting: training could be {1 / max(1 - share, 0.01):.1f} times as fast",
        "--workers",
        "twice as many, up to the number of cores; --resume takes it up",
        hopeless=False,
    )


STATES = (not_finite, collapse_a, few_codes, collapse_c, collapse_b, vanishing_variance, diverged, exploding_gradient,
          loss_spikes, dead_gradient, plateau)  # fmt: skip
"""The most particular first: what learning looks like is told by one of them, because the later ones follow from it."""

BESIDE = (overfitting, slow_loader)
"""These are told beside it."""


def diagnose(entries: Sequence[Entry]) -> list[Finding]:
    """All that is wrong at the last line of a journal; nothing for a healthy run."""
    state = next((finding for check in STATES if (finding := check(entries))), None)
    return [finding for finding in (state, *(check(entries) for check in BESIDE)) if finding]


class Watch:
    """Follows a run line by line and tells each finding once, also where the run is interrupted and resumed."""

    KEPT = 200
    """Newest lines that are all kept. Every second of those before is dropped from time to time, so that a line costs
    about the same however long the run; validations stay."""

    def __init__(self, entries: Sequence[Entry] = ()) -> None:
        """``entries``: what the journal holds already."""
        self.entries = list(entries)
        self.told = {name for entry in entries for name in entry.get("findings", ())}

    def look(self, entry: Entry) -> list[Finding]:
        """What is new with this line."""
        self.entries.append(entry)
        if len(self.entries) > 2 * self.KEPT:
            old = self.entries[: -self.KEPT]
            thinned = [entry for place, entry in enumerate(old) if place % 2 == 0 or "val_skill" in entry]
            self.entries[: -self.KEPT] = thinned
        new = [finding for finding in diagnose(self.entries) if finding.name not in self.told]
        self.told |= {finding.name for finding in new}
        return new


def _last(entries: Sequence[Entry]) -> str:
    """Loss and skill of the newest line."""
    return f"loss {value(entries[-1], 'loss'):.4g}, skill {value(entries[-1], 'skill'):.3f}" if entries else "nothing"
