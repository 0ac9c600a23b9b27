"""Pretrain a BERT on a folder of texts, or go on with one on your own domain.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding".

    python recipes/text_bert.py --data texts/ --out runs/texts
    mmssl fill runs/texts "the [MASK] sat on the mat"
    mmssl probe runs/texts --data labelled.tsv
    mmssl export runs/texts --to transformers --out my-bert

Two minutes on two CPU cores, to see that it works:

    python recipes/text_bert.py --data texts/ --out runs/try --steps 200

Going on with a published model, with its own tokenizer:

    python recipes/text_bert.py --data texts/ --out runs/mine --init bert-base-uncased/ --learning-rate 5e-5
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from mmssl.config import to_dict
from mmssl.data.skipped import write_skipped
from mmssl.data.text import (
    TextLoader,
    TextSource,
    TextTokenizer,
    TokenCache,
    load_tokenizer,
    open_cache,
    open_texts,
    train_tokenizer,
)
from mmssl.errors import INTERRUPTED, UserError, one_sentence_errors
from mmssl.evaluation.reveal_text import reveal_documents, write_texts
from mmssl.interchange.bert import adapt_text_config, initial_tokenizer, load_initial_text_weights
from mmssl.predictors.base import Batch
from mmssl.predictors.masked_language_model import PRESETS, MaskedLanguageModel, MaskedLanguageModelConfig
from mmssl.terminal import tell
from mmssl.training.config import MaskedRunConfig
from mmssl.training.distributed import is_main, one_after_another, place, share_of_batch, torchrun_ranks
from mmssl.training.loop import Trainer
from mmssl.training.run import RunFolder, choose_device, parse_flags, say_start

LEARNING_RATE = {128: 2e-3, 256: 1e-3, 512: 5e-4, 768: 3e-4}
"""Peak rate at 64 x 128 tokens a step by width; it grows with the square root of the tokens, as suits Adam (Malladi et
al. 2022). Our choice: the papers' rates belong to batches 30 times as large."""

TOKENS = 64 * 128

MOST_BIGRAMS = 2**18
"""Pairs kept for the guess from neighbours: 6 MB beside the model, and nearly all pairs of some megabytes of text."""


@dataclass(frozen=True, kw_only=True)
class Config(MaskedRunConfig):
    """Pretrain a BERT on a folder of texts."""

    data: str
    """Folder, file or tar file with texts; see `mmssl inspect DATA`."""
    preset: str = "nano"
    """Size of the model: nano, bert_tiny, bert_mini, bert_small, bert_medium, bert_base or bert_large."""
    more_data: tuple[str, ...] = ()
    """More folders and files with texts, beside --data."""
    tokenizer: str = "wordpiece"
    """wordpiece or bpe (byte-level): trained on the data. Or the folder of a transformers tokenizer, or of a run."""
    vocabulary_size: int | None = None
    """Tokens of a tokenizer that is trained. Default: by preset."""
    lowercase: bool | None = None
    """Lower-case and strip accents when a tokenizer is trained. Default: wordpiece does, bpe does not."""
    max_length: int = 128
    """Most tokens of a sequence. A step takes batch-size x max-length tokens, in sequences of any length."""
    unit: Literal["token", "word", "span"] = "token"
    """What is hidden as a whole: tokens, words, or spans of words of geometric length (SpanBERT)."""
    replacement: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of what is hidden that the network sees as [MASK], as random tokens, and as they are."""
    dropout: float | None = None
    """Default: none, which is best while the data is not gone through many times; with --init that of its model."""
    documents: Literal["auto", "file", "line", "block"] = "auto"
    """What one document is in .txt files. auto looks, and says."""
    text_column: str = "text"
    """Column or key with the text in tables and .jsonl."""
    validation_tokens: int = 100_000
    """At most about this many tokens of held-out text are used for validation."""
    batch_size: int = 64
    """Sequences of max-length an optimizer step, over all micro-batches; shorter ones are more."""
    workers: int = 2
    """Without effect here: texts are tokenized once, before training, and read from memory-mapped files."""
    init: str | None = None
    """Start from weights in this folder, with their tokenizer: a run, or a transformers BERT."""
    steps: int = 3000
    """Optimizer steps."""
    mask_fraction: float = 0.3
    """Share of tokens hidden in training; validation hides 15 % of all runs."""
    weight_decay: float = 0.01
    """AdamW's weight decay (Devlin et al. 2019, appendix A.2)."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's betas (Liu et al. 2019, RoBERTa, section 3.1)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_tokens < 1:
            raise UserError(f"--validation-tokens must be at least 1, got {self.validation_tokens}")


def choose_tokenizer(config: Config, run: RunFolder, texts: TextSource) -> TextTokenizer:
    """The run's own when it goes on, that of --init, that of a folder, or one trained on the data."""
    if config.resume and (run.model / "tokenizer.json").is_file():
        return TextTokenizer.load(run.model)
    if config.init:
        if (config.tokenizer, config.vocabulary_size, config.lowercase) != (Config.tokenizer, None, None):
            raise UserError(
                "--init brings its own tokenizer: leave out --tokenizer and --vocabulary-size, and --lowercase"
            )
        return initial_tokenizer(config.init)
    if config.tokenizer not in ("wordpiece", "bpe"):
        if config.vocabulary_size is not None or config.lowercase is not None:
            raise UserError("--vocabulary-size and --lowercase are for a tokenizer that is trained: leave them out")
        return load_tokenizer(config.tokenizer)
    wanted = PRESETS[config.preset][1] if config.vocabulary_size is None else config.vocabulary_size
    tokenizer = train_tokenizer(texts, config.tokenizer, wanted, lowercase=config.lowercase)
    if tokenizer.vocabulary_size < wanted:
        tell(f"note       the data supports {tokenizer.vocabulary_size} tokens, fewer than the {wanted} asked for")
    return tokenizer


def describe_model(config: Config, tokenizer: TextTokenizer, bigrams: int) -> MaskedLanguageModelConfig:
    """The model that the flags ask for."""
    return MaskedLanguageModelConfig(
        vocabulary_size=tokenizer.vocabulary_size,
        encoder=PRESETS[config.preset][0],
        special_ids=tokenizer.special_ids,
        mask_id=tokenizer.mask_id,
        pad_id=tokenizer.pad_id or 0,
        max_length=config.max_length,
        mask_fraction=config.mask_fraction,
        unit=config.unit,
        replacement=config.replacement,
        bigrams=bigrams,
    )


def default_learning_rate(model: MaskedLanguageModelConfig, tokens: int) -> float:
    """By the width of the encoder, which --init may have changed from the preset's."""
    width = max((dim for dim in LEARNING_RATE if dim <= model.encoder.dim), default=min(LEARNING_RATE))
    return LEARNING_RATE[width] * math.sqrt(tokens / TOKENS)


def pretrain(config: Config) -> Path:
    """Run the recipe; returns the run folder."""
    device = choose_device(config.device)
    if config.preset not in PRESETS:
        raise UserError(f"--preset {config.preset} is unknown: choose one of {', '.join(PRESETS)}")
    run = RunFolder(config.out, config.keep_checkpoints)
    run.check(config.resume)

    # data
    where = [config.data, *config.more_data]
    train_texts, val_texts = (
        open_texts(where, split=split, documents=config.documents, text_column=config.text_column)
        for split in ("train", "val")
    )
    with one_after_another():  # a tokenizer that is trained comes out the same, and finds its tokens in the cache
        tokenizer = choose_tokenizer(config, run, train_texts)
        caches = [open_cache(texts, tokenizer) for texts in (train_texts, val_texts)]
    share, (rank, ranks) = share_of_batch(config.batch_size, config.accumulation), place()

    def load(cache: TokenCache, rows: int, rank: int = 0, ranks: int = 1) -> TextLoader:
        return TextLoader(
            cache,
            max_length=config.max_length,
            batch_tokens=rows * config.max_length,
            seed=config.seed,
            device=device,
            rank=rank,
            world_size=ranks,
        )

    loader, val_loader = load(caches[0], share, rank, ranks), load(caches[1], config.micro_batch_size)

    # predictor
    torch.manual_seed(config.seed)
    left, right, times = map(torch.from_numpy, loader.bigrams(MOST_BIGRAMS))
    model = describe_model(config, tokenizer, len(left))
    if config.init and not config.resume:
        model = adapt_text_config(model, config.init)
    elif config.init and run.config_file.is_file():  # the folder of --init may be gone by now
        model = run.saved_predictor(MaskedLanguageModelConfig)
    if config.dropout is not None:
        encoder = replace(model.encoder, dropout=config.dropout, attention_dropout=config.dropout)
        model = replace(model, encoder=encoder)
    tokens = config.batch_size * config.max_length
    config = replace(config, learning_rate=config.learning_rate or default_learning_rate(model, tokens))
    predictor = MaskedLanguageModel(model).to(device)
    predictor.observe(torch.from_numpy(loader.unigram()), (left, right, times))
    data = {"fingerprint": loader.fingerprint(), "train": len(loader), "val": len(val_loader), "tokens": loader.tokens}
    checkpoint = run.start(config, {"predictor": predictor.name, **to_dict(predictor.config)}, data)
    if is_main():
        write_skipped(run.path, train_texts, val_texts)
        tokenizer.save(run.model)
    for note in train_texts.notes:
        tell(f"note       {note}")
    rows = loader.tokens / config.max_length
    say_start(config, predictor, data, device, sample=f"x {config.max_length} tokens", epoch=rows)
    if config.init and checkpoint is None:
        tell(f"init       {load_initial_text_weights(predictor, config.init)}")

    # pretrain
    shown = list(islice(val_texts, 6))

    def reveal(step: int) -> None:
        caption = f"Step {step}: 15 % of the tokens hidden"
        write_texts(reveal_documents(predictor, tokenizer, shown), caption, run.reveal / f"step-{step:08d}.txt")

    def validation() -> Iterator[Batch]:
        return val_loader.frozen(most_tokens=config.validation_tokens, share=place())

    trainer = Trainer(predictor, config, run, loader, validation, on_validate=reveal)
    finished = trainer.fit(checkpoint)

    # report
    if not finished:
        tell(f"interrupted and saved: add --resume to continue\n{run.path}")
        raise SystemExit(INTERRUPTED)
    tell(f"guesses: {run.reveal / f'step-{config.steps:08d}.html'}")
    tell(f'next: mmssl fill {run.path} "the [MASK] sat on the mat"')
    tell(run.path)
    return run.path


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    with one_sentence_errors(), torchrun_ranks():
        pretrain(parse_flags(Config, arguments))


if __name__ == "__main__":
    main()
