"""`convert official.ckpt -o out.npz` against the script that people write: torch.load, `.T`, np.savez."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.side_by_side import folder, report, run_in_turn

_MAKE = """
import sys, torch, kornia
torch.manual_seed(0)
state = kornia.feature.LoFTR(pretrained=None).state_dict()
torch.save({"state_dict": {"matcher." + key: value for key, value in state.items()}}, sys.argv[1])
"""

_SCRIPT = """
import sys, numpy as np, torch
state = torch.load(sys.argv[1])["state_dict"]
np.savez(sys.argv[2], **{k: v.numpy().T if v.ndim > 1 else v.numpy() for k, v in state.items()})
"""

_FLOOR = """
import sys, numpy as np
data = np.fromfile(sys.argv[1], np.float32, count=11_534_336).reshape(-1, 256, 256)
np.savez(sys.argv[2], **{str(n): part.T for n, part in enumerate(data)})
"""


def official() -> Path:
    """A checkpoint in the official layout at full size (211 tensors, 46 MB), with random weights."""
    path = folder() / "official.ckpt"
    if not path.exists():
        subprocess.run([sys.executable, "-c", _MAKE, str(path)], check=True)
    return path


def run() -> None:
    """Measures and prints."""
    source, here = str(official()), folder()
    outputs = [here / f"{name}.npz" for name in ("script", "ours", "floor")]
    program = [str(Path(sys.executable).with_name("loftr2flax"))]
    python = [sys.executable, "-c"]
    print("converting a full-size LoFTR checkpoint (211 tensors, 46 MB) to .npz")
    report(
        run_in_turn(
            {
                "script": [*python, _SCRIPT, source, str(outputs[0])],
                "loftr2flax": [*program, "convert", source, "-o", str(outputs[1])],
                "numpy alone": [*python, _FLOOR, source, str(outputs[2])],
            },
            outputs=outputs,
        ),
        against="script",
    )
    print("starting up")
    report(
        run_in_turn(
            {
                "import torch": [*python, "import torch"],
                "loftr2flax --help": [*program, "--help"],
                "loftr2flax inspect": [*program, "inspect", source],
            }
        ),
        against="import torch",
    )
