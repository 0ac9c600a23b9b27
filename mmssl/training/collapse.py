"""How predictors that make their own targets fail: the three collapses of wav2vec 2.0, codes and targets that vanish.

The signatures are those of public reports. ``fairseq#N`` and ``transformers#N`` are issues of facebookresearch/fairseq
and huggingface/transformers.
"""

import math
from collections.abc import Sequence

from mmssl.training.finding import Entry, Finding, after_warmup, gain, lasting, value, values

ZERO_LOSS = 0.01
"""Nats. transformers#14387 logs exactly 0, transformers#12934 0.0013; no healthy run comes near (fairseq#2949: 62 to
70 % accuracy at the end)."""

ALL_EXCLUDED = 0.95
"""Share of negatives that equal the positive. A guess: with a twentieth left the loss is not yet exactly 0."""

FEW_CODES = 4.0
"""Perplexity is summed over groups, so one code a group is 2.0 at wav2vec 2.0's two groups (transformers#14387). Twice
that is a guess that leaves room for stray frames."""

CHANCE_SKILL = 0.02
"""Below it a run knows nothing beyond the trivial guess. A guess: a few times the scatter of a journal line."""

DEAD_GRADIENT = 1e-3
"""Norm. A run stuck at chance logs 0 with three digits (fairseq#3109), one that learns 1.4 (fairseq#3391); both of
losses that are means over predictions, as ours are."""

DEAD_STEPS = 200
"""After warm-up, for a gradient that is gone. A guess: nothing can come of waiting, so it is short."""

SHORTCUT_ACCURACY = 0.9
"""Healthy runs end at 62 to 70 % (fairseq#2949); 0.9 is a guess between that and the 1.0 of fairseq#3687."""

SHORTCUT_PERPLEXITY = 0.5
"""Of its highest. fairseq#3687 falls from 105 to 38 in 200 steps. Falls alone are no sign: fairseq#3979 reports one in
a healthy run, hence the accuracy beside it."""

SMALLEST_DEVIATION = {
    "target_std": 0.1,
    "target_variance": 0.1**2,
    "prediction_std": 0.01,
    "prediction_variance": 0.01**2,
    "latent_std": 0.01,
    "latent_variance": 0.01**2,
}
"""fairseq's data2vec stops below 0.1 for targets and 0.01 for predictions (``min_target_var`` and ``min_pred_var``,
which are compared with standard deviations in spite of their names). For latents the latter is a guess."""

VANISHING_STEPS = 500
"""After warm-up. fairseq waits for 5,000 steps of 400,000; ours is a guess for shorter runs, where a variance that
rises is left alone."""


def collapse_a(entries: Sequence[Entry]) -> Finding | None:
    """Every frame has the same code: all negatives equal the positive, and nothing is left to tell apart."""

    def collapsed(entry: Entry) -> bool:
        same = value(entry, "excluded_negatives") >= ALL_EXCLUDED or value(entry, "code_perplexity") <= FEW_CODES
        return value(entry, "contrastive_loss") <= ZERO_LOSS and same

    found = lasting(entries, collapsed)
    if not found:
        return None
    return Finding(
        "codes collapsed with zero loss (collapse A)",
        found[0]["step"],
        _numbers(found[-1], "contrastive_loss", "code_perplexity", "excluded_negatives", "gradient_norm"),
        "--learning-rate",
        "start again with half of it; all frames have the same code, so that every negative equals the positive",
    )


def few_codes(entries: Sequence[Entry]) -> Finding | None:
    """Codes have all but vanished, with or without a loss that shows it (transformers#19588)."""
    found = lasting(after_warmup(entries), lambda entry: value(entry, "code_perplexity") <= FEW_CODES)
    if not found:
        return None
    if "contrastive_loss" in found[-1]:
        flag, change = "--learning-rate", "start again with half of it; loss and accuracy say little about so few codes"
    else:  # BEST-RQ, whose codes are given: nothing but the sound itself can be the reason
        flag, change = "--data", "look with `mmssl inspect` whether recordings are silent; the codes are fixed"
    saw = _numbers(found[-1], "code_perplexity", "loss", "accuracy", "excluded_negatives")
    return Finding("nearly all frames have the same code", found[0]["step"], saw, flag, change)


def collapse_b(entries: Sequence[Entry]) -> Finding | None:
    """Loss at chance and no gradient: the context network is dead, and the codes are drawn evenly."""

    def stuck(entry: Entry) -> bool:
        return _beyond_chance(entry) < CHANCE_SKILL and value(entry, "gradient_norm") <= DEAD_GRADIENT

    codes = "code_perplexity" in entries[-1] if entries else False
    found = lasting(after_warmup(entries), stuck, steps=DEAD_STEPS) if codes else ()
    if not found:
        return None
    return Finding(
        "stuck at chance (collapse B)",
        found[0]["step"],
        _numbers(found[-1], "loss", "reference", "gradient_norm", "code_perplexity_soft", "code_perplexity"),
        "--learning-rate",
        "start again with half of it; the gradient is gone, and waiting does not bring it back",
    )


def _beyond_chance(entry: Entry) -> float:
    """Skill against chance among the negatives that are left: excluded ones make the choice easier, not the run better.

    With K negatives ``reference`` is ln(K + 1).
    """
    if not {"contrastive_loss", "excluded_negatives", "reference"} <= entry.keys():
        return value(entry, "skill")
    left = 1 - value(entry, "excluded_negatives")
    chance = math.log1p(left * math.expm1(value(entry, "reference")))
    return 1 - value(entry, "contrastive_loss") / chance if chance > 0 else math.nan


def collapse_c(entries: Sequence[Entry]) -> Finding | None:
    """Accuracy rises to 1 because fewer and fewer codes are left to tell apart."""
    perplexities = values(entries, "code_perplexity")
    if not perplexities:
        return None
    highest = max(perplexities)

    def shortcut(entry: Entry) -> bool:
        fewer = value(entry, "code_perplexity") <= SHORTCUT_PERPLEXITY * highest
        return value(entry, "accuracy") >= SHORTCUT_ACCURACY and fewer

    found = lasting(entries, shortcut)
    if not found or "contrastive_loss" not in found[-1]:
        return None
    return Finding(
        "accuracy rises while codes vanish (collapse C)",
        found[0]["step"],
        f"{_numbers(found[-1], 'accuracy', 'code_perplexity')} (was {highest:.4g})",
        "--batch-size",
        "start again with twice as much, and --accumulation where memory is short: so few sounds a step are told apart "
        "without knowing them",
    )


def vanishing_variance(entries: Sequence[Entry]) -> Finding | None:
    """Targets, predictions or latents become the same for all inputs: predicting them is no work."""
    later = after_warmup(entries)
    for name, least in SMALLEST_DEVIATION.items():
        found = lasting(later, lambda entry, name=name, least=least: value(entry, name) < least, steps=VANISHING_STEPS)
        if found and gain(found, name) < 0.1 * least:
            return Finding(
                f"{name.split('_')[0]}s are all but constant",
                found[0]["step"],
                f"{_numbers(found[-1], name, 'loss', 'skill')} (healthy: above {least:g})",
                "--learning-rate",
                "start again with half of it; a network that answers the same to everything is right for free",
            )
    return None


def _numbers(entry: Entry, *names: str) -> str:
    """The numbers of a line that are there, as text."""
    return ", ".join(f"{name.replace('_', ' ')} {value(entry, name):.4g}" for name in names if name in entry)
