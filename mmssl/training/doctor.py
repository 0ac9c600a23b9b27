"""``mmssl doctor``: the findings of a run folder, for a person."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.terminal import plain, printable
from mmssl.training.collapse import CHANCE_SKILL
from mmssl.training.finding import Entry, Finding, value
from mmssl.training.health import diagnose
from mmssl.training.journal import read_journal
from mmssl.training.progress import describe
from mmssl.training.run import RunFolder

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = ("val_skill", "accuracy", "code_perplexity", "gradient_norm")
"""Further figures of a run in one line, where its predictor has them."""


@dataclass(frozen=True)
class Examination:
    """What was found in a run folder."""

    run: Path
    settings: Mapping[str, Any]
    """The run's flags; empty where it has no config.json."""
    last: Entry
    """The newest line of the journal, with the newest validation."""
    findings: list[Finding]
    cut: bool
    """The journal ends within a line, which is left out."""

    @property
    def state(self) -> str:
        """How far the run is."""
        step, steps = self.last["step"], self.settings.get("steps")
        parts = [f"step {step:,}"]
        if isinstance(steps, int):  # a stranger's config.json may hold anything
            parts = [f"step {step:,} of {steps:,}", "finished" if step >= steps else "not finished"]
        return ", ".join(parts + ["last line cut"] * self.cut)


def examine(path: str | Path) -> Examination:
    """Read a run's journal and look for everything that :mod:`mmssl.training.health` knows.

    Raises UserError where there is no journal, where it is damaged, or where it has no line yet.
    """
    run = RunFolder(path)
    entries = read_journal(run.journal_file)
    settings = read_json(run.config_file).get("config") if run.config_file.is_file() else None
    settings = settings if isinstance(settings, dict) else {}
    if not entries:
        every = settings.get("log_every")
        first = f"its first line comes after {every} steps (--log-every)" if every else "its first line is yet to come"
        raise UserError(f"{run.journal_file} has no complete line: {first}; look again then")
    validation = next((entry for entry in reversed(entries) if "val_skill" in entry), {})
    last = {name: number for name, number in validation.items() if name.startswith("val_")} | entries[-1]
    cut = not run.journal_file.read_bytes().endswith(b"\n")
    return Examination(run.path, settings, last, diagnose(entries), cut)


def print_examination(examination: Examination, console: "Console | None" = None) -> None:
    """Print key figures, and each finding with the numbers, the step and the one thing to change."""
    from rich.console import Console

    console = console or Console(highlight=False)
    console.print(f"[bold]{plain(str(examination.run))}[/]  {examination.state}", soft_wrap=True)
    console.print(printable(_figures(examination.last)), markup=False, soft_wrap=True, style="dim")
    if not examination.findings:
        short = value(examination.last, "skill") < CHANCE_SKILL
        worry = "nothing to worry about" + (" yet, but the run is too short to tell" if short else "")
        console.print(f"[green]{worry}[/]")
    for finding in examination.findings:
        console.print(f"\n[bold red]{plain(finding.name)}[/], since step {finding.since:,}", soft_wrap=True)
        now = examination.settings.get(finding.flag.removeprefix("--").replace("-", "_"))
        known = "" if now is None else f" (now {plain(str(now))})"
        console.print(f"  saw     {finding.saw}", markup=False, soft_wrap=True)
        console.print(f"  change  [bold]{finding.flag}[/]{known}: {plain(finding.change)}", soft_wrap=True)


def _figures(entry: Entry) -> str:
    named = [f"{name} {entry[name]:.4g}" for name in FIGURES if isinstance(entry.get(name), float)]
    shown = {name: number for name, number in entry.items() if not name.startswith("val_") and number is not None}
    return "  ".join([describe(shown), *named])
