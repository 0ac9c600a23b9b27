"""Run folders, probes and sweeps that are made up, so that every number on a page is known; and a reader of pages."""

import json
import wave
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from mmssl import __version__

VOID = {"meta", "img", "br", "input", "hr", "link"}
"""Elements of HTML without an end."""


def write_run(folder: Path, predictor: str = "masked_autoencoder", *, version: str = __version__, steps: int = 40,
              done: int = 40, scale: float = 0.5, pictures: bool = True, **validation: float) -> Path:  # fmt: skip
    """A run that has come to step ``done``, validated every 10 steps; ``validation`` are further numbers of each."""
    folder.mkdir(parents=True)
    config = {"data": "world", "out": str(folder), "preset": "nano", "steps": steps, "batch_size": 16, "seed": 3,
              "learning_rate": 0.00125, "log_every": 5, "mask_fraction": 0.75}  # fmt: skip
    described = {"config": config, "predictor": {"predictor": predictor}, "data": {"train": 100, "val": 20},
                 "command": f"recipes/some.py --out {folder.name}", "versions": {"mmssl": version}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(described))
    lines = []
    for step in range(5, done + 1, 5):
        skill = scale * (1 - 0.5 ** (step / 10))
        entry = {"step": step, "loss": 1 - skill, "reference": 1.0, "skill": skill, "gradient_norm": 0.5,
                 "learning_rate": 1e-3, "data_wait": 0.01, "seconds": 7.5 * step}  # fmt: skip
        if step % 10 == 0:
            entry |= {"val_loss": 2 * (1 - 0.9 * skill), "val_reference": 2.0, "val_skill": 0.9 * skill, **validation}
        lines.append(json.dumps(entry))
    (folder / "journal.jsonl").write_text("".join(line + "\n" for line in lines))
    if pictures:
        write_pictures(folder / "reveal", range(10, done + 1, 10))
    return folder


def write_pictures(folder: Path, steps) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for step in steps:
        Image.new("RGB", (60, 40), (step % 256, 80, 200)).save(folder / f"step-{step:08d}.png")


def write_sounds(folder: Path) -> None:
    for name in ("clip-1", "clip-1-hidden"):
        with wave.open(str(folder / f"{name}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(bytes(800))


def write_probe(folder: Path, label: str = "shape", pretrained: float = 0.8) -> Path:
    """Accuracies of a pretrained encoder, a random one and raw input with 100 and all 400 labels."""
    kinds = {"pretrained": ("mean", pretrained), "random init": ("mean", 0.4), "raw input": ("flat", 0.5)}
    results = [
        {"representation": kind, "feature": feature, "method": "linear", "labels": labels, "l2": [], "layers": [],
         "accuracies": [level - drop, level - drop + 0.02], "mean": level - drop + 0.01, "std": 0.0141}
        for kind, (feature, level) in kinds.items() for labels, drop in ((100, 0.2), (400, 0.0))
    ]  # fmt: skip
    report = {"label": label, "names": ["circle", "square", "star", "heart"], "train_samples": 400, "test_samples": 50,
              "majority": 0.3, "seeds": 2, "finetune": {}, "results": results, "raw": "pixels", "notes": [],
              "chance": 0.25}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"probe-{label}.json").write_text(json.dumps(report))
    return folder / f"probe-{label}.json"


def write_sweep(folder: Path, recipe: str, predictor: str, results: dict[str, list[float]]) -> Path:
    """A sweep of the mask fraction: ``results`` are skills of seeds by value; a picture of each value's first seed."""
    for value in results:
        run = folder / f"mask-fraction-{value}-seed-0"
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps({"predictor": {"predictor": predictor}}))
        write_pictures(run / "reveal", [30])
    table = {
        value: [{"val_skill": skill, "val_reference": 4.0, "val_reference_interpolation": 3.0} for skill in skills]
        for value, skills in results.items()
    }
    described = {"recipe": recipe, "flag": "mask-fraction", "flags": ["--data", "world"], "results": table}
    (folder / "sweep.json").write_text(json.dumps(described))
    return folder


class Page(HTMLParser):
    """Elements and text of a page; complains where elements are not closed in order."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.numbers: list[tuple[float, str, str]] = []
        """Value, what is written, and its source."""
        self.words: list[str] = []
        self.open: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in <{tag}>"
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.numbers.append((float(attributes["value"]), "", attributes["title"]))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> where <{self.open[-1]}> is open"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "data":
            value, text, source = self.numbers.pop()
            self.numbers.append((value, text + data, source))
        elif "style" not in self.open and "script" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]
