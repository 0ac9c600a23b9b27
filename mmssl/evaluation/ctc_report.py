"""What a CTC head got wrong, for the eye and for other programs."""

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmssl.evaluation.probe_results import PRETRAINED, RAW
from mmssl.terminal import plain

if TYPE_CHECKING:
    from rich.console import Console

Unit = Literal["words", "characters"]


@dataclass(frozen=True)
class CtcReport:
    """Error rates on the test part."""

    unit: Unit
    """What an error is one of."""
    tokens: int
    """Different ones, without the blank."""
    train_samples: int
    test_samples: int
    errors: Mapping[str, tuple[float, ...]]
    """By representation, one a seed: edits over the length of the truth; above 1 is possible."""
    empty: float
    """Of saying nothing at all: 1 by definition, and what CTC begins with."""
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def print_ctc_report(report: CtcReport, console: "Console | None" = None) -> None:
    """A row a representation, error rates in per cent."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"Error rate in % at transcribing by {report.unit} ({report.tokens} different), CTC head on frozen frames"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), title_justify="left")
    table.add_column("")
    table.add_column(f"{report.train_samples:,} recordings", justify="right")
    names = {RAW: "log-mel frames"}
    for name, rates in report.errors.items():
        spread = f" ± {100 * statistics.stdev(rates):.1f}" if len(rates) > 1 else ""
        style = "bold" if name == PRETRAINED else None
        table.add_row(names.get(name, name), f"{100 * statistics.fmean(rates):.1f}{spread}", style=style)
    console = console or Console()
    console.print(table)
    seeds = len(next(iter(report.errors.values())))
    spread = f"±: standard deviation over {seeds} seeds. " if seeds > 1 else "One seed: no spread is known. "
    first = f"Saying nothing: {100 * report.empty:.0f}. {spread}{report.test_samples:,} test recordings."
    console.print(plain("\n".join([first, *report.notes])), style="dim")


def save_ctc_report(report: CtcReport, folder: Path) -> Path:
    """Write ``ctc.json``; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "ctc.json"
    file.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    return file
