"""A Hugging Face image dataset on disk as a store: the stored bytes of each image, decoded by us."""

from pathlib import Path
from typing import Any

from mmssl.data.images.source import Part
from mmssl.data.labels import LabelTable
from mmssl.data.limits import ImageError, Limits, read_bytes
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
        raise ImageError("broken", "the row holds no image")

    def location(self, index: int) -> str:
        return f"{self._origin}!{self.names[index]}"

    def stamp(self, index: int) -> tuple[int, int]:
        # a dataset's own fingerprint changes with any of its rows
        return int(self._datasets[self._places[index][0]]._fingerprint[:15], 16), 0


def open_hugging_face(path: Path) -> Part:
    """A dataset, or the splits of one, written by ``save_to_disk``.

    Raises:
        UserError: when the package is missing, the dataset is damaged, or it has no image column.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{path} is a Hugging Face dataset: to read it, pip install 'mmssl[datasets]'") from None
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged dataset raises nearly anything
        raise UserError(f"{path} cannot be opened as a Hugging Face dataset ({error}): save it again") from None
    splits = {str(name): part for name, part in loaded.items()} if isinstance(loaded, dict) else {"": loaded}
    features = next(iter(splits.values())).features
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise UserError(f"{path} has no image column (it has {', '.join(features)}): give an image dataset")
    names, rows = [], []
    for split, part in splits.items():
        names.append([f"{split}/{row:08d}".lstrip("/") for row in range(len(part))])
        rows += _rows(part, split, names[-1])
    parts = [part.cast_column(columns[0], datasets.Image(decode=False)) for part in splits.values()]
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
