"""`mmssl restore` with hand-made predictors whose answers are known, and on every odd file of the shared pack."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from mmssl import cli
from mmssl.data.images.photo import Photo, from_pillow, read_photo
from mmssl.evaluation import restore_files
from mmssl.evaluation.before_after import WIDEST, before_after
from mmssl.evaluation.restore import Restorer, join_colours
from mmssl.evaluation.restore_files import result_stems
from mmssl.nn.transformer import TransformerConfig
from mmssl.perturbations.colour import lab_to_srgb, srgb_to_lab
from mmssl.perturbations.fill import push_pull
from mmssl.perturbations.pictures import enlarge
from mmssl.predictors.colorization import Colorization, ColorizationConfig
from mmssl.predictors.inpainting import Inpainting, InpaintingConfig
from mmssl.predictors.restoration import Restoration, RestorationConfig
from mmssl.predictors.super_resolution import SuperResolution, SuperResolutionConfig

PACK = Path(__file__).resolve().parents[2].parent / "shared/data/bad_inputs/image"


class Fake(torch.nn.Module):
    """Enlarges by repeating pixels, fills holes smoothly, paints everything one hue; remembers what it was given."""

    def __init__(self, name, scale=1, channels=3, perturbations=()):
        super().__init__()
        self.name, self.scale, self.tile = name, scale, (32, 32)
        self.config = SimpleNamespace(channels=channels, perturbations=perturbations)
        self.device, self.given = torch.device("cpu"), []

    def restore(self, image, hidden=None):
        self.given.append(tuple(image.shape))
        if self.name == "inpainting":
            return push_pull(image, ~hidden)
        if self.name == "colorization":
            lab = srgb_to_lab(image.expand(-1, 3, -1, -1)) * torch.tensor([1.0, 0, 0])[:, None, None]
            return lab_to_srgb(lab + torch.tensor([0.0, 20, 30])[:, None, None])
        assert image.shape[1] == self.config.channels
        return image.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


@pytest.fixture
def restore(tmp_path, monkeypatch, capsys):
    """The command with a hand-made predictor in place of a run's: exit code, standard output, standard error."""

    def run(predictor, *arguments):
        monkeypatch.setattr(restore_files, "load_predictor", lambda _: predictor)
        code = 0
        try:
            cli.main(["restore", "runs/it", *map(str, arguments), "--out", str(tmp_path / "out")])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    monkeypatch.chdir(tmp_path)
    return run


def colours(height, width, seed=0):
    coarse = torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bilinear")[0].mul(255).byte()


def save(path, pixels, **options):
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(path, **options)
    return path


def load(path):
    with Image.open(path) as picture:
        return from_pillow(picture)


def test_enlarged_photos_and_their_sheets(restore, tmp_path):
    pixels = colours(50, 70)
    alpha = torch.full((1, 50, 70), 80, dtype=torch.uint8)
    save(tmp_path / "a.png", torch.cat((pixels, alpha)))
    code, out, _ = restore(Fake("super_resolution", 4), "a.png", "--scale", "4")
    assert code == 0
    assert re.fullmatch(r"a\.png: 70x50 to 280x200 pixels in \d+\.\d s: \S+/out/a\.png\n", out)
    result = load(tmp_path / "out/a.png")
    assert torch.equal(result[:3], pixels.repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert result[3].eq(80).all()
    sheet = load(tmp_path / "out/a.before-after.png")
    assert sheet.shape[2] > 2 * 280
    # the right half is the result, pixel by pixel
    assert torch.equal(sheet[:, 26:226, -286:-6], result[:3])


@pytest.mark.parametrize(("own", "given"), [(3, 1), (1, 3)])
def test_grey_photos_and_grey_runs(restore, tmp_path, own, given):
    pixels = colours(40, 40)[:given]
    save(tmp_path / "a.png", pixels)
    code, _, _ = restore(Fake("super_resolution", 2, own), "a.png")
    assert code == 0
    assert torch.equal(load(tmp_path / "out/a.png"), pixels.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_colours_join_the_full_lightness(restore, tmp_path):
    pixels = colours(300, 200).float().mul(0.4).add(70).byte()  # no colour close to the limits of sRGB
    save(tmp_path / "a.png", pixels)
    predictor = Fake("colorization")
    code, out, _ = restore(predictor, "a.png")
    assert code == 0
    assert "turned grey first" in out
    assert predictor.given == [(1, 1, 48, 32)]  # the whole photo, its shorter side as trained
    lab = srgb_to_lab(load(tmp_path / "out/a.png").float()[None] / 255)[0]
    before = srgb_to_lab(pixels.float()[None] / 255)[0, 0]
    assert (lab[0] - before).abs().max() < 0.6  # a step of 8 bits
    assert (lab[1:] - torch.tensor([20.0, 30])[:, None, None]).abs().max() < 3
    with Image.open(tmp_path / "out/a.png") as result:
        assert "icc_profile" in result.info
    # grey is not called coloured, even when stored in three channels
    save(tmp_path / "b.png", pixels[:1].expand(3, -1, -1))
    _, out, _ = restore(Fake("colorization"), "b.png")
    assert "note" not in out


def test_strips_of_colours_have_no_seam():
    ab = torch.randn(2, 9, 7) * 10
    grey = torch.full((1, 700, 90), 128, dtype=torch.uint8)
    lightness = srgb_to_lab(grey.expand(3, -1, -1)[None].float() / 255)[:, :1]
    whole = lab_to_srgb(torch.cat((lightness, F.interpolate(ab[None], (700, 90), mode="bicubic")), 1))[0]
    assert (join_colours(grey, ab) - whole * 255).abs().max() < 0.52


def test_holes_of_a_mask_and_of_transparency(restore, tmp_path):
    pixels, hole = colours(90, 120), torch.zeros(1, 90, 120, dtype=torch.uint8)
    hole[:, 20:70, 30:90] = 255
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "hole.png", hole)
    save(tmp_path / "b.png", torch.cat((pixels, 255 - hole)))
    assert restore(Fake("inpainting"), "a.png", "--mask", "hole.png")[0] == 0
    assert restore(Fake("inpainting"), "b.png")[0] == 0
    first, second = load(tmp_path / "out/a.png"), load(tmp_path / "out/b.png")
    known = hole[0] == 0
    assert torch.equal(first[:, known], pixels[:, known])
    assert torch.equal(first, second)
    assert not torch.equal(first, pixels)
    sheet = load(tmp_path / "out/a.before-after.png")
    assert sheet[:, 26 + 2 * 20 : 26 + 2 * 70, 6 + 2 * 30 : 6 + 2 * 90].eq(128).all()  # the hole, twice enlarged


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda mask: mask.fill_(0), r"white nowhere"),
        (lambda mask: mask.fill_(255), r"white everywhere"),
        (lambda mask: mask[:, :5].fill_(255), r"the mask is 20x10 pixels and the photo 40x30"),
    ],
)
def test_masks_that_fit_no_photo(restore, tmp_path, draw, said):
    mask = torch.zeros(1, 10, 20, dtype=torch.uint8)
    draw(mask)
    save(tmp_path / "mask.png", mask)
    save(tmp_path / "a.png", colours(30, 40))
    code, _, err = restore(Fake("inpainting"), "a.png", "--mask", "mask.png")
    assert code in (1, 2)
    assert re.search(said, err)
    assert "mask" in err
    assert not (tmp_path / "out").exists()


def test_photos_without_a_hole_or_with_nothing_else(restore, tmp_path):
    save(tmp_path / "a.png", colours(30, 40))
    save(tmp_path / "b.png", torch.cat((colours(30, 40), torch.zeros(1, 30, 40, dtype=torch.uint8))))
    code, _, err = restore(Fake("inpainting"), "a.png", "b.png")
    assert code == 1
    assert re.search(r"a\.png: .*--mask FILE", err)
    assert re.search(r"b\.png: all of it is transparent", err)


def test_one_bad_photo_does_not_stop_the_others(restore, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    save(tmp_path / "b.png", colours(8, 8))
    code, out, err = restore(Fake("restoration", perturbations=("blur=2",)), "a.jpg", "missing.jpg", "b.png")
    assert code == 1
    assert len(out.splitlines()) == 1
    assert (tmp_path / "out/b.png").exists()
    assert err.splitlines()[0] == "error: 2 of 3 photos were not restored:"
    assert "a.jpg: no picture in a known format" in err
    assert "missing.jpg: cannot be opened" in err


def test_nothing_is_overwritten(restore, tmp_path):
    save(tmp_path / "a.png", colours(8, 8))
    predictor = Fake("super_resolution", 2)
    assert restore(predictor, "a.png")[0] == 0
    code, _, err = restore(predictor, "a.png")
    assert code == 1
    assert "--overwrite" in err
    assert restore(predictor, "a.png", "--overwrite")[0] == 0
    # the originals never are
    code, _, err = restore(predictor, "out/a.png", "--overwrite")
    assert code == 1
    assert "none is ever overwritten" in err
    assert load(tmp_path / "out/a.png").shape == (3, 16, 16)


def test_equal_names_stay_apart(restore, tmp_path):
    for folder, seed in (("x", 1), ("y", 2)):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "a.png", colours(8, 8, seed))
    assert restore(Fake("super_resolution", 2), "x", "y/a.png", "x/a.png")[0] == 0
    assert torch.equal(load(tmp_path / "out/a.png")[:, ::2, ::2], colours(8, 8, 1))
    assert torch.equal(load(tmp_path / "out/a-2.png")[:, ::2, ::2], colours(8, 8, 2))
    assert len(list((tmp_path / "out").iterdir())) == 4
    names = ["a.png", "b/A.jpg", "a.before-after.png", "c/a-2.png"]
    assert result_stems([Path(name) for name in names]) == ["a", "A-2", "a.before-after-2", "a-2-2"]


@pytest.mark.parametrize(
    ("predictor", "arguments", "said"),
    [
        (Fake("masked_autoencoder"), (), r"runs/it is a masked_autoencoder: .*image_super_resolution\.py"),
        (Fake("super_resolution", 4), ("--scale", "2"), r"--scale 2: runs/it enlarges 4 times"),
        (Fake("colorization"), ("--scale", "2"), r"--scale 2: runs/it is a colorization, which keeps the size"),
        (Fake("colorization"), ("--mask", "a.png"), r"--mask is for inpainting"),
        (Fake("colorization"), ("--overlap", "4"), r"--overlap is for tiles"),
        (Fake("super_resolution", 4), ("--tile", "0"), r"--tile must be at least 1, got 0"),
        (Fake("super_resolution", 4), ("--overlap", "17"), r"--overlap .* half the tile \(16\), got 17"),
        (Fake("super_resolution", 4), ("--format", "jpeg", "--quality", "0"), r"--quality .* got 0"),
        (Fake("inpainting"), ("--mask", "none.png"), r"--mask none\.png: cannot be opened"),
        (Fake("restoration", perturbations=("mask=0.5", "zoom=2")), (), r"undo mask=0\.5, then zoom=2, no damage"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(restore, tmp_path, predictor, arguments, said):
    save(tmp_path / "a.png", colours(8, 8))
    code, out, err = restore(predictor, "a.png", *arguments)
    assert code == 2
    assert re.match(r"error: .*" + said, err)
    assert len(err.splitlines()) == 1
    assert not out


def test_out_is_a_file_and_no_photo(restore, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, err = restore(Fake("colorization"), "a.png")
    assert (code, (tmp_path / "out").read_text()) == (2, "mine")
    assert "is a file: choose a folder" in err
    (tmp_path / "out").unlink()
    assert "no photo was given" in restore(Fake("colorization"))[2]


def test_results_too_large_to_hold_are_refused(restore, tmp_path, monkeypatch):
    monkeypatch.setattr("mmssl.evaluation.restore.LARGEST_RESULT", 10_000)
    save(tmp_path / "a.png", colours(40, 40))
    code, _, err = restore(Fake("super_resolution", 4), "a.png")
    assert code == 1
    assert "160x160 pixels, too many" in err


@pytest.mark.parametrize("predictor", [Fake("super_resolution", 2), Fake("colorization"), Fake("inpainting")])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (70, 2)])
def test_tiny_and_narrow_photos(predictor, size):
    hidden = torch.zeros(size, dtype=torch.bool)
    if predictor.name == "inpainting":
        if hidden.numel() == 1:
            pytest.skip("a single pixel is known or missing, and either is refused")
        hidden[-1, -1] = True
    done = Restorer.of(predictor).restore(Photo(colours(*size)), hidden)
    assert done.photo.size == (size[0] * predictor.scale, size[1] * predictor.scale)
    assert before_after(done.panels).shape[2] <= WIDEST


def test_sheets_of_large_photos_are_of_a_sensible_size():
    hidden = torch.zeros(500, 1900, dtype=torch.bool)
    hidden[20:480, 200:1700] = True
    for predictor in (Fake("super_resolution", 2), Fake("colorization"), Fake("inpainting")):
        panels = Restorer.of(predictor).restore(Photo(colours(500, 1900)), hidden).panels
        sheet = before_after(panels)
        assert 1000 < sheet.shape[2] <= WIDEST
        assert len({tuple(panel.shape[1:]) for panel in panels.values()}) == 1


def test_real_runs_begin_at_the_trivial_guess(tmp_path, capsys):
    """Untrained predictors, whose answer is known: bicubic enlargement, grey, the smooth filling of the hole."""
    common = {
        "encoder": TransformerConfig(dim=16, depth=1, heads=2, mlp_dim=16),
        "image_size": (32, 32),
        "patch_size": (4, 4),
        "decoder_dim": 8,
        "detail": 1,
    }
    torch.manual_seed(0)
    SuperResolution(SuperResolutionConfig(**common, scale=2)).save(tmp_path / "sr/model")
    Colorization(ColorizationConfig(**common, objective="regression")).save(tmp_path / "col/model")
    Inpainting(InpaintingConfig(**common)).save(tmp_path / "in/model")
    Restoration(RestorationConfig(**common, perturbations=("noise=0.1",))).save(tmp_path / "noise/model")
    pixels, alpha = colours(61, 75), torch.full((1, 61, 75), 255, dtype=torch.uint8)
    alpha[:, 5:50, 5:60] = 0
    save(tmp_path / "a.png", pixels)
    save(tmp_path / "hole.png", torch.cat((pixels, alpha)))
    out = {}
    for run, photo in (("sr", "a"), ("col", "a"), ("noise", "a"), ("in", "hole")):
        cli.main(["restore", str(tmp_path / run), str(tmp_path / f"{photo}.png"), "--out", str(tmp_path / run / "out")])
        out[run] = load(tmp_path / run / f"out/{photo}.png").float() / 255
    capsys.readouterr()
    image = pixels.float()[None] / 255
    assert (out["sr"] - enlarge(image, (122, 150))[0]).abs().max() < 0.5 / 255 + 1e-4
    assert torch.equal(out["noise"], image[0])
    assert (out["col"][0] - out["col"][1]).abs().max() < 2 / 255
    assert (srgb_to_lab(out["col"][None]) - srgb_to_lab(image))[:, 0].abs().max() < 0.6
    known = alpha[0] > 0
    assert torch.equal(out["in"][:, known], image[0][:, known])
    mean = image[0][:, known].mean(1, keepdim=True)
    errors = [(guess - image[0])[:, ~known].abs().mean() for guess in (out["in"], mean[..., None].expand_as(image[0]))]
    assert errors[0] < errors[1]


@pytest.mark.skipif(not PACK.exists(), reason="the shared data are not there")
def test_every_odd_file_is_restored_or_refused_with_a_sentence(restore, tmp_path):
    files = sorted(PACK.iterdir())
    code, out, err = restore(Fake("super_resolution", 2), *files)
    restored = {line.split(":")[0] for line in out.splitlines() if not line.startswith("    ")}
    refused = dict(line.strip().split(": ", 1) for line in err.splitlines()[1:])
    assert code == 1
    assert restored | set(refused) == set(map(str, files))
    assert not restored & set(refused)
    assert all(len(reason) > 10 for reason in refused.values())
    assert len(restored) == 20  # as many as training can read
    for stem in ("one_pixel", "pil_sample_cmyk", "hopper_16bit", "tiff_16bit_RGB", "la", "very_wide"):
        assert read_photo(tmp_path / f"out/{stem}.png").size[0] >= 2
    # stored turned, written upright, as the same person stored upright
    upright = load(tmp_path / "out/hopper.png").float()
    assert (load(tmp_path / "out/hopper_orientation_6.png").float() - upright).abs().mean() < 10
    assert out.count("upper 8 bits") == 2
    assert out.count("CMYK") >= 1


@pytest.mark.skipif(not PACK.exists(), reason="the shared data are not there")
def test_odd_files_get_colours_and_fillings(restore, tmp_path):
    names = ("one_pixel.png", "pil_sample_cmyk.jpg", "hopper_16bit.pgm", "la.tga", "very_wide.png", "palette_wedge.png")
    code, _, err = restore(Fake("colorization"), *(PACK / name for name in names))
    assert (code, err) == (0, "")
    transparent = [PACK / name for name in ("la.tga", "apng_mode_palette_alpha.png", "dispose_bgnd_transparency.gif")]
    _, out, err = restore(Fake("inpainting"), *transparent, "--overwrite")
    assert len(out.splitlines()) + len(err.splitlines()) >= len(transparent)
    assert np.array(Image.open(tmp_path / "out/very_wide.png")).shape == (4, 2000, 3)
