"""Every odd or broken file of the shared pack: what happens to it, file by file."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from picture_files import shared, write_folder

from mmssl.data.images.decode import decode_image
from mmssl.data.images.loader import ImageLoader
from mmssl.data.images.open import IMAGES, open_images
from mmssl.data.limits import MediaError
from mmssl.data.skipped import write_skipped
from mmssl.errors import UserError

PACK = shared("bad_inputs/image")
pytestmark = pytest.mark.skipif(not PACK.exists(), reason="the shared data are not there")

# height and width of what is read, looked at by eye; else the kind of refusal
EXPECTED: dict[str, tuple[int, int] | str] = {
    "apng_mode_palette_alpha.png": (64, 128),
    "broken.png": "broken",
    "broken_data_stream.png": "broken",
    "broken_exif_dpi.jpg": (100, 100),
    # a fax TIFF: libtiff replaces the damaged rows by white ones
    "crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif": (84, 218),
    "crash-754d9c7ec485ffb76a90eeaab191ef69a2a3a3cd.sgi": "not an image",
    "decompression_bomb.gif": "limit",
    "dispose_bgnd_transparency.gif": (32, 38),
    "empty.jpg": "broken",
    "exif_gps_typeerror.jpg": (531, 800),
    "half.jpg": "broken",
    "hopper.gif": (128, 128),
    "hopper.webp": (128, 128),
    "hopper_16bit.pgm": (128, 128),
    "hopper_orientation_3.jpg": (128, 128),
    "hopper_orientation_6.jpg": (128, 128),
    "invalid-exif.jpg": (200, 200),
    "la.tga": (64, 64),
    "one_pixel.png": (1, 1),
    "oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif": "broken",
    "palette_wedge.png": (128, 128),
    "photoshop-200dpi-broken.jpg": (200, 200),
    "pil_sample_cmyk.jpg": (100, 100),
    "pngtest_bad.png.bin": "not an image",
    "text_named.jpg": "broken",
    "tiff_16bit_RGB.tiff": (40, 100),
    "timeout-041dd17dfde800360a47a172269df127af138c6b.dds": "not an image",
    "timeout-9139147ce93e20eb14088fe238e541443ffd64b3.fli": "not an image",
    # damage that libjpeg recovers from
    "torchcodec_bad_huffman.jpg": (768, 1024),
    "truncated_app14.jpg": (100, 100),
    "truncated_image.png": "broken",
    "truncated_jpeg.jpg": "broken",
    "very_wide.png": (4, 2000),
    "zero_width.gif": "broken",
}


def test_the_table_is_complete() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in PACK.iterdir())


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_file_is_read_or_refused_quickly(name: str) -> None:
    expected = EXPECTED[name]
    assert IMAGES.wanted(name) == (expected != "not an image")
    started = time.perf_counter()
    if isinstance(expected, tuple):
        assert tuple(decode_image(PACK / name).shape) == (3, *expected)
    else:
        with pytest.raises(MediaError, match=r"^.{10,}$") as caught:
            decode_image(PACK / name)
        assert expected in (caught.value.kind, "not an image")
    assert time.perf_counter() - started < 5


def test_upright_and_right_in_colour() -> None:
    """One portrait stored five ways is one picture."""
    portrait = decode_image(PACK / "hopper.webp").numpy().astype(float)
    for name in ("hopper_orientation_3.jpg", "hopper_orientation_6.jpg", "hopper.gif"):
        assert np.abs(decode_image(PACK / name).numpy() - portrait).mean() < 10
    grey = np.array([0.299, 0.587, 0.114]) @ portrait.reshape(3, -1)
    assert np.abs(decode_image(PACK / "hopper_16bit.pgm", 1).numpy().ravel() - grey).mean() < 5
    red = decode_image(PACK / "pil_sample_cmyk.jpg").float().mean((1, 2))
    assert red[0] > 3 * red[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_with_all_of_them_loads_and_tells_why(tmp_path: Path, workers: int) -> None:
    data = tmp_path / "data"
    write_folder(data, 12, (32, 32))
    shutil.copytree(PACK, data / "bad")
    source = open_images(data)
    loader = ImageLoader(
        source, size=(16, 16), batch_size=8, seed=0, cache="memory", workers=workers, min_size=(8, 8), max_skipped=0.5
    )
    small = {"one_pixel.png", "very_wide.png"}
    refused = {name for name, expected in EXPECTED.items() if isinstance(expected, str)} | small
    assert len(loader) == 12 + len(EXPECTED) - len(refused)
    rows = [json.loads(line) for line in write_skipped(tmp_path, source).read_text().splitlines()]
    assert {row["file"].removeprefix("bad/") for row in rows} == refused
    for row in rows:
        name = row["file"].removeprefix("bad/")
        assert row["kind"] == ("small" if name in small else EXPECTED[name])
    seen = {source.files[index] for batch in loader.frozen() for index in batch["id"].tolist()}
    assert len(seen) == len(loader)
    assert not {name for name in seen if name.removeprefix("bad/") in refused}


def test_too_many_of_them_stop_the_run() -> None:
    with pytest.raises(UserError, match=r"10 of 30 images .* more than the allowed 5% .*broken.png"):
        ImageLoader(open_images(PACK), size=(16, 16), batch_size=8, seed=0)
