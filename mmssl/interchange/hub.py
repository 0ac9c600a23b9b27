"""From what the user wrote after ``--init`` to a folder or file that is there."""

import re
from pathlib import Path

from mmssl.errors import UserError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
]


def locate(where: str | Path, loader: str) -> Path:
    """The folder or safetensors file ``where``, or a downloaded copy of the Hugging Face model of that name.

    ``owner/name`` counts as a name on the hub where neither it nor a folder ``owner`` exists here. Only safetensors,
    JSON and vocabularies are fetched. ``loader`` is the class of transformers that could convert a pickle. Raises
    UserError where there is nothing, or no way to fetch it.
    """
    path = Path(where)
    if path.exists():
        return path
    if not _HUB_NAME.fullmatch(str(where)) or path.parent.is_dir():
        raise UserError(f"{path} does not exist: give a run, a timm or transformers folder, or a Hugging Face name")
    return _download(str(where), loader)


def _download(name: str, loader: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise UserError(
            f"{name} is no folder here, and fetching it from Hugging Face needs huggingface_hub: "
            "pip install 'mmssl[interchange]'"
        ) from None
    try:
        folder = Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ")
        raise UserError(
            f"{name} is no folder here and could not be fetched from Hugging Face ({reason}): "
            "correct the name, go online, or copy the model's files to a folder and give that"
        ) from None
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"{name} has no safetensors on Hugging Face, and pickles are not read: convert it once with "
            f"transformers.{loader}.from_pretrained('{name}').save_pretrained('DIR') and give --init DIR"
        )
    return folder
