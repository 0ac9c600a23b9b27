"""80/10/10: shares, whole units, never a special token, and the same for a sample whatever its neighbours."""

import pytest
import torch

from mmssl.masking import NoiseKey
from mmssl.perturbations.replace import replace_hidden

ORDINARY = torch.arange(5, 50)


def key(count: int, first: int = 0) -> NoiseKey:
    return NoiseKey(3, torch.zeros(count, dtype=torch.int64), torch.arange(first, first + count))


def shown(count=200, tokens=100, units=None, shares=(0.8, 0.1, 0.1), first=0):
    token = torch.full((count, tokens), 7)
    hidden = torch.ones(count, tokens, dtype=torch.bool)
    return replace_hidden(key(count, first), token, hidden, mask_id=4, ordinary=ORDINARY, shares=shares, units=units)


def test_shares_and_random_tokens():
    result = shown()
    assert float((result == 4).float().mean()) == pytest.approx(0.8, abs=0.01)
    random = result[(result != 4) & (result != 7)]
    # one random draw in 45 is the token itself
    assert len(random) / result.numel() == pytest.approx(0.1 * 44 / 45, abs=0.008)
    counts = torch.bincount(random, minlength=50)[ORDINARY]
    assert counts[ORDINARY != 7].min() > 0.5 * counts[ORDINARY != 7].float().mean()
    assert torch.bincount(random, minlength=50)[:5].sum() == 0


@pytest.mark.parametrize(
    ("shares", "seen"), [((1.0, 0.0, 0.0), {4}), ((0.0, 0.0, 1.0), {7}), ((0.5, 0.0, 0.5), {4, 7})]
)
def test_shares_of_nothing_and_all(shares, seen):
    assert set(shown(shares=shares).unique().tolist()) == seen


def test_a_unit_has_one_die():
    units = (torch.arange(100) // 4).expand(200, -1).contiguous()
    masked = (shown(units=units) == 4).view(200, 25, 4)
    assert (masked.all(2) == masked.any(2)).all()


def test_what_is_visible_stays():
    token = torch.randint(5, 50, (6, 30))
    hidden = torch.rand(6, 30) < 0.5
    result = replace_hidden(key(6), token, hidden, mask_id=4, ordinary=ORDINARY)
    assert torch.equal(result[~hidden], token[~hidden])


def test_neighbours_and_padding_change_nothing():
    whole = shown(count=8)
    assert torch.equal(shown(count=3, first=5), whole[5:])
    assert torch.equal(shown(count=8, tokens=120)[:, :100], whole)
