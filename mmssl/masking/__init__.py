"""Who is hidden. Pure functions on tensors; knows no model and no modality.

**Polarity**, here and everywhere in mmssl: ``hidden`` is boolean, True = perturbed and predicted back. ``valid`` is
boolean, True = real data, False = padding or a special token; ``valid=None`` = everything is real. What is not valid is
never hidden. A token is *visible* when it is valid and not hidden.

    key = NoiseKey.of(batch, seed)                        # what the noise depends on
    hidden = random_mask(key, (14, 14), mask_fraction=0.75)
    plan = MaskPlan.from_hidden(hidden, hidden_count=hidden_count(196, 0.75))
    latent = encoder(plan.take_visible(tokens))

A sample's mask depends on its key and on its own valid pattern, and on nothing else: not on its neighbours, the batch
size, the order, the amount of padding, the device or the process.
"""

from mmssl.masking.blocks import block_mask, inverse_block_mask
from mmssl.masking.holes import HOLES, block_holes, centre_hole, free_form_holes
from mmssl.masking.negatives import draw_negatives
from mmssl.masking.noise import NoiseKey
from mmssl.masking.plan import MaskPlan
from mmssl.masking.samplers import SAMPLERS, fixed_hidden_count, random_mask, tube_mask, unit_mask
from mmssl.masking.spans import span_mask, span_units
from mmssl.masking.theory import hidden_count

__all__ = [
    "HOLES",
    "SAMPLERS",
    "MaskPlan",
    "NoiseKey",
    "block_holes",
    "block_mask",
    "centre_hole",
    "draw_negatives",
    "fixed_hidden_count",
    "free_form_holes",
    "hidden_count",
    "inverse_block_mask",
    "random_mask",
    "span_mask",
    "span_units",
    "tube_mask",
    "unit_mask",
]
