import hashlib
import io
import os
import signal
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from children import fork, wait
from picture_files import encode, smooth
from PIL import Image, features

from mmssl.data.images import decode
from mmssl.data.images.decode import Header, decode_image, read_header
from mmssl.data.images.jpeg import read_jpeg_header
from mmssl.data.limits import Limits, MediaError, time_limit, untimed

COLOUR = smooth(21, 34, seed=1)
GREY = COLOUR[..., 0]
ALPHA = np.dstack((COLOUR, smooth(21, 34, seed=2, channels=1)))


def decoded(raw: bytes, channels: int = 3, **options: object) -> np.ndarray:
    """[height, width, channels]"""
    image = decode_image(raw, channels, **options)
    assert image.dtype == torch.uint8
    assert image.shape[0] == channels
    return image.permute(1, 2, 0).numpy()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def error_of(raw: bytes | Path, channels: int = 3, **options: object) -> MediaError:
    with pytest.raises(MediaError) as caught:
        decode_image(raw, channels, **options)
    return caught.value


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "GIF", "JPEG", "WEBP", "AVIF"])
def test_every_format_gives_what_pillow_gives(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("Pillow was built without AVIF")
    raw = encode(COLOUR, format)
    assert np.array_equal(decoded(raw), np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")))
    header = read_header(raw)
    assert (header.format, header.height, header.width) == (format, 21, 34)
    if format in ("PNG", "BMP", "TIFF", "PPM", "TGA"):
        assert np.array_equal(decoded(raw), COLOUR)


def test_grey_is_repeated_or_kept() -> None:
    assert np.array_equal(decoded(encode(GREY, "PNG")), np.dstack([GREY] * 3))
    assert np.array_equal(decoded(encode(GREY, "PNG"), 1)[..., 0], GREY)


def test_colour_to_grey_is_luma() -> None:
    luma = COLOUR @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.abs(decoded(encode(COLOUR, "PNG"), 1)[..., 0] - luma).max() <= 1


def test_transparency_is_laid_over_white_or_kept() -> None:
    share = ALPHA[..., 3:] / 255
    over_white = COLOUR * share + 255 * (1 - share)
    assert np.abs(decoded(encode(ALPHA, "PNG")) - over_white).max() <= 1
    assert np.abs(decoded(encode(ALPHA, "PNG"), 1)[..., 0] - over_white @ [0.299, 0.587, 0.114]).max() <= 2
    assert np.array_equal(decoded(encode(ALPHA, "PNG"), 4), ALPHA)
    assert np.array_equal(decoded(encode(COLOUR, "PNG"), 4), np.dstack((COLOUR, np.full_like(GREY, 255))))
    grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA[..., 3])])
    assert np.array_equal(decoded(encode(grey_alpha, "PNG"), 2), np.dstack((GREY, ALPHA[..., 3])))
    assert (
        np.abs(decoded(encode(grey_alpha, "PNG"))[..., :1] - (GREY[..., None] * share + 255 * (1 - share))).max() <= 1
    )


def test_a_transparent_palette_colour_becomes_white() -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    raw = encode(picture, "PNG", transparency=1)
    expected = np.array([[[10, 20, 30], [255, 255, 255]], [[70, 80, 90], [255, 255, 255]]])
    assert np.array_equal(decoded(raw), expected)


def test_one_bit_images_are_black_and_white() -> None:
    assert np.array_equal(decoded(encode(Image.fromarray(GREY > 128), "PNG"), 1)[..., 0], (GREY > 128) * 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_the_upper_eight(format: str) -> None:
    values = (np.arange(21 * 34, dtype=np.uint16) * 91).reshape(21, 34)
    raw = encode(Image.fromarray(values), format)
    assert np.array_equal(decoded(raw, 1)[..., 0], values >> 8)
    assert np.array_equal(decoded(raw), np.dstack([values >> 8] * 3))


def test_pixels_without_a_stated_range_are_refused() -> None:
    assert "floating point" in error_of(encode(Image.fromarray(GREY.astype(np.float32)), "TIFF")).reason
    assert "32-bit integer" in error_of(encode(Image.fromarray(GREY.astype(np.int32)), "TIFF")).reason


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.fromarray(COLOUR).convert("CMYK")
    assert np.abs(decoded(encode(cmyk, "TIFF")).astype(int) - COLOUR).max() <= 1
    assert np.abs(decoded(encode(cmyk, "JPEG", quality=95)).astype(int) - COLOUR).mean() < 4


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_read(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "green")]
    file = io.BytesIO()
    frames[0].save(
        file, format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
    )
    assert np.array_equal(decoded(file.getvalue()), np.asarray(frames[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    """Against the definition (EXIF 2.3, 4.6.4): where row 0 and column 0 of the stored picture are seen."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = {
        1: COLOUR, 2: COLOUR[:, ::-1], 3: COLOUR[::-1, ::-1], 4: COLOUR[::-1],
        5: COLOUR.swapaxes(0, 1), 6: COLOUR[::-1].swapaxes(0, 1),
        7: COLOUR[::-1, ::-1].swapaxes(0, 1), 8: COLOUR[:, ::-1].swapaxes(0, 1),
    }[orientation]  # fmt: skip
    for format in ("PNG", "TIFF"):
        raw = encode(COLOUR, format, exif=exif)
        assert np.array_equal(decoded(raw), expected)
        assert (read_header(raw).height, read_header(raw).width) == expected.shape[:2]
    raw = encode(COLOUR, "JPEG", exif=exif, quality=95)
    assert np.abs(decoded(raw).astype(int) - expected).mean() < 4
    assert (read_header(raw).height, read_header(raw).width) == expected.shape[:2]


@pytest.mark.parametrize("reduce", [2, 4, 8])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "NPY"])
def test_a_reduced_image_is_the_mean_over_boxes(format: str, reduce: int) -> None:
    pixels = smooth(161, 242, seed=3)
    raw = npy(pixels) if format == "NPY" else encode(pixels, format, **({"quality": 95} if format == "JPEG" else {}))
    result = decoded(raw, reduce=reduce).astype(float)
    height, width = 161 // reduce, 242 // reduce
    assert result.shape == (-(-161 // reduce), -(-242 // reduce), 3)
    boxes = pixels[: height * reduce, : width * reduce].reshape(height, reduce, width, reduce, 3).mean((1, 3))
    assert np.abs(result[:height, :width] - boxes).mean() < 2.5


def test_arrays_of_any_channel_count() -> None:
    pixels = smooth(9, 7, channels=6)
    assert np.array_equal(decoded(npy(pixels), 6), pixels)
    assert np.array_equal(decoded(npy(pixels[..., 0]), 3), np.dstack([pixels[..., 0]] * 3))
    assert read_header(npy(pixels)) == Header("NPY", "6 channels", 9, 7)
    assert "6 channels, not 3" in error_of(npy(pixels), 3).reason
    assert "float64" in error_of(npy(pixels / 2), 6).reason
    assert "[9, 7, 6, 1]" in error_of(npy(pixels[..., None]), 6).reason
    assert error_of(npy(pixels)[:-5], 6).kind == "broken"
    assert "store it as .npy" in error_of(encode(COLOUR, "PNG"), 6).reason


def test_arrays_never_unpickle(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (tmp_path / "exploded").mkdir, ()

    error_of(npy(np.array([Bomb()], dtype=object)), 1)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}])
def test_a_cut_jpeg_is_refused_wherever_it_is_cut(options: dict) -> None:
    raw = encode(smooth(90, 120), "JPEG", **options)
    for length in [*range(1, len(raw), 97), len(raw) - 2, len(raw) - 1]:
        assert error_of(raw[:length]).kind == "broken"
        if length > len(raw) // 2:  # a download tool that filled the rest with zeros
            assert error_of(raw[:length] + bytes(len(raw) - length)).kind == "broken"


@pytest.mark.parametrize("format", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_other_cut_files_are_refused(format: str) -> None:
    raw = encode(smooth(90, 120), format)
    for length in range(1, len(raw) - 60, max(len(raw) // 23, 1)):
        error_of(raw[:length])


def test_data_after_the_end_of_a_jpeg_is_harmless() -> None:
    raw = encode(COLOUR, "JPEG")
    assert np.array_equal(decoded(raw + b"trailer \xff\xda of a phone"), decoded(raw))


def test_limits_are_checked_before_decoding() -> None:
    claims = bytearray(encode(COLOUR, "PNG"))
    claims[16:24] = (60_000).to_bytes(4, "big") * 2
    claims[29:33] = zlib.crc32(claims[12:29]).to_bytes(4, "big")
    started = time.perf_counter()
    assert error_of(bytes(claims)).kind == "limit"
    assert time.perf_counter() - started < 1
    for raw in (encode(COLOUR, "PNG"), encode(COLOUR, "JPEG"), npy(COLOUR)):
        error = error_of(raw, limits=Limits(pixels=700))
        assert (error.kind, "34x21" in error.reason) == ("limit", True)
        assert error_of(raw, limits=Limits(file_bytes=100)).kind == "limit"
    huge = bytearray(npy(COLOUR))
    place = huge.index(b"(21, 34, 3)")
    huge[place : place + 11] = b"(9999,99,3)"
    assert error_of(bytes(huge)).kind == "broken"


def test_the_time_limit_interrupts_and_leaves_other_alarms_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.perf_counter()))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.4)
    started = time.perf_counter()
    try:
        monkeypatch.setattr(decode, "_decode_pillow", lambda *_, **__: time.sleep(5))
        error = error_of(encode(COLOUR, "PNG"), limits=Limits(seconds=0.1))
        assert error.kind == "timeout"
        assert time.perf_counter() - started < 0.35
        time.sleep(0.5 - (time.perf_counter() - started))
        assert len(rung) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, before)


def test_the_clock_stands_still_while_a_library_is_loaded() -> None:
    with time_limit(0.2):
        with untimed():
            time.sleep(0.4)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.05
        with pytest.raises(MediaError, match=r"took longer than 0\.2 s"):
            time.sleep(5)


def test_a_process_that_was_halted_did_not_take_that_long(tmp_path: Path) -> None:
    """By Ctrl-Z or a scheduler: a run ended when it went on, since a picture had taken longer than 20 s."""

    def work() -> None:
        with time_limit(1.0):
            (tmp_path / "begun").touch()
            for _ in range(30):
                time.sleep(0.01)

    child = fork(work)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGSTOP)
    time.sleep(1.5)
    os.kill(child, signal.SIGCONT)
    assert wait(child) == 0


def test_the_time_limit_holds_for_one_long_call_too() -> None:
    """Python hears of one signal after it, however many rang."""
    with pytest.raises(MediaError, match=r"took longer than 0\.1 s"), time_limit(0.1):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000).hex()


def test_no_time_limit_but_decoding_in_a_thread() -> None:
    results = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        results.append(decoded(encode(COLOUR, "PNG")))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert np.array_equal(results[0], COLOUR)


def test_torchvision_gives_what_pillow_gives() -> None:
    pytest.importorskip("torchvision")
    exif = Image.Exif()
    exif[0x0112] = 8
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"exif": exif}):
        raw = encode(smooth(150, 200), "JPEG", **options)
        assert np.abs(decoded(raw).astype(int) - decoded(raw, use_torchvision=True)).max() <= 3
        assert decoded(raw).shape == decoded(raw, use_torchvision=True).shape
        assert np.abs(decoded(raw, 1).astype(int) - decoded(raw, 1, use_torchvision=True)).max() <= 3
        assert error_of(raw[: len(raw) // 2], use_torchvision=True).kind == "broken"
        assert error_of(raw, use_torchvision=True, limits=Limits(pixels=100)).kind == "limit"


def test_where_torchvision_refuses_or_is_missing_pillow_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encode(COLOUR, "JPEG")
    monkeypatch.setattr(decode, "torchvision_decoder", lambda: lambda *_: None)
    assert np.array_equal(decoded(raw, use_torchvision=True), decoded(raw))
    damaged = raw.replace(b"\xff\xda", b"\xff\xda\x00", 1)
    assert error_of(damaged, use_torchvision=True).reason == error_of(damaged).reason


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert error_of(tmp_path / "pipe.png").reason == "it is not a regular file"
    assert error_of(tmp_path).kind == "unreadable"
    assert error_of(tmp_path / "missing.png").reason == "cannot be opened (No such file or directory)"


def test_errors_travel_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(MediaError("limit", "too large")))
    assert (type(error), error.kind, error.reason) == (MediaError, "limit", "too large")


def test_jpeg_header() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for options, turned in (({}, False), ({"exif": exif, "progressive": True}, True)):
        header = read_jpeg_header(encode(COLOUR, "JPEG", **options))
        assert header is not None
        assert (header.height, header.width, header.components) == (21, 34, 3)
        assert (header.exif, header.ends) == (turned, True)
    assert read_jpeg_header(encode(GREY, "JPEG")).components == 1
    for nonsense in (b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x00" * 9, b"\xff\xd8" + bytes(99), encode(GREY, "PNG")):
        assert read_jpeg_header(nonsense) is None
