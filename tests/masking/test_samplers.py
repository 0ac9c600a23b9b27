"""What every sampler promises, on random grids, fractions and padding."""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.masking import SAMPLERS, MaskPlan, NoiseKey, fixed_hidden_count, hidden_count, random_mask, tube_mask

scipy_stats = pytest.importorskip("scipy.stats")


def key_of(ids, epoch=0, seed=0):
    ids = torch.as_tensor(ids, dtype=torch.int64)
    return NoiseKey(seed, torch.full_like(ids, epoch), ids)


def words(batch, tokens, seed=0):
    """Unit numbers of runs of one to four tokens."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, tokens, generator=generator) < 0.5).cumsum(1)


# One way to call each sampler, on a grid that suits it. "unit" with the options that make its count exact.
CASES = {
    "random": ("random", (13,), {}),
    "random_image": ("random", (5, 7), {}),
    "block": ("block", (6, 9), {}),
    "inverse_block": ("inverse_block", (6, 9), {}),
    "span": ("span", (40,), {"span": 4}),
    "span_starts": ("span", (40,), {"span": 4, "exact": False}),
    "span_inside": ("span", (40,), {"span": 4, "exact": False, "inside": True}),
    "tube": ("tube", (3, 4, 5), {}),
    "unit": ("unit", (40,), {}),
}
EXACT = [name for name in CASES if name not in ("span_starts", "span_inside", "unit")]


def sample(case, key, fraction, valid=None, grid=None, units=None):
    sampler, default_grid, options = CASES[case]
    grid = grid or default_grid
    if sampler == "unit":
        units = words(1, math.prod(grid)).expand(len(key), -1) if units is None else units
        options = options | {"units": units}
    return SAMPLERS[sampler](key, grid, fraction, valid=valid, **options)


def grids(case):
    sides = len(CASES[case][1])
    sizes = [st.integers(2, 60), st.integers(1, 12), st.integers(1, 6)][sides - 1]
    return st.tuples(*[sizes] * sides).filter(lambda grid: math.prod(grid[-2:]) >= 2)


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_properties_on_any_grid_fraction_and_padding(case, data):
    grid = data.draw(grids(case))
    if "span" in case:
        grid = (max(grid[0], 5),)
    tokens = math.prod(grid)
    fraction = data.draw(st.floats(0.02, 0.98))
    batch = data.draw(st.integers(1, 6))
    ids = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=batch, max_size=batch))
    key = key_of(ids, data.draw(st.integers(0, 1000)), data.draw(st.integers(-100, 100)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    valid = torch.rand(batch, tokens, generator=generator) < data.draw(st.floats(0, 1))
    hidden = sample(case, key, fraction, valid, grid)
    assert hidden.shape == valid.shape
    assert hidden.dtype == torch.bool
    assert not (hidden & ~valid).any()
    if case in EXACT and case != "tube":
        for hidden_tokens, real in zip(hidden.sum(1).tolist(), valid.sum(1).tolist(), strict=True):
            wanted = real - int(real * (1 - fraction))
            assert hidden_tokens == max(min(wanted, real - 1), 0)
    try:
        count = hidden_count(math.prod(grid[-2:]) if case == "tube" else tokens, fraction)
    except UserError:
        return
    hidden = sample(case, key, fraction, None, grid)
    if case in EXACT:
        count *= grid[0] if case == "tube" else 1
        assert hidden.sum(1).tolist() == [count] * batch
        assert fixed_hidden_count(CASES[case][0], grid, fraction) == count
        plan = MaskPlan.from_hidden(hidden, hidden_count=count)
        x = torch.rand(batch, tokens, 2, generator=generator)
        assert torch.equal(plan.put_back(plan.take_visible(x), plan.take_hidden(x)), x)
    all_real = sample(case, key, fraction, torch.ones_like(valid), grid)
    assert torch.equal(all_real, hidden), "valid everywhere is the same as no padding"


@pytest.mark.parametrize("case", CASES)
def test_neighbours_batch_size_and_order_do_not_matter(case):
    tokens = math.prod(CASES[case][1])
    ids = torch.arange(32) * 10**12
    valid = torch.rand(32, tokens, generator=torch.Generator().manual_seed(1)) < 0.8
    units = words(32, tokens)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2))
    for mask in (None, valid):
        whole = sample(case, key_of(ids), 0.4, mask, units=units)
        shuffled = sample(case, key_of(ids[order]), 0.4, None if mask is None else mask[order], units=units[order])
        assert torch.equal(shuffled, whole[order])
        for row in (0, 13, 31):
            rows = slice(row, row + 1)
            alone = sample(case, key_of(ids[rows]), 0.4, None if mask is None else mask[rows], units=units[rows])
            assert torch.equal(alone, whole[rows])


@pytest.mark.parametrize("case", ["random", "span", "span_starts", "span_inside", "unit"])
@pytest.mark.parametrize("before", [0, 5])
def test_the_amount_of_padding_of_a_sequence_does_not_matter(case, before):
    length, batch = 37, 16
    key, units = key_of(range(batch)), words(batch, length)
    alone = sample(case, key, 0.4, torch.ones(batch, length, dtype=torch.bool), (length,), units)
    for after in (1, 27, 100):
        pad = (before, after)
        valid = torch.nn.functional.pad(torch.ones(batch, length, dtype=torch.bool), pad)
        padded = sample(case, key, 0.4, valid, (before + length + after,), torch.nn.functional.pad(units, pad))
        assert torch.equal(padded[:, before : before + length], alone)


@pytest.mark.parametrize("case", ["random_image", "block", "inverse_block", "tube"])
def test_the_amount_of_padding_of_an_image_does_not_matter(case):
    batch, grid = 16, CASES[case][1]
    frames = grid[:-2]
    key = key_of(range(batch))
    alone = sample(case, key, 0.4).unflatten(1, grid)
    for below, right in ((1, 0), (0, 3), (4, 2)):
        real = torch.nn.functional.pad(torch.ones(batch, *grid, dtype=torch.bool), (0, right, 0, below))
        padded = sample(case, key, 0.4, real.flatten(1), (*frames, grid[-2] + below, grid[-1] + right))
        assert torch.equal(padded.view_as(real)[..., : grid[-2], : grid[-1]], alone)


@pytest.mark.parametrize("case", CASES)
def test_epoch_seed_and_id_change_the_mask(case):
    ids = torch.arange(200)
    reference = sample(case, key_of(ids), 0.5)
    for other in (key_of(ids, epoch=1), key_of(ids, seed=1), key_of(ids + 200)):
        assert (sample(case, other, 0.5) != reference).any(1).float().mean() > 0.9


RESTART = """
import sys
sys.path.insert(0, {here!r})
from test_samplers import fingerprint
print(fingerprint())
"""


def fingerprint():
    digest = hashlib.sha256()
    key = key_of(torch.arange(64) * 977 - 5, epoch=3, seed=11)
    for case, (_, grid, _) in CASES.items():
        valid = torch.rand(64, math.prod(grid), generator=torch.Generator().manual_seed(1)) < 0.8
        for mask in (None, valid):
            digest.update(sample(case, key, 0.45, mask).numpy().tobytes())
    return digest.hexdigest()


def test_same_bits_after_a_restart():
    """In a new process, under another hash seed and another number of threads."""
    torch.rand(7)
    here = str(Path(__file__).parent)
    child = subprocess.run(
        [sys.executable, "-c", RESTART.format(here=here)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "123", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout.strip() == fingerprint()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES)
def test_cpu_and_gpu_agree_bit_for_bit(case):
    tokens = math.prod(CASES[case][1])
    ids = torch.arange(5000)
    valid = torch.rand(5000, tokens, generator=torch.Generator().manual_seed(1)) < 0.8
    units = words(5000, tokens)
    for mask in (None, valid):
        on_cpu = sample(case, key_of(ids), 0.45, mask, units=units)
        on_gpu = sample(case, key_of(ids.cuda()), 0.45, None if mask is None else mask.cuda(), units=units.cuda())
        assert on_gpu.is_cuda
        assert torch.equal(on_gpu.cpu(), on_cpu)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", EXACT)
def test_sampling_and_planning_do_not_wait_for_the_gpu(case):
    key = key_of(torch.arange(8).cuda())
    grid = CASES[case][1]
    valid = torch.rand(8, math.prod(grid), device="cuda") < 0.8
    count = fixed_hidden_count(CASES[case][0], grid, 0.45)
    sample(case, key, 0.45), sample(case, key, 0.45, valid)  # fills the tables that are computed on the host
    torch.cuda.set_sync_debug_mode("error")
    try:
        MaskPlan.from_hidden(sample(case, key, 0.45), hidden_count=count)
        MaskPlan.from_hidden(sample(case, key, 0.45, valid), valid, hidden_count=count, visible_count=valid.shape[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def largest_z(hits, draws, probability):
    """Largest deviation of binomial counts from their mean in standard deviations."""
    return float(((hits - draws * probability).abs() / math.sqrt(draws * probability * (1 - probability))).max())


@pytest.mark.parametrize("case", ["random", "random_image", "inverse_block", "span", "tube"])
@pytest.mark.parametrize("fraction", [0.15, 0.6])
def test_every_position_is_covered_equally_edges_and_corners_included(case, fraction):
    """10,000 draws; a binomial deviation beyond 4.5 standard deviations has a probability of 7e-6 a position."""
    hidden = sample(case, key_of(range(10_000)), fraction)
    probability = hidden.float().mean().item()
    assert largest_z(hidden.sum(0), 10_000, probability) < 4.5


def test_random_mask_is_uniform_over_all_subsets():
    hidden = random_mask(key_of(range(40_000)), 7, 0.43)
    code = (hidden.long() << torch.arange(7)).sum(1)
    counts = torch.bincount(code, minlength=128)
    counts = counts[counts > 0]
    assert len(counts) == math.comb(7, 4)
    assert scipy_stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_masks_of_neighbouring_samples_and_epochs_are_independent():
    a = random_mask(key_of(range(20_000)), 64, 0.5)
    b = random_mask(key_of(range(20_000), epoch=1), 64, 0.5)
    for left, right in ((a[:-1], a[1:]), (a, b), (a[1:], b[:-1])):
        both = (left & right).sum().item()
        deviation = (both - left.numel() / 4) / math.sqrt(left.numel() / 16)
        assert abs(deviation) < 4


def test_tube_mask_hides_the_same_patches_in_every_frame():
    hidden = tube_mask(key_of(range(100)), (6, 4, 5), 0.7).view(100, 6, 20)
    assert (hidden == hidden[:, :1]).all()
    assert (hidden[:, 0].sum(1) == hidden_count(20, 0.7)).all()


def test_tube_mask_of_a_shorter_clip_is_that_of_the_long_one_where_it_is_real():
    valid = (torch.arange(6) < 4).repeat_interleave(20).expand(100, 120)
    hidden = tube_mask(key_of(range(100)), (6, 4, 5), 0.7, valid=valid)
    assert torch.equal(hidden, tube_mask(key_of(range(100)), (6, 4, 5), 0.7) & valid)


def test_samples_too_short_to_hide_one_and_keep_one_hide_none():
    valid = torch.tensor([[False] * 4, [True, False, False, False], [True, True, False, False], [True] * 4])
    assert random_mask(key_of(range(4)), 4, 0.75, valid=valid).sum(1).tolist() == [0, 0, 1, 3]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), "0.5"])
def test_impossible_fractions_are_refused(case, fraction):
    tokens = math.prod(CASES[case][1])
    for valid in (None, torch.ones(2, tokens, dtype=torch.bool)):
        with pytest.raises(UserError, match="mask_fraction must be between 0 and 1"):
            sample(case, key_of([0, 1]), fraction, valid)


@pytest.mark.parametrize("case", EXACT)
def test_fractions_that_leave_nothing_visible_are_refused(case):
    with pytest.raises(UserError, match="leaves nothing visible"):
        sample(case, key_of([0, 1]), 0.999)


@pytest.mark.parametrize("case", CASES)
def test_a_valid_that_does_not_fit_is_refused(case):
    tokens = math.prod(CASES[case][1])
    for valid, sentence in (
        (torch.ones(2, tokens), "valid must be a boolean tensor"),
        (torch.ones(2, tokens + 1, dtype=torch.bool), rf"valid must have the shape \[2, {tokens}\]"),
        (torch.ones(3, tokens, dtype=torch.bool), "of batch and grid"),
        (torch.ones(tokens, dtype=torch.bool), "of batch and grid"),
    ):
        with pytest.raises(UserError, match=sentence):
            sample(case, key_of([0, 1]), 0.5, valid)


@pytest.mark.parametrize(
    ("sampler", "grid"),
    [
        ("random", (2, 2, 2, 2)),
        ("random", (4, 0)),
        ("random", 2.0),
        ("block", 16),
        ("block", (2, 4, 4)),
        ("inverse_block", (16,)),
        ("span", (4, 4)),
        ("tube", (4, 4)),
        ("unit", (4, 4)),
    ],
)
def test_grids_a_sampler_cannot_work_on_are_refused(sampler, grid):
    options = {"units": torch.zeros(1, 16, dtype=torch.int64)} if sampler == "unit" else {}
    with pytest.raises(UserError, match=f"{sampler}_mask needs a grid of"):
        SAMPLERS[sampler](key_of([0]), grid, 0.5, **options)


def test_a_grid_beyond_the_range_of_cell_addresses_is_refused():
    with pytest.raises(UserError, match="too large"):
        random_mask(key_of([0]), (2, 5000), 0.5)


def test_fixed_hidden_count_knows_its_samplers():
    assert fixed_hidden_count("unit", 10, 0.5) is None
    assert fixed_hidden_count("random", 10, 0.5) == 5
    with pytest.raises(UserError, match="choose one of random, block"):
        fixed_hidden_count("rnadom", 10, 0.5)
