"""Train a recipe once for every value of a flag, or of two, at equal budget, and plot what was learned against it.

How much of a text should be hidden (Wettig et al. 2023, "Should You Mask 15% in Masked Language Modeling?")? And what
should stand there (Devlin et al. 2019, appendix C.2)? Each run is an ordinary run folder below --out; a sweep that was
interrupted goes on where it was. What follows ``--`` goes to the recipe.

    python recipes/sweep.py text_bert --out runs/fractions --flag mask-fraction --values 0.05 0.15 0.3 0.5 0.8 \\
        --seeds 3 -- --data texts/ --preset bert_tiny --steps 500
    python recipes/sweep.py text_bert --out runs/replacement --flag replacement --values "0.8 0.1 0.1" "1 0 0" \\
        "0 0.2 0.8" -- --data texts/ --preset bert_tiny --steps 500
    python recipes/sweep.py image_mae --out runs/samplers --flag mask-fraction --values 0.5 0.75 0.9 --by sampler \\
        --by-values random block --probe photos/ --label class -- --data photos/ --steps 500

Language models are validated on the same 15 % whatever they hide in training, so their skills compare. Masked
autoencoders are validated at their own mask fraction: there the curve says how hard the task is, not what was learned,
which a probe of the frozen encoder says (--probe).
"""

import importlib.util
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import tyro
from tyro.conf import Positional

from mmssl.errors import UserError, one_sentence_errors
from mmssl.evaluation.probe_results import PRETRAINED, last_layer
from mmssl.evaluation.runs import probe_run
from mmssl.terminal import tell
from mmssl.training.checkpoint import replace_file
from mmssl.training.journal import read_journal
from mmssl.training.run import parse_flags

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#1f5f8b", "#d1730f", "#4d7c3f", "#8a3f77", "#6b6b6b")
"""A line each; told apart in grey by their markers."""
MARKERS = ("o", "s", "^", "D", "v")
SKILL, ACCURACY = "val_skill", "probe"
"""Keys of what is drawn."""

Line = dict[str, list[dict[str, float]]]
"""What the last validation of every run measured, by value; a run a seed."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a recipe once for every value of a flag and plot the skill against it."""

    recipe: Positional[str]
    """Name of a script beside this one, such as text_bert."""
    out: Path
    """Folder for the runs, sweep.json and sweep.png."""
    flag: str
    """Flag of the recipe that changes, without its dashes."""
    values: tuple[str, ...]
    """Its values; one with several numbers in quotes."""
    by: str | None = None
    """Another flag that changes too: every value of the one with every value of the other."""
    by_values: tuple[str, ...] = ()
    """Its values: a line in the figure each."""
    seeds: int = 1
    """Runs of each value, with seeds 0, 1, ...: from two on the figure has bands of one standard deviation."""
    probe: str | None = None
    """Labelled data: also a linear probe of every run, with all labels."""
    label: str | None = None
    """Which label is told, where there are several."""

    def __post_init__(self) -> None:
        if len(self.values) < 2 or self.seeds < 1:
            raise UserError("a sweep needs at least two --values and one of --seeds")
        if bool(self.by) != bool(self.by_values) or self.by == self.flag:
            raise UserError("--by names another flag than --flag, and --by-values its values: give both or neither")


def load_recipe(name: str) -> ModuleType:
    """The recipe as a module."""
    folder = Path(__file__).parent
    file = folder / f"{name.removesuffix('.py')}.py"
    known = sorted(
        path.stem
        for path in folder.glob("*.py")
        if "\ndef pretrain(config: Config)" in path.read_text(encoding="utf-8")
    )  # beside the recipes there is what some of them share, and what runs several of them
    if file.stem not in known:
        raise UserError(f"there is no recipe {name}: choose one of {', '.join(known)}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def train(recipe: ModuleType, run: Path, flags: Sequence[str]) -> dict[str, float]:
    """Train, or go on where there is a checkpoint; returns the last line of the journal."""
    started = (run / "checkpoints").is_dir() and any((run / "checkpoints").iterdir())
    recipe.pretrain(parse_flags(recipe.Config, [*flags, "--out", str(run), *(["--resume"] if started else [])]))
    return read_journal(run / "journal.jsonl")[-1]


def probed(run: Path, data: str, label: str | None) -> float:
    """Accuracy of a linear probe of a run with all labels, from its probe.json where there is one."""
    folder = run / "probe"
    found = next(iter(sorted(folder.glob("probe*.json"))), None)
    if found is None:
        probe_run(run, data, (label,), folder, baselines=False, labels=(), finetune_labels=(), by_layer=False, seeds=1)
        (found,) = folder.glob("probe*.json")
    report = json.loads(found.read_text(encoding="utf-8"))
    linear = [each for each in report["results"] if (each["representation"], each["method"]) == (PRETRAINED, "linear")]
    feature = last_layer([each["feature"] for each in linear])
    return next(each["mean"] for each in linear if each["feature"] == feature)


def sweep(config: Config, rest: Sequence[str]) -> Path:
    """Run everything; returns the figure. What it shows is in sweep.json beside it.

    With --by every line is a sweep of its own, in a folder below --out.
    """
    for flag in ("out", "seed", config.flag, config.by):
        if f"--{flag}" in rest:
            raise UserError(f"--{flag} is what the sweep itself sets: leave it out behind --")
    described = {"recipe": config.recipe, "flag": config.flag, "flags": list(rest)}
    if config.by:
        lines = {}
        for other, folder in zip(config.by_values, folders(config), strict=True):
            tell(f"\n--{config.by} {other}")
            line = replace(config, out=folder, by=None, by_values=())
            lines[other] = trained(line, [*rest, f"--{config.by}", *other.split()])
            write(line, {"": lines[other]}, described | {"flags": [*rest, f"--{config.by}", *other.split()]})
        return write(config, lines, described)
    return write(config, {"": trained(config, rest)}, described)


def folders(config: Config) -> list[Path]:
    """Where the sweeps are that sweep.json tells of: a line each."""
    return [config.out / f"{config.by}-{other.replace(' ', '-')}" for other in config.by_values] or [config.out]


def trained(config: Config, rest: Sequence[str]) -> Line:
    """What the last validation of every run of a line measured, and its probe."""
    recipe = load_recipe(config.recipe)
    line: Line = {}
    for value in config.values:
        for seed in range(config.seeds):
            run = config.out / f"{config.flag}-{value.replace(' ', '-')}-seed-{seed}"
            tell(f"\n--{config.flag} {value}, seed {seed}")
            last = train(recipe, run, [*rest, "--seed", str(seed), f"--{config.flag}", *value.split()])
            entry = {key: number for key, number in last.items() if key.startswith("val_")}
            if config.probe:
                entry[ACCURACY] = probed(run, config.probe, config.label)
            line.setdefault(value, []).append(entry)
    return line


def write(config: Config, lines: Mapping[str, Line], described: Mapping[str, Any]) -> Path:
    """Write sweep.json, print its numbers, and draw them; returns the figure."""
    added: dict[str, Any] = {"by": config.by, "lines": lines} if config.by else {"results": lines[""]}
    if config.probe:
        added["label"] = config.label
    replace_file(config.out / "sweep.json", json.dumps({**described, **added}, indent=2) + "\n")
    say(config, lines)
    return draw(lines, config, config.out / "sweep.png")


def say(config: Config, lines: Mapping[str, Line]) -> None:
    """Tables: a row a value, a column a run."""
    titles = {SKILL: "val_skill, last step"} | ({ACCURACY: "accuracy of a linear probe"} if config.probe else {})
    for key, title in titles.items():
        for other, line in lines.items():
            tell(f"\n--{config.by} {other}" if config.by else "")
            tell(f"{config.flag:<20}{title:>28}")
            for value, entries in line.items():
                tell(f"{value:<20}" + "".join(f"{entry[key]:>12.4f}" for entry in entries))


def draw(lines: Mapping[str, Line], config: Config, file: Path) -> Path:
    """Skill against value, and beside it the accuracy of the probe where there is one."""
    from matplotlib.figure import Figure

    panels = [(SKILL, "validation skill, last step\n(0: trivial guess, 1: perfect)")]
    panels += [(ACCURACY, f"accuracy of a linear probe{f' of {config.label}' if config.label else ''}")] * bool(
        config.probe
    )
    figure = Figure(figsize=(6 * len(panels), 3.8), layout="constrained")
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw_lines(axes, lines, key)
        axes.set_xlabel(config.flag.replace("-", " "))
        axes.set_ylabel(title)
        if config.by:
            axes.legend(title=config.by.replace("-", " "), frameon=False)
    figure.axes[0].axhline(0, color="#888888", linewidth=0.8, linestyle=":")
    figure.savefig(file, dpi=150)
    return file


def draw_lines(axes: "Axes", lines: Mapping[str, Line], key: str) -> None:
    """Every run a dot, a line through the means, and a band of a standard deviation over seeds to either side."""
    values = list(next(iter(lines.values())))
    try:
        places = [float(value) for value in values]
    except ValueError:
        places = [float(place) for place in range(len(values))]
        axes.set_xticks(places, values)
    for (other, line), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        runs = [[entry[key] for entry in entries] for entries in line.values()]
        means = [statistics.fmean(each) for each in runs]
        axes.plot(places, means, color=colour, linewidth=1.5, label=other)
        for place, each in zip(places, runs, strict=True):
            axes.plot([place] * len(each), each, marker, color=colour, markersize=5)
        if len(runs[0]) > 1:
            spread = [statistics.stdev(each) for each in runs]
            low, high = ([mean + sign * each for mean, each in zip(means, spread, strict=True)] for sign in (-1, 1))
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    with one_sentence_errors():
        tell(sweep(tyro.cli(Config, args=own, description=__doc__), rest))


if __name__ == "__main__":
    main()
