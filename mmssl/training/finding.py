"""What the doctor says, and how checks read a journal."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Entry = Mapping[str, Any]
"""A line of the journal."""

LINES = 3
"""A state counts when this many journal lines in a row show it. A guess: one line may be chance, two a coincidence."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run."""

    name: str
    """What it is called; a run is told of each name once."""
    since: int
    """Step of the first journal line that shows it."""
    saw: str
    """The numbers."""
    flag: str
    """The one thing to change, with its dashes."""
    change: str
    """What to change it to, and why."""
    hopeless: bool = True
    """More training does not mend it: --stop-when-unhealthy ends the run."""

    def __str__(self) -> str:
        return f"{self.name}, since step {self.since}: {self.saw}. Change {self.flag}: {self.change}"


def value(entry: Entry, name: str) -> float:
    """A number of a journal line; nan where there is none, so that every comparison with it is false."""
    number = entry.get(name)
    return float(number) if isinstance(number, int | float) else math.nan


def values(entries: Sequence[Entry], name: str) -> list[float]:
    """The numbers of this name, lines without one left out."""
    return [number for entry in entries if not math.isnan(number := value(entry, name))]


def after_warmup(entries: Sequence[Entry]) -> Sequence[Entry]:
    """The lines after the one at which the learning rate is highest: none as long as it rises."""
    rates = [value(entry, "learning_rate") for entry in entries]
    known = [rate for rate in rates if not math.isnan(rate)]
    return entries[rates.index(max(known)) + 1 :] if known else ()


def lasting(
    entries: Sequence[Entry], holds: Callable[[Entry], bool], *, lines: int = LINES, steps: int = 0
) -> Sequence[Entry]:
    """The newest lines for which ``holds``, without interruption; none where they are too few or span too few steps."""
    first = len(entries)
    while first > 0 and holds(entries[first - 1]):
        first -= 1
    found = entries[first:]
    enough = len(found) >= lines and found[-1]["step"] - found[0]["step"] >= steps
    return found if enough else ()


def gain(entries: Sequence[Entry], name: str, floor: float = -math.inf) -> float:
    """By how much the best line of the second half is above the best of the first, both at least ``floor``.

    Nan for fewer than two numbers.
    """
    numbers = [max(number, floor) for number in values(entries, name)]
    half = len(numbers) // 2
    return max(numbers[half:]) - max(numbers[:half]) if half else math.nan
