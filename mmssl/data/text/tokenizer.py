"""A tokenizer: one trained here, or that of any transformers directory.

    tokenizer = train_tokenizer(source, "wordpiece", 8000)
    tokenizer = load_tokenizer("bert-base-uncased/")      # or the folder of a run
    for text in tokenizer.encode(["The cat sat."]):
        text.ids, text.words                              # ids, and the number of the word each token belongs to

Text that spells a special token, such as a literal "[MASK]" in a web page, is ordinary text to :meth:`encode` (three
tokens or so) unless ``special=True`` is said: no document can smuggle in a mask.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32, UInt8

from mmssl.config import parse_json
from mmssl.data.text.words import token_marks, word_numbers
from mmssl.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROLES = ("pad", "unk", "cls", "sep", "mask")
SPELLINGS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
"""What the special tokens are called where a directory does not say."""
_STAND_IN = {"cls": "bos", "sep": "eos"}
DEFAULT_MAX_LENGTH = 512
_MOST_IDS = 2**24
"""More than any tokenizer has. The library makes a row for every id up to the last one, and aborts without memory."""


def limit_threads() -> None:
    """The tokenizers' own threads keep to the limit set for torch. Has an effect only before they first run."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        os.environ.setdefault("RAYON_NUM_THREADS", threads)
    # said outright, so that a later fork (data loader workers) does not draw a warning
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false" if threads == "1" else "true")


@dataclass(frozen=True)
class TokenizedText:
    """One text without special tokens added."""

    ids: Int32[np.ndarray, " token"]
    marks: UInt8[np.ndarray, " token"]
    """Where words, sentences and lines begin, see :mod:`mmssl.data.text.words`."""

    @property
    def words(self) -> Int32[np.ndarray, " token"]:
        """Number of the word each token belongs to."""
        return word_numbers(self.marks)


class TextTokenizer:
    """A thin wrapper of ``tokenizers.Tokenizer``.

    Args:
        tokenizer: the thing itself; truncation and padding are switched off.
        special: role (pad, unk, cls, sep, mask) -> token.
        model_max_length: what is written for users of the saved directory.
        origin: where it comes from, for messages.

    Raises:
        UserError: when there is no mask token, or an id without bound.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        special: dict[str, str],
        *,
        model_max_length: int = DEFAULT_MAX_LENGTH,
        origin: str = "the tokenizer",
    ) -> None:
        limit_threads()
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self.model_max_length = tokenizer, model_max_length
        # ids may have holes, and an embedding needs a row up to the last
        self.vocabulary_size: int = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if self.vocabulary_size > _MOST_IDS:
            raise UserError(
                f"{origin} has the id {self.vocabulary_size - 1:,}, and ids end at {_MOST_IDS - 1:,}: "
                "is its tokenizer.json damaged? Copy it again"
            )
        ids = {role: tokenizer.token_to_id(token) for role, token in special.items()}
        self._special = {role: special[role] for role, number in ids.items() if number is not None}
        mask = ids.get("mask")
        if mask is None:
            raise UserError(
                f"{origin} has no mask token: masked prediction needs one, so give a tokenizer made for it (such as "
                "that of bert-base-uncased or roberta-base) or train one on the data"
            )
        self.mask_id: int = mask
        self.pad_id: int | None = ids.get("pad")
        self.cls_id: int | None = ids.get("cls")
        self.sep_id: int | None = ids.get("sep")
        self.unk_id: int | None = ids.get("unk")
        added = tokenizer.get_added_tokens_decoder()
        known = {number for number, token in added.items() if token.special}
        self.special_ids: tuple[int, ...] = tuple(sorted(known | {n for n in ids.values() if n is not None}))
        said = json.dumps([tokenizer.to_str(), sorted(self._special.items())])
        self.digest: str = hashlib.blake2b(said.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        decoder = json.loads(tokenizer.to_str()).get("decoder")
        self._byte_level = '"ByteLevel"' in json.dumps(decoder)

    @property
    def brackets(self) -> int:
        """Tokens that stand around every piece: [CLS] and [SEP], as far as there are any."""
        return (self.cls_id is not None) + (self.sep_id is not None)

    def encode(self, texts: Sequence[str], *, special: bool = False) -> list[TokenizedText]:
        """Ids and words of each text; no special tokens are added.

        Args:
            texts: any.
            special: whether text that spells a special token becomes that token, as a user wants who types "[MASK]".
        """
        self._tokenizer.encode_special_tokens = not special
        results = []
        for text, encoding in zip(
            texts, self._tokenizer.encode_batch(list(texts), add_special_tokens=False), strict=True
        ):
            ids = np.fromiter(encoding.ids, np.int32, len(encoding))
            results.append(TokenizedText(ids, token_marks(text, encoding.offsets, encoding.word_ids)))
        return results

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return self._tokenizer.decode([int(number) for number in ids], skip_special_tokens=False)

    def token(self, id: int) -> str:
        """One token for people: "##ing", "[MASK]", " the" (the marks of byte-level tokenizers are undone)."""
        spelled = self._tokenizer.id_to_token(int(id))
        if spelled is None:
            return f"<{int(id)}>"
        if int(id) in self.special_ids:
            return spelled
        if self._byte_level:
            table = _byte_values()
            if all(character in table for character in spelled):
                return bytes(table[character] for character in spelled).decode("utf-8", "replace")
        return spelled.replace("▁", " ")

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, so that ``AutoTokenizer.from_pretrained`` gives the same."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {f"{role}_token": token for role, token in self._special.items()}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.model_max_length,
            "clean_up_tokenization_spaces": False,
            **names,
        }
        self._tokenizer.encode_special_tokens = False
        _write(folder / "tokenizer.json", self._tokenizer.to_str(pretty=True))
        _write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "TextTokenizer":
        """From a folder written by :meth:`save` or by transformers. See :func:`load_tokenizer`."""
        return load_tokenizer(folder)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def _byte_values() -> dict[str, int]:
    """The byte behind each character of byte-level tokenizers: printable Latin-1 is itself, the others follow 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """The tokenizer of a directory: tokenizer.json, or what transformers can convert (vocab.txt and others).

    Raises:
        UserError: when the folder holds no tokenizer, a damaged one, or one without a mask token.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the directory of a tokenizer (with tokenizer.json)")
    config = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json") | config
    path = folder / "tokenizer.json"
    tokenizer = _from_file(path) if path.is_file() else _convert(folder, special)
    roles = {}
    for role in ROLES:
        keys = (f"{role}_token", f"{_STAND_IN.get(role, role)}_token")
        said = [token for key in keys if (token := _token(special.get(key))) is not None]
        roles[role] = next(
            (token for token in (*said, *SPELLINGS[role]) if tokenizer.token_to_id(token) is not None), ""
        )
    length = config.get("model_max_length")
    # transformers writes 10**30 for "no limit"
    length = length if isinstance(length, int) and 0 < length < 10**9 else DEFAULT_MAX_LENGTH
    return TextTokenizer(tokenizer, roles, model_max_length=length, origin=f"the tokenizer in {folder}")


def _token(value: Any) -> str | None:
    """A special token's spelling: transformers writes a string or an object."""
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): copy the tokenizer's directory again") from None
    return value if isinstance(value, dict) else {}


def _from_file(path: Path) -> "Tokenizer":
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except BaseException as error:  # the library raises bare Exception, and a PanicException, which is none
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{path} cannot be read as a tokenizer ({error}): copy it again") from None


def _convert(folder: Path, special: dict[str, Any]) -> "Tokenizer":
    """A directory without tokenizer.json, by transformers; vocab.txt alone is read as BERT's."""
    if not any(folder.iterdir()):
        raise UserError(f"{folder} holds no tokenizer: give a directory with tokenizer.json or vocab.txt")
    try:
        import transformers
    except ImportError:
        raise UserError(f"{folder} has no tokenizer.json: to convert it, pip install 'mmssl[interchange]'") from None
    try:
        if (
            (folder / "vocab.txt").is_file()
            and "tokenizer_class" not in special
            and not (folder / "config.json").exists()
        ):
            loaded = transformers.BertTokenizer.from_pretrained(str(folder), local_files_only=True)
        else:  # a folder may name code of its own, or ask for it elsewhere: neither is done
            loaded = transformers.AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
        tokenizer = loaded.backend_tokenizer
    except Exception as error:  # transformers raises nearly any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} holds no tokenizer that transformers can read ({reason}): check the path") from None
    for role in ROLES:
        token = getattr(loaded, f"{role}_token", None)
        if token:
            special.setdefault(f"{role}_token", str(token))
    return tokenizer
