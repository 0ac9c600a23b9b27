"""A user's whole command, from text files to a saved BERT: ours against transformers' run_mlm.py.

    python tests/benchmarks/end_to_end_text.py --train wikitext2_train.txt.gz --validation wikitext2_valid.txt.gz

Both are started as processes of their own, in turns. What a time includes, on both sides: starting Python and
importing; reading and tokenising the texts, nothing having been prepared or cached before, with the same tokenizer,
trained beforehand; the same model (by default without dropout for ours, 0.1 for the peer: the default of each) at the
same tokens a step, peak learning rate, share of warm-up and weight decay; a validation at the end; saving the weights.
Ours also writes checkpoints, a journal and guesses. Everything else is the default of each: ours hides 30 % and ends
with a cosine, the peer hides 15 % and decays linearly.

The question is the time to one and the same loss. ``--our-steps`` says after how many steps our run, its schedule
included, is over. Afterwards, and not timed, the weights of both are loaded into the same model of ours, and the loss
is measured on the same validation texts with the same 15 % hidden. A ratio counts for nothing unless these agree.

Needs ``pip install transformers datasets accelerate``. The peer's script is transformers_run_mlm.py.
"""

import argparse
import gzip
import tempfile
from contextlib import nullcontext
from pathlib import Path

from race import ROOT, command_line, conclude, race, say_conditions

from mmssl.data.text import TextLoader, TextTokenizer, open_cache, open_texts, train_tokenizer
from mmssl.interchange.bert import adapt_text_config, load_initial_text_weights
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_language_model import PRESETS, MaskedLanguageModel
from mmssl.training.loop import validate

LENGTH = 128


def parse() -> argparse.Namespace:
    """Flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="text file, may be gzipped")
    parser.add_argument("--validation", type=Path, required=True, help="text file, may be gzipped")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", choices=list(PRESETS), default="bert_tiny")
    parser.add_argument("--steps", type=int, default=600, help="of transformers")
    parser.add_argument("--our-steps", type=int, default=300, help="chosen so that the losses are about equal")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences of 128 tokens")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--tolerance", type=float, default=0.01, help="largest relative difference of the two losses")
    return parser.parse_args()


def prepare(folder: Path, flags: argparse.Namespace) -> Path:
    """Both texts as plain files, and a tokenizer in a form that both read."""
    data = folder / "texts"
    data.mkdir()
    for name, file in (("train", flags.train), ("val", flags.validation)):
        content = file.read_bytes()
        (data / f"{name}.txt").write_bytes(gzip.decompress(content) if file.suffix == ".gz" else content)
    tokenizer = train_tokenizer(open_texts(data / "train.txt"), "wordpiece", PRESETS[flags.preset][1])
    tokenizer.save(folder / "tokenizer")
    return data


def commands(folder: Path, flags: argparse.Namespace, run: Path, peer: Path, seed: int) -> tuple[list[str], list[str]]:
    """The recipe, and transformers' logic with our shapes."""
    encoder, data = PRESETS[flags.preset][0], folder / "texts"
    common = {
        "tokenizer": folder / "tokenizer", "max-length": LENGTH, "batch-size": flags.batch_size,
        "learning-rate": flags.learning_rate, "weight-decay": 0.01, "seed": seed,
    }  # fmt: skip
    ours = common | {"data": data, "out": run, "preset": flags.preset, "steps": flags.our_steps}
    theirs = common | {
        "train": data / "train.txt", "validation": data / "val.txt", "out": peer, "steps": flags.steps,
        "warmup-steps": max(1, round(0.05 * flags.steps)), "dim": encoder.dim, "depth": encoder.depth,
        "heads": encoder.heads, "mlp-dim": encoder.mlp_dim,
    }  # fmt: skip
    return (
        command_line(ROOT / "recipes/text_bert.py", ours),
        command_line(Path(__file__).with_name("transformers_run_mlm.py"), theirs),
    )


def validation_loss(predictor: MaskedLanguageModel, data: Path, run: Path) -> float:
    """Mean loss on the validation texts at the places that every run of ours hides."""
    tokenizer = TextTokenizer.load(run / "model")
    cache = open_cache(open_texts(data, split="val"), tokenizer, folder=data.parent / "cache")
    loader = TextLoader(cache, max_length=LENGTH, batch_tokens=64 * LENGTH, seed=0)
    return validate(predictor, loader.frozen(), nullcontext)["val_loss"]


def loaded(run: Path, peer: Path | None = None) -> MaskedLanguageModel:
    """The model of our run; or a model of its config with the weights that transformers saved."""
    predictor = load_predictor(run)
    assert isinstance(predictor, MaskedLanguageModel)
    if peer is not None:
        predictor = MaskedLanguageModel(adapt_text_config(predictor.config, peer))
        load_initial_text_weights(predictor, peer)
    return predictor


def main() -> None:
    """Prepare, take turns, compare."""
    flags = parse()
    say_conditions()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = prepare(folder, flags)
        print(f"data       {(data / 'train.txt').stat().st_size / 2**20:.1f} MiB of text")
        turns = race(
            flags.rounds,
            folder,
            lambda run, peer, seed: commands(folder, flags, run, peer, seed),
            lambda run, peer: (validation_loss(loaded(run), data, run), validation_loss(loaded(run, peer), data, run)),
        )
    conclude(turns, flags.tolerance)


if __name__ == "__main__":
    main()
