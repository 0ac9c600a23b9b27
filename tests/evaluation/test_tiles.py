"""Tiles: what a network that sees little gives on the whole picture, and no seams from one that knows its tile."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from mmssl.errors import UserError
from mmssl.evaluation.holes import far_from_known, fill_holes, halve
from mmssl.evaluation.tiles import apply_tiled, bicubic_matrix, blend_tiles, check_tiling, tile_weights, to_unit
from mmssl.perturbations.fill import push_pull


def picture(height, width, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def smooth_picture(height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = (y / height, x / width, (torch.sin(y / 9) + torch.cos(x / 7) + 2) / 4)
    return torch.stack(planes).mul(255).round().to(torch.uint8)


@pytest.mark.parametrize("length", [1, 7, 16, 17, 40, 100])
@pytest.mark.parametrize(("tile", "overlap"), [(16, 0), (16, 4), (16, 8), (7, 3), (1, 0)])
def test_weights_add_up_everywhere(length, tile, overlap):
    tile = min(tile, length)
    starts, weights = tile_weights(length, tile, min(overlap, tile - 1))
    total = torch.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        assert weight.min() >= 0
        total[start : start + tile] += weight
    assert torch.allclose(total, torch.ones(length), atol=1e-6)
    assert starts[0] == 0
    assert starts[-1] + tile == length
    assert all(here < after <= here + tile - overlap for here, after in pairwise(starts))


def test_the_outer_quarter_of_an_overlap_is_not_used():
    starts, weights = tile_weights(16 + 8, 16, 8)
    assert starts == [0, 8]
    assert weights[1, :2].eq(0).all()
    assert weights[0, 14:].eq(0).all()
    assert weights[0, :8].eq(1).all()
    # halfway, both count the same
    assert (weights[0, 11] + weights[0, 12]).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(50, 61), (16, 40), (9, 70), (1, 1)])
def test_convolutions_give_what_they_give_on_the_whole(size, scale):
    """Three 3x3 convolutions see 3 pixels far, within the quarter (4) of the overlap that is not used."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)]

    @torch.no_grad()
    def network(images):
        for layer in layers:
            images = torch.tanh(layer(images))
        return (images / 2 + 0.5).repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    pixels = picture(*size)
    tiled = apply_tiled(network, pixels, (40, 32), 16, scale=scale)
    whole = network(to_unit(pixels)[None])[0].mul(255)
    assert tiled.shape == (3, size[0] * scale, size[1] * scale)
    assert (tiled - whole).abs().max() < 0.51  # nothing but rounding


def test_tiles_of_different_brightness_pass_smoothly_into_each_other():
    count = iter(range(1000))

    def network(images):
        shades = torch.tensor([float(next(count) % 2) for _ in images])
        return shades[:, None, None, None].expand(-1, 1, *images.shape[2:])

    result = apply_tiled(network, picture(32, 200, 1), (32, 32), 16)[0].int()
    assert (result == result[0]).all()
    across = result[0]
    assert across.min() == 0
    assert across.max() == 255
    # a jump of 255 is spread over the middle half of 16 pixels: at most pi / 2 times the mean slope of 255 / 8
    assert across.diff().abs().max() <= 255 / 8 * 1.58 + 1
    assert across.diff().diff().abs().max() < 25  # and no kink


def test_only_tiles_that_are_needed_are_predicted():
    needed = torch.zeros(100, 100, dtype=torch.bool)
    needed[70, 30] = True
    seen = []

    def predict(places):
        seen.extend(places)
        return torch.ones(len(places), 1, 16, 16)

    strips = list(blend_tiles(predict, (100, 100), (16, 16), 4, needed=needed))
    assert 1 <= len(seen) <= 4
    assert all(rows.start <= 70 < rows.stop and columns.start <= 30 < columns.stop for rows, columns in seen)
    (value,) = [strip[0, 70 - top, 30] for top, strip in strips if top <= 70 < top + strip.shape[1]]
    assert value == pytest.approx(1)


def test_memory_is_bounded_by_a_row_of_tiles():
    """Strips come while tiles are predicted, so that never more than a row is held as floating point."""
    predicted, finished = 0, []

    def predict(places):
        nonlocal predicted
        predicted += len(places)
        return torch.zeros(len(places), 1, 16, 16)

    for top, strip in blend_tiles(predict, (400, 64), (16, 16), 4):
        finished.append((top, strip.shape[1]))
        assert strip.shape[1] <= 16
        assert predicted <= 6 * len(finished)
    assert [top for top, _ in finished] == [sum(rows for _, rows in finished[:i]) for i in range(len(finished))]
    assert sum(rows for _, rows in finished) == 400


def test_bicubic_matrices_are_torchs_bicubic_enlargement():
    image = torch.rand(2, 5, 7)
    whole = F.interpolate(image[None], (23, 31), mode="bicubic")[0]
    rows = slice(6, 11)
    part = bicubic_matrix(5, 23)[rows] @ image @ bicubic_matrix(7, 31).T
    assert torch.allclose(part, whole[:, rows], atol=1e-5)


def test_far_pixels_by_brute_force():
    torch.manual_seed(1)
    hidden = F.max_pool2d((torch.rand(1, 40, 33) < 0.02).float(), 7, 1, 3)[0].bool()
    hidden[:, 20:] = True
    for reach in (1, 3, 6):
        known = (~hidden).nonzero()
        distance = (torch.cartesian_prod(torch.arange(40), torch.arange(33))[:, None] - known).abs().amax(2).amin(1)
        assert torch.equal(far_from_known(hidden, reach), (distance > reach).view(40, 33))


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1)])
def test_halving_takes_the_mean_of_what_is_known(size):
    pixels, hidden = picture(*size, 1), torch.rand(size, generator=torch.Generator().manual_seed(0)) < 0.6
    hidden[0, 0] = False
    small, gone = halve(pixels, hidden)
    assert small.shape[1:] == gone.shape == (-(-size[0] // 2), -(-size[1] // 2))
    for y, x in torch.cartesian_prod(*map(torch.arange, gone.shape)).tolist():
        block = (slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2))
        values = pixels[0][block][~hidden[block]].float()
        assert bool(gone[y, x]) == (values.numel() == 0)
        if values.numel():
            assert small[0, y, x].item() == pytest.approx(values.mean().item(), abs=0.51)


def smooth_filling(images, masks):
    return push_pull(images, ~masks)


@pytest.mark.parametrize(
    "hole", [(slice(20, 26), slice(30, 36)), (slice(8, 88), slice(10, 90)), (slice(0, 96), slice(0, 60))]
)
def test_holes_of_any_size_are_filled_and_nothing_else_changes(hole):
    pixels, hidden = smooth_picture(97, 99), torch.zeros(97, 99, dtype=torch.bool)
    hidden[hole] = True

    def function(images, masks):
        assert images.shape[2] <= 32
        assert images.shape[3] <= 32
        assert (images.masked_select(masks.expand_as(images)) == 0.5).all()  # nothing of the hole leaks
        assert (~masks).flatten(1).any(1).all()  # each tile knows something
        return smooth_filling(images, masks)

    filled = fill_holes(function, torch.where(hidden, 0, pixels), hidden, (32, 32), 8)
    assert torch.equal(filled[:, ~hidden], pixels[:, ~hidden])
    error = (filled.float() - pixels.float()).abs()[:, hidden]
    guess = pixels[:, ~hidden].float().mean(1, keepdim=True)
    assert error.mean() < 0.7 * (guess - pixels[:, hidden].float()).abs().mean()
    # what is under the hole does not matter
    assert torch.equal(filled, fill_holes(function, torch.where(hidden, 255, pixels), hidden, (32, 32), 8))


def test_a_small_hole_is_seen_in_the_middle_of_one_tile():
    hidden = torch.zeros(200, 300, dtype=torch.bool)
    hidden[100:104, 77:81] = True
    seen = []

    def function(images, masks):
        seen.append(masks)
        return images

    fill_holes(function, picture(200, 300), hidden, (32, 32), 8)
    (masks,) = seen
    rows, columns = masks[0, 0].nonzero().float().mean(0).tolist()
    assert masks.shape[0] == 1
    assert abs(rows - 15.5) <= 1
    assert abs(columns - 15.5) <= 1


def test_the_middle_of_a_large_hole_comes_from_the_coarser_picture():
    """A network that paints one shade at the coarsest level, which comes first, and another one at all others."""
    hidden = torch.zeros(128, 128, dtype=torch.bool)
    hidden[32:96, 32:96] = True
    calls = iter(range(1000))

    def painting(images, masks):
        assert masks.any()
        return torch.full_like(images, 0.75 if next(calls) else 0.25)

    filled = fill_holes(painting, picture(128, 128), hidden, (32, 32), 8)
    assert filled[0, 64, 64] == 64  # 0.25, the coarsest
    assert filled[0, 34, 64] == 191  # 0.75, at the edge of the hole


@pytest.mark.parametrize(
    ("tile", "overlap", "named"), [((0, 4), 0, "--tile"), ((8, 8), 5, "--overlap"), ((8, 8), -1, "--overlap")]
)
def test_tilings_that_do_not_advance_are_refused(tile, overlap, named):
    with pytest.raises(UserError, match=named):
        check_tiling(tile, overlap)
