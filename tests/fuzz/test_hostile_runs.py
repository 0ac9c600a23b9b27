"""Run folders from elsewhere: no code runs, nothing is fetched, no memory is taken on their word."""

import ast
import json
import os
import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from families import SHAPE
from safetensors.torch import load_file, save_file

from mmssl.config import read_json
from mmssl.errors import UserError
from mmssl.interchange.weights import find_model, read_weights
from mmssl.predictors import load_predictor
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from mmssl.training.journal import read_journal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = MaskedAutoencoderConfig(image_size=(16, 16), patch_size=(8, 8), encoder=SHAPE, decoder=SHAPE)
    MaskedAutoencoder(config).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a file made us open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def change(model: Path, **values: object) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | values))


@pytest.mark.parametrize(
    "name", ["os", "os.system", "__import__", "mmssl.cli", "../evil", "", None, 3, ["wav2vec2"], {}]
)
def test_a_predictor_is_looked_up_in_a_table(name: object, model: Path) -> None:
    change(model, predictor=name)
    with pytest.raises(UserError, match=r"predictor '.*' is unknown; known are"):
        load_predictor(model)


@pytest.mark.parametrize(
    "name", ["hf-hub:someone/evil", "local-dir:/tmp", "https://x.org/a", "../x", "resnet18.nobody"]
)
def test_a_model_of_timm_is_one_that_timm_has(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "model" / "model.safetensors")
    config = {"predictor": "inpainting", "image_size": [32, 32], "encoder": None, "timm_model": name}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        load_predictor(tmp_path)


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def test_pickles_are_not_read(model: Path, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "mark"))
    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "training_args.bin", "checkpoint.pth"):
        (model / name).write_bytes(bomb)
    load_predictor(model)
    (model / "model.safetensors").write_bytes(bomb)
    with pytest.raises(UserError, match="cut or damaged"):
        load_predictor(model)
    (model / "model.safetensors").unlink()
    with pytest.raises(UserError, match="a pickle, which can run code when opened and is not read"):
        find_model(model, "ViTModel")
    (tmp_path / "images").mkdir()
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(69) + b"\n"
    (tmp_path / "images" / "a.npy").write_bytes(b"\x93NUMPY\x01\x00\x46\x00" + header + bomb)
    from mmssl.data.images import open_images

    with pytest.raises(UserError, match="the array is object"):
        open_images(tmp_path / "images")[0]
    assert not (tmp_path / "mark").exists()


def test_code_beside_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from mmssl.data.text.tokenizer import load_tokenizer

    (tmp_path / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'mark')!r})\nclass Evil: pass\n")
    auto = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": auto}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[MASK]\na\n")
    with pytest.raises(UserError, match="no tokenizer that transformers can read"):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "mark").exists()


LARGE: dict[str, dict[str, object]] = {
    "deep": {"encoder": {"dim": 16, "depth": 10**9, "heads": 2, "mlp_dim": 24}},
    "wide": {"encoder": {"dim": 10**9, "depth": 1, "heads": 2, "mlp_dim": 24}},
    "a wide middle": {"encoder": {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 10**12}},
    "a large picture": {"image_size": [10**9, 10**9]},
    "channels": {"channels": 10**9},
    "no heads": {"encoder": {"dim": 16, "depth": 1, "heads": 0, "mlp_dim": 24}},
    "negative": {"encoder": {"dim": -16, "depth": 1, "heads": 2, "mlp_dim": 24}},
}


@pytest.mark.parametrize("what", LARGE)
def test_a_config_cannot_ask_for_all_memory(what: str, model: Path) -> None:
    change(model, **LARGE[what])
    began = time.process_time()
    with pytest.raises(UserError):
        load_predictor(model)
    assert time.process_time() - began < 5


def test_weights_that_lie(model: Path) -> None:
    file = model / "model.safetensors"
    whole = file.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]

    def lying(**changes: object) -> bytes:
        text = json.dumps({**header, names[0]: {**header[names[0]], **changes}}).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + size :]

    for raw in (
        (2**63).to_bytes(8, "little") + whole[8:],
        (10**9).to_bytes(8, "little") + whole[8:],
        lying(shape=[10**9, 10**9]),
        lying(shape=[2**62, 4]),
        lying(data_offsets=[0, 10**15]),
        lying(data_offsets=header[names[1]]["data_offsets"]),
        lying(data_offsets=[10, 2]),
        lying(dtype="F128"),
        lying(shape=-1),
        b"",
        whole[:7],
    ):
        file.write_bytes(raw)
        with pytest.raises(UserError) as caught:
            load_predictor(model)
        assert str(file) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    file.write_bytes(whole)
    tensors = load_file(file)
    for value in (torch.nan, torch.inf):
        spoiled = {name: tensor.clone() for name, tensor in tensors.items()}
        spoiled[names[0]].view(-1)[0] = value
        save_file(spoiled, file)
        with pytest.raises(UserError, match=r"model\.safetensors has numbers in .* that are not finite"):
            load_predictor(model)
    save_file(tensors, file)
    load_predictor(model)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "9" * 10_000, '{"step": ' + "9" * 10_000 + "}"])
def test_json_bombs(text: str, model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        read_json(model / "config.json")
    (tmp_path / "journal.jsonl").write_text(f'{text}\n{{"step": 2}}\n')
    with pytest.raises(UserError, match=r"line 1 is damaged: delete that line"):
        read_journal(tmp_path / "journal.jsonl")


@pytest.mark.parametrize("listed", [[], {"a": 3}, {"a": ["x"]}, None])
def test_an_index_of_weights_that_is_none(listed: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    with pytest.raises(UserError, match="does not say which file holds which tensor"):
        read_weights(tmp_path / "model.safetensors.index.json")


def test_nothing_in_the_package_could_run_data() -> None:
    """No pickle, no eval, no shell, no unpacking, anywhere: seen in the syntax, so that a new use is a decision."""
    found = []
    for file in [*(ROOT / "mmssl").rglob("*.py"), *(ROOT / "recipes").glob("*.py"), *(ROOT / "data_prep").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                found += [f"{file}: import {name}" for name in names & {"pickle", "dill", "marshal", "shelve", "yaml"}]
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                words = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                bad = name in ("eval", "exec", "compile", "__import__", "torch.load", "os.system", "pickle.loads")
                bad = bad or name.endswith((".extract", ".extractall", ".unpack_archive"))
                bad = bad or words.get("shell") == "True" or words.get("allow_pickle") == "True"
                bad = (
                    bad
                    or words.get("trust_remote_code", "False") != "False"
                    or words.get("autoescape", "True") != "True"
                )
                found += [f"{file}:{node.lineno}: {name}"] if bad else []
    assert not found
