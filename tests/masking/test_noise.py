"""The noise: an independent twin in plain Python, statistics of the bits, and what they may depend on."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.masking import NoiseKey

scipy_stats = pytest.importorskip("scipy.stats")

WORD = (1 << 64) - 1


def key_of(ids, epochs=0, seed=0):
    ids = torch.as_tensor(ids, dtype=torch.int64)
    epochs = torch.full_like(ids, epochs) if isinstance(epochs, int) else torch.as_tensor(epochs, dtype=torch.int64)
    return NoiseKey(seed, epochs, ids)


def unsigned(bits):
    return bits.numpy().view(np.uint32)


def splitmix_finalizer(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def python_bits(seed, epoch, sample, stream, position):
    """The same function on Python's unbounded integers, in unsigned arithmetic."""
    golden = 0x9E3779B97F4A7C15
    word = splitmix_finalizer(splitmix_finalizer((seed + golden) & WORD) ^ stream)
    state = splitmix_finalizer((word + sample * 0xC13FA9A902A6328F + epoch * 0x91E10DA5C79E7B1D) & WORD)
    first, second = state & 0xFFFFFFFF, state >> 32
    x = position * 0x9E3779B9 & 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 0x7FEB352D & 0xFFFFFFFF) ^ first
    x ^= x >> 16
    x = (x * 0x7FEB352D & 0xFFFFFFFF) ^ second
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ (x >> 16)


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    epoch=st.integers(0, 2**40),
    sample=st.integers(-(2**63), 2**63 - 1),
    stream=st.integers(0, 2**63),
    position=st.integers(0, 300),
)
def test_bits_equal_those_of_plain_integer_arithmetic(seed, epoch, sample, stream, position):
    bits = NoiseKey(seed, torch.tensor([epoch]), torch.tensor([sample])).bits(position + 1, stream)
    assert bits.dtype == torch.int32
    assert int(unsigned(bits)[0, position]) == python_bits(seed, epoch, sample, stream, position)


def test_bits_of_a_sample_ignore_batch_order_size_and_length():
    ids = torch.arange(50) * 977
    whole = key_of(ids).bits(64, stream=3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(key_of(ids[order]).bits(64, stream=3), whole[order])
    assert torch.equal(key_of(ids[7:8]).bits(64, stream=3), whole[7:8])
    assert torch.equal(key_of(ids).bits(17, stream=3), whole[:, :17])


def test_bits_at_reads_the_same_noise_at_any_positions():
    key = key_of(range(4))
    positions = torch.tensor([[3, 0], [1, 1], [9, 2], [5, 4]], dtype=torch.int32)
    assert torch.equal(key.bits_at(positions, 5), key.bits(10, 5).gather(1, positions.long()))


def test_ids_and_epochs_do_not_step_on_each_other():
    """id * A + epoch * B is never repeated: for any two epochs under 10^6 apart the ids are at least 2^43 apart."""
    ratio = 0x91E10DA5C79E7B1D * pow(0xC13FA9A902A6328F, -1, 2**64) % 2**64
    apart = (np.arange(1, 10**6, dtype=np.uint64) * np.uint64(ratio)).view(np.int64)
    assert np.abs(apart).min() >= 2**43


def test_bits_differ_everywhere_within_a_row():
    bits = key_of(range(20)).bits(50_000)
    assert all(len(np.unique(row)) == 50_000 for row in unsigned(bits))


def test_rows_are_not_shifted_or_permuted_copies_of_each_other():
    rows = unsigned(key_of(range(24)).bits(20_000))
    shared = sum(len(np.intersect1d(a, b)) for a, b in itertools.combinations(rows, 2))
    expected = 24 * 23 / 2 * 20_000**2 / 2**32
    assert scipy_stats.poisson.sf(shared - 1, expected) > 1e-3


def test_all_64_bits_of_an_id_count():
    ids = [1, 1 + 2**32, 1 + 2**62, 1 - 2**63]
    bits = key_of(ids).bits(8)
    assert len({tuple(row) for row in bits.tolist()}) == len(ids)


def test_seed_epoch_id_and_stream_all_change_the_bits():
    reference = key_of([5], 2, 7).bits(100, 1)
    for other in (
        key_of([5], 2, 8).bits(100, 1),
        key_of([5], 2, -7).bits(100, 1),
        key_of([5], 3, 7).bits(100, 1),
        key_of([6], 2, 7).bits(100, 1),
        key_of([5], 2, 7).bits(100, 2),
        key_of([2], 5, 7).bits(100, 1),
    ):
        assert not (other == reference).any()


def test_uniform_is_the_upper_bits_in_the_unit_interval():
    key = key_of(range(100))
    draws = key.uniform(1000, stream=4)
    assert draws.dtype == torch.float32
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.array_equal(draws.numpy() * 2**24, unsigned(key.bits(1000, stream=4)) >> 8)
    assert scipy_stats.kstest(draws.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_is_uniform(shift):
    values = (unsigned(key_of(range(1000)).bits(1000)) >> shift) & 0xFF
    counts = np.bincount(values.ravel(), minlength=256)
    assert scipy_stats.chisquare(counts).pvalue > 1e-3


def pairs():
    """Two arrays of draws each, which must be independent of each other."""
    n, length = 4000, 64
    ids = torch.arange(n)
    base = key_of(ids).bits(length)
    yield "next id", base[:-1], base[1:]
    yield "next id, next position", base[:-1, :-1], base[1:, 1:]
    yield "next position", base[:, :-1], base[:, 1:]
    yield "position 32 on", base[:, :32], base[:, 32:]
    yield "id 2^32 on", base, key_of(ids + 2**32).bits(length)
    yield "next epoch", base, key_of(ids, 1).bits(length)
    yield "next epoch, previous id", base[1:], key_of(ids[:-1], 1).bits(length)
    yield "next stream", base, key_of(ids).bits(length, 1)
    yield "next seed", base, key_of(ids, 0, 1).bits(length)


@pytest.mark.parametrize(("a", "b"), [pytest.param(a, b, id=name) for name, a, b in pairs()])
@pytest.mark.parametrize("shift", [0, 28], ids=["low bits", "high bits"])
def test_neighbouring_draws_are_independent(a, b, shift):
    """Joint counts of four bits of each in 16 x 16 cells; and the exclusive or of the two has balanced bits."""
    a, b = unsigned(a.contiguous()).ravel(), unsigned(b.contiguous()).ravel()
    joint = np.bincount(((a >> shift) & 15) * 16 + ((b >> shift) & 15), minlength=256)
    assert scipy_stats.chisquare(joint).pvalue > 1e-3
    balance = np.array([((a ^ b) >> bit & 1).mean() for bit in range(32)])
    assert np.abs(balance - 0.5).max() * 2 * np.sqrt(a.size) < 4.5


def flips():
    n = 4000
    ids, epochs = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    for bit in (0, 1, 7, 31, 32, 62):
        yield f"id bit {bit}", lambda bit=bit: (key_of(ids), key_of(ids ^ (1 << bit)), 0, 0)
        yield f"epoch bit {bit}", lambda bit=bit: (key_of(ids), key_of(ids, epochs ^ (1 << bit)), 0, 0)
        yield f"seed bit {bit}", lambda bit=bit: (key_of(ids), key_of(ids, 0, 1 << bit), 0, 0)
        yield f"stream bit {bit}", lambda bit=bit: (key_of(ids), key_of(ids), 1 << bit, 0)
    for bit in range(0, 16, 3):
        yield f"position bit {bit}", lambda bit=bit: (key_of(ids), key_of(ids), 0, 1 << bit)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in flips()])
def test_avalanche(case):
    """One flipped bit of any input flips each bit of the output half of the time."""
    key, other, stream, position = case()
    at = torch.tensor([5], dtype=torch.int32)
    changed = unsigned(key.bits_at(at)) ^ unsigned(other.bits_at(at ^ position, stream))
    share = np.array([(changed >> bit & 1).mean() for bit in range(32)])
    assert np.abs(share - 0.5).max() * 2 * np.sqrt(changed.size) < 4.5


def test_key_of_a_batch():
    batch = {"id": torch.tensor([3, 4]), "epoch": torch.tensor([0, 1]), "image": torch.zeros(2, 1)}
    key = NoiseKey.of(batch, 9)
    assert len(key) == 2
    assert key.device == batch["id"].device
    assert torch.equal(key.bits(5), key_of([3, 4], [0, 1], 9).bits(5))


@pytest.mark.parametrize(
    ("seed", "epoch", "ids", "sentence"),
    [
        (2**63, torch.zeros(2, dtype=torch.int64), torch.arange(2), "seed .* does not fit in 64 bits"),
        (0, torch.zeros(2), torch.arange(2), "epoch must be an integer tensor, got torch.float32"),
        (0, torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), "id must be an integer tensor"),
        (0, torch.zeros(3, dtype=torch.int64), torch.arange(2), "one entry per sample"),
        (0, torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64), "one entry per sample"),
    ],
)
def test_bad_keys_are_refused(seed, epoch, ids, sentence):
    with pytest.raises(UserError, match=sentence):
        NoiseKey(seed, epoch, ids)
