"""Wall time shared out among the steps of something long, and a record of what is done of it, so that it can go on."""

import itertools
import json
import shutil
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from sweep import train

from mmssl.config import read_json
from mmssl.errors import INTERRUPTED, UserError
from mmssl.predictors import load_predictor
from mmssl.terminal import tell
from mmssl.training.checkpoint import replace_file
from mmssl.training.journal import read_journal
from mmssl.training.run import RunFolder

TIMED = 5
"""Steps of a timed run."""


class Pace(NamedTuple):
    """How long a recipe takes."""

    step_seconds: float
    """An optimizer step."""
    other_seconds: float
    """Everything else of a run: start, validations, pictures, saving."""
    parameters: int
    """Of its predictor, those that are trained."""

    def steps(self, seconds: float) -> int:
        """How many fit into so many seconds of wall time; below 1 where nothing does."""
        return int((seconds - self.other_seconds) / self.step_seconds)


def measure(
    recipe: ModuleType,
    run: Path,
    flags: Sequence[str],
    *,
    validations: int,
    after: Callable[[Path], object] | None = None,
) -> Pace:
    """Time a few steps of a recipe, a validation, and all the rest of a run that will validate so many times.

    The rest includes ``after(run)``. The first step is left out: it waits for workers and memory. ``run`` is removed
    afterwards.
    """
    shutil.rmtree(run, ignore_errors=True)
    began = time.perf_counter()
    train(recipe, run, [*flags, "--steps", str(TIMED), "--log-every", "1", "--validate-every", str(TIMED)])
    if after:
        after(run)
    wall = time.perf_counter() - began
    entries = read_journal(run / "journal.jsonl")
    seconds = [entry["seconds"] for entry in entries]
    # the journal rounds to milliseconds, so tiny steps may take no time at all
    step = max(1e-4, statistics.median(late - early for early, late in itertools.pairwise(seconds)))
    trained = [each.numel() for each in load_predictor(run).parameters() if each.requires_grad]
    shutil.rmtree(run)
    other = wall - step * TIMED + (validations - 1) * entries[-1]["validation_seconds"]
    return Pace(step, max(0.0, other), sum(trained))


def finished(run: Path) -> bool:
    """Whether a run folder holds a run that came to its last step."""
    file = run / "config.json"
    return file.is_file() and read_json(file)["config"]["steps"] in RunFolder(run).checkpoints.steps()


class Ledger:
    """What of a long command is done, what failed, and how long all its calls took: a JSON file.

    The same command goes on where it was; with other settings it is refused, because what is done would not fit.
    """

    def __init__(self, file: Path, asked: Mapping[str, Any]) -> None:
        self.file, self.asked = file, json.loads(json.dumps(asked, default=str))
        saved = read_json(file) if file.is_file() else {"asked": self.asked}
        for name, value in self.asked.items():
            before = saved["asked"].get(name)
            if before != value:
                raise UserError(
                    f"{file.parent} was begun with --{name.replace('_', '-')} {_words(before)}, now it is "
                    f"{_words(value)}: give the same, or choose another --out"
                )
        self.done: dict[str, Any] = saved.get("done", {})
        self.failed: dict[str, str] = saved.get("failed", {})
        """Why, by what was tried; tried again at the next call."""
        self._before, self._began = saved.get("seconds", 0.0), time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of all calls up to now."""
        return self._before + time.monotonic() - self._began

    def save(self) -> None:
        """Write the file."""
        state = {"asked": self.asked, "seconds": round(self.seconds, 1), "done": self.done, "failed": self.failed}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.file, json.dumps(state, indent=2) + "\n")

    def do(self, name: str, work: Callable[[], Any]) -> bool:
        """Do something once: what it returns is kept under ``name``. Whether it is done.

        Where it fails, that is said and noted, and the caller goes on; being stopped goes through.
        """
        if name in self.done:
            return True
        tell(f"\n== {name}  ({self.seconds / 60:.1f} min)")
        try:
            self.done[name] = work()
            self.failed.pop(name, None)
        except UserError as error:
            self._fail(name, str(error))
        except SystemExit as stop:
            if stop.code in (0, INTERRUPTED):
                raise
            self._fail(name, f"exit code {stop.code}: its message stands above")
        except Exception as error:  # a bug of ours in one part is to cost that part, not hours of the others
            traceback.print_exc()
            self._fail(name, f"{type(error).__name__}: {error}")
        finally:
            self.save()
        return name in self.done

    def _fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason
        tell(f"failed: {name}: {reason}", file=sys.stderr)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
