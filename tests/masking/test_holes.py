"""Holes on the grid of pixels: exact counts, drawn by the stated laws, and what every sampler promises."""

import hashlib
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.masking import HOLES, NoiseKey, block_holes, centre_hole, free_form_holes, hidden_count, holes

scipy_stats = pytest.importorskip("scipy.stats")
ndimage = pytest.importorskip("scipy.ndimage")

RANDOM = ["blocks", "free_form"]


def key_of(ids, epoch=0, seed=0):
    ids = torch.arange(ids) if isinstance(ids, int) else torch.as_tensor(ids, dtype=torch.int64)
    return NoiseKey(seed, torch.full_like(ids, epoch), ids)


@pytest.mark.parametrize("name", RANDOM)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_exact_count_on_any_size_and_fraction_and_no_neighbour_matters(name, data):
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)).filter(lambda size: math.prod(size) >= 2))
    fraction = data.draw(st.floats(0.01, 0.99))
    ids = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
    epoch, seed = data.draw(st.integers(0, 1000)), data.draw(st.integers(-100, 100))
    try:
        count = hidden_count(math.prod(size), fraction)
    except UserError:
        return
    hidden = HOLES[name](key_of(ids, epoch, seed), size, fraction)
    assert (hidden.dtype, hidden.shape) == (torch.bool, (len(ids), math.prod(size)))
    assert hidden.sum(1).tolist() == [count] * len(ids)
    for row, number in enumerate(ids):
        assert torch.equal(HOLES[name](key_of([number], epoch, seed), size, fraction)[0], hidden[row])


@pytest.mark.parametrize("name", RANDOM)
def test_epoch_seed_and_id_change_the_hole(name):
    reference = HOLES[name](key_of(100), (16, 20), 0.3)
    for other in (key_of(100, epoch=1), key_of(100, seed=1), key_of(range(100, 200))):
        assert (HOLES[name](other, (16, 20), 0.3) != reference).any(1).all()


@pytest.mark.parametrize("name", RANDOM)
def test_every_pixel_is_reached_and_mirrored_ones_equally_often(name):
    """The corners too, and often enough to be learned: more than a tenth as often as the mean."""
    draws, side = 3000, 20
    hidden = HOLES[name](key_of(draws), (side, side), 0.25).view(draws, side, side)
    assert hidden.double().mean(0).min() > 0.1 * 0.25
    for mirrored in (hidden.flip(1), hidden.flip(2), hidden.transpose(1, 2)):
        difference = hidden.double() - mirrored.double()
        deviation = difference.mean(0).abs() * math.sqrt(draws) / difference.std(0).clamp_min(1e-9)
        # an even side has no middle: what is drawn around floor(uniform * side) leans by less than a pixel
        assert deviation.max() < 6


@pytest.mark.parametrize(
    ("size", "fraction", "rows", "columns"),
    [((128, 128), 0.25, (32, 96), (32, 96)), ((64, 96), 0.25, (16, 48), (24, 72)), ((9, 9), 1 / 9, (3, 6), (3, 6)),
     ((1, 10), 0.5, (0, 1), (2, 7)), ((4, 4), 0.9, (0, 3), (0, 4))],
)  # fmt: skip
def test_the_centre_is_the_middle_rectangle_of_the_pictures_aspect(size, fraction, rows, columns):
    hidden = centre_hole(key_of(3), size, fraction).view(3, *size)
    expected = torch.zeros(size, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    assert (hidden == expected).all()


@settings(deadline=None, max_examples=60)
@given(height=st.integers(1, 60), width=st.integers(1, 60), fraction=st.floats(0.02, 0.98))
def test_the_centre_is_nearest_to_the_fraction_and_leaves_a_margin(height, width, fraction):
    try:
        count = hidden_count(height * width, fraction)
    except UserError:
        return
    hidden = centre_hole(key_of(1), (height, width), fraction).view(height, width)
    rows, columns = int(hidden.any(1).sum()), int(hidden.any(0).sum())
    assert hidden.sum() == rows * columns
    assert 1 <= rows * columns < height * width
    assert abs(rows * columns - count) <= max(rows, columns)
    for used in (hidden.any(1).int(), hidden.any(0).int()):
        before, after = int(used.argmax()), int(used.flip(0).argmax())
        assert 0 <= after - before <= 1


def block_twin(rng, height, width, count):
    """Rectangles one by one on Python numbers; the one that would be too much grows from its middle instead."""
    hidden = np.zeros((height, width), dtype=bool)
    row, column = np.mgrid[:height, :width]
    while True:
        area, aspect = count * rng.uniform(1 / 8, 1 / 2), 2 ** rng.uniform(-1, 1)
        rows, columns = max(1, round(math.sqrt(area * aspect))), max(1, round(math.sqrt(area / aspect)))
        middle = rng.integers(height), rng.integers(width)
        top, left = middle[0] - rows // 2, middle[1] - columns // 2
        new = (row >= top) & (row < top + rows) & (column >= left) & (column < left + columns)
        if (hidden | new).sum() < count:
            hidden |= new
            continue
        ring = np.maximum(abs(row - middle[0]) / rows, abs(column - middle[1]) / columns) * max(rows, columns)
        order = np.where(hidden, 0, 1 + np.floor(ring)).ravel()
        return (np.argsort(np.argsort(order, kind="stable")) < count).reshape(height, width)


@pytest.mark.parametrize(("size", "fraction"), [((14, 14), 0.4), ((6, 10), 0.7), ((24, 9), 0.15)])
def test_blocks_follow_the_stated_law(size, fraction):
    """Two-sample tests of each pixel, the corners included, and of the number of neighbouring pairs."""
    draws = 2000
    ours = block_holes(key_of(draws), size, fraction).view(draws, *size).numpy()
    rng = np.random.default_rng(0)
    theirs = np.array([block_twin(rng, *size, hidden_count(math.prod(size), fraction)) for _ in range(draws)])
    both = (ours.sum(0) + theirs.sum(0)) / (2 * draws)
    deviation = (ours.sum(0) - theirs.sum(0)) / np.sqrt(2 * draws * both * (1 - both))
    assert np.abs(deviation).max() < 4.5
    for axis in (1, 2):
        pairs = [(np.diff(masks.astype(int), axis=axis) != 0).sum((1, 2)) for masks in (ours, theirs)]
        assert scipy_stats.ks_2samp(*pairs).pvalue > 1e-3


def brush(radius):
    """The octagon: so many rows and columns from the middle, and so many together."""
    offset = np.abs(np.arange(-radius, radius + 1))
    return offset[:, None] + offset <= radius + (5 * radius + 6) // 12


def test_dabs_are_octagons_drawn_in_order_until_the_count(monkeypatch):
    """Against the union of brute-force octagons, dab by dab; the last one grows from its middle."""
    side, batch, dabs = 64, 20, 60
    rng = np.random.default_rng(1)
    pixel, radius = rng.integers(side * side, size=(batch, dabs)), rng.integers(1, 5, size=(batch, dabs))
    monkeypatch.setattr(holes, "_dabs", lambda *_: (torch.from_numpy(pixel), torch.from_numpy(radius)))
    ours = free_form_holes(key_of(batch), (side, side), 0.2).view(batch, side, side).numpy()
    count = hidden_count(side * side, 0.2)
    row, column = np.mgrid[:side, :side]
    for picture in range(batch):
        drawn = np.zeros((side + 8, side + 8), dtype=bool)
        for place, reach in zip(pixel[picture], radius[picture], strict=True):
            before, (top, left) = drawn[4:-4, 4:-4].copy(), divmod(place, side)
            drawn[4 + top - reach : 5 + top + reach, 4 + left - reach : 5 + left + reach] |= brush(reach)
            if drawn[4:-4, 4:-4].sum() >= count:
                break
        else:
            pytest.fail("too few dabs for this test")
        order = np.where(before, 0, 1 + np.floor(np.hypot(row - top, column - left)))
        expected = np.argsort(np.argsort(order.ravel(), kind="stable")).reshape(side, side) < count
        assert np.array_equal(ours[picture], expected)


def test_strokes_are_zigzags_of_the_published_shape():
    """Ends of segments, recovered from the last dab of each, where the picture's edge cuts nothing."""
    side, longest, dabs = 4000, 200.0, 5
    pixel, radius = holes._dabs(key_of(2000), (side, side), longest, (5, 9), 3, dabs)
    pixel, radius = pixel.view(-1, 11, dabs).numpy(), radius.view(-1, 11 * dabs).numpy()
    assert (radius == radius[:, :1]).all()
    assert scipy_stats.chisquare(np.bincount(radius[:, 0])[5:]).pvalue > 1e-3
    ends = np.stack(np.divmod(pixel[:, :, -1], side), -1).astype(float)
    starts = np.stack(np.divmod(pixel[:, 0, 0], side), -1)
    steps = np.diff(ends, axis=1)
    lengths = np.hypot(*steps.transpose(2, 0, 1))
    segments = 1 + (lengths > 0).sum(1)
    inside = ((ends > 0) & (ends < side - 1)).all((1, 2)) & (starts > 0).all(1)
    assert segments.max() == 11
    # what stays at an edge or in a corner may move no more, so the shortest come from strokes inside
    assert segments[inside].min() == 4
    long = inside & (segments >= 4)
    first = lengths[long][:, :3]
    assert 0.95 * longest < first.max() <= longest + 2
    assert abs(first.mean() - longest / 2) < 0.02 * longest
    turned = np.arctan2(steps[long][:, :3, 0], steps[long][:, :3, 1])
    # the second segment turns right and the third left, by the sum of two turns
    angle = (np.diff(turned, axis=1) * [-1, 1] % (2 * np.pi))[np.minimum(first[:, 1:], first[:, :-1]) > 50]
    assert angle.min() > 2 * (2 * math.pi / 5 - 2 * math.pi / 15) - 0.05
    assert angle.max() < 2 * (2 * math.pi / 5 + 2 * math.pi / 15) + 0.05
    assert abs(angle.mean() - 4 * math.pi / 5) < 0.03
    # strokes run in any direction
    assert np.hypot(np.cos(turned).mean(), np.sin(turned).mean()) < 0.06


def test_free_form_holes_have_no_crumbs():
    """All but the last dab, and what the picture's edge cuts, is as wide as the thinnest brush."""
    hidden = free_form_holes(key_of(40), (128, 128), 0.3).view(40, 128, 128).numpy()
    for mask in hidden:
        padded = np.pad(mask, 3, mode="edge")
        opened = ndimage.binary_opening(padded, brush(2))[3:-3, 3:-3]
        assert (mask & ~opened).sum() < 40
        assert ndimage.label(mask)[1] <= 12


def test_a_larger_hole_continues_the_drawing_of_a_smaller_one():
    fractions = [free_form_holes(key_of(50), (64, 64), fraction) for fraction in (0.1, 0.3, 0.6)]
    for small, large in itertools.pairwise(fractions):
        # a few pixels of the last dab, which is round, lie beside the octagon
        assert (small & ~large).sum(1).max() < 10


def test_a_drawing_that_runs_out_is_completed_in_one_piece(monkeypatch):
    monkeypatch.setattr(holes, "_stroke_limit", lambda _: 1)
    monkeypatch.setattr(holes, "_block_limit", lambda _: 1)
    for name in RANDOM:
        hidden = HOLES[name](key_of(20), (32, 32), 0.8)
        assert (hidden.sum(1) == hidden_count(1024, 0.8)).all()
        assert all(ndimage.label(mask.view(32, 32).numpy())[1] == 1 for mask in hidden)


def test_long_pictures_have_more_dabs_than_16_bits_number():
    hidden = free_form_holes(key_of(2), (2, 1500), 0.97)
    assert (hidden.sum(1) == hidden_count(3000, 0.97)).all()


RESTART = "import sys; sys.path.insert(0, {here!r}); from test_holes import fingerprint; print(fingerprint())"


def fingerprint():
    key = key_of(torch.arange(32) * 977 - 5, epoch=3, seed=11)
    return hashlib.sha256(b"".join(f(key, (30, 44), 0.35).numpy().tobytes() for f in HOLES.values())).hexdigest()


def test_same_bits_after_a_restart():
    """In a new process, under another hash seed and number of threads."""
    child = subprocess.run(
        [sys.executable, "-c", RESTART.format(here=str(Path(__file__).parent))],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout.strip() == fingerprint()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", HOLES)
def test_cpu_and_gpu_agree_bit_for_bit_without_waiting(name):
    ids = torch.arange(500)
    on_cpu = HOLES[name](key_of(ids), (48, 56), 0.35)
    key = key_of(ids.cuda())
    HOLES[name](key, (48, 56), 0.35)  # fills the tables that are computed on the host
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = HOLES[name](key, (48, 56), 0.35)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize(
    ("size", "fraction", "sentence"),
    [
        ((8, 8), 0.0, "mask_fraction must be between 0 and 1"),
        ((8, 8), 1.0, "mask_fraction must be between 0 and 1"),
        ((1, 1), 0.5, "leaves nothing visible"),
        (64, 0.5, "needs a grid of"),
        ((8, 0), 0.5, "needs a grid of"),
    ],
)
def test_bad_requests_are_refused(name, size, fraction, sentence):
    with pytest.raises(UserError, match=sentence):
        HOLES[name](key_of(1), size, fraction)
