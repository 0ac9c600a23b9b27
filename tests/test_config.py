"""Configs to JSON and back; what does not fit is refused by name."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from mmssl.config import command_line, from_dict, read_json, to_dict
from mmssl.errors import UserError
from mmssl.nn.transformer import TransformerConfig
from mmssl.predictors.masked_autoencoder import MaskedAutoencoderConfig
from mmssl.training.config import RunConfig


@dataclass(frozen=True)
class Inner:
    width: int
    kind: Literal["round", "square", 3] = "round"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    size: tuple[int, int]
    path: Path = Path("here")
    rates: tuple[float, ...] = (0.5,)
    pairs: tuple[Inner, ...] = ()
    other: Inner | None = None
    limit: int | None = None
    either: int | tuple[int, int] = 1
    flag: bool = False
    scale: float = 1.0
    name: str = "x"
    free: Any = None
    table: dict[str, int] = field(default_factory=dict)


FULL = Outer(
    inner=Inner(3, "square"), size=(4, 5), path=Path("a/b"), rates=(0.1, 2.0, 1e-9), pairs=(Inner(1), Inner(2, 3)),
    other=Inner(9), limit=7, either=(2, 3), flag=True, scale=0.1 + 0.2, name="ü", free={"a": [1]}, table={"b": 2},
)  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Outer(Inner(1), (2, 3)),
        FULL,
        RunConfig(data="photos", out=Path("runs/x"), learning_rate=None, betas=(0.8, 0.9)),
        MaskedAutoencoderConfig(
            image_size=(8, 12),
            patch_size=(4, 2),
            encoder=TransformerConfig(dim=8, depth=1, heads=2, mlp_dim=8, norm="post", norm_epsilon=1e-12),
            decoder=TransformerConfig(dim=4, depth=1, heads=1, mlp_dim=8),
            architecture="cross_mae",
            mean=(0.1, 0.2, 0.3),
        ),
    ],
    ids=["defaults", "everything", "run", "masked_autoencoder"],
)
def test_round_trip_through_json(config):
    written = json.dumps(to_dict(config), default=str)
    again = from_dict(type(config), json.loads(written))
    assert again == config
    assert json.dumps(to_dict(again), default=str) == written


def test_a_whole_number_where_a_float_is_wanted_becomes_one():
    again = from_dict(Outer, {"inner": {"width": 1}, "size": [1, 2], "scale": 2, "rates": [1]})
    assert isinstance(again.scale, float)
    assert isinstance(again.rates[0], float)


GOOD = {"inner": {"width": 1}, "size": [1, 2]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"flagg": True}, "file.json: unknown key 'flagg'; did you mean 'flag'?"),
        ({"zzzzzz": 1}, "file.json: unknown key 'zzzzzz'; known are inner, size"),
        ({"inner": {"width": 1, "kin": "round"}}, "file.json.inner: unknown key 'kin'; did you mean 'kind'?"),
        ({"inner": {}}, "file.json.inner: key 'width' is missing"),
        ({"inner": 3}, "file.json.inner: 3 is not a table"),
        ({"inner": {"width": 1, "kind": "squre"}}, "inner.kind: 'squre' is not a choice; did you mean 'square'?"),
        ({"inner": {"width": 1, "kind": 7}}, "inner.kind: '7' is not a choice; known are round, square, 3"),
        ({"inner": {"width": "1"}}, "inner.width: '1' is not int"),
        ({"inner": {"width": True}}, "inner.width: True is not int"),
        ({"inner": {"width": 1.5}}, "inner.width: 1.5 is not int"),
        ({"size": [1, 2, 3]}, "size: .* is not tuple.int, int"),
        ({"size": 4}, "size: 4 is not tuple.int, int"),
        ({"size": [1, "2"]}, "size.1.: '2' is not int"),
        ({"pairs": [{"width": 1}, {}]}, "pairs.1.: key 'width' is missing"),
        ({"other": {"widht": 1}}, "other: unknown key 'widht'; did you mean 'width'?"),
        ({"limit": "many"}, "limit: 'many' is not int"),
        ({"either": [1, 2, 3]}, "either: .1, 2, 3. is not int"),
        ({"flag": 1}, "flag: 1 is not bool"),
        ({"scale": None}, "scale: None is not float"),
        ({"scale": True}, "scale: True is not float"),
        ({"name": 3}, "name: 3 is not str"),
        ({"path": 3}, "path: 3 is not Path"),
    ],
)
def test_what_does_not_fit_is_named(change, sentence):
    with pytest.raises(UserError, match=sentence):
        from_dict(Outer, GOOD | change, "file.json")


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match=r"run\.json: key 'size' is missing"):
        from_dict(Outer, {"inner": {"width": 1}}, "run.json")


def test_what_the_config_itself_refuses_stays_a_clear_sentence():
    trunk = {"dim": 8, "depth": 1, "heads": 3, "mlp_dim": 8}
    with pytest.raises(UserError, match="not divisible by heads 3"):
        from_dict(TransformerConfig, trunk)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        (b"", "is damaged"),
        (b'{"a": 1', "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[1, 2]", "does not hold a JSON object"),
    ],
)
def test_a_file_that_is_no_json_object_is_named(tmp_path, content, sentence):
    file = tmp_path / "config.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"config\.json.*{sentence}"):
        read_json(file)


def test_a_folder_in_the_place_of_the_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)


def test_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"ü": [1, 2.5, null]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"ü": [1, 2.5, None]}


def test_a_command_line_is_what_the_flags_say():
    typed = command_line("mmssl", "probe", Path("my runs"), data="a;b", label=None, by_layer=False, finetune_labels=())
    assert typed == "mmssl probe 'my runs' --data 'a;b' --no-by-layer --finetune-labels"
    assert command_line("x", deep=True, seeds=3, labels=(1, 2)) == "x --deep --seeds 3 --labels 1 2"
