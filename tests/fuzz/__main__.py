"""``make fuzz``: every target in turn, coverage-guided, for the seconds asked for; a table at the end.

What crashes, hangs or is read wrongly is kept in ``tests/fuzz/corpus/TARGET/``, where the tests try it ever after.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS

_HANG, _MEMORY = 30, 2048  # seconds for one input, tracing included; MiB for one process, torch and jax included


def main() -> int:
    """Run the targets; 1 if one of them found something."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=3600, help="in all, shared by the targets")
    parser.add_argument("--inputs", type=Path, help="a folder that keeps what reached new code, for the next run")
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)}")
    options = parser.parse_args()
    print(f"{'target':12} {'seconds':>8} {'executions':>11} {'a second':>9} {'crashes':>8} {'hangs':>6}", flush=True)
    sums = [0, 0, 0, 0]
    for name in options.targets:
        with tempfile.TemporaryDirectory() as scratch:
            inputs = options.inputs / name if options.inputs else Path(scratch)
            row = _fuzz(name, inputs, options.seconds // len(options.targets))
        sums = [total + value for total, value in zip(sums, row, strict=True)]
        _show(name, row)
    _show("in all", sums)
    return int(sums[2] + sums[3] > 0)


def _show(name: str, row: list[int]) -> None:
    seconds, executions, crashes, hangs = row
    print(f"{name:12} {seconds:8} {executions:11,} {executions // max(seconds, 1):9} {crashes:8} {hangs:6}", flush=True)


def _fuzz(name: str, inputs: Path, seconds: int) -> list[int]:
    """Seconds, executions, crashes and hangs of one target."""
    inputs.mkdir(parents=True, exist_ok=True)
    found = CORPUS / name
    found.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[name].seeds():
        (inputs / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    began, executions, crashes, hangs = time.monotonic(), 0, 0, 0
    while (left := seconds - int(time.monotonic() - began)) > 0 and crashes + hangs < 10:
        words = [
            sys.executable, "-m", "fuzz.one", name, f"-max_total_time={left}", f"-timeout={_HANG}",
            f"-rss_limit_mb={_MEMORY}", "-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={found}/",
            str(inputs),
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        counted = re.search(r"number_of_executed_units: (\d+)", done.stderr)
        executions += int(counted[1]) if counted else 0
        if done.returncode == 0:
            break
        hangs += "ERROR: libFuzzer: timeout" in done.stderr
        crashes += "ERROR: libFuzzer: timeout" not in done.stderr
        print(done.stderr[-3000:], file=sys.stderr, flush=True)
    return [int(time.monotonic() - began), executions, crashes, hangs]


if __name__ == "__main__":
    raise SystemExit(main())
