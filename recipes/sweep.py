"""Train a recipe once for every value of a flag, at equal budget, and plot what was learned against it.

How much of a text should be hidden (Wettig et al. 2023, "Should You Mask 15% in Masked Language Modeling?")? And what
should stand there (Devlin et al. 2019, appendix C.2)? Each run is an ordinary run folder below --out; a sweep that was
interrupted goes on where it was. What follows ``--`` goes to the recipe.

    python recipes/sweep.py text_bert --out runs/fractions --flag mask-fraction --values 0.05 0.15 0.3 0.5 0.8 \\
        -- --data texts/ --preset bert_tiny --steps 500
    python recipes/sweep.py text_bert --out runs/replacement --flag replacement --values "0.8 0.1 0.1" "1 0 0" \\
        "0 0.2 0.8" -- --data texts/ --preset bert_tiny --steps 500

Language models are validated on the same 15 % whatever they hide in training, so their skills compare. Masked
autoencoders are validated at their own mask fraction: there the curve says how hard the task is, not what was learned.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import tyro
from tyro.conf import Positional

from mmssl.errors import UserError, one_sentence_errors


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
    seeds: int = 1
    """Runs of each value, with seeds 0, 1, ..."""


def load_recipe(name: str) -> ModuleType:
    """The recipe as a module."""
    folder = Path(__file__).parent
    file = folder / f"{name.removesuffix('.py')}.py"
    known = sorted(
        path.stem for path in folder.glob("*.py") if "def pretrain(config: Config)" in path.read_text(encoding="utf-8")
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
    recipe.main([*flags, "--out", str(run), *(["--resume"] if started else [])])
    lines = (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])


def sweep(config: Config, rest: Sequence[str]) -> Path:
    """Run everything; returns the figure."""
    if len(config.values) < 2 or config.seeds < 1:
        raise UserError("a sweep needs at least two --values and one of --seeds")
    for flag in ("--out", "--seed", f"--{config.flag}"):
        if flag in rest:
            raise UserError(f"{flag} is what the sweep itself sets: leave it out behind --")
    recipe = load_recipe(config.recipe)
    results: dict[str, list[dict[str, float]]] = {}
    for value in config.values:
        for seed in range(config.seeds):
            run = config.out / f"{config.flag}-{value.replace(' ', '-')}-seed-{seed}"
            print(f"\n--{config.flag} {value}, seed {seed}")
            flags = [*rest, "--seed", str(seed), f"--{config.flag}", *value.split()]
            results.setdefault(value, []).append(train(recipe, run, flags))
    table = {value: [{key: entry[key] for key in entry if key.startswith("val_")} for entry in entries]
             for value, entries in results.items()}  # fmt: skip
    described = {"recipe": config.recipe, "flag": config.flag, "flags": list(rest), "results": table}
    (config.out / "sweep.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    print(f"\n{config.flag:<20}{'val_skill, last step':>24}")
    for value, entries in table.items():
        print(f"{value:<20}" + "".join(f"{entry['val_skill']:>12.4f}" for entry in entries))
    return draw(table, config.flag, config.out / "sweep.png")


def draw(table: dict[str, list[dict[str, float]]], flag: str, file: Path) -> Path:
    """Skill against value: every run a dot, a line through the means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    try:
        places = [float(value) for value in table]
    except ValueError:
        places = [float(place) for place in range(len(table))]
        axes.set_xticks(places, list(table))
    means = [sum(entry["val_skill"] for entry in entries) / len(entries) for entries in table.values()]
    axes.plot(places, means, color="#1f5f8b", linewidth=1.5)
    for place, entries in zip(places, table.values(), strict=True):
        axes.plot([place] * len(entries), [entry["val_skill"] for entry in entries], "o", color="#1f5f8b", markersize=5)
    axes.axhline(0, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xlabel(flag.replace("-", " "))
    axes.set_ylabel("validation skill, last step\n(0: trivial guess, 1: perfect)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)
    return file


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    own, rest = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    with one_sentence_errors():
        print(sweep(tyro.cli(Config, args=own, description=__doc__), rest))


if __name__ == "__main__":
    main()
