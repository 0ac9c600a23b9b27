"""How a model is handed over: written beside its place, loaded and compared there, and only then moved to it."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmssl.errors import UserError
from mmssl.interchange.parity import TOLERANCE, largest
from mmssl.interchange.weights import Weights
from mmssl.terminal import tell

Report = dict[str, Any]
"""What was written, for which library, and how closely it computes there what it computes here."""


def check_empty(out: Path) -> None:
    """Raises UserError where something is at ``out`` already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: choose another --out, nothing is overwritten")


def hand_over(run: str | Path, out: Path, write: Callable[[Path], Report], tolerance: float) -> Report:
    """Let ``write`` fill a folder and compare it; it appears at ``out`` where the differences allow, else not at all.

    Raises UserError where a difference exceeds ``tolerance`` or is not a number.
    """
    final = out.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        staged.chmod(0o755)
        report = write(staged)
        if not report["max_difference"] <= tolerance:
            raise UserError(
                f"the {report['format']} made from {run} differs from it by {report['max_difference']:.1e}, more than "
                f"{tolerance:.0e}, so {out} was not written: report this with {report['differences']}"
            )
        write_json(staged / "parity.json", report)
        if final.exists():
            final.rmdir()
        staged.rename(final)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    _say(report)
    return report


def _say(report: Mapping[str, Any]) -> None:
    parts = ", ".join(f"{name} {value:.1e}" for name, value in report["differences"].items())
    tell(f"{report['out']}: {report['format']} for {report['library']}")
    tell(f"reloaded and compared: largest difference {report['max_difference']:.1e} (limit {TOLERANCE:.0e}; {parts})")
    if report["note"]:
        tell(f"note: {report['note']}")
    tell("load it with:\n" + "\n".join(f"    {line}" for line in report["load"]))


def report_of(
    report_format: str, library: str, out: Path, differences: dict[str, float], load: list[str], note: str
) -> Report:
    """``load``: lines of Python that load it."""
    return {
        "format": report_format,
        "library": library,
        "out": str(out),
        "max_difference": largest(differences),
        "differences": differences,
        "tolerance": TOLERANCE,
        "load": load,
        "note": note,
    }


def write_json(file: Path, data: Mapping[str, Any]) -> None:
    """As people and git like it: indented, with a newline at its end."""
    file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def save_weights(weights: Weights, folder: Path) -> None:
    """``model.safetensors``. Raises UserError where the disk is full."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    try:
        # transformers refuses files that do not say whose tensors they hold
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise UserError(
            f"{folder.parent} cannot take the weights ({error}): free some space or choose another --out"
        ) from None
