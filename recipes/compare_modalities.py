"""One principle, four modalities: perturb and predict back in images, text, speech and video, on one page.

    python recipes/compare_modalities.py --out runs/compared --minutes 60

generates a world of scenes, each as a picture, as a caption, spoken, and said by a talking face; trains a predictor of
each kind for the same time; asks all of them the same questions about the scenes (which colour, which shape) beside raw
input and untrained networks; trains small ones again at other mask fractions; and writes ``report.html``. With data of
your own, of some or all kinds:

    python recipes/compare_modalities.py --out runs/mine --minutes 240 --images photos/ --speech recordings/

Below --out every part is an ordinary run folder (images, text, speech, wav2vec2, sync, senses), which all of `mmssl`
reads. A few timed steps of each recipe decide how many steps fit into its share of the minutes. Stop at any time: the
same command goes on, and what is finished is not done again. What fails is said, and the rest goes on.

Networks that compare pictures with sound have no probe: what a face says of the labels is in its sound, of which the
runs on speech are asked. What those networks know is measured in their own terms: offsets, retrieval, and how much one
sense tells of the other.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from budget import Ledger, Pace, finished, measure
from comparison_config import DATA, PARTS, STUDIES, Config, Part, grid, spread
from sweep import Config as SweepConfig
from sweep import folders, load_recipe, probed, sweep, train

from mmssl.errors import INTERRUPTED, UserError, one_sentence_errors
from mmssl.evaluation.features import Memory
from mmssl.evaluation.runs import probe_run, reveal_run
from mmssl.terminal import tell
from mmssl.training.run import choose_device, cpu_has_bf16

ROOT = Path(__file__).resolve().parents[1]


VALIDATIONS = 5
"""Points of the curve of a run."""
LEAST_STEPS = 20
"""A part is trained for so many steps even where its share of the time is shorter; then that is said."""
TRAINING, TRAINING_ALONE = 1 / 3, 0.55
"""Share of the time left when all paces are known, with and without sweeps. Probes come next, and sweeps get what is
left after them."""
PAGE_SECONDS = 20.0
"""Kept back for the page: a guess."""
THOROUGH, LARGER = 30.0, 120.0
"""Minutes from which on probes are thorough, and networks nano and also fine-tuned, where nothing is said. Fine-tuning
takes longer than all other probes: of 60 minutes on two cores nothing would be left for sweeps."""
TITLE = "One principle, four modalities"
ASKED = ("minutes", "labels", "crop", "scenes", "face_scenes", "seed", "precision", "networks",
         "probes", "finetune_labels")  # fmt: skip
"""Flags that have to be the same where the command goes on."""
SIZE = ("--size", "64", "64")
"""Pixels of video frames: the same for all runs on videos, which share their clips."""


class Comparison:
    """The comparison, from data to page; every step is done once, however often the command is given."""

    def __init__(self, config: Config) -> None:
        self.config, self.out = config, config.out
        asked = {name: getattr(config, name) for name in (*ASKED, *DATA)}
        self.ledger = Ledger(self.out / "compared.json", asked)
        minutes = config.minutes
        self.thorough = minutes >= THOROUGH if config.probes == "auto" else config.probes == "thorough"
        self.tuned = minutes >= LARGER if config.probes == "auto" else self.thorough
        self.pico = minutes < LARGER if config.networks == "auto" else config.networks == "pico"
        precision = config.precision
        if precision == "auto" and choose_device(config.device).type == "cpu" and cpu_has_bf16():
            precision = "bf16"
        self.common = ["--precision", precision, "--device", config.device, "--workers", str(config.workers)]
        self.data = config.own or {
            "images": str(self.out / "world"), "text": str(self.out / "world" / "captions"),
            "speech": str(self.out / "world" / "speech"), "videos": str(self.out / "faces" / "faces"),
        }  # fmt: skip
        self.parts = {name: PARTS[name] for name in PARTS if name in config.parts and PARTS[name].modality in self.data}
        self.studies = {name: STUDIES[name] for name in STUDIES if name in config.sweeps and name in self.data}

    def run(self) -> Path:
        """Everything; returns the page. Raises UserError where nothing could be trained."""
        for name in self.config.parts:
            if name not in self.parts:
                tell(f"left out: {name}, for which there is no --{PARTS[name].modality}")
        self.make_data()
        self.find_paces()
        for name in self.parts:
            self.train_part(name)
        for name in self.parts:
            self.look_and_ask(name)
        for place, name in enumerate(self.studies):
            self.sweep_study(name, share=1 / (len(self.studies) - place))
        return self.write_page()

    # data

    def make_data(self) -> None:
        """Generate what is to be generated, and decode the videos."""
        config, make = self.config, str(ROOT / "data_prep" / "make_world.py")
        needed = {part.modality for part in self.parts.values()} | set(self.studies)
        same = ["--seed", str(config.seed), "--workers", str(max(1, config.workers))]
        spoken = ["images", "captions", "speech"]
        if not config.own and needed - {"videos"}:
            flags = ["--out", str(self.out / "world"), "--count", str(config.scenes), "--modalities", *spoken]
            self.ledger.do("world", lambda: command(make, *flags, *same))
        if not config.own and "videos" in needed:
            flags = ["--out", str(self.out / "faces"), "--count", str(config.face_scenes), "--modalities", "faces"]
            self.ledger.do("talking faces", lambda: command(make, *flags, *same))
        if "videos" in needed:
            flags = ["--data", self.data["videos"], "--out", str(self.out / "clips"), *SIZE, "--crop", config.crop,
                     "--workers", str(config.workers)]  # fmt: skip
            self.ledger.do("clips", lambda: command(str(ROOT / "data_prep" / "cache_clips.py"), *flags))

    def flags_of_part(self, part: Part) -> list[str]:
        """What the recipe of a part is given beside steps."""
        flags = f"{part.flags} {part.pico}" if self.pico else part.flags
        return [*self.flags_of(part.modality, flags), "--seed", str(self.config.seed)]

    def flags_of(self, modality: str, flags: str) -> list[str]:
        """What a recipe is given beside steps and seed."""
        if modality == "videos":
            cut = ["--data", str(self.out / "clips"), *SIZE, "--crop", self.config.crop]
        else:
            cut = ["--data", self.data[modality]]
        return [*flags.split(), *cut, *self.common]

    # time

    def find_paces(self) -> None:
        """Time a few steps of every part, decide what each gets, and print it."""
        for name, part in self.parts.items():
            flags = self.flags_of_part(part)
            run = self.out / "timing" / name
            self.ledger.do(
                f"pace of {name}",
                lambda part=part, run=run, flags=flags: measure(
                    load_recipe(part.recipe), run, flags, validations=VALIDATIONS
                ),
            )
        paces = {name: pace for name in self.parts if (pace := self.pace(f"pace of {name}"))}
        if not paces:
            raise UserError("nothing could be trained: " + "; ".join(self.ledger.failed.values()))
        left = 60 * self.config.minutes - self.ledger.seconds
        training = TRAINING if self.studies else TRAINING_ALONE
        self.ledger.do("share of training", lambda: max(0.0, training * left / len(paces)))
        share = self.ledger.done["share of training"]
        tell(f"\n{'':<12}{'million parameters':>20}{'ms a step':>12}{'other s':>10}{'steps':>8}{'minutes':>9}")
        for name, pace in paces.items():
            steps = self.steps(name)
            minutes = (pace.other_seconds + steps * pace.step_seconds) / 60
            over = "" if pace.steps(share) >= LEAST_STEPS else "  more than its share: raise --minutes"
            tell(
                f"{name:<12}{pace.parameters / 1e6:>20.2f}{1000 * pace.step_seconds:>12.0f}{pace.other_seconds:>10.1f}"
                f"{steps:>8}{minutes:>9.1f}{over}"
            )

    def pace(self, name: str) -> Pace | None:
        """What was measured; None where that failed."""
        return Pace(*self.ledger.done[name]) if name in self.ledger.done else None

    def steps(self, name: str) -> int:
        """Steps of a part: the same number at every call."""
        pace = self.pace(f"pace of {name}")
        assert pace is not None
        return max(LEAST_STEPS, pace.steps(self.ledger.done["share of training"]))

    # runs

    def train_part(self, name: str) -> None:
        """Train a part, or go on with it."""
        if self.pace(f"pace of {name}") is None:
            return
        part, steps = self.parts[name], self.steps(name)
        every = -(-steps // VALIDATIONS)
        flags = [*self.flags_of_part(part), "--steps", str(steps), "--validate-every", str(every),
                 "--log-every", str(max(1, every // 5))]  # fmt: skip
        self.ledger.do(f"training of {name}", lambda: train(load_recipe(part.recipe), self.out / name, flags))

    def look_and_ask(self, name: str) -> None:
        """Pictures of what a part predicts, and what its representation knows."""
        if f"training of {name}" not in self.ledger.done:
            return
        part, run = self.parts[name], self.out / name
        self.ledger.do(f"pictures of {name}", lambda: str(reveal_run(run, None, None, 8, 0)))
        if name == "sync":
            self.ledger.do("video", lambda: self.show_video(run))
            self.ledger.do("retrieval", lambda: self.retrieve(run))
            if self.thorough:
                self.ledger.do("offsets", lambda: self.offsets(run))
        memory: Memory = {}
        for label in self.config.labels if part.probed else ():
            self.ledger.do(
                f"{label} from {name}",
                lambda label=label: self.probe(run, self.data[part.modality], label, memory),
            )

    def probe(self, run: Path, data: str, label: str, memory: Memory) -> None:
        """What `mmssl probe RUN --data DATA --label LABEL` does; shorter where it is not to be thorough."""
        tuned = self.config.finetune_labels if self.tuned and label == self.config.labels[0] else ()
        settings: dict[str, Any] = {} if self.thorough else {"seeds": 1, "by_layer": False}
        probe_run(run, data, (label,), run / "probe", memory=memory, finetune_labels=tuned, **settings)

    def show_video(self, run: Path) -> None:
        """Copy the first video of the pictures beside them, where the page finds it."""
        from mmssl.data.video import open_clips
        from mmssl.evaluation.clip_runs import held_out_part

        clips = str(self.out / "clips")
        file = Path(self.data["videos"]) / open_clips(clips, split=held_out_part(clips)).files[0]
        if file.is_file():  # a list or a tar file has none of that name
            shutil.copyfile(file, run / "reveal" / file.name)

    def retrieve(self, run: Path) -> None:
        """What `mmssl retrieve` does."""
        from mmssl.evaluation.sync_runs import retrieve_run

        retrieve_run(run, str(self.out / "clips"), None, 1000, run / "retrieval")

    def offsets(self, run: Path) -> None:
        """What `mmssl sync --evaluate` does."""
        from mmssl.evaluation.sync_runs import evaluate_run

        evaluate_run(run, str(self.out / "clips"), None, run / "sync")

    # mask fractions

    def sweep_study(self, name: str, share: float) -> None:
        """Compare mask fractions in a modality within a share of what is left of the time."""
        study, ledger = self.studies[name], self.ledger
        label = self.config.labels[0]
        # only where the label is known to be there: own data need not have it
        ask = next((part for part in self.parts if f"{label} from {part}" in ledger.done
                    and self.parts[part].modality == name), None)  # fmt: skip
        probe = self.data[name] if ask else None
        flags = self.flags_of(name, study.flags)
        tried, run = [*flags, "--mask-fraction", study.fractions[1]], self.out / "timing" / f"sweep-{name}"
        after: Callable[[Path], object] | None = (lambda run: probed(run, probe, label)) if probe else None
        recipe = load_recipe(study.recipe)
        ledger.do(f"pace of sweep {name}", lambda: measure(recipe, run, tried, validations=1, after=after))
        pace = self.pace(f"pace of sweep {name}")
        if pace is None:
            return
        left = (60 * self.config.minutes - PAGE_SECONDS - ledger.seconds) * share
        ledger.do(f"grid of sweep {name}", lambda: grid(pace, left, LEAST_STEPS))
        fractions, others, seeds, steps = ledger.done[f"grid of sweep {name}"]
        config = SweepConfig(
            recipe=study.recipe, out=self.out / "sweeps" / name, flag="mask-fraction",
            values=spread(study.fractions, fractions), by=study.by if others > 1 else None,
            by_values=study.by_values[:others] if others > 1 else (), seeds=seeds, probe=probe,
            label=label if probe else None,
        )  # fmt: skip
        rest = [*flags, "--steps", str(steps), "--validate-every", str(steps)]

        def work() -> list[str]:
            sweep(config, rest)
            return [str(folder) for folder in folders(config)]

        ledger.do(f"sweep {name}", work)

    # page

    def write_page(self) -> Path:
        """Write the page about all there is."""
        from mmssl.report import write_report

        swept = [Path(folder) for name in self.studies for folder in self.ledger.done.get(f"sweep {name}", ())]
        if not any(finished(self.out / name) for name in self.parts):
            raise UserError("nothing could be trained: " + "; ".join(self.ledger.failed.values()))
        page = write_report(
            [self.out / name for name in self.parts], self.out / "report.html", sweeps=swept, title=TITLE
        )
        self.ledger.save()
        for name, reason in self.ledger.failed.items():
            tell(f"failed: {name}: {reason}")
        tell(f"\n{self.ledger.seconds / 60:.1f} of {self.config.minutes:g} minutes")
        return page


def command(script: str, *flags: str) -> None:
    """Run a script of data_prep. Raises UserError where it fails; what it printed says why."""
    done = subprocess.run([sys.executable, script, *flags], check=False)
    if done.returncode:
        raise UserError(f"{Path(script).name} ended with exit code {done.returncode}: its message stands above")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        config = tyro.cli(Config, args=arguments, description=__doc__)
        try:
            tell(Comparison(config).run())
        except (KeyboardInterrupt, SystemExit) as stop:
            if isinstance(stop, KeyboardInterrupt) or stop.code == INTERRUPTED:
                tell("stopped: the same command goes on where it was")
            raise


if __name__ == "__main__":
    main()
