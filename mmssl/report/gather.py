"""What is in run folders and sweep folders, read as far as it can be read."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmssl import __version__
from mmssl.config import parse_json, read_json
from mmssl.errors import UserError
from mmssl.evaluation.probe_results import ProbeReport, ProbeResult
from mmssl.training.doctor import examine
from mmssl.training.finding import Entry, Finding
from mmssl.training.journal import read_journal
from mmssl.training.run import RunFolder


@dataclass(frozen=True)
class Absent:
    """A run or sweep that cannot be shown, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Probe:
    """What a probe of a run found, and the file that says so."""

    file: str
    report: ProbeReport


@dataclass(frozen=True)
class Run:
    """A run folder with at least one line in its journal."""

    name: str
    folder: Path
    colour: int
    """Place among the runs shown, which decides its colour on the whole page."""
    saved: Mapping[str, Any]
    """config.json; empty where there is none."""
    journal: Sequence[Entry]
    state: str
    findings: Sequence[Finding]
    probes: Sequence[Probe]
    notes: Sequence[str]
    """What is odd about the run, in sentences."""

    @property
    def kind(self) -> str:
        """Name of the predictor; ``unknown`` where config.json does not say."""
        return str(self.saved.get("predictor", {}).get("predictor", "unknown"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Flags."""
        return self.saved.get("config", {})

    @property
    def validations(self) -> list[Entry]:
        """Lines of the journal with a validation."""
        return [entry for entry in self.journal if is_number(entry.get("val_skill"))]

    def source(self, key: str, entry: Entry) -> str:
        """Where a number of the journal stands."""
        return f"{self.name}/journal.jsonl, step {entry['step']}: {key}"


@dataclass(frozen=True)
class Sweep:
    """A recipe, once for every value of a flag and every seed."""

    name: str
    folder: Path
    recipe: str
    flag: str
    flags: Sequence[str]
    results: Mapping[str, Sequence[Entry]]
    """The last validation of each seed, by value."""
    kind: str
    """Name of the predictor."""

    @property
    def command(self) -> str:
        """What was typed, as far as sweep.json tells."""
        values = " ".join(f'"{value}"' if " " in value else value for value in self.results)
        seeds = max(len(entries) for entries in self.results.values())
        return (
            f"python recipes/sweep.py {self.recipe} --out {self.folder} --flag {self.flag} --values {values} "
            f"--seeds {seeds} -- {' '.join(map(str, self.flags))}".removesuffix(" -- ")
        )

    def run(self, value: str, seed: int = 0) -> Path:
        """Folder of one run."""
        return run_of_sweep(self.folder, self.flag, value, seed)


def run_of_sweep(folder: Path, flag: str, value: str, seed: int) -> Path:
    """Where recipes/sweep.py puts a run."""
    return folder / f"{flag}-{value.replace(' ', '-')}-seed-{seed}"


def is_number(value: Any) -> bool:
    """Neither missing, nor null, nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def names_of(folders: Sequence[Path]) -> list[str]:
    """Short names that tell the folders apart: as many of their last parts as are needed."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max((len(part) for part in parts), default=0)):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(folder) for folder in folders]


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[Absent]]:
    """Runs in the order given, and those that are missing."""
    runs: list[Run] = []
    absent: list[Absent] = []
    for name, folder in zip(names_of(folders), folders, strict=True):
        try:
            runs.append(_read_run(name, folder, len(runs)))
        except UserError as error:
            absent.append(Absent(name, str(error)))
    return runs, absent


def _read_run(name: str, folder: Path, colour: int) -> Run:
    """Raises UserError where there is no journal, or nothing in it."""
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: train it, or correct its name")
    examination = examine(folder)
    run = RunFolder(folder)
    saved = read_json(run.config_file) if run.config_file.is_file() else {}
    journal = read_journal(run.journal_file)
    probes, odd = read_probes(folder, name)
    notes = [*_oddities(saved, journal), *odd]
    return Run(name, folder, colour, saved, journal, examination.state, examination.findings, probes, notes)


def _oddities(saved: Mapping[str, Any], journal: Sequence[Entry]) -> list[str]:
    notes = []
    version = saved.get("versions", {}).get("mmssl")
    if not saved:
        notes.append("It has no config.json, so its settings are unknown.")
    elif version != __version__:
        notes.append(f"It was made by mmssl {version or 'of an unknown version'}, this page by {__version__}.")
    last, steps = journal[-1], saved.get("config", {}).get("steps")
    if last.get("loss") is None:
        notes.append(f"It failed at step {last['step']:,}: the loss was no longer a finite number.")
    elif steps is not None and last["step"] < steps:
        notes.append(f"It is not finished: step {last['step']:,} of {steps:,}.")
    if not any(is_number(entry.get("val_skill")) for entry in journal):
        notes.append("It has not been validated yet.")
    return notes


def read_probes(folder: Path, name: str) -> tuple[list[Probe], list[str]]:
    """Every ``probe*.json`` that ``mmssl probe`` left below a run, one a label (the newest); and sentences on damaged
    ones."""
    found: dict[str | None, Probe] = {}
    notes = []
    for file in sorted(folder.rglob("probe*.json"), key=lambda file: file.stat().st_mtime):
        where = f"{name}/{file.relative_to(folder).as_posix()}"
        try:
            report = read_probe(file)
        except (UserError, KeyError, TypeError, ValueError):
            notes.append(f"{where} is not what this version of mmssl probe writes, and is left out.")
            continue
        found[report.label] = Probe(where, report)
    return sorted(found.values(), key=lambda probe: probe.report.label or ""), notes


def read_probe(file: Path) -> ProbeReport:
    """Back from what :meth:`ProbeReport.to_dict` gave."""
    data = read_json(file)
    fields = _fields(ProbeReport, data)
    fields["results"] = [ProbeResult(**_fields(ProbeResult, row)) for row in data["results"]]
    return ProbeReport(**fields)


def _fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(kind)}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in known}


def read_sweeps(folders: Sequence[Path]) -> tuple[list[Sweep], list[Absent]]:
    """Sweeps in the order given, and those that are missing or not finished."""
    folders = [line for folder in folders for line in _lines_of(folder)]
    sweeps: list[Sweep] = []
    absent: list[Absent] = []
    for name, folder in zip(names_of(folders), folders, strict=True):
        try:
            sweeps.append(_read_sweep(name, folder))
        except UserError as error:
            absent.append(Absent(f"sweep {name}", str(error)))
    return sweeps, absent


def _lines_of(folder: Path) -> list[Path]:
    """A sweep of two flags is a sweep of one in a folder for each value of the other (``--by``)."""
    try:
        data = parse_json((folder / "sweep.json").read_text(encoding="utf-8"))
        return [folder / f"{data['by']}-{other.replace(' ', '-')}" for other in data["lines"]]
    except (OSError, ValueError, KeyError, TypeError):
        return [folder]


def _read_sweep(name: str, folder: Path) -> Sweep:
    """Raises UserError where there is no finished sweep."""
    file = folder / "sweep.json"
    if not file.is_file():
        raise UserError(f"{file} does not exist: recipes/sweep.py writes it when all of its runs are done")
    data = read_json(file)
    try:
        results = {
            str(value): [entry for entry in entries if is_number(entry.get("val_skill"))]
            for value, entries in data["results"].items()
        }
        flag, recipe, flags = str(data["flag"]), str(data["recipe"]), list(data.get("flags", ()))
    except (KeyError, AttributeError, TypeError):
        raise UserError(f"{file} is not what recipes/sweep.py writes: run the sweep again") from None
    results = {value: entries for value, entries in results.items() if entries}
    if not results:
        raise UserError(f"{file} holds no validation: run the sweep again with more steps")
    return Sweep(name, folder, recipe, flag, flags, results, _kind_of(folder, flag, results))


def _kind_of(folder: Path, flag: str, values: Mapping[str, Any]) -> str:
    """The predictor of a sweep, from the first of its runs that says so."""
    for value in values:
        try:
            saved = parse_json((run_of_sweep(folder, flag, value, 0) / "config.json").read_text(encoding="utf-8"))
            return str(saved["predictor"]["predictor"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "unknown"
