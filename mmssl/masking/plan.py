"""MaskPlan: which tokens of a batch are hidden, and how to split a tensor by it and put it together again."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from mmssl.errors import UserError


@dataclass(frozen=True)
class MaskPlan:
    """Who is hidden in a batch, as a mask and as indices. Made by :meth:`from_hidden`.

    Attributes:
        hidden: True where a token is perturbed and predicted back; never True on padding.
        valid: True where a token is real, or None when all are.
        visible_ids: positions of the visible tokens (valid and not hidden), ascending in each row.
        hidden_ids: positions of the hidden tokens, ascending in each row.
        visible_valid: False where a row of ``visible_ids`` is only filled up (with position 0), or None: no row is.
        hidden_valid: the same for ``hidden_ids``.
        restore_ids: where each position lies in [visible rows, hidden rows, one row of zeros] laid end to end.
    """

    hidden: Bool[Tensor, "batch token"]
    valid: Bool[Tensor, "batch token"] | None
    visible_ids: Int[Tensor, "batch visible"]
    hidden_ids: Int[Tensor, "batch hidden"]
    visible_valid: Bool[Tensor, "batch visible"] | None
    hidden_valid: Bool[Tensor, "batch hidden"] | None
    restore_ids: Int[Tensor, "batch token"]

    @classmethod
    def from_hidden(
        cls,
        hidden: Bool[Tensor, "batch token"],
        valid: Bool[Tensor, "batch token"] | None = None,
        *,
        hidden_count: int | None = None,
        visible_count: int | None = None,
    ) -> "MaskPlan":
        """Index a mask.

        Args:
            hidden: the mask; positions that are not valid count as not hidden.
            valid: True = real data; None = everything is.
            hidden_count, visible_count: the widths of ``hidden_ids`` and ``visible_ids``. Given, shapes are static and
                the host does not wait for the device; with ``valid=None`` one of them is enough and every row must
                hold exactly that many, with ``valid`` shorter rows are filled up. Not given, they are the largest of
                the batch, which costs one synchronisation.

        Raises:
            UserError: for tensors that are not two boolean [batch, token] of one shape and device, and for counts that
                do not fit the mask (looked at on the CPU only, where looking is free).
        """
        _check_masks(hidden, valid)
        tokens = hidden.shape[1]
        visible = ~hidden
        if valid is not None:
            hidden, visible = hidden & valid, visible & valid
        elif visible_count is None and hidden_count is not None:
            visible_count = tokens - hidden_count
        elif hidden_count is None and visible_count is not None:
            hidden_count = tokens - visible_count
        hidden_rank, visible_rank = torch.cumsum(hidden, 1), torch.cumsum(visible, 1)
        if hidden_count is None or visible_count is None:
            hidden_count, visible_count, filled = _widest(hidden_rank, visible_rank, hidden_count, visible_count)
        else:
            filled = valid is not None
            if hidden.device.type == "cpu":
                _check_counts(hidden_rank, visible_rank, hidden_count, visible_count, filled)
        restore_ids = torch.where(hidden, hidden_rank + (visible_count - 1), visible_rank - 1)
        if valid is not None:
            restore_ids = restore_ids.masked_fill(~valid, visible_count + hidden_count)
        return cls(
            hidden=hidden,
            valid=valid,
            visible_ids=_positions(visible, visible_rank, visible_count),
            hidden_ids=_positions(hidden, hidden_rank, hidden_count),
            visible_valid=_not_filled(visible_rank, visible_count) if filled else None,
            hidden_valid=_not_filled(hidden_rank, hidden_count) if filled else None,
            restore_ids=restore_ids,
        )

    def take_visible(self, x: Shaped[Tensor, "batch token *rest"]) -> Shaped[Tensor, "batch visible *rest"]:
        """The visible rows of ``x``, in order of position. Rows where ``visible_valid`` is False repeat position 0."""
        return self._take(x, self.visible_ids)

    def take_hidden(self, x: Shaped[Tensor, "batch token *rest"]) -> Shaped[Tensor, "batch hidden *rest"]:
        """The hidden rows of ``x``, in order of position. Rows where ``hidden_valid`` is False repeat position 0."""
        return self._take(x, self.hidden_ids)

    def put_back(
        self, visible: Shaped[Tensor, "batch visible *rest"], hidden: Shaped[Tensor, "batch hidden *rest"]
    ) -> Shaped[Tensor, "batch token *rest"]:
        """Exact inverse of the two takes: every row at its own position again, zeros where there is only padding."""
        parts = [visible, hidden]
        for name, part, ids in (("visible", visible, self.visible_ids), ("hidden", hidden, self.hidden_ids)):
            if part.shape[:2] != ids.shape:
                raise UserError(
                    f"{name} must begin with the shape {list(ids.shape)} of the plan, got {list(part.shape)}"
                )
        if self.valid is not None:
            parts.append(visible.new_zeros(visible.shape[0], 1, *visible.shape[2:]))
        return _take_rows(torch.cat(parts, 1), self.restore_ids)

    def _take(self, x: Shaped[Tensor, "batch token *rest"], ids: Int[Tensor, "batch row"]) -> Tensor:
        if x.shape[:2] != self.hidden.shape:
            raise UserError(
                f"the mask has the shape {list(self.hidden.shape)}, which {list(x.shape)} does not begin with"
            )
        return _take_rows(x, ids)


def _check_masks(hidden: Tensor, valid: Tensor | None) -> None:
    if hidden.dtype != torch.bool or hidden.ndim != 2:
        raise UserError(f"hidden must be a boolean [batch, token] tensor, got {hidden.dtype} {list(hidden.shape)}")
    if valid is not None and (
        valid.dtype != torch.bool or valid.shape != hidden.shape or valid.device != hidden.device
    ):
        raise UserError(
            f"valid must be boolean like hidden ({list(hidden.shape)} on {hidden.device}), "
            f"got {valid.dtype} {list(valid.shape)} on {valid.device}"
        )


def _widest(
    hidden_rank: Int[Tensor, "batch token"],
    visible_rank: Int[Tensor, "batch token"],
    hidden_count: int | None,
    visible_count: int | None,
) -> tuple[int, int, bool]:
    """Both widths, the largest of the batch where not given, and whether a row is narrower; waits for the device."""
    totals = torch.stack([hidden_rank[:, -1], visible_rank[:, -1]])
    least, most = torch.stack([totals.amin(1), totals.amax(1)]).tolist()
    hidden_count = most[0] if hidden_count is None else hidden_count
    visible_count = most[1] if visible_count is None else visible_count
    if most[0] > hidden_count or most[1] > visible_count:
        _check_counts(hidden_rank, visible_rank, hidden_count, visible_count, True)
    return hidden_count, visible_count, least != [hidden_count, visible_count]


def _check_counts(
    hidden_rank: Int[Tensor, "batch token"],
    visible_rank: Int[Tensor, "batch token"],
    hidden_count: int,
    visible_count: int,
    may_be_less: bool,
) -> None:
    for name, rank, count in (("hidden", hidden_rank, hidden_count), ("visible", visible_rank, visible_count)):
        least, most = torch.stack(torch.aminmax(rank[:, -1])).tolist()
        if most > count or (least < count and not may_be_less):
            raise UserError(
                f"{name}_count={count} does not fit a mask with {least} to {most} {name} tokens a row: leave it out"
            )


def _positions(
    mask: Bool[Tensor, "batch token"], rank: Int[Tensor, "batch token"], count: int
) -> Int[Tensor, "batch count"]:
    """Positions of the True entries of each row, ascending, filled up with 0; ``rank`` is the running count of them."""
    ids = torch.zeros(mask.shape[0], count + 1, dtype=torch.int64, device=mask.device)
    # everything that is not marked goes to one more column, which is cut off again
    slot = torch.where(mask, rank - 1, count)
    ids.scatter_(1, slot, torch.arange(mask.shape[1], device=mask.device).expand_as(slot))
    return ids[:, :count]


def _not_filled(rank: Int[Tensor, "batch token"], count: int) -> Bool[Tensor, "batch count"]:
    return torch.arange(count, device=rank.device) < rank[:, -1:]


def _take_rows(
    x: Shaped[Tensor, "batch token *rest"], ids: Int[Tensor, "batch row"]
) -> Shaped[Tensor, "batch row *rest"]:
    # an index per row of x laid flat: on CPU several times faster than a gather with the index spread over features
    first = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (ids + first).flatten()).unflatten(0, ids.shape)
