"""Damaged files of every family through the readers that users call: a result that was promised, or a UserError.

No other exception, no hang, no more memory than allowed. Each case is drawn from its family and its number, so
``MMSSL_FUZZ_FIRST=1234 MMSSL_FUZZ_CASES=1 pytest tests/fuzz/test_fuzz.py -k image.png`` is that case again.
``make soak`` runs thousands of each (``MMSSL_FUZZ_CASES``); ``MMSSL_FUZZ_LOG`` names a file that gets a line with the
outcome.
"""

import json
import mmap
import os
import random
import resource
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from children import fork
from families import FAMILIES, Family

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="limits and processor time as Linux has them"
)

CASES = int(os.environ.get("MMSSL_FUZZ_CASES", "100"))
FIRST = int(os.environ.get("MMSSL_FUZZ_FIRST", "0"))
SECONDS = 15.0
"""Processor time that one case may take; ten times that by the clock."""
MEMORY = 2 * 2**30
"""Bytes of address space beyond what the process has at its beginning."""


def run_cases(family: Family, folder: Path, first: int, count: int, place: mmap.mmap) -> None:
    """In the child: cases one after the other; where it is stands in shared memory."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    seeds = family.seeds(folder)
    assert all(map(bool, seeds))
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + MEMORY, own + MEMORY))
    file = folder / "case" / family.name
    file.parent.mkdir(exist_ok=True)
    for number in range(first, first + count):
        draw = random.Random(f"{family.name} {number}")
        file.write_bytes(family.spoil(seeds, draw))
        struct.pack_into("qq", place, 0, number, struct.unpack_from("q", place, 8)[0])
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # whoever hangs is killed by it
        read = family.read(file)
        signal.setitimer(signal.ITIMER_PROF, 0)
        struct.pack_into("q", place, 8, struct.unpack_from("q", place, 8)[0] + read)


def in_child(family: Family, folder: Path, first: int, count: int) -> tuple[int, int, int, str]:
    """Exit code, number of the last case, cases that gave a result, and what was said."""
    place = mmap.mmap(-1, 16)
    errors = folder / "errors"
    pid = fork(lambda: run_cases(family, folder, first, count, place), errors)
    status, last, since = None, -1, time.monotonic()
    while status is None:
        done, found = os.waitpid(pid, os.WNOHANG)
        status = found if done else None
        now = struct.unpack_from("q", place, 0)[0]
        if now != last:
            last, since = now, time.monotonic()
        if status is None and time.monotonic() - since > 10 * SECONDS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    number, read = struct.unpack("qq", place[:16])
    return os.waitstatus_to_exitcode(status), number, read, errors.read_text(errors="replace")[-3000:]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_result_or_a_sentence(family: Family, tmp_path: Path) -> None:
    for package in {"sound": ["soundfile", "av"], "video": ["av"], "text.parquet": ["pyarrow"]}.get(
        family.name if family.name == "text.parquet" else family.name.split(".")[0], []
    ):
        pytest.importorskip(package)
    began = time.process_time() + sum(os.times()[2:4])
    first, left, read, findings = FIRST, CASES, 0, []
    while left > 0:
        code, number, more, said = in_child(family, tmp_path, first, left)
        read += more
        if code == 0:
            break
        how = "hung" if code in (-signal.SIGPROF, -signal.SIGKILL) else f"signal {-code}" if code < 0 else "raised"
        findings.append(f"case {number} of {family.name} {how}:\n{said}")
        left -= number + 1 - first
        first = number + 1
        if len(findings) >= 5:
            break
    took = time.process_time() + sum(os.times()[2:4]) - began
    if log := os.environ.get("MMSSL_FUZZ_LOG"):
        row = {"family": family.name, "cases": CASES, "read": read, "findings": len(findings), "cpu": round(took, 1)}
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
    assert not findings, "\n\n".join(findings)
