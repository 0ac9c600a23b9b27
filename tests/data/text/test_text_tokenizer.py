import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from text_files import sentences, small_tokenizer

from mmssl.data.text import TextTokenizer, load_tokenizer, train_tokenizer
from mmssl.data.text.training import LONGEST_WORD
from mmssl.data.text.words import LINE, SENTENCE
from mmssl.errors import UserError

TEXT = "The unbelievable cat didn't sit. It ran\nunder  tables, softly!"


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_ids_come_back_as_text(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    for text in sentences(20, seed=5):
        expected = text.lower() if kind == "wordpiece" else text
        decoded = tokenizer.decode(tokenizer.encode([text])[0].ids.tolist())
        assert decoded.replace(" ", "") == expected.replace(" ", "")
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_is_deterministic_across_processes(kind: str) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from text_files import sentences\n"
        "from mmssl.data.text import train_tokenizer\n"
        f"print(train_tokenizer(iter(sentences(300)), {kind!r}, 320).digest)"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout for _ in range(2)]
    assert len(set(runs)) == 1
    assert runs[0].strip() == train_tokenizer(sentences(300), kind, 320).digest  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_training_reads_the_beginning_of_very_long_words(kind: str) -> None:
    """A line of megabytes without a space, of which every character would cost the library some 50 bytes."""
    numbers = np.random.default_rng(0)
    endless = ["".join(numbers.choice(list("abcdefgh"), 50_000)) for _ in range(3)]
    found = train_tokenizer([*sentences(50), *endless], kind, 400)  # type: ignore[arg-type]
    beginnings = [text[:LONGEST_WORD] for text in endless]
    assert found.digest == train_tokenizer([*sentences(50), *beginnings], kind, 400).digest  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_words_are_found_by_offsets(kind: str) -> None:
    """Letters of one word have one number, whatever the tokens are called; white space always separates."""
    tokenizer = train_tokenizer([*sentences(50), "didn't, softly!"], kind, 60 if kind == "wordpiece" else 280)  # type: ignore[arg-type]
    result = tokenizer.encode([TEXT])[0]
    assert result.words[0] == 0
    assert set(np.diff(result.words)) <= {0, 1}
    spelled: dict[int, str] = {}
    for id, word in zip(result.ids.tolist(), result.words.tolist(), strict=True):
        spelled[word] = spelled.get(word, "") + tokenizer.token(id).removeprefix("##")
    words = [word.strip().lower() for word in spelled.values() if word.strip()]
    apart = "the unbelievable cat didn ' t sit . it ran under tables , softly !" if kind == "wordpiece" else None
    assert "".join(words) == "".join(TEXT.lower().split())
    assert "unbelievable" in words
    if apart:
        assert words == apart.split()
    first = {int(word): int(mark) for word, mark in zip(result.words[::-1], result.marks[::-1], strict=True) if mark}
    at = {spelled[word].strip().lower(): mark for word, mark in first.items()}
    # byte-level tokenizers have a token for the line end: the line begins there
    assert (at["it"], at["under" if kind == "wordpiece" else ""], at["ran"]) == (SENTENCE, LINE, 1)


def test_spelled_special_tokens_are_ordinary_text() -> None:
    tokenizer = train_tokenizer(["the [MASK] mask <unk> [PAD]"] * 5, "wordpiece", 100)
    assert tokenizer.special_ids == (0, 1, 2, 3, 4)
    ids = tokenizer.encode(["the [MASK] and <unk>"])[0].ids
    assert tokenizer.mask_id not in ids
    typed = tokenizer.encode(["the [MASK] mask"], special=True)[0]
    assert typed.ids.tolist().count(tokenizer.mask_id) == 1
    assert typed.words.tolist()[:2] == [0, 1]
    assert tokenizer.mask_id not in tokenizer.encode(["the [MASK]"])[0].ids


def test_tokens_for_people() -> None:
    tokenizer = train_tokenizer(["the café " * 50], "bpe", 300)
    shown = [tokenizer.token(id) for id in tokenizer.encode(["the café"])[0].ids.tolist()]
    assert "".join(shown) == "the café"
    assert tokenizer.token(tokenizer.mask_id) == "[MASK]"


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_transformers_loads_what_is_saved(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = small_tokenizer(kind)
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    ids = tokenizer.encode([TEXT])[0].ids.tolist()
    assert theirs(TEXT)["input_ids"] == [tokenizer.cls_id, *ids, tokenizer.sep_id]
    assert (theirs.mask_token_id, theirs.pad_token_id) == (tokenizer.mask_id, tokenizer.pad_id)
    assert theirs.model_max_length == 512
    assert TextTokenizer.load(tmp_path).digest == tokenizer.digest


def test_a_directory_with_only_a_vocabulary(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s"]))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(["The cats"])[0].ids.tolist() == [5, 6, 7]
    assert tokenizer.encode(["The cats"])[0].words.tolist() == [0, 1, 1]


def test_a_directory_of_transformers(tmp_path: Path) -> None:
    """RoBERTa's kind: byte-level, <mask>, and truncation that was left on."""
    transformers = pytest.importorskip("transformers")
    base = train_tokenizer(sentences(50), "bpe", 300)
    base.save(tmp_path / "base")
    spelled = (tmp_path / "base/tokenizer.json").read_text()
    for ours, name in (
        ("[MASK]", "<mask>"),
        ("[CLS]", "<s>"),
        ("[SEP]", "</s>"),
        ("[PAD]", "<pad>"),
        ("[UNK]", "<unk>"),
    ):
        spelled = spelled.replace(ours, name)
    (tmp_path / "tokenizer.json").write_text(spelled)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), mask_token="<mask>", bos_token="<s>", eos_token="</s>",
        pad_token="<pad>", model_max_length=64,
    )  # fmt: skip
    theirs(TEXT, truncation=True, max_length=8)
    theirs.save_pretrained(str(tmp_path / "roberta"))
    tokenizer = load_tokenizer(tmp_path / "roberta")
    assert (tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id) == (4, 2, 3, 0)
    assert tokenizer.model_max_length == 64
    assert tokenizer.encode([TEXT])[0].ids.tolist() == base.encode([TEXT])[0].ids.tolist()


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    tokenizer.save(tmp_path / "t")
    path = tmp_path / "t/tokenizer.json"
    path.write_text(path.read_text().replace("[MASK]", "[OTHER]"))
    config = json.loads((tmp_path / "t/tokenizer_config.json").read_text())
    del config["mask_token"]
    (tmp_path / "t/tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the tokenizer in .*/t has no mask token"):
        load_tokenizer(tmp_path / "t")
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        load_tokenizer(tmp_path / "t")
    tokenizer.save(tmp_path / "t")
    data = json.loads(path.read_text())
    word = next(word for word in data["model"]["vocab"] if not word.startswith("["))
    data["model"]["vocab"][word] = 2**31
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="has the id 2,147,483,648, and ids end at 16,777,215"):
        load_tokenizer(tmp_path / "t")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(UserError, match="is not a folder"):
        load_tokenizer(tmp_path / "missing")
    for kind, size, named in (("word", 100, "unknown"), ("bpe", 100, "too small"), ("wordpiece", 100, "no text")):
        with pytest.raises(UserError, match=named):
            train_tokenizer([], kind, size)  # type: ignore[arg-type]


def test_a_vocabulary_larger_than_the_data_supports_becomes_smaller() -> None:
    assert train_tokenizer(["one two two"], "wordpiece", 30_000).vocabulary_size < 40
