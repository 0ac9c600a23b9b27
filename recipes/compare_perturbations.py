"""What does each perturbation teach? One encoder, trained by several pretext tasks at equal budget, under one probe.

All runs have the same ViT trunk, patches, crops in the same order, batches, steps, learning rate and optimizer; what
differs is what is hidden and how it is predicted. Tasks that predict pixels do so from the encoder alone (no path
beside it), and super-resolution is given the enlarged picture, so that all encoders see as many patches.

    python recipes/compare_perturbations.py --data labelled_photos/ --out runs/perturbations --steps 3000

Each run is an ordinary run folder below --out, and its probe lies in it. Stop at any time: the same command goes on
where it was, and what is finished is neither trained nor probed again. Another pretext task is another line of RUNS.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from image_mae import LEARNING_RATE
from image_pretraining import ImageRunConfig, check_preset, default_patch, pair, with_rate
from sweep import load_recipe, train

from mmssl.config import nearest, read_json, to_dict
from mmssl.data.images import suggest_size
from mmssl.errors import INTERRUPTED, UserError, one_sentence_errors
from mmssl.evaluation.comparison import Row, Rows, accuracies, draw_comparison, joined, print_comparison, summary
from mmssl.evaluation.features import LabelledSet, freshly_initialised, raw_features
from mmssl.evaluation.finetune import FinetuneConfig
from mmssl.evaluation.image_runs import labelled_images, split_images
from mmssl.evaluation.probe_results import PRETRAINED, RAW, UNTRAINED, ProbeReport
from mmssl.evaluation.probes import probe
from mmssl.nn.transformer import PRESETS
from mmssl.predictors import Predictor, load_predictor
from mmssl.terminal import tell, tell_progress
from mmssl.training.checkpoint import replace_file
from mmssl.training.journal import read_journal
from mmssl.training.run import RunFolder, choose_device

RUNS = {
    "MAE": ("image_mae", "--architecture mae --mask-fraction 0.75"),
    "SimMIM": ("image_mae", "--architecture simmim --mask-fraction 0.6"),
    "colorization": ("image_colorization", "--detail 0"),
    "inpainting": ("image_inpainting", "--detail 0 --hole free_form --mask-fraction 0.25"),
    "super-resolution": ("image_super_resolution", "--detail 0 --given enlarged --scale 4"),
    "blur": ("image_restoration", "--detail 0 --perturbations blur=2"),
    "mask + zoom": ("image_restoration", "--detail 0 --perturbations mask=0.5 zoom=2"),
}
"""What takes part: name, recipe, and its flags beside the common ones. Mask fractions of MAE and SimMIM are those of
their papers (He et al. 2022, §4.1; Xie et al. 2022, §4.1.2), that of inpainting is a quarter (Pathak et al. 2016)."""

OPTIMIZER = ("--weight-decay", "0.05", "--betas", "0.9", "0.95")
"""The same for all: MAE's (He et al. 2022, table 8)."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train an encoder by several pretext tasks at equal budget, and probe all of them."""

    data: str
    """Labelled pictures: a folder, list file or tar file; see `mmssl inspect DATA`."""
    out: Path
    """Folder for the runs, comparison.json and comparison.png."""
    runs: tuple[str, ...] = tuple(RUNS)
    """Which of them take part."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each decides initialisation, order, crops and masks of a run, and the labels drawn for its probe."""
    preset: str = "nano"
    """Size of the encoder: pico, nano, tiny, small, base or large."""
    steps: int = 2000
    """Optimizer steps of each run."""
    batch_size: int = 128
    """Pictures an optimizer step."""
    learning_rate: float | None = None
    """Peak learning rate of all runs. Default: that of image_mae.py for the preset and batch size."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 on CUDA and fp32 elsewhere."""
    image_size: tuple[int, ...] | None = None
    """Pixels: one number, or height and width. Default: from the data."""
    patch_size: tuple[int, ...] | None = None
    """Pixels: one number, or height and width; must divide the image. Default: from the image size."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of the share of a picture's area that a training crop keeps."""
    label: str | None = None
    """Which label is told, where there are several."""
    labels: tuple[int, ...] = (100, 1000)
    """Numbers of labels for linear probes (beside all) and for fine-tuning."""
    finetune_steps: int = 200
    """Optimizer steps of fine-tuning."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    workers: int = 2
    """Processes that read data while training."""

    def check(self) -> None:
        """Raises UserError for runs that there are not, and for seeds that make no comparison."""
        for name in self.runs:
            if name not in RUNS:
                raise UserError(f"--runs: no run is called '{name}'; {nearest(name, RUNS)}")
        if not self.runs or not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise UserError("a comparison needs one of --runs and one of --seeds, each seed once")


def common_flags(config: Config) -> list[str]:
    """What all runs have in common, resolved: whatever a recipe would choose for itself is the same for all."""
    run = ImageRunConfig(
        data=config.data, out=config.out, preset=config.preset, batch_size=config.batch_size, steps=config.steps,
        learning_rate=config.learning_rate,
    )  # fmt: skip
    check_preset(run)
    size = pair(config.image_size, "--image-size") or suggest_size(split_images(config.data, run.channels)[0])
    patch = pair(config.patch_size, "--patch-size") or default_patch(size)
    rate = with_rate(run, LEARNING_RATE, PRESETS[config.preset]().dim).learning_rate
    words = ["--data", config.data, "--preset", config.preset, "--steps", config.steps, "--batch-size",
             config.batch_size, "--learning-rate", rate, "--precision", config.precision, "--image-size", *size,
             "--patch-size", *patch, "--crop-scale", *config.crop_scale, *OPTIMIZER]  # fmt: skip
    return [str(word) for word in words]


def trained(config: Config, name: str, seed: int, common: list[str]) -> tuple[Path, dict[str, Any]]:
    """The finished run of a name and seed, and the last line of its journal.

    Raises UserError where the run that is there was trained otherwise.
    """
    recipe, own = RUNS[name]
    run = config.out / f"{'-'.join(name.replace('+', ' ').split())}-seed-{seed}"
    asked = {"recipe": recipe, "flags": [*own.split(), *common, "--seed", str(seed)]}
    note = run / "flags.json"
    if note.is_file() and read_json(note) != asked:
        saved = " ".join(read_json(note).get("flags", ()))
        raise UserError(f"{run} was trained with other flags ({saved}): remove it, or choose another --out")
    if config.steps not in RunFolder(run).checkpoints.steps():
        tell(f"\n{name}, seed {seed}")
        run.mkdir(parents=True, exist_ok=True)
        replace_file(note, json.dumps(asked) + "\n")
        train(load_recipe(recipe), run, [*asked["flags"], "--device", config.device, "--workers", str(config.workers)])
    return run, read_journal(run / "journal.jsonl")[-1]


def measured(file: Path, settings: Mapping[str, Any], measure: Callable[[], ProbeReport]) -> dict[str, Any]:
    """What a probe found, from ``file`` where it was made with the same settings, else made now and written there."""
    asked = json.loads(json.dumps(settings, default=str))
    if file.is_file():
        saved = read_json(file)
        if saved.get("settings") == asked:
            return saved
    report = measure()
    found = {"settings": asked, "accuracies": accuracies(report), "report": report.to_dict()}
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(found, indent=2) + "\n")
    return found


class Probes:
    """The same probe for everything, on pictures that are read when they are first needed."""

    def __init__(self, config: Config) -> None:
        self.config, self.device = config, choose_device(config.device)
        self.finetune = FinetuneConfig(steps=config.finetune_steps)
        self.settings = {"data": config.data, "label": config.label, "labels": config.labels,
                         "finetune": to_dict(self.finetune)}  # fmt: skip
        self.parts: tuple[LabelledSet, LabelledSet] | None = None

    def encoder(self, run: Path, seed: int) -> dict[str, Any]:
        """A run's encoder."""
        return measured(run / "probe" / "comparison.json", self.settings | {"seed": seed},
                        lambda: self._probe(str(run), self._load(run), [seed], self.finetune))  # fmt: skip

    def untrained(self, run: Path, seed: int) -> dict[str, Any]:
        """An encoder of new weights of the kind that ``run`` has; trained from scratch in place of fine-tuning."""
        # no layer decay: no layer knows anything that a high rate could destroy
        tuning = FinetuneConfig(steps=self.config.finetune_steps, layer_decay=1.0)
        model = read_json(run / "model" / "config.json")
        return measured(
            self.config.out / "baselines" / f"random-init-seed-{seed}.json",
            self.settings | {"seed": seed, "finetune": to_dict(tuning), "model": model},
            lambda: self._probe(UNTRAINED, freshly_initialised(self._load(run), seed), [seed], tuning),
        )

    def raw(self, run: Path) -> dict[str, Any]:
        """Pixels of pictures as ``run`` takes them, for all seeds at once."""
        seeds, size = self.config.seeds, read_json(run / "model" / "config.json")["image_size"]
        return measured(
            self.config.out / "baselines" / "raw-input.json",
            self.settings | {"seeds": seeds, "image_size": size, "finetune": None},
            lambda: self._probe(RAW, self._load(run), seeds, None, encoder=lambda *_, **__: raw_features),
        )

    def _load(self, run: Path) -> Predictor:
        return load_predictor(run).to(self.device)

    def _probe(
        self, name: str, predictor: Predictor, seeds: tuple[int, ...] | list[int], tuning: FinetuneConfig | None,
        **settings: Any,
    ) -> ProbeReport:  # fmt: skip
        config = self.config
        self.parts = self.parts or labelled_images(predictor, config.data, config.label)
        return probe(
            predictor, *self.parts, label=config.label, seeds=seeds, baselines=False, labels=config.labels,
            finetune_labels=config.labels if tuning else (), finetune_config=tuning,
            say=lambda line: tell_progress(f"{name}: {line}"), **settings,
        )  # fmt: skip


def compare(config: Config) -> Path:
    """Run and probe everything; returns the figure."""
    config.check()
    common, probes = common_flags(config), Probes(config)
    runs: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in config.runs}
    random: dict[int, dict[str, Any]] = {}
    raw: dict[str, Any] = {}
    for seed in config.seeds:
        for name in config.runs:
            run, last = trained(config, name, seed, common)
            raw = raw or probes.raw(run)
            random[seed] = random.get(seed) or probes.untrained(run, seed)
            found = probes.encoder(run, seed)
            runs[name][seed] = {"run": str(run), "seconds": last["seconds"], "val_skill": last["val_skill"],
                                "data": read_json(run / "config.json")["data"], **found}  # fmt: skip
    rows = table(runs, random, raw)
    report = raw["report"]
    title = (f"Accuracy in % ({len(report['names'])} classes) of one encoder, {config.preset}, after "
             f"{config.steps} steps of {config.batch_size}, by what it was trained to predict")  # fmt: skip
    said = notes(config, runs, report)
    described = {"settings": to_dict(config), "flags": common, "table": {name: RUNS[name] for name in config.runs},
                 "notes": said, "summary": summary(rows), "runs": runs, "random init": random,
                 "raw input": raw}  # fmt: skip
    replace_file(config.out / "comparison.json", json.dumps(described, indent=2, default=str) + "\n")
    tell()
    print_comparison(rows, title, said)
    draw_comparison(rows, title, report["chance"], config.out / "comparison.png")
    return config.out / "comparison.png"


def table(runs: Mapping[str, Mapping[int, dict]], random: Mapping[int, dict], raw: dict[str, Any]) -> Rows:
    """Rows of the table: runs, then an encoder that learned nothing, then pixels."""
    rows = {
        name: Row(
            PRETRAINED,
            joined([found["accuracies"] for found in by_seed.values()]),
            {
                "own skill, %": [100 * found["val_skill"] for found in by_seed.values()],
                "minutes": [found["seconds"] / 60 for found in by_seed.values()],
            },
        )
        for name, by_seed in runs.items()
    }
    rows[UNTRAINED] = Row(UNTRAINED, joined([found["accuracies"] for found in random.values()]))
    return rows | {"raw pixels": Row(RAW, raw["accuracies"])}


def notes(config: Config, runs: Mapping[str, Mapping[int, dict]], report: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the table."""
    said = [
        f"Chance {100 * report['chance']:.1f}. {report['train_samples']:,} labelled pictures, "
        f"{report['test_samples']:,} for the test.",
        f"Mean ± sample standard deviation over seeds {' '.join(map(str, config.seeds))}: of pretraining, and of the "
        "labels drawn." if len(config.seeds) > 1 else "One seed: no spread is known.",
        "Minutes are of training alone. Skill is 1 - loss / loss of a trivial guess: each task has its own.",
        "Best layer: chosen on held-out training pictures. Random init is fine-tuned from scratch.",
    ]  # fmt: skip
    if "colorization" in runs:
        said.append("The encoder of colorization is given the lightness alone, when it is probed too.")
    counts = {name: {found["data"]["train"] for found in by_seed.values()} for name, by_seed in runs.items()}
    if len(set().union(*counts.values())) > 1:
        told = ", ".join(f"{name} {max(count):,}" for name, count in counts.items())
        said.append(f"Not all trained on the same pictures (some may be too small for some tasks): {told}.")
    return said


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        config = tyro.cli(Config, args=arguments, description=__doc__)
        try:
            tell(compare(config))
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, KeyboardInterrupt) or stop.code == INTERRUPTED:
                tell("stopped: the same command goes on where it was")
            raise


if __name__ == "__main__":
    main()
