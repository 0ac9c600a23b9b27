"""Whole words: never split, in random order, right on average; against an enumeration of all orders."""

import itertools
from collections import defaultdict

import pytest
import torch

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, unit_mask

scipy_stats = pytest.importorskip("scipy.stats")


def key_of(count):
    return NoiseKey(0, torch.zeros(count, dtype=torch.int64), torch.arange(count))


def enumerated(sizes, wanted):
    """Probability of each set of hidden units, over all orders and over the rounding of the last unit."""
    probability = defaultdict(float)
    orders = list(itertools.permutations(range(len(sizes))))
    for order in orders:
        chosen, filled = [], 0
        for position, unit in enumerate(order):
            if position == len(order) - 1:
                break
            if filled + sizes[unit] > wanted and position > 0:
                share = (wanted - filled) / sizes[unit]
                probability[frozenset([*chosen, unit])] += share / len(orders)
                probability[frozenset(chosen)] += (1 - share) / len(orders)
                chosen = None
                break
            chosen.append(unit)
            filled += sizes[unit]
            if filled >= wanted:
                break
        if chosen is not None:
            probability[frozenset(chosen)] += 1 / len(orders)
    return probability


@pytest.mark.parametrize(("sizes", "fraction"), [((1, 3, 2, 1, 4), 0.4), ((2, 2, 2, 2), 0.6), ((5, 1, 1, 1), 0.25)])
@pytest.mark.parametrize("padded", [False, True])
def test_law_equals_the_enumeration_of_all_orders(sizes, fraction, padded):
    draws, tokens = 20_000, sum(sizes)
    units = torch.repeat_interleave(torch.arange(len(sizes)) * 7 + 100, torch.tensor(sizes)).expand(draws, tokens)
    valid = None
    if padded:  # special tokens before, between and after
        units = torch.cat(
            [units[:, :1], units[:, : sizes[0]], units[:, :1] * 0, units[:, sizes[0] :], units[:, -1:]], 1
        )
        valid = torch.ones(draws, tokens + 3, dtype=torch.bool)
        valid[:, [0, sizes[0] + 1, -1]] = False
    hidden = unit_mask(key_of(draws), units.shape[1], fraction, units=units, valid=valid)
    if valid is not None:
        assert not (hidden & ~valid).any()
        hidden = hidden[valid].view(draws, tokens)
    parts = hidden.split(list(sizes), 1)
    assert all((part == part[:, :1]).all() for part in parts), "a unit is hidden whole or not at all"
    chosen = torch.stack([part[:, 0] for part in parts], 1)
    code = (chosen.long() << torch.arange(len(sizes))).sum(1)
    seen = torch.bincount(code, minlength=2 ** len(sizes))
    expected = torch.zeros(2 ** len(sizes), dtype=torch.float64)
    for units_hidden, probability in enumerated(sizes, tokens - int(tokens * (1 - fraction))).items():
        expected[sum(1 << unit for unit in units_hidden)] += probability * draws
    possible = expected > 0
    assert seen[~possible].sum() == 0
    assert scipy_stats.chisquare(seen[possible].numpy(), expected[possible].numpy()).pvalue > 1e-3


def test_the_count_is_right_on_average_and_off_by_less_than_a_unit():
    draws, tokens = 4000, 100
    lengths = torch.randint(1, 7, (draws, tokens), generator=torch.Generator().manual_seed(0))
    ends = lengths.cumsum(1)
    units = (torch.arange(tokens).view(1, 1, -1) >= ends.unsqueeze(2)).sum(1)
    hidden = unit_mask(key_of(draws), tokens, 0.15, units=units).sum(1).float()
    assert ((hidden - 15).abs() < 6).all()
    assert abs(hidden.mean() - 15) < 4 * hidden.std() / draws**0.5


def test_no_preference_for_short_words():
    """Half of the words have one piece and half have four; each word is hidden equally often."""
    draws, sizes = 10_000, torch.tensor([1, 4] * 20)
    units = torch.repeat_interleave(torch.arange(40), sizes).expand(draws, 100)
    hidden = unit_mask(key_of(draws), 100, 0.3, units=units)
    first = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)[:-1]])
    rate = hidden[:, first].float().mean(0)
    short, long = rate[0::2].mean(), rate[1::2].mean()
    # With probability missing / size at the limit the expected number of tokens is exact; a word's rate then differs
    # from the fraction only through the order of taking, by less than a hundredth here.
    assert abs(short - long) < 0.01
    assert abs((short + 4 * long) / 5 - 0.3) < 0.003


def test_a_sample_of_one_unit_hides_nothing_and_one_unit_always_stays():
    units = torch.tensor([[5, 5, 5, 5], [1, 1, 1, 2]])
    hidden = unit_mask(key_of(2), 4, 0.75, units=units)
    assert hidden[0].sum() == 0
    counts = unit_mask(key_of(500), 4, 0.75, units=units[1:].expand(500, 4)).sum(1)
    assert set(counts.tolist()) == {1, 3}


@pytest.mark.parametrize(
    ("units", "sentence"),
    [
        (torch.zeros(2, 6), "units must be an integer tensor"),
        (torch.zeros(2, 5, dtype=torch.int64), r"units must have the shape \[2, 6\]"),
        (torch.zeros(6, dtype=torch.int64), r"units must have the shape \[2, 6\]"),
    ],
)
def test_bad_units_are_refused(units, sentence):
    with pytest.raises(UserError, match=sentence):
        unit_mask(key_of(2), 6, 0.5, units=units)
