"""The run folder: what a recipe writes and everything else reads."""

import dataclasses
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmssl.config import from_dict, read_json, to_dict
from mmssl.errors import UserError
from mmssl.predictors.base import Predictor
from mmssl.terminal import tell
from mmssl.training.checkpoint import Checkpoints, replace_file
from mmssl.training.config import SPEED_ONLY, RunConfig
from mmssl.training.distributed import (
    barrier,
    begun_before,
    is_main,
    launch_id,
    main_first,
    rank_count,
    rank_device,
    same_everywhere,
)
from mmssl.training.lock import Lock

C = TypeVar("C", bound=RunConfig)
P = TypeVar("P")


def parse_flags(config_class: type[C], arguments: Sequence[str] | None = None) -> C:
    """Command line to config. With ``--resume``, flags not given are those of the run in ``--out``.

    Processes that torchrun starts again, after they had begun a run, resume it without being told.

    Raises UserError where that run was made by a recipe with other flags.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    default: Any = tyro.MISSING_NONPROP
    out = _value_of("--out", arguments)
    if out and begun_before(Path(out) / "config.json") and "--resume" not in arguments:
        arguments.append("--resume")
    if "--resume" in arguments and out and (Path(out) / "config.json").is_file():
        saved = read_json(Path(out) / "config.json")
        try:
            default = from_dict(config_class, saved.get("config", {}), f"{out}/config.json")
        except UserError as error:
            name = saved.get("predictor", {}).get("predictor", "no predictor")
            raise UserError(
                f"{out} holds a run of another recipe, with a {name} ({error}): resume it with that recipe, or correct "
                "--out"
            ) from None
    with main_first():
        config = tyro.cli(config_class, args=arguments, default=default, description=config_class.__doc__)
    return dataclasses.replace(config, out=Path(config.out))


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None


class RunFolder:
    """Paths of a run, and the guard against continuing a different one.

    runs/NAME/config.json, journal.jsonl, checkpoints/, model/, reveal/, skipped.jsonl
    """

    def __init__(self, path: str | Path, keep_checkpoints: int = 2) -> None:
        self.path = Path(path)
        self.checkpoints = Checkpoints(self.path / "checkpoints", keep_checkpoints)
        self._lock: Lock | None = None

    @property
    def config_file(self) -> Path:
        """Everything resolved."""
        return self.path / "config.json"

    @property
    def journal_file(self) -> Path:
        """One line a log step."""
        return self.path / "journal.jsonl"

    @property
    def model(self) -> Path:
        """Weights and config of the newest checkpoint."""
        return self.path / "model"

    @property
    def reveal(self) -> Path:
        """Pictures."""
        return self.path / "reveal"

    def saved_predictor(self, config_class: type[P]) -> P:
        """Config of the predictor that this run trains."""
        saved = dict(read_json(self.config_file)["predictor"])
        saved.pop("predictor", None)
        return from_dict(config_class, saved, str(self.config_file))

    def hold(self) -> None:
        """Become the only writer, see :mod:`mmssl.training.lock`; of several processes the first is it for all.

        Raises UserError where another process is.
        """
        if self._lock is None and is_main():
            self._lock = Lock(self.path)

    def release(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self, resume: bool) -> Path | None:
        """Before any data is read: the checkpoint to resume from, or None. From now on nobody else may write.

        Raises UserError where ``path`` is a file, where a run is there already and ``resume`` was not asked for, where
        there is nothing to resume, or where another process writes there.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"--out {self.path} is a file: choose a folder, which is made if missing")
        newest = self.checkpoints.latest()
        if newest is not None and not resume:
            raise UserError(f"{self.path} already holds a run: add --resume to continue it, or choose another --out")
        if newest is None and resume and not self.config_file.is_file():
            raise UserError(f"{self.path} holds no run to resume: leave out --resume, or correct --out")
        if self.path.is_dir():
            self.hold()
        return newest

    def start(self, config: RunConfig, predictor: dict[str, Any], data: dict[str, Any]) -> Path | None:
        """Open the folder for a new run, or for resuming; returns the checkpoint to resume from. Of several processes
        the first writes, and returns with the others.

        Raises UserError for what :meth:`check` refuses, where the folder cannot be made, where processes found
        different data, or where what is learned would differ from the run that is there: the differences are listed.
        """
        same_everywhere("data set", json.dumps(_plain(data)))
        newest = self.check(config.resume)
        described = {"config": _plain(to_dict(config)), "predictor": _plain(predictor), "data": _plain(data)}
        if newest is not None:
            differences = _differences(read_json(self.config_file), described)
            if differences:
                self.release()
                raise UserError(
                    f"--resume would continue another task than the run in {self.path}:\n  "
                    + "\n  ".join(differences)
                    + "\ngive the same settings, or choose another --out"
                )
        if is_main():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"--out {self.path} cannot be made ({error.strerror}): choose another folder") from None
            self.hold()
            described |= {"command": shlex.join(sys.argv), "versions": _versions(), "git": _git_state()}
            if launch_id():
                described |= {"launch": launch_id()}
            replace_file(self.config_file, json.dumps(described, indent=2) + "\n")
        barrier()
        return newest


def _plain(data: Any) -> Any:
    return json.loads(json.dumps(data, default=str))


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    lines = []
    for part in ("config", "predictor", "data"):
        old, new = _flatten(saved.get(part, {})), _flatten(now[part])
        for key in sorted(old.keys() | new.keys()):
            if part == "config" and key in SPEED_ONLY:
                continue
            if old.get(key) != new.get(key):
                lines.append(f"{part} {key}: was {old.get(key)!r}, now {new.get(key)!r}")
    return lines


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _versions() -> dict[str, str]:
    from mmssl import __version__

    return {"mmssl": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _git_state() -> dict[str, Any] | None:
    """Commit of the source that ran, and whether it had changes; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def choose_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else CPU; of several processes each has a GPU of its own.

    Raises UserError for a device that is not there.
    """
    name = rank_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used here ({reason}): try --device auto") from None
    return device


def say_start(
    config: RunConfig,
    predictor: Predictor,
    data: dict[str, Any],
    device: torch.device,
    sample: str = "samples",
    epoch: float | None = None,
    size: str | None = None,
) -> None:
    """Print what is about to run, everything that was chosen for the user included.

    ``sample`` is what the batch size counts, and ``epoch`` how many of them the data has, where these are not simply
    the samples; ``size`` is what the model is called where that is not the preset.
    """
    parameters = sum(parameter.numel() for parameter in predictor.parameters())
    size = size or config.preset
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    if device.type == "cpu":
        where = f"CPU with {torch.get_num_threads()} threads"
    if rank_count() > 1:
        where = f"{rank_count()} x {where} ({config.parallel})"
    epochs = config.steps * config.batch_size / max(1, epoch or data["train"])
    tell(f"data       {data['train']:,} for training, {data['val']:,} for validation ({config.data})")
    tell(f"model      {predictor.name}, {size}, {parameters / 1e6:.1f} million parameters, on {where}")
    tell(
        f"steps      {config.steps} of {config.batch_size} {sample} (effective batch; micro-batches of "
        f"{config.micro_batch_size / rank_count():g}), {epochs:.1f} epochs"
    )
    tell(f"rate       {config.learning_rate:.3g} at its peak, {config.warmup} steps of warm-up, then cosine to 0")
    if config.precision == "auto" and device.type == "cpu" and cpu_has_bf16():
        tell("note       this CPU also computes in bf16: --precision bf16 trains up to 1.7 times as fast")
    tell(f"run        {config.out}")


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies matrices in bf16, by AVX512-BF16 or AMX; others emulate it, slowly."""
    find = getattr(torch.cpu, "get_capabilities", dict)  # not in every torch that we support
    found = find()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
