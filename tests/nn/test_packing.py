"""Packed sequences: each gives what it gives alone, whatever its neighbours, and gradients are the same."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmssl.errors import UserError
from mmssl.nn import Packing, Transformer, TransformerConfig, padding_mask

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def make(norm="post", **changes) -> Transformer:
    torch.manual_seed(0)
    trunk = Transformer(TransformerConfig(dim=16, depth=2, heads=4, mlp_dim=24, norm=norm, **changes)).double()
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.3)
    return trunk


def packed(lengths: list[int], seed: int = 1) -> tuple[Tensor, Packing]:
    x = torch.randn(1, sum(lengths), 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x, Packing(torch.tensor(lengths), sum(lengths), max(lengths))


LENGTHS = ([5], [4, 4, 4], [9, 8, 8, 5, 5, 2, 1], [1, 7, 3, 7], [6, 1])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_each_sequence_gets_what_it_gets_alone(lengths, norm):
    trunk = make(norm)
    x, packing = packed(lengths)
    together = trunk(x, packing)
    for sequence, result in zip(x.split(lengths, 1), together.split(lengths, 1), strict=True):
        torch.testing.assert_close(trunk(sequence), result, **EXACT)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.data())
def test_some_outputs_and_their_gradients_equal_those_of_a_padded_batch(lengths, data):
    trunk = make()
    x, packing = packed(lengths)
    chosen = data.draw(st.lists(st.integers(0, sum(lengths) - 1), min_size=1, max_size=7, unique=True))
    ids = torch.tensor([sorted(chosen)])
    trunk(x, packing, output=ids).square().sum().backward()
    own = [parameter.grad.clone() for parameter in trunk.parameters()]
    trunk.zero_grad()

    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    padded = torch.full((*valid.shape, 16), 1e3, dtype=torch.float64)
    padded[valid] = x[0]
    result = trunk(padded, padding_mask(valid))[valid][ids[0]]
    torch.testing.assert_close(trunk(x, packing, output=ids)[0], result, **EXACT)
    result.square().sum().backward()
    for mine, parameter in zip(own, trunk.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-7, atol=1e-7)


def test_positions_and_sequences_are_counted_from_the_lengths():
    packing = Packing(torch.tensor([3, 1, 2]), 6, 3)
    assert packing.sequence.tolist() == [0, 0, 0, 1, 2, 2]
    assert packing.position.tolist() == [0, 1, 2, 0, 0, 1]
    assert packing.pick(torch.tensor([[0, 2, 5]])).lengths.tolist() == [2, 0, 1]


def test_similar_lengths_are_padded_together_and_equal_ones_not_at_all():
    packing = Packing(torch.tensor([100, 100, 90, 80, 40, 39, 8]), 457, 100)
    assert packing.runs == [(0, 4), (4, 6), (6, 7)]
    assert packing.rows(0, 4).longest == 100
    assert Packing(torch.tensor([5, 5, 5]), 15, 5).rows(0, 3).padded is None


def test_a_slice_of_a_packed_batch_is_refused():
    x, packing = packed([3, 2])
    with pytest.raises(UserError, match="ids"):
        make()(x, packing, output=slice(0, 1))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_gives_the_same(dtype):
    trunk = make()
    x, packing = packed([64, 33, 33, 20, 7, 1])
    ids = torch.tensor([[0, 5, 63, 64, 100, 157]])
    expected = trunk(x, packing, output=ids)
    there = Packing(packing.lengths.cuda(), packing.total, packing.longest)
    result = trunk.cuda().to(dtype)(x.cuda().to(dtype), there, output=ids.cuda())
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(result.cpu().double(), expected, rtol=tolerance, atol=tolerance)
