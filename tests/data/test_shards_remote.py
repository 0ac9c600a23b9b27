"""Shards behind a URL: fetched once, within a limit, by several processes, through cuts and damage."""

import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from shard_files import Server, make_shards, serving, write_pictures

from mmssl.data.images import ImageLoader, open_images
from mmssl.data.limits import Limits, MediaError
from mmssl.data.processes import beginning, begun
from mmssl.data.shards import INDEX, remote
from mmssl.data.shards.cache import ShardCache
from mmssl.data.shards.listing import ShardRows
from mmssl.data.shards.order import WindowOrder
from mmssl.data.shards.remote import Remote, is_url, local_path
from mmssl.data.shards.store import ShardStore, is_shards, open_index
from mmssl.errors import UserError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "photos", 60)


@pytest.fixture(scope="module")
def sharded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    return make_shards(photos, tmp_path_factory.mktemp("data") / "sharded")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of this test alone; few and short waits."""
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user_cache"))
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def server(sharded: Path) -> Iterator[Server]:
    with serving(sharded) as running:
        yield running


def limit(monkeypatch: pytest.MonkeyPatch, sharded: Path, shards: float) -> int:
    """Let the cache hold so many of the largest shards; returns its bytes."""
    most = int(shards * max(path.stat().st_size for path in sharded.glob("*.tar")))
    monkeypatch.setenv("MMSSL_SHARD_GIGABYTES", f"{most / 1e9:.12f}")
    return most


def used(cache: Path) -> int:
    """Bytes that the cache takes, files that are being fetched counted whole."""
    return sum(int(path.name.split(".")[1]) for path in cache.iterdir() if path.suffix in (".tar", ".partial"))


def read_all(store: ShardStore) -> list[bytes]:
    return [store.read(row, Limits()) for row in range(store.index.count)]


def test_urls_and_paths_are_told_apart(sharded: Path) -> None:
    assert all(map(is_url, ("s3://bucket/photos", "https://host/photos", "memory://photos")))
    assert not any(map(is_url, ("photos", "/data/photos", "file:///data/photos", Path("a"), "C:photos", "://x")))
    assert local_path("file:///data/my%20photos") == "/data/my photos"
    assert is_shards(f"file://{sharded}")
    assert is_shards(sharded)
    assert not is_shards(sharded.parent)
    assert list(open_images(f"file://{sharded}").files) == list(open_images(sharded).files)


def test_a_set_in_memory_through_fsspec(photos: Path, sharded: Path, own_cache: Path) -> None:
    fsspec.filesystem("memory").put(str(sharded), "/bucket/photos", recursive=True)
    loose = ImageLoader(open_images(photos, split="train"), size=(16, 16), batch_size=4, seed=1, cache="none")
    loader = ImageLoader(
        open_images("memory://bucket/photos", split="train"), size=(16, 16), batch_size=4, seed=1, cache="none"
    )
    # it fits the cache, so that the order is the usual one
    assert not isinstance(loader.order, WindowOrder)
    for ours, theirs in itertools.islice(zip(loader.batches(), loose.batches(), strict=True), 6):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert used(own_cache) > 0


@pytest.mark.parametrize("ranges", [True, False])
def test_each_shard_is_fetched_once_over_http(sharded: Path, ranges: bool) -> None:
    with serving(sharded, ranges) as server:
        store = open_index(server.url)
        found = read_all(store)
        assert found == read_all(open_index(sharded))
        again = open_index(server.url)
        assert read_all(again) == found
        counts = {name: count for name, count in server.asked.items() if name.endswith(".tar")}
        assert counts == {path.name: 1 for path in sharded.glob("*.tar")}
        # the index too; its header is asked for each time
        assert {count for name, count in server.asked.items() if name.endswith(".npy")} == {1}


def test_the_cache_keeps_its_limit_and_what_was_used_last(
    sharded: Path, server: Server, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = limit(monkeypatch, sharded, 4.2)
    store = open_index(server.url)
    shards = store.index.facts.shards
    assert len(shards) > 8
    seen = []
    original = ShardCache._make_room

    def watched(cache: ShardCache, wanted: int) -> None:
        original(cache, wanted)
        seen.append(used(own_cache) + wanted)

    monkeypatch.setattr(ShardCache, "_make_room", watched)
    assert store.cache is not None
    for shard in shards[:4]:
        with store.cache.open(shard):
            time.sleep(0.01)
    with store.cache.open(shards[0]):  # used again: the second is now the one used longest ago
        time.sleep(0.01)
    with store.cache.open(shards[4]):
        assert store.cache.path(shards[0]).exists()
        assert not store.cache.path(shards[1]).exists()
    read_all(store)
    assert len(seen) > 8
    assert max(seen) <= most
    assert used(own_cache) <= most


def test_what_is_being_read_is_not_removed(sharded: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, sharded, 3)
    store = open_index(server.url)
    assert store.cache is not None
    extent = store.extent(0)
    first = store.index.facts.shards[store.index.place(0)[0]]
    for shard in store.index.facts.shards:
        with store.cache.open(shard):
            assert store.cache.path(first).exists()
    raw = extent.read(0, extent.size)
    assert raw == open_index(sharded).read(0, Limits())


def _read_in_a_process(url: str, start: int, queue: multiprocessing.Queue) -> None:
    begun()
    store = open_index(url)
    count = store.index.count
    queue.put([(row % count, store.read(row % count, Limits())) for row in range(start, start + count)])


@pytest.mark.parametrize("room", [50, 3.1])
def test_processes_share_the_cache(
    sharded: Path, server: Server, own_cache: Path, monkeypatch: pytest.MonkeyPatch, room: float
) -> None:
    most = limit(monkeypatch, sharded, room)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_read_in_a_process, args=(server.url, n * 17, queue)) for n in range(3)]
    with beginning():
        for process in processes:
            process.start()
    results = [dict(queue.get(timeout=60)) for _ in processes]
    for process in processes:
        process.join()
    assert results[0] == results[1] == results[2] == dict(enumerate(read_all(open_index(sharded))))
    assert used(own_cache) <= most
    if room == 50:
        assert {count for name, count in server.asked.items() if name.endswith(".tar")} == {1}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_and_readahead_give_the_batches_of_one_process(
    sharded: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, sharded, 7.1)
    found = []
    for workers in (0, 2):
        loader = ImageLoader(
            open_images(server.url, split="train"), size=(16, 16), batch_size=5, seed=2, cache="none", workers=workers
        )
        assert isinstance(loader.order, WindowOrder)
        assert loader.order.window == 3
        found.append(list(itertools.islice(loader.batches(), 26)))
        ids = torch.cat([batch["id"] for batch in found[-1]]).tolist()
        count = len(loader)
        assert sorted(ids[:count]) == sorted(ids[count : 2 * count]) == list(range(count))
    for ours, theirs in zip(*found, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    resumed = list(itertools.islice(loader.batches(17), 4))
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(resumed, found[0][17:21], strict=True))
    # statistics and validation read one shard after the other, too
    assert sorted(torch.cat([batch["id"] for batch in loader.frozen(7)]).tolist()) == list(range(count))
    mean, _ = loader.mean_std()
    assert np.all((mean > 0.4) & (mean < 0.6))


def test_the_window_counts_only_what_a_loader_uses(
    sharded: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, sharded, 7.1)
    loader = ImageLoader(open_images(server.url, split="train"), size=(16, 16), batch_size=3, seed=2, cache="none",
                         min_size=(23, 16), max_skipped=0.9)  # fmt: skip
    assert isinstance(loader.order, WindowOrder)
    rows = loader.source.index
    assert isinstance(rows, ShardRows)
    ids = loader.usable[loader.order.permutation(0)]
    assert sorted(ids.tolist()) == loader.usable.tolist()
    assert len(ids) < len(loader.source)
    of_each = rows.column("shard")
    assert of_each is not None
    first = int(np.isin(of_each[loader.usable[np.arange(len(ids))]], loader.order.shards(0)[:3]).sum())
    assert len(set(of_each[ids[:first]].tolist())) == 3


def test_a_transfer_that_is_cut_goes_on_where_it_was(sharded: Path, server: Server) -> None:
    server.cut["train-00000.tar"] = 2
    store = open_index(server.url)
    before = server.sent
    assert store.cache is not None
    with store.cache.open(store.index.facts.shards[0]) as descriptor:
        assert os.pread(descriptor, 10**6, 0) == (sharded / "train-00000.tar").read_bytes()
    # no byte was sent twice
    assert server.sent - before == store.index.facts.shards[0].bytes
    assert server.asked["train-00000.tar"] == 3


def test_what_a_killed_process_left_is_used(sharded: Path, server: Server, own_cache: Path) -> None:
    store = open_index(server.url)
    shard = store.index.facts.shards[0]
    raw = (sharded / shard.file).read_bytes()
    own_cache.mkdir(parents=True, exist_ok=True)
    assert store.cache is not None
    store.cache.path(shard).with_suffix(".partial").write_bytes(raw[: len(raw) // 3])
    before = server.sent
    with store.cache.open(shard) as descriptor:
        assert os.pread(descriptor, 10**6, 0) == raw
    assert server.sent - before == len(raw) - len(raw) // 3
    # what was left is not trusted: with a wrong byte in it everything is fetched again
    store.cache.drop(shard)
    store.cache.path(shard).with_suffix(".partial").write_bytes(b"x" + raw[1 : len(raw) // 3])
    with store.cache.open(shard) as descriptor:
        assert os.pread(descriptor, 10**6, 0) == raw


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_is_named(server: Server, tmp_path: Path) -> None:
    store = open_index(server.url)
    number, offset, _, _ = store.index.place(0)
    shard = store.index.facts.shards[number]
    expected = store.read(0, Limits())
    assert store.cache is not None
    copy = store.cache.path(shard)
    raw = bytearray(copy.read_bytes())
    raw[offset + 5] ^= 1
    copy.write_bytes(raw)
    assert store.read(0, Limits()) == expected
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / shard.file).write_bytes(raw)
    with serving(tmp_path / "bad") as other:
        cache = ShardCache(Remote(other.url), tmp_path / "other", 10**9)
        with pytest.raises(MediaError, match=rf"{other.url}/{shard.file} is not the shard that was written"):
            cache.hold(shard)
        assert other.asked[shard.file] == 2


def test_what_stays_unreachable_is_named(server: Server) -> None:
    store = open_index(server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(MediaError, match=rf"{server.url}/train-\d+.tar cannot be fetched after 3 tries \("):
        store.read(0, Limits())
    with pytest.raises(UserError, match=rf"{server.url}/shards.json cannot be fetched after 3 tries"):
        open_images(server.url)


def test_a_url_without_shards_is_one_sentence(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        pytest.raises(UserError, match=r"shards.json cannot be fetched \(there is no such"),
    ):
        open_images(f"{server.url}/photos")
    with pytest.raises(UserError, match=r"shards\.json cannot be fetched"):
        open_images("memory://nothing/here")
    with pytest.raises(UserError, match="'nonsense' is no kind of URL"):
        open_images("nonsense://bucket")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError(f"install something for {scheme}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(UserError, match="s3:// needs a package that is missing: pip install s3fs"):
        open_images("s3://bucket/photos")


def test_limits_that_cannot_be_are_refused(sharded: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, sharded, 2.5)
    with pytest.raises(UserError, match="hold fewer than 3 shards of http"):
        open_images(server.url)
    monkeypatch.setenv("MMSSL_SHARD_GIGABYTES", "many")
    with pytest.raises(UserError, match="MMSSL_SHARD_GIGABYTES=many is no number of gigabytes"):
        open_images(server.url)


def test_an_index_that_changed_is_not_mixed_with_the_old_one(sharded: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(sharded, tmp_path / "served")
    with serving(tmp_path / "served") as server:
        open_index(server.url)
        raw = (tmp_path / "served" / INDEX / "crc.npy").read_bytes()
        (tmp_path / "served" / INDEX / "crc.npy").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(UserError, match=rf"{server.url}/index/crc.npy is not the file that was written"):
            open_index(server.url)
