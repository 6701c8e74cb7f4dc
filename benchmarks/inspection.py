"""`inspect` on files that are large, and on one of many tensors: time beside `import torch`, and peak memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.side_by_side import folder, report, run_in_turn

_MAKE = """
import sys, torch
path, count, *shape = sys.argv[1], *map(int, sys.argv[2:])
torch.save({f"layers.{n}.weight": torch.zeros(shape) for n in range(count)}, path)
"""
"""Zeros are data as others are: the file is as large, and its headers are the same."""


def run() -> None:
    """Measures and prints; the files go with their folder."""
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        here = Path(place)
        large, many = here / "large.pt", here / "many.pt"
        _make(large, 32, 4096, 4096)
        _make(many, 100_000, 4, 5)
        program = [str(Path(sys.executable).with_name("loftr2flax")), "inspect"]
        print(f"inspect of {large.stat().st_size / 2**30:.2f} GiB (32 tensors), and of 100,000 tensors of 4×5")
        measures = run_in_turn(
            {
                "import torch": [sys.executable, "-c", "import torch"],
                "inspect 2 GiB": [*program, str(large)],
                "inspect 2 GiB --where --json": [*program, str(large), "--where", "--json"],
                "inspect 100,000 tensors": [*program, str(many)],
            },
            runs=5,
        )
        report(measures, against="import torch")
        print(f"  the time of import torch: {measures['inspect 2 GiB'].middle / measures['import torch'].middle:.2f}")
        print("reading all of 2 GiB")
        reading = {option: [*program, str(large), option] for option in ("--stats", "--hash")}
        report(run_in_turn({"sha256sum": ["sha256sum", str(large)], **reading}, runs=3), against="sha256sum")


def _make(path: Path, count: int, *shape: int) -> None:
    subprocess.run([sys.executable, "-c", _MAKE, str(path), str(count), *map(str, shape)], check=True)
