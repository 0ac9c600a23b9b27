"""A Hugging Face dataset of pictures or recordings on disk as a store: the stored bytes of each, decoded by us."""

from pathlib import Path
from typing import Any, Literal

from mmssl.data.labels import LabelTable
from mmssl.data.limits import Limits, MediaError, read_bytes, regular_size
from mmssl.data.parts import Part
from mmssl.data.stores import Extent
from mmssl.errors import UserError


class HuggingFaceStore:
    """All splits of a dataset. Names are made up: SPLIT/00000012 for row 12, without SPLIT/ if there are no splits."""

    def __init__(self, datasets: list[Any], column: str, names: list[list[str]], origin: str) -> None:
        self._datasets, self._column, self._origin = datasets, column, origin
        self._places = [(number, row) for number, part in enumerate(names) for row in range(len(part))]
        self.names = [name for part in names for name in part]
        self.others: list[str] = []

    def read(self, index: int, limits: Limits) -> bytes:
        number, row = self._places[index]
        stored = self._datasets[number][row][self._column] or {}
        if stored.get("bytes") is not None:
            return read_bytes(stored["bytes"], limits)
        if stored.get("path"):
            return read_bytes(Path(stored["path"]), limits)
        raise MediaError("broken", "the row is empty")

    def extent(self, index: int) -> Extent:
        number, row = self._places[index]
        stored = self._datasets[number][row][self._column] or {}
        if stored.get("bytes") is not None:
            return Extent(self._origin, 0, len(stored["bytes"]), stored["bytes"])
        if stored.get("path"):
            return Extent(stored["path"], 0, regular_size(stored["path"]))
        raise MediaError("broken", "the row is empty")

    def location(self, index: int) -> str:
        return f"{self._origin}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:
        # a dataset's own fingerprint changes with any of its rows
        return int(self._datasets[self._places[index][0]]._fingerprint[:15], 16), 0


def load_splits(path: Path) -> dict[str, Any]:
    """The splits of a dataset written by ``save_to_disk``; "" for one without splits.

    Raises:
        UserError: when the package is missing, or the dataset is damaged.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path} is a Hugging Face dataset: to read it, pip install 'mmssl[datasets]'") from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged dataset raises nearly anything
        raise UserError(f"{path} cannot be opened as a Hugging Face dataset ({error}): save it again") from None
    return {str(name): part for name, part in loaded.items()} if isinstance(loaded, dict) else {"": loaded}


def open_hugging_face(path: Path, feature: Literal["Image", "Audio"]) -> Part:
    """A dataset, or the splits of one, written by ``save_to_disk``.

    ``feature`` is the type of the column that is read; nothing else of a row is decoded.

    Raises:
        UserError: when the package is missing, the dataset is damaged, or it has no such column.
    """
    splits = load_splits(path)
    import datasets

    features = next(iter(splits.values())).features
    kind = getattr(datasets, feature)
    columns = [name for name, value in features.items() if isinstance(value, kind)]
    if not columns:
        what = feature.lower()
        raise UserError(f"{path} has no {what} column (it has {', '.join(features)}): give an {what} dataset")
    names, rows = [], []
    for split, part in splits.items():
        names.append([f"{split}/{row:08d}".lstrip("/") for row in range(len(part))])
        rows += _rows(part, split, names[-1])
    parts = [part.cast_column(columns[0], kind(decode=False)) for part in splits.values()]
    table = LabelTable(rows, str(path)) if rows else None
    return Part(HuggingFaceStore(parts, columns[0], names, str(path)), f"{path.name}/", table)


def _rows(dataset: Any, split: str, names: list[str]) -> list[dict[str, str]]:
    """What is known of each image: its split and its classes, with their names."""
    import datasets

    rows = [{"file": name} | ({"split": split} if split else {}) for name in names]
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.ClassLabel):
            for row, value in zip(rows, dataset[column], strict=True):
                known = isinstance(value, int) and value >= 0
                row[column] = str(value) if known else ""
                row[f"{column}_name"] = str(feature.int2str(value)) if known else ""
    return rows
