"""Windows in batches: each shows its clip at its place, in an order that is arithmetic."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from video_files import number_of, plain, write_video

from mmssl.data.audio.segments import ID_STEP
from mmssl.data.video import ClipLoader, ClipSettings, ClipSource, open_clips
from mmssl.data.video.windows import cut
from mmssl.errors import UserError

SMALL = ClipSettings(size=(8, 8))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ClipSource:
    """Clips of 10, 25, 37 and 5 frames, and a video without sound."""
    folder = tmp_path_factory.mktemp("videos")
    for number, frames in enumerate((10, 25, 37, 5)):
        plain(folder / f"{number}.mov", seconds=frames / 25, size=(16, 16))
    write_video(folder / "mute.mov", np.arange(10) / 25, None, size=(16, 16))
    return open_clips(folder, settings=SMALL, cache=tmp_path_factory.mktemp("out") / "cache")


def loader(source: ClipSource, **more: object) -> ClipLoader:
    settings = {"frames": 10, "batch_size": 4, "seed": 3, **more}
    return ClipLoader(source.subset(range(len(source))), **settings)  # type: ignore[arg-type]


def test_a_window_is_a_piece_of_its_clip(source: ClipSource) -> None:
    seen = set()
    for batch in islice(loader(source).batches(), 30):
        assert batch["video"].shape == (4, 10, 1, 8, 8)
        assert batch["audio"].shape == (4, 6400)
        assert batch["video"].dtype == torch.uint8
        assert batch["audio"].dtype == torch.int16
        for row in range(4):
            clip, first = int(batch["clip"][row]), int(batch["first"][row])
            assert int(batch["id"][row]) % ID_STEP == clip
            # truth of the files: picture i is grey level i, sample n is n
            assert [number_of(picture) for picture in batch["video"][row].numpy()] == list(range(first, first + 10))
            assert batch["audio"][row].tolist() == [(640 * first + n) % 20_000 for n in range(6400)]
            seen.add((clip, first))
    assert {clip for clip, _ in seen} == {0, 1, 2}
    assert {first for clip, first in seen if clip == 0} == {0}
    assert len({first for clip, first in seen if clip == 2}) > 15


def test_an_epoch_shows_long_clips_in_proportion(source: ClipSource) -> None:
    found = loader(source)
    assert len(found) == 1 + 2 + 3
    assert found.windows.id.tolist() == [0, 1, 1 + ID_STEP, 2, 2 + ID_STEP, 2 + 2 * ID_STEP]
    epoch = [id for batch in islice(loader(source, batch_size=3).batches(), 2) for id in batch["id"].tolist()]
    assert sorted(epoch) == sorted(found.windows.id.tolist())
    assert found.seconds == pytest.approx((10 + 25 + 37) / 25)


def test_places_are_uniform_and_depend_on_seed_epoch_and_id_only() -> None:
    lengths = np.array([75, 40, 500])
    windows = cut(lengths, np.array([0, 1, 2]), 25)
    assert windows.count.tolist() == [3, 3, 3, 1, *[20] * 20]
    chosen = np.zeros(5100, np.int64)
    starts = windows.starts(chosen, np.arange(5100), 7)
    counts = np.bincount(starts, minlength=51)
    assert len(counts) == 51
    assert ((counts - 100) ** 2 / 100).sum() < 90  # chi-square, 50 degrees of freedom: 1 in 2000
    alone = cut(np.array([75, 0, 500]), np.array([0, 2]), 25)  # another clip was not usable
    epochs = np.full(23, 4)
    everything = windows.starts(np.array([0, 1, 2, *range(4, 24)]), epochs, 7)
    assert alone.starts(np.arange(23), epochs, 7).tolist() == everything.tolist()
    assert (everything != windows.starts(np.array([0, 1, 2, *range(4, 24)]), epochs, 8)).any()


def test_validation_windows_are_fixed_and_spread(source: ClipSource) -> None:
    found = loader(source)
    batches = list(found.frozen(batch_size=4))
    assert [len(batch["id"]) for batch in batches] == [4, 2]
    firsts = [pair for batch in batches for pair in zip(batch["clip"].tolist(), batch["first"].tolist(), strict=True)]
    assert firsts == [(0, 0), (1, 0), (1, 15), (2, 0), (2, 13), (2, 27)]
    other_seed = list(loader(source, seed=99).frozen(batch_size=4))
    assert all((a["video"] == b["video"]).all() for a, b in zip(batches, other_seed, strict=True))
    assert [batch["clip"].tolist() for batch in found.frozen(most=3)] == [[0, 1, 2]]
    single = cut(np.array([15]), np.array([0]), 10)
    assert single.fixed(np.array([0])).tolist() == [2]


def test_resuming_is_an_offset_and_ranks_share_a_step(source: ClipSource) -> None:
    whole = list(islice(loader(source, batch_size=4).batches(), 8))
    resumed = list(islice(loader(source, batch_size=4).batches(5), 3))
    for before, after in zip(whole[5:], resumed, strict=True):
        assert all((before[name] == after[name]).all() for name in before)
    ranks = [loader(source, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    for step in range(4):
        parts = [next(rank.batches(step)) for rank in ranks]
        assert (torch.cat([part["video"] for part in parts]) == whole[step]["video"]).all()
        assert ranks[0].names(step) == [ranks[0].source.files[clip] for clip in parts[0]["clip"].tolist()]
    frozen = [batch["id"].tolist() for batch in ranks[0].frozen(1)]
    for rank in range(2):
        assert [batch["id"].tolist() for batch in ranks[0].frozen(1, share=(rank, 2))] == frozen[rank::2]


def test_what_is_too_short_or_has_no_sound_is_listed(source: ClipSource) -> None:
    found = loader(source)
    said = {item.file: (item.kind, item.reason) for item in found.source.skipped}
    assert said["mute.mov"] == ("no sound", "it has no sound track")
    assert said["3.mov"] == ("short", "5 frames with sound are fewer than the 10 wanted")
    assert found.usable.tolist() == [0, 1, 2]
    assert found.fingerprint() != loader(source, frames=9).fingerprint()
    assert found.fingerprint() == loader(source, seed=8).fingerprint()
    with pytest.raises(UserError, match="cannot be used"):
        loader(source, frames=100)
    with pytest.raises(UserError, match="windows of 0 frames"):
        loader(source, frames=0)


def test_broken_videos_beyond_a_share_stop_the_run(tmp_path: Path) -> None:
    plain(tmp_path / "a.mov", seconds=0.4)
    for number in range(3):
        (tmp_path / f"bad{number}.mp4").write_bytes(bytes([number] * 50))
    bad = open_clips(tmp_path, settings=SMALL)
    with pytest.raises(UserError, match=r"3 of 4 videos of .* cannot be used"):
        ClipLoader(bad, frames=5, batch_size=1, seed=0)
    assert len(ClipLoader(bad, frames=5, batch_size=1, seed=0, max_skipped=0.8)) == 2
