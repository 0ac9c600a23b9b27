"""Open images wherever they are: folders, list files, tar files, Hugging Face image datasets.

    source = open_images("photos", split="train")
    source[3]          # {"id": 3, "image": uint8 [channel, height, width], "file": "2019/beach.jpg"}
    source.labels()    # class index of every image, class names

``data`` may be

- a folder, at any depth, with or without class folders;
- a tar file (plain, or .tar.gz / .tgz), or a folder that holds tar files and no images;
- a list: a .txt with one path a line, or a .csv or .jsonl with a ``file`` column; paths are relative to the list;
- a Hugging Face image dataset on disk (``Dataset.save_to_disk``; needs the ``datasets`` package);
- several of these, as a list;
- a set of shards that data_prep/shard.py made of them, or its URL.

A ``labels.csv`` or ``manifest.jsonl`` beside or inside the data (``file``, any labels, optionally ``split``) names
classes and splits. Otherwise the split is the top folder (train, val, test and their usual other names) and the class
the folder below it. Without a validation split 5 % of the training images are held out by a hash of their names
(:func:`mmssl.data.parts.hold_out`).
"""

from collections.abc import Sequence
from pathlib import Path

from mmssl.data.images.decode import EXTENSIONS
from mmssl.data.images.source import ImageSource
from mmssl.data.limits import Limits
from mmssl.data.parts import Medium, list_files

IMAGES = Medium("an image", "images", EXTENSIONS, "Image")


def open_images(
    data: str | Path | Sequence[str | Path],
    *,
    split: str | None = None,
    channels: int = 3,
    limits: Limits | None = None,
) -> ImageSource:
    """List the images of ``data`` (nothing is decoded yet).

    Args:
        data: as above.
        split: "train", "val", "test" or any name in the ``split`` column; None takes every image.
        channels: of every sample; see :mod:`mmssl.data.images.decode` for the conversions.
        limits: what one file may cost.

    Raises:
        UserError: when the data is missing, may not be read or holds no images, or has no such split.
    """
    return ImageSource(list_files(data, split, IMAGES), channels=channels, limits=limits or Limits())
