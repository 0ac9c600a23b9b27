"""Span masks: both laws against enumerations, closed forms, brute-force twins and the public transformers sampler."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, hidden_count, span_mask, span_units, theory
from mmssl.masking.spans import _draws_needed

scipy_stats = pytest.importorskip("scipy.stats")


def key_of(count, epoch=0):
    return NoiseKey(0, torch.full((count,), epoch, dtype=torch.int64), torch.arange(count))


def with_special_tokens(length, batch):
    """A valid pattern of ``length`` real tokens with one special before, one between and two after."""
    valid = torch.ones(batch, length + 4, dtype=torch.bool)
    valid[:, [0, 3, -2, -1]] = False
    return valid


def assert_law(hidden, probability):
    """Chi-square test of whole masks against the probability of each."""
    length = hidden.shape[1]
    seen = torch.bincount((hidden.long() << torch.arange(length)).sum(1), minlength=2**length)
    expected = torch.zeros(2**length, dtype=torch.float64)
    for mask, share in probability.items():
        expected[sum(1 << position for position in mask)] += share * len(hidden)
    assert seen[expected == 0].sum() == 0
    often = expected >= 5
    seen = torch.cat([seen[often], seen[~often].sum(0, keepdim=True)]).double()
    expected = torch.cat([expected[often], expected[~often].sum(0, keepdim=True)])
    seen, expected = seen[expected > 0], expected[expected > 0]
    if len(seen) > 1:
        assert scipy_stats.chisquare(seen.numpy(), expected.numpy()).pvalue > 1e-3


def run_lengths(hidden):
    """Lengths of all runs of hidden positions, rows taken one by one."""
    edges = np.diff(np.pad(np.asarray(hidden).astype(np.int8), ((0, 0), (1, 1))), axis=1)
    return np.nonzero(edges == -1)[1] - np.nonzero(edges == 1)[1]


# --- the law of starts


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("probability", [0.13, 0.3, 0.55, 0.9])
@pytest.mark.parametrize("padded", [False, True])
def test_masks_by_start_probability_follow_the_enumerated_law(probability, inside, padded):
    length, span, batch = 9, 3, 20_000
    places = length - span + 1 if inside else length
    mean = length * probability
    law = defaultdict(float)
    for starts, share in ((math.floor(mean), 1 - mean % 1), (math.floor(mean) + 1, mean % 1)):
        choices = list(itertools.combinations(range(places), min(starts, places)))
        for choice in choices:
            mask = frozenset((start + offset) % length for start in choice for offset in range(span))
            law[mask] += share / len(choices)
    valid = with_special_tokens(length, batch) if padded else None
    grid = length if valid is None else valid.shape[1]
    hidden = span_mask(key_of(batch), grid, valid=valid, span=span, start_probability=probability, inside=inside)
    assert_law(hidden if valid is None else hidden[valid].view(batch, length), law)


@pytest.mark.parametrize("inside", [False, True])
def test_wav2vec2_coverage_position_by_position_and_mean_run(inside):
    """The oracle of wav2vec 2.0 (0.065 and 10: 48.9 % and 14.7), with its edge effects, over 10,000 draws."""
    batch, length, span, probability = 10_000, 400, 10, 0.065
    hidden = span_mask(key_of(batch), length, span=span, start_probability=probability, inside=inside)
    expected = np.array(theory.position_coverage(length, span, probability * length, inside))
    deviation = (hidden.sum(0).numpy() - batch * expected) / np.sqrt(batch * expected * (1 - expected))
    assert np.abs(deviation).max() < 4.5
    if not inside:
        assert expected == pytest.approx(np.full(length, 0.489), abs=0.005)
    counts = hidden.sum(1).double()
    mean = length * theory.expected_coverage(length, span, probability * length, inside)
    assert abs(counts.mean() - mean) < 4 * counts.std() / math.sqrt(batch)
    runs = (hidden[:, 1:] & ~hidden[:, :-1]).sum(1).double() + hidden[:, 0]
    mean_runs = theory.expected_runs(length, span, probability * length, inside)
    assert abs(runs.mean() - mean_runs) < 4 * runs.std() / math.sqrt(batch)


def test_wav2vec2_oracle_on_long_sequences():
    hidden = span_mask(key_of(400), 20_000, start_probability=0.065)
    coverage = hidden.double().mean(1)
    # a draw without replacement from 20,000 differs from the limit by less than the tolerance of the rounded figures
    assert coverage.mean().item() == pytest.approx(0.489, abs=1e-3)
    assert run_lengths(hidden).mean() == pytest.approx(14.7, abs=0.06)


def brute_force(rng, batch, length, span, probability):
    """Spans inside the sequence, row by row, with nothing shared with the sampler."""
    hidden = np.zeros((batch, length), dtype=bool)
    for row in hidden:
        starts = int(probability * length + rng.random())
        for start in rng.permutation(length - span + 1)[:starts]:
            row[start : start + span] = True
    return hidden


def same_law(ours, theirs):
    """Two-sample tests of coverage by position, of hidden tokens a row, and of the lengths of runs."""
    draws = len(ours)
    both = (ours.sum(0) + theirs.sum(0)) / (2 * draws)
    deviation = (ours.sum(0) - theirs.sum(0)) / np.sqrt(2 * draws * both * (1 - both))
    assert np.abs(deviation).max() < 4.5
    assert scipy_stats.ks_2samp(ours.sum(1), theirs.sum(1)).pvalue > 1e-3
    counts = [Counter(np.minimum(run_lengths(masks), 40).tolist()) for masks in (ours, theirs)]
    table = np.array([[count[length] for length in range(10, 41)] for count in counts])
    assert scipy_stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue > 1e-3


def test_law_of_starts_equals_a_brute_force_twin():
    ours = span_mask(key_of(3000), 300, start_probability=0.065, inside=True)
    same_law(ours.numpy(), brute_force(np.random.default_rng(0), 3000, 300, 10, 0.065))


def test_law_of_starts_equals_the_transformers_sampler():
    """Theirs rounds the number of spans with one draw a batch; one call a row makes it one a row, as ours."""
    wav2vec2 = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")
    np.random.seed(0)
    rows = [wav2vec2._compute_mask_indices((1, 300), 0.65, 10)[0] for _ in range(3000)]
    ours = span_mask(key_of(3000, epoch=1), 300, start_probability=0.065, inside=True)
    same_law(ours.numpy(), np.array(rows))


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("fraction", [0.2, 0.49, 0.8])
def test_a_fraction_by_starts_is_the_expected_coverage_at_every_length(inside, fraction):
    batch, longest = 8000, 60
    lengths = 12 + torch.arange(batch) % (longest - 11)
    valid = torch.arange(longest) < lengths.unsqueeze(1)
    hidden = span_mask(key_of(batch), longest, fraction, valid=valid, exact=False, inside=inside)
    share = hidden.sum(1) / lengths
    for length in (12, 20, 45, 60):
        of_length = share[lengths == length]
        assert abs(of_length.mean() - fraction) < 4 * of_length.std() / math.sqrt(len(of_length))
    assert abs(share.mean() - fraction) < 4 * share.std() / math.sqrt(batch)


@pytest.mark.parametrize("distinct", [1, 2, 3, 8, 30, 98, 500])
@pytest.mark.parametrize("share", [0.01, 0.065, 0.3, 0.5])
def test_enough_draws_for_the_different_starts(distinct, share):
    """Probability of too few different values, by the exact recursion over draws, against one in 10^9."""
    values = max(round(distinct / share), distinct)
    seen = np.zeros(distinct + 1)
    seen[0] = 1.0
    new = 1 - np.arange(distinct) / values
    for _ in range(_draws_needed(distinct, share)):
        moved = seen[:-1] * new
        seen[:-1] -= moved
        seen[1:] += moved
    assert seen[:-1].sum() < 1e-9


def test_a_sample_no_longer_than_a_span_hides_nothing_by_starts():
    valid = torch.arange(20) < torch.tensor([[10], [11], [3], [0]])
    hidden = span_mask(key_of(4), 20, valid=valid, start_probability=0.9)
    assert hidden.sum(1).bool().tolist() == [False, True, False, False]


# --- the exact law


def enumerated_exact_law(length, span, count):
    """Spans fall in every possible order of starts; the last one keeps the head of what it adds."""
    law = defaultdict(float)
    orders = list(itertools.permutations(range(length)))
    for order in orders:
        hidden = set()
        for start in order:
            for offset in range(span):
                if len(hidden) < count:
                    hidden.add((start + offset) % length)
        law[frozenset(hidden)] += 1 / len(orders)
    return law


@pytest.mark.parametrize(("span", "fraction"), [(1, 0.5), (2, 0.4), (3, 0.6), (3, 0.8), (6, 0.3), (7, 0.6)])
@pytest.mark.parametrize("padded", [False, True])
def test_exact_spans_follow_the_enumerated_law(span, fraction, padded):
    length, batch = 7, 20_000
    law = enumerated_exact_law(length, span, length - int(length * (1 - fraction)))
    valid = with_special_tokens(length, batch) if padded else None
    grid = length if valid is None else valid.shape[1]
    hidden = span_mask(key_of(batch), grid, fraction, valid=valid, span=span)
    assert_law(hidden if valid is None else hidden[valid].view(batch, length), law)


def test_exact_spans_are_shortened_never_fragmented():
    """On the ring every run is at least one span long, but for a single shorter one a sample."""
    length, span = 200, 10
    hidden = span_mask(key_of(500), length, 0.5, span=span)
    assert (hidden.sum(1) == hidden_count(length, 0.5)).all()
    for row in hidden:
        turn = int((~row).nonzero()[0])
        lengths = run_lengths(torch.roll(row, -turn).unsqueeze(0))
        assert (lengths < span).sum() <= 1


def test_a_sample_shorter_than_a_span_hides_one_shorter_piece_at_any_place():
    valid = torch.arange(30) < 8
    hidden = span_mask(key_of(4000), 30, 0.4, valid=valid.expand(4000, 30), span=10)[:, :8]
    law = {frozenset((start + offset) % 8 for offset in range(4)): 1 / 8 for start in range(8)}
    assert_law(hidden, law)


def test_runs_of_exact_spans_are_those_of_starts_at_the_same_coverage():
    """At equal coverage of a long sequence both laws place spans alike: mean run f / (p (1 - p)^M)."""
    probability = theory.start_probability(0.5, 10)
    hidden = span_mask(key_of(100), 20_000, 0.5)
    assert run_lengths(hidden).mean() == pytest.approx(theory.mean_run_length(probability, 10), rel=5e-3)


# --- refusals


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "either mask_fraction or start_probability"),
        ({"mask_fraction": 0.5, "start_probability": 0.1}, "and not both"),
        ({"mask_fraction": 0.5, "span": 0}, "span must be a whole number of at least 1"),
        ({"mask_fraction": 0.5, "span": 2.5}, "span must be a whole number"),
        ({"mask_fraction": 0.5, "span": 21}, "span 21 is longer than the sequence of 20"),
        ({"start_probability": 0.5, "span": 20}, "one span of 20 hides the whole sequence"),
        ({"start_probability": 0.0}, "start_probability must be between 0 and 1"),
        ({"start_probability": 1.5}, "start_probability must be between 0 and 1"),
        ({"mask_fraction": 0.5, "inside": True}, "inside=True belongs to the law of starts"),
    ],
)
def test_bad_arguments_are_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        span_mask(key_of(2), 20, **arguments)


# --- spans of words


def test_span_units_have_geometric_lengths_of_whole_words():
    """The law of SpanBERT, section 3.1: l = 1 ... 10 with p (1 - p)^(l - 1), p = 0.2, renormalised; mean 3.80."""
    words = torch.arange(400).repeat_interleave(2).expand(500, -1).contiguous()
    units = span_units(key_of(500), words)
    assert torch.equal(units[:, ::2], units[:, 1::2])
    per_word = units[:, ::2]
    steps = per_word[:, 1:] - per_word[:, :-1]
    assert set(steps.unique().tolist()) == {0, 1}
    assert (per_word[:, 0] == 0).all()
    # the first 30 spans of each sample end within its 400 words
    lengths = torch.stack([(per_word == span).sum(1) for span in range(30)]).flatten()
    law = np.array([0.2 * 0.8**length for length in range(10)])
    law /= law.sum()
    assert float(lengths.double().mean()) == pytest.approx(float((law * np.arange(1, 11)).sum()), abs=0.06)
    assert float((law * np.arange(1, 11)).sum()) == pytest.approx(3.80, abs=0.005)
    counts = torch.bincount(lengths, minlength=11)[1:].numpy()
    assert scipy_stats.chisquare(counts, law * counts.sum()).pvalue > 1e-3


def test_span_units_leave_special_tokens_out_and_ignore_padding():
    words = torch.tensor([[-1, 0, 1, 1, 2, 3, -1, -1]])
    units = span_units(key_of(1), words)
    assert (units[words < 0] == -1).all()
    wider = torch.nn.functional.pad(words, (0, 5), value=-1)
    assert torch.equal(span_units(key_of(1), wider)[:, :8], units)
    with pytest.raises(UserError, match="0 < stop < 1"):
        span_units(key_of(1), words, stop=1.0)
