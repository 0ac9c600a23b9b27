import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sound_files import pack, tone, write, write_folder

from mmssl.data.audio import AudioLoader, open_audio
from mmssl.data.audio.batching import LengthBatches, even_edges
from mmssl.data.audio.segments import ID_STEP, cut
from mmssl.data.delivery import Batch
from mmssl.errors import UserError
from mmssl.training.loop import Batches

LENGTHS = [0.5, 0.6, 0.9, 1.0, 1.0, 1.3, 1.7, 2.0, 3.5, 6.1]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    write_folder(tmp_path / "speech", LENGTHS, ending="flac")
    write(tmp_path / "speech/low.wav", tone(1.1, 8000, 2, seed=20), 8000)
    return tmp_path / "speech"


def make(data: Path, **options: object) -> AudioLoader:
    settings = {"max_seconds": 1.5, "batch_seconds": 4.0, "seed": 3, **options}
    return AudioLoader(open_audio(data), **settings)  # type: ignore[arg-type]


def take(loader: AudioLoader, count: int, start: int = 0) -> list[Batch]:
    return list(itertools.islice(loader.batches(start), count))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_batches_are_well_formed(speech: Path, cache: str) -> None:
    loader = make(speech, cache=cache)
    assert isinstance(loader, Batches)
    for step, batch in enumerate(take(loader, 12)):
        assert sorted(batch) == ["audio", "epoch", "id", "length"]
        audio, length = batch["audio"], batch["length"]
        assert audio.dtype == torch.float32
        assert batch["id"].dtype == batch["epoch"].dtype == length.dtype == torch.int64
        assert audio.shape == (len(length), int(length[0]))
        assert (length[:-1] >= length[1:]).all()
        assert audio.numel() <= 4.0 * 16_000
        assert audio.isfinite().all()
        assert 0.1 < audio.abs().max() <= 1
        behind = torch.arange(audio.shape[1]) >= length[:, None]
        assert (audio[behind] == 0).all()
        assert loader.ids(step).tolist() == batch["id"].tolist()
        assert loader.names(step) == [loader.source.files[id % ID_STEP] for id in batch["id"].tolist()]


def test_every_piece_once_an_epoch(speech: Path) -> None:
    loader = make(speech)
    # 6.1 s are four pieces, 3.5 two, 2.0 and 1.7 one
    assert len(loader) == len(LENGTHS) + 1 + 3 + 1
    steps = len(loader.order)
    assert loader.epoch_steps == steps
    orders = []
    for epoch in range(3):
        batches = take(loader, steps, epoch * steps)
        ids = [id for batch in batches for id in batch["id"].tolist()]
        assert sorted(ids) == sorted(loader.pieces.id.tolist())
        assert {e for batch in batches for e in batch["epoch"].tolist()} == {epoch}
        orders.append(ids)
    assert orders[0] != orders[1]
    total = sum(int(batch["length"].sum()) for batch in take(loader, steps)) / 16_000
    assert total == pytest.approx(loader.seconds)


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_goes_on_bit_for_bit_with_any_workers(speech: Path, cache: str, workers: int) -> None:
    whole = take(make(speech, cache=cache), 9)
    for start in (0, 5):
        assert same(take(make(speech, cache=cache, workers=workers), 9 - start, start), whole[start:])


def test_threads_change_nothing(speech: Path) -> None:
    before = torch.get_num_threads()
    whole = take(make(speech, cache="none"), 6)
    try:
        torch.set_num_threads(2)
        assert same(take(make(speech, cache="none"), 6), whole)
    finally:
        torch.set_num_threads(before)


def test_cached_samples_are_those_of_the_files_rounded(speech: Path) -> None:
    for cached, read in zip(take(make(speech, cache="memory"), 8), take(make(speech, cache="none"), 8), strict=True):
        assert torch.equal(cached["id"], read["id"])
        assert (cached["audio"] - read["audio"]).abs().max() <= 2.0**-15
        kept = cached["id"] % ID_STEP < len(LENGTHS)
        assert torch.equal(cached["audio"][kept], read["audio"][kept])  # 16 bits at 16 kHz already


def test_segments_are_where_they_are_said_to_be(speech: Path) -> None:
    loader = make(speech, cache="none")
    wholes = [loader.source.read(index, sample_rate=16_000) for index in range(len(loader.source))]
    for step, batch in enumerate(take(loader, 2 * len(loader.order))):
        places, epochs = loader.order.batch(step)
        starts = loader.pieces.starts(places, epochs, 3).tolist()
        for row, (id, start, length) in enumerate(
            zip(batch["id"].tolist(), starts, batch["length"].tolist(), strict=True)
        ):
            expected = wholes[id % ID_STEP][start : start + length]
            assert (batch["audio"][row, :length] - expected).abs().max() < 1e-6


def test_frozen_batches_are_fixed_and_stable(speech: Path) -> None:
    loader = make(speech)
    first = list(loader.frozen())
    assert same(first, list(make(speech, seed=99, workers=2, cache="none").frozen())) is False  # low.wav is rounded
    assert same(
        list(make(speech, cache="none").frozen()), list(make(speech, seed=99, workers=2, cache="none").frozen())
    )
    ids = [id for batch in first for id in batch["id"].tolist()]
    assert sorted(ids) == sorted(loader.pieces.id.tolist())
    assert {e for batch in first for e in batch["epoch"].tolist()} == {0}
    assert all(batch["audio"].numel() <= 64_000 for batch in first)
    few = [id for batch in loader.frozen(most_seconds=loader.seconds / 2) for id in batch["id"].tolist()]
    assert set(few) == set(loader.pieces.id[::2].tolist())
    with pytest.raises(UserError, match=r"batch seconds 1 are fewer than the 1\.5"):
        next(loader.frozen(batch_seconds=1.0))


def test_ids_do_not_depend_on_other_recordings(speech: Path) -> None:
    before = make(speech).pieces.id.tolist()
    (speech / "03.flac").write_bytes(b"broken")
    loader = make(speech, max_skipped=0.5)
    assert loader.pieces.id.tolist() == [id for id in before if id != 3]


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 2), (3, 1)])
def test_ranks_and_micro_batches_share_each_batch(speech: Path, world_size: int, accumulation: int) -> None:
    longer = {"batch_seconds": 12.0, "max_seconds": 1.5}
    alone = make(speech, **longer)
    ranks = [
        make(speech, **longer, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    for step in range(2 * len(alone.order)):
        micro = range(step * accumulation, (step + 1) * accumulation)
        shares = [rank.ids(part).tolist() for rank in ranks for part in micro]
        assert sorted(itertools.chain(*shares)) == sorted(alone.ids(step).tolist())
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    frozen = [batch["id"].tolist() for batch in alone.frozen(3.0)]
    apart = [[batch["id"].tolist() for batch in alone.frozen(3.0, share=(rank, 2))] for rank in range(2)]
    assert [apart[place % 2][place // 2] for place in range(len(frozen))] == frozen


def test_a_micro_batch_of_all_ranks_is_the_same_for_any_number(speech: Path) -> None:
    settings = {"batch_seconds": 12.0, "max_seconds": 1.5, "accumulation": 2}
    alone = make(speech, **settings)
    ranks = [make(speech, **settings, rank=rank, world_size=2) for rank in range(2)]
    for micro in range(6):
        assert sorted(ranks[0].ids(micro).tolist() + ranks[1].ids(micro).tolist()) == sorted(alone.ids(micro).tolist())


def test_more_shares_than_recordings_are_refused(speech: Path) -> None:
    with pytest.raises(UserError, match=r"as few as \d+ recordings, which cannot be shared among 40 processes x 2"):
        make(speech, batch_seconds=12.0, rank=0, world_size=40, accumulation=2)


@pytest.mark.parametrize("count", range(2, 60))
def test_batches_are_as_equal_as_their_number_allows(count: int) -> None:
    """Recordings of one length: no batch is what others left over, and none has two more than the next."""
    lengths = np.full(count, 100)
    sizes = np.diff(even_edges(lengths, 650))
    assert len(sizes) == -(-count // 6)
    assert sizes.sum() == count
    assert (-np.diff(sizes)).max(initial=0) <= 1
    assert sizes.min() > sizes.max() / 2


def test_levelling_keeps_the_budget() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(50):
        lengths = np.sort(numbers.integers(10, 100, numbers.integers(1, 80)))[::-1].copy()
        edges = even_edges(lengths, 300)
        assert edges[0] == 0
        assert edges[-1] == len(lengths)
        sizes = np.diff(edges)
        assert sizes.min() > 0
        assert (sizes * lengths[edges[:-1]]).max() <= 300


def test_what_is_left_out_and_why(speech: Path) -> None:
    write(speech / "short.wav", tone(0.05))
    write(speech / "silent.wav", 0 * tone(1))
    write(speech / "one.wav", tone(1)[:1])
    for cache in ("memory", "none"):
        loader = make(speech, cache=cache)
        assert {(item.file, item.kind) for item in loader.source.skipped} == {
            ("short.wav", "short"), ("silent.wav", "silent"), ("one.wav", "short"),
        }  # fmt: skip
        assert sum(len(batch["id"]) for batch in loader.frozen()) == len(loader)
    (speech / "bad.wav").write_text("text")
    assert "bad.wav" in {item.file for item in make(speech).source.skipped}  # a single one is never too many
    (speech / "worse.wav").write_text("text")
    with pytest.raises(UserError, match=r"2 of 16 recordings .* more than the allowed 5% .*bad.wav"):
        make(speech)


def test_a_file_broken_later_stops_the_run_and_is_named(speech: Path) -> None:
    for workers in (0, 1):
        loader = make(speech, cache="none", workers=workers)
        raw = (speech / "09.flac").read_bytes()
        (speech / "09.flac").write_bytes(raw[:3000])
        with pytest.raises(UserError, match=r"09.flac was readable before training and is not now"):
            take(loader, len(loader.order))
        (speech / "09.flac").write_bytes(raw)


def test_a_check_is_remembered(speech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (speech / "bad.flac").write_bytes(b"broken")
    first = make(speech, cache="none", max_skipped=0.5)
    monkeypatch.setattr("mmssl.data.audio.check.listen", None)
    again = make(speech, cache="none", max_skipped=0.5)
    assert again.source.skipped == first.source.skipped
    assert same(take(again, 4), take(first, 4))
    monkeypatch.setattr("mmssl.data.audio.check.CHECK_HOURS", 0)
    write(speech / "new.wav", tone(1))
    assert len(make(speech, cache="none", max_skipped=0.5)) == len(first) + 1


def test_a_tar_gives_the_same_batches(speech: Path, tmp_path: Path) -> None:
    packed = pack(tmp_path / "speech.tar", sorted(speech.iterdir()))
    for cache in ("memory", "none"):
        assert same(take(make(packed, cache=cache, workers=1), 4), take(make(speech, cache=cache), 4))


def test_fingerprints_change_with_data_and_cutting(speech: Path) -> None:
    first = make(speech).fingerprint()
    assert make(speech, workers=1, batch_seconds=9.0).fingerprint() == first
    assert make(speech, max_seconds=2.0).fingerprint() != first
    assert make(speech, sample_rate=8000).fingerprint() != first
    write(speech / "new.wav", tone(1))
    assert make(speech).fingerprint() != first


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cache": "disk"}, "cache 'disk'"), ({"workers": -1}, "workers -1"), ({"sample_rate": 16}, "sample rate 16"),
        ({"batch_seconds": 1.0}, "batch seconds 1 are fewer"), ({"min_seconds": 2.0}, "max seconds 1.5 must be"),
        ({"memory_limit": 1000, "cache": "memory"}, "more than the memory limit"), ({"rank": 2}, "rank 2"),
        ({"min_seconds": 1.5, "max_seconds": 1.5, "batch_seconds": 1.5, "max_skipped": 0.0}, None),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(speech: Path, options: dict, named: str | None) -> None:
    if named is None:
        assert len(make(speech, **options)) == 4 + 2 + 1 + 1
        return
    with pytest.raises(UserError, match=named):
        make(speech, **options)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=200),
    budget=st.integers(1000, 4000),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 3),
)
def test_an_epoch_is_a_permutation_in_bounded_batches(lengths: list[int], budget: int, seed: int, epoch: int) -> None:
    array = np.array(lengths, np.int64)
    order = LengthBatches(array, budget, seed)
    seen: Counter[int] = Counter()
    for step in range(epoch * len(order), (epoch + 1) * len(order)):
        places, epochs = order.batch(step)
        assert set(epochs.tolist()) == {epoch}
        assert len(places) * array[places].max() <= budget
        seen.update(places.tolist())
    assert seen == Counter(range(len(lengths)))


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 10_000), min_size=1, max_size=30),
    most=st.integers(1, 3000),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 5),
)
def test_pieces_of_an_epoch_lie_inside_and_apart(lengths: list[int], most: int, seed: int, epoch: int) -> None:
    array = np.array(lengths, np.int64)
    pieces = cut(array, np.arange(len(array)), most)
    places = np.arange(len(pieces))
    assert len(set(pieces.id.tolist())) == len(pieces)
    for epochs in (np.full(len(pieces), epoch, np.int64), None):
        starts = pieces.starts(places, epochs, seed)
        stops = starts + pieces.length
        assert (starts >= 0).all()
        assert (stops <= array[pieces.recording]).all()
        follows = pieces.number[1:] > 0
        assert (starts[1:][follows] == stops[:-1][follows]).all()
    for recording, length in enumerate(lengths):
        own = pieces.recording == recording
        assert pieces.length[own].sum() == (length if length <= most else length // most * most)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 10_000), min_size=1, max_size=30),
    least=st.integers(1, 300),
    more=st.integers(1, 2000),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 5),
)
def test_pieces_of_varied_lengths_lie_inside_and_apart(
    lengths: list[int], least: int, more: int, seed: int, epoch: int
) -> None:
    array = np.array(lengths, np.int64)
    pieces = cut(array, np.arange(len(array)), least + more, least, seed)
    places = np.arange(len(pieces))
    assert len(set(pieces.id.tolist())) == len(pieces)
    assert (pieces.length <= least + more).all()
    assert (pieces.length >= np.minimum(least, array[pieces.recording])).all()
    for epochs in (np.full(len(pieces), epoch, np.int64), None):
        starts = pieces.starts(places, epochs, seed)
        stops = starts + pieces.length
        assert (starts >= 0).all()
        assert (stops <= array[pieces.recording]).all()
        for recording, length in enumerate(lengths):
            own = np.flatnonzero(pieces.recording == recording)
            order = own[starts[own].argsort()]
            assert (starts[order][1:] == stops[order][:-1]).all()  # apart, and without a gap
            assert length - pieces.length[own].sum() < least + more


def test_varied_lengths_are_even_on_a_logarithmic_scale_and_epochs_begin_elsewhere() -> None:
    array = np.full(500, 40_000, np.int64)
    pieces = cut(array, np.arange(500), 4000, 400, 1)
    below = float((pieces.length < 1265).mean())  # the geometric middle
    assert abs(below - 0.5) < 0.03
    places = np.arange(len(pieces))
    first, second = (pieces.starts(places, np.full(len(places), epoch, np.int64), 1) for epoch in (0, 1))
    assert float((first != second).mean()) > 0.95
