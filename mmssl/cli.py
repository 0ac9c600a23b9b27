"""``mmssl ...``: everything that reads a run or looks at data. Recipes write runs; this reads them."""

from pathlib import Path
from typing import Literal

import tyro
from tyro.conf import Positional

from mmssl.errors import one_sentence_errors

# Each command imports what it needs when it runs, so that `mmssl --help` answers at once.


def inspect(data: Positional[str], *, split: str | None = None, channels: int = 3) -> None:
    """Tell what is in a folder, list file or tar file: number, sizes, formats, unreadable files, mean and std.

    Args:
        data: Folder, list file (.txt, .csv), tar file or Hugging Face data set.
        split: Look at one split only.
        channels: Channels to read images with.
    """
    from mmssl.data.images.inspect import inspect_images, print_report

    print_report(inspect_images(data, split=split, channels=channels))


def reveal(
    run: Positional[Path], *, data: str | None = None, out: Path | None = None, count: int = 8, first: int = 0
) -> None:
    """Draw what was hidden, what was predicted and what was true.

    Args:
        run: Run folder.
        data: Pictures to use; by default the run's own held-out ones.
        out: PNG file to write; by default RUN/reveal/reveal.png.
        count: Number of pictures.
        first: Start at this picture.
    """
    from mmssl.evaluation.reveal import write_reveal
    from mmssl.evaluation.runs import held_out_batch
    from mmssl.predictors import load_predictor

    predictor = load_predictor(run)
    batch = held_out_batch(run, predictor, data, first, count)
    print(write_reveal(predictor, batch, out or run / "reveal" / "reveal.png"))


def probe(
    run: Positional[Path],
    *,
    data: str,
    label: str | None = None,
    seeds: int = 3,
    finetune_labels: tuple[int, ...] = (100, 1000),
    out: Path | None = None,
) -> None:
    """Measure the frozen representation on labels: linear probe, kNN, few labels, beside raw pixels and random weights.

    Args:
        run: Run folder.
        data: Labelled images: class folders or a labels.csv, with train and val (or test) splits.
        label: Column of labels.csv.
        seeds: Repetitions of everything that is drawn at random.
        finetune_labels: Numbers of labels for accuracy against labels; nothing after the flag switches it off.
        out: Folder for probe.json and the figure; by default RUN/probe.
    """
    from mmssl.evaluation.runs import probe_run

    probe_run(run, data, label, seeds, finetune_labels, out or run / "probe")


def export(run: Positional[Path], *, to: Literal["timm", "transformers"], out: Path) -> None:
    """Write the weights in the format of another library, load them there, and compare the results.

    Args:
        run: Run folder.
        to: The library.
        out: Folder to write; must be empty or missing.
    """
    from mmssl.interchange import export as write

    write(run, to, out)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors():
        tyro.extras.subcommand_cli_from_dict(
            {"inspect": inspect, "reveal": reveal, "probe": probe, "export": export},
            args=arguments,
            description="Look at data, and read what recipes wrote.",
        )
