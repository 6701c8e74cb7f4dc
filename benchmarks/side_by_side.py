"""Runs programs in turn and compares the best of their times: what disturbs one disturbs the other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Command = Sequence[str]


@dataclass(frozen=True)
class Measure:
    """A program's best and middle wall time in seconds, and its highest peak memory in MB (10^6 bytes)."""

    best: float
    middle: float
    peak: float


def run_in_turn(programs: Mapping[str, Command], runs: int = 9, outputs: Sequence[Path] = ()) -> dict[str, Measure]:
    """Measures each program ``runs`` times, in turn, after one run of each that does not count.

    ``outputs`` are removed before each run, so that every one writes a new file.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    peaks = dict.fromkeys(programs, 0.0)
    for round_number in range(runs + 1):
        for name, command in programs.items():
            for path in outputs:
                path.unlink(missing_ok=True)
            seconds, peak = _run(command)
            if round_number:
                times[name].append(seconds)
                peaks[name] = max(peaks[name], peak)
    return {name: Measure(min(t), sorted(t)[len(t) // 2], peaks[name]) for name, t in times.items()}


def _run(command: Command) -> tuple[float, float]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as talk:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=talk, stderr=talk, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            talk.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{talk.read().decode()}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def report(measures: Mapping[str, Measure], against: str) -> None:
    """Prints a table; ``against`` is the program that the ratios are of."""
    width = max(map(len, measures))
    for name, m in measures.items():
        ratio = f"{measures[against].middle / m.middle:5.2f} times as fast as {against}"
        print(f"  {name:{width}}  {m.best:6.3f} s best  {m.middle:6.3f} s middle  {m.peak:6.0f} MB  {ratio}")


def folder() -> Path:
    """Where the benchmarks keep their files, outside version control."""
    path = Path(__file__).resolve().parent.parent / ".bench"
    path.mkdir(exist_ok=True)
    return path
