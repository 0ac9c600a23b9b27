"""One, two and three processes train every recipe alike, with DDP and with FSDP2.

Each number of processes is started once and runs all recipes one after the other.
"""

import os
from pathlib import Path

import every_recipe
import pytest
import torch
from every_recipe import RECIPES, make_tiny, run_all, run_recipe, write_data
from ranks import run_ranks
from safetensors.torch import load_file

from mmssl.predictors import load_predictor
from mmssl.training.journal import read_journal

pytest.importorskip("av")
CUT = "image_mae", "text_bert", "audio_wav2vec2", "av_sync both"
"""Recipes that also run cut among processes: blocks that attend, packed rows, sums over ranks, gathered rows."""


@pytest.fixture(scope="module")
def tiny():
    """The smallest presets, smaller still, here and in processes that are forked from here."""
    from mmssl.nn import transformer
    from mmssl.predictors import audio_visual_masked, best_rq, masked_autoencoder, masked_language_model, wav2vec2

    sync = every_recipe.load_script(every_recipe.ROOT / "recipes" / "av_sync.py")
    modules = (
        transformer, masked_autoencoder, masked_language_model, audio_visual_masked, best_rq, wav2vec2, sync
    )  # fmt: skip
    before = [(module.PRESETS, dict(module.PRESETS)) for module in modules]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    make_tiny()
    yield
    every_recipe.Trainer.fit = every_recipe.fit_with_pictures
    torch.set_num_threads(threads)
    for presets, old in before:
        presets.clear()
        presets.update(old)


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny) -> Path:  # noqa: ARG001
    folder = write_data(tmp_path_factory.mktemp("distributed") / "data")
    old = os.environ.get("MMSSL_CACHE")
    os.environ["MMSSL_CACHE"] = str(folder / "cache")
    yield folder
    os.environ.pop("MMSSL_CACHE") if old is None else os.environ.update(MMSSL_CACHE=old)


def run_in(count: int, function, *arguments, logs: Path) -> None:
    """All processes must end well, and all but the first in silence."""
    results = run_ranks(count, function, *arguments, logs=logs)
    assert [code for code, _, _ in results] == [0] * count, "".join(err for _, _, err in results)
    assert not any(out + err for _, out, err in results[1:])


@pytest.fixture(scope="module")
def alone(data) -> Path:
    run_all(data, data.parent / "1")
    return data.parent / "1"


@pytest.fixture(scope="module")
def ranks(data, alone) -> dict[int, Path]:
    for count in (2, 3):
        run_in(count, run_all, data, data.parent / str(count), logs=data.parent / f"logs-{count}")
    return {count: data.parent / str(count) for count in (2, 3)} | {1: alone}


def compare(one: Path, other: Path, more: tuple[str, ...] = ("code_perplexity",)) -> None:
    """Journals agree to rounding before the first update. Adam then makes that larger: where a gradient is 0, as that
    of a weight in front of batch norm along itself, it makes a full step of what rounding left of it."""
    left, right = read_journal(one / "journal.jsonl"), read_journal(other / "journal.jsonl")
    assert [entry["step"] for entry in left] == [entry["step"] for entry in right]
    for mine, theirs in zip(left, right, strict=True):
        assert mine.keys() - {"findings"} == theirs.keys() - {"findings"}
        first = mine["step"] == 1
        for name, value in mine.items():
            if name == "gradient_norm":
                assert theirs[name] == pytest.approx(value, rel=1e-5 if first else 5e-3), name
            elif name in ("loss", "reference") or name.startswith(("val_loss", "val_reference")):
                assert theirs[name] == pytest.approx(value, rel=1e-5 if first else 2e-4, abs=1e-6), name
            elif name.startswith(("skill", "val_skill", "accuracy", "val_accuracy", *more)):
                assert theirs[name] == pytest.approx(value, abs=1e-5 if first else 2e-3), name


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("count", [2, 3])
def test_processes_agree_with_one(ranks, name, count):
    compare(ranks[1] / name.replace(" ", "-"), ranks[count] / name.replace(" ", "-"))


def test_validation_does_not_depend_on_the_split(ranks):
    """The same batches, each once: without learning the sums differ by rounding alone."""
    for name in RECIPES:
        told = [read_journal(ranks[count] / name.replace(" ", "-") / "journal.jsonl")[-1] for count in (1, 2, 3)]
        for key in told[0]:
            if key.startswith("val_reference"):
                assert told[1][key] == pytest.approx(told[0][key], rel=1e-5), (name, key)
                assert told[2][key] == pytest.approx(told[0][key], rel=1e-5), (name, key)


@pytest.fixture(scope="module")
def more(data, ranks) -> Path:  # noqa: ARG001 - after the others, whose caches it uses
    """What else two processes do, in one start: accumulation, FSDP2, and going on from each other's checkpoints."""
    out = data.parent / "more"

    def jobs() -> None:
        for name in ("image_mae", "text_bert", "audio_best_rq"):
            run_recipe(name, data, out / f"accumulated-{name}", "--accumulation", "2")
        for name in CUT:
            run_recipe(name, data, out / f"fsdp-{name}", "--parallel", "fsdp")
        run_recipe("image_mae", data, out / "fsdp-accumulated", "--parallel", "fsdp", "--accumulation", "2")
        every_recipe.Trainer.fit = every_recipe.fit_with_pictures
        run_recipe("image_mae", data, out / "pictures", "--parallel", "fsdp")
        every_recipe.Trainer.fit = every_recipe.fit_without_pictures
        for way in ("ddp", "fsdp"):
            half = "--parallel", way, "--checkpoint-every", "2", "--keep-checkpoints", "9"
            run_recipe("image_mae", data, out / f"half-{way}", *half, steps=4)

    run_in(2, jobs, logs=data.parent / "logs-more")
    return out


@pytest.mark.parametrize("name", ["image_mae", "text_bert", "audio_best_rq"])
def test_accumulation_in_two_processes(more, ranks, name):
    compare(ranks[1] / name, more / f"accumulated-{name}", more=())  # codes are counted by micro-batch


@pytest.mark.parametrize("name", CUT)
def test_cut_weights_train_as_whole_ones(more, ranks, name):
    compare(ranks[2] / name.replace(" ", "-"), more / f"fsdp-{name}")


def test_cut_weights_accumulate(more, ranks):
    compare(ranks[1] / "image_mae", more / "fsdp-accumulated")


def test_cut_weights_are_written_in_parts_without_pickle_and_exported_whole(more):
    run = more / "half-fsdp"
    files = sorted(path.name for path in (run / "checkpoints" / "step-00000002").iterdir())
    assert files == [
        "random.safetensors", "shard-00001-model-00001-of-00001.safetensors",
        "shard-00002-model-00001-of-00001.safetensors", "state.json",
    ]  # fmt: skip
    parts = [load_file(run / "checkpoints" / "step-00000002" / name) for name in files[1:3]]
    whole = load_predictor(run).state_dict()
    name = "encoder.blocks.0.attention.qkv.weight"
    assert sum(part[name].numel() for part in parts) == whole[name].numel()
    assert sum(part[f"{name}/exp_avg"].numel() for part in parts) == whole[name].numel()
    assert load_predictor(more / "half-ddp").state_dict().keys() == whole.keys()


def test_the_first_process_draws_with_cut_weights(more):
    assert [path.name for path in (more / "pictures" / "reveal").iterdir()] == ["step-00000003.png"]


def rewound(run: Path, copy: Path) -> Path:
    """The same run as it was after two of its steps."""
    import shutil

    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "checkpoints" / "latest").write_text("step-00000002\n")
    return copy


@pytest.fixture(scope="module")
def resumed(more, data) -> Path:
    """Each run of two processes, rewound and continued by one, by three, and by two in the other way."""
    out = data.parent / "resumed"
    flags = "--resume", "--keep-checkpoints", "9", "--checkpoint-every", "2"
    copies = {
        (way, count, how): rewound(more / f"half-{way}", out / f"{way}-{count}-{how}")
        for way in ("ddp", "fsdp")
        for count, how in ((1, "ddp"), (2, "ddp"), (2, "fsdp"), (3, "ddp"), (3, "fsdp"))
    }

    def jobs(count: int) -> None:
        for (_, wanted, how), copy in copies.items():
            if wanted == count:
                run_recipe("image_mae", data, copy, *flags, "--parallel", how, steps=4)

    jobs(1)
    for count in (2, 3):
        run_in(count, jobs, count, logs=data.parent / f"logs-resumed-{count}")
    return out


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("then", ["1-ddp", "2-ddp", "2-fsdp", "3-ddp", "3-fsdp"])
def test_a_checkpoint_is_continued_by_any_number_in_either_way(resumed, more, way, then):
    compare(more / "half-ddp", resumed / f"{way}-{then}")


def test_two_processes_resume_bit_exactly(resumed, more):
    for way in ("ddp", "fsdp"):
        whole, again = (load_predictor(run).state_dict() for run in (more / f"half-{way}", resumed / f"{way}-2-{way}"))
        assert all(torch.equal(whole[name], again[name]) for name in whole)
