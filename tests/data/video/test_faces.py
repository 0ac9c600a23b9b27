"""Faces are followed, their boxes are steady, and the mouth is in the middle of the crop."""

from pathlib import Path

import numpy as np
import pytest
from video_files import shared

from mmssl.data.limits import MediaError
from mmssl.data.stores import TarStore
from mmssl.data.video import ClipSettings
from mmssl.data.video.decode import decode_clip
from mmssl.data.video.faces import Seen, boxes_at, follow
from mmssl.data.video.limits import VideoLimits
from mmssl.data.video.pictures import cut

TIMES = np.arange(75) / 25
LOOKS = TIMES[::5]


def seen(*tracks: np.ndarray) -> list[Seen]:
    """Squares of each track at each look; NaN where it is not found."""
    rows = np.stack(tracks, 1)
    return [Seen(float(time), row[np.isfinite(row[:, 0])]) for time, row in zip(LOOKS, rows, strict=True)]


def still(left: float, top: float, side: float) -> np.ndarray:
    return np.tile([left, top, side], (len(LOOKS), 1)).astype(np.float64)


def test_the_larger_face_is_followed_through_looks_that_missed_it() -> None:
    near, far = still(100, 50, 80), still(10, 40, 40)
    near[:, 0] += 2.0 * np.arange(len(LOOKS))
    near[[3, 4, 9]] = np.nan
    far[:, 0] += np.arange(len(LOOKS))
    times, squares = follow(seen(far, near))
    assert np.allclose(times, np.delete(LOOKS, [3, 4, 9]))
    assert np.allclose(squares, np.delete(near, [3, 4, 9], 0))


def test_a_face_that_is_hardly_ever_there_is_none() -> None:
    rare = still(10, 40, 40)
    rare[2:] = np.nan
    with pytest.raises(MediaError, match="found in 2 of 15 frames"):
        follow(seen(rare))
    with pytest.raises(MediaError, match="found in 0 of 15 frames"):
        follow(seen(np.full((15, 3), np.nan)))


def test_trembling_and_blunders_of_the_detector_do_not_move_the_crop() -> None:
    rng = np.random.default_rng(0)
    noisy = still(100, 50, 80) + rng.normal(0, 2, (len(LOOKS), 3))
    noisy[7] = 140, 90, 60  # one wrong square
    boxes = boxes_at(TIMES, LOOKS, noisy, "mouth", (64, 64), (256, 256))
    assert np.abs(np.diff(boxes, axis=0)).max() < 0.4  # pixels from frame to frame
    steady = boxes_at(TIMES, LOOKS, still(100, 50, 80), "mouth", (64, 64), (256, 256))
    assert np.abs(boxes - steady).max() < 4
    assert np.abs(np.diff(steady, axis=0)).max() < 1e-9


def test_a_moving_head_is_kept_in_the_middle() -> None:
    moving = still(40, 50, 80)
    moving[:, 0] += 30 * LOOKS
    boxes = boxes_at(TIMES, LOOKS, moving, "mouth", (64, 64), (256, 256))
    centre = boxes[:, 1] + boxes[:, 3] / 2
    inner = slice(12, 60)
    assert np.abs(centre - (40 + 30 * TIMES + 40))[inner].max() < 1.5


@pytest.mark.parametrize("what", ["face", "mouth"])
@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_boxes_stay_inside_the_picture_and_have_the_shape_of_the_frames(what, size) -> None:
    for square in (still(-5, -8, 90), still(200, 190, 80), still(60, 0, 250)):
        boxes = boxes_at(TIMES, LOOKS, square, what, size, (240, 256))
        assert boxes[:, :2].min() >= 0
        assert (boxes[:, 0] + boxes[:, 2]).max() <= 240 + 1e-9
        assert (boxes[:, 1] + boxes[:, 3]).max() <= 256 + 1e-9
        assert np.allclose(boxes[:, 2] / boxes[:, 3], size[0] / size[1])


def test_a_box_between_pixels_is_the_mean_of_its_neighbours() -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (20, 1))
    found = cut(ramp, (4.0, 10.5, 8.0, 8.0), (8, 8))[0]
    assert np.abs(found[2, 1:-1] - 4 * (np.arange(1, 7) + 10.5)).max() <= 1


GRID = shared("av_grid")


@pytest.mark.skipif(not GRID.exists(), reason="the shared data are not there")
def test_mouths_of_real_faces_are_in_the_middle_of_their_crops() -> None:
    """What moves in a talking face is the mouth: the motion has to be in the middle, for every speaker."""
    pytest.importorskip("cv2")
    tar = TarStore(GRID / "video.tar", lambda name: Path(name).stem in ("s1_bbaf3s", "uG_bbad1n", "uO_swiz3n"))
    assert len(tar.names) == 3
    for index, name in enumerate(tar.names):
        clip = decode_clip(tar.extent(index), ClipSettings(size=(64, 64), crop="mouth"), None, None, VideoLimits())
        assert len(clip) == 75
        motion = np.abs(np.diff(clip.video[:, 0].astype(float), axis=0)).mean(0)
        rows, columns = motion.sum(1), motion.sum(0)
        middle = (np.average(np.arange(64), weights=rows), np.average(np.arange(64), weights=columns))
        assert 24 < middle[0] < 44, name
        assert 26 < middle[1] < 38, name
        # lips and chin move three times as much as the edge of the crop
        edge = np.concatenate([motion[:6].ravel(), motion[:, :6].ravel(), motion[:, -6:].ravel()])
        assert motion[20:44, 16:48].mean() > 2 * edge.mean(), name
        assert clip.boxes is not None
        assert np.abs(np.diff(clip.boxes, axis=0)).max() < 0.7, name
