"""`diff` of two checkpoints of 2 GiB against the script that people write: torch.load of both, and torch.equal."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.side_by_side import folder, report, run_in_turn

_MAKE = """
import shutil, sys, torch
torch.manual_seed(0)
state = {f"layers.{n}.weight": torch.randn(4096, 4096) for n in range(32)}
torch.save(state, sys.argv[1])
shutil.copyfile(sys.argv[1], sys.argv[2])
state["layers.17.weight"][5, 7] += 1e-3
torch.save(state, sys.argv[3])
"""

_SCRIPT = """
import sys, torch
left, right = (torch.load(path) for path in sys.argv[1:3])
assert left.keys() == right.keys()
print([key for key in left if not torch.equal(left[key], right[key])])
"""


def run() -> None:
    """Measures and prints; the files, 6 GiB, are gone afterwards."""
    program = str(Path(sys.executable).with_name("loftr2flax"))
    with tempfile.TemporaryDirectory(dir=folder()) as place:
        one, same, other = (str(Path(place) / f"{name}.ckpt") for name in ("one", "same", "other"))
        subprocess.run([sys.executable, "-c", _MAKE, one, same, other], check=True)
        for title, second in (("equal", same), ("equal but for one number", other)):
            print(f"two checkpoints of 2 GiB (32 tensors), {title}")
            programs = {
                "script": [sys.executable, "-c", _SCRIPT, one, second],
                "loftr2flax diff": [program, "diff", "--exit-zero", one, second],
            }
            report(run_in_turn(programs), against="script")
