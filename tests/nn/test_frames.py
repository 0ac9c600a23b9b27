"""Frames of recordings: statistics of parts of them."""

import torch

from mmssl.nn.frames import part_statistics


def test_statistics_of_parts_are_those_of_slices():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([12, 8, 5, 3, 1, 0])
    x = 3 + torch.randn(6, 12, 3, generator=generator)
    x[3, 3:] = torch.nan  # what lies behind the end is not looked at
    means, deviations = part_statistics(x, lengths, 4).view(6, 2, 4, 3).unbind(1)
    for row, length in enumerate(lengths.tolist()):
        for part in range(4):
            if not length:
                assert (means[row, part] == 0).all()
                assert (deviations[row, part] == 0).all()
                continue
            first = min(length * part // 4, length - 1)
            values = x[row, first : max(length * (part + 1) // 4, first + 1)]
            torch.testing.assert_close(means[row, part], values.mean(0))
            torch.testing.assert_close(deviations[row, part], values.std(0, unbiased=False), atol=1e-3, rtol=1e-3)


def test_all_parts_together_weigh_as_the_whole_where_they_are_equal():
    x = torch.randn(2, 16, 5, generator=torch.Generator().manual_seed(1))
    found = part_statistics(x, torch.tensor([16, 8]), 4).view(2, 2, 4, 5)[:, 0].mean(1)
    torch.testing.assert_close(found, torch.stack([x[0].mean(0), x[1, :8].mean(0)]))
