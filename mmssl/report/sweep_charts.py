"""Sweeps as charts: what was learned against a flag, with bands over seeds."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence

from mmssl.evaluation.probe_results import PRETRAINED
from mmssl.report import numbers
from mmssl.report.charts import Chart, Line, baselines_of
from mmssl.report.gather import Run, Sweep, read_probes
from mmssl.report.numbers import Cell, Number, Table
from mmssl.report.probe_charts import deep_feature, label_name
from mmssl.report.words import BASELINES, words_of
from mmssl.training.finding import Entry

Places = Mapping[str, float]


def sweep_charts(sweeps: Sequence[Sweep], runs: Sequence[Run]) -> list[Chart]:
    """A chart of the skill a flag, in the order in which flags come up, and one of probes where runs were probed."""
    charts = []
    for flag in dict.fromkeys(sweep.flag for sweep in sweeps):
        group = [sweep for sweep in sweeps if sweep.flag == flag]
        colours = _colours(group, runs)
        charts.append(_skill_chart(flag, group, colours))
        charts += _probe_charts(flag, group, colours)
    return charts


def _colours(group: Sequence[Sweep], runs: Sequence[Run]) -> list[int]:
    """Of the run with the same predictor, where one is shown; each once, then others."""
    by_kind = {run.kind: run.colour for run in reversed(runs)}
    spare = itertools.count(len(runs))
    return [by_kind.pop(sweep.kind) if sweep.kind in by_kind else next(spare) for sweep in group]


def places_of(group: Sequence[Sweep]) -> Places:
    """Where each value stands on the axis: numbers at themselves, anything else in order."""
    values = list(dict.fromkeys(value for sweep in group for value in sweep.results))
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(place) for place, value in enumerate(values)}


def shown_value(flag: str, value: str) -> str:
    """A value of a flag for people: fractions in per cent."""
    return f"{100 * float(value):.3g} %" if flag.endswith("fraction") else value


def _skill_chart(flag: str, group: Sequence[Sweep], colours: Sequence[int]) -> Chart:
    places, lines, rows, best = places_of(group), [], [], []
    for sweep, colour in zip(group, colours, strict=True):
        line = _line(sweep, places, colour, _named(sweep), lambda entry: entry["val_skill"], "val_skill")
        lines.append(line)
        means = dict(zip(_in_order(sweep, places), line.y, strict=True))
        rows += [
            [_named(sweep), shown_value(flag, value), mean, *_range(sweep, value)] for value, mean in means.items()
        ]
        highest = max(means, key=lambda value: means[value].value)
        best.append(f"{_named(sweep)} at {shown_value(flag, highest)}")
        for name in _common_baselines(sweep):
            what = f"{words_of(sweep.kind).modality}: {BASELINES.get(name, name)}"
            formula = f"1 - val_reference_{name} / val_reference"
            lines.append(
                _line(sweep, places, colour, what, lambda entry, name=name: baselines_of(entry)[name], formula, "--")
            )
    return Chart(
        f"sweep-{flag}", f"Skill against {_words(flag)}",
        f"Each dot is the mean of the runs at one value, the band reaches from the lowest seed to the highest. "
        f"Highest: {'; '.join(best)}. {' '.join(dict.fromkeys(_validated(sweep) for sweep in group))}".strip(),
        _words(flag), "validation skill, last step", lines,
        Table(["sweep", _words(flag), "mean skill", "lowest", "highest", "seeds"], rows),
        [sweep.command for sweep in group], ticks=_ticks(flag, places), floor=(0.0, "trivial guess"),
    )  # fmt: skip


def _line(
    sweep: Sweep, places: Places, colour: int, name: str, read: Callable[[Entry], float], key: str, dash: str = "-"
) -> Line:
    """The mean over seeds at each value, and the band."""
    values = _in_order(sweep, places)
    found = {value: [read(entry) for entry in sweep.results[value]] for value in values}
    means = [
        numbers.skill(statistics.fmean(found[value]), f"{sweep.name}/sweep.json, {value}: mean of {key}")
        for value in values
    ]
    low, high = ([function(found[value]) for value in values] for function in (min, max))
    return Line(name, colour, [places[value] for value in values], means, low, high, dash, "" if dash == "--" else "o")


def _in_order(sweep: Sweep, places: Places) -> list[str]:
    return sorted(sweep.results, key=places.__getitem__)


def _range(sweep: Sweep, value: str) -> list[Number]:
    found = [entry["val_skill"] for entry in sweep.results[value]]
    where = f"{sweep.name}/sweep.json, {value}: "
    return [
        numbers.skill(min(found), where + "lowest val_skill"),
        numbers.skill(max(found), where + "highest val_skill"),
        numbers.count(len(found), where + "number of seeds"),
    ]


def _common_baselines(sweep: Sweep) -> list[str]:
    entries = [entry for entries in sweep.results.values() for entry in entries]
    return [name for name in baselines_of(entries[0]) if all(name in baselines_of(entry) for entry in entries)]


def _validated(sweep: Sweep) -> str:
    said = words_of(sweep.kind).validated
    return f"{words_of(sweep.kind).modality.capitalize()}: {said[0].lower()}{said[1:]}" if said else ""


def _named(sweep: Sweep) -> str:
    modality = words_of(sweep.kind).modality
    return sweep.name if modality in (sweep.name, "other") else f"{modality} ({sweep.name})"


def _words(flag: str) -> str:
    return flag.replace("-", " ")


def _ticks(flag: str, places: Places) -> dict[str, float]:
    return {shown_value(flag, value): place for value, place in places.items()}


Found = dict[str, list[tuple[float, str]]]
"""Accuracies of the seeds and the files that say so, by value of the flag."""


def _probe_charts(flag: str, group: Sequence[Sweep], colours: Sequence[int]) -> list[Chart]:
    """Accuracy of linear probes with all labels against the flag, a chart a label."""
    places = places_of(group)
    lines: dict[str, list[Line]] = {}
    rows: dict[str, list[list[Cell]]] = {}
    for sweep, colour in zip(group, colours, strict=True):
        for label, found in _probed(sweep, places).items():
            line = _accuracy_line(_named(sweep), colour, found, places)
            lines.setdefault(label, []).append(line)
            rows.setdefault(label, []).extend(
                [_named(sweep), shown_value(flag, value), mean] for value, mean in zip(found, line.y, strict=True)
            )
    return [
        Chart(
            f"sweep-{flag}-{label}", f"Telling {label} apart, against {_words(flag)}",
            "Linear probes with all labels on the frozen representation of each run: what was learned, on one scale "
            "however hard the task was.",
            _words(flag), "test accuracy in %", found, Table(["sweep", _words(flag), "accuracy"], rows[label]),
            [sweep.command for sweep in group], ticks=_ticks(flag, places), scale=100,
        )
        for label, found in lines.items()
    ]  # fmt: skip


def _accuracy_line(name: str, colour: int, found: Found, places: Places) -> Line:
    shares = [[share for share, _ in each] for each in found.values()]
    sources = [f"mean of {', '.join(file for _, file in each)}" for each in found.values()]
    means = [numbers.percent(statistics.fmean(each), source) for each, source in zip(shares, sources, strict=True)]
    return Line(name, colour, [places[value] for value in found], means, list(map(min, shares)), list(map(max, shares)))


def _probed(sweep: Sweep, places: Places) -> dict[str, Found]:
    """By label."""
    found: dict[str, Found] = {}
    for value in _in_order(sweep, places):
        for seed in range(len(sweep.results[value])):
            folder = sweep.run(value, seed)
            for probe in read_probes(folder, f"{sweep.name}/{folder.name}")[0]:
                feature = deep_feature(probe.report, PRETRAINED)
                if feature is not None:
                    result = probe.report.find(PRETRAINED, feature, "linear")
                    found.setdefault(label_name(probe), {}).setdefault(value, []).append((result.mean, probe.file))
    return found
