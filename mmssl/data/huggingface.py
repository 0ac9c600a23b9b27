"""A Hugging Face image dataset on disk as a store: the stored bytes of each image, decoded by us."""

from pathlib import Path
from typing import Any

from mmssl.data.labels import LabelTable
from mmssl.data.media import ImageError, Limits, read_bytes
from mmssl.data.source import Part
from mmssl.errors import UserError


class HuggingFaceStore:
    """One split. ``names`` are made up: SPLIT/00000012, for row 12."""

    def __init__(self, dataset: Any, column: str, names: list[str], origin: str) -> None:
        self._dataset, self._column, self._origin = dataset, column, origin
        self.names, self.others = names, list[str]()

    def read(self, index: int, limits: Limits) -> bytes:
        stored = self._dataset[index][self._column] or {}
        if stored.get("bytes") is not None:
            return read_bytes(stored["bytes"], limits)
        if stored.get("path"):
            return read_bytes(Path(stored["path"]), limits)
        raise ImageError("broken", "the row holds no image")

    def location(self, index: int) -> str:
        return f"{self._origin}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:  # noqa: ARG002
        # the fingerprint names the exact content of a dataset
        return int(self._dataset._fingerprint[:15], 16), 0


def open_hugging_face(path: Path) -> list[Part]:
    """The splits of a dataset written by ``save_to_disk``.

    Raises:
        UserError: when the package is missing, the dataset is damaged, or it has no image column.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path} is a Hugging Face dataset: install the reader with pip install 'mmssl[datasets]'") from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged dataset raises nearly anything
        raise UserError(f"{path} cannot be opened as a Hugging Face dataset ({error}): save it again") from None
    splits = loaded if isinstance(loaded, dict) else {"": loaded}
    return [_part(dataset, str(name), path) for name, dataset in splits.items()]


def _part(dataset: Any, split: str, path: Path) -> Part:
    import datasets

    columns = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise UserError(f"{path} has no image column (it has {', '.join(dataset.features)}): give an image dataset")
    dataset = dataset.cast_column(columns[0], datasets.Image(decode=False))
    folder = f"{split}/" if split else ""
    names = [f"{folder}{row:08d}" for row in range(len(dataset))]
    rows = [{"file": name} | ({"split": split} if split else {}) for name in names]
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.ClassLabel):
            for row, value in zip(rows, dataset[column], strict=True):
                row[column] = str(value)
                row[f"{column}_name"] = feature.int2str(value) if value >= 0 else ""
    return Part(HuggingFaceStore(dataset, columns[0], names, str(path)), "", LabelTable(rows, str(path)))
