"""Tiny runs of pictures and of texts, made as recipes make them: config, loaders, predictor, trainer."""

from functools import lru_cache
from pathlib import Path

import torch
from forked import Make
from tiny import COUNT, DEFAULTS, Config, Pictures, tiny_predictor

from mmssl.config import to_dict
from mmssl.data.text import TextLoader, TokenCache, open_cache, open_texts, train_tokenizer
from mmssl.evaluation.reveal import write_reveal
from mmssl.nn import TransformerConfig
from mmssl.predictors.masked_language_model import MaskedLanguageModel, MaskedLanguageModelConfig
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder

STEPS, SAVE, VALIDATE = 10, 3, 5
SETTINGS = {**DEFAULTS, "steps": STEPS, "checkpoint_every": SAVE, "validate_every": VALIDATE, "batch_size": 4}


def pictures(out: Path, resume: bool, **changes: object) -> tuple[Trainer, Path | None]:
    """A masked autoencoder that also draws at each validation."""
    config = Config(**{**SETTINGS, "out": out, "resume": resume, **changes})  # type: ignore[arg-type]
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)
    predictor = tiny_predictor(config)
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, {"train": COUNT})
    data = Pictures(config.micro_batch_size, config.seed)

    def draw(step: int) -> None:
        batch = {name: value[:1] for name, value in next(iter(data.frozen())).items()}
        with torch.no_grad():
            write_reveal(predictor, batch, run.reveal / f"step-{step:08d}.png", step)

    return Trainer(predictor, config, run, data, data.frozen, on_validate=draw), checkpoint


WORDS = [
    "the",
    "cat",
    "dog",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "ran",
    "under",
    "tables",
    "chairs",
    "while",
    "rain",
    "was",
    "falling",
    "softly",
]


@lru_cache(maxsize=4)
def _tokens(folder: Path) -> TokenCache:
    lines = [" ".join(WORDS[(3 * row + 5 * place) % len(WORDS)] for place in range(4 + row % 9)) for row in range(80)]
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    source = open_texts(folder / "lines.txt", documents="line")
    return open_cache(source, train_tokenizer(lines, "wordpiece", 60), folder=folder / "cache")


def texts(folder: Path) -> Make:
    """A BERT with dropout, on lines in ``folder`` that were tokenized once."""
    cache = _tokens(folder)

    def make(out: Path, resume: bool) -> tuple[Trainer, Path | None]:
        config = Config(**{**SETTINGS, "out": out, "resume": resume})  # type: ignore[arg-type]
        run = RunFolder(config.out, config.keep_checkpoints)
        run.check(config.resume)
        loader = TextLoader(cache, max_length=16, batch_tokens=64, seed=config.seed)
        torch.manual_seed(config.seed)
        shape = TransformerConfig(dim=16, depth=2, heads=2, mlp_dim=24, norm="post", dropout=0.1)
        tokenizer = cache.tokenizer
        predictor = MaskedLanguageModel(
            MaskedLanguageModelConfig(
                vocabulary_size=tokenizer.vocabulary_size, encoder=shape, special_ids=tokenizer.special_ids,
                mask_id=tokenizer.mask_id, max_length=16,
            )
        )  # fmt: skip
        predictor.observe(torch.from_numpy(loader.unigram()))
        data = {"fingerprint": loader.fingerprint(), "train": len(loader)}
        checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
        return Trainer(predictor, config, run, loader, loader.frozen), checkpoint

    return make
