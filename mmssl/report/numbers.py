"""Numbers that know where they come from, so that nothing on the page is typed in and a reader can check each."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Cell = Any
"""What a table holds: a word or a :class:`Number`."""


@dataclass(frozen=True)
class Number:
    """A value, how it is written, and the file and key that it was read from (or the formula over keys)."""

    value: float | int
    text: str
    source: str

    def __html__(self) -> str:
        """As HTML's ``data`` element: the full value for machines, the source on hovering."""
        escaped = html.escape(self.source)
        return f'<data value="{self.value!r}" title="{escaped}">{html.escape(self.text)}</data>'

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the first cell of a row names it."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def skill(value: float | int, source: str) -> Number:
    """1 - loss / reference, with three decimals."""
    return Number(value, f"{value:.3f}".replace("-", "\N{MINUS SIGN}"), source)


def percent(value: float | int, source: str, std: float | None = None) -> Number:
    """A share in per cent, with its standard deviation where there is one."""
    spread = "" if std is None else f" ± {100 * std:.1f}"
    return Number(value, f"{100 * value:.1f}{spread} %", source)


def count(value: int, source: str) -> Number:
    """A whole number."""
    return Number(value, f"{value:,}", source)


def duration(seconds: float | int, source: str) -> Number:
    """Seconds as people say them."""
    if seconds < 100:
        return Number(seconds, f"{seconds:.0f} s", source)
    minutes = seconds / 60
    return Number(seconds, f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h", source)
