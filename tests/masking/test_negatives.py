"""Negatives: never the position itself, never of a neighbour, uniform, and a function of the key alone."""

import torch

from mmssl.masking import NoiseKey, draw_negatives


def key(ids: list[int], epoch: int = 0) -> NoiseKey:
    return NoiseKey(3, torch.full((len(ids),), epoch), torch.tensor(ids))


def test_they_are_other_hidden_positions_of_the_same_sample():
    """Others slid into the neighbouring utterance: a row was one shorter than thought (SpeechBrain)."""
    counts = torch.tensor([40, 7, 2])
    drawn = draw_negatives(key([5, 6, 7]), counts, 40, 100)
    assert drawn.shape == (3, 40, 100)
    for row, count in enumerate(counts.tolist()):
        own = torch.arange(count)[:, None]
        assert (drawn[row, :count] != own).all()
        assert drawn[row, :count].min() >= 0
        assert drawn[row, :count].max() < count
        assert len(drawn[row, :count].unique()) == count


def test_all_others_are_equally_likely():
    drawn = draw_negatives(key(list(range(50))), torch.full((50,), 9), 9, 100)
    for own in range(9):
        shares = torch.bincount(drawn[:, own].flatten(), minlength=9) / 5000
        assert shares[own] == 0
        others = shares[torch.arange(9) != own]
        # four standard errors
        assert (others - 1 / 8).abs().max() < 4 * (1 / 8 * 7 / 8 / 5000) ** 0.5


def test_they_depend_on_the_key_alone():
    first = draw_negatives(key([5, 6]), torch.tensor([12, 9]), 12, 20)
    alone = draw_negatives(key([6]), torch.tensor([9]), 9, 20)
    assert torch.equal(first[1, :9], alone[0])
    assert not torch.equal(first, draw_negatives(key([5, 6], epoch=1), torch.tensor([12, 9]), 12, 20))


def test_a_sample_without_others_gives_indices_that_exist():
    drawn = draw_negatives(key([1, 2]), torch.tensor([1, 0]), 1, 5)
    assert (drawn == 0).all()
