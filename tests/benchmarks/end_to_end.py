"""A user's whole command, from a folder of JPEGs to a saved model: ours against transformers' run_mae.py.

    python tests/benchmarks/end_to_end.py

Both are started as processes of their own, in turns. What a time includes, on both sides: starting Python and
importing; finding and reading the pictures, nothing having been prepared or cached before; the same model at the same
batch size, peak learning rate, share of warm-up, cosine and weight decay, with random resized crops and flips; a
validation at the end; saving the weights. Ours also writes checkpoints, a journal and pictures of its predictions.
Everything else is the default of each: ours decodes every picture once with two processes and keeps it, AdamW's second
beta is 0.95 (0.999 there), weights start as in the MAE reference (normal of 0.02 there), and crops are resized
bilinearly (bicubic there).

The question is the time to one and the same loss. At equal steps ours ends lower; ``--our-steps`` says after how many
our run, its schedule included, is over.

Afterwards, and not timed, the weights of both are loaded into the same model of ours, and the loss is measured on the
same validation pictures with the same frozen masks. A ratio counts for nothing unless these losses agree.

Needs ``pip install transformers datasets accelerate``. The peer's script is transformers_run_mae.py; see there what was
changed in its favour.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from race import ROOT, command_line, conclude, race, say_conditions

from mmssl.data.images import ImageLoader
from mmssl.evaluation.image_runs import frozen_loader, split_images
from mmssl.interchange import adapt_config, load_initial_weights
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_autoencoder import PRESETS, MaskedAutoencoder
from mmssl.training.loop import validate


def parse() -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=4000, help="generated; every fifth is for validation")
    parser.add_argument("--picture-size", type=int, default=256)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--preset", choices=list(PRESETS), default="nano")
    parser.add_argument("--steps", type=int, default=400, help="of transformers")
    parser.add_argument("--our-steps", type=int, default=240, help="chosen so that the losses are about equal")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--peer-workers", type=int, default=0, help="0 is the default of transformers' Trainer")
    parser.add_argument("--tolerance", type=float, default=0.01, help="largest relative difference of the two losses")
    return parser.parse_args()


def generate(folder: Path, flags: argparse.Namespace) -> Path:
    """JPEGs of the generated world, in train and val folders."""
    from PIL import Image

    world = folder / "world"
    command = [
        ROOT / "data_prep/make_world.py",
        "--out",
        world,
        "--count",
        flags.pictures,
        "--size",
        flags.picture_size,
    ]
    subprocess.run([sys.executable, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    for file in (world / "images").rglob("*.png"):
        target = folder / "photos" / file.relative_to(world / "images").with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(target, quality=90)
    return folder / "photos"


def our_command(data: Path, out: Path, flags: argparse.Namespace, seed: int) -> list[str]:
    """The recipe."""
    options = {
        "data": data, "out": out, "preset": flags.preset, "steps": flags.our_steps, "batch-size": flags.batch_size,
        "learning-rate": flags.learning_rate, "image-size": flags.image_size, "patch-size": flags.patch_size,
        "seed": seed,
    }  # fmt: skip
    return command_line(ROOT / "recipes/image_mae.py", options)


def peer_command(data: Path, out: Path, flags: argparse.Namespace, seed: int) -> list[str]:
    """transformers' logic, with our shapes and our mean and standard deviation."""
    encoder, decoder = PRESETS[flags.preset]
    size = (flags.image_size, flags.image_size)
    train, _ = split_images(str(data), 3)
    mean, std = ImageLoader(train, size=size, batch_size=flags.batch_size, seed=0, cache="none").mean_std()
    options = {
        "data": data, "out": out, "image-size": flags.image_size, "patch-size": flags.patch_size,
        "steps": flags.steps, "warmup-steps": max(1, round(0.05 * flags.steps)), "batch-size": flags.batch_size,
        "learning-rate": flags.learning_rate, "weight-decay": 0.05, "mask-fraction": 0.75, "seed": seed,
        "dim": encoder.dim, "depth": encoder.depth, "heads": encoder.heads, "mlp-dim": encoder.mlp_dim,
        "decoder-dim": decoder.dim, "decoder-depth": decoder.depth, "decoder-heads": decoder.heads,
        "decoder-mlp-dim": decoder.mlp_dim, "workers": flags.peer_workers,
    }  # fmt: skip
    statistics_flags = ["--mean", *map(str, mean.tolist()), "--std", *map(str, std.tolist())]
    return command_line(Path(__file__).with_name("transformers_run_mae.py"), options) + statistics_flags


def validation_loss(predictor: MaskedAutoencoder, data: Path) -> float:
    """Mean loss on all validation pictures: centre crops, masks frozen by picture."""
    _, pictures = split_images(str(data), 3)
    return validate(predictor, frozen_loader(pictures, predictor).frozen(256), nullcontext)["val_loss"]


def loaded(run: Path, peer: Path | None = None) -> MaskedAutoencoder:
    """The model of our run; or a model of its config with the weights that transformers saved."""
    predictor = load_predictor(run)
    assert isinstance(predictor, MaskedAutoencoder)
    if peer is not None:
        predictor = MaskedAutoencoder(adapt_config(predictor.config, peer))
        load_initial_weights(predictor, peer)
    return predictor


def main() -> None:
    """Generate, take turns, compare."""
    flags = parse()
    say_conditions()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = generate(folder, flags)
        size = sum(file.stat().st_size for file in data.rglob("*.jpg"))
        print(f"data       {flags.pictures} JPEGs of {flags.picture_size} px, {size / 2**20:.0f} MiB")
        turns = race(
            flags.rounds,
            folder,
            lambda run, peer, seed: (our_command(data, run, flags, seed), peer_command(data, peer, flags, seed)),
            lambda run, peer: (validation_loss(loaded(run), data), validation_loss(loaded(run, peer), data)),
        )
    conclude(turns, flags.tolerance)


if __name__ == "__main__":
    main()
