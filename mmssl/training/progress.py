"""What a person sees of a run: a live bar on a terminal, plain lines elsewhere."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 15.0
"""Between lines of progress of scripts that make data ready, where there is no terminal."""
SHOWN = ("loss", "skill", "samples_per_second", "data_wait")


def _format(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if name == "data_wait":
        return f"{value:.0%}"
    if name == "learning_rate":
        return f"{value:.2e}"
    return f"{value:.0f}" if name == "samples_per_second" else f"{value:.4f}"


def describe(entry: dict[str, Any]) -> str:
    """A journal entry as one line."""
    titles = {"samples_per_second": "samples/s", "data_wait": "waiting for data"}
    names = [name for name in SHOWN if name in entry]
    names += [name for name in entry if name == "val_loss" or name.startswith(("val_skill", "val_shift"))]
    return "  ".join(f"{titles.get(name, name)} {_format(name, entry[name])}" for name in names)


class Display:
    """Shows journal entries. Use as a context manager."""

    def __init__(self, steps: int, done: int) -> None:
        self.steps = steps
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        if self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TextColumn("left"))
            self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
            self.task = self.bar.add_task("starting", total=steps, completed=done)

    def __enter__(self) -> "Display":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, step: int) -> None:
        """A step is done."""
        if self.bar:
            self.bar.update(self.task, completed=step)

    def show(self, entry: dict[str, Any], seconds_left: float) -> None:
        """A journal line was written. Validation lines stay on the screen, others update the bar."""
        line = describe(entry)
        if self.bar:
            self.bar.update(self.task, description=describe({n: v for n, v in entry.items() if n in SHOWN}))
        if not self.bar or "val_loss" in entry:
            minutes, seconds = divmod(round(seconds_left), 60)
            left = "" if self.bar else f"  left {minutes}:{seconds:02d}"
            self.say(f"step {entry['step']}/{self.steps}  {line}{left}")

    def say(self, text: str) -> None:
        """A line for the person, above the bar."""
        self.console.print(text, markup=False)
