"""Files of weights, and what layers of Transformer blocks are called elsewhere: what all modalities share."""

from collections.abc import Collection, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.interchange.hub import locate
from mmssl.predictors.base import read_safetensors

Weights = dict[str, Tensor]

Parts = Mapping[str, tuple[str, ...]]
"""For each layer of our block, the layers it is made of elsewhere, in the order of their output rows."""


def find_model(where: str | Path, loader: str) -> tuple[Path, Path, Path]:
    """What the user gave, the folder of its config.json, and its safetensors file (or the index of several).

    ``where``: a run, a folder, a safetensors file, or the name of a model on the Hugging Face hub. ``loader``: the
    class of transformers to convert a pickle with, for the remedy. Raises UserError where there are no such weights.
    """
    path = locate(where, loader)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"{path} is not a .safetensors file: give one, or the folder of a model")
        return path, path.parent, path
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    return path, folder, _weights_file(folder, loader)


def _weights_file(folder: Path, loader: str) -> Path:
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        raise UserError(f"{folder} holds {len(files)} safetensors files: give the path of one")
    pickled = next((file.name for suffix in ("bin", "pt", "pth", "ckpt") for file in folder.glob(f"*.{suffix}")), None)
    if pickled:
        raise UserError(
            f"{folder} holds its weights only as {pickled}, a pickle, which can run code when opened and is not read: "
            "load it with the library that wrote it and save it as safetensors "
            f"(transformers: {loader}.from_pretrained(NAME).save_pretrained(DIR))"
        )
    if (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} is a run that has saved no model yet: let it reach its first checkpoint")
    raise UserError(f"{folder} holds no model.safetensors: give a run, or a timm or transformers folder")


def no_config(folder: Path) -> UserError:
    """The error of weights without a config.json beside them."""
    return UserError(f"{folder} has no config.json beside its weights: copy the one that belongs to them there")


def read_weights(file: Path) -> Weights:
    """Tensors of a safetensors file, or of all files that its index names, in single precision."""
    if file.suffix == ".json":
        listed = read_json(file).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise UserError(f"{file} does not say which file holds which tensor: copy the folder again")
        names = sorted(set(listed.values()))
        weights = {key: value for name in names for key, value in read_safetensors(file.parent / name).items()}
    else:
        weights = read_safetensors(file)
    return {name: tensor.float() for name, tensor in weights.items()}


@contextmanager
def complete(path: Path, what: str) -> Iterator[None]:
    """A tensor that is missed within is an error of the user's file, which is no ``what`` then."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{path} lacks the tensor {error}: it is no {what}, or a cut copy") from None


def depth_of(weights: Mapping[str, Tensor], blocks: str) -> int:
    """Number of blocks among the names."""
    numbers = {name.removeprefix(f"{blocks}.").split(".")[0] for name in weights if name.startswith(f"{blocks}.")}
    return len(numbers)


def blocks_to(parts: Parts, weights: Mapping[str, Tensor], ours: str, theirs: str) -> Weights:
    """Our blocks, whose names begin with ``ours``, under the names of another library."""
    renamed = {}
    for block in range(depth_of(weights, ours)):
        for layer, names in parts.items():
            for kind in ("weight", "bias"):
                pieces = weights[f"{ours}.{block}.{layer}.{kind}"].chunk(len(names))
                for name, piece in zip(names, pieces, strict=True):
                    renamed[f"{theirs}.{block}.{name}.{kind}"] = piece.clone()
    return renamed


def blocks_from(parts: Parts, weights: MutableMapping[str, Tensor], theirs: str, ours: str) -> Weights:
    """Inverse of :func:`blocks_to`; what is used is taken out of ``weights``.

    Raises KeyError with the name of a tensor that is missing.
    """
    renamed = {}
    for block in range(depth_of(weights, theirs)):
        for layer, names in parts.items():
            pieces = [weights.pop(f"{theirs}.{block}.{name}.weight") for name in names]
            renamed[f"{ours}.{block}.{layer}.weight"] = torch.cat(pieces)
            names_of_bias = [f"{theirs}.{block}.{name}.bias" for name in names]
            # a model may have no bias on query, key and value: the same as one of zeros
            if layer == "attention.qkv" and not any(name in weights for name in names_of_bias):
                biases = [piece.new_zeros(piece.shape[0]) for piece in pieces]
            else:
                biases = [weights.pop(name) for name in names_of_bias]
            renamed[f"{ours}.{block}.{layer}.bias"] = torch.cat(biases)
    return renamed


def load_strictly(path: Path, module: nn.Module, weights: Weights, fresh: Collection[str]) -> None:
    """Load ``weights``: every tensor fits, and none is missing but those whose names begin with one of ``fresh``."""
    own = module.state_dict()
    missing = sorted(name for name in own.keys() - weights.keys() if not name.startswith(tuple(fresh)))
    wrong = sorted(name for name, tensor in weights.items() if name not in own or own[name].shape != tensor.shape)
    if missing or wrong:
        raise UserError(
            f"{path}: weights and config.json do not belong together (first difference: "
            f"{(missing + wrong)[0]}): use the config.json that was saved with the weights"
        )
    module.load_state_dict(weights, strict=False)
