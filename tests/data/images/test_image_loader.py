import itertools
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import encode, smooth, write_folder, write_png
from PIL import Image

from mmssl.data.images import loader as loader_module
from mmssl.data.images import reader
from mmssl.data.images.crops import CropLaw
from mmssl.data.images.loader import ImageLoader
from mmssl.data.images.looking import centre_crops
from mmssl.data.images.open import open_images
from mmssl.data.limits import Limits, MediaError
from mmssl.data.order import Order
from mmssl.data.stores import FileStore
from mmssl.errors import UserError
from mmssl.masking import NoiseKey


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    return tmp_path / "user_cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eleven PNG files of different shapes, the smallest 20 x 24."""
    for number in range(11):
        write_png(tmp_path / "photos" / f"{number:02d}.png", smooth(20 + 3 * number, 24 + 7 * (number % 4), number))
    return tmp_path / "photos"


def make(data: Path, **options: object) -> ImageLoader:
    defaults: dict[str, object] = {"size": (16, 16), "batch_size": 4, "seed": 7}
    return ImageLoader(open_images(data), **(defaults | options))


def take(loader: ImageLoader, count: int, start: int = 0) -> list[dict[str, torch.Tensor]]:
    return list(itertools.islice(loader.batches(start), count))


def same(ours: list[dict[str, torch.Tensor]], theirs: list[dict[str, torch.Tensor]], tolerance: int = 0) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a["id"], b["id"])
        and torch.equal(a["epoch"], b["epoch"])
        and (a["image"].int() - b["image"].int()).abs().max() <= tolerance
        for a, b in zip(ours, theirs, strict=True)
    )


def test_batches_follow_the_order_and_the_contract(photos: Path) -> None:
    loader = make(photos)
    order = Order(11, 4, 7)
    for step, batch in enumerate(take(loader, 9)):
        ids, epochs = order.batch(step)
        assert batch["id"].tolist() == ids.tolist() == loader.ids(step).tolist()
        assert batch["epoch"].tolist() == epochs.tolist()
        assert batch["id"].dtype == batch["epoch"].dtype == torch.int64
        assert (batch["image"].dtype, batch["image"].shape) == (torch.uint8, (4, 3, 16, 16))
        assert batch["image"].is_contiguous()
    assert len(loader) == 11


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_resuming_is_exact_at_any_number_of_workers(photos: Path, cache: str, workers: int) -> None:
    whole = take(make(photos, cache=cache), 8)
    assert same(take(make(photos, cache=cache, workers=workers), 8), whole)
    assert same(take(make(photos, cache=cache, workers=workers), 3, start=5), whole[5:])


def test_cached_and_decoded_crops_are_the_same_where_nothing_is_shrunk(tmp_path: Path) -> None:
    write_folder(tmp_path / "small", 7, (18, 20))
    assert same(take(make(tmp_path / "small", cache="memory"), 6), take(make(tmp_path / "small", cache="none"), 6))


def test_cached_and_decoded_crops_show_the_same_box_where_images_are_shrunk(tmp_path: Path) -> None:
    for number in range(6):
        small = Image.fromarray(smooth(35, 45, number))
        write_png(tmp_path / "large" / f"{number}.png", np.asarray(small.resize((210, 160))))
        raw = encode(small.resize((1300, 1000)), "JPEG", quality=95)
        assert len(raw) > reader._REDUCIBLE  # so that a shrunken decode is part of this
        (tmp_path / "large" / f"{number}.jpg").write_bytes(raw)
    options = {"size": (48, 48), "batch_size": 12}
    for cached, decoded in zip(
        take(make(tmp_path / "large", cache="memory", **options), 3),
        take(make(tmp_path / "large", cache="none", **options), 3),
        strict=True,
    ):
        assert torch.equal(cached["id"], decoded["id"])
        difference = (cached["image"].float() - decoded["image"].float()).abs().mean((1, 2, 3))
        assert difference.max() < 6
        # the box of the next sample is a different picture altogether
        assert (cached["image"].float() - decoded["image"].float().roll(1, 0)).abs().mean() > 20


def test_a_crop_does_not_depend_on_the_batch(photos: Path) -> None:
    for cache in ("memory", "none"):
        loader = make(photos, cache=cache)
        batch = take(loader, 1, start=6)[0]
        row = 2
        alone = loader.batch_at([int(batch["id"][row])], [int(batch["epoch"][row])])
        assert torch.equal(alone["image"][0], batch["image"][row])
        larger = {
            (int(e), int(i)): image
            for wide in take(make(photos, cache=cache, batch_size=9), 4)
            for e, i, image in zip(wide["epoch"], wide["id"], wide["image"], strict=True)
        }
        key = (int(batch["epoch"][row]), int(batch["id"][row]))
        assert torch.equal(larger[key], batch["image"][row])


def test_the_crop_is_the_box_of_the_law(photos: Path) -> None:
    loader = make(photos, size=(20, 24), scale=(0.3, 0.9), cache="none")
    batch = take(loader, 1)[0]
    for index, epoch, image in zip(batch["id"], batch["epoch"], batch["image"], strict=True):
        full = loader.source[int(index)]["image"]
        key = NoiseKey(7, epoch[None], index[None])
        box = CropLaw((20, 24), (0.3, 0.9)).draw(key, np.array([full.shape[1]]), np.array([full.shape[2]]))
        top, left, height, width = (int(v[0]) for v in (box.top, box.left, box.height, box.width))
        cut = full[None, :, top : top + height, left : left + width]
        expected = torch.nn.functional.interpolate(cut.float(), (20, 24), mode="bilinear", antialias=True)[0]
        expected = expected.flip(2) if box.flip[0] else expected
        assert (image.float() - expected).abs().max() <= 1


def test_full_images_pass_untouched(tmp_path: Path) -> None:
    write_folder(tmp_path / "square", 5, (16, 16))
    loader = make(tmp_path / "square", scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)
    for batch in take(loader, 3):
        for index, image in zip(batch["id"], batch["image"], strict=True):
            assert np.array_equal(image.permute(1, 2, 0), smooth(16, 16, int(index)))


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_native_crops_are_the_pixels_of_the_files(tmp_path: Path, cache: str) -> None:
    """JPEGs too, large enough that a shrunken decode would pay."""
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (300, 340, 3), np.uint8)
        write_png(tmp_path / "photos" / f"{number}.png", noise)
        raw = encode(noise, "JPEG", quality=90)
        assert len(raw) > reader._REDUCIBLE
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(raw)
    options = {"size": (40, 56), "batch_size": 6, "zoom": (1.0, 1.0), "cache": cache}
    loader = make(tmp_path / "photos", **options)
    for batch, frozen in ((next(loader.batches()), False), (next(loader.frozen()), True)):
        heights, widths = np.full(6, 300), np.full(6, 340)
        law = CropLaw((40, 56), zoom=(1.0, 1.0))
        boxes = law.centre(heights, widths) if frozen else law.draw(NoiseKey.of(batch, 7), heights, widths)
        for row, index in enumerate(batch["id"].tolist()):
            with Image.open(tmp_path / "photos" / loader.source.files[index]) as picture:
                pixels = np.asarray(picture)
            cut = pixels[boxes.top[row] :, boxes.left[row] :][:40, :56]
            assert np.array_equal(batch["image"][row].permute(1, 2, 0), cut[:, ::-1] if boxes.flip[row] else cut)
    ids = list(range(6))
    shown = centre_crops(loader.source, ids, (40, 56), zoom=(1.0, 1.0))
    assert torch.equal(shown["image"], next(loader.frozen())["image"])


def test_zoomed_crops_of_both_ways_are_the_same(tmp_path: Path) -> None:
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (200, 240, 3), np.uint8)
        (tmp_path / f"{number}.jpg").write_bytes(encode(noise, "JPEG", quality=90))
    options = {"size": (32, 32), "batch_size": 6, "zoom": (1.0, 3.0)}
    assert same(take(make(tmp_path, cache="memory", **options), 3), take(make(tmp_path, cache="none", **options), 3))


def test_auto_counts_native_crops_at_full_size(tmp_path: Path) -> None:
    write_folder(tmp_path / "large", 4, (160, 200))
    limit = 4 * 160 * 200 * 3
    assert make(tmp_path / "large", zoom=(1.0, 2.0), memory_limit=limit).pixels is not None
    assert make(tmp_path / "large", zoom=(1.0, 2.0), memory_limit=limit - 1).pixels is None
    assert make(tmp_path / "large", memory_limit=limit // 20).pixels is not None


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_frozen_gives_every_image_once_and_always_the_same(photos: Path, cache: str, workers: int) -> None:
    loader = make(photos, cache=cache, workers=workers)
    batches = list(loader.frozen(4))
    assert [len(batch["id"]) for batch in batches] == [4, 4, 3]
    assert torch.cat([batch["id"] for batch in batches]).tolist() == list(range(11))
    assert all((batch["epoch"] == 0).all() for batch in batches)
    assert same(list(make(photos, seed=99, cache=cache).frozen(4)), batches)
    full = loader.source[0]["image"]  # 20 x 24: the central 20 x 20
    expected = torch.nn.functional.interpolate(full[None, :, :, 2:22], (16, 16), mode="bilinear", antialias=True)[0]
    if cache == "none":
        assert torch.equal(batches[0]["image"][0], expected)
    assert len(list(loader.frozen())) == 3
    for rank in range(2):
        assert same(list(loader.frozen(4, share=(rank, 2))), batches[rank::2])


def test_mean_and_std_against_numpy(tmp_path: Path) -> None:
    write_folder(tmp_path / "square", 9, (16, 16))
    pixels = np.stack([smooth(16, 16, seed) for seed in range(9)]) / 255
    for cache in ("memory", "none"):
        mean, std = make(tmp_path / "square", cache=cache).mean_std()
        assert mean.dtype == std.dtype == np.float64
        assert np.allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-12, atol=0)
        assert np.allclose(std, pixels.std((0, 1, 2)), rtol=1e-12, atol=0)


def test_mean_and_std_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "square", 9, (16, 16))
    monkeypatch.setattr(loader_module, "STATISTICS_IMAGES", 4)
    pixels = np.stack([smooth(16, 16, seed) for seed in (0, 2, 4, 6)]) / 255
    assert np.allclose(make(tmp_path / "square").mean_std()[0], pixels.mean((0, 1, 2)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts(photos: Path, channels: int) -> None:
    loader = ImageLoader(open_images(photos, channels=channels), size=(16, 16), batch_size=3, seed=0)
    assert next(loader.batches())["image"].shape == (3, channels, 16, 16)
    assert len(loader.mean_std()[0]) == channels


def test_many_channels_from_arrays(tmp_path: Path) -> None:
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", smooth(20, 20, number, channels=7))
    for cache in ("memory", "none"):
        loader = ImageLoader(open_images(tmp_path, channels=7), size=(16, 16), batch_size=4, seed=0, cache=cache)
        assert next(loader.batches())["image"].shape == (4, 7, 16, 16)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_broken_images_have_no_place_in_the_order_and_ids_stay(photos: Path, cache: str) -> None:
    (photos / "03.png").write_bytes((photos / "03.png").read_bytes()[:200])
    write_png(photos / "05.png", smooth(9, 30))
    loader = make(photos, cache=cache, max_skipped=0.2, min_size=(10, 10))
    assert len(loader) == 9
    assert loader.usable.tolist() == [0, 1, 2, 4, 6, 7, 8, 9, 10]
    seen = [int(i) for batch in take(loader, 9) for i in batch["id"]]
    assert sorted(seen) == sorted(loader.usable.tolist() * 4)
    assert [(item.file, item.kind) for item in loader.source.skipped] == [("03.png", "broken"), ("05.png", "small")]
    assert "30x9 pixels are fewer than the least of 10x10" in loader.source.skipped[1].reason
    assert len(next(loader.frozen(20))["id"]) == 9
    with pytest.raises(UserError, match=r"2 of 11 images .* more than the allowed 5%.*03\.png.*mmssl inspect"):
        make(photos, cache=cache, min_size=(10, 10))


def test_one_small_image_alone(tmp_path: Path) -> None:
    write_png(tmp_path / "one/dot.png", smooth(4, 4))
    with pytest.raises(UserError, match=r"1 of 1 images .*dot\.png: 4x4 pixels are fewer than the least of 16x16"):
        make(tmp_path / "one", min_size=(16, 16))


def test_one_broken_image_in_a_small_hold_out_does_not_stop_the_run(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", 60, (16, 16))
    val = open_images(tmp_path / "data", split="val")
    assert len(val) < 20
    (tmp_path / "data" / val.files[0]).write_bytes(b"")
    loader = ImageLoader(val, size=(16, 16), batch_size=4, seed=0)
    assert len(loader) == len(val) - 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_breaks_during_training_stops_and_is_named(photos: Path, workers: int) -> None:
    loader = make(photos, cache="none", workers=workers)
    broken = int(loader.ids(2)[1])
    name = loader.source.files[broken]
    (photos / name).write_bytes(b"overwritten")
    message = rf"{name} was readable before training and is not now .* repair or remove it .* and resume"
    with pytest.raises(UserError, match=message):
        take(loader, 3)
    write_png(photos / name, smooth(5, 5))
    with pytest.raises(UserError, match=r"it is 5x5 pixels now, not"):
        take(loader, 3)
    with pytest.raises(UserError, match=r"it is 5x5 pixels now, not"):
        loader.batch_at([broken], [0])


def test_a_check_is_remembered_until_a_file_changes(photos: Path, own_cache_folder: Path) -> None:
    read = []
    for _ in range(2):
        make(photos, cache="none", progress=lambda done, count: read.append((done, count)))
    assert read == [(done, 11) for done in range(1, 12)]  # the second time nothing is read
    (photos / "04.png").write_bytes(b"")
    assert len(make(photos, cache="none", max_skipped=0.5)) == 10
    assert len(make(photos, cache="none", max_skipped=0.5)) == 10
    records = list((own_cache_folder / "mmssl/checked").iterdir())
    assert len(records) == 2
    for record in records:
        record.write_text("damaged")
    assert len(make(photos, cache="none", max_skipped=0.5)) == 10


def test_what_may_pass_is_not_remembered(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = FileStore.read

    def denied(self: FileStore, index: int, limits: Limits) -> bytes:
        if index == 3:
            raise MediaError("unreadable", "cannot be opened (Permission denied)")
        return read(self, index, limits)

    monkeypatch.setattr(FileStore, "read", denied)
    assert len(make(photos, cache="none", max_skipped=0.5)) == 10
    monkeypatch.setattr(FileStore, "read", read)
    assert len(make(photos, cache="none")) == 11


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(photos: Path, own_cache_folder: Path) -> None:
    own_cache_folder.write_text("a file where the folder should be")
    assert len(make(photos, cache="none")) == 11


def test_beyond_the_bound_headers_are_checked(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.images.check.CHECK_LIMIT", 5)
    raw = encode(smooth(30, 30), "JPEG")
    (photos / "cut.jpg").write_bytes(raw[:-20])
    (photos / "empty.jpg").write_bytes(b"")
    loader = make(photos, cache="none", max_skipped=0.5)
    assert [item.file for item in loader.source.skipped] == ["cut.jpg", "empty.jpg"]


def test_auto_takes_memory_when_it_is_enough(photos: Path) -> None:
    assert make(photos).pixels is not None
    assert make(photos, memory_limit=1000).pixels is None
    with pytest.raises(UserError, match="needs more than the memory limit"):
        make(photos, memory_limit=1000, cache="memory")


def test_a_prediction_that_was_too_low_is_noticed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "predicted_cache_bytes", lambda *_: 0)
    assert make(photos, memory_limit=3000).pixels is None


@pytest.mark.parametrize(
    ("options", "named"),
    [({"cache": "disk"}, "cache 'disk'"), ({"workers": -1}, "workers -1"), ({"batch_size": 0}, "batch size 0")],
)
def test_impossible_settings_are_refused(photos: Path, options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        make(photos, **options)


def test_ranks_share_a_batch(photos: Path) -> None:
    whole = take(make(photos, batch_size=6), 4)
    ranks = [take(make(photos, batch_size=3, rank=rank, world_size=2), 4) for rank in range(2)]
    for step, batch in enumerate(whole):
        for name in ("id", "epoch", "image"):
            assert torch.equal(torch.cat([rank[step][name] for rank in ranks]), batch[name])


def test_everything_survives_being_spawned(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = take(make(photos, cache="none"), 2)
    for module in ("pool", "delivery"):
        monkeypatch.setattr(f"mmssl.data.{module}.START_METHOD", "spawn")
    assert "spawn" in multiprocessing.get_all_start_methods()
    loader = make(photos, cache="none", workers=1, seed=7)
    assert same(take(loader, 2), whole)


def test_the_time_limit_reaches_the_loader(photos: Path) -> None:
    source = open_images(photos, limits=Limits(pixels=24 * 30))
    loader = ImageLoader(source, size=(16, 16), batch_size=2, seed=0, max_skipped=0.95)
    assert 0 < len(loader) < 11
    assert {item.kind for item in source.skipped} == {"limit"}


@pytest.mark.gpu
def test_batches_arrive_on_the_gpu(photos: Path) -> None:
    for cache in ("memory", "none"):
        there = take(make(photos, cache=cache, device="cuda"), 5)
        assert all(tensor.is_cuda for batch in there for tensor in batch.values())
        here = take(make(photos, cache=cache), 5)
        assert same([{name: tensor.cpu() for name, tensor in batch.items()} for batch in there], here, tolerance=1)
