"""Photos in and out: what belongs to them comes back, what the format cannot hold is said."""

import io

import numpy as np
import pytest
import torch
from picture_files import encode, smooth
from PIL import Image, ImageCms

from mmssl.data.images.photo import Photo, from_pillow, read_photo, srgb_profile, to_pillow, to_srgb, write_photo
from mmssl.data.limits import MediaError
from mmssl.errors import UserError

ORIENTATION, ARTIST, EXPOSURE, WIDTH_TAG = 274, 315, 0x829A, 0xA002


def exif_block(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = orientation, "Ada"
    exif.get_ifd(0x8769).update({EXPOSURE: 0.5, WIDTH_TAG: 24})
    exif.get_ifd(0x8825)[29] = "2026:11:24"  # GPS date
    return exif


def profile_of_gamma(gamma: float) -> bytes:
    """An RGB profile with the primaries and white point of sRGB and another tone curve, bit by bit (ICC.1:2001)."""

    def number(value: float) -> bytes:  # s15Fixed16
        return round(value * 65536).to_bytes(4, "big", signed=True)

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"curv\0\0\0\0\0\0\0\x01" + round(gamma * 256).to_bytes(2, "big") + b"\0\0"
    tags = {b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(0.43607, 0.22249, 0.01392)}
    tags |= {b"gXYZ": xyz(0.38515, 0.71687, 0.09708), b"bXYZ": xyz(0.14307, 0.06061, 0.71410)}
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    tags |= {b"desc": b"desc\0\0\0\0\0\0\0\x02x\0" + b"\0" * 78, b"cprt": b"text\0\0\0\0x\0\0\0"}
    offset, table, data = 132 + 12 * len(tags), len(tags).to_bytes(4, "big"), b""
    for name, body in tags.items():
        body += b"\0" * (-len(body) % 4)
        table += name + (offset + len(data)).to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data += body
    head = b"\0\0\0\0\x02\x10\0\0mntrRGB XYZ " + b"\x07\xea\0\x01\0\x01" + b"\0" * 6 + b"acsp" + b"\0" * 28
    head += number(0.9642) + number(1) + number(0.8249) + b"\0" * 48
    return (4 + len(head) + len(table) + len(data)).to_bytes(4, "big") + head + table + data


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_exif_comes_back_without_its_orientation(tmp_path, format, orientation):
    """The result looks the same to readers that turn pictures and to those that don't."""
    pixels = smooth(16, 24)
    file = tmp_path / "a.any"
    file.write_bytes(encode(pixels, format, exif=exif_block(orientation)))
    photo = read_photo(file)
    assert photo.size == ((16, 24) if orientation < 5 else (24, 16))
    for kind, suffix in (("png", ".png"), ("jpeg", ".jpg")):
        write_photo(tmp_path / f"b{suffix}", photo, format=kind)
        with Image.open(tmp_path / f"b{suffix}") as again:
            exif = again.getexif()
            assert ORIENTATION not in exif
            assert exif[ARTIST] == "Ada"
            if format != "TIFF":  # Pillow does not write these folders into TIFFs
                assert exif.get_ifd(0x8769) == {EXPOSURE: 0.5}  # a new size would make the old one untrue
                assert exif.get_ifd(0x8825) == {29: "2026:11:24"}
            assert not set(exif) & {256, 257, 258, 259, 273, 278, 279}  # nothing about strips of a TIFF
    truth = np.array(Image.fromarray(pixels))
    turned = {1: truth, 2: truth[:, ::-1], 3: truth[::-1, ::-1], 4: truth[::-1], 5: truth.swapaxes(0, 1)}
    turned |= {6: np.rot90(truth, -1), 7: np.rot90(truth, 2).swapaxes(0, 1), 8: np.rot90(truth)}
    if format != "JPEG":
        assert (photo.pixels.permute(1, 2, 0).numpy() == turned[orientation]).all()


def test_colour_profile_and_transparency_come_back(tmp_path):
    profile = profile_of_gamma(1.8)
    pixels = np.concatenate((smooth(9, 7), np.arange(63, dtype=np.uint8).reshape(9, 7, 1)), 2)
    (tmp_path / "a.png").write_bytes(encode(pixels, "PNG", icc_profile=profile))
    photo = read_photo(tmp_path / "a.png")
    assert photo.profile == profile
    assert write_photo(tmp_path / "b.png", photo) == ()
    with Image.open(tmp_path / "b.png") as again:
        assert again.info["icc_profile"] == profile
        assert (np.array(again) == pixels).all()
    (note,) = write_photo(tmp_path / "b.jpg", photo, format="jpeg")
    assert "transparency" in note
    with Image.open(tmp_path / "b.jpg") as again:
        assert again.mode == "RGB"
        assert again.info["icc_profile"] == profile


def test_opaque_alpha_is_none(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encode(np.full((4, 4, 4), 255, np.uint8), "PNG"))
    assert read_photo(file).alpha is None


def test_values_go_to_srgb_through_the_profile():
    """A profile that differs from sRGB in its gamma alone: the conversion is known in closed form."""
    values = torch.arange(0, 256, 5, dtype=torch.uint8)
    photo = to_srgb(Photo(values.expand(3, 1, -1), profile=profile_of_gamma(1.8)))
    assert photo.profile is None
    linear = (values.double() / 255) ** 1.8
    expected = torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear) * 255
    assert (photo.pixels[1, 0] - expected).abs().max() < 2
    same = to_srgb(Photo(values.expand(3, 1, -1), profile=srgb_profile()))
    assert (same.pixels[1, 0].int() - values.int()).abs().max() <= 1


@pytest.mark.parametrize("profile", [b"rubbish", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()])
@pytest.mark.parametrize("channels", [1, 3])
def test_profiles_of_no_use_are_not_used(profile, channels):
    photo = to_srgb(Photo(torch.full((channels, 2, 2), 7, dtype=torch.uint8), profile=profile))
    assert (photo.pixels == 7).all()
    assert "profile cannot be used" in photo.notes[0]


def test_grey_stays_grey_and_other_modes_become_rgb(tmp_path):
    picture = Image.fromarray(smooth(8, 8))
    for mode, channels, transparent in (
        ("1", 1, 0), ("L", 1, 0), ("LA", 1, 1), ("P", 3, 0), ("RGB", 3, 0), ("RGBA", 3, 1), ("CMYK", 3, 0),
    ):  # fmt: skip
        stored = picture.convert(mode)
        if transparent:
            stored.putalpha(100)
        file = tmp_path / f"{mode}.any"
        stored.save(file, "TIFF" if mode == "CMYK" else "PNG")
        photo = read_photo(file)
        assert photo.pixels.shape == (channels, 8, 8)
        assert (photo.alpha is not None) == bool(transparent)
        assert any("CMYK" in note for note in photo.notes) == (mode == "CMYK")


def test_sixteen_bits_are_said(tmp_path):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(values), "PNG"))
    photo = read_photo(tmp_path / "a.png")
    assert (photo.pixels[0].numpy() == values >> 8).all()
    assert "upper 8 bits" in photo.notes[0]


def test_animations_give_their_first_picture(tmp_path):
    frames = [Image.fromarray(smooth(8, 8, seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    photo = read_photo(tmp_path / "a.webp")
    assert "first" in photo.notes[0]
    assert (photo.pixels.permute(1, 2, 0).numpy() == smooth(8, 8, 0)).all()


def test_a_damaged_exif_block_is_left_out(tmp_path):
    raw = encode(smooth(8, 8), "JPEG", exif=exif_block(1))
    place = raw.index(b"Ada") - 40
    (tmp_path / "a.jpg").write_bytes(raw[:place] + b"\xff" * 38 + raw[place + 38 :])
    photo = read_photo(tmp_path / "a.jpg")
    written = io.BytesIO()
    to_pillow(photo.pixels).save(written, "PNG", exif=photo.exif or b"")  # what is kept can be written
    assert photo.size == (8, 8)


def test_nothing_is_overwritten_or_half_written(tmp_path, monkeypatch):
    photo = Photo(torch.zeros(3, 4, 4, dtype=torch.uint8))
    file = tmp_path / "a.png"
    file.write_text("mine")
    with pytest.raises(UserError, match=r"a\.png exists: .*--overwrite"):
        write_photo(file, photo)
    assert file.read_text() == "mine"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(OSError, match="No space"):
            write_photo(file, photo, overwrite=True)
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    write_photo(file, photo, overwrite=True)
    assert torch.equal(read_photo(file).pixels, photo.pixels)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        write_photo(tmp_path / "b.png", photo, overwrite=True)


def test_what_jpeg_cannot_hold(tmp_path):
    wide = Photo(torch.zeros(1, 1, 70_000, dtype=torch.uint8))
    with pytest.raises(UserError, match="write PNG"):
        write_photo(tmp_path / "a.jpg", wide, format="jpeg")
    large = Image.Exif()
    large[ARTIST] = "A" * 70_000
    photo = Photo(torch.zeros(1, 4, 4, dtype=torch.uint8), exif=large.tobytes())
    (note,) = write_photo(tmp_path / "a.jpg", photo, format="jpeg")
    assert "EXIF" in note
    assert write_photo(tmp_path / "a.png", photo) == ()


def test_arrays_and_texts_are_no_photos(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "b.jpg").write_text("no picture")
    for name in ("a.npy", "b.jpg"):
        with pytest.raises(MediaError, match="no picture in a known format"):
            read_photo(tmp_path / name)
    with pytest.raises(MediaError, match="No such file"):
        read_photo(tmp_path / "c.jpg")


def test_pillow_and_back():
    for channels in (1, 2, 3, 4):
        pixels = torch.randint(0, 256, (channels, 3, 5), dtype=torch.uint8)
        assert torch.equal(from_pillow(to_pillow(pixels)), pixels)
