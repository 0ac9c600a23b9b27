"""Block masks against a brute-force twin of the published algorithm, and the geometry of inverse blocks."""

import math

import numpy as np
import pytest
import torch

from mmssl.errors import UserError
from mmssl.masking import NoiseKey, block_mask, hidden_count, inverse_block_mask

scipy_stats = pytest.importorskip("scipy.stats")


def key_of(count, epoch=0):
    return NoiseKey(0, torch.full((count,), epoch, dtype=torch.int64), torch.arange(count))


def beit_twin(rng, height, width, count, min_block, min_aspect=0.3):
    """Algorithm 1 of BEiT, image by image on Python numbers: blocks until the count, the last trimmed at random."""
    hidden = np.zeros((height, width), dtype=bool)
    while hidden.sum() < count:
        area = rng.uniform(min_block, max(min_block, count - hidden.sum()))
        aspect = math.exp(rng.uniform(math.log(min_aspect), -math.log(min_aspect)))
        aspect = min(max(aspect, area / width**2), height**2 / area)
        rows = min(max(round(math.sqrt(area * aspect)), 1), height)
        columns = min(max(round(math.sqrt(area / aspect)), 1), width)
        top, left = rng.integers(0, height - rows, endpoint=True), rng.integers(0, width - columns, endpoint=True)
        new = np.zeros_like(hidden)
        new[top : top + rows, left : left + columns] = True
        cells = np.flatnonzero(new & ~hidden)
        hidden.ravel()[rng.permutation(cells)[: count - hidden.sum()]] = True
    return hidden


@pytest.mark.parametrize(
    ("grid", "fraction", "options"),
    [
        ((14, 14), 0.4, {}),
        ((6, 10), 0.6, {}),
        ((10, 10), 0.25, {"min_block": 25, "min_aspect": 0.7}),
        ((4, 25), 0.3, {"min_block": 2, "min_aspect": 0.1}),
    ],
)
def test_block_mask_follows_the_published_algorithm(grid, fraction, options):
    """Two-sample tests of each cell, the corners included, and of the number of neighbouring pairs of hidden cells."""
    draws = 3000
    ours = block_mask(key_of(draws), grid, fraction, **options).view(draws, *grid).numpy()
    rng = np.random.default_rng(0)
    options = {"min_block": round(math.prod(grid) * 16 / 196)} | options
    theirs = np.array([beit_twin(rng, *grid, hidden_count(math.prod(grid), fraction), **options) for _ in range(draws)])
    both = (ours.sum(0) + theirs.sum(0)) / (2 * draws)
    deviation = (ours.sum(0) - theirs.sum(0)) / np.sqrt(2 * draws * both * (1 - both))
    assert np.abs(deviation).max() < 4.5
    for axis in (1, 2):
        pairs = [
            (np.take(masks, range(1, grid[axis - 1]), axis) & np.take(masks, range(grid[axis - 1] - 1), axis)).sum(
                (1, 2)
            )
            for masks in (ours, theirs)
        ]
        assert scipy_stats.ks_2samp(*pairs).pvalue > 1e-3


def test_blocks_reach_all_edges_and_are_symmetric():
    """10,000 draws: mirrored cells are hidden equally often, and no row, column or corner is left out."""
    draws, side = 10_000, 14
    hidden = block_mask(key_of(draws), (side, side), 0.4).view(draws, side, side)
    assert hidden.any(0).all()
    for mirrored in (hidden.flip(1), hidden.flip(2), hidden.transpose(1, 2)):
        difference = hidden.double() - mirrored.double()
        deviation = difference.mean(0).abs() * math.sqrt(draws) / difference.std(0).clamp_min(1e-9)
        assert deviation.max() < 4.5


def test_blocks_stay_within_the_valid_rectangle():
    valid = torch.zeros(500, 8, 10, dtype=torch.bool)
    valid[:, 2:7, 1:9] = True
    hidden = block_mask(key_of(500), (8, 10), 0.5, valid=valid.flatten(1)).view(500, 8, 10)
    assert not (hidden & ~valid).any()
    assert (hidden.sum((1, 2)) == hidden_count(40, 0.5)).all()
    assert torch.equal(hidden.any(0), valid[0])


@pytest.mark.parametrize("grid", [(14, 14), (6, 10), (3, 30), (1, 12)])
@pytest.mark.parametrize("fraction", [0.3, 0.65, 0.9])
def test_what_an_inverse_block_leaves_is_one_rectangle_on_the_torus(grid, fraction):
    height, width = grid
    hidden = inverse_block_mask(key_of(300), grid, fraction).view(300, height, width)
    visible_count = height * width - hidden_count(height * width, fraction)
    for visible in ~hidden:
        rows, columns = int(visible.any(1).sum()), int(visible.any(0).sum())
        assert visible.sum() == visible_count
        assert rows * columns - visible_count < rows, "only one column is thinned out"
        for used in (visible.any(1), visible.any(0)):
            assert (used & ~used.roll(1)).sum() <= 1, "rows and columns follow each other, around the edge if need be"
        if min(grid) > 5:
            assert 0.5 * 0.6 < rows / columns < 2 / 0.6 or max(rows / height, columns / width) == 1


@pytest.mark.parametrize(
    ("sampler", "options", "sentence"),
    [
        (block_mask, {"min_block": 0}, "min_block must be between 1 and the 16 cells"),
        (block_mask, {"min_block": 17}, "min_block must be between 1 and the 16 cells"),
        (block_mask, {"min_aspect": 0.0}, "min_aspect must be above 0"),
        (block_mask, {"min_aspect": 3.0}, "min_aspect must be above 0 and at most 1"),
        (inverse_block_mask, {"min_aspect": -1.0}, "min_aspect must be above 0"),
    ],
)
def test_bad_options_are_refused(sampler, options, sentence):
    with pytest.raises(UserError, match=sentence):
        sampler(key_of(2), (4, 4), 0.5, **options)
