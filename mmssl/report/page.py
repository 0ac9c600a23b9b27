"""The page: one HTML file with everything in it, made of run folders and sweep folders."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmssl import __version__
from mmssl.config import command_line
from mmssl.errors import UserError
from mmssl.report import charts, drawing, numbers
from mmssl.report.gather import Absent, Run, Sweep, read_runs, read_sweeps
from mmssl.report.media import show_run, show_sweep
from mmssl.report.numbers import Number, Table
from mmssl.report.probe_charts import budget_chart, probe_bars
from mmssl.report.sweep_charts import sweep_charts
from mmssl.report.sync_tables import sync_tables
from mmssl.report.words import words_of
from mmssl.training.checkpoint import replace_file

LARGEST = 10_000_000
"""Bytes of a page: what a mail takes, and a browser opens at once."""
MOMENTS = (6, 3, 1)
"""Places of each slider; fewer where the page would be too large otherwise."""
COUNTS = ("no", "one", "two", "three", "four", "five", "six")
MAIN_SETTINGS = ("data", "preset", "steps", "batch_size", "learning_rate", "mask_fraction", "precision", "seed")


def write_report(runs: Sequence[Path], out: Path, *, sweeps: Sequence[Path] = (), title: str | None = None) -> Path:
    """Write ``out``, one HTML file about ``runs`` and ``sweeps`` (folders that recipes/sweep.py wrote); returns it.

    Every number is read from their files. What is missing, not finished, failed or of another version is said on the
    page, and the rest is shown. Raises UserError where nothing can be shown at all, and where ``out`` is a folder.
    """
    if out.is_dir():
        raise UserError(f"{out} is a folder: name the page, such as {out / 'report.html'}")
    found, absent = read_runs(runs)
    swept, unfinished = read_sweeps(sweeps)
    if not found and not swept:
        reasons = "; ".join(each.reason for each in [*absent, *unfinished]) or "no run was given"
        raise UserError(f"there is nothing to show: {reasons}")
    context = _context(found, swept, [*absent, *unfinished], title)
    context["command"] = command_line("mmssl", "compare", *runs, sweep=list(sweeps) or None, out=out)
    page = ""
    for most in MOMENTS:
        shows = [show_run(run, most) for run in found] + [show_sweep(sweep, most) for sweep in swept]
        page = _render(context | {"shows": [show for show in shows if show], "shortened": most < MOMENTS[0]})
        if len(page.encode()) < LARGEST:
            break
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_file(out, page)
    return out


def _render(context: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"draw": drawing.draw, "NARROW": drawing.NARROW, "variable": drawing.variable}
    return environment.get_template("page.html.jinja").render(context)


def _context(
    runs: Sequence[Run], sweeps: Sequence[Sweep], absent: Sequence[Absent], title: str | None
) -> dict[str, Any]:
    """Everything that the template shows, but for pictures and sounds."""
    kinds = list(dict.fromkeys([*(run.kind for run in runs), *(sweep.kind for sweep in sweeps)]))
    tables, notes = sync_tables(runs)
    return {
        "title": title or _title(kinds),
        "version": __version__,
        "cards": [_card(run) for run in runs],
        "absent": absent,
        "notes": notes,
        "over_time": charts.skill_over_time(runs),
        "sweeps": sweep_charts(sweeps, runs),
        "bars": [bars for bars in (charts.beyond_neighbours(runs), charts.between_senses(runs)) if bars],
        "tables": tables,
        "probe_bars": probe_bars(runs),
        "budgets": [chart for run in runs for probe in run.probes if (chart := budget_chart(run, probe))],
        "probe_notes": [(probe.file, note) for run in runs for probe in run.probes for note in probe.report.notes],
        "unprobed": [run.name for run in runs if not run.probes],
        "kinds": [(kind, words_of(kind)) for kind in kinds],
        "settings": _settings(runs, MAIN_SETTINGS),
        "all_settings": _settings(runs, _all_names(runs)),
        "commands": charts.commands_of(runs) + [sweep.command for sweep in sweeps],
    }  # fmt: skip


def _title(kinds: Sequence[str]) -> str:
    modalities = {words_of(kind).modality for kind in kinds} - {"other"}
    if len(modalities) > 1:
        return f"One principle, {COUNTS[len(modalities)]} modalities"
    return "Perturb, and predict back"


def _card(run: Run) -> dict[str, Any]:
    """A run in short."""
    last = run.journal[-1]
    seconds = last.get("seconds")
    time: Number | None = None
    if isinstance(seconds, int | float):
        time = numbers.duration(seconds, run.source("seconds", last))
    return {
        "run": run, "words": words_of(run.kind), "skill": charts.final_skill(run), "time": time,
        "step": numbers.count(last["step"], run.source("step", last)),
    }  # fmt: skip


def _all_names(runs: Sequence[Run]) -> list[str]:
    return sorted({name for run in runs for name in run.settings} - {"out", "resume"})


def _settings(runs: Sequence[Run], names: Iterable[str]) -> Table:
    """A row a setting, a column a run."""
    rows = [
        [name.replace("_", " "), *(_plain(run.settings[name]) if name in run.settings else "" for run in runs)]
        for name in names
        if any(name in run.settings for run in runs)
    ]
    rows += [
        [f"samples, {part}", *(_plain(run.saved.get("data", {}).get(key, "")) for run in runs)]
        for key, part in (("train", "training"), ("val", "validation"))
    ]
    rows.append(["mmssl", *(str(run.saved.get("versions", {}).get("mmssl", "")) for run in runs)])
    return Table(["", *(run.name for run in runs)], rows)


def _plain(value: Any) -> str:
    """A setting as it would be typed."""
    if value is None:
        return "by preset"
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
