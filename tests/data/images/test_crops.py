import numpy as np
import pytest
import torch
from picture_files import smooth
from PIL import Image

from mmssl.data.images.cache import PixelCache, kept_size
from mmssl.data.images.crops import Boxes, CropLaw, box_reduction, cut_and_resize, shrunk_boxes
from mmssl.errors import UserError
from mmssl.masking import NoiseKey


def key_of(count: int, epoch: int = 0, seed: int = 0) -> NoiseKey:
    return NoiseKey(seed, torch.full((count,), epoch), torch.arange(count))


def drawn(law: CropLaw, count: int, height: int, width: int, **key: int) -> Boxes:
    return law.draw(key_of(count, **key), np.full(count, height), np.full(count, width))


def test_boxes_lie_in_the_image_at_any_shape() -> None:
    rng = np.random.default_rng(0)
    heights, widths = rng.integers(1, 300, (2, 5000))
    widths[:100], heights[100:200] = 1, 1
    boxes = CropLaw((32, 48)).draw(key_of(5000), heights, widths)
    assert (boxes.top >= 0).all()
    assert (boxes.left >= 0).all()
    assert (boxes.height >= 1).all()
    assert (boxes.width >= 1).all()
    assert (boxes.top + boxes.height <= heights).all()
    assert (boxes.left + boxes.width <= widths).all()


def test_the_law_of_area_aspect_and_place() -> None:
    """Square image: every aspect of 3/4 ... 4/3 fits up to 3/4 of the area, so there all three are plain uniforms."""
    boxes = drawn(CropLaw((32, 32), scale=(0.2, 0.75)), 20_000, 1000, 1000)
    area, aspect = boxes.height * boxes.width / 1e6, np.log(boxes.width / boxes.height)
    place = boxes.left / (1000 - boxes.width + 1), boxes.top / (1000 - boxes.height + 1)
    for values, low, high in ((area, 0.2, 0.75), (aspect, -np.log(4 / 3), np.log(4 / 3)), *((p, 0, 1) for p in place)):
        ranks = np.sort((values - low) / (high - low))
        # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed by chance once in a thousand
        assert np.abs(ranks - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / np.sqrt(20_000) + 2e-3
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.03
    assert abs(np.corrcoef(*place)[0, 1]) < 0.03
    assert abs(boxes.flip.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(boxes.flip, place[0])[0, 1]) < 0.03


def test_areas_stay_uniform_where_rejection_would_prefer_small_boxes() -> None:
    boxes = drawn(CropLaw((32, 32)), 20_000, 900, 1200)
    area = np.sort(boxes.height * boxes.width / (900 * 1200))
    assert np.abs((area - 0.2) / 0.8 - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / np.sqrt(20_000) + 2e-3


def test_when_no_aspect_fits_the_nearest_one_is_taken() -> None:
    boxes = drawn(CropLaw((32, 32)), 200, 30, 900)
    assert (boxes.height == 30).all()
    assert (boxes.width == 40).all()  # 4/3
    assert len(set(boxes.left.tolist())) > 100


def test_the_whole_image_when_everything_is_asked_for() -> None:
    boxes = drawn(CropLaw((32, 32), scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False), 50, 64, 64)
    assert (boxes.height == 64).all()
    assert (boxes.width == 64).all()
    assert not boxes.flip.any()


def test_aspect_is_relative_to_the_target() -> None:
    boxes = drawn(CropLaw((32, 96), scale=(0.1, 0.2)), 5000, 600, 600)
    aspect = boxes.width / boxes.height / 3
    assert 0.74 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.35


def test_a_crop_depends_on_seed_epoch_and_id_alone() -> None:
    law = CropLaw((32, 32))
    many = drawn(law, 100, 90, 120, epoch=3)
    order = torch.randperm(100)
    key = NoiseKey(0, torch.full((100,), 3), order)
    shuffled = law.draw(key, np.full(100, 90), np.full(100, 120))
    assert np.array_equal(shuffled.left, many.left[order.numpy()])
    one = law.draw(NoiseKey(0, torch.tensor([3]), torch.tensor([42])), np.array([90]), np.array([120]))
    row = many.select(42)
    assert (one.top, one.left, one.height, one.width, one.flip) == (row.top, row.left, row.height, row.width, row.flip)
    for other in (drawn(law, 100, 90, 120, epoch=4), drawn(law, 100, 90, 120, epoch=3, seed=1)):
        assert (other.left == many.left).mean() < 0.2


@pytest.mark.parametrize(
    ("image", "size", "box"),
    [
        ((30, 40), (8, 8), (0, 5, 30, 30)),
        ((40, 30), (8, 8), (5, 0, 30, 30)),
        ((30, 40), (10, 40), (10, 0, 10, 40)),
        ((3, 3), (9, 9), (0, 0, 3, 3)),
        ((5, 500), (16, 16), (0, 247, 5, 5)),
    ],
)
def test_the_frozen_view_is_the_largest_centred_box(image: tuple, size: tuple, box: tuple) -> None:
    boxes = CropLaw(size).centre(np.array([image[0]]), np.array([image[1]]))
    assert (boxes.top[0], boxes.left[0], boxes.height[0], boxes.width[0]) == box
    assert not boxes.flip[0]


def test_a_native_box_is_as_large_as_the_target_and_anywhere() -> None:
    boxes = drawn(CropLaw((24, 40), zoom=(1.0, 1.0)), 20_000, 100, 120)
    assert (boxes.height == 24).all()
    assert (boxes.width == 40).all()
    for start, places in ((boxes.top, 77), (boxes.left, 81)):
        counts = np.bincount(start, minlength=places)
        assert len(counts) == places
        assert abs(counts / 20_000 * places - 1).max() < 5 / np.sqrt(20_000 / places)
    assert abs(boxes.flip.mean() - 0.5) < 0.02


def test_zoom_is_log_uniform_and_keeps_the_aspect() -> None:
    boxes = drawn(CropLaw((200, 300), zoom=(0.5, 2.0)), 20_000, 5000, 5000)
    assert (abs(boxes.width - 1.5 * boxes.height) <= 1.25).all()
    ranks = np.sort(np.log(boxes.height / 100) / np.log(4))
    assert np.abs(ranks - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / np.sqrt(20_000) + 3e-3


@pytest.mark.parametrize(("image", "box"), [((30, 90), (30, 45)), ((64, 48), (32, 48)), ((5, 5), (3, 5))])
def test_zoom_ends_at_the_largest_box_of_the_targets_aspect(image: tuple, box: tuple) -> None:
    law = CropLaw((40, 60), zoom=(1.0, 2.0))
    for boxes in (drawn(law, 200, *image), law.centre(np.array(image[:1]), np.array(image[1:]))):
        assert (boxes.height == box[0]).all()
        assert (boxes.width == box[1]).all()
        assert (boxes.top + boxes.height <= image[0]).all()
        assert (boxes.left + boxes.width <= image[1]).all()


def test_the_frozen_view_of_a_zoom_is_its_smallest_centred_box() -> None:
    boxes = CropLaw((10, 20), zoom=(1.5, 4.0)).centre(np.array([100]), np.array([90]))
    assert (boxes.top[0], boxes.left[0], boxes.height[0], boxes.width[0]) == (42, 30, 15, 30)


def test_cut_and_resize_is_pillow_bilinear() -> None:
    pixels = smooth(61, 83, seed=4)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    for box, size in (((3, 5, 50, 70), (24, 20)), ((10, 2, 20, 30), (40, 64)), ((0, 0, 61, 83), (7, 9))):
        top, left, height, width = box
        ours = cut_and_resize(image, box, False, size).permute(1, 2, 0).numpy().astype(int)
        pillow = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        theirs = np.asarray(pillow.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(ours - theirs).max() <= 1
        assert np.array_equal(cut_and_resize(image, box, True, size).permute(1, 2, 0).numpy(), ours[:, ::-1])
    assert torch.equal(cut_and_resize(image, (4, 6, 20, 22), False, (20, 22)), image[:, 4:24, 6:28])


def ragged(shapes: list[tuple[int, int]], channels: int = 3) -> tuple[PixelCache, list[np.ndarray]]:
    images = [smooth(*shape, seed=seed, channels=channels) for seed, shape in enumerate(shapes)]
    heights, widths = np.array(shapes).T
    counts = heights * widths
    flat = torch.from_numpy(np.concatenate([image.reshape(-1, channels) for image in images]))
    return PixelCache(flat, np.cumsum(counts) - counts, heights, widths, heights, widths), images


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [(16, 16), (20, 33), (90, 70)])
def test_matrices_and_the_native_kernel_agree_to_one_level(channels: int, size: tuple[int, int]) -> None:
    shapes = [(40, 40), (37, 91), (120, 33), (16, 16), (1, 7), (64, 65)]
    cache, images = ragged(shapes, channels)
    ids = np.array([0, 1, 2, 3, 4, 5, 1, 1, 0])
    boxes = CropLaw(size).draw(key_of(len(ids)), cache.heights[ids], cache.widths[ids])
    native = cache.crop(ids, boxes, size)
    factors = np.ones(len(ids)), np.ones(len(ids))
    windows = shrunk_boxes(boxes, factors, cache.heights[ids], cache.widths[ids])
    matrices = cache.crop_by_matrices(ids, windows, boxes.flip, size)
    assert native.shape == (len(ids), channels, *size)
    assert (native.int() - matrices.int()).abs().max() <= 1
    for row, index in enumerate(ids):
        box = tuple(windows[row].tolist())
        alone = cut_and_resize(torch.from_numpy(images[index]).permute(2, 0, 1), box, bool(boxes.flip[row]), size)
        assert torch.equal(native[row], alone)


def test_matrices_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = ragged([(40, 40), (37, 91), (120, 33)])
    ids = np.array([2, 0, 1, 1])
    windows = np.array([[0, 0, 60, 33], [5, 5, 20, 20], [0, 10, 37, 50], [1, 1, 16, 16]])
    flip = np.array([True, False, True, False])
    whole = cache.crop_by_matrices(ids, windows, flip, (16, 16))
    monkeypatch.setattr("mmssl.data.images.cache._WINDOW_LIMIT", 1)
    assert torch.equal(cache.crop_by_matrices(ids, windows, flip, (16, 16)), whole)
    assert torch.equal(whole[3], cache.image(1)[:, 1:17, 1:17])  # nothing to resample: copied


@pytest.mark.gpu
def test_crops_on_the_gpu_agree_with_the_cpu_to_one_level() -> None:
    cache, _ = ragged([(40, 40), (37, 91), (120, 33)])
    ids = np.arange(3).repeat(10)
    boxes = CropLaw((24, 24)).draw(key_of(30), cache.heights[ids], cache.widths[ids])
    there = cache.to(torch.device("cuda")).crop(ids, boxes, (24, 24))
    assert there.is_cuda
    assert (there.cpu().int() - cache.crop(ids, boxes, (24, 24)).int()).abs().max() <= 1


def test_boxes_of_shrunk_images() -> None:
    boxes = Boxes(*(np.array([value]) for value in (10, 21, 50, 60)), flip=np.array([False]))
    half = np.array([0.5])
    assert shrunk_boxes(boxes, (half, half), np.array([50]), np.array([60])).tolist() == [[5, 10, 25, 30]]
    tiny = np.array([0.01])
    assert shrunk_boxes(boxes, (tiny, tiny), np.array([1]), np.array([1])).tolist() == [[0, 0, 1, 1]]


def test_how_much_smaller_an_image_may_be_decoded() -> None:
    assert [box_reduction(side, 2000, (100, 100)) for side in (50, 100, 199, 200, 399, 400, 800, 5000)] == [
        1, 1, 1, 2, 2, 4, 8, 8,
    ]  # fmt: skip


def test_kept_sizes_cover_the_target_with_the_stated_margin() -> None:
    assert kept_size(1200, 1600, (96, 96)) == (120, 160)
    assert kept_size(100, 110, (96, 96)) == (100, 110)
    assert kept_size(1000, 1000, (64, 128)) == (160, 160)
    assert kept_size(4, 2000, (32, 32)) == (4, 2000)
    for zoom in ((1.0, 1.0), (0.5, 4.0), (1.25, 2.0)):
        assert kept_size(1200, 1600, (96, 96), zoom) == (1200, 1600)
    assert kept_size(1200, 1600, (96, 96), (5.0, 8.0)) == (300, 400)
    # as without zoom where even the smallest box is cut
    assert kept_size(1200, 1600, (96, 96), (20.0, 30.0)) == (120, 160)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"size": (0, 8)}, "image size"),
        ({"size": (8, 8), "scale": (0.5, 0.2)}, "crop scale"),
        ({"size": (8, 8), "scale": (0, 1)}, "crop scale"),
        ({"size": (8, 8), "ratio": (2, 1)}, "crop ratio"),
        ({"size": (8, 8), "zoom": (2.0, 1.0)}, "crop zoom"),
        ({"size": (8, 8), "zoom": (0.0, 1.0)}, "crop zoom"),
        ({"size": (8, 8), "zoom": (1.0, float("inf"))}, "crop zoom"),
    ],
)
def test_impossible_laws_are_refused(arguments: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        CropLaw(**arguments)
