"""All training recipes on tiny data with tiny models: what the tests of several processes run. Also a script that
measures how far runs of 1, 2 and 3 processes agree: ``python tests/training/every_recipe.py --steps 20``."""

import json
import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "recipes")]
from scripts import ROOT, load_script  # noqa: E402
from spoken import write_spoken  # noqa: E402
from talking import write_talking  # noqa: E402

from mmssl.nn import TransformerConfig, transformer  # noqa: E402
from mmssl.nn.clip_windows import WindowsConfig  # noqa: E402
from mmssl.predictors import (  # noqa: E402
    audio_visual_masked,
    best_rq,
    masked_autoencoder,
    masked_language_model,
    wav2vec2,
)
from mmssl.training.journal import read_journal  # noqa: E402
from mmssl.training.loop import Trainer  # noqa: E402
from mmssl.training.run import parse_flags  # noqa: E402

PICTURES = ["--image-size", "16", "--preset", "pico", "--validation-images", "10"]
PIXELS = [*PICTURES, "--decoder-dim", "8", "--detail", "1"]
SOUNDS = ["--batch-size", "12", "--max-seconds", "1"]
CLIPS = ["--size", "24", "24", "--mels", "40", "--batch-size", "6", "--validation-clips", "5"]
RECIPES: dict[str, tuple[str, str, list[str]]] = {
    "image_mae": ("image_mae", "pictures", PICTURES),
    "image_mae simmim": ("image_mae", "pictures", [*PICTURES, "--architecture", "simmim"]),
    "image_colorization": ("image_colorization", "pictures", PIXELS),
    "image_inpainting": ("image_inpainting", "pictures", [*PIXELS, "--hole", "blocks"]),
    "image_super_resolution": ("image_super_resolution", "pictures", [*PIXELS, "--scale", "2"]),
    "image_restoration": ("image_restoration", "pictures", [*PIXELS, "--perturbations", "mask=0.5", "noise=0.1"]),
    "text_bert": ("text_bert", "texts", ["--vocabulary-size", "90", "--max-length", "16"]),
    "audio_best_rq": ("audio_best_rq", "sounds", SOUNDS),
    "audio_wav2vec2": ("audio_wav2vec2", "sounds", [*SOUNDS, "--cepstra", "0"]),
    "av_sync": ("av_sync", "videos", ["--frames", "12", *CLIPS]),
    "av_sync both": ("av_sync", "videos", ["--frames", "12", *CLIPS, "--negatives", "both"]),
    "av_sync correspondence": (
        "av_sync", "videos",
        ["--frames", "12", *CLIPS, "--negatives", "clips", "--objective", "correspondence"],
    ),
    "av_masked": ("av_masked", "videos", ["--frames", "8", "--cube", "2", "8", "8", *CLIPS]),
}  # fmt: skip
"""Recipe, data and flags by name. All batches are multiples of 6: one to three ranks, and two micro-batches."""


def common(steps: int) -> list[str]:
    """Flags of every run; batches of 12 where a recipe's own flags do not say another size."""
    flags = {"batch-size": 12, "steps": steps, "log-every": 1, "validate-every": steps, "workers": 0,
             "checkpoint-every": steps}  # fmt: skip
    return [*(word for name, value in flags.items() for word in (f"--{name}", str(value))), "--device", "cpu"]


def write_data(folder: Path) -> Path:
    """Pictures, texts, recordings and videos."""
    random = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    for index in range(40):
        coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 4, 4)))
        image = torch.nn.functional.interpolate(coarse, (20, 24), mode="bilinear")[0].permute(1, 2, 0).numpy()
        Image.fromarray(image.astype(np.uint8)).save(folder / "pictures" / f"{index:02d}.png")
    _split(folder / "pictures", [{"file": f"{index:02d}.png"} for index in range(40)])
    (folder / "texts").mkdir()
    words = [a + b for a in "bcdfg" for b in ("ak", "el", "om", "ur")]
    texts = [" ".join(random.choice(words, random.integers(6, 60))) for _ in range(40)]
    rows = [{"text": text, "split": "val" if index % 4 == 0 else "train"} for index, text in enumerate(texts)]
    (folder / "texts" / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = write_spoken(folder / "sounds", count=30) / "manifest.jsonl"
    _split(folder / "sounds", [json.loads(line) for line in manifest.read_text().splitlines()])
    write_talking(folder / "videos", count=10, frames=30)
    return folder


def _split(folder: Path, rows: list[dict]) -> None:
    """A manifest that holds out a fourth."""
    split = [row | {"split": "val" if index % 4 == 0 else "train"} for index, row in enumerate(rows)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in split))


def make_tiny() -> None:
    """Let the smallest presets be smaller still, and runs draw no pictures, which take longer than they do."""
    Trainer.fit = fit_without_pictures
    shape = TransformerConfig(dim=16, depth=2, heads=2, mlp_dim=32)
    transformer.PRESETS["pico"] = lambda: shape
    masked_autoencoder.PRESETS["pico"] = shape, replace(shape, depth=1)
    masked_language_model.PRESETS["nano"] = replace(shape, norm="post"), 90
    audio_visual_masked.PRESETS["nano"] = lambda: shape
    load_script(ROOT / "recipes" / "av_sync.py").PRESETS["nano"] = WindowsConfig(16, (8, 8), (8, 8))
    for module in (best_rq, wav2vec2):
        nano = module.nano()
        encoder = replace(nano.encoder, trunk=replace(shape, norm="pre"), position_kernel=4, position_groups=4)
        small = {"codebook_size": 16} if module is best_rq else {"projection_dim": 16, "negatives": 8}
        config = replace(nano, encoder=encoder, **small)
        if module is wav2vec2:
            config = replace(config, quantizer=replace(config.quantizer, entries=8, dim=16))
        module.PRESETS["nano"] = lambda config=config: config


fit_with_pictures = Trainer.fit


def fit_without_pictures(self: Trainer, resume_from: Path | None = None) -> bool:
    self.on_validate = None
    return fit_with_pictures(self, resume_from)


def run_recipe(name: str, data: Path, out: Path, *more: str, steps: int = 3) -> None:
    """One run of a recipe; ``more`` flags come last."""
    script, kind, flags = RECIPES[name]
    recipe = load_script(ROOT / "recipes" / f"{script}.py")
    where = ["--data", str(data / kind), "--out", str(out)]
    cache = ["--cache", str(data / "clips")] if kind == "videos" else []
    recipe.pretrain(parse_flags(recipe.Config, [*common(steps), *flags, *where, *cache, *more]))


def run_all(data: Path, out: Path, *more: str, steps: int = 3, names: tuple[str, ...] = tuple(RECIPES)) -> None:
    """One after the other, in the processes there are."""
    for name in names:
        run_recipe(name, data, out / name.replace(" ", "-"), *more, steps=steps)


def largest_difference(one: Path, other: Path, name: str) -> float:
    """Of a number over all lines of two journals, relative."""
    left, right = read_journal(one / "journal.jsonl"), read_journal(other / "journal.jsonl")
    pairs = [(a[name], b[name]) for a, b in zip(left, right, strict=True) if name in a]
    return max(abs(a - b) / abs(a) for a, b in pairs)


def main() -> None:
    """Train every recipe in one, two and three processes, and print how far their losses are apart."""
    import argparse
    import tempfile

    from ranks import run_ranks

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    make_tiny()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MMSSL_CACHE"] = f"{folder}/cache"
        data = write_data(Path(folder) / "data")
        with redirect_stdout(StringIO()):
            run_all(data, Path(folder) / "1", steps=steps)
        for ranks in (2, 3):
            logs = Path(folder) / f"logs-{ranks}"
            for code, _, err in run_ranks(ranks, run_all, data, Path(folder) / str(ranks), steps=steps, logs=logs):
                assert code == 0, err
        for name in RECIPES:
            runs = [Path(folder) / str(ranks) / name.replace(" ", "-") for ranks in (1, 2, 3)]
            told = [largest_difference(runs[0], run, key) for run in runs[1:] for key in ("loss", "val_loss")]
            print(f"{name:24}", *(f"{number:.1e}" for number in told), flush=True)


if __name__ == "__main__":
    main()
