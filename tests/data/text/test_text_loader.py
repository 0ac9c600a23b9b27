import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from text_files import document_tokens, sentences, small_cache, small_tokenizer, write_lines

from mmssl.data.text import TextLoader, open_cache, open_texts
from mmssl.data.text import cache as cache_module
from mmssl.data.text import counts as counts_module
from mmssl.data.text.pieces import cut_pieces
from mmssl.errors import UserError


@pytest.fixture(params=["wordpiece", "bpe"])
def loader(request: pytest.FixtureRequest, tmp_path: Path) -> TextLoader:
    return TextLoader(small_cache(tmp_path, request.param), max_length=24, batch_tokens=100, seed=3)


def pieces_of(loader: TextLoader) -> dict[int, list[int]]:
    """Tokens of every piece without special ones, from the frozen batches."""
    found = {}
    for batch in loader.frozen():
        for id, token, length in zip(batch["id"].tolist(), batch["token"], batch["length"].tolist(), strict=True):
            assert id not in found
            found[id] = token[1 : length - 1].tolist()
    return found


def test_pieces_are_the_documents_cut_between_words(loader: TextLoader) -> None:
    pieces = pieces_of(loader)
    assert sorted(pieces) == list(range(len(loader)))
    whole = document_tokens(loader.cache)
    marks = loader.cache.marks
    joined: list[list[int]] = [[] for _ in whole]
    for id in range(len(loader)):
        document = int(np.searchsorted(loader.cache.documents, loader.starts[id], side="right")) - 1
        joined[document] += pieces[id]
        # no word is longer than a piece here
        assert marks[loader.starts[id]] > 0
        assert 0 < len(pieces[id]) <= 22
    assert joined == whole
    assert loader.tokens == sum(map(len, whole)) + 2 * len(pieces)


def test_batches_are_well_formed(loader: TextLoader) -> None:
    for batch in itertools.islice(loader.batches(), 10):
        length, token, word = batch["length"], batch["token"], batch["word"]
        assert token.dtype == word.dtype == length.dtype == torch.int64
        assert token.shape == word.shape == (len(length), int(length[0]))
        assert (length[:-1] >= length[1:]).all()
        real = torch.arange(token.shape[1]) < length[:, None]
        assert (token[~real] == 0).all()
        assert (token[:, 0] == 2).all()
        assert (token[torch.arange(len(length)), length - 1] == 3).all()
        inner = real & (token > 4)
        assert ((word >= 0) == inner).all()
        assert (word[:, 1] == 0).all()
        assert abs(int(length.sum()) - 100) < 24
        assert "flat" not in batch


def test_every_piece_once_an_epoch_and_any_step_by_arithmetic(loader: TextLoader) -> None:
    steps = 3 * loader.tokens // 100 + 2
    seen = Counter()
    batches = list(itertools.islice(loader.batches(), steps))
    for batch in batches:
        seen.update(zip(batch["epoch"].tolist(), batch["id"].tolist(), strict=True))
    assert all(count == 1 for count in seen.values())
    for epoch in range(3):
        assert {id for e, id in seen if e == epoch} == set(range(len(loader)))
    for start in (1, 7, steps - 1):
        fresh = TextLoader(loader.cache, max_length=24, batch_tokens=100, seed=3)
        resumed = next(fresh.batches(start))
        assert all(torch.equal(resumed[key], value) for key, value in batches[start].items())
    assert len(loader.names(0)) == len(batches[0]["id"])
    assert loader.names(0)[0].startswith("lines.txt:")


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_read_what_one_reads(loader: TextLoader, world_size: int) -> None:
    ranks = [
        TextLoader(loader.cache, max_length=24, batch_tokens=100, seed=3, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in range(12):
        alone = loader.pieces(step)
        rank = ranks[step % world_size].pieces(step // world_size)
        assert all(np.array_equal(a, b) for a, b in zip(alone, rank, strict=True))
    together = TextLoader(loader.cache, max_length=24, batch_tokens=100 * world_size, seed=3)
    for step in range(8):
        parts = [rank.pieces(step) for rank in ranks]
        read = sorted(zip(*np.concatenate(parts, axis=1).tolist(), strict=True))
        assert read == sorted(zip(*(part.tolist() for part in together.pieces(step)), strict=True))
    shares = [[b["id"].tolist() for b in loader.frozen(60, share=(rank, world_size))] for rank in range(world_size)]
    for place, batch in enumerate(loader.frozen(60)):
        assert shares[place % world_size][place // world_size] == batch["id"].tolist()


def test_a_set_smaller_than_a_batch(tmp_path: Path) -> None:
    source = open_texts(write_lines(tmp_path / "a.txt", 2), documents="line")
    loader = TextLoader(open_cache(source, small_tokenizer(), folder=tmp_path), max_length=64, batch_tokens=900, seed=0)
    batch = next(loader.batches(2))
    assert abs(int(batch["length"].sum()) - 900) < 64
    assert len(set(batch["epoch"].tolist())) > 1


def test_frozen_pads_little_and_is_fixed(loader: TextLoader) -> None:
    first, second = list(loader.frozen()), list(loader.frozen(batch_tokens=50))
    assert sum(b["token"].numel() for b in first) < 1.2 * loader.tokens
    assert {int(e) for b in first for e in b["epoch"]} == {0}
    assert [i for b in first for i in b["id"].tolist()] == [i for b in second for i in b["id"].tolist()]


def test_counts_against_brute_force(loader: TextLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.data.text.counts._CHUNK", 37)
    pieces = pieces_of(loader).values()
    single = Counter(id for piece in pieces for id in piece if id > 4)
    unigram = loader.unigram()
    assert {id: int(count) for id, count in enumerate(unigram) if count} == dict(single)
    pairs = Counter(pair for piece in pieces for pair in itertools.pairwise(piece) if pair[0] > 4 and pair[1] > 4)
    expected = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:40]
    left, right, count = loader.bigrams(40)
    assert [((a, b), n) for a, b, n in zip(left.tolist(), right.tolist(), count.tolist(), strict=True)] == expected


def test_pairs_are_counted_in_bounded_memory(loader: TextLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right, count = loader.bigrams(10**6)
    exact = dict(zip(zip(left.tolist(), right.tolist(), strict=True), count.tolist(), strict=True))
    monkeypatch.setattr(counts_module, "_CHUNK", 256)
    assert all((a == b).all() for a, b in zip(loader.bigrams(10**6), (left, right, count), strict=True))
    monkeypatch.setattr(counts_module, "MOST_HELD", 100)
    few_left, few_right, few = loader.bigrams(10**6)
    assert 0 < len(few) <= 100 < len(count)
    found = dict(zip(zip(few_left.tolist(), few_right.tolist(), strict=True), few.tolist(), strict=True))
    assert all(number <= exact[pair] for pair, number in found.items())
    assert max(found.values()) == count[0]


def test_where_long_documents_are_cut() -> None:
    marks = np.array([3, 1, 1, 2, 1, 1, 1, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], np.uint8)
    starts, lengths = cut_pieces(marks, np.array([0, 20]), 8)
    # a line that begins behind 8 tokens; then a word of ten tokens, which is longer than a piece
    assert starts.tolist() == [0, 8, 16]
    assert lengths.tolist() == [8, 8, 4]
    marks[[6, 7, 8]] = [2, 1, 1]
    assert cut_pieces(marks, np.array([0, 20]), 8)[1].tolist()[0] == 8
    marks[[6, 7, 8]] = [1, 2, 1]
    assert cut_pieces(marks, np.array([0, 20]), 8)[1].tolist()[0] == 7
    assert cut_pieces(marks, np.array([0, 0, 3, 20]), 30)[1].tolist() == [3, 17]


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    cache = small_cache(tmp_path)
    for options, named in (
        ({"max_length": 2, "batch_tokens": 50}, "max length 2 leaves no room"),
        ({"max_length": 64, "batch_tokens": 63}, "batch tokens 63 are fewer"),
        ({"max_length": 64, "batch_tokens": 64, "rank": 2}, "rank 2"),
    ):
        with pytest.raises(UserError, match=named):
            TextLoader(cache, seed=0, **options)


def test_a_cache_is_built_once_and_again_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_texts(write_lines(tmp_path / "a.txt"), documents="line")
    tokenizer = small_tokenizer()
    monkeypatch.setenv("MMSSL_CACHE", str(tmp_path / "cache"))
    cache = open_cache(source, tokenizer)
    expected = document_tokens(cache)
    assert cache.folder.parent == tmp_path / "cache"
    assert cache.tokens.dtype == np.uint16
    monkeypatch.setattr(cache_module, "_fill", None)
    assert document_tokens(open_cache(source, tokenizer)) == expected
    monkeypatch.undo()
    with (cache.folder / "tokens.bin").open("r+b") as file:
        file.truncate(10)
    assert document_tokens(open_cache(source, tokenizer, folder=tmp_path / "cache")) == expected
    (cache.folder / "facts.json").unlink()
    assert document_tokens(open_cache(source, tokenizer, folder=tmp_path / "cache")) == expected
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [cache.key]


def test_what_changes_the_key(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt")
    options = {"documents": "line"}

    def key(**more: str) -> str:
        source = open_texts(path, **(options | more))  # type: ignore[arg-type]
        return open_cache(source, small_tokenizer(), folder=tmp_path / "c").key

    first = key()
    assert key() == first
    keys = {first, key(split="train"), key(split="val"), key(documents="block")}
    path.write_text(path.read_text() + "One more line.\n")
    assert len(keys | {key()}) == 5


def test_a_killed_build_or_a_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_texts(write_lines(tmp_path / "a.txt"), documents="line")
    folder = tmp_path / "cache"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module, "_write", full)
    with pytest.raises(UserError, match="the disk is full; free some space or set MMSSL_CACHE"):
        open_cache(source, small_tokenizer(), folder=folder)
    assert list(folder.iterdir()) == []


def test_a_file_changed_under_our_hands_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.txt")
    source = open_texts(path, documents="line")
    path.write_text("\n".join(sentences(120, seed=9)))
    with pytest.raises(UserError, match=r"a.txt of .* was readable before"):
        open_cache(source, small_tokenizer(), folder=tmp_path / "cache")


def test_facts_are_plain(tmp_path: Path) -> None:
    cache = small_cache(tmp_path)
    assert json.loads((cache.folder / "facts.json").read_text())["tokens"] == len(cache.tokens)
