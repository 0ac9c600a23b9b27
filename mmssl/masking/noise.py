"""Counter-based noise: random bits as a pure function of (seed, epoch, sample id, stream, position).

There is no generator and so no state: the bits of a sample are the same in any batch, order, worker, rank, process and
device. That holds because every step is wrapping integer arithmetic, which has one right answer everywhere.

Two stages. Each sample's (seed, stream, id, epoch) goes through a 64-bit mix to a pair of 32-bit row keys. Then the
position, whitened once for all rows, meets the first key before, and the second between, two multiply-xorshift rounds.
With two keys at different depths two rows are not shifted or permuted copies of each other, as they would be if a
single key were added to a counter.

Every step of the second stage is a bijection of the 32-bit word, hence **within a row no two positions have the same
bits**: sorting them meets no tie, and "the k smallest" is exactly k positions on every device.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.errors import UserError

_WORD64 = (1 << 64) - 1
# 2^64 and 2^32 over the golden ratio, odd: steps of a Weyl sequence (Knuth, TAOCP vol. 3, section 6.4).
_GOLDEN64 = 0x9E3779B97F4A7C15
_GOLDEN32 = 0x9E3779B9
# The same in two dimensions: 2^64 over the plastic number and over its square, odd (Roberts 2018, "The unreasonable
# effectiveness of quasirandom sequences", R2). id * A + epoch * B takes no value twice while epochs lie less than 10^6
# and ids less than 2^43 apart.
_PLASTIC64_A = 0xC13FA9A902A6328F
_PLASTIC64_B = 0x91E10DA5C79E7B1D


def _signed(word: int, bits: int) -> int:
    """The two's complement reading of an unsigned word: torch takes no unsigned constants."""
    return word - (1 << bits) if word >> (bits - 1) else word


# Finalizer of SplitMix64, variant 13 of Stafford's "Better bit mixing" (Steele, Lea & Flood, OOPSLA 2014, figure 16).
_MIX64 = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
# "lowbias32" of Chris Wellons' Hash Prospector (2018): bias 0.174, against 0.26 for the finalizer of MurmurHash3.
_SHIFT_A, _MULTIPLY_A, _SHIFT_B, _MULTIPLY_B, _SHIFT_C = (
    16,
    _signed(0x7FEB352D, 32),
    15,
    _signed(0x846CA68B, 32),
    16,
)


def _mix64_int(word: int) -> int:
    for shift, factor in _MIX64:
        word = (word ^ (word >> shift)) * factor & _WORD64
    return word


def _mix64(words: Int[Tensor, "batch"]) -> Int[Tensor, "batch"]:
    for shift, factor in _MIX64:
        # torch shifts int64 arithmetically; the mask makes it logical
        words = words ^ ((words >> shift) & (_WORD64 >> shift))
        if factor != 1:
            words = words * _signed(factor, 64)
    return words


@lru_cache(maxsize=1024)
def _stream_word(seed: int, stream: int) -> int:
    """Seed and stream in one signed 64-bit word; never two equal ones for the streams of one seed, or the reverse."""
    return _signed(_mix64_int(_mix64_int((seed + _GOLDEN64) & _WORD64) ^ (stream & _WORD64)), 64)


def _xorshift_(words: Int[Tensor, "*shape"], shift: int, scratch: Int[Tensor, "*shape"]) -> None:
    torch.bitwise_right_shift(words, shift, out=scratch)
    words.bitwise_xor_(scratch.bitwise_and_(0xFFFFFFFF >> shift))


@dataclass(frozen=True)
class NoiseKey:
    """What the noise of a batch depends on, one entry per sample.

    Args:
        seed: any integer of 64 bits, negative ones included.
        epoch: integer tensor [batch], the epoch each sample belongs to (a batch may straddle two).
        id: integer tensor [batch], stable per sample; all 64 bits count.

    Raises:
        UserError: for a seed beyond 64 bits, and for ids and epochs that are not two integer vectors of equal length on
            one device.
    """

    seed: int
    epoch: Int[Tensor, "batch"]
    id: Int[Tensor, "batch"]

    def __post_init__(self) -> None:
        if not -(1 << 63) <= operator.index(self.seed) < 1 << 63:
            raise UserError(f"seed {self.seed} does not fit in 64 bits: choose one between -2**63 and 2**63 - 1")
        for name, tensor in (("epoch", self.epoch), ("id", self.id)):
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
                raise UserError(f"{name} must be an integer tensor, got {tensor.dtype}: convert it to torch.int64")
        if self.id.ndim != 1 or self.epoch.shape != self.id.shape or self.epoch.device != self.id.device:
            raise UserError(
                f"id and epoch must be vectors with one entry per sample on one device, got {list(self.id.shape)} on "
                f"{self.id.device} and {list(self.epoch.shape)} on {self.epoch.device}"
            )

    @classmethod
    def of(cls, batch: Mapping[str, Tensor], seed: int) -> "NoiseKey":
        """The key of a batch, from its ``epoch`` and ``id``."""
        return cls(seed, batch["epoch"], batch["id"])

    def __len__(self) -> int:
        return self.id.shape[0]

    @property
    def device(self) -> torch.device:
        return self.id.device

    def bits(self, length: int, stream: int = 0) -> Int[Tensor, "batch length"]:
        """32 random bits (int32) for each sample and each position 0 ... length - 1; all different within a sample.

        ``stream`` separates independent draws for the same sample. A longer ``length`` extends a row and changes
        nothing in its beginning.
        """
        return self.bits_at(torch.arange(length, dtype=torch.int32, device=self.device), stream)

    def bits_at(self, positions: Int[Tensor, "*rows token"], stream: int = 0) -> Int[Tensor, "batch token"]:
        """As :meth:`bits`, at the given int32 positions: one vector for all samples, or a row for each."""
        first, second = self._row_keys(stream)
        white = positions * _signed(_GOLDEN32, 32)
        _xorshift_(white, _SHIFT_A, torch.empty_like(white))
        words = white * _MULTIPLY_A ^ first
        scratch = torch.empty_like(words)
        _xorshift_(words, _SHIFT_A, scratch)
        words *= _MULTIPLY_A
        words ^= second
        _xorshift_(words, _SHIFT_B, scratch)
        words *= _MULTIPLY_B
        _xorshift_(words, _SHIFT_C, scratch)
        return words

    def uniform(self, length: int, stream: int = 0) -> Float[Tensor, "batch length"]:
        """Uniform float32 in [0, 1) for each sample and position: the upper 24 bits of :meth:`bits`."""
        return ((self.bits(length, stream) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24

    def _row_keys(self, stream: int) -> tuple[Int[Tensor, "batch 1"], Int[Tensor, "batch 1"]]:
        # SplitMix64 counting along two axes, from a place given by seed and stream. No two ids of an epoch, and no two
        # epochs of an id, share their pair of keys, since each step is a bijection.
        place = self.epoch.to(torch.int64) * _signed(_PLASTIC64_B, 64) + _stream_word(self.seed, stream)
        state = _mix64(self.id.to(torch.int64) * _signed(_PLASTIC64_A, 64) + place)
        return state.to(torch.int32).unsqueeze(1), (state >> 32).to(torch.int32).unsqueeze(1)
