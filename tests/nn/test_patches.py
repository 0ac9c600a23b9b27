"""Cutting pictures into patches and naming their places, against loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.nn.patches import patch_grid, patchify, resize_positions, sincos_positions, unpatchify

SIZES = pytest.mark.parametrize(
    ("batch", "channels", "image", "patch"),
    [
        (2, 3, (8, 8), (4, 4)),
        (1, 1, (6, 10), (3, 2)),
        (3, 4, (5, 12), (5, 4)),
        (2, 6, (4, 4), (1, 1)),
        (1, 3, (2, 16), (2, 16)),
    ],
)


def picture(batch: int, channels: int, image: tuple[int, int]) -> torch.Tensor:
    """Every pixel has a value of its own."""
    return torch.arange(batch * channels * image[0] * image[1]).reshape(batch, channels, *image)


@SIZES
def test_patchify_equals_a_loop(batch, channels, image, patch):
    x = picture(batch, channels, image)
    patches = patchify(x, patch)
    rows, columns = image[0] // patch[0], image[1] // patch[1]
    assert patches.shape == (batch, rows * columns, patch[0] * patch[1] * channels)
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                expected = [
                    x[b, c, row * patch[0] + i, column * patch[1] + j].item()
                    for i in range(patch[0])
                    for j in range(patch[1])
                    for c in range(channels)
                ]
                assert patches[b, row * columns + column].tolist() == expected


@SIZES
def test_patchify_has_the_order_of_mae(batch, channels, image, patch):
    """MAE's reference code: reshape to n c h p w q, then einsum to n h w p q c."""
    x = picture(batch, channels, image).double()
    cut = x.reshape(batch, channels, image[0] // patch[0], patch[0], image[1] // patch[1], patch[1])
    expected = torch.einsum("nchpwq->nhwpqc", cut).flatten(3).flatten(1, 2)
    torch.testing.assert_close(patchify(x, patch), expected, rtol=0, atol=0)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 6),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    patch=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dtype=st.sampled_from([torch.uint8, torch.float32, torch.int64]),
)
def test_unpatchify_is_the_inverse(batch, channels, grid, patch, dtype):
    image = (grid[0] * patch[0], grid[1] * patch[1])
    x = picture(batch, channels, image).to(dtype)
    patches = patchify(x, patch)
    assert patches.dtype == dtype
    assert torch.equal(unpatchify(patches, image, patch), x)


def test_patchify_of_memory_that_is_not_in_order():
    x = picture(2, 3, (8, 4)).transpose(2, 3)
    assert torch.equal(patchify(x, (2, 4)), patchify(x.contiguous(), (2, 4)))


@pytest.mark.parametrize(
    ("image", "patch"), [((8, 8), (3, 4)), ((8, 8), (4, 16)), ((8, 8), (0, 4)), ((0, 8), (4, 4)), ((8, 8), (-4, 4))]
)
def test_a_patch_that_does_not_divide_is_refused(image, patch):
    with pytest.raises(UserError, match=rf"{patch[0]}x{patch[1]} does not divide image size {image[0]}x{image[1]}"):
        patch_grid(image, patch)
    with pytest.raises(UserError, match="does not divide"):
        patchify(torch.zeros(1, 3, *image), patch)
    with pytest.raises(UserError, match="does not divide"):
        unpatchify(torch.zeros(1, 4, 12), image, patch)


@pytest.mark.parametrize(("grid", "dim"), [((2, 3), 8), ((5, 1), 12), ((1, 4), 4), ((14, 14), 64)])
def test_sincos_positions_equal_a_loop(grid, dim):
    quarter = dim // 4
    expected = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            entry = []
            for coordinate in (column, row):
                angles = [coordinate / 10000 ** (i / quarter) for i in range(quarter)]
                entry += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
            expected.append(entry)
    table = sincos_positions(grid, dim)
    assert table.dtype == torch.float32
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-7)


def test_sincos_positions_are_all_different():
    table = sincos_positions((9, 7), 16)
    distances = torch.cdist(table, table) + torch.eye(63)
    assert distances.min() > 0.1


@pytest.mark.parametrize("dim", [6, 2, 9])
def test_a_width_that_is_no_multiple_of_4_is_refused(dim):
    with pytest.raises(UserError, match=f"divisible by 4, got {dim}"):
        sincos_positions((2, 2), dim)


def test_resizing_to_the_same_grid_is_the_identity():
    table = torch.randn(24, 8)
    assert torch.equal(resize_positions(table, (4, 6), (4, 6)), table)


def test_resizing_follows_the_grid_it_is_told():
    """24 positions may be 4 x 6 or 6 x 4: rows of a table that depends on the row alone stay equal within a row."""
    rows = torch.arange(4.0).repeat_interleave(6)[:, None].expand(-1, 2)
    resized = resize_positions(rows, (4, 6), (8, 3)).reshape(8, 3, 2)
    torch.testing.assert_close(resized, resized[:, :1].expand_as(resized))
    assert (resized.diff(dim=0) > 0).all()
    columns = torch.arange(6.0).repeat(4)[:, None]
    resized = resize_positions(columns, (4, 6), (2, 12)).reshape(2, 12)
    torch.testing.assert_close(resized[0], resized[1])
    assert (resized.diff(dim=1) > 0).all()


def test_resizing_keeps_a_constant_table():
    table = torch.randn(1, 8).expand(12, -1)
    torch.testing.assert_close(resize_positions(table, (3, 4), (7, 2)), table[:1].expand(14, -1))


def test_a_table_of_another_length_is_refused():
    with pytest.raises(UserError, match="12 positions are not a grid of 3x5"):
        resize_positions(torch.zeros(12, 8), (3, 5), (2, 2))
