"""MaskPlan: indices against a plain Python twin, exact inverses, static and padded shapes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.errors import UserError
from mmssl.masking import MaskPlan


@st.composite
def masks(draw, padded=True):
    batch, tokens = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    bools = st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=batch, max_size=batch)
    hidden = torch.tensor(draw(bools))
    valid = torch.tensor(draw(bools)) if padded and draw(st.booleans()) else None
    return hidden, valid


@settings(deadline=None)
@given(masks(), st.sampled_from([(), (3,), (2, 2)]), st.booleans())
def test_takes_agree_with_boolean_indexing_and_put_back_inverts_them(mask, rest, with_counts):
    hidden, valid = mask
    real = torch.ones_like(hidden) if valid is None else valid
    counts = {"hidden_count": 12, "visible_count": 12} if with_counts and valid is not None else {}
    plan = MaskPlan.from_hidden(hidden, valid, **counts)
    x = torch.rand(*hidden.shape, *rest)
    visible, covered = plan.take_visible(x), plan.take_hidden(x)
    for row in range(len(hidden)):
        for taken, ids, filled, mask_row in (
            (visible, plan.visible_ids, plan.visible_valid, ~hidden[row] & real[row]),
            (covered, plan.hidden_ids, plan.hidden_valid, hidden[row] & real[row]),
        ):
            count = int(mask_row.sum())
            assert ids[row, :count].tolist() == mask_row.nonzero().flatten().tolist()
            assert torch.equal(taken[row, :count], x[row][mask_row])
            if filled is None:
                assert count == ids.shape[1]
            else:
                assert filled[row].tolist() == [column < count for column in range(ids.shape[1])]
    expected = torch.where(real.reshape(*real.shape, *[1] * len(rest)), x, 0.0)
    assert torch.equal(plan.put_back(visible, covered), expected)
    assert torch.equal(plan.hidden, hidden & real)


def test_counts_given_or_found_make_the_same_plan():
    hidden = torch.rand(6, 20, generator=torch.Generator().manual_seed(0)).argsort(1) < 15
    found = MaskPlan.from_hidden(hidden)
    for given_counts in ({"hidden_count": 15}, {"visible_count": 5}, {"hidden_count": 15, "visible_count": 5}):
        plan = MaskPlan.from_hidden(hidden, **given_counts)
        assert plan.visible_valid is None
        assert plan.hidden_valid is None
        assert torch.equal(plan.visible_ids, found.visible_ids)
        assert torch.equal(plan.hidden_ids, found.hidden_ids)
        assert torch.equal(plan.restore_ids, found.restore_ids)
    assert found.visible_valid is None


def test_gradients_pass_through_and_are_not_counted_twice():
    hidden = torch.rand(3, 8, generator=torch.Generator().manual_seed(1)).argsort(1) < 5
    plan = MaskPlan.from_hidden(hidden, hidden_count=5)
    x = torch.rand(3, 8, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(3, 8, 2, dtype=torch.float64)
    (plan.put_back(plan.take_visible(x), plan.take_hidden(x)) * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_a_plan_is_frozen():
    plan = MaskPlan.from_hidden(torch.tensor([[True, False]]))
    with pytest.raises(AttributeError):
        plan.hidden = plan.hidden  # type: ignore[misc]


@pytest.mark.parametrize(
    ("hidden", "valid", "counts", "sentence"),
    [
        (torch.zeros(2, 3), None, {}, "hidden must be a boolean"),
        (torch.zeros(3, dtype=torch.bool), None, {}, "hidden must be a boolean"),
        (torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3), {}, "valid must be boolean"),
        (torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool), {}, "valid must be boolean"),
        (torch.tensor([[True, False]]), None, {"hidden_count": 2}, "hidden_count=2 does not fit"),
        (torch.tensor([[True, False], [True, True]]), None, {"hidden_count": 1}, "1 to 2 hidden tokens"),
        (torch.tensor([[True, True]]), torch.ones(1, 2, dtype=torch.bool), {"hidden_count": 1}, "does not fit"),
    ],
)
def test_bad_masks_are_refused(hidden, valid, counts, sentence):
    with pytest.raises(UserError, match=sentence):
        MaskPlan.from_hidden(hidden, valid, **counts)


def test_tensors_of_another_shape_are_refused():
    plan = MaskPlan.from_hidden(torch.tensor([[True, False, False]]))
    with pytest.raises(UserError, match=r"mask has the shape \[1, 3\]"):
        plan.take_visible(torch.zeros(1, 4, 2))
    with pytest.raises(UserError, match=r"hidden must begin with the shape \[1, 1\]"):
        plan.put_back(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4))
