"""Backbones, the decoder that turns their maps into pictures, and both as one network."""

import pytest
import torch
from torch import nn

from mmssl.errors import UserError
from mmssl.nn import TransformerConfig
from mmssl.nn.backbones import TimmBackbone, VitBackbone
from mmssl.nn.patches import sincos_positions
from mmssl.nn.pixel_decoder import PixelDecoder, SubPixel
from mmssl.nn.pixel_network import PixelNetwork, PixelNetworkConfig

TRUNK = TransformerConfig(dim=16, depth=3, heads=2, mlp_dim=24)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(timm_model: str = "", size: tuple[int, int] = (16, 48), **settings) -> PixelNetwork:
    torch.manual_seed(0)
    shape = {name: settings.pop(name) for name in ("decoder_dim", "detail", "patch_size") if name in settings}
    shape = {"decoder_dim": 8, "detail": 1, "patch_size": (4, 8), **shape}
    config = PixelNetworkConfig(encoder=None if timm_model else TRUNK, timm_model=timm_model, **shape)
    return PixelNetwork(config, size, **{"channels": 4, "outputs": 5, **settings})


# --- positions -------------------------------------------------------------------------------------------------------


def test_positions_of_a_finer_grid_lie_between_those_of_the_trained_one():
    """Two cells in the place of one have their middles a quarter of a cell from its middle; all lie within."""
    assert torch.equal(sincos_positions((4, 6), 16, reach=(4, 6)), sincos_positions((4, 6), 16))
    fine = sincos_positions((8, 6), 16, reach=(4, 6)).view(8, 6, 16)
    slowest = fine[:, 0, 8 + 3]  # sine of the row at 10000^(-3/4), straight as far as this
    expected = (torch.arange(8) * 0.5 - 0.25) * 10000**-0.75
    torch.testing.assert_close(slowest, expected, rtol=1e-4, atol=1e-7)
    coarse = sincos_positions((2, 6), 16, reach=(4, 6)).view(2, 6, 16)
    torch.testing.assert_close(coarse[:, 0, 8 + 3], torch.tensor([0.5, 2.5]) * 10000**-0.75, rtol=1e-4, atol=1e-7)
    assert torch.equal(coarse[0, :, :8], sincos_positions((4, 6), 16).view(4, 6, 16)[0, :, :8])


# --- backbones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timm_model", ["", "resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_maps_are_as_announced_and_their_means_are_the_features(timm_model):
    size = (32, 64)
    backbone = TimmBackbone(timm_model, size, 4) if timm_model else VitBackbone(TRUNK, size, (4, 8), 4)
    backbone.eval()
    pixels = noise(2, 4, *size)
    maps, pooled = backbone(pixels), backbone.pooled(pixels)
    assert [tuple(level.shape) for level in maps] == [
        (2, width, size[0] // down, size[1] // across) for width, (down, across) in backbone.levels
    ]
    strides = [stride for _, stride in backbone.levels]
    assert strides == sorted(set(strides))
    torch.testing.assert_close(pooled["mean"], maps[-1].mean((2, 3)))
    for number, level in enumerate(maps[:-1], 1):
        torch.testing.assert_close(pooled[f"layer {number}"], level.mean((2, 3)))
    depths = backbone.depths()
    assert depths.keys() == dict(backbone.named_parameters()).keys()
    first = "model.stem.0.weight" if timm_model == "convnext_atto" else None
    if first:
        assert depths[first] == 0
    if not timm_model:
        assert {depths["cls_token"], depths["patch_embedding.bias"]} == {0}
        assert (depths["encoder.blocks.2.norm1.weight"], depths["encoder.norm.weight"]) == (3, 4)
        assert list(pooled) == ["mean", "cls", "layer 1", "layer 2"]


def test_the_trunk_sees_the_picture_at_its_place():
    """A change in one patch changes the map most at that patch; with more rows than it was trained on as well."""
    backbone = VitBackbone(TRUNK, (16, 48), (4, 8), 3).eval()
    for size in ((16, 48), (32, 48)):
        pixels = noise(1, 3, *size)
        other = pixels.clone()
        other[:, :, 8:12, 16:24] += 1
        difference = (backbone(other)[0] - backbone(pixels)[0]).abs().sum(1)[0]
        assert difference.argmax().item() == 2 * 6 + 2


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("resnet1O", "timm has no model 'resnet1O'"), ("resnet10t.no_such", "timm has no weights 'resnet10t.no_such'")],
)
def test_what_timm_does_not_have_is_named(name, sentence):
    with pytest.raises(UserError, match=sentence):
        TimmBackbone(name, (32, 32), 3)


# --- decoder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [(1, 1), (2, 2), (2, 4), (3, 1)])
def test_channels_become_pixels_row_by_row(ratio):
    layer, x = SubPixel(4, ratio), noise(2, 4, 3, 5)
    if ratio == (1, 1):
        assert torch.equal(layer(x), x)
        return
    (down, across), channels = ratio, layer.conv(x)
    result = layer(x)
    assert result.shape == (2, 4, 3 * down, 5 * across)
    for channel in range(4):
        for row in range(down):
            for column in range(across):
                source = channels[:, (channel * down + row) * across + column]
                assert torch.equal(result[:, channel, row::down, column::across], source)


@pytest.mark.parametrize("detail", [0, 2])
@pytest.mark.parametrize(("reduce", "enlarge"), [(1, 1), (2, 1), (4, 1), (1, 2), (1, 8)])
@pytest.mark.parametrize("timm_model", ["", "resnet10t"])
def test_results_have_the_size_asked_for_and_begin_at_zero(timm_model, reduce, enlarge, detail):
    size = (32, 64) if timm_model else (16, 48)
    model = network(timm_model, size, reduce=reduce, enlarge=enlarge, detail=detail)
    pixels = noise(2, 4, *size)
    result = model.decode(model.encode(pixels), pixels)
    assert result.shape == (2, 5, size[0] * enlarge // reduce, size[1] * enlarge // reduce)
    assert (result == 0).all()
    nn.init.normal_(model.decoder.head.weight)
    model.decode(model.encode(pixels), pixels).square().sum().backward()
    silent = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    # maps finer than the result are not used, and so nothing is learned from what makes them alone
    assert silent == set()


def test_without_detail_the_result_knows_only_what_the_maps_know():
    decoder = PixelDecoder([(16, (4, 8))], channels=3, outputs=2, dim=8, detail=0)
    nn.init.normal_(decoder.head.weight)
    maps = [noise(2, 16, 4, 6)]
    assert torch.equal(decoder(maps, noise(2, 3, 16, 48)), decoder(maps, noise(2, 3, 16, 48, seed=1)))
    # and each patch by itself: a linear head
    changed = maps[0].clone()
    changed[:, :, 1, 2] += 1
    moved = (decoder([changed], noise(2, 3, 16, 48)) - decoder(maps, noise(2, 3, 16, 48))).abs().sum((0, 1)) > 1e-6
    assert moved[4:8, 16:24].any()
    moved[4:8, 16:24] = False
    assert not moved.any()


def test_detail_sees_the_input_pixel_by_pixel():
    decoder = PixelDecoder([(16, (4, 8))], channels=3, outputs=2, dim=8, detail=1)
    nn.init.normal_(decoder.head.weight)
    maps, pixels = [noise(1, 16, 4, 6)], noise(1, 3, 16, 48)
    other = pixels.clone()
    other[:, :, 7, 20] += 1
    moved = (decoder(maps, other) - decoder(maps, pixels)).abs().sum((0, 1)) > 1e-6
    assert moved[7, 20]
    # the stem, two convolutions of the block and the head each reach one pixel further
    rows, columns = moved.nonzero().unbind(1)
    assert (rows - 7).abs().max() <= 4
    assert (columns - 20).abs().max() <= 4


def test_a_network_takes_other_sizes_and_says_of_which_multiple():
    model = network("resnet10t", (32, 64))
    assert model.multiple == (32, 32)
    model = network(reduce=2)
    assert model.multiple == (4, 8)
    assert network(reduce=4, patch_size=(4, 16)).multiple == (4, 16)
    pixels = noise(1, 4, 20, 8)
    assert model.decode(model.encode(pixels), pixels).shape == (1, 5, 10, 4)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": (18, 48)}, "does not divide image size 18x48"),
        ({"reduce": 8}, "a result 8 times smaller than the input needs features as coarse"),
        ({"reduce": 3}, "does not divide into one of"),
        ({"decoder_dim": 0}, "decoder_dim must be at least 1"),
        ({"detail": -1}, "detail not negative"),
        ({"timm_model": "resnet10t", "size": (32, 48)}, "multiples of 32 and 32, and would be given 32x48"),
    ],
)
def test_mistakes_are_named(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        network(**settings)
